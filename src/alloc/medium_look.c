/* medium_look: the medium allocator as reports and tests see it: figures, a walk over the blocks, a check of all of it.
 * Reads only. Under the lock, except where a medium of another thread (single_thread) has none to offer. */
#include <string.h>

#include "alloc/medium_inside.h"

/* 64 KiB pieces of [from, to) that may hold something. from: a multiple of 64 KiB. */
static size_t touched_bytes(const medium_range *r, size_t from, size_t to)
{
    size_t bytes = 0;
    for (size_t i = from >> CHUNK_SHIFT; i << CHUNK_SHIFT < to; i++)
        if ((r->touched[i >> 6] >> (i & 63)) & 1) bytes += CHUNK_BYTES;
    return bytes;
}

static void read_range(const medium_range *r, medium_usage *usage)
{
    usage->used += (size_t)r->core.used << r->granule_log2;
    usage->blocks += r->core.block_count;
    size_t units = (size_t)r->core.capacity << r->granule_log2 >> r->unit_log2;
    usage->metadata += coalesce_memory_bytes(&r->core) + units * sizeof *r->handle;
    size_t hole = (size_t)coalesce_largest_hole(&r->core) << r->granule_log2;
    if (hole > usage->largest_hole) usage->largest_hole = hole;
    for (size_t i = 0; i < pages_in(r->bytes); i++) {
        const medium_page *page = &r->pages[i];
        size_t bytes = page->committed ? touched_bytes(r, i << MEDIUM_PAGE_SHIFT, page_end(r, i)) : 0;
        usage->touched += bytes;
        if (page->listed) usage->touched_cached += bytes;
    }
}

void medium_usage_read(medium *m, medium_usage *usage)
{
    memset(usage, 0, sizeof *usage);
    enter(m);
    usage->committed = m->committed;
    usage->cached = m->cached;
    usage->given_back = m->given_back;
    usage->peak = m->used_peak;
    usage->allocs = m->allocs;
    usage->frees = m->frees;
    if (wrong_thread(m)) { /* its structures may change under our eyes */
        usage->used = m->used;
        usage->blocks = (size_t)(m->allocs - m->frees);
        usage->touched = m->committed;
        usage->touched_cached = m->cached;
    } else {
        for (uint32_t t = 0; t < MEDIUM_TIERS; t++)
            for (const medium_range *r = m->ranges[t]; r; r = r->next) read_range(r, usage);
        usage->used -= m->quick.bytes;
        usage->blocks -= m->quick.count;
    }
    usage->resting = m->quick.bytes;
    for (int i = 0; i < MEDIUM_HOT; i++) {
        const void *p = atomic_load_explicit(&m->quick.hot[i], memory_order_relaxed);
        size_t bytes = p ? medium_usable(medium_range_of(p), p, NULL) : 0;
        usage->used -= bytes;
        usage->blocks -= bytes != 0;
        usage->resting += bytes;
    }
    leave(m);
}

void medium_visit(medium *m, void (*visit)(void *context, void *block, size_t bytes, const void *site), void *context)
{
    enter(m);
    for (uint32_t t = 0; t < MEDIUM_TIERS; t++)
        for (medium_range *r = m->ranges[t]; r; r = r->next)
            for (uint32_t n = coalesce_first(&r->core); n; n = coalesce_next(&r->core, n))
                if (coalesce_is_used(&r->core, n)) {
                    char *block = r->base + ((size_t)coalesce_offset(&r->core, n) << r->granule_log2);
                    if (!(live_word(r, block) & MEDIUM_CACHED))
                        visit(context, block, medium_block_bytes(r, n), medium_site(r, n));
                }
    leave(m);
}

bool medium_check(medium *m)
{
    bool ok = true;
    size_t committed = 0, cached = 0, used = 0;
    enter(m);
    for (uint32_t t = 0; t < MEDIUM_TIERS; t++)
        for (medium_range *r = m->ranges[t]; r; r = r->next) {
            ok = ok && coalesce_check(&r->core) == NULL;
            used += (size_t)r->core.used << r->granule_log2;
            for (uint32_t n = coalesce_first(&r->core); ok && n; n = coalesce_next(&r->core, n)) {
                if (!coalesce_is_used(&r->core, n)) continue;
                size_t from = (size_t)coalesce_offset(&r->core, n) << r->granule_log2;
                ok = handle_node(&r->handle[from >> r->unit_log2]) == n;
                ok = ok && medium_usable(r, r->base + from, NULL) == medium_block_bytes(r, n);
                size_t last = (from + medium_block_bytes(r, n) - 1) >> MEDIUM_PAGE_SHIFT;
                for (size_t i = from >> MEDIUM_PAGE_SHIFT; ok && i <= last; i++)
                    ok = r->pages[i].live > 0 && r->pages[i].committed;
            }
            for (size_t i = 0; i < pages_in(r->bytes); i++) {
                committed += r->pages[i].committed ? MEDIUM_PAGE_BYTES : 0;
                cached += r->pages[i].listed ? MEDIUM_PAGE_BYTES : 0;
                ok = ok && (r->pages[i].live == 0 || !r->pages[i].listed);
            }
        }
    size_t resting = 0;
    uint32_t count = 0;
    for (uint32_t bin = 0; bin < MEDIUM_BINS; bin++) {
        ok = ok && (m->quick.bins[bin >> 6] >> (bin & 63) & 1) == (m->quick.head[bin] != NULL);
        for (void *p = m->quick.head[bin]; ok && p; count++) {
            const medium_range *r = medium_range_of(p);
            const medium_handle *h = medium_handle_of(r, p);
            ok = medium_handle_bin(h) == bin && (live_word(r, p) & MEDIUM_CACHED) && count < m->quick.count;
            resting += handle_bytes(r, h);
            p = (void *)(uintptr_t)coalesce_tag(&r->core, handle_node(h));
        }
    }
    ok = ok && count == m->quick.count && resting == m->quick.bytes;
    ok = ok && committed == m->committed && cached == m->cached && used == m->used + resting;
    leave(m);
    return ok;
}
