/* test_vk_smoke_lavapipe: the Vulkan allocator on a real driver, in one pass over its calls. Skipped where there is no
 * lavapipe. */
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "acre/acre.h"
#include "acre/vulkan.h"

#define LAVAPIPE "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json"

static struct {
    PFN_vkGetInstanceProcAddr get;
    VkInstance instance;
    VkPhysicalDevice gpu;
    VkDevice device;
    VkQueue queue;
    acre_vk_options options;
} v;

#define OF_INSTANCE(name) ((PFN_##name)v.get(v.instance, #name))

static bool start(void)
{
    setenv("VK_ICD_FILENAMES", LAVAPIPE, 1);
    if (access(LAVAPIPE, R_OK) != 0) return false;
    void *library = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return false;
    v.get = (PFN_vkGetInstanceProcAddr)dlsym(library, "vkGetInstanceProcAddr");
    VkApplicationInfo app = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_3};
    const char *layer = "VK_LAYER_KHRONOS_validation";
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
                                 .pApplicationInfo = &app,
                                 .enabledLayerCount = getenv("ACRE_VALIDATION") != NULL,
                                 .ppEnabledLayerNames = &layer};
    if (OF_INSTANCE(vkCreateInstance)(&info, NULL, &v.instance) != VK_SUCCESS) return false;
    uint32_t count = 1;
    VkResult found = OF_INSTANCE(vkEnumeratePhysicalDevices)(v.instance, &count, &v.gpu);
    if ((found != VK_SUCCESS && found != VK_INCOMPLETE) || count == 0) return false;
    float one = 1;
    VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                     .queueCount = 1,
                                     .pQueuePriorities = &one};
    VkPhysicalDeviceVulkan12Features features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
                                                 .timelineSemaphore = VK_TRUE};
    const char *extensions[] = {"VK_KHR_external_memory_fd", "VK_EXT_external_memory_host"};
    VkDeviceCreateInfo device = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                                 .pNext = &features,
                                 .queueCreateInfoCount = 1,
                                 .pQueueCreateInfos = &queue,
                                 .enabledExtensionCount = 2,
                                 .ppEnabledExtensionNames = extensions};
    if (OF_INSTANCE(vkCreateDevice)(v.gpu, &device, NULL, &v.device) != VK_SUCCESS) return false;
    OF_INSTANCE(vkGetDeviceQueue)(v.device, 0, 0, &v.queue);
    v.options = (acre_vk_options){
        .instance = v.instance,
        .physical_device = v.gpu,
        .device = v.device,
        .get_instance_proc_addr = v.get,
        .get_device_proc_addr = OF_INSTANCE(vkGetDeviceProcAddr),
        .api_version = VK_API_VERSION_1_3,
        .features = ACRE_VK_HAS_TIMELINE | ACRE_VK_HAS_EXTERNAL_FD | ACRE_VK_HAS_EXTERNAL_HOST,
    };
    return true;
}

static acre_vk *make(void)
{
    acre_vk *vk = NULL;
    assert_int_equal(acre_vk_create(&v.options, &vk), ACRE_OK);
    return vk;
}

static void check(acre_vk *vk)
{
    const char *wrong = acre_vk_check(vk);
    if (wrong != NULL) fail_msg("%s", wrong);
}

static void end(acre_vk *vk)
{
    check(vk);
    assert_int_equal(acre_vk_destroy(vk), 0);
}

static VkBufferCreateInfo buffer_info(VkDeviceSize bytes)
{
    return (VkBufferCreateInfo){.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
                                .size = bytes,
                                .usage = VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT};
}

static void buffers_and_images_come_with_memory(void **state)
{
    (void)state;
    acre_vk *vk = make();
    VkBuffer buffer;
    acre_vk_allocation a, b;
    VkBufferCreateInfo info = buffer_info(1000);
    acre_vk_request request = {.usage = ACRE_VK_UPLOAD, .flags = ACRE_VK_MAPPED, .tag = 7, .name = "vertices"};
    assert_int_equal(acre_vk_create_buffer(vk, &info, &request, &buffer, &a), ACRE_OK);
    assert_non_null(a.mapped);
    memset(a.mapped, 1, 1000);
    VkImageCreateInfo picture = {.sType = VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO,
                                 .imageType = VK_IMAGE_TYPE_2D,
                                 .format = VK_FORMAT_R8G8B8A8_UNORM,
                                 .extent = {256, 256, 1},
                                 .mipLevels = 1,
                                 .arrayLayers = 1,
                                 .samples = VK_SAMPLE_COUNT_1_BIT,
                                 .usage = VK_IMAGE_USAGE_SAMPLED_BIT};
    VkImage image;
    assert_int_equal(acre_vk_create_image(vk, &picture, NULL, &image, &b), ACRE_OK);
    acre_vk_block_info about;
    assert_int_equal(acre_vk_get_info(vk, a.handle, &about), ACRE_OK);
    assert_int_equal(about.tag, 7);
    assert_string_equal(about.name, "vertices");
    char report[8192];
    assert_true(acre_vk_report(vk, true, report, sizeof report) < sizeof report);
    assert_non_null(strstr(report, "vertices"));
    assert_int_equal(acre_vk_destroy_buffer(vk, buffer, a.handle), ACRE_OK);
    assert_int_equal(acre_vk_free(vk, a.handle), ACRE_DOUBLE_FREE);
    assert_int_equal(acre_vk_free(vk, a.handle ^ (uint64_t)9 << 24), ACRE_FOREIGN_POINTER);
    assert_int_equal(acre_vk_destroy_image(vk, image, b.handle), ACRE_OK);
    end(vk);
}

static void random_blocks_never_overlap(void **state)
{
    (void)state;
    enum { COUNT = 4000, ROUNDS = 200000 };
    acre_vk *vk = make();
    static acre_vk_allocation blocks[COUNT];
    memset(blocks, 0, sizeof blocks);
    uint64_t seed = 1;
    acre_vk_request request = {.usage = ACRE_VK_UPLOAD, .flags = ACRE_VK_MAPPED};
    for (int i = 0; i < ROUNDS; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint32_t at = (uint32_t)(seed >> 33) % COUNT;
        acre_vk_allocation *a = &blocks[at];
        if (a->handle != 0) {
            assert_int_equal(*(uint32_t *)a->mapped, at);
            assert_int_equal(*(uint32_t *)((char *)a->mapped + a->size - 4), at);
            assert_int_equal(acre_vk_free(vk, a->handle), ACRE_OK);
            a->handle = 0;
            continue;
        }
        VkMemoryRequirements need = {1 + (seed >> 40) % 30000, (VkDeviceSize)1 << (seed >> 20) % 13, UINT32_MAX};
        assert_int_equal(acre_vk_alloc(vk, &need, &request, a), ACRE_OK);
        assert_int_equal(a->offset % need.alignment, 0);
        *(uint32_t *)a->mapped = at;
        *(uint32_t *)((char *)a->mapped + a->size - 4) = at;
        if (i % 20000 == 0) check(vk);
    }
    check(vk);
    for (int i = 0; i < COUNT; i++) assert_int_equal(acre_vk_free(vk, blocks[i].handle), ACRE_OK);
    check(vk);
    assert_true(acre_vk_trim(vk, 0) > 0);
    acre_vk_stats stats;
    assert_int_equal(acre_vk_get_stats(vk, &stats), ACRE_OK);
    assert_int_equal(stats.total.held_bytes, 0);
    end(vk);
}

static void blocks_wait_for_fence_and_semaphore(void **state)
{
    (void)state;
    acre_vk *vk = make();
    VkFenceCreateInfo fence_info = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    VkSemaphoreTypeCreateInfo type = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
                                      .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE};
    VkSemaphoreCreateInfo semaphore_info = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, .pNext = &type};
    VkFence fence;
    VkSemaphore semaphore;
    assert_int_equal(OF_INSTANCE(vkCreateFence)(v.device, &fence_info, NULL, &fence), VK_SUCCESS);
    assert_int_equal(OF_INSTANCE(vkCreateSemaphore)(v.device, &semaphore_info, NULL, &semaphore), VK_SUCCESS);
    VkBuffer buffers[2];
    acre_vk_allocation a[2];
    VkBufferCreateInfo info = buffer_info(5000);
    for (int i = 0; i < 2; i++)
        assert_int_equal(acre_vk_create_buffer(vk, &info, NULL, &buffers[i], &a[i]), ACRE_OK);
    assert_int_equal(acre_vk_destroy_buffer_after(vk, buffers[0], a[0].handle, (acre_vk_point){.fence = fence}),
                     ACRE_OK);
    acre_vk_point later = {.semaphore = semaphore, .value = 3};
    assert_int_equal(acre_vk_destroy_buffer_after(vk, buffers[1], a[1].handle, later), ACRE_OK);
    assert_int_equal(acre_vk_free(vk, a[0].handle), ACRE_DOUBLE_FREE);
    assert_int_equal(acre_vk_collect(vk), 0);
    check(vk);
    assert_int_equal(OF_INSTANCE(vkQueueSubmit)(v.queue, 0, NULL, fence), VK_SUCCESS);
    VkSemaphoreSignalInfo signal = {
        .sType = VK_STRUCTURE_TYPE_SEMAPHORE_SIGNAL_INFO, .semaphore = semaphore, .value = 3};
    assert_int_equal(acre_vk_wait(vk, 1000000000), ACRE_OK);
    assert_int_equal(OF_INSTANCE(vkSignalSemaphore)(v.device, &signal), VK_SUCCESS);
    assert_int_equal(acre_vk_drain(vk, 1000000000), ACRE_OK);
    acre_vk_stats stats;
    assert_int_equal(acre_vk_get_stats(vk, &stats), ACRE_OK);
    assert_int_equal(stats.total.pending_bytes, 0);
    OF_INSTANCE(vkDestroyFence)(v.device, fence, NULL);
    OF_INSTANCE(vkDestroySemaphore)(v.device, semaphore, NULL);
    end(vk);
}

static void a_budget_makes_a_report(void **state)
{
    (void)state;
    acre_gpu_category rows[] = {{.name = "textures", .budget_bytes = 1 << 20}, {.name = "buffers"}};
    acre_vk_options options = v.options;
    options.categories = rows;
    options.category_count = 2;
    acre_vk *vk;
    assert_int_equal(acre_vk_create(&options, &vk), ACRE_OK);
    VkMemoryRequirements need = {600 << 10, 256, UINT32_MAX};
    acre_vk_allocation a, b;
    assert_int_equal(acre_vk_alloc(vk, &need, NULL, &a), ACRE_OK);
    assert_int_equal(acre_vk_alloc(vk, &need, NULL, &b), ACRE_OVER_BUDGET);
    acre_gpu_shortage why;
    assert_true(acre_vk_last_shortage(vk, &why));
    assert_int_equal(why.bytes, 600 << 10);
    assert_string_equal(why.category_name, "textures");
    assert_int_equal(why.category_stats.live_bytes, 600 << 10);
    assert_int_equal(acre_vk_free(vk, a.handle), ACRE_OK);
    assert_int_equal(acre_vk_alloc(vk, &need, NULL, &a), ACRE_OK);
    assert_int_equal(acre_vk_free(vk, a.handle), ACRE_OK);
    end(vk);
}

static void memory_goes_out_as_a_descriptor_and_comes_in_from_the_cpu(void **state)
{
    (void)state;
    acre_vk *vk = make();
    VkBufferCreateInfo info = buffer_info(65536);
    acre_vk_request request = {.flags = ACRE_VK_EXPORT | ACRE_VK_MAPPED};
    VkBuffer buffer;
    acre_vk_allocation a, b;
    assert_int_equal(acre_vk_create_buffer(vk, &info, &request, &buffer, &a), ACRE_OK);
    int fd = -1;
    assert_int_equal(acre_vk_export_fd(vk, a.handle, &fd), ACRE_OK);
    strcpy(a.mapped, "through a descriptor");
    acre_vk_block_info about;
    assert_int_equal(acre_vk_get_info(vk, a.handle, &about), ACRE_OK);
    acre_vk_request mapped = {.flags = ACRE_VK_MAPPED};
    assert_int_equal(acre_vk_import_fd(vk, fd, about.page_bytes, a.memory_type, &mapped, buffer, NULL, &b), ACRE_OK);
    assert_string_equal(b.mapped, "through a descriptor");
    assert_int_equal(acre_vk_free(vk, b.handle), ACRE_OK);
    assert_int_equal(acre_vk_destroy_buffer(vk, buffer, a.handle), ACRE_OK);

    size_t align = acre_vk_host_alignment(vk);
    assert_true(align != 0);
    char *pages = acre_heap_alloc(acre_heap_process(), 4 * align, align, NULL);
    assert_int_equal(acre_vk_import_host(vk, pages, 4 * align, NULL, &b), ACRE_OK);
    assert_ptr_equal(b.mapped, pages);
    assert_int_equal(acre_vk_free(vk, b.handle), ACRE_OK);
    acre_heap_free(acre_heap_process(), pages);
    end(vk);
}

static void pools_keep_to_their_pages(void **state)
{
    (void)state;
    acre_vk *vk = make();
    acre_vk_pool_options options = {.page_bytes = 1 << 20, .page_count_min = 1, .page_count_max = 2, .name = "two"};
    acre_vk_pool *pool;
    assert_int_equal(acre_vk_pool_create(vk, &options, &pool), ACRE_OK);
    VkMemoryRequirements need = {1 << 20, 256, UINT32_MAX};
    acre_vk_request request = {.pool = pool};
    acre_vk_allocation a[3];
    assert_int_equal(acre_vk_alloc(vk, &need, &request, &a[0]), ACRE_OK);
    assert_int_equal(acre_vk_alloc(vk, &need, &request, &a[1]), ACRE_OK);
    assert_int_equal(acre_vk_alloc(vk, &need, &request, &a[2]), ACRE_NO_MEMORY);
    assert_int_equal(acre_vk_pool_destroy(vk, pool), ACRE_BUSY);
    assert_int_equal(acre_vk_free(vk, a[0].handle), ACRE_OK);
    assert_int_equal(acre_vk_free(vk, a[1].handle), ACRE_OK);
    assert_int_equal(acre_vk_pool_destroy(vk, pool), ACRE_OK);
    end(vk);
}

static void *churn(void *context)
{
    acre_vk *vk = context;
    enum { COUNT = 200, ROUNDS = 100000 };
    acre_vk_allocation blocks[COUNT];
    memset(blocks, 0, sizeof blocks);
    uint64_t seed = (uint64_t)(uintptr_t)blocks | 1;
    for (int i = 0; i < ROUNDS; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        acre_vk_allocation *a = &blocks[(seed >> 33) % COUNT];
        if (acre_vk_free(vk, a->handle) != ACRE_OK) return "free";
        VkMemoryRequirements need = {1 + (seed >> 40) % 100000, 256, UINT32_MAX};
        if (acre_vk_alloc(vk, &need, NULL, a) != ACRE_OK) return "alloc";
        if (i % 5000 == 0) acre_vk_collect(vk);
    }
    for (int i = 0; i < COUNT; i++)
        if (acre_vk_free(vk, blocks[i].handle) != ACRE_OK) return "free";
    return NULL;
}

static void threads_share_an_allocator(void **state)
{
    (void)state;
    acre_vk *vk = make();
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, churn, vk), 0);
    for (int i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
    end(vk);
}

int main(void)
{
    if (!start()) return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buffers_and_images_come_with_memory),
        cmocka_unit_test(random_blocks_never_overlap),
        cmocka_unit_test(blocks_wait_for_fence_and_semaphore),
        cmocka_unit_test(a_budget_makes_a_report),
        cmocka_unit_test(memory_goes_out_as_a_descriptor_and_comes_in_from_the_cpu),
        cmocka_unit_test(pools_keep_to_their_pages),
        cmocka_unit_test(threads_share_an_allocator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
