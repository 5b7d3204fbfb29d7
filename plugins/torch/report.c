/* report: the figures of all devices in use, as JSON for programs and as text for people. One list of acre/gpu.h and
 * one of acre/cuda.h make the keys; what PyTorch asked for, unrounded, is counted here. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

enum { STATS_VERSION = 1 };

void text_add(text *t, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t room = t->length < t->bytes ? t->bytes - t->length : 0;
    int length = vsnprintf(room ? t->buffer + t->length : NULL, room, format, arguments);
    va_end(arguments);
    if (length > 0) t->length += (size_t)length;
}

/* Names and reports as JSON strings. */
static void add_string(text *t, const char *s)
{
    text_add(t, "\"");
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') text_add(t, "\\%c", c);
        else if (c < 0x20) text_add(t, "\\u%04x", c);
        else text_add(t, "%c", c);
    }
    text_add(t, "\"");
}

typedef struct figures {
    int device;
    uint64_t requested, requested_peak, held_peak, allocations, frees, failed;
    acre_cuda_info info;
    char failure[sizeof(((device_heap *)0)->failure)];
} figures;

/* False: the device is not in use, and nothing failed on it. */
static bool read_figures(int device, figures *f)
{
    device_heap *d = device_at(device);
    acre_cuda *heap = device_heap_if_any(device);
    memset(f, 0, sizeof *f);
    f->device = device;
    if (!heap || acre_cuda_info_read(heap, &f->info) != ACRE_OK) return false;
    f->requested = atomic_load(&d->requested);
    f->requested_peak = atomic_load(&d->requested_peak);
    f->allocations = atomic_load(&d->allocations);
    f->frees = atomic_load(&d->frees);
    f->failed = atomic_load(&d->failed);
    uint64_t ever = f->info.heap.held_peak_bytes, at_reset = atomic_load(&d->held_peak_at_reset);
    uint64_t sampled = atomic_load(&d->held_peak);
    f->held_peak = ever > at_reset ? ever : sampled > f->info.heap.held_bytes ? sampled : f->info.heap.held_bytes;
    pthread_mutex_lock(&d->failure_lock);
    memcpy(f->failure, d->failure, sizeof f->failure);
    pthread_mutex_unlock(&d->failure_lock);
    return true;
}

static void add_key(text *t, const char *name, uint64_t value)
{
    text_add(t, "\"%s\":%llu,", name, (unsigned long long)value);
}

static void add_categories(text *t, acre_cuda *heap)
{
    const plugin_options *o = options_get();
    text_add(t, "\"categories\":[");
    for (uint32_t i = 0; i < o->category_count; i++) {
        acre_gpu_category_stats c;
        if (acre_cuda_category_read(heap, i, &c) != ACRE_OK) continue;
        text_add(t, "%s{\"name\":", i ? "," : "");
        add_string(t, c.name);
#define X(name, unit, title, meaning) text_add(t, ",\"" #name "\":%llu", (unsigned long long)c.name);
        ACRE_GPU_CATEGORY_LIST(X)
#undef X
        text_add(t, "}");
    }
    text_add(t, "],");
}

static void add_device(text *t, const figures *f)
{
    const acre_gpu_heap_stats *h = &f->info.heap;
    text_add(t, "{\"device\":%d,", f->device);
    add_key(t, "requested_bytes", f->requested);
    add_key(t, "requested_peak_bytes", f->requested_peak);
    add_key(t, "allocations", f->allocations);
    add_key(t, "frees", f->frees);
    add_key(t, "failed", f->failed);
    add_key(t, "held_peak_ever_bytes", h->held_peak_bytes);
    acre_gpu_heap_stats since = *h;
    since.held_peak_bytes = f->held_peak;
#define X(name, unit, title, meaning) add_key(t, #name, since.name);
    ACRE_GPU_HEAP_LIST(X)
#undef X
#define X(name, unit, title, meaning) add_key(t, #name, f->info.name);
    ACRE_CUDA_FIGURES(X)
#undef X
    add_categories(t, device_heap_if_any(f->device));
    text_add(t, "\"last_failure\":");
    if (f->failure[0]) add_string(t, f->failure);
    else text_add(t, "null");
    text_add(t, "}");
}

size_t acre_torch_stats_json(char *buffer, size_t bytes)
{
    text t = {.buffer = buffer, .bytes = bytes, .length = 0};
    if (bytes) *buffer = 0;
    bool first = true;
    text_add(&t, "{\"version\":%d,\"devices\":[", STATS_VERSION);
    for (int device = 0; device < DEVICES_MAX; device++) {
        figures f;
        if (!read_figures(device, &f)) continue;
        text_add(&t, "%s", first ? "" : ",");
        add_device(&t, &f);
        first = false;
    }
    text_add(&t, "]}");
    return t.length;
}

/* --- for a person ----------------------------------------------------------------------------------------------- */

static void add_bytes(text *t, const char *title, uint64_t bytes, const char *meaning)
{
    text_add(t, "  %-20s %12.1f MiB  %s\n", title, (double)bytes / 1048576, meaning);
}

static void add_count(text *t, const char *title, uint64_t count, const char *meaning)
{
    text_add(t, "  %-20s %12llu      %s\n", title, (unsigned long long)count, meaning);
}

size_t acre_torch_report_text(char *buffer, size_t bytes)
{
    text t = {.buffer = buffer, .bytes = bytes, .length = 0};
    if (bytes) *buffer = 0;
    for (int device = 0; device < DEVICES_MAX; device++) {
        figures f;
        if (!read_figures(device, &f)) continue;
        text_add(&t, "acre on CUDA device %d\n", device);
        add_bytes(&t, "requested", f.requested, "by tensors that live, unrounded");
        add_bytes(&t, "requested peak", f.requested_peak, "most of it at once");
        f.info.heap.held_peak_bytes = f.held_peak;
        const acre_gpu_heap_stats *h = &f.info.heap;
#define BYTES add_bytes
#define COUNT add_count
#define X(name, unit, title, meaning) unit(&t, title, h->name, meaning);
        ACRE_GPU_HEAP_LIST(X)
#undef X
#define X(name, unit, title, meaning) unit(&t, title, f.info.name, meaning);
        ACRE_CUDA_FIGURES(X)
#undef X
#undef BYTES
#undef COUNT
        for (uint32_t i = 0; i < options_get()->category_count; i++) {
            acre_gpu_category_stats c;
            if (acre_cuda_category_read(device_heap_if_any(device), i, &c) != ACRE_OK) continue;
            text_add(&t, "  category %-20s live %.1f MiB, peak %.1f MiB, %llu blocks, %llu failed\n", c.name,
                     (double)c.live_bytes / 1048576, (double)c.peak_bytes / 1048576, (unsigned long long)c.blocks,
                     (unsigned long long)c.failed);
        }
    }
    if (t.length == 0) text_add(&t, "acre: no CUDA device was used\n");
    return t.length;
}

void report_at_exit(void)
{
    size_t bytes = acre_torch_report_text(NULL, 0) + 1;
    char *buffer = malloc(bytes);
    if (!buffer) return;
    acre_torch_report_text(buffer, bytes);
    fputs(buffer, stderr);
    free(buffer);
}

size_t acre_torch_last_shortage_text(int device, char *buffer, size_t bytes)
{
    if (bytes) *buffer = 0;
    for (int i = device < 0 ? 0 : device; i < DEVICES_MAX && (device < 0 || i == device); i++) {
        device_heap *d = device_at(i);
        pthread_mutex_lock(&d->failure_lock);
        size_t length = strlen(d->failure);
        if (length) snprintf(buffer, bytes, "%s", d->failure);
        pthread_mutex_unlock(&d->failure_lock);
        if (length) return length;
    }
    return 0;
}
