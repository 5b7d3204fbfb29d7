/* vk_map: the CPU's side of device memory.
 *
 * A page is mapped as a whole, when the first of its blocks wants it, and stays mapped until it is given back: mapping
 * costs addresses only, and vkMapMemory in a loop costs time. Counts are per block, so that a program's mistakes are
 * its own: one unmap too many is refused. The driver's call is made under the page's map_lock, which nobody needs who
 * finds the page mapped.
 *
 * Ranges for flush and invalidate are widened to nonCoherentAtomSize and end at the memory's end at the latest. A block
 * of non-coherent memory starts and ends at such an atom (vk_alloc.c), so no neighbour's bytes are touched. */
#include <string.h>

#include "gpu/vk_internal.h"

enum { RANGES_PER_CALL = 32 };

char *vk_page_map(acre_vk *vk, vk_page *page, acre_status *status)
{
    char *base = atomic_load_explicit(&page->mapped, memory_order_acquire);
    if (likely(base != NULL)) return base;
    if (!(vk->host_visible_types >> page->memory_type & 1)) {
        *status = ACRE_INVALID_ARGUMENT;
        return NULL;
    }
    lock_acquire(&page->map_lock);
    base = atomic_load_explicit(&page->mapped, memory_order_acquire);
    if (base == NULL) {
        void *address = NULL;
        *status = vk_status(vk, vk->call.MapMemory(vk->device, page->memory, 0, VK_WHOLE_SIZE, 0, &address));
        base = *status == ACRE_OK ? address : NULL;
        atomic_store_explicit(&page->mapped, base, memory_order_release);
    }
    lock_release(&page->map_lock);
    return base;
}

acre_status acre_vk_map(acre_vk *vk, uint64_t handle, void **data)
{
    if (vk == NULL || data == NULL) return ACRE_INVALID_ARGUMENT;
    vk_block *b;
    acre_status status = vk_resolve(vk, handle, &b);
    if (status != ACRE_OK) return status;
    char *base = vk_page_map(vk, b->page, &status);
    if (base == NULL) return status;
    atomic_fetch_add_explicit(&b->map_count, 1, memory_order_relaxed);
    *data = base + b->offset;
    return ACRE_OK;
}

acre_status acre_vk_unmap(acre_vk *vk, uint64_t handle)
{
    if (vk == NULL) return ACRE_INVALID_ARGUMENT;
    vk_block *b;
    acre_status status = vk_resolve(vk, handle, &b);
    if (status != ACRE_OK) return status;
    uint32_t count = atomic_load_explicit(&b->map_count, memory_order_relaxed);
    do {
        if (count == 0) return ACRE_INVALID_ARGUMENT;
    } while (!atomic_compare_exchange_weak_explicit(&b->map_count, &count, count - 1, memory_order_relaxed,
                                                    memory_order_relaxed));
    return ACRE_OK;
}

/* --- flush and invalidate --------------------------------------------------------------------------------------- */

/* False: coherent, nothing to do. */
static acre_status range_of(acre_vk *vk, const acre_vk_range *r, VkMappedMemoryRange *range, bool *needed)
{
    vk_block *b;
    *needed = false;
    acre_status status = vk_resolve(vk, r->handle, &b);
    if (status != ACRE_OK) return status;
    uint64_t size = r->size == VK_WHOLE_SIZE && r->offset <= b->size ? b->size - r->offset : r->size;
    if (r->offset > b->size || size > b->size - r->offset) return ACRE_INVALID_ARGUMENT;
    const vk_page *page = b->page;
    if (!(vk->host_visible_types >> page->memory_type & 1)) return ACRE_INVALID_ARGUMENT;
    if ((vk->coherent_types >> page->memory_type & 1) || size == 0) return ACRE_OK;
    /* What is not mapped has no writes to make visible, and the driver would not take it. */
    if (atomic_load_explicit(&page->mapped, memory_order_acquire) == NULL) return ACRE_INVALID_ARGUMENT;
    uint64_t first = align_down(b->offset + r->offset, vk->atom);
    uint64_t end = align_up(b->offset + r->offset + size, vk->atom);
    if (end > page->bytes) end = page->bytes;
    *range = (VkMappedMemoryRange){.sType = VK_STRUCTURE_TYPE_MAPPED_MEMORY_RANGE,
                                   .memory = page->memory,
                                   .offset = first,
                                   .size = end - first};
    *needed = true;
    return ACRE_OK;
}

static acre_status ranges(acre_vk *vk, const acre_vk_range *list, uint32_t count, bool flush)
{
    if (vk == NULL || (list == NULL && count != 0)) return ACRE_INVALID_ARGUMENT;
    VkMappedMemoryRange batch[RANGES_PER_CALL];
    bool needed;
    /* All are looked at before any of them is done. */
    for (uint32_t i = 0; i < count; i++) {
        acre_status status = range_of(vk, &list[i], batch, &needed);
        if (status != ACRE_OK) return status;
    }
    uint32_t filled = 0;
    for (uint32_t i = 0; i <= count; i++) {
        if (filled != 0 && (i == count || filled == RANGES_PER_CALL)) {
            VkResult result = flush ? vk->call.FlushMappedMemoryRanges(vk->device, filled, batch)
                                    : vk->call.InvalidateMappedMemoryRanges(vk->device, filled, batch);
            if (result != VK_SUCCESS) return vk_status(vk, result);
            filled = 0;
        }
        if (i == count) break;
        acre_status status = range_of(vk, &list[i], &batch[filled], &needed);
        if (status != ACRE_OK) return status;
        filled += needed;
    }
    return ACRE_OK;
}

acre_status acre_vk_flush(acre_vk *vk, uint64_t handle, VkDeviceSize offset, VkDeviceSize size)
{
    return ranges(vk, &(acre_vk_range){handle, offset, size}, 1, true);
}

acre_status acre_vk_invalidate(acre_vk *vk, uint64_t handle, VkDeviceSize offset, VkDeviceSize size)
{
    return ranges(vk, &(acre_vk_range){handle, offset, size}, 1, false);
}

acre_status acre_vk_flush_ranges(acre_vk *vk, const acre_vk_range *list, uint32_t count)
{
    return ranges(vk, list, count, true);
}

acre_status acre_vk_invalidate_ranges(acre_vk *vk, const acre_vk_range *list, uint32_t count)
{
    return ranges(vk, list, count, false);
}

/* --- copies ----------------------------------------------------------------------------------------------------- */

static acre_status address_of(acre_vk *vk, uint64_t handle, VkDeviceSize offset, size_t bytes, char **address)
{
    vk_block *b;
    acre_status status = vk_resolve(vk, handle, &b);
    if (status != ACRE_OK) return status;
    if (offset > b->size || bytes > b->size - offset) return ACRE_INVALID_ARGUMENT;
    char *base = vk_page_map(vk, b->page, &status);
    if (base != NULL) *address = base + b->offset + offset;
    return base != NULL ? ACRE_OK : status;
}

acre_status acre_vk_copy_to(acre_vk *vk, uint64_t handle, VkDeviceSize offset, const void *source, size_t bytes)
{
    if (vk == NULL || (source == NULL && bytes != 0)) return ACRE_INVALID_ARGUMENT;
    char *target;
    acre_status status = address_of(vk, handle, offset, bytes, &target);
    if (status != ACRE_OK || bytes == 0) return status;
    memcpy(target, source, bytes);
    return acre_vk_flush(vk, handle, offset, bytes);
}

acre_status acre_vk_copy_from(acre_vk *vk, uint64_t handle, VkDeviceSize offset, void *target, size_t bytes)
{
    if (vk == NULL || (target == NULL && bytes != 0)) return ACRE_INVALID_ARGUMENT;
    char *source;
    acre_status status = address_of(vk, handle, offset, bytes, &source);
    if (status != ACRE_OK || bytes == 0) return status;
    status = acre_vk_invalidate(vk, handle, offset, bytes);
    if (status == ACRE_OK) memcpy(target, source, bytes);
    return status;
}
