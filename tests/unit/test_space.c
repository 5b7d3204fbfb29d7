/* test_space: one reservation, smaller where it must be, and its regions. A process has one space and the first call
 * decides on it, so every test runs in a child. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "fake_os.h"
#include "page/arena.h"
#include "page/space.h"
#include "probe.h"

#define ASSERT_IN_CHILD(body) assert_int_equal(probe_in_child(body), 0)

static int owner_a, owner_b;

static void default_space(void)
{
    CHECK(!space_contains(&owner_a) && !space_contains(NULL));
    CHECK(space_init(0));
    CHECK(the_space.bytes == 640 * GIB && region_bytes() == 256 * MIB && the_space.region_count == 2560);
    CHECK(space_chunk_count == 640 * GIB / CHUNK_BYTES);
    CHECK((uintptr_t)space_base % region_bytes() == 0);
    char *base = space_base;
    CHECK(space_init(GIB)); /* the first call decides */
    CHECK(space_base == base && the_space.bytes == 640 * GIB);
    CHECK(space_contains(base) && space_contains(base + 640 * GIB - 1));
    CHECK(!space_contains(base - 1) && !space_contains(base + 640 * GIB) && !space_contains(NULL));
    CHECK(page_address(page_number(base + 5 * GIB + 1)) == base + 5 * GIB);
    CHECK(space_page_class[0] == 0 && space_page_class[space_chunk_count - 1] == 0);
}

static void the_default_is_640_gigabytes_in_256_megabyte_regions(void **state)
{
    (void)state;
    ASSERT_IN_CHILD(default_space);
}

static void takes_and_gives(void)
{
    CHECK(space_init(0));
    char *a = space_take(SPACE_BLOCKS, 1, REGION_FSA, &owner_a);
    char *b = space_take(SPACE_BLOCKS, 3, REGION_MEDIUM, &owner_b);
    char *c = space_take(SPACE_LARGE, 2, REGION_LARGE, &owner_a);
    char *d = space_take(SPACE_RANGES, 1, REGION_RANGE, NULL);
    /* Blocks from the bottom, large ones from 256 GiB on, ranges from 416 GiB on. */
    CHECK(a == space_base && b == space_base + region_bytes());
    CHECK(c == space_base + 256 * GIB && d == space_base + 416 * GIB);
    for (size_t i = 0; i < 3; i++) {
        region *r = region_of(b + i * region_bytes() + 12345);
        CHECK(region_kind_of(r) == REGION_MEDIUM && r->owner == &owner_b && r->first == 1 && r->count == 3);
    }
    CHECK(region_kind_of(region_of(a)) == REGION_FSA && region_of(a)->owner == &owner_a);
    CHECK(space_regions_in_use(REGION_MEDIUM) == 3 && space_regions_in_use(REGION_LARGE) == 2);
    /* The tables of a fixed-size region can be written. */
    the_space.pages[page_number(a)].blocks = 1;
    the_space.pages[page_number(a + region_bytes() - 1)].blocks = 1;
    CHECK(space_take(SPACE_BLOCKS, 1, REGION_RANGE, NULL) == b + 3 * region_bytes());
    space_give(b);
    CHECK(space_regions_in_use(REGION_MEDIUM) == 0);
    CHECK(region_kind_of(region_of(b)) == REGION_FREE && region_of(b)->owner == NULL);
    CHECK(region_kind_of(region_of(a)) == REGION_FSA); /* its neighbour stays */
    /* The hole is used again: two fit into three, two more do not. */
    CHECK(space_take(SPACE_BLOCKS, 2, REGION_MEDIUM, &owner_b) == b);
    CHECK(space_take(SPACE_BLOCKS, 2, REGION_MEDIUM, &owner_b) == b + 4 * region_bytes());
    CHECK(space_take(SPACE_BLOCKS, 1, REGION_MEDIUM, &owner_b) == b + 2 * region_bytes());
}

static void regions_are_taken_and_given_as_runs(void **state)
{
    (void)state;
    ASSERT_IN_CHILD(takes_and_gives);
}

static void spills(void)
{
    CHECK(space_init(GIB));
    CHECK(the_space.region_count == 32 && region_bytes() == 32 * MIB);
    /* Parts begin at 0, 12 and 20. */
    char *base = space_base;
    CHECK(space_take(SPACE_RANGES, 12, REGION_RANGE, NULL) == base + 20 * region_bytes());
    CHECK(space_take(SPACE_RANGES, 1, REGION_RANGE, NULL) == base); /* full: from the bottom */
    CHECK(space_take(SPACE_LARGE, 7, REGION_LARGE, NULL) == base + 12 * region_bytes());
    CHECK(space_take(SPACE_LARGE, 2, REGION_LARGE, NULL) == base + region_bytes()); /* one is left there, two are not */
    CHECK(space_take(SPACE_BLOCKS, 9, REGION_MEDIUM, NULL) == base + 3 * region_bytes());
    CHECK(space_take(SPACE_BLOCKS, 2, REGION_MEDIUM, NULL) == NULL);
    CHECK(space_take(SPACE_BLOCKS, 1, REGION_MEDIUM, NULL) == base + 19 * region_bytes());
    for (int part = 0; part < 3; part++) CHECK(space_take((space_part)part, 1, REGION_MEDIUM, NULL) == NULL);
    space_give(base + 12 * region_bytes());
    CHECK(space_take(SPACE_BLOCKS, 8, REGION_MEDIUM, NULL) == NULL);
    CHECK(space_take(SPACE_RANGES, 7, REGION_RANGE, NULL) == base + 12 * region_bytes());
}

static void a_full_part_spills_into_the_others(void **state)
{
    (void)state;
    ASSERT_IN_CHILD(spills);
}

static void refuses(void)
{
    CHECK(space_init(GIB));
    CHECK(space_take(SPACE_BLOCKS, 0, REGION_FSA, NULL) == NULL);
    CHECK(space_take(SPACE_BLOCKS, 33, REGION_FSA, NULL) == NULL);
    CHECK(space_take(SPACE_BLOCKS, UINT32_MAX, REGION_FSA, NULL) == NULL);
    /* Without memory for its tables a fixed-size region is not taken, and stays free. */
    fake_os_install();
    fake_os_fail(FAKE_COMMIT, 1, false);
    CHECK(space_take(SPACE_BLOCKS, 1, REGION_FSA, &owner_a) == NULL);
    CHECK(space_regions_in_use(REGION_FREE) == 32);
    CHECK(space_take(SPACE_BLOCKS, 1, REGION_FSA, &owner_a) == space_base);
}

static void impossible_runs_are_refused_and_change_nothing(void **state)
{
    (void)state;
    ASSERT_IN_CHILD(refuses);
}

static void small_sizes(void)
{
    CHECK(space_init(1)); /* less than the least */
    CHECK(the_space.bytes == SPACE_BYTES_MIN && region_bytes() == REGION_BYTES_MIN);
    CHECK(space_take(SPACE_BLOCKS, 1, REGION_FSA, &owner_a) == space_base);
}

static void too_much(void)
{
    CHECK(space_init(SIZE_MAX));
    CHECK(the_space.bytes <= (size_t)1 << 46 && the_space.bytes >= 640 * GIB);
}

static void wishes_out_of_bounds_are_brought_into_them(void **state)
{
    (void)state;
    ASSERT_IN_CHILD(small_sizes);
    if (!PROBE_SANITIZED) ASSERT_IN_CHILD(too_much);
}

static size_t number; /* what a child is told */
static void limited(void)
{
    struct rlimit limit = {number, number};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    size_t left = os_address_space_left();
    CHECK(space_init(0));
    CHECK(the_space.bytes <= left / 4 * 3 && the_space.bytes > left / 4 / 2);
    CHECK(the_space.region_count >= 8);
    /* It is usable, and there is room beside it. */
    char *p = space_take(SPACE_BLOCKS, 1, REGION_FSA, &owner_a);
    CHECK(p != NULL);
    memset(p, 1, CHUNK_BYTES);
    CHECK(os_reserve(left / 8, 4096) != NULL);
    for (uint32_t n = 1; n < the_space.region_count; n++) CHECK(space_take(SPACE_LARGE, 1, REGION_LARGE, NULL) != NULL);
    CHECK(space_take(SPACE_LARGE, 1, REGION_LARGE, NULL) == NULL);
}

static void nothing_left(void)
{
    struct rlimit limit = {4096, 4096};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    CHECK(!space_init(0));
    CHECK(!space_contains(&owner_a) && space_base == NULL);
    CHECK(space_take(SPACE_BLOCKS, 1, REGION_FSA, NULL) == NULL);
}

static void under_a_limit_the_space_is_smaller(void **state)
{
    (void)state;
    if (PROBE_SANITIZED) skip();
    const size_t limits[] = {100 * GIB, 4000000 * KIB, 1000000 * KIB, 400000 * KIB, 64 * MIB};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        number = limits[i];
        ASSERT_IN_CHILD(limited);
    }
    ASSERT_IN_CHILD(nothing_left);
}

static void fails_to_reserve(void)
{
    /* Each of the first reservations in turn: the space, its two tables, and the arena's chunk, which the arena itself
     * asks for again by halves. */
    fake_os_install();
    fake_os_fail(FAKE_RESERVE, number, false);
    CHECK(space_init(0));
    CHECK(the_space.bytes == (number <= 3 ? 320 * GIB : 640 * GIB));
    CHECK(fake_os_failures() == (number <= 4));
    CHECK(fake_os_reserved_bytes() < the_space.bytes * 21 / 20); /* what was given up is not kept */
    CHECK(space_take(SPACE_BLOCKS, 1, REGION_FSA, &owner_a) == space_base);
}

static void never_reserves(void)
{
    fake_os_install();
    fake_os_fail(FAKE_RESERVE, 1, true);
    CHECK(!space_init(0));
    CHECK(fake_os_reserved_bytes() == 0 && space_base == NULL && space_chunk_count == 0);
    fake_os_heal();
    CHECK(space_init(0));
    CHECK(the_space.bytes == 640 * GIB);
}

static void never_commits(void)
{
    fake_os_install();
    fake_os_fail(FAKE_COMMIT, 1, true);
    CHECK(!space_init(0));
    CHECK(space_base == NULL && space_chunk_count == 0);
    CHECK(fake_os_reserved_bytes() <= 2 * GIB); /* of the arena's, which keeps its chunk for the next try */
    fake_os_heal();
    CHECK(space_init(0));
}

static void a_reservation_that_fails_is_tried_by_halves(void **state)
{
    (void)state;
    for (number = 1; number <= 6; number++) ASSERT_IN_CHILD(fails_to_reserve);
    ASSERT_IN_CHILD(never_reserves);
    ASSERT_IN_CHILD(never_commits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_default_is_640_gigabytes_in_256_megabyte_regions),
        cmocka_unit_test(regions_are_taken_and_given_as_runs),
        cmocka_unit_test(a_full_part_spills_into_the_others),
        cmocka_unit_test(impossible_runs_are_refused_and_change_nothing),
        cmocka_unit_test(wishes_out_of_bounds_are_brought_into_them),
        cmocka_unit_test(under_a_limit_the_space_is_smaller),
        cmocka_unit_test(a_reservation_that_fails_is_tried_by_halves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
