/* info: `acre info`, what acre makes of this machine: the address map that it really reserves here, the sizes that it
 * cuts memory into, and the limits of the system that it has to live with.
 *
 * The reservation is made the way a program's would be (space_init), under the same limits and ACRE_* variables, so the
 * answer is what happens and not what should. Everything is collected first, then printed as text or as JSON. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "alloc/large.h"
#include "alloc/medium.h"
#include "alloc/size_class.h"
#include "debug/report.h"
#include "os/os.h"
#include "page/space.h"
#include "tool.h"

static const char help_text[] =
    "acre info [--json]\n"
    "\n"
    "What acre makes of this machine: the address map that it reserves, the sizes that it cuts memory into, and the\n"
    "limits that it has to live with. Makes the reservation that a program started from here would make.\n"
    "\n"
    "  -j, --json    the same as JSON\n"
    "  -h, --help\n";

typedef struct facts {
    bool reserved;        /* false: not even the smallest space could be had */
    size_t wanted_bytes;
    size_t left_bytes;    /* address space that the limits leave; SIZE_MAX = no limit */
    bool as_limited, data_limited;
    uint64_t as_limit, data_limit;
    char overcommit[16], huge_pages[64], max_map_count[32], group_limit[32];
    uint64_t machine_bytes;
    size_classes sizes;
} facts;

static const char *const part_names[] = {"blocks", "large", "ranges"};
static const char *const part_uses[] = {"very small, small and medium blocks", "slots of large blocks",
                                        "addresses that a program maps itself"};
enum { PARTS = 3 };

extern char **environ;

static bool limit_of(__rlimit_resource_t resource, uint64_t *limit)
{
    struct rlimit r;
    if (getrlimit(resource, &r) != 0 || r.rlim_cur == RLIM_INFINITY) return false;
    *limit = r.rlim_cur;
    return true;
}

static void collect(facts *f)
{
    memset(f, 0, sizeof *f);
    os_init();
    options_read();
    f->left_bytes = os_address_space_left();
    f->wanted_bytes = the_options.reserve_bytes ? the_options.reserve_bytes : SPACE_BYTES_DEFAULT;
    f->as_limited = limit_of(RLIMIT_AS, &f->as_limit);
    f->data_limited = limit_of(RLIMIT_DATA, &f->data_limit);
    read_file("/proc/sys/vm/overcommit_memory", f->overcommit, sizeof f->overcommit);
    read_file("/proc/sys/vm/max_map_count", f->max_map_count, sizeof f->max_map_count);
    read_file("/sys/kernel/mm/transparent_hugepage/enabled", f->huge_pages, sizeof f->huge_pages);
    read_file("/sys/fs/cgroup/memory.max", f->group_limit, sizeof f->group_limit);
    f->machine_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    size_classes_init(&f->sizes, 0, 0);
    f->reserved = space_init(the_options.reserve_bytes);
}

static size_t part_end(int part)
{
    return part + 1 < PARTS ? the_space.part_start[part + 1] : the_space.region_count;
}
static uint64_t part_bytes(int part) { return (part_end(part) - the_space.part_start[part]) * region_bytes(); }

/* In a page's 64 KiB, what no block covers, in hundredths of a percent. */
static unsigned tail_of(const size_classes *sc, uint32_t c)
{
    return (unsigned)((CHUNK_BYTES - (size_t)sc->blocks[c] * sc->size[c]) * 10000 / CHUNK_BYTES);
}

/* The most that a request of this class can waste inside of its block: the smallest request that goes there. */
static unsigned rounding_of(const size_classes *sc, uint32_t c)
{
    uint32_t least = c > 1 ? sc->size[c - 1] + 1 : 1;
    return (sc->size[c] - least) * 10000 / sc->size[c];
}

/* Why the space is not what was wanted; "" if it is. */
static const char *why_smaller(const facts *f)
{
    if (the_space.bytes + region_bytes() > f->wanted_bytes) return ""; /* whole regions */
    if (f->left_bytes != SIZE_MAX && f->wanted_bytes > f->left_bytes / 4 * 3)
        return "ulimit -v: halved until it took no more than 3/4 of what that leaves";
    if (f->overcommit[0] == '2') return "the system charges for address space (vm.overcommit_memory = 2)";
    if (f->data_limited) return "the limit on data (ulimit -d)";
    return "the system refused a larger reservation";
}

static bool group_is_limited(const facts *f) { return f->group_limit[0] >= '0' && f->group_limit[0] <= '9'; }
static bool is_ours(const char *variable) { return strncmp(variable, "ACRE_", 5) == 0; }

/* --- text --------------------------------------------------------------------------------------------------------- */

static void line_text(const char *title, const char *value, const char *meaning)
{
    printf("  %-26s %10s%s%s\n", title, *value ? value : "unknown", *meaning ? "  " : "", meaning);
}
static void line(const char *title, uint64_t bytes, const char *meaning)
{
    char text[REPORT_FIGURE_BYTES];
    line_text(title, report_bytes(text, bytes), meaning);
}
static void line_count(const char *title, uint64_t count, const char *meaning)
{
    char text[REPORT_FIGURE_BYTES];
    line_text(title, report_count(text, count), meaning);
}

static void print_map(const facts *f)
{
    const char *why = why_smaller(f);
    char wanted[REPORT_FIGURE_BYTES];
    puts("address map");
    const char *by = the_options.reserve_bytes ? "as ACRE_RESERVE says" : "the default";
    line("reserved", the_space.bytes, *why ? "" : by);
    if (*why) line_text("  wanted", report_bytes(wanted, f->wanted_bytes), why);
    printf("  %-26s 0x%" PRIxPTR "  (another in each process)\n", "base", (uintptr_t)space_base);
    line("region", region_bytes(), "the unit in which addresses go to allocators");
    line_count("regions", the_space.region_count, "");
    for (int p = 0; p < PARTS; p++) {
        char title[32];
        snprintf(title, sizeof title, "part: %s", part_names[p]);
        line(title, part_bytes(p), part_uses[p]);
    }
    puts("  A part that is full spills into the others.\n");
}

static void print_sizes(const facts *f)
{
    const size_classes *sc = &f->sizes;
    puts("very small and small blocks: pages of 64 KiB of one size\n"
         "  (size, blocks in a page, what the worst request wastes in its block, unused end of the page)");
    uint32_t rows = (sc->count + 2) / 3;
    for (uint32_t row = 0; row < rows; row++) {
        for (uint32_t c = row + 1; c <= sc->count; c += rows) {
            unsigned rounding = rounding_of(sc, c), tail = tail_of(sc, c);
            printf("%s%6u B %6u %4u.%u%% %2u.%02u%%", c > row + 1 ? "  |" : "", sc->size[c], sc->blocks[c],
                   rounding / 100, rounding / 10 % 10, tail / 100, tail % 100);
        }
        putchar('\n');
    }
    puts("\nmedium blocks: best fit, split and coalesced, on pages of 2 MiB");
    size_t from = sc->size_max;
    for (uint32_t t = 0; t < MEDIUM_TIERS; t++) {
        size_t size_max, granule;
        char a[REPORT_FIGURE_BYTES], b[REPORT_FIGURE_BYTES], g[REPORT_FIGURE_BYTES], title[96];
        medium_tier(t, &size_max, &granule);
        snprintf(title, sizeof title, "%s to %s", report_bytes(a, from), report_bytes(b, size_max));
        printf("  %-26s in steps of %s, or 1/64 of the size where that is more\n", title, report_bytes(g, granule));
        from = size_max;
    }
    puts("\nlarge blocks: one per slot, pages of 64 KiB as needed; grow in place to the end of the slot");
    printf("  slots of");
    for (int c = 0; c < LARGE_SLOT_CLASSES; c++) {
        char text[REPORT_FIGURE_BYTES];
        report_bytes(text, LARGE_SLOT_MIN << c);
        char *point = strchr(text, '.'); /* slots are whole: no decimals */
        if (point) memmove(point, strchr(text, ' '), strlen(strchr(text, ' ')) + 1);
        printf("%s %s", c ? "," : "", text);
    }
    puts("\n  larger ones come straight from the system, and are tracked\n");
}

static void print_limits(const facts *f)
{
    char text[REPORT_FIGURE_BYTES];
    puts("this machine");
    line("OS page", os_page_bytes(), "the kernel's");
    line("physical memory", f->machine_bytes, "");
    line("memory for this process", os_memory_bytes(), "the smaller of the machine's and the control group's");
    const char *group = f->group_limit;
    if (group_is_limited(f)) group = report_bytes(text, strtoull(group, NULL, 10));
    line_text("control group's limit", strcmp(group, "max") == 0 ? "none" : group, "memory.max");
    line_text("address space limit", f->as_limited ? report_bytes(text, f->as_limit) : "none", "ulimit -v (RLIMIT_AS)");
    if (f->left_bytes != SIZE_MAX) line("  of it left", f->left_bytes, "before acre's reservation");
    line_text("data limit", f->data_limited ? report_bytes(text, f->data_limit) : "none", "ulimit -d (RLIMIT_DATA)");
    line_text("overcommit", f->overcommit, "vm.overcommit_memory: 0 guesses, 1 always, 2 never");
    if (os_commit_is_charged()) line_text("commit is charged", "yes", "acre commits and decommits in large pieces");
    else line_text("commit is charged", "no", "memory comes when it is touched");
    line_text("mappings a process may have", f->max_map_count, "vm.max_map_count; acre needs a handful");
    printf("  %-26s %s\n", "transparent huge pages", f->huge_pages[0] ? f->huge_pages : "unknown");
    puts("");
}

static void print_environment(void)
{
    int found = 0;
    puts("environment variables in force");
    for (char **e = environ; *e; e++)
        if (is_ours(*e)) found += printf("  %s\n", *e) > 0;
    if (!found) puts("  none; docs/tuning.md lists them");
}

static void print_text(const facts *f)
{
    printf("acre %s on this machine\n\n", ACRE_VERSION);
    if (f->reserved) print_map(f);
    else puts("address map\n  none: there is no address space for even the smallest one; malloc would fail\n");
    print_sizes(f);
    print_limits(f);
    print_environment();
}

/* --- JSON --------------------------------------------------------------------------------------------------------- */

static void json_bytes(const char *key, uint64_t value) { printf("    \"%s\": %" PRIu64 ",\n", key, value); }
static void json_optional(const char *key, bool is, uint64_t value)
{
    if (is) json_bytes(key, value);
    else printf("    \"%s\": null,\n", key);
}
static void json_text(const char *key, const char *value, const char *separator)
{
    printf("    \"%s\": ", key);
    put_json_string(stdout, value);
    puts(separator);
}

static void json_map(const facts *f)
{
    puts("  \"address_map\": {");
    json_bytes("wanted_bytes", f->wanted_bytes);
    json_bytes("reserved_bytes", the_space.bytes);
    json_text("why_smaller", f->reserved ? why_smaller(f) : "no address space", ",");
    printf("    \"base\": \"0x%" PRIxPTR "\",\n", (uintptr_t)space_base);
    json_bytes("region_bytes", f->reserved ? region_bytes() : 0);
    json_bytes("regions", the_space.region_count);
    puts("    \"parts\": [");
    for (int p = 0; p < PARTS; p++)
        printf("      {\"name\": \"%s\", \"bytes\": %" PRIu64 "}%s\n", part_names[p], f->reserved ? part_bytes(p) : 0,
               p + 1 < PARTS ? "," : "");
    puts("    ]\n  },");
}

static void json_sizes(const facts *f)
{
    const size_classes *sc = &f->sizes;
    puts("  \"size_classes\": [");
    for (uint32_t c = 1; c <= sc->count; c++)
        printf("    {\"bytes\": %u, \"blocks_per_page\": %u, \"rounding_max\": %.4f, \"unused_end\": %.4f}%s\n",
               sc->size[c], sc->blocks[c], rounding_of(sc, c) / 10000.0, tail_of(sc, c) / 10000.0,
               c < sc->count ? "," : "");
    puts("  ],\n  \"medium_tiers\": [");
    for (uint32_t t = 0; t < MEDIUM_TIERS; t++) {
        size_t size_max, granule;
        medium_tier(t, &size_max, &granule);
        printf("    {\"size_max_bytes\": %zu, \"granule_bytes\": %zu}%s\n", size_max, granule,
               t + 1 < MEDIUM_TIERS ? "," : "");
    }
    printf("  ],\n  \"large_slot_bytes\": [");
    for (int c = 0; c < LARGE_SLOT_CLASSES; c++) printf("%s%zu", c ? ", " : "", LARGE_SLOT_MIN << c);
    puts("],");
}

static void json_limits(const facts *f)
{
    puts("  \"machine\": {");
    json_bytes("os_page_bytes", os_page_bytes());
    json_bytes("physical_bytes", f->machine_bytes);
    json_bytes("process_memory_bytes", os_memory_bytes());
    json_optional("control_group_limit_bytes", group_is_limited(f), strtoull(f->group_limit, NULL, 10));
    json_optional("address_space_limit_bytes", f->as_limited, f->as_limit);
    json_optional("address_space_left_bytes", f->left_bytes != SIZE_MAX, f->left_bytes);
    json_optional("data_limit_bytes", f->data_limited, f->data_limit);
    json_text("overcommit", f->overcommit, ",");
    printf("    \"commit_is_charged\": %s,\n", os_commit_is_charged() ? "true" : "false");
    json_optional("mappings_max", f->max_map_count[0] != 0, strtoull(f->max_map_count, NULL, 10));
    json_text("transparent_huge_pages", f->huge_pages, "");
    puts("  },");
}

static void print_json(const facts *f)
{
    printf("{\n  \"acre\": \"%s\",\n", ACRE_VERSION);
    json_map(f);
    json_sizes(f);
    json_limits(f);
    printf("  \"environment\": [");
    const char *separator = "";
    for (char **e = environ; *e; e++) {
        if (!is_ours(*e)) continue;
        fputs(separator, stdout);
        put_json_string(stdout, *e);
        separator = ", ";
    }
    puts("]\n}");
}

int command_info(int argc, char **argv)
{
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    char name[] = "acre info";
    argv[0] = name;
    bool json = false, ok = true;
    for (int c; ok && (c = getopt_long(argc, argv, "jh", options, NULL)) != -1;) {
        if (c == 'h') {
            fputs(help_text, stdout);
            return 0;
        }
        json = json || c == 'j';
        ok = c == 'j';
    }
    if (ok && optind < argc) {
        complain("info takes no argument: '%s'", argv[optind]);
        ok = false;
    }
    if (!ok) {
        fputs("Try 'acre info --help'.\n", stderr);
        return EXIT_USAGE;
    }
    facts f;
    collect(&f);
    if (json) print_json(&f);
    else print_text(&f);
    return fflush(stdout) == 0 ? 0 : EXIT_TROUBLE;
}
