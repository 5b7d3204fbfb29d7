/* stats (internal): reads what the allocators know of themselves into the ledger of acre/stats.h.
 *
 * Nothing is counted here. Live bytes of small blocks are what the bitmaps say is taken less what the thread caches
 * hold; of medium blocks what the core says less what the caches hold; the rest are the allocators' own counters. waste
 * is what is left of committed, so a column adds up by definition, and tests/unit/test_stats.c checks against what it
 * allocated that the other three are right.
 *
 * Committed is kept close to what is resident. Where the system gives memory on first touch and charges for nothing
 * else, a medium page counts with the 64 KiB pieces that a block has lain on; where commitment is charged (overcommit
 * = 2), with all of it. OS pages given back inside of a page that is in use stay in committed until the page is free.
 *
 * Locks: the registry's while a heap is read, each allocator's in turn. Thread caches belong to running threads:
 * reading one may see it half-way, so a count that cannot be is dropped, and nothing cached can exceed what is taken.
 * */
#ifndef ACRE_DEBUG_STATS_H
#define ACRE_DEBUG_STATS_H

#include "acre/stats.h"
#include "heap/heap.h"

/* What kind of figure a row holds. */
typedef enum stats_unit { UNIT_BYTES, UNIT_COUNT } stats_unit;

/* The heap's figures. The registry is locked (heap_for_each). */
void stats_read_heap(acre_heap *heap, acre_stats *stats);
/* committed == live + cached + waste in all columns and in the total, which is the sum of them. */
bool stats_add_up(const acre_stats *stats);

#endif
