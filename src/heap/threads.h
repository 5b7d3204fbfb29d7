/* threads: which threads exist, which caches they have, and what happens when they end.
 *
 * A thread is known from its first miss on. Its end is told by a pthread key; what it held goes back to the heaps.
 * Other destructors may still allocate after that: such a thread works without caches. In the child of a fork the
 * threads of
 * the parent are gone without notice; their caches are given back there, except those whose owner was inside of a slow
 * path at the moment of the fork, which are abandoned (their state may be half-way). */
#ifndef ACRE_HEAP_THREADS_H
#define ACRE_HEAP_THREADS_H

#include "heap/heap.h"

bool threads_init(void);
void threads_lock(void); /* LOCK_RANK_REGISTRY */
void threads_unlock(void);
/* All caches of the heap vanish, and the blocks in them with the heap. Registry locked; no concurrent use of it. */
void threads_drop_caches(acre_heap *heap);
/* Gives back what the calling thread keeps, of one heap (it may have nothing) or of all (NULL). */
void threads_flush_own(acre_heap *heap);
/* The calling thread's cache of the heap if it has one already. */
thread_cache *threads_cache_if_any(const acre_heap *heap);
void threads_reset_in_child(void);
void threads_adopt_in_child(void);

/* The slow paths lie between these two. tc may be NULL. */
static inline void threads_enter(thread_cache *tc)
{
    if (!tc) return;
    uint32_t depth = atomic_load_explicit(&tc->busy, memory_order_relaxed);
    atomic_store_explicit(&tc->busy, depth + 1, memory_order_release);
}
static inline void threads_leave(thread_cache *tc)
{
    if (!tc) return;
    uint32_t depth = atomic_load_explicit(&tc->busy, memory_order_relaxed);
    atomic_store_explicit(&tc->busy, depth - 1, memory_order_release);
}

#endif
