/* empty_policy: see empty_policy.h. The list is in the order of since_ms, because time does not go back, so the oldest
 * is at one end and answers for all. */
#include "gpu/empty_policy.h"

void empty_add(empty_list *list, empty_item *item, uint64_t bytes, uint64_t now_ms)
{
    item->bytes = bytes;
    item->since_ms = now_ms;
    item->newer = NULL;
    item->older = list->newest;
    if (list->newest != NULL) list->newest->newer = item;
    else list->oldest = item;
    list->newest = item;
    list->bytes += bytes;
    list->count++;
}

void empty_remove(empty_list *list, empty_item *item)
{
    if (item->newer != NULL) item->newer->older = item->older;
    else list->newest = item->older;
    if (item->older != NULL) item->older->newer = item->newer;
    else list->oldest = item->newer;
    item->newer = item->older = NULL;
    list->bytes -= item->bytes;
    list->count--;
}

/* A coarse clock of another thread may be a little ahead. */
static uint64_t age_of(const empty_item *item, uint64_t now_ms)
{
    return now_ms > item->since_ms ? now_ms - item->since_ms : 0;
}

/* live * percent / 100 without overflow. */
static uint64_t share_of(uint64_t live_bytes, uint32_t percent)
{
    return live_bytes / 100 * percent + live_bytes % 100 * percent / 100;
}

empty_item *empty_excess(const empty_list *list, const empty_policy *policy, uint64_t live_bytes,
                         uint64_t over_budget_bytes, uint64_t now_ms)
{
    empty_item *oldest = list->oldest;
    if (oldest == NULL) return NULL;
    if (over_budget_bytes != 0 || list->bytes > policy->bytes_max) return oldest;
    if (policy->delay_ms == UINT32_MAX) return NULL;
    uint64_t age = age_of(oldest, now_ms);
    if (age >= policy->delay_ms) return oldest;
    bool much = list->bytes > share_of(live_bytes, policy->live_percent);
    return much && age >= empty_settle_ms(policy) ? oldest : NULL;
}

uint64_t empty_next_ms(const empty_list *list, const empty_policy *policy, uint64_t now_ms)
{
    if (list->oldest == NULL || policy->delay_ms == UINT32_MAX) return UINT64_MAX;
    uint64_t age = age_of(list->oldest, now_ms), settle = empty_settle_ms(policy);
    if (age < settle) return settle - age;
    return age < policy->delay_ms ? policy->delay_ms - age : 0;
}
