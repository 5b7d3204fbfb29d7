/* acre/heap.h: heaps, the precise tool beside malloc.
 *
 * A heap hands out blocks of any size from memory of one provider: 8 B – 4 KiB from the fixed-size allocator, to 32 MiB
 * from the coalescing one, larger ones from slots of reserved address space. malloc's own heap is one of these,
 * acre_heap_process().
 *
 * Any thread may allocate from and free to any heap at any time, unless the heap was made for a single thread. Sizes
 * are bytes; alignments are powers of two, 0 = what C asks of malloc. Structs of options: zero is the default of each
 * field, so `acre_heap_options o = {0}` is a plain heap. */
#ifndef ACRE_HEAP_H
#define ACRE_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "acre/provider.h"
#include "acre/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct acre_heap acre_heap;

typedef struct acre_heap_options {
    const char *name;                /* for reports, cut at 31 characters; NULL = "heap" */
    const acre_provider *provider;   /* NULL = acre_provider_flexible() */
    size_t budget_bytes;             /* memory it may hold: 64 KiB pages of small blocks + larger blocks; 0 = any */
    /* Called without locks when an allocation would pass the budget; true = something was freed or the budget raised:
     * try once more. May allocate from other heaps, may free to this one. */
    bool (*on_over_budget)(void *context, acre_heap *heap, size_t bytes);
    void *on_over_budget_context;
    bool single_thread;              /* only its creator uses it: no lock for larger blocks; else WRONG_THREAD */
    bool fill;                       /* clear values (docs/tuning.md); needs memory that the CPU can touch */
    uint32_t small_size_max;         /* largest fixed-size block, 64 … 8192; 0 = 4096 */
    uint32_t classes_per_doubling;   /* 4 or 8; 0 = 8 */
    size_t named_align;              /* an alignment that larger blocks often have: best fit of its own; 0 = none */
    uint32_t purge_delay_ms;         /* free memory older than this goes back; 0 = 500, UINT32_MAX = never by age */
    size_t cache_bytes_max;          /* free memory kept at most, per allocator; 0 = age alone decides */
    size_t magazine_bytes_max;       /* a thread keeps at most this much of one block size; 0 = 64 KiB */
    size_t thread_bytes_max;         /* … and of larger blocks, from 256 KiB on as it needs; 0 = 2 MiB, 1 = none */
} acre_heap_options;

/* Where a block was asked for. A static one is what ACRE_HERE makes. */
typedef struct acre_site {
    const char *file;
    const char *function;
    int line;
} acre_site;
#define ACRE_HERE                                                                            \
    (__extension__({                                                                         \
        static const acre_site acre_here_ __attribute__((aligned(16))) = {__FILE__, __func__, __LINE__}; \
        &acre_here_;                                                                         \
    }))

/* INVALID_ARGUMENT (a field out of its bounds), NO_MEMORY, TOO_LARGE (65,000 heaps). 100 KiB of metadata as used. */
ACRE_API acre_status acre_heap_create(const acre_heap_options *options, acre_heap **heap);
/* Gives back all of its memory, blocks in use included; time goes with the pages, not with the blocks. No thread may
 * use the heap or its blocks meanwhile or after. INVALID_ARGUMENT for NULL and for the process heap. */
ACRE_API acre_status acre_heap_destroy(acre_heap *heap);
/* The heap of malloc. */
ACRE_API acre_heap *acre_heap_process(void);
ACRE_API const char *acre_heap_name(const acre_heap *heap);
/* 0 = none. A budget below what is in use refuses new memory until enough is freed. */
ACRE_API void acre_heap_set_budget(acre_heap *heap, size_t budget_bytes);

/* A block of at least `size` bytes; size 0 gives a block that may be freed. NULL: *why (which may be NULL) says
 * NO_MEMORY, OVER_BUDGET, INVALID_ARGUMENT (alignment), TOO_LARGE or WRONG_THREAD; errno is ENOMEM or EINVAL.
 * A hit in the thread's cache is some 20 instructions; otherwise O(log n). */
ACRE_API void *acre_heap_alloc(acre_heap *heap, size_t size, size_t align, acre_status *why);
/* The same, and the block reads zero. Memory that is known to be zero is not touched. */
ACRE_API void *acre_heap_alloc_zeroed(acre_heap *heap, size_t size, size_t align, acre_status *why);
/* The same as alloc; blocks over 4 KiB remember the site: acre_heap_alloc_at(heap, n, 0, ACRE_HERE, NULL). */
ACRE_API void *acre_heap_alloc_at(acre_heap *heap, size_t size, size_t align, const acre_site *site, acre_status *why);
/* NULL is fine. FOREIGN_POINTER, DOUBLE_FREE, WRONG_THREAD: nothing was freed. */
ACRE_API acre_status acre_heap_free(acre_heap *heap, void *block);
/* Makes the block hold `size` bytes, moving it if it must. NULL block: alloc. On failure NULL, and the block is as it
 * was. Over 4 KiB a block that is less than a quarter too large (1 MiB at most) stays as it is, and one that grows by
 * less and must be copied is copied to where it can go on growing as much: acre_heap_resize makes it fit. */
ACRE_API void *acre_heap_realloc(acre_heap *heap, void *block, size_t size, acre_status *why);
/* Makes the block hold `size` bytes where it lies. NO_MEMORY: it does not fit there; nothing has changed. Large blocks
 * grow up to the end of their slot. */
ACRE_API acre_status acre_heap_resize(acre_heap *heap, void *block, size_t size);

/* Bytes that a live block of any heap really holds; 0 for NULL and for what acre did not hand out. */
ACRE_API size_t acre_usable_size(const void *block);
/* The heap that a live block belongs to; NULL: none of acre's. */
ACRE_API acre_heap *acre_owner(const void *block);
/* Where it was asked for, if it is over 4 KiB and its caller said so; else NULL. */
ACRE_API const acre_site *acre_block_site(const void *block);

/* Gives free memory of this heap back to the system until about keep_bytes are kept, the calling thread's cache first.
 * Returns the bytes given back. O(free pages and listed pages). */
ACRE_API size_t acre_heap_trim(acre_heap *heap, size_t keep_bytes);
/* The same for all heaps. */
ACRE_API size_t acre_trim(size_t keep_bytes);
/* Ages memory: gives back what is old enough, a little at a time. For programs that are idle for long: call it from a
 * timer. Microseconds. */
ACRE_API void acre_heap_tick(acre_heap *heap);
/* Visits every live block over 4 KiB (smaller ones lie in pages whose blocks the statistics count). The heap is locked
 * meanwhile: visit must not use it. */
ACRE_API void acre_heap_visit(acre_heap *heap,
                              void (*visit)(void *context, void *block, size_t bytes, const acre_site *site),
                              void *context);
/* Looks at every structure of the heap. False: something is broken. Only while no other thread uses the heap. */
ACRE_API bool acre_heap_check(acre_heap *heap);

#ifdef __cplusplus
}
#endif
#endif
