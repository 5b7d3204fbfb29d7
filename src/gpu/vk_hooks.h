/* vk_hooks: what streaming asks of the allocator's core, in one place; see vk_internal.h for the structures.
 *
 * Layer 8. The ring asks whether a point in time was reached. Sparse resources ask for three functions of Vulkan 1.0
 * that the core has no use for; they stand in its table (VK_FUNCTIONS_OPTIONAL), NULL where the device has none.
 * Defragmentation asks for a place like that of a given block, but not in certain pages:
 *
 *   the core's holes are found by size over all pages of a pool. Those that lie in a page which is to be emptied are
 *   taken whole and set aside, so that the next search finds another one; at the end of the step all that was set aside
 *   goes back. So no list of holes per page is needed, and meanwhile nobody else gets these holes either. Bounded by
 *   the holes of the pages to be emptied.
 *
 * For this a block knows its alignment (aligned_log2). A place that was left goes straight back to its page, past the
 * caches of freed blocks, which would keep the page in use (BLOCK_COLD). What the library itself has bound or mapped
 * for good never moves (BLOCK_FIXED). */
#ifndef ACRE_GPU_VK_HOOKS_H
#define ACRE_GPU_VK_HOOKS_H

#include "gpu/vk_internal.h"

/* --- points in time --------------------------------------------------------------------------------------------- */

static inline bool vk_point_is_set(const acre_vk_point *point)
{
    return point->fence != VK_NULL_HANDLE || point->semaphore != VK_NULL_HANDLE;
}
/* One of both, and nothing that the device does not have. */
bool vk_point_is_valid(const acre_vk *vk, const acre_vk_point *point);
/* The last timeline that was asked, so that one question answers for many points. Zero at first. */
typedef struct vk_point_answer {
    VkSemaphore semaphore;
    uint64_t value;
} vk_point_answer;
/* False, too, when the driver cannot say. A lost device has passed all points. */
bool vk_point_passed(acre_vk *vk, const acre_vk_point *point, vk_point_answer *answer);
/* BUSY: the time went by. */
acre_status vk_point_wait(acre_vk *vk, const acre_vk_point *point, uint64_t timeout_ns);

/* --- places for moves ------------------------------------------------------------------------------------------- */

/* Blocks that were set aside. */
typedef struct vk_aside {
    uint32_t chain; /* index + 1 */
    uint32_t count;
} vk_aside;

/* True: nothing may be placed in this page. Called under the pool's lock. Empty pages are closed anyway. */
typedef bool vk_page_is_closed(void *context, const vk_page *page);

/* A live block of the size, alignment and category of the live block `handle`, in a hole of its pool that lies in no
 * closed page. Budgets of categories are passed if need be: the block is there twice for as long as the move takes.
 * NO_MEMORY: no such hole, or more than look_max were set aside; DOUBLE_FREE: the block is gone. */
acre_status vk_place_like(acre_vk *vk, uint64_t handle, vk_page_is_closed *is_closed, void *context, uint32_t look_max,
                          vk_aside *aside, acre_vk_allocation *place);
void vk_place_end(acre_vk *vk, vk_pool *pool, vk_aside *aside);
/* Frees past the caches; zero point: now. */
acre_status vk_free_cold(acre_vk *vk, uint64_t handle, acre_vk_point point);
/* The pool still has this page, and something is in it. The page may be gone. */
bool vk_page_in_use(vk_pool *pool, const vk_page *page);

#endif
