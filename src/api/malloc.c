/* malloc: the drop-in. What C, POSIX and glibc call by these names, served by the process heap.
 *
 *   malloc ─ size <= 4 KiB ─ class_of ─ magazine not empty ─► pop                       (14 instructions on x86-64)
 *      └───────────────────────────────────────────────────► allocate_slow
 *   free ─ inside of the space ─ page_class ─ magazine not full ─► push                 (16)
 *      └───────────────────────────────────────────────────────► free_slow
 *
 * The hit path takes no lock, does nothing atomic and does not touch the block; heap/thread_cache.h says why everything
 * else leaves it through one compare. Rules kept here: malloc(0) is a block; errno is ENOMEM on failure, left alone by
 * free and by success; alignments are checked as each standard asks; multiplication is checked. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "acre/status.h"
#include "api/start.h"
#include "heap/heap.h"
#include "os/misuse.h"
#include "os/os.h"

__attribute__((used)) static const char *const started_by = &start_anchor;

/* Names that C23 and glibc have and that older headers lack. */
ACRE_API void free_sized(void *block, size_t size);
ACRE_API void free_aligned_sized(void *block, size_t align, size_t size);
ACRE_API void cfree(void *block);

static ACRE_NOINLINE void *allocate_slow(size_t size, size_t align, bool zero)
{
    acre_status why;
    acre_heap *h = heap_process();
    void *block = h ? heap_alloc(h, size, align, zero, NULL, &why) : NULL;
    if (unlikely(!block)) errno = ENOMEM;
    return block;
}

static ACRE_NOINLINE void *malloc_miss(size_t size) { return allocate_slow(size, 0, false); }

static ACRE_NOINLINE void free_miss(void *block)
{
    if (block == NULL) return;
    acre_status status = heap_free(block);
    if (unlikely(status != ACRE_OK)) misuse(status, "free", block);
}

/* Out of the hit path, but a hit still: blocks over 4 KiB that this thread has freed lately, and bigger ones that any
 * thread has. */
static inline void *medium_hit(size_t size)
{
    thread_cache *tc = process_cache;
    bool may = size > HIT_SIZE_MAX && size <= MEDIUM_SIZE_MAX && tc->real == &tc->hit;
    if (!may) return NULL;
    return size <= tc->medium.bytes_max ? medium_cache_take(&tc->medium, size)
                                        : medium_hot_take(tc->medium_owner, medium_bin(medium_round(size)));
}

static ACRE_NOINLINE void *malloc_slow(size_t size)
{
    void *block = medium_hit(size);
    return block ? block : malloc_miss(size);
}

static ACRE_NOINLINE void free_slow(void *block)
{
    thread_cache *tc = process_cache;
    medium_range *r = medium_range_of(block);
    if (r && tc->real == &tc->hit && r->owner == tc->medium_owner) {
        size_t bytes;
        medium_handle *h = medium_live_handle(r, block, &bytes);
        if (h && medium_cache_put_hit(&tc->medium, h, bytes, block)) return;
        if (h && bytes > tc->medium.bytes_max && medium_hot_put(tc->medium_owner, h, block)) return;
    }
    free_miss(block);
}

ACRE_API void *malloc(size_t size)
{
    if (likely(size <= HIT_SIZE_MAX)) {
        thread_cache *tc = process_cache;
        uint32_t c = tc->class_of[(size + 7) >> 3];
        void **top = tc->hit.top[c];
        if (likely(top != tc->hit.bottom[c])) {
            tc->hit.top[c] = top - 1;
            return top[-1];
        }
    }
    return malloc_slow(size);
}

ACRE_API void free(void *block)
{
    size_t chunk = space_offset(block) >> CHUNK_SHIFT;
    if (likely(chunk < space_chunk_count)) {
        uint32_t c = space_page_class[chunk];
        thread_cache *tc = process_cache;
        void **top = tc->hit.top[c];
        if (likely(top != tc->hit.end[c])) {
            *top = block;
            atomic_signal_fence(memory_order_release); /* a fork in between must not find an empty slot below top */
            tc->hit.top[c] = top + 1;
            return;
        }
    }
    free_slow(block);
}

ACRE_API void *calloc(size_t count, size_t size)
{
    size_t bytes;
    if (unlikely(__builtin_mul_overflow(count, size, &bytes))) {
        errno = ENOMEM;
        return NULL;
    }
    if (bytes > HIT_SIZE_MAX) {
        void *block = medium_hit(bytes);
        return block ? memset(block, 0, bytes) : allocate_slow(bytes, 0, true);
    }
    thread_cache *tc = process_cache;
    uint32_t c = tc->class_of[(bytes + 7) >> 3];
    void **top = tc->hit.top[c];
    if (unlikely(top == tc->hit.bottom[c])) return allocate_slow(bytes, 0, true);
    tc->hit.top[c] = top - 1;
    return memset(top[-1], 0, bytes);
}

/* Is there a live block of the process heap's class c? One that is in a magazine counts as live, as in free. */
static inline bool is_live(uint32_t c, const void *block)
{
    return fsa_is_block(&process_sizes, c, block) && !fsa_is_free(&process_sizes, c, block);
}

/* From one small size to another, by way of the hit paths. */
static ACRE_NOINLINE void *realloc_small(void *block, size_t usable, size_t size)
{
    if (size <= usable && !heap_shrinks_enough(usable, size)) return block;
    int saved = errno;
    void *moved = malloc(size);
    if (unlikely(!moved)) {
        if (size > usable) return NULL;
        errno = saved;
        return block; /* it still fits */
    }
    memcpy(moved, block, usable < size ? usable : size);
    free(block);
    return moved;
}

static ACRE_NOINLINE void *realloc_miss(void *block, size_t size)
{
    size_t chunk = space_offset(block) >> CHUNK_SHIFT;
    if (size - 1 < HIT_SIZE_MAX && chunk < space_chunk_count) {
        uint32_t c = space_page_class[chunk];
        if (c != CLASS_NONE && is_live(c, block)) return realloc_small(block, process_sizes.size[c], size);
    }
    acre_status why = ACRE_OK;
    if (size == 0) { /* glibc's choice, and what programs expect: a free */
        free(block);
        return NULL;
    }
    void *moved = size <= PTRDIFF_MAX ? heap_realloc(NULL, block, size, &why) : NULL;
    if (unlikely(!moved)) {
        if (why == ACRE_FOREIGN_POINTER || why == ACRE_DOUBLE_FREE) misuse(why, "realloc", block);
        errno = ENOMEM;
    }
    return moved;
}

/* Some programs come here for every block (Lua's allocator is one realloc): the two short ways take no stack frame. */
ACRE_API void *realloc(void *block, size_t size)
{
    if (block == NULL) return malloc(size);
    size_t chunk = space_offset(block) >> CHUNK_SHIFT;
    if (size - 1 < HIT_SIZE_MAX && chunk < space_chunk_count) {
        uint32_t c = space_page_class[chunk];
        if (c != CLASS_NONE && c == process_cache->class_of[(size + 7) >> 3]) return block;
    }
    return realloc_miss(block, size);
}

ACRE_API void *reallocarray(void *block, size_t count, size_t size)
{
    size_t bytes;
    if (unlikely(__builtin_mul_overflow(count, size, &bytes))) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(block, bytes);
}

/* --- aligned ---------------------------------------------------------------------------------------------------- */

/* As malloc, with a class whose blocks are all aligned so; CLASS_NONE has an empty magazine. */
static void *allocate_aligned(size_t align, size_t size)
{
    if (size > HIT_SIZE_MAX) {
        void *block = align <= 256 ? medium_hit(size) : NULL;
        return block ? block : allocate_slow(size, align, false);
    }
    thread_cache *tc = process_cache;
    uint32_t c = size_class_aligned(&process_sizes, size, align);
    void **top = tc->hit.top[c];
    if (unlikely(top == tc->hit.bottom[c])) return allocate_slow(size, align, false);
    tc->hit.top[c] = top - 1;
    return top[-1];
}

ACRE_API int posix_memalign(void **result, size_t align, size_t size)
{
    if (!is_power_of_two(align) || align % sizeof(void *) != 0) return EINVAL;
    int saved = errno;
    void *block = allocate_aligned(align, size);
    errno = saved; /* POSIX: the error is the return value */
    if (!block) return ENOMEM;
    *result = block;
    return 0;
}

ACRE_API void *aligned_alloc(size_t align, size_t size)
{
    if (!is_power_of_two(align)) {
        errno = EINVAL;
        return NULL;
    }
    return allocate_aligned(align, size);
}

/* glibc rounds an alignment that is no power of two up to one. */
ACRE_API void *memalign(size_t align, size_t size)
{
    if (align > SIZE_MAX / 2 + 1) {
        errno = EINVAL;
        return NULL;
    }
    return allocate_aligned(power_of_two_at_least(align ? align : 1), size);
}

ACRE_API void *valloc(size_t size)
{
    os_init();
    return allocate_slow(size, os_page_bytes(), false);
}

ACRE_API void *pvalloc(size_t size)
{
    os_init();
    size_t page = os_page_bytes();
    if (size > SIZE_MAX - page) {
        errno = ENOMEM;
        return NULL;
    }
    return allocate_slow(align_up(size ? size : 1, page), page, false);
}

/* --- sized frees and queries ------------------------------------------------------------------------------------- */

ACRE_API void free_sized(void *block, size_t size)
{
    (void)size;
    free(block);
}

ACRE_API void free_aligned_sized(void *block, size_t align, size_t size)
{
    (void)align, (void)size;
    free(block);
}

ACRE_API void cfree(void *block) { free(block); }

/* Some programs ask this at every allocation and free. */
ACRE_API size_t malloc_usable_size(void *block)
{
    size_t chunk = space_offset(block) >> CHUNK_SHIFT;
    uint32_t c = chunk < space_chunk_count ? space_page_class[chunk] : CLASS_NONE;
    return c != CLASS_NONE ? process_sizes.size[c] : acre_usable_size(block);
}
