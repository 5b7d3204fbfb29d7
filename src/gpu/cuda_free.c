/* cuda_free: freeing in stream order.
 *
 * A block waits for the streams that were recorded for it and for the one it is freed on, except its lane's home: what
 * home is asked to do next comes after what it was asked before. With nobody left to wait for, the block is free at
 * once; its pages are marked with home's next point, since they must not be unmapped before home has come there. Else
 * the block is pending: its tag says so, and an entry of the retire queue takes it from one stream to the next as each
 * passes the point of the free.
 *
 * If there is no memory to write that down, the call waits for the GPU instead. */
#include "gpu/cuda_heap.h"
#include "page/arena.h"

/* --- recorded uses: tags change under uses_lock ------------------------------------------------------------------ */

static cuda_uses *uses_of(uint64_t tag)
{
    return tag & CUDA_TAG_USES ? (cuda_uses *)(uintptr_t)(tag & ~(uint64_t)CUDA_TAG_FLAGS) : NULL;
}

cuda_stream *cuda_tag_stream(acre_cuda *h, uint64_t tag)
{
    const cuda_uses *uses = uses_of(tag);
    uint64_t index = uses != NULL ? uses->origin : tag >> CUDA_TAG_STREAM_SHIFT;
    return atomic_load_explicit(&h->streams[index], memory_order_relaxed);
}

static void uses_drop(cuda_uses *uses)
{
    while (uses != NULL) {
        cuda_uses *next = uses->next;
        arena_free(uses, sizeof *uses);
        uses = next;
    }
}

static bool uses_has(const cuda_uses *uses, uint32_t index)
{
    for (; uses != NULL; uses = uses->next)
        for (uint32_t i = 0; i < uses->count; i++)
            if (uses->streams[i] == index) return true;
    return false;
}

/* *first may change. */
static bool uses_add(cuda_uses **first, uint32_t origin, uint32_t index)
{
    cuda_uses *uses = *first;
    if (uses_has(uses, index)) return true;
    if (uses == NULL || uses->count == CUDA_USES_PER_RECORD) {
        uses = arena_alloc(sizeof *uses);
        if (uses == NULL) return false;
        uses->next = *first;
        uses->origin = (uint16_t)origin;
        *first = uses;
    }
    uses->streams[uses->count++] = (uint16_t)index;
    return true;
}

static acre_status record_in_block(acre_cuda *h, cuda_range *r, uint64_t offset, const cuda_stream *s)
{
    paged_block b;
    acre_status status = paged_find(&r->pages, offset, &b);
    if (status != ACRE_OK || b.tag & CUDA_TAG_PENDING) return ACRE_FOREIGN_POINTER;
    cuda_uses *uses = uses_of(b.tag);
    uint32_t origin = cuda_tag_stream(h, b.tag)->index;
    if (!uses_add(&uses, origin, s->index)) return ACRE_NO_MEMORY;
    uint64_t tag = (uint64_t)(uintptr_t)uses | (b.tag & CUDA_TAG_FLAGS) | CUDA_TAG_USES;
    return paged_set_tag(&r->pages, b.handle, tag, b.category);
}

acre_status acre_cuda_record_use(acre_cuda *h, void *block, void *stream)
{
    if (h == NULL || block == NULL) return ACRE_INVALID_ARGUMENT;
    cuda_stream *s;
    cuda_range *r;
    uint64_t offset;
    acre_status status = cuda_stream_get(h, stream, &s);
    if (status != ACRE_OK) return status;
    if (cuda_locate(h, block, &r, &offset)) {
        if (r->lane->home == s) return ACRE_OK; /* its home waits for itself */
        lock_acquire(&h->uses_lock);
        status = record_in_block(h, r, offset, s);
        lock_release(&h->uses_lock);
        return status;
    }
    lock_acquire(&h->lanes_lock);
    cuda_export *e = cuda_export_find(h, block);
    if (e == NULL || e->pending) status = ACRE_FOREIGN_POINTER;
    else if (!uses_add(&e->uses, e->origin, s->index)) status = ACRE_NO_MEMORY;
    lock_release(&h->lanes_lock);
    return status;
}

/* --- the end of a block ------------------------------------------------------------------------------------------ */

/* Nobody has to be waited for. */
static acre_status free_now(cuda_range *r, const paged_block *b, paged_failure *failure)
{
    cuda_uses *uses = uses_of(b->tag);
    cuda_range_mark(r, b->offset, b->bytes);
    acre_status status = paged_free(&r->pages, b->handle, failure);
    if (unlikely(status == ACRE_FOREIGN_POINTER || status == ACRE_DOUBLE_FREE || status == ACRE_BUSY)) return status;
    /* A driver that would not unmap shared pages is asked again later; the block is free all the same. */
    uses_drop(uses);
    return ACRE_OK;
}

/* What a block of this kind is charged with. */
static uint64_t charged_bytes(const paged_block *b) { return b->tag & CUDA_TAG_SHARED ? 0 : b->bytes; }

static size_t pending_bytes(const cuda_pending *p) { return sizeof *p + p->count * sizeof p->waits[0]; }

static void finish(acre_cuda *h, cuda_pending *p)
{
    paged_failure failure;
    acre_status status;
    if (p->export_block != NULL) {
        lock_acquire(&h->lanes_lock);
        status = cuda_export_drop(h, p->export_block, &failure) ? ACRE_OK : ACRE_SYSTEM;
        lock_release(&h->lanes_lock);
    } else {
        paged_block b;
        bool wait = cuda_may_wait(true);
        status = paged_get(&p->range->pages, p->handle, &b);
        if (status == ACRE_OK) status = free_now(p->range, &b, &failure);
        cuda_may_wait(wait);
        if (status == ACRE_OK) {
            gpu_ledger_unpend(&h->ledger, p->category, 0, p->bytes);
            if (b.tag & CUDA_TAG_SHARED) atomic_fetch_sub_explicit(&h->shared_bytes, b.bytes, memory_order_relaxed);
        }
    }
    if (status == ACRE_SYSTEM || status == ACRE_BUSY) {
        /* The driver would not give an export up, or a call for the block is under way: again at the next poll. */
        p->at = p->count;
        if (retire_push(&h->retire, p->waits[0].stream->index, p->waits[0].point, p)) return;
    }
    arena_free(p, pending_bytes(p));
}

/* On to the first stream that has not come to its point. */
static void advance(acre_cuda *h, cuda_pending *p)
{
    while (p->at < p->count && cuda_stream_passed(p->waits[p->at].stream, p->waits[p->at].point)) p->at++;
    paged_failure failure;
    for (; p->at < p->count; p->at++) {
        if (retire_push(&h->retire, p->waits[p->at].stream->index, p->waits[p->at].point, p)) return;
        bool waited = cuda_stream_wait(h, p->waits[p->at].stream, p->waits[p->at].point, &failure);
        if (!waited) return; /* neither memory nor an answer: the block stays pending for ever, which is safe */
    }
    finish(h, p);
}

/* --- the retire queue's questions -------------------------------------------------------------------------------- */

static cuda_stream *timeline_stream(acre_cuda *h, uint64_t timeline)
{
    return atomic_load_explicit(&h->streams[timeline], memory_order_relaxed);
}

static bool reached(void *context, uint64_t timeline, uint64_t *value)
{
    acre_cuda *h = context;
    cuda_stream *s = timeline_stream(h, timeline);
    paged_failure failure;
    bool asked = cuda_stream_poll(h, s, &failure);
    *value = atomic_load_explicit(&s->passed, memory_order_acquire);
    return asked;
}

static void next_stream(void *context, void *block)
{
    acre_cuda *h = context;
    cuda_pending *p = block;
    if (p->at < p->count) p->at++;
    advance(h, p);
}

/* Waiting is done by cuda_collect: it knows which streams cannot be waited for. */
retire_owner cuda_retire_owner(acre_cuda *h)
{
    return (retire_owner){.context = h, .reached = reached, .free_block = next_stream};
}

bool cuda_collect(acre_cuda *h)
{
    if (retire_poll(&h->retire) != 0) return true;
    uint32_t count = atomic_load_explicit(&h->stream_count, memory_order_acquire);
    for (uint32_t i = 0; i < count && retire_count(&h->retire) != 0; i++) {
        cuda_stream *s = timeline_stream(h, i);
        uint64_t point = atomic_load_explicit(&s->points, memory_order_acquire);
        paged_failure failure;
        if (!cuda_stream_passed(s, point) && cuda_stream_wait(h, s, point, &failure) && retire_poll(&h->retire) != 0)
            return true;
    }
    return false;
}

/* --- free -------------------------------------------------------------------------------------------------------- */

static uint32_t count_uses(const cuda_uses *uses)
{
    uint32_t count = 0;
    for (; uses != NULL; uses = uses->next) count += uses->count;
    return count;
}

/* Whom a block waits for: each stream with a point, now. NULL: no memory. */
static cuda_pending *make_pending(acre_cuda *h, const cuda_uses *uses, cuda_stream *freed_on, const cuda_stream *home)
{
    uint32_t count = count_uses(uses) + (freed_on != home && !uses_has(uses, freed_on->index));
    cuda_pending *p = arena_alloc(sizeof *p + count * sizeof p->waits[0]);
    if (p == NULL) return NULL;
    p->count = count;
    uint32_t at = 0;
    for (; uses != NULL; uses = uses->next)
        for (uint32_t i = 0; i < uses->count; i++) {
            cuda_stream *s = timeline_stream(h, uses->streams[i]);
            p->waits[at].stream = s;
            p->waits[at++].point = cuda_stream_point(s);
        }
    if (at < count) {
        p->waits[at].stream = freed_on;
        p->waits[at].point = cuda_stream_point(freed_on);
    }
    return p;
}

/* Events first, where none is under way, so that all are on their way at once. */
static void start_waiting(acre_cuda *h, cuda_pending *p)
{
    paged_failure failure;
    for (uint32_t i = 0; i < p->count; i++)
        if (cuda_stream_is_due(p->waits[i].stream)) (void)cuda_stream_poll(h, p->waits[i].stream, &failure);
    advance(h, p);
}

/* Waits here and now: there was no memory to do it later. */
static bool wait_for_uses(acre_cuda *h, const cuda_uses *uses, paged_failure *failure)
{
    bool all = true;
    for (; uses != NULL; uses = uses->next)
        for (uint32_t i = 0; i < uses->count; i++) {
            cuda_stream *s = timeline_stream(h, uses->streams[i]);
            all &= cuda_stream_wait(h, s, cuda_stream_point(s), failure);
        }
    return all;
}

bool cuda_tag_wait(acre_cuda *h, uint64_t tag, paged_failure *failure)
{
    return !(tag & CUDA_TAG_USES) || wait_for_uses(h, uses_of(tag), failure);
}

static bool is_home(const cuda_lane *lane, const cuda_stream *s)
{
    if (lane->home == s) return true;
    return lane->capture != NULL && atomic_load_explicit(&lane->capture->stream, memory_order_acquire) == s;
}

/* Large blocks are what empties pages, and an event in time saves a wait later. */
static void keep_events_going(acre_cuda *h, cuda_stream *s, uint64_t bytes)
{
    if (bytes < h->page_bytes) return;
    paged_failure failure;
    if (cuda_stream_is_due(s)) (void)cuda_stream_poll(h, s, &failure);
}

static acre_status free_pending(acre_cuda *h, cuda_range *r, uint64_t offset, cuda_stream *s)
{
    paged_block b;
    paged_failure failure = {0};
    cuda_pending *p = NULL;
    lock_acquire(&h->uses_lock);
    acre_status status = paged_find(&r->pages, offset, &b);
    if (status != ACRE_OK || b.tag & CUDA_TAG_PENDING) status = ACRE_FOREIGN_POINTER;
    else p = make_pending(h, uses_of(b.tag), s, r->lane->home);
    if (p != NULL) status = paged_set_tag(&r->pages, b.handle, b.tag | CUDA_TAG_PENDING, b.category);
    lock_release(&h->uses_lock);
    uint64_t charged = charged_bytes(&b);
    if (p != NULL && status == ACRE_OK) {
        gpu_ledger_pend(&h->ledger, b.category, 0, charged);
        p->range = r;
        p->handle = b.handle;
        p->bytes = charged;
        p->category = b.category;
        start_waiting(h, p);
        return ACRE_OK;
    }
    if (p != NULL) arena_free(p, pending_bytes(p));
    if (status != ACRE_OK) return status;
    if (!wait_for_uses(h, uses_of(b.tag), &failure)) return ACRE_NO_MEMORY;
    if (!cuda_stream_wait(h, s, cuda_stream_point(s), &failure)) return ACRE_NO_MEMORY;
    status = free_now(r, &b, &failure);
    if (status == ACRE_OK) gpu_ledger_discharge(&h->ledger, b.category, 0, charged);
    return status;
}

/* Asleep: no memory is behind it, so nobody can be using it. */
static acre_status free_asleep(acre_cuda *h, cuda_range *r, const paged_block *b)
{
    paged_failure failure;
    acre_status status = free_now(r, b, &failure);
    if (status == ACRE_OK) atomic_fetch_sub_explicit(&h->asleep_bytes, b->bytes, memory_order_relaxed);
    return status;
}

static acre_status free_export(acre_cuda *h, void *block, cuda_stream *s)
{
    lock_acquire(&h->lanes_lock);
    cuda_export *e = cuda_export_find(h, block);
    acre_status status = e == NULL || e->pending ? ACRE_FOREIGN_POINTER : ACRE_OK;
    cuda_pending *p = status == ACRE_OK ? make_pending(h, e->uses, s, NULL) : NULL;
    if (p != NULL) {
        e->pending = true;
        p->export_block = e;
    } else if (status == ACRE_OK) {
        status = ACRE_NO_MEMORY;
    }
    lock_release(&h->lanes_lock);
    if (status != ACRE_OK) return status;
    gpu_ledger_pend(&h->ledger, e->category, 0, e->imported ? 0 : e->bytes);
    start_waiting(h, p);
    return ACRE_OK;
}

acre_status acre_cuda_free(acre_cuda *h, void *block, void *stream)
{
    if (unlikely(h == NULL)) return ACRE_INVALID_ARGUMENT;
    if (unlikely(block == NULL)) return ACRE_OK;
    cuda_stream *s;
    cuda_range *r;
    uint64_t offset;
    acre_status status = cuda_stream_get(h, stream, &s);
    if (unlikely(status != ACRE_OK)) return status;
    if (unlikely(!cuda_locate(h, block, &r, &offset))) return free_export(h, block, s);

    paged_block b;
    paged_failure failure;
    if (unlikely(paged_find(&r->pages, offset, &b) != ACRE_OK || b.tag & CUDA_TAG_PENDING))
        return ACRE_FOREIGN_POINTER;
    if (unlikely(b.asleep)) return free_asleep(h, r, &b);
    if (unlikely(b.tag & CUDA_TAG_USES || !is_home(r->lane, s))) return free_pending(h, r, offset, s);
    status = free_now(r, &b, &failure);
    if (unlikely(status != ACRE_OK)) return status == ACRE_DOUBLE_FREE ? ACRE_FOREIGN_POINTER : status;
    gpu_ledger_discharge(&h->ledger, b.category, 0, b.bytes);
    keep_events_going(h, s, b.bytes);
    return ACRE_OK;
}
