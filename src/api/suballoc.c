/* suballoc: the public face of the coalescing core: bytes instead of granules, statuses, handles, a lock.
 *
 * The object is an OS page or two at the head of a reserved range of its own; bookkeeping lives in one reserved range
 * per part of the core (coalesce_memory), committed as it grows. A part whose range is full moves to one twice as
 * large: nodes are named by index, so nothing points into it. Address space is asked for modestly first and never in
 * proportion to what is managed. Nothing here calls malloc. */
#include "acre/suballoc.h"

#include <string.h>

#include "alloc/coalesce.h"
#include "os/lock.h"
#include "os/os.h"

enum {
    GRANULARITY_DEFAULT = 256,
    PART_RESERVED_BYTES_FIRST = 1 << 20,
};

/* One growing array of the core. committed <= reserved, whole OS pages. */
typedef struct suballoc_part {
    void *base;
    size_t reserved;
} suballoc_part;

struct acre_suballoc {
    lock lock; /* guards all below if thread_safe */
    bool thread_safe;
    uint32_t granularity_log2;
    uint32_t count_max; /* UINT32_MAX: none */
    coalesce core;
    suballoc_part parts[COALESCE_INDEX_MAX];
};

static size_t object_bytes(void) { return align_up(sizeof(acre_suballoc), os_page_bytes()); }

static inline void enter(acre_suballoc *s)
{
    if (s->thread_safe) lock_acquire(&s->lock);
}
static inline void leave(acre_suballoc *s)
{
    if (s->thread_safe) lock_release(&s->lock);
}

/* --- bookkeeping memory ----------------------------------------------------------------------------------------- */

static void *part_grow(void *context, unsigned part, void *old, size_t old_bytes, size_t new_bytes)
{
    suballoc_part *p = &((acre_suballoc *)context)->parts[part];
    new_bytes = align_up(new_bytes, os_page_bytes());
    if (old != NULL && new_bytes <= p->reserved) return os_commit(old, new_bytes) ? old : NULL;

    size_t reserved = PART_RESERVED_BYTES_FIRST;
    while (reserved < new_bytes * 2) reserved *= 2;
    void *base = os_reserve(reserved, os_page_bytes());
    if (base == NULL) base = os_reserve(reserved = new_bytes, os_page_bytes());
    if (base == NULL) return NULL;
    if (!os_commit(base, new_bytes)) {
        os_release(base, reserved);
        return NULL;
    }
    if (old != NULL) {
        memcpy(base, old, old_bytes);
        os_release(old, p->reserved);
    }
    *p = (suballoc_part){base, reserved};
    return base;
}

static void part_release(void *context, unsigned part, void *base, size_t bytes)
{
    (void)bytes;
    os_release(base, ((acre_suballoc *)context)->parts[part].reserved);
}

/* --- sizes and handles ------------------------------------------------------------------------------------------ */

static acre_status capacity_of(uint64_t bytes, uint32_t granularity_log2, uint32_t *capacity)
{
    uint64_t granules = bytes >> granularity_log2;
    if (granules == 0) return ACRE_INVALID_ARGUMENT;
    if (granules > COALESCE_CAPACITY_MAX) return ACRE_TOO_LARGE;
    *capacity = (uint32_t)granules;
    return ACRE_OK;
}

/* Rounds up. */
static inline acre_status granules_of(const acre_suballoc *s, uint64_t bytes, uint32_t *granules)
{
    if (bytes == 0) return ACRE_INVALID_ARGUMENT;
    uint64_t rounded = ((bytes - 1) >> s->granularity_log2) + 1;
    if (rounded > s->core.capacity) return ACRE_TOO_LARGE;
    *granules = (uint32_t)rounded;
    return ACRE_OK;
}

/* 0: at any granule. alignment: 0 or a power of two */
static inline uint32_t align_log2_of(uint64_t alignment, uint32_t granularity_log2)
{
    if (alignment >> granularity_log2 <= 1) return 0;
    return bits_lowest(alignment) - granularity_log2;
}

static inline acre_status resolve(const acre_suballoc *s, uint64_t handle, uint32_t *node)
{
    *node = coalesce_resolve(&s->core, handle);
    if (likely(*node != 0)) return ACRE_OK;
    return coalesce_handle_is_stale(&s->core, handle) ? ACRE_DOUBLE_FREE : ACRE_FOREIGN_POINTER;
}

static inline uint64_t bytes_of(const acre_suballoc *s, uint32_t granules)
{
    return (uint64_t)granules << s->granularity_log2;
}

/* --- life ------------------------------------------------------------------------------------------------------- */

static acre_status start(acre_suballoc *s, const acre_suballoc_options *options, uint64_t granularity)
{
    s->granularity_log2 = bits_lowest(granularity);
    s->thread_safe = options->thread_safe;
    s->count_max = options->count_max != 0 ? options->count_max : UINT32_MAX;

    coalesce_options core = {.memory = {s, part_grow, part_release}};
    acre_status status = capacity_of(options->size, s->granularity_log2, &core.capacity);
    if (status != ACRE_OK) return status;
    if (options->size_min != 0) {
        uint64_t granules = ((options->size_min - 1) >> s->granularity_log2) + 1;
        core.size_min = granules < core.capacity ? (uint32_t)granules : core.capacity;
    }
    /* Nodes for count_max blocks, as many holes, the hole at the end and the sentinel. */
    if (options->count_max != 0) {
        uint64_t blocks = options->count_max < core.capacity ? options->count_max : core.capacity;
        if (2 * blocks + 2 >= UINT32_MAX / 2) return ACRE_NO_MEMORY;
        core.node_count = (uint32_t)(2 * blocks + 2);
    }
    for (int i = 0; i < ACRE_SUBALLOC_ALIGNMENTS; i++) {
        uint32_t align_log2 = align_log2_of(options->alignments[i], s->granularity_log2);
        if (align_log2 > 31) return ACRE_TOO_LARGE;
        core.extra_align_log2[i] = (uint8_t)align_log2;
    }
    return coalesce_init(&s->core, &core) ? ACRE_OK : ACRE_NO_MEMORY;
}

acre_status acre_suballoc_create(const acre_suballoc_options *options, acre_suballoc **suballoc)
{
    if (options == NULL || suballoc == NULL || options->size == 0) return ACRE_INVALID_ARGUMENT;
    uint64_t granularity = options->granularity != 0 ? options->granularity : GRANULARITY_DEFAULT;
    if (!is_power_of_two(granularity)) return ACRE_INVALID_ARGUMENT;
    for (int i = 0; i < ACRE_SUBALLOC_ALIGNMENTS; i++)
        if (options->alignments[i] != 0 && !is_power_of_two(options->alignments[i])) return ACRE_INVALID_ARGUMENT;

    os_init();
    acre_suballoc *s = os_reserve(object_bytes(), os_page_bytes());
    if (s == NULL) return ACRE_NO_MEMORY;
    acre_status status = ACRE_NO_MEMORY;
    if (os_commit(s, object_bytes())) {
        memset(s, 0, sizeof *s);
        status = start(s, options, granularity);
    }
    if (status == ACRE_OK)
        *suballoc = s;
    else
        os_release(s, object_bytes());
    return status;
}

void acre_suballoc_destroy(acre_suballoc *suballoc)
{
    if (suballoc == NULL) return;
    coalesce_destroy(&suballoc->core);
    os_release(suballoc, object_bytes());
}

acre_status acre_suballoc_reset(acre_suballoc *suballoc)
{
    if (suballoc == NULL) return ACRE_INVALID_ARGUMENT;
    enter(suballoc);
    coalesce_reset(&suballoc->core);
    leave(suballoc);
    return ACRE_OK;
}

/* --- blocks ----------------------------------------------------------------------------------------------------- */

static inline acre_status alloc(acre_suballoc *s, uint64_t size, uint64_t alignment, acre_suballoc_block *block)
{
    uint32_t granules, offset, align_log2 = align_log2_of(alignment, s->granularity_log2);
    acre_status status = granules_of(s, size, &granules);
    if (unlikely(status != ACRE_OK)) return status;
    if (unlikely(s->core.block_count >= s->count_max)) return ACRE_NO_MEMORY;
    /* Beyond 2^31 granules only offset 0 is aligned in practice; the core does not look for it. */
    uint32_t node = coalesce_alloc(&s->core, granules, align_log2, &offset);
    if (unlikely(node == 0)) return ACRE_NO_MEMORY;
    *block = (acre_suballoc_block){bytes_of(s, offset), bytes_of(s, granules), coalesce_handle(&s->core, node)};
    return ACRE_OK;
}

acre_status acre_suballoc_alloc(acre_suballoc *suballoc, uint64_t size, uint64_t alignment, acre_suballoc_block *block)
{
    if (unlikely(suballoc == NULL || block == NULL || (alignment & (alignment - 1)) != 0)) return ACRE_INVALID_ARGUMENT;
    enter(suballoc);
    acre_status status = alloc(suballoc, size, alignment, block);
    leave(suballoc);
    return status;
}

acre_status acre_suballoc_free(acre_suballoc *suballoc, uint64_t handle)
{
    if (unlikely(suballoc == NULL)) return ACRE_INVALID_ARGUMENT;
    uint32_t node;
    enter(suballoc);
    acre_status status = resolve(suballoc, handle, &node);
    if (likely(status == ACRE_OK)) (void)coalesce_free(&suballoc->core, node);
    leave(suballoc);
    return status;
}

acre_status acre_suballoc_resize(acre_suballoc *suballoc, uint64_t handle, uint64_t new_size)
{
    if (suballoc == NULL) return ACRE_INVALID_ARGUMENT;
    uint32_t node, granules;
    enter(suballoc);
    acre_status status = resolve(suballoc, handle, &node);
    if (status == ACRE_OK) status = granules_of(suballoc, new_size, &granules);
    if (status == ACRE_OK && !coalesce_resize(&suballoc->core, node, granules)) status = ACRE_NO_MEMORY;
    leave(suballoc);
    return status;
}

/* --- the range -------------------------------------------------------------------------------------------------- */

acre_status acre_suballoc_grow(acre_suballoc *suballoc, uint64_t new_size)
{
    if (suballoc == NULL) return ACRE_INVALID_ARGUMENT;
    uint32_t capacity;
    enter(suballoc);
    acre_status status = capacity_of(new_size, suballoc->granularity_log2, &capacity);
    if (status == ACRE_OK && capacity < suballoc->core.capacity) status = ACRE_INVALID_ARGUMENT;
    if (status == ACRE_OK && !coalesce_extend(&suballoc->core, capacity)) status = ACRE_NO_MEMORY;
    leave(suballoc);
    return status;
}

acre_status acre_suballoc_shrink(acre_suballoc *suballoc, uint64_t new_size)
{
    if (suballoc == NULL) return ACRE_INVALID_ARGUMENT;
    uint32_t capacity;
    enter(suballoc);
    acre_status status = capacity_of(new_size, suballoc->granularity_log2, &capacity);
    if (status == ACRE_TOO_LARGE || (status == ACRE_OK && capacity > suballoc->core.capacity))
        status = ACRE_INVALID_ARGUMENT;
    if (status == ACRE_OK && !coalesce_shrink(&suballoc->core, capacity)) status = ACRE_BUSY;
    leave(suballoc);
    return status;
}

/* --- looking ---------------------------------------------------------------------------------------------------- */

acre_status acre_suballoc_get_info(acre_suballoc *suballoc, uint64_t handle, acre_suballoc_info *info)
{
    if (suballoc == NULL || info == NULL) return ACRE_INVALID_ARGUMENT;
    const coalesce *core = &suballoc->core;
    uint32_t node;
    enter(suballoc);
    acre_status status = resolve(suballoc, handle, &node);
    if (status == ACRE_OK) {
        info->offset = bytes_of(suballoc, coalesce_offset(core, node));
        info->size = bytes_of(suballoc, coalesce_size(core, node));
        info->tag = coalesce_tag(core, node);
    }
    leave(suballoc);
    return status;
}

acre_status acre_suballoc_set_tag(acre_suballoc *suballoc, uint64_t handle, uint64_t tag)
{
    if (suballoc == NULL) return ACRE_INVALID_ARGUMENT;
    uint32_t node;
    enter(suballoc);
    acre_status status = resolve(suballoc, handle, &node);
    if (status == ACRE_OK) coalesce_set_tag(&suballoc->core, node, tag);
    leave(suballoc);
    return status;
}

acre_status acre_suballoc_get_stats(acre_suballoc *suballoc, acre_suballoc_stats *stats)
{
    if (suballoc == NULL || stats == NULL) return ACRE_INVALID_ARGUMENT;
    const coalesce *core = &suballoc->core;
    enter(suballoc);
    *stats = (acre_suballoc_stats){
        .bytes_total = bytes_of(suballoc, core->capacity),
        .bytes_used = bytes_of(suballoc, core->used),
        .bytes_free = bytes_of(suballoc, coalesce_free_granules(core)),
        .largest_hole = bytes_of(suballoc, coalesce_largest_hole(core)),
        .bytes_bookkeeping = object_bytes() + coalesce_memory_bytes(core),
        .block_count = core->block_count,
        .hole_count = core->hole_count,
    };
    leave(suballoc);
    if (stats->bytes_free != 0)
        stats->fragmentation = 1.0 - (double)stats->largest_hole / (double)stats->bytes_free;
    return ACRE_OK;
}

acre_status acre_suballoc_walk(acre_suballoc *suballoc, acre_suballoc_visit *visit, void *context)
{
    if (suballoc == NULL || visit == NULL) return ACRE_INVALID_ARGUMENT;
    const coalesce *core = &suballoc->core;
    enter(suballoc);
    for (uint32_t node = coalesce_first(core); node != 0; node = coalesce_next(core, node)) {
        acre_suballoc_piece piece = {.offset = bytes_of(suballoc, coalesce_offset(core, node)),
                                     .size = bytes_of(suballoc, coalesce_size(core, node)),
                                     .used = coalesce_is_used(core, node)};
        if (piece.used) {
            piece.handle = coalesce_handle(core, node);
            piece.tag = coalesce_tag(core, node);
        }
        if (!visit(context, &piece)) break;
    }
    leave(suballoc);
    return ACRE_OK;
}

const char *acre_suballoc_check(acre_suballoc *suballoc)
{
    if (suballoc == NULL) return "there is no suballocator";
    enter(suballoc);
    const char *wrong = coalesce_check(&suballoc->core);
    leave(suballoc);
    return wrong;
}
