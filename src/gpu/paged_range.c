/* paged_range: see paged_range.h. Addresses first, pages second: a block takes its addresses and adds itself to the
 * `used` of its pages under one hold of the lock, so whatever happens while the driver works, nobody takes them away.
 * Sharing, sleeping and looking are in paged_views.c. */
#include "gpu/paged_range.h"

#include <string.h>

#include "gpu/paged_internal.h"
#include "page/arena.h"

enum {
    GRANULE_BYTES_DEFAULT = 512, /* what CUDA and PyTorch round to */
    PART_RESERVED_BYTES_FIRST = 1 << 20,
    COMMIT_PAGES = 1024, /* records committed at once: a system call where commit is charged */
    NODES_AT_ONCE = 3,   /* that one call of the core may need */
};
#define LARGE_MIN_BYTES_DEFAULT (32 * (uint64_t)MIB)
/* Handles of the core use 26 + 32 bits; this one names the area. */
#define HANDLE_LARGE ((uint64_t)1 << 63)

/* --- areas ------------------------------------------------------------------------------------------------------ */

static void *part_grow(void *context, unsigned part, void *old, size_t old_bytes, size_t new_bytes)
{
    struct paged_part *p = &((paged_area *)context)->parts[part];
    if (old != NULL && new_bytes <= p->reserved) return arena_commit(old, new_bytes) ? old : NULL;
    size_t reserved = PART_RESERVED_BYTES_FIRST;
    while (reserved < new_bytes * 2) reserved *= 2;
    void *base = arena_reserve(reserved);
    if (base == NULL) return NULL;
    if (!arena_commit(base, new_bytes)) {
        arena_release(base, reserved);
        return NULL;
    }
    if (old != NULL) {
        memcpy(base, old, old_bytes);
        arena_release(old, p->reserved);
    }
    *p = (struct paged_part){base, reserved};
    return base;
}

static void part_release(void *context, unsigned part, void *base, size_t bytes)
{
    (void)bytes;
    arena_release(base, ((paged_area *)context)->parts[part].reserved);
}

static uint64_t cells_per_page(const paged_area *area, uint32_t page_log2)
{
    return (uint64_t)1 << (page_log2 - area->cell_log2);
}

static size_t cells_bytes(const paged_area *area, uint32_t page_log2, uint64_t pages)
{
    return (size_t)(pages * cells_per_page(area, page_log2) * sizeof(uint32_t));
}

static void area_destroy(paged_area *area, uint32_t page_log2)
{
    if (area->core.index_count != 0) coalesce_destroy(&area->core);
    if (area->pages != NULL) arena_release(area->pages, (size_t)area->page_count * sizeof *area->pages);
    if (area->cells != NULL) arena_release(area->cells, cells_bytes(area, page_log2, area->page_count));
    area->pages = NULL;
    area->cells = NULL;
}

static acre_status area_init(paged_area *area, uint64_t base, uint64_t bytes, uint32_t granule_log2,
                             uint32_t page_log2, const paged_range_options *options)
{
    uint32_t cell_log2 = granule_log2 + bits_lowest(PAGED_CELL_GRANULES);
    *area = (paged_area){.base = base, .bytes = bytes, .granule_log2 = granule_log2, .page_count = bytes >> page_log2};
    area->cell_log2 = cell_log2 < page_log2 ? cell_log2 : page_log2;
    if (bytes == 0) return ACRE_OK;
    if (bytes >> granule_log2 > COALESCE_CAPACITY_MAX) return ACRE_TOO_LARGE;
    coalesce_options core = {.memory = {area, part_grow, part_release}, .capacity = (uint32_t)(bytes >> granule_log2)};
    if (granule_log2 != page_log2) {
        core.size_min = (uint32_t)(align_up(options->size_min, (uint64_t)1 << granule_log2) >> granule_log2);
        for (int i = 0; i < PAGED_ALIGNMENTS_MAX; i++)
            if (options->alignments[i] >> granule_log2 > 1)
                core.extra_align_log2[i] = (uint8_t)(bits_lowest(options->alignments[i]) - granule_log2);
    }
    if (!coalesce_init(&area->core, &core)) return ACRE_NO_MEMORY;
    area->pages = arena_reserve((size_t)area->page_count * sizeof *area->pages);
    area->cells = arena_reserve(cells_bytes(area, page_log2, area->page_count));
    if (area->pages != NULL && area->cells != NULL) return ACRE_OK;
    area_destroy(area, page_log2);
    return ACRE_NO_MEMORY;
}

/* Records for the pages below `end` (of the area). */
static bool area_reach(paged_area *area, uint64_t end, uint32_t page_log2)
{
    if (likely(end <= area->committed)) return true;
    uint64_t wanted = align_up(end, COMMIT_PAGES);
    if (wanted > area->page_count) wanted = area->page_count;
    if (!arena_commit(area->pages, (size_t)wanted * sizeof *area->pages) ||
        !arena_commit(area->cells, cells_bytes(area, page_log2, wanted)))
        return false;
    area->committed = wanted;
    return true;
}

/* Spare nodes for one call of the core, over those that calls in flight may need to undo what they did. */
static bool area_has_nodes(paged_area *area)
{
    coalesce *core = &area->core;
    uint32_t wanted = NODES_AT_ONCE + area->in_flight;
    if (likely(core->spare_count >= wanted)) return true;
    return coalesce_reserve_nodes(core, core->node_capacity + core->node_capacity / 2 + wanted) ||
           coalesce_reserve_nodes(core, core->node_capacity - core->spare_count + wanted);
}

/* --- the address table ------------------------------------------------------------------------------------------ */

static uint64_t offset_in(const paged_area *area, uint32_t node)
{
    return (uint64_t)coalesce_offset(&area->core, node) << area->granule_log2;
}

/* The block after this one in the order of addresses, 0: none. */
static uint32_t next_block(const coalesce *core, uint32_t node)
{
    do node = coalesce_next(core, node);
    while (node != 0 && !coalesce_is_used(core, node));
    return node;
}

static void cells_insert(paged_area *area, uint32_t node)
{
    uint32_t *cell = &area->cells[offset_in(area, node) >> area->cell_log2];
    if (*cell == 0 || offset_in(area, *cell) > offset_in(area, node)) *cell = node;
}

static void cells_remove(paged_area *area, uint32_t node)
{
    uint64_t number = offset_in(area, node) >> area->cell_log2;
    if (area->cells[number] != node) return;
    uint32_t next = next_block(&area->core, node);
    area->cells[number] = next != 0 && offset_in(area, next) >> area->cell_log2 == number ? next : 0;
}

uint32_t paged_cells_find(const paged_area *area, uint64_t offset)
{
    uint32_t node = area->cells[offset >> area->cell_log2];
    while (node != 0 && offset_in(area, node) < offset) node = next_block(&area->core, node);
    return node != 0 && offset_in(area, node) == offset ? node : 0;
}

/* --- blocks as they are ----------------------------------------------------------------------------------------- */

static bool is_large(const paged_range *range, const paged_area *area)
{
    return area == &range->areas[PAGED_LARGE];
}

/* large area: of the block's first page */
static paged_page *head_of(const paged_area *area, uint32_t node)
{
    return &area->pages[coalesce_offset(&area->core, node)];
}

static uint64_t extent_of(const paged_area *area, uint32_t node)
{
    return (uint64_t)coalesce_size(&area->core, node) << area->granule_log2;
}

uint64_t paged_bytes_of(const paged_range *range, const paged_area *area, uint32_t node)
{
    return is_large(range, area) ? head_of(area, node)->block_bytes : extent_of(area, node);
}

static paged_span span_at(const paged_range *range, const paged_area *area, uint32_t node, uint64_t bytes)
{
    uint64_t offset = area->base + offset_in(area, node);
    uint32_t page_log2 = range->store->page_log2;
    return (paged_span){offset >> page_log2, ((offset + bytes - 1) >> page_log2) + 1};
}

paged_span paged_span_of(const paged_range *range, const paged_area *area, uint32_t node)
{
    return span_at(range, area, node, paged_bytes_of(range, area, node));
}

acre_status paged_resolve(paged_range *range, uint64_t handle, paged_area **area, uint32_t *node)
{
    *area = &range->areas[handle & HANDLE_LARGE ? PAGED_LARGE : PAGED_SMALL];
    handle &= ~HANDLE_LARGE;
    if ((*area)->bytes == 0) return ACRE_FOREIGN_POINTER;
    *node = coalesce_resolve(&(*area)->core, handle);
    if (likely(*node != 0)) return ACRE_OK;
    return coalesce_handle_is_stale(&(*area)->core, handle) ? ACRE_DOUBLE_FREE : ACRE_FOREIGN_POINTER;
}

void paged_describe(const paged_range *range, const paged_area *area, uint32_t node, paged_block *block)
{
    uint64_t word = coalesce_tag(&area->core, node);
    *block = (paged_block){
        .offset = area->base + offset_in(area, node),
        .bytes = paged_bytes_of(range, area, node),
        .room = extent_of(area, node),
        .handle = coalesce_handle(&area->core, node) | (is_large(range, area) ? HANDLE_LARGE : 0),
        .tag = word & bits_mask(PAGED_TAG_BITS),
        .category = paged_category_of(area, node),
        .asleep = (word & PAGED_ASLEEP) != 0,
        .shared = (word & PAGED_SHARED) != 0,
        .busy = (word & PAGED_BUSY) != 0,
    };
}

/* --- pages under blocks ----------------------------------------------------------------------------------------- */

/* Every page of the span gets one more user. Returns how many of them are not there yet. */
static uint64_t add_user(paged_range *range, paged_span span)
{
    uint64_t missing = 0;
    for (uint64_t at = span.first; at < span.end; at++) {
        paged_page *page = paged_page_at(range, at);
        page->used++;
        if (page->physical != NULL && page->physical->empty) paged_unput(range->store, page->physical);
        if (page->physical == NULL || page->busy || page->bare) missing++;
    }
    return missing;
}

/* What is mapped behind the span is not what is to be mapped there. Returns how many pages that is. A busy page is
 * being unmapped, and if that fails it is bare like the others. */
static uint64_t refuse_present(paged_range *range, paged_span span)
{
    uint64_t present = 0;
    for (uint64_t at = span.first; at < span.end; at++) {
        paged_page *page = paged_page_at(range, at);
        if (page->physical == NULL) continue;
        page->bare = true;
        present++;
    }
    return present;
}

/* Would so many new pages pass the budget for sure? Asked first, so that no driver call is made in vain. */
static bool budget_forbids(const paged_store *store, uint64_t missing, const paged_call *call)
{
    if (store->options.ledger == NULL || call->exceed || missing <= store->empties.count) return false;
    acre_gpu_heap_stats heap;
    gpu_ledger_read_heap(store->options.ledger, store->options.heap, &heap);
    uint64_t needed = (missing - store->empties.count) << store->page_log2;
    return heap.budget_bytes != 0 && heap.held_bytes + needed > heap.budget_bytes;
}

/* Bare pages from `at` on that nobody works on are unmapped, to be mapped anew. False: the driver fails at it. */
static bool clear_bare(paged_range *range, paged_span span, uint64_t at, const paged_call *call)
{
    paged_place places[PAGED_BATCH_PAGES];
    uint32_t count = 0;
    for (; at < span.end && count < PAGED_BATCH_PAGES; at++) {
        paged_page *page = paged_page_at(range, at);
        if (!page->bare || page->busy) continue;
        page->busy = true;
        places[count++] = (paged_place){range, at, page->physical};
    }
    uint32_t done = paged_unmap(range->store, places, count, call->failure);
    for (uint32_t i = 0; i < done; i++)
        if (places[i].physical->refs == 0) paged_put_loose(range->store, places[i].physical);
    return done == count;
}

typedef struct batch {
    uint64_t pages[PAGED_BATCH_PAGES]; /* busy, ours */
    paged_physical *physical[PAGED_BATCH_PAGES];
    uint32_t count;
} batch;

static void release_batch(paged_range *range, const batch *b)
{
    for (uint32_t i = 0; i < b->count; i++) paged_page_at(range, b->pages[i])->busy = false;
    paged_tell_others(range->store);
}

/* The driver maps the batch; each page is then mapped, bare or unmapped, and busy no longer. in_hand: physical pages
 * that did not come to be mapped are nobody's. */
static bool map_batch(paged_range *range, const batch *b, bool in_hand, const paged_call *call)
{
    paged_store *store = range->store;
    paged_binding bindings[PAGED_BATCH_PAGES];
    paged_physical *left[PAGED_BATCH_PAGES];
    for (uint32_t i = 0; i < b->count; i++)
        bindings[i] = (paged_binding){range->options.owner, b->pages[i] << store->page_log2, b->physical[i]->handle};
    paged_enter_driver(store);
    paged_outcome outcome = paged_map_call(store, bindings, b->count, call->failure);
    paged_leave_driver(store);

    uint32_t left_count = 0, bare_first = outcome.accessible + outcome.undone, bare_end = bare_first + outcome.bare;
    for (uint32_t i = 0; i < b->count; i++) {
        paged_page *page = paged_page_at(range, b->pages[i]);
        bool bare = i >= bare_first && i < bare_end;
        page->busy = false;
        if (i < outcome.accessible || bare) {
            page->physical = b->physical[i];
            page->physical->refs++;
            page->bare = bare;
            store->maps++;
        } else {
            left[left_count++] = b->physical[i];
        }
    }
    paged_tell_others(store);
    if (in_hand) paged_return_pages(store, left, left_count, call);
    return outcome.accessible == b->count;
}

/* Memory behind the unmapped pages from `at` on; as many as a batch holds, those that others work on left out. The page
 * to go on from; after a failure span.end, and *failure says what. */
static uint64_t fill_some(paged_range *range, paged_span span, uint64_t at, const paged_origin *origin,
                          const paged_call *call)
{
    batch b = {.count = 0};
    for (; at < span.end && b.count < PAGED_BATCH_PAGES; at++) {
        paged_page *page = paged_page_at(range, at);
        if (page->bare && !page->busy) {
            if (b.count != 0) break; /* first what is marked */
            if (!clear_bare(range, span, at, call)) return span.end;
        }
        if (page->busy || page->physical != NULL) continue;
        page->busy = true;
        b.pages[b.count++] = at;
    }
    if (b.count == 0) return at;
    if (origin != NULL) {
        for (uint32_t i = 0; i < b.count; i++)
            b.physical[i] = paged_page_at(origin->range, origin->first + (b.pages[i] - span.first))->physical;
    } else {
        uint32_t got = paged_obtain(range->store, b.physical, b.count, call);
        if (got < b.count) {
            release_batch(range, &b);
            paged_return_pages(range->store, b.physical, got, call);
            return span.end;
        }
    }
    return map_batch(range, &b, origin == NULL, call) ? at : span.end;
}

enum progress { ALL_THERE, OTHERS_WORK, OURS_TO_DO };

static enum progress look_at(const paged_range *range, paged_span span)
{
    enum progress progress = ALL_THERE;
    for (uint64_t at = span.first; at < span.end; at++) {
        const paged_page *page = paged_page_at(range, at);
        if (page->busy) progress = OTHERS_WORK;
        else if (page->physical == NULL || page->bare) return OURS_TO_DO;
    }
    return progress;
}

/* The slow part of entering. Looking and falling asleep are under one hold of the lock: no change is slept through. */
static ACRE_NOINLINE acre_status fill(paged_range *range, paged_span span, const paged_origin *origin,
                                      const paged_call *call)
{
    enum progress progress;
    while (call->failure->status == ACRE_OK && (progress = look_at(range, span)) != ALL_THERE) {
        if (progress == OTHERS_WORK) paged_wait_for_others(range->store);
        else for (uint64_t at = span.first; at < span.end;) at = fill_some(range, span, at, origin, call);
    }
    if (call->failure->status != ACRE_OK) paged_leave_pages(range, span, PAGED_UNDO, call);
    return call->failure->status;
}

acre_status paged_enter_pages(paged_range *range, paged_span span, const paged_origin *origin, const paged_call *call)
{
    uint64_t missing = add_user(range, span);
    if (origin != NULL) missing += refuse_present(range, span);
    if (likely(missing == 0)) return ACRE_OK;
    if (origin == NULL && budget_forbids(range->store, missing, call))
        *call->failure = (paged_failure){.status = ACRE_OVER_BUDGET};
    return fill(range, span, origin, call);
}

static bool goes_back(const paged_physical *physical, enum paged_leave how, const paged_call *call)
{
    return how == PAGED_RELEASE || (how == PAGED_UNDO && physical->born == call->serial);
}

/* Unmaps the places, then parts with their memory: back to the driver, or loose. Returns bytes that went back. */
static uint64_t part_with(paged_store *store, const paged_place *places, uint32_t count, enum paged_leave how,
                          const paged_call *call)
{
    /* What fails while a failure is undone is not what the caller wants to know. */
    paged_failure second = {.status = ACRE_OK}, *failure = how == PAGED_UNDO ? &second : call->failure;
    paged_physical *gone[PAGED_BATCH_PAGES];
    uint32_t gone_count = 0, unmapped = paged_unmap(store, places, count, failure);
    for (uint32_t i = 0; i < unmapped; i++) {
        paged_physical *physical = places[i].physical;
        if (physical->refs != 0) continue;
        if (goes_back(physical, how, call)) gone[gone_count++] = physical;
        else paged_put_loose(store, physical);
    }
    return paged_destroy_pages(store, gone, gone_count, failure) * store->page_bytes;
}

uint64_t paged_leave_pages(paged_range *range, paged_span span, enum paged_leave how, const paged_call *call)
{
    paged_store *store = range->store;
    paged_place places[PAGED_BATCH_PAGES];
    uint64_t went_back = 0;
    uint32_t count = 0;
    for (uint64_t at = span.first; at < span.end; at++) {
        paged_page *page = paged_page_at(range, at);
        page->used--;
        if (page->used != 0 || page->busy || page->physical == NULL) continue;
        paged_physical *physical = page->physical;
        if (physical->refs > 1 || goes_back(physical, how, call)) {
            page->busy = true;
            places[count++] = (paged_place){range, at, physical};
        } else {
            paged_put_empty(store, physical, range, at);
        }
        if (count < PAGED_BATCH_PAGES) continue;
        went_back += part_with(store, places, count, how, call);
        count = 0;
    }
    return went_back + part_with(store, places, count, how, call);
}

/* --- addresses of blocks ---------------------------------------------------------------------------------------- */

/* Granules and alignment that the core is asked for; a slot's room is given up by halves until it fits. 0: no room. */
static uint32_t find_addresses(paged_area *area, uint64_t bytes, uint64_t room_bytes, uint64_t alignment)
{
    uint32_t log2 = area->granule_log2, offset;
    uint64_t size = align_up(bytes, (uint64_t)1 << log2) >> log2;
    uint64_t room = room_bytes > bytes ? align_up(room_bytes, (uint64_t)1 << log2) >> log2 : size;
    unsigned align_log2 = alignment >> log2 > 1 ? bits_lowest(alignment) - log2 : 0;
    if (room > area->core.capacity) room = area->core.capacity;
    for (;; room = size + (room - size) / 2) {
        uint32_t node = coalesce_alloc(&area->core, (uint32_t)room, align_log2, &offset);
        if (likely(node != 0) || room == size) return node;
    }
}

/* A slot: the power of two above the size, twice, or what the caller asks for. */
static uint64_t slot_bytes(const paged_request *request)
{
    return request->room_bytes != 0 ? request->room_bytes : 2 * power_of_two_at_least(request->bytes);
}

acre_status paged_place_block(paged_range *range, paged_area *area, const paged_request *request, uint64_t flags,
                              uint32_t *node)
{
    bool large = is_large(range, area);
    uint32_t page_log2 = range->store->page_log2;
    if (request->bytes > area->bytes) return ACRE_TOO_LARGE;
    if (request->alignment > 1 && (area->base & (request->alignment - 1)) != 0) return ACRE_INVALID_ARGUMENT;
    if (!area_has_nodes(area)) return ACRE_NO_MEMORY;
    *node = find_addresses(area, request->bytes, large ? slot_bytes(request) : 0, request->alignment);
    if (*node == 0) return ACRE_NO_MEMORY;
    uint64_t bytes = large ? align_up(request->bytes, range->store->page_bytes) : extent_of(area, *node);
    if (!area_reach(area, ((offset_in(area, *node) + bytes - 1) >> page_log2) + 1, page_log2)) {
        (void)coalesce_free(&area->core, *node);
        return ACRE_NO_MEMORY;
    }
    if (large) head_of(area, *node)->block_bytes = bytes;
    coalesce_set_tag(&area->core, *node,
                     request->tag | (uint64_t)request->category << PAGED_TAG_BITS | flags | PAGED_BUSY);
    cells_insert(area, *node);
    range->blocks++;
    return ACRE_OK;
}

void paged_remove_block(paged_range *range, paged_area *area, uint32_t node)
{
    cells_remove(area, node);
    (void)coalesce_free(&area->core, node);
    range->blocks--;
}

/* --- life ------------------------------------------------------------------------------------------------------- */

static bool options_are_valid(const paged_range_options *o)
{
    if (o->store == NULL || (o->small_bytes == 0 && o->large_bytes == 0)) return false;
    uint64_t page_bytes = o->store->page_bytes;
    if ((o->small_bytes | o->large_bytes) & (page_bytes - 1)) return false;
    if (o->granule_bytes != 0 && (!is_power_of_two(o->granule_bytes) || o->granule_bytes > page_bytes)) return false;
    for (int i = 0; i < PAGED_ALIGNMENTS_MAX; i++)
        if (o->alignments[i] != 0 && (!is_power_of_two(o->alignments[i]) || o->alignments[i] > o->small_bytes))
            return false;
    return o->size_min <= o->small_bytes;
}

acre_status paged_range_init(paged_range *range, const paged_range_options *options)
{
    if (range == NULL || options == NULL || !options_are_valid(options)) return ACRE_INVALID_ARGUMENT;
    os_init();
    *range = (paged_range){.store = options->store, .options = *options};
    paged_range_options *o = &range->options;
    if (o->granule_bytes == 0) o->granule_bytes = GRANULE_BYTES_DEFAULT;
    if (o->granule_bytes > o->store->page_bytes) o->granule_bytes = o->store->page_bytes;
    if (o->large_min_bytes == 0) o->large_min_bytes = LARGE_MIN_BYTES_DEFAULT;
    uint32_t page_log2 = o->store->page_log2, granule_log2 = bits_lowest(o->granule_bytes);
    acre_status status = area_init(&range->areas[PAGED_SMALL], 0, o->small_bytes, granule_log2, page_log2, o);
    if (status != ACRE_OK) return status;
    status = area_init(&range->areas[PAGED_LARGE], o->small_bytes, o->large_bytes, page_log2, page_log2, o);
    if (status != ACRE_OK) {
        area_destroy(&range->areas[PAGED_SMALL], page_log2);
        return status;
    }
    lock_acquire(&o->store->lock);
    range->next = o->store->ranges;
    o->store->ranges = range;
    lock_release(&o->store->lock);
    return ACRE_OK;
}

/* Under the lock. Every mapped page of the area is unmapped and its memory loose. */
static void unmap_area(paged_range *range, const paged_area *area, const paged_call *call)
{
    paged_store *store = range->store;
    uint64_t first = area->base >> store->page_log2;
    for (uint64_t at = first; at < first + area->committed && call->failure->status == ACRE_OK;) {
        paged_place places[PAGED_BATCH_PAGES];
        uint32_t count = 0;
        bool others = false;
        for (; at < first + area->committed && count < PAGED_BATCH_PAGES; at++) {
            paged_page *page = paged_page_at(range, at);
            if (page->busy) {
                others = true;
                break;
            }
            if (page->physical == NULL) continue;
            if (page->physical->empty) paged_unput(store, page->physical);
            page->busy = true;
            places[count++] = (paged_place){range, at, page->physical};
        }
        part_with(store, places, count, PAGED_KEEP, call);
        if (others && count == 0) paged_wait_for_others(store); /* else the lock was dropped: look again */
    }
}

static void unlink_range(paged_range *range)
{
    paged_range **link = &range->store->ranges;
    while (*link != range) link = &(*link)->next;
    *link = range->next;
}

acre_status paged_range_destroy(paged_range *range, paged_failure *failure)
{
    paged_failure unwanted;
    paged_call call = paged_begin(range->store, false, failure, &unwanted);
    bool busy = range->blocks != 0;
    for (int i = 0; i < 2 && !busy; i++) unmap_area(range, &range->areas[i], &call);
    bool gone = !busy && call.failure->status == ACRE_OK;
    if (gone) unlink_range(range);
    lock_release(&range->store->lock);
    for (int i = 0; i < 2 && gone; i++) area_destroy(&range->areas[i], range->store->page_log2);
    return busy ? ACRE_BUSY : call.failure->status;
}

/* --- blocks ----------------------------------------------------------------------------------------------------- */

bool paged_request_is_valid(const paged_request *r)
{
    return r->bytes != 0 && r->bytes <= UINT64_MAX / 4 && r->room_bytes <= UINT64_MAX / 4 &&
           (r->alignment & (r->alignment - 1)) == 0 && r->tag >> PAGED_TAG_BITS == 0 &&
           r->category < ACRE_GPU_CATEGORIES_MAX;
}

static enum paged_area_kind area_for(const paged_range *range, const paged_request *request)
{
    bool large = request->bytes >= range->options.large_min_bytes || request->room_bytes > request->bytes ||
                 request->bytes > range->areas[PAGED_SMALL].bytes;
    return large && range->areas[PAGED_LARGE].bytes != 0 ? PAGED_LARGE : PAGED_SMALL;
}

/* Addresses in the area where the block belongs, else in the other one. */
static acre_status place_anywhere(paged_range *range, const paged_request *request, paged_area **area, uint32_t *node)
{
    enum paged_area_kind kind = area_for(range, request);
    *area = &range->areas[kind];
    acre_status status = paged_place_block(range, *area, request, 0, node);
    paged_area *other = &range->areas[kind == PAGED_SMALL ? PAGED_LARGE : PAGED_SMALL];
    if (likely(status == ACRE_OK) || other->bytes == 0) return status;
    if (paged_place_block(range, other, request, 0, node) != ACRE_OK) return status;
    *area = other;
    return ACRE_OK;
}

acre_status paged_alloc(paged_range *range, const paged_request *request, paged_block *block, paged_failure *failure)
{
    paged_failure unwanted;
    paged_area *area;
    uint32_t node;
    if (failure != NULL) *failure = (paged_failure){.status = ACRE_INVALID_ARGUMENT};
    if (!paged_request_is_valid(request)) return ACRE_INVALID_ARGUMENT;
    paged_call call = paged_begin(range->store, request->exceed, failure, &unwanted);
    acre_status status = place_anywhere(range, request, &area, &node);
    if (likely(status == ACRE_OK)) {
        status = paged_enter_pages(range, paged_span_of(range, area, node), NULL, &call);
        if (likely(status == ACRE_OK)) {
            paged_set_flag(area, node, PAGED_BUSY, false);
            paged_describe(range, area, node, block);
            range->live_bytes += block->bytes;
        } else {
            paged_remove_block(range, area, node);
        }
    }
    call.failure->status = status;
    lock_release(&range->store->lock);
    return status;
}

acre_status paged_free(paged_range *range, uint64_t handle, paged_failure *failure)
{
    paged_failure unwanted;
    paged_area *area;
    uint32_t node;
    paged_call call = paged_begin(range->store, false, failure, &unwanted);
    acre_status status = paged_resolve(range, handle, &area, &node);
    if (status == ACRE_OK && paged_has_flag(area, node, PAGED_BUSY)) status = ACRE_BUSY;
    if (likely(status == ACRE_OK)) {
        uint64_t bytes = paged_bytes_of(range, area, node);
        if (paged_has_flag(area, node, PAGED_ASLEEP)) {
            range->asleep_bytes -= bytes;
        } else {
            if (!paged_has_flag(area, node, PAGED_VIEW)) range->live_bytes -= bytes;
            paged_set_flag(area, node, PAGED_BUSY, true);
            paged_leave_pages(range, paged_span_of(range, area, node), PAGED_KEEP, &call);
        }
        paged_remove_block(range, area, node);
        status = call.failure->status;
    }
    call.failure->status = status;
    lock_release(&range->store->lock);
    return status;
}

/* Under the lock. The core's extent of a block changes so that it holds new_bytes. */
static bool resize_addresses(paged_range *range, paged_area *area, uint32_t node, uint64_t new_bytes)
{
    uint32_t log2 = area->granule_log2;
    uint32_t size = (uint32_t)(align_up(new_bytes, (uint64_t)1 << log2) >> log2);
    if (!is_large(range, area)) return area_has_nodes(area) && coalesce_resize(&area->core, node, size);
    if (size <= coalesce_size(&area->core, node)) return true; /* the room of the slot stays */
    if (!area_has_nodes(area)) return false;
    /* Past its slot: as generous as at first, if there is room. */
    uint64_t wanted = 2 * power_of_two_at_least(size);
    for (; wanted > size; wanted = size + (wanted - size) / 2)
        if (wanted <= area->core.capacity && coalesce_resize(&area->core, node, (uint32_t)wanted)) return true;
    return coalesce_resize(&area->core, node, size);
}

/* Under the lock. Only `pages` more or fewer; addresses were settled before. */
static acre_status grow_block(paged_range *range, paged_area *area, uint32_t node, uint64_t old_bytes,
                              uint64_t new_bytes, const paged_call *call)
{
    paged_span old_span = span_at(range, area, node, old_bytes), span = span_at(range, area, node, new_bytes);
    uint64_t area_first = area->base >> range->store->page_log2;
    if (!resize_addresses(range, area, node, new_bytes)) return ACRE_NO_MEMORY;
    acre_status status = ACRE_NO_MEMORY;
    if (area_reach(area, span.end - area_first, range->store->page_log2)) {
        paged_set_flag(area, node, PAGED_BUSY, true);
        area->in_flight++;
        status = paged_enter_pages(range, (paged_span){old_span.end, span.end}, NULL, call);
        area->in_flight--;
        paged_set_flag(area, node, PAGED_BUSY, false);
    }
    if (status == ACRE_OK && is_large(range, area)) head_of(area, node)->block_bytes = new_bytes;
    /* A node was kept for this, see area_has_nodes. */
    if (status != ACRE_OK && !is_large(range, area))
        (void)coalesce_resize(&area->core, node, (uint32_t)(old_bytes >> area->granule_log2));
    return status;
}

static acre_status shrink_block(paged_range *range, paged_area *area, uint32_t node, uint64_t old_bytes,
                                uint64_t new_bytes, const paged_call *call)
{
    paged_span old_span = span_at(range, area, node, old_bytes), span = span_at(range, area, node, new_bytes);
    if (!resize_addresses(range, area, node, new_bytes)) return ACRE_NO_MEMORY;
    if (is_large(range, area)) head_of(area, node)->block_bytes = new_bytes;
    paged_leave_pages(range, (paged_span){span.end, old_span.end}, PAGED_KEEP, call);
    return ACRE_OK;
}

acre_status paged_resize(paged_range *range, uint64_t handle, uint64_t bytes, bool exceed, paged_block *block,
                         paged_failure *failure)
{
    paged_failure unwanted;
    paged_area *area;
    uint32_t node = 0;
    paged_call call = paged_begin(range->store, exceed, failure, &unwanted);
    acre_status status = bytes != 0 ? paged_resolve(range, handle, &area, &node) : ACRE_INVALID_ARGUMENT;
    if (status == ACRE_OK && bytes > area->bytes) status = ACRE_TOO_LARGE;
    if (status == ACRE_OK && paged_has_flag(area, node, PAGED_BUSY)) status = ACRE_BUSY;
    if (status == ACRE_OK && paged_has_flag(area, node, PAGED_ASLEEP | PAGED_VIEW)) status = ACRE_NOT_SUPPORTED;
    if (status == ACRE_OK) {
        uint64_t old_bytes = paged_bytes_of(range, area, node);
        uint64_t new_bytes = align_up(bytes, (uint64_t)1 << area->granule_log2);
        if (new_bytes > old_bytes) status = grow_block(range, area, node, old_bytes, new_bytes, &call);
        else if (new_bytes < old_bytes) status = shrink_block(range, area, node, old_bytes, new_bytes, &call);
        if (status == ACRE_OK) range->live_bytes += new_bytes - old_bytes;
    }
    if (node != 0 && block != NULL) paged_describe(range, area, node, block);
    call.failure->status = status;
    lock_release(&range->store->lock);
    return status;
}

acre_status paged_get(paged_range *range, uint64_t handle, paged_block *block)
{
    paged_area *area;
    uint32_t node;
    lock_acquire(&range->store->lock);
    acre_status status = paged_resolve(range, handle, &area, &node);
    if (status == ACRE_OK) paged_describe(range, area, node, block);
    lock_release(&range->store->lock);
    return status;
}

acre_status paged_find(paged_range *range, uint64_t offset, paged_block *block)
{
    paged_area *area = &range->areas[offset < range->areas[PAGED_SMALL].bytes ? PAGED_SMALL : PAGED_LARGE];
    uint64_t inside = offset - area->base;
    acre_status status = ACRE_FOREIGN_POINTER;
    lock_acquire(&range->store->lock);
    if (inside >> range->store->page_log2 < area->committed) {
        uint32_t node = paged_cells_find(area, inside);
        if (node != 0) {
            paged_describe(range, area, node, block);
            status = ACRE_OK;
        }
    }
    lock_release(&range->store->lock);
    return status;
}

acre_status paged_set_tag(paged_range *range, uint64_t handle, uint64_t tag, uint32_t category)
{
    paged_area *area;
    uint32_t node;
    if (tag >> PAGED_TAG_BITS != 0 || category >= ACRE_GPU_CATEGORIES_MAX) return ACRE_INVALID_ARGUMENT;
    lock_acquire(&range->store->lock);
    acre_status status = paged_resolve(range, handle, &area, &node);
    if (status == ACRE_OK) {
        uint64_t flags = coalesce_tag(&area->core, node) & (PAGED_ASLEEP | PAGED_SHARED | PAGED_VIEW | PAGED_BUSY);
        coalesce_set_tag(&area->core, node, tag | (uint64_t)category << PAGED_TAG_BITS | flags);
    }
    lock_release(&range->store->lock);
    return status;
}
