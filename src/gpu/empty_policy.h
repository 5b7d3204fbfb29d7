/* empty_policy: how much memory without a block is kept, and for how long.
 *
 * Layer 8. Plain arithmetic on a list of empties, so that Vulkan memory, CUDA pages and tests share one policy: keep by
 * bytes, by age and by budget, never "at most one". An empty is kept while
 *   - all of them together are at most bytes_max, and at most the share `live_percent` of what is live;
 *   - it has been empty for less than delay_ms;
 *   - its heap is within its budget: over it, empties go first, and at once.
 * Oldest first. What was used within the last delay_ms is never given back only to be asked for again: a phase change
 * frees and allocates within that time. */
#ifndef ACRE_GPU_EMPTY_POLICY_H
#define ACRE_GPU_EMPTY_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct empty_policy {
    uint64_t bytes_max;    /* UINT64_MAX: no bound */
    uint32_t live_percent; /* kept at most, in percent of live bytes, once older than a tenth of delay_ms */
    uint32_t delay_ms;     /* UINT32_MAX: never by age */
} empty_policy;

/* One empty: embed it. */
typedef struct empty_item {
    struct empty_item *newer, *older;
    uint64_t bytes;
    uint64_t since_ms;
} empty_item;

/* Newest at the head. The caller's lock guards it. bytes == sum of the items' bytes */
typedef struct empty_list {
    empty_item *newest, *oldest;
    uint64_t bytes;
    uint32_t count;
} empty_list;

void empty_add(empty_list *list, empty_item *item, uint64_t bytes, uint64_t now_ms);
void empty_remove(empty_list *list, empty_item *item);
/* The next to give back now, or NULL: keep the rest. over_budget: bytes by which the heap passes its budget, or that
 * somebody needs at once; 0 = none. Call until NULL; does not remove. */
empty_item *empty_excess(const empty_list *list, const empty_policy *policy, uint64_t live_bytes,
                         uint64_t over_budget_bytes, uint64_t now_ms);
/* Milliseconds until empty_excess has something by age; UINT64_MAX: nothing is kept, or never. */
uint64_t empty_next_ms(const empty_list *list, const empty_policy *policy, uint64_t now_ms);

#endif
