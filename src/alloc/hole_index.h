/* hole_index: the size table of coalesce.h: exact best fit, lowest address first among equals.
 *
 * Private to coalesce.c and hole_index.c. Holes lie in bins by usable size, and three levels of bitmap find the first
 * bin that has one:
 *
 *   bin  1  2  3 ... exact_sizes - 1 | 16 bins per doubling above: [64K, 68K) [68K, 72K) ...
 *        one size each               | several sizes each
 *
 * In a bin is a *heap-ordered trie*: the root is the bin's first hole in the order key = (usable, offset); the others
 * are divided by the first bit of their path into two subtries, and so on with the next bit.
 *   key(n) < key(child of n)                          so the minimum costs nothing
 *   path(n) begins with the turns that lead to n      so depth <= bits of a path, whatever the caller does
 * In a bin of one size nobody asks for more than the minimum, so the path is the offset times an odd number: a
 * bijection that spreads clustered and aligned offsets evenly, depth ~ log2 of the bin. In a bin of several sizes the
 * path is the key, without the bits that all of the bin share, so that a lower bound is one walk down.
 *
 * Insertion walks down; a smaller key takes the place of the one it meets, which walks on. Removal pulls the smaller
 * child up, level by level. No rotation, no balance to keep, no scan. What it gives up: order inside an exact bin.
 *
 * Most bins have one hole or none. One that is alone in an exact bin has a flag in its node instead of links, so its
 * coming and going touches the bitmap, the head and the node, nothing else. */
#ifndef ACRE_ALLOC_HOLE_INDEX_H
#define ACRE_ALLOC_HOLE_INDEX_H

#include "alloc/coalesce.h"

enum {
    HOLE_BINS_PER_DOUBLING_LOG2 = 4,
    HOLE_EXACT_LOG2_MAX = 16,
};

/* Odd, near 2^32 / golden ratio: consecutive multiples fall into the largest interval left. */
#define HOLE_PATH_FACTOR 0x9E3779B1u

/* Granules of [offset, offset + size) from its first multiple of 1 << align_log2 on. */
static inline uint32_t hole_usable(uint32_t offset, uint32_t size, unsigned align_log2)
{
    uint64_t start = align_up(offset, (uint64_t)1 << align_log2), end = (uint64_t)offset + size;
    return start < end ? (uint32_t)(end - start) : 0;
}

#define HOLE_INLINE static inline __attribute__((always_inline))

HOLE_INLINE uint64_t hole_key(uint32_t usable, uint32_t offset) { return (uint64_t)usable << 32 | offset; }

/* The turns of a hole, first turn in the top bit. Different holes of a bin have different paths. */
HOLE_INLINE uint64_t hole_exact_path(uint32_t offset) { return (uint64_t)(offset * HOLE_PATH_FACTOR) << 32; }
HOLE_INLINE uint64_t hole_mixed_path(uint64_t key)
{
    return key << ((unsigned)__builtin_clz((uint32_t)(key >> 32)) + 1 + HOLE_BINS_PER_DOUBLING_LOG2);
}

/* usable >= 1 */
HOLE_INLINE uint32_t hole_bin(const hole_index *x, uint32_t usable)
{
    if (likely(usable < x->exact_sizes)) return usable;
    uint32_t doubling = 31u - (uint32_t)__builtin_clz(usable);
    uint32_t step = (usable >> (doubling - HOLE_BINS_PER_DOUBLING_LOG2)) & ((1u << HOLE_BINS_PER_DOUBLING_LOG2) - 1);
    return x->exact_sizes + ((doubling - x->exact_log2) << HOLE_BINS_PER_DOUBLING_LOG2) + step;
}
/* One more than the last bin. */
static inline uint32_t hole_bin_count(uint32_t exact_sizes, uint32_t exact_log2)
{
    return exact_sizes + ((32 - exact_log2) << HOLE_BINS_PER_DOUBLING_LOG2);
}

HOLE_INLINE bool hole_bin_is_empty(const hole_index *x, uint32_t bin)
{
    return !(x->words[bin >> 6] >> (bin & 63) & 1);
}

/* Whether a word has another bin is anybody's guess, and a wrong one costs 20 cycles: so these three do not branch
 * on it. That the next bin is in the same group of 4,096 is the rule. */
HOLE_INLINE void hole_bin_mark(hole_index *x, uint32_t bin)
{
    x->words[bin >> 6] |= (uint64_t)1 << (bin & 63);
    x->summary[bin >> 12] |= (uint64_t)1 << (bin >> 6 & 63);
    x->top |= (uint64_t)1 << (bin >> 12);
}

HOLE_INLINE void hole_bin_clear(hole_index *x, uint32_t bin)
{
    uint64_t word = x->words[bin >> 6] & ~((uint64_t)1 << (bin & 63));
    x->words[bin >> 6] = word;
    uint64_t group = x->summary[bin >> 12] & ~((uint64_t)(word == 0) << (bin >> 6 & 63));
    x->summary[bin >> 12] = group;
    if (unlikely(group == 0)) x->top &= ~((uint64_t)1 << (bin >> 12));
}

/* The first bin >= `bin` that has a hole; 0: none. bin <= hole_bin_count. */
HOLE_INLINE uint32_t hole_bin_next(const hole_index *x, uint32_t bin)
{
    uint32_t word = bin >> 6, group = bin >> 12;
    uint64_t mask = ~(uint64_t)0 << (bin & 63), here = x->words[word] & mask;
    uint64_t above = x->summary[group] & ~bits_mask((word & 63) + 1);
    if (unlikely((here | above) == 0)) {
        uint64_t groups = x->top & ~bits_mask(group + 1);
        if (groups == 0) return 0;
        group = bits_lowest(groups);
        above = x->summary[group];
    }
    uint64_t use_above = (uint64_t)(here != 0) - 1; /* all ones or none */
    uint32_t word_above = group << 6 | bits_lowest(above | (uint64_t)1 << 63);
    word ^= (word ^ word_above) & (uint32_t)use_above;
    return word << 6 | bits_lowest(x->words[word] & (mask | use_above));
}

/* The first hole with at least `usable` granules, a size of `bin`, which is of several sizes and not empty; 0: none. */
uint32_t hole_index_bound(const coalesce *c, const hole_index *x, uint32_t bin, uint32_t usable);

/* The hole with the smallest usable size >= `usable` >= 1, lowest offset first; 0: none. *found is its usable size. */
HOLE_INLINE uint32_t hole_index_best(const coalesce *c, const hole_index *x, uint32_t usable, uint32_t *found)
{
    uint32_t bin = hole_bin(x, usable), node;
    if (unlikely(usable >= x->exact_sizes)) {
        if (!hole_bin_is_empty(x, bin) && (node = hole_index_bound(c, x, bin, usable)) != 0) {
            *found = hole_link(x, node)->order;
            return node;
        }
        bin++;
    }
    bin = hole_bin_next(x, bin);
    if (unlikely(bin == 0)) return 0;
    node = x->heads[bin];
    *found = likely(bin < x->exact_sizes) ? bin : hole_link(x, node)->order;
    return node;
}

/* A hole into a bin that is not empty. */
void hole_index_insert_exact(coalesce *c, hole_index *x, uint32_t node, uint32_t bin);
void hole_index_insert_mixed(coalesce *c, hole_index *x, uint32_t node, uint32_t bin, uint32_t usable);
/* A hole out of a bin where it has links. */
void hole_index_pull_up(coalesce *c, hole_index *x, uint32_t node, uint32_t bin);

/* Puts a hole in; its node has the offset, and no flag of x. */
HOLE_INLINE void hole_index_insert(coalesce *c, hole_index *x, uint32_t node, uint32_t usable)
{
    uint32_t bin = hole_bin(x, usable);
    if (unlikely(usable >= x->exact_sizes)) {
        hole_index_insert_mixed(c, x, node, bin, usable);
    } else if (hole_bin_is_empty(x, bin)) {
        c->nodes[node].state |= x->alone;
        x->heads[bin] = node;
        hole_bin_mark(x, bin);
    } else {
        hole_index_insert_exact(c, x, node, bin);
    }
}

/* Takes a hole out; its offset and usable size are those that it was put in with. */
HOLE_INLINE void hole_index_remove(coalesce *c, hole_index *x, uint32_t node, uint32_t usable)
{
    uint32_t bin = hole_bin(x, usable);
    if (c->nodes[node].state & x->alone) {
        c->nodes[node].state &= ~x->alone;
        hole_bin_clear(x, bin);
    } else {
        hole_index_pull_up(c, x, node, bin);
    }
}

/* Forgets everything. O(bins / 64). */
void hole_index_clear(hole_index *x);
/* The largest usable size, 0: none. */
uint32_t hole_index_largest(const hole_index *x);
/* NULL, or what is wrong with it; it should have `count` holes. */
const char *hole_index_check(const coalesce *c, const hole_index *x, uint32_t count);

#endif
