/* options: what the environment says about the process heap, ACRE_*; see docs/tuning.md for each.
 *
 * Read without allocating, before the first allocation. A value that makes no sense is named on standard error once and
 * the default is used: a typo must not keep a program from starting. */
#ifndef ACRE_HEAP_OPTIONS_H
#define ACRE_HEAP_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "os/misuse.h"

typedef struct process_options {
    size_t reserve_bytes;      /* ACRE_RESERVE */
    size_t cache_bytes_max;    /* ACRE_CACHE_BYTES */
    size_t magazine_bytes_max; /* ACRE_MAGAZINE_BYTES */
    size_t thread_bytes_max;   /* ACRE_THREAD_BYTES */
    size_t budget_bytes;       /* ACRE_BUDGET */
    uint32_t purge_delay_ms;   /* ACRE_PURGE_DELAY_MS */
    size_t populate_bytes;     /* ACRE_POPULATE_BYTES */
    bool huge_pages;           /* ACRE_HUGE_PAGES */
    bool fill;                 /* ACRE_FILL */
    bool background;           /* ACRE_BACKGROUND */
    bool stats;                /* ACRE_STATS */
    bool stats_json;           /* ACRE_STATS=json */
    const char *stats_file;    /* ACRE_STATS_FILE; %p is the process id; NULL = standard error */
    misuse_policy on_error;    /* ACRE_ON_ERROR=abort|report|ignore */
} process_options;

extern process_options the_options;

/* Fills the_options from the environment. */
void options_read(void);
/* "64M", "1.5" is not one: digits, then nothing or K, M, G, T (powers of 1024, a trailing B or iB is fine). */
bool options_parse_bytes(const char *text, size_t *bytes);

#endif
