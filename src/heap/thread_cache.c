/* thread_cache: see thread_cache.h. */
#include "heap/thread_cache.h"

#include <string.h>

#include "heap/heap.h"
#include "page/arena.h"

enum { SLOTS_FIRST = 8, SLOTS_MAX = 512, AGE_EVERY = 256 };

void thread_cache_init(thread_cache *tc, acre_heap *heap, bool observed)
{
    tc->heap = heap;
    tc->real = observed ? &tc->shadow : &tc->hit;
    _Static_assert(sizeof tc->class_of <= sizeof heap->sizes->of_eighths, "a part of the table");
    memcpy(tc->class_of, heap->sizes->of_eighths, sizeof tc->class_of);
}

/* --- magazines --------------------------------------------------------------------------------------------------- */

static uint32_t slots_of(const magazines *m, uint32_t c) { return (uint32_t)(m->end[c] - m->bottom[c]); }
static uint32_t blocks_in(const magazines *m, uint32_t c) { return (uint32_t)(m->top[c] - m->bottom[c]); }

static uint32_t slots_max(const thread_cache *tc, uint32_t c)
{
    size_t n = tc->heap->magazine_bytes_max / tc->heap->sizes->size[c];
    return n > SLOTS_MAX ? SLOTS_MAX : n < SLOTS_FIRST ? SLOTS_FIRST : (uint32_t)n;
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
}

void *thread_cache_take(thread_cache *tc, uint32_t c)
{
    magazines *m = tc->real;
    if (m->top[c] == m->bottom[c]) {
        count_miss(tc, c);
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

/* --- larger blocks ---------------------------------------------------------------------------------------------- */

/* bytes: as medium_round leaves them, 4 KiB < bytes <= 1 MiB: 64 bins per doubling. */
static uint32_t medium_bin(size_t bytes)
{
    unsigned log2 = bits_highest(bytes);
    return (log2 - 12) * 64 + (uint32_t)((bytes >> (log2 - 6)) & 63);
}
_Static_assert(MEDIUM_CACHE_SIZE_MAX == MIB && MEDIUM_CACHE_BINS == 8 * 64, "1 MiB itself would need another bin");

static void medium_unlink(medium_cache *mc, uint32_t e)
{
    if (mc->entry[e].prev) mc->entry[mc->entry[e].prev].next = mc->entry[e].next;
    else mc->head[mc->entry[e].bin] = mc->entry[e].next;
    if (mc->entry[e].next) mc->entry[mc->entry[e].next].prev = mc->entry[e].prev;
    mc->entry[e].block = NULL;
}

/* Frees the entry's block for good. */
static void medium_evict(thread_cache *tc, uint32_t e)
{
    medium_cache *mc = &tc->medium;
    void *block = mc->entry[e].block;
    medium_range *r = medium_range_of(block);
    mc->bytes -= medium_usable(r, block, NULL);
    medium_unlink(mc, e);
    medium_set_cached(r, block, false);
    medium_free(r->owner, block);
}

void *thread_cache_take_medium(thread_cache *tc, size_t bytes)
{
    medium_cache *mc = &tc->medium;
    uint32_t e = mc->head[medium_bin(bytes)];
    if (e == 0) return NULL;
    void *block = mc->entry[e].block;
    mc->bytes -= bytes;
    medium_unlink(mc, e);
    medium_set_cached(medium_range_of(block), block, false);
    return block;
}

acre_status thread_cache_put_medium(thread_cache *tc, medium_range *r, void *block)
{
    medium_cache *mc = &tc->medium;
    size_t bytes = medium_usable(r, block, NULL);
    size_t most = tc->heap->thread_bytes_max;
    /* Blocks that were resized may have a size that no request rounds to. */
    bool fits = bytes < MEDIUM_CACHE_SIZE_MAX && bytes <= most && medium_round(bytes) == bytes;
    if (!fits) return medium_free(r->owner, block);
    if (!medium_set_cached(r, block, true)) return ACRE_DOUBLE_FREE;
    uint32_t e;
    do {
        e = mc->hand = (uint8_t)(mc->hand % MEDIUM_CACHE_ENTRIES + 1);
        if (mc->entry[e].block) medium_evict(tc, e);
    } while (mc->bytes + bytes > most);
    uint32_t bin = medium_bin(bytes), first = mc->head[bin];
    mc->entry[e].block = block;
    mc->entry[e].bin = (uint16_t)bin;
    mc->entry[e].prev = 0;
    mc->entry[e].next = (uint8_t)first;
    if (first) mc->entry[first].prev = (uint8_t)e;
    mc->head[bin] = (uint8_t)e;
    mc->bytes += bytes;
    return ACRE_OK;
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
    for (uint32_t e = 1; e <= MEDIUM_CACHE_ENTRIES; e++)
        if (tc->medium.entry[e].block) medium_evict(tc, e);
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
    heap_tick(tc->heap, tc->heap->policy.delay_ms);
}

void thread_cache_drain(thread_cache *tc)
{
    enum { LOOK_CLASSES = 4 };
    magazines *m = tc->real;
    for (int i = 0; i < LOOK_CLASSES; i++) {
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
}

void thread_cache_count(const thread_cache *tc, uint64_t *blocks, size_t *medium_bytes)
{
    for (uint32_t c = 1; c <= tc->heap->sizes->count; c++)
        blocks[c] += blocks_in(tc->real, c) + bits_count(tc->source[c].pending);
    *medium_bytes += tc->medium.bytes;
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
    size_t bytes = 0;
    for (uint32_t e = 1; ok && e <= MEDIUM_CACHE_ENTRIES; e++) {
        if (!tc->medium.entry[e].block) continue;
        medium_range *r = medium_range_of(tc->medium.entry[e].block);
        bool cached = false;
        if (r) bytes += medium_usable(r, tc->medium.entry[e].block, &cached);
        ok = cached;
    }
    return ok && bytes == tc->medium.bytes;
}
