/* test_vk_stream: the ring, growables and sparse resources of <acre/vulkan_stream.h> on the fake device, whose checker
 * sees memory that is reused too early, bindings that are wrong, and what leaks; and each driver call fails in turn. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "acre/vulkan_stream.h"
#include "fake_os.h"
#include "page/arena.h"
#include "vk_world.h"

static acre_vk_point at(VkSemaphore semaphore, uint64_t value)
{
    return (acre_vk_point){.semaphore = semaphore, .value = value};
}
static const acre_vk_point now = {.value = 0};

/* --- the ring --------------------------------------------------------------------------------------------------- */

static acre_vk_ring *make_ring(uint64_t bytes, uint64_t bytes_max, uint32_t type_bits)
{
    acre_vk_ring *ring = NULL;
    const acre_vk_ring_options options = {
        .bytes = bytes, .bytes_max = bytes_max, .request = {.type_bits = type_bits, .name = "ring"}};
    OK(acre_vk_ring_create(w.vk, &options, &ring));
    return ring;
}

static acre_vk_ring_stats ring_stats(acre_vk_ring *ring)
{
    acre_vk_ring_stats s;
    OK(acre_vk_ring_get_stats(ring, &s));
    return s;
}

/* A piece that the GPU uses until the frame is done; the fake sees a reuse before. */
static acre_vk_piece used_piece(acre_vk_ring *ring, uint64_t bytes, uint64_t alignment)
{
    acre_vk_piece p;
    OK(acre_vk_ring_alloc(ring, bytes, alignment, &p));
    memset(p.mapped, 1, bytes);
    return p;
}

static void pieces_are_aligned_and_never_overlap_while_their_frames_wait(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    enum { BYTES = 64 * 1024, FRAMES = 400, IN_FLIGHT = 3 };
    acre_vk_ring *ring = make_ring(BYTES, 0, 0);
    VkSemaphore timeline = new_timeline(0);
    static uint16_t owner[BYTES]; /* the frame that a byte belongs to; 0: none */
    uint64_t random = 1, refused = 0, given = 0;
    memset(owner, 0, sizeof owner);
    for (uint16_t frame = 1; frame <= FRAMES; frame++) {
        for (int i = 0; i < 12; i++) {
            uint64_t bytes = 1 + next_random(&random) % 6000, alignment = 1u << next_random(&random) % 11;
            acre_vk_piece p;
            acre_status status = acre_vk_ring_alloc(ring, bytes, alignment, &p);
            if (status == ACRE_BUSY) {
                refused++;
                continue;
            }
            OK(status);
            given++;
            assert_int_equal(p.offset % alignment, 0);
            assert_int_equal(p.offset % 16, 0);
            assert_true(p.offset + bytes <= BYTES);
            for (uint64_t b = p.offset; b < p.offset + bytes; b++) {
                assert_true(owner[b] == 0);
                owner[b] = frame;
            }
        }
        OK(acre_vk_ring_frame_end(ring, &(acre_vk_point){.semaphore = timeline, .value = frame}));
        if (frame < IN_FLIGHT) continue;
        uint16_t done = (uint16_t)(frame - IN_FLIGHT + 1);
        for (int b = 0; b < BYTES; b++)
            if (owner[b] != 0 && owner[b] <= done) owner[b] = 0;
        fake_vk_signal_semaphore(w.gpu, timeline, done);
    }
    assert_true(refused > 10 && given > 1000); /* it was full at times, and went on */
    assert_int_equal(ring_stats(ring).buffers, 1);
    acre_vk_ring_destroy(ring);
    end_timeline(timeline);
    world_close(0);
}

static void a_full_ring_says_so_until_a_frame_is_done(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_ring *ring = make_ring(4096, 0, 0);
    VkFence fence = new_fence();
    acre_vk_piece p;
    used_piece(ring, 3000, 0);
    OK(acre_vk_ring_frame_end(ring, &(acre_vk_point){.fence = fence}));
    REFUSED(ACRE_BUSY, acre_vk_ring_alloc(ring, 3000, 0, &p));
    REFUSED(ACRE_BUSY, acre_vk_ring_wait(ring, 0));
    REFUSED(ACRE_TOO_LARGE, acre_vk_ring_alloc(ring, 5000, 0, &p));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_ring_alloc(ring, 10, 3, &p));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_ring_frame_end(ring, &now));
    fake_vk_signal_fence(w.gpu, fence);
    OK(acre_vk_ring_wait(ring, 0));
    used_piece(ring, 4096, 0); /* all of it, though the head stands in the middle */
    assert_int_equal(ring_stats(ring).frames_waiting, 0);
    acre_vk_ring_destroy(ring);
    end_fence(fence);
    world_close(0);
}

static void a_fence_that_is_told_needs_no_question(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_ring *ring = make_ring(4096, 0, 0);
    VkFence fence = new_fence();
    for (int frame = 0; frame < 10; frame++) {
        used_piece(ring, 3000, 0);
        OK(acre_vk_ring_frame_end(ring, &(acre_vk_point){.fence = fence}));
        fake_vk_signal_fence(w.gpu, fence);
        uint64_t asked = fake_vk_count(w.gpu, FAKE_VK_GetFenceStatus);
        OK(acre_vk_ring_passed(ring, &(acre_vk_point){.fence = fence}));
        assert_int_equal(fake_vk_count(w.gpu, FAKE_VK_GetFenceStatus), asked);
        assert_int_equal(ring_stats(ring).frames_waiting, 0);
        FAKE_VK_FN(w.gpu, vkResetFences)(w.device, 1, &fence);
    }
    acre_vk_ring_destroy(ring);
    end_fence(fence);
    world_close(0);
}

static void it_grows_and_the_old_buffer_goes_with_its_last_frame(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_ring *ring = make_ring(4096, 32768, 0);
    VkSemaphore timeline = new_timeline(0);
    acre_vk_piece a = used_piece(ring, 4000, 0);
    fake_vk_gpu_uses(w.gpu, FAKE_VK_ID(a.buffer), FAKE_VK_ID(timeline), 1);
    acre_vk_piece b = used_piece(ring, 4000, 0); /* the same frame, in a new buffer */
    assert_true(a.buffer != b.buffer);
    fake_vk_gpu_uses(w.gpu, FAKE_VK_ID(b.buffer), FAKE_VK_ID(timeline), 1);
    assert_int_equal(ring_stats(ring).buffers, 2);
    OK(acre_vk_ring_frame_end(ring, &(acre_vk_point){.semaphore = timeline, .value = 1}));
    acre_vk_piece c = used_piece(ring, 100, 0);
    assert_true(c.buffer == b.buffer);
    OK(acre_vk_ring_frame_end(ring, &(acre_vk_point){.semaphore = timeline, .value = 2}));
    assert_int_equal(ring_stats(ring).buffers, 2);
    fake_vk_signal_semaphore(w.gpu, timeline, 1);
    OK(acre_vk_ring_wait(ring, 0));
    acre_vk_ring_stats s = ring_stats(ring);
    assert_int_equal(s.buffers, 1);
    assert_int_equal(s.held_bytes, 8192);
    assert_int_equal(s.grown, 1);
    OK(acre_vk_ring_trim(ring)); /* a piece of it waits */
    assert_int_equal(ring_stats(ring).held_bytes, 8192);
    fake_vk_signal_semaphore(w.gpu, timeline, 2);
    OK(acre_vk_ring_trim(ring));
    assert_int_equal(ring_stats(ring).held_bytes, 0);
    used_piece(ring, 100, 0);
    assert_int_equal(ring_stats(ring).held_bytes, 4096);
    used_piece(ring, 20000, 0);
    acre_vk_piece p;
    REFUSED(ACRE_BUSY, acre_vk_ring_alloc(ring, 30000, 0, &p)); /* bytes_max */
    acre_vk_ring_destroy(ring);
    end_timeline(timeline);
    world_close(0);
}

static void what_was_written_reaches_the_gpu_of_non_coherent_memory(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    acre_vk_ring *ring = make_ring(4096, 0, 1u << T_SHADOW);
    VkSemaphore timeline = new_timeline(0);
    for (uint64_t frame = 1; frame <= 20; frame++) {
        acre_vk_piece p[2];
        for (int i = 0; i < 2; i++) {
            OK(acre_vk_ring_alloc(ring, 1000, 0, &p[i]));
            memset(p[i].mapped, (int)frame * 2 + i, 1000);
        }
        uint64_t calls = fake_vk_count(w.gpu, FAKE_VK_FlushMappedMemoryRanges);
        OK(acre_vk_ring_frame_end(ring, &(acre_vk_point){.semaphore = timeline, .value = frame}));
        assert_int_equal(fake_vk_count(w.gpu, FAKE_VK_FlushMappedMemoryRanges), calls + 1);
        for (int i = 0; i < 2; i++) {
            unsigned char seen[1000];
            assert_true(fake_vk_gpu_read(w.gpu, FAKE_VK_ID(p[i].buffer), p[i].offset, seen, sizeof seen));
            for (size_t b = 0; b < sizeof seen; b++) assert_int_equal(seen[b], frame * 2 + (uint64_t)i);
        }
        fake_vk_signal_semaphore(w.gpu, timeline, frame);
    }
    acre_vk_ring_destroy(ring);
    end_timeline(timeline);
    world_close(0);
}

typedef struct writer {
    acre_vk_ring *ring;
    unsigned char mark;
    acre_vk_piece pieces[200];
    uint32_t count;
    uint64_t random;
} writer;

static void *write_pieces(void *context)
{
    writer *me = context;
    for (me->count = 0; me->count < 200; me->count++) {
        acre_vk_piece *p = &me->pieces[me->count];
        if (acre_vk_ring_alloc(me->ring, 1 + next_random(&me->random) % 500, 4, p) != ACRE_OK) break;
        memset(p->mapped, me->mark, p->size);
    }
    return NULL;
}

static void several_threads_get_pieces_of_their_own_while_it_grows(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkSemaphore timeline = new_timeline(0);
    static writer writers[3];
    for (uint64_t round = 1; round <= 20; round++) {
        acre_vk_ring *ring = make_ring(8192, 8 * MIB, 0);
        for (uint64_t frame = 1; frame <= 3; frame++) {
            pthread_t threads[3];
            for (uint64_t t = 0; t < 3; t++) {
                writers[t].ring = ring;
                writers[t].mark = (unsigned char)(t + 1);
                writers[t].random = round * 100 + frame * 10 + t;
                assert_int_equal(pthread_create(&threads[t], NULL, write_pieces, &writers[t]), 0);
            }
            for (int t = 0; t < 3; t++) pthread_join(threads[t], NULL);
            for (int t = 0; t < 3; t++) {
                assert_int_equal(writers[t].count, 200);
                for (uint32_t i = 0; i < 200; i++)
                    for (uint64_t b = 0; b < writers[t].pieces[i].size; b++)
                        assert_int_equal(((unsigned char *)writers[t].pieces[i].mapped)[b], writers[t].mark);
            }
            OK(acre_vk_ring_frame_end(ring, &(acre_vk_point){.semaphore = timeline, .value = 3 * round + frame}));
            fake_vk_signal_semaphore(w.gpu, timeline, 3 * round + frame - 1);
        }
        assert_true(ring_stats(ring).grown > 0);
        acre_vk_ring_destroy(ring);
    }
    end_timeline(timeline);
    world_close(0);
}

/* --- growables -------------------------------------------------------------------------------------------------- */

static void without_sparse_binding_a_growable_says_what_to_copy(void **state)
{
    (void)state;
    const fake_vk_options device = {.without = FAKE_VK_NO_SPARSE};
    world_open(&device, NULL);
    VkSemaphore timeline = new_timeline(0);
    acre_vk_growable *g = NULL;
    acre_vk_growable_options options = {.bytes = 1000, .bytes_max = 1 * MIB, .sparse = true,
                                        .buffer_usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT};
    REFUSED(ACRE_NOT_SUPPORTED, acre_vk_growable_create(w.vk, &options, &g));
    assert_non_null(acre_vk_sparse_lack(w.vk, false));
    options.sparse = false;
    options.sparse_or_copy = true;
    OK(acre_vk_growable_create(w.vk, &options, &g));
    unsigned char bytes[1000], seen[1000];
    memset(bytes, 7, sizeof bytes);
    fake_vk_gpu_write(w.gpu, FAKE_VK_ID(acre_vk_growable_buffer(g)), 0, bytes, sizeof bytes);
    acre_vk_growth growth;
    uint64_t copies = 0, value = 0;
    for (uint64_t size = 1000; size <= 100000; size += 500) {
        OK(acre_vk_growable_resize(g, size, false, NULL, &growth));
        if (growth.in_place) continue;
        REFUSED(ACRE_BUSY, acre_vk_growable_resize(g, size, false, NULL, &growth));
        REFUSED(ACRE_BUSY, acre_vk_growable_destroy(g, now));
        assert_true(growth.from == acre_vk_growable_buffer(g) && growth.to != growth.from);
        if (copies++ == 3) { /* one of them is called off: everything is as before */
            uint64_t before = acre_vk_growable_bytes(g);
            OK(acre_vk_growable_cancel(g));
            assert_int_equal(acre_vk_growable_bytes(g), before);
            size -= 500;
            continue;
        }
        fake_vk_gpu_copy(w.gpu, FAKE_VK_ID(growth.from), 0, FAKE_VK_ID(growth.to), 0, growth.copy_bytes);
        fake_vk_gpu_uses(w.gpu, FAKE_VK_ID(growth.from), FAKE_VK_ID(timeline), ++value);
        OK(acre_vk_growable_finish(g, at(timeline, value)));
        assert_int_equal(acre_vk_growable_bytes(g), size);
        acre_vk_collect(w.vk);
        fake_vk_signal_semaphore(w.gpu, timeline, value);
        acre_vk_collect(w.vk);
    }
    assert_true(copies >= 8 && copies < 20); /* by halves, not one by one */
    assert_true(fake_vk_gpu_read(w.gpu, FAKE_VK_ID(acre_vk_growable_buffer(g)), 0, seen, sizeof seen));
    assert_memory_equal(seen, bytes, sizeof seen);
    OK(acre_vk_growable_resize(g, 500, false, NULL, &growth)); /* only the end moves */
    assert_true(growth.in_place && acre_vk_growable_room(g) >= 100000);
    OK(acre_vk_growable_resize(g, 400, true, NULL, &growth));
    assert_true(!growth.in_place && growth.copy_bytes == 400);
    OK(acre_vk_growable_finish(g, now));
    assert_int_equal(acre_vk_growable_room(g), 400);
    REFUSED(ACRE_TOO_LARGE, acre_vk_growable_resize(g, 2 * MIB, false, NULL, &growth));
    OK(acre_vk_growable_destroy(g, at(timeline, value + 1)));
    fake_vk_signal_semaphore(w.gpu, timeline, value + 1);
    acre_vk_collect(w.vk);
    end_timeline(timeline);
    world_close(0);
}

static void with_sparse_binding_a_growable_grows_where_it_lies(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkSemaphore timeline = new_timeline(0);
    const acre_vk_bind bind = {.queue = fake_vk_queue(w.gpu)};
    acre_vk_growable *g = NULL;
    const acre_vk_growable_options options = {.bytes = 100 * KIB, .bytes_max = 64 * MIB, .sparse = true, .bind = bind,
                                              .buffer_usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT};
    OK(acre_vk_growable_create(w.vk, &options, &g));
    VkBuffer buffer = acre_vk_growable_buffer(g);
    assert_int_equal(category_stats(0).live_bytes, 128 * KIB);
    unsigned char bytes[1000], seen[1000];
    memset(bytes, 9, sizeof bytes);
    fake_vk_gpu_write(w.gpu, FAKE_VK_ID(buffer), 0, bytes, sizeof bytes);
    acre_vk_growth growth;
    for (uint64_t size = 200 * KIB; size <= 10 * MIB; size += 200 * KIB) {
        OK(acre_vk_growable_resize(g, size, false, &bind, &growth));
        assert_true(growth.in_place && growth.to == buffer);
        assert_int_equal(category_stats(0).live_bytes, align_up(size, 64 * KIB));
    }
    fake_vk_gpu_write(w.gpu, FAKE_VK_ID(buffer), 10 * MIB - 1000, bytes, sizeof bytes);
    fake_vk_gpu_read(w.gpu, FAKE_VK_ID(buffer), 0, seen, sizeof seen);
    assert_memory_equal(seen, bytes, sizeof seen);
    const acre_vk_bind later = {.queue = fake_vk_queue(w.gpu), .after = at(timeline, 1), .done = at(timeline, 2)};
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_growable_resize(g, 64 * KIB, false, &bind, &growth)); /* no point */
    OK(acre_vk_growable_resize(g, 64 * KIB, false, &later, &growth));
    assert_int_equal(category_stats(0).live_bytes, 64 * KIB);
    assert_int_equal(category_stats(0).pending_bytes, 10 * MIB - 64 * KIB);
    fake_vk_signal_semaphore(w.gpu, timeline, 1); /* the queue runs the binds and signals 2 */
    acre_vk_collect(w.vk);
    assert_int_equal(category_stats(0).pending_bytes, 0);
    fake_vk_gpu_read(w.gpu, FAKE_VK_ID(buffer), 0, seen, sizeof seen);
    assert_memory_equal(seen, bytes, sizeof seen);
    OK(acre_vk_growable_destroy(g, now));
    end_timeline(timeline);
    world_close(0);
}

/* --- sparse ----------------------------------------------------------------------------------------------------- */

static VkImageCreateInfo picture_info(void)
{
    VkImageCreateInfo info = fake_vk_image_info(1024, 600, VK_FORMAT_R8G8B8A8_UNORM, VK_IMAGE_USAGE_SAMPLED_BIT);
    info.mipLevels = 10;
    info.arrayLayers = 2;
    return info;
}

static void levels_come_and_go_by_themselves(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkSemaphore timeline = new_timeline(0);
    const VkImageCreateInfo info = picture_info();
    const acre_vk_request request = {.name = "pages"};
    acre_vk_sparse *s = NULL;
    OK(acre_vk_sparse_create_image(w.vk, &info, &request, &s));
    acre_vk_sparse_info i;
    OK(acre_vk_sparse_get_info(s, &i));
    assert_int_equal(i.page_bytes, 64 * KIB);
    assert_int_equal(i.tail_level, 3); /* 128 x 75 is smaller than a tile */
    assert_int_equal(acre_vk_sparse_mip_bytes(s, 0), 8 * 5 * 64 * KIB);
    assert_int_equal(acre_vk_sparse_mip_bytes(s, 1), 4 * 3 * 64 * KIB);
    assert_int_equal(acre_vk_sparse_mip_bytes(s, 99), 0);
    uint64_t value = 0, expected = 0;
    bool here[4][2] = {{false}};
    uint64_t random = 5;
    for (int step = 0; step < 300; step++) {
        uint32_t level = (uint32_t)(next_random(&random) % 10), layer = (uint32_t)(next_random(&random) % 2);
        bool *is = &here[level < 3 ? level : 3][layer];
        value += 2;
        const acre_vk_bind bind = {
            .queue = fake_vk_queue(w.gpu), .after = at(timeline, value - 1), .done = at(timeline, value)};
        uint64_t binds = fake_vk_count(w.gpu, FAKE_VK_QueueBindSparse);
        bool commit = next_random(&random) % 2;
        if (commit) OK(acre_vk_sparse_commit_mip(s, level, layer, &bind));
        else OK(acre_vk_sparse_decommit_mip(s, level, layer, &bind));
        assert_int_equal(fake_vk_count(w.gpu, FAKE_VK_QueueBindSparse) - binds, commit != *is ? 1 : 0);
        uint64_t bytes = acre_vk_sparse_mip_bytes(s, level);
        if (commit && !*is) expected += bytes;
        if (!commit && *is) expected -= bytes;
        *is = commit;
        OK(acre_vk_sparse_get_info(s, &i));
        assert_int_equal(i.committed_bytes, expected);
        assert_int_equal(category_stats(0).live_bytes, expected);
        for (uint32_t l = 0; l < 10; l++)
            assert_int_equal(acre_vk_sparse_has_mip(s, l, layer), here[l < 3 ? l : 3][layer]);
        fake_vk_signal_semaphore(w.gpu, timeline, value - 1);
        if (commit == *is && fake_vk_count(w.gpu, FAKE_VK_QueueBindSparse) == binds)
            fake_vk_signal_semaphore(w.gpu, timeline, value);
        fake_vk_resource_info r;
        assert_true(fake_vk_get_resource(w.gpu, FAKE_VK_ID(i.image), &r));
        assert_int_equal((uint64_t)r.pages_bound * 64 * KIB, expected);
        assert_int_equal(r.idle_binds, 0);
        if (step % 7 == 0) acre_vk_collect(w.vk);
    }
    acre_vk_collect(w.vk);
    assert_int_equal(category_stats(0).pending_bytes, 0);
    const acre_vk_bind none = {.queue = fake_vk_queue(w.gpu)};
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_sparse_commit_mip(s, 10, 0, &none));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_sparse_commit_mip(s, 0, 2, &none));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_sparse_decommit_mip(s, 0, 0, &none));
    OK(acre_vk_sparse_destroy(s, at(timeline, value + 1)));
    fake_vk_signal_semaphore(w.gpu, timeline, value + 1);
    acre_vk_collect(w.vk);
    end_timeline(timeline);
    world_close(0);
}

static void pages_that_go_wait_for_the_gpu(void **state)
{
    (void)state;
    world_open(NULL, NULL);
    VkSemaphore timeline = new_timeline(0);
    const VkBufferCreateInfo info = fake_vk_buffer_info(1 * MIB, VK_BUFFER_USAGE_STORAGE_BUFFER_BIT);
    acre_vk_sparse *s = NULL;
    OK(acre_vk_sparse_create_buffer(w.vk, &info, NULL, &s));
    const acre_vk_bind bind = {.queue = fake_vk_queue(w.gpu)};
    OK(acre_vk_sparse_commit(s, 100000, 200000, &bind)); /* pages 1 to 4 */
    acre_vk_sparse_info i;
    OK(acre_vk_sparse_get_info(s, &i));
    assert_int_equal(i.committed_bytes, 4 * 64 * KIB);
    fake_vk_gpu_uses(w.gpu, FAKE_VK_ID(i.buffer), FAKE_VK_ID(timeline), 1);
    const acre_vk_bind later = {.queue = fake_vk_queue(w.gpu), .after = at(timeline, 1), .done = at(timeline, 2)};
    OK(acre_vk_sparse_decommit(s, 100000, 200000, &later)); /* only pages 2 and 3 lie in it as a whole */
    OK(acre_vk_sparse_get_info(s, &i));
    assert_int_equal(i.committed_bytes, 2 * 64 * KIB);
    acre_vk_collect(w.vk);
    assert_int_equal(category_stats(0).pending_bytes, 2 * 64 * KIB);
    fake_vk_signal_semaphore(w.gpu, timeline, 1);
    acre_vk_collect(w.vk);
    assert_int_equal(category_stats(0).pending_bytes, 0);
    OK(acre_vk_sparse_destroy(s, now));
    end_timeline(timeline);
    world_close(0);
}

/* --- failures --------------------------------------------------------------------------------------------------- */

/* What the test has made fail is well again. */
static void heal(void)
{
    fake_vk_heal(w.gpu);
    fake_os_heal();
}

/* Everything once; what fails is left out. Every object that came to be goes again, with points that have passed. */
static void stream_script(VkSemaphore timeline, VkSemaphore binds)
{
    uint64_t bound = 0;
    FAKE_VK_FN(w.gpu, vkGetSemaphoreCounterValue)(w.device, binds, &bound);
    acre_vk_bind bind = {.queue = fake_vk_queue(w.gpu), .done = at(binds, bound)};
    acre_vk_ring *ring = NULL;
    acre_vk_piece p;
    const acre_vk_ring_options ring_options = {
        .bytes = 4096, .bytes_max = MIB, .request = {.type_bits = 1u << T_SHADOW}};
    if (acre_vk_ring_create(w.vk, &ring_options, &ring) == ACRE_OK) {
        for (int i = 0; i < 4; i++)
            if (acre_vk_ring_alloc(ring, 3000, 0, &p) == ACRE_OK) memset(p.mapped, i, 3000);
        acre_vk_ring_flush(ring);
        acre_vk_ring_frame_end(ring, &(acre_vk_point){.semaphore = timeline, .value = 1});
        acre_vk_ring_wait(ring, 0);
        acre_vk_ring_trim(ring);
        acre_vk_ring_destroy(ring);
    }
    acre_vk_growable *g = NULL;
    acre_vk_growth growth;
    const acre_vk_growable_options copies = {.bytes = 1000, .buffer_usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT};
    if (acre_vk_growable_create(w.vk, &copies, &g) == ACRE_OK) {
        if (acre_vk_growable_resize(g, 100000, false, NULL, &growth) == ACRE_OK && !growth.in_place &&
            acre_vk_growable_finish(g, at(timeline, 1)) != ACRE_OK)
            OK(acre_vk_growable_cancel(g));
        while (acre_vk_growable_destroy(g, at(timeline, 1)) != ACRE_OK) heal();
    }
    acre_vk_sparse *s = NULL;
    const VkImageCreateInfo info = picture_info();
    if (acre_vk_sparse_create_image(w.vk, &info, NULL, &s) == ACRE_OK) {
        acre_vk_sparse_info before, after;
        for (uint32_t level = 0; level < 4; level++) {
            OK(acre_vk_sparse_get_info(s, &before));
            bind.done.value++;
            acre_status status = acre_vk_sparse_commit_mip(s, level, 0, &bind);
            OK(acre_vk_sparse_get_info(s, &after));
            uint64_t more = status == ACRE_OK ? acre_vk_sparse_mip_bytes(s, level) : 0; /* all or nothing */
            assert_int_equal(after.committed_bytes, before.committed_bytes + more);
        }
        bind.done.value++;
        acre_vk_sparse_decommit_mip(s, 1, 0, &bind);
        bind.done.value++;
        acre_vk_sparse_commit_mip(s, 1, 0, &bind);
        while (acre_vk_sparse_destroy(s, at(timeline, 1)) != ACRE_OK) heal();
    }
    acre_vk_collect(w.vk);
}

static void every_driver_call_may_fail(void **state)
{
    (void)state;
    const VkResult results[] = {VK_ERROR_OUT_OF_DEVICE_MEMORY, VK_ERROR_OUT_OF_HOST_MEMORY, VK_ERROR_UNKNOWN};
    uint64_t runs = 0;
    for (int r = 0; r < 3; r++)
        for (int onwards = 0; onwards < 2; onwards++)
            for (uint64_t n = 1;; n++, runs++) {
                world_open(NULL, NULL);
                VkSemaphore timeline = new_timeline(0), binds = new_timeline(0);
                fake_vk_fail(w.gpu, FAKE_VK_ANY, n, results[r], onwards);
                stream_script(timeline, binds);
                bool any = fake_vk_failures(w.gpu) != 0;
                fake_vk_heal(w.gpu);
                fake_vk_signal_semaphore(w.gpu, timeline, 1);
                OK(acre_vk_drain(w.vk, 0));
                world_check();
                stream_script(timeline, binds); /* it works afterwards */
                OK(acre_vk_drain(w.vk, 0));
                assert_int_equal(category_stats(0).live_bytes, 0);
                end_timeline(timeline);
                end_timeline(binds);
                world_close(0);
                if (!any) break;
            }
    assert_true(runs > 60);
}

/* Takes all that the arena has at hand, but for `left` bytes, so that the script has to ask the system at some time. */
static struct hoard { struct hoard *next; size_t bytes; } *hoard;
static bool take_hoard(size_t bytes)
{
    size_t used, before, after;
    arena_usage(&used, &before);
    struct hoard *h = arena_alloc(bytes);
    arena_usage(&used, &after);
    if (h == NULL) return false;
    *h = (struct hoard){hoard, bytes};
    hoard = h;
    return after == before;
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
    uint64_t failed = 0;
    for (size_t step = 0; step < 96; step++) {
        world_open(NULL, NULL);
        VkSemaphore timeline = new_timeline(0), binds = new_timeline(0);
        for (size_t bytes = MIB; bytes >= 64; bytes /= 2)
            while (take_hoard(bytes)) continue;
        for (size_t i = 0; i < step && hoard != NULL; i++) { /* some of it back: a little more every time */
            struct hoard *h = hoard;
            hoard = h->next;
            arena_free(h, h->bytes);
        }
        fake_os_install();
        fake_os_fail(FAKE_ANY, 1, true);
        stream_script(timeline, binds);
        failed += fake_os_failures();
        fake_os_remove();
        give_hoard_back();
        fake_vk_signal_semaphore(w.gpu, timeline, 1);
        OK(acre_vk_drain(w.vk, 0));
        world_check();
        stream_script(timeline, binds);
        OK(acre_vk_drain(w.vk, 0));
        assert_int_equal(category_stats(0).live_bytes, 0);
        end_timeline(timeline);
        end_timeline(binds);
        world_close(0);
    }
    assert_true(failed > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WORLD_TEST(pieces_are_aligned_and_never_overlap_while_their_frames_wait),
        WORLD_TEST(a_full_ring_says_so_until_a_frame_is_done),
        WORLD_TEST(a_fence_that_is_told_needs_no_question),
        WORLD_TEST(it_grows_and_the_old_buffer_goes_with_its_last_frame),
        WORLD_TEST(what_was_written_reaches_the_gpu_of_non_coherent_memory),
        WORLD_TEST(several_threads_get_pieces_of_their_own_while_it_grows),
        WORLD_TEST(without_sparse_binding_a_growable_says_what_to_copy),
        WORLD_TEST(with_sparse_binding_a_growable_grows_where_it_lies),
        WORLD_TEST(levels_come_and_go_by_themselves),
        WORLD_TEST(pages_that_go_wait_for_the_gpu),
        WORLD_TEST(every_driver_call_may_fail),
        WORLD_TEST(the_system_may_have_no_memory_at_any_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
