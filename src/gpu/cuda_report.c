/* cuda_report: what the heap can be asked about itself. Figures come from the ledger, the stores and counters;
 * nothing is kept for the sake of a report. One list of figures makes the struct and the JSON (acre/cuda.h,
 * acre/gpu.h). */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "acre/suballoc.h"
#include "gpu/cuda_heap.h"
#include "page/arena.h"

/* --- figures ----------------------------------------------------------------------------------------------------- */

static uint64_t load(const _Atomic uint64_t *word) { return atomic_load_explicit(word, memory_order_relaxed); }

static void add_store(paged_store *store, acre_cuda_info *info)
{
    paged_store_stats stats;
    paged_store_stats_read(store, &stats);
    info->loose_bytes += stats.loose_bytes;
    info->pages_created += stats.creates;
    info->pages_released += stats.destroys;
    info->pages_moved += stats.taken_over;
    info->bookkeeping_bytes += stats.held_bytes / store->page_bytes * sizeof(paged_physical);
}

static bool add_bookkeeping(void *context, cuda_range *r)
{
    acre_cuda_info *info = context;
    for (int i = 0; i < 2; i++) {
        const paged_area *area = &r->pages.areas[i];
        if (area->bytes == 0) continue;
        lock_acquire(&r->pages.store->lock);
        uint64_t cells = area->committed << r->pages.store->page_log2 >> area->cell_log2;
        info->bookkeeping_bytes += coalesce_memory_bytes(&area->core) + area->committed * sizeof(paged_page) +
                                   cells * sizeof(uint32_t);
        if (r->page_points != NULL) info->bookkeeping_bytes += area->committed * sizeof(uint64_t);
        lock_release(&r->pages.store->lock);
    }
    return true;
}

acre_status acre_cuda_info_read(acre_cuda *h, acre_cuda_info *info)
{
    if (h == NULL || info == NULL) return ACRE_INVALID_ARGUMENT;
    *info = (acre_cuda_info){
        .page_bytes = h->page_bytes,
        .device_bytes = h->device_bytes,
        .reserved_bytes = h->reserved_bytes,
        .slice_bytes = h->slice_bytes,
        .asleep_bytes = load(&h->asleep_bytes),
        .shared_bytes = load(&h->shared_bytes),
        .growth_waits = load(&h->growth_waits),
        .events_recorded = load(&h->events_recorded),
        .bookkeeping_bytes = sizeof *h +
                             sizeof(cuda_stream) * atomic_load_explicit(&h->stream_count, memory_order_relaxed),
    };
    add_store(&h->store, info);
    cuda_ranges(h, add_bookkeeping, info);
    lock_acquire(&h->lanes_lock);
    for (uint32_t i = 0; i < h->slice_count; i++)
        info->lanes += atomic_load_explicit(&h->slices[i], memory_order_relaxed) != NULL;
    for (cuda_capture *c = h->captures; c != NULL; c = c->next) add_store(&c->store, info);
    lock_release(&h->lanes_lock);
    info->bookkeeping_bytes += info->lanes * sizeof(cuda_lane);
    gpu_ledger_read_heap(&h->ledger, 0, &info->heap);
    cuda_scope scope;
    size_t free_bytes = 0, total = 0;
    if (h->driver.memory_info != NULL && cuda_enter(h, &scope, NULL)) {
        CUresult result = h->driver.memory_info(&free_bytes, &total);
        cuda_leave(h, &scope);
        uint64_t used = total - free_bytes;
        if (cuda_answer(h, result, "cuMemGetInfo_v2", NULL) == ACRE_OK && used > info->heap.held_bytes)
            info->heap.other_bytes = used - info->heap.held_bytes;
    }
    return ACRE_OK;
}

acre_status acre_cuda_category_read(acre_cuda *h, uint32_t category, acre_gpu_category_stats *stats)
{
    if (h == NULL || stats == NULL || category >= h->ledger.category_count) return ACRE_INVALID_ARGUMENT;
    gpu_ledger_read_category(&h->ledger, category, stats);
    return ACRE_OK;
}

acre_status acre_cuda_shortage_read(acre_cuda *h, acre_gpu_shortage *shortage)
{
    if (h == NULL || shortage == NULL) return ACRE_INVALID_ARGUMENT;
    lock_acquire(&h->error_lock);
    *shortage = h->shortage;
    lock_release(&h->error_lock);
    return ACRE_OK;
}

acre_status acre_cuda_error_read(acre_cuda *h, acre_cuda_error *error)
{
    if (h == NULL || error == NULL) return ACRE_INVALID_ARGUMENT;
    lock_acquire(&h->error_lock);
    *error = h->error;
    lock_release(&h->error_lock);
    return ACRE_OK;
}

/* --- blocks ------------------------------------------------------------------------------------------------------ */

static acre_cuda_block describe(const cuda_range *r, const paged_block *b)
{
    bool own = (b->tag & CUDA_TAG_OWN) != 0;
    return (acre_cuda_block){
        .block = cuda_pointer(r->base + b->offset),
        .bytes = b->bytes,
        .room_bytes = own ? b->room : b->bytes,
        .category = b->category,
        .flags = own ? ACRE_CUDA_OWN_PAGES : 0,
        .shared = (b->tag & CUDA_TAG_SHARED) != 0,
        .asleep = b->asleep,
        .pending = (b->tag & CUDA_TAG_PENDING) != 0,
    };
}

static acre_cuda_block describe_export(const cuda_export *e)
{
    return (acre_cuda_block){
        .block = cuda_pointer(e->address),
        .bytes = e->bytes,
        .room_bytes = e->bytes,
        .category = e->category,
        .flags = ACRE_CUDA_OWN_PAGES | ACRE_CUDA_EXPORTABLE,
        .pending = e->pending,
    };
}

acre_status acre_cuda_block_read(acre_cuda *h, const void *block, acre_cuda_block *info)
{
    if (h == NULL || info == NULL) return ACRE_INVALID_ARGUMENT;
    cuda_range *r;
    uint64_t offset;
    paged_block b;
    acre_status status = ACRE_OK;
    if (cuda_locate(h, block, &r, &offset)) {
        if (paged_find(&r->pages, offset, &b) != ACRE_OK || b.tag & CUDA_TAG_PENDING) return ACRE_FOREIGN_POINTER;
        *info = describe(r, &b);
        return ACRE_OK;
    }
    lock_acquire(&h->lanes_lock);
    const cuda_export *e = cuda_export_find(h, block);
    if (e == NULL || e->pending) status = ACRE_FOREIGN_POINTER;
    else *info = describe_export(e);
    lock_release(&h->lanes_lock);
    return status;
}

typedef struct walk {
    acre_cuda_visit *visit;
    void *context;
    bool go;
} walk;

static bool walk_block(void *context, paged_range *range, const paged_block *block)
{
    walk *w = context;
    acre_cuda_block b = describe(range->options.owner, block);
    return w->go = w->visit(w->context, &b);
}

static bool walk_range(void *context, cuda_range *r)
{
    walk *w = context;
    paged_walk(&r->pages, walk_block, w);
    return w->go;
}

acre_status acre_cuda_walk(acre_cuda *h, acre_cuda_visit *visit, void *context)
{
    if (h == NULL || visit == NULL) return ACRE_INVALID_ARGUMENT;
    walk w = {visit, context, true};
    cuda_ranges(h, walk_range, &w);
    lock_acquire(&h->lanes_lock);
    for (const cuda_export *e = h->exports; e != NULL && w.go; e = e->next) {
        acre_cuda_block b = describe_export(e);
        w.go = visit(context, &b);
    }
    lock_release(&h->lanes_lock);
    return ACRE_OK;
}

/* --- JSON -------------------------------------------------------------------------------------------------------- */

typedef struct text {
    char *buffer;
    size_t bytes, length;
} text;

__attribute__((format(printf, 2, 3))) static void put(text *t, const char *format, ...)
{
    size_t room = t->length < t->bytes ? t->bytes - t->length : 0;
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(room != 0 ? t->buffer + t->length : NULL, room, format, arguments);
    va_end(arguments);
    if (written > 0) t->length += (size_t)written;
}

static void put_string(text *t, const char *string)
{
    put(t, "\"");
    for (; *string != 0; string++) {
        if (*string == '"' || *string == '\\') put(t, "\\%c", *string);
        else if ((unsigned char)*string < 32) put(t, "\\u%04x", (unsigned)(unsigned char)*string);
        else put(t, "%c", *string);
    }
    put(t, "\"");
}

static void put_category(text *t, acre_cuda *h, uint32_t i)
{
    acre_gpu_category_stats s;
    gpu_ledger_read_category(&h->ledger, i, &s);
    put(t, "%s\n    {\"name\": ", i != 0 ? "," : "");
    put_string(t, s.name);
    put(t, ", \"asleep\": %s", load(&h->asleep) >> i & 1 ? "true" : "false");
#define X(name, unit, title, meaning) put(t, ", \"" #name "\": %llu", (unsigned long long)s.name);
    ACRE_GPU_CATEGORY_LIST(X)
#undef X
    put(t, "}");
}

static void put_shortage(text *t, const acre_gpu_shortage *s)
{
    put(t, ",\n  \"shortage\": {\"status\": \"%s\", \"driver_call\": ", acre_status_name(s->status));
    put_string(t, s->driver_call != NULL ? s->driver_call : "");
    put(t, ", \"driver_result\": %d, \"bytes\": %llu, \"alignment\": %llu, \"category\": ", (int)s->driver_result,
        (unsigned long long)s->bytes, (unsigned long long)s->alignment);
    put_string(t, s->category_name != NULL ? s->category_name : "");
    put(t, ", \"largest_hole_bytes\": %llu, \"fragmentation\": %.4f, \"top\": [",
        (unsigned long long)s->largest_hole_bytes, s->fragmentation);
    for (uint32_t i = 0; i < s->top_count; i++) {
        put(t, "%s{\"name\": ", i != 0 ? ", " : "");
        put_string(t, s->top[i].name);
        put(t, ", \"bytes\": %llu}", (unsigned long long)s->top[i].bytes);
    }
    put(t, "]}");
}

size_t acre_cuda_report(acre_cuda *h, char *buffer, size_t bytes)
{
    text t = {buffer, bytes, 0};
    acre_cuda_info info;
    acre_gpu_shortage shortage;
    if (bytes != 0) *buffer = 0;
    if (acre_cuda_info_read(h, &info) != ACRE_OK) return 0;
    acre_cuda_shortage_read(h, &shortage);
    put(&t, "{\n  \"device\": %d", h->device);
#define X(name, unit, title, meaning) put(&t, ",\n  \"" #name "\": %llu", (unsigned long long)info.heap.name);
    ACRE_GPU_HEAP_LIST(X)
#undef X
#define X(name, unit, title, meaning) put(&t, ",\n  \"" #name "\": %llu", (unsigned long long)info.name);
    ACRE_CUDA_FIGURES(X)
#undef X
    put(&t, ",\n  \"categories\": [");
    for (uint32_t i = 0; i < h->ledger.category_count; i++) put_category(&t, h, i);
    put(&t, "\n  ]");
    if (shortage.status != ACRE_OK) put_shortage(&t, &shortage);
    put(&t, "\n}\n");
    return t.length;
}

/* --- check ------------------------------------------------------------------------------------------------------- */

typedef struct sums {
    acre_cuda *h;
    const char *wrong;
    uint64_t live[ACRE_GPU_CATEGORIES_MAX], pending[ACRE_GPU_CATEGORIES_MAX], blocks[ACRE_GPU_CATEGORIES_MAX];
    uint64_t asleep, shared;
} sums;

static bool sum_block(void *context, paged_range *range, const paged_block *b)
{
    sums *s = context;
    (void)range;
    bool view = (b->tag & CUDA_TAG_SHARED) != 0;
    if (view) s->shared += b->bytes;
    if (b->tag & CUDA_TAG_PENDING) {
        s->pending[b->category] += view ? 0 : b->bytes;
    } else if (b->asleep) {
        s->asleep += b->bytes;
    } else {
        s->live[b->category] += view ? 0 : b->bytes;
        s->blocks[b->category]++;
    }
    if (b->room < b->bytes) s->wrong = "a block is larger than its room";
    return s->wrong == NULL;
}

static bool check_range(void *context, cuda_range *r)
{
    sums *s = context;
    if (r->lane->home != NULL && r->page_points == NULL) s->wrong = "a lane with a home has no page points";
    if (s->wrong == NULL) paged_walk(&r->pages, sum_block, s);
    return s->wrong == NULL;
}

static void check_ledger(sums *s)
{
    acre_cuda *h = s->h;
    for (uint32_t i = 0; i < h->ledger.category_count && s->wrong == NULL; i++) {
        const gpu_category_row *row = &h->ledger.categories[i];
        if (load(&row->live) != s->live[i]) s->wrong = "a category's live bytes are not those of its blocks";
        else if (load(&row->pending) != s->pending[i]) s->wrong = "a category miscounts its pending bytes";
        else if (load(&row->blocks) != s->blocks[i]) s->wrong = "a category miscounts its blocks";
    }
    if (s->wrong == NULL && load(&h->asleep_bytes) != s->asleep) s->wrong = "asleep bytes are not those of the blocks";
    if (s->wrong == NULL && load(&h->shared_bytes) != s->shared) s->wrong = "shared bytes are not those of the blocks";
}

static void check_held(sums *s)
{
    acre_cuda *h = s->h;
    paged_store_stats stats;
    paged_store_stats_read(&h->store, &stats);
    uint64_t held = stats.held_bytes, empty = stats.empty_bytes;
    for (cuda_capture *c = h->captures; c != NULL; c = c->next) {
        paged_store_stats_read(&c->store, &stats);
        held += stats.held_bytes;
        empty += stats.empty_bytes;
    }
    for (const cuda_export *e = h->exports; e != NULL; e = e->next)
        if (!e->imported && e->created) held += e->bytes;
    if (load(&h->ledger.heaps[0].held) != held) s->wrong = "held bytes are not those of the pages and exports";
    else if (load(&h->ledger.heaps[0].empty) != empty) s->wrong = "empty bytes are not those of the stores";
}

static const char *check_streams(acre_cuda *h)
{
    uint32_t count = atomic_load_explicit(&h->stream_count, memory_order_acquire);
    for (uint32_t i = 0; i < count; i++) {
        cuda_stream *s = atomic_load_explicit(&h->streams[i], memory_order_relaxed);
        lock_acquire(&s->lock);
        uint64_t passed = load(&s->passed), recorded = s->recorded;
        bool fine = passed <= load(&s->points) && (!s->under_way || recorded >= passed) && s->index == i;
        lock_release(&s->lock);
        if (!fine) return "a stream has passed points that it was not given";
    }
    return NULL;
}

const char *acre_cuda_check(acre_cuda *h)
{
    if (h == NULL) return "there is no heap";
    sums *s = arena_alloc(sizeof *s);
    if (s == NULL) return "no memory to check with";
    s->h = h;
    cuda_ranges(h, check_range, s);
    lock_acquire(&h->lanes_lock);
    for (const cuda_export *e = h->exports; e != NULL; e = e->next) {
        uint64_t bytes = e->imported ? 0 : e->bytes;
        if (e->orphan) continue;
        if (e->pending) s->pending[e->category] += bytes;
        else s->live[e->category] += bytes, s->blocks[e->category]++;
    }
    if (s->wrong == NULL) s->wrong = paged_store_check(&h->store); /* and all ranges of it */
    for (cuda_capture *c = h->captures; c != NULL && s->wrong == NULL; c = c->next)
        s->wrong = paged_store_check(&c->store);
    if (s->wrong == NULL) check_held(s);
    if (s->wrong == NULL) check_ledger(s);
    lock_release(&h->lanes_lock);
    const char *wrong = s->wrong != NULL ? s->wrong : check_streams(h);
    arena_free(s, sizeof *s);
    return wrong;
}
