/* Memory held by something like a training step: forward, a block per layer that stays and one that does not; backward,
 * the opposite; another sequence length each time; a GPU that is a step behind. What is held is compared with the most
 * that was live at once, which nobody can go below. */
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

enum { LAYERS = 12, PER_LAYER = 6, WEIGHTS = 50, STEPS = 50, WARM = 35 };

typedef struct trainer {
    acre_cuda *heap;
    void *stream;
    uint64_t seed, live, live_peak;
} trainer;

static uint64_t next_random(trainer *t, uint64_t below)
{
    t->seed ^= t->seed << 13;
    t->seed ^= t->seed >> 7;
    t->seed ^= t->seed << 17;
    return t->seed % below;
}

static void *take(trainer *t, uint64_t bytes)
{
    void *block = NULL;
    assert_int_equal(acre_cuda_alloc(t->heap, bytes, 0, 0, t->stream, &block), ACRE_OK);
    fake_cuda_block(block, bytes);
    fake_cuda_use(t->stream, block, bytes);
    t->live += bytes;
    if (t->live > t->live_peak) t->live_peak = t->live;
    return block;
}

static void give(trainer *t, void *block, uint64_t bytes)
{
    assert_int_equal(acre_cuda_free(t->heap, block, t->stream), ACRE_OK);
    t->live -= bytes;
}

static void train_once(trainer *t)
{
    uint64_t length = 64 + next_random(t, 16) * 64, bytes[LAYERS * PER_LAYER];
    void *kept[LAYERS * PER_LAYER];
    const uint64_t shapes[PER_LAYER] = {length * 2048, length * 8192, length * length * 32,
                                        length * 2048, length * 8192, 4096};
    for (int i = 0; i < LAYERS * PER_LAYER; i++) {
        bytes[i] = shapes[i % PER_LAYER];
        kept[i] = take(t, bytes[i]);
        uint64_t scratch = 2 * shapes[next_random(t, PER_LAYER)];
        give(t, take(t, scratch), scratch);
    }
    for (int i = LAYERS * PER_LAYER - 1; i >= 0; i--) {
        void *gradient = take(t, bytes[i]);
        give(t, kept[i], bytes[i]);
        give(t, gradient, bytes[i]);
    }
}

/* The most held, in percent of the most live. */
static double train(bool wait, uint64_t *late_creates)
{
    fake_cuda_start(&(fake_cuda_options){.manual = true, .device_bytes = 16 * GIB});
    trainer t = {.stream = fake_cuda_stream(), .seed = 88172645463325252u};
    acre_cuda_options o = {.symbol = fake_cuda_symbol, .wait_before_growth = wait,
                           .empty_delay_ms = UINT32_MAX}; /* however slow the machine */
    assert_int_equal(acre_cuda_create(&o, &t.heap, NULL), ACRE_OK);
    for (int i = 0; i < WEIGHTS; i++) take(&t, 8 * MIB);
    uint64_t warm = 0;
    for (int step = 0; step < STEPS; step++) {
        if (step == WARM) warm = fake_cuda_calls("cuMemCreate");
        train_once(&t);
        if (step % 2 != 0) fake_cuda_run(t.stream, 500);
        assert_int_equal(acre_cuda_tick(t.heap), ACRE_OK);
    }
    *late_creates = fake_cuda_calls("cuMemCreate") - warm;
    acre_cuda_info info;
    assert_int_equal(acre_cuda_info_read(t.heap, &info), ACRE_OK);
    const char *wrong = acre_cuda_check(t.heap);
    if (wrong != NULL) fail_msg("%s", wrong);
    acre_cuda_destroy(t.heap);
    assert_int_equal(fake_cuda_stop(), 0);
    return 100.0 * (double)info.heap.held_peak_bytes / (double)t.live_peak;
}

static void little_more_is_held_than_was_live(void **state)
{
    uint64_t creates;
    (void)state;
    double percent = train(false, &creates);
    print_message("held %.1f%% of live at the peak, %u pages created in the last steps\n", percent, (unsigned)creates);
    assert_true(percent < 108.0 && creates < 50);
}

static void nearly_nothing_more_if_growth_may_wait(void **state)
{
    uint64_t creates;
    (void)state;
    double percent = train(true, &creates);
    print_message("held %.1f%% of live at the peak, %u pages created in the last steps\n", percent, (unsigned)creates);
    assert_true(percent < 101.0 && creates < 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(little_more_is_held_than_was_live),
        cmocka_unit_test(nearly_nothing_more_if_growth_may_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
