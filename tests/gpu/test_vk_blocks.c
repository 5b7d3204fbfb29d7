/* test_vk_blocks: blocks of <acre/vulkan.h> on the fake device: sub-allocation, dedicated memory, granularity,
 * aliasing, priorities, pools, swaps, handles. The fake's checker sees to it that nothing overlaps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "vk_world.h"

/* --- sub-allocation ----------------------------------------------------------------------------------------------- */

static void many_blocks_share_few_driver_allocations(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    enum { COUNT = 4000 };
    static acre_vk_allocation a[COUNT];
    static uint64_t claim[COUNT];
    for (int i = 0; i < COUNT; i++) {
        a[i] = take(4096, NULL);
        assert_false(a[i].dedicated);
        assert_null(a[i].mapped);
        claim[i] = fake_vk_claim(w.gpu, a[i].memory, a[i].offset, a[i].size, true);
    }
    world_check();
    assert_true(fake_vk_count(w.gpu, FAKE_VK_AllocateMemory) <= 8);
    assert_true(heap_stats(0).held_bytes <= 2 * COUNT * 4096ull + 8 * MIB);
    assert_int_equal(heap_stats(0).blocks, COUNT);
    assert_true(heap_stats(0).live_bytes >= COUNT * 4096ull);
    for (int i = 0; i < COUNT; i++) {
        fake_vk_drop_claim(w.gpu, claim[i]);
        OK(acre_vk_free(w.vk, a[i].handle));
    }
    assert_int_equal(heap_stats(0).live_bytes, 0);
    assert_int_equal(heap_stats(0).blocks, 0);
    world_close(0);
}

static void pages_begin_small_and_grow_with_use(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    take(1024, NULL);
    VkDeviceSize first = fake_vk_heap_used(w.gpu, UINT32_MAX), largest = 0;
    assert_true(first <= 16 * MIB);
    for (int i = 0; i < 600; i++) take(MIB, NULL);
    fake_vk_memory_info pages[256];
    uint32_t count = fake_vk_list_memories(w.gpu, pages, 256);
    for (uint32_t i = 0; i < count; i++) largest = pages[i].size > largest ? pages[i].size : largest;
    assert_true(count < 64);
    assert_true(largest > first && largest <= 128 * MIB);
    world_close(601);
}

static void random_blocks_never_overlap_and_keep_their_alignment(void **state)
{
    (void)state;
    world_open(&(fake_vk_options){.buffer_image_granularity = 4096}, NULL);
    enum { SLOTS = 300, STEPS = 20000 };
    static struct { acre_vk_allocation a; uint64_t claim; } slot[SLOTS];
    uint64_t seed = 1;
    for (int step = 0; step < STEPS; step++) {
        int i = (int)(next_random(&seed) % SLOTS);
        if (slot[i].a.handle != 0) {
            fake_vk_drop_claim(w.gpu, slot[i].claim);
            OK(acre_vk_free(w.vk, slot[i].a.handle));
            slot[i].a.handle = 0;
            continue;
        }
        VkDeviceSize size = 1 + next_random(&seed) % (1u << (6 + next_random(&seed) % 16));
        VkDeviceSize alignment = 1u << (next_random(&seed) % 18);
        VkMemoryRequirements need = needs(size, alignment, 1u << next_random(&seed) % 5);
        OK(acre_vk_alloc(w.vk, &need, NULL, &slot[i].a));
        assert_true(slot[i].a.size >= size);
        assert_int_equal(slot[i].a.offset % alignment, 0);
        assert_true(need.memoryTypeBits >> slot[i].a.memory_type & 1);
        slot[i].claim = fake_vk_claim(w.gpu, slot[i].a.memory, slot[i].a.offset, size, true);
        if (step % 2000 == 0) world_check();
    }
    for (int i = 0; i < SLOTS; i++) {
        if (slot[i].a.handle == 0) continue;
        fake_vk_drop_claim(w.gpu, slot[i].claim);
        OK(acre_vk_free(w.vk, slot[i].a.handle));
    }
    world_close(0);
}

static void the_requests_own_alignment_counts(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    for (VkDeviceSize alignment = 64; alignment <= MIB; alignment *= 4) {
        acre_vk_request request = {.alignment = alignment};
        assert_int_equal(take(100, &request).offset % alignment, 0);
    }
    acre_vk_allocation a;
    VkMemoryRequirements need = needs(100, 64, T_ALL);
    acre_vk_request crooked = {.alignment = 48};
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_alloc(w.vk, &need, &crooked, &a));
    world_close(8);
}

static void what_cannot_be_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_allocation a = {.handle = 77};
    VkMemoryRequirements need = needs(0, 64, T_ALL);
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_alloc(w.vk, &need, NULL, &a));
    need = needs(64, 48, T_ALL);
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_alloc(w.vk, &need, NULL, &a));
    need = needs(9 * GIB, 64, 1u << T_DEVICE); /* the heap has 8 */
    REFUSED(ACRE_TOO_LARGE, acre_vk_alloc(w.vk, &need, NULL, &a));
    need = needs(UINT64_MAX - 100, 64, T_ALL);
    REFUSED(ACRE_TOO_LARGE, acre_vk_alloc(w.vk, &need, NULL, &a));
    need = needs(64, 64, T_ALL);
    acre_vk_request request = {.category = 1};
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_alloc(w.vk, &need, &request, &a));
    request = (acre_vk_request){.flags = 1u << 30};
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_alloc(w.vk, &need, &request, &a));
    request = (acre_vk_request){.flags = ACRE_VK_NEVER_ALLOCATE};
    REFUSED(ACRE_NO_MEMORY, acre_vk_alloc(w.vk, &need, &request, &a));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_alloc(w.vk, NULL, NULL, &a));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_alloc(w.vk, &need, NULL, NULL));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_alloc(NULL, &need, NULL, &a));
    assert_int_equal(a.handle, 77);
    assert_int_equal(fake_vk_count(w.gpu, FAKE_VK_AllocateMemory), 0);
    acre_vk_allocation first = take(64, NULL);
    OK(acre_vk_alloc(w.vk, &need, &(acre_vk_request){.flags = ACRE_VK_NEVER_ALLOCATE}, &a));
    assert_true(a.memory == first.memory);
    world_close(2);
}

static void allocate_many_is_all_or_none(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    enum { COUNT = 40 };
    acre_vk_allocation a[COUNT];
    VkMemoryRequirements need = needs(10000, 256, T_ALL);
    OK(acre_vk_alloc_many(w.vk, &need, NULL, COUNT, a));
    for (int i = 0; i < COUNT; i++) fake_vk_claim(w.gpu, a[i].memory, a[i].offset, need.size, true);
    assert_int_equal(heap_stats(0).blocks, COUNT);
    world_check();
    uint64_t live = heap_stats(0).live_bytes;
    need.size = GIB; /* the eighth does not fit into 8 GiB */
    acre_vk_allocation more[9] = {{.handle = 5}};
    acre_status status = acre_vk_alloc_many(w.vk, &need, NULL, 9, more);
    assert_true(status == ACRE_NO_MEMORY || status == ACRE_OVER_BUDGET);
    assert_int_equal(more[0].handle, 5);
    assert_int_equal(heap_stats(0).live_bytes, live);
    assert_int_equal(heap_stats(0).blocks, COUNT);
    /* The claims of the test end with it. */
    for (int i = 0; i < COUNT; i++) OK(acre_vk_free(w.vk, a[i].handle));
    assert_int_equal(heap_stats(0).blocks, 0);
    for (uint64_t id = 0x10000; fake_vk_live_resources(w.gpu) != 0; id += 16) {
        fake_vk_resource_info r;
        if (fake_vk_get_resource(w.gpu, id, &r)) fake_vk_drop_claim(w.gpu, id);
    }
    world_close(0);
}

/* --- handles ------------------------------------------------------------------------------------------------------ */

static void stale_and_foreign_handles_are_told_apart(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_allocation a = take(4096, NULL), b = take(4096, NULL);
    OK(acre_vk_free(w.vk, a.handle));
    REFUSED(ACRE_DOUBLE_FREE, acre_vk_free(w.vk, a.handle));
    acre_vk_allocation c = take(4096, NULL); /* perhaps in a's place */
    assert_true(c.handle != a.handle);
    REFUSED(ACRE_DOUBLE_FREE, acre_vk_free(w.vk, a.handle));
    void *p;
    acre_vk_block_info info;
    VkBuffer none = VK_NULL_HANDLE;
    REFUSED(ACRE_DOUBLE_FREE, acre_vk_map(w.vk, a.handle, &p));
    REFUSED(ACRE_DOUBLE_FREE, acre_vk_unmap(w.vk, a.handle));
    REFUSED(ACRE_DOUBLE_FREE, acre_vk_flush(w.vk, a.handle, 0, 1));
    REFUSED(ACRE_DOUBLE_FREE, acre_vk_get_info(w.vk, a.handle, &info));
    REFUSED(ACRE_DOUBLE_FREE, acre_vk_set_tag(w.vk, a.handle, 1));
    REFUSED(ACRE_DOUBLE_FREE, acre_vk_swap(w.vk, a.handle, b.handle));
    REFUSED(ACRE_DOUBLE_FREE, acre_vk_destroy_buffer(w.vk, none, a.handle));
    const uint64_t foreign[] = {1, 12345, UINT64_MAX, b.handle ^ (1ull << 31)};
    for (int i = 0; i < 4; i++) {
        acre_status status = acre_vk_free(w.vk, foreign[i]);
        if (status != ACRE_FOREIGN_POINTER && status != ACRE_DOUBLE_FREE)
            fail_msg("%#lx: %s", (unsigned long)foreign[i], acre_status_name(status));
    }
    REFUSED(ACRE_FOREIGN_POINTER, acre_vk_free(w.vk, UINT64_MAX));
    REFUSED(ACRE_FOREIGN_POINTER, acre_vk_get_info(w.vk, UINT64_MAX, &info));
    OK(acre_vk_free(w.vk, 0));
    OK(acre_vk_free(w.vk, b.handle));
    OK(acre_vk_free(w.vk, c.handle));
    REFUSED(ACRE_DOUBLE_FREE, acre_vk_free(w.vk, c.handle));
    world_close(0);
}

static void blocks_carry_a_name_a_tag_and_their_story(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "geometry"}, {.name = "textures"}};
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 2});
    acre_vk_request request = {.usage = ACRE_VK_UPLOAD, .category = 1, .tag = 42, .name = "atlas"};
    acre_vk_allocation a = take(5000, &request);
    acre_vk_block_info info;
    OK(acre_vk_get_info(w.vk, a.handle, &info));
    assert_memory_equal(&info.allocation.memory, &a.memory, sizeof a.memory);
    assert_int_equal(info.allocation.offset, a.offset);
    assert_int_equal(info.allocation.handle, a.handle);
    assert_int_equal(info.category, 1);
    assert_int_equal(info.heap, 1);
    assert_int_equal(info.tag, 42);
    assert_string_equal(info.name, "atlas");
    assert_false(info.pending);
    assert_null(info.pool);
    fake_vk_memory_info m;
    assert_true(fake_vk_get_memory(w.gpu, a.memory, &m));
    assert_int_equal(info.page_bytes, m.size);
    OK(acre_vk_set_tag(w.vk, a.handle, 43));
    OK(acre_vk_set_name(w.vk, a.handle, "a name that is much longer than thirty-one characters"));
    OK(acre_vk_get_info(w.vk, a.handle, &info));
    assert_int_equal(info.tag, 43);
    assert_int_equal(strlen(info.name), ACRE_GPU_NAME_MAX);
    OK(acre_vk_set_name(w.vk, a.handle, NULL));
    OK(acre_vk_get_info(w.vk, a.handle, &info));
    assert_string_equal(info.name, "");
    world_close(1);
}

typedef struct seen { uint64_t handles[64]; int count, stop_at; uint64_t bytes; int pages, dedicated; } seen;
static bool see(void *context, const acre_vk_block_info *block)
{
    seen *s = context;
    s->handles[s->count++] = block->allocation.handle;
    s->bytes += block->allocation.size;
    return s->count != s->stop_at;
}
static bool see_page(void *context, const acre_vk_page_info *page)
{
    seen *s = context;
    s->pages++;
    s->dedicated += page->dedicated;
    assert_true(page->used_bytes <= page->bytes);
    fake_vk_memory_info m;
    assert_true(fake_vk_get_memory(w.gpu, page->memory, &m));
    assert_int_equal(m.size, page->bytes);
    assert_int_equal(m.type, page->memory_type);
    return true;
}
static void walks_and_the_report_show_every_block(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    enum { COUNT = 20 };
    acre_vk_allocation a[COUNT];
    for (int i = 0; i < COUNT; i++) {
        acre_vk_request request = {.usage = i % 2 ? ACRE_VK_UPLOAD : ACRE_VK_GPU, .name = i == 7 ? "seven\"" : NULL,
                                   .flags = i == 9 ? ACRE_VK_DEDICATED : 0};
        a[i] = take((VkDeviceSize)(i + 1) * 1000, &request);
    }
    seen s = {.stop_at = -1};
    OK(acre_vk_walk(w.vk, see, &s));
    assert_int_equal(s.count, COUNT);
    assert_int_equal(s.bytes, all_stats().total.live_bytes);
    for (int i = 0; i < COUNT; i++) {
        int found = 0;
        for (int k = 0; k < COUNT; k++) found += s.handles[k] == a[i].handle;
        assert_int_equal(found, 1);
    }
    s = (seen){.stop_at = 3};
    OK(acre_vk_walk(w.vk, see, &s));
    assert_int_equal(s.count, 3);
    OK(acre_vk_walk_pages(w.vk, see_page, &s));
    assert_int_equal(s.pages, fake_vk_live_memories(w.gpu));
    assert_int_equal(s.dedicated, 1);
    size_t bytes = acre_vk_report(w.vk, true, NULL, 0);
    char *text = malloc(bytes + 1), small[10];
    assert_int_equal(acre_vk_report(w.vk, true, text, bytes + 1), bytes);
    assert_int_equal(strlen(text), bytes);
    assert_true(text[0] == '{' && text[bytes - 1 - (text[bytes - 1] == '\n')] == '}');
    assert_non_null(strstr(text, "seven\\\""));
    assert_true(acre_vk_report(w.vk, false, small, sizeof small) > sizeof small);
    assert_int_equal(strlen(small), 9);
    free(text);
    world_close(COUNT);
}

/* --- dedicated ---------------------------------------------------------------------------------------------------- */

static VkBuffer new_buffer(VkDeviceSize size)
{
    VkBufferCreateInfo info = fake_vk_buffer_info(size, 0);
    VkBuffer buffer = VK_NULL_HANDLE;
    assert_int_equal(FAKE_VK_FN(w.gpu, vkCreateBuffer)(w.device, &info, NULL, &buffer), VK_SUCCESS);
    return buffer;
}
static VkImage new_image(VkImageCreateInfo info)
{
    VkImage image = VK_NULL_HANDLE;
    assert_int_equal(FAKE_VK_FN(w.gpu, vkCreateImage)(w.device, &info, NULL, &image), VK_SUCCESS);
    return image;
}

static void drivers_and_programs_can_ask_for_dedicated_memory(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkBuffer plain = new_buffer(10000);
    fake_vk_set_dedicated(w.gpu, true, false);
    VkBuffer prefers = new_buffer(10000);
    fake_vk_set_dedicated(w.gpu, true, true);
    VkBuffer requires = new_buffer(10000);
    VkImage image = new_image(fake_vk_image_info(64, 64, 0, 0));
    fake_vk_set_dedicated(w.gpu, false, false);
    acre_vk_allocation a;
    acre_vk_request dedicated = {.flags = ACRE_VK_DEDICATED}, shared = {.flags = ACRE_VK_SHARED};
    fake_vk_memory_info m;
    struct { VkBuffer buffer; const acre_vk_request *request; bool dedicated; } cases[] = {
        {plain, NULL, false},   {plain, &dedicated, true},   {prefers, NULL, true},
        {prefers, &shared, false}, {requires, NULL, true}, {requires, &shared, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        OK(acre_vk_alloc_for_buffer(w.vk, cases[i].buffer, cases[i].request, &a));
        if (a.dedicated != cases[i].dedicated) fail_msg("case %zu: dedicated %d", i, a.dedicated);
        assert_true(fake_vk_get_memory(w.gpu, a.memory, &m));
        assert_int_equal(m.dedicated_to, cases[i].dedicated ? FAKE_VK_ID(cases[i].buffer) : 0);
        OK(acre_vk_free(w.vk, a.handle));
        world_check();
    }
    OK(acre_vk_alloc_for_image(w.vk, image, NULL, &a));
    assert_true(a.dedicated);
    OK(acre_vk_bind_image(w.vk, a.handle, 0, image));
    FAKE_VK_FN(w.gpu, vkDestroyImage)(w.device, image, NULL);
    OK(acre_vk_free(w.vk, a.handle));
    FAKE_VK_FN(w.gpu, vkDestroyBuffer)(w.device, plain, NULL);
    FAKE_VK_FN(w.gpu, vkDestroyBuffer)(w.device, prefers, NULL);
    FAKE_VK_FN(w.gpu, vkDestroyBuffer)(w.device, requires, NULL);
    world_close(0);
}

static void a_block_larger_than_a_page_gets_memory_of_its_own(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_allocation a = take(300 * MIB, NULL);
    acre_vk_block_info info;
    OK(acre_vk_get_info(w.vk, a.handle, &info));
    assert_int_equal(info.page_bytes, a.size);
    assert_false(a.dedicated); /* a page of the pool, which serves others afterwards */
    assert_int_equal(a.offset, 0);
    assert_true(heap_stats(0).held_bytes <= 301 * MIB);
    acre_vk_request shared = {.flags = ACRE_VK_SHARED};
    acre_vk_allocation b;
    VkMemoryRequirements need = needs(300 * MIB, 256, T_ALL);
    acre_status status = acre_vk_alloc(w.vk, &need, &shared, &b); /* a page of its own, or a refusal: no crash */
    if (status == ACRE_OK) OK(acre_vk_free(w.vk, b.handle));
    OK(acre_vk_free(w.vk, a.handle));
    world_close(0);
}

static void without_the_extension_nothing_of_it_is_used(void **state)
{
    (void)state;
    uint32_t none = FAKE_VK_NO_BUDGET | FAKE_VK_NO_PRIORITY | FAKE_VK_NO_DEDICATED | FAKE_VK_NO_EXTERNAL_FD |
                    FAKE_VK_NO_EXTERNAL_HOST | FAKE_VK_NO_TIMELINE | FAKE_VK_NO_SPARSE | FAKE_VK_NO_DEVICE_ADDRESS |
                    FAKE_VK_NO_PROPERTIES2;
    world_open(&(fake_vk_options){.api_version = VK_API_VERSION_1_0, .without = none}, NULL);
    VkBuffer buffer;
    VkImage image;
    acre_vk_allocation a, b;
    VkBufferCreateInfo buffer_info = fake_vk_buffer_info(5000, 0);
    VkImageCreateInfo image_info = fake_vk_image_info(100, 100, 0, 0);
    acre_vk_request dedicated = {.flags = ACRE_VK_DEDICATED, .priority = 1};
    OK(acre_vk_create_buffer(w.vk, &buffer_info, &dedicated, &buffer, &a));
    OK(acre_vk_create_image(w.vk, &image_info, NULL, &image, &b));
    assert_true(a.dedicated);
    int fd;
    REFUSED(ACRE_NOT_SUPPORTED, acre_vk_export_fd(w.vk, a.handle, &fd));
    static char page[8192] __attribute__((aligned(4096)));
    acre_vk_allocation c;
    REFUSED(ACRE_NOT_SUPPORTED, acre_vk_import_host(w.vk, page, sizeof page, NULL, &c));
    assert_int_equal(acre_vk_host_alignment(w.vk), 0);
    assert_true(heap_stats(0).budget_bytes > 6 * GIB && heap_stats(0).budget_bytes < 7 * GIB); /* 80% */
    OK(acre_vk_destroy_buffer(w.vk, buffer, a.handle));
    OK(acre_vk_destroy_image(w.vk, image, b.handle));
    acre_vk_collect(w.vk);
    world_close(0);
}

/* --- granularity and aliasing ------------------------------------------------------------------------------------- */

static void buffers_and_images_mix_without_conflict_at_every_granularity(void **state)
{
    (void)state;
    const VkDeviceSize granularities[] = {1, 64, 1024, 4096, 65536, 131072};
    for (size_t g = 0; g < sizeof granularities / sizeof *granularities; g++) {
        world_open(&(fake_vk_options){.buffer_image_granularity = granularities[g], .image_alignment = 256}, NULL);
        enum { SLOTS = 120, STEPS = 3000 };
        static struct { VkBuffer buffer; VkImage image; acre_vk_allocation a; } slot[SLOTS];
        uint64_t seed = g;
        for (int step = 0; step < STEPS; step++) {
            int i = (int)(next_random(&seed) % SLOTS);
            if (slot[i].buffer) {
                OK(acre_vk_destroy_buffer(w.vk, slot[i].buffer, slot[i].a.handle));
                slot[i].buffer = VK_NULL_HANDLE;
            } else if (slot[i].image) {
                OK(acre_vk_destroy_image(w.vk, slot[i].image, slot[i].a.handle));
                slot[i].image = VK_NULL_HANDLE;
            } else if (next_random(&seed) % 2) {
                VkBufferCreateInfo info = fake_vk_buffer_info(1 + next_random(&seed) % 20000, 0);
                OK(acre_vk_create_buffer(w.vk, &info, NULL, &slot[i].buffer, &slot[i].a));
            } else {
                uint32_t side = (uint32_t)(1 + next_random(&seed) % 100);
                VkImageCreateInfo info = fake_vk_image_info(side, side, 0, 0);
                if (next_random(&seed) % 4 == 0) info.tiling = VK_IMAGE_TILING_LINEAR;
                OK(acre_vk_create_image(w.vk, &info, NULL, &slot[i].image, &slot[i].a));
            }
        }
        world_check();
        for (int i = 0; i < SLOTS; i++) {
            if (slot[i].buffer) OK(acre_vk_destroy_buffer(w.vk, slot[i].buffer, slot[i].a.handle));
            if (slot[i].image) OK(acre_vk_destroy_image(w.vk, slot[i].image, slot[i].a.handle));
            slot[i].buffer = VK_NULL_HANDLE;
            slot[i].image = VK_NULL_HANDLE;
        }
        world_close(0);
    }
}

static void aliases_share_one_block(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkBufferCreateInfo buffer_info = fake_vk_buffer_info(100000, 0);
    VkImageCreateInfo image_info = fake_vk_image_info(256, 256, 0, 0);
    VkBuffer probe_buffer = new_buffer(100000);
    VkImage probe_image = new_image(image_info);
    VkMemoryRequirements need, other;
    FAKE_VK_FN(w.gpu, vkGetBufferMemoryRequirements)(w.device, probe_buffer, &need);
    FAKE_VK_FN(w.gpu, vkGetImageMemoryRequirements)(w.device, probe_image, &other);
    OK(acre_vk_merge_requirements(&need, &other));
    assert_int_equal(need.size, 256 * KIB);
    assert_int_equal(need.alignment, 65536);
    VkMemoryRequirements apart = needs(64, 64, 1u << T_LAZY);
    REFUSED(ACRE_NOT_SUPPORTED, acre_vk_merge_requirements(&apart, &other));
    FAKE_VK_FN(w.gpu, vkDestroyBuffer)(w.device, probe_buffer, NULL);
    FAKE_VK_FN(w.gpu, vkDestroyImage)(w.device, probe_image, NULL);

    acre_vk_request request = {.flags = ACRE_VK_CAN_ALIAS};
    acre_vk_allocation a;
    OK(acre_vk_alloc(w.vk, &need, &request, &a));
    VkBuffer buffer, second;
    VkImage image;
    fake_vk_set_alias(w.gpu, true);
    OK(acre_vk_create_aliasing_buffer(w.vk, a.handle, 65536, &buffer_info, &buffer));
    OK(acre_vk_create_aliasing_buffer(w.vk, a.handle, 0, &buffer_info, &second));
    fake_vk_set_alias(w.gpu, false);
    image_info.flags = VK_IMAGE_CREATE_ALIAS_BIT;
    OK(acre_vk_create_aliasing_image(w.vk, a.handle, 0, &image_info, &image));
    VkBuffer stranger = new_buffer(100000);
    fake_vk_set_quiet(w.gpu, true);
    assert_int_equal(FAKE_VK_FN(w.gpu, vkBindBufferMemory)(w.device, stranger, a.memory, a.offset + 65536), VK_SUCCESS);
    assert_int_equal(fake_vk_wrongs(w.gpu, FAKE_VK_WRONG_OVERLAP), 3); /* the checker sees who declared nothing */
    fake_vk_forgive(w.gpu);
    fake_vk_set_quiet(w.gpu, false);
    FAKE_VK_FN(w.gpu, vkDestroyBuffer)(w.device, stranger, NULL);
    fake_vk_resource_info r;
    assert_true(fake_vk_get_resource(w.gpu, FAKE_VK_ID(buffer), &r));
    assert_true(r.memory == a.memory && r.offset == a.offset + 65536);

    VkBuffer none;
    VkImage no_image;
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_create_aliasing_buffer(w.vk, a.handle, 3, &buffer_info, &none));
    buffer_info.size = 256 * KIB + 1;
    REFUSED(ACRE_TOO_LARGE, acre_vk_create_aliasing_buffer(w.vk, a.handle, 0, &buffer_info, &none));
    buffer_info.size = 200 * KIB;
    REFUSED(ACRE_TOO_LARGE, acre_vk_create_aliasing_buffer(w.vk, a.handle, 128 * KIB, &buffer_info, &none));
    REFUSED(ACRE_TOO_LARGE, acre_vk_create_aliasing_image(w.vk, a.handle, 65536, &image_info, &no_image));
    assert_int_equal(fake_vk_live_resources(w.gpu), 3);
    FAKE_VK_FN(w.gpu, vkDestroyBuffer)(w.device, second, NULL);
    FAKE_VK_FN(w.gpu, vkDestroyBuffer)(w.device, buffer, NULL);
    FAKE_VK_FN(w.gpu, vkDestroyImage)(w.device, image, NULL);
    OK(acre_vk_free(w.vk, a.handle));
    world_close(0);
}

/* --- priority, callbacks ------------------------------------------------------------------------------------------ */

static void memory_carries_the_priority_of_its_category_or_request(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "frame", .priority = 1.0f}, {.name = "stream", .priority = 0.25f}};
    world_open(NULL, &(acre_vk_options){.categories = rows, .category_count = 2});
    fake_vk_memory_info m;
    acre_vk_request high = {.flags = ACRE_VK_DEDICATED}, low = {.flags = ACRE_VK_DEDICATED, .category = 1};
    acre_vk_request own = {.flags = ACRE_VK_DEDICATED, .category = 1, .priority = 0.75f};
    assert_true(fake_vk_get_memory(w.gpu, take(1000, &high).memory, &m) && m.priority == 1.0f);
    assert_true(fake_vk_get_memory(w.gpu, take(1000, &low).memory, &m) && m.priority == 0.25f);
    assert_true(fake_vk_get_memory(w.gpu, take(1000, &own).memory, &m) && m.priority == 0.75f);
    own.priority = 1.5f;
    VkMemoryRequirements need = needs(64, 64, T_ALL);
    acre_vk_allocation a;
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_alloc(w.vk, &need, &own, &a));
    world_close(3);
}

static void the_programs_callbacks_reach_the_driver(void **state)
{
    (void)state;
    int user;
    VkAllocationCallbacks callbacks = {.pUserData = &user};
    world_open(&(fake_vk_options){.callbacks_user = &user}, &(acre_vk_options){.callbacks = &callbacks});
    callbacks.pUserData = NULL; /* a copy was taken */
    acre_vk_request dedicated = {.flags = ACRE_VK_DEDICATED};
    OK(acre_vk_free(w.vk, take(1000, &dedicated).handle));
    OK(acre_vk_free(w.vk, take(1000, NULL).handle));
    acre_vk_trim(w.vk, 0);
    world_close(0);
}

static void memory_for_device_addresses_is_made_for_them(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkBufferCreateInfo info = fake_vk_buffer_info(1000, VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT);
    VkBuffer buffer;
    acre_vk_allocation a;
    OK(acre_vk_create_buffer(w.vk, &info, NULL, &buffer, &a));
    VkBufferDeviceAddressInfo of = {VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO, NULL, buffer};
    assert_int_not_equal(FAKE_VK_FN(w.gpu, vkGetBufferDeviceAddress)(w.device, &of), 0);
    OK(acre_vk_destroy_buffer(w.vk, buffer, a.handle));
    world_close(0);
}

/* --- pools -------------------------------------------------------------------------------------------------------- */

static void a_pool_keeps_to_its_pages(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_pool *pool = NULL;
    acre_vk_pool_options options = {.request = {.usage = ACRE_VK_UPLOAD}, .page_bytes = MIB, .page_count_min = 1,
                                    .page_count_max = 2, .priority = 0.9f, .name = "staging"};
    OK(acre_vk_pool_create(w.vk, &options, &pool));
    assert_int_equal(fake_vk_live_memories(w.gpu), 1);
    acre_vk_request in = {.pool = pool};
    acre_vk_allocation a[4];
    for (int i = 0; i < 4; i++) {
        a[i] = take(400 * KIB, &in);
        assert_int_equal(a[i].memory_type, T_COHERENT);
        fake_vk_memory_info m;
        assert_true(fake_vk_get_memory(w.gpu, a[i].memory, &m));
        assert_int_equal(m.size, MIB);
        assert_true(m.priority == 0.9f);
    }
    acre_vk_allocation b;
    VkMemoryRequirements need = needs(400 * KIB, 256, T_ALL);
    REFUSED(ACRE_NO_MEMORY, acre_vk_alloc(w.vk, &need, &in, &b)); /* two pages hold two of them each */
    acre_vk_block_info info;
    OK(acre_vk_get_info(w.vk, a[0].handle, &info));
    assert_ptr_equal(info.pool, pool);
    acre_gpu_heap_stats s;
    OK(acre_vk_pool_stats(w.vk, pool, &s));
    assert_int_equal(s.held_bytes, 2 * MIB);
    assert_int_equal(s.blocks, 4);
    assert_int_equal(s.held_bytes, s.live_bytes + s.pending_bytes + s.hole_bytes + s.empty_bytes);
    REFUSED(ACRE_BUSY, acre_vk_pool_destroy(w.vk, pool));
    for (int i = 0; i < 4; i++) OK(acre_vk_free(w.vk, a[i].handle));
    w.now_ms += 100000;
    acre_vk_collect(w.vk);
    acre_vk_trim(w.vk, 0);
    OK(acre_vk_pool_stats(w.vk, pool, &s));
    assert_int_equal(s.held_bytes, MIB); /* page_count_min */
    OK(acre_vk_pool_destroy(w.vk, pool));
    assert_int_equal(fake_vk_live_memories(w.gpu), 0);
    OK(acre_vk_pool_destroy(w.vk, NULL));
    world_close(0);
}

static void a_block_that_fills_its_page_is_still_the_pools(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_pool *pool = NULL;
    acre_vk_pool_options options = {.request = {.usage = ACRE_VK_GPU}, .page_bytes = MIB};
    OK(acre_vk_pool_create(w.vk, &options, &pool));
    acre_vk_request in = {.pool = pool};
    acre_vk_allocation a = take(MIB, &in), b = take(MIB, &in);
    acre_vk_block_info info;
    OK(acre_vk_get_info(w.vk, a.handle, &info));
    assert_int_equal(a.size, info.page_bytes);
    assert_false(a.dedicated || info.allocation.dedicated);
    OK(acre_vk_swap(w.vk, a.handle, b.handle)); /* which dedicated blocks cannot */
    OK(acre_vk_free(w.vk, a.handle));
    OK(acre_vk_free(w.vk, b.handle));
    OK(acre_vk_pool_destroy(w.vk, pool));
    world_close(0);
}

/* --- swap --------------------------------------------------------------------------------------------------------- */

static void swapped_blocks_trade_places_and_keep_their_names(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_request first = {.tag = 1, .name = "one"}, second = {.tag = 2, .name = "two"};
    acre_vk_allocation a = take(8192, &first), b = take(8192, &second), odd = take(64 * KIB, NULL);
    OK(acre_vk_swap(w.vk, a.handle, b.handle));
    acre_vk_block_info info;
    OK(acre_vk_get_info(w.vk, a.handle, &info));
    assert_true(info.allocation.memory == b.memory && info.allocation.offset == b.offset);
    assert_int_equal(info.tag, 1);
    assert_string_equal(info.name, "one");
    OK(acre_vk_get_info(w.vk, b.handle, &info));
    assert_true(info.allocation.memory == a.memory && info.allocation.offset == a.offset);
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_swap(w.vk, a.handle, odd.handle));
    /* a lies where b lay: freeing b gives back a's old place. */
    OK(acre_vk_free(w.vk, b.handle));
    uint64_t claim = fake_vk_claim(w.gpu, b.memory, b.offset, b.size, true); /* now a's */
    acre_vk_allocation again[8];
    for (int i = 0; i < 8; i++) {
        again[i] = take(8192, NULL);
        assert_false(again[i].memory == b.memory && again[i].offset == b.offset);
    }
    fake_vk_drop_claim(w.gpu, claim);
    OK(acre_vk_free(w.vk, a.handle));
    REFUSED(ACRE_DOUBLE_FREE, acre_vk_free(w.vk, b.handle));
    world_close(9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORLD_TEST(many_blocks_share_few_driver_allocations),
        WORLD_TEST(pages_begin_small_and_grow_with_use),
        WORLD_TEST(random_blocks_never_overlap_and_keep_their_alignment),
        WORLD_TEST(the_requests_own_alignment_counts),
        WORLD_TEST(what_cannot_be_is_refused_and_changes_nothing),
        WORLD_TEST(allocate_many_is_all_or_none),
        WORLD_TEST(stale_and_foreign_handles_are_told_apart),
        WORLD_TEST(blocks_carry_a_name_a_tag_and_their_story),
        WORLD_TEST(walks_and_the_report_show_every_block),
        WORLD_TEST(drivers_and_programs_can_ask_for_dedicated_memory),
        WORLD_TEST(a_block_larger_than_a_page_gets_memory_of_its_own),
        WORLD_TEST(without_the_extension_nothing_of_it_is_used),
        WORLD_TEST(buffers_and_images_mix_without_conflict_at_every_granularity),
        WORLD_TEST(aliases_share_one_block),
        WORLD_TEST(memory_carries_the_priority_of_its_category_or_request),
        WORLD_TEST(the_programs_callbacks_reach_the_driver),
        WORLD_TEST(memory_for_device_addresses_is_made_for_them),
        WORLD_TEST(a_pool_keeps_to_its_pages),
        WORLD_TEST(a_block_that_fills_its_page_is_still_the_pools),
        WORLD_TEST(swapped_blocks_trade_places_and_keep_their_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
