/* vk_counted: a Vulkan device, and a count of the memory that is taken from it.
 *
 * The functions handed to a subject are the driver's own but for vkAllocateMemory and vkFreeMemory, which go through
 * here: number of calls, bytes held now and at most. libvulkan.so.1 is loaded at run time. */
#ifndef ACRE_BENCH_VK_COUNTED_H
#define ACRE_BENCH_VK_COUNTED_H

#include "vk_subject.h"

typedef struct vk_count {
    uint64_t allocations; /* that exist now */
    uint64_t allocations_peak;
    uint64_t calls; /* of both, since counted_reset */
    uint64_t held_bytes;
    uint64_t held_peak_bytes;
    uint64_t driver_ns; /* spent in them, since counted_reset */
} vk_count;

/* The first device of the first driver; exits with a message if there is none. */
vk_subject_device counted_open(const char **device_name);
void counted_close(void);
/* Forgets calls and peaks, keeps what exists. */
void counted_reset(void);
vk_count counted_read(void);

/* What the driver wants for such a resource; asked once per size, before anything is timed. */
VkMemoryRequirements counted_buffer_requirements(VkDeviceSize bytes, VkBufferUsageFlags usage);
/* Square, RGBA8, with all its mips. */
VkMemoryRequirements counted_image_requirements(uint32_t side);

#endif
