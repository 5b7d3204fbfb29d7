/* level: a game goes from level to level. Loading brings everything at once, in the order of the files: objects,
 * sounds, meshes, textures, each unpacked through a scratch buffer that goes at once. Playing allocates a little in
 * every frame and keeps some of it. Then the level goes, kind by kind, while the next one streams in, and what the
 * player carries stays between.
 *
 *   level [scale] [levels=6]
 *
 * A level has 60,000 small objects (16-512 B), 1,500 medium ones (4 KiB-1 MiB, log-uniform) and 16 big ones (1-16
 * MiB), about 320 MB at scale 1; each level leans to another kind, so the mix moves. 2% of the small objects go on to
 * the next level.
 * What it shows: whether address space and pages that one kind leaves can serve another, level after level:
 * fragmentation.
 * One operation is one block that comes and goes. */
#include "bench.h"

enum { KINDS = 3, LEVELS_MAX = 64, FRAMES = 600 };

typedef struct kind {
    size_t min, max, count;
} kind;

static const kind kinds[KINDS] = {
    {16, 512, 60000},
    {4 * BENCH_KIB, BENCH_MIB, 1500},
    {BENCH_MIB, 16 * BENCH_MIB, 16},
};

typedef struct level {
    void **block[KINDS];
    size_t count[KINDS];
} level;

static bench_random random_state;
static double scale;
static uint64_t ops;

static void *load(size_t size)
{
    ops++;
    void *p = bench_malloc(size);
    bench_fill(p, size, (int)size);
    return p;
}

/* Loads a share of the level, at `number`'s lean: half again of one kind, half of the other two. */
static void load_kind(level *l, int which, unsigned number, size_t parts, size_t part)
{
    const kind *k = &kinds[which];
    size_t count = bench_scaled(scale, k->count) * (number % KINDS == (unsigned)which ? 3 : 2) / 2;
    for (size_t i = count * part / parts; i < count * (part + 1) / parts; i++) {
        size_t size = bench_log_uniform(&random_state, k->min, k->max);
        void *scratch = which == 0 ? NULL : load(size / 2);
        l->block[which][l->count[which]++] = load(size);
        free(scratch);
    }
}

/* A frame: some temporary blocks, and one in twenty small objects is replaced by another. */
static void play(level *l)
{
    void *temporary[32];
    for (int i = 0; i < 32; i++) temporary[i] = load(16 + bench_below(&random_state, 2000));
    for (size_t i = 0; i < l->count[0] / 1000; i++) {
        size_t k = bench_below(&random_state, (uint32_t)l->count[0]);
        free(l->block[0][k]);
        l->block[0][k] = load(bench_log_uniform(&random_state, 16, 512));
    }
    for (int i = 31; i >= 0; i--) free(temporary[i]);
}

/* Frees a kind; of the small ones every fiftieth goes on to the next level. */
static void unload_kind(level *l, int which, level *next)
{
    for (size_t i = 0; i < l->count[which]; i++) {
        if (which == 0 && next != NULL && i % 50 == 7)
            next->block[0][next->count[0]++] = l->block[0][i];
        else
            free(l->block[which][i]);
    }
    l->count[which] = 0;
}

int main(int argc, char **argv)
{
    scale = bench_scale(argc, argv);
    size_t levels = bench_count(argc, argv, 2, 6);
    if (levels < 1 || levels > LEVELS_MAX) bench_fail("1 to 64 levels");

    level both[2] = {0};
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < KINDS; k++) /* twice the count: the lean and what is handed on */
            both[i].block[k] = bench_map((bench_scaled(scale, kinds[k].count) * 2 + 64) * sizeof(void *));
    random_state = bench_seed(1);
    uint64_t begin = bench_now_ns();
    for (int k = 0; k < KINDS; k++) load_kind(&both[0], k, 0, 1, 0);
    for (unsigned number = 0; number < levels; number++) {
        level *now = &both[number % 2], *next = number + 1 < levels ? &both[(number + 1) % 2] : NULL;
        for (size_t frame = 0; frame < bench_scaled(scale, FRAMES); frame++) play(now);
        /* A third of the next level comes while this one is there, then one kind goes as another comes. */
        for (int k = 0; k < KINDS; k++) {
            if (next != NULL) load_kind(next, k, number + 1, 3, 0);
        }
        for (int k = KINDS - 1; k >= 0; k--) {
            unload_kind(now, k, next);
            for (size_t part = 1; next != NULL && part < 3; part++) load_kind(next, k, number + 1, 3, part);
        }
    }
    bench_print(ops, bench_now_ns() - begin);
    bench_end();
    return 0;
}
