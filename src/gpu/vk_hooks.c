/* vk_hooks: points in time, and places that are not in certain pages; see vk_hooks.h. */
#include "gpu/vk_hooks.h"

/* --- points in time --------------------------------------------------------------------------------------------- */

bool vk_point_is_valid(const acre_vk *vk, const acre_vk_point *point)
{
    if ((point->fence == VK_NULL_HANDLE) == (point->semaphore == VK_NULL_HANDLE)) return false;
    return point->fence != VK_NULL_HANDLE || vk->call.GetSemaphoreCounterValue != NULL;
}

bool vk_point_passed(acre_vk *vk, const acre_vk_point *point, vk_point_answer *answer)
{
    VkResult result;
    if (point->fence != VK_NULL_HANDLE) {
        result = vk->call.GetFenceStatus(vk->device, point->fence);
        if (result == VK_SUCCESS) return true;
        if (result == VK_NOT_READY) return false;
    } else {
        if (answer->semaphore == point->semaphore) return answer->value >= point->value;
        if (vk->call.GetSemaphoreCounterValue == NULL) return false;
        uint64_t value = 0;
        result = vk->call.GetSemaphoreCounterValue(vk->device, point->semaphore, &value);
        if (result == VK_SUCCESS) {
            *answer = (vk_point_answer){point->semaphore, value};
            return value >= point->value;
        }
    }
    (void)vk_status(vk, result);
    return result == VK_ERROR_DEVICE_LOST;
}

acre_status vk_point_wait(acre_vk *vk, const acre_vk_point *point, uint64_t timeout_ns)
{
    VkResult result;
    if (point->fence != VK_NULL_HANDLE) {
        result = vk->call.WaitForFences(vk->device, 1, &point->fence, VK_TRUE, timeout_ns);
    } else {
        if (vk->call.WaitSemaphores == NULL) return ACRE_NOT_SUPPORTED;
        const VkSemaphoreWaitInfo info = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO, .semaphoreCount = 1,
                                          .pSemaphores = &point->semaphore, .pValues = &point->value};
        result = vk->call.WaitSemaphores(vk->device, &info, timeout_ns);
    }
    return result == VK_TIMEOUT ? ACRE_BUSY : vk_status(vk, result);
}

/* --- places for moves ------------------------------------------------------------------------------------------- */

/* The block takes the rest of its hole, too, so that one block set aside closes it. */
static void swallow_hole(vk_pool *pool, vk_block *b)
{
    uint32_t next = coalesce_next(&pool->core, b->node);
    if (next == 0 || !coalesce_is_hole(&pool->core, next)) return;
    uint32_t old = coalesce_size(&pool->core, b->node), size = old + coalesce_size(&pool->core, next);
    if (!coalesce_resize(&pool->core, b->node, size)) return;
    b->page->used += size - old;
    VK_SET(b->size, (uint64_t)size << GRANULE_LOG2);
}

acre_status vk_place_like(acre_vk *vk, uint64_t handle, vk_page_is_closed *is_closed, void *context, uint32_t look_max,
                          vk_aside *aside, acre_vk_allocation *place)
{
    vk_block *like, *b;
    acre_status status = vk_resolve(vk, handle, &like);
    if (status != ACRE_OK) return status;
    uint32_t category = like->category;
    uint64_t bytes = like->size, alignment = (uint64_t)1 << like->aligned_log2;
    vk_page *page = like->page;
    if (like->flags & BLOCK_ALONE) return ACRE_NOT_SUPPORTED;
    vk_pool *pool = page->pool;
    uint32_t heap = page->heap;

    lock_acquire(&pool->lock);
    bool no_record;
    while ((b = vk_pool_take(vk, pool, bytes, alignment, &no_record)) != NULL) {
        /* The only block of its page: the page was empty. */
        if (b->page->block_count > 1 && !is_closed(context, b->page)) break;
        swallow_hole(pool, b);
        b->next = aside->chain;
        aside->chain = b->index + 1;
        if (++aside->count > look_max) {
            b = NULL;
            break;
        }
    }
    lock_release(&pool->lock);
    if (b == NULL) return ACRE_NO_MEMORY;

    (void)vk_charge(vk, category, heap, bytes, true);
    uint32_t state = atomic_load_explicit(&b->state, memory_order_relaxed);
    state = ((state & ~(uint32_t)BLOCK_STATE_MASK) + (1u << BLOCK_STATE_BITS)) | BLOCK_LIVE;
    VK_SET(b->category, (uint8_t)category);
    VK_SET(b->flags, BLOCK_FIXED | BLOCK_COLD);
    VK_SET(b->tag, 0);
    atomic_store_explicit(&b->map_count, 0, memory_order_release);
    vk_describe(vk, b, state, place);
    atomic_store_explicit(&b->state, state, memory_order_release);
    return ACRE_OK;
}

void vk_place_end(acre_vk *vk, vk_pool *pool, vk_aside *aside)
{
    if (aside->chain != 0) vk_pool_give(vk, pool, aside->chain);
    *aside = (vk_aside){0, 0};
}

acre_status vk_free_cold(acre_vk *vk, uint64_t handle, acre_vk_point point)
{
    vk_block *b;
    acre_status status = vk_resolve(vk, handle, &b);
    if (status != ACRE_OK) return status;
    vk_block_add_flag(b, BLOCK_COLD);
    return vk_point_is_set(&point) ? acre_vk_free_after(vk, handle, point) : acre_vk_free(vk, handle);
}

bool vk_page_in_use(vk_pool *pool, const vk_page *page)
{
    lock_acquire(&pool->lock);
    const vk_page *p = pool->pages;
    while (p != NULL && p != page) p = p->next;
    bool in_use = p != NULL && p->used != 0;
    lock_release(&pool->lock);
    return in_use;
}
