/* ring: threads that hand their blocks round. A server whose connections wander between workers, a scheduler that
 * steals work: a block is allocated here, freed there, and its neighbours somewhere else, with no direction to learn.
 * And workers come and go: every so often a thread ends and a fresh one takes over its objects.
 *
 *   ring [scale] [threads=4] [live=20000 a thread] [round=20000 operations]
 *
 * Every thread has a bag of `live` objects of 16 B to 1 KiB, log-uniform. In a round it replaces random objects of the
 * bag that it holds; then each bag moves on to the next thread. Every eighth round one thread ends and another starts.
 * What it shows: returns from strangers, memory that stays with dead threads, and contention where the threads meet. */
#include "bench.h"

enum { THREADS_MAX = 64, LIFE_ROUNDS = 8 };

typedef struct object {
    void *p;
    uint32_t size;
} object;

typedef struct member {
    size_t index, first_round, last_round; /* runs rounds first..last - 1 */
    unsigned sum;
} member;

static bench_sizes sizes;
static pthread_barrier_t rendezvous;
static object *bags[THREADS_MAX];
static size_t threads, live, round_ops;

static void *run(void *argument)
{
    member *m = argument;
    for (size_t round = m->first_round; round < m->last_round; round++) {
        object *bag = bags[(m->index + round) % threads];
        bench_random random = bench_seed(round * THREADS_MAX + m->index);
        for (size_t i = 0; i < round_ops; i++) {
            object *o = &bag[bench_below(&random, (uint32_t)live)];
            if (o->p != NULL) {
                m->sum += bench_read(o->p, o->size);
                free(o->p);
            }
            o->size = (uint32_t)bench_size(&sizes, &random);
            o->p = bench_malloc(o->size);
            bench_fill(o->p, o->size, (int)i);
        }
        pthread_barrier_wait(&rendezvous);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    double scale = bench_scale(argc, argv);
    threads = bench_count(argc, argv, 2, 4);
    live = bench_count(argc, argv, 3, 20000);
    round_ops = bench_count(argc, argv, 4, 20000);
    size_t lives = bench_scaled(scale, 24);
    if (threads < 1 || threads > THREADS_MAX || live < 1) bench_fail("1 to 64 threads, 1 or more live");

    bench_sizes_log_uniform(&sizes, 1, 16, BENCH_KIB);
    for (size_t t = 0; t < threads; t++) bags[t] = bench_map(live * sizeof(object));
    pthread_barrier_init(&rendezvous, NULL, (unsigned)threads);
    /* Thread t's lives begin and end t rounds after thread 0's: at most one changes at a time. */
    size_t rounds = lives * LIFE_ROUNDS;
    member members[THREADS_MAX];
    pthread_t ids[THREADS_MAX];
    uint64_t begin = bench_now_ns();
    for (size_t t = 0; t < threads; t++) {
        size_t last = LIFE_ROUNDS + t % LIFE_ROUNDS;
        members[t] = (member){.index = t, .first_round = 0, .last_round = last < rounds ? last : rounds};
        ids[t] = bench_start(run, &members[t]);
    }
    for (size_t ended = 0; ended < threads;) {
        /* The one that ends first; the others wait for its successor at the next rendezvous. */
        size_t first = threads;
        for (size_t t = 0; t < threads; t++)
            if (members[t].first_round < rounds &&
                (first == threads || members[t].last_round < members[first].last_round))
                first = t;
        member *m = &members[first];
        pthread_join(ids[first], NULL);
        m->first_round = m->last_round;
        m->last_round = m->last_round + LIFE_ROUNDS < rounds ? m->last_round + LIFE_ROUNDS : rounds;
        if (m->first_round < rounds)
            ids[first] = bench_start(run, m);
        else
            ended++;
    }
    uint64_t elapsed = bench_now_ns() - begin;
    for (size_t t = 0; t < threads; t++)
        for (size_t i = 0; i < live; i++) free(bags[t][i].p);
    bench_print(rounds * round_ops * threads, elapsed);
    bench_end();
    return 0;
}
