/* report: the figures of acre/stats.h as text for a person or JSON for a program, without allocating.
 *
 * A report is taken from the running process, or read back from the JSON that another one wrote; `acre run` does
 * that. Text is a table, one column per allocator and one row per figure, at most 100 columns wide. JSON has a key
 * per figure; both are made from the lists of acre/stats.h, so a figure that is added there shows in both.
 *
 * At the end of a process: ACRE_STATS=1 (text) or json, ACRE_STATS_FILE=<path, %p is the process id> or standard error.
 * The environment may be gone by then (programs write over it to change their title) and standard error closed, so what
 * is needed is put aside at the start. A program that ends by _exit, exec or a signal writes no report. */
#ifndef ACRE_DEBUG_REPORT_H
#define ACRE_DEBUG_REPORT_H

#include "debug/stats.h"

enum { REPORT_HEAPS_MAX = 16, REPORT_FIGURE_BYTES = 32 };

/* X(name, unit, title): one line of the report per heap, when there are several. */
#define REPORT_HEAP_LIST(X)                 \
    X(live_bytes, BYTES, "live")            \
    X(cached_bytes, BYTES, "cached")        \
    X(waste_bytes, BYTES, "waste")          \
    X(committed_bytes, BYTES, "committed")  \
    X(peak_bytes, BYTES, "peak")            \
    X(budget_bytes, BYTES, "budget")

typedef struct report_heap {
    char name[32];
#define X(name, unit, title) uint64_t name;
    REPORT_HEAP_LIST(X)
#undef X
} report_heap;

typedef struct report {
    acre_process_stats stats;
    char program[64];
    int process_id;
    uint32_t heap_count; /* of heaps[]; stats.heaps may be more */
    report_heap heaps[REPORT_HEAPS_MAX];
} report;

/* Of this process, now. False: it has no heap. */
bool report_take(report *r);
/* From what report_write_json wrote. False: it is not that, or cut off. */
bool report_parse(report *r, const char *json);
void report_write_text(int fd, const report *r);
/* indent: spaces before each line but the first, for a report inside of other JSON. No newline at the end. */
void report_write_json(int fd, const report *r, unsigned indent);

/* Round main; see the head of this file. */
void report_prepare(void);
void report_at_end(void);

/* "1.23 MiB", at most 9 characters; "1,234,567", at most 10. out: REPORT_FIGURE_BYTES. Return out. */
const char *report_bytes(char *out, uint64_t bytes);
const char *report_count(char *out, uint64_t count);

#endif
