/* paged_views: what is done with paged ranges beyond blocks that come and go: sharing of memory, sleep and wake,
 * statistics, the walk and the check. See paged_range.h. */
#include "gpu/paged_internal.h"
#include "page/arena.h"

/* --- sharing ---------------------------------------------------------------------------------------------------- */

/* Under the lock. The block that is to be shared, if it can be. */
static acre_status find_origin(paged_range *range, uint64_t handle, uint64_t from_offset, uint64_t bytes,
                               paged_area **area, uint32_t *node)
{
    uint64_t page_bytes = range->store->page_bytes;
    acre_status status = paged_resolve(range, handle, area, node);
    if (status != ACRE_OK) return status;
    if (paged_has_flag(*area, *node, PAGED_BUSY)) return ACRE_BUSY;
    if (paged_has_flag(*area, *node, PAGED_ASLEEP)) return ACRE_NOT_SUPPORTED;
    uint64_t whole = paged_bytes_of(range, *area, *node);
    bool fits = from_offset < whole && bytes <= whole - from_offset;
    bool pages = ((from_offset | bytes) & (page_bytes - 1)) == 0 && bytes != 0;
    bool view = paged_has_flag(*area, *node, PAGED_VIEW);
    return fits && pages && !view && *area == &range->areas[PAGED_LARGE] ? ACRE_OK : ACRE_INVALID_ARGUMENT;
}

/* Under the lock. The first block is busy meanwhile, so its pages stay. */
static acre_status make_view(const paged_origin *origin, paged_range *to, const paged_request *request,
                             paged_block *block, const paged_call *call)
{
    paged_area *area = &to->areas[PAGED_LARGE];
    uint32_t node;
    acre_status status = paged_place_block(to, area, request, PAGED_SHARED | PAGED_VIEW, &node);
    if (status != ACRE_OK) return status;
    status = paged_enter_pages(to, paged_span_of(to, area, node), origin, call);
    if (status == ACRE_OK) {
        paged_set_flag(area, node, PAGED_BUSY, false);
        paged_describe(to, area, node, block);
    } else {
        paged_remove_block(to, area, node);
    }
    return status;
}

acre_status paged_share(paged_range *range, uint64_t handle, uint64_t from_offset, uint64_t bytes, paged_range *to,
                        const paged_request *request, paged_block *block, paged_failure *failure)
{
    paged_failure unwanted;
    paged_area *area;
    uint32_t node;
    paged_request wanted = *request;
    wanted.bytes = bytes;
    if (failure != NULL) *failure = (paged_failure){.status = ACRE_INVALID_ARGUMENT};
    if (!paged_request_is_valid(&wanted) || to->store != range->store || to->areas[PAGED_LARGE].bytes == 0)
        return ACRE_INVALID_ARGUMENT;
    paged_call call = paged_begin(range->store, request->exceed, failure, &unwanted);
    acre_status status = find_origin(range, handle, from_offset, bytes, &area, &node);
    if (status == ACRE_OK) {
        uint64_t first = paged_span_of(range, area, node).first + (from_offset >> range->store->page_log2);
        paged_origin origin = {range, first};
        paged_set_flag(area, node, PAGED_BUSY, true);
        status = make_view(&origin, to, &wanted, block, &call);
        paged_set_flag(area, node, PAGED_BUSY, false);
        if (status == ACRE_OK) paged_set_flag(area, node, PAGED_SHARED, true);
    }
    call.failure->status = status;
    lock_release(&range->store->lock);
    return status;
}

/* --- sleep and wake --------------------------------------------------------------------------------------------- */

/* What one walk over the blocks does with those of its categories. */
typedef struct nap {
    paged_range *range;
    uint64_t category_mask;
    paged_visit_contents *visit;
    void *context;
    paged_sleep_result *result;
    paged_call call;
    bool wake;
} nap;

static bool is_meant(const nap *n, const paged_area *area, uint32_t node)
{
    return coalesce_is_used(&area->core, node) && (n->category_mask >> paged_category_of(area, node) & 1) != 0 &&
           paged_has_flag(area, node, PAGED_ASLEEP) == n->wake;
}

/* Drops the lock for the callback. */
static bool visit_contents(const nap *n, const paged_area *area, uint32_t node)
{
    if (n->visit == NULL) return true;
    paged_block block;
    paged_describe(n->range, area, node, &block);
    paged_enter_driver(n->range->store);
    bool fine = n->visit(n->context, n->range, &block);
    paged_leave_driver(n->range->store);
    return fine;
}

static bool put_to_sleep(nap *n, paged_area *area, uint32_t node)
{
    if (!visit_contents(n, area, node)) return false;
    uint64_t bytes = paged_bytes_of(n->range, area, node);
    n->range->live_bytes -= bytes;
    n->range->asleep_bytes += bytes;
    paged_set_flag(area, node, PAGED_ASLEEP, true);
    /* A driver that fails here is reported at the end; the next block has other pages. */
    paged_failure failure = {.status = ACRE_OK};
    paged_call call = {&failure, n->call.serial, false};
    n->result->freed_bytes += paged_leave_pages(n->range, paged_span_of(n->range, area, node), PAGED_RELEASE, &call);
    if (n->call.failure->status == ACRE_OK) *n->call.failure = failure;
    return true;
}

static bool wake_up(nap *n, paged_area *area, uint32_t node)
{
    paged_span span = paged_span_of(n->range, area, node);
    if (paged_enter_pages(n->range, span, NULL, &n->call) != ACRE_OK) return false;
    if (!visit_contents(n, area, node)) {
        paged_leave_pages(n->range, span, PAGED_KEEP, &n->call);
        return false;
    }
    uint64_t bytes = paged_bytes_of(n->range, area, node);
    n->range->asleep_bytes -= bytes;
    n->range->live_bytes += bytes;
    paged_set_flag(area, node, PAGED_ASLEEP, false);
    return true;
}

/* Blocks are visited by the number of their node: unlike their order it does not change while the lock is dropped. */
static void nap_area(nap *n, paged_area *area)
{
    for (uint32_t node = 1; area->bytes != 0 && node < area->core.node_fresh; node++) {
        if (!is_meant(n, area, node)) continue;
        if (paged_has_flag(area, node, PAGED_BUSY | PAGED_SHARED)) {
            n->result->skipped_blocks++;
            continue;
        }
        paged_set_flag(area, node, PAGED_BUSY, true);
        bool done = n->wake ? wake_up(n, area, node) : put_to_sleep(n, area, node);
        paged_set_flag(area, node, PAGED_BUSY, false);
        if (done) {
            n->result->blocks++;
            n->result->bytes += paged_bytes_of(n->range, area, node);
            continue;
        }
        if (n->wake && n->call.failure->status != ACRE_OK) return;
        n->result->skipped_blocks++;
    }
}

static acre_status nap_range(paged_range *range, uint64_t category_mask, bool wake, bool exceed,
                             paged_visit_contents *visit, void *context, paged_sleep_result *result,
                             paged_failure *failure)
{
    paged_failure unwanted;
    paged_sleep_result nobody;
    if (result == NULL) result = &nobody;
    *result = (paged_sleep_result){0};
    nap n = {range, category_mask, visit, context, result, paged_begin(range->store, exceed, failure, &unwanted), wake};
    for (int i = 0; i < 2 && !(wake && n.call.failure->status != ACRE_OK); i++) nap_area(&n, &range->areas[i]);
    lock_release(&range->store->lock);
    return n.call.failure->status;
}

acre_status paged_sleep(paged_range *range, uint64_t category_mask, paged_visit_contents *save, void *context,
                        paged_sleep_result *result, paged_failure *failure)
{
    return nap_range(range, category_mask, false, false, save, context, result, failure);
}

acre_status paged_wake(paged_range *range, uint64_t category_mask, bool exceed, paged_visit_contents *restore,
                       void *context, paged_sleep_result *result, paged_failure *failure)
{
    return nap_range(range, category_mask, true, exceed, restore, context, result, failure);
}

/* --- looking ---------------------------------------------------------------------------------------------------- */

void paged_walk(paged_range *range, paged_visit *visit, void *context)
{
    bool going = true;
    lock_acquire(&range->store->lock);
    for (int i = 0; i < 2; i++) {
        const paged_area *area = &range->areas[i];
        if (area->bytes == 0) continue;
        for (uint32_t node = coalesce_first(&area->core); node != 0 && going; node = coalesce_next(&area->core, node)) {
            if (!coalesce_is_used(&area->core, node)) continue;
            paged_block block;
            paged_describe(range, area, node, &block);
            going = visit(context, range, &block);
        }
    }
    lock_release(&range->store->lock);
}

static bool is_mapped(const paged_page *page) { return page->physical != NULL && !page->bare; }

/* The longest run of free addresses of the small area whose pages are all mapped. */
static uint64_t largest_mapped_hole(const paged_range *range)
{
    const paged_area *area = &range->areas[PAGED_SMALL];
    uint64_t largest = 0, page_bytes = range->store->page_bytes, end_of_all = area->committed * page_bytes;
    if (area->bytes == 0) return 0;
    for (uint32_t node = coalesce_first(&area->core); node != 0; node = coalesce_next(&area->core, node)) {
        if (!coalesce_is_hole(&area->core, node)) continue;
        uint64_t at = (uint64_t)coalesce_offset(&area->core, node) << area->granule_log2;
        uint64_t end = at + ((uint64_t)coalesce_size(&area->core, node) << area->granule_log2), run = 0;
        for (uint64_t next; at < end && at < end_of_all; at = next) {
            next = align_down(at, page_bytes) + page_bytes;
            if (next > end) next = end;
            run = is_mapped(&area->pages[at / page_bytes]) ? run + (next - at) : 0;
            if (run > largest) largest = run;
        }
    }
    return largest;
}

void paged_range_stats_read(paged_range *range, paged_range_stats *stats)
{
    uint64_t page_bytes = range->store->page_bytes, in_blocks = 0;
    lock_acquire(&range->store->lock);
    *stats = (paged_range_stats){
        .live_bytes = range->live_bytes, .asleep_bytes = range->asleep_bytes, .blocks = range->blocks};
    for (int i = 0; i < 2; i++) {
        const paged_area *area = &range->areas[i];
        for (uint64_t page = 0; page < area->committed; page++) {
            if (area->pages[page].physical == NULL) continue;
            stats->mapped_bytes += page_bytes;
            if (area->pages[page].used == 0) stats->empty_bytes += page_bytes;
        }
        if (area->bytes == 0) continue;
        for (uint32_t node = coalesce_first(&area->core); node != 0; node = coalesce_next(&area->core, node))
            if (coalesce_is_used(&area->core, node) && !paged_has_flag(area, node, PAGED_ASLEEP))
                in_blocks += paged_bytes_of(range, area, node);
    }
    uint64_t used = stats->mapped_bytes - stats->empty_bytes;
    stats->hole_bytes = used > in_blocks ? used - in_blocks : 0;
    stats->largest_hole_bytes = largest_mapped_hole(range);
    lock_release(&range->store->lock);
}

/* --- checks ----------------------------------------------------------------------------------------------------- */

/* Under the lock. users[] gets one for each block that is awake and touches the page; busy: some block's count is in
 * between. Also the address table and the sums. */
static const char *count_users(const paged_range *range, const paged_area *area, uint32_t *users, bool *busy,
                               uint64_t *live, uint64_t *asleep, uint64_t *blocks)
{
    uint64_t first = area->base >> range->store->page_log2;
    for (uint32_t node = coalesce_first(&area->core); node != 0; node = coalesce_next(&area->core, node)) {
        if (!coalesce_is_used(&area->core, node)) continue;
        paged_span span = paged_span_of(range, area, node);
        paged_block block;
        paged_describe(range, area, node, &block);
        ++*blocks;
        if (block.bytes == 0 || block.bytes > block.room) return "a block is longer than its addresses";
        if (span.end - first > area->committed) return "a block has no page records";
        if (paged_cells_find(area, block.offset - area->base) != node) return "the address table does not find a block";
        if (block.busy) {
            *busy = true;
            continue;
        }
        if (block.asleep) *asleep += block.bytes;
        else if (!paged_has_flag(area, node, PAGED_VIEW)) *live += block.bytes;
        for (uint64_t page = span.first - first; page < span.end - first && !block.asleep; page++) users[page]++;
    }
    return NULL;
}

/* quiet: no block of the area is on its way. */
static const char *check_page(const paged_range *range, const paged_page *page, uint64_t number, bool quiet)
{
    const paged_physical *physical = page->physical;
    if (page->busy) return NULL;
    if (page->bare && physical == NULL) return "a bare page is unmapped";
    if (quiet && page->used != 0 && !is_mapped(page)) return "a page in use is not mapped";
    if (physical == NULL) return NULL;
    if (physical->refs == 0) return "a mapped page has no refs";
    if (physical->empty && (page->used != 0 || physical->refs != 1)) return "a page in use is empty";
    if (physical->empty && (physical->home != range || physical->home_page != number))
        return "an empty page does not know where it is mapped";
    if (page->used == 0 && !physical->empty && !page->bare) return "a page without a block is not empty";
    return NULL;
}

static const char *check_area(const paged_range *range, const paged_area *area, bool *busy, uint64_t *live,
                              uint64_t *asleep, uint64_t *blocks)
{
    const char *wrong = coalesce_check(&area->core);
    if (wrong != NULL || area->committed == 0) return wrong;
    size_t bytes = (size_t)area->committed * sizeof(uint32_t);
    uint32_t *users = arena_alloc(bytes);
    if (users == NULL) return "no memory to check with";
    bool area_busy = false;
    wrong = count_users(range, area, users, &area_busy, live, asleep, blocks);
    uint64_t first = area->base >> range->store->page_log2;
    for (uint64_t page = 0; page < area->committed && wrong == NULL; page++) {
        if (area->pages[page].busy) area_busy = true;
        if (!area_busy && users[page] != area->pages[page].used) wrong = "a page miscounts its blocks";
        if (wrong == NULL) wrong = check_page(range, &area->pages[page], first + page, !area_busy);
    }
    arena_free(users, bytes);
    if (area_busy) *busy = true;
    return wrong;
}

const char *paged_range_check_locked(paged_range *range)
{
    uint64_t live = 0, asleep = 0, blocks = 0;
    bool busy = false;
    for (int i = 0; i < 2; i++) {
        if (range->areas[i].bytes == 0) continue;
        const char *wrong = check_area(range, &range->areas[i], &busy, &live, &asleep, &blocks);
        if (wrong != NULL) return wrong;
    }
    if (blocks != range->blocks) return "a range miscounts its blocks";
    if (!busy && (live != range->live_bytes || asleep != range->asleep_bytes)) return "a range miscounts its bytes";
    return NULL;
}

const char *paged_range_check(paged_range *range)
{
    lock_acquire(&range->store->lock);
    const char *wrong = paged_range_check_locked(range);
    lock_release(&range->store->lock);
    return wrong;
}

/* Under the lock. Counts what the page records of all ranges map; *pages: distinct physical pages. */
static void count_mapped(paged_store *store, uint64_t *pages)
{
    uint64_t serial = ++store->serial;
    for (paged_range *range = store->ranges; range != NULL; range = range->next)
        for (int i = 0; i < 2; i++)
            for (uint64_t page = 0; page < range->areas[i].committed; page++) {
                paged_physical *physical = range->areas[i].pages[page].physical;
                if (physical == NULL) continue;
                if (physical->seen_in != serial) {
                    physical->seen_in = serial;
                    physical->seen = 0;
                    ++*pages;
                }
                physical->seen++;
            }
}

static const char *check_refs(const paged_store *store)
{
    for (const paged_range *range = store->ranges; range != NULL; range = range->next)
        for (int i = 0; i < 2; i++)
            for (uint64_t page = 0; page < range->areas[i].committed; page++) {
                const paged_physical *physical = range->areas[i].pages[page].physical;
                if (physical != NULL && physical->refs != physical->seen) return "a physical page miscounts its refs";
            }
    return NULL;
}

static const char *check_empties(const paged_store *store)
{
    uint64_t count = 0, loose = 0, before = UINT64_MAX;
    for (const empty_item *item = store->empties.newest; item != NULL; item = item->older, count++) {
        const paged_physical *physical = (const paged_physical *)(const void *)item;
        if (item->since_ms > before) return "the empties are not in the order of their age";
        before = item->since_ms;
        if (!physical->empty || physical->lent) return "a page in the list of empties is not empty";
        if ((physical->home == NULL) != (physical->refs == 0)) return "an empty page is neither loose nor mapped";
        loose += physical->home == NULL;
    }
    if (count != store->empties.count || count << store->page_log2 != store->empties.bytes)
        return "the list of empties miscounts";
    uint64_t listed = 0;
    for (const paged_physical *physical = store->loose; physical != NULL; physical = physical->loose_next) listed++;
    return loose == store->loose_count && listed == loose ? NULL : "the list of loose pages miscounts";
}

const char *paged_store_check(paged_store *store)
{
    uint64_t mapped = 0;
    lock_acquire(&store->lock);
    const char *wrong = check_empties(store);
    for (paged_range *range = store->ranges; range != NULL && wrong == NULL; range = range->next)
        wrong = paged_range_check_locked(range);
    if (wrong == NULL && store->in_driver == 0) {
        count_mapped(store, &mapped);
        wrong = check_refs(store);
        if (wrong == NULL && mapped + store->loose_count + store->lent_count != store->page_count)
            wrong = "physical pages were lost or found";
    }
    lock_release(&store->lock);
    return wrong;
}
