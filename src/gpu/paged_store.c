/* paged_store: see paged_store.h. Every function that calls the driver has the same three parts: mark under the lock,
 * call without it, commit or undo under it. */
#include "gpu/paged_store.h"

#include "gpu/paged_internal.h"
#include "page/arena.h"

/* --- small parts ------------------------------------------------------------------------------------------------ */

/* The first failure of a call is the one to report. A driver that does less without saying why has failed, too. */
static void note_failure(paged_failure *failure, const paged_failure *said)
{
    if (failure->status != ACRE_OK) return;
    *failure = *said;
    if (failure->status == ACRE_OK) failure->status = ACRE_SYSTEM;
}

void paged_enter_driver(paged_store *store)
{
    store->in_driver++;
    lock_release(&store->lock);
}

void paged_leave_driver(paged_store *store)
{
    lock_acquire(&store->lock);
    store->in_driver--;
}

void paged_wait_for_others(paged_store *store)
{
    uint32_t epoch = atomic_load_explicit(&store->epoch, memory_order_relaxed);
    store->waiters++;
    store->waits++;
    lock_release(&store->lock);
    os_wait((const uint32_t *)(const void *)&store->epoch, epoch);
    lock_acquire(&store->lock);
    store->waiters--;
}

/* The epoch changes under the lock, and a waiter reads it there, so none sleeps past a change. */
void paged_tell_others(paged_store *store)
{
    atomic_fetch_add_explicit(&store->epoch, 1, memory_order_relaxed);
    if (store->waiters != 0) os_wake_all((const uint32_t *)(const void *)&store->epoch);
}

static void count_empty(paged_store *store, bool empty)
{
    if (store->options.ledger != NULL)
        gpu_ledger_empty(store->options.ledger, store->options.heap, store->page_bytes, empty);
}

void paged_put_empty(paged_store *store, paged_physical *physical, paged_range *home, uint64_t home_page)
{
    physical->home = home;
    physical->home_page = home_page;
    physical->empty = true;
    empty_add(&store->empties, &physical->item, store->page_bytes, os_now_ms());
    count_empty(store, true);
}

void paged_put_loose(paged_store *store, paged_physical *physical)
{
    paged_put_empty(store, physical, NULL, 0);
    physical->loose_prev = NULL;
    physical->loose_next = store->loose;
    if (store->loose != NULL) store->loose->loose_prev = physical;
    store->loose = physical;
    store->loose_count++;
}

void paged_unput(paged_store *store, paged_physical *physical)
{
    if (physical->home == NULL) {
        if (physical->loose_prev != NULL) physical->loose_prev->loose_next = physical->loose_next;
        else store->loose = physical->loose_next;
        if (physical->loose_next != NULL) physical->loose_next->loose_prev = physical->loose_prev;
        store->loose_count--;
    }
    physical->empty = false;
    empty_remove(&store->empties, &physical->item);
    count_empty(store, false);
}

static paged_physical *of_item(empty_item *item)
{
    _Static_assert(offsetof(paged_physical, item) == 0, "the item is the page");
    return (paged_physical *)(void *)item;
}

/* --- driver calls ----------------------------------------------------------------------------------------------- */

/* Without the lock. Maps and gives access; what got none is unmapped again. */
paged_outcome paged_map_call(const paged_store *store, const paged_binding *bindings, uint32_t count,
                             paged_failure *failure)
{
    const paged_provider *provider = &store->options.provider;
    paged_failure said = {.status = ACRE_OK}, ignored = {.status = ACRE_OK};
    uint32_t mapped = provider->map(provider->context, bindings, count, &said);
    if (mapped < count) note_failure(failure, &said);
    paged_outcome outcome = {.accessible = mapped};
    said = (paged_failure){.status = ACRE_OK};
    if (mapped != 0 && provider->set_access != NULL)
        outcome.accessible = provider->set_access(provider->context, bindings, mapped, &said);
    uint32_t no_access = mapped - outcome.accessible;
    if (no_access == 0) return outcome;
    note_failure(failure, &said);
    outcome.undone = provider->unmap(provider->context, bindings + outcome.accessible, no_access, &ignored);
    outcome.bare = no_access - outcome.undone;
    return outcome;
}

/* Without the lock. Places of one range after the other: one call each. Returns how many of the first are done. */
static uint32_t unmap_calls(const paged_store *store, const paged_place *places, uint32_t count,
                            paged_failure *failure)
{
    const paged_provider *provider = &store->options.provider;
    paged_binding bindings[PAGED_BATCH_PAGES];
    for (uint32_t at = 0; at < count;) {
        uint32_t run = 0;
        for (; at + run < count && places[at + run].range == places[at].range; run++)
            bindings[run] = (paged_binding){places[at].range->options.owner,
                                            places[at + run].page << store->page_log2,
                                            places[at + run].physical->handle};
        paged_failure said = {.status = ACRE_OK};
        uint32_t done = provider->unmap(provider->context, bindings, run, &said);
        at += done;
        if (done == run) continue;
        note_failure(failure, &said);
        return at;
    }
    return count;
}

/* Under the lock. */
static void commit_unmap(paged_store *store, const paged_place *places, uint32_t count, uint32_t done)
{
    for (uint32_t i = 0; i < count; i++) {
        paged_page *page = paged_page_at(places[i].range, places[i].page);
        paged_physical *physical = places[i].physical;
        page->busy = false;
        if (i < done) {
            page->physical = NULL;
            page->bare = false;
            physical->refs--;
            store->unmaps++;
        } else if (page->used == 0 && physical->refs == 1) {
            paged_put_empty(store, physical, places[i].range, places[i].page);
        } else if (page->used == 0) {
            page->bare = true; /* the next block here must not see memory that others use */
        }
    }
    paged_tell_others(store);
}

uint32_t paged_unmap(paged_store *store, const paged_place *places, uint32_t count, paged_failure *failure)
{
    if (count == 0) return 0;
    paged_enter_driver(store);
    uint32_t done = unmap_calls(store, places, count, failure);
    paged_leave_driver(store);
    commit_unmap(store, places, count, done);
    return done;
}

/* Under the lock. Bookkeeping of `count` pages that never came, or went. */
static void forget_pages(paged_store *store, paged_physical *const *pages, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) arena_free(pages[i], sizeof *pages[i]);
    store->page_count -= count;
    if (store->options.ledger != NULL)
        gpu_ledger_unhold(store->options.ledger, store->options.heap, count * store->page_bytes);
}

static void count_driver_calls(paged_store *store, uint32_t count, int change)
{
    for (uint32_t i = 0; i < count && store->options.ledger != NULL; i++)
        gpu_ledger_driver_call(store->options.ledger, store->options.heap, change);
}

uint32_t paged_destroy_pages(paged_store *store, paged_physical *const *pages, uint32_t count, paged_failure *failure)
{
    if (count == 0) return 0;
    const paged_provider *provider = &store->options.provider;
    uint64_t handles[PAGED_BATCH_PAGES];
    for (uint32_t i = 0; i < count; i++) handles[i] = pages[i]->handle;
    paged_enter_driver(store);
    paged_failure said = {.status = ACRE_OK};
    uint32_t done = provider->destroy(provider->context, handles, count, &said);
    if (done < count) note_failure(failure, &said);
    paged_leave_driver(store);
    for (uint32_t i = done; i < count; i++) paged_put_loose(store, pages[i]);
    forget_pages(store, pages, done);
    count_driver_calls(store, done, -1);
    store->destroys += done;
    return done;
}

/* --- obtaining pages -------------------------------------------------------------------------------------------- */

/* Under the lock. Empties that are mapped elsewhere, the oldest first; all loose ones are taken when this is asked. */
static uint32_t mark_take_over(paged_store *store, paged_place *places, uint32_t want)
{
    uint32_t count = 0;
    while (count < want && store->empties.oldest != NULL) {
        paged_physical *physical = of_item(store->empties.oldest);
        places[count++] = (paged_place){physical->home, physical->home_page, physical};
        paged_page_at(physical->home, physical->home_page)->busy = true;
        paged_unput(store, physical);
    }
    return count;
}

/* Under the lock. Records for `want` new pages, with the budget's leave. All or none. */
static bool prepare_new(paged_store *store, paged_physical **pages, uint32_t want, const paged_call *call)
{
    gpu_ledger *ledger = store->options.ledger;
    if (ledger != NULL && !gpu_ledger_hold(ledger, store->options.heap, want * store->page_bytes, call->exceed)) {
        *call->failure = (paged_failure){.status = ACRE_OVER_BUDGET};
        return false;
    }
    store->page_count += want;
    for (uint32_t i = 0; i < want; i++) {
        pages[i] = arena_alloc(sizeof *pages[i]);
        if (pages[i] != NULL) {
            pages[i]->born = call->serial;
            continue;
        }
        for (uint32_t k = i; k < want; k++) pages[k] = NULL; /* arena_free ignores them */
        forget_pages(store, pages, want);
        *call->failure = (paged_failure){.status = ACRE_NO_MEMORY};
        return false;
    }
    return true;
}

/* Pages that were made, in `pages`; the rest of them is forgotten. */
static uint32_t create_new(paged_store *store, paged_physical **pages, uint32_t want, paged_failure *failure)
{
    const paged_provider *provider = &store->options.provider;
    uint64_t handles[PAGED_BATCH_PAGES];
    paged_enter_driver(store);
    paged_failure said = {.status = ACRE_OK};
    uint32_t made = provider->create(provider->context, handles, want, &said);
    if (made < want) note_failure(failure, &said);
    paged_leave_driver(store);
    for (uint32_t i = 0; i < made; i++) pages[i]->handle = handles[i];
    forget_pages(store, pages + made, want - made);
    count_driver_calls(store, made, +1);
    if (made < want) count_driver_calls(store, 1, 0);
    store->creates += made;
    return made;
}

uint32_t paged_obtain(paged_store *store, paged_physical **pages, uint32_t want, const paged_call *call)
{
    uint32_t count = 0;
    while (count < want && store->loose != NULL) {
        pages[count] = store->loose;
        paged_unput(store, pages[count++]);
    }
    if (count == want) return count;

    paged_place places[PAGED_BATCH_PAGES];
    uint32_t from_others = mark_take_over(store, places, want - count);
    uint32_t got = paged_unmap(store, places, from_others, call->failure);
    for (uint32_t i = 0; i < got; i++) pages[count++] = places[i].physical;
    store->taken_over += got;
    if (count == want) return count;
    if (got < from_others) {
        if (call->failure->status != ACRE_BUSY) return count;
        *call->failure = (paged_failure){.status = ACRE_OK}; /* the GPU may still use them: new ones, then */
    }

    uint32_t missing = want - count;
    if (!prepare_new(store, pages + count, missing, call)) return count;
    return count + create_new(store, pages + count, missing, call->failure);
}

/* Pages in hand that are of no use after a failure: what this call made goes back, the rest is loose again. */
void paged_return_pages(paged_store *store, paged_physical *const *pages, uint32_t count, const paged_call *call)
{
    paged_physical *made[PAGED_BATCH_PAGES];
    paged_failure second = {.status = ACRE_OK};
    for (uint32_t i = 0, n = 0; i < count; i++) {
        if (pages[i]->born == call->serial) made[n++] = pages[i];
        else paged_put_loose(store, pages[i]);
        if (n == PAGED_BATCH_PAGES || i == count - 1) {
            paged_destroy_pages(store, made, n, &second);
            n = 0;
        }
    }
}

paged_call paged_begin(paged_store *store, bool exceed, paged_failure *failure, paged_failure *unwanted)
{
    if (failure == NULL) failure = unwanted;
    *failure = (paged_failure){.status = ACRE_OK};
    lock_acquire(&store->lock);
    return (paged_call){failure, ++store->serial, exceed};
}

acre_status paged_take(paged_store *store, paged_physical **pages, uint32_t count, bool exceed, paged_failure *failure)
{
    paged_failure unwanted;
    paged_call call = paged_begin(store, exceed, failure, &unwanted);
    uint32_t taken = 0;
    while (taken < count && call.failure->status == ACRE_OK) {
        uint32_t want = count - taken < PAGED_BATCH_PAGES ? count - taken : PAGED_BATCH_PAGES;
        taken += paged_obtain(store, pages + taken, want, &call);
    }
    if (taken == count) {
        for (uint32_t i = 0; i < count; i++) pages[i]->lent = true;
        store->lent_count += count;
    } else {
        paged_return_pages(store, pages, taken, &call);
    }
    lock_release(&store->lock);
    return call.failure->status;
}

void paged_give(paged_store *store, paged_physical *const *pages, uint32_t count)
{
    lock_acquire(&store->lock);
    for (uint32_t i = 0; i < count; i++) {
        pages[i]->lent = false;
        paged_put_loose(store, pages[i]);
    }
    store->lent_count -= count;
    lock_release(&store->lock);
}

/* --- giving back ------------------------------------------------------------------------------------------------ */

/* What is to go: down to keep_bytes, or, with by_policy, what the policy says. */
typedef struct excess {
    bool by_policy;
    uint64_t keep_bytes, over_budget_bytes, now_ms;
} excess;

static empty_item *next_excess(const paged_store *store, const excess *e)
{
    const empty_list *list = &store->empties;
    if (!e->by_policy) return list->bytes > e->keep_bytes ? list->oldest : NULL;
    uint64_t used = (store->page_count << store->page_log2) - list->bytes;
    return empty_excess(list, &store->options.policy, used, e->over_budget_bytes, e->now_ms);
}

/* Under the lock. One batch of empties comes off the list: the mapped ones into places, the loose ones into pages. */
static void mark_excess(paged_store *store, excess *e, paged_place *places, uint32_t *mapped, paged_physical **pages,
                        uint32_t *loose)
{
    *mapped = *loose = 0;
    for (empty_item *item; *mapped + *loose < PAGED_BATCH_PAGES && (item = next_excess(store, e)) != NULL;) {
        paged_physical *physical = of_item(item);
        if (physical->home != NULL) {
            places[(*mapped)++] = (paged_place){physical->home, physical->home_page, physical};
            paged_page_at(physical->home, physical->home_page)->busy = true;
        } else {
            pages[(*loose)++] = physical;
        }
        paged_unput(store, physical);
        e->over_budget_bytes -= e->over_budget_bytes < store->page_bytes ? e->over_budget_bytes : store->page_bytes;
    }
}

/* Under the lock. */
static uint64_t give_back(paged_store *store, excess e, paged_failure *failure)
{
    uint64_t gone = 0;
    while (failure->status == ACRE_OK) {
        paged_place places[PAGED_BATCH_PAGES];
        paged_physical *pages[PAGED_BATCH_PAGES];
        uint32_t mapped, loose;
        mark_excess(store, &e, places, &mapped, pages, &loose);
        if (mapped + loose == 0) break;
        uint32_t unmapped = paged_unmap(store, places, mapped, failure);
        for (uint32_t i = 0; i < unmapped; i++) pages[loose++] = places[i].physical;
        gone += paged_destroy_pages(store, pages, loose, failure) * store->page_bytes;
    }
    return gone;
}

uint64_t paged_store_trim(paged_store *store, uint64_t keep_bytes, paged_failure *failure)
{
    paged_failure unwanted;
    paged_call call = paged_begin(store, false, failure, &unwanted);
    uint64_t gone = give_back(store, (excess){.keep_bytes = keep_bytes}, call.failure);
    lock_release(&store->lock);
    return gone;
}

uint64_t paged_store_tick(paged_store *store, uint64_t over_budget_bytes, paged_failure *failure)
{
    paged_failure unwanted;
    paged_call call = paged_begin(store, false, failure, &unwanted);
    excess e = {.by_policy = true, .over_budget_bytes = over_budget_bytes, .now_ms = os_now_ms()};
    uint64_t gone = give_back(store, e, call.failure);
    lock_release(&store->lock);
    return gone;
}

uint64_t paged_store_next_ms(paged_store *store)
{
    lock_acquire(&store->lock);
    uint64_t next = empty_next_ms(&store->empties, &store->options.policy, os_now_ms());
    lock_release(&store->lock);
    return next;
}

void paged_store_set_policy(paged_store *store, empty_policy policy)
{
    lock_acquire(&store->lock);
    store->options.policy = policy;
    lock_release(&store->lock);
}

/* --- life and looking ------------------------------------------------------------------------------------------- */

acre_status paged_store_init(paged_store *store, const paged_store_options *options)
{
    const paged_provider *p = &options->provider;
    if (p->create == NULL || p->destroy == NULL || p->map == NULL || p->unmap == NULL) return ACRE_INVALID_ARGUMENT;
    if (!is_power_of_two(p->page_bytes)) return ACRE_INVALID_ARGUMENT;
    if (options->ledger != NULL && options->heap >= options->ledger->heap_count) return ACRE_INVALID_ARGUMENT;
    *store = (paged_store){.options = *options, .page_bytes = p->page_bytes, .page_log2 = bits_lowest(p->page_bytes)};
    return ACRE_OK;
}

acre_status paged_store_destroy(paged_store *store, paged_failure *failure)
{
    paged_failure unwanted;
    paged_call call = paged_begin(store, false, failure, &unwanted);
    bool busy = store->ranges != NULL || store->lent_count != 0 || store->in_driver != 0;
    if (!busy) give_back(store, (excess){.keep_bytes = 0}, call.failure);
    lock_release(&store->lock);
    return busy ? ACRE_BUSY : call.failure->status;
}

void paged_store_stats_read(paged_store *store, paged_store_stats *stats)
{
    lock_acquire(&store->lock);
    *stats = (paged_store_stats){
        .held_bytes = store->page_count << store->page_log2,
        .used_bytes = (store->page_count << store->page_log2) - store->empties.bytes,
        .empty_bytes = store->empties.bytes,
        .loose_bytes = store->loose_count << store->page_log2,
        .creates = store->creates,
        .destroys = store->destroys,
        .maps = store->maps,
        .unmaps = store->unmaps,
        .taken_over = store->taken_over,
        .waits = store->waits,
    };
    lock_release(&store->lock);
}
