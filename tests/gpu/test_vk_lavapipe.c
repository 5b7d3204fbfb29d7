/* test_vk_lavapipe: <acre/vulkan.h> on a real driver, through the real loader, under the Khronos validation layer,
 * which has to stay silent: a messenger counts what it says. Bytes are written by the CPU, copied on the GPU's queue
 * and read back. Skipped, with the reason, where loader, driver or layer are missing, and under the thread sanitizer:
 * the driver compiles its code while it runs, which that cannot see into.
 *
 * What lavapipe does not have is tested on the fake device alone: sparse binding, budgets and priorities of the driver,
 * memory that is not coherent or lazily allocated, several heaps and types, dedicated memory that a driver asks for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pthread.h>
#include <stdatomic.h>

#include <cmocka.h>

#include "acre/heap.h"
#include "lavapipe.h"

/* --- the layer itself --------------------------------------------------------------------------------------------- */

static void the_layer_complains_where_there_is_reason(void **state)
{
    (void)state;
    atomic_store(&complaints, 0);
    VkBufferCreateInfo info = buffer_info(0);
    VkBuffer buffer = VK_NULL_HANDLE;
    expected = true;
    assert_int_equal(v.CreateBuffer(v.device, &info, NULL, &buffer), VK_ERROR_VALIDATION_FAILED_EXT);
    expected = false;
    assert_true(atomic_load(&complaints) > 0);
    atomic_store(&complaints, 0);
}

/* --- data --------------------------------------------------------------------------------------------------------- */

static void bytes_go_to_the_gpu_and_come_back(void **state)
{
    (void)state;
    open_vk(NULL);
    enum { COUNT = 60 };
    piece up[COUNT], far[COUNT], down[COUNT];
    size_t bytes[COUNT];
    uint64_t seed = 1;
    VkCommandBuffer c = begin();
    for (uint32_t i = 0; i < COUNT; i++) {
        bytes[i] = 1 + next_random(&seed) % 60000;
        bool dedicated = i % 10 == 9;
        up[i] = new_buffer(bytes[i], i % 2 ? ACRE_VK_UPLOAD : ACRE_VK_GPU_MAPPED, ACRE_VK_MAPPED);
        far[i] = new_buffer(bytes[i], i % 3 ? ACRE_VK_GPU : ACRE_VK_LAZY, dedicated ? ACRE_VK_DEDICATED : 0);
        assert_int_equal(far[i].a.dedicated, dedicated);
        down[i] = new_buffer(bytes[i], ACRE_VK_READBACK, ACRE_VK_MAPPED);
        fill(up[i].a.mapped, bytes[i], i);
        OK(acre_vk_flush(v.vk, up[i].a.handle, 0, VK_WHOLE_SIZE));
        copy(c, up[i].buffer, far[i].buffer, bytes[i]);
        copy(c, far[i].buffer, down[i].buffer, bytes[i]);
    }
    submit(c);
    acre_vk_range ranges[COUNT];
    for (uint32_t i = 0; i < COUNT; i++) ranges[i] = (acre_vk_range){down[i].a.handle, 0, VK_WHOLE_SIZE};
    OK(acre_vk_invalidate_ranges(v.vk, ranges, COUNT));
    for (uint32_t i = 0; i < COUNT; i++) assert_true(filled(down[i].a.mapped, bytes[i], i));
    for (uint32_t i = 0; i < COUNT; i++) {
        end_piece(&up[i]);
        end_piece(&far[i]);
        end_piece(&down[i]);
    }
    close_vk();
}

static void images_of_all_kinds_hold_their_texels(void **state)
{
    (void)state;
    open_vk(NULL);
    enum { COUNT = 24 };
    uint64_t seed = 2;
    for (uint32_t i = 0; i < COUNT; i++) {
        uint32_t side = 1 + (uint32_t)(next_random(&seed) % 300), mips = i % 4 == 3 && side >= 8 ? 3 : 1;
        size_t bytes = (size_t)side * side * 4;
        piece up = new_buffer(bytes, ACRE_VK_UPLOAD, ACRE_VK_MAPPED), down = new_buffer(bytes, ACRE_VK_READBACK, 0), p;
        VkImageCreateInfo info = image_info(side, mips);
        if (i % 5 == 4 && mips == 1) info.tiling = VK_IMAGE_TILING_LINEAR;
        acre_vk_request request = {.flags = i % 6 == 5 ? ACRE_VK_DEDICATED : 0};
        p.buffer = VK_NULL_HANDLE;
        OK(acre_vk_create_image(v.vk, &info, &request, &p.image, &p.a));
        fill(up.a.mapped, bytes, i);
        OK(acre_vk_flush(v.vk, up.a.handle, 0, VK_WHOLE_SIZE));
        VkCommandBuffer c = begin();
        upload(c, up.buffer, p.image, side, mips);
        download(c, p.image, down.buffer, side);
        submit(c);
        uint8_t *seen = malloc(bytes);
        OK(acre_vk_copy_from(v.vk, down.a.handle, 0, seen, bytes));
        assert_true(filled(seen, bytes, i));
        free(seen);
        end_piece(&p);
        end_piece(&up);
        end_piece(&down);
    }
    close_vk();
}

/* Random creation and destruction; every resource keeps what was written into it: neighbours do not touch. */
static void neighbours_keep_their_bytes_through_a_churn(void **state)
{
    (void)state;
    open_vk(NULL);
    enum { SLOTS = 48, STEPS = 600, SIDE_MAX = 96, BYTES_MAX = SIDE_MAX * SIDE_MAX * 4 };
    static struct { piece p; uint32_t side, seed; size_t bytes; } slot[SLOTS];
    memset(slot, 0, sizeof slot);
    piece stage = new_buffer(BYTES_MAX, ACRE_VK_UPLOAD, ACRE_VK_MAPPED);
    piece back = new_buffer(BYTES_MAX, ACRE_VK_READBACK, ACRE_VK_MAPPED);
    uint64_t random = 3;
    for (uint32_t step = 0; step < STEPS + SLOTS; step++) {
        uint32_t i = step < STEPS ? (uint32_t)(next_random(&random) % SLOTS) : step - STEPS;
        VkCommandBuffer c = begin();
        if (slot[i].bytes != 0) {
            if (slot[i].p.image)
                download(c, slot[i].p.image, back.buffer, slot[i].side);
            else
                copy(c, slot[i].p.buffer, back.buffer, slot[i].bytes);
            submit(c);
            OK(acre_vk_invalidate(v.vk, back.a.handle, 0, VK_WHOLE_SIZE));
            assert_true(filled(back.a.mapped, slot[i].bytes, slot[i].seed));
            end_piece(&slot[i].p);
            slot[i].bytes = 0;
            continue;
        }
        if (step >= STEPS) {
            submit(c);
            continue;
        }
        slot[i].seed = step;
        if (next_random(&random) % 2) {
            slot[i].bytes = 1 + next_random(&random) % BYTES_MAX;
            slot[i].p = new_buffer(slot[i].bytes, ACRE_VK_GPU, 0);
            fill(stage.a.mapped, slot[i].bytes, step);
            copy(c, stage.buffer, slot[i].p.buffer, slot[i].bytes);
        } else {
            slot[i].side = 1 + (uint32_t)(next_random(&random) % SIDE_MAX);
            slot[i].bytes = (size_t)slot[i].side * slot[i].side * 4;
            VkImageCreateInfo info = image_info(slot[i].side, 1);
            slot[i].p.buffer = VK_NULL_HANDLE;
            OK(acre_vk_create_image(v.vk, &info, NULL, &slot[i].p.image, &slot[i].p.a));
            fill(stage.a.mapped, slot[i].bytes, step);
            upload(c, stage.buffer, slot[i].p.image, slot[i].side, 1);
        }
        submit(c);
    }
    end_piece(&stage);
    end_piece(&back);
    close_vk();
}

static void aliases_take_turns_in_one_block(void **state)
{
    (void)state;
    open_vk(NULL);
    enum { SIDE = 64, BYTES = SIDE * SIDE * 4 };
    VkImageCreateInfo picture = image_info(SIDE, 1);
    picture.flags = VK_IMAGE_CREATE_ALIAS_BIT;
    VkBufferCreateInfo plain = buffer_info(BYTES);
    VkImage probe;
    VkBuffer buffer_probe;
    VkMemoryRequirements need, other;
    assert_int_equal(v.CreateImage(v.device, &picture, NULL, &probe), VK_SUCCESS);
    assert_int_equal(v.CreateBuffer(v.device, &plain, NULL, &buffer_probe), VK_SUCCESS);
    v.GetImageMemoryRequirements(v.device, probe, &need);
    v.GetBufferMemoryRequirements(v.device, buffer_probe, &other);
    OK(acre_vk_merge_requirements(&need, &other));
    v.DestroyImage(v.device, probe, NULL);
    v.DestroyBuffer(v.device, buffer_probe, NULL);
    acre_vk_request request = {.flags = ACRE_VK_CAN_ALIAS};
    acre_vk_allocation block;
    OK(acre_vk_alloc(v.vk, &need, &request, &block));
    VkImage image[2];
    VkBuffer alias;
    OK(acre_vk_create_aliasing_image(v.vk, block.handle, 0, &picture, &image[0]));
    OK(acre_vk_create_aliasing_image(v.vk, block.handle, 0, &picture, &image[1]));
    OK(acre_vk_create_aliasing_buffer(v.vk, block.handle, 0, &plain, &alias));
    piece up = new_buffer(BYTES, ACRE_VK_UPLOAD, ACRE_VK_MAPPED), down = new_buffer(BYTES, ACRE_VK_READBACK, 0);
    uint8_t seen[BYTES];
    for (uint32_t turn = 0; turn < 3; turn++) {
        fill(up.a.mapped, BYTES, turn);
        VkCommandBuffer c = begin();
        if (turn < 2) {
            upload(c, up.buffer, image[turn], SIDE, 1);
            download(c, image[turn], down.buffer, SIDE);
        } else {
            copy(c, up.buffer, alias, BYTES);
            copy(c, alias, down.buffer, BYTES);
        }
        submit(c);
        OK(acre_vk_copy_from(v.vk, down.a.handle, 0, seen, BYTES));
        assert_true(filled(seen, BYTES, turn));
    }
    v.DestroyImage(v.device, image[0], NULL);
    v.DestroyImage(v.device, image[1], NULL);
    v.DestroyBuffer(v.device, alias, NULL);
    OK(acre_vk_free(v.vk, block.handle));
    end_piece(&up);
    end_piece(&down);
    close_vk();
}

static void memory_is_bound_by_hand_and_mapped_by_count(void **state)
{
    (void)state;
    open_vk(NULL);
    VkBufferCreateInfo info = buffer_info(3000);
    VkBuffer buffer[2];
    acre_vk_allocation a, b;
    acre_vk_request upload_request = {.usage = ACRE_VK_UPLOAD}, no_bind = {.flags = ACRE_VK_NO_BIND};
    assert_int_equal(v.CreateBuffer(v.device, &info, NULL, &buffer[0]), VK_SUCCESS);
    OK(acre_vk_alloc_for_buffer(v.vk, buffer[0], &upload_request, &a));
    OK(acre_vk_bind_buffer(v.vk, a.handle, 0, buffer[0]));
    OK(acre_vk_create_buffer(v.vk, &info, &no_bind, &buffer[1], &b));
    OK(acre_vk_bind_buffer(v.vk, b.handle, 0, buffer[1]));
    void *p, *q;
    OK(acre_vk_map(v.vk, a.handle, &p));
    OK(acre_vk_map(v.vk, a.handle, &q));
    assert_ptr_equal(p, q);
    fill(p, 3000, 5);
    OK(acre_vk_flush(v.vk, a.handle, 7, 100));
    OK(acre_vk_invalidate(v.vk, a.handle, 7, 100));
    OK(acre_vk_unmap(v.vk, a.handle));
    OK(acre_vk_unmap(v.vk, a.handle));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_unmap(v.vk, a.handle));
    VkCommandBuffer c = begin();
    copy(c, buffer[0], buffer[1], 3000);
    submit(c);
    uint8_t seen[3000];
    acre_vk_block_info block;
    OK(acre_vk_get_info(v.vk, b.handle, &block));
    VkMemoryPropertyFlags flags;
    uint32_t heap;
    OK(acre_vk_memory_type_properties(v.vk, block.allocation.memory_type, &flags, &heap));
    if (flags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT) { /* lavapipe: all memory is */
        OK(acre_vk_copy_from(v.vk, b.handle, 0, seen, 3000));
        assert_true(filled(seen, 3000, 5));
    }
    VkImageCreateInfo picture = image_info(50, 1);
    VkImage image;
    assert_int_equal(v.CreateImage(v.device, &picture, NULL, &image), VK_SUCCESS);
    acre_vk_allocation d;
    OK(acre_vk_alloc_for_image(v.vk, image, NULL, &d));
    OK(acre_vk_bind_image(v.vk, d.handle, 0, image));
    OK(acre_vk_destroy_image(v.vk, image, d.handle));
    OK(acre_vk_destroy_buffer(v.vk, buffer[0], a.handle));
    OK(acre_vk_destroy_buffer(v.vk, buffer[1], b.handle));
    uint32_t type;
    OK(acre_vk_find_memory_type_for_buffer_info(v.vk, &info, NULL, &type));
    OK(acre_vk_find_memory_type_for_image_info(v.vk, &picture, NULL, &type));
    close_vk();
}

static void addresses_of_buffers_can_be_asked_for(void **state)
{
    (void)state;
    open_vk(NULL);
    VkBufferCreateInfo info = buffer_info(5000);
    info.usage |= VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT;
    piece p = {.image = VK_NULL_HANDLE};
    OK(acre_vk_create_buffer(v.vk, &info, NULL, &p.buffer, &p.a));
    PFN_vkGetBufferDeviceAddress ask =
        (PFN_vkGetBufferDeviceAddress)v.GetDeviceProcAddr(v.device, "vkGetBufferDeviceAddress");
    VkBufferDeviceAddressInfo of = {.sType = VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO, .buffer = p.buffer};
    assert_true(ask(v.device, &of) != 0);
    end_piece(&p);
    close_vk();
}

/* --- external memory ---------------------------------------------------------------------------------------------- */

static void an_exported_block_is_the_same_memory_where_it_is_imported(void **state)
{
    (void)state;
    open_vk(NULL);
    enum { BYTES = 100000 };
    piece out = new_buffer(BYTES, ACRE_VK_UPLOAD, ACRE_VK_EXPORT | ACRE_VK_MAPPED);
    assert_true(out.a.dedicated);
    int fd = -1;
    OK(acre_vk_export_fd(v.vk, out.a.handle, &fd));
    assert_true(fd >= 0);
    acre_vk_block_info block;
    OK(acre_vk_get_info(v.vk, out.a.handle, &block));

    VkExternalMemoryBufferCreateInfo external = {.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO,
                                                 .handleTypes = VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT};
    VkBufferCreateInfo info = buffer_info(BYTES);
    info.pNext = &external;
    piece in = {.image = VK_NULL_HANDLE};
    assert_int_equal(v.CreateBuffer(v.device, &info, NULL, &in.buffer), VK_SUCCESS);
    OK(acre_vk_import_fd(v.vk, fd, block.page_bytes, out.a.memory_type, NULL, in.buffer, VK_NULL_HANDLE, &in.a));
    OK(acre_vk_bind_buffer(v.vk, in.a.handle, 0, in.buffer));
    piece down = new_buffer(BYTES, ACRE_VK_READBACK, ACRE_VK_MAPPED);
    fill(out.a.mapped, BYTES, 8);
    OK(acre_vk_flush(v.vk, out.a.handle, 0, VK_WHOLE_SIZE));
    VkCommandBuffer c = begin();
    copy(c, in.buffer, down.buffer, BYTES);
    submit(c);
    OK(acre_vk_invalidate(v.vk, down.a.handle, 0, VK_WHOLE_SIZE));
    assert_true(filled(down.a.mapped, BYTES, 8));
    piece plain = new_buffer(100, ACRE_VK_GPU, 0);
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_export_fd(v.vk, plain.a.handle, &fd));
    end_piece(&plain);
    end_piece(&in);
    end_piece(&out);
    end_piece(&down);
    close_vk();
}

static void pages_of_an_acre_heap_are_written_by_the_gpu_without_a_copy(void **state)
{
    (void)state;
    open_vk(NULL);
    size_t alignment = acre_vk_host_alignment(v.vk);
    assert_true(alignment >= 1);
    size_t bytes = align_up(100000, alignment);
    acre_heap *heap = NULL;
    assert_int_equal(acre_heap_create(NULL, &heap), ACRE_OK);
    uint8_t *pages = acre_heap_alloc(heap, bytes, alignment, NULL);
    assert_non_null(pages);
    piece p = {.image = VK_NULL_HANDLE};
    OK(acre_vk_import_host(v.vk, pages, bytes, NULL, &p.a));
    assert_ptr_equal(p.a.mapped, pages);
    VkExternalMemoryBufferCreateInfo external = {
        .sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO,
        .handleTypes = VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT};
    VkBufferCreateInfo info = buffer_info(bytes);
    info.pNext = &external;
    assert_int_equal(v.CreateBuffer(v.device, &info, NULL, &p.buffer), VK_SUCCESS);
    OK(acre_vk_bind_buffer(v.vk, p.a.handle, 0, p.buffer));
    piece up = new_buffer(bytes, ACRE_VK_UPLOAD, ACRE_VK_MAPPED);
    fill(up.a.mapped, bytes, 9);
    VkCommandBuffer c = begin();
    copy(c, up.buffer, p.buffer, bytes);
    submit(c);
    assert_true(filled(pages, bytes, 9)); /* the CPU's own address */
    end_piece(&up);
    end_piece(&p);
    assert_int_equal(acre_heap_free(heap, pages), ACRE_OK);
    acre_heap_destroy(heap);
    close_vk();
}

/* --- budgets ------------------------------------------------------------------------------------------------------ */

static uint64_t spare;
static bool give_spare(void *context, const acre_gpu_shortage *shortage)
{
    (void)context;
    assert_int_equal(shortage->status, ACRE_OVER_BUDGET);
    if (spare == 0) return false;
    OK(acre_vk_free(v.vk, spare));
    spare = 0;
    return true;
}

static void budgets_hold_and_the_callback_helps(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "textures", .budget_bytes = 4 * MIB},
                                      {.name = "meshes", .budget_bytes = MIB, .at_limit = ACRE_GPU_EXCEED}};
    acre_vk_options o = v.options;
    o.categories = rows;
    o.category_count = 2;
    o.on_limit = give_spare;
    o.heap_budgets[0] = 64 * MIB;
    open_vk(&o);
    VkMemoryRequirements need = {MIB, 256, 1};
    acre_vk_allocation a[8];
    spare = 0;
    for (int i = 0; i < 4; i++) OK(acre_vk_alloc(v.vk, &need, NULL, &a[i]));
    REFUSED(ACRE_OVER_BUDGET, acre_vk_alloc(v.vk, &need, NULL, &a[4]));
    acre_gpu_shortage s;
    assert_true(acre_vk_last_shortage(v.vk, &s));
    assert_string_equal(s.category_name, "textures");
    char text[2000];
    assert_true(acre_gpu_shortage_text(&s, text, sizeof text) > 0);
    assert_non_null(strstr(text, "textures"));
    spare = a[3].handle;
    OK(acre_vk_alloc(v.vk, &need, NULL, &a[3]));
    acre_vk_request meshes = {.category = 1};
    need.size = 2 * MIB;
    OK(acre_vk_alloc(v.vk, &need, &meshes, &a[4]));
    need.size = 100 * MIB; /* above the heap's budget */
    acre_vk_allocation large;
    REFUSED(ACRE_OVER_BUDGET, acre_vk_alloc(v.vk, &need, NULL, &large));
    for (int i = 0; i < 5; i++) OK(acre_vk_free(v.vk, a[i].handle));
    close_vk();
}

static void level_after_level_asks_the_driver_only_once(void **state)
{
    (void)state;
    open_vk(NULL);
    piece p[30];
    acre_vk_stats before, after;
    for (int level = 0; level < 20; level++) {
        for (int i = 0; i < 30; i++) p[i] = new_buffer((VkDeviceSize)(i + 1) * 50000, ACRE_VK_GPU, 0);
        for (int i = 0; i < 30; i++) end_piece(&p[i]);
        acre_vk_collect(v.vk);
        OK(acre_vk_get_stats(v.vk, level == 2 ? &before : &after));
    }
    assert_int_equal(before.total.driver_calls, after.total.driver_calls);
    assert_int_equal(after.total.live_bytes, 0);
    assert_true(after.total.empty_bytes + after.cached_bytes > 0); /* kept for the next level */
    assert_true(acre_vk_trim(v.vk, 0) > 0);
    OK(acre_vk_get_stats(v.vk, &after));
    assert_int_equal(after.total.held_bytes, 0);
    close_vk();
}

static void a_pool_of_ones_own_and_a_move_by_swap(void **state)
{
    (void)state;
    open_vk(NULL);
    acre_vk_pool *pool;
    acre_vk_pool_options options = {.request = {.usage = ACRE_VK_UPLOAD}, .page_bytes = MIB, .page_count_min = 1};
    OK(acre_vk_pool_create(v.vk, &options, &pool));
    enum { BYTES = 20000 };
    acre_vk_request in = {.pool = pool, .name = "moves"};
    piece p = {.image = VK_NULL_HANDLE}, to = p;
    VkBufferCreateInfo info = buffer_info(BYTES);
    OK(acre_vk_create_buffer(v.vk, &info, &in, &p.buffer, &p.a));
    uint8_t bytes[BYTES];
    fill(bytes, BYTES, 4);
    OK(acre_vk_copy_to(v.vk, p.a.handle, 0, bytes, BYTES));
    in.name = NULL;
    OK(acre_vk_create_buffer(v.vk, &info, &in, &to.buffer, &to.a));
    VkCommandBuffer c = begin();
    copy(c, p.buffer, to.buffer, BYTES);
    submit(c);
    OK(acre_vk_swap(v.vk, p.a.handle, to.a.handle)); /* p.a names the new place, to.a the old one */
    OK(acre_vk_destroy_buffer(v.vk, p.buffer, to.a.handle));
    memset(bytes, 0, BYTES);
    OK(acre_vk_copy_from(v.vk, p.a.handle, 0, bytes, BYTES));
    assert_true(filled(bytes, BYTES, 4));
    acre_vk_block_info block;
    OK(acre_vk_get_info(v.vk, p.a.handle, &block));
    assert_string_equal(block.name, "moves");
    assert_true(block.allocation.memory == to.a.memory && block.allocation.offset == to.a.offset);
    REFUSED(ACRE_BUSY, acre_vk_pool_destroy(v.vk, pool));
    OK(acre_vk_destroy_buffer(v.vk, to.buffer, p.a.handle));
    OK(acre_vk_pool_destroy(v.vk, pool));
    close_vk();
}

/* --- frees in time ------------------------------------------------------------------------------------------------ */

/* Frames are submitted and not waited for. The layer sees whether a buffer goes while a frame still uses it. */
static void frames_free_what_the_gpu_still_reads(void **state)
{
    (void)state;
    open_vk(NULL);
    enum { FRAMES = 60, EACH = 8, IN_FLIGHT = 3, BYTES = 30000 };
    VkSemaphoreTypeCreateInfo type = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
                                      .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE};
    VkSemaphoreCreateInfo made = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, .pNext = &type};
    VkFenceCreateInfo plain = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    VkSemaphore semaphore;
    VkFence fences[IN_FLIGHT];
    assert_int_equal(v.CreateSemaphore(v.device, &made, NULL, &semaphore), VK_SUCCESS);
    for (int i = 0; i < IN_FLIGHT; i++)
        assert_int_equal(v.CreateFence(v.device, &plain, NULL, &fences[i]), VK_SUCCESS);
    piece sum = new_buffer((VkDeviceSize)FRAMES * EACH * BYTES, ACRE_VK_READBACK, ACRE_VK_MAPPED);
    VkCommandBuffer commands[FRAMES];
    for (uint64_t frame = 0; frame < FRAMES; frame++) {
        VkFence fence = fences[frame % IN_FLIGHT];
        if (frame >= IN_FLIGHT) {
            assert_int_equal(v.WaitForFences(v.device, 1, &fence, VK_TRUE, UINT64_MAX), VK_SUCCESS);
            OK(acre_vk_fence_passed(v.vk, fence));
            assert_int_equal(v.ResetFences(v.device, 1, &fence), VK_SUCCESS);
        }
        piece p[EACH];
        VkCommandBuffer c = commands[frame] = begin();
        for (uint32_t i = 0; i < EACH; i++) {
            p[i] = new_buffer(BYTES, ACRE_VK_UPLOAD, ACRE_VK_MAPPED);
            fill(p[i].a.mapped, BYTES, (uint32_t)frame * EACH + i);
            VkBufferCopy part = {0, (frame * EACH + i) * BYTES, BYTES};
            v.CmdCopyBuffer(c, p[i].buffer, sum.buffer, 1, &part);
        }
        barrier(c);
        assert_int_equal(v.EndCommandBuffer(c), VK_SUCCESS);
        uint64_t value = frame + 1;
        VkTimelineSemaphoreSubmitInfo values = {.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
                                                .signalSemaphoreValueCount = 1,
                                                .pSignalSemaphoreValues = &value};
        VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                             .pNext = &values,
                             .commandBufferCount = 1,
                             .pCommandBuffers = &c,
                             .signalSemaphoreCount = 1,
                             .pSignalSemaphores = &semaphore};
        assert_int_equal(v.QueueSubmit(v.queue, 1, &info, fence), VK_SUCCESS);
        for (uint32_t i = 0; i < EACH; i++) {
            acre_vk_point point = {.fence = i % 2 ? fence : VK_NULL_HANDLE,
                                   .semaphore = i % 2 ? VK_NULL_HANDLE : semaphore,
                                   .value = i % 2 ? 0 : value};
            OK(acre_vk_destroy_buffer_after(v.vk, p[i].buffer, p[i].a.handle, point));
        }
        acre_vk_collect(v.vk);
    }
    OK(acre_vk_drain(v.vk, UINT64_MAX));
    acre_vk_stats all;
    OK(acre_vk_get_stats(v.vk, &all));
    assert_int_equal(all.total.pending_bytes, 0);
    assert_true(all.total.held_peak_bytes < (uint64_t)FRAMES * EACH * BYTES + 64 * MIB);
    OK(acre_vk_invalidate(v.vk, sum.a.handle, 0, VK_WHOLE_SIZE));
    for (uint32_t i = 0; i < FRAMES * EACH; i++)
        assert_true(filled((uint8_t *)sum.a.mapped + (size_t)i * BYTES, BYTES, i));
    assert_int_equal(v.QueueWaitIdle(v.queue), VK_SUCCESS);
    v.FreeCommandBuffers(v.device, v.commands, FRAMES, commands);
    for (int i = 0; i < IN_FLIGHT; i++) v.DestroyFence(v.device, fences[i], NULL);
    v.DestroySemaphore(v.device, semaphore, NULL);
    end_piece(&sum);
    close_vk();
}

/* --- the program's own allocator, threads, old versions ----------------------------------------------------------- */

static _Atomic int64_t host_blocks, host_calls;
static VKAPI_ATTR void *VKAPI_CALL host_alloc(void *user, size_t size, size_t alignment, VkSystemAllocationScope scope)
{
    (void)user, (void)scope;
    void *p = NULL;
    if (posix_memalign(&p, alignment < sizeof(void *) ? sizeof(void *) : alignment, size) != 0) return NULL;
    atomic_fetch_add(&host_blocks, 1);
    atomic_fetch_add(&host_calls, 1);
    return p;
}
static VKAPI_ATTR void *VKAPI_CALL host_realloc(void *user, void *p, size_t size, size_t alignment,
                                                VkSystemAllocationScope scope)
{
    (void)user, (void)scope, (void)alignment;
    if (p == NULL) return host_alloc(user, size, alignment, scope);
    return realloc(p, size);
}
static VKAPI_ATTR void VKAPI_CALL host_free(void *user, void *p)
{
    (void)user;
    if (p != NULL) atomic_fetch_sub(&host_blocks, 1);
    free(p);
}

static void the_programs_callbacks_are_used_and_balanced(void **state)
{
    (void)state;
    VkAllocationCallbacks callbacks = {.pfnAllocation = host_alloc, .pfnReallocation = host_realloc,
                                       .pfnFree = host_free};
    acre_vk_options o = v.options;
    o.callbacks = &callbacks;
    open_vk(&o);
    piece p = new_buffer(100000, ACRE_VK_GPU, ACRE_VK_DEDICATED), q = new_buffer(1000, ACRE_VK_UPLOAD, ACRE_VK_MAPPED);
    assert_true(atomic_load(&host_calls) > 0);
    end_piece(&p);
    end_piece(&q);
    close_vk();
    assert_int_equal(atomic_load(&host_blocks), 0);
}

static _Atomic uint32_t wrong;
static void *churn(void *argument)
{
    uint64_t seed = (uint64_t)(intptr_t)argument;
    piece p[20];
    memset(p, 0, sizeof p);
    for (int step = 0; step < 1500; step++) {
        int i = (int)(next_random(&seed) % 20);
        if (p[i].buffer) {
            uint8_t *bytes = p[i].a.mapped;
            if (bytes[0] != (uint8_t)i || acre_vk_destroy_buffer(v.vk, p[i].buffer, p[i].a.handle) != ACRE_OK)
                atomic_fetch_add(&wrong, 1);
            p[i].buffer = VK_NULL_HANDLE;
            continue;
        }
        VkBufferCreateInfo info = buffer_info(1 + next_random(&seed) % 50000);
        acre_vk_request request = {.usage = ACRE_VK_UPLOAD, .flags = ACRE_VK_MAPPED};
        if (next_random(&seed) % 50 == 0) request.flags |= ACRE_VK_DEDICATED;
        if (acre_vk_create_buffer(v.vk, &info, &request, &p[i].buffer, &p[i].a) != ACRE_OK)
            atomic_fetch_add(&wrong, 1);
        else
            *(uint8_t *)p[i].a.mapped = (uint8_t)i;
    }
    for (int i = 0; i < 20; i++)
        if (p[i].buffer && acre_vk_destroy_buffer(v.vk, p[i].buffer, p[i].a.handle) != ACRE_OK)
            atomic_fetch_add(&wrong, 1);
    return NULL;
}

static void two_threads_share_the_device(void **state)
{
    (void)state;
    open_vk(NULL);
    pthread_t threads[2];
    atomic_store(&wrong, 0);
    for (intptr_t i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)), 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&wrong), 0);
    close_vk();
}

/* Vulkan 1.0 without an extension: acre must not use what the program did not ask for, or the layer complains. */
static void vulkan_1_0_is_enough(void **state)
{
    (void)state;
    open_device(VK_API_VERSION_1_0);
    open_vk(NULL);
    piece up = new_buffer(10000, ACRE_VK_UPLOAD, ACRE_VK_MAPPED);
    piece far = new_buffer(10000, ACRE_VK_GPU, ACRE_VK_DEDICATED);
    piece down = new_buffer(10000, ACRE_VK_READBACK, ACRE_VK_MAPPED), p = {.buffer = VK_NULL_HANDLE};
    VkImageCreateInfo picture = image_info(40, 1);
    OK(acre_vk_create_image(v.vk, &picture, NULL, &p.image, &p.a));
    VkBufferCreateInfo info = buffer_info(100);
    uint32_t type;
    OK(acre_vk_find_memory_type_for_buffer_info(v.vk, &info, NULL, &type));
    fill(up.a.mapped, 10000, 1);
    VkCommandBuffer c = begin();
    copy(c, up.buffer, far.buffer, 10000);
    copy(c, far.buffer, down.buffer, 10000);
    submit(c);
    assert_true(filled(down.a.mapped, 10000, 1));
    int fd;
    REFUSED(ACRE_NOT_SUPPORTED, acre_vk_export_fd(v.vk, up.a.handle, &fd));
    end_piece(&up);
    end_piece(&far);
    end_piece(&down);
    end_piece(&p);
    close_vk();
    close_device();
    assert_int_equal(atomic_load(&complaints), 0);
}

int main(void)
{
#if defined(__SANITIZE_THREAD__)
    printf("skipped: the driver compiles code that the thread sanitizer cannot see into\n");
    return 77;
#endif
    const char *missing = find_loader();
    if (missing != NULL) {
        printf("skipped: %s\n", missing);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_layer_complains_where_there_is_reason),
        cmocka_unit_test(bytes_go_to_the_gpu_and_come_back),
        cmocka_unit_test(images_of_all_kinds_hold_their_texels),
        cmocka_unit_test(neighbours_keep_their_bytes_through_a_churn),
        cmocka_unit_test(aliases_take_turns_in_one_block),
        cmocka_unit_test(memory_is_bound_by_hand_and_mapped_by_count),
        cmocka_unit_test(addresses_of_buffers_can_be_asked_for),
        cmocka_unit_test(an_exported_block_is_the_same_memory_where_it_is_imported),
        cmocka_unit_test(pages_of_an_acre_heap_are_written_by_the_gpu_without_a_copy),
        cmocka_unit_test(budgets_hold_and_the_callback_helps),
        cmocka_unit_test(level_after_level_asks_the_driver_only_once),
        cmocka_unit_test(a_pool_of_ones_own_and_a_move_by_swap),
        cmocka_unit_test(frames_free_what_the_gpu_still_reads),
        cmocka_unit_test(the_programs_callbacks_are_used_and_balanced),
        cmocka_unit_test(two_threads_share_the_device),
    };
    const struct CMUnitTest old[] = {cmocka_unit_test(vulkan_1_0_is_enough)};
    int failed = cmocka_run_group_tests_name("Vulkan 1.3", tests, start, stop);
    return failed + cmocka_run_group_tests_name("Vulkan 1.0", old, NULL, NULL);
}
