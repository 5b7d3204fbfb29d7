/* space: see space.h. */
#include "page/space.h"

#include <string.h>

#include "os/os.h"
#include "page/arena.h"
#include "page/resident.h"

space the_space;
char *space_base;
size_t space_chunk_count;
uint8_t *space_page_class;
_Atomic size_t resident_bytes, resident_mark;

/* Metadata that is indexed by address, for a space of so many bytes. */
static size_t class_table_bytes(size_t chunks) { return align_up(chunks, os_page_bytes()); }
static size_t record_table_bytes(size_t chunks) { return align_up(chunks * sizeof(page_record), os_page_bytes()); }

static size_t largest_that_fits(size_t wanted)
{
    size_t left = os_address_space_left();
    size_t bytes = wanted;
    if (left != SIZE_MAX)
        while (bytes > SPACE_BYTES_MIN && bytes > left / 4 * 3) bytes /= 2;
    return bytes;
}

/* Small spaces get small regions, so that each allocator can have some: at least 32 regions in a space. */
static unsigned region_shift_for(size_t bytes)
{
    size_t r = REGION_BYTES_DEFAULT;
    while (r > REGION_BYTES_MIN && bytes / r < 32) r /= 2;
    return bits_highest(r);
}

static bool reserve_tables(space *s)
{
    size_t chunks = s->bytes >> CHUNK_SHIFT;
    space_page_class = arena_reserve(class_table_bytes(chunks));
    if (!space_page_class) return false;
    s->pages = arena_reserve(record_table_bytes(chunks));
    if (!s->pages) goto release_classes;
    s->regions = arena_alloc(s->region_count * sizeof(region));
    if (!s->regions) goto release_records;
    /* The class table is read for any address in the space, the other two only where something lives. */
    if (!arena_commit(space_page_class, class_table_bytes(chunks))) goto free_regions;
    return true;

free_regions:
    arena_free(s->regions, s->region_count * sizeof(region));
release_records:
    arena_release(s->pages, record_table_bytes(chunks));
release_classes:
    arena_release(space_page_class, class_table_bytes(chunks));
    return false;
}

static bool reserve_space(space *s, size_t bytes_wanted)
{
    os_init();
    size_t bytes = bytes_wanted ? bytes_wanted : SPACE_BYTES_DEFAULT;
    if (bytes < SPACE_BYTES_MIN) bytes = SPACE_BYTES_MIN;
    if (bytes > ((size_t)1 << 46)) bytes = (size_t)1 << 46;
    for (bytes = largest_that_fits(bytes); bytes >= SPACE_BYTES_MIN; bytes /= 2) {
        unsigned shift = region_shift_for(bytes);
        s->bytes = align_down(bytes, (size_t)1 << shift);
        s->region_shift = shift;
        s->region_count = (uint32_t)(s->bytes >> shift);
        /* One chunk of metadata: 1/64 of a small space, 1 GiB (of addresses) of a big one. */
        size_t arena_chunk = s->bytes / 64;
        arena_init(arena_chunk > GIB ? GIB : arena_chunk < 256 * KIB ? 256 * KIB : arena_chunk);
        space_base = os_reserve(s->bytes, (size_t)1 << shift); /* aligned: so are regions and slots */
        if (!space_base) continue;
        if (reserve_tables(s)) break;
        os_release(space_base, s->bytes);
        space_base = NULL;
    }
    if (!space_base) {
        memset(s, 0, sizeof *s);
        return false;
    }
    s->part_start[SPACE_BLOCKS] = 0;
    s->part_start[SPACE_LARGE] = (size_t)s->region_count * 256 / 640;
    s->part_start[SPACE_RANGES] = (size_t)s->region_count * 416 / 640;
    space_chunk_count = s->bytes >> CHUNK_SHIFT; /* last: from here on space_contains() says yes */
    return true;
}

bool space_init(size_t bytes_wanted)
{
    static lock once;
    lock_acquire(&once);
    bool ok = space_base || reserve_space(&the_space, bytes_wanted);
    lock_release(&once);
    return ok;
}

/* First fit from `start`, wrapping round once. Caller holds the lock. Returns region_count when there is none. */
static uint32_t find_run(const space *s, uint32_t start, uint32_t count)
{
    for (int lap = 0; lap < 2; lap++) {
        uint32_t end = s->region_count, run = 0;
        for (uint32_t i = lap == 0 ? start : 0; i < end; i++) {
            run = region_kind_of(&s->regions[i]) == REGION_FREE ? run + 1 : 0;
            if (run == count) return i + 1 - count;
        }
    }
    return s->region_count;
}

char *space_take(space_part part, uint32_t count, region_kind kind, void *owner)
{
    space *s = &the_space;
    if (count == 0 || count > s->region_count) return NULL;
    char *address = NULL;
    lock_acquire(&s->lock);
    uint32_t first = find_run(s, (uint32_t)s->part_start[part], count);
    if (first == s->region_count) goto out;
    address = region_address(first);
    if (kind == REGION_FSA) {
        page_record *records = &s->pages[page_number(address)];
        if (!arena_commit(records, (count * region_bytes() >> CHUNK_SHIFT) * sizeof *records)) {
            address = NULL;
            goto out;
        }
    }
    for (uint32_t i = first; i < first + count; i++) {
        region *r = &s->regions[i];
        r->owner = owner;
        r->first = first;
        r->count = count;
        atomic_store_explicit(&r->kind, (uint8_t)kind, memory_order_release);
    }
out:
    lock_release(&s->lock);
    return address;
}

void space_give(char *address)
{
    space *s = &the_space;
    lock_acquire(&s->lock);
    uint32_t first = region_of(address)->first, count = region_of(address)->count;
    for (uint32_t i = first; i < first + count; i++) {
        atomic_store_explicit(&s->regions[i].kind, REGION_FREE, memory_order_release);
        s->regions[i].owner = NULL;
    }
    lock_release(&s->lock);
}

uint32_t space_regions_in_use(region_kind kind)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < the_space.region_count; i++) n += region_kind_of(&the_space.regions[i]) == kind;
    return n;
}
