/* vk_pages: device memory by the page: taking it from the driver, cutting blocks from it, keeping it while it is empty.
 *
 * All pages of a pool share one coalescing core, so that best fit is best over all of them and an empty page, being the
 * largest hole, is broken last. Pages grow with use: as much as the pool holds, between two bounds, or just what a
 * large block needs; where budget or driver refuse, half and half again. A page that goes leaves its range of the core
 * behind as a used node, for the next page of that size.
 *
 * Taking memory: the ledger first, then the driver; if either refuses, what could be freed is freed (blocks in caches,
 * blocks that the GPU is done with, empty pages of the heap), and it is asked once more. */
#include <string.h>

#include "gpu/vk_internal.h"

enum {
    MAINTAIN_MS_MAX = 100,
    BUDGET_MS = 100,
    NAMED_ALIGN_MIN = 1024,
    NODES_OF_A_BLOCK = 2, /* that coalesce_alloc may need */
    CACHED_PART = 4, /* of live bytes, in each shard */
    CAPACITY_LATER = 1 << 24, /* granules that a core's table is laid out for: 1 GiB; it may become more */
};
#define CACHED_BYTES_MIN (256 * KIB)
#define CACHED_BYTES_MAX (128 * MIB)
#define PAGE_STEP ((uint64_t)64 << 10)
#define FIRST_PAGE_BYTES (16 * MIB)
#define LATER_PAGE_BYTES (128 * MIB)
#define PAGE_BYTES_MAX (256 * MIB)

/* --- records of pages ------------------------------------------------------------------------------------------- */

/* A walk may still follow a block to the record of a page that is gone, so it stays such a record. */
static vk_page *take_record(acre_vk *vk)
{
    lock_acquire(&vk->looks_lock);
    vk_page *page = vk->spare_records;
    if (page != NULL)
        vk->spare_records = page->next;
    else if ((page = arena_alloc(sizeof *page)) != NULL)
        vk->record_count++;
    lock_release(&vk->looks_lock);
    return page;
}

static void give_record(acre_vk *vk, vk_page *page)
{
    lock_acquire(&vk->looks_lock);
    page->next = vk->spare_records;
    vk->spare_records = page;
    lock_release(&vk->looks_lock);
}

void vk_records_end(acre_vk *vk)
{
    while (vk->spare_records != NULL) {
        vk_page *page = vk->spare_records;
        vk->spare_records = page->next;
        arena_free(page, sizeof *page);
    }
}

static void set_record(vk_page *page, vk_pool *pool, VkDeviceMemory memory, uint64_t bytes, uint32_t memory_type,
                       uint32_t heap, bool imported)
{
    VK_SET(page->memory, memory);
    VK_SET(page->bytes, bytes);
    VK_SET(page->pool, pool);
    VK_SET(page->memory_type, memory_type);
    VK_SET(page->heap, heap);
    VK_SET(page->shared, false);
    VK_SET(page->host, false);
    atomic_store_explicit(&page->mapped, NULL, memory_order_release);
    page->imported = imported;
    page->exported = false;
    page->origin = page->node = 0;
    memset((char *)page + offsetof(vk_page, empty), 0, sizeof *page - offsetof(vk_page, empty));
}

/* --- driver memory ---------------------------------------------------------------------------------------------- */

/* What holds memory back without need. True: something went. */
static bool free_what_is_idle(acre_vk *vk, uint32_t heap, uint64_t bytes)
{
    uint64_t freed = atomic_load_explicit(&vk->pending_count, memory_order_relaxed) != 0 ? retire_poll(&vk->retire) : 0;
    freed += vk_flush(vk, NULL, false);
    uint64_t given = vk_heap_shrink(vk, heap, bytes);
    return freed + given != 0;
}

static bool hold(acre_vk *vk, uint32_t heap, uint64_t bytes, bool exceed, bool *exceeded)
{
    if (gpu_ledger_hold(&vk->ledger, heap, bytes, false)) return true;
    vk_budgets_refresh(vk);
    if (gpu_ledger_hold(&vk->ledger, heap, bytes, false)) return true;
    if (free_what_is_idle(vk, heap, bytes) && gpu_ledger_hold(&vk->ledger, heap, bytes, false)) return true;
    *exceeded = exceed;
    return exceed && gpu_ledger_hold(&vk->ledger, heap, bytes, true);
}

static VkResult ask_driver(acre_vk *vk, uint32_t memory_type, uint64_t bytes, const void *next, float priority,
                           VkDeviceMemory *memory)
{
    VkMemoryPriorityAllocateInfoEXT rank = {.sType = VK_STRUCTURE_TYPE_MEMORY_PRIORITY_ALLOCATE_INFO_EXT,
                                            .priority = priority};
    VkMemoryAllocateFlagsInfo flags = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO,
                                       .flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT};
    VkMemoryAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                 .pNext = next,
                                 .allocationSize = bytes,
                                 .memoryTypeIndex = memory_type};
    if (vk->features & ACRE_VK_HAS_MEMORY_PRIORITY) {
        rank.pNext = info.pNext;
        info.pNext = &rank;
    }
    if (vk->features & ACRE_VK_HAS_DEVICE_ADDRESS) {
        flags.pNext = info.pNext;
        info.pNext = &flags;
    }
    VkResult result = vk->call.AllocateMemory(vk->device, &info, vk->callbacks_or_null, memory);
    gpu_ledger_driver_call(&vk->ledger, vk->heap_of[memory_type], result == VK_SUCCESS ? 1 : 0);
    return result;
}

acre_status vk_memory_make(acre_vk *vk, vk_pool *pool, uint32_t memory_type, uint64_t bytes, const void *next,
                           float priority, bool exceed, bool imported, vk_page **out, acre_gpu_shortage *why)
{
    uint32_t heap = vk->heap_of[memory_type];
    vk_page *page = take_record(vk);
    if (page == NULL) return ACRE_NO_MEMORY;
    acre_status status = ACRE_OVER_BUDGET;
    bool exceeded = false;
    if (!hold(vk, heap, bytes, exceed, &exceeded)) goto free_page;

    VkDeviceMemory memory = VK_NULL_HANDLE;
    VkResult result = VK_ERROR_TOO_MANY_OBJECTS;
    for (int attempt = 0; attempt < 2; attempt++) {
        if (atomic_fetch_add_explicit(&vk->driver_allocations, 1, memory_order_relaxed) <
            vk->properties.limits.maxMemoryAllocationCount) {
            why->driver_call = "vkAllocateMemory";
            result = ask_driver(vk, memory_type, bytes, next, priority, &memory);
        }
        why->driver_result = result;
        status = vk_status(vk, result);
        if (status == ACRE_OK) break;
        atomic_fetch_sub_explicit(&vk->driver_allocations, 1, memory_order_relaxed);
        bool short_of_memory = result == VK_ERROR_OUT_OF_DEVICE_MEMORY || result == VK_ERROR_TOO_MANY_OBJECTS;
        if (imported || !short_of_memory || attempt != 0 || !free_what_is_idle(vk, heap, UINT64_MAX)) break;
    }
    if (status != ACRE_OK) goto unhold;

    if (exceeded && !imported)
        atomic_fetch_add_explicit(&vk->ledger.categories[why->category].exceeded, 1, memory_order_relaxed);
    set_record(page, pool, memory, bytes, memory_type, heap, imported);
    *out = page;
    return ACRE_OK;

unhold:
    gpu_ledger_unhold(&vk->ledger, heap, bytes);
free_page:
    give_record(vk, page);
    return status;
}

void vk_memory_give_back(acre_vk *vk, VkDeviceMemory memory, uint32_t heap, uint64_t bytes)
{
    /* The driver unmaps what is mapped. */
    vk->call.FreeMemory(vk->device, memory, vk->callbacks_or_null);
    atomic_fetch_sub_explicit(&vk->driver_allocations, 1, memory_order_relaxed);
    gpu_ledger_unhold(&vk->ledger, heap, bytes);
    gpu_ledger_driver_call(&vk->ledger, heap, -1);
}

void vk_memory_free(acre_vk *vk, vk_page *page)
{
    vk_memory_give_back(vk, page->memory, page->heap, page->bytes);
    give_record(vk, page);
}

/* --- records of blocks; under pool->lock ------------------------------------------------------------------------ */

static bool more_blocks(acre_vk *vk, vk_pool *pool)
{
    vk_block *chunk = arena_alloc(BLOCKS_PER_CHUNK * sizeof *chunk);
    if (chunk == NULL) return false;
    uint32_t number = atomic_fetch_add_explicit(&vk->chunk_count, 1, memory_order_relaxed);
    if (number >= CHUNKS_MAX) {
        atomic_fetch_sub_explicit(&vk->chunk_count, 1, memory_order_relaxed);
        arena_free(chunk, BLOCKS_PER_CHUNK * sizeof *chunk);
        return false;
    }
    for (uint32_t i = BLOCKS_PER_CHUNK; i-- > 0;) {
        chunk[i].index = number << BLOCKS_PER_CHUNK_LOG2 | i;
        chunk[i].next = pool->free_block;
        pool->free_block = chunk[i].index + 1;
    }
    __atomic_store_n(&vk->chunks[number], chunk, __ATOMIC_RELEASE);
    return true;
}

vk_block *vk_block_take(acre_vk *vk, vk_pool *pool)
{
    if (unlikely(pool->free_block == 0 && !more_blocks(vk, pool))) return NULL;
    vk_block *b = vk_block_at(vk, pool->free_block - 1);
    pool->free_block = b->next;
    pool->block_count++;
    return b;
}

void vk_block_give(vk_pool *pool, vk_block *b)
{
    uint32_t state = atomic_load_explicit(&b->state, memory_order_relaxed);
    VK_SET(b->flags, 0);
    VK_SET(b->page, NULL);
    VK_SET(b->size, 0);
    b->next = pool->free_block;
    atomic_store_explicit(&b->state, (state & ~(uint32_t)BLOCK_STATE_MASK) | BLOCK_FREE, memory_order_release);
    pool->free_block = b->index + 1;
    pool->block_count--;
}

/* --- pools ------------------------------------------------------------------------------------------------------ */

static void *core_grow(void *context, unsigned part, void *old, size_t old_bytes, size_t new_bytes)
{
    (void)context, (void)part;
    /* The arena deals in powers of two: what is asked for may be there already. */
    if (old != NULL && new_bytes <= MIB && power_of_two_at_least(old_bytes) >= new_bytes) return old;
    void *base = arena_alloc(new_bytes);
    if (base != NULL && old != NULL) {
        memcpy(base, old, old_bytes);
        arena_free(old, old_bytes);
    }
    return base;
}

static void core_release(void *context, unsigned part, void *base, size_t bytes)
{
    (void)context, (void)part;
    arena_free(base, bytes);
}

/* Images of real devices are aligned to 64 KiB, more or less: the alignment that a pool sees first gets an index, if it
 * is large; small ones are kept by rounding sizes (vk_alloc.c). */
static bool start(vk_pool *pool, uint64_t alignment)
{
    coalesce_options options = {.memory = {NULL, core_grow, core_release}, .node_count = 64};
    if (alignment >= NAMED_ALIGN_MIN) options.extra_align_log2[0] = (uint8_t)(bits_lowest(alignment) - GRANULE_LOG2);
    options.exact_sizes = 4096;
    options.capacity_later = CAPACITY_LATER;
    pool->even_log2 = UNIT_LOG2;
    pool->started = coalesce_init(&pool->core, &options);
    return pool->started;
}

static void stop(vk_pool *pool)
{
    while (pool->gone != NULL) {
        vk_page *g = pool->gone;
        pool->gone = g->next;
        give_record(pool->vk, g);
    }
    pool->gone_granules = 0;
    coalesce_destroy(&pool->core);
    pool->started = false;
    arena_free(pool->units, pool->unit_count * sizeof *pool->units);
    pool->units = NULL;
    pool->unit_count = 0;
}

vk_pool *vk_pool_make(acre_vk *vk, uint32_t index, uint32_t memory_type)
{
    vk_pool *pool = arena_alloc(sizeof *pool);
    if (pool == NULL) return NULL;
    pool->vk = vk;
    pool->index = index;
    pool->memory_type = memory_type;
    pool->heap = vk->heap_of[memory_type];
    pool->priority = 0.5f;
    return pool;
}

void vk_pool_end(acre_vk *vk, vk_pool *pool)
{
    while (pool->pages != NULL) {
        vk_page *page = pool->pages;
        pool->pages = page->next;
        vk_memory_free(vk, page);
    }
    if (pool->started) stop(pool);
    arena_free(pool, sizeof *pool);
}

vk_pool *vk_pool_of(acre_vk *vk, uint32_t memory_type, enum vk_kind kind, uint64_t bytes, uint32_t category)
{
    uint32_t index = vk_pool_index(vk, memory_type, kind, bytes, category);
    vk_pool *pool = __atomic_load_n(&vk->pools[index], __ATOMIC_ACQUIRE);
    if (likely(pool != NULL)) return pool;
    lock_acquire(&vk->pools_lock);
    pool = vk->pools[index];
    if (pool == NULL) {
        pool = vk_pool_make(vk, index, memory_type);
        if (pool != NULL) {
            pool->priority = vk->priorities[vk->priority_of_category[category]];
            pool->group = vk_group_of(bytes);
            __atomic_store_n(&vk->pools[index], pool, __ATOMIC_RELEASE);
        }
    }
    lock_release(&vk->pools_lock);
    return pool;
}

void vk_page_link(vk_pool *pool, vk_page *page)
{
    page->prev = NULL;
    page->next = pool->pages;
    if (pool->pages != NULL) pool->pages->prev = page;
    pool->pages = page;
    pool->page_count++;
    pool->bytes += page->bytes;
}

void vk_page_unlink(vk_pool *pool, vk_page *page)
{
    if (page->next != NULL) page->next->prev = page->prev;
    if (page->prev != NULL)
        page->prev->next = page->next;
    else
        pool->pages = page->next;
    pool->page_count--;
    pool->bytes -= page->bytes;
}

/* --- a pool's core; under pool->lock ---------------------------------------------------------------------------- */

static uint32_t granules_of(const vk_page *page) { return (uint32_t)(page->bytes >> GRANULE_LOG2); }

static void set_units(vk_pool *pool, const vk_page *page, vk_page *value)
{
    uint32_t first = page->origin >> UNIT_LOG2, last = (page->origin + granules_of(page) - 1) >> UNIT_LOG2;
    for (uint32_t u = first; u <= last; u++) pool->units[u] = value;
}

static bool ensure_units(vk_pool *pool, uint32_t end)
{
    uint32_t count = (end >> UNIT_LOG2) + 1;
    if (count <= pool->unit_count) return true;
    uint32_t larger = (uint32_t)power_of_two_at_least(count < 64 ? 64 : count);
    vk_page **units = arena_alloc(larger * sizeof *units);
    if (units == NULL) return false;
    if (pool->units != NULL) memcpy(units, pool->units, pool->unit_count * sizeof *units);
    arena_free(pool->units, pool->unit_count * sizeof *units);
    pool->units = units;
    pool->unit_count = larger;
    return true;
}

/* The page becomes a hole of the core. False: no memory, or no numbers left. */
static bool insert_page(acre_vk *vk, vk_pool *pool, vk_page *page, uint64_t alignment)
{
    if (!pool->started && !start(pool, alignment)) return false;
    uint32_t granules = granules_of(page);
    vk_page **link = &pool->gone;
    while (*link != NULL && (*link)->bytes != page->bytes) link = &(*link)->next;
    if (*link != NULL) {
        vk_page *gone = *link;
        *link = gone->next;
        page->origin = gone->origin;
        (void)coalesce_free(&pool->core, gone->node);
        pool->gone_granules -= granules;
        give_record(vk, gone);
    } else {
        uint64_t origin = pool->core.capacity == 0 ? 0 : align_up((uint64_t)pool->core.capacity + 1, 1u << UNIT_LOG2);
        if (origin + granules > COALESCE_CAPACITY_MAX) return false;
        if (!ensure_units(pool, (uint32_t)origin + granules)) return false;
        if (!coalesce_add_range(&pool->core, (uint32_t)origin, granules)) return false;
        page->origin = (uint32_t)origin;
    }
    if (bits_lowest(granules) < pool->even_log2) pool->even_log2 = bits_lowest(granules);
    set_units(pool, page, page);
    VK_SET(page->shared, true);
    vk_page_link(pool, page);
    empty_add(&pool->empties, &page->empty, page->bytes, vk_now(vk));
    gpu_ledger_empty(&vk->ledger, pool->heap, page->bytes, true);
    return true;
}

/* An empty page leaves the core: its hole becomes a used node. The core hands out the exact fit with the lowest offset,
 * so holes of this very size before it are taken first and given back; a whole hole needs no new node, so nothing can
 * fail. The record stays with the range. */
static void remove_page(acre_vk *vk, vk_pool *pool, vk_page *page)
{
    uint32_t offset, others = 0, node;
    while ((node = coalesce_alloc(&pool->core, granules_of(page), 0, &offset)) != 0 && offset != page->origin) {
        coalesce_set_tag(&pool->core, node, others);
        others = node;
    }
    while (others != 0) {
        uint32_t next = (uint32_t)coalesce_tag(&pool->core, others);
        (void)coalesce_free(&pool->core, others);
        others = next;
    }
    page->node = node;
    pool->gone_granules += granules_of(page);
    set_units(pool, page, NULL);
    vk_page_unlink(pool, page);
    empty_remove(&pool->empties, &page->empty);
    gpu_ledger_empty(&vk->ledger, pool->heap, page->bytes, false);
    page->next = pool->gone;
    pool->gone = page;
    if (pool->page_count == 0) stop(pool);
}

vk_block *vk_pool_take(acre_vk *vk, vk_pool *pool, uint64_t bytes, uint64_t alignment, bool *no_record)
{
    coalesce *core = &pool->core;
    *no_record = false;
    if (unlikely(!pool->started)) return NULL;
    vk_block *b = vk_block_take(vk, pool);
    if (unlikely(b == NULL ||
                 (core->spare_count < NODES_OF_A_BLOCK &&
                  !coalesce_reserve_nodes(core, core->node_capacity + core->node_capacity / 2) &&
                  !coalesce_reserve_nodes(core, core->node_capacity + NODES_OF_A_BLOCK - core->spare_count)))) {
        if (b != NULL) vk_block_give(pool, b);
        *no_record = true;
        return NULL;
    }
    uint32_t offset, granules = (uint32_t)((bytes + GRANULE - 1) >> GRANULE_LOG2);
    unsigned align_log2 = alignment > GRANULE ? bits_lowest(alignment) - GRANULE_LOG2 : 0;
    if (align_log2 <= pool->even_log2) align_log2 = 0; /* every hole is */
    if (bits_lowest(granules) < pool->even_log2) pool->even_log2 = bits_lowest(granules);
    uint32_t node = coalesce_alloc(&pool->core, granules, align_log2, &offset);
    if (unlikely(node == 0)) {
        vk_block_give(pool, b);
        return NULL;
    }
    vk_page *page = pool->units[offset >> UNIT_LOG2];
    b->node = node;
    VK_SET(b->page, page);
    VK_SET(b->offset, (uint64_t)(offset - page->origin) << GRANULE_LOG2);
    VK_SET(b->size, (uint64_t)granules << GRANULE_LOG2);
    b->aligned_log2 = (uint16_t)bits_lowest(alignment);
    if (unlikely(page->used == 0)) {
        empty_remove(&pool->empties, &page->empty);
        gpu_ledger_empty(&vk->ledger, pool->heap, page->bytes, false);
    }
    page->used += granules;
    page->block_count++;
    return b;
}

void vk_pool_give(acre_vk *vk, vk_pool *pool, uint32_t chain)
{
    bool emptied = false;
    lock_acquire(&pool->lock);
    while (chain != 0) {
        vk_block *b = vk_block_at(vk, chain - 1);
        vk_page *page = b->page;
        chain = b->next;
        (void)coalesce_free(&pool->core, b->node);
        page->used -= (uint32_t)(b->size >> GRANULE_LOG2);
        page->block_count--;
        vk_block_give(pool, b);
        if (unlikely(page->used == 0)) {
            empty_add(&pool->empties, &page->empty, page->bytes, vk_now(vk));
            gpu_ledger_empty(&vk->ledger, pool->heap, page->bytes, true);
            emptied = true;
        }
    }
    lock_release(&pool->lock);
    if (unlikely(emptied)) (void)vk_pool_shrink(vk, pool, &vk->policy, 0);
}

/* --- growing ---------------------------------------------------------------------------------------------------- */

/* A page is as large as all before it together, from `least` up to `most`: few calls, and of what was asked for last
 * at most half is too much. Who holds very much gets a sixteenth of it at once. */
static void page_bounds(const acre_vk *vk, const vk_pool *pool, uint64_t *least, uint64_t *most)
{
    uint64_t eighth = vk->memory.memoryHeaps[pool->heap].size / 8;
    uint64_t by_heap = eighth < PAGE_STEP ? PAGE_STEP : (uint64_t)1 << bits_highest(eighth);
    uint64_t wanted = LATER_PAGE_BYTES;
    while (wanted <= pool->bytes / 16 && wanted < PAGE_BYTES_MAX) wanted *= 2;
    *most = vk->page_bytes_max != 0 ? vk->page_bytes_max : wanted < by_heap ? wanted : by_heap;
    *least = vk->page_bytes_min != 0 ? vk->page_bytes_min
             : FIRST_PAGE_BYTES < by_heap / 4 ? FIRST_PAGE_BYTES : by_heap / 4;
    if (*least > *most) *least = *most;
    if (*least < PAGE_STEP) *least = PAGE_STEP;
    if (*most < *least) *most = *least;
}

static uint64_t next_page_bytes(const acre_vk *vk, const vk_pool *pool, uint64_t bytes)
{
    if (pool->page_bytes != 0) return pool->page_bytes;
    uint64_t least, most, wanted = pool->bytes;
    page_bounds(vk, pool, &least, &most);
    wanted = wanted < least ? least : wanted > most ? most : (uint64_t)1 << bits_highest(wanted);
    return align_up(wanted < bytes ? bytes : wanted, PAGE_STEP);
}

static acre_status add_page(acre_vk *vk, vk_pool *pool, uint64_t bytes, uint64_t least, uint64_t alignment,
                            bool exceed, acre_gpu_shortage *why)
{
    VkExportMemoryAllocateInfo export_info = {.sType = VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO,
                                              .handleTypes = VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT};
    const void *next = pool->exported ? &export_info : NULL;
    vk_page *page = NULL;
    acre_status status;
    for (;;) {
        /* Passing a budget is for the block alone, not for what may come. */
        bool last = bytes / 2 < least;
        status = vk_memory_make(vk, pool, pool->memory_type, bytes, next, pool->priority, exceed && last, false, &page,
                                why);
        if (status == ACRE_OK || last) break;
        if (status != ACRE_OVER_BUDGET && status != ACRE_NO_MEMORY) break;
        if (why->driver_result == VK_ERROR_TOO_MANY_OBJECTS) break;
        bytes = align_up(bytes / 2, PAGE_STEP);
        if (bytes < least) bytes = least;
    }
    if (status != ACRE_OK) return status;
    page->exported = pool->exported;
    lock_acquire(&pool->lock);
    bool inserted = insert_page(vk, pool, page, alignment);
    lock_release(&pool->lock);
    if (inserted) return ACRE_OK;
    vk_memory_free(vk, page);
    return ACRE_NO_MEMORY;
}

acre_status vk_pool_grow(acre_vk *vk, vk_pool *pool, uint64_t bytes, uint64_t alignment, bool exceed,
                         vk_block **block, acre_gpu_shortage *why)
{
    acre_status status = ACRE_OK;
    lock_acquire(&pool->grow_lock);
    /* A page may be gone again before it serves: its pool shrinks for somebody else. */
    for (int attempt = 0; status == ACRE_OK && attempt < 3; attempt++) {
        lock_acquire(&pool->lock);
        bool no_record;
        *block = vk_pool_take(vk, pool, bytes, alignment, &no_record);
        uint64_t page_bytes = next_page_bytes(vk, pool, bytes);
        bool full = pool->page_count_max != 0 && pool->page_count >= pool->page_count_max;
        lock_release(&pool->lock);
        if (*block != NULL || full || no_record) break;
        uint64_t least = pool->page_bytes != 0 ? pool->page_bytes : align_up(bytes, PAGE_STEP);
        status = add_page(vk, pool, page_bytes, least, alignment, exceed, why);
    }
    lock_release(&pool->grow_lock);
    return status == ACRE_OK && *block == NULL ? ACRE_NO_MEMORY : status;
}

acre_status vk_pool_add_page(acre_vk *vk, vk_pool *pool, acre_gpu_shortage *why)
{
    lock_acquire(&pool->grow_lock);
    uint64_t bytes = next_page_bytes(vk, pool, 0);
    acre_status status = add_page(vk, pool, bytes, bytes, 0, false, why);
    lock_release(&pool->grow_lock);
    return status;
}

/* --- shrinking -------------------------------------------------------------------------------------------------- */

uint64_t vk_pool_shrink(acre_vk *vk, vk_pool *pool, const empty_policy *policy, uint64_t over)
{
    uint64_t given = 0;
    for (;;) {
        lock_acquire(&pool->lock);
        vk_page *page = NULL;
        if (pool->empties.count != 0 && pool->page_count > pool->page_count_min) {
            uint64_t live = ((uint64_t)pool->core.used - pool->gone_granules) << GRANULE_LOG2;
            empty_item *item = empty_excess(&pool->empties, policy, live, over > given ? over - given : 0, vk_now(vk));
            if (item != NULL) page = (vk_page *)(void *)((char *)item - offsetof(vk_page, empty));
        }
        VkDeviceMemory memory = VK_NULL_HANDLE;
        uint64_t bytes = 0;
        if (page != NULL) {
            memory = page->memory;
            bytes = page->bytes;
            remove_page(vk, pool, page); /* the record may be gone at once */
        }
        lock_release(&pool->lock);
        if (page == NULL) return given;
        given += bytes;
        vk_memory_give_back(vk, memory, pool->heap, bytes);
    }
}

uint64_t vk_heap_shrink(acre_vk *vk, uint32_t heap, uint64_t over)
{
    uint64_t given = 0;
    for (uint32_t p = 0; p < vk->pool_slots && given < over; p++) {
        vk_pool *pool = __atomic_load_n(&vk->pools[p], __ATOMIC_ACQUIRE);
        if (pool != NULL && pool->heap == heap) given += vk_pool_shrink(vk, pool, &vk->policy, over - given);
    }
    return given;
}

uint64_t vk_cached_bytes_max(const acre_vk *vk)
{
    uint64_t live = 0;
    for (uint32_t h = 0; h < vk->heap_count; h++)
        live += atomic_load_explicit(&vk->ledger.heaps[h].live, memory_order_relaxed);
    uint64_t most = live / CACHED_PART;
    return most < CACHED_BYTES_MIN ? CACHED_BYTES_MIN : most > CACHED_BYTES_MAX ? CACHED_BYTES_MAX : most;
}

void vk_maintain(acre_vk *vk, bool now)
{
    uint64_t ms = vk_now(vk), last = atomic_load_explicit(&vk->maintained_ms, memory_order_relaxed);
    uint64_t period = vk->policy.delay_ms / 8 < MAINTAIN_MS_MAX ? vk->policy.delay_ms / 8 : MAINTAIN_MS_MAX;
    bool due = ms - last >= period && atomic_compare_exchange_strong_explicit(
                                          &vk->maintained_ms, &last, ms, memory_order_relaxed, memory_order_relaxed);
    if (due) (void)vk_flush(vk, NULL, true);
    if (due && vk->cache_by_use) {
        uint64_t most = vk_cached_bytes_max(vk);
        for (uint32_t i = 0; i <= vk->shard_mask; i++) {
            vk_shard *s = vk_shard_enter_number(vk, i);
            s->cached_bytes_max = most;
            vk_shard_leave(s);
        }
    }
    if (!due && !now) return;
    uint64_t asked = atomic_load_explicit(&vk->budgets_ms, memory_order_relaxed);
    if (ms - asked >= BUDGET_MS) vk_budgets_refresh(vk);
    for (uint32_t h = 0; h < vk->heap_count; h++) {
        uint64_t held = atomic_load_explicit(&vk->ledger.heaps[h].held, memory_order_relaxed);
        uint64_t budget = atomic_load_explicit(&vk->ledger.heaps[h].budget, memory_order_relaxed);
        uint64_t over = held > budget ? held - budget : 0;
        for (uint32_t p = 0; p < vk->pool_slots; p++) {
            vk_pool *pool = __atomic_load_n(&vk->pools[p], __ATOMIC_ACQUIRE);
            if (pool == NULL || pool->heap != h) continue;
            uint64_t given = vk_pool_shrink(vk, pool, &vk->policy, over);
            over = over > given ? over - given : 0;
        }
    }
}
