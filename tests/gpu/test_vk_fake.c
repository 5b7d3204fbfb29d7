/* test_vk_fake: the fake device does what Vulkan says, and its checker catches each kind of misuse. Every test of a
 * violation plants exactly one and wants exactly that one to be counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake_vulkan.h"

enum { DEVICE_TYPE = 0, COHERENT_TYPE = 1, SHADOW_TYPE = 4, LAZY_TYPE = 5, MIB = 1 << 20, KIB = 1 << 10 };

static fake_vk *gpu;
static VkDevice device;

static int begin(const fake_vk_options *options)
{
    fake_vk_options o = options ? *options : (fake_vk_options){.quiet = true};
    o.quiet = true;
    gpu = fake_vk_create(&o);
    device = fake_vk_device(gpu);
    return 0;
}
static int setup(void **state) { (void)state; return begin(NULL); }
static int setup_no_sparse(void **state)
{
    (void)state;
    return begin(&(fake_vk_options){.without = FAKE_VK_NO_SPARSE | FAKE_VK_NO_PRIORITY | FAKE_VK_NO_TIMELINE});
}
static int teardown(void **state) { (void)state; return fake_vk_destroy(gpu) == 0 ? 0 : -1; }

/* Exactly one violation, of this kind; and it is forgiven. */
static void caught(fake_vk_wrong wrong)
{
    if (fake_vk_wrongs(gpu, FAKE_VK_WRONGS) != 1 || fake_vk_wrongs(gpu, wrong) != 1)
        fail_msg("%lu violations, %lu of the kind; first: %s", (unsigned long)fake_vk_wrongs(gpu, FAKE_VK_WRONGS),
                 (unsigned long)fake_vk_wrongs(gpu, wrong), fake_vk_first_wrong(gpu));
    assert_true(fake_vk_first_wrong(gpu)[0] != 0);
    fake_vk_forgive(gpu);
    assert_int_equal(fake_vk_wrongs(gpu, FAKE_VK_WRONGS), 0);
}
static void clean(void)
{
    if (fake_vk_wrongs(gpu, FAKE_VK_WRONGS) != 0) fail_msg("%s", fake_vk_first_wrong(gpu));
}

static VkDeviceMemory allocate_with(VkDeviceSize size, uint32_t type, const void *next)
{
    VkMemoryAllocateInfo info = {VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, next, size, type};
    VkDeviceMemory memory = VK_NULL_HANDLE;
    assert_int_equal(FAKE_VK_FN(gpu, vkAllocateMemory)(device, &info, NULL, &memory), VK_SUCCESS);
    assert_true(memory != VK_NULL_HANDLE);
    return memory;
}
static VkDeviceMemory allocate(VkDeviceSize size, uint32_t type) { return allocate_with(size, type, NULL); }
static void free_memory(VkDeviceMemory memory) { FAKE_VK_FN(gpu, vkFreeMemory)(device, memory, NULL); }

static VkBuffer buffer_with(VkBufferCreateInfo info)
{
    VkBuffer buffer = VK_NULL_HANDLE;
    assert_int_equal(FAKE_VK_FN(gpu, vkCreateBuffer)(device, &info, NULL, &buffer), VK_SUCCESS);
    return buffer;
}
static VkBuffer buffer_of(VkDeviceSize size) { return buffer_with(fake_vk_buffer_info(size, 0)); }
static VkImage image_with(VkImageCreateInfo info)
{
    VkImage image = VK_NULL_HANDLE;
    assert_int_equal(FAKE_VK_FN(gpu, vkCreateImage)(device, &info, NULL, &image), VK_SUCCESS);
    return image;
}
static VkImage image_of(uint32_t side) { return image_with(fake_vk_image_info(side, side, 0, 0)); }
static void destroy_buffer(VkBuffer buffer) { FAKE_VK_FN(gpu, vkDestroyBuffer)(device, buffer, NULL); }
static void destroy_image(VkImage image) { FAKE_VK_FN(gpu, vkDestroyImage)(device, image, NULL); }
static VkResult bind(VkBuffer buffer, VkDeviceMemory memory, VkDeviceSize offset)
{
    return FAKE_VK_FN(gpu, vkBindBufferMemory)(device, buffer, memory, offset);
}
static VkResult bind_image(VkImage image, VkDeviceMemory memory, VkDeviceSize offset)
{
    return FAKE_VK_FN(gpu, vkBindImageMemory)(device, image, memory, offset);
}
static uint8_t *map(VkDeviceMemory memory)
{
    void *p = NULL;
    assert_int_equal(FAKE_VK_FN(gpu, vkMapMemory)(device, memory, 0, VK_WHOLE_SIZE, 0, &p), VK_SUCCESS);
    return p;
}
static void flush(VkDeviceMemory memory, VkDeviceSize offset, VkDeviceSize size)
{
    VkMappedMemoryRange range = {VK_STRUCTURE_TYPE_MAPPED_MEMORY_RANGE, NULL, memory, offset, size};
    assert_int_equal(FAKE_VK_FN(gpu, vkFlushMappedMemoryRanges)(device, 1, &range), VK_SUCCESS);
}
static void invalidate(VkDeviceMemory memory, VkDeviceSize offset, VkDeviceSize size)
{
    VkMappedMemoryRange range = {VK_STRUCTURE_TYPE_MAPPED_MEMORY_RANGE, NULL, memory, offset, size};
    assert_int_equal(FAKE_VK_FN(gpu, vkInvalidateMappedMemoryRanges)(device, 1, &range), VK_SUCCESS);
}
static VkSemaphore timeline(uint64_t value)
{
    VkSemaphoreTypeCreateInfo type = {VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO, NULL, VK_SEMAPHORE_TYPE_TIMELINE,
                                      value};
    VkSemaphoreCreateInfo info = {VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, &type, 0};
    VkSemaphore semaphore = VK_NULL_HANDLE;
    assert_int_equal(FAKE_VK_FN(gpu, vkCreateSemaphore)(device, &info, NULL, &semaphore), VK_SUCCESS);
    return semaphore;
}
static void destroy_semaphore(VkSemaphore s) { FAKE_VK_FN(gpu, vkDestroySemaphore)(device, s, NULL); }
static VkFence fence_of(bool signaled)
{
    VkFenceCreateInfo info = {VK_STRUCTURE_TYPE_FENCE_CREATE_INFO, NULL, signaled ? VK_FENCE_CREATE_SIGNALED_BIT : 0};
    VkFence fence = VK_NULL_HANDLE;
    assert_int_equal(FAKE_VK_FN(gpu, vkCreateFence)(device, &info, NULL, &fence), VK_SUCCESS);
    return fence;
}
static void destroy_fence(VkFence fence) { FAKE_VK_FN(gpu, vkDestroyFence)(device, fence, NULL); }

/* --- what works --------------------------------------------------------------------------------------------------- */

static void a_clean_life_is_clean(void **state)
{
    (void)state;
    VkDeviceMemory memory = allocate(MIB, DEVICE_TYPE);
    VkBuffer a = buffer_of(1000), b = buffer_of(1000);
    VkImage image = image_of(64);
    assert_int_equal(bind(a, memory, 0), VK_SUCCESS);
    assert_int_equal(bind(b, memory, 1024), VK_SUCCESS);
    assert_int_equal(bind_image(image, memory, 4096), VK_SUCCESS);
    assert_int_equal(fake_vk_heap_used(gpu, 0), MIB);
    assert_int_equal(fake_vk_live(gpu), 4);
    uint8_t in[100], out[100];
    memset(in, 7, sizeof in);
    assert_true(fake_vk_gpu_write(gpu, FAKE_VK_ID(a), 100, in, sizeof in));
    assert_true(fake_vk_gpu_copy(gpu, FAKE_VK_ID(a), 100, FAKE_VK_ID(image), 50, sizeof in));
    assert_true(fake_vk_gpu_read(gpu, FAKE_VK_ID(image), 50, out, sizeof out));
    assert_memory_equal(in, out, sizeof in);
    destroy_buffer(a);
    destroy_buffer(b);
    destroy_image(image);
    free_memory(memory);
    assert_int_equal(fake_vk_heap_used(gpu, 0), 0);
    assert_int_equal(fake_vk_heap_used_peak(gpu, 0), MIB);
    clean();
}

static void only_a_flush_carries_bytes_to_the_gpu_where_memory_is_not_coherent(void **state)
{
    (void)state;
    VkDeviceMemory shadow = allocate(MIB, SHADOW_TYPE), coherent = allocate(MIB, COHERENT_TYPE);
    uint64_t far = fake_vk_claim(gpu, shadow, 0, 4096, true), near = fake_vk_claim(gpu, coherent, 0, 4096, true);
    uint8_t *p = map(shadow), *q = map(coherent), seen[2] = {0, 0};
    p[0] = q[0] = 5;
    assert_true(fake_vk_gpu_read(gpu, near, 0, seen, 1) && seen[0] == 5);
    assert_true(fake_vk_gpu_read(gpu, far, 0, seen, 1) && seen[0] == 0);
    flush(shadow, 0, 64);
    assert_true(fake_vk_gpu_read(gpu, far, 0, seen, 1) && seen[0] == 5);
    uint8_t nine = 9;
    assert_true(fake_vk_gpu_write(gpu, far, 64, &nine, 1));
    assert_int_equal(p[64], 0);
    invalidate(shadow, 64, VK_WHOLE_SIZE);
    assert_int_equal(p[64], 9);
    FAKE_VK_FN(gpu, vkUnmapMemory)(device, shadow);
    fake_vk_drop_claim(gpu, far);
    fake_vk_drop_claim(gpu, near);
    free_memory(shadow);
    free_memory(coherent); /* mapped: Vulkan unmaps */
    clean();
}

static void calls_fail_as_ordered_and_only_so(void **state)
{
    (void)state;
    VkMemoryAllocateInfo info = {VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, NULL, MIB, 0};
    VkDeviceMemory a, b;
    PFN_vkAllocateMemory allocate_memory = FAKE_VK_FN(gpu, vkAllocateMemory);
    fake_vk_fail(gpu, FAKE_VK_AllocateMemory, 2, VK_ERROR_TOO_MANY_OBJECTS, false);
    assert_int_equal(allocate_memory(device, &info, NULL, &a), VK_SUCCESS);
    assert_int_equal(allocate_memory(device, &info, NULL, &b), VK_ERROR_TOO_MANY_OBJECTS);
    assert_int_equal(allocate_memory(device, &info, NULL, &b), VK_SUCCESS);
    fake_vk_fail(gpu, FAKE_VK_ANY, 2, VK_ERROR_DEVICE_LOST, true);
    VkBuffer buffer = buffer_of(64), none;
    VkBufferCreateInfo plain = fake_vk_buffer_info(64, 0);
    assert_int_equal(FAKE_VK_FN(gpu, vkCreateBuffer)(device, &plain, NULL, &none), VK_ERROR_DEVICE_LOST);
    assert_int_equal(bind(buffer, a, 0), VK_ERROR_DEVICE_LOST);
    assert_int_equal(fake_vk_last_failed(gpu), FAKE_VK_BindBuffer);
    assert_string_equal(fake_vk_call_name(fake_vk_last_failed(gpu)), "vkBindBuffer");
    fake_vk_heal(gpu);
    assert_int_equal(bind(buffer, a, 0), VK_SUCCESS);
    assert_int_equal(fake_vk_failures(gpu), 3);
    assert_int_equal(fake_vk_count(gpu, FAKE_VK_AllocateMemory), 3);
    destroy_buffer(buffer);
    free_memory(a);
    free_memory(b);
    clean();
}

static void heaps_have_an_end_and_others_take_from_them(void **state)
{
    (void)state;
    VkMemoryAllocateInfo info = {VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, NULL, 200u << 20, 3};
    VkDeviceMemory memory;
    fake_vk_set_taken(gpu, 2, 100u << 20);
    assert_int_equal(FAKE_VK_FN(gpu, vkAllocateMemory)(device, &info, NULL, &memory), VK_ERROR_OUT_OF_DEVICE_MEMORY);
    fake_vk_set_taken(gpu, 2, 0);
    assert_int_equal(FAKE_VK_FN(gpu, vkAllocateMemory)(device, &info, NULL, &memory), VK_SUCCESS);
    VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
    VkPhysicalDeviceMemoryProperties2 two = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
                                             .pNext = &budget};
    fake_vk_set_budget(gpu, 2, 150u << 20, 7u << 20);
    PFN_vkGetPhysicalDeviceMemoryProperties2 query = (PFN_vkGetPhysicalDeviceMemoryProperties2)
        fake_vk_get_instance_proc_addr(fake_vk_instance(gpu), "vkGetPhysicalDeviceMemoryProperties2KHR");
    query(fake_vk_physical_device(gpu), &two);
    assert_int_equal(budget.heapBudget[2], 150u << 20);
    assert_int_equal(budget.heapUsage[2], 207u << 20);
    assert_int_equal(budget.heapBudget[0], 8ull << 30);
    free_memory(memory);
    clean();
}

static void exported_memory_is_seen_through_its_descriptor(void **state)
{
    (void)state;
    VkExportMemoryAllocateInfo export = {VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO, NULL,
                                         VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT};
    VkDeviceMemory a = allocate_with(MIB, COHERENT_TYPE, &export);
    VkMemoryGetFdInfoKHR get = {VK_STRUCTURE_TYPE_MEMORY_GET_FD_INFO_KHR, NULL, a,
                                VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT};
    int fd = -1;
    assert_int_equal(FAKE_VK_FN(gpu, vkGetMemoryFdKHR)(device, &get, &fd), VK_SUCCESS);
    VkImportMemoryFdInfoKHR import = {VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR, NULL,
                                      VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT, fd};
    VkDeviceMemory b = allocate_with(MIB, COHERENT_TYPE, &import);
    strcpy((char *)map(a) + 5000, "the same bytes");
    assert_string_equal((char *)map(b) + 5000, "the same bytes");
    assert_int_equal(fake_vk_heap_used(gpu, 1), MIB);
    free_memory(a);
    free_memory(b);
    assert_int_equal(close(fd), -1); /* the driver has closed it */
    clean();
}

static void a_host_pointer_becomes_memory_without_a_copy(void **state)
{
    (void)state;
    char *page = aligned_alloc(4096, 8192);
    VkImportMemoryHostPointerInfoEXT import = {VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT, NULL,
                                               VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT, page};
    VkDeviceMemory memory = allocate_with(8192, COHERENT_TYPE, &import);
    uint64_t claim = fake_vk_claim(gpu, memory, 4096, 64, true);
    assert_true(fake_vk_gpu_write(gpu, claim, 0, "hello", 6));
    assert_string_equal(page + 4096, "hello");
    fake_vk_drop_claim(gpu, claim);
    free_memory(memory);
    free(page);
    clean();
}

static void fences_and_timelines_move_by_hand(void **state)
{
    (void)state;
    VkFence fence = fence_of(false);
    VkSemaphore semaphore = timeline(3);
    uint64_t value = 0;
    assert_int_equal(FAKE_VK_FN(gpu, vkGetFenceStatus)(device, fence), VK_NOT_READY);
    assert_int_equal(FAKE_VK_FN(gpu, vkWaitForFences)(device, 1, &fence, VK_TRUE, 1000), VK_TIMEOUT);
    fake_vk_signal_fence(gpu, fence);
    assert_int_equal(FAKE_VK_FN(gpu, vkGetFenceStatus)(device, fence), VK_SUCCESS);
    assert_int_equal(FAKE_VK_FN(gpu, vkWaitForFences)(device, 1, &fence, VK_TRUE, UINT64_MAX), VK_SUCCESS);
    assert_int_equal(FAKE_VK_FN(gpu, vkResetFences)(device, 1, &fence), VK_SUCCESS);
    assert_int_equal(FAKE_VK_FN(gpu, vkGetFenceStatus)(device, fence), VK_NOT_READY);
    assert_int_equal(FAKE_VK_FN(gpu, vkGetSemaphoreCounterValue)(device, semaphore, &value), VK_SUCCESS);
    assert_int_equal(value, 3);
    uint64_t wanted = 5;
    VkSemaphoreWaitInfo wait = {VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO, NULL, 0, 1, &semaphore, &wanted};
    assert_int_equal(FAKE_VK_FN(gpu, vkWaitSemaphores)(device, &wait, 0), VK_TIMEOUT);
    fake_vk_signal_semaphore(gpu, semaphore, 5);
    assert_int_equal(FAKE_VK_FN(gpu, vkWaitSemaphores)(device, &wait, 0), VK_SUCCESS);
    destroy_fence(fence);
    destroy_semaphore(semaphore);
    clean();
}

static void a_held_queue_binds_when_it_is_let_go_and_its_waits_are_reached(void **state)
{
    (void)state;
    VkBufferCreateInfo info = fake_vk_buffer_info(4 * 65536, 0);
    info.flags = VK_BUFFER_CREATE_SPARSE_BINDING_BIT | VK_BUFFER_CREATE_SPARSE_RESIDENCY_BIT;
    VkBuffer buffer = buffer_with(info);
    VkDeviceMemory memory = allocate(MIB, DEVICE_TYPE);
    VkSemaphore before = timeline(0), after = timeline(0);
    VkFence fence = fence_of(false);
    VkSparseMemoryBind page = {65536, 2 * 65536, memory, 3 * 65536, 0};
    VkSparseBufferMemoryBindInfo binds = {buffer, 1, &page};
    uint64_t one = 1, two = 2;
    VkTimelineSemaphoreSubmitInfo values = {.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
                                            .waitSemaphoreValueCount = 1, .pWaitSemaphoreValues = &one,
                                            .signalSemaphoreValueCount = 1, .pSignalSemaphoreValues = &two};
    VkBindSparseInfo batch = {.sType = VK_STRUCTURE_TYPE_BIND_SPARSE_INFO, .pNext = &values,
                              .waitSemaphoreCount = 1, .pWaitSemaphores = &before,
                              .signalSemaphoreCount = 1, .pSignalSemaphores = &after,
                              .bufferBindCount = 1, .pBufferBinds = &binds};
    fake_vk_hold_queue(gpu, true);
    assert_int_equal(FAKE_VK_FN(gpu, vkQueueBindSparse)(fake_vk_queue(gpu), 1, &batch, fence), VK_SUCCESS);
    fake_vk_resource_info r;
    assert_true(fake_vk_get_resource(gpu, FAKE_VK_ID(buffer), &r) && r.pages == 4 && r.pages_bound == 0);
    fake_vk_hold_queue(gpu, false);
    assert_true(fake_vk_get_resource(gpu, FAKE_VK_ID(buffer), &r) && r.pages_bound == 0);
    fake_vk_signal_semaphore(gpu, before, 1);
    assert_true(fake_vk_get_resource(gpu, FAKE_VK_ID(buffer), &r) && r.pages_bound == 2 && r.binds == 2);
    uint64_t value = 0;
    assert_int_equal(FAKE_VK_FN(gpu, vkGetSemaphoreCounterValue)(device, after, &value), VK_SUCCESS);
    assert_int_equal(value, 2);
    assert_int_equal(FAKE_VK_FN(gpu, vkGetFenceStatus)(device, fence), VK_SUCCESS);
    VkDeviceSize offset = 0;
    assert_true(fake_vk_sparse_page(gpu, FAKE_VK_ID(buffer), 2, &offset) == memory && offset == 4 * 65536);
    assert_true(fake_vk_sparse_page(gpu, FAKE_VK_ID(buffer), 0, NULL) == VK_NULL_HANDLE);
    uint8_t in[65536 + 10], out[65536 + 10];
    memset(in, 3, sizeof in);
    assert_true(fake_vk_gpu_write(gpu, FAKE_VK_ID(buffer), 65536 + 20, in, sizeof in));
    assert_true(fake_vk_gpu_read(gpu, FAKE_VK_ID(buffer), 65536 + 20, out, sizeof out));
    assert_memory_equal(in, out, sizeof in);
    destroy_buffer(buffer);
    free_memory(memory);
    destroy_fence(fence);
    destroy_semaphore(before);
    destroy_semaphore(after);
    clean();
}

static void sparse_images_bind_tiles_and_a_tail(void **state)
{
    (void)state;
    VkImageCreateInfo info = fake_vk_image_info(512, 512, VK_FORMAT_R8G8B8A8_UNORM, 0);
    info.flags = VK_IMAGE_CREATE_SPARSE_BINDING_BIT | VK_IMAGE_CREATE_SPARSE_RESIDENCY_BIT;
    info.mipLevels = 10;
    info.arrayLayers = 2;
    VkImage image = image_with(info);
    VkSparseImageMemoryRequirements need;
    uint32_t count = 1;
    FAKE_VK_FN(gpu, vkGetImageSparseMemoryRequirements)(device, image, &count, &need);
    assert_int_equal(count, 1);
    assert_int_equal(need.formatProperties.imageGranularity.width, 128);
    assert_int_equal(need.imageMipTailFirstLod, 3); /* 512, 256, 128 in tiles; 64 and below in the tail */
    assert_int_equal(need.imageMipTailSize, 65536);
    assert_int_equal(need.imageMipTailOffset, (16 + 4 + 1) * 65536);
    assert_int_equal(need.imageMipTailStride, 22 * 65536);
    VkMemoryRequirements all;
    FAKE_VK_FN(gpu, vkGetImageMemoryRequirements)(device, image, &all);
    assert_int_equal(all.size, 44 * 65536);
    VkDeviceMemory memory = allocate(4 * MIB, DEVICE_TYPE);
    VkSparseImageMemoryBind tiles = {{VK_IMAGE_ASPECT_COLOR_BIT, 1, 1}, {128, 0, 0}, {128, 256, 1}, memory, 0, 0};
    VkSparseImageMemoryBindInfo binds = {image, 1, &tiles};
    VkSparseMemoryBind tail = {need.imageMipTailStride + need.imageMipTailOffset, 65536, memory, 2 * 65536, 0};
    VkSparseImageOpaqueMemoryBindInfo opaque = {image, 1, &tail};
    VkBindSparseInfo batch = {.sType = VK_STRUCTURE_TYPE_BIND_SPARSE_INFO, .imageBindCount = 1, .pImageBinds = &binds,
                              .imageOpaqueBindCount = 1, .pImageOpaqueBinds = &opaque};
    assert_int_equal(FAKE_VK_FN(gpu, vkQueueBindSparse)(fake_vk_queue(gpu), 1, &batch, VK_NULL_HANDLE), VK_SUCCESS);
    fake_vk_resource_info r;
    assert_true(fake_vk_get_resource(gpu, FAKE_VK_ID(image), &r) && r.pages_bound == 3);
    VkDeviceSize offset;
    assert_true(fake_vk_sparse_page(gpu, FAKE_VK_ID(image), 22 + 16 + 1, &offset) == memory && offset == 0);
    assert_true(fake_vk_sparse_page(gpu, FAKE_VK_ID(image), 22 + 16 + 3, &offset) == memory && offset == 65536);
    assert_true(fake_vk_sparse_page(gpu, FAKE_VK_ID(image), 43, &offset) == memory && offset == 2 * 65536);
    tiles.memory = VK_NULL_HANDLE;
    assert_int_equal(FAKE_VK_FN(gpu, vkQueueBindSparse)(fake_vk_queue(gpu), 1, &batch, VK_NULL_HANDLE), VK_SUCCESS);
    assert_true(fake_vk_get_resource(gpu, FAKE_VK_ID(image), &r) && r.pages_bound == 1);
    assert_int_equal(r.idle_binds, 1); /* the tail, again */
    destroy_image(image);
    free_memory(memory);
    clean();
}

static fake_vk_call hooked;
static void hook(void *context, fake_vk_call call)
{
    (void)context;
    hooked = call;
    fake_vk_live(gpu); /* the lock is free */
}
static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
static void calls_take_the_time_that_is_set_and_tell_the_hook(void **state)
{
    (void)state;
    fake_vk_set_field_latencies(gpu);
    fake_vk_set_hook(gpu, hook, NULL);
    uint64_t start = now_ns();
    VkDeviceMemory memory = allocate(MIB, DEVICE_TYPE);
    assert_true(now_ns() - start >= 193000);
    assert_int_equal(hooked, FAKE_VK_AllocateMemory);
    free_memory(memory);
    assert_int_equal(hooked, FAKE_VK_FreeMemory);
    assert_true(now_ns() - start >= 193000 + 26000);
    clean();
}

static void functions_are_found_as_the_version_and_the_extensions_say(void **state)
{
    (void)state;
    const char *const missing[] = {"vkMapMemory", NULL};
    fake_vk *old = fake_vk_create(&(fake_vk_options){.api_version = VK_API_VERSION_1_0, .quiet = true,
                                                     .without = FAKE_VK_NO_DEDICATED, .missing = missing});
    assert_null(fake_vk_get_device_proc_addr(fake_vk_device(old), "vkMapMemory"));
    assert_null(fake_vk_get_device_proc_addr(fake_vk_device(old), "vkBindBufferMemory2"));
    assert_non_null(fake_vk_get_device_proc_addr(fake_vk_device(old), "vkBindBufferMemory2KHR"));
    assert_null(fake_vk_get_device_proc_addr(fake_vk_device(old), "vkGetBufferMemoryRequirements2KHR"));
    assert_null(fake_vk_get_device_proc_addr(fake_vk_device(old), "vkGetPhysicalDeviceProperties"));
    assert_null(fake_vk_get_device_proc_addr(fake_vk_device(old), "vkNoSuchThing"));
    assert_non_null(fake_vk_get_instance_proc_addr(fake_vk_instance(old), "vkGetPhysicalDeviceProperties"));
    assert_non_null(fake_vk_get_instance_proc_addr(fake_vk_instance(old), "vkGetDeviceProcAddr"));
    assert_non_null(fake_vk_get_instance_proc_addr(fake_vk_instance(old), "vkUnmapMemory"));
    assert_non_null(fake_vk_get_device_proc_addr(device, "vkBindBufferMemory2"));
    assert_int_equal(fake_vk_destroy(old), 0);
}

/* --- what is caught ----------------------------------------------------------------------------------------------- */

static void overlap_is_caught_and_aliasing_is_not(void **state)
{
    (void)state;
    VkDeviceMemory memory = allocate(MIB, DEVICE_TYPE);
    VkBuffer b[4];
    for (int i = 0; i < 4; i++) b[i] = buffer_of(1024);
    bind(b[0], memory, 1024);
    bind(b[1], memory, 1024 + 960); /* begins in b[0] */
    caught(FAKE_VK_WRONG_OVERLAP);
    fake_vk_declare_alias(gpu, FAKE_VK_ID(b[2]));
    fake_vk_declare_alias(gpu, FAKE_VK_ID(b[3]));
    bind(b[2], memory, 8192);
    bind(b[3], memory, 8192);
    clean();
    VkBuffer wide = buffer_of(8192); /* from before one to behind it */
    bind(wide, memory, 4096);
    assert_int_equal(fake_vk_wrongs(gpu, FAKE_VK_WRONG_OVERLAP), 2); /* both of them: the new one is no alias */
    fake_vk_forgive(gpu);
    destroy_buffer(wide);
    for (int i = 0; i < 4; i++) destroy_buffer(b[i]);
    uint64_t claim = fake_vk_claim(gpu, memory, 0, 4096, true), other = fake_vk_claim(gpu, memory, 4095, 1, true);
    caught(FAKE_VK_WRONG_OVERLAP);
    fake_vk_drop_claim(gpu, claim);
    fake_vk_drop_claim(gpu, other);
    free_memory(memory);
    clean();
}

static void linear_and_optimal_neighbours_on_a_page_are_caught(void **state)
{
    (void)state;
    fake_vk *plain = gpu;
    begin(&(fake_vk_options){.buffer_image_granularity = 65536});
    VkDeviceMemory memory = allocate(MIB, DEVICE_TYPE);
    VkBuffer before = buffer_of(1024), behind = buffer_of(64);
    VkImage image = image_of(64); /* 16 KiB, by 4 KiB */
    bind_image(image, memory, 2 * 65536);
    bind(before, memory, 2 * 65536 - 1024);
    clean();
    bind(behind, memory, 2 * 65536 + 16384);
    caught(FAKE_VK_WRONG_GRANULARITY);
    destroy_buffer(behind);
    destroy_buffer(before);
    destroy_image(image);
    free_memory(memory);
    assert_int_equal(fake_vk_destroy(gpu), 0);
    gpu = plain;
    device = fake_vk_device(gpu);
}

static void stale_handles_are_caught_everywhere(void **state)
{
    (void)state;
    VkDeviceMemory memory = allocate(MIB, COHERENT_TYPE);
    VkBuffer buffer = buffer_of(64), other = buffer_of(64);
    VkFence fence = fence_of(true);
    free_memory(memory);
    free_memory(memory);
    caught(FAKE_VK_WRONG_STALE_HANDLE);
    bind(buffer, memory, 0);
    caught(FAKE_VK_WRONG_STALE_HANDLE);
    destroy_buffer(buffer);
    destroy_buffer(buffer);
    caught(FAKE_VK_WRONG_STALE_HANDLE);
    VkMemoryRequirements need;
    FAKE_VK_FN(gpu, vkGetBufferMemoryRequirements)(device, buffer, &need);
    caught(FAKE_VK_WRONG_STALE_HANDLE);
    FAKE_VK_FN(gpu, vkGetImageMemoryRequirements)(device, (VkImage)(uintptr_t)FAKE_VK_ID(other), &need);
    caught(FAKE_VK_WRONG_STALE_HANDLE); /* of another kind */
    void *p;
    FAKE_VK_FN(gpu, vkMapMemory)(device, memory, 0, VK_WHOLE_SIZE, 0, &p);
    caught(FAKE_VK_WRONG_STALE_HANDLE);
    destroy_fence(fence);
    assert_int_equal(FAKE_VK_FN(gpu, vkGetFenceStatus)(device, fence), VK_ERROR_DEVICE_LOST);
    caught(FAKE_VK_WRONG_STALE_HANDLE);
    assert_false(fake_vk_gpu_read(gpu, FAKE_VK_ID(buffer), 0, &p, 1));
    caught(FAKE_VK_WRONG_STALE_HANDLE);
    destroy_buffer(other);
    clean();
}

static void illegal_binds_are_caught(void **state)
{
    (void)state;
    VkDeviceMemory memory = allocate(MIB, DEVICE_TYPE), lazy = allocate(MIB, LAZY_TYPE);
    VkBuffer buffer = buffer_of(1024), other = buffer_of(1024);
    char byte = 0;
    assert_false(fake_vk_gpu_write(gpu, FAKE_VK_ID(buffer), 0, &byte, 1));
    caught(FAKE_VK_WRONG_NOT_BOUND);
    bind(buffer, memory, MIB - 960);
    caught(FAKE_VK_WRONG_BIND_RANGE);
    bind(buffer, memory, UINT64_MAX - 63);
    caught(FAKE_VK_WRONG_BIND_RANGE);
    bind(buffer, memory, 32);
    caught(FAKE_VK_WRONG_BIND_ALIGNMENT);
    bind(buffer, memory, 4096);
    caught(FAKE_VK_WRONG_DOUBLE_BIND);
    bind(other, lazy, 0);
    caught(FAKE_VK_WRONG_BIND_TYPE);
    destroy_buffer(buffer);
    destroy_buffer(other);
    free_memory(memory);
    free_memory(lazy);
    VkImageCreateInfo transient = fake_vk_image_info(64, 64, 0, VK_IMAGE_USAGE_TRANSIENT_ATTACHMENT_BIT |
                                                                    VK_IMAGE_USAGE_COLOR_ATTACHMENT_BIT);
    VkImage image = image_with(transient);
    lazy = allocate(MIB, LAZY_TYPE);
    assert_int_equal(bind_image(image, lazy, 0), VK_SUCCESS);
    destroy_image(image);
    free_memory(lazy);
    clean();
}

static void dedicated_memory_is_held_to_its_promise(void **state)
{
    (void)state;
    fake_vk_set_dedicated(gpu, true, true);
    VkBuffer buffer = buffer_of(1024);
    fake_vk_set_dedicated(gpu, false, false);
    VkBuffer other = buffer_of(1024);
    VkMemoryDedicatedRequirements dedicated = {.sType = VK_STRUCTURE_TYPE_MEMORY_DEDICATED_REQUIREMENTS};
    VkMemoryRequirements2 need = {.sType = VK_STRUCTURE_TYPE_MEMORY_REQUIREMENTS_2, .pNext = &dedicated};
    VkBufferMemoryRequirementsInfo2 of = {VK_STRUCTURE_TYPE_BUFFER_MEMORY_REQUIREMENTS_INFO_2, NULL, buffer};
    FAKE_VK_FN(gpu, vkGetBufferMemoryRequirements2)(device, &of, &need);
    assert_true(dedicated.prefersDedicatedAllocation && dedicated.requiresDedicatedAllocation);
    of.buffer = other;
    FAKE_VK_FN(gpu, vkGetBufferMemoryRequirements2)(device, &of, &need);
    assert_false(dedicated.prefersDedicatedAllocation || dedicated.requiresDedicatedAllocation);

    VkDeviceMemory shared = allocate(4096, DEVICE_TYPE);
    bind(buffer, shared, 0);
    caught(FAKE_VK_WRONG_DEDICATED);
    VkMemoryDedicatedAllocateInfo to = {VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO, NULL, VK_NULL_HANDLE, other};
    VkDeviceMemory own = allocate_with(1024, DEVICE_TYPE, &to);
    clean();
    fake_vk_memory_info info;
    assert_true(fake_vk_get_memory(gpu, own, &info) && info.dedicated_to == FAKE_VK_ID(other));
    VkBuffer third = buffer_of(1024);
    bind(third, own, 0);
    caught(FAKE_VK_WRONG_DEDICATED);
    VkDeviceMemory large = allocate_with(2048, DEVICE_TYPE, &to);
    caught(FAKE_VK_WRONG_DEDICATED);
    destroy_buffer(buffer);
    destroy_buffer(other);
    destroy_buffer(third);
    free_memory(shared);
    free_memory(own);
    free_memory(large);
    clean();
}

static void external_memory_wants_resources_made_for_it(void **state)
{
    (void)state;
    VkExportMemoryAllocateInfo export = {VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO, NULL,
                                         VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT};
    VkDeviceMemory memory = allocate_with(MIB, DEVICE_TYPE, &export), plain = allocate(MIB, DEVICE_TYPE);
    VkBuffer buffer = buffer_of(64);
    bind(buffer, memory, 0);
    caught(FAKE_VK_WRONG_EXTERNAL);
    VkMemoryGetFdInfoKHR get = {VK_STRUCTURE_TYPE_MEMORY_GET_FD_INFO_KHR, NULL, plain,
                                VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT};
    int fd;
    assert_int_not_equal(FAKE_VK_FN(gpu, vkGetMemoryFdKHR)(device, &get, &fd), VK_SUCCESS);
    caught(FAKE_VK_WRONG_EXTERNAL);
    VkMemoryHostPointerPropertiesEXT types = {.sType = VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT};
    FAKE_VK_FN(gpu, vkGetMemoryHostPointerPropertiesEXT)(device, VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT,
                                                         (void *)0x1234, &types);
    caught(FAKE_VK_WRONG_EXTERNAL);
    destroy_buffer(buffer);
    free_memory(memory);
    free_memory(plain);
    clean();
}

static void wrong_maps_and_flushes_are_caught(void **state)
{
    (void)state;
    VkDeviceMemory memory = allocate(MIB + 32, SHADOW_TYPE), far = allocate(MIB, DEVICE_TYPE);
    void *p;
    assert_int_equal(FAKE_VK_FN(gpu, vkMapMemory)(device, far, 0, VK_WHOLE_SIZE, 0, &p), VK_ERROR_MEMORY_MAP_FAILED);
    caught(FAKE_VK_WRONG_MAP);
    FAKE_VK_FN(gpu, vkUnmapMemory)(device, memory);
    caught(FAKE_VK_WRONG_MAP);
    flush(memory, 0, 64);
    caught(FAKE_VK_WRONG_FLUSH);
    map(memory);
    FAKE_VK_FN(gpu, vkMapMemory)(device, memory, 0, VK_WHOLE_SIZE, 0, &p);
    caught(FAKE_VK_WRONG_MAP_TWICE);
    flush(memory, 32, 64);
    caught(FAKE_VK_WRONG_FLUSH);
    flush(memory, 64, 32);
    caught(FAKE_VK_WRONG_FLUSH);
    invalidate(memory, 0, MIB + 64);
    caught(FAKE_VK_WRONG_FLUSH);
    flush(memory, MIB, 32); /* to the very end: fine */
    flush(memory, 64, VK_WHOLE_SIZE);
    clean();
    free_memory(memory);
    free_memory(far);
}

static void freeing_memory_under_resources_is_caught(void **state)
{
    (void)state;
    VkDeviceMemory memory = allocate(MIB, DEVICE_TYPE);
    VkBuffer buffer = buffer_of(64);
    bind(buffer, memory, 0);
    free_memory(memory);
    caught(FAKE_VK_WRONG_FREE_BOUND);
    char byte;
    assert_false(fake_vk_gpu_read(gpu, FAKE_VK_ID(buffer), 0, &byte, 1));
    caught(FAKE_VK_WRONG_NOT_BOUND);
    destroy_buffer(buffer);
    clean();
}

static void reuse_before_the_gpu_is_done_is_caught(void **state)
{
    (void)state;
    VkDeviceMemory memory = allocate(MIB, DEVICE_TYPE);
    VkSemaphore semaphore = timeline(0);
    VkFence fence = fence_of(false);
    uint64_t claim = fake_vk_claim(gpu, memory, 0, 4096, true);
    fake_vk_gpu_uses(gpu, claim, FAKE_VK_ID(semaphore), 2);
    fake_vk_drop_claim(gpu, claim);
    claim = fake_vk_claim(gpu, memory, 4096, 4096, true); /* beside it: fine */
    clean();
    uint64_t over = fake_vk_claim(gpu, memory, 1024, 64, true);
    caught(FAKE_VK_WRONG_GPU_BUSY);
    fake_vk_signal_semaphore(gpu, semaphore, 1);
    fake_vk_drop_claim(gpu, over);
    over = fake_vk_claim(gpu, memory, 1024, 64, true);
    caught(FAKE_VK_WRONG_GPU_BUSY);
    fake_vk_signal_semaphore(gpu, semaphore, 2);
    fake_vk_drop_claim(gpu, over);
    over = fake_vk_claim(gpu, memory, 1024, 64, true);
    clean();

    VkBuffer buffer = buffer_of(64);
    bind(buffer, memory, 65536);
    fake_vk_gpu_uses(gpu, FAKE_VK_ID(buffer), FAKE_VK_ID(fence), 0);
    FAKE_VK_FN(gpu, vkResetFences)(device, 1, &fence);
    caught(FAKE_VK_WRONG_GPU_BUSY);
    destroy_buffer(buffer);
    caught(FAKE_VK_WRONG_GPU_BUSY);
    fake_vk_drop_claim(gpu, claim);
    fake_vk_drop_claim(gpu, over);
    free_memory(memory);
    caught(FAKE_VK_WRONG_GPU_BUSY);
    memory = allocate(MIB, DEVICE_TYPE);
    claim = fake_vk_claim(gpu, memory, 0, 64, true);
    fake_vk_gpu_uses(gpu, claim, FAKE_VK_ID(fence), 0);
    destroy_fence(fence);
    caught(FAKE_VK_WRONG_GPU_BUSY);
    fake_vk_drop_claim(gpu, claim);
    free_memory(memory);
    destroy_semaphore(semaphore);
    clean();
}

static VkResult bind_pages(VkBuffer buffer, VkDeviceSize at, VkDeviceSize size, VkDeviceMemory memory,
                           VkDeviceSize offset)
{
    VkSparseMemoryBind page = {at, size, memory, offset, 0};
    VkSparseBufferMemoryBindInfo binds = {buffer, 1, &page};
    VkBindSparseInfo batch = {.sType = VK_STRUCTURE_TYPE_BIND_SPARSE_INFO, .bufferBindCount = 1,
                              .pBufferBinds = &binds};
    return FAKE_VK_FN(gpu, vkQueueBindSparse)(fake_vk_queue(gpu), 1, &batch, VK_NULL_HANDLE);
}

static void wrong_sparse_binds_are_caught(void **state)
{
    (void)state;
    VkBufferCreateInfo info = fake_vk_buffer_info(4 * 65536, 0);
    info.flags = VK_BUFFER_CREATE_SPARSE_BINDING_BIT | VK_BUFFER_CREATE_SPARSE_RESIDENCY_BIT;
    VkBuffer a = buffer_with(info), b = buffer_with(info), plain = buffer_of(65536);
    VkDeviceMemory memory = allocate(MIB, DEVICE_TYPE), lazy = allocate(MIB, LAZY_TYPE);
    VkSemaphore semaphore = timeline(0);
    bind(a, memory, 0);
    caught(FAKE_VK_WRONG_SPARSE);
    bind_pages(a, 4096, 65536, memory, 0);
    caught(FAKE_VK_WRONG_SPARSE);
    bind_pages(a, 3 * 65536, 2 * 65536, memory, 0);
    caught(FAKE_VK_WRONG_SPARSE);
    bind_pages(plain, 0, 65536, memory, 0);
    caught(FAKE_VK_WRONG_SPARSE);
    bind_pages(a, 0, 65536, memory, 4096);
    caught(FAKE_VK_WRONG_BIND_ALIGNMENT);
    bind_pages(a, 0, 2 * 65536, memory, 15 * 65536);
    caught(FAKE_VK_WRONG_BIND_RANGE);
    bind_pages(a, 0, 65536, lazy, 0);
    caught(FAKE_VK_WRONG_BIND_TYPE);
    destroy_buffer(a);
    a = buffer_with(info);
    bind_pages(a, 0, 65536, memory, 0);
    bind_pages(b, 0, 65536, memory, 0);
    caught(FAKE_VK_WRONG_OVERLAP);
    bind(plain, memory, 0);
    assert_true(fake_vk_wrongs(gpu, FAKE_VK_WRONG_OVERLAP) >= 1);
    fake_vk_forgive(gpu);
    char bytes[2] = {1, 2};
    assert_false(fake_vk_gpu_write(gpu, FAKE_VK_ID(a), 65535, bytes, 2)); /* runs into an unbound page */
    caught(FAKE_VK_WRONG_NOT_BOUND);
    destroy_buffer(b);
    destroy_buffer(plain);

    fake_vk_gpu_uses(gpu, FAKE_VK_ID(a), FAKE_VK_ID(semaphore), 1);
    bind_pages(a, 0, 65536, VK_NULL_HANDLE, 0);
    caught(FAKE_VK_WRONG_GPU_BUSY);
    uint64_t claim = fake_vk_claim(gpu, memory, 0, 64, true);
    caught(FAKE_VK_WRONG_GPU_BUSY);
    fake_vk_drop_claim(gpu, claim);
    fake_vk_signal_semaphore(gpu, semaphore, 1);
    bind_pages(a, 0, 65536, memory, 0);
    clean();
    fake_vk_hold_queue(gpu, true);
    bind_pages(a, 65536, 65536, lazy, 0);
    caught(FAKE_VK_WRONG_BIND_TYPE);
    free_memory(lazy); /* a bind that waits in the queue names it */
    caught(FAKE_VK_WRONG_GPU_BUSY);
    fake_vk_hold_queue(gpu, false);
    caught(FAKE_VK_WRONG_STALE_HANDLE);
    destroy_buffer(a);
    free_memory(memory);
    destroy_semaphore(semaphore);
    clean();
}

static void what_a_device_lacks_must_not_be_asked_of_it(void **state)
{
    (void)state;
    VkMemoryPriorityAllocateInfoEXT priority = {VK_STRUCTURE_TYPE_MEMORY_PRIORITY_ALLOCATE_INFO_EXT, NULL, 0.5f};
    VkDeviceMemory memory = allocate_with(MIB, DEVICE_TYPE, &priority);
    caught(FAKE_VK_WRONG_USAGE);
    VkBufferCreateInfo info = fake_vk_buffer_info(65536, 0);
    info.flags = VK_BUFFER_CREATE_SPARSE_BINDING_BIT;
    VkBuffer buffer;
    assert_int_not_equal(FAKE_VK_FN(gpu, vkCreateBuffer)(device, &info, NULL, &buffer), VK_SUCCESS);
    caught(FAKE_VK_WRONG_USAGE);
    destroy_semaphore(timeline(0));
    caught(FAKE_VK_WRONG_USAGE);
    buffer = buffer_with(fake_vk_buffer_info(64, VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT));
    bind(buffer, memory, 0);
    caught(FAKE_VK_WRONG_USAGE);
    destroy_buffer(buffer);
    free_memory(memory);
    clean();
}

static void too_many_allocations_are_refused_and_caught(void **state)
{
    (void)state;
    fake_vk *plain = gpu;
    begin(&(fake_vk_options){.allocations_max = 2});
    VkDeviceMemory a = allocate(64, 0), b = allocate(64, 0), c;
    VkMemoryAllocateInfo info = {VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, NULL, 64, 0};
    assert_int_equal(FAKE_VK_FN(gpu, vkAllocateMemory)(device, &info, NULL, &c), VK_ERROR_TOO_MANY_OBJECTS);
    caught(FAKE_VK_WRONG_TOO_MANY);
    free_memory(a);
    free_memory(b);
    assert_int_equal(fake_vk_destroy(gpu), 0);
    gpu = plain;
    device = fake_vk_device(gpu);
}

static void leaks_are_counted_at_the_end(void **state)
{
    (void)state;
    fake_vk *plain = gpu;
    begin(NULL);
    VkDeviceMemory memory = allocate(MIB, 0);
    bind(buffer_of(64), memory, 0);
    image_of(16);
    fence_of(false);
    timeline(0);
    assert_int_equal(fake_vk_live(gpu), 5);
    assert_int_equal(fake_vk_destroy(gpu), 5);
    gpu = plain;
    device = fake_vk_device(gpu);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_clean_life_is_clean),
        T(only_a_flush_carries_bytes_to_the_gpu_where_memory_is_not_coherent),
        T(calls_fail_as_ordered_and_only_so),
        T(heaps_have_an_end_and_others_take_from_them),
        T(exported_memory_is_seen_through_its_descriptor),
        T(a_host_pointer_becomes_memory_without_a_copy),
        T(fences_and_timelines_move_by_hand),
        T(a_held_queue_binds_when_it_is_let_go_and_its_waits_are_reached),
        T(sparse_images_bind_tiles_and_a_tail),
        T(calls_take_the_time_that_is_set_and_tell_the_hook),
        T(functions_are_found_as_the_version_and_the_extensions_say),
        T(overlap_is_caught_and_aliasing_is_not),
        T(linear_and_optimal_neighbours_on_a_page_are_caught),
        T(stale_handles_are_caught_everywhere),
        T(illegal_binds_are_caught),
        T(dedicated_memory_is_held_to_its_promise),
        T(external_memory_wants_resources_made_for_it),
        T(wrong_maps_and_flushes_are_caught),
        T(freeing_memory_under_resources_is_caught),
        T(reuse_before_the_gpu_is_done_is_caught),
        T(wrong_sparse_binds_are_caught),
        cmocka_unit_test_setup_teardown(what_a_device_lacks_must_not_be_asked_of_it, setup_no_sparse, teardown),
        T(too_many_allocations_are_refused_and_caught),
        T(leaks_are_counted_at_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
