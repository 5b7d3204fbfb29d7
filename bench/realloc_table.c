/* realloc_table: what one realloc costs, by the way of growing and the size reached. `growing` is the mix; this is the
 * table that explains it.
 *
 *   realloc_table [scale]
 *
 * Ways: `double` (vectors), `tenth` (10% more each time), `step` (a sixteenth of the final size each time), `beside`
 * (as double, but a small block is allocated after every step, so what lies behind the array is taken), `shrink` (from
 * the final size to a quarter, and again to the full size: both count), `same` (the size it has already, and one byte
 * less).
 * Final sizes: 256 B, 4 KiB, 64 KiB, 1 MiB, 16 MiB, 64 MiB. Whenever an array grows, its new bytes are touched once per
 * OS page, inside the clock, so page faults count; the first malloc and the free do not.
 * Pairs: ns per realloc, `double_65536`; the median of three repeats of a batch. */
#include "bench.h"

enum { REPEATS = 3, WAYS = 6, FINALS = 6 };

static const char *const way_name[WAYS] = {"double", "tenth", "step", "beside", "shrink", "same"};
static const size_t finals[FINALS] = {256, 4 * BENCH_KIB, 64 * BENCH_KIB, BENCH_MIB, 16 * BENCH_MIB, 64 * BENCH_MIB};

static char *resize(char *p, size_t from, size_t to, size_t *ops)
{
    p = realloc(p, to);
    if (p == NULL) bench_fail("realloc");
    if (to > from) bench_touch(p + from, to - from);
    ++*ops;
    return p;
}

/* Lets an array live once; returns the ns of its reallocs, without the malloc before them and the free behind. */
static uint64_t live_once(int way, size_t final, size_t *ops)
{
    size_t size = way >= 4 ? final : 32;
    char *p = bench_malloc(size), *beside[64] = {0};
    bench_touch(p, size);
    int besides = 0, loops = final <= 64 * BENCH_KIB ? 16 : 2;
    uint64_t begin = bench_now_ns();
    switch (way) {
    case 4:
        for (int i = 0; i < loops; i++) {
            p = resize(p, final, final / 4, ops);
            p = resize(p, final / 4, final, ops);
        }
        break;
    case 5:
        for (int i = 0; i < loops; i++) {
            p = resize(p, final, final, ops);
            p = resize(p, final, final - 1, ops);
        }
        break;
    default:
        while (size < final) {
            size_t next = way == 1 ? size + size / 10 + 16 : way == 2 ? size + final / 16 : size * 2;
            if (next > final) next = final;
            p = resize(p, size, next, ops);
            size = next;
            if (way == 3 && besides < 64) beside[besides++] = bench_malloc(100);
        }
    }
    uint64_t elapsed = bench_now_ns() - begin;
    free(p);
    for (int i = 0; i < besides; i++) free(beside[i]);
    return elapsed;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    double scale = bench_scale(argc, argv), cell[WAYS][FINALS];
    uint64_t ops = 0, begin = bench_now_ns();
    for (int way = 0; way < WAYS; way++) {
        for (int f = 0; f < FINALS; f++) {
            size_t final = finals[f];
            size_t times = bench_scaled(scale, final <= 64 * BENCH_KIB ? 2000 : (32 * BENCH_MIB) / final);
            double ns[REPEATS];
            for (int r = 0; r < REPEATS; r++) {
                size_t done = 0;
                uint64_t taken = 0;
                for (size_t i = 0; i < times; i++) taken += live_once(way, final, &done);
                ns[r] = (double)taken / (double)done;
                ops += done;
            }
            qsort(ns, REPEATS, sizeof ns[0], by_value);
            cell[way][f] = ns[REPEATS / 2];
        }
    }
    bench_print(ops, bench_now_ns() - begin);
    for (int way = 0; way < WAYS; way++)
        for (int f = 0; f < FINALS; f++) bench_pair(cell[way][f], "%s_%zu", way_name[way], finals[f]);
    bench_end();
    return 0;
}
