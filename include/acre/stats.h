/* acre/stats.h: what memory is used for, as a ledger that adds up.
 *
 *     committed == live + cached + waste      in each column below, and in the total
 *
 * One column per allocator, one row per figure. Each list of X(…) below makes the fields of a struct, the keys of the
 * JSON report and the rows of the text report, so that all three always say the same; docs/stats.md explains each row.
 *
 * Two prices: acre_heap_counters_read copies counters, acre_heap_stats_read looks at every page of the heap. A figure
 * is exact while nobody else allocates; otherwise it is a snapshot taken over some microseconds, and what other
 * threads moved meanwhile may be counted in the old place. The equation holds even then.
 *
 * What a program asked for inside of a block is not known (nobody writes it down), so the rounding of a request up to
 * its block is part of live, not of waste. Waste is what acre holds and cannot hand out as it lies: holes between
 * blocks in pages that are in use, and ends of pages where no block fits. */
#ifndef ACRE_STATS_H
#define ACRE_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "acre/heap.h"
#include "acre/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* X(NAME, key, title, meaning): the columns. */
#define ACRE_ALLOCATOR_LIST(X)                                                                        \
    X(VERY_SMALL, very_small, "very small", "blocks up to 64 B, in 64 KiB pages of one size")         \
    X(SMALL, small, "small", "blocks up to 4 KiB, in 64 KiB pages of one size")                       \
    X(MEDIUM, medium, "medium", "blocks up to 32 MiB, split and coalesced")                           \
    X(LARGE, large, "large", "larger blocks, in slots of reserved address space")                     \
    X(UNSLOTTED, unslotted, "unslotted", "blocks that fit into no slot, straight from the system")    \
    X(FREE_PAGES, free_pages, "free pages", "64 KiB pages kept for very small and small blocks")

typedef enum acre_allocator {
#define X(name, key, title, meaning) ACRE_ALLOCATOR_##name,
    ACRE_ALLOCATOR_LIST(X)
#undef X
    ACRE_ALLOCATOR_COUNT
} acre_allocator;

/* X(name, unit, title, meaning): the rows, one figure per allocator. unit: BYTES or COUNT. */
#define ACRE_LEDGER_LIST(X)                                                                                        \
    X(live_bytes, BYTES, "live", "in blocks that the program holds, rounding included")                            \
    X(cached_bytes, BYTES, "cached", "free and kept: thread caches, empty pages, free slots")                      \
    X(waste_bytes, BYTES, "waste", "committed - live - cached: holes, ends of pages")                              \
    X(committed_bytes, BYTES, "committed", "addresses with memory behind them, or that may have some")             \
    X(peak_bytes, BYTES, "peak", "most that was taken at once: pages of (very) small, blocks of others")           \
    X(live_blocks, COUNT, "live blocks", "blocks that the program holds")                                          \
    X(given_back_bytes, BYTES, "given back", "returned to the system so far")                                      \
    X(given_back_pages, COUNT, "  in OS pages", "the same in pages of the system")                                 \
    X(allocs, COUNT, "allocations", "calls that took a block; not observed: those that missed the caches")         \
    X(frees, COUNT, "frees", "calls that gave one back; not observed: those that missed the caches")               \
    X(refills, COUNT, "refills", "times that the allocator was asked for blocks, past the thread caches")          \
    X(flushes, COUNT, "flushes", "times that the allocator got blocks back, past the thread caches")

typedef struct acre_ledger {
#define X(name, unit, title, meaning) uint64_t name;
    ACRE_LEDGER_LIST(X)
#undef X
} acre_ledger;

/* Figures of a heap as a whole; of the process: the sum over its heaps. */
#define ACRE_HEAP_FIGURES(X)                                                                    \
    X(held_bytes, BYTES, "held", "what the budget counts: pages of small blocks, larger blocks") \
    X(budget_bytes, BYTES, "budget", "what held may not pass; 0 = no budget")                   \
    X(live_peak_bytes, BYTES, "live peak", "most live bytes at once, give or take 64 KiB a thread") \
    X(largest_hole_bytes, BYTES, "largest hole", "longest free run between medium blocks")      \
    X(table_bytes, BYTES, "tables", "address and size tables of the medium allocator")          \
    X(thread_caches, COUNT, "thread caches", "threads that have used the heap and still exist")        \
    X(observed, COUNT, "observed heaps", "heaps whose allocations and frees are all counted")

/* total.peak_bytes of a heap is the peak of held_bytes, which is less than the sum of the columns' when they peaked at
 * different times. Of the process it is the sum over the heaps: exact with one heap, an upper bound with more. */
typedef struct acre_stats {
    acre_ledger allocator[ACRE_ALLOCATOR_COUNT];
    acre_ledger total;
#define X(name, unit, title, meaning) uint64_t name;
    ACRE_HEAP_FIGURES(X)
#undef X
} acre_stats;

/* Figures that only a process has. */
#define ACRE_PROCESS_FIGURES(X)                                                                 \
    X(heaps, COUNT, "heaps", "that of malloc, and those that the program made")                 \
    X(metadata_bytes, BYTES, "metadata", "acre's bookkeeping, tables included; never in blocks") \
    X(resident_bytes, BYTES, "resident", "of the whole process now, code and stacks included")  \
    X(misuse_count, COUNT, "misuse", "frees of what is free already or was never handed out")   \
    X(space_bytes, BYTES, "address space", "reserved once; costs no memory")                    \
    X(region_bytes, BYTES, "region", "the unit in which it is handed to allocators")            \
    X(regions_small, COUNT, "  small", "regions that hold very small and small blocks")         \
    X(regions_medium, COUNT, "  medium", "regions that hold medium blocks")                     \
    X(regions_large, COUNT, "  large", "regions that hold slots of large blocks")               \
    X(regions_ranges, COUNT, "  ranges", "regions that the program reserved (acre_range_reserve)") \
    X(regions_free, COUNT, "  free", "regions nobody has")

typedef struct acre_process_stats {
    acre_stats all; /* the sum over all heaps, and the free pages that heaps share */
#define X(name, unit, title, meaning) uint64_t name;
    ACRE_PROCESS_FIGURES(X)
#undef X
} acre_process_stats;

/* What can be had without looking at pages or threads. */
#define ACRE_COUNTER_LIST(X)                                                                          \
    X(held_bytes, BYTES, "held", "what the budget counts: pages of small blocks, larger blocks")      \
    X(held_peak_bytes, BYTES, "peak", "most of it at once")                                           \
    X(budget_bytes, BYTES, "budget", "what held may not pass; 0 = no budget")                         \
    X(free_bytes, BYTES, "free", "empty pages and slots that are kept; not the thread caches")        \
    X(given_back_bytes, BYTES, "given back", "returned to the system so far")                         \
    X(live_peak_bytes, BYTES, "live peak", "most live bytes at once, give or take 64 KiB a thread")

typedef struct acre_counters {
#define X(name, unit, title, meaning) uint64_t name;
    ACRE_COUNTER_LIST(X)
#undef X
} acre_counters;

/* Looks at each 64 KiB page of the heap and at each thread's cache: 10 to 120 ns per page. free_pages is 0 for a heap
 * that shares its free pages with others (any on flexible memory without clear values); they are in the process's
 * figures. INVALID_ARGUMENT for NULL. Any thread, any time. */
ACRE_API acre_status acre_heap_stats_read(acre_heap *heap, acre_stats *stats);
/* The same for all heaps of the process, with the address map. NO_MEMORY: there is not even a process heap. */
ACRE_API acre_status acre_stats_read(acre_process_stats *stats);
/* Cheap: three uncontended locks. free_bytes and given_back_bytes leave out free pages shared with other heaps. */
ACRE_API acre_status acre_heap_counters_read(acre_heap *heap, acre_counters *counters);

#ifdef __cplusplus
}
#endif
#endif
