/* acre/vulkan.h: memory for Vulkan's buffers and images.
 *
 * An allocator over one VkDevice: it takes large pieces of device memory (pages) from the driver and hands out ranges
 * of them (blocks), chooses memory types, maps, keeps budgets of heaps and categories, keeps what is empty for as long
 * as it may be wanted again, and frees when the GPU is done. Nothing of Vulkan is linked: every function comes from the
 * vkGetInstanceProcAddr that the program hands over.
 *
 *     acre_vk_options options = {.instance = i, .physical_device = p, .device = d, .get_instance_proc_addr = get};
 *     acre_vk *vk;
 *     acre_vk_create(&options, &vk);
 *     acre_vk_request request = {.usage = ACRE_VK_UPLOAD, .flags = ACRE_VK_MAPPED};
 *     acre_vk_create_buffer(vk, &buffer_info, &request, &buffer, &allocation);
 *     memcpy(allocation.mapped, vertices, bytes);
 *     ...
 *     acre_vk_destroy_buffer_after(vk, buffer, allocation.handle, (acre_vk_point){.fence = frame_fence});
 *     acre_vk_collect(vk);                                       once per frame
 *
 * Units are bytes. Structs: zero is the default of each field, and pNext-like pointers do not exist.
 *
 * Errors are the same in every build; a call that fails has changed nothing, and what it made on the way is undone.
 * Where the driver said no, acre_vk_last_result is its VkResult:
 *     OUT_OF_DEVICE_MEMORY, OUT_OF_HOST_MEMORY, TOO_MANY_OBJECTS  ACRE_NO_MEMORY
 *     all others, DEVICE_LOST among them                          ACRE_SYSTEM
 * A handle is checked at each use: ACRE_DOUBLE_FREE for that of a block that is free (or waits for the GPU),
 * ACRE_FOREIGN_POINTER for one that this allocator never gave. Passing NULL for the allocator or for an out parameter
 * that is not called optional is ACRE_INVALID_ARGUMENT. Out parameters are written on success only.
 *
 * Threads: any call from any thread at any time but create and destroy. Of one block, calls that follow Vulkan's own
 * rules for the resource that it holds. Cost: a hit (the size was freed lately) takes an uncontended lock and touches
 * three cache lines; other allocations are O(log holes) under the lock of their memory type. Driver calls are made
 * without any lock that a hit needs. Bookkeeping: 64 bytes per block, 32 per block and hole, 20 KiB of tables for the
 * small and for the other blocks of each memory type in use, 5 KiB and more per shard. */
#ifndef ACRE_VULKAN_H
#define ACRE_VULKAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <vulkan/vulkan_core.h>

#include "acre/gpu.h"
#include "acre/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct acre_vk acre_vk;
typedef struct acre_vk_pool acre_vk_pool;

/* --- the allocator ---------------------------------------------------------------------------------------------- */

/* What the program has enabled on the device; a bit set. What is part of api_version needs no bit. acre never uses
 * what is not named here. */
typedef enum acre_vk_feature {
    ACRE_VK_HAS_DEDICATED = 1 << 0,        /* VK_KHR_get_memory_requirements2 + VK_KHR_dedicated_allocation; 1.1 */
    ACRE_VK_HAS_MEMORY_BUDGET = 1 << 1,    /* VK_EXT_memory_budget; 1.1 or VK_KHR_get_physical_device_properties2 */
    ACRE_VK_HAS_MEMORY_PRIORITY = 1 << 2,  /* VK_EXT_memory_priority and its feature */
    ACRE_VK_HAS_EXTERNAL_FD = 1 << 3,      /* VK_KHR_external_memory_fd */
    ACRE_VK_HAS_EXTERNAL_HOST = 1 << 4,    /* VK_EXT_external_memory_host */
    ACRE_VK_HAS_TIMELINE = 1 << 5,         /* the feature timelineSemaphore (1.2 or VK_KHR_timeline_semaphore) */
    ACRE_VK_HAS_DEVICE_ADDRESS = 1 << 6,   /* the feature bufferDeviceAddress: all memory is made for it */
    ACRE_VK_HAS_COHERENT_AMD = 1 << 7      /* VK_AMD_device_coherent_memory: else its types are left alone */
} acre_vk_feature;

typedef struct acre_vk_options {
    VkInstance instance;                                  /* required */
    VkPhysicalDevice physical_device;                     /* required */
    VkDevice device;                                      /* required */
    PFN_vkGetInstanceProcAddr get_instance_proc_addr;     /* required */
    PFN_vkGetDeviceProcAddr get_device_proc_addr;         /* NULL = as get_instance_proc_addr says */
    uint32_t api_version;                                 /* as in VkApplicationInfo; 0 = VK_API_VERSION_1_0 */
    uint32_t features;                                    /* of acre_vk_feature */
    const VkAllocationCallbacks *callbacks;               /* copied; NULL = the driver's own */
    const acre_gpu_category *categories;                  /* copied; rows as in acre/gpu.h; NULL = one, "all" */
    uint32_t category_count;
    uint64_t heap_budgets[VK_MAX_MEMORY_HEAPS];           /* held at most of each heap; 0 = what the driver says with
                                                           * VK_EXT_memory_budget, else 80% of the heap */
    uint64_t page_bytes_min;                              /* the first page; 0 = 16 MiB, at most 1/32 of the heap */
    uint64_t page_bytes_max;                              /* later ones are as large as all before, up to it; 0 = 128
                                                           * MiB, from 2 GiB held on 256; at most 1/8 of the heap */
    uint64_t empty_bytes_max;                             /* kept empty at most, per pool: a memory type has one for
                                                           * blocks up to 16 KiB and one for larger ones, each again
                                                           * per priority (and for buffers and images, if the
                                                           * granularity asks for it); 0 = any, 1 = none */
    uint32_t empty_live_percent;                          /* … and in percent of what is live in the pool, once it is
                                                           * a tenth of empty_delay_ms old; 0 = 50 */
    uint32_t empty_delay_ms;                              /* kept for so long; 0 = 1000, UINT32_MAX = never by age */
    uint64_t cache_bytes_max;                             /* freed blocks that are kept as they are, per shard;
                                                           * 0 = 1/4 of live, 256 KiB … 128 MiB; 1 = none */
    uint32_t shards;                                      /* hit paths side by side; 0 = 8; a power of two <= 64 */
    uint64_t (*now_ms)(void *context);                    /* a clock that never goes back; NULL = the system's */
    void *now_context;
    acre_gpu_on_limit *on_limit;                          /* see acre/gpu.h; NULL = none */
    void *on_limit_context;
} acre_vk_options;

/* INVALID_ARGUMENT (a field out of its bounds), NOT_SUPPORTED (a function that the features or api_version promise is
 * not there), NO_MEMORY. Asks the physical device for its properties; makes nothing on the device. */
ACRE_API acre_status acre_vk_create(const acre_vk_options *options, acre_vk **vk);
/* Gives all memory back to the driver, blocks in use and pending ones included: the device must be idle. No other call
 * may run meanwhile or after. Returns how many blocks the program still held. NULL is allowed. */
ACRE_API uint64_t acre_vk_destroy(acre_vk *vk);

/* The driver's last answer other than VK_SUCCESS that the calling thread got through acre; VK_SUCCESS if none. */
ACRE_API VkResult acre_vk_last_result(void);

/* --- what to ask for -------------------------------------------------------------------------------------------- */

/* Who touches the memory. The first memory type of the list that exists and that the resource allows is taken; at a
 * limit, a category with ACRE_GPU_OTHER_MEMORY goes on along the list. */
typedef enum acre_vk_usage {
    ACRE_VK_GPU = 0,      /* the GPU alone: device local, if it can be not host visible; then any */
    ACRE_VK_UPLOAD,       /* the CPU writes in sequence: host visible, coherent rather, not cached and not device local
                           * if it can be */
    ACRE_VK_READBACK,     /* the CPU reads: host visible, cached rather, coherent rather */
    ACRE_VK_GPU_MAPPED,   /* the CPU writes what the GPU reads often (BAR): device local and host visible; where there
                           * is none, as UPLOAD */
    ACRE_VK_LAZY,         /* attachments that live in tiles: lazily allocated; where there is none, as GPU */
    ACRE_VK_USAGE_COUNT
} acre_vk_usage;

typedef enum acre_vk_flag {
    ACRE_VK_MAPPED = 1 << 0,         /* allocation.mapped is set for the block's life; requires host visible memory */
    ACRE_VK_DEDICATED = 1 << 1,      /* driver memory of its own */
    ACRE_VK_SHARED = 1 << 2,         /* never dedicated unless the driver requires it */
    ACRE_VK_NEVER_ALLOCATE = 1 << 3, /* from memory that is held already, or ACRE_NO_MEMORY */
    ACRE_VK_WITHIN_BUDGET = 1 << 4,  /* ACRE_GPU_FAIL, whatever the category says; on_limit is not called */
    ACRE_VK_EXPORT = 1 << 5,         /* can be exported as a file descriptor; dedicated */
    ACRE_VK_CAN_ALIAS = 1 << 6,      /* several resources will be bound to it: no VkMemoryDedicatedAllocateInfo */
    ACRE_VK_NO_BIND = 1 << 7         /* acre_vk_create_*: do not bind, the program does so (with pNext of its own) */
} acre_vk_flag;

typedef struct acre_vk_request {
    acre_vk_usage usage;             /* 0 = ACRE_VK_GPU */
    uint32_t flags;                  /* of acre_vk_flag */
    VkMemoryPropertyFlags required;  /* besides what usage and flags require */
    VkMemoryPropertyFlags preferred; /* among what fits, the type with most of these first … */
    VkMemoryPropertyFlags avoided;   /* … and with fewest of these */
    uint32_t type_bits;              /* memory types that may be used; 0 = all that the resource allows */
    uint32_t category;
    acre_vk_pool *pool;              /* NULL = the pages that all share. Else usage, required … type_bits are its own */
    VkDeviceSize alignment;          /* besides the resource's; a power of two, 0 = none */
    float priority;                  /* of dedicated memory; 0 = the category's */
    uint64_t tag;                    /* the program's: a number or a pointer */
    const char *name;                /* copied, cut at ACRE_GPU_NAME_MAX; NULL = none */
} acre_vk_request;

/* A block: a range of `memory`. A plain value; handle alone names the block. */
typedef struct acre_vk_allocation {
    VkDeviceMemory memory;
    VkDeviceSize offset; /* in memory; a multiple of what was asked for */
    VkDeviceSize size;   /* asked for or more */
    void *mapped;        /* with ACRE_VK_MAPPED and of imported host memory: the CPU's address of offset; else NULL */
    uint64_t handle;     /* never 0 */
    uint32_t memory_type;
    bool dedicated; /* memory that is in no pool, or imported; a block that fills a page of a pool is not */
} acre_vk_allocation;

/* The memory type that the request would go to first. The request may be NULL: all defaults. NOT_SUPPORTED: no type
 * fits. The forms with an info ask the driver (a temporary resource before Vulkan 1.3). */
ACRE_API acre_status acre_vk_find_memory_type(acre_vk *vk, uint32_t type_bits, const acre_vk_request *request,
                                              uint32_t *memory_type);
ACRE_API acre_status acre_vk_find_memory_type_for_buffer_info(acre_vk *vk, const VkBufferCreateInfo *info,
                                                              const acre_vk_request *request, uint32_t *memory_type);
ACRE_API acre_status acre_vk_find_memory_type_for_image_info(acre_vk *vk, const VkImageCreateInfo *info,
                                                             const acre_vk_request *request, uint32_t *memory_type);
ACRE_API acre_status acre_vk_memory_type_properties(acre_vk *vk, uint32_t memory_type, VkMemoryPropertyFlags *flags,
                                                    uint32_t *heap);

/* --- blocks ----------------------------------------------------------------------------------------------------- */

/* A block for these requirements, of any kind of resource. The request may be NULL. OVER_BUDGET, NO_MEMORY (see
 * acre_vk_last_shortage), TOO_LARGE (above the heap), NOT_SUPPORTED (no memory type fits), INVALID_ARGUMENT, SYSTEM. */
ACRE_API acre_status acre_vk_alloc(acre_vk *vk, const VkMemoryRequirements *requirements,
                                   const acre_vk_request *request, acre_vk_allocation *allocation);
/* Asks for the requirements, dedicated or not included. Does not bind. An image is taken for one of optimal tiling. */
ACRE_API acre_status acre_vk_alloc_for_buffer(acre_vk *vk, VkBuffer buffer, const acre_vk_request *request,
                                              acre_vk_allocation *allocation);
ACRE_API acre_status acre_vk_alloc_for_image(acre_vk *vk, VkImage image, const acre_vk_request *request,
                                             acre_vk_allocation *allocation);
/* Many at once, all or none; out parameter allocations[count]. */
ACRE_API acre_status acre_vk_alloc_many(acre_vk *vk, const VkMemoryRequirements *requirements,
                                        const acre_vk_request *request, uint32_t count,
                                        acre_vk_allocation *allocations);
/* At `offset` in the block; whether the resource fits there is not checked. INVALID_ARGUMENT: the offset lies outside;
 * NO_MEMORY, SYSTEM: the driver. */
ACRE_API acre_status acre_vk_bind_buffer(acre_vk *vk, uint64_t handle, VkDeviceSize offset, VkBuffer buffer);
ACRE_API acre_status acre_vk_bind_image(acre_vk *vk, uint64_t handle, VkDeviceSize offset, VkImage image);

/* The GPU is done with it. Never fails for lack of memory. Handle 0 is fine. DOUBLE_FREE, FOREIGN_POINTER. */
ACRE_API acre_status acre_vk_free(acre_vk *vk, uint64_t handle);

/* A point in time: when the GPU will be done. A fence, or a value of a timeline semaphore: set one of both. */
typedef struct acre_vk_point {
    VkFence fence;         /* of a submission that is made or will be; unsignaled until then */
    VkSemaphore semaphore; /* timeline; needs ACRE_VK_HAS_TIMELINE */
    uint64_t value;
} acre_vk_point;

/* The block is reused after the point, found out by acre_vk_collect or when memory is short. NO_MEMORY: the block is as
 * it was. INVALID_ARGUMENT: both or none of fence and semaphore, or a semaphore without ACRE_VK_HAS_TIMELINE. A fence
 * or semaphore must live until what waits for it was collected; tell acre_vk_fence_passed before a fence is reset. */
ACRE_API acre_status acre_vk_free_after(acre_vk *vk, uint64_t handle, acre_vk_point point);
/* The program knows (it has waited) that this fence was signaled: all that waits for it now is free. Before
 * vkResetFences. */
ACRE_API acre_status acre_vk_fence_passed(acre_vk *vk, VkFence fence);
/* Once per frame: frees what the GPU is done with, refreshes budgets, gives back empty memory by age. Returns how many
 * pending blocks became free. Asks the driver once per fence or semaphore that something waits for. */
ACRE_API uint64_t acre_vk_collect(acre_vk *vk);
/* Waits until at least one pending block is free. BUSY: the time (nanoseconds; ACRE_GPU_FOREVER) went by. OK: one is,
 * or nothing was pending. */
ACRE_API acre_status acre_vk_wait(acre_vk *vk, uint64_t timeout_ns);
/* Waits for all pending blocks. BUSY: some are left. */
ACRE_API acre_status acre_vk_drain(acre_vk *vk, uint64_t timeout_ns);
/* Milliseconds until acre_vk_collect has something to give back by age; UINT64_MAX: nothing. */
ACRE_API uint64_t acre_vk_next_collect_ms(acre_vk *vk);
/* Gives empty memory back to the driver until at most keep_bytes of it are kept, caches of freed blocks emptied first.
 * Returns the bytes given back. */
ACRE_API uint64_t acre_vk_trim(acre_vk *vk, uint64_t keep_bytes);

/* --- blocks: looking and naming --------------------------------------------------------------------------------- */

typedef struct acre_vk_block_info {
    acre_vk_allocation allocation;
    uint32_t category, heap;
    uint32_t map_count;   /* without the one of ACRE_VK_MAPPED */
    bool pending;         /* waits for the GPU; only in acre_vk_walk */
    acre_vk_pool *pool;   /* NULL = the pages that all share */
    uint64_t page_bytes;  /* of allocation.memory */
    uint64_t tag;
    char name[ACRE_GPU_NAME_MAX + 1]; /* "" = none */
} acre_vk_block_info;

ACRE_API acre_status acre_vk_get_info(acre_vk *vk, uint64_t handle, acre_vk_block_info *info);
ACRE_API acre_status acre_vk_set_tag(acre_vk *vk, uint64_t handle, uint64_t tag);
/* NO_MEMORY: the name is as it was. NULL: none. */
ACRE_API acre_status acre_vk_set_name(acre_vk *vk, uint64_t handle, const char *name);
/* Two live blocks of equal size, memory type and pool trade places: each handle names the other's memory from now on.
 * For moves: allocate with the same requirements, copy, swap, free the new handle after the copy. INVALID_ARGUMENT:
 * they differ, are dedicated or mapped. */
ACRE_API acre_status acre_vk_swap(acre_vk *vk, uint64_t handle, uint64_t other);

/* --- the CPU's side --------------------------------------------------------------------------------------------- */

/* *data is the CPU's address of the block. Counted per block; a page is mapped once, as a whole, and stays so. Once it
 * is, a few loads and stores. INVALID_ARGUMENT: the memory is not host visible; unmap: more unmaps than maps. A free
 * ends all maps of its block. */
ACRE_API acre_status acre_vk_map(acre_vk *vk, uint64_t handle, void **data);
ACRE_API acre_status acre_vk_unmap(acre_vk *vk, uint64_t handle);
/* After writes of the CPU / before reads of it; VK_WHOLE_SIZE: to the end of the block. Rounded to nonCoherentAtomSize,
 * which blocks of non-coherent memory never share. Nothing on coherent memory. The page must be mapped. */
ACRE_API acre_status acre_vk_flush(acre_vk *vk, uint64_t handle, VkDeviceSize offset, VkDeviceSize size);
ACRE_API acre_status acre_vk_invalidate(acre_vk *vk, uint64_t handle, VkDeviceSize offset, VkDeviceSize size);
/* Many ranges in one driver call. */
typedef struct acre_vk_range {
    uint64_t handle;
    VkDeviceSize offset, size;
} acre_vk_range;
ACRE_API acre_status acre_vk_flush_ranges(acre_vk *vk, const acre_vk_range *ranges, uint32_t count);
ACRE_API acre_status acre_vk_invalidate_ranges(acre_vk *vk, const acre_vk_range *ranges, uint32_t count);
/* Maps, copies, flushes (invalidates first), unmaps. */
ACRE_API acre_status acre_vk_copy_to(acre_vk *vk, uint64_t handle, VkDeviceSize offset, const void *source,
                                     size_t bytes);
ACRE_API acre_status acre_vk_copy_from(acre_vk *vk, uint64_t handle, VkDeviceSize offset, void *target, size_t bytes);

/* --- resources -------------------------------------------------------------------------------------------------- */

/* Makes the resource, allocates, binds; undoes all of it on failure. With ACRE_VK_EXPORT the resource is made for
 * export, too. */
ACRE_API acre_status acre_vk_create_buffer(acre_vk *vk, const VkBufferCreateInfo *info, const acre_vk_request *request,
                                           VkBuffer *buffer, acre_vk_allocation *allocation);
ACRE_API acre_status acre_vk_create_image(acre_vk *vk, const VkImageCreateInfo *info, const acre_vk_request *request,
                                          VkImage *image, acre_vk_allocation *allocation);
/* Null handles are fine: only the other one goes. If the block's handle is refused, the resource stays. */
ACRE_API acre_status acre_vk_destroy_buffer(acre_vk *vk, VkBuffer buffer, uint64_t handle);
ACRE_API acre_status acre_vk_destroy_image(acre_vk *vk, VkImage image, uint64_t handle);
/* Resource and block go after the point. */
ACRE_API acre_status acre_vk_destroy_buffer_after(acre_vk *vk, VkBuffer buffer, uint64_t handle, acre_vk_point point);
ACRE_API acre_status acre_vk_destroy_image_after(acre_vk *vk, VkImage image, uint64_t handle, acre_vk_point point);

/* Several resources in one block: aliases, at `offset` in it. The block was allocated with requirements that hold them
 * all (acre_vk_merge_requirements) and ACRE_VK_CAN_ALIAS. INVALID_ARGUMENT: alignment or memory type do not fit;
 * TOO_LARGE: the size does not. The caller destroys the resource. */
ACRE_API acre_status acre_vk_create_aliasing_buffer(acre_vk *vk, uint64_t handle, VkDeviceSize offset,
                                                    const VkBufferCreateInfo *info, VkBuffer *buffer);
ACRE_API acre_status acre_vk_create_aliasing_image(acre_vk *vk, uint64_t handle, VkDeviceSize offset,
                                                   const VkImageCreateInfo *info, VkImage *image);
/* Grows *requirements so that they hold `other`, too. NOT_SUPPORTED: no memory type in common. */
ACRE_API acre_status acre_vk_merge_requirements(VkMemoryRequirements *requirements, const VkMemoryRequirements *other);

/* --- external memory -------------------------------------------------------------------------------------------- */

/* A new file descriptor of the whole VkDeviceMemory of a block made with ACRE_VK_EXPORT; the caller closes or imports
 * it. NOT_SUPPORTED, INVALID_ARGUMENT (not made for it), SYSTEM. */
ACRE_API acre_status acre_vk_export_fd(acre_vk *vk, uint64_t handle, int *fd);
/* Memory behind an opaque file descriptor of the same driver, `bytes` and memory type as at its export (page_bytes and
 * memory_type there). On success, and if after it ACRE_VK_MAPPED fails, the descriptor belongs to the driver. The block
 * is freed like any other. buffer or image: what will be bound to it, if the exporter's memory was made for such a one;
 * else both VK_NULL_HANDLE. */
ACRE_API acre_status acre_vk_import_fd(acre_vk *vk, int fd, VkDeviceSize bytes, uint32_t memory_type,
                                       const acre_vk_request *request, VkBuffer buffer, VkImage image,
                                       acre_vk_allocation *allocation);
/* Pages of the CPU's as device memory, without a copy: acre's own (of acre_heap_alloc, acre_range, …) or any others.
 * Address and bytes are multiples of acre_vk_host_alignment. The pages outlive the block. Bind buffers that were made
 * with VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT. NOT_SUPPORTED: no extension, or no memory type takes
 * these pages. */
ACRE_API acre_status acre_vk_import_host(acre_vk *vk, void *address, size_t bytes, const acre_vk_request *request,
                                         acre_vk_allocation *allocation);
/* 0: host pages cannot be imported. */
ACRE_API size_t acre_vk_host_alignment(acre_vk *vk);

/* --- pools of one's own ----------------------------------------------------------------------------------------- */

typedef struct acre_vk_pool_options {
    acre_vk_request request;  /* usage, required, preferred, avoided, type_bits choose the memory type; EXPORT counts */
    uint64_t page_bytes;      /* every page has this size; 0 = they grow, as the shared ones do */
    uint32_t page_count_min;  /* made at creation and kept */
    uint32_t page_count_max;  /* a block that would need one more is ACRE_NO_MEMORY; 0 = any */
    float priority;           /* 0 = 0.5 */
    const char *name;         /* copied, cut at ACRE_GPU_NAME_MAX; NULL = "pool" */
} acre_vk_pool_options;

/* Statuses as acre_vk_alloc; TOO_LARGE: 64 pools. */
ACRE_API acre_status acre_vk_pool_create(acre_vk *vk, const acre_vk_pool_options *options, acre_vk_pool **pool);
/* BUSY: blocks are live or pending. NULL is fine. */
ACRE_API acre_status acre_vk_pool_destroy(acre_vk *vk, acre_vk_pool *pool);
ACRE_API acre_status acre_vk_pool_stats(acre_vk *vk, acre_vk_pool *pool, acre_gpu_heap_stats *stats);

/* --- budgets and statistics ------------------------------------------------------------------------------------- */

/* 0 = none / what the driver says. One below what is in use refuses until enough is freed. */
ACRE_API acre_status acre_vk_set_category_budget(acre_vk *vk, uint32_t category, uint64_t bytes);
ACRE_API acre_status acre_vk_set_heap_budget(acre_vk *vk, uint32_t heap, uint64_t bytes);

/* Snapshots of counters; O(shards). A category's peak is exact with one thread, up to 4 MiB high per other shard. */
ACRE_API uint32_t acre_vk_heap_count(acre_vk *vk);
ACRE_API acre_status acre_vk_heap_stats(acre_vk *vk, uint32_t heap, acre_gpu_heap_stats *stats);
ACRE_API acre_status acre_vk_category_stats(acre_vk *vk, uint32_t category, acre_gpu_category_stats *stats);
/* The sum over heaps, and what else counts. */
typedef struct acre_vk_stats {
    acre_gpu_heap_stats total;   /* budgets added up */
    uint64_t pages;              /* driver allocations that are shared; total.driver_allocations - pages are not */
    uint64_t hits;               /* allocations served from the shards' caches, so far */
    uint64_t cached_bytes;       /* freed blocks in the shards' caches; in total.hole_bytes */
    uint64_t bookkeeping_bytes;  /* of ordinary memory */
    bool device_lost;            /* the driver said so */
} acre_vk_stats;
ACRE_API acre_status acre_vk_get_stats(acre_vk *vk, acre_vk_stats *stats);
/* The latest failure's report. False: there was none. */
ACRE_API bool acre_vk_last_shortage(acre_vk *vk, acre_gpu_shortage *shortage);

/* Every live and pending block, in no particular order. visit is called without locks and may use the allocator: blocks
 * that come and go meanwhile may be seen or not. False ends the walk. */
typedef bool acre_vk_visit(void *context, const acre_vk_block_info *block);
ACRE_API acre_status acre_vk_walk(acre_vk *vk, acre_vk_visit *visit, void *context);
/* Every page, dedicated memory included: what defragmentation plans with. */
typedef struct acre_vk_page_info {
    VkDeviceMemory memory;
    uint64_t bytes, used_bytes;      /* used: in blocks (live, pending) and in shards' caches */
    uint64_t largest_hole_bytes;
    uint32_t blocks, memory_type, heap;
    bool dedicated, mapped, imported;
    acre_vk_pool *pool;
} acre_vk_page_info;
typedef bool acre_vk_visit_page(void *context, const acre_vk_page_info *page);
ACRE_API acre_status acre_vk_walk_pages(acre_vk *vk, acre_vk_visit_page *visit, void *context);

/* All of it as JSON: heaps, categories, memory types, pages with their blocks (if `blocks`). Writes at most `bytes`, a
 * final zero included, and returns the length of the whole text, as snprintf does. */
ACRE_API size_t acre_vk_report(acre_vk *vk, bool blocks, char *buffer, size_t bytes);
/* Verifies every invariant, O(blocks log blocks), while no other call runs. NULL: all is well; else a sentence about
 * the first that does not hold. */
ACRE_API const char *acre_vk_check(acre_vk *vk);

#ifdef __cplusplus
}
#endif
#endif
