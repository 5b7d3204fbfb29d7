/* fake_vulkan: the device's life and its books: objects by number, what was wrong, orders to fail, time, counters. The
 * rest is in the files that fake_vulkan_inside.h names. */
#define _GNU_SOURCE
#include "fake_vulkan.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fake_vulkan_inside.h"

enum { ID_STRIDE = 16, ID_FIRST = 0x10000 };

static const char *const wrong_text[] = {
#define X(name, text) text,
    FAKE_VK_WRONG_LIST(X)
#undef X
};
static const struct { const char *name; bool errors; } calls[] = {
#define X(name, errors) {"vk" #name, errors},
    FAKE_VK_CALL_LIST(X)
#undef X
};
static const char *const kind_name[FAKE_KINDS] = {"nothing", "memory", "buffer",   "image",
                                                  "claim",   "fence",  "semaphore"};

void *fake_zeroed(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (p == NULL) {
        fprintf(stderr, "fake_vulkan: the test has no memory\n");
        abort();
    }
    return p;
}

/* --- tables ------------------------------------------------------------------------------------------------------- */

VkPhysicalDeviceMemoryProperties fake_vk_memory(uint32_t heaps, const VkMemoryHeap *heap, uint32_t types,
                                                const VkMemoryType *type)
{
    VkPhysicalDeviceMemoryProperties table = {.memoryHeapCount = heaps, .memoryTypeCount = types};
    memcpy(table.memoryHeaps, heap, heaps * sizeof *heap);
    memcpy(table.memoryTypes, type, types * sizeof *type);
    return table;
}

VkPhysicalDeviceMemoryProperties fake_vk_desktop(void)
{
    enum {
        DEVICE = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT,
        VISIBLE = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT,
        COHERENT = VK_MEMORY_PROPERTY_HOST_COHERENT_BIT,
        CACHED = VK_MEMORY_PROPERTY_HOST_CACHED_BIT,
        LAZY = VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT,
    };
    const VkMemoryHeap heaps[] = {{8ull << 30, VK_MEMORY_HEAP_DEVICE_LOCAL_BIT},
                                  {16ull << 30, 0},
                                  {256ull << 20, VK_MEMORY_HEAP_DEVICE_LOCAL_BIT}};
    const VkMemoryType types[] = {{DEVICE, 0},
                                  {VISIBLE | COHERENT, 1},
                                  {VISIBLE | COHERENT | CACHED, 1},
                                  {DEVICE | VISIBLE | COHERENT, 2},
                                  {VISIBLE | CACHED, 1},
                                  {DEVICE | LAZY, 0}};
    return fake_vk_memory(3, heaps, 6, types);
}

VkBufferCreateInfo fake_vk_buffer_info(VkDeviceSize size, VkBufferUsageFlags usage)
{
    return (VkBufferCreateInfo){
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
        .size = size,
        .usage = usage ? usage : VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT,
    };
}

VkImageCreateInfo fake_vk_image_info(uint32_t width, uint32_t height, VkFormat format, VkImageUsageFlags usage)
{
    return (VkImageCreateInfo){
        .sType = VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO,
        .imageType = VK_IMAGE_TYPE_2D,
        .format = format ? format : VK_FORMAT_R8G8B8A8_UNORM,
        .extent = {width, height, 1},
        .mipLevels = 1,
        .arrayLayers = 1,
        .samples = VK_SAMPLE_COUNT_1_BIT,
        .tiling = VK_IMAGE_TILING_OPTIMAL,
        .usage = usage ? usage : VK_IMAGE_USAGE_SAMPLED_BIT | VK_IMAGE_USAGE_TRANSFER_DST_BIT,
    };
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static uint32_t ordinary_types(const VkPhysicalDeviceMemoryProperties *memory)
{
    uint32_t bits = 0;
    for (uint32_t i = 0; i < memory->memoryTypeCount; i++)
        if (!(memory->memoryTypes[i].propertyFlags &
              (VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT | VK_MEMORY_PROPERTY_PROTECTED_BIT)))
            bits |= 1u << i;
    return bits;
}

fake_vk *fake_vk_create(const fake_vk_options *options)
{
    fake_vk *gpu = fake_zeroed(sizeof *gpu);
    if (options != NULL) gpu->options = *options;
    fake_vk_options *o = &gpu->options;
    if (o->memory.memoryHeapCount == 0) o->memory = fake_vk_desktop();
    if (o->non_coherent_atom == 0) o->non_coherent_atom = 64;
    if (o->buffer_image_granularity == 0) o->buffer_image_granularity = 1024;
    if (o->buffer_alignment == 0) o->buffer_alignment = 64;
    if (o->host_pointer_alignment == 0) o->host_pointer_alignment = 4096;
    if (o->allocation_bytes_max == 0) o->allocation_bytes_max = 4ull << 30;
    if (o->allocations_max == 0) o->allocations_max = 4096;
    if (o->api_version == 0) o->api_version = VK_API_VERSION_1_3;
    if (o->buffer_type_bits == 0) o->buffer_type_bits = ordinary_types(&o->memory);
    if (o->image_type_bits == 0) o->image_type_bits = ordinary_types(&o->memory);
    pthread_mutex_init(&gpu->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&gpu->moved, &monotonic);
    pthread_condattr_destroy(&monotonic);
    gpu->instance.gpu = gpu->physical.gpu = gpu->device.gpu = gpu->queue.gpu = gpu;
    gpu->last_failed = FAKE_VK_CALLS;
    return gpu;
}

uint64_t fake_vk_destroy(fake_vk *gpu)
{
    pthread_mutex_lock(&gpu->lock);
    while (gpu->first_batch != NULL) {
        fake_batch *batch = gpu->first_batch;
        gpu->first_batch = batch->next;
        fake_batch_free(batch);
    }
    gpu->flight_count = 0;
    for (uint64_t i = 0; i < gpu->object_count; i++) {
        fake_object *object = gpu->objects[i];
        if (object == NULL) continue;
        fake_wrong(gpu, FAKE_VK_WRONG_LEAK, "%s %#lx", kind_name[object->kind], (unsigned long)object->id);
        if (object->kind == FAKE_MEMORY) {
            fake_memory_release(gpu, (fake_memory *)object);
        } else if (object->kind == FAKE_FENCE || object->kind == FAKE_SEMAPHORE) {
            free(object);
        } else {
            free(((fake_resource *)object)->pages);
            free(object);
        }
    }
    uint64_t wrongs = gpu->wrongs[FAKE_VK_WRONGS];
    pthread_mutex_unlock(&gpu->lock);
    pthread_mutex_destroy(&gpu->lock);
    pthread_cond_destroy(&gpu->moved);
    free(gpu->objects);
    free(gpu->flights);
    free(gpu);
    return wrongs;
}

VkInstance fake_vk_instance(fake_vk *gpu) { return &gpu->instance; }
VkPhysicalDevice fake_vk_physical_device(fake_vk *gpu) { return &gpu->physical; }
VkDevice fake_vk_device(fake_vk *gpu) { return &gpu->device; }
VkQueue fake_vk_queue(fake_vk *gpu) { return &gpu->queue; }

/* --- objects ------------------------------------------------------------------------------------------------------ */

uint64_t fake_add(fake_vk *gpu, fake_kind kind, fake_object *object)
{
    if (gpu->object_count == gpu->object_capacity) {
        gpu->object_capacity = gpu->object_capacity ? gpu->object_capacity * 2 : 64;
        gpu->objects = realloc(gpu->objects, gpu->object_capacity * sizeof(fake_object *));
        if (gpu->objects == NULL) abort();
    }
    object->kind = kind;
    object->id = ID_FIRST + gpu->object_count * ID_STRIDE;
    gpu->objects[gpu->object_count++] = object;
    gpu->live[kind]++;
    return object->id;
}

void fake_remove(fake_vk *gpu, fake_object *object)
{
    gpu->objects[(object->id - ID_FIRST) / ID_STRIDE] = NULL;
    gpu->live[object->kind]--;
}

fake_object *fake_look(fake_vk *gpu, uint64_t id)
{
    if (id < ID_FIRST || id % ID_STRIDE != 0) return NULL;
    uint64_t index = (id - ID_FIRST) / ID_STRIDE;
    return index < gpu->object_count ? gpu->objects[index] : NULL;
}

void *fake_find(fake_vk *gpu, fake_kind kind, uint64_t id, const char *where)
{
    fake_object *object = fake_look(gpu, id);
    if (object != NULL && object->kind == kind) return object;
    fake_wrong(gpu, FAKE_VK_WRONG_STALE_HANDLE, "%s: %#lx is no %s", where, (unsigned long)id, kind_name[kind]);
    return NULL;
}

fake_resource *fake_find_resource(fake_vk *gpu, uint64_t id, const char *where)
{
    fake_object *object = fake_look(gpu, id);
    if (object != NULL && (object->kind == FAKE_BUFFER || object->kind == FAKE_IMAGE || object->kind == FAKE_CLAIM))
        return (fake_resource *)object;
    fake_wrong(gpu, FAKE_VK_WRONG_STALE_HANDLE, "%s: %#lx is no resource", where, (unsigned long)id);
    return NULL;
}

const void *fake_chained(const void *next, VkStructureType type)
{
    for (const VkBaseInStructure *s = next; s != NULL; s = s->pNext)
        if (s->sType == type) return s;
    return NULL;
}

/* --- the checker's book ------------------------------------------------------------------------------------------- */

void fake_wrong(fake_vk *gpu, fake_vk_wrong wrong, const char *format, ...)
{
    char text[FAKE_WRONG_TEXT_MAX], details[FAKE_WRONG_TEXT_MAX / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(details, sizeof details, format, args);
    va_end(args);
    snprintf(text, sizeof text, "%s: %s", details, wrong_text[wrong]);
    if (gpu->wrongs[FAKE_VK_WRONGS] == 0) memcpy(gpu->first_wrong, text, sizeof text);
    gpu->wrongs[wrong]++;
    gpu->wrongs[FAKE_VK_WRONGS]++;
    if (!gpu->options.quiet) fprintf(stderr, "fake_vulkan: %s\n", text);
}

uint64_t fake_vk_wrongs(fake_vk *gpu, fake_vk_wrong wrong)
{
    pthread_mutex_lock(&gpu->lock);
    uint64_t count = gpu->wrongs[wrong];
    pthread_mutex_unlock(&gpu->lock);
    return count;
}

const char *fake_vk_first_wrong(fake_vk *gpu) { return gpu->first_wrong; }

void fake_vk_forgive(fake_vk *gpu)
{
    pthread_mutex_lock(&gpu->lock);
    memset(gpu->wrongs, 0, sizeof gpu->wrongs);
    gpu->first_wrong[0] = 0;
    pthread_mutex_unlock(&gpu->lock);
}

void fake_vk_set_quiet(fake_vk *gpu, bool quiet)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->options.quiet = quiet;
    pthread_mutex_unlock(&gpu->lock);
}

static uint64_t live_of(fake_vk *gpu, fake_kind first, fake_kind last)
{
    pthread_mutex_lock(&gpu->lock);
    uint64_t count = 0;
    for (fake_kind kind = first; kind <= last; kind++) count += gpu->live[kind];
    pthread_mutex_unlock(&gpu->lock);
    return count;
}

uint64_t fake_vk_live(fake_vk *gpu) { return live_of(gpu, FAKE_MEMORY, FAKE_SEMAPHORE); }
uint64_t fake_vk_live_memories(fake_vk *gpu) { return live_of(gpu, FAKE_MEMORY, FAKE_MEMORY); }
uint64_t fake_vk_live_resources(fake_vk *gpu) { return live_of(gpu, FAKE_BUFFER, FAKE_CLAIM); }

static VkDeviceSize sum_of(fake_vk *gpu, const VkDeviceSize *bytes, uint32_t heap)
{
    pthread_mutex_lock(&gpu->lock);
    VkDeviceSize sum = 0;
    for (uint32_t i = 0; i < gpu->options.memory.memoryHeapCount; i++)
        if (heap == UINT32_MAX || heap == i) sum += bytes[i];
    pthread_mutex_unlock(&gpu->lock);
    return sum;
}

VkDeviceSize fake_vk_heap_used(fake_vk *gpu, uint32_t heap) { return sum_of(gpu, gpu->used, heap); }
VkDeviceSize fake_vk_heap_used_peak(fake_vk *gpu, uint32_t heap) { return sum_of(gpu, gpu->used_peak, heap); }

/* --- a call ------------------------------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool ordered(fake_vk *gpu, fake_vk_call kind)
{
    const fake_order *order = &gpu->orders[kind];
    if (order->at == 0) return false;
    return gpu->counts[kind] == order->at || (order->onwards && gpu->counts[kind] > order->at);
}

VkResult fake_enter(fake_vk *gpu, fake_vk_call call)
{
    pthread_mutex_lock(&gpu->lock);
    fake_vk_hook *hook = gpu->hook;
    void *context = gpu->hook_context;
    uint64_t latency = gpu->latency_ns[call];
    pthread_mutex_unlock(&gpu->lock);
    if (hook != NULL) hook(context, call);
    if (latency != 0)
        for (uint64_t until = now_ns() + latency; now_ns() < until;) continue;

    pthread_mutex_lock(&gpu->lock);
    gpu->counts[call]++;
    if (!calls[call].errors) return VK_SUCCESS;
    gpu->counts[FAKE_VK_ANY]++;
    fake_vk_call by = ordered(gpu, call) ? call : ordered(gpu, FAKE_VK_ANY) ? FAKE_VK_ANY : FAKE_VK_CALLS + 1;
    if (by > FAKE_VK_ANY) return VK_SUCCESS;
    gpu->failures++;
    gpu->last_failed = call;
    VkResult result = gpu->orders[by].result;
    pthread_mutex_unlock(&gpu->lock);
    return result;
}

void fake_leave(fake_vk *gpu) { pthread_mutex_unlock(&gpu->lock); }

void fake_vk_fail(fake_vk *gpu, fake_vk_call call, uint64_t n, VkResult result, bool onwards)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->orders[call] = (fake_order){n ? gpu->counts[call] + n : 0, result, onwards};
    pthread_mutex_unlock(&gpu->lock);
}

void fake_vk_heal(fake_vk *gpu)
{
    pthread_mutex_lock(&gpu->lock);
    memset(gpu->orders, 0, sizeof gpu->orders);
    pthread_mutex_unlock(&gpu->lock);
}

uint64_t fake_vk_count(fake_vk *gpu, fake_vk_call call)
{
    pthread_mutex_lock(&gpu->lock);
    uint64_t count = gpu->counts[call];
    pthread_mutex_unlock(&gpu->lock);
    return count;
}

uint64_t fake_vk_failures(fake_vk *gpu)
{
    pthread_mutex_lock(&gpu->lock);
    uint64_t count = gpu->failures;
    pthread_mutex_unlock(&gpu->lock);
    return count;
}

fake_vk_call fake_vk_last_failed(fake_vk *gpu)
{
    pthread_mutex_lock(&gpu->lock);
    fake_vk_call call = gpu->last_failed;
    pthread_mutex_unlock(&gpu->lock);
    return call;
}

const char *fake_vk_call_name(fake_vk_call call) { return call < FAKE_VK_CALLS ? calls[call].name : "none"; }

void fake_vk_set_latency(fake_vk *gpu, fake_vk_call call, uint64_t ns)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->latency_ns[call] = ns;
    pthread_mutex_unlock(&gpu->lock);
}

void fake_vk_set_field_latencies(fake_vk *gpu)
{
    fake_vk_set_latency(gpu, FAKE_VK_AllocateMemory, 193000);
    fake_vk_set_latency(gpu, FAKE_VK_FreeMemory, 26000);
    fake_vk_set_latency(gpu, FAKE_VK_MapMemory, 1500);
    fake_vk_set_latency(gpu, FAKE_VK_QueueBindSparse, 36000);
}

void fake_vk_set_hook(fake_vk *gpu, fake_vk_hook *hook, void *context)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->hook = hook;
    gpu->hook_context = context;
    pthread_mutex_unlock(&gpu->lock);
}

/* --- what the test moves ------------------------------------------------------------------------------------------ */

void fake_vk_set_budget(fake_vk *gpu, uint32_t heap, VkDeviceSize budget, VkDeviceSize other_usage)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->budget[heap] = budget;
    gpu->other[heap] = other_usage;
    pthread_mutex_unlock(&gpu->lock);
}

void fake_vk_set_taken(fake_vk *gpu, uint32_t heap, VkDeviceSize bytes)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->taken[heap] = bytes;
    pthread_mutex_unlock(&gpu->lock);
}

void fake_vk_set_alias(fake_vk *gpu, bool alias)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->alias = alias;
    pthread_mutex_unlock(&gpu->lock);
}

void fake_vk_set_dedicated(fake_vk *gpu, bool prefers, bool requires)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->prefers_dedicated = prefers;
    gpu->requires_dedicated = requires;
    pthread_mutex_unlock(&gpu->lock);
}
