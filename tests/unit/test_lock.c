/* test_lock: the four-byte mutex excludes, wakes, and survives fork. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <time.h>

#include <cmocka.h>

#include "os/lock.h"
#include "probe.h"

enum { THREADS = 8 };

static lock the_lock;
static uint64_t counter; /* guarded by the_lock */

static void zero_bytes_are_an_unlocked_lock(void **state)
{
    (void)state;
    lock l;
    memset(&l, 0, sizeof l);
    assert_int_equal(sizeof l, 4);
    assert_true(lock_try(&l));
    assert_false(lock_try(&l));
    lock_release(&l);
    lock_acquire(&l);
    assert_false(lock_try(&l));
    lock_release(&l);
    assert_int_equal(atomic_load(&l.word), 0);
}

static void *counts_up(void *rounds)
{
    for (uintptr_t i = 0; i < (uintptr_t)rounds; i++) {
        if (i % 7 == 0) {
            while (!lock_try(&the_lock)) os_yield();
        } else {
            lock_acquire(&the_lock);
        }
        counter++;
        if (i % 64 == 0) os_yield(); /* held while others come: they must sleep */
        lock_release(&the_lock);
    }
    return NULL;
}

static void threads_exclude_each_other(void **state)
{
    (void)state;
    const uintptr_t rounds = PROBE_TSAN ? 5000 : 50000;
    pthread_t t[THREADS];
    counter = 0;
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&t[i], NULL, counts_up, (void *)rounds), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    assert_int_equal(counter, rounds * THREADS);
    assert_int_equal(atomic_load(&the_lock.word), 0);
}

static void a_sleeper_is_woken_by_release(void **state)
{
    (void)state;
    pthread_t t;
    counter = 0;
    lock_acquire(&the_lock);
    assert_int_equal(pthread_create(&t, NULL, counts_up, (void *)(uintptr_t)2), 0);
    /* It takes the first by trying; let it in, then make it sleep in the second. */
    lock_release(&the_lock);
    lock_acquire(&the_lock);
    nanosleep(&(struct timespec){0, 30000000}, NULL);
    lock_release(&the_lock);
    pthread_join(t, NULL);
    assert_int_equal(counter, 2);
}

static void *sleeps_for_the_lock(void *unused)
{
    (void)unused;
    lock_acquire(&the_lock);
    lock_release(&the_lock);
    return NULL;
}

static void errno_survives_sleeping_and_waking(void **state)
{
    (void)state;
    pthread_t t[2];
    lock_acquire(&the_lock);
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&t[i], NULL, sleeps_for_the_lock, NULL), 0);
    while (atomic_load(&the_lock.word) != 2) os_yield();
    errno = 4711;
    lock_release(&the_lock);
    lock_acquire(&the_lock);
    lock_release(&the_lock);
    assert_int_equal(errno, 4711);
    for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
}

static void resets_and_takes(void)
{
    CHECK(!lock_try(&the_lock));
    lock_reset(&the_lock);
    CHECK(lock_try(&the_lock));
    lock_release(&the_lock);
}

static void a_child_resets_what_its_parent_held(void **state)
{
    (void)state;
    lock_acquire(&the_lock);
    assert_int_equal(probe_in_child(resets_and_takes), 0);
    assert_false(lock_try(&the_lock)); /* the parent's is untouched */
    lock_release(&the_lock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zero_bytes_are_an_unlocked_lock),
        cmocka_unit_test(threads_exclude_each_other),
        cmocka_unit_test(a_sleeper_is_woken_by_release),
        cmocka_unit_test(errno_survives_sleeping_and_waking),
        cmocka_unit_test(a_child_resets_what_its_parent_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
