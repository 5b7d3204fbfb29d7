/* fake_resource: buffers, images and claims of the fake device (see fake_vulkan.h): what they need, where they lie, and
 * the bytes that the GPU reads and writes there.
 *
 * Requirements are made up, legal and a function of the create info alone: a buffer is as large as its size rounded up
 * to 16, an image as the sum of its texels per mip level and layer, rounded up to its alignment. */
#include <stdlib.h>
#include <string.h>

#include "fake_vulkan_inside.h"

enum { UNIFORM_ALIGNMENT = 256, LINEAR_ALIGNMENT = 256, SMALL_IMAGE_BYTES = 64 << 10, SMALL_IMAGE_ALIGNMENT = 4096 };

static VkDeviceSize round_up(VkDeviceSize n, VkDeviceSize to) { return (n + to - 1) / to * to; }

/* --- what they need ----------------------------------------------------------------------------------------------- */

static VkDeviceSize image_bytes(const VkImageCreateInfo *info)
{
    uint32_t block, texel = fake_texel_bytes(info->format, &block);
    VkDeviceSize bytes = 0;
    for (uint32_t mip = 0; mip < info->mipLevels; mip++) {
        VkDeviceSize w = info->extent.width >> mip, h = info->extent.height >> mip, d = info->extent.depth >> mip;
        w = w ? w : 1, h = h ? h : 1, d = d ? d : 1;
        bytes += (w + block - 1) / block * ((h + block - 1) / block) * d * texel;
    }
    return bytes * info->arrayLayers * (VkDeviceSize)info->samples;
}

static void fill(fake_vk *gpu, fake_resource *r, const VkBufferCreateInfo *buffer, const VkImageCreateInfo *image)
{
    const fake_vk_options *o = &gpu->options;
    r->prefers_dedicated = gpu->prefers_dedicated || gpu->requires_dedicated;
    r->requires_dedicated = gpu->requires_dedicated;
    r->alias = gpu->alias || (image != NULL && (image->flags & VK_IMAGE_CREATE_ALIAS_BIT));
    if (buffer != NULL) {
        const VkExternalMemoryBufferCreateInfo *external =
            fake_chained(buffer->pNext, VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO);
        bool uniform = buffer->usage & VK_BUFFER_USAGE_UNIFORM_BUFFER_BIT;
        r->external = external ? external->handleTypes : 0;
        r->linear = true;
        r->bytes = buffer->size;
        r->device_address = buffer->usage & VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT;
        r->sparse = buffer->flags & VK_BUFFER_CREATE_SPARSE_BINDING_BIT;
        r->resident = buffer->flags & VK_BUFFER_CREATE_SPARSE_RESIDENCY_BIT;
        r->sparse_alias = buffer->flags & VK_BUFFER_CREATE_SPARSE_ALIASED_BIT;
        r->need.alignment = o->buffer_alignment;
        if (uniform && r->need.alignment < UNIFORM_ALIGNMENT) r->need.alignment = UNIFORM_ALIGNMENT;
        r->need.size = round_up(buffer->size, 16);
        r->need.memoryTypeBits = o->buffer_type_bits;
    } else {
        const VkExternalMemoryImageCreateInfo *external =
            fake_chained(image->pNext, VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_IMAGE_CREATE_INFO);
        r->external = external ? external->handleTypes : 0;
        r->linear = image->tiling == VK_IMAGE_TILING_LINEAR;
        r->sparse = image->flags & VK_IMAGE_CREATE_SPARSE_BINDING_BIT;
        r->resident = image->flags & VK_IMAGE_CREATE_SPARSE_RESIDENCY_BIT;
        r->sparse_alias = image->flags & VK_IMAGE_CREATE_SPARSE_ALIASED_BIT;
        r->image = *image;
        r->image.pNext = NULL;
        r->need.size = image_bytes(image);
        r->need.alignment = o->image_alignment;
        if (r->need.alignment == 0)
            r->need.alignment = r->need.size <= SMALL_IMAGE_BYTES ? SMALL_IMAGE_ALIGNMENT : FAKE_PAGE_BYTES;
        if (r->linear) r->need.alignment = LINEAR_ALIGNMENT;
        r->need.size = round_up(r->need.size, r->need.alignment);
        r->bytes = r->need.size;
        r->need.memoryTypeBits = r->linear ? o->buffer_type_bits : o->image_type_bits;
        if (image->usage & VK_IMAGE_USAGE_TRANSIENT_ATTACHMENT_BIT)
            for (uint32_t i = 0; i < o->memory.memoryTypeCount; i++)
                if (o->memory.memoryTypes[i].propertyFlags & VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT)
                    r->need.memoryTypeBits |= 1u << i;
    }
    if (r->sparse) fake_sparse_init(gpu, r);
}

static VkResult create(fake_vk *gpu, const VkBufferCreateInfo *buffer, const VkImageCreateInfo *image, uint64_t *out)
{
    const char *where = buffer ? "vkCreateBuffer" : "vkCreateImage";
    bool legal = buffer ? buffer->sType == VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO && buffer->size != 0 && buffer->usage
                        : image->sType == VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO && image->extent.width != 0 &&
                              image->extent.height != 0 && image->extent.depth != 0 && image->mipLevels != 0 &&
                              image->arrayLayers != 0 && image->samples != 0 && image->usage;
    bool sparse = buffer ? buffer->flags & VK_BUFFER_CREATE_SPARSE_BINDING_BIT
                         : image->flags & VK_IMAGE_CREATE_SPARSE_BINDING_BIT;
    bool addressed = buffer && (buffer->usage & VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT);
    if (!legal || (sparse && (gpu->options.without & FAKE_VK_NO_SPARSE)) ||
        (addressed && (gpu->options.without & FAKE_VK_NO_DEVICE_ADDRESS))) {
        fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "%s: a create info that is not allowed", where);
        return VK_ERROR_UNKNOWN;
    }
    fake_resource *resource = fake_zeroed(sizeof *resource);
    fill(gpu, resource, buffer, image);
    *out = fake_add(gpu, buffer ? FAKE_BUFFER : FAKE_IMAGE, &resource->object);
    return VK_SUCCESS;
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkCreateBuffer(VkDevice device, const VkBufferCreateInfo *info,
                                                   const VkAllocationCallbacks *callbacks, VkBuffer *buffer)
{
    (void)callbacks;
    VkResult result = fake_enter(device->gpu, FAKE_VK_CreateBuffer);
    if (result != VK_SUCCESS) return result;
    uint64_t id = 0;
    result = create(device->gpu, info, NULL, &id);
    if (result == VK_SUCCESS) *buffer = (VkBuffer)(uintptr_t)id;
    fake_leave(device->gpu);
    return result;
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkCreateImage(VkDevice device, const VkImageCreateInfo *info,
                                                  const VkAllocationCallbacks *callbacks, VkImage *image)
{
    (void)callbacks;
    VkResult result = fake_enter(device->gpu, FAKE_VK_CreateImage);
    if (result != VK_SUCCESS) return result;
    uint64_t id = 0;
    result = create(device->gpu, NULL, info, &id);
    if (result == VK_SUCCESS) *image = (VkImage)(uintptr_t)id;
    fake_leave(device->gpu);
    return result;
}

void fake_resource_release(fake_vk *gpu, fake_resource *r)
{
    if (r->memory != NULL) fake_range_remove(gpu, r->memory, r->object.id, r->offset);
    for (uint32_t i = 0; i < r->page_count; i++)
        if (r->pages[i].memory != NULL)
            fake_range_remove(gpu, r->pages[i].memory, r->object.id, r->pages[i].offset);
    fake_remove(gpu, &r->object);
    free(r->pages);
    free(r);
}

static void destroy(fake_vk *gpu, fake_kind kind, uint64_t id, const char *where)
{
    fake_resource *resource = id ? fake_find(gpu, kind, id, where) : NULL;
    if (resource == NULL) return;
    if (fake_flight_of(gpu, id) != NULL) fake_wrong(gpu, FAKE_VK_WRONG_GPU_BUSY, "%s: %#lx", where, (unsigned long)id);
    for (fake_batch *batch = gpu->first_batch; batch != NULL; batch = batch->next)
        for (uint32_t i = 0; i < batch->bind_count; i++)
            if (batch->binds[i].resource == id) {
                fake_wrong(gpu, FAKE_VK_WRONG_GPU_BUSY, "%s: %#lx has binds in the queue", where, (unsigned long)id);
                batch->bind_count = 0;
            }
    fake_resource_release(gpu, resource);
}

VKAPI_ATTR void VKAPI_CALL fake_vkDestroyBuffer(VkDevice device, VkBuffer buffer,
                                                const VkAllocationCallbacks *callbacks)
{
    (void)callbacks;
    fake_enter(device->gpu, FAKE_VK_DestroyBuffer);
    destroy(device->gpu, FAKE_BUFFER, FAKE_VK_ID(buffer), "vkDestroyBuffer");
    fake_leave(device->gpu);
}

VKAPI_ATTR void VKAPI_CALL fake_vkDestroyImage(VkDevice device, VkImage image, const VkAllocationCallbacks *callbacks)
{
    (void)callbacks;
    fake_enter(device->gpu, FAKE_VK_DestroyImage);
    destroy(device->gpu, FAKE_IMAGE, FAKE_VK_ID(image), "vkDestroyImage");
    fake_leave(device->gpu);
}

/* --- requirements ------------------------------------------------------------------------------------------------- */

static void answer(fake_vk *gpu, const fake_resource *r, VkMemoryRequirements2 *out)
{
    out->memoryRequirements = r->need;
    VkMemoryDedicatedRequirements *dedicated =
        (VkMemoryDedicatedRequirements *)(uintptr_t)fake_chained(out->pNext,
                                                                 VK_STRUCTURE_TYPE_MEMORY_DEDICATED_REQUIREMENTS);
    if (dedicated == NULL) return;
    if (gpu->options.without & FAKE_VK_NO_DEDICATED)
        fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "dedicated requirements, which this device does not know");
    dedicated->prefersDedicatedAllocation = r->prefers_dedicated;
    dedicated->requiresDedicatedAllocation = r->requires_dedicated;
}

static void requirements(fake_vk *gpu, fake_kind kind, uint64_t id, VkMemoryRequirements2 *out)
{
    fake_enter(gpu, FAKE_VK_GetRequirements);
    const fake_resource *resource = fake_find(gpu, kind, id, "vkGet…MemoryRequirements");
    if (resource != NULL) answer(gpu, resource, out);
    fake_leave(gpu);
}

VKAPI_ATTR void VKAPI_CALL fake_vkGetBufferMemoryRequirements(VkDevice device, VkBuffer buffer,
                                                              VkMemoryRequirements *out)
{
    VkMemoryRequirements2 two = {.memoryRequirements = {.size = 0}};
    requirements(device->gpu, FAKE_BUFFER, FAKE_VK_ID(buffer), &two);
    *out = two.memoryRequirements;
}

VKAPI_ATTR void VKAPI_CALL fake_vkGetImageMemoryRequirements(VkDevice device, VkImage image, VkMemoryRequirements *out)
{
    VkMemoryRequirements2 two = {.memoryRequirements = {.size = 0}};
    requirements(device->gpu, FAKE_IMAGE, FAKE_VK_ID(image), &two);
    *out = two.memoryRequirements;
}

VKAPI_ATTR void VKAPI_CALL fake_vkGetBufferMemoryRequirements2(VkDevice device,
                                                               const VkBufferMemoryRequirementsInfo2 *info,
                                                               VkMemoryRequirements2 *out)
{
    requirements(device->gpu, FAKE_BUFFER, FAKE_VK_ID(info->buffer), out);
}

VKAPI_ATTR void VKAPI_CALL fake_vkGetImageMemoryRequirements2(VkDevice device,
                                                              const VkImageMemoryRequirementsInfo2 *info,
                                                              VkMemoryRequirements2 *out)
{
    requirements(device->gpu, FAKE_IMAGE, FAKE_VK_ID(info->image), out);
}

static void requirements_of_none(fake_vk *gpu, const VkBufferCreateInfo *buffer, const VkImageCreateInfo *image,
                                 VkMemoryRequirements2 *out)
{
    fake_enter(gpu, FAKE_VK_GetRequirements);
    fake_resource resource = {.linear = false};
    fill(gpu, &resource, buffer, image);
    answer(gpu, &resource, out);
    free(resource.pages);
    fake_leave(gpu);
}

VKAPI_ATTR void VKAPI_CALL fake_vkGetDeviceBufferMemoryRequirements(VkDevice device,
                                                                    const VkDeviceBufferMemoryRequirements *info,
                                                                    VkMemoryRequirements2 *out)
{
    requirements_of_none(device->gpu, info->pCreateInfo, NULL, out);
}

VKAPI_ATTR void VKAPI_CALL fake_vkGetDeviceImageMemoryRequirements(VkDevice device,
                                                                   const VkDeviceImageMemoryRequirements *info,
                                                                   VkMemoryRequirements2 *out)
{
    requirements_of_none(device->gpu, NULL, info->pCreateInfo, out);
}

/* --- binds -------------------------------------------------------------------------------------------------------- */

/* What Vulkan demands of a bind. False: it cannot be done at all. */
static bool legal_bind(fake_vk *gpu, const fake_resource *r, const fake_memory *m, VkDeviceSize offset,
                       const char *where)
{
    unsigned long id = (unsigned long)r->object.id, at = (unsigned long)offset, in = (unsigned long)m->object.id;
    if (r->memory != NULL || r->sparse) {
        fake_wrong(gpu, r->sparse ? FAKE_VK_WRONG_SPARSE : FAKE_VK_WRONG_DOUBLE_BIND, "%s: %#lx", where, id);
        return false;
    }
    if (offset > m->size || r->need.size > m->size - offset) {
        fake_wrong(gpu, FAKE_VK_WRONG_BIND_RANGE, "%s: %#lx, %lu bytes at %lu of %#lx, %lu bytes", where, id,
                   (unsigned long)r->need.size, at, in, (unsigned long)m->size);
        return false;
    }
    if (offset % r->need.alignment != 0)
        fake_wrong(gpu, FAKE_VK_WRONG_BIND_ALIGNMENT, "%s: %#lx at %lu, by %lu", where, id, at,
                   (unsigned long)r->need.alignment);
    if (!(r->need.memoryTypeBits >> m->type & 1))
        fake_wrong(gpu, FAKE_VK_WRONG_BIND_TYPE, "%s: %#lx in type %u, may %#x", where, id, m->type,
                   r->need.memoryTypeBits);
    if (m->dedicated_to != 0 && (m->dedicated_to != r->object.id || offset != 0))
        fake_wrong(gpu, FAKE_VK_WRONG_DEDICATED, "%s: %#lx at %lu of %#lx, which is for %#lx", where, id, at, in,
                   (unsigned long)m->dedicated_to);
    if (r->requires_dedicated && m->dedicated_to != r->object.id)
        fake_wrong(gpu, FAKE_VK_WRONG_DEDICATED, "%s: %#lx requires memory of its own", where, id);
    if ((m->exported | m->imported) != 0 && !(r->external & (m->exported | m->imported)))
        fake_wrong(gpu, FAKE_VK_WRONG_EXTERNAL, "%s: %#lx was not created for external memory %#lx", where, id, in);
    if (r->device_address && !m->device_address)
        fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "%s: %#lx needs memory for device addresses", where, id);
    return true;
}

static VkResult bind(fake_vk *gpu, fake_kind kind, uint64_t id, VkDeviceMemory memory, VkDeviceSize offset)
{
    const char *where = kind == FAKE_BUFFER ? "vkBindBufferMemory" : "vkBindImageMemory";
    fake_resource *r = fake_find(gpu, kind, id, where);
    fake_memory *m = fake_find(gpu, FAKE_MEMORY, FAKE_VK_ID(memory), where);
    if (r == NULL || m == NULL || !legal_bind(gpu, r, m, offset, where)) return VK_ERROR_UNKNOWN;
    r->memory = m;
    r->offset = offset;
    fake_range range = {offset, offset + r->need.size, id, 0, r->linear, r->alias, false};
    fake_range_add(gpu, m, &range, where);
    return VK_SUCCESS;
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkBindBufferMemory(VkDevice device, VkBuffer buffer, VkDeviceMemory memory,
                                                       VkDeviceSize offset)
{
    VkResult result = fake_enter(device->gpu, FAKE_VK_BindBuffer);
    if (result != VK_SUCCESS) return result;
    result = bind(device->gpu, FAKE_BUFFER, FAKE_VK_ID(buffer), memory, offset);
    fake_leave(device->gpu);
    return result;
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkBindImageMemory(VkDevice device, VkImage image, VkDeviceMemory memory,
                                                      VkDeviceSize offset)
{
    VkResult result = fake_enter(device->gpu, FAKE_VK_BindImage);
    if (result != VK_SUCCESS) return result;
    result = bind(device->gpu, FAKE_IMAGE, FAKE_VK_ID(image), memory, offset);
    fake_leave(device->gpu);
    return result;
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkBindBufferMemory2(VkDevice device, uint32_t count,
                                                        const VkBindBufferMemoryInfo *infos)
{
    VkResult result = fake_enter(device->gpu, FAKE_VK_BindBuffer);
    if (result != VK_SUCCESS) return result;
    for (uint32_t i = 0; i < count && result == VK_SUCCESS; i++)
        result = bind(device->gpu, FAKE_BUFFER, FAKE_VK_ID(infos[i].buffer), infos[i].memory, infos[i].memoryOffset);
    fake_leave(device->gpu);
    return result;
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkBindImageMemory2(VkDevice device, uint32_t count,
                                                       const VkBindImageMemoryInfo *infos)
{
    VkResult result = fake_enter(device->gpu, FAKE_VK_BindImage);
    if (result != VK_SUCCESS) return result;
    for (uint32_t i = 0; i < count && result == VK_SUCCESS; i++)
        result = bind(device->gpu, FAKE_IMAGE, FAKE_VK_ID(infos[i].image), infos[i].memory, infos[i].memoryOffset);
    fake_leave(device->gpu);
    return result;
}

VKAPI_ATTR VkDeviceAddress VKAPI_CALL fake_vkGetBufferDeviceAddress(VkDevice device,
                                                                    const VkBufferDeviceAddressInfo *info)
{
    fake_vk *gpu = device->gpu;
    fake_enter(gpu, FAKE_VK_GetBufferDeviceAddress);
    fake_resource *r = fake_find(gpu, FAKE_BUFFER, FAKE_VK_ID(info->buffer), "vkGetBufferDeviceAddress");
    VkDeviceAddress address = 0;
    if (r != NULL && r->memory == NULL && !r->sparse)
        fake_wrong(gpu, FAKE_VK_WRONG_NOT_BOUND, "vkGetBufferDeviceAddress: %#lx", (unsigned long)r->object.id);
    else if (r != NULL && !r->device_address)
        fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "vkGetBufferDeviceAddress: %#lx", (unsigned long)r->object.id);
    else if (r != NULL)
        address = r->sparse ? r->object.id << 32 : (r->memory->object.id << 32) + r->offset;
    fake_leave(gpu);
    return address;
}

/* --- claims and what is said of resources ------------------------------------------------------------------------- */

uint64_t fake_vk_claim(fake_vk *gpu, VkDeviceMemory memory, VkDeviceSize offset, VkDeviceSize size, bool linear)
{
    pthread_mutex_lock(&gpu->lock);
    fake_memory *m = fake_find(gpu, FAKE_MEMORY, FAKE_VK_ID(memory), "claim");
    uint64_t id = 0;
    if (m != NULL && (offset > m->size || size > m->size - offset || size == 0)) {
        fake_wrong(gpu, FAKE_VK_WRONG_BIND_RANGE, "claim: %lu bytes at %lu of %lu", (unsigned long)size,
                   (unsigned long)offset, (unsigned long)m->size);
    } else if (m != NULL) {
        fake_resource *r = fake_zeroed(sizeof *r);
        r->need = (VkMemoryRequirements){size, 1, UINT32_MAX};
        r->bytes = size;
        r->linear = linear;
        r->memory = m;
        r->offset = offset;
        id = fake_add(gpu, FAKE_CLAIM, &r->object);
        fake_range range = {offset, offset + size, id, 0, linear, false, false};
        fake_range_add(gpu, m, &range, "claim");
    }
    pthread_mutex_unlock(&gpu->lock);
    return id;
}

void fake_vk_drop_claim(fake_vk *gpu, uint64_t claim)
{
    pthread_mutex_lock(&gpu->lock);
    fake_resource *r = fake_find(gpu, FAKE_CLAIM, claim, "drop_claim");
    if (r != NULL) fake_resource_release(gpu, r); /* no object of Vulkan: the GPU may still use the bytes */
    pthread_mutex_unlock(&gpu->lock);
}

void fake_vk_declare_alias(fake_vk *gpu, uint64_t resource)
{
    pthread_mutex_lock(&gpu->lock);
    fake_resource *r = fake_find_resource(gpu, resource, "declare_alias");
    if (r != NULL) r->alias = true;
    for (uint32_t i = 0; r != NULL && r->memory != NULL && i < r->memory->range_count; i++) {
        fake_range *range = &r->memory->ranges[i];
        if (range->resource != resource || range->alias) continue;
        range->alias = true;
        r->memory->alias_count++;
    }
    pthread_mutex_unlock(&gpu->lock);
}

void fake_vk_gpu_uses(fake_vk *gpu, uint64_t resource, uint64_t sync, uint64_t value)
{
    pthread_mutex_lock(&gpu->lock);
    fake_resource *r = fake_find_resource(gpu, resource, "gpu_uses");
    fake_object *object = fake_look(gpu, sync);
    if (object == NULL || (object->kind != FAKE_FENCE && object->kind != FAKE_SEMAPHORE)) {
        fake_wrong(gpu, FAKE_VK_WRONG_STALE_HANDLE, "gpu_uses: until %#lx", (unsigned long)sync);
    } else if (r != NULL) {
        if (object->kind == FAKE_FENCE) value = 1;
        fake_flight flight = {r->memory, r->offset, r->offset + r->need.size, resource, sync, value, r->alias};
        if (r->sparse) {
            if (r->pages_bound == 0 || (!r->resident && r->pages_bound != r->page_count))
                fake_wrong(gpu, FAKE_VK_WRONG_NOT_BOUND, "gpu_uses: %#lx", (unsigned long)resource);
            for (uint32_t i = 0; i < r->page_count; i++) {
                if (r->pages[i].memory == NULL) continue;
                flight.memory = r->pages[i].memory;
                flight.offset = r->pages[i].offset;
                flight.end = flight.offset + FAKE_PAGE_BYTES;
                fake_flight_add(gpu, &flight);
            }
        } else if (r->memory == NULL) {
            fake_wrong(gpu, FAKE_VK_WRONG_NOT_BOUND, "gpu_uses: %#lx", (unsigned long)resource);
        } else {
            fake_flight_add(gpu, &flight);
        }
    }
    pthread_mutex_unlock(&gpu->lock);
}

bool fake_vk_get_resource(fake_vk *gpu, uint64_t resource, fake_vk_resource_info *info)
{
    pthread_mutex_lock(&gpu->lock);
    fake_object *object = fake_look(gpu, resource);
    bool found = object && (object->kind == FAKE_BUFFER || object->kind == FAKE_IMAGE || object->kind == FAKE_CLAIM);
    if (found) {
        const fake_resource *r = (fake_resource *)object;
        *info = (fake_vk_resource_info){
            .size = r->need.size,
            .offset = r->offset,
            .memory = r->memory ? (VkDeviceMemory)(uintptr_t)r->memory->object.id : VK_NULL_HANDLE,
            .image = object->kind == FAKE_IMAGE,
            .linear = r->linear,
            .sparse = r->sparse,
            .pages = r->page_count,
            .pages_bound = r->pages_bound,
            .binds = r->binds,
            .unbinds = r->unbinds,
            .idle_binds = r->idle_binds,
        };
    }
    pthread_mutex_unlock(&gpu->lock);
    return found;
}

/* --- the GPU reads and writes ------------------------------------------------------------------------------------- */

/* The bytes at an offset of the resource, and how many of them lie together; NULL: there is no memory, counted. */
static uint8_t *bytes_at(fake_vk *gpu, const fake_resource *r, VkDeviceSize offset, size_t *count, const char *where)
{
    unsigned long id = (unsigned long)r->object.id;
    VkDeviceSize size = r->need.size;
    if (offset > size || *count > size - offset) {
        fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "%s: %zu bytes at %lu of %#lx, %lu bytes", where, *count,
                   (unsigned long)offset, id, (unsigned long)size);
        return NULL;
    }
    if (!r->sparse) {
        if (r->memory == NULL) {
            fake_wrong(gpu, FAKE_VK_WRONG_NOT_BOUND, "%s: %#lx", where, id);
            return NULL;
        }
        return r->memory->data + r->offset + offset;
    }
    const fake_page *page = &r->pages[offset / FAKE_PAGE_BYTES];
    size_t within = offset % FAKE_PAGE_BYTES;
    if (*count > FAKE_PAGE_BYTES - within) *count = FAKE_PAGE_BYTES - within;
    if (page->memory == NULL) {
        fake_wrong(gpu, FAKE_VK_WRONG_NOT_BOUND, "%s: page %lu of %#lx", where,
                   (unsigned long)(offset / FAKE_PAGE_BYTES), id);
        return NULL;
    }
    return page->memory->data + page->offset + within;
}

static bool transfer(fake_vk *gpu, uint64_t resource, VkDeviceSize offset, uint8_t *host, size_t count, bool write)
{
    const char *where = write ? "gpu_write" : "gpu_read";
    pthread_mutex_lock(&gpu->lock);
    const fake_resource *r = fake_find_resource(gpu, resource, where);
    bool good = r != NULL;
    for (size_t done = 0, run; good && done < count; done += run) {
        run = count - done;
        uint8_t *bytes = bytes_at(gpu, r, offset + done, &run, where);
        good = bytes != NULL;
        if (good) memcpy(write ? bytes : host + done, write ? host + done : bytes, run);
    }
    pthread_mutex_unlock(&gpu->lock);
    return good;
}

bool fake_vk_gpu_write(fake_vk *gpu, uint64_t resource, VkDeviceSize offset, const void *bytes, size_t count)
{
    return transfer(gpu, resource, offset, (uint8_t *)(uintptr_t)bytes, count, true);
}

bool fake_vk_gpu_read(fake_vk *gpu, uint64_t resource, VkDeviceSize offset, void *bytes, size_t count)
{
    return transfer(gpu, resource, offset, bytes, count, false);
}

bool fake_vk_gpu_copy(fake_vk *gpu, uint64_t from, VkDeviceSize from_offset, uint64_t to, VkDeviceSize to_offset,
                      size_t count)
{
    uint8_t *between = fake_zeroed(count);
    bool good = transfer(gpu, from, from_offset, between, count, false) &&
                transfer(gpu, to, to_offset, between, count, true);
    free(between);
    return good;
}
