/* vk_ring: memory that a frame writes and the GPU reads once; the public face is acre/vulkan_stream.h.
 *
 * Positions count bytes and never go back, over all buffers that the ring ever had; a buffer covers positions from its
 * base on, position p lies at (p - base) % bytes in it. So a position is handed out once, and a thread that looks at a
 * buffer that was replaced meanwhile fails at its compare-and-exchange instead of taking somebody's bytes.
 *
 *      base                tail                 flushed            head
 *       |····· free ·······|▒▒ GPU may read ▒▒▒▒|▓▓ written now ▓▓▓|······· free ········|      head - tail <= bytes
 *
 * A frame is one entry in a queue: its point, its buffer, and the head when it ended. Entries leave the queue in order,
 * and take the tail with them. When the buffer is full and the ring may grow, it goes on in a new buffer of twice the
 * size; the old one is closed (a bit of its head, so that late exchanges fail) and destroyed when the frame that was
 * open at that time is done.
 *
 * A hit takes no lock. Everything else (ends of frames, full buffers, growth) goes through `gate`, which may be held
 * during driver calls because no hit needs it; it is the outermost of all locks (LOCK_RANK_GPU_STREAM).
 *
 * Gives up: a piece cannot be freed by itself, and what an early frame holds keeps all later frames' bytes, too. */
#include <string.h>

#include "acre/vulkan_stream.h"
#include "gpu/vk_hooks.h"
#include "page/arena.h"

#define BYTES_DEFAULT ((uint64_t)4 << 20)
#define BYTES_MIN 256
#define BYTES_MAX ((uint64_t)1 << 48) /* so that positions never reach the bit of CLOSED */
#define ALIGNMENT_DEFAULT 16
#define CLOSED ((uint64_t)1 << 63) /* of a head */

/* In use <=> handle != 0.
 *   base <= tail <= flushed <= head (without CLOSED) <= tail + bytes
 *   an old buffer is closed, and goes when frame number last_frame is done */
typedef struct ring_buffer {
    _Atomic uint64_t head; /* changed by anybody */
    _Atomic uint64_t tail; /* the rest: by who holds the gate */
    uint64_t base, bytes;
    uint64_t flushed;
    uint64_t last_frame;
    VkBuffer buffer;
    char *mapped;
    uint64_t handle;
} ring_buffer;

typedef struct ring_frame {
    acre_vk_point point;
    ring_buffer *buffer;
    uint64_t end;    /* head of `buffer` when the frame ended */
    uint64_t number;
} ring_frame;

struct acre_vk_ring {
    _Atomic(ring_buffer *) current; /* NULL after a trim, until the next piece */
    uint64_t alignment;             /* these four are set once */
    acre_vk *vk;
    acre_vk_ring_options options;
    char name[ACRE_GPU_NAME_MAX + 1];
    _Atomic uint64_t skipped_bytes, used_peak_bytes;

    _Alignas(ACRE_CACHE_LINE) lock gate; /* LOCK_RANK_GPU_STREAM; guards all below */
    uint64_t held_bytes, grown;
    uint64_t next_base;
    uint64_t open_frame;     /* number of the frame that is written now; those below it ended */
    uint32_t first, waiting; /* frames[(first + i) % FRAMES_MAX], 0 <= i < waiting, oldest first */
    ring_frame frames[ACRE_VK_RING_FRAMES_MAX];
    ring_buffer buffers[ACRE_VK_RING_BUFFERS_MAX];
};

static uint64_t head_of(const ring_buffer *b)
{
    return atomic_load_explicit(&b->head, memory_order_acquire) & ~CLOSED;
}
static uint64_t tail_of(const ring_buffer *b) { return atomic_load_explicit(&b->tail, memory_order_acquire); }

/* --- buffers ---------------------------------------------------------------------------------------------------- */

/* No position of it is handed out from now on, and the next buffer begins above them all. */
static void close_buffer(acre_vk_ring *r, ring_buffer *b)
{
    uint64_t head = atomic_fetch_or_explicit(&b->head, CLOSED, memory_order_acq_rel) & ~CLOSED;
    if (r->next_base <= head) r->next_base = head + 1;
}

/* Makes a buffer of `bytes` the current one. Gate held. */
static acre_status add_buffer(acre_vk_ring *r, uint64_t bytes)
{
    ring_buffer *b = r->buffers;
    while (b < r->buffers + ACRE_VK_RING_BUFFERS_MAX && b->handle != 0) b++;
    if (b == r->buffers + ACRE_VK_RING_BUFFERS_MAX) return ACRE_BUSY;

    const VkBufferCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = bytes, .usage = r->options.buffer_usage};
    VkBuffer buffer;
    acre_vk_allocation allocation;
    acre_status status = acre_vk_create_buffer(r->vk, &info, &r->options.request, &buffer, &allocation);
    if (status != ACRE_OK) return status;

    ring_buffer *old = atomic_load_explicit(&r->current, memory_order_relaxed);
    if (old != NULL) {
        close_buffer(r, old);
        old->last_frame = r->open_frame;
    }
    b->base = r->next_base;
    b->bytes = bytes;
    b->flushed = b->base;
    b->buffer = buffer;
    b->mapped = allocation.mapped;
    b->handle = allocation.handle;
    atomic_store_explicit(&b->tail, b->base, memory_order_relaxed);
    atomic_store_explicit(&b->head, b->base, memory_order_release);
    r->held_bytes += bytes;
    r->grown += bytes > r->options.bytes;
    atomic_store_explicit(&r->current, b, memory_order_release);
    return ACRE_OK;
}

/* The GPU is done with it. */
static void drop_buffer(acre_vk_ring *r, ring_buffer *b)
{
    acre_vk_destroy_buffer(r->vk, b->buffer, b->handle);
    r->held_bytes -= b->bytes;
    b->handle = 0;
    b->buffer = VK_NULL_HANDLE;
}

/* The current buffer goes if nothing of it is in use; closed in the same step that sees so. */
static bool drop_current(acre_vk_ring *r, ring_buffer *b)
{
    uint64_t head = tail_of(b);
    if (!atomic_compare_exchange_strong(&b->head, &head, head | CLOSED)) return false;
    close_buffer(r, b);
    atomic_store_explicit(&r->current, NULL, memory_order_release);
    drop_buffer(r, b);
    return true;
}

/* --- frames ----------------------------------------------------------------------------------------------------- */

/* The oldest frame is done. */
static void retire_frame(acre_vk_ring *r)
{
    ring_frame *f = &r->frames[r->first];
    atomic_store_explicit(&f->buffer->tail, f->end, memory_order_release);
    uint64_t number = f->number;
    r->first = (r->first + 1) % ACRE_VK_RING_FRAMES_MAX;
    r->waiting--;
    ring_buffer *current = atomic_load_explicit(&r->current, memory_order_relaxed);
    for (ring_buffer *b = r->buffers; b < r->buffers + ACRE_VK_RING_BUFFERS_MAX; b++)
        if (b->handle != 0 && b != current && b->last_frame <= number) drop_buffer(r, b);
}

/* Frees what the GPU is done with; one question per timeline or fence. True: something is free now. */
static bool retire_frames(acre_vk_ring *r)
{
    bool any = false;
    vk_point_answer answer = {VK_NULL_HANDLE, 0};
    while (r->waiting > 0 && vk_point_passed(r->vk, &r->frames[r->first].point, &answer)) {
        retire_frame(r);
        any = true;
    }
    return any;
}

static bool same_point(const acre_vk_point *a, const acre_vk_point *b)
{
    if (a->fence != b->fence || a->semaphore != b->semaphore) return false;
    return a->semaphore == VK_NULL_HANDLE || a->value <= b->value;
}

/* [from, to) of positions, in the one or two ranges that they are. */
static acre_status flush_buffer(acre_vk_ring *r, ring_buffer *b)
{
    uint64_t from = b->flushed, to = head_of(b);
    if (from == to) return ACRE_OK;
    acre_vk_range ranges[2];
    uint64_t at = (from - b->base) % b->bytes, bytes = to - from;
    uint64_t before_end = bytes < b->bytes - at ? bytes : b->bytes - at;
    uint32_t count = 1;
    ranges[0] = (acre_vk_range){b->handle, at, before_end};
    if (bytes > before_end) ranges[count++] = (acre_vk_range){b->handle, 0, bytes - before_end};
    acre_status status = acre_vk_flush_ranges(r->vk, ranges, count);
    if (status == ACRE_OK) b->flushed = to;
    return status;
}

static acre_status flush_all(acre_vk_ring *r)
{
    acre_status status = ACRE_OK;
    for (ring_buffer *b = r->buffers; b < r->buffers + ACRE_VK_RING_BUFFERS_MAX && status == ACRE_OK; b++)
        if (b->handle != 0) status = flush_buffer(r, b);
    return status;
}

/* --- pieces ----------------------------------------------------------------------------------------------------- */

typedef enum taken { TAKEN, FULL, REPLACED } taken;

/* The hit. */
static inline taken take(acre_vk_ring *r, ring_buffer *b, uint64_t size, uint64_t alignment, acre_vk_piece *piece)
{
    uint64_t head = atomic_load_explicit(&b->head, memory_order_acquire);
    for (;;) {
        if (unlikely(head & CLOSED)) return REPLACED;
        uint64_t at = (head - b->base) % b->bytes, offset = align_up(at, alignment), start = head + (offset - at);
        if (unlikely(offset + size > b->bytes)) { /* does not fit before the end: goes to the front */
            start = head + (b->bytes - at);
            offset = 0;
        }
        if (unlikely(start + size > tail_of(b) + b->bytes)) return FULL;
        if (likely(atomic_compare_exchange_weak_explicit(&b->head, &head, start + size, memory_order_acq_rel,
                                                         memory_order_acquire))) {
            if (unlikely(offset == 0 && at != 0))
                atomic_fetch_add_explicit(&r->skipped_bytes, b->bytes - at, memory_order_relaxed);
            *piece = (acre_vk_piece){b->buffer, offset, size, b->mapped + offset};
            return TAKEN;
        }
    }
}

/* Bytes that the next buffer should have, or 0: it may not grow so far. */
static uint64_t larger(const acre_vk_ring *r, const ring_buffer *current, uint64_t size)
{
    uint64_t left = r->options.bytes_max - r->held_bytes;
    uint64_t bytes = current != NULL ? current->bytes * 2 : r->options.bytes;
    while (bytes < size) bytes *= 2;
    if (bytes > left) bytes = left;
    /* A buffer hardly larger than the present one would not help for long, unless the piece asks for it. */
    bool helps = current == NULL || bytes >= current->bytes || size > current->bytes;
    return bytes >= size && helps ? bytes : 0;
}

static acre_status alloc_slow(acre_vk_ring *r, uint64_t size, uint64_t alignment, acre_vk_piece *piece)
{
    lock_acquire(&r->gate);
    acre_status status = ACRE_OK;
    for (;;) {
        ring_buffer *b = atomic_load_explicit(&r->current, memory_order_acquire);
        if (b != NULL && size <= b->bytes && take(r, b, size, alignment, piece) == TAKEN) break;
        if (retire_frames(r)) continue;
        /* An empty buffer whose head stands where a large piece does not fit: start it anew. */
        if (b != NULL && size <= b->bytes && head_of(b) == tail_of(b) && head_of(b) == b->flushed) {
            uint64_t head = head_of(b), front = b->base + ((head - b->base) / b->bytes + 1) * b->bytes;
            if (atomic_compare_exchange_strong(&b->head, &head, front)) {
                b->flushed = front;
                atomic_store_explicit(&b->tail, front, memory_order_release);
            }
            if ((head - b->base) % b->bytes != 0) continue;
        }
        uint64_t bytes = larger(r, b, size);
        /* Room for both is not, but nothing is in the present one. */
        if (bytes == 0 && b != NULL && size > b->bytes && drop_current(r, b)) continue;
        status = bytes == 0 ? ACRE_BUSY : add_buffer(r, bytes);
        if (status != ACRE_OK) break;
    }
    lock_release(&r->gate);
    return status;
}

acre_status acre_vk_ring_alloc(acre_vk_ring *ring, VkDeviceSize size, VkDeviceSize alignment, acre_vk_piece *piece)
{
    if (unlikely(ring == NULL || piece == NULL || size == 0 || (alignment & (alignment - 1)) != 0))
        return ACRE_INVALID_ARGUMENT;
    if (alignment < ring->alignment) alignment = ring->alignment;
    ring_buffer *b = atomic_load_explicit(&ring->current, memory_order_acquire);
    if (likely(b != NULL && size <= b->bytes && take(ring, b, size, alignment, piece) == TAKEN)) return ACRE_OK;
    if (size > ring->options.bytes_max) return ACRE_TOO_LARGE;
    return alloc_slow(ring, size, alignment, piece);
}

/* --- the rest of the interface ---------------------------------------------------------------------------------- */

static uint64_t used_bytes(const acre_vk_ring *r)
{
    uint64_t used = 0;
    for (const ring_buffer *b = r->buffers; b < r->buffers + ACRE_VK_RING_BUFFERS_MAX; b++)
        if (b->handle != 0) used += head_of(b) - tail_of(b);
    return used;
}

acre_status acre_vk_ring_create(acre_vk *vk, const acre_vk_ring_options *options, acre_vk_ring **ring)
{
    if (vk == NULL || options == NULL || ring == NULL) return ACRE_INVALID_ARGUMENT;
    acre_vk_ring_options o = *options;
    if (o.bytes == 0) o.bytes = BYTES_DEFAULT;
    if (o.bytes > BYTES_MAX) return ACRE_TOO_LARGE;
    o.bytes = align_up(o.bytes, BYTES_MIN);
    if (o.bytes_max == 0) o.bytes_max = o.bytes;
    if (o.bytes_max > BYTES_MAX) o.bytes_max = BYTES_MAX;
    if (o.alignment == 0) o.alignment = ALIGNMENT_DEFAULT;
    if (o.buffer_usage == 0) o.buffer_usage = VK_BUFFER_USAGE_TRANSFER_SRC_BIT;
    if (o.request.usage == ACRE_VK_GPU) o.request.usage = ACRE_VK_UPLOAD;
    o.request.flags |= ACRE_VK_MAPPED;
    if (o.bytes_max < o.bytes || !is_power_of_two(o.alignment)) return ACRE_INVALID_ARGUMENT;

    acre_vk_ring *r = arena_alloc(sizeof *r);
    if (r == NULL) return ACRE_NO_MEMORY;
    r->vk = vk;
    r->alignment = o.alignment;
    if (o.request.name != NULL) {
        strncpy(r->name, o.request.name, ACRE_GPU_NAME_MAX);
        o.request.name = r->name;
    }
    r->options = o;
    acre_status status = add_buffer(r, o.bytes);
    if (status != ACRE_OK) {
        arena_free(r, sizeof *r);
        return status;
    }
    *ring = r;
    return ACRE_OK;
}

void acre_vk_ring_destroy(acre_vk_ring *ring)
{
    if (ring == NULL) return;
    for (ring_buffer *b = ring->buffers; b < ring->buffers + ACRE_VK_RING_BUFFERS_MAX; b++)
        if (b->handle != 0) drop_buffer(ring, b);
    arena_free(ring, sizeof *ring);
}

acre_status acre_vk_ring_flush(acre_vk_ring *ring)
{
    if (ring == NULL) return ACRE_INVALID_ARGUMENT;
    lock_acquire(&ring->gate);
    acre_status status = flush_all(ring);
    lock_release(&ring->gate);
    return status;
}

static acre_status end_frame(acre_vk_ring *r, const acre_vk_point *point)
{
    acre_status status = flush_all(r);
    if (status != ACRE_OK) return status;
    uint64_t used = used_bytes(r);
    if (used > atomic_load_explicit(&r->used_peak_bytes, memory_order_relaxed))
        atomic_store_explicit(&r->used_peak_bytes, used, memory_order_relaxed);
    retire_frames(r);

    ring_buffer *b = atomic_load_explicit(&r->current, memory_order_relaxed);
    bool closed_some = false;
    for (ring_buffer *old = r->buffers; old < r->buffers + ACRE_VK_RING_BUFFERS_MAX; old++)
        if (old->handle != 0 && old != b && old->last_frame == r->open_frame) closed_some = true;
    uint64_t begun = b == NULL ? 0 : tail_of(b);
    if (r->waiting > 0) {
        const ring_frame *last = &r->frames[(r->first + r->waiting - 1) % ACRE_VK_RING_FRAMES_MAX];
        if (last->buffer == b) begun = last->end;
    }
    if (b == NULL || (head_of(b) == begun && !closed_some)) return ACRE_OK; /* nothing was allocated */
    if (r->waiting == ACRE_VK_RING_FRAMES_MAX) return ACRE_BUSY;
    r->frames[(r->first + r->waiting++) % ACRE_VK_RING_FRAMES_MAX] =
        (ring_frame){*point, b, head_of(b), r->open_frame++};
    return ACRE_OK;
}

acre_status acre_vk_ring_frame_end(acre_vk_ring *ring, const acre_vk_point *point)
{
    if (ring == NULL || point == NULL) return ACRE_INVALID_ARGUMENT;
    if ((point->fence == VK_NULL_HANDLE) == (point->semaphore == VK_NULL_HANDLE)) return ACRE_INVALID_ARGUMENT;
    lock_acquire(&ring->gate);
    acre_status status = end_frame(ring, point);
    lock_release(&ring->gate);
    return status;
}

/* Frames are done in the order of their submission; when a later one is, those before it are, too. */
acre_status acre_vk_ring_passed(acre_vk_ring *ring, const acre_vk_point *point)
{
    if (ring == NULL || point == NULL) return ACRE_INVALID_ARGUMENT;
    lock_acquire(&ring->gate);
    uint32_t done = 0;
    for (uint32_t i = 0; i < ring->waiting; i++)
        if (same_point(&ring->frames[(ring->first + i) % ACRE_VK_RING_FRAMES_MAX].point, point)) done = i + 1;
    while (done-- > 0) retire_frame(ring);
    lock_release(&ring->gate);
    return ACRE_OK;
}

acre_status acre_vk_ring_wait(acre_vk_ring *ring, uint64_t timeout_ns)
{
    if (ring == NULL) return ACRE_INVALID_ARGUMENT;
    lock_acquire(&ring->gate);
    bool none = ring->waiting == 0, done = retire_frames(ring);
    acre_vk_point point = ring->frames[ring->first].point;
    lock_release(&ring->gate);
    if (none || done) return ACRE_OK;

    acre_status status = vk_point_wait(ring->vk, &point, timeout_ns); /* without the gate: others go on */
    if (status != ACRE_OK) return status;
    lock_acquire(&ring->gate);
    retire_frames(ring);
    lock_release(&ring->gate);
    return ACRE_OK;
}

acre_status acre_vk_ring_trim(acre_vk_ring *ring)
{
    if (ring == NULL) return ACRE_INVALID_ARGUMENT;
    lock_acquire(&ring->gate);
    retire_frames(ring);
    ring_buffer *b = atomic_load_explicit(&ring->current, memory_order_relaxed);
    if (b != NULL && b->bytes > ring->options.bytes) drop_current(ring, b);
    lock_release(&ring->gate);
    return ACRE_OK;
}

acre_status acre_vk_ring_get_stats(acre_vk_ring *ring, acre_vk_ring_stats *stats)
{
    if (ring == NULL || stats == NULL) return ACRE_INVALID_ARGUMENT;
    lock_acquire(&ring->gate);
    uint64_t used = used_bytes(ring), peak = atomic_load_explicit(&ring->used_peak_bytes, memory_order_relaxed);
    *stats = (acre_vk_ring_stats){
        .held_bytes = ring->held_bytes,
        .used_bytes = used,
        .used_peak_bytes = used > peak ? used : peak,
        .skipped_bytes = atomic_load_explicit(&ring->skipped_bytes, memory_order_relaxed),
        .grown = ring->grown,
        .frames_waiting = ring->waiting,
    };
    for (ring_buffer *b = ring->buffers; b < ring->buffers + ACRE_VK_RING_BUFFERS_MAX; b++)
        stats->buffers += b->handle != 0;
    lock_release(&ring->gate);
    return ACRE_OK;
}
