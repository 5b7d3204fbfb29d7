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
 * Memory: 32 bytes per node, 16 more per named alignment; nodes <= 2 * (blocks + gaps + 1). Nodes are named by index, so
 * their array may move when it grows. A call reserves the nodes that it needs before it changes anything, so a failure
 * leaves no trace; coalesce_free never needs any and cannot fail for lack of memory.
 *
 * No lock inside: the caller serialises calls. All are O(log holes) expected, O(64) worst, but for _reset (O(bins / 64),
 * O(nodes) with gaps), _check (everything) and the copying of a memory callback that moves. */
#ifndef ACRE_ALLOC_COALESCE_H
#define ACRE_ALLOC_COALESCE_H

#include "base/bits.h"

enum {
    COALESCE_EXTRA_MAX = 3,
    COALESCE_INDEX_MAX = 1 + COALESCE_EXTRA_MAX,
};

/* Offsets stay below 2^32 - 1, so that offset + size fits into 32 bits. */
#define COALESCE_CAPACITY_MAX (UINT32_MAX - 1)

/* Where nodes and tables live. There is one array per part: part 0, and one more for each named alignment. */
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
    uint32_t capacity;    /* granules that are free at first; 0: none until coalesce_extend or _add_range */
    uint32_t exact_sizes; /* hole sizes below it have a bin each: a power of two, 16 to 65,536; 0: 4,096 (17 KiB) */
    uint32_t node_count;  /* nodes to make room for at init; 0: 96 */
    uint8_t extra_align_log2[COALESCE_EXTRA_MAX]; /* named alignments, log2 of granules, 1 to 31; 0: none */
} coalesce_options;

/* The low two bits of a node's state word; the other thirty count its frees. */
enum coalesce_state { COALESCE_SPARE, COALESCE_HOLE, COALESCE_USED, COALESCE_GAP };

/* A place in one of the tries of hole_index.h. parent == 0: the root of its bin. */
typedef struct hole_links {
    uint32_t child[2];
    uint32_t parent;
} hole_links;

/* One piece of the range.
 *   node[n.next].offset == n.offset + n.size          the ring covers [0, capacity) without a gap or an overlap
 *   n and n.next are never both holes
 *   hole <=> in index[0]; in index[i] <=> usable size at that alignment > 0 */
typedef struct coalesce_node {
    uint32_t offset, size;
    uint32_t prev, next; /* address order; of a spare node, next is the next spare */
    union {
        struct {
            hole_links links; /* hole: in index[0] */
            uint32_t hole_state;
        };
        struct {
            uint64_t tag; /* used: the caller's */
            uint32_t unused;
            uint32_t state; /* generation << 2 | coalesce_state */
        };
    };
} coalesce_node;
_Static_assert(sizeof(coalesce_node) == 32, "two nodes to a cache line");
_Static_assert(offsetof(coalesce_node, hole_state) == offsetof(coalesce_node, state), "one state word");

/* Links of a hole in the index of a named alignment. */
typedef struct hole_extra {
    hole_links links;
    uint32_t usable; /* granules from the first aligned one; 0: not in this index */
} hole_extra;
_Static_assert(sizeof(hole_extra) == 16, "four to a cache line");

/* The size table of one alignment; see hole_index.h. */
typedef struct hole_index {
    uint32_t *heads;    /* [bin] root of the bin's trie; means nothing where the bin's bit is clear */
    uint64_t *words;    /* bit b: bin b has a hole */
    uint64_t *summary;  /* bit w: words[w] != 0 */
    uint64_t top;       /* bit s: summary[s] != 0 */
    hole_extra *extras; /* [node]; NULL in index[0], whose links are in the nodes */
    uint32_t exact_sizes;
    uint32_t exact_log2;
    uint32_t align_log2;
    uint32_t count; /* holes in it */
} hole_index;

typedef struct coalesce {
    coalesce_node *nodes;
    uint32_t capacity;     /* end of the managed range */
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
    uint32_t table_bytes;  /* of each part, before its array of nodes or links */
    hole_index index[COALESCE_INDEX_MAX]; /* named alignments in rising order */
    void *part_base[COALESCE_INDEX_MAX];
    size_t part_bytes[COALESCE_INDEX_MAX];
    coalesce_memory memory;
} coalesce;

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

/* Granules in the largest hole (usable at alignment 1); 0: none. */
uint32_t coalesce_largest_hole(const coalesce *c);
/* Verifies every equation above and the tries. NULL: all hold; else a sentence about the first that does not. */
const char *coalesce_check(const coalesce *c);

/* --- queries: no calls, no checks; `node` is a block, a hole or a gap ------------------------------------------ */

static inline uint32_t coalesce_offset(const coalesce *c, uint32_t node) { return c->nodes[node].offset; }
static inline uint32_t coalesce_size(const coalesce *c, uint32_t node) { return c->nodes[node].size; }
static inline enum coalesce_state coalesce_state_of(const coalesce *c, uint32_t node)
{
    return (enum coalesce_state)(c->nodes[node].state & 3);
}
static inline bool coalesce_is_used(const coalesce *c, uint32_t node) { return coalesce_state_of(c, node) == COALESCE_USED; }
static inline bool coalesce_is_hole(const coalesce *c, uint32_t node) { return coalesce_state_of(c, node) == COALESCE_HOLE; }

/* Address order: for (n = coalesce_first(c); n != 0; n = coalesce_next(c, n)). 0: none. */
static inline uint32_t coalesce_first(const coalesce *c) { return c->nodes[0].next; }
static inline uint32_t coalesce_last(const coalesce *c) { return c->nodes[0].prev; }
static inline uint32_t coalesce_next(const coalesce *c, uint32_t node) { return c->nodes[node].next; }
static inline uint32_t coalesce_prev(const coalesce *c, uint32_t node) { return c->nodes[node].prev; }

/* 64 bits of the caller's per block. */
static inline uint64_t coalesce_tag(const coalesce *c, uint32_t node) { return c->nodes[node].tag; }
static inline void coalesce_set_tag(coalesce *c, uint32_t node, uint64_t tag) { c->nodes[node].tag = tag; }

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
    return (uint64_t)(c->nodes[node].state >> 2) << 32 | node;
}
/* The live block that the handle names, or 0. */
static inline uint32_t coalesce_resolve(const coalesce *c, uint64_t handle)
{
    uint32_t node = (uint32_t)handle;
    if (unlikely(node == 0 || node >= c->node_fresh)) return 0;
    return c->nodes[node].state == ((uint32_t)(handle >> 32) << 2 | COALESCE_USED) && handle >> 62 == 0 ? node : 0;
}
/* After coalesce_resolve said 0: true if the handle named a block once, false if it never can have. */
bool coalesce_handle_is_stale(const coalesce *c, uint64_t handle);

#endif
