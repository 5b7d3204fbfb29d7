/* test_vk_stream_lavapipe: <acre/vulkan_stream.h> on a real driver with the Khronos validation layer looking on, which
 * has to stay silent: data that went through the ring, through growth and through moves is read back and compared.
 * Skipped, with the reason, where loader, driver or layer are missing, and under the thread sanitizer. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "acre/vulkan_stream.h"
#include "lavapipe.h"

/* Frames: each is a submission that signals the next value of one timeline. */
static struct {
    VkSemaphore timeline;
    uint64_t value;
    VkCommandBuffer commands; /* of the frame that is recorded or runs */
    PFN_vkWaitSemaphores wait;
} frames;

static void open_frames(void)
{
    acre_vk_options options = v.options;
    options.page_bytes_min = options.page_bytes_max = MIB;
    open_vk(&options);
    const VkSemaphoreTypeCreateInfo type = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
                                            .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE};
    const VkSemaphoreCreateInfo info = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, .pNext = &type};
    assert_int_equal(v.CreateSemaphore(v.device, &info, NULL, &frames.timeline), VK_SUCCESS);
    frames.wait = (PFN_vkWaitSemaphores)v.GetDeviceProcAddr(v.device, "vkWaitSemaphores");
    frames.value = 0;
    frames.commands = VK_NULL_HANDLE;
}

static acre_vk_point point(void) { return (acre_vk_point){.semaphore = frames.timeline, .value = frames.value}; }

static void wait_frame(void)
{
    const VkSemaphoreWaitInfo info = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
                                      .semaphoreCount = 1,
                                      .pSemaphores = &frames.timeline,
                                      .pValues = &frames.value};
    assert_int_equal(frames.wait(v.device, &info, UINT64_MAX), VK_SUCCESS);
    if (frames.commands != VK_NULL_HANDLE) v.FreeCommandBuffers(v.device, v.commands, 1, &frames.commands);
    frames.commands = VK_NULL_HANDLE;
}

static void close_frames(void)
{
    wait_frame();
    acre_vk_collect(v.vk);
    v.DestroySemaphore(v.device, frames.timeline, NULL);
    close_vk();
}

/* The frame before is over then. */
static void begin_frame(void)
{
    wait_frame();
    frames.commands = begin();
    frames.value++;
}

static void copy_bytes(VkBuffer from, VkDeviceSize from_offset, VkBuffer to, VkDeviceSize to_offset, VkDeviceSize bytes)
{
    const VkBufferCopy region = {from_offset, to_offset, bytes};
    v.CmdCopyBuffer(frames.commands, from, to, 1, &region);
    barrier(frames.commands);
}

static void submit_frame(void)
{
    assert_int_equal(v.EndCommandBuffer(frames.commands), VK_SUCCESS);
    const VkTimelineSemaphoreSubmitInfo values = {.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
                                                  .signalSemaphoreValueCount = 1,
                                                  .pSignalSemaphoreValues = &frames.value};
    const VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                               .pNext = &values,
                               .commandBufferCount = 1,
                               .pCommandBuffers = &frames.commands,
                               .signalSemaphoreCount = 1,
                               .pSignalSemaphores = &frames.timeline};
    assert_int_equal(v.QueueSubmit(v.queue, 1, &info, VK_NULL_HANDLE), VK_SUCCESS);
}

/* --- tests ------------------------------------------------------------------------------------------------------ */

enum { PIECES = 16, PIECE_BYTES = 3000 };
typedef struct writer {
    acre_vk_ring *ring;
    acre_vk_piece pieces[PIECES];
    unsigned char mark;
} writer;

static void *write_pieces(void *context)
{
    writer *me = context;
    for (int i = 0; i < PIECES; i++) {
        acre_status status;
        while ((status = acre_vk_ring_alloc(me->ring, PIECE_BYTES, 0, &me->pieces[i])) == ACRE_BUSY)
            acre_vk_ring_wait(me->ring, UINT64_MAX);
        if (status != ACRE_OK) abort();
        memset(me->pieces[i].mapped, me->mark + i, PIECE_BYTES);
    }
    return NULL;
}

static void what_two_threads_write_into_the_ring_arrives(void **state)
{
    (void)state;
    open_frames();
    acre_vk_ring *ring;
    const acre_vk_ring_options options = {.bytes = 128 * 1024, .bytes_max = MIB};
    OK(acre_vk_ring_create(v.vk, &options, &ring));
    piece back = new_buffer(2 * PIECES * PIECE_BYTES, ACRE_VK_READBACK, ACRE_VK_MAPPED);
    static writer writers[2];
    for (int frame = 0; frame < 60; frame++) {
        pthread_t threads[2];
        for (int t = 0; t < 2; t++) {
            writers[t].ring = ring;
            writers[t].mark = (unsigned char)(frame * 3 + t * 100);
            assert_int_equal(pthread_create(&threads[t], NULL, write_pieces, &writers[t]), 0);
        }
        for (int t = 0; t < 2; t++) pthread_join(threads[t], NULL);
        begin_frame();
        for (int t = 0; t < 2; t++)
            for (int i = 0; i < PIECES; i++)
                copy_bytes(writers[t].pieces[i].buffer, writers[t].pieces[i].offset, back.buffer,
                           (VkDeviceSize)(t * PIECES + i) * PIECE_BYTES, PIECE_BYTES);
        acre_vk_point p = point();
        OK(acre_vk_ring_frame_end(ring, &p));
        submit_frame();
        wait_frame();
        OK(acre_vk_invalidate(v.vk, back.a.handle, 0, VK_WHOLE_SIZE));
        for (int n = 0; n < 2 * PIECES * PIECE_BYTES; n++)
            if (((unsigned char *)back.a.mapped)[n] !=
                (unsigned char)(writers[n / PIECE_BYTES / PIECES].mark + n / PIECE_BYTES % PIECES))
                fail_msg("frame %d: byte %d is wrong", frame, n);
    }
    acre_vk_ring_destroy(ring);
    end_piece(&back);
    close_frames();
}

static void a_growable_keeps_its_contents(void **state)
{
    (void)state;
    open_frames();
    acre_vk_sparse *none;
    const VkBufferCreateInfo info = buffer_info(100000);
    const char *lack = acre_vk_sparse_lack(v.vk, false);
    if (lack != NULL) { /* so says lavapipe of today */
        assert_int_equal(acre_vk_sparse_create_buffer(v.vk, &info, NULL, &none), ACRE_NOT_SUPPORTED);
        assert_true(strlen(lack) > 20);
    }
    acre_vk_growable *g;
    const acre_vk_growable_options options = {.bytes = 4096, .buffer_usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT};
    OK(acre_vk_growable_create(v.vk, &options, &g));
    piece back = new_buffer(MIB, ACRE_VK_READBACK, ACRE_VK_MAPPED);
    acre_vk_ring *ring;
    const acre_vk_ring_options ring_options = {.bytes = 64 * 1024};
    OK(acre_vk_ring_create(v.vk, &ring_options, &ring));
    uint32_t copies = 0;
    for (uint64_t at = 0; at < MIB; at += 4096) { /* an append-only list */
        acre_vk_growth growth;
        OK(acre_vk_growable_resize(g, at + 4096, false, NULL, &growth));
        begin_frame();
        acre_vk_point p = point();
        if (!growth.in_place) {
            copy_bytes(growth.from, 0, growth.to, 0, growth.copy_bytes);
            OK(acre_vk_growable_finish(g, p));
            copies++;
        }
        acre_vk_piece piece;
        while (acre_vk_ring_alloc(ring, 4096, 0, &piece) == ACRE_BUSY) OK(acre_vk_ring_wait(ring, UINT64_MAX));
        memset(piece.mapped, (int)(at / 4096 % 251), 4096);
        copy_bytes(piece.buffer, piece.offset, acre_vk_growable_buffer(g), at, 4096);
        OK(acre_vk_ring_frame_end(ring, &p));
        submit_frame();
        acre_vk_collect(v.vk);
    }
    assert_true(copies > 5 && copies < 20);
    begin_frame();
    copy_bytes(acre_vk_growable_buffer(g), 0, back.buffer, 0, MIB);
    submit_frame();
    wait_frame();
    OK(acre_vk_invalidate(v.vk, back.a.handle, 0, VK_WHOLE_SIZE));
    for (uint64_t n = 0; n < MIB; n++)
        if (((unsigned char *)back.a.mapped)[n] != n / 4096 % 251) fail_msg("byte %lu is wrong", (unsigned long)n);
    OK(acre_vk_growable_destroy(g, point()));
    acre_vk_ring_destroy(ring);
    end_piece(&back);
    close_frames();
}

enum { COUNT = 300 };
static struct {
    VkBuffer buffer;
    acre_vk_allocation a;
    uint64_t bytes;
} items[COUNT];

/* Fills or reads all live buffers through one mapped buffer. */
static void fill_or_compare(bool fill_them, const piece *mapped)
{
    unsigned char *bytes = mapped->a.mapped;
    uint64_t at = 0;
    if (!fill_them) memset(bytes, 0, 16 * MIB);
    begin_frame();
    for (uint64_t i = 0; i < COUNT; i++) {
        if (items[i].buffer == VK_NULL_HANDLE) continue;
        if (fill_them) memset(bytes + at, (int)(i % 255 + 1), items[i].bytes);
        if (fill_them) copy_bytes(mapped->buffer, at, items[i].buffer, 0, items[i].bytes);
        else copy_bytes(items[i].buffer, 0, mapped->buffer, at, items[i].bytes);
        at += items[i].bytes;
    }
    submit_frame();
    wait_frame();
    at = 0;
    OK(acre_vk_invalidate(v.vk, mapped->a.handle, 0, VK_WHOLE_SIZE));
    for (uint64_t i = 0; i < COUNT && !fill_them; i++) {
        if (items[i].buffer == VK_NULL_HANDLE) continue;
        for (uint64_t b = 0; b < items[i].bytes; b++)
            if (bytes[at + b] != i % 255 + 1)
                fail_msg("buffer %lu, byte %lu", (unsigned long)i, (unsigned long)b);
        at += items[i].bytes;
    }
}

static bool of_the_test(void *context, const acre_vk_block_info *block)
{
    (void)context;
    return block->tag != 0;
}

static void moved_buffers_keep_their_contents_and_pages_go(void **state)
{
    (void)state;
    open_frames();
    piece mapped = new_buffer(16 * MIB, ACRE_VK_READBACK, ACRE_VK_MAPPED);
    for (uint64_t i = 0; i < COUNT; i++) {
        items[i].bytes = 4096 + i * 7919 % 60000;
        const VkBufferCreateInfo info = buffer_info(items[i].bytes);
        const acre_vk_request request = {.tag = i + 1};
        OK(acre_vk_create_buffer(v.vk, &info, &request, &items[i].buffer, &items[i].a));
    }
    for (uint64_t i = 0; i < COUNT; i++) {
        if (i % 4 == 0) continue;
        OK(acre_vk_destroy_buffer(v.vk, items[i].buffer, items[i].a.handle));
        items[i].buffer = VK_NULL_HANDLE;
    }
    fill_or_compare(true, &mapped);
    acre_vk_stats before, after;
    OK(acre_vk_get_stats(v.vk, &before));

    acre_vk_defrag *d;
    const acre_vk_defrag_options options = {.step_moves_max = 16, .movable = of_the_test};
    OK(acre_vk_defrag_begin(v.vk, &options, &d));
    acre_vk_move moves[16];
    VkBuffer fresh[16];
    uint32_t count, all = 0;
    for (;;) {
        OK(acre_vk_defrag_step(d, moves, 16, &count));
        if (count == 0) break;
        begin_frame();
        for (uint32_t m = 0; m < count; m++) {
            uint64_t i = moves[m].tag - 1;
            const VkBufferCreateInfo info = buffer_info(items[i].bytes);
            assert_int_equal(v.CreateBuffer(v.device, &info, NULL, &fresh[m]), VK_SUCCESS);
            OK(acre_vk_bind_buffer(v.vk, moves[m].to.handle, 0, fresh[m]));
            copy_bytes(items[i].buffer, 0, fresh[m], 0, items[i].bytes);
        }
        submit_frame();
        for (uint32_t m = 0; m < count; m++) {
            uint64_t i = moves[m].tag - 1;
            OK(acre_vk_destroy_buffer_after(v.vk, items[i].buffer, 0, point()));
            OK(acre_vk_defrag_confirm(d, moves[m].id, point()));
            items[i].buffer = fresh[m];
        }
        wait_frame();
        acre_vk_collect(v.vk);
        all += count;
    }
    acre_vk_defrag_result result;
    acre_vk_defrag_end(d, &result);
    assert_int_equal(result.moves, all);
    assert_true(all > 20 && result.pages_emptied >= 3);
    acre_vk_trim(v.vk, 0);
    OK(acre_vk_get_stats(v.vk, &after));
    assert_true(after.pages < before.pages && after.total.live_bytes == before.total.live_bytes);
    fill_or_compare(false, &mapped);
    for (uint64_t i = 0; i < COUNT; i++)
        if (items[i].buffer != VK_NULL_HANDLE) OK(acre_vk_destroy_buffer(v.vk, items[i].buffer, items[i].a.handle));
    end_piece(&mapped);
    close_frames();
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
        cmocka_unit_test(what_two_threads_write_into_the_ring_arrives),
        cmocka_unit_test(a_growable_keeps_its_contents),
        cmocka_unit_test(moved_buffers_keep_their_contents_and_pages_go),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
