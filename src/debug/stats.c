/* stats: see stats.h. */
#include "debug/stats.h"

#include <string.h>

#include "heap/threads.h"
#include "os/misuse.h"
#include "os/os.h"
#include "page/arena.h"

/* More blocks than a magazine can hold: the owner was just replacing it. */
enum { MAGAZINE_BLOCKS_MAX = 4096 };

/* What the thread caches of a heap hold. */
typedef struct cached {
    uint64_t blocks[CLASS_COUNT_MAX + 1];
    uint64_t medium_blocks;
    size_t medium_bytes;
    uint64_t caches;
    thread_counters counters;
} cached;

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static void read_cache(const thread_cache *tc, cached *sum)
{
    uint64_t blocks[CLASS_COUNT_MAX + 1] = {0};
    size_t medium_bytes = 0;
    thread_cache_count(tc, blocks, &medium_bytes);
    for (uint32_t c = 1; c <= CLASS_COUNT_MAX; c++)
        if (blocks[c] <= MAGAZINE_BLOCKS_MAX) sum->blocks[c] += blocks[c];
    if (medium_bytes <= (size_t)MEDIUM_CACHE_ENTRIES * MEDIUM_SIZE_MAX) sum->medium_bytes += medium_bytes;
    sum->medium_blocks += medium_cache_blocks(&tc->medium);
    thread_counters_add(&sum->counters, &tc->counters);
    sum->caches++;
}

/* Live is what is left of taken and committed, so that clamping keeps the equation. */
static void balance(acre_ledger *l, uint64_t taken_bytes, uint64_t taken_cached, uint64_t empty_bytes)
{
    if (taken_bytes > l->committed_bytes) taken_bytes = l->committed_bytes;
    if (taken_cached > taken_bytes) taken_cached = taken_bytes;
    if (empty_bytes > l->committed_bytes - taken_bytes) empty_bytes = l->committed_bytes - taken_bytes;
    l->live_bytes = taken_bytes - taken_cached;
    l->cached_bytes = taken_cached + empty_bytes;
    l->waste_bytes = l->committed_bytes - l->live_bytes - l->cached_bytes;
}

static void read_small(acre_heap *h, const cached *caches, acre_stats *s)
{
    fsa_usage usage;
    uint64_t taken[FSA_KINDS] = {0}, in_caches[FSA_KINDS] = {0};
    fsa_usage_read(&h->fsa, &usage);
    for (uint32_t c = 1; c <= h->sizes->count; c++) {
        uint32_t kind = fsa_kind_of(h->sizes, c);
        uint64_t held = caches->blocks[c] < usage.taken[c] ? caches->blocks[c] : usage.taken[c];
        acre_ledger *l = &s->allocator[ACRE_ALLOCATOR_VERY_SMALL + kind];
        l->committed_bytes += usage.pages[c] << CHUNK_SHIFT;
        l->live_blocks += usage.taken[c] - held;
        taken[kind] += usage.taken[c] * h->sizes->size[c];
        in_caches[kind] += held * h->sizes->size[c];
    }
    for (uint32_t kind = 0; kind < FSA_KINDS; kind++) {
        acre_ledger *l = &s->allocator[ACRE_ALLOCATOR_VERY_SMALL + kind];
        const fsa_kind *k = &h->fsa.kinds[kind];
        balance(l, taken[kind], in_caches[kind], 0);
        l->peak_bytes = (uint64_t)atomic_load_explicit(&k->pages_peak, memory_order_relaxed) << CHUNK_SHIFT;
        l->given_back_bytes = atomic_load_explicit(&k->holes_given_back, memory_order_relaxed);
        l->refills = l->allocs = caches->counters.refills[kind];
        l->flushes = l->frees = caches->counters.flushes[kind];
    }
}
_Static_assert(ACRE_ALLOCATOR_VERY_SMALL == (int)FSA_VERY_SMALL && ACRE_ALLOCATOR_SMALL == (int)FSA_SMALL,
               "the kinds of small pages are the first columns");

static void read_medium(acre_heap *h, const cached *caches, acre_stats *s)
{
    medium_usage usage;
    medium_usage_read(&h->medium, &usage);
    acre_ledger *l = &s->allocator[ACRE_ALLOCATOR_MEDIUM];
    bool on_touch = h->provider == acre_provider_flexible() && !os_commit_is_charged() && !h->fill;
    l->committed_bytes = on_touch ? usage.touched : usage.committed;
    size_t empty = on_touch ? usage.touched_cached : usage.cached;
    balance(l, usage.used, caches->medium_bytes, usage.resting + empty);
    l->live_blocks = usage.blocks - smaller(usage.blocks, (size_t)caches->medium_blocks);
    l->peak_bytes = usage.peak;
    l->given_back_bytes = usage.given_back;
    l->allocs = l->refills = usage.allocs;
    l->frees = l->flushes = usage.frees;
    s->largest_hole_bytes = usage.largest_hole;
    s->table_bytes = usage.metadata;
}

static void read_large_column(acre_ledger *l, const large_usage *usage)
{
    l->committed_bytes = usage->committed;
    balance(l, usage->live, 0, usage->cached);
    l->live_blocks = usage->live_blocks;
    l->peak_bytes = usage->peak;
    l->given_back_bytes = usage->given_back;
    l->allocs = l->refills = usage->allocs;
    l->frees = l->flushes = usage->allocs - usage->live_blocks;
}

/* Returns the bytes of metadata that its pages have cost. */
static size_t read_pool(page_pool *pool, acre_ledger *l)
{
    lock_acquire(&pool->lock);
    uint64_t ahead = pool->bump_committed - pool->bump; /* committed in a larger piece, not handed out yet */
    l->committed_bytes += (pool->dirty.count + ahead) << CHUNK_SHIFT;
    l->cached_bytes = l->committed_bytes;
    l->peak_bytes += (uint64_t)pool->dirty_peak << CHUNK_SHIFT;
    l->given_back_bytes += pool->given_back << CHUNK_SHIFT;
    size_t pages = pool->used + pool->dirty.count + pool->clean.count;
    lock_release(&pool->lock);
    return pages * (sizeof(page_record) + sizeof *space_page_class);
}

static void add_ledger(acre_ledger *sum, const acre_ledger *l)
{
#define X(name, unit, title, meaning) sum->name += l->name;
    ACRE_LEDGER_LIST(X)
#undef X
}

static void count_pages(acre_ledger *l) { l->given_back_pages = l->given_back_bytes / os_page_bytes(); }

static void set_total(acre_stats *s)
{
    s->total = (acre_ledger){0};
    for (int a = 0; a < ACRE_ALLOCATOR_COUNT; a++) {
        count_pages(&s->allocator[a]);
        add_ledger(&s->total, &s->allocator[a]);
    }
}

/* Returns the bytes of metadata that the pages of its own pool have cost. */
static size_t read_heap(acre_heap *h, acre_stats *s)
{
    cached caches;
    large_usage slotted, unslotted;
    size_t metadata = 0;
    memset(s, 0, sizeof *s);
    memset(&caches, 0, sizeof caches);
    for (const thread_cache *tc = h->caches; tc; tc = tc->next) read_cache(tc, &caches);
    thread_counters_add(&caches.counters, &h->gone);
    read_small(h, &caches, s);
    read_medium(h, &caches, s);
    large_usage_read(&h->large, &slotted, &unslotted);
    read_large_column(&s->allocator[ACRE_ALLOCATOR_LARGE], &slotted);
    read_large_column(&s->allocator[ACRE_ALLOCATOR_UNSLOTTED], &unslotted);
    if (h->fsa.pool == &h->own_pool) metadata = read_pool(&h->own_pool, &s->allocator[ACRE_ALLOCATOR_FREE_PAGES]);
    for (int a = 0; h->observed && a < ACRE_ALLOCATOR_COUNT; a++) {
        s->allocator[a].allocs = caches.counters.allocs[a];
        s->allocator[a].frees = caches.counters.frees[a];
    }
    set_total(s);
    s->total.peak_bytes = atomic_load_explicit(&h->account.peak, memory_order_relaxed);
    s->held_bytes = atomic_load_explicit(&h->account.bytes, memory_order_relaxed);
    s->budget_bytes = h->account.budget;
    int64_t live_peak = atomic_load_explicit(&h->live_peak, memory_order_relaxed);
    int64_t live = caches.counters.live_bytes;
    s->live_peak_bytes = (uint64_t)(h->observed ? (live > live_peak ? live : live_peak) : 0);
    s->thread_caches = caches.caches;
    s->observed = h->observed;
    return metadata;
}

void stats_read_heap(acre_heap *heap, acre_stats *stats) { read_heap(heap, stats); }

acre_status acre_heap_stats_read(acre_heap *heap, acre_stats *stats)
{
    if (!heap || !stats) return ACRE_INVALID_ARGUMENT;
    threads_lock();
    read_heap(heap, stats);
    threads_unlock();
    return ACRE_OK;
}

acre_status acre_heap_counters_read(acre_heap *h, acre_counters *n)
{
    if (!h || !n) return ACRE_INVALID_ARGUMENT;
    memset(n, 0, sizeof *n);
    n->held_bytes = atomic_load_explicit(&h->account.bytes, memory_order_relaxed);
    n->held_peak_bytes = atomic_load_explicit(&h->account.peak, memory_order_relaxed);
    n->budget_bytes = h->account.budget;
    n->live_peak_bytes = (uint64_t)atomic_load_explicit(&h->live_peak, memory_order_relaxed);
    for (int kind = 0; kind < FSA_KINDS; kind++)
        n->given_back_bytes += atomic_load_explicit(&h->fsa.kinds[kind].holes_given_back, memory_order_relaxed);
    if (h->fsa.pool == &h->own_pool) {
        acre_ledger pages = {0};
        read_pool(&h->own_pool, &pages);
        n->free_bytes += pages.cached_bytes;
        n->given_back_bytes += pages.given_back_bytes;
    }
    lock_acquire(&h->medium.lock);
    n->free_bytes += h->medium.cached + h->medium.quick.bytes;
    n->given_back_bytes += h->medium.given_back;
    lock_release(&h->medium.lock);
    lock_acquire(&h->large.lock);
    n->free_bytes += h->large.cached;
    n->given_back_bytes += h->large.given_back;
    lock_release(&h->large.lock);
    return ACRE_OK;
}

/* --- the process ------------------------------------------------------------------------------------------------- */

static void add_heap(acre_heap *h, void *context)
{
    acre_process_stats *p = context;
    acre_stats s;
    p->metadata_bytes += read_heap(h, &s) + s.table_bytes;
    for (int a = 0; a < ACRE_ALLOCATOR_COUNT; a++) add_ledger(&p->all.allocator[a], &s.allocator[a]);
    p->all.total.peak_bytes += s.total.peak_bytes;
    uint64_t hole = p->all.largest_hole_bytes > s.largest_hole_bytes ? p->all.largest_hole_bytes : s.largest_hole_bytes;
#define X(name, unit, title, meaning) p->all.name += s.name;
    ACRE_HEAP_FIGURES(X)
#undef X
    p->all.largest_hole_bytes = hole;
    p->heaps++;
}

acre_status acre_stats_read(acre_process_stats *p)
{
    if (!p) return ACRE_INVALID_ARGUMENT;
    memset(p, 0, sizeof *p);
    if (!heap_process()) return ACRE_NO_MEMORY;
    heap_for_each(add_heap, p);
    acre_ledger shared = {0};
    p->metadata_bytes += read_pool(heap_shared_pool(), &shared);
    add_ledger(&p->all.allocator[ACRE_ALLOCATOR_FREE_PAGES], &shared);
    uint64_t peak = p->all.total.peak_bytes;
    set_total(&p->all);
    p->all.total.peak_bytes = peak;

    size_t used, held;
    arena_usage(&used, &held);
    p->metadata_bytes += held;
    p->resident_bytes = os_resident_bytes();
    p->misuse_count = misuse_count();
    p->space_bytes = the_space.bytes;
    p->region_bytes = region_bytes();
    p->regions_small = space_regions_in_use(REGION_FSA);
    p->regions_medium = space_regions_in_use(REGION_MEDIUM);
    p->regions_large = space_regions_in_use(REGION_LARGE);
    p->regions_ranges = space_regions_in_use(REGION_RANGE);
    p->regions_free = space_regions_in_use(REGION_FREE);
    return ACRE_OK;
}

static bool column_adds_up(const acre_ledger *l)
{
    return l->committed_bytes == l->live_bytes + l->cached_bytes + l->waste_bytes;
}

bool stats_add_up(const acre_stats *s)
{
    acre_ledger sum = {0};
    bool ok = column_adds_up(&s->total);
    for (int a = 0; a < ACRE_ALLOCATOR_COUNT; a++) {
        ok = ok && column_adds_up(&s->allocator[a]);
        add_ledger(&sum, &s->allocator[a]);
    }
    return ok && sum.live_bytes == s->total.live_bytes && sum.cached_bytes == s->total.cached_bytes &&
           sum.waste_bytes == s->total.waste_bytes && sum.committed_bytes == s->total.committed_bytes;
}
