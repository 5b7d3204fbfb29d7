/* medium: blocks over 4 KiB up to 32 MiB, split and coalesced by best fit, on 2 MiB pages that come and go.
 *
 *   tier   sizes              granule   one block at most starts in each   (the coalesce heaps of the seed)
 *    0     4 KiB – 128 KiB     256 B     4 KiB
 *    1     128 KiB – 1 MiB     4 KiB     128 KiB
 *    2     1 MiB – 32 MiB      64 KiB    1 MiB
 *
 * Small and big blocks do not share a range: a small one would sit in the middle of what a big one needs. A *range* is
 * a run of regions (768 MiB where there is room) that one coalescing core (alloc/coalesce.h) manages; it grows by
 * *spaces* of 32 MiB as it fills, and cuts the free ones off its end on trim; when all ranges of a tier are full the
 * tier gets another one. Beside the core stand three tables by address:
 *
 *   handle[offset / unit]   node, size and start of the block that starts there: who holds a block learns all of it
 *                           without the lock, while others rearrange the nodes of its neighbours
 *   live[page]              blocks that touch the 2 MiB page; at 0 the page can go back to the system, wherever it lies
 *   touched[64 KiB]         a bit: may hold something other than zero, so that zeroed memory is not cleared again
 *
 * A block of tier 0 that comes back rests in a *quick list* of its size first, neither split nor merged, so that the
 * next request for that size costs a few loads (lazy coalescing: Weinstock's quick fit, 1976). Resting blocks are
 * merged, the largest first: all of them before a request is served from memory that nothing has touched yet, and some
 * by age, count and bytes. Of larger ones, which cost more to touch than to find, MEDIUM_HOT at most rest, and only for
 * a request of their very size: any other is fitted with them merged.
 *
 * Empty pages stay committed for a while and go back oldest first: by age, by budget, on trim (which also gives back
 * the whole untouched-by-blocks 64 KiB pieces inside of pages in use).
 *
 * The memory itself is never touched, but for clearing on request. Thread-safe (LOCK_RANK_MEDIUM, one lock per medium)
 * unless single_thread, which takes no lock at all. Cost: O(log n) plus one counter per 2 MiB page of the block. */
#ifndef ACRE_ALLOC_MEDIUM_H
#define ACRE_ALLOC_MEDIUM_H

#include "alloc/account.h"
#include "alloc/coalesce.h"
#include "page/page_pool.h"

enum { MEDIUM_TIERS = 3, MEDIUM_PAGE_SHIFT = 21 };
#define MEDIUM_PAGE_BYTES ((size_t)1 << MEDIUM_PAGE_SHIFT)
#define MEDIUM_SPACE_BYTES (32 * MIB)
#define MEDIUM_RANGE_BYTES (768 * MIB)
#define MEDIUM_SIZE_MAX (32 * MIB)
/* A block must be larger than its tier's unit; alignment alone can send a small request here. */
#define MEDIUM_SIZE_MIN ((size_t)4096 + 256)
enum { MEDIUM_LOG2_MIN = 12, MEDIUM_LOG2_MAX = 25 }; /* sizes are in (2^12, 2^25] */
/* By log2(size - 1): what sizes are rounded to. Not finer than the tier's granule, nor than 1/64 of the power
 * of two. */
static const uint8_t medium_step_log2[MEDIUM_LOG2_MAX - MEDIUM_LOG2_MIN] = {
    8, 8, 8, 9, 10, 12, 12, 13, 16, 16, 16, 17, 18,
};

typedef struct medium_page { /* a page's place in its medium's list of empty, committed pages */
    uint32_t emptied_ms;
    uint16_t live; /* blocks that touch it */
    uint8_t committed, listed;
    struct medium_page *next, *prev;
} medium_page;

/* The block that starts in a unit of the range. Written under the lock while nobody holds the block, except for the
 * cached bit, which belongs to whoever does. */
typedef struct medium_handle {
    uint32_t node;          /* bin << MEDIUM_NODE_BITS | node; stays after a free, to tell a second one from nonsense */
    /* granules << MEDIUM_GRANULES_SHIFT | start in the unit, in granules | the two bits below */
    _Atomic uint32_t block;
} medium_handle;
enum {
    MEDIUM_START_MASK = 31,
    MEDIUM_USED = 32,
    MEDIUM_CACHED = 64, /* in a thread cache or a quick list: to the user it is free */
    MEDIUM_SITED = 128, /* it remembers a site, so no cache may hand it out again */
    MEDIUM_GRANULES_SHIFT = 8,
    MEDIUM_NODE_BITS = 20,
};
/* Blocks are filed by bin: one for each size that medium_round gives, 64 per doubling. */
enum { MEDIUM_BINS = (MEDIUM_LOG2_MAX - MEDIUM_LOG2_MIN) * 64, MEDIUM_BIN_NONE = MEDIUM_BINS };
_Static_assert(MEDIUM_BIN_NONE < 1 << (32 - MEDIUM_NODE_BITS), "a bin fits beside a node");
_Static_assert(2 * (MEDIUM_RANGE_BYTES / 4096 + 2) < (size_t)1 << MEDIUM_NODE_BITS, "and a node of the largest range");

/* Blocks that rest, latest first, one list per bin; linked through the tags of their nodes. In front of the lists are a
 * few places for one block each, told apart by its bin, that need no lock: a block goes in and out by exchange, and
 * whoever got it has it. Release and acquire hand over what the last holder wrote. Their blocks count as used. */
enum { MEDIUM_HOT = 2 };
typedef struct medium_quick {
    _Atomic(void *) hot[MEDIUM_HOT];
    uint64_t bins[(MEDIUM_BINS + 63) / 64]; /* bit b: head[b] is one */
    void *head[MEDIUM_BINS];
    size_t bytes;
    uint32_t count;
} medium_quick;

typedef struct medium_range {
    struct medium *owner;
    struct medium_range *next;
    char *base;
    size_t bytes;
    uint32_t tier;
    uint32_t granule_log2, unit_log2;
    size_t unit_mask; /* (1 << unit_log2) - 1 */
    medium_handle *handle;
    medium_page *pages;
    uint64_t *touched;
    uint64_t *recent;   /* likewise: a block lay on it since medium_tick last looked */
    uint32_t look;      /* node where medium_tick goes on, may be stale; 0 = the round is over */
    uint32_t round_ms;  /* when it began */
    size_t looked;      /* pieces below have been looked at in this round */
    void *tables;       /* the three above and the core's nodes, one reservation */
    size_t table_bytes;
    char *nodes_at;     /* where the core's parts live: part i at nodes_at + i * node_part_bytes */
    size_t node_part_bytes;
    coalesce core;
} medium_range;

typedef struct medium_usage {
    size_t used;      /* bytes in blocks, rounding included; those that rest are free */
    size_t blocks;
    size_t resting;   /* bytes of blocks that rest; in no other figure but committed and touched */
    size_t committed; /* bytes of 2 MiB pages with memory behind them */
    size_t cached;    /* thereof pages without a block */
    size_t touched;        /* bytes of 64 KiB pieces that a block has lain on since they last went back; >= used */
    size_t touched_cached; /* thereof in pages without a block; used + touched_cached <= touched */
    size_t peak;           /* most bytes in blocks at once */
    size_t metadata;
    size_t largest_hole;
    uint64_t given_back;
    uint64_t allocs, frees; /* calls that came here, ever */
} medium_usage;

typedef struct medium {
    lock lock;
    const acre_provider *provider;
    account *account;
    void *heap;
    page_policy policy;
    uintptr_t single_thread; /* id of the only thread that may use it; 0 = any, with the lock */
    uint8_t named_align_log2; /* log2 of an alignment in bytes that gets an exact index; 0 = none */
    medium_range *ranges[MEDIUM_TIERS];
    medium_page *empty_head, *empty_tail; /* committed pages without a block, most recently emptied first */
    size_t cached, committed;
    uint64_t given_back, checked_ms;
    size_t touched;         /* bytes of 64 KiB pieces with memory behind them, roughly; >= used */
    size_t used, used_peak; /* bytes in blocks; the peak is for reports, like the two below */
    uint64_t allocs, frees;
    medium_quick quick;
} medium;

/* named_align: requests aligned to it are served by exact best fit, too (a power of two; 0 = none). */
void medium_init(medium *m, void *heap, const acre_provider *provider, account *acc, page_policy policy,
                 bool single_thread, size_t named_align);

/* The size that a request takes up: at least a granule's multiple, and coarser by 1/64 of its size so that freed
 * blocks fit again; 0.8% more than asked for on average. bytes <= MEDIUM_SIZE_MAX. */
static inline size_t medium_round(size_t bytes)
{
    if (bytes < MEDIUM_SIZE_MIN) bytes = MEDIUM_SIZE_MIN;
    size_t step = (size_t)1 << medium_step_log2[bits_highest(bytes - 1) - MEDIUM_LOG2_MIN];
    return (bytes + step - 1) & ~(step - 1);
}

/* The bin of a size that medium_round gave. */
static inline uint32_t medium_bin(size_t rounded)
{
    unsigned log2 = bits_highest(rounded - 1);
    return (log2 - MEDIUM_LOG2_MIN) * 64 + (uint32_t)(((rounded - 1) >> (log2 - 6)) & 63);
}
/* Of the blocks that are kept, one that is up to an eighth larger than the request's size will do: with sizes as fine
 * as these the very size is seldom there, and what is not found is split off elsewhere. */
enum { MEDIUM_NEAR = 8 };
static inline bool medium_is_near(uint32_t bin, uint32_t wanted) { return bin - wanted <= MEDIUM_NEAR; }
/* The first such bin whose bit is set; MEDIUM_BIN_NONE: none. Those of the next doubling are not looked at. */
static inline uint32_t medium_near_bin(const uint64_t *bins, uint32_t wanted)
{
    uint64_t near = bins[wanted >> 6] >> (wanted & 63) & (((uint64_t)2 << MEDIUM_NEAR) - 1);
    return near ? wanted + bits_lowest(near) : MEDIUM_BIN_NONE;
}
/* The bin of the live block; MEDIUM_BIN_NONE: it was resized to a size that no request rounds to. */
static inline uint32_t medium_handle_bin(const medium_handle *h) { return h->node >> MEDIUM_NODE_BITS; }

/* bytes: 1 … MEDIUM_SIZE_MAX; align: a power of two <= 1 MiB; zero: the block reads zero (memory that is known to be
 * zero is not cleared). site: an address to remember with the block, or NULL. NULL: no memory, no address space,
 * budget. */
void *medium_alloc(medium *m, size_t bytes, size_t align, bool zero, const void *site);
/* ACRE_OK, FOREIGN_POINTER, DOUBLE_FREE, WRONG_THREAD. */
acre_status medium_free(medium *m, void *p);
/* For thread caches, in one go. _take: a block of `bytes` (blocks[0], zeroed if so asked), and up to count - 1 more
 * that rest and are as large; how many, 0 as alloc says NULL. _give: blocks of this medium that a cache held: live,
 * with their cached bit set, which stays. */
uint32_t medium_take(medium *m, size_t bytes, bool zero, void **blocks, uint32_t count);
size_t medium_give(medium *m, void *const *blocks, uint32_t count);
/* Grows or shrinks where it lies; false: no room, nothing has changed. p: a live block. */
bool medium_resize(medium *m, void *p, size_t bytes);

/* The range that p lies in, NULL: none. */
static inline medium_range *medium_range_of(const void *p)
{
    if (!space_contains(p)) return NULL;
    region *g = region_of(p);
    return region_kind_of(g) == REGION_MEDIUM ? g->owner : NULL;
}
/* Bytes in the block that starts at p, 0: none does. Lock-free; the caller holds the block. *cached (may be NULL): it
 * lies in a thread cache, so to the user it is free. */
size_t medium_usable(const medium_range *r, const void *p, bool *cached);
/* The same for the hit path: NULL unless p is the start of a live block that a cache may take; *bytes is set then. */
static inline medium_handle *medium_live_handle(const medium_range *r, const void *p, size_t *bytes)
{
    size_t offset = (size_t)((const char *)p - r->base);
    medium_handle *h = &r->handle[offset >> r->unit_log2];
    uint32_t word = atomic_load_explicit(&h->block, memory_order_relaxed);
    size_t start = (size_t)(word & MEDIUM_START_MASK) << r->granule_log2; /* in its unit */
    const uint32_t flags = MEDIUM_USED | MEDIUM_CACHED | MEDIUM_SITED;
    *bytes = (size_t)(word >> MEDIUM_GRANULES_SHIFT) << r->granule_log2;
    return (offset & r->unit_mask) == start && (word & flags) == MEDIUM_USED ? h : NULL;
}
/* Where it was asked for; NULL: no live block, or nobody said. Takes the lock. */
const void *medium_block_site(medium_range *r, const void *p);
/* A thread cache holds the block, or no longer does. For who holds the block. */
static inline void medium_handle_set_cached(medium_handle *h, bool cached)
{
    uint32_t word = atomic_load_explicit(&h->block, memory_order_relaxed);
    word = cached ? word | MEDIUM_CACHED : word & ~(uint32_t)MEDIUM_CACHED;
    atomic_store_explicit(&h->block, word, memory_order_relaxed);
}
static inline medium_handle *medium_handle_of(const medium_range *r, const void *p)
{
    return &r->handle[(size_t)((const char *)p - r->base) >> r->unit_log2];
}
/* With the lock held, or while nobody else is at work: the node of the live block that starts at p, 0: none; and what
 * the core knows of it. */
uint32_t medium_node(const medium_range *r, const void *p);
static inline size_t medium_block_bytes(const medium_range *r, uint32_t node)
{
    return (size_t)coalesce_size(&r->core, node) << r->granule_log2;
}
static inline const void *medium_site(const medium_range *r, uint32_t node)
{
    return (const void *)(uintptr_t)coalesce_tag(&r->core, node);
}

size_t medium_trim(medium *m, size_t keep_bytes);
/* Gives back a few pages that have been empty for delay_ms, and looks into a few holes between blocks: a 64 KiB piece
 * that no block has lain on since the last look goes back; looks begin at least delay_ms / 2 after each other. Work is
 * bounded by effort, 1 for what an allocation may cost; nothing is done while somebody else is at it. growing: a size
 * whose tier just grew and will want what it has; 0: none. */
void medium_tick(medium *m, uint32_t delay_ms, uint32_t effort, size_t growing);
void medium_destroy(medium *m);
bool medium_check(medium *m);
/* O(ranges + holes). Of a medium of another thread (single_thread) only what its counters say. */
void medium_usage_read(medium *m, medium_usage *usage);
/* The largest block of tier t (0 … MEDIUM_TIERS - 1), and what sizes in it are multiples of. */
void medium_tier(uint32_t t, size_t *size_max, size_t *granule);
void medium_visit(medium *m, void (*visit)(void *context, void *block, size_t bytes, const void *site), void *context);

/* Without the lock, for blocks that are too big for a thread to keep. _take: a block of the bin, or NULL. _put: a live
 * block; what lay in its place goes to the lists. False: it cannot rest. */
static inline void *medium_hot_take(medium *m, uint32_t bin)
{
    _Atomic(void *) *place = &m->quick.hot[bin % MEDIUM_HOT];
    void *p = atomic_load_explicit(place, memory_order_relaxed);
    if (!p || medium_handle_bin(medium_handle_of(medium_range_of(p), p)) != bin) return NULL;
    p = atomic_exchange_explicit(place, NULL, memory_order_acquire);
    if (unlikely(!p)) return NULL;
    medium_handle *h = medium_handle_of(medium_range_of(p), p);
    if (unlikely(medium_handle_bin(h) != bin)) { /* another one by now */
        medium_give(m, &p, 1);
        return NULL;
    }
    medium_handle_set_cached(h, false);
    return p;
}
static inline bool medium_hot_put(medium *m, medium_handle *h, void *p)
{
    uint32_t bin = medium_handle_bin(h);
    if (unlikely(bin == MEDIUM_BIN_NONE || m->policy.fill || m->policy.cache_bytes_max != SIZE_MAX)) return false;
    medium_handle_set_cached(h, true);
    void *old = atomic_exchange_explicit(&m->quick.hot[bin % MEDIUM_HOT], p, memory_order_acq_rel);
    if (old) medium_give(m, &old, 1);
    return true;
}

#endif
