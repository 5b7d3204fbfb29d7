/* test_direct: memory of a fixed amount that the test maps where it likes, and a heap that lives on it. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "acre/acre.h"
#include "base/bits.h"
#include "page/space.h"
#include "probe.h"

enum { PAGE = 65536 };

static acre_direct *direct;
static acre_range range;

static int made(void **state)
{
    (void)state;
    if (acre_direct_create("test", 4 * MIB, &direct) != ACRE_OK) return -1;
    return acre_range_reserve(4 * MIB, &range) == ACRE_OK ? 0 : -1;
}

static int gone(void **state)
{
    (void)state;
    bool ok = acre_range_release(&range) == ACRE_OK && range.address == NULL;
    ok = ok && acre_direct_destroy(direct) == ACRE_OK && space_regions_in_use(REGION_RANGE) == 0;
    return ok ? 0 : -1;
}

static char *at(size_t offset) { return (char *)range.address + offset; }
static size_t free_bytes(void)
{
    size_t bytes, left;
    acre_direct_usage(direct, &bytes, &left);
    assert_int_equal(bytes, 4 * MIB);
    return left;
}

static void the_same_page_is_seen_at_two_addresses(void **state)
{
    (void)state;
    assert_int_equal(acre_direct_map(direct, 0, range, 0, 2 * PAGE), ACRE_OK);
    assert_int_equal(acre_direct_map(direct, PAGE, range, 8 * PAGE, PAGE), ACRE_OK);
    memset(at(0), 1, 2 * PAGE);
    assert_true(probe_all_bytes(at(8 * PAGE), 1, PAGE));
    memset(at(8 * PAGE), 2, PAGE);
    assert_true(probe_all_bytes(at(PAGE), 2, PAGE) && probe_all_bytes(at(0), 1, PAGE));
}

static void unmapped_pages_keep_their_contents_and_the_addresses_do_not(void **state)
{
    (void)state;
    assert_int_equal(acre_direct_map(direct, 0, range, 0, 2 * PAGE), ACRE_OK);
    memset(at(0), 5, 2 * PAGE);
    assert_int_equal(acre_direct_unmap(direct, range, PAGE, PAGE), ACRE_OK);
    assert_true(probe_all_bytes(at(0), 5, PAGE));
    assert_true(probe_all_bytes(at(PAGE), 0, PAGE)); /* flexible systems: fresh zeroes */
    assert_int_equal(acre_direct_map(direct, PAGE, range, 20 * PAGE, PAGE), ACRE_OK);
    assert_true(probe_all_bytes(at(20 * PAGE), 5, PAGE));
}

static void an_object_in_use_is_busy(void **state)
{
    (void)state;
    assert_int_equal(acre_direct_map(direct, 0, range, 0, PAGE), ACRE_OK);
    assert_int_equal(acre_direct_map(direct, 0, range, PAGE, PAGE), ACRE_OK);
    assert_int_equal(acre_direct_destroy(direct), ACRE_BUSY);
    assert_int_equal(acre_direct_unmap(direct, range, 0, PAGE), ACRE_OK);
    assert_int_equal(acre_direct_destroy(direct), ACRE_BUSY);
    assert_int_equal(acre_direct_unmap(direct, range, PAGE, PAGE), ACRE_OK);
    assert_int_equal(acre_direct_destroy(direct), ACRE_OK);
    assert_int_equal(acre_direct_create("again", 4 * MIB, &direct), ACRE_OK);
}

static void releasing_a_range_unmaps_what_is_in_it(void **state)
{
    (void)state;
    acre_range second;
    assert_int_equal(acre_range_reserve(PAGE + 1, &second), ACRE_OK);
    assert_int_equal(second.bytes, 2 * PAGE);
    assert_int_equal(acre_direct_map(direct, 0, second, 0, 2 * PAGE), ACRE_OK);
    memset(second.address, 9, 2 * PAGE);
    char *address = second.address;
    assert_int_equal(acre_range_release(&second), ACRE_OK);
    assert_null(second.address);
    assert_int_equal(probe_resident(address, 2 * PAGE), 0);
    assert_int_equal(acre_range_release(&second), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_direct_map(direct, 0, range, 0, PAGE), ACRE_OK);
    assert_true(probe_all_bytes(at(0), 9, PAGE));
}

static void pages_are_taken_and_given(void **state)
{
    (void)state;
    size_t a = 1, b = 1, c = 1;
    assert_int_equal(acre_direct_take(direct, 10 * PAGE, &a), ACRE_OK);
    assert_int_equal(acre_direct_take(direct, 10 * PAGE, &b), ACRE_OK);
    assert_true(a == 0 && b == 10 * PAGE && free_bytes() == 44 * PAGE);
    assert_int_equal(acre_direct_take(direct, 45 * PAGE, &c), ACRE_NO_MEMORY);
    assert_int_equal(acre_direct_give(direct, 0, 10 * PAGE), ACRE_OK);
    assert_int_equal(acre_direct_give(direct, 0, 10 * PAGE), ACRE_DOUBLE_FREE);
    assert_int_equal(acre_direct_give(direct, 9 * PAGE, 2 * PAGE), ACRE_DOUBLE_FREE); /* one of the two */
    assert_int_equal(free_bytes(), 54 * PAGE);
    assert_int_equal(acre_direct_take(direct, 50 * PAGE, &c), ACRE_NO_MEMORY); /* enough, but not in one piece */
    assert_int_equal(acre_direct_give(direct, 10 * PAGE, 10 * PAGE), ACRE_OK);
    assert_int_equal(acre_direct_take(direct, 64 * PAGE, &c), ACRE_OK);
    assert_int_equal(free_bytes(), 0);
    assert_int_equal(acre_direct_give(direct, c, 64 * PAGE), ACRE_OK);
}

static void wrong_arguments_are_refused(void **state)
{
    (void)state;
    acre_direct *other = (acre_direct *)&other;
    size_t offset;
    acre_range r;
    const acre_status wrong = ACRE_INVALID_ARGUMENT;
    assert_int_equal(acre_direct_create("x", 0, &other), wrong);
    assert_int_equal(acre_direct_create("x", PAGE, NULL), wrong);
    assert_int_equal(acre_direct_create("x", SIZE_MAX, &other), wrong);
    assert_int_equal(acre_direct_destroy(NULL), wrong);
    assert_null(acre_direct_provider(NULL));
    assert_int_equal(acre_direct_take(NULL, PAGE, &offset), wrong);
    assert_int_equal(acre_direct_take(direct, PAGE, NULL), wrong);
    assert_int_equal(acre_direct_take(direct, 0, &offset), wrong);
    assert_int_equal(acre_direct_take(direct, 1000, &offset), wrong);
    assert_int_equal(acre_direct_give(direct, 1000, PAGE), wrong);
    assert_int_equal(acre_direct_give(direct, 4 * MIB, PAGE), wrong);
    assert_int_equal(acre_range_reserve(0, &r), wrong);
    assert_int_equal(acre_range_reserve(PAGE, NULL), wrong);
    assert_int_equal(acre_range_reserve(SIZE_MAX, &r), ACRE_NO_MEMORY);
    assert_int_equal(acre_range_release(NULL), wrong);
    const struct { size_t offset, at, bytes; } out[] = {
        {0, 0, 0},           {100, 0, PAGE},      {0, 100, PAGE},          {0, 0, 100},
        {4 * MIB, 0, PAGE},  {0, 4 * MIB, PAGE},  {0, 0, 4 * MIB + PAGE},  {SIZE_MAX - PAGE + 1, 0, PAGE},
        {0, SIZE_MAX - PAGE + 1, PAGE},
    };
    for (size_t i = 0; i < sizeof out / sizeof *out; i++)
        assert_int_equal(acre_direct_map(direct, out[i].offset, range, out[i].at, out[i].bytes), wrong);
    assert_int_equal(acre_direct_map(NULL, 0, range, 0, PAGE), wrong);
    assert_int_equal(acre_direct_map(direct, 0, (acre_range){0}, 0, PAGE), wrong);
    assert_int_equal(acre_direct_map(direct, 0, (acre_range){&offset, 4 * MIB}, 0, PAGE), wrong);
    assert_int_equal(acre_direct_unmap(direct, range, 0, 100), wrong);
    assert_int_equal(acre_direct_unmap(NULL, range, 0, PAGE), wrong);
    assert_int_equal(free_bytes(), 4 * MIB);
}

static acre_heap *heap_on_direct(void)
{
    acre_heap *heap;
    acre_heap_options options = {.name = "direct", .provider = acre_direct_provider(direct)};
    assert_int_equal(acre_heap_create(&options, &heap), ACRE_OK);
    return heap;
}

static void a_heap_lives_on_it_until_it_is_exhausted(void **state)
{
    (void)state;
    acre_heap *heap = heap_on_direct();
    enum { MOST = 10000 };
    char **block = malloc(MOST * sizeof *block);
    int n = 0;
    acre_status why = ACRE_OK;
    while (n < MOST && (block[n] = acre_heap_alloc(heap, 1000, 0, &why)) != NULL) {
        probe_stamp(block[n], 1000, (unsigned)n);
        n++;
    }
    assert_int_equal(why, ACRE_NO_MEMORY);
    assert_int_equal(errno, ENOMEM);
    assert_true(n > 3500); /* of 4194 at most, in 4 MiB */
    assert_true(free_bytes() <= 2 * PAGE);
    assert_true(acre_heap_check(heap));
    assert_null(acre_heap_alloc(heap, 2 * MIB, 0, &why));
    assert_int_equal(why, ACRE_NO_MEMORY);
    for (int i = 0; i < n; i++) assert_true(probe_stamped(block[i], 1000, 1000, (unsigned)i));
    assert_int_equal(acre_direct_destroy(direct), ACRE_BUSY);
    for (int i = 0; i < n; i++) assert_int_equal(acre_heap_free(heap, block[i]), ACRE_OK);
    acre_heap_trim(heap, 0);
    assert_int_equal(free_bytes(), 4 * MIB);
    block[0] = acre_heap_alloc(heap, MIB, 0, &why); /* what small blocks had serves larger ones */
    assert_non_null(block[0]);
    memset(block[0], 1, MIB);
    assert_int_equal(acre_heap_destroy(heap), ACRE_OK); /* with a live block */
    assert_int_equal(free_bytes(), 4 * MIB);
    free(block);
}

static void zeroed_blocks_read_zero_on_memory_that_does_not_come_zeroed(void **state)
{
    (void)state;
    assert_int_equal(acre_direct_map(direct, 0, range, 0, 4 * MIB), ACRE_OK);
    memset(range.address, 0xEE, 4 * MIB);
    assert_int_equal(acre_direct_unmap(direct, range, 0, 4 * MIB), ACRE_OK);
    acre_heap *heap = heap_on_direct();
    const size_t sizes[] = {8, 100, 4000, 5000, 100000, MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *p = acre_heap_alloc_zeroed(heap, sizes[i], 0, NULL);
        assert_non_null(p);
        assert_true(probe_all_bytes(p, 0, sizes[i]));
        memset(p, 0xEE, sizes[i]);
        acre_heap_free(heap, p);
    }
    assert_int_equal(acre_heap_destroy(heap), ACRE_OK);
}

static void a_heap_leaves_taken_pages_alone(void **state)
{
    (void)state;
    size_t mine;
    assert_int_equal(acre_direct_take(direct, 2 * MIB, &mine), ACRE_OK);
    assert_int_equal(acre_direct_map(direct, mine, range, 0, 2 * MIB), ACRE_OK);
    memset(range.address, 0x77, 2 * MIB);
    acre_heap *heap = heap_on_direct();
    char *p;
    while ((p = acre_heap_alloc(heap, 3000, 0, NULL)) != NULL) memset(p, 0x11, 3000);
    assert_true(probe_all_bytes(range.address, 0x77, 2 * MIB));
    assert_int_equal(acre_heap_destroy(heap), ACRE_OK);
    assert_int_equal(free_bytes(), 2 * MIB);
    assert_int_equal(acre_direct_give(direct, mine, 2 * MIB), ACRE_OK);
}

/* A heap on direct memory that is the first of all takes the first region, whose first page is never handed out. */
static void first_heap_of_all(void)
{
    CHECK(acre_direct_create("first", 4 * MIB, &direct) == ACRE_OK);
    acre_heap *heap;
    acre_heap_options options = {.provider = acre_direct_provider(direct)};
    CHECK(acre_heap_create(&options, &heap) == ACRE_OK);
    void *p = acre_heap_alloc(heap, 100, 0, NULL);
    CHECK(p && space_offset(p) < region_bytes());
    CHECK(acre_heap_free(heap, p) == ACRE_OK);
    acre_heap_trim(heap, 0);
    size_t left;
    acre_direct_usage(direct, NULL, &left);
    CHECK(left == 4 * MIB);
    CHECK(acre_heap_destroy(heap) == ACRE_OK);
    CHECK(acre_direct_destroy(direct) == ACRE_OK);
}

static void all_of_it_comes_back_from_the_first_heap_of_a_process(void **state)
{
    (void)state;
    assert_int_equal(probe_in_child(first_heap_of_all), 0);
}

#define DIRECT_TEST(name) cmocka_unit_test_setup_teardown(name, made, gone)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_of_it_comes_back_from_the_first_heap_of_a_process), /* before there is another one */
        DIRECT_TEST(the_same_page_is_seen_at_two_addresses),
        DIRECT_TEST(unmapped_pages_keep_their_contents_and_the_addresses_do_not),
        DIRECT_TEST(an_object_in_use_is_busy),
        DIRECT_TEST(releasing_a_range_unmaps_what_is_in_it),
        DIRECT_TEST(pages_are_taken_and_given),
        DIRECT_TEST(wrong_arguments_are_refused),
        DIRECT_TEST(a_heap_lives_on_it_until_it_is_exhausted),
        DIRECT_TEST(zeroed_blocks_read_zero_on_memory_that_does_not_come_zeroed),
        DIRECT_TEST(a_heap_leaves_taken_pages_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
