/* fake_query: what the fake device says of itself (see fake_vulkan.h), and the tables behind Get…ProcAddr. */
#include <string.h>

#include "fake_vulkan_inside.h"

/* --- extensions --------------------------------------------------------------------------------------------------- */

static const struct { const char *name; uint32_t without; } extensions[] = {
    {VK_EXT_MEMORY_BUDGET_EXTENSION_NAME, FAKE_VK_NO_BUDGET},
    {VK_EXT_MEMORY_PRIORITY_EXTENSION_NAME, FAKE_VK_NO_PRIORITY},
    {VK_EXT_PAGEABLE_DEVICE_LOCAL_MEMORY_EXTENSION_NAME, FAKE_VK_NO_PRIORITY},
    {VK_KHR_DEDICATED_ALLOCATION_EXTENSION_NAME, FAKE_VK_NO_DEDICATED},
    {VK_KHR_GET_MEMORY_REQUIREMENTS_2_EXTENSION_NAME, FAKE_VK_NO_DEDICATED},
    {VK_KHR_BIND_MEMORY_2_EXTENSION_NAME, 0},
    {VK_KHR_MAINTENANCE_4_EXTENSION_NAME, 0},
    {VK_KHR_EXTERNAL_MEMORY_EXTENSION_NAME, 0},
    {VK_KHR_EXTERNAL_MEMORY_FD_EXTENSION_NAME, FAKE_VK_NO_EXTERNAL_FD},
    {VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME, FAKE_VK_NO_EXTERNAL_HOST},
    {VK_KHR_TIMELINE_SEMAPHORE_EXTENSION_NAME, FAKE_VK_NO_TIMELINE},
    {VK_KHR_BUFFER_DEVICE_ADDRESS_EXTENSION_NAME, FAKE_VK_NO_DEVICE_ADDRESS},
};

static VKAPI_ATTR VkResult VKAPI_CALL fake_vkEnumerateDeviceExtensionProperties(VkPhysicalDevice device,
                                                                                const char *layer, uint32_t *count,
                                                                                VkExtensionProperties *out)
{
    (void)layer;
    fake_vk *gpu = device->gpu;
    VkResult result = fake_enter(gpu, FAKE_VK_EnumerateDeviceExtensionProperties);
    if (result != VK_SUCCESS) return result;
    uint32_t have = 0;
    for (size_t i = 0; i < sizeof extensions / sizeof *extensions; i++) {
        if (gpu->options.without & extensions[i].without) continue;
        if (out != NULL && have == *count) {
            result = VK_INCOMPLETE;
            break;
        }
        if (out != NULL) {
            out[have] = (VkExtensionProperties){.specVersion = 1};
            strcpy(out[have].extensionName, extensions[i].name);
        }
        have++;
    }
    *count = have;
    fake_leave(gpu);
    return result;
}

/* --- properties and features -------------------------------------------------------------------------------------- */

/* A structure of an output chain that this file may write. */
static void *chained_out(void *next, VkStructureType type) { return (void *)(uintptr_t)fake_chained(next, type); }

static void properties_of(const fake_vk *gpu, VkPhysicalDeviceProperties *out)
{
    *out = (VkPhysicalDeviceProperties){
        .apiVersion = gpu->options.api_version,
        .vendorID = 0xFA4E,
        .deviceType = VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU,
        .deviceName = "fake",
        .limits = {.maxMemoryAllocationCount = gpu->options.allocations_max,
                   .bufferImageGranularity = gpu->options.buffer_image_granularity,
                   .nonCoherentAtomSize = gpu->options.non_coherent_atom,
                   .minMemoryMapAlignment = 4096,
                   .minUniformBufferOffsetAlignment = 256,
                   .minStorageBufferOffsetAlignment = 64,
                   .minTexelBufferOffsetAlignment = 64,
                   .optimalBufferCopyOffsetAlignment = 4,
                   .optimalBufferCopyRowPitchAlignment = 4,
                   .maxImageDimension2D = 16384,
                   .maxImageArrayLayers = 2048,
                   .maxUniformBufferRange = 65536,
                   .maxStorageBufferRange = UINT32_MAX,
                   .sparseAddressSpaceSize = gpu->options.without & FAKE_VK_NO_SPARSE ? 0 : 1ull << 40},
        .sparseProperties = {.residencyStandard2DBlockShape = !(gpu->options.without & FAKE_VK_NO_SPARSE)},
    };
}

static VKAPI_ATTR void VKAPI_CALL fake_vkGetPhysicalDeviceProperties(VkPhysicalDevice device,
                                                                     VkPhysicalDeviceProperties *out)
{
    fake_enter(device->gpu, FAKE_VK_GetPhysicalDeviceProperties);
    properties_of(device->gpu, out);
    fake_leave(device->gpu);
}

static VKAPI_ATTR void VKAPI_CALL fake_vkGetPhysicalDeviceProperties2(VkPhysicalDevice device,
                                                                      VkPhysicalDeviceProperties2 *out)
{
    fake_vk *gpu = device->gpu;
    fake_enter(gpu, FAKE_VK_GetPhysicalDeviceProperties);
    properties_of(gpu, &out->properties);
    VkPhysicalDeviceExternalMemoryHostPropertiesEXT *host =
        chained_out(out->pNext, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT);
    VkPhysicalDeviceMaintenance3Properties *maintenance =
        chained_out(out->pNext, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES);
    VkPhysicalDeviceVulkan11Properties *v11 =
        chained_out(out->pNext, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES);
    if (host != NULL && (gpu->options.without & FAKE_VK_NO_EXTERNAL_HOST))
        fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "properties of external host memory, which this device does not know");
    else if (host != NULL)
        host->minImportedHostPointerAlignment = gpu->options.host_pointer_alignment;
    if (maintenance != NULL) maintenance->maxMemoryAllocationSize = gpu->options.allocation_bytes_max;
    if (maintenance != NULL) maintenance->maxPerSetDescriptors = 1024;
    if (v11 != NULL) v11->maxMemoryAllocationSize = gpu->options.allocation_bytes_max;
    fake_leave(gpu);
}

static void features_of(const fake_vk *gpu, VkPhysicalDeviceFeatures *out)
{
    VkBool32 sparse = !(gpu->options.without & FAKE_VK_NO_SPARSE);
    *out = (VkPhysicalDeviceFeatures){
        .sparseBinding = sparse,
        .sparseResidencyBuffer = sparse,
        .sparseResidencyImage2D = sparse,
        .sparseResidencyAliased = sparse,
    };
}

static VKAPI_ATTR void VKAPI_CALL fake_vkGetPhysicalDeviceFeatures(VkPhysicalDevice device,
                                                                   VkPhysicalDeviceFeatures *out)
{
    fake_enter(device->gpu, FAKE_VK_GetPhysicalDeviceFeatures);
    features_of(device->gpu, out);
    fake_leave(device->gpu);
}

static VKAPI_ATTR void VKAPI_CALL fake_vkGetPhysicalDeviceFeatures2(VkPhysicalDevice device,
                                                                    VkPhysicalDeviceFeatures2 *out)
{
    fake_vk *gpu = device->gpu;
    fake_enter(gpu, FAKE_VK_GetPhysicalDeviceFeatures);
    features_of(gpu, &out->features);
    VkPhysicalDeviceVulkan12Features *v12 =
        chained_out(out->pNext, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES);
    VkPhysicalDeviceTimelineSemaphoreFeatures *timeline =
        chained_out(out->pNext, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES);
    VkPhysicalDeviceBufferDeviceAddressFeatures *address =
        chained_out(out->pNext, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_BUFFER_DEVICE_ADDRESS_FEATURES);
    VkPhysicalDeviceMemoryPriorityFeaturesEXT *priority =
        chained_out(out->pNext, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PRIORITY_FEATURES_EXT);
    uint32_t without = gpu->options.without;
    if (v12 != NULL) v12->timelineSemaphore = !(without & FAKE_VK_NO_TIMELINE);
    if (v12 != NULL) v12->bufferDeviceAddress = !(without & FAKE_VK_NO_DEVICE_ADDRESS);
    if (timeline != NULL) timeline->timelineSemaphore = !(without & FAKE_VK_NO_TIMELINE);
    if (address != NULL) address->bufferDeviceAddress = !(without & FAKE_VK_NO_DEVICE_ADDRESS);
    if (priority != NULL) priority->memoryPriority = !(without & FAKE_VK_NO_PRIORITY);
    fake_leave(gpu);
}

static VKAPI_ATTR void VKAPI_CALL fake_vkGetPhysicalDeviceMemoryProperties(VkPhysicalDevice device,
                                                                           VkPhysicalDeviceMemoryProperties *out)
{
    fake_enter(device->gpu, FAKE_VK_GetPhysicalDeviceMemoryProperties);
    *out = device->gpu->options.memory;
    fake_leave(device->gpu);
}

static VKAPI_ATTR void VKAPI_CALL fake_vkGetPhysicalDeviceMemoryProperties2(VkPhysicalDevice device,
                                                                            VkPhysicalDeviceMemoryProperties2 *out)
{
    fake_vk *gpu = device->gpu;
    fake_enter(gpu, FAKE_VK_GetPhysicalDeviceMemoryProperties);
    out->memoryProperties = gpu->options.memory;
    VkPhysicalDeviceMemoryBudgetPropertiesEXT *budget =
        chained_out(out->pNext, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT);
    if (budget != NULL && (gpu->options.without & FAKE_VK_NO_BUDGET))
        fake_wrong(gpu, FAKE_VK_WRONG_USAGE, "a memory budget, which this device does not know");
    for (uint32_t i = 0; budget != NULL && i < VK_MAX_MEMORY_HEAPS; i++) {
        bool there = i < gpu->options.memory.memoryHeapCount && !(gpu->options.without & FAKE_VK_NO_BUDGET);
        VkDeviceSize size = there ? gpu->options.memory.memoryHeaps[i].size : 0;
        budget->heapBudget[i] = there && gpu->budget[i] ? gpu->budget[i] : size;
        budget->heapUsage[i] = there ? gpu->used[i] + gpu->other[i] : 0;
    }
    fake_leave(gpu);
}

static VKAPI_ATTR void VKAPI_CALL
fake_vkGetPhysicalDeviceExternalBufferProperties(VkPhysicalDevice device,
                                                 const VkPhysicalDeviceExternalBufferInfo *info,
                                                 VkExternalBufferProperties *out)
{
    fake_vk *gpu = device->gpu;
    fake_enter(gpu, FAKE_VK_GetPhysicalDeviceOther);
    VkExternalMemoryProperties *p = &out->externalMemoryProperties;
    bool fd = info->handleType == VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT ||
              info->handleType == VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT;
    bool host = info->handleType == VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;
    fd = fd && !(gpu->options.without & FAKE_VK_NO_EXTERNAL_FD);
    host = host && !(gpu->options.without & FAKE_VK_NO_EXTERNAL_HOST);
    p->externalMemoryFeatures = (fd ? VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT : 0u) |
                                (fd || host ? VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT : 0u);
    p->compatibleHandleTypes = p->exportFromImportedHandleTypes = fd || host ? info->handleType : 0;
    fake_leave(gpu);
}

static VKAPI_ATTR void VKAPI_CALL fake_vkGetPhysicalDeviceQueueFamilyProperties(VkPhysicalDevice device,
                                                                                uint32_t *count,
                                                                                VkQueueFamilyProperties *out)
{
    fake_vk *gpu = device->gpu;
    fake_enter(gpu, FAKE_VK_GetPhysicalDeviceOther);
    VkQueueFlags flags = VK_QUEUE_GRAPHICS_BIT | VK_QUEUE_COMPUTE_BIT | VK_QUEUE_TRANSFER_BIT;
    if (!(gpu->options.without & FAKE_VK_NO_SPARSE)) flags |= VK_QUEUE_SPARSE_BINDING_BIT;
    if (out != NULL && *count > 0) *out = (VkQueueFamilyProperties){.queueFlags = flags, .queueCount = 1};
    if (out == NULL || *count > 1) *count = 1;
    fake_leave(gpu);
}

static VKAPI_ATTR void VKAPI_CALL fake_vkGetDeviceQueue(VkDevice device, uint32_t family, uint32_t index,
                                                        VkQueue *queue)
{
    (void)family, (void)index;
    *queue = &device->gpu->queue;
}

/* --- functions by name -------------------------------------------------------------------------------------------- */

typedef struct fake_function {
    const char *name;
    PFN_vkVoidFunction function;
} fake_function;

static const fake_function device_functions[] = {
#define X(name) {"vk" #name, (PFN_vkVoidFunction)fake_vk##name},
    FAKE_VK_FUNCTION_LIST(X)
#undef X
    {"vkGetDeviceQueue", (PFN_vkVoidFunction)fake_vkGetDeviceQueue},
};

#define ENTRY(name) {"vk" #name, (PFN_vkVoidFunction)fake_vk##name}
static const fake_function instance_functions[] = {
    ENTRY(EnumerateDeviceExtensionProperties),
    ENTRY(GetPhysicalDeviceProperties),
    ENTRY(GetPhysicalDeviceProperties2),
    ENTRY(GetPhysicalDeviceFeatures),
    ENTRY(GetPhysicalDeviceFeatures2),
    ENTRY(GetPhysicalDeviceMemoryProperties),
    ENTRY(GetPhysicalDeviceMemoryProperties2),
    ENTRY(GetPhysicalDeviceExternalBufferProperties),
    ENTRY(GetPhysicalDeviceQueueFamilyProperties),
    ENTRY(GetPhysicalDeviceSparseImageFormatProperties),
};

/* From which version a function of the core is there, and which extension has it under the name with KHR. */
static const struct { const char *name; uint32_t version, without; } newer[] = {
    {"vkGetPhysicalDeviceProperties2", VK_API_VERSION_1_1, FAKE_VK_NO_PROPERTIES2},
    {"vkGetPhysicalDeviceFeatures2", VK_API_VERSION_1_1, FAKE_VK_NO_PROPERTIES2},
    {"vkGetPhysicalDeviceMemoryProperties2", VK_API_VERSION_1_1, FAKE_VK_NO_PROPERTIES2},
    {"vkGetPhysicalDeviceExternalBufferProperties", VK_API_VERSION_1_1, FAKE_VK_NO_EXTERNAL_FD},
    {"vkGetBufferMemoryRequirements2", VK_API_VERSION_1_1, FAKE_VK_NO_DEDICATED},
    {"vkGetImageMemoryRequirements2", VK_API_VERSION_1_1, FAKE_VK_NO_DEDICATED},
    {"vkGetImageSparseMemoryRequirements2", VK_API_VERSION_1_1, FAKE_VK_NO_DEDICATED},
    {"vkBindBufferMemory2", VK_API_VERSION_1_1, 0},
    {"vkBindImageMemory2", VK_API_VERSION_1_1, 0},
    {"vkGetBufferDeviceAddress", VK_API_VERSION_1_2, FAKE_VK_NO_DEVICE_ADDRESS},
    {"vkGetSemaphoreCounterValue", VK_API_VERSION_1_2, FAKE_VK_NO_TIMELINE},
    {"vkWaitSemaphores", VK_API_VERSION_1_2, FAKE_VK_NO_TIMELINE},
    {"vkSignalSemaphore", VK_API_VERSION_1_2, FAKE_VK_NO_TIMELINE},
    {"vkGetDeviceBufferMemoryRequirements", VK_API_VERSION_1_3, 0},
    {"vkGetDeviceImageMemoryRequirements", VK_API_VERSION_1_3, 0},
};
/* Functions that an extension has under no other name. */
static const struct { const char *name; uint32_t without; } extension_functions[] = {
    {"vkGetMemoryFdKHR", FAKE_VK_NO_EXTERNAL_FD},
    {"vkGetMemoryFdPropertiesKHR", FAKE_VK_NO_EXTERNAL_FD},
    {"vkGetMemoryHostPointerPropertiesEXT", FAKE_VK_NO_EXTERNAL_HOST},
    {"vkSetDeviceMemoryPriorityEXT", FAKE_VK_NO_PRIORITY},
};

static bool missing(const fake_vk *gpu, const char *name)
{
    for (const char *const *m = gpu->options.missing; m != NULL && *m != NULL; m++)
        if (strcmp(*m, name) == 0) return true;
    for (size_t i = 0; i < sizeof extension_functions / sizeof *extension_functions; i++)
        if (strcmp(extension_functions[i].name, name) == 0)
            return gpu->options.without & extension_functions[i].without;
    for (size_t i = 0; i < sizeof newer / sizeof *newer; i++) {
        size_t length = strlen(newer[i].name);
        if (strncmp(name, newer[i].name, length) != 0) continue;
        if (name[length] == 0) return gpu->options.api_version < newer[i].version;
        if (strcmp(name + length, "KHR") == 0) return gpu->options.without & newer[i].without;
    }
    return false;
}

/* The name without KHR finds the function that has it with. */
static PFN_vkVoidFunction find(const fake_function *table, size_t count, const char *name)
{
    size_t length = strlen(name);
    if (length > 3 && strcmp(name + length - 3, "KHR") == 0) {
        bool promoted = false;
        for (size_t i = 0; i < sizeof newer / sizeof *newer; i++)
            promoted |= strlen(newer[i].name) == length - 3 && strncmp(newer[i].name, name, length - 3) == 0;
        if (promoted) length -= 3;
    }
    for (size_t i = 0; i < count; i++)
        if (strlen(table[i].name) == length && strncmp(table[i].name, name, length) == 0) return table[i].function;
    return NULL;
}

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL fake_vk_get_device_proc_addr(VkDevice device, const char *name)
{
    if (device == NULL || missing(device->gpu, name)) return NULL;
    if (strcmp(name, "vkGetDeviceProcAddr") == 0) return (PFN_vkVoidFunction)fake_vk_get_device_proc_addr;
    return find(device_functions, sizeof device_functions / sizeof *device_functions, name);
}

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL fake_vk_get_instance_proc_addr(VkInstance instance, const char *name)
{
    if (strcmp(name, "vkGetInstanceProcAddr") == 0) return (PFN_vkVoidFunction)fake_vk_get_instance_proc_addr;
    if (instance == NULL || missing(instance->gpu, name)) return NULL;
    PFN_vkVoidFunction f = find(instance_functions, sizeof instance_functions / sizeof *instance_functions, name);
    return f != NULL ? f : fake_vk_get_device_proc_addr(&instance->gpu->device, name);
}
