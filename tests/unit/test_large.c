/* test_large: blocks in slots: they grow and shrink where they lie, memory follows their size, freed slots are kept for
 * a while, and what no slot can hold is served and tracked all the same. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/large.h"
#include "fake_os.h"
#include "page/arena.h"
#include "page/fill.h"
#include "probe.h"

static large l;
static account acc;
static const page_policy patient = {.delay_ms = UINT32_MAX, .cache_bytes_max = SIZE_MAX};

static int fresh(void **state)
{
    (void)state;
    fake_os_install();
    if (!space_init(0)) return -1;
    acc = (account){0};
    large_init(&l, &l, acre_provider_flexible(), &acc, patient);
    return 0;
}

static int destroyed(void **state)
{
    (void)state;
    fake_os_heal();
    bool ok = large_check(&l);
    large_destroy(&l);
    ok = ok && acc.bytes == 0 && space_regions_in_use(REGION_LARGE) == 0;
    fake_os_remove();
    return ok ? 0 : -1;
}

static char *take(size_t bytes)
{
    bool zeroed;
    char *p = large_alloc(&l, bytes, 0, &zeroed);
    assert_non_null(p);
    return p;
}

static size_t usable(const void *p)
{
    size_t bytes = 0;
    return large_owner(p, &bytes) == &l ? bytes : 0;
}

/* A byte in every 64 KiB, so that big blocks are quick. */
static void mark(char *p, size_t bytes, int value)
{
    for (size_t i = 0; i < bytes; i += 64 * KIB) p[i] = (char)value;
    p[bytes - 1] = (char)value;
}
static bool marked(const char *p, size_t bytes, int value)
{
    for (size_t i = 0; i < bytes; i += 64 * KIB)
        if (p[i] != (char)value) return false;
    return true;
}

static void a_block_has_its_pages_and_no_more(void **state)
{
    (void)state;
    char *p = take(33 * MIB + 1);
    assert_int_equal(usable(p), 33 * MIB + 64 * KIB);
    assert_int_equal(acc.bytes, 33 * MIB + 64 * KIB);
    assert_int_equal(probe_resident(p, 64 * MIB), 0);
    mark(p, 33 * MIB, 1);
    assert_int_equal(large_free(&l, p), ACRE_OK);
    assert_int_equal(acc.bytes, 0);
    assert_int_equal(usable(p), 0);
}

static void every_size_has_its_slot_and_all_are_apart(void **state)
{
    (void)state;
    const size_t sizes[] = {1, 40 * MIB, 64 * MIB, 64 * MIB + 1, 100 * MIB, 300 * MIB, GIB, 3 * GIB, 16 * GIB};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    char *p[SIZES][2];
    for (int i = 0; i < SIZES; i++)
        for (int k = 0; k < 2; k++) {
            p[i][k] = take(sizes[i]);
            p[i][k][0] = p[i][k][sizes[i] - 1] = (char)(2 * i + k);
        }
    for (int i = 0; i < SIZES; i++)
        for (int k = 0; k < 2; k++) {
            assert_true(p[i][k][0] == 2 * i + k && p[i][k][sizes[i] - 1] == 2 * i + k);
            assert_true(space_contains(p[i][k]));
        }
    assert_true(large_check(&l));
    for (int i = 0; i < SIZES; i++)
        for (int k = 0; k < 2; k++) assert_int_equal(large_free(&l, p[i][k]), ACRE_OK);
    large_trim(&l, 0);
    assert_int_equal(space_regions_in_use(REGION_LARGE), 0);
}

static void a_block_grows_in_place_to_the_end_of_its_slot(void **state)
{
    (void)state;
    char *p = take(33 * MIB), *next = take(33 * MIB);
    mark(p, 33 * MIB, 1);
    mark(next, 33 * MIB, 2);
    for (size_t bytes = 34 * MIB; bytes <= 64 * MIB; bytes += 5 * MIB) {
        assert_true(large_resize(&l, p, bytes));
        assert_true(usable(p) >= bytes);
        p[bytes - 1] = 1;
    }
    assert_true(large_resize(&l, p, 64 * MIB));
    p[64 * MIB - 1] = 1;
    assert_false(large_resize(&l, p, 64 * MIB + 1));
    assert_int_equal(usable(p), 64 * MIB);
    assert_int_equal(acc.bytes, 97 * MIB);
    assert_true(marked(p, 33 * MIB, 1) && marked(next, 33 * MIB, 2));
    assert_true(large_check(&l));
}

static void shrinking_gives_pages_back_at_once(void **state)
{
    (void)state;
    char *p = take(60 * MIB);
    memset(p, 1, 60 * MIB);
    assert_true(large_resize(&l, p, 40 * MIB + 1));
    assert_int_equal(probe_resident(p, 64 * MIB), 40 * MIB + 64 * KIB);
    assert_int_equal(acc.bytes, 40 * MIB + 64 * KIB);
    assert_true(probe_all_bytes(p, 1, 40 * MIB));
    assert_true(large_resize(&l, p, 60 * MIB));
    assert_true(probe_all_bytes(p + 40 * MIB + 64 * KIB, 0, 20 * MIB - 64 * KIB));
}

static void a_freed_slot_is_used_again_with_its_memory(void **state)
{
    (void)state;
    char *p = take(40 * MIB), *q = take(40 * MIB);
    mark(p, 40 * MIB, 7);
    mark(q, 40 * MIB, 7);
    large_free(&l, p);
    large_free(&l, q);
    bool zeroed = true;
    uint64_t calls = fake_os_count(FAKE_ANY);
    assert_ptr_equal(large_alloc(&l, 40 * MIB, 0, &zeroed), q); /* the hottest */
    assert_false(zeroed);
    assert_int_equal(fake_os_count(FAKE_ANY), calls);
    assert_true(marked(q, 40 * MIB, 7));
    /* A smaller one does not keep the memory of the larger one before it. */
    memset(p, 1, 40 * MIB);
    char *small = large_alloc(&l, 33 * MIB, 0, &zeroed);
    assert_ptr_equal(small, p);
    assert_false(zeroed);
    assert_int_equal(probe_resident(p, 64 * MIB), 33 * MIB);
}

static void what_is_called_zeroed_reads_zero(void **state)
{
    (void)state;
    bool zeroed = false;
    char *p = large_alloc(&l, 40 * MIB, 0, &zeroed);
    assert_true(zeroed);
    assert_true(marked(p, 40 * MIB, 0));
    mark(p, 40 * MIB, 1);
    large_free(&l, p);
    large_trim(&l, 0);
    char *q = large_alloc(&l, 50 * MIB, 0, &zeroed);
    assert_ptr_equal(q, p);
    assert_true(zeroed && marked(q, 50 * MIB, 0));
}

static void free_slots_go_back_by_age_by_budget_and_on_trim(void **state)
{
    (void)state;
    l.policy = (page_policy){.delay_ms = 500, .cache_bytes_max = SIZE_MAX};
    char *p = take(40 * MIB), *q = take(40 * MIB);
    mark(p, 40 * MIB, 1);
    mark(q, 40 * MIB, 1);
    large_free(&l, p);
    fake_os_advance_ms(400);
    large_free(&l, q);
    assert_true(probe_resident(p, MIB) > 0);
    fake_os_advance_ms(100);
    large_tick(&l, l.policy.delay_ms);
    assert_int_equal(probe_resident(p, 40 * MIB), 0);
    assert_true(probe_resident(q, MIB) > 0);
    assert_int_equal(l.cached, 40 * MIB);
    l.policy = (page_policy){.delay_ms = UINT32_MAX, .cache_bytes_max = 50 * MIB};
    p = take(100 * MIB);
    mark(p, 100 * MIB, 1);
    large_free(&l, p);
    assert_true(l.cached <= 50 * MIB);
    l.policy.cache_bytes_max = SIZE_MAX;
    large_free(&l, take(36 * MIB));
    assert_true(l.cached > 0);
    assert_true(large_trim(&l, 0) > 0);
    assert_int_equal(l.cached, 0);
    assert_true(large_check(&l));
    assert_int_equal(space_regions_in_use(REGION_LARGE), 0); /* empty tables are gone */
}

static void a_block_aligned_beyond_its_slot_is_aligned(void **state)
{
    (void)state;
    for (size_t align = 64 * KIB; align <= GIB; align *= 2)
        for (int i = 0; i < 5; i++) {
            bool zeroed;
            char *p = large_alloc(&l, 33 * MIB, align, &zeroed);
            assert_non_null(p);
            assert_int_equal((uintptr_t)p % align, 0);
            p[0] = p[33 * MIB - 1] = 1;
        }
}

static void what_no_slot_can_hold_comes_from_the_system_and_is_tracked(void **state)
{
    (void)state;
    enum { BLOCKS = PROBE_TSAN ? 10 : 200 }; /* its shadow is four times as large */
    char *p[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        p[i] = take(16 * GIB + 4096 * (size_t)(i + 1));
        assert_false(space_contains(p[i]));
        assert_int_equal(usable(p[i]), 16 * GIB + 4096 * (size_t)(i + 1));
        p[i][0] = p[i][16 * GIB] = (char)i;
    }
    assert_int_equal(l.live_blocks, BLOCKS);
    assert_int_equal(usable(p[0] + 4096), 0);
    assert_true(large_check(&l));
    for (int i = 0; i < BLOCKS; i += 2) assert_int_equal(large_free(&l, p[i]), ACRE_OK);
    for (int i = 1; i < BLOCKS; i += 2) assert_true(usable(p[i]) > 16 * GIB && p[i][16 * GIB] == (char)i);
    assert_int_equal(usable(p[0]), 0);
    unsigned char present;
    assert_int_equal(mincore(p[0], 4096, &present), -1);
    assert_int_equal(large_free(&l, p[0]), ACRE_FOREIGN_POINTER);
    /* It shrinks in place a little; what does not stay in half of it moves. */
    assert_true(large_resize(&l, p[1], 16 * GIB));
    assert_false(large_resize(&l, p[1], GIB));
    assert_false(large_resize(&l, p[1], 17 * GIB));
    large_destroy(&l); /* the other half goes with it */
    assert_int_equal(usable(p[1]), 0);
    assert_int_equal(mincore(p[1], 4096, &present), -1);
    assert_int_equal(acc.bytes, 0);
}

static void impossible_sizes_are_refused(void **state)
{
    (void)state;
    bool zeroed;
    assert_null(large_alloc(&l, SIZE_MAX, 0, &zeroed));
    assert_null(large_alloc(&l, SIZE_MAX / 4, 0, &zeroed));
    assert_null(large_alloc(&l, MIB, SIZE_MAX / 2 + 1, &zeroed));
    assert_int_equal(acc.bytes, 0);
}

static void wrong_frees_are_told_apart_and_change_nothing(void **state)
{
    (void)state;
    char *p = take(40 * MIB), *q = take(40 * MIB);
    assert_int_equal(large_free(&l, p), ACRE_OK);
    assert_int_equal(large_free(&l, p), ACRE_DOUBLE_FREE);
    assert_true(large_is_free_slot(p) && !large_is_free_slot(q) && !large_is_free_slot(q + 4096));
    assert_int_equal(large_free(&l, q + 4096), ACRE_FOREIGN_POINTER);
    assert_int_equal(usable(q + 4096), 0);
    assert_int_equal(usable(&acc), 0);
    assert_int_equal(usable(NULL), 0);
    assert_true(large_check(&l));
    assert_int_equal(acc.bytes, 40 * MIB);
}

static void moving_keeps_the_contents_and_copies_nothing(void **state)
{
    (void)state;
    char *p = take(60 * MIB), *q = take(200 * MIB);
    for (size_t i = 0; i < 60 * MIB; i += 4096) *(size_t *)(void *)(p + i) = i;
    if (!large_move(&l, p, q, usable(p))) skip();
    __asm__ volatile("" ::: "memory");
    for (size_t i = 0; i < 60 * MIB; i += 4096) assert_int_equal(*(size_t *)(void *)(q + i), i);
    assert_int_equal(probe_resident(p, 60 * MIB), 0);
    assert_true(marked(q + 60 * MIB, 140 * MIB, 0));
    q[200 * MIB - 1] = 1;
    assert_int_equal(large_free(&l, p), ACRE_OK);
    /* The addresses that it left can be used again. */
    p = take(60 * MIB);
    mark(p, 60 * MIB, 3);
    assert_true(large_check(&l));
}

static void blocks_outside_of_slots_move_as_well(void **state)
{
    (void)state;
    bool zeroed;
    size_t align = 2 * region_bytes(); /* more than any slot is aligned to */
    char *p = large_alloc(&l, 40 * MIB, align, &zeroed), *q = large_alloc(&l, 80 * MIB, align, &zeroed);
    assert_false(space_contains(p) || space_contains(q));
    mark(p, 40 * MIB, 5);
    if (!large_move(&l, p, q, usable(p))) skip();
    __asm__ volatile("" ::: "memory");
    assert_true(marked(q, 40 * MIB, 5) && marked(q + 40 * MIB, 40 * MIB, 0));
    assert_int_equal(probe_resident(p, 40 * MIB), 0);
    char *slot = take(64 * MIB);
    assert_true(large_move(&l, q, slot, 40 * MIB));
    __asm__ volatile("" ::: "memory");
    assert_true(marked(slot, 40 * MIB, 5));
    assert_false(large_move(&l, slot, q, 128 * MIB)); /* more than either has */
    assert_int_equal(large_free(&l, p), ACRE_OK);
    assert_int_equal(large_free(&l, q), ACRE_OK);
    assert_int_equal(large_free(&l, slot), ACRE_OK);
    assert_true(large_check(&l));
}

static void every_failure_in_turn_leaves_it_consistent(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        large_trim(&l, 0);
        fake_os_install();
        fake_os_fail(FAKE_ANY, n, true);
        bool zeroed;
        char *p = large_alloc(&l, 40 * MIB, 0, &zeroed);
        bool grew = p && large_resize(&l, p, 60 * MIB);
        uint64_t failures = fake_os_failures();
        fake_os_heal();
        assert_true(large_check(&l));
        assert_int_equal(acc.bytes, !p ? 0 : grew ? 60 * MIB : 40 * MIB);
        if (p) mark(p, grew ? 60 * MIB : 40 * MIB, 1);
        if (p) assert_int_equal(large_free(&l, p), ACRE_OK);
        if (failures == 0) break;
        assert_true(n < 100);
    }
}

static void a_budget_bounds_blocks_and_their_growth(void **state)
{
    (void)state;
    acc.budget = 100 * MIB;
    bool zeroed;
    char *p = take(40 * MIB);
    assert_null(large_alloc(&l, 61 * MIB, 0, &zeroed));
    char *q = take(60 * MIB);
    assert_false(large_resize(&l, p, 41 * MIB));
    assert_true(large_resize(&l, q, 40 * MIB));
    assert_true(large_resize(&l, p, 60 * MIB));
    assert_int_equal(acc.bytes, 100 * MIB);
    acc.budget = 0;
}

static void destroying_takes_the_memory_from_live_blocks(void **state)
{
    (void)state;
    char *p = take(40 * MIB);
    memset(p, 1, 40 * MIB);
    large_destroy(&l);
    assert_int_equal(probe_resident(p, 40 * MIB), 0);
    assert_int_equal(space_regions_in_use(REGION_LARGE), 0);
    assert_int_equal(acc.bytes, 0);
}

/* As in test_medium: what could not go back must not be taken for fresh. */
static void memory_of_a_destroyed_one_reads_zero_in_the_next_even_if_it_could_not_go_back(void **state)
{
    (void)state;
    char *p = take(40 * MIB);
    mark(p, 40 * MIB, 7);
    fake_os_fail(FAKE_DECOMMIT, 1, true);
    large_destroy(&l);
    fake_os_heal();
    bool zeroed = false;
    char *q = large_alloc(&l, 40 * MIB, 0, &zeroed);
    assert_ptr_equal(q, p);
    assert_true(!zeroed || marked(q, 40 * MIB, 0));
}

static void clear_values_mark_memory_that_comes_and_goes(void **state)
{
    (void)state;
    l.policy.fill = true;
    char *p = take(33 * MIB);
    assert_true(probe_all_bytes(p, FILL_MEMORY_ALLOCATED, 33 * MIB));
    large_free(&l, p);
    assert_true(probe_all_bytes(p, FILL_MEMORY_DEALLOCATED, 33 * MIB));
}

static void count_visit(void *context, void *block, size_t bytes)
{
    size_t *seen = context;
    seen[0]++;
    seen[1] += bytes;
    CHECK(block != NULL);
}

static void every_live_block_is_visited(void **state)
{
    (void)state;
    large_free(&l, take(40 * MIB));
    take(40 * MIB);
    take(300 * MIB);
    size_t seen[2] = {0, 0};
    large_visit(&l, count_visit, seen);
    assert_int_equal(seen[0], 2);
    assert_int_equal(seen[1], 340 * MIB);
}

static void *churns(void *seed)
{
    uint64_t random = (uintptr_t)seed * 77;
    for (int i = 0; i < 300; i++) {
        bool zeroed;
        size_t bytes = (33 + probe_random(&random) % 90) * MIB;
        uint64_t *p = large_alloc(&l, bytes, 0, &zeroed);
        CHECK(p != NULL);
        *p = (uintptr_t)seed * 1000 + (unsigned)i;
        size_t more = bytes + probe_random(&random) % (8 * MIB), usable_now;
        if (large_resize(&l, p, more)) bytes = more;
        ((char *)p)[bytes - 1] = 1;
        CHECK(large_owner(p, &usable_now) == &l && usable_now >= bytes);
        CHECK(*p == (uintptr_t)seed * 1000 + (unsigned)i);
        CHECK(large_free(&l, p) == ACRE_OK);
        if (i % 50 == 0) large_trim(&l, 0);
    }
    return NULL;
}

static void threads_share_one(void **state)
{
    (void)state;
    pthread_t t[4];
    for (uintptr_t i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, churns, (void *)(i + 1)), 0);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    assert_true(large_check(&l));
    assert_int_equal(l.live_blocks, 0);
}

#define LARGE_TEST(name) cmocka_unit_test_setup_teardown(name, fresh, destroyed)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LARGE_TEST(a_block_has_its_pages_and_no_more),
        LARGE_TEST(every_size_has_its_slot_and_all_are_apart),
        LARGE_TEST(a_block_grows_in_place_to_the_end_of_its_slot),
        LARGE_TEST(shrinking_gives_pages_back_at_once),
        LARGE_TEST(a_freed_slot_is_used_again_with_its_memory),
        LARGE_TEST(what_is_called_zeroed_reads_zero),
        LARGE_TEST(free_slots_go_back_by_age_by_budget_and_on_trim),
        LARGE_TEST(a_block_aligned_beyond_its_slot_is_aligned),
        LARGE_TEST(what_no_slot_can_hold_comes_from_the_system_and_is_tracked),
        LARGE_TEST(impossible_sizes_are_refused),
        LARGE_TEST(wrong_frees_are_told_apart_and_change_nothing),
        LARGE_TEST(moving_keeps_the_contents_and_copies_nothing),
        LARGE_TEST(blocks_outside_of_slots_move_as_well),
        LARGE_TEST(every_failure_in_turn_leaves_it_consistent),
        LARGE_TEST(a_budget_bounds_blocks_and_their_growth),
        LARGE_TEST(destroying_takes_the_memory_from_live_blocks),
        LARGE_TEST(memory_of_a_destroyed_one_reads_zero_in_the_next_even_if_it_could_not_go_back),
        LARGE_TEST(clear_values_mark_memory_that_comes_and_goes),
        LARGE_TEST(every_live_block_is_visited),
        LARGE_TEST(threads_share_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
