/* Reuse in the order of streams. The fake driver's streams stand still until the test (or a wait) moves them, and its
 * checker reports a kernel on memory that an older block's kernel may still use, and pages taken from under a
 * kernel. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "acre/cuda.h"
#include "base/bits.h"
#include "fake_cuda.h"
#include "page/arena.h"

static acre_cuda *heap;

static void create_on(const fake_cuda_options *device, const acre_cuda_options *options)
{
    fake_cuda_start(device);
    acre_cuda_options o = options != NULL ? *options : (acre_cuda_options){0};
    o.symbol = fake_cuda_symbol;
    assert_int_equal(acre_cuda_create(&o, &heap, NULL), ACRE_OK);
}

static void create(const acre_cuda_options *options, uint64_t device_bytes)
{
    create_on(&(fake_cuda_options){.manual = true, .device_bytes = device_bytes}, options);
}

static int end(void **state)
{
    (void)state;
    const char *wrong = acre_cuda_check(heap);
    if (wrong != NULL) print_message("%s\n", wrong);
    acre_cuda_destroy(heap);
    heap = NULL;
    uint64_t problems = fake_cuda_stop();
    return wrong != NULL || problems != 0;
}

static char *alloc(uint64_t bytes, void *stream)
{
    void *block = NULL;
    assert_int_equal(acre_cuda_alloc(heap, bytes, 0, 0, stream, &block), ACRE_OK);
    fake_cuda_block(block, bytes);
    return block;
}

static void release(void *block, void *stream) { assert_int_equal(acre_cuda_free(heap, block, stream), ACRE_OK); }

static acre_cuda_info info(void)
{
    acre_cuda_info i;
    assert_int_equal(acre_cuda_info_read(heap, &i), ACRE_OK);
    return i;
}

static void the_checker_sees_reuse_that_is_too_early(void **state)
{
    (void)state;
    create_on(&(fake_cuda_options){.manual = true, .quiet = true}, NULL);
    void *s = fake_cuda_stream(), *t = fake_cuda_stream();
    char *a = alloc(MIB, s);
    fake_cuda_use(s, a, MIB);
    fake_cuda_block(a, MIB); /* as if somebody gave it out again */
    fake_cuda_use(s, a, MIB);
    assert_int_equal(fake_cuda_problems(), 0);
    fake_cuda_use(t, a, MIB);
    assert_int_equal(fake_cuda_problems(), 1);
    acre_cuda_destroy(heap);
    heap = NULL;
    fake_cuda_stop();
}

static void the_checker_sees_misuse_of_pages(void **state)
{
    (void)state;
    fake_cuda_start(&(fake_cuda_options){.quiet = true});
    int (*unmap)(unsigned long long, size_t);
    void *symbol = fake_cuda_symbol(NULL, "cuMemUnmap");
    memcpy(&unmap, &symbol, sizeof unmap);
    assert_int_not_equal(unmap(4096, 2 * MIB), 0);
    assert_int_equal(fake_cuda_problems(), 1);
    fake_cuda_use(NULL, (void *)4096, 1); /* done at once, and nothing is there */
    assert_int_equal(fake_cuda_problems(), 2);
    fake_cuda_stop();
}

static void the_same_stream_reuses_at_once(void **state)
{
    (void)state;
    create(NULL, 0);
    void *s = fake_cuda_stream();
    char *a = alloc(10 * MIB, s);
    fake_cuda_use(s, a, 10 * MIB);
    release(a, s);
    uint64_t calls = fake_cuda_calls("cuMemCreate");
    char *b = alloc(4 * MIB, s), *c = alloc(6 * MIB, s); /* split */
    assert_ptr_equal(b, a);
    assert_ptr_equal(c, a + 4 * MIB);
    assert_int_equal(fake_cuda_calls("cuMemCreate"), calls);
    fake_cuda_use(s, b, 4 * MIB);
    fake_cuda_use(s, c, 6 * MIB);
    release(b, s);
    release(c, s);
    assert_ptr_equal(alloc(10 * MIB, s), a); /* merged */
}

static void another_stream_gets_pages_only_after_the_gpu(void **state)
{
    (void)state;
    create(NULL, 64 * MIB);
    void *s = fake_cuda_stream(), *t = fake_cuda_stream();
    char *a = alloc(30 * MIB, s);
    fake_cuda_use(s, a, 30 * MIB);
    release(a, s);
    /* There is other memory: nobody waits. */
    char *b = alloc(20 * MIB, t);
    fake_cuda_use(t, b, 20 * MIB);
    assert_int_equal(info().heap.held_bytes, 50 * MIB);
    assert_int_equal(info().growth_waits, 0);
    /* There is not: the request waits for stream s, and takes its pages. */
    char *c = alloc(30 * MIB, t);
    fake_cuda_use(t, c, 30 * MIB);
    assert_int_equal(info().growth_waits, 1);
    assert_true(info().heap.held_bytes <= 64 * MIB);
    release(b, t);
    release(c, t);
}

static void growth_waits_if_the_program_wishes_so(void **state)
{
    (void)state;
    create(&(acre_cuda_options){.wait_before_growth = true}, 0);
    void *s = fake_cuda_stream(), *t = fake_cuda_stream();
    char *a = alloc(30 * MIB, s);
    fake_cuda_use(s, a, 30 * MIB);
    release(a, s);
    char *b = alloc(30 * MIB, t);
    fake_cuda_use(t, b, 30 * MIB);
    assert_int_equal(info().heap.held_bytes, 30 * MIB);
    release(b, t);
}

static void a_free_on_another_stream_is_pending(void **state)
{
    (void)state;
    create(NULL, 0);
    void *s = fake_cuda_stream(), *t = fake_cuda_stream();
    char *a = alloc(MIB, s);
    fake_cuda_use(t, a, MIB);
    release(a, t);
    assert_int_equal(acre_cuda_free(heap, a, t), ACRE_FOREIGN_POINTER);
    assert_int_equal(info().heap.pending_bytes, MIB);
    char *b = alloc(MIB, s);
    assert_ptr_not_equal(b, a);
    fake_cuda_run(t, UINT64_MAX);
    assert_int_equal(acre_cuda_tick(heap), ACRE_OK);
    assert_int_equal(info().heap.pending_bytes, 0);
    char *c = alloc(MIB, s);
    assert_ptr_equal(c, a);
    fake_cuda_use(s, c, MIB);
    release(b, s);
    release(c, s);
}

static void recorded_uses_are_all_waited_for(void **state)
{
    (void)state;
    create(NULL, 0);
    void *home = fake_cuda_stream(), *streams[12];
    char *a = alloc(MIB, home);
    for (int i = 0; i < 12; i++) {
        streams[i] = fake_cuda_stream();
        fake_cuda_use(streams[i], a, MIB);
        assert_int_equal(acre_cuda_record_use(heap, a, streams[i]), ACRE_OK);
        assert_int_equal(acre_cuda_record_use(heap, a, streams[i]), ACRE_OK);
    }
    assert_int_equal(acre_cuda_record_use(heap, a, home), ACRE_OK);
    release(a, home);
    for (int i = 11; i >= 0; i--) {
        assert_int_equal(acre_cuda_tick(heap), ACRE_OK);
        assert_int_equal(info().heap.pending_bytes, MIB);
        fake_cuda_run(streams[i], UINT64_MAX);
    }
    for (int i = 0; i < 12; i++) assert_int_equal(acre_cuda_tick(heap), ACRE_OK);
    assert_int_equal(info().heap.pending_bytes, 0);
    assert_int_equal(acre_cuda_record_use(heap, a, streams[0]), ACRE_FOREIGN_POINTER);
}

static void events_are_few(void **state)
{
    (void)state;
    create(NULL, 0);
    void *s = fake_cuda_stream(), *t = fake_cuda_stream();
    for (int i = 0; i < 1000; i++) {
        char *a = alloc(64 * KIB, s);
        fake_cuda_use(t, a, 64 * KIB);
        assert_int_equal(acre_cuda_record_use(heap, a, t), ACRE_OK);
        release(a, s);
    }
    assert_true(info().events_recorded <= 2);
    assert_true(fake_cuda_calls("cuEventQuery") < 100);
    fake_cuda_run_all();
    for (int i = 0; i < 3; i++, fake_cuda_run_all()) assert_int_equal(acre_cuda_tick(heap), ACRE_OK);
    assert_int_equal(info().heap.pending_bytes, 0);
}

static void pending_blocks_are_waited_for_before_a_request_fails(void **state)
{
    (void)state;
    create(NULL, 64 * MIB);
    void *s = fake_cuda_stream(), *t = fake_cuda_stream();
    char *a = alloc(50 * MIB, s);
    fake_cuda_use(t, a, 50 * MIB);
    release(a, t);
    char *b = alloc(50 * MIB, s);
    fake_cuda_use(s, b, 50 * MIB);
    release(b, s);
}

static void a_shared_block_is_unmapped_after_the_gpu(void **state)
{
    (void)state;
    create(NULL, 0);
    void *s = fake_cuda_stream(), *first = NULL, *view = NULL;
    acre_cuda_request q = {.bytes = 8 * MIB, .flags = ACRE_CUDA_OWN_PAGES, .stream = s};
    assert_int_equal(acre_cuda_alloc_request(heap, &q, &first), ACRE_OK);
    assert_int_equal(acre_cuda_share(heap, first, 0, 8 * MIB, 0, s, &view), ACRE_OK);
    fake_cuda_use(s, view, 8 * MIB);
    fake_cuda_use(s, first, 8 * MIB);
    release(view, s);
    release(first, s);
    assert_int_equal(acre_cuda_trim(heap, 0, false, NULL), ACRE_OK);
    assert_int_equal(fake_cuda_used_bytes(), 8 * MIB);
    assert_int_equal(acre_cuda_trim(heap, 0, true, NULL), ACRE_OK);
    assert_int_equal(fake_cuda_used_bytes(), 0);
}

static void shrinking_leaves_nothing_to_a_kernel(void **state)
{
    (void)state;
    create(NULL, 0);
    void *s = fake_cuda_stream(), *own = NULL;
    acre_cuda_request q = {.bytes = 16 * MIB, .flags = ACRE_CUDA_OWN_PAGES, .stream = s};
    assert_int_equal(acre_cuda_alloc_request(heap, &q, &own), ACRE_OK);
    char *plain = alloc(16 * MIB, s);
    fake_cuda_use(s, own, 16 * MIB);
    fake_cuda_use(s, plain, 16 * MIB);
    assert_int_equal(acre_cuda_resize(heap, own, 4 * MIB), ACRE_OK);
    fake_cuda_use(s, plain, 16 * MIB);
    assert_int_equal(acre_cuda_resize(heap, plain, 4 * MIB), ACRE_OK);
    assert_int_equal(acre_cuda_trim(heap, 0, true, NULL), ACRE_OK);
    assert_int_equal(info().heap.empty_bytes, 0);
    release(own, s);
    release(plain, s);
}

static void sleep_waits_for_the_gpu(void **state)
{
    (void)state;
    create(NULL, 0);
    void *s = fake_cuda_stream();
    char *a = alloc(8 * MIB, s);
    fake_cuda_use(s, a, 8 * MIB);
    assert_int_equal(acre_cuda_sleep(heap, 0, NULL, NULL), ACRE_OK);
    assert_int_equal(fake_cuda_used_bytes(), 0);
    assert_int_equal(acre_cuda_wake(heap, 0, NULL, NULL), ACRE_OK);
    fake_cuda_use(s, a, 8 * MIB);
    release(a, s);
}

/* --- streams that come and go ------------------------------------------------------------------------------------ */

static void a_new_stream_inherits_the_lane_of_an_old_one(void **state)
{
    (void)state;
    create(NULL, 0);
    void *s = fake_cuda_stream();
    char *a = alloc(20 * MIB, s);
    fake_cuda_use(s, a, 20 * MIB);
    release(a, s);
    assert_int_equal(acre_cuda_stream_done(heap, s), ACRE_OK);
    assert_int_equal(acre_cuda_stream_done(heap, s), ACRE_OK);
    void *busy = fake_cuda_stream();
    char *b = alloc(20 * MIB, busy); /* the old stream's work is not done: other memory */
    fake_cuda_use(busy, b, 20 * MIB);
    assert_ptr_not_equal(b, a);
    fake_cuda_stream_destroy(s);
    void *t = fake_cuda_stream();
    char *c = alloc(20 * MIB, t);
    assert_ptr_equal(c, a);
    fake_cuda_use(t, c, 20 * MIB);
    assert_int_equal(info().lanes, 2);
    release(b, busy);
    release(c, t);
}

static void blocks_outlive_their_stream(void **state)
{
    (void)state;
    create(NULL, 0);
    void *s = fake_cuda_stream(), *t = fake_cuda_stream();
    char *a = alloc(20 * MIB, s);
    fake_cuda_use(s, a, 20 * MIB);
    assert_int_equal(acre_cuda_stream_done(heap, s), ACRE_OK);
    fake_cuda_stream_destroy(s);
    fake_cuda_use(t, a, 20 * MIB);
    release(a, t);
    fake_cuda_run_all();
    for (int i = 0; i < 2; i++) assert_int_equal(acre_cuda_tick(heap), ACRE_OK);
    assert_int_equal(info().heap.pending_bytes, 0);
    assert_int_equal(acre_cuda_trim(heap, 0, true, NULL), ACRE_OK);
    assert_int_equal(fake_cuda_used_bytes(), 0);
}

static void more_streams_than_lanes_share_one(void **state)
{
    (void)state;
    create(&(acre_cuda_options){.reserve_bytes = 1}, 256 * MIB);
    void *streams[6];
    char *blocks[6];
    for (int i = 0; i < 6; i++) {
        streams[i] = fake_cuda_stream();
        blocks[i] = alloc(3 * MIB, streams[i]);
        fake_cuda_use(streams[i], blocks[i], 3 * MIB);
    }
    assert_int_equal(info().lanes, 1);
    for (int i = 0; i < 6; i++) release(blocks[i], streams[i]);
    assert_int_equal(info().heap.pending_bytes, 18 * MIB);
    for (int i = 0; i < 6; i++) {
        blocks[i] = alloc(40 * MIB, streams[i]); /* waits for the others in the end */
        fake_cuda_use(streams[i], blocks[i], 40 * MIB);
    }
    for (int i = 0; i < 6; i++) release(blocks[i], streams[i]);
}

static void destroy_takes_what_is_left(void **state)
{
    size_t before, after, held;
    (void)state;
    arena_usage(&before, &held);
    create(NULL, 0);
    void *s = fake_cuda_stream(), *t = fake_cuda_stream(), *own = NULL, *view = NULL, *exported = NULL;
    for (int i = 0; i < 600; i++) {
        char *a = alloc(4096, s);
        fake_cuda_use(t, a, 4096);
        assert_int_equal(acre_cuda_record_use(heap, a, t), ACRE_OK);
        if (i % 3 == 0) release(a, s);
    }
    acre_cuda_request q = {.bytes = 8 * MIB, .flags = ACRE_CUDA_OWN_PAGES, .stream = s};
    assert_int_equal(acre_cuda_alloc_request(heap, &q, &own), ACRE_OK);
    assert_int_equal(acre_cuda_share(heap, own, 0, 4 * MIB, 0, s, &view), ACRE_OK);
    q.flags = ACRE_CUDA_EXPORTABLE;
    assert_int_equal(acre_cuda_alloc_request(heap, &q, &exported), ACRE_OK);
    assert_int_equal(acre_cuda_record_use(heap, exported, t), ACRE_OK);
    fake_cuda_use(t, exported, 8 * MIB);
    uint64_t capture;
    assert_int_equal(acre_cuda_capture_begin(heap, s, &capture), ACRE_OK);
    fake_cuda_use(s, alloc(8 * MIB, s), 8 * MIB);
    acre_cuda_destroy(heap);
    heap = NULL;
    assert_int_equal(fake_cuda_stop(), 0);
    arena_usage(&after, &held);
    assert_int_equal(after, before);
}

/* --- captures ---------------------------------------------------------------------------------------------------- */

static void a_capture_keeps_its_pages_to_itself(void **state)
{
    (void)state;
    create(NULL, 128 * MIB);
    void *s = fake_cuda_stream(), *t = fake_cuda_stream();
    uint64_t capture, second;
    char *before = alloc(4 * MIB, s);
    release(before, s);
    assert_int_equal(acre_cuda_capture_begin(heap, s, &capture), ACRE_OK);
    assert_int_equal(acre_cuda_capture_begin(heap, s, &second), ACRE_BUSY);
    fake_cuda_capture(s, true);
    char *a = alloc(30 * MIB, s);
    release(a, s);
    char *b = alloc(30 * MIB, s);
    assert_ptr_equal(b, a);      /* in order, within the capture */
    assert_ptr_not_equal(b, before);
    char *c = alloc(10 * MIB, s); /* a large hole is missing: new pages, none taken from a */
    release(b, s);
    char *d = alloc(35 * MIB, s);
    release(d, s);
    release(c, s);
    fake_cuda_capture(s, false);
    assert_int_equal(acre_cuda_capture_end(heap, capture), ACRE_OK);
    uint64_t held = info().heap.held_bytes;
    assert_int_equal(acre_cuda_trim(heap, 0, true, NULL), ACRE_OK);
    assert_true(info().heap.held_bytes + 4 * MIB >= held); /* only what was there before */
    assert_int_equal(fake_cuda_accessible(a, 30 * MIB), 30 * MIB);
    fake_cuda_use(s, a, 30 * MIB); /* a launch of the graph */
    char *e = alloc(20 * MIB, t);
    fake_cuda_use(t, e, 20 * MIB);
    assert_int_equal(acre_cuda_capture_again(heap, capture, t), ACRE_OK);
    assert_int_equal(acre_cuda_capture_release(heap, capture), ACRE_BUSY);
    char *f = alloc(30 * MIB, t);
    assert_ptr_equal(f, a);
    release(f, t);
    assert_int_equal(acre_cuda_capture_end(heap, capture), ACRE_OK);
    assert_int_equal(acre_cuda_capture_end(heap, capture), ACRE_INVALID_ARGUMENT);
    fake_cuda_run_all();
    release(e, t);
    assert_int_equal(acre_cuda_trim(heap, 0, true, NULL), ACRE_OK);
    fake_cuda_synchronize();
    assert_int_equal(acre_cuda_capture_release(heap, capture), ACRE_OK);
    assert_int_equal(info().heap.held_bytes, 0);
    assert_int_equal(acre_cuda_capture_release(heap, capture), ACRE_INVALID_ARGUMENT);
}

static void no_event_is_recorded_during_a_capture(void **state)
{
    (void)state;
    create(NULL, 64 * MIB);
    void *s = fake_cuda_stream(), *t = fake_cuda_stream();
    char *a = alloc(20 * MIB, s), *b = alloc(20 * MIB, s);
    fake_cuda_use(s, a, 20 * MIB);
    release(a, s);
    fake_cuda_capture(s, true);
    release(b, t); /* t is not captured: its event is, and the mode of the thread is relaxed meanwhile */
    void *c = NULL;
    assert_int_equal(acre_cuda_alloc(heap, 60 * MIB, 0, 0, t, &c), ACRE_NO_MEMORY);
    assert_int_equal(acre_cuda_tick(heap), ACRE_OK);
    fake_cuda_capture(s, false);
    assert_int_equal(acre_cuda_alloc(heap, 60 * MIB, 0, 0, t, &c), ACRE_OK);
    release(c, t);
}

/* --- everything at once ------------------------------------------------------------------------------------------ */

enum { STREAMS = 5, BLOCKS = 120, STEPS = 30000 };

typedef struct piece {
    char *block;
    uint64_t bytes;
    int home;
    unsigned used_on;
} piece;

static uint64_t seed = 1;

static uint64_t next_random(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

static void step(piece *pieces, void **streams)
{
    piece *p = &pieces[next_random(BLOCKS)];
    int stream = (int)next_random(STREAMS);
    if (p->block == NULL) {
        p->bytes = next_random(3) ? 1 + next_random(MIB) : 1 + next_random(12 * MIB);
        acre_cuda_request q = {.bytes = p->bytes, .stream = streams[stream]};
        if (next_random(10) == 0) q.flags = ACRE_CUDA_OWN_PAGES, q.room_bytes = 2 * p->bytes;
        void *block = NULL;
        acre_status status = acre_cuda_alloc_request(heap, &q, &block);
        assert_true(status == ACRE_OK || status == ACRE_NO_MEMORY);
        if (status != ACRE_OK) return;
        fake_cuda_block(block, p->bytes);
        *p = (piece){block, p->bytes, stream, 1u << stream};
        fake_cuda_use(streams[stream], block, p->bytes);
        return;
    }
    switch (next_random(6)) {
    case 0: /* a second stream uses it */
        fake_cuda_order(streams[p->home], streams[stream]);
        fake_cuda_use(streams[stream], p->block, p->bytes);
        assert_int_equal(acre_cuda_record_use(heap, p->block, streams[stream]), ACRE_OK);
        return;
    case 1: {
        uint64_t bytes = 1 + next_random(2 * p->bytes);
        acre_cuda_block old, now; /* what lies within the rounding was the block's before */
        assert_int_equal(acre_cuda_block_read(heap, p->block, &old), ACRE_OK);
        if (acre_cuda_resize(heap, p->block, bytes) != ACRE_OK) return;
        assert_int_equal(acre_cuda_block_read(heap, p->block, &now), ACRE_OK);
        if (now.bytes > old.bytes) fake_cuda_block(p->block + old.bytes, now.bytes - old.bytes);
        p->bytes = bytes;
        fake_cuda_use(streams[p->home], p->block, bytes);
        return;
    }
    default:
        /* Freed at home or elsewhere; who frees it elsewhere has used it at home as recorded. */
        if (next_random(3) == 0) {
            assert_int_equal(acre_cuda_record_use(heap, p->block, streams[p->home]), ACRE_OK);
            fake_cuda_order(streams[p->home], streams[stream]);
            fake_cuda_use(streams[stream], p->block, p->bytes);
            assert_int_equal(acre_cuda_free(heap, p->block, streams[stream]), ACRE_OK);
        } else {
            assert_int_equal(acre_cuda_free(heap, p->block, streams[p->home]), ACRE_OK);
        }
        p->block = NULL;
    }
}

static void random_work_is_never_reused_too_early(void **state)
{
    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        seed = 12345 + (uint64_t)variant;
        acre_cuda_options o = {.wait_before_growth = variant & 1, .reserve_bytes = variant & 2 ? 1 : 0};
        create(&o, 256 * MIB);
        void *streams[STREAMS];
        piece pieces[BLOCKS] = {{0}};
        for (int i = 0; i < STREAMS; i++) streams[i] = fake_cuda_stream();
        for (int i = 0; i < STEPS; i++) {
            step(pieces, streams);
            if (next_random(3) == 0) fake_cuda_run(streams[next_random(STREAMS)], 1 + next_random(20));
            if (next_random(200) == 0) assert_int_equal(acre_cuda_tick(heap), ACRE_OK);
            if (next_random(1000) == 0) assert_int_equal(acre_cuda_trim(heap, 0, next_random(2), NULL), ACRE_OK);
            if (i % 1000 == 0) assert_null(acre_cuda_check(heap));
            if (fake_cuda_problem() != NULL) fail_msg("step %d: %s", i, fake_cuda_problem());
        }
        if (variant < 3) assert_int_equal(end(NULL), 0);
    }
}

int main(void)
{
#define TEST(test) cmocka_unit_test_teardown(test, end)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_checker_sees_reuse_that_is_too_early),
        cmocka_unit_test(the_checker_sees_misuse_of_pages),
        TEST(the_same_stream_reuses_at_once),
        TEST(another_stream_gets_pages_only_after_the_gpu),
        TEST(growth_waits_if_the_program_wishes_so),
        TEST(a_free_on_another_stream_is_pending),
        TEST(recorded_uses_are_all_waited_for),
        TEST(events_are_few),
        TEST(pending_blocks_are_waited_for_before_a_request_fails),
        TEST(a_shared_block_is_unmapped_after_the_gpu),
        TEST(shrinking_leaves_nothing_to_a_kernel),
        TEST(sleep_waits_for_the_gpu),
        TEST(a_new_stream_inherits_the_lane_of_an_old_one),
        TEST(blocks_outlive_their_stream),
        TEST(more_streams_than_lanes_share_one),
        cmocka_unit_test(destroy_takes_what_is_left),
        TEST(a_capture_keeps_its_pages_to_itself),
        TEST(no_event_is_recorded_during_a_capture),
        TEST(random_work_is_never_reused_too_early),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
