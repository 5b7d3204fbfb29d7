/* test_vk_faults: a script of everything that <acre/vulkan.h> does with a driver, and each call to the driver fails in
 * turn: the first, the second, … until a run meets no failure; alone and with all that follow; with several results.
 * Then the same with each call to the operating system.
 *
 * What must hold each time: a call that fails says so with the status that belongs to the driver's result and with that
 * result; it has changed nothing; what lives keeps its contents; nothing leaks, nothing dangles, which the fake's
 * checker sees; every structure is in order; and afterwards the allocator works. And none of these calls is made under
 * a lock that a hit needs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake_os.h"
#include "gpu/vk_internal.h"
#include "page/arena.h"
#include "vk_world.h"

enum { SLOTS = 48, RUNS_MAX = 2000 };

typedef enum fault_mode { DRIVER_FAULTS, OS_FAULTS } fault_mode;

static struct {
    fault_mode mode;
    VkResult result; /* of the driver's calls that fail */
    uint64_t failures_before;
    uint64_t refused;
    const char *last;
} f;

static struct slot {
    acre_vk_allocation a;
    VkBuffer buffer;
    VkImage image;
    uint8_t stamp; /* of mapped blocks; 0: none */
    bool live, pending;
} slot[SLOTS];
static int slots;

static uint64_t failures(void) { return f.mode == OS_FAULTS ? fake_os_failures() : fake_vk_failures(w.gpu); }

static acre_status status_of(VkResult result)
{
    switch ((int)result) {
    case VK_ERROR_OUT_OF_DEVICE_MEMORY: case VK_ERROR_OUT_OF_HOST_MEMORY: case VK_ERROR_TOO_MANY_OBJECTS:
        return ACRE_NO_MEMORY;
    default: return ACRE_SYSTEM;
    }
}

/* The call went well, or it failed because something was made to fail, and says what. */
static bool did(acre_status status, const char *call)
{
    if (status == ACRE_OK) return true;
    f.refused++;
    f.last = call;
    if (failures() == f.failures_before) fail_msg("%s: %s, and nothing had failed", call, acre_status_name(status));
    acre_status wanted = f.mode == OS_FAULTS ? ACRE_NO_MEMORY : status_of(f.result);
    if (status != wanted)
        fail_msg("%s: %s, not %s, after %s gave %d", call, acre_status_name(status), acre_status_name(wanted),
                 fake_vk_call_name(fake_vk_last_failed(w.gpu)), (int)f.result);
    if (f.mode == DRIVER_FAULTS) assert_int_equal(acre_vk_last_result(), f.result);
    world_check();
    return false;
}
#define DID(call) (f.failures_before = failures(), did((call), #call))

static void keep(acre_vk_allocation a, VkBuffer buffer, VkImage image)
{
    assert_true(slots < SLOTS);
    struct slot *s = &slot[slots++];
    *s = (struct slot){.a = a, .buffer = buffer, .image = image, .live = true};
    if (a.mapped == NULL) return;
    s->stamp = (uint8_t)slots;
    memset(a.mapped, s->stamp, (size_t)a.size);
}

static void intact(const struct slot *s)
{
    const uint8_t *bytes = s->a.mapped;
    if (s->stamp == 0) return;
    for (VkDeviceSize i = 0; i < s->a.size; i += 61) assert_int_equal(bytes[i], s->stamp);
    assert_int_equal(bytes[s->a.size - 1], s->stamp);
}

static void end_slot(struct slot *s)
{
    if (!s->live) return;
    intact(s);
    s->live = false;
    if (s->image)
        OK(acre_vk_destroy_image(w.vk, s->image, s->a.handle));
    else
        OK(acre_vk_destroy_buffer(w.vk, s->buffer, s->a.handle));
}

static void alloc(VkDeviceSize size, const acre_vk_request *request)
{
    acre_vk_allocation a;
    VkMemoryRequirements need = needs(size, 256, T_ALL);
    if (DID(acre_vk_alloc(w.vk, &need, request, &a))) keep(a, VK_NULL_HANDLE, VK_NULL_HANDLE);
}

static void make_buffer(VkDeviceSize size, const acre_vk_request *request)
{
    acre_vk_allocation a;
    VkBuffer buffer;
    VkBufferCreateInfo info = fake_vk_buffer_info(size, 0);
    uint64_t resources = fake_vk_live_resources(w.gpu), memories = fake_vk_live_memories(w.gpu);
    if (DID(acre_vk_create_buffer(w.vk, &info, request, &buffer, &a)))
        keep(a, buffer, VK_NULL_HANDLE);
    else {
        assert_int_equal(fake_vk_live_resources(w.gpu), resources); /* undone */
        if (request && (request->flags & ACRE_VK_DEDICATED)) assert_int_equal(fake_vk_live_memories(w.gpu), memories);
    }
}

static void make_image(uint32_t side, const acre_vk_request *request)
{
    acre_vk_allocation a;
    VkImage image;
    VkImageCreateInfo info = fake_vk_image_info(side, side, 0, 0);
    uint64_t resources = fake_vk_live_resources(w.gpu);
    if (DID(acre_vk_create_image(w.vk, &info, request, &image, &a)))
        keep(a, VK_NULL_HANDLE, image);
    else
        assert_int_equal(fake_vk_live_resources(w.gpu), resources);
}

/* --- the script --------------------------------------------------------------------------------------------------- */

static void script_blocks(void)
{
    for (int usage = 0; usage < ACRE_VK_LAZY; usage++) {
        acre_vk_request request = {.usage = (acre_vk_usage)usage, .name = "a name", .tag = 7};
        alloc(5000, &request);
        request.flags = ACRE_VK_MAPPED;
        alloc(3000, &request);
    }
    acre_vk_request dedicated = {.usage = ACRE_VK_UPLOAD, .flags = ACRE_VK_DEDICATED | ACRE_VK_MAPPED};
    alloc(100000, &dedicated);
    alloc(300 * MIB, NULL); /* larger than a page */
    make_buffer(20000, NULL);
    make_buffer(20000, &dedicated);
    make_image(200, NULL);
    acre_vk_request own = {.flags = ACRE_VK_DEDICATED};
    make_image(100, &own);
    acre_vk_allocation many[4];
    VkMemoryRequirements need = needs(2 * MIB, 4096, T_ALL);
    uint64_t blocks = all_stats().total.blocks;
    if (DID(acre_vk_alloc_many(w.vk, &need, NULL, 4, many)))
        for (int i = 0; i < 4; i++) keep(many[i], VK_NULL_HANDLE, VK_NULL_HANDLE);
    else
        assert_int_equal(all_stats().total.blocks, blocks);
    /* Holes, and blocks that come back. */
    for (int i = 0; i < slots; i += 3) end_slot(&slot[i]);
    alloc(5000, NULL);
    alloc(70000, NULL);
}

static void script_maps(void)
{
    acre_vk_request shadow = {.usage = ACRE_VK_READBACK, .type_bits = 1u << T_SHADOW, .flags = ACRE_VK_DEDICATED};
    acre_vk_allocation a;
    VkMemoryRequirements need = needs(9000, 256, T_ALL);
    if (!DID(acre_vk_alloc(w.vk, &need, &shadow, &a))) return;
    void *p = NULL;
    if (DID(acre_vk_map(w.vk, a.handle, &p))) {
        memset(p, 3, 100);
        (void)DID(acre_vk_flush(w.vk, a.handle, 10, 80));
        (void)DID(acre_vk_invalidate(w.vk, a.handle, 10, 80));
        acre_vk_range ranges[2] = {{a.handle, 0, 64}, {a.handle, 640, 1000}};
        (void)DID(acre_vk_flush_ranges(w.vk, ranges, 2));
        (void)DID(acre_vk_invalidate_ranges(w.vk, ranges, 2));
        OK(acre_vk_unmap(w.vk, a.handle));
    }
    acre_vk_block_info info;
    uint8_t in[500], out[500] = {0};
    memset(in, 9, sizeof in);
    if (DID(acre_vk_copy_to(w.vk, a.handle, 700, in, sizeof in)) &&
        DID(acre_vk_copy_from(w.vk, a.handle, 700, out, sizeof out)))
        assert_memory_equal(in, out, sizeof in);
    OK(acre_vk_get_info(w.vk, a.handle, &info));
    assert_int_equal(info.map_count, 0);
    OK(acre_vk_free(w.vk, a.handle));
}

static void script_external(void)
{
    static char page[2 * 4096] __attribute__((aligned(4096)));
    acre_vk_allocation a, b;
    acre_vk_request export = {.usage = ACRE_VK_UPLOAD, .flags = ACRE_VK_EXPORT | ACRE_VK_MAPPED};
    VkBuffer buffer;
    VkBufferCreateInfo info = fake_vk_buffer_info(30000, 0);
    if (DID(acre_vk_create_buffer(w.vk, &info, &export, &buffer, &a))) {
        acre_vk_block_info block;
        OK(acre_vk_get_info(w.vk, a.handle, &block));
        int fd = -1;
        if (DID(acre_vk_export_fd(w.vk, a.handle, &fd))) {
            acre_vk_request mapped = {.flags = ACRE_VK_MAPPED};
            uint64_t memories = fake_vk_live_memories(w.gpu);
            uint64_t imports = fake_vk_count(w.gpu, FAKE_VK_AllocateMemory);
            if (DID(acre_vk_import_fd(w.vk, fd, block.page_bytes, a.memory_type, &mapped, VK_NULL_HANDLE,
                                      VK_NULL_HANDLE, &b))) {
                strcpy(a.mapped, "one memory");
                assert_string_equal(b.mapped, "one memory");
                OK(acre_vk_free(w.vk, b.handle));
            } else {
                assert_int_equal(fake_vk_live_memories(w.gpu), memories);
                /* The driver took it with the import, or the caller has it still. */
                bool taken = fake_vk_count(w.gpu, FAKE_VK_AllocateMemory) > imports &&
                             fake_vk_last_failed(w.gpu) != FAKE_VK_AllocateMemory;
                if (f.mode == DRIVER_FAULTS) assert_int_equal(close(fd), taken ? -1 : 0);
                else (void)close(fd);
            }
        }
        OK(acre_vk_destroy_buffer(w.vk, buffer, a.handle));
    }
    if (DID(acre_vk_import_host(w.vk, page, sizeof page, NULL, &b))) OK(acre_vk_free(w.vk, b.handle));
}

static void script_pools(void)
{
    acre_vk_pool_options options = {.request = {.usage = ACRE_VK_READBACK}, .page_bytes = MIB, .page_count_min = 2,
                                    .name = "a pool"};
    acre_vk_pool *pool = NULL;
    uint64_t memories = fake_vk_live_memories(w.gpu);
    if (!DID(acre_vk_pool_create(w.vk, &options, &pool))) {
        assert_int_equal(fake_vk_live_memories(w.gpu), memories);
        return;
    }
    acre_vk_request in = {.pool = pool, .flags = ACRE_VK_MAPPED};
    acre_vk_allocation a[6];
    VkMemoryRequirements need = needs(500 * KIB, 256, T_ALL);
    int count = 0;
    for (int i = 0; i < 6; i++) count += DID(acre_vk_alloc(w.vk, &need, &in, &a[count])) ? 1 : 0;
    for (int i = 0; i < count; i++) OK(acre_vk_free(w.vk, a[i].handle));
    OK(acre_vk_pool_destroy(w.vk, pool));
    assert_int_equal(fake_vk_live_memories(w.gpu), memories);
}

static void after(struct slot *s, acre_vk_point point)
{
    if (!s->live) return;
    intact(s);
    acre_status status = s->image ? acre_vk_destroy_image_after(w.vk, s->image, s->a.handle, point)
                                  : acre_vk_destroy_buffer_after(w.vk, s->buffer, s->a.handle, point);
    if (did(status, "destroy_after")) s->live = false;
}

/* Waiting may end without a block although time is not up, if the driver does not answer. */
static void tolerate(acre_status status)
{
    if (status != ACRE_OK && status != ACRE_BUSY) (void)did(status, "wait");
}

static void script_points(VkSemaphore semaphore, VkFence fence, uint64_t *value)
{
    f.failures_before = failures();
    for (int i = 1; i < slots; i += 5) after(&slot[i], (acre_vk_point){.semaphore = semaphore, .value = *value + 1});
    for (int i = 2; i < slots; i += 5) after(&slot[i], (acre_vk_point){.fence = fence});
    acre_vk_collect(w.vk);
    tolerate(acre_vk_wait(w.vk, 0));
    *value += 1;
    fake_vk_signal_semaphore(w.gpu, semaphore, *value);
    tolerate(acre_vk_wait(w.vk, 1000));
    acre_vk_collect(w.vk);
    fake_vk_signal_fence(w.gpu, fence);
    tolerate(acre_vk_drain(w.vk, 1000));
    alloc(5000, NULL);
}

static void script_aliases(void)
{
    acre_vk_allocation a;
    acre_vk_request request = {.flags = ACRE_VK_CAN_ALIAS};
    VkMemoryRequirements need = needs(256 * KIB, 65536, T_ALL);
    if (!DID(acre_vk_alloc(w.vk, &need, &request, &a))) return;
    VkBufferCreateInfo buffer_info = fake_vk_buffer_info(10000, 0);
    VkImageCreateInfo image_info = fake_vk_image_info(200, 200, 0, 0);
    VkBuffer buffer;
    VkImage image;
    uint64_t resources = fake_vk_live_resources(w.gpu);
    fake_vk_set_alias(w.gpu, true);
    bool has_buffer = DID(acre_vk_create_aliasing_buffer(w.vk, a.handle, 4096, &buffer_info, &buffer));
    bool has_image = DID(acre_vk_create_aliasing_image(w.vk, a.handle, 0, &image_info, &image));
    fake_vk_set_alias(w.gpu, false);
    assert_int_equal(fake_vk_live_resources(w.gpu), resources + has_buffer + has_image);
    if (has_buffer) FAKE_VK_FN(w.gpu, vkDestroyBuffer)(w.device, buffer, NULL);
    if (has_image) FAKE_VK_FN(w.gpu, vkDestroyImage)(w.device, image, NULL);
    OK(acre_vk_free(w.vk, a.handle));
    uint32_t type;
    (void)DID(acre_vk_find_memory_type_for_buffer_info(w.vk, &buffer_info, NULL, &type));
    (void)DID(acre_vk_find_memory_type_for_image_info(w.vk, &image_info, NULL, &type));
    assert_int_equal(fake_vk_live_resources(w.gpu), resources);
}

/* One thread runs here, so a lock that is held during a driver call is held by who makes it. */
static struct { uint64_t calls, under_lock; const char *first; } watch;
static void watch_locks(void *context, fake_vk_call call)
{
    acre_vk *vk = context;
    bool held = atomic_load(&vk->retire.lock.word) != 0;
    for (uint32_t i = 0; i <= vk->shard_mask; i++) held |= atomic_load(&vk->shards[i].busy) != 0;
    for (uint32_t i = 0; i < vk->pool_slots; i++)
        held |= vk->pools[i] != NULL && atomic_load(&vk->pools[i]->lock.word) != 0;
    held |= atomic_load(&vk->alone->lock.word) != 0 || atomic_load(&vk->timeline_lock.word) != 0;
    watch.calls++;
    if (held && watch.under_lock++ == 0) watch.first = fake_vk_call_name(call);
}

/* One life, whose n-th call fails; 0: none does. True: something failed. */
static bool live(fault_mode mode, uint32_t version, uint64_t n, VkResult result, bool onwards)
{
    f.mode = mode;
    f.result = result;
    f.refused = 0;
    f.last = "";
    slots = 0;
    if (mode == OS_FAULTS) fake_os_install();
    world_open(&(fake_vk_options){.api_version = version},
               &(acre_vk_options){.page_bytes_max = 4 * MIB, .cache_bytes_max = 64 * KIB});
    VkSemaphore semaphore = new_timeline(0);
    VkFence fence = new_fence();
    uint64_t value = 0;
    if (mode == DRIVER_FAULTS) fake_vk_set_hook(w.gpu, watch_locks, w.vk);
    if (mode == DRIVER_FAULTS)
        fake_vk_fail(w.gpu, FAKE_VK_ANY, n, result, onwards);
    else
        fake_os_fail(FAKE_ANY, n, onwards);

    script_blocks();
    script_maps();
    script_external();
    script_pools();
    script_points(semaphore, fence, &value);
    script_aliases();
    acre_vk_trim(w.vk, 0);
    make_buffer(5000, NULL);
    w.now_ms += 10000;
    acre_vk_collect(w.vk);
    world_check();

    bool failed = failures() != 0;
    if (!failed) assert_int_equal(f.refused, 0);
    fake_vk_heal(w.gpu);
    if (mode == OS_FAULTS) fake_os_heal();
    /* All is well again: everything works. */
    f.failures_before = failures();
    alloc(40000, NULL);
    acre_vk_request mapped = {.usage = ACRE_VK_UPLOAD, .flags = ACRE_VK_MAPPED};
    make_buffer(4000, &mapped);
    make_image(64, NULL);
    assert_true(slots >= 3 && slot[slots - 1].live && slot[slots - 2].live && slot[slots - 3].live);
    OK(acre_vk_drain(w.vk, 1000));
    for (int i = 0; i < slots; i++) end_slot(&slot[i]);
    acre_vk_collect(w.vk);
    acre_vk_stats all = all_stats();
    assert_int_equal(all.total.live_bytes, 0);
    assert_int_equal(all.total.pending_bytes, 0);
    assert_int_equal(all.total.blocks, 0);
    end_fence(fence);
    end_timeline(semaphore);
    assert_int_equal(fake_vk_live_resources(w.gpu), 0);
    fake_vk_set_hook(w.gpu, NULL, NULL);
    if (watch.under_lock != 0) fail_msg("%s was called under a lock that a hit needs", watch.first);
    acre_vk_trim(w.vk, 0);
    assert_int_equal(all_stats().total.held_bytes, 0);
    world_close(0);
    if (mode == OS_FAULTS) fake_os_remove();
    return failed;
}

static int abandon(void **state)
{
    fake_os_remove();
    return world_abandon(state);
}

static const uint32_t versions[] = {VK_API_VERSION_1_0, VK_API_VERSION_1_3};

static void a_life_without_failures_refuses_nothing(void **state)
{
    (void)state;
    for (int v = 0; v < 2; v++) {
        assert_false(live(DRIVER_FAULTS, versions[v], 0, VK_SUCCESS, false));
        assert_int_equal(f.refused, 0);
    }
    assert_true(watch.calls > 200);
}

static void every_driver_call_may_fail_with(VkResult result)
{
    for (int v = 0; v < 2; v++) {
        for (int onwards = 0; onwards < 2; onwards++) {
            uint64_t n = 1, refused = 0;
            while (live(DRIVER_FAULTS, versions[v], n, result, onwards)) {
                refused += f.refused;
                assert_true(++n < RUNS_MAX);
            }
            assert_true(n > 40);          /* so many calls there are … */
            assert_true(refused > n / 2); /* … and most are missed by somebody */
        }
    }
}

static void every_driver_call_may_run_out_of_device_memory(void **state)
{
    (void)state;
    every_driver_call_may_fail_with(VK_ERROR_OUT_OF_DEVICE_MEMORY);
}
static void every_driver_call_may_run_out_of_host_memory(void **state)
{
    (void)state;
    every_driver_call_may_fail_with(VK_ERROR_OUT_OF_HOST_MEMORY);
}
static void every_driver_call_may_find_too_many_objects(void **state)
{
    (void)state;
    every_driver_call_may_fail_with(VK_ERROR_TOO_MANY_OBJECTS);
}
static void every_driver_call_may_lose_the_device(void **state)
{
    (void)state;
    every_driver_call_may_fail_with(VK_ERROR_DEVICE_LOST);
}
static void every_driver_call_may_fail_for_no_known_reason(void **state)
{
    (void)state;
    every_driver_call_may_fail_with(VK_ERROR_UNKNOWN);
}

/* Takes what the arena has at hand, and more until it has `left` bytes of its last commit, so that a life has to ask
 * the system, sooner or later. */
enum { ARENA_STEP_BYTES = 256 << 10 };
static struct hoard { struct hoard *next; size_t bytes; } *hoard;
static size_t take_hoard(size_t bytes)
{
    struct hoard *h = arena_alloc(bytes);
    assert_non_null(h);
    h->next = hoard;
    h->bytes = bytes;
    hoard = h;
    size_t used, held;
    arena_usage(&used, &held);
    return held;
}
static void hoard_arena(size_t left)
{
    size_t used, held;
    for (size_t bytes = 64; bytes <= MIB; bytes *= 2)
        for (arena_usage(&used, &held); take_hoard(bytes) == held;) continue;
    while (take_hoard(64) % ARENA_STEP_BYTES < ARENA_STEP_BYTES - left - 64) continue;
}
static void give_hoard_back(void)
{
    while (hoard != NULL) {
        struct hoard *h = hoard;
        hoard = h->next;
        arena_free(h, h->bytes);
    }
}

static void the_system_may_have_no_memory_at_any_time(void **state)
{
    (void)state;
    uint64_t refused = 0, failed = 0;
    for (int onwards = 0; onwards < 2; onwards++) {
        for (size_t left = 0; left < ARENA_STEP_BYTES; left += 4096) {
            hoard_arena(left);
            failed += live(OS_FAULTS, versions[left / 4096 % 2], 1, VK_SUCCESS, onwards);
            refused += f.refused;
            give_hoard_back();
        }
    }
    assert_true(failed > 50);
    assert_true(refused > 100);
}

/* --- the start ---------------------------------------------------------------------------------------------------- */

static void a_function_that_is_missing_is_not_supported(void **state)
{
    (void)state;
    const char *const required[] = {
        "vkGetPhysicalDeviceProperties", "vkGetPhysicalDeviceMemoryProperties", "vkAllocateMemory", "vkFreeMemory",
        "vkMapMemory", "vkUnmapMemory", "vkFlushMappedMemoryRanges", "vkInvalidateMappedMemoryRanges",
        "vkBindBufferMemory", "vkBindImageMemory", "vkGetBufferMemoryRequirements", "vkGetImageMemoryRequirements",
        "vkCreateBuffer", "vkDestroyBuffer", "vkCreateImage", "vkDestroyImage", "vkGetSemaphoreCounterValue",
        "vkGetMemoryFdKHR", "vkGetMemoryHostPointerPropertiesEXT",
    };
    for (size_t i = 0; i < sizeof required / sizeof *required; i++) {
        char khr[64]; /* its name before it was part of the core */
        snprintf(khr, sizeof khr, "%sKHR", required[i]);
        const char *const missing[] = {required[i], khr, NULL};
        fake_vk *gpu = fake_vk_create(&(fake_vk_options){.missing = missing, .api_version = VK_API_VERSION_1_2});
        acre_vk_options o = world_options(gpu, NULL, &(acre_vk_options){.api_version = VK_API_VERSION_1_2});
        acre_vk *vk = NULL;
        acre_status status = acre_vk_create(&o, &vk);
        if (status != ACRE_NOT_SUPPORTED || vk != NULL) fail_msg("%s: %s", required[i], acre_status_name(status));
        assert_int_equal(fake_vk_destroy(gpu), 0);
    }
}

static void options_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    fake_vk *gpu = fake_vk_create(NULL);
    acre_vk *vk = NULL;
    const acre_vk_options good = world_options(gpu, NULL, NULL);
    acre_vk_options o = good;
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_create(NULL, &vk));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_create(&good, NULL));
    o.device = VK_NULL_HANDLE;
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_create(&o, &vk));
    o = good;
    o.instance = VK_NULL_HANDLE;
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_create(&o, &vk));
    o = good;
    o.physical_device = VK_NULL_HANDLE;
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_create(&o, &vk));
    o = good;
    o.get_instance_proc_addr = NULL;
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_create(&o, &vk));
    o = good;
    o.shards = 3;
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_create(&o, &vk));
    o.shards = 128;
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_create(&o, &vk));
    o = good;
    o.category_count = ACRE_GPU_CATEGORIES_MAX + 1;
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_create(&o, &vk));
    assert_null(vk);
    o = good;
    o.get_device_proc_addr = fake_vk_get_device_proc_addr;
    OK(acre_vk_create(&o, &vk));
    assert_int_equal(acre_vk_destroy(vk), 0);
    assert_int_equal(acre_vk_destroy(NULL), 0);
    assert_int_equal(fake_vk_live(gpu), 0);
    assert_int_equal(fake_vk_destroy(gpu), 0);
}

static void each_call_to_the_system_may_fail_at_the_start(void **state)
{
    (void)state;
    fake_vk *gpu = fake_vk_create(NULL);
    acre_vk_options o = world_options(gpu, NULL, NULL);
    for (uint64_t n = 1;; n++) {
        assert_true(n < RUNS_MAX);
        acre_vk *vk = NULL;
        fake_os_install();
        fake_os_fail(FAKE_ANY, n, false);
        acre_status status = acre_vk_create(&o, &vk);
        bool failed = fake_os_failures() != 0;
        fake_os_remove();
        if (status == ACRE_OK)
            assert_int_equal(acre_vk_destroy(vk), 0);
        else
            assert_int_equal(status, ACRE_NO_MEMORY);
        if (!failed) {
            assert_int_equal(status, ACRE_OK);
            break;
        }
    }
    assert_int_equal(fake_vk_live(gpu), 0);
    assert_int_equal(fake_vk_destroy(gpu), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_teardown(f, abandon)
    const struct CMUnitTest tests[] = {
        T(a_life_without_failures_refuses_nothing),
        T(every_driver_call_may_run_out_of_device_memory),
        T(every_driver_call_may_run_out_of_host_memory),
        T(every_driver_call_may_find_too_many_objects),
        T(every_driver_call_may_lose_the_device),
        T(every_driver_call_may_fail_for_no_known_reason),
        T(the_system_may_have_no_memory_at_any_time),
        T(a_function_that_is_missing_is_not_supported),
        T(options_that_make_no_sense_are_refused),
        T(each_call_to_the_system_may_fail_at_the_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
