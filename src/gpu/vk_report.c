/* vk_report: everything there is, for eyes and for tools: walks and the report as JSON.
 *
 * A walk copies one block or page at a time and calls the visitor without any lock, so a visitor may allocate and free.
 * Pages are copied under their pool's lock. Blocks are copied without one, while others free and allocate them: the
 * state word before and after tells whether it was one block all the time (Looking, in vk_internal.h). The copy is
 * described only once that is known, so nothing that was read in between is followed but to records that stay.
 * The JSON has the lists of acre/gpu.h as they stand there, so a field that is added shows up by itself. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "gpu/vk_internal.h"

/* --- blocks ----------------------------------------------------------------------------------------------------- */

/* What walks read of a block, of its page and of that page's pool. */
typedef struct block_copy {
    vk_block block;
    vk_page page;
    vk_pool *pool; /* own, or NULL */
    uint32_t map_count;
} block_copy;

/* False: no memory. Of one moment only if the state word stayed the same. */
static bool copy_block(acre_vk *vk, vk_block *b, block_copy *copy, char *name)
{
    const vk_page *page = VK_SEEN(b->page);
    if (page == NULL) return false;
    copy->block.page = &copy->page;
    copy->block.index = b->index;
    copy->block.offset = VK_SEEN(b->offset);
    copy->block.size = VK_SEEN(b->size);
    copy->block.tag = VK_SEEN(b->tag);
    copy->block.category = VK_SEEN(b->category);
    copy->block.flags = VK_SEEN(b->flags);
    copy->map_count = atomic_load_explicit(&b->map_count, memory_order_acquire);
    copy->page.memory = VK_SEEN(page->memory);
    copy->page.bytes = VK_SEEN(page->bytes);
    copy->page.memory_type = VK_SEEN(page->memory_type);
    copy->page.heap = VK_SEEN(page->heap);
    copy->page.host = VK_SEEN(page->host);
    atomic_init(&copy->page.mapped, atomic_load_explicit(&page->mapped, memory_order_acquire));
    vk_pool *pool = VK_SEEN(page->pool);
    copy->pool = VK_SEEN(pool->own) ? pool : NULL;
    name[0] = 0;
    if (copy->block.flags & BLOCK_NAMED) {
        lock_acquire(&vk->looks_lock);
        if (VK_SEEN(b->flags) & BLOCK_NAMED) memcpy(name, b->name, ACRE_GPU_NAME_MAX + 1);
        lock_release(&vk->looks_lock);
    }
    return true;
}

/* False: its state word is not, or no longer, `state`, or it has no memory. */
static bool read_block(acre_vk *vk, vk_block *b, uint32_t state, acre_vk_block_info *info)
{
    block_copy copy;
    memset(info, 0, sizeof *info);
    for (;;) {
        uint32_t ended = atomic_load_explicit(&vk->changes_ended, memory_order_acquire);
        if (atomic_load_explicit(&b->state, memory_order_acquire) != state) return false;
        if (!copy_block(vk, b, &copy, info->name)) return false;
        if (atomic_load_explicit(&b->state, memory_order_acquire) != state) return false;
        if (atomic_load_explicit(&vk->changes_begun, memory_order_acquire) == ended) break;
        os_yield();
    }
    vk_describe(vk, &copy.block, (state & ~(uint32_t)BLOCK_STATE_MASK) | BLOCK_LIVE, &info->allocation);
    info->category = copy.block.category;
    info->heap = copy.page.heap;
    info->pending = (state & BLOCK_STATE_MASK) == BLOCK_PENDING;
    if (!info->pending) info->map_count = copy.map_count;
    info->pool = copy.pool;
    info->page_bytes = copy.page.bytes;
    info->tag = copy.block.tag;
    return true;
}

acre_status acre_vk_get_info(acre_vk *vk, uint64_t handle, acre_vk_block_info *info)
{
    if (vk == NULL || info == NULL) return ACRE_INVALID_ARGUMENT;
    vk_block *b;
    acre_status status = vk_resolve(vk, handle, &b);
    if (status == ACRE_OK && !read_block(vk, b, (uint32_t)(handle >> 32), info)) status = vk_stale(b, handle);
    return status;
}

acre_status acre_vk_walk(acre_vk *vk, acre_vk_visit *visit, void *context)
{
    if (vk == NULL || visit == NULL) return ACRE_INVALID_ARGUMENT;
    for (uint32_t i = 0; i < CHUNKS_MAX << BLOCKS_PER_CHUNK_LOG2; i++) {
        vk_block *b = vk_block_at(vk, i);
        if (b == NULL) break;
        uint32_t state = atomic_load_explicit(&b->state, memory_order_acquire), kind = state & BLOCK_STATE_MASK;
        if (kind != BLOCK_LIVE && kind != BLOCK_PENDING) continue;
        acre_vk_block_info info;
        if (read_block(vk, b, state, &info) && !visit(context, &info)) break;
    }
    return ACRE_OK;
}

/* --- pages ------------------------------------------------------------------------------------------------------ */

/* Under pool->lock. The holes of a page are those nodes of the core that lie in it. O(nodes of the page). */
static uint64_t largest_hole_in(const vk_pool *pool, const vk_page *page, uint32_t *first)
{
    const coalesce *c = &pool->core;
    uint64_t largest = 0;
    uint32_t end = page->origin + (uint32_t)(page->bytes >> GRANULE_LOG2), n = *first;
    for (; n != 0 && coalesce_offset(c, n) < end; n = coalesce_next(c, n)) {
        if (coalesce_is_hole(c, n) && coalesce_size(c, n) > largest) largest = coalesce_size(c, n);
    }
    *first = n;
    return largest << GRANULE_LOG2;
}

static void read_page(const vk_pool *pool, const vk_page *page, uint64_t hole, acre_vk_page_info *info)
{
    *info = (acre_vk_page_info){
        .memory = page->memory,
        .bytes = page->bytes,
        .used_bytes = page->shared ? (uint64_t)page->used << GRANULE_LOG2 : page->bytes,
        .largest_hole_bytes = hole,
        .blocks = page->block_count,
        .memory_type = page->memory_type,
        .heap = page->heap,
        .dedicated = !page->shared,
        .mapped = atomic_load_explicit(&page->mapped, memory_order_relaxed) != NULL,
        .imported = page->imported,
        .pool = VK_SEEN(pool->own) ? (vk_pool *)(uintptr_t)pool : NULL,
    };
}

/* The page whose memory is the least of those above `after`, so that a walk goes on whatever came and went. */
static bool next_page(vk_pool *pool, bool *started, uint64_t *after, acre_vk_page_info *info)
{
    vk_page *best = NULL;
    lock_acquire(&pool->lock);
    for (vk_page *page = pool->pages; page != NULL; page = page->next) {
        uint64_t key = (uint64_t)page->memory;
        if ((!*started || key > *after) && (best == NULL || key < (uint64_t)best->memory)) best = page;
    }
    if (best != NULL) {
        uint64_t hole = 0;
        if (best->shared) {
            uint32_t n = coalesce_first(&pool->core);
            while (n != 0 && coalesce_offset(&pool->core, n) < best->origin) n = coalesce_next(&pool->core, n);
            hole = largest_hole_in(pool, best, &n);
        }
        read_page(pool, best, hole, info);
        *after = (uint64_t)best->memory;
        *started = true;
    }
    lock_release(&pool->lock);
    return best != NULL;
}

acre_status acre_vk_walk_pages(acre_vk *vk, acre_vk_visit_page *visit, void *context)
{
    if (vk == NULL || visit == NULL) return ACRE_INVALID_ARGUMENT;
    for (uint32_t p = 0; p <= vk->pool_slots; p++) {
        vk_pool *pool = p == vk->pool_slots ? vk->alone : __atomic_load_n(&vk->pools[p], __ATOMIC_ACQUIRE);
        if (pool == NULL) continue;
        acre_vk_page_info info;
        bool started = false;
        uint64_t after = 0;
        while (next_page(pool, &started, &after, &info))
            if (!visit(context, &info)) return ACRE_OK;
    }
    return ACRE_OK;
}

/* --- JSON ------------------------------------------------------------------------------------------------------- */

typedef struct text {
    char *buffer;
    size_t bytes, length;
    acre_vk *vk;
    const char *comma;
    VkDeviceMemory memory; /* whose blocks are wanted */
} text;

__attribute__((format(printf, 2, 3))) static void put(text *t, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t room = t->length < t->bytes ? t->bytes - t->length : 0;
    int n = vsnprintf(room != 0 ? t->buffer + t->length : NULL, room, format, arguments);
    va_end(arguments);
    if (n > 0) t->length += (size_t)n;
}

static void put_string(text *t, const char *s)
{
    put(t, "\"");
    for (; *s != 0; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            put(t, "\\%c", c);
        else if (c < 32)
            put(t, "\\u%04x", c);
        else
            put(t, "%c", c);
    }
    put(t, "\"");
}

static void put_heap_fields(text *t, const acre_gpu_heap_stats *s)
{
#define X(name, unit, title, meaning) put(t, ", \"" #name "\": %llu", (unsigned long long)s->name);
    ACRE_GPU_HEAP_LIST(X)
#undef X
}

static bool put_block(void *context, const acre_vk_block_info *b)
{
    text *t = context;
    if (b->allocation.memory != t->memory) return true;
    put(t, "%s{\"offset\": %llu, \"bytes\": %llu, \"category\": %u, \"pending\": %s, \"tag\": %llu, \"name\": ",
        t->comma, (unsigned long long)b->allocation.offset, (unsigned long long)b->allocation.size, b->category,
        b->pending ? "true" : "false", (unsigned long long)b->tag);
    put_string(t, b->name);
    put(t, "}");
    t->comma = ", ";
    return true;
}

typedef struct page_text {
    text *text;
    const char *comma;
    bool blocks;
} page_text;

static bool put_page(void *context, const acre_vk_page_info *p)
{
    page_text *pages = context;
    text *t = pages->text;
    put(t, "%s\n    {\"memory_type\": %u, \"heap\": %u, \"bytes\": %llu, \"used_bytes\": %llu, ", pages->comma,
        p->memory_type, p->heap, (unsigned long long)p->bytes, (unsigned long long)p->used_bytes);
    put(t, "\"largest_hole_bytes\": %llu, \"blocks\": %u, \"dedicated\": %s, \"mapped\": %s, \"imported\": %s",
        (unsigned long long)p->largest_hole_bytes, p->blocks, p->dedicated ? "true" : "false",
        p->mapped ? "true" : "false", p->imported ? "true" : "false");
    if (p->pool != NULL) {
        char name[sizeof p->pool->name];
        lock_acquire(&p->pool->lock);
        memcpy(name, p->pool->name, sizeof name);
        lock_release(&p->pool->lock);
        put(t, ", \"pool\": ");
        put_string(t, name);
    }
    if (pages->blocks) {
        put(t, ", \"in_use\": [");
        t->comma = "";
        t->memory = p->memory;
        (void)acre_vk_walk(t->vk, put_block, t);
        put(t, "]");
    }
    put(t, "}");
    pages->comma = ",";
    return true;
}

size_t acre_vk_report(acre_vk *vk, bool blocks, char *buffer, size_t bytes)
{
    if (vk == NULL || (buffer == NULL && bytes != 0)) return 0;
    text t = {.buffer = buffer, .bytes = bytes, .vk = vk};
    if (bytes != 0) buffer[0] = 0;
    acre_vk_stats stats;
    (void)acre_vk_get_stats(vk, &stats);
    put(&t, "{\n  \"device\": ");
    put_string(&t, vk->properties.deviceName);
    put(&t, ",\n  \"total\": {\"pages\": %llu, \"hits\": %llu, \"cached_bytes\": %llu, \"bookkeeping_bytes\": %llu, ",
        (unsigned long long)stats.pages, (unsigned long long)stats.hits, (unsigned long long)stats.cached_bytes,
        (unsigned long long)stats.bookkeeping_bytes);
    put(&t, "\"device_lost\": %s", stats.device_lost ? "true" : "false");
    put_heap_fields(&t, &stats.total);
    put(&t, "},\n  \"heaps\": [");
    for (uint32_t h = 0; h < vk->heap_count; h++) {
        acre_gpu_heap_stats heap;
        (void)acre_vk_heap_stats(vk, h, &heap);
        put(&t, "%s\n    {\"heap\": %u, \"bytes\": %llu, \"device_local\": %s", h != 0 ? "," : "", h,
            (unsigned long long)vk->memory.memoryHeaps[h].size,
            vk->memory.memoryHeaps[h].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT ? "true" : "false");
        put_heap_fields(&t, &heap);
        put(&t, "}");
    }
    put(&t, "\n  ],\n  \"categories\": [");
    for (uint32_t c = 0; c < vk->category_count; c++) {
        acre_gpu_category_stats category;
        (void)acre_vk_category_stats(vk, c, &category);
        put(&t, "%s\n    {\"name\": ", c != 0 ? "," : "");
        put_string(&t, category.name);
#define X(name, unit, title, meaning) put(&t, ", \"" #name "\": %llu", (unsigned long long)category.name);
        ACRE_GPU_CATEGORY_LIST(X)
#undef X
        put(&t, "}");
    }
    put(&t, "\n  ],\n  \"memory_types\": [");
    for (uint32_t i = 0; i < vk->memory.memoryTypeCount; i++)
        put(&t, "%s\n    {\"memory_type\": %u, \"heap\": %u, \"flags\": %u}", i != 0 ? "," : "", i, vk->heap_of[i],
            vk->type_flags[i]);
    put(&t, "\n  ],\n  \"memory\": [");
    page_text pages = {&t, "", blocks};
    (void)acre_vk_walk_pages(vk, put_page, &pages);
    put(&t, "\n  ]\n}\n");
    return t.length;
}
