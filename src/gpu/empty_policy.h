/* empty_policy: how much memory without a block is kept, and for how long.
 *
 * Layer 8. Plain arithmetic on a list of empties, so that Vulkan memory, CUDA pages and tests share one policy: keep by
 * bytes, by age and by budget, never "at most one". An allocator that frees all empty blocks but one gives a level's
 * memory back while it unloads and asks for it again, block by block, while the next one loads; and keeps the one for
 * ever after. The rules, in the order in which they are looked at, always about the oldest item:
 *
 *   1. over_budget_bytes != 0                                goes at once: somebody needs it, or the heap must shrink
 *   2. all empties > bytes_max                               goes at once, whatever its age: the hard bound
 *   3. age >= delay_ms                                       goes: nobody came for it in that time
 *   4. age >= delay_ms / 10 and all empties > live_percent   goes: the dust has settled, and this is more than a
 *      of live                                               program of this size takes up again at one go
 *   5. else it stays, and so do all newer ones
 *
 * Without a budget in the way nothing younger than delay_ms / 10 goes, so a phase change that frees and allocates
 * within that time gives nothing back, however much it is; and a page costs the driver one free and one allocation per
 * delay_ms / 10 at the very most. Without use nothing is left after delay_ms: idle memory goes. delay_ms = UINT32_MAX
 * turns 3 and 4 off. What is reused is taken newest first, so what nobody needs gets old. */
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

/* The defaults. A level change, a window resize or a training step frees and allocates within a second, so a tenth of
 * the delay is 1 s: no thrash there at all. A page of 2 MiB costs about 260 us to give back and get again (A100:
 * create 193, map 1.5, access 36, unmap 26): a program that drops and takes 512 MiB just slower than every second pays
 * 7% of its time for it at worst, every 10 s 0.7%. Half of what is live is what a phase change takes up again in most
 * programs; the rest of a level was shared with the one before. 10 s without use is idle. No bound in bytes: what
 * matters is the share, and the budget. */
enum { EMPTY_DELAY_MS_DEFAULT = 10000, EMPTY_LIVE_PERCENT_DEFAULT = 50 };
#define EMPTY_BYTES_MAX_DEFAULT UINT64_MAX

static inline empty_policy empty_policy_default(void)
{
    return (empty_policy){EMPTY_BYTES_MAX_DEFAULT, EMPTY_LIVE_PERCENT_DEFAULT, EMPTY_DELAY_MS_DEFAULT};
}

/* One empty: embed it. */
typedef struct empty_item {
    struct empty_item *newer, *older;
    uint64_t bytes;
    uint64_t since_ms;
} empty_item;

/* Newest at the head; since_ms never rises from newer to older. The caller's lock guards it.
 * bytes == sum of the items' bytes */
typedef struct empty_list {
    empty_item *newest, *oldest;
    uint64_t bytes;
    uint32_t count;
} empty_list;

/* The age from which rule 4 may take an item. */
static inline uint32_t empty_settle_ms(const empty_policy *policy) { return policy->delay_ms / 10; }

/* now_ms: at least that of the item added before. */
void empty_add(empty_list *list, empty_item *item, uint64_t bytes, uint64_t now_ms);
void empty_remove(empty_list *list, empty_item *item);
/* The next to give back now, or NULL: keep the rest. over_budget: bytes by which the heap passes its budget, or that
 * somebody needs at once; 0 = none. Call until NULL; does not remove: the caller does, and takes the item's bytes off
 * over_budget_bytes. */
empty_item *empty_excess(const empty_list *list, const empty_policy *policy, uint64_t live_bytes,
                         uint64_t over_budget_bytes, uint64_t now_ms);
/* Milliseconds until age changes what empty_excess says of the oldest item: it is settled (rule 4 may take it), or it
 * is due (rule 3 does); 0: it is due. UINT64_MAX: nothing is kept, or never. */
uint64_t empty_next_ms(const empty_list *list, const empty_policy *policy, uint64_t now_ms);

#endif
