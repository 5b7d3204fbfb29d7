/* pools: private memory for CUDA graphs.
 *
 * PyTorch says begin(pool) before a capture, end(pool) after it, and release(pool) when the graph is gone. A graph uses
 * the memory of its capture again with each launch, so nobody else may have it in between. Each stream that allocates
 * while it is being captured gets a lane of its own from the heap (acre_cuda_capture_begin); lanes stay with the pool,
 * and a later capture into the same pool, which PyTorch allows for graphs that do not run at the same time, takes
 * those that are there before it makes new ones.
 *
 *   pool  closed --begin--> open --end--> closed ... --release, as often as begin--> gone
 *   lane  of a pool: idle or bound to one stream; bound lanes exist in open pools only
 *
 * One lock; requests come here only while a pool is open on their device. */
#include <stdio.h>
#include <stdlib.h>

#include "plugin.h"

typedef struct pool_lane {
    struct pool_lane *next;
    uint64_t capture;
    void *stream;
    bool bound;
} pool_lane;

typedef struct pool {
    struct pool *next; /* the one that was begun last comes first */
    acre_torch_pool_id id;
    int device;
    bool open;
    uint32_t uses; /* begins less releases */
    pool_lane *lanes;
} pool;

static pthread_mutex_t pools_lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below; outside of the heaps' locks */
static pool *pools;

/* The link that leads to the pool; to NULL if there is none. */
static pool **find(int device, acre_torch_pool_id id)
{
    pool **link = &pools;
    while (*link && ((*link)->device != device || (*link)->id.first != id.first || (*link)->id.second != id.second))
        link = &(*link)->next;
    return link;
}

void acre_torch_begin_pool(int device, acre_torch_pool_id id, void *filter)
{
    (void)filter;
    device_heap *d = device_at(device);
    if (!d || !device_heap_get(device)) return;
    pthread_mutex_lock(&pools_lock);
    pool **link = find(device, id), *p = *link;
    if (p) *link = p->next;
    else p = calloc(1, sizeof *p);
    if (p) {
        p->id = id;
        p->device = device;
        p->uses++;
        p->next = pools;
        pools = p;
        if (!p->open) atomic_fetch_add(&d->open_pools, 1);
        p->open = true;
    } else {
        fprintf(stderr, "acre: no memory for a pool: the capture shares pages with others\n");
    }
    pthread_mutex_unlock(&pools_lock);
}

static bool bind(pool *p, acre_cuda *heap, void *stream)
{
    pool_lane *lane = p->lanes;
    while (lane && lane->bound) lane = lane->next;
    if (lane) {
        if (acre_cuda_capture_again(heap, lane->capture, stream) != ACRE_OK) return false;
    } else {
        lane = calloc(1, sizeof *lane);
        if (!lane) return false;
        if (acre_cuda_capture_begin(heap, stream, &lane->capture) != ACRE_OK) {
            free(lane);
            return false;
        }
        lane->next = p->lanes;
        p->lanes = lane;
    }
    lane->stream = stream;
    lane->bound = true;
    return true;
}

void pools_route(int device, acre_cuda *heap, void *stream)
{
    if (!driver_is_capturing(device, stream)) return;
    pthread_mutex_lock(&pools_lock);
    pool *p = pools;
    while (p && (p->device != device || !p->open)) p = p->next;
    if (p) {
        pool_lane *lane = p->lanes;
        while (lane && !(lane->bound && lane->stream == stream)) lane = lane->next;
        if (!lane && !bind(p, heap, stream))
            fprintf(stderr, "acre: no lane for a captured stream: its blocks share pages with others\n");
    }
    pthread_mutex_unlock(&pools_lock);
}

static void close_pool(pool *p)
{
    acre_cuda *heap = device_heap_if_any(p->device);
    for (pool_lane *lane = p->lanes; lane; lane = lane->next) {
        if (lane->bound && heap) acre_cuda_capture_end(heap, lane->capture);
        lane->bound = false;
    }
    if (p->open) atomic_fetch_sub(&device_at(p->device)->open_pools, 1);
    p->open = false;
}

void acre_torch_end_pool(int device, acre_torch_pool_id id)
{
    pthread_mutex_lock(&pools_lock);
    pool *p = *find(device, id);
    if (p) close_pool(p);
    pthread_mutex_unlock(&pools_lock);
}

void acre_torch_release_pool(int device, acre_torch_pool_id id)
{
    pthread_mutex_lock(&pools_lock);
    pool **link = find(device, id), *p = *link;
    if (p && --p->uses == 0) {
        *link = p->next;
        close_pool(p);
        acre_cuda *heap = device_heap_if_any(device);
        while (p->lanes) {
            pool_lane *lane = p->lanes;
            p->lanes = lane->next;
            if (heap) acre_cuda_capture_release(heap, lane->capture);
            free(lane);
        }
        free(p);
    }
    pthread_mutex_unlock(&pools_lock);
}
