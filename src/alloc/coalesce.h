/* coalesce: best fit, split and coalesce over a range of numbers, with all bookkeeping beside the memory.
 *
 * Layer 4. It hands out [offset, offset + size) of a range [0, capacity) and never touches what lies behind it, so RAM,
 * GPU memory and address space share this code. Everything counts in *granules*; how many bytes one is, is the
 * caller's business. Ideas: boundary tags (Knuth), their bookkeeping moved out of band as in MacDougall's "Building a
 * Low-Fragmentation Memory System" (GDC 2016); the size table is hole_index.h.
 *
 *   address order  0 <-> 3 <-> 1 <-> 7 <-> 2 <-> 0      nodes by index, a ring through node 0, the sentinel
 *                      used  hole  used  hole
 *   size order     index[0] holds every hole by size; index[1..3] hold, for each alignment named at init, the holes
 *                  by the size that is usable at that alignment: end - align_up(offset)
 *
 * The answer is exact: the hole with the smallest usable size that is enough, and among equals the lowest address, for
 * one granule and for every named alignment. A block starts at the first aligned granule of its hole; what lies before
 * and after it stay holes. Other alignments work, too (see coalesce_alloc).
 *
 * Best fit leaves many holes that are too small for anything. An index leaves out those below its *floor*, a size that
 * nobody asked for less than so far; they merge like all others and cost nothing else (at 768 MiB of 4-128 KiB blocks
 * that is 40% of the time). A smaller request lowers the floor, to a power of two, and takes in what it has left out.
 *
 * Memory: 32 bytes per node, 16 more per named alignment, up to 162 KiB of table per index (see exact_sizes), of which
 * only what is used is touched; nodes <= 2 * (blocks + gaps + 1). Nodes are named by index, so their array may move
 * when it grows. A call reserves the nodes that it needs before it changes anything, so a failure leaves no trace;
 * coalesce_free never needs any and cannot fail for lack of memory.
 *
 * No lock inside: the caller serialises calls. All are O(log holes) expected, O(64) worst, but for: a request below the
 * floor (O(nodes), at most 32 times per index in the life of a heap; never, if options.size_min is kept), _extend and
 * _add_range past a power of two (O(nodes)), _largest_hole when no hole is above the floor (O(nodes)), _reset
 * (O(bins / 64), O(nodes) with gaps), _check, and the copying of a memory callback that moves. */
#ifndef ACRE_ALLOC_COALESCE_H
#define ACRE_ALLOC_COALESCE_H

#include "base/bits.h"

enum {
    COALESCE_EXTRA_MAX = 3,
    COALESCE_INDEX_MAX = 1 + COALESCE_EXTRA_MAX,
    COALESCE_GROUP = 64,
};

/* Offsets stay below 2^32 - 1, so that offset + size fits into 32 bits. */
#define COALESCE_CAPACITY_MAX (UINT32_MAX - 1)

/* Where nodes and tables live. There is one array per part: part 0, and one more for each named alignment.
 * Part 0 needs 32 bytes per node, the others 16, and each a table as exact_sizes says. */
typedef struct coalesce_memory {
    void *context;
    /* An array of new_bytes that begins with the old_bytes of `old` (NULL and 0 at first), at the same or at another
     * address that is a multiple of 64. NULL: no memory, and `old` is as it was. Contents need not be zero. */
    void *(*grow)(void *context, unsigned part, void *old, size_t old_bytes, size_t new_bytes);
    /* Takes an array back, in coalesce_destroy or a failed init. NULL: the owner does so by himself. */
    void (*release)(void *context, unsigned part, void *base, size_t bytes);
} coalesce_memory;

typedef struct coalesce_options {
    coalesce_memory memory;
    uint32_t capacity;       /* granules that are free at first; 0: none until coalesce_extend or _add_range */
    uint32_t capacity_later; /* what the range may grow to, if it is known: bins are laid out for it; 0: as capacity.
                              * More is allowed all the same */
    uint32_t exact_sizes; /* hole sizes below it share a bin with no other: a power of two, 16 to 65,536; 4 bytes per
                           * bin, one for each size or up to 2,048 per doubling of small sizes (by the larger
                           * capacity); 0: 16,384, or the power of two above capacity if that is less */
    uint32_t size_min;    /* smallest size that will be asked for, where the floor starts; 0: learn it from requests */
    uint32_t node_count;  /* nodes to make room for at init; 0: 256 */
    uint8_t extra_align_log2[COALESCE_EXTRA_MAX]; /* named alignments, log2 of granules, 1 to 31; 0: none */
} coalesce_options;

/* The low two bits of a node's state word. The next four are flags, the other 26 count its frees. */
enum coalesce_state { COALESCE_SPARE, COALESCE_HOLE, COALESCE_USED, COALESCE_GAP };
enum {
    COALESCE_TAGGED = 4, /* of a block: its tag is not 0 */
    COALESCE_ALONE = 4,  /* of a hole, << i: alone in its exact bin of index i, its links there mean nothing */
    COALESCE_GENERATION_SHIFT = 6,
};

/* A hole's place in a trie of hole_index.h, unless it is alone; of a block, the children in index 0 are its tag. */
typedef struct hole_links {
    uint32_t child[2];
    uint32_t parent; /* 0: the root of its bin */
    uint32_t order;  /* its usable size */
} hole_links;
_Static_assert(sizeof(hole_links) == 16, "16 bytes per node and named alignment");

/* One piece of the range, from its offset to that of the next.
 *   n.next.offset > n.offset; node 0: offset == capacity      so the ring covers [0, capacity) exactly
 *   n and n.next are never both holes
 *   a hole is in index[i] <=> its usable size at that alignment >= index[i].floor */
typedef struct coalesce_node {
    uint32_t offset;
    uint32_t prev, next; /* address order; of a spare node, next is the next spare */
    uint32_t state;      /* generation << 6 | flags << 2 | coalesce_state */
} coalesce_node;
_Static_assert(sizeof(coalesce_node) == 16, "four nodes to a cache line");

/* The bins of one doubling of sizes: bin = first + (usable << up >> 32) + (offset >> down), in 64 bits. */
typedef struct hole_row {
    uint32_t first;
    uint8_t up, down;
} hole_row;

/* The size table of one alignment; see hole_index.h. */
typedef struct hole_index {
    uint64_t *words;   /* bit b: bin b has a hole */
    uint64_t *summary; /* bit w: words[w] != 0 */
    uint32_t *heads;   /* [bin] root of the bin's trie; means nothing where the bin's bit is clear */
    char *links;       /* hole_links, see hole_link */
    uint64_t top;      /* bit s: summary[s] != 0 */
    uint32_t group_mask; /* ~(COALESCE_GROUP - 1) for index 0, else 0 */
    uint32_t exact_sizes;   /* sizes below are alone in their bins */
    uint32_t width_log2;    /* bins of each doubling below it, sizes by places */
    uint32_t capacity_log2; /* offsets are below 1 << capacity_log2, or width_log2 is 0 */
    uint32_t bins;          /* one more than the last */
    uint32_t mixed;         /* the first bin of several sizes */
    uint32_t floor; /* >= 1; usable sizes below it are left out */
    uint32_t align_log2;
    uint32_t alone; /* COALESCE_ALONE << i */
    hole_row rows[32];
} hole_index;

typedef struct coalesce {
    char *nodes;           /* see coalesce_at */
    uint32_t capacity;     /* end of the managed range, == that of node 0 */
    uint32_t used;         /* granules in blocks */
    uint32_t gap;          /* granules in gaps; used + gap + holes == capacity */
    uint32_t block_count;
    uint32_t hole_count;
    uint32_t gap_count;
    uint32_t node_spare;   /* head of the list of spare nodes, 0: none */
    uint32_t spare_count;  /* spare nodes: on the list, and above node_fresh */
    uint32_t node_fresh;   /* nodes from here on are in no list */
    uint32_t node_touched; /* nodes below have been in use once: their generation counts */
    uint32_t node_capacity;
    uint32_t index_count;  /* 1 + named alignments */
    uint32_t table_bytes;  /* of each index, before its array of links */
    hole_index index[COALESCE_INDEX_MAX]; /* named alignments in rising order */
    void *part_base[COALESCE_INDEX_MAX];
    size_t part_bytes[COALESCE_INDEX_MAX];
    coalesce_memory memory;
} coalesce;

/* Part 0 has groups of 64 nodes, 1 KiB, and their links for index 0, another KiB: what lies beside a block is looked at
 * with every free, the links of few holes ever, so they should not fill the cache together. */
static inline coalesce_node *coalesce_at(const coalesce *c, uint32_t node)
{
    size_t place = (size_t)node + (node & ~(uint32_t)(COALESCE_GROUP - 1));
    return (coalesce_node *)(void *)(c->nodes + place * sizeof(coalesce_node));
}
static inline hole_links *hole_link(const hole_index *x, uint32_t node)
{
    size_t place = (size_t)node + (node & x->group_mask);
    return (hole_links *)(void *)(x->links + place * sizeof(hole_links));
}

/* False: an option out of its bounds, or no memory; nothing is held then. */
bool coalesce_init(coalesce *c, const coalesce_options *options);
/* Gives all node memory back through memory.release. */
void coalesce_destroy(coalesce *c);
/* Frees every block; the range and its gaps stay, handles from before are stale. */
void coalesce_reset(coalesce *c);
/* Makes room for `count` nodes in all, so that no call needs memory while 2 * (blocks + gaps + 1) <= count. */
bool coalesce_reserve_nodes(coalesce *c, uint32_t count);

/* A block of `size` >= 1 granules that starts at a multiple of 1 << align_log2. The node's index, or 0: no room, or no
 * memory for nodes. *offset says where it starts; the tag is 0.
 * align_log2 0 or named: exact best fit. Another one: the near fits are looked at first (a bounded number), then a
 * hole so large that it must fit, then a larger named alignment; in a nearly full range it may miss a hole that would
 * just do. */
uint32_t coalesce_alloc(coalesce *c, uint32_t size, unsigned align_log2, uint32_t *offset);
/* The hole that the block became part of, or 0: `node` is not a live block. Nothing else fails. */
uint32_t coalesce_free(coalesce *c, uint32_t node);
/* Same offset, new size >= 1. False: what follows is not free (or too small), or, where the tail becomes a hole of its
 * own, no memory for a node; nothing changed then. */
bool coalesce_resize(coalesce *c, uint32_t node, uint32_t size);

/* The range ends at `capacity` >= the present one; the new part is free. False: no memory for a node, or too large. */
bool coalesce_extend(coalesce *c, uint32_t capacity);
/* The range ends at `capacity` <= the present one. False: a block is in the way; nothing changed then. */
bool coalesce_shrink(coalesce *c, uint32_t capacity);
/* Adds [offset, offset + size), offset >= the present capacity; what lies between is a gap and is never handed out. */
bool coalesce_add_range(coalesce *c, uint32_t offset, uint32_t size);

/* Granules in the largest hole; 0: none. */
uint32_t coalesce_largest_hole(const coalesce *c);
/* Verifies every equation above and the tries. NULL: all hold; else a sentence about the first that does not. */
const char *coalesce_check(const coalesce *c);

/* --- queries: no calls, no checks; `node` is a block, a hole or a gap ------------------------------------------ */

static inline uint32_t coalesce_offset(const coalesce *c, uint32_t node) { return coalesce_at(c, node)->offset; }
static inline uint32_t coalesce_size(const coalesce *c, uint32_t node)
{
    return coalesce_at(c, coalesce_at(c, node)->next)->offset - coalesce_at(c, node)->offset;
}
static inline enum coalesce_state coalesce_state_of(const coalesce *c, uint32_t node)
{
    return (enum coalesce_state)(coalesce_at(c, node)->state & 3);
}
static inline bool coalesce_is_used(const coalesce *c, uint32_t node)
{
    return coalesce_state_of(c, node) == COALESCE_USED;
}
static inline bool coalesce_is_hole(const coalesce *c, uint32_t node)
{
    return coalesce_state_of(c, node) == COALESCE_HOLE;
}

/* Address order: for (n = coalesce_first(c); n != 0; n = coalesce_next(c, n)). 0: none. */
static inline uint32_t coalesce_first(const coalesce *c) { return coalesce_at(c, 0)->next; }
static inline uint32_t coalesce_last(const coalesce *c) { return coalesce_at(c, 0)->prev; }
static inline uint32_t coalesce_next(const coalesce *c, uint32_t node) { return coalesce_at(c, node)->next; }
static inline uint32_t coalesce_prev(const coalesce *c, uint32_t node) { return coalesce_at(c, node)->prev; }

/* 64 bits of the caller's per block. */
static inline uint64_t coalesce_tag(const coalesce *c, uint32_t node)
{
    if (!(coalesce_at(c, node)->state & COALESCE_TAGGED)) return 0;
    return (uint64_t)hole_link(&c->index[0], node)->child[1] << 32 | hole_link(&c->index[0], node)->child[0];
}
static inline void coalesce_set_tag(coalesce *c, uint32_t node, uint64_t tag)
{
    hole_link(&c->index[0], node)->child[0] = (uint32_t)tag;
    hole_link(&c->index[0], node)->child[1] = (uint32_t)(tag >> 32);
    coalesce_at(c, node)->state |= COALESCE_TAGGED;
}

static inline uint32_t coalesce_free_granules(const coalesce *c) { return c->capacity - c->used - c->gap; }
/* Bytes of node memory held from the callback. */
static inline size_t coalesce_memory_bytes(const coalesce *c)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < c->index_count; i++) bytes += c->part_bytes[i];
    return bytes;
}

/* --- handles: an index with the generation that its block was made in, never 0 --------------------------------- */

static inline uint64_t coalesce_handle(const coalesce *c, uint32_t node)
{
    return (uint64_t)(coalesce_at(c, node)->state >> COALESCE_GENERATION_SHIFT) << 32 | node;
}
/* The live block that the handle names, or 0. */
static inline uint32_t coalesce_resolve(const coalesce *c, uint64_t handle)
{
    uint32_t node = (uint32_t)handle;
    if (unlikely(node == 0 || node >= c->node_fresh)) return 0;
    uint32_t state = coalesce_at(c, node)->state;
    return state >> COALESCE_GENERATION_SHIFT == handle >> 32 && (state & 3) == COALESCE_USED ? node : 0;
}
/* After coalesce_resolve said 0: true if the handle named a block once, false if it never can have. */
bool coalesce_handle_is_stale(const coalesce *c, uint64_t handle);

#endif
