/* coalesce: the ring in address order, splitting, merging, and the memory of the nodes. See coalesce.h for the picture,
 * hole_index.h for the size table.
 *
 * Every change has the same three steps: find out what is wanted (reads only), make sure of the nodes that it takes
 * (ensure_spare, the only step that can fail), then change ring, index and totals, which cannot fail.
 *
 * Node 0 is the sentinel: always in the ring, a gap of size 0 to its neighbours, so no end of the range is special.
 * The node that survives a merge is the lower hole; a block that is freed beside no lower hole turns into one itself. */
#include "alloc/hole_index.h"

enum {
    NODES_AT_FIRST = 96,
    EXACT_SIZES_DEFAULT = 4096,
    MEMORY_STEP_BYTES = 4096,
    ALIGN_LOG2_MAX = 31,
    /* How many holes an alignment that is not named may look at before and after it asked for a certain fit. */
    NEAR_FITS_FIRST = 8,
    NEAR_FITS_LAST = 64,
};
#define GENERATION_ONE 4u
#define GENERATION_BITS 30

/* --- node memory ------------------------------------------------------------------------------------------------ */

static size_t record_bytes(unsigned part) { return part == 0 ? sizeof(coalesce_node) : sizeof(hole_extra); }

/* A part is [words | summary | heads | nodes or links], the last one 64-byte aligned. */
static void place_part(coalesce *c, unsigned part)
{
    hole_index *x = &c->index[part];
    uint32_t words = (hole_bin_count(x->exact_sizes, x->exact_log2) >> 6) + 1;
    char *base = c->part_base[part], *records = base + c->table_bytes;
    x->words = (uint64_t *)(void *)base;
    x->summary = x->words + words;
    x->heads = (uint32_t *)(void *)(x->summary + (words >> 6) + 1);
    if (part == 0) {
        c->nodes = (coalesce_node *)(void *)records;
        x->extras = NULL;
    } else {
        x->extras = (hole_extra *)(void *)records;
    }
}

static uint32_t table_bytes_for(uint32_t exact_sizes, uint32_t exact_log2)
{
    uint32_t bins = hole_bin_count(exact_sizes, exact_log2), words = (bins >> 6) + 1;
    uint32_t bytes = words * 8 + ((words >> 6) + 1) * 8 + bins * 4;
    return (uint32_t)align_up(bytes, 64);
}

/* All parts hold `count` nodes or more, or false; parts that did grow stay grown. */
static bool grow_parts(coalesce *c, uint32_t count)
{
    uint64_t capacity = UINT32_MAX;
    for (unsigned part = 0; part < c->index_count; part++) {
        size_t record = record_bytes(part), bytes = c->table_bytes + count * record;
        if (bytes > c->part_bytes[part]) {
            bytes = align_up(bytes, MEMORY_STEP_BYTES);
            void *base = c->memory.grow(c->memory.context, part, c->part_base[part], c->part_bytes[part], bytes);
            if (base == NULL) return false;
            c->part_base[part] = base;
            c->part_bytes[part] = bytes;
            place_part(c, part);
        }
        uint64_t fit = (c->part_bytes[part] - c->table_bytes) / record;
        if (fit < capacity) capacity = fit;
    }
    c->spare_count += (uint32_t)capacity - c->node_capacity;
    c->node_capacity = (uint32_t)capacity;
    return true;
}

bool coalesce_reserve_nodes(coalesce *c, uint32_t count)
{
    return count <= c->node_capacity || (count < UINT32_MAX / 2 && grow_parts(c, count));
}

/* By half; if that is too much, by just what is needed. */
static ACRE_NOINLINE bool grow_nodes(coalesce *c, uint32_t wanted)
{
    uint32_t least = c->node_capacity + (wanted - c->spare_count);
    return coalesce_reserve_nodes(c, c->node_capacity + c->node_capacity / 2) || coalesce_reserve_nodes(c, least);
}

/* May move the nodes. */
static inline bool ensure_spare(coalesce *c, uint32_t wanted)
{
    return likely(c->spare_count >= wanted) || grow_nodes(c, wanted);
}

/* After ensure_spare. Its generation goes on from where it was. */
static inline uint32_t take_node(coalesce *c, enum coalesce_state state)
{
    uint32_t node = c->node_spare;
    c->spare_count--;
    if (likely(node != 0)) {
        c->node_spare = c->nodes[node].next;
    } else {
        node = c->node_fresh++;
        if (node >= c->node_touched) {
            c->node_touched = node + 1;
            c->nodes[node].state = 0;
        } else if ((c->nodes[node].state & 3) == COALESCE_USED) {
            c->nodes[node].state += GENERATION_ONE; /* a block that coalesce_reset forgot */
        }
    }
    c->nodes[node].state = (c->nodes[node].state & ~3u) | state;
    return node;
}

static inline void give_node(coalesce *c, uint32_t node)
{
    coalesce_node *n = &c->nodes[node];
    n->state = (n->state & ~3u) | COALESCE_SPARE;
    n->next = c->node_spare;
    c->node_spare = node;
    c->spare_count++;
}

/* --- ring and index --------------------------------------------------------------------------------------------- */

static inline void link_after(coalesce *c, uint32_t node, uint32_t before)
{
    coalesce_node *n = &c->nodes[node], *b = &c->nodes[before];
    uint32_t after = b->next;
    n->prev = before;
    n->next = after;
    b->next = node;
    c->nodes[after].prev = node;
}

static inline void unlink_node(coalesce *c, uint32_t node)
{
    uint32_t prev = c->nodes[node].prev, next = c->nodes[node].next;
    c->nodes[prev].next = next;
    c->nodes[next].prev = prev;
}

static ACRE_NOINLINE void index_extras(coalesce *c, uint32_t node)
{
    for (uint32_t i = 1; i < c->index_count; i++) {
        hole_index *x = &c->index[i];
        uint32_t usable = hole_usable(c->nodes[node].offset, c->nodes[node].size, x->align_log2);
        x->extras[node].usable = usable;
        if (usable != 0) hole_index_insert(c, x, node, false);
    }
}

static ACRE_NOINLINE void unindex_extras(coalesce *c, uint32_t node)
{
    for (uint32_t i = 1; i < c->index_count; i++)
        if (c->index[i].extras[node].usable != 0) hole_index_remove(c, &c->index[i], node, false);
}

/* Offset and size of a hole are changed only between unindex and index. */
static inline void index_hole(coalesce *c, uint32_t node)
{
    hole_index_insert(c, &c->index[0], node, true);
    if (unlikely(c->index_count > 1)) index_extras(c, node);
}

static inline void unindex_hole(coalesce *c, uint32_t node)
{
    hole_index_remove(c, &c->index[0], node, true);
    if (unlikely(c->index_count > 1)) unindex_extras(c, node);
}

/* --- finding ---------------------------------------------------------------------------------------------------- */

static bool fits(const coalesce *c, uint32_t node, uint32_t size, unsigned align_log2)
{
    return node != 0 && hole_usable(c->nodes[node].offset, c->nodes[node].size, align_log2) >= size;
}

/* Looks at up to `tries` holes with usable size >= about `size` in x, three of each bin, small ones first. */
static uint32_t near_fit(coalesce *c, hole_index *x, uint32_t size, unsigned align_log2, unsigned tries)
{
    bool plain = x->extras == NULL;
    uint32_t bin = hole_bin(x, size);
    for (; tries != 0 && (bin = hole_bin_next(x, bin)) != 0; bin++, tries--) {
        uint32_t root = x->heads[bin];
        if (fits(c, root, size, align_log2)) return root;
        const hole_links *links = hole_links_of(c, x, root, plain);
        for (int side = 0; side < 2; side++)
            if (fits(c, links->child[side], size, align_log2)) return links->child[side];
    }
    return 0;
}

static uint32_t best(coalesce *c, hole_index *x, uint32_t size)
{
    return x->extras == NULL ? hole_index_best(c, x, size, true) : hole_index_best(c, x, size, false);
}

/* A hole that holds `size` granules from its first multiple of 1 << align_log2 on. */
static ACRE_NOINLINE uint32_t find_aligned(coalesce *c, uint32_t size, unsigned align_log2)
{
    uint32_t i = c->index_count - 1;
    while (c->index[i].align_log2 > align_log2) i--;
    hole_index *below = &c->index[i];
    if (likely(below->align_log2 == align_log2)) return best(c, below, size);

    uint32_t node = near_fit(c, below, size, align_log2, NEAR_FITS_FIRST);
    uint64_t certain = (uint64_t)size + ((uint64_t)1 << align_log2) - ((uint64_t)1 << below->align_log2);
    if (node == 0 && certain <= c->capacity) node = best(c, below, (uint32_t)certain);
    if (node == 0 && i + 1 < c->index_count) node = best(c, below + 1, size);
    return node != 0 ? node : near_fit(c, below, size, align_log2, NEAR_FITS_LAST);
}

/* --- blocks ----------------------------------------------------------------------------------------------------- */

uint32_t coalesce_alloc(coalesce *c, uint32_t size, unsigned align_log2, uint32_t *offset)
{
    if (unlikely(size == 0 || size > c->capacity || align_log2 > ALIGN_LOG2_MAX)) return 0;
    uint32_t block = likely(align_log2 == 0) ? hole_index_best(c, &c->index[0], size, true)
                                             : find_aligned(c, size, align_log2);
    if (unlikely(block == 0)) return 0;
    uint32_t hole_offset = c->nodes[block].offset;
    uint32_t start = (uint32_t)align_up(hole_offset, (uint64_t)1 << align_log2);
    uint32_t lead = start - hole_offset, tail = c->nodes[block].size - lead - size;
    uint32_t pieces = (uint32_t)(lead != 0) + (uint32_t)(tail != 0);
    if (unlikely(!ensure_spare(c, pieces))) return 0;

    unindex_hole(c, block);
    if (lead != 0) {
        uint32_t hole = block;
        c->nodes[hole].size = lead;
        block = take_node(c, COALESCE_USED);
        link_after(c, block, hole);
        index_hole(c, hole);
    }
    coalesce_node *b = &c->nodes[block];
    b->offset = start;
    b->size = size;
    b->tag = 0;
    b->state = (b->state & ~3u) | COALESCE_USED;
    if (tail != 0) {
        uint32_t hole = take_node(c, COALESCE_HOLE);
        c->nodes[hole].offset = start + size;
        c->nodes[hole].size = tail;
        link_after(c, hole, block);
        index_hole(c, hole);
    }
    c->used += size;
    c->block_count++;
    c->hole_count += pieces - 1;
    *offset = start;
    return block;
}

uint32_t coalesce_free(coalesce *c, uint32_t node)
{
    coalesce_node *nodes = c->nodes, *n = &nodes[node];
    if (unlikely(node - 1 >= c->node_fresh - 1 || (n->state & 3) != COALESCE_USED)) return 0;
    uint32_t prev = n->prev, next = n->next, size = n->size;
    bool joins_prev = (nodes[prev].state & 3) == COALESCE_HOLE, joins_next = (nodes[next].state & 3) == COALESCE_HOLE;
    c->used -= size;
    c->block_count--;
    c->hole_count += 1u - joins_prev - joins_next;
    n->state = ((n->state & ~3u) + GENERATION_ONE) | COALESCE_HOLE;
    if (joins_next) {
        unindex_hole(c, next);
        size += nodes[next].size;
        unlink_node(c, next);
        give_node(c, next);
    }
    if (joins_prev) {
        unindex_hole(c, prev);
        size += nodes[prev].size;
        unlink_node(c, node);
        give_node(c, node);
        node = prev;
    }
    nodes[node].size = size;
    index_hole(c, node);
    return node;
}

/* Moves the boundary between a block and what follows it; `size` is the block's new one. */
bool coalesce_resize(coalesce *c, uint32_t node, uint32_t size)
{
    if (node == 0 || node >= c->node_fresh || !coalesce_is_used(c, node) || size == 0) return false;
    uint32_t old_size = c->nodes[node].size, next = c->nodes[node].next;
    bool joins_next = coalesce_is_hole(c, next);
    uint32_t room = old_size + (joins_next ? c->nodes[next].size : 0);
    if (size == old_size) return true;
    if (size > room) return false;
    uint32_t tail = room - size;
    if (!joins_next && !ensure_spare(c, 1)) return false;

    if (joins_next) {
        unindex_hole(c, next);
        if (tail == 0) {
            unlink_node(c, next);
            give_node(c, next);
            c->hole_count--;
        }
    } else {
        next = take_node(c, COALESCE_HOLE);
        link_after(c, next, node);
        c->hole_count++;
    }
    c->nodes[node].size = size;
    if (tail != 0) {
        c->nodes[next].offset = c->nodes[node].offset + size;
        c->nodes[next].size = tail;
        index_hole(c, next);
    }
    c->used += size - old_size;
    return true;
}

uint32_t coalesce_largest_hole(const coalesce *c)
{
    /* The walks are shared with those that write, hence not const. */
    coalesce *walked = (coalesce *)(uintptr_t)c;
    return hole_index_largest(walked, &walked->index[0]);
}

bool coalesce_handle_is_stale(const coalesce *c, uint64_t handle)
{
    uint32_t node = (uint32_t)handle, generation = (uint32_t)(handle >> 32);
    if (node == 0 || node >= c->node_touched || generation >> GENERATION_BITS != 0) return false;
    uint32_t age = ((c->nodes[node].state >> 2) - generation) & (uint32_t)bits_mask(GENERATION_BITS);
    return age < 1u << (GENERATION_BITS - 1);
}

/* --- the range -------------------------------------------------------------------------------------------------- */

/* Appends [capacity, capacity + size) as a gap or a hole; a hole after a hole makes it larger. After ensure_spare. */
static void append(coalesce *c, uint32_t size, enum coalesce_state state)
{
    uint32_t last = coalesce_last(c);
    if (state == COALESCE_HOLE && coalesce_is_hole(c, last)) {
        unindex_hole(c, last);
        c->nodes[last].size += size;
        index_hole(c, last);
    } else {
        uint32_t node = take_node(c, state);
        c->nodes[node].offset = c->capacity;
        c->nodes[node].size = size;
        link_after(c, node, last);
        if (state == COALESCE_HOLE) {
            c->hole_count++;
            index_hole(c, node);
        } else {
            c->gap_count++;
            c->gap += size;
        }
    }
    c->capacity += size;
}

bool coalesce_add_range(coalesce *c, uint32_t offset, uint32_t size)
{
    if (offset < c->capacity || (uint64_t)offset + size > COALESCE_CAPACITY_MAX) return false;
    if (size == 0) return true;
    if (!ensure_spare(c, 2)) return false;
    if (offset > c->capacity) append(c, offset - c->capacity, COALESCE_GAP);
    append(c, size, COALESCE_HOLE);
    return true;
}

bool coalesce_extend(coalesce *c, uint32_t capacity)
{
    return capacity >= c->capacity && coalesce_add_range(c, c->capacity, capacity - c->capacity);
}

bool coalesce_shrink(coalesce *c, uint32_t capacity)
{
    if (capacity > c->capacity) return false;
    uint32_t last = coalesce_last(c);
    for (uint32_t node = last; node != 0 && coalesce_offset(c, node) + coalesce_size(c, node) > capacity;
         node = coalesce_prev(c, node))
        if (coalesce_is_used(c, node)) return false;
    while (c->capacity > capacity) {
        uint32_t node = coalesce_last(c);
        coalesce_node *n = &c->nodes[node];
        bool hole = coalesce_is_hole(c, node);
        uint32_t keep = n->offset < capacity ? capacity - n->offset : 0;
        if (hole)
            unindex_hole(c, node);
        else
            c->gap -= n->size - keep;
        n->size = keep;
        c->capacity = n->offset + keep;
        if (keep == 0) {
            *(hole ? &c->hole_count : &c->gap_count) -= 1;
            unlink_node(c, node);
            give_node(c, node);
        } else if (hole) {
            index_hole(c, node);
        }
    }
    return true;
}

/* --- life ------------------------------------------------------------------------------------------------------- */

/* Everything forgotten, the range empty. */
static void forget(coalesce *c)
{
    for (uint32_t i = 0; i < c->index_count; i++) hole_index_clear(&c->index[i]);
    c->nodes[0] = (coalesce_node){.state = COALESCE_GAP};
    c->capacity = c->used = c->gap = 0;
    c->block_count = c->hole_count = c->gap_count = 0;
    c->node_spare = 0;
    c->node_fresh = 1;
    c->spare_count = c->node_capacity - 1;
}

bool coalesce_init(coalesce *c, const coalesce_options *options)
{
    uint32_t exact = options->exact_sizes != 0 ? options->exact_sizes : EXACT_SIZES_DEFAULT;
    if (!is_power_of_two(exact) || exact < 1u << HOLE_BINS_PER_DOUBLING_LOG2 || exact > 1u << HOLE_EXACT_LOG2_MAX)
        return false;
    if (options->capacity > COALESCE_CAPACITY_MAX || options->memory.grow == NULL) return false;

    *c = (coalesce){.memory = options->memory, .index_count = 1};
    /* Named alignments, sorted, each once. */
    for (int i = 0; i < COALESCE_EXTRA_MAX; i++) {
        uint32_t align_log2 = options->extra_align_log2[i], at = c->index_count;
        if (align_log2 > ALIGN_LOG2_MAX) return false;
        while (c->index[at - 1].align_log2 > align_log2) at--;
        if (c->index[at - 1].align_log2 == align_log2) continue;
        for (uint32_t j = c->index_count; j > at; j--) c->index[j].align_log2 = c->index[j - 1].align_log2;
        c->index[at].align_log2 = align_log2;
        c->index_count++;
    }
    uint32_t exact_log2 = log2_ceil(exact);
    c->table_bytes = table_bytes_for(exact, exact_log2);
    for (uint32_t i = 0; i < c->index_count; i++) {
        c->index[i].exact_sizes = exact;
        c->index[i].exact_log2 = exact_log2;
    }
    uint32_t count = options->node_count != 0 ? options->node_count : NODES_AT_FIRST;
    if (!coalesce_reserve_nodes(c, count < 4 ? 4 : count)) {
        coalesce_destroy(c);
        return false;
    }
    c->node_touched = 1;
    forget(c);
    return coalesce_extend(c, options->capacity);
}

void coalesce_destroy(coalesce *c)
{
    for (unsigned part = 0; part < c->index_count; part++)
        if (c->part_base[part] != NULL && c->memory.release != NULL)
            c->memory.release(c->memory.context, part, c->part_base[part], c->part_bytes[part]);
    *c = (coalesce){.index_count = 0};
}

void coalesce_reset(coalesce *c)
{
    if (c->gap_count == 0) {
        uint32_t capacity = c->capacity;
        forget(c);
        (void)coalesce_extend(c, capacity); /* takes one node, and there are four */
        return;
    }
    for (uint32_t node = coalesce_first(c), next; node != 0; node = next) {
        /* What follows the hole is never part of it, and freeing never splits. */
        next = coalesce_is_used(c, node) ? coalesce_next(c, coalesce_free(c, node)) : coalesce_next(c, node);
    }
}

/* --- verification ----------------------------------------------------------------------------------------------- */

static const char *check_ring(const coalesce *c, uint32_t *ring_count)
{
    uint64_t end = 0, used = 0, gap = 0;
    uint32_t counts[4] = {0, 0, 0, 0}, previous = 0;
    if ((c->nodes[0].state & 3) != COALESCE_GAP || c->nodes[0].size != 0) return "the sentinel is damaged";
    *ring_count = 1;
    for (uint32_t node = c->nodes[0].next; node != 0; node = c->nodes[node].next) {
        if (node >= c->node_fresh || *ring_count >= c->node_fresh) return "the ring leaves the nodes, or has a cycle";
        const coalesce_node *n = &c->nodes[node];
        enum coalesce_state state = coalesce_state_of(c, node);
        if (n->prev != previous) return "prev does not lead back";
        if (n->size == 0 || n->offset != end) return "the ring does not cover the range exactly";
        if (state == COALESCE_SPARE) return "a spare node is in the ring";
        if (state == COALESCE_HOLE && coalesce_is_hole(c, previous)) return "two holes are neighbours";
        end += n->size;
        if (state == COALESCE_USED) used += n->size;
        if (state == COALESCE_GAP) gap += n->size;
        counts[state]++;
        previous = node;
        ++*ring_count;
    }
    if (c->nodes[0].prev != previous) return "prev of the sentinel is not the last node";
    if (end != c->capacity) return "the ring does not end at the capacity";
    if (used != c->used || gap != c->gap) return "granules used or in gaps do not match their totals";
    if (counts[COALESCE_USED] != c->block_count || counts[COALESCE_HOLE] != c->hole_count ||
        counts[COALESCE_GAP] != c->gap_count)
        return "blocks, holes or gaps do not match their totals";
    return NULL;
}

const char *coalesce_check(const coalesce *c)
{
    uint32_t ring = 0, spares = 0;
    const char *wrong = check_ring(c, &ring);
    if (wrong != NULL) return wrong;
    for (uint32_t node = c->node_spare; node != 0; node = c->nodes[node].next) {
        if (node >= c->node_fresh || ++spares > c->node_fresh) return "the spare list leaves the nodes, or has a cycle";
        if (coalesce_state_of(c, node) != COALESCE_SPARE) return "a node in the spare list is in use";
    }
    if (ring + spares != c->node_fresh) return "a node is neither in the ring nor spare";
    if (spares + (c->node_capacity - c->node_fresh) != c->spare_count) return "spare nodes do not match their total";
    if (c->node_fresh > c->node_touched || c->node_touched > c->node_capacity) return "node marks are out of order";

    /* Each index: all that its bins hold are holes of the right usable size, each once; so equal counts mean all. */
    coalesce *walked = (coalesce *)(uintptr_t)c;
    for (uint32_t i = 0; i < c->index_count; i++) {
        uint32_t expected = 0;
        for (uint32_t node = coalesce_first(c); node != 0; node = coalesce_next(c, node))
            if (coalesce_is_hole(c, node))
                expected += hole_usable(c->nodes[node].offset, c->nodes[node].size, c->index[i].align_log2) != 0;
        if (expected != c->index[i].count) return "an index does not hold every hole that it should";
        wrong = hole_index_check(walked, &walked->index[i]);
        if (wrong != NULL) return wrong;
    }
    return NULL;
}
