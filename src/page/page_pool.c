/* page_pool: see page_pool.h. */
#include "page/page_pool.h"

#include <string.h>

#include "os/os.h"
#include "page/fill.h"
#include "page/resident.h"

enum { PURGE_BATCH = 16 };
/* Where more than an eighth of the pages are partly untouched, there are many sizes or threads for little memory. A
 * piece more that lost its huge page splits a mapping, and mappings are few. */
enum {
    HUGE_PAGES = HUGE_PIECE_BYTES / CHUNK_BYTES,
    HUGE_FROM_PAGES = 16 * MIB / CHUNK_BYTES,
    HUGE_PARTIAL_SHARE = 8,
    HUGE_REVOKED_MAX = 8,
    HUGE_PAUSE_FIRST = 8 /* pieces */
};
/* Where committing costs something it is done in pieces of this size. */
#define COMMIT_STEP_CHARGED (2 * MIB)

static page_record *record(uint32_t page) { return &the_space.pages[page]; }
static page_state state_of(uint32_t page)
{
    return (page_state)atomic_load_explicit(&record(page)->state, memory_order_relaxed);
}

static uint32_t region_pages(void) { return (uint32_t)(region_bytes() >> CHUNK_SHIFT); }
static region *region_of_page(uint32_t page) { return region_of(page_address(page)); }

void page_pool_init(page_pool *pool, const acre_provider *provider, page_policy policy)
{
    memset(pool, 0, sizeof *pool);
    pool->provider = provider;
    pool->policy = policy;
}

/* Pages of providers with bigger pages than ours cannot go back one by one. */
static bool can_purge(const page_pool *pool)
{
    return provider_can(pool->provider, ACRE_CAN_DECOMMIT) && provider_page_bytes(pool->provider) <= CHUNK_BYTES;
}

/* --- taking ----------------------------------------------------------------------------------------------------- */

static uint32_t piece_of(uint32_t page) { return page % region_pages() / HUGE_PAGES; }

/* What the page that begins a piece of 2 MiB is good for. */
typedef enum huge_trial { NO_TRIAL, SMALL_TRIAL, HUGE_TRIAL } huge_trial;

/* The piece that begins at the bump may become a huge page, if the growth of the pool is steady. First one tries how
 * long small pages take. Caller holds the lock. */
static huge_trial welcome_huge(page_pool *pool)
{
    region *r = region_of_page(pool->bump);
    bool steady = pool->used >= HUGE_FROM_PAGES && pool->bump_end - pool->bump >= HUGE_PAGES;
    bool dense = atomic_load_explicit(&pool->partial, memory_order_relaxed) <= pool->used / HUGE_PARTIAL_SHARE;
    if (!steady || !dense || atomic_load_explicit(&r->huge_revoked, memory_order_relaxed) >= HUGE_REVOKED_MAX)
        return NO_TRIAL;
    if (pool->huge_pause > 0) {
        pool->huge_pause--;
        return NO_TRIAL;
    }
    if (pool->small_ns == 0) return SMALL_TRIAL;
    if (!os_advise_huge(page_address(pool->bump), HUGE_PIECE_BYTES, true)) return NO_TRIAL;
    uint32_t piece = piece_of(pool->bump);
    atomic_fetch_or_explicit(&r->huge[piece / 64], (uint64_t)1 << piece % 64, memory_order_relaxed);
    return HUGE_TRIAL;
}

/* Puts memory behind the page and looks at the clock. A huge page whose memory the kernel has at hand takes a fifth of
 * the time of small ones; one that must be compacted first, or fetched from the host of a virtual machine, five times
 * as long. Then there are none for a while, each time twice as long. Called without the lock. */
static void try_out(page_pool *pool, uint32_t page, huge_trial trial)
{
    uint64_t begin = os_now_ns();
    if (!os_populate(page_address(page), trial == SMALL_TRIAL ? CHUNK_BYTES : os_page_bytes())) return;
    uint64_t ns = os_now_ns() - begin;
    lock_acquire(&pool->lock);
    if (trial == SMALL_TRIAL) {
        pool->small_ns = (uint32_t)(ns < UINT32_MAX ? ns + 1 : UINT32_MAX);
    } else if (ns > (uint64_t)pool->small_ns * HUGE_PAGES * 3 / 4) {
        pool->huge_backoff = pool->huge_backoff ? 2 * pool->huge_backoff : HUGE_PAUSE_FIRST;
        pool->huge_pause = pool->huge_backoff;
        pool->small_ns = 0;
    }
    lock_release(&pool->lock);
}

bool page_pool_is_huge(uint32_t page)
{
    uint32_t piece = piece_of(page);
    return atomic_load_explicit(&region_of_page(page)->huge[piece / 64], memory_order_relaxed) >> piece % 64 & 1;
}

void page_pool_hole(page_pool *pool, uint32_t page)
{
    if (!pool->policy.huge) return;
    region *r = region_of_page(page);
    uint32_t piece = piece_of(page);
    uint64_t bit = (uint64_t)1 << piece % 64;
    if (!(atomic_fetch_and_explicit(&r->huge[piece / 64], ~bit, memory_order_relaxed) & bit)) return;
    os_advise_huge(page_address(page - page % HUGE_PAGES), HUGE_PIECE_BYTES, false);
    atomic_fetch_add_explicit(&r->huge_revoked, 1, memory_order_relaxed);
}

/* A page that was never handed out. Caller holds the lock. */
static uint32_t take_fresh(page_pool *pool, huge_trial *trial)
{
    if (pool->bump == pool->bump_end) {
        char *address = space_take(SPACE_BLOCKS, 1, REGION_FSA, pool);
        if (!address) return 0;
        pool->regions++;
        uint32_t first = page_number(address); /* whoever had the region left its records at PAGE_NONE */
        region_of(address)->used = 0;
        for (int i = 0; i < 2; i++) atomic_store_explicit(&region_of(address)->huge[i], 0, memory_order_relaxed);
        atomic_store_explicit(&region_of(address)->huge_revoked, 0, memory_order_relaxed);
        pool->bump = pool->bump_committed = first;
        pool->bump_end = first + region_pages();
        if (first == 0) pool->bump = 1; /* 0 means none */
    }
    if (pool->bump >= pool->bump_committed) {
        size_t step = provider_page_bytes(pool->provider);
        if (step < CHUNK_BYTES) step = CHUNK_BYTES;
        if (os_commit_is_charged() && step < COMMIT_STEP_CHARGED) step = COMMIT_STEP_CHARGED;
        uint32_t pages = (uint32_t)(step >> CHUNK_SHIFT);
        if (pages > pool->bump_end - pool->bump_committed) pages = pool->bump_end - pool->bump_committed;
        char *from = page_address(pool->bump_committed);
        if (!provider_commit(pool->provider, from, (size_t)pages << CHUNK_SHIFT)) {
            /* Perhaps a smaller piece is still to be had. */
            if (pages == 1 || provider_page_bytes(pool->provider) > CHUNK_BYTES ||
                !provider_commit(pool->provider, from, CHUNK_BYTES))
                return 0;
            pages = 1;
        }
        pool->bump_committed += pages;
        if (pool->bump >= pool->bump_committed) return 0; /* page 0 alone was committed; the next call goes on */
    }
    if (pool->policy.huge && pool->bump % HUGE_PAGES == 0) *trial = welcome_huge(pool);
    return pool->bump++;
}

uint32_t page_pool_take(page_pool *pool, bool *zeroed)
{
    huge_trial trial = NO_TRIAL;
    lock_acquire(&pool->lock);
    uint32_t page = page_list_head(&pool->dirty);
    bool fresh = page == 0; /* no memory behind it yet */
    *zeroed = false;
    if (page) {
        page_list_remove(&pool->dirty, page);
    } else if ((page = page_list_head(&pool->clean)) != 0) {
        if (provider_commit(pool->provider, page_address(page), CHUNK_BYTES)) {
            page_list_remove(&pool->clean, page);
            *zeroed = provider_can(pool->provider, ACRE_COMES_ZEROED);
        } else {
            page = 0;
        }
    } else {
        page = take_fresh(pool, &trial);
        if (page == 0 && pool->bump == 1 && pool->bump_committed == 1) page = take_fresh(pool, &trial);
        *zeroed = provider_can(pool->provider, ACRE_COMES_ZEROED);
    }
    if (page) {
        pool->used++;
        region_of_page(page)->used++;
        atomic_store_explicit(&record(page)->state, PAGE_ATTACHED, memory_order_relaxed);
    }
    lock_release(&pool->lock);
    if (trial != NO_TRIAL) try_out(pool, page, trial);
    if (page && fresh) resident_add(CHUNK_BYTES);
    if (page && pool->policy.fill) {
        memset(page_address(page), FILL_MEMORY_ALLOCATED, CHUNK_BYTES);
        *zeroed = false;
    }
    return page;
}

/* --- giving back ------------------------------------------------------------------------------------------------ */

/* Takes up to PURGE_BATCH pages off the cold end of the dirty list: while more than keep_bytes are dirty, or the
 * coldest has been free since before free_before_ms. Caller holds the lock. */
static unsigned collect_cold(page_pool *pool, size_t keep_bytes, uint32_t now_ms, uint32_t delay_ms, uint32_t *batch)
{
    unsigned n = 0;
    while (n < PURGE_BATCH && pool->dirty.tail) {
        uint32_t page = pool->dirty.tail;
        bool over = (size_t)pool->dirty.count << CHUNK_SHIFT > keep_bytes;
        bool old = (uint32_t)(now_ms - record(page)->freed_ms) >= delay_ms;
        if (!over && !old) break;
        page_list_remove(&pool->dirty, page);
        batch[n++] = page;
    }
    return n;
}

static void sort_pages(uint32_t *pages, unsigned n)
{
    for (unsigned i = 1; i < n; i++)
        for (unsigned j = i; j > 0 && pages[j - 1] > pages[j]; j--) {
            uint32_t t = pages[j];
            pages[j] = pages[j - 1];
            pages[j - 1] = t;
        }
}

/* Decommits the batch, neighbours in one call, and files it under clean. Called without the lock. Returns bytes. */
static size_t decommit_batch(page_pool *pool, uint32_t *batch, unsigned n)
{
    bool ok[PURGE_BATCH];
    size_t bytes = 0;
    sort_pages(batch, n);
    for (unsigned i = 0; i < n;) {
        unsigned run = 1;
        while (i + run < n && batch[i + run] == batch[i] + run) run++;
        page_pool_hole(pool, batch[i]);
        bool done = provider_decommit(pool->provider, page_address(batch[i]), (size_t)run << CHUNK_SHIFT);
        for (unsigned j = i; j < i + run; j++) ok[j] = done;
        if (done) bytes += (size_t)run << CHUNK_SHIFT;
        i += run;
    }
    uint32_t now = (uint32_t)os_now_ms();
    lock_acquire(&pool->lock);
    for (unsigned i = n; i-- > 0;) {
        if (ok[i]) {
            atomic_store_explicit(&record(batch[i])->state, PAGE_CLEAN, memory_order_relaxed);
            page_list_push_head(&pool->clean, batch[i]);
        } else { /* could not go back: keep it, and do not try again soon */
            record(batch[i])->freed_ms = now;
            page_list_push_head(&pool->dirty, batch[i]);
        }
    }
    pool->given_back += bytes >> CHUNK_SHIFT;
    resident_sub(bytes);
    lock_release(&pool->lock);
    return bytes;
}

void page_pool_give(page_pool *pool, uint32_t page)
{
    uint32_t batch[PURGE_BATCH];
    unsigned n = 0;
    uint64_t now = os_now_ms();
    if (pool->policy.fill) memset(page_address(page), FILL_MEMORY_DEALLOCATED, CHUNK_BYTES);
    atomic_store_explicit(&record(page)->state, PAGE_DIRTY, memory_order_relaxed);
    lock_acquire(&pool->lock);
    record(page)->freed_ms = (uint32_t)now;
    page_list_push_head(&pool->dirty, page);
    if (pool->dirty.count > pool->dirty_peak) pool->dirty_peak = pool->dirty.count;
    pool->used--;
    region_of_page(page)->used--;
    if (can_purge(pool)) {
        bool due = now - pool->checked_ms >= pool->policy.delay_ms / 8;
        bool over = (size_t)pool->dirty.count << CHUNK_SHIFT > pool->policy.cache_bytes_max;
        if (due) pool->checked_ms = now;
        if (due || over)
            n = collect_cold(pool, pool->policy.cache_bytes_max, (uint32_t)now, pool->policy.delay_ms, batch);
    }
    lock_release(&pool->lock);
    if (n) decommit_batch(pool, batch, n);
}

bool page_pool_tick(page_pool *pool, uint32_t delay_ms)
{
    uint32_t batch[PURGE_BATCH];
    if (!can_purge(pool)) return false;
    uint64_t now = os_now_ms();
    lock_acquire(&pool->lock);
    pool->checked_ms = now;
    unsigned n = collect_cold(pool, pool->policy.cache_bytes_max, (uint32_t)now, delay_ms, batch);
    lock_release(&pool->lock);
    if (n) decommit_batch(pool, batch, n);
    return n > 0;
}

/* What is committed in the region of pages [first, end) and was never handed out: pages ahead, and page 0 of the space.
 * False: it stays. */
static bool decommit_spare(page_pool *pool, uint32_t first, uint32_t end)
{
    if (pool->bump_end == end && pool->bump_committed > pool->bump) {
        size_t bytes = (size_t)(pool->bump_committed - pool->bump) << CHUNK_SHIFT;
        if (!provider_decommit(pool->provider, page_address(pool->bump), bytes)) return false;
        pool->bump_committed = pool->bump;
    }
    return first != 0 || provider_decommit(pool->provider, page_address(0), CHUNK_BYTES);
}

/* Whole regions without a page in use go back to the space; their pages leave the clean list. Caller holds the lock. */
static void give_regions(page_pool *pool)
{
    for (uint32_t i = 0; i < the_space.region_count; i++) {
        region *r = &the_space.regions[i];
        if (region_kind_of(r) != REGION_FSA || r->owner != pool || r->used != 0) continue;
        uint32_t first = page_number(region_address(i)), end = first + region_pages();
        bool clean = true;
        for (uint32_t p = first; p < end && clean; p++) clean = state_of(p) != PAGE_DIRTY;
        if (!clean || !decommit_spare(pool, first, end)) continue;
        for (uint32_t p = first; p < end; p++)
            if (state_of(p) == PAGE_CLEAN) {
                page_list_remove(&pool->clean, p);
                atomic_store_explicit(&record(p)->state, PAGE_NONE, memory_order_relaxed);
            }
        if (pool->bump_end == end) pool->bump = pool->bump_committed = pool->bump_end = 0;
        pool->regions--;
        space_give(region_address(i));
    }
}

size_t page_pool_trim(page_pool *pool, size_t keep_bytes)
{
    size_t bytes = 0;
    if (!can_purge(pool)) return 0;
    uint32_t batch[PURGE_BATCH];
    for (unsigned left = 1, rounds = 0; left > 0; left--) {
        lock_acquire(&pool->lock);
        if (rounds++ == 0) left = pool->dirty.count / PURGE_BATCH + 2; /* others may keep adding */
        unsigned n = collect_cold(pool, keep_bytes, 0, UINT32_MAX, batch);
        lock_release(&pool->lock);
        if (n == 0) break;
        bytes += decommit_batch(pool, batch, n);
    }
    if (keep_bytes == 0) {
        lock_acquire(&pool->lock);
        give_regions(pool);
        lock_release(&pool->lock);
    }
    return bytes;
}

void page_pool_destroy(page_pool *pool)
{
    for (uint32_t i = 0; i < the_space.region_count; i++) {
        region *r = &the_space.regions[i];
        if (region_kind_of(r) != REGION_FSA || r->owner != pool) continue;
        char *address = region_address(i);
        uint32_t first = page_number(address), end = first + region_pages();
        if (pool->bump_end == end) end = pool->bump_committed;
        if (!provider_decommit(pool->provider, address, (size_t)(end - first) << CHUNK_SHIFT))
            for (uint32_t p = first; p < end; p++)
                if (state_of(p) >= PAGE_DIRTY && state_of(p) != PAGE_CLEAN)
                    provider_drop(pool->provider, page_address(p), CHUNK_BYTES);
        for (uint32_t p = first; p < end; p++) {
            atomic_store_explicit(&record(p)->state, PAGE_NONE, memory_order_relaxed);
            space_page_class[p] = 0;
        }
        space_give(address);
    }
    page_pool_init(pool, pool->provider, pool->policy);
}

uint32_t page_pool_used_end(page_pool *pool, uint32_t region_end)
{
    lock_acquire(&pool->lock);
    uint32_t end = pool->bump_end == region_end ? pool->bump : region_end;
    lock_release(&pool->lock);
    return end;
}

bool page_pool_check(page_pool *pool)
{
    bool ok = true;
    lock_acquire(&pool->lock);
    ok = page_list_check(&pool->dirty, PAGE_DIRTY) && page_list_check(&pool->clean, PAGE_CLEAN);
    for (uint32_t p = page_list_head(&pool->dirty); ok && p; p = record(p)->next) ok = space_page_class[p] == 0;
    for (uint32_t p = page_list_head(&pool->clean); ok && p; p = record(p)->next) ok = space_page_class[p] == 0;
    lock_release(&pool->lock);
    return ok;
}
