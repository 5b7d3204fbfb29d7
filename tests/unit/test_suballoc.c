/* test_suballoc: claims about the public suballocator: units, statuses, handles, and its threads. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "acre/suballoc.h"
#include "os/os.h"

static acre_suballoc *make(acre_suballoc_options options)
{
    acre_suballoc *s = NULL;
    assert_int_equal(acre_suballoc_create(&options, &s), ACRE_OK);
    return s;
}
static acre_suballoc *make_sized(uint64_t size, uint64_t granularity)
{
    return make((acre_suballoc_options){.size = size, .granularity = granularity});
}

static void done(acre_suballoc *s)
{
    const char *wrong = acre_suballoc_check(s);
    if (wrong != NULL) fail_msg("%s", wrong);
    acre_suballoc_destroy(s);
}

static acre_suballoc_block take(acre_suballoc *s, uint64_t size, uint64_t alignment)
{
    acre_suballoc_block block = {0, 0, 0};
    assert_int_equal(acre_suballoc_alloc(s, size, alignment, &block), ACRE_OK);
    assert_true(block.handle != 0);
    return block;
}

static acre_suballoc_stats stats_of(acre_suballoc *s)
{
    acre_suballoc_stats stats;
    assert_int_equal(acre_suballoc_get_stats(s, &stats), ACRE_OK);
    assert_true(stats.bytes_used + stats.bytes_free == stats.bytes_total);
    return stats;
}

static void sizes_are_rounded_up_to_the_granularity(void **state)
{
    (void)state;
    acre_suballoc *s = make_sized(1 << 20, 0);
    acre_suballoc_block a = take(s, 1, 0), b = take(s, 257, 0);
    assert_int_equal(a.size, 256);
    assert_int_equal(b.size, 512);
    assert_int_equal(b.offset, 256);
    assert_int_equal(stats_of(s).bytes_used, 768);
    done(s);
}

static void wrong_options_are_refused(void **state)
{
    (void)state;
    acre_suballoc *s = NULL;
    acre_suballoc_options o = {.size = 0};
    assert_int_equal(acre_suballoc_create(&o, &s), ACRE_INVALID_ARGUMENT);
    o = (acre_suballoc_options){.size = 255};
    assert_int_equal(acre_suballoc_create(&o, &s), ACRE_INVALID_ARGUMENT);
    o = (acre_suballoc_options){.size = 4096, .granularity = 48};
    assert_int_equal(acre_suballoc_create(&o, &s), ACRE_INVALID_ARGUMENT);
    o = (acre_suballoc_options){.size = 4096, .alignments = {0, 3}};
    assert_int_equal(acre_suballoc_create(&o, &s), ACRE_INVALID_ARGUMENT);
    o = (acre_suballoc_options){.size = (uint64_t)1 << 40};
    assert_int_equal(acre_suballoc_create(&o, &s), ACRE_TOO_LARGE);
    o = (acre_suballoc_options){.size = UINT64_MAX, .granularity = 1};
    assert_int_equal(acre_suballoc_create(&o, &s), ACRE_TOO_LARGE);
    assert_int_equal(acre_suballoc_create(NULL, &s), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_suballoc_create(&o, NULL), ACRE_INVALID_ARGUMENT);
    assert_null(s);
    acre_suballoc_destroy(NULL);
}

static void wrong_arguments_are_refused_and_change_nothing(void **state)
{
    (void)state;
    acre_suballoc *s = make_sized(1 << 20, 0);
    acre_suballoc_block b = {1, 2, 3};
    assert_int_equal(acre_suballoc_alloc(s, 0, 0, &b), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_suballoc_alloc(s, 16, 24, &b), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_suballoc_alloc(s, (1 << 20) + 1, 0, &b), ACRE_TOO_LARGE);
    assert_int_equal(acre_suballoc_alloc(s, UINT64_MAX, 0, &b), ACRE_TOO_LARGE);
    assert_int_equal(acre_suballoc_alloc(s, 16, 0, NULL), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_suballoc_alloc(NULL, 16, 0, &b), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_suballoc_free(NULL, 1), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_suballoc_walk(s, NULL, NULL), ACRE_INVALID_ARGUMENT);
    assert_true(b.offset == 1 && b.size == 2 && b.handle == 3);
    take(s, 1 << 20, 0);
    assert_int_equal(acre_suballoc_alloc(s, 1, 0, &b), ACRE_NO_MEMORY);
    done(s);
}

static void double_frees_and_foreign_handles_are_told_apart(void **state)
{
    (void)state;
    acre_suballoc *s = make_sized(1 << 20, 0);
    acre_suballoc_block a = take(s, 1000, 0);
    assert_int_equal(acre_suballoc_free(s, a.handle), ACRE_OK);
    assert_int_equal(acre_suballoc_free(s, a.handle), ACRE_DOUBLE_FREE);
    acre_suballoc_block b = take(s, 1000, 0);
    assert_int_equal(acre_suballoc_free(s, a.handle), ACRE_DOUBLE_FREE);
    assert_int_equal(acre_suballoc_resize(s, a.handle, 5), ACRE_DOUBLE_FREE);
    assert_int_equal(acre_suballoc_free(s, 0), ACRE_FOREIGN_POINTER);
    assert_int_equal(acre_suballoc_free(s, UINT64_MAX), ACRE_FOREIGN_POINTER);
    assert_int_equal(acre_suballoc_free(s, 77777), ACRE_FOREIGN_POINTER);
    assert_int_equal(acre_suballoc_reset(s), ACRE_OK);
    assert_int_equal(acre_suballoc_free(s, b.handle), ACRE_DOUBLE_FREE);
    assert_int_equal(stats_of(s).block_count, 0);
    done(s);
}

static bool any_alignment_is_kept(uint64_t granularity, const uint64_t *named)
{
    acre_suballoc_options options = {.size = 64 << 20, .granularity = granularity};
    memcpy(options.alignments, named, sizeof options.alignments);
    acre_suballoc *s = make(options);
    for (uint64_t i = 0; i < 300; i++) {
        uint64_t alignment = (uint64_t)1 << i % 19;
        acre_suballoc_block b = take(s, 1 + i * 37 % 5000, alignment);
        if (b.offset % alignment != 0 || b.offset % granularity != 0) return false;
    }
    done(s);
    return true;
}

static void every_offset_is_aligned_as_asked(void **state)
{
    (void)state;
    static const uint64_t none[3] = {0}, some[3] = {256, 65536, 0}, three[3] = {65536, 16, 4096};
    for (uint64_t granularity = 1; granularity <= 1024; granularity *= 4) {
        assert_true(any_alignment_is_kept(granularity, none));
        assert_true(any_alignment_is_kept(granularity, some));
        assert_true(any_alignment_is_kept(granularity, three));
    }
}

static void count_max_bounds_the_blocks_and_sets_their_bookkeeping_aside(void **state)
{
    (void)state;
    acre_suballoc *s = make((acre_suballoc_options){.size = 1 << 20, .count_max = 100, .alignments = {4096}});
    uint64_t bookkeeping = stats_of(s).bytes_bookkeeping;
    acre_suballoc_block blocks[100], b;
    for (int i = 0; i < 100; i++) blocks[i] = take(s, 300, i % 2 ? 4096 : 0);
    assert_int_equal(acre_suballoc_alloc(s, 1, 0, &b), ACRE_NO_MEMORY);
    assert_int_equal(stats_of(s).bytes_bookkeeping, bookkeeping);
    assert_int_equal(acre_suballoc_free(s, blocks[50].handle), ACRE_OK);
    take(s, 1, 0);
    done(s);
}

static void a_block_is_resized_in_place(void **state)
{
    (void)state;
    acre_suballoc *s = make_sized(10240, 256);
    acre_suballoc_block a = take(s, 2560, 0), b = take(s, 2560, 0);
    assert_int_equal(acre_suballoc_resize(s, a.handle, 2561), ACRE_NO_MEMORY);
    assert_int_equal(acre_suballoc_resize(s, b.handle, 7680), ACRE_OK);
    assert_int_equal(acre_suballoc_resize(s, b.handle, 7681), ACRE_NO_MEMORY);
    assert_int_equal(acre_suballoc_resize(s, b.handle, 20000), ACRE_TOO_LARGE);
    assert_int_equal(acre_suballoc_resize(s, b.handle, 0), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_suballoc_resize(s, a.handle, 1), ACRE_OK);
    acre_suballoc_info info;
    assert_int_equal(acre_suballoc_get_info(s, a.handle, &info), ACRE_OK);
    assert_true(info.offset == 0 && info.size == 256);
    assert_int_equal(stats_of(s).largest_hole, 2304);
    done(s);
}

static void the_range_grows_and_shrinks(void **state)
{
    (void)state;
    acre_suballoc *s = make_sized(1 << 20, 256);
    acre_suballoc_block a = take(s, 1 << 20, 0);
    assert_int_equal(acre_suballoc_grow(s, (1 << 20) - 256), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_suballoc_grow(s, UINT64_MAX), ACRE_TOO_LARGE);
    assert_int_equal(acre_suballoc_grow(s, 2 << 20), ACRE_OK);
    take(s, 1024, 0);
    assert_int_equal(acre_suballoc_shrink(s, 1 << 20), ACRE_BUSY);
    assert_int_equal(acre_suballoc_shrink(s, 3 << 20), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_suballoc_shrink(s, 0), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_suballoc_shrink(s, (1 << 20) + 1024), ACRE_OK);
    assert_int_equal(stats_of(s).bytes_free, 0);
    assert_int_equal(acre_suballoc_free(s, a.handle), ACRE_OK);
    assert_int_equal(stats_of(s).largest_hole, 1 << 20);
    done(s);
}

static void fragmentation_is_one_minus_largest_by_free(void **state)
{
    (void)state;
    acre_suballoc *s = make_sized(4096, 256);
    assert_true(stats_of(s).fragmentation == 0);
    acre_suballoc_block a = take(s, 1024, 0);
    take(s, 256, 0);
    acre_suballoc_block b = take(s, 1024, 0);
    take(s, 4096 - 2304, 0);
    assert_true(stats_of(s).fragmentation == 0); /* nothing is free */
    acre_suballoc_free(s, a.handle), acre_suballoc_free(s, b.handle);
    acre_suballoc_stats stats = stats_of(s);
    assert_true(stats.fragmentation == 0.5);
    assert_true(stats.hole_count == 2 && stats.block_count == 2 && stats.largest_hole == 1024);
    done(s);
}

typedef struct walked {
    uint64_t end, used, tags;
    uint32_t pieces, stop_after;
} walked;

static bool visit(void *context, const acre_suballoc_piece *piece)
{
    walked *w = context;
    assert_true(piece->offset == w->end);
    assert_true((piece->handle != 0) == piece->used);
    w->end += piece->size;
    if (piece->used) w->used += piece->size, w->tags += piece->tag;
    return ++w->pieces != w->stop_after;
}

static void a_walk_visits_every_piece_by_offset(void **state)
{
    (void)state;
    acre_suballoc *s = make_sized(1 << 20, 256);
    uint64_t tags = 0;
    acre_suballoc_block blocks[20];
    for (uint64_t i = 0; i < 20; i++) {
        blocks[i] = take(s, 300 * (i + 1), 0);
        assert_int_equal(acre_suballoc_set_tag(s, blocks[i].handle, i << 40), ACRE_OK);
        if (i % 3 != 0) tags += i << 40;
    }
    for (int i = 0; i < 20; i += 3) acre_suballoc_free(s, blocks[i].handle);
    walked w = {.stop_after = 0};
    assert_int_equal(acre_suballoc_walk(s, visit, &w), ACRE_OK);
    acre_suballoc_stats stats = stats_of(s);
    assert_true(w.end == stats.bytes_total && w.used == stats.bytes_used && w.tags == tags);
    assert_int_equal(w.pieces, stats.block_count + stats.hole_count);
    w = (walked){.stop_after = 2};
    acre_suballoc_walk(s, visit, &w);
    assert_int_equal(w.pieces, 2);
    acre_suballoc_info info;
    assert_int_equal(acre_suballoc_get_info(s, blocks[1].handle, &info), ACRE_OK);
    assert_true(info.tag == (uint64_t)1 << 40);
    assert_int_equal(acre_suballoc_get_info(s, blocks[0].handle, &info), ACRE_DOUBLE_FREE);
    done(s);
}

static void bookkeeping_grows_past_its_first_reservation(void **state)
{
    (void)state;
    acre_suballoc *s = make((acre_suballoc_options){.size = 64 << 20, .granularity = 16, .alignments = {32}});
    enum { BLOCKS = 200000 };
    uint64_t *handles = malloc(BLOCKS * sizeof *handles);
    for (int i = 0; i < BLOCKS; i++) handles[i] = take(s, 16, 0).handle;
    for (int i = 0; i < BLOCKS; i += 2) assert_int_equal(acre_suballoc_free(s, handles[i]), ACRE_OK);
    assert_null(acre_suballoc_check(s));
    for (int i = 1; i < BLOCKS; i += 2) assert_int_equal(acre_suballoc_free(s, handles[i]), ACRE_OK);
    assert_int_equal(stats_of(s).hole_count, 1);
    free(handles);
    done(s);
}

/* --- a system without memory ------------------------------------------------------------------------------------ */

static int calls_until_failure;
static os_memory_calls os_real;
static void *failing_reserve(size_t bytes, size_t align)
{
    return --calls_until_failure == 0 ? NULL : os_real.reserve(bytes, align);
}
static bool failing_commit(void *address, size_t bytes)
{
    return --calls_until_failure != 0 && os_real.commit(address, bytes);
}

static void a_system_call_that_fails_is_no_memory_and_harms_nothing(void **state)
{
    (void)state;
    os_init();
    os_real = os_memory;
    os_memory.reserve = failing_reserve, os_memory.commit = failing_commit;
    bool failed = true;
    for (int fail_at = 1; failed; fail_at++) {
        calls_until_failure = fail_at;
        failed = false;
        acre_suballoc *s = NULL;
        acre_suballoc_options options = {.size = 64 << 20, .granularity = 16, .alignments = {64}};
        acre_status status = acre_suballoc_create(&options, &s);
        if (status == ACRE_OK) {
            acre_suballoc_block b;
            for (int i = 0; i < 40000; i++) {
                status = acre_suballoc_alloc(s, 16, 0, &b);
                if (status != ACRE_OK) assert_int_equal(status, ACRE_NO_MEMORY);
            }
            done(s);
        } else {
            assert_int_equal(status, ACRE_NO_MEMORY);
            assert_null(s);
        }
        failed = calls_until_failure <= 0;
        assert_true(fail_at < 1000);
    }
    os_memory = os_real;
}

/* --- threads ---------------------------------------------------------------------------------------------------- */

enum { THREADS = 4, THREAD_OPERATIONS = 50000, THREAD_BLOCKS = 64 };
static unsigned char owned[1 << 14]; /* per granule, written by its owner only */

static void *churn(void *context)
{
    acre_suballoc *s = context;
    acre_suballoc_block blocks[THREAD_BLOCKS] = {{0, 0, 0}};
    uint64_t random = (uint64_t)(uintptr_t)blocks;
    for (int i = 0; i < THREAD_OPERATIONS; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        acre_suballoc_block *b = &blocks[random >> 58];
        if (b->handle != 0) {
            memset(owned + b->offset / 256, 0, b->size / 256);
            if (acre_suballoc_free(s, b->handle) != ACRE_OK) return "free failed";
            b->handle = 0;
        } else if (acre_suballoc_alloc(s, 1 + (random >> 40) % 8000, 0, b) == ACRE_OK) {
            for (uint64_t g = b->offset / 256; g < (b->offset + b->size) / 256; g++)
                if (owned[g]++ != 0) return "two threads have one granule";
        } else {
            b->handle = 0;
        }
    }
    for (int i = 0; i < THREAD_BLOCKS; i++) {
        if (blocks[i].handle == 0) continue;
        memset(owned + blocks[i].offset / 256, 0, blocks[i].size / 256);
        if (acre_suballoc_free(s, blocks[i].handle) != ACRE_OK) return "free failed";
    }
    return NULL;
}

static void threads_share_a_thread_safe_suballocator(void **state)
{
    (void)state;
    acre_suballoc *s = make((acre_suballoc_options){.size = sizeof owned * 256, .thread_safe = true});
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, churn, s), 0);
    for (int i = 0; i < THREADS; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        if (wrong != NULL) fail_msg("%s", (char *)wrong);
    }
    assert_int_equal(stats_of(s).block_count, 0);
    assert_int_equal(stats_of(s).hole_count, 1);
    done(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_rounded_up_to_the_granularity),
        cmocka_unit_test(wrong_options_are_refused),
        cmocka_unit_test(wrong_arguments_are_refused_and_change_nothing),
        cmocka_unit_test(double_frees_and_foreign_handles_are_told_apart),
        cmocka_unit_test(every_offset_is_aligned_as_asked),
        cmocka_unit_test(count_max_bounds_the_blocks_and_sets_their_bookkeeping_aside),
        cmocka_unit_test(a_block_is_resized_in_place),
        cmocka_unit_test(the_range_grows_and_shrinks),
        cmocka_unit_test(fragmentation_is_one_minus_largest_by_free),
        cmocka_unit_test(a_walk_visits_every_piece_by_offset),
        cmocka_unit_test(bookkeeping_grows_past_its_first_reservation),
        cmocka_unit_test(a_system_call_that_fails_is_no_memory_and_harms_nothing),
        cmocka_unit_test(threads_share_a_thread_safe_suballocator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
