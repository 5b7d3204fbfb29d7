/* test_size_class: every request gets a class that fits, wastes little, aligns, and finds indices by multiplication. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/size_class.h"

static size_classes sc;

static int defaults(void **state)
{
    (void)state;
    size_classes_init(&sc, 0, 0);
    return 0;
}

static void every_size_gets_the_smallest_class_that_fits(void **state)
{
    (void)state;
    assert_int_equal(sc.size_max, 4096);
    for (size_t bytes = 0; bytes <= 4096; bytes++) {
        uint32_t c = size_class_of(&sc, bytes);
        assert_in_range(c, 1, sc.count);
        assert_true(sc.size[c] >= bytes);
        assert_true(c == 1 || sc.size[c - 1] < bytes);
    }
}

static void waste_is_an_eighth_at_most(void **state)
{
    (void)state;
    size_t waste = 0, asked = 0;
    for (size_t bytes = 1; bytes <= 4096; bytes++) {
        size_t size = sc.size[size_class_of(&sc, bytes)];
        /* Below 128 bytes the steps are 16 (8 at first), which the alignment asks for. */
        if (bytes > 128) assert_true((size - bytes) * 8 < bytes);
        else assert_true(size - bytes < 16);
        waste += size - bytes;
        asked += bytes;
    }
    assert_true(waste * 100 < asked * 5); /* evenly spread: under 5% */
}

static void all_but_the_smallest_are_aligned_to_16(void **state)
{
    (void)state;
    assert_int_equal(sc.size[1], 8);
    for (uint32_t c = 2; c <= sc.count; c++) {
        assert_int_equal(sc.size[c] % 16, 0);
        assert_true(sc.size[c] > sc.size[c - 1]);
    }
    assert_int_equal(sc.size[sc.count], sc.size_max);
}

static void the_index_is_exact_for_every_offset(void **state)
{
    (void)state;
    static const struct { uint32_t size_max, steps; } tables[] = {{0, 0}, {8192, 8}, {8192, 4}, {64, 8}, {1000, 4}};
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++) {
        size_classes_init(&sc, tables[t].size_max, tables[t].steps);
        for (uint32_t c = 1; c <= sc.count; c++)
            for (uint32_t offset = 0; offset < CHUNK_BYTES; offset++)
                if (size_class_index(&sc, c, offset) != offset / sc.size[c])
                    fail_msg("%u bytes, offset %u: %u", sc.size[c], offset, size_class_index(&sc, c, offset));
    }
}

static void a_page_holds_as_many_blocks_and_bits_as_it_can(void **state)
{
    (void)state;
    for (uint32_t c = 1; c <= sc.count; c++) {
        assert_int_equal(sc.blocks[c], CHUNK_BYTES / sc.size[c]);
        assert_true(sc.words[c] * 64u >= sc.blocks[c] && (sc.words[c] - 1u) * 64u < sc.blocks[c]);
        assert_true(CHUNK_BYTES - sc.blocks[c] * sc.size[c] < sc.size[c]);
    }
}

static void an_aligned_request_gets_the_smallest_class_that_divides(void **state)
{
    (void)state;
    for (size_t align = 1; align <= 8192; align *= 2)
        for (size_t bytes = 0; bytes <= 4200; bytes++) {
            uint32_t c = size_class_aligned(&sc, bytes, align), expected = CLASS_NONE;
            for (uint32_t k = sc.count; k >= 1; k--)
                if (sc.size[k] >= bytes && sc.size[k] >= align && sc.size[k] % align == 0) expected = k;
            assert_int_equal(c, expected);
        }
    assert_int_equal(size_class_aligned(&sc, SIZE_MAX, 8), CLASS_NONE);
    assert_int_equal(size_class_aligned(&sc, 8, SIZE_MAX / 2 + 1), CLASS_NONE);
}

static void sizes_are_bounded_whatever_is_asked(void **state)
{
    (void)state;
    for (uint32_t size_max = 0; size_max <= 20000; size_max += 37)
        for (uint32_t steps = 0; steps <= 9; steps++) {
            size_classes_init(&sc, size_max, steps);
            assert_in_range(sc.count, 5, CLASS_COUNT_MAX);
            uint32_t wanted = size_max == 0 ? 4096 : size_max < 64 ? 64 : size_max > 8192 ? 8192 : size_max;
            assert_true(sc.size_max >= wanted && sc.size_max <= 8192);
            assert_true(sc.size[size_class_of(&sc, sc.size_max)] == sc.size_max);
        }
}

static void four_steps_per_doubling_waste_a_quarter_at_most(void **state)
{
    (void)state;
    size_classes_init(&sc, 8192, 4);
    uint32_t coarse = sc.count;
    for (size_t bytes = 129; bytes <= 8192; bytes++) {
        size_t size = sc.size[size_class_of(&sc, bytes)];
        assert_true(size >= bytes && (size - bytes) * 4 < bytes);
    }
    size_classes_init(&sc, 8192, 8);
    assert_true(coarse < sc.count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(every_size_gets_the_smallest_class_that_fits, defaults),
        cmocka_unit_test_setup(waste_is_an_eighth_at_most, defaults),
        cmocka_unit_test_setup(all_but_the_smallest_are_aligned_to_16, defaults),
        cmocka_unit_test(the_index_is_exact_for_every_offset),
        cmocka_unit_test_setup(a_page_holds_as_many_blocks_and_bits_as_it_can, defaults),
        cmocka_unit_test_setup(an_aligned_request_gets_the_smallest_class_that_divides, defaults),
        cmocka_unit_test(sizes_are_bounded_whatever_is_asked),
        cmocka_unit_test(four_steps_per_doubling_waste_a_quarter_at_most),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
