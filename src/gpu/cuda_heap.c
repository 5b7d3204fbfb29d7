/* cuda_heap: making and ending the memory of one device, and its upkeep. See cuda_heap.h.
 *
 * Creation goes through parts, each of which can fail, and destruction takes apart whatever parts there are, so a
 * failed creation is a destruction. Device memory is not touched before the first block. */
#include "gpu/cuda_heap.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "acre/suballoc.h"
#include "page/arena.h"

enum {
    SLICES_DEFAULT = 16,
    ROOM_SLICES_DEFAULT = 4,
    SLICE_PAGES_MIN = 64,
    SMALL_SHARE_LOG2 = 2, /* of a slice, for small blocks */
};

typedef struct creation {
    acre_cuda *h;
    const acre_cuda_options *options;
    acre_cuda_error *why;
} creation;

__attribute__((format(printf, 3, 4))) static acre_status refuse(const creation *c, acre_status status,
                                                                 const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(c->why->text, sizeof c->why->text, format, arguments);
    va_end(arguments);
    return c->why->status = status;
}

/* What the driver said, as the reason. */
static acre_status answer(const creation *c, CUresult result, const char *call)
{
    acre_status status = cuda_answer(c->h, result, call, NULL);
    if (status != ACRE_OK) *c->why = c->h->error;
    return status;
}

/* --- the device -------------------------------------------------------------------------------------------------- */

static acre_status check_options(const creation *c)
{
    const acre_cuda_options *o = c->options;
    if (o->page_bytes != 0 && !is_power_of_two(o->page_bytes))
        return refuse(c, ACRE_INVALID_ARGUMENT, "page_bytes %llu is no power of two",
                      (unsigned long long)o->page_bytes);
    if (o->peer_count > ACRE_CUDA_PEERS_MAX || (o->peer_count != 0 && o->peers == NULL))
        return refuse(c, ACRE_INVALID_ARGUMENT, "peer_count %u is above %d, or there are none", o->peer_count,
                      ACRE_CUDA_PEERS_MAX);
    if (gpu_ledger_init(&c->h->ledger, o->categories, o->category_count, 1) != ACRE_OK)
        return refuse(c, ACRE_INVALID_ARGUMENT, "categories: too many, two of one name, or a value out of its bounds");
    uint32_t count = c->h->ledger.category_count;
    if (o->own_lanes & ~bits_mask(count))
        return refuse(c, ACRE_INVALID_ARGUMENT, "own_lanes names categories above the %u that there are", count);
    return ACRE_OK;
}

static acre_status attribute(const creation *c, int which, int *value)
{
    return answer(c, c->h->driver.device_attribute(value, which, c->h->device), "cuDeviceGetAttribute");
}

static acre_status find_device(const creation *c)
{
    acre_cuda *h = c->h;
    const cuda_driver *d = &h->driver;
    int count = 0, vmm = 0;
    CUresult result = d->init(0);
    if (result != CUDA_SUCCESS) {
        answer(c, result, "cuInit");
        return refuse(c, ACRE_NOT_SUPPORTED, "cuInit: %s (%d): there is a driver, but no device that it can use",
                      cuda_driver_error_name(d, result), result);
    }
    acre_status status = answer(c, d->device_count(&count), "cuDeviceGetCount");
    if (status != ACRE_OK) return status;
    int ordinal = c->options->device;
    if (ordinal < 0 || ordinal >= count)
        return refuse(c, ACRE_NOT_SUPPORTED, "there is no device %d: there are %d", ordinal, count);
    status = answer(c, d->device_get(&h->device, ordinal), "cuDeviceGet");
    if (status == ACRE_OK)
        status = attribute(c, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, &vmm);
    if (status == ACRE_OK && !vmm)
        return refuse(c, ACRE_NOT_SUPPORTED, "device %d has no virtual memory management", ordinal);
    int exports = 0;
    if (status == ACRE_OK)
        status = attribute(c, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, &exports);
    h->can_export = exports && d->export_handle != NULL && d->import_handle != NULL;
    size_t total = 0;
    if (status == ACRE_OK) status = answer(c, d->device_total(&total, h->device), "cuDeviceTotalMem_v2");
    h->device_bytes = total;
    if (status == ACRE_OK) status = answer(c, d->context_retain(&h->context, h->device), "cuDevicePrimaryCtxRetain");
    h->context_retained = status == ACRE_OK;
    return status;
}

static void set_access(acre_cuda *h, const acre_cuda_options *o)
{
    for (uint32_t i = 0; i <= o->peer_count; i++)
        h->access[i] = (CUmemAccessDesc){
            .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = i == 0 ? h->device : o->peers[i - 1]},
            .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
    h->access_count = 1 + o->peer_count;
}

static acre_status choose_pages(const creation *c)
{
    acre_cuda *h = c->h;
    const CUmemAllocationProp properties = {
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = h->device},
    };
    size_t minimum = 0, recommended = 0;
    acre_status status = answer(c, h->driver.granularity(&minimum, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
                                "cuMemGetAllocationGranularity");
    if (status == ACRE_OK)
        status = answer(c, h->driver.granularity(&recommended, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
                        "cuMemGetAllocationGranularity");
    if (status != ACRE_OK) return status;
    uint64_t wanted = c->options->page_bytes;
    if (!is_power_of_two(recommended) || !is_power_of_two(minimum))
        return refuse(c, ACRE_NOT_SUPPORTED, "the device's granularity, %zu, is no power of two", recommended);
    if (wanted != 0 && wanted < minimum)
        return refuse(c, ACRE_INVALID_ARGUMENT, "page_bytes %llu is below the device's granularity %zu",
                      (unsigned long long)wanted, minimum);
    h->page_bytes = wanted != 0 ? wanted : recommended;
    return ACRE_OK;
}

/* --- addresses --------------------------------------------------------------------------------------------------- */

static void set_groups(acre_cuda *h)
{
    h->group_count = 1;
    for (uint32_t i = 0; i < h->ledger.category_count; i++)
        h->group_of[i] = h->own_lanes >> i & 1 ? (uint16_t)h->group_count++ : 0;
}

static uint64_t slices_for(uint64_t bytes, uint64_t slice_bytes, uint64_t least, uint64_t otherwise)
{
    uint64_t count = bytes != 0 ? (bytes - 1) / slice_bytes + 1 : otherwise;
    return count < least ? least : count;
}

/* Less and less, down to a lane per group. */
static acre_status reserve(const creation *c)
{
    acre_cuda *h = c->h;
    const acre_cuda_options *o = c->options;
    uint64_t least = h->page_bytes * SLICE_PAGES_MIN;
    h->slice_bytes = power_of_two_at_least(h->device_bytes + h->device_bytes / 2);
    if (h->slice_bytes < least) h->slice_bytes = least;
    h->slice_log2 = bits_lowest(h->slice_bytes);
    h->small_bytes = h->slice_bytes >> SMALL_SHARE_LOG2;
    uint64_t slices = slices_for(o->reserve_bytes, h->slice_bytes, h->group_count,
                                 SLICES_DEFAULT + 2 * (uint64_t)(h->group_count - 1));
    if (slices > CUDA_SLICES_MAX)
        return refuse(c, ACRE_INVALID_ARGUMENT, "reserve_bytes is above %d slices of %llu bytes", CUDA_SLICES_MAX,
                      (unsigned long long)h->slice_bytes);
    uint64_t room = slices_for(o->room_bytes, h->slice_bytes, 1, ROOM_SLICES_DEFAULT);
    for (;;) {
        CUdeviceptr base = 0;
        uint64_t bytes = (slices + room + 1) << h->slice_log2;
        acre_status status = answer(c, h->driver.address_reserve(&base, bytes, 0, 0, 0), "cuMemAddressReserve");
        if (status == ACRE_OK) {
            h->reserved_base = base;
            h->reserved_bytes = bytes;
            h->slice_count = (uint32_t)slices;
            h->room_base = base + (slices << h->slice_log2);
            h->room_bytes = room << h->slice_log2;
            h->export_base = h->room_base + h->room_bytes;
            h->export_bytes = h->slice_bytes;
            return ACRE_OK;
        }
        if (slices == h->group_count && room == 1) return status == ACRE_NO_MEMORY ? status : ACRE_SYSTEM;
        slices = slices / 2 > h->group_count ? slices / 2 : h->group_count;
        room = room / 2 > 1 ? room / 2 : 1;
    }
}

static acre_status make_store(const creation *c)
{
    acre_cuda *h = c->h;
    const acre_cuda_options *o = c->options;
    acre_cuda_set_budget(h, o->budget_bytes);
    retire_owner owner = cuda_retire_owner(h);
    retire_init(&h->retire, &owner);
    const paged_store_options options = {
        .provider = cuda_provider(h),
        .policy = {.bytes_max = o->empty_bytes_max != 0 ? o->empty_bytes_max : UINT64_MAX,
                   .live_percent = o->empty_live_percent != 0 ? o->empty_live_percent : EMPTY_LIVE_PERCENT_DEFAULT,
                   .delay_ms = o->empty_delay_ms != 0 ? o->empty_delay_ms : EMPTY_DELAY_MS_DEFAULT},
        .ledger = &h->ledger,
    };
    return paged_store_init(&h->store, &options);
}

static acre_status build(const creation *c)
{
    acre_cuda *h = c->h;
    const acre_cuda_options *o = c->options;
    acre_status status = check_options(c);
    if (status == ACRE_OK) status = cuda_driver_load(&h->driver, o, c->why);
    if (status == ACRE_OK) status = find_device(c);
    if (status != ACRE_OK) return status;
    h->own_lanes = o->own_lanes;
    h->wait_before_growth = o->wait_before_growth;
    h->on_limit = o->on_limit;
    h->on_limit_context = o->on_limit_context;
    set_access(h, o);
    set_groups(h);
    cuda_scope scope;
    if (!cuda_enter(h, &scope, NULL)) {
        *c->why = h->error;
        return c->why->status;
    }
    status = choose_pages(c);
    if (status == ACRE_OK) status = reserve(c);
    cuda_leave(h, &scope);
    if (status == ACRE_OK) status = make_store(c);
    return status;
}

/* --- life -------------------------------------------------------------------------------------------------------- */

acre_status acre_cuda_create(const acre_cuda_options *options, acre_cuda **heap, acre_cuda_error *why)
{
    static const acre_cuda_options defaults = {0};
    acre_cuda_error unwanted;
    if (why == NULL) why = &unwanted;
    *why = (acre_cuda_error){.status = ACRE_OK};
    if (heap == NULL) return why->status = ACRE_INVALID_ARGUMENT;
    os_init();
    creation c = {.options = options != NULL ? options : &defaults, .why = why};
    c.h = arena_alloc(sizeof *c.h);
    if (c.h == NULL) return refuse(&c, ACRE_NO_MEMORY, "%s", acre_status_text(ACRE_NO_MEMORY));
    acre_status status = build(&c);
    if (status == ACRE_OK) {
        /* Addresses that were asked for in vain on the way are no error of this heap. */
        *why = c.h->error = (acre_cuda_error){.status = ACRE_OK};
        *heap = c.h;
        return ACRE_OK;
    }
    why->status = status;
    if (why->text[0] == 0) snprintf(why->text, sizeof why->text, "%s", acre_status_text(status));
    acre_cuda_destroy(c.h);
    return status;
}

typedef struct emptying {
    uint64_t *handles;
    uint32_t count, room;
} emptying;

static bool gather(void *context, paged_range *range, const paged_block *block)
{
    emptying *e = context;
    (void)range;
    if (e->count < e->room) e->handles[e->count++] = block->handle;
    return e->count < e->room;
}

/* Frees every block, some hundreds at a time: the walk must not change what it walks on. */
static bool empty_range(void *context, cuda_range *r)
{
    uint64_t handles[512];
    emptying e = {.handles = handles, .room = 512};
    paged_failure failure;
    acre_cuda *h = context;
    (void)h;
    do {
        e.count = 0;
        if (r->bytes != 0) paged_walk(&r->pages, gather, &e);
        uint32_t freed = 0;
        for (uint32_t i = 0; i < e.count; i++) freed += paged_free(&r->pages, handles[i], &failure) == ACRE_OK;
        if (freed == 0) break;
    } while (e.count != 0);
    return true;
}

static void remove_lane(acre_cuda *h, cuda_lane *lane)
{
    /* Twice: what failed once is tried again before it is given up. */
    paged_failure failure;
    if (lane != NULL && cuda_lane_remove(h, lane, &failure) != ACRE_OK) (void)cuda_lane_remove(h, lane, &failure);
}

static void free_lanes(acre_cuda *h)
{
    paged_failure failure;
    /* Of views that could not be unmapped at first, more than one try may be needed. */
    for (int i = 0; i < 2; i++) cuda_ranges(h, empty_range, h);
    for (uint32_t i = 0; i < h->slice_count; i++)
        remove_lane(h, atomic_load_explicit(&h->slices[i], memory_order_relaxed));
    if (h->room_made && paged_range_destroy(&h->room.large.pages, &failure) != ACRE_OK)
        (void)paged_range_destroy(&h->room.large.pages, &failure);
    cuda_captures_destroy(h);
    if (h->store.page_bytes != 0 && paged_store_destroy(&h->store, &failure) != ACRE_OK)
        (void)paged_store_destroy(&h->store, &failure);
    while (h->lanes_spare != NULL) {
        cuda_lane *next = *(cuda_lane **)(void *)h->lanes_spare;
        arena_free(h->lanes_spare, sizeof(cuda_lane));
        h->lanes_spare = next;
    }
}

void acre_cuda_destroy(acre_cuda *h)
{
    if (h == NULL) return;
    paged_failure failure;
    bool wait = cuda_may_wait(true);
    /* Twice, as everywhere here. */
    if (h->context_retained && !cuda_streams_wait(h, &failure)) (void)cuda_streams_wait(h, &failure);
    if (h->reserved_bytes != 0) {
        for (uint64_t left = retire_count(&h->retire); left != 0; left--) retire_poll(&h->retire);
        for (cuda_capture *c = h->captures; c != NULL; c = c->next)
            atomic_store_explicit(&c->released, true, memory_order_relaxed);
        free_lanes(h);
        cuda_exports_destroy(h);
        retire_destroy(&h->retire);
        cuda_scope scope;
        if (cuda_enter(h, &scope, &failure) || cuda_enter(h, &scope, &failure)) {
            if (h->driver.address_free(h->reserved_base, h->reserved_bytes) != CUDA_SUCCESS)
                (void)h->driver.address_free(h->reserved_base, h->reserved_bytes);
            cuda_leave(h, &scope);
        }
    }
    cuda_streams_destroy(h);
    if (h->context_retained && h->driver.context_release(h->device) != CUDA_SUCCESS)
        (void)h->driver.context_release(h->device);
    cuda_may_wait(wait);
    arena_free(h, sizeof *h);
}

/* --- upkeep ------------------------------------------------------------------------------------------------------ */

static acre_status upkeep(acre_cuda *h, bool by_policy, uint64_t keep_bytes, uint64_t *given_back)
{
    paged_failure failure = {.status = ACRE_OK};
    retire_poll(&h->retire);
    cuda_captures_sweep(h);
    acre_gpu_heap_stats stats;
    gpu_ledger_read_heap(&h->ledger, 0, &stats);
    uint64_t over = stats.budget_bytes != 0 && stats.held_bytes > stats.budget_bytes
                        ? stats.held_bytes - stats.budget_bytes : 0;
    *given_back = by_policy ? paged_store_tick(&h->store, over, &failure)
                            : paged_store_trim(&h->store, keep_bytes, &failure);
    return failure.status == ACRE_BUSY ? ACRE_OK : failure.status; /* the GPU is not done: not now, then */
}

acre_status acre_cuda_tick(acre_cuda *h)
{
    if (h == NULL) return ACRE_INVALID_ARGUMENT;
    uint64_t given_back;
    bool wait = cuda_may_wait(false);
    acre_status status = upkeep(h, true, 0, &given_back);
    cuda_may_wait(wait);
    return status;
}

acre_status acre_cuda_trim(acre_cuda *h, uint64_t keep_bytes, bool wait, uint64_t *given_back)
{
    if (h == NULL) return ACRE_INVALID_ARGUMENT;
    uint64_t gone;
    bool before = cuda_may_wait(wait);
    for (uint64_t rounds = 64 + 4 * retire_count(&h->retire); wait && rounds-- > 0 && cuda_collect(h);) {}
    acre_status status = upkeep(h, false, keep_bytes, &gone);
    cuda_may_wait(before);
    if (given_back != NULL) *given_back = gone;
    return status;
}

acre_status acre_cuda_set_budget(acre_cuda *h, uint64_t budget_bytes)
{
    if (h == NULL) return ACRE_INVALID_ARGUMENT;
    atomic_store_explicit(&h->ledger.heaps[0].budget, budget_bytes != 0 ? budget_bytes : UINT64_MAX,
                          memory_order_relaxed);
    return ACRE_OK;
}

acre_status acre_cuda_set_category_budget(acre_cuda *h, uint32_t category, uint64_t budget_bytes)
{
    if (h == NULL || category >= h->ledger.category_count) return ACRE_INVALID_ARGUMENT;
    atomic_store_explicit(&h->ledger.categories[category].budget, budget_bytes, memory_order_relaxed);
    return ACRE_OK;
}
