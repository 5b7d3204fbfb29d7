/* test_vk_random: <acre/vulkan.h> against the fake device's checker in a random life: blocks and resources of all kinds
 * come and go, at once and in time; budgets and what others take move; driver calls fail now and then; time passes,
 * memory is trimmed. After every hundred steps every equation is checked. Each seed is another life; a failure names
 * its seed, and VK_RANDOM_SEED plays it alone.
 *
 *   gpu_test_vk_random [LIVES]      so many without failures, and as many with them */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "vk_world.h"

enum { SLOTS = 150, STEPS = 3000, LIVES = 24, CATEGORIES = 4, POOLS = 2 };

typedef struct slot {
    acre_vk_allocation a;
    VkBuffer buffer;
    VkImage image;
    uint64_t claim; /* of a block without a resource */
    uint8_t stamp;
    uint32_t maps, category;
    bool used;
} slot;

static slot slots[SLOTS];
static uint64_t lives = LIVES, seed, life;
static bool faults;
static VkSemaphore timelines[2];
static uint64_t values[2];
static acre_vk_pool *pools[POOLS];
static uint64_t live_bytes[CATEGORIES];

static uint64_t pick(uint64_t below) { return next_random(&seed) % below; }

static bool may_fail(acre_status status)
{
    if (status == ACRE_OK) return true;
    if (status != ACRE_NO_MEMORY && status != ACRE_OVER_BUDGET && status != ACRE_SYSTEM)
        fail_msg("life %lu: %s", (unsigned long)life, acre_status_name(status));
    return false;
}

/* Sizes as programs have them: many small ones, few large ones. */
static VkDeviceSize some_bytes(void)
{
    uint64_t kind = pick(100);
    if (kind < 60) return 1 + pick(8192);
    if (kind < 90) return 1 + pick(300 * KIB);
    if (kind < 99) return 1 + pick(4 * MIB);
    return 1 + pick(90 * MIB);
}

static void settle(slot *s)
{
    s->used = true;
    s->maps = 0;
    live_bytes[s->category] += s->a.size;
    s->stamp = (uint8_t)(1 + pick(255));
    if (s->a.mapped == NULL) return;
    memset(s->a.mapped, s->stamp, s->a.size < 64 ? (size_t)s->a.size : 64);
    ((uint8_t *)s->a.mapped)[s->a.size - 1] = s->stamp;
    if (!may_fail(acre_vk_flush(w.vk, s->a.handle, 0, VK_WHOLE_SIZE))) return;
}

static void check_stamp(const slot *s)
{
    const uint8_t *bytes = s->a.mapped;
    if (bytes == NULL) return;
    if (bytes[0] != s->stamp || bytes[s->a.size - 1] != s->stamp)
        fail_msg("life %lu: overwritten", (unsigned long)life);
}

static void born(slot *s)
{
    static const uint32_t flag_sets[] = {0, 0, 0, 0, ACRE_VK_DEDICATED, ACRE_VK_SHARED, ACRE_VK_WITHIN_BUDGET,
                                         ACRE_VK_NEVER_ALLOCATE};
    acre_vk_request request = {.usage = (acre_vk_usage)pick(ACRE_VK_USAGE_COUNT),
                               .flags = flag_sets[pick(8)] | (pick(2) ? ACRE_VK_MAPPED : 0),
                               .category = (uint32_t)pick(CATEGORIES),
                               .alignment = pick(10) == 0 ? (VkDeviceSize)1 << pick(23) : 0,
                               .name = pick(20) == 0 ? "somebody" : NULL};
    if (request.usage == ACRE_VK_LAZY) request.flags &= ~(uint32_t)ACRE_VK_MAPPED;
    *s = (slot){.category = request.category};
    uint64_t kind = pick(10);
    if (pick(40) == 0) fake_vk_set_dedicated(w.gpu, pick(2), false);
    if (kind < 5) {
        if (pick(4) == 0 && pools[0] != NULL) request.pool = pools[pick(POOLS)];
        if (request.pool != NULL) request.flags &= ~(uint32_t)(ACRE_VK_MAPPED | ACRE_VK_DEDICATED);
        VkDeviceSize bytes = some_bytes();
        if (request.pool != NULL && bytes > MIB) bytes = MIB;
        if (request.pool != NULL && request.alignment > 64 * KIB) request.alignment = 0;
        VkMemoryRequirements need = needs(bytes, (VkDeviceSize)1 << pick(17), T_ALL & ~(1u << T_LAZY));
        if (!may_fail(acre_vk_alloc(w.vk, &need, &request, &s->a))) return;
        if (request.alignment) assert_int_equal(s->a.offset % request.alignment, 0);
        assert_int_equal(s->a.offset % need.alignment, 0);
        s->claim = fake_vk_claim(w.gpu, s->a.memory, s->a.offset, need.size, pick(2));
    } else if (kind < 8) {
        VkBufferCreateInfo info =
            fake_vk_buffer_info(some_bytes(), pick(3) == 0 ? VK_BUFFER_USAGE_UNIFORM_BUFFER_BIT : 0);
        if (!may_fail(acre_vk_create_buffer(w.vk, &info, &request, &s->buffer, &s->a))) return;
    } else {
        uint32_t side = (uint32_t)(1 + pick(pick(10) == 0 ? 2000 : 200));
        VkImageCreateInfo info = fake_vk_image_info(side, side, 0, 0);
        if (pick(5) == 0) info.tiling = VK_IMAGE_TILING_LINEAR;
        if (request.usage == ACRE_VK_LAZY)
            info.usage = VK_IMAGE_USAGE_TRANSIENT_ATTACHMENT_BIT | VK_IMAGE_USAGE_COLOR_ATTACHMENT_BIT;
        if (!may_fail(acre_vk_create_image(w.vk, &info, &request, &s->image, &s->a))) return;
    }
    settle(s);
}

static void dies(slot *s)
{
    check_stamp(s);
    uint64_t id = s->buffer ? FAKE_VK_ID(s->buffer) : s->image ? FAKE_VK_ID(s->image) : s->claim;
    uint64_t size = s->a.size;
    if (pick(2)) { /* the GPU still uses it */
        uint64_t t = pick(2), value = values[t] + 1 + pick(3);
        acre_vk_point point = {.semaphore = timelines[t], .value = value};
        fake_vk_gpu_uses(w.gpu, id, FAKE_VK_ID(timelines[t]), value);
        if (s->claim != 0) fake_vk_drop_claim(w.gpu, s->claim);
        acre_status status = s->buffer  ? acre_vk_destroy_buffer_after(w.vk, s->buffer, s->a.handle, point)
                             : s->image ? acre_vk_destroy_image_after(w.vk, s->image, s->a.handle, point)
                                        : acre_vk_free_after(w.vk, s->a.handle, point);
        OK(status);
    } else {
        if (s->claim != 0) fake_vk_drop_claim(w.gpu, s->claim);
        if (s->buffer)
            OK(acre_vk_destroy_buffer(w.vk, s->buffer, s->a.handle));
        else if (s->image)
            OK(acre_vk_destroy_image(w.vk, s->image, s->a.handle));
        else
            OK(acre_vk_free(w.vk, s->a.handle));
    }
    REFUSED(ACRE_DOUBLE_FREE, acre_vk_free(w.vk, s->a.handle));
    live_bytes[s->category] -= size;
    s->used = false;
}

/* Maps of memory that the CPU sees; writes and reads through them. */
static void touched(slot *s)
{
    void *p = NULL;
    VkMemoryPropertyFlags flags;
    uint32_t heap;
    OK(acre_vk_memory_type_properties(w.vk, s->a.memory_type, &flags, &heap));
    if (!(flags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT)) {
        REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_map(w.vk, s->a.handle, &p));
        return;
    }
    if (s->maps > 0 && pick(2)) {
        OK(acre_vk_unmap(w.vk, s->a.handle));
        s->maps--;
        return;
    }
    if (!may_fail(acre_vk_map(w.vk, s->a.handle, &p))) return;
    s->maps++;
    if (s->a.mapped != NULL) assert_ptr_equal(p, s->a.mapped);
    VkDeviceSize at = pick(s->a.size), bytes = 1 + pick(s->a.size - at);
    if (bytes > 1000) bytes = 1000;
    uint8_t in[1000];
    memset(in, s->stamp, sizeof in);
    if (!may_fail(acre_vk_copy_to(w.vk, s->a.handle, at, in, (size_t)bytes))) return;
    uint64_t id = s->buffer ? FAKE_VK_ID(s->buffer) : s->image ? FAKE_VK_ID(s->image) : s->claim;
    fake_vk_resource_info r;
    uint8_t out[1000] = {0};
    if (fake_vk_get_resource(w.gpu, id, &r) && at + bytes <= r.size) {
        assert_true(fake_vk_gpu_read(w.gpu, id, at, out, (size_t)bytes));
        assert_memory_equal(in, out, (size_t)bytes);
    }
}

static void moved(slot *s)
{
    slot *t = &slots[pick(SLOTS)];
    if (!t->used || t == s || s->claim == 0 || t->claim == 0) return;
    acre_status status = acre_vk_swap(w.vk, s->a.handle, t->a.handle);
    if (status == ACRE_INVALID_ARGUMENT) return;
    OK(status);
    uint64_t claim = s->claim;
    uint64_t own = s->a.handle, other = t->a.handle;
    acre_vk_allocation a = s->a;
    s->a = t->a, t->a = a;
    s->a.handle = own, t->a.handle = other;
    s->claim = t->claim, t->claim = claim;
    acre_vk_block_info info;
    OK(acre_vk_get_info(w.vk, own, &info));
    assert_true(info.allocation.memory == s->a.memory && info.allocation.offset == s->a.offset);
}

static void the_world_moves(void)
{
    switch (pick(12)) {
    case 0: case 1: case 2: {
        uint64_t t = pick(2);
        values[t] += 1 + pick(2);
        fake_vk_signal_semaphore(w.gpu, timelines[t], values[t]);
        break;
    }
    case 3: case 4:
        w.now_ms += pick(400);
        acre_vk_collect(w.vk);
        break;
    case 5: acre_vk_trim(w.vk, pick(64 * MIB)); break;
    case 6:
        fake_vk_set_budget(w.gpu, (uint32_t)pick(3), pick(2) ? 0 : 64 * MIB + pick(2048) * MIB, pick(64 * MIB));
        break;
    case 7: fake_vk_set_taken(w.gpu, 2, pick(250) * MIB); break;
    case 8: OK(acre_vk_set_category_budget(w.vk, 0, pick(2) ? 0 : 1 + pick(40 * MIB))); break;
    case 9: OK(acre_vk_set_heap_budget(w.vk, (uint32_t)pick(3), pick(2) ? 0 : 1 + pick(256 * MIB))); break;
    case 10: (void)acre_vk_wait(w.vk, 0); break;
    default: (void)acre_vk_next_collect_ms(w.vk); break;
    }
}

static void check_all(void)
{
    world_check();
    for (uint32_t c = 0; c < CATEGORIES; c++) assert_int_equal(category_stats(c).live_bytes, live_bytes[c]);
    for (uint32_t h = 0; h < 3; h++) assert_int_equal(heap_stats(h).held_bytes, fake_vk_heap_used(w.gpu, h));
    acre_gpu_heap_stats s;
    for (int i = 0; i < POOLS; i++) {
        OK(acre_vk_pool_stats(w.vk, pools[i], &s));
        assert_int_equal(s.held_bytes, s.live_bytes + s.pending_bytes + s.hole_bytes + s.empty_bytes);
    }
}

static void a_life(uint64_t number, bool with_faults)
{
    static const acre_gpu_category rows[CATEGORIES] = {{.name = "strict"},
                                                       {.name = "elsewhere", .at_limit = ACRE_GPU_OTHER_MEMORY},
                                                       {.name = "lenient", .at_limit = ACRE_GPU_EXCEED},
                                                       {.name = "important", .priority = 1}};
    static const VkDeviceSize granularities[] = {1, 64, 1024, 4096, 65536};
    static const VkDeviceSize atoms[] = {1, 64, 256};
    life = seed = number;
    faults = with_faults;
    fake_vk_options device = {.buffer_image_granularity = granularities[pick(5)],
                              .non_coherent_atom = atoms[pick(3)],
                              .buffer_alignment = pick(2) ? 16 : 256,
                              .image_alignment = pick(3) == 0 ? 256 : 0,
                              .without = pick(2) ? FAKE_VK_NO_BUDGET : 0};
    acre_vk_options o = {.categories = rows,
                         .category_count = CATEGORIES,
                         .shards = 1u << pick(4),
                         .cache_bytes_max = pick(3) == 0 ? 1 : 0,
                         .empty_bytes_max = pick(4) == 0 ? 1 : 0,
                         .page_bytes_min = pick(3) == 0 ? MIB : 0,
                         .empty_delay_ms = 200};
    if (faults && device.without == 0 && pick(2)) device.api_version = VK_API_VERSION_1_1;
    world_open(&device, &o);
    memset(slots, 0, sizeof slots);
    memset(live_bytes, 0, sizeof live_bytes);
    for (int i = 0; i < 2; i++) {
        timelines[i] = new_timeline(0);
        values[i] = 0;
        acre_vk_pool_options pool = {.request = {.usage = i ? ACRE_VK_READBACK : ACRE_VK_GPU},
                                     .page_bytes = i ? 2 * MIB : 0,
                                     .page_count_min = i ? 1 : 0};
        OK(acre_vk_pool_create(w.vk, &pool, &pools[i]));
    }
    for (int step = 1; step <= STEPS; step++) {
        slot *s = &slots[pick(SLOTS)];
        uint64_t what = pick(20);
        if (what == 0)
            the_world_moves();
        else if (!s->used)
            born(s);
        else if (what < 3)
            touched(s);
        else if (what < 4)
            moved(s);
        else
            dies(s);
        if (faults && pick(40) == 0) {
            static const VkResult results[] = {VK_ERROR_OUT_OF_DEVICE_MEMORY, VK_ERROR_OUT_OF_HOST_MEMORY,
                                               VK_ERROR_TOO_MANY_OBJECTS, VK_ERROR_UNKNOWN};
            fake_vk_fail(w.gpu, FAKE_VK_ANY, 1 + pick(10), results[pick(4)], pick(10) == 0);
        }
        if (faults && pick(40) == 0) fake_vk_heal(w.gpu);
        if (step % 100 == 0) check_all();
    }
    fake_vk_heal(w.gpu);
    for (int i = 0; i < SLOTS; i++)
        if (slots[i].used) dies(&slots[i]);
    for (int i = 0; i < 2; i++) fake_vk_signal_semaphore(w.gpu, timelines[i], UINT64_MAX - 1);
    OK(acre_vk_drain(w.vk, 0));
    check_all();
    assert_int_equal(all_stats().total.live_bytes, 0);
    assert_int_equal(all_stats().total.pending_bytes, 0);
    assert_int_equal(all_stats().total.blocks, 0);
    for (int i = 0; i < 2; i++) {
        end_timeline(timelines[i]);
        OK(acre_vk_pool_destroy(w.vk, pools[i]));
    }
    assert_int_equal(fake_vk_live_resources(w.gpu), 0);
    acre_vk_trim(w.vk, 0);
    assert_int_equal(all_stats().total.held_bytes, 0);
    world_close(0);
}

static int tell(void **state)
{
    int left = world_abandon(state);
    if (left != 0) fprintf(stderr, "VK_RANDOM_SEED=%lu\n", (unsigned long)life);
    return left;
}

static void random_lives_keep_every_equation(void **state)
{
    (void)state;
    const char *one = getenv("VK_RANDOM_SEED");
    if (one != NULL) {
        a_life(strtoull(one, NULL, 0), strtoull(one, NULL, 0) >= 1000000);
        return;
    }
    for (uint64_t i = 1; i <= lives; i++) a_life(i, false);
}

static void random_lives_with_failures_keep_every_equation(void **state)
{
    (void)state;
    if (getenv("VK_RANDOM_SEED") != NULL) return;
    for (uint64_t i = 1; i <= lives; i++) a_life(1000000 + i, true);
}

int main(int argc, char **argv)
{
    if (argc > 1) lives = strtoull(argv[1], NULL, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(random_lives_keep_every_equation, tell),
        cmocka_unit_test_teardown(random_lives_with_failures_keep_every_equation, tell),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
