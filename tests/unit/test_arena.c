/* test_arena: metadata memory: zeroed, aligned, apart, reused, and given back where the header says so. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "base/bits.h"
#include "fake_os.h"
#include "page/arena.h"
#include "probe.h"

static size_t used_bytes(void)
{
    size_t used, held;
    arena_usage(&used, &held);
    assert_true(used <= held);
    return used;
}

static void pieces_are_aligned_zeroed_and_apart_even_when_reused(void **state)
{
    (void)state;
    enum { PIECES = 400 };
    size_t start = used_bytes();
    struct { unsigned char *p; size_t bytes; } piece[PIECES];
    uint64_t random = 1;
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < PIECES; i++) {
            size_t bytes = piece[i].bytes = 1 + probe_random(&random) % ((size_t)1 << (4 + probe_random(&random) % 14));
            unsigned char *p = piece[i].p = arena_alloc(bytes);
            assert_non_null(p);
            assert_int_equal((uintptr_t)p % 64, 0);
            assert_true(probe_all_bytes(p, 0, bytes));
            memset(p, i & 0xFF, bytes);
        }
        for (int i = 0; i < PIECES; i++) {
            assert_true(probe_all_bytes(piece[i].p, i & 0xFF, piece[i].bytes));
            arena_free(piece[i].p, piece[i].bytes);
        }
        assert_int_equal(used_bytes(), start);
    }
}

static void every_size_up_to_four_megabytes_is_served(void **state)
{
    (void)state;
    size_t start = used_bytes();
    for (size_t bytes = 1; bytes <= 4 * MIB; bytes = bytes * 5 / 4 + 1) {
        char *p = arena_alloc(bytes);
        assert_non_null(p);
        assert_true(p[0] == 0 && p[bytes - 1] == 0);
        p[0] = p[bytes - 1] = 1;
        assert_true(used_bytes() >= start + bytes);
        arena_free(p, bytes);
        assert_int_equal(used_bytes(), start);
    }
    arena_free(NULL, 100);
    assert_int_equal(used_bytes(), start);
}

static void a_freed_piece_serves_the_next_request_of_its_size(void **state)
{
    (void)state;
    void *a = arena_alloc(1000), *b = arena_alloc(1000);
    size_t used, held, held_later;
    arena_usage(&used, &held);
    arena_free(a, 1000);
    assert_ptr_equal(arena_alloc(700), a); /* the same power of two */
    arena_free(a, 700);
    for (int i = 0; i < 1000; i++) arena_free(arena_alloc(1000), 1000);
    arena_usage(&used, &held_later);
    assert_int_equal(held, held_later);
    arena_free(b, 1000);
}

static void a_piece_over_a_megabyte_gives_its_memory_back(void **state)
{
    (void)state;
    size_t start = used_bytes();
    char *p = arena_alloc(MIB + 1);
    memset(p, 1, MIB + 1);
    assert_int_equal(used_bytes(), start + MIB + 4096);
    arena_free(p, MIB + 1);
    assert_int_equal(used_bytes(), start);
    assert_int_equal(probe_resident(p, MIB), 0);
}

static void a_small_piece_stays_readable_after_its_free(void **state)
{
    (void)state;
    volatile char *p = arena_alloc(4096);
    arena_free((void *)(uintptr_t)p, 4096);
    (void)p[4095]; /* would fault */
    unsigned char present;
    assert_int_equal(mincore((void *)align_down((uintptr_t)p, 4096), 4096, &present), 0);
}

static void without_memory_it_says_null_and_is_as_before(void **state)
{
    (void)state;
    size_t start = used_bytes(), used, held, held_later;
    arena_usage(&used, &held);
    fake_os_install();
    fake_os_fail(FAKE_RESERVE, 1, true);
    fake_os_fail(FAKE_COMMIT, 1, true);
    void *got[4096];
    int n = 0;
    while (n < 4096 && (got[n] = arena_alloc(64 * KIB)) != NULL) n++;
    assert_true(n < 4096); /* what is left of the chunk may be handed out */
    assert_null(arena_alloc(3 * MIB));
    assert_true(fake_os_failures() > 0);
    fake_os_heal();
    void *p = arena_alloc(MIB), *q = arena_alloc(3 * MIB);
    assert_non_null(p);
    assert_non_null(q);
    arena_free(p, MIB);
    arena_free(q, 3 * MIB);
    /* A large piece whose commit fails keeps no addresses. */
    size_t reserved = fake_os_reserved_bytes();
    fake_os_fail(FAKE_COMMIT, 1, false);
    assert_null(arena_alloc(8 * MIB));
    assert_int_equal(fake_os_reserved_bytes(), reserved);
    fake_os_remove();
    while (n-- > 0) arena_free(got[n], 64 * KIB);
    arena_usage(&used, &held_later);
    assert_int_equal(used, start);
    assert_true(held_later >= held);
}

static void a_range_is_reserved_at_once_and_committed_in_parts(void **state)
{
    (void)state;
    char *p = arena_reserve(64 * MIB + 100);
    assert_non_null(p);
    assert_true(arena_commit(p + 5 * MIB + 10, 100)); /* need not be aligned */
    p[5 * MIB + 10] = 1;
    p[5 * MIB + 109] = 1;
    assert_int_equal(probe_resident(p, 64 * MIB), 4096);
    arena_release(p, 64 * MIB + 100);
    unsigned char present;
    assert_int_equal(mincore(p + 5 * MIB, 4096, &present), -1);
}

static void *churns(void *seed)
{
    enum { LIVE = 64 };
    uint64_t random = (uintptr_t)seed;
    struct { uint64_t *p; size_t bytes; } live[LIVE] = {{0}};
    for (int i = 0; i < 20000; i++) {
        unsigned k = probe_random(&random) % LIVE;
        if (live[k].p) {
            CHECK(*live[k].p == ((uint64_t)(uintptr_t)seed << 32 | k));
            arena_free(live[k].p, live[k].bytes);
        }
        live[k].bytes = 8 + probe_random(&random) % 2000;
        live[k].p = arena_alloc(live[k].bytes);
        CHECK(live[k].p && *live[k].p == 0);
        *live[k].p = (uint64_t)(uintptr_t)seed << 32 | k;
    }
    for (unsigned k = 0; k < LIVE; k++) arena_free(live[k].p, live[k].bytes);
    return NULL;
}

static void threads_never_share_a_piece(void **state)
{
    (void)state;
    size_t start = used_bytes();
    pthread_t t[4];
    for (uintptr_t i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, churns, (void *)(i + 1)), 0);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    assert_int_equal(used_bytes(), start);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_aligned_zeroed_and_apart_even_when_reused),
        cmocka_unit_test(every_size_up_to_four_megabytes_is_served),
        cmocka_unit_test(a_freed_piece_serves_the_next_request_of_its_size),
        cmocka_unit_test(a_piece_over_a_megabyte_gives_its_memory_back),
        cmocka_unit_test(a_small_piece_stays_readable_after_its_free),
        cmocka_unit_test(without_memory_it_says_null_and_is_as_before),
        cmocka_unit_test(a_range_is_reserved_at_once_and_committed_in_parts),
        cmocka_unit_test(threads_never_share_a_piece),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
