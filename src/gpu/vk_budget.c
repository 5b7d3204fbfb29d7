/* vk_budget: what heaps may hold, what is held, and the report of a request that got nothing.
 *
 * With VK_EXT_memory_budget the driver says how much of a heap this process may use and how much it does use; what it
 * uses beyond what acre holds (swapchains, other allocators) is others' and leaves acre so much less. It is asked by
 * the clock and before a request fails; in between, what acre takes and gives counts at once, since the ledger compares
 * with what is held. Without the extension a heap's budget is 80% of it. A budget of the program's own may be less.
 *
 * The ledger counts what shards may spend as live (vk_shard.c); what is shown here has it taken off. */
#include <string.h>

#include "gpu/vk_internal.h"

enum { PERCENT_OF_HEAP = 80 };

static void set_budget(acre_vk *vk, uint32_t heap, uint64_t bytes)
{
    uint64_t own = atomic_load_explicit(&vk->heap_budget_user[heap], memory_order_relaxed);
    if (own != 0 && own < bytes) bytes = own;
    atomic_store_explicit(&vk->ledger.heaps[heap].budget, bytes, memory_order_relaxed);
}

static uint64_t default_budget(const acre_vk *vk, uint32_t heap)
{
    return vk->memory.memoryHeaps[heap].size / 100 * PERCENT_OF_HEAP;
}

void vk_budgets_refresh(acre_vk *vk)
{
    if (!(vk->features & ACRE_VK_HAS_MEMORY_BUDGET)) return;
    atomic_store_explicit(&vk->budgets_ms, vk_now(vk), memory_order_relaxed);
    uint64_t held[VK_MAX_MEMORY_HEAPS];
    for (uint32_t h = 0; h < vk->heap_count; h++)
        held[h] = atomic_load_explicit(&vk->ledger.heaps[h].held, memory_order_relaxed);
    VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
    VkPhysicalDeviceMemoryProperties2 two = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
                                             .pNext = &budget};
    vk->call.GetPhysicalDeviceMemoryProperties2(vk->physical_device, &two);
    for (uint32_t h = 0; h < vk->heap_count; h++) {
        uint64_t all = budget.heapBudget[h], used = budget.heapUsage[h];
        if (all == 0) all = default_budget(vk, h);
        uint64_t others = used > held[h] ? used - held[h] : 0;
        atomic_store_explicit(&vk->ledger.heaps[h].other, others, memory_order_relaxed);
        set_budget(vk, h, all > others ? all - others : 0);
    }
}

void vk_budgets_init(acre_vk *vk, const acre_vk_options *options)
{
    for (uint32_t h = 0; h < vk->heap_count; h++) {
        atomic_store_explicit(&vk->heap_budget_user[h], options->heap_budgets[h], memory_order_relaxed);
        /* One that the program gives may be above 80%: it knows. */
        set_budget(vk, h, options->heap_budgets[h] != 0 ? UINT64_MAX : default_budget(vk, h));
    }
    vk_budgets_refresh(vk);
}

acre_status acre_vk_set_heap_budget(acre_vk *vk, uint32_t heap, uint64_t bytes)
{
    if (vk == NULL || heap >= vk->heap_count) return ACRE_INVALID_ARGUMENT;
    atomic_store_explicit(&vk->heap_budget_user[heap], bytes, memory_order_relaxed);
    set_budget(vk, heap, bytes != 0 ? UINT64_MAX : default_budget(vk, heap));
    vk_budgets_refresh(vk);
    return ACRE_OK;
}

acre_status acre_vk_set_category_budget(acre_vk *vk, uint32_t category, uint64_t bytes)
{
    if (vk == NULL || category >= vk->category_count) return ACRE_INVALID_ARGUMENT;
    atomic_store_explicit(&vk->ledger.categories[category].budget, bytes != 0 ? bytes : UINT64_MAX,
                          memory_order_relaxed);
    vk_collect_credit(vk);
    return ACRE_OK;
}

/* --- statistics ------------------------------------------------------------------------------------------------- */

static void read_heap(acre_vk *vk, uint32_t heap, acre_gpu_heap_stats *stats)
{
    uint64_t credit, blocks;
    gpu_ledger_read_heap(&vk->ledger, heap, stats);
    vk_credit(vk, UINT32_MAX, heap, &credit, &blocks);
    if (credit > stats->live_bytes) credit = stats->live_bytes;
    stats->live_bytes -= credit;
    uint64_t taken = stats->live_bytes + stats->pending_bytes + stats->empty_bytes;
    stats->hole_bytes = stats->held_bytes > taken ? stats->held_bytes - taken : 0;
    stats->blocks = blocks;
}

static void read_category(acre_vk *vk, uint32_t category, acre_gpu_category_stats *stats)
{
    uint64_t credit, blocks;
    gpu_ledger_read_category(&vk->ledger, category, stats);
    vk_credit(vk, category, UINT32_MAX, &credit, &blocks);
    stats->live_bytes = stats->live_bytes > credit ? stats->live_bytes - credit : 0;
    stats->blocks = blocks;
}

acre_status acre_vk_heap_stats(acre_vk *vk, uint32_t heap, acre_gpu_heap_stats *stats)
{
    if (vk == NULL || stats == NULL || heap >= vk->heap_count) return ACRE_INVALID_ARGUMENT;
    read_heap(vk, heap, stats);
    return ACRE_OK;
}

acre_status acre_vk_category_stats(acre_vk *vk, uint32_t category, acre_gpu_category_stats *stats)
{
    if (vk == NULL || stats == NULL || category >= vk->category_count) return ACRE_INVALID_ARGUMENT;
    read_category(vk, category, stats);
    return ACRE_OK;
}

acre_status acre_vk_get_stats(acre_vk *vk, acre_vk_stats *stats)
{
    if (vk == NULL || stats == NULL) return ACRE_INVALID_ARGUMENT;
    memset(stats, 0, sizeof *stats);
    for (uint32_t h = 0; h < vk->heap_count; h++) {
        acre_gpu_heap_stats heap;
        read_heap(vk, h, &heap);
#define X(name, unit, title, meaning) stats->total.name += heap.name;
        ACRE_GPU_HEAP_LIST(X)
#undef X
    }
    uint32_t bins = 0;
    for (uint32_t i = 0; i <= vk->shard_mask; i++) {
        vk_shard *s = vk_shard_enter_number(vk, i);
        stats->hits += s->hits;
        stats->cached_bytes += s->cached_bytes;
        for (uint32_t p = 0; p < vk->pool_slots; p++) bins += s->bins[p] != NULL;
        vk_shard_leave(s);
    }
    uint64_t tables = sizeof *vk + (vk->shard_mask + 1) * (sizeof(vk_shard) + vk->pool_slots * sizeof(vk_bins *) +
                                                           vk->category_count * vk->heap_count * sizeof(vk_account));
    tables += (uint64_t)atomic_load_explicit(&vk->chunk_count, memory_order_relaxed) *
              (BLOCKS_PER_CHUNK * sizeof(vk_block) + sizeof(vk_block *));
    tables += (uint64_t)bins * sizeof(vk_bins);
    lock_acquire(&vk->looks_lock);
    tables += (uint64_t)vk->record_count * sizeof(vk_page);
    lock_release(&vk->looks_lock);
    for (uint32_t p = 0; p < vk->pool_slots; p++) {
        vk_pool *pool = __atomic_load_n(&vk->pools[p], __ATOMIC_ACQUIRE);
        if (pool == NULL) continue;
        lock_acquire(&pool->lock);
        stats->pages += pool->page_count;
        tables += sizeof *pool + pool->unit_count * sizeof(vk_page *);
        if (pool->started) tables += coalesce_memory_bytes(&pool->core);
        lock_release(&pool->lock);
    }
    stats->bookkeeping_bytes = tables;
    stats->device_lost = atomic_load_explicit(&vk->device_lost, memory_order_relaxed);
    return ACRE_OK;
}

/* --- the report ------------------------------------------------------------------------------------------------- */

static uint64_t largest_hole(acre_vk *vk, uint32_t heap, uint32_t type_bits)
{
    uint64_t largest = 0;
    for (uint32_t p = 0; p < vk->pool_slots; p++) {
        vk_pool *pool = __atomic_load_n(&vk->pools[p], __ATOMIC_ACQUIRE);
        if (pool == NULL || pool->heap != heap || !(type_bits >> pool->memory_type & 1)) continue;
        lock_acquire(&pool->lock);
        uint64_t bytes = pool->started ? (uint64_t)coalesce_largest_hole(&pool->core) << GRANULE_LOG2 : 0;
        lock_release(&pool->lock);
        if (bytes > largest) largest = bytes;
    }
    return largest;
}

void vk_shortage_note(acre_vk *vk, acre_gpu_shortage *shortage, acre_status status, const vk_want *want, uint32_t heap)
{
    uint32_t category = want->request->category;
    int32_t result = shortage->driver_result;
    const char *call = shortage->driver_call;
    uint64_t alignment = want->alignment > want->request->alignment ? want->alignment : want->request->alignment;
    vk_collect_credit(vk);
    gpu_ledger_shortage(&vk->ledger, status, category, heap, want->bytes, alignment, shortage);
    shortage->driver_result = result;
    shortage->driver_call = call;
    read_heap(vk, heap, &shortage->heap_stats);
    read_category(vk, category, &shortage->category_stats);
    shortage->largest_hole_bytes = largest_hole(vk, heap, want->type_bits);
    uint64_t unused = shortage->heap_stats.hole_bytes + shortage->heap_stats.empty_bytes;
    shortage->fragmentation =
        unused != 0 && shortage->largest_hole_bytes < unused
            ? 1.0 - (double)shortage->largest_hole_bytes / (double)unused
            : 0;
    lock_acquire(&vk->shortage_lock);
    vk->shortage = *shortage;
    vk->had_shortage = true;
    lock_release(&vk->shortage_lock);
}

bool acre_vk_last_shortage(acre_vk *vk, acre_gpu_shortage *shortage)
{
    if (vk == NULL || shortage == NULL) return false;
    lock_acquire(&vk->shortage_lock);
    bool had = vk->had_shortage;
    if (had) *shortage = vk->shortage;
    lock_release(&vk->shortage_lock);
    return had;
}
