/* test_metadata_budget: bookkeeping is 2% of what lives at most, and goes with it.
 *
 * One GiB of live blocks of 64 bytes, and one of 4 KiB, none of them ever touched: so whatever becomes resident is
 * acre's own. Measured as resident memory and by the arena's count. Then all is freed and trimmed, and resident memory
 * must be within 4 MiB of the start. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "acre/acre.h"
#include "base/bits.h"
#include "os/os.h"
#include "page/arena.h"
#include "page/space.h"
#include "probe.h"

#define LIVE_BYTES GIB

static size_t arena_used(void)
{
    size_t used, held;
    arena_usage(&used, &held);
    return used;
}

static size_t record_bytes(void)
{
    return space_regions_in_use(REGION_FSA) * (region_bytes() >> CHUNK_SHIFT) * sizeof(page_record);
}

static void stays_in_its_budget(size_t size)
{
    const size_t count = LIVE_BYTES / size;
    void **block = mmap(NULL, count * sizeof *block, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(block != MAP_FAILED);
    memset(block, 1, count * sizeof *block); /* resident from now on */
    acre_heap *heap = acre_heap_process();
    assert_int_equal(acre_heap_free(heap, acre_heap_alloc(heap, size, 0, NULL)), ACRE_OK);
    acre_trim(0);
    size_t rss_start = os_resident_bytes(), used_start = arena_used();

    for (size_t i = 0; i < count; i++)
        if ((block[i] = acre_heap_alloc(heap, size, 0, NULL)) == NULL) fail_msg("no block %zu of %zu bytes", i, size);
    size_t rss = os_resident_bytes() - rss_start, used = arena_used() - used_start + record_bytes();
    for (size_t i = count; i-- > 0;) assert_int_equal(acre_heap_free(heap, block[i]), ACRE_OK);
    acre_trim(0);
    size_t rss_end = os_resident_bytes();

    print_message("%zu blocks of %zu bytes: %zu KiB became resident (%.3f%%), %zu KiB of tables and arena (%.3f%%); "
                  "at the end %ld KiB more than at the start\n",
                  count, size, rss / KIB, 100.0 * (double)rss / LIVE_BYTES, used / KIB,
                  100.0 * (double)used / LIVE_BYTES, ((long)rss_end - (long)rss_start) / 1024);
    munmap(block, count * sizeof *block);
    assert_true(rss * 50 <= LIVE_BYTES);
    assert_true(used * 50 <= LIVE_BYTES);
    assert_true(rss_end <= rss_start + 4 * MIB);
    assert_true(acre_heap_check(heap));
}

static void metadata_of_blocks_of_64_bytes_is_2_percent_at_most(void **state)
{
    (void)state;
    stays_in_its_budget(64);
}

static void metadata_of_blocks_of_4_kib_is_2_percent_at_most(void **state)
{
    (void)state;
    stays_in_its_budget(4096);
}

/* Medium blocks of 4 KiB and a bit: their bookkeeping is per block. */
static void metadata_of_blocks_of_5_kib_is_2_percent_at_most(void **state)
{
    (void)state;
    stays_in_its_budget(5120);
}

/* The same with memory that was used: every byte that was touched comes back. */
static void touched_memory_comes_back_to_within_4_mib(void **state)
{
    (void)state;
    static const size_t sizes[] = {64, 4096, 5120, 100000, 40 << 20};
    acre_heap *heap = acre_heap_process();
    acre_trim(0);
    size_t start = os_resident_bytes();
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t size = sizes[s], count = 128 * MIB / size;
        void **block = mmap(NULL, count * sizeof *block, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_true(block != MAP_FAILED);
        for (size_t i = 0; i < count; i++) {
            block[i] = acre_heap_alloc(heap, size, 0, NULL);
            assert_non_null(block[i]);
            memset(block[i], 1, size);
        }
        for (size_t i = 0; i < count; i++) assert_int_equal(acre_heap_free(heap, block[i]), ACRE_OK);
        munmap(block, count * sizeof *block);
    }
    acre_trim(0);
    size_t end = os_resident_bytes();
    print_message("after 5 times 128 MiB: %ld KiB more than at the start\n", ((long)end - (long)start) / 1024);
    assert_true(end <= start + 4 * MIB);
}

int main(void)
{
    if (PROBE_SANITIZED) return PROBE_SKIPPED; /* their shadow is resident, too */
    setenv("ACRE_POPULATE_BYTES", "0", 1); /* nobody touches the blocks: so nobody shall */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metadata_of_blocks_of_64_bytes_is_2_percent_at_most),
        cmocka_unit_test(metadata_of_blocks_of_4_kib_is_2_percent_at_most),
        cmocka_unit_test(metadata_of_blocks_of_5_kib_is_2_percent_at_most),
        cmocka_unit_test(touched_memory_comes_back_to_within_4_mib),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
