/* fake_vulkan: a graphics card as a test wants it, behind its own vkGetInstanceProcAddr and vkGetDeviceProcAddr.
 *
 * What it is made of, the test says: heaps and types, limits, extensions, Vulkan's version. Memory is real memory, so
 * that what is written through a map, "on the GPU" or through a sparse binding can be read back; memory that is not
 * coherent has two copies, and only flush and invalidate carry bytes between them. Fences and timeline semaphores move
 * by the test's hand. Calls are counted, may take time, and fail when told.
 *
 * A checker looks on and counts what a driver would let pass until it crashes (FAKE_VK_WRONG_LIST). Each is printed to
 * stderr when it is seen, unless options.quiet. The handles are numbers that are never used twice, so a stale one is
 * always recognised.
 *
 *     fake_vk *gpu = fake_vk_create(NULL);
 *     … fake_vk_instance(gpu), fake_vk_physical_device(gpu), fake_vk_device(gpu), fake_vk_get_instance_proc_addr …
 *     assert_int_equal(fake_vk_destroy(gpu), 0);            // nothing wrong, nothing leaked
 *
 * All but create and destroy may be called from any thread; one lock inside, which is not held while a call takes its
 * time or a hook runs. */
#ifndef ACRE_TESTS_FAKE_VULKAN_H
#define ACRE_TESTS_FAKE_VULKAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <vulkan/vulkan_core.h>

typedef struct fake_vk fake_vk;

/* A handle of any kind as a number. */
#define FAKE_VK_ID(handle) ((uint64_t)(uintptr_t)(handle))

/* X(name, errors): calls that a program makes; errors: it answers with a VkResult, so it can be made to fail. */
#define FAKE_VK_CALL_LIST(X)               \
    X(AllocateMemory, 1)                   \
    X(FreeMemory, 0)                       \
    X(MapMemory, 1)                        \
    X(UnmapMemory, 0)                      \
    X(FlushMappedMemoryRanges, 1)          \
    X(InvalidateMappedMemoryRanges, 1)     \
    X(GetDeviceMemoryCommitment, 0)        \
    X(SetDeviceMemoryPriorityEXT, 0)       \
    X(CreateBuffer, 1)                     \
    X(DestroyBuffer, 0)                    \
    X(CreateImage, 1)                      \
    X(DestroyImage, 0)                     \
    X(GetRequirements, 0) /* all of them */ \
    X(BindBuffer, 1)      /* and Bind…2 */ \
    X(BindImage, 1)                        \
    X(GetBufferDeviceAddress, 0)           \
    X(GetMemoryFdKHR, 1)                   \
    X(GetMemoryFdPropertiesKHR, 1)         \
    X(GetMemoryHostPointerPropertiesEXT, 1) \
    X(CreateFence, 1)                      \
    X(DestroyFence, 0)                     \
    X(GetFenceStatus, 1)                   \
    X(WaitForFences, 1)                    \
    X(ResetFences, 1)                      \
    X(CreateSemaphore, 1)                  \
    X(DestroySemaphore, 0)                 \
    X(GetSemaphoreCounterValue, 1)         \
    X(WaitSemaphores, 1)                   \
    X(SignalSemaphore, 1)                  \
    X(QueueSubmit, 1)                      \
    X(QueueBindSparse, 1)                  \
    X(WaitIdle, 1)                         \
    X(EnumerateDeviceExtensionProperties, 1) \
    X(GetPhysicalDeviceProperties, 0)      \
    X(GetPhysicalDeviceFeatures, 0)        \
    X(GetPhysicalDeviceMemoryProperties, 0) \
    X(GetPhysicalDeviceOther, 0)

typedef enum fake_vk_call {
#define X(name, errors) FAKE_VK_##name,
    FAKE_VK_CALL_LIST(X)
#undef X
    FAKE_VK_CALLS,
    FAKE_VK_ANY = FAKE_VK_CALLS, /* those that can fail, as one sequence */
} fake_vk_call;

/* X(name, text): what the checker catches. */
#define FAKE_VK_WRONG_LIST(X)                                                                       \
    X(STALE_HANDLE, "a handle that was destroyed, or never was one of this kind")                   \
    X(OVERLAP, "two live resources share bytes and neither was declared an alias")                  \
    X(GRANULARITY, "a linear and an optimal resource share a page of bufferImageGranularity")       \
    X(NOT_BOUND, "a resource was used before it had memory")                                        \
    X(DOUBLE_BIND, "a resource was bound twice")                                                    \
    X(BIND_RANGE, "bound beyond the end of the memory")                                             \
    X(BIND_ALIGNMENT, "bound at an offset that is not a multiple of its alignment")                 \
    X(BIND_TYPE, "bound to a memory type that its requirements exclude")                            \
    X(DEDICATED, "a dedicated allocation of another size, or bound to another resource, or missing") \
    X(EXTERNAL, "memory and resource do not agree about external handles")                          \
    X(MAP_TWICE, "memory was mapped while mapped")                                                  \
    X(MAP, "map of what the CPU cannot see or beyond the end, or unmap of what is not mapped")      \
    X(FLUSH, "a range of flush or invalidate that is not mapped or not a multiple of the atom")     \
    X(FREE_BOUND, "memory was freed while live resources were bound to it")                         \
    X(GPU_BUSY, "memory or a resource was reused or destroyed before the GPU was done with it")     \
    X(SPARSE, "a sparse binding that is not in whole pages, out of range, or of a wrong kind")      \
    X(TOO_MANY, "more allocations than maxMemoryAllocationCount were asked for")                    \
    X(USAGE, "an argument or a structure that this device does not allow")                          \
    X(LEAK, "an object that was alive when the device was destroyed")

typedef enum fake_vk_wrong {
#define X(name, text) FAKE_VK_WRONG_##name,
    FAKE_VK_WRONG_LIST(X)
#undef X
    FAKE_VK_WRONGS,
} fake_vk_wrong;

/* Extensions a device may lack. */
enum {
    FAKE_VK_NO_BUDGET = 1,
    FAKE_VK_NO_PRIORITY = 2,
    FAKE_VK_NO_DEDICATED = 4, /* and get_memory_requirements2; only with api_version 1.0 */
    FAKE_VK_NO_EXTERNAL_FD = 8,
    FAKE_VK_NO_EXTERNAL_HOST = 16,
    FAKE_VK_NO_TIMELINE = 32,
    FAKE_VK_NO_SPARSE = 64,
    FAKE_VK_NO_DEVICE_ADDRESS = 128,
    FAKE_VK_NO_PROPERTIES2 = 256, /* only with api_version 1.0 */
    FAKE_VK_NO_COHERENT_AMD = 512, /* its types are in the table, but not to be used */
};

/* Zero is the default of each field. */
typedef struct fake_vk_options {
    VkPhysicalDeviceMemoryProperties memory; /* no heap: fake_vk_desktop() */
    VkDeviceSize non_coherent_atom;          /* 0: 64 */
    VkDeviceSize buffer_image_granularity;   /* 0: 1024 */
    VkDeviceSize buffer_alignment;           /* 0: 64; uniform buffers 256 */
    VkDeviceSize image_alignment;            /* optimal ones; 0: 4 KiB up to 64 KiB of size, 64 KiB above */
    VkDeviceSize host_pointer_alignment;     /* 0: 4096 */
    VkDeviceSize allocation_bytes_max;       /* 0: 4 GiB */
    uint32_t allocations_max;                /* 0: 4096 */
    uint32_t api_version;                    /* 0: VK_API_VERSION_1_3 */
    uint32_t without;                        /* FAKE_VK_NO_… */
    uint32_t buffer_type_bits;               /* memory types for buffers; 0: all but lazily allocated and protected */
    uint32_t image_type_bits;                /* … for optimal images; 0: the same */
    void *callbacks_user;                    /* pUserData of the callbacks that memory calls must bring; NULL: any */
    const char *const *missing;              /* functions that are not found, NULL at the end; NULL: all are found */
    bool quiet;                              /* the checker does not print */
} fake_vk_options;

/* 0: 8 GiB, device-local; 1: 16 GiB of the host; 2: 256 MiB BAR, device-local. Types: 0 device-local, 1 host-visible
 * coherent, 2 host-visible coherent cached, 3 BAR, 4 host-visible cached, not coherent, 5 lazily allocated. */
VkPhysicalDeviceMemoryProperties fake_vk_desktop(void);
/* A table for memory: {heap bytes, heap flags} … and {type flags, heap} …, each with its count. */
VkPhysicalDeviceMemoryProperties fake_vk_memory(uint32_t heaps, const VkMemoryHeap *heap, uint32_t types,
                                                const VkMemoryType *type);

/* Never NULL: a test without memory ends here. */
fake_vk *fake_vk_create(const fake_vk_options *options);
/* Counts what is left as leaks, prints, and returns how much was wrong from the beginning. */
uint64_t fake_vk_destroy(fake_vk *gpu);

VkInstance fake_vk_instance(fake_vk *gpu);
VkPhysicalDevice fake_vk_physical_device(fake_vk *gpu);
VkDevice fake_vk_device(fake_vk *gpu);
VkQueue fake_vk_queue(fake_vk *gpu);
VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL fake_vk_get_instance_proc_addr(VkInstance instance, const char *name);
VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL fake_vk_get_device_proc_addr(VkDevice device, const char *name);
/* By vkGetDeviceProcAddr, of the type of a variable: VK(gpu, vkCreateBuffer)(…). */
#define FAKE_VK_FN(gpu, name) ((PFN_##name)fake_vk_get_device_proc_addr(fake_vk_device(gpu), #name))

/* --- the checker -------------------------------------------------------------------------------------------------- */

/* How often; FAKE_VK_WRONGS: all together. */
uint64_t fake_vk_wrongs(fake_vk *gpu, fake_vk_wrong wrong);
/* The first, as text; "" = nothing is wrong. Valid until forgiven. */
const char *fake_vk_first_wrong(fake_vk *gpu);
/* Starts to count anew. */
void fake_vk_forgive(fake_vk *gpu);
/* As options.quiet, from now on: for what a test plants. */
void fake_vk_set_quiet(fake_vk *gpu, bool quiet);
/* Objects alive: memory, buffers, images, fences, semaphores and claims. */
uint64_t fake_vk_live(fake_vk *gpu);
uint64_t fake_vk_live_memories(fake_vk *gpu);
uint64_t fake_vk_live_resources(fake_vk *gpu);
/* Of one heap; FAKE: UINT32_MAX = all. */
VkDeviceSize fake_vk_heap_used(fake_vk *gpu, uint32_t heap);
VkDeviceSize fake_vk_heap_used_peak(fake_vk *gpu, uint32_t heap);

/* A block that no VkBuffer or VkImage stands for: it is watched as if it were one. Returns its id, for drop_claim and
 * gpu_uses. */
uint64_t fake_vk_claim(fake_vk *gpu, VkDeviceMemory memory, VkDeviceSize offset, VkDeviceSize size, bool linear);
void fake_vk_drop_claim(fake_vk *gpu, uint64_t claim);
/* This buffer, image or claim may share bytes with others so declared. */
void fake_vk_declare_alias(fake_vk *gpu, uint64_t resource);
/* All that are created from now on are so declared; images with VK_IMAGE_CREATE_ALIAS_BIT always are. */
void fake_vk_set_alias(fake_vk *gpu, bool alias);
/* The GPU uses the resource until the fence is signalled, or the semaphore has reached the value. */
void fake_vk_gpu_uses(fake_vk *gpu, uint64_t resource, uint64_t fence_or_semaphore, uint64_t value);

/* --- what the test moves ------------------------------------------------------------------------------------------ */

/* What VK_EXT_memory_budget says: heapBudget (0: the heap's size), and by how much heapUsage is above what was
 * allocated. */
void fake_vk_set_budget(fake_vk *gpu, uint32_t heap, VkDeviceSize budget, VkDeviceSize other_usage);
/* Taken by other programs: so much less can be allocated. */
void fake_vk_set_taken(fake_vk *gpu, uint32_t heap, VkDeviceSize bytes);
/* Resources made from now on prefer or require a dedicated allocation. */
void fake_vk_set_dedicated(fake_vk *gpu, bool prefers, bool requires);
void fake_vk_signal_fence(fake_vk *gpu, VkFence fence);
void fake_vk_signal_semaphore(fake_vk *gpu, VkSemaphore semaphore, uint64_t value);
/* Held: what is given to the queue waits until the queue is let go. */
void fake_vk_hold_queue(fake_vk *gpu, bool held);

/* The n-th such call from now on fails with this result (n = 1: the next), and with `onwards` all after it; n = 0:
 * none. One order per kind; FAKE_VK_ANY is a kind of its own. A call that fails has done nothing. */
void fake_vk_fail(fake_vk *gpu, fake_vk_call call, uint64_t n, VkResult result, bool onwards);
/* No call fails any more. */
void fake_vk_heal(fake_vk *gpu);
/* Calls since the creation, those that failed included. */
uint64_t fake_vk_count(fake_vk *gpu, fake_vk_call call);
/* How many failed by order. */
uint64_t fake_vk_failures(fake_vk *gpu);
/* The last kind of call that failed by order; FAKE_VK_CALLS: none did. */
fake_vk_call fake_vk_last_failed(fake_vk *gpu);
const char *fake_vk_call_name(fake_vk_call call);
/* So long does such a call take, beyond what it costs here. */
void fake_vk_set_latency(fake_vk *gpu, fake_vk_call call, uint64_t ns);
/* Allocating 193 us, freeing 26 us, mapping 1.5 us, binding sparse pages 36 us: a driver's work on pages, as it was
 * measured on an A100. */
void fake_vk_set_field_latencies(fake_vk *gpu);
/* Called before each call's work, without the fake's lock; NULL: none. It may call the fake. */
typedef void fake_vk_hook(void *context, fake_vk_call call);
void fake_vk_set_hook(fake_vk *gpu, fake_vk_hook *hook, void *context);

/* --- what the test looks at --------------------------------------------------------------------------------------- */

typedef struct fake_vk_memory_info {
    VkDeviceMemory memory;
    VkDeviceSize size;
    uint32_t type, heap;
    float priority; /* as asked for or set later; 0.5 unless said */
    uint64_t dedicated_to; /* buffer or image; 0: none */
    VkExternalMemoryHandleTypeFlags exported, imported;
    bool mapped, device_address;
    uint32_t resources; /* bound: buffers, images, claims, sparse pages */
} fake_vk_memory_info;

/* False: not alive. */
bool fake_vk_get_memory(fake_vk *gpu, VkDeviceMemory memory, fake_vk_memory_info *info);
/* Those alive, oldest first; returns how many there are, writes at most `capacity`. */
uint32_t fake_vk_list_memories(fake_vk *gpu, fake_vk_memory_info *infos, uint32_t capacity);

typedef struct fake_vk_resource_info {
    VkDeviceSize size, offset;
    VkDeviceMemory memory; /* VK_NULL_HANDLE: not bound, or sparse */
    bool image, linear, sparse;
    uint32_t pages, pages_bound; /* of 64 KiB, sparse resources only */
    uint64_t binds, unbinds;     /* of pages, so far */
    uint64_t idle_binds;         /* pages bound to what they were bound to, or unbound while unbound */
} fake_vk_resource_info;
bool fake_vk_get_resource(fake_vk *gpu, uint64_t resource, fake_vk_resource_info *info);
/* The memory behind a page of a sparse resource; VK_NULL_HANDLE: unbound. */
VkDeviceMemory fake_vk_sparse_page(fake_vk *gpu, uint64_t resource, uint32_t page, VkDeviceSize *offset);

/* The GPU reads, writes, copies: bytes of buffers, images (in their own order) and claims. False: wrong, and it was
 * counted. */
bool fake_vk_gpu_write(fake_vk *gpu, uint64_t resource, VkDeviceSize offset, const void *bytes, size_t count);
bool fake_vk_gpu_read(fake_vk *gpu, uint64_t resource, VkDeviceSize offset, void *bytes, size_t count);
bool fake_vk_gpu_copy(fake_vk *gpu, uint64_t from, VkDeviceSize from_offset, uint64_t to, VkDeviceSize to_offset,
                      size_t count);

/* Buffers and images as tests need them most: the create info of a plain one. */
VkBufferCreateInfo fake_vk_buffer_info(VkDeviceSize size, VkBufferUsageFlags usage);
VkImageCreateInfo fake_vk_image_info(uint32_t width, uint32_t height, VkFormat format, VkImageUsageFlags usage);

#endif
