/* thread_cache: what a thread keeps of one heap, so that most calls ask nobody.
 *
 *   class_of[ (size+7)/8 ] ─► c        bottom[c]          top[c]               end[c]
 *                                         ▼                  ▼                    ▼
 *                          magazine c:  [ p0 │ p1 │ p2 │ p3 │    │    │    │    ]
 *                                                    malloc ◄┘└► free
 *
 * A *magazine* is a stack of pointers to free blocks of one size class. malloc pops, free pushes: a load, a compare, a
 * load or store, and the store of the new top. The three pointers of all classes stand in three arrays, so that the
 * address of each is one scaled index away.
 *
 * One exit. Class 0 is no class: its magazine is empty and full at once (three null pointers), so sizes, pointers and
 * threads that need anything else leave the hit path through the compare that is there anyway. The same trick switches
 * a thread to *observed* mode (statistics, clear values): its hit arrays are all null, and the magazines that it really
 * uses are elsewhere; the hit path itself has no test for it.
 *
 * Magazines start empty and without memory, double while they miss, and are bounded by bytes; what has not been used
 * for a while is flushed (thread_cache_age). Larger blocks have a cache of their own: a few dozen, by size.
 *
 * Owned by one thread; nobody else writes to it, except after fork in the child and when the heap is destroyed. */
#ifndef ACRE_HEAP_THREAD_CACHE_H
#define ACRE_HEAP_THREAD_CACHE_H

#include "acre/stats.h"
#include "alloc/fsa.h"
#include "heap/medium_cache.h"

enum {
    MAGAZINES = CLASS_COUNT_MAX + 1,
    HIT_SIZE_MAX = FSA_SIZE_MAX_DEFAULT,
};
typedef struct magazines {
    void **top[MAGAZINES];
    void **bottom[MAGAZINES];
    void **end[MAGAZINES];
} magazines;

typedef struct thread_counters {
    uint64_t allocs[ACRE_ALLOCATOR_COUNT], frees[ACRE_ALLOCATOR_COUNT]; /* all calls, in observed mode only */
    uint64_t refills[FSA_KINDS], flushes[FSA_KINDS];                    /* of magazines */
    int64_t live_bytes, live_bytes_told; /* observed mode: what this thread allocated less what it freed */
} thread_counters;

static inline void thread_counters_add(thread_counters *sum, const thread_counters *n)
{
    for (int a = 0; a < ACRE_ALLOCATOR_COUNT; a++) {
        sum->allocs[a] += n->allocs[a];
        sum->frees[a] += n->frees[a];
    }
    for (int k = 0; k < FSA_KINDS; k++) {
        sum->refills[k] += n->refills[k];
        sum->flushes[k] += n->flushes[k];
    }
    sum->live_bytes += n->live_bytes;
}

typedef struct thread_cache {
    /* hit path */
    magazines hit;
    uint8_t class_of[HIT_SIZE_MAX / 8 + 1];
    /* the rest */
    magazines *real; /* &hit, or &shadow in observed mode */
    struct acre_heap *heap;
    struct medium *medium_owner; /* &heap->medium */
    struct thread_cache *next, *prev; /* all caches of the heap; LOCK_RANK_REGISTRY */
    struct thread *thread;
    fsa_source source[MAGAZINES];
    size_t medium_bytes_seen; /* in the cache of larger blocks at the last look */
    uint32_t drain_next;   /* class that thread_cache_drain looks at next */
    uint32_t activity[MAGAZINES]; /* what the class had done when it last looked: misses << 16 | blocks */
    uint16_t class_misses[MAGAZINES];
    uint64_t ticked_ms;    /* when this thread last aged what the heap keeps */
    uint32_t misses;       /* refills and flushes since the last ageing */
    uint64_t missed;       /* bit c: class c had one of them */
    _Atomic uint32_t busy; /* inside of a slow path: after fork the child leaves such a cache alone */
    thread_counters counters;
    medium_cache medium;
    magazines shadow;
} thread_cache;

_Static_assert(MAGAZINES <= 64, "a bit per class");

void thread_cache_init(thread_cache *tc, struct acre_heap *heap, bool observed);
/* A block of class c from the magazine, refilled as needed; NULL: no memory. */
void *thread_cache_take(thread_cache *tc, uint32_t c);
/* Puts a block of class c into the magazine, flushed or grown as needed. */
void thread_cache_put(thread_cache *tc, uint32_t c, void *block);
/* Gives everything back, and the magazines' memory. */
void thread_cache_flush(thread_cache *tc);
/* Flushes what was not needed since the last call. */
void thread_cache_age(thread_cache *tc);
/* Looks at a few classes: one that did nothing since the last look lets go of its blocks and pages. */
void thread_cache_drain(thread_cache *tc, uint32_t classes);
/* Free blocks held, per class (pending ones included), and bytes of medium blocks. Racy when it is not the caller's. */
void thread_cache_count(const thread_cache *tc, uint64_t *blocks, size_t *medium_bytes);
bool thread_cache_check(const thread_cache *tc);

#endif
