/* test_vk_budget: budgets of <acre/vulkan.h> on the fake device, what happens at a limit, what empty memory is kept,
 * and the report when memory runs out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "vk_world.h"

static acre_status try_take(VkDeviceSize size, const acre_vk_request *request, acre_vk_allocation *a)
{
    VkMemoryRequirements need = needs(size, 256, T_ALL);
    return acre_vk_alloc(w.vk, &need, request, a);
}

/* --- budgets of categories ---------------------------------------------------------------------------------------- */

static void a_category_at_its_budget_fails_or_exceeds_as_it_says(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "strict", .budget_bytes = MIB},
                                      {.name = "lenient", .budget_bytes = MIB, .at_limit = ACRE_GPU_EXCEED},
                                      {.name = "free"}};
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 3});
    acre_vk_request strict = {.category = 0}, lenient = {.category = 1}, unbounded = {.category = 2};
    acre_vk_allocation a = take(512 * KIB, &strict), b = take(512 * KIB, &strict), c;
    REFUSED(ACRE_OVER_BUDGET, try_take(4096, &strict, &c));
    acre_gpu_category_stats s = category_stats(0);
    assert_string_equal(s.name, "strict");
    assert_int_equal(s.live_bytes, MIB);
    assert_int_equal(s.peak_bytes, MIB);
    assert_int_equal(s.budget_bytes, MIB);
    assert_int_equal(s.blocks, 2);
    assert_int_equal(s.failed, 1);
    assert_int_equal(s.exceeded, 0);
    OK(acre_vk_free(w.vk, a.handle));
    c = take(4096, &strict);
    OK(acre_vk_free(w.vk, c.handle));
    assert_int_equal(category_stats(0).live_bytes, 512 * KIB);

    acre_vk_allocation d = take(2 * MIB, &lenient);
    s = category_stats(1);
    assert_int_equal(s.live_bytes, 2 * MIB);
    assert_int_equal(s.exceeded, 1);
    assert_int_equal(s.failed, 0);
    acre_vk_request within = {.category = 1, .flags = ACRE_VK_WITHIN_BUDGET};
    REFUSED(ACRE_OVER_BUDGET, try_take(4096, &within, &c));
    acre_vk_allocation e = take(30 * MIB, &unbounded);
    assert_int_equal(category_stats(2).budget_bytes, 0);

    OK(acre_vk_set_category_budget(w.vk, 2, 20 * MIB)); /* below what is in use */
    REFUSED(ACRE_OVER_BUDGET, try_take(4096, &unbounded, &c));
    OK(acre_vk_free(w.vk, e.handle));
    e = take(20 * MIB, &unbounded);
    OK(acre_vk_set_category_budget(w.vk, 2, 0));
    c = take(20 * MIB, &unbounded);
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_set_category_budget(w.vk, 3, 0));
    OK(acre_vk_free(w.vk, b.handle));
    OK(acre_vk_free(w.vk, c.handle));
    OK(acre_vk_free(w.vk, d.handle));
    OK(acre_vk_free(w.vk, e.handle));
    for (uint32_t i = 0; i < 3; i++) assert_int_equal(category_stats(i).live_bytes, 0);
    world_close(0);
}

static void a_table_of_categories_that_makes_no_sense_is_refused(void **state)
{
    (void)state;
    fake_vk *gpu = fake_vk_create(NULL);
    acre_vk *vk = NULL;
    const acre_gpu_category twice[] = {{.name = "a"}, {.name = "a"}}, odd[] = {{.at_limit = (acre_gpu_at_limit)9}};
    const acre_gpu_category hot[] = {{.priority = 2}};
    const struct { const acre_gpu_category *rows; uint32_t count; } tables[] = {{twice, 2}, {odd, 1}, {hot, 1}};
    for (int i = 0; i < 3; i++) {
        acre_vk_options more = {.categories = tables[i].rows, .category_count = tables[i].count};
        acre_vk_options o = world_options(gpu, NULL, &more);
        REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_create(&o, &vk));
    }
    assert_null(vk);
    assert_int_equal(fake_vk_destroy(gpu), 0);
}

/* A freed block waits in a cache; the category may not have it; the cache may hold less than it does by now. */
static void a_freed_block_that_a_budget_keeps_back_is_not_lost(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "small"}, {.name = "large"}};
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 2, .shards = 1});
    enum { COUNT = 2000 };
    static acre_vk_allocation a[COUNT];
    acre_vk_request small = {.category = 0}, large = {.category = 1};
    acre_vk_allocation big = take(900 * MIB, &large), b;
    for (int i = 0; i < COUNT; i++) a[i] = take(8192, &small);
    w.now_ms += 200;
    acre_vk_collect(w.vk);
    for (int i = 0; i < COUNT; i++) OK(acre_vk_free(w.vk, a[i].handle));
    assert_true(all_stats().cached_bytes > MIB);
    OK(acre_vk_free(w.vk, big.handle));
    for (int i = 0; i < 3; i++) {
        w.now_ms += 101;
        acre_vk_collect(w.vk);
        OK(acre_vk_set_category_budget(w.vk, 0, 4096));
        for (int k = 0; k < 50; k++) REFUSED(ACRE_OVER_BUDGET, try_take(8192, &small, &b));
        world_check();
        OK(acre_vk_set_category_budget(w.vk, 0, 0));
    }
    b = take(8192, &small);
    OK(acre_vk_free(w.vk, b.handle));
    world_close(0);
}

/* --- budgets of heaps --------------------------------------------------------------------------------------------- */

static void a_heap_at_its_budget_fails_goes_elsewhere_or_exceeds(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "strict"},
                                      {.name = "elsewhere", .at_limit = ACRE_GPU_OTHER_MEMORY},
                                      {.name = "lenient", .at_limit = ACRE_GPU_EXCEED}};
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 3, .heap_budgets = {0, 0, 32 * MIB}});
    assert_int_equal(heap_stats(2).budget_bytes, 32 * MIB);
    acre_vk_request strict = {.usage = ACRE_VK_GPU_MAPPED, .category = 0};
    acre_vk_allocation a[4], b;
    int count = 0;
    while (count < 4 && try_take(8 * MIB, &strict, &a[count]) == ACRE_OK) {
        assert_int_equal(a[count].memory_type, T_BAR);
        count++;
    }
    assert_true(count >= 3);
    assert_true(heap_stats(2).held_bytes <= 32 * MIB);
    REFUSED(ACRE_OVER_BUDGET, try_take(16 * MIB, &strict, &b));
    acre_vk_request elsewhere = {.usage = ACRE_VK_GPU_MAPPED, .category = 1};
    b = take(16 * MIB, &elsewhere);
    assert_int_equal(b.memory_type, T_COHERENT);
    OK(acre_vk_free(w.vk, b.handle));
    acre_vk_request only_there = {.usage = ACRE_VK_GPU_MAPPED, .category = 1, .type_bits = 1u << T_BAR};
    REFUSED(ACRE_OVER_BUDGET, try_take(16 * MIB, &only_there, &b));
    acre_vk_request lenient = {.usage = ACRE_VK_GPU_MAPPED, .category = 2};
    b = take(16 * MIB, &lenient);
    assert_int_equal(b.memory_type, T_BAR);
    assert_true(heap_stats(2).held_bytes > 32 * MIB);
    assert_int_equal(category_stats(2).exceeded, 1);
    OK(acre_vk_free(w.vk, b.handle));
    for (int i = 0; i < count; i++) OK(acre_vk_free(w.vk, a[i].handle));
    OK(acre_vk_set_heap_budget(w.vk, 2, 100 * MIB));
    b = take(64 * MIB, &strict);
    assert_int_equal(b.memory_type, T_BAR);
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_set_heap_budget(w.vk, 3, MIB));
    world_close(1);
}

static void the_drivers_budget_is_followed_as_it_moves(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_request dedicated = {.flags = ACRE_VK_DEDICATED};
    acre_vk_allocation a = take(64 * MIB, &dedicated), b;
    fake_vk_set_budget(w.gpu, 0, 100 * MIB, 10 * MIB);
    w.now_ms += 1000;
    acre_vk_collect(w.vk);
    acre_gpu_heap_stats s = heap_stats(0);
    assert_int_equal(s.other_bytes, 10 * MIB);
    assert_true(s.budget_bytes <= 100 * MIB && s.budget_bytes >= 90 * MIB);
    REFUSED(ACRE_OVER_BUDGET, try_take(32 * MIB, &dedicated, &b)); /* 64 + 10 + 32 */
    b = take(16 * MIB, &dedicated);
    OK(acre_vk_free(w.vk, b.handle));
    fake_vk_set_budget(w.gpu, 0, 0, 0);
    w.now_ms += 1000;
    acre_vk_collect(w.vk);
    b = take(32 * MIB, &dedicated);
    OK(acre_vk_free(w.vk, b.handle));
    OK(acre_vk_free(w.vk, a.handle));
    world_close(0);
}

static void without_a_drivers_budget_the_heap_itself_is_the_measure(void **state)
{
    (void)state;
    world_open(&(fake_vk_options){.without = FAKE_VK_NO_BUDGET}, NULL);
    acre_gpu_heap_stats s = heap_stats(2);
    assert_true(s.budget_bytes <= 205 * MIB && s.budget_bytes >= 204 * MIB); /* 80% of 256 */
    assert_int_equal(s.other_bytes, 0);
    acre_vk_request bar = {.usage = ACRE_VK_GPU_MAPPED, .type_bits = 1u << T_BAR, .flags = ACRE_VK_DEDICATED};
    acre_vk_allocation a = take(150 * MIB, &bar), b;
    REFUSED(ACRE_OVER_BUDGET, try_take(60 * MIB, &bar, &b));
    OK(acre_vk_free(w.vk, a.handle));
    world_close(0);
}

static void over_budget_empty_memory_goes_first(void **state)
{
    (void)state;
    world_open(NULL, &(acre_vk_options){.heap_budgets = {0, 100 * MIB, 0}, .empty_live_percent = 1000000});
    acre_vk_request upload = {.usage = ACRE_VK_UPLOAD}, readback = {.usage = ACRE_VK_READBACK};
    acre_vk_allocation a[20];
    for (int i = 0; i < 20; i++) a[i] = take(4 * MIB, &upload);
    for (int i = 0; i < 20; i++) OK(acre_vk_free(w.vk, a[i].handle));
    assert_true(heap_stats(1).held_bytes >= 80 * MIB);
    for (int i = 0; i < 20; i++) { /* another memory type of the same heap */
        a[i] = take(4 * MIB, &readback);
        assert_int_equal(a[i].memory_type, T_CACHED);
        assert_true(heap_stats(1).held_bytes <= 100 * MIB);
    }
    for (int i = 0; i < 20; i++) OK(acre_vk_free(w.vk, a[i].handle));
    world_close(0);
}

/* --- the driver's end --------------------------------------------------------------------------------------------- */

static void when_the_driver_has_no_more_the_status_and_the_result_say_so(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "strict"}, {.name = "elsewhere", .at_limit = ACRE_GPU_OTHER_MEMORY}};
    world_open(&(fake_vk_options){.without = FAKE_VK_NO_BUDGET},
               &(acre_vk_options){.categories = rows, .category_count = 2});
    acre_vk_request bar = {.usage = ACRE_VK_GPU_MAPPED}, elsewhere = {.usage = ACRE_VK_GPU_MAPPED, .category = 1};
    fake_vk_set_taken(w.gpu, 2, 256 * MIB);
    acre_vk_allocation a;
    REFUSED(ACRE_NO_MEMORY, try_take(MIB, &bar, &a));
    assert_int_equal(acre_vk_last_result(), VK_ERROR_OUT_OF_DEVICE_MEMORY);
    acre_gpu_shortage s;
    assert_true(acre_vk_last_shortage(w.vk, &s));
    assert_int_equal(s.status, ACRE_NO_MEMORY);
    assert_int_equal(s.driver_result, VK_ERROR_OUT_OF_DEVICE_MEMORY);
    assert_string_equal(s.driver_call, "vkAllocateMemory");
    assert_int_equal(s.bytes, MIB);
    assert_int_equal(s.heap, 2);
    assert_string_equal(s.category_name, "strict");
    a = take(MIB, &elsewhere);
    assert_int_equal(a.memory_type, T_COHERENT);
    OK(acre_vk_free(w.vk, a.handle));
    fake_vk_set_taken(w.gpu, 2, 254 * MIB); /* a page of the usual size does not fit, a smaller one does */
    a = take(256 * KIB, &bar);
    assert_int_equal(a.memory_type, T_BAR);
    OK(acre_vk_free(w.vk, a.handle));
    world_close(0);
}

static void pages_shrink_when_the_driver_has_little_left(void **state)
{
    (void)state;
    world_open(&(fake_vk_options){.without = FAKE_VK_NO_BUDGET}, &(acre_vk_options){.heap_budgets = {8 * GIB}});
    for (int i = 0; i < 200; i++) take(MIB, NULL);
    VkDeviceSize used = fake_vk_heap_used(w.gpu, 0);
    fake_vk_set_taken(w.gpu, 0, 8 * GIB - used - 3 * MIB);
    acre_vk_allocation a;
    int more = 0;
    while (try_take(MIB, NULL, &a) == ACRE_OK) more++;
    VkDeviceSize holes = heap_stats(0).hole_bytes + heap_stats(0).empty_bytes;
    assert_true(holes < MIB + 64 * KIB);
    assert_true(more >= 3);
    world_close(200 + (uint64_t)more);
}

static void more_allocations_than_the_device_allows_are_not_asked_for(void **state)
{
    (void)state;
    world_open(&(fake_vk_options){.allocations_max = 20}, NULL);
    acre_vk_request dedicated = {.flags = ACRE_VK_DEDICATED};
    acre_vk_allocation a[32];
    int count = 0;
    acre_status status = ACRE_OK;
    while (count < 32 && (status = try_take(MIB, &dedicated, &a[count])) == ACRE_OK) count++;
    assert_int_equal(status, ACRE_NO_MEMORY);
    assert_true(count >= 16 && count <= 20); /* the checker would have counted the 21st */
    for (int i = 0; i < count; i++) OK(acre_vk_free(w.vk, a[i].handle));
    world_close(0);
}

/* --- on_limit ----------------------------------------------------------------------------------------------------- */

static struct limit {
    int calls;
    uint64_t to_free[8];
    int free_count;
    uint64_t raise_to;
    bool give_up, allocate;
    acre_gpu_shortage last;
} limit;

static bool on_limit(void *context, const acre_gpu_shortage *shortage)
{
    struct limit *l = context;
    l->calls++;
    l->last = *shortage;
    if (l->give_up) return false;
    if (l->allocate) { /* it may allocate: from another category */
        acre_vk_request other = {.category = 1};
        acre_vk_allocation a = take(1000, &other);
        OK(acre_vk_free(w.vk, a.handle));
    }
    if (l->raise_to) OK(acre_vk_set_category_budget(w.vk, 0, l->raise_to));
    if (l->free_count > 0) OK(acre_vk_free(w.vk, l->to_free[--l->free_count]));
    return true;
}

static void the_callback_frees_or_raises_and_the_request_is_tried_again(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "textures", .budget_bytes = 4 * MIB}, {.name = "rest"}};
    memset(&limit, 0, sizeof limit);
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 2, .on_limit = on_limit,
                                        .on_limit_context = &limit});
    acre_vk_allocation a[4], b, c;
    for (int i = 0; i < 4; i++) a[i] = take(MIB, NULL);
    assert_int_equal(limit.calls, 0);
    limit.to_free[0] = a[3].handle;
    limit.free_count = 1;
    limit.allocate = true;
    b = take(MIB, NULL);
    assert_int_equal(limit.calls, 1);
    assert_int_equal(limit.last.status, ACRE_OVER_BUDGET);
    assert_int_equal(limit.last.bytes, MIB);
    assert_string_equal(limit.last.category_name, "textures");
    assert_int_equal(limit.last.category_stats.live_bytes, 4 * MIB);
    assert_int_equal(category_stats(0).failed, 0);

    limit.give_up = true;
    REFUSED(ACRE_OVER_BUDGET, try_take(MIB, NULL, &c));
    assert_int_equal(limit.calls, 2);
    assert_int_equal(category_stats(0).failed, 1);
    acre_vk_request within = {.flags = ACRE_VK_WITHIN_BUDGET};
    REFUSED(ACRE_OVER_BUDGET, try_take(MIB, &within, &c));
    assert_int_equal(limit.calls, 2);

    limit.give_up = false;
    limit.raise_to = 8 * MIB;
    c = take(MIB, NULL);
    assert_int_equal(limit.calls, 3);
    for (int i = 0; i < 3; i++) OK(acre_vk_free(w.vk, a[i].handle));
    OK(acre_vk_free(w.vk, b.handle));
    OK(acre_vk_free(w.vk, c.handle));
    world_close(0);
}

static void a_callback_that_only_promises_does_not_hang(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "textures", .budget_bytes = MIB}, {.name = "rest"}};
    memset(&limit, 0, sizeof limit);
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 2, .on_limit = on_limit,
                                        .on_limit_context = &limit});
    acre_vk_allocation a;
    REFUSED(ACRE_OVER_BUDGET, try_take(2 * MIB, NULL, &a)); /* true, and nothing was done */
    assert_true(limit.calls >= 1 && limit.calls <= 8);
    world_close(0);
}

static void the_callback_hears_of_the_drivers_end_too(void **state)
{
    (void)state;
    memset(&limit, 0, sizeof limit);
    world_open(&(fake_vk_options){.without = FAKE_VK_NO_BUDGET},
               &(acre_vk_options){.on_limit = on_limit, .on_limit_context = &limit, .empty_bytes_max = 1});
    acre_vk_request bar = {.usage = ACRE_VK_GPU_MAPPED, .type_bits = 1u << T_BAR, .flags = ACRE_VK_DEDICATED};
    acre_vk_allocation a = take(100 * MIB, &bar), b;
    fake_vk_set_taken(w.gpu, 2, 150 * MIB);
    limit.to_free[0] = a.handle;
    limit.free_count = 1;
    b = take(50 * MIB, &bar);
    assert_int_equal(limit.calls, 1);
    assert_int_equal(limit.last.status, ACRE_NO_MEMORY);
    assert_int_equal(limit.last.driver_result, VK_ERROR_OUT_OF_DEVICE_MEMORY);
    OK(acre_vk_free(w.vk, b.handle));
    world_close(0);
}

/* --- the report --------------------------------------------------------------------------------------------------- */

static void the_report_names_who_asked_and_what_memory_looks_like(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "shadows"}, {.name = "textures"}, {.name = "meshes"}, {.name = "ui"}};
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 4, .page_bytes_min = 16 * MIB,
                                        .page_bytes_max = 16 * MIB, .heap_budgets = {16 * MIB},
                                        .cache_bytes_max = 1});
    acre_gpu_shortage s;
    assert_false(acre_vk_last_shortage(w.vk, &s));
    acre_vk_allocation a[16];
    for (int i = 0; i < 16; i++) {
        acre_vk_request request = {.category = i % 2 ? 1u : i < 4 ? 2u : 3u};
        a[i] = take(MIB, &request);
    }
    for (int i = 1; i < 16; i += 4) OK(acre_vk_free(w.vk, a[i].handle)); /* four holes of 1 MiB */
    acre_vk_allocation b;
    acre_vk_request request = {.category = 0};
    VkMemoryRequirements need = needs(3 * MIB, 4096, 1u << T_DEVICE);
    REFUSED(ACRE_OVER_BUDGET, acre_vk_alloc(w.vk, &need, &request, &b));
    assert_true(acre_vk_last_shortage(w.vk, &s));
    assert_int_equal(s.status, ACRE_OVER_BUDGET);
    assert_int_equal(s.bytes, 3 * MIB);
    assert_int_equal(s.alignment, 4096);
    assert_int_equal(s.category, 0);
    assert_string_equal(s.category_name, "shadows");
    assert_int_equal(s.heap, 0);
    assert_int_equal(s.largest_hole_bytes, MIB);
    assert_true(s.fragmentation > 0.74 && s.fragmentation < 0.76); /* 1 of 4 MiB in the largest */
    assert_int_equal(s.heap_stats.held_bytes, 16 * MIB);
    assert_int_equal(s.heap_stats.live_bytes, 12 * MIB);
    assert_int_equal(s.heap_stats.hole_bytes, 4 * MIB);
    assert_int_equal(s.category_stats.failed, 1);
    assert_int_equal(s.top_count, 3);
    assert_string_equal(s.top[0].name, "ui");
    assert_int_equal(s.top[0].bytes, 6 * MIB);
    assert_string_equal(s.top[1].name, "textures");
    assert_int_equal(s.top[1].bytes, 4 * MIB);
    assert_string_equal(s.top[2].name, "meshes");
    char text[4096];
    size_t length = acre_gpu_shortage_text(&s, text, sizeof text);
    assert_true(length > 0 && length < sizeof text);
    assert_non_null(strstr(text, "shadows"));
    assert_non_null(strstr(text, "textures"));
    for (int i = 0; i < 16; i++)
        if (i % 4 != 1) OK(acre_vk_free(w.vk, a[i].handle));
    world_close(0);
}

/* --- empty memory ------------------------------------------------------------------------------------------------- */

static void a_frame_that_frees_all_and_asks_again_never_reaches_the_driver(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_allocation a[24];
    uint64_t calls = 0;
    for (int frame = 0; frame < 500; frame++) {
        for (int i = 0; i < 24; i++) a[i] = take((VkDeviceSize)(1 + i % 5) * MIB + (VkDeviceSize)i * 4096, NULL);
        for (int i = 0; i < 24; i++) OK(acre_vk_free(w.vk, a[i].handle));
        w.now_ms += 16;
        acre_vk_collect(w.vk);
        if (frame == 3) calls = fake_vk_count(w.gpu, FAKE_VK_AllocateMemory);
    }
    assert_int_equal(fake_vk_count(w.gpu, FAKE_VK_AllocateMemory), calls);
    world_check();
    world_close(0);
}

static void empty_memory_goes_back_when_it_is_old(void **state)
{
    (void)state;
    world_open(NULL, &(acre_vk_options){.empty_delay_ms = 500});
    acre_vk_allocation a[30];
    assert_int_equal(acre_vk_next_collect_ms(w.vk), UINT64_MAX);
    for (int i = 0; i < 30; i++) a[i] = take(5 * MIB, NULL);
    for (int i = 0; i < 30; i++) OK(acre_vk_free(w.vk, a[i].handle));
    assert_true(heap_stats(0).held_bytes >= 150 * MIB);
    assert_true(acre_vk_next_collect_ms(w.vk) <= 500);
    w.now_ms += 49; /* less than a tenth of the delay: all of it is kept */
    acre_vk_collect(w.vk);
    assert_true(heap_stats(0).held_bytes >= 150 * MIB);
    w.now_ms += 600;
    acre_vk_collect(w.vk);
    assert_int_equal(heap_stats(0).held_bytes, 0);
    assert_int_equal(heap_stats(0).empty_bytes, 0);
    assert_true(heap_stats(0).held_peak_bytes >= 150 * MIB);
    assert_int_equal(fake_vk_live_memories(w.gpu), 0);
    assert_int_equal(acre_vk_next_collect_ms(w.vk), UINT64_MAX);
    world_close(0);
}

static void after_a_phase_no_more_is_kept_than_half_of_what_lives(void **state)
{
    (void)state;
    world_open(NULL, &(acre_vk_options){.empty_delay_ms = 10000});
    enum { COUNT = 100 };
    acre_vk_allocation a[COUNT];
    for (int i = 0; i < COUNT; i++) a[i] = take(2 * MIB, NULL);
    for (int i = 20; i < COUNT; i++) OK(acre_vk_free(w.vk, a[i].handle));
    w.now_ms += 2000; /* older than a tenth of the delay */
    acre_vk_collect(w.vk);
    acre_gpu_heap_stats s = heap_stats(0);
    assert_int_equal(s.live_bytes, 40 * MIB);
    assert_true(s.empty_bytes <= 20 * MIB);
    for (int i = 0; i < 20; i++) OK(acre_vk_free(w.vk, a[i].handle));
    world_close(0);
}

static void empty_memory_can_be_bounded_refused_and_trimmed(void **state)
{
    (void)state;
    world_open(NULL, &(acre_vk_options){.empty_bytes_max = 1, .cache_bytes_max = 1});
    acre_vk_allocation a = take(3 * MIB, NULL);
    OK(acre_vk_free(w.vk, a.handle));
    acre_vk_collect(w.vk);
    assert_int_equal(fake_vk_live_memories(w.gpu), 0); /* none is kept */
    world_close(0);

    world_open(NULL, &(acre_vk_options){.empty_bytes_max = 64 * MIB, .empty_delay_ms = UINT32_MAX,
                                        .empty_live_percent = 1000000, .page_bytes_max = 32 * MIB});
    acre_vk_allocation b[40];
    for (int i = 0; i < 40; i++) b[i] = take(5 * MIB, NULL);
    for (int i = 0; i < 40; i++) OK(acre_vk_free(w.vk, b[i].handle));
    acre_vk_collect(w.vk);
    assert_true(heap_stats(0).empty_bytes <= 64 * MIB && heap_stats(0).empty_bytes > 0);
    w.now_ms += 1000ull * 3600 * 24 * 365;
    acre_vk_collect(w.vk);
    assert_true(heap_stats(0).empty_bytes > 0); /* never by age */
    uint64_t before = heap_stats(0).held_bytes, gave = acre_vk_trim(w.vk, 0);
    assert_int_equal(heap_stats(0).held_bytes, before - gave);
    assert_int_equal(heap_stats(0).held_bytes, 0);
    assert_int_equal(acre_vk_trim(w.vk, 0), 0);
    world_close(0);
}

/* --- statistics --------------------------------------------------------------------------------------------------- */

static void statistics_add_up_through_a_random_life(void **state)
{
    (void)state;
    enum { SLOTS = 200, STEPS = 8000, CATEGORIES = 3 };
    const acre_gpu_category rows[CATEGORIES] = {{.name = "a"}, {.name = "b"}, {.name = "c"}};
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = CATEGORIES});
    static struct { acre_vk_allocation a; uint32_t category; } slot[SLOTS];
    uint64_t live[CATEGORIES] = {0}, blocks[CATEGORIES] = {0}, seed = 5;
    for (int step = 0; step < STEPS; step++) {
        int i = (int)(next_random(&seed) % SLOTS);
        if (slot[i].a.handle) {
            OK(acre_vk_free(w.vk, slot[i].a.handle));
            live[slot[i].category] -= slot[i].a.size;
            blocks[slot[i].category]--;
            slot[i].a.handle = 0;
        } else {
            acre_vk_request request = {.usage = (acre_vk_usage)(next_random(&seed) % ACRE_VK_LAZY),
                                       .category = (uint32_t)(next_random(&seed) % CATEGORIES),
                                       .flags = next_random(&seed) % 50 == 0 ? ACRE_VK_DEDICATED : 0};
            slot[i].a = take(1 + next_random(&seed) % (300 * KIB), &request);
            slot[i].category = request.category;
            live[slot[i].category] += slot[i].a.size;
            blocks[slot[i].category]++;
        }
        if (step % 500 != 499) continue;
        w.now_ms += 700;
        acre_vk_collect(w.vk);
        world_check();
        uint64_t by_heap = 0, by_category = 0, held = 0, blocks_by_heap = 0;
        for (uint32_t h = 0; h < 3; h++) {
            acre_gpu_heap_stats s = heap_stats(h);
            by_heap += s.live_bytes;
            held += s.held_bytes;
            blocks_by_heap += s.blocks;
            assert_int_equal(s.held_bytes, fake_vk_heap_used(w.gpu, h));
        }
        for (uint32_t c = 0; c < CATEGORIES; c++) {
            acre_gpu_category_stats s = category_stats(c);
            assert_int_equal(s.live_bytes, live[c]);
            assert_int_equal(s.blocks, blocks[c]);
            assert_true(s.peak_bytes >= s.live_bytes);
            by_category += s.live_bytes;
        }
        assert_int_equal(by_heap, by_category);
        assert_int_equal(blocks_by_heap, blocks[0] + blocks[1] + blocks[2]);
        acre_vk_stats all = all_stats();
        assert_int_equal(all.total.live_bytes, by_heap);
        assert_int_equal(all.total.held_bytes, held);
        assert_int_equal(all.total.driver_calls, fake_vk_count(w.gpu, FAKE_VK_AllocateMemory) +
                                                     fake_vk_count(w.gpu, FAKE_VK_FreeMemory));
        assert_true(all.bookkeeping_bytes > 0);
        assert_false(all.device_lost);
    }
    for (int i = 0; i < SLOTS; i++)
        if (slot[i].a.handle) OK(acre_vk_free(w.vk, slot[i].a.handle));
    assert_int_equal(all_stats().total.live_bytes, 0);
    world_close(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORLD_TEST(a_category_at_its_budget_fails_or_exceeds_as_it_says),
        WORLD_TEST(a_freed_block_that_a_budget_keeps_back_is_not_lost),
        WORLD_TEST(a_table_of_categories_that_makes_no_sense_is_refused),
        WORLD_TEST(a_heap_at_its_budget_fails_goes_elsewhere_or_exceeds),
        WORLD_TEST(the_drivers_budget_is_followed_as_it_moves),
        WORLD_TEST(without_a_drivers_budget_the_heap_itself_is_the_measure),
        WORLD_TEST(over_budget_empty_memory_goes_first),
        WORLD_TEST(when_the_driver_has_no_more_the_status_and_the_result_say_so),
        WORLD_TEST(pages_shrink_when_the_driver_has_little_left),
        WORLD_TEST(more_allocations_than_the_device_allows_are_not_asked_for),
        WORLD_TEST(the_callback_frees_or_raises_and_the_request_is_tried_again),
        WORLD_TEST(a_callback_that_only_promises_does_not_hang),
        WORLD_TEST(the_callback_hears_of_the_drivers_end_too),
        WORLD_TEST(the_report_names_who_asked_and_what_memory_looks_like),
        WORLD_TEST(a_frame_that_frees_all_and_asks_again_never_reaches_the_driver),
        WORLD_TEST(empty_memory_goes_back_when_it_is_old),
        WORLD_TEST(after_a_phase_no_more_is_kept_than_half_of_what_lives),
        WORLD_TEST(empty_memory_can_be_bounded_refused_and_trimmed),
        WORLD_TEST(statistics_add_up_through_a_random_life),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
