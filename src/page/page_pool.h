/* page_pool: the 64 KiB pages that fixed-size blocks are cut from, and the cache of those that are free again.
 *
 *   new address space ──bump──► handed out ──give──► dirty (hottest first) ──age, budget, trim──► clean
 *                                  ▲                   │                                           │
 *                                  └───────────────────┴──────────────── take ─────────────────────┘
 *
 * A page that comes back stays committed: touching it again costs nothing, while a fresh one costs a page fault per OS
 * page, as much as a hundred allocations each. The most recently freed page is handed out first; the one that has been
 * free longest goes back to the system first, when it is older than delay_ms, or at once when more than cache_bytes_max
 * are dirty, or on trim. Decommits run outside of the lock, in batches of neighbours.
 *
 * Huge pages (policy.huge) are asked for in whole 2 MiB pieces of fresh address space, once 16 MiB are in use: all
 * size classes share a piece, so the waste is one tail, not one per class. A piece that gives memory back loses them,
 * or the kernel would fill the hole again; where that has happened a few times no more are asked for. Each is touched
 * by the clock: in a virtual machine that fetches huge pages from its host they take 7-11 µs per 4 KiB instead of the
 * 1.7 of small pages or the 0.35 of huge ones that are at hand, so when one takes longer than small ones would, there
 * are none for a while.
 *
 * One pool per provider and heap
 * with its own provider; all heaps on flexible memory share one, so that a page freed by one heap serves another.
 *
 * Thread-safe (LOCK_RANK_PAGE_POOL). take and give are O(1) plus at most PURGE_BATCH decommitted pages. */
#ifndef ACRE_PAGE_PAGE_POOL_H
#define ACRE_PAGE_PAGE_POOL_H

#include "page/page_list.h"
#include "page/provider.h"
#include "page/space.h"

typedef struct page_policy {
    uint32_t delay_ms;      /* a page free for longer goes back to the system */
    size_t cache_bytes_max; /* more than this is never kept, whatever its age; SIZE_MAX = age alone decides */
    bool fill;              /* write clear values to memory that comes and goes (page/fill.h) */
    bool huge;              /* ask for huge pages where small blocks grow steadily */
    size_t populate_bytes;  /* at most so much memory is put behind a growing page at once; 0 = fault by fault */
} page_policy;

typedef struct page_pool {
    lock lock;
    const acre_provider *provider;
    page_policy policy;
    /* guarded by lock: */
    page_list dirty, clean;
    uint32_t bump, bump_end;  /* pages [bump, bump_end) of the newest region were never handed out */
    uint32_t bump_committed;  /* pages below it are committed; bump <= bump_committed <= bump_end */
    uint32_t used;            /* pages handed out */
    uint32_t regions;
    uint64_t checked_ms;      /* when ages were looked at last */
    uint64_t given_back;      /* pages decommitted so far, ever */
    uint32_t small_ns;        /* what it took to put small pages behind CHUNK_BYTES; 0: not known */
    uint32_t huge_pause;      /* pieces to come that are not to be huge */
    uint32_t huge_backoff;    /* how many those were last */
    uint32_t dirty_peak;      /* most dirty pages at once; for reports, like the one above */
    /* atomic: */
    _Atomic uint32_t partial; /* pages handed out that have blocks no one has used yet, as whoever cuts them up says */
} page_pool;

void page_pool_init(page_pool *pool, const acre_provider *provider, page_policy policy);
/* A page's number, 0 when no address space or no memory is left. *zeroed: its contents read zero. Its record's state
 * is PAGE_ATTACHED. */
uint32_t page_pool_take(page_pool *pool, bool *zeroed);
/* Nobody uses the page any more. */
void page_pool_give(page_pool *pool, uint32_t page);
/* Gives dirty pages back until at most keep_bytes are cached, and regions without a page in use to the space. Returns
 * the bytes given back. O(dirty pages). */
size_t page_pool_trim(page_pool *pool, size_t keep_bytes);
/* Gives back what has been free for delay_ms; a few pages at most. False: there was nothing to do; then it is cheap. */
bool page_pool_tick(page_pool *pool, uint32_t delay_ms);
/* Gives back everything, used or not. No page of the pool may be in use by anybody. */
void page_pool_destroy(page_pool *pool);
/* Some of this page's memory is about to go back. */
void page_pool_hole(page_pool *pool, uint32_t page);
/* May the kernel have put a huge page behind it, at once, when its piece was begun? */
bool page_pool_is_huge(uint32_t page);
/* The end of what was ever handed out of the pool's region that ends at page region_end. */
uint32_t page_pool_used_end(page_pool *pool, uint32_t region_end);
bool page_pool_check(page_pool *pool);

#endif
