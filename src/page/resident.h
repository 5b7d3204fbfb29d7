/* resident: how much memory acre has behind its addresses, roughly, and whether that is more than ever.
 *
 * Counted in the pieces that come and go at once: pages of the pool, 64 KiB pieces of the medium allocator, OS pages
 * given back from holes. A piece that was handed out counts as touched. The figure steers one thing: when it passes its
 * highest mark, memory is really growing, and whoever made it grow looks for some that can go (heap/heap.c). Memory
 * that is faulted in again after it was given back does not pass the mark, so giving back never feeds on itself.
 *
 * Two words for the whole process, relaxed: nothing is published through them. */
#ifndef ACRE_PAGE_RESIDENT_H
#define ACRE_PAGE_RESIDENT_H

#include <stdatomic.h>

#include "base/bits.h"

extern ACRE_HIDDEN _Atomic size_t resident_bytes, resident_mark;

static inline void resident_add(size_t bytes)
{
    atomic_fetch_add_explicit(&resident_bytes, bytes, memory_order_relaxed);
}
static inline void resident_sub(size_t bytes)
{
    atomic_fetch_sub_explicit(&resident_bytes, bytes, memory_order_relaxed);
}
/* True once for each `step` that the figure rises above its mark. */
static inline bool resident_grew(size_t step)
{
    size_t now = atomic_load_explicit(&resident_bytes, memory_order_relaxed);
    size_t mark = atomic_load_explicit(&resident_mark, memory_order_relaxed);
    if (likely(now < mark + step || now > SIZE_MAX / 2)) return false;
    return atomic_compare_exchange_strong_explicit(&resident_mark, &mark, now, memory_order_relaxed,
                                                   memory_order_relaxed);
}

#endif
