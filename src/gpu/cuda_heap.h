/* cuda_heap: the parts of one device's memory, and what they share.
 *
 * Layer 8. Bookkeeping of pages and blocks is paged_range.h's; this adds what CUDA has: streams, events, contexts.
 *
 *   addresses   | slice 0     | slice 1     | … | room: blocks with own pages | exports and imports |
 *                  lane          lane
 *
 *   slice       addresses of one lane: the first quarter for blocks up to ACRE_CUDA_SMALL_MAX, the rest for larger
 *               ones; so pointer -> lane is a subtraction and a shift
 *   lane        two paged ranges, for one stream (its *home*) and one group of categories. A free on the home stream
 *               is a free at once: whatever home is asked to do next comes after it. Every other free waits in the
 *               retire queue. A lane without a home (the room, and the common lane of a group when slices run out) has
 *               only such frees.
 *   group       0: all categories that share lanes; 1 + c: category c, if it has its own
 *   point       a number per stream that grows with each free that may have to be waited for. An event that was
 *               recorded when the number was p says, once it is passed, that all points up to p are. One event per
 *               stream, under way or not: see cuda_stream.c
 *   page point  the home stream's point at the last free that touched the page. The page may be unmapped when that
 *               point is passed: this is what stands between a free at once and a page that is taken from under a
 *               kernel.
 *
 * Locks, outermost first: lanes_lock (making and removing lanes, captures and exports), a stream's lock (its event;
 * held during driver calls; no hit takes either), uses_lock (recorded uses and pending marks of blocks), then those of
 * paged_store.h and retire.h. error_lock is innermost. */
#ifndef ACRE_GPU_CUDA_HEAP_H
#define ACRE_GPU_CUDA_HEAP_H

#include <stdatomic.h>

#include "acre/cuda.h"
#include "gpu/cuda_driver.h"
#include "gpu/ledger.h"
#include "gpu/paged_range.h"
#include "gpu/paged_store.h"
#include "gpu/retire.h"
#include "os/lock.h"

enum {
    CUDA_STREAMS_MAX = 4096,
    CUDA_SLICES_MAX = 512,
    CUDA_GROUPS_MAX = 1 + ACRE_GPU_CATEGORIES_MAX,
    CUDA_STREAM_CACHE = 64,
    CUDA_USES_PER_RECORD = 25,
};

typedef struct cuda_lane cuda_lane;
typedef struct cuda_capture cuda_capture;

/* The handle of a stream that is gone. */
#define CUDA_NO_STREAM ((void *)UINTPTR_MAX)

/* passed <= recorded <= points */
typedef struct cuda_stream {
    _Atomic(void *) handle;
    uint32_t index;
    _Atomic uint64_t points;    /* given out so far */
    _Atomic uint64_t passed;    /* the GPU is beyond */
    _Atomic uint64_t polled_ms; /* last question */
    _Atomic bool gone;          /* its last event is recorded, no other will be */
    _Atomic(cuda_capture *) capture;
    _Atomic(cuda_lane *) lanes[CUDA_GROUPS_MAX];
    lock lock; /* guards: */
    CUevent event;
    uint64_t recorded;          /* the point that the event under way stands for */
    _Atomic bool under_way;     /* others may look, to see whether a question is worth it */
} cuda_stream;

/* The unit that paged_range.h works on. */
typedef struct cuda_range {
    paged_range pages;
    cuda_lane *lane;
    uint64_t base;  /* device address */
    uint64_t bytes;
    _Atomic uint64_t *page_points; /* NULL in the room */
} cuda_range;

struct cuda_lane {
    cuda_stream *home; /* NULL: none */
    cuda_capture *capture;
    uint32_t group;
    uint32_t slice;
    cuda_range small, large;
};

/* Graphs that share a lane. Its pages live in a store of their own, so that nobody takes them over, and none is
 * unmapped before the capture is released. A free on the stream that is being captured is a free at once. */
struct cuda_capture {
    cuda_capture *next;
    uint64_t number;
    _Atomic bool released;
    _Atomic(cuda_stream *) stream; /* NULL: no capture is under way */
    cuda_lane *lane;
    paged_store store;
};

/* What a block's tag says. Without recorded uses: stream index << 16 | flags; with: the record's address | flags. */
enum {
    CUDA_TAG_USES = 1,    /* there is a record */
    CUDA_TAG_PENDING = 2, /* freed */
    CUDA_TAG_OWN = 4,
    CUDA_TAG_SHARED = 8,
    CUDA_TAG_FLAGS = 63,
    CUDA_TAG_STREAM_SHIFT = 16,
};

typedef struct cuda_uses {
    struct cuda_uses *next;
    uint32_t count;
    uint16_t origin; /* the block's first stream */
    uint16_t streams[CUDA_USES_PER_RECORD];
} cuda_uses;
_Static_assert(sizeof(cuda_uses) == 64, "one piece of the arena, and its low bits are free");

/* A block of one driver allocation of its own. List of acre_cuda.exports. */
typedef struct cuda_export {
    struct cuda_export *next;
    uint64_t address, bytes;
    uint64_t place; /* handle in export_addresses */
    CUmemGenericAllocationHandle handle;
    cuda_uses *uses;
    uint32_t category;
    uint16_t origin; /* its first stream */
    bool imported;   /* held by another process */
    bool pending, mapped, created;
    bool orphan; /* never was a block: what its making left behind */
} cuda_export;

/* A freed block that waits for some streams, one after the other. */
typedef struct cuda_pending {
    cuda_range *range;      /* or */
    cuda_export *export_block;
    uint64_t handle, bytes;
    uint32_t category;
    uint32_t at, count;
    struct { cuda_stream *stream; uint64_t point; } waits[];
} cuda_pending;

struct acre_cuda {
    cuda_driver driver;
    CUdevice device;
    CUcontext context;
    bool context_retained, can_export;
    uint64_t device_bytes, page_bytes, slice_bytes, small_bytes;
    uint64_t reserved_base, reserved_bytes, room_base, room_bytes, export_base, export_bytes;
    uint32_t slice_log2, slice_count, group_count;
    CUmemAccessDesc access[1 + ACRE_CUDA_PEERS_MAX];
    uint32_t access_count;
    uint64_t own_lanes;
    uint16_t group_of[ACRE_GPU_CATEGORIES_MAX];
    bool wait_before_growth;
    acre_gpu_on_limit *on_limit;
    void *on_limit_context;

    _Atomic uint64_t asleep; /* mask of categories */
    _Atomic uint64_t asleep_bytes, shared_bytes, export_live_bytes, growth_waits, events_recorded, moved;
    _Atomic(cuda_stream *) stream_cache[CUDA_STREAM_CACHE];
    _Atomic(cuda_lane *) slices[CUDA_SLICES_MAX]; /* by place; NULL: free */

    lock lanes_lock; /* guards: */
    _Atomic uint32_t stream_count;
    _Atomic(cuda_stream *) streams[CUDA_STREAMS_MAX];
    cuda_lane *common[CUDA_GROUPS_MAX]; /* lanes without home */
    cuda_lane *lanes_spare;
    cuda_capture *captures;
    uint64_t capture_number;
    cuda_export *exports;
    struct acre_suballoc *export_addresses;
    bool room_made;

    cuda_lane room; /* its `large` is in use */
    lock uses_lock;
    lock error_lock; /* guards: */
    acre_cuda_error error;
    acre_gpu_shortage shortage;

    gpu_ledger ledger;
    paged_store store;
    retire_queue retire;
};

/* --- cuda_context.c: the driver, called with its context current and the thread's capture mode relaxed ----------- */

typedef struct cuda_scope {
    int mode;
    bool entered, relaxed;
} cuda_scope;

/* False: *failure says why, and nothing is to be left. */
bool cuda_enter(acre_cuda *h, cuda_scope *scope, paged_failure *failure);
void cuda_leave(acre_cuda *h, cuda_scope *scope);
/* OK for CUDA_SUCCESS; else writes it down, in *failure and as the heap's last error. */
acre_status cuda_answer(acre_cuda *h, CUresult result, const char *call, paged_failure *failure);
void cuda_note_error(acre_cuda *h, acre_status status, CUresult result, const char *call, const char *text);
/* May driver callbacks of this thread wait for the GPU? Returns the old answer. */
bool cuda_may_wait(bool may);
paged_provider cuda_provider(acre_cuda *h);

/* --- cuda_stream.c ----------------------------------------------------------------------------------------------- */

/* The record of a stream, made if need be. */
acre_status cuda_stream_get(acre_cuda *h, void *handle, cuda_stream **stream);
/* The record, or NULL. */
cuda_stream *cuda_stream_look_up(acre_cuda *h, void *handle);
/* A point behind all work that the stream was given until now. */
uint64_t cuda_stream_point(cuda_stream *s);
static inline bool cuda_stream_passed(const cuda_stream *s, uint64_t point)
{
    return atomic_load_explicit(&s->passed, memory_order_acquire) >= point;
}
/* Asks about the event under way; records one if there are points that none stands for. Does not wait. */
bool cuda_stream_poll(acre_cuda *h, cuda_stream *s, paged_failure *failure);
/* Is a question worth a driver call: no event is under way, or the last answer is some milliseconds old? */
bool cuda_stream_is_due(const cuda_stream *s);
/* False: the driver failed, or the stream is being captured. */
bool cuda_stream_wait(acre_cuda *h, cuda_stream *s, uint64_t point, paged_failure *failure);
/* Everything that all streams were given. */
bool cuda_streams_wait(acre_cuda *h, paged_failure *failure);
/* No event will be recorded after this; BUSY: the stream is being captured. */
acre_status cuda_stream_end(acre_cuda *h, cuda_stream *s, paged_failure *failure);
void cuda_streams_destroy(acre_cuda *h);

/* --- cuda_lane.c ------------------------------------------------------------------------------------------------- */

/* The lane for blocks of this category that this stream asks for. */
acre_status cuda_lane_get(acre_cuda *h, cuda_stream *s, uint32_t category, cuda_lane **lane);
acre_status cuda_lane_make(acre_cuda *h, paged_store *store, cuda_stream *home, uint32_t group, cuda_capture *capture,
                           cuda_lane **lane);
/* All pages unmapped. BUSY: blocks. */
acre_status cuda_lane_remove(acre_cuda *h, cuda_lane *lane, paged_failure *failure);
acre_status cuda_room_make(acre_cuda *h);
/* What lies at this address; false: none of the heap's ranges. */
bool cuda_locate(acre_cuda *h, const void *block, cuda_range **range, uint64_t *offset);
/* The pages of [offset, offset + bytes) must not be unmapped before home has come here. */
void cuda_range_mark(cuda_range *r, uint64_t offset, uint64_t bytes);
/* Every range of the heap, under lanes_lock. */
typedef bool cuda_each_range(void *context, cuda_range *range);
void cuda_ranges(acre_cuda *h, cuda_each_range *visit, void *context);

/* --- cuda_free.c ------------------------------------------------------------------------------------------------- */

retire_owner cuda_retire_owner(acre_cuda *h);
/* Waits until some pending block is free, or one stream further. False: there is none that waiting can help. */
bool cuda_collect(acre_cuda *h);
cuda_stream *cuda_tag_stream(acre_cuda *h, uint64_t tag);
/* For the streams that were recorded for the block. */
bool cuda_tag_wait(acre_cuda *h, uint64_t tag, paged_failure *failure);

/* --- cuda_export.c ----------------------------------------------------------------------------------------------- */

acre_status cuda_export_alloc(acre_cuda *h, const acre_cuda_request *request, cuda_stream *s, void **block);
/* Under lanes_lock. */
cuda_export *cuda_export_find(acre_cuda *h, const void *block);
/* The GPU is done. */
bool cuda_export_drop(acre_cuda *h, cuda_export *e, paged_failure *failure);
/* Frees all, at destroy. */
void cuda_exports_destroy(acre_cuda *h);

/* --- cuda_alloc.c ------------------------------------------------------------------------------------------------ */

/* One try of something that needs memory. exceed: budgets may be passed. */
typedef acre_status cuda_attempt(void *context, bool exceed, paged_failure *failure);
/* Tries; then frees what can be freed, asks on_limit, and tries again. The last status, with the report written. */
acre_status cuda_attempt_all(acre_cuda *h, uint32_t category, uint64_t bytes, uint64_t alignment, cuda_range *range,
                             cuda_attempt *attempt, void *context);
void cuda_captures_destroy(acre_cuda *h);
/* Removes the lanes of captures that are released and empty. */
void cuda_captures_sweep(acre_cuda *h);

static inline void *cuda_pointer(uint64_t address) { return (void *)(uintptr_t)address; }

#endif
