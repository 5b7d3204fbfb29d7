/* fake_vulkan_inside: what the files of the fake device share; no test includes it.
 *
 *   fake_vulkan.c              the device's life, the checker's book, orders, counters, latencies, statistics
 *   fake_query_vulkan.c        properties, features, extensions, the tables behind Get…ProcAddr
 *   fake_memory_vulkan.c       memory, maps, flushes, external memory
 *   fake_resource_vulkan.c     buffers and images, requirements, binds, the ranges they lie in, what the GPU does
 *   fake_sync_vulkan.c         fences, semaphores, the queue
 *   fake_sparse_vulkan.c       pages of sparse resources
 *
 * gpu->lock guards everything. enter() counts a call, lets it fail, and returns with the lock held on success. */
#ifndef ACRE_TESTS_FAKE_VULKAN_INSIDE_H
#define ACRE_TESTS_FAKE_VULKAN_INSIDE_H

#include <pthread.h>

#include "fake_vulkan.h"

enum {
    FAKE_PAGE_BYTES = 64 << 10, /* of sparse resources */
    FAKE_WRONG_TEXT_MAX = 256,
    FAKE_BATCH_MAX = 16,        /* semaphores of one batch */
};

typedef enum fake_kind {
    FAKE_FREE, /* a slot of the table whose object is gone */
    FAKE_MEMORY,
    FAKE_BUFFER,
    FAKE_IMAGE,
    FAKE_CLAIM,
    FAKE_FENCE,
    FAKE_SEMAPHORE,
    FAKE_KINDS
} fake_kind;

typedef struct fake_object {
    fake_kind kind;
    uint64_t id;
} fake_object;

/* Bytes of one memory in which a resource lies. Sorted by offset. */
typedef struct fake_range {
    VkDeviceSize offset, end;
    uint64_t resource;
    uint32_t page; /* of a sparse resource */
    bool linear, alias, sparse;
} fake_range;

typedef struct fake_memory {
    fake_object object;
    VkDeviceSize size;
    uint32_t type, heap;
    VkMemoryPropertyFlags flags;
    uint8_t *data; /* what the GPU sees */
    uint8_t *host; /* what the CPU sees: data itself where it is coherent */
    bool host_imported, mapped, device_address;
    VkDeviceSize map_offset, map_end;
    int fd; /* -1: none */
    float priority;
    uint64_t dedicated_to;
    VkExternalMemoryHandleTypeFlags exported, imported;
    fake_range *ranges;
    uint32_t range_count, range_capacity;
    uint32_t alias_count; /* of ranges */
    uint32_t queued_binds; /* sparse binds of the held queue that name it */
} fake_memory;

typedef struct fake_page {
    fake_memory *memory; /* NULL: unbound */
    VkDeviceSize offset;
} fake_page;

/* A buffer, image or claim. */
typedef struct fake_resource {
    fake_object object;
    VkMemoryRequirements need;
    VkDeviceSize bytes; /* the buffer's own size; of images need.size */
    bool linear, alias, prefers_dedicated, requires_dedicated, device_address;
    VkExternalMemoryHandleTypeFlags external;
    fake_memory *memory;
    VkDeviceSize offset;
    /* sparse */
    bool sparse, resident, sparse_alias;
    fake_page *pages;
    uint32_t page_count, pages_bound;
    uint64_t binds, unbinds, idle_binds;
    VkImageCreateInfo image;
} fake_resource;

typedef struct fake_sync {
    fake_object object;
    bool timeline;
    uint64_t value; /* of a fence and of a binary semaphore 0 or 1 */
} fake_sync;

/* The GPU uses these bytes until then. */
typedef struct fake_flight {
    fake_memory *memory;
    VkDeviceSize offset, end;
    uint64_t resource, sync, value;
    bool alias;
} fake_flight;

typedef struct fake_point {
    uint64_t semaphore, value;
} fake_point;

typedef struct fake_bind {
    uint64_t resource, memory; /* memory 0: unbind */
    uint32_t page;
    VkDeviceSize offset;
} fake_bind;

/* What was given to the queue and waits. */
typedef struct fake_batch {
    struct fake_batch *next;
    fake_point waits[FAKE_BATCH_MAX], signals[FAKE_BATCH_MAX];
    uint32_t wait_count, signal_count, bind_count;
    fake_bind *binds;
    uint64_t fence;
} fake_batch;

typedef struct fake_order {
    uint64_t at; /* in calls of the kind; 0: none */
    VkResult result;
    bool onwards;
} fake_order;

struct VkInstance_T { fake_vk *gpu; };
struct VkPhysicalDevice_T { fake_vk *gpu; };
struct VkDevice_T { fake_vk *gpu; };
struct VkQueue_T { fake_vk *gpu; };

struct fake_vk {
    pthread_mutex_t lock;
    pthread_cond_t moved; /* a fence or a semaphore */
    fake_vk_options options;
    struct VkInstance_T instance;
    struct VkPhysicalDevice_T physical;
    struct VkDevice_T device;
    struct VkQueue_T queue;

    fake_object **objects; /* by number; NULL: gone */
    uint64_t object_count, object_capacity;
    uint64_t live[FAKE_KINDS];
    VkDeviceSize used[VK_MAX_MEMORY_HEAPS], used_peak[VK_MAX_MEMORY_HEAPS];
    VkDeviceSize budget[VK_MAX_MEMORY_HEAPS], other[VK_MAX_MEMORY_HEAPS], taken[VK_MAX_MEMORY_HEAPS];
    bool prefers_dedicated, requires_dedicated, alias;

    fake_flight *flights;
    uint64_t flight_count, flight_capacity;
    fake_batch *first_batch, *last_batch;
    bool queue_held;

    uint64_t counts[FAKE_VK_CALLS + 1];
    uint64_t failures;
    fake_vk_call last_failed;
    fake_order orders[FAKE_VK_CALLS + 1];
    uint64_t latency_ns[FAKE_VK_CALLS];
    fake_vk_hook *hook;
    void *hook_context;

    uint64_t wrongs[FAKE_VK_WRONGS + 1];
    char first_wrong[FAKE_WRONG_TEXT_MAX];
};

/* --- fake_vulkan.c --- */
VkResult fake_enter(fake_vk *gpu, fake_vk_call call);
void fake_leave(fake_vk *gpu);
void fake_wrong(fake_vk *gpu, fake_vk_wrong wrong, const char *format, ...) __attribute__((format(printf, 3, 4)));
void *fake_zeroed(size_t bytes);
/* The object of this kind, or NULL, which is counted as a stale handle. */
void *fake_find(fake_vk *gpu, fake_kind kind, uint64_t id, const char *where);
/* Without counting. */
fake_object *fake_look(fake_vk *gpu, uint64_t id);
/* A buffer, image or claim. */
fake_resource *fake_find_resource(fake_vk *gpu, uint64_t id, const char *where);
uint64_t fake_add(fake_vk *gpu, fake_kind kind, fake_object *object);
void fake_remove(fake_vk *gpu, fake_object *object);
/* The structure of this type in a chain, or NULL. */
const void *fake_chained(const void *next, VkStructureType type);

/* --- fake_memory_vulkan.c --- */
void fake_memory_release(fake_vk *gpu, fake_memory *memory);
/* Says what would be shared by a resource that came to lie there. */
void fake_range_add(fake_vk *gpu, fake_memory *memory, const fake_range *range, const char *where);
void fake_range_remove(fake_vk *gpu, fake_memory *memory, uint64_t resource, VkDeviceSize offset);

/* --- fake_resource_vulkan.c --- */
void fake_resource_release(fake_vk *gpu, fake_resource *resource);

/* --- fake_sync_vulkan.c --- */
/* Is the GPU busy with bytes of this memory (end 0: any), or with this resource? */
const fake_flight *fake_flight_in(fake_vk *gpu, const fake_memory *memory, VkDeviceSize offset, VkDeviceSize end);
const fake_flight *fake_flight_of(fake_vk *gpu, uint64_t resource);
void fake_flight_add(fake_vk *gpu, const fake_flight *flight);
void fake_batch_append(fake_vk *gpu, fake_batch *batch);
void fake_batch_free(fake_batch *batch);

/* --- fake_sparse_vulkan.c --- */
/* Requirements and pages of a resource that was made with a sparse flag. */
void fake_sparse_init(fake_vk *gpu, fake_resource *resource);
void fake_sparse_apply(fake_vk *gpu, const fake_bind *bind);
uint32_t fake_texel_bytes(VkFormat format, uint32_t *block);

/* --- the functions of Vulkan, for the table in fake_query_vulkan.c --- */
#define FAKE_VK_FUNCTION_LIST(X)                  \
    X(AllocateMemory)                             \
    X(FreeMemory)                                 \
    X(MapMemory)                                  \
    X(UnmapMemory)                                \
    X(FlushMappedMemoryRanges)                    \
    X(InvalidateMappedMemoryRanges)               \
    X(GetDeviceMemoryCommitment)                  \
    X(SetDeviceMemoryPriorityEXT)                 \
    X(GetMemoryFdKHR)                             \
    X(GetMemoryFdPropertiesKHR)                   \
    X(GetMemoryHostPointerPropertiesEXT)          \
    X(CreateBuffer)                               \
    X(DestroyBuffer)                              \
    X(CreateImage)                                \
    X(DestroyImage)                               \
    X(GetBufferMemoryRequirements)                \
    X(GetImageMemoryRequirements)                 \
    X(GetBufferMemoryRequirements2)               \
    X(GetImageMemoryRequirements2)                \
    X(GetDeviceBufferMemoryRequirements)          \
    X(GetDeviceImageMemoryRequirements)           \
    X(BindBufferMemory)                           \
    X(BindImageMemory)                            \
    X(BindBufferMemory2)                          \
    X(BindImageMemory2)                           \
    X(GetBufferDeviceAddress)                     \
    X(CreateFence)                                \
    X(DestroyFence)                               \
    X(GetFenceStatus)                             \
    X(WaitForFences)                              \
    X(ResetFences)                                \
    X(CreateSemaphore)                            \
    X(DestroySemaphore)                           \
    X(GetSemaphoreCounterValue)                   \
    X(WaitSemaphores)                             \
    X(SignalSemaphore)                            \
    X(QueueSubmit)                                \
    X(QueueWaitIdle)                              \
    X(DeviceWaitIdle)                             \
    X(QueueBindSparse)                            \
    X(GetImageSparseMemoryRequirements)           \
    X(GetImageSparseMemoryRequirements2)          \
    X(GetPhysicalDeviceSparseImageFormatProperties)
/* PFN_vkX is a pointer to a function; this declares the function. */
#define X(name) __typeof__(*(PFN_vk##name)0) fake_vk##name;
FAKE_VK_FUNCTION_LIST(X)
#undef X

#endif
