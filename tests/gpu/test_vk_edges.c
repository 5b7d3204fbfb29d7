/* test_vk_edges: corners of <acre/vulkan.h> on the fake device: tiny heaps, large alignments, memory whose end is no
 * multiple of the atom, several allocators, many pools, callbacks that ask again, reports that are JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "vk_world.h"

/* --- memory ------------------------------------------------------------------------------------------------------- */

static void memory_that_ends_within_an_atom_is_flushed_to_its_end(void **state)
{
    (void)state;
    const VkDeviceSize atoms[] = {64, 256, 4096};
    for (size_t i = 0; i < 3; i++) {
        world_open(&(fake_vk_options){.non_coherent_atom = atoms[i]}, NULL);
        acre_vk_request request = {.usage = ACRE_VK_UPLOAD, .type_bits = 1u << T_SHADOW,
                                   .flags = ACRE_VK_DEDICATED | ACRE_VK_MAPPED};
        VkBufferCreateInfo info = fake_vk_buffer_info(5000, 0);
        VkBuffer buffer;
        acre_vk_allocation a;
        OK(acre_vk_create_buffer(w.vk, &info, &request, &buffer, &a));
        assert_true(a.dedicated);
        memset(a.mapped, 1, 5000);
        OK(acre_vk_flush(w.vk, a.handle, 4990, 10));
        OK(acre_vk_flush(w.vk, a.handle, 0, VK_WHOLE_SIZE));
        OK(acre_vk_flush(w.vk, a.handle, a.size - 1, 1));
        OK(acre_vk_invalidate(w.vk, a.handle, a.size - 1, 1));
        OK(acre_vk_invalidate(w.vk, a.handle, 100, VK_WHOLE_SIZE));
        uint8_t seen[5000];
        assert_true(fake_vk_gpu_read(w.gpu, FAKE_VK_ID(buffer), 0, seen, sizeof seen));
        for (size_t k = 0; k < sizeof seen; k++) assert_int_equal(seen[k], 1);
        OK(acre_vk_destroy_buffer(w.vk, buffer, a.handle));
        world_close(0);
    }
}

static void alignments_up_to_a_gibibyte_are_kept(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_allocation a;
    for (VkDeviceSize alignment = MIB; alignment <= GIB; alignment *= 2) {
        VkMemoryRequirements need = needs(100000, alignment, 1u << T_DEVICE);
        OK(acre_vk_alloc(w.vk, &need, NULL, &a));
        assert_int_equal(a.offset % alignment, 0);
        uint64_t claim = fake_vk_claim(w.gpu, a.memory, a.offset, need.size, true);
        fake_vk_drop_claim(w.gpu, claim);
        OK(acre_vk_free(w.vk, a.handle));
    }
    assert_true(heap_stats(0).held_peak_bytes < 256 * MIB); /* no bytes for alignment's sake */
    world_close(0);
}

static void a_heap_of_a_mebibyte_is_used_to_its_budget(void **state)
{
    (void)state;
    const VkMemoryHeap heaps[] = {{MIB, VK_MEMORY_HEAP_DEVICE_LOCAL_BIT}};
    const VkMemoryType types[] = {{VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, 0}};
    world_open(&(fake_vk_options){.memory = fake_vk_memory(1, heaps, 1, types)}, NULL);
    acre_vk_allocation a;
    VkMemoryRequirements need = needs(4096, 256, 1);
    int count = 0;
    acre_status status;
    while ((status = acre_vk_alloc(w.vk, &need, NULL, &a)) == ACRE_OK) count++;
    assert_true(status == ACRE_OVER_BUDGET || status == ACRE_NO_MEMORY);
    assert_true(count >= 190 && count <= 256);
    world_close((uint64_t)count);
}

static void memory_without_any_flag_is_memory_too(void **state)
{
    (void)state;
    const VkMemoryHeap heaps[] = {{GIB, 0}};
    const VkMemoryType types[] = {{0, 0}};
    world_open(&(fake_vk_options){.memory = fake_vk_memory(1, heaps, 1, types)}, NULL);
    acre_vk_allocation a;
    VkMemoryRequirements need = needs(4096, 256, 1);
    OK(acre_vk_alloc(w.vk, &need, NULL, &a));
    acre_vk_request mapped = {.flags = ACRE_VK_MAPPED}, upload = {.usage = ACRE_VK_UPLOAD};
    acre_vk_allocation b;
    REFUSED(ACRE_NOT_SUPPORTED, acre_vk_alloc(w.vk, &need, &mapped, &b));
    REFUSED(ACRE_NOT_SUPPORTED, acre_vk_alloc(w.vk, &need, &upload, &b));
    OK(acre_vk_free(w.vk, a.handle));
    world_close(0);
}

static void four_driver_allocations_have_to_do(void **state)
{
    (void)state;
    world_open(&(fake_vk_options){.allocations_max = 4}, NULL);
    acre_vk_allocation a[400];
    int count = 0;
    acre_vk_request request = {.usage = ACRE_VK_GPU};
    VkMemoryRequirements need = needs(200 * KIB, 256, 1u << T_DEVICE);
    while (count < 400 && acre_vk_alloc(w.vk, &need, &request, &a[count]) == ACRE_OK) count++;
    assert_true(count >= 60);
    assert_true(fake_vk_live_memories(w.gpu) <= 4);
    for (int i = 0; i < count; i++) OK(acre_vk_free(w.vk, a[i].handle));
    world_close(0);
}

static void half_a_million_blocks_live_at_once(void **state)
{
    (void)state;
    enum { COUNT = 500000 };
    world_open(NULL, NULL);
    uint64_t *handles = malloc(COUNT * sizeof *handles);
    acre_vk_allocation a;
    VkMemoryRequirements need = needs(256, 256, 1u << T_DEVICE);
    for (int i = 0; i < COUNT; i++) {
        OK(acre_vk_alloc(w.vk, &need, NULL, &a));
        handles[i] = a.handle;
    }
    assert_int_equal(heap_stats(0).blocks, COUNT);
    assert_true(all_stats().bookkeeping_bytes < COUNT * 160ull);
    assert_true(fake_vk_live_memories(w.gpu) < 32);
    for (int i = 0; i < COUNT; i += 2) OK(acre_vk_free(w.vk, handles[i]));
    world_check();
    for (int i = 1; i < COUNT; i += 2) OK(acre_vk_free(w.vk, handles[i]));
    acre_vk_trim(w.vk, 0);
    assert_int_equal(heap_stats(0).held_bytes, 0);
    free(handles);
    world_close(0);
}

static void an_allocation_above_the_drivers_bound_is_refused_and_others_are_not(void **state)
{
    (void)state;
    world_open(&(fake_vk_options){.allocation_bytes_max = 48 * MIB}, NULL);
    acre_vk_allocation a;
    VkMemoryRequirements need = needs(60 * MIB, 256, 1u << T_DEVICE);
    acre_status status = acre_vk_alloc(w.vk, &need, NULL, &a);
    assert_true(status == ACRE_NO_MEMORY || status == ACRE_TOO_LARGE);
    for (int i = 0; i < 300; i++) take(MIB, NULL); /* pages do not grow beyond the bound */
    world_close(300);
}

/* --- several of them ---------------------------------------------------------------------------------------------- */

static void allocators_do_not_take_each_others_handles(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_options o = world_options(w.gpu, NULL, NULL);
    acre_vk *other = NULL;
    OK(acre_vk_create(&o, &other));
    acre_vk_allocation a = take(4096, NULL), b;
    VkMemoryRequirements need = needs(4096, 256, T_ALL);
    OK(acre_vk_alloc(other, &need, NULL, &b));
    REFUSED(ACRE_FOREIGN_POINTER, acre_vk_free(other, a.handle));
    REFUSED(ACRE_FOREIGN_POINTER, acre_vk_free(w.vk, b.handle));
    acre_vk_pool *pool = NULL;
    OK(acre_vk_pool_create(other, &(acre_vk_pool_options){.page_bytes = MIB}, &pool));
    acre_vk_request in = {.pool = pool};
    acre_vk_allocation c;
    acre_status status = acre_vk_alloc(w.vk, &need, &in, &c);
    assert_true(status == ACRE_FOREIGN_POINTER || status == ACRE_INVALID_ARGUMENT);
    OK(acre_vk_pool_destroy(other, pool));
    OK(acre_vk_free(other, b.handle));
    OK(acre_vk_free(w.vk, a.handle));
    assert_int_equal(acre_vk_destroy(other), 0);
    world_close(0);
}

static void allocators_come_and_go_by_the_hundred(void **state)
{
    (void)state;
    fake_vk *gpu = fake_vk_create(NULL);
    acre_vk_options o = world_options(gpu, NULL, NULL);
    uint64_t stale = 0;
    for (int i = 0; i < 700; i++) {
        acre_vk *vk = NULL;
        OK(acre_vk_create(&o, &vk));
        acre_vk_allocation a, b;
        VkMemoryRequirements need = needs(4096, 256, T_ALL);
        OK(acre_vk_alloc(vk, &need, NULL, &a));
        OK(acre_vk_alloc(vk, &need, NULL, &b));
        if (stale != 0 && stale != a.handle && stale != b.handle) {
            acre_status status = acre_vk_free(vk, stale); /* of the one before */
            assert_true(status == ACRE_FOREIGN_POINTER || status == ACRE_DOUBLE_FREE);
        }
        OK(acre_vk_free(vk, b.handle));
        stale = a.handle;
        assert_int_equal(acre_vk_destroy(vk), 1);
    }
    assert_int_equal(fake_vk_live(gpu), 0);
    assert_int_equal(fake_vk_destroy(gpu), 0);
}

static void sixty_four_pools_and_no_more(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_pool *pools[80];
    int count = 0;
    acre_status status = ACRE_OK;
    for (int round = 0; round < 3; round++) {
        for (count = 0; count < 80; count++) {
            acre_vk_pool_options options = {.request = {.usage = (acre_vk_usage)((count + round) % 3)}};
            status = acre_vk_pool_create(w.vk, &options, &pools[count]);
            if (status != ACRE_OK) break;
            acre_vk_request in = {.pool = pools[count]};
            acre_vk_allocation a = take(1000, &in);
            uint32_t type;
            acre_vk_request same = {.usage = options.request.usage};
            OK(acre_vk_find_memory_type(w.vk, T_ALL, &same, &type));
            assert_int_equal(a.memory_type, type); /* also in a slot that another kind of pool had */
            OK(acre_vk_free(w.vk, a.handle));
        }
        assert_int_equal(status, ACRE_TOO_LARGE);
        assert_int_equal(count, 64);
        for (int i = 0; i < count; i++) OK(acre_vk_pool_destroy(w.vk, pools[i]));
        assert_int_equal(fake_vk_live_memories(w.gpu), 0);
    }
    world_close(0);
}

/* --- callbacks that ask again ------------------------------------------------------------------------------------- */

static int depth, deepest, calls;
static bool ask_again(void *context, const acre_gpu_shortage *shortage)
{
    (void)context, (void)shortage;
    depth++;
    calls++;
    deepest = depth > deepest ? depth : deepest;
    acre_vk_allocation a;
    VkMemoryRequirements need = needs(2 * MIB, 256, T_ALL);
    acre_vk_request within = {.flags = ACRE_VK_WITHIN_BUDGET}; /* without it, the callback would be called again */
    REFUSED(ACRE_OVER_BUDGET, acre_vk_alloc(w.vk, &need, &within, &a));
    acre_vk_collect(w.vk);
    (void)acre_vk_trim(w.vk, 0);
    acre_vk_stats s;
    OK(acre_vk_get_stats(w.vk, &s));
    char text[64];
    (void)acre_vk_report(w.vk, true, text, sizeof text);
    depth--;
    return calls < 100;
}

static void a_callback_may_use_the_allocator(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "all", .budget_bytes = MIB}};
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 1, .on_limit = ask_again});
    acre_vk_allocation a;
    depth = deepest = calls = 0;
    VkMemoryRequirements need = needs(2 * MIB, 256, T_ALL);
    REFUSED(ACRE_OVER_BUDGET, acre_vk_alloc(w.vk, &need, NULL, &a));
    assert_int_equal(deepest, 1);
    assert_true(calls >= 1);
    world_close(0);
}

/* --- many timelines ----------------------------------------------------------------------------------------------- */

static void a_thousand_fences_wait_side_by_side(void **state)
{
    (void)state;
    enum { COUNT = 1000 };
    world_open(NULL, NULL);
    VkFence *fences = malloc(COUNT * sizeof *fences);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < COUNT; i++) {
            fences[i] = new_fence();
            acre_vk_allocation a = take(4096, NULL);
            uint64_t claim = fake_vk_claim(w.gpu, a.memory, a.offset, a.size, true);
            fake_vk_gpu_uses(w.gpu, claim, FAKE_VK_ID(fences[i]), 0);
            fake_vk_drop_claim(w.gpu, claim);
            OK(acre_vk_free_after(w.vk, a.handle, (acre_vk_point){.fence = fences[i]}));
        }
        for (int i = 0; i < COUNT; i += 2) fake_vk_signal_fence(w.gpu, fences[i]);
        assert_int_equal(acre_vk_collect(w.vk), COUNT / 2);
        for (int i = 1; i < COUNT; i += 2) fake_vk_signal_fence(w.gpu, fences[i]);
        assert_int_equal(acre_vk_collect(w.vk), COUNT / 2);
        for (int i = 0; i < COUNT; i++) end_fence(fences[i]);
    }
    free(fences);
    world_close(0);
}

/* --- the report is JSON ------------------------------------------------------------------------------------------- */

static const char *json_value(const char *p);

static const char *json_space(const char *p)
{
    while (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r') p++;
    return p;
}
static const char *json_string(const char *p)
{
    if (*p++ != '"') return NULL;
    for (; *p != '"'; p++) {
        if ((unsigned char)*p < 0x20) return NULL; /* the end, too */
        if (*p != '\\') continue;
        p++;
        if (*p == 'u') {
            for (int i = 0; i < 4; i++)
                if (strchr("0123456789abcdefABCDEF", *++p) == NULL || *p == 0) return NULL;
        } else if (*p == 0 || strchr("\"\\/bfnrt", *p) == NULL) {
            return NULL;
        }
    }
    return p + 1;
}
static const char *json_list(const char *p, char end, bool names)
{
    p = json_space(p + 1);
    if (*p == end) return p + 1;
    for (;;) {
        if (names) {
            p = json_string(json_space(p));
            if (p == NULL || *(p = json_space(p)) != ':') return NULL;
            p++;
        }
        p = json_value(p);
        if (p == NULL) return NULL;
        p = json_space(p);
        if (*p == end) return p + 1;
        if (*p++ != ',') return NULL;
    }
}
static const char *json_value(const char *p)
{
    static const char *const words[] = {"true", "false", "null"};
    p = json_space(p);
    if (*p == '{') return json_list(p, '}', true);
    if (*p == '[') return json_list(p, ']', false);
    if (*p == '"') return json_string(p);
    for (int i = 0; i < 3; i++)
        if (strncmp(p, words[i], strlen(words[i])) == 0) return p + strlen(words[i]);
    char *end;
    (void)strtod(p, &end);
    return end != p ? end : NULL;
}

static void the_report_is_json_whatever_names_there_are(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "quote \" and \\"}, {.name = "line\nbreak\ttab\x01"}};
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 2});
    for (int blocks = 0; blocks < 2; blocks++) {
        for (int i = 0; i < 4; i++) {
            size_t bytes = acre_vk_report(w.vk, blocks, NULL, 0);
            char *text = malloc(bytes + 1);
            assert_int_equal(acre_vk_report(w.vk, blocks, text, bytes + 1), bytes);
            const char *end = json_value(text);
            if (end == NULL || *json_space(end) != 0) fail_msg("%s", text);
            for (size_t cut = 1; cut < bytes; cut += 97) { /* cut anywhere, it ends with a zero and says its length */
                memset(text, 'x', bytes + 1);
                assert_int_equal(acre_vk_report(w.vk, blocks, text, cut), bytes);
                assert_int_equal(strlen(text), cut - 1);
                assert_int_equal(text[cut], 'x');
            }
            free(text);
            acre_vk_request request = {.usage = (acre_vk_usage)i, .category = (uint32_t)i % 2,
                                       .name = i == 1 ? "a \"name\"\n" : NULL};
            take(1000 * (VkDeviceSize)(i + 1), &request);
        }
    }
    world_close(8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORLD_TEST(memory_that_ends_within_an_atom_is_flushed_to_its_end),
        WORLD_TEST(alignments_up_to_a_gibibyte_are_kept),
        WORLD_TEST(a_heap_of_a_mebibyte_is_used_to_its_budget),
        WORLD_TEST(memory_without_any_flag_is_memory_too),
        WORLD_TEST(four_driver_allocations_have_to_do),
        WORLD_TEST(half_a_million_blocks_live_at_once),
        WORLD_TEST(an_allocation_above_the_drivers_bound_is_refused_and_others_are_not),
        WORLD_TEST(allocators_do_not_take_each_others_handles),
        WORLD_TEST(allocators_come_and_go_by_the_hundred),
        WORLD_TEST(sixty_four_pools_and_no_more),
        WORLD_TEST(a_callback_may_use_the_allocator),
        WORLD_TEST(a_thousand_fences_wait_side_by_side),
        WORLD_TEST(the_report_is_json_whatever_names_there_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
