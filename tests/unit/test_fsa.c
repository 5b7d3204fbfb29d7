/* test_fsa: fixed-size blocks: unique, aligned, returned by any thread, pages retire, holes go back, misuse is seen. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/fsa.h"
#include "fake_os.h"
#include "os/misuse.h"
#include "page/arena.h"
#include "probe.h"

static size_classes sc;
static page_pool pool;
static account acc;
static fsa f;
static size_t arena_start;

static size_t arena_used(void)
{
    size_t used, held;
    arena_usage(&used, &held);
    return used;
}

static int fresh(void **state)
{
    (void)state;
    fake_os_install();
    misuse_set_policy(MISUSE_IGNORE);
    if (!space_init(0)) return -1;
    size_classes_init(&sc, 0, 0);
    acc = (account){0};
    page_pool_init(&pool, acre_provider_flexible(), (page_policy){.delay_ms = UINT32_MAX, .cache_bytes_max = SIZE_MAX});
    fsa_init(&f, 7, false, &sc, &pool, &acc);
    arena_start = arena_used();
    return 0;
}

/* Whatever the test left behind, the end is the start. */
static int destroyed(void **state)
{
    (void)state;
    fake_os_heal();
    bool ok = fsa_check(&f);
    fsa_destroy(&f);
    ok = ok && pool.used == 0 && acc.bytes == 0 && page_pool_check(&pool) && arena_used() == arena_start;
    page_pool_destroy(&pool);
    fake_os_remove();
    return ok ? 0 : -1;
}

static uint32_t class_of(size_t bytes) { return size_class_of(&sc, bytes); }

static int by_address(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)*(void *const *)a, y = (uintptr_t)*(void *const *)b;
    return (x > y) - (x < y);
}

/* n blocks, by address. */
static void **take(uint32_t c, fsa_source *source, uint32_t n)
{
    void **blocks = malloc(n * sizeof *blocks);
    for (uint32_t got = 0, more; got < n; got += more)
        assert_true((more = fsa_refill(&f, c, source, blocks + got, n - got < 50 ? n - got : 50)) != 0);
    qsort(blocks, n, sizeof *blocks, by_address);
    return blocks;
}

static void release(uint32_t c, fsa_source *source, void **blocks, uint32_t n)
{
    fsa_return(&f, c, blocks, n);
    fsa_detach(&f, c, source);
    free(blocks);
}

static uint64_t taken(uint32_t c)
{
    static fsa_usage usage;
    fsa_usage_read(&f, &usage);
    return usage.taken[c];
}

static void blocks_of_every_class_are_unique_inside_and_aligned(void **state)
{
    (void)state;
    for (uint32_t c = 1; c <= sc.count; c++) {
        fsa_source source = {0};
        uint32_t n = sc.blocks[c] * 2u + 3;
        void **blocks = take(c, &source, n);
        size_t align = sc.size[c] & -sc.size[c];
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal((uintptr_t)blocks[i] % align, 0);
            assert_true(fsa_is_block(&sc, c, blocks[i]) && !fsa_is_free(&sc, c, blocks[i]));
            assert_int_equal(((uintptr_t)blocks[i] + sc.size[c] - 1) / CHUNK_BYTES, (uintptr_t)blocks[i] / CHUNK_BYTES);
            memset(blocks[i], (int)(i % 251), sc.size[c]);
        }
        for (uint32_t i = 0; i < n; i++) assert_true(probe_all_bytes(blocks[i], (int)(i % 251), sc.size[c]));
        assert_true(fsa_check(&f));
        release(c, &source, blocks, n);
        assert_int_equal(taken(c), 0);
    }
    assert_int_equal(misuse_count(), 0);
}

static void a_refill_puts_the_lowest_address_last(void **state)
{
    (void)state;
    fsa_source source = {0};
    void *blocks[40];
    uint32_t n = fsa_refill(&f, class_of(64), &source, blocks, 40);
    assert_int_equal(n, 40);
    for (uint32_t i = 1; i < n; i++) assert_ptr_equal((char *)blocks[i - 1], (char *)blocks[i] + 64);
    fsa_return(&f, class_of(64), blocks, n);
    fsa_detach(&f, class_of(64), &source);
}

static void memory_of_a_block_is_not_touched(void **state)
{
    (void)state;
    uint32_t c = class_of(64), n = 16 * sc.blocks[c];
    fsa_source source = {0};
    void **blocks = take(c, &source, n);
    for (int given_back = 0; given_back < 2; given_back++) {
        size_t resident = 0;
        for (uint32_t i = 0; i < n; i += 64)
            resident += probe_resident((void *)align_down((uintptr_t)blocks[i], 4096), 4096);
        assert_int_equal(resident, 0);
        if (!given_back) fsa_return(&f, c, blocks, n);
    }
    fsa_detach(&f, c, &source);
    free(blocks);
}

static void memory_is_put_behind_a_class_that_grows_and_only_a_32nd_ahead(void **state)
{
    enum { STEP = 8 };
    (void)state;
    if (!os_populate(space_base, 0)) skip(); /* a kernel before 5.14 */
    pool.policy.populate_bytes = 32768;
    uint32_t c = class_of(1024), n = 40 * sc.blocks[c], rounds_ahead = 0;
    fsa_source source = {0};
    void **blocks = malloc(n * sizeof *blocks);
    for (uint32_t i = 0; i < n; i += STEP) {
        assert_int_equal(fsa_refill(&f, c, &source, blocks + i, STEP), STEP);
        for (int b = 0; b < STEP; b++) memset(blocks[i + b], 1, 1024);
        size_t used = (i + STEP) * 1024u, held = align_up(used, CHUNK_BYTES);
        size_t ahead = probe_resident((char *)blocks[STEP - 1], held) - used; /* fresh pages follow each other */
        assert_true(ahead <= held / 32);
        rounds_ahead += ahead > 0;
    }
    assert_true(rounds_ahead > n / STEP / 3);
    pool.policy.populate_bytes = 0;
    release(c, &source, blocks, n);
}

static void a_returned_block_is_handed_out_again_before_a_new_page(void **state)
{
    (void)state;
    uint32_t c = class_of(1024), n = sc.blocks[c] * 8u;
    fsa_source source = {0};
    void **blocks = take(c, &source, n);
    uint32_t pages = pool.used;
    for (int round = 0; round < 20; round++) {
        fsa_return(&f, c, blocks, n / 2);
        for (uint32_t got = 0; got < n / 2;) got += fsa_refill(&f, c, &source, blocks + got, n / 2 - got);
        assert_int_equal(pool.used, pages);
    }
    release(c, &source, blocks, n);
}

static void a_block_given_back_twice_is_reported_and_harms_nothing(void **state)
{
    (void)state;
    for (uint32_t c = 1; c <= sc.count; c += 7) {
        fsa_source source = {0};
        void **blocks = take(c, &source, 10);
        uint64_t before = misuse_count(), live = taken(c);
        void *twice[] = {blocks[3], blocks[4], blocks[3]}; /* in one batch */
        fsa_return(&f, c, twice, 3);
        assert_int_equal(misuse_count(), before + 1);
        fsa_return(&f, c, &blocks[3], 1); /* and later */
        assert_int_equal(misuse_count(), before + 2);
        assert_true(fsa_check(&f));
        assert_true(taken(c) == live - 2);
        fsa_return(&f, c, blocks, 3);
        fsa_return(&f, c, blocks + 5, 5);
        fsa_detach(&f, c, &source);
        assert_int_equal(taken(c), 0);
        free(blocks);
    }
}

static void a_block_of_a_page_that_went_back_is_reported(void **state)
{
    (void)state;
    uint32_t c = class_of(100);
    fsa_source source = {0};
    void **blocks = take(c, &source, 10);
    void *stale = blocks[0];
    release(c, &source, blocks, 10);
    assert_int_equal(fsa_trim(&f), 1);
    uint64_t before = misuse_count();
    fsa_return(&f, c, &stale, 1);
    assert_int_equal(misuse_count(), before + 1);
    assert_true(fsa_check(&f) && page_pool_check(&pool));
}

static void what_is_no_block_of_the_class_is_reported(void **state)
{
    (void)state;
    uint32_t c = class_of(100), other = class_of(500);
    fsa_source source = {0}, other_source = {0};
    void **blocks = take(c, &source, 10), **others = take(other, &other_source, 2);
    uint64_t before = misuse_count(), live = taken(c);
    void *inside = (char *)blocks[0] + 8;
    fsa_return(&f, c, &inside, 1);
    fsa_return(&f, c, others, 1);
    assert_int_equal(misuse_count(), before + 2);
    void *mixed[] = {blocks[1], (char *)blocks[2] + 16, blocks[3]}; /* the good ones of a batch do go back */
    fsa_return(&f, c, mixed, 3);
    assert_int_equal(misuse_count(), before + 3);
    assert_true(taken(c) == live - 2 && taken(other) != 0);
    static fsa stranger;
    fsa_init(&stranger, 8, false, &sc, &pool, &acc);
    fsa_return(&stranger, c, blocks, 1);
    assert_int_equal(misuse_count(), before + 4);
    assert_true(fsa_check(&f));
    fsa_return(&f, c, blocks, 1);
    fsa_return(&f, c, blocks + 2, 1);
    fsa_return(&f, c, blocks + 4, 6);
    fsa_detach(&f, c, &source);
    release(other, &other_source, others, 2);
    assert_int_equal(taken(c) + taken(other), 0);
    free(blocks);
}

static void an_empty_page_retires_but_for_the_last_of_its_class(void **state)
{
    (void)state;
    uint32_t c = class_of(512), n = sc.blocks[c] * 6u;
    fsa_source source = {0};
    void **blocks = take(c, &source, n);
    assert_int_equal(pool.used, 6);
    assert_int_equal(acc.bytes, 6 * CHUNK_BYTES);
    fsa_return(&f, c, blocks, n);
    fsa_detach(&f, c, &source);
    assert_int_equal(pool.used, 1);
    assert_int_equal(f.classes[c].pages, 1);
    assert_int_equal(fsa_trim(&f), 1);
    assert_int_equal(pool.used, 0);
    assert_int_equal(acc.bytes, 0);
    assert_int_equal(fsa_trim(&f), 0);
    free(blocks);
}

static void trim_leaves_pages_with_a_live_block(void **state)
{
    (void)state;
    uint32_t c = class_of(64), n = sc.blocks[c] * 4u;
    fsa_source source = {0};
    void **blocks = take(c, &source, n);
    for (uint32_t i = 0; i < n; i++)
        if (i % sc.blocks[c] != 0) fsa_return(&f, c, &blocks[i], 1); /* one in each page stays */
    fsa_detach(&f, c, &source);
    assert_int_equal(fsa_trim(&f), 0);
    assert_int_equal(pool.used, 4);
    for (uint32_t i = 0; i < n; i += sc.blocks[c]) fsa_return(&f, c, &blocks[i], 1);
    fsa_trim(&f);
    assert_int_equal(pool.used, 0);
    free(blocks);
}

static void detaching_gives_back_what_was_not_handed_out(void **state)
{
    (void)state;
    uint32_t c = class_of(48);
    fsa_source source = {0};
    void *block;
    assert_int_equal(fsa_refill(&f, c, &source, &block, 1), 1);
    assert_true(taken(c) >= 1);
    fsa_detach(&f, c, &source);
    assert_int_equal(taken(c), 1);
    assert_int_equal(source.page, 0);
    fsa_return(&f, c, &block, 1);
    assert_int_equal(taken(c), 0);
}

static void without_memory_a_refill_gives_nothing_and_recovers(void **state)
{
    (void)state;
    uint32_t c = class_of(8); /* its bitmap is outside of the record */
    fsa_source source = {0};
    void *block;
    for (uint64_t n = 1;; n++) {
        fake_os_fail(FAKE_ANY, n, true);
        uint32_t got = fsa_refill(&f, c, &source, &block, 1);
        uint64_t failures = fake_os_failures();
        fake_os_install();
        assert_true(fsa_check(&f) && page_pool_check(&pool));
        if (got == 0) {
            assert_true(failures > 0);
            assert_int_equal(acc.bytes, 0);
            assert_int_equal(pool.used, 0);
            continue;
        }
        fsa_return(&f, c, &block, 1);
        fsa_detach(&f, c, &source);
        break;
    }
}

static void a_budget_bounds_the_pages(void **state)
{
    (void)state;
    acc.budget = 3 * CHUNK_BYTES + 100;
    uint32_t c = class_of(4096), n = 0;
    fsa_source source = {0};
    void *blocks[100];
    for (uint32_t got; (got = fsa_refill(&f, c, &source, blocks + n, 8)) != 0;) n += got;
    assert_int_equal(n, 3 * sc.blocks[c]);
    assert_int_equal(acc.bytes, 3 * CHUNK_BYTES);
    fsa_return(&f, c, blocks, n);
    fsa_detach(&f, c, &source);
    fsa_trim(&f);
    assert_int_equal(acc.bytes, 0);
    assert_int_equal(acc.peak, 3 * CHUNK_BYTES);
    acc.budget = 0;
}

static void holes_are_given_back_round_live_blocks(void **state)
{
    (void)state;
    const size_t sizes[] = {16, 64, 200, 1024, 4096};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        uint32_t c = class_of(sizes[s]), n = sc.blocks[c] * 8u;
        fsa_source source = {0};
        void **blocks = take(c, &source, n);
        for (uint32_t i = 0; i < n; i++) probe_stamp(blocks[i], sc.size[c], i);
        char *pages[9] = {NULL};
        uint32_t keep = sc.blocks[c] / 2 + 1;
        for (uint32_t i = 0; i < n; i++) {
            pages[i / sc.blocks[c]] = page_address(page_number(blocks[i]));
            if (i % sc.blocks[c] != keep) fsa_return(&f, c, &blocks[i], 1);
        }
        fsa_detach(&f, c, &source);
        size_t before = 0, after = 0;
        for (int p = 0; p < 8; p++) before += probe_resident(pages[p], CHUNK_BYTES);
        size_t said = fsa_purge_holes(&f);
        for (int p = 0; p < 8; p++) after += probe_resident(pages[p], CHUNK_BYTES);
        assert_true(before >= 8 * CHUNK_BYTES - 8 * 4096);
        assert_true(after <= 8 * 2 * 4096); /* the live block's OS pages, two where it straddles */
        assert_true(said >= before - after);
        assert_true(fsa_check(&f));
        for (uint32_t i = keep; i < n; i += sc.blocks[c])
            assert_true(probe_stamped(blocks[i], sc.size[c], sc.size[c], i));
        /* What was given back can be used again. */
        for (uint32_t i = 0; i < n; i++)
            if (i % sc.blocks[c] != keep) {
                assert_int_equal(fsa_refill(&f, c, &source, &blocks[i], 1), 1);
                memset(blocks[i], 1, sc.size[c]);
            }
        assert_int_equal(pool.used, 8);
        release(c, &source, blocks, n);
        fsa_trim(&f);
    }
}

static void destroying_gives_back_live_pages_and_leaves_other_heaps(void **state)
{
    (void)state;
    static fsa other;
    fsa_init(&other, 9, false, &sc, &pool, &acc);
    uint32_t c = class_of(32);
    fsa_source source = {0}, other_source = {0};
    void *block, *other_block;
    assert_int_equal(fsa_refill(&other, c, &other_source, &other_block, 1), 1);
    for (int i = 0; i < 10000; i++) fsa_refill(&f, c, &source, &block, 1);
    assert_int_equal(pool.used, 1 + (10000 + 2047) / 2048);
    fsa_destroy(&f);
    assert_int_equal(pool.used, 1);
    fsa_return(&other, c, &other_block, 1);
    fsa_detach(&other, c, &other_source);
    assert_true(fsa_check(&other));
    fsa_destroy(&other);
}

/* --- threads ----------------------------------------------------------------------------------------------------- */

enum { THREADS = 4, BATCH = 64, MAIL = 32 };

/* Blocks travel: each thread takes some, marks them as its own, and posts them; any other checks and returns them. */
static struct { pthread_mutex_t lock; void *batch[MAIL][BATCH]; uint32_t class_[MAIL]; int count; } mail = {
    .lock = PTHREAD_MUTEX_INITIALIZER};

static bool receive(void **batch, uint32_t *c)
{
    bool got = false;
    pthread_mutex_lock(&mail.lock);
    if (mail.count > 0) {
        mail.count--;
        memcpy(batch, mail.batch[mail.count], sizeof mail.batch[0]);
        *c = mail.class_[mail.count];
        got = true;
    }
    pthread_mutex_unlock(&mail.lock);
    return got;
}

static bool post(void **batch, uint32_t c)
{
    bool room = false;
    pthread_mutex_lock(&mail.lock);
    if (mail.count < MAIL) {
        memcpy(mail.batch[mail.count], batch, sizeof mail.batch[0]);
        mail.class_[mail.count++] = c;
        room = true;
    }
    pthread_mutex_unlock(&mail.lock);
    return room;
}

static void check_and_return(void **batch, uint32_t c)
{
    for (int i = 0; i < BATCH; i++) {
        uint64_t *b = batch[i];
        CHECK(*b == (uint64_t)(uintptr_t)b); /* nobody else got it meanwhile */
        *b = 0;
    }
    fsa_return(&f, c, batch, BATCH);
}

static void *works(void *seed)
{
    uint64_t random = (uintptr_t)seed * 977;
    const uint32_t classes[] = {class_of(8), class_of(64), class_of(256), class_of(2048)};
    fsa_source source[4] = {{0}};
    void *batch[BATCH];
    const int rounds = PROBE_TSAN ? 1500 : 20000;
    for (int i = 0; i < rounds; i++) {
        unsigned k = probe_random(&random) % 4;
        for (uint32_t got = 0, more; got < BATCH; got += more)
            CHECK((more = fsa_refill(&f, classes[k], &source[k], batch + got, BATCH - got)) != 0);
        for (int b = 0; b < BATCH; b++) *(uint64_t *)batch[b] = (uint64_t)(uintptr_t)batch[b];
        if (!post(batch, classes[k])) check_and_return(batch, classes[k]);
        uint32_t c;
        if (receive(batch, &c)) check_and_return(batch, c);
        if (probe_random(&random) % 64 == 0) fsa_detach(&f, classes[k], &source[k]);
        if (probe_random(&random) % 512 == 0) fsa_trim(&f);
        if (probe_random(&random) % 2048 == 0) fsa_purge_holes(&f);
    }
    for (int k = 0; k < 4; k++) fsa_detach(&f, classes[k], &source[k]);
    return NULL;
}

static void threads_return_each_others_blocks_and_none_is_lost_or_doubled(void **state)
{
    (void)state;
    uint64_t before = misuse_count();
    pthread_t t[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&t[i], NULL, works, (void *)(i + 1)), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    void *batch[BATCH];
    uint32_t c;
    while (receive(batch, &c)) check_and_return(batch, c);
    assert_int_equal(misuse_count(), before);
    assert_true(fsa_check(&f) && page_pool_check(&pool));
    fsa_trim(&f);
    assert_int_equal(pool.used, 0);
    assert_int_equal(acc.bytes, 0);
}

#define FSA_TEST(name) cmocka_unit_test_setup_teardown(name, fresh, destroyed)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FSA_TEST(blocks_of_every_class_are_unique_inside_and_aligned),
        FSA_TEST(a_refill_puts_the_lowest_address_last),
        FSA_TEST(memory_of_a_block_is_not_touched),
        FSA_TEST(memory_is_put_behind_a_class_that_grows_and_only_a_32nd_ahead),
        FSA_TEST(a_returned_block_is_handed_out_again_before_a_new_page),
        FSA_TEST(a_block_given_back_twice_is_reported_and_harms_nothing),
        FSA_TEST(a_block_of_a_page_that_went_back_is_reported),
        FSA_TEST(what_is_no_block_of_the_class_is_reported),
        FSA_TEST(an_empty_page_retires_but_for_the_last_of_its_class),
        FSA_TEST(trim_leaves_pages_with_a_live_block),
        FSA_TEST(detaching_gives_back_what_was_not_handed_out),
        FSA_TEST(without_memory_a_refill_gives_nothing_and_recovers),
        FSA_TEST(a_budget_bounds_the_pages),
        FSA_TEST(holes_are_given_back_round_live_blocks),
        FSA_TEST(destroying_gives_back_live_pages_and_leaves_other_heaps),
        FSA_TEST(threads_return_each_others_blocks_and_none_is_lost_or_doubled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
