/* test_vk_threads: <acre/vulkan.h> from several threads at once, on the fake device, whose checker sees every overlap
 * and every reuse that comes too early. Runs under the thread sanitizer, too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <pthread.h>
#include <stdatomic.h>

#include <cmocka.h>

#include "vk_world.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { STEPS = 4000 };
#else
enum { STEPS = 60000 };
#endif

static _Atomic uint64_t wrong; /* cmocka's asserts are for the main thread */
static void expect(bool good)
{
    if (!good) atomic_fetch_add(&wrong, 1);
}

static acre_status quiet_take(VkDeviceSize size, const acre_vk_request *request, acre_vk_allocation *a)
{
    VkMemoryRequirements need = {size, 256, T_ALL};
    return acre_vk_alloc(w.vk, &need, request, a);
}

static void run(int count, void *(*body)(void *))
{
    pthread_t threads[8];
    atomic_store(&wrong, 0);
    for (intptr_t i = 0; i < count; i++) assert_int_equal(pthread_create(&threads[i], NULL, body, (void *)i), 0);
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&wrong), 0);
}

/* --- churn -------------------------------------------------------------------------------------------------------- */

enum { SLOTS = 64 };
static bool tolerant; /* driver calls are made to fail */

static void *churn(void *argument)
{
    uint64_t seed = (uint64_t)(intptr_t)argument * 1000 + 1;
    struct { acre_vk_allocation a; uint64_t claim; VkBuffer buffer; } slot[SLOTS];
    memset(slot, 0, sizeof slot);
    for (int step = 0; step < STEPS; step++) {
        int i = (int)(next_random(&seed) % SLOTS);
        if (slot[i].a.handle != 0) {
            uint8_t *bytes = slot[i].a.mapped;
            if (bytes != NULL) expect(bytes[0] == (uint8_t)i && bytes[slot[i].a.size - 1] == (uint8_t)i);
            if (slot[i].buffer) {
                expect(acre_vk_destroy_buffer(w.vk, slot[i].buffer, slot[i].a.handle) == ACRE_OK);
            } else {
                fake_vk_drop_claim(w.gpu, slot[i].claim);
                expect(acre_vk_free(w.vk, slot[i].a.handle) == ACRE_OK);
            }
            slot[i].a.handle = 0;
        } else if (next_random(&seed) % 4 == 0) {
            VkBufferCreateInfo info = fake_vk_buffer_info(1 + next_random(&seed) % 30000, 0);
            bool made = acre_vk_create_buffer(w.vk, &info, NULL, &slot[i].buffer, &slot[i].a) == ACRE_OK;
            expect(made || tolerant);
            if (!made) slot[i].a.handle = 0;
        } else {
            acre_vk_request request = {.usage = next_random(&seed) % 2 ? ACRE_VK_UPLOAD : ACRE_VK_GPU,
                                       .category = (uint32_t)(next_random(&seed) % 2),
                                       .flags = next_random(&seed) % 200 == 0 ? ACRE_VK_DEDICATED : 0};
            if (request.usage == ACRE_VK_UPLOAD) request.flags |= ACRE_VK_MAPPED;
            bool got = quiet_take(1 + next_random(&seed) % 20000, &request, &slot[i].a) == ACRE_OK;
            expect(got || tolerant);
            if (!got) {
                slot[i].a.handle = 0;
                continue;
            }
            slot[i].buffer = VK_NULL_HANDLE;
            slot[i].claim = fake_vk_claim(w.gpu, slot[i].a.memory, slot[i].a.offset, slot[i].a.size, true);
            if (slot[i].a.mapped) {
                ((uint8_t *)slot[i].a.mapped)[0] = (uint8_t)i;
                ((uint8_t *)slot[i].a.mapped)[slot[i].a.size - 1] = (uint8_t)i;
            }
        }
        if (step % 1000 == 999) acre_vk_collect(w.vk);
        if (step % 3000 == 2999) (void)acre_vk_trim(w.vk, 0);
        acre_vk_block_info info;
        if (slot[i].a.handle != 0) expect(acre_vk_get_info(w.vk, slot[i].a.handle, &info) == ACRE_OK);
    }
    for (int i = 0; i < SLOTS; i++) {
        if (slot[i].a.handle == 0) continue;
        if (slot[i].buffer)
            expect(acre_vk_destroy_buffer(w.vk, slot[i].buffer, slot[i].a.handle) == ACRE_OK);
        else
            fake_vk_drop_claim(w.gpu, slot[i].claim), expect(acre_vk_free(w.vk, slot[i].a.handle) == ACRE_OK);
    }
    return NULL;
}

static void two_threads_churn_without_a_clash(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "a"}, {.name = "b"}};
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 2});
    run(2, churn);
    world_check();
    assert_int_equal(all_stats().total.live_bytes, 0);
    assert_int_equal(category_stats(0).live_bytes, 0);
    assert_int_equal(category_stats(1).live_bytes, 0);
    world_close(0);
}

static void four_threads_share_one_shard(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "a"}, {.name = "b"}};
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 2, .shards = 1});
    run(4, churn);
    world_close(0);
}

static void *churn_or_plague(void *argument)
{
    if ((intptr_t)argument < 2) return churn(argument);
    uint64_t seed = 4;
    for (int step = 0; step < STEPS / 20; step++) {
        static const VkResult results[] = {VK_ERROR_OUT_OF_DEVICE_MEMORY, VK_ERROR_OUT_OF_HOST_MEMORY,
                                           VK_ERROR_UNKNOWN};
        fake_vk_fail(w.gpu, FAKE_VK_ANY, 1 + next_random(&seed) % 8, results[next_random(&seed) % 3], false);
        for (int i = 0; i < 20; i++) sched_yield();
    }
    return NULL;
}

static void two_threads_churn_while_driver_calls_fail(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "a"}, {.name = "b"}};
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 2, .cache_bytes_max = 64 * KIB,
                                        .empty_bytes_max = 1});
    tolerant = true;
    /* One before and one after the plague, for whenever the scheduler lets it run. */
    fake_vk_fail(w.gpu, FAKE_VK_ANY, 1, VK_ERROR_OUT_OF_DEVICE_MEMORY, false);
    run(3, churn_or_plague);
    fake_vk_heal(w.gpu);
    tolerant = false;
    assert_true(fake_vk_failures(w.gpu) > 0);
    assert_int_equal(all_stats().total.live_bytes, 0);
    assert_int_equal(fake_vk_live_resources(w.gpu), 0);
    world_close(0);
}

static bool look(void *context, const acre_vk_block_info *block)
{
    uint64_t *seen = context;
    expect(block->allocation.handle != 0 && block->allocation.size != 0);
    return ++*seen < 1000;
}

static void *churn_or_look(void *argument)
{
    if ((intptr_t)argument < 2) return churn(argument);
    char text[20000];
    for (int step = 0; step < STEPS / 100; step++) {
        uint64_t seen = 0;
        expect(acre_vk_walk(w.vk, look, &seen) == ACRE_OK);
        expect(acre_vk_report(w.vk, true, text, sizeof text) > 0);
        acre_vk_stats all;
        expect(acre_vk_get_stats(w.vk, &all) == ACRE_OK);
        sched_yield();
    }
    return NULL;
}

static void blocks_can_be_looked_at_while_they_come_and_go(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "a"}, {.name = "b"}};
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 2});
    run(3, churn_or_look);
    world_close(0);
}

static bool look_at_name(void *context, const acre_vk_block_info *block)
{
    (void)context;
    expect(block->name[0] == 0 || strcmp(block->name, "somebody") == 0);
    return true;
}

static _Atomic bool over;
static VkSemaphore passed;

static void *name_and_end(void *argument)
{
    if ((intptr_t)argument != 0) {
        while (!atomic_load(&over)) expect(acre_vk_walk(w.vk, look_at_name, NULL) == ACRE_OK);
        return NULL;
    }
    uint64_t seed = 11;
    for (int step = 0; step < STEPS; step++) {
        VkBufferCreateInfo info = fake_vk_buffer_info(1 + next_random(&seed) % 30000, 0);
        acre_vk_request request = {.name = "somebody", .flags = step % 16 == 0 ? ACRE_VK_DEDICATED : 0};
        acre_vk_point point = {.semaphore = passed, .value = 1};
        VkBuffer buffer;
        acre_vk_allocation a;
        bool made = acre_vk_create_buffer(w.vk, &info, &request, &buffer, &a) == ACRE_OK;
        expect(made);
        if (made) expect(acre_vk_destroy_buffer_after(w.vk, buffer, a.handle, point) == ACRE_OK);
        if (step % 16 == 0) acre_vk_collect(w.vk);
    }
    atomic_store(&over, true);
    return NULL;
}

/* A walk follows a block to its page and to its name while the block ends, its page is given back and a resource's
 * handle takes the place of the name. */
static void a_walk_survives_whatever_ends_meanwhile(void **state)
{
    (void)state;
    world_open(NULL, &(acre_vk_options){.empty_bytes_max = 1, .cache_bytes_max = 1});
    passed = new_timeline(1);
    atomic_store(&over, false);
    run(3, name_and_end);
    OK(acre_vk_drain(w.vk, 0));
    end_timeline(passed);
    world_close(0);
}

/* --- budgets ------------------------------------------------------------------------------------------------------ */

enum { BUDGET = 4 << 20 };
static _Atomic uint64_t in_use;

static void *press(void *argument)
{
    uint64_t seed = (uint64_t)(intptr_t)argument + 77;
    acre_vk_allocation a[16];
    memset(a, 0, sizeof a);
    for (int step = 0; step < STEPS; step++) {
        int i = (int)(next_random(&seed) % 16);
        if (a[i].handle != 0) {
            atomic_fetch_sub(&in_use, a[i].size);
            expect(acre_vk_free(w.vk, a[i].handle) == ACRE_OK);
            a[i].handle = 0;
            continue;
        }
        acre_status status = quiet_take(1 + next_random(&seed) % 600000, NULL, &a[i]);
        expect(status == ACRE_OK || status == ACRE_OVER_BUDGET);
        if (status != ACRE_OK)
            a[i].handle = 0;
        else
            expect(atomic_fetch_add(&in_use, a[i].size) + a[i].size <= BUDGET);
    }
    for (int i = 0; i < 16; i++) {
        if (a[i].handle == 0) continue;
        atomic_fetch_sub(&in_use, a[i].size);
        expect(acre_vk_free(w.vk, a[i].handle) == ACRE_OK);
    }
    return NULL;
}

static void a_budget_holds_exactly_while_threads_press_on_it(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "small", .budget_bytes = BUDGET}};
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 1});
    atomic_store(&in_use, 0);
    run(2, press);
    assert_true(category_stats(0).failed > 0);
    assert_int_equal(category_stats(0).live_bytes, 0);
    world_close(0);
}

/* --- handing over and points in time ------------------------------------------------------------------------------ */

enum { RING = 256 };
static struct { _Atomic uint64_t handle; } ring[RING];
static VkSemaphore timeline;
static _Atomic uint64_t frame;

/* Thread 0 allocates and lets the GPU use it, thread 1 frees after the GPU, and moves time. */
static void *hand_over(void *argument)
{
    if ((intptr_t)argument == 0) {
        uint64_t seed = 3;
        for (int step = 0; step < STEPS; step++) {
            acre_vk_allocation a;
            expect(quiet_take(1 + next_random(&seed) % 50000, NULL, &a) == ACRE_OK);
            uint64_t claim = fake_vk_claim(w.gpu, a.memory, a.offset, a.size, true);
            fake_vk_gpu_uses(w.gpu, claim, FAKE_VK_ID(timeline), atomic_load(&frame) + 2);
            fake_vk_drop_claim(w.gpu, claim);
            while (atomic_load(&ring[step % RING].handle) != 0) sched_yield();
            atomic_store(&ring[step % RING].handle, a.handle);
        }
        return NULL;
    }
    for (int step = 0; step < STEPS; step++) {
        uint64_t handle;
        while ((handle = atomic_load(&ring[step % RING].handle)) == 0) sched_yield();
        atomic_store(&ring[step % RING].handle, 0);
        uint64_t now = atomic_load(&frame);
        acre_vk_point point = {.semaphore = timeline, .value = now + 2};
        expect(acre_vk_free_after(w.vk, handle, point) == ACRE_OK);
        expect(acre_vk_free(w.vk, handle) == ACRE_DOUBLE_FREE);
        if (step % 50 != 49) continue;
        fake_vk_signal_semaphore(w.gpu, timeline, now + 1);
        atomic_store(&frame, now + 1);
        acre_vk_collect(w.vk);
    }
    return NULL;
}

static void blocks_are_handed_over_and_freed_after_the_gpu(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    memset(ring, 0, sizeof ring);
    atomic_store(&frame, 0);
    timeline = new_timeline(0);
    run(2, hand_over);
    fake_vk_signal_semaphore(w.gpu, timeline, UINT64_MAX - 1);
    OK(acre_vk_drain(w.vk, 0));
    assert_int_equal(all_stats().total.pending_bytes, 0);
    end_timeline(timeline);
    world_close(0);
}

static VkSemaphore timelines[2];

static void *own_timeline(void *argument)
{
    uint64_t seed = (uint64_t)(intptr_t)argument;
    VkSemaphore own = timelines[(intptr_t)argument];
    for (uint64_t step = 1; step <= (uint64_t)STEPS / 10; step++) {
        for (int i = 0; i < 10; i++) {
            acre_vk_allocation a;
            expect(quiet_take(1 + next_random(&seed) % 50000, NULL, &a) == ACRE_OK);
            uint64_t claim = fake_vk_claim(w.gpu, a.memory, a.offset, a.size, true);
            fake_vk_gpu_uses(w.gpu, claim, FAKE_VK_ID(own), step);
            fake_vk_drop_claim(w.gpu, claim);
            expect(acre_vk_free_after(w.vk, a.handle, (acre_vk_point){.semaphore = own, .value = step}) == ACRE_OK);
        }
        if (step > 2) fake_vk_signal_semaphore(w.gpu, own, step - 2);
        acre_vk_collect(w.vk);
    }
    fake_vk_signal_semaphore(w.gpu, own, UINT64_MAX - 1);
    while (acre_vk_drain(w.vk, 1000000) == ACRE_BUSY) sched_yield(); /* the other's may take longer */
    return NULL;
}

static void threads_collect_each_others_blocks(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    for (int i = 0; i < 2; i++) timelines[i] = new_timeline(0);
    run(2, own_timeline);
    assert_int_equal(all_stats().total.pending_bytes, 0);
    for (int i = 0; i < 2; i++) end_timeline(timelines[i]);
    world_close(0);
}

static pthread_t asker;
static _Atomic bool asking, gone;

static void ask_slowly(void *context, fake_vk_call call)
{
    (void)context;
    if (call != FAKE_VK_GetSemaphoreCounterValue || !pthread_equal(pthread_self(), asker)) return;
    atomic_store(&asking, true);
    for (int ms = 0; ms < 200 && !atomic_load(&gone); ms++) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void *collect_once(void *argument)
{
    (void)argument;
    asker = pthread_self();
    fake_vk_set_hook(w.gpu, ask_slowly, NULL);
    acre_vk_collect(w.vk);
    return NULL;
}

/* A poll asks the driver without a lock: another thread may be about to ask of a semaphore whose last block is
 * collected here. Whoever collects it waits for that thread. */
static void a_semaphore_may_go_once_its_blocks_were_collected(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkSemaphore semaphore = new_timeline(0);
    OK(acre_vk_free_after(w.vk, take(4096, NULL).handle, (acre_vk_point){.semaphore = semaphore, .value = 1}));
    atomic_store(&asking, false);
    atomic_store(&gone, false);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, collect_once, NULL), 0);
    while (!atomic_load(&asking)) sched_yield();
    fake_vk_signal_semaphore(w.gpu, semaphore, 1);
    acre_vk_collect(w.vk);
    OK(acre_vk_drain(w.vk, 1000000000));
    assert_int_equal(all_stats().total.pending_bytes, 0);
    end_timeline(semaphore);
    atomic_store(&gone, true);
    pthread_join(thread, NULL);
    fake_vk_set_hook(w.gpu, NULL, NULL);
    world_close(0);
}

/* --- the driver is called without a lock that a hit needs --------------------------------------------------------- */

static struct {
    fake_vk_call call; /* the one that stands still */
    _Atomic bool inside, released, timed_out;
} gate;

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void stand_still(void *context, fake_vk_call call)
{
    (void)context;
    if (call != gate.call || atomic_load(&gate.released)) return;
    atomic_store(&gate.inside, true);
    for (uint64_t until = now_ms() + 10000; !atomic_load(&gate.released);) {
        if (now_ms() > until) {
            atomic_store(&gate.timed_out, true);
            return;
        }
        sched_yield();
    }
}

static void *miss(void *argument)
{
    (void)argument;
    acre_vk_allocation a;
    if (gate.call == FAKE_VK_AllocateMemory) {
        acre_vk_request upload = {.usage = ACRE_VK_UPLOAD};
        expect(quiet_take(100 << 20, &upload, &a) == ACRE_OK);
        expect(acre_vk_free(w.vk, a.handle) == ACRE_OK);
    } else if (gate.call == FAKE_VK_FreeMemory) {
        (void)acre_vk_trim(w.vk, 0);
    } else if (gate.call == FAKE_VK_MapMemory) {
        acre_vk_request mapped = {.usage = ACRE_VK_UPLOAD, .flags = ACRE_VK_MAPPED | ACRE_VK_DEDICATED};
        expect(quiet_take(4096, &mapped, &a) == ACRE_OK);
        expect(acre_vk_free(w.vk, a.handle) == ACRE_OK);
    } else {
        acre_vk_collect(w.vk);
    }
    return NULL;
}

static void hits_go_on_while_another_thread_is_in_the_driver(void **state)
{
    (void)state;
    const fake_vk_call in[] = {FAKE_VK_AllocateMemory, FAKE_VK_FreeMemory, FAKE_VK_MapMemory,
                               FAKE_VK_GetSemaphoreCounterValue};
    for (size_t k = 0; k < sizeof in / sizeof *in; k++) {
        world_open(NULL, NULL);
        timeline = new_timeline(0);
        acre_vk_request upload = {.usage = ACRE_VK_UPLOAD};
        acre_vk_allocation warm[8], large = take(90 * MIB, &upload);
        for (int i = 0; i < 8; i++) warm[i] = take(4096, &upload);
        for (int i = 0; i < 4; i++) OK(acre_vk_free(w.vk, warm[i].handle));
        OK(acre_vk_free_after(w.vk, take(4096, &upload).handle, (acre_vk_point){.semaphore = timeline, .value = 1}));
        if (in[k] == FAKE_VK_FreeMemory) { /* something to give back */
            acre_vk_allocation b = take(30 * MIB, NULL);
            OK(acre_vk_free(w.vk, b.handle));
        }
        memset(&gate, 0, sizeof gate);
        gate.call = in[k];
        fake_vk_set_hook(w.gpu, stand_still, NULL);
        pthread_t thread;
        atomic_store(&wrong, 0);
        assert_int_equal(pthread_create(&thread, NULL, miss, NULL), 0);
        for (uint64_t until = now_ms() + 10000; !atomic_load(&gate.inside) && now_ms() < until;) sched_yield();
        assert_true(atomic_load(&gate.inside)); /* the other thread is in the driver, and stays there */
        acre_vk_allocation a;
        for (int i = 0; i < 1000; i++) {
            OK(quiet_take(4096, &upload, &a));
            acre_vk_block_info info;
            OK(acre_vk_get_info(w.vk, a.handle, &info));
            OK(acre_vk_free(w.vk, a.handle));
        }
        assert_false(atomic_load(&gate.timed_out));
        atomic_store(&gate.released, true);
        pthread_join(thread, NULL);
        assert_int_equal(atomic_load(&wrong), 0);
        fake_vk_set_hook(w.gpu, NULL, NULL);
        for (int i = 4; i < 8; i++) OK(acre_vk_free(w.vk, warm[i].handle));
        OK(acre_vk_free(w.vk, large.handle));
        fake_vk_signal_semaphore(w.gpu, timeline, 1);
        OK(acre_vk_drain(w.vk, 0));
        end_timeline(timeline);
        world_close(0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORLD_TEST(two_threads_churn_without_a_clash),
        WORLD_TEST(four_threads_share_one_shard),
        WORLD_TEST(two_threads_churn_while_driver_calls_fail),
        WORLD_TEST(blocks_can_be_looked_at_while_they_come_and_go),
        WORLD_TEST(a_walk_survives_whatever_ends_meanwhile),
        WORLD_TEST(a_budget_holds_exactly_while_threads_press_on_it),
        WORLD_TEST(blocks_are_handed_over_and_freed_after_the_gpu),
        WORLD_TEST(threads_collect_each_others_blocks),
        WORLD_TEST(a_semaphore_may_go_once_its_blocks_were_collected),
        WORLD_TEST(hits_go_on_while_another_thread_is_in_the_driver),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
