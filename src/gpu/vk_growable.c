/* vk_growable: a buffer whose end moves; the public face is acre/vulkan_stream.h.
 *
 * Two ways with one interface. With sparse binding the buffer has bytes_max of addresses from the beginning, and
 * pages are committed up to its end: no copy, no second buffer, and the device address stays. Without, it has slack
 * behind its end, and when that is used up a larger buffer is made and the caller copies; the slack is a share of the
 * size, so n bytes that arrive one by one are copied O(1) times each.
 *
 *   copy:   idle --resize--> growing (both buffers live) --finish--> idle, the old one waits for its point
 *                                                        --cancel--> idle, as before
 *
 * Gives up: without sparse binding both buffers are there while the copy runs, old + new bytes at the peak. */
#include <string.h>

#include "acre/vulkan_stream.h"
#include "gpu/vk_hooks.h"

#define BYTES_MAX_DEFAULT ((uint64_t)1 << 30)
#define SLACK_PERCENT_DEFAULT 50

typedef struct part {
    VkBuffer buffer;
    uint64_t handle;
    uint64_t bytes, capacity; /* bytes <= capacity <= options.bytes_max */
} part;

struct acre_vk_growable {
    acre_vk *vk;
    acre_vk_growable_options options;
    char name[ACRE_GPU_NAME_MAX + 1];
    acre_vk_sparse *sparse; /* NULL: by copies */
    part now;
    part next; /* buffer != VK_NULL_HANDLE: a copy waits for finish or cancel */
};

static acre_status make_part(acre_vk_growable *g, uint64_t bytes, uint64_t capacity, part *p)
{
    const VkBufferCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = capacity, .usage = g->options.buffer_usage};
    acre_vk_allocation allocation;
    acre_status status = acre_vk_create_buffer(g->vk, &info, &g->options.request, &p->buffer, &allocation);
    if (status != ACRE_OK) {
        p->buffer = VK_NULL_HANDLE;
        return status;
    }
    vk_block_add_flag(vk_block_of(g->vk, allocation.handle), BLOCK_FIXED);
    p->handle = allocation.handle;
    p->bytes = bytes;
    p->capacity = capacity;
    return ACRE_OK;
}

static acre_status drop_part(acre_vk_growable *g, part *p, acre_vk_point point)
{
    acre_status status = vk_point_is_set(&point)
                             ? acre_vk_destroy_buffer_after(g->vk, p->buffer, p->handle, point)
                             : acre_vk_destroy_buffer(g->vk, p->buffer, p->handle);
    if (status == ACRE_OK) *p = (part){VK_NULL_HANDLE, 0, 0, 0};
    return status;
}

/* --- with sparse binding ---------------------------------------------------------------------------------------- */

static acre_status make_sparse(acre_vk_growable *g)
{
    const VkBufferCreateInfo info = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = g->options.bytes_max,
                                     .usage = g->options.buffer_usage};
    acre_status status = acre_vk_sparse_create_buffer(g->vk, &info, &g->options.request, &g->sparse);
    if (status != ACRE_OK) return status;
    status = acre_vk_sparse_commit(g->sparse, 0, g->options.bytes, &g->options.bind);
    if (status != ACRE_OK) {
        acre_vk_sparse_destroy(g->sparse, (acre_vk_point){0});
        return status;
    }
    acre_vk_sparse_info s;
    acre_vk_sparse_get_info(g->sparse, &s);
    g->now = (part){s.buffer, 0, g->options.bytes, s.committed_bytes};
    return ACRE_OK;
}

static acre_status resize_sparse(acre_vk_growable *g, uint64_t bytes, const acre_vk_bind *bind)
{
    acre_vk_sparse_info s;
    acre_vk_sparse_get_info(g->sparse, &s);
    uint64_t end = align_up(bytes, s.page_bytes);
    acre_status status = ACRE_OK;
    if (end > g->now.capacity)
        status = acre_vk_sparse_commit(g->sparse, g->now.capacity, bytes - g->now.capacity, bind);
    else if (end < g->now.capacity)
        status = acre_vk_sparse_decommit(g->sparse, end, s.bytes - end, bind);
    if (status != ACRE_OK) return status;
    g->now.bytes = bytes;
    g->now.capacity = end;
    return ACRE_OK;
}

/* --- by copies -------------------------------------------------------------------------------------------------- */

static uint64_t with_slack(const acre_vk_growable *g, uint64_t bytes)
{
    uint64_t more = bytes / 100 * g->options.slack_percent + bytes % 100 * g->options.slack_percent / 100;
    uint64_t capacity = align_up(bytes + more, 256);
    return capacity < g->options.bytes_max ? capacity : g->options.bytes_max;
}

static acre_status resize_by_copy(acre_vk_growable *g, uint64_t bytes, bool compact, acre_vk_growth *growth)
{
    uint64_t capacity = compact && bytes < g->now.bytes ? bytes : with_slack(g, bytes);
    if (bytes <= g->now.capacity && (!compact || capacity >= g->now.capacity)) {
        g->now.bytes = bytes;
        *growth = (acre_vk_growth){true, g->now.buffer, g->now.buffer, 0};
        return ACRE_OK;
    }
    acre_status status = make_part(g, bytes, capacity, &g->next);
    /* The slack is a wish: what is asked for may still be there. */
    if (status != ACRE_OK && capacity > bytes) status = make_part(g, bytes, bytes, &g->next);
    if (status != ACRE_OK) return status;
    uint64_t common = bytes < g->now.bytes ? bytes : g->now.bytes;
    *growth = (acre_vk_growth){false, g->now.buffer, g->next.buffer, common};
    return ACRE_OK;
}

/* --- the interface ---------------------------------------------------------------------------------------------- */

acre_status acre_vk_growable_create(acre_vk *vk, const acre_vk_growable_options *options, acre_vk_growable **growable)
{
    if (vk == NULL || options == NULL || growable == NULL) return ACRE_INVALID_ARGUMENT;
    acre_vk_growable_options o = *options;
    if (o.bytes_max == 0) o.bytes_max = BYTES_MAX_DEFAULT;
    if (o.slack_percent == 0) o.slack_percent = SLACK_PERCENT_DEFAULT;
    if (o.bytes == 0 || o.buffer_usage == 0 || o.slack_percent > 1000) return ACRE_INVALID_ARGUMENT;
    if (o.bytes > o.bytes_max || o.bytes_max > UINT64_MAX / 16) return ACRE_TOO_LARGE;
    bool sparse = o.sparse || o.sparse_or_copy, lacks = sparse && acre_vk_sparse_lack(vk, false) != NULL;
    if (lacks && !o.sparse_or_copy) return ACRE_NOT_SUPPORTED;
    if (!sparse || lacks) o.buffer_usage |= VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;

    acre_vk_growable *g = arena_alloc(sizeof *g);
    if (g == NULL) return ACRE_NO_MEMORY;
    g->vk = vk;
    if (o.request.name != NULL) {
        strncpy(g->name, o.request.name, ACRE_GPU_NAME_MAX);
        o.request.name = g->name;
    }
    g->options = o;
    acre_status status = sparse && !lacks ? make_sparse(g) : make_part(g, o.bytes, o.bytes, &g->now);
    if (status != ACRE_OK) {
        arena_free(g, sizeof *g);
        return status;
    }
    *growable = g;
    return ACRE_OK;
}

acre_status acre_vk_growable_destroy(acre_vk_growable *growable, acre_vk_point point)
{
    if (growable == NULL) return ACRE_OK;
    if (growable->next.buffer != VK_NULL_HANDLE) return ACRE_BUSY;
    acre_status status = growable->sparse != NULL ? acre_vk_sparse_destroy(growable->sparse, point)
                                                  : drop_part(growable, &growable->now, point);
    if (status == ACRE_OK) arena_free(growable, sizeof *growable);
    return status;
}

VkBuffer acre_vk_growable_buffer(acre_vk_growable *growable)
{
    return growable != NULL ? growable->now.buffer : VK_NULL_HANDLE;
}
VkDeviceSize acre_vk_growable_bytes(acre_vk_growable *growable) { return growable != NULL ? growable->now.bytes : 0; }
VkDeviceSize acre_vk_growable_room(acre_vk_growable *growable) { return growable != NULL ? growable->now.capacity : 0; }

acre_status acre_vk_growable_resize(acre_vk_growable *growable, uint64_t bytes, bool compact, const acre_vk_bind *bind,
                                    acre_vk_growth *growth)
{
    if (growable == NULL || growth == NULL || bytes == 0) return ACRE_INVALID_ARGUMENT;
    if (bytes > growable->options.bytes_max) return ACRE_TOO_LARGE;
    if (growable->next.buffer != VK_NULL_HANDLE) return ACRE_BUSY;
    if (growable->sparse == NULL) return resize_by_copy(growable, bytes, compact, growth);
    acre_status status = resize_sparse(growable, bytes, bind);
    if (status == ACRE_OK) *growth = (acre_vk_growth){true, growable->now.buffer, growable->now.buffer, 0};
    return status;
}

acre_status acre_vk_growable_finish(acre_vk_growable *growable, acre_vk_point point)
{
    if (growable == NULL || growable->next.buffer == VK_NULL_HANDLE) return ACRE_INVALID_ARGUMENT;
    acre_status status = drop_part(growable, &growable->now, point);
    if (status != ACRE_OK) return status;
    growable->now = growable->next;
    growable->next = (part){VK_NULL_HANDLE, 0, 0, 0};
    return ACRE_OK;
}

acre_status acre_vk_growable_cancel(acre_vk_growable *growable)
{
    if (growable == NULL || growable->next.buffer == VK_NULL_HANDLE) return ACRE_INVALID_ARGUMENT;
    return drop_part(growable, &growable->next, (acre_vk_point){0});
}
