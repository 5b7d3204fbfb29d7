/* test_coalesce: claims about the coalescing core, and a short run against a naive oracle by address. The long run with
 * an exact oracle of the choice is test_coalesce_oracle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/coalesce.h"

/* Node memory that counts its calls, moves at each growth, and fails at call number fail_at (and ever after). */
typedef struct test_memory {
    uint32_t calls, fail_at, live;
    bool ever_after;
} test_memory;

static void *memory_grow(void *context, unsigned part, void *old, size_t old_bytes, size_t new_bytes)
{
    test_memory *m = context;
    (void)part;
    m->calls++;
    if (m->fail_at != 0 && (m->calls == m->fail_at || (m->ever_after && m->calls > m->fail_at))) return NULL;
    void *base = aligned_alloc(64, (new_bytes + 63) & ~(size_t)63);
    assert_non_null(base);
    memset(base, 0xA5, new_bytes);
    if (old != NULL) memcpy(base, old, old_bytes);
    m->live += old == NULL;
    free(old);
    return base;
}
static void memory_release(void *context, unsigned part, void *base, size_t bytes)
{
    (void)part, (void)bytes;
    ((test_memory *)context)->live--;
    free(base);
}

static test_memory memory;

static coalesce make(uint32_t capacity, uint8_t named1, uint8_t named2)
{
    coalesce c;
    memory = (test_memory){0, 0, 0, false};
    coalesce_options options = {.memory = {&memory, memory_grow, memory_release},
                                .capacity = capacity,
                                .exact_sizes = 64,
                                .node_count = 4,
                                .extra_align_log2 = {named1, named2}};
    assert_true(coalesce_init(&c, &options));
    return c;
}

static void check(const coalesce *c)
{
    const char *wrong = coalesce_check(c);
    if (wrong != NULL) fail_msg("%s", wrong);
}

static void done(coalesce *c)
{
    check(c);
    coalesce_destroy(c);
    assert_int_equal(memory.live, 0);
}

static uint32_t take(coalesce *c, uint32_t size, unsigned align_log2, uint32_t expected_offset)
{
    uint32_t offset = UINT32_MAX, node = coalesce_alloc(c, size, align_log2, &offset);
    assert_int_not_equal(node, 0);
    assert_int_equal(offset, expected_offset);
    check(c);
    return node;
}

static uint64_t random_state = 7;
static uint32_t next_random(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 32) * below >> 32);
}

/* --- claims ----------------------------------------------------------------------------------------------------- */

static void an_empty_range_serves_nothing_and_counts_nothing(void **state)
{
    (void)state;
    coalesce c = make(0, 0, 0);
    uint32_t offset;
    assert_int_equal(coalesce_alloc(&c, 1, 0, &offset), 0);
    assert_int_equal(coalesce_largest_hole(&c), 0);
    assert_int_equal(coalesce_first(&c), 0);
    done(&c);
}

static void size_zero_and_more_than_the_range_are_refused(void **state)
{
    (void)state;
    coalesce c = make(100, 0, 0);
    uint32_t offset;
    assert_int_equal(coalesce_alloc(&c, 0, 0, &offset), 0);
    assert_int_equal(coalesce_alloc(&c, 101, 0, &offset), 0);
    assert_int_equal(coalesce_alloc(&c, UINT32_MAX, 0, &offset), 0);
    assert_int_equal(coalesce_alloc(&c, 1, 32, &offset), 0);
    take(&c, 100, 0, 0);
    assert_int_equal(coalesce_alloc(&c, 1, 0, &offset), 0);
    done(&c);
}

static void the_smallest_hole_that_is_enough_is_taken(void **state)
{
    (void)state;
    coalesce c = make(1000, 0, 0);
    uint32_t a = take(&c, 30, 0, 0);
    take(&c, 1, 0, 30);
    uint32_t b = take(&c, 20, 0, 31);
    take(&c, 1, 0, 51);
    uint32_t d = take(&c, 25, 0, 52);
    take(&c, 1, 0, 77);
    coalesce_free(&c, a), coalesce_free(&c, b), coalesce_free(&c, d);
    take(&c, 21, 0, 52);
    take(&c, 20, 0, 31);
    take(&c, 26, 0, 0);
    take(&c, 200, 0, 78);
    done(&c);
}

static void of_equal_holes_the_lowest_address_is_taken(void **state)
{
    (void)state;
    coalesce c = make(100000, 0, 0);
    /* In an exact bin (7) and in a bin of several sizes (500). */
    static const uint32_t sizes[] = {7, 500};
    for (int k = 0; k < 2; k++) {
        uint32_t size = sizes[k], nodes[64], offset;
        coalesce_reset(&c);
        for (int i = 0; i < 64; i++) {
            nodes[i] = coalesce_alloc(&c, size, 0, &offset);
            coalesce_alloc(&c, 1, 0, &offset);
        }
        for (int i = 0; i < 64; i++) coalesce_free(&c, nodes[i * 37 % 64]);
        check(&c);
        for (uint32_t i = 0; i < 64; i++) take(&c, size, 0, i * (size + 1));
    }
    done(&c);
}

static void a_freed_block_merges_with_both_neighbours(void **state)
{
    (void)state;
    coalesce c = make(30, 0, 0);
    uint32_t a = take(&c, 10, 0, 0), b = take(&c, 10, 0, 10), d = take(&c, 10, 0, 20);
    uint32_t hole = coalesce_free(&c, a);
    assert_int_equal(coalesce_size(&c, hole), 10);
    coalesce_free(&c, d);
    assert_int_equal(c.hole_count, 2);
    hole = coalesce_free(&c, b);
    assert_int_equal(coalesce_offset(&c, hole), 0);
    assert_int_equal(coalesce_size(&c, hole), 30);
    assert_int_equal(c.hole_count, 1);
    assert_int_equal(c.used, 0);
    done(&c);
}

static void a_named_alignment_finds_the_tightest_aligned_hole(void **state)
{
    (void)state;
    coalesce c = make(1000, 4, 0); /* 16 granules */
    take(&c, 1, 0, 0);
    /* The first hole is [1, 1000): the block starts at 16 and what lies before stays a hole. */
    uint32_t a = take(&c, 16, 4, 16);
    assert_int_equal(c.hole_count, 2);
    take(&c, 15, 0, 1);
    take(&c, 5, 0, 32);
    uint32_t b = take(&c, 40, 0, 37); /* will be a larger hole with 29 usable granules */
    take(&c, 3, 0, 77);
    coalesce_free(&c, a), coalesce_free(&c, b);
    take(&c, 16, 4, 16);
    take(&c, 20, 4, 48);
    done(&c);
}

static void holes_too_small_for_all_requests_so_far_serve_a_smaller_one(void **state)
{
    (void)state;
    for (uint32_t size_min = 0; size_min <= 50; size_min += 50) {
        memory = (test_memory){0, 0, 0, false};
        coalesce c;
        coalesce_options options = {.memory = {&memory, memory_grow, memory_release},
                                    .capacity = 1000,
                                    .size_min = size_min,
                                    .extra_align_log2 = {1}};
        assert_true(coalesce_init(&c, &options));
        uint32_t nodes[10], offset;
        for (int i = 0; i < 10; i++) nodes[i] = coalesce_alloc(&c, 100, 0, &offset);
        for (int i = 0; i < 10; i += 2) assert_true(coalesce_resize(&c, nodes[i], 93 - (uint32_t)i));
        check(&c);
        assert_int_equal(coalesce_largest_hole(&c), 15); /* all holes are below the floor */
        assert_int_equal(coalesce_alloc(&c, 16, 0, &offset), 0);
        take(&c, 8, 0, 291);
        take(&c, 14, 1, 886);
        take(&c, 10, 0, 489);
        take(&c, 3, 0, 93);
        coalesce_reset(&c);
        take(&c, 1, 0, 0);
        done(&c);
    }
}

/* The bins tell places of a range of 1,000 apart at first, of 128,000 at last; or of one that was announced. */
static void a_range_that_grows_still_takes_the_lowest_of_equals(void **state)
{
    (void)state;
    const uint32_t first[] = {1000, 0, 1000}, later[] = {0, 500000, 2000};
    for (int k = 0; k < 3; k++) {
        coalesce c;
        coalesce_options options = {.memory = {&memory, memory_grow, memory_release},
                                    .capacity = first[k],
                                    .capacity_later = later[k],
                                    .exact_sizes = 64,
                                    .extra_align_log2 = {3}};
        assert_true(coalesce_init(&c, &options));
        for (uint32_t capacity = 1000; capacity <= 128000; capacity *= 2) {
            enum { PAIR = 10 };
            uint32_t node, offset, count = 0, nodes[2 * 128000 / PAIR];
            assert_true(coalesce_extend(&c, capacity));
            while ((node = coalesce_alloc(&c, PAIR / 2, 0, &offset)) != 0) nodes[count++] = node;
            assert_int_equal(count, capacity / (PAIR / 2));
            for (uint32_t i = 0; i < count; i++) { /* every other block, from the middle on */
                uint32_t from_middle = (i + count / 2) % count;
                if (coalesce_offset(&c, nodes[from_middle]) % PAIR != 0) coalesce_free(&c, nodes[from_middle]);
            }
            check(&c);
            assert_true(coalesce_extend(&c, capacity * 2 - 1)); /* with holes in it */
            assert_true(coalesce_shrink(&c, capacity));
            check(&c);
            for (uint32_t i = 0; i < capacity / PAIR; i++) {
                assert_int_not_equal(coalesce_alloc(&c, PAIR / 2, 0, &offset), 0);
                assert_int_equal(offset, i * PAIR + PAIR / 2);
            }
            coalesce_reset(&c);
            check(&c);
        }
        done(&c);
    }
}

static void an_alignment_that_is_not_named_is_served_too(void **state)
{
    (void)state;
    for (uint8_t named = 0; named <= 8; named = (uint8_t)(named + 4)) {
        coalesce c = make(1 << 16, named, 0);
        for (int i = 0; i < 400; i++) {
            uint32_t offset, align_log2 = next_random(12), size = 1 + next_random(90);
            uint32_t node = coalesce_alloc(&c, size, align_log2, &offset);
            assert_int_not_equal(node, 0);
            assert_int_equal(offset & ((1u << align_log2) - 1), 0);
            if (i % 3 == 0) coalesce_free(&c, node);
        }
        done(&c);
    }
}

static void an_alignment_as_large_as_the_range_gets_offset_zero(void **state)
{
    (void)state;
    coalesce c = make(1000, 0, 0);
    take(&c, 1000, 31, 0);
    done(&c);
}

static void the_largest_range_works_to_its_last_granule(void **state)
{
    (void)state;
    coalesce c = make(COALESCE_CAPACITY_MAX, 4, 12);
    assert_int_equal(coalesce_largest_hole(&c), COALESCE_CAPACITY_MAX);
    uint32_t a = take(&c, COALESCE_CAPACITY_MAX - 5, 0, 0), b = take(&c, 5, 0, COALESCE_CAPACITY_MAX - 5);
    coalesce_free(&c, a);
    take(&c, 1u << 31, 12, 0);
    coalesce_free(&c, b);
    assert_false(coalesce_add_range(&c, COALESCE_CAPACITY_MAX, 1));
    done(&c);
}

static void resize_moves_the_boundary_in_place(void **state)
{
    (void)state;
    coalesce c = make(100, 2, 0);
    uint32_t a = take(&c, 40, 0, 0), b = take(&c, 10, 0, 40);
    assert_true(coalesce_resize(&c, a, 30)); /* the tail becomes a hole */
    assert_int_equal(coalesce_largest_hole(&c), 50);
    assert_true(coalesce_resize(&c, a, 20)); /* the hole gets larger */
    assert_int_equal(c.hole_count, 2);
    assert_true(coalesce_resize(&c, a, 40)); /* the hole goes */
    assert_int_equal(c.hole_count, 1);
    assert_false(coalesce_resize(&c, a, 41));
    assert_false(coalesce_resize(&c, b, 61));
    assert_false(coalesce_resize(&c, b, 0));
    assert_true(coalesce_resize(&c, b, 60));
    assert_int_equal(c.used, 100);
    assert_int_equal(c.hole_count, 0);
    check(&c);
    assert_true(coalesce_resize(&c, b, 1));
    coalesce_free(&c, a), coalesce_free(&c, b);
    assert_int_equal(coalesce_largest_hole(&c), 100);
    assert_false(coalesce_resize(&c, b, 1)); /* no longer a block */
    done(&c);
}

static void the_range_grows_and_shrinks_at_its_end(void **state)
{
    (void)state;
    coalesce c = make(100, 0, 0);
    uint32_t a = take(&c, 60, 0, 0);
    assert_true(coalesce_extend(&c, 200));
    assert_int_equal(coalesce_largest_hole(&c), 140);
    assert_false(coalesce_extend(&c, 199));
    assert_false(coalesce_shrink(&c, 59));
    assert_false(coalesce_shrink(&c, 201));
    assert_int_equal(c.capacity, 200);
    assert_true(coalesce_shrink(&c, 61));
    assert_true(coalesce_shrink(&c, 60));
    assert_int_equal(c.hole_count, 0);
    assert_true(coalesce_extend(&c, 70));
    coalesce_free(&c, a);
    assert_int_equal(coalesce_largest_hole(&c), 70);
    assert_true(coalesce_shrink(&c, 0));
    assert_int_equal(coalesce_first(&c), 0);
    assert_true(coalesce_extend(&c, 10));
    take(&c, 10, 0, 0);
    done(&c);
}

static void a_gap_between_ranges_is_never_handed_out(void **state)
{
    (void)state;
    coalesce c = make(100, 0, 0);
    uint32_t offset;
    assert_true(coalesce_add_range(&c, 150, 100));
    assert_false(coalesce_add_range(&c, 200, 100));
    assert_int_equal(coalesce_free_granules(&c), 200);
    assert_int_equal(coalesce_alloc(&c, 101, 0, &offset), 0);
    uint32_t a = take(&c, 100, 0, 0), b = take(&c, 100, 0, 150);
    coalesce_free(&c, a), coalesce_free(&c, b);
    assert_int_equal(c.hole_count, 2);
    take(&c, 60, 0, 0), take(&c, 60, 0, 150);
    coalesce_reset(&c);
    check(&c);
    assert_int_equal(coalesce_free_granules(&c), 200);
    assert_true(coalesce_shrink(&c, 120));
    assert_int_equal(coalesce_free_granules(&c), 100);
    assert_true(coalesce_shrink(&c, 90));
    assert_int_equal(c.gap_count, 0);
    take(&c, 90, 0, 0);
    done(&c);
}

static void a_stale_handle_and_a_double_free_are_seen(void **state)
{
    (void)state;
    coalesce c = make(100, 0, 0);
    uint32_t a = take(&c, 10, 0, 0);
    uint64_t handle = coalesce_handle(&c, a);
    assert_int_equal(coalesce_resolve(&c, handle), a);
    assert_int_not_equal(coalesce_free(&c, a), 0);
    assert_int_equal(coalesce_free(&c, a), 0);
    assert_int_equal(coalesce_free(&c, 0), 0);
    assert_int_equal(coalesce_free(&c, 9999), 0);
    assert_int_equal(coalesce_resolve(&c, handle), 0);
    assert_true(coalesce_handle_is_stale(&c, handle));
    uint32_t b = take(&c, 10, 0, 0); /* the same node, another block */
    assert_int_equal(a, b);
    assert_int_equal(coalesce_resolve(&c, handle), 0);
    assert_true(coalesce_handle_is_stale(&c, handle));
    assert_false(coalesce_handle_is_stale(&c, handle + 1000));
    assert_false(coalesce_handle_is_stale(&c, handle + ((uint64_t)1 << 60)));
    assert_int_equal(coalesce_resolve(&c, 0), 0);
    handle = coalesce_handle(&c, b);
    coalesce_reset(&c);
    assert_int_equal(coalesce_resolve(&c, handle), 0);
    assert_true(coalesce_handle_is_stale(&c, handle));
    for (int i = 0; i < 5; i++) {
        uint32_t offset;
        assert_int_not_equal(coalesce_handle(&c, coalesce_alloc(&c, 1, 0, &offset)), handle);
        assert_int_equal(coalesce_resolve(&c, handle), 0);
    }
    done(&c);
}

static void a_tag_stays_with_its_block(void **state)
{
    (void)state;
    coalesce c = make(100, 0, 0);
    uint32_t a = take(&c, 10, 0, 0), b = take(&c, 10, 0, 10);
    assert_int_equal(coalesce_tag(&c, a), 0);
    coalesce_set_tag(&c, a, UINT64_MAX), coalesce_set_tag(&c, b, 5);
    coalesce_free(&c, b);
    assert_true(coalesce_tag(&c, a) == UINT64_MAX);
    b = take(&c, 10, 0, 10);
    assert_int_equal(coalesce_tag(&c, b), 0);
    done(&c);
}

static void options_out_of_bounds_are_refused(void **state)
{
    (void)state;
    coalesce c;
    coalesce_options good = {.memory = {&memory, memory_grow, memory_release}, .capacity = 10}, o;
    o = good, o.exact_sizes = 100;
    assert_false(coalesce_init(&c, &o));
    o = good, o.exact_sizes = 8;
    assert_false(coalesce_init(&c, &o));
    o = good, o.exact_sizes = 1 << 17;
    assert_false(coalesce_init(&c, &o));
    o = good, o.capacity = UINT32_MAX;
    assert_false(coalesce_init(&c, &o));
    o = good, o.extra_align_log2[1] = 32;
    assert_false(coalesce_init(&c, &o));
    o = good, o.memory.grow = NULL;
    assert_false(coalesce_init(&c, &o));
    o = good, o.exact_sizes = 1 << 16, o.extra_align_log2[0] = 5, o.extra_align_log2[1] = 5, o.extra_align_log2[2] = 3;
    memory = (test_memory){0, 0, 0, false};
    assert_true(coalesce_init(&c, &o));
    assert_int_equal(c.index_count, 3);
    assert_int_equal(c.index[1].align_log2, 3);
    assert_int_equal(c.index[2].align_log2, 5);
    done(&c);
}

static void reserved_nodes_make_later_calls_free_of_growth(void **state)
{
    (void)state;
    coalesce c = make(1 << 20, 4, 0);
    uint32_t nodes[1000], offset;
    assert_true(coalesce_reserve_nodes(&c, 2 * (1000 + 1)));
    uint32_t calls = memory.calls;
    for (int i = 0; i < 1000; i++) nodes[i] = coalesce_alloc(&c, 1 + next_random(30), (i & 1) * 4, &offset);
    for (int i = 0; i < 1000; i += 2) coalesce_free(&c, nodes[i]);
    check(&c);
    assert_int_equal(memory.calls, calls);
    done(&c);
}

/* --- against an oracle ------------------------------------------------------------------------------------------ */

enum { ORACLE_RANGE = 600, ORACLE_BLOCKS = 60 };

/* owner[granule]: the block there, or 0. The best hole is found by counting runs of zeros. */
static uint16_t owner[ORACLE_RANGE];

static uint32_t oracle_best(uint32_t size, uint32_t align, uint32_t *start)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0, end; i < ORACLE_RANGE; i = end + 1) {
        for (end = i; end < ORACLE_RANGE && owner[end] == 0;) end++;
        uint32_t aligned = (i + align - 1) / align * align;
        if (aligned + size <= end && end - aligned < best) best = end - aligned, *start = aligned;
    }
    return best;
}

static void each_choice_is_the_oracles_over_200_thousand_operations(void **state)
{
    (void)state;
    coalesce c = make(ORACLE_RANGE, 3, 5);
    uint32_t nodes[ORACLE_BLOCKS + 1] = {0};
    memset(owner, 0, sizeof owner);
    for (int op = 0; op < 200000; op++) {
        uint32_t block = 1 + next_random(ORACLE_BLOCKS);
        if (nodes[block] != 0) {
            assert_int_not_equal(coalesce_free(&c, nodes[block]), 0);
            nodes[block] = 0;
            for (int i = 0; i < ORACLE_RANGE; i++)
                if (owner[i] == block) owner[i] = 0;
        } else {
            static const unsigned logs[] = {0, 3, 5};
            uint32_t size = 1 + next_random(24), start = 0, offset = 0;
            unsigned align_log2 = logs[next_random(3)];
            bool exists = oracle_best(size, 1u << align_log2, &start) != UINT32_MAX;
            nodes[block] = coalesce_alloc(&c, size, align_log2, &offset);
            assert_int_equal(nodes[block] != 0, exists);
            if (!exists) continue;
            assert_int_equal(offset, start);
            for (uint32_t i = start; i < start + size; i++) {
                assert_int_equal(owner[i], 0);
                owner[i] = (uint16_t)block;
            }
        }
        if (op % 64 == 0) check(&c);
    }
    for (int block = 1; block <= ORACLE_BLOCKS; block++)
        if (nodes[block] != 0) coalesce_free(&c, nodes[block]);
    assert_int_equal(c.hole_count, 1);
    assert_int_equal(coalesce_largest_hole(&c), ORACLE_RANGE);
    done(&c);
}

/* --- faults ----------------------------------------------------------------------------------------------------- */

/* A fixed piece of work that grows the nodes often; true if it went through. Whatever fails, the heap stays whole. */
static bool work_with_fault(uint32_t fail_at, bool ever_after, uint32_t *calls)
{
    coalesce c;
    memory = (test_memory){0, fail_at, 0, ever_after};
    coalesce_options options = {.memory = {&memory, memory_grow, memory_release},
                                .capacity = 100000,
                                .exact_sizes = 16,
                                .node_count = 4,
                                .extra_align_log2 = {2, 4}};
    bool whole = coalesce_init(&c, &options);
    if (whole) {
        uint32_t nodes[3000];
        for (uint32_t i = 0; i < 3000; i++) {
            uint32_t offset, before_used = c.used, before_holes = c.hole_count;
            nodes[i] = coalesce_alloc(&c, 1 + i % 5, i % 3 * 2, &offset);
            if (nodes[i] == 0) {
                whole = false;
                assert_int_equal(c.used, before_used);
                assert_int_equal(c.hole_count, before_holes);
                check(&c);
                memory.fail_at = 0; /* memory is back */
                nodes[i] = coalesce_alloc(&c, 1 + i % 5, i % 3 * 2, &offset);
                assert_int_not_equal(nodes[i], 0);
            }
            if (i % 2 == 1 && !coalesce_resize(&c, nodes[i], 1)) {
                whole = false;
                check(&c);
            }
        }
        if (!coalesce_add_range(&c, 200000, 50)) whole = false;
        check(&c);
        for (uint32_t i = 0; i < 3000; i++) assert_int_not_equal(coalesce_free(&c, nodes[i]), 0);
        assert_int_equal(c.used, 0);
        check(&c);
        *calls = memory.calls;
        coalesce_destroy(&c);
    }
    assert_int_equal(memory.live, 0);
    return whole;
}

static void failing_growth_at_each_call_in_turn_leaves_the_heap_whole(void **state)
{
    (void)state;
    uint32_t calls = 0, ignored;
    assert_true(work_with_fault(0, false, &calls));
    assert_true(calls > 9);
    uint32_t seen = 0;
    for (uint32_t fail_at = 1; fail_at <= calls; fail_at++) {
        assert_false(work_with_fault(fail_at, true, &ignored));
        seen += !work_with_fault(fail_at, false, &ignored);
    }
    assert_true(seen >= 3); /* the others were made good by asking for less */
}

static void without_any_memory_a_block_that_needs_no_node_is_still_had(void **state)
{
    (void)state;
    coalesce c = make(1 << 20, 0, 0);
    uint32_t offset, last = 0, first = 0;
    while (c.spare_count != 0) {
        last = coalesce_alloc(&c, 2, 0, &offset);
        if (first == 0) first = last;
    }
    memory.fail_at = memory.calls + 1, memory.ever_after = true;
    assert_int_equal(coalesce_alloc(&c, 2, 0, &offset), 0);
    assert_false(coalesce_resize(&c, first, 1));
    assert_int_equal(coalesce_size(&c, first), 2);
    check(&c);
    coalesce_free(&c, first);
    assert_int_not_equal(coalesce_alloc(&c, 2, 0, &offset), 0);
    assert_int_equal(offset, 0);
    done(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_range_serves_nothing_and_counts_nothing),
        cmocka_unit_test(size_zero_and_more_than_the_range_are_refused),
        cmocka_unit_test(the_smallest_hole_that_is_enough_is_taken),
        cmocka_unit_test(a_range_that_grows_still_takes_the_lowest_of_equals),
        cmocka_unit_test(of_equal_holes_the_lowest_address_is_taken),
        cmocka_unit_test(a_freed_block_merges_with_both_neighbours),
        cmocka_unit_test(a_named_alignment_finds_the_tightest_aligned_hole),
        cmocka_unit_test(holes_too_small_for_all_requests_so_far_serve_a_smaller_one),
        cmocka_unit_test(an_alignment_that_is_not_named_is_served_too),
        cmocka_unit_test(an_alignment_as_large_as_the_range_gets_offset_zero),
        cmocka_unit_test(the_largest_range_works_to_its_last_granule),
        cmocka_unit_test(resize_moves_the_boundary_in_place),
        cmocka_unit_test(the_range_grows_and_shrinks_at_its_end),
        cmocka_unit_test(a_gap_between_ranges_is_never_handed_out),
        cmocka_unit_test(a_stale_handle_and_a_double_free_are_seen),
        cmocka_unit_test(a_tag_stays_with_its_block),
        cmocka_unit_test(options_out_of_bounds_are_refused),
        cmocka_unit_test(reserved_nodes_make_later_calls_free_of_growth),
        cmocka_unit_test(each_choice_is_the_oracles_over_200_thousand_operations),
        cmocka_unit_test(failing_growth_at_each_call_in_turn_leaves_the_heap_whole),
        cmocka_unit_test(without_any_memory_a_block_that_needs_no_node_is_still_had),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
