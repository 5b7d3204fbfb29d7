/* test_heap: the public calls of acre/heap.h: what each documents, every error that it names, and that a heap which is
 * destroyed leaves nothing behind. */
#define _GNU_SOURCE
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "acre/acre.h"
#include "fake_os.h"
#include "heap/heap.h"
#include "os/misuse.h"
#include "page/arena.h"
#include "page/fill.h"
#include "probe.h"

static const size_t SIZES[] = {0,    1,    8,     9,      16,     64,      65,      128,      1000,     4096,
                               4097, 5000, 65536, 131072, 131073, 1 << 20, 3 << 20, 32 << 20, 33 << 20, 70 << 20};
enum { SIZE_COUNT = sizeof SIZES / sizeof *SIZES };

static size_t arena_used(void)
{
    size_t used, held;
    arena_usage(&used, &held);
    return used;
}

static acre_heap *make(acre_heap_options options)
{
    acre_heap *heap = NULL;
    assert_int_equal(acre_heap_create(&options, &heap), ACRE_OK);
    assert_non_null(heap);
    return heap;
}

static void destroy(acre_heap *heap)
{
    assert_true(acre_heap_check(heap));
    assert_int_equal(acre_heap_destroy(heap), ACRE_OK);
}

static void *take(acre_heap *heap, size_t size)
{
    acre_status why = ACRE_SYSTEM;
    void *p = acre_heap_alloc(heap, size, 0, &why);
    assert_non_null(p);
    assert_int_equal(why, ACRE_OK);
    assert_true(acre_usable_size(p) >= size);
    return p;
}

static void give(acre_heap *heap, void *p) { assert_int_equal(acre_heap_free(heap, p), ACRE_OK); }

/* --- options ----------------------------------------------------------------------------------------------------- */

static void wrong_options_are_refused(void **state)
{
    (void)state;
    acre_heap *heap = (acre_heap *)&heap;
    const acre_provider nothing = {.name = "no functions"};
    acre_provider odd = *acre_provider_flexible(), huge = odd, untouchable = odd, no_decommit = odd;
    odd.page_bytes = 3000;
    huge.page_bytes = 4 << 20;
    untouchable.capabilities = ACRE_CAN_DECOMMIT;
    no_decommit.decommit = NULL;
    const acre_heap_options wrong[] = {
        {.provider = &nothing},
        {.provider = &odd},
        {.provider = &huge},
        {.provider = &no_decommit},
        {.provider = &untouchable, .fill = true},
        {.small_size_max = 63},
        {.small_size_max = 8193},
        {.classes_per_doubling = 3},
        {.classes_per_doubling = 16},
        {.named_align = 3000},
        {.named_align = 2 << 20},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(acre_heap_create(&wrong[i], &heap), ACRE_INVALID_ARGUMENT);
        assert_null(heap);
    }
    assert_int_equal(acre_heap_create(NULL, NULL), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_heap_destroy(NULL), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_heap_destroy(acre_heap_process()), ACRE_INVALID_ARGUMENT);
}

static void zero_is_a_plain_heap_and_so_is_null(void **state)
{
    (void)state;
    acre_heap *heap;
    assert_int_equal(acre_heap_create(NULL, &heap), ACRE_OK);
    assert_string_equal(acre_heap_name(heap), "heap");
    give(heap, take(heap, 100));
    destroy(heap);
    heap = make((acre_heap_options){.name = "a name that is longer than thirty-one characters"});
    assert_string_equal(acre_heap_name(heap), "a name that is longer than thir");
    destroy(heap);
    assert_string_equal(acre_heap_name(NULL), "");
    assert_string_equal(acre_heap_name(acre_heap_process()), "process");
    assert_string_equal(acre_version(), "0.1.0");
}

static void every_option_in_its_bounds_works(void **state)
{
    (void)state;
    const acre_heap_options options[] = {
        {.small_size_max = 64},
        {.small_size_max = 8192, .classes_per_doubling = 4},
        {.small_size_max = 5000, .classes_per_doubling = 8},
        {.named_align = 64 << 10},
        {.purge_delay_ms = 1, .cache_bytes_max = 1, .magazine_bytes_max = 1, .thread_bytes_max = 1},
        {.purge_delay_ms = UINT32_MAX, .cache_bytes_max = SIZE_MAX},
        {.magazine_bytes_max = SIZE_MAX, .thread_bytes_max = SIZE_MAX},
        {.single_thread = true},
        {.fill = true},
    };
    for (size_t o = 0; o < sizeof options / sizeof *options; o++) {
        acre_heap *heap = make(options[o]);
        char *p[SIZE_COUNT];
        for (int round = 0; round < 3; round++) {
            for (int i = 0; i < SIZE_COUNT; i++) probe_stamp(p[i] = take(heap, SIZES[i]), SIZES[i], (unsigned)i);
            assert_true(acre_heap_check(heap));
            for (int i = 0; i < SIZE_COUNT; i++) {
                assert_true(probe_stamped(p[i], SIZES[i], SIZES[i], (unsigned)i));
                give(heap, p[i]);
            }
        }
        destroy(heap);
    }
}

/* --- blocks ------------------------------------------------------------------------------------------------------ */

static void every_size_at_every_alignment_is_aligned_and_apart(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){0});
    for (size_t align = 0; align <= (size_t)1 << 28; align = align ? align * 2 : 1) {
        char *p[SIZE_COUNT][2];
        int most = align > 1 << 20 ? 12 : SIZE_COUNT;
        for (int i = 0; i < most; i++)
            for (int k = 0; k < 2; k++) {
                p[i][k] = acre_heap_alloc(heap, SIZES[i], align, NULL);
                assert_non_null(p[i][k]);
                assert_int_equal((uintptr_t)p[i][k] % (align ? align : SIZES[i] > 8 ? 16 : 8), 0);
                probe_stamp(p[i][k], SIZES[i], (unsigned)(2 * i + k));
            }
        for (int i = 0; i < most; i++)
            for (int k = 0; k < 2; k++) {
                assert_true(probe_stamped(p[i][k], SIZES[i], SIZES[i], (unsigned)(2 * i + k)));
                give(heap, p[i][k]);
            }
    }
    destroy(heap);
}

static void zeroed_blocks_read_zero(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){0});
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < SIZE_COUNT; i++) {
            char *p = acre_heap_alloc_zeroed(heap, SIZES[i], 0, NULL);
            assert_non_null(p);
            assert_true(probe_all_bytes(p, 0, SIZES[i]));
            memset(p, 0xEE, acre_usable_size(p));
            give(heap, p);
            if (round == 1) acre_heap_trim(heap, 0);
        }
    destroy(heap);
}

static void refusals_say_why_and_set_errno(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){.budget_bytes = 10 << 20});
    acre_status why = ACRE_OK;
    errno = 0;
    assert_null(acre_heap_alloc(heap, 10, 3, &why));
    assert_true(why == ACRE_INVALID_ARGUMENT && errno == EINVAL);
    errno = 0;
    assert_null(acre_heap_alloc(heap, (size_t)PTRDIFF_MAX + 1, 0, &why));
    assert_true(why == ACRE_TOO_LARGE && errno == ENOMEM);
    assert_null(acre_heap_alloc_zeroed(heap, SIZE_MAX, 0, &why));
    assert_int_equal(why, ACRE_TOO_LARGE);
    errno = 0;
    assert_null(acre_heap_alloc(heap, 11 << 20, 0, &why));
    assert_true(why == ACRE_OVER_BUDGET && errno == ENOMEM);
    assert_null(acre_heap_alloc(heap, 40 << 20, 0, &why));
    assert_int_equal(why, ACRE_OVER_BUDGET);
    acre_heap_set_budget(heap, 0);
    errno = 0;
    assert_null(acre_heap_alloc(heap, (size_t)1 << 47, 0, &why));
    assert_true(why == ACRE_NO_MEMORY && errno == ENOMEM);
    errno = 0;
    assert_null(acre_heap_alloc(NULL, 10, 0, &why));
    assert_true(why == ACRE_INVALID_ARGUMENT && errno == EINVAL);
    assert_null(acre_heap_alloc(NULL, 10, 0, NULL)); /* why may be NULL */
    errno = 4711;
    give(heap, take(heap, 100000));
    assert_int_equal(errno, 4711); /* success leaves it alone */
    destroy(heap);
}

static void wrong_frees_are_told_apart_and_change_nothing(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){0}), *other = make((acre_heap_options){0});
    assert_int_equal(acre_heap_free(heap, NULL), ACRE_OK);
    int local;
    assert_int_equal(acre_heap_free(heap, &local), ACRE_FOREIGN_POINTER);
    assert_int_equal(acre_heap_free(NULL, &local), ACRE_INVALID_ARGUMENT);
    const size_t sizes[] = {100, 10000, 2 << 20, 40 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *p = take(heap, sizes[i]);
        assert_int_equal(acre_heap_free(other, p), ACRE_FOREIGN_POINTER);
        if (sizes[i] > 4096) assert_int_equal(acre_heap_free(heap, p + 16), ACRE_FOREIGN_POINTER);
        assert_ptr_equal(acre_owner(p), heap);
        probe_stamp(p, sizes[i], i);
        assert_true(probe_stamped(p, sizes[i], sizes[i], i));
        give(heap, p);
        if (sizes[i] > 4096) assert_int_equal(acre_heap_free(heap, p), ACRE_DOUBLE_FREE);
        assert_true(acre_heap_check(heap));
    }
    destroy(heap);
    destroy(other);
}

/* A small block that is given back twice in a row lies twice in the thread's magazine; it is seen when it leaves. */
static void a_small_double_free_is_seen_at_the_latest_when_the_block_returns(void **state)
{
    (void)state;
    misuse_set_policy(MISUSE_IGNORE);
    acre_heap *heap = make((acre_heap_options){0});
    void *p = take(heap, 100), *kept = take(heap, 100);
    uint64_t before = misuse_count();
    give(heap, p);
    acre_status second = acre_heap_free(heap, p);
    acre_heap_trim(heap, 0);
    assert_true(second == ACRE_DOUBLE_FREE || misuse_count() == before + 1);
    assert_int_equal(acre_heap_free(heap, p), ACRE_DOUBLE_FREE); /* it has returned */
    give(heap, kept);
    destroy(heap);
}

static void *uses_anothers_heap(void *context)
{
    acre_heap *heap = ((void **)context)[0];
    void *p = ((void **)context)[1];
    acre_status why = ACRE_OK;
    CHECK(acre_heap_alloc(heap, 10000, 0, &why) == NULL && why == ACRE_WRONG_THREAD);
    CHECK(acre_heap_free(heap, p) == ACRE_WRONG_THREAD);
    return NULL;
}

static void a_single_thread_heap_tells_other_threads_off(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){.single_thread = true});
    void *context[2] = {heap, take(heap, 10000)};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, uses_anothers_heap, context), 0);
    pthread_join(t, NULL);
    give(heap, context[1]);
    destroy(heap);
}

/* --- growing and shrinking ---------------------------------------------------------------------------------------- */

static void realloc_keeps_contents_over_all_boundaries_both_ways(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){0});
    for (int from = 0; from < SIZE_COUNT; from++)
        for (int to = 0; to < SIZE_COUNT; to++) {
            char *p = take(heap, SIZES[from]);
            probe_stamp(p, SIZES[from], (unsigned)from);
            acre_status why = ACRE_SYSTEM;
            char *q = acre_heap_realloc(heap, p, SIZES[to], &why);
            assert_non_null(q);
            assert_int_equal(why, ACRE_OK);
            assert_true(acre_usable_size(q) >= SIZES[to]);
            size_t both = SIZES[from] < SIZES[to] ? SIZES[from] : SIZES[to];
            assert_true(probe_stamped(q, SIZES[from], both, (unsigned)from));
            if (q != p) assert_true(acre_owner(p) != heap || SIZES[from] <= 4096); /* small ones wait in the magazine */
            give(heap, q);
        }
    destroy(heap);
}

static void a_block_that_shrank_holds_twice_what_it_needs_at_most(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){0});
    for (int from = 0; from < SIZE_COUNT; from++)
        for (int to = 1; to < from; to++) {
            void *p = acre_heap_realloc(heap, take(heap, SIZES[from]), SIZES[to], NULL);
            if (acre_usable_size(p) > 2 * SIZES[to] + 4096)
                fail_msg("from %zu to %zu bytes: it holds %zu", SIZES[from], SIZES[to], acre_usable_size(p));
            give(heap, p);
        }
    destroy(heap);
}

/* An array that adds a page at a time, with others that take the place behind it: copied now and then, not each time;
 * and one that is made a little smaller stays where it is. */
static void an_array_that_creeps_is_seldom_copied(void **state)
{
    (void)state;
    enum { FIRST = 64 << 10, LAST = 4 << 20, STEP = 4 << 10 };
    static void *pin[LAST / STEP];
    acre_heap *heap = make((acre_heap_options){0});
    char *p = take(heap, FIRST);
    unsigned moves = 0, n = 0;
    for (size_t size = FIRST + STEP; size <= LAST; size += STEP) {
        pin[n++] = take(heap, FIRST / 2);
        char *q = acre_heap_realloc(heap, p, size, NULL);
        assert_non_null(q);
        assert_true(acre_usable_size(q) >= size && acre_usable_size(q) <= size + size / 3);
        moves += q != p;
        memset(q + size - STEP, (int)(size / STEP), STEP);
        p = q;
    }
    assert_in_range(moves, 1, 40);
    for (size_t at = FIRST; at < LAST; at += STEP) assert_true(p[at] == (char)(at / STEP + 1));
    size_t usable = acre_usable_size(p);
    assert_ptr_equal(acre_heap_realloc(heap, p, LAST / 2, NULL), p);
    assert_true(acre_usable_size(p) < usable / 3 * 2);
    assert_int_equal(acre_heap_free(heap, p), ACRE_OK);
    while (n > 0) assert_int_equal(acre_heap_free(heap, pin[--n]), ACRE_OK);
    destroy(heap);
}

static void realloc_follows_its_block(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){0}), *other = make((acre_heap_options){0});
    acre_status why = ACRE_SYSTEM;
    char *p = acre_heap_realloc(heap, NULL, 100, &why);
    assert_true(p && why == ACRE_OK && acre_owner(p) == heap);
    assert_null(acre_heap_realloc(other, p, 200, &why));
    assert_int_equal(why, ACRE_FOREIGN_POINTER);
    int local;
    assert_null(acre_heap_realloc(heap, &local, 200, &why));
    assert_int_equal(why, ACRE_FOREIGN_POINTER);
    assert_null(acre_heap_realloc(NULL, p, 200, &why));
    assert_int_equal(why, ACRE_INVALID_ARGUMENT);
    errno = 0;
    memset(p, 3, 100);
    assert_null(acre_heap_realloc(heap, p, SIZE_MAX, &why));
    assert_true(why == ACRE_TOO_LARGE && errno == ENOMEM);
    acre_heap_set_budget(heap, 1 << 20);
    assert_null(acre_heap_realloc(heap, p, 2 << 20, &why));
    assert_int_equal(why, ACRE_OVER_BUDGET);
    assert_true(probe_all_bytes(p, 3, 100)); /* as it was */
    give(heap, p);
    destroy(heap);
    destroy(other);
}

static void resize_never_moves(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){0});
    char *small = take(heap, 100), *medium = take(heap, 100000), *large = take(heap, 40 << 20);
    size_t usable = acre_usable_size(small);
    assert_int_equal(acre_heap_resize(heap, small, usable), ACRE_OK);
    assert_int_equal(acre_heap_resize(heap, small, 1), ACRE_OK);
    assert_int_equal(acre_heap_resize(heap, small, usable + 1), ACRE_NO_MEMORY);
    assert_int_equal(acre_heap_resize(heap, medium, 120000), ACRE_OK);
    assert_true(acre_usable_size(medium) >= 120000);
    assert_int_equal(acre_heap_resize(heap, medium, 5000), ACRE_OK);
    assert_true(acre_usable_size(medium) < 10000);
    assert_int_equal(acre_heap_resize(heap, large, 64 << 20), ACRE_OK);
    large[(64 << 20) - 1] = 1;
    assert_int_equal(acre_heap_resize(heap, large, (64 << 20) + 1), ACRE_NO_MEMORY);
    assert_int_equal(acre_usable_size(large), 64 << 20);
    assert_int_equal(acre_heap_resize(heap, large, 0), ACRE_OK);
    assert_int_equal(acre_heap_resize(heap, small, SIZE_MAX), ACRE_TOO_LARGE);
    int local;
    assert_int_equal(acre_heap_resize(heap, &local, 1), ACRE_FOREIGN_POINTER);
    assert_int_equal(acre_heap_resize(heap, NULL, 1), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_heap_resize(NULL, small, 1), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_heap_resize(acre_heap_process(), small, 1), ACRE_FOREIGN_POINTER);
    destroy(heap);
}

/* --- queries ------------------------------------------------------------------------------------------------------ */

static void owner_and_usable_size_know_live_blocks_only(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){0});
    int local;
    assert_null(acre_owner(NULL));
    assert_null(acre_owner(&local));
    assert_int_equal(acre_usable_size(NULL) + acre_usable_size(&local) + acre_usable_size((void *)-1), 0);
    for (int i = 0; i < SIZE_COUNT; i++) {
        char *p = take(heap, SIZES[i]), *q = take(acre_heap_process(), SIZES[i]);
        assert_ptr_equal(acre_owner(p), heap);
        assert_ptr_equal(acre_owner(q), acre_heap_process());
        assert_null(acre_owner(p + 1));
        memset(p, 1, acre_usable_size(p));
        give(heap, p);
        give(acre_heap_process(), q);
        acre_heap_trim(heap, 0);
        assert_null(acre_owner(p));
        assert_int_equal(acre_usable_size(p), 0);
    }
    destroy(heap);
}

static void sites_of_larger_blocks_are_remembered(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){0});
    int line = __LINE__ + 1;
    void *p = acre_heap_alloc_at(heap, 10000, 0, ACRE_HERE, NULL), *q = take(heap, 10000);
    const acre_site *site = acre_block_site(p);
    assert_non_null(site);
    assert_string_equal(site->function, __func__);
    assert_int_equal(site->line, line);
    assert_true(strstr(site->file, "test_heap.c") != NULL);
    assert_null(acre_block_site(q));
    assert_null(acre_block_site(NULL));
    give(heap, p);
    void *again = take(heap, 10000); /* probably the same one, out of the thread's cache */
    assert_null(acre_block_site(again));
    give(heap, again);
    again = acre_heap_alloc_at(heap, 10000, 0, ACRE_HERE, NULL);
    assert_true(acre_block_site(again) != NULL && acre_block_site(again) != site);
    destroy(heap);
}

typedef struct seen { size_t blocks, bytes, sites; } seen;
static void count_block(void *context, void *block, size_t bytes, const acre_site *site)
{
    seen *s = context;
    s->blocks += block != NULL;
    s->bytes += bytes;
    s->sites += site != NULL;
}

static void visit_sees_each_live_block_over_4_kib_once(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){0});
    size_t expected = 0;
    void *freed[3];
    for (int i = 0; i < 3; i++) freed[i] = take(heap, 9000);
    for (int i = 0; i < SIZE_COUNT; i++) {
        size_t usable = acre_usable_size(take(heap, SIZES[i]));
        if (SIZES[i] > 4096) expected += usable;
    }
    expected += acre_usable_size(acre_heap_alloc_at(heap, 5000, 0, ACRE_HERE, NULL));
    for (int i = 0; i < 3; i++) give(heap, freed[i]); /* in the thread's cache: not live */
    seen s = {0};
    acre_heap_visit(heap, count_block, &s);
    assert_int_equal(s.blocks, SIZE_COUNT - 10 + 1);
    assert_true(s.bytes <= expected && s.bytes > expected - (64 << 10) * 3); /* large ones: what was asked for */
    assert_int_equal(s.sites, 1);
    destroy(heap);
}

/* --- memory ------------------------------------------------------------------------------------------------------- */

static void trim_gives_back_what_is_free(void **state)
{
    (void)state;
    enum { BLOCKS = 4000 };
    acre_heap *heap = make((acre_heap_options){.purge_delay_ms = UINT32_MAX, .cache_bytes_max = SIZE_MAX});
    char **p = malloc(BLOCKS * sizeof *p), *medium = take(heap, 20 << 20), *large = take(heap, 40 << 20);
    for (int i = 0; i < BLOCKS; i++) memset(p[i] = take(heap, 1000), 1, 1000);
    memset(medium, 1, 20 << 20);
    memset(large, 1, 40 << 20);
    char *low = p[0], *high = p[0];
    for (int i = 0; i < BLOCKS; i++) {
        if (p[i] < low) low = p[i];
        if (p[i] > high) high = p[i];
        give(heap, p[i]);
    }
    give(heap, medium);
    give(heap, large);
    low = (char *)((uintptr_t)low & ~(uintptr_t)4095);
    assert_true(acre_heap_trim(heap, 0) >= (60 << 20));
    assert_int_equal(probe_resident(medium, 20 << 20), 0);
    assert_int_equal(probe_resident(large, 40 << 20), 0);
    assert_true(probe_resident(low, (size_t)(high - low)) <= 64 << 10); /* the process heap may sit in between */
    assert_int_equal(heap->account.bytes, 0);
    assert_int_equal(acre_heap_trim(NULL, 0), 0);
    free(p);
    destroy(heap);
}

static void acre_trim_reaches_what_this_thread_keeps_of_every_heap(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){0});
    give(heap, take(heap, 1000));
    give(heap, take(heap, 10000));
    acre_trim(0);
    assert_int_equal(heap->account.bytes, 0);
    destroy(heap);
}

static void idle_memory_goes_back_when_the_heap_is_told_the_time(void **state)
{
    (void)state;
    fake_os_install();
    acre_heap *heap = make((acre_heap_options){.purge_delay_ms = 300, .cache_bytes_max = SIZE_MAX});
    char *p = take(heap, 8 << 20), *q = take(heap, 40 << 20);
    memset(p, 1, 8 << 20);
    memset(q, 1, 40 << 20);
    give(heap, p);
    give(heap, q);
    fake_os_advance_ms(299);
    acre_heap_tick(heap);
    assert_int_equal(probe_resident(p, 8 << 20) + probe_resident(q, 40 << 20), 48 << 20);
    acre_heap_tick(heap); /* the thread lets go of what it keeps after two looks; the time counts from there */
    fake_os_advance_ms(300);
    for (int i = 0; i < 8; i++) acre_heap_tick(heap);
    assert_int_equal(probe_resident(p, 8 << 20) + probe_resident(q, 40 << 20), 0);
    acre_heap_tick(NULL);
    destroy(heap);
    fake_os_remove();
}

static void destroying_gives_everything_back_blocks_in_use_included(void **state)
{
    (void)state;
    static fake_provider ledger;
    fake_provider_init(&ledger, 0, ACRE_CAN_TOUCH | ACRE_CAN_DECOMMIT | ACRE_COMES_ZEROED);
    static const acre_heap_options plain, filled = {.fill = true}, direct = {.provider = &ledger.provider};
    const acre_heap_options *kinds[] = {&plain, &filled, &direct};
    for (size_t k = 0; k < 3; k++) {
        size_t used = 0;
        for (int round = 0; round < 4; round++) {
            acre_heap *heap = make(*kinds[k]);
            char *p[SIZE_COUNT];
            for (int i = 0; i < SIZE_COUNT; i++) memset(p[i] = take(heap, SIZES[i]), 1, SIZES[i]);
            for (int i = 0; i < 20000; i++) take(heap, 24); /* their bitmaps lie outside of the records */
            assert_int_equal(acre_heap_destroy(heap), ACRE_OK);
            for (int i = 0; i < SIZE_COUNT; i++) {
                assert_null(acre_owner(p[i]));
                if (SIZES[i] > 4 << 20) assert_int_equal(probe_resident(p[i], SIZES[i]), 0);
            }
            if (round == 0) used = arena_used();
            else if (arena_used() != used) /* no bookkeeping stays behind */
                fail_msg("kind %zu: %zu bytes of bookkeeping, then %zu", k, used, arena_used());
        }
        assert_int_equal(ledger.committed_bytes, 0);
    }
    fake_provider_done(&ledger);
}

static void memory_of_a_destroyed_heap_reads_zero_in_the_next_even_if_it_could_not_go_back(void **state)
{
    (void)state;
    fake_os_install();
    for (int i = 10; i < SIZE_COUNT; i++) {
        acre_heap *heap = make((acre_heap_options){0});
        char *p = take(heap, SIZES[i]);
        memset(p, 0xEE, SIZES[i]);
        fake_os_fail(FAKE_DECOMMIT, 1, true); /* as for memory that is locked */
        assert_int_equal(acre_heap_destroy(heap), ACRE_OK);
        fake_os_heal();
        heap = make((acre_heap_options){0});
        char *q = acre_heap_alloc_zeroed(heap, SIZES[i], 0, NULL);
        assert_true(probe_all_bytes(q, 0, SIZES[i]));
        destroy(heap);
    }
    fake_os_remove();
}

static void two_hundred_heaps_live_side_by_side(void **state)
{
    (void)state;
    enum { HEAPS = 200 };
    acre_heap *heap[HEAPS];
    char *small[HEAPS], *medium[HEAPS];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < HEAPS; i++) {
            heap[i] = make((acre_heap_options){0});
            probe_stamp(small[i] = take(heap[i], 200), 200, (unsigned)i);
            probe_stamp(medium[i] = take(heap[i], 9000), 9000, (unsigned)i);
        }
        for (int i = 0; i < HEAPS; i++) {
            assert_ptr_equal(acre_owner(small[i]), heap[i]);
            assert_true(probe_stamped(small[i], 200, 200, (unsigned)i));
            assert_true(probe_stamped(medium[i], 9000, 9000, (unsigned)i));
            assert_int_equal(acre_heap_free(heap[(i + 1) % HEAPS], small[i]), ACRE_FOREIGN_POINTER);
        }
        for (int i = 0; i < HEAPS; i += 2) destroy(heap[i]);
        for (int i = 1; i < HEAPS; i += 2) {
            assert_true(probe_stamped(medium[i], 9000, 9000, (unsigned)i));
            give(heap[i], medium[i]);
            destroy(heap[i]);
        }
    }
}

/* --- budgets ------------------------------------------------------------------------------------------------------ */

typedef struct store {
    void *block[8];
    int count, calls;
    size_t asked, raise_to;
} store;

static bool frees_one(void *context, acre_heap *heap, size_t bytes)
{
    store *s = context;
    s->calls++;
    s->asked = bytes;
    if (s->raise_to) {
        acre_heap_set_budget(heap, s->raise_to);
        return true;
    }
    if (s->count == 0) return false;
    void *other = acre_heap_alloc(acre_heap_process(), 100, 0, NULL); /* allowed: another heap */
    CHECK(other && acre_heap_free(acre_heap_process(), other) == ACRE_OK);
    CHECK(acre_heap_free(heap, s->block[--s->count]) == ACRE_OK);
    return true;
}

static void over_budget_asks_the_owner_and_tries_once_more(void **state)
{
    (void)state;
    const size_t sizes[] = {300 << 10, 2 << 20, 40 << 20};
    for (int i = 0; i < 3; i++) {
        store s = {0};
        acre_heap *heap = make((acre_heap_options){
            .budget_bytes = sizes[i] * 7 / 2, .on_over_budget = frees_one, .on_over_budget_context = &s});
        while (s.count < 3) s.block[s.count++] = take(heap, sizes[i]);
        assert_int_equal(s.calls, 0);
        /* Of another size than what was freed, so that no cache can serve it as it lies. */
        size_t size = sizes[i] * 5 / 4;
        acre_status why;
        void *p = acre_heap_alloc(heap, size, 0, &why);
        assert_non_null(p);
        assert_true(s.calls == 1 && s.asked == size && s.count == 2);
        /* One free is not enough, and there is no third try. */
        assert_null(acre_heap_alloc(heap, sizes[i] * 3, 0, &why));
        assert_true(why == ACRE_OVER_BUDGET && s.calls == 2);
        s.count = 0;
        assert_null(acre_heap_alloc(heap, sizes[i] * 4, 0, &why)); /* it says no */
        assert_true(why == ACRE_OVER_BUDGET && s.calls == 3);
        s.raise_to = sizes[i] * 20;
        give(heap, take(heap, sizes[i] * 4));
        destroy(heap);
    }
}

static void what_is_freed_can_be_had_again_within_the_budget(void **state)
{
    (void)state;
    /* All of the budget, given out as blocks of one size after the other: nothing that is free may stand in the way. */
    acre_heap *heap = make((acre_heap_options){.budget_bytes = 4 << 20});
    for (int round = 0; round < 2; round++)
        for (int i = 1; i < SIZE_COUNT && SIZES[i] <= 3 << 20; i++) {
            void *p[3000];
            int n = 0;
            acre_status why;
            while (n < 3000 && (p[n] = acre_heap_alloc(heap, SIZES[i], 0, &why)) != NULL) n++;
            if (n == 0) fail_msg("not one block of %zu bytes: %s", SIZES[i], acre_status_name(why));
            assert_true(n == 3000 || why == ACRE_OVER_BUDGET);
            assert_true(heap->account.bytes <= 4 << 20);
            while (n > 0) give(heap, p[--n]);
        }
    destroy(heap);
}

static void a_budget_below_what_is_in_use_refuses_until_enough_is_freed(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){0});
    void *p[4];
    acre_status why;
    for (int i = 0; i < 4; i++) p[i] = take(heap, 2 << 20);
    acre_heap_set_budget(heap, 5 << 20);
    assert_null(acre_heap_alloc(heap, 2 << 20, 0, &why));
    assert_int_equal(why, ACRE_OVER_BUDGET);
    give(heap, p[0]);
    assert_null(acre_heap_alloc(heap, 2 << 20, 0, &why));
    give(heap, p[1]);
    give(heap, p[2]);
    assert_non_null(acre_heap_alloc(heap, 2 << 20, 0, &why));
    destroy(heap);
}

/* --- clear values ------------------------------------------------------------------------------------------------- */

static void clear_values_tell_what_memory_is(void **state)
{
    (void)state;
    acre_direct *direct;
    assert_int_equal(acre_direct_create("fill", 128 << 20, &direct), ACRE_OK);
    for (int kind = 0; kind < 2; kind++) {
        acre_heap_options options = {.fill = true, .purge_delay_ms = UINT32_MAX, .cache_bytes_max = SIZE_MAX};
        if (kind) options.provider = acre_direct_provider(direct);
        acre_heap *heap = make(options);
        const int allocated = kind ? FILL_DIRECT_ALLOCATED : FILL_FLEXIBLE_ALLOCATED;
        const int freed = kind ? FILL_DIRECT_FREE : FILL_FLEXIBLE_FREE;
        for (int i = 1; i < SIZE_COUNT; i++) {
            char *p = take(heap, SIZES[i]), *neighbour = NULL;
            assert_true(probe_all_bytes(p, allocated, acre_usable_size(p)));
            if (SIZES[i] <= 32 << 20) neighbour = take(heap, SIZES[i]); /* so that its page stays in use */
            memset(p, 1, SIZES[i]);
            size_t usable = acre_usable_size(p);
            give(heap, p);
            if (SIZES[i] <= 1 << 20) assert_true(probe_all_bytes(p, freed, usable));
            else if (SIZES[i] > 32 << 20) assert_true(probe_all_bytes(p, FILL_MEMORY_DEALLOCATED, usable));
            if (SIZES[i] <= 1 << 20) assert_int_equal(acre_heap_free(heap, p), ACRE_DOUBLE_FREE);
            p = acre_heap_alloc_zeroed(heap, SIZES[i], 0, NULL);
            assert_non_null(p);
            assert_true(probe_all_bytes(p, 0, SIZES[i]));
            give(heap, p);
            if (neighbour) give(heap, neighbour);
        }
        /* A page that the allocator has and no block has used yet, and one that came back. */
        char *p = take(heap, 100);
        char *page = (char *)((uintptr_t)p & ~(uintptr_t)65535);
        bool untouched = false;
        for (size_t at = 0; at < 65536; at += 4096)
            untouched = untouched || probe_all_bytes(page + at, FILL_MEMORY_ALLOCATED, 1024);
        assert_true(untouched);
        give(heap, p);
        acre_heap_trim(heap, SIZE_MAX);
        assert_true(probe_all_bytes(page, FILL_MEMORY_DEALLOCATED, 65536));
        destroy(heap);
    }
    assert_int_equal(acre_direct_destroy(direct), ACRE_OK);
}

/* --- providers ---------------------------------------------------------------------------------------------------- */

static void a_provider_that_refuses_gives_no_memory_and_breaks_nothing(void **state)
{
    (void)state;
    static fake_provider ledger;
    fake_provider_init(&ledger, 0, ACRE_CAN_TOUCH | ACRE_CAN_DECOMMIT | ACRE_COMES_ZEROED);
    acre_heap *heap = make((acre_heap_options){.provider = &ledger.provider});
    acre_status why;
    for (int i = 0; i < SIZE_COUNT; i++) {
        fake_provider_fail(&ledger, 1, true);
        errno = 0;
        void *p = acre_heap_alloc(heap, SIZES[i], 0, &why);
        fake_provider_fail(&ledger, 0, false);
        if (i == 0 || SIZES[i] > 64 << 10) { /* the first ones may find room in memory that is there */
            assert_null(p);
            assert_true(why == ACRE_NO_MEMORY && errno == ENOMEM);
        }
        assert_true(acre_heap_check(heap));
        if (p) give(heap, p);
        give(heap, take(heap, SIZES[i]));
        acre_heap_trim(heap, 0);
        assert_int_equal(ledger.committed_bytes, 0);
    }
    destroy(heap);
    assert_int_equal(ledger.committed_bytes, 0);
    fake_provider_done(&ledger);
}

static void memory_that_the_cpu_cannot_touch_is_not_touched(void **state)
{
    (void)state;
    static fake_provider ledger;
    fake_provider_init(&ledger, 2 << 20, ACRE_CAN_DECOMMIT);
    acre_heap *heap = make((acre_heap_options){.provider = &ledger.provider});
    acre_status why;
    for (int i = 0; i < SIZE_COUNT; i++) {
        char *p = take(heap, SIZES[i]), *page = (char *)((uintptr_t)p & ~(uintptr_t)4095);
        assert_int_equal(probe_resident(page, SIZES[i] + 4096), 0);
        assert_null(acre_heap_alloc_zeroed(heap, SIZES[i], 0, &why));
        assert_int_equal(why, ACRE_NOT_SUPPORTED);
        assert_null(acre_heap_realloc(heap, p, SIZES[i] * 2 + 1, &why));
        assert_int_equal(why, ACRE_NOT_SUPPORTED);
        give(heap, p);
        acre_heap_trim(heap, 0);
        assert_int_equal(probe_resident(page, SIZES[i] + 4096), 0);
    }
    destroy(heap);
    assert_int_equal(ledger.committed_bytes, 0);
    fake_provider_done(&ledger);
}

/* --- threads ------------------------------------------------------------------------------------------------------ */

static void *creates_and_destroys(void *seed)
{
    uint64_t random = (uintptr_t)seed;
    for (int i = 0; i < 60; i++) {
        acre_heap *heap;
        acre_heap_options options = {.fill = probe_random(&random) % 4 == 0};
        CHECK(acre_heap_create(&options, &heap) == ACRE_OK);
        for (int k = 0; k < 200; k++) {
            size_t size = probe_random(&random) % ((size_t)1 << (3 + probe_random(&random) % 18));
            char *p = acre_heap_alloc(heap, size, 0, NULL);
            CHECK(p != NULL);
            if (size) p[0] = p[size - 1] = 1;
            if (k % 3 == 0) CHECK(acre_heap_free(heap, p) == ACRE_OK);
        }
        if (i % 8 == 0) acre_trim(0);
        CHECK(acre_heap_destroy(heap) == ACRE_OK);
    }
    return NULL;
}

static void threads_make_and_destroy_heaps_at_once(void **state)
{
    (void)state;
    pthread_t t[4];
    for (uintptr_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, creates_and_destroys, (void *)(i + 1)), 0);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    assert_true(acre_heap_check(acre_heap_process()));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_options_are_refused),
        cmocka_unit_test(zero_is_a_plain_heap_and_so_is_null),
        cmocka_unit_test(every_option_in_its_bounds_works),
        cmocka_unit_test(every_size_at_every_alignment_is_aligned_and_apart),
        cmocka_unit_test(zeroed_blocks_read_zero),
        cmocka_unit_test(refusals_say_why_and_set_errno),
        cmocka_unit_test(wrong_frees_are_told_apart_and_change_nothing),
        cmocka_unit_test(a_small_double_free_is_seen_at_the_latest_when_the_block_returns),
        cmocka_unit_test(a_single_thread_heap_tells_other_threads_off),
        cmocka_unit_test(realloc_keeps_contents_over_all_boundaries_both_ways),
        cmocka_unit_test(a_block_that_shrank_holds_twice_what_it_needs_at_most),
        cmocka_unit_test(an_array_that_creeps_is_seldom_copied),
        cmocka_unit_test(realloc_follows_its_block),
        cmocka_unit_test(resize_never_moves),
        cmocka_unit_test(owner_and_usable_size_know_live_blocks_only),
        cmocka_unit_test(sites_of_larger_blocks_are_remembered),
        cmocka_unit_test(visit_sees_each_live_block_over_4_kib_once),
        cmocka_unit_test(trim_gives_back_what_is_free),
        cmocka_unit_test(acre_trim_reaches_what_this_thread_keeps_of_every_heap),
        cmocka_unit_test(idle_memory_goes_back_when_the_heap_is_told_the_time),
        cmocka_unit_test(destroying_gives_everything_back_blocks_in_use_included),
        cmocka_unit_test(memory_of_a_destroyed_heap_reads_zero_in_the_next_even_if_it_could_not_go_back),
        cmocka_unit_test(two_hundred_heaps_live_side_by_side),
        cmocka_unit_test(over_budget_asks_the_owner_and_tries_once_more),
        cmocka_unit_test(what_is_freed_can_be_had_again_within_the_budget),
        cmocka_unit_test(a_budget_below_what_is_in_use_refuses_until_enough_is_freed),
        cmocka_unit_test(clear_values_tell_what_memory_is),
        cmocka_unit_test(a_provider_that_refuses_gives_no_memory_and_breaks_nothing),
        cmocka_unit_test(memory_that_the_cpu_cannot_touch_is_not_touched),
        cmocka_unit_test(threads_make_and_destroy_heaps_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
