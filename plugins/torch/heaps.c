/* heaps: one acre_cuda heap per device, made when the device is first asked for memory, and the calls that PyTorch
 * makes all the time: allocate and free.
 *
 * The way of a request: a load of the device's heap, acre_cuda_alloc, three additions. Nothing here takes a lock but
 * the making of a heap and the writing down of a failure. Heaps live as long as the process: tensors may be freed after
 * everything else, and the driver takes the memory back in the end. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "plugin.h"

enum {
    TICK_FREES = 64,   /* looks at the clock once in so many frees, a power of two */
    TICK_MS = 100,     /* gives empties back by policy at most so often */
    COLLECT_BYTES = 1 << 20, /* a request of so much collects first what waited for second streams */
    SAMPLE_BYTES = 2 << 20, /* of growth of the requested peak: time to look at what is held */
};

static device_heap devices[DEVICES_MAX];
static pthread_mutex_t make_lock = PTHREAD_MUTEX_INITIALIZER; /* one heap is made at a time */
static _Thread_local uint32_t category_now;

device_heap *device_at(int device) { return device >= 0 && device < DEVICES_MAX ? &devices[device] : NULL; }

acre_cuda *device_heap_if_any(int device)
{
    device_heap *d = device_at(device);
    return d ? atomic_load_explicit(&d->heap, memory_order_acquire) : NULL;
}

acre_cuda *heap_of_block(const void *block, int *device)
{
    for (int i = 0; i < DEVICES_MAX; i++) {
        acre_cuda *heap = device_heap_if_any(i);
        acre_cuda_block info;
        if (!heap || acre_cuda_block_read(heap, block, &info) != ACRE_OK) continue;
        *device = i;
        return heap;
    }
    return NULL;
}

static void note_failure(device_heap *d, const char *what)
{
    pthread_mutex_lock(&d->failure_lock);
    snprintf(d->failure, sizeof d->failure, "%s", what);
    pthread_mutex_unlock(&d->failure_lock);
}

/* --- making ----------------------------------------------------------------------------------------------------- */

static uint64_t budget_of(acre_cuda *heap, double fraction)
{
    acre_cuda_info info;
    if (acre_cuda_info_read(heap, &info) != ACRE_OK) return 0;
    /* A budget of 0 would be none at all. */
    double bytes = fraction * (double)info.device_bytes;
    return bytes < 1 ? 1 : (uint64_t)bytes;
}

static acre_cuda *make(int device, device_heap *d)
{
    const plugin_options *o = options_get();
    acre_cuda_options options = {
        .device = device,
        .categories = o->categories,
        .category_count = o->category_count,
        .own_lanes = o->sleepers,
        .budget_bytes = o->budget_bytes,
        .page_bytes = o->page_bytes,
        .reserve_bytes = o->address_bytes,
        .empty_bytes_max = o->empty_bytes,
        .empty_live_percent = o->empty_percent,
        .empty_delay_ms = o->delay_ms,
        .wait_before_growth = o->wait,
    };
    acre_cuda *heap;
    acre_cuda_error why = {.status = ACRE_OK};
    acre_status status = acre_cuda_create(&options, &heap, &why);
    if (status != ACRE_OK) {
        char what[256];
        snprintf(what, sizeof what, "acre: no heap on CUDA device %d: %s", device,
                 why.text[0] ? why.text : acre_status_text(status));
        note_failure(d, what);
        return NULL;
    }
    if (o->budget_fraction > 0) acre_cuda_set_budget(heap, budget_of(heap, o->budget_fraction));
    return heap;
}

acre_cuda *device_heap_get(int device)
{
    acre_cuda *heap = device_heap_if_any(device);
    if (heap) return heap;
    device_heap *d = device_at(device);
    if (!d) return NULL;
    pthread_mutex_lock(&make_lock);
    heap = atomic_load_explicit(&d->heap, memory_order_acquire);
    if (!heap) {
        heap = make(device, d);
        atomic_store_explicit(&d->heap, heap, memory_order_release);
    }
    pthread_mutex_unlock(&make_lock);
    return heap;
}

/* --- counting --------------------------------------------------------------------------------------------------- */

static bool raise_to(_Atomic uint64_t *peak, uint64_t value)
{
    uint64_t seen = atomic_load_explicit(peak, memory_order_relaxed);
    while (value > seen)
        if (atomic_compare_exchange_weak_explicit(peak, &seen, value, memory_order_relaxed, memory_order_relaxed))
            return true;
    return false;
}

static void sample_held(device_heap *d, acre_cuda *heap)
{
    acre_cuda_info info;
    if (acre_cuda_info_read(heap, &info) != ACRE_OK) return;
    /* A peak of all time that is new since the reset is exact. */
    uint64_t at_reset = atomic_load_explicit(&d->held_peak_at_reset, memory_order_relaxed);
    raise_to(&d->held_peak, info.heap.held_peak_bytes > at_reset ? info.heap.held_peak_bytes : info.heap.held_bytes);
}

static void count_alloc(device_heap *d, acre_cuda *heap, uint64_t bytes)
{
    uint64_t now = atomic_fetch_add_explicit(&d->requested, bytes, memory_order_relaxed) + bytes;
    atomic_fetch_add_explicit(&d->allocations, 1, memory_order_relaxed);
    uint64_t before = atomic_load_explicit(&d->requested_peak, memory_order_relaxed);
    if (now <= before || !raise_to(&d->requested_peak, now)) return;
    bool was_reset = atomic_load_explicit(&d->held_peak_at_reset, memory_order_relaxed) != 0;
    if (was_reset && now / SAMPLE_BYTES != before / SAMPLE_BYTES) sample_held(d, heap);
}

static void tick_now_and_then(device_heap *d, acre_cuda *heap, uint64_t frees)
{
    if (frees % TICK_FREES != 0) return;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    uint64_t ms = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
    uint64_t last = atomic_load_explicit(&d->tick_ms, memory_order_relaxed);
    if (ms - last < TICK_MS || !atomic_compare_exchange_strong(&d->tick_ms, &last, ms)) return;
    acre_cuda_tick(heap);
}

/* --- allocate and free ------------------------------------------------------------------------------------------ */

/* Writes the report down and shows it. Returns it in `buffer`. */
static void failed(int device, acre_cuda *heap, uint64_t size, acre_status status, char *buffer, size_t bytes)
{
    device_heap *d = device_at(device);
    text t = {.buffer = buffer, .bytes = bytes, .length = 0};
    if (status == ACRE_NO_MEMORY || status == ACRE_OVER_BUDGET)
        text_add(&t, "CUDA out of memory (acre, device %d): %llu bytes, %s\n", device, (unsigned long long)size,
                 acre_status_text(status));
    else
        text_add(&t, "acre, device %d: %llu bytes: %s\n", device, (unsigned long long)size,
                 heap || !d ? acre_status_text(status) : d->failure);
    acre_gpu_shortage shortage;
    if (heap && (status == ACRE_NO_MEMORY || status == ACRE_OVER_BUDGET || status == ACRE_SYSTEM) &&
        acre_cuda_shortage_read(heap, &shortage) == ACRE_OK && shortage.status != ACRE_OK) {
        size_t used = t.length < bytes ? t.length : bytes;
        acre_gpu_shortage_text(&shortage, buffer + used, bytes - used);
    }
    if (d) {
        atomic_fetch_add_explicit(&d->failed, 1, memory_order_relaxed);
        note_failure(d, buffer);
    }
    if (!options_get()->quiet) fprintf(stderr, "%s%s", buffer, buffer[strlen(buffer) - 1] == '\n' ? "" : "\n");
}

/* On failure the report is in `buffer`. */
static void *allocate(ssize_t size, int device, void *stream, char *buffer, size_t buffer_bytes)
{
    device_heap *d = device_at(device);
    acre_cuda *heap = device_heap_get(device);
    acre_status status = d ? ACRE_NOT_SUPPORTED : ACRE_INVALID_ARGUMENT;
    void *block = NULL;
    if (size < 0) status = ACRE_INVALID_ARGUMENT;
    else if (heap) {
        if (atomic_load_explicit(&d->open_pools, memory_order_relaxed)) pools_route(device, heap, stream);
        if (size >= COLLECT_BYTES && atomic_load_explicit(&d->uses, memory_order_relaxed)) acre_cuda_tick(heap);
        status = acre_cuda_alloc(heap, (uint64_t)size, 0, category_now, stream, &block);
        if (status == ACRE_OK) {
            count_alloc(d, heap, (uint64_t)size);
            return block;
        }
    }
    failed(device, heap, (uint64_t)size, status, buffer, buffer_bytes);
    return NULL;
}

void *acre_torch_try_alloc(ssize_t size, int device, void *stream)
{
    char report[sizeof devices[0].failure];
    return size == 0 ? NULL : allocate(size, device, stream, report, sizeof report);
}

void *acre_torch_alloc(ssize_t size, int device, void *stream)
{
    if (size == 0) return NULL;
    char report[sizeof devices[0].failure];
    void *block = allocate(size, device, stream, report, sizeof report);
    if (!block) throw_runtime_error(report);
    return block;
}

void acre_torch_free(void *ptr, ssize_t size, int device, void *stream)
{
    if (!ptr) return;
    device_heap *d = device_at(device);
    acre_cuda *heap = device_heap_if_any(device);
    acre_status status = heap ? acre_cuda_free(heap, ptr, stream) : ACRE_FOREIGN_POINTER;
    if (status != ACRE_OK) {
        fprintf(stderr, "acre: free of %p on device %d: %s\n", ptr, device, acre_status_text(status));
        return;
    }
    if (size > 0) atomic_fetch_sub_explicit(&d->requested, (uint64_t)size, memory_order_relaxed);
    tick_now_and_then(d, heap, atomic_fetch_add_explicit(&d->frees, 1, memory_order_relaxed) + 1);
}

/* --- hooks ------------------------------------------------------------------------------------------------------ */

void acre_torch_init(int device_count)
{
    (void)device_count; /* a heap costs a context: made when the device is used, not before */
    options_get();
}

void acre_torch_reset(void) { acre_torch_trim(0, true); }

void acre_torch_memory_fraction(double fraction, int device)
{
    acre_cuda *heap = device_heap_get(device);
    if (!heap || !(fraction >= 0)) return;
    acre_cuda_set_budget(heap, fraction >= 1 ? 0 : budget_of(heap, fraction));
}

typedef struct inside {
    uintptr_t wanted;
    acre_cuda_block found;
} inside;

static bool contains(void *context, const acre_cuda_block *block)
{
    inside *search = context;
    if (block->pending || search->wanted - (uintptr_t)block->block >= block->bytes) return true;
    search->found = *block;
    return false;
}

void *acre_torch_base_alloc(void *ptr, size_t *size)
{
    for (int device = 0; device < DEVICES_MAX; device++) {
        acre_cuda *heap = device_heap_if_any(device);
        inside search = {.wanted = (uintptr_t)ptr};
        if (!heap) continue;
        /* Nearly always the block itself is asked for; a view into it costs a walk. */
        if (acre_cuda_block_read(heap, ptr, &search.found) != ACRE_OK) acre_cuda_walk(heap, contains, &search);
        if (!search.found.block) continue;
        if (size) *size = (size_t)search.found.bytes;
        return search.found.block;
    }
    return ptr;
}

void acre_torch_record_stream(void *ptr, void *stream)
{
    for (int device = 0; device < DEVICES_MAX && ptr; device++) {
        acre_cuda *heap = device_heap_if_any(device);
        if (!heap || acre_cuda_record_use(heap, ptr, stream) != ACRE_OK) continue;
        atomic_store_explicit(&devices[device].uses, true, memory_order_relaxed);
        return;
    }
}

/* --- upkeep ----------------------------------------------------------------------------------------------------- */

uint64_t acre_torch_trim(uint64_t keep_bytes, bool wait)
{
    uint64_t given_back = 0;
    for (int device = 0; device < DEVICES_MAX; device++) {
        acre_cuda *heap = device_heap_if_any(device);
        uint64_t bytes = 0;
        if (!heap) continue;
        sample_held(&devices[device], heap);
        acre_cuda_trim(heap, keep_bytes, wait, &bytes);
        given_back += bytes;
    }
    return given_back;
}

void acre_torch_reset_peaks(void)
{
    for (int device = 0; device < DEVICES_MAX; device++) {
        device_heap *d = &devices[device];
        acre_cuda *heap = device_heap_if_any(device);
        acre_cuda_info info;
        if (!heap || acre_cuda_info_read(heap, &info) != ACRE_OK) continue;
        atomic_store(&d->requested_peak, atomic_load(&d->requested));
        atomic_store(&d->held_peak_at_reset, info.heap.held_peak_bytes);
        atomic_store(&d->held_peak, info.heap.held_bytes);
    }
}

const char *acre_torch_check(void)
{
    for (int device = 0; device < DEVICES_MAX; device++) {
        acre_cuda *heap = device_heap_if_any(device);
        const char *wrong = heap ? acre_cuda_check(heap) : NULL;
        if (wrong) return wrong;
    }
    return NULL;
}

int acre_torch_set_category(int category)
{
    int before = (int)category_now;
    category_now = category > 0 && (uint32_t)category < options_get()->category_count ? (uint32_t)category : 0;
    return before;
}

int acre_torch_find_category(const char *name)
{
    const plugin_options *o = options_get();
    for (uint32_t i = 0; name && i < o->category_count; i++)
        if (strcmp(o->names[i], name) == 0) return (int)i;
    return -1;
}
