/* medium: see medium.h. */
#include "alloc/medium_inside.h"

#include <string.h>

#include "page/arena.h"
#include "page/fill.h"
#include "page/resident.h"

static const struct tier {
    uint32_t granule_log2;
    uint32_t unit_log2; /* every block is larger than a unit, so at most one starts in each */
    size_t size_max;
} tiers[MEDIUM_TIERS] = {
    {8, 12, 128 * KIB},
    {12, 17, 1 * MIB},
    {16, 20, MEDIUM_SIZE_MAX},
};

static uint32_t tier_of(size_t bytes) { return bytes <= tiers[0].size_max ? 0 : bytes <= tiers[1].size_max ? 1 : 2; }

static size_t smallest_block(uint32_t t)
{
    return ((size_t)1 << tiers[t].unit_log2) + ((size_t)1 << tiers[t].granule_log2);
}

void medium_tier(uint32_t t, size_t *size_max, size_t *granule)
{
    *size_max = tiers[t].size_max;
    *granule = (size_t)1 << tiers[t].granule_log2;
}

/* Holes below this size stay when there is too much memory under holes: giving them back would cost more calls. */
#define PURGE_HOLE_BYTES (256 * KIB)

void medium_init(medium *m, void *heap, const acre_provider *provider, account *acc, page_policy policy,
                 bool single_thread, size_t named_align)
{
    memset(m, 0, sizeof *m);
    m->heap = heap;
    m->provider = provider;
    m->account = acc;
    m->policy = policy;
    m->single_thread = single_thread ? os_thread_id() : 0;
    m->named_align_log2 = named_align > 1 ? (uint8_t)bits_highest(named_align) : 0;
}

/* --- ranges ----------------------------------------------------------------------------------------------------- */

static void *nodes_grow(void *context, unsigned part, void *old, size_t old_bytes, size_t new_bytes)
{
    (void)old, (void)old_bytes;
    medium_range *r = context;
    char *at = r->nodes_at + part * r->node_part_bytes;
    return new_bytes <= r->node_part_bytes && arena_commit(at, new_bytes) ? at : NULL;
}

static void release_range(medium_range *r)
{
    coalesce_destroy(&r->core);
    space_give(r->base);
    arena_release(r->tables, r->table_bytes);
    arena_free(r, sizeof *r);
}

static medium_range *add_range(medium *m, uint32_t t)
{
    medium_range *r = arena_alloc(sizeof *r);
    if (!r) return NULL;
    uint32_t regions = (uint32_t)(MEDIUM_RANGE_BYTES / region_bytes());
    if (regions > the_space.region_count / 10) regions = the_space.region_count / 10;
    if (regions == 0) regions = 1;
    r->base = space_take(SPACE_BLOCKS, regions, REGION_MEDIUM, r);
    if (!r->base && regions > 1) r->base = space_take(SPACE_BLOCKS, regions = 1, REGION_MEDIUM, r);
    if (!r->base) goto free_range;
    r->owner = m;
    r->tier = t;
    r->bytes = regions * region_bytes();
    r->granule_log2 = tiers[t].granule_log2;
    r->unit_log2 = tiers[t].unit_log2;
    r->unit_mask = ((size_t)1 << r->unit_log2) - 1;

    size_t units = (r->bytes >> r->unit_log2) + 1;
    size_t handle_bytes = align_up(units * sizeof *r->handle, ACRE_CACHE_LINE);
    size_t page_bytes = align_up(pages_in(r->bytes) * sizeof *r->pages, ACRE_CACHE_LINE);
    size_t touched_bytes = align_up((r->bytes >> CHUNK_SHIFT) / 8 + 8, ACRE_CACHE_LINE);
    size_t head_bytes = align_up(page_bytes + 2 * touched_bytes + handle_bytes, os_page_bytes());
    /* Nodes with their links: blocks and the holes between them, and the core's table of sizes in front. */
    size_t nodes = align_up(2 * (units + 1), COALESCE_GROUP);
    r->node_part_bytes = nodes * (sizeof(coalesce_node) + sizeof(hole_links)) + 192 * KIB;
    r->node_part_bytes = align_up(r->node_part_bytes, os_page_bytes());
    uint32_t parts = m->named_align_log2 > r->granule_log2 ? 2 : 1;
    r->table_bytes = head_bytes + parts * r->node_part_bytes;
    r->tables = arena_reserve(r->table_bytes);
    if (!r->tables) goto give_space;
    if (!arena_commit(r->tables, head_bytes)) goto release_tables;
    r->pages = r->tables;
    r->touched = (uint64_t *)(void *)((char *)r->tables + page_bytes);
    r->handle = (medium_handle *)(void *)((char *)r->tables + page_bytes + 2 * touched_bytes);
    r->recent = r->touched + touched_bytes / sizeof *r->touched;
    r->nodes_at = (char *)r->tables + head_bytes;

    coalesce_options options = {.memory = {r, nodes_grow, NULL}, .exact_sizes = 1024};
    options.capacity_later = (uint32_t)(r->bytes >> r->granule_log2);
    if (parts == 2) options.extra_align_log2[0] = (uint8_t)(m->named_align_log2 - r->granule_log2);
    if (!coalesce_init(&r->core, &options)) goto release_tables;
    r->next = m->ranges[t];
    m->ranges[t] = r;
    return r;

release_tables:
    arena_release(r->tables, r->table_bytes);
give_space:
    space_give(r->base);
free_range:
    arena_free(r, sizeof *r);
    return NULL;
}

/* Extends the range space by space until the block fits or the range is used up; 0: it does not fit. */
static uint32_t grow_range(medium_range *r, uint32_t granules, unsigned align_log2)
{
    uint32_t space = (uint32_t)(MEDIUM_SPACE_BYTES >> r->granule_log2), end = (uint32_t)(r->bytes >> r->granule_log2);
    while (r->core.capacity < end) {
        uint32_t left = end - r->core.capacity, offset;
        if (!coalesce_extend(&r->core, r->core.capacity + (left < space ? left : space))) return 0;
        uint32_t node = coalesce_alloc(&r->core, granules, align_log2, &offset);
        if (node) return node;
    }
    return 0;
}

/* Makes a node in one of the tier's ranges; 0: no room or no memory. */
static uint32_t find_room(medium *m, uint32_t t, uint32_t granules, unsigned align_log2, medium_range **range)
{
    uint32_t offset, node;
    for (medium_range *r = *range = m->ranges[t]; r; r = *range = r->next)
        if ((node = coalesce_alloc(&r->core, granules, align_log2, &offset)) != 0) return node;
    for (medium_range *r = *range = m->ranges[t]; r; r = *range = r->next)
        if ((node = grow_range(r, granules, align_log2)) != 0) return node;
    /* A range that could not hold the block even when empty would be of no use. */
    medium_range *r = *range = add_range(m, t);
    if (!r || (node = grow_range(r, granules, align_log2)) != 0) return r ? node : 0;
    m->ranges[t] = r->next;
    release_range(r);
    return 0;
}

/* --- pages ------------------------------------------------------------------------------------------------------ */

static void empty_push(medium *m, medium_page *page, uint32_t now)
{
    page->emptied_ms = now;
    page->listed = 1;
    page->prev = NULL;
    page->next = m->empty_head;
    if (m->empty_head) m->empty_head->prev = page;
    else m->empty_tail = page;
    m->empty_head = page;
    m->cached += MEDIUM_PAGE_BYTES;
}

static void empty_remove(medium *m, medium_page *page)
{
    if (page->prev) page->prev->next = page->next;
    else m->empty_head = page->next;
    if (page->next) page->next->prev = page->prev;
    else m->empty_tail = page->prev;
    page->listed = 0;
    m->cached -= MEDIUM_PAGE_BYTES;
}

static bool is_touched(const medium_range *r, size_t at)
{
    return (r->touched[at >> (CHUNK_SHIFT + 6)] >> ((at >> CHUNK_SHIFT) & 63)) & 1;
}

/* Forgets that the 64 KiB pieces of [from, to) were touched; returns the bytes that had been. */
static size_t untouch(medium_range *r, size_t from, size_t to)
{
    size_t bytes = 0;
    for (size_t i = from >> CHUNK_SHIFT; i < to >> CHUNK_SHIFT; i++) {
        uint64_t bit = (uint64_t)1 << (i & 63);
        if (r->touched[i >> 6] & bit) bytes += CHUNK_BYTES;
        r->touched[i >> 6] &= ~bit;
    }
    r->owner->touched -= bytes;
    resident_sub(bytes);
    return bytes;
}

static void fill_page(medium_range *r, size_t page, enum fill_value value)
{
    size_t start = page << MEDIUM_PAGE_SHIFT;
    memset(r->base + start, (int)value, page_end(r, page) - start);
}

static void leave_pages(medium *m, medium_range *r, size_t from, size_t to)
{
    uint32_t now = (uint32_t)os_now_ms();
    for (size_t i = from >> MEDIUM_PAGE_SHIFT; i <= (to - 1) >> MEDIUM_PAGE_SHIFT; i++)
        if (--r->pages[i].live == 0) {
            if (m->policy.fill) fill_page(r, i, FILL_MEMORY_DEALLOCATED);
            empty_push(m, &r->pages[i], now);
        }
}

/* One more block touches the pages of [from, to). False: a provider refused, nothing has changed. */
static bool enter_pages(medium *m, medium_range *r, size_t from, size_t to)
{
    size_t first = from >> MEDIUM_PAGE_SHIFT, last = (to - 1) >> MEDIUM_PAGE_SHIFT;
    for (size_t i = first; i <= last; i++) {
        medium_page *page = &r->pages[i];
        if (!page->committed) {
            size_t start = i << MEDIUM_PAGE_SHIFT, bytes = page_end(r, i) - start;
            if (!provider_commit(m->provider, r->base + start, bytes)) {
                if (i > first) leave_pages(m, r, from, i << MEDIUM_PAGE_SHIFT);
                return false;
            }
            page->committed = 1;
            m->committed += MEDIUM_PAGE_BYTES;
            if (m->policy.fill) fill_page(r, i, FILL_MEMORY_ALLOCATED);
        } else if (page->listed) {
            empty_remove(m, page);
        }
        page->live++;
    }
    return true;
}

static medium_range *range_of_page(medium *m, const medium_page *page)
{
    for (uint32_t t = 0; t < MEDIUM_TIERS; t++)
        for (medium_range *r = m->ranges[t]; r; r = r->next)
            if (page >= r->pages && page < r->pages + pages_in(r->bytes)) return r;
    return NULL;
}

/* An empty page goes back. False: the provider would not have it. */
static bool decommit_page(medium *m, medium_page *page)
{
    medium_range *r = range_of_page(m, page);
    size_t i = (size_t)(page - r->pages), start = i << MEDIUM_PAGE_SHIFT, end = page_end(r, i);
    if (!provider_decommit(m->provider, r->base + start, end - start)) return false;
    empty_remove(m, page);
    page->committed = 0;
    m->committed -= MEDIUM_PAGE_BYTES;
    m->given_back += untouch(r, start, end);
    return true;
}

/* Oldest first, `most` of them; those of tier `but` stay (MEDIUM_TIERS: none does). */
static void give_back(medium *m, size_t keep_bytes, uint32_t now, uint32_t delay_ms, unsigned most, uint32_t but)
{
    enum { PASSED_MAX = 8 };
    unsigned passed = 0;
    for (medium_page *page = m->empty_tail, *before; page && most > 0; page = before) {
        before = page->prev;
        if (m->cached <= keep_bytes && (uint32_t)(now - page->emptied_ms) < delay_ms) return;
        if (but < MEDIUM_TIERS && range_of_page(m, page)->tier == but) {
            if (++passed == PASSED_MAX) return;
            continue;
        }
        most--;
        if (decommit_page(m, page)) continue;
        empty_remove(m, page); /* not now: try again after the others */
        empty_push(m, page, now);
        return;
    }
}

static void count_used(medium *m, size_t more, size_t less)
{
    m->used += more - less;
    if (m->used > m->used_peak) m->used_peak = m->used;
}

/* --- blocks ----------------------------------------------------------------------------------------------------- */

uint32_t medium_node(const medium_range *r, const void *p)
{
    return live_word(r, p) ? handle_node(medium_handle_of(r, p)) : 0;
}

/* Files a block under its node and its size. */
static void set_handle(medium_range *r, size_t from, uint32_t node, size_t bytes, const void *site)
{
    medium_handle *h = &r->handle[from >> r->unit_log2];
    uint32_t bin = medium_round(bytes) == bytes ? medium_bin(bytes) : MEDIUM_BIN_NONE;
    h->node = bin << MEDIUM_NODE_BITS | node;
    uint32_t word = block_word(r, from, bytes) | (site ? MEDIUM_SITED : 0);
    atomic_store_explicit(&h->block, word, memory_order_relaxed);
}

size_t medium_usable(const medium_range *r, const void *p, bool *cached)
{
    uint32_t word = live_word(r, p);
    if (cached) *cached = (word & MEDIUM_CACHED) != 0;
    return (size_t)(word >> MEDIUM_GRANULES_SHIFT) << r->granule_log2;
}

const void *medium_block_site(medium_range *r, const void *p)
{
    enter(r->owner);
    uint32_t node = medium_node(r, p);
    const void *site = node ? medium_site(r, node) : NULL;
    leave(r->owner);
    return site;
}

/* Clears those 64 KiB pieces of the block that were touched before; `touched` holds their old bits from `from` on. */
static void clear_touched(char *base, size_t from, size_t to, const uint64_t *touched)
{
    size_t first_word = from >> (CHUNK_SHIFT + 6);
    for (size_t at = from; at < to;) {
        size_t i = at >> CHUNK_SHIFT, end = (i + 1) << CHUNK_SHIFT;
        if (end > to) end = to;
        if ((touched[(i >> 6) - first_word] >> (i & 63)) & 1) memset(base + at, 0, end - at);
        at = end;
    }
}

/* The bits of word w that stand for 64 KiB pieces first … last. */
static uint64_t pieces_mask(size_t w, size_t first, size_t last)
{
    uint64_t mask = ~(uint64_t)0;
    if (w == first >> 6) mask &= ~bits_mask(first & 63);
    if (w == last >> 6) mask &= bits_mask((last & 63) + 1);
    return mask;
}

/* Saves the touched bits of [from, to) (into `old` when it is not NULL), then sets them. */
static void touch(medium_range *r, size_t from, size_t to, uint64_t *old)
{
    size_t first = from >> CHUNK_SHIFT, last = (to - 1) >> CHUNK_SHIFT;
    uint32_t fresh = 0;
    for (size_t w = first >> 6; w <= last >> 6; w++) {
        if (old) old[w - (first >> 6)] = r->touched[w];
        uint64_t mask = pieces_mask(w, first, last), missing = mask & ~r->touched[w];
        r->recent[w] |= mask;
        if (!missing) continue;
        fresh += bits_count(missing);
        r->touched[w] |= mask;
    }
    if (!fresh) return;
    r->owner->touched += (size_t)fresh << CHUNK_SHIFT;
    resident_add((size_t)fresh << CHUNK_SHIFT);
}

/* Did a block lie on this piece since the last look? Forgets it. */
static bool take_recent(medium_range *r, size_t at)
{
    uint64_t bit = (uint64_t)1 << ((at >> CHUNK_SHIFT) & 63), *word = &r->recent[at >> (CHUNK_SHIFT + 6)];
    bool was = (*word & bit) != 0;
    *word &= ~bit;
    return was;
}

/* The touched 64 KiB pieces of a hole go back while the pages around them stay. */
static size_t purge_hole(medium *m, medium_range *r, size_t from, size_t to)
{
    size_t bytes = 0;
    from = align_up(from, CHUNK_BYTES);
    to = align_down(to, CHUNK_BYTES);
    for (size_t at = from, end; at < to; at = end + CHUNK_BYTES) { /* what ends a run is not touched */
        for (end = at; end < to && is_touched(r, end);) end += CHUNK_BYTES;
        if (end > at && provider_decommit(m->provider, r->base + at, end - at) &&
            provider_commit(m->provider, r->base + at, end - at))
            bytes += untouch(r, at, end);
    }
    return bytes;
}

/* Likewise, but not those that a block has lain on since the last look, which forgets that one did, and `most` bytes at
 * most. *looked: where it stopped. */
static size_t purge_old(medium *m, medium_range *r, size_t from, size_t to, size_t most, size_t *looked)
{
    size_t bytes = 0, at = align_up(from, CHUNK_BYTES), run = at;
    to = align_down(to, CHUNK_BYTES);
    for (;; at += CHUNK_BYTES) {
        if (at < to && bytes + (at - run) < most && is_touched(r, at) && !take_recent(r, at)) continue;
        if (at > run) bytes += purge_hole(m, r, run, at);
        if (at >= to || bytes >= most) break;
        run = at + CHUNK_BYTES;
    }
    *looked = at;
    return bytes;
}

static bool can_purge_holes(const medium *m)
{
    return provider_can(m->provider, ACRE_CAN_DECOMMIT) && provider_page_bytes(m->provider) <= CHUNK_BYTES;
}

/* Would a block there be the first on one of its 64 KiB pieces? */
static bool is_fresh(const medium_range *r, size_t from, size_t to)
{
    size_t first = from >> CHUNK_SHIFT, last = (to - 1) >> CHUNK_SHIFT;
    for (size_t w = first >> 6; w <= last >> 6; w++)
        if (pieces_mask(w, first, last) & ~r->touched[w]) return true;
    return false;
}

/* The block is a hole from now on, merged with its neighbours; returns it. */
static uint32_t release_block(medium *m, medium_range *r, void *p)
{
    size_t from = (size_t)((char *)p - r->base);
    uint32_t node = medium_node(r, p);
    size_t size = medium_block_bytes(r, node);
    atomic_store_explicit(&medium_handle_of(r, p)->block, 0, memory_order_relaxed);
    uint32_t hole = coalesce_free(&r->core, node);
    leave_pages(m, r, from, from + size);
    account_credit(m->account, size);
    return hole;
}

/* --- quick lists ------------------------------------------------------------------------------------------------ */

enum { QUICK_BLOCKS = 1024, QUICK_MERGE = 64 }; /* resting at most; merged in one go at most: 5 µs */

/* A block whose cached bit is set begins to rest. */
static void rest(medium *m, medium_range *r, medium_handle *h, void *p)
{
    medium_quick *q = &m->quick;
    uint32_t bin = medium_handle_bin(h), node = handle_node(h);
    coalesce_set_tag(&r->core, node, (uint64_t)(uintptr_t)q->head[bin]);
    q->head[bin] = p;
    q->bins[bin >> 6] |= (uint64_t)1 << (bin & 63);
    q->bytes += handle_bytes(r, h);
    q->count++;
}

/* The block that rests in this bin since last; it is live now. There is one. */
static void *wake(medium *m, uint32_t bin)
{
    medium_quick *q = &m->quick;
    void *p = q->head[bin];
    medium_range *r = medium_range_of(p);
    medium_handle *h = medium_handle_of(r, p);
    void *next = (void *)(uintptr_t)coalesce_tag(&r->core, handle_node(h));
    coalesce_set_tag(&r->core, handle_node(h), 0);
    q->head[bin] = next;
    if (!next) q->bins[bin >> 6] &= ~((uint64_t)1 << (bin & 63));
    size_t from = (size_t)((char *)p - r->base), bytes = handle_bytes(r, h);
    for (size_t i = from >> CHUNK_SHIFT; i <= (from + bytes - 1) >> CHUNK_SHIFT; i++)
        r->recent[i >> 6] |= (uint64_t)1 << (i & 63); /* as for a block that was just cut */
    q->bytes -= bytes;
    q->count--;
    medium_handle_set_cached(h, false);
    return p;
}

/* The blocks in hot places are holes from now on. */
static void merge_hot(medium *m)
{
    for (int i = 0; i < MEDIUM_HOT; i++) {
        if (!atomic_load_explicit(&m->quick.hot[i], memory_order_relaxed)) continue;
        void *p = atomic_exchange_explicit(&m->quick.hot[i], NULL, memory_order_acquire);
        if (!p) continue;
        medium_range *r = medium_range_of(p);
        count_used(m, 0, handle_bytes(r, medium_handle_of(r, p)));
        release_block(m, r, p);
    }
}

/* Merges the hot blocks, and up to `most` of those in the lists, the largest sizes first. */
static void merge_resting(medium *m, uint32_t most)
{
    medium_quick *q = &m->quick;
    merge_hot(m);
    for (uint32_t w = (MEDIUM_BINS + 63) / 64; w-- > 0 && most > 0;)
        while (q->bins[w] && most > 0) {
            void *p = wake(m, w * 64 + bits_highest(q->bins[w]));
            release_block(m, medium_range_of(p), p);
            most--;
        }
}

/* How much may rest. It is fragmentation as long as it does (a heap of buffers got 9% larger where 1,024 blocks rested
 * without regard to bytes, 4% with this), but where most of the memory is free anyway there is nothing to be lost. */
static size_t resting_max(const medium *m)
{
    size_t idle = m->touched > m->used ? m->touched - m->used : 0;
    size_t most = MIB + m->used / 16 + (idle > m->used ? idle - m->used : 0);
    return most < m->policy.cache_bytes_max ? most : m->policy.cache_bytes_max;
}

/* Blocks came back: is too much kept, or is it time to look at what is? */
static void mind_what_is_kept(medium *m, uint32_t added)
{
    enum { LOOK_EVERY = 32, PAGES = 8 };
    size_t most = m->policy.cache_bytes_max;
    if (m->quick.count > QUICK_BLOCKS || m->quick.bytes > resting_max(m)) merge_resting(m, QUICK_MERGE);
    bool over = m->cached > most;
    if (!over && m->frees / LOOK_EVERY == (m->frees - added) / LOOK_EVERY) return;
    uint64_t now = os_now_ms();
    bool due = now - m->checked_ms >= m->policy.delay_ms / 8;
    if (!over && !due) return;
    if (due) merge_resting(m, QUICK_MERGE);
    m->checked_ms = now;
    /* A page takes 0.15 ms: no more than one, unless a limit was set. */
    give_back(m, most, (uint32_t)now, m->policy.delay_ms, over ? PAGES : 1, MEDIUM_TIERS);
}

size_t medium_give(medium *m, void *const *blocks, uint32_t count)
{
    enter(m);
    for (uint32_t i = 0; i < count; i++) {
        medium_range *r = medium_range_of(blocks[i]);
        medium_handle *h = medium_handle_of(r, blocks[i]);
        count_used(m, 0, handle_bytes(r, h));
        if (m->policy.fill || r->tier > 0) release_block(m, r, blocks[i]);
        else rest(m, r, h, blocks[i]);
    }
    m->frees += count;
    mind_what_is_kept(m, count);
    size_t touched = m->touched;
    leave(m);
    return touched;
}

/* --- allocating and freeing ------------------------------------------------------------------------------------- */

/* A node for the block, best fit; 0: no room. Blocks over 128 KiB are fitted with no block in a hot place: whatever is
 * asked for but the very sizes that lie there is best placed when those are holes (28% less memory for 5-25 MiB). Of
 * smaller ones what nothing has touched is taken last: holes that resting blocks leave come first. */
static uint32_t take_node(medium *m, uint32_t t, uint32_t granules, unsigned align_log2, medium_range **range)
{
    if (t > 0) merge_hot(m);
    uint32_t node = find_room(m, t, granules, align_log2, range);
    if (t > 0 || m->quick.count == 0) return node;
    if (node) {
        medium_range *r = *range;
        size_t from = (size_t)coalesce_offset(&r->core, node) << r->granule_log2;
        if (!is_fresh(r, from, from + medium_block_bytes(r, node))) return node;
        coalesce_free(&r->core, node);
    }
    merge_resting(m, UINT32_MAX);
    return find_room(m, t, granules, align_log2, range);
}

static void *alloc_merged(medium *m, size_t size, size_t align, const void *site, uint64_t *old_touched, size_t *at)
{
    uint32_t t = tier_of(size);
    uint32_t granule_log2 = tiers[t].granule_log2;
    unsigned align_log2 = align > ((size_t)1 << granule_log2) ? bits_highest(align) - granule_log2 : 0;
    if (!account_charge(m->account, size)) {
        merge_resting(m, UINT32_MAX); /* what rests counts as held, hot blocks as well */
        if (!account_charge(m->account, size)) return NULL;
    }
    medium_range *r;
    uint32_t node = take_node(m, t, (uint32_t)(size >> granule_log2), align_log2, &r);
    if (node == 0) goto credit;
    size_t from = (size_t)coalesce_offset(&r->core, node) << granule_log2;
    if (!enter_pages(m, r, from, from + size)) {
        coalesce_free(&r->core, node);
        goto credit;
    }
    touch(r, from, from + size, old_touched);
    set_handle(r, from, node, size, site);
    if (site) coalesce_set_tag(&r->core, node, (uint64_t)(uintptr_t)site);
    *at = from;
    return r->base + from;
credit:
    account_credit(m->account, size);
    return NULL;
}

/* Memory for the untouched 64 KiB pieces that a small block is the first on: others will follow it there, and all at
 * once costs less than a page fault each. Only where a heap is large enough for a piece to be nothing. Without the
 * lock; `touched` is of alloc_merged. */
static void populate(const medium *m, char *p, size_t size, size_t from, const uint64_t *touched, size_t held)
{
    enum { SHARE = 32 };
    bool may = size <= m->policy.populate_bytes && m->provider == acre_provider_flexible();
    if (!may || held < SHARE * CHUNK_BYTES) return;
    size_t first = from >> CHUNK_SHIFT, last = (from + size - 1) >> CHUNK_SHIFT;
    for (size_t i = first; i <= last; i++)
        if (!(touched[(i >> 6) - (first >> 6)] >> (i & 63) & 1))
            os_populate(p - from + (i << CHUNK_SHIFT), CHUNK_BYTES);
}

/* Makes a new block read zero. `touched` is of alloc_merged; NULL: it rested. */
static void clear_block(const medium *m, char *p, size_t bytes, size_t from, const uint64_t *touched)
{
    bool comes_zeroed = provider_can(m->provider, ACRE_COMES_ZEROED) && !m->policy.fill;
    if (touched && comes_zeroed) clear_touched(p - from, from, from + bytes, touched);
    else memset(p, 0, bytes);
}

/* A block (blocks[0]) and, if it rested, up to count - 1 more of its size that do. */
static uint32_t take(medium *m, size_t bytes, size_t align, bool zero, const void *site, bool may_have_rested,
                     void **blocks, uint32_t count)
{
    size_t size = medium_round(bytes), from = 0;
    uint32_t n = 0;
    uint64_t old_touched[MEDIUM_SIZE_MAX / CHUNK_BYTES / 64 + 2];
    enter(m);
    uint32_t bin = may_have_rested ? medium_near_bin(m->quick.bins, medium_bin(size)) : MEDIUM_BIN_NONE;
    bool rests = bin != MEDIUM_BIN_NONE;
    if (rests) {
        size = medium_usable(medium_range_of(m->quick.head[bin]), m->quick.head[bin], NULL);
        while (n < count && m->quick.head[bin]) blocks[n++] = wake(m, bin);
    } else if ((blocks[0] = alloc_merged(m, size, align, site, old_touched, &from)) != NULL) {
        n = 1;
    }
    m->allocs += n;
    count_used(m, n * size, 0);
    size_t held = m->touched;
    leave(m);
    if (n && !rests) populate(m, blocks[0], size, from, old_touched, held);
    if (n && zero) clear_block(m, blocks[0], bytes, from, rests ? NULL : old_touched);
    return n;
}

uint32_t medium_take(medium *m, size_t bytes, bool zero, void **blocks, uint32_t count)
{
    return wrong_thread(m) ? 0 : take(m, bytes, 0, zero, NULL, true, blocks, count);
}

void *medium_alloc(medium *m, size_t bytes, size_t align, bool zero, const void *site)
{
    if (bytes > MEDIUM_SIZE_MAX || align > region_bytes() || wrong_thread(m)) return NULL;
    /* Any block is aligned to 256 bytes. A budget that was lowered refuses what rests, too. */
    bool may_have_rested = align <= 256 && !site && account_has_room(m->account, 0);
    void *block;
    return take(m, bytes, align, zero, site, may_have_rested, &block, 1) ? block : NULL;
}

acre_status medium_free(medium *m, void *p)
{
    if (wrong_thread(m)) return ACRE_WRONG_THREAD;
    medium_range *r = medium_range_of(p);
    if (!r || r->owner != m) return ACRE_FOREIGN_POINTER;
    enter(m);
    medium_handle *h = medium_handle_of(r, p);
    uint32_t word = live_word(r, p);
    if (word == 0) {
        /* A block was here once, and none starts in this unit now: p is not inside of a live one. */
        bool stale = handle_node(h) && !atomic_load(&h->block);
        leave(m);
        return stale ? ACRE_DOUBLE_FREE : ACRE_FOREIGN_POINTER;
    }
    if (word & MEDIUM_CACHED) {
        leave(m);
        return ACRE_DOUBLE_FREE;
    }
    m->frees++;
    count_used(m, 0, handle_bytes(r, h));
    /* Clear values say at once that a page is empty. */
    bool may_rest = medium_handle_bin(h) != MEDIUM_BIN_NONE && !(word & MEDIUM_SITED) && !m->policy.fill &&
                    r->tier == 0;
    if (may_rest && m->touched - m->used <= m->policy.cache_bytes_max) {
        medium_handle_set_cached(h, true);
        rest(m, r, h, p);
    } else {
        /* More memory under holes than may be kept: the one that just became larger goes, unless it is small. */
        bool over = m->touched - m->used > m->policy.cache_bytes_max;
        uint32_t hole = release_block(m, r, p);
        if (over && medium_block_bytes(r, hole) >= PURGE_HOLE_BYTES && can_purge_holes(m)) {
            size_t start = (size_t)coalesce_offset(&r->core, hole) << r->granule_log2;
            m->given_back += purge_hole(m, r, start, start + medium_block_bytes(r, hole));
        }
    }
    mind_what_is_kept(m, 1);
    leave(m);
    return ACRE_OK;
}

bool medium_resize(medium *m, void *p, size_t bytes)
{
    medium_range *r = medium_range_of(p);
    if (!r || r->owner != m || wrong_thread(m) || bytes > tiers[r->tier].size_max) return false;
    if (bytes < smallest_block(r->tier)) return false; /* it would hold much more than it is asked to */
    size_t size = align_up(medium_round(bytes), (size_t)1 << r->granule_log2);
    bool ok = false;
    size_t before = 0, from = (size_t)((char *)p - r->base);
    enter(m);
    uint32_t node = medium_node(r, p);
    if (node == 0) goto out;
    before = medium_block_bytes(r, node);
    ok = size == before;
    if (ok) goto out;
    if (size > before) {
        if (!account_charge(m->account, size - before)) goto out;
        /* What rests must not make the heap larger: the next request finds it merged. */
        if (r->tier > 0) merge_hot(m);
        else if (is_fresh(r, from + before, from + size)) merge_resting(m, QUICK_MERGE);
        if (!coalesce_resize(&r->core, node, (uint32_t)(size >> r->granule_log2))) goto credit;
        /* Pages that the block did not touch yet: from the one after its last on. */
        size_t fresh = align_up(from + before, MEDIUM_PAGE_BYTES);
        if (fresh < from + size && !enter_pages(m, r, fresh, from + size)) {
            coalesce_resize(&r->core, node, (uint32_t)(before >> r->granule_log2));
            goto credit;
        }
        touch(r, from + before, from + size, NULL);
        ok = true;
        goto out;
    credit:
        account_credit(m->account, size - before);
        goto out;
    }
    ok = coalesce_resize(&r->core, node, (uint32_t)(size >> r->granule_log2));
    if (ok) {
        size_t gone = align_up(from + size, MEDIUM_PAGE_BYTES);
        if (gone < from + before) leave_pages(m, r, gone, from + before);
        account_credit(m->account, before - size);
    }
out:
    if (ok) {
        set_handle(r, from, node, size, medium_site(r, node));
        count_used(m, size, before);
    }
    leave(m);
    return ok;
}

/* --- the whole of it -------------------------------------------------------------------------------------------- */

size_t medium_trim(medium *m, size_t keep_bytes)
{
    enter(m);
    uint64_t before = m->given_back;
    merge_resting(m, UINT32_MAX);
    give_back(m, keep_bytes, (uint32_t)os_now_ms(), UINT32_MAX, UINT32_MAX, MEDIUM_TIERS);
    size_t page = provider_page_bytes(m->provider);
    for (uint32_t t = 0; t < MEDIUM_TIERS && keep_bytes == 0; t++) {
        for (medium_range **link = &m->ranges[t]; *link;) {
            medium_range *r = *link;
            if (provider_can(m->provider, ACRE_CAN_DECOMMIT) && page <= CHUNK_BYTES)
                for (uint32_t n = coalesce_first(&r->core); n; n = coalesce_next(&r->core, n))
                    if (coalesce_is_hole(&r->core, n)) {
                        size_t from = (size_t)coalesce_offset(&r->core, n) << r->granule_log2;
                        m->given_back += purge_hole(m, r, from, from + medium_block_bytes(r, n));
                    }
            /* Free spaces leave the end of the range; an empty range goes back to the space. */
            uint32_t last = coalesce_last(&r->core);
            uint32_t space = (uint32_t)(MEDIUM_SPACE_BYTES >> r->granule_log2);
            if (last && coalesce_is_hole(&r->core, last)) {
                uint32_t end = (uint32_t)align_up(coalesce_offset(&r->core, last), space);
                if (end < r->core.capacity) coalesce_shrink(&r->core, end);
            }
            bool backed = false;
            for (size_t i = 0; i < pages_in(r->bytes); i++) backed = backed || r->pages[i].committed;
            if (r->core.block_count == 0 && !backed) {
                *link = r->next;
                release_range(r);
                continue;
            }
            link = &r->next;
        }
    }
    size_t bytes = (size_t)(m->given_back - before);
    leave(m);
    return bytes;
}

/* Part of a round over the holes of a range: second chance, as in a clock. Stops when `most` nodes were looked at or
 * the medium has given back `until` bytes. Returns the nodes left. */
static uint32_t look_at_holes(medium *m, medium_range *r, uint32_t now, uint32_t delay_ms, uint32_t most,
                              uint64_t until)
{
    uint32_t n = r->look;
    if (n == 0) {
        if (now - r->round_ms < delay_ms / 2) return most;
        r->round_ms = now;
        r->looked = 0;
        n = coalesce_first(&r->core);
    } else if (n >= r->core.node_fresh || !(coalesce_is_hole(&r->core, n) || coalesce_is_used(&r->core, n))) {
        n = coalesce_first(&r->core); /* the node is gone: begin again */
    }
    for (; most > 0 && n; most--, n = coalesce_next(&r->core, n)) {
        if (!coalesce_is_hole(&r->core, n)) continue;
        size_t from = (size_t)coalesce_offset(&r->core, n) << r->granule_log2, to = from + medium_block_bytes(r, n);
        if (from < r->looked) from = r->looked;
        if (from < to) m->given_back += purge_old(m, r, from, to, until - m->given_back, &r->looked);
        if (m->given_back >= until) break; /* the node is looked at again, from there on */
    }
    r->look = n;
    return most;
}

void medium_tick(medium *m, uint32_t delay_ms, uint32_t effort, size_t growing)
{
    enum { PAGES = 1, NODES = 64, BYTES = 256 * 1024 };
    if (m->single_thread ? wrong_thread(m) : !lock_try(&m->lock)) return;
    uint64_t now = os_now_ms();
    m->checked_ms = now;
    uint32_t but = growing ? tier_of(growing) : MEDIUM_TIERS;
    merge_resting(m, QUICK_MERGE * effort);
    give_back(m, m->policy.cache_bytes_max, (uint32_t)now, delay_ms, PAGES * effort, but);
    uint32_t most = can_purge_holes(m) ? NODES * effort : 0;
    uint64_t until = m->given_back + (uint64_t)BYTES * effort;
    for (uint32_t t = 0; t < MEDIUM_TIERS; t++)
        for (medium_range *r = m->ranges[t]; t != but && r && most > 0 && m->given_back < until; r = r->next)
            most = look_at_holes(m, r, (uint32_t)now, delay_ms, most, until);
    leave(m);
}

void medium_destroy(medium *m)
{
    for (uint32_t t = 0; t < MEDIUM_TIERS; t++)
        while (m->ranges[t]) {
            medium_range *r = m->ranges[t];
            m->ranges[t] = r->next;
            for (size_t i = 0; i < pages_in(r->bytes); i++)
                if (r->pages[i].committed) {
                    size_t start = i << MEDIUM_PAGE_SHIFT;
                    provider_drop(m->provider, r->base + start, page_end(r, i) - start);
                    untouch(r, start, page_end(r, i));
                }
            account_credit(m->account, (size_t)r->core.used << r->granule_log2);
            release_range(r);
        }
    bool single = m->single_thread != 0;
    size_t named = m->named_align_log2 ? (size_t)1 << m->named_align_log2 : 0;
    medium_init(m, m->heap, m->provider, m->account, m->policy, single, named);
}
