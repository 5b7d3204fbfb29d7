/* test_vk_stream_lavapipe: <acre/vulkan_stream.h> on a real driver with the Khronos validation layer looking on, which
 * has to stay silent: data that went through the ring, through growth and through moves is read back and compared.
 * Skipped where there is no lavapipe; without the layer it runs all the same and says so. */
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "acre/vulkan_stream.h"
#include "base/bits.h"

#define LAVAPIPE "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json"
#define LAYER "VK_LAYER_KHRONOS_validation"

#define FUNCTIONS(X)                                                                                                  \
    X(vkGetDeviceQueue) X(vkCreateCommandPool) X(vkAllocateCommandBuffers) X(vkBeginCommandBuffer)                    \
    X(vkEndCommandBuffer) X(vkCmdCopyBuffer) X(vkCmdPipelineBarrier) X(vkQueueSubmit) X(vkCreateSemaphore)            \
    X(vkDestroySemaphore) X(vkWaitSemaphores) X(vkDestroyCommandPool) X(vkDestroyDevice) X(vkResetCommandPool)        \
    X(vkCreateBuffer) X(vkDestroyBuffer) X(vkDeviceWaitIdle)

static struct {
    PFN_vkGetInstanceProcAddr get;
    VkInstance instance;
    VkPhysicalDevice gpu;
    VkDevice device;
    VkQueue queue;
    VkCommandPool pool;
    VkCommandBuffer commands;
    VkSemaphore timeline;
    uint64_t value;
    VkDebugUtilsMessengerEXT messenger;
    uint64_t complaints;
#define X(name) PFN_##name name;
    FUNCTIONS(X)
#undef X
    acre_vk *vk;
} v;

#define OK(call)                                                                                  \
    do {                                                                                          \
        acre_status status_ = (call);                                                             \
        if (status_ != ACRE_OK) fail_msg("%s: %s", #call, acre_status_name(status_));             \
    } while (0)

static VKAPI_ATTR VkBool32 VKAPI_CALL complain(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                               VkDebugUtilsMessageTypeFlagsEXT types,
                                               const VkDebugUtilsMessengerCallbackDataEXT *data, void *context)
{
    (void)severity, (void)types, (void)context;
    fprintf(stderr, "validation: %s\n", data->pMessage);
    v.complaints++;
    return VK_FALSE;
}

static bool has_layer(void)
{
    VkLayerProperties layers[32];
    uint32_t count = 32;
    PFN_vkEnumerateInstanceLayerProperties list =
        (PFN_vkEnumerateInstanceLayerProperties)v.get(NULL, "vkEnumerateInstanceLayerProperties");
    list(&count, layers);
    for (uint32_t i = 0; i < count && i < 32; i++)
        if (strcmp(layers[i].layerName, LAYER) == 0) return true;
    return false;
}

static bool start(void)
{
    setenv("VK_ICD_FILENAMES", LAVAPIPE, 1);
    if (access(LAVAPIPE, R_OK) != 0) return false;
    void *library = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return false;
    v.get = (PFN_vkGetInstanceProcAddr)dlsym(library, "vkGetInstanceProcAddr");
    bool validate = has_layer();
    if (!validate) print_message("no validation layer here: it runs without\n");
    const VkDebugUtilsMessengerCreateInfoEXT listener = {
        .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
        .messageSeverity =
            VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
        .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT,
        .pfnUserCallback = complain};
    const VkApplicationInfo app = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_3};
    const char *layer = LAYER, *extension = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
    const VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &app,
                                       .enabledLayerCount = validate, .ppEnabledLayerNames = &layer,
                                       .enabledExtensionCount = validate, .ppEnabledExtensionNames = &extension};
    if (((PFN_vkCreateInstance)v.get(NULL, "vkCreateInstance"))(&info, NULL, &v.instance) != VK_SUCCESS) return false;
    if (validate)
        ((PFN_vkCreateDebugUtilsMessengerEXT)v.get(v.instance, "vkCreateDebugUtilsMessengerEXT"))(v.instance, &listener,
                                                                                                NULL, &v.messenger);
    uint32_t count = 1;
    ((PFN_vkEnumeratePhysicalDevices)v.get(v.instance, "vkEnumeratePhysicalDevices"))(v.instance, &count, &v.gpu);
    if (count == 0) return false;
    const float one = 1;
    const VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueCount = 1,
                                           .pQueuePriorities = &one};
    const VkPhysicalDeviceVulkan12Features features = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, .timelineSemaphore = VK_TRUE};
    const VkDeviceCreateInfo device = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, .pNext = &features,
                                       .queueCreateInfoCount = 1, .pQueueCreateInfos = &queue};
    if (((PFN_vkCreateDevice)v.get(v.instance, "vkCreateDevice"))(v.gpu, &device, NULL, &v.device) != VK_SUCCESS)
        return false;
    PFN_vkGetDeviceProcAddr of_device = (PFN_vkGetDeviceProcAddr)v.get(v.instance, "vkGetDeviceProcAddr");
#define X(name) v.name = (PFN_##name)of_device(v.device, #name);
    FUNCTIONS(X)
#undef X
    v.vkGetDeviceQueue(v.device, 0, 0, &v.queue);
    const VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO};
    v.vkCreateCommandPool(v.device, &pool, NULL, &v.pool);
    const VkCommandBufferAllocateInfo commands = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                                  .commandPool = v.pool, .commandBufferCount = 1};
    v.vkAllocateCommandBuffers(v.device, &commands, &v.commands);
    const VkSemaphoreTypeCreateInfo type = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
                                            .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE};
    const VkSemaphoreCreateInfo semaphore = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, .pNext = &type};
    v.vkCreateSemaphore(v.device, &semaphore, NULL, &v.timeline);
    const acre_vk_options options = {.instance = v.instance, .physical_device = v.gpu, .device = v.device,
                                     .get_instance_proc_addr = v.get, .get_device_proc_addr = of_device,
                                     .api_version = VK_API_VERSION_1_3, .features = ACRE_VK_HAS_TIMELINE,
                                     .page_bytes_min = MIB, .page_bytes_max = MIB};
    return acre_vk_create(&options, &v.vk) == ACRE_OK;
}

/* --- commands --------------------------------------------------------------------------------------------------- */

static acre_vk_point point(void) { return (acre_vk_point){.semaphore = v.timeline, .value = v.value}; }

static void wait(void)
{
    const VkSemaphoreWaitInfo info = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO, .semaphoreCount = 1,
                                      .pSemaphores = &v.timeline, .pValues = &v.value};
    assert_int_equal(v.vkWaitSemaphores(v.device, &info, UINT64_MAX), VK_SUCCESS);
}

/* One command buffer, so the last submission is over before the next begins. */
static void begin(void)
{
    wait();
    v.vkResetCommandPool(v.device, v.pool, 0);
    const VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    v.vkBeginCommandBuffer(v.commands, &info);
    v.value++;
}

static void copy(VkBuffer from, VkDeviceSize from_offset, VkBuffer to, VkDeviceSize to_offset, VkDeviceSize bytes)
{
    const VkBufferCopy region = {from_offset, to_offset, bytes};
    v.vkCmdCopyBuffer(v.commands, from, to, 1, &region);
    const VkMemoryBarrier barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                                     .srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT,
                                     .dstAccessMask = VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_HOST_READ_BIT};
    v.vkCmdPipelineBarrier(v.commands, VK_PIPELINE_STAGE_TRANSFER_BIT,
                           VK_PIPELINE_STAGE_TRANSFER_BIT | VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &barrier, 0, NULL, 0,
                           NULL);
}

static void submit(void)
{
    v.vkEndCommandBuffer(v.commands);
    const VkTimelineSemaphoreSubmitInfo values = {.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
                                                  .signalSemaphoreValueCount = 1, .pSignalSemaphoreValues = &v.value};
    const VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                               .pNext = &values,
                               .commandBufferCount = 1,
                               .pCommandBuffers = &v.commands,
                               .signalSemaphoreCount = 1,
                               .pSignalSemaphores = &v.timeline};
    assert_int_equal(v.vkQueueSubmit(v.queue, 1, &info, VK_NULL_HANDLE), VK_SUCCESS);
}

static VkBufferCreateInfo buffer_info(VkDeviceSize bytes)
{
    return (VkBufferCreateInfo){.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = bytes,
                                .usage = VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT};
}

static VkBuffer read_back_buffer(VkDeviceSize bytes, acre_vk_allocation *memory)
{
    const VkBufferCreateInfo info = buffer_info(bytes);
    const acre_vk_request request = {.usage = ACRE_VK_READBACK, .flags = ACRE_VK_MAPPED};
    VkBuffer buffer;
    OK(acre_vk_create_buffer(v.vk, &info, &request, &buffer, memory));
    return buffer;
}

static void check(void)
{
    const char *wrong = acre_vk_check(v.vk);
    if (wrong != NULL) fail_msg("%s", wrong);
    assert_int_equal(v.complaints, 0);
}

/* --- tests ------------------------------------------------------------------------------------------------------ */

enum { PIECES = 16, PIECE_BYTES = 3000 };
typedef struct writer {
    acre_vk_ring *ring;
    acre_vk_piece pieces[PIECES];
    unsigned char mark;
} writer;

static void *write_pieces(void *context)
{
    writer *me = context;
    for (int i = 0; i < PIECES; i++) {
        acre_status status;
        while ((status = acre_vk_ring_alloc(me->ring, PIECE_BYTES, 0, &me->pieces[i])) == ACRE_BUSY)
            acre_vk_ring_wait(me->ring, UINT64_MAX);
        if (status != ACRE_OK) abort();
        memset(me->pieces[i].mapped, me->mark + i, PIECE_BYTES);
    }
    return NULL;
}

static void what_two_threads_write_into_the_ring_arrives(void **state)
{
    (void)state;
    acre_vk_ring *ring;
    const acre_vk_ring_options options = {.bytes = 128 * 1024, .bytes_max = MIB};
    OK(acre_vk_ring_create(v.vk, &options, &ring));
    acre_vk_allocation memory;
    VkBuffer back = read_back_buffer(2 * PIECES * PIECE_BYTES, &memory);
    static writer writers[2];
    for (int frame = 0; frame < 60; frame++) {
        pthread_t threads[2];
        for (int t = 0; t < 2; t++) {
            writers[t].ring = ring;
            writers[t].mark = (unsigned char)(frame * 3 + t * 100);
            assert_int_equal(pthread_create(&threads[t], NULL, write_pieces, &writers[t]), 0);
        }
        for (int t = 0; t < 2; t++) pthread_join(threads[t], NULL);
        begin();
        for (int t = 0; t < 2; t++)
            for (int i = 0; i < PIECES; i++)
                copy(writers[t].pieces[i].buffer, writers[t].pieces[i].offset, back,
                     (VkDeviceSize)(t * PIECES + i) * PIECE_BYTES, PIECE_BYTES);
        acre_vk_point p = point();
        OK(acre_vk_ring_frame_end(ring, &p));
        submit();
        wait();
        OK(acre_vk_invalidate(v.vk, memory.handle, 0, VK_WHOLE_SIZE));
        for (int n = 0; n < 2 * PIECES * PIECE_BYTES; n++)
            if (((unsigned char *)memory.mapped)[n] !=
                (unsigned char)(writers[n / PIECE_BYTES / PIECES].mark + n / PIECE_BYTES % PIECES))
                fail_msg("frame %d: byte %d is wrong", frame, n);
    }
    acre_vk_ring_destroy(ring);
    OK(acre_vk_destroy_buffer(v.vk, back, memory.handle));
    check();
}

static void a_growable_keeps_its_contents(void **state)
{
    (void)state;
    acre_vk_sparse *none;
    const VkBufferCreateInfo info = buffer_info(100000);
    const char *lack = acre_vk_sparse_lack(v.vk, false);
    if (lack != NULL) { /* so says lavapipe of today */
        assert_int_equal(acre_vk_sparse_create_buffer(v.vk, &info, NULL, &none), ACRE_NOT_SUPPORTED);
        assert_true(strlen(lack) > 20);
    }
    acre_vk_growable *g;
    const acre_vk_growable_options options = {.bytes = 4096, .buffer_usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT};
    OK(acre_vk_growable_create(v.vk, &options, &g));
    acre_vk_allocation memory;
    VkBuffer back = read_back_buffer(MIB, &memory);
    acre_vk_ring *ring;
    const acre_vk_ring_options ring_options = {.bytes = 64 * 1024};
    OK(acre_vk_ring_create(v.vk, &ring_options, &ring));
    uint32_t copies = 0;
    for (uint64_t at = 0; at < MIB; at += 4096) { /* an append-only list */
        acre_vk_growth growth;
        OK(acre_vk_growable_resize(g, at + 4096, false, NULL, &growth));
        begin();
        acre_vk_point p = point();
        if (!growth.in_place) {
            copy(growth.from, 0, growth.to, 0, growth.copy_bytes);
            OK(acre_vk_growable_finish(g, p));
            copies++;
        }
        acre_vk_piece piece;
        while (acre_vk_ring_alloc(ring, 4096, 0, &piece) == ACRE_BUSY) OK(acre_vk_ring_wait(ring, UINT64_MAX));
        memset(piece.mapped, (int)(at / 4096 % 251), 4096);
        copy(piece.buffer, piece.offset, acre_vk_growable_buffer(g), at, 4096);
        OK(acre_vk_ring_frame_end(ring, &p));
        submit();
        acre_vk_collect(v.vk);
    }
    assert_true(copies > 5 && copies < 20);
    begin();
    copy(acre_vk_growable_buffer(g), 0, back, 0, MIB);
    submit();
    wait();
    OK(acre_vk_invalidate(v.vk, memory.handle, 0, VK_WHOLE_SIZE));
    for (uint64_t n = 0; n < MIB; n++)
        if (((unsigned char *)memory.mapped)[n] != n / 4096 % 251) fail_msg("byte %lu is wrong", (unsigned long)n);
    OK(acre_vk_growable_destroy(g, point()));
    acre_vk_ring_destroy(ring);
    OK(acre_vk_destroy_buffer(v.vk, back, memory.handle));
    acre_vk_collect(v.vk);
    check();
}

enum { COUNT = 300 };
static struct {
    VkBuffer buffer;
    acre_vk_allocation a;
    uint64_t bytes;
} items[COUNT];

/* Fills or reads all live buffers through one mapped buffer. */
static void fill_or_compare(bool fill, VkBuffer mapped, void *bytes, uint64_t handle)
{
    uint64_t at = 0;
    if (!fill) memset(bytes, 0, 16 * MIB);
    begin();
    for (uint64_t i = 0; i < COUNT; i++) {
        if (items[i].buffer == VK_NULL_HANDLE) continue;
        if (fill) memset((char *)bytes + at, (int)(i % 255 + 1), items[i].bytes);
        if (fill) copy(mapped, at, items[i].buffer, 0, items[i].bytes);
        else copy(items[i].buffer, 0, mapped, at, items[i].bytes);
        at += items[i].bytes;
    }
    submit();
    wait();
    at = 0;
    OK(acre_vk_invalidate(v.vk, handle, 0, VK_WHOLE_SIZE));
    for (uint64_t i = 0; i < COUNT && !fill; i++) {
        if (items[i].buffer == VK_NULL_HANDLE) continue;
        for (uint64_t b = 0; b < items[i].bytes; b++)
            if (((unsigned char *)bytes)[at + b] != i % 255 + 1) fail_msg("buffer %lu, byte %lu", (unsigned long)i,
                                                                          (unsigned long)b);
        at += items[i].bytes;
    }
}

static bool of_the_test(void *context, const acre_vk_block_info *block)
{
    (void)context;
    return block->tag != 0;
}

static void moved_buffers_keep_their_contents_and_pages_go(void **state)
{
    (void)state;
    acre_vk_allocation memory;
    VkBuffer mapped = read_back_buffer(16 * MIB, &memory);
    for (uint64_t i = 0; i < COUNT; i++) {
        items[i].bytes = 4096 + i * 7919 % 60000;
        const VkBufferCreateInfo info = buffer_info(items[i].bytes);
        const acre_vk_request request = {.tag = i + 1};
        OK(acre_vk_create_buffer(v.vk, &info, &request, &items[i].buffer, &items[i].a));
    }
    for (uint64_t i = 0; i < COUNT; i++) {
        if (i % 4 == 0) continue;
        OK(acre_vk_destroy_buffer(v.vk, items[i].buffer, items[i].a.handle));
        items[i].buffer = VK_NULL_HANDLE;
    }
    fill_or_compare(true, mapped, memory.mapped, memory.handle);
    acre_vk_stats before, after;
    OK(acre_vk_get_stats(v.vk, &before));

    acre_vk_defrag *d;
    const acre_vk_defrag_options options = {.step_moves_max = 16, .movable = of_the_test};
    OK(acre_vk_defrag_begin(v.vk, &options, &d));
    acre_vk_move moves[16];
    VkBuffer fresh[16];
    uint32_t count, all = 0;
    for (;;) {
        OK(acre_vk_defrag_step(d, moves, 16, &count));
        if (count == 0) break;
        begin();
        for (uint32_t m = 0; m < count; m++) {
            uint64_t i = moves[m].tag - 1;
            const VkBufferCreateInfo info = buffer_info(items[i].bytes);
            assert_int_equal(v.vkCreateBuffer(v.device, &info, NULL, &fresh[m]), VK_SUCCESS);
            OK(acre_vk_bind_buffer(v.vk, moves[m].to.handle, 0, fresh[m]));
            copy(items[i].buffer, 0, fresh[m], 0, items[i].bytes);
        }
        submit();
        for (uint32_t m = 0; m < count; m++) {
            uint64_t i = moves[m].tag - 1;
            OK(acre_vk_destroy_buffer_after(v.vk, items[i].buffer, 0, point()));
            OK(acre_vk_defrag_confirm(d, moves[m].id, point()));
            items[i].buffer = fresh[m];
        }
        wait();
        acre_vk_collect(v.vk);
        all += count;
    }
    acre_vk_defrag_result result;
    acre_vk_defrag_end(d, &result);
    assert_int_equal(result.moves, all);
    assert_true(all > 20 && result.pages_emptied >= 3);
    acre_vk_trim(v.vk, 0);
    OK(acre_vk_get_stats(v.vk, &after));
    assert_true(after.pages < before.pages && after.total.live_bytes == before.total.live_bytes);
    fill_or_compare(false, mapped, memory.mapped, memory.handle);
    for (uint64_t i = 0; i < COUNT; i++)
        if (items[i].buffer != VK_NULL_HANDLE) OK(acre_vk_destroy_buffer(v.vk, items[i].buffer, items[i].a.handle));
    OK(acre_vk_destroy_buffer(v.vk, mapped, memory.handle));
    check();
}

static void nothing_is_left_and_the_layer_was_silent(void **state)
{
    (void)state;
    v.vkDeviceWaitIdle(v.device);
    acre_vk_collect(v.vk);
    assert_int_equal(acre_vk_destroy(v.vk), 0);
    v.vkDestroySemaphore(v.device, v.timeline, NULL);
    v.vkDestroyCommandPool(v.device, v.pool, NULL);
    v.vkDestroyDevice(v.device, NULL);
    assert_int_equal(v.complaints, 0);
    if (v.messenger != VK_NULL_HANDLE)
        ((PFN_vkDestroyDebugUtilsMessengerEXT)v.get(v.instance, "vkDestroyDebugUtilsMessengerEXT"))(v.instance,
                                                                                                  v.messenger, NULL);
    ((PFN_vkDestroyInstance)v.get(v.instance, "vkDestroyInstance"))(v.instance, NULL);
}

int main(void)
{
    if (!start()) return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_two_threads_write_into_the_ring_arrives),
        cmocka_unit_test(a_growable_keeps_its_contents),
        cmocka_unit_test(moved_buffers_keep_their_contents_and_pages_go),
        cmocka_unit_test(nothing_is_left_and_the_layer_was_silent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
