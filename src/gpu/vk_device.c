/* vk_device: the life of an acre_vk: its functions, what the device is like, and its end.
 *
 * Functions come from the program's vkGetInstanceProcAddr; those of the device from vkGetDeviceProcAddr if there is one
 * (a pointer less on each call). A function that became core later is looked for under both of its names, and only
 * where the version or a feature says that the program may call it. Creation makes nothing on the device. */
#include <string.h>

#include "gpu/vk_internal.h"

enum { SHARDS_DEFAULT = 8, SHARDS_MAX = 64, EMPTY_LIVE_PERCENT = 50, EMPTY_DELAY_MS = 1000 };

static _Thread_local VkResult last_result;

VkResult acre_vk_last_result(void) { return last_result; }

acre_status vk_status(acre_vk *vk, VkResult result)
{
    if (likely(result == VK_SUCCESS)) return ACRE_OK;
    last_result = result;
    switch (result) {
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
    case VK_ERROR_OUT_OF_HOST_MEMORY:
    case VK_ERROR_TOO_MANY_OBJECTS: return ACRE_NO_MEMORY;
    case VK_ERROR_DEVICE_LOST: atomic_store_explicit(&vk->device_lost, true, memory_order_relaxed); return ACRE_SYSTEM;
    default: return ACRE_SYSTEM;
    }
}

/* --- functions -------------------------------------------------------------------------------------------------- */

static PFN_vkVoidFunction load(const acre_vk_options *o, const char *name, const char *suffix)
{
    char full[96];
    size_t length = strlen(name), more = strlen(suffix);
    if (length + more >= sizeof full) return NULL;
    memcpy(full, name, length);
    memcpy(full + length, suffix, more + 1);
    bool of_instance = strncmp(name, "vkGetPhysicalDevice", 19) == 0;
    PFN_vkVoidFunction f = NULL;
    if (!of_instance && o->get_device_proc_addr != NULL) f = o->get_device_proc_addr(o->device, full);
    return f != NULL ? f : o->get_instance_proc_addr(o->instance, full);
}

static PFN_vkVoidFunction load_either(const acre_vk_options *o, const char *name, const char *suffix)
{
    PFN_vkVoidFunction f = load(o, name, "");
    return f != NULL || suffix[0] == 0 ? f : load(o, name, suffix);
}

static bool since(const acre_vk *vk, uint32_t minor)
{
    return vk->api_version >= VK_MAKE_API_VERSION(0, 1, minor, 0);
}

static bool load_functions(acre_vk *vk, const acre_vk_options *o)
{
    vk_functions *f = &vk->call;
    bool all = true;
#define X(name) all &= (f->name = (PFN_vk##name)load(o, "vk" #name, "")) != NULL;
    VK_FUNCTIONS_REQUIRED(X)
#undef X
#define X(name, suffix) f->name = (PFN_vk##name)load_either(o, "vk" #name, suffix);
    VK_FUNCTIONS_OPTIONAL(X)
#undef X

    /* A loader answers with functions that the program must not call; and one that must be there may be missing. */
    bool dedicated = since(vk, 1) || (vk->features & ACRE_VK_HAS_DEDICATED);
    bool properties2 = since(vk, 1) || (vk->features & (ACRE_VK_HAS_MEMORY_BUDGET | ACRE_VK_HAS_EXTERNAL_HOST));
    if (!dedicated) f->GetBufferMemoryRequirements2 = NULL;
    if (!dedicated) f->GetImageMemoryRequirements2 = NULL;
    if (!properties2) f->GetPhysicalDeviceProperties2 = NULL;
    if (!properties2) f->GetPhysicalDeviceMemoryProperties2 = NULL;
    if (!since(vk, 3)) f->GetDeviceBufferMemoryRequirements = NULL;
    if (!since(vk, 3)) f->GetDeviceImageMemoryRequirements = NULL;
    if (!(vk->features & ACRE_VK_HAS_TIMELINE)) f->GetSemaphoreCounterValue = NULL;
    if (!(vk->features & ACRE_VK_HAS_TIMELINE)) f->WaitSemaphores = NULL;
    if (!(vk->features & ACRE_VK_HAS_EXTERNAL_FD)) f->GetMemoryFdKHR = NULL;
    if (!(vk->features & ACRE_VK_HAS_EXTERNAL_HOST)) f->GetMemoryHostPointerPropertiesEXT = NULL;

    if (dedicated) all &= f->GetBufferMemoryRequirements2 != NULL && f->GetImageMemoryRequirements2 != NULL;
    if (vk->features & ACRE_VK_HAS_MEMORY_BUDGET) all &= f->GetPhysicalDeviceMemoryProperties2 != NULL;
    if (vk->features & ACRE_VK_HAS_TIMELINE) all &= f->GetSemaphoreCounterValue != NULL && f->WaitSemaphores != NULL;
    if (vk->features & ACRE_VK_HAS_EXTERNAL_FD) all &= f->GetMemoryFdKHR != NULL;
    if (vk->features & ACRE_VK_HAS_EXTERNAL_HOST)
        all &= f->GetMemoryHostPointerPropertiesEXT != NULL && f->GetPhysicalDeviceProperties2 != NULL;
    return all;
}

static void read_properties(acre_vk *vk)
{
    vk->call.GetPhysicalDeviceProperties(vk->physical_device, &vk->properties);
    vk->call.GetPhysicalDeviceMemoryProperties(vk->physical_device, &vk->memory);
    vk->granularity = vk->properties.limits.bufferImageGranularity;
    vk->atom = vk->properties.limits.nonCoherentAtomSize;
    if (!is_power_of_two(vk->granularity)) vk->granularity = 1;
    if (!is_power_of_two(vk->atom)) vk->atom = 1;
    vk->kinds = vk->granularity > GRANULARITY_ROUNDED_MAX ? 2 : 1;
    vk->rounds_to_granularity = vk->granularity > GRANULE;
    if (vk->features & ACRE_VK_HAS_EXTERNAL_HOST) {
        VkPhysicalDeviceExternalMemoryHostPropertiesEXT host = {
            .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT};
        VkPhysicalDeviceProperties2 two = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &host};
        vk->call.GetPhysicalDeviceProperties2(vk->physical_device, &two);
        vk->host_alignment = (size_t)host.minImportedHostPointerAlignment;
    }
}

/* --- priorities ------------------------------------------------------------------------------------------------- */

/* Priority belongs to driver memory, so each distinct one has pages of its own; beyond PRIORITIES_MAX of them, a
 * category takes the nearest that is there. */
static void sort_priorities(acre_vk *vk)
{
    vk->priority_count = 1;
    vk->priorities[0] = 0.5f;
    if (!(vk->features & ACRE_VK_HAS_MEMORY_PRIORITY)) return;
    vk->priority_count = 0;
    for (uint32_t c = 0; c < vk->category_count; c++) {
        float wanted = vk->ledger.categories[c].priority > 0 ? vk->ledger.categories[c].priority : 0.5f, off = 2;
        uint32_t nearest = 0;
        for (uint32_t p = 0; p < vk->priority_count; p++) {
            float d = vk->priorities[p] > wanted ? vk->priorities[p] - wanted : wanted - vk->priorities[p];
            if (d < off) off = d, nearest = p;
        }
        if (off > 0 && vk->priority_count < PRIORITIES_MAX) {
            nearest = vk->priority_count++;
            vk->priorities[nearest] = wanted;
        }
        vk->priority_of_category[c] = (uint8_t)nearest;
    }
}

/* --- life ------------------------------------------------------------------------------------------------------- */

static size_t chunks_bytes(void) { return CHUNKS_MAX * sizeof(vk_block *); }
static size_t accounts_bytes(const acre_vk *vk)
{
    return (size_t)vk->category_count * vk->heap_count * sizeof(vk_account);
}

static bool make_tables(acre_vk *vk, uint32_t shards)
{
    vk->shards = arena_alloc(shards * sizeof *vk->shards);
    vk->pools = arena_alloc(vk->pool_slots * sizeof *vk->pools);
    vk->chunks = arena_reserve(chunks_bytes());
    if (vk->chunks == NULL || !arena_commit(vk->chunks, chunks_bytes())) return false;
    if (vk->shards == NULL || vk->pools == NULL) return false;
    vk->shard_mask = shards - 1;
    for (uint32_t i = 0; i < shards; i++) {
        vk_shard *s = &vk->shards[i];
        s->cached_bytes_max = vk->cache_by_use ? 256 * KIB : vk->cache_bytes_max;
        s->bins = arena_alloc(vk->pool_slots * sizeof *s->bins);
        s->accounts = arena_alloc(accounts_bytes(vk));
        if (s->bins == NULL || s->accounts == NULL) return false;
    }
    vk->alone = vk_pool_make(vk, UINT32_MAX, 0);
    return vk->alone != NULL;
}

static void free_tables(acre_vk *vk)
{
    if (vk->alone != NULL) vk_pool_end(vk, vk->alone);
    vk_records_end(vk);
    if (vk->shards != NULL) {
        for (uint32_t i = 0; i <= vk->shard_mask; i++) {
            vk_shard *s = &vk->shards[i];
            if (s->bins != NULL)
                for (uint32_t p = 0; p < vk->pool_slots; p++) arena_free(s->bins[p], sizeof(vk_bins));
            arena_free(s->bins, vk->pool_slots * sizeof *s->bins);
            arena_free(s->accounts, accounts_bytes(vk));
        }
    }
    arena_free(vk->shards, (vk->shard_mask + 1) * sizeof *vk->shards);
    arena_free(vk->pools, vk->pool_slots * sizeof *vk->pools);
    if (vk->chunks != NULL) {
        for (uint32_t i = 0; i < CHUNKS_MAX && vk->chunks[i] != NULL; i++) {
            for (uint32_t j = 0; j < BLOCKS_PER_CHUNK; j++)
                if (vk->chunks[i][j].flags & BLOCK_NAMED) arena_free(vk->chunks[i][j].name, ACRE_GPU_NAME_MAX + 1);
            arena_free(vk->chunks[i], BLOCKS_PER_CHUNK * sizeof(vk_block));
        }
        arena_release(vk->chunks, chunks_bytes());
    }
    arena_free(vk->timelines, vk->timeline_capacity * sizeof *vk->timelines);
    arena_free(vk, sizeof *vk);
}

static acre_status check_options(const acre_vk_options *o)
{
    if (o->instance == NULL || o->physical_device == NULL || o->device == NULL) return ACRE_INVALID_ARGUMENT;
    if (o->get_instance_proc_addr == NULL) return ACRE_INVALID_ARGUMENT;
    if (o->features >> 8 != 0) return ACRE_INVALID_ARGUMENT;
    if (o->shards != 0 && (!is_power_of_two(o->shards) || o->shards > SHARDS_MAX)) return ACRE_INVALID_ARGUMENT;
    if (o->page_bytes_max != 0 && o->page_bytes_min > o->page_bytes_max) return ACRE_INVALID_ARGUMENT;
    if (o->categories == NULL && o->category_count != 0) return ACRE_INVALID_ARGUMENT;
    return ACRE_OK;
}

acre_status acre_vk_create(const acre_vk_options *options, acre_vk **out)
{
    if (options == NULL || out == NULL) return ACRE_INVALID_ARGUMENT;
    acre_status status = check_options(options);
    if (status != ACRE_OK) return status;
    os_init();
    acre_vk *vk = arena_alloc(sizeof *vk);
    if (vk == NULL) return ACRE_NO_MEMORY;

    static _Atomic uint32_t ids;
    vk->id = atomic_fetch_add_explicit(&ids, 1, memory_order_relaxed) % 255 + 1;
    vk->instance = options->instance;
    vk->physical_device = options->physical_device;
    vk->device = options->device;
    vk->api_version = options->api_version != 0 ? options->api_version : VK_API_VERSION_1_0;
    vk->features = options->features;
    if (options->callbacks != NULL) {
        vk->callbacks = *options->callbacks;
        vk->callbacks_or_null = &vk->callbacks;
    }
    vk->page_bytes_min = options->page_bytes_min;
    vk->page_bytes_max = options->page_bytes_max;
    vk->policy.bytes_max = options->empty_bytes_max == 0   ? UINT64_MAX
                           : options->empty_bytes_max == 1 ? 0
                                                           : options->empty_bytes_max;
    vk->policy.live_percent = options->empty_live_percent != 0 ? options->empty_live_percent : EMPTY_LIVE_PERCENT;
    vk->policy.delay_ms = options->empty_delay_ms != 0 ? options->empty_delay_ms : EMPTY_DELAY_MS;
    vk->cache_by_use = options->cache_bytes_max == 0;
    vk->cache_bytes_max = options->cache_bytes_max == 1 ? 0 : options->cache_bytes_max;
    vk->now_ms = options->now_ms;
    vk->now_context = options->now_context;
    vk->on_limit = options->on_limit;
    vk->on_limit_context = options->on_limit_context;

    status = load_functions(vk, options) ? ACRE_OK : ACRE_NOT_SUPPORTED;
    if (status == ACRE_OK) {
        read_properties(vk);
        vk->heap_count = vk->memory.memoryHeapCount;
        if (vk->heap_count == 0 || vk->heap_count > ACRE_GPU_HEAPS_MAX || vk->memory.memoryTypeCount == 0)
            status = ACRE_NOT_SUPPORTED;
    }
    if (status == ACRE_OK)
        status = gpu_ledger_init(&vk->ledger, options->categories, options->category_count, vk->heap_count);
    if (status == ACRE_OK) {
        vk->category_count = vk->ledger.category_count;
        sort_priorities(vk);
        vk_types_init(vk);
        vk->shared_pools = vk->memory.memoryTypeCount * vk->kinds * GROUP_COUNT * vk->priority_count;
        vk->pool_slots = vk->shared_pools + POOLS_OF_ONES_OWN;
        vk_retire_init(vk);
        vk_budgets_init(vk, options);
        if (!make_tables(vk, options->shards != 0 ? options->shards : SHARDS_DEFAULT)) status = ACRE_NO_MEMORY;
        if (status != ACRE_OK) retire_destroy(&vk->retire);
    }
    if (status != ACRE_OK) {
        free_tables(vk);
        return status;
    }
    uint64_t now = vk_now(vk);
    atomic_store_explicit(&vk->maintained_ms, now, memory_order_relaxed);
    atomic_store_explicit(&vk->budgets_ms, now, memory_order_relaxed);
    *out = vk;
    return ACRE_OK;
}

/* Resources that wait for the GPU go with their blocks. */
static void end_pending(acre_vk *vk)
{
    uint32_t chunks = atomic_load_explicit(&vk->chunk_count, memory_order_acquire);
    for (uint32_t i = 0; i < chunks << BLOCKS_PER_CHUNK_LOG2; i++) {
        vk_block *b = vk_block_at(vk, i);
        if (b == NULL || (b->state & BLOCK_STATE_MASK) != BLOCK_PENDING) continue;
        if (b->flags & BLOCK_HAS_BUFFER)
            vk->call.DestroyBuffer(vk->device, (VkBuffer)b->resource, vk->callbacks_or_null);
        if (b->flags & BLOCK_HAS_IMAGE) vk->call.DestroyImage(vk->device, (VkImage)b->resource, vk->callbacks_or_null);
    }
}

uint64_t acre_vk_destroy(acre_vk *vk)
{
    if (vk == NULL) return 0;
    uint64_t credit, blocks;
    vk_credit(vk, UINT32_MAX, UINT32_MAX, &credit, &blocks);
    end_pending(vk);
    retire_destroy(&vk->retire);
    for (uint32_t p = 0; p < vk->pool_slots; p++)
        if (vk->pools[p] != NULL) vk_pool_end(vk, vk->pools[p]);
    free_tables(vk);
    return blocks;
}

acre_status acre_vk_memory_type_properties(acre_vk *vk, uint32_t memory_type, VkMemoryPropertyFlags *flags,
                                           uint32_t *heap)
{
    if (vk == NULL || memory_type >= vk->memory.memoryTypeCount) return ACRE_INVALID_ARGUMENT;
    if (flags != NULL) *flags = vk->type_flags[memory_type];
    if (heap != NULL) *heap = vk->heap_of[memory_type];
    return ACRE_OK;
}

uint32_t acre_vk_heap_count(acre_vk *vk) { return vk != NULL ? vk->heap_count : 0; }
size_t acre_vk_host_alignment(acre_vk *vk) { return vk != NULL ? vk->host_alignment : 0; }
