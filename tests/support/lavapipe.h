/* lavapipe: what the tests on that driver share: a device under the Khronos validation layer whose messenger counts
 * what the layer says, an acre_vk on it, and the few commands that carry bytes to the GPU and back. Included by tests
 * only, after cmocka.h; everything is inline.
 *
 *     const char *missing = find_loader();                  why the test is to be skipped; NULL: all is there
 *     open_device(VK_API_VERSION_1_3); … close_device();
 *     open_vk(NULL); … close_vk();                          which fails if anybody complained */
#ifndef ACRE_TESTS_LAVAPIPE_H
#define ACRE_TESTS_LAVAPIPE_H

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "acre/vulkan.h"
#include "base/bits.h"

#define LAVAPIPE   "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json"
#define VALIDATION "VK_LAYER_KHRONOS_validation"

#if defined(__SANITIZE_ADDRESS__)
/* The layer and the driver keep what they allocated to the end of the process. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0"; }
#endif

/* --- a device under validation ------------------------------------------------------------------------------------ */

#define INSTANCE_FUNCTIONS(X)                                                                                  \
    X(DestroyInstance) X(EnumeratePhysicalDevices) X(GetPhysicalDeviceProperties) X(CreateDevice)              \
    X(EnumerateDeviceExtensionProperties) X(GetDeviceProcAddr) X(CreateDebugUtilsMessengerEXT)                 \
    X(DestroyDebugUtilsMessengerEXT) X(GetPhysicalDeviceMemoryProperties)
#define DEVICE_FUNCTIONS(X)                                                                                    \
    X(DestroyDevice) X(GetDeviceQueue) X(CreateCommandPool) X(DestroyCommandPool) X(AllocateCommandBuffers)    \
    X(FreeCommandBuffers) X(BeginCommandBuffer) X(EndCommandBuffer) X(QueueSubmit) X(QueueWaitIdle)            \
    X(DeviceWaitIdle) X(CreateFence) X(DestroyFence) X(ResetFences) X(WaitForFences) X(CreateSemaphore)        \
    X(DestroySemaphore) X(CmdCopyBuffer) X(CmdCopyBufferToImage) X(CmdCopyImageToBuffer) X(CmdPipelineBarrier) \
    X(CreateBuffer) X(DestroyBuffer) X(CreateImage) X(DestroyImage) X(GetBufferMemoryRequirements)             \
    X(GetImageMemoryRequirements) X(GetImageSubresourceLayout)

static struct {
    PFN_vkGetInstanceProcAddr get;
    VkInstance instance;
    VkPhysicalDevice physical;
    VkDevice device;
    VkQueue queue;
    VkCommandPool commands;
    VkDebugUtilsMessengerEXT messenger;
    acre_vk *vk;
    acre_vk_options options;
#define X(name) PFN_vk##name name;
    INSTANCE_FUNCTIONS(X)
    DEVICE_FUNCTIONS(X)
#undef X
} v;

static _Atomic uint32_t complaints;
static bool expected; /* the message is wanted, and the call shall not be made */

static VKAPI_ATTR VkBool32 VKAPI_CALL complain(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                               VkDebugUtilsMessageTypeFlagsEXT types,
                                               const VkDebugUtilsMessengerCallbackDataEXT *data, void *user)
{
    (void)severity, (void)types, (void)user;
    atomic_fetch_add(&complaints, 1);
    if (!expected) fprintf(stderr, "validation: %s\n", data->pMessage);
    return expected;
}

static inline const char *find_loader(void)
{
    setenv("VK_ICD_FILENAMES", LAVAPIPE, 1);
    unsetenv("VK_DRIVER_FILES");
    if (access(LAVAPIPE, R_OK) != 0) return "no lavapipe (Debian: mesa-vulkan-drivers)";
    void *library = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return "no libvulkan.so.1 (Debian: libvulkan1)";
    v.get = (PFN_vkGetInstanceProcAddr)dlsym(library, "vkGetInstanceProcAddr");
    if (v.get == NULL) return "a loader without vkGetInstanceProcAddr";
    PFN_vkEnumerateInstanceLayerProperties list =
        (PFN_vkEnumerateInstanceLayerProperties)v.get(NULL, "vkEnumerateInstanceLayerProperties");
    VkLayerProperties layers[64];
    uint32_t count = 64;
    if (list == NULL || list(&count, layers) < 0) return "a loader that lists no layers";
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(layers[i].layerName, VALIDATION) == 0) return NULL;
    return "no " VALIDATION " (Debian: vulkan-validationlayers)";
}

static inline void open_device(uint32_t version)
{
    const char *layer = VALIDATION, *extension = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
    VkDebugUtilsMessengerCreateInfoEXT messages = {
        .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
        .messageSeverity = VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT |
                           VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
        .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_GENERAL_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT |
                       VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT,
        .pfnUserCallback = complain};
    VkApplicationInfo app = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = version};
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
                                 .pNext = &messages,
                                 .pApplicationInfo = &app,
                                 .enabledLayerCount = 1,
                                 .ppEnabledLayerNames = &layer,
                                 .enabledExtensionCount = 1,
                                 .ppEnabledExtensionNames = &extension};
    PFN_vkCreateInstance create = (PFN_vkCreateInstance)v.get(NULL, "vkCreateInstance");
    assert_int_equal(create(&info, NULL, &v.instance), VK_SUCCESS);
#define X(name) v.name = (PFN_vk##name)v.get(v.instance, "vk" #name);
    INSTANCE_FUNCTIONS(X)
#undef X
    assert_int_equal(v.CreateDebugUtilsMessengerEXT(v.instance, &messages, NULL, &v.messenger), VK_SUCCESS);
    uint32_t count = 1;
    assert_true(v.EnumeratePhysicalDevices(v.instance, &count, &v.physical) >= 0 && count == 1);

    bool new = version >= VK_API_VERSION_1_3;
    const char *extensions[] = {VK_KHR_EXTERNAL_MEMORY_FD_EXTENSION_NAME, VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME};
    VkPhysicalDeviceVulkan12Features features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
                                                 .timelineSemaphore = VK_TRUE,
                                                 .bufferDeviceAddress = VK_TRUE};
    float one = 1;
    VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                     .queueCount = 1,
                                     .pQueuePriorities = &one};
    VkDeviceCreateInfo device = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                                 .pNext = new ? &features : NULL,
                                 .queueCreateInfoCount = 1,
                                 .pQueueCreateInfos = &queue,
                                 .enabledExtensionCount = new ? 2 : 0,
                                 .ppEnabledExtensionNames = extensions};
    assert_int_equal(v.CreateDevice(v.physical, &device, NULL, &v.device), VK_SUCCESS);
#define X(name) v.name = (PFN_vk##name)v.GetDeviceProcAddr(v.device, "vk" #name);
    DEVICE_FUNCTIONS(X)
#undef X
    v.GetDeviceQueue(v.device, 0, 0, &v.queue);
    VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                    .flags = VK_COMMAND_POOL_CREATE_TRANSIENT_BIT};
    assert_int_equal(v.CreateCommandPool(v.device, &pool, NULL, &v.commands), VK_SUCCESS);
    v.options = (acre_vk_options){.instance = v.instance,
                                  .physical_device = v.physical,
                                  .device = v.device,
                                  .get_instance_proc_addr = v.get,
                                  .get_device_proc_addr = v.GetDeviceProcAddr,
                                  .api_version = version,
                                  .features = new ? ACRE_VK_HAS_TIMELINE | ACRE_VK_HAS_EXTERNAL_FD |
                                                        ACRE_VK_HAS_EXTERNAL_HOST | ACRE_VK_HAS_DEVICE_ADDRESS
                                                  : 0};
}

static inline void close_device(void)
{
    if (v.device != VK_NULL_HANDLE) {
        v.DeviceWaitIdle(v.device);
        v.DestroyCommandPool(v.device, v.commands, NULL);
        v.DestroyDevice(v.device, NULL);
    }
    v.DestroyDebugUtilsMessengerEXT(v.instance, v.messenger, NULL);
    v.DestroyInstance(v.instance, NULL); /* says what is left */
    v.device = VK_NULL_HANDLE;
}

static inline int start(void **state)
{
    (void)state;
    open_device(VK_API_VERSION_1_3);
    return 0;
}
/* Device and instance go: the layer says what is left. */
static inline int stop(void **state)
{
    (void)state;
    atomic_store(&complaints, 0);
    close_device();
    return atomic_load(&complaints) == 0 ? 0 : -1;
}

/* --- shorthands --------------------------------------------------------------------------------------------------- */

static inline void must(acre_status status, acre_status wanted, const char *what)
{
    if (status != wanted)
        fail_msg("%s: %s, not %s (driver: %d)", what, acre_status_name(status), acre_status_name(wanted),
                 (int)acre_vk_last_result());
}
#define OK(call)           must((call), ACRE_OK, #call)
#define REFUSED(why, call) must((call), (why), #call)

static inline void open_vk(const acre_vk_options *more)
{
    acre_vk_options o = more ? *more : v.options;
    atomic_store(&complaints, 0);
    OK(acre_vk_create(&o, &v.vk));
}

/* Nothing is left, all adds up, and nobody complained. */
static inline void close_vk(void)
{
    const char *wrong = acre_vk_check(v.vk);
    if (wrong != NULL) fail_msg("acre_vk_check: %s", wrong);
    acre_vk_stats all;
    OK(acre_vk_get_stats(v.vk, &all));
    assert_int_equal(all.total.held_bytes,
                     all.total.live_bytes + all.total.pending_bytes + all.total.hole_bytes + all.total.empty_bytes);
    assert_int_equal(acre_vk_destroy(v.vk), 0);
    assert_int_equal(atomic_load(&complaints), 0);
}

static inline VkBufferCreateInfo buffer_info(VkDeviceSize size)
{
    return (VkBufferCreateInfo){.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
                                .size = size,
                                .usage = VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT};
}
static inline VkImageCreateInfo image_info(uint32_t side, uint32_t mips)
{
    return (VkImageCreateInfo){.sType = VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO,
                               .imageType = VK_IMAGE_TYPE_2D,
                               .format = VK_FORMAT_R8G8B8A8_UNORM,
                               .extent = {side, side, 1},
                               .mipLevels = mips,
                               .arrayLayers = 1,
                               .samples = VK_SAMPLE_COUNT_1_BIT,
                               .usage = VK_IMAGE_USAGE_TRANSFER_SRC_BIT | VK_IMAGE_USAGE_TRANSFER_DST_BIT |
                                        VK_IMAGE_USAGE_SAMPLED_BIT};
}

typedef struct piece { VkBuffer buffer; VkImage image; acre_vk_allocation a; } piece;

static inline piece new_buffer(VkDeviceSize size, acre_vk_usage usage, uint32_t flags)
{
    piece p = {.image = VK_NULL_HANDLE};
    VkBufferCreateInfo info = buffer_info(size);
    acre_vk_request request = {.usage = usage, .flags = flags};
    OK(acre_vk_create_buffer(v.vk, &info, &request, &p.buffer, &p.a));
    return p;
}
static inline void end_piece(piece *p)
{
    if (p->image)
        OK(acre_vk_destroy_image(v.vk, p->image, p->a.handle));
    else
        OK(acre_vk_destroy_buffer(v.vk, p->buffer, p->a.handle));
    *p = (piece){.image = VK_NULL_HANDLE};
}

static inline void fill(void *bytes, size_t count, uint32_t seed)
{
    uint8_t *at = bytes;
    for (size_t i = 0; i < count; i++) at[i] = (uint8_t)((i * 131 + seed * 31) >> 3);
}
static inline bool filled(const void *bytes, size_t count, uint32_t seed)
{
    const uint8_t *at = bytes;
    for (size_t i = 0; i < count; i++)
        if (at[i] != (uint8_t)((i * 131 + seed * 31) >> 3)) return false;
    return true;
}

static inline VkCommandBuffer begin(void)
{
    VkCommandBufferAllocateInfo allocate = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                            .commandPool = v.commands,
                                            .commandBufferCount = 1};
    VkCommandBufferBeginInfo once = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                     .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT};
    VkCommandBuffer c;
    assert_int_equal(v.AllocateCommandBuffers(v.device, &allocate, &c), VK_SUCCESS);
    assert_int_equal(v.BeginCommandBuffer(c, &once), VK_SUCCESS);
    return c;
}
/* Everything before is done and visible to everything behind, the CPU included. */
static inline void barrier(VkCommandBuffer c)
{
    VkMemoryBarrier all = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                           .srcAccessMask = VK_ACCESS_MEMORY_WRITE_BIT,
                           .dstAccessMask = VK_ACCESS_MEMORY_READ_BIT | VK_ACCESS_MEMORY_WRITE_BIT};
    v.CmdPipelineBarrier(c, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT,
                         VK_PIPELINE_STAGE_ALL_COMMANDS_BIT | VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &all, 0, NULL, 0, NULL);
}
static inline void submit(VkCommandBuffer c)
{
    barrier(c);
    assert_int_equal(v.EndCommandBuffer(c), VK_SUCCESS);
    VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = 1, .pCommandBuffers = &c};
    assert_int_equal(v.QueueSubmit(v.queue, 1, &info, VK_NULL_HANDLE), VK_SUCCESS);
    assert_int_equal(v.QueueWaitIdle(v.queue), VK_SUCCESS);
    v.FreeCommandBuffers(v.device, v.commands, 1, &c);
}
static inline void copy(VkCommandBuffer c, VkBuffer from, VkBuffer to, VkDeviceSize size)
{
    VkBufferCopy all = {0, 0, size};
    v.CmdCopyBuffer(c, from, to, 1, &all);
    barrier(c);
}
static inline void change(VkCommandBuffer c, VkImage image, uint32_t mips, VkImageLayout from, VkImageLayout to)
{
    VkImageMemoryBarrier b = {.sType = VK_STRUCTURE_TYPE_IMAGE_MEMORY_BARRIER,
                              .srcAccessMask = VK_ACCESS_MEMORY_WRITE_BIT,
                              .dstAccessMask = VK_ACCESS_MEMORY_READ_BIT | VK_ACCESS_MEMORY_WRITE_BIT,
                              .oldLayout = from,
                              .newLayout = to,
                              .srcQueueFamilyIndex = VK_QUEUE_FAMILY_IGNORED,
                              .dstQueueFamilyIndex = VK_QUEUE_FAMILY_IGNORED,
                              .image = image,
                              .subresourceRange = {VK_IMAGE_ASPECT_COLOR_BIT, 0, mips, 0, 1}};
    v.CmdPipelineBarrier(c, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, 0, 0, NULL, 0, NULL,
                         1, &b);
}
/* Mip 0 of an image, from and to a buffer. */
static inline void upload(VkCommandBuffer c, VkBuffer from, VkImage image, uint32_t side, uint32_t mips)
{
    VkBufferImageCopy all = {.imageSubresource = {VK_IMAGE_ASPECT_COLOR_BIT, 0, 0, 1}, .imageExtent = {side, side, 1}};
    change(c, image, mips, VK_IMAGE_LAYOUT_UNDEFINED, VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL);
    v.CmdCopyBufferToImage(c, from, image, VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL, 1, &all);
    change(c, image, mips, VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL, VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL);
}
static inline void download(VkCommandBuffer c, VkImage image, VkBuffer to, uint32_t side)
{
    VkBufferImageCopy all = {.imageSubresource = {VK_IMAGE_ASPECT_COLOR_BIT, 0, 0, 1}, .imageExtent = {side, side, 1}};
    v.CmdCopyImageToBuffer(c, image, VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL, to, 1, &all);
    barrier(c);
}

static inline uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    return z ^ z >> 27;
}

#endif
