/* retire: blocks that were freed while the GPU may still use them.
 *
 * Layer 8. A free with a point in time goes into a queue; the block is reused once the point is reached. A point is a
 * timeline (a number of the owner's: a VkSemaphore, a VkFence, a CUDA event or stream) and a value on it; whether it is
 * reached, only the owner can ask. Blocks of one timeline retire in the order of their values, so one question answers
 * for all before: a poll asks once per timeline, whatever waits there.
 *
 *   timelines  [t0]  entry(v=3) -> entry(v=3) -> entry(v=7)        ascending by value, oldest first
 *              [t1]  entry(v=1)
 *
 * One lock inside. The owner's question is a driver call, so it is asked without that lock: retire_poll takes the
 * heads under the lock, asks outside of it, and collects under it what was answered; entries that came meanwhile are
 * seen by the next poll. The owner's `reached` and `free_block` are called without any lock of this file, and may be
 * called by several threads at once for different timelines. O(entries that retire + timelines) per poll, for up to
 * some hundred timelines; push is O(1) when values ascend and it is for the timeline of the push before, else
 * O(timelines + entries behind it). Entries come from the metadata arena and are reused. */
#ifndef ACRE_GPU_RETIRE_H
#define ACRE_GPU_RETIRE_H

#include "os/lock.h"

typedef struct retire_entry retire_entry;
typedef struct retire_timeline retire_timeline;
typedef struct retire_chunk retire_chunk;

typedef struct retire_owner {
    void *context;
    /* The highest value known to be reached on this timeline (UINT64_MAX: the timeline is gone or lost: all of it).
     * False: could not be asked now (the driver's error); nothing retires. */
    bool (*reached)(void *context, uint64_t timeline, uint64_t *value);
    /* Waits until the timeline has reached `value` or timeout_ns went by; NULL: polling will do. False: the time went
     * by, or it could not be waited for. */
    bool (*wait)(void *context, uint64_t timeline, uint64_t value, uint64_t timeout_ns);
    /* The block is free now. */
    void (*free_block)(void *context, void *block);
    /* The last entry of the timeline retired, its block is free (e.g. to recycle an event); may be NULL. Whoever pushes
     * to the same timeline at the same time knows that it is in use. */
    void (*timeline_done)(void *context, uint64_t timeline, uint64_t value);
} retire_owner;

typedef struct retire_queue {
    lock lock; /* guards all below; LOCK_RANK_GPU_RETIRE */
    retire_owner owner;
    retire_timeline *timelines; /* those with entries; list */
    retire_timeline *spare_timelines;
    retire_entry *spare_entries;
    retire_chunk *chunks; /* what entries and timelines are cut from */
    uint64_t entry_count;
    uint64_t spare_entry_count, spare_timeline_count;
    uint64_t pushes, polls; /* ever */
} retire_queue;

void retire_init(retire_queue *queue, const retire_owner *owner);
/* Entries that are left are forgotten, not freed: call retire_drain first. */
void retire_destroy(retire_queue *queue);
/* Sets entries aside, so that the next `count` pushes cannot fail. False: no memory. */
bool retire_reserve(retire_queue *queue, uint32_t count);
/* False: no memory for the entry; the block is as it was. */
bool retire_push(retire_queue *queue, uint64_t timeline, uint64_t value, void *block);
/* Frees what is reached. Returns how many blocks. */
uint64_t retire_poll(retire_queue *queue);
/* Polls, and while that frees nothing waits for the earliest pending entries (of every timeline its first; in turns
 * where there are several). False: nothing is pending, or the time went by without one block freed, or the driver
 * neither answers nor waits. 0: polls once. UINT64_MAX: no end. */
bool retire_wait(retire_queue *queue, uint64_t timeout_ns);
/* Waits for all, those included that are pushed meanwhile. False: some are still pending. */
bool retire_drain(retire_queue *queue, uint64_t timeout_ns);
/* Entries now; for tests and statistics. */
uint64_t retire_count(retire_queue *queue);

#endif
