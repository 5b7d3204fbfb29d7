/* vk_sparse: resources with addresses for all of it and memory for a part; the public face is acre/vulkan_stream.h.
 *
 * A table says for each page of the resource which block of the allocator is behind it. Every page is a block of its
 * own, of page_bytes at that alignment: so a level that comes gets the pages of one that went as hits of the
 * allocator's caches, categories and budgets count them, empties are kept and given back as all others, and a page that
 * is unbound is reused only when the GPU is done, by the same queue that frees textures. It gives up one bind entry per
 * page; pages that happen to follow each other in memory are joined.
 *
 *    buffer   | page 0 | page 1 | ...                                     bytes / page_bytes
 *    image    layer 0: | level 0: x, y, z | level 1 | ... | tail |  layer 1: ...      a single tail comes last
 *
 * All or nothing: blocks are taken first, then one vkQueueBindSparse binds them all; when it fails they go back. When
 * memory is short in decommit, a block is kept beside its page (bound == false) and is the first to be used again. */
#include <string.h>

#include "acre/vulkan_stream.h"
#include "gpu/vk_hooks.h"

typedef struct sparse_page {
    uint64_t handle; /* 0: no block */
    bool bound;      /* implies handle != 0 */
} sparse_page;

struct acre_vk_sparse {
    acre_vk *vk;
    VkBuffer buffer;
    VkImage image;
    acre_vk_request request;
    char name[ACRE_GPU_NAME_MAX + 1];
    VkMemoryRequirements page; /* of one page */
    uint64_t bytes;
    uint64_t committed;        /* pages that are bound */
    uint64_t page_count;
    sparse_page *pages;

    /* images */
    VkExtent3D extent, granularity;
    uint32_t levels, layers, tail_level;
    VkImageAspectFlags aspect;
    uint64_t level_pages;      /* of a layer, without its tail */
    uint64_t tail_pages;       /* of one tail */
    uint64_t tail_offset, tail_stride;
    bool single_tail;
};

/* Pages [first, first + count) that are bound or unbound by one call, and what the driver is told. */
typedef struct sparse_run {
    uint64_t first, count;
    uint32_t level, layer; /* of an image, where not `opaque` */
    bool opaque;           /* a buffer, or a tail: by offset */
    uint64_t offset;       /* of the first page, where opaque */
} sparse_run;

/* --- what the device can do ------------------------------------------------------------------------------------- */

const char *acre_vk_sparse_lack(acre_vk *vk, bool images)
{
    if (vk == NULL) return "there is no allocator";
    if (vk->call.QueueBindSparse == NULL || vk->call.GetPhysicalDeviceFeatures == NULL)
        return "the driver has no vkQueueBindSparse";
    VkPhysicalDeviceFeatures features;
    memset(&features, 0, sizeof features);
    vk->call.GetPhysicalDeviceFeatures(vk->physical_device, &features);
    if (!features.sparseBinding) return "the device has no sparse binding (feature sparseBinding)";
    if (images && vk->call.GetImageSparseMemoryRequirements == NULL)
        return "the driver has no vkGetImageSparseMemoryRequirements";
    if (images && !features.sparseResidencyImage2D)
        return "the device binds no parts of images (feature sparseResidencyImage2D)";
    if (!images && !features.sparseResidencyBuffer)
        return "the device binds no parts of buffers (feature sparseResidencyBuffer)";
    return NULL;
}

/* --- binding ---------------------------------------------------------------------------------------------------- */

static bool bind_is_valid(const acre_vk *vk, const acre_vk_bind *bind, bool needs_done)
{
    if (bind == NULL || bind->queue == VK_NULL_HANDLE || bind->after.fence != VK_NULL_HANDLE) return false;
    if (vk_point_is_set(&bind->after) && !vk_point_is_valid(vk, &bind->after)) return false;
    return vk_point_is_set(&bind->done) ? vk_point_is_valid(vk, &bind->done) : !needs_done;
}

static acre_status queue_bind(acre_vk_sparse *s, const acre_vk_bind *bind, const VkSparseMemoryBind *opaque,
                              const VkSparseImageMemoryBind *texels, uint32_t count)
{
    const VkSparseBufferMemoryBindInfo buffer = {s->buffer, count, opaque};
    const VkSparseImageOpaqueMemoryBindInfo tail = {s->image, count, opaque};
    const VkSparseImageMemoryBindInfo image = {s->image, count, texels};
    const VkTimelineSemaphoreSubmitInfo values = {
        .sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
        .waitSemaphoreValueCount = bind->after.semaphore != VK_NULL_HANDLE,
        .pWaitSemaphoreValues = &bind->after.value,
        .signalSemaphoreValueCount = bind->done.semaphore != VK_NULL_HANDLE,
        .pSignalSemaphoreValues = &bind->done.value,
    };
    const VkBindSparseInfo info = {
        .sType = VK_STRUCTURE_TYPE_BIND_SPARSE_INFO,
        .pNext = bind->after.semaphore || bind->done.semaphore ? &values : NULL,
        .waitSemaphoreCount = values.waitSemaphoreValueCount,
        .pWaitSemaphores = &bind->after.semaphore,
        .bufferBindCount = s->buffer != VK_NULL_HANDLE && opaque != NULL,
        .pBufferBinds = &buffer,
        .imageOpaqueBindCount = s->image != VK_NULL_HANDLE && opaque != NULL,
        .pImageOpaqueBinds = &tail,
        .imageBindCount = texels != NULL,
        .pImageBinds = &image,
        .signalSemaphoreCount = values.signalSemaphoreValueCount,
        .pSignalSemaphores = &bind->done.semaphore,
    };
    return vk_status(s->vk, s->vk->call.QueueBindSparse(bind->queue, 1, &info, bind->done.fence));
}

static uint32_t level_edge(uint32_t edge, uint32_t level) { return edge >> level > 0 ? edge >> level : 1; }
static uint32_t tiles_of(uint32_t edge, uint32_t level, uint32_t tile)
{
    return (level_edge(edge, level) + tile - 1) / tile;
}
static uint64_t pages_of_level(const acre_vk_sparse *s, uint32_t level)
{
    return (uint64_t)tiles_of(s->extent.width, level, s->granularity.width) *
           tiles_of(s->extent.height, level, s->granularity.height) *
           tiles_of(s->extent.depth, level, s->granularity.depth);
}

/* Page number `index` of a level as a piece of the image; memory is left to the caller. */
static VkSparseImageMemoryBind texels_of(const acre_vk_sparse *s, const sparse_run *run, uint64_t index)
{
    const VkExtent3D tile = s->granularity;
    uint32_t wide = tiles_of(s->extent.width, run->level, tile.width);
    uint32_t high = tiles_of(s->extent.height, run->level, tile.height);
    uint32_t x = (uint32_t)(index % wide) * tile.width, y = (uint32_t)(index / wide % high) * tile.height,
             z = (uint32_t)(index / wide / high) * tile.depth;
    uint32_t left_x = level_edge(s->extent.width, run->level) - x,
             left_y = level_edge(s->extent.height, run->level) - y,
             left_z = level_edge(s->extent.depth, run->level) - z;
    return (VkSparseImageMemoryBind){
        .subresource = {s->aspect, run->level, run->layer},
        .offset = {(int32_t)x, (int32_t)y, (int32_t)z},
        .extent = {left_x < tile.width ? left_x : tile.width, left_y < tile.height ? left_y : tile.height,
                   left_z < tile.depth ? left_z : tile.depth},
    };
}

/* Tells the driver about the pages of the run that are bound (unbinding) or not (binding); blocks[i] is behind the i-th
 * of them, blocks == NULL unbinds. */
static acre_status bind_run(acre_vk_sparse *s, const acre_vk_bind *bind, const sparse_run *run,
                            const acre_vk_allocation *blocks, uint64_t changes)
{
    uint64_t entry_bytes = run->opaque ? sizeof(VkSparseMemoryBind) : sizeof(VkSparseImageMemoryBind);
    void *entries = arena_alloc(changes * entry_bytes);
    if (entries == NULL) return ACRE_NO_MEMORY;
    VkSparseMemoryBind *opaque = run->opaque ? entries : NULL;
    VkSparseImageMemoryBind *texels = run->opaque ? NULL : entries;
    uint32_t count = 0;
    uint64_t done = 0;
    for (uint64_t i = 0; i < run->count; i++) {
        if (s->pages[run->first + i].bound == (blocks != NULL)) continue;
        VkDeviceMemory memory = blocks != NULL ? blocks[done].memory : VK_NULL_HANDLE;
        VkDeviceSize memory_offset = blocks != NULL ? blocks[done].offset : 0, at = run->offset + i * s->page.size;
        done++;
        if (texels != NULL) {
            VkSparseImageMemoryBind *t = &texels[count++];
            *t = texels_of(s, run, i);
            t->memory = memory;
            t->memoryOffset = memory_offset;
            continue;
        }
        VkSparseMemoryBind *last = count > 0 ? &opaque[count - 1] : NULL;
        if (last != NULL && last->resourceOffset + last->size == at && last->memory == memory &&
            (blocks == NULL || last->memoryOffset + last->size == memory_offset))
            last->size += s->page.size;
        else
            opaque[count++] = (VkSparseMemoryBind){at, s->page.size, memory, memory_offset, 0};
    }
    acre_status status = queue_bind(s, bind, opaque, texels, count);
    arena_free(entries, changes * entry_bytes);
    return status;
}

static uint64_t pages_bound(const acre_vk_sparse *s, uint64_t first, uint64_t count)
{
    uint64_t bound = 0;
    for (uint64_t i = first; i < first + count; i++) bound += s->pages[i].bound;
    return bound;
}

/* Blocks for the pages of the run that are not bound, in their order; those kept beside their page first. */
static acre_status take_blocks(acre_vk_sparse *s, const sparse_run *run, acre_vk_allocation *blocks, uint64_t missing)
{
    uint64_t kept = 0;
    for (uint64_t i = run->first; i < run->first + run->count; i++)
        kept += !s->pages[i].bound && s->pages[i].handle != 0;
    uint64_t fresh = missing - kept;
    acre_status status = ACRE_OK;
    /* New ones to the end of the array; then both kinds are sorted in from the front, which never overtakes them. */
    if (fresh > 0) status = acre_vk_alloc_many(s->vk, &s->page, &s->request, (uint32_t)fresh, blocks + kept);
    if (status != ACRE_OK) return status;
    acre_vk_allocation *next = blocks + kept, *out = blocks;
    for (uint64_t i = run->first; i < run->first + run->count; i++) {
        const sparse_page *p = &s->pages[i];
        if (p->bound) continue;
        acre_vk_block_info info;
        if (p->handle == 0) {
            vk_block_add_flag(vk_block_of(s->vk, next->handle), BLOCK_FIXED);
            *out++ = *next++;
        } else if (acre_vk_get_info(s->vk, p->handle, &info) == ACRE_OK) {
            *out++ = info.allocation;
        }
    }
    return ACRE_OK;
}

static acre_status commit_run(acre_vk_sparse *s, const acre_vk_bind *bind, const sparse_run *run)
{
    uint64_t missing = run->count - pages_bound(s, run->first, run->count);
    if (missing == 0) return ACRE_OK;
    if (missing > UINT32_MAX) return ACRE_TOO_LARGE;
    acre_vk_allocation *blocks = arena_alloc(missing * sizeof *blocks);
    if (blocks == NULL) return ACRE_NO_MEMORY;
    acre_status status = take_blocks(s, run, blocks, missing);
    if (status == ACRE_OK) {
        status = bind_run(s, bind, run, blocks, missing);
        uint64_t next = 0;
        for (uint64_t i = run->first; i < run->first + run->count; i++) {
            sparse_page *p = &s->pages[i];
            if (p->bound) continue;
            uint64_t handle = blocks[next++].handle;
            if (status == ACRE_OK)
                *p = (sparse_page){handle, true};
            else if (p->handle == 0)
                acre_vk_free(s->vk, handle);
        }
        if (status == ACRE_OK) s->committed += missing;
    }
    arena_free(blocks, missing * sizeof *blocks);
    return status;
}

static acre_status decommit_run(acre_vk_sparse *s, const acre_vk_bind *bind, const sparse_run *run)
{
    uint64_t bound = pages_bound(s, run->first, run->count);
    if (bound == 0) return ACRE_OK;
    acre_status status = bind_run(s, bind, run, NULL, bound);
    if (status != ACRE_OK) return status;
    for (uint64_t i = run->first; i < run->first + run->count; i++) {
        sparse_page *p = &s->pages[i];
        if (!p->bound) continue;
        p->bound = false;
        if (acre_vk_free_after(s->vk, p->handle, bind->done) == ACRE_OK) p->handle = 0;
    }
    s->committed -= bound;
    return ACRE_OK;
}

/* --- life ------------------------------------------------------------------------------------------------------- */

static acre_vk_sparse *new_sparse(acre_vk *vk, const acre_vk_request *request)
{
    acre_vk_sparse *s = arena_alloc(sizeof *s);
    if (s == NULL) return NULL;
    s->vk = vk;
    if (request != NULL) s->request = *request;
    if (s->request.name != NULL) {
        strncpy(s->name, s->request.name, ACRE_GPU_NAME_MAX);
        s->request.name = s->name;
    }
    return s;
}

static bool make_table(acre_vk_sparse *s)
{
    s->pages = arena_alloc(s->page_count * sizeof *s->pages);
    return s->pages != NULL;
}

/* Undoes a creation. */
static void drop_sparse(acre_vk_sparse *s)
{
    acre_vk *vk = s->vk;
    if (s->buffer != VK_NULL_HANDLE) vk->call.DestroyBuffer(vk->device, s->buffer, vk->callbacks_or_null);
    if (s->image != VK_NULL_HANDLE) vk->call.DestroyImage(vk->device, s->image, vk->callbacks_or_null);
    if (s->pages != NULL) arena_free(s->pages, s->page_count * sizeof *s->pages);
    arena_free(s, sizeof *s);
}

/* A sparse resource's alignment is the size of its pages. */
static void set_pages(acre_vk_sparse *s, const VkMemoryRequirements *all)
{
    s->page = *all;
    s->page.size = all->alignment;
    s->bytes = all->size;
    s->page_count = (all->size + s->page.size - 1) / s->page.size;
}

acre_status acre_vk_sparse_create_buffer(acre_vk *vk, const VkBufferCreateInfo *info, const acre_vk_request *request,
                                         acre_vk_sparse **sparse)
{
    if (vk == NULL || info == NULL || sparse == NULL || info->size == 0) return ACRE_INVALID_ARGUMENT;
    if (acre_vk_sparse_lack(vk, false) != NULL) return ACRE_NOT_SUPPORTED;
    acre_vk_sparse *s = new_sparse(vk, request);
    if (s == NULL) return ACRE_NO_MEMORY;
    VkBufferCreateInfo all = *info;
    all.flags |= VK_BUFFER_CREATE_SPARSE_BINDING_BIT | VK_BUFFER_CREATE_SPARSE_RESIDENCY_BIT;
    acre_status status =
        vk_status(vk, vk->call.CreateBuffer(vk->device, &all, vk->callbacks_or_null, &s->buffer));
    if (status == ACRE_OK) {
        VkMemoryRequirements requirements;
        vk->call.GetBufferMemoryRequirements(vk->device, s->buffer, &requirements);
        set_pages(s, &requirements);
        if (!make_table(s)) status = ACRE_NO_MEMORY;
    } else {
        s->buffer = VK_NULL_HANDLE;
    }
    if (status != ACRE_OK) {
        drop_sparse(s);
        return status;
    }
    *sparse = s;
    return ACRE_OK;
}

/* Levels, layers, tail. NOT_SUPPORTED: a format of several aspects, or with metadata. */
static acre_status set_levels(acre_vk_sparse *s, const VkImageCreateInfo *info)
{
    acre_vk *vk = s->vk;
    VkMemoryRequirements requirements;
    vk->call.GetImageMemoryRequirements(vk->device, s->image, &requirements);
    set_pages(s, &requirements);

    VkSparseImageMemoryRequirements levels[4];
    uint32_t count = 4;
    vk->call.GetImageSparseMemoryRequirements(vk->device, s->image, &count, levels);
    if (count != 1) return ACRE_NOT_SUPPORTED;
    const VkSparseImageMemoryRequirements *l = &levels[0];
    s->extent = info->extent;
    s->levels = info->mipLevels;
    s->layers = info->arrayLayers;
    s->granularity = l->formatProperties.imageGranularity;
    s->aspect = l->formatProperties.aspectMask;
    s->tail_level = l->imageMipTailFirstLod < s->levels ? l->imageMipTailFirstLod : s->levels;
    s->single_tail = (l->formatProperties.flags & VK_SPARSE_IMAGE_FORMAT_SINGLE_MIPTAIL_BIT) != 0;
    s->tail_offset = l->imageMipTailOffset;
    s->tail_stride = l->imageMipTailStride;
    s->tail_pages = s->tail_level < s->levels ? (l->imageMipTailSize + s->page.size - 1) / s->page.size : 0;
    for (uint32_t level = 0; level < s->tail_level; level++) s->level_pages += pages_of_level(s, level);
    s->page_count = s->level_pages * s->layers + s->tail_pages * (s->single_tail ? 1 : s->layers);
    return make_table(s) ? ACRE_OK : ACRE_NO_MEMORY;
}

acre_status acre_vk_sparse_create_image(acre_vk *vk, const VkImageCreateInfo *info, const acre_vk_request *request,
                                        acre_vk_sparse **sparse)
{
    if (vk == NULL || info == NULL || sparse == NULL) return ACRE_INVALID_ARGUMENT;
    if (acre_vk_sparse_lack(vk, true) != NULL) return ACRE_NOT_SUPPORTED;
    acre_vk_sparse *s = new_sparse(vk, request);
    if (s == NULL) return ACRE_NO_MEMORY;
    VkImageCreateInfo all = *info;
    all.flags |= VK_IMAGE_CREATE_SPARSE_BINDING_BIT | VK_IMAGE_CREATE_SPARSE_RESIDENCY_BIT;
    acre_status status = vk_status(vk, vk->call.CreateImage(vk->device, &all, vk->callbacks_or_null, &s->image));
    if (status == ACRE_OK)
        status = set_levels(s, info);
    else
        s->image = VK_NULL_HANDLE;
    if (status != ACRE_OK) {
        drop_sparse(s);
        return status;
    }
    *sparse = s;
    return ACRE_OK;
}

/* The resource first, then its pages: points are passed in this order, so no page is free while it is bound. */
acre_status acre_vk_sparse_destroy(acre_vk_sparse *sparse, acre_vk_point point)
{
    if (sparse == NULL) return ACRE_OK;
    acre_vk *vk = sparse->vk;
    bool later = vk_point_is_set(&point);
    if (later && !vk_point_is_valid(vk, &point)) return ACRE_INVALID_ARGUMENT;
    acre_status status = ACRE_OK;
    if (sparse->buffer != VK_NULL_HANDLE)
        status = later ? acre_vk_destroy_buffer_after(vk, sparse->buffer, 0, point)
                       : acre_vk_destroy_buffer(vk, sparse->buffer, 0);
    if (sparse->image != VK_NULL_HANDLE)
        status = later ? acre_vk_destroy_image_after(vk, sparse->image, 0, point)
                       : acre_vk_destroy_image(vk, sparse->image, 0);
    if (status != ACRE_OK) return status;
    sparse->buffer = VK_NULL_HANDLE;
    sparse->image = VK_NULL_HANDLE;
    for (uint64_t i = 0; i < sparse->page_count; i++) {
        sparse_page *p = &sparse->pages[i];
        if (p->handle == 0) continue;
        status = later ? acre_vk_free_after(vk, p->handle, point) : acre_vk_free(vk, p->handle);
        if (status == ACRE_NO_MEMORY) return status;
        sparse->committed -= p->bound;
        *p = (sparse_page){0, false};
    }
    drop_sparse(sparse);
    return ACRE_OK;
}

acre_status acre_vk_sparse_get_info(acre_vk_sparse *sparse, acre_vk_sparse_info *info)
{
    if (sparse == NULL || info == NULL) return ACRE_INVALID_ARGUMENT;
    *info = (acre_vk_sparse_info){
        .buffer = sparse->buffer,
        .image = sparse->image,
        .page_bytes = sparse->page.size,
        .bytes = sparse->bytes,
        .committed_bytes = sparse->committed * sparse->page.size,
        .levels = sparse->levels,
        .layers = sparse->layers,
        .tail_level = sparse->tail_level,
    };
    return ACRE_OK;
}

/* --- parts ------------------------------------------------------------------------------------------------------ */

static bool range_is_valid(const acre_vk_sparse *s, uint64_t offset, uint64_t size)
{
    return s != NULL && s->buffer != VK_NULL_HANDLE && size != 0 && offset <= s->bytes && size <= s->bytes - offset;
}

acre_status acre_vk_sparse_commit(acre_vk_sparse *sparse, VkDeviceSize offset, VkDeviceSize size,
                                  const acre_vk_bind *bind)
{
    if (!range_is_valid(sparse, offset, size) || !bind_is_valid(sparse->vk, bind, false)) return ACRE_INVALID_ARGUMENT;
    uint64_t first = offset / sparse->page.size, end = (offset + size - 1) / sparse->page.size + 1;
    const sparse_run run = {first, end - first, 0, 0, true, first * sparse->page.size};
    return commit_run(sparse, bind, &run);
}

acre_status acre_vk_sparse_decommit(acre_vk_sparse *sparse, VkDeviceSize offset, VkDeviceSize size,
                                    const acre_vk_bind *bind)
{
    if (!range_is_valid(sparse, offset, size) || !bind_is_valid(sparse->vk, bind, true)) return ACRE_INVALID_ARGUMENT;
    uint64_t first = (offset + sparse->page.size - 1) / sparse->page.size;
    uint64_t end = offset + size == sparse->bytes ? sparse->page_count : (offset + size) / sparse->page.size;
    if (end <= first) return ACRE_OK;
    const sparse_run run = {first, end - first, 0, 0, true, first * sparse->page.size};
    return decommit_run(sparse, bind, &run);
}

/* False: no such level. */
static bool run_of_mip(const acre_vk_sparse *s, uint32_t level, uint32_t layer, sparse_run *run)
{
    if (s == NULL || s->image == VK_NULL_HANDLE || level >= s->levels || layer >= s->layers) return false;
    if (level >= s->tail_level) {
        uint64_t tail = s->single_tail ? 0 : layer;
        *run = (sparse_run){s->level_pages * s->layers + s->tail_pages * tail, s->tail_pages, 0, 0, true,
                            s->tail_offset + s->tail_stride * tail};
        return true;
    }
    uint64_t first = s->level_pages * layer;
    for (uint32_t l = 0; l < level; l++) first += pages_of_level(s, l);
    *run = (sparse_run){first, pages_of_level(s, level), level, layer, false, 0};
    return true;
}

acre_status acre_vk_sparse_commit_mip(acre_vk_sparse *sparse, uint32_t level, uint32_t layer, const acre_vk_bind *bind)
{
    sparse_run run;
    if (!run_of_mip(sparse, level, layer, &run) || !bind_is_valid(sparse->vk, bind, false))
        return ACRE_INVALID_ARGUMENT;
    return commit_run(sparse, bind, &run);
}

acre_status acre_vk_sparse_decommit_mip(acre_vk_sparse *sparse, uint32_t level, uint32_t layer,
                                        const acre_vk_bind *bind)
{
    sparse_run run;
    if (!run_of_mip(sparse, level, layer, &run) || !bind_is_valid(sparse->vk, bind, true)) return ACRE_INVALID_ARGUMENT;
    return decommit_run(sparse, bind, &run);
}

bool acre_vk_sparse_has_mip(acre_vk_sparse *sparse, uint32_t level, uint32_t layer)
{
    sparse_run run;
    return run_of_mip(sparse, level, layer, &run) && pages_bound(sparse, run.first, run.count) == run.count;
}

uint64_t acre_vk_sparse_mip_bytes(acre_vk_sparse *sparse, uint32_t level)
{
    sparse_run run;
    return run_of_mip(sparse, level, 0, &run) ? run.count * sparse->page.size : 0;
}
