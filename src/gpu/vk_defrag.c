/* vk_defrag: plans moves over an acre_vk, and keeps the books of those under way; see acre/vulkan_stream.h, and
 * defrag.h for what is chosen.
 *
 * begin copies what it needs to know about pages and blocks into tables of its own, so that no lock is held between
 * calls and the world may change meanwhile: every block is looked at again when its turn comes. A step takes a new
 * place for each block (vk_hooks.h), which is a live block of its own until the caller says how it went:
 *
 *     planned --step--> open (block and place both live) --confirm--> swapped, the old place waits for the point
 *                                                        --reject---> the place is free, the block never moved
 *
 * A source whose block finds no place is given up: its other blocks stay, and its holes take others' blocks again. */
#include <string.h>

#include "acre/vulkan_stream.h"
#include "gpu/defrag.h"
#include "gpu/vk_hooks.h"

#define STEP_BYTES_DEFAULT ((uint64_t)16 << 20)
enum { STEP_MOVES_DEFAULT = 64, STEP_NS_DEFAULT = 500000, FILL_PERCENT_DEFAULT = 75, LOOK_MAX = 256, LOOK_OFTEN = 8 };

/* In use <=> handle != 0. */
typedef struct open_move {
    uint64_t handle, place; /* of the block, of its new place */
    uint64_t bytes;
    uint32_t serial;
} open_move;

struct acre_vk_defrag {
    acre_vk *vk;
    acre_vk_defrag_options options;
    defrag_page *pages; /* key: the vk_page, group: its vk_pool */
    uint32_t page_count, page_capacity;
    uint32_t *slots; /* begin only: hash of key -> number in pages + 1, 0 = free; at most half full */
    uint32_t slot_mask;
    defrag_block *blocks; /* key: the handle; [0, planned) shall move */
    uint32_t block_count, block_capacity;
    uint32_t planned, next;
    uint64_t given_up; /* key of the source that is given up; its blocks follow each other */
    uint32_t serial;
    uint32_t open_count;
    open_move open[ACRE_VK_DEFRAG_MOVES_MAX];
    acre_vk_defrag_result result;
};

/* --- looking ---------------------------------------------------------------------------------------------------- */

/* The page of a live block. The record of a page that is gone stays one (vk_pages.c), and while a block is live its
 * page is not gone: so what was read counts if the handle is still good afterwards. False: the block is gone. */
static bool page_of(acre_vk *vk, uint64_t handle, vk_page **page, vk_pool **pool, vk_block **block)
{
    if (vk_resolve(vk, handle, block) != ACRE_OK) return false;
    *page = VK_SEEN((*block)->page);
    if (*page == NULL) return false;
    *pool = VK_SEEN((*page)->pool);
    vk_block *again;
    return vk_resolve(vk, handle, &again) == ACRE_OK;
}

typedef struct count_of { uint64_t pages, blocks; } count_of;

static bool count_page(void *context, const acre_vk_page_info *page)
{
    count_of *count = context;
    count->pages++;
    count->blocks += page->blocks;
    return true;
}

/* Where the page is in the table, or the place for its number: 0 there. */
static uint32_t *slot_of(acre_vk_defrag *d, uint64_t key)
{
    uint32_t at = (uint32_t)(key * 0x9E3779B97F4A7C15u >> 32) & d->slot_mask;
    while (d->slots[at] != 0 && d->pages[d->slots[at] - 1].key != key) at = (at + 1) & d->slot_mask;
    return &d->slots[at];
}

static bool look_at_block(void *context, const acre_vk_block_info *info)
{
    acre_vk_defrag *d = context;
    vk_page *page;
    vk_pool *pool;
    vk_block *block;
    if (info->pool != d->options.pool || info->allocation.dedicated || info->pending) return true;
    if (!page_of(d->vk, info->allocation.handle, &page, &pool, &block) || !VK_SEEN(page->shared)) return true;

    uint64_t key = (uint64_t)(uintptr_t)page;
    uint32_t *slot = slot_of(d, key);
    if (*slot == 0) {
        if (d->page_count == d->page_capacity) return true;
        d->pages[d->page_count] =
            (defrag_page){.key = key, .group = (uint64_t)(uintptr_t)pool, .bytes = info->page_bytes};
        *slot = ++d->page_count;
    }
    defrag_page *p = &d->pages[*slot - 1];
    bool fixed = (VK_SEEN(block->flags) & (BLOCK_FIXED | BLOCK_MAPPED)) != 0 || info->map_count != 0;
    if (!fixed && d->options.movable != NULL) fixed = !d->options.movable(d->options.context, info);
    /* What is not in the table cannot move, so its page is no source. */
    if (d->block_count == d->block_capacity) fixed = true;
    p->fixed |= fixed;
    p->used_bytes += info->allocation.size;
    if (!fixed) d->blocks[d->block_count++] = (defrag_block){info->allocation.handle, key, info->allocation.size, 0};
    return true;
}

static uint64_t held_bytes(acre_vk *vk)
{
    acre_vk_stats stats;
    return acre_vk_get_stats(vk, &stats) == ACRE_OK ? stats.total.held_bytes : 0;
}

/* What nobody holds but the caches of freed blocks keeps no page in use. */
static void flush_caches(acre_vk_defrag *d)
{
    uint64_t flushed = 0;
    for (uint32_t i = 0; i < d->page_count; i++) {
        if (!d->pages[i].source || d->pages[i].group == flushed) continue;
        flushed = d->pages[i].group;
        vk_flush(d->vk, (vk_pool *)(uintptr_t)flushed, false);
    }
}

/* --- life ------------------------------------------------------------------------------------------------------- */

static void drop_tables(acre_vk_defrag *d)
{
    if (d->pages != NULL) arena_free(d->pages, d->page_capacity * sizeof *d->pages);
    if (d->blocks != NULL) arena_free(d->blocks, d->block_capacity * sizeof *d->blocks);
    if (d->slots != NULL) arena_free(d->slots, (d->slot_mask + 1) * sizeof *d->slots);
    arena_free(d, sizeof *d);
}

acre_status acre_vk_defrag_begin(acre_vk *vk, const acre_vk_defrag_options *options, acre_vk_defrag **defrag)
{
    if (vk == NULL || options == NULL || defrag == NULL) return ACRE_INVALID_ARGUMENT;
    acre_vk_defrag_options o = *options;
    if (o.step_bytes_max == 0) o.step_bytes_max = STEP_BYTES_DEFAULT;
    if (o.step_moves_max == 0) o.step_moves_max = STEP_MOVES_DEFAULT;
    if (o.step_ns_max == 0) o.step_ns_max = STEP_NS_DEFAULT;
    if (o.bytes_max == 0) o.bytes_max = UINT64_MAX;
    if (o.fill_percent_max == 0) o.fill_percent_max = FILL_PERCENT_DEFAULT;
    if (o.step_moves_max > ACRE_VK_DEFRAG_MOVES_MAX || o.fill_percent_max > 100) return ACRE_INVALID_ARGUMENT;

    acre_vk_defrag *d = arena_alloc(sizeof *d);
    if (d == NULL) return ACRE_NO_MEMORY;
    d->vk = vk;
    d->options = o;
    d->result.bytes_before = held_bytes(vk);
    count_of count = {0, 0};
    acre_status status = acre_vk_walk_pages(vk, count_page, &count);
    if (status == ACRE_OK && (count.pages > UINT32_MAX / 2 || count.blocks > UINT32_MAX / 4)) status = ACRE_NO_MEMORY;
    if (status == ACRE_OK) {
        /* Some more than there are: others allocate meanwhile. */
        d->page_capacity = (uint32_t)count.pages + 8;
        d->block_capacity = (uint32_t)(count.blocks + count.blocks / 16) + 64;
        d->pages = arena_alloc(d->page_capacity * sizeof *d->pages);
        d->blocks = arena_alloc(d->block_capacity * sizeof *d->blocks);
        d->slot_mask = (uint32_t)power_of_two_at_least(2 * (uint64_t)d->page_capacity) - 1;
        d->slots = arena_alloc((d->slot_mask + 1) * sizeof *d->slots);
        bool all = d->pages != NULL && d->blocks != NULL && d->slots != NULL;
        status = all ? acre_vk_walk(vk, look_at_block, d) : ACRE_NO_MEMORY;
    }
    if (status != ACRE_OK) {
        drop_tables(d);
        return status;
    }
    const defrag_limits limits = {o.fill_percent_max, o.bytes_max};
    d->result.pages_planned = defrag_choose(d->pages, d->page_count, &limits);
    d->planned = defrag_order(d->blocks, d->block_count, d->pages, d->page_count);
    flush_caches(d);
    *defrag = d;
    return ACRE_OK;
}

/* --- steps ------------------------------------------------------------------------------------------------------ */

static bool is_closed(void *context, const vk_page *page)
{
    acre_vk_defrag *d = context;
    const defrag_page *p = defrag_find(d->pages, d->page_count, (uint64_t)(uintptr_t)page);
    return p != NULL && p->source;
}

static uint64_t keep_open(acre_vk_defrag *d, uint64_t handle, uint64_t place, uint64_t bytes)
{
    uint32_t at = 0;
    while (d->open[at].handle != 0) at++;
    d->open[at] = (open_move){handle, place, bytes, ++d->serial};
    d->open_count++;
    return (uint64_t)d->serial << 32 | (at + 1);
}

static open_move *open_of(acre_vk_defrag *d, uint64_t id)
{
    uint32_t at = (uint32_t)id - 1;
    if (at >= ACRE_VK_DEFRAG_MOVES_MAX || d->open[at].handle == 0 || d->open[at].serial != id >> 32) return NULL;
    return &d->open[at];
}

static void close_move(acre_vk_defrag *d, open_move *m)
{
    m->handle = 0;
    d->open_count--;
}

typedef struct step_state {
    vk_pool *pool;
    vk_aside aside;
    uint64_t bytes, deadline_ns;
} step_state;

static void give_up(acre_vk_defrag *d, uint64_t key)
{
    defrag_page *p = defrag_find(d->pages, d->page_count, key);
    if (p != NULL) p->source = false;
    d->given_up = key;
    d->result.dropped++;
}

/* One planned block. True: *move is a move. */
static bool plan_move(acre_vk_defrag *d, step_state *step, const defrag_block *planned, acre_vk_move *move)
{
    if (planned->page == d->given_up) {
        d->result.dropped++;
        return false;
    }
    acre_vk_block_info info;
    vk_page *page;
    vk_pool *pool;
    vk_block *block;
    if (acre_vk_get_info(d->vk, planned->key, &info) != ACRE_OK || info.map_count != 0 ||
        !page_of(d->vk, planned->key, &page, &pool, &block) || (uint64_t)(uintptr_t)page != planned->page) {
        d->result.dropped++;
        return false;
    }
    if (step->pool != pool) {
        vk_place_end(d->vk, step->pool, &step->aside);
        step->pool = pool;
    }
    acre_vk_allocation place;
    acre_status status =
        vk_place_like(d->vk, planned->key, is_closed, d, step->aside.count + LOOK_MAX, &step->aside, &place);
    if (status != ACRE_OK) {
        if (status == ACRE_NO_MEMORY)
            give_up(d, planned->page);
        else
            d->result.dropped++;
        return false;
    }
    *move = (acre_vk_move){
        .id = keep_open(d, planned->key, place.handle, info.allocation.size),
        .handle = planned->key,
        .tag = info.tag,
        .category = info.category,
        .from = info.allocation,
        .to = place,
        .bytes = info.allocation.size,
    };
    step->bytes += move->bytes;
    return true;
}

acre_status acre_vk_defrag_step(acre_vk_defrag *defrag, acre_vk_move *moves, uint32_t capacity, uint32_t *count)
{
    if (defrag == NULL || moves == NULL || count == NULL || capacity == 0) return ACRE_INVALID_ARGUMENT;
    acre_vk_defrag *d = defrag;
    uint32_t room = ACRE_VK_DEFRAG_MOVES_MAX - d->open_count, made = 0;
    if (room == 0) return ACRE_BUSY;
    if (capacity > room) capacity = room;
    if (capacity > d->options.step_moves_max) capacity = d->options.step_moves_max;
    step_state step = {.deadline_ns = os_now_ns() + d->options.step_ns_max};
    for (uint32_t looked = 0; d->next < d->planned && made < capacity; looked++) {
        const defrag_block *planned = &d->blocks[d->next];
        if (made > 0 && step.bytes + planned->bytes > d->options.step_bytes_max) break;
        if (made > 0 && looked % LOOK_OFTEN == 0 && os_now_ns() > step.deadline_ns) break;
        d->next++;
        made += plan_move(d, &step, planned, &moves[made]);
    }
    vk_place_end(d->vk, step.pool, &step.aside);
    *count = made;
    return ACRE_OK;
}

acre_status acre_vk_defrag_confirm(acre_vk_defrag *defrag, uint64_t id, acre_vk_point point)
{
    open_move *m = defrag != NULL ? open_of(defrag, id) : NULL;
    if (m == NULL || (vk_point_is_set(&point) && !vk_point_is_valid(defrag->vk, &point))) return ACRE_INVALID_ARGUMENT;
    acre_vk *vk = defrag->vk;
    acre_status swapped = acre_vk_swap(vk, m->handle, m->place);
    /* Swapped: the place's handle names where the block was. If not, it names the copy that nobody needs; either is in
     * the GPU's hands until the point. */
    acre_status freed = vk_free_cold(vk, m->place, point);
    if (freed == ACRE_NO_MEMORY) {
        if (swapped == ACRE_OK) (void)acre_vk_swap(vk, m->handle, m->place);
        return freed;
    }
    if (swapped == ACRE_OK) {
        defrag->result.moves++;
        defrag->result.bytes_moved += m->bytes;
    } else {
        defrag->result.dropped++;
    }
    close_move(defrag, m);
    return swapped != ACRE_OK ? swapped : freed;
}

acre_status acre_vk_defrag_reject(acre_vk_defrag *defrag, uint64_t id)
{
    open_move *m = defrag != NULL ? open_of(defrag, id) : NULL;
    if (m == NULL) return ACRE_INVALID_ARGUMENT;
    acre_status status = vk_free_cold(defrag->vk, m->place, (acre_vk_point){0});
    defrag->result.rejected++;
    close_move(defrag, m);
    return status;
}

void acre_vk_defrag_end(acre_vk_defrag *defrag, acre_vk_defrag_result *result)
{
    if (defrag == NULL) return;
    acre_vk_defrag *d = defrag;
    for (uint32_t i = 0; i < ACRE_VK_DEFRAG_MOVES_MAX; i++)
        if (d->open[i].handle != 0) acre_vk_defrag_reject(d, (uint64_t)d->open[i].serial << 32 | (i + 1));
    flush_caches(d);
    for (uint32_t i = 0; i < d->page_count; i++) {
        const defrag_page *p = &d->pages[i];
        if (!p->source) continue;
        d->result.pages_emptied += !vk_page_in_use((vk_pool *)(uintptr_t)p->group, (vk_page *)(uintptr_t)p->key);
    }
    d->result.bytes_now = held_bytes(d->vk);
    if (result != NULL) *result = d->result;
    drop_tables(d);
}
