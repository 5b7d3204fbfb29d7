/* vk_check: every equation of the allocator, tested from outside of the paths that keep them.
 *
 * It counts blocks record by record and compares: with nodes and pages of the cores, with bins and bytes of the shards,
 * with the ledger. Only while no other call runs: in the middle of a call, a block may be charged and not yet there. */
#include "gpu/vk_internal.h"

typedef struct sums {
    uint64_t live[VK_MAX_MEMORY_HEAPS], pending[VK_MAX_MEMORY_HEAPS];
    uint64_t live_of[ACRE_GPU_CATEGORIES_MAX], pending_of[ACRE_GPU_CATEGORIES_MAX];
    uint64_t held[VK_MAX_MEMORY_HEAPS], empty[VK_MAX_MEMORY_HEAPS];
    uint64_t blocks, cached, cached_bytes, pages;
} sums;

static uint32_t state_of(const vk_block *b)
{
    return atomic_load_explicit(&b->state, memory_order_relaxed) & BLOCK_STATE_MASK;
}

static const char *check_block(acre_vk *vk, vk_block *b, sums *sum)
{
    uint32_t state = state_of(b);
    vk_page *page = b->page;
    if (state == BLOCK_FREE) return page != NULL ? "a free block has a page" : NULL;
    if (state > BLOCK_PENDING) return "a block is in no known state";
    if (page == NULL) return state == BLOCK_PENDING && b->size == 0 ? NULL : "a block has no page";
    if (b->offset + b->size > page->bytes) return "a block passes the end of its page";
    if (b->category >= vk->category_count) return "a block's category does not exist";
    page->seen_blocks++;
    page->seen_bytes += b->size;
    if (page->shared) {
        const coalesce *c = &page->pool->core;
        if (!coalesce_is_used(c, b->node)) return "a block's node is no block";
        if (coalesce_offset(c, b->node) != page->origin + (b->offset >> GRANULE_LOG2))
            return "a block's node lies elsewhere";
        if ((uint64_t)coalesce_size(c, b->node) << GRANULE_LOG2 != b->size) return "a block's node has another size";
    }
    if (state == BLOCK_LIVE) {
        sum->live[page->heap] += b->size;
        sum->live_of[b->category] += b->size;
        sum->blocks++;
    } else if (state == BLOCK_PENDING) {
        sum->pending[page->heap] += b->size;
        sum->pending_of[b->category] += b->size;
    } else {
        if (!page->shared) return "a cached block has memory of its own";
        sum->cached++;
        sum->cached_bytes += b->size;
    }
    return NULL;
}

static const char *check_pool(acre_vk *vk, vk_pool *pool, sums *sum, bool before)
{
    uint32_t count = 0, nodes = 0;
    uint64_t bytes = 0, used = 0, empty = 0;
    if (before && pool->started) {
        const char *wrong = coalesce_check(&pool->core);
        if (wrong != NULL) return wrong;
    }
    for (vk_page *page = pool->pages; page != NULL; page = page->next) {
        if (before) {
            page->seen_blocks = 0;
            page->seen_bytes = 0;
            continue;
        }
        count++;
        bytes += page->bytes;
        sum->held[page->heap] += page->bytes;
        if (page->pool != pool) return "a page is in the list of another pool";
        if (page->shared != (pool != vk->alone)) return "a page is in a list of the other kind";
        if (page->seen_blocks != page->block_count) return "a page's number of blocks is wrong";
        if (!page->shared) continue;
        nodes += page->block_count;
        used += page->used;
        if (page->used == 0) empty += page->bytes;
        if (page->seen_bytes != (uint64_t)page->used << GRANULE_LOG2) return "a page's used bytes are wrong";
        if (pool->units[page->origin >> UNIT_LOG2] != page) return "a page is not found by its offset";
    }
    if (before) return NULL;
    if (count != pool->page_count || bytes != pool->bytes) return "a pool's pages do not add up";
    if (empty != pool->empties.bytes) return "a pool's empty pages do not add up";
    sum->empty[pool->heap] += empty;
    sum->pages += count;
    uint64_t gone = 0;
    for (vk_page *g = pool->gone; g != NULL; g = g->next) {
        gone += g->bytes >> GRANULE_LOG2;
        nodes++;
    }
    if (gone != pool->gone_granules) return "a pool's pages that are gone do not add up";
    if (pool->started && (pool->core.used != used + gone || pool->core.block_count != nodes))
        return "a core has blocks that nobody knows";
    return NULL;
}

static const char *check_shards(acre_vk *vk, const sums *sum)
{
    uint64_t cached = 0, cached_bytes = 0;
    for (uint32_t i = 0; i <= vk->shard_mask; i++) {
        vk_shard *s = &vk->shards[i];
        uint64_t shard_bytes = 0;
        for (uint32_t p = 0; p < vk->pool_slots; p++) {
            vk_bins *bins = s->bins[p];
            if (bins == NULL) continue;
            uint64_t bytes = 0;
            uint32_t count = 0;
            for (uint32_t cls = 0; cls < CLASS_COUNT; cls++) {
                for (uint32_t n = bins->head[cls]; n != 0; n = vk_block_at(vk, n - 1)->next) {
                    vk_block *b = vk_block_at(vk, n - 1);
                    if (state_of(b) != BLOCK_CACHED) return "a bin holds a block that is not cached";
                    if (b->page->pool->index != p) return "a bin holds a block of another pool";
                    if (vk_class_of(b->size >> GRANULE_LOG2) != cls) return "a bin holds a block of another class";
                    bytes += b->size;
                    count++;
                }
            }
            if (bytes != bins->bytes || count != bins->count) return "a bin's bytes are wrong";
            shard_bytes += bytes;
            cached += count;
        }
        if (shard_bytes != s->cached_bytes) return "a shard's bytes are wrong";
        cached_bytes += shard_bytes;
    }
    if (cached != sum->cached || cached_bytes != sum->cached_bytes) return "a cached block is in no bin";
    return NULL;
}

static const char *check_ledger(acre_vk *vk, const sums *sum)
{
    for (uint32_t h = 0; h < vk->heap_count; h++) {
        const gpu_heap_row *row = &vk->ledger.heaps[h];
        uint64_t credit, blocks;
        vk_credit(vk, UINT32_MAX, h, &credit, &blocks);
        if (row->live != sum->live[h] + credit) return "the ledger's live bytes of a heap are wrong";
        if (row->pending != sum->pending[h]) return "the ledger's pending bytes of a heap are wrong";
        if (row->held != sum->held[h]) return "the ledger's held bytes of a heap are wrong";
        if (row->empty != sum->empty[h]) return "the ledger's empty bytes of a heap are wrong";
    }
    for (uint32_t c = 0; c < vk->category_count; c++) {
        uint64_t credit, blocks;
        vk_credit(vk, c, UINT32_MAX, &credit, &blocks);
        if (vk->ledger.categories[c].live != sum->live_of[c] + credit) return "a category's live bytes are wrong";
        if (vk->ledger.categories[c].pending != sum->pending_of[c]) return "a category's pending bytes are wrong";
    }
    uint64_t credit, blocks;
    vk_credit(vk, UINT32_MAX, UINT32_MAX, &credit, &blocks);
    if (blocks != sum->blocks) return "the number of live blocks is wrong";
    if (vk->driver_allocations != sum->pages) return "the number of driver allocations is wrong";
    return NULL;
}

const char *acre_vk_check(acre_vk *vk)
{
    if (vk == NULL) return "there is no allocator";
    sums sum = {0};
    const char *wrong = NULL;
    for (int before = 1; before >= 0 && wrong == NULL; before--) {
        for (uint32_t p = 0; p <= vk->pool_slots && wrong == NULL; p++) {
            vk_pool *pool = p == vk->pool_slots ? vk->alone : vk->pools[p];
            if (pool != NULL) wrong = check_pool(vk, pool, &sum, before != 0);
        }
        for (uint32_t i = 0; before && wrong == NULL && i < CHUNKS_MAX << BLOCKS_PER_CHUNK_LOG2; i++) {
            vk_block *b = vk_block_at(vk, i);
            if (b == NULL) break;
            wrong = check_block(vk, b, &sum);
        }
    }
    if (wrong == NULL) wrong = check_shards(vk, &sum);
    if (wrong == NULL) wrong = check_ledger(vk, &sum);
    return wrong;
}
