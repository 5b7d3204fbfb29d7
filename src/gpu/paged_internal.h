/* paged_internal: what paged_store.c, paged_range.c and paged_views.c know of each other, and nobody else.
 *
 * Everything here is called with the store's lock held. A function that takes a paged_call or a failure may drop the
 * lock for a driver call and take it again: what it did not mark as busy may be another's afterwards. */
#ifndef ACRE_GPU_PAGED_INTERNAL_H
#define ACRE_GPU_PAGED_INTERNAL_H

#include "gpu/paged_range.h"

/* One public call that may ask for memory. */
typedef struct paged_call {
    paged_failure *failure;
    uint64_t serial; /* pages that it creates are born with it, so that undoing finds them */
    bool exceed;
} paged_call;

/* --- paged_store.c ---------------------------------------------------------------------------------------------- */

/* A mapped page that its owner has marked busy, and what is behind it. */
typedef struct paged_place {
    paged_range *range;
    uint64_t page;
    paged_physical *physical;
} paged_place;

/* What became of the bindings of a call that maps: in this order, by number. All: accessible == count. */
typedef struct paged_outcome {
    uint32_t accessible; /* the first so many can be used */
    uint32_t undone;     /* so many after them are unmapped again, since they got no access */
    uint32_t bare;       /* so many after those are mapped still, without access; the rest never was */
} paged_outcome;

/* A page becomes empty: where it is mapped, or loose. */
void paged_put_empty(paged_store *store, paged_physical *physical, paged_range *home, uint64_t home_page);
void paged_put_loose(paged_store *store, paged_physical *physical);
/* It is empty no longer. */
void paged_unput(paged_store *store, paged_physical *physical);
/* Up to `want` <= PAGED_BATCH_PAGES pages in hand: loose ones, empties from elsewhere, new ones. Fewer: see failure. */
uint32_t paged_obtain(paged_store *store, paged_physical **pages, uint32_t want, const paged_call *call);
/* Pages in hand that are of no use after a failure: what this call made goes back, the rest is loose again. */
void paged_return_pages(paged_store *store, paged_physical *const *pages, uint32_t count, const paged_call *call);
/* Does not drop the lock by itself: paged_enter_driver before, paged_leave_driver after. */
paged_outcome paged_map_call(const paged_store *store, const paged_binding *bindings, uint32_t count,
                             paged_failure *failure);
/* Unmaps the first n of count <= PAGED_BATCH_PAGES places; returns n. Their records are unmapped and busy no longer,
 * their physical pages in hand where refs fell to 0. The others are busy no longer, and where no block uses them empty,
 * or bare if their memory is shared. */
uint32_t paged_unmap(paged_store *store, const paged_place *places, uint32_t count, paged_failure *failure);
/* Pages in hand go back to the driver, or become loose where it fails. Returns how many went. */
uint32_t paged_destroy_pages(paged_store *store, paged_physical *const *pages, uint32_t count, paged_failure *failure);
/* Sleeps until some busy page is busy no longer. */
void paged_wait_for_others(paged_store *store);
/* Busy pages are busy no longer. */
void paged_tell_others(paged_store *store);
void paged_enter_driver(paged_store *store);
void paged_leave_driver(paged_store *store);
/* Takes the lock: a public call begins. *failure says OK, `unwanted` stands in for a NULL. */
paged_call paged_begin(paged_store *store, bool exceed, paged_failure *failure, paged_failure *unwanted);

/* --- paged_range.c ---------------------------------------------------------------------------------------------- */

/* Pages [first, end), numbered from the start of the range. */
typedef struct paged_span { uint64_t first, end; } paged_span;

enum paged_area_kind { PAGED_SMALL, PAGED_LARGE };

/* Flags in a block's word in the core, above its tag (PAGED_TAG_BITS) and its category (6 bits). */
#define PAGED_ASLEEP ((uint64_t)1 << 54)
#define PAGED_SHARED ((uint64_t)1 << 55) /* there is or was another block with the same memory */
#define PAGED_VIEW ((uint64_t)1 << 56)   /* it is the second such: not counted as live */
#define PAGED_BUSY ((uint64_t)1 << 57)

/* The record of a page, in whichever area. */
static inline paged_page *paged_page_at(const paged_range *range, uint64_t page)
{
    const paged_area *small = &range->areas[PAGED_SMALL];
    return page < small->page_count ? &small->pages[page] : &range->areas[PAGED_LARGE].pages[page - small->page_count];
}

static inline bool paged_has_flag(const paged_area *area, uint32_t node, uint64_t flag)
{
    return (coalesce_tag(&area->core, node) & flag) != 0;
}
static inline void paged_set_flag(paged_area *area, uint32_t node, uint64_t flag, bool on)
{
    uint64_t word = coalesce_tag(&area->core, node);
    coalesce_set_tag(&area->core, node, on ? word | flag : word & ~flag);
}
static inline uint32_t paged_category_of(const paged_area *area, uint32_t node)
{
    return (uint32_t)(coalesce_tag(&area->core, node) >> PAGED_TAG_BITS) & (ACRE_GPU_CATEGORIES_MAX - 1);
}

/* The live block of a handle. FOREIGN_POINTER, DOUBLE_FREE. */
acre_status paged_resolve(paged_range *range, uint64_t handle, paged_area **area, uint32_t *node);
/* The block that starts at the offset in the area, 0: none. */
uint32_t paged_cells_find(const paged_area *area, uint64_t offset);
uint64_t paged_bytes_of(const paged_range *range, const paged_area *area, uint32_t node);
paged_span paged_span_of(const paged_range *range, const paged_area *area, uint32_t node);
void paged_describe(const paged_range *range, const paged_area *area, uint32_t node, paged_block *block);
bool paged_request_is_valid(const paged_request *request);
/* A busy block with addresses and without memory. */
acre_status paged_place_block(paged_range *range, paged_area *area, const paged_request *request, uint64_t flags,
                              uint32_t *node);
/* Addresses of a block go back; its pages were left before. */
void paged_remove_block(paged_range *range, paged_area *area, uint32_t node);
/* The pages of the span get one more user and memory; if that fails they are as before. origin: the first page of a
 * range whose memory is to be shared, or NULL. */
typedef struct paged_origin { paged_range *range; uint64_t first; } paged_origin;
acre_status paged_enter_pages(paged_range *range, paged_span span, const paged_origin *origin,
                              const paged_call *call);
/* The pages of the span get one user less. Those without any become empty where they lie; or, PAGED_UNDO, go back to
 * the driver if this call made them; or, PAGED_RELEASE, go back in any case. Returns bytes that went back. */
enum paged_leave { PAGED_KEEP, PAGED_UNDO, PAGED_RELEASE };
uint64_t paged_leave_pages(paged_range *range, paged_span span, enum paged_leave how, const paged_call *call);
const char *paged_range_check_locked(paged_range *range);

#endif
