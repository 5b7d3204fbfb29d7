/* medium_cache: the blocks over 4 KiB that a thread has freed lately, by size.
 *
 * A request and a freed block meet in a *bin*, one per size that medium_round can give: 64 per doubling from 4 KiB to
 * 32 MiB; a block that is up to an eighth larger will do. A bin is a list, latest first, threaded through 127 entries.
 * An entry knows its block's handle, and the handle knows the bin, so that a block comes and goes by touching the
 * entry, the handle and nothing else.
 *
 * The latest block of all stands in front, in a place of its own: a program that takes and frees one block again and
 * again is served from there, and its next call need not wait for the tables to say where.
 *
 * Bounds: in front one block of at most bytes_max; in the bins MEDIUM_CACHE_ENTRIES blocks, bytes_max in all, none
 * larger than a quarter of that. What must make room goes half of the entries at a time, by their places, which is
 * roughly oldest first, and to the medium's quick lists under one lock. bytes_max starts small and doubles when blocks
 * are given back that had to be asked for again, to a share of what the heap holds (a sixteenth), divided by the
 * threads, or to 1 MiB (of many threads less), whichever is more; it starts again when the thread has been idle. Part
 * of a thread cache: one thread's. */
#ifndef ACRE_HEAP_MEDIUM_CACHE_H
#define ACRE_HEAP_MEDIUM_CACHE_H

#include "alloc/medium.h"

enum { MEDIUM_CACHE_ENTRIES = 127, MEDIUM_CACHE_WORDS = 2 }; /* a bit for each, from 1 on */
#define MEDIUM_CACHE_BYTES_FIRST (256 * KIB)

typedef struct medium_cached {
    void *block; /* NULL: the entry is free */
    medium_handle *handle;
    uint32_t bytes;
    uint16_t bin;
    uint8_t next, prev; /* in the bin; 0 = none */
} medium_cached;

typedef struct medium_cache {
    medium_cached front;
    uint64_t spare[MEDIUM_CACHE_WORDS]; /* bit e: entry e is free */
    size_t bytes;      /* in the entries */
    size_t bytes_max;  /* now */
    size_t bytes_most; /* ever */
    size_t touched_seen; /* what the medium last said that it has touched */
    uint32_t refills;  /* since bytes_max last grew or something was given back */
    uint8_t hand;      /* where the search for the oldest goes on */
    uint64_t bins[MEDIUM_BINS / 64]; /* bit b: head[b] is one */
    uint8_t head[MEDIUM_BINS];
    medium_cached entry[MEDIUM_CACHE_ENTRIES + 1]; /* entry[0] takes stores that are for nobody */
} medium_cache;

void medium_cache_init(medium_cache *mc, size_t bytes_most);

/* A block of the size that the request rounds to, or a little larger; NULL: none is cached. */
static inline void *medium_cache_take(medium_cache *mc, size_t bytes)
{
    uint32_t bin = medium_bin(medium_round(bytes));
    medium_cached *c = &mc->front;
    void *block = c->block;
    if (block && medium_is_near(c->bin, bin)) {
        medium_handle_set_cached(c->handle, false);
        atomic_signal_fence(memory_order_release); /* a fork in between believes the handle */
        c->block = NULL;
        return block;
    }
    bin = medium_near_bin(mc->bins, bin);
    if (bin == MEDIUM_BIN_NONE) return NULL;
    uint32_t e = mc->head[bin];
    c = &mc->entry[e];
    block = c->block;
    mc->head[bin] = c->next;
    mc->bins[bin >> 6] ^= (uint64_t)(c->next == 0) << (bin & 63);
    mc->entry[c->next].prev = 0;
    mc->bytes -= c->bytes;
    medium_handle_set_cached(c->handle, false);
    atomic_signal_fence(memory_order_release);
    c->block = NULL;
    mc->spare[e >> 6] |= (uint64_t)1 << (e & 63);
    return block;
}

/* A marked block goes into its bin; there is room for it. */
static inline void medium_cache_file(medium_cache *mc, const medium_cached *from)
{
    uint32_t w = mc->spare[0] ? 0 : 1, e = w * 64 + bits_lowest(mc->spare[w]), bin = from->bin;
    medium_cached *c = &mc->entry[e];
    mc->spare[w] &= mc->spare[w] - 1;
    mc->bytes += from->bytes;
    c->block = from->block;
    c->handle = from->handle;
    c->bytes = from->bytes;
    c->bin = (uint16_t)bin;
    c->next = mc->head[bin];
    c->prev = 0;
    mc->entry[c->next].prev = (uint8_t)e;
    mc->head[bin] = (uint8_t)e;
    mc->bins[bin >> 6] |= (uint64_t)1 << (bin & 63);
}

static inline bool medium_cache_may_file(const medium_cache *mc, size_t bytes)
{
    return (mc->spare[0] | mc->spare[1]) && mc->bytes + bytes <= mc->bytes_max && bytes <= mc->bytes_max / 4;
}

/* Keeps a live block of `bytes` whose handle is h, if nothing must make room for it. */
static inline bool medium_cache_put_hit(medium_cache *mc, medium_handle *h, size_t bytes, void *block)
{
    uint32_t bin = medium_handle_bin(h);
    if (unlikely(bin == MEDIUM_BIN_NONE || bytes > mc->bytes_max)) return false;
    if (mc->front.block) {
        if (unlikely(!medium_cache_may_file(mc, mc->front.bytes))) return false;
        medium_cache_file(mc, &mc->front);
    }
    mc->front.handle = h;
    mc->front.bytes = (uint32_t)bytes;
    mc->front.bin = (uint16_t)bin;
    mc->front.block = block;
    atomic_signal_fence(memory_order_release);
    medium_handle_set_cached(h, true);
    return true;
}
/* The same; what must make room is given back. threads: how many share the heap. False: it is a block that no
 * request could find; it stays the caller's. */
bool medium_cache_put(medium_cache *mc, medium_handle *h, size_t bytes, void *block, uint32_t threads);
/* The thread has been idle: the bound is what it was at first. */
void medium_cache_shrink(medium_cache *mc);
/* A block from the medium, and a few more of its size into the cache. NULL: there is none. */
void *medium_cache_refill(medium_cache *mc, struct medium *m, size_t bytes, bool zero);
/* Gives up to `count` blocks back, roughly the oldest first. False: there is none. */
bool medium_cache_give(medium_cache *mc, uint32_t count);
/* In the child of a fork, with the cache of a thread that may have been anywhere in the calls above: whatever is surely
 * in it is freed, the rest is lost, and it is empty. */
void medium_cache_adopt(medium_cache *mc);
size_t medium_cache_bytes(const medium_cache *mc);
uint32_t medium_cache_blocks(const medium_cache *mc);
bool medium_cache_check(const medium_cache *mc);

#endif
