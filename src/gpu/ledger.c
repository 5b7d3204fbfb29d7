/* ledger: see ledger.h. Additions of relaxed atomics; what has to hold together is said where it is done. */
#include "gpu/ledger.h"

#include <stdio.h>
#include <string.h>

static inline uint64_t get(const _Atomic uint64_t *word) { return atomic_load_explicit(word, memory_order_relaxed); }
/* The new value. */
static inline uint64_t add(_Atomic uint64_t *word, uint64_t bytes)
{
    return atomic_fetch_add_explicit(word, bytes, memory_order_relaxed) + bytes;
}
static inline void subtract(_Atomic uint64_t *word, uint64_t bytes)
{
    atomic_fetch_sub_explicit(word, bytes, memory_order_relaxed);
}
static inline void raise_to(_Atomic uint64_t *word, uint64_t value)
{
    uint64_t seen = get(word);
    while (value > seen && !atomic_compare_exchange_weak_explicit(word, &seen, value, memory_order_relaxed,
                                                                  memory_order_relaxed)) {}
}
static inline uint64_t without(uint64_t all, uint64_t part) { return all > part ? all - part : 0; }

/* 0 and UINT64_MAX: no budget. */
static inline bool over(uint64_t bytes, uint64_t budget) { return budget - 1 < UINT64_MAX - 1 && bytes > budget; }

/* --- rows ------------------------------------------------------------------------------------------------------- */

static bool row_is_valid(const acre_gpu_category *row)
{
    if (!(row->priority >= 0 && row->priority <= 1)) return false; /* NaN, too */
    return row->at_limit == ACRE_GPU_FAIL || row->at_limit == ACRE_GPU_OTHER_MEMORY ||
           row->at_limit == ACRE_GPU_EXCEED;
}

static void fill_row(gpu_category_row *row, const acre_gpu_category *from, uint32_t number)
{
    if (from->name != NULL) snprintf(row->name, sizeof row->name, "%s", from->name);
    else snprintf(row->name, sizeof row->name, "category %u", number);
    row->at_limit = from->at_limit;
    row->priority = from->priority > 0 ? from->priority : 0.5f;
    atomic_store_explicit(&row->budget, from->budget_bytes, memory_order_relaxed);
}

acre_status gpu_ledger_init(gpu_ledger *ledger, const acre_gpu_category *rows, uint32_t count, uint32_t heap_count)
{
    static const acre_gpu_category all = {.name = "all"};
    if (rows == NULL && count != 0) return ACRE_INVALID_ARGUMENT;
    if (count == 0) rows = &all, count = 1;
    if (count > ACRE_GPU_CATEGORIES_MAX || heap_count == 0 || heap_count > ACRE_GPU_HEAPS_MAX)
        return ACRE_INVALID_ARGUMENT;
    for (uint32_t i = 0; i < count; i++) {
        if (!row_is_valid(&rows[i])) return ACRE_INVALID_ARGUMENT;
        fill_row(&ledger->categories[i], &rows[i], i);
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(ledger->categories[i].name, ledger->categories[k].name) == 0) return ACRE_INVALID_ARGUMENT;
    }
    ledger->category_count = count;
    ledger->heap_count = heap_count;
    for (uint32_t i = 0; i < heap_count; i++)
        atomic_store_explicit(&ledger->heaps[i].budget, UINT64_MAX, memory_order_relaxed);
    return ACRE_OK;
}

/* --- blocks ----------------------------------------------------------------------------------------------------- */

/* Live bytes of the category grow, if its budget allows it. Pending is read after live was raised and gpu_ledger_pend
 * raises it before live falls, so a block on its way from one to the other is seen once or twice, never not at all. */
static bool grow_live(gpu_category_row *row, uint64_t bytes, bool exceed)
{
    uint64_t live = atomic_fetch_add_explicit(&row->live, bytes, memory_order_acq_rel) + bytes;
    uint64_t taken = live + get(&row->pending);
    if (unlikely(over(taken, get(&row->budget)))) {
        if (!exceed) {
            subtract(&row->live, bytes);
            return false;
        }
        add(&row->exceeded, 1);
    }
    raise_to(&row->peak, taken);
    return true;
}

bool gpu_ledger_charge(gpu_ledger *ledger, uint32_t category, uint32_t heap, uint64_t bytes, bool exceed)
{
    gpu_category_row *row = &ledger->categories[category];
    if (unlikely(!grow_live(row, bytes, exceed))) return false;
    add(&row->blocks, 1);
    add(&ledger->heaps[heap].live, bytes);
    add(&ledger->heaps[heap].blocks, 1);
    return true;
}

void gpu_ledger_discharge(gpu_ledger *ledger, uint32_t category, uint32_t heap, uint64_t bytes)
{
    gpu_category_row *row = &ledger->categories[category];
    subtract(&row->live, bytes);
    subtract(&row->blocks, 1);
    subtract(&ledger->heaps[heap].live, bytes);
    subtract(&ledger->heaps[heap].blocks, 1);
}

void gpu_ledger_pend(gpu_ledger *ledger, uint32_t category, uint32_t heap, uint64_t bytes)
{
    add(&ledger->categories[category].pending, bytes);
    atomic_fetch_sub_explicit(&ledger->categories[category].live, bytes, memory_order_release);
    subtract(&ledger->categories[category].blocks, 1);
    add(&ledger->heaps[heap].pending, bytes);
    subtract(&ledger->heaps[heap].live, bytes);
    subtract(&ledger->heaps[heap].blocks, 1);
}

void gpu_ledger_unpend(gpu_ledger *ledger, uint32_t category, uint32_t heap, uint64_t bytes)
{
    subtract(&ledger->categories[category].pending, bytes);
    subtract(&ledger->heaps[heap].pending, bytes);
}

bool gpu_ledger_resize(gpu_ledger *ledger, uint32_t category, uint32_t heap, uint64_t old_bytes, uint64_t new_bytes,
                       bool exceed)
{
    gpu_category_row *row = &ledger->categories[category];
    if (new_bytes > old_bytes) {
        if (!grow_live(row, new_bytes - old_bytes, exceed)) return false;
        add(&ledger->heaps[heap].live, new_bytes - old_bytes);
    } else {
        subtract(&row->live, old_bytes - new_bytes);
        subtract(&ledger->heaps[heap].live, old_bytes - new_bytes);
    }
    return true;
}

/* --- driver memory ---------------------------------------------------------------------------------------------- */

bool gpu_ledger_hold(gpu_ledger *ledger, uint32_t heap, uint64_t bytes, bool exceed)
{
    gpu_heap_row *row = &ledger->heaps[heap];
    uint64_t held = add(&row->held, bytes), budget = get(&row->budget);
    if (budget != UINT64_MAX && held > budget && !exceed) {
        subtract(&row->held, bytes);
        return false;
    }
    raise_to(&row->held_peak, held);
    return true;
}

void gpu_ledger_unhold(gpu_ledger *ledger, uint32_t heap, uint64_t bytes)
{
    subtract(&ledger->heaps[heap].held, bytes);
}

void gpu_ledger_driver_call(gpu_ledger *ledger, uint32_t heap, int change)
{
    gpu_heap_row *row = &ledger->heaps[heap];
    add(&row->driver_calls, 1);
    if (change > 0) add(&row->driver_allocations, 1);
    else if (change < 0) subtract(&row->driver_allocations, 1);
}

void gpu_ledger_empty(gpu_ledger *ledger, uint32_t heap, uint64_t bytes, bool empty)
{
    if (empty) add(&ledger->heaps[heap].empty, bytes);
    else subtract(&ledger->heaps[heap].empty, bytes);
}

/* --- reading ---------------------------------------------------------------------------------------------------- */

static uint64_t budget_told(uint64_t budget) { return budget == UINT64_MAX ? 0 : budget; }

void gpu_ledger_read_heap(const gpu_ledger *ledger, uint32_t heap, acre_gpu_heap_stats *stats)
{
    const gpu_heap_row *row = &ledger->heaps[heap];
    *stats = (acre_gpu_heap_stats){
        .live_bytes = get(&row->live),
        .pending_bytes = get(&row->pending),
        .empty_bytes = get(&row->empty),
        .held_bytes = get(&row->held),
        .held_peak_bytes = get(&row->held_peak),
        .budget_bytes = budget_told(get(&row->budget)),
        .other_bytes = get(&row->other),
        .blocks = get(&row->blocks),
        .driver_allocations = get(&row->driver_allocations),
        .driver_calls = get(&row->driver_calls),
    };
    /* With calls in flight the words may be of different moments: never below zero. */
    stats->hole_bytes = without(stats->held_bytes, stats->live_bytes + stats->pending_bytes + stats->empty_bytes);
}

void gpu_ledger_read_category(const gpu_ledger *ledger, uint32_t category, acre_gpu_category_stats *stats)
{
    const gpu_category_row *row = &ledger->categories[category];
    *stats = (acre_gpu_category_stats){
        .name = row->name,
        .live_bytes = get(&row->live),
        .pending_bytes = get(&row->pending),
        .peak_bytes = get(&row->peak),
        .budget_bytes = budget_told(get(&row->budget)),
        .blocks = get(&row->blocks),
        .failed = get(&row->failed),
        .exceeded = get(&row->exceeded),
    };
}

/* The categories that hold most, by insertion into a short list; those that hold nothing are left out. */
static void fill_top(const gpu_ledger *ledger, acre_gpu_shortage *shortage)
{
    shortage->top_count = 0;
    for (uint32_t i = 0; i < ledger->category_count; i++) {
        const gpu_category_row *row = &ledger->categories[i];
        uint64_t bytes = get(&row->live) + get(&row->pending);
        uint32_t at = shortage->top_count;
        while (at > 0 && shortage->top[at - 1].bytes < bytes) at--;
        if (bytes == 0 || at == ACRE_GPU_TOP_COUNT) continue;
        if (shortage->top_count < ACRE_GPU_TOP_COUNT) shortage->top_count++;
        for (uint32_t k = shortage->top_count - 1; k > at; k--) shortage->top[k] = shortage->top[k - 1];
        shortage->top[at].name = row->name;
        shortage->top[at].bytes = bytes;
    }
}

void gpu_ledger_shortage(gpu_ledger *ledger, acre_status status, uint32_t category, uint32_t heap, uint64_t bytes,
                         uint64_t alignment, acre_gpu_shortage *shortage)
{
    add(&ledger->categories[category].failed, 1);
    memset(shortage, 0, sizeof *shortage);
    shortage->status = status;
    shortage->bytes = bytes;
    shortage->alignment = alignment;
    shortage->category = category;
    shortage->heap = heap;
    shortage->category_name = ledger->categories[category].name;
    gpu_ledger_read_heap(ledger, heap, &shortage->heap_stats);
    gpu_ledger_read_category(ledger, category, &shortage->category_stats);
    fill_top(ledger, shortage);
}
