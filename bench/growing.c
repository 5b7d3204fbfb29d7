/* growing: arrays that grow as they are filled. std::vector, string builders, response buffers, logs: nobody knows the
 * final size, so the array is reallocated over and over, and several grow at a time.
 *
 *   growing [scale] [arrays=48]
 *
 * Each array has a final size, log-uniform from 256 B to 16 MiB, and a habit: half double, a quarter grow by a half, a
 * quarter add a fixed step (64 B for the short, 4 KiB for the longer ones, 64 KiB from 1 MiB on), as programs that
 * never heard of amortised cost do. Arrays take turns, and what is appended is written. A full array is checked,
 * shrunk to fit (every second one) and freed, and an empty one takes its place.
 * What it shows: growth in place, growth by remapping, or a copy each time. One operation is one realloc. */
#include "bench.h"

enum { ARRAYS_MAX = 4096, HABITS = 4 };

typedef struct array {
    unsigned char *p;
    size_t used, capacity, final;
    unsigned habit;
} array;

static size_t grown(const array *a)
{
    size_t capacity = a->capacity;
    if (capacity == 0) return 32;
    if (a->habit < 2) return capacity * 2;
    if (a->habit == 2) return capacity + capacity / 2;
    return capacity + (a->final < 32 * BENCH_KIB ? 64 : a->final < BENCH_MIB ? 4 * BENCH_KIB : 64 * BENCH_KIB);
}

static void resize(array *a, size_t capacity)
{
    a->p = realloc(a->p, capacity);
    if (a->p == NULL) bench_fail("realloc");
    a->capacity = capacity;
}

int main(int argc, char **argv)
{
    double scale = bench_scale(argc, argv);
    size_t arrays = bench_count(argc, argv, 2, 48), lives = bench_scaled(scale, 1600);
    if (arrays < 1 || arrays > ARRAYS_MAX) bench_fail("1 to 4096 arrays");

    array *all = bench_map(arrays * sizeof *all);
    bench_random random = bench_seed(1);
    size_t started = 0, active = 0;
    uint64_t ops = 0, begin = bench_now_ns();
    for (; active < arrays && started < lives; started++)
        all[active++] = (array){.final = bench_log_uniform(&random, 256, 16 * BENCH_MIB), .habit = started % HABITS};
    while (active > 0) {
        array *a = &all[bench_below(&random, (uint32_t)active)];
        if (a->used < a->final) {
            resize(a, grown(a));
            ops++;
            size_t until = a->capacity < a->final ? a->capacity : a->final;
            memset(a->p + a->used, (int)(a->final & 0xff), until - a->used);
            a->used = until;
            continue;
        }
        if (started & 1) {
            resize(a, a->used);
            ops++;
        }
        if (a->p[0] != (a->final & 0xff) || a->p[a->used - 1] != (a->final & 0xff)) bench_fail("an array is damaged");
        free(a->p);
        if (started < lives) {
            *a = (array){.final = bench_log_uniform(&random, 256, 16 * BENCH_MIB), .habit = started % HABITS};
            started++;
        } else {
            *a = all[--active];
        }
    }
    bench_print(ops, bench_now_ns() - begin);
    bench_end();
    return 0;
}
