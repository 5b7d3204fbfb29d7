/* heap: the public heap calls of acre/heap.h: arguments are checked here, the work is in heap/heap.c. */
#include "acre/acre.h"

#include <errno.h>

#include "heap/heap.h"
#include "heap/threads.h"

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

const char *acre_version(void)
{
    return TEXT(ACRE_VERSION_MAJOR) "." TEXT(ACRE_VERSION_MINOR) "." TEXT(ACRE_VERSION_PATCH);
}

static acre_status check_options(const acre_heap_options *o)
{
    if (o->provider && provider_check(o->provider) != ACRE_OK) return ACRE_INVALID_ARGUMENT;
    if (o->small_size_max && (o->small_size_max < FSA_VERY_SMALL_MAX || o->small_size_max > CLASS_SIZE_MAX_LIMIT))
        return ACRE_INVALID_ARGUMENT;
    if (o->classes_per_doubling != 0 && o->classes_per_doubling != 4 && o->classes_per_doubling != 8)
        return ACRE_INVALID_ARGUMENT;
    if (o->named_align && (!is_power_of_two(o->named_align) || o->named_align > MIB)) return ACRE_INVALID_ARGUMENT;
    if (o->fill && o->provider && !provider_can(o->provider, ACRE_CAN_TOUCH)) return ACRE_INVALID_ARGUMENT;
    return ACRE_OK;
}

acre_status acre_heap_create(const acre_heap_options *options, acre_heap **heap)
{
    static const acre_heap_options defaults;
    if (!heap) return ACRE_INVALID_ARGUMENT;
    *heap = NULL;
    acre_status status = check_options(options ? options : &defaults);
    if (status == ACRE_OK) *heap = heap_create(options ? options : &defaults, &status);
    return status;
}

acre_status acre_heap_destroy(acre_heap *heap)
{
    if (!heap || heap->number == HEAP_PROCESS) return ACRE_INVALID_ARGUMENT;
    heap_destroy(heap);
    return ACRE_OK;
}

acre_heap *acre_heap_process(void) { return heap_process(); }
const char *acre_heap_name(const acre_heap *heap) { return heap ? heap->name : ""; }
void acre_heap_set_budget(acre_heap *heap, size_t budget_bytes) { heap->account.budget = budget_bytes; }

static void *allocate(acre_heap *heap, size_t size, size_t align, bool zero, const acre_site *site, acre_status *why)
{
    acre_status status = ACRE_INVALID_ARGUMENT;
    void *block = NULL;
    if (heap && zero && !provider_can(heap->provider, ACRE_CAN_TOUCH)) status = ACRE_NOT_SUPPORTED;
    else if (heap) block = heap_alloc(heap, size, align, zero, site, &status);
    if (!block) errno = status == ACRE_INVALID_ARGUMENT ? EINVAL : ENOMEM;
    if (why) *why = status;
    return block;
}

void *acre_heap_alloc(acre_heap *heap, size_t size, size_t align, acre_status *why)
{
    return allocate(heap, size, align, false, NULL, why);
}

void *acre_heap_alloc_zeroed(acre_heap *heap, size_t size, size_t align, acre_status *why)
{
    return allocate(heap, size, align, true, NULL, why);
}

void *acre_heap_alloc_at(acre_heap *heap, size_t size, size_t align, const acre_site *site, acre_status *why)
{
    return allocate(heap, size, align, false, site, why);
}

acre_status acre_heap_free(acre_heap *heap, void *block)
{
    if (!block) return ACRE_OK;
    if (!heap) return ACRE_INVALID_ARGUMENT;
    size_t usable;
    acre_heap *owner = heap_owner(block, &usable);
    if (owner && owner != heap) return ACRE_FOREIGN_POINTER;
    return heap_free(block); /* without an owner: says what is wrong */
}

void *acre_heap_realloc(acre_heap *heap, void *block, size_t size, acre_status *why)
{
    if (!block) return acre_heap_alloc(heap, size, 0, why);
    acre_status status = ACRE_INVALID_ARGUMENT;
    void *moved = NULL;
    if (heap && !provider_can(heap->provider, ACRE_CAN_TOUCH)) status = ACRE_NOT_SUPPORTED; /* nobody could copy it */
    else if (heap && size > PTRDIFF_MAX) status = ACRE_TOO_LARGE;
    else if (heap) moved = heap_realloc(heap, block, size, &status);
    if (!moved) errno = status == ACRE_INVALID_ARGUMENT ? EINVAL : ENOMEM;
    if (why) *why = status;
    return moved;
}

acre_status acre_heap_resize(acre_heap *heap, void *block, size_t size)
{
    if (!heap || !block) return ACRE_INVALID_ARGUMENT;
    if (size > PTRDIFF_MAX) return ACRE_TOO_LARGE;
    size_t usable;
    if (heap_owner(block, &usable) != heap) return ACRE_FOREIGN_POINTER;
    if (heap_resize(heap, block, usable, size)) return ACRE_OK;
    return size <= usable ? ACRE_OK : ACRE_NO_MEMORY;
}

size_t acre_usable_size(const void *block)
{
    size_t usable;
    return block && heap_owner(block, &usable) ? usable : 0;
}

acre_heap *acre_owner(const void *block)
{
    size_t usable;
    return block ? heap_owner(block, &usable) : NULL;
}

const acre_site *acre_block_site(const void *block)
{
    medium_range *r = block ? medium_range_of(block) : NULL;
    return r ? medium_block_site(r, block) : NULL;
}

size_t acre_heap_trim(acre_heap *heap, size_t keep_bytes) { return heap ? heap_trim(heap, keep_bytes) : 0; }

typedef struct trim_request { size_t keep, given_back; } trim_request;

static void trim_visit(acre_heap *heap, void *context)
{
    trim_request *t = context;
    t->given_back += heap_trim_shared(heap, t->keep);
}

size_t acre_trim(size_t keep_bytes)
{
    if (!heap_process()) return 0;
    trim_request t = {keep_bytes, 0};
    threads_flush_own(NULL);
    heap_for_each(trim_visit, &t);
    return t.given_back;
}

void acre_heap_tick(acre_heap *heap)
{
    if (!heap) return;
    thread_cache *tc = threads_cache_if_any(heap);
    threads_enter(tc);
    if (tc) thread_cache_drain(tc, heap->sizes->count);
    threads_leave(tc);
    heap_tick(heap, heap->policy.delay_ms, 1);
}

typedef struct visit_request {
    void (*visit)(void *context, void *block, size_t bytes, const acre_site *site);
    void *context;
} visit_request;

static void visit_medium(void *context, void *block, size_t bytes, const void *site)
{
    visit_request *v = context;
    v->visit(v->context, block, bytes, site);
}

static void visit_large(void *context, void *block, size_t bytes) { visit_medium(context, block, bytes, NULL); }

void acre_heap_visit(acre_heap *heap,
                     void (*visit)(void *context, void *block, size_t bytes, const acre_site *site), void *context)
{
    if (!heap || !visit) return;
    visit_request v = {visit, context};
    medium_visit(&heap->medium, visit_medium, &v);
    large_visit(&heap->large, visit_large, &v);
}

bool acre_heap_check(acre_heap *heap)
{
    if (!heap) return false;
    bool ok = fsa_check(&heap->fsa) && page_pool_check(heap->fsa.pool) && medium_check(&heap->medium) &&
              large_check(&heap->large);
    for (thread_cache *tc = heap->caches; ok && tc; tc = tc->next) ok = thread_cache_check(tc);
    return ok;
}
