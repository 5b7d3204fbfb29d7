/* vk_counted: see vk_counted.h. Sizes of memory objects are remembered in a small table with a lock round it: a driver
 * call costs microseconds, the table nanoseconds. */
#define _POSIX_C_SOURCE 200809L
#include "vk_counted.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OBJECTS_MAX = 1 << 16 };

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct object {
    VkDeviceMemory memory;
    uint64_t bytes;
} objects[OBJECTS_MAX];
static uint32_t object_count;
static vk_count count;

static vk_subject_device device;
static PFN_vkGetInstanceProcAddr get_instance_proc;
static PFN_vkGetDeviceProcAddr get_device_proc;
static PFN_vkAllocateMemory driver_allocate;
static PFN_vkFreeMemory driver_free;

static void fail(const char *what)
{
    fprintf(stderr, "vk_mix: %s\n", what);
    exit(2);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- the two that are counted ------------------------------------------------------------------------------------- */

static VKAPI_ATTR VkResult VKAPI_CALL counted_allocate(VkDevice d, const VkMemoryAllocateInfo *info,
                                                       const VkAllocationCallbacks *callbacks, VkDeviceMemory *memory)
{
    uint64_t begin = now_ns();
    VkResult result = driver_allocate(d, info, callbacks, memory);
    uint64_t ns = now_ns() - begin;
    pthread_mutex_lock(&table_lock);
    count.calls++;
    count.driver_ns += ns;
    if (result == VK_SUCCESS) {
        if (object_count == OBJECTS_MAX) fail("too many memory objects");
        objects[object_count++] = (struct object){*memory, info->allocationSize};
        count.held_bytes += info->allocationSize;
        if (count.held_bytes > count.held_peak_bytes) count.held_peak_bytes = count.held_bytes;
        if (++count.allocations > count.allocations_peak) count.allocations_peak = count.allocations;
    }
    pthread_mutex_unlock(&table_lock);
    return result;
}

static VKAPI_ATTR void VKAPI_CALL counted_free(VkDevice d, VkDeviceMemory memory,
                                               const VkAllocationCallbacks *callbacks)
{
    if (memory != VK_NULL_HANDLE) {
        pthread_mutex_lock(&table_lock);
        uint32_t i = 0;
        while (i < object_count && objects[i].memory != memory) i++;
        if (i == object_count) fail("a subject frees memory that it does not have");
        count.held_bytes -= objects[i].bytes;
        objects[i] = objects[--object_count];
        count.allocations--;
        count.calls++;
        pthread_mutex_unlock(&table_lock);
    }
    uint64_t begin = now_ns();
    driver_free(d, memory, callbacks);
    uint64_t ns = now_ns() - begin;
    pthread_mutex_lock(&table_lock);
    count.driver_ns += ns;
    pthread_mutex_unlock(&table_lock);
}

static PFN_vkVoidFunction counted_or(const char *name, PFN_vkVoidFunction driver)
{
    if (driver == NULL) return NULL;
    if (strcmp(name, "vkAllocateMemory") == 0) return (PFN_vkVoidFunction)counted_allocate;
    if (strcmp(name, "vkFreeMemory") == 0) return (PFN_vkVoidFunction)counted_free;
    return driver;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_device(VkDevice d, const char *name)
{
    if (strcmp(name, "vkGetDeviceProcAddr") == 0) return (PFN_vkVoidFunction)get_device;
    return counted_or(name, get_device_proc(d, name));
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_instance(VkInstance i, const char *name)
{
    if (strcmp(name, "vkGetInstanceProcAddr") == 0) return (PFN_vkVoidFunction)get_instance;
    if (strcmp(name, "vkGetDeviceProcAddr") == 0) return (PFN_vkVoidFunction)get_device;
    return counted_or(name, get_instance_proc(i, name));
}

void counted_reset(void)
{
    pthread_mutex_lock(&table_lock);
    count = (vk_count){.allocations = count.allocations, .allocations_peak = count.allocations,
                       .held_bytes = count.held_bytes, .held_peak_bytes = count.held_bytes};
    pthread_mutex_unlock(&table_lock);
}

vk_count counted_read(void)
{
    pthread_mutex_lock(&table_lock);
    vk_count copy = count;
    pthread_mutex_unlock(&table_lock);
    return copy;
}

/* --- the device --------------------------------------------------------------------------------------------------- */

#define INSTANCE_CALL(name) ((PFN_##name)get_instance_proc(device.instance, #name))
#define DEVICE_CALL(name) ((PFN_##name)get_device_proc(device.device, #name))

vk_subject_device counted_open(const char **device_name)
{
    void *library = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) fail("no libvulkan.so.1");
    get_instance_proc = (PFN_vkGetInstanceProcAddr)dlsym(library, "vkGetInstanceProcAddr");
    if (get_instance_proc == NULL) fail("libvulkan.so.1 has no vkGetInstanceProcAddr");

    device.api_version = VK_API_VERSION_1_1;
    VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = device.api_version};
    VkInstanceCreateInfo instance_info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
                                          .pApplicationInfo = &application};
    PFN_vkCreateInstance create_instance = (PFN_vkCreateInstance)get_instance_proc(NULL, "vkCreateInstance");
    if (create_instance == NULL || create_instance(&instance_info, NULL, &device.instance) != VK_SUCCESS)
        fail("no Vulkan instance");
    uint32_t devices = 1;
    VkResult result =
        INSTANCE_CALL(vkEnumeratePhysicalDevices)(device.instance, &devices, &device.physical_device);
    if ((result != VK_SUCCESS && result != VK_INCOMPLETE) || devices == 0) fail("no Vulkan device");
    static VkPhysicalDeviceProperties properties;
    INSTANCE_CALL(vkGetPhysicalDeviceProperties)(device.physical_device, &properties);
    *device_name = properties.deviceName;

    float priority = 1;
    VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                     .queueCount = 1,
                                     .pQueuePriorities = &priority};
    VkDeviceCreateInfo device_info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                                      .queueCreateInfoCount = 1,
                                      .pQueueCreateInfos = &queue};
    if (INSTANCE_CALL(vkCreateDevice)(device.physical_device, &device_info, NULL, &device.device) != VK_SUCCESS)
        fail("no logical device");
    get_device_proc = INSTANCE_CALL(vkGetDeviceProcAddr);
    driver_allocate = DEVICE_CALL(vkAllocateMemory);
    driver_free = DEVICE_CALL(vkFreeMemory);
    device.get_instance = get_instance;
    device.get_device = get_device;
    return device;
}

void counted_close(void)
{
    DEVICE_CALL(vkDestroyDevice)(device.device, NULL);
    INSTANCE_CALL(vkDestroyInstance)(device.instance, NULL);
}

VkMemoryRequirements counted_buffer_requirements(VkDeviceSize bytes, VkBufferUsageFlags usage)
{
    VkBufferCreateInfo info = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = bytes, .usage = usage};
    VkBuffer buffer;
    VkMemoryRequirements requirements;
    if (DEVICE_CALL(vkCreateBuffer)(device.device, &info, NULL, &buffer) != VK_SUCCESS) fail("no buffer");
    DEVICE_CALL(vkGetBufferMemoryRequirements)(device.device, buffer, &requirements);
    DEVICE_CALL(vkDestroyBuffer)(device.device, buffer, NULL);
    return requirements;
}

VkMemoryRequirements counted_image_requirements(uint32_t side)
{
    VkImageCreateInfo info = {.sType = VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO,
                              .imageType = VK_IMAGE_TYPE_2D,
                              .format = VK_FORMAT_R8G8B8A8_UNORM,
                              .extent = {side, side, 1},
                              .mipLevels = 1,
                              .arrayLayers = 1,
                              .samples = VK_SAMPLE_COUNT_1_BIT,
                              .tiling = VK_IMAGE_TILING_OPTIMAL,
                              .usage = VK_IMAGE_USAGE_SAMPLED_BIT | VK_IMAGE_USAGE_TRANSFER_DST_BIT};
    while (side >> info.mipLevels != 0) info.mipLevels++;
    VkImage image;
    VkMemoryRequirements requirements;
    if (DEVICE_CALL(vkCreateImage)(device.device, &info, NULL, &image) != VK_SUCCESS) fail("no image");
    DEVICE_CALL(vkGetImageMemoryRequirements)(device.device, image, &requirements);
    DEVICE_CALL(vkDestroyImage)(device.device, image, NULL);
    return requirements;
}
