/* test_paged_range: claims about memory that is mapped in pages behind reserved addresses, on a driver that is a table.
 *
 * The table driver knows which pages exist, where each is mapped, and what was written to it: every block stamps its
 * granules through the mapping and finds its stamps again, so two blocks that share memory, or one without memory, are
 * seen. It fails when told, at the n-th thing that is asked of it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fake_os.h"
#include "gpu/paged_range.h"
#include "probe.h"

enum {
    PAGE = 4096,
    GRANULE = 256,
    PER_PAGE = PAGE / GRANULE,
    SMALL_PAGES = 64,
    LARGE_PAGES = 256,
    RANGE_PAGES = SMALL_PAGES + LARGE_PAGES,
    PHYSICAL_MAX = 1024,
    RANGES = 2,
};

/* --- the driver ------------------------------------------------------------------------------------------------- */

typedef struct spot { uint64_t handle; bool access; } spot; /* handle 0: nothing mapped */

typedef struct driver {
    pthread_mutex_t mutex;
    bool exists[PHYSICAL_MAX];
    uint32_t mappings[PHYSICAL_MAX];
    uint32_t contents[PHYSICAL_MAX][PER_PAGE];
    spot spots[RANGES][RANGE_PAGES];
    uint64_t pages, peak, pages_max;   /* physical pages; most at once; 0: any number */
    uint64_t asked;                    /* things asked of it so far */
    uint64_t fail_at, fail_count;      /* things [fail_at, fail_at + fail_count) fail; 0: none */
    uint64_t failures;
    const char *misuse;                /* what it was asked that nobody may ask */
    atomic_bool hold_maps;             /* map does not come back while this is set */
    atomic_bool hold_unmaps;
    atomic_uint held;                  /* threads that stand there */
} driver;

static driver gpu;
static const int owner_numbers[RANGES] = {0, 1};

static void reset_driver(void)
{
    memset(&gpu, 0, sizeof gpu);
    pthread_mutex_init(&gpu.mutex, NULL);
}

static void misused(const char *how)
{
    if (gpu.misuse == NULL) gpu.misuse = how;
}

/* One more thing is asked: does it fail? */
static bool fails(paged_failure *failure, acre_status status, const char *call)
{
    gpu.asked++;
    if (gpu.fail_at == 0 || gpu.asked < gpu.fail_at || gpu.asked >= gpu.fail_at + gpu.fail_count) return false;
    gpu.failures++;
    *failure = (paged_failure){status, 700 + (int32_t)gpu.failures, call};
    return true;
}

static uint32_t create(void *context, uint64_t *handles, uint32_t count, paged_failure *failure)
{
    uint32_t done = 0;
    (void)context;
    pthread_mutex_lock(&gpu.mutex);
    for (uint64_t handle = 1; done < count; done++) {
        if (fails(failure, ACRE_NO_MEMORY, "create")) break;
        if (gpu.pages_max != 0 && gpu.pages == gpu.pages_max) {
            *failure = (paged_failure){ACRE_NO_MEMORY, 2, "create"};
            break;
        }
        while (gpu.exists[handle]) handle++;
        gpu.exists[handle] = true;
        memset(gpu.contents[handle], 0xEE, sizeof gpu.contents[handle]);
        handles[done] = handle;
        if (++gpu.pages > gpu.peak) gpu.peak = gpu.pages;
    }
    pthread_mutex_unlock(&gpu.mutex);
    return done;
}

static uint32_t destroy(void *context, const uint64_t *handles, uint32_t count, paged_failure *failure)
{
    uint32_t done = 0;
    (void)context;
    pthread_mutex_lock(&gpu.mutex);
    for (; done < count; done++) {
        if (fails(failure, ACRE_SYSTEM, "destroy")) break;
        uint64_t handle = handles[done];
        if (!gpu.exists[handle]) misused("destroyed what does not exist");
        if (gpu.mappings[handle] != 0) misused("destroyed a mapped page");
        gpu.exists[handle] = false;
        gpu.pages--;
    }
    pthread_mutex_unlock(&gpu.mutex);
    return done;
}

static spot *spot_of(const paged_binding *binding)
{
    if (binding->offset % PAGE != 0 || binding->offset / PAGE >= RANGE_PAGES) misused("an offset of no page");
    return &gpu.spots[*(const int *)binding->range][binding->offset / PAGE % RANGE_PAGES];
}

static void hold_while(atomic_bool *held)
{
    if (!atomic_load(held)) return;
    atomic_fetch_add(&gpu.held, 1);
    while (atomic_load(held)) os_yield();
    atomic_fetch_sub(&gpu.held, 1);
}

static uint32_t map(void *context, const paged_binding *bindings, uint32_t count, paged_failure *failure)
{
    uint32_t done = 0;
    (void)context;
    hold_while(&gpu.hold_maps);
    pthread_mutex_lock(&gpu.mutex);
    for (; done < count; done++) {
        if (fails(failure, ACRE_SYSTEM, "map")) break;
        spot *spot = spot_of(&bindings[done]);
        if (spot->handle != 0) misused("mapped over a mapping");
        if (!gpu.exists[bindings[done].handle]) misused("mapped what does not exist");
        if (bindings[done].range != bindings[0].range) misused("one call for two ranges");
        spot->handle = bindings[done].handle;
        gpu.mappings[bindings[done].handle]++;
    }
    pthread_mutex_unlock(&gpu.mutex);
    return done;
}

static uint32_t unmap(void *context, const paged_binding *bindings, uint32_t count, paged_failure *failure)
{
    uint32_t done = 0;
    (void)context;
    hold_while(&gpu.hold_unmaps);
    pthread_mutex_lock(&gpu.mutex);
    for (; done < count; done++) {
        if (fails(failure, ACRE_SYSTEM, "unmap")) break;
        spot *spot = spot_of(&bindings[done]);
        if (spot->handle == 0 || spot->handle != bindings[done].handle) misused("unmapped what is not mapped there");
        if (bindings[done].range != bindings[0].range) misused("one call for two ranges");
        gpu.mappings[spot->handle]--;
        spot->handle = 0;
        spot->access = false;
    }
    pthread_mutex_unlock(&gpu.mutex);
    return done;
}

static uint32_t set_access(void *context, const paged_binding *bindings, uint32_t count, paged_failure *failure)
{
    uint32_t done = 0;
    (void)context;
    pthread_mutex_lock(&gpu.mutex);
    for (; done < count; done++) {
        if (fails(failure, ACRE_SYSTEM, "access")) break;
        spot *spot = spot_of(&bindings[done]);
        if (spot->handle == 0 || spot->access) misused("access for what is not mapped, or has it");
        spot->access = true;
    }
    pthread_mutex_unlock(&gpu.mutex);
    return done;
}

static void fail_from(uint64_t nth, uint64_t count)
{
    gpu.fail_at = nth != 0 ? gpu.asked + nth : 0;
    gpu.fail_count = count;
}

/* --- what blocks see -------------------------------------------------------------------------------------------- */

static uint32_t *memory_at(int range, uint64_t offset)
{
    const spot *spot = &gpu.spots[range][offset / PAGE];
    if (spot->handle == 0 || !spot->access) return NULL;
    return &gpu.contents[spot->handle][offset % PAGE / GRANULE];
}

static bool stamp(int range, uint64_t offset, uint64_t bytes, uint32_t id)
{
    bool there = true;
    pthread_mutex_lock(&gpu.mutex);
    for (uint64_t at = offset; at < offset + bytes; at += GRANULE) {
        uint32_t *memory = memory_at(range, at);
        if (memory != NULL) *memory = id;
        else there = false;
    }
    pthread_mutex_unlock(&gpu.mutex);
    return there;
}

static bool stamped(int range, uint64_t offset, uint64_t bytes, uint32_t id)
{
    bool intact = true;
    pthread_mutex_lock(&gpu.mutex);
    for (uint64_t at = offset; at < offset + bytes && intact; at += GRANULE) {
        const uint32_t *memory = memory_at(range, at);
        intact = memory != NULL && *memory == id;
    }
    pthread_mutex_unlock(&gpu.mutex);
    return intact;
}

/* --- the thing under test --------------------------------------------------------------------------------------- */

static paged_store store;
static paged_range ranges[RANGES];
static gpu_ledger ledger;

static void set_up_with(empty_policy policy)
{
    reset_driver();
    memset(&ledger, 0, sizeof ledger);
    assert_int_equal(gpu_ledger_init(&ledger, NULL, 0, 1), ACRE_OK);
    paged_store_options options = {
        .provider = {NULL, PAGE, create, destroy, map, unmap, set_access},
        .policy = policy,
        .ledger = &ledger,
    };
    assert_int_equal(paged_store_init(&store, &options), ACRE_OK);
    for (int i = 0; i < RANGES; i++) {
        paged_range_options range = {
            .store = &store,
            .owner = (void *)(uintptr_t)&owner_numbers[i],
            .small_bytes = SMALL_PAGES * PAGE,
            .large_bytes = LARGE_PAGES * PAGE,
            .granule_bytes = GRANULE,
            .alignments = {1024},
            .large_min_bytes = 8 * PAGE,
        };
        assert_int_equal(paged_range_init(&ranges[i], &range), ACRE_OK);
    }
}
static void set_up(void) { set_up_with((empty_policy){UINT64_MAX, 100, UINT32_MAX}); }

/* Also while others are at work. */
static void check_quiet(void)
{
    const char *wrong = paged_store_check(&store);
    if (wrong != NULL) fail_msg("%s", wrong);
    if (gpu.misuse != NULL) fail_msg("the driver was misused: %s", gpu.misuse);
}

static void check(void)
{
    check_quiet();
    acre_gpu_heap_stats heap;
    paged_store_stats stats;
    gpu_ledger_read_heap(&ledger, 0, &heap);
    paged_store_stats_read(&store, &stats);
    assert_int_equal(heap.held_bytes, stats.held_bytes);
    assert_int_equal(heap.empty_bytes, stats.empty_bytes);
    assert_int_equal(heap.held_bytes, gpu.pages * PAGE);
    assert_int_equal(heap.driver_allocations, gpu.pages);
}

/* Everything goes; nothing is left. */
static void tear_down(void)
{
    check();
    fail_from(0, 0);
    for (int i = 0; i < RANGES; i++) assert_int_equal(paged_range_destroy(&ranges[i], NULL), ACRE_OK);
    assert_int_equal(paged_store_destroy(&store, NULL), ACRE_OK);
    assert_int_equal(gpu.pages, 0);
    for (int i = 0; i < RANGES; i++)
        for (int k = 0; k < RANGE_PAGES; k++) assert_int_equal(gpu.spots[i][k].handle, 0);
    if (gpu.misuse != NULL) fail_msg("the driver was misused: %s", gpu.misuse);
    pthread_mutex_destroy(&gpu.mutex);
}

static paged_block take(int range, uint64_t bytes)
{
    paged_block block;
    paged_request request = {.bytes = bytes};
    assert_int_equal(paged_alloc(&ranges[range], &request, &block, NULL), ACRE_OK);
    assert_true(stamp(range, block.offset, block.bytes, (uint32_t)block.handle));
    return block;
}

static void give(int range, const paged_block *block)
{
    assert_true(stamped(range, block->offset, block->bytes, (uint32_t)block->handle));
    assert_int_equal(paged_free(&ranges[range], block->handle, NULL), ACRE_OK);
}

static paged_range_stats range_stats(int range)
{
    paged_range_stats stats;
    paged_range_stats_read(&ranges[range], &stats);
    return stats;
}
static paged_store_stats store_stats(void)
{
    paged_store_stats stats;
    paged_store_stats_read(&store, &stats);
    assert_int_equal(stats.held_bytes, stats.used_bytes + stats.empty_bytes);
    return stats;
}

/* --- claims: mapping -------------------------------------------------------------------------------------------- */

static void pages_are_mapped_under_blocks_only(void **state)
{
    (void)state;
    set_up();
    paged_block a = take(0, 3 * PAGE + 1), b = take(0, 100);
    assert_int_equal(a.bytes, 3 * PAGE + GRANULE);
    assert_int_equal(b.offset, a.bytes);
    assert_int_equal(gpu.pages, 4);
    paged_range_stats stats = range_stats(0);
    assert_int_equal(stats.live_bytes, a.bytes + b.bytes);
    assert_int_equal(stats.mapped_bytes, 4 * PAGE);
    assert_int_equal(stats.hole_bytes, 4 * PAGE - a.bytes - b.bytes);
    assert_int_equal(stats.largest_hole_bytes, stats.hole_bytes);
    give(0, &a);
    give(0, &b);
    assert_int_equal(range_stats(0).empty_bytes, 4 * PAGE);
    tear_down();
}

static void a_hit_makes_no_driver_call(void **state)
{
    (void)state;
    set_up();
    paged_block a = take(0, 5 * PAGE), large = take(0, 20 * PAGE);
    give(0, &a);
    give(0, &large);
    uint64_t asked = gpu.asked;
    for (int i = 0; i < 10; i++) {
        paged_block b = take(0, 2 * PAGE + 300), c = take(0, 700), d = take(0, 20 * PAGE);
        give(0, &b);
        give(0, &c);
        give(0, &d);
    }
    assert_int_equal(gpu.asked, asked);
    tear_down();
}

static void pages_in_a_hole_between_live_blocks_go_back(void **state)
{
    (void)state;
    set_up();
    paged_block a = take(0, 1000), b = take(0, 6 * PAGE), c = take(0, 1000);
    assert_int_equal(gpu.pages, 7);
    give(0, &b);
    assert_int_equal(paged_store_trim(&store, 0, NULL), 5 * PAGE);
    assert_int_equal(gpu.pages, 2);
    check();
    b = take(0, 6 * PAGE); /* the same hole, with memory again */
    assert_int_equal(b.offset, a.bytes);
    give(0, &a);
    give(0, &b);
    give(0, &c);
    tear_down();
}

static void an_empty_page_moves_before_one_is_created(void **state)
{
    (void)state;
    set_up();
    paged_block a = take(0, 6 * PAGE);
    give(0, &a);
    paged_block b = take(1, 4 * PAGE); /* another range, no loose page: those of the first move */
    assert_int_equal(gpu.pages, 6);
    assert_int_equal(store_stats().taken_over, 4);
    check();
    give(1, &b);
    assert_int_equal(paged_store_trim(&store, 2 * PAGE, NULL), 4 * PAGE);
    assert_int_equal(gpu.pages, 2);
    tear_down();
}

static void what_is_empty_long_goes_and_what_is_not_stays(void **state)
{
    (void)state;
    fake_os_install();
    set_up_with((empty_policy){UINT64_MAX, 1000, 1000});
    paged_block a = take(0, 4 * PAGE), keep = take(0, 4 * PAGE), b = take(0, 2 * PAGE);
    give(0, &a);
    assert_int_equal(paged_store_next_ms(&store), 100);
    fake_os_advance_ms(900);
    give(0, &b);
    assert_int_equal(paged_store_tick(&store, 0, NULL), 0);
    fake_os_advance_ms(100);
    assert_int_equal(paged_store_tick(&store, 0, NULL), 4 * PAGE);
    paged_block c = take(0, 5 * PAGE);
    give(0, &c);
    assert_int_equal(store_stats().empty_bytes, 5 * PAGE); /* two of them were reused */
    assert_int_equal(paged_store_tick(&store, PAGE + 1, NULL), 2 * PAGE); /* somebody needs memory: at once */
    assert_int_equal(store_stats().empty_bytes, 3 * PAGE);
    paged_store_set_policy(&store, (empty_policy){PAGE, 1000, 1000});
    assert_int_equal(paged_store_tick(&store, 0, NULL), 2 * PAGE);
    assert_int_equal(paged_store_trim(&store, 0, NULL), PAGE);
    assert_int_equal(paged_store_next_ms(&store), UINT64_MAX);
    give(0, &keep);
    tear_down();
    fake_os_remove();
}

/* --- claims: large blocks and resizing -------------------------------------------------------------------------- */

static void a_large_block_doubles_where_it_lies(void **state)
{
    (void)state;
    set_up();
    paged_block a = take(0, 10 * PAGE), b = take(0, 10 * PAGE), now;
    assert_true(a.offset >= SMALL_PAGES * PAGE);
    assert_int_equal(a.room, 32 * PAGE); /* twice the power of two above it */
    assert_int_equal(gpu.pages, 20);     /* addresses, not memory */
    assert_int_equal(paged_resize(&ranges[0], a.handle, 32 * PAGE, false, &now, NULL), ACRE_OK);
    assert_true(now.offset == a.offset && now.bytes == 32 * PAGE && now.handle == a.handle);
    assert_int_equal(gpu.pages, 42);
    assert_true(stamped(0, a.offset, a.bytes, (uint32_t)a.handle));
    assert_true(stamped(0, b.offset, b.bytes, (uint32_t)b.handle));
    assert_int_equal(paged_resize(&ranges[0], a.handle, 33 * PAGE, false, &now, NULL), ACRE_NO_MEMORY);
    assert_int_equal(now.bytes, 32 * PAGE);
    give(0, &b);
    assert_int_equal(paged_resize(&ranges[0], a.handle, 33 * PAGE, false, &now, NULL), ACRE_OK); /* past its slot */
    assert_true(now.room >= 66 * PAGE);
    assert_int_equal(paged_resize(&ranges[0], a.handle, 5 * PAGE, false, &now, NULL), ACRE_OK);
    assert_int_equal(range_stats(0).live_bytes, 5 * PAGE);
    assert_int_equal(paged_resize(&ranges[0], a.handle, (LARGE_PAGES + 1) * PAGE, false, &now, NULL), ACRE_TOO_LARGE);
    check();
    assert_true(stamped(0, a.offset, 5 * PAGE, (uint32_t)a.handle));
    assert_int_equal(paged_free(&ranges[0], a.handle, NULL), ACRE_OK);
    tear_down();
}

static void room_is_what_the_caller_asks_for_and_gives_way_when_addresses_run_short(void **state)
{
    (void)state;
    set_up();
    paged_block a, b, c, now;
    paged_request request = {.bytes = PAGE, .room_bytes = 200 * PAGE, .tag = 77, .category = 5};
    assert_int_equal(paged_alloc(&ranges[0], &request, &a, NULL), ACRE_OK);
    assert_true(a.room == 200 * PAGE && a.tag == 77 && a.category == 5);
    assert_int_equal(paged_alloc(&ranges[0], &request, &b, NULL), ACRE_OK);
    assert_true(b.room >= PAGE && b.room < 57 * PAGE);
    request = (paged_request){.bytes = 30 * PAGE};
    assert_int_equal(paged_alloc(&ranges[0], &request, &c, NULL), ACRE_OK);
    assert_int_equal(c.room, 30 * PAGE); /* without any room rather than not at all */
    assert_int_equal(paged_resize(&ranges[0], a.handle, 200 * PAGE, false, &now, NULL), ACRE_OK);
    assert_int_equal(paged_free(&ranges[0], a.handle, NULL), ACRE_OK);
    assert_int_equal(paged_free(&ranges[0], b.handle, NULL), ACRE_OK);
    assert_int_equal(paged_free(&ranges[0], c.handle, NULL), ACRE_OK);
    tear_down();
}

static void a_small_block_grows_into_the_hole_behind_it_and_no_further(void **state)
{
    (void)state;
    set_up();
    paged_block a = take(0, PAGE), b = take(0, 2 * PAGE), c = take(0, 512), now;
    assert_int_equal(paged_resize(&ranges[0], a.handle, PAGE + 1, false, NULL, NULL), ACRE_NO_MEMORY);
    give(0, &b);
    assert_int_equal(paged_resize(&ranges[0], a.handle, 3 * PAGE, false, &now, NULL), ACRE_OK);
    assert_int_equal(paged_resize(&ranges[0], a.handle, 3 * PAGE + 1, false, &now, NULL), ACRE_NO_MEMORY);
    assert_true(now.bytes == 3 * PAGE && stamped(0, a.offset, PAGE, (uint32_t)a.handle));
    assert_int_equal(paged_resize(&ranges[0], a.handle, 0, false, &now, NULL), ACRE_INVALID_ARGUMENT);
    assert_int_equal(paged_resize(&ranges[0], a.handle, 300, false, &now, NULL), ACRE_OK);
    assert_int_equal(now.bytes, 512);
    check();
    assert_int_equal(paged_free(&ranges[0], a.handle, NULL), ACRE_OK);
    give(0, &c);
    tear_down();
}

/* --- claims: handles and refusals ------------------------------------------------------------------------------- */

static void blocks_are_found_by_offset_and_stale_handles_are_told(void **state)
{
    (void)state;
    set_up();
    paged_block blocks[200], found;
    for (int i = 0; i < 200; i++) blocks[i] = take(0, 200 + 40 * (uint64_t)(i % 9));
    for (int i = 0; i < 200; i += 3) give(0, &blocks[i]);
    for (int i = 0; i < 200; i++) {
        acre_status status = paged_find(&ranges[0], blocks[i].offset, &found);
        assert_int_equal(status, i % 3 == 0 ? ACRE_FOREIGN_POINTER : ACRE_OK);
        if (status == ACRE_OK) assert_int_equal(found.handle, blocks[i].handle);
        assert_int_equal(paged_find(&ranges[0], blocks[i].offset + 1, &found), ACRE_FOREIGN_POINTER);
    }
    assert_int_equal(paged_find(&ranges[0], UINT64_MAX, &found), ACRE_FOREIGN_POINTER);
    assert_int_equal(paged_free(&ranges[0], blocks[0].handle, NULL), ACRE_DOUBLE_FREE);
    assert_int_equal(paged_get(&ranges[0], blocks[3].handle, &found), ACRE_DOUBLE_FREE);
    assert_int_equal(paged_free(&ranges[0], 0, NULL), ACRE_FOREIGN_POINTER);
    assert_int_equal(paged_free(&ranges[0], UINT64_MAX, NULL), ACRE_FOREIGN_POINTER);
    assert_int_equal(paged_set_tag(&ranges[0], blocks[1].handle, 99, 7), ACRE_OK);
    assert_int_equal(paged_get(&ranges[0], blocks[1].handle, &found), ACRE_OK);
    assert_true(found.tag == 99 && found.category == 7);
    paged_block large = take(0, 9 * PAGE);
    assert_int_equal(paged_find(&ranges[0], large.offset, &found), ACRE_OK);
    assert_int_equal(found.handle, large.handle);
    give(0, &large);
    for (int i = 0; i < 200; i++)
        if (i % 3 != 0) give(0, &blocks[i]);
    tear_down();
}

static void wrong_requests_are_refused_and_change_nothing(void **state)
{
    (void)state;
    set_up();
    paged_block block;
    const paged_request wrong[] = {
        {.bytes = 0}, {.bytes = 1, .alignment = 3}, {.bytes = 1, .tag = (uint64_t)1 << 48},
        {.bytes = 1, .category = ACRE_GPU_CATEGORIES_MAX}, {.bytes = UINT64_MAX},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(paged_alloc(&ranges[0], &wrong[i], &block, NULL), ACRE_INVALID_ARGUMENT);
    paged_request large = {.bytes = (LARGE_PAGES + 1) * PAGE};
    assert_int_equal(paged_alloc(&ranges[0], &large, &block, NULL), ACRE_TOO_LARGE);
    assert_int_equal(gpu.asked, 0);
    paged_range other;
    paged_range_options none = {.store = &store};
    assert_int_equal(paged_range_init(&other, &none), ACRE_INVALID_ARGUMENT);
    none.small_bytes = PAGE + 1;
    assert_int_equal(paged_range_init(&other, &none), ACRE_INVALID_ARGUMENT);
    none = (paged_range_options){.store = &store, .small_bytes = (uint64_t)1 << 45, .granule_bytes = 256};
    assert_int_equal(paged_range_init(&other, &none), ACRE_TOO_LARGE);
    paged_block a = take(0, 100);
    assert_int_equal(paged_range_destroy(&ranges[0], NULL), ACRE_BUSY);
    assert_int_equal(paged_store_destroy(&store, NULL), ACRE_BUSY);
    give(0, &a);
    tear_down();
}

static void the_heaps_budget_is_kept_and_passed_only_with_leave(void **state)
{
    (void)state;
    set_up();
    atomic_store(&ledger.heaps[0].budget, 10 * PAGE);
    paged_block a = take(0, 7 * PAGE), block;
    uint64_t asked = gpu.asked;
    paged_failure failure;
    paged_request request = {.bytes = 4 * PAGE};
    assert_int_equal(paged_alloc(&ranges[0], &request, &block, &failure), ACRE_OVER_BUDGET);
    assert_true(failure.status == ACRE_OVER_BUDGET && failure.call == NULL);
    assert_int_equal(gpu.asked, asked);
    assert_int_equal(range_stats(0).blocks, 1);
    paged_block spare = take(0, 2 * PAGE);
    give(0, &spare); /* empties that would help, but not enough: they stay where they are */
    asked = gpu.asked;
    request.bytes = 100 * PAGE;
    assert_int_equal(paged_alloc(&ranges[1], &request, &block, &failure), ACRE_OVER_BUDGET);
    assert_int_equal(gpu.asked, asked);
    assert_int_equal(paged_store_trim(&store, 0, NULL), 2 * PAGE);
    request.bytes = 4 * PAGE;
    request.exceed = true;
    assert_int_equal(paged_alloc(&ranges[0], &request, &block, &failure), ACRE_OK);
    assert_int_equal(gpu.pages, 11);
    assert_int_equal(paged_free(&ranges[0], block.handle, NULL), ACRE_OK);
    request.exceed = false; /* its pages are empty now: no new ones are needed */
    assert_int_equal(paged_alloc(&ranges[1], &request, &block, &failure), ACRE_OK);
    assert_int_equal(gpu.pages, 11);
    assert_int_equal(paged_free(&ranges[1], block.handle, NULL), ACRE_OK);
    give(0, &a);
    tear_down();
}

static void a_driver_without_memory_is_said_to_have_none_and_nothing_is_kept(void **state)
{
    (void)state;
    set_up();
    gpu.pages_max = 20;
    paged_block a = take(0, 5 * PAGE), block;
    paged_failure failure;
    paged_request request = {.bytes = 100 * PAGE};
    assert_int_equal(paged_alloc(&ranges[0], &request, &block, &failure), ACRE_NO_MEMORY);
    assert_int_equal(failure.result, 2);
    assert_string_equal(failure.call, "create");
    assert_int_equal(gpu.pages, 5);
    give(0, &a);
    tear_down();
}

/* --- claims: lending, sharing, sleeping ------------------------------------------------------------------------- */

static void pages_are_lent_and_come_back(void **state)
{
    (void)state;
    set_up();
    paged_physical *pages[100];
    paged_block a = take(0, 6 * PAGE);
    give(0, &a);
    assert_int_equal(paged_take(&store, pages, 100, false, NULL), ACRE_OK);
    assert_int_equal(gpu.pages, 100);
    check();
    for (int i = 0; i < 100; i++) assert_int_equal(gpu.mappings[pages[i]->handle], 0);
    assert_int_equal(paged_store_trim(&store, 0, NULL), 0);
    paged_give(&store, pages, 60);
    assert_int_equal(store_stats().loose_bytes, 60 * PAGE);
    gpu.pages_max = 105;
    paged_failure failure;
    paged_physical *more[100];
    assert_int_equal(paged_take(&store, more, 70, false, &failure), ACRE_NO_MEMORY);
    assert_string_equal(failure.call, "create");
    assert_int_equal(store_stats().loose_bytes, 60 * PAGE);
    paged_give(&store, pages + 60, 40);
    tear_down();
}

static void two_blocks_see_the_same_memory_until_the_last_is_freed(void **state)
{
    (void)state;
    for (int first = 0; first < 2; first++) {
        set_up();
        paged_block a = take(0, 10 * PAGE), view;
        paged_request request = {.category = 3};
        assert_int_equal(paged_share(&ranges[0], a.handle, 2 * PAGE, 4 * PAGE, &ranges[1], &request, &view, NULL),
                         ACRE_OK);
        assert_true(view.bytes == 4 * PAGE && view.shared && view.category == 3);
        assert_int_equal(gpu.pages, 10);
        check();
        assert_true(stamped(1, view.offset, view.bytes, (uint32_t)a.handle));
        assert_true(stamp(1, view.offset, view.bytes, 4711));
        assert_true(stamped(0, a.offset + 2 * PAGE, 4 * PAGE, 4711));
        if (first == 0) {
            assert_int_equal(paged_free(&ranges[0], a.handle, NULL), ACRE_OK);
            assert_int_equal(store_stats().used_bytes, 4 * PAGE);
            paged_block b = take(0, 10 * PAGE); /* the same addresses, other memory */
            assert_int_equal(b.offset, a.offset);
            check();
            assert_true(stamped(1, view.offset, view.bytes, 4711));
            give(0, &b);
            assert_int_equal(paged_free(&ranges[1], view.handle, NULL), ACRE_OK);
        } else {
            assert_int_equal(paged_free(&ranges[1], view.handle, NULL), ACRE_OK);
            assert_true(stamped(0, a.offset + 2 * PAGE, 4 * PAGE, 4711));
            assert_int_equal(store_stats().empty_bytes, 0);
            assert_int_equal(paged_free(&ranges[0], a.handle, NULL), ACRE_OK);
        }
        assert_int_equal(store_stats().used_bytes, 0);
        tear_down();
    }
}

static void a_view_never_sees_what_was_empty_at_its_addresses(void **state)
{
    (void)state;
    set_up();
    paged_block before = take(1, 10 * PAGE), a = take(0, 10 * PAGE), view;
    give(1, &before); /* mapped still, where the view will be */
    paged_request request = {0};
    assert_int_equal(paged_share(&ranges[0], a.handle, 0, 10 * PAGE, &ranges[1], &request, &view, NULL), ACRE_OK);
    assert_int_equal(view.offset, before.offset);
    assert_true(stamped(1, view.offset, view.bytes, (uint32_t)a.handle));
    assert_int_equal(store_stats().loose_bytes, 10 * PAGE);
    check();
    assert_int_equal(paged_free(&ranges[1], view.handle, NULL), ACRE_OK);
    give(0, &a);
    tear_down();
}

static void what_cannot_be_shared_is_refused(void **state)
{
    (void)state;
    set_up();
    paged_block small = take(0, PAGE), large = take(0, 10 * PAGE), view, again;
    paged_request request = {0};
    const struct { uint64_t handle, from, bytes; acre_status status; } wrong[] = {
        {small.handle, 0, PAGE, ACRE_INVALID_ARGUMENT},     {large.handle, 100, PAGE, ACRE_INVALID_ARGUMENT},
        {large.handle, 0, 100, ACRE_INVALID_ARGUMENT},      {large.handle, 8 * PAGE, 3 * PAGE, ACRE_INVALID_ARGUMENT},
        {large.handle, 10 * PAGE, PAGE, ACRE_INVALID_ARGUMENT}, {12345, 0, PAGE, ACRE_FOREIGN_POINTER},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(paged_share(&ranges[0], wrong[i].handle, wrong[i].from, wrong[i].bytes, &ranges[1], &request,
                                     &view, NULL), wrong[i].status);
    assert_int_equal(paged_share(&ranges[0], large.handle, 0, PAGE, &ranges[0], &request, &view, NULL), ACRE_OK);
    assert_int_equal(paged_share(&ranges[0], view.handle, 0, PAGE, &ranges[0], &request, &again, NULL),
                     ACRE_INVALID_ARGUMENT);
    assert_int_equal(paged_resize(&ranges[0], view.handle, 2 * PAGE, false, NULL, NULL), ACRE_NOT_SUPPORTED);
    assert_int_equal(paged_resize(&ranges[0], large.handle, 12 * PAGE, false, NULL, NULL), ACRE_OK);
    assert_int_equal(paged_free(&ranges[0], view.handle, NULL), ACRE_OK);
    assert_int_equal(paged_free(&ranges[0], large.handle, NULL), ACRE_OK);
    give(0, &small);
    tear_down();
}

typedef struct luggage { uint32_t saved[256]; uint32_t calls, refuse_at; } luggage;

static bool save_contents(void *context, paged_range *range, const paged_block *block)
{
    luggage *l = context;
    int number = *(const int *)range->options.owner;
    if (++l->calls == l->refuse_at) return false;
    l->saved[block->tag] = *memory_at(number, block->offset);
    return stamp(number, block->offset, block->bytes, 0xDEAD);
}
static bool restore_contents(void *context, paged_range *range, const paged_block *block)
{
    luggage *l = context;
    if (++l->calls == l->refuse_at) return false;
    return stamp(*(const int *)range->options.owner, block->offset, block->bytes, l->saved[block->tag]);
}

static void a_category_sleeps_without_memory_and_wakes_at_its_addresses(void **state)
{
    (void)state;
    set_up();
    paged_block blocks[12];
    for (uint32_t i = 0; i < 12; i++) {
        paged_request request = {.bytes = i < 8 ? 3 * PAGE + 512 : 12 * PAGE, .tag = i, .category = i % 2};
        assert_int_equal(paged_alloc(&ranges[0], &request, &blocks[i], NULL), ACRE_OK);
        assert_true(stamp(0, blocks[i].offset, blocks[i].bytes, 100 + i));
    }
    uint64_t before = gpu.pages;
    luggage bag = {.refuse_at = 0};
    paged_sleep_result result;
    assert_int_equal(paged_sleep(&ranges[0], 1u << 1, save_contents, &bag, &result, NULL), ACRE_OK);
    assert_true(result.blocks == 6 && result.skipped_blocks == 0);
    assert_int_equal(result.bytes, 4 * (3 * PAGE + 512) + 2 * 12 * PAGE);
    assert_true(result.freed_bytes >= (4 * 2 + 2 * 12) * PAGE);
    assert_int_equal(gpu.pages, before - result.freed_bytes / PAGE);
    assert_int_equal(range_stats(0).asleep_bytes, result.bytes);
    check();
    paged_block other;
    assert_int_equal(paged_get(&ranges[0], blocks[1].handle, &other), ACRE_OK);
    assert_true(other.asleep && other.offset == blocks[1].offset);
    assert_int_equal(paged_resize(&ranges[0], blocks[1].handle, PAGE, false, NULL, NULL), ACRE_NOT_SUPPORTED);
    other = take(0, 5 * PAGE); /* not at the sleepers' addresses */
    for (uint32_t i = 0; i < 12; i++)
        assert_true(other.offset >= blocks[i].offset + blocks[i].bytes ||
                    other.offset + other.bytes <= blocks[i].offset);
    for (uint32_t i = 0; i < 12; i += 2) assert_true(stamped(0, blocks[i].offset, blocks[i].bytes, 100 + i));
    assert_int_equal(paged_free(&ranges[0], blocks[3].handle, NULL), ACRE_OK); /* in its sleep */

    bag.calls = 0;
    bag.refuse_at = 2;
    assert_int_equal(paged_wake(&ranges[0], ~(uint64_t)0, false, restore_contents, &bag, &result, NULL), ACRE_OK);
    assert_true(result.blocks == 4 && result.skipped_blocks == 1);
    bag.refuse_at = 0;
    gpu.pages_max = gpu.pages; /* its pages went to those who woke after it */
    assert_int_equal(paged_wake(&ranges[0], 1u << 1, false, restore_contents, &bag, &result, NULL), ACRE_NO_MEMORY);
    assert_true(result.blocks == 0 && range_stats(0).asleep_bytes != 0);
    check();
    gpu.pages_max = 0;
    assert_int_equal(paged_wake(&ranges[0], 1u << 1, false, restore_contents, &bag, &result, NULL), ACRE_OK);
    assert_int_equal(result.blocks, 1);
    check();
    for (uint32_t i = 0; i < 12; i++) {
        if (i == 3) continue;
        assert_true(stamped(0, blocks[i].offset, blocks[i].bytes, 100 + i));
        assert_int_equal(paged_free(&ranges[0], blocks[i].handle, NULL), ACRE_OK);
    }
    give(0, &other);
    tear_down();
}

static bool count_block(void *context, paged_range *range, const paged_block *block)
{
    (void)range;
    uint64_t *sums = context;
    assert_true(block->offset >= sums[1]);
    sums[0]++;
    sums[1] = block->offset + block->room;
    return sums[0] < sums[2];
}

static void the_walk_goes_by_offset_and_stops_when_told(void **state)
{
    (void)state;
    set_up();
    paged_block blocks[6];
    for (int i = 0; i < 6; i++) blocks[i] = take(0, i < 4 ? 1000 : 9 * PAGE);
    uint64_t sums[3] = {0, 0, 100};
    paged_walk(&ranges[0], count_block, sums);
    assert_int_equal(sums[0], 6);
    uint64_t few[3] = {0, 0, 3};
    paged_walk(&ranges[0], count_block, few);
    assert_int_equal(few[0], 3);
    for (int i = 0; i < 6; i++) give(0, &blocks[i]);
    tear_down();
}

/* --- claims: failures ------------------------------------------------------------------------------------------- */

typedef struct story { acre_status worst; paged_failure failure; } story;

static void note(story *s, acre_status status, const paged_failure *failure)
{
    if (status == ACRE_OK) return;
    assert_true(failure->status == status);
    if (s->worst != ACRE_OK) return;
    s->worst = status;
    s->failure = *failure;
}

/* Everything that calls the driver, once. Goes on after a failure, as a program would, and frees what it got. */
static story tell_story(void)
{
    story s = {ACRE_OK, {0}};
    paged_failure f;
    paged_block blocks[8] = {{0}}, view = {0}, now;
    const uint64_t sizes[8] = {600, 5 * PAGE, 300, 20 * PAGE, 3 * PAGE, 9 * PAGE, 70 * PAGE, PAGE};
    bool have[8], viewed;
    for (int i = 0; i < 8; i++) {
        paged_request request = {.bytes = sizes[i], .category = (uint32_t)(i & 1)};
        if (i == 6) request.room_bytes = sizes[i]; /* no more than that; it takes two batches */
        uint64_t pages = gpu.pages, live = range_stats(i & 1).live_bytes;
        acre_status status = paged_alloc(&ranges[i & 1], &request, &blocks[i], &f);
        have[i] = status == ACRE_OK;
        note(&s, status, &f);
        if (!have[i]) assert_true(range_stats(i & 1).live_bytes == live);
        if (!have[i] && gpu.failures == 1) assert_int_equal(gpu.pages, pages);
        if (have[i]) assert_true(stamp(i & 1, blocks[i].offset, blocks[i].bytes, 100 + (uint32_t)i));
        check();
    }
    if (have[3]) {
        acre_status status = paged_resize(&ranges[1], blocks[3].handle, 30 * PAGE, false, &now, &f);
        assert_int_equal(now.bytes, status == ACRE_OK ? 30 * PAGE : 20 * PAGE);
        note(&s, status, &f);
        paged_request request = {.bytes = 0};
        status = paged_share(&ranges[1], blocks[3].handle, PAGE, 8 * PAGE, &ranges[0], &request, &view, &f);
        viewed = status == ACRE_OK;
        note(&s, status, &f);
    } else {
        viewed = false;
    }
    check();
    if (have[1]) note(&s, paged_free(&ranges[1], blocks[1].handle, &f), &f);
    have[1] = false;
    if (have[4]) note(&s, paged_resize(&ranges[0], blocks[4].handle, PAGE, false, &now, &f), &f);
    check();
    paged_store_trim(&store, PAGE, &f);
    note(&s, f.status, &f);
    check();
    if (have[4]) note(&s, paged_resize(&ranges[0], blocks[4].handle, 3 * PAGE, false, &now, &f), &f);
    check();
    note(&s, paged_sleep(&ranges[0], 1, NULL, NULL, NULL, &f), &f);
    check();
    note(&s, paged_wake(&ranges[0], 1, false, NULL, NULL, NULL, &f), &f);
    check();
    paged_physical *lent[3];
    acre_status status = paged_take(&store, lent, 3, false, &f);
    note(&s, status, &f);
    if (status == ACRE_OK) paged_give(&store, lent, 3);
    if (viewed && have[3]) assert_true(stamped(0, view.offset, view.bytes, 103));
    for (int i = 0; i < 8; i++) {
        if (!have[i]) continue;
        if (i & 1) assert_true(stamped(1, blocks[i].offset, blocks[i].bytes, 100 + (uint32_t)i));
        note(&s, paged_free(&ranges[i & 1], blocks[i].handle, &f), &f);
    }
    if (viewed) note(&s, paged_free(&ranges[0], view.handle, &f), &f);
    check();
    paged_store_trim(&store, 0, &f);
    note(&s, f.status, &f);
    return s;
}

static void a_failure_of_any_driver_call_is_told_and_leaks_nothing(void **state)
{
    (void)state;
    set_up();
    assert_int_equal(tell_story().worst, ACRE_OK);
    uint64_t things = gpu.asked;
    tear_down();
    assert_true(things > 500);
    for (uint64_t lasts = 1; lasts <= 1000000; lasts = lasts == 1 ? 3 : lasts == 3 ? 1000000 : 1000001) {
        for (uint64_t n = 1; n <= things; n++) {
            set_up();
            fail_from(n, lasts);
            story s = tell_story();
            assert_true(gpu.failures != 0);
            /* The one thing that may fail unseen: undoing, after a failure that was told. */
            assert_true(s.worst != ACRE_OK);
            assert_non_null(s.failure.call);
            assert_int_equal(s.failure.result, 701);
            tear_down();
        }
    }
}

static void missing_bookkeeping_memory_is_told_and_leaks_nothing(void **state)
{
    (void)state;
    for (uint64_t n = 1; n < 40; n++) {
        fake_os_install();
        set_up();
        fake_os_fail(FAKE_ANY, n, true);
        paged_block blocks[64];
        uint32_t count = 0;
        paged_failure failure;
        for (; count < 64; count++) {
            paged_request request = {.bytes = 200 + 100 * count, .room_bytes = count % 8 == 0 ? 2 * PAGE : 0};
            acre_status status = paged_alloc(&ranges[count % 2], &request, &blocks[count], &failure);
            if (status == ACRE_OK) continue;
            assert_int_equal(status, ACRE_NO_MEMORY);
            assert_null(failure.call);
            break;
        }
        fake_os_fail(FAKE_ANY, 0, false);
        check();
        for (uint32_t i = 0; i < count; i++)
            assert_int_equal(paged_free(&ranges[i % 2], blocks[i].handle, NULL), ACRE_OK);
        tear_down();
        fake_os_remove();
    }
}

/* --- claims: random operations ---------------------------------------------------------------------------------- */

enum { LIVE_MAX = 120 };
typedef struct model_block { paged_block block; int range; uint32_t id; bool asleep; } model_block;
static model_block model[LIVE_MAX];
static uint32_t model_count;

/* Against every other block of the model. */
static void assert_apart(const paged_block *block, int range, uint32_t except)
{
    for (uint32_t i = 0; i < model_count; i++) {
        if (i == except || model[i].range != range) continue;
        const paged_block *other = &model[i].block;
        bool apart = block->offset + block->room <= other->offset || other->offset + other->room <= block->offset;
        if (!apart) fail_msg("blocks overlap");
    }
}

static void random_alloc(uint64_t *random, uint32_t id)
{
    uint64_t r = probe_random(random);
    int range = (int)(r >> 60 & 1);
    uint64_t kind = r % 16, bytes = 1 + (r >> 8) % (kind < 10 ? 3000 : kind < 14 ? 6 * PAGE : 24 * PAGE);
    paged_request request = {.bytes = bytes, .category = (uint32_t)(r >> 40 & 3)};
    if (kind % 3 == 0) request.alignment = 1024;
    model_block *m = &model[model_count];
    if (model_count == LIVE_MAX) return;
    paged_failure failure;
    acre_status status = paged_alloc(&ranges[range], &request, &m->block, &failure);
    if (status != ACRE_OK) return;
    assert_true(m->block.bytes >= bytes && m->block.room >= m->block.bytes && m->block.offset % GRANULE == 0);
    if (request.alignment != 0) assert_int_equal(m->block.offset % 1024, 0);
    assert_apart(&m->block, range, UINT32_MAX);
    assert_true(stamp(range, m->block.offset, m->block.bytes, id));
    m->range = range;
    m->id = id;
    m->asleep = false;
    model_count++;
}

static void random_free(uint64_t *random)
{
    if (model_count == 0) return;
    uint32_t at = (uint32_t)(probe_random(random) % model_count);
    model_block *m = &model[at];
    if (!m->asleep) assert_true(stamped(m->range, m->block.offset, m->block.bytes, m->id));
    assert_int_equal(paged_free(&ranges[m->range], m->block.handle, NULL), ACRE_OK);
    assert_int_equal(paged_free(&ranges[m->range], m->block.handle, NULL), ACRE_DOUBLE_FREE);
    *m = model[--model_count];
}

static void random_resize(uint64_t *random)
{
    if (model_count == 0) return;
    uint64_t r = probe_random(random);
    uint32_t at = (uint32_t)(r % model_count);
    model_block *m = &model[at];
    uint64_t bytes = 1 + (r >> 20) % (2 * m->block.bytes), old = m->block.bytes;
    paged_block now;
    acre_status status = paged_resize(&ranges[m->range], m->block.handle, bytes, false, &now, NULL);
    if (m->asleep) {
        assert_int_equal(status, ACRE_NOT_SUPPORTED);
        return;
    }
    assert_true(now.offset == m->block.offset && now.handle == m->block.handle);
    if (status != ACRE_OK) assert_int_equal(now.bytes, old);
    else assert_true(now.bytes >= bytes);
    assert_apart(&now, m->range, at);
    uint64_t kept = now.bytes < old ? now.bytes : old;
    assert_true(stamped(m->range, now.offset, kept, m->id));
    assert_true(stamp(m->range, now.offset, now.bytes, m->id));
    m->block = now;
}

/* Asleep or not is what the range says; contents of those that woke are new. */
static void random_nap(uint64_t *random)
{
    uint64_t r = probe_random(random);
    int range = (int)(r & 1);
    uint64_t mask = (uint64_t)1 << (r >> 8 & 3);
    paged_sleep_result result;
    if (r & 2) paged_sleep(&ranges[range], mask, NULL, NULL, &result, NULL);
    else paged_wake(&ranges[range], mask, false, NULL, NULL, &result, NULL);
    for (uint32_t i = 0; i < model_count; i++) {
        model_block *m = &model[i];
        paged_block now;
        if (m->range != range) continue;
        assert_int_equal(paged_get(&ranges[range], m->block.handle, &now), ACRE_OK);
        if (now.asleep != m->asleep) assert_true((mask >> now.category & 1) != 0 && now.asleep == ((r & 2) != 0));
        if (m->asleep && !now.asleep) assert_true(stamp(range, now.offset, now.bytes, m->id));
        m->asleep = now.asleep;
    }
}

static void random_operations_agree_with_a_plain_model(void **state)
{
    (void)state;
    enum { OPERATIONS = 30000 };
    fake_os_install();
    for (uint64_t seed = 1; seed <= 4; seed++) {
        uint64_t random = seed * 0x9E3779B97F4A7C15u;
        set_up_with((empty_policy){50 * PAGE, 50, 400});
        if (seed > 2) gpu.pages_max = 150;
        model_count = 0;
        for (uint32_t i = 1; i <= OPERATIONS; i++) {
            uint64_t r = probe_random(&random) >> 8;
            if (seed % 2 == 0) fail_from(r % 8 == 0 ? 1 + r / 8 % 12 : 0, 1 + r / 128 % 3);
            if (r % 64 < 26) random_alloc(&random, i);
            else if (r % 64 < 48) random_free(&random);
            else if (r % 64 < 58) random_resize(&random);
            else if (r % 64 < 59) random_nap(&random);
            else if (r % 64 < 60) paged_store_trim(&store, (r >> 6) % 30 * PAGE, NULL);
            else paged_store_tick(&store, 0, NULL);
            if (i % 16 == 0) fake_os_advance_ms(20);
            if (i % 64 == 0) check();
        }
        fail_from(0, 0);
        for (uint32_t i = 0; i < model_count; i++)
            if (!model[i].asleep)
                assert_true(stamped(model[i].range, model[i].block.offset, model[i].block.bytes, model[i].id));
        while (model_count != 0) random_free(&random);
        tear_down();
    }
    fake_os_remove();
}

/* --- claims: threads -------------------------------------------------------------------------------------------- */

typedef struct guest {
    pthread_t thread;
    paged_block block;
    acre_status status;
    atomic_bool done;
    uint64_t bytes;
} guest;

static void *allocate(void *context)
{
    guest *g = context;
    paged_request request = {.bytes = g->bytes};
    g->status = paged_alloc(&ranges[0], &request, &g->block, NULL);
    atomic_store(&g->done, true);
    return NULL;
}

static void a_hit_goes_on_while_the_driver_works_and_who_needs_its_page_waits(void **state)
{
    (void)state;
    set_up();
    paged_block warm = take(1, 2 * PAGE);
    give(1, &warm);
    atomic_store(&gpu.hold_maps, true);
    /* Half of the third page is left behind the first block: there the second one goes. */
    guest slow = {.bytes = 2 * PAGE + PAGE / 2}, waiter = {.bytes = PAGE / 4};
    assert_int_equal(pthread_create(&slow.thread, NULL, allocate, &slow), 0);
    while (atomic_load(&gpu.held) == 0) os_yield(); /* it is in the driver now */
    assert_int_equal(pthread_create(&waiter.thread, NULL, allocate, &waiter), 0);
    while (store_stats().waits == 0) os_yield();
    paged_block taken = {.handle = 0};
    paged_request request = {.bytes = 300};
    paged_find(&ranges[0], 0, &taken);
    assert_true(taken.busy);
    assert_int_equal(paged_free(&ranges[0], taken.handle, NULL), ACRE_BUSY);
    assert_false(atomic_load(&waiter.done));
    check_quiet();
    atomic_store(&gpu.hold_maps, false);
    pthread_join(slow.thread, NULL);
    pthread_join(waiter.thread, NULL);
    assert_int_equal(slow.status, ACRE_OK);
    assert_int_equal(waiter.status, ACRE_OK);
    assert_int_equal(waiter.block.offset, slow.block.bytes);
    assert_int_equal(gpu.pages, 3);
    assert_true(stamp(0, slow.block.offset, slow.block.bytes, 1));
    assert_true(stamp(0, waiter.block.offset, waiter.block.bytes, 2));
    assert_true(stamped(0, slow.block.offset, slow.block.bytes, 1));
    assert_int_equal(paged_free(&ranges[0], slow.block.handle, NULL), ACRE_OK);
    assert_int_equal(paged_free(&ranges[0], waiter.block.handle, NULL), ACRE_OK);

    /* While one is in the driver, another that has its pages is served. */
    paged_block cold = take(0, PAGE);
    assert_int_equal(paged_store_trim(&store, 0, NULL), 2 * PAGE);
    warm = take(1, 2 * PAGE);
    give(1, &warm);
    paged_block pin = take(1, 2 * PAGE), hit;
    atomic_store(&gpu.hold_maps, true);
    slow = (guest){.bytes = 4 * PAGE};
    assert_int_equal(pthread_create(&slow.thread, NULL, allocate, &slow), 0);
    while (atomic_load(&gpu.held) == 0) os_yield();
    assert_int_equal(paged_resize(&ranges[1], pin.handle, PAGE, false, NULL, NULL), ACRE_OK);
    assert_int_equal(paged_alloc(&ranges[1], &request, &hit, NULL), ACRE_OK);
    assert_false(atomic_load(&slow.done));
    atomic_store(&gpu.hold_maps, false);
    pthread_join(slow.thread, NULL);
    assert_int_equal(slow.status, ACRE_OK);
    assert_int_equal(paged_free(&ranges[0], slow.block.handle, NULL), ACRE_OK);
    assert_int_equal(paged_free(&ranges[1], hit.handle, NULL), ACRE_OK);
    assert_int_equal(paged_free(&ranges[1], pin.handle, NULL), ACRE_OK);
    give(0, &cold);
    tear_down();
}

typedef struct grower { pthread_t thread; uint64_t handle; acre_status status; } grower;

static void *grow(void *context)
{
    grower *g = context;
    g->status = paged_resize(&ranges[0], g->handle, 2 * PAGE, false, NULL, NULL);
    return NULL;
}

/* It fills the hole behind it to the last granule, so undoing that takes a node; meanwhile others take all they get. */
static void a_growth_that_fails_is_undone_though_nodes_ran_out_meanwhile(void **state)
{
    (void)state;
    fake_os_install();
    set_up();
    paged_block a = take(0, PAGE), b = take(0, PAGE), c = take(0, PAGE), room[6], now;
    give(0, &b);
    paged_store_trim(&store, 0, NULL);
    for (int i = 0; i < 6; i++) room[i] = take(0, 7 * PAGE);
    for (int i = 5; i >= 0; i--) give(0, &room[i]); /* the oldest empty is far behind */
    atomic_store(&gpu.hold_maps, true);
    grower g = {.handle = a.handle};
    assert_int_equal(pthread_create(&g.thread, NULL, grow, &g), 0);
    while (atomic_load(&gpu.held) == 0) os_yield();
    static paged_block small[1024];
    uint32_t count = 0;
    fake_os_fail(FAKE_ANY, 1, true);
    for (;; count++) {
        paged_request request = {.bytes = GRANULE};
        acre_status status = paged_alloc(&ranges[0], &request, &small[count], NULL);
        if (status == ACRE_OK) continue;
        assert_int_equal(status, ACRE_NO_MEMORY);
        break;
    }
    assert_in_range(count, 100, 35 * PER_PAGE);
    fail_from(1, 1);
    atomic_store(&gpu.hold_maps, false);
    pthread_join(g.thread, NULL);
    assert_int_equal(g.status, ACRE_SYSTEM);
    fake_os_fail(FAKE_ANY, 0, false);
    assert_int_equal(paged_get(&ranges[0], a.handle, &now), ACRE_OK);
    assert_true(now.bytes == PAGE && now.room == PAGE && !now.busy);
    check();
    for (uint32_t i = 0; i < count; i++) assert_int_equal(paged_free(&ranges[0], small[i].handle, NULL), ACRE_OK);
    give(0, &a);
    give(0, &c);
    tear_down();
    fake_os_remove();
}

static void *trim_all(void *context)
{
    paged_store_trim(&store, 0, context);
    return NULL;
}

static void a_block_comes_and_goes_while_its_pages_are_being_given_back(void **state)
{
    (void)state;
    for (int unmap_fails = 0; unmap_fails < 2; unmap_fails++) {
        set_up();
        paged_block a = take(0, 2 * PAGE), block;
        give(0, &a);
        atomic_store(&gpu.hold_unmaps, true);
        paged_failure trimmed, failure;
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, trim_all, &trimmed), 0);
        while (atomic_load(&gpu.held) == 0) os_yield();
        gpu.pages_max = 2;
        paged_request request = {.bytes = 4 * PAGE}; /* over the two that are on their way out, and two more */
        assert_int_equal(paged_alloc(&ranges[0], &request, &block, &failure), ACRE_NO_MEMORY);
        assert_string_equal(failure.call, "create");
        check_quiet();
        if (unmap_fails) fail_from(1, 1);
        atomic_store(&gpu.hold_unmaps, false);
        pthread_join(thread, NULL);
        assert_int_equal(trimmed.status, unmap_fails ? ACRE_SYSTEM : ACRE_OK);
        assert_int_equal(gpu.pages, unmap_fails ? 2 : 0);
        check();
        gpu.pages_max = 0;
        block = take(0, 4 * PAGE);
        give(0, &block);
        tear_down();
    }
}

enum { WORKER_BLOCKS = 24, WORKER_OPERATIONS = 12000 };

static void *work(void *context)
{
    uint64_t random = (uintptr_t)context;
    struct { paged_block block; int range; uint32_t id; } mine[WORKER_BLOCKS];
    memset(mine, 0, sizeof mine);
    const char *wrong = NULL;
    for (uint32_t i = 1; i <= WORKER_OPERATIONS && wrong == NULL; i++) {
        uint64_t r = probe_random(&random) >> 8;
        uint32_t at = (uint32_t)(r % WORKER_BLOCKS);
        int range = mine[at].range;
        if (r >> 8 & 1 && i % 50 == 0) paged_store_trim(&store, (r >> 16) % 8 * PAGE, NULL);
        if (i % 500 == 0) wrong = paged_store_check(&store);
        if (mine[at].id == 0) {
            uint64_t bytes = 1 + (r >> 12) % ((r >> 9 & 7) == 0 ? 12 * PAGE : 3 * PAGE);
            paged_request request = {.bytes = bytes, .category = (uint32_t)(uintptr_t)context};
            mine[at].range = range = (int)(r >> 50 & 1);
            acre_status status = paged_alloc(&ranges[range], &request, &mine[at].block, NULL);
            if (status != ACRE_OK) continue;
            mine[at].id = i | (uint32_t)(uintptr_t)context << 24;
            if (!stamp(range, mine[at].block.offset, mine[at].block.bytes, mine[at].id)) wrong = "no memory";
            continue;
        }
        if (!stamped(range, mine[at].block.offset, mine[at].block.bytes, mine[at].id)) wrong = "contents were lost";
        if ((r >> 10 & 3) == 0) {
            paged_block now;
            acre_status status = paged_resize(&ranges[range], mine[at].block.handle, 1 + (r >> 14) % (4 * PAGE), false,
                                              &now, NULL);
            if (status == ACRE_OK && !stamp(range, now.offset, now.bytes, mine[at].id)) wrong = "no memory to grow";
            mine[at].block = now;
        } else {
            if (paged_free(&ranges[range], mine[at].block.handle, NULL) != ACRE_OK) wrong = "free failed";
            mine[at].id = 0;
        }
    }
    for (uint32_t at = 0; at < WORKER_BLOCKS && wrong == NULL; at++)
        if (mine[at].id != 0 && paged_free(&ranges[mine[at].range], mine[at].block.handle, NULL) != ACRE_OK)
            wrong = "free failed";
    return (void *)(uintptr_t)wrong;
}

static void threads_never_get_each_others_memory(void **state)
{
    (void)state;
    for (int scarce = 0; scarce < 2; scarce++) {
        set_up();
        gpu.pages_max = scarce ? 40 : 0;
        pthread_t threads[2];
        for (uintptr_t i = 0; i < 2; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, work, (void *)(i + 1)), 0);
        for (int i = 0; i < 2; i++) {
            void *wrong = NULL;
            pthread_join(threads[i], &wrong);
            if (wrong != NULL) fail_msg("%s", (const char *)wrong);
        }
        assert_int_equal(range_stats(0).blocks + range_stats(1).blocks, 0);
        tear_down();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_mapped_under_blocks_only),
        cmocka_unit_test(a_hit_makes_no_driver_call),
        cmocka_unit_test(pages_in_a_hole_between_live_blocks_go_back),
        cmocka_unit_test(an_empty_page_moves_before_one_is_created),
        cmocka_unit_test(what_is_empty_long_goes_and_what_is_not_stays),
        cmocka_unit_test(a_large_block_doubles_where_it_lies),
        cmocka_unit_test(room_is_what_the_caller_asks_for_and_gives_way_when_addresses_run_short),
        cmocka_unit_test(a_small_block_grows_into_the_hole_behind_it_and_no_further),
        cmocka_unit_test(blocks_are_found_by_offset_and_stale_handles_are_told),
        cmocka_unit_test(wrong_requests_are_refused_and_change_nothing),
        cmocka_unit_test(the_heaps_budget_is_kept_and_passed_only_with_leave),
        cmocka_unit_test(a_driver_without_memory_is_said_to_have_none_and_nothing_is_kept),
        cmocka_unit_test(pages_are_lent_and_come_back),
        cmocka_unit_test(two_blocks_see_the_same_memory_until_the_last_is_freed),
        cmocka_unit_test(a_view_never_sees_what_was_empty_at_its_addresses),
        cmocka_unit_test(what_cannot_be_shared_is_refused),
        cmocka_unit_test(a_category_sleeps_without_memory_and_wakes_at_its_addresses),
        cmocka_unit_test(the_walk_goes_by_offset_and_stops_when_told),
        cmocka_unit_test(a_failure_of_any_driver_call_is_told_and_leaks_nothing),
        cmocka_unit_test(missing_bookkeeping_memory_is_told_and_leaks_nothing),
        cmocka_unit_test(random_operations_agree_with_a_plain_model),
        cmocka_unit_test(a_hit_goes_on_while_the_driver_works_and_who_needs_its_page_waits),
        cmocka_unit_test(a_growth_that_fails_is_undone_though_nodes_ran_out_meanwhile),
        cmocka_unit_test(a_block_comes_and_goes_while_its_pages_are_being_given_back),
        cmocka_unit_test(threads_never_get_each_others_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
