/* cuda_sleep: memory that is put aside: categories that sleep, captures, and streams that end.
 *
 * Sleep walks the ranges and lets each range's blocks of the category lose their pages; the addresses stay, and wake
 * puts pages there again, all or none. A capture's lane has a store of its own: nobody takes pages over from it, and
 * none is unmapped while a graph may come back to it. */
#include "gpu/cuda_heap.h"
#include "page/arena.h"

/* --- sleep and wake ---------------------------------------------------------------------------------------------- */

typedef struct nap {
    acre_cuda *h;
    uint32_t category;
    bool wake;
    acre_cuda_copy *copy;
    void *context;
    acre_status status;
    uint64_t refused;
} nap;

/* One block, without locks: before its memory goes, or after it came. */
static bool copy_block(void *context, paged_range *range, const paged_block *block)
{
    nap *n = context;
    acre_cuda *h = n->h;
    const cuda_range *r = range->options.owner;
    if (block->tag & CUDA_TAG_PENDING) return true; /* nobody's, and counted as such */
    void *address = cuda_pointer(r->base + block->offset);
    CUstream stream = atomic_load_explicit(&cuda_tag_stream(h, block->tag)->handle, memory_order_relaxed);
    if (n->copy != NULL && !n->copy(n->context, address, block->bytes, stream)) {
        n->refused++;
        return false;
    }
    if (n->wake) {
        gpu_ledger_charge(&h->ledger, n->category, 0, block->bytes, true);
        atomic_fetch_sub_explicit(&h->asleep_bytes, block->bytes, memory_order_relaxed);
    } else {
        gpu_ledger_discharge(&h->ledger, n->category, 0, block->bytes);
        atomic_fetch_add_explicit(&h->asleep_bytes, block->bytes, memory_order_relaxed);
    }
    return true;
}

static bool nap_range(nap *n, cuda_range *r)
{
    paged_failure failure = {.status = ACRE_OK};
    uint64_t mask = (uint64_t)1 << n->category;
    acre_status status = n->wake ? paged_wake(&r->pages, mask, false, copy_block, n, NULL, &failure)
                                 : paged_sleep(&r->pages, mask, copy_block, n, NULL, &failure);
    if (n->status == ACRE_OK) n->status = status;
    return !n->wake || status == ACRE_OK;
}

/* Without lanes_lock, since `copy` may use the heap: lanes of streams and the room stay as long as the heap. Lanes of
 * captures are left out: their graphs count on the memory. */
static void nap_everywhere(acre_cuda *h, nap *n)
{
    bool go = true;
    for (uint32_t i = 0; go && i < h->slice_count; i++) {
        cuda_lane *lane = atomic_load_explicit(&h->slices[i], memory_order_acquire);
        if (lane != NULL && lane->capture == NULL) go = nap_range(n, &lane->small) && nap_range(n, &lane->large);
    }
    lock_acquire(&h->lanes_lock);
    bool room = h->room_made;
    lock_release(&h->lanes_lock);
    if (go && room) nap_range(n, &h->room.large);
}

static acre_status check_category(const acre_cuda *h, uint32_t category, bool asleep)
{
    if (h == NULL || category >= h->ledger.category_count) return ACRE_INVALID_ARGUMENT;
    bool is = atomic_load_explicit(&h->asleep, memory_order_relaxed) >> category & 1;
    if (is == asleep) return ACRE_OK;
    return is ? ACRE_BUSY : ACRE_INVALID_ARGUMENT;
}

acre_status acre_cuda_sleep(acre_cuda *h, uint32_t category, acre_cuda_copy *save, void *context)
{
    acre_status status = check_category(h, category, false);
    if (status != ACRE_OK) return status;
    paged_failure failure = {.status = ACRE_OK};
    if (!cuda_streams_wait(h, &failure)) return failure.status;
    retire_poll(&h->retire); /* what was waiting for that needs no saving */
    nap n = {.h = h, .category = category, .copy = save, .context = context};
    atomic_fetch_or_explicit(&h->asleep, (uint64_t)1 << category, memory_order_relaxed);
    bool wait = cuda_may_wait(true);
    nap_everywhere(h, &n);
    cuda_may_wait(wait);
    return n.status;
}

static acre_status wake_all(void *context, bool exceed, paged_failure *failure)
{
    nap *n = context;
    (void)exceed;
    n->status = ACRE_OK;
    n->refused = 0;
    n->wake = true;
    nap_everywhere(n->h, n);
    if (n->status == ACRE_OK) return ACRE_OK;
    acre_status status = n->status;
    /* The rest has no memory: those that are awake go back. Their contents are where they were saved. */
    nap back = {.h = n->h, .category = n->category};
    nap_everywhere(n->h, &back);
    lock_acquire(&n->h->error_lock);
    *failure = (paged_failure){
        .status = status, .result = n->h->error.driver_result, .call = n->h->error.driver_call};
    lock_release(&n->h->error_lock);
    return status;
}

acre_status acre_cuda_wake(acre_cuda *h, uint32_t category, acre_cuda_copy *restore, void *context)
{
    acre_status status = check_category(h, category, true);
    if (status != ACRE_OK) return status;
    nap n = {.h = h, .category = category, .copy = restore, .context = context};
    uint64_t bytes = atomic_load_explicit(&h->asleep_bytes, memory_order_relaxed);
    status = cuda_attempt_all(h, category, bytes, h->page_bytes, NULL, wake_all, &n);
    if (status != ACRE_OK) return status;
    if (n.refused != 0) return ACRE_BUSY;
    atomic_fetch_and_explicit(&h->asleep, ~((uint64_t)1 << category), memory_order_relaxed);
    return ACRE_OK;
}

/* --- streams that end -------------------------------------------------------------------------------------------- */

acre_status acre_cuda_stream_done(acre_cuda *h, void *stream)
{
    if (h == NULL) return ACRE_INVALID_ARGUMENT;
    cuda_stream *s = cuda_stream_look_up(h, stream);
    if (s == NULL) return ACRE_OK; /* it never asked for anything */
    paged_failure failure = {.status = ACRE_OK};
    return cuda_stream_end(h, s, &failure);
}

/* --- captures ---------------------------------------------------------------------------------------------------- */

/* Under lanes_lock. */
static cuda_capture *find_capture(acre_cuda *h, uint64_t number)
{
    cuda_capture *c = h->captures;
    while (c != NULL && c->number != number) c = c->next;
    return c;
}

/* Under lanes_lock. */
static acre_status start(cuda_capture *c, cuda_stream *s)
{
    if (atomic_load_explicit(&s->capture, memory_order_relaxed) != NULL ||
        atomic_load_explicit(&c->stream, memory_order_relaxed) != NULL ||
        atomic_load_explicit(&c->released, memory_order_relaxed))
        return ACRE_BUSY;
    atomic_store_explicit(&c->stream, s, memory_order_release);
    atomic_store_explicit(&s->capture, c, memory_order_release);
    return ACRE_OK;
}

static acre_status make_capture(acre_cuda *h, cuda_capture **made)
{
    cuda_capture *c = arena_alloc(sizeof *c);
    if (c == NULL) return ACRE_NO_MEMORY;
    c->number = ++h->capture_number;
    const paged_store_options options = {
        .provider = cuda_provider(h),
        .policy = {.bytes_max = UINT64_MAX, .live_percent = UINT32_MAX, .delay_ms = UINT32_MAX},
        .ledger = &h->ledger,
    };
    acre_status status = paged_store_init(&c->store, &options);
    if (status == ACRE_OK) status = cuda_lane_make(h, &c->store, NULL, 0, c, &c->lane);
    if (status != ACRE_OK) {
        arena_free(c, sizeof *c);
        return status;
    }
    c->next = h->captures;
    h->captures = c;
    *made = c;
    return ACRE_OK;
}

acre_status acre_cuda_capture_begin(acre_cuda *h, void *stream, uint64_t *capture)
{
    if (h == NULL || capture == NULL) return ACRE_INVALID_ARGUMENT;
    cuda_stream *s;
    acre_status status = cuda_stream_get(h, stream, &s);
    if (status != ACRE_OK) return status;
    cuda_capture *c = NULL;
    lock_acquire(&h->lanes_lock);
    if (atomic_load_explicit(&s->capture, memory_order_relaxed) != NULL) status = ACRE_BUSY;
    else status = make_capture(h, &c);
    if (status == ACRE_OK) status = start(c, s);
    if (status == ACRE_OK) *capture = c->number;
    lock_release(&h->lanes_lock);
    return status;
}

acre_status acre_cuda_capture_again(acre_cuda *h, uint64_t capture, void *stream)
{
    if (h == NULL) return ACRE_INVALID_ARGUMENT;
    cuda_stream *s;
    acre_status status = cuda_stream_get(h, stream, &s);
    if (status != ACRE_OK) return status;
    lock_acquire(&h->lanes_lock);
    cuda_capture *c = find_capture(h, capture);
    status = c != NULL ? start(c, s) : ACRE_INVALID_ARGUMENT;
    lock_release(&h->lanes_lock);
    return status;
}

acre_status acre_cuda_capture_end(acre_cuda *h, uint64_t capture)
{
    if (h == NULL) return ACRE_INVALID_ARGUMENT;
    lock_acquire(&h->lanes_lock);
    cuda_capture *c = find_capture(h, capture);
    cuda_stream *s = c != NULL ? atomic_load_explicit(&c->stream, memory_order_relaxed) : NULL;
    if (s != NULL) {
        atomic_store_explicit(&s->capture, NULL, memory_order_release);
        atomic_store_explicit(&c->stream, NULL, memory_order_release);
    }
    lock_release(&h->lanes_lock);
    return s != NULL ? ACRE_OK : ACRE_INVALID_ARGUMENT;
}

/* Under lanes_lock. True: nothing is left of it. */
static bool take_apart(acre_cuda *h, cuda_capture *c, paged_failure *failure)
{
    if (c->lane != NULL) {
        if (cuda_lane_remove(h, c->lane, failure) != ACRE_OK) return false;
        c->lane = NULL;
    }
    return paged_store_destroy(&c->store, failure) == ACRE_OK;
}

static void sweep_locked(acre_cuda *h)
{
    paged_failure failure;
    for (cuda_capture **at = &h->captures; *at != NULL;) {
        cuda_capture *c = *at;
        bool released = atomic_load_explicit(&c->released, memory_order_relaxed);
        if (!released || !take_apart(h, c, &failure)) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        arena_free(c, sizeof *c);
    }
}

void cuda_captures_sweep(acre_cuda *h)
{
    /* Somebody makes a lane: next time, then. */
    if (!lock_try(&h->lanes_lock)) return;
    sweep_locked(h);
    lock_release(&h->lanes_lock);
}

acre_status acre_cuda_capture_release(acre_cuda *h, uint64_t capture)
{
    if (h == NULL) return ACRE_INVALID_ARGUMENT;
    acre_status status = ACRE_OK;
    lock_acquire(&h->lanes_lock);
    cuda_capture *c = find_capture(h, capture);
    if (c == NULL) status = ACRE_INVALID_ARGUMENT;
    else if (atomic_load_explicit(&c->stream, memory_order_relaxed) != NULL) status = ACRE_BUSY;
    else atomic_store_explicit(&c->released, true, memory_order_release);
    if (status == ACRE_OK) sweep_locked(h);
    lock_release(&h->lanes_lock);
    return status;
}

/* At the end: its lane is gone already. */
void cuda_captures_destroy(acre_cuda *h)
{
    paged_failure failure;
    while (h->captures != NULL) {
        cuda_capture *c = h->captures;
        if (paged_store_destroy(&c->store, &failure) != ACRE_OK) (void)paged_store_destroy(&c->store, &failure);
        h->captures = c->next;
        arena_free(c, sizeof *c);
    }
}
