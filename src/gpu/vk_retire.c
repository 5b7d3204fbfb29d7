/* vk_retire: blocks that are freed while the GPU may still use them.
 *
 * retire.h keeps the queues; here is what it asks: whether a fence is signaled, how far a timeline semaphore got. A
 * fence is a timeline with one value, 1, for as long as something waits for it: when its last block is free, or the
 * program says that it has passed, its number is over, and a later free with the same VkFence gets a new one. A lost
 * device uses nothing any more, so everything counts as reached.
 *
 * A program may destroy a fence once its blocks were collected, by whatever thread. Another one may be in the driver
 * with that fence, so who collects waits for it: a call that says that nothing is pending leaves nobody behind. */
#include "gpu/vk_internal.h"

enum { SLOT_BITS = 16, TIMELINES_AT_FIRST = 16 };

static uint32_t slot_of(uint64_t id) { return (uint32_t)id & ((1u << SLOT_BITS) - 1); }

/* --- what retire.h asks ----------------------------------------------------------------------------------------- */

/* A copy, since the table may move. False: nobody needs to ask. True: done_asking follows. */
static bool start_asking(acre_vk *vk, uint64_t id, vk_timeline *copy)
{
    lock_acquire(&vk->timeline_lock);
    vk_timeline *t = &vk->timelines[slot_of(id)];
    bool ask = t->id == id && t->waiting != 0 && !t->passed;
    if (ask) {
        *copy = *t;
        t->asking++;
        atomic_fetch_add_explicit(&vk->asking, 1, memory_order_relaxed);
    }
    lock_release(&vk->timeline_lock);
    return ask;
}

static void done_asking(acre_vk *vk, uint64_t id)
{
    lock_acquire(&vk->timeline_lock);
    vk->timelines[slot_of(id)].asking--;
    atomic_fetch_sub_explicit(&vk->asking, 1, memory_order_release);
    lock_release(&vk->timeline_lock);
}

/* Until no thread is in the driver with a fence or semaphore that nothing waits for. */
static void settle(acre_vk *vk)
{
    while (atomic_load_explicit(&vk->asking, memory_order_acquire) != 0) {
        bool left_behind = false;
        lock_acquire(&vk->timeline_lock);
        for (uint32_t i = 0; i < vk->timeline_capacity; i++)
            left_behind |= vk->timelines[i].asking != 0 && (vk->timelines[i].waiting == 0 || vk->timelines[i].passed);
        lock_release(&vk->timeline_lock);
        if (!left_behind) return;
        os_yield();
    }
}

static bool reached(void *context, uint64_t id, uint64_t *value)
{
    acre_vk *vk = context;
    vk_timeline t;
    *value = UINT64_MAX;
    if (!start_asking(vk, id, &t)) return true;
    VkResult result;
    if (t.semaphore) {
        result = vk->call.GetSemaphoreCounterValue(vk->device, (VkSemaphore)t.handle, value);
    } else {
        result = vk->call.GetFenceStatus(vk->device, (VkFence)t.handle);
        *value = result == VK_SUCCESS ? 1 : 0;
    }
    done_asking(vk, id);
    if (result == VK_SUCCESS || result == VK_NOT_READY) return true;
    (void)vk_status(vk, result);
    *value = UINT64_MAX;
    return result == VK_ERROR_DEVICE_LOST;
}

static bool wait_for(void *context, uint64_t id, uint64_t value, uint64_t timeout_ns)
{
    acre_vk *vk = context;
    vk_timeline t;
    if (!start_asking(vk, id, &t)) return true;
    VkResult result;
    if (t.semaphore) {
        VkSemaphore semaphore = (VkSemaphore)t.handle;
        VkSemaphoreWaitInfo info = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
                                    .semaphoreCount = 1,
                                    .pSemaphores = &semaphore,
                                    .pValues = &value};
        result = vk->call.WaitSemaphores(vk->device, &info, timeout_ns);
    } else {
        VkFence fence = (VkFence)t.handle;
        result = vk->call.WaitForFences(vk->device, 1, &fence, VK_TRUE, timeout_ns);
    }
    done_asking(vk, id);
    if (result == VK_SUCCESS) return true;
    if (result != VK_TIMEOUT) (void)vk_status(vk, result);
    return result == VK_ERROR_DEVICE_LOST;
}

static uint32_t heap_of(const vk_block *b) { return b->page != NULL ? b->page->heap : 0; }

static void free_block(void *context, void *block)
{
    acre_vk *vk = context;
    vk_block *b = block;
    lock_acquire(&vk->timeline_lock);
    vk->timelines[atomic_load_explicit(&b->map_count, memory_order_relaxed)].waiting--;
    lock_release(&vk->timeline_lock);
    atomic_store_explicit(&b->map_count, 0, memory_order_release);
    gpu_ledger_unpend(&vk->ledger, b->category, heap_of(b), b->size);
    if (b->page != NULL) {
        atomic_fetch_sub_explicit(&b->page->pool->pending_bytes, b->size, memory_order_relaxed);
        atomic_fetch_sub_explicit(&b->page->pool->pending_count, 1, memory_order_relaxed);
    }
    atomic_fetch_sub_explicit(&vk->pending_count, 1, memory_order_relaxed);
    vk_block_release(vk, b);
}

void vk_retire_init(acre_vk *vk)
{
    retire_owner owner = {.context = vk, .reached = reached, .wait = wait_for, .free_block = free_block};
    retire_init(&vk->retire, &owner);
}

/* --- freeing ---------------------------------------------------------------------------------------------------- */

/* Under timeline_lock. NULL: no memory, or 65,536 of them. */
static vk_timeline *timeline_of(acre_vk *vk, acre_vk_point point)
{
    bool semaphore = point.semaphore != VK_NULL_HANDLE;
    uint64_t handle = semaphore ? (uint64_t)point.semaphore : (uint64_t)point.fence;
    vk_timeline *unused = NULL;
    for (uint32_t i = 0; i < vk->timeline_capacity; i++) {
        vk_timeline *t = &vk->timelines[i];
        if (t->waiting == 0) {
            if (unused == NULL && t->asking == 0) unused = t;
        } else if (t->handle == handle && t->semaphore == semaphore && !t->passed) {
            return t;
        }
    }
    if (unused == NULL) {
        uint32_t old = vk->timeline_capacity, count = old == 0 ? TIMELINES_AT_FIRST : 2 * old;
        if (count > 1u << SLOT_BITS) return NULL;
        vk_timeline *larger = arena_alloc(count * sizeof *larger);
        if (larger == NULL) return NULL;
        for (uint32_t i = 0; i < old; i++) larger[i] = vk->timelines[i];
        arena_free(vk->timelines, old * sizeof *larger);
        vk->timelines = larger;
        vk->timeline_capacity = count;
        unused = &larger[old];
    }
    uint32_t slot = (uint32_t)(unused - vk->timelines);
    *unused = (vk_timeline){.id = ++vk->timeline_ids << SLOT_BITS | slot, .handle = handle, .semaphore = semaphore};
    return unused;
}

static bool push(acre_vk *vk, vk_block *b, acre_vk_point point)
{
    lock_acquire(&vk->timeline_lock);
    vk_timeline *t = timeline_of(vk, point);
    bool pushed = false;
    if (t != NULL) {
        t->waiting++;
        atomic_store_explicit(&b->map_count, slot_of(t->id), memory_order_release); /* walks read it */
        pushed = retire_push(&vk->retire, t->id, t->semaphore ? point.value : 1, b);
        if (!pushed) t->waiting--;
    }
    lock_release(&vk->timeline_lock);
    return pushed;
}

/* A resource without a block: a record without memory waits in its place. */
static vk_block *make_bare(acre_vk *vk)
{
    lock_acquire(&vk->alone->lock);
    vk_block *b = vk_block_take(vk, vk->alone);
    lock_release(&vk->alone->lock);
    if (b == NULL) return NULL;
    VK_SET(b->category, 0);
    VK_SET(b->flags, BLOCK_ALONE);
    uint32_t state = atomic_load_explicit(&b->state, memory_order_relaxed) & ~(uint32_t)BLOCK_STATE_MASK;
    atomic_store_explicit(&b->state, (state + (1u << BLOCK_STATE_BITS)) | BLOCK_PENDING, memory_order_release);
    return b;
}

/* A resource takes the place of what may be a name, or that comes back: nobody may be copying it. */
static void set_resource(acre_vk *vk, vk_block *b, bool named, uint8_t flags, uint64_t resource)
{
    if (named) lock_acquire(&vk->looks_lock);
    VK_SET(b->flags, flags);
    b->resource = resource;
    if (named) lock_release(&vk->looks_lock);
}

acre_status vk_free_after(acre_vk *vk, uint64_t handle, acre_vk_point point, uint8_t flag, uint64_t resource)
{
    if (vk == NULL || (point.fence == VK_NULL_HANDLE) == (point.semaphore == VK_NULL_HANDLE))
        return ACRE_INVALID_ARGUMENT;
    if (point.semaphore != VK_NULL_HANDLE && vk->call.GetSemaphoreCounterValue == NULL) return ACRE_NOT_SUPPORTED;
    vk_block *b = NULL;
    if (handle != 0) {
        b = vk_block_of(vk, handle);
        if (b == NULL || !vk_block_leave(b, handle, BLOCK_PENDING)) return vk_stale(b, handle);
    } else if (flag != 0) {
        b = make_bare(vk);
        if (b == NULL) return ACRE_NO_MEMORY;
    } else {
        return ACRE_OK;
    }

    uint8_t flags = b->flags;
    uint64_t kept = b->resource; /* or its name */
    uint32_t maps = atomic_load_explicit(&b->map_count, memory_order_relaxed);
    bool named = (flags & BLOCK_NAMED) != 0;
    if (flag != 0) set_resource(vk, b, named, (uint8_t)((flags & ~BLOCK_NAMED) | flag), resource);
    /* Counted as pending before the queue has it: another thread may free it at once. */
    uint32_t category = b->category, heap = heap_of(b);
    uint64_t size = b->size;
    vk_page *page = b->page;
    gpu_ledger_pend(&vk->ledger, category, heap, size);
    atomic_fetch_add_explicit(&vk->pending_count, 1, memory_order_relaxed);
    if (page != NULL) {
        atomic_fetch_add_explicit(&page->pool->pending_bytes, size, memory_order_relaxed);
        atomic_fetch_add_explicit(&page->pool->pending_count, 1, memory_order_relaxed);
    }
    vk_shard *s;
    if (likely(push(vk, b, point))) {
        if (flag != 0 && named) arena_free((void *)(uintptr_t)kept, ACRE_GPU_NAME_MAX + 1);
        if (handle != 0) {
            s = vk_shard_enter(vk);
            vk_account_of(vk, s, category, heap)->blocks--;
            vk_shard_leave(s);
        }
        return ACRE_OK;
    }

    atomic_fetch_sub_explicit(&vk->pending_count, 1, memory_order_relaxed);
    if (page != NULL) {
        atomic_fetch_sub_explicit(&page->pool->pending_bytes, size, memory_order_relaxed);
        atomic_fetch_sub_explicit(&page->pool->pending_count, 1, memory_order_relaxed);
    }
    gpu_ledger_unpend(&vk->ledger, category, heap, size);
    (void)gpu_ledger_charge(&vk->ledger, category, heap, size, true);
    if (flag != 0) set_resource(vk, b, named, flags, kept);
    if (handle == 0) {
        vk_block_release(vk, b);
        return ACRE_NO_MEMORY;
    }
    /* Live as it was, under the same word: who copied in between must notice. */
    vk_change_begin(vk);
    atomic_store_explicit(&b->map_count, maps, memory_order_release);
    atomic_store_explicit(&b->state, (uint32_t)(handle >> 32), memory_order_release);
    vk_change_end(vk);
    return ACRE_NO_MEMORY;
}

acre_status acre_vk_free_after(acre_vk *vk, uint64_t handle, acre_vk_point point)
{
    return vk_free_after(vk, handle, point, 0, 0);
}

acre_status acre_vk_destroy_buffer_after(acre_vk *vk, VkBuffer buffer, uint64_t handle, acre_vk_point point)
{
    return vk_free_after(vk, handle, point, buffer != VK_NULL_HANDLE ? BLOCK_HAS_BUFFER : 0, (uint64_t)buffer);
}

acre_status acre_vk_destroy_image_after(acre_vk *vk, VkImage image, uint64_t handle, acre_vk_point point)
{
    return vk_free_after(vk, handle, point, image != VK_NULL_HANDLE ? BLOCK_HAS_IMAGE : 0, (uint64_t)image);
}

/* --- collecting ------------------------------------------------------------------------------------------------- */

acre_status acre_vk_fence_passed(acre_vk *vk, VkFence fence)
{
    if (vk == NULL || fence == VK_NULL_HANDLE) return ACRE_INVALID_ARGUMENT;
    bool found = false;
    lock_acquire(&vk->timeline_lock);
    for (uint32_t i = 0; i < vk->timeline_capacity; i++) {
        vk_timeline *t = &vk->timelines[i];
        if (t->waiting == 0 || t->semaphore || t->handle != (uint64_t)fence) continue;
        t->passed = true;
        found = true;
    }
    lock_release(&vk->timeline_lock);
    if (found) (void)retire_poll(&vk->retire);
    settle(vk);
    return ACRE_OK;
}

static bool is_pending(acre_vk *vk) { return atomic_load_explicit(&vk->pending_count, memory_order_acquire) != 0; }

uint64_t acre_vk_collect(acre_vk *vk)
{
    if (vk == NULL) return 0;
    uint64_t freed = is_pending(vk) ? retire_poll(&vk->retire) : 0;
    settle(vk);
    vk_maintain(vk, true);
    return freed;
}

acre_status acre_vk_wait(acre_vk *vk, uint64_t timeout_ns)
{
    if (vk == NULL) return ACRE_INVALID_ARGUMENT;
    bool some = !is_pending(vk) || retire_wait(&vk->retire, timeout_ns) || !is_pending(vk);
    settle(vk);
    return some ? ACRE_OK : ACRE_BUSY;
}

acre_status acre_vk_drain(acre_vk *vk, uint64_t timeout_ns)
{
    if (vk == NULL) return ACRE_INVALID_ARGUMENT;
    bool all = !is_pending(vk) || retire_drain(&vk->retire, timeout_ns) || !is_pending(vk);
    settle(vk);
    return all ? ACRE_OK : ACRE_BUSY;
}

uint64_t acre_vk_next_collect_ms(acre_vk *vk)
{
    uint64_t next = UINT64_MAX;
    if (vk == NULL) return next;
    for (uint32_t p = 0; p < vk->pool_slots; p++) {
        vk_pool *pool = __atomic_load_n(&vk->pools[p], __ATOMIC_ACQUIRE);
        if (pool == NULL) continue;
        lock_acquire(&pool->lock);
        if (pool->page_count > pool->page_count_min) {
            uint64_t ms = empty_next_ms(&pool->empties, &vk->policy, vk_now(vk));
            if (ms < next) next = ms;
        }
        lock_release(&pool->lock);
    }
    return next;
}

uint64_t acre_vk_trim(acre_vk *vk, uint64_t keep_bytes)
{
    if (vk == NULL) return 0;
    if (is_pending(vk)) (void)retire_poll(&vk->retire);
    (void)vk_flush(vk, NULL, false);
    uint64_t empty = 0, given = 0;
    for (uint32_t h = 0; h < vk->heap_count; h++)
        empty += atomic_load_explicit(&vk->ledger.heaps[h].empty, memory_order_relaxed);
    for (uint32_t h = 0; h < vk->heap_count && empty - given > keep_bytes; h++)
        given += vk_heap_shrink(vk, h, empty - given - keep_bytes);
    return given;
}
