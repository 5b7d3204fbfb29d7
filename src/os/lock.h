/* lock: a mutex of four bytes that needs no set-up, sleeps in the kernel when it must, and survives fork.
 *
 * States: 0 free, 1 held, 2 held and somebody may sleep (the three-state futex mutex of Drepper, "Futexes Are Tricky").
 * It spins briefly first: critical sections here are tens of instructions. All zero bytes is an unlocked lock, so
 * zeroed metadata needs no constructor. After fork the child holds what the parent's forking thread held.
 *
 * The order in which locks may be taken, outermost first; lock ranks are checked by a test, not at run time. */
#ifndef ACRE_OS_LOCK_H
#define ACRE_OS_LOCK_H

#include <stdatomic.h>

#include "base/bits.h"
#include "os/os.h"

/* Take a lock only while holding none of a later or equal rank. fork takes them all in this order. */
enum lock_rank {
    LOCK_RANK_GPU_STREAM, /* one ring's frames; may be held during a driver call, as no hit needs it */
    LOCK_RANK_GPU,        /* one pool of GPU memory; never held during a driver call */
    LOCK_RANK_GPU_RETIRE, /* blocks that wait for the GPU */
    LOCK_RANK_INIT,       /* one-time set-up of the process heap */
    LOCK_RANK_REGISTRY,   /* heaps and thread caches that exist */
    LOCK_RANK_MEDIUM,     /* one medium allocator */
    LOCK_RANK_LARGE,      /* the large allocator's slots and tables */
    LOCK_RANK_FSA_CLASS,  /* one size class's list of pages */
    LOCK_RANK_PAGE_POOL,  /* free pages of one provider */
    LOCK_RANK_SPACE,      /* regions */
    LOCK_RANK_DIRECT,     /* pages of one memory object */
    LOCK_RANK_ARENA,      /* metadata */
};

typedef struct lock { _Atomic uint32_t word; } lock;

void lock_acquire_slow(lock *l);

static inline void lock_acquire(lock *l)
{
    uint32_t expected = 0;
    if (unlikely(!atomic_compare_exchange_strong_explicit(&l->word, &expected, 1, memory_order_acquire,
                                                          memory_order_relaxed)))
        lock_acquire_slow(l);
}

static inline bool lock_try(lock *l)
{
    uint32_t expected = 0;
    return atomic_compare_exchange_strong_explicit(&l->word, &expected, 1, memory_order_acquire, memory_order_relaxed);
}

static inline void lock_release(lock *l)
{
    if (unlikely(atomic_exchange_explicit(&l->word, 0, memory_order_release) == 2))
        os_wake_one((const uint32_t *)(const void *)&l->word);
}

/* In the child of a fork: whoever held or waited for it is gone. */
static inline void lock_reset(lock *l) { atomic_store_explicit(&l->word, 0, memory_order_relaxed); }

#endif
