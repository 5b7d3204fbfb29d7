/* test_vk_retire: blocks and resources of <acre/vulkan.h> that are freed while the fake device still uses them. The
 * fake's checker knows what the GPU is busy with and catches a reuse that comes too early. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "vk_world.h"

static acre_vk_point at(VkSemaphore semaphore, uint64_t value)
{
    return (acre_vk_point){.semaphore = semaphore, .value = value};
}

static void a_block_waits_for_its_value(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkSemaphore timeline = new_timeline(0);
    acre_vk_allocation a = take(MIB, NULL);
    OK(acre_vk_free_after(w.vk, a.handle, at(timeline, 2)));
    REFUSED(ACRE_DOUBLE_FREE, acre_vk_free(w.vk, a.handle));
    REFUSED(ACRE_DOUBLE_FREE, acre_vk_free_after(w.vk, a.handle, at(timeline, 3)));
    acre_gpu_heap_stats s = heap_stats(0);
    assert_int_equal(s.live_bytes, 0);
    assert_int_equal(s.pending_bytes, a.size);
    assert_int_equal(category_stats(0).pending_bytes, a.size);
    assert_int_equal(category_stats(0).blocks, 0);
    world_check();
    assert_int_equal(acre_vk_collect(w.vk), 0);
    fake_vk_signal_semaphore(w.gpu, timeline, 1);
    assert_int_equal(acre_vk_collect(w.vk), 0);
    assert_int_equal(heap_stats(0).pending_bytes, a.size);
    fake_vk_signal_semaphore(w.gpu, timeline, 2);
    assert_int_equal(acre_vk_collect(w.vk), 1);
    assert_int_equal(heap_stats(0).pending_bytes, 0);
    assert_int_equal(category_stats(0).pending_bytes, 0);
    acre_vk_allocation b = take(MIB, NULL);
    assert_true(b.memory == a.memory && b.offset == a.offset);
    OK(acre_vk_free_after(w.vk, b.handle, at(timeline, 1))); /* passed already */
    acre_vk_collect(w.vk);
    assert_int_equal(heap_stats(0).pending_bytes, 0);
    end_timeline(timeline);
    world_close(0);
}

static void the_semaphore_outlives_nothing(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkSemaphore timeline = new_timeline(0);
    OK(acre_vk_free_after(w.vk, take(4096, NULL).handle, at(timeline, 1)));
    fake_vk_signal_semaphore(w.gpu, timeline, 1);
    assert_int_equal(acre_vk_collect(w.vk), 1);
    end_timeline(timeline);
    acre_vk_collect(w.vk); /* must not ask about it any more: a stale handle would be counted */
    world_close(0);
}

static void fences_work_too_and_can_be_reset_after_they_were_told(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkFence fence = new_fence();
    acre_vk_point point = {.fence = fence};
    uint64_t claim[2];
    for (int frame = 0; frame < 20; frame++) {
        acre_vk_allocation a = take(64 * KIB, NULL), b = take(64 * KIB, NULL);
        claim[0] = fake_vk_claim(w.gpu, a.memory, a.offset, a.size, true);
        claim[1] = fake_vk_claim(w.gpu, b.memory, b.offset, b.size, true);
        for (int i = 0; i < 2; i++) {
            fake_vk_gpu_uses(w.gpu, claim[i], FAKE_VK_ID(fence), 0);
            fake_vk_drop_claim(w.gpu, claim[i]);
        }
        OK(acre_vk_free_after(w.vk, a.handle, point));
        OK(acre_vk_free_after(w.vk, b.handle, point));
        assert_int_equal(acre_vk_collect(w.vk), 0);
        fake_vk_signal_fence(w.gpu, fence);
        if (frame % 2) {
            OK(acre_vk_fence_passed(w.vk, fence));
        } else {
            assert_int_equal(acre_vk_collect(w.vk), 2);
        }
        assert_int_equal(heap_stats(0).pending_bytes, 0);
        assert_int_equal(FAKE_VK_FN(w.gpu, vkResetFences)(w.device, 1, &fence), VK_SUCCESS);
    }
    end_fence(fence);
    world_close(0);
}

static void a_collect_asks_once_per_timeline(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkSemaphore a = new_timeline(0), b = new_timeline(0);
    for (uint64_t i = 1; i <= 200; i++) {
        OK(acre_vk_free_after(w.vk, take(4096, NULL).handle, at(a, i)));
        OK(acre_vk_free_after(w.vk, take(4096, NULL).handle, at(b, i)));
    }
    uint64_t asked = fake_vk_count(w.gpu, FAKE_VK_GetSemaphoreCounterValue);
    fake_vk_signal_semaphore(w.gpu, a, 150);
    fake_vk_signal_semaphore(w.gpu, b, 10);
    assert_int_equal(acre_vk_collect(w.vk), 160);
    assert_true(fake_vk_count(w.gpu, FAKE_VK_GetSemaphoreCounterValue) - asked <= 2);
    fake_vk_signal_semaphore(w.gpu, a, 1000);
    fake_vk_signal_semaphore(w.gpu, b, 1000);
    assert_int_equal(acre_vk_collect(w.vk), 240);
    asked = fake_vk_count(w.gpu, FAKE_VK_GetSemaphoreCounterValue);
    assert_int_equal(acre_vk_collect(w.vk), 0);
    assert_int_equal(fake_vk_count(w.gpu, FAKE_VK_GetSemaphoreCounterValue), asked); /* nothing waits */
    end_timeline(a);
    end_timeline(b);
    world_close(0);
}

static void frames_in_flight_never_share_bytes(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    enum { FRAMES = 400, BLOCKS = 40, IN_FLIGHT = 3 };
    VkSemaphore timeline = new_timeline(0);
    uint64_t seed = 9;
    for (uint64_t frame = 1; frame <= FRAMES; frame++) {
        for (int i = 0; i < BLOCKS; i++) {
            acre_vk_request request = {.usage = next_random(&seed) % 2 ? ACRE_VK_UPLOAD : ACRE_VK_GPU};
            acre_vk_allocation a = take(1 + next_random(&seed) % 100000, &request);
            uint64_t claim = fake_vk_claim(w.gpu, a.memory, a.offset, a.size, true);
            fake_vk_gpu_uses(w.gpu, claim, FAKE_VK_ID(timeline), frame);
            fake_vk_drop_claim(w.gpu, claim);
            if (next_random(&seed) % 8 == 0) { /* out of order, too */
                OK(acre_vk_free_after(w.vk, a.handle, at(timeline, frame + 2)));
            } else {
                OK(acre_vk_free_after(w.vk, a.handle, at(timeline, frame)));
            }
        }
        if (frame > IN_FLIGHT) fake_vk_signal_semaphore(w.gpu, timeline, frame - IN_FLIGHT);
        w.now_ms += 16;
        acre_vk_collect(w.vk);
        if (frame % 50 == 0) world_check();
    }
    /* Memory is reused: what is held is a few frames' worth. */
    assert_true(all_stats().total.held_bytes < 100 * MIB);
    fake_vk_signal_semaphore(w.gpu, timeline, FRAMES + 2);
    acre_vk_collect(w.vk);
    assert_int_equal(all_stats().total.pending_bytes, 0);
    end_timeline(timeline);
    world_close(0);
}

static void resources_are_destroyed_after_their_point_and_not_before(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkSemaphore timeline = new_timeline(0);
    VkBufferCreateInfo buffer_info = fake_vk_buffer_info(5000, 0);
    VkImageCreateInfo image_info = fake_vk_image_info(100, 100, 0, 0);
    VkBuffer buffer;
    VkImage image;
    acre_vk_allocation a, b;
    OK(acre_vk_create_buffer(w.vk, &buffer_info, NULL, &buffer, &a));
    OK(acre_vk_create_image(w.vk, &image_info, NULL, &image, &b));
    fake_vk_gpu_uses(w.gpu, FAKE_VK_ID(buffer), FAKE_VK_ID(timeline), 1);
    fake_vk_gpu_uses(w.gpu, FAKE_VK_ID(image), FAKE_VK_ID(timeline), 2);
    OK(acre_vk_destroy_buffer_after(w.vk, buffer, a.handle, at(timeline, 1)));
    OK(acre_vk_destroy_image_after(w.vk, image, b.handle, at(timeline, 2)));
    REFUSED(ACRE_DOUBLE_FREE, acre_vk_destroy_buffer(w.vk, VK_NULL_HANDLE, a.handle));
    acre_vk_collect(w.vk);
    assert_int_equal(fake_vk_live_resources(w.gpu), 2);
    fake_vk_signal_semaphore(w.gpu, timeline, 1);
    acre_vk_collect(w.vk);
    assert_int_equal(fake_vk_live_resources(w.gpu), 1);
    fake_vk_signal_semaphore(w.gpu, timeline, 2);
    acre_vk_collect(w.vk);
    assert_int_equal(fake_vk_live_resources(w.gpu), 0);
    end_timeline(timeline);
    world_close(0);
}

static void when_memory_is_short_what_is_done_is_taken_without_a_collect(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "all", .budget_bytes = 64 * MIB}};
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 1});
    VkSemaphore timeline = new_timeline(0);
    acre_vk_allocation a = take(60 * MIB, NULL), b;
    OK(acre_vk_free_after(w.vk, a.handle, at(timeline, 1)));
    VkMemoryRequirements need = needs(60 * MIB, 256, T_ALL);
    REFUSED(ACRE_OVER_BUDGET, acre_vk_alloc(w.vk, &need, NULL, &b)); /* pending counts */
    fake_vk_signal_semaphore(w.gpu, timeline, 1);
    b = take(60 * MIB, NULL);
    OK(acre_vk_free(w.vk, b.handle));
    end_timeline(timeline);
    world_close(0);
}

static VkSemaphore hooked;
static void signal_when_waited_for(void *context, fake_vk_call call)
{
    (void)context;
    if (call == FAKE_VK_WaitSemaphores && hooked != VK_NULL_HANDLE) {
        fake_vk_signal_semaphore(w.gpu, hooked, 100);
        hooked = VK_NULL_HANDLE;
    }
}

static void waits_end_when_a_block_is_free_or_time_is_up(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkSemaphore timeline = new_timeline(0);
    OK(acre_vk_wait(w.vk, 0)); /* nothing was pending */
    OK(acre_vk_drain(w.vk, 0));
    OK(acre_vk_free_after(w.vk, take(4096, NULL).handle, at(timeline, 1)));
    OK(acre_vk_free_after(w.vk, take(4096, NULL).handle, at(timeline, 2)));
    REFUSED(ACRE_BUSY, acre_vk_wait(w.vk, 1000));
    REFUSED(ACRE_BUSY, acre_vk_drain(w.vk, 1000));
    fake_vk_signal_semaphore(w.gpu, timeline, 1);
    OK(acre_vk_wait(w.vk, 1000));
    REFUSED(ACRE_BUSY, acre_vk_drain(w.vk, 1000));
    hooked = timeline;
    fake_vk_set_hook(w.gpu, signal_when_waited_for, NULL);
    OK(acre_vk_drain(w.vk, 1000000000));
    assert_int_equal(all_stats().total.pending_bytes, 0);
    fake_vk_set_hook(w.gpu, NULL, NULL);
    end_timeline(timeline);
    world_close(0);
}

static void points_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkSemaphore timeline = new_timeline(0);
    VkFence fence = new_fence();
    acre_vk_allocation a = take(4096, NULL);
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_free_after(w.vk, a.handle, (acre_vk_point){.value = 1}));
    REFUSED(ACRE_INVALID_ARGUMENT,
            acre_vk_free_after(w.vk, a.handle, (acre_vk_point){.fence = fence, .semaphore = timeline}));
    REFUSED(ACRE_FOREIGN_POINTER, acre_vk_free_after(w.vk, UINT64_MAX, at(timeline, 1)));
    assert_int_equal(heap_stats(0).live_bytes, a.size);
    OK(acre_vk_free(w.vk, a.handle));
    end_fence(fence);
    end_timeline(timeline);
    world_close(0);

    world_open(&(fake_vk_options){.without = FAKE_VK_NO_TIMELINE}, NULL);
    a = take(4096, NULL);
    acre_status status = acre_vk_free_after(w.vk, a.handle, at((VkSemaphore)(uintptr_t)0x10000, 1));
    assert_true(status == ACRE_NOT_SUPPORTED || status == ACRE_INVALID_ARGUMENT);
    fence = new_fence();
    OK(acre_vk_free_after(w.vk, a.handle, (acre_vk_point){.fence = fence}));
    fake_vk_signal_fence(w.gpu, fence);
    assert_int_equal(acre_vk_collect(w.vk), 1);
    end_fence(fence);
    world_close(0);
}

typedef struct seen { int pending, live; } seen;
static bool see(void *context, const acre_vk_block_info *block)
{
    seen *s = context;
    if (block->pending)
        s->pending++;
    else
        s->live++;
    return true;
}
static void the_walk_tells_who_is_pending(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkSemaphore timeline = new_timeline(0);
    take(4096, NULL);
    OK(acre_vk_free_after(w.vk, take(4096, NULL).handle, at(timeline, 1)));
    OK(acre_vk_free_after(w.vk, take(4096, NULL).handle, at(timeline, 1)));
    seen s = {0, 0};
    OK(acre_vk_walk(w.vk, see, &s));
    assert_int_equal(s.pending, 2);
    assert_int_equal(s.live, 1);
    fake_vk_signal_semaphore(w.gpu, timeline, 1);
    acre_vk_collect(w.vk);
    end_timeline(timeline);
    world_close(1);
}

static void the_end_takes_pending_blocks_and_their_resources_along(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkSemaphore timeline = new_timeline(0);
    VkBufferCreateInfo info = fake_vk_buffer_info(5000, 0);
    VkBuffer buffer;
    acre_vk_allocation a;
    OK(acre_vk_create_buffer(w.vk, &info, NULL, &buffer, &a));
    OK(acre_vk_destroy_buffer_after(w.vk, buffer, a.handle, at(timeline, 1)));
    OK(acre_vk_free_after(w.vk, take(4096, NULL).handle, at(timeline, 1)));
    world_check();
    assert_int_equal(acre_vk_destroy(w.vk), 0); /* the program held none */
    w.vk = NULL;
    end_timeline(timeline);
    world_close(0);
}

static void a_lost_device_gives_all_back_and_says_so(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkSemaphore timeline = new_timeline(0);
    OK(acre_vk_free_after(w.vk, take(4096, NULL).handle, at(timeline, 1)));
    fake_vk_fail(w.gpu, FAKE_VK_GetSemaphoreCounterValue, 1, VK_ERROR_DEVICE_LOST, true);
    acre_vk_collect(w.vk);
    assert_true(all_stats().device_lost);
    assert_int_equal(acre_vk_last_result(), VK_ERROR_DEVICE_LOST);
    fake_vk_heal(w.gpu);
    fake_vk_signal_semaphore(w.gpu, timeline, 1);
    acre_vk_collect(w.vk);
    assert_int_equal(all_stats().total.pending_bytes, 0);
    end_timeline(timeline);
    world_close(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORLD_TEST(a_block_waits_for_its_value),
        WORLD_TEST(the_semaphore_outlives_nothing),
        WORLD_TEST(fences_work_too_and_can_be_reset_after_they_were_told),
        WORLD_TEST(a_collect_asks_once_per_timeline),
        WORLD_TEST(frames_in_flight_never_share_bytes),
        WORLD_TEST(resources_are_destroyed_after_their_point_and_not_before),
        WORLD_TEST(when_memory_is_short_what_is_done_is_taken_without_a_collect),
        WORLD_TEST(waits_end_when_a_block_is_free_or_time_is_up),
        WORLD_TEST(points_that_make_no_sense_are_refused),
        WORLD_TEST(the_walk_tells_who_is_pending),
        WORLD_TEST(the_end_takes_pending_blocks_and_their_resources_along),
        WORLD_TEST(a_lost_device_gives_all_back_and_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
