/* buffers: the page cache of an in-memory database, and the I/O buffers beside it. Blocks of 4 to 128 KiB, more than
 * half of them of one awkward size: a database page of 4,096 B and its header in one block, 4.3 KiB. Allocators that
 * round that up to 5 or 8 KiB pay for it in memory and in time.
 *
 *   buffers [scale] [live_mb=96]
 *
 * 60% are of 4,368 B, 15% of 8,464 B (pages of 8 KiB with the same header) and 25% log-uniform over 4-128 KiB (rows
 * that overflow, sort buffers, network buffers). The cache has a fixed budget in bytes: a new buffer evicts random
 * ones until it fits, is filled as by a read, and then a few lines are looked up in others, as queries do.
 * What it shows: the waste and the speed of sizes just above a power of two, and how mixed holes are reused. */
#include "bench.h"

enum { LIVE_MAX = 1 << 18, LOOKUPS = 8, PAGE_4K = 4096 + 272, PAGE_8K = 8192 + 272 };

typedef struct buffer {
    char *p;
    size_t size;
} buffer;

static bench_sizes sizes;
static buffer *buffers;
static size_t count, live;
static unsigned sum;

static void evict(bench_random *random)
{
    size_t i = bench_below(random, (uint32_t)count);
    buffer b = buffers[i];
    buffers[i] = buffers[--count];
    live -= b.size;
    sum += bench_read(b.p, b.size);
    free(b.p);
}

int main(int argc, char **argv)
{
    double scale = bench_scale(argc, argv);
    size_t budget = bench_count(argc, argv, 2, 96) * BENCH_MIB, ops = bench_scaled(scale, 600000);
    if (budget < BENCH_MIB) bench_fail("live_mb is below 1");

    bench_random random = bench_seed(1);
    for (int i = 0; i < BENCH_SIZES; i++) {
        uint32_t kind = bench_below(&random, 100);
        sizes.size[i] = kind < 60   ? PAGE_4K
                        : kind < 75 ? PAGE_8K
                                    : (uint32_t)bench_log_uniform(&random, 4 * BENCH_KIB, 128 * BENCH_KIB);
    }
    buffers = bench_map(LIVE_MAX * sizeof *buffers);
    uint64_t begin = bench_now_ns();
    for (size_t i = 0; i < ops; i++) {
        size_t size = bench_size(&sizes, &random);
        while (count == LIVE_MAX || live + size > budget) evict(&random);
        char *p = bench_malloc(size);
        bench_fill(p, size, (int)i);
        buffers[count++] = (buffer){p, size};
        live += size;
        for (int k = 0; k < LOOKUPS; k++) {
            buffer *b = &buffers[bench_below(&random, (uint32_t)count)];
            sum += (unsigned char)b->p[bench_below(&random, (uint32_t)b->size)];
        }
    }
    while (count > 0) evict(&random);
    bench_print(ops, bench_now_ns() - begin);
    bench_end();
    return 0;
}
