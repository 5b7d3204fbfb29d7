/* latency: how long a single call may take. A frame, a sound buffer, a trade: there the mean says nothing and the
 * slowest of ten thousand calls everything. Refills, coalescing, giving back and growing all happen inside some
 * unlucky call.
 *
 *   latency [scale] [mix=small]
 *
 * Mixes: `small` is 100,000 live blocks of 16 B-4 KiB; `medium` and `medium_touched` are 200 MB live of 4 KiB-32 MiB,
 * the latter with a byte written to every OS page. Sizes are log-uniform; each operation frees a random block and
 * allocates another. First the heap is filled, then operations run with one clock around all of them (`pair_ns`), then
 * as many with the time stamp counter around every call; what the counter itself costs is taken off. The first word of
 * a small block is written, outside the clock. At scale 1 there are 10 million timed operations of the small mix,
 * 200,000 of the medium one, and 10,000 touched.
 * Pairs: malloc_p50_ns, p99, p99.9, p99.99, max, and the same for free. Buckets are 1/32 apart; the counter of a
 * virtual machine may step by 10 ns. `pair_ns` of medium_touched has the touching in it. A machine that takes the core
 * away writes its own tail: compare within one session, and look at the least of several runs for the maximum. */
#include "bench.h"

enum { BUCKETS = 64 * 32, LIVE_MAX = 1 << 20 };

typedef struct histogram {
    uint64_t count[BUCKETS], total, max;
} histogram;

/* Ticks below 32 have a bucket each; above, 32 buckets to the doubling. */
static inline unsigned bucket_of(uint64_t ticks)
{
    if (ticks < 32) return (unsigned)ticks;
    unsigned shift = 58 - (unsigned)__builtin_clzll(ticks);
    return (shift + 1) * 32 + (unsigned)(ticks >> shift & 31);
}

static uint64_t bucket_ticks(unsigned bucket)
{
    if (bucket < 32) return bucket;
    return (uint64_t)(32 + bucket % 32) << (bucket / 32 - 1);
}

static inline void record(histogram *h, uint64_t begin, uint64_t end, uint64_t overhead)
{
    uint64_t ticks = end - begin > overhead ? end - begin - overhead : 0;
    h->count[bucket_of(ticks)]++;
    h->total++;
    if (ticks > h->max) h->max = ticks;
}

static double quantile(const histogram *h, double share)
{
    uint64_t rank = (uint64_t)(share * (double)h->total), seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += h->count[i];
        if (seen > rank) return (double)bucket_ticks(i);
    }
    return (double)h->max;
}

typedef struct block {
    void *p;
    uint32_t size;
} block;

typedef struct mix {
    const char *name;
    size_t min, max, live_blocks, live_bytes, ops; /* filled until either limit is reached */
    bool touched;
} mix;

static const mix mixes[] = {
    {"small", 16, 4 * BENCH_KIB, 100000, SIZE_MAX, 10000000, false},
    {"medium", 4 * BENCH_KIB, 32 * BENCH_MIB, LIVE_MAX, 200000000, 200000, false},
    {"medium_touched", 4 * BENCH_KIB, 32 * BENCH_MIB, LIVE_MAX, 200000000, 10000, true},
};

static bench_sizes sizes;
static block *blocks;
static size_t count, live;
static histogram mallocs, frees;

static void use(block *b, bool touched)
{
    if (touched)
        bench_touch(b->p, b->size);
    else if (b->size <= 4 * BENCH_KIB)
        *(volatile uint64_t *)b->p = b->size;
}

/* Chooses the block to go. The number of live blocks follows the byte budget, where there is one: as many are freed as
 * make room for the next. */
static block take(bench_random *random)
{
    size_t i = bench_below(random, (uint32_t)count);
    block b = blocks[i];
    blocks[i] = blocks[--count];
    live -= b.size;
    return b;
}

static uint64_t run(const mix *m, bench_random *random, size_t ops)
{
    uint64_t begin = bench_now_ns();
    for (size_t i = 0; i < ops; i++) {
        uint32_t size = (uint32_t)bench_size(&sizes, random);
        do free(take(random).p);
        while (count > 0 && live + size > m->live_bytes);
        do {
            block b = {bench_malloc(size), size};
            use(&b, m->touched);
            blocks[count++] = b;
            live += size;
            size = (uint32_t)bench_size(&sizes, random);
        } while (count < m->live_blocks && live + size <= m->live_bytes);
    }
    return bench_now_ns() - begin;
}

/* The same with every call timed; ops counts the mallocs. */
static void run_timed(const mix *m, bench_random *random, size_t ops, uint64_t overhead)
{
    for (size_t i = 0; i < ops;) {
        uint32_t size = (uint32_t)bench_size(&sizes, random);
        do {
            block b = take(random);
            uint64_t begin = bench_ticks();
            free(b.p);
            record(&frees, begin, bench_ticks(), overhead);
        } while (count > 0 && live + size > m->live_bytes);
        do {
            uint64_t begin = bench_ticks();
            void *p = malloc(size);
            record(&mallocs, begin, bench_ticks(), overhead);
            if (p == NULL) bench_fail("malloc");
            block b = {p, size};
            use(&b, m->touched);
            blocks[count++] = b;
            live += size;
            i++;
            size = (uint32_t)bench_size(&sizes, random);
        } while (count < m->live_blocks && live + size <= m->live_bytes);
    }
}

static void print_quantiles(const char *what, const histogram *h, double ns_per_tick)
{
    bench_pair(quantile(h, 0.5) * ns_per_tick, "%s_p50_ns", what);
    bench_pair(quantile(h, 0.99) * ns_per_tick, "%s_p99_ns", what);
    bench_pair(quantile(h, 0.999) * ns_per_tick, "%s_p99.9_ns", what);
    bench_pair(quantile(h, 0.9999) * ns_per_tick, "%s_p99.99_ns", what);
    bench_pair((double)h->max * ns_per_tick, "%s_max_ns", what);
}

int main(int argc, char **argv)
{
    double scale = bench_scale(argc, argv);
    const char *name = argc > 2 ? argv[2] : "small";
    const mix *m = NULL;
    for (size_t i = 0; i < sizeof mixes / sizeof mixes[0]; i++)
        if (strcmp(mixes[i].name, name) == 0) m = &mixes[i];
    if (m == NULL) bench_fail("the mix is small, medium or medium_touched");

    double ns_per_tick = bench_ns_per_tick();
    uint64_t overhead = UINT64_MAX;
    for (int i = 0; i < 1000; i++) {
        uint64_t begin = bench_ticks(), ticks = bench_ticks() - begin;
        if (ticks < overhead) overhead = ticks;
    }
    bench_sizes_log_uniform(&sizes, 1, m->min, m->max);
    blocks = bench_map(LIVE_MAX * sizeof *blocks);
    bench_random random = bench_seed(2);
    for (;;) {
        uint32_t size = (uint32_t)bench_size(&sizes, &random);
        if (count == m->live_blocks || live + size > m->live_bytes) break;
        block b = {bench_malloc(size), size};
        use(&b, m->touched);
        blocks[count++] = b;
        live += size;
    }
    size_t ops = bench_scaled(scale, m->ops);
    run(m, &random, ops / 5 + 1); /* until the heap is as mixed as it stays */
    uint64_t elapsed = run(m, &random, ops);
    run_timed(m, &random, ops, overhead);

    bench_print(ops, elapsed);
    bench_pair((double)elapsed / (double)ops, "pair_ns");
    print_quantiles("malloc", &mallocs, ns_per_tick);
    print_quantiles("free", &frees, ns_per_tick);
    bench_end();
    return 0;
}
