/* account: how many bytes a heap has taken from the layers beneath it, and how many it may.
 *
 * Charged before memory is taken, credited after it is given back; the three allocators of a heap share one. A budget
 * is a hard limit: a charge that would pass it changes nothing. Thread-safe, lock-free; relaxed order is enough since
 * nothing else is published through the counter. */
#ifndef ACRE_ALLOC_ACCOUNT_H
#define ACRE_ALLOC_ACCOUNT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct account {
    _Atomic size_t bytes;
    _Atomic size_t peak;
    _Atomic size_t budget; /* 0 = none; may be changed at any time */
    _Atomic uint32_t refused; /* charges that would have passed it, ever: tells why an allocation failed */
} account;

static inline bool account_charge(account *a, size_t bytes)
{
    size_t before = atomic_fetch_add_explicit(&a->bytes, bytes, memory_order_relaxed);
    size_t budget = atomic_load_explicit(&a->budget, memory_order_relaxed);
    if (budget && before + bytes > budget) {
        atomic_fetch_sub_explicit(&a->bytes, bytes, memory_order_relaxed);
        atomic_fetch_add_explicit(&a->refused, 1, memory_order_relaxed);
        return false;
    }
    size_t peak = atomic_load_explicit(&a->peak, memory_order_relaxed);
    while (before + bytes > peak &&
           !atomic_compare_exchange_weak_explicit(&a->peak, &peak, before + bytes, memory_order_relaxed,
                                                  memory_order_relaxed)) {}
    return true;
}

static inline void account_credit(account *a, size_t bytes)
{
    atomic_fetch_sub_explicit(&a->bytes, bytes, memory_order_relaxed);
}

static inline bool account_has_room(const account *a, size_t bytes)
{
    size_t budget = atomic_load_explicit(&a->budget, memory_order_relaxed);
    return budget == 0 || atomic_load_explicit(&a->bytes, memory_order_relaxed) + bytes <= budget;
}

#endif
