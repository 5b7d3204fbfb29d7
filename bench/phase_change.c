/* phase_change: a program that is done with one kind of work and begins another. It has read its input into 400 MB of
 * small objects, throws nine tenths of them away, and goes on with bigger ones; at the end it lets go of everything
 * and waits. The survivors lie scattered, a few on every page, so an allocator that gives back whole pages gives back
 * nothing.
 *
 *   phase_change [scale] [wait_ms=2000]
 *
 * 400 MB (times scale) of blocks of 16-2,048 B, log-uniform; 90% freed in random order; wait; 400 MB of blocks of 2-64
 * KiB; all freed in random order; wait. All blocks are written from end to end. Resident memory is read from
 * /proc/self/statm at each point, and what the process had before its first block (the program, its own tables) is
 * taken off: what is left is what the allocator holds. Pairs of the line, ratios to the bytes that the program asked
 * for and still has:
 *   full  cut  cut_waited  cut_ticked   after 400 MB; 90% freed; after the wait, in which nothing is called; after a
 *                                       few more calls, for allocators that look at the clock only when called
 *   second                              after the second 400 MB
 *   end_mb  end_waited_mb  end_ticked_mb   MB (10^6 B) left when all is freed; after the wait; after a few more calls
 * `seconds` is the time without the waits. */
#include "bench.h"

typedef struct block {
    void *p;
    uint32_t size;
} block;

typedef struct heap {
    block *block;
    size_t count, live; /* live: bytes in blocks */
} heap;

static size_t baseline;
static uint64_t ops;

static void fill(heap *h, size_t bytes, size_t min, size_t max, bench_random *random)
{
    for (size_t until = h->live + bytes; h->live < until;) {
        size_t size = bench_log_uniform(random, min, max);
        block *b = &h->block[h->count++];
        *b = (block){bench_malloc(size), (uint32_t)size};
        bench_fill(b->p, size, (int)size);
        h->live += size;
        ops++;
    }
}

/* Frees random blocks until `left` are left. */
static void cut(heap *h, size_t left, bench_random *random)
{
    while (h->count > left) {
        size_t i = bench_below(random, (uint32_t)h->count);
        free(h->block[i].p);
        h->live -= h->block[i].size;
        h->block[i] = h->block[--h->count];
    }
}

static size_t held(void)
{
    size_t resident = bench_resident();
    return resident > baseline ? resident - baseline : 0;
}

/* A program that is all but idle: a hundred milliseconds with a few calls in each. */
static void tick(void)
{
    for (int i = 0; i < 20; i++) {
        void *p[50];
        for (int k = 0; k < 50; k++) p[k] = bench_malloc((size_t)16 << k % 12);
        for (int k = 0; k < 50; k++) free(p[k]);
        bench_sleep_ms(5);
    }
}

int main(int argc, char **argv)
{
    double scale = bench_scale(argc, argv);
    unsigned wait_ms = (unsigned)bench_count(argc, argv, 2, 2000);
    size_t bytes = bench_scaled(scale, 400000000);
    size_t most = bytes / 350 + bytes / 10000 + 1000; /* the mean is 419 B, then 17.9 KiB beside a tenth of the first */
    heap h = {.block = bench_map(most * sizeof(block))};
    memset(h.block, 1, most * sizeof(block));
    bench_random random = bench_seed(1);
    baseline = bench_resident();

    uint64_t waited = 0, begin = bench_now_ns();
    fill(&h, bytes, 16, 2048, &random);
    double full = (double)held() / (double)h.live;
    cut(&h, h.count / 10, &random);
    double after = (double)held() / (double)h.live;
    uint64_t pause = bench_now_ns();
    bench_sleep_ms(wait_ms);
    double after_wait = (double)held() / (double)h.live;
    tick();
    double after_tick = (double)held() / (double)h.live;
    waited += bench_now_ns() - pause;
    fill(&h, bytes, 2 * BENCH_KIB, 64 * BENCH_KIB, &random);
    double second = (double)held() / (double)h.live;
    cut(&h, 0, &random);
    double end = (double)held();
    pause = bench_now_ns();
    bench_sleep_ms(wait_ms);
    double end_wait = (double)held();
    tick();
    double end_tick = (double)held();
    waited += bench_now_ns() - pause;

    bench_print(ops, bench_now_ns() - begin - waited);
    bench_pair(full, "full");
    bench_pair(after, "cut");
    bench_pair(after_wait, "cut_waited");
    bench_pair(after_tick, "cut_ticked");
    bench_pair(second, "second");
    bench_pair(end / 1e6, "end_mb");
    bench_pair(end_wait / 1e6, "end_waited_mb");
    bench_pair(end_tick / 1e6, "end_ticked_mb");
    bench_end();
    return 0;
}
