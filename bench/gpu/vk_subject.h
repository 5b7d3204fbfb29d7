/* vk_subject.h: what bench/gpu/vk_mix.c measures: an allocator of Vulkan memory.
 *
 * acre's is built in. A peer is a shared object that defines this symbol; its code lives outside of this repository:
 *
 *   const vk_subject bench_vk_subject = {"name version", create, destroy, alloc, free_block, frame};
 *   ACRE_VK_PEER=name=/path/peer.so,other=/path/other.so build/bench/vk_mix
 *
 * A subject gets its functions of Vulkan from get_instance and get_device alone: these count the calls that take or
 * give memory, so driver calls and the bytes held are counted alike for all. Any thread may call alloc and
 * free_block; frame is called by one thread at a time. */
#ifndef ACRE_BENCH_VK_SUBJECT_H
#define ACRE_BENCH_VK_SUBJECT_H

#include <stdbool.h>
#include <stdint.h>

#include <vulkan/vulkan_core.h>

typedef struct vk_subject_device {
    VkInstance instance;
    VkPhysicalDevice physical_device;
    VkDevice device;
    uint32_t api_version;
    PFN_vkGetInstanceProcAddr get_instance;
    PFN_vkGetDeviceProcAddr get_device;
} vk_subject_device;

typedef enum vk_subject_kind {
    VK_SUBJECT_UNIFORM, /* a buffer that the CPU writes: host visible and coherent, mapped for as long as it lives */
    VK_SUBJECT_VERTEX,  /* a buffer in device local memory */
    VK_SUBJECT_IMAGE    /* an image of optimal tiling in device local memory */
} vk_subject_kind;

typedef struct vk_subject_block {
    VkDeviceMemory memory;
    VkDeviceSize offset;
    void *mapped; /* of VK_SUBJECT_UNIFORM */
    uint64_t handle; /* whatever free_block wants */
} vk_subject_block;

typedef struct vk_subject {
    const char *title;
    void *(*create)(const vk_subject_device *device); /* NULL: cannot */
    void (*destroy)(void *self);
    bool (*alloc)(void *self, vk_subject_kind kind, const VkMemoryRequirements *requirements, vk_subject_block *block);
    void (*free_block)(void *self, uint64_t handle);
    void (*frame)(void *self); /* once per frame */
} vk_subject;

#endif
