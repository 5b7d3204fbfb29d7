/* fake_sparse: sparse binding on the fake device (see fake_vulkan.h): a table of 64 KiB pages per resource.
 *
 * An image's pages, layer after layer:
 *
 *     mip 0: tiles by row │ mip 1 │ … │ the tail: mips smaller than a tile, together, in whole pages │ next layer …
 *
 * Tiles have the standard shapes. Only two-dimensional images of one sample can be resident in part. */
#include <stdlib.h>
#include <string.h>

#include "fake_vulkan_inside.h"

/* Bytes of a texel, or of a compressed block of block * block texels. */
uint32_t fake_texel_bytes(VkFormat format, uint32_t *block)
{
    *block = 1;
    switch ((int)format) {
    case VK_FORMAT_R8_UNORM: case VK_FORMAT_S8_UINT: return 1;
    case VK_FORMAT_R8G8_UNORM: case VK_FORMAT_R16_SFLOAT: case VK_FORMAT_D16_UNORM: return 2;
    case VK_FORMAT_R16G16B16A16_SFLOAT: case VK_FORMAT_R32G32_SFLOAT: case VK_FORMAT_D32_SFLOAT_S8_UINT: return 8;
    case VK_FORMAT_R32G32B32A32_SFLOAT: return 16;
    case VK_FORMAT_BC1_RGB_UNORM_BLOCK: case VK_FORMAT_BC1_RGBA_UNORM_BLOCK: case VK_FORMAT_BC4_UNORM_BLOCK:
        *block = 4;
        return 8;
    case VK_FORMAT_BC3_UNORM_BLOCK: case VK_FORMAT_BC5_UNORM_BLOCK: case VK_FORMAT_BC7_UNORM_BLOCK:
    case VK_FORMAT_BC7_SRGB_BLOCK:
        *block = 4;
        return 16;
    default: return 4;
    }
}

/* The standard shape of a tile, in texels. */
static VkExtent3D tile_of(VkFormat format)
{
    static const struct { uint32_t w, h; } shape[] = {{256, 256}, {256, 128}, {128, 128}, {128, 64}, {64, 64}};
    uint32_t block, bytes = fake_texel_bytes(format, &block), log2 = 0;
    while (1u << log2 < bytes) log2++;
    return (VkExtent3D){shape[log2].w * block, shape[log2].h * block, 1};
}

typedef struct sparse_layout {
    VkExtent3D tile;
    uint32_t tail_first; /* mip */
    VkDeviceSize tail_bytes, tail_offset; /* of a layer; whole pages, within the layer */
    VkDeviceSize layer_bytes;
} sparse_layout;

static uint32_t at_least_one(uint32_t n) { return n ? n : 1; }

/* Pages of a mip above the tail; columns: of its tiles. */
static uint32_t mip_pages(const VkImageCreateInfo *image, VkExtent3D tile, uint32_t mip, uint32_t *columns)
{
    uint32_t w = at_least_one(image->extent.width >> mip), h = at_least_one(image->extent.height >> mip);
    *columns = (w + tile.width - 1) / tile.width;
    return *columns * ((h + tile.height - 1) / tile.height);
}

static sparse_layout layout_of(const VkImageCreateInfo *image)
{
    sparse_layout l = {.tile = tile_of(image->format), .tail_first = image->mipLevels};
    uint32_t block, texel = fake_texel_bytes(image->format, &block), columns;
    for (uint32_t mip = 0; mip < image->mipLevels; mip++) {
        uint32_t w = at_least_one(image->extent.width >> mip), h = at_least_one(image->extent.height >> mip);
        if (l.tail_first == image->mipLevels && (w < l.tile.width || h < l.tile.height)) {
            l.tail_first = mip;
            l.tail_offset = l.layer_bytes;
        }
        if (mip < l.tail_first)
            l.layer_bytes += (VkDeviceSize)mip_pages(image, l.tile, mip, &columns) * FAKE_PAGE_BYTES;
        else
            l.tail_bytes += (VkDeviceSize)((w + block - 1) / block) * ((h + block - 1) / block) * texel;
    }
    l.tail_bytes = (l.tail_bytes + FAKE_PAGE_BYTES - 1) / FAKE_PAGE_BYTES * FAKE_PAGE_BYTES;
    l.layer_bytes += l.tail_bytes;
    return l;
}

void fake_sparse_init(fake_vk *gpu, fake_resource *r)
{
    bool image = r->image.sType == VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO;
    if (image && r->resident) {
        if (r->image.imageType != VK_IMAGE_TYPE_2D || r->image.samples != VK_SAMPLE_COUNT_1_BIT || r->linear)
            fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "vkCreateImage: resident in part, but not plain and flat");
        r->need.size = layout_of(&r->image).layer_bytes * r->image.arrayLayers;
    }
    r->need.alignment = FAKE_PAGE_BYTES;
    r->need.size = (r->need.size + FAKE_PAGE_BYTES - 1) / FAKE_PAGE_BYTES * FAKE_PAGE_BYTES;
    if (image) r->bytes = r->need.size;
    r->page_count = (uint32_t)(r->need.size / FAKE_PAGE_BYTES);
    r->pages = fake_zeroed(r->page_count * sizeof *r->pages);
}

/* --- what images demand ------------------------------------------------------------------------------------------- */

static bool sparse_requirements(fake_vk *gpu, VkImage handle, VkSparseImageMemoryRequirements *out)
{
    const fake_resource *r = fake_find(gpu, FAKE_IMAGE, FAKE_VK_ID(handle), "vkGetImageSparseMemoryRequirements");
    if (r == NULL || !r->resident) return false;
    sparse_layout l = layout_of(&r->image);
    bool depth = r->image.usage & VK_IMAGE_USAGE_DEPTH_STENCIL_ATTACHMENT_BIT;
    *out = (VkSparseImageMemoryRequirements){
        .formatProperties = {depth ? VK_IMAGE_ASPECT_DEPTH_BIT : VK_IMAGE_ASPECT_COLOR_BIT, l.tile, 0},
        .imageMipTailFirstLod = l.tail_first,
        .imageMipTailSize = l.tail_bytes,
        .imageMipTailOffset = l.tail_offset,
        .imageMipTailStride = l.layer_bytes,
    };
    return true;
}

VKAPI_ATTR void VKAPI_CALL fake_vkGetImageSparseMemoryRequirements(VkDevice device, VkImage image, uint32_t *count,
                                                                   VkSparseImageMemoryRequirements *out)
{
    fake_vk *gpu = device->gpu;
    fake_enter(gpu, FAKE_VK_GetRequirements);
    VkSparseImageMemoryRequirements one;
    uint32_t have = sparse_requirements(gpu, image, &one) ? 1 : 0;
    if (out != NULL && *count < have) have = *count;
    if (out != NULL && have == 1) *out = one;
    *count = have;
    fake_leave(gpu);
}

VKAPI_ATTR void VKAPI_CALL
fake_vkGetImageSparseMemoryRequirements2(VkDevice device, const VkImageSparseMemoryRequirementsInfo2 *info,
                                         uint32_t *count, VkSparseImageMemoryRequirements2 *out)
{
    fake_vkGetImageSparseMemoryRequirements(device, info->image, count, out ? &out->memoryRequirements : NULL);
}

VKAPI_ATTR void VKAPI_CALL
fake_vkGetPhysicalDeviceSparseImageFormatProperties(VkPhysicalDevice device, VkFormat format, VkImageType type,
                                                    VkSampleCountFlagBits samples, VkImageUsageFlags usage,
                                                    VkImageTiling tiling, uint32_t *count,
                                                    VkSparseImageFormatProperties *out)
{
    fake_vk *gpu = device->gpu;
    fake_enter(gpu, FAKE_VK_GetPhysicalDeviceOther);
    bool depth = usage & VK_IMAGE_USAGE_DEPTH_STENCIL_ATTACHMENT_BIT;
    bool can = !(gpu->options.without & FAKE_VK_NO_SPARSE) && type == VK_IMAGE_TYPE_2D &&
               samples == VK_SAMPLE_COUNT_1_BIT && tiling == VK_IMAGE_TILING_OPTIMAL;
    uint32_t have = can ? 1 : 0;
    if (out != NULL && *count < have) have = *count;
    if (out != NULL && have == 1)
        *out = (VkSparseImageFormatProperties){depth ? VK_IMAGE_ASPECT_DEPTH_BIT : VK_IMAGE_ASPECT_COLOR_BIT,
                                               tile_of(format), 0};
    *count = have;
    fake_leave(gpu);
}

/* --- binds -------------------------------------------------------------------------------------------------------- */

static void push(fake_batch *batch, uint32_t *capacity, fake_bind bind)
{
    if (batch->bind_count == *capacity) {
        *capacity = *capacity ? *capacity * 2 : 64;
        batch->binds = realloc(batch->binds, *capacity * sizeof(fake_bind));
        if (batch->binds == NULL) abort();
    }
    batch->binds[batch->bind_count++] = bind;
}

/* What Vulkan demands of the memory of a bind. */
static bool legal_memory(fake_vk *gpu, const fake_resource *r, VkDeviceMemory handle, VkDeviceSize offset,
                         VkDeviceSize size)
{
    if (handle == VK_NULL_HANDLE) return true;
    const fake_memory *m = fake_find(gpu, FAKE_MEMORY, FAKE_VK_ID(handle), "vkQueueBindSparse");
    if (m == NULL) return false;
    if (offset > m->size || size > m->size - offset) {
        fake_wrong(gpu, FAKE_VK_WRONG_BIND_RANGE, "vkQueueBindSparse: %lu bytes at %lu of %#lx, %lu bytes",
                   (unsigned long)size, (unsigned long)offset, (unsigned long)m->object.id, (unsigned long)m->size);
        return false;
    }
    if (offset % FAKE_PAGE_BYTES != 0)
        fake_wrong(gpu, FAKE_VK_WRONG_BIND_ALIGNMENT, "vkQueueBindSparse: memory at %lu", (unsigned long)offset);
    if (!(r->need.memoryTypeBits >> m->type & 1) || m->dedicated_to != 0)
        fake_wrong(gpu, FAKE_VK_WRONG_BIND_TYPE, "vkQueueBindSparse: %#lx in type %u", (unsigned long)r->object.id,
                   m->type);
    return offset % FAKE_PAGE_BYTES == 0;
}

/* A run of bytes of the resource, as buffers and opaque parts of images are bound. */
static void bind_run(fake_vk *gpu, fake_batch *batch, uint32_t *capacity, uint64_t resource,
                     const VkSparseMemoryBind *bind)
{
    const fake_resource *r = fake_find_resource(gpu, resource, "vkQueueBindSparse");
    if (r == NULL) return;
    VkDeviceSize end = bind->resourceOffset + bind->size;
    if (!r->sparse || bind->size == 0 || bind->resourceOffset % FAKE_PAGE_BYTES != 0 || end > r->need.size ||
        end % FAKE_PAGE_BYTES != 0) {
        fake_wrong(gpu, FAKE_VK_WRONG_SPARSE, "vkQueueBindSparse: [%lu, %lu) of %#lx",
                   (unsigned long)bind->resourceOffset, (unsigned long)end, (unsigned long)resource);
        return;
    }
    if (!legal_memory(gpu, r, bind->memory, bind->memoryOffset, bind->size)) return;
    for (VkDeviceSize done = 0; done < bind->size; done += FAKE_PAGE_BYTES)
        push(batch, capacity, (fake_bind){resource, FAKE_VK_ID(bind->memory),
                                          (uint32_t)((bind->resourceOffset + done) / FAKE_PAGE_BYTES),
                                          bind->memory ? bind->memoryOffset + done : 0});
}

/* A box of tiles of one mip and layer. */
static void bind_tiles(fake_vk *gpu, fake_batch *batch, uint32_t *capacity, VkImage image,
                       const VkSparseImageMemoryBind *bind)
{
    const fake_resource *r = fake_find(gpu, FAKE_IMAGE, FAKE_VK_ID(image), "vkQueueBindSparse");
    if (r == NULL) return;
    sparse_layout l = layout_of(&r->image);
    uint32_t mip = bind->subresource.mipLevel, layer = bind->subresource.arrayLayer;
    uint32_t w = at_least_one(r->image.extent.width >> mip), h = at_least_one(r->image.extent.height >> mip);
    uint32_t x = (uint32_t)bind->offset.x, y = (uint32_t)bind->offset.y;
    uint32_t right = x + bind->extent.width, bottom = y + bind->extent.height;
    bool whole = x % l.tile.width == 0 && y % l.tile.height == 0 && bind->offset.z == 0 && bind->extent.depth == 1 &&
                 right <= w && bottom <= h && x < right && y < bottom && (right % l.tile.width == 0 || right == w) &&
                 (bottom % l.tile.height == 0 || bottom == h);
    if (!r->resident || mip >= l.tail_first || layer >= r->image.arrayLayers || !whole) {
        fake_wrong(gpu, FAKE_VK_WRONG_SPARSE,
                   "vkQueueBindSparse: %#lx, mip %u, layer %u, (%u, %u) to (%u, %u) of %u x %u",
                   (unsigned long)FAKE_VK_ID(image), mip, layer, x, y, right, bottom, w, h);
        return;
    }
    uint32_t columns, first = (uint32_t)(l.layer_bytes / FAKE_PAGE_BYTES) * layer;
    for (uint32_t m = 0; m < mip; m++) first += mip_pages(&r->image, l.tile, m, &columns);
    mip_pages(&r->image, l.tile, mip, &columns);
    uint32_t from_x = x / l.tile.width, to_x = (right + l.tile.width - 1) / l.tile.width;
    uint32_t from_y = y / l.tile.height, to_y = (bottom + l.tile.height - 1) / l.tile.height;
    VkDeviceSize bytes = (VkDeviceSize)(to_x - from_x) * (to_y - from_y) * FAKE_PAGE_BYTES, done = 0;
    if (!legal_memory(gpu, r, bind->memory, bind->memoryOffset, bytes)) return;
    for (uint32_t row = from_y; row < to_y; row++)
        for (uint32_t column = from_x; column < to_x; column++, done += FAKE_PAGE_BYTES)
            push(batch, capacity, (fake_bind){r->object.id, FAKE_VK_ID(bind->memory), first + row * columns + column,
                                              bind->memory ? bind->memoryOffset + done : 0});
}

void fake_sparse_apply(fake_vk *gpu, const fake_bind *bind)
{
    fake_object *object = fake_look(gpu, bind->resource);
    if (object == NULL || (object->kind != FAKE_BUFFER && object->kind != FAKE_IMAGE)) return;
    fake_resource *r = (fake_resource *)object;
    fake_memory *memory = bind->memory ? fake_find(gpu, FAKE_MEMORY, bind->memory, "a sparse bind that runs") : NULL;
    if (bind->memory && memory == NULL) return;
    fake_page *page = &r->pages[bind->page];
    if (page->memory == memory && (memory == NULL || page->offset == bind->offset)) {
        r->idle_binds++;
        return;
    }
    if (page->memory != NULL) {
        const fake_flight *flight =
            fake_flight_in(gpu, page->memory, page->offset, page->offset + FAKE_PAGE_BYTES);
        if (flight != NULL && flight->resource == bind->resource)
            fake_wrong(gpu, FAKE_VK_WRONG_GPU_BUSY, "a sparse bind: page %u of %#lx is in use", bind->page,
                       (unsigned long)bind->resource);
        fake_range_remove(gpu, page->memory, bind->resource, page->offset);
        r->pages_bound--;
        r->unbinds++;
    }
    *page = (fake_page){memory, bind->offset};
    if (memory == NULL) return;
    fake_range range = {bind->offset, bind->offset + FAKE_PAGE_BYTES, bind->resource, bind->page,
                        r->linear, r->alias || r->sparse_alias, true};
    fake_range_add(gpu, memory, &range, "a sparse bind");
    r->pages_bound++;
    r->binds++;
}

VKAPI_ATTR VkResult VKAPI_CALL fake_vkQueueBindSparse(VkQueue queue, uint32_t count, const VkBindSparseInfo *infos,
                                                      VkFence fence)
{
    fake_vk *gpu = queue->gpu;
    VkResult result = fake_enter(gpu, FAKE_VK_QueueBindSparse);
    if (result != VK_SUCCESS) return result;
    if (gpu->options.without & FAKE_VK_NO_SPARSE)
        fake_wrong(gpu, FAKE_VK_WRONG_SPARSE, "vkQueueBindSparse: this device cannot");
    for (uint32_t s = 0; s < count || (s == 0 && fence); s++) {
        const VkBindSparseInfo *info = s < count ? &infos[s] : &(VkBindSparseInfo){.pNext = NULL};
        const VkTimelineSemaphoreSubmitInfo *timeline =
            fake_chained(info->pNext, VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO);
        fake_batch *batch = fake_zeroed(sizeof *batch);
        uint32_t capacity = 0;
        for (uint32_t i = 0; i < info->waitSemaphoreCount && i < FAKE_BATCH_MAX; i++) {
            bool known = timeline && i < timeline->waitSemaphoreValueCount;
            batch->waits[batch->wait_count++] = (fake_point){FAKE_VK_ID(info->pWaitSemaphores[i]),
                                                             known ? timeline->pWaitSemaphoreValues[i] : 1};
        }
        for (uint32_t i = 0; i < info->signalSemaphoreCount && i < FAKE_BATCH_MAX; i++) {
            bool known = timeline && i < timeline->signalSemaphoreValueCount;
            batch->signals[batch->signal_count++] = (fake_point){FAKE_VK_ID(info->pSignalSemaphores[i]),
                                                                 known ? timeline->pSignalSemaphoreValues[i] : 1};
        }
        for (uint32_t i = 0; i < info->bufferBindCount; i++)
            for (uint32_t k = 0; k < info->pBufferBinds[i].bindCount; k++)
                bind_run(gpu, batch, &capacity, FAKE_VK_ID(info->pBufferBinds[i].buffer),
                         &info->pBufferBinds[i].pBinds[k]);
        for (uint32_t i = 0; i < info->imageOpaqueBindCount; i++)
            for (uint32_t k = 0; k < info->pImageOpaqueBinds[i].bindCount; k++)
                bind_run(gpu, batch, &capacity, FAKE_VK_ID(info->pImageOpaqueBinds[i].image),
                         &info->pImageOpaqueBinds[i].pBinds[k]);
        for (uint32_t i = 0; i < info->imageBindCount; i++)
            for (uint32_t k = 0; k < info->pImageBinds[i].bindCount; k++)
                bind_tiles(gpu, batch, &capacity, info->pImageBinds[i].image, &info->pImageBinds[i].pBinds[k]);
        if (s + 1 >= count) batch->fence = FAKE_VK_ID(fence);
        fake_batch_append(gpu, batch);
    }
    fake_leave(gpu);
    return VK_SUCCESS;
}

VkDeviceMemory fake_vk_sparse_page(fake_vk *gpu, uint64_t resource, uint32_t page, VkDeviceSize *offset)
{
    pthread_mutex_lock(&gpu->lock);
    const fake_resource *r = fake_find_resource(gpu, resource, "sparse_page");
    VkDeviceMemory memory = VK_NULL_HANDLE;
    if (r != NULL && page < r->page_count && r->pages[page].memory != NULL) {
        memory = (VkDeviceMemory)(uintptr_t)r->pages[page].memory->object.id;
        if (offset != NULL) *offset = r->pages[page].offset;
    }
    pthread_mutex_unlock(&gpu->lock);
    return memory;
}
