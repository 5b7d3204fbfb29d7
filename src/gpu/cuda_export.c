/* cuda_export: blocks that another process may map, and blocks that another process made.
 *
 * Such a block is one driver allocation, since that is what a file descriptor names. It has addresses of its own at
 * the end of the reservation, cut in pages by a suballocator. They are few and large: a list under lanes_lock will
 * do, and that lock is no hit's. What the driver still holds of a block (a mapping, a handle) is written down, so a
 * failure half way is finished by the next try. */
#include "acre/suballoc.h"
#include "gpu/cuda_heap.h"
#include "page/arena.h"

cuda_export *cuda_export_find(acre_cuda *h, const void *block)
{
    cuda_export *e = h->exports;
    while (e != NULL && e->address != (uint64_t)(uintptr_t)block) e = e->next;
    return e;
}

/* --- making ------------------------------------------------------------------------------------------------------ */

static acre_status addresses(acre_cuda *h, cuda_export *e)
{
    acre_status status = ACRE_OK;
    if (h->export_addresses == NULL) {
        const acre_suballoc_options options = {.size = h->export_bytes, .granularity = h->page_bytes};
        status = acre_suballoc_create(&options, &h->export_addresses);
    }
    acre_suballoc_block b;
    if (status == ACRE_OK) status = acre_suballoc_alloc(h->export_addresses, e->bytes, 0, &b);
    if (status == ACRE_OK) {
        e->address = h->export_base + b.offset;
        e->place = b.handle;
    }
    return status;
}

/* Takes apart what there is, with the context current. True: nothing is left. */
static bool take_apart(acre_cuda *h, cuda_export *e, paged_failure *failure)
{
    if (e->mapped) {
        if (cuda_answer(h, h->driver.unmap(e->address, e->bytes), "cuMemUnmap", failure) != ACRE_OK) return false;
        e->mapped = false;
    }
    if (e->created) {
        if (cuda_answer(h, h->driver.release(e->handle), "cuMemRelease", failure) != ACRE_OK) return false;
        e->created = false;
        if (!e->imported) {
            gpu_ledger_unhold(&h->ledger, 0, e->bytes);
            gpu_ledger_driver_call(&h->ledger, 0, -1);
        }
    }
    if (e->place != 0) acre_suballoc_free(h->export_addresses, e->place);
    e->place = 0;
    return true;
}

static acre_status map(acre_cuda *h, cuda_export *e, paged_failure *failure)
{
    acre_status status = cuda_answer(h, h->driver.map(e->address, e->bytes, 0, e->handle, 0), "cuMemMap", failure);
    if (status != ACRE_OK) return status;
    e->mapped = true;
    return cuda_answer(h, h->driver.set_access(e->address, e->bytes, h->access, h->access_count), "cuMemSetAccess",
                       failure);
}

static void drop_uses(cuda_export *e)
{
    for (cuda_uses *u = e->uses, *next; u != NULL; u = next) {
        next = u->next;
        arena_free(u, sizeof *u);
    }
}

static void unlink_export(acre_cuda *h, cuda_export *e)
{
    cuda_export **at = &h->exports;
    while (*at != e) at = &(*at)->next;
    *at = e->next;
}

static acre_status create(acre_cuda *h, cuda_export *e, bool exceed, paged_failure *failure)
{
    const CUmemAllocationProp properties = {
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = h->device},
    };
    if (!gpu_ledger_hold(&h->ledger, 0, e->bytes, exceed)) return ACRE_OVER_BUDGET;
    CUresult result = h->driver.create(&e->handle, e->bytes, &properties, 0);
    acre_status status = cuda_answer(h, result, "cuMemCreate", failure);
    gpu_ledger_driver_call(&h->ledger, 0, status == ACRE_OK);
    if (status != ACRE_OK) gpu_ledger_unhold(&h->ledger, 0, e->bytes);
    return status;
}

static acre_status import(acre_cuda *h, cuda_export *e, int file, paged_failure *failure)
{
    void *descriptor = (void *)(intptr_t)file;
    CUresult result = h->driver.import_handle(&e->handle, descriptor, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    return cuda_answer(h, result, "cuMemImportFromShareableHandle", failure);
}

/* Makes the block of `e`; file: -1, or what another process exported. Under lanes_lock. On a failure nothing is left,
 * or e is pending: nobody's block, which destroy comes back to. */
static acre_status build(acre_cuda *h, cuda_export *e, int file, bool exceed, paged_failure *failure)
{
    acre_status status = addresses(h, e);
    if (status != ACRE_OK) return status;
    cuda_scope scope;
    if (cuda_enter(h, &scope, failure)) {
        status = file >= 0 ? import(h, e, file, failure) : create(h, e, exceed, failure);
        e->created = status == ACRE_OK;
        if (status == ACRE_OK) status = map(h, e, failure);
        paged_failure second;
        if (status != ACRE_OK && !take_apart(h, e, &second)) e->pending = e->orphan = true;
        cuda_leave(h, &scope);
    } else {
        status = failure->status;
        acre_suballoc_free(h->export_addresses, e->place);
    }
    if (status != ACRE_OK && !e->pending) return status;
    e->next = h->exports;
    h->exports = e;
    return status;
}

typedef struct wish {
    acre_cuda *h;
    uint64_t bytes;
    uint32_t category;
    uint16_t origin;
    int file;
    void *block;
} wish;

static acre_status attempt(void *context, bool exceed, paged_failure *failure)
{
    wish *w = context;
    acre_cuda *h = w->h;
    uint64_t charged = w->file < 0 ? w->bytes : 0;
    if (!gpu_ledger_charge(&h->ledger, w->category, 0, charged, exceed)) return ACRE_OVER_BUDGET;
    cuda_export *e = arena_alloc(sizeof *e);
    acre_status status = e != NULL ? ACRE_OK : ACRE_NO_MEMORY;
    if (status == ACRE_OK) {
        *e = (cuda_export){
            .bytes = w->bytes, .category = w->category, .origin = w->origin, .imported = w->file >= 0};
        lock_acquire(&h->lanes_lock);
        status = build(h, e, w->file, exceed, failure);
        w->block = cuda_pointer(e->address);
        if (e->pending) e = NULL; /* the list has it */
        lock_release(&h->lanes_lock);
    }
    if (status == ACRE_OK) return ACRE_OK;
    gpu_ledger_discharge(&h->ledger, w->category, 0, charged);
    arena_free(e, sizeof *e);
    /* The store's empties are of no use for this, but their memory is. */
    if (status == ACRE_NO_MEMORY || status == ACRE_OVER_BUDGET) {
        paged_store_stats stats;
        paged_store_stats_read(&h->store, &stats);
        uint64_t keep = stats.empty_bytes > w->bytes ? stats.empty_bytes - w->bytes : 0;
        bool wait = cuda_may_wait(true);
        paged_store_trim(&h->store, keep, NULL);
        cuda_may_wait(wait);
    }
    return status;
}

acre_status cuda_export_alloc(acre_cuda *h, const acre_cuda_request *request, cuda_stream *s, void **block)
{
    if (!h->can_export) return ACRE_NOT_SUPPORTED;
    if (request->bytes > h->export_bytes) return ACRE_TOO_LARGE;
    wish w = {.h = h, .bytes = align_up(request->bytes, h->page_bytes), .category = request->category,
              .origin = (uint16_t)s->index, .file = -1};
    acre_status status = cuda_attempt_all(h, w.category, w.bytes, h->page_bytes, NULL, attempt, &w);
    if (status == ACRE_OK) *block = w.block;
    return status;
}

/* --- ending ------------------------------------------------------------------------------------------------------ */

bool cuda_export_drop(acre_cuda *h, cuda_export *e, paged_failure *failure)
{
    cuda_scope scope;
    if (!cuda_enter(h, &scope, failure)) return false;
    bool gone = take_apart(h, e, failure);
    cuda_leave(h, &scope);
    if (!gone) return false;
    gpu_ledger_unpend(&h->ledger, e->category, 0, e->imported ? 0 : e->bytes);
    unlink_export(h, e);
    drop_uses(e);
    arena_free(e, sizeof *e);
    return true;
}

void cuda_exports_destroy(acre_cuda *h)
{
    cuda_scope scope;
    paged_failure failure;
    bool entered = cuda_enter(h, &scope, &failure) || cuda_enter(h, &scope, &failure);
    while (h->exports != NULL) {
        cuda_export *e = h->exports;
        if (entered && !take_apart(h, e, &failure)) (void)take_apart(h, e, &failure);
        h->exports = e->next;
        drop_uses(e);
        arena_free(e, sizeof *e);
    }
    if (entered) cuda_leave(h, &scope);
    acre_suballoc_destroy(h->export_addresses);
    h->export_addresses = NULL;
}

/* --- public ------------------------------------------------------------------------------------------------------ */

acre_status acre_cuda_export(acre_cuda *h, void *block, int *fd)
{
    if (h == NULL || block == NULL || fd == NULL) return ACRE_INVALID_ARGUMENT;
    cuda_range *r;
    uint64_t offset;
    if (cuda_locate(h, block, &r, &offset)) return ACRE_NOT_SUPPORTED;
    cuda_scope scope;
    paged_failure failure = {0};
    lock_acquire(&h->lanes_lock);
    cuda_export *e = cuda_export_find(h, block);
    acre_status status = ACRE_OK;
    if (e == NULL || e->pending) status = ACRE_FOREIGN_POINTER;
    else if (e->imported) status = ACRE_NOT_SUPPORTED;
    else if (!cuda_enter(h, &scope, &failure)) status = failure.status;
    if (status == ACRE_OK) {
        int made = -1;
        CUresult result = h->driver.export_handle(&made, e->handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
        status = cuda_answer(h, result, "cuMemExportToShareableHandle", &failure);
        cuda_leave(h, &scope);
        if (status == ACRE_OK) *fd = made;
    }
    lock_release(&h->lanes_lock);
    return status;
}

acre_status acre_cuda_import(acre_cuda *h, int fd, uint64_t bytes, uint32_t category, void **block)
{
    if (h == NULL || block == NULL || fd < 0 || bytes == 0) return ACRE_INVALID_ARGUMENT;
    if (category >= h->ledger.category_count) return ACRE_INVALID_ARGUMENT;
    if (!h->can_export) return ACRE_NOT_SUPPORTED;
    if (bytes > h->export_bytes) return ACRE_TOO_LARGE;
    cuda_stream *s;
    acre_status status = cuda_stream_get(h, NULL, &s);
    if (status != ACRE_OK) return status;
    wish w = {.h = h, .bytes = align_up(bytes, h->page_bytes), .category = category, .origin = (uint16_t)s->index,
              .file = fd};
    status = cuda_attempt_all(h, category, w.bytes, h->page_bytes, NULL, attempt, &w);
    if (status == ACRE_OK) *block = w.block;
    return status;
}
