/* hole_index: the walks of the heap-ordered tries, and their verification. See hole_index.h for the picture. */
#include "alloc/hole_index.h"

static inline uint64_t key_of(const coalesce *c, const hole_index *x, uint32_t node)
{
    return hole_key(hole_link(x, node)->order, coalesce_at(c, node)->offset);
}

/* --- lower bound ------------------------------------------------------------------------------------------------
 *
 * One walk along the bound's own path: where the bound turns left, all of the right subtrie is above it, and its root
 * is the smallest of those; the last such root is the answer unless the walk itself meets a key that is enough. */
uint32_t hole_index_bound(const coalesce *c, const hole_index *x, uint32_t bin, uint32_t usable)
{
    uint64_t bound = hole_key(usable, 0), path = hole_mixed_path(bound);
    uint32_t node = x->heads[bin], above = 0;
    while (node != 0 && key_of(c, x, node) < bound) {
        const hole_links *links = hole_link(x, node);
        if (path >> 63 == 0 && links->child[1] != 0) above = links->child[1];
        node = links->child[path >> 63];
        path <<= 1;
    }
    return node != 0 ? node : above;
}

/* --- insertion --------------------------------------------------------------------------------------------------
 *
 * depth d, slot s: where a hole whose path begins with d known turns may stand
 *   slot empty             -> it stands here
 *   its key is the larger  -> on into the subtrie of its next turn
 *   its key is the smaller -> it takes the place and the links of the one that stands here, which goes on */

/* `node`, whose order is set, takes the place of `here`. */
static inline void displace(hole_index *x, uint32_t node, uint32_t here, uint32_t *slot)
{
    hole_links *links = hole_link(x, node);
    const hole_links *from = hole_link(x, here);
    links->child[0] = from->child[0];
    links->child[1] = from->child[1];
    links->parent = from->parent;
    if (links->child[0] != 0) hole_link(x, links->child[0])->parent = node;
    if (links->child[1] != 0) hole_link(x, links->child[1])->parent = node;
    *slot = node;
}

static inline void stand(hole_index *x, uint32_t node, uint32_t parent, uint32_t order, uint32_t *slot)
{
    *slot = node;
    *hole_link(x, node) = (hole_links){{0, 0}, parent, order};
}

static void insert_exact(coalesce *c, hole_index *x, uint32_t node, uint32_t bin, uint32_t usable)
{
    uint32_t offset = coalesce_at(c, node)->offset, parent = 0, here;
    uint32_t *slot = &x->heads[bin];
    uint64_t path = hole_exact_path(offset);
    if (coalesce_at(c, *slot)->state & x->alone) {
        coalesce_at(c, *slot)->state &= ~x->alone;
        *hole_link(x, *slot) = (hole_links){{0, 0}, 0, usable};
    }
    hole_link(x, node)->order = usable;
    for (unsigned depth = 0; (here = *slot) != 0; depth++) {
        uint32_t offset_here = coalesce_at(c, here)->offset;
        if (offset < offset_here) {
            displace(x, node, here, slot);
            uint32_t displaced = here;
            here = node, node = displaced;
            offset = offset_here;
            path = hole_exact_path(offset) << depth;
        }
        parent = here;
        slot = &hole_link(x, here)->child[path >> 63];
        path <<= 1;
    }
    stand(x, node, parent, usable, slot);
}

static void insert_mixed(coalesce *c, hole_index *x, uint32_t node, uint32_t bin, uint32_t usable)
{
    uint64_t key = hole_key(usable, coalesce_at(c, node)->offset), path = hole_mixed_path(key);
    uint32_t parent = 0, here;
    uint32_t *slot = &x->heads[bin];
    if (hole_bin_is_empty(x, bin)) {
        *slot = 0;
        hole_bin_mark(x, bin);
    }
    for (unsigned depth = 0; (here = *slot) != 0; depth++) {
        uint64_t key_here = key_of(c, x, here);
        if (key < key_here) {
            hole_link(x, node)->order = (uint32_t)(key >> 32);
            displace(x, node, here, slot);
            uint32_t displaced = here;
            here = node, node = displaced;
            key = key_here;
            path = hole_mixed_path(key) << depth;
        }
        parent = here;
        slot = &hole_link(x, here)->child[path >> 63];
        path <<= 1;
    }
    stand(x, node, parent, (uint32_t)(key >> 32), slot);
}

ACRE_NOINLINE void hole_index_insert_shared(coalesce *c, hole_index *x, uint32_t node, uint32_t bin, uint32_t usable)
{
    if (likely(bin < x->mixed))
        insert_exact(c, x, node, bin, usable);
    else
        insert_mixed(c, x, node, bin, usable);
}

/* --- removal ----------------------------------------------------------------------------------------------------
 *
 * A place falls vacant; the smaller of the two roots below it moves up, and its own place falls vacant. Turns that lead
 * to a child begin with those that lead to its parent, so a hole may always move up. */
ACRE_NOINLINE void hole_index_pull_up(coalesce *c, hole_index *x, uint32_t node, uint32_t bin)
{
    const hole_links *gone = hole_link(x, node);
    uint32_t left = gone->child[0], right = gone->child[1], parent = gone->parent;
    uint32_t *slot = &x->heads[bin];
    if (parent != 0)
        slot = &hole_link(x, parent)->child[hole_link(x, parent)->child[1] == node];
    else if ((left | right) == 0)
        hole_bin_clear(x, bin);
    while ((left | right) != 0) {
        unsigned side = left == 0;
        if (left != 0 && right != 0)
            side = key_of(c, x, right) < key_of(c, x, left);
        uint32_t up = side ? right : left, stays = side ? left : right;
        hole_links *links = hole_link(x, up);
        *slot = up;
        links->parent = parent;
        left = links->child[0], right = links->child[1];
        links->child[side ^ 1] = stays;
        if (stays != 0) hole_link(x, stays)->parent = up;
        slot = &links->child[side];
        parent = up;
    }
    *slot = 0;
}

/* --- the rest --------------------------------------------------------------------------------------------------- */

static uint32_t word_count(const hole_index *x) { return (x->bins >> 6) + 1; }

void hole_index_init(hole_index *x, uint32_t exact_sizes, uint32_t capacity)
{
    uint32_t exact_log2 = log2_ceil(exact_sizes), capacity_log2 = log2_ceil(capacity), width = HOLE_WIDTH_LOG2_MAX;
    /* A short range has few holes, and 32 granules of it have a bin at least. */
    if (width + HOLE_PLACE_LOG2_MIN > capacity_log2)
        width = capacity_log2 > HOLE_PLACE_LOG2_MIN ? capacity_log2 - HOLE_PLACE_LOG2_MIN : 0;
    if (width > exact_log2) width = exact_log2;
    x->exact_sizes = exact_sizes;
    x->width_log2 = width;
    x->bins = 1u << width; /* so that a bin >> width tells its row */
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t places_log2 = i < width ? width - i : 0;
        uint32_t sizes_log2 = i < exact_log2 ? i : HOLE_BINS_PER_DOUBLING_LOG2;
        if (i == exact_log2) x->mixed = x->bins;
        /* The smallest size of the row, 1 << i, shifted to 1 << (sizes_log2 + places_log2), is in its first bin. */
        uint32_t bins = 1u << (sizes_log2 + places_log2);
        uint32_t up = 32 + sizes_log2 + places_log2 - i;
        x->rows[i] = (hole_row){.first = x->bins - bins, .up = (uint8_t)up, .down = 32};
        x->bins += bins;
    }
    hole_index_spread(x, capacity);
}

void hole_index_spread(hole_index *x, uint32_t capacity)
{
    x->capacity_log2 = log2_ceil(capacity);
    for (uint32_t i = 0; i < x->width_log2; i++) x->rows[i].down = (uint8_t)(x->capacity_log2 - (x->width_log2 - i));
}

void hole_index_clear(hole_index *x)
{
    uint32_t words = word_count(x), groups = (words >> 6) + 1;
    for (uint32_t w = 0; w < words; w++) x->words[w] = 0;
    for (uint32_t g = 0; g < groups; g++) x->summary[g] = 0;
    x->top = 0;
}

uint32_t hole_index_largest(const hole_index *x)
{
    if (x->top == 0) return 0;
    uint32_t word = bits_highest(x->top);
    word = word << 6 | bits_highest(x->summary[word]);
    uint32_t bin = word << 6 | bits_highest(x->words[word]), node = x->heads[bin];
    if (bin < x->mixed) return hole_bin_size(x, bin);
    /* All of the right subtrie is above all of the left one, and both are above their root. */
    for (;;) {
        const hole_links *links = hole_link(x, node);
        uint32_t below = links->child[1] != 0 ? links->child[1] : links->child[0];
        if (below == 0) return links->order;
        node = below;
    }
}

/* The turns that lead from the root to `node`, first turn in the top bit; false: more than a path has, or a link that
 * its parent does not return. */
static bool turns_to(const hole_index *x, uint32_t node, uint64_t *turns, unsigned *depth)
{
    *turns = 0, *depth = 0;
    for (uint32_t parent; (parent = hole_link(x, node)->parent) != 0; node = parent) {
        const hole_links *links = hole_link(x, parent);
        if (links->child[0] != node && links->child[1] != node) return false;
        *turns = *turns >> 1 | (uint64_t)(links->child[1] == node) << 63;
        if (++*depth > 63) return false;
    }
    return true;
}

static const char *check_place(const coalesce *c, const hole_index *x, uint32_t bin, uint32_t node)
{
    const hole_links *links = hole_link(x, node);
    bool exact = bin < x->mixed;
    uint32_t usable = hole_usable(coalesce_at(c, node)->offset, coalesce_size(c, node), x->align_log2);
    if (links->order != usable) return "a hole is not sorted by what it is";
    uint64_t key = hole_key(usable, coalesce_at(c, node)->offset), turns;
    uint64_t path = exact ? hole_exact_path(coalesce_at(c, node)->offset) : hole_mixed_path(key);
    unsigned depth;
    if (!turns_to(x, node, &turns, &depth)) return "a trie's links do not agree, or it is too deep";
    if (((turns ^ path) & ~bits_mask(64 - depth)) != 0) return "a hole does not stand on its path";
    if (links->parent != 0 && key_of(c, x, links->parent) >= key) return "a trie is not heap-ordered";
    for (int side = 0; side < 2; side++) {
        uint32_t child = links->child[side];
        if (child >= c->node_fresh) return "a child is no node";
        if (child != 0 && hole_link(x, child)->parent != node) return "a child has another parent";
    }
    return links->child[0] == links->child[1] && links->child[0] != 0 ? "both children are one" : NULL;
}

/* Walks the trie of one bin in preorder by its links alone; takes what it meets off *left. */
static const char *check_bin(const coalesce *c, const hole_index *x, uint32_t bin, uint32_t *left)
{
    uint32_t node = x->heads[bin], root = node;
    if (node == 0 || node >= c->node_fresh) return "a marked bin has no root";
    for (;;) {
        if ((*left)-- == 0) return "an index has holes that it should not have, or a cycle";
        if (!coalesce_is_hole(c, node)) return "an index has a node that is not a hole";
        uint32_t usable = hole_usable(coalesce_at(c, node)->offset, coalesce_size(c, node), x->align_log2);
        if (usable < x->floor || hole_bin(x, usable, coalesce_at(c, node)->offset) != bin)
            return "a hole is in a wrong bin";
        if (coalesce_at(c, node)->state & x->alone)
            return node == root && bin < x->mixed ? NULL : "a hole that says it is alone is not";
        if (node == root && hole_link(x, node)->parent != 0) return "a root has a parent";
        const char *wrong = check_place(c, x, bin, node);
        if (wrong != NULL) return wrong;
        /* Next in preorder: down left, down right, or up to the first right turn not taken. */
        const hole_links *links = hole_link(x, node);
        uint32_t next = links->child[0] != 0 ? links->child[0] : links->child[1];
        while (next == 0) {
            uint32_t parent = hole_link(x, node)->parent;
            if (parent == 0) return NULL;
            if (hole_link(x, parent)->child[0] == node) next = hole_link(x, parent)->child[1];
            node = parent;
        }
        node = next;
    }
}

const char *hole_index_check(const coalesce *c, const hole_index *x, uint32_t count)
{
    uint32_t bins = x->bins, words = word_count(x), left = count;
    for (uint32_t w = 0; w < words; w++)
        if ((x->words[w] != 0) != (x->summary[w >> 6] >> (w & 63) & 1)) return "a summary bit does not match its word";
    for (uint32_t g = 0; g <= words >> 6; g++)
        if ((x->summary[g] != 0) != (x->top >> g & 1)) return "a top bit does not match its summary";
    for (uint32_t bin = 0; bin < words << 6; bin++) {
        if (hole_bin_is_empty(x, bin)) continue;
        if (bin == 0 || bin >= bins) return "a bin that does not exist is marked";
        const char *wrong = check_bin(c, x, bin, &left);
        if (wrong != NULL) return wrong;
    }
    return left == 0 ? NULL : "an index does not hold every hole that it should";
}
