/* heap: see heap.h. Heaps and what is allocated from them; the threads are in heap/threads.c. */
#include "heap/heap.h"

#include <errno.h>
#include <string.h>

#include "heap/background.h"
#include "heap/observed.h"
#include "heap/threads.h"
#include "os/os.h"
#include "page/arena.h"
#include "page/direct.h"
#include "page/resident.h"

static lock init_lock; /* LOCK_RANK_INIT */
static acre_heap process_heap;
static _Atomic bool process_ready;
size_classes process_sizes; /* and those of every heap that asks for no others */
static page_pool flexible_pool; /* shared by all heaps on flexible memory without clear values */
static acre_heap *_Atomic heaps[HEAP_COUNT_MAX]; /* by number; written under the registry's lock */
static uint32_t heaps_used = 1;                  /* numbers below were given out once */

static acre_heap *heap_by_number(uint32_t number)
{
    return number < HEAP_COUNT_MAX ? atomic_load_explicit(&heaps[number], memory_order_acquire) : NULL;
}

/* --- making and destroying -------------------------------------------------------------------------------------- */

static void copy_name(char *to, size_t bytes, const char *from)
{
    size_t n = strlen(from);
    if (n >= bytes) n = bytes - 1;
    memcpy(to, from, n);
    to[n] = 0;
}

static size_t or_default(size_t value, size_t fallback) { return value ? value : fallback; }

/* Sets up everything but the heap's number. o was checked. */
static void set_up(acre_heap *h, const acre_heap_options *o, uint16_t number, bool observed)
{
    h->number = number;
    copy_name(h->name, sizeof h->name, o->name ? o->name : "heap");
    h->provider = o->provider ? o->provider : acre_provider_flexible();
    h->account.budget = o->budget_bytes;
    h->on_over_budget = o->on_over_budget;
    h->on_over_budget_context = o->on_over_budget_context;
    h->single_thread = o->single_thread;
    h->fill = o->fill;
    h->observed = observed || o->fill;
    h->policy = (page_policy){.delay_ms = (uint32_t)or_default(o->purge_delay_ms, 500),
                              .cache_bytes_max = or_default(o->cache_bytes_max, SIZE_MAX),
                              .fill = o->fill};
    h->magazine_bytes_max = or_default(o->magazine_bytes_max, 64 * KIB);
    h->thread_bytes_max = or_default(o->thread_bytes_max, 2 * MIB);
    if (o->small_size_max == 0 && o->classes_per_doubling == 0) {
        h->sizes = &process_sizes;
    } else {
        size_classes_init(&h->own_sizes, o->small_size_max, o->classes_per_doubling);
        h->sizes = &h->own_sizes;
    }
    page_pool *pool = &flexible_pool;
    if (h->provider != acre_provider_flexible() || h->fill) {
        pool = &h->own_pool;
        page_pool_init(pool, h->provider, h->policy);
    }
    fsa_init(&h->fsa, number, number == HEAP_PROCESS && !h->observed, h->sizes, pool, &h->account);
    medium_init(&h->medium, h, h->provider, &h->account, h->policy, o->single_thread, o->named_align);
    large_init(&h->large, h, h->provider, &h->account, h->policy);
}

static bool process_init(void)
{
    options_read();
    const process_options *o = &the_options;
    misuse_set_policy(o->on_error);
    if (!space_init(o->reserve_bytes)) return false;
    size_classes_init(&process_sizes, 0, 0);
    uint32_t delay_ms = o->purge_delay_ms ? o->purge_delay_ms : 1; /* in a heap's options 0 is the default */
    acre_heap_options options = {
        .name = "process",
        .budget_bytes = o->budget_bytes,
        .fill = o->fill,
        .purge_delay_ms = delay_ms,
        .cache_bytes_max = o->cache_bytes_max,
        .magazine_bytes_max = o->magazine_bytes_max,
        .thread_bytes_max = o->thread_bytes_max,
    };
    size_t populate_bytes = o->populate_bytes ? (size_t)1 << bits_highest(o->populate_bytes) : 0;
    page_policy policy = {.delay_ms = delay_ms,
                          .cache_bytes_max = or_default(o->cache_bytes_max, SIZE_MAX),
                          .huge = o->huge_pages,
                          .populate_bytes = populate_bytes < CHUNK_BYTES ? populate_bytes : CHUNK_BYTES};
    page_pool_init(&flexible_pool, acre_provider_flexible(), policy);
    set_up(&process_heap, &options, HEAP_PROCESS, o->stats);
    process_heap.medium.policy.populate_bytes = policy.populate_bytes;
    atomic_store_explicit(&heaps[HEAP_PROCESS], &process_heap, memory_order_release);
    heaps_used = HEAP_PROCESS + 1;
    return threads_init();
}

acre_heap *heap_process(void)
{
    if (likely(atomic_load_explicit(&process_ready, memory_order_acquire))) return &process_heap;
    static bool failed;
    lock_acquire(&init_lock);
    bool ready = atomic_load_explicit(&process_ready, memory_order_relaxed);
    if (!ready && !failed) {
        ready = process_init();
        failed = !ready;
        atomic_store_explicit(&process_ready, ready, memory_order_release);
    }
    lock_release(&init_lock);
    return ready ? &process_heap : NULL;
}

bool heap_process_exists(void) { return atomic_load_explicit(&process_ready, memory_order_acquire); }

acre_heap *heap_create(const acre_heap_options *o, acre_status *why)
{
    acre_heap *h = NULL;
    *why = ACRE_NO_MEMORY;
    if (!heap_process()) return NULL;
    threads_lock();
    uint32_t number = HEAP_PROCESS + 1;
    while (number < heaps_used && heap_by_number(number)) number++;
    if (number == HEAP_COUNT_MAX) {
        *why = ACRE_TOO_LARGE;
        goto out;
    }
    h = arena_alloc(sizeof *h);
    if (!h) goto out;
    set_up(h, o, (uint16_t)number, false);
    if (number == heaps_used) heaps_used++;
    atomic_store_explicit(&heaps[number], h, memory_order_release);
    *why = ACRE_OK;
out:
    threads_unlock();
    return h;
}

void heap_destroy(acre_heap *h)
{
    threads_lock();
    h->dying = true;
    threads_drop_caches(h);
    threads_unlock();
    fsa_destroy(&h->fsa);
    if (h->fsa.pool == &h->own_pool) page_pool_destroy(&h->own_pool);
    medium_destroy(&h->medium);
    large_destroy(&h->large);
    /* Last: its pages were told by its number, which must not name another heap while some are left. */
    threads_lock();
    atomic_store_explicit(&heaps[h->number], NULL, memory_order_release);
    threads_unlock();
    arena_free(h, sizeof *h);
}

page_pool *heap_shared_pool(void) { return &flexible_pool; }

void heap_for_each(void (*visit)(acre_heap *heap, void *context), void *context)
{
    if (!heap_process_exists()) return;
    threads_lock();
    for (uint32_t i = HEAP_PROCESS; i < heaps_used; i++)
        if (heap_by_number(i) && !heap_by_number(i)->dying) visit(heap_by_number(i), context);
    threads_unlock();
}

/* --- allocating ------------------------------------------------------------------------------------------------- */

static uint32_t class_for(const acre_heap *h, size_t size, size_t align)
{
    if (align == 0) return size <= h->sizes->size_max ? size_class_of(h->sizes, size) : CLASS_NONE;
    return size_class_aligned(h->sizes, size, align);
}

/* Changes when the budget refuses something. */
static uint32_t refusals(const acre_heap *h) { return atomic_load_explicit(&h->account.refused, memory_order_relaxed); }

/* Without a thread cache: a word is taken, one block of it kept, the rest given back. Rare: a thread past its end. */
static void *take_alone(acre_heap *h, uint32_t c)
{
    fsa_source source = {0};
    void *block = NULL;
    fsa_refill(&h->fsa, c, &source, &block, 1);
    fsa_detach(&h->fsa, c, &source);
    return block;
}

static void *allocate_medium(acre_heap *h, thread_cache *tc, size_t size, size_t align, bool zero, const void *site)
{
    /* Blocks in the cache are aligned to their granule, 256 bytes at least, and remember no site. */
    bool may = tc && align <= 256 && !site && account_has_room(&h->account, 0);
    void *block = may ? medium_cache_take(&tc->medium, size) : NULL;
    if (block && zero) memset(block, 0, size);
    if (block) return block;
    if (may) return medium_cache_refill(&tc->medium, &h->medium, size, zero);
    return medium_alloc(&h->medium, size, align, zero, site);
}

/* From what serves blocks over 4 KiB. */
static void *allocate_larger(acre_heap *h, thread_cache *tc, size_t size, size_t align, bool zero, const void *site)
{
    if (size <= MEDIUM_SIZE_MAX && align <= MIB) {
        uint32_t refused = refusals(h);
        void *block = allocate_medium(h, tc, size, align, zero, site);
        if (block || refusals(h) != refused) return block;
        /* No range had room and none could be made: an address space that is small or full. */
    }
    bool zeroed;
    void *block = large_alloc(&h->large, size ? size : 1, align, &zeroed);
    if (block && zero && !zeroed) memset(block, 0, size);
    return block;
}

static void *allocate(acre_heap *h, thread_cache *tc, size_t size, size_t align, bool zero, const void *site)
{
    uint32_t c = class_for(h, size, align);
    if (c != CLASS_NONE) {
        void *block = tc ? thread_cache_take(tc, c) : take_alone(h, c);
        if (block && zero) memset(block, 0, size);
        return block;
    }
    return allocate_larger(h, tc, size, align, zero, site);
}

static void trim_visit(acre_heap *h, void *keep) { heap_trim_shared(h, *(size_t *)keep); }

/* Nothing was to be had: whatever all heaps keep in store goes back to the system. */
static void trim_all_shared(void)
{
    size_t keep = 0;
    heap_for_each(trim_visit, &keep);
}

/* A single_thread heap, and another thread asks. */
static bool is_wrong_thread(const acre_heap *h)
{
    return h->single_thread && h->medium.single_thread != os_thread_id();
}

/* growing: as medium_tick has it. */
static void tick(acre_heap *h, uint32_t delay_ms, uint32_t effort, size_t growing)
{
    enum { AGE_PAGES = 8 };
    fsa_age(&h->fsa, (uint32_t)os_now_ms(), delay_ms, AGE_PAGES * effort);
    for (uint32_t i = 0; i < effort && page_pool_tick(h->fsa.pool, delay_ms); i++) {}
    medium_tick(&h->medium, delay_ms, effort, growing);
    large_tick(&h->large, delay_ms);
}

/* What acre grows by before it looks for something to make up for it. */
#define GROWTH_BYTES (4 * CHUNK_BYTES)

/* acre holds more memory than ever. Some of it may be lying about: what the thread keeps of block sizes that it does
 * not use now pins pages that could have served, and what another allocator has kept for more than a moment goes back,
 * at a fraction of what the page faults of the growth cost. So a program that changes from one kind of block to another
 * does not hold the memory of both. */
static ACRE_NOINLINE void make_up_for_growth(acre_heap *h, thread_cache *tc, size_t size)
{
    enum { A_MOMENT_MS = 20, LOOK_CLASSES = 16, EFFORT = 4 };
    thread_cache_drain(tc, LOOK_CLASSES);
    bool medium = size > h->sizes->size_max && size <= MEDIUM_SIZE_MAX;
    tick(h, A_MOMENT_MS < h->policy.delay_ms ? A_MOMENT_MS : h->policy.delay_ms, EFFORT,
         medium ? size : 0);
}

void *heap_alloc(acre_heap *h, size_t size, size_t align, bool zero, const void *site, acre_status *why)
{
    if (unlikely(align & (align - 1))) {
        *why = ACRE_INVALID_ARGUMENT;
        return NULL;
    }
    if (unlikely(size > PTRDIFF_MAX)) {
        *why = ACRE_TOO_LARGE;
        return NULL;
    }
    if (unlikely(is_wrong_thread(h))) {
        *why = ACRE_WRONG_THREAD;
        return NULL;
    }
    int saved = errno; /* a call that succeeds leaves errno alone */
    thread_cache *tc = heap_thread_cache(h);
    threads_enter(tc);
    uint32_t refused = refusals(h);
    void *block = allocate(h, tc, size, align, zero, site);
    if (unlikely(!block)) {
        *why = refusals(h) != refused ? ACRE_OVER_BUDGET : ACRE_NO_MEMORY;
        /* What this thread keeps counts as held; and whatever all heaps keep in store goes back to the system. */
        if (tc) thread_cache_flush(tc);
        if (*why == ACRE_OVER_BUDGET) fsa_trim(&h->fsa);
        else trim_all_shared();
        block = allocate(h, tc, size, align, zero, site);
        /* No page for a small block, perhaps since no region is left of a small space; a larger block would do. */
        if (!block && *why == ACRE_NO_MEMORY) block = allocate_larger(h, tc, size, align, zero, site);
        if (!block && *why == ACRE_OVER_BUDGET && h->on_over_budget) {
            threads_leave(tc);
            bool again = h->on_over_budget(h->on_over_budget_context, h, size);
            threads_enter(tc);
            if (again && tc) thread_cache_flush(tc); /* what was freed to us counts as held until then */
            if (again) block = allocate(h, tc, size, align, zero, site);
        }
    }
    if (tc && unlikely(resident_grew(GROWTH_BYTES))) make_up_for_growth(h, tc, size);
    if (block) {
        *why = ACRE_OK;
        errno = saved;
        size_t usable;
        if (unlikely(h->observed) && heap_owner(block, &usable)) observed_alloc(h, tc, block, usable, zero);
    }
    threads_leave(tc);
    return block;
}

/* --- freeing ---------------------------------------------------------------------------------------------------- */

/* The heap and class of a block in an FSA page; NULL: no block of any heap starts there. *status says what it is. */
static acre_heap *small_owner(const void *p, uint32_t *class_, acre_status *status)
{
    page_record *r = fsa_record(page_number(p));
    uint32_t state = atomic_load_explicit(&r->state, memory_order_acquire);
    *status = state == PAGE_NONE ? ACRE_FOREIGN_POINTER : ACRE_DOUBLE_FREE;
    if (state < PAGE_ATTACHED) return NULL;
    uint32_t c = *class_ = atomic_load_explicit(&r->class_, memory_order_relaxed);
    acre_heap *h = heap_by_number(atomic_load_explicit(&r->heap, memory_order_relaxed));
    *status = ACRE_FOREIGN_POINTER;
    if (c == CLASS_NONE || !h || !fsa_is_block(h->sizes, c, p)) return NULL;
    *status = ACRE_DOUBLE_FREE;
    return fsa_is_free(h->sizes, c, p) ? NULL : h;
}

static acre_status free_small(void *p)
{
    uint32_t c;
    acre_status status;
    acre_heap *h = small_owner(p, &c, &status);
    if (unlikely(!h)) return status;
    if (unlikely(is_wrong_thread(h))) return ACRE_WRONG_THREAD;
    thread_cache *tc = heap_thread_cache(h);
    if (unlikely(h->observed) && !observed_free(h, tc, p, h->sizes->size[c])) return ACRE_DOUBLE_FREE;
    threads_enter(tc);
    if (tc) thread_cache_put(tc, c, p);
    else fsa_return(&h->fsa, c, &p, 1);
    threads_leave(tc);
    return ACRE_OK;
}

static acre_status free_medium(medium_range *r, void *p)
{
    acre_heap *h = r->owner->heap;
    if (unlikely(is_wrong_thread(h))) return ACRE_WRONG_THREAD;
    bool cached;
    size_t bytes = medium_usable(r, p, &cached);
    if (bytes == 0) return medium_free(r->owner, p); /* says what is wrong with it */
    if (cached) return ACRE_DOUBLE_FREE;
    thread_cache *tc = heap_thread_cache(h);
    if (unlikely(h->observed)) observed_free(h, tc, p, bytes);
    threads_enter(tc);
    medium_handle *handle = medium_live_handle(r, p, &bytes);
    uint32_t threads = atomic_load_explicit(&h->cache_count, memory_order_relaxed);
    bool kept = tc && handle && medium_cache_put(&tc->medium, handle, bytes, p, threads);
    acre_status status = kept ? ACRE_OK : medium_free(r->owner, p);
    threads_leave(tc);
    return status;
}

acre_status heap_free(void *p)
{
    if (unlikely(!heap_process_exists())) return ACRE_FOREIGN_POINTER;
    int saved = errno;
    acre_status status = ACRE_FOREIGN_POINTER;
    region_kind kind = space_contains(p) ? region_kind_of(region_of(p)) : REGION_LARGE;
    if (kind == REGION_FSA) {
        status = free_small(p);
    } else if (kind == REGION_MEDIUM) {
        status = free_medium(medium_range_of(p), p);
    } else if (kind == REGION_LARGE) {
        size_t usable;
        large *l = large_owner(p, &usable);
        if (l) {
            acre_heap *h = l->heap;
            if (unlikely(is_wrong_thread(h))) {
                errno = saved;
                return ACRE_WRONG_THREAD;
            }
            if (unlikely(h->observed)) observed_free(h, heap_thread_cache(h), p, usable);
            status = large_free(l, p);
        } else if (space_contains(p) && large_is_free_slot(p)) {
            status = ACRE_DOUBLE_FREE;
        }
    }
    errno = saved;
    return status;
}

/* --- the rest --------------------------------------------------------------------------------------------------- */

acre_heap *heap_owner(const void *p, size_t *usable)
{
    if (!heap_process_exists()) return NULL;
    region_kind kind = space_contains(p) ? region_kind_of(region_of(p)) : REGION_LARGE;
    if (kind == REGION_FSA) {
        uint32_t c;
        acre_status status;
        acre_heap *h = small_owner(p, &c, &status);
        if (h) *usable = h->sizes->size[c];
        return h;
    }
    if (kind == REGION_MEDIUM) {
        medium_range *r = medium_range_of(p);
        bool cached;
        *usable = medium_usable(r, p, &cached);
        return *usable && !cached ? r->owner->heap : NULL;
    }
    large *l = kind == REGION_LARGE ? large_owner(p, usable) : NULL;
    return l ? l->heap : NULL;
}

bool heap_resize(acre_heap *h, void *p, size_t usable, size_t size)
{
    region_kind kind = space_contains(p) ? region_kind_of(region_of(p)) : REGION_LARGE;
    bool ok = false;
    if (size == 0) size = 1;
    if (kind == REGION_FSA) return size <= usable;
    if (kind == REGION_MEDIUM) ok = size <= MEDIUM_SIZE_MAX && medium_resize(&h->medium, p, size);
    if (kind == REGION_LARGE) ok = large_resize(&h->large, p, size);
    if (ok && unlikely(h->observed)) {
        size_t now;
        if (heap_owner(p, &now)) observed_resize(h, heap_thread_cache(h), usable, now);
    }
    return ok;
}

/* Is it worth moving a block that shrinks, to give memory back? */
static bool shrinks_enough(const acre_heap *h, size_t usable, size_t size)
{
    if (usable <= h->sizes->size_max) return heap_shrinks_enough(usable, size);
    return size <= h->sizes->size_max || size < usable / 2;
}

void *heap_realloc(acre_heap *h, void *p, size_t size, acre_status *why)
{
    size_t usable;
    acre_heap *owner = heap_owner(p, &usable);
    if (!owner || (h && owner != h)) {
        *why = ACRE_FOREIGN_POINTER;
        return NULL;
    }
    *why = ACRE_OK;
    bool is_big = usable > owner->sizes->size_max;
    size_t spare = usable / 4 < MIB ? usable / 4 : MIB;
    if (is_big && size <= usable && usable - size <= spare) return p;
    if (size <= usable && !shrinks_enough(owner, usable, size)) {
        if (is_big) heap_resize(owner, p, usable, size); /* give the tail back if that works */
        return p;
    }
    bool both_big = is_big && size > owner->sizes->size_max;
    /* A large block that becomes a medium one moves: its slot would keep 64 KiB at least, and its addresses. */
    bool leaves_slot = usable > MEDIUM_SIZE_MAX && size <= MEDIUM_SIZE_MAX / 2;
    if (both_big && !leaves_slot && heap_resize(owner, p, usable, size)) return p;
    /* What grows a little will do so again. Where it must be copied it gets some room, so that an array which grows
     * by a fixed step is not copied at every step. */
    bool creeps = both_big && size > usable && size < usable + spare && usable + spare <= MEDIUM_SIZE_MAX &&
                  owner->account.budget == 0;
    void *q = creeps ? heap_alloc(owner, usable + spare, 0, false, NULL, why) : NULL;
    if (!q) q = heap_alloc(owner, size, 0, false, NULL, why);
    if (!q && size <= usable) { /* it still fits where it is */
        if (both_big) heap_resize(owner, p, usable, size);
        *why = ACRE_OK;
        return p;
    }
    if (!q) return NULL;
    if (!(size > usable && large_move(&owner->large, p, q, usable))) memcpy(q, p, usable < size ? usable : size);
    heap_free(p);
    return q;
}

void heap_tick(acre_heap *h, uint32_t delay_ms, uint32_t effort) { tick(h, delay_ms, effort, 0); }

size_t heap_trim_shared(acre_heap *h, size_t keep_bytes)
{
    size_t bytes = 0;
    fsa_trim(&h->fsa);
    if (keep_bytes == 0) bytes += fsa_purge_holes(&h->fsa);
    bytes += page_pool_trim(h->fsa.pool, keep_bytes);
    if (!is_wrong_thread(h)) bytes += medium_trim(&h->medium, keep_bytes);
    return bytes + large_trim(&h->large, keep_bytes);
}

size_t heap_trim(acre_heap *h, size_t keep_bytes)
{
    threads_flush_own(h);
    return heap_trim_shared(h, keep_bytes);
}

/* --- fork ------------------------------------------------------------------------------------------------------- */

static void for_locks(void (*action)(lock *))
{
    /* The order of enum lock_rank; unlocking in the same order is as good. */
    for (uint32_t i = HEAP_PROCESS; i < heaps_used; i++)
        if (heap_by_number(i)) action(&heap_by_number(i)->medium.lock);
    for (uint32_t i = HEAP_PROCESS; i < heaps_used; i++)
        if (heap_by_number(i)) action(&heap_by_number(i)->large.lock);
    action(large_outside_lock());
    for (uint32_t i = HEAP_PROCESS; i < heaps_used; i++) {
        acre_heap *h = heap_by_number(i);
        for (uint32_t c = 1; h && c <= h->sizes->count; c++) action(&h->fsa.classes[c].lock);
    }
    action(&flexible_pool.lock);
    for (uint32_t i = HEAP_PROCESS; i < heaps_used; i++)
        if (heap_by_number(i)) action(&heap_by_number(i)->own_pool.lock);
    action(&the_space.lock);
    direct_for_locks(action);
    action(arena_lock());
}

/* init_lock in any case: no other thread may be half-way through process_init at the fork, and what one of these three
 * sees of it the others must see, too. */
void heap_fork_prepare(void)
{
    lock_acquire(&init_lock);
    if (!heap_process_exists()) return;
    threads_lock();
    for_locks(lock_acquire);
}

void heap_fork_parent(void)
{
    if (heap_process_exists()) {
        for_locks(lock_release);
        threads_unlock();
    }
    lock_release(&init_lock);
}

void heap_fork_child(void)
{
    lock_reset(&init_lock);
    if (!heap_process_exists()) return;
    for_locks(lock_reset);
    background_reset_in_child();
    threads_reset_in_child();
    threads_adopt_in_child();
}
