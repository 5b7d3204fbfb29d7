/* test_os: what os/os.h promises, asked of the operating system that we run on. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <time.h>

#include <cmocka.h>

#include "base/bits.h"
#include "os/misuse.h"
#include "os/os.h"
#include "probe.h"

static void is_charged_for_commits(void)
{
    struct rlimit data = {256 * MIB, 256 * MIB};
    CHECK(setrlimit(RLIMIT_DATA, &data) == 0);
    os_init();
    CHECK(os_commit_is_charged());
    char *p = os_reserve(GIB, 2 * MIB); /* more than the limit: addresses are not charged for */
    CHECK(p != NULL);
    CHECK(os_commit(p + MIB, MIB));
    memset(p + MIB, 1, MIB);
    CHECK(!os_commit(p + 4 * MIB, 512 * MIB)); /* more than the limit */
    CHECK(os_decommit(p + MIB, MIB));
    CHECK(probe_resident(p + MIB, MIB) == 0);
    CHECK(os_commit(p + MIB, MIB));
    CHECK(probe_all_bytes(p + MIB, 0, MIB));
    for (int i = 0; i < 10; i++) { /* ten times 200 MiB of 256: the charge goes with a decommit */
        CHECK(os_commit(p, 200 * MIB));
        CHECK(os_decommit(p, 200 * MIB));
    }
    os_release(p, GIB);
}

static void touches_what_is_not_committed(void)
{
    struct rlimit data = {256 * MIB, 256 * MIB}, no_core = {0, 0};
    setrlimit(RLIMIT_DATA, &data);
    setrlimit(RLIMIT_CORE, &no_core);
    os_init();
    volatile char *p = os_reserve(MIB, 4096);
    p[0] = 1;
}

/* First of all: os_init decides once per process, and these children inherit a process that has not decided. */
static void under_a_data_limit_commits_are_real_and_charged(void **state)
{
    (void)state;
    if (PROBE_SANITIZED) skip();
    assert_int_equal(probe_in_child(is_charged_for_commits), 0);
    int status = probe_in_child(touches_what_is_not_committed);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void page_size_is_the_systems(void **state)
{
    (void)state;
    os_init();
    os_init();
    assert_int_equal(os_page_bytes(), sysconf(_SC_PAGESIZE));
}

static void reserved_memory_is_aligned_as_asked_and_reads_zero(void **state)
{
    (void)state;
    for (size_t align = 4096; align <= GIB; align *= 2) {
        char *p = os_reserve(3 * 4096, align);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % align, 0);
        assert_true(os_commit(p, 3 * 4096));
        assert_true(probe_all_bytes(p, 0, 3 * 4096));
        memset(p, 0x5A, 3 * 4096);
        os_release(p, 3 * 4096);
    }
}

static void address_space_costs_no_memory(void **state)
{
    (void)state;
    char *p = os_reserve(64 * GIB, 2 * MIB);
    assert_non_null(p);
    assert_int_equal(probe_resident(p + GIB, 64 * MIB), 0);
    os_release(p, 64 * GIB);
}

static void impossible_reservations_return_null_and_say_why(void **state)
{
    (void)state;
    const size_t impossible[] = {0, SIZE_MAX, SIZE_MAX / 2 + 1, (size_t)1 << 50};
    for (size_t i = 0; i < sizeof impossible / sizeof *impossible; i++) {
        errno = 0;
        assert_null(os_reserve(impossible[i], 4096));
        assert_int_equal(errno, ENOMEM);
    }
    assert_null(os_reserve(4096, SIZE_MAX / 2 + 1));
}

static void decommitted_memory_is_gone_and_reads_zero_again(void **state)
{
    (void)state;
    char *p = os_reserve(4 * MIB, 2 * MIB);
    assert_true(os_commit(p, 4 * MIB));
    memset(p, 7, 4 * MIB);
    assert_int_equal(probe_resident(p, 4 * MIB), 4 * MIB);
    errno = 4711;
    assert_true(os_decommit(p + MIB, 2 * MIB));
    assert_int_equal(errno, 4711);
    assert_int_equal(probe_resident(p + MIB, 2 * MIB), 0);
    assert_true(os_commit(p + MIB, 2 * MIB));
    assert_true(probe_all_bytes(p + MIB, 0, 2 * MIB));
    assert_true(probe_all_bytes(p, 7, MIB) && probe_all_bytes(p + 3 * MIB, 7, MIB));
    os_release(p, 4 * MIB);
}

static void released_addresses_are_gone(void **state)
{
    (void)state;
    char *p = os_reserve(MIB, 4096);
    unsigned char present;
    assert_int_equal(mincore(p, 4096, &present), 0);
    os_release(p + 512 * KIB, 512 * KIB); /* part of it */
    assert_int_equal(mincore(p, 4096, &present), 0);
    assert_int_equal(mincore(p + 512 * KIB, 4096, &present), -1);
    os_release(p, 512 * KIB);
    assert_int_equal(mincore(p, 4096, &present), -1);
}

static void locked_memory_is_not_decommitted_and_says_so(void **state)
{
    (void)state;
    char *p = os_reserve(64 * KIB, 4096);
    memset(p, 9, 64 * KIB);
    if (PROBE_SANITIZED || mlock(p, 64 * KIB) != 0) { /* sanitizers do not lock */
        os_release(p, 64 * KIB);
        skip();
    }
    assert_false(os_decommit(p, 64 * KIB));
    assert_true(probe_all_bytes(p, 9, 64 * KIB));
    munlock(p, 64 * KIB);
    assert_true(os_decommit(p, 64 * KIB));
    os_release(p, 64 * KIB);
}

static void sees_an_address_space_limit(void)
{
    CHECK(os_address_space_left() == SIZE_MAX);
    struct rlimit limit = {GIB, GIB};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    size_t left = os_address_space_left();
    CHECK(left > 512 * MIB && left < GIB);
    CHECK(os_reserve(left + 64 * MIB, 4096) == NULL);
    void *p = os_reserve(left / 2, 4096);
    CHECK(p != NULL);
    CHECK(os_address_space_left() <= left - left / 2);
}

static void address_space_left_follows_the_limit(void **state)
{
    (void)state;
    if (PROBE_SANITIZED) skip();
    assert_int_equal(probe_in_child(sees_an_address_space_limit), 0);
}

static void memory_of_the_machine_is_known(void **state)
{
    (void)state;
    assert_in_range(os_memory_bytes() / MIB, 16, 64 * 1024 * 1024);
}

static void the_clock_never_goes_back_and_does_go_on(void **state)
{
    (void)state;
    uint64_t first = os_now_ms(), last = first, first_ns = os_now_ns();
    while (os_now_ms() < first + 12) {
        assert_true(os_now_ms() >= last);
        last = os_now_ms();
    }
    assert_in_range(os_now_ns() - first_ns, 4000000, 10000000000);
}

static void resident_bytes_grow_with_touched_memory(void **state)
{
    (void)state;
    if (PROBE_SANITIZED) skip(); /* the shadow stays */
    char *p = os_reserve(64 * MIB, 4096);
    size_t before = os_resident_bytes();
    for (size_t i = 0; i < 64 * MIB; i += 4096) p[i] = 1;
    assert_true(os_resident_bytes() >= before + 60 * MIB);
    os_decommit(p, 64 * MIB);
    assert_true(os_resident_bytes() <= before + 4 * MIB);
    os_release(p, 64 * MIB);
}

static void pages_move_without_copying(void **state)
{
    (void)state;
    char *a = os_reserve(MIB, 4096), *b = os_reserve(MIB, 4096);
    memset(a, 0x11, MIB);
    memset(b, 0x22, MIB);
    if (!os_move_pages(a, b, 512 * KIB)) { /* allowed; then nothing may have moved out of a */
        assert_true(probe_all_bytes(a, 0x11, MIB));
        skip();
    }
    assert_true(probe_all_bytes(b, 0x11, 512 * KIB));
    assert_true(probe_all_bytes(b + 512 * KIB, 0x22, 512 * KIB));
    assert_true(probe_all_bytes(a, 0, 512 * KIB));
    assert_true(probe_all_bytes(a + 512 * KIB, 0x11, 512 * KIB));
    os_release(a, MIB);
    os_release(b, MIB);
}

static void an_object_is_seen_through_all_its_mappings(void **state)
{
    (void)state;
    int object = os_object_create("test", MIB);
    assert_true(object >= 0);
    char *p = os_reserve(2 * MIB, 4096);
    assert_true(os_object_map(object, 0, p, MIB));
    assert_true(os_object_map(object, 512 * KIB, p + MIB, 512 * KIB));
    memset(p, 1, MIB);
    memset(p + MIB, 2, 512 * KIB);
    assert_true(probe_all_bytes(p, 1, 512 * KIB) && probe_all_bytes(p + 512 * KIB, 2, 512 * KIB));
    /* Unmapped: the addresses stay ours, the contents stay the object's. */
    assert_true(os_object_unmap(p + 512 * KIB, 512 * KIB));
    assert_true(os_commit(p + 512 * KIB, 512 * KIB));
    assert_true(probe_all_bytes(p + 512 * KIB, 0, 512 * KIB));
    assert_true(os_object_map(object, 512 * KIB, p + 512 * KIB, 512 * KIB));
    assert_true(probe_all_bytes(p + 512 * KIB, 2, 512 * KIB));
    assert_true(os_object_discard(object, 512 * KIB, 256 * KIB));
    assert_true(probe_all_bytes(p + MIB, 0, 256 * KIB) && probe_all_bytes(p + MIB + 256 * KIB, 2, 256 * KIB));
    assert_true(os_object_resize(object, 2 * MIB));
    assert_true(os_object_map(object, MIB, p, MIB));
    assert_true(probe_all_bytes(p, 0, MIB));
    os_object_close(object);
    memset(p, 3, MIB); /* a mapping outlives the handle */
    os_release(p, 2 * MIB);
}

static void cpus_are_those_that_the_process_may_use(void **state)
{
    (void)state;
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    assert_int_equal(os_cpu_count(), CPU_COUNT(&set));
}

static void populated_memory_is_there_and_keeps_its_contents(void **state)
{
    (void)state;
    char *p = os_reserve(MIB, 4096);
    assert_non_null(p);
    assert_true(os_commit(p, MIB));
    p[4096] = 7;
    if (!os_populate(p, 65536)) skip(); /* a kernel before 5.14 */
    assert_int_equal(probe_resident(p, MIB), 65536);
    assert_true(p[0] == 0 && p[4096] == 7);
    os_release(p, MIB);
}

static void *id_of_thread(void *unused)
{
    (void)unused;
    return (void *)os_thread_id();
}

static void living_threads_have_different_ids(void **state)
{
    (void)state;
    pthread_t t;
    void *other = NULL;
    assert_int_equal(pthread_create(&t, NULL, id_of_thread, NULL), 0);
    pthread_join(t, &other);
    assert_true(os_thread_id() != 0 && os_thread_id() == os_thread_id());
    assert_true((uintptr_t)other != 0 && (uintptr_t)other != os_thread_id());
    assert_int_equal(os_process_id(), getpid());
}

static uint32_t gate;
static void *waits_at_the_gate(void *unused)
{
    (void)unused;
    while (__atomic_load_n(&gate, __ATOMIC_ACQUIRE) == 0) os_wait(&gate, 0);
    return NULL;
}

static void a_waiter_is_woken_and_a_stale_wait_returns(void **state)
{
    (void)state;
    uint32_t word = 5;
    os_wait(&word, 4); /* would hang if it slept */
    pthread_t t[3];
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&t[i], NULL, waits_at_the_gate, NULL), 0);
    nanosleep(&(struct timespec){0, 20000000}, NULL);
    __atomic_store_n(&gate, 1, __ATOMIC_RELEASE);
    os_wake_one(&gate);
    os_wake_all(&gate);
    for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
}

static void a_message_is_written_whole_and_errno_is_kept(void **state)
{
    (void)state;
    int ends[2];
    char got[16] = {0};
    assert_int_equal(pipe(ends), 0);
    errno = 4711;
    os_write(ends[1], "thirteen byte", 13);
    close(ends[1]);
    assert_int_equal(read(ends[0], got, sizeof got), 13);
    assert_string_equal(got, "thirteen byte");
    close(ends[0]);
    os_write(-1, "x", 1); /* does not hang */
    assert_int_equal(errno, 4711);
}

static void misuses_by_default(void) { misuse(ACRE_DOUBLE_FREE, "free", (void *)0x7f12abc0); }
static void misuses_and_goes_on(void)
{
    misuse_set_policy(MISUSE_REPORT);
    if (misuse(ACRE_FOREIGN_POINTER, "realloc", (void *)0x10) == ACRE_FOREIGN_POINTER && misuse_count() == 1) abort();
}

static void misuse_names_the_call_and_the_pointer_and_aborts(void **state)
{
    (void)state;
    assert_true(probe_aborts(misuses_by_default, "acre: free(0x7f12abc0): the block is free already\n"));
    assert_true(probe_aborts(misuses_and_goes_on, "acre: realloc(0x10): "));
    misuse_set_policy(MISUSE_IGNORE);
    uint64_t before = misuse_count();
    assert_int_equal(misuse(ACRE_DOUBLE_FREE, "free", NULL), ACRE_DOUBLE_FREE);
    assert_int_equal(misuse_count(), before + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(under_a_data_limit_commits_are_real_and_charged),
        cmocka_unit_test(page_size_is_the_systems),
        cmocka_unit_test(reserved_memory_is_aligned_as_asked_and_reads_zero),
        cmocka_unit_test(address_space_costs_no_memory),
        cmocka_unit_test(impossible_reservations_return_null_and_say_why),
        cmocka_unit_test(decommitted_memory_is_gone_and_reads_zero_again),
        cmocka_unit_test(released_addresses_are_gone),
        cmocka_unit_test(locked_memory_is_not_decommitted_and_says_so),
        cmocka_unit_test(address_space_left_follows_the_limit),
        cmocka_unit_test(memory_of_the_machine_is_known),
        cmocka_unit_test(the_clock_never_goes_back_and_does_go_on),
        cmocka_unit_test(resident_bytes_grow_with_touched_memory),
        cmocka_unit_test(pages_move_without_copying),
        cmocka_unit_test(an_object_is_seen_through_all_its_mappings),
        cmocka_unit_test(cpus_are_those_that_the_process_may_use),
        cmocka_unit_test(populated_memory_is_there_and_keeps_its_contents),
        cmocka_unit_test(living_threads_have_different_ids),
        cmocka_unit_test(a_waiter_is_woken_and_a_stale_wait_returns),
        cmocka_unit_test(a_message_is_written_whole_and_errno_is_kept),
        cmocka_unit_test(misuse_names_the_call_and_the_pointer_and_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
