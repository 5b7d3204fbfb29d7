/* vk_pool: pools of one's own: pages that only those get who name the pool.
 *
 * The same structure as the shared pools, in the last slots of the table. One that is destroyed stays in its slot,
 * empty, for the next to be made there, so that nobody who walks the table holds a pointer into nothing. */
#include <string.h>

#include "gpu/vk_internal.h"

static bool options_fit(const acre_vk_pool_options *o)
{
    const acre_vk_request *r = &o->request;
    if ((unsigned)r->usage >= ACRE_VK_USAGE_COUNT || r->pool != NULL) return false;
    if (o->page_count_max != 0 && o->page_count_min > o->page_count_max) return false;
    if (o->page_bytes % GRANULE != 0 || !(o->priority >= 0 && o->priority <= 1)) return false;
    return true;
}

/* Under pools_lock. NULL: no slot or no memory. */
static vk_pool *take_slot(acre_vk *vk, uint32_t memory_type, bool *full)
{
    *full = false;
    for (uint32_t p = vk->shared_pools; p < vk->pool_slots; p++) {
        vk_pool *pool = vk->pools[p];
        if (pool == NULL) {
            pool = vk_pool_make(vk, p, memory_type);
            if (pool != NULL) __atomic_store_n(&vk->pools[p], pool, __ATOMIC_RELEASE);
            return pool;
        }
        if (!pool->own) return pool;
    }
    *full = true;
    return NULL;
}

acre_status acre_vk_pool_create(acre_vk *vk, const acre_vk_pool_options *options, acre_vk_pool **out)
{
    if (vk == NULL || options == NULL || out == NULL || !options_fit(options)) return ACRE_INVALID_ARGUMENT;
    bool exported = (options->request.flags & ACRE_VK_EXPORT) != 0;
    if (exported && !(vk->features & ACRE_VK_HAS_EXTERNAL_FD)) return ACRE_NOT_SUPPORTED;
    uint32_t type;
    acre_status status = acre_vk_find_memory_type(vk, UINT32_MAX, &options->request, &type);
    if (status != ACRE_OK) return status;

    bool full;
    lock_acquire(&vk->pools_lock);
    vk_pool *pool = take_slot(vk, type, &full);
    if (pool != NULL) {
        lock_acquire(&pool->lock);
        pool->memory_type = type;
        pool->heap = vk->heap_of[type];
        VK_SET(pool->own, true);
        pool->exported = exported;
        pool->page_bytes = options->page_bytes;
        pool->page_count_min = options->page_count_min;
        pool->page_count_max = options->page_count_max;
        pool->priority = options->priority > 0 ? options->priority : 0.5f;
        memset(pool->name, 0, sizeof pool->name);
        strncpy(pool->name, options->name != NULL ? options->name : "pool", ACRE_GPU_NAME_MAX);
        lock_release(&pool->lock);
    }
    lock_release(&vk->pools_lock);
    if (pool == NULL) return full ? ACRE_TOO_LARGE : ACRE_NO_MEMORY;

    acre_gpu_shortage why = {0};
    for (uint32_t i = 0; i < options->page_count_min && status == ACRE_OK; i++)
        status = vk_pool_add_page(vk, pool, &why);
    if (status != ACRE_OK) {
        vk_want want = {.bytes = options->page_bytes, .type_bits = 1u << type, .request = &vk_default_request};
        vk_shortage_note(vk, &why, status, &want, vk->heap_of[type]);
        (void)acre_vk_pool_destroy(vk, pool);
        return status;
    }
    *out = pool;
    return ACRE_OK;
}

acre_status acre_vk_pool_destroy(acre_vk *vk, acre_vk_pool *pool)
{
    if (vk == NULL) return ACRE_INVALID_ARGUMENT;
    if (pool == NULL) return ACRE_OK;
    if (pool->vk != vk || !pool->own) return ACRE_FOREIGN_POINTER;
    if (atomic_load_explicit(&pool->pending_count, memory_order_acquire) != 0) (void)retire_poll(&vk->retire);
    (void)vk_flush(vk, pool, false);
    lock_acquire(&pool->lock);
    bool busy = pool->block_count != 0;
    if (!busy) pool->page_count_min = 0;
    lock_release(&pool->lock);
    if (busy) return ACRE_BUSY;
    const empty_policy none = {.delay_ms = UINT32_MAX};
    (void)vk_pool_shrink(vk, pool, &none, UINT64_MAX);
    lock_acquire(&vk->pools_lock);
    VK_SET(pool->own, false);
    lock_release(&vk->pools_lock);
    return ACRE_OK;
}

acre_status acre_vk_pool_stats(acre_vk *vk, acre_vk_pool *pool, acre_gpu_heap_stats *stats)
{
    if (vk == NULL || pool == NULL || stats == NULL) return ACRE_INVALID_ARGUMENT;
    if (pool->vk != vk || !pool->own) return ACRE_FOREIGN_POINTER;
    uint64_t cached = 0, cached_count = 0;
    for (uint32_t i = 0; i <= vk->shard_mask; i++) {
        vk_shard *s = vk_shard_enter_number(vk, i);
        if (s->bins[pool->index] != NULL) {
            cached += s->bins[pool->index]->bytes;
            cached_count += s->bins[pool->index]->count;
        }
        vk_shard_leave(s);
    }
    memset(stats, 0, sizeof *stats);
    lock_acquire(&pool->lock);
    uint64_t used = pool->started ? ((uint64_t)pool->core.used - pool->gone_granules) << GRANULE_LOG2 : 0;
    uint64_t pending = atomic_load_explicit(&pool->pending_bytes, memory_order_relaxed);
    uint64_t pending_count = atomic_load_explicit(&pool->pending_count, memory_order_relaxed);
    stats->held_bytes = pool->bytes;
    stats->empty_bytes = pool->empties.bytes;
    stats->pending_bytes = pending;
    stats->live_bytes = used > pending + cached ? used - pending - cached : 0;
    stats->hole_bytes = pool->bytes - stats->live_bytes - pending - pool->empties.bytes;
    stats->blocks = pool->block_count > cached_count + pending_count
                        ? pool->block_count - cached_count - pending_count
                        : 0;
    stats->driver_allocations = pool->page_count;
    stats->budget_bytes = (uint64_t)pool->page_count_max * pool->page_bytes;
    lock_release(&pool->lock);
    return ACRE_OK;
}
