/* acre/category.h: resource categories, a table of what a program allocates, turned into allocators that fit.
 *
 * A program that knows its memory writes one row per kind of resource: how large, how aligned, how many, how often, how
 * much in all. acre_categories_create reads the table once, refuses what cannot work with a sentence that names row and
 * field, and makes of each row an acre_heap (memory that the CPU touches) or an acre_suballoc (offsets into memory that
 * it does not: a GPU's, a file's). Allocations go by the row's number, stay within its limits and budget, and are
 * counted. docs/categories.md has a worked example.
 *
 * What a row becomes. acre_category_derive computes the same without making anything; to use other numbers, take its
 * options, change them and make the heap or suballocator yourself. "Typical size" is the geometric mean of size_min and
 * size_max (sizes are spread by factors, not by sums); "expected bytes" is count × typical size.
 *
 *   heap option            rule                                    because
 *   small_size_max         size_max, rounded up to alignment, if   blocks of one kind then come from one allocator,
 *                          at most 8 KiB; else 4 KiB               the one without bookkeeping per block
 *   classes_per_doubling   4 if expected bytes are under 4 MiB and each class in use holds a 64 KiB page; with few
 *                          size_max > 2 × size_min; else 8         bytes that costs more than rounding sizes does
 *   named_align            alignment, or else extra_alignment, if  larger blocks find their best fit at that
 *                          256 B < it <= 1 MiB and blocks can be   alignment at once; others have no use for it
 *                          larger than small_size_max
 *   magazine_bytes_max     10 ms of allocations_per_second ×       a thread asks others a hundred times a second at
 *                          typical size, at most 256 KiB; without  most; what it holds nobody else can have, and it
 *                          it 64 KiB; and at most 1/8 of expected  counts against the budget; there is a magazine for
 *                          bytes, 1/16 of the budget, by doubling  each class
 *                          from size_min to size_max; but 4 KiB
 *   thread_bytes_max       1 MiB, or 1/8 and 1/16 as above         the same, for blocks over small_size_max
 *   cache_bytes_max        1/4 of expected bytes or budget, the    free memory kept for the next peak is in proportion
 *                          lesser; 2 MiB … 64 MiB, the default     to what is used; less than a page of 2 MiB would be
 *                                                                  faulted in again and again
 *   purge_delay_ms         2 × count / allocations_per_second,     by Little's law that quotient is a block's mean
 *                          100 ms … 10 s; else 500 ms              lifetime: memory free for two is not wanted back
 *
 *   suballocator option    rule                                    because
 *   size                   capacity_bytes
 *   granularity            alignment; without one a power of two   all blocks have that alignment: what lies between
 *                          of size_min / 32 … / 16, 1 … 256 B;     is lost anyway; without one, rounding costs at most
 *                          doubled until there are < 2^32 granules 1/16
 *   alignments[0]          extra_alignment                         exact best fit for it, too
 *   size_min               size_min                                nothing to learn by walking blocks
 *   count_max              count if count_is_max; else none        bookkeeping set aside: no later call needs memory
 *   thread_safe            not single_thread
 *
 * Pages of small blocks on flexible memory are shared by all heaps and kept as the process heap says: there the last
 * two rules are for larger blocks. There is no field for lifetimes: count / allocations_per_second says it. Units are
 * bytes, and per second; what comes per frame is multiplied by the frame rate. */
#ifndef ACRE_CATEGORY_H
#define ACRE_CATEGORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "acre/heap.h"
#include "acre/provider.h"
#include "acre/status.h"
#include "acre/suballoc.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct acre_categories acre_categories;

enum { ACRE_CATEGORY_NAME_MAX = 31, ACRE_CATEGORIES_MAX = 1024 };
/* No such row. */
#define ACRE_CATEGORY_NONE UINT32_MAX

/* Zero is the default of every field that has one. */
typedef struct acre_category {
    const char *name;               /* required: 1 … 31 characters, no two alike; copied */
    const acre_provider *provider;  /* CPU memory only; NULL = acre_provider_flexible(). Not copied */
    bool offsets_only;              /* memory that nobody touches: the row becomes a suballocator */
    bool single_thread;             /* heap: only the creating thread uses it; offsets: the caller serialises calls */
    bool fill;                      /* CPU memory only: clear values (docs/tuning.md) */
    bool count_is_max;              /* offsets only: `count` is a hard limit, and its bookkeeping is set aside */
    uint64_t capacity_bytes;        /* offsets only, required there: the memory is [0, capacity_bytes) */
    uint64_t size_min;              /* smallest allocation; 0 = 1 */
    uint64_t size_max;              /* largest allocation; required */
    uint64_t alignment;             /* of every allocation, a power of two; 0 = that of malloc; offsets: none */
    uint64_t extra_alignment;       /* a larger one that some of them ask for; 0 = none */
    uint32_t count;                 /* expected number of live allocations; 0 = unknown */
    uint32_t allocations_per_second; /* expected; 0 = unknown. Sizes thread caches and how long free memory is kept;
                                      * changes nothing for offsets */
    uint64_t budget_bytes;          /* never hold more than this; 0 = any (offsets: the capacity) */
    /* Called without locks, by the thread that allocates, when an allocation would pass the budget even after this
     * thread's cache was emptied, or when no hole of a suballocator is large enough; true = something was freed or the
     * budget raised: try once more. May use all categories, but not allocate from this one. */
    bool (*on_over_budget)(void *context, acre_categories *categories, uint32_t row, size_t bytes);
    void *on_over_budget_context;
} acre_category;

/* Why a table was refused. */
typedef struct acre_category_error {
    acre_status status;
    uint32_t row;      /* ACRE_CATEGORY_NONE: no row in particular */
    const char *field; /* as in acre_category, "" = none; static */
    char text[160];    /* row 3 "textures": alignment 48 is no power of two */
} acre_category_error;

typedef struct acre_category_usage {
    const char *name;    /* lives as long as the categories */
    uint64_t bytes_used; /* heap: memory it holds: 64 KiB pages of small blocks + larger blocks, thread caches included;
                          * offsets: blocks, rounded up to the granularity */
    uint64_t bytes_peak;
    uint64_t bytes_budget; /* 0 = none */
    uint64_t failed;       /* allocations that got nothing, for whatever reason */
    bool offsets_only;
} acre_category_usage;

/* --- making ----------------------------------------------------------------------------------------------------- */

/* Checks all rows, then makes all of their allocators. On failure nothing was made, *categories is NULL and *error
 * (which may be NULL) says why: it names the first wrong row and the first wrong field in it. The rows are copied.
 *   INVALID_ARGUMENT  no rows; a name missing, empty, too long or used twice; size_min > size_max; size_max 0; an
 *                     alignment that is no power of two; extra_alignment <= alignment; a budget or capacity that cannot
 *                     hold size_max, or count × size_min; a provider that lacks a function; a field of the other kind
 *   TOO_LARGE         more than ACRE_CATEGORIES_MAX rows; a size, alignment, count or capacity beyond what acre can
 *                     hold: a heap's alignment ends at 64 MiB, its blocks on memory of a provider's at 16 GiB
 *   NOT_SUPPORTED     a heap on memory that the CPU cannot touch (say offsets_only)
 *   NO_MEMORY         and what else acre_heap_create and acre_suballoc_create answer
 * Thread-safe. O(rows²) compared names. Metadata as for acre_heap_create and acre_suballoc_create. */
ACRE_API acre_status acre_categories_create(const acre_category *rows, uint32_t count, acre_categories **categories,
                                            acre_category_error *error);
/* Gives back all memory, blocks in use included, as acre_heap_destroy does. NULL is allowed. No thread may use the
 * categories, their heaps or blocks meanwhile or after. Providers outlive it. */
ACRE_API void acre_categories_destroy(acre_categories *categories);
/* What the row would become: *heap, or *suballoc if it is offsets_only; the other is zeroed, and either may be NULL.
 * The row is not checked, its name not copied, its budget callback left out (it belongs to categories). Arithmetic. */
ACRE_API void acre_category_derive(const acre_category *row, acre_heap_options *heap, acre_suballoc_options *suballoc);

/* --- rows ------------------------------------------------------------------------------------------------------- */

/* All of these and those below are thread-safe; a row that does not exist is INVALID_ARGUMENT, NULL or 0. */
ACRE_API uint32_t acre_categories_count(const acre_categories *categories);
/* The row with this name, ACRE_CATEGORY_NONE if there is none. O(rows): ask once, keep the number. */
ACRE_API uint32_t acre_category_find(const acre_categories *categories, const char *name);
/* The row's allocator; NULL for a row of the other kind. Using it directly is fine: heaps keep their budget all the
 * same; blocks taken directly from a suballocator are outside of the row's limits, budget and usage. */
ACRE_API acre_heap *acre_category_heap(acre_categories *categories, uint32_t row);
ACRE_API acre_suballoc *acre_category_suballoc(acre_categories *categories, uint32_t row);
/* 0 = none (offsets: the capacity). One below what is in use refuses until enough is freed. */
ACRE_API acre_status acre_category_set_budget(acre_categories *categories, uint32_t row, uint64_t budget_bytes);

/* --- allocating ------------------------------------------------------------------------------------------------- */

/* A block of a heap row. align: 0 = the row's alignment; a smaller one is raised to it. NULL: *why (which may be NULL)
 * says TOO_LARGE (over size_max), INVALID_ARGUMENT (under size_min; an alignment that is no power of two or above both
 * of the row's; a row of offsets), OVER_BUDGET, NO_MEMORY or WRONG_THREAD; errno is EINVAL for INVALID_ARGUMENT, else
 * ENOMEM. Costs acre_heap_alloc and a few comparisons. */
ACRE_API void *acre_category_alloc(acre_categories *categories, uint32_t row, size_t size, size_t align,
                                   acre_status *why);
/* As acre_heap_free; a block of another row is FOREIGN_POINTER. */
ACRE_API acre_status acre_category_free(acre_categories *categories, uint32_t row, void *block);
/* A range of an offsets row: *block is written on success. Statuses as above, and of acre_suballoc_alloc. Costs that
 * and one atomic addition. */
ACRE_API acre_status acre_category_alloc_range(acre_categories *categories, uint32_t row, uint64_t size, uint64_t align,
                                               acre_suballoc_block *block);
/* As acre_suballoc_free. */
ACRE_API acre_status acre_category_free_range(acre_categories *categories, uint32_t row, uint64_t handle);

/* --- looking ---------------------------------------------------------------------------------------------------- */

/* A snapshot of counters; a few loads. */
ACRE_API acre_status acre_category_usage_read(const acre_categories *categories, uint32_t row,
                                              acre_category_usage *usage);
/* A heading, then one line per row: name, kind, used, peak, budget, failed. Writes at most `bytes`, a final zero
 * included, and returns the length of the whole text, as snprintf does; buffer may be NULL if bytes is 0. */
ACRE_API size_t acre_categories_report(const acre_categories *categories, char *buffer, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
