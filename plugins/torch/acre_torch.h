/* acre_torch.h: acre as the allocator of PyTorch's CUDA tensors (torch.cuda.memory.CUDAPluggableAllocator).
 *
 * One acre_cuda heap per device, made at the device's first request with the options of the environment (below).
 * PyTorch finds these functions by name; a Python program uses plugins/torch/acre_torch.py, which hands them over;
 * nobody needs to include this file. docs/gpu.md shows both.
 *
 * PyTorch keeps the hooks as std::function, but takes them as addresses of plain functions; their arguments are passed
 * in C as well, with two exceptions in acre_torch_begin_pool, named there. So no C++ is needed to build this.
 *
 * Environment, read once, at the first call. Sizes may end in K, M, G. A value that is none is named on stderr and the
 * default stands.
 *
 *   variable                  default     meaning
 *   ACRE_TORCH_BUDGET         0 = none    memory held of each device, bytes, or a fraction with a point: 0.9
 *   ACRE_TORCH_EMPTY          0 = any     memory without a block that is kept, at most
 *   ACRE_TORCH_EMPTY_PERCENT  1,000,000   the same, in percent of live bytes
 *   ACRE_TORCH_DELAY_MS       30,000      and for how long; 4294967295 = for ever
 *   ACRE_TORCH_WAIT           0           1: wait for the GPU before taking new memory (acre_cuda_options)
 *   ACRE_TORCH_PAGE           0           bytes of a page; 0 = the device's recommended one
 *   ACRE_TORCH_ADDRESSES      0           bytes of addresses; 0 = 16 slices
 *   ACRE_TORCH_CATEGORIES     all         names, separated by commas; "name:budget"; "name!" can sleep
 *   ACRE_TORCH_REPORT         0           1: statistics to stderr when the process ends
 *   ACRE_TORCH_QUIET          0           1: no report on stderr when memory runs out
 *   ACRE_CUDA_DRIVER          libcuda.so.1  another driver library, such as the fake one of the tests
 *
 * Empty memory is kept longer than acre_cuda does by itself, because a training step asks for the same memory again
 * with the next step, and steps may take seconds.
 *
 * All functions may be called from any thread. */
#ifndef ACRE_TORCH_H
#define ACRE_TORCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "acre/status.h"

/* --- what PyTorch calls ----------------------------------------------------------------------------------------- */

/* NULL for size 0. Out of memory: the report goes to stderr and std::runtime_error is thrown, which Python sees as a
 * RuntimeError that begins with "CUDA out of memory": PyTorch does not look at the result, and a null pointer would end
 * in a kernel. Where there is no C++ runtime in the process: NULL. */
ACRE_API void *acre_torch_alloc(ssize_t size, int device, void *stream);
/* The same, NULL in all cases of failure: for callers that are not C++. */
ACRE_API void *acre_torch_try_alloc(ssize_t size, int device, void *stream);
/* stream: the one that the block was allocated on, as PyTorch has it. A pointer that is none of acre's is named on
 * stderr and left alone. */
ACRE_API void acre_torch_free(void *ptr, ssize_t size, int device, void *stream);

ACRE_API void acre_torch_init(int device_count);                            /* set_init_fn */
ACRE_API void acre_torch_reset(void);                                       /* set_reset_fn: empty_cache() */
ACRE_API void acre_torch_memory_fraction(double fraction, int device);      /* set_memory_fraction_fn */
ACRE_API void *acre_torch_base_alloc(void *ptr, size_t *size);              /* set_base_alloc_fn */
ACRE_API void acre_torch_record_stream(void *ptr, void *stream);            /* set_record_stream_fn */

/* Private pools, for CUDA graphs: between begin and end, requests on streams that are being captured come from lanes
 * that belong to the pool; release gives their memory up. As many releases as begins.
 *   id      std::pair of two 64-bit numbers, passed in two registers as this struct is;
 *   filter  std::function<bool(cudaStream_t)>, passed by address: C cannot call it. Whether the stream is being
 *           captured is asked of the driver instead. What is lost: torch.cuda.use_mem_pool() outside of a capture has
 *           no effect, and two captures at once on one device share the pool that was begun last. */
typedef struct acre_torch_pool_id { unsigned long long first, second; } acre_torch_pool_id;
ACRE_API void acre_torch_begin_pool(int device, acre_torch_pool_id id, void *filter); /* set_begin_allocate_to_pool */
ACRE_API void acre_torch_end_pool(int device, acre_torch_pool_id id);                 /* set_end_allocate_to_pool_fn */
ACRE_API void acre_torch_release_pool(int device, acre_torch_pool_id id);             /* set_release_pool */

/* --- looking ---------------------------------------------------------------------------------------------------- */

/* Statistics of all devices in use, as JSON: docs/gpu.md has the keys. Writes at most `bytes`, a final zero included,
 * and returns the length of the whole text, as snprintf does. */
ACRE_API size_t acre_torch_stats_json(char *buffer, size_t bytes);
/* The same for a person. */
ACRE_API size_t acre_torch_report_text(char *buffer, size_t bytes);
/* Why the last request that failed did: of this device, or of any (-1). 0: none failed. */
ACRE_API size_t acre_torch_last_shortage_text(int device, char *buffer, size_t bytes);
/* From now on peaks are those since this call. */
ACRE_API void acre_torch_reset_peaks(void);
/* Gives back empty memory until keep_bytes are left on each device; wait: for the GPU first. Returns how much. */
ACRE_API uint64_t acre_torch_trim(uint64_t keep_bytes, bool wait);
/* Verifies every table of every heap. NULL: all is well. Slow. */
ACRE_API const char *acre_torch_check(void);

/* --- categories ------------------------------------------------------------------------------------------------- */

/* What this thread allocates from now on is of this category; returns the one before. A number that is none: 0. */
ACRE_API int acre_torch_set_category(int category);
/* By name; -1: none. */
ACRE_API int acre_torch_find_category(const char *name);
/* Sleep: the category's memory goes back to the driver, tensors keep their addresses. keep: contents are copied to host
 * memory and come back when it wakes; else they are lost. Only of categories that were named with "!". An acre_status:
 * BUSY: asleep already; NO_MEMORY: no host memory, or no room on the device to wake. */
ACRE_API int acre_torch_sleep(int category, bool keep);
ACRE_API int acre_torch_wake(int category);

#endif
