/* plugin.h: what the plug-in's files share. */
#ifndef ACRE_TORCH_PLUGIN_H
#define ACRE_TORCH_PLUGIN_H

#include <pthread.h>
#include <stdatomic.h>

#include "acre/cuda.h"
#include "acre_torch.h"

enum { DEVICES_MAX = 32 };

/* --- options.c -------------------------------------------------------------------------------------------------- */

typedef struct plugin_options {
    uint64_t budget_bytes;
    double budget_fraction; /* 0: budget_bytes counts */
    uint64_t empty_bytes, page_bytes, address_bytes;
    uint32_t empty_percent, delay_ms;
    bool wait, report, quiet;
    acre_gpu_category categories[ACRE_GPU_CATEGORIES_MAX];
    char names[ACRE_GPU_CATEGORIES_MAX][ACRE_GPU_NAME_MAX + 1];
    uint32_t category_count; /* at least one */
    uint64_t sleepers;       /* bit per category: "!" */
} plugin_options;

/* Read at the first call. */
const plugin_options *options_get(void);

/* --- heaps.c ---------------------------------------------------------------------------------------------------- */

typedef struct device_heap {
    _Atomic(acre_cuda *) heap; /* NULL: not used yet */
    /* Of the sizes that PyTorch asked for, unrounded. */
    _Atomic uint64_t requested, requested_peak, allocations, frees, failed;
    _Atomic uint64_t held_peak; /* since reset_peaks, as far as it was looked at; the heap knows the peak of all time */
    _Atomic uint64_t held_peak_at_reset;
    _Atomic uint32_t open_pools;
    _Atomic uint64_t tick_ms;
    _Atomic bool uses; /* some block was used by a second stream, once */
    pthread_mutex_t failure_lock; /* guards failure */
    char failure[2048];           /* the last one, as text; "" = none */
} device_heap;

/* NULL: no such device (out of the table). */
device_heap *device_at(int device);
/* The heap if there is one. */
acre_cuda *device_heap_if_any(int device);
/* Makes it if need be. NULL: could not; device->failure says why. */
acre_cuda *device_heap_get(int device);
/* The heap that has this block, and its device. NULL: none. */
acre_cuda *heap_of_block(const void *block, int *device);

/* --- pools.c ---------------------------------------------------------------------------------------------------- */

/* Sends the stream to the pool that is open on this device, if the stream is being captured. */
void pools_route(int device, acre_cuda *heap, void *stream);

/* --- driver.c --------------------------------------------------------------------------------------------------- */

/* The few calls that the plug-in makes itself, of the same driver library as the heaps', with the device's context.
 * False: the driver says no, or there is none. The copies wait until they are done. */
bool driver_is_capturing(int device, void *stream);
bool driver_copy_to_host(int device, void *host, const void *block, uint64_t bytes);
bool driver_copy_from_host(int device, void *block, const void *host, uint64_t bytes);

/* --- throw.c ---------------------------------------------------------------------------------------------------- */

/* Throws std::runtime_error(text), if the process has a C++ runtime; returns if not. */
void throw_runtime_error(const char *text);

/* --- report.c --------------------------------------------------------------------------------------------------- */

/* Text that grows into a buffer; `length` goes on counting when it is full. */
typedef struct text {
    char *buffer;
    size_t bytes, length;
} text;

void text_add(text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* At exit, if the options say so. */
void report_at_exit(void);

#endif
