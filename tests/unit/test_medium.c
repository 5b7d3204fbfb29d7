/* test_medium: best fit on pages that come and go: reuse, known zeroes, resize in place, alignment, memory given
 * back. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/medium.h"
#include "fake_os.h"
#include "page/arena.h"
#include "page/fill.h"
#include "probe.h"

static medium m;
static account acc;
static const page_policy patient = {.delay_ms = UINT32_MAX, .cache_bytes_max = SIZE_MAX};

static int fresh(void **state)
{
    (void)state;
    fake_os_install();
    if (!space_init(0)) return -1;
    acc = (account){0};
    medium_init(&m, &m, acre_provider_flexible(), &acc, patient, false, 0);
    return 0;
}

static int destroyed(void **state)
{
    (void)state;
    fake_os_heal();
    bool ok = medium_check(&m);
    medium_destroy(&m);
    ok = ok && acc.bytes == 0 && space_regions_in_use(REGION_MEDIUM) == 0;
    fake_os_remove();
    return ok ? 0 : -1;
}

static void *take(size_t bytes)
{
    void *p = medium_alloc(&m, bytes, 0, false, NULL);
    assert_non_null(p);
    assert_true(medium_block_bytes(medium_range_of(p), medium_node(medium_range_of(p), p)) >= bytes);
    return p;
}
static void give(void *p) { assert_int_equal(medium_free(&m, p), ACRE_OK); }
static size_t usable(void *p) { return medium_block_bytes(medium_range_of(p), medium_node(medium_range_of(p), p)); }
/* Resting blocks become holes. */
static void merge(void) { medium_trim(&m, SIZE_MAX); }
static medium_usage usage(void)
{
    medium_usage u;
    medium_usage_read(&m, &u);
    return u;
}

static void rounding_fits_and_wastes_little(void **state)
{
    (void)state;
    for (size_t bytes = 1; bytes <= MEDIUM_SIZE_MAX; bytes += 1 + bytes / 701) {
        size_t size = medium_round(bytes);
        assert_true(size >= bytes && medium_round(size) == size);
        if (bytes > 4352) assert_true((size - bytes) < (bytes < 16 * KIB ? 256 : bytes / 16 + 1));
    }
    assert_int_equal(medium_round(MEDIUM_SIZE_MAX), MEDIUM_SIZE_MAX);
    assert_int_equal(medium_round(4352), 4352); /* a database page of 4.3 KiB does not cost 8 */
}

static void blocks_of_all_sizes_are_apart(void **state)
{
    (void)state;
    enum { LIVE = 300 };
    struct { char *p; size_t bytes; } live[LIVE] = {{0}};
    uint64_t random = 42;
    for (int i = 0; i < 6000; i++) {
        unsigned k = probe_random(&random) % LIVE;
        if (live[k].p) {
            assert_true(probe_stamped(live[k].p, live[k].bytes, live[k].bytes, k));
            give(live[k].p);
        }
        unsigned shift = 12 + (unsigned)(probe_random(&random) % (k % 16 == 0 ? 13 : 6));
        live[k].bytes = ((size_t)1 << shift) + 1 + probe_random(&random) % ((size_t)1 << shift);
        if (live[k].bytes > MEDIUM_SIZE_MAX) live[k].bytes = MEDIUM_SIZE_MAX;
        live[k].p = take(live[k].bytes);
        assert_int_equal((uintptr_t)live[k].p % 256, 0);
        probe_stamp(live[k].p, live[k].bytes, k);
        if (i % 1000 == 0) assert_true(medium_check(&m));
    }
    size_t sum = 0;
    for (int k = 0; k < LIVE; k++)
        if (live[k].p) sum += usable(live[k].p);
    assert_int_equal(usage().used, sum);
    assert_int_equal(acc.bytes, sum + usage().resting);
    for (int k = 0; k < LIVE; k++)
        if (live[k].p) give(live[k].p);
    assert_int_equal(usage().used, 0);
    assert_int_equal(acc.bytes, usage().resting);
    merge();
    assert_int_equal(acc.bytes, 0);
}

static void the_smallest_hole_that_fits_is_used(void **state)
{
    (void)state;
    void *wall[8], *hole[3];
    const size_t sizes[3] = {32 * KIB, 16 * KIB, 24 * KIB};
    wall[0] = take(8 * KIB);
    for (int i = 0; i < 3; i++) {
        hole[i] = take(sizes[i]);
        wall[i + 1] = take(8 * KIB);
    }
    for (int i = 0; i < 3; i++) give(hole[i]);
    merge();
    assert_ptr_equal(take(16 * KIB), hole[1]);
    assert_ptr_equal(take(20 * KIB), hole[2]);
    assert_ptr_equal(take(30 * KIB), hole[0]);
    for (int i = 0; i < 3; i++) give(hole[i]);
    for (int i = 0; i < 4; i++) give(wall[i]);
    merge();
    /* One hole again. */
    void *all = take(112 * KIB);
    assert_ptr_equal(all, wall[0]);
    give(all);
}

static void zeroed_blocks_read_zero_whoever_had_them(void **state)
{
    (void)state;
    const size_t sizes[] = {5000, 70000, 300 * KIB, 3 * MIB, 20 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int round = 0; round < 3; round++) {
            char *p = medium_alloc(&m, sizes[i], 0, true, NULL);
            assert_true(probe_all_bytes(p, 0, sizes[i]));
            memset(p, 0xEE, usable(p));
            give(p);
            if (round == 1) medium_trim(&m, 0);
        }
}

static void memory_that_is_known_to_be_zero_is_not_touched(void **state)
{
    (void)state;
    char *p = medium_alloc(&m, 16 * MIB, 0, true, NULL);
    assert_int_equal(probe_resident(p, 16 * MIB), 0);
    memset(p, 1, 100);
    give(p);
    medium_trim(&m, 0);
    assert_ptr_equal(medium_alloc(&m, 16 * MIB, 0, true, NULL), p);
    assert_int_equal(probe_resident(p, 16 * MIB), 0);
    assert_true(probe_all_bytes(p, 0, 100));
    give(p);
}

static void a_block_grows_and_shrinks_in_place(void **state)
{
    (void)state;
    char *p = take(40 * KIB), *q;
    uint64_t seed = 3;
    probe_stamp(p, 40 * KIB, seed);
    assert_true(medium_resize(&m, p, 100 * KIB));
    assert_true(usable(p) >= 100 * KIB && acc.bytes == usable(p));
    assert_true(probe_stamped(p, 40 * KIB, 40 * KIB, seed));
    memset(p + 40 * KIB, 1, 60 * KIB);
    assert_true(medium_resize(&m, p, 10 * KIB));
    assert_true(usable(p) < 11 * KIB && acc.bytes == usable(p));
    q = take(50 * KIB); /* the tail is free again */
    assert_true(q > p && q < p + 100 * KIB);
    assert_false(medium_resize(&m, p, 100 * KIB)); /* now it is not */
    assert_true(usable(p) < 11 * KIB && acc.bytes == usable(p) + usable(q));
    assert_false(medium_resize(&m, p, 129 * KIB)); /* beyond its tier */
    assert_true(medium_check(&m));
    give(p);
    give(q);
}

static void pages_follow_a_block_that_is_resized(void **state)
{
    (void)state;
    m.policy.cache_bytes_max = 1; /* nothing is kept */
    char *p = take(20 * MIB), *wall = take(2 * MIB);
    memset(p, 1, 20 * MIB);
    assert_true(medium_resize(&m, p, 5 * MIB));
    medium_trim(&m, 0);
    assert_int_equal(probe_resident(p, 20 * MIB), align_up(5 * MIB, MEDIUM_PAGE_BYTES) - MEDIUM_PAGE_BYTES + MIB);
    assert_true(medium_resize(&m, p, 19 * MIB));
    assert_true(probe_all_bytes(p, 1, 5 * MIB));
    memset(p + 5 * MIB, 2, 14 * MIB);
    assert_true(medium_check(&m));
    give(p);
    give(wall);
}

static void a_block_that_cannot_get_pages_does_not_grow(void **state)
{
    (void)state;
    char *p = take(3 * MIB);
    size_t before = usable(p), charged = acc.bytes;
    fake_os_fail(FAKE_COMMIT, 1, true);
    bool grew = medium_resize(&m, p, 30 * MIB);
    fake_os_heal();
    assert_false(grew);
    assert_true(usable(p) == before && acc.bytes == charged && medium_check(&m));
    give(p);
}

static void a_page_goes_back_between_two_live_blocks(void **state)
{
    (void)state;
    enum { BLOCKS = 160 };
    char *block[BLOCKS]; /* 16 MiB of 100 KiB blocks */
    m.policy.cache_bytes_max = 1; /* nothing is kept */
    for (int i = 0; i < BLOCKS; i++) memset(block[i] = take(100 * KIB), 1, 100 * KIB);
    char *low = block[0];
    for (int i = 1; i < BLOCKS - 1; i++) give(block[i]);
    size_t kept = probe_resident(low, (size_t)(block[BLOCKS - 1] + 100 * KIB - low));
    assert_true(kept <= 2 * MEDIUM_PAGE_BYTES + 100 * KIB); /* those of the first and the last */
    medium_trim(&m, 0);
    kept = probe_resident(low, (size_t)(block[BLOCKS - 1] + 100 * KIB - low));
    assert_true(kept <= 2 * (100 + 2 * 64) * KIB); /* to the 64 KiB */
    assert_true(probe_all_bytes(low, 1, 100 * KIB) && probe_all_bytes(block[BLOCKS - 1], 1, 100 * KIB));
    assert_true(medium_check(&m));
    /* What was given back is zero, and known to be. */
    for (int i = 1; i < BLOCKS - 1; i++) {
        block[i] = medium_alloc(&m, 100 * KIB, 0, true, NULL);
        assert_true(probe_all_bytes(block[i], 0, 100 * KIB));
    }
    for (int i = 0; i < BLOCKS; i++) give(block[i]);
}

static void a_freed_block_rests_and_serves_its_own_size_next(void **state)
{
    (void)state;
    char *a = take(20 * KIB), *b = take(20 * KIB);
    give(a);
    give(b);
    assert_int_equal(usage().used, 0);
    assert_int_equal(usage().resting, 40 * KIB);
    assert_int_equal(medium_free(&m, a), ACRE_DOUBLE_FREE);
    assert_true(medium_check(&m));
    bool cached;
    assert_true(medium_usable(medium_range_of(a), a, &cached) && cached); /* free, as far as the user knows */
    assert_ptr_equal(take(20 * KIB), b);
    void *blocks[4];
    assert_int_equal(medium_take(&m, 20 * KIB, false, blocks, 4), 1);
    assert_ptr_equal(blocks[0], a);
    memset(a, 7, 20 * KIB);
    memset(b, 7, 20 * KIB);
    medium_handle_set_cached(medium_handle_of(medium_range_of(a), a), true);
    medium_handle_set_cached(medium_handle_of(medium_range_of(b), b), true);
    medium_give(&m, (void *[]){a, b}, 2);
    assert_int_equal(medium_take(&m, 20 * KIB, true, blocks, 4), 2);
    assert_true(probe_all_bytes(blocks[0], 0, 20 * KIB)); /* asked to be zero, and held something */
    give(blocks[0]);
    give(blocks[1]);
    assert_true(medium_check(&m));
}

static void what_rests_serves_requests_that_are_a_little_smaller(void **state)
{
    (void)state;
    char *a = take(40 * KIB), *pin = take(40 * KIB);
    give(a);
    assert_true(take(36 * KIB - 512) != a); /* nine sizes smaller */
    assert_int_equal(usage().resting, 40 * KIB);
    char *b = take(36 * KIB);
    assert_ptr_equal(b, a);
    assert_int_equal(usable(b), 40 * KIB);
    assert_int_equal(usage().used, 36 * KIB - 512 + 80 * KIB);
    assert_true(medium_check(&m));
    give(b);
    give(pin);
}

static void what_rests_is_merged_before_fresh_memory_is_touched(void **state)
{
    (void)state;
    enum { BLOCKS = 64 };
    char *block[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) block[i] = take(64 * KIB);
    size_t touched = usage().touched;
    for (int i = 0; i < BLOCKS; i++) give(block[i]);
    assert_true(usage().resting >= MIB);
    /* Other sizes, as much in all: they lie where the first ones did. */
    for (int i = 0; i < BLOCKS / 2; i++) block[i] = take(128 * KIB);
    assert_int_equal(usage().touched, touched);
    for (int i = 0; i < BLOCKS / 2; i++) give(block[i]);
    assert_true(medium_check(&m));
}

static void a_budget_counts_what_rests_as_free(void **state)
{
    (void)state;
    enum { BLOCKS = 12 };
    acc.budget = MIB;
    void *block[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) block[i] = take(64 * KIB);
    for (int i = 0; i < BLOCKS; i++) give(block[i]);
    assert_int_equal(acc.bytes, BLOCKS * 64 * KIB);
    void *p = take(900 * KIB);
    assert_null(medium_alloc(&m, 200 * KIB, 0, false, NULL));
    give(p);
}

static void a_hot_block_is_a_hole_to_other_sizes(void **state)
{
    (void)state;
    void *pin[2];
    char *large = take(16 * MIB);
    pin[0] = take(2 * MIB);
    char *hot = take(4 * MIB);
    pin[1] = take(2 * MIB);
    medium_range *r = medium_range_of(hot);
    give(large);
    assert_true(medium_hot_put(&m, medium_handle_of(r, hot), hot));
    assert_ptr_equal(medium_hot_take(&m, medium_bin(4 * MIB)), hot);
    assert_true(medium_hot_put(&m, medium_handle_of(r, hot), hot));
    char *p = take(3 * MIB); /* best fit: not in the 16 MiB, which were used before as well */
    assert_ptr_equal(p, hot);
    give(p);
    for (int i = 0; i < 2; i++) give(pin[i]);
}

static void a_budget_counts_a_hot_block_as_free(void **state)
{
    (void)state;
    acc.budget = 4 * MIB;
    char *p = take(3 * MIB);
    assert_true(medium_hot_put(&m, medium_handle_of(medium_range_of(p), p), p));
    give(take(2 * MIB)); /* does not fit beside it */
    assert_true(medium_check(&m));
}

static void a_range_holds_as_many_of_the_smallest_blocks_as_fit(void **state)
{
    (void)state;
    char *first = take(5000);
    medium_range *r = medium_range_of(first);
    size_t count = r->bytes / medium_round(5000);
    char *last = first;
    for (size_t i = 1; i < count; i++) last = take(5000);
    assert_ptr_equal(medium_range_of(last), r);
    assert_true(medium_range_of(take(5000)) != r); /* that one needs another */
    assert_true(medium_check(&m));
}

static void few_blocks_rest_at_a_time(void **state)
{
    (void)state;
    enum { BLOCKS = 3000 };
    static void *block[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) block[i] = take(5 * KIB);
    for (int i = 0; i < BLOCKS; i++) give(block[i]);
    assert_true(usage().resting <= 1024 * medium_round(5 * KIB));
    assert_int_equal(usage().used, 0);
    fake_os_advance_ms(1000);
    for (int i = 0; i < 32; i++) medium_tick(&m, 500, 1, 0);
    assert_int_equal(usage().resting, 0);
    assert_int_equal(acc.bytes, 0);
}

static void empty_pages_go_back_by_age_and_by_budget(void **state)
{
    (void)state;
    m.policy = (page_policy){.delay_ms = 500, .cache_bytes_max = SIZE_MAX};
    char *p = take(8 * MIB);
    memset(p, 1, 8 * MIB);
    give(p);
    fake_os_advance_ms(499);
    medium_tick(&m, m.policy.delay_ms, 1, 0);
    assert_int_equal(probe_resident(p, 8 * MIB), 8 * MIB);
    fake_os_advance_ms(500); /* it rested until then */
    for (int i = 0; i < 4; i++) medium_tick(&m, m.policy.delay_ms, 1, 0); /* a little at a time */
    assert_int_equal(probe_resident(p, 8 * MIB), 0);
    assert_int_equal(usage().cached, 0);
    m.policy = (page_policy){.delay_ms = UINT32_MAX, .cache_bytes_max = 4 * MIB};
    p = take(16 * MIB);
    memset(p, 1, 16 * MIB);
    give(p);
    assert_true(usage().cached <= 4 * MIB);
    assert_true(probe_resident(p, 16 * MIB) <= 4 * MIB);
}

static void a_tier_that_grows_keeps_what_it_has(void **state)
{
    (void)state;
    char *big = take(8 * MIB), *small[2] = {take(MIB), take(MIB)};
    memset(big, 1, 8 * MIB);
    for (int i = 0; i < 2; i++) memset(small[i], 1, MIB);
    give(big);
    for (int i = 0; i < 2; i++) give(small[i]);
    fake_os_advance_ms(1000);
    for (int i = 0; i < 16; i++) medium_tick(&m, 500, 1, 8 * MIB);
    assert_int_equal(probe_resident(big, 8 * MIB), 8 * MIB);
    for (int i = 0; i < 2; i++) assert_int_equal(probe_resident(small[i], MIB), 0);
    for (int i = 0; i < 16; i++) medium_tick(&m, 500, 1, 0);
    assert_int_equal(probe_resident(big, 8 * MIB), 0);
}

/* A second chance for each 64 KiB piece, also for one that lies beside pieces which have had theirs. */
static void holes_inside_of_pages_go_back_when_no_block_lay_there_lately(void **state)
{
    (void)state;
    enum { EFFORT = 8 };
    m.policy = (page_policy){.delay_ms = 500, .cache_bytes_max = SIZE_MAX};
    void *before = take(256 * KIB);
    char *p = take(512 * KIB), *q = take(256 * KIB);
    void *after = take(256 * KIB);
    memset(p, 1, 768 * KIB);
    assert_ptr_equal(p + 512 * KIB, q);
    give(p);
    medium_tick(&m, 500, EFFORT, 0); /* a block has lain on p since the last look, of which this is the first */
    assert_int_equal(probe_resident(p, 768 * KIB), 768 * KIB);
    give(q);
    fake_os_advance_ms(250);
    medium_tick(&m, 500, EFFORT, 0);
    assert_int_equal(probe_resident(p, 512 * KIB), 0);
    assert_int_equal(probe_resident(q, 256 * KIB), 256 * KIB);
    fake_os_advance_ms(250);
    medium_tick(&m, 500, EFFORT, 0);
    assert_int_equal(probe_resident(p, 768 * KIB), 0);
    give(before);
    give(after);
}

static void a_tick_gives_back_a_part_of_a_large_hole(void **state)
{
    (void)state;
    m.policy = (page_policy){.delay_ms = 500, .cache_bytes_max = SIZE_MAX};
    void *pin[2];
    char *p = take(MIB);
    pin[0] = take(MIB); /* the first MiB of a page is a hole later, the other is not */
    memset(p, 1, MIB);
    pin[1] = take(MIB);
    give(p);
    medium_tick(&m, 500, 1, 0);
    fake_os_advance_ms(250);
    medium_tick(&m, 500, 1, 0);
    size_t left = probe_resident(p, MIB);
    assert_in_range(left, MIB / 2, MIB - CHUNK_BYTES);
    for (int i = 0; i < 4; i++) medium_tick(&m, 500, 1, 0); /* it goes on where it stopped, in the same round */
    assert_int_equal(probe_resident(p, MIB), 0);
    give(pin[0]);
    give(pin[1]);
}

static void ranges_grow_by_spaces_and_return_to_the_space(void **state)
{
    (void)state;
    enum { BLOCKS = 900 };
    void **p = malloc(BLOCKS * sizeof *p);
    for (int i = 0; i < BLOCKS; i++) p[i] = take(MIB); /* over 768 MiB: a second range of that tier */
    void *small = take(5000), *big = take(30 * MIB);
    uint32_t regions = space_regions_in_use(REGION_MEDIUM);
    assert_int_equal(regions, 4 * 3);
    assert_true(medium_range_of(p[0]) != medium_range_of(p[BLOCKS - 1]));
    assert_int_equal(medium_range_of(small)->tier, 0);
    assert_int_equal(medium_range_of(p[0])->tier, 1);
    assert_int_equal(medium_range_of(big)->tier, 2);
    for (int i = 0; i < BLOCKS; i++) give(p[i]);
    give(small);
    medium_trim(&m, 0);
    assert_int_equal(space_regions_in_use(REGION_MEDIUM), 3);
    give(big);
    medium_trim(&m, 0);
    assert_int_equal(space_regions_in_use(REGION_MEDIUM), 0);
    assert_int_equal(fake_os_failures(), 0);
    free(p);
}

static void free_spaces_leave_the_end_of_a_range(void **state)
{
    (void)state;
    void *p[10];
    for (int i = 0; i < 10; i++) p[i] = take(30 * MIB);
    medium_range *r = medium_range_of(p[0]);
    for (int i = 1; i < 10; i++) give(p[i]);
    medium_trim(&m, 0);
    assert_int_equal((size_t)r->core.capacity << r->granule_log2, MEDIUM_SPACE_BYTES);
    give(p[0]);
}

static void any_power_of_two_up_to_a_megabyte_is_an_alignment(void **state)
{
    (void)state;
    for (int named = 0; named < 2; named++) {
        medium_destroy(&m);
        medium_init(&m, &m, acre_provider_flexible(), &acc, patient, false, named ? 64 * KIB : 0);
        for (size_t align = 1; align <= MIB; align *= 2)
            for (size_t bytes = 1; bytes <= MEDIUM_SIZE_MAX; bytes = bytes * 3 + 4097) {
                char *p = medium_alloc(&m, bytes, align, false, NULL), *q = medium_alloc(&m, bytes, align, true, NULL);
                assert_true(p && q && (uintptr_t)p % align == 0 && (uintptr_t)q % align == 0);
                p[0] = p[bytes - 1] = q[0] = 1;
                give(p);
                give(q);
            }
        assert_true(medium_check(&m));
    }
}

static void wrong_frees_are_told_apart_and_change_nothing(void **state)
{
    (void)state;
    char *p = take(10000), *q = take(10000), *other = NULL;
    assert_int_equal(medium_free(&m, p), ACRE_OK);
    assert_int_equal(medium_free(&m, p), ACRE_DOUBLE_FREE);
    assert_int_equal(medium_free(&m, q + 256), ACRE_FOREIGN_POINTER); /* inside of a live block */
    assert_int_equal(medium_free(&m, q + 8192), ACRE_FOREIGN_POINTER);
    assert_int_equal(medium_free(&m, &other), ACRE_FOREIGN_POINTER);
    static medium stranger;
    static account strangers;
    medium_init(&stranger, &stranger, acre_provider_flexible(), &strangers, patient, false, 0);
    assert_int_equal(medium_free(&stranger, q), ACRE_FOREIGN_POINTER);
    assert_false(medium_resize(&stranger, q, 20000));
    assert_true(medium_check(&m) && usage().blocks == 1);
    give(q);
}

static void *wrong_thread(void *p)
{
    CHECK(medium_alloc(&m, 10000, 0, false, NULL) == NULL);
    CHECK(medium_free(&m, p) == ACRE_WRONG_THREAD);
    CHECK(!medium_resize(&m, p, 20000));
    medium_tick(&m, m.policy.delay_ms, 1, 0);
    return NULL;
}

static void a_single_thread_medium_takes_no_other_thread(void **state)
{
    (void)state;
    medium_init(&m, &m, acre_provider_flexible(), &acc, patient, true, 0);
    void *p = take(10000);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, wrong_thread, p), 0);
    pthread_join(t, NULL);
    assert_true(medium_check(&m) && usage().blocks == 1);
    give(p);
}

static void a_site_is_remembered(void **state)
{
    (void)state;
    static const int site __attribute__((aligned(16)));
    void *p = medium_alloc(&m, 10000, 0, false, &site), *q = take(10000);
    assert_ptr_equal(medium_site(medium_range_of(p), medium_node(medium_range_of(p), p)), &site);
    assert_null(medium_site(medium_range_of(q), medium_node(medium_range_of(q), q)));
    give(p);
    void *again = take(10000);
    assert_ptr_equal(again, p);
    assert_null(medium_site(medium_range_of(p), medium_node(medium_range_of(p), p)));
    give(again);
    give(q);
}

static void every_failure_in_turn_leaves_it_consistent(void **state)
{
    (void)state;
    const size_t sizes[] = {5000, 200 * KIB, 9 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (uint64_t n = 1;; n++) {
            medium_trim(&m, 0);
            fake_os_install();
            fake_os_fail(FAKE_ANY, n, true);
            void *p = medium_alloc(&m, sizes[i], 0, true, NULL);
            uint64_t failures = fake_os_failures();
            fake_os_heal();
            assert_true(medium_check(&m));
            assert_int_equal(acc.bytes, p ? usable(p) : 0);
            if (p) {
                assert_true(probe_all_bytes(p, 0, sizes[i]));
                give(p);
            }
            medium_trim(&m, 0);
            assert_int_equal(space_regions_in_use(REGION_MEDIUM), 0);
            if (failures == 0) break;
            assert_true(n < 100);
        }
}

static void a_refused_decommit_keeps_the_page(void **state)
{
    (void)state;
    char *p = take(4 * MIB);
    memset(p, 7, 4 * MIB);
    give(p);
    fake_os_fail(FAKE_DECOMMIT, 1, true);
    medium_trim(&m, 0);
    assert_true(medium_check(&m));
    assert_int_equal(usage().cached, 4 * MIB);
    char *q = medium_alloc(&m, 4 * MIB, 0, true, NULL); /* it is dirty, and known to be */
    assert_ptr_equal(q, p);
    assert_true(probe_all_bytes(q, 0, 4 * MIB));
    give(q);
}

static void destroying_takes_the_memory_from_live_blocks(void **state)
{
    (void)state;
    char *p = take(10 * MIB), *q = take(50000);
    memset(p, 1, 10 * MIB);
    memset(q, 1, 50000);
    medium_destroy(&m);
    assert_int_equal(probe_resident(p, 10 * MIB), 0);
    assert_int_equal(probe_resident((void *)align_down((uintptr_t)q, 4096), 64 * KIB), 0);
    assert_int_equal(acc.bytes, 0);
    give(take(10000)); /* and it can be used again */
}

/* Pages that a provider would not take back come zeroed to nobody. */
static void memory_of_a_destroyed_medium_reads_zero_in_the_next_even_if_it_could_not_go_back(void **state)
{
    (void)state;
    char *p = take(4 * MIB);
    memset(p, 7, 4 * MIB);
    fake_os_fail(FAKE_DECOMMIT, 1, true);
    medium_destroy(&m);
    fake_os_heal();
    char *q = medium_alloc(&m, 4 * MIB, 0, true, NULL);
    assert_ptr_equal(q, p); /* the same addresses: else this shows nothing */
    assert_true(probe_all_bytes(q, 0, 4 * MIB));
    give(q);
}

static void clear_values_mark_pages_that_come_and_go(void **state)
{
    (void)state;
    m.policy.fill = true;
    char *p = take(4 * MIB);
    assert_true(probe_all_bytes(p, FILL_MEMORY_ALLOCATED, 4 * MIB));
    give(p);
    assert_true(probe_all_bytes(p, FILL_MEMORY_DEALLOCATED, 4 * MIB));
    p = medium_alloc(&m, 4 * MIB, 0, true, NULL);
    assert_true(probe_all_bytes(p, 0, 4 * MIB));
    give(p);
}

/* --- threads ----------------------------------------------------------------------------------------------------- */

static void *churns(void *seed)
{
    enum { LIVE = 24 };
    uint64_t random = (uintptr_t)seed * 31;
    struct { char *p; size_t bytes, stamped; } live[LIVE] = {{0}};
    for (int i = 0; i < (PROBE_TSAN ? 3000 : 30000); i++) {
        unsigned k = probe_random(&random) % LIVE;
        if (live[k].p && probe_random(&random) % 4 == 0) { /* look at it without the lock, as the heap does */
            CHECK(usable(live[k].p) >= live[k].bytes);
            size_t bytes = 4500 + probe_random(&random) % 60000;
            if (medium_resize(&m, live[k].p, bytes)) live[k].bytes = bytes < live[k].bytes ? bytes : live[k].bytes;
            continue;
        }
        if (live[k].p) {
            CHECK(probe_stamped(live[k].p, live[k].stamped, live[k].bytes, k));
            CHECK(medium_free(&m, live[k].p) == ACRE_OK);
        }
        live[k].bytes = live[k].stamped = 4500 + probe_random(&random) % 60000;
        live[k].p = medium_alloc(&m, live[k].bytes, 0, false, NULL);
        CHECK(live[k].p != NULL);
        probe_stamp(live[k].p, live[k].bytes, k);
    }
    for (unsigned k = 0; k < LIVE; k++)
        if (live[k].p) CHECK(medium_free(&m, live[k].p) == ACRE_OK);
    return NULL;
}

static void threads_share_one_and_see_sizes_without_its_lock(void **state)
{
    (void)state;
    pthread_t t[4];
    for (uintptr_t i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, churns, (void *)(i + 1)), 0);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    assert_true(medium_check(&m));
    assert_int_equal(usage().used, 0);
}

#define MEDIUM_TEST(name) cmocka_unit_test_setup_teardown(name, fresh, destroyed)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MEDIUM_TEST(rounding_fits_and_wastes_little),
        MEDIUM_TEST(blocks_of_all_sizes_are_apart),
        MEDIUM_TEST(the_smallest_hole_that_fits_is_used),
        MEDIUM_TEST(zeroed_blocks_read_zero_whoever_had_them),
        MEDIUM_TEST(memory_that_is_known_to_be_zero_is_not_touched),
        MEDIUM_TEST(a_block_grows_and_shrinks_in_place),
        MEDIUM_TEST(pages_follow_a_block_that_is_resized),
        MEDIUM_TEST(a_block_that_cannot_get_pages_does_not_grow),
        MEDIUM_TEST(a_page_goes_back_between_two_live_blocks),
        MEDIUM_TEST(a_freed_block_rests_and_serves_its_own_size_next),
        MEDIUM_TEST(what_rests_serves_requests_that_are_a_little_smaller),
        MEDIUM_TEST(what_rests_is_merged_before_fresh_memory_is_touched),
        MEDIUM_TEST(a_budget_counts_what_rests_as_free),
        MEDIUM_TEST(a_hot_block_is_a_hole_to_other_sizes),
        MEDIUM_TEST(a_budget_counts_a_hot_block_as_free),
        MEDIUM_TEST(a_range_holds_as_many_of_the_smallest_blocks_as_fit),
        MEDIUM_TEST(few_blocks_rest_at_a_time),
        MEDIUM_TEST(empty_pages_go_back_by_age_and_by_budget),
        MEDIUM_TEST(a_tier_that_grows_keeps_what_it_has),
        MEDIUM_TEST(holes_inside_of_pages_go_back_when_no_block_lay_there_lately),
        MEDIUM_TEST(a_tick_gives_back_a_part_of_a_large_hole),
        MEDIUM_TEST(ranges_grow_by_spaces_and_return_to_the_space),
        MEDIUM_TEST(free_spaces_leave_the_end_of_a_range),
        MEDIUM_TEST(any_power_of_two_up_to_a_megabyte_is_an_alignment),
        MEDIUM_TEST(wrong_frees_are_told_apart_and_change_nothing),
        MEDIUM_TEST(a_single_thread_medium_takes_no_other_thread),
        MEDIUM_TEST(a_site_is_remembered),
        MEDIUM_TEST(every_failure_in_turn_leaves_it_consistent),
        MEDIUM_TEST(a_refused_decommit_keeps_the_page),
        MEDIUM_TEST(destroying_takes_the_memory_from_live_blocks),
        MEDIUM_TEST(memory_of_a_destroyed_medium_reads_zero_in_the_next_even_if_it_could_not_go_back),
        MEDIUM_TEST(clear_values_mark_pages_that_come_and_go),
        MEDIUM_TEST(threads_share_one_and_see_sizes_without_its_lock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
