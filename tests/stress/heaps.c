/* heaps: native heaps under many threads, made and destroyed all the time.
 *
 *   heaps [SECONDS [SEED]]
 *
 * Time goes by in phases. A phase makes shared heaps of different kinds (plain, with a budget, with clear values,
 * with other size classes, with small caches) and 16 threads. Each thread allocates from all of them, mails blocks to
 * others, which free them, and makes single_thread heaps of its own, uses and destroys them, all the time: heap numbers
 * are used again while other heaps with their own pages come and go. On the way every thread tries what must fail: a
 * free or realloc to the wrong heap, a larger block from a heap of another thread, a second free of a block that only
 * this thread knows. At the end of a phase the threads stop using the shared heaps and leave; while they are leaving,
 * with caches of these heaps in hand, the heaps are destroyed: half of them with all of their blocks still out.
 *
 * Malloc is not used on the way, so the same code runs under the sanitizers. The exit status is 0 only if every answer
 * was the right one, every pattern was whole, every check of the structures passed, and resident memory came back. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "acre/acre.h"

enum { THREADS = 16, SHARED = 6, HELD = 128, LETTERS = 64, BUDGETED = 1, FILLED = 2, RESIDENT_SLACK_MIB = 32 };
#define KIB ((size_t)1024)
#define MIB (1024 * KIB)
#define BUDGET_BYTES (24 * MIB)

typedef struct block {
    unsigned char *address;
    size_t size;
    unsigned heap;
} block;

typedef struct mailbox {
    pthread_mutex_t lock;
    block letters[LETTERS];
    unsigned count;
} mailbox;

typedef struct worker {
    pthread_t thread;
    uint64_t seed;
    mailbox mail;
} worker;

static acre_heap *shared[SHARED];
static worker workers[THREADS];
static pthread_barrier_t all_started, all_done;
static _Atomic uint64_t operations, over_budget, asked_for_budget, wrong_tries, made, phases;
static _Atomic bool phase_over;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
static const bool sanitized = true;
#else
static const bool sanitized = false;
#endif

static void expect(bool right, const char *what, int line)
{
    if (right) return;
    fprintf(stderr, "heaps.c:%d: not so: %s\n", line, what);
    abort();
}
#define EXPECT(condition) expect(condition, #condition, __LINE__)

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}
static uint64_t below(uint64_t *state, uint64_t n) { return (mix(*state += 0x9e3779b97f4a7c15u) >> 11) % n; }

static size_t some_size(uint64_t *state)
{
    unsigned dice = (unsigned)below(state, 100);
    unsigned doublings = dice < 80 ? 12 : dice < 98 ? 18 : 22; /* to 8 KiB, 512 KiB, 8 MiB */
    size_t base = (size_t)1 << below(state, doublings + 1);
    return base + below(state, base);
}

/* --- blocks ------------------------------------------------------------------------------------------------------ */

static void pattern(block b, bool fill)
{
    for (int end = 0; end < 2; end++) {
        size_t n = b.size < 32 ? b.size : 32, at = end ? b.size - n : 0;
        unsigned char want[32];
        for (size_t i = 0; i < n; i++) want[i] = (unsigned char)mix((uintptr_t)b.address + b.size * 31 + at + i);
        if (fill) memcpy(b.address + at, want, n);
        else EXPECT(memcmp(b.address + at, want, n) == 0);
    }
}

static bool more_budget(void *context, acre_heap *heap, size_t bytes)
{
    (void)context, (void)heap, (void)bytes;
    return atomic_fetch_add(&asked_for_budget, 1) % 2 == 0; /* a lie every other time: it must not matter */
}

static acre_heap *make_shared(unsigned i)
{
    acre_heap_options o = {.name = "shared", .purge_delay_ms = 20};
    if (i == BUDGETED) {
        o.budget_bytes = BUDGET_BYTES;
        o.on_over_budget = more_budget;
    }
    if (i == FILLED) o.fill = true;
    if (i == 3) o.small_size_max = 8192, o.classes_per_doubling = 4;
    if (i == 4) o.magazine_bytes_max = 512, o.thread_bytes_max = 8 * KIB, o.cache_bytes_max = 256 * KIB;
    if (i == 5) o.named_align = 64 * KIB;
    acre_heap *heap = NULL;
    EXPECT(acre_heap_create(&o, &heap) == ACRE_OK);
    atomic_fetch_add(&made, 1);
    return heap;
}

static block make_block(uint64_t *state, unsigned which)
{
    static _Thread_local acre_status why;
    acre_heap *heap = shared[which];
    block b = {NULL, some_size(state), which};
    unsigned kind = (unsigned)below(state, 4);
    size_t align = kind == 1 ? (size_t)1 << below(state, 17) : 0;
    if (kind == 0) b.address = acre_heap_alloc_zeroed(heap, b.size, 0, &why);
    else if (kind == 1) b.address = acre_heap_alloc(heap, b.size, align, &why);
    else b.address = acre_heap_alloc_at(heap, b.size, 0, ACRE_HERE, &why);
    if (!b.address) {
        EXPECT(which == BUDGETED && why == ACRE_OVER_BUDGET);
        atomic_fetch_add(&over_budget, 1);
        return b;
    }
    if (align) EXPECT(((uintptr_t)b.address & (align - 1)) == 0);
    EXPECT(acre_owner(b.address) == heap);
    EXPECT(acre_usable_size(b.address) >= b.size);
    if (kind == 0) EXPECT(b.address[0] == 0 && b.address[b.size / 2] == 0 && b.address[b.size - 1] == 0);
    else if (which == FILLED) EXPECT(b.address[0] == 0xFA && b.address[b.size - 1] == 0xFA);
    if (kind >= 2 && b.size > 8192) EXPECT(strcmp(acre_block_site(b.address)->function, __func__) == 0);
    pattern(b, true);
    return b;
}

static void drop_block(block b)
{
    pattern(b, false);
    EXPECT(acre_heap_free(shared[b.heap], b.address) == ACRE_OK);
}

/* None of it may change anything. */
static void try_what_is_wrong(block b)
{
    acre_heap *other = shared[(b.heap + 1) % SHARED];
    acre_status why = ACRE_OK;
    EXPECT(acre_heap_free(other, b.address) == ACRE_FOREIGN_POINTER);
    EXPECT(acre_heap_realloc(other, b.address, b.size + 1, &why) == NULL && why == ACRE_FOREIGN_POINTER);
    EXPECT(acre_heap_resize(other, b.address, 1) == ACRE_FOREIGN_POINTER);
    EXPECT(acre_heap_free(shared[b.heap], &b) == ACRE_FOREIGN_POINTER); /* on the stack */
    EXPECT(acre_heap_alloc(shared[0], 1, 3, &why) == NULL && why == ACRE_INVALID_ARGUMENT);
    pattern(b, false);
    atomic_fetch_add_explicit(&wrong_tries, 1, memory_order_relaxed);
}

static void post(uint64_t *state, block b)
{
    mailbox *m = &workers[below(state, THREADS)].mail;
    pthread_mutex_lock(&m->lock);
    bool fits = m->count < LETTERS;
    if (fits) m->letters[m->count++] = b;
    pthread_mutex_unlock(&m->lock);
    if (!fits) drop_block(b);
}

static void open_mail(mailbox *m)
{
    block mine[LETTERS];
    pthread_mutex_lock(&m->lock);
    unsigned n = m->count;
    memcpy(mine, m->letters, n * sizeof *mine);
    m->count = 0;
    pthread_mutex_unlock(&m->lock);
    for (unsigned i = 0; i < n; i++) drop_block(mine[i]);
}

/* --- heaps of one thread ------------------------------------------------------------------------------------------ */

static void *intrude(void *argument)
{
    acre_status why = ACRE_OK;
    EXPECT(acre_heap_alloc(argument, 100 * KIB, 0, &why) == NULL && why == ACRE_WRONG_THREAD);
    return NULL;
}

static void use_own_heap(uint64_t *state)
{
    acre_heap_options o = {.name = "own", .single_thread = true, .budget_bytes = 64 * MIB};
    acre_heap *heap = NULL;
    void *blocks[64] = {NULL};
    EXPECT(acre_heap_create(&o, &heap) == ACRE_OK);
    atomic_fetch_add(&made, 1);
    for (int i = 0; i < 300; i++) {
        size_t k = below(state, 64), size = some_size(state) % (256 * KIB) + 1;
        if (blocks[k] && below(state, 3)) {
            EXPECT(acre_heap_free(heap, blocks[k]) == ACRE_OK);
            blocks[k] = NULL;
        } else {
            unsigned char *p = acre_heap_realloc(heap, blocks[k], size, NULL);
            EXPECT(p != NULL && acre_owner(p) == heap);
            p[0] = p[size - 1] = (unsigned char)k;
            blocks[k] = p;
        }
    }
    if (below(state, 8) == 0) {
        pthread_t intruder;
        if (pthread_create(&intruder, NULL, intrude, heap) == 0) pthread_join(intruder, NULL);
    }
    void *once = acre_heap_alloc(heap, 20 * KIB, 0, NULL);
    EXPECT(once && acre_heap_free(heap, once) == ACRE_OK && acre_heap_free(heap, once) == ACRE_DOUBLE_FREE);
    EXPECT(acre_heap_check(heap));
    EXPECT(acre_heap_destroy(heap) == ACRE_OK); /* with what is left in it */
}

/* --- threads and phases ------------------------------------------------------------------------------------------- */

static void *work(void *argument)
{
    worker *me = argument;
    uint64_t state = me->seed, done = 0;
    block held[HELD] = {{0}};
    pthread_barrier_wait(&all_started);
    while (!atomic_load_explicit(&phase_over, memory_order_relaxed)) {
        block *b = &held[below(&state, HELD)];
        unsigned dice = (unsigned)below(&state, 100);
        if (!b->address) {
            *b = make_block(&state, (unsigned)below(&state, SHARED));
        } else {
            if (dice < 5) try_what_is_wrong(*b);
            if (dice < 20) post(&state, *b);
            else drop_block(*b);
            b->address = NULL;
        }
        if (++done % 16 == 0) open_mail(&me->mail);
        if (below(&state, 3000) == 0) use_own_heap(&state);
        if (below(&state, 3000) == 0) acre_heap_trim(shared[below(&state, SHARED)], 0);
        if (below(&state, 3000) == 0) acre_trim(1 * MIB);
        if (below(&state, 3000) == 0) acre_heap_set_budget(shared[BUDGETED], BUDGET_BYTES / (1 + below(&state, 3)));
    }
    /* Heaps with an odd number are destroyed with blocks in them. */
    for (unsigned i = 0; i < HELD; i++)
        if (held[i].address && held[i].heap % 2 == 0) drop_block(held[i]);
    atomic_fetch_add(&operations, done);
    pthread_barrier_wait(&all_done);
    return NULL; /* its caches of the shared heaps go now, while these are being destroyed */
}

static void run_phase(uint64_t *state)
{
    for (unsigned i = 0; i < SHARED; i++) shared[i] = make_shared(i);
    atomic_store(&phase_over, false);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i].seed = mix(*state += 1);
        EXPECT(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    }
    pthread_barrier_wait(&all_started);
    usleep((useconds_t)(50000 + below(state, 200000)));
    atomic_store(&phase_over, true);
    pthread_barrier_wait(&all_done);
    for (unsigned i = 0; i < THREADS; i++) {
        mailbox *m = &workers[i].mail;
        for (unsigned k = 0; k < m->count; k++)
            if (m->letters[k].heap % 2 == 0) drop_block(m->letters[k]);
        m->count = 0;
    }
    for (unsigned i = 0; i < SHARED; i++) EXPECT(acre_heap_destroy(shared[i]) == ACRE_OK);
    for (unsigned i = 0; i < THREADS; i++) pthread_join(workers[i].thread, NULL);
    atomic_fetch_add(&phases, 1);
}

static size_t resident(void)
{
    char text[64] = "";
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f) return 0;
    if (!fgets(text, sizeof text, f)) text[0] = 0;
    fclose(f);
    char *second = strchr(text, ' ');
    return second ? (size_t)strtoull(second, NULL, 10) * (size_t)sysconf(_SC_PAGESIZE) : 0;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 20, began = now();
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL) * 1000003u ^ (uint64_t)getpid();
    printf("heaps: %g s, seed %#llx\n", seconds, (unsigned long long)seed);
    fflush(stdout);
    for (unsigned i = 0; i < THREADS; i++) pthread_mutex_init(&workers[i].mail.lock, NULL);
    pthread_barrier_init(&all_started, NULL, THREADS + 1);
    pthread_barrier_init(&all_done, NULL, THREADS + 1);
    uint64_t state = seed;
    run_phase(&state);
    acre_trim(0);
    size_t resident_before = resident();
    while (now() - began < seconds) run_phase(&state);
    bool whole = acre_heap_check(acre_heap_process());
    acre_trim(0);
    size_t resident_after = resident();
    size_t grown = resident_after > resident_before ? resident_after - resident_before : 0;
    bool ok = whole && (sanitized || grown <= RESIDENT_SLACK_MIB * MIB);
    printf("heaps: %s: %llu phases, %llu heaps, %llu operations, %llu wrong tries, "
           "%llu times over budget (%llu asked), structures %s, resident %zu -> %zu KiB\n",
           ok ? "ok" : "FAILED", (unsigned long long)phases, (unsigned long long)made, (unsigned long long)operations,
           (unsigned long long)wrong_tries, (unsigned long long)over_budget, (unsigned long long)asked_for_budget,
           whole ? "in order" : "BROKEN", resident_before / KIB, resident_after / KIB);
    return ok ? 0 : 1;
}
