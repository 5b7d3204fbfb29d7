/* hole_index: the walks of the heap-ordered tries, and their verification. See hole_index.h for the picture. */
#include "alloc/hole_index.h"

/* --- insertion --------------------------------------------------------------------------------------------------
 *
 * depth d, slot s: where a hole whose path begins with d known turns may stand
 *   slot empty             -> it stands here
 *   its key is the larger  -> on into the subtrie of its next turn
 *   its key is the smaller -> it takes the place and the links of the one that stands here, which goes on */
HOLE_INLINE void insert_below(coalesce *c, hole_index *x, uint32_t node, uint32_t bin, bool plain)
{
    uint64_t key = hole_key_of(c, x, node, plain), path = hole_path(x, key);
    uint32_t parent = 0, at;
    uint32_t *slot = &x->heads[bin];
    for (unsigned depth = 1; (at = *slot) != 0; depth++) {
        hole_links *here = hole_links_of(c, x, at, plain);
        uint64_t key_here = hole_key_of(c, x, at, plain);
        if (key < key_here) {
            hole_links *links = hole_links_of(c, x, node, plain);
            *links = *here;
            if (links->child[0] != 0) hole_links_of(c, x, links->child[0], plain)->parent = node;
            if (links->child[1] != 0) hole_links_of(c, x, links->child[1], plain)->parent = node;
            *slot = node;
            here = links;
            uint32_t displaced = at;
            at = node, node = displaced;
            key = key_here, path = hole_path(x, key) << (depth - 1);
        }
        parent = at;
        slot = &here->child[path >> 63];
        path <<= 1;
    }
    *slot = node;
    *hole_links_of(c, x, node, plain) = (hole_links){{0, 0}, parent};
}

ACRE_NOINLINE void hole_index_insert_below(coalesce *c, hole_index *x, uint32_t node, uint32_t bin)
{
    insert_below(c, x, node, bin, false);
}
ACRE_NOINLINE void hole_index_insert_below_plain(coalesce *c, hole_index *x, uint32_t node, uint32_t bin)
{
    insert_below(c, x, node, bin, true);
}

/* --- removal ----------------------------------------------------------------------------------------------------
 *
 * A place falls vacant; the smaller of the two roots below it moves up, and its own place falls vacant. Turns that lead
 * to a child begin with those that lead to its parent, so a hole may always move up. */
HOLE_INLINE void pull_up(coalesce *c, hole_index *x, uint32_t node, uint32_t bin, bool plain)
{
    const hole_links *gone = hole_links_of(c, x, node, plain);
    uint32_t left = gone->child[0], right = gone->child[1], parent = gone->parent;
    uint32_t *slot = &x->heads[bin];
    if (parent != 0) {
        hole_links *links = hole_links_of(c, x, parent, plain);
        slot = &links->child[links->child[1] == node];
    }
    while ((left | right) != 0) {
        unsigned side = left == 0;
        if (left != 0 && right != 0) side = hole_key_of(c, x, right, plain) < hole_key_of(c, x, left, plain);
        uint32_t up = side ? right : left, stays = side ? left : right;
        hole_links *links = hole_links_of(c, x, up, plain);
        *slot = up;
        links->parent = parent;
        left = links->child[0], right = links->child[1];
        links->child[side ^ 1] = stays;
        if (stays != 0) hole_links_of(c, x, stays, plain)->parent = up;
        slot = &links->child[side];
        parent = up;
    }
    *slot = 0;
    /* A root without children is the caller's case: a bin never becomes empty here. */
}

ACRE_NOINLINE void hole_index_pull_up(coalesce *c, hole_index *x, uint32_t node, uint32_t bin)
{
    pull_up(c, x, node, bin, false);
}
ACRE_NOINLINE void hole_index_pull_up_plain(coalesce *c, hole_index *x, uint32_t node, uint32_t bin)
{
    pull_up(c, x, node, bin, true);
}

/* --- the rest --------------------------------------------------------------------------------------------------- */

static uint32_t word_count(const hole_index *x) { return (hole_bin_count(x->exact_sizes, x->exact_log2) >> 6) + 1; }

void hole_index_clear(hole_index *x)
{
    uint32_t words = word_count(x), groups = (words >> 6) + 1;
    for (uint32_t w = 0; w < words; w++) x->words[w] = 0;
    for (uint32_t g = 0; g < groups; g++) x->summary[g] = 0;
    x->top = 0;
    x->count = 0;
}

uint32_t hole_index_largest(coalesce *c, hole_index *x)
{
    if (x->top == 0) return 0;
    bool plain = x->extras == NULL;
    uint32_t word = bits_highest(x->top);
    word = word << 6 | bits_highest(x->summary[word]);
    uint32_t bin = word << 6 | bits_highest(x->words[word]), node = x->heads[bin];
    if (bin < x->exact_sizes) return bin;
    /* All of the right subtrie is above all of the left one, and both are above their root. */
    for (;;) {
        const hole_links *links = hole_links_of(c, x, node, plain);
        uint32_t below = links->child[1] != 0 ? links->child[1] : links->child[0];
        if (below == 0) return hole_usable_of(c, x, node, plain);
        node = below;
    }
}

/* The turns that lead from the root to `node`, first turn in the top bit; false: more than a path has, or a link that
 * its parent does not return. */
static bool turns_to(coalesce *c, hole_index *x, uint32_t node, bool plain, uint64_t *turns, unsigned *depth)
{
    *turns = 0, *depth = 0;
    for (uint32_t parent; (parent = hole_links_of(c, x, node, plain)->parent) != 0; node = parent) {
        const hole_links *links = hole_links_of(c, x, parent, plain);
        if (links->child[0] != node && links->child[1] != node) return false;
        *turns = *turns >> 1 | (uint64_t)(links->child[1] == node) << 63;
        if (++*depth > 63) return false;
    }
    return true;
}

/* Walks the trie of one bin in preorder by its links alone; counts what it meets. */
static const char *check_bin(coalesce *c, hole_index *x, uint32_t bin, uint32_t *met)
{
    bool plain = x->extras == NULL;
    uint32_t node = x->heads[bin];
    if (node == 0 || node >= c->node_fresh) return "a marked bin has no root";
    if (hole_links_of(c, x, node, plain)->parent != 0) return "a root has a parent";
    for (;;) {
        if (++*met > x->count) return "an index has more holes than it counts, or a cycle";
        if (!coalesce_is_hole(c, node)) return "an index has a node that is not a hole";
        uint32_t usable = hole_usable_of(c, x, node, plain);
        if (usable != hole_usable(c->nodes[node].offset, c->nodes[node].size, x->align_log2))
            return "a hole's usable size is not the one it was put in with";
        if (usable == 0 || hole_bin(x, usable) != bin) return "a hole is in a wrong bin";
        uint64_t turns, key = hole_key_of(c, x, node, plain);
        unsigned depth;
        if (!turns_to(c, x, node, plain, &turns, &depth)) return "a trie's links do not agree, or it is too deep";
        if (((turns ^ hole_path(x, key)) & ~bits_mask(64 - depth)) != 0) return "a hole does not stand on its path";
        const hole_links *links = hole_links_of(c, x, node, plain);
        if (links->parent != 0 && hole_key_of(c, x, links->parent, plain) >= key) return "a trie is not heap-ordered";
        for (int side = 0; side < 2; side++) {
            uint32_t child = links->child[side];
            if (child >= c->node_fresh) return "a child is no node";
            if (child != 0 && hole_links_of(c, x, child, plain)->parent != node) return "a child has another parent";
        }
        if (links->child[0] == links->child[1] && links->child[0] != 0) return "both children are one";
        /* Next in preorder: down left, down right, or up to the first right turn not taken. */
        uint32_t next = links->child[0] != 0 ? links->child[0] : links->child[1];
        while (next == 0) {
            uint32_t parent = hole_links_of(c, x, node, plain)->parent;
            if (parent == 0) return NULL;
            const hole_links *above = hole_links_of(c, x, parent, plain);
            if (above->child[0] == node) next = above->child[1];
            node = parent;
        }
        node = next;
    }
}

const char *hole_index_check(coalesce *c, hole_index *x)
{
    uint32_t bins = hole_bin_count(x->exact_sizes, x->exact_log2), words = word_count(x), met = 0;
    for (uint32_t w = 0; w < words; w++)
        if ((x->words[w] != 0) != (x->summary[w >> 6] >> (w & 63) & 1)) return "a summary bit does not match its word";
    for (uint32_t g = 0; g <= words >> 6; g++)
        if ((x->summary[g] != 0) != (x->top >> g & 1)) return "a top bit does not match its summary";
    for (uint32_t bin = 0; bin < words << 6; bin++) {
        if (hole_bin_is_empty(x, bin)) continue;
        if (bin == 0 || bin >= bins) return "a bin that does not exist is marked";
        const char *wrong = check_bin(c, x, bin, &met);
        if (wrong != NULL) return wrong;
    }
    return met == x->count ? NULL : "an index counts more holes than its bins hold";
}
