/* cuda_context: driver calls as paged_store.h wants them: create, release, map, unmap and set access, in batches, with
 * the device's context current and without a trace in the calling thread afterwards.
 *
 * Neighbouring pages go into one cuMemSetAccess and one cuMemUnmap. Before pages are unmapped, the GPU must have
 * passed their page points. A thread that may wait does so; one that may not (acre_cuda_tick, and requests unless
 * wait_before_growth) answers BUSY, and the store takes other memory. */
#include <stdio.h>
#include <string.h>

#include "gpu/cuda_heap.h"

static _Thread_local bool may_wait;

bool cuda_may_wait(bool may)
{
    bool before = may_wait;
    may_wait = may;
    return before;
}

/* --- errors ------------------------------------------------------------------------------------------------------ */

void cuda_note_error(acre_cuda *h, acre_status status, CUresult result, const char *call, const char *text)
{
    acre_cuda_error e = {.status = status, .driver_result = result, .driver_call = call};
    if (text != NULL) snprintf(e.text, sizeof e.text, "%s", text);
    else snprintf(e.text, sizeof e.text, "%s: %s (%d)", call, cuda_driver_error_name(&h->driver, result), result);
    lock_acquire(&h->error_lock);
    h->error = e;
    lock_release(&h->error_lock);
}

acre_status cuda_answer(acre_cuda *h, CUresult result, const char *call, paged_failure *failure)
{
    if (likely(result == CUDA_SUCCESS)) return ACRE_OK;
    acre_status status = cuda_driver_status(result);
    cuda_note_error(h, status, result, call, NULL);
    if (failure != NULL) *failure = (paged_failure){.status = status, .result = result, .call = call};
    return status;
}

/* --- the context ------------------------------------------------------------------------------------------------- */

bool cuda_enter(acre_cuda *h, cuda_scope *scope, paged_failure *failure)
{
    *scope = (cuda_scope){.mode = CU_STREAM_CAPTURE_MODE_RELAXED};
    if (h->driver.exchange_capture_mode != NULL) {
        CUresult result = h->driver.exchange_capture_mode(&scope->mode);
        if (cuda_answer(h, result, "cuThreadExchangeStreamCaptureMode", failure) != ACRE_OK) return false;
        scope->relaxed = true;
    }
    CUresult result = h->driver.context_push(h->context);
    scope->entered = cuda_answer(h, result, "cuCtxPushCurrent_v2", failure) == ACRE_OK;
    if (!scope->entered) cuda_leave(h, scope);
    return scope->entered;
}

/* Twice, if need be: a context or a mode that is left behind would be the program's to find out about. */
void cuda_leave(acre_cuda *h, cuda_scope *scope)
{
    CUcontext context;
    if (scope->entered && h->driver.context_pop(&context) != CUDA_SUCCESS)
        cuda_answer(h, h->driver.context_pop(&context), "cuCtxPopCurrent_v2", NULL);
    if (!scope->relaxed) return;
    int mode = scope->mode;
    if (h->driver.exchange_capture_mode(&mode) == CUDA_SUCCESS) return;
    mode = scope->mode;
    cuda_answer(h, h->driver.exchange_capture_mode(&mode), "cuThreadExchangeStreamCaptureMode", NULL);
}

/* --- pages ------------------------------------------------------------------------------------------------------- */

static uint32_t create_pages(void *context, uint64_t *handles, uint32_t count, paged_failure *failure)
{
    acre_cuda *h = context;
    const CUmemAllocationProp properties = {
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = h->device},
    };
    cuda_scope scope;
    uint32_t done = 0;
    if (!cuda_enter(h, &scope, failure)) return 0;
    for (; done < count; done++) {
        CUmemGenericAllocationHandle handle;
        CUresult result = h->driver.create(&handle, h->page_bytes, &properties, 0);
        if (cuda_answer(h, result, "cuMemCreate", failure) != ACRE_OK) break;
        handles[done] = handle;
    }
    cuda_leave(h, &scope);
    return done;
}

static uint32_t destroy_pages(void *context, const uint64_t *handles, uint32_t count, paged_failure *failure)
{
    acre_cuda *h = context;
    cuda_scope scope;
    uint32_t done = 0;
    if (!cuda_enter(h, &scope, failure)) return 0;
    while (done < count && cuda_answer(h, h->driver.release(handles[done]), "cuMemRelease", failure) == ACRE_OK) done++;
    cuda_leave(h, &scope);
    return done;
}

static uint64_t address_of(const paged_binding *b) { return ((const cuda_range *)b->range)->base + b->offset; }

/* Bindings from `first` on that lie one after the other. */
static uint32_t run_of(const acre_cuda *h, const paged_binding *bindings, uint32_t first, uint32_t count)
{
    uint32_t run = 1;
    while (first + run < count &&
           address_of(&bindings[first + run]) == address_of(&bindings[first + run - 1]) + h->page_bytes)
        run++;
    return run;
}

static uint32_t map_pages(void *context, const paged_binding *bindings, uint32_t count, paged_failure *failure)
{
    acre_cuda *h = context;
    cuda_scope scope;
    uint32_t done = 0;
    if (!cuda_enter(h, &scope, failure)) return 0;
    for (; done < count; done++) {
        const paged_binding *b = &bindings[done];
        CUresult result = h->driver.map(address_of(b), h->page_bytes, 0, b->handle, 0);
        if (cuda_answer(h, result, "cuMemMap", failure) != ACRE_OK) break;
    }
    cuda_leave(h, &scope);
    return done;
}

static uint32_t give_access(void *context, const paged_binding *bindings, uint32_t count, paged_failure *failure)
{
    acre_cuda *h = context;
    cuda_scope scope;
    uint32_t done = 0;
    if (!cuda_enter(h, &scope, failure)) return 0;
    while (done < count) {
        uint32_t run = run_of(h, bindings, done, count);
        CUresult result = h->driver.set_access(address_of(&bindings[done]), run * h->page_bytes, h->access,
                                               h->access_count);
        if (cuda_answer(h, result, "cuMemSetAccess", failure) != ACRE_OK) break;
        done += run;
    }
    cuda_leave(h, &scope);
    return done;
}

/* How many of the first may be unmapped now. */
static uint32_t wait_for_pages(acre_cuda *h, const paged_binding *bindings, uint32_t count, paged_failure *failure)
{
    cuda_range *r = bindings[0].range;
    const cuda_capture *capture = r->lane->capture;
    if (capture != NULL && !atomic_load_explicit(&capture->released, memory_order_acquire)) {
        *failure = (paged_failure){.status = ACRE_BUSY};
        return 0;
    }
    if (r->page_points == NULL) return count;
    cuda_stream *home = r->lane->home;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t page = bindings[i].offset / h->page_bytes;
        uint64_t point = atomic_load_explicit(&r->page_points[page], memory_order_acquire);
        if (cuda_stream_passed(home, point)) continue;
        if (may_wait) {
            if (cuda_stream_wait(h, home, point, failure)) continue;
            return i;
        }
        if (cuda_stream_poll(h, home, failure) && cuda_stream_passed(home, point)) continue;
        *failure = (paged_failure){.status = ACRE_BUSY};
        return i;
    }
    return count;
}

static uint32_t unmap_pages(void *context, const paged_binding *bindings, uint32_t count, paged_failure *failure)
{
    acre_cuda *h = context;
    uint32_t ready = wait_for_pages(h, bindings, count, failure), done = 0;
    cuda_scope scope;
    if (ready == 0 || !cuda_enter(h, &scope, failure)) return 0;
    while (done < ready) {
        uint32_t run = run_of(h, bindings, done, ready);
        CUresult result = h->driver.unmap(address_of(&bindings[done]), run * h->page_bytes);
        if (cuda_answer(h, result, "cuMemUnmap", failure) != ACRE_OK) break;
        done += run;
    }
    cuda_leave(h, &scope);
    return done;
}

paged_provider cuda_provider(acre_cuda *h)
{
    return (paged_provider){
        .context = h,
        .page_bytes = h->page_bytes,
        .create = create_pages,
        .destroy = destroy_pages,
        .map = map_pages,
        .unmap = unmap_pages,
        .set_access = give_access,
    };
}
