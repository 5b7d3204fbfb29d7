/* malloc_info: what glibc's <malloc.h> has beside allocation: statistics, tuning and trimming by its names.
 *
 * Programs that print these figures keep working; the figures mean here what comes closest:
 *
 *   arena      committed, without slotted and unslotted large blocks, which glibc would have mapped
 *   hblks      large blocks, and hblkhd their bytes
 *   uordblks   live bytes, fordblks what is committed and not live, keepcost what malloc_trim could give back at most
 *   ordblks    empty pages that are kept: glibc counts free blocks, which acre does not list
 *
 * mallopt takes glibc's parameters so that a program which sets them starts, and changes nothing: acre has no such
 * knobs, its own are in docs/tuning.md. The precise figures are acre/stats.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>

#include "acre/acre.h"
#include "debug/report.h"

static uint64_t large_committed(const acre_stats *s)
{
    return s->allocator[ACRE_ALLOCATOR_LARGE].committed_bytes + s->allocator[ACRE_ALLOCATOR_UNSLOTTED].committed_bytes;
}
static uint64_t large_blocks(const acre_stats *s)
{
    return s->allocator[ACRE_ALLOCATOR_LARGE].live_blocks + s->allocator[ACRE_ALLOCATOR_UNSLOTTED].live_blocks;
}

ACRE_API int malloc_trim(size_t pad) { return acre_trim(pad) > 0; }

ACRE_API struct mallinfo2 mallinfo2(void)
{
    struct mallinfo2 info = {0};
    acre_process_stats stats;
    if (acre_stats_read(&stats) != ACRE_OK) return info;
    const acre_stats *s = &stats.all;
    info.arena = (size_t)(s->total.committed_bytes - large_committed(s));
    info.ordblks = (size_t)(s->allocator[ACRE_ALLOCATOR_FREE_PAGES].cached_bytes >> CHUNK_SHIFT);
    info.hblks = (size_t)large_blocks(s);
    info.hblkhd = (size_t)large_committed(s);
    info.uordblks = (size_t)s->total.live_bytes;
    info.fordblks = (size_t)(s->total.committed_bytes - s->total.live_bytes);
    info.keepcost = (size_t)s->total.cached_bytes;
    return info;
}

static int clamp(size_t value) { return value > INT_MAX ? INT_MAX : (int)value; }

/* Its fields are int: what does not fit shows as the largest int, where glibc wraps round. */
ACRE_API struct mallinfo mallinfo(void)
{
    struct mallinfo2 wide = mallinfo2();
    return (struct mallinfo){
        .arena = clamp(wide.arena),
        .ordblks = clamp(wide.ordblks),
        .hblks = clamp(wide.hblks),
        .hblkhd = clamp(wide.hblkhd),
        .uordblks = clamp(wide.uordblks),
        .fordblks = clamp(wide.fordblks),
        .keepcost = clamp(wide.keepcost),
    };
}

ACRE_API int mallopt(int parameter, int value)
{
    switch (parameter) {
    case M_MXFAST: return value >= 0 && (size_t)value <= 80 * sizeof(size_t) / 4; /* glibc's bound */
    case M_NLBLKS:
    case M_GRAIN:
    case M_KEEP:
    case M_TRIM_THRESHOLD:
    case M_TOP_PAD:
    case M_MMAP_THRESHOLD:
    case M_MMAP_MAX:
    case M_CHECK_ACTION:
    case M_PERTURB:
    case M_ARENA_TEST:
    case M_ARENA_MAX: return 1;
    default: return 0;
    }
}

ACRE_API void malloc_stats(void)
{
    report r;
    fflush(stderr); /* in order with what the program printed */
    if (report_take(&r)) report_write_text(2, &r);
}

static void put_total(FILE *f, const char *type, uint64_t count, uint64_t bytes)
{
    fprintf(f, "<total type=\"%s\" count=\"%" PRIu64 "\" size=\"%" PRIu64 "\"/>\n", type, count, bytes);
}

static void put_allocator(FILE *f, const char *name, const acre_ledger *l)
{
    fprintf(f, "<allocator name=\"%s\" live=\"%" PRIu64 "\" cached=\"%" PRIu64 "\" waste=\"%" PRIu64 "\"/>\n", name,
            l->live_bytes, l->cached_bytes, l->waste_bytes);
}

/* glibc's elements, and one of ours per allocator. */
ACRE_API int malloc_info(int options, FILE *f)
{
    if (options != 0) {
        errno = EINVAL; /* glibc returns it; others look at errno */
        return EINVAL;
    }
    acre_process_stats stats;
    if (acre_stats_read(&stats) != ACRE_OK) {
        errno = ENOMEM;
        return -1;
    }
    const acre_stats *s = &stats.all;
    uint64_t system = s->total.committed_bytes - large_committed(s);
    fputs("<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>\n</sizes>\n", f);
    put_total(f, "fast", 0, s->total.cached_bytes);
    put_total(f, "rest", 0, s->total.waste_bytes);
    fprintf(f, "<system type=\"current\" size=\"%" PRIu64 "\"/>\n", system);
    fprintf(f, "<system type=\"max\" size=\"%" PRIu64 "\"/>\n", s->total.peak_bytes);
    fprintf(f, "<aspace type=\"total\" size=\"%" PRIu64 "\"/>\n", stats.space_bytes);
    fprintf(f, "<aspace type=\"mprotect\" size=\"%" PRIu64 "\"/>\n", stats.space_bytes);
    fputs("</heap>\n", f);
    put_total(f, "fast", 0, s->total.cached_bytes);
    put_total(f, "rest", 0, s->total.waste_bytes);
    put_total(f, "mmap", large_blocks(s), large_committed(s));
    fprintf(f, "<system type=\"current\" size=\"%" PRIu64 "\"/>\n", system);
    fprintf(f, "<system type=\"max\" size=\"%" PRIu64 "\"/>\n", s->total.peak_bytes);
    fprintf(f, "<aspace type=\"total\" size=\"%" PRIu64 "\"/>\n", stats.space_bytes);
    fprintf(f, "<aspace type=\"mprotect\" size=\"%" PRIu64 "\"/>\n", stats.space_bytes);
#define X(name, key, title, meaning) put_allocator(f, title, &s->allocator[ACRE_ALLOCATOR_##name]);
    ACRE_ALLOCATOR_LIST(X)
#undef X
    fputs("</malloc>\n", f);
    return 0;
}
