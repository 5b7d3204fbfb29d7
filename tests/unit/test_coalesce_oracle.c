/* test_coalesce_oracle: the coalescing core against an oracle too simple to be wrong.
 *
 *   test_coalesce_oracle [operations = 10,000,000] [seed = 1]
 *
 * The oracle is the range itself as one sorted array of blocks and holes, searched from end to end. Every allocation
 * must take exactly the hole that the oracle picks (smallest usable size that is enough, then lowest offset), every
 * free
 * must leave the hole that the oracle has, every resize must succeed or fail as the oracle says; the totals and the
 * largest hole agree after each operation, and coalesce_check holds at intervals. Few live blocks keep the searches
 * short. Exit status 0: all agreed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "alloc/coalesce.h"

enum { LIVE_MAX = 400, PIECES_MAX = 2 * LIVE_MAX + 2, CHECK_INTERVAL = 4096 };

typedef struct piece {
    uint32_t offset, size, node; /* node 0: a hole */
} piece;

typedef struct mix {
    const char *name;
    uint32_t capacity, size_min, size_max, live_max, exact_sizes;
    uint8_t named[COALESCE_EXTRA_MAX];
    uint8_t align[4];
    uint32_t aligns;
    enum { UNIFORM, POWERS, DESCENDING } sizes; /* powers of two: many equal holes; descending: the floor goes down */
} mix;

static const mix mixes[] = {
    {"unit granules, exact bins", 9000, 1, 64, 400, 4096, {0}, {0}, 1, UNIFORM},
    {"many equal holes", 1000, 1, 4, 400, 16, {0}, {0}, 1, UNIFORM},
    {"log bins", 1700000, 1, 12000, 400, 16, {0}, {0}, 1, UNIFORM},
    {"log bins, powers of two", 80000, 1, 2048, 400, 16, {0}, {0}, 1, POWERS},
    {"whole 32-bit range", COALESCE_CAPACITY_MAX, 1u << 18, 1u << 26, 200, 64, {0}, {0}, 1, UNIFORM},
    {"three alignments", 40000, 1, 500, 250, 64, {2, 4, 7}, {0, 2, 4, 7}, 4, UNIFORM},
    {"16 B, 256 B, 64 KiB", 1u << 19, 256, 8192, 64, 4096, {4, 12}, {0, 4, 12}, 3, UNIFORM},
    {"smallest size goes down", 1u << 18, 1, 1u << 12, 200, 256, {3, 6}, {0, 3, 6}, 3, DESCENDING},
    {"aligned to more than the size", 40000, 1, 30, 80, 16, {6, 10}, {0, 6, 10}, 3, POWERS},
};

static uint64_t random_state = 1;
static uint64_t next_random(void)
{
    random_state += 0x9E3779B97F4A7C15u;
    uint64_t z = random_state;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static piece pieces[PIECES_MAX];
static uint32_t piece_count, live_count;
static uint32_t progress; /* 0 to 11 in the course of a mix */

static void fail(const mix *m, uint64_t operation, const char *what)
{
    printf("%s, operation %llu: %s\n", m->name, (unsigned long long)operation, what);
    exit(1);
}

static void *grow(void *context, unsigned part, void *old, size_t old_bytes, size_t new_bytes)
{
    (void)context, (void)part;
    void *base = aligned_alloc(64, (new_bytes + 63) & ~(size_t)63);
    if (base == NULL) return NULL;
    memset(base, 0xA5, new_bytes);
    if (old != NULL) memcpy(base, old, old_bytes);
    free(old);
    return base;
}
static void release(void *context, unsigned part, void *base, size_t bytes)
{
    (void)context, (void)part, (void)bytes;
    free(base);
}

static uint64_t usable(const piece *p, unsigned align_log2)
{
    uint64_t align = (uint64_t)1 << align_log2, start = (p->offset + align - 1) / align * align;
    uint64_t end = (uint64_t)p->offset + p->size;
    return start < end ? end - start : 0;
}

/* Index of the best hole, piece_count: none. */
static uint32_t oracle_best(uint32_t size, unsigned align_log2)
{
    uint32_t found = piece_count;
    uint64_t found_usable = UINT64_MAX;
    for (uint32_t i = 0; i < piece_count; i++) {
        if (pieces[i].node != 0) continue;
        uint64_t u = usable(&pieces[i], align_log2);
        if (u >= size && u < found_usable) found = i, found_usable = u;
    }
    return found;
}

static void insert_piece(uint32_t at, piece p)
{
    memmove(&pieces[at + 1], &pieces[at], (piece_count - at) * sizeof *pieces);
    pieces[at] = p;
    piece_count++;
}
static void remove_piece(uint32_t at)
{
    piece_count--;
    memmove(&pieces[at], &pieces[at + 1], (piece_count - at) * sizeof *pieces);
}

/* Merges the hole at `at` with the holes beside it; where it is then. */
static uint32_t merge(uint32_t at)
{
    if (at + 1 < piece_count && pieces[at + 1].node == 0) {
        pieces[at].size += pieces[at + 1].size;
        remove_piece(at + 1);
    }
    if (at > 0 && pieces[at - 1].node == 0) {
        pieces[at - 1].size += pieces[at].size;
        remove_piece(at--);
    }
    return at;
}

static uint32_t random_live(void)
{
    uint32_t nth = (uint32_t)(next_random() % live_count);
    for (uint32_t i = 0;; i++)
        if (pieces[i].node != 0 && nth-- == 0) return i;
}

static uint32_t random_size(const mix *m)
{
    if (m->sizes == DESCENDING) return (m->size_max >> progress) + (uint32_t)(next_random() % (m->size_max - 1));
    if (m->sizes == POWERS) {
        uint32_t size = m->size_min << next_random() % 32;
        while (size > m->size_max || size < m->size_min) size = m->size_min << next_random() % 32;
        return size;
    }
    return m->size_min + (uint32_t)(next_random() % (m->size_max - m->size_min + 1));
}

static void step_alloc(coalesce *c, const mix *m, uint64_t op)
{
    uint32_t size = random_size(m), offset = 0;
    unsigned align_log2 = m->align[next_random() % m->aligns];
    uint32_t at = oracle_best(size, align_log2), node = coalesce_alloc(c, size, align_log2, &offset);
    if ((node == 0) != (at == piece_count)) fail(m, op, node == 0 ? "it found nothing" : "it found what is not there");
    if (node == 0) return;
    piece hole = pieces[at];
    uint32_t start = hole.offset + (hole.size - (uint32_t)usable(&hole, align_log2));
    if (offset != start) fail(m, op, "it took another hole than the best");
    if (coalesce_offset(c, node) != start || coalesce_size(c, node) != size || !coalesce_is_used(c, node))
        fail(m, op, "the node does not say what was asked for");
    pieces[at] = (piece){start, size, node};
    uint32_t end = start + size, hole_end = hole.offset + hole.size;
    if (hole_end > end) insert_piece(at + 1, (piece){end, hole_end - end, 0});
    if (start > hole.offset) insert_piece(at, (piece){hole.offset, start - hole.offset, 0});
    live_count++;
}

static void step_free(coalesce *c, const mix *m, uint64_t op)
{
    uint32_t at = random_live(), node = pieces[at].node;
    uint64_t handle = coalesce_handle(c, node);
    uint32_t hole = coalesce_free(c, node);
    if (hole == 0) fail(m, op, "a live block could not be freed");
    if (coalesce_resolve(c, handle) != 0 || !coalesce_handle_is_stale(c, handle)) fail(m, op, "a handle is not stale");
    pieces[at].node = 0;
    at = merge(at);
    live_count--;
    if (coalesce_offset(c, hole) != pieces[at].offset || coalesce_size(c, hole) != pieces[at].size)
        fail(m, op, "holes were not merged as they should");
}

static void step_resize(coalesce *c, const mix *m, uint64_t op)
{
    uint32_t at = random_live(), size = random_size(m);
    piece *p = &pieces[at];
    uint32_t room = p->size + (at + 1 < piece_count && p[1].node == 0 ? p[1].size : 0);
    bool done = coalesce_resize(c, p->node, size);
    if (done != (size <= room)) fail(m, op, "resize succeeded or failed against the oracle");
    if (!done || size == p->size) return;
    uint32_t old_size = p->size;
    p->size = size;
    if (room != old_size) remove_piece(at + 1);
    if (room > size) insert_piece(at + 1, (piece){pieces[at].offset + size, room - size, 0});
}

static void compare(const coalesce *c, const mix *m, uint64_t op, bool deep)
{
    uint32_t largest = 0, used = 0, blocks = 0;
    for (uint32_t i = 0; i < piece_count; i++) {
        if (pieces[i].node != 0)
            used += pieces[i].size, blocks++;
        else if (pieces[i].size > largest)
            largest = pieces[i].size;
    }
    if (used != c->used || blocks != c->block_count || piece_count - blocks != c->hole_count)
        fail(m, op, "totals differ");
    if (coalesce_largest_hole(c) != largest) fail(m, op, "the largest hole differs");
    if (!deep) return;
    const char *wrong = coalesce_check(c);
    if (wrong != NULL) fail(m, op, wrong);
    uint32_t i = 0;
    for (uint32_t node = coalesce_first(c); node != 0; node = coalesce_next(c, node), i++)
        if (i >= piece_count || coalesce_offset(c, node) != pieces[i].offset ||
            coalesce_size(c, node) != pieces[i].size || coalesce_is_used(c, node) != (pieces[i].node != 0))
            fail(m, op, "the ring differs from the oracle");
    if (i != piece_count) fail(m, op, "the ring is shorter than the oracle");
}

static void run_mix(const mix *m, uint64_t operations)
{
    coalesce c;
    coalesce_options options = {.memory = {NULL, grow, release},
                                .capacity = m->capacity,
                                .exact_sizes = m->exact_sizes,
                                .node_count = 4};
    memcpy(options.extra_align_log2, m->named, sizeof m->named);
    if (!coalesce_init(&c, &options)) fail(m, 0, "init failed");
    pieces[0] = (piece){0, m->capacity, 0};
    piece_count = 1, live_count = 0;
    uint64_t allocs = 0, frees = 0, resizes = 0;
    uint32_t target = m->live_max;
    for (uint64_t op = 1; op <= operations; op++) {
        progress = (uint32_t)(op * 12 / (operations + 1));
        uint64_t dice = next_random() & 1023;
        if (dice == 0) target = 1 + (uint32_t)(next_random() % m->live_max); /* fuller and emptier by turns */
        if (live_count != 0 && dice < 64)
            step_resize(&c, m, op), resizes++;
        else if (live_count < target && (live_count == 0 || dice < 640))
            step_alloc(&c, m, op), allocs++;
        else
            step_free(&c, m, op), frees++;
        compare(&c, m, op, op % CHECK_INTERVAL == 0);
    }
    while (live_count != 0) step_free(&c, m, operations);
    compare(&c, m, operations, true);
    if (piece_count != 1 || coalesce_largest_hole(&c) != m->capacity)
        fail(m, operations, "the range is not whole again");
    printf("%-32s %10llu allocations %10llu frees %9llu resizes agree\n", m->name, (unsigned long long)allocs,
           (unsigned long long)frees, (unsigned long long)resizes);
    coalesce_destroy(&c);
}

int main(int argc, char **argv)
{
    uint64_t operations = argc > 1 ? strtoull(argv[1], NULL, 0) : 10000000;
    random_state = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    size_t count = sizeof mixes / sizeof mixes[0];
    for (size_t i = 0; i < count; i++) run_mix(&mixes[i], operations / count);
    return 0;
}
