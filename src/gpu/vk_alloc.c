/* vk_alloc: a block for a request, and back.
 *
 *   acre_vk_alloc ─ vk_alloc ─ hit: first type of the usage's list → pool → this thread's shard → bin → block
 *                      └ miss: each type along the list, as the category allows
 *                           charge the category                    → over budget: what the GPU is done with, then fail
 *                           own memory, if driver or caller want it
 *                           a hole of the pool, best fit
 *                           the shards' caches of this pool emptied, what the GPU is done with freed, again
 *                           a new page (vk_pages.c)
 *                        then the report, on_limit, and all of it once more
 *   acre_vk_free ─ handle → block: live → cached in one exchange → this thread's shard
 *                      └ full: some of the shard goes back to the pool's core under one lock
 *
 * A hit is two exchanges for a free and one for an allocation, and no line that another thread writes. */
#include <string.h>

#include "gpu/vk_internal.h"

const acre_vk_request vk_default_request;

enum {
    FLAGS_KNOWN = ACRE_VK_MAPPED | ACRE_VK_DEDICATED | ACRE_VK_SHARED | ACRE_VK_NEVER_ALLOCATE | ACRE_VK_WITHIN_BUDGET |
                  ACRE_VK_EXPORT | ACRE_VK_CAN_ALIAS | ACRE_VK_NO_BIND,
    ROUNDED_MAX = 256,
    FLAGS_OF_A_MISS = ACRE_VK_DEDICATED | ACRE_VK_EXPORT,
};

acre_status vk_stale(const vk_block *b, uint64_t handle)
{
    uint32_t was = (uint32_t)(handle >> 32), generation = was >> BLOCK_STATE_BITS;
    if (b == NULL || (was & BLOCK_STATE_MASK) != BLOCK_LIVE || generation == 0) return ACRE_FOREIGN_POINTER;
    uint32_t now = atomic_load_explicit(&b->state, memory_order_acquire) >> BLOCK_STATE_BITS;
    return generation <= now ? ACRE_DOUBLE_FREE : ACRE_FOREIGN_POINTER;
}

static inline uint32_t next_live(const vk_block *b)
{
    uint32_t state = atomic_load_explicit(&b->state, memory_order_relaxed);
    return ((state & ~(uint32_t)BLOCK_STATE_MASK) + (1u << BLOCK_STATE_BITS)) | BLOCK_LIVE;
}

void vk_describe(const acre_vk *vk, const vk_block *b, uint32_t state, acre_vk_allocation *a)
{
    const vk_page *page = b->page;
    a->memory = page->memory;
    a->offset = b->offset;
    a->size = b->size;
    a->mapped = NULL;
    if ((b->flags & BLOCK_MAPPED) || page->host) {
        char *base = atomic_load_explicit(&page->mapped, memory_order_acquire);
        if (base != NULL) a->mapped = base + b->offset;
    }
    a->handle = vk_handle_of(vk, b, state);
    a->memory_type = page->memory_type;
    a->dedicated = (b->flags & BLOCK_ALONE) != 0;
}

/* The block has its last field; from here on its handle is good. */
static inline void go_live(acre_vk *vk, vk_block *b, const acre_vk_request *r, acre_vk_allocation *a)
{
    uint32_t state = next_live(b);
    VK_SET(b->category, (uint8_t)r->category);
    VK_SET(b->tag, r->tag);
    atomic_store_explicit(&b->map_count, 0, memory_order_release);
    vk_describe(vk, b, state, a);
    atomic_store_explicit(&b->state, state, memory_order_release);
}

/* What neighbours and flushes ask for, too. */
static inline void round_up(const acre_vk *vk, const vk_want *w, uint32_t type, uint64_t *bytes, uint64_t *alignment)
{
    *bytes = w->bytes;
    *alignment = w->alignment > w->request->alignment ? w->alignment : w->request->alignment;
    if (*alignment == 0) *alignment = 1;
    if (unlikely(vk->rounds_to_granularity) &&
        (w->kind == KIND_UNKNOWN || (w->kind == KIND_OPTIMAL && vk->kinds == 1))) {
        if (*alignment < vk->granularity) *alignment = vk->granularity;
        *bytes = align_up(*bytes, vk->granularity);
    }
    if (unlikely(vk->atom > GRANULE && (vk->host_visible_types & ~vk->coherent_types) >> type & 1)) {
        if (*alignment < vk->atom) *alignment = vk->atom;
        *bytes = align_up(*bytes, vk->atom);
    }
    /* A size that is a multiple of a small alignment keeps all offsets aligned: no hole is ever too crooked. */
    *bytes = align_up(*bytes, *alignment <= GRANULE ? GRANULE : *alignment < ROUNDED_MAX ? *alignment : ROUNDED_MAX);
}

/* --- the slow way ----------------------------------------------------------------------------------------------- */

static bool keep_name(acre_vk *vk, vk_block *b, const char *name)
{
    if (name == NULL) return true;
    char *copy = arena_alloc(ACRE_GPU_NAME_MAX + 1);
    if (copy == NULL) return false;
    strncpy(copy, name, ACRE_GPU_NAME_MAX);
    vk_block_name(vk, b, copy);
    return true;
}

void vk_block_name(acre_vk *vk, vk_block *b, char *name)
{
    lock_acquire(&vk->looks_lock);
    b->name = name;
    vk_block_add_flag(b, BLOCK_NAMED);
    lock_release(&vk->looks_lock);
}

static void drop_name(acre_vk *vk, vk_block *b)
{
    lock_acquire(&vk->looks_lock);
    char *name = b->name;
    VK_SET(b->flags, (uint8_t)(b->flags & ~BLOCK_NAMED));
    lock_release(&vk->looks_lock);
    arena_free(name, ACRE_GPU_NAME_MAX + 1);
}

acre_status vk_alloc_alone(acre_vk *vk, const vk_want *want, uint32_t type, uint64_t bytes, const void *next,
                           bool imported, bool exceed, vk_block **block, acre_gpu_shortage *why)
{
    const acre_vk_request *r = want->request;
    uint32_t heap = vk->heap_of[type];
    VkMemoryDedicatedAllocateInfo dedicated = {.sType = VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO,
                                               .pNext = next,
                                               .image = want->image,
                                               .buffer = want->buffer};
    VkExportMemoryAllocateInfo exported = {.sType = VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO,
                                           .handleTypes = VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT};
    bool for_one = want->buffer != VK_NULL_HANDLE || want->image != VK_NULL_HANDLE;
    if (for_one && !(r->flags & ACRE_VK_CAN_ALIAS) && vk->call.GetBufferMemoryRequirements2 != NULL) next = &dedicated;
    if (r->flags & ACRE_VK_EXPORT) {
        exported.pNext = next;
        next = &exported;
    }
    if (!vk_charge(vk, r->category, heap, bytes, exceed)) return ACRE_OVER_BUDGET;

    /* The driver last: what it imported cannot be handed back. */
    lock_acquire(&vk->alone->lock);
    vk_block *b = vk_block_take(vk, vk->alone);
    lock_release(&vk->alone->lock);
    vk_page *page = NULL;
    acre_status status = ACRE_NO_MEMORY;
    if (b == NULL) goto discharge;
    float priority = r->priority > 0 ? r->priority : vk->priorities[vk->priority_of_category[r->category]];
    status = vk_memory_make(vk, vk->alone, type, bytes, next, priority, exceed || imported, imported, &page, why);
    lock_acquire(&vk->alone->lock);
    if (status == ACRE_OK) {
        page->exported = (r->flags & ACRE_VK_EXPORT) != 0;
        page->block_count = 1;
        vk_page_link(vk->alone, page);
    } else {
        vk_block_give(vk->alone, b);
    }
    lock_release(&vk->alone->lock);
    if (status != ACRE_OK) goto discharge;
    VK_SET(b->page, page);
    VK_SET(b->offset, 0);
    VK_SET(b->size, bytes);
    VK_SET(b->flags, BLOCK_ALONE);
    *block = b;
    return ACRE_OK;

discharge:
    vk_discharge(vk, r->category, heap, bytes);
    return status;
}

static bool poll_pending(acre_vk *vk)
{
    return atomic_load_explicit(&vk->pending_count, memory_order_relaxed) != 0 && retire_poll(&vk->retire) != 0;
}

static vk_block *take(acre_vk *vk, vk_pool *pool, uint64_t bytes, uint64_t alignment)
{
    lock_acquire(&pool->lock);
    bool no_record;
    vk_block *b = vk_pool_take(vk, pool, bytes, alignment, &no_record);
    lock_release(&pool->lock);
    return b;
}

/* The block is charged. */
static acre_status alloc_shared(acre_vk *vk, const vk_want *want, vk_pool *pool, uint64_t bytes, uint64_t alignment,
                                bool exceed, vk_block **block, acre_gpu_shortage *why)
{
    const acre_vk_request *r = want->request;
    *block = take(vk, pool, bytes, alignment);
    if (*block == NULL && vk_flush(vk, pool, false) != 0) *block = take(vk, pool, bytes, alignment);
    if (*block == NULL && poll_pending(vk)) {
        (void)vk_flush(vk, pool, false);
        *block = take(vk, pool, bytes, alignment);
    }
    if (*block != NULL) return ACRE_OK;
    if (r->flags & ACRE_VK_NEVER_ALLOCATE) return ACRE_NO_MEMORY;
    return vk_pool_grow(vk, pool, bytes, alignment, exceed, block, why);
}

static bool wants_own_memory(const acre_vk *vk, const vk_want *w, uint64_t alignment)
{
    if (w->requires_dedicated || alignment > UNIT_BYTES) return true;
    if (w->request->pool != NULL) return false;
    if (w->request->flags & (ACRE_VK_DEDICATED | ACRE_VK_EXPORT)) return true;
    if (!w->prefers_dedicated || (w->request->flags & (ACRE_VK_SHARED | ACRE_VK_CAN_ALIAS))) return false;
    /* A preference is not worth the last of what a driver can count. */
    uint32_t most = vk->properties.limits.maxMemoryAllocationCount;
    return atomic_load_explicit(&vk->driver_allocations, memory_order_relaxed) < most - most / 4;
}

static acre_status try_type(acre_vk *vk, const vk_want *want, uint32_t type, vk_block **block, acre_gpu_shortage *why)
{
    const acre_vk_request *r = want->request;
    uint32_t heap = vk->heap_of[type];
    uint64_t bytes, alignment;
    round_up(vk, want, type, &bytes, &alignment);
    if (bytes > vk->memory.memoryHeaps[heap].size) return ACRE_TOO_LARGE;
    bool exceed = vk->ledger.categories[r->category].at_limit == ACRE_GPU_EXCEED && !(r->flags & ACRE_VK_WITHIN_BUDGET);

    if (wants_own_memory(vk, want, alignment)) {
        if (r->flags & ACRE_VK_NEVER_ALLOCATE) return ACRE_NO_MEMORY;
        acre_status status = vk_alloc_alone(vk, want, type, want->bytes, NULL, false, exceed, block, why);
        /* A preference gives way to what there is. */
        if (status == ACRE_OK || want->requires_dedicated || alignment > UNIT_BYTES) return status;
        if (r->flags & (ACRE_VK_DEDICATED | ACRE_VK_EXPORT)) return status;
    }
    vk_pool *pool = r->pool != NULL ? r->pool : vk_pool_of(vk, type, want->kind, bytes, r->category);
    if (pool == NULL) return ACRE_NO_MEMORY;
    if (pool->page_bytes != 0 && bytes > pool->page_bytes) return ACRE_TOO_LARGE;

    bool charged = vk_charge(vk, r->category, heap, bytes, false);
    if (!charged && poll_pending(vk)) charged = vk_charge(vk, r->category, heap, bytes, false);
    if (!charged && exceed) charged = vk_charge(vk, r->category, heap, bytes, true);
    if (!charged) return ACRE_OVER_BUDGET;
    acre_status status = alloc_shared(vk, want, pool, bytes, alignment, exceed, block, why);
    if (status != ACRE_OK) vk_discharge(vk, r->category, heap, bytes);
    return status;
}

static acre_status check_request(const acre_vk *vk, const vk_want *w)
{
    const acre_vk_request *r = w->request;
    if ((unsigned)r->usage >= ACRE_VK_USAGE_COUNT || r->flags & ~(uint32_t)FLAGS_KNOWN) return ACRE_INVALID_ARGUMENT;
    if (r->category >= vk->category_count || w->bytes == 0) return ACRE_INVALID_ARGUMENT;
    if ((r->alignment & (r->alignment - 1)) != 0 || (w->alignment & (w->alignment - 1)) != 0)
        return ACRE_INVALID_ARGUMENT;
    if (!(r->priority >= 0 && r->priority <= 1)) return ACRE_INVALID_ARGUMENT;
    if ((r->flags & ACRE_VK_SHARED) && (r->flags & (ACRE_VK_DEDICATED | ACRE_VK_EXPORT))) return ACRE_INVALID_ARGUMENT;
    if ((r->flags & ACRE_VK_EXPORT) && !(vk->features & ACRE_VK_HAS_EXTERNAL_FD)) return ACRE_NOT_SUPPORTED;
    if (w->bytes > (uint64_t)1 << 62 || r->alignment > (uint64_t)1 << 40) return ACRE_TOO_LARGE;
    if (r->pool != NULL && (r->pool->vk != vk || !r->pool->own)) return ACRE_FOREIGN_POINTER;
    return ACRE_OK;
}

static ACRE_NOINLINE acre_status finish(acre_vk *vk, const vk_want *want, vk_block *b, acre_vk_allocation *a)
{
    const acre_vk_request *r = want->request;
    acre_status status = ACRE_OK;
    VK_SET(b->flags, b->flags & BLOCK_ALONE);
    if (r->flags & ACRE_VK_MAPPED) {
        vk_block_add_flag(b, BLOCK_MAPPED);
        (void)vk_page_map(vk, b->page, &status);
    }
    if (status == ACRE_OK && !keep_name(vk, b, r->name)) status = ACRE_NO_MEMORY;
    if (status != ACRE_OK) {
        vk_discharge(vk, r->category, b->page->heap, b->size);
        vk_block_release(vk, b);
        return status;
    }
    go_live(vk, b, r, a);
    return ACRE_OK;
}

static ACRE_NOINLINE acre_status alloc_slow(acre_vk *vk, const vk_want *want, acre_vk_allocation *a)
{
    const acre_vk_request *r = want->request;
    acre_status status = check_request(vk, want);
    if (status != ACRE_OK) return status;
    vk_type_list list;
    if (r->pool != NULL) {
        list = (vk_type_list){.count = want->type_bits >> r->pool->memory_type & 1};
        list.types[0] = (uint8_t)r->pool->memory_type;
        if ((r->flags & ACRE_VK_MAPPED) && !(vk->host_visible_types >> list.types[0] & 1)) list.count = 0;
    } else if ((r->required | r->preferred | r->avoided | r->type_bits) == 0) {
        const vk_type_list *order = &vk->order[r->usage][r->flags & ACRE_VK_MAPPED];
        list.count = 0;
        for (uint32_t i = 0; i < order->count; i++)
            if (want->type_bits >> order->types[i] & 1) list.types[list.count++] = order->types[i];
    } else {
        vk_types_order(vk, r, r->type_bits != 0 ? want->type_bits & r->type_bits : want->type_bits, &list);
    }
    if (list.count == 0) return ACRE_NOT_SUPPORTED;

    bool others = vk->ledger.categories[r->category].at_limit == ACRE_GPU_OTHER_MEMORY;
    bool quiet = vk->on_limit == NULL || (r->flags & (ACRE_VK_WITHIN_BUDGET | ACRE_VK_NEVER_ALLOCATE));
    for (int attempt = 0;; attempt++) {
        acre_gpu_shortage why = {.category = r->category};
        vk_block *b = NULL;
        uint32_t tried = 0;
        for (uint32_t i = 0; i < list.count && b == NULL; i++) {
            tried = list.types[i];
            status = try_type(vk, want, tried, &b, &why);
            if (status == ACRE_OK) {
                status = finish(vk, want, b, a);
                if (attempt != 0 && status == ACRE_OK)
                    atomic_fetch_sub_explicit(&vk->ledger.categories[r->category].failed, 1, memory_order_relaxed);
                vk_maintain_sometimes(vk);
                return status;
            }
            if (!others || (status != ACRE_OVER_BUDGET && status != ACRE_NO_MEMORY && status != ACRE_TOO_LARGE)) break;
        }
        if (attempt != 0)
            atomic_fetch_sub_explicit(&vk->ledger.categories[r->category].failed, 1, memory_order_relaxed);
        vk_shortage_note(vk, &why, status, want, vk->heap_of[tried]);
        bool hopeless = status != ACRE_OVER_BUDGET && status != ACRE_NO_MEMORY;
        if (quiet || hopeless || attempt != 0 || !vk->on_limit(vk->on_limit_context, &why)) return status;
    }
}

/* --- the hit ---------------------------------------------------------------------------------------------------- */

acre_status vk_alloc(acre_vk *vk, const vk_want *want, acre_vk_allocation *a)
{
    const acre_vk_request *r = want->request;
    uint32_t asked = r->required | r->preferred | r->avoided | r->type_bits;
    if (unlikely((r->flags & FLAGS_OF_A_MISS) | asked || want->prefers_dedicated || r->name != NULL)) goto miss;
    if (unlikely((unsigned)r->usage >= ACRE_VK_USAGE_COUNT || r->category >= vk->category_count)) goto miss;
    if (unlikely(want->bytes - 1 > UNIT_BYTES || (r->alignment & (r->alignment - 1)) != 0)) goto miss;

    uint32_t type;
    if (likely(r->pool == NULL)) {
        const vk_type_list *list = &vk->order[r->usage][r->flags & ACRE_VK_MAPPED];
        uint32_t i = 0;
        while (i < list->count && !(want->type_bits >> list->types[i] & 1)) i++;
        if (unlikely(i == list->count)) goto miss;
        type = list->types[i];
    } else {
        type = r->pool->memory_type;
        if (unlikely(r->pool->vk != vk || !r->pool->own || !(want->type_bits >> type & 1))) goto miss;
    }
    uint64_t bytes, alignment;
    round_up(vk, want, type, &bytes, &alignment);
    uint32_t cls = vk_class_of(bytes >> GRANULE_LOG2);
    if (unlikely(cls >= CLASS_COUNT)) goto miss;
    uint32_t index =
        r->pool == NULL ? vk_pool_index(vk, type, want->kind, bytes, r->category) : r->pool->index;

    vk_shard *s = vk_shard_enter(vk);
    vk_bins *bins = s->bins[index];
    if (unlikely(bins == NULL)) goto leave;
    vk_block *b = vk_bins_pop(vk, s, bins, cls, bytes, alignment);
    if (unlikely(b == NULL)) goto leave;
    if (unlikely(!vk_shard_charge(vk, s, r->category, vk->heap_of[type], b->size, false))) {
        vk_shard_leave(s);
        vk_block_release(vk, b); /* the shard may hold less than it did */
        goto miss;
    }
    s->hits++;
    vk_shard_leave(s);
    VK_SET(b->flags, (uint8_t)(r->flags & ACRE_VK_MAPPED)); /* == BLOCK_MAPPED */
    b->aligned_log2 = (uint16_t)bits_lowest(alignment);
    if (unlikely(b->flags && atomic_load_explicit(&b->page->mapped, memory_order_acquire) == NULL))
        return finish(vk, want, b, a);
    go_live(vk, b, r, a);
    return ACRE_OK;

leave:
    vk_shard_leave(s);
miss:
    return alloc_slow(vk, want, a);
}
_Static_assert((int)ACRE_VK_MAPPED == 1 && (int)BLOCK_MAPPED == 1, "one bit for both, and an index of order[][]");

acre_status acre_vk_alloc(acre_vk *vk, const VkMemoryRequirements *requirements, const acre_vk_request *request,
                          acre_vk_allocation *allocation)
{
    if (unlikely(vk == NULL || requirements == NULL || allocation == NULL)) return ACRE_INVALID_ARGUMENT;
    if (unlikely((requirements->alignment & (requirements->alignment - 1)) != 0)) return ACRE_INVALID_ARGUMENT;
    vk_want want = {.bytes = requirements->size,
                    .alignment = requirements->alignment,
                    .type_bits = requirements->memoryTypeBits,
                    .kind = KIND_UNKNOWN,
                    .request = request != NULL ? request : &vk_default_request};
    return vk_alloc(vk, &want, allocation);
}

acre_status acre_vk_alloc_many(acre_vk *vk, const VkMemoryRequirements *requirements, const acre_vk_request *request,
                               uint32_t count, acre_vk_allocation *allocations)
{
    if (vk == NULL || requirements == NULL || (allocations == NULL && count != 0)) return ACRE_INVALID_ARGUMENT;
    /* Live blocks are in no list, so their links hold those that were made until it is known that all are. */
    acre_status status = ACRE_OK;
    uint32_t chain = 0, made = 0;
    for (; made < count && status == ACRE_OK; made += status == ACRE_OK) {
        acre_vk_allocation one;
        status = acre_vk_alloc(vk, requirements, request, &one);
        if (status != ACRE_OK) continue;
        vk_block *b = vk_block_of(vk, one.handle);
        b->next = chain;
        chain = b->index + 1;
    }
    while (chain != 0) {
        vk_block *b = vk_block_at(vk, chain - 1);
        uint32_t state = atomic_load_explicit(&b->state, memory_order_relaxed);
        chain = b->next;
        if (status == ACRE_OK)
            vk_describe(vk, b, state, &allocations[--made]);
        else
            (void)acre_vk_free(vk, vk_handle_of(vk, b, state));
    }
    return status;
}

/* --- free ------------------------------------------------------------------------------------------------------- */

static void release_alone(acre_vk *vk, vk_block *b)
{
    vk_page *page = b->page;
    lock_acquire(&vk->alone->lock);
    if (page != NULL) vk_page_unlink(vk->alone, page);
    vk_block_give(vk->alone, b);
    lock_release(&vk->alone->lock);
    if (page != NULL) vk_memory_free(vk, page);
}

/* The shard is full: if no more is live than when its bound was set, some of it makes room. The bound rises at once and
 * falls with the clock (vk_maintain), so what one level leaves is there for the next. */
static ACRE_NOINLINE void release_full(acre_vk *vk, vk_pool *pool, vk_block *b)
{
    vk_shard *s = vk_shard_enter(vk);
    vk_bins *bins = s->bins[pool->index];
    uint32_t chain = 0;
    uint64_t most = vk->cache_by_use ? vk_cached_bytes_max(vk) : 0;
    if (most > s->cached_bytes_max) s->cached_bytes_max = most;
    bool kept = vk_bins_push(vk, s, pool, b);
    if (!kept && bins != NULL && bins->count != 0) {
        chain = vk_bins_evict(vk, s, bins, s->cached_bytes_max / 8, EVICTED_MAX);
        kept = vk_bins_push(vk, s, pool, b);
    }
    vk_shard_leave(s);
    if (!kept) {
        b->next = chain;
        chain = b->index + 1;
    }
    vk_pool_give(vk, pool, chain);
    vk_maintain_sometimes(vk);
}

void vk_block_release(acre_vk *vk, vk_block *b)
{
    uint32_t state = atomic_load_explicit(&b->state, memory_order_relaxed);
    atomic_store_explicit(&b->state, (state & ~(uint32_t)BLOCK_STATE_MASK) | BLOCK_CACHED, memory_order_relaxed);
    if (b->flags & BLOCK_NAMED) drop_name(vk, b);
    if (b->flags & BLOCK_HAS_BUFFER) vk->call.DestroyBuffer(vk->device, (VkBuffer)b->resource, vk->callbacks_or_null);
    if (b->flags & BLOCK_HAS_IMAGE) vk->call.DestroyImage(vk->device, (VkImage)b->resource, vk->callbacks_or_null);
    bool cold = (b->flags & BLOCK_COLD) != 0;
    VK_SET(b->flags, b->flags & BLOCK_ALONE);
    if (b->page == NULL || (b->flags & BLOCK_ALONE)) {
        release_alone(vk, b);
        return;
    }
    if (cold) {
        b->next = 0;
        vk_pool_give(vk, b->page->pool, b->index + 1);
        return;
    }
    vk_pool *pool = b->page->pool;
    vk_shard *s = vk_shard_enter(vk);
    bool kept = vk_bins_push(vk, s, pool, b);
    vk_shard_leave(s);
    if (!kept) release_full(vk, pool, b);
}

static ACRE_NOINLINE acre_status free_slow(acre_vk *vk, vk_block *b)
{
    vk_discharge(vk, b->category, b->page->heap, b->size);
    vk_block_release(vk, b);
    return ACRE_OK;
}

acre_status acre_vk_free(acre_vk *vk, uint64_t handle)
{
    if (unlikely(vk == NULL)) return ACRE_INVALID_ARGUMENT;
    if (unlikely(handle == 0)) return ACRE_OK;
    vk_block *b = vk_block_of(vk, handle);
    if (unlikely(b == NULL || !vk_block_leave(b, handle, BLOCK_CACHED))) return vk_stale(b, handle);
    if (unlikely(b->flags & BLOCK_FREE_SLOWLY)) return free_slow(vk, b);
    vk_page *page = b->page;
    vk_shard *s = vk_shard_enter(vk);
    vk_shard_discharge(vk, s, b->category, page->heap, b->size);
    bool kept = vk_bins_push(vk, s, page->pool, b);
    vk_shard_leave(s);
    if (unlikely(!kept)) release_full(vk, page->pool, b);
    return ACRE_OK;
}

/* --- looking and naming ----------------------------------------------------------------------------------------- */

acre_status acre_vk_set_tag(acre_vk *vk, uint64_t handle, uint64_t tag)
{
    if (vk == NULL) return ACRE_INVALID_ARGUMENT;
    vk_block *b;
    acre_status status = vk_resolve(vk, handle, &b);
    if (status == ACRE_OK) VK_SET(b->tag, tag);
    return status;
}

acre_status acre_vk_set_name(acre_vk *vk, uint64_t handle, const char *name)
{
    if (vk == NULL) return ACRE_INVALID_ARGUMENT;
    vk_block *b;
    acre_status status = vk_resolve(vk, handle, &b);
    if (status != ACRE_OK) return status;
    if (name == NULL) {
        if (b->flags & BLOCK_NAMED) drop_name(vk, b);
        return ACRE_OK;
    }
    if (!(b->flags & BLOCK_NAMED)) return keep_name(vk, b, name) ? ACRE_OK : ACRE_NO_MEMORY;
    lock_acquire(&vk->looks_lock);
    strncpy(b->name, name, ACRE_GPU_NAME_MAX);
    lock_release(&vk->looks_lock);
    return ACRE_OK;
}

acre_status acre_vk_swap(acre_vk *vk, uint64_t handle, uint64_t other)
{
    if (vk == NULL) return ACRE_INVALID_ARGUMENT;
    vk_block *a, *b;
    acre_status status = vk_resolve(vk, handle, &a);
    if (status == ACRE_OK) status = vk_resolve(vk, other, &b);
    if (status != ACRE_OK) return status;
    if (a == b || a->size != b->size || a->page->pool != b->page->pool) return ACRE_INVALID_ARGUMENT;
    if (((a->flags | b->flags) & (BLOCK_ALONE | BLOCK_MAPPED)) || (a->map_count | b->map_count))
        return ACRE_INVALID_ARGUMENT;
    vk_pool *pool = a->page->pool;
    lock_acquire(&pool->lock);
    vk_page *page = a->page;
    uint64_t offset = a->offset;
    uint32_t node = a->node;
    vk_change_begin(vk);
    VK_SET(a->page, b->page);
    VK_SET(a->offset, b->offset);
    VK_SET(b->page, page);
    VK_SET(b->offset, offset);
    vk_change_end(vk);
    a->node = b->node;
    b->node = node;
    lock_release(&pool->lock);
    return ACRE_OK;
}
