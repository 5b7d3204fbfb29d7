/* cuda_alloc: requests, from the hit to the report that says why there is nothing.
 *
 *   acre_cuda_alloc -> stream's record -> its lane -> small or large range -> paged_alloc
 *        a hole in mapped pages: done, without a driver call
 *        else loose pages, empties that the GPU is done with, new ones
 *        else cuda_attempt_all: collect what has been passed -> wait for empties -> wait for pending blocks
 *                               -> ask on_limit -> pass the budget, if the category may -> report
 *
 * After each step the request is tried anew. A category's budget is asked first, with each try, since a step may have
 * made room in it. */
#include <string.h>

#include "gpu/cuda_heap.h"

enum { ON_LIMIT_ROUNDS_MAX = 64 };

/* --- when memory is short ---------------------------------------------------------------------------------------- */

static bool is_short(acre_status status)
{
    return status == ACRE_NO_MEMORY || status == ACRE_OVER_BUDGET || status == ACRE_BUSY;
}

typedef struct holes {
    uint64_t largest, free_bytes;
} holes;

static bool add_holes(void *context, cuda_range *r)
{
    holes *x = context;
    paged_range_stats stats;
    paged_range_stats_read(&r->pages, &stats);
    if (stats.largest_hole_bytes > x->largest) x->largest = stats.largest_hole_bytes;
    return true;
}

/* What could have served: the longest run with memory behind it, or all empties together, since pages move. */
static void fill_holes(acre_cuda *h, cuda_range *range, acre_gpu_shortage *shortage)
{
    holes x = {.largest = 0};
    if (range != NULL) add_holes(&x, range);
    else cuda_ranges(h, add_holes, &x);
    if (shortage->heap_stats.empty_bytes > x.largest) x.largest = shortage->heap_stats.empty_bytes;
    x.free_bytes = shortage->heap_stats.hole_bytes + shortage->heap_stats.empty_bytes;
    shortage->largest_hole_bytes = x.largest;
    shortage->fragmentation = x.free_bytes > x.largest ? 1.0 - (double)x.largest / (double)x.free_bytes : 0.0;
}

static void make_report(acre_cuda *h, acre_status status, uint32_t category, uint64_t bytes, uint64_t alignment,
                        cuda_range *range, const paged_failure *failure, acre_gpu_shortage *shortage)
{
    gpu_ledger_shortage(&h->ledger, status, category, 0, bytes, alignment, shortage);
    shortage->driver_result = failure->result;
    shortage->driver_call = failure->call;
    fill_holes(h, range, shortage);
    lock_acquire(&h->error_lock);
    h->shortage = *shortage;
    lock_release(&h->error_lock);
}

/* Waits for one pending block after the other until the attempt succeeds. */
static acre_status collect_and_try(acre_cuda *h, cuda_attempt *attempt, void *context, acre_status status,
                                   paged_failure *failure)
{
    /* Blocks may come meanwhile, and a driver may refuse for ever: not for ever here. */
    for (uint64_t rounds = 64 + 4 * retire_count(&h->retire); rounds-- > 0 && is_short(status) && cuda_collect(h);)
        status = attempt(context, false, failure);
    return status;
}

static acre_status ask_program(acre_cuda *h, uint32_t category, uint64_t bytes, uint64_t alignment, cuda_range *range,
                               cuda_attempt *attempt, void *context, acre_status status, paged_failure *failure)
{
    for (int round = 0; h->on_limit != NULL && is_short(status) && round < ON_LIMIT_ROUNDS_MAX; round++) {
        acre_gpu_shortage shortage;
        make_report(h, status, category, bytes, alignment, range, failure, &shortage);
        /* The report counts a failure, and this is none yet. */
        atomic_fetch_sub_explicit(&h->ledger.categories[category].failed, 1, memory_order_relaxed);
        bool wait = cuda_may_wait(false);
        bool again = h->on_limit(h->on_limit_context, &shortage);
        cuda_may_wait(wait);
        if (!again) break;
        *failure = (paged_failure){.status = ACRE_OK};
        status = attempt(context, false, failure);
        if (is_short(status)) status = collect_and_try(h, attempt, context, status, failure);
    }
    return status;
}

acre_status cuda_attempt_all(acre_cuda *h, uint32_t category, uint64_t bytes, uint64_t alignment, cuda_range *range,
                             cuda_attempt *attempt, void *context)
{
    paged_failure failure = {.status = ACRE_OK};
    bool wait = cuda_may_wait(h->wait_before_growth);
    acre_status status = attempt(context, false, &failure);
    if (likely(status == ACRE_OK)) {
        cuda_may_wait(wait);
        return status;
    }
    cuda_may_wait(true);
    if (is_short(status) && retire_poll(&h->retire) != 0) status = attempt(context, false, &failure);
    if (is_short(status)) {
        atomic_fetch_add_explicit(&h->growth_waits, 1, memory_order_relaxed);
        status = attempt(context, false, &failure); /* now empties that the GPU still uses are waited for */
    }
    if (is_short(status)) status = collect_and_try(h, attempt, context, status, &failure);
    if (is_short(status))
        status = ask_program(h, category, bytes, alignment, range, attempt, context, status, &failure);
    if (is_short(status) && h->ledger.categories[category].at_limit == ACRE_GPU_EXCEED)
        status = attempt(context, true, &failure);
    cuda_may_wait(wait);
    if (status == ACRE_OK) return status;
    acre_gpu_shortage shortage;
    if (status == ACRE_BUSY) status = ACRE_NO_MEMORY; /* only a capture keeps the GPU from answering */
    make_report(h, status, category, bytes, alignment, range, &failure, &shortage);
    return status;
}

/* --- alloc ------------------------------------------------------------------------------------------------------- */

typedef struct wish {
    acre_cuda *h;
    cuda_range *range;
    paged_request request;
    paged_block block;
    uint64_t charge;
} wish;

static acre_status take(void *context, bool exceed, paged_failure *failure)
{
    wish *w = context;
    acre_cuda *h = w->h;
    if (unlikely(!gpu_ledger_charge(&h->ledger, w->request.category, 0, w->charge, exceed))) return ACRE_OVER_BUDGET;
    w->request.exceed = exceed;
    acre_status status = paged_alloc(&w->range->pages, &w->request, &w->block, failure);
    if (unlikely(status != ACRE_OK)) gpu_ledger_discharge(&h->ledger, w->request.category, 0, w->charge);
    return status;
}

static acre_status room_range(acre_cuda *h, cuda_range **range)
{
    acre_status status = ACRE_OK;
    lock_acquire(&h->lanes_lock);
    if (!h->room_made) {
        status = cuda_room_make(h);
        h->room_made = status == ACRE_OK;
    }
    lock_release(&h->lanes_lock);
    *range = &h->room.large;
    return status;
}

static acre_status check_request(const acre_cuda *h, const acre_cuda_request *q)
{
    if (q->bytes == 0 || (q->alignment & (q->alignment - 1)) != 0 || q->alignment > h->page_bytes)
        return ACRE_INVALID_ARGUMENT;
    if (q->category >= h->ledger.category_count) return ACRE_INVALID_ARGUMENT;
    if (q->flags & ~(uint32_t)(ACRE_CUDA_OWN_PAGES | ACRE_CUDA_EXPORTABLE)) return ACRE_INVALID_ARGUMENT;
    if (q->room_bytes != 0 && (!(q->flags & ACRE_CUDA_OWN_PAGES) || q->flags & ACRE_CUDA_EXPORTABLE))
        return ACRE_INVALID_ARGUMENT;
    if (atomic_load_explicit(&h->asleep, memory_order_relaxed) >> q->category & 1) return ACRE_BUSY;
    return ACRE_OK;
}

static acre_status alloc_own(acre_cuda *h, const acre_cuda_request *q, cuda_stream *s, wish *w)
{
    acre_status status = room_range(h, &w->range);
    if (status != ACRE_OK) return status;
    if (q->bytes > h->room_bytes || q->room_bytes > h->room_bytes) return ACRE_TOO_LARGE;
    w->charge = align_up(q->bytes, h->page_bytes);
    w->request = (paged_request){
        .bytes = w->charge,
        .room_bytes = q->room_bytes > w->charge ? align_up(q->room_bytes, h->page_bytes) : w->charge,
        .category = q->category,
        .tag = (uint64_t)s->index << CUDA_TAG_STREAM_SHIFT | CUDA_TAG_OWN,
    };
    return cuda_attempt_all(h, q->category, q->bytes, q->alignment, w->range, take, w);
}

acre_status acre_cuda_alloc_request(acre_cuda *h, const acre_cuda_request *q, void **block)
{
    if (unlikely(h == NULL || q == NULL || block == NULL)) return ACRE_INVALID_ARGUMENT;
    acre_status status = check_request(h, q);
    if (unlikely(status != ACRE_OK)) return status;
    cuda_stream *s;
    status = cuda_stream_get(h, q->stream, &s);
    if (unlikely(status != ACRE_OK)) return status;
    if (unlikely(q->flags & ACRE_CUDA_EXPORTABLE)) return cuda_export_alloc(h, q, s, block);

    wish w = {.h = h};
    if (unlikely(q->flags & ACRE_CUDA_OWN_PAGES)) {
        status = alloc_own(h, q, s, &w);
    } else {
        cuda_lane *lane;
        if (q->bytes > h->slice_bytes - h->small_bytes) return ACRE_TOO_LARGE;
        status = cuda_lane_get(h, s, q->category, &lane);
        if (unlikely(status != ACRE_OK)) return status;
        w.charge = align_up(q->bytes, ACRE_CUDA_GRANULE_BYTES);
        w.range = w.charge <= ACRE_CUDA_SMALL_MAX ? &lane->small : &lane->large;
        w.request = (paged_request){
            .bytes = w.charge,
            .alignment = q->alignment,
            .category = q->category,
            .tag = (uint64_t)s->index << CUDA_TAG_STREAM_SHIFT,
        };
        status = cuda_attempt_all(h, q->category, q->bytes, q->alignment, w.range, take, &w);
    }
    if (likely(status == ACRE_OK)) *block = cuda_pointer(w.range->base + w.block.offset);
    return status;
}

acre_status acre_cuda_alloc(acre_cuda *h, uint64_t bytes, uint64_t alignment, uint32_t category, void *stream,
                            void **block)
{
    const acre_cuda_request q = {.bytes = bytes, .alignment = alignment, .category = category, .stream = stream};
    return acre_cuda_alloc_request(h, &q, block);
}

/* --- resize ------------------------------------------------------------------------------------------------------ */

typedef struct growth {
    acre_cuda *h;
    cuda_range *range;
    paged_block block;
    uint64_t bytes;
} growth;

static acre_status grow(void *context, bool exceed, paged_failure *failure)
{
    growth *g = context;
    gpu_ledger *ledger = &g->h->ledger;
    paged_block *b = &g->block;
    if (!gpu_ledger_resize(ledger, b->category, 0, b->bytes, g->bytes, exceed)) return ACRE_OVER_BUDGET;
    acre_status status = paged_resize(&g->range->pages, b->handle, g->bytes, exceed, NULL, failure);
    if (status != ACRE_OK) gpu_ledger_resize(ledger, b->category, 0, g->bytes, b->bytes, true);
    return status;
}

/* The tail goes to home, which has a point for it; for others, and without a home, the GPU must be done. */
static acre_status shrink(acre_cuda *h, growth *g)
{
    paged_failure failure = {.status = ACRE_OK};
    paged_block *b = &g->block;
    cuda_stream *s = cuda_tag_stream(h, b->tag);
    if (g->range->page_points != NULL) cuda_range_mark(g->range, b->offset + g->bytes, b->bytes - g->bytes);
    if (!cuda_tag_wait(h, b->tag, &failure)) return ACRE_BUSY;
    if (g->range->lane->home != s && !cuda_stream_wait(h, s, cuda_stream_point(s), &failure)) return ACRE_BUSY;
    acre_status status = paged_resize(&g->range->pages, b->handle, g->bytes, false, NULL, &failure);
    if (status == ACRE_OK) gpu_ledger_resize(&h->ledger, b->category, 0, b->bytes, g->bytes, true);
    return status;
}

acre_status acre_cuda_resize(acre_cuda *h, void *block, uint64_t new_bytes)
{
    if (h == NULL || block == NULL || new_bytes == 0) return ACRE_INVALID_ARGUMENT;
    growth g = {.h = h};
    uint64_t offset;
    if (!cuda_locate(h, block, &g.range, &offset)) {
        lock_acquire(&h->lanes_lock);
        bool known = cuda_export_find(h, block) != NULL;
        lock_release(&h->lanes_lock);
        return known ? ACRE_NOT_SUPPORTED : ACRE_FOREIGN_POINTER;
    }
    acre_status status = paged_find(&g.range->pages, offset, &g.block);
    if (status != ACRE_OK || g.block.tag & CUDA_TAG_PENDING) return ACRE_FOREIGN_POINTER;
    if (g.block.shared || g.block.tag & CUDA_TAG_SHARED) return ACRE_NOT_SUPPORTED;
    if (g.block.asleep) return ACRE_BUSY;
    uint64_t unit = g.block.tag & CUDA_TAG_OWN ? h->page_bytes : ACRE_CUDA_GRANULE_BYTES;
    if (new_bytes > g.range->bytes) return ACRE_TOO_LARGE;
    g.bytes = align_up(new_bytes, unit);
    if (g.bytes == g.block.bytes) return ACRE_OK;
    if (g.bytes < g.block.bytes) return shrink(h, &g);
    return cuda_attempt_all(h, g.block.category, g.bytes, unit, g.range, grow, &g);
}

/* --- share ------------------------------------------------------------------------------------------------------- */

typedef struct view {
    acre_cuda *h;
    cuda_range *range;
    paged_block from, made;
    uint64_t offset, bytes;
    paged_request request;
} view;

static acre_status look(void *context, bool exceed, paged_failure *failure)
{
    view *v = context;
    gpu_ledger *ledger = &v->h->ledger;
    if (!gpu_ledger_charge(ledger, v->request.category, 0, 0, exceed)) return ACRE_OVER_BUDGET;
    acre_status status = paged_share(&v->range->pages, v->from.handle, v->offset, v->bytes, &v->range->pages,
                                     &v->request, &v->made, failure);
    if (status != ACRE_OK) gpu_ledger_discharge(ledger, v->request.category, 0, 0);
    return status;
}

acre_status acre_cuda_share(acre_cuda *h, void *block, uint64_t offset, uint64_t bytes, uint32_t category,
                            void *stream, void **shared)
{
    if (h == NULL || block == NULL || shared == NULL || bytes == 0) return ACRE_INVALID_ARGUMENT;
    if (category >= h->ledger.category_count) return ACRE_INVALID_ARGUMENT;
    if ((offset | bytes) & (h->page_bytes - 1)) return ACRE_INVALID_ARGUMENT;
    cuda_stream *s;
    acre_status status = cuda_stream_get(h, stream, &s);
    if (status != ACRE_OK) return status;
    view v = {.h = h, .offset = offset, .bytes = bytes};
    uint64_t at;
    if (!cuda_locate(h, block, &v.range, &at)) return ACRE_FOREIGN_POINTER;
    status = paged_find(&v.range->pages, at, &v.from);
    if (status != ACRE_OK || v.from.tag & CUDA_TAG_PENDING) return ACRE_FOREIGN_POINTER;
    if (!(v.from.tag & CUDA_TAG_OWN)) return ACRE_NOT_SUPPORTED;
    if (v.from.tag & CUDA_TAG_SHARED) return ACRE_INVALID_ARGUMENT;
    if (v.from.asleep) return ACRE_BUSY;
    if (offset > v.from.bytes || bytes > v.from.bytes - offset) return ACRE_INVALID_ARGUMENT;
    v.request = (paged_request){
        .bytes = bytes,
        .room_bytes = bytes,
        .category = category,
        .tag = (uint64_t)s->index << CUDA_TAG_STREAM_SHIFT | CUDA_TAG_OWN | CUDA_TAG_SHARED,
    };
    status = cuda_attempt_all(h, category, bytes, h->page_bytes, v.range, look, &v);
    if (status != ACRE_OK) return status;
    atomic_fetch_add_explicit(&h->shared_bytes, bytes, memory_order_relaxed);
    *shared = cuda_pointer(v.range->base + v.made.offset);
    return ACRE_OK;
}
