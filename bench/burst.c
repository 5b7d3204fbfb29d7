/* burst: build something of N equal pieces, then take it down. A parse tree, a message of a thousand fields, the frame
 * of a game: N blocks come one after the other and all go before the next N come. They go in the order in which they
 * came (a queue, a list torn down from its head), in reverse (a stack, destructors), or in any order (a hash table).
 *
 *   burst [scale] [sizes=64,1024,4096,16384,65536] [count=1000]
 *
 * Of each block the first 16 bytes are written: the link and tag of a node. The line has ns per pair of malloc and free
 * for each size and order: `64_in_order`, `64_reverse`, `64_random`. The order of `random` is shuffled once, outside
 * the clock.
 * What it shows: whether caches grow to the burst or thrash, and whether pages are given back only to be faulted in. */
#include "bench.h"

typedef enum order { IN_ORDER, REVERSE, RANDOM, ORDERS } order;
static const char *const order_name[ORDERS] = {"in_order", "reverse", "random"};

typedef struct node {
    struct node *link;
    uint64_t tag;
} node;

static void burst(size_t size, node **nodes, size_t count, const uint32_t *permutation)
{
    node *link = NULL;
    for (size_t i = 0; i < count; i++) {
        node *n = bench_malloc(size);
        *n = (node){link, i};
        nodes[i] = link = n;
    }
    for (size_t i = 0; i < count; i++) free(nodes[permutation[i]]);
}

static size_t repeats_of(double scale, size_t size, size_t count)
{
    size_t pairs = size <= BENCH_KIB ? 8000000 : size <= 4 * BENCH_KIB ? 2000000 : 500000;
    return bench_scaled(scale, pairs / count);
}

int main(int argc, char **argv)
{
    double scale = bench_scale(argc, argv);
    char list[256];
    snprintf(list, sizeof list, "%s", argc > 2 ? argv[2] : "64,1024,4096,16384,65536");
    size_t count = bench_count(argc, argv, 3, 1000), table = 0;
    if (count < 1 || count > (1u << 28)) bench_fail("a burst has 1 to 2^28 blocks");

    void **places = bench_map(count * sizeof *places);
    node **nodes = bench_map(count * sizeof *nodes);
    uint32_t *permutation = bench_map(ORDERS * count * sizeof *permutation);
    bench_random random = bench_seed(1);
    for (size_t i = 0; i < count; i++) places[i] = (void *)i;
    bench_shuffle(places, count, &random);
    for (size_t i = 0; i < count; i++) {
        permutation[IN_ORDER * count + i] = (uint32_t)i;
        permutation[REVERSE * count + i] = (uint32_t)(count - 1 - i);
        permutation[RANDOM * count + i] = (uint32_t)(uintptr_t)places[i];
    }

    struct {
        size_t size;
        double ns[ORDERS];
    } row[32];
    uint64_t ops = 0, elapsed = 0;
    for (char *save = NULL, *word = strtok_r(list, ",", &save); word != NULL && table < 32;
         word = strtok_r(NULL, ",", &save)) {
        size_t size = strtoull(word, NULL, 0);
        if (size < sizeof(node)) bench_fail("a size is below 16");
        size_t repeats = repeats_of(scale, size, count);
        row[table].size = size;
        for (order o = IN_ORDER; o < ORDERS; o++) {
            uint64_t begin = bench_now_ns();
            for (size_t i = 0; i < repeats; i++) burst(size, nodes, count, permutation + o * count);
            uint64_t ns = bench_now_ns() - begin;
            row[table].ns[o] = (double)ns / (double)(repeats * count);
            elapsed += ns;
            ops += repeats * count;
        }
        table++;
    }
    bench_print(ops, elapsed);
    for (size_t i = 0; i < table; i++)
        for (order o = IN_ORDER; o < ORDERS; o++) bench_pair(row[i].ns[o], "%zu_%s", row[i].size, order_name[o]);
    bench_end();
    return 0;
}
