/* medium_waste: what blocks of 4 KiB to 1 MiB really cost. Buffers, textures, tables: sizes that no class fits. Two
 * numbers tell how honest an allocator is there: how much more than asked for it sets aside, and how much memory is
 * resident.
 *
 *   medium_waste [scale] [live_mb=256]
 *
 * Blocks log-uniform over 4 KiB-1 MiB (not a multiple of anything) are allocated up to live_mb and written from end to
 * end; then random ones are freed and replaced until three times the live bytes have gone by, and then once more with
 * 4.3 KiB to every second one. Pairs, after the filling, the churn and the pages:
 *   usable_filled  usable_churned  usable_paged         sum(malloc_usable_size) over sum(requested), less 1, in percent
 *   resident_filled  resident_churned  resident_paged   resident bytes over requested bytes
 * Resident is without what the process had before its first block. */
#include "bench.h"

#include <malloc.h>

enum { LIVE_MAX = 1 << 18, PAGE = 4096 + 272 };

typedef struct block {
    void *p;
    size_t size;
} block;

typedef struct waste {
    double usable, resident;
} waste;

static block *blocks;
static size_t count, live, baseline;
static uint64_t ops;

static void add(size_t size)
{
    if (count == LIVE_MAX) bench_fail("too many live blocks");
    blocks[count] = (block){bench_malloc(size), size};
    bench_fill(blocks[count++].p, size, (int)size);
    live += size;
    ops++;
}

static void replace_until(size_t budget, size_t bytes, bool pages, bench_random *random)
{
    for (size_t gone = 0; gone < bytes;) {
        size_t size = bench_log_uniform(random, 4 * BENCH_KIB, BENCH_MIB);
        if (pages && ops % 2 == 0) size = PAGE;
        while (count > 0 && live + size > budget) {
            size_t i = bench_below(random, (uint32_t)count);
            free(blocks[i].p);
            live -= blocks[i].size;
            blocks[i] = blocks[--count];
        }
        add(size);
        gone += size;
    }
}

static waste measure(void)
{
    size_t usable = 0, resident = bench_resident() - baseline;
    for (size_t i = 0; i < count; i++) usable += malloc_usable_size(blocks[i].p);
    return (waste){((double)usable / (double)live - 1) * 100, (double)resident / (double)live};
}

int main(int argc, char **argv)
{
    double scale = bench_scale(argc, argv);
    size_t budget = bench_scaled(scale, bench_count(argc, argv, 2, 256) * BENCH_MIB);
    blocks = bench_map(LIVE_MAX * sizeof *blocks);
    memset(blocks, 1, LIVE_MAX * sizeof *blocks);
    bench_random random = bench_seed(1);
    baseline = bench_resident();

    uint64_t begin = bench_now_ns();
    replace_until(budget, budget, false, &random);
    waste filled = measure();
    replace_until(budget, 3 * budget, false, &random);
    waste churned = measure();
    replace_until(budget, budget, true, &random);
    waste paged = measure();
    for (size_t i = 0; i < count; i++) free(blocks[i].p);

    bench_print(ops, bench_now_ns() - begin);
    bench_pair(filled.usable, "usable_filled");
    bench_pair(churned.usable, "usable_churned");
    bench_pair(paged.usable, "usable_paged");
    bench_pair(filled.resident, "resident_filled");
    bench_pair(churned.resident, "resident_churned");
    bench_pair(paged.resident, "resident_paged");
    bench_end();
    return 0;
}
