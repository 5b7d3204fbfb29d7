/* test_fault_injection: a script of everything that a heap can do, with each call to the system, or to a provider,
 * failing in turn: the first, the second, … until a run meets no failure; once alone and once with all that follow.
 *
 * What must hold each time: an allocation that fails says NO_MEMORY and ENOMEM and has changed nothing; what lives
 * keeps its contents; every structure is in order; and when all is freed nothing is in use. */
#define _GNU_SOURCE
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
#include "probe.h"

enum { BLOCKS = 64, RUNS_MAX = 3000 };

static struct { char *p; size_t bytes; } block[BLOCKS];
static unsigned refused;

static void checked(acre_heap *heap, void *p, size_t bytes, acre_status why)
{
    if (p) {
        assert_int_equal(why, ACRE_OK);
        assert_true(acre_usable_size(p) >= bytes);
        return;
    }
    refused++;
    if (why != ACRE_NO_MEMORY || errno != ENOMEM)
        fail_msg("%zu bytes refused with %s, errno %d", bytes, acre_status_name(why), errno);
    assert_true(acre_heap_check(heap));
}

static void put(acre_heap *heap, int i, size_t bytes, size_t align, bool zero)
{
    acre_status why = ACRE_SYSTEM;
    errno = 0;
    char *p = zero ? acre_heap_alloc_zeroed(heap, bytes, align, &why) : acre_heap_alloc(heap, bytes, align, &why);
    checked(heap, p, bytes, why);
    block[i].p = p;
    block[i].bytes = bytes;
    if (!p) return;
    assert_true(align == 0 || (uintptr_t)p % align == 0);
    if (zero) { /* ends and a sample */
        assert_true(probe_all_bytes(p, 0, bytes < 4096 ? bytes : 4096) && (bytes == 0 || p[bytes - 1] == 0));
        for (size_t at = 0; at < bytes; at += 65536) assert_int_equal(p[at], 0);
    }
    probe_stamp(p, bytes, (unsigned)i);
}

static void change(acre_heap *heap, int i, size_t bytes)
{
    if (!block[i].p) return;
    acre_status why = ACRE_SYSTEM;
    errno = 0;
    char *p = acre_heap_realloc(heap, block[i].p, bytes, &why);
    checked(heap, p, bytes, why);
    if (!p) { /* it is as it was */
        assert_true(probe_stamped(block[i].p, block[i].bytes, block[i].bytes, (unsigned)i));
        return;
    }
    assert_true(probe_stamped(p, block[i].bytes, bytes < block[i].bytes ? bytes : block[i].bytes, (unsigned)i));
    probe_stamp(p, bytes, (unsigned)i);
    block[i].p = p;
    block[i].bytes = bytes;
}

static void drop(acre_heap *heap, int i)
{
    if (!block[i].p) return;
    assert_true(probe_stamped(block[i].p, block[i].bytes, block[i].bytes, (unsigned)i));
    assert_int_equal(acre_heap_free(heap, block[i].p), ACRE_OK);
    block[i].p = NULL;
}

static void *works_and_ends(void *context)
{
    acre_heap *heap = context;
    void *p[40];
    for (int i = 0; i < 40; i++) {
        p[i] = acre_heap_alloc(heap, (size_t)i * 300, 0, NULL);
        if (p[i]) probe_stamp(p[i], (size_t)i * 300, (unsigned)i);
    }
    for (int i = 0; i < 40; i++)
        if (p[i]) {
            CHECK(probe_stamped(p[i], (size_t)i * 300, (size_t)i * 300, (unsigned)i));
            CHECK(acre_heap_free(heap, p[i]) == ACRE_OK);
        }
    return NULL;
}

static void script(acre_heap *heap, bool flexible)
{
    static const size_t sizes[] = {0, 8, 24, 100, 1000, 4096, 4097, 9000, 100000, 131073, 900000, 3 << 20};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    for (int i = 0; i < SIZES; i++) put(heap, i, sizes[i], 0, false);
    for (int i = 0; i < SIZES; i++) put(heap, SIZES + i, sizes[i], 0, true);
    put(heap, 30, 100, 4096, false);
    put(heap, 31, 10000, 65536, true);
    put(heap, 32, 200000, 1 << 20, false);
    put(heap, 33, 40 << 20, 0, true);
    put(heap, 34, 40 << 20, 0, false);
    put(heap, 35, 5000, 4 << 20, false); /* alignment sends it to the large ones */
    if (flexible) put(heap, 36, ((size_t)16 << 30) + 4096, 0, false);
    change(heap, 3, 2000);
    change(heap, 4, 6000);
    change(heap, 8, 120000);
    change(heap, 11, 33 << 20);
    change(heap, 33, 60 << 20);
    change(heap, 33, 66 << 20);
    change(heap, 34, 1000);
    change(heap, 10, 5000);
    acre_heap_trim(heap, 0);
    for (int i = 0; i < BLOCKS; i += 2) drop(heap, i);
    acre_heap_trim(heap, 1 << 20);
    pthread_t t;
    if (pthread_create(&t, NULL, works_and_ends, heap) == 0) pthread_join(t, NULL);
    acre_heap *second = NULL;
    acre_status status = acre_heap_create(NULL, &second);
    assert_true(status == ACRE_OK ? second != NULL : status == ACRE_NO_MEMORY && second == NULL);
    if (second) {
        acre_status why;
        for (int i = 0; i < SIZES; i++) {
            errno = 0;
            void *p = acre_heap_alloc(second, sizes[i], 0, &why);
            checked(second, p, sizes[i], why);
        }
        assert_int_equal(acre_heap_destroy(second), ACRE_OK); /* with what lives in it */
    }
    for (int i = 0; i < SIZES; i++)
        if (!block[i].p) put(heap, i, sizes[i], 0, true);
    acre_trim(0);
    assert_true(acre_heap_check(heap));
    for (int i = 0; i < BLOCKS; i++) drop(heap, i);
}

static size_t arena_used(void)
{
    size_t used, held;
    arena_usage(&used, &held);
    return used;
}

/* One life of a heap. The failure is ordered before it is made, so that its making fails, too. */
static void life(const acre_heap_options *options, bool flexible)
{
    acre_heap *heap = NULL;
    acre_status status = acre_heap_create(options, &heap);
    if (status != ACRE_OK) {
        assert_true(status == ACRE_NO_MEMORY && heap == NULL);
        return;
    }
    script(heap, flexible);
    fake_os_heal();
    if (options->provider) fake_provider_fail((fake_provider *)options->provider->context, 0, false);
    assert_true(acre_heap_check(heap));
    acre_heap_trim(heap, 0);
    assert_int_equal(heap->account.bytes, 0);
    assert_int_equal(heap->large.live_blocks, 0);
    assert_int_equal(acre_heap_destroy(heap), ACRE_OK);
}

static void each_failure_of(fake_call call, bool onwards)
{
    static const acre_heap_options options = {.name = "fault"};
    size_t used = 0;
    unsigned runs_refused = 0;
    uint64_t n = 1, failures = 1;
    for (; n < RUNS_MAX && failures; n += n < 30 || !PROBE_SANITIZED ? 1 : 11) {
        fake_os_install();
        refused = 0;
        fake_os_fail(call, n, onwards);
        life(&options, true);
        failures = fake_os_failures();
        runs_refused += refused != 0;
        acre_trim(0);
        assert_int_equal(space_regions_in_use(REGION_MEDIUM) + space_regions_in_use(REGION_LARGE), 0);
        if (n == 1) used = arena_used();
        /* Of what is kept for next time some is made in the first lives only: a little more is fine, a trend is not. */
        assert_true(arena_used() <= used + (64 << 10));
    }
    assert_true(n > 3 && n < RUNS_MAX);
    assert_true(call == FAKE_DECOMMIT || !onwards || runs_refused > 0);
    fake_os_remove();
}

static void every_reservation_may_fail(void **state)
{
    (void)state;
    each_failure_of(FAKE_RESERVE, false);
    each_failure_of(FAKE_RESERVE, true);
}

static void every_commit_may_fail(void **state)
{
    (void)state;
    each_failure_of(FAKE_COMMIT, false);
    each_failure_of(FAKE_COMMIT, true);
}

static void every_decommit_may_fail(void **state)
{
    (void)state;
    each_failure_of(FAKE_DECOMMIT, false);
    each_failure_of(FAKE_DECOMMIT, true);
}

static void every_call_may_fail(void **state)
{
    (void)state;
    each_failure_of(FAKE_ANY, true);
}

static void every_call_to_a_provider_may_be_refused(void **state)
{
    (void)state;
    static fake_provider ledger;
    for (int onwards = 0; onwards < 2; onwards++) {
        fake_provider_init(&ledger, 0, ACRE_CAN_TOUCH | ACRE_CAN_DECOMMIT | ACRE_COMES_ZEROED);
        acre_heap_options options = {.name = "refused", .provider = &ledger.provider};
        uint64_t failures = 1;
        for (uint64_t n = 1; failures; n++) {
            assert_true(n < RUNS_MAX);
            ledger.failures = 0;
            fake_provider_fail(&ledger, n, onwards);
            life(&options, false);
            failures = ledger.failures;
            assert_int_equal(ledger.committed_bytes, 0);
        }
    }
    fake_provider_done(&ledger);
}

static void the_process_heap_starts_or_says_no(void)
{
    static uint64_t n;
    fake_os_install();
    for (n = 1; n < 40; n++) {
        fake_os_fail(FAKE_ANY, n, true);
        acre_heap *heap = acre_heap_process();
        if (!heap) { /* no address space at all: it does not try again for every call */
            CHECK(acre_usable_size(&n) == 0 && acre_owner(&n) == NULL && acre_trim(0) == 0);
            acre_heap *other;
            CHECK(acre_heap_create(NULL, &other) == ACRE_NO_MEMORY);
            return;
        }
        acre_status why;
        void *p = acre_heap_alloc(heap, 100, 0, &why);
        CHECK(p ? why == ACRE_OK : why == ACRE_NO_MEMORY && errno == ENOMEM);
        if (p) CHECK(acre_heap_free(heap, p) == ACRE_OK);
    }
}

/* First: there is no process heap yet. */
static void a_process_without_memory_gets_none_and_lives(void **state)
{
    (void)state;
    assert_int_equal(probe_in_child(the_process_heap_starts_or_says_no), 0);
}

int main(void)
{
    misuse_set_policy(MISUSE_ABORT);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_process_without_memory_gets_none_and_lives),
        cmocka_unit_test(every_reservation_may_fail),
        cmocka_unit_test(every_commit_may_fail),
        cmocka_unit_test(every_decommit_may_fail),
        cmocka_unit_test(every_call_may_fail),
        cmocka_unit_test(every_call_to_a_provider_may_be_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
