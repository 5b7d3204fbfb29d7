/* acre/cuda.h: device memory of CUDA on the driver's virtual memory calls, without CUDA at build or link time.
 *
 * Addresses are reserved once. Pages of the device's granularity (2 MiB as a rule) are put behind them where blocks
 * are, and taken back from between blocks, so a hole never holds memory that somebody else needs, and a block grows
 * where it stands. The bookkeeping is beside the memory: best fit, exact, in steps of 512 B.
 *
 *   lane            the memory of one stream: a range for blocks up to 1 MiB, one for larger ones. What is freed on
 *                   the stream is free for its next request at once, split and merged as if the GPU had done its work
 *                   (it will have, by then: a stream is a queue).
 *   another stream  gets a lane's empty pages only after the GPU has passed an event that was recorded behind the last
 *                   free in them. There is one event under way per stream at most, recorded when somebody asks and
 *                   now and then, not per free.
 *   own pages       blocks that start and end with pages of their own (ACRE_CUDA_OWN_PAGES): they grow within the room
 *                   that was set aside for them, share pages with others, and can be exported.
 *
 * Devices: one heap each; nothing is shared between heaps but the driver.
 *
 * Categories: blocks of all categories share lanes and pages, which wastes least; own_lanes gives a category pages of
 * its own, which is what one wants that sleeps (a model's weights, a cache) or whose blocks live much longer than
 * others'.
 *
 * Streams, contexts and pointers of CUDA are void * here (CUstream, cudaStream_t, CUdeviceptr); a stream of NULL is
 * the default stream. CU_STREAM_PER_THREAD names a stream per thread and is INVALID_ARGUMENT. The device's primary
 * context is used, that of the CUDA runtime, and pushed for driver calls, so no context need be current.
 *
 * Units are bytes. Zero is the default of each field. Errors: a call that fails has changed nothing and leaks nothing;
 * acre_cuda_error_read says which driver call failed and how. Out parameters are written on success only. NULL for the
 * heap or an out parameter is INVALID_ARGUMENT. Driver failures other than out of memory are ACRE_SYSTEM.
 *
 * Threads: every call but create and destroy from any thread at any time. A hit (room in mapped pages of the stream's
 * lane) takes one short lock, which nobody holds during a driver call, and makes no driver call; with its free it
 * costs 150 to 600 ns, by the number of blocks. A free of a page or more asks the driver about the stream's event
 * every few milliseconds. A miss costs the driver's time per page: create, map, set access.
 *
 * Capture into CUDA graphs: what a captured stream frees must not reach other streams, since the graph uses it again
 * with each launch. Say acre_cuda_capture_begin before the capture begins: blocks of that stream then come from a lane
 * of their own, whose pages nobody else gets until acre_cuda_capture_release. Without it, too, no event is recorded on
 * a stream that is being captured (cuStreamIsCapturing is asked first), and the thread's capture mode is relaxed
 * around driver calls; but then blocks allocated before and during the capture share pages. Blocks with own pages come
 * from where they always come from. */
#ifndef ACRE_CUDA_H
#define ACRE_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "acre/gpu.h"
#include "acre/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One device's memory. */
typedef struct acre_cuda acre_cuda;

/* A driver function by its exported name ("cuMemCreate", "cuMemGetInfo_v2"), NULL if there is none. */
typedef void *acre_cuda_symbol(void *context, const char *name);

typedef struct acre_cuda_options {
    int device; /* ordinal; 0 = the first */

    /* Where the driver is. symbol, if given, is asked for each function, and nothing is loaded. Else `library` is
     * loaded; NULL = what the environment's ACRE_CUDA_DRIVER names (if the program has no special rights), or else
     * libcuda.so.1. It stays loaded. */
    acre_cuda_symbol *symbol;
    void *symbol_context;
    const char *library;

    /* The table of categories (acre/gpu.h): copied; none = one row. OTHER_MEMORY is as FAIL: a device has one heap. */
    const acre_gpu_category *categories;
    uint32_t category_count;
    /* Bit c: category c has lanes, and so pages, of its own; the others share. For categories that sleep: a page is
     * given back when nobody else has a block in it. */
    uint64_t own_lanes;

    uint64_t budget_bytes;  /* of memory held from the driver; 0 = any, the driver's answer decides */
    uint64_t page_bytes;    /* a multiple of the granularity and a power of two; 0 = the device's recommended one */
    uint64_t reserve_bytes; /* of addresses, in all; rounded up to slices (acre_cuda_info); 0 = 16 slices */
    uint64_t room_bytes;    /* addresses for blocks with own pages, in all; 0 = 4 slices */

    /* How much memory without a block is kept (by acre_cuda_tick, and whenever pages are mapped). */
    uint64_t empty_bytes_max;    /* 0 = any */
    uint32_t empty_live_percent; /* of live bytes, once older than a tenth of the delay; 0 = 50 */
    uint32_t empty_delay_ms;     /* 0 = 10,000; UINT32_MAX = for ever */
    /* Empty pages that lie behind other addresses than a request needs can be moved there once the GPU is done with
     * them. true: wait for that before new memory is taken from the driver: less memory, a pause of the submitting
     * thread at each growth. false: wait only where there is no other memory. */
    bool wait_before_growth;

    acre_gpu_on_limit *on_limit;
    void *on_limit_context;

    /* Ordinals of other devices that may read and write this memory, too. */
    const int *peers;
    uint32_t peer_count; /* at most ACRE_CUDA_PEERS_MAX */
} acre_cuda_options;

enum { ACRE_CUDA_PEERS_MAX = 15, ACRE_CUDA_GRANULE_BYTES = 512, ACRE_CUDA_SMALL_MAX = 1 << 20 };

/* What failed last: which driver call, and its answer. */
typedef struct acre_cuda_error {
    acre_status status;
    int32_t driver_result;   /* CUresult; 0 = the driver was not asked */
    const char *driver_call; /* "cuMemCreate"; NULL = none */
    char text[160];          /* a sentence for a person */
} acre_cuda_error;

/* X(name, unit, title, meaning) */
#define ACRE_CUDA_FIGURES(X)                                                                        \
    X(page_bytes, BYTES, "page", "unit in which memory is mapped")                                  \
    X(device_bytes, BYTES, "device", "memory that the device has")                                  \
    X(reserved_bytes, BYTES, "addresses", "reserved once; cost no memory")                          \
    X(slice_bytes, BYTES, "slice", "addresses of one lane; the first quarter for small blocks")     \
    X(lanes, COUNT, "lanes", "streams (and captures) that have memory of their own")                \
    X(loose_bytes, BYTES, "loose", "pages behind no address, part of empty")                        \
    X(asleep_bytes, BYTES, "asleep", "blocks of categories that sleep: addresses without memory")   \
    X(shared_bytes, BYTES, "shared", "addresses beyond the first that lead to pages in use")        \
    X(pages_created, COUNT, "pages created", "cuMemCreate so far")                                  \
    X(pages_released, COUNT, "pages released", "given back to the driver so far")                   \
    X(pages_moved, COUNT, "pages moved", "mapped elsewhere instead of created")                     \
    X(growth_waits, COUNT, "growth waits", "times that a request waited for the GPU")               \
    X(events_recorded, COUNT, "events", "recorded so far")                                          \
    X(bookkeeping_bytes, BYTES, "bookkeeping", "ordinary memory for tables and nodes")

typedef struct acre_cuda_info {
    acre_gpu_heap_stats heap;
#define X(name, unit, title, meaning) uint64_t name;
    ACRE_CUDA_FIGURES(X)
#undef X
} acre_cuda_info;

/* --- life -------------------------------------------------------------------------------------------------------- */

/* NOT_SUPPORTED: no driver, one that lacks a call, no such device, or a device without virtual memory management;
 * INVALID_ARGUMENT: an option out of its bounds; NO_MEMORY: no addresses or no bookkeeping. `why` may be NULL; its
 * text says which. Costs a context if the program has none yet. */
ACRE_API acre_status acre_cuda_create(const acre_cuda_options *options, acre_cuda **heap, acre_cuda_error *why);
/* Waits for the streams that it knows, then gives all memory back, blocks included. NULL is allowed. No other call
 * may be under way, and no stream may have been destroyed without acre_cuda_stream_done. */
ACRE_API void acre_cuda_destroy(acre_cuda *heap);

/* --- blocks ------------------------------------------------------------------------------------------------------ */

enum acre_cuda_flags {
    /* Starts and ends with pages of its own: may have room_bytes, can be shared. Its size is rounded up to pages. */
    ACRE_CUDA_OWN_PAGES = 1,
    /* One driver allocation that acre_cuda_export can hand to another process; implies OWN_PAGES, cannot grow. */
    ACRE_CUDA_EXPORTABLE = 2,
};

typedef struct acre_cuda_request {
    uint64_t bytes;      /* > 0; rounded up to 512 B */
    uint64_t alignment;  /* a power of two, 0 = 512 B */
    uint64_t room_bytes; /* OWN_PAGES: addresses kept free behind the block, its own size included, to grow into */
    uint32_t category;
    uint32_t flags;
    void *stream; /* the first to use it */
} acre_cuda_request;

/* INVALID_ARGUMENT: bytes 0, no such category, an alignment that is none or above a page, CU_STREAM_PER_THREAD.
 * TOO_LARGE: more than a lane has addresses for. OVER_BUDGET, NO_MEMORY: after waiting for memory that the GPU still
 * used, giving back empties and asking on_limit; acre_cuda_shortage_read says what it looked like. BUSY: the category
 * sleeps. SYSTEM: the driver. */
ACRE_API acre_status acre_cuda_alloc(acre_cuda *heap, uint64_t bytes, uint64_t alignment, uint32_t category,
                                     void *stream, void **block);
ACRE_API acre_status acre_cuda_alloc_request(acre_cuda *heap, const acre_cuda_request *request, void **block);
/* The block is not used any more by work that is submitted later than this call. What `stream` was given before may
 * use it still, and so may the streams of acre_cuda_record_use; its memory is reused in that order. Freed on the
 * stream it came from, without recorded uses: free at once for that stream. NULL is allowed. FOREIGN_POINTER (or a
 * block freed before). It never waits for the GPU, but where there is no memory to write down what it has to wait
 * for. */
ACRE_API acre_status acre_cuda_free(acre_cuda *heap, void *block, void *stream);
/* Work was given to this stream, too, that uses the block: its free then waits for that stream as well. NO_MEMORY: it
 * was not written down. FOREIGN_POINTER. */
ACRE_API acre_status acre_cuda_record_use(acre_cuda *heap, void *block, void *stream);
/* Grows or shrinks in place; the contents stay. NO_MEMORY: what follows is not free, or has no memory behind it and
 * none can be had; the block is as it was. What is cut off is free for the block's stream at once; with own pages, or
 * with uses recorded on other streams, shrinking waits for the GPU first (BUSY: it cannot be asked now).
 * NOT_SUPPORTED: exportable, imported and shared blocks. */
ACRE_API acre_status acre_cuda_resize(acre_cuda *heap, void *block, uint64_t new_bytes);

typedef struct acre_cuda_block {
    void *block;
    uint64_t bytes;      /* rounded up */
    uint64_t room_bytes; /* bytes, or more for a block with room */
    uint32_t category;
    uint32_t flags;
    bool shared;  /* leads to pages of another block (acre_cuda_share) */
    bool asleep;
    bool pending; /* freed, and the GPU may still use it */
} acre_cuda_block;
/* A live block by its first address; FOREIGN_POINTER. */
ACRE_API acre_status acre_cuda_block_read(acre_cuda *heap, const void *block, acre_cuda_block *info);

/* --- the same pages at several addresses, and in several processes ----------------------------------------------- */

/* A second block that leads to [offset, offset + bytes) of a block with own pages; both multiples of the page. Each is
 * freed by itself, in any order; the pages go with the last. It costs addresses, not memory, and is not counted as
 * live. Neither block can be resized from then on. NOT_SUPPORTED: the block has no own pages; INVALID_ARGUMENT: it is
 * a shared one itself. */
ACRE_API acre_status acre_cuda_share(acre_cuda *heap, void *block, uint64_t offset, uint64_t bytes, uint32_t category,
                                     void *stream, void **shared);
/* A file descriptor that acre_cuda_import takes in another process (send it through a Unix socket); the caller closes
 * it. NOT_SUPPORTED: not an exportable block, or a device that cannot. */
ACRE_API acre_status acre_cuda_export(acre_cuda *heap, void *block, int *fd);
/* bytes as the exporter's block. The descriptor may be closed after. Counts as blocks, not as held memory, and no
 * budget is asked. NOT_SUPPORTED: a device that cannot; TOO_LARGE: no addresses; SYSTEM: the driver refused. */
ACRE_API acre_status acre_cuda_import(acre_cuda *heap, int fd, uint64_t bytes, uint32_t category, void **block);

/* --- sleep ------------------------------------------------------------------------------------------------------- */

/* Copies a block's contents away or back; false: could not. `stream` is the one that it came from. Called without
 * locks; copies must be complete, or ordered before all later work on that memory, when it returns. */
typedef bool acre_cuda_copy(void *context, void *block, uint64_t bytes, void *stream);

/* All memory of the category goes back to the driver, its blocks keep their addresses and lose their contents; `save`
 * (NULL = nobody wants them) sees each block before. Waits for the GPU. The caller sees to it that nobody uses, frees
 * or allocates blocks of the category meanwhile; allocating from a sleeping category is BUSY, freeing is fine.
 * Sleeping memory is not counted as live. A block that `save` refuses, or that is shared, stays awake, and so do
 * exportable and imported blocks and those of captures. BUSY: asleep already. A status of the driver: the category
 * sleeps, but some memory could not be given back and is kept as empty. */
ACRE_API acre_status acre_cuda_sleep(acre_cuda *heap, uint32_t category, acre_cuda_copy *save, void *context);
/* The opposite: memory behind every block, `restore` for each; one that it refuses sleeps on, and so does the category
 * (BUSY; call again). OVER_BUDGET, NO_MEMORY: all sleep on, nothing is held. INVALID_ARGUMENT: it does not sleep.
 * Budgets of categories are not asked, those of the heap are. */
ACRE_API acre_status acre_cuda_wake(acre_cuda *heap, uint32_t category, acre_cuda_copy *restore, void *context);

/* --- streams and captures ---------------------------------------------------------------------------------------- */

/* Before a stream is destroyed: its lane is nobody's, and whoever comes next gets it, once the GPU is done. Records an
 * event on the stream. */
ACRE_API acre_status acre_cuda_stream_done(acre_cuda *heap, void *stream);
/* Until capture_end, requests on the stream come from a lane that belongs to the capture; *capture is its number. BUSY:
 * the stream is being captured already. NO_MEMORY: no slice of addresses or no bookkeeping is left. */
ACRE_API acre_status acre_cuda_capture_begin(acre_cuda *heap, void *stream, uint64_t *capture);
ACRE_API acre_status acre_cuda_capture_end(acre_cuda *heap, uint64_t capture);
/* More graphs into the same lane, for graphs that are never launched at the same time. */
ACRE_API acre_status acre_cuda_capture_again(acre_cuda *heap, uint64_t capture, void *stream);
/* The graphs are gone and the GPU is done with them: the lane's memory is anybody's, once its blocks are freed. BUSY:
 * the capture is under way. INVALID_ARGUMENT, here and above: no such capture. */
ACRE_API acre_status acre_cuda_capture_release(acre_cuda *heap, uint64_t capture);

/* --- upkeep ------------------------------------------------------------------------------------------------------ */

/* Call now and then (each frame or step): collects what the GPU has passed, gives back empties by policy (those that
 * the GPU is done with). Never waits. */
ACRE_API acre_status acre_cuda_tick(acre_cuda *heap);
/* Gives back empties until at most keep_bytes are left. wait: for the GPU first. given_back may be NULL. */
ACRE_API acre_status acre_cuda_trim(acre_cuda *heap, uint64_t keep_bytes, bool wait, uint64_t *given_back);
/* 0 = none. One below what is in use refuses until enough is freed or trimmed. */
ACRE_API acre_status acre_cuda_set_budget(acre_cuda *heap, uint64_t budget_bytes);
ACRE_API acre_status acre_cuda_set_category_budget(acre_cuda *heap, uint32_t category, uint64_t budget_bytes);

/* --- looking ----------------------------------------------------------------------------------------------------- */

ACRE_API acre_status acre_cuda_info_read(acre_cuda *heap, acre_cuda_info *info);
ACRE_API acre_status acre_cuda_category_read(acre_cuda *heap, uint32_t category, acre_gpu_category_stats *stats);
/* The last request that got nothing, and the last failure of a driver call; status ACRE_OK: there was none. */
ACRE_API acre_status acre_cuda_shortage_read(acre_cuda *heap, acre_gpu_shortage *shortage);
ACRE_API acre_status acre_cuda_error_read(acre_cuda *heap, acre_cuda_error *error);

/* false ends the walk. Live and pending blocks, lane by lane, by address; under the lane's lock: it must not call acre
 * for this heap. */
typedef bool acre_cuda_visit(void *context, const acre_cuda_block *block);
ACRE_API acre_status acre_cuda_walk(acre_cuda *heap, acre_cuda_visit *visit, void *context);
/* All figures as JSON. Writes at most `bytes`, a final zero included, and returns the length of the whole text, as
 * snprintf does. */
ACRE_API size_t acre_cuda_report(acre_cuda *heap, char *buffer, size_t bytes);
/* Verifies every table against every other. NULL: all is well; else a sentence. For tests: call it while no other call
 * is under way, since what is just changing hands is seen in neither. */
ACRE_API const char *acre_cuda_check(acre_cuda *heap);

#ifdef __cplusplus
}
#endif
#endif
