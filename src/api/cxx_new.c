/* cxx_new: C++ operator new and delete, in C, under their mangled names (Itanium C++ ABI, 64-bit size_t).
 *
 * A C library that brings these needs no C++ runtime of its own: std::get_new_handler and std::__throw_bad_alloc are
 * weak references, found when the program has libstdc++ (or libc++) in it, as every program that calls operator new
 * does. Compiled with -fexceptions, since new throws through these frames. */
#include <stdlib.h>

#include "acre/status.h"
#include "base/bits.h"
#include "os/misuse.h"
#include "os/os.h"

/* const std::nothrow_t & */
typedef const void *nothrow;
typedef void (*new_handler)(void);

__attribute__((weak)) new_handler _ZSt15get_new_handlerv(void); /* std::get_new_handler() */
__attribute__((weak)) void _ZSt17__throw_bad_allocv(void);      /* std::__throw_bad_alloc() */

ACRE_API void *_Znwm(size_t size);
ACRE_API void *_Znam(size_t size);
ACRE_API void *_ZnwmRKSt9nothrow_t(size_t size, nothrow tag);
ACRE_API void *_ZnamRKSt9nothrow_t(size_t size, nothrow tag);
ACRE_API void *_ZnwmSt11align_val_t(size_t size, size_t align);
ACRE_API void *_ZnamSt11align_val_t(size_t size, size_t align);
ACRE_API void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t size, size_t align, nothrow tag);
ACRE_API void *_ZnamSt11align_val_tRKSt9nothrow_t(size_t size, size_t align, nothrow tag);
ACRE_API void _ZdlPv(void *block);
ACRE_API void _ZdaPv(void *block);
ACRE_API void _ZdlPvm(void *block, size_t size);
ACRE_API void _ZdaPvm(void *block, size_t size);
ACRE_API void _ZdlPvRKSt9nothrow_t(void *block, nothrow tag);
ACRE_API void _ZdaPvRKSt9nothrow_t(void *block, nothrow tag);
ACRE_API void _ZdlPvSt11align_val_t(void *block, size_t align);
ACRE_API void _ZdaPvSt11align_val_t(void *block, size_t align);
ACRE_API void _ZdlPvmSt11align_val_t(void *block, size_t size, size_t align);
ACRE_API void _ZdaPvmSt11align_val_t(void *block, size_t size, size_t align);
ACRE_API void _ZdlPvSt11align_val_tRKSt9nothrow_t(void *block, size_t align, nothrow tag);
ACRE_API void _ZdaPvSt11align_val_tRKSt9nothrow_t(void *block, size_t align, nothrow tag);

/* align 0: what malloc gives */
static void *allocate(size_t size, size_t align) { return align == 0 ? malloc(size) : aligned_alloc(align, size); }

/* [new.delete.single]: while memory is short the handler is called, until there is none; then bad_alloc or null. */
static ACRE_NOINLINE void *new_slow(size_t size, size_t align, bool throws)
{
    for (;;) {
        new_handler handler = _ZSt15get_new_handlerv ? _ZSt15get_new_handlerv() : NULL;
        if (!handler) break;
        handler();
        void *block = allocate(size, align);
        if (block) return block;
    }
    if (!throws) return NULL;
    if (_ZSt17__throw_bad_allocv) _ZSt17__throw_bad_allocv();
    static const char text[] = "acre: operator new: out of memory, and no C++ runtime to throw bad_alloc\n";
    os_write(2, text, sizeof text - 1);
    os_abort();
}

static inline void *new_throwing(size_t size)
{
    void *block = malloc(size);
    return likely(block) ? block : new_slow(size, 0, true);
}

static inline void *new_aligned(size_t size, size_t align, bool throws)
{
    void *block = allocate(size, align);
    return likely(block) ? block : new_slow(size, align, throws);
}

/* A nothrow new returns null where the throwing one throws; a handler that throws itself is not caught here: C has
 * nothing to catch it with. It ends the program by std::terminate, because the caller is noexcept. */
static inline void *new_nothrow(size_t size)
{
    void *block = malloc(size);
    return likely(block) ? block : new_slow(size, 0, false);
}

void *_Znwm(size_t size) { return new_throwing(size); }
void *_Znam(size_t size) { return new_throwing(size); }
void *_ZnwmRKSt9nothrow_t(size_t size, nothrow tag) { return (void)tag, new_nothrow(size); }
void *_ZnamRKSt9nothrow_t(size_t size, nothrow tag) { return (void)tag, new_nothrow(size); }
void *_ZnwmSt11align_val_t(size_t size, size_t align) { return new_aligned(size, align, true); }
void *_ZnamSt11align_val_t(size_t size, size_t align) { return new_aligned(size, align, true); }
void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t s, size_t a, nothrow t) { return (void)t, new_aligned(s, a, false); }
void *_ZnamSt11align_val_tRKSt9nothrow_t(size_t s, size_t a, nothrow t) { return (void)t, new_aligned(s, a, false); }

void _ZdlPv(void *block) { free(block); }
void _ZdaPv(void *block) { free(block); }
void _ZdlPvm(void *block, size_t size) { (void)size, free(block); }
void _ZdaPvm(void *block, size_t size) { (void)size, free(block); }
void _ZdlPvRKSt9nothrow_t(void *block, nothrow tag) { (void)tag, free(block); }
void _ZdaPvRKSt9nothrow_t(void *block, nothrow tag) { (void)tag, free(block); }
void _ZdlPvSt11align_val_t(void *block, size_t align) { (void)align, free(block); }
void _ZdaPvSt11align_val_t(void *block, size_t align) { (void)align, free(block); }
void _ZdlPvmSt11align_val_t(void *block, size_t size, size_t align) { (void)size, (void)align, free(block); }
void _ZdaPvmSt11align_val_t(void *block, size_t size, size_t align) { (void)size, (void)align, free(block); }
void _ZdlPvSt11align_val_tRKSt9nothrow_t(void *b, size_t a, nothrow t) { (void)a, (void)t, free(b); }
void _ZdaPvSt11align_val_tRKSt9nothrow_t(void *b, size_t a, nothrow t) { (void)a, (void)t, free(b); }
