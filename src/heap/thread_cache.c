/* thread_cache: see thread_cache.h. */
#include "heap/thread_cache.h"

#include <string.h>

#include "heap/background.h"
#include "heap/heap.h"
#include "page/arena.h"

enum { SLOTS_FIRST = 8, SLOTS_MAX = 2048, FULL_SIZE_MAX = 256 };
enum { AGE_EVERY = 256, EFFORT_MAX = 8, DRAIN_CLASSES = 4, THREADS_FREE = 8 };

void thread_cache_init(thread_cache *tc, acre_heap *heap, bool observed)
{
    tc->heap = heap;
    tc->medium_owner = &heap->medium;
    tc->ticked_ms = os_now_ms();
    medium_cache_init(&tc->medium, heap->thread_bytes_max);
    tc->real = observed ? &tc->shadow : &tc->hit;
    _Static_assert(sizeof tc->class_of <= sizeof heap->sizes->of_eighths, "a part of the table");
    memcpy(tc->class_of, heap->sizes->of_eighths, sizeof tc->class_of);
}

/* --- magazines --------------------------------------------------------------------------------------------------- */

static uint32_t slots_of(const magazines *m, uint32_t c) { return (uint32_t)(m->end[c] - m->bottom[c]); }
static uint32_t blocks_in(const magazines *m, uint32_t c) { return (uint32_t)(m->top[c] - m->bottom[c]); }

/* Many threads share what few may have: sixty-four that each kept 64 KiB of each size would hold 200 MB. Where they are
 * more than can run at once, most of them sleep, and what a sleeper keeps nobody uses. */
static uint32_t share_of(const thread_cache *tc)
{
    uint32_t threads = atomic_load_explicit(&tc->heap->cache_count, memory_order_relaxed);
    if (threads < THREADS_FREE) return 1;
    uint32_t share = 1 + threads / THREADS_FREE, turns = threads / os_cpu_count();
    return turns > share ? turns : share;
}

/* The smallest blocks come in the longest bursts, a thousand nodes of a tree. Of larger ones half as many bytes are
 * enough: a miss is little beside what the program does with such a block. One thread alone keeps from nobody. */
static uint32_t slots_max(const thread_cache *tc, uint32_t c)
{
    uint32_t share = share_of(tc);
    uint32_t least = share > 2 ? SLOTS_FIRST / 2 : SLOTS_FIRST;
    size_t size = tc->heap->sizes->size[c];
    bool alone = atomic_load_explicit(&tc->heap->cache_count, memory_order_relaxed) <= 1;
    size_t n = tc->heap->magazine_bytes_max / share / (alone || size <= FULL_SIZE_MAX ? size : 2 * size);
    return n > SLOTS_MAX ? SLOTS_MAX : n < least ? least : (uint32_t)n;
}

/* Doubles the magazine, up to what the heap allows. False: it stays. */
static bool grow(thread_cache *tc, uint32_t c)
{
    magazines *m = tc->real;
    uint32_t before = slots_of(m, c), after = before ? before * 2 : SLOTS_FIRST, most = slots_max(tc, c);
    if (after > most) after = most;
    if (after <= before) return false;
    void **slots = arena_alloc(after * sizeof *slots);
    if (!slots) return false;
    uint32_t n = blocks_in(m, c);
    if (n) memcpy(slots, m->bottom[c], n * sizeof *slots);
    arena_free(m->bottom[c], before * sizeof *slots);
    m->bottom[c] = slots;
    m->top[c] = slots + n;
    m->end[c] = slots + after;
    return true;
}

static void drop_slots(magazines *m, uint32_t c)
{
    arena_free(m->bottom[c], slots_of(m, c) * sizeof(void *));
    m->bottom[c] = m->top[c] = m->end[c] = NULL;
}

/* Returns the `count` blocks that have been in the magazine longest. */
static void flush_oldest(thread_cache *tc, uint32_t c, uint32_t count)
{
    magazines *m = tc->real;
    uint32_t n = blocks_in(m, c);
    tc->counters.flushes[fsa_kind_of(tc->heap->sizes, c)]++;
    fsa_return(&tc->heap->fsa, c, m->bottom[c], count);
    if (n > count) memmove(m->bottom[c], m->bottom[c] + count, (n - count) * sizeof(void *));
    m->top[c] -= count;
}

static void count_miss(thread_cache *tc, uint32_t c)
{
    tc->missed |= (uint64_t)1 << c;
    tc->class_misses[c]++;
    if (++tc->misses >= AGE_EVERY) thread_cache_age(tc);
    uint64_t now = os_now_ms();
    if (now - tc->ticked_ms < tc->heap->policy.delay_ms / 8 + 1) return;
    /* The longer nothing was aged, the more there may be. */
    uint64_t effort = (now - tc->ticked_ms) / (tc->heap->policy.delay_ms / 8 + 1);
    tc->ticked_ms = now;
    if (effort > EFFORT_MAX) effort = EFFORT_MAX;
    thread_cache_drain(tc, DRAIN_CLASSES * (uint32_t)effort);
    heap_tick(tc->heap, tc->heap->policy.delay_ms, (uint32_t)effort);
    background_start(); /* again, in the child of a fork */
}

void *thread_cache_take(thread_cache *tc, uint32_t c)
{
    magazines *m = tc->real;
    if (m->top[c] == m->bottom[c]) {
        count_miss(tc, c);
        if (m->top[c] != m->bottom[c]) return *--m->top[c]; /* it started a thread, and that allocated */
        grow(tc, c);
        uint32_t slots = slots_of(m, c);
        if (slots == 0) { /* no metadata to be had: do without a magazine */
            void *block;
            return fsa_refill(&tc->heap->fsa, c, &tc->source[c], &block, 1) ? block : NULL;
        }
        tc->counters.refills[fsa_kind_of(tc->heap->sizes, c)]++;
        m->top[c] = m->bottom[c] + fsa_refill(&tc->heap->fsa, c, &tc->source[c], m->bottom[c], (slots + 1) / 2);
        if (m->top[c] == m->bottom[c]) return NULL;
    }
    return *--m->top[c];
}

void thread_cache_put(thread_cache *tc, uint32_t c, void *block)
{
    magazines *m = tc->real;
    if (m->top[c] == m->end[c]) {
        count_miss(tc, c);
        if (m->top[c] == m->end[c] && !grow(tc, c)) {
            uint32_t n = blocks_in(m, c);
            if (n == 0) {
                fsa_return(&tc->heap->fsa, c, &block, 1);
                return;
            }
            flush_oldest(tc, c, (n + 1) / 2);
        }
    }
    *m->top[c]++ = block;
}

/* --- all of it -------------------------------------------------------------------------------------------------- */

void thread_cache_flush(thread_cache *tc)
{
    magazines *m = tc->real;
    for (uint32_t c = 1; c <= tc->heap->sizes->count; c++) {
        uint32_t n = blocks_in(m, c);
        if (n) flush_oldest(tc, c, n);
        if (m->bottom[c]) drop_slots(m, c);
        fsa_detach(&tc->heap->fsa, c, &tc->source[c]);
    }
    medium_cache_give(&tc->medium, MEDIUM_CACHE_ENTRIES);
}

void thread_cache_age(thread_cache *tc)
{
    magazines *m = tc->real;
    for (uint32_t c = 1; c <= tc->heap->sizes->count; c++) {
        if ((tc->missed >> c) & 1) continue;
        uint32_t n = blocks_in(m, c);
        if (n > SLOTS_FIRST) flush_oldest(tc, c, n / 2);
    }
    tc->missed = 0;
    tc->misses = 0;
}

void thread_cache_drain(thread_cache *tc, uint32_t classes)
{
    magazines *m = tc->real;
    for (uint32_t i = 0; i < classes; i++) {
        uint32_t c = tc->drain_next = tc->drain_next % tc->heap->sizes->count + 1;
        uint32_t activity = (uint32_t)tc->class_misses[c] << 16 | blocks_in(m, c);
        bool idle = activity == tc->activity[c];
        tc->activity[c] = activity;
        if (!idle || !m->bottom[c]) continue;
        if (blocks_in(m, c)) flush_oldest(tc, c, blocks_in(m, c));
        drop_slots(m, c);
        fsa_detach(&tc->heap->fsa, c, &tc->source[c]);
        fsa_idle(&tc->heap->fsa, c);
    }
    /* Of larger blocks the oldest, when none came or went since the last look. */
    size_t bytes = medium_cache_bytes(&tc->medium);
    if (bytes == tc->medium_bytes_seen && medium_cache_give(&tc->medium, 1)) {
        bytes = medium_cache_bytes(&tc->medium);
        medium_cache_shrink(&tc->medium);
    }
    tc->medium_bytes_seen = bytes;
}

void thread_cache_count(const thread_cache *tc, uint64_t *blocks, size_t *medium_bytes)
{
    for (uint32_t c = 1; c <= tc->heap->sizes->count; c++)
        blocks[c] += blocks_in(tc->real, c) + bits_count(tc->source[c].pending);
    *medium_bytes += medium_cache_bytes(&tc->medium);
}

bool thread_cache_check(const thread_cache *tc)
{
    const magazines *m = tc->real;
    bool ok = m->top[0] == NULL && m->end[0] == NULL;
    for (uint32_t c = 1; c <= tc->heap->sizes->count; c++) {
        ok = ok && m->bottom[c] <= m->top[c] && m->top[c] <= m->end[c];
        for (void **slot = m->bottom[c]; ok && slot < m->top[c]; slot++)
            ok = space_contains(*slot) && fsa_is_block(tc->heap->sizes, c, *slot) &&
                 !fsa_is_free(tc->heap->sizes, c, *slot);
        fsa_source s = tc->source[c];
        ok = ok && (!s.page || fsa_record(s.page)->state == PAGE_ATTACHED);
        ok = ok && (!s.fresh || fsa_record(s.fresh)->state == PAGE_ATTACHED);
    }
    return ok && medium_cache_check(&tc->medium);
}
