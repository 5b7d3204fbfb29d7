/* hole_index: the size table of coalesce.h: exact best fit, lowest address first among equals.
 *
 * Private to coalesce.c and hole_index.c. Holes lie in bins by usable size, and three levels of bitmap find the first
 * bin that has one:
 *
 *   row       sizes         a bin is for                                   bins of a row
 *   0         1             one size and 1/2048 of the range               2048
 *   1         2, 3          one size and 1/1024 of the range               2048
 *   ...
 *   10        1024 - 2047   one size and half of the range                 2048
 *   11, ...   2048 and up   one size                                       1 << row
 *   above     exact_sizes   several sizes: [64K, 68K) [68K, 72K) ...       16
 *
 * Small sizes have the more holes, so places part them; bins rise with (size, place), so the first bin that is marked
 * has the best hole. A range that outgrows the places is indexed anew (coalesce.c, spread).
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
 * child up, level by level. No rotation, no balance to keep, no scan. What it gives up: order inside an exact bin, and
 * 4 bytes for each of up to 39,000 bins, most of them never touched.
 *
 * Most bins have one hole or none. One that is alone in an exact bin has a flag in its node instead of links, so its
 * coming and going touches the bitmap, the head and the node, nothing else. */
#ifndef ACRE_ALLOC_HOLE_INDEX_H
#define ACRE_ALLOC_HOLE_INDEX_H

#include "alloc/coalesce.h"

enum {
    HOLE_BINS_PER_DOUBLING_LOG2 = 4,
    HOLE_EXACT_LOG2_MAX = 16,
    HOLE_WIDTH_LOG2_MAX = 11,
    HOLE_PLACE_LOG2_MIN = 5,
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

/* usable >= 1, offset < capacity. 0 < bin, and bins rise with (usable, place). */
HOLE_INLINE uint32_t hole_bin(const hole_index *x, uint32_t usable, uint32_t offset)
{
    const hole_row *row = &x->rows[(uint32_t)__builtin_clz(usable) ^ 31];
    return row->first + (uint32_t)((uint64_t)usable << row->up >> 32) + (uint32_t)((uint64_t)offset >> row->down);
}
/* The size that a bin below x->mixed is for. */
HOLE_INLINE uint32_t hole_bin_size(const hole_index *x, uint32_t bin)
{
    uint32_t width = x->width_log2, doubling = (bin >> width) - 1;
    doubling = doubling < width ? doubling : width;
    return (bin - (doubling << width)) >> (width - doubling);
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

/* The first bin >= `bin` that has a hole; 0: none. bin <= x->bins. */
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
    uint32_t bin = hole_bin(x, usable, 0), node;
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
    *found = likely(bin < x->mixed) ? hole_bin_size(x, bin) : hole_link(x, node)->order;
    return node;
}

/* A hole into a bin that is not empty, or of several sizes. */
void hole_index_insert_shared(coalesce *c, hole_index *x, uint32_t node, uint32_t bin, uint32_t usable);
/* A hole out of a bin where it has links. */
void hole_index_pull_up(coalesce *c, hole_index *x, uint32_t node, uint32_t bin);

/* Puts a hole in; its node has the offset, and no flag of x. */
HOLE_INLINE void hole_index_insert(coalesce *c, hole_index *x, uint32_t node, uint32_t offset, uint32_t usable)
{
    uint32_t bin = hole_bin(x, usable, offset);
    if (likely(bin < x->mixed && hole_bin_is_empty(x, bin))) {
        coalesce_at(c, node)->state |= x->alone;
        x->heads[bin] = node;
        hole_bin_mark(x, bin);
    } else {
        hole_index_insert_shared(c, x, node, bin, usable);
    }
}

/* Takes a hole out; offset and usable size are those which it was put in with. */
HOLE_INLINE void hole_index_remove(coalesce *c, hole_index *x, uint32_t node, uint32_t offset, uint32_t usable)
{
    uint32_t bin = hole_bin(x, usable, offset);
    coalesce_node *n = coalesce_at(c, node);
    if (likely(n->state & x->alone)) {
        n->state &= ~x->alone;
        hole_bin_clear(x, bin);
    } else {
        hole_index_pull_up(c, x, node, bin);
    }
}

/* Lays the bins out. exact_sizes: a power of two; capacity: 0 = not known, then sizes have one bin each for good. */
void hole_index_init(hole_index *x, uint32_t exact_sizes, uint32_t capacity);
/* Spreads the places of each size over a range that is longer now; the index is empty. */
void hole_index_spread(hole_index *x, uint32_t capacity);
/* Forgets everything. O(bins / 64). */
void hole_index_clear(hole_index *x);
/* The largest usable size, 0: none. */
uint32_t hole_index_largest(const hole_index *x);
/* NULL, or what is wrong with it; it should have `count` holes. */
const char *hole_index_check(const coalesce *c, const hole_index *x, uint32_t count);

#endif
