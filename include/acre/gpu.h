/* acre/gpu.h: what memory of graphics cards has in common, whoever drives it: categories with budgets, the ledger, and
 * the report that is made when memory runs out. <acre/vulkan.h> and <acre/cuda.h> build on it.
 *
 * Units are bytes. Structs: zero is the default of each field. A category is a number from 0 to count - 1, the row's
 * place in the table that was given at creation; a table without rows is one row called "all".
 *
 *     held == live + pending + holes + empty        of each heap, at any time
 *
 * Thread-safety: everything here is plain data, and acre_gpu_shortage_text touches nothing but its arguments. */
#ifndef ACRE_GPU_H
#define ACRE_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "acre/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { ACRE_GPU_CATEGORIES_MAX = 64, ACRE_GPU_NAME_MAX = 31, ACRE_GPU_HEAPS_MAX = 16, ACRE_GPU_TOP_COUNT = 5 };
/* Wait for ever. */
#define ACRE_GPU_FOREVER UINT64_MAX

/* What an allocation gets that would pass the budget of its category or heap, after empty memory was given back.
 * on_limit (if there is one) is asked when this did not help either; with CUDA it is asked before EXCEED. */
typedef enum acre_gpu_at_limit {
    ACRE_GPU_FAIL = 0,     /* ACRE_OVER_BUDGET */
    ACRE_GPU_OTHER_MEMORY, /* the next memory type or heap that serves, if there is one (CUDA: none); else as FAIL */
    ACRE_GPU_EXCEED        /* the memory all the same, as long as the driver has some; counted */
} acre_gpu_at_limit;

/* One kind of resource. */
typedef struct acre_gpu_category {
    const char *name;           /* copied, cut at ACRE_GPU_NAME_MAX; NULL = "category N" */
    uint64_t budget_bytes;      /* of live and pending blocks; 0 = any */
    acre_gpu_at_limit at_limit; /* 0 = ACRE_GPU_FAIL */
    float priority;             /* 0 < priority <= 1, used where the driver knows priorities; 0 = 0.5 */
} acre_gpu_category;

/* X(name, unit, title, meaning): one list makes the struct, the JSON and the text. */
#define ACRE_GPU_HEAP_LIST(X)                                                                     \
    X(live_bytes, BYTES, "live", "in blocks that the program holds, rounding included")           \
    X(pending_bytes, BYTES, "pending", "freed, but the GPU may still use them")                   \
    X(hole_bytes, BYTES, "holes", "free, in driver memory that is in use")                        \
    X(empty_bytes, BYTES, "empty", "driver memory without a block, kept for the next one")        \
    X(held_bytes, BYTES, "held", "from the driver: live + pending + holes + empty")               \
    X(held_peak_bytes, BYTES, "held peak", "most of it at once")                                  \
    X(budget_bytes, BYTES, "budget", "what held may not pass; 0 = none known")                    \
    X(other_bytes, BYTES, "others", "used of this heap by others, if the driver says so; else 0") \
    X(blocks, COUNT, "blocks", "that the program holds")                                          \
    X(driver_allocations, COUNT, "driver allocations", "that exist now")                          \
    X(driver_calls, COUNT, "driver calls", "that took or gave memory, so far")

typedef struct acre_gpu_heap_stats {
#define X(name, unit, title, meaning) uint64_t name;
    ACRE_GPU_HEAP_LIST(X)
#undef X
} acre_gpu_heap_stats;

#define ACRE_GPU_CATEGORY_LIST(X)                                                        \
    X(live_bytes, BYTES, "live", "in blocks that the program holds")                     \
    X(pending_bytes, BYTES, "pending", "freed, but the GPU may still use them")          \
    X(peak_bytes, BYTES, "peak", "most of live + pending at once")                       \
    X(budget_bytes, BYTES, "budget", "what live + pending may not pass; 0 = none")       \
    X(blocks, COUNT, "blocks", "that the program holds")                                 \
    X(failed, COUNT, "failed", "requests that got nothing")                              \
    X(exceeded, COUNT, "exceeded", "requests that passed a budget with leave (EXCEED)")

typedef struct acre_gpu_category_stats {
    const char *name; /* lives as long as the allocator */
#define X(name, unit, title, meaning) uint64_t name;
    ACRE_GPU_CATEGORY_LIST(X)
#undef X
} acre_gpu_category_stats;

/* Why a request got nothing: what was asked for, by whom, and what the memory looked like. */
typedef struct acre_gpu_shortage {
    acre_status status;          /* ACRE_OVER_BUDGET, ACRE_NO_MEMORY or ACRE_SYSTEM */
    int32_t driver_result;       /* the driver's last answer (VkResult, CUresult); 0 = it was not asked */
    const char *driver_call;     /* "vkAllocateMemory" and the like; NULL = none was made */
    uint64_t bytes, alignment;   /* asked for */
    uint32_t category;
    uint32_t heap;               /* where it was last tried; of CUDA always 0 */
    const char *category_name;   /* these names live as long as the allocator */
    acre_gpu_heap_stats heap_stats;
    acre_gpu_category_stats category_stats;
    uint64_t largest_hole_bytes; /* the longest free run in memory that could have served */
    double fragmentation;        /* 1 - largest hole / (holes + empty), 0 with nothing free */
    uint32_t top_count;          /* the categories that hold most, descending */
    struct {
        const char *name;
        uint64_t bytes; /* live + pending */
    } top[ACRE_GPU_TOP_COUNT];
} acre_gpu_shortage;

/* Called without locks, by the thread that allocates, when a request is about to fail: true = something was freed or a
 * budget raised, try once more. It may free and allocate, and what it allocates may call it again. Asked once per
 * request of Vulkan; up to 64 times per request of CUDA, as long as it says true. */
typedef bool acre_gpu_on_limit(void *context, const acre_gpu_shortage *shortage);

/* The report as text for a person, several lines. Writes at most `bytes`, a final zero included, and returns the length
 * of the whole text, as snprintf does. */
ACRE_API size_t acre_gpu_shortage_text(const acre_gpu_shortage *shortage, char *buffer, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
