/* test_empty_policy: claims about how much memory without a block is kept, and a small simulation of programs that
 * change level, under this policy and under the one that frees all empty blocks but one. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "gpu/empty_policy.h"
#include "probe.h"

static const empty_policy never = {UINT64_MAX, 100, UINT32_MAX};

static void the_oldest_goes_first(void **state)
{
    (void)state;
    empty_list list = {0};
    empty_item items[5];
    for (uint64_t i = 0; i < 5; i++) empty_add(&list, &items[i], 10 + i, 100 * i);
    assert_true(list.bytes == 60 && list.count == 5);
    empty_remove(&list, &items[2]);
    empty_remove(&list, &items[4]);
    assert_int_equal(list.bytes, 34);
    const int order[] = {0, 1, 3};
    for (int i = 0; i < 3; i++) {
        empty_item *item = empty_excess(&list, &never, 0, 1, 1000);
        assert_ptr_equal(item, &items[order[i]]);
        empty_remove(&list, item);
    }
    assert_true(list.newest == NULL && list.oldest == NULL && list.bytes == 0 && list.count == 0);
    assert_null(empty_excess(&list, &never, 0, 1, 1000));
    assert_int_equal(empty_next_ms(&list, &never, 0), UINT64_MAX);
}

static void each_rule_decides_alone(void **state)
{
    (void)state;
    empty_list list = {0};
    empty_item item;
    empty_add(&list, &item, 1000, 5000);
    empty_policy policy = {UINT64_MAX, 50, 1000};
    /* 1: the budget, at once */
    assert_ptr_equal(empty_excess(&list, &policy, UINT64_MAX, 1, 5000), &item);
    /* 2: the bound, at once; exactly the bound stays */
    policy.bytes_max = 999;
    assert_ptr_equal(empty_excess(&list, &policy, UINT64_MAX, 0, 5000), &item);
    policy.bytes_max = 1000;
    assert_null(empty_excess(&list, &policy, UINT64_MAX, 0, 5000));
    policy.bytes_max = UINT64_MAX;
    /* 3: the age, however little it is of what is live */
    assert_null(empty_excess(&list, &policy, 1000000, 0, 5999));
    assert_ptr_equal(empty_excess(&list, &policy, 1000000, 0, 6000), &item);
    /* 4: the share of what is live, once settled */
    assert_null(empty_excess(&list, &policy, 0, 0, 5099));
    assert_ptr_equal(empty_excess(&list, &policy, 1999, 0, 5100), &item);
    assert_null(empty_excess(&list, &policy, 2000, 0, 5100));
    assert_null(empty_excess(&list, &policy, UINT64_MAX, 0, 5100)); /* no overflow */
    /* never by age */
    policy.delay_ms = UINT32_MAX;
    assert_null(empty_excess(&list, &policy, 0, 0, UINT64_MAX));
    /* a clock that is a little behind */
    policy.delay_ms = 1000;
    assert_null(empty_excess(&list, &policy, 0, 0, 4999));
    /* keep none */
    policy.delay_ms = 0;
    assert_ptr_equal(empty_excess(&list, &policy, UINT64_MAX, 0, 5000), &item);
}

static void the_next_moment_is_when_the_oldest_settles_or_is_due(void **state)
{
    (void)state;
    empty_list list = {0};
    empty_item old, young;
    empty_policy policy = {UINT64_MAX, 50, 1000};
    empty_add(&list, &old, 10, 5000);
    empty_add(&list, &young, 10, 5500);
    assert_int_equal(empty_next_ms(&list, &policy, 5000), 100);
    assert_int_equal(empty_next_ms(&list, &policy, 5099), 1);
    assert_int_equal(empty_next_ms(&list, &policy, 5100), 900);
    assert_int_equal(empty_next_ms(&list, &policy, 6000), 0);
    assert_int_equal(empty_next_ms(&list, &policy, 7000), 0);
    policy.delay_ms = UINT32_MAX;
    assert_int_equal(empty_next_ms(&list, &policy, 7000), UINT64_MAX);
}

/* --- a simulated program ---------------------------------------------------------------------------------------- */

/* Whole pages are taken and freed; an empty one is reused, newest first, before the driver is asked. */
enum { PAGES_MAX = 512, PAGE_BYTES = 2 << 20 };

typedef struct program {
    empty_policy policy;
    bool but_one;  /* instead: all empties but one go back at once */
    empty_item items[PAGES_MAX];
    bool live[PAGES_MAX], held[PAGES_MAX];
    uint32_t live_count, held_count, held_peak;
    empty_list empties;
    uint64_t now_ms;
    uint64_t creates, destroys;
    uint64_t thrash; /* creates within a settling time of a destroy */
    uint64_t destroyed_ms;
} program;

static void drop(program *p, empty_item *item)
{
    empty_remove(&p->empties, item);
    p->held[item - p->items] = false;
    p->held_count--;
    p->destroys++;
    p->destroyed_ms = p->now_ms;
}

static void settle(program *p)
{
    if (p->but_one) {
        while (p->empties.count > 1) drop(p, p->empties.oldest);
        return;
    }
    empty_item *item;
    while ((item = empty_excess(&p->empties, &p->policy, (uint64_t)p->live_count * PAGE_BYTES, 0, p->now_ms)) != NULL)
        drop(p, item);
}

static void take_pages(program *p, uint32_t count)
{
    for (; count != 0; count--) {
        uint32_t page = 0;
        if (p->empties.newest != NULL) {
            page = (uint32_t)(p->empties.newest - p->items);
            empty_remove(&p->empties, p->empties.newest);
        } else {
            while (p->held[page]) page++;
            p->held[page] = true;
            p->creates++;
            if (p->destroys != 0 && p->now_ms - p->destroyed_ms < empty_settle_ms(&p->policy)) p->thrash++;
            if (++p->held_count > p->held_peak) p->held_peak = p->held_count;
        }
        p->live[page] = true;
        p->live_count++;
        settle(p);
    }
}

static void free_pages(program *p, uint32_t count)
{
    for (uint32_t page = 0; count != 0; page++) {
        if (!p->live[page]) continue;
        p->live[page] = false;
        p->live_count--;
        empty_add(&p->empties, &p->items[page], PAGE_BYTES, p->now_ms);
        settle(p);
        count--;
    }
}

/* Time passes, with a tick every 50 ms as a frame loop would give. */
static void pass(program *p, uint64_t ms)
{
    for (uint64_t end = p->now_ms + ms; p->now_ms < end; p->now_ms += 50) settle(p);
}

/* Twenty levels of 256 pages over 32 that stay; unloading, a pause, loading in steps. */
static void change_levels(program *p, uint64_t pause_ms)
{
    take_pages(p, 32 + 256);
    for (int level = 0; level < 20; level++) {
        pass(p, 60000); /* it is played; pages come and go */
        for (int i = 0; i < 20; i++) {
            free_pages(p, 30);
            pass(p, 200);
            take_pages(p, 30);
        }
        free_pages(p, 256);
        pass(p, pause_ms);
        for (int step = 0; step < 8; step++) {
            take_pages(p, 32);
            pass(p, 100);
        }
    }
}

static void a_level_change_gives_nothing_back_to_ask_for_it_again(void **state)
{
    (void)state;
    static program ours, but_one;
    ours = (program){.policy = empty_policy_default()};
    change_levels(&ours, 100);
    assert_int_equal(ours.creates, 32 + 256); /* what the first level took, once */
    assert_int_equal(ours.destroys, 0);
    assert_int_equal(ours.held_peak, 32 + 256);

    /* The same program where all empties but one are freed: thousands of calls. */
    but_one = (program){.policy = empty_policy_default(), .but_one = true};
    change_levels(&but_one, 100);
    assert_true(but_one.creates > 5000);
    assert_true(but_one.thrash > 5000);
}

static void slower_changes_cost_at_most_a_call_per_page_and_settling_time(void **state)
{
    (void)state;
    static program ours;
    ours = (program){.policy = empty_policy_default()};
    change_levels(&ours, 3000); /* longer than it settles: the share that is kept decides */
    assert_true(ours.creates <= (32 + 256) + 20 * 256);
    assert_int_equal(ours.held_peak, 32 + 256);
    uint64_t level_ms = 60000 + 20 * 200 + 3000 + 8 * 100;
    assert_true(ours.destroys <= 256 * 20 * level_ms / empty_settle_ms(&ours.policy));
    assert_int_equal(ours.creates - ours.destroys, ours.held_count);
}

static void idle_memory_goes(void **state)
{
    (void)state;
    static program ours, but_one;
    ours = (program){.policy = empty_policy_default()};
    take_pages(&ours, 300);
    free_pages(&ours, 200);
    assert_int_equal(ours.held_count, 300);
    pass(&ours, EMPTY_DELAY_MS_DEFAULT / 10 + 50); /* settled: at most half of what is live */
    assert_int_equal(ours.held_count, 100 + 100 * EMPTY_LIVE_PERCENT_DEFAULT / 100);
    pass(&ours, EMPTY_DELAY_MS_DEFAULT);
    assert_int_equal(ours.held_count, 100);
    free_pages(&ours, 100);
    pass(&ours, EMPTY_DELAY_MS_DEFAULT + 50);
    assert_int_equal(ours.held_count, 0);
    assert_int_equal(ours.thrash, 0);
    but_one = (program){.policy = empty_policy_default(), .but_one = true};
    take_pages(&but_one, 100);
    free_pages(&but_one, 100);
    pass(&but_one, 10 * EMPTY_DELAY_MS_DEFAULT);
    assert_int_equal(but_one.held_count, 1); /* for ever */
}

static void what_is_used_all_the_time_never_gets_old(void **state)
{
    (void)state;
    static program ours;
    ours = (program){.policy = empty_policy_default()};
    take_pages(&ours, 100);
    for (int frame = 0; frame < 10000; frame++) { /* four pages a frame, a hundred once */
        free_pages(&ours, 4);
        pass(&ours, 50);
        take_pages(&ours, 4);
    }
    assert_int_equal(ours.creates, 100);
    assert_int_equal(ours.destroys, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_goes_first),
        cmocka_unit_test(each_rule_decides_alone),
        cmocka_unit_test(the_next_moment_is_when_the_oldest_settles_or_is_due),
        cmocka_unit_test(a_level_change_gives_nothing_back_to_ask_for_it_again),
        cmocka_unit_test(slower_changes_cost_at_most_a_call_per_page_and_settling_time),
        cmocka_unit_test(idle_memory_goes),
        cmocka_unit_test(what_is_used_all_the_time_never_gets_old),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
