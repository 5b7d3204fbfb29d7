/* test_stats: claims about the ledger of acre/stats.h and the reports made of it. What the test allocated itself is the
 * measure: live bytes and blocks are compared with its own sums, not with the allocators' counters. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "acre/acre.h"
#include "debug/report.h"

enum { BLOCKS = 3000, TEXT_BYTES = 65536 };

static acre_heap *make(acre_heap_options options)
{
    acre_heap *heap = NULL;
    assert_int_equal(acre_heap_create(&options, &heap), ACRE_OK);
    return heap;
}

static acre_stats stats_of(acre_heap *heap)
{
    acre_stats s;
    assert_int_equal(acre_heap_stats_read(heap, &s), ACRE_OK);
    assert_true(stats_add_up(&s));
    return s;
}

static void *take(acre_heap *heap, size_t bytes)
{
    void *block = acre_heap_alloc(heap, bytes, 0, NULL);
    assert_non_null(block);
    return block;
}

static uint32_t random_below(uint64_t *state, uint32_t bound)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*state >> 33) % bound);
}

/* 1 B to 1 MiB, small ones more often. */
static size_t random_size(uint64_t *state) { return 1 + random_below(state, 1u << (3 + random_below(state, 18))); }

/* What is live by the test's own count. */
typedef struct own_count {
    uint64_t bytes[ACRE_ALLOCATOR_COUNT], blocks[ACRE_ALLOCATOR_COUNT];
} own_count;

static void count(own_count *own, const void *block, bool lives)
{
    size_t bytes = acre_usable_size(block);
    acre_allocator a = ACRE_ALLOCATOR_MEDIUM;
    if (bytes <= 4096) a = bytes <= 64 ? ACRE_ALLOCATOR_VERY_SMALL : ACRE_ALLOCATOR_SMALL;
    assert_true(bytes > 0);
    own->bytes[a] = lives ? own->bytes[a] + bytes : own->bytes[a] - bytes;
    own->blocks[a] = lives ? own->blocks[a] + 1 : own->blocks[a] - 1;
}

static void assert_live_is(const acre_stats *s, const own_count *own)
{
    for (int a = 0; a < ACRE_ALLOCATOR_COUNT; a++) {
        assert_int_equal(s->allocator[a].live_bytes, own->bytes[a]);
        assert_int_equal(s->allocator[a].live_blocks, own->blocks[a]);
    }
}

/* --- the ledger --------------------------------------------------------------------------------------------------- */

static void an_empty_heap_has_an_empty_ledger(void **state)
{
    (void)state;
    static const acre_ledger nothing;
    acre_heap *heap = make((acre_heap_options){.name = "empty"});
    acre_stats s = stats_of(heap);
    assert_memory_equal(&s.total, &nothing, sizeof nothing);
    assert_int_equal(s.held_bytes, 0);
    assert_int_equal(s.thread_caches, 0);
    acre_heap_destroy(heap);
}

/* Live is what the program has at every moment of random work, whatever the thread caches hold. */
static void random_work(acre_heap *heap)
{
    static void *blocks[BLOCKS];
    memset(blocks, 0, sizeof blocks);
    uint64_t seed = 7;
    own_count own = {{0}, {0}};
    for (int i = 0; i < 60000; i++) {
        uint32_t n = random_below(&seed, BLOCKS);
        if (blocks[n]) {
            count(&own, blocks[n], false);
            assert_int_equal(acre_heap_free(heap, blocks[n]), ACRE_OK);
            blocks[n] = NULL;
        } else {
            blocks[n] = take(heap, random_size(&seed));
            count(&own, blocks[n], true);
        }
        if (i % 997 == 0 || i > 59990) {
            acre_stats s = stats_of(heap);
            assert_live_is(&s, &own);
            assert_true(s.total.peak_bytes >= s.held_bytes);
            assert_true(s.held_bytes >= s.total.live_bytes);
        }
    }
    for (int n = 0; n < BLOCKS; n++) acre_heap_free(heap, blocks[n]);
    acre_stats s = stats_of(heap);
    assert_int_equal(s.total.live_bytes, 0);
    assert_int_equal(s.total.live_blocks, 0);
    acre_heap_trim(heap, 0);
    s = stats_of(heap);
    assert_int_equal(s.total.committed_bytes, 0);
    assert_true(s.allocator[ACRE_ALLOCATOR_MEDIUM].given_back_bytes > 0);
    assert_true(acre_heap_check(heap));
}

static void live_is_what_the_program_holds_and_the_ledger_adds_up(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){.name = "plain"});
    random_work(heap);
    acre_heap_destroy(heap);
}

static void the_same_with_clear_values_and_exact_counts(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){.name = "filled", .fill = true});
    random_work(heap);
    acre_heap_destroy(heap);
}

static void a_page_of_blocks_is_live_cached_and_waste_to_the_byte(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){.name = "page"});
    void *block = take(heap, 3000); /* class of 3,072: 21 to a page, and 1,024 bytes that no block covers */
    acre_ledger l = stats_of(heap).allocator[ACRE_ALLOCATOR_SMALL];
    assert_int_equal(l.committed_bytes, 65536);
    assert_int_equal(l.peak_bytes, 65536);
    assert_int_equal(l.live_bytes, 3072);
    assert_int_equal(l.live_blocks, 1);
    assert_int_equal(l.cached_bytes % 3072, 0);
    assert_int_equal(l.waste_bytes % 3072, 1024);
    acre_heap_free(heap, block);
    acre_ledger after = stats_of(heap).allocator[ACRE_ALLOCATOR_SMALL];
    assert_int_equal(after.live_bytes, 0);
    assert_int_equal(after.cached_bytes, l.cached_bytes + 3072); /* it went to the thread's cache */
    assert_int_equal(after.waste_bytes, l.waste_bytes);
    acre_heap_destroy(heap);
}

static void a_large_block_is_live_then_cached_then_given_back(void **state)
{
    (void)state;
    const size_t bytes = 40 * MIB + 1;
    acre_heap *heap = make((acre_heap_options){.name = "large", .purge_delay_ms = UINT32_MAX});
    void *block = take(heap, bytes);
    acre_ledger l = stats_of(heap).allocator[ACRE_ALLOCATOR_LARGE];
    assert_int_equal(l.live_bytes, bytes);
    assert_int_equal(l.committed_bytes, 40 * MIB + 64 * KIB);
    assert_int_equal(l.waste_bytes, 64 * KIB - 1); /* the end of its last page */
    assert_int_equal(l.allocs, 1);
    acre_heap_free(heap, block);
    l = stats_of(heap).allocator[ACRE_ALLOCATOR_LARGE];
    assert_int_equal(l.live_bytes, 0);
    assert_int_equal(l.cached_bytes, 40 * MIB + 64 * KIB);
    assert_int_equal(l.frees, 1);
    acre_heap_trim(heap, 0);
    l = stats_of(heap).allocator[ACRE_ALLOCATOR_LARGE];
    assert_int_equal(l.committed_bytes, 0);
    assert_int_equal(l.given_back_bytes, 40 * MIB + 64 * KIB);
    assert_int_equal(l.given_back_pages, l.given_back_bytes / (uint64_t)sysconf(_SC_PAGESIZE));
    assert_int_equal(l.peak_bytes, bytes);
    acre_heap_destroy(heap);
}

static void a_block_that_fits_into_no_slot_has_its_own_column(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){.name = "unslotted"});
    void *block = acre_heap_alloc(heap, 5 * MIB, 2 * region_bytes(), NULL); /* aligned beyond what a slot can be */
    assert_non_null(block);
    acre_ledger l = stats_of(heap).allocator[ACRE_ALLOCATOR_UNSLOTTED];
    assert_int_equal(l.live_bytes, 5 * MIB);
    assert_int_equal(l.committed_bytes, 5 * MIB);
    assert_int_equal(l.live_blocks, 1);
    assert_int_equal(stats_of(heap).allocator[ACRE_ALLOCATOR_LARGE].committed_bytes, 0);
    acre_heap_free(heap, block);
    l = stats_of(heap).allocator[ACRE_ALLOCATOR_UNSLOTTED];
    assert_int_equal(l.live_bytes, 0);
    assert_int_equal(l.committed_bytes, 0);
    assert_int_equal(l.given_back_bytes, 5 * MIB);
    acre_heap_destroy(heap);
}

/* --- calls -------------------------------------------------------------------------------------------------------- */

static void calls_are_exact_in_an_observed_heap(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){.name = "observed", .fill = true});
    void *blocks[4][100];
    const size_t sizes[4] = {24, 500, 20000, 33 * MIB};
    const int counts[4] = {100, 70, 40, 1};
    for (int a = 0; a < 4; a++)
        for (int i = 0; i < counts[a]; i++) blocks[a][i] = take(heap, sizes[a]);
    for (int a = 0; a < 4; a++)
        for (int i = 0; i < counts[a] / 2; i++) acre_heap_free(heap, blocks[a][i]);
    acre_stats s = stats_of(heap);
    assert_int_equal(s.observed, 1);
    for (int a = 0; a < 4; a++) {
        assert_int_equal(s.allocator[a].allocs, counts[a]);
        assert_int_equal(s.allocator[a].frees, counts[a] / 2);
        assert_int_equal(s.allocator[a].live_blocks, counts[a] - counts[a] / 2);
    }
    assert_true(s.live_peak_bytes >= 33 * MIB);
    acre_heap_destroy(heap);
}

static void calls_that_miss_are_fewer_than_calls_in_a_heap_that_is_not(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){.name = "quick"});
    for (int i = 0; i < 10000; i++) acre_heap_free(heap, take(heap, 100));
    acre_stats s = stats_of(heap);
    assert_int_equal(s.observed, 0);
    assert_in_range(s.allocator[ACRE_ALLOCATOR_SMALL].allocs, 1, 100);
    assert_int_equal(s.allocator[ACRE_ALLOCATOR_SMALL].allocs, s.allocator[ACRE_ALLOCATOR_SMALL].refills);
    acre_heap_destroy(heap);
}

/* --- threads ------------------------------------------------------------------------------------------------------ */

typedef struct visitor {
    acre_heap *heap;
    pthread_barrier_t arrived, leave;
} visitor;

static void *visit(void *context)
{
    visitor *v = context;
    void *kept[50];
    for (int i = 0; i < 50; i++) kept[i] = take(v->heap, 200);
    for (int i = 0; i < 20; i++) acre_heap_free(v->heap, kept[i]);
    pthread_barrier_wait(&v->arrived);
    pthread_barrier_wait(&v->leave);
    return NULL;
}

static void what_another_thread_caches_is_not_live(void **state)
{
    (void)state;
    visitor v = {.heap = make((acre_heap_options){.name = "two threads"})};
    pthread_t thread;
    pthread_barrier_init(&v.arrived, NULL, 2);
    pthread_barrier_init(&v.leave, NULL, 2);
    assert_int_equal(pthread_create(&thread, NULL, visit, &v), 0);
    pthread_barrier_wait(&v.arrived);
    acre_stats s = stats_of(v.heap);
    assert_int_equal(s.allocator[ACRE_ALLOCATOR_SMALL].live_blocks, 30);
    assert_true(s.allocator[ACRE_ALLOCATOR_SMALL].cached_bytes >= 20 * 208);
    assert_int_equal(s.thread_caches, 1);
    uint64_t refills = s.allocator[ACRE_ALLOCATOR_SMALL].refills;
    pthread_barrier_wait(&v.leave);
    pthread_join(thread, NULL);
    s = stats_of(v.heap);
    assert_int_equal(s.thread_caches, 0);
    assert_int_equal(s.allocator[ACRE_ALLOCATOR_SMALL].live_blocks, 30);
    assert_int_equal(s.allocator[ACRE_ALLOCATOR_SMALL].cached_bytes, 0);
    assert_int_equal(s.allocator[ACRE_ALLOCATOR_SMALL].refills, refills); /* its counts stay with the heap */
    pthread_barrier_destroy(&v.arrived);
    pthread_barrier_destroy(&v.leave);
    acre_heap_destroy(v.heap);
}

/* --- other readers ------------------------------------------------------------------------------------------------ */

static void the_cheap_reader_agrees_with_the_walking_one(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){.name = "cheap", .budget_bytes = 512 * MIB, .fill = true});
    uint64_t seed = 3;
    for (int i = 0; i < 500; i++) {
        void *block = take(heap, random_size(&seed));
        if (i % 3) acre_heap_free(heap, block);
    }
    acre_counters n;
    assert_int_equal(acre_heap_counters_read(heap, &n), ACRE_OK);
    acre_stats s = stats_of(heap);
    assert_int_equal(n.held_bytes, s.held_bytes);
    assert_int_equal(n.held_peak_bytes, s.total.peak_bytes);
    assert_int_equal(n.budget_bytes, 512 * MIB);
    assert_int_equal(n.given_back_bytes, s.total.given_back_bytes);
    assert_true(n.free_bytes <= s.total.cached_bytes);
    acre_heap_destroy(heap);
}

static void wrong_arguments_are_refused(void **state)
{
    (void)state;
    acre_stats s;
    acre_counters n;
    assert_int_equal(acre_heap_stats_read(NULL, &s), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_heap_stats_read(acre_heap_process(), NULL), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_heap_counters_read(NULL, &n), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_stats_read(NULL), ACRE_INVALID_ARGUMENT);
}

static void the_process_is_the_sum_of_its_heaps_and_the_shared_pages(void **state)
{
    (void)state;
    acre_process_stats before, p, after;
    assert_int_equal(acre_stats_read(&before), ACRE_OK);
    acre_heap *heaps[3];
    uint64_t live = 0, committed = 0;
    for (int i = 0; i < 3; i++) {
        heaps[i] = make((acre_heap_options){.name = "one of three"});
        for (int k = 0; k < 500; k++) take(heaps[i], (size_t)(1 + k * 50));
        acre_stats s = stats_of(heaps[i]);
        live += s.total.live_bytes;
        committed += s.total.committed_bytes;
    }
    assert_int_equal(acre_stats_read(&p), ACRE_OK);
    assert_true(stats_add_up(&p.all));
    assert_int_equal(p.heaps, before.heaps + 3);
    assert_int_equal(p.all.total.live_bytes, before.all.total.live_bytes + live);
    uint64_t pages = p.all.allocator[ACRE_ALLOCATOR_FREE_PAGES].committed_bytes;
    uint64_t pages_before = before.all.allocator[ACRE_ALLOCATOR_FREE_PAGES].committed_bytes;
    assert_int_equal(p.all.total.committed_bytes - pages, before.all.total.committed_bytes - pages_before + committed);
    assert_int_equal(p.regions_small + p.regions_medium + p.regions_large + p.regions_ranges + p.regions_free,
                     p.space_bytes / p.region_bytes);
    assert_true(p.metadata_bytes > before.metadata_bytes);
    for (int i = 0; i < 3; i++) acre_heap_destroy(heaps[i]);
    assert_int_equal(acre_stats_read(&after), ACRE_OK);
    assert_true(stats_add_up(&after.all));
    assert_int_equal(after.heaps, before.heaps);
    assert_int_equal(after.all.total.live_bytes, before.all.total.live_bytes);
}

/* --- reports ------------------------------------------------------------------------------------------------------ */

/* What a report writes, as a string in a static buffer. */
static char *written(const report *r, bool json)
{
    static char text[TEXT_BYTES];
    int fd = memfd_create("report", 0);
    assert_true(fd >= 0);
    if (json) report_write_json(fd, r, 0);
    else report_write_text(fd, r);
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    assert_true(n > 0);
    text[n] = 0;
    close(fd);
    return text;
}

static report a_report(void)
{
    report r;
    assert_true(report_take(&r));
    return r;
}

static void json_read_back_is_the_same_report(void **state)
{
    (void)state;
    acre_heap *a = make((acre_heap_options){.name = "quo\"te\\ and \xc3\xbc"});
    acre_heap *b = make((acre_heap_options){.name = "b"});
    take(a, 100), take(b, 100000);
    report r = a_report(), back;
    assert_int_equal(r.heap_count, 3);
    assert_true(report_parse(&back, written(&r, true)));
    assert_memory_equal(&back.stats, &r.stats, sizeof r.stats);
    assert_int_equal(back.process_id, r.process_id);
    assert_string_equal(back.program, r.program);
    assert_int_equal(back.heap_count, r.heap_count);
    for (uint32_t i = 0; i < r.heap_count; i++) {
        assert_string_equal(back.heaps[i].name, r.heaps[i].name);
        assert_int_equal(back.heaps[i].live_bytes, r.heaps[i].live_bytes);
        assert_int_equal(back.heaps[i].peak_bytes, r.heaps[i].peak_bytes);
    }
    acre_heap_destroy(a);
    acre_heap_destroy(b);
}

static void json_that_is_cut_off_anywhere_is_refused(void **state)
{
    (void)state;
    report r = a_report(), back;
    char *text = written(&r, true);
    for (size_t n = strlen(text) - 1; n > 0; n--) {
        text[n] = 0;
        /* Only what follows the last figure may be missing. */
        if (report_parse(&back, text)) assert_memory_equal(&back.stats, &r.stats, sizeof r.stats);
        else break;
    }
    for (size_t n = strlen(text); n > 0; n--) {
        text[n - 1] = 0;
        assert_false(report_parse(&back, text));
    }
}

static void text_has_every_row_and_fits_into_100_columns(void **state)
{
    (void)state;
    acre_heap *heap = make((acre_heap_options){.name = "a name of thirty-one characters"});
    report r = a_report();
    memset(&r.stats, 0xFF, sizeof r.stats); /* the widest figures there are */
    r.stats.heaps = 2;
    char *text = written(&r, false);
    static const char *const titles[] = {
#define X(name, unit, title, meaning) title,
        ACRE_LEDGER_LIST(X) ACRE_HEAP_FIGURES(X) ACRE_PROCESS_FIGURES(X)
#undef X
    };
    for (size_t i = 0; i < sizeof titles / sizeof *titles; i++) {
        char row[64];
        snprintf(row, sizeof row, "\n%s ", titles[i]);
        assert_non_null(strstr(text, row));
    }
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        if (strlen(line) > 100) fail_msg("%zu columns: %s", strlen(line), line);
    acre_heap_destroy(heap);
}

static void figures_are_short_and_right(void **state)
{
    (void)state;
    char text[REPORT_FIGURE_BYTES];
    assert_string_equal(report_bytes(text, 0), "0 B");
    assert_string_equal(report_bytes(text, 1023), "1023 B");
    assert_string_equal(report_bytes(text, 1024), "1.00 KiB");
    assert_string_equal(report_bytes(text, 1536), "1.50 KiB");
    assert_string_equal(report_bytes(text, 10 * MIB + MIB / 2), "10.5 MiB");
    assert_string_equal(report_bytes(text, 640 * GIB), "640 GiB");
    assert_string_equal(report_bytes(text, MIB - 1), "1023 KiB");
    assert_string_equal(report_bytes(text, UINT64_MAX), "15.9 EiB");
    assert_string_equal(report_count(text, 0), "0");
    assert_string_equal(report_count(text, 999), "999");
    assert_string_equal(report_count(text, 1000), "1,000");
    assert_string_equal(report_count(text, 1002003), "1,002,003");
    assert_string_equal(report_count(text, 99999999), "99,999,999");
    assert_string_equal(report_count(text, 100000000), "100 M");
    assert_string_equal(report_count(text, 12345678901), "12 G");
    assert_string_equal(report_count(text, UINT64_MAX), "18446744 T");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_heap_has_an_empty_ledger),
        cmocka_unit_test(live_is_what_the_program_holds_and_the_ledger_adds_up),
        cmocka_unit_test(the_same_with_clear_values_and_exact_counts),
        cmocka_unit_test(a_page_of_blocks_is_live_cached_and_waste_to_the_byte),
        cmocka_unit_test(a_large_block_is_live_then_cached_then_given_back),
        cmocka_unit_test(a_block_that_fits_into_no_slot_has_its_own_column),
        cmocka_unit_test(calls_are_exact_in_an_observed_heap),
        cmocka_unit_test(calls_that_miss_are_fewer_than_calls_in_a_heap_that_is_not),
        cmocka_unit_test(what_another_thread_caches_is_not_live),
        cmocka_unit_test(the_cheap_reader_agrees_with_the_walking_one),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(the_process_is_the_sum_of_its_heaps_and_the_shared_pages),
        cmocka_unit_test(json_read_back_is_the_same_report),
        cmocka_unit_test(json_that_is_cut_off_anywhere_is_refused),
        cmocka_unit_test(text_has_every_row_and_fits_into_100_columns),
        cmocka_unit_test(figures_are_short_and_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
