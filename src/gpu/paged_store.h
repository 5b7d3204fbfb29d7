/* paged_store: the physical pages of one kind of GPU memory, and the cache of those that hold nothing.
 *
 * Layer 8. A physical page is page_bytes of driver memory, named by the driver's 64-bit handle. It is mapped behind the
 * addresses of paged ranges (paged_range.h) of this store, or lent to somebody who maps it himself (paged_take), or it
 * is *empty*: no live byte. Empty pages stay where they are mapped, so that a block that comes to the same addresses is
 * a hit; a block that comes to other addresses takes them over instead of having new ones created. Where making a page
 * costs 193 us and mapping one 1.5 + 36 us (CUDA on an A100), that is the difference that counts.
 *
 *    create ──► mapped, used ◄──────────► mapped, empty ──────────► loose, empty ──► destroy
 *                    ▲      block comes,          taken over, unmapped      │
 *                    │      goes                  given back                │
 *                    └──────────────────── map ◄────────────────────────────┘
 *
 * A block gets pages in this order: what is mapped behind it already; loose empties; empties mapped elsewhere, the
 * oldest first; new ones. So memory is held for what is live, and the budget is asked only when nothing is empty.
 *
 * The driver is never called with the lock held. Under the lock a thread marks page records as *busy* and takes
 * physical pages off the lists, so they are its own; it drops the lock, calls the driver, takes the lock again, and
 * commits or undoes. Who needs a busy page works on its other pages first, and then sleeps until `epoch` changes; a
 * thread never sleeps with busy pages of its own, so nobody waits in a circle. A call that needs no driver call takes
 * the lock once.
 *
 * A page may be mapped at several places (paged_share): refs counts them. */
#ifndef ACRE_GPU_PAGED_STORE_H
#define ACRE_GPU_PAGED_STORE_H

#include "gpu/empty_policy.h"
#include "gpu/ledger.h"
#include "os/lock.h"

struct paged_range;

/* Pages in one call of the driver at most. */
enum { PAGED_BATCH_PAGES = 64 };

/* Which call of the driver failed, and how. */
typedef struct paged_failure {
    acre_status status; /* ACRE_NO_MEMORY: the driver has none; ACRE_SYSTEM: anything else */
    int32_t result;     /* the driver's answer; 0 = it was not asked */
    const char *call;   /* "cuMemCreate" and the like, a constant; NULL = none was made */
} paged_failure;

typedef struct paged_binding {
    void *range;     /* owner of the range: paged_range_options.owner */
    uint64_t offset; /* in the range, a multiple of page_bytes */
    uint64_t handle; /* of the physical page */
} paged_binding;

/* What the store asks of a driver. Each function does `count` things in order and returns how many of the first it has
 * done: fewer than count = the next one failed, *failure says how, and the rest is as it was. 1 <= count <=
 * PAGED_BATCH_PAGES. Bindings of one call are of one range and ascend where they were asked for by one block, so
 * neighbours may be joined into one driver call. They are called without locks, by several threads at once, each for
 * other pages. unmap is called only for pages whose blocks were freed: who frees a block says that the GPU is done. An
 * owner who frees earlier than that lets unmap answer ACRE_BUSY: the pages stay empty where they are, and a block that
 * wanted them gets new ones. */
typedef struct paged_provider {
    void *context;
    uint64_t page_bytes; /* power of two */
    uint32_t (*create)(void *context, uint64_t *handles, uint32_t count, paged_failure *failure);
    uint32_t (*destroy)(void *context, const uint64_t *handles, uint32_t count, paged_failure *failure);
    uint32_t (*map)(void *context, const paged_binding *bindings, uint32_t count, paged_failure *failure);
    uint32_t (*unmap)(void *context, const paged_binding *bindings, uint32_t count, paged_failure *failure);
    /* After map; NULL: not needed. What was done before a failure is undone by unmap. */
    uint32_t (*set_access)(void *context, const paged_binding *bindings, uint32_t count, paged_failure *failure);
} paged_provider;

/* One physical page. refs: page records that map it. It is in one of four places:
 *   used       refs >= 1, not empty: a block is behind every record that maps it
 *   mapped     refs == 1, empty: home maps it, and the record's `used` is 0
 *   loose      refs == 0, empty: mapped nowhere
 *   in hand    refs == 0, not empty: lent (paged_take), or a thread has it on its way to or from the driver */
typedef struct paged_physical {
    empty_item item; /* empty: in store.empties */
    uint64_t handle;
    struct paged_range *home; /* mapped empty: where; the page record's number in the range */
    uint64_t home_page;
    struct paged_physical *loose_next, *loose_prev;
    uint64_t born; /* the store's serial when it was created: which call to undo */
    uint32_t refs;
    bool empty, lent;
    uint32_t seen; /* paged_store_check counts here */
    uint64_t seen_in;
} paged_physical;

typedef struct paged_store_options {
    paged_provider provider;
    empty_policy policy;
    gpu_ledger *ledger; /* charged with held and empty bytes; NULL: none */
    uint32_t heap;      /* its row there */
} paged_store_options;

typedef struct paged_store_stats {
    uint64_t held_bytes;  /* == used_bytes + empty_bytes */
    uint64_t used_bytes;  /* pages with a live byte, or lent */
    uint64_t empty_bytes; /* mapped or loose */
    uint64_t loose_bytes; /* of these, mapped nowhere */
    uint64_t creates, destroys, maps, unmaps; /* pages, ever */
    uint64_t taken_over;  /* pages that moved from one place to another instead of being created, ever */
    uint64_t waits;       /* times that a call waited for another thread's driver call, ever */
} paged_store_stats;

/* page_count == used + empties.count + lent + in hand
 * empties.bytes == empties.count * page_bytes; loose is a subset of empties */
typedef struct paged_store {
    lock lock; /* LOCK_RANK_GPU; guards all below and the ranges of the store */
    _Atomic uint32_t epoch; /* counts the times that busy pages stopped being busy; waiters sleep on it */
    uint32_t waiters;
    uint32_t in_driver;     /* threads in a driver call, that hold busy pages or pages in hand */
    paged_store_options options;
    uint64_t page_bytes;
    uint32_t page_log2;
    empty_list empties;     /* mapped and loose */
    paged_physical *loose;  /* those of them that are, last come first */
    uint64_t loose_count, lent_count;
    uint64_t page_count;    /* physical pages that exist, those that are being created included */
    uint64_t serial;        /* of calls that map; of checks */
    struct paged_range *ranges;
    uint64_t creates, destroys, maps, unmaps, taken_over, waits; /* pages; ever */
} paged_store;

/* INVALID_ARGUMENT: a function is missing, page_bytes is no power of two. The store's memory is the caller's. */
acre_status paged_store_init(paged_store *store, const paged_store_options *options);
/* Destroys all that is empty. BUSY: ranges exist or pages are lent; nothing was done then. A driver that fails to
 * destroy a page: the status of *failure, the rest is kept; call again. */
acre_status paged_store_destroy(paged_store *store, paged_failure *failure);

/* Gives empty pages back, oldest first, until at most keep_bytes of them are left. Returns the bytes given back.
 * *failure.status is ACRE_OK unless a driver call failed; failure may be NULL. */
uint64_t paged_store_trim(paged_store *store, uint64_t keep_bytes, paged_failure *failure);
/* Gives back what the policy says is too much or too old; now: os_now_ms. over_budget_bytes: see empty_excess. Cheap
 * when there is nothing to do. Call it from time to time and before giving up for lack of memory: nothing else gives
 * memory back by policy, since a free makes no driver call. */
uint64_t paged_store_tick(paged_store *store, uint64_t over_budget_bytes, paged_failure *failure);
/* Milliseconds until tick has something to do by age; UINT64_MAX: never. */
uint64_t paged_store_next_ms(paged_store *store);
void paged_store_set_policy(paged_store *store, empty_policy policy);
void paged_store_stats_read(paged_store *store, paged_store_stats *stats);

/* Lends `count` physical pages to somebody who keeps his own page table (the tail of mip levels, an export). From the
 * empties first, else new ones. All or none: OVER_BUDGET, NO_MEMORY, SYSTEM; *failure says which call. exceed: the
 * heap's budget may be passed. */
acre_status paged_take(paged_store *store, paged_physical **pages, uint32_t count, bool exceed,
                       paged_failure *failure);
/* The pages are mapped nowhere any more and hold nothing: empty. Cannot fail. */
void paged_give(paged_store *store, paged_physical *const *pages, uint32_t count);

/* NULL: all equations of the store and its ranges hold, else a sentence about the first that does not. O(everything).
 * While other threads are in driver calls, sums are not compared. */
const char *paged_store_check(paged_store *store);

#endif
