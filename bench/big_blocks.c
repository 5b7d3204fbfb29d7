/* big_blocks: 5 to 25 MiB at a time, used and let go. Pictures in an editor, video frames, matrices, compression
 * windows, the columns of a query. Few calls, much memory: whoever asks the kernel for each block pays a page fault
 * for every OS page, a thousand times the price of the call.
 *
 *   big_blocks [scale] [live=6]
 *
 * Sizes are uniform over 5-25 MiB. A random one of `live` blocks is read and freed and a new one is written from end to
 * end; every fourth comes from calloc and is written in one line of eight, as a sparse table is.
 * What it shows: whether freed megabytes are kept warm for the next block, whether blocks of other sizes can use them,
 * and whether memory that is known to be zero is cleared again. */
#include "bench.h"

enum { LIVE_MAX = 256 };

int main(int argc, char **argv)
{
    double scale = bench_scale(argc, argv);
    size_t live = bench_count(argc, argv, 2, 6), ops = bench_scaled(scale, 250);
    if (live < 1 || live > LIVE_MAX) bench_fail("1 to 256 live");

    char *block[LIVE_MAX] = {0};
    size_t size[LIVE_MAX] = {0};
    unsigned sum = 0;
    bench_random random = bench_seed(1);
    uint64_t begin = bench_now_ns();
    for (size_t i = 0; i < ops; i++) {
        size_t k = bench_below(&random, (uint32_t)live);
        if (block[k] != NULL) {
            for (size_t at = 0; at < size[k]; at += BENCH_OS_PAGE) sum += (unsigned char)block[k][at];
            free(block[k]);
        }
        size[k] = 5 * BENCH_MIB + bench_below(&random, 20 * BENCH_MIB);
        if (i % 4 == 3) {
            block[k] = calloc(1, size[k]);
            if (block[k] == NULL) bench_fail("calloc");
            for (size_t at = 0; at < size[k]; at += 8 * BENCH_LINE) {
                memset(block[k] + at, 1, size[k] - at < BENCH_LINE ? size[k] - at : BENCH_LINE);
                /* After the write: a read of untouched memory would fault in the kernel's page of zeros first. */
                if (at + BENCH_LINE < size[k] && block[k][at + BENCH_LINE] != 0)
                    bench_fail("calloc gave memory that is not zero");
            }
        } else {
            block[k] = bench_malloc(size[k]);
            bench_fill(block[k], size[k], (int)i);
        }
    }
    for (size_t k = 0; k < live; k++) free(block[k]);
    bench_print(ops, bench_now_ns() - begin);
    bench_end();
    bench_keep(&sum);
    return 0;
}
