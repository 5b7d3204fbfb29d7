/* observed: see observed.h. */
#include "heap/observed.h"

#include <string.h>

#include "page/fill.h"

/* Bytes that a thread may be ahead of what it told the heap; the peak is exact to that much per thread. */
enum { TELL_BYTES = 64 * 1024 };

static void tell(acre_heap *heap, thread_counters *n, int64_t bytes)
{
    n->live_bytes += bytes;
    int64_t ahead = n->live_bytes - n->live_bytes_told;
    if (ahead < TELL_BYTES && ahead > -TELL_BYTES) return;
    n->live_bytes_told = n->live_bytes;
    int64_t live = atomic_fetch_add_explicit(&heap->live_told, ahead, memory_order_relaxed) + ahead;
    int64_t peak = atomic_load_explicit(&heap->live_peak, memory_order_relaxed);
    while (live > peak && !atomic_compare_exchange_weak_explicit(&heap->live_peak, &peak, live, memory_order_relaxed,
                                                                 memory_order_relaxed)) {}
}

static acre_allocator allocator_of(const void *block, size_t usable)
{
    if (!space_contains(block)) return ACRE_ALLOCATOR_UNSLOTTED;
    region_kind kind = region_kind_of(region_of(block));
    if (kind == REGION_FSA) return usable <= FSA_VERY_SMALL_MAX ? ACRE_ALLOCATOR_VERY_SMALL : ACRE_ALLOCATOR_SMALL;
    return kind == REGION_MEDIUM ? ACRE_ALLOCATOR_MEDIUM : ACRE_ALLOCATOR_LARGE;
}

void observed_alloc(acre_heap *heap, thread_cache *tc, void *block, size_t usable, bool zeroed)
{
    if (tc) {
        tc->counters.allocs[allocator_of(block, usable)]++;
        tell(heap, &tc->counters, (int64_t)usable);
    }
    bool direct = provider_can(heap->provider, ACRE_IS_DIRECT);
    if (heap->fill && !zeroed) memset(block, direct ? FILL_DIRECT_ALLOCATED : FILL_FLEXIBLE_ALLOCATED, usable);
}

static bool in_magazine(const thread_cache *tc, const void *block)
{
    uint32_t c = atomic_load_explicit(&fsa_record(page_number(block))->class_, memory_order_relaxed);
    for (void **slot = tc->real->bottom[c]; slot < tc->real->top[c]; slot++)
        if (*slot == block) return true;
    return false;
}

bool observed_free(acre_heap *heap, thread_cache *tc, void *block, size_t usable)
{
    if (heap->fill) {
        if (tc && space_contains(block) && region_kind_of(region_of(block)) == REGION_FSA && in_magazine(tc, block))
            return false;
        memset(block, provider_can(heap->provider, ACRE_IS_DIRECT) ? FILL_DIRECT_FREE : FILL_FLEXIBLE_FREE, usable);
    }
    if (tc) {
        tc->counters.frees[allocator_of(block, usable)]++;
        tell(heap, &tc->counters, -(int64_t)usable);
    }
    return true;
}

void observed_resize(acre_heap *heap, thread_cache *tc, size_t before, size_t after)
{
    if (tc) tell(heap, &tc->counters, (int64_t)after - (int64_t)before);
}
