/* fake_cuda: see fake_cuda.h. One device for the process, one mutex round everything but the latencies; tables are
 * plain arrays, since tests are small. */
#define _GNU_SOURCE
#include "fake_cuda.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "gpu/cuda_driver.h"

enum { STREAMS_MAX = 32, CONTEXT_DEPTH = 16 };

typedef struct clock { uint64_t at[STREAMS_MAX]; } clock_vector;

typedef struct reservation { uint64_t base, bytes; } reservation;

typedef struct handle {
    uint64_t bytes;
    uint32_t maps;
    bool used, released;
    int fd; /* -1: none */
} handle;

typedef struct mapping {
    uint64_t base, bytes, offset;
    uint32_t handle;
    unsigned devices; /* with access */
    bool access;
} mapping;

typedef struct use {
    uint64_t base, bytes, tick; /* tick: of its stream's own clock */
    uint32_t stream;
    bool done, old; /* old: of a block that is no more */
} use;

typedef struct operation {
    enum { USE, RECORD } kind;
    uint64_t tick; /* of the stream */
    struct CUevent_st *event;
    uint64_t ticket;
} operation;

struct CUevent_st {
    clock_vector clock;
    uint64_t ticket, done; /* record number, and the last one executed */
    uint32_t stream;
    bool recorded;
    struct CUevent_st *next;
};

struct CUstream_st {
    bool used, capturing;
    clock_vector clock;
    operation *queue;
    size_t first, count, room;
};

static struct {
    pthread_mutex_t mutex;
    bool started;
    fake_cuda_options options;
    reservation *reservations;
    size_t reservation_count, reservation_room;
    mapping *mappings; /* by base */
    size_t mapping_count, mapping_room;
    handle *handles; /* [0] is none */
    size_t handle_count, handle_room;
    use *uses;
    size_t use_count, use_room;
    struct CUstream_st streams[STREAMS_MAX]; /* [0]: the default stream */
    struct CUevent_st *events;
    clock_vector host;
    uint64_t event_count, used_bytes, mapped_bytes, address_next, address_bytes;
    uint64_t contexts_retained;
    uint64_t calls[64], calls_all;
    const char *fail_name, *failed_name;
    uint64_t fail_in;
    int fail_result;
    uint64_t problems;
    char problem[200];
} fake = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local uint64_t context_depth;
static _Thread_local int capture_mode; /* GLOBAL */

static void enter(void) { pthread_mutex_lock(&fake.mutex); }
static void leave(void) { pthread_mutex_unlock(&fake.mutex); }

__attribute__((format(printf, 1, 2))) static void problem(const char *format, ...)
{
    if (fake.problems++ != 0) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(fake.problem, sizeof fake.problem, format, arguments);
    va_end(arguments);
}

/* For one more. */
static void make_room(void **array, size_t count, size_t *room, size_t bytes)
{
    if (count < *room) return;
    *room = *room != 0 ? *room * 2 : 64;
    *array = realloc(*array, *room * bytes);
    if (*array == NULL) abort();
}

/* --- calls, counted and failed ----------------------------------------------------------------------------------- */

static size_t function_index(const char *name);

/* The call fails now: its answer; 0: it does not. Counts. Caller holds the mutex. */
static int injected(const char *name)
{
    fake.calls[function_index(name)]++;
    fake.calls_all++;
    if (fake.fail_in == 0 || (fake.fail_name != NULL && strcmp(fake.fail_name, name) != 0)) return 0;
    if (--fake.fail_in != 0) return 0;
    fake.failed_name = name;
    return fake.fail_result;
}

static void start_from_environment(void)
{
    fake_cuda_options o = {0};
    const char *bytes = getenv("FAKE_CUDA_BYTES"), *backed = getenv("FAKE_CUDA_BACKED");
    const char *latency = getenv("FAKE_CUDA_LATENCY"), *devices = getenv("FAKE_CUDA_DEVICES");
    if (bytes != NULL) o.device_bytes = strtoull(bytes, NULL, 0);
    if (devices != NULL) o.device_count = atoi(devices);
    o.backed = backed != NULL && *backed == '1';
    o.latency = latency != NULL && *latency == '1';
    fake_cuda_start(&o);
}

/* True: go on. Else *result is the answer. The mutex is held in either case. */
static bool begin(const char *name, bool needs_context, bool unsafe, int *result)
{
    enter();
    *result = injected(name);
    if (*result != 0) return false;
    if (!fake.started) {
        *result = CUDA_ERROR_NOT_INITIALIZED;
        return false;
    }
    if (needs_context && context_depth == 0) {
        problem("%s without a current context", name);
        *result = CUDA_ERROR_INVALID_CONTEXT;
        return false;
    }
    for (int i = 0; unsafe && capture_mode == CU_STREAM_CAPTURE_MODE_GLOBAL && i < STREAMS_MAX; i++)
        if (fake.streams[i].capturing) {
            problem("%s while a stream is captured, and the thread's mode is not relaxed", name);
            *result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
            return false;
        }
    return true;
}

static CUresult end(CUresult result)
{
    leave();
    return result;
}

static void spend(double microseconds)
{
    if (!fake.options.latency || microseconds <= 0) return;
    struct timespec from, now;
    clock_gettime(CLOCK_MONOTONIC, &from);
    do clock_gettime(CLOCK_MONOTONIC, &now);
    while ((double)(now.tv_sec - from.tv_sec) * 1e6 + (double)(now.tv_nsec - from.tv_nsec) / 1e3 < microseconds);
}

static double units(size_t bytes) { return (double)bytes / (2 << 20); }

/* --- streams ----------------------------------------------------------------------------------------------------- */

static struct CUstream_st *stream_of(CUstream stream) { return stream == NULL ? &fake.streams[0] : stream; }
static uint32_t stream_number(CUstream stream) { return (uint32_t)(stream_of(stream) - fake.streams); }

static void merge(clock_vector *into, const clock_vector *from)
{
    for (int i = 0; i < STREAMS_MAX; i++)
        if (into->at[i] < from->at[i]) into->at[i] = from->at[i];
}

static bool known(CUstream stream, const char *what)
{
    const struct CUstream_st *s = stream_of(stream);
    if (s >= fake.streams && s < fake.streams + STREAMS_MAX && s->used) return true;
    problem("%s on a stream that does not exist", what);
    return false;
}

static const mapping *mapping_at(uint64_t address)
{
    size_t low = 0, high = fake.mapping_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (fake.mappings[middle].base + fake.mappings[middle].bytes <= address) low = middle + 1;
        else high = middle;
    }
    return low < fake.mapping_count && fake.mappings[low].base <= address ? &fake.mappings[low] : NULL;
}

/* Bytes with access, from the address on, up to the first without. */
static uint64_t accessible(uint64_t address, uint64_t bytes)
{
    uint64_t at = address, stop = address + bytes;
    while (at < stop) {
        const mapping *m = mapping_at(at);
        if (m == NULL || !m->access) break;
        at = m->base + m->bytes;
    }
    return at < stop ? at - address : bytes;
}

static void execute(struct CUstream_st *s)
{
    operation o = s->queue[s->first++];
    s->count--;
    if (o.kind == RECORD) {
        if (o.event->done < o.ticket) o.event->done = o.ticket;
        return;
    }
    for (size_t i = 0; i < fake.use_count; i++) {
        use *u = &fake.uses[i];
        if (u->stream != (uint32_t)(s - fake.streams) || u->tick != o.tick) continue;
        u->done = true;
        if (accessible(u->base, u->bytes) != u->bytes)
            problem("a kernel on %p, %llu bytes: not all of it is there", (void *)u->base,
                    (unsigned long long)u->bytes);
    }
}

static void push(struct CUstream_st *s, operation o)
{
    if (s->count == 0) s->first = 0;
    if (s->first + s->count == s->room) {
        if (s->first > s->room / 2) {
            memmove(s->queue, s->queue + s->first, s->count * sizeof o);
            s->first = 0;
        } else {
            make_room((void **)&s->queue, s->room, &s->room, sizeof o);
        }
    }
    s->queue[s->first + s->count++] = o;
    if (!fake.options.manual)
        while (s->count != 0) execute(s);
}

/* What the host has seen done needs no entry any more; nor does a done kernel whose block lives on. */
static void forget_uses(void)
{
    size_t kept = 0;
    for (size_t i = 0; i < fake.use_count; i++) {
        const use *u = &fake.uses[i];
        if (!(u->done && u->tick <= fake.host.at[u->stream])) fake.uses[kept++] = *u;
    }
    fake.use_count = kept;
}

void *fake_cuda_stream(void)
{
    enter();
    struct CUstream_st *s = NULL;
    for (int i = 3; i < STREAMS_MAX && s == NULL; i++)
        if (!fake.streams[i].used) s = &fake.streams[i];
    if (s == NULL) abort();
    s->used = true;
    leave();
    return s;
}

void fake_cuda_stream_destroy(void *stream)
{
    fake_cuda_run(stream, UINT64_MAX);
    enter();
    stream_of(stream)->used = false; /* its clock goes on: a number is not used twice */
    leave();
}

void fake_cuda_block(const void *address, uint64_t bytes)
{
    enter();
    uint64_t base = (uint64_t)(uintptr_t)address;
    for (size_t i = 0; i < fake.use_count; i++)
        if (fake.uses[i].base < base + bytes && base < fake.uses[i].base + fake.uses[i].bytes) fake.uses[i].old = true;
    leave();
}

void fake_cuda_use(void *stream, const void *address, uint64_t bytes)
{
    enter();
    struct CUstream_st *s = stream_of(stream);
    uint32_t number = stream_number(stream);
    if (known(stream, "a kernel")) {
        uint64_t base = (uint64_t)(uintptr_t)address;
        merge(&s->clock, &fake.host);
        for (size_t i = 0; i < fake.use_count; i++) {
            const use *u = &fake.uses[i];
            if (u->old && u->base < base + bytes && base < u->base + u->bytes && u->stream != number &&
                s->clock.at[u->stream] < u->tick)
                problem("a kernel on stream %u uses %p, and one on stream %u may still use it for an older block",
                        number, (void *)address, u->stream);
        }
        if (fake.use_count > 2048) forget_uses();
        make_room((void **)&fake.uses, fake.use_count, &fake.use_room, sizeof(use));
        uint64_t tick = ++s->clock.at[number];
        fake.uses[fake.use_count++] = (use){.base = base, .bytes = bytes, .tick = tick, .stream = number};
        push(s, (operation){.kind = USE, .tick = tick});
    }
    leave();
}

void fake_cuda_run(void *stream, uint64_t count)
{
    enter();
    struct CUstream_st *s = stream_of(stream);
    while (count-- != 0 && s->count != 0) execute(s);
    leave();
}

void fake_cuda_run_all(void)
{
    for (int i = 0; i < STREAMS_MAX; i++) fake_cuda_run(i == 0 ? NULL : (void *)&fake.streams[i], UINT64_MAX);
}

void fake_cuda_synchronize(void)
{
    fake_cuda_run_all();
    enter();
    for (int i = 0; i < STREAMS_MAX; i++) merge(&fake.host, &fake.streams[i].clock);
    leave();
}

void fake_cuda_order(void *first, void *then)
{
    enter();
    merge(&stream_of(then)->clock, &stream_of(first)->clock);
    leave();
}

void fake_cuda_capture(void *stream, bool on)
{
    enter();
    stream_of(stream)->capturing = on;
    leave();
}

/* --- the driver: devices, contexts, events ----------------------------------------------------------------------- */

CUresult cuInit(unsigned flags)
{
    (void)flags;
    enter();
    bool started = fake.started;
    leave();
    if (!started) start_from_environment();
    int result;
    begin("cuInit", false, false, &result);
    return end(result);
}

CUresult cuDriverGetVersion(int *version)
{
    *version = 12040;
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult result, const char **name)
{
    *name = result == CUDA_ERROR_OUT_OF_MEMORY   ? "CUDA_ERROR_OUT_OF_MEMORY"
            : result == CUDA_ERROR_INVALID_VALUE ? "CUDA_ERROR_INVALID_VALUE"
            : result == CUDA_ERROR_UNKNOWN       ? "CUDA_ERROR_UNKNOWN"
                                                 : "CUDA_ERROR";
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count)
{
    int result;
    if (begin("cuDeviceGetCount", false, false, &result)) *count = fake.options.device_count;
    return end(result);
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    int result;
    if (begin("cuDeviceGet", false, false, &result)) {
        *device = ordinal;
        if (ordinal < 0 || ordinal >= fake.options.device_count) result = CUDA_ERROR_INVALID_DEVICE;
    }
    return end(result);
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    int result;
    (void)device;
    if (begin("cuDeviceGetAttribute", false, false, &result))
        *value = attribute == CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
                     ? !fake.options.no_virtual_memory
                     : attribute == CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED &&
                           !fake.options.no_file_handles;
    return end(result);
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    (void)device;
    snprintf(name, (size_t)length, "no GPU (fake_cuda)");
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    int result;
    (void)device;
    if (begin("cuDeviceTotalMem_v2", false, false, &result)) *bytes = fake.options.device_bytes;
    return end(result);
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    int result;
    (void)device;
    if (begin("cuDevicePrimaryCtxRetain", false, false, &result)) {
        fake.contexts_retained++;
        *context = (CUcontext)(void *)&fake;
    }
    return end(result);
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    int result;
    (void)device;
    if (begin("cuDevicePrimaryCtxRelease_v2", false, false, &result) && fake.contexts_retained-- == 0)
        problem("the primary context is released more often than retained");
    return end(result);
}

CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    int result;
    if (begin("cuCtxPushCurrent_v2", false, false, &result)) {
        if (context != (CUcontext)(void *)&fake || context_depth == CONTEXT_DEPTH) problem("a context nobody made");
        context_depth++;
    }
    return end(result);
}

CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
    int result;
    if (begin("cuCtxPopCurrent_v2", true, false, &result)) {
        if (context != NULL) *context = (CUcontext)(void *)&fake;
        context_depth--;
    }
    return end(result);
}

CUresult cuCtxGetCurrent(CUcontext *context)
{
    *context = context_depth != 0 ? (CUcontext)(void *)&fake : NULL;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context)
{
    if (context_depth == 0 || context == NULL) context_depth = context != NULL;
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize(void)
{
    fake_cuda_synchronize();
    return CUDA_SUCCESS;
}

CUresult cuThreadExchangeStreamCaptureMode(int *mode)
{
    int old = capture_mode, result;
    if (begin("cuThreadExchangeStreamCaptureMode", false, false, &result)) {
        capture_mode = *mode;
        *mode = old;
    }
    return end(result);
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
    (void)flags;
    *stream = fake_cuda_stream();
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy_v2(CUstream stream)
{
    fake_cuda_stream_destroy(stream);
    return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream stream, int *status)
{
    int result;
    if (begin("cuStreamIsCapturing", true, false, &result)) {
        *status = 0;
        if (known(stream, "cuStreamIsCapturing")) *status = stream_of(stream)->capturing;
        for (int i = 1; i < STREAMS_MAX && stream == NULL; i++)
            if (fake.streams[i].capturing) result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    }
    return end(result);
}

CUresult cuStreamSynchronize(CUstream stream)
{
    int result;
    if (begin("cuStreamSynchronize", true, true, &result)) {
        struct CUstream_st *s = stream_of(stream);
        while (s->count != 0) execute(s);
        merge(&fake.host, &s->clock);
    }
    return end(result);
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags)
{
    int result;
    (void)flags;
    if (begin("cuStreamWaitEvent", true, false, &result)) {
        merge(&stream_of(stream)->clock, &event->clock);
        /* The queue of a manual stream does not stop here: orders are what is checked, not times. */
    }
    return end(result);
}

CUresult cuEventCreate(CUevent *event, unsigned flags)
{
    int result;
    (void)flags;
    if (begin("cuEventCreate", true, false, &result)) {
        struct CUevent_st *e = calloc(1, sizeof *e);
        if (e == NULL) abort();
        e->next = fake.events;
        fake.events = e;
        fake.event_count++;
        *event = e;
    }
    return end(result);
}

static bool event_known(CUevent event)
{
    for (const struct CUevent_st *e = fake.events; e != NULL; e = e->next)
        if (e == event) return true;
    problem("an event that does not exist");
    return false;
}

CUresult cuEventRecord(CUevent event, CUstream stream)
{
    int result;
    if (begin("cuEventRecord", true, false, &result) && event_known(event) && known(stream, "cuEventRecord")) {
        struct CUstream_st *s = stream_of(stream);
        if (s->capturing) problem("an event recorded on a stream that is being captured");
        uint32_t number = stream_number(stream);
        merge(&s->clock, &fake.host);
        event->clock = s->clock;
        event->stream = number;
        event->recorded = true;
        push(s, (operation){.kind = RECORD, .event = event, .ticket = ++event->ticket});
    }
    return end(result);
}

CUresult cuEventQuery(CUevent event)
{
    int result;
    if (begin("cuEventQuery", true, true, &result) && event_known(event)) {
        if (event->recorded && event->done < event->ticket) result = CUDA_ERROR_NOT_READY;
        else if (event->recorded) merge(&fake.host, &event->clock);
    }
    return end(result);
}

CUresult cuEventSynchronize(CUevent event)
{
    int result;
    if (begin("cuEventSynchronize", true, true, &result) && event_known(event) && event->recorded) {
        struct CUstream_st *s = &fake.streams[event->stream];
        while (event->done < event->ticket && s->count != 0) execute(s);
        merge(&fake.host, &event->clock);
    }
    return end(result);
}

CUresult cuEventDestroy_v2(CUevent event)
{
    int result;
    if (begin("cuEventDestroy_v2", true, false, &result) && event_known(event)) {
        struct CUevent_st **at = &fake.events;
        while (*at != event) at = &(*at)->next;
        *at = event->next;
        for (int i = 0; i < STREAMS_MAX; i++) {
            struct CUstream_st *s = &fake.streams[i];
            bool waits = false;
            for (size_t o = s->first; o < s->first + s->count; o++)
                if (s->queue[o].kind == RECORD && s->queue[o].event == event) waits = true;
            while (waits && s->count != 0) execute(s);
        }
        free(event);
        fake.event_count--;
    }
    return end(result);
}

/* --- the driver: memory ------------------------------------------------------------------------------------------ */

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes)
{
    int result;
    if (begin("cuMemGetInfo_v2", true, false, &result)) {
        *total_bytes = fake.options.device_bytes;
        *free_bytes = fake.options.device_bytes - fake.used_bytes;
    }
    return end(result);
}

CUresult cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *properties, int option)
{
    int result;
    (void)option;
    if (begin("cuMemGetAllocationGranularity", false, false, &result)) {
        *bytes = fake.options.granularity;
        if (properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE) result = CUDA_ERROR_INVALID_VALUE;
    }
    return end(result);
}

static bool is_granular(uint64_t x) { return x % fake.options.granularity == 0; }

CUresult cuMemAddressReserve(CUdeviceptr *address, size_t bytes, size_t alignment, CUdeviceptr wanted,
                             unsigned long long flags)
{
    int result;
    (void)wanted;
    if (!begin("cuMemAddressReserve", false, true, &result)) return end(result);
    if (bytes == 0 || !is_granular(bytes) || flags != 0 || (alignment & (alignment - 1)) != 0)
        return end(CUDA_ERROR_INVALID_VALUE);
    if (bytes > fake.address_bytes) return end(CUDA_ERROR_OUT_OF_MEMORY);
    uint64_t align = alignment > fake.options.granularity ? alignment : fake.options.granularity, base;
    if (fake.options.backed) {
        char *p = mmap(NULL, bytes + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return end(CUDA_ERROR_OUT_OF_MEMORY);
        base = ((uint64_t)(uintptr_t)p + align - 1) & ~(align - 1);
        if (base != (uint64_t)(uintptr_t)p) munmap(p, base - (uint64_t)(uintptr_t)p);
        uint64_t tail = (uint64_t)(uintptr_t)p + align - base;
        if (tail != 0) munmap((char *)(uintptr_t)(base + bytes), tail);
    } else {
        base = (fake.address_next + align - 1) & ~(align - 1);
        fake.address_next = base + bytes + align;
    }
    fake.address_bytes -= bytes;
    make_room((void **)&fake.reservations, fake.reservation_count, &fake.reservation_room, sizeof(reservation));
    fake.reservations[fake.reservation_count++] = (reservation){base, bytes};
    *address = base;
    return end(CUDA_SUCCESS);
}

static bool is_reserved(uint64_t base, uint64_t bytes)
{
    for (size_t i = 0; i < fake.reservation_count; i++) {
        const reservation *r = &fake.reservations[i];
        if (base >= r->base && base + bytes <= r->base + r->bytes) return true;
    }
    return false;
}

/* The first mapping that ends after the address. */
static size_t mapping_index(uint64_t address)
{
    size_t low = 0, high = fake.mapping_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (fake.mappings[middle].base + fake.mappings[middle].bytes <= address) low = middle + 1;
        else high = middle;
    }
    return low;
}

static bool is_mapped(uint64_t base, uint64_t bytes)
{
    size_t i = mapping_index(base);
    return i < fake.mapping_count && fake.mappings[i].base < base + bytes;
}

CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes)
{
    int result;
    if (!begin("cuMemAddressFree", false, true, &result)) return end(result);
    for (size_t i = 0; i < fake.reservation_count; i++) {
        if (fake.reservations[i].base != address || fake.reservations[i].bytes != bytes) continue;
        if (is_mapped(address, bytes)) problem("addresses freed with mappings");
        if (fake.options.backed) munmap((void *)(uintptr_t)address, bytes);
        fake.reservations[i] = fake.reservations[--fake.reservation_count];
        fake.address_bytes += bytes;
        return end(CUDA_SUCCESS);
    }
    problem("addresses freed that were not reserved so");
    return end(CUDA_ERROR_INVALID_VALUE);
}

static int memory_file(uint64_t bytes)
{
    int fd = memfd_create("fake_cuda", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, (off_t)bytes) != 0) abort();
    return fd;
}

static uint64_t new_handle(uint64_t bytes, int fd)
{
    size_t i = 1;
    while (i < fake.handle_count && fake.handles[i].used) i++;
    if (i >= fake.handle_count) {
        make_room((void **)&fake.handles, i, &fake.handle_room, sizeof(handle));
        fake.handle_count = i + 1;
    }
    fake.handles[i] = (handle){.bytes = bytes, .used = true, .fd = fd};
    return i;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *created, size_t bytes, const CUmemAllocationProp *properties,
                     unsigned long long flags)
{
    int result;
    spend(193.0 * units(bytes));
    if (!begin("cuMemCreate", false, true, &result)) return end(result);
    if (bytes == 0 || !is_granular(bytes) || flags != 0 || properties->type != CU_MEM_ALLOCATION_TYPE_PINNED ||
        properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return end(CUDA_ERROR_INVALID_VALUE);
    if (properties->requestedHandleTypes != 0 && fake.options.no_file_handles) return end(CUDA_ERROR_NOT_SUPPORTED);
    if (bytes > fake.options.device_bytes - fake.used_bytes) return end(CUDA_ERROR_OUT_OF_MEMORY);
    bool file = fake.options.backed || properties->requestedHandleTypes != 0;
    *created = new_handle(bytes, file ? memory_file(bytes) : -1);
    fake.used_bytes += bytes;
    return end(CUDA_SUCCESS);
}

static handle *handle_of(CUmemGenericAllocationHandle number, const char *name)
{
    if (number != 0 && number < fake.handle_count && fake.handles[number].used && !fake.handles[number].released)
        return &fake.handles[number];
    problem("%s: a handle that does not exist", name);
    return NULL;
}

static void drop_if_unused(handle *h)
{
    if (!h->released || h->maps != 0) return;
    fake.used_bytes -= h->bytes;
    if (h->fd >= 0) close(h->fd);
    h->used = false;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle number)
{
    int result;
    if (!begin("cuMemRelease", false, true, &result)) return end(result);
    handle *h = handle_of(number, "cuMemRelease");
    if (h == NULL) return end(CUDA_ERROR_INVALID_VALUE);
    h->released = true;
    drop_if_unused(h);
    return end(CUDA_SUCCESS);
}

CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle number,
                  unsigned long long flags)
{
    int result;
    spend(1.5 * units(bytes));
    if (!begin("cuMemMap", false, true, &result)) return end(result);
    handle *h = handle_of(number, "cuMemMap");
    if (h == NULL || bytes == 0 || !is_granular(bytes) || !is_granular(address) || flags != 0 ||
        offset + bytes > h->bytes || !is_reserved(address, bytes)) {
        problem("cuMemMap of %p, %zu bytes: outside of what is reserved, or of the handle", (void *)address, bytes);
        return end(CUDA_ERROR_INVALID_VALUE);
    }
    if (is_mapped(address, bytes)) {
        problem("cuMemMap of %p: it is mapped", (void *)address);
        return end(CUDA_ERROR_INVALID_VALUE);
    }
    make_room((void **)&fake.mappings, fake.mapping_count, &fake.mapping_room, sizeof(mapping));
    size_t i = mapping_index(address);
    memmove(fake.mappings + i + 1, fake.mappings + i, (fake.mapping_count - i) * sizeof(mapping));
    fake.mappings[i] = (mapping){.base = address, .bytes = bytes, .offset = offset, .handle = (uint32_t)number};
    fake.mapping_count++;
    fake.mapped_bytes += bytes;
    h->maps++;
    if (fake.options.backed && mmap((void *)(uintptr_t)address, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, h->fd,
                                    (off_t)offset) == MAP_FAILED)
        abort();
    return end(CUDA_SUCCESS);
}

CUresult cuMemUnmap(CUdeviceptr address, size_t bytes)
{
    int result;
    spend(26.0 * units(bytes));
    if (!begin("cuMemUnmap", false, true, &result)) return end(result);
    size_t first = mapping_index(address), last = first;
    uint64_t at = address;
    while (last < fake.mapping_count && fake.mappings[last].base == at && at < address + bytes)
        at += fake.mappings[last++].bytes;
    if (bytes == 0 || at != address + bytes) {
        problem("cuMemUnmap of %p, %zu bytes: not exactly what is mapped", (void *)address, bytes);
        return end(CUDA_ERROR_INVALID_VALUE);
    }
    for (size_t i = 0; i < fake.use_count; i++) {
        const use *u = &fake.uses[i];
        bool known_done = u->done && u->tick <= fake.host.at[u->stream];
        if (!known_done && u->base < address + bytes && address < u->base + u->bytes)
            problem("cuMemUnmap of %p: a kernel on stream %u may still use it", (void *)address, u->stream);
    }
    for (size_t i = first; i < last; i++) {
        handle *h = &fake.handles[fake.mappings[i].handle];
        h->maps--;
        drop_if_unused(h);
    }
    memmove(fake.mappings + first, fake.mappings + last, (fake.mapping_count - last) * sizeof(mapping));
    fake.mapping_count -= last - first;
    fake.mapped_bytes -= bytes;
    if (fake.options.backed && mmap((void *)(uintptr_t)address, bytes, PROT_NONE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        abort();
    return end(CUDA_SUCCESS);
}

CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc *access, size_t count)
{
    int result;
    spend(36.0 * units(bytes));
    if (!begin("cuMemSetAccess", false, true, &result)) return end(result);
    if (count == 0 || access[0].location.type != CU_MEM_LOCATION_TYPE_DEVICE) return end(CUDA_ERROR_INVALID_VALUE);
    uint64_t at = address;
    size_t first = mapping_index(address), i = first;
    for (; i < fake.mapping_count && fake.mappings[i].base == at && at < address + bytes; i++)
        at += fake.mappings[i].bytes;
    if (bytes == 0 || at != address + bytes) {
        problem("cuMemSetAccess of %p, %zu bytes: not exactly what is mapped", (void *)address, bytes);
        return end(CUDA_ERROR_INVALID_VALUE);
    }
    for (; first < i; first++) {
        fake.mappings[first].access = access[0].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
        fake.mappings[first].devices = (unsigned)count;
    }
    if (fake.options.backed && mprotect((void *)(uintptr_t)address, bytes, PROT_READ | PROT_WRITE) != 0) abort();
    return end(CUDA_SUCCESS);
}

CUresult cuMemExportToShareableHandle(void *shareable, CUmemGenericAllocationHandle number, int type,
                                      unsigned long long flags)
{
    int result;
    (void)flags;
    if (!begin("cuMemExportToShareableHandle", false, true, &result)) return end(result);
    handle *h = handle_of(number, "cuMemExportToShareableHandle");
    if (h == NULL || h->fd < 0 || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return end(CUDA_ERROR_INVALID_VALUE);
    int fd = dup(h->fd);
    if (fd < 0) return end(CUDA_ERROR_UNKNOWN);
    memcpy(shareable, &fd, sizeof fd);
    return end(CUDA_SUCCESS);
}

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *imported, void *shareable, int type)
{
    int result;
    if (!begin("cuMemImportFromShareableHandle", false, true, &result)) return end(result);
    int fd = dup((int)(intptr_t)shareable);
    struct stat status;
    if (fd < 0 || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || fstat(fd, &status) != 0)
        return end(CUDA_ERROR_INVALID_VALUE);
    *imported = new_handle((uint64_t)status.st_size, fd);
    fake.used_bytes += (uint64_t)status.st_size; /* undone by its release; the same memory, counted twice */
    return end(CUDA_SUCCESS);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes)
{
    if (!fake.options.backed) return CUDA_ERROR_NOT_SUPPORTED;
    memcpy((void *)(uintptr_t)to, from, bytes);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes)
{
    if (!fake.options.backed) return CUDA_ERROR_NOT_SUPPORTED;
    memcpy(to, (const void *)(uintptr_t)from, bytes);
    return CUDA_SUCCESS;
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t words, CUstream stream)
{
    if (!fake.options.backed) return CUDA_ERROR_NOT_SUPPORTED;
    fake_cuda_use(stream, (const void *)(uintptr_t)to, words * sizeof value);
    for (size_t i = 0; i < words; i++) ((unsigned *)(uintptr_t)to)[i] = value;
    return CUDA_SUCCESS;
}

CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t bytes)
{
    if (!fake.options.backed) return CUDA_ERROR_NOT_SUPPORTED;
    memset((void *)(uintptr_t)to, value, bytes);
    return CUDA_SUCCESS;
}

/* --- what tests ask ---------------------------------------------------------------------------------------------- */

#define FUNCTIONS(X)                                                                                            \
    X(cuInit) X(cuDriverGetVersion) X(cuGetErrorName) X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetAttribute) \
    X(cuDeviceGetName) X(cuDeviceTotalMem_v2) X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease_v2)       \
    X(cuCtxPushCurrent_v2) X(cuCtxPopCurrent_v2) X(cuCtxGetCurrent) X(cuCtxSetCurrent) X(cuCtxSynchronize)      \
    X(cuThreadExchangeStreamCaptureMode) X(cuStreamCreate) X(cuStreamDestroy_v2) X(cuStreamIsCapturing)         \
    X(cuStreamSynchronize) X(cuStreamWaitEvent) X(cuEventCreate) X(cuEventRecord) X(cuEventQuery)               \
    X(cuEventSynchronize) X(cuEventDestroy_v2) X(cuMemGetInfo_v2) X(cuMemGetAllocationGranularity)              \
    X(cuMemAddressReserve) X(cuMemAddressFree) X(cuMemCreate) X(cuMemRelease) X(cuMemMap) X(cuMemUnmap)         \
    X(cuMemSetAccess) X(cuMemExportToShareableHandle) X(cuMemImportFromShareableHandle) X(cuMemcpyHtoD_v2)      \
    X(cuMemcpyDtoH_v2) X(cuMemsetD8_v2) X(cuMemsetD32Async)

static const struct {
    const char *name;
    void (*function)(void);
} functions[] = {
#define X(f) {#f, (void (*)(void))f},
    FUNCTIONS(X)
#undef X
};

static size_t function_index(const char *name)
{
    size_t i = 0;
    while (i < sizeof functions / sizeof functions[0] && strcmp(functions[i].name, name) != 0) i++;
    return i;
}

void *fake_cuda_symbol(void *context, const char *name)
{
    if (context != NULL && strcmp(context, name) == 0) return NULL;
    size_t i = function_index(name);
    void *found = NULL;
    if (i < sizeof functions / sizeof functions[0]) memcpy(&found, &functions[i].function, sizeof found);
    return found;
}

static void forget_all(void)
{
    while (fake.events != NULL) {
        struct CUevent_st *e = fake.events;
        fake.events = e->next;
        free(e);
    }
    for (int i = 0; i < STREAMS_MAX; i++) free(fake.streams[i].queue);
    if (fake.options.backed)
        for (size_t i = 0; i < fake.reservation_count; i++)
            munmap((void *)(uintptr_t)fake.reservations[i].base, fake.reservations[i].bytes);
    for (size_t i = 1; i < fake.handle_count; i++)
        if (fake.handles[i].used && fake.handles[i].fd >= 0) close(fake.handles[i].fd);
    free(fake.reservations);
    free(fake.mappings);
    free(fake.handles);
    free(fake.uses);
    memset((char *)&fake + sizeof fake.mutex, 0, sizeof fake - sizeof fake.mutex);
}

void fake_cuda_start(const fake_cuda_options *options)
{
    enter();
    forget_all();
    if (options != NULL) fake.options = *options;
    fake_cuda_options *o = &fake.options;
    if (o->device_bytes == 0) o->device_bytes = (uint64_t)1 << 30;
    if (o->granularity == 0) o->granularity = 2 << 20;
    if (o->device_count == 0) o->device_count = 1;
    fake.address_bytes = o->address_bytes != 0 ? o->address_bytes : (uint64_t)(o->backed ? 16 : 256) << 40;
    fake.address_next = (uint64_t)1 << 40;
    fake.streams[0].used = fake.streams[1].used = true; /* 1: CU_STREAM_LEGACY's place, 2 is nobody's */
    fake.started = true;
    leave();
}

uint64_t fake_cuda_stop(void)
{
    enter();
    size_t handles = 0;
    for (size_t i = 1; i < fake.handle_count; i++) handles += fake.handles[i].used;
    if (handles != 0) problem("%zu handles were not released", handles);
    if (fake.mapping_count != 0) problem("%zu mappings are left", fake.mapping_count);
    if (fake.reservation_count != 0) problem("%zu reservations are left", fake.reservation_count);
    if (fake.event_count != 0) problem("%llu events are left", (unsigned long long)fake.event_count);
    if (fake.contexts_retained != 0) problem("the primary context is still retained");
    if (context_depth != 0) problem("a context is still pushed");
    context_depth = 0;
    capture_mode = 0;
    uint64_t problems = fake.problems;
    if (problems != 0 && !fake.options.quiet)
        fprintf(stderr, "fake_cuda: %llu problems, the first: %s\n", (unsigned long long)problems, fake.problem);
    leave();
    return problems;
}

const char *fake_cuda_problem(void) { return fake.problems != 0 ? fake.problem : NULL; }
uint64_t fake_cuda_problems(void) { return fake.problems; }

void fake_cuda_fail(const char *name, uint64_t nth, int result)
{
    enter();
    fake.fail_name = name;
    fake.fail_in = nth;
    fake.fail_result = result;
    fake.failed_name = NULL;
    leave();
}

uint64_t fake_cuda_calls(const char *name)
{
    enter();
    uint64_t calls = name == NULL ? fake.calls_all : fake.calls[function_index(name)];
    leave();
    return calls;
}

bool fake_cuda_failed(const char **name)
{
    enter();
    if (name != NULL) *name = fake.failed_name;
    bool failed = fake.failed_name != NULL;
    leave();
    return failed;
}

uint64_t fake_cuda_used_bytes(void) { return fake.used_bytes; }
uint64_t fake_cuda_mapped_bytes(void) { return fake.mapped_bytes; }

uint64_t fake_cuda_accessible(const void *address, uint64_t bytes)
{
    enter();
    uint64_t at = (uint64_t)(uintptr_t)address, stop = at + bytes, there = 0;
    while (at < stop) {
        const mapping *m = mapping_at(at);
        uint64_t next = m != NULL ? m->base + m->bytes : at + 1;
        if (m == NULL) {
            size_t i = mapping_index(at);
            next = i < fake.mapping_count ? fake.mappings[i].base : stop;
        }
        if (next > stop) next = stop;
        if (m != NULL && m->access) there += next - at;
        at = next;
    }
    leave();
    return there;
}

unsigned fake_cuda_devices(const void *address)
{
    enter();
    const mapping *m = mapping_at((uint64_t)(uintptr_t)address);
    unsigned devices = m != NULL && m->access ? m->devices : 0;
    leave();
    return devices;
}

bool fake_cuda_same(const void *a, const void *b)
{
    enter();
    uint64_t x = (uint64_t)(uintptr_t)a, y = (uint64_t)(uintptr_t)b;
    const mapping *m = mapping_at(x), *n = mapping_at(y);
    bool same = m != NULL && n != NULL && m->handle == n->handle && x - m->base + m->offset == y - n->base + n->offset;
    leave();
    return same;
}
