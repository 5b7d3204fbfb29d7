/* idle_threads: 64 threads, one at work at a time. A server with a thread per connection, a desktop program full of
 * helper threads: all of them have allocated once, nearly all of them sleep. Whatever an allocator keeps for each
 * thread it keeps 64 times.
 *
 *   idle_threads [scale] [threads=64] [live_mb=64]
 *
 * The same work is done twice, in two processes of their own: by `threads` threads in turn, and by one of them while
 * the others sleep (so the stacks are there in both). A turn is 2,000 replacements of random objects (16 B-4 KiB,
 * log-uniform) in a share of 1/threads of live_mb and now and then a burst of 500 temporary ones; then the baton goes
 * to another thread. A share's objects are written by whoever holds them, so the live bytes are equal.
 * Pairs of the line: peak_mb with all threads, one_mb with one, ratio of the two; the time is that of the first. */
#include "bench.h"

#include <sys/resource.h>
#include <sys/wait.h>

enum { THREADS_MAX = 1024, TURNS = 24, TURN_OPS = 2000, BURST = 500 };

typedef struct object {
    void *p;
    uint32_t size;
} object;

typedef struct share {
    object *objects;
    bench_random random;
    size_t count, live;
} share;

static bench_sizes sizes;
static share shares[THREADS_MAX];
static size_t threads, share_bytes, turns;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t passed[THREADS_MAX]; /* one each: only who is meant wakes up */
static size_t baton;                       /* lock: the number of turns taken; the turn belongs to baton % threads */

static void take_turn(share *s, bool burst)
{
    for (int i = 0; i < TURN_OPS; i++) {
        /* Grow to the share's bytes, then keep to them. */
        while (s->count > 0 && s->live >= share_bytes) {
            size_t k = bench_below(&s->random, (uint32_t)s->count);
            s->live -= s->objects[k].size;
            free(s->objects[k].p);
            s->objects[k] = s->objects[--s->count];
        }
        object *o = &s->objects[s->count++];
        o->size = (uint32_t)bench_size(&sizes, &s->random);
        o->p = bench_malloc(o->size);
        bench_fill(o->p, o->size, i);
        s->live += o->size;
    }
    void *temporary[BURST];
    for (int i = 0; burst && i < BURST; i++) {
        size_t size = bench_size(&sizes, &s->random);
        temporary[i] = bench_malloc(size);
        bench_fill(temporary[i], size, i);
    }
    for (int i = 0; burst && i < BURST; i++) free(temporary[i]);
}

static void *run(void *argument)
{
    size_t self = (size_t)((share *)argument - shares);
    for (size_t turn = self; turn < turns; turn += threads) {
        pthread_mutex_lock(&lock);
        while (baton != turn) pthread_cond_wait(&passed[self], &lock);
        pthread_mutex_unlock(&lock);
        take_turn(&shares[self], turn / threads % 4 == 3);
        pthread_mutex_lock(&lock);
        baton = turn + 1;
        pthread_cond_signal(&passed[baton % threads]);
        pthread_mutex_unlock(&lock);
    }
    /* Nobody ends before the last turn: what a thread leaves behind is another question. */
    pthread_mutex_lock(&lock);
    while (baton != turns) pthread_cond_wait(&passed[self], &lock);
    pthread_cond_signal(&passed[(self + 1) % threads]);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void *sleeper(void *unused)
{
    pthread_mutex_lock(&lock);
    while (baton != turns) pthread_cond_wait(&passed[0], &lock);
    pthread_cond_signal(&passed[0]);
    pthread_mutex_unlock(&lock);
    return unused;
}

static void *run_alone(void *unused)
{
    for (size_t turn = 0; turn < turns; turn++) take_turn(&shares[turn % threads], turn / threads % 4 == 3);
    pthread_mutex_lock(&lock);
    baton = turns;
    pthread_cond_signal(&passed[0]);
    pthread_mutex_unlock(&lock);
    return unused;
}

/* The child: the work in this process. */
static void work(bool alone)
{
    pthread_t ids[THREADS_MAX];
    size_t objects_max = share_bytes / 16 + TURN_OPS;
    for (size_t t = 0; t < threads; t++) {
        shares[t].objects = bench_map(objects_max * sizeof(object));
        shares[t].random = bench_seed(2 + t);
        pthread_cond_init(&passed[t], NULL);
    }
    for (size_t t = 0; t < threads; t++)
        ids[t] = bench_start(!alone ? run : t == 0 ? run_alone : sleeper, &shares[t]);
    for (size_t t = 0; t < threads; t++) pthread_join(ids[t], NULL);
}

/* Runs this program again, so that each way begins with a heap that nobody has used. Returns the peak in bytes. */
static double peak_of(char **argv, const char *way, double scale, uint64_t *elapsed_ns)
{
    char scale_text[32], threads_text[32], live_text[32];
    snprintf(scale_text, sizeof scale_text, "%.6f", scale);
    snprintf(threads_text, sizeof threads_text, "%zu", threads);
    snprintf(live_text, sizeof live_text, "%zu", share_bytes * threads / BENCH_MIB);
    char *const arguments[] = {argv[0], scale_text, threads_text, live_text, (char *)way, NULL};
    uint64_t begin = bench_now_ns();
    pid_t child = fork();
    if (child < 0) bench_fail("fork");
    if (child == 0) {
        execv("/proc/self/exe", arguments);
        _exit(127);
    }
    struct rusage usage;
    int status;
    if (wait4(child, &status, 0, &usage) != child || status != 0) bench_fail("the child process");
    *elapsed_ns = bench_now_ns() - begin;
    return (double)usage.ru_maxrss * 1024;
}

int main(int argc, char **argv)
{
    double scale = bench_scale(argc, argv);
    threads = bench_count(argc, argv, 2, 64);
    size_t live_mb = bench_count(argc, argv, 3, 64);
    if (threads < 1 || threads > THREADS_MAX || live_mb < 1) bench_fail("1 to 1024 threads, 1 MB or more");
    share_bytes = live_mb * BENCH_MIB / threads;
    turns = bench_scaled(scale, TURNS) * threads;
    bench_sizes_log_uniform(&sizes, 1, 16, 4 * BENCH_KIB);

    if (argc > 4) {
        work(strcmp(argv[4], "alone") == 0);
        return 0;
    }
    uint64_t together_ns, alone_ns;
    double together = peak_of(argv, "together", scale, &together_ns);
    double alone = peak_of(argv, "alone", scale, &alone_ns);
    bench_print(turns * TURN_OPS, together_ns);
    bench_pair(together / 1e6, "peak_mb");
    bench_pair(alone / 1e6, "one_mb");
    bench_pair(together / alone, "ratio");
    bench_end();
    return 0;
}
