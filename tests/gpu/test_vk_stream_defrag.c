/* test_vk_stream_defrag: the choice of pages (src/gpu/defrag.h) against what it promises, and acre_vk_defrag_* on the
 * fake device: data that is copied arrives, nothing is reused while the GPU copies, fixed blocks stay, bounds hold,
 * others go on, and pages become empty. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "acre/vulkan_stream.h"
#include "gpu/defrag.h"
#include "vk_world.h"

/* --- the choice ------------------------------------------------------------------------------------------------- */

static void sources_fit_into_what_stays(void **state)
{
    (void)state;
    enum { PAGES = 40, BLOCKS = 400 };
    uint64_t random = 3, chosen = 0;
    for (int round = 0; round < 500; round++) {
        defrag_page pages[PAGES];
        defrag_block blocks[BLOCKS];
        for (uint64_t i = 0; i < PAGES; i++)
            pages[i] = (defrag_page){.key = (i * 7919) % 1009 + 1, .group = next_random(&random) % 3,
                                     .bytes = 1000u << next_random(&random) % 3, .fixed = next_random(&random) % 8 == 0,
                                     .source = true};
        for (uint64_t i = 0; i < BLOCKS; i++) {
            defrag_page *p = &pages[next_random(&random) % PAGES];
            uint64_t bytes = 1 + next_random(&random) % 60;
            if (p->used_bytes + bytes > p->bytes) bytes = 0;
            p->used_bytes += bytes;
            blocks[i] = (defrag_block){i + 1, bytes != 0 ? p->key : 0, bytes, 0};
        }
        const defrag_limits limits = {75, round % 2 ? UINT64_MAX : 500};
        uint32_t sources = defrag_choose(pages, PAGES, &limits);
        uint64_t moving[3] = {0}, holes[3] = {0}, all = 0, seen = 0;
        for (int i = 0; i < PAGES; i++) {
            const defrag_page *p = &pages[i];
            assert_true(i == 0 || pages[i - 1].key < p->key);
            assert_ptr_equal(defrag_find(pages, PAGES, p->key), p);
            if (p->source) {
                assert_true(!p->fixed && p->used_bytes > 0 && p->used_bytes * 100 <= p->bytes * 75);
                moving[p->group] += p->used_bytes;
                seen++;
            } else if (p->used_bytes > 0) {
                holes[p->group] += p->bytes - p->used_bytes;
            }
        }
        assert_int_equal(seen, sources);
        for (int g = 0; g < 3; g++) {
            assert_true(moving[g] <= holes[g] - holes[g] / 16);
            all += moving[g];
        }
        assert_true(all <= limits.bytes_max);
        uint32_t planned = defrag_order(blocks, BLOCKS, pages, PAGES);
        uint64_t bytes = 0;
        for (uint32_t i = 0; i < planned; i++) {
            assert_true(defrag_find(pages, PAGES, blocks[i].page)->source);
            if (i > 0 && blocks[i].page == blocks[i - 1].page) assert_true(blocks[i].bytes <= blocks[i - 1].bytes);
            for (uint32_t k = 0; i > 0 && blocks[i].page != blocks[i - 1].page && k < i; k++)
                assert_true(blocks[k].page != blocks[i].page); /* a page's blocks follow each other */
            bytes += blocks[i].bytes;
        }
        assert_int_equal(bytes, all);
        chosen += sources;
    }
    assert_true(chosen > 1000);
    assert_null(defrag_find(NULL, 0, 1));
}

/* --- on the fake device ----------------------------------------------------------------------------------------- */

enum { COUNT = 600 };
static struct item {
    acre_vk_allocation a;
    uint64_t claim;
    bool live, fixed;
} items[COUNT];

static uint64_t stamp_of(uint64_t number) { return number * 0x9E3779B97F4A7C15u; }

static void write_stamp(uint64_t claim, uint64_t number, uint64_t bytes)
{
    uint64_t stamp = stamp_of(number);
    assert_true(fake_vk_gpu_write(w.gpu, claim, 0, &stamp, sizeof stamp));
    assert_true(fake_vk_gpu_write(w.gpu, claim, bytes - sizeof stamp, &stamp, sizeof stamp));
}

static void check_stamps(void)
{
    for (uint64_t i = 0; i < COUNT; i++) {
        if (!items[i].live) continue;
        uint64_t front, back, size = items[i].a.size;
        assert_true(fake_vk_gpu_read(w.gpu, items[i].claim, 0, &front, sizeof front));
        assert_true(fake_vk_gpu_read(w.gpu, items[i].claim, size - sizeof back, &back, sizeof back));
        assert_int_equal(front, stamp_of(i));
        assert_int_equal(back, stamp_of(i));
        acre_vk_block_info info;
        OK(acre_vk_get_info(w.vk, items[i].a.handle, &info));
        assert_true(info.allocation.memory == items[i].a.memory && info.allocation.offset == items[i].a.offset);
        assert_int_equal(info.tag, i);
    }
}

/* A level that was left: one of five blocks lives. */
static void make_mess(uint64_t seed)
{
    memset(items, 0, sizeof items);
    uint64_t random = seed;
    for (uint64_t i = 0; i < COUNT; i++) {
        const acre_vk_request request = {.tag = i, .name = i % 9 ? NULL : "named"};
        VkMemoryRequirements need =
            needs(4096 + next_random(&random) % (256 * KIB), 1u << (8 + next_random(&random) % 9), 1);
        OK(acre_vk_alloc(w.vk, &need, &request, &items[i].a));
        items[i].live = true;
        items[i].fixed = i % 50 == 7;
        items[i].claim = fake_vk_claim(w.gpu, items[i].a.memory, items[i].a.offset, items[i].a.size, true);
        write_stamp(items[i].claim, i, items[i].a.size);
    }
    for (uint64_t i = 0; i < COUNT; i++) {
        if (next_random(&random) % 5 == 0 || items[i].fixed) continue;
        fake_vk_drop_claim(w.gpu, items[i].claim);
        OK(acre_vk_free(w.vk, items[i].a.handle));
        items[i].live = false;
    }
}

static void free_all(void)
{
    for (uint64_t i = 0; i < COUNT; i++) {
        if (!items[i].live) continue;
        fake_vk_drop_claim(w.gpu, items[i].claim);
        OK(acre_vk_free(w.vk, items[i].a.handle));
        items[i].live = false;
    }
}

static bool not_fixed(void *context, const acre_vk_block_info *block)
{
    (void)context;
    return !items[block->tag].fixed;
}

static const acre_vk_options small_pages = {.page_bytes_min = 2 * MIB, .page_bytes_max = 2 * MIB, .empty_bytes_max = 1};

/* The GPU copies until `value`; then the block is at its new place. */
static void execute(acre_vk_defrag *d, const acre_vk_move *m, VkSemaphore timeline, uint64_t value)
{
    struct item *x = &items[m->tag];
    assert_true(x->live && x->a.handle == m->handle && !x->fixed);
    assert_true(m->from.memory == x->a.memory && m->from.offset == x->a.offset && m->to.memory != m->from.memory);
    assert_int_equal(m->bytes, x->a.size);
    uint64_t claim = fake_vk_claim(w.gpu, m->to.memory, m->to.offset, m->bytes, true);
    assert_true(fake_vk_gpu_copy(w.gpu, x->claim, 0, claim, 0, m->bytes));
    fake_vk_gpu_uses(w.gpu, x->claim, FAKE_VK_ID(timeline), value);
    fake_vk_gpu_uses(w.gpu, claim, FAKE_VK_ID(timeline), value);
    fake_vk_drop_claim(w.gpu, x->claim); /* from now on the fake sees a reuse before `value` */
    OK(acre_vk_defrag_confirm(d, m->id, (acre_vk_point){.semaphore = timeline, .value = value}));
    REFUSED(ACRE_INVALID_ARGUMENT, acre_vk_defrag_confirm(d, m->id, (acre_vk_point){.value = 0}));
    x->claim = claim;
    x->a.memory = m->to.memory;
    x->a.offset = m->to.offset;
}

static void a_mess_is_gathered_and_its_pages_go(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        world_open(NULL, &small_pages);
        VkSemaphore timeline = new_timeline(0);
        make_mess(seed);
        uint64_t live = all_stats().total.live_bytes, pages = all_stats().pages, value = 0, moved = 0;
        const acre_vk_defrag_options options = {.movable = not_fixed, .step_moves_max = 10, .step_bytes_max = MIB,
                                                .step_ns_max = 1000000000};
        acre_vk_defrag *d = NULL;
        OK(acre_vk_defrag_begin(w.vk, &options, &d));
        acre_vk_move moves[64];
        uint32_t count;
        for (;;) {
            OK(acre_vk_defrag_step(d, moves, 64, &count));
            if (count == 0) break;
            assert_true(count <= 10);
            uint64_t bytes = 0;
            value++;
            for (uint32_t i = 0; i < count; i++) {
                bytes += moves[i].bytes;
                execute(d, &moves[i], timeline, value);
            }
            assert_true(bytes <= MIB);
            moved += bytes;
            world_check();
            if (value % 2) continue; /* sometimes the GPU is behind */
            fake_vk_signal_semaphore(w.gpu, timeline, value);
            acre_vk_collect(w.vk);
        }
        fake_vk_signal_semaphore(w.gpu, timeline, value + 1);
        OK(acre_vk_drain(w.vk, 0));
        check_stamps();
        acre_vk_defrag_result result;
        acre_vk_defrag_end(d, &result);
        check_stamps();
        assert_int_equal(result.bytes_moved, moved);
        assert_true(result.pages_planned >= 10);
        assert_true(result.pages_emptied * 10 >= result.pages_planned * 9);
        acre_vk_trim(w.vk, 0);
        acre_vk_stats s = all_stats();
        assert_int_equal(s.total.live_bytes, live);
        assert_true(s.pages < pages * 3 / 5);
        /* At the end there is nothing to gain, or next to nothing. */
        OK(acre_vk_defrag_begin(w.vk, &options, &d));
        acre_vk_defrag_end(d, &result);
        assert_true(result.pages_planned <= 3);
        free_all();
        end_timeline(timeline);
        world_close(0);
    }
}

static void rejected_moves_leave_everything_as_it_was(void **state)
{
    (void)state;
    world_open(NULL, &small_pages);
    make_mess(9);
    acre_gpu_category_stats before = category_stats(0);
    const acre_vk_defrag_options options = {.movable = not_fixed, .bytes_max = 2 * MIB};
    acre_vk_defrag *d = NULL;
    OK(acre_vk_defrag_begin(w.vk, &options, &d));
    acre_vk_move moves[256];
    uint32_t count, all = 0;
    uint64_t bytes = 0;
    do {
        OK(acre_vk_defrag_step(d, moves + all, 256 - all, &count));
        for (uint32_t i = all; i < all + count; i++) bytes += moves[i].bytes;
        all += count;
    } while (count != 0 && all < 256);
    assert_true(all > 4 && bytes <= 2 * MIB);
    for (uint32_t i = 0; i < all / 2; i++) OK(acre_vk_defrag_reject(d, moves[i].id)); /* the rest: by end */
    acre_vk_defrag_result result;
    acre_vk_defrag_end(d, &result);
    assert_int_equal(result.rejected, all);
    assert_int_equal(result.moves, 0);
    assert_int_equal(category_stats(0).live_bytes, before.live_bytes);
    assert_int_equal(category_stats(0).blocks, before.blocks);
    check_stamps();
    free_all();
    world_close(0);
}

static void blocks_that_go_meanwhile_are_dropped(void **state)
{
    (void)state;
    world_open(NULL, &small_pages);
    VkSemaphore timeline = new_timeline(0);
    make_mess(4);
    const acre_vk_defrag_options options = {.movable = not_fixed, .step_moves_max = 20};
    acre_vk_defrag *d = NULL;
    OK(acre_vk_defrag_begin(w.vk, &options, &d));
    acre_vk_move moves[20];
    uint32_t count;
    uint64_t value = 0, lost = 0;
    for (;;) {
        OK(acre_vk_defrag_step(d, moves, 20, &count));
        if (count == 0) break;
        value++;
        for (uint32_t i = 0; i < count; i++) {
            if (i % 3 != 0) {
                execute(d, &moves[i], timeline, value);
                continue;
            }
            struct item *x = &items[moves[i].tag]; /* freed between the step and the confirmation */
            fake_vk_drop_claim(w.gpu, x->claim);
            OK(acre_vk_free(w.vk, x->a.handle));
            x->live = false;
            REFUSED(ACRE_DOUBLE_FREE,
                    acre_vk_defrag_confirm(d, moves[i].id, (acre_vk_point){.semaphore = timeline, .value = value}));
            lost++;
        }
        for (int i = 0; i < 10; i++) OK(acre_vk_free(w.vk, take(100000, NULL).handle)); /* others go on */
    }
    acre_vk_defrag_result result;
    acre_vk_defrag_end(d, &result);
    assert_true(lost > 3 && result.dropped >= lost);
    fake_vk_signal_semaphore(w.gpu, timeline, value);
    OK(acre_vk_drain(w.vk, 0));
    check_stamps();
    free_all();
    assert_int_equal(category_stats(0).live_bytes, 0);
    end_timeline(timeline);
    world_close(0);
}

static void mapped_dedicated_and_bound_blocks_stay(void **state)
{
    (void)state;
    world_open(NULL, &small_pages);
    acre_vk_ring *ring = NULL;
    const acre_vk_ring_options ring_options = {.bytes = 64 * KIB};
    OK(acre_vk_ring_create(w.vk, &ring_options, &ring));
    acre_vk_growable *g = NULL;
    const acre_vk_growable_options grow = {.bytes = 64 * KIB, .buffer_usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT};
    OK(acre_vk_growable_create(w.vk, &grow, &g));
    make_mess(2);
    for (uint64_t i = 0; i < COUNT; i++) items[i].fixed = false;
    const acre_vk_request mapped = {.usage = ACRE_VK_UPLOAD, .flags = ACRE_VK_MAPPED};
    const acre_vk_request dedicated = {.flags = ACRE_VK_DEDICATED};
    acre_vk_allocation a = take(100, &mapped), b = take(100, &dedicated);
    acre_vk_defrag *d = NULL;
    OK(acre_vk_defrag_begin(w.vk, &(acre_vk_defrag_options){.pool = NULL}, &d));
    acre_vk_move m;
    uint32_t count, all = 0;
    acre_vk_block_info info;
    do {
        OK(acre_vk_defrag_step(d, &m, 1, &count));
        if (count == 0) break;
        assert_true(m.tag < COUNT && items[m.tag].a.handle == m.handle); /* one of the mess */
        OK(acre_vk_get_info(w.vk, m.handle, &info));
        OK(acre_vk_defrag_reject(d, m.id));
        all++;
    } while (true);
    assert_true(all > 10);
    acre_vk_defrag_end(d, NULL);
    OK(acre_vk_free(w.vk, a.handle));
    OK(acre_vk_free(w.vk, b.handle));
    acre_vk_ring_destroy(ring);
    OK(acre_vk_growable_destroy(g, (acre_vk_point){.value = 0}));
    free_all();
    world_close(0);
}

typedef struct other {
    _Atomic bool stop;
    uint64_t rounds;
} other;

static void *allocate_and_free(void *context)
{
    other *me = context;
    acre_vk_allocation held[32] = {{.handle = 0}};
    uint64_t random = 77;
    while (!me->stop || me->rounds < 1000) {
        acre_vk_allocation *a = &held[next_random(&random) % 32];
        if (a->handle != 0) acre_vk_free(w.vk, a->handle);
        VkMemoryRequirements need = needs(1000 + next_random(&random) % 100000, 256, 1);
        const acre_vk_request request = {.tag = COUNT};
        if (acre_vk_alloc(w.vk, &need, &request, a) != ACRE_OK) a->handle = 0;
        me->rounds++;
    }
    for (int i = 0; i < 32; i++)
        if (held[i].handle != 0) acre_vk_free(w.vk, held[i].handle);
    return NULL;
}

static bool of_the_mess(void *context, const acre_vk_block_info *block)
{
    (void)context;
    return block->tag < COUNT && !items[block->tag].fixed;
}

static void it_works_while_others_allocate(void **state)
{
    (void)state;
    world_open(NULL, &small_pages);
    VkSemaphore timeline = new_timeline(0);
    make_mess(5);
    other thread_state = {.stop = false};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, allocate_and_free, &thread_state), 0);
    uint64_t value = 0, moves_made = 0;
    for (int pass = 0; pass < 5; pass++) {
        acre_vk_defrag *d = NULL;
        OK(acre_vk_defrag_begin(w.vk, &(acre_vk_defrag_options){.movable = of_the_mess, .fill_percent_max = 95}, &d));
        acre_vk_move moves[32];
        uint32_t count;
        for (;;) {
            OK(acre_vk_defrag_step(d, moves, 32, &count));
            if (count == 0) break;
            value++;
            for (uint32_t i = 0; i < count; i++) execute(d, &moves[i], timeline, value);
            fake_vk_signal_semaphore(w.gpu, timeline, value);
            acre_vk_collect(w.vk);
            moves_made += count;
        }
        acre_vk_defrag_end(d, NULL);
    }
    thread_state.stop = true;
    pthread_join(thread, NULL);
    assert_true(moves_made > 20);
    check_stamps();
    free_all();
    assert_int_equal(category_stats(0).live_bytes, 0);
    end_timeline(timeline);
    world_close(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sources_fit_into_what_stays),
        WORLD_TEST(a_mess_is_gathered_and_its_pages_go),
        WORLD_TEST(rejected_moves_leave_everything_as_it_was),
        WORLD_TEST(blocks_that_go_meanwhile_are_dropped),
        WORLD_TEST(mapped_dedicated_and_bound_blocks_stay),
        WORLD_TEST(it_works_while_others_allocate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
