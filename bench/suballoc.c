/* bench/suballoc: the coalescing suballocator at the work of a medium heap: 768 MiB, blocks of 4 to 128 KiB, 70% full.
 *
 *   build/bench/suballoc [operations] [rounds] [seed] [beginning of scenarios' names]
 *   ACRE_SUBALLOC_PEERS=name=/path/peer.so,… build/bench/suballoc        side by side (suballoc_subject.h)
 *
 * Per scenario and subject, on one thread; subjects take turns in each round, figures are medians over the rounds:
 *   ns/op   a random operation each time: below 70% it allocates, above it frees a random block. CPU time over
 *           operations, median of 64 slices; the harness (random number, size table, table of live blocks, a call
 *           through a pointer, a check of the offset) is part of it.
 *   least   the same of the round that was disturbed least
 *   p99.99  the same again, with every call timed by the cycle counter; the counter's own cost is taken off.
 *   fill    two allocations to one free of a random block until an allocation fails; bytes asked for in blocks by
 *           768 MiB at that moment. Mean and worst of several runs, each from the state that the last one left at 70%.
 * Sizes are uniform over the range, or log-uniform (each doubling is as likely as the next). Where every block starts
 * at a multiple of 64 KiB, nobody can use what lies between a block's end and the next multiple: there "70% full"
 * counts blocks up to that multiple (fill does not). Every block is checked against its alignment and the range, and
 * before anything is timed a short run checks each against all others (not if ACRE_SUBALLOC_TRUST is set). */
#define _POSIX_C_SOURCE 199309L /* clock_gettime */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "acre/suballoc.h"
#include "suballoc_subject.h"

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
    BUCKETS = 1 << 19, /* of one tick each; the last takes all that is slower */
    FILL_RUNS = 8,
    SUBJECTS_MAX = 8,
    ROUNDS_MAX = 64,
    SLICES = 64,
};
static const uint64_t TOTAL_BYTES = (uint64_t)768 << 20;
static const uint64_t SIZE_MIN = 4 << 10, SIZE_MAX_BYTES = 128 << 10;

typedef struct scenario {
    const char *name;
    uint64_t granularity;
    bool named;
    uint64_t align[SUBJECT_ALIGNMENTS]; /* asked for in turn; 0 ends the list */
    bool log_uniform;
} scenario;

static const scenario scenarios[] = {
    {"16 B, log-uniform", 16, false, {16}, true},
    {"16 B, uniform", 16, false, {16}, false},
    {"256 B, log-uniform", 256, false, {256}, true},
    {"256 B, uniform", 256, false, {256}, false},
    {"64 KiB, log-uniform", 65536, false, {65536}, true},
    {"64 KiB, uniform", 65536, false, {65536}, false},
    {"256 B in 16 B, log-uniform", 16, true, {256}, true},
    {"256 B in 16 B, uniform", 16, true, {256}, false},
    {"64 KiB in 16 B, log-uniform", 16, true, {65536}, true},
    {"64 KiB in 16 B, uniform", 16, true, {65536}, false},
    {"16 B 256 B 64 KiB, log-uniform", 16, true, {16, 256, 65536}, true},
    {"16 B 256 B 64 KiB, uniform", 16, true, {16, 256, 65536}, false},
    {"4 KiB not named, log-uniform", 16, false, {4096}, true},
};

typedef struct live_block {
    uint64_t handle;
    uint32_t size, counted;
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

/* CPU time of this thread: what others do on the machine costs it caches, not time. */
static uint64_t thread_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- acre --------------------------------------------------------------------------------------------------------- */

static void *acre_create(const subject_range *range)
{
    acre_suballoc_options options = {.size = range->bytes, .granularity = range->granularity};
    for (int i = 0, k = 0; range->named && i < SUBJECT_ALIGNMENTS && range->alignments[i] != 0; i++)
        if (range->alignments[i] > range->granularity && k < ACRE_SUBALLOC_ALIGNMENTS)
            options.alignments[k++] = range->alignments[i];
    acre_suballoc *suballoc;
    return acre_suballoc_create(&options, &suballoc) == ACRE_OK ? suballoc : NULL;
}

static void acre_destroy(void *self)
{
    const char *wrong = acre_suballoc_check(self);
    if (wrong != NULL) printf("BROKEN: %s\n", wrong);
    acre_suballoc_destroy(self);
}

static bool acre_alloc(void *self, uint64_t bytes, uint64_t alignment, subject_block *out)
{
    acre_suballoc_block block;
    if (acre_suballoc_alloc(self, bytes, alignment, &block) != ACRE_OK) return false;
    *out = (subject_block){block.offset, block.handle};
    return true;
}

static void acre_free(void *self, uint64_t handle)
{
    if (acre_suballoc_free(self, handle) != ACRE_OK) abort();
}

static const suballoc_subject acre_subject = {"acre", acre_create, acre_destroy, acre_alloc, acre_free};

/* --- one run ------------------------------------------------------------------------------------------------------ */

typedef struct run {
    const suballoc_subject *subject;
    void *self;
    uint32_t live_count, turn, aligns;
    uint64_t used, counted, count_mask, failures;
    const scenario *what;
} run;

static inline bool allocate(run *r, uint64_t random)
{
    uint32_t size = sizes[random & (SIZES - 1)];
    uint64_t align = r->what->align[0];
    if (r->aligns > 1) {
        align = r->what->align[r->turn];
        r->turn = r->turn + 1 == r->aligns ? 0 : r->turn + 1;
    }
    subject_block block;
    if (r->live_count == LIVE_MAX || !r->subject->alloc(r->self, size, align, &block)) return false;
    if ((block.offset & (align - 1)) != 0 || block.offset + size > TOTAL_BYTES) abort();
    uint32_t counted = (uint32_t)((size + r->count_mask) & ~r->count_mask);
    live[r->live_count++] = (live_block){block.handle, size, counted};
    r->used += size;
    r->counted += counted;
    return true;
}

static inline void release(run *r, uint64_t random)
{
    uint32_t i = (uint32_t)((random >> 32) * r->live_count >> 32);
    live_block block = live[i];
    live[i] = live[--r->live_count];
    r->used -= block.size;
    r->counted -= block.counted;
    r->subject->free_block(r->self, block.handle);
}

static inline void operate(run *r, uint64_t limit)
{
    uint64_t random = next_random();
    if (r->counted < limit && allocate(r, random)) return;
    r->failures += r->counted < limit;
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

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

typedef struct figures {
    double ns, tail_ns, fill, fill_worst;
    uint64_t failures;
} figures;

/* False: the subject cannot do this one. */
static bool measure(const suballoc_subject *subject, const scenario *what, uint64_t operations, double ns_per_tick,
                    figures *out)
{
    subject_range range = {.bytes = TOTAL_BYTES, .granularity = what->granularity, .named = what->named,
                           .blocks_max = LIVE_MAX};
    memcpy(range.alignments, what->align, sizeof what->align);
    run r = {.subject = subject, .what = what};
    while (r.aligns < SUBJECT_ALIGNMENTS && what->align[r.aligns] != 0) r.aligns++;
    r.count_mask = r.aligns == 1 ? what->align[0] - 1 : 0;
    if ((r.self = subject->create(&range)) == NULL) return false;

    uint64_t limit = TOTAL_BYTES / 10 * 7;
    for (uint64_t i = 0; i < operations / 4; i++) operate(&r, limit);
    r.failures = 0;
    double slices[SLICES];
    for (int k = 0; k < SLICES; k++) {
        uint64_t begin = thread_ns();
        for (uint64_t i = 0; i < operations / SLICES; i++) operate(&r, limit);
        slices[k] = (double)(thread_ns() - begin) / (double)(operations / SLICES);
    }
    out->ns = median(slices, SLICES);
    out->tail_ns = p9999_ns(&r, operations, limit, ns_per_tick);
    out->failures = r.failures;

    double fill_sum = 0;
    out->fill_worst = 1;
    for (int i = 0; i < FILL_RUNS; i++) {
        for (;;) {
            if (!allocate(&r, next_random()) || !allocate(&r, next_random())) break;
            release(&r, next_random());
        }
        double fill = (double)r.used / (double)TOTAL_BYTES;
        fill_sum += fill;
        if (fill < out->fill_worst) out->fill_worst = fill;
        while (r.counted > limit) release(&r, next_random());
        for (uint64_t k = 0; k < operations / 16; k++) operate(&r, limit);
    }
    out->fill = fill_sum / FILL_RUNS;
    while (r.live_count != 0) release(&r, next_random());
    subject->destroy(r.self);
    return true;
}

/* --- does it hand out what is free? ------------------------------------------------------------------------------- */

static uint8_t taken[((size_t)768 << 20) / 16];

/* Every block against all others, 16 bytes at a time: false if two overlap. Blocks remember their place here. */
static bool is_sound(const suballoc_subject *subject, const scenario *what)
{
    subject_range range = {.bytes = TOTAL_BYTES, .granularity = what->granularity, .named = what->named,
                           .blocks_max = LIVE_MAX};
    memcpy(range.alignments, what->align, sizeof what->align);
    static uint64_t offsets[LIVE_MAX];
    uint32_t count = 0, aligns = 0;
    while (aligns < SUBJECT_ALIGNMENTS && what->align[aligns] != 0) aligns++;
    void *self = subject->create(&range);
    if (self == NULL) return true;
    bool sound = true;
    memset(taken, 0, sizeof taken);
    for (int i = 0; i < 40000 && sound; i++) {
        uint64_t random = next_random();
        subject_block block;
        uint32_t size = sizes[random & (SIZES - 1)], units = (size + 15) / 16;
        if (i % 5 < 3 && subject->alloc(self, size, what->align[(uint32_t)i % aligns], &block)) {
            uint8_t *at = &taken[block.offset / 16];
            sound = block.offset % 16 == 0 && block.offset + size <= TOTAL_BYTES;
            for (uint32_t k = 0; k < units && sound; k++) sound = at[k] == 0;
            if (sound) memset(at, 1, units);
            live[count] = (live_block){block.handle, size, units};
            offsets[count++] = block.offset;
        } else if (count != 0) {
            uint32_t k = (uint32_t)((random >> 32) * count >> 32);
            memset(&taken[offsets[k] / 16], 0, live[k].counted);
            subject->free_block(self, live[k].handle);
            live[k] = live[--count];
            offsets[k] = offsets[count];
        }
    }
    while (count != 0) subject->free_block(self, live[--count].handle);
    subject->destroy(self);
    return sound;
}

/* --- subjects and rounds ------------------------------------------------------------------------------------------ */

typedef struct entry {
    const suballoc_subject *subject;
    char name[32];
} entry;

/* ACRE_SUBALLOC_PEERS: name=path,… */
static int load_peers(entry *entries, int count)
{
    const char *list = getenv("ACRE_SUBALLOC_PEERS");
    while (list != NULL && *list != 0 && count < SUBJECTS_MAX) {
        const char *equals = strchr(list, '='), *end = strchr(list, ',');
        if (end == NULL) end = list + strlen(list);
        char path[4096];
        if (equals == NULL || equals > end || equals - list >= 32 || end - equals > 4095) {
            fprintf(stderr, "ACRE_SUBALLOC_PEERS: not name=path: %s\n", list);
            exit(2);
        }
        entry *e = &entries[count++];
        snprintf(e->name, sizeof e->name, "%.*s", (int)(equals - list), list);
        snprintf(path, sizeof path, "%.*s", (int)(end - equals - 1), equals + 1);
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        e->subject = library != NULL ? dlsym(library, "bench_suballoc_subject") : NULL;
        if (e->subject == NULL) {
            fprintf(stderr, "%s: %s\n", e->name, dlerror());
            exit(2);
        }
        printf("%s: %s\n", e->name, e->subject->title);
        list = *end == ',' ? end + 1 : end;
    }
    return count;
}

static void compare(const scenario *what, const entry *entries, int count, uint64_t operations, int rounds,
                    double ns_per_tick)
{
    static figures all[SUBJECTS_MAX][ROUNDS_MAX];
    bool can[SUBJECTS_MAX];
    for (int i = 0; i < SIZES; i++)
        sizes[i] = what->log_uniform ? log_uniform_size()
                                     : (uint32_t)(SIZE_MIN + next_random() % (SIZE_MAX_BYTES - SIZE_MIN + 1));
    for (int s = 0; s < count; s++) {
        can[s] = getenv("ACRE_SUBALLOC_TRUST") != NULL || is_sound(entries[s].subject, what);
        if (!can[s]) printf("%-32s %-10s hands out what is not free\n", what->name, entries[s].name);
    }
    for (int round = 0; round < rounds; round++) {
        uint64_t seed = random_state;
        for (int k = 0; k < count; k++) {
            int s = (k + round) % count;
            random_state = seed; /* everybody's round begins alike */
            if (can[s]) can[s] = measure(entries[s].subject, what, operations, ns_per_tick, &all[s][round]);
        }
    }
    for (int s = 0; s < count; s++) {
        if (!can[s]) continue;
        double ns[ROUNDS_MAX], tail[ROUNDS_MAX], fill[ROUNDS_MAX], worst = 1;
        for (int round = 0; round < rounds; round++) {
            ns[round] = all[s][round].ns;
            tail[round] = all[s][round].tail_ns;
            fill[round] = all[s][round].fill;
            if (all[s][round].fill_worst < worst) worst = all[s][round].fill_worst;
        }
        double ns_median = median(ns, rounds); /* and sorts */
        printf("%-32s %-10s %7.1f %7.1f %8.0f   %.4f  %.4f %9llu\n", s == 0 ? what->name : "", entries[s].name,
               ns_median, ns[0], median(tail, rounds), median(fill, rounds), worst,
               (unsigned long long)all[s][rounds - 1].failures);
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    uint64_t operations = argc > 1 ? strtoull(argv[1], NULL, 0) : 4000000;
    int rounds = argc > 2 ? atoi(argv[2]) : 1;
    if (rounds < 1 || rounds > ROUNDS_MAX) rounds = 1;
    if (argc > 3) random_state ^= strtoull(argv[3], NULL, 0) * 0x9E3779B97F4A7C15u;
    uint64_t begin_ns = now_ns(), begin = ticks();
    while (now_ns() - begin_ns < 50000000) continue;
    double ns_per_tick = (double)(now_ns() - begin_ns) / (double)(ticks() - begin);
    entry entries[SUBJECTS_MAX] = {{&acre_subject, "acre"}};
    int count = load_peers(entries, 1);
    printf("768 MiB, 4-128 KiB, 70%% full, %llu operations, %d rounds\n%-32s %-10s %7s %7s %8s   %-6s  %-6s %9s\n",
           (unsigned long long)operations, rounds, "alignment, sizes", "subject", "ns/op", "least", "p99.99", "fill",
           "worst", "failures");
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++)
        if (argc < 5 || strncmp(scenarios[i].name, argv[4], strlen(argv[4])) == 0)
            compare(&scenarios[i], entries, count, operations, rounds, ns_per_tick);
    return 0;
}
