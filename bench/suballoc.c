/* bench/suballoc: the coalescing suballocator at the work of a medium heap: 768 MiB, blocks of 4 to 128 KiB, 70% full.
 *
 *   gcc -O2 -Isrc -Iinclude bench/suballoc.c <acre's sources> -o suballoc && ./suballoc [operations] [seed]
 *
 * Per scenario, on one thread:
 *   ns/op   a random operation each time: below 70% it allocates, above it frees a random block. Wall time over
 *           operations, so the harness (random number, size table, table of live blocks) is part of it.
 *   p99.99  the same again, with every call timed by the cycle counter; the counter's own cost is taken off.
 *   fill    two allocations to one free of a random block until an allocation fails; bytes in blocks / 768 MiB at
 *           that moment. Mean and worst of several runs, each from the state that the last one left at 70%.
 * Sizes are uniform over the range, or log-uniform (each doubling is as likely as the next). */
#define _POSIX_C_SOURCE 199309L /* clock_gettime */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "acre/suballoc.h"

#if defined(__x86_64__)
#include <x86intrin.h>
static uint64_t ticks(void)
{
    unsigned cpu;
    return __rdtscp(&cpu);
}
#else
static uint64_t ticks(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
#endif

enum {
    SIZES = 1 << 14,
    LIVE_MAX = 1 << 18,
    BUCKETS = 1 << 16, /* of one tick each; the last takes all that is slower */
    FILL_RUNS = 8,
};
static const uint64_t TOTAL_BYTES = (uint64_t)768 << 20;
static const uint64_t SIZE_MIN = 4 << 10, SIZE_MAX_BYTES = 128 << 10;

typedef struct scenario {
    const char *name;
    uint64_t granularity;
    uint64_t named[ACRE_SUBALLOC_ALIGNMENTS];
    uint64_t align[4]; /* asked for in turn; 0 ends the list */
    bool log_uniform;
} scenario;

static const scenario scenarios[] = {
    {"16 B, log-uniform", 16, {0}, {16}, true},
    {"16 B, uniform", 16, {0}, {16}, false},
    {"256 B granules, log-uniform", 256, {0}, {256}, true},
    {"256 B granules, uniform", 256, {0}, {256}, false},
    {"256 B named, log-uniform", 16, {256}, {256}, true},
    {"256 B named, uniform", 16, {256}, {256}, false},
    {"64 KiB named, log-uniform", 16, {65536}, {65536}, true},
    {"64 KiB named, uniform", 16, {65536}, {65536}, false},
    {"16 B 256 B 64 KiB, log-uniform", 16, {256, 65536}, {16, 256, 65536}, true},
    {"16 B 256 B 64 KiB, uniform", 16, {256, 65536}, {16, 256, 65536}, false},
    {"4 KiB not named, log-uniform", 16, {0}, {4096}, true},
};

typedef struct live_block {
    uint64_t handle, size;
} live_block;

static live_block live[LIVE_MAX];
static uint32_t sizes[SIZES];
static uint32_t histogram[BUCKETS];
static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* SIZE_MIN times a random power of two in [1, SIZE_MAX_BYTES / SIZE_MIN), straight between the powers of two that the
 * root of two parts; no libm. */
static uint32_t log_uniform_size(void)
{
    double factor = 1, root = 1.4142135623730951, step = 0.5;
    uint64_t bits = next_random();
    for (int i = 0; i < 30; i++, bits >>= 1, step /= 2) {
        if (bits & 1) factor *= root;
        /* sqrt by Newton; root is in (1, 1.42]. */
        double next = 1 + (root - 1) / 2;
        for (int k = 0; k < 4; k++) next = (next + root / next) / 2;
        root = next;
    }
    unsigned doubling = (unsigned)(next_random() >> 20) % 5;
    return (uint32_t)((double)(SIZE_MIN << doubling) * factor);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

typedef struct run {
    acre_suballoc *suballoc;
    uint32_t live_count, turn, aligns;
    uint64_t used, failures;
    const scenario *what;
} run;

static inline bool allocate(run *r, uint64_t random)
{
    uint64_t size = sizes[random & (SIZES - 1)];
    uint64_t align = r->what->align[0];
    if (r->aligns > 1) {
        align = r->what->align[r->turn];
        r->turn = r->turn + 1 == r->aligns ? 0 : r->turn + 1;
    }
    acre_suballoc_block block;
    if (r->live_count == LIVE_MAX || acre_suballoc_alloc(r->suballoc, size, align, &block) != ACRE_OK) return false;
    live[r->live_count++] = (live_block){block.handle, block.size};
    r->used += block.size;
    return true;
}

static inline void release(run *r, uint64_t random)
{
    uint32_t i = (uint32_t)((random >> 32) * r->live_count >> 32);
    live_block block = live[i];
    live[i] = live[--r->live_count];
    r->used -= block.size;
    if (acre_suballoc_free(r->suballoc, block.handle) != ACRE_OK) abort();
}

static inline void operate(run *r, uint64_t limit)
{
    uint64_t random = next_random();
    if (r->used < limit && allocate(r, random)) return;
    r->failures += r->used < limit;
    if (r->live_count != 0) release(r, random);
}

static double p9999_ns(run *r, uint64_t operations, uint64_t limit, double ns_per_tick)
{
    memset(histogram, 0, sizeof histogram);
    uint64_t overhead = UINT64_MAX;
    for (int i = 0; i < 1000; i++) {
        uint64_t begin = ticks(), ticks_taken = ticks() - begin;
        if (ticks_taken < overhead) overhead = ticks_taken;
    }
    for (uint64_t i = 0; i < operations; i++) {
        uint64_t begin = ticks();
        operate(r, limit);
        uint64_t taken = ticks() - begin;
        taken = taken > overhead ? taken - overhead : 0;
        histogram[taken < BUCKETS ? taken : BUCKETS - 1]++;
    }
    uint64_t slower = 0;
    uint32_t bucket = BUCKETS;
    while (bucket > 0 && slower + histogram[bucket - 1] <= operations / 10000) slower += histogram[--bucket];
    return bucket * ns_per_tick;
}

static void measure(const scenario *what, uint64_t operations, double ns_per_tick)
{
    acre_suballoc_options options = {.size = TOTAL_BYTES, .granularity = what->granularity};
    memcpy(options.alignments, what->named, sizeof what->named);
    run r = {.what = what};
    if (acre_suballoc_create(&options, &r.suballoc) != ACRE_OK) abort();
    while (r.aligns < 4 && what->align[r.aligns] != 0) r.aligns++;
    for (int i = 0; i < SIZES; i++)
        sizes[i] = what->log_uniform ? log_uniform_size()
                                     : (uint32_t)(SIZE_MIN + next_random() % (SIZE_MAX_BYTES - SIZE_MIN + 1));

    uint64_t limit = TOTAL_BYTES / 10 * 7;
    for (uint64_t i = 0; i < operations / 4; i++) operate(&r, limit);
    r.failures = 0;
    uint64_t begin = now_ns();
    for (uint64_t i = 0; i < operations; i++) operate(&r, limit);
    double ns = (double)(now_ns() - begin) / (double)operations;
    double tail = p9999_ns(&r, operations, limit, ns_per_tick);
    acre_suballoc_stats stats;
    acre_suballoc_get_stats(r.suballoc, &stats);

    double fill_sum = 0, fill_worst = 1;
    for (int i = 0; i < FILL_RUNS; i++) {
        for (;;) {
            if (!allocate(&r, next_random()) || !allocate(&r, next_random())) break;
            release(&r, next_random());
        }
        double fill = (double)r.used / (double)TOTAL_BYTES;
        fill_sum += fill;
        if (fill < fill_worst) fill_worst = fill;
        while (r.used > limit) release(&r, next_random());
        for (uint64_t k = 0; k < operations / 16; k++) operate(&r, limit);
    }
    const char *wrong = acre_suballoc_check(r.suballoc);
    if (wrong != NULL) printf("BROKEN: %s\n", wrong);
    printf("%-32s %7.1f %8.0f   %.4f  %.4f %8u %7u %8.3f %9llu\n", what->name, ns, tail, fill_sum / FILL_RUNS,
           fill_worst, stats.block_count, stats.hole_count, stats.fragmentation, (unsigned long long)r.failures);
    acre_suballoc_destroy(r.suballoc);
}

int main(int argc, char **argv)
{
    uint64_t operations = argc > 1 ? strtoull(argv[1], NULL, 0) : 4000000;
    if (argc > 2) random_state ^= strtoull(argv[2], NULL, 0) * 0x9E3779B97F4A7C15u;
    uint64_t begin_ns = now_ns(), begin = ticks();
    while (now_ns() - begin_ns < 50000000) continue;
    double ns_per_tick = (double)(now_ns() - begin_ns) / (double)(ticks() - begin);
    printf("768 MiB, 4-128 KiB, 70%% full, %llu operations\n%-32s %7s %8s   %-6s  %-6s %8s %7s %8s %9s\n",
           (unsigned long long)operations, "alignment, sizes", "ns/op", "p99.99", "fill", "worst", "blocks", "holes",
           "fragm.", "failures");
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) measure(&scenarios[i], operations, ns_per_tick);
    return 0;
}
