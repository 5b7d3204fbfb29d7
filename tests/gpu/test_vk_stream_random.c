/* test_vk_stream_random: everything of <acre/vulkan_stream.h> at once on one allocator and the fake device: a ring,
 * growing buffers with and without sparse binding, sparse buffers and images, plain buffers that a defragmentation
 * moves while others come and go. The GPU lags behind; driver calls fail now and then. What was written must be there after
 * every commit, growth and move, and the fake's checker sees each page that is bound twice, taken too early or left
 * behind. VK_RANDOM_SEED plays one life, as in test_vk_random. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "acre/vulkan_stream.h"
#include "vk_world.h"

enum { LIVES = 16, STEPS = 1500, SPARSES = 4, PAGES = 32, GROWABLES = 3, BUFFERS = 60, MOVES = 16, PIECES = 512 };
#define PAGE_BYTES ((uint64_t)64 << 10)

static uint64_t seed, life, lives = LIVES;
static bool faults;
static VkSemaphore work, binds; /* what the GPU did; which binds ran */
static uint64_t works, bound;   /* values handed out */
static uint64_t done;           /* the GPU's progress with the work */

static uint64_t pick(uint64_t below) { return next_random(&seed) % below; }
static acre_vk_point work_point(void) { return (acre_vk_point){.semaphore = work, .value = works}; }

static bool went(acre_status status)
{
    if (status == ACRE_OK) return true;
    if (status != ACRE_NO_MEMORY && status != ACRE_SYSTEM && status != ACRE_OVER_BUDGET && status != ACRE_BUSY)
        fail_msg("life %lu: %s", (unsigned long)life, acre_status_name(status));
    if (!faults && status != ACRE_BUSY)
        fail_msg("life %lu: %s, and nothing had failed", (unsigned long)life, acre_status_name(status));
    return false;
}

/* The GPU has done all that it was given. */
static void catch_up(void)
{
    done = works + 1;
    fake_vk_signal_semaphore(w.gpu, work, done);
    works += 2;
}

/* Waits for the GPU, as a decommit must; or for nothing. */
static acre_vk_bind next_bind(bool waits)
{
    return (acre_vk_bind){.queue = fake_vk_queue(w.gpu),
                          .after = waits ? work_point() : (acre_vk_point){.value = 0},
                          .done = {.semaphore = binds, .value = ++bound}};
}

static void stamp(uint64_t resource, uint64_t offset, uint64_t value)
{
    assert_true(fake_vk_gpu_write(w.gpu, resource, offset, &value, sizeof value));
}
static void expect_stamp(uint64_t resource, uint64_t offset, uint64_t value)
{
    uint64_t seen = 0;
    assert_true(fake_vk_gpu_read(w.gpu, resource, offset, &seen, sizeof seen));
    if (seen != value) fail_msg("life %lu: %lu instead of %lu", (unsigned long)life, seen, value);
}

/* --- sparse buffers and images ------------------------------------------------------------------------------------ */

static struct { acre_vk_sparse *sparse; uint64_t id, stamps[PAGES]; bool image, here[PAGES]; } sparses[SPARSES];

static void sparse_begin(int i)
{
    sparses[i].image = i % 2;
    acre_vk_request request = {.category = 0};
    if (sparses[i].image) {
        VkImageCreateInfo info = fake_vk_image_info(512, 512, 0, 0);
        info.mipLevels = 10;
        OK(acre_vk_sparse_create_image(w.vk, &info, &request, &sparses[i].sparse));
    } else {
        VkBufferCreateInfo info = fake_vk_buffer_info(PAGES * PAGE_BYTES, 0);
        OK(acre_vk_sparse_create_buffer(w.vk, &info, &request, &sparses[i].sparse));
    }
    acre_vk_sparse_info info;
    OK(acre_vk_sparse_get_info(sparses[i].sparse, &info));
    sparses[i].id = sparses[i].image ? FAKE_VK_ID(info.image) : FAKE_VK_ID(info.buffer);
}

/* 512 x 512 in four bytes: 16, 4 and 1 tiles, then the tail in one page. */
static void level_pages(uint32_t level, uint32_t *first, uint32_t *count)
{
    static const uint32_t firsts[] = {0, 16, 20, 21}, counts[] = {16, 4, 1, 1};
    *first = firsts[level < 3 ? level : 3];
    *count = counts[level < 3 ? level : 3];
}

static void sparse_step(int i)
{
    uint32_t level = (uint32_t)pick(10), first = (uint32_t)pick(PAGES), count = 1 + (uint32_t)pick(PAGES - first);
    if (sparses[i].image) level_pages(level, &first, &count);
    bool commit = pick(2);
    if (commit) catch_up(); /* what was decommitted there before is gone, so that new stamps can be written now */
    acre_vk_bind bind = next_bind(!commit);
    acre_status status;
    if (sparses[i].image)
        status = commit ? acre_vk_sparse_commit_mip(sparses[i].sparse, level, 0, &bind)
                        : acre_vk_sparse_decommit_mip(sparses[i].sparse, level, 0, &bind);
    else
        status = commit ? acre_vk_sparse_commit(sparses[i].sparse, first * PAGE_BYTES, count * PAGE_BYTES, &bind)
                        : acre_vk_sparse_decommit(sparses[i].sparse, first * PAGE_BYTES, count * PAGE_BYTES, &bind);
    if (went(status)) {
        for (uint32_t p = first; p < first + count; p++) {
            if (commit && !sparses[i].here[p]) {
                sparses[i].stamps[p] = pick(1u << 30);
                stamp(sparses[i].id, p * PAGE_BYTES, sparses[i].stamps[p]);
            }
            sparses[i].here[p] = commit;
        }
    }
    if (!commit && pick(2)) catch_up();
    for (uint32_t p = 0; p < PAGES; p++)
        if (sparses[i].here[p]) expect_stamp(sparses[i].id, p * PAGE_BYTES, sparses[i].stamps[p]);
    acre_vk_sparse_info info;
    OK(acre_vk_sparse_get_info(sparses[i].sparse, &info));
    uint64_t pages = 0;
    for (uint32_t p = 0; p < PAGES; p++) pages += sparses[i].here[p];
    assert_int_equal(info.committed_bytes, pages * PAGE_BYTES);
}

/* --- growables ---------------------------------------------------------------------------------------------------- */

static struct { acre_vk_growable *growable; bool sparse; uint64_t bytes, stamp; } growables[GROWABLES];

static void growable_begin(int i)
{
    acre_vk_growable_options options = {.bytes = 100000,
                                        .bytes_max = 16 * MIB,
                                        .buffer_usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT,
                                        .sparse = i != 0,
                                        .bind = next_bind(false)};
    growables[i].sparse = i != 0;
    growables[i].bytes = options.bytes;
    growables[i].stamp = 7;
    OK(acre_vk_growable_create(w.vk, &options, &growables[i].growable));
    uint64_t id = FAKE_VK_ID(acre_vk_growable_buffer(growables[i].growable));
    stamp(id, 0, 7);
    stamp(id, options.bytes - 8, 7);
}

static void growable_step(int i)
{
    acre_vk_growable *g = growables[i].growable;
    uint64_t old = growables[i].bytes, bytes = 8 + pick(pick(4) == 0 ? 12 * MIB : MIB), id;
    bytes = align_up(bytes, 8);
    catch_up();
    acre_vk_bind bind = next_bind(bytes < old);
    acre_vk_growth growth;
    if (!went(acre_vk_growable_resize(g, bytes, pick(2), growables[i].sparse ? &bind : NULL, &growth))) return;
    if (!growth.in_place) {
        assert_false(growables[i].sparse);
        if (pick(4) == 0) {
            OK(acre_vk_growable_cancel(g));
            assert_true(acre_vk_growable_buffer(g) == growth.from);
            bytes = old;
        } else {
            assert_true(fake_vk_gpu_copy(w.gpu, FAKE_VK_ID(growth.from), 0, FAKE_VK_ID(growth.to), 0,
                                         (size_t)growth.copy_bytes));
            fake_vk_gpu_uses(w.gpu, FAKE_VK_ID(growth.from), FAKE_VK_ID(work), works);
            if (!went(acre_vk_growable_finish(g, work_point()))) {
                OK(acre_vk_growable_cancel(g));
                bytes = old;
            }
        }
    }
    growables[i].bytes = bytes;
    assert_int_equal(acre_vk_growable_bytes(g), bytes);
    id = FAKE_VK_ID(acre_vk_growable_buffer(g));
    expect_stamp(id, 0, growables[i].stamp);
    if (bytes >= old) expect_stamp(id, old - 8, growables[i].stamp);
    growables[i].stamp = pick(1u << 30);
    stamp(id, 0, growables[i].stamp);
    stamp(id, bytes - 8, growables[i].stamp);
}

/* --- the ring ----------------------------------------------------------------------------------------------------- */

static acre_vk_ring *ring;
static struct { acre_vk_piece piece; uint64_t until; uint8_t value; } pieces[PIECES];

static void ring_step(void)
{
    for (int n = 0; n < 8; n++) {
        int k = (int)pick(PIECES);
        if (pieces[k].until != 0) {
            const uint8_t *bytes = pieces[k].piece.mapped; /* still its own, while its frame waits */
            if (pieces[k].until > done)
                for (VkDeviceSize b = 0; b < pieces[k].piece.size; b += 37) assert_int_equal(bytes[b], pieces[k].value);
            if (pieces[k].until > done) continue;
        }
        pieces[k].until = 0;
        acre_status status = acre_vk_ring_alloc(ring, 1 + pick(20000), 0, &pieces[k].piece);
        if (!went(status)) break;
        pieces[k].value = (uint8_t)pick(256);
        memset(pieces[k].piece.mapped, pieces[k].value, (size_t)pieces[k].piece.size);
        pieces[k].until = works; /* this frame's */
    }
    acre_vk_point point = work_point();
    if (went(acre_vk_ring_frame_end(ring, &point))) works++;
    if (pick(8) == 0) (void)went(acre_vk_ring_trim(ring));
}

/* --- buffers that move -------------------------------------------------------------------------------------------- */

static struct mover { VkBuffer buffer; acre_vk_allocation a; uint64_t stamp; bool used; } movers[BUFFERS];
static VkBufferCreateInfo mover_info(uint64_t size) { return fake_vk_buffer_info(size, 0); }

static void buffer_step(void)
{
    struct mover *m = &movers[pick(BUFFERS)];
    if (m->used) {
        expect_stamp(FAKE_VK_ID(m->buffer), 0, m->stamp);
        fake_vk_gpu_uses(w.gpu, FAKE_VK_ID(m->buffer), FAKE_VK_ID(work), works);
        OK(acre_vk_destroy_buffer_after(w.vk, m->buffer, m->a.handle, work_point()));
        m->used = false;
        return;
    }
    VkBufferCreateInfo info = mover_info(64 * KIB + pick(900 * KIB));
    acre_vk_request request = {.tag = (uint64_t)(m - movers)};
    if (!went(acre_vk_create_buffer(w.vk, &info, &request, &m->buffer, &m->a))) return;
    m->used = true;
    stamp(FAKE_VK_ID(m->buffer), 0, m->stamp = pick(1u << 30));
}

static bool may_move(void *context, const acre_vk_block_info *block)
{
    (void)context;
    return block->tag < BUFFERS && movers[block->tag].used && movers[block->tag].a.handle == block->allocation.handle;
}

static uint64_t moved;
static void defrag_step(void)
{
    catch_up();
    acre_vk_collect(w.vk);
    acre_vk_defrag_options options = {.fill_percent_max = 100, .movable = may_move, .step_ns_max = 1000000000};
    acre_vk_defrag *defrag = NULL;
    if (!went(acre_vk_defrag_begin(w.vk, &options, &defrag))) return;
    acre_vk_move moves[MOVES];
    uint32_t count = 0;
    while (went(acre_vk_defrag_step(defrag, moves, MOVES, &count)) && count > 0) {
        for (uint32_t i = 0; i < count; i++) {
            struct mover *m = &movers[moves[i].tag];
            assert_int_equal(moves[i].handle, m->a.handle);
            fake_vk_resource_info old;
            assert_true(fake_vk_get_resource(w.gpu, FAKE_VK_ID(m->buffer), &old));
            assert_true(old.memory == moves[i].from.memory && old.offset == moves[i].from.offset);
            VkBufferCreateInfo info = mover_info(old.size);
            VkBuffer to = VK_NULL_HANDLE;
            if (pick(8) == 0 || FAKE_VK_FN(w.gpu, vkCreateBuffer)(w.device, &info, NULL, &to) != VK_SUCCESS) {
                OK(acre_vk_defrag_reject(defrag, moves[i].id));
                continue;
            }
            if (acre_vk_bind_buffer(w.vk, moves[i].to.handle, 0, to) != ACRE_OK) {
                FAKE_VK_FN(w.gpu, vkDestroyBuffer)(w.device, to, NULL);
                OK(acre_vk_defrag_reject(defrag, moves[i].id));
                continue;
            }
            assert_true(fake_vk_gpu_copy(w.gpu, FAKE_VK_ID(m->buffer), 0, FAKE_VK_ID(to), 0, (size_t)old.size));
            fake_vk_gpu_uses(w.gpu, FAKE_VK_ID(m->buffer), FAKE_VK_ID(work), works);
            OK(acre_vk_defrag_confirm(defrag, moves[i].id, work_point()));
            /* The old buffer goes with its place. */
            OK(acre_vk_destroy_buffer_after(w.vk, m->buffer, 0, work_point()));
            m->buffer = to;
            acre_vk_block_info now;
            OK(acre_vk_get_info(w.vk, m->a.handle, &now));
            assert_true(now.allocation.memory == moves[i].to.memory && now.allocation.offset == moves[i].to.offset);
            moved++;
        }
        if (pick(2)) buffer_step(); /* others live on */
        if (pick(4) == 0) catch_up();
    }
    acre_vk_defrag_end(defrag, NULL);
    for (int i = 0; i < BUFFERS; i++)
        if (movers[i].used) expect_stamp(FAKE_VK_ID(movers[i].buffer), 0, movers[i].stamp);
}

/* --- a life ------------------------------------------------------------------------------------------------------- */

static void a_life(uint64_t number, bool with_faults)
{
    life = seed = number;
    faults = with_faults;
    world_open(NULL, &(acre_vk_options){.page_bytes_max = 8 * MIB, .empty_delay_ms = 300, .shards = 2});
    memset(sparses, 0, sizeof sparses);
    memset(pieces, 0, sizeof pieces);
    memset(movers, 0, sizeof movers);
    work = new_timeline(0);
    binds = new_timeline(0);
    works = 1;
    bound = done = 0;
    for (int i = 0; i < SPARSES; i++) sparse_begin(i);
    for (int i = 0; i < GROWABLES; i++) growable_begin(i);
    acre_vk_ring_options options = {.bytes = 64 * KIB, .bytes_max = 2 * MIB, .request = {.type_bits = 1u << T_SHADOW}};
    OK(acre_vk_ring_create(w.vk, &options, &ring));
    for (int step = 1; step <= STEPS; step++) {
        if (faults && pick(20) == 0) {
            static const VkResult results[] = {VK_ERROR_OUT_OF_DEVICE_MEMORY, VK_ERROR_OUT_OF_HOST_MEMORY,
                                               VK_ERROR_UNKNOWN};
            fake_vk_fail(w.gpu, FAKE_VK_ANY, 1 + pick(6), results[pick(3)], false);
        }
        uint64_t what = pick(40);
        if (what < 10)
            sparse_step((int)pick(SPARSES));
        else if (what < 16)
            growable_step((int)pick(GROWABLES));
        else if (what < 24)
            ring_step();
        else if (what < 38)
            buffer_step();
        else if (what < 39)
            defrag_step();
        else
            catch_up();
        w.now_ms += pick(30);
        if (pick(4) == 0) acre_vk_collect(w.vk);
        if (step % 50 == 0) world_check();
    }
    fake_vk_heal(w.gpu);
    faults = false;
    catch_up();
    for (int i = 0; i < BUFFERS; i++)
        if (movers[i].used) OK(acre_vk_destroy_buffer(w.vk, movers[i].buffer, movers[i].a.handle));
    for (int i = 0; i < SPARSES; i++) OK(acre_vk_sparse_destroy(sparses[i].sparse, work_point()));
    for (int i = 0; i < GROWABLES; i++) OK(acre_vk_growable_destroy(growables[i].growable, work_point()));
    catch_up();
    acre_vk_ring_destroy(ring);
    OK(acre_vk_drain(w.vk, 0));
    assert_int_equal(all_stats().total.live_bytes, 0);
    assert_int_equal(all_stats().total.pending_bytes, 0);
    assert_int_equal(fake_vk_live_resources(w.gpu), 0);
    end_timeline(work);
    end_timeline(binds);
    world_close(0);
}

static int tell(void **state)
{
    int left = world_abandon(state);
    if (left != 0) fprintf(stderr, "VK_RANDOM_SEED=%lu\n", (unsigned long)life);
    return left;
}

static void random_streams_keep_their_contents(void **state)
{
    (void)state;
    const char *one = getenv("VK_RANDOM_SEED");
    uint64_t first = one ? strtoull(one, NULL, 0) : 1;
    if (first >= 1000000) return;
    moved = 0;
    for (uint64_t i = first; i < first + (one ? 1 : lives); i++) a_life(i, false);
    assert_true(moved > 0);
}

static void random_streams_with_failures_keep_their_contents(void **state)
{
    (void)state;
    const char *one = getenv("VK_RANDOM_SEED");
    uint64_t first = one ? strtoull(one, NULL, 0) : 1000001;
    if (first < 1000000) return;
    for (uint64_t i = first; i < first + (one ? 1 : lives); i++) a_life(i, true);
}

int main(int argc, char **argv)
{
    if (argc > 1) lives = strtoull(argv[1], NULL, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(random_streams_keep_their_contents, tell),
        cmocka_unit_test_teardown(random_streams_with_failures_keep_their_contents, tell),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
