/* paged_range: a heap in reserved addresses behind which memory is mapped in pages.
 *
 * Layer 8. The owner reserves addresses (cuMemAddressReserve, a sparse buffer) and says how many; this file hands out
 * offsets of them and sees to it that pages of the store (paged_store.h) are mapped under blocks, and nowhere else but
 * for empty ones that are kept. It never touches memory and knows no driver: CUDA's virtual memory calls, Vulkan's
 * sparse binding and a table in a test are providers alike.
 *
 *    0                                    small_bytes                            small_bytes + large_bytes
 *    ├───────────── small area ─────────────┼────────────── large area ─────────────────────┤
 *    │▒▒▒▒▒▒▒·▒▒▒▒▒▒·····▒▒▒▒               │▓▓▓▓▓▓▓▓·········┊▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓···┊▓▓▓▓····┊ │
 *    │ best fit, granules of 512 B          │ a slot each: a block and room behind it         │
 *    │████████████░░░░░█████                │████████         ┊███████████████   ┊████       │ mapped
 *
 *    ▒ ▓ blocks  · free addresses  █ pages in use  ░ an empty page that is kept
 *
 * Small area: exact best fit (alloc/coalesce.h) in granules, up to three named alignments. A page is mapped while a
 * block touches it; `used` counts them. A hole that covers a page empties it, whatever lives to both sides.
 *
 * Large area: a block of large_min_bytes or more (or one that asks for room) gets whole pages at the start of a slot,
 * and nothing is mapped behind the rest. Addresses are plentiful and memory is not, so the slot is generous: the power
 * of two above the size, doubled, so that the block can at least double where it lies, or the room that the caller
 * names. Slots of powers of two are alike, so a freed slot serves the next block of its size and addresses do not
 * fragment; that is why these are slots and not gaps of any size. When no such slot is free the room is halved, down to
 * none: a block is refused for lack of addresses only if its own pages do not fit. A block that has filled its slot
 * grows on into the free addresses that follow.
 *
 * Blocks of different ranges may share pages (paged_share): same memory, other addresses. Blocks may sleep by category
 * (paged_sleep): their memory is gone, their addresses stay, and wake puts memory there again.
 *
 * Failures: each call does all or nothing (paged_wake, block by block); *failure (may be NULL) tells which driver call
 * failed first. Where unmapping or destroying fails, the memory stays known and is tried again by the next tick, trim
 * or block that needs it.
 *
 * Thread-safe: everything under the store's lock, never with a driver call inside it. Two calls at once for one block:
 * the second gets ACRE_BUSY. Cost of a hit: the lock, O(log holes) for the offset, O(pages of the block). */
#ifndef ACRE_GPU_PAGED_RANGE_H
#define ACRE_GPU_PAGED_RANGE_H

#include "alloc/coalesce.h"
#include "gpu/paged_store.h"

enum {
    PAGED_ALIGNMENTS_MAX = COALESCE_EXTRA_MAX,
    PAGED_TAG_BITS = 48, /* of the caller's, per block: a pointer fits */
    PAGED_CELL_GRANULES = 16, /* of the address table: a look-up passes at most so many blocks */
};

/* One page of addresses. used: blocks that touch it and are awake, those included that are being mapped.
 *   physical == NULL: unmapped
 *   busy: a thread's driver call concerns this page
 *   bare: mapped, but of no use (no access, or others' memory), since a driver failed to unmap it: tried again first
 *   not busy and used > 0 => mapped and not bare */
typedef struct paged_page {
    paged_physical *physical;
    uint64_t block_bytes; /* large area: of the block that starts here */
    uint32_t used;
    bool busy, bare;
} paged_page;

/* One of the two heaps of a range. pages[] and cells[] are committed up to `committed` pages. */
typedef struct paged_area {
    coalesce core;
    struct paged_part { void *base; size_t reserved; } parts[COALESCE_INDEX_MAX];
    uint64_t base, bytes; /* in the range */
    uint32_t granule_log2, cell_log2;
    uint32_t in_flight;   /* calls that may have to shrink a block again: so many nodes are kept spare for them */
    uint64_t page_count, committed;
    paged_page *pages;
    uint32_t *cells; /* [offset in area >> cell_log2] node of the first block that starts there; 0: none */
} paged_area;

typedef struct paged_range_options {
    paged_store *store;
    void *owner;              /* given to the provider in each binding */
    uint64_t small_bytes;     /* multiples of page_bytes; one of them may be 0: no such area. small_bytes / granule */
    uint64_t large_bytes;     /* and large_bytes / page_bytes below 2^32 - 1 */
    uint64_t granule_bytes;   /* of the small area: power of two, <= page_bytes; 0: 512 */
    uint64_t alignments[PAGED_ALIGNMENTS_MAX]; /* of the small area, served as fast as a granule; 0: none */
    uint64_t size_min;        /* no smaller block is asked for in the small area; 0: unknown */
    uint64_t large_min_bytes; /* from this size on blocks go to the large area; 0: 32 MiB */
} paged_range_options;

typedef struct paged_range {
    paged_store *store;
    struct paged_range *next;
    paged_range_options options;
    paged_area areas[2]; /* small, large */
    uint64_t live_bytes, asleep_bytes, blocks;
} paged_range;

typedef struct paged_request {
    uint64_t bytes;
    uint64_t alignment;  /* power of two, of the offset; 0: a granule or page. One that is not named may miss a hole
                            that would just do (coalesce_alloc). In the large area: one that divides small_bytes */
    uint64_t room_bytes; /* the block may grow to this where it lies, as far as addresses go; 0: no wish */
    uint64_t tag;        /* below 2^PAGED_TAG_BITS */
    uint32_t category;   /* below ACRE_GPU_CATEGORIES_MAX; for sleep and wake */
    bool exceed;         /* the heap's budget may be passed */
} paged_request;

typedef struct paged_block {
    uint64_t offset; /* in the range */
    uint64_t bytes;  /* rounded up to granules or pages: what is live */
    uint64_t room;   /* addresses from offset on that are this block's own, >= bytes */
    uint64_t handle; /* never 0; a freed block's is not used again soon */
    uint64_t tag;
    uint32_t category;
    bool asleep, shared, busy; /* busy: a call for this block is under way */
} paged_block;

/* INVALID_ARGUMENT, TOO_LARGE (more than 2^32 granules), NO_MEMORY (for bookkeeping). The range's memory is the
 * caller's. */
acre_status paged_range_init(paged_range *range, const paged_range_options *options);
/* Unmaps every page; what they hold becomes empty memory of the store. BUSY: blocks exist. A failure of the driver: its
 * status; call again. */
acre_status paged_range_destroy(paged_range *range, paged_failure *failure);

/* INVALID_ARGUMENT; TOO_LARGE: more than the area; NO_MEMORY: no addresses, bookkeeping or driver memory; OVER_BUDGET:
 * the heap's; SYSTEM: the driver failed. A block of bytes >= 1. No driver call if memory is mapped there already. A
 * block that finds no addresses in its area goes to the other one. A call that fails leaves nothing mapped or created
 * that was not before, but for empties from elsewhere: they are empty here now. */
acre_status paged_alloc(paged_range *range, const paged_request *request, paged_block *block, paged_failure *failure);
/* FOREIGN_POINTER, DOUBLE_FREE, BUSY. No driver call, unless the block's pages are shared: they are unmapped. If that
 * fails (status of the driver) the block is free all the same; its memory stays held until the next block at these
 * addresses, or paged_range_destroy, unmaps it. */
acre_status paged_free(paged_range *range, uint64_t handle, paged_failure *failure);
/* Where it lies. Grows: maps pages; NO_MEMORY: what follows is taken, or no memory. Shrinks: no driver call, the tail's
 * pages become empty. NOT_SUPPORTED: asleep, or a view (paged_share). *block (may be NULL) is what it is afterwards. */
acre_status paged_resize(paged_range *range, uint64_t handle, uint64_t bytes, bool exceed, paged_block *block,
                         paged_failure *failure);
/* The block's facts. FOREIGN_POINTER, DOUBLE_FREE. */
acre_status paged_get(paged_range *range, uint64_t handle, paged_block *block);
/* The block that starts at the offset; FOREIGN_POINTER: none does. O(PAGED_CELL_GRANULES). */
acre_status paged_find(paged_range *range, uint64_t offset, paged_block *block);
acre_status paged_set_tag(paged_range *range, uint64_t handle, uint64_t tag, uint32_t category);

/* A view: a second block, in `to` (another range of the same store, or the same), with the same memory behind it:
 * `bytes` of the first one from from_offset on (relative to it; both in whole pages; request->bytes is not looked at).
 * Both lie in large areas, where pages have one block each. Each is freed by itself, the memory goes with the last.
 * Views are not live bytes. Neither sleeps. INVALID_ARGUMENT also if the first one is a view or not in a large area,
 * NOT_SUPPORTED if it sleeps. */
acre_status paged_share(paged_range *range, uint64_t handle, uint64_t from_offset, uint64_t bytes, paged_range *to,
                        const paged_request *request, paged_block *block, paged_failure *failure);

/* Called for a block without locks, while nobody else can change it: before its memory goes, or after new memory is
 * there. False: it could not be saved (it stays awake) or restored (it sleeps on). */
typedef bool paged_visit_contents(void *context, paged_range *range, const paged_block *block);

typedef struct paged_sleep_result {
    uint64_t blocks, bytes;   /* that changed their state */
    uint64_t skipped_blocks;  /* shared, busy, or refused by the callback */
    uint64_t freed_bytes;     /* driver memory that was given back (sleep) */
} paged_sleep_result;

/* Blocks of the categories in the mask (bit c: category c) lose their memory, and their contents if save (may be NULL)
 * does not keep them; pages that no other block needs are unmapped and destroyed at once. They count as asleep, no
 * longer as live. OK also if some were skipped; a status of the driver if unmapping or destroying failed: those pages
 * are empty memory that is still held, and the blocks sleep all the same. Blocks that come while this runs may stay
 * awake. result, failure: may be NULL. O(nodes + pages) but for the callback. */
acre_status paged_sleep(paged_range *range, uint64_t category_mask, paged_visit_contents *save, void *context,
                        paged_sleep_result *result, paged_failure *failure);
/* The other way. Stops at the first block for which there is no memory: its status, and it and the rest sleep on; call
 * again. */
acre_status paged_wake(paged_range *range, uint64_t category_mask, bool exceed, paged_visit_contents *restore,
                       void *context, paged_sleep_result *result, paged_failure *failure);

typedef struct paged_range_stats {
    uint64_t live_bytes;   /* in awake blocks, views excluded */
    uint64_t asleep_bytes; /* in blocks that sleep */
    uint64_t blocks;       /* all of them */
    uint64_t mapped_bytes; /* pages with a physical page behind them, empty ones included */
    uint64_t empty_bytes;  /* of these, without a live byte */
    uint64_t hole_bytes;   /* free bytes of mapped pages that are not empty */
    uint64_t largest_hole_bytes; /* longest run of free addresses of the small area with memory behind all of it */
} paged_range_stats;

/* O(blocks + pages). */
void paged_range_stats_read(paged_range *range, paged_range_stats *stats);

/* Blocks in the order of their offsets; return false to stop. Under the lock: calls nothing of the store. */
typedef bool paged_visit(void *context, paged_range *range, const paged_block *block);
void paged_walk(paged_range *range, paged_visit *visit, void *context);

/* NULL: all equations hold; see paged_store_check. */
const char *paged_range_check(paged_range *range);

#endif
