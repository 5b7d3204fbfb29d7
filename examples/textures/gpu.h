/* gpu: what any Vulkan program has to have before it can begin: device, queue, pipelines, one timeline for all frames.
 *
 * Nothing here is about memory: every buffer and image of this example gets its memory from acre, in streamer.c and
 * textures.c. Functions are loaded from libvulkan.so.1 at run time, so the example builds without linking Vulkan. There
 * is one device per process: `gpu`. A call that fails ends the program with the name of the call. */
#ifndef EXAMPLE_TEXTURES_GPU_H
#define EXAMPLE_TEXTURES_GPU_H

#include <stdbool.h>
#include <stdint.h>

#include <vulkan/vulkan_core.h>

enum { FRAMES_IN_FLIGHT = 2 };

#define GPU_INSTANCE_FUNCTIONS(X) \
    X(vkDestroyInstance)          \
    X(vkEnumeratePhysicalDevices) \
    X(vkGetPhysicalDeviceProperties2) \
    X(vkGetPhysicalDeviceFeatures2) \
    X(vkGetPhysicalDeviceQueueFamilyProperties) \
    X(vkCreateDevice)             \
    X(vkGetDeviceProcAddr)

#define GPU_DEVICE_FUNCTIONS(X)      \
    X(vkDestroyDevice)               \
    X(vkGetDeviceQueue)              \
    X(vkDeviceWaitIdle)              \
    X(vkCreateSemaphore)             \
    X(vkDestroySemaphore)            \
    X(vkWaitSemaphores)              \
    X(vkCreateCommandPool)           \
    X(vkDestroyCommandPool)          \
    X(vkResetCommandPool)            \
    X(vkAllocateCommandBuffers)      \
    X(vkBeginCommandBuffer)          \
    X(vkEndCommandBuffer)            \
    X(vkQueueSubmit2)                \
    X(vkCreateImageView)             \
    X(vkDestroyImageView)            \
    X(vkCreateSampler)               \
    X(vkDestroySampler)              \
    X(vkCreateDescriptorSetLayout)   \
    X(vkDestroyDescriptorSetLayout)  \
    X(vkCreateDescriptorPool)        \
    X(vkDestroyDescriptorPool)       \
    X(vkAllocateDescriptorSets)      \
    X(vkUpdateDescriptorSets)        \
    X(vkCreatePipelineLayout)        \
    X(vkDestroyPipelineLayout)       \
    X(vkCreateShaderModule)          \
    X(vkDestroyShaderModule)         \
    X(vkCreateGraphicsPipelines)     \
    X(vkDestroyPipeline)             \
    X(vkCmdPipelineBarrier2)         \
    X(vkCmdCopyBufferToImage)        \
    X(vkCmdCopyImageToBuffer)        \
    X(vkCmdCopyImage)                \
    X(vkCmdBeginRendering)           \
    X(vkCmdEndRendering)             \
    X(vkCmdBindPipeline)             \
    X(vkCmdBindDescriptorSets)       \
    X(vkCmdPushConstants)            \
    X(vkCmdSetViewport)              \
    X(vkCmdSetScissor)               \
    X(vkCmdDraw)

/* The uniform block of common.glsl. */
typedef struct gpu_frame_data {
    float view_projection[16], from_clip[16];
    float eye[4], sun[4];
} gpu_frame_data;

typedef struct gpu_tile_data {
    float corner[2];
    uint32_t grid;
} gpu_tile_data;

typedef struct gpu_state {
    void *library;
    PFN_vkGetInstanceProcAddr vkGetInstanceProcAddr;
#define X(name) PFN_##name name;
    GPU_INSTANCE_FUNCTIONS(X)
    GPU_DEVICE_FUNCTIONS(X)
#undef X
    VkInstance instance;
    VkPhysicalDevice physical;
    VkDevice device;
    VkQueue queue;
    uint32_t family;
    char name[VK_MAX_PHYSICAL_DEVICE_NAME_SIZE];
    VkSemaphore timeline; /* frame n is done when it has reached n */
    VkCommandPool pools[FRAMES_IN_FLIGHT];
    VkCommandBuffer commands[FRAMES_IN_FLIGHT];
    VkDescriptorSetLayout frame_layout, tile_layout;
    VkDescriptorPool descriptors;
    VkSampler sampler;
    VkPipelineLayout layout;
    VkPipeline terrain, sky;
    uint64_t complaints; /* of the validation layer */
    VkDebugUtilsMessengerEXT messenger;
} gpu_state;

extern gpu_state gpu;

/* False: this machine has no Vulkan 1.3 device (said on stderr). With the environment's EXAMPLE_VALIDATION the Khronos
 * layer looks on, and gpu.complaints counts what it says. */
bool gpu_open(VkFormat colour, VkFormat depth, uint32_t tile_sets);
void gpu_close(void);
/* Ends the program unless `result` is VK_SUCCESS. */
void gpu_check(VkResult result, const char *what);
/* Waits until frame `frame` is done; returns at once for 0. */
void gpu_wait_frame(uint64_t frame);
/* The command buffer of this frame, begun. */
VkCommandBuffer gpu_begin(uint64_t frame);
void gpu_submit(uint64_t frame);
/* Levels [first, first + count) of an image change their layout; `from` UNDEFINED forgets the contents. */
void gpu_barrier(VkCommandBuffer commands, VkImage image, VkImageAspectFlags aspect, uint32_t first, uint32_t count,
                 VkImageLayout from, VkImageLayout to);

#endif
