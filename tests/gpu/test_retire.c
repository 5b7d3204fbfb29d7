/* test_retire: claims about blocks that wait for the GPU, with an owner that is an array of numbers. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fake_os.h"
#include "gpu/retire.h"
#include "os/os.h"
#include "probe.h"

enum { TIMELINES = 100, BLOCKS = 4096 };

typedef struct owner {
    _Atomic uint64_t reached[TIMELINES];
    bool silent;             /* questions are not answered */
    bool deaf;               /* waits fail at once */
    _Atomic uint32_t asked, waited, done;
    uint64_t done_timeline, done_value;
    _Atomic uint32_t freed[BLOCKS]; /* times */
    uint64_t order[BLOCKS];         /* one thread: blocks as they were freed */
    _Atomic uint32_t freed_count;
    uint64_t advance;        /* a wait brings its timeline that far */
    retire_queue *queue;
    bool push_while_asked;   /* a question pushes a block that is reached already */
} owner;

static owner gpu;
static retire_queue queue;

static bool reached(void *context, uint64_t timeline, uint64_t *value)
{
    owner *o = context;
    atomic_fetch_add(&o->asked, 1);
    assert_true(lock_try(&queue.lock)); /* the driver is asked without it */
    lock_release(&queue.lock);
    if (o->silent) return false;
    *value = atomic_load(&o->reached[timeline]);
    if (o->push_while_asked) {
        o->push_while_asked = false;
        assert_true(retire_push(&queue, timeline, 1, (void *)(uintptr_t)(BLOCKS - 1)));
    }
    return true;
}

static bool wait_for(void *context, uint64_t timeline, uint64_t value, uint64_t timeout_ns)
{
    owner *o = context;
    (void)timeout_ns;
    atomic_fetch_add(&o->waited, 1);
    if (o->deaf) return false;
    if (o->advance != 0) atomic_store(&o->reached[timeline], value < o->advance ? value : o->advance);
    return value <= o->advance;
}

static void free_block(void *context, void *block)
{
    owner *o = context;
    uint32_t number = (uint32_t)(uintptr_t)block;
    assert_true(lock_try(&queue.lock));
    lock_release(&queue.lock);
    atomic_fetch_add(&o->freed[number], 1);
    uint32_t at = atomic_fetch_add(&o->freed_count, 1);
    if (at < BLOCKS) o->order[at] = number;
}

static void timeline_done(void *context, uint64_t timeline, uint64_t value)
{
    owner *o = context;
    atomic_fetch_add(&o->done, 1);
    o->done_timeline = timeline;
    o->done_value = value;
}

static void set_up(void)
{
    memset(&gpu, 0, sizeof gpu);
    retire_owner owner = {&gpu, reached, wait_for, free_block, timeline_done};
    retire_init(&queue, &owner);
}

static void push(uint64_t timeline, uint64_t value, uintptr_t block)
{
    assert_true(retire_push(&queue, timeline, value, (void *)block));
}

static void a_block_is_free_once_its_point_is_reached_and_not_before(void **state)
{
    (void)state;
    set_up();
    push(1, 3, 10);
    push(1, 3, 11);
    push(1, 7, 12);
    push(2, 1, 13);
    assert_int_equal(retire_poll(&queue), 0);
    assert_int_equal(gpu.asked, 2); /* once per timeline */
    gpu.reached[1] = 2;
    assert_int_equal(retire_poll(&queue), 0);
    gpu.reached[1] = 3;
    assert_int_equal(retire_poll(&queue), 2);
    assert_true(gpu.order[0] == 10 && gpu.order[1] == 11);
    assert_int_equal(gpu.done, 0);
    gpu.reached[1] = UINT64_MAX; /* lost: all of it */
    assert_int_equal(retire_poll(&queue), 1);
    assert_true(gpu.done == 1 && gpu.done_timeline == 1 && gpu.done_value == 7);
    assert_int_equal(retire_count(&queue), 1);
    gpu.reached[2] = 1;
    assert_int_equal(retire_poll(&queue), 1);
    assert_int_equal(gpu.freed[13], 1);
    uint32_t asked = gpu.asked;
    assert_int_equal(retire_poll(&queue), 0);
    assert_int_equal(gpu.asked, asked); /* nothing waits: nobody is asked */
    retire_destroy(&queue);
}

static void values_may_come_in_any_order(void **state)
{
    (void)state;
    set_up();
    uint64_t random = 5, values[500];
    for (uintptr_t i = 0; i < 500; i++) push(0, values[i] = 1 + probe_random(&random) % 100, i);
    for (uint64_t now = 1; now <= 100; now++) {
        gpu.reached[0] = now;
        retire_poll(&queue);
        for (uint32_t i = 0; i < 500; i++) assert_int_equal(gpu.freed[i], values[i] <= now);
    }
    for (uint32_t i = 1; i < 500; i++) assert_true(values[gpu.order[i - 1]] <= values[gpu.order[i]]);
    retire_destroy(&queue);
}

static void more_timelines_than_are_asked_at_once(void **state)
{
    (void)state;
    set_up();
    for (uintptr_t round = 0; round < 3; round++) {
        for (uintptr_t t = 0; t < TIMELINES; t++) push(t, round + 1, round * TIMELINES + t);
        gpu.asked = 0;
        assert_int_equal(retire_poll(&queue), 0);
        assert_int_equal(gpu.asked, TIMELINES);
        for (uint32_t t = 0; t < TIMELINES; t++) gpu.reached[t] = round + 1;
        assert_int_equal(retire_poll(&queue), TIMELINES);
        assert_int_equal(gpu.done, (round + 1) * TIMELINES);
    }
    retire_destroy(&queue);
}

static void an_error_retires_nothing(void **state)
{
    (void)state;
    set_up();
    push(0, 1, 1);
    gpu.reached[0] = 5;
    gpu.silent = true;
    assert_int_equal(retire_poll(&queue), 0);
    gpu.deaf = true;
    assert_false(retire_wait(&queue, UINT64_MAX)); /* comes back, for nothing is ever going to happen */
    assert_false(retire_drain(&queue, UINT64_MAX));
    assert_int_equal(retire_count(&queue), 1);
    gpu.silent = false;
    assert_true(retire_drain(&queue, 0));
    assert_int_equal(gpu.freed[1], 1);
    retire_destroy(&queue);
}

static void what_comes_after_the_question_waits_for_the_next_one(void **state)
{
    (void)state;
    set_up();
    push(3, 1, 1);
    gpu.reached[3] = 1;
    gpu.push_while_asked = true;
    assert_int_equal(retire_poll(&queue), 1);
    assert_int_equal(gpu.freed[BLOCKS - 1], 0); /* the timeline may have been recycled in between */
    assert_int_equal(gpu.done, 0);
    assert_int_equal(retire_poll(&queue), 1);
    assert_int_equal(gpu.freed[BLOCKS - 1], 1);
    assert_int_equal(gpu.done, 1);
    retire_destroy(&queue);
}

static void waiting_waits_for_the_first_and_draining_for_all(void **state)
{
    (void)state;
    set_up();
    assert_false(retire_wait(&queue, UINT64_MAX)); /* nothing pending */
    assert_true(retire_drain(&queue, 0));
    push(4, 1, 1);
    push(4, 2, 2);
    gpu.advance = 1;
    assert_false(retire_wait(&queue, 0));
    assert_int_equal(gpu.waited, 0); /* no time, no wait */
    assert_true(retire_wait(&queue, UINT64_MAX));
    assert_true(gpu.waited == 1 && gpu.freed[1] == 1 && gpu.freed[2] == 0);
    assert_false(retire_drain(&queue, 1000000));
    push(5, 9, 3);
    gpu.advance = 100;
    assert_true(retire_drain(&queue, UINT64_MAX));
    assert_true(gpu.freed[2] == 1 && gpu.freed[3] == 1 && gpu.freed_count == 3);
    queue.owner.wait = NULL; /* polling will do */
    push(4, 101, 4);
    assert_false(retire_wait(&queue, 1000000));
    gpu.reached[4] = 101;
    assert_true(retire_wait(&queue, 1000000));
    retire_destroy(&queue);
}

static void reserved_pushes_cannot_fail_and_others_are_told(void **state)
{
    (void)state;
    fake_os_install();
    set_up();
    assert_true(retire_reserve(&queue, 300));
    fake_os_fail(FAKE_ANY, 1, true);
    for (uintptr_t i = 0; i < 300; i++) push(i % TIMELINES, i, i);
    uint64_t count = 300;
    while (count < 1000000 && retire_push(&queue, 0, count, (void *)1)) count++;
    assert_true(count < 1000000);
    assert_int_equal(retire_count(&queue), count);
    assert_false(retire_reserve(&queue, 1000000));
    fake_os_fail(FAKE_ANY, 0, false);
    for (uint32_t t = 0; t < TIMELINES; t++) gpu.reached[t] = UINT64_MAX;
    assert_int_equal(retire_poll(&queue), count);
    assert_int_equal(gpu.freed[299], 1);
    retire_destroy(&queue);
    fake_os_remove();
}

static void entries_are_reused(void **state)
{
    (void)state;
    set_up();
    push(0, 1, 1);
    gpu.reached[0] = 1;
    retire_poll(&queue);
    retire_chunk *chunks = queue.chunks;
    for (uint64_t i = 2; i < 10000; i++) {
        push(i % 7, i, 2);
        gpu.reached[i % 7] = i;
        assert_int_equal(retire_poll(&queue), 1);
    }
    assert_ptr_equal(queue.chunks, chunks);
    retire_destroy(&queue);
}

/* --- threads ---------------------------------------------------------------------------------------------------- */

enum { THREADS = 3, PER_THREAD = 1000 };
static atomic_uint early;

static void free_block_checked(void *context, void *block)
{
    uint32_t number = (uint32_t)(uintptr_t)block;
    owner *o = context;
    /* Block b waits for value b / 8 + 1 of timeline b % 4. */
    if (atomic_load(&o->reached[number % 4]) < number / 8 + 1) atomic_fetch_add(&early, 1);
    atomic_fetch_add(&o->freed[number], 1);
}

static bool reached_checked(void *context, uint64_t timeline, uint64_t *value)
{
    *value = atomic_load(&((owner *)context)->reached[timeline]);
    return true;
}

static void *push_and_poll(void *context)
{
    uintptr_t first = (uintptr_t)context * PER_THREAD;
    for (uintptr_t i = first; i < first + PER_THREAD; i++) {
        if (!retire_push(&queue, i % 4, i / 8 + 1, (void *)i)) return (void *)1;
        if (i % 16 == 0) atomic_fetch_add(&gpu.reached[i / 16 % 4], 7);
        if (i % 4 == 0) retire_poll(&queue);
        if (i % 100 == 0) retire_wait(&queue, 1000);
    }
    return NULL;
}

static void threads_free_each_block_once_and_never_early(void **state)
{
    (void)state;
    memset(&gpu, 0, sizeof gpu);
    retire_owner owner = {.context = &gpu, .reached = reached_checked, .free_block = free_block_checked};
    retire_init(&queue, &owner);
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, push_and_poll, (void *)i), 0);
    for (int i = 0; i < THREADS; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
    for (int i = 0; i < 4; i++) gpu.reached[i] = UINT64_MAX;
    assert_true(retire_drain(&queue, UINT64_MAX));
    for (uint32_t i = 0; i < THREADS * PER_THREAD; i++) assert_int_equal(gpu.freed[i], 1);
    assert_int_equal(early, 0);
    assert_int_equal(retire_count(&queue), 0);
    retire_destroy(&queue);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_block_is_free_once_its_point_is_reached_and_not_before),
        cmocka_unit_test(values_may_come_in_any_order),
        cmocka_unit_test(more_timelines_than_are_asked_at_once),
        cmocka_unit_test(an_error_retires_nothing),
        cmocka_unit_test(what_comes_after_the_question_waits_for_the_next_one),
        cmocka_unit_test(waiting_waits_for_the_first_and_draining_for_all),
        cmocka_unit_test(reserved_pushes_cannot_fail_and_others_are_told),
        cmocka_unit_test(entries_are_reused),
        cmocka_unit_test(threads_free_each_block_once_and_never_early),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
