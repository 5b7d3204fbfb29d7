/* small_random: many small objects, each with a lifetime of its own. What a program of records, strings, nodes and
 * closures does all day: most of its objects die at once, some stay for the length of a request, a few for ever.
 *
 *   small_random [scale] [threads=1] [live=100000]
 *
 * A table of `live` places. Each operation chooses a place, reads and frees the object there, and puts a new one, sizes
 * log-uniform from 8 B to 2 KiB, written from end to end as a constructor would. The place is log-uniform, too: the low
 * ones are replaced every few operations and the high ones hardly ever, so lifetimes are spread over five powers of ten
 * and an allocator cannot hope for either the most recent or the oldest block. Every thread has a table of its own and
 * does the same number of operations, so perfect scaling is the same time for two threads as for one.
 * What it shows: the hit path, how well magazines bridge gaps, and how densely pages stay filled as objects age. */
#include "bench.h"

typedef struct object {
    void *p;
    uint32_t size;
} object;

typedef struct worker {
    uint64_t seed;
    size_t ops;
    uint32_t live;
    object *objects;
    unsigned sum;
} worker;

static bench_sizes sizes, places;
static pthread_barrier_t start;

static void *run(void *argument)
{
    worker *w = argument;
    bench_random random = bench_seed(w->seed);
    pthread_barrier_wait(&start);
    for (size_t i = 0; i < w->ops; i++) {
        uint64_t bits = bench_next(&random);
        /* The table of places has few entries; the low bits spread each over its neighbours. */
        uint64_t place = places.size[bits >> 52] + (bits & 0xffff) * places.size[bits >> 52] / 0x10000;
        object *o = &w->objects[place < w->live ? place : place - w->live];
        if (o->p != NULL) {
            w->sum += bench_read(o->p, o->size);
            free(o->p);
        }
        o->size = sizes.size[bits >> 40 & (BENCH_SIZES - 1)];
        o->p = bench_malloc(o->size);
        bench_fill(o->p, o->size, (int)i);
    }
    for (uint32_t i = 0; i < w->live; i++) free(w->objects[i].p);
    return NULL;
}

int main(int argc, char **argv)
{
    double scale = bench_scale(argc, argv);
    size_t threads = bench_count(argc, argv, 2, 1), live = bench_count(argc, argv, 3, 100000);
    size_t ops = bench_scaled(scale, 10000000);
    if (threads < 1 || threads > 256 || live < 16 || live > (1u << 30)) bench_fail("1-256 threads, 16 to 2^30 live");

    bench_sizes_log_uniform(&sizes, 1, 8, 2 * BENCH_KIB);
    bench_sizes_log_uniform(&places, 2, 1, live - 1);
    worker workers[256];
    pthread_t ids[256];
    pthread_barrier_init(&start, NULL, (unsigned)threads + 1);
    for (size_t t = 0; t < threads; t++) {
        workers[t] = (worker){.seed = 3 + t, .ops = ops, .live = (uint32_t)live};
        workers[t].objects = bench_map(live * sizeof(object));
        ids[t] = bench_start(run, &workers[t]);
    }
    pthread_barrier_wait(&start);
    uint64_t begin = bench_now_ns();
    for (size_t t = 0; t < threads; t++) pthread_join(ids[t], NULL);
    bench_print(ops * threads, bench_now_ns() - begin);
    bench_end();
    return 0;
}
