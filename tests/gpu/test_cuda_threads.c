/* Threads and streams at once: each thread has a stream, blocks go from hand to hand, and the checker of the fake
 * driver looks at every kernel. Small enough for the thread sanitizer. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "acre/cuda.h"
#include "base/bits.h"
#include "fake_cuda.h"

enum { THREADS = 4, STEPS = 4000, SLOTS = 24 };

typedef struct parcel {
    void *block;
    uint64_t bytes;
    void *stream; /* home */
} parcel;

static acre_cuda *heap;
static void *streams[THREADS];
static _Atomic(parcel *) mail[THREADS]; /* one place each: what another thread is to free */
static _Atomic unsigned wrong;
static _Atomic bool done;

static uint64_t next_random(uint64_t *seed, uint64_t below)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed % below;
}

/* On another thread an assertion could not fail the test. */
static void expect_at(bool yes, int line)
{
    if (yes) return;
    atomic_fetch_add(&wrong, 1);
    fprintf(stderr, "test_cuda_threads: line %d does not hold\n", line);
}
#define expect(condition) expect_at(condition, __LINE__)

static void take_mail(unsigned me)
{
    parcel *p = atomic_exchange(&mail[me], NULL);
    if (p == NULL) return;
    fake_cuda_order(p->stream, streams[me]);
    fake_cuda_use(streams[me], p->block, p->bytes);
    expect(acre_cuda_free(heap, p->block, streams[me]) == ACRE_OK);
    free(p);
}

static void send(unsigned to, const parcel *p)
{
    parcel *copy = malloc(sizeof *copy), *nobody = NULL;
    *copy = *p;
    if (atomic_compare_exchange_strong(&mail[to], &nobody, copy)) return;
    free(copy);
    expect(acre_cuda_free(heap, p->block, p->stream) == ACRE_OK);
}

static void *work(void *argument)
{
    unsigned me = (unsigned)(uintptr_t)argument;
    uint64_t seed = 77 + me;
    parcel mine[SLOTS] = {{0}};
    for (int i = 0; i < STEPS; i++) {
        parcel *p = &mine[next_random(&seed, SLOTS)];
        take_mail(me);
        if (p->block == NULL) {
            uint64_t bytes = 1 + next_random(&seed, next_random(&seed, 4) ? 256 * KIB : 6 * MIB);
            acre_cuda_request q = {.bytes = bytes, .stream = streams[me]};
            if (next_random(&seed, 16) == 0) q.flags = ACRE_CUDA_OWN_PAGES;
            acre_status status = acre_cuda_alloc_request(heap, &q, &p->block);
            expect(status == ACRE_OK || status == ACRE_NO_MEMORY);
            if (status != ACRE_OK) continue;
            p->bytes = bytes;
            p->stream = streams[me];
            fake_cuda_block(p->block, bytes);
            fake_cuda_use(streams[me], p->block, bytes);
            continue;
        }
        switch (next_random(&seed, 4)) {
        case 0: send((me + 1) % THREADS, p); break;
        case 1: {
            uint64_t bytes = 1 + next_random(&seed, 2 * p->bytes);
            acre_cuda_block old, now; /* what lies within the rounding was the block's before */
            expect(acre_cuda_block_read(heap, p->block, &old) == ACRE_OK);
            if (acre_cuda_resize(heap, p->block, bytes) != ACRE_OK) continue;
            expect(acre_cuda_block_read(heap, p->block, &now) == ACRE_OK);
            if (now.bytes > old.bytes) fake_cuda_block((char *)p->block + old.bytes, now.bytes - old.bytes);
            p->bytes = bytes;
            fake_cuda_use(streams[me], p->block, bytes);
            continue;
        }
        default: expect(acre_cuda_free(heap, p->block, streams[me]) == ACRE_OK);
        }
        p->block = NULL;
    }
    for (int i = 0; i < SLOTS; i++)
        if (mine[i].block != NULL) expect(acre_cuda_free(heap, mine[i].block, streams[me]) == ACRE_OK);
    return NULL;
}

/* One more thread, that does what a program does now and then. */
static void *look_after(void *unused)
{
    char text[8192];
    (void)unused;
    for (unsigned i = 0; !atomic_load(&done); i++) {
        acre_cuda_info info;
        acre_gpu_shortage shortage;
        expect(acre_cuda_tick(heap) == ACRE_OK);
        expect(acre_cuda_info_read(heap, &info) == ACRE_OK);
        expect(acre_cuda_shortage_read(heap, &shortage) == ACRE_OK);
        if (i % 8 == 0) expect(acre_cuda_trim(heap, 16 * MIB, i % 16 == 0, NULL) == ACRE_OK);
        if (i % 8 == 4) expect(acre_cuda_report(heap, text, sizeof text) > 0);
        for (int s = 0; s < THREADS; s++) fake_cuda_run(streams[s], 50);
        sched_yield();
    }
    return NULL;
}

static void run(bool manual, bool wait, uint64_t device_bytes)
{
    fake_cuda_start(&(fake_cuda_options){.manual = manual, .device_bytes = device_bytes});
    acre_cuda_options o = {.symbol = fake_cuda_symbol, .wait_before_growth = wait, .empty_delay_ms = 20};
    assert_int_equal(acre_cuda_create(&o, &heap, NULL), ACRE_OK);
    pthread_t threads[THREADS], keeper;
    atomic_store(&done, false);
    atomic_store(&wrong, 0);
    for (int i = 0; i < THREADS; i++) streams[i] = fake_cuda_stream();
    assert_int_equal(pthread_create(&keeper, NULL, look_after, NULL), 0);
    for (uintptr_t i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, work, (void *)i), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    atomic_store(&done, true);
    pthread_join(keeper, NULL);
    for (unsigned i = 0; i < THREADS; i++) take_mail(i);
    assert_int_equal(atomic_load(&wrong), 0);
    const char *text = acre_cuda_check(heap);
    if (text != NULL) fail_msg("%s", text);
    assert_int_equal(acre_cuda_trim(heap, 0, true, NULL), ACRE_OK);
    assert_int_equal(fake_cuda_used_bytes(), 0);
    acre_cuda_destroy(heap);
    assert_int_equal(fake_cuda_stop(), 0);
}

static void threads_share_a_device(void **state)
{
    (void)state;
    run(true, false, 512 * MIB);
}

static void threads_share_a_device_that_is_too_small(void **state)
{
    (void)state;
    run(true, true, 128 * MIB);
    run(false, false, 96 * MIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_share_a_device),
        cmocka_unit_test(threads_share_a_device_that_is_too_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
