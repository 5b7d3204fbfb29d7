/* medium_inside: what the files of the medium allocator share; nobody else includes it. */
#ifndef ACRE_ALLOC_MEDIUM_INSIDE_H
#define ACRE_ALLOC_MEDIUM_INSIDE_H

#include "alloc/medium.h"
#include "os/os.h"

static inline void enter(medium *m)
{
    if (!m->single_thread) lock_acquire(&m->lock);
}
static inline void leave(medium *m)
{
    if (!m->single_thread) lock_release(&m->lock);
}
static inline bool wrong_thread(const medium *m) { return m->single_thread && m->single_thread != os_thread_id(); }

static inline size_t pages_in(size_t bytes) { return (bytes + MEDIUM_PAGE_BYTES - 1) >> MEDIUM_PAGE_SHIFT; }
static inline size_t page_end(const medium_range *r, size_t page)
{
    size_t end = (page + 1) << MEDIUM_PAGE_SHIFT;
    return end < r->bytes ? end : r->bytes;
}

/* What the handle says of a block of so many bytes that starts at offset `from`. */
static inline uint32_t block_word(const medium_range *r, size_t from, size_t bytes)
{
    uint32_t start = (uint32_t)(from >> r->granule_log2) & ((1u << (r->unit_log2 - r->granule_log2)) - 1);
    return (uint32_t)(bytes >> r->granule_log2) << MEDIUM_GRANULES_SHIFT | start | MEDIUM_USED;
}
/* The word of the live block that starts at p; 0: none. */
static inline uint32_t live_word(const medium_range *r, const void *p)
{
    size_t offset = (size_t)((const char *)p - r->base);
    uint32_t word = atomic_load_explicit(&medium_handle_of(r, p)->block, memory_order_relaxed);
    if (offset & (((size_t)1 << r->granule_log2) - 1)) return 0;
    uint32_t expected = block_word(r, offset, 0), parts = MEDIUM_USED | MEDIUM_START_MASK;
    return (word & parts) == (expected & parts) ? word : 0;
}
/* Bytes in the live block that the handle is about. */
static inline size_t handle_bytes(const medium_range *r, const medium_handle *h)
{
    uint32_t word = atomic_load_explicit(&h->block, memory_order_relaxed);
    return (size_t)(word >> MEDIUM_GRANULES_SHIFT) << r->granule_log2;
}
static inline uint32_t handle_node(const medium_handle *h) { return h->node & ((1u << MEDIUM_NODE_BITS) - 1); }

#endif
