/* stress: everything that a program may do to malloc, at once, for as long as it is told.
 *
 *   stress [SECONDS [SEED]]        ACRE_STRESS_SMALL=1: 300 MB alive at most, else 1.5 GB
 *
 * 64 threads share 64 *seats*. A seat owns a table of blocks and a mailbox; a thread sits down, works on the blocks of
 * its seat, frees what others mailed to it, and dies at a random moment: by return, by pthread_exit or by
 * pthread_cancel. The next thread on the seat inherits the blocks, so that blocks outlive their makers. Any thread may
 * fork: the child checks and frees blocks of every seat, allocates, starts a thread, and must be done before its
 * watchdog. One more thread trims.
 *
 * Every block carries a pattern made from its address and size: at its head, at its tail, and in between at 64 places.
 * Whoever frees or moves it looks at all of them first. What calloc gives must be zero.
 *
 * A fork copies the process at one instant (a thread that writes to a page already copied waits for the end of the
 * copy), so the child sees of each other thread a prefix of what it did. An entry that is `busy` there is left alone.
 *
 * In sanitizer builds malloc is not acre's: there the calls go to acre_heap_process(). The thread sanitizer cannot
 * start threads in the child of a threaded process: there nobody forks. The exit status is 0 only if no pattern was
 * broken, no request refused, no child failed, all structures are in order at the end, and the resident memory after
 * everything was freed is within 64 MiB of the start. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "acre/acre.h"

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define UNDER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#endif
#endif
#ifndef UNDER_TSAN
#define UNDER_TSAN 0
#endif
#ifndef UNDER_ASAN
#define UNDER_ASAN 0
#endif

enum {
    SEATS = UNDER_TSAN || UNDER_ASAN ? 16 : 64,
    ENTRIES = 256,
    LETTERS = 128,
    BURST = 1200,
    MIDDLES = 64,         /* places looked at between head and tail */
    CHILDREN_MAX = 2,     /* at once */
    WATCHDOG_SECONDS = 90,
    RESIDENT_SLACK_MIB = 64,
};
#define KIB ((size_t)1024)
#define MIB (1024 * KIB)

typedef struct block {
    unsigned char *address;
    size_t size;
} block;

typedef struct entry {
    block b;
    _Atomic bool busy; /* somebody is changing it */
} entry;

typedef struct seat {
    entry entries[ENTRIES];
    pthread_mutex_t lock; /* guards the mailbox */
    block letters[LETTERS];
    unsigned letter_count;
    /* the manager's */
    pthread_t thread;
    bool taken;
    _Atomic bool over; /* the thread has left, join it */
    uint64_t seed;
} seat;

static seat seats[SEATS];
static size_t live_max = 1500 * MIB;
static _Atomic size_t live, live_peak;
static _Atomic bool stop;
static bool in_child; /* of a fork: whoever holds the lock of a mailbox was left behind */
static _Atomic int children;
static _Atomic uint64_t operations, born, returned, exited, cancelled, forks, trims, mailed, refused, failures;
static pthread_key_t late_key;

/* --- the calls under test ---------------------------------------------------------------------------------------- */

#ifdef ACRE_NO_OVERRIDE
static void *do_alloc(size_t size) { return acre_heap_alloc(acre_heap_process(), size, 0, NULL); }
static void *do_zeroed(size_t size) { return acre_heap_alloc_zeroed(acre_heap_process(), size, 0, NULL); }
static void *do_aligned(size_t align, size_t size) { return acre_heap_alloc(acre_heap_process(), size, align, NULL); }
static void *do_realloc(void *p, size_t size) { return acre_heap_realloc(acre_heap_process(), p, size, NULL); }
static size_t do_usable(void *p) { return acre_usable_size(p); }
static void do_free(void *p)
{
    if (acre_heap_free(acre_heap_process(), p) != ACRE_OK) abort();
}
static void do_trim(void) { acre_trim(0); }
#else
static void *do_alloc(size_t size) { return malloc(size); }
static void *do_zeroed(size_t size) { return calloc(size, 1); }
static void *do_aligned(size_t align, size_t size)
{
    void *p = NULL;
    if (align < sizeof(void *)) return memalign(align, size);
    return posix_memalign(&p, align, size) == 0 ? p : NULL;
}
static void *do_realloc(void *p, size_t size) { return realloc(p, size); }
static size_t do_usable(void *p) { return malloc_usable_size(p); }
static void do_free(void *p) { free(p); }
static void do_trim(void) { malloc_trim(0); }
#endif

/* --- chance ------------------------------------------------------------------------------------------------------ */

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t next(uint64_t *state) { return mix(*state += 0x9e3779b97f4a7c15u); }
static uint64_t below(uint64_t *state, uint64_t n) { return (next(state) >> 11) % n; }

/* From low on, doubling by doubling alike, to high at most. */
static size_t log_uniform(uint64_t *state, size_t low, size_t high)
{
    unsigned doublings = 0;
    while ((low << (doublings + 1)) <= high) doublings++;
    size_t base = low << below(state, doublings + 1);
    size_t size = base + below(state, base);
    return size > high ? high : size;
}

static size_t some_size(uint64_t *state)
{
    unsigned dice = (unsigned)below(state, 1000);
    if (dice < 900) return log_uniform(state, 1, 4 * KIB);
    if (dice < 980) return log_uniform(state, 4 * KIB, 256 * KIB);
    if (dice < 997) return log_uniform(state, 256 * KIB, 8 * MIB);
    return log_uniform(state, 8 * MIB, 64 * MIB);
}

/* --- patterns ---------------------------------------------------------------------------------------------------- */

static void complain(const char *what, const void *address, size_t size, size_t at)
{
    char line[200];
    int n = snprintf(line, sizeof line, "stress[%d]: %s: block %p of %zu bytes, at %zu\n", (int)getpid(), what, address,
                     size, at);
    if (write(2, line, (size_t)n) < 0) abort();
    atomic_fetch_add(&failures, 1);
    abort(); /* a core with the heap as it is says more than a count */
}

static uint64_t pattern(const void *address, size_t size, size_t at)
{
    return mix((uint64_t)(uintptr_t)address ^ size * 0x9e3779b97f4a7c15u ^ at << 20);
}

/* Calls one(p + at, the bytes of the pattern there) for each place of the block below `limit`. fill or check. */
static void at_places(unsigned char *p, const void *maker, size_t size, size_t limit, bool fill)
{
    size_t step = (size / MIDDLES + 4095) / 4096 * 4096 + 8 * (size & 63), at = 0;
    while (at < limit) {
        uint64_t word = pattern(maker, size, at);
        size_t n = limit - at < sizeof word ? limit - at : sizeof word;
        if (fill) memcpy(p + at, &word, n);
        else if (memcmp(p + at, &word, n) != 0) complain("a broken pattern", maker, size, at);
        if (at < 64 || (size < 128 && at < size)) at += 8;
        else if (at + 64 >= size) at += 8;
        else {
            /* A place in the middle; never one that overlaps the tail, whose words count from a multiple of 8. */
            size_t tail = (size - 64 + 7) / 8 * 8;
            at = at + step < tail ? at + step : tail;
        }
    }
}

static void fill(block b) { at_places(b.address, b.address, b.size, b.size, true); }
static void check(block b) { at_places(b.address, b.address, b.size, b.size, false); }

static void check_zero(uint64_t *state, block b)
{
    static const unsigned char zeros[4096];
    size_t step = b.size <= 64 * KIB || below(state, 16) == 0 ? sizeof zeros : 256 * KIB;
    for (size_t at = 0; at < b.size; at += step) {
        size_t n = b.size - at < sizeof zeros ? b.size - at : sizeof zeros;
        if (memcmp(b.address + at, zeros, n) != 0) complain("calloc gave dirt", b.address, b.size, at);
    }
    size_t tail = b.size < 64 ? 0 : b.size - 64;
    if (memcmp(b.address + tail, zeros, b.size - tail) != 0) complain("calloc gave dirt", b.address, b.size, tail);
}

/* --- blocks ------------------------------------------------------------------------------------------------------ */

static bool reserve_live(size_t size)
{
    size_t now = atomic_fetch_add(&live, size) + size;
    if (now > live_max) {
        atomic_fetch_sub(&live, size);
        return false;
    }
    size_t peak = atomic_load(&live_peak);
    while (now > peak && !atomic_compare_exchange_weak(&live_peak, &peak, now)) {}
    return true;
}

/* A filled block of any kind; .address NULL: too much is alive already. */
static block make_block(uint64_t *state, size_t size)
{
    block b = {NULL, size};
    if (!reserve_live(size)) return b;
    unsigned kind = (unsigned)below(state, 10);
    if (kind < 6) {
        b.address = do_alloc(size);
    } else if (kind < 8) {
        b.address = do_zeroed(size);
        if (b.address) check_zero(state, b);
    } else {
        size_t align = (size_t)1 << below(state, below(state, 8) == 0 ? 21 : 13);
        b.address = do_aligned(align, size);
        if ((uintptr_t)b.address & (align - 1)) complain("not aligned", b.address, size, align);
    }
    if (!b.address) {
        atomic_fetch_add(&refused, 1);
        atomic_fetch_sub(&live, size);
        return b;
    }
    if (do_usable(b.address) < size) complain("holds less than asked for", b.address, size, do_usable(b.address));
    fill(b);
    return b;
}

static void drop_block(block b)
{
    check(b);
    do_free(b.address);
    atomic_fetch_sub(&live, b.size);
}

static void resize_block(uint64_t *state, block *b)
{
    size_t size = below(state, 2) ? some_size(state) : b->size + below(state, b->size + 1) - b->size / 2 + 1;
    if (!reserve_live(size)) return;
    check(*b);
    unsigned char *p = do_realloc(b->address, size);
    if (!p) {
        atomic_fetch_add(&refused, 1);
        atomic_fetch_sub(&live, size);
        check(*b);
        return;
    }
    at_places(p, b->address, b->size, b->size < size ? b->size : size, false);
    atomic_fetch_sub(&live, b->size);
    *b = (block){p, size};
    fill(*b);
}

/* --- mail -------------------------------------------------------------------------------------------------------- */

static bool send_letter(seat *to, block b)
{
    if (in_child) return false;
    pthread_mutex_lock(&to->lock);
    bool fits = to->letter_count < LETTERS;
    if (fits) to->letters[to->letter_count++] = b;
    pthread_mutex_unlock(&to->lock);
    if (fits) atomic_fetch_add_explicit(&mailed, 1, memory_order_relaxed);
    return fits;
}

static void open_mail(seat *s)
{
    block mine[LETTERS];
    pthread_mutex_lock(&s->lock);
    unsigned n = s->letter_count;
    memcpy(mine, s->letters, n * sizeof *mine);
    s->letter_count = 0;
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = 0; i < n; i++) drop_block(mine[i]);
}

/* --- what a worker does ------------------------------------------------------------------------------------------ */

static void work_on_entry(uint64_t *state, entry *e)
{
    atomic_store(&e->busy, true);
    if (!e->b.address) {
        e->b = make_block(state, some_size(state));
    } else {
        unsigned dice = (unsigned)below(state, 10);
        if (dice < 2) {
            resize_block(state, &e->b);
        } else {
            if (dice >= 4 || !send_letter(&seats[below(state, SEATS)], e->b)) drop_block(e->b);
            e->b.address = NULL;
        }
    }
    atomic_store(&e->busy, false);
}

/* Many blocks of one size: pages fill, empty, and change their class. */
static void burst(uint64_t *state)
{
    static _Thread_local block blocks[BURST];
    size_t size = log_uniform(state, 1, below(state, 10) ? 4 * KIB : 16 * KIB);
    unsigned n = 1 + (unsigned)below(state, BURST), made = 0;
    for (; made < n; made++) {
        blocks[made] = make_block(state, size);
        if (!blocks[made].address) break;
    }
    for (unsigned i = made; i > 1; i--) {
        unsigned j = (unsigned)below(state, i);
        block b = blocks[j];
        blocks[j] = blocks[i - 1];
        blocks[i - 1] = b;
    }
    unsigned kept = below(state, 2) ? made / 4 : 0;
    for (unsigned i = 0; i < made; i++)
        if (i >= kept || !send_letter(&seats[below(state, SEATS)], blocks[i])) drop_block(blocks[i]);
}

/* --- children ---------------------------------------------------------------------------------------------------- */

static void *child_thread(void *argument)
{
    uint64_t state = (uint64_t)(uintptr_t)argument;
    for (int i = 0; i < 200; i++) {
        block b = make_block(&state, some_size(&state));
        if (b.address) drop_block(b);
    }
    for (unsigned s = 0; s < SEATS; s += 2)
        for (unsigned i = 0; i < ENTRIES; i++) {
            entry *e = &seats[s].entries[i];
            if (!atomic_load(&e->busy) && e->b.address) drop_block(e->b);
        }
    return NULL;
}

static _Noreturn void child(uint64_t seed)
{
    uint64_t state = seed;
    in_child = true;
    alarm(WATCHDOG_SECONDS);
    atomic_store(&refused, 0);
    /* Some allocations first, while the caches are as the fork left them. */
    burst(&state);
    for (int i = 0; i < 200; i++) {
        block b = make_block(&state, some_size(&state));
        if (b.address && below(&state, 4)) drop_block(b);
    }
    for (unsigned s = 1; s < SEATS; s += 2) {
        for (unsigned i = 0; i < ENTRIES; i++) {
            entry *e = &seats[s].entries[i];
            if (!atomic_load(&e->busy) && e->b.address) drop_block(e->b);
        }
        if (pthread_mutex_trylock(&seats[s].lock) != 0) continue; /* its holder was left behind */
        for (unsigned i = 0; i < seats[s].letter_count; i++) drop_block(seats[s].letters[i]);
        pthread_mutex_unlock(&seats[s].lock);
    }
    if (UNDER_ASAN) { /* its own locks do not survive a fork */
        child_thread((void *)(uintptr_t)next(&state));
    } else {
        pthread_t thread;
        int error = pthread_create(&thread, NULL, child_thread, (void *)(uintptr_t)next(&state));
        if (error != 0 || pthread_join(thread, NULL) != 0) complain("no thread in the child", NULL, 0, (size_t)error);
    }
    if (below(&state, 4) == 0) do_trim();
    burst(&state);
    _exit(atomic_load(&refused) ? 3 : 0);
}

static void fork_once(uint64_t *state)
{
    if (UNDER_TSAN) return;
    if (atomic_fetch_add(&children, 1) < CHILDREN_MAX) {
        uint64_t seed = next(state);
        pid_t pid = fork();
        if (pid == 0) child(seed);
        int status = 0;
        if (pid > 0) {
            while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
            atomic_fetch_add(&forks, 1);
            if (status != 0) {
                fprintf(stderr, "stress: child %d of seed %#llx ended with %s %d\n", (int)pid, (unsigned long long)seed,
                        WIFSIGNALED(status) ? "signal" : "status",
                        WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
                atomic_fetch_add(&failures, 1);
            }
        }
    }
    atomic_fetch_sub(&children, 1);
}

/* --- the life of a thread ---------------------------------------------------------------------------------------- */

/* Runs when the thread ends, perhaps after acre's own destructor, perhaps before. Set twice, so both. */
static void late_work(void *value)
{
    block b = {do_alloc(100), 100};
    if (b.address) {
        fill(b);
        check(b);
        do_free(b.address);
    }
    uintptr_t round = (uintptr_t)value;
    if (round > 1) pthread_setspecific(late_key, (void *)(round - 1));
}

static void leave_seat(void *argument)
{
    seat *s = argument;
    atomic_store(&s->over, true);
}

static void safe_point(void)
{
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    pthread_testcancel();
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
}

static void *worker(void *argument)
{
    seat *s = argument;
    uint64_t state = s->seed;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_cleanup_push(leave_seat, s);
    pthread_setspecific(late_key, (void *)3);
    uint64_t life = 1 + log_uniform(&state, 1, UNDER_TSAN ? 10000 : 100000), done = 0;
    while (done < life && !atomic_load_explicit(&stop, memory_order_relaxed)) {
        work_on_entry(&state, &s->entries[below(&state, ENTRIES)]);
        done++;
        if (done % 16 == 0) open_mail(s);
        if (done % 64 == 0) safe_point();
        if (below(&state, 400) == 0) burst(&state);
        if (below(&state, 20000) == 0) fork_once(&state);
    }
    atomic_fetch_add(&operations, done);
    if (next(&state) & 1) {
        atomic_fetch_add(&exited, 1);
        pthread_exit(NULL);
    }
    atomic_fetch_add(&returned, 1);
    pthread_cleanup_pop(1);
    return NULL;
}

static void *trimmer(void *argument)
{
    uint64_t state = (uint64_t)(uintptr_t)argument;
    while (!atomic_load(&stop)) {
        usleep((useconds_t)below(&state, 100000));
        switch (below(&state, 4)) {
        case 0: do_trim(); break;
        case 1: acre_trim(below(&state, 64 * MIB)); break;
        case 2: acre_heap_trim(acre_heap_process(), below(&state, 2) * 8 * MIB); break;
        default: acre_heap_tick(acre_heap_process());
        }
        atomic_fetch_add(&trims, 1);
    }
    return NULL;
}

static void sit_down(uint64_t *state, seat *s)
{
    s->seed = next(state);
    atomic_store(&s->over, false);
    int error = pthread_create(&s->thread, NULL, worker, s);
    s->taken = error == 0;
    if (s->taken) atomic_fetch_add(&born, 1);
    else if (error != EAGAIN) complain("no thread", NULL, 0, (size_t)error);
}

/* Fills empty seats, and asks somebody to go now and then. */
static void manage(uint64_t *state)
{
    for (unsigned i = 0; i < SEATS; i++) {
        seat *s = &seats[i];
        if (s->taken && atomic_load(&s->over)) {
            void *result;
            pthread_join(s->thread, &result);
            if (result == PTHREAD_CANCELED) atomic_fetch_add(&cancelled, 1);
            s->taken = false;
        }
        if (!s->taken && below(state, 4) != 0) sit_down(state, s);
    }
    if (below(state, 4) == 0) {
        seat *s = &seats[below(state, SEATS)];
        if (s->taken) pthread_cancel(s->thread);
    }
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
    const char *small = getenv("ACRE_STRESS_SMALL");
    if ((small && small[0] == '1') || UNDER_TSAN || UNDER_ASAN) live_max = 300 * MIB;
    if (UNDER_TSAN) live_max = 100 * MIB; /* its shadow takes several times as much */
    printf("stress: %g s, seed %#llx, %d threads, %zu MiB alive at most\n", seconds, (unsigned long long)seed, SEATS,
           live_max / MIB);
    fflush(stdout);
    pthread_key_create(&late_key, late_work);
    memset(seats, 0, sizeof seats);
    for (unsigned i = 0; i < SEATS; i++) pthread_mutex_init(&seats[i].lock, NULL);
    uint64_t state = seed;
    block first = make_block(&state, 1000); /* acre's tables are there from now on */
    drop_block(first);
    do_trim();
    size_t resident_before = resident();

    pthread_t trim_thread;
    if (pthread_create(&trim_thread, NULL, trimmer, (void *)(uintptr_t)next(&state)) != 0) return 2;
    while (now() - began < seconds) {
        manage(&state);
        usleep((useconds_t)below(&state, 4000));
    }
    atomic_store(&stop, true);
    pthread_join(trim_thread, NULL);
    for (unsigned i = 0; i < SEATS; i++)
        if (seats[i].taken) pthread_join(seats[i].thread, NULL);

    size_t resident_full = resident();
    for (unsigned i = 0; i < SEATS; i++) {
        open_mail(&seats[i]);
        for (unsigned k = 0; k < ENTRIES; k++)
            if (seats[i].entries[k].b.address) drop_block(seats[i].entries[k].b);
    }
    bool whole = acre_heap_check(acre_heap_process());
    do_trim();
    whole = acre_heap_check(acre_heap_process()) && whole;
    size_t resident_after = resident();
    size_t grown = resident_after > resident_before ? resident_after - resident_before : 0;
    bool too_much = !UNDER_TSAN && !UNDER_ASAN && grown > RESIDENT_SLACK_MIB * MIB;
    bool ok = whole && !too_much && atomic_load(&live) == 0 && !atomic_load(&refused) && !atomic_load(&failures);
    printf("stress: %s: %llu operations, %llu threads (%llu returned, %llu exited, %llu cancelled), %llu mailed, "
           "%llu forks, %llu trims, %llu refused, %llu failures, structures %s, peak %zu MiB alive, "
           "resident %zu -> %zu -> %zu KiB after trim\n",
           ok ? "ok" : "FAILED", (unsigned long long)operations, (unsigned long long)born, (unsigned long long)returned,
           (unsigned long long)exited, (unsigned long long)cancelled, (unsigned long long)mailed,
           (unsigned long long)forks, (unsigned long long)trims, (unsigned long long)refused,
           (unsigned long long)failures, whole ? "in order" : "BROKEN", live_peak / MIB, resident_before / KIB,
           resident_full / KIB, resident_after / KIB);
    return ok ? 0 : 1;
}
