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
    if (e == mc->big) mc->big = 0;
    else mc->bytes -= c->bytes;
    c->block = NULL;
    mc->spare |= (uint64_t)1 << e;
    return block;
}

bool medium_cache_give(medium_cache *mc, uint32_t count)
{
    void *blocks[MEDIUM_CACHE_ENTRIES];
    uint32_t n = 0;
    uint64_t held = ~mc->spare & ALL & ~((uint64_t)1 << mc->big);
    while (held && n < count) {
        uint64_t on = held & ~bits_mask(mc->hand + 1u); /* entries behind the hand, else from the first */
        uint32_t e = bits_lowest(on ? on : held);
        held &= ~((uint64_t)1 << e);
        blocks[n++] = take_out(mc, e);
        mc->hand = (uint8_t)e;
    }
    if (n < count && mc->big) blocks[n++] = take_out(mc, mc->big);
    if (n) medium_give(medium_range_of(blocks[0])->owner, blocks, n);
    return n > 0;
}

/* Keeps a block; there is a free entry. */
static void keep(medium_cache *mc, medium_handle *h, size_t bytes, void *block)
{
    uint32_t bin = medium_handle_bin(h);
    uint8_t e = (uint8_t)bits_lowest(mc->spare);
    mc->spare &= mc->spare - 1;
    mc->entry[e] = (medium_cached){block, h, (uint32_t)bytes, (uint16_t)bin, mc->head[bin], 0};
    mc->entry[mc->head[bin]].prev = e;
    mc->head[bin] = e;
    if (bytes > mc->bytes_max / 4) mc->big = e;
    else mc->bytes += bytes;
    medium_handle_set_cached(h, true);
}

bool medium_cache_put(medium_cache *mc, medium_handle *h, size_t bytes, void *block)
{
    if (medium_handle_bin(h) == MEDIUM_BIN_NONE || bytes > mc->bytes_max) return false;
    bool big = bytes > mc->bytes_max / 4;
    if (big && mc->big) {
        void *last = take_out(mc, mc->big);
        medium_give(medium_range_of(last)->owner, &last, 1);
    }
    while (!mc->spare || (!big && mc->bytes + bytes > mc->bytes_max))
        medium_cache_give(mc, (bits_count(~mc->spare & ALL) + 1) / 2);
    keep(mc, h, bytes, block);
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
        size_t size;
        medium_handle *h = medium_live_handle(medium_range_of(blocks[i]), blocks[i], &size);
        if (mc->spare) keep(mc, h, size, blocks[i]);
        else medium_free(m, blocks[i]);
    }
    return blocks[0];
}

/* Lists, sizes and handles of the entries may be half-written; the block's own handle knows whether it is cached. */
void medium_cache_adopt(medium_cache *mc)
{
    for (uint32_t e = 1; e <= MEDIUM_CACHE_ENTRIES; e++) {
        void *block = mc->entry[e].block;
        mc->entry[e].block = NULL;
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

size_t medium_cache_bytes(const medium_cache *mc) { return mc->bytes + (mc->big ? mc->entry[mc->big].bytes : 0); }

bool medium_cache_check(const medium_cache *mc)
{
    size_t bytes = 0;
    uint32_t listed = 0, spare = bits_count(mc->spare), held = 0;
    for (uint32_t bin = 0; bin < MEDIUM_BINS; bin++)
        for (uint32_t e = mc->head[bin], prev = 0; e && listed <= MEDIUM_CACHE_ENTRIES; listed++) {
            if (mc->entry[e].bin != bin || mc->entry[e].prev != prev) return false;
            prev = e;
            e = mc->entry[e].next;
        }
    if (mc->spare & ~ALL) return false;
    for (uint32_t e = 1; e <= MEDIUM_CACHE_ENTRIES; e++) {
        const medium_cached *c = &mc->entry[e];
        bool spared = (mc->spare >> e & 1) != 0;
        if ((c->block == NULL) != spared) return false;
        if (!c->block) continue;
        medium_range *r = medium_range_of(c->block);
        bool cached = false;
        if (!r || medium_usable(r, c->block, &cached) != c->bytes || !cached) return false;
        bytes += c->bytes;
        held++;
    }
    return listed == held && held + spare == MEDIUM_CACHE_ENTRIES && bytes == medium_cache_bytes(mc);
}
