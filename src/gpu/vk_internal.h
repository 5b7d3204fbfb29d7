/* vk_internal: the structures of <acre/vulkan.h>, for the vk_*.c files alone.
 *
 * Layer 8. From top to bottom:
 *
 *   acre_vk      one device: functions, memory types, pools, shards, the ledger, what waits for the GPU
 *   vk_shard     a hit path: freed blocks kept as they are, by pool and size class. A thread takes one with a single
 *                exchange and, if another thread is in it, takes another; it never sleeps there
 *   vk_pool      blocks of one memory type (and kind and priority): one coalescing core over the pages of them all
 *   vk_page      one VkDeviceMemory: shared (in a pool's core) or of a single block (dedicated, imported)
 *   vk_block     64 bytes per block, found by its number: handle -> chunk -> block
 *
 * Address order in a pool's core: every page starts at a multiple of UNIT granules, and between two pages lies a gap
 * or a page that is gone (a used node over its whole range), so holes never merge across pages and an offset in the
 * core is aligned as the offset in its memory is.
 *
 *   core   [page 0      ][gap][page 1 ][gap][gone: used][gap][page 3            ]
 *           ^ origin = unit 0  ^ unit 2      ^ unit 4         ^ unit 6
 *
 * Looking: a walk copies blocks that others free and allocate meanwhile, and no hit pays for it. A block's state word
 * is its sequence number. Fields change while the block is neither LIVE nor PENDING, and each of these begins with a
 * new generation; so what was copied between two looks that find the same word is of one moment. From live to pending
 * the generation stays, but not the word. What changes within one word (a swap, a free_after that finds no memory) lies
 * between changes_begun and changes_ended of the allocator, and who finds them unequal copies again. For this, fields
 * that walks read are stored with release (VK_SET) and copied with acquire (VK_SEEN): who copies a new value sees the
 * new word, too. On x86-64 both are plain moves. The owner of a block reads it as any memory.
 *   What a walk follows must not become something else under its feet: the record of a page that is gone serves pages
 * only, until the allocator goes; pools stay; and names are copied, set and dropped under looks_lock, which no block
 * without a name needs: BLOCK_NAMED in flags <=> `name` is one, for who holds it.
 *
 * Locks: grow_lock of a pool, outermost, may be held while the driver is called, and no hit needs it. pool->lock
 * (LOCK_RANK_GPU) is never held during a driver call, nor while a shard is entered. A shard is a spin word of its own:
 * whoever is in one takes no lock. */
#ifndef ACRE_GPU_VK_INTERNAL_H
#define ACRE_GPU_VK_INTERNAL_H

#include "acre/vulkan.h"

#include "alloc/coalesce.h"
#include "gpu/empty_policy.h"
#include "gpu/ledger.h"
#include "gpu/retire.h"
#include "os/lock.h"
#include "page/arena.h"

typedef struct acre_vk_pool vk_pool; /* those of the program and the shared ones */

/* Fields that walks read; see Looking. */
#define VK_SET(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)
#define VK_SEEN(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)

/* --- functions of the driver ------------------------------------------------------------------------------------ */

/* X(name): all devices have them. */
#define VK_FUNCTIONS_REQUIRED(X)                                                                            \
    X(GetPhysicalDeviceProperties) X(GetPhysicalDeviceMemoryProperties) X(AllocateMemory) X(FreeMemory)     \
    X(MapMemory) X(UnmapMemory) X(FlushMappedMemoryRanges) X(InvalidateMappedMemoryRanges)                  \
    X(BindBufferMemory) X(BindImageMemory) X(GetBufferMemoryRequirements) X(GetImageMemoryRequirements)     \
    X(CreateBuffer) X(DestroyBuffer) X(CreateImage) X(DestroyImage) X(GetFenceStatus) X(WaitForFences)
/* X(name, suffix before it was core): NULL where the version or the feature is not there. */
#define VK_FUNCTIONS_OPTIONAL(X)                                                                            \
    X(GetPhysicalDeviceMemoryProperties2, "KHR") X(GetPhysicalDeviceProperties2, "KHR")                     \
    X(GetBufferMemoryRequirements2, "KHR") X(GetImageMemoryRequirements2, "KHR")                            \
    X(GetDeviceBufferMemoryRequirements, "KHR") X(GetDeviceImageMemoryRequirements, "KHR")                  \
    X(GetSemaphoreCounterValue, "KHR") X(WaitSemaphores, "KHR") X(GetMemoryFdKHR, "")                       \
    X(GetMemoryHostPointerPropertiesEXT, "") X(GetPhysicalDeviceFeatures, "") X(QueueBindSparse, "")        \
    X(GetImageSparseMemoryRequirements, "")

typedef struct vk_functions {
#define X(name) PFN_vk##name name;
    VK_FUNCTIONS_REQUIRED(X)
#undef X
#define X(name, suffix) PFN_vk##name name;
    VK_FUNCTIONS_OPTIONAL(X)
#undef X
} vk_functions;

/* --- blocks ----------------------------------------------------------------------------------------------------- */

enum {
    BLOCKS_PER_CHUNK_LOG2 = 8,
    BLOCKS_PER_CHUNK = 1 << BLOCKS_PER_CHUNK_LOG2,
    BLOCK_INDEX_BITS = 24,
    CHUNKS_MAX = 1 << (BLOCK_INDEX_BITS - BLOCKS_PER_CHUNK_LOG2),
    BLOCK_STATE_BITS = 4,
    BLOCK_STATE_MASK = (1 << BLOCK_STATE_BITS) - 1,
};

/* free -> live -> cached | pending; free -> pending (a resource without memory); pending -> cached | live (it could not
 * wait: no memory); cached -> live | free. To live from free or cached, and to pending from free: a new generation. */
enum block_state { BLOCK_FREE, BLOCK_LIVE, BLOCK_CACHED, BLOCK_PENDING };

enum block_flag {
    BLOCK_MAPPED = 1 << 0, /* asked for with ACRE_VK_MAPPED */
    BLOCK_ALONE = 1 << 1,  /* its page is not in a core: dedicated or imported */
    BLOCK_NAMED = 1 << 2,
    BLOCK_HAS_BUFFER = 1 << 3, /* pending only: `resource` goes with it */
    BLOCK_HAS_IMAGE = 1 << 4,
    BLOCK_FIXED = 1 << 5, /* never moved by defragmentation: the library has bound it */
    BLOCK_COLD = 1 << 6,  /* when free, it goes back into its page and into no cache */
    BLOCK_FREE_SLOWLY = BLOCK_ALONE | BLOCK_NAMED | BLOCK_HAS_BUFFER | BLOCK_HAS_IMAGE | BLOCK_COLD,
};

/* handle == (generation << 4 | BLOCK_LIVE) << 32 | allocator id << 24 | index
 * The upper half of a live block's handle is its state word. */
typedef struct vk_block {
    _Atomic uint32_t state; /* generation << 4 | block_state */
    uint32_t node;          /* in the pool's core */
    uint32_t next;          /* of its bin or of the free blocks: index + 1; 0 = the last */
    uint8_t category;
    uint8_t flags;
    uint16_t aligned_log2;  /* what was asked for: its next place needs it, too */
    struct vk_page *page;  /* NULL: no memory, a resource that waits for the GPU */
    uint64_t offset, size; /* bytes in the page; size is what is charged */
    uint64_t tag;
    union {
        char *name;        /* BLOCK_NAMED */
        uint64_t resource; /* BLOCK_HAS_… */
    };
    _Atomic uint32_t map_count; /* pending: the slot of its timeline */
    uint32_t index; /* its own */
} vk_block;
_Static_assert(sizeof(vk_block) == ACRE_CACHE_LINE, "a block is a cache line");

/* --- pages ------------------------------------------------------------------------------------------------------ */

typedef struct vk_page {
    /* written before anybody else sees it, but walks that came late: with VK_SET */
    VkDeviceMemory memory;
    uint64_t bytes;
    vk_pool *pool; /* acre_vk.alone for pages of a single block */
    uint32_t memory_type, heap;
    uint32_t origin; /* granule of the core where it starts */
    uint32_t node;   /* of a page that is gone: what covers its range */
    bool shared;     /* in a core */
    bool imported;
    bool exported;
    bool host; /* imported host pages: `mapped` is the user's address */
    _Atomic(char *) mapped;
    lock map_lock; /* one vkMapMemory at a time */

    /* guarded by pool->lock */
    _Alignas(ACRE_CACHE_LINE) empty_item empty; /* in pool->empties <=> shared and used == 0 */
    uint32_t used;                              /* granules in nodes that are blocks */
    uint32_t block_count;
    struct vk_page *next, *prev; /* pool->pages */
    uint32_t seen_blocks; /* vk_check.c counts here */
    uint64_t seen_bytes;
} vk_page;

/* Small blocks have pages of their own: a few that outlive a level must not hold the pages of its textures. One bound,
 * and a low one: every group more is memory that the others cannot use when what is asked for changes. */
enum vk_group { GROUP_SMALL, GROUP_LARGE, GROUP_COUNT };
#define GROUP_SMALL_BYTES_MAX ((uint64_t)16 << 10)

/* Which neighbours a block may have, where bufferImageGranularity is larger than a granule. */
enum vk_kind { KIND_LINEAR, KIND_OPTIMAL, KIND_UNKNOWN };

enum {
    GRANULE_LOG2 = 6,      /* 64 bytes: no buffer asks for less alignment and gains by it */
    UNIT_LOG2 = 15,        /* granules: 2 MiB, the largest alignment inside of shared pages */
    POOLS_OF_ONES_OWN = 64,
    PRIORITIES_MAX = 8,
    GRANULARITY_ROUNDED_MAX = 4096, /* up to it blocks are rounded to it; beyond, kinds have pools of their own */
};
#define GRANULE ((uint64_t)1 << GRANULE_LOG2)
#define UNIT_BYTES ((uint64_t)1 << (UNIT_LOG2 + GRANULE_LOG2))

struct acre_vk_pool {
    lock lock;      /* LOCK_RANK_GPU */
    lock grow_lock; /* one thread asks the driver, others wait and then look again; outermost */
    /* written before anybody else sees it */
    acre_vk *vk;
    uint32_t index, memory_type, heap;
    float priority;
    enum vk_group group;
    bool own; /* acre_vk_pool */
    bool exported;
    uint64_t page_bytes; /* of every page; 0: they grow */
    uint32_t page_count_min, page_count_max;
    char name[ACRE_GPU_NAME_MAX + 1];
    _Atomic uint64_t pending_bytes;
    _Atomic uint64_t pending_count;

    /* guarded by lock */
    bool started; /* the core is there */
    coalesce core;
    uint32_t even_log2; /* all sizes and offsets in the core are multiples of 1 << it granules */
    vk_page *pages;
    uint32_t page_count;
    uint64_t bytes;   /* of pages */
    uint64_t gone_granules;
    vk_page *gone; /* list of records whose memory was given back; the next page of that size takes the place */
    vk_page **units; /* [origin >> UNIT_LOG2] the page that starts there or reaches into it */
    uint32_t unit_count;
    empty_list empties;
    uint32_t free_block; /* index + 1 */
    uint32_t block_count; /* blocks not free: live, cached, pending */
};

/* --- shards ----------------------------------------------------------------------------------------------------- */

enum {
    CLASS_STEP_LOG2 = 4, /* 16 classes per doubling: at most 1/16 of a block is more than was asked for */
    CLASS_COUNT = 192,   /* below 2 MiB */
    CLASS_LOOK = 4,      /* blocks of a bin that a request looks at */
    EVICTED_MAX = 8,     /* at once by a free, so that no free is slow */
    AGED_MAX = 1024,     /* at once by age */
};
#define CREDIT_BYTES_MAX ((uint64_t)4 << 20)

/* The class of a size in granules, >= 1: exact to 16, then 16 per doubling. */
static inline uint32_t vk_class_of(uint64_t granules)
{
    if (granules < 1u << CLASS_STEP_LOG2) return (uint32_t)granules;
    unsigned e = bits_highest(granules);
    return ((e - CLASS_STEP_LOG2 + 1) << CLASS_STEP_LOG2) +
           ((uint32_t)(granules >> (e - CLASS_STEP_LOG2)) & ((1u << CLASS_STEP_LOG2) - 1));
}

/* Freed blocks of one pool. */
typedef struct vk_bins {
    uint64_t bytes;
    uint64_t bytes_low; /* least since the last ageing: nobody needed so much */
    uint32_t cursor;    /* where eviction goes on */
    uint32_t count;
    uint32_t head[CLASS_COUNT]; /* index + 1 */
} vk_bins;

/* What this shard may hand out without asking the ledger, which counts it as live. */
typedef struct vk_account {
    uint64_t credit;
    int64_t blocks; /* allocated - freed here; the sum over shards is the number of live ones */
} vk_account;

typedef struct vk_shard {
    _Alignas(ACRE_CACHE_LINE) _Atomic uint32_t busy; /* all below belong to who set it */
    uint64_t cached_bytes; /* sum over bins */
    uint64_t cached_bytes_max;
    uint64_t hits;
    vk_bins **bins;        /* [pool] NULL until used */
    vk_account *accounts;  /* [category * heap_count + heap] */
} vk_shard;

/* --- what is asked for, after all rounding ---------------------------------------------------------------------- */

typedef struct vk_want {
    uint64_t bytes, alignment; /* as the driver said */
    uint32_t type_bits;
    enum vk_kind kind;
    bool prefers_dedicated, requires_dedicated;
    VkBuffer buffer; /* of VkMemoryDedicatedAllocateInfo */
    VkImage image;
    const acre_vk_request *request; /* never NULL */
} vk_want;

typedef struct vk_type_list {
    uint32_t count;
    uint8_t types[VK_MAX_MEMORY_TYPES]; /* best first */
} vk_type_list;

/* --- points in time --------------------------------------------------------------------------------------------- */

/* A fence or a semaphore that something waits for. retire.h knows it by `id`, which is never used twice: an answer
 * about a fence that is gone must not free what waits for another one. */
typedef struct vk_timeline {
    uint64_t id;     /* count << 16 | slot of the table */
    uint64_t handle; /* VkFence or VkSemaphore */
    uint32_t waiting; /* blocks */
    uint32_t asking;  /* threads that are in the driver with the handle; 0, and waiting 0: the slot is free */
    bool semaphore;
    bool passed; /* the program said so: no longer found by its handle */
} vk_timeline;

/* --- the allocator ---------------------------------------------------------------------------------------------- */

struct acre_vk {
    /* written by acre_vk_create */
    uint32_t id; /* 1 … 255: in handles */
    uint32_t shard_mask, pool_slots, shared_pools, kinds, priority_count;
    uint32_t heap_count, category_count;
    vk_shard *shards;
    vk_block **chunks;   /* [CHUNKS_MAX] */
    vk_pool **pools;     /* [pool_slots] NULL until used; written under pools_lock, read without */
    vk_type_list order[ACRE_VK_USAGE_COUNT][2]; /* [usage][mapped] */
    uint8_t priority_of_category[ACRE_GPU_CATEGORIES_MAX];
    uint32_t heap_of[VK_MAX_MEMORY_TYPES];
    VkMemoryPropertyFlags type_flags[VK_MAX_MEMORY_TYPES];
    uint32_t host_visible_types, coherent_types; /* bit sets */
    uint64_t granularity;                        /* bufferImageGranularity */
    uint64_t atom;                               /* nonCoherentAtomSize */
    bool rounds_to_granularity;                  /* granule < granularity <= GRANULARITY_ROUNDED_MAX, or two kinds */
    vk_functions call;
    VkInstance instance;
    VkPhysicalDevice physical_device;
    VkDevice device;
    uint32_t api_version, features;
    VkAllocationCallbacks callbacks;
    const VkAllocationCallbacks *callbacks_or_null;
    VkPhysicalDeviceProperties properties;
    VkPhysicalDeviceMemoryProperties memory;
    size_t host_alignment;
    uint64_t page_bytes_min, page_bytes_max; /* 0: by heap */
    empty_policy policy;
    uint64_t cache_bytes_max;
    bool cache_by_use;
    uint64_t (*now_ms)(void *context);
    void *now_context;
    acre_gpu_on_limit *on_limit;
    void *on_limit_context;
    float priorities[PRIORITIES_MAX];

    gpu_ledger ledger;
    vk_pool *alone; /* pages of a single block */
    retire_queue retire;

    lock pools_lock; /* guards the making of pools; outside of pool->lock */
    _Atomic uint32_t chunk_count;
    _Atomic uint32_t driver_allocations;
    _Atomic uint64_t pending_count;
    _Atomic uint64_t maintained_ms, budgets_ms;
    _Atomic bool device_lost;
    _Atomic uint64_t heap_budget_user[VK_MAX_MEMORY_HEAPS]; /* 0: none */

    lock timeline_lock; /* guards the table; outside of retire's */
    vk_timeline *timelines;
    uint32_t timeline_capacity;
    uint64_t timeline_ids;
    _Atomic uint32_t asking; /* sum over timelines */

    lock looks_lock; /* guards names of blocks and records of pages; innermost but for the arena */
    vk_page *spare_records; /* by next */
    uint32_t record_count;  /* of all pages that are or were */
    _Atomic uint32_t changes_begun, changes_ended; /* equal: none is under way */

    lock shortage_lock;
    bool had_shortage;
    acre_gpu_shortage shortage;
};

/* --- vk_device.c ------------------------------------------------------------------------------------------------ */

/* Keeps the result for acre_vk_last_result and notes a lost device. */
acre_status vk_status(acre_vk *vk, VkResult result);
static inline uint64_t vk_now(const acre_vk *vk)
{
    return vk->now_ms != NULL ? vk->now_ms(vk->now_context) : os_now_ms();
}

/* --- vk_types.c ------------------------------------------------------------------------------------------------- */

void vk_types_init(acre_vk *vk);
/* Types for the request, best first, with `type_bits` alone. */
void vk_types_order(const acre_vk *vk, const acre_vk_request *request, uint32_t type_bits, vk_type_list *list);

/* --- vk_shard.c ------------------------------------------------------------------------------------------------- */

extern ACRE_HIDDEN _Thread_local uint32_t vk_thread_number, vk_thread_misses;
vk_shard *vk_shard_enter_slow(acre_vk *vk);

static inline vk_shard *vk_shard_enter(acre_vk *vk)
{
    vk_shard *s = &vk->shards[vk_thread_number & vk->shard_mask];
    if (likely(vk_thread_number != 0 && atomic_exchange_explicit(&s->busy, 1, memory_order_acquire) == 0)) return s;
    return vk_shard_enter_slow(vk);
}
static inline void vk_shard_leave(vk_shard *s) { atomic_store_explicit(&s->busy, 0, memory_order_release); }
/* This one and no other; waits. */
vk_shard *vk_shard_enter_number(acre_vk *vk, uint32_t number);

static inline vk_account *vk_account_of(const acre_vk *vk, vk_shard *s, uint32_t category, uint32_t heap)
{
    return &s->accounts[category * vk->heap_count + heap];
}
/* In the shard. False: the budget is in the way; nothing changed. */
static inline bool vk_shard_charge(acre_vk *vk, vk_shard *s, uint32_t category, uint32_t heap, uint64_t bytes,
                                   bool exceed)
{
    vk_account *a = vk_account_of(vk, s, category, heap);
    if (unlikely(a->credit < bytes)) {
        if (!gpu_ledger_charge(&vk->ledger, category, heap, bytes - a->credit, exceed)) return false;
        a->credit = bytes;
    }
    a->credit -= bytes;
    a->blocks++;
    return true;
}
static inline void vk_shard_discharge(acre_vk *vk, vk_shard *s, uint32_t category, uint32_t heap, uint64_t bytes)
{
    vk_account *a = vk_account_of(vk, s, category, heap);
    a->credit += bytes;
    a->blocks--;
    if (unlikely(a->credit > CREDIT_BYTES_MAX)) {
        gpu_ledger_discharge(&vk->ledger, category, heap, a->credit);
        a->credit = 0;
    }
}
/* From outside of shards. A charge that the budget refuses collects all credit and tries again. */
bool vk_charge(acre_vk *vk, uint32_t category, uint32_t heap, uint64_t bytes, bool exceed);
void vk_discharge(acre_vk *vk, uint32_t category, uint32_t heap, uint64_t bytes);
/* All credit goes back to the ledger. */
void vk_collect_credit(acre_vk *vk);
/* Sums over shards; category or heap UINT32_MAX: all. */
void vk_credit(acre_vk *vk, uint32_t category, uint32_t heap, uint64_t *credit, uint64_t *blocks);

/* Makes bins for this pool. In the shard. NULL: no memory. */
vk_bins *vk_bins_make(vk_shard *s, uint32_t pool);
/* Takes a block of `size` or little more off the bins; NULL: none. In the shard. */
vk_block *vk_bins_pop(acre_vk *vk, vk_shard *s, vk_bins *bins, uint32_t cls, uint64_t size, uint64_t alignment);
/* The block, CACHED, is kept. False: no room. In the shard. */
bool vk_bins_push(acre_vk *vk, vk_shard *s, vk_pool *pool, vk_block *block);
/* Takes blocks of at least `bytes` off, or `count` of them, and returns the first of their chain (index + 1). In the
 * shard. */
uint32_t vk_bins_evict(acre_vk *vk, vk_shard *s, vk_bins *bins, uint64_t bytes, uint32_t count);
/* Gives what the bins of all shards hold for this pool back to it; NULL: for every pool. `old` only what nobody needed
 * since the last time. Returns the bytes. Outside of shards and locks. */
uint64_t vk_flush(acre_vk *vk, vk_pool *pool, bool old);

/* --- vk_pages.c ------------------------------------------------------------------------------------------------- */

/* Driver memory with a hold in the ledger: all or nothing. next: pNext chain or NULL. why->category: whose request. */
acre_status vk_memory_make(acre_vk *vk, vk_pool *pool, uint32_t memory_type, uint64_t bytes, const void *next,
                           float priority, bool exceed, bool imported, vk_page **page, acre_gpu_shortage *why);
/* Gives driver memory back, and the record, unless that stays in pool->gone. */
void vk_memory_free(acre_vk *vk, vk_page *page);
/* After the last pool. */
void vk_records_end(acre_vk *vk);
void vk_memory_give_back(acre_vk *vk, VkDeviceMemory memory, uint32_t heap, uint64_t bytes);
/* Under pool->lock: a block from a hole. NULL: there is none; with *no_record, no memory for its record. */
vk_block *vk_pool_take(acre_vk *vk, vk_pool *pool, uint64_t bytes, uint64_t alignment, bool *no_record);
/* A block from a page that is made for it, or that another thread has made meanwhile. */
acre_status vk_pool_grow(acre_vk *vk, vk_pool *pool, uint64_t bytes, uint64_t alignment, bool exceed,
                         vk_block **block, acre_gpu_shortage *why);
/* One page more, empty; for page_count_min. */
acre_status vk_pool_add_page(acre_vk *vk, vk_pool *pool, acre_gpu_shortage *why);
/* A page without a core goes into the list of all such, or leaves it. */
void vk_page_link(vk_pool *pool, vk_page *page);
void vk_page_unlink(vk_pool *pool, vk_page *page);
/* Blocks (a chain by next, all CACHED or ours otherwise) go back into their holes. */
void vk_pool_give(acre_vk *vk, vk_pool *pool, uint32_t chain);
/* Under pool->lock: a record, its state FREE. NULL: no memory. */
vk_block *vk_block_take(acre_vk *vk, vk_pool *pool);
void vk_block_give(vk_pool *pool, vk_block *block);
/* Gives empties back as the policy says, or until `over` bytes went. Returns the bytes. Driver calls. */
uint64_t vk_pool_shrink(acre_vk *vk, vk_pool *pool, const empty_policy *policy, uint64_t over);
uint64_t vk_heap_shrink(acre_vk *vk, uint32_t heap, uint64_t over);
/* What a shard may keep, by what is live now; for cache_by_use. */
uint64_t vk_cached_bytes_max(const acre_vk *vk);
/* What is due by the clock, in this order: old caches, old empties, budgets. */
void vk_maintain(acre_vk *vk, bool now);
/* Looks at the clock every 16th time. */
static inline void vk_maintain_sometimes(acre_vk *vk)
{
    if (unlikely((++vk_thread_misses & 15) == 0)) vk_maintain(vk, false);
}
/* The pool of a type, made when needed; NULL: no memory. */
vk_pool *vk_pool_of(acre_vk *vk, uint32_t memory_type, enum vk_kind kind, uint64_t bytes, uint32_t category);
vk_pool *vk_pool_make(acre_vk *vk, uint32_t index, uint32_t memory_type);
void vk_pool_end(acre_vk *vk, vk_pool *pool);
static inline enum vk_group vk_group_of(uint64_t bytes)
{
    return bytes <= GROUP_SMALL_BYTES_MAX ? GROUP_SMALL : GROUP_LARGE;
}
static inline uint32_t vk_pool_index(const acre_vk *vk, uint32_t memory_type, enum vk_kind kind, uint64_t bytes,
                                     uint32_t category)
{
    uint32_t k = kind == KIND_OPTIMAL && vk->kinds == 2;
    uint32_t group = (memory_type * vk->kinds + k) * GROUP_COUNT + vk_group_of(bytes);
    return group * vk->priority_count + vk->priority_of_category[category];
}

/* --- vk_budget.c ------------------------------------------------------------------------------------------------ */

void vk_budgets_init(acre_vk *vk, const acre_vk_options *options);
/* Asks the driver if it can tell; else nothing changes. */
void vk_budgets_refresh(acre_vk *vk);
/* Fills in what the ledger does not know, and keeps it. */
void vk_shortage_note(acre_vk *vk, acre_gpu_shortage *shortage, acre_status status, const vk_want *want,
                      uint32_t heap);

/* --- vk_alloc.c ------------------------------------------------------------------------------------------------- */

acre_status vk_alloc(acre_vk *vk, const vk_want *want, acre_vk_allocation *allocation);
extern ACRE_HIDDEN const acre_vk_request vk_default_request;

/* By its number alone; NULL: this allocator never gave such a handle. */
static inline vk_block *vk_block_at(const acre_vk *vk, uint32_t index)
{
    vk_block *chunk = __atomic_load_n(&vk->chunks[index >> BLOCKS_PER_CHUNK_LOG2], __ATOMIC_ACQUIRE);
    return chunk != NULL ? &chunk[index & (BLOCKS_PER_CHUNK - 1)] : NULL;
}
static inline vk_block *vk_block_of(const acre_vk *vk, uint64_t handle)
{
    if (unlikely(((uint32_t)handle >> BLOCK_INDEX_BITS) != vk->id)) return NULL;
    return vk_block_at(vk, (uint32_t)handle & ((1u << BLOCK_INDEX_BITS) - 1));
}
static inline uint64_t vk_handle_of(const acre_vk *vk, const vk_block *b, uint32_t state)
{
    return (uint64_t)state << 32 | (uint64_t)vk->id << BLOCK_INDEX_BITS | b->index;
}
/* Takes the name, of ACRE_GPU_NAME_MAX + 1 bytes of the arena; the block has none. */
void vk_block_name(acre_vk *vk, vk_block *block, char *name);
/* Why this handle names no live block. */
acre_status vk_stale(const vk_block *block, uint64_t handle);
static inline acre_status vk_resolve(const acre_vk *vk, uint64_t handle, vk_block **block)
{
    vk_block *b = *block = vk_block_of(vk, handle);
    if (unlikely(b == NULL || atomic_load_explicit(&b->state, memory_order_acquire) != handle >> 32))
        return vk_stale(b, handle);
    return ACRE_OK;
}
/* Around what changes in a block while its state word stays. */
static inline void vk_change_begin(acre_vk *vk)
{
    atomic_fetch_add_explicit(&vk->changes_begun, 1, memory_order_relaxed);
}
static inline void vk_change_end(acre_vk *vk)
{
    atomic_fetch_add_explicit(&vk->changes_ended, 1, memory_order_release);
}
static inline void vk_block_add_flag(vk_block *b, enum block_flag flag)
{
    VK_SET(b->flags, (uint8_t)(b->flags | flag));
}
/* live -> to. The caller owns the block then. */
static inline bool vk_block_leave(vk_block *b, uint64_t handle, enum block_state to)
{
    uint32_t live = (uint32_t)(handle >> 32);
    return atomic_compare_exchange_strong_explicit(&b->state, &live, (live & ~(uint32_t)BLOCK_STATE_MASK) | to,
                                                   memory_order_acq_rel, memory_order_relaxed);
}
/* A block that its owner has taken out of LIVE (or PENDING) and that is charged no more goes where free ones are. */
void vk_block_release(acre_vk *vk, vk_block *block);
void vk_describe(const acre_vk *vk, const vk_block *block, uint32_t state, acre_vk_allocation *allocation);
/* Own memory for one block; the charge is made here, too. */
acre_status vk_alloc_alone(acre_vk *vk, const vk_want *want, uint32_t memory_type, uint64_t bytes, const void *next,
                           bool imported, bool exceed, vk_block **block, acre_gpu_shortage *why);

/* --- vk_map.c, vk_retire.c -------------------------------------------------------------------------------------- */

/* The whole page; the address of its first byte, or NULL and *status. */
char *vk_page_map(acre_vk *vk, vk_page *page, acre_status *status);

void vk_retire_init(acre_vk *vk);
acre_status vk_free_after(acre_vk *vk, uint64_t handle, acre_vk_point point, uint8_t flag, uint64_t resource);

#endif
