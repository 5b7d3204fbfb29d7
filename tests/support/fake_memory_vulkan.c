/* fake_memory: device memory of the fake device (see fake_vulkan.h), and the ranges that resources take of it.
 *
 * Every memory is an anonymous mapping without reservation, or a memory file if it can be exported: untouched bytes
 * cost nothing. Memory that the CPU sees but not coherently has a second mapping, what the CPU sees. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake_vulkan_inside.h"

static uint8_t *map_bytes(VkDeviceSize size, int fd)
{
    int flags = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

void fake_memory_release(fake_vk *gpu, fake_memory *memory)
{
    gpu->used[memory->heap] -= memory->imported ? 0 : memory->size;
    if (memory->host != NULL && memory->host != memory->data) munmap(memory->host, memory->size);
    if (memory->data != NULL && !memory->host_imported) munmap(memory->data, memory->size);
    if (memory->fd >= 0 && close(memory->fd) != 0)
        fake_wrong(gpu, FAKE_VK_WRONG_EXTERNAL, "vkFreeMemory: descriptor %d of %#lx was closed by somebody else",
                   memory->fd, (unsigned long)memory->object.id);
    free(memory->ranges);
    free(memory);
}

/* --- ranges ------------------------------------------------------------------------------------------------------- */

/* The first range that begins at or beyond the offset. */
static uint32_t range_at(const fake_memory *memory, VkDeviceSize offset)
{
    uint32_t low = 0, high = memory->range_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (memory->ranges[middle].offset < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void compare(fake_vk *gpu, const fake_memory *memory, const fake_range *a, const fake_range *b,
                    const char *where)
{
    if (a->alias && b->alias) return;
    unsigned long id = (unsigned long)memory->object.id;
    if (a->offset < b->end && b->offset < a->end) {
        fake_wrong(gpu, FAKE_VK_WRONG_OVERLAP, "%s: %#lx at [%lu, %lu) and %#lx at [%lu, %lu) of memory %#lx", where,
                   (unsigned long)a->resource, (unsigned long)a->offset, (unsigned long)a->end,
                   (unsigned long)b->resource, (unsigned long)b->offset, (unsigned long)b->end, id);
        return;
    }
    if (a->linear == b->linear || a->sparse || b->sparse) return;
    const fake_range *low = a->offset < b->offset ? a : b, *high = low == a ? b : a;
    VkDeviceSize page = gpu->options.buffer_image_granularity;
    if ((low->end - 1) / page == high->offset / page)
        fake_wrong(gpu, FAKE_VK_WRONG_GRANULARITY, "%s: %#lx ends at %lu and %#lx begins at %lu of memory %#lx", where,
                   (unsigned long)low->resource, (unsigned long)low->end, (unsigned long)high->resource,
                   (unsigned long)high->offset, id);
}

void fake_range_add(fake_vk *gpu, fake_memory *memory, const fake_range *range, const char *where)
{
    uint32_t at = range_at(memory, range->offset);
    if (memory->alias_count != 0 || range->alias) { /* order says little: look at all */
        for (uint32_t i = 0; i < memory->range_count; i++) compare(gpu, memory, range, &memory->ranges[i], where);
    } else {
        if (at > 0) compare(gpu, memory, range, &memory->ranges[at - 1], where);
        if (at < memory->range_count) compare(gpu, memory, range, &memory->ranges[at], where);
    }
    const fake_flight *flight = range->alias ? NULL : fake_flight_in(gpu, memory, range->offset, range->end);
    if (flight != NULL)
        fake_wrong(gpu, FAKE_VK_WRONG_GPU_BUSY, "%s: %#lx at %lu of memory %#lx, which %#lx uses until %lu", where,
                   (unsigned long)range->resource, (unsigned long)range->offset, (unsigned long)memory->object.id,
                   (unsigned long)flight->resource, (unsigned long)flight->value);
    if (memory->range_count == memory->range_capacity) {
        memory->range_capacity = memory->range_capacity ? memory->range_capacity * 2 : 8;
        memory->ranges = realloc(memory->ranges, memory->range_capacity * sizeof(fake_range));
        if (memory->ranges == NULL) abort();
    }
    memmove(&memory->ranges[at + 1], &memory->ranges[at], (memory->range_count - at) * sizeof(fake_range));
    memory->ranges[at] = *range;
    memory->range_count++;
    memory->alias_count += range->alias;
}

void fake_range_remove(fake_vk *gpu, fake_memory *memory, uint64_t resource, VkDeviceSize offset)
{
    (void)gpu;
    for (uint32_t i = range_at(memory, offset); i < memory->range_count; i++) {
        if (memory->ranges[i].offset != offset) return;
        if (memory->ranges[i].resource != resource) continue;
        memory->alias_count -= memory->ranges[i].alias;
        memory->range_count--;
        memmove(&memory->ranges[i], &memory->ranges[i + 1], (memory->range_count - i) * sizeof(fake_range));
        return;
    }
}

/* --- allocate and free -------------------------------------------------------------------------------------------- */

static bool priority_known(const fake_vk *gpu) { return !(gpu->options.without & FAKE_VK_NO_PRIORITY); }

/* The dedicated resource's size and type must be what is asked for. */
static void check_dedicated(fake_vk *gpu, fake_memory *memory, const VkMemoryDedicatedAllocateInfo *dedicated)
{
    fake_resource *resource = NULL;
    if (gpu->options.without & FAKE_VK_NO_DEDICATED)
        fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "vkAllocateMemory: dedicated, which this device does not know");
    if (dedicated->buffer && dedicated->image)
        fake_wrong(gpu, FAKE_VK_WRONG_DEDICATED, "vkAllocateMemory: to a buffer and an image");
    if (dedicated->buffer)
        resource = fake_find(gpu, FAKE_BUFFER, FAKE_VK_ID(dedicated->buffer), "vkAllocateMemory, dedicated");
    else if (dedicated->image)
        resource = fake_find(gpu, FAKE_IMAGE, FAKE_VK_ID(dedicated->image), "vkAllocateMemory, dedicated");
    if (resource == NULL) return;
    memory->dedicated_to = resource->object.id;
    if (resource->need.size != memory->size || resource->sparse)
        fake_wrong(gpu, FAKE_VK_WRONG_DEDICATED, "vkAllocateMemory: %lu bytes for %#lx, which needs %lu",
                   (unsigned long)memory->size, (unsigned long)resource->object.id,
                   (unsigned long)resource->need.size);
}

/* Fills data, host and fd. */
static VkResult back(fake_vk *gpu, fake_memory *memory, const VkMemoryAllocateInfo *info)
{
    const VkImportMemoryFdInfoKHR *import_fd = fake_chained(info->pNext, VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR);
    const VkImportMemoryHostPointerInfoEXT *import_host =
        fake_chained(info->pNext, VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT);
    if (import_host != NULL) {
        uintptr_t p = (uintptr_t)import_host->pHostPointer;
        VkDeviceSize a = gpu->options.host_pointer_alignment;
        if ((gpu->options.without & FAKE_VK_NO_EXTERNAL_HOST) || p % a != 0 || memory->size % a != 0 || p == 0)
            fake_wrong(gpu, FAKE_VK_WRONG_EXTERNAL, "vkAllocateMemory: host pointer %p, %lu bytes",
                       import_host->pHostPointer, (unsigned long)memory->size);
        if (!(memory->flags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT))
            fake_wrong(gpu, FAKE_VK_WRONG_EXTERNAL, "vkAllocateMemory: host pointer in type %u", memory->type);
        memory->data = import_host->pHostPointer;
        memory->host_imported = true;
        memory->imported = import_host->handleType;
    } else if (import_fd != NULL) {
        struct stat file;
        if (gpu->options.without & FAKE_VK_NO_EXTERNAL_FD)
            fake_wrong(gpu, FAKE_VK_WRONG_EXTERNAL, "vkAllocateMemory: a file descriptor");
        if (fstat(import_fd->fd, &file) != 0 || (VkDeviceSize)file.st_size < memory->size)
            return VK_ERROR_INVALID_EXTERNAL_HANDLE;
        memory->data = map_bytes(memory->size, import_fd->fd);
        if (memory->data == NULL) return VK_ERROR_OUT_OF_HOST_MEMORY;
        memory->fd = import_fd->fd; /* owned from now on */
        memory->imported = import_fd->handleType;
    } else {
        if (memory->exported) {
            memory->fd = memfd_create("fake device memory", MFD_CLOEXEC);
            if (memory->fd < 0 || ftruncate(memory->fd, (off_t)memory->size) != 0) return VK_ERROR_OUT_OF_HOST_MEMORY;
        }
        memory->data = map_bytes(memory->size, memory->fd);
        if (memory->data == NULL) return VK_ERROR_OUT_OF_HOST_MEMORY;
    }
    VkMemoryPropertyFlags seen = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT, coherent = VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    if (!(memory->flags & seen)) return VK_SUCCESS;
    memory->host = (memory->flags & coherent) || memory->host_imported ? memory->data : map_bytes(memory->size, -1);
    return memory->host != NULL ? VK_SUCCESS : VK_ERROR_OUT_OF_HOST_MEMORY;
}

static void check_callbacks(fake_vk *gpu, const VkAllocationCallbacks *callbacks, const char *where)
{
    void *user = gpu->options.callbacks_user;
    if (user != NULL && (callbacks == NULL || callbacks->pUserData != user))
        fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "%s: without the program's callbacks", where);
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkAllocateMemory(VkDevice device, const VkMemoryAllocateInfo *info,
                                                     const VkAllocationCallbacks *callbacks, VkDeviceMemory *out)
{
    fake_vk *gpu = device->gpu;
    VkResult result = fake_enter(gpu, FAKE_VK_AllocateMemory);
    if (result != VK_SUCCESS) return result;
    check_callbacks(gpu, callbacks, "vkAllocateMemory");
    const VkPhysicalDeviceMemoryProperties *table = &gpu->options.memory;
    if (info->sType != VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO || info->memoryTypeIndex >= table->memoryTypeCount ||
        info->allocationSize == 0) {
        fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "vkAllocateMemory: %lu bytes of type %u",
                   (unsigned long)info->allocationSize, info->memoryTypeIndex);
        fake_leave(gpu);
        return VK_ERROR_UNKNOWN;
    }
    uint32_t heap = table->memoryTypes[info->memoryTypeIndex].heapIndex;
    bool import = fake_chained(info->pNext, VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR) ||
                  fake_chained(info->pNext, VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT);
    if (gpu->live[FAKE_MEMORY] >= gpu->options.allocations_max) {
        fake_wrong(gpu, FAKE_VK_WRONG_TOO_MANY, "vkAllocateMemory: the %lu-th",
                   (unsigned long)gpu->live[FAKE_MEMORY] + 1);
        result = VK_ERROR_TOO_MANY_OBJECTS;
    } else if (info->allocationSize > gpu->options.allocation_bytes_max) {
        result = VK_ERROR_OUT_OF_DEVICE_MEMORY;
    } else if (!import &&
               gpu->used[heap] + gpu->taken[heap] + info->allocationSize > table->memoryHeaps[heap].size) {
        result = VK_ERROR_OUT_OF_DEVICE_MEMORY;
    }
    if (result != VK_SUCCESS) {
        fake_leave(gpu);
        return result;
    }

    fake_memory *memory = fake_zeroed(sizeof *memory);
    memory->size = info->allocationSize;
    memory->type = info->memoryTypeIndex;
    memory->heap = heap;
    memory->flags = table->memoryTypes[memory->type].propertyFlags;
    bool coherent_amd = memory->flags & VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD;
    if ((memory->flags & VK_MEMORY_PROPERTY_PROTECTED_BIT) ||
        (coherent_amd && (gpu->options.without & FAKE_VK_NO_COHERENT_AMD)))
        fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "vkAllocateMemory: type %u is not enabled", memory->type);
    memory->fd = -1;
    memory->priority = 0.5f;
    const VkMemoryPriorityAllocateInfoEXT *priority =
        fake_chained(info->pNext, VK_STRUCTURE_TYPE_MEMORY_PRIORITY_ALLOCATE_INFO_EXT);
    const VkMemoryDedicatedAllocateInfo *dedicated =
        fake_chained(info->pNext, VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO);
    const VkExportMemoryAllocateInfo *export =
        fake_chained(info->pNext, VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO);
    const VkMemoryAllocateFlagsInfo *flags = fake_chained(info->pNext, VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO);
    if (priority != NULL) {
        memory->priority = priority->priority;
        if (!priority_known(gpu) || !(priority->priority >= 0 && priority->priority <= 1))
            fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "vkAllocateMemory: priority %g", (double)priority->priority);
    }
    if (dedicated != NULL) check_dedicated(gpu, memory, dedicated);
    if (export != NULL) {
        memory->exported = export->handleTypes;
        if (export->handleTypes && (gpu->options.without & FAKE_VK_NO_EXTERNAL_FD))
            fake_wrong(gpu, FAKE_VK_WRONG_EXTERNAL, "vkAllocateMemory: for export");
    }
    if (flags != NULL && (flags->flags & VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT)) {
        memory->device_address = true;
        if (gpu->options.without & FAKE_VK_NO_DEVICE_ADDRESS)
            fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "vkAllocateMemory: for device addresses");
    }
    gpu->used[heap] += import ? 0 : memory->size;
    result = back(gpu, memory, info);
    if (result != VK_SUCCESS) {
        memory->imported = import;
        fake_memory_release(gpu, memory);
        fake_leave(gpu);
        return result;
    }
    if (gpu->used[heap] > gpu->used_peak[heap]) gpu->used_peak[heap] = gpu->used[heap];
    *out = (VkDeviceMemory)(uintptr_t)fake_add(gpu, FAKE_MEMORY, &memory->object);
    fake_leave(gpu);
    return VK_SUCCESS;
}

VKAPI_ATTR void VKAPI_CALL fake_vkFreeMemory(VkDevice device, VkDeviceMemory handle,
                                             const VkAllocationCallbacks *callbacks)
{
    fake_vk *gpu = device->gpu;
    fake_enter(gpu, FAKE_VK_FreeMemory);
    check_callbacks(gpu, callbacks, "vkFreeMemory");
    fake_memory *memory = handle ? fake_find(gpu, FAKE_MEMORY, FAKE_VK_ID(handle), "vkFreeMemory") : NULL;
    if (memory != NULL) {
        if (memory->range_count != 0)
            fake_wrong(gpu, FAKE_VK_WRONG_FREE_BOUND, "vkFreeMemory: %#lx holds %u, %#lx at %lu first",
                       (unsigned long)memory->object.id, memory->range_count,
                       (unsigned long)memory->ranges[0].resource, (unsigned long)memory->ranges[0].offset);
        if (fake_flight_in(gpu, memory, 0, memory->size) != NULL || memory->queued_binds != 0)
            fake_wrong(gpu, FAKE_VK_WRONG_GPU_BUSY, "vkFreeMemory: %#lx", (unsigned long)memory->object.id);
        /* What lay there lies nowhere now. */
        for (uint32_t i = 0; i < memory->range_count; i++) {
            fake_resource *resource = (fake_resource *)fake_look(gpu, memory->ranges[i].resource);
            if (resource == NULL) continue;
            if (memory->ranges[i].sparse) {
                resource->pages[memory->ranges[i].page].memory = NULL;
                resource->pages_bound--;
            } else {
                resource->memory = NULL;
            }
        }
        for (uint64_t i = 0; i < gpu->flight_count; i++)
            if (gpu->flights[i].memory == memory) gpu->flights[i--] = gpu->flights[--gpu->flight_count];
        fake_remove(gpu, &memory->object);
        fake_memory_release(gpu, memory);
    }
    fake_leave(gpu);
}

/* --- maps --------------------------------------------------------------------------------------------------------- */

VKAPI_ATTR VkResult VKAPI_CALL fake_vkMapMemory(VkDevice device, VkDeviceMemory handle, VkDeviceSize offset,
                                                VkDeviceSize size, VkMemoryMapFlags flags, void **data)
{
    (void)flags;
    fake_vk *gpu = device->gpu;
    VkResult result = fake_enter(gpu, FAKE_VK_MapMemory);
    if (result != VK_SUCCESS) return result;
    fake_memory *memory = fake_find(gpu, FAKE_MEMORY, FAKE_VK_ID(handle), "vkMapMemory");
    result = VK_ERROR_MEMORY_MAP_FAILED;
    if (memory != NULL) {
        VkDeviceSize end = size == VK_WHOLE_SIZE ? memory->size : offset + size;
        unsigned long id = (unsigned long)memory->object.id;
        if (memory->mapped) fake_wrong(gpu, FAKE_VK_WRONG_MAP_TWICE, "vkMapMemory: %#lx", id);
        if (memory->host == NULL || offset >= end || end > memory->size) {
            fake_wrong(gpu, FAKE_VK_WRONG_MAP, "vkMapMemory: [%lu, %lu) of %#lx, %lu bytes of type %u",
                       (unsigned long)offset, (unsigned long)end, id, (unsigned long)memory->size, memory->type);
        } else {
            memory->mapped = true;
            memory->map_offset = offset;
            memory->map_end = end;
            *data = memory->host + offset;
            result = VK_SUCCESS;
        }
    }
    fake_leave(gpu);
    return result;
}

VKAPI_ATTR void VKAPI_CALL fake_vkUnmapMemory(VkDevice device, VkDeviceMemory handle)
{
    fake_vk *gpu = device->gpu;
    fake_enter(gpu, FAKE_VK_UnmapMemory);
    fake_memory *memory = fake_find(gpu, FAKE_MEMORY, FAKE_VK_ID(handle), "vkUnmapMemory");
    if (memory != NULL && !memory->mapped)
        fake_wrong(gpu, FAKE_VK_WRONG_MAP, "vkUnmapMemory: %#lx", (unsigned long)memory->object.id);
    if (memory != NULL) memory->mapped = false;
    fake_leave(gpu);
}

/* Carries the bytes of one range; to_gpu: flush. */
static void carry(fake_vk *gpu, const VkMappedMemoryRange *range, bool to_gpu)
{
    const char *where = to_gpu ? "vkFlushMappedMemoryRanges" : "vkInvalidateMappedMemoryRanges";
    fake_memory *memory = fake_find(gpu, FAKE_MEMORY, FAKE_VK_ID(range->memory), where);
    if (memory == NULL) return;
    VkDeviceSize atom = gpu->options.non_coherent_atom;
    VkDeviceSize end = range->size == VK_WHOLE_SIZE ? memory->map_end : range->offset + range->size;
    bool whole = range->offset % atom == 0 && (end % atom == 0 || end == memory->size);
    if (range->size == VK_WHOLE_SIZE) whole = range->offset % atom == 0;
    if (range->sType != VK_STRUCTURE_TYPE_MAPPED_MEMORY_RANGE || !memory->mapped || !whole ||
        range->offset < memory->map_offset || end > memory->map_end || range->offset >= end) {
        fake_wrong(gpu, FAKE_VK_WRONG_FLUSH, "%s: [%lu, %lu) of %#lx, %lu bytes, mapped [%lu, %lu)", where,
                   (unsigned long)range->offset, (unsigned long)end, (unsigned long)memory->object.id,
                   (unsigned long)memory->size, (unsigned long)memory->map_offset,
                   memory->mapped ? (unsigned long)memory->map_end : 0ul);
        return;
    }
    if (memory->host == memory->data) return;
    uint8_t *from = to_gpu ? memory->host : memory->data, *to = to_gpu ? memory->data : memory->host;
    memcpy(to + range->offset, from + range->offset, end - range->offset);
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkFlushMappedMemoryRanges(VkDevice device, uint32_t count,
                                                              const VkMappedMemoryRange *ranges)
{
    VkResult result = fake_enter(device->gpu, FAKE_VK_FlushMappedMemoryRanges);
    if (result != VK_SUCCESS) return result;
    for (uint32_t i = 0; i < count; i++) carry(device->gpu, &ranges[i], true);
    fake_leave(device->gpu);
    return VK_SUCCESS;
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkInvalidateMappedMemoryRanges(VkDevice device, uint32_t count,
                                                                   const VkMappedMemoryRange *ranges)
{
    VkResult result = fake_enter(device->gpu, FAKE_VK_InvalidateMappedMemoryRanges);
    if (result != VK_SUCCESS) return result;
    for (uint32_t i = 0; i < count; i++) carry(device->gpu, &ranges[i], false);
    fake_leave(device->gpu);
    return VK_SUCCESS;
}

VKAPI_ATTR void VKAPI_CALL fake_vkGetDeviceMemoryCommitment(VkDevice device, VkDeviceMemory handle, VkDeviceSize *bytes)
{
    fake_vk *gpu = device->gpu;
    fake_enter(gpu, FAKE_VK_GetDeviceMemoryCommitment);
    fake_memory *memory = fake_find(gpu, FAKE_MEMORY, FAKE_VK_ID(handle), "vkGetDeviceMemoryCommitment");
    if (memory != NULL && !(memory->flags & VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT))
        fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "vkGetDeviceMemoryCommitment: type %u", memory->type);
    *bytes = 0;
    fake_leave(gpu);
}

VKAPI_ATTR void VKAPI_CALL fake_vkSetDeviceMemoryPriorityEXT(VkDevice device, VkDeviceMemory handle, float priority)
{
    fake_vk *gpu = device->gpu;
    fake_enter(gpu, FAKE_VK_SetDeviceMemoryPriorityEXT);
    fake_memory *memory = fake_find(gpu, FAKE_MEMORY, FAKE_VK_ID(handle), "vkSetDeviceMemoryPriorityEXT");
    if (!priority_known(gpu) || !(priority >= 0 && priority <= 1))
        fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "vkSetDeviceMemoryPriorityEXT: %g", (double)priority);
    if (memory != NULL) memory->priority = priority;
    fake_leave(gpu);
}

/* --- external memory ---------------------------------------------------------------------------------------------- */

VKAPI_ATTR VkResult VKAPI_CALL fake_vkGetMemoryFdKHR(VkDevice device, const VkMemoryGetFdInfoKHR *info, int *fd)
{
    fake_vk *gpu = device->gpu;
    VkResult result = fake_enter(gpu, FAKE_VK_GetMemoryFdKHR);
    if (result != VK_SUCCESS) return result;
    fake_memory *memory = fake_find(gpu, FAKE_MEMORY, FAKE_VK_ID(info->memory), "vkGetMemoryFdKHR");
    result = VK_ERROR_UNKNOWN;
    if (memory != NULL && !(memory->exported & info->handleType)) {
        fake_wrong(gpu, FAKE_VK_WRONG_EXTERNAL, "vkGetMemoryFdKHR: %#lx was not made for it",
                   (unsigned long)memory->object.id);
    } else if (memory != NULL) {
        *fd = dup(memory->fd);
        result = *fd >= 0 ? VK_SUCCESS : VK_ERROR_TOO_MANY_OBJECTS;
    }
    fake_leave(gpu);
    return result;
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkGetMemoryFdPropertiesKHR(VkDevice device, VkExternalMemoryHandleTypeFlagBits type,
                                                               int fd, VkMemoryFdPropertiesKHR *properties)
{
    fake_vk *gpu = device->gpu;
    VkResult result = fake_enter(gpu, FAKE_VK_GetMemoryFdPropertiesKHR);
    if (result != VK_SUCCESS) return result;
    struct stat file;
    if (type == VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)
        fake_wrong(gpu, FAKE_VK_WRONG_EXTERNAL, "vkGetMemoryFdPropertiesKHR: of an opaque descriptor");
    properties->memoryTypeBits = gpu->options.buffer_type_bits;
    result = fstat(fd, &file) == 0 ? VK_SUCCESS : VK_ERROR_INVALID_EXTERNAL_HANDLE;
    fake_leave(gpu);
    return result;
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkGetMemoryHostPointerPropertiesEXT(VkDevice device,
                                                                        VkExternalMemoryHandleTypeFlagBits type,
                                                                        const void *pointer,
                                                                        VkMemoryHostPointerPropertiesEXT *properties)
{
    fake_vk *gpu = device->gpu;
    VkResult result = fake_enter(gpu, FAKE_VK_GetMemoryHostPointerPropertiesEXT);
    if (result != VK_SUCCESS) return result;
    if (type != VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT ||
        (uintptr_t)pointer % gpu->options.host_pointer_alignment != 0)
        fake_wrong(gpu, FAKE_VK_WRONG_EXTERNAL, "vkGetMemoryHostPointerPropertiesEXT: %p", pointer);
    properties->memoryTypeBits = 0;
    for (uint32_t i = 0; i < gpu->options.memory.memoryTypeCount; i++) {
        VkMemoryPropertyFlags flags = gpu->options.memory.memoryTypes[i].propertyFlags;
        if ((flags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT) && !(flags & VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT))
            properties->memoryTypeBits |= 1u << i;
    }
    fake_leave(gpu);
    return VK_SUCCESS;
}

/* --- what the test looks at --------------------------------------------------------------------------------------- */

static fake_vk_memory_info describe(const fake_memory *m)
{
    return (fake_vk_memory_info){
        .memory = (VkDeviceMemory)(uintptr_t)m->object.id,
        .size = m->size,
        .type = m->type,
        .heap = m->heap,
        .priority = m->priority,
        .dedicated_to = m->dedicated_to,
        .exported = m->exported,
        .imported = m->imported,
        .mapped = m->mapped,
        .device_address = m->device_address,
        .resources = m->range_count,
    };
}

bool fake_vk_get_memory(fake_vk *gpu, VkDeviceMemory handle, fake_vk_memory_info *info)
{
    pthread_mutex_lock(&gpu->lock);
    fake_object *object = fake_look(gpu, FAKE_VK_ID(handle));
    bool found = object != NULL && object->kind == FAKE_MEMORY;
    if (found) *info = describe((fake_memory *)object);
    pthread_mutex_unlock(&gpu->lock);
    return found;
}

uint32_t fake_vk_list_memories(fake_vk *gpu, fake_vk_memory_info *infos, uint32_t capacity)
{
    pthread_mutex_lock(&gpu->lock);
    uint32_t count = 0;
    for (uint64_t i = 0; i < gpu->object_count; i++) {
        if (gpu->objects[i] == NULL || gpu->objects[i]->kind != FAKE_MEMORY) continue;
        if (count < capacity) infos[count] = describe((fake_memory *)gpu->objects[i]);
        count++;
    }
    pthread_mutex_unlock(&gpu->lock);
    return count;
}
