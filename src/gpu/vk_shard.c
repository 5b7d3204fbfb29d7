/* vk_shard: freed blocks that wait to be allocated again, and the credit that goes with them.
 *
 * A shard is entered with one exchange and left with one store. A thread remembers the last shard it got; finding
 * somebody in it, it tries the next, so threads spread over shards and stay there, and nobody ever waits for a thread
 * that the system has put aside, but who empties all shards. What a shard keeps is bounded in bytes; when it is full,
 * it gives some of it back to the pool at once, class after class, so that what nobody asks for leaves first.
 *
 * A block in a bin keeps its node, its page and its number; only its handle is over. To the ledger it is a hole: its
 * bytes are credit of the category that freed it, which the next allocation of that category spends without a word to
 * the ledger. So a budget is kept exactly (credit is charged), and a hit writes no line that shards share. */
#include <string.h>

#include "gpu/vk_internal.h"

_Thread_local uint32_t vk_thread_number; /* 0: none yet; shard = number & mask */
_Thread_local uint32_t vk_thread_misses;

ACRE_NOINLINE vk_shard *vk_shard_enter_slow(acre_vk *vk)
{
    static _Atomic uint32_t threads;
    if (vk_thread_number == 0)
        vk_thread_number = (atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed) & 0x7fffffff) | 0x80000000;
    for (;;) {
        for (uint32_t i = 0; i <= vk->shard_mask; i++) {
            vk_shard *s = &vk->shards[vk_thread_number & vk->shard_mask];
            if (atomic_exchange_explicit(&s->busy, 1, memory_order_acquire) == 0) return s;
            vk_thread_number = (vk_thread_number + 1) | 0x80000000;
        }
        os_yield();
    }
}

vk_shard *vk_shard_enter_number(acre_vk *vk, uint32_t number)
{
    vk_shard *s = &vk->shards[number];
    while (atomic_exchange_explicit(&s->busy, 1, memory_order_acquire) != 0) os_yield();
    return s;
}

/* --- credit ----------------------------------------------------------------------------------------------------- */

void vk_collect_credit(acre_vk *vk)
{
    for (uint32_t i = 0; i <= vk->shard_mask; i++) {
        vk_shard *s = vk_shard_enter_number(vk, i);
        for (uint32_t c = 0; c < vk->category_count; c++) {
            for (uint32_t h = 0; h < vk->heap_count; h++) {
                vk_account *a = vk_account_of(vk, s, c, h);
                if (a->credit == 0) continue;
                gpu_ledger_discharge(&vk->ledger, c, h, a->credit);
                a->credit = 0;
            }
        }
        vk_shard_leave(s);
    }
}

void vk_credit(acre_vk *vk, uint32_t category, uint32_t heap, uint64_t *credit, uint64_t *blocks)
{
    int64_t count = 0;
    *credit = 0;
    for (uint32_t i = 0; i <= vk->shard_mask; i++) {
        vk_shard *s = vk_shard_enter_number(vk, i);
        for (uint32_t c = 0; c < vk->category_count; c++) {
            if (category != UINT32_MAX && category != c) continue;
            for (uint32_t h = 0; h < vk->heap_count; h++) {
                if (heap != UINT32_MAX && heap != h) continue;
                *credit += vk_account_of(vk, s, c, h)->credit;
                count += vk_account_of(vk, s, c, h)->blocks;
            }
        }
        vk_shard_leave(s);
    }
    *blocks = count > 0 ? (uint64_t)count : 0;
}

bool vk_charge(acre_vk *vk, uint32_t category, uint32_t heap, uint64_t bytes, bool exceed)
{
    vk_shard *s = vk_shard_enter(vk);
    bool charged = vk_shard_charge(vk, s, category, heap, bytes, false);
    vk_shard_leave(s);
    if (charged) return true;
    vk_collect_credit(vk);
    s = vk_shard_enter(vk);
    charged = vk_shard_charge(vk, s, category, heap, bytes, exceed);
    vk_shard_leave(s);
    return charged;
}

void vk_discharge(acre_vk *vk, uint32_t category, uint32_t heap, uint64_t bytes)
{
    vk_shard *s = vk_shard_enter(vk);
    vk_shard_discharge(vk, s, category, heap, bytes);
    vk_shard_leave(s);
}

/* --- bins ------------------------------------------------------------------------------------------------------- */

vk_bins *vk_bins_make(vk_shard *s, uint32_t pool)
{
    return s->bins[pool] = arena_alloc(sizeof(vk_bins));
}

static inline void count_out(vk_shard *s, vk_bins *bins, const vk_block *b)
{
    s->cached_bytes -= b->size;
    bins->bytes -= b->size;
    bins->count--;
}

vk_block *vk_bins_pop(acre_vk *vk, vk_shard *s, vk_bins *bins, uint32_t cls, uint64_t size, uint64_t alignment)
{
    uint32_t *link = &bins->head[cls];
    for (int i = 0; i < CLASS_LOOK && *link != 0; i++) {
        vk_block *b = vk_block_at(vk, *link - 1);
        if (likely(b->size >= size && (b->offset & (alignment - 1)) == 0)) {
            *link = b->next;
            count_out(s, bins, b);
            if (bins->bytes < bins->bytes_low) bins->bytes_low = bins->bytes;
            return b;
        }
        link = &b->next;
    }
    return NULL;
}

bool vk_bins_push(acre_vk *vk, vk_shard *s, vk_pool *pool, vk_block *block)
{
    (void)vk;
    uint32_t cls = vk_class_of(block->size >> GRANULE_LOG2);
    if (unlikely(cls >= CLASS_COUNT || s->cached_bytes + block->size > s->cached_bytes_max)) return false;
    vk_bins *bins = s->bins[pool->index];
    if (unlikely(bins == NULL)) {
        bins = vk_bins_make(s, pool->index);
        if (bins == NULL) return false;
    }
    block->next = bins->head[cls];
    bins->head[cls] = block->index + 1;
    bins->bytes += block->size;
    bins->count++;
    s->cached_bytes += block->size;
    return true;
}

uint32_t vk_bins_evict(acre_vk *vk, vk_shard *s, vk_bins *bins, uint64_t bytes, uint32_t count)
{
    uint32_t chain = 0;
    uint64_t evicted = 0;
    for (uint32_t seen = 0; seen < CLASS_COUNT && bins->count != 0 && evicted < bytes && count != 0; seen++) {
        uint32_t *head = &bins->head[bins->cursor];
        while (*head != 0 && evicted < bytes && count != 0) {
            count--;
            vk_block *b = vk_block_at(vk, *head - 1);
            *head = b->next;
            count_out(s, bins, b);
            evicted += b->size;
            b->next = chain;
            chain = b->index + 1;
        }
        if (*head == 0) bins->cursor = bins->cursor + 1 < CLASS_COUNT ? bins->cursor + 1 : 0;
    }
    if (bins->bytes < bins->bytes_low) bins->bytes_low = bins->bytes;
    return chain;
}

uint64_t vk_flush(acre_vk *vk, vk_pool *pool, bool old)
{
    uint64_t flushed = 0;
    for (uint32_t i = 0; i <= vk->shard_mask; i++) {
        uint32_t first = pool != NULL ? pool->index : 0, last = pool != NULL ? pool->index : vk->pool_slots - 1;
        for (uint32_t p = first; p <= last; p++) {
            vk_pool *of = __atomic_load_n(&vk->pools[p], __ATOMIC_ACQUIRE);
            if (of == NULL) continue;
            vk_shard *s = vk_shard_enter_number(vk, i);
            vk_bins *bins = s->bins[p];
            uint32_t chain = 0;
            if (bins != NULL && bins->count != 0) {
                uint64_t before = bins->bytes;
                chain = old ? vk_bins_evict(vk, s, bins, bins->bytes_low, AGED_MAX)
                            : vk_bins_evict(vk, s, bins, UINT64_MAX, UINT32_MAX);
                bins->bytes_low = bins->bytes;
                flushed += before - bins->bytes;
            }
            vk_shard_leave(s);
            if (chain != 0) vk_pool_give(vk, of, chain);
        }
    }
    return flushed;
}
