/* test_page_pool: which page is handed out next, and when memory goes back: by age, by budget, on demand, or not at all
 * when the provider refuses. Time is the test's. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "fake_os.h"
#include "os/os.h"
#include "page/fill.h"
#include "page/page_pool.h"
#include "probe.h"

enum { DELAY_MS = 500, PAGES_MAX = 64 };

static page_pool pool;
static uint32_t page[PAGES_MAX];

static const page_policy patient = {.delay_ms = UINT32_MAX, .cache_bytes_max = SIZE_MAX};
static const page_policy by_age = {.delay_ms = DELAY_MS, .cache_bytes_max = SIZE_MAX};

static size_t resident(uint32_t p) { return probe_resident(page_address(p), CHUNK_BYTES); }

/* Takes n pages and writes to them. */
static void take(int n)
{
    bool zeroed;
    for (int i = 0; i < n; i++) {
        page[i] = page_pool_take(&pool, &zeroed);
        assert_true(page[i] != 0);
        memset(page_address(page[i]), 0x5C, CHUNK_BYTES);
    }
    assert_true(page_pool_check(&pool));
}

static void give(int n)
{
    for (int i = 0; i < n; i++) page_pool_give(&pool, page[i]);
    assert_true(page_pool_check(&pool));
}

static int fresh(void **state)
{
    (void)state;
    fake_os_install();
    if (!space_init(0)) return -1;
    page_pool_init(&pool, acre_provider_flexible(), patient);
    return 0;
}

static int destroyed(void **state)
{
    (void)state;
    fake_os_heal();
    page_pool_destroy(&pool);
    bool clean = space_regions_in_use(REGION_FSA) == 0;
    fake_os_remove();
    return clean ? 0 : -1;
}

static void a_fresh_page_reads_zero_and_is_never_number_zero(void **state)
{
    (void)state;
    for (int i = 0; i < PAGES_MAX; i++) {
        bool zeroed = false;
        page[i] = page_pool_take(&pool, &zeroed);
        assert_true(page[i] != 0 && zeroed);
        assert_true(probe_all_bytes(page_address(page[i]), 0, CHUNK_BYTES));
        for (int j = 0; j < i; j++) assert_true(page[i] != page[j]);
        assert_int_equal(the_space.pages[page[i]].state, PAGE_ATTACHED);
    }
    assert_int_equal(pool.used, PAGES_MAX);
    give(PAGES_MAX);
    assert_int_equal(pool.used, 0);
}

static void the_hottest_page_is_handed_out_first_with_its_memory(void **state)
{
    (void)state;
    take(5);
    give(5);
    uint64_t calls = fake_os_count(FAKE_ANY);
    for (int i = 5; i-- > 0;) {
        bool zeroed = true;
        assert_int_equal(page_pool_take(&pool, &zeroed), page[i]);
        assert_false(zeroed);
        assert_int_equal(resident(page[i]), CHUNK_BYTES);
    }
    assert_int_equal(fake_os_count(FAKE_ANY), calls); /* no system call */
    give(5);
}

static void a_page_goes_back_when_it_is_old_enough_and_not_before(void **state)
{
    (void)state;
    pool.policy = by_age;
    take(3);
    give(2);
    fake_os_advance_ms(DELAY_MS - 1);
    page_pool_tick(&pool, pool.policy.delay_ms);
    assert_int_equal(pool.dirty.count, 2);
    page_pool_give(&pool, page[2]);
    fake_os_advance_ms(1);
    page_pool_tick(&pool, pool.policy.delay_ms);
    assert_int_equal(resident(page[0]) + resident(page[1]), 0);
    assert_int_equal(resident(page[2]), CHUNK_BYTES);
    assert_int_equal(pool.given_back, 2);
    /* The dirty one first, then a clean one, which reads zero. */
    bool zeroed;
    assert_int_equal(page_pool_take(&pool, &zeroed), page[2]);
    uint32_t p = page_pool_take(&pool, &zeroed);
    assert_true(zeroed && (p == page[0] || p == page[1]));
    assert_true(probe_all_bytes(page_address(p), 0, CHUNK_BYTES));
    page_pool_give(&pool, page[2]);
    page_pool_give(&pool, p);
}

static void giving_alone_ages_what_is_in_store(void **state)
{
    (void)state;
    pool.policy = by_age;
    take(10);
    give(9);
    fake_os_advance_ms(DELAY_MS);
    page_pool_give(&pool, page[9]); /* nobody calls tick */
    assert_int_equal(pool.dirty.count, 1);
    assert_int_equal(pool.clean.count, 9);
}

static void never_means_never(void **state)
{
    (void)state;
    take(4);
    give(4);
    fake_os_advance_ms((uint64_t)1 << 31);
    page_pool_tick(&pool, pool.policy.delay_ms);
    assert_int_equal(pool.dirty.count, 4);
    assert_int_equal(fake_os_count(FAKE_DECOMMIT), 0);
}

static void more_than_the_budget_is_never_kept_and_the_coldest_goes(void **state)
{
    (void)state;
    pool.policy.cache_bytes_max = 4 * CHUNK_BYTES;
    take(12);
    give(12);
    assert_int_equal(pool.dirty.count, 4);
    for (int i = 0; i < 12; i++) assert_int_equal(resident(page[i]), i < 8 ? 0 : CHUNK_BYTES);
}

static void trim_keeps_the_hottest(void **state)
{
    (void)state;
    take(40);
    give(40);
    assert_int_equal(page_pool_trim(&pool, 3 * CHUNK_BYTES), 37 * CHUNK_BYTES);
    for (int i = 0; i < 40; i++) assert_int_equal(resident(page[i]), i < 37 ? 0 : CHUNK_BYTES);
    assert_int_equal(page_pool_trim(&pool, 3 * CHUNK_BYTES), 0);
    assert_true(page_pool_check(&pool));
}

static void neighbours_go_back_in_one_call(void **state)
{
    (void)state;
    take(32);
    for (int i = 0; i < 32; i++) page_pool_give(&pool, page[i ^ 5]); /* out of order */
    page_pool_trim(&pool, 0);
    assert_in_range(fake_os_count(FAKE_DECOMMIT), 2, 8); /* batches of 16 */
    for (int i = 0; i < 32; i++) assert_int_equal(resident(page[i]), 0);
}

static void an_empty_region_returns_to_the_space_on_trim(void **state)
{
    (void)state;
    take(4);
    give(3);
    page_pool_trim(&pool, 0);
    assert_int_equal(space_regions_in_use(REGION_FSA), 1); /* one page is in use */
    page_pool_give(&pool, page[3]);
    page_pool_trim(&pool, CHUNK_BYTES); /* it is to be kept */
    assert_int_equal(space_regions_in_use(REGION_FSA), 1);
    page_pool_trim(&pool, 0);
    assert_int_equal(space_regions_in_use(REGION_FSA), 0);
    assert_int_equal(pool.regions, 0);
    assert_int_equal(pool.clean.count + pool.dirty.count, 0);
    take(4); /* and it goes on */
    give(4);
}

static void several_regions_are_taken_and_returned(void **state)
{
    (void)state;
    const uint32_t pages = (uint32_t)(region_bytes() / CHUNK_BYTES) * 2 + 10;
    uint32_t *all = malloc(pages * sizeof *all);
    bool zeroed;
    for (uint32_t i = 0; i < pages; i++) assert_true((all[i] = page_pool_take(&pool, &zeroed)) != 0);
    assert_int_equal(space_regions_in_use(REGION_FSA), 3);
    for (uint32_t i = 0; i < pages; i++) page_pool_give(&pool, all[i]);
    assert_true(page_pool_check(&pool));
    page_pool_trim(&pool, 0);
    assert_int_equal(space_regions_in_use(REGION_FSA), 0);
    free(all);
}

static void a_failing_decommit_keeps_the_page_and_its_contents(void **state)
{
    (void)state;
    take(3);
    give(3);
    fake_os_fail(FAKE_DECOMMIT, 1, true);
    assert_int_equal(page_pool_trim(&pool, 0), 0);
    assert_true(page_pool_check(&pool));
    assert_int_equal(pool.dirty.count, 3);
    assert_int_equal(pool.given_back, 0);
    for (int i = 0; i < 3; i++) {
        bool zeroed = true;
        uint32_t p = page_pool_take(&pool, &zeroed);
        assert_true(p == page[0] || p == page[1] || p == page[2]);
        assert_false(zeroed);
        assert_true(probe_all_bytes(page_address(p), 0x5C, CHUNK_BYTES));
    }
    give(3);
    fake_os_heal();
    assert_int_equal(page_pool_trim(&pool, 0), 3 * CHUNK_BYTES);
    assert_int_equal(space_regions_in_use(REGION_FSA), 0);
}

static void a_failing_commit_gives_no_page_and_loses_none(void **state)
{
    (void)state;
    bool zeroed;
    fake_os_fail(FAKE_COMMIT, 1, true);
    assert_int_equal(page_pool_take(&pool, &zeroed), 0);
    assert_true(page_pool_check(&pool));
    fake_os_heal();
    take(2);
    give(2);
    page_pool_trim(&pool, CHUNK_BYTES);
    assert_int_equal(page_pool_take(&pool, &zeroed), page[1]);
    fake_os_fail(FAKE_COMMIT, 1, true);
    assert_int_equal(page_pool_take(&pool, &zeroed), 0); /* the clean one cannot be committed */
    fake_os_heal();
    assert_int_equal(page_pool_take(&pool, &zeroed), page[0]);
    assert_true(page_pool_check(&pool));
}

static void destroy_gives_back_pages_in_use(void **state)
{
    (void)state;
    take(20);
    give(5);
    page_pool_destroy(&pool);
    for (int i = 0; i < 20; i++) assert_int_equal(resident(page[i]), 0);
    assert_int_equal(space_regions_in_use(REGION_FSA), 0);
    assert_int_equal(pool.used, 0);
    take(1);
    give(1);
}

/* --- other providers --------------------------------------------------------------------------------------------- */

static fake_provider ledger;

static void with_ledger(uint64_t page_bytes, unsigned capabilities)
{
    fake_provider_init(&ledger, page_bytes, capabilities);
    page_pool_init(&pool, &ledger.provider, patient);
}

static void what_is_committed_is_given_back_to_the_last_page(void **state)
{
    (void)state;
    /* Also the first page of the space, which is never handed out. */
    with_ledger(0, ACRE_CAN_TOUCH | ACRE_CAN_DECOMMIT | ACRE_COMES_ZEROED);
    take(10);
    assert_true(ledger.committed_bytes >= 10 * CHUNK_BYTES);
    give(10);
    page_pool_trim(&pool, 0);
    assert_int_equal(space_regions_in_use(REGION_FSA), 0);
    assert_int_equal(ledger.committed_bytes, 0);
}

static void memory_that_does_not_come_zeroed_is_not_called_zero(void **state)
{
    (void)state;
    with_ledger(0, ACRE_CAN_TOUCH | ACRE_CAN_DECOMMIT);
    bool zeroed = true;
    page_pool_give(&pool, page_pool_take(&pool, &zeroed));
    assert_false(zeroed);
    page_pool_trim(&pool, 0);
    zeroed = true;
    page_pool_give(&pool, page_pool_take(&pool, &zeroed));
    assert_false(zeroed);
}

static void without_decommit_memory_is_kept(void **state)
{
    (void)state;
    with_ledger(0, ACRE_CAN_TOUCH | ACRE_COMES_ZEROED);
    pool.policy = (page_policy){.delay_ms = 1, .cache_bytes_max = 1};
    take(8);
    give(8);
    fake_os_advance_ms(1000);
    page_pool_tick(&pool, pool.policy.delay_ms);
    assert_int_equal(page_pool_trim(&pool, 0), 0);
    assert_int_equal(pool.dirty.count, 8);
    assert_int_equal(ledger.decommits, 0);
}

static void a_provider_with_larger_pages_is_asked_in_its_pages(void **state)
{
    (void)state;
    with_ledger(2 * MIB, ACRE_CAN_TOUCH | ACRE_CAN_DECOMMIT);
    take(40);
    assert_int_equal(ledger.commits, 2);
    assert_int_equal(ledger.committed_bytes, 4 * MIB);
    give(40);
    assert_int_equal(page_pool_trim(&pool, 0), 0); /* cannot go back one by one */
    page_pool_destroy(&pool);
    assert_int_equal(ledger.committed_bytes, 0);
}

static void a_provider_that_refuses_gives_no_page(void **state)
{
    (void)state;
    with_ledger(0, ACRE_CAN_TOUCH | ACRE_CAN_DECOMMIT);
    bool zeroed;
    fake_provider_fail(&ledger, 1, true);
    for (int i = 0; i < 3; i++) assert_int_equal(page_pool_take(&pool, &zeroed), 0);
    fake_provider_fail(&ledger, 0, false);
    take(1);
    give(1);
    fake_provider_fail(&ledger, 1, true);
    assert_int_equal(page_pool_trim(&pool, 0), 0); /* nor does it take one */
    assert_int_equal(pool.dirty.count, 1);
    fake_provider_fail(&ledger, 0, false);
}

static void clear_values_say_whose_page_it_is(void **state)
{
    (void)state;
    pool.policy.fill = true;
    bool zeroed = true;
    uint32_t p = page_pool_take(&pool, &zeroed);
    assert_false(zeroed);
    assert_true(probe_all_bytes(page_address(p), FILL_MEMORY_ALLOCATED, CHUNK_BYTES));
    page_pool_give(&pool, p);
    assert_true(probe_all_bytes(page_address(p), FILL_MEMORY_DEALLOCATED, CHUNK_BYTES));
    assert_int_equal(page_pool_take(&pool, &zeroed), p);
    assert_true(probe_all_bytes(page_address(p), FILL_MEMORY_ALLOCATED, CHUNK_BYTES));
    page_pool_give(&pool, p);
}

/* --- where commits are charged ------------------------------------------------------------------------------------ */

static void is_charged(void)
{
    struct rlimit data = {GIB, GIB};
    CHECK(setrlimit(RLIMIT_DATA, &data) == 0);
    os_init();
    CHECK(os_commit_is_charged());
    CHECK(space_init(0)); /* before the counting begins */
    fake_os_install();
    page_pool_init(&pool, acre_provider_flexible(), patient);
    bool zeroed;
    uint32_t p[64];
    for (int i = 0; i < 64; i++) CHECK((p[i] = page_pool_take(&pool, &zeroed)) != 0);
    CHECK(fake_os_count(FAKE_COMMIT) <= 1 + 3); /* the tables, and 2 MiB at a time */
    for (int i = 0; i < 64; i++) memset(page_address(p[i]), 1, CHUNK_BYTES);
    for (int i = 0; i < 64; i++) page_pool_give(&pool, p[i]);
    CHECK(page_pool_trim(&pool, 0) == 64 * CHUNK_BYTES);
    CHECK(page_pool_check(&pool));
    /* Where no 2 MiB are to be had, 64 KiB will do. */
    fake_os_fail(FAKE_COMMIT, 2, false); /* the first is that of the region's table */
    CHECK((p[0] = page_pool_take(&pool, &zeroed)) != 0 && zeroed);
    CHECK(fake_os_failures() == 1);
    CHECK(probe_all_bytes(page_address(p[0]), 0, CHUNK_BYTES));
    page_pool_give(&pool, p[0]);
    page_pool_destroy(&pool);
}

/* First of all: os_init decides once per process. */
static void where_commits_are_charged_they_are_few_and_large(void **state)
{
    (void)state;
    if (PROBE_SANITIZED) skip();
    assert_int_equal(probe_in_child(is_charged), 0);
}

/* Is this flag (see proc(5)) set for the mapping that p lies in? */
static bool mapping_has(const char *p, const char *flag)
{
    char line[512];
    bool inside = false, has = false;
    FILE *maps = fopen("/proc/self/smaps", "r");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) inside = from <= (uintptr_t)p && (uintptr_t)p < to;
        if (inside && strncmp(line, "VmFlags:", 8) == 0) has = strstr(line, flag) != NULL;
    }
    fclose(maps);
    return has;
}

enum { HUGE = 2 * MIB / CHUNK_BYTES, HUGE_FROM = 8 * HUGE };

static void huge_pages_are_for_steady_growth_and_not_where_memory_went_back(void **state)
{
    enum { MANY = HUGE_FROM + 6 * HUGE };
    static uint32_t pages[MANY];
    (void)state;
    bool zeroed;
    pool.policy.huge = true;
    for (int i = 0; i < HUGE_FROM; i++) pages[i] = page_pool_take(&pool, &zeroed);
    assert_false(mapping_has(page_address(pages[HUGE_FROM - 1]), " hg"));
    pool.small_ns = UINT32_MAX; /* so small pages are known to take for ever */
    for (int i = HUGE_FROM; i < MANY; i++) pages[i] = page_pool_take(&pool, &zeroed);
    if (!os_advise_huge(page_address(pages[MANY - 1]), CHUNK_BYTES, true)) skip(); /* a kernel without */
    uint32_t huge = pages[HUGE_FROM + 2 * HUGE];
    assert_true(mapping_has(page_address(huge), " hg") && page_pool_is_huge(huge));
    assert_false(mapping_has(page_address(pages[HUGE]), " hg") || page_pool_is_huge(pages[HUGE]));
    page_pool_give(&pool, pages[HUGE_FROM + 3 * HUGE]);
    assert_int_equal(page_pool_trim(&pool, 0), CHUNK_BYTES);
    assert_false(mapping_has(page_address(pages[HUGE_FROM + 3 * HUGE]), " hg"));
    assert_true(mapping_has(page_address(huge), " hg"));
    pool.policy.huge = false;
}

static void huge_pages_that_take_too_long_are_not_asked_for_again_soon(void **state)
{
    (void)state;
    bool zeroed;
    pool.policy.huge = true;
    for (int i = 0; i < HUGE_FROM + HUGE; i++) page_pool_take(&pool, &zeroed);
    if (pool.small_ns == 0) skip(); /* a kernel that cannot populate */
    assert_true(pool.small_ns > 1);
    unsigned asked = 0, pieces[2];
    pool.small_ns = 1; /* whatever a huge page takes is too long */
    for (int turn = 0; turn < 2; turn++) {
        for (pieces[turn] = 0; pool.huge_backoff == asked; pieces[turn]++)
            for (int i = 0; i < HUGE; i++) {
                page_pool_take(&pool, &zeroed);
                if (pool.small_ns > 1) pool.small_ns = 1; /* it was measured again, after the pause */
            }
        asked = pool.huge_backoff;
        assert_int_equal(pool.huge_pause, asked);
        assert_int_equal(pool.small_ns, 0);
    }
    assert_true(pieces[1] >= pieces[0] + 8);
    pool.policy.huge = false;
}

#define POOL_TEST(name) cmocka_unit_test_setup_teardown(name, fresh, destroyed)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(where_commits_are_charged_they_are_few_and_large),
        POOL_TEST(what_is_committed_is_given_back_to_the_last_page), /* takes the first region of the space */
        POOL_TEST(a_fresh_page_reads_zero_and_is_never_number_zero),
        POOL_TEST(the_hottest_page_is_handed_out_first_with_its_memory),
        POOL_TEST(a_page_goes_back_when_it_is_old_enough_and_not_before),
        POOL_TEST(giving_alone_ages_what_is_in_store),
        POOL_TEST(never_means_never),
        POOL_TEST(more_than_the_budget_is_never_kept_and_the_coldest_goes),
        POOL_TEST(trim_keeps_the_hottest),
        POOL_TEST(neighbours_go_back_in_one_call),
        POOL_TEST(an_empty_region_returns_to_the_space_on_trim),
        POOL_TEST(several_regions_are_taken_and_returned),
        POOL_TEST(a_failing_decommit_keeps_the_page_and_its_contents),
        POOL_TEST(a_failing_commit_gives_no_page_and_loses_none),
        POOL_TEST(destroy_gives_back_pages_in_use),
        POOL_TEST(memory_that_does_not_come_zeroed_is_not_called_zero),
        POOL_TEST(without_decommit_memory_is_kept),
        POOL_TEST(a_provider_with_larger_pages_is_asked_in_its_pages),
        POOL_TEST(a_provider_that_refuses_gives_no_page),
        POOL_TEST(clear_values_say_whose_page_it_is),
        POOL_TEST(huge_pages_are_for_steady_growth_and_not_where_memory_went_back),
        POOL_TEST(huge_pages_that_take_too_long_are_not_asked_for_again_soon),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fake_provider_done(&ledger);
    return failed;
}
