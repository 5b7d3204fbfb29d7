/* hot_pair: malloc and at once free, the same size again and again. The buffer of a function that needs one for a
 * moment: to print a number, to read a packet, to hold a picture. It is the shortest way through an allocator, so it
 * says what a call costs at best; from 32 MiB on it says whether the allocator goes to the kernel each time.
 *
 *   hot_pair [scale] [sizes=16,64,1024,4096,16384,262144,1048576,33554432,67108864]
 *
 * ns per pair for each size, untouched and with one byte written in each OS page: `64_untouched`, `64_touched`. Each
 * is the median of nine batches; how many pairs a batch has is found by doubling until it takes 3 ms times scale, so
 * slow allocators do not take for ever. `seconds` and `ops` therefore say little; the pairs are the result. */
#include "bench.h"

enum { BATCHES = 9, SIZES_MAX = 32 };

static uint64_t batch(size_t size, bool touched, size_t pairs)
{
    uint64_t begin = bench_now_ns();
    if (touched) {
        for (size_t i = 0; i < pairs; i++) {
            void *p = malloc(size);
            bench_touch(p, size);
            free(p);
        }
    } else {
        for (size_t i = 0; i < pairs; i++) {
            void *p = malloc(size);
            bench_keep(p);
            free(p);
        }
    }
    return bench_now_ns() - begin;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double pair_ns(size_t size, bool touched, double batch_ns, uint64_t *ops)
{
    size_t pairs = 1;
    while (batch(size, touched, pairs) < (uint64_t)batch_ns && pairs < ((size_t)1 << 30)) pairs *= 2;
    double ns[BATCHES];
    for (int i = 0; i < BATCHES; i++) ns[i] = (double)batch(size, touched, pairs) / (double)pairs;
    qsort(ns, BATCHES, sizeof ns[0], by_value);
    *ops += pairs * (BATCHES + 2) - 1;
    return ns[BATCHES / 2];
}

int main(int argc, char **argv)
{
    double batch_ns = bench_scale(argc, argv) * 3e6;
    char list[512];
    snprintf(list, sizeof list, "%s",
             argc > 2 ? argv[2] : "16,64,1024,4096,16384,262144,1048576,33554432,67108864");
    struct {
        size_t size;
        double untouched, touched;
    } row[SIZES_MAX];
    size_t rows = 0;
    uint64_t ops = 0, begin = bench_now_ns();
    for (char *save = NULL, *word = strtok_r(list, ",", &save); word != NULL && rows < SIZES_MAX;
         word = strtok_r(NULL, ",", &save)) {
        size_t size = strtoull(word, NULL, 0);
        free(bench_malloc(size));
        row[rows].size = size;
        row[rows].untouched = pair_ns(size, false, batch_ns, &ops);
        row[rows].touched = pair_ns(size, true, batch_ns, &ops);
        rows++;
    }
    bench_print(ops, bench_now_ns() - begin);
    for (size_t i = 0; i < rows; i++) {
        bench_pair(row[i].untouched, "%zu_untouched", row[i].size);
        bench_pair(row[i].touched, "%zu_touched", row[i].size);
    }
    bench_end();
    return 0;
}
