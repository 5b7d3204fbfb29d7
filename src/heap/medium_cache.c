/* medium_cache: see medium_cache.h. */
#include "heap/medium_cache.h"

void medium_cache_init(medium_cache *mc, size_t bytes_max)
{
    mc->bytes_max = bytes_max;
    for (uint32_t e = MEDIUM_CACHE_ENTRIES; e > 0; e--) {
        mc->entry[e].next = mc->spare;
        mc->spare = (uint8_t)e;
    }
}

static void evict(medium_cache *mc, uint32_t e)
{
    medium_cached *c = &mc->entry[e];
    void *block = c->block;
    uint8_t *link = &mc->head[c->bin];
    while (*link != e) link = &mc->entry[*link].next;
    *link = c->next;
    if (e == mc->big) mc->big = 0;
    else mc->bytes -= c->bytes;
    c->block = NULL;
    c->next = mc->spare;
    mc->spare = (uint8_t)e;
    medium_handle_set_cached(c->handle, false);
    medium_free(medium_range_of(block)->owner, block);
}

bool medium_cache_evict(medium_cache *mc)
{
    for (uint32_t i = 0; i < MEDIUM_CACHE_ENTRIES; i++) {
        mc->hand = (uint8_t)(mc->hand % MEDIUM_CACHE_ENTRIES + 1);
        if (!mc->entry[mc->hand].block || mc->hand == mc->big) continue;
        evict(mc, mc->hand);
        return true;
    }
    if (!mc->big) return false;
    evict(mc, mc->big);
    return true;
}

bool medium_cache_put(medium_cache *mc, medium_handle *h, size_t bytes, void *block)
{
    uint32_t bin = medium_handle_bin(h);
    if (bin == MEDIUM_BIN_NONE || bytes > mc->bytes_max) return false;
    bool big = bytes > mc->bytes_max / 4;
    if (big && mc->big) evict(mc, mc->big);
    while (!big && mc->bytes + bytes > mc->bytes_max) medium_cache_evict(mc);
    if (!mc->spare) medium_cache_evict(mc);
    uint8_t e = mc->spare;
    mc->spare = mc->entry[e].next;
    mc->entry[e] = (medium_cached){block, h, (uint32_t)bytes, (uint16_t)bin, mc->head[bin]};
    mc->head[bin] = e;
    if (big) mc->big = e;
    else mc->bytes += bytes;
    medium_handle_set_cached(h, true);
    return true;
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
    mc->big = 0;
}

size_t medium_cache_bytes(const medium_cache *mc) { return mc->bytes + (mc->big ? mc->entry[mc->big].bytes : 0); }

bool medium_cache_check(const medium_cache *mc)
{
    size_t bytes = 0;
    uint32_t listed = 0, spare = 0, held = 0;
    for (uint32_t bin = 0; bin < MEDIUM_BINS; bin++)
        for (uint32_t e = mc->head[bin]; e && listed <= MEDIUM_CACHE_ENTRIES; e = mc->entry[e].next, listed++)
            if (mc->entry[e].bin != bin) return false;
    for (uint32_t e = mc->spare; e && spare <= MEDIUM_CACHE_ENTRIES; e = mc->entry[e].next) spare++;
    for (uint32_t e = 1; e <= MEDIUM_CACHE_ENTRIES; e++) {
        const medium_cached *c = &mc->entry[e];
        if (!c->block) continue;
        medium_range *r = medium_range_of(c->block);
        bool cached = false;
        if (!r || medium_usable(r, c->block, &cached) != c->bytes || !cached) return false;
        bytes += c->bytes;
        held++;
    }
    return listed == held && held + spare == MEDIUM_CACHE_ENTRIES && bytes == medium_cache_bytes(mc);
}
