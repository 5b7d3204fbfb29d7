/* direct: memory of a fixed amount that its owner maps where he likes.
 *
 * A memory object (memfd) of `page_count` pages of 64 KiB. Which pages are spoken for is a bitmap; what lies behind
 * which address is a table by 64 KiB of the space, of which only the parts in use have memory. The same page may stand
 * in the table many times. The object also is a provider: a heap on it gets pages from the bitmap, lowest first, mapped
 * in runs as long as they come.
 *
 * Pages keep their contents when they are unmapped: they are the application's. So this memory does not come zeroed. */
#include "page/direct.h"

#include <errno.h>
#include <string.h>

#include "acre/provider.h"
#include "os/os.h"
#include "page/arena.h"
#include "page/provider.h"
#include "page/space.h"

struct acre_direct {
    lock lock; /* LOCK_RANK_DIRECT; guards all below */
    acre_provider provider;
    char name[32];
    int object;
    uint32_t page_count, free_count;
    uint32_t mapped;   /* entries of `behind` that are not 0 */
    uint64_t *taken;   /* bit per page */
    uint32_t *behind;  /* by 64 KiB of the space: page + 1, 0 = nothing of this object */
    struct acre_direct *next, *prev;
};

static struct {
    lock lock; /* taken before the locks of the objects */
    acre_direct *first;
} objects;

static size_t behind_bytes(void) { return space_chunk_count * sizeof(uint32_t); }
static size_t bitmap_bytes(uint32_t pages) { return (pages + 63u) / 64 * sizeof(uint64_t); }
static bool is_taken(const acre_direct *d, uint32_t page) { return (d->taken[page >> 6] >> (page & 63)) & 1; }

static void mark(acre_direct *d, uint32_t first, uint32_t count, bool taken)
{
    for (uint32_t p = first; p < first + count; p++) {
        uint64_t bit = (uint64_t)1 << (p & 63);
        d->taken[p >> 6] = taken ? d->taken[p >> 6] | bit : d->taken[p >> 6] & ~bit;
    }
    d->free_count = taken ? d->free_count - count : d->free_count + count;
}

/* The first run of `count` free pages; page_count: none. */
static uint32_t find_run(const acre_direct *d, uint32_t count)
{
    for (uint32_t p = 0, run = 0; p < d->page_count; p++) {
        run = is_taken(d, p) ? 0 : run + 1;
        if (run == count) return p + 1 - count;
    }
    return d->page_count;
}

/* Files what lies behind `count` chunks from `chunk` on; page0 = first page + 1, or 0 for nothing. */
static void file_behind(acre_direct *d, size_t chunk, uint32_t count, uint32_t page0)
{
    for (uint32_t i = 0; i < count; i++) {
        d->mapped -= d->behind[chunk + i] != 0;
        d->behind[chunk + i] = page0 ? page0 + i : 0;
        d->mapped += page0 != 0;
    }
}

static bool table_commit(acre_direct *d, size_t chunk, uint32_t count)
{
    return arena_commit(&d->behind[chunk], count * sizeof *d->behind);
}

/* --- as a provider ---------------------------------------------------------------------------------------------- */

static acre_status direct_decommit(void *context, void *address, size_t bytes)
{
    acre_direct *d = context;
    size_t chunk = space_offset(address) >> CHUNK_SHIFT;
    uint32_t count = (uint32_t)(bytes >> CHUNK_SHIFT);
    lock_acquire(&d->lock);
    bool ok = table_commit(d, chunk, count) && os_object_unmap(address, bytes);
    for (uint32_t i = 0; ok && i < count; i++)
        if (d->behind[chunk + i]) mark(d, d->behind[chunk + i] - 1, 1, false);
    if (ok) file_behind(d, chunk, count, 0);
    lock_release(&d->lock);
    return ok ? ACRE_OK : ACRE_SYSTEM;
}

static acre_status direct_commit(void *context, void *address, size_t bytes)
{
    acre_direct *d = context;
    size_t chunk = space_offset(address) >> CHUNK_SHIFT;
    uint32_t count = (uint32_t)(bytes >> CHUNK_SHIFT), done = 0;
    acre_status status = ACRE_OK;
    lock_acquire(&d->lock);
    uint32_t missing = 0;
    if (!table_commit(d, chunk, count)) status = ACRE_NO_MEMORY;
    for (uint32_t i = 0; status == ACRE_OK && i < count; i++) missing += d->behind[chunk + i] == 0;
    if (missing > d->free_count) status = ACRE_NO_MEMORY;
    for (uint32_t page = 0; status == ACRE_OK && done < count;) {
        if (d->behind[chunk + done]) { /* there already */
            done++;
            continue;
        }
        while (is_taken(d, page)) page++;
        uint32_t run = 1;
        while (done + run < count && page + run < d->page_count && !is_taken(d, page + run) &&
               d->behind[chunk + done + run] == 0)
            run++;
        char *at = (char *)address + ((size_t)done << CHUNK_SHIFT);
        if (!os_object_map(d->object, (size_t)page << CHUNK_SHIFT, at, (size_t)run << CHUNK_SHIFT)) {
            status = ACRE_SYSTEM;
            break;
        }
        mark(d, page, run, true);
        file_behind(d, chunk + done, run, page + 1);
        done += run;
    }
    lock_release(&d->lock);
    /* Half of it is of no use to anybody. What was there before goes, too: nobody commits what he uses already. */
    if (status != ACRE_OK && done) direct_decommit(d, address, (size_t)done << CHUNK_SHIFT);
    return status;
}

const acre_provider *acre_direct_provider(acre_direct *d) { return d ? &d->provider : NULL; }

/* --- as memory to map ------------------------------------------------------------------------------------------- */

acre_status acre_direct_create(const char *name, size_t bytes, acre_direct **direct)
{
    if (!direct || bytes == 0 || bytes > (size_t)UINT32_MAX << (CHUNK_SHIFT - 1)) return ACRE_INVALID_ARGUMENT;
    *direct = NULL;
    if (!space_init(0)) return ACRE_NO_MEMORY;
    uint32_t pages = (uint32_t)(align_up(bytes, CHUNK_BYTES) >> CHUNK_SHIFT);
    acre_direct *d = arena_alloc(sizeof *d);
    if (!d) return ACRE_NO_MEMORY;
    acre_status status = ACRE_NO_MEMORY;
    size_t n = name ? strnlen(name, sizeof d->name - 1) : 0;
    if (n) memcpy(d->name, name, n);
    else memcpy(d->name, "direct", 7);
    d->page_count = d->free_count = pages;
    d->taken = arena_alloc(bitmap_bytes(pages));
    if (!d->taken) goto free_object;
    d->behind = arena_reserve(behind_bytes());
    if (!d->behind) goto free_bitmap;
    d->object = os_object_create(d->name, (size_t)pages << CHUNK_SHIFT);
    if (d->object < 0) {
        status = errno == ENOMEM ? ACRE_NO_MEMORY : ACRE_SYSTEM;
        goto release_table;
    }
    d->provider = (acre_provider){
        .name = d->name,
        .context = d,
        .page_bytes = CHUNK_BYTES,
        .capabilities = ACRE_CAN_TOUCH | ACRE_CAN_DECOMMIT | ACRE_IS_DIRECT,
        .commit = direct_commit,
        .decommit = direct_decommit,
    };
    lock_acquire(&objects.lock);
    d->next = objects.first;
    if (objects.first) objects.first->prev = d;
    objects.first = d;
    lock_release(&objects.lock);
    *direct = d;
    return ACRE_OK;

release_table:
    arena_release(d->behind, behind_bytes());
free_bitmap:
    arena_free(d->taken, bitmap_bytes(pages));
free_object:
    arena_free(d, sizeof *d);
    return status;
}

acre_status acre_direct_destroy(acre_direct *d)
{
    if (!d) return ACRE_INVALID_ARGUMENT;
    lock_acquire(&objects.lock);
    lock_acquire(&d->lock);
    bool busy = d->mapped != 0;
    if (!busy) {
        if (d->prev) d->prev->next = d->next;
        else objects.first = d->next;
        if (d->next) d->next->prev = d->prev;
    }
    lock_release(&d->lock);
    lock_release(&objects.lock);
    if (busy) return ACRE_BUSY;
    os_object_close(d->object);
    arena_release(d->behind, behind_bytes());
    arena_free(d->taken, bitmap_bytes(d->page_count));
    arena_free(d, sizeof *d);
    return ACRE_OK;
}

void acre_direct_usage(acre_direct *d, size_t *bytes, size_t *free_bytes)
{
    lock_acquire(&d->lock);
    if (bytes) *bytes = (size_t)d->page_count << CHUNK_SHIFT;
    if (free_bytes) *free_bytes = (size_t)d->free_count << CHUNK_SHIFT;
    lock_release(&d->lock);
}

/* Is [offset, offset + bytes) whole pages of the object? */
static bool inside(const acre_direct *d, size_t offset, size_t bytes)
{
    size_t all = (size_t)d->page_count << CHUNK_SHIFT;
    return bytes != 0 && ((offset | bytes) & (CHUNK_BYTES - 1)) == 0 && offset <= all && bytes <= all - offset;
}

acre_status acre_direct_take(acre_direct *d, size_t bytes, size_t *offset)
{
    if (!d || !offset || !inside(d, 0, bytes)) return ACRE_INVALID_ARGUMENT;
    uint32_t count = (uint32_t)(bytes >> CHUNK_SHIFT);
    lock_acquire(&d->lock);
    uint32_t first = find_run(d, count);
    bool found = first < d->page_count;
    if (found) mark(d, first, count, true);
    lock_release(&d->lock);
    *offset = found ? (size_t)first << CHUNK_SHIFT : 0;
    return found ? ACRE_OK : ACRE_NO_MEMORY;
}

acre_status acre_direct_give(acre_direct *d, size_t offset, size_t bytes)
{
    if (!d || !inside(d, offset, bytes)) return ACRE_INVALID_ARGUMENT;
    uint32_t first = (uint32_t)(offset >> CHUNK_SHIFT), count = (uint32_t)(bytes >> CHUNK_SHIFT);
    acre_status status = ACRE_OK;
    lock_acquire(&d->lock);
    for (uint32_t p = first; p < first + count; p++)
        if (!is_taken(d, p)) status = ACRE_DOUBLE_FREE;
    if (status == ACRE_OK) mark(d, first, count, false);
    lock_release(&d->lock);
    return status;
}

/* --- ranges ----------------------------------------------------------------------------------------------------- */

acre_status acre_range_reserve(size_t bytes, acre_range *range)
{
    if (!range || bytes == 0) return ACRE_INVALID_ARGUMENT;
    *range = (acre_range){0};
    if (!space_init(0) || bytes > the_space.bytes) return ACRE_NO_MEMORY;
    size_t rounded = align_up(bytes, CHUNK_BYTES);
    uint32_t regions = (uint32_t)((rounded + region_bytes() - 1) >> the_space.region_shift);
    char *address = space_take(SPACE_RANGES, regions, REGION_RANGE, NULL);
    *range = (acre_range){address, address ? rounded : 0};
    return address ? ACRE_OK : ACRE_NO_MEMORY;
}

/* Is [at, at + bytes) whole pages of a range that is reserved? */
static bool range_holds(acre_range range, size_t at, size_t bytes)
{
    if (!range.address || !space_contains(range.address)) return false;
    const region *r = region_of(range.address);
    return region_kind_of(r) == REGION_RANGE && region_address(r->first) == range.address && bytes != 0 &&
           range.bytes <= r->count * region_bytes() && ((at | bytes) & (CHUNK_BYTES - 1)) == 0 && at <= range.bytes &&
           bytes <= range.bytes - at;
}

acre_status acre_range_release(acre_range *range)
{
    if (!range || !range_holds(*range, 0, range->bytes)) return ACRE_INVALID_ARGUMENT;
    size_t chunk = space_offset(range->address) >> CHUNK_SHIFT;
    uint32_t count = (uint32_t)(range->bytes >> CHUNK_SHIFT);
    bool any = false;
    lock_acquire(&objects.lock);
    for (acre_direct *d = objects.first; d; d = d->next) {
        lock_acquire(&d->lock);
        uint32_t before = d->mapped;
        if (before && table_commit(d, chunk, count)) file_behind(d, chunk, count, 0);
        any = any || d->mapped != before;
        lock_release(&d->lock);
    }
    lock_release(&objects.lock);
    if (any && !os_object_unmap(range->address, range->bytes)) return ACRE_SYSTEM;
    space_give(range->address);
    *range = (acre_range){0};
    return ACRE_OK;
}

acre_status acre_direct_map(acre_direct *d, size_t offset, acre_range range, size_t at, size_t bytes)
{
    if (!d || !inside(d, offset, bytes) || !range_holds(range, at, bytes)) return ACRE_INVALID_ARGUMENT;
    char *address = (char *)range.address + at;
    size_t chunk = space_offset(address) >> CHUNK_SHIFT;
    uint32_t count = (uint32_t)(bytes >> CHUNK_SHIFT);
    lock_acquire(&d->lock);
    bool table = table_commit(d, chunk, count);
    bool ok = table && os_object_map(d->object, offset, address, bytes);
    if (ok) file_behind(d, chunk, count, (uint32_t)(offset >> CHUNK_SHIFT) + 1);
    lock_release(&d->lock);
    return ok ? ACRE_OK : table ? ACRE_SYSTEM : ACRE_NO_MEMORY;
}

acre_status acre_direct_unmap(acre_direct *d, acre_range range, size_t at, size_t bytes)
{
    if (!d || !range_holds(range, at, bytes)) return ACRE_INVALID_ARGUMENT;
    char *address = (char *)range.address + at;
    size_t chunk = space_offset(address) >> CHUNK_SHIFT;
    uint32_t count = (uint32_t)(bytes >> CHUNK_SHIFT);
    lock_acquire(&d->lock);
    bool ok = table_commit(d, chunk, count) && os_object_unmap(address, bytes);
    if (ok) file_behind(d, chunk, count, 0);
    lock_release(&d->lock);
    return ok ? ACRE_OK : ACRE_SYSTEM;
}

void direct_for_locks(void (*action)(lock *))
{
    action(&objects.lock);
    for (acre_direct *d = objects.first; d; d = d->next) action(&d->lock);
}
