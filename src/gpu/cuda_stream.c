/* cuda_stream: what is known of each stream, and how the heap learns that the GPU has come to a point of it.
 *
 *   points    1 2 3 4 5 6 7 8 9        one per free that may be waited for; nothing is recorded for it
 *             ────────────┬─────
 *                         │ recorded = 6: an event is under way that stands for all up to here
 *             passed = 3 ─┘
 *
 * There is one event per stream. When it has been passed, and there are points beyond, the next question records it
 * anew: so recording costs once per time that the GPU needs, however many blocks are freed meanwhile, and nothing
 * while nobody asks. An event that is recorded later than the free stands for more work than it had to: safe.
 *
 * Records of streams are found without a lock, through a small table by handle, and live as long as the heap. A stream
 * that the program destroys (acre_cuda_stream_done) leaves its record, with its lanes, to the next new stream, once
 * its last event has been passed. */
#include <string.h>

#include "gpu/cuda_heap.h"
#include "page/arena.h"

static uint32_t slot_of(const void *handle)
{
    uint64_t x = (uint64_t)(uintptr_t)handle * 0x9E3779B97F4A7C15u;
    return (uint32_t)(x >> 58);
}
_Static_assert(CUDA_STREAM_CACHE == 64, "slot_of has six bits");

/* --- events: all under the stream's lock ------------------------------------------------------------------------- */

static bool is_under_way(const cuda_stream *s) { return atomic_load_explicit(&s->under_way, memory_order_relaxed); }

/* False: *failure. Not being passed yet is an answer. */
static bool ask(acre_cuda *h, cuda_stream *s, bool wait, paged_failure *failure)
{
    CUresult result = wait ? h->driver.event_wait(s->event) : h->driver.event_query(s->event);
    if (result == CUDA_ERROR_NOT_READY) return true;
    const char *call = wait ? "cuEventSynchronize" : "cuEventQuery";
    if (cuda_answer(h, result, call, failure) != ACRE_OK) return false;
    atomic_store_explicit(&s->under_way, false, memory_order_relaxed);
    atomic_store_explicit(&s->passed, s->recorded, memory_order_release);
    return true;
}

/* The last event of a stream that is gone stands for every point, whenever it was given out. */
static bool is_over(cuda_stream *s)
{
    if (is_under_way(s) || !atomic_load_explicit(&s->gone, memory_order_acquire)) return false;
    atomic_store_explicit(&s->passed, atomic_load_explicit(&s->points, memory_order_acquire), memory_order_release);
    return true;
}

/* A stream that is being captured must not see an event: it would become part of the graph. */
static bool record(acre_cuda *h, cuda_stream *s, paged_failure *failure)
{
    CUstream stream = atomic_load_explicit(&s->handle, memory_order_relaxed);
    int status = CU_STREAM_CAPTURE_STATUS_NONE;
    CUresult answer = CUDA_SUCCESS;
    if (h->driver.stream_capturing != NULL) answer = h->driver.stream_capturing(stream, &status);
    /* The default stream says so while a stream is captured that it is ordered with. */
    if (answer == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT) status = CU_STREAM_CAPTURE_STATUS_ACTIVE;
    else if (cuda_answer(h, answer, "cuStreamIsCapturing", failure) != ACRE_OK) return false;
    if (status != CU_STREAM_CAPTURE_STATUS_NONE) {
        *failure = (paged_failure){.status = ACRE_BUSY};
        return false;
    }
    /* The number first: work of points that come now may be in front of the event, or not. */
    uint64_t points = atomic_load_explicit(&s->points, memory_order_acquire);
    if (cuda_answer(h, h->driver.event_record(s->event, stream), "cuEventRecord", failure) != ACRE_OK) return false;
    s->recorded = points;
    atomic_store_explicit(&s->under_way, true, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->events_recorded, 1, memory_order_relaxed);
    return true;
}

static bool wants_event(const cuda_stream *s)
{
    return !is_under_way(s) && !atomic_load_explicit(&s->gone, memory_order_relaxed) &&
           atomic_load_explicit(&s->points, memory_order_relaxed) >
               atomic_load_explicit(&s->passed, memory_order_relaxed);
}

static bool poll_locked(acre_cuda *h, cuda_stream *s, paged_failure *failure)
{
    cuda_scope scope;
    if (is_over(s) || (!is_under_way(s) && !wants_event(s))) return true;
    if (!cuda_enter(h, &scope, failure)) return false;
    bool asked = !is_under_way(s) || ask(h, s, false, failure);
    if (asked && !is_over(s) && wants_event(s)) asked = record(h, s, failure);
    cuda_leave(h, &scope);
    return asked;
}

bool cuda_stream_is_due(const cuda_stream *s)
{
    return !is_under_way(s) || atomic_load_explicit(&s->polled_ms, memory_order_relaxed) != os_now_ms();
}

bool cuda_stream_poll(acre_cuda *h, cuda_stream *s, paged_failure *failure)
{
    /* Somebody asks or waits already: what he learns is in `passed`. */
    if (!lock_try(&s->lock)) return true;
    bool asked = poll_locked(h, s, failure);
    lock_release(&s->lock);
    atomic_store_explicit(&s->polled_ms, os_now_ms(), memory_order_relaxed);
    return asked;
}

bool cuda_stream_wait(acre_cuda *h, cuda_stream *s, uint64_t point, paged_failure *failure)
{
    if (cuda_stream_passed(s, point)) return true;
    bool done = true;
    cuda_scope scope;
    lock_acquire(&s->lock);
    if (cuda_enter(h, &scope, failure)) {
        while (done && !cuda_stream_passed(s, point)) {
            if (is_under_way(s)) done = ask(h, s, true, failure);
            else if (!is_over(s)) done = record(h, s, failure);
        }
        cuda_leave(h, &scope);
    } else {
        done = false;
    }
    lock_release(&s->lock);
    return done;
}

uint64_t cuda_stream_point(cuda_stream *s)
{
    /* Of a stream that is gone, the last event stands for everything. */
    if (unlikely(atomic_load_explicit(&s->gone, memory_order_acquire)))
        return atomic_load_explicit(&s->points, memory_order_relaxed);
    return atomic_fetch_add_explicit(&s->points, 1, memory_order_release) + 1;
}

bool cuda_streams_wait(acre_cuda *h, paged_failure *failure)
{
    bool all = true;
    uint32_t count = atomic_load_explicit(&h->stream_count, memory_order_acquire);
    for (uint32_t i = 0; i < count; i++) {
        cuda_stream *s = atomic_load_explicit(&h->streams[i], memory_order_relaxed);
        all &= cuda_stream_wait(h, s, cuda_stream_point(s), failure);
    }
    return all;
}

acre_status cuda_stream_end(acre_cuda *h, cuda_stream *s, paged_failure *failure)
{
    cuda_scope scope;
    acre_status status = ACRE_OK;
    lock_acquire(&s->lock);
    if (!cuda_enter(h, &scope, failure)) {
        status = failure->status;
    } else {
        atomic_fetch_add_explicit(&s->points, 1, memory_order_release);
        /* What is under way needs no second look: the new record stands for it, too. */
        if (!record(h, s, failure)) status = failure->status;
        cuda_leave(h, &scope);
    }
    if (status == ACRE_OK) {
        atomic_store_explicit(&s->gone, true, memory_order_release);
        atomic_store_explicit(&s->handle, CUDA_NO_STREAM, memory_order_release);
    }
    lock_release(&s->lock);
    return status;
}

/* --- records ----------------------------------------------------------------------------------------------------- */

static cuda_stream *search(acre_cuda *h, void *handle)
{
    uint32_t count = atomic_load_explicit(&h->stream_count, memory_order_acquire);
    for (uint32_t i = 0; i < count; i++) {
        cuda_stream *s = atomic_load_explicit(&h->streams[i], memory_order_relaxed);
        if (atomic_load_explicit(&s->handle, memory_order_acquire) == handle) return s;
    }
    return NULL;
}

cuda_stream *cuda_stream_look_up(acre_cuda *h, void *handle)
{
    _Atomic(cuda_stream *) *slot = &h->stream_cache[slot_of(handle)];
    cuda_stream *s = atomic_load_explicit(slot, memory_order_acquire);
    if (likely(s != NULL && atomic_load_explicit(&s->handle, memory_order_relaxed) == handle)) return s;
    s = search(h, handle);
    if (s != NULL) atomic_store_explicit(slot, s, memory_order_release);
    return s;
}

/* Under lanes_lock. The record of a stream that is gone and done, with its lanes. */
static cuda_stream *inherit(acre_cuda *h, void *handle)
{
    uint32_t count = atomic_load_explicit(&h->stream_count, memory_order_relaxed);
    for (uint32_t i = 0; i < count; i++) {
        cuda_stream *s = atomic_load_explicit(&h->streams[i], memory_order_relaxed);
        paged_failure failure;
        if (!atomic_load_explicit(&s->gone, memory_order_acquire)) continue;
        cuda_stream_poll(h, s, &failure);
        lock_acquire(&s->lock);
        bool done = is_over(s);
        if (done) {
            atomic_store_explicit(&s->handle, handle, memory_order_release);
            atomic_store_explicit(&s->gone, false, memory_order_release);
        }
        lock_release(&s->lock);
        if (done) return s;
    }
    return NULL;
}

static acre_status make(acre_cuda *h, void *handle, cuda_stream **stream)
{
    uint32_t count = atomic_load_explicit(&h->stream_count, memory_order_relaxed);
    if (count == CUDA_STREAMS_MAX) return ACRE_NO_MEMORY;
    cuda_stream *s = arena_alloc(sizeof *s);
    if (s == NULL) return ACRE_NO_MEMORY;
    paged_failure failure = {0};
    cuda_scope scope;
    acre_status status = ACRE_OK;
    if (!cuda_enter(h, &scope, &failure)) {
        status = failure.status;
    } else {
        CUresult result = h->driver.event_create(&s->event, CU_EVENT_DISABLE_TIMING);
        status = cuda_answer(h, result, "cuEventCreate", &failure);
        cuda_leave(h, &scope);
    }
    if (status != ACRE_OK) {
        arena_free(s, sizeof *s);
        return status;
    }
    s->index = count;
    atomic_store_explicit(&s->handle, handle, memory_order_relaxed);
    atomic_store_explicit(&h->streams[count], s, memory_order_relaxed);
    atomic_store_explicit(&h->stream_count, count + 1, memory_order_release);
    *stream = s;
    return ACRE_OK;
}

acre_status cuda_stream_get(acre_cuda *h, void *handle, cuda_stream **stream)
{
    *stream = cuda_stream_look_up(h, handle);
    if (likely(*stream != NULL)) return ACRE_OK;
    if (handle == (void *)CU_STREAM_PER_THREAD || handle == CUDA_NO_STREAM) return ACRE_INVALID_ARGUMENT;
    acre_status status = ACRE_OK;
    lock_acquire(&h->lanes_lock);
    *stream = search(h, handle);
    if (*stream == NULL) *stream = inherit(h, handle);
    if (*stream == NULL) status = make(h, handle, stream);
    lock_release(&h->lanes_lock);
    return status;
}

void cuda_streams_destroy(acre_cuda *h)
{
    uint32_t count = atomic_load_explicit(&h->stream_count, memory_order_relaxed);
    cuda_scope scope;
    paged_failure failure;
    bool entered = count != 0 && (cuda_enter(h, &scope, &failure) || cuda_enter(h, &scope, &failure));
    for (uint32_t i = 0; i < count; i++) {
        cuda_stream *s = atomic_load_explicit(&h->streams[i], memory_order_relaxed);
        /* Twice: an event that is left costs the program memory for ever. */
        if (entered && h->driver.event_destroy(s->event) != CUDA_SUCCESS)
            (void)cuda_answer(h, h->driver.event_destroy(s->event), "cuEventDestroy_v2", NULL);
        arena_free(s, sizeof *s);
    }
    if (entered) cuda_leave(h, &scope);
    atomic_store_explicit(&h->stream_count, 0, memory_order_relaxed);
}
