/* medium_cache: see medium_cache.h. */
#include "heap/medium_cache.h"

#include <string.h>

#define ALL (~(uint64_t)1) /* a bit for each entry */
_Static_assert(MEDIUM_CACHE_ENTRIES == 63, "ALL has a bit for each");

void medium_cache_init(medium_cache *mc, size_t bytes_max)
{
    mc->bytes_max = bytes_max;
    mc->spare = ALL;
}

/* Takes the entry's block out; it stays marked as cached. */
static void *take_out(medium_cache *mc, uint32_t e)
{
    medium_cached *c = &mc->entry[e];
    void *block = c->block;
    if (c->prev) mc->entry[c->prev].next = c->next;
    else mc->head[c->bin] = c->next;
    mc->entry[c->next].prev = c->prev;
    mc->bytes -= c->bytes;
    c->block = NULL;
    mc->spare |= (uint64_t)1 << e;
    return block;
}

bool medium_cache_give(medium_cache *mc, uint32_t count)
{
    void *blocks[MEDIUM_CACHE_ENTRIES + 1];
    uint32_t n = 0;
    uint64_t held = ~mc->spare & ALL;
    while (held && n < count) {
        uint64_t on = held & ~bits_mask(mc->hand + 1u); /* entries behind the hand, else from the first */
        uint32_t e = bits_lowest(on ? on : held);
        held &= ~((uint64_t)1 << e);
        blocks[n++] = take_out(mc, e);
        mc->hand = (uint8_t)e;
    }
    if (n < count && mc->front.block) {
        blocks[n++] = mc->front.block;
        mc->front.block = NULL;
    }
    if (n) medium_give(medium_range_of(blocks[0])->owner, blocks, n);
    return n > 0;
}

bool medium_cache_put(medium_cache *mc, medium_handle *h, size_t bytes, void *block)
{
    if (medium_handle_bin(h) == MEDIUM_BIN_NONE || bytes > mc->bytes_max) return false;
    if (mc->front.block && mc->front.bytes > mc->bytes_max / 4) {
        void *last = mc->front.block;
        mc->front.block = NULL;
        medium_give(medium_range_of(last)->owner, &last, 1);
    }
    if (mc->front.block && !medium_cache_may_file(mc, mc->front.bytes))
        medium_cache_give(mc, (bits_count(~mc->spare & ALL) + 1) / 2);
    while (!medium_cache_put_hit(mc, h, bytes, block)) medium_cache_give(mc, 1);
    return true;
}

void *medium_cache_refill(medium_cache *mc, struct medium *m, size_t bytes, bool zero)
{
    enum { BATCH = 8 };
    void *blocks[BATCH];
    size_t most = (mc->bytes_max - mc->bytes) / 2 / medium_round(bytes);
    if (bytes > mc->bytes_max / 4) most = 1;
    uint32_t n = medium_take(m, bytes, zero, blocks, most < 1 ? 1 : most < BATCH ? (uint32_t)most : BATCH);
    if (n == 0) return NULL;
    for (uint32_t i = n; --i > 0;) {
        medium_cached c = {.block = blocks[i], .handle = medium_handle_of(medium_range_of(blocks[i]), blocks[i])};
        c.bytes = (uint32_t)medium_round(bytes);
        c.bin = (uint16_t)medium_handle_bin(c.handle);
        medium_handle_set_cached(c.handle, true);
        if (medium_cache_may_file(mc, c.bytes)) medium_cache_file(mc, &c);
        else medium_give(m, &blocks[i], 1);
    }
    return blocks[0];
}

/* Lists, sizes and handles of the entries may be half-written; the block's own handle knows whether it is cached. */
void medium_cache_adopt(medium_cache *mc)
{
    for (uint32_t e = 0; e <= MEDIUM_CACHE_ENTRIES; e++) {
        medium_cached *c = e ? &mc->entry[e] : &mc->front;
        void *block = c->block;
        c->block = NULL;
        medium_range *r = block ? medium_range_of(block) : NULL;
        bool cached = false;
        if (r) medium_usable(r, block, &cached);
        if (!cached) continue;
        medium_handle_set_cached(medium_handle_of(r, block), false);
        medium_free(r->owner, block);
    }
    size_t bytes_max = mc->bytes_max;
    memset(mc, 0, sizeof *mc);
    medium_cache_init(mc, bytes_max);
}

size_t medium_cache_bytes(const medium_cache *mc) { return mc->bytes + (mc->front.block ? mc->front.bytes : 0); }

uint32_t medium_cache_blocks(const medium_cache *mc)
{
    return bits_count(~mc->spare & ALL) + (mc->front.block != NULL);
}

static bool check_cached(const medium_cached *c)
{
    medium_range *r = medium_range_of(c->block);
    bool cached = false;
    return r && medium_usable(r, c->block, &cached) == c->bytes && cached && medium_handle_of(r, c->block) == c->handle;
}

bool medium_cache_check(const medium_cache *mc)
{
    size_t bytes = 0;
    uint64_t listed = 0;
    for (uint32_t bin = 0; bin < MEDIUM_BINS; bin++)
        for (uint32_t e = mc->head[bin], prev = 0; e; prev = e, e = mc->entry[e].next) {
            const medium_cached *c = &mc->entry[e];
            if (c->bin != bin || c->prev != prev || (listed >> e & 1) || !check_cached(c)) return false;
            listed |= (uint64_t)1 << e;
            bytes += c->bytes;
        }
    bool front = !mc->front.block || check_cached(&mc->front);
    return front && listed == (~mc->spare & ALL) && !(mc->spare & ~ALL) && bytes == mc->bytes && bytes <= mc->bytes_max;
}
