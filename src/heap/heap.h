/* heap: routes a request by its size over the three allocators, and knows the threads that use it.
 *
 * Call map (malloc and free enter here through api/malloc.c, which holds the hit path):
 *
 *   malloc ─hit─► pop                        free ─hit─► push
 *      └─► heap_alloc ─► thread_cache_take      └─► heap_free ─► thread_cache_put
 *              │           └─► fsa_refill              │           └─► fsa_return
 *              ├─► medium_cache_take                   ├─► medium_cache_put
 *              │     └─► medium_alloc                  │     └─► medium_free
 *              └─► large_alloc                         └─► large_free
 *
 * A thread has one thread_cache per heap that it uses, found by the heap's number in the thread's table; the process
 * heap's also stands in a thread-local pointer. A thread that has none yet points to an empty one, so that its first
 * call leaves the hit path like any other miss. A thread whose caches were torn down (its destructors run, glibc still
 * frees) works without one. Threads are told apart by pthread keys, the only thread service used.
 *
 * Locks: the registry's (heaps, threads and caches that exist), then those of the allocators. fork: heap_fork_*. */
#ifndef ACRE_HEAP_HEAP_H
#define ACRE_HEAP_HEAP_H

#include "acre/heap.h"
#include "alloc/fsa.h"
#include "alloc/large.h"
#include "alloc/medium.h"
#include "heap/options.h"
#include "heap/thread_cache.h"

enum { HEAP_COUNT_MAX = 65000, HEAP_PROCESS = 1 };

struct acre_heap {
    account account;
    fsa fsa;
    medium medium;
    large large;
    const acre_provider *provider;
    size_classes own_sizes;
    const size_classes *sizes;
    page_pool own_pool; /* used by heaps with a provider of their own, or with clear values */
    page_policy policy;
    size_t magazine_bytes_max, thread_bytes_max;
    bool (*on_over_budget)(void *context, acre_heap *heap, size_t bytes);
    void *on_over_budget_context;
    thread_cache *caches; /* LOCK_RANK_REGISTRY */
    _Atomic uint32_t cache_count; /* how many; written under the same lock */
    thread_counters gone; /* of threads that ended; LOCK_RANK_REGISTRY */
    _Atomic int64_t live_told, live_peak; /* observed mode: sum of what the threads told */
    uint16_t number;
    bool observed, fill, single_thread;
    bool dying; /* being destroyed: keeps its number, nobody visits it any more; LOCK_RANK_REGISTRY */
    char name[32];
};

/* One per thread that has used a heap. */
typedef struct thread {
    struct thread *next, *prev; /* LOCK_RANK_REGISTRY */
    uint32_t table_count;
    thread_cache **table; /* by heap number; grows */
} thread;

/* The hit path's pointer: the calling thread's cache of the process heap, or an empty one. Never NULL. */
extern ACRE_HIDDEN _Thread_local thread_cache *process_cache __attribute__((tls_model("initial-exec")));

/* The size classes of the process heap: what a class in space_page_class means. Written before the first block. */
extern ACRE_HIDDEN size_classes process_sizes;

/* The process heap, made on first use; NULL when there is not even address space for its tables. */
acre_heap *heap_process(void);
bool heap_process_exists(void);

/* align: 0 or a power of two. site may be NULL. NULL: no memory, *why is set. */
void *heap_alloc(acre_heap *heap, size_t size, size_t align, bool zero, const void *site, acre_status *why);
/* block != NULL, of any heap or none at all. */
acre_status heap_free(void *block);
/* The heap of a live block and its usable size; NULL: none starts there. */
acre_heap *heap_owner(const void *block, size_t *usable);
/* In place. */
bool heap_resize(acre_heap *heap, void *block, size_t usable, size_t size);
void *heap_realloc(acre_heap *heap, void *block, size_t size, acre_status *why);
/* Of a small block that is to hold less: is it worth moving, to give memory back? */
static inline bool heap_shrinks_enough(size_t usable, size_t size) { return size < usable / 2 && usable > 64; }
/* Ages what the allocators keep: gives back what has been free for delay_ms. effort: 1 is what an allocation may cost.
 * */
void heap_tick(acre_heap *heap, uint32_t delay_ms, uint32_t effort);
size_t heap_trim(acre_heap *heap, size_t keep_bytes);
/* The same without the calling thread's cache. */
size_t heap_trim_shared(acre_heap *heap, size_t keep_bytes);

acre_heap *heap_create(const acre_heap_options *options, acre_status *why);
void heap_destroy(acre_heap *heap);

/* The calling thread's cache of this heap; NULL: the thread is past its end, or no metadata is left. */
thread_cache *heap_thread_cache(acre_heap *heap);

/* The free pages of all heaps on flexible memory without clear values. */
page_pool *heap_shared_pool(void);
/* Calls visit for every heap, registry locked. */
void heap_for_each(void (*visit)(acre_heap *heap, void *context), void *context);

void heap_fork_prepare(void);
void heap_fork_parent(void);
void heap_fork_child(void);

#endif
