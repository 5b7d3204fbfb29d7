/* coalesce: the ring in address order, splitting, merging, and the memory of the nodes. See coalesce.h for the picture,
 * hole_index.h for the size table.
 *
 * Every change has the same three steps: find out what is wanted (reads only), make sure of the nodes that it takes
 * (ensure_spare, the only step that can fail), then change ring, index and totals, which cannot fail.
 *
 * Node 0 is the sentinel: always in the ring, a gap to its neighbours, and its offset is where the range ends, so
 * no end of the range is special.
 * The node that survives a merge is the lower hole; a block that is freed beside no lower hole turns into one. */
#include "alloc/hole_index.h"

enum {
    NODES_AT_FIRST = 256,
    EXACT_SIZES_MAX = 16384,
    EXACT_SIZES_MIN = 16,
    FLOOR_AT_FIRST = 1 << 30,
    MEMORY_STEP_BYTES = 4096,
    ALIGN_LOG2_MAX = 31,
    /* How many holes an alignment that is not named may look at before and after it asked for a certain fit. */
    NEAR_FITS_FIRST = 8,
    NEAR_FITS_LAST = 64,
};
#define GENERATION_ONE (1u << COALESCE_GENERATION_SHIFT)
#define GENERATION_BITS (32 - COALESCE_GENERATION_SHIFT)
#define GENERATION_MASK (~(GENERATION_ONE - 1))

/* --- node memory ------------------------------------------------------------------------------------------------ */

static size_t record_bytes(unsigned part)
{
    return part == 0 ? sizeof(coalesce_node) + sizeof(hole_links) : sizeof(hole_links);
}

/* Part i is [words | summary | heads | records] of index i, the records 64-byte aligned; part 0's are the nodes. */
static void place_part(coalesce *c, unsigned part)
{
    hole_index *x = &c->index[part];
    uint32_t words = (x->bins >> 6) + 1;
    char *records = (char *)c->part_base[part] + c->table_bytes;
    x->words = c->part_base[part];
    x->summary = x->words + words;
    x->heads = (uint32_t *)(void *)(x->summary + (words >> 6) + 1);
    x->links = records;
    x->group_mask = 0;
    if (part == 0) {
        c->nodes = records;
        x->links = records + COALESCE_GROUP * sizeof(coalesce_node);
        x->group_mask = ~(uint32_t)(COALESCE_GROUP - 1);
    }
}

static uint32_t table_bytes_for(const hole_index *x)
{
    uint32_t bins = x->bins, words = (bins >> 6) + 1;
    uint32_t bytes = words * 8 + ((words >> 6) + 1) * 8 + bins * 4;
    return (uint32_t)align_up(bytes, 64);
}

/* All parts hold `count` nodes or more, or false; parts that did grow stay grown. */
static bool grow_parts(coalesce *c, uint32_t count)
{
    uint64_t capacity = UINT32_MAX;
    count = (uint32_t)align_up(count, COALESCE_GROUP);
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
        fit = align_down(fit, COALESCE_GROUP);
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
        c->node_spare = coalesce_at(c, node)->next;
    } else {
        node = c->node_fresh++;
        if (node >= c->node_touched) {
            c->node_touched = node + 1;
            coalesce_at(c, node)->state = 0;
        } else if ((coalesce_at(c, node)->state & 3) == COALESCE_USED) {
            coalesce_at(c, node)->state += GENERATION_ONE; /* a block that coalesce_reset forgot */
        }
    }
    coalesce_at(c, node)->state = (coalesce_at(c, node)->state & GENERATION_MASK) | state;
    return node;
}

static inline void give_node(coalesce *c, uint32_t node)
{
    coalesce_node *n = coalesce_at(c, node);
    n->state = (n->state & GENERATION_MASK) | COALESCE_SPARE;
    n->next = c->node_spare;
    c->node_spare = node;
    c->spare_count++;
}

/* --- ring and index --------------------------------------------------------------------------------------------- */

static inline void link_after(coalesce *c, uint32_t node, uint32_t before)
{
    coalesce_node *n = coalesce_at(c, node), *b = coalesce_at(c, before);
    uint32_t after = b->next;
    n->prev = before;
    n->next = after;
    b->next = node;
    coalesce_at(c, after)->prev = node;
}

static inline void unlink_node(coalesce *c, uint32_t node)
{
    uint32_t prev = coalesce_at(c, node)->prev, next = coalesce_at(c, node)->next;
    coalesce_at(c, prev)->next = next;
    coalesce_at(c, next)->prev = prev;
}

static ACRE_NOINLINE void index_extras(coalesce *c, uint32_t node, uint32_t size)
{
    for (uint32_t i = 1; i < c->index_count; i++) {
        hole_index *x = &c->index[i];
        uint32_t usable = hole_usable(coalesce_at(c, node)->offset, size, x->align_log2);
        if (usable >= x->floor)
            hole_index_insert(c, x, node, coalesce_at(c, node)->offset, usable);
    }
}

static ACRE_NOINLINE void unindex_extras(coalesce *c, uint32_t node, uint32_t size)
{
    for (uint32_t i = 1; i < c->index_count; i++) {
        hole_index *x = &c->index[i];
        uint32_t usable = hole_usable(coalesce_at(c, node)->offset, size, x->align_log2);
        if (usable >= x->floor) hole_index_remove(c, x, node, coalesce_at(c, node)->offset, usable);
    }
}

/* The offset and the size of a hole change only between unindex and index. */
static inline void index_hole(coalesce *c, uint32_t node, uint32_t offset, uint32_t size)
{
    if (size >= c->index[0].floor) hole_index_insert(c, &c->index[0], node, offset, size);
    if (unlikely(c->index_count > 1)) index_extras(c, node, size);
}

static inline void unindex_hole(coalesce *c, uint32_t node, uint32_t offset, uint32_t size)
{
    if (size >= c->index[0].floor) hole_index_remove(c, &c->index[0], node, offset, size);
    if (unlikely(c->index_count > 1)) unindex_extras(c, node, size);
}

/* Somebody asks for less than ever before: the floor goes down to a power of two, so this happens at most 32 times, and
 * the holes between the new floor and the old one go in. */
static ACRE_NOINLINE void lower_floor(coalesce *c, hole_index *x, uint32_t size)
{
    uint32_t old_floor = x->floor;
    x->floor = 1u << bits_highest(size);
    for (uint32_t node = coalesce_first(c); node != 0; node = coalesce_next(c, node)) {
        if (!coalesce_is_hole(c, node)) continue;
        uint32_t usable = hole_usable(coalesce_offset(c, node), coalesce_size(c, node), x->align_log2);
        if (usable < x->floor || usable >= old_floor) continue;
        hole_index_insert(c, x, node, coalesce_offset(c, node), usable);
    }
}

/* --- finding ---------------------------------------------------------------------------------------------------- */

/* A hole, 0: none, and its usable size at the alignment that was asked for. */
typedef struct fit {
    uint32_t node, usable;
} fit;

static inline fit best_fit(coalesce *c, hole_index *x, uint32_t size)
{
    fit found = {0, 0};
    if (unlikely(size < x->floor)) lower_floor(c, x, size);
    found.node = hole_index_best(c, x, size, &found.usable);
    return found;
}

static uint32_t usable_at(const coalesce *c, uint32_t node, unsigned align_log2)
{
    return node == 0 ? 0 : hole_usable(coalesce_offset(c, node), coalesce_size(c, node), align_log2);
}

/* Looks into up to `tries` bins of x from `size` on, at three holes of each, small ones first. */
static fit near_fit(const coalesce *c, const hole_index *x, uint32_t size, unsigned align_log2, unsigned tries)
{
    uint32_t bin = hole_bin(x, size, 0);
    for (; tries != 0 && (bin = hole_bin_next(x, bin)) != 0; bin++, tries--) {
        uint32_t candidates[3] = {x->heads[bin], 0, 0};
        if (!(coalesce_at(c, candidates[0])->state & x->alone)) {
            candidates[1] = hole_link(x, candidates[0])->child[0];
            candidates[2] = hole_link(x, candidates[0])->child[1];
        }
        for (int i = 0; i < 3; i++) {
            uint32_t usable = usable_at(c, candidates[i], align_log2);
            if (usable >= size) return (fit){candidates[i], usable};
        }
    }
    return (fit){0, 0};
}

static ACRE_NOINLINE fit find_not_named(coalesce *c, uint32_t i, uint32_t size, unsigned align_log2)
{
    hole_index *below = &c->index[i];
    if (size < below->floor) lower_floor(c, below, size);
    fit found = near_fit(c, below, size, align_log2, NEAR_FITS_FIRST);
    uint64_t certain = (uint64_t)size + ((uint64_t)1 << align_log2) - ((uint64_t)1 << below->align_log2);
    if (found.node == 0 && certain <= c->capacity) found = best_fit(c, below, (uint32_t)certain);
    if (found.node == 0 && i + 1 < c->index_count) found = best_fit(c, below + 1, size);
    if (found.node == 0) found = near_fit(c, below, size, align_log2, NEAR_FITS_LAST);
    found.usable = usable_at(c, found.node, align_log2);
    return found;
}

/* A hole that holds `size` granules from its first multiple of 1 << align_log2 on. */
static ACRE_NOINLINE fit find_aligned(coalesce *c, uint32_t size, unsigned align_log2)
{
    uint32_t i = c->index_count - 1;
    while (c->index[i].align_log2 > align_log2) i--;
    if (likely(c->index[i].align_log2 == align_log2)) return best_fit(c, &c->index[i], size);
    return find_not_named(c, i, size, align_log2);
}

/* --- blocks ----------------------------------------------------------------------------------------------------- */

static ACRE_NOINLINE uint32_t alloc_any(coalesce *c, uint32_t size, unsigned align_log2, uint32_t *offset)
{
    fit found = align_log2 == 0 ? best_fit(c, &c->index[0], size) : find_aligned(c, size, align_log2);
    uint32_t block = found.node;
    if (unlikely(block == 0)) return 0;
    uint32_t hole_offset = coalesce_at(c, block)->offset;
    uint32_t start = align_log2 == 0 ? hole_offset : (uint32_t)align_up(hole_offset, (uint64_t)1 << align_log2);
    uint32_t lead = start - hole_offset, tail = found.usable - size;
    uint32_t pieces = (uint32_t)(lead != 0) + (uint32_t)(tail != 0);
    if (unlikely(!ensure_spare(c, pieces))) return 0;

    unindex_hole(c, block, hole_offset, lead + found.usable);
    if (lead != 0) {
        uint32_t hole = block;
        block = take_node(c, COALESCE_USED);
        coalesce_at(c, block)->offset = start;
        link_after(c, block, hole);
        index_hole(c, hole, hole_offset, lead);
    }
    coalesce_at(c, block)->state = (coalesce_at(c, block)->state & GENERATION_MASK) | COALESCE_USED;
    if (tail != 0) {
        uint32_t hole = take_node(c, COALESCE_HOLE);
        coalesce_at(c, hole)->offset = start + size;
        link_after(c, hole, block);
        index_hole(c, hole, start + size, tail);
    }
    c->used += size;
    c->block_count++;
    c->hole_count += pieces - 1;
    *offset = start;
    return block;
}

/* One index, and no alignment: the way that most take, without a question about the others. */
static inline uint32_t alloc_plain(coalesce *c, uint32_t size, uint32_t *offset)
{
    hole_index *x = &c->index[0];
    uint32_t spare = c->node_spare;
    if (unlikely(size < x->floor || spare == 0)) return alloc_any(c, size, 0, offset);
    uint32_t usable, block = hole_index_best(c, x, size, &usable), tail = usable - size;
    if (unlikely(block == 0)) return 0;
    coalesce_node *n = coalesce_at(c, block);
    uint32_t start = n->offset, after = n->next;
    *offset = start;
    c->used += size;
    c->block_count++;
    hole_index_remove(c, x, block, start, usable);
    n->state = (n->state & GENERATION_MASK) | COALESCE_USED;
    if (unlikely(tail == 0)) {
        c->hole_count--;
        return block;
    }
    coalesce_node *t = coalesce_at(c, spare);
    c->node_spare = t->next;
    c->spare_count--;
    n->next = spare;
    coalesce_at(c, after)->prev = spare;
    t->offset = start + size;
    t->prev = block;
    t->next = after;
    t->state = (t->state & GENERATION_MASK) | COALESCE_HOLE;
    if (tail >= x->floor) hole_index_insert(c, x, spare, start + size, tail);
    return block;
}

uint32_t coalesce_alloc(coalesce *c, uint32_t size, unsigned align_log2, uint32_t *offset)
{
    if (unlikely(size - 1 >= c->capacity)) return 0;
    if (likely((align_log2 | (c->index_count - 1)) == 0)) return alloc_plain(c, size, offset);
    return align_log2 > ALIGN_LOG2_MAX ? 0 : alloc_any(c, size, align_log2, offset);
}

uint32_t coalesce_free(coalesce *c, uint32_t node)
{
    coalesce_node *n = coalesce_at(c, node);
    if (unlikely(node - 1 >= c->node_fresh - 1 || (n->state & 3) != COALESCE_USED)) return 0;
    uint32_t prev = n->prev, next = n->next, start = n->offset;
    coalesce_node *p = coalesce_at(c, prev), *q = coalesce_at(c, next);
    uint32_t end = q->offset;
    bool joins_prev = (p->state & 3) == COALESCE_HOLE, joins_next = (q->state & 3) == COALESCE_HOLE;
    c->used -= end - start;
    c->block_count--;
    c->hole_count += 1u - joins_prev - joins_next;
    n->state = ((n->state & GENERATION_MASK) + GENERATION_ONE) | COALESCE_HOLE;
    if (joins_next) {
        uint32_t after = q->next, hole_end = coalesce_at(c, after)->offset;
        unindex_hole(c, next, end, hole_end - end);
        give_node(c, next);
        end = hole_end, next = after;
    }
    if (joins_prev) {
        uint32_t hole_start = p->offset;
        unindex_hole(c, prev, hole_start, start - hole_start);
        give_node(c, node);
        start = hole_start, node = prev;
    }
    coalesce_at(c, node)->next = next;
    coalesce_at(c, next)->prev = node;
    index_hole(c, node, start, end - start);
    return node;
}

/* Moves the boundary between a block and what follows it; `size` is the block's new one. */
bool coalesce_resize(coalesce *c, uint32_t node, uint32_t size)
{
    if (node == 0 || node >= c->node_fresh || !coalesce_is_used(c, node) || size == 0) return false;
    uint32_t old_size = coalesce_size(c, node), next = coalesce_next(c, node);
    bool joins_next = coalesce_is_hole(c, next);
    uint32_t hole_size = joins_next ? coalesce_size(c, next) : 0, room = old_size + hole_size;
    if (size == old_size) return true;
    if (size > room) return false;
    uint32_t tail = room - size;
    if (!joins_next && !ensure_spare(c, 1)) return false;

    if (joins_next) {
        unindex_hole(c, next, coalesce_offset(c, next), hole_size);
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
    if (tail != 0) {
        coalesce_at(c, next)->offset = coalesce_at(c, node)->offset + size;
        index_hole(c, next, coalesce_offset(c, next), tail);
    }
    c->used += size - old_size;
    return true;
}

uint32_t coalesce_largest_hole(const coalesce *c)
{
    uint32_t largest = hole_index_largest(&c->index[0]);
    if (largest != 0 || c->hole_count == 0) return largest;
    for (uint32_t node = coalesce_first(c); node != 0; node = coalesce_next(c, node)) /* all are below the floor */
        if (coalesce_is_hole(c, node) && coalesce_size(c, node) > largest) largest = coalesce_size(c, node);
    return largest;
}

bool coalesce_handle_is_stale(const coalesce *c, uint64_t handle)
{
    uint32_t node = (uint32_t)handle, generation = (uint32_t)(handle >> 32);
    if (node == 0 || node >= c->node_touched || generation >> GENERATION_BITS != 0) return false;
    uint32_t age = (coalesce_at(c, node)->state >> COALESCE_GENERATION_SHIFT) - generation;
    age &= (uint32_t)bits_mask(GENERATION_BITS);
    return age < 1u << (GENERATION_BITS - 1);
}

/* --- the range -------------------------------------------------------------------------------------------------- */

static void set_capacity(coalesce *c, uint32_t capacity) { c->capacity = coalesce_at(c, 0)->offset = capacity; }

/* The range outgrows the places that the bins tell apart: every index is laid out for more, and filled again. */
static ACRE_NOINLINE void spread(coalesce *c, uint32_t capacity)
{
    for (uint32_t i = 0; i < c->index_count; i++) {
        hole_index *x = &c->index[i];
        hole_index_clear(x);
        hole_index_spread(x, capacity);
        for (uint32_t node = coalesce_first(c); node != 0; node = coalesce_next(c, node)) {
            if (!coalesce_is_hole(c, node)) continue;
            coalesce_node *n = coalesce_at(c, node);
            uint32_t usable = hole_usable(n->offset, coalesce_size(c, node), x->align_log2);
            n->state &= ~x->alone;
            if (usable >= x->floor) hole_index_insert(c, x, node, n->offset, usable);
        }
    }
}

/* Appends [capacity, capacity + size) as a gap or a hole; a hole after a hole makes it larger. After ensure_spare. */
static void append(coalesce *c, uint32_t size, enum coalesce_state state)
{
    uint32_t last = coalesce_last(c), offset = c->capacity;
    if (c->index[0].width_log2 != 0 && (uint64_t)offset + size > (uint64_t)1 << c->index[0].capacity_log2)
        spread(c, offset + size);
    if (state == COALESCE_HOLE && coalesce_is_hole(c, last)) {
        unindex_hole(c, last, coalesce_offset(c, last), coalesce_size(c, last));
    } else {
        uint32_t node = take_node(c, state);
        coalesce_at(c, node)->offset = offset;
        link_after(c, node, last);
        last = node;
        if (state == COALESCE_HOLE) {
            c->hole_count++;
        } else {
            c->gap_count++;
            c->gap += size;
        }
    }
    set_capacity(c, offset + size);
    if (state == COALESCE_HOLE) index_hole(c, last, coalesce_offset(c, last), coalesce_size(c, last));
}

bool coalesce_add_range(coalesce *c, uint32_t offset, uint32_t size)
{
    if (offset < c->capacity || (uint64_t)offset + size > COALESCE_CAPACITY_MAX) return false;
    if (size == 0) return true;
    if (!ensure_spare(c, offset > c->capacity ? 2 : !coalesce_is_hole(c, coalesce_last(c)))) return false;
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
        uint32_t node = coalesce_last(c), offset = coalesce_offset(c, node), size = coalesce_size(c, node);
        bool hole = coalesce_is_hole(c, node);
        uint32_t keep = offset < capacity ? capacity - offset : 0;
        if (hole)
            unindex_hole(c, node, coalesce_offset(c, node), size);
        else
            c->gap -= size - keep;
        set_capacity(c, offset + keep);
        if (keep == 0) {
            *(hole ? &c->hole_count : &c->gap_count) -= 1;
            unlink_node(c, node);
            give_node(c, node);
        } else if (hole) {
            index_hole(c, node, offset, keep);
        }
    }
    return true;
}

/* --- life ------------------------------------------------------------------------------------------------------- */

/* Everything forgotten, the range empty. */
static void forget(coalesce *c)
{
    for (uint32_t i = 0; i < c->index_count; i++) hole_index_clear(&c->index[i]);
    *coalesce_at(c, 0) = (coalesce_node){.state = COALESCE_GAP};
    c->capacity = c->used = c->gap = 0;
    c->block_count = c->hole_count = c->gap_count = 0;
    c->node_spare = 0;
    c->node_fresh = 1;
    c->spare_count = c->node_capacity - 1;
}

bool coalesce_init(coalesce *c, const coalesce_options *options)
{
    uint32_t exact = options->exact_sizes, later = options->capacity_later;
    if (later < options->capacity) later = options->capacity;
    if (exact == 0) {
        exact = EXACT_SIZES_MAX;
        while (exact > EXACT_SIZES_MIN && later != 0 && exact / 2 > later) exact /= 2;
    }
    if (!is_power_of_two(exact) || exact < EXACT_SIZES_MIN || exact > 1u << HOLE_EXACT_LOG2_MAX)
        return false;
    if (later > COALESCE_CAPACITY_MAX || options->memory.grow == NULL) return false;

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
    for (uint32_t i = 0; i < c->index_count; i++) {
        hole_index_init(&c->index[i], exact, later);
        c->index[i].alone = (uint32_t)COALESCE_ALONE << i;
        c->index[i].floor = options->size_min != 0 ? options->size_min : FLOOR_AT_FIRST;
    }
    c->table_bytes = table_bytes_for(&c->index[0]);
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
    for (unsigned part = 0; part < COALESCE_INDEX_MAX; part++)
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
    uint64_t used = 0, gap = 0;
    uint32_t counts[4] = {0, 0, 0, 0}, previous = 0;
    if ((coalesce_at(c, 0)->state & 3) != COALESCE_GAP) return "the sentinel is damaged";
    if (coalesce_at(c, 0)->offset != c->capacity) return "the ring does not end at the capacity";
    *ring_count = 1;
    for (uint32_t node = coalesce_at(c, 0)->next; node != 0; node = coalesce_at(c, node)->next) {
        if (node >= c->node_fresh || *ring_count >= c->node_fresh) return "the ring leaves the nodes, or has a cycle";
        const coalesce_node *n = coalesce_at(c, node);
        if (n->prev != previous) return "prev does not lead back";
        if (n->next >= c->node_fresh || coalesce_at(c, n->next)->offset <= n->offset) return "offsets do not rise";
        if (previous == 0 && n->offset != 0) return "the ring does not start at 0";
        enum coalesce_state state = coalesce_state_of(c, node);
        if (state == COALESCE_SPARE) return "a spare node is in the ring";
        if (state == COALESCE_HOLE && coalesce_is_hole(c, previous)) return "two holes are neighbours";
        if (state == COALESCE_USED) used += coalesce_size(c, node);
        if (state == COALESCE_GAP) gap += coalesce_size(c, node);
        counts[state]++;
        previous = node;
        ++*ring_count;
    }
    if (coalesce_at(c, 0)->prev != previous) return "prev of the sentinel is not the last node";
    if (previous == 0 && c->capacity != 0) return "the ring is empty, the range is not";
    if (used != c->used || gap != c->gap) return "granules used or in gaps do not match their totals";
    if (counts[COALESCE_USED] != c->block_count || counts[COALESCE_HOLE] != c->hole_count ||
        counts[COALESCE_GAP] != c->gap_count)
        return "blocks, holes or gaps do not match their totals";
    return NULL;
}

static const char *check_spares(const coalesce *c, uint32_t ring_count)
{
    uint32_t spares = 0;
    for (uint32_t node = c->node_spare; node != 0; node = coalesce_at(c, node)->next) {
        if (node >= c->node_fresh || ++spares > c->node_fresh) return "the spare list leaves the nodes, or has a cycle";
        if (coalesce_state_of(c, node) != COALESCE_SPARE) return "a node in the spare list is in use";
    }
    if (ring_count + spares != c->node_fresh) return "a node is neither in the ring nor spare";
    if (spares + (c->node_capacity - c->node_fresh) != c->spare_count)
        return "spare nodes do not match their total";
    if (c->node_fresh > c->node_touched || c->node_touched > c->node_capacity) return "node marks are out of order";
    return NULL;
}

/* All that the bins hold are holes of the right usable size, each once; so if there are as many as there should be,
 * all are there. */
static const char *check_index(const coalesce *c, const hole_index *x)
{
    uint32_t expected = 0;
    for (uint32_t node = coalesce_first(c); node != 0; node = coalesce_next(c, node))
        expected += coalesce_is_hole(c, node) && usable_at(c, node, x->align_log2) >= x->floor;
    return hole_index_check(c, x, expected);
}

const char *coalesce_check(const coalesce *c)
{
    uint32_t ring_count = 0;
    const char *wrong = check_ring(c, &ring_count);
    if (wrong == NULL) wrong = check_spares(c, ring_count);
    for (uint32_t i = 0; i < c->index_count && wrong == NULL; i++) wrong = check_index(c, &c->index[i]);
    return wrong;
}
