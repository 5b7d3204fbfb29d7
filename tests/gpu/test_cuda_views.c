/* test_cuda_views: claims about blocks that lead to another block's pages (acre_cuda_share), on the fake driver:
 * whatever lay at their addresses before, they lead to the pages of their origin, and to no others, while they live. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "acre/cuda.h"
#include "fake_cuda.h"

#define PAGE ((uint64_t)2 << 20)

static acre_cuda *start(uint64_t budget_pages)
{
    fake_cuda_start(NULL);
    acre_cuda_options o = {.symbol = fake_cuda_symbol, .budget_bytes = budget_pages * PAGE, .room_bytes = 1 << 30};
    acre_cuda *heap = NULL;
    acre_cuda_error why = {.status = ACRE_OK};
    if (acre_cuda_create(&o, &heap, &why) != ACRE_OK) fail_msg("%s", why.text);
    return heap;
}

static void finish(acre_cuda *heap)
{
    const char *wrong = acre_cuda_check(heap);
    if (wrong) fail_msg("%s", wrong);
    acre_cuda_destroy(heap);
    if (fake_cuda_stop() != 0) fail_msg("%s", fake_cuda_problem());
}

static void *own(acre_cuda *heap, uint64_t pages)
{
    acre_cuda_request q = {.bytes = pages * PAGE, .room_bytes = pages * PAGE, .flags = ACRE_CUDA_OWN_PAGES};
    void *block = NULL;
    assert_int_equal(acre_cuda_alloc_request(heap, &q, &block), ACRE_OK);
    return block;
}

static void assert_same(const char *view, const char *origin, uint64_t pages)
{
    for (uint64_t i = 0; i < pages; i++)
        if (!fake_cuda_same(view + i * PAGE, origin + i * PAGE)) fail_msg("page %d is another's", (int)i);
    assert_int_equal(fake_cuda_accessible(view, pages * PAGE), pages * PAGE);
}

static void a_view_leads_to_its_origin_where_empty_pages_lay(void **state)
{
    (void)state;
    acre_cuda *heap = start(0);
    char *origin = own(heap, 4), *before[8], *behind = NULL, *views[8];
    for (int i = 0; i < 8; i++) before[i] = own(heap, 4);
    behind = own(heap, 4);
    for (int i = 0; i < 8; i++) assert_int_equal(acre_cuda_free(heap, before[i], NULL), ACRE_OK);
    assert_int_equal(acre_cuda_trim(heap, UINT64_MAX, true, NULL), ACRE_OK); /* they are free now, their pages empty */
    int there = 0;
    for (int i = 0; i < 8; i++) {
        assert_int_equal(acre_cuda_share(heap, origin, 0, 4 * PAGE, 0, NULL, (void **)&views[i]), ACRE_OK);
        assert_same(views[i], origin, 4);
        there += views[i] >= before[0] && views[i] < behind;
    }
    assert_true(there > 0); /* where empty pages were: what this is about */
    assert_int_equal(acre_cuda_free(heap, behind, NULL), ACRE_OK);
    for (int i = 0; i < 8; i++) assert_int_equal(acre_cuda_free(heap, views[i], NULL), ACRE_OK);
    assert_int_equal(acre_cuda_free(heap, origin, NULL), ACRE_OK);
    finish(heap);
}

/* Every driver call fails in turn: a view is there as it must be, or not at all, and the next try succeeds. */
static void a_view_that_failed_leaves_nothing_wrong(void **state)
{
    (void)state;
    for (uint64_t nth = 1; nth < 100; nth++) {
        acre_cuda *heap = start(0);
        char *origin = own(heap, 4), *before = own(heap, 4), *view = NULL;
        assert_int_equal(acre_cuda_free(heap, before, NULL), ACRE_OK);
        fake_cuda_fail(NULL, nth, 2); /* CUDA_ERROR_OUT_OF_MEMORY */
        acre_status status = acre_cuda_share(heap, origin, 0, 4 * PAGE, 0, NULL, (void **)&view);
        bool failed = fake_cuda_failed(NULL);
        fake_cuda_fail(NULL, 0, 0);
        if (status != ACRE_OK)
            assert_int_equal(acre_cuda_share(heap, origin, 0, 4 * PAGE, 0, NULL, (void **)&view), ACRE_OK);
        assert_same(view, origin, 4);
        assert_int_equal(acre_cuda_free(heap, view, NULL), ACRE_OK);
        assert_int_equal(acre_cuda_free(heap, origin, NULL), ACRE_OK);
        finish(heap);
        if (!failed) {
            assert_true(nth > 1);
            return;
        }
    }
    fail_msg("there is no end to the driver calls");
}

/* Random blocks, views, growth and frees under a budget that makes pages wander. */
enum { SLOTS = 60, ROUNDS = 3000 };
static struct slot {
    char *block;
    uint64_t pages;
    int origin; /* of a view: its slot; -1: an own block; -2: a view whose origin was freed */
} slots[SLOTS];

static void views_and_blocks_keep_apart(void **state)
{
    (void)state;
    acre_cuda *heap = start(96);
    uint64_t seed = 1;
    memset(slots, 0, sizeof slots);
    for (int round = 0; round < ROUNDS; round++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        unsigned dice = (unsigned)(seed >> 33);
        struct slot *s = &slots[dice % SLOTS], *from = &slots[dice / SLOTS % SLOTS];
        if (!s->block && dice % 7 < 4) {
            acre_cuda_request q = {.bytes = (1 + dice % 4) * PAGE, .room_bytes = 16 * PAGE,
                                   .flags = ACRE_CUDA_OWN_PAGES};
            if (acre_cuda_alloc_request(heap, &q, (void **)&s->block) == ACRE_OK)
                *s = (struct slot){s->block, q.bytes / PAGE, -1};
        } else if (!s->block && from->block && from->origin == -1) {
            assert_int_equal(acre_cuda_share(heap, from->block, 0, from->pages * PAGE, 0, NULL, (void **)&s->block),
                             ACRE_OK);
            *s = (struct slot){s->block, from->pages, (int)(from - slots)};
            assert_same(s->block, from->block, s->pages);
        } else if (s->block && s->origin == -1 && dice % 7 < 3) {
            if (acre_cuda_resize(heap, s->block, (s->pages + 1) * PAGE) == ACRE_OK) s->pages++;
        } else if (s->block) {
            assert_int_equal(acre_cuda_free(heap, s->block, NULL), ACRE_OK);
            s->block = NULL;
            for (int i = 0; i < SLOTS; i++)
                if (slots[i].block && slots[i].origin == s - slots) slots[i].origin = -2;
        }
        if (round % 50 == 0) assert_int_equal(acre_cuda_tick(heap), ACRE_OK);
        for (int i = 0; i < SLOTS; i++)
            if (slots[i].block && slots[i].origin >= 0)
                assert_same(slots[i].block, slots[slots[i].origin].block, slots[i].pages);
    }
    for (int i = 0; i < SLOTS; i++) acre_cuda_free(heap, slots[i].block, NULL);
    finish(heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_view_leads_to_its_origin_where_empty_pages_lay),
        cmocka_unit_test(a_view_that_failed_leaves_nothing_wrong),
        cmocka_unit_test(views_and_blocks_keep_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
