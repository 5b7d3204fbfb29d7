/* acre/suballoc.h: carves blocks out of memory that it never touches.
 *
 * A suballocator manages the numbers [0, size) and hands out ranges of them: offsets into a GPU buffer, a file, a piece
 * of shared memory, an address range. All its bookkeeping is its own, beside what it manages. It gives the exact best
 * fit (the smallest hole that is large enough, and of equal ones that with the lowest offset), merges a freed block
 * with its neighbours at once, and serves named alignments from tables of their own, so that an aligned request is
 * an exact best fit, too; what an alignment skips stays free for others.
 *
 * Units are bytes throughout. Sizes and offsets are multiples of the granularity inside: a size is rounded up to it,
 * and every offset is a multiple of it.
 *
 * Errors are the same in every build; a call that fails has changed nothing. Out parameters are written on success
 * only, unless said otherwise. Passing NULL for the suballocator or an out parameter that is not called optional is
 * ACRE_INVALID_ARGUMENT.
 *
 * Threads: with options.thread_safe every call but create and destroy may be made from any thread at any time; without
 * it one call at a time. Cost: O(log holes) for alloc, free, resize and stats, 30 to 50 ns in a range of 20,000 blocks,
 * about as much more per named alignment. One exception: a size smaller than half of the smallest one before it is
 * O(blocks), so at most 32 times; options.size_min avoids that. Memory: 32 bytes per block and per hole, half as much
 * again per named alignment, and up to 162 KiB of tables for each alignment, the granularity included.
 *
 * Where it comes from: Knuth's boundary tags kept out of band, as in MacDougall's "Building a Low-Fragmentation Memory
 * System for 64-bit Games" (GDC 2016); the wish for such an interface from VulkanMemoryAllocator's virtual block and
 * from OffsetAllocator. */
#ifndef ACRE_SUBALLOC_H
#define ACRE_SUBALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "acre/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct acre_suballoc acre_suballoc;

enum { ACRE_SUBALLOC_ALIGNMENTS = 3 };

/* Zero is the default of every field that has one. */
typedef struct acre_suballoc_options {
    /* Bytes to manage; required. Rounded down to the granularity; at most 2^32 - 2 granules. */
    uint64_t size;
    /* Every size and offset is a multiple of this power of two. 0: 256. */
    uint64_t granularity;
    /* Up to three alignments, powers of two, that will be asked for often: each has a table of its own and exact best
     * fit. Those not above the granularity need none and are ignored. 0: none. */
    uint64_t alignments[ACRE_SUBALLOC_ALIGNMENTS];
    /* No request will be smaller than this (one that is, is served all the same, see Cost above). 0: learned. */
    uint64_t size_min;
    /* Most blocks at a time; their bookkeeping is set aside at once, so that no later call needs memory.
     * 0: no bound, bookkeeping grows as needed. */
    uint32_t count_max;
    /* A lock round each call. false: the caller sees to it that calls do not overlap. */
    bool thread_safe;
} acre_suballoc_options;

typedef struct acre_suballoc_block {
    uint64_t offset;
    /* What was asked for, rounded up to the granularity. */
    uint64_t size;
    /* Names the block until it is freed; never 0. A handle that was freed stays invalid (for 2^26 reuses). */
    uint64_t handle;
} acre_suballoc_block;

typedef struct acre_suballoc_info {
    uint64_t offset, size;
    uint64_t tag;
} acre_suballoc_info;

/* bytes_used + bytes_free == bytes_total */
typedef struct acre_suballoc_stats {
    uint64_t bytes_total;
    uint64_t bytes_used;
    uint64_t bytes_free;
    uint64_t largest_hole; /* the largest size that could be had now, at an alignment of the granularity */
    uint64_t bytes_bookkeeping; /* of ordinary memory */
    uint32_t block_count;
    uint32_t hole_count;
    double fragmentation; /* 1 - largest_hole / bytes_free; 0 with nothing free */
} acre_suballoc_stats;

/* One piece of the range; handle and tag are 0 for a hole. */
typedef struct acre_suballoc_piece {
    uint64_t offset, size;
    uint64_t handle;
    uint64_t tag;
    bool used;
} acre_suballoc_piece;

/* false ends the walk. */
typedef bool acre_suballoc_visit(void *context, const acre_suballoc_piece *piece);

/* INVALID_ARGUMENT: size below the granularity, or a granularity or alignment that is no power of two. TOO_LARGE: more
 * than 2^32 - 2 granules; take a larger granularity. NO_MEMORY. */
ACRE_API acre_status acre_suballoc_create(const acre_suballoc_options *options, acre_suballoc **suballoc);
/* Blocks that are still there are forgotten. NULL is allowed. */
ACRE_API void acre_suballoc_destroy(acre_suballoc *suballoc);
/* Frees every block; all handles are stale. O(1), nearly. */
ACRE_API acre_status acre_suballoc_reset(acre_suballoc *suballoc);

/* alignment: a power of two, 0 for the granularity. INVALID_ARGUMENT: size 0, or an alignment that is no power of two.
 * TOO_LARGE: more than the whole range. NO_MEMORY: no hole is large enough, count_max is reached, or no memory for
 * bookkeeping. With an alignment that was not named, NO_MEMORY can mean that a hole that would just do was not seen. */
ACRE_API acre_status acre_suballoc_alloc(acre_suballoc *suballoc, uint64_t size, uint64_t alignment,
                                         acre_suballoc_block *block);
/* Never needs memory. DOUBLE_FREE: the handle's block was freed before. FOREIGN_POINTER: it never was a handle here. */
ACRE_API acre_status acre_suballoc_free(acre_suballoc *suballoc, uint64_t handle);
/* Same offset, same handle. Gets larger if the hole behind it has room, smaller always (NO_MEMORY: a size that cannot
 * be had in place, or no memory for bookkeeping). Errors besides as for alloc and free. */
ACRE_API acre_status acre_suballoc_resize(acre_suballoc *suballoc, uint64_t handle, uint64_t new_size);

/* The range ends at new_size from now on, rounded down to the granularity. INVALID_ARGUMENT: grow with less or shrink
 * with more than now, or 0. TOO_LARGE: as for create. BUSY: shrink, and a block lies beyond. */
ACRE_API acre_status acre_suballoc_grow(acre_suballoc *suballoc, uint64_t new_size);
ACRE_API acre_status acre_suballoc_shrink(acre_suballoc *suballoc, uint64_t new_size);

/* Errors of these as for free. The tag is 64 bits of the user's, a pointer or a number, 0 at first. */
ACRE_API acre_status acre_suballoc_get_info(acre_suballoc *suballoc, uint64_t handle, acre_suballoc_info *info);
ACRE_API acre_status acre_suballoc_set_tag(acre_suballoc *suballoc, uint64_t handle, uint64_t tag);

/* Cheap: running totals. */
ACRE_API acre_status acre_suballoc_get_stats(acre_suballoc *suballoc, acre_suballoc_stats *stats);
/* Visits every block and hole by offset, under the lock: visit must not call this suballocator. */
ACRE_API acre_status acre_suballoc_walk(acre_suballoc *suballoc, acre_suballoc_visit *visit, void *context);
/* Verifies every invariant, O(blocks log blocks). NULL: all is well; else a sentence that says what is not. */
ACRE_API const char *acre_suballoc_check(acre_suballoc *suballoc);

#ifdef __cplusplus
}
#endif
#endif
