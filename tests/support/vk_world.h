/* vk_world: what the tests of <acre/vulkan.h> on the fake device share: a device, an allocator on it that has all the
 * features of that device, a clock that stands still until it is moved, and the check that everything is in order.
 * Included by tests only, after cmocka.h; everything is inline. */
#ifndef ACRE_TESTS_VK_WORLD_H
#define ACRE_TESTS_VK_WORLD_H

#include <string.h>

#include "acre/vulkan.h"
#include "base/bits.h"
#include "fake_vulkan.h"

enum { /* the types of fake_vk_desktop() */
    T_DEVICE = 0, T_COHERENT = 1, T_CACHED = 2, T_BAR = 3, T_SHADOW = 4, T_LAZY = 5,
    T_ALL = (1 << 6) - 1,
};

typedef struct vk_world {
    fake_vk *gpu;
    acre_vk *vk;
    VkDevice device;
    uint64_t now_ms;
} vk_world;

static vk_world w; /* of the test that runs */

static inline uint64_t world_now(void *context) { return *(uint64_t *)context; }

static inline uint32_t world_features(uint32_t without)
{
    return (without & FAKE_VK_NO_DEDICATED ? 0u : ACRE_VK_HAS_DEDICATED) |
           (without & FAKE_VK_NO_BUDGET ? 0u : ACRE_VK_HAS_MEMORY_BUDGET) |
           (without & FAKE_VK_NO_PRIORITY ? 0u : ACRE_VK_HAS_MEMORY_PRIORITY) |
           (without & FAKE_VK_NO_EXTERNAL_FD ? 0u : ACRE_VK_HAS_EXTERNAL_FD) |
           (without & FAKE_VK_NO_EXTERNAL_HOST ? 0u : ACRE_VK_HAS_EXTERNAL_HOST) |
           (without & FAKE_VK_NO_TIMELINE ? 0u : ACRE_VK_HAS_TIMELINE) |
           (without & FAKE_VK_NO_DEVICE_ADDRESS ? 0u : ACRE_VK_HAS_DEVICE_ADDRESS);
}

/* The fields that name the device and its features, where they are zero. */
static inline acre_vk_options world_options(fake_vk *gpu, const fake_vk_options *device, const acre_vk_options *more)
{
    acre_vk_options o = more ? *more : (acre_vk_options){.shards = 0};
    o.instance = fake_vk_instance(gpu);
    o.physical_device = fake_vk_physical_device(gpu);
    o.device = fake_vk_device(gpu);
    o.get_instance_proc_addr = fake_vk_get_instance_proc_addr;
    if (o.api_version == 0) o.api_version = device && device->api_version ? device->api_version : VK_API_VERSION_1_3;
    if (o.features == 0) o.features = world_features(device ? device->without : 0);
    if (o.now_ms == NULL) {
        o.now_ms = world_now;
        o.now_context = &w.now_ms;
    }
    return o;
}

/* Both may be NULL. The test fails if the allocator is not made. */
static inline void world_open(const fake_vk_options *device, const acre_vk_options *more)
{
    memset(&w, 0, sizeof w);
    w.now_ms = 1000000;
    w.gpu = fake_vk_create(device);
    w.device = fake_vk_device(w.gpu);
    acre_vk_options o = world_options(w.gpu, device, more);
    acre_status status = acre_vk_create(&o, &w.vk);
    if (status != ACRE_OK) fail_msg("acre_vk_create: %s", acre_status_name(status));
}

/* Nothing wrong so far, and the allocator agrees with itself and with the device about what is held. */
static inline void world_check(void)
{
    if (fake_vk_wrongs(w.gpu, FAKE_VK_WRONGS) != 0) fail_msg("%s", fake_vk_first_wrong(w.gpu));
    const char *wrong = acre_vk_check(w.vk);
    if (wrong != NULL) fail_msg("acre_vk_check: %s", wrong);
    acre_gpu_heap_stats s;
    for (uint32_t heap = 0; heap < acre_vk_heap_count(w.vk); heap++) {
        assert_int_equal(acre_vk_heap_stats(w.vk, heap, &s), ACRE_OK);
        if (s.held_bytes != s.live_bytes + s.pending_bytes + s.hole_bytes + s.empty_bytes)
            fail_msg("heap %u: held %lu != live %lu + pending %lu + holes %lu + empty %lu", heap,
                     (unsigned long)s.held_bytes, (unsigned long)s.live_bytes, (unsigned long)s.pending_bytes,
                     (unsigned long)s.hole_bytes, (unsigned long)s.empty_bytes);
        assert_true(s.held_peak_bytes >= s.held_bytes);
    }
    acre_vk_stats all;
    assert_int_equal(acre_vk_get_stats(w.vk, &all), ACRE_OK);
    assert_int_equal(all.total.driver_allocations, fake_vk_live_memories(w.gpu));
    assert_true(all.pages <= all.total.driver_allocations);
    assert_true(all.cached_bytes <= all.total.hole_bytes);
}

/* Ends the world: `left` blocks are still held; nothing was wrong, and nothing leaks. */
static inline void world_close(uint64_t left)
{
    if (w.vk != NULL) {
        world_check();
        assert_int_equal(acre_vk_destroy(w.vk), left);
    }
    assert_int_equal(fake_vk_live_memories(w.gpu), 0);
    assert_int_equal(fake_vk_destroy(w.gpu), 0);
    w.vk = NULL;
    w.gpu = NULL;
}

/* A test that failed left its world behind. */
static inline int world_abandon(void **state)
{
    (void)state;
    if (w.gpu == NULL) return 0;
    if (w.vk != NULL) acre_vk_destroy(w.vk);
    fake_vk_destroy(w.gpu);
    w.vk = NULL;
    w.gpu = NULL;
    return -1;
}
#define WORLD_TEST(f) cmocka_unit_test_teardown(f, world_abandon)

/* --- shorthands --------------------------------------------------------------------------------------------------- */

static inline void must(acre_status status, acre_status wanted, const char *what)
{
    if (status != wanted)
        fail_msg("%s: %s, not %s (driver: %d)", what, acre_status_name(status), acre_status_name(wanted),
                 (int)acre_vk_last_result());
}
#define OK(call)           must((call), ACRE_OK, #call)
#define REFUSED(why, call) must((call), (why), #call)

static inline VkMemoryRequirements needs(VkDeviceSize size, VkDeviceSize alignment, uint32_t type_bits)
{
    return (VkMemoryRequirements){size, alignment, type_bits};
}

/* A block without a resource, any memory type but lazy. */
static inline acre_vk_allocation take(VkDeviceSize size, const acre_vk_request *request)
{
    acre_vk_allocation a = {.handle = 0};
    VkMemoryRequirements need = needs(size, 256, T_ALL);
    OK(acre_vk_alloc(w.vk, &need, request, &a));
    assert_true(a.handle != 0 && a.memory != VK_NULL_HANDLE && a.size >= size && a.offset % 256 == 0);
    return a;
}

static inline acre_gpu_heap_stats heap_stats(uint32_t heap)
{
    acre_gpu_heap_stats s;
    OK(acre_vk_heap_stats(w.vk, heap, &s));
    return s;
}
static inline acre_gpu_category_stats category_stats(uint32_t category)
{
    acre_gpu_category_stats s;
    OK(acre_vk_category_stats(w.vk, category, &s));
    return s;
}
static inline acre_vk_stats all_stats(void)
{
    acre_vk_stats s;
    OK(acre_vk_get_stats(w.vk, &s));
    return s;
}

static inline VkSemaphore new_timeline(uint64_t value)
{
    VkSemaphoreTypeCreateInfo type = {VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO, NULL, VK_SEMAPHORE_TYPE_TIMELINE,
                                      value};
    VkSemaphoreCreateInfo info = {VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, &type, 0};
    VkSemaphore semaphore = VK_NULL_HANDLE;
    assert_int_equal(FAKE_VK_FN(w.gpu, vkCreateSemaphore)(w.device, &info, NULL, &semaphore), VK_SUCCESS);
    return semaphore;
}
static inline void end_timeline(VkSemaphore semaphore)
{
    FAKE_VK_FN(w.gpu, vkDestroySemaphore)(w.device, semaphore, NULL);
}
static inline VkFence new_fence(void)
{
    VkFenceCreateInfo info = {VK_STRUCTURE_TYPE_FENCE_CREATE_INFO, NULL, 0};
    VkFence fence = VK_NULL_HANDLE;
    assert_int_equal(FAKE_VK_FN(w.gpu, vkCreateFence)(w.device, &info, NULL, &fence), VK_SUCCESS);
    return fence;
}
static inline void end_fence(VkFence fence) { FAKE_VK_FN(w.gpu, vkDestroyFence)(w.device, fence, NULL); }

/* A generator for tests: the same numbers every time. */
static inline uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

#endif
