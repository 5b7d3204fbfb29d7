/* acre/vulkan_stream.h: memory whose contents come and go: a ring for what a frame writes, buffers that grow, resources
 * whose pages come one by one, and moves that gather what is scattered. All of it on <acre/vulkan.h>: the same pages,
 * budgets, categories and time-aware frees.
 *
 *     ring        acre_vk_ring_alloc ... acre_vk_ring_frame_end(ring, &point)        staging, uniforms, per-frame
 * vertices growable    acre_vk_growable_resize -> in place, or "copy this, then finish"   lists whose end nobody knows
 *     sparse      acre_vk_sparse_commit, acre_vk_sparse_commit_mip                   textures with the levels in sight
 *     defrag      begin -> step -> copy -> confirm ... -> end                        after a level was left
 *
 * Units are bytes. Structs: zero is the default of each field. Errors as in <acre/vulkan.h>: a call that fails has
 * changed nothing unless it says so. Where a VkQueue is handed over, the caller guards it as Vulkan asks. */
#ifndef ACRE_VULKAN_STREAM_H
#define ACRE_VULKAN_STREAM_H

#include "acre/vulkan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- the ring --------------------------------------------------------------------------------------------------- */

/* One buffer, mapped for good, that is written from front to end and round again. What was allocated between two calls
 * of frame_end is a frame; it is free again when the frame's point is reached. */
typedef struct acre_vk_ring acre_vk_ring;

enum { ACRE_VK_RING_FRAMES_MAX = 64, ACRE_VK_RING_BUFFERS_MAX = 16 };

typedef struct acre_vk_ring_options {
    uint64_t bytes;                  /* of the first buffer; 0 = 4 MiB */
    uint64_t bytes_max;              /* of all buffers together: when full it goes on in a larger one, and the old one
                                      * goes when its frames are done; 0 = bytes: it never grows */
    VkBufferUsageFlags buffer_usage; /* 0 = VK_BUFFER_USAGE_TRANSFER_SRC_BIT */
    uint64_t alignment;              /* of every piece at least, a power of two; 0 = 16 */
    acre_vk_request request; /* of the buffers; usage 0 (GPU) = ACRE_VK_UPLOAD, MAPPED is added; category, name */
} acre_vk_ring_options;

typedef struct acre_vk_piece {
    VkBuffer buffer;
    VkDeviceSize offset; /* in buffer */
    VkDeviceSize size;   /* as asked for */
    void *mapped;        /* the CPU's address of offset */
} acre_vk_piece;

/* Makes the first buffer. Statuses as acre_vk_create_buffer. */
ACRE_API acre_status acre_vk_ring_create(acre_vk *vk, const acre_vk_ring_options *options, acre_vk_ring **ring);
/* All buffers go at once: the GPU is done with them. NULL is fine. */
ACRE_API void acre_vk_ring_destroy(acre_vk_ring *ring);

/* A piece for this frame; alignment is a power of two, 0 = options.alignment. Several threads at once; a hit takes no
 * lock: a load, a division and a compare-and-exchange. BUSY: full, and no frame is done (acre_vk_ring_wait helps).
 * TOO_LARGE: more than bytes_max. NO_MEMORY, OVER_BUDGET, SYSTEM: it had to grow. */
ACRE_API acre_status acre_vk_ring_alloc(acre_vk_ring *ring, VkDeviceSize size, VkDeviceSize alignment,
                                        acre_vk_piece *piece);
/* What was written since the last flush reaches the GPU: one or two ranges per buffer, whatever the number of pieces.
 * Nothing on coherent memory. frame_end does so, too. */
ACRE_API acre_status acre_vk_ring_flush(acre_vk_ring *ring);
/* Flushes, and ends the frame: its pieces are free once the point is reached. Call it before the submission (the point
 * may lie in the future) and while no thread allocates or writes for this frame. BUSY: ACRE_VK_RING_FRAMES_MAX frames
 * wait already. A frame without pieces costs nothing. */
ACRE_API acre_status acre_vk_ring_frame_end(acre_vk_ring *ring, const acre_vk_point *point);
/* The program knows (it has waited) that this point was reached: no driver call needed. Before vkResetFences. */
ACRE_API acre_status acre_vk_ring_passed(acre_vk_ring *ring, const acre_vk_point *point);
/* Waits until the oldest frame is done. BUSY: the time went by. OK: it is, or none waits. */
ACRE_API acre_status acre_vk_ring_wait(acre_vk_ring *ring, uint64_t timeout_ns);
/* Gives back what growth has brought: buffers larger than the first, if no piece of them is in use. */
ACRE_API acre_status acre_vk_ring_trim(acre_vk_ring *ring);

typedef struct acre_vk_ring_stats {
    uint64_t held_bytes;    /* in buffers */
    uint64_t used_bytes;    /* of frames that wait and of this one, gaps included */
    uint64_t used_peak_bytes;
    uint64_t skipped_bytes; /* lost at ends of buffers where a piece did not fit, so far */
    uint64_t grown;         /* times that a larger buffer was made */
    uint32_t buffers, frames_waiting;
} acre_vk_ring_stats;

ACRE_API acre_status acre_vk_ring_get_stats(acre_vk_ring *ring, acre_vk_ring_stats *stats);

/* --- sparse binding: when and in which order --------------------------------------------------------------------- */

/* NULL: buffers and images can be partially resident on this device. Else a sentence that says what is missing.
 * acre_vk_sparse_* and growables with `sparse` are ACRE_NOT_SUPPORTED then. The program must have enabled the features
 * sparseBinding and sparseResidencyBuffer or sparseResidencyImage2D/3D. */
ACRE_API const char *acre_vk_sparse_lack(acre_vk *vk, bool images);

/* For a vkQueueBindSparse: it waits for `after` and signals `done`. */
typedef struct acre_vk_bind {
    VkQueue queue;       /* required; of a family with VK_QUEUE_SPARSE_BINDING_BIT */
    acre_vk_point after; /* a timeline semaphore's value; zero = nothing to wait for. Decommit: when the GPU is done
                          * with what lies there */
    acre_vk_point done;  /* a fence (unsignaled) or timeline value that this call signals; zero = none. Decommit needs
                          * one: the pages are free after it */
} acre_vk_bind;

/* --- growables -------------------------------------------------------------------------------------------------- */

/* A buffer whose end moves. With sparse binding it grows where it lies, at the same VkBuffer and device address;
 * without, acre makes a larger buffer and says what to copy, and the old one is freed by time. One thread at a time per
 * growable. */
typedef struct acre_vk_growable acre_vk_growable;

typedef struct acre_vk_growable_options {
    uint64_t bytes;                  /* at first; required */
    uint64_t bytes_max;              /* it will never be larger; 0 = 1 GiB. With sparse: addresses, not memory */
    VkBufferUsageFlags buffer_usage; /* required; TRANSFER_SRC and _DST are added where copies may be needed */
    uint32_t slack_percent;          /* without sparse: so much more than asked for when it has to move; 0 = 50 */
    bool sparse;                     /* grow in place by sparse binding */
    bool sparse_or_copy;             /* the same, and by copies where the device has none */
    acre_vk_bind bind;               /* with sparse: for the first pages */
    acre_vk_request request;         /* of the memory */
} acre_vk_growable_options;

/* What has to be done before the new size can be used. */
typedef struct acre_vk_growth {
    bool in_place;         /* nothing to copy; with sparse: once bind.done is reached */
    VkBuffer from, to; /* copy copy_bytes from offset 0 to offset 0, then acre_vk_growable_finish; in_place: the same */
    VkDeviceSize copy_bytes;
} acre_vk_growth;

/* NOT_SUPPORTED: sparse on a device without (see acre_vk_sparse_lack). Others as acre_vk_create_buffer. */
ACRE_API acre_status acre_vk_growable_create(acre_vk *vk, const acre_vk_growable_options *options,
                                             acre_vk_growable **growable);
/* Buffer and memory go after the point; zero point: now. BUSY: a copy waits for finish or cancel. NULL is fine. */
ACRE_API acre_status acre_vk_growable_destroy(acre_vk_growable *growable, acre_vk_point point);
/* The buffer to use now, and how much of it: the old one until finish. */
ACRE_API VkBuffer acre_vk_growable_buffer(acre_vk_growable *growable);
ACRE_API VkDeviceSize acre_vk_growable_bytes(acre_vk_growable *growable);
/* Bytes that it may grow to without a copy or a page. */
ACRE_API VkDeviceSize acre_vk_growable_room(acre_vk_growable *growable);
/* Larger or smaller. bind: with sparse only, else NULL. Smaller with sparse gives pages back after bind->done; without,
 * it only moves the end, unless `compact`: then a smaller buffer is made. TOO_LARGE: above bytes_max. BUSY: a copy
 * waits. */
ACRE_API acre_status acre_vk_growable_resize(acre_vk_growable *growable, uint64_t bytes, bool compact,
                                             const acre_vk_bind *bind, acre_vk_growth *growth);
/* The copy was recorded and will be over at the point: the new buffer counts from now on, the old one is freed then.
 * NO_MEMORY: as before, call again. */
ACRE_API acre_status acre_vk_growable_finish(acre_vk_growable *growable, acre_vk_point point);
/* No copy: the new buffer goes at once, the old one and its size stay. */
ACRE_API acre_status acre_vk_growable_cancel(acre_vk_growable *growable);

/* --- sparse buffers and images ---------------------------------------------------------------------------------- */

/* A resource with addresses for all of it and memory for some of it, in pages of the driver's size (64 KiB mostly).
 * Each page is a block of the allocator, so categories, budgets and frees by time hold for it. One thread at a time per
 * resource. */
typedef struct acre_vk_sparse acre_vk_sparse;

/* The flags SPARSE_BINDING and SPARSE_RESIDENCY are added to the info's. request: of the pages. */
ACRE_API acre_status acre_vk_sparse_create_buffer(acre_vk *vk, const VkBufferCreateInfo *info,
                                                  const acre_vk_request *request, acre_vk_sparse **sparse);
ACRE_API acre_status acre_vk_sparse_create_image(acre_vk *vk, const VkImageCreateInfo *info,
                                                 const acre_vk_request *request, acre_vk_sparse **sparse);
/* The resource and its pages go after the point (zero point: now). NO_MEMORY: not all of it went, call again; nothing
 * else may be called then. NULL is fine. */
ACRE_API acre_status acre_vk_sparse_destroy(acre_vk_sparse *sparse, acre_vk_point point);

typedef struct acre_vk_sparse_info {
    VkBuffer buffer; /* one of both */
    VkImage image;
    uint64_t page_bytes;
    uint64_t bytes;           /* of addresses */
    uint64_t committed_bytes; /* with memory behind them */
    uint32_t levels, layers;  /* images */
    uint32_t tail_level;      /* levels from here on come together, as the mip tail; == levels: there is no tail */
} acre_vk_sparse_info;

ACRE_API acre_status acre_vk_sparse_get_info(acre_vk_sparse *sparse, acre_vk_sparse_info *info);

/* Buffers. Pages that [offset, offset + size) touches get memory, those that have some keep it and its contents;
 * contents of new pages are undefined. All or nothing. */
ACRE_API acre_status acre_vk_sparse_commit(acre_vk_sparse *sparse, VkDeviceSize offset, VkDeviceSize size,
                                           const acre_vk_bind *bind);
/* Pages that lie wholly in [offset, offset + size) lose their memory. INVALID_ARGUMENT: bind->done is zero. If the
 * bookkeeping of a time-aware free has no memory, pages are kept aside and used for the next commit: still OK. */
ACRE_API acre_status acre_vk_sparse_decommit(acre_vk_sparse *sparse, VkDeviceSize offset, VkDeviceSize size,
                                             const acre_vk_bind *bind);
/* Images: one level of one layer. A level of the tail means the whole tail of the layer (of all layers, where the
 * format has a single tail). OK if it is so already. */
ACRE_API acre_status acre_vk_sparse_commit_mip(acre_vk_sparse *sparse, uint32_t level, uint32_t layer,
                                               const acre_vk_bind *bind);
ACRE_API acre_status acre_vk_sparse_decommit_mip(acre_vk_sparse *sparse, uint32_t level, uint32_t layer,
                                                 const acre_vk_bind *bind);
/* All pages of the level are there. False, too, for what is no level of it. */
ACRE_API bool acre_vk_sparse_has_mip(acre_vk_sparse *sparse, uint32_t level, uint32_t layer);
/* Bytes of memory that the level takes (the tail: all of it). 0: no such level. */
ACRE_API uint64_t acre_vk_sparse_mip_bytes(acre_vk_sparse *sparse, uint32_t level);

/* --- defragmentation -------------------------------------------------------------------------------------------- */

/* Blocks of pages that are hardly used move into the holes of fuller ones, so that whole pages become empty and go to
 * the cache of empties, or back to the driver. acre plans and keeps the books; the program copies:
 *
 *     acre_vk_defrag_begin(vk, &options, &defrag);
 *     while (acre_vk_defrag_step(defrag, moves, 64, &count) == ACRE_OK && count > 0) {      once per frame, say
 *         for each move:  a new resource, bound with acre_vk_bind_*(vk, move.to.handle, 0, …); record a copy
 *         submit, signal the point
 *         for each move:  acre_vk_defrag_confirm(defrag, move.id, point)     or _reject(defrag, move.id)
 *     }
 *     acre_vk_defrag_end(defrag, &result);
 *
 * A block keeps its handle, category, tag and name. After confirm the handle names the new place; the old place is
 * free after the point, and the program destroys the old resource then. Nothing moves that is dedicated, imported,
 * mapped, pending, or fixed by `movable`. Other threads may allocate and free meanwhile, blocks of the plan included:
 * a block that is freed before its move was confirmed is dropped from the plan (of one block, free and confirm do not
 * overlap). A pool lives as long as its defrag. One thread at a time per defrag. */
typedef struct acre_vk_defrag acre_vk_defrag;

enum { ACRE_VK_DEFRAG_MOVES_MAX = 256 };

typedef struct acre_vk_defrag_options {
    acre_vk_pool *pool;      /* NULL = the pages that all share */
    uint64_t step_bytes_max; /* moved per step; 0 = 16 MiB. A step has one move at least, however large */
    uint32_t step_moves_max; /* 0 = 64; at most ACRE_VK_DEFRAG_MOVES_MAX */
    uint64_t step_ns_max;    /* the CPU's time for a step; 0 = 500 us */
    uint64_t bytes_max;      /* moved in all; 0 = any */
    uint32_t fill_percent_max; /* pages fuller than this stay as they are; 0 = 75 */
    /* False = the block is fixed, and so is its page. NULL = every block may move. Called without locks by begin. */
    bool (*movable)(void *context, const acre_vk_block_info *block);
    void *context;
} acre_vk_defrag_options;

typedef struct acre_vk_move {
    uint64_t id;             /* of this move, for confirm and reject */
    uint64_t handle;         /* the block that moves; to.handle is its new place until then */
    uint64_t tag;
    uint32_t category;
    acre_vk_allocation from, to;
    uint64_t bytes;          /* to copy, from from.memory + from.offset to to.memory + to.offset */
} acre_vk_move;

typedef struct acre_vk_defrag_result {
    uint64_t moves, bytes_moved;    /* confirmed */
    uint64_t rejected, dropped;     /* by the program; because the block was gone, or no hole took it */
    uint64_t pages_planned;         /* to be emptied */
    uint64_t pages_emptied;         /* of them without a block now (pending ones count as blocks) */
    uint64_t bytes_before, bytes_now; /* held from the driver */
} acre_vk_defrag_result;

/* Looks at every page and block: O(blocks). Plans nothing if nothing can be gained. NO_MEMORY: for the plan. */
ACRE_API acre_status acre_vk_defrag_begin(acre_vk *vk, const acre_vk_defrag_options *options,
                                          acre_vk_defrag **defrag);
/* The next moves, at most `capacity`; *count == 0: the plan is done. Moves of former steps need not be confirmed yet.
 */
ACRE_API acre_status acre_vk_defrag_step(acre_vk_defrag *defrag, acre_vk_move *moves, uint32_t capacity,
                                         uint32_t *count);
/* point: when the copy is over; zero = it is. DOUBLE_FREE: the block was freed meanwhile: the new place is free after
 * the point. NO_MEMORY: as before, call again. INVALID_ARGUMENT: no such move. */
ACRE_API acre_status acre_vk_defrag_confirm(acre_vk_defrag *defrag, uint64_t id, acre_vk_point point);
/* Nothing was copied, or it shall not count: the block stays, its new place is free at once. */
ACRE_API acre_status acre_vk_defrag_reject(acre_vk_defrag *defrag, uint64_t id);
/* Moves that are neither confirmed nor rejected are rejected. result may be NULL. NULL is fine. */
ACRE_API void acre_vk_defrag_end(acre_vk_defrag *defrag, acre_vk_defrag_result *result);

#ifdef __cplusplus
}
#endif
#endif
