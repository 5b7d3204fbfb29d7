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
 * child up, level by level. No rotation, no balance to keep, no scan. What it gives up: order inside an exact bin. */
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

/* The functions below take `plain`, true for index[0], as a constant: each is compiled twice. */
#define HOLE_INLINE static inline __attribute__((always_inline))

HOLE_INLINE hole_links *hole_links_of(coalesce *c, hole_index *x, uint32_t node, bool plain)
{
    return plain ? &c->nodes[node].links : &x->extras[node].links;
}
HOLE_INLINE uint32_t hole_usable_of(const coalesce *c, const hole_index *x, uint32_t node, bool plain)
{
    return plain ? c->nodes[node].size : x->extras[node].usable;
}
HOLE_INLINE uint64_t hole_key(uint32_t usable, uint32_t offset) { return (uint64_t)usable << 32 | offset; }
HOLE_INLINE uint64_t hole_key_of(const coalesce *c, const hole_index *x, uint32_t node, bool plain)
{
    return hole_key(hole_usable_of(c, x, node, plain), c->nodes[node].offset);
}

/* The turns of a key, first turn in the top bit; usable >= 1. Different holes of a bin have different paths. */
HOLE_INLINE uint64_t hole_path(const hole_index *x, uint64_t key)
{
    uint32_t usable = (uint32_t)(key >> 32);
    if (likely(usable < x->exact_sizes)) return (uint64_t)((uint32_t)key * HOLE_PATH_FACTOR) << 32;
    return key << ((unsigned)__builtin_clz(usable) + 1 + HOLE_BINS_PER_DOUBLING_LOG2);
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

HOLE_INLINE bool hole_bin_is_empty(const hole_index *x, uint32_t bin) { return !(x->words[bin >> 6] >> (bin & 63) & 1); }

HOLE_INLINE void hole_bin_mark(hole_index *x, uint32_t bin)
{
    x->words[bin >> 6] |= (uint64_t)1 << (bin & 63);
    x->summary[bin >> 12] |= (uint64_t)1 << (bin >> 6 & 63);
    x->top |= (uint64_t)1 << (bin >> 12);
}

HOLE_INLINE void hole_bin_clear(hole_index *x, uint32_t bin)
{
    if ((x->words[bin >> 6] &= ~((uint64_t)1 << (bin & 63))) != 0) return;
    if ((x->summary[bin >> 12] &= ~((uint64_t)1 << (bin >> 6 & 63))) != 0) return;
    x->top &= ~((uint64_t)1 << (bin >> 12));
}

/* The first bin >= `bin` that has a hole; 0: none. bin <= hole_bin_count. */
HOLE_INLINE uint32_t hole_bin_next(const hole_index *x, uint32_t bin)
{
    uint32_t word = bin >> 6, group = bin >> 12;
    uint64_t bits = x->words[word] & ~(uint64_t)0 << (bin & 63);
    if (bits != 0) return word << 6 | bits_lowest(bits);
    bits = x->summary[group] & ~bits_mask((word & 63) + 1);
    if (bits == 0) {
        uint64_t groups = x->top & ~bits_mask(group + 1);
        if (groups == 0) return 0;
        group = bits_lowest(groups);
        bits = x->summary[group];
    }
    word = group << 6 | bits_lowest(bits);
    return word << 6 | bits_lowest(x->words[word]);
}

/* The first hole of `bin` with at least `usable` granules, which is a size of that bin; 0: none. One walk: where the
 * bound turns left, all of the right subtrie is above it, and its root is the smallest of those. */
HOLE_INLINE uint32_t hole_index_bound(coalesce *c, hole_index *x, uint32_t bin, uint32_t usable, bool plain)
{
    uint64_t bound = hole_key(usable, 0), path = hole_path(x, bound);
    uint32_t node = x->heads[bin], above = 0;
    while (node != 0 && hole_key_of(c, x, node, plain) < bound) {
        const hole_links *links = hole_links_of(c, x, node, plain);
        if (path >> 63 == 0 && links->child[1] != 0) above = links->child[1];
        node = links->child[path >> 63];
        path <<= 1;
    }
    return node != 0 ? node : above;
}

/* The hole with the smallest usable size >= `usable` >= 1, lowest offset first; 0: none. */
HOLE_INLINE uint32_t hole_index_best(coalesce *c, hole_index *x, uint32_t usable, bool plain)
{
    uint32_t bin = hole_bin(x, usable);
    if (unlikely(usable >= x->exact_sizes)) {
        if (!hole_bin_is_empty(x, bin)) {
            uint32_t node = hole_index_bound(c, x, bin, usable, plain);
            if (node != 0) return node;
        }
        bin++;
    }
    bin = hole_bin_next(x, bin);
    return bin != 0 ? x->heads[bin] : 0;
}

void hole_index_insert_below(coalesce *c, hole_index *x, uint32_t node, uint32_t bin);
void hole_index_insert_below_plain(coalesce *c, hole_index *x, uint32_t node, uint32_t bin);
void hole_index_pull_up(coalesce *c, hole_index *x, uint32_t node, uint32_t bin);
void hole_index_pull_up_plain(coalesce *c, hole_index *x, uint32_t node, uint32_t bin);

/* Puts a hole in; its offset and size (and usable, for a named alignment) are set. */
HOLE_INLINE void hole_index_insert(coalesce *c, hole_index *x, uint32_t node, bool plain)
{
    uint32_t bin = hole_bin(x, hole_usable_of(c, x, node, plain));
    x->count++;
    if (hole_bin_is_empty(x, bin)) {
        *hole_links_of(c, x, node, plain) = (hole_links){{0, 0}, 0};
        x->heads[bin] = node;
        hole_bin_mark(x, bin);
    } else if (plain) {
        hole_index_insert_below_plain(c, x, node, bin);
    } else {
        hole_index_insert_below(c, x, node, bin);
    }
}

/* Takes a hole out; its offset and size are still those that it was put in with. */
HOLE_INLINE void hole_index_remove(coalesce *c, hole_index *x, uint32_t node, bool plain)
{
    uint32_t bin = hole_bin(x, hole_usable_of(c, x, node, plain));
    const hole_links *links = hole_links_of(c, x, node, plain);
    x->count--;
    if ((links->child[0] | links->child[1] | links->parent) == 0)
        hole_bin_clear(x, bin);
    else if (plain)
        hole_index_pull_up_plain(c, x, node, bin);
    else
        hole_index_pull_up(c, x, node, bin);
}

/* Forgets everything. O(bins / 64). */
void hole_index_clear(hole_index *x);
/* The largest usable size, 0: none. */
uint32_t hole_index_largest(coalesce *c, hole_index *x);
/* NULL, or what is wrong with index i of c. */
const char *hole_index_check(coalesce *c, hole_index *x);

#endif
