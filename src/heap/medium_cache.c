/* medium_cache: see medium_cache.h. */
#include "heap/medium_cache.h"

#include <string.h>

_Static_assert(MEDIUM_CACHE_ENTRIES == 64 * MEDIUM_CACHE_WORDS - 1, "a bit for each entry");

/* Entries that hold a block, as bits of word w. */
static uint64_t held_in(const medium_cache *mc, uint32_t w)
{
    return ~mc->spare[w] & (w == 0 ? ~(uint64_t)1 : ~(uint64_t)0);
}
static uint32_t held(const medium_cache *mc) { return bits_count(held_in(mc, 0)) + bits_count(held_in(mc, 1)); }

void medium_cache_init(medium_cache *mc, size_t bytes_most)
{
    mc->bytes_most = bytes_most;
    mc->bytes_max = bytes_most < MEDIUM_CACHE_BYTES_FIRST ? bytes_most : MEDIUM_CACHE_BYTES_FIRST;
    mc->spare[0] = ~(uint64_t)1;
    mc->spare[1] = ~(uint64_t)0;
}

/* Takes the entry's block out; it stays marked as cached. */
static void *take_out(medium_cache *mc, uint32_t e)
{
    medium_cached *c = &mc->entry[e];
    void *block = c->block;
    if (c->prev) mc->entry[c->prev].next = c->next;
    else mc->head[c->bin] = c->next;
    if (!mc->head[c->bin]) mc->bins[c->bin >> 6] &= ~((uint64_t)1 << (c->bin & 63));
    mc->entry[c->next].prev = c->prev;
    mc->bytes -= c->bytes;
    c->block = NULL;
    mc->spare[e >> 6] |= (uint64_t)1 << (e & 63);
    return block;
}

bool medium_cache_give(medium_cache *mc, uint32_t count)
{
    void *blocks[MEDIUM_CACHE_ENTRIES + 1];
    uint32_t n = 0;
    /* From the entry behind the hand on, word by word; the first word twice, before and after the others. */
    uint32_t first = mc->hand >> 6;
    for (uint32_t i = 0; i <= MEDIUM_CACHE_WORDS && n < count; i++) {
        uint32_t w = (first + i) % MEDIUM_CACHE_WORDS;
        uint64_t on = held_in(mc, w);
        if (i == 0) on &= ~bits_mask((mc->hand & 63) + 1u);
        for (; on && n < count; on &= on - 1) {
            mc->hand = (uint8_t)(w * 64 + bits_lowest(on));
            blocks[n++] = take_out(mc, mc->hand);
        }
    }
    if (n < count && mc->front.block) {
        blocks[n++] = mc->front.block;
        mc->front.block = NULL;
    }
    mc->refills = 0;
    if (n) mc->touched_seen = medium_give(medium_range_of(blocks[0])->owner, blocks, n);
    return n > 0;
}

/* Blocks were given back and asked for again: may more of them be kept? */
static bool grow(medium_cache *mc, uint32_t threads)
{
    size_t share = mc->touched_seen / 16 / (threads ? threads : 1);
    size_t least = MIB / (1 + threads / 8);
    if (share < least) share = least;
    if (share > mc->bytes_most) share = mc->bytes_most;
    if (mc->refills == 0 || mc->bytes_max * 2 > share) return false;
    mc->bytes_max *= 2;
    mc->refills = 0;
    return true;
}

void medium_cache_shrink(medium_cache *mc)
{
    if (mc->bytes_max <= MEDIUM_CACHE_BYTES_FIRST || mc->bytes > MEDIUM_CACHE_BYTES_FIRST) return;
    mc->bytes_max = MEDIUM_CACHE_BYTES_FIRST;
}

bool medium_cache_put(medium_cache *mc, medium_handle *h, size_t bytes, void *block, uint32_t threads)
{
    if (medium_handle_bin(h) == MEDIUM_BIN_NONE || bytes > mc->bytes_max) return false;
    if (mc->front.block && mc->front.bytes > mc->bytes_max / 4) {
        void *last = mc->front.block;
        mc->front.block = NULL;
        mc->touched_seen = medium_give(medium_range_of(last)->owner, &last, 1);
    }
    if (mc->front.block && !medium_cache_may_file(mc, mc->front.bytes) && !grow(mc, threads))
        medium_cache_give(mc, (held(mc) + 1) / 2);
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
    mc->refills++;
    for (uint32_t i = n; --i > 0;) {
        const medium_range *r = medium_range_of(blocks[i]);
        medium_cached c = {.block = blocks[i], .handle = medium_handle_of(r, blocks[i])};
        c.bytes = (uint32_t)medium_usable(r, blocks[i], NULL);
        c.bin = (uint16_t)medium_handle_bin(c.handle);
        medium_handle_set_cached(c.handle, true);
        if (medium_cache_may_file(mc, c.bytes)) medium_cache_file(mc, &c);
        else mc->touched_seen = medium_give(m, &blocks[i], 1);
    }
    return blocks[0];
}

/* Lists, sizes and handles of the entries may be half-written; the block's own handle knows whether it is cached. */
void medium_cache_adopt(medium_cache *mc)
{
    const void *front = mc->front.block;
    for (uint32_t e = 0; e <= MEDIUM_CACHE_ENTRIES; e++) {
        medium_cached *c = e ? &mc->entry[e] : &mc->front;
        void *block = c->block;
        c->block = NULL;
        if (e && block == front) continue; /* it was on its way from the front into its bin */
        medium_range *r = block ? medium_range_of(block) : NULL;
        bool cached = false;
        if (r) medium_usable(r, block, &cached);
        if (!cached) continue;
        medium_handle_set_cached(medium_handle_of(r, block), false);
        medium_free(r->owner, block);
    }
    size_t bytes_most = mc->bytes_most;
    memset(mc, 0, sizeof *mc);
    medium_cache_init(mc, bytes_most);
}

size_t medium_cache_bytes(const medium_cache *mc) { return mc->bytes + (mc->front.block ? mc->front.bytes : 0); }

uint32_t medium_cache_blocks(const medium_cache *mc)
{
    return held(mc) + (mc->front.block != NULL);
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
    uint64_t listed[MEDIUM_CACHE_WORDS] = {0};
    for (uint32_t bin = 0; bin < MEDIUM_BINS; bin++) {
        if ((mc->bins[bin >> 6] >> (bin & 63) & 1) != (mc->head[bin] != 0)) return false;
        for (uint32_t e = mc->head[bin], prev = 0; e; prev = e, e = mc->entry[e].next) {
            const medium_cached *c = &mc->entry[e];
            if (c->bin != bin || c->prev != prev || (listed[e >> 6] >> (e & 63) & 1) || !check_cached(c)) return false;
            listed[e >> 6] |= (uint64_t)1 << (e & 63);
            bytes += c->bytes;
        }
    }
    bool ok = !mc->front.block || check_cached(&mc->front);
    for (uint32_t w = 0; w < MEDIUM_CACHE_WORDS; w++) ok = ok && listed[w] == held_in(mc, w);
    return ok && !(mc->spare[0] & 1) && bytes == mc->bytes && bytes <= mc->bytes_max;
}
