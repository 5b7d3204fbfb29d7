/* cuda_lane: which lane a request goes to, and which lane an address belongs to.
 *
 * A stream gets a lane when it first asks; a lane is a slice of the reserved addresses with two paged ranges, and
 * costs no device memory before a block is in it. The last slices are kept for lanes without a home, one per group of
 * categories: streams that find no slice share those, and their frees wait for the GPU one by one. */
#include <string.h>

#include "gpu/cuda_heap.h"
#include "page/arena.h"

/* --- making ------------------------------------------------------------------------------------------------------ */

static size_t points_bytes(const acre_cuda *h, uint64_t bytes) { return bytes / h->page_bytes * sizeof(uint64_t); }

static acre_status make_range(acre_cuda *h, cuda_range *r, cuda_lane *lane, paged_store *store, uint64_t base,
                              uint64_t bytes, uint64_t size_min)
{
    *r = (cuda_range){.lane = lane, .base = base, .bytes = bytes};
    paged_range_options options = {
        .store = store,
        .owner = r,
        .small_bytes = bytes,
        .granule_bytes = ACRE_CUDA_GRANULE_BYTES,
        .large_min_bytes = UINT64_MAX,
        .size_min = size_min,
    };
    /* Whoever has a home frees at once, and its pages need a point; the others free what the GPU is done with. */
    if (lane->home != NULL) {
        r->page_points = arena_reserve(points_bytes(h, bytes));
        if (r->page_points == NULL) return ACRE_NO_MEMORY;
        if (!arena_commit((void *)r->page_points, points_bytes(h, bytes))) {
            arena_release((void *)r->page_points, points_bytes(h, bytes));
            return ACRE_NO_MEMORY;
        }
    }
    acre_status status = paged_range_init(&r->pages, &options);
    if (status != ACRE_OK && r->page_points != NULL) {
        arena_release((void *)r->page_points, points_bytes(h, bytes));
        r->page_points = NULL;
    }
    return status;
}

static acre_status remove_range(acre_cuda *h, cuda_range *r, paged_failure *failure)
{
    if (r->bytes == 0) return ACRE_OK;
    acre_status status = paged_range_destroy(&r->pages, failure);
    if (status != ACRE_OK) return status;
    if (r->page_points != NULL) arena_release((void *)r->page_points, points_bytes(h, r->bytes));
    *r = (cuda_range){.lane = r->lane};
    return ACRE_OK;
}

/* Under lanes_lock. */
static uint32_t free_slices(const acre_cuda *h, uint32_t *first)
{
    uint32_t count = 0;
    for (uint32_t i = h->slice_count; i-- > 0;) {
        if (atomic_load_explicit(&h->slices[i], memory_order_relaxed) != NULL) continue;
        *first = i;
        count++;
    }
    return count;
}

/* Under lanes_lock. */
static uint32_t kept_slices(const acre_cuda *h)
{
    uint32_t kept = 0;
    for (uint32_t g = 0; g < h->group_count; g++) kept += h->common[g] == NULL;
    return kept;
}

acre_status cuda_lane_make(acre_cuda *h, paged_store *store, cuda_stream *home, uint32_t group, cuda_capture *capture,
                           cuda_lane **made)
{
    uint32_t slice = 0, count = free_slices(h, &slice);
    bool common = home == NULL && capture == NULL;
    if (count == 0 || (!common && count <= kept_slices(h))) return ACRE_NO_MEMORY;
    cuda_lane *lane = h->lanes_spare;
    if (lane != NULL) h->lanes_spare = *(cuda_lane **)(void *)lane;
    else lane = arena_alloc(sizeof *lane);
    if (lane == NULL) return ACRE_NO_MEMORY;
    memset(lane, 0, sizeof *lane);
    lane->home = home;
    lane->group = group;
    lane->capture = capture;
    lane->slice = slice;

    uint64_t base = h->reserved_base + ((uint64_t)slice << h->slice_log2);
    acre_status status = make_range(h, &lane->small, lane, store, base, h->small_bytes, ACRE_CUDA_GRANULE_BYTES);
    if (status == ACRE_OK) {
        status = make_range(h, &lane->large, lane, store, base + h->small_bytes, h->slice_bytes - h->small_bytes,
                            ACRE_CUDA_SMALL_MAX);
        paged_failure failure;
        if (status != ACRE_OK) (void)remove_range(h, &lane->small, &failure); /* nothing is in it: no driver call */
    }
    if (status != ACRE_OK) {
        *(cuda_lane **)(void *)lane = h->lanes_spare;
        h->lanes_spare = lane;
        return status;
    }
    atomic_store_explicit(&h->slices[slice], lane, memory_order_release);
    *made = lane;
    return ACRE_OK;
}

/* Its memory serves a later lane: somebody may still look at it, by an address that was never his. */
acre_status cuda_lane_remove(acre_cuda *h, cuda_lane *lane, paged_failure *failure)
{
    acre_status status = remove_range(h, &lane->small, failure);
    if (status == ACRE_OK) status = remove_range(h, &lane->large, failure);
    if (status != ACRE_OK) return status;
    atomic_store_explicit(&h->slices[lane->slice], NULL, memory_order_release);
    *(cuda_lane **)(void *)lane = h->lanes_spare;
    h->lanes_spare = lane;
    return ACRE_OK;
}

/* Under lanes_lock. */
acre_status cuda_room_make(acre_cuda *h)
{
    cuda_lane *lane = &h->room;
    cuda_range *r = &lane->large;
    *r = (cuda_range){.lane = lane, .base = h->room_base, .bytes = h->room_bytes};
    paged_range_options options = {
        .store = &h->store, .owner = r, .large_bytes = h->room_bytes, .large_min_bytes = h->page_bytes};
    acre_status status = paged_range_init(&r->pages, &options);
    if (status != ACRE_OK) *r = (cuda_range){0};
    return status;
}

/* Under lanes_lock. */
static acre_status common_lane(acre_cuda *h, uint32_t group, cuda_lane **lane)
{
    *lane = h->common[group];
    if (*lane != NULL) return ACRE_OK;
    acre_status status = cuda_lane_make(h, &h->store, NULL, group, NULL, lane);
    if (status == ACRE_OK) h->common[group] = *lane;
    return status;
}

static acre_status lane_get_slow(acre_cuda *h, cuda_stream *s, uint32_t group, cuda_lane **lane)
{
    acre_status status = ACRE_OK;
    lock_acquire(&h->lanes_lock);
    *lane = atomic_load_explicit(&s->lanes[group], memory_order_relaxed);
    if (*lane == NULL) {
        status = cuda_lane_make(h, &h->store, s, group, NULL, lane);
        if (status == ACRE_NO_MEMORY) status = common_lane(h, group, lane);
        if (status == ACRE_OK) atomic_store_explicit(&s->lanes[group], *lane, memory_order_release);
    }
    lock_release(&h->lanes_lock);
    return status;
}

acre_status cuda_lane_get(acre_cuda *h, cuda_stream *s, uint32_t category, cuda_lane **lane)
{
    const cuda_capture *capture = atomic_load_explicit(&s->capture, memory_order_acquire);
    if (unlikely(capture != NULL)) {
        *lane = capture->lane;
        return ACRE_OK;
    }
    uint32_t group = h->group_of[category];
    *lane = atomic_load_explicit(&s->lanes[group], memory_order_acquire);
    if (likely(*lane != NULL)) return ACRE_OK;
    return lane_get_slow(h, s, group, lane);
}

/* --- finding ----------------------------------------------------------------------------------------------------- */

bool cuda_locate(acre_cuda *h, const void *block, cuda_range **range, uint64_t *offset)
{
    uint64_t from_base = (uint64_t)(uintptr_t)block - h->reserved_base, slice = from_base >> h->slice_log2;
    if (likely(slice < h->slice_count)) {
        cuda_lane *lane = atomic_load_explicit(&h->slices[slice], memory_order_acquire);
        if (unlikely(lane == NULL)) return false;
        uint64_t in_slice = from_base & (h->slice_bytes - 1);
        *range = in_slice < h->small_bytes ? &lane->small : &lane->large;
        if (unlikely((*range)->bytes == 0)) return false; /* half removed */
    } else if ((uint64_t)(uintptr_t)block - h->room_base < h->room_bytes) {
        *range = &h->room.large;
    } else {
        return false;
    }
    *offset = (uint64_t)(uintptr_t)block - (*range)->base;
    return true;
}

void cuda_range_mark(cuda_range *r, uint64_t offset, uint64_t bytes)
{
    if (r->page_points == NULL) return;
    uint64_t point = cuda_stream_point(r->lane->home);
    uint32_t page_log2 = r->pages.store->page_log2;
    for (uint64_t page = offset >> page_log2; page <= (offset + bytes - 1) >> page_log2; page++) {
        /* Two frees at once: the later point stays. */
        uint64_t seen = atomic_load_explicit(&r->page_points[page], memory_order_relaxed);
        while (seen < point && !atomic_compare_exchange_weak_explicit(&r->page_points[page], &seen, point,
                                                                      memory_order_release, memory_order_relaxed)) {}
    }
}

void cuda_ranges(acre_cuda *h, cuda_each_range *visit, void *context)
{
    bool go = true;
    lock_acquire(&h->lanes_lock);
    for (uint32_t i = 0; go && i < h->slice_count; i++) {
        cuda_lane *lane = atomic_load_explicit(&h->slices[i], memory_order_relaxed);
        if (lane == NULL) continue;
        /* One of the two may be gone already, while the driver keeps the other. */
        if (lane->small.bytes != 0) go = visit(context, &lane->small);
        if (go && lane->large.bytes != 0) go = visit(context, &lane->large);
    }
    if (go && h->room_made) visit(context, &h->room.large);
    lock_release(&h->lanes_lock);
}
