/* ledger: who holds how much of a GPU's memory, and who may have more.
 *
 * Layer 8. One row per category and one per heap (a memory heap of Vulkan, a device of CUDA). Blocks are charged to a
 * category and a heap; driver memory is charged to a heap alone. The equation of acre/gpu.h is kept by construction:
 *     holes == held - live - pending - empty
 *
 * Every word is an atomic of its own, relaxed: counters order nothing, but for a block on its way from live to pending,
 * which must be seen in one of the two. A charge adds first and takes back what passes the budget, so budgets hold
 * exactly (of two charges at once that do not both fit, both may be refused), and a peak is raised by compare and
 * exchange. No lock; a charge is four additions. A reader sees each word exact and the equation to within the calls in
 * flight. */
#ifndef ACRE_GPU_LEDGER_H
#define ACRE_GPU_LEDGER_H

#include <stdatomic.h>

#include "acre/gpu.h"
#include "base/bits.h"

typedef struct gpu_category_row {
    _Atomic uint64_t live, pending, peak, budget, blocks, failed, exceeded;
    /* budget: 0 or UINT64_MAX: none; may be stored at any time. What follows is written once, by gpu_ledger_init */
    char name[ACRE_GPU_NAME_MAX + 1];
    acre_gpu_at_limit at_limit;
    float priority;
} gpu_category_row;

typedef struct gpu_heap_row {
    _Atomic uint64_t live, pending, empty, held, held_peak, blocks, driver_allocations, driver_calls;
    _Atomic uint64_t budget; /* UINT64_MAX: none; may be stored at any time */
    _Atomic uint64_t other;
} gpu_heap_row;

typedef struct gpu_ledger {
    uint32_t category_count, heap_count;
    gpu_category_row categories[ACRE_GPU_CATEGORIES_MAX];
    gpu_heap_row heaps[ACRE_GPU_HEAPS_MAX];
} gpu_ledger;

/* No rows: one called "all". INVALID_ARGUMENT: too many rows, two of one name, a priority outside of 0 … 1, an at_limit
 * that is none. The memory of `ledger` is zero before. */
acre_status gpu_ledger_init(gpu_ledger *ledger, const acre_gpu_category *rows, uint32_t count, uint32_t heap_count);

/* A block of `bytes` becomes live. False: it would pass the category's budget and `exceed` is false. */
bool gpu_ledger_charge(gpu_ledger *ledger, uint32_t category, uint32_t heap, uint64_t bytes, bool exceed);
/* Undoes it; of a request that failed after its charge, or a block that is free at once. */
void gpu_ledger_discharge(gpu_ledger *ledger, uint32_t category, uint32_t heap, uint64_t bytes);
/* A live block was freed with a point in time that the GPU has not reached / has reached. */
void gpu_ledger_pend(gpu_ledger *ledger, uint32_t category, uint32_t heap, uint64_t bytes);
void gpu_ledger_unpend(gpu_ledger *ledger, uint32_t category, uint32_t heap, uint64_t bytes);
/* A live block got larger or smaller in place. False as for charge. */
bool gpu_ledger_resize(gpu_ledger *ledger, uint32_t category, uint32_t heap, uint64_t old_bytes, uint64_t new_bytes,
                       bool exceed);

/* Driver memory: asked before the driver is. False: it would pass the heap's budget and `exceed` is false. */
bool gpu_ledger_hold(gpu_ledger *ledger, uint32_t heap, uint64_t bytes, bool exceed);
/* Given back, or the driver refused after the hold. */
void gpu_ledger_unhold(gpu_ledger *ledger, uint32_t heap, uint64_t bytes);
/* The driver was called; `change` of +1, -1 or 0 in the number of its allocations. */
void gpu_ledger_driver_call(gpu_ledger *ledger, uint32_t heap, int change);
/* Driver memory became empty, or is not any more. */
void gpu_ledger_empty(gpu_ledger *ledger, uint32_t heap, uint64_t bytes, bool empty);

void gpu_ledger_read_heap(const gpu_ledger *ledger, uint32_t heap, acre_gpu_heap_stats *stats);
void gpu_ledger_read_category(const gpu_ledger *ledger, uint32_t category, acre_gpu_category_stats *stats);
/* Counts a failure of the category and fills the rows of the report that the ledger knows: status, bytes, alignment,
 * category, heap, names, both stats, top. The caller adds the driver's answer and the holes. */
void gpu_ledger_shortage(gpu_ledger *ledger, acre_status status, uint32_t category, uint32_t heap, uint64_t bytes,
                         uint64_t alignment, acre_gpu_shortage *shortage);

#endif
