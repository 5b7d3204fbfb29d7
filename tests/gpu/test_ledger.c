/* test_ledger: claims about who holds how much of a GPU's memory, and the report that is made when it runs out. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gpu/ledger.h"
#include "probe.h"

static gpu_ledger ledger;

static acre_status init(const acre_gpu_category *rows, uint32_t count, uint32_t heaps)
{
    memset(&ledger, 0, sizeof ledger);
    return gpu_ledger_init(&ledger, rows, count, heaps);
}

static acre_gpu_heap_stats heap_stats(uint32_t heap)
{
    acre_gpu_heap_stats stats;
    gpu_ledger_read_heap(&ledger, heap, &stats);
    return stats;
}
static acre_gpu_category_stats category_stats(uint32_t category)
{
    acre_gpu_category_stats stats;
    gpu_ledger_read_category(&ledger, category, &stats);
    return stats;
}

static void without_rows_there_is_one_called_all(void **state)
{
    (void)state;
    assert_int_equal(init(NULL, 0, 2), ACRE_OK);
    assert_int_equal(ledger.category_count, 1);
    assert_string_equal(category_stats(0).name, "all");
    assert_int_equal(category_stats(0).budget_bytes, 0);
    assert_int_equal(heap_stats(1).budget_bytes, 0);
    assert_true(ledger.categories[0].priority == 0.5f);
}

static void wrong_tables_are_refused(void **state)
{
    (void)state;
    acre_gpu_category many[ACRE_GPU_CATEGORIES_MAX + 1];
    memset(many, 0, sizeof many);
    assert_int_equal(init(many, ACRE_GPU_CATEGORIES_MAX + 1, 1), ACRE_INVALID_ARGUMENT);
    assert_int_equal(init(many, ACRE_GPU_CATEGORIES_MAX, 1), ACRE_OK);
    assert_string_equal(category_stats(7).name, "category 7");
    assert_int_equal(init(NULL, 1, 1), ACRE_INVALID_ARGUMENT);
    assert_int_equal(init(NULL, 0, 0), ACRE_INVALID_ARGUMENT);
    assert_int_equal(init(NULL, 0, ACRE_GPU_HEAPS_MAX + 1), ACRE_INVALID_ARGUMENT);
    const acre_gpu_category twins[] = {{.name = "a"}, {.name = "b"}, {.name = "a"}};
    assert_int_equal(init(twins, 3, 1), ACRE_INVALID_ARGUMENT);
    const acre_gpu_category row_numbers[] = {{.name = "category 1"}, {.name = NULL}};
    assert_int_equal(init(row_numbers, 2, 1), ACRE_INVALID_ARGUMENT);
    acre_gpu_category one = {.priority = 1.5f};
    assert_int_equal(init(&one, 1, 1), ACRE_INVALID_ARGUMENT);
    one.priority = -0.1f;
    assert_int_equal(init(&one, 1, 1), ACRE_INVALID_ARGUMENT);
    one = (acre_gpu_category){.at_limit = (acre_gpu_at_limit)9};
    assert_int_equal(init(&one, 1, 1), ACRE_INVALID_ARGUMENT);
    one = (acre_gpu_category){.name = "a name that is far longer than thirty-one characters", .priority = 1};
    assert_int_equal(init(&one, 1, 1), ACRE_OK);
    assert_int_equal(strlen(category_stats(0).name), ACRE_GPU_NAME_MAX);
}

static void a_categorys_budget_holds_for_live_and_pending(void **state)
{
    (void)state;
    const acre_gpu_category rows[] = {{.name = "textures", .budget_bytes = 1000}, {.name = "rest"}};
    assert_int_equal(init(rows, 2, 1), ACRE_OK);
    assert_true(gpu_ledger_charge(&ledger, 0, 0, 600, false));
    assert_true(gpu_ledger_charge(&ledger, 0, 0, 400, false));
    assert_false(gpu_ledger_charge(&ledger, 0, 0, 1, false));
    assert_true(gpu_ledger_charge(&ledger, 1, 0, 1000000, false));
    gpu_ledger_pend(&ledger, 0, 0, 400);
    assert_int_equal(category_stats(0).live_bytes, 600);
    assert_int_equal(category_stats(0).pending_bytes, 400);
    assert_int_equal(category_stats(0).blocks, 1);
    assert_false(gpu_ledger_charge(&ledger, 0, 0, 1, false));
    assert_false(gpu_ledger_resize(&ledger, 0, 0, 600, 601, false));
    assert_true(gpu_ledger_charge(&ledger, 0, 0, 50, true));
    acre_gpu_category_stats stats = category_stats(0);
    assert_true(stats.exceeded == 1 && stats.live_bytes == 650 && stats.peak_bytes == 1050 && stats.failed == 0);
    gpu_ledger_unpend(&ledger, 0, 0, 400);
    assert_true(gpu_ledger_resize(&ledger, 0, 0, 600, 900, false));
    assert_true(gpu_ledger_resize(&ledger, 0, 0, 900, 100, false));
    gpu_ledger_discharge(&ledger, 0, 0, 100);
    gpu_ledger_discharge(&ledger, 0, 0, 50);
    stats = category_stats(0);
    assert_true(stats.live_bytes == 0 && stats.pending_bytes == 0 && stats.blocks == 0 && stats.peak_bytes == 1050);
    assert_int_equal(heap_stats(0).live_bytes, 1000000);
    assert_int_equal(heap_stats(0).blocks, 1);
}

static void held_is_live_pending_holes_and_empty(void **state)
{
    (void)state;
    assert_int_equal(init(NULL, 0, 2), ACRE_OK);
    uint64_t random = 88172645463325252u, held = 0, live = 0, pending = 0, empty = 0;
    for (int i = 0; i < 20000; i++) {
        uint64_t r = probe_random(&random) >> 8, bytes = 1 + (r >> 8) % 5000;
        switch (r % 8) {
        case 0:
            assert_true(gpu_ledger_hold(&ledger, 1, bytes, false));
            held += bytes;
            break;
        case 1:
            if (live + pending + empty + bytes > held) break;
            gpu_ledger_unhold(&ledger, 1, bytes);
            held -= bytes;
            break;
        case 2:
        case 3:
            if (live + pending + empty + bytes > held) break;
            assert_true(gpu_ledger_charge(&ledger, 0, 1, bytes, false));
            live += bytes;
            break;
        case 4:
            if (bytes > live) break;
            gpu_ledger_discharge(&ledger, 0, 1, bytes);
            live -= bytes;
            break;
        case 5:
            if (bytes > live) break;
            gpu_ledger_pend(&ledger, 0, 1, bytes);
            live -= bytes, pending += bytes;
            break;
        case 6:
            if (bytes > pending) break;
            gpu_ledger_unpend(&ledger, 0, 1, bytes);
            pending -= bytes;
            break;
        default:
            if (live + pending + empty + bytes <= held) gpu_ledger_empty(&ledger, 1, bytes, true), empty += bytes;
            else if (bytes <= empty) gpu_ledger_empty(&ledger, 1, bytes, false), empty -= bytes;
        }
        acre_gpu_heap_stats stats = heap_stats(1);
        assert_true(stats.live_bytes == live && stats.pending_bytes == pending && stats.empty_bytes == empty);
        assert_int_equal(stats.held_bytes, held);
        assert_int_equal(stats.held_bytes,
                         stats.live_bytes + stats.pending_bytes + stats.hole_bytes + stats.empty_bytes);
        assert_true(stats.held_peak_bytes >= held);
    }
    assert_int_equal(heap_stats(0).held_bytes, 0);
}

static void a_heaps_budget_bounds_what_is_held(void **state)
{
    (void)state;
    assert_int_equal(init(NULL, 0, 1), ACRE_OK);
    assert_true(gpu_ledger_hold(&ledger, 0, 1 << 30, false));
    atomic_store(&ledger.heaps[0].budget, (1 << 30) + 100);
    assert_true(gpu_ledger_hold(&ledger, 0, 100, false));
    assert_false(gpu_ledger_hold(&ledger, 0, 1, false));
    assert_true(gpu_ledger_hold(&ledger, 0, 1, true));
    gpu_ledger_unhold(&ledger, 0, 50);
    acre_gpu_heap_stats stats = heap_stats(0);
    assert_int_equal(stats.held_bytes, (1 << 30) + 51);
    assert_int_equal(stats.held_peak_bytes, (1 << 30) + 101);
    assert_int_equal(stats.budget_bytes, (1 << 30) + 100);
    gpu_ledger_driver_call(&ledger, 0, +1);
    gpu_ledger_driver_call(&ledger, 0, +1);
    gpu_ledger_driver_call(&ledger, 0, -1);
    gpu_ledger_driver_call(&ledger, 0, 0);
    stats = heap_stats(0);
    assert_true(stats.driver_calls == 4 && stats.driver_allocations == 1);
}

static void a_shortage_says_who_asked_and_who_holds_most(void **state)
{
    (void)state;
    acre_gpu_category rows[8] = {{0}};
    const uint64_t bytes[8] = {0, 500, 100, 700, 300, 700, 50, 400};
    rows[3] = (acre_gpu_category){.name = "textures", .budget_bytes = 800};
    assert_int_equal(init(rows, 8, 2), ACRE_OK);
    assert_true(gpu_ledger_hold(&ledger, 1, 4096, false));
    for (uint32_t i = 0; i < 8; i++)
        if (bytes[i] != 0) assert_true(gpu_ledger_charge(&ledger, i, 1, bytes[i], false));
    gpu_ledger_pend(&ledger, 5, 1, 700);
    acre_gpu_shortage s;
    gpu_ledger_shortage(&ledger, ACRE_OVER_BUDGET, 3, 1, 256, 64, &s);
    assert_true(s.status == ACRE_OVER_BUDGET && s.bytes == 256 && s.alignment == 64 && s.category == 3 && s.heap == 1);
    assert_string_equal(s.category_name, "textures");
    assert_int_equal(s.category_stats.failed, 1);
    assert_int_equal(s.heap_stats.held_bytes, 4096);
    assert_int_equal(s.top_count, ACRE_GPU_TOP_COUNT);
    const uint64_t top[ACRE_GPU_TOP_COUNT] = {700, 700, 500, 400, 300};
    for (int i = 0; i < ACRE_GPU_TOP_COUNT; i++) assert_int_equal(s.top[i].bytes, top[i]);
    assert_string_equal(s.top[0].name, "textures");
    assert_string_equal(s.top[1].name, "category 5");
    assert_int_equal(init(rows, 8, 1), ACRE_OK);
    gpu_ledger_shortage(&ledger, ACRE_NO_MEMORY, 0, 0, 1, 1, &s);
    assert_int_equal(s.top_count, 0);
}

static void the_text_of_a_shortage_fits_any_buffer(void **state)
{
    (void)state;
    acre_gpu_category rows[2] = {{.name = "textures", .budget_bytes = 512 << 20}, {.name = "meshes"}};
    assert_int_equal(init(rows, 2, 1), ACRE_OK);
    atomic_store(&ledger.heaps[0].budget, (uint64_t)1 << 30);
    assert_true(gpu_ledger_hold(&ledger, 0, 768 << 20, false));
    assert_true(gpu_ledger_charge(&ledger, 0, 0, 500 << 20, false));
    assert_true(gpu_ledger_charge(&ledger, 1, 0, 100 << 20, false));
    acre_gpu_shortage s;
    gpu_ledger_shortage(&ledger, ACRE_OVER_BUDGET, 0, 0, 64 << 20, 65536, &s);
    s.driver_call = "vkAllocateMemory";
    s.driver_result = -2;
    s.largest_hole_bytes = 8 << 20;
    s.fragmentation = 0.95;
    char whole[2048];
    size_t length = acre_gpu_shortage_text(&s, whole, sizeof whole);
    assert_int_equal(length, strlen(whole));
    const char *const said[] = {
        "64.0 MiB (67108864 bytes, alignment 65536)", "\"textures\"", "ACRE_OVER_BUDGET", "-2 to vkAllocateMemory",
        "500.0 MiB live", "budget 512.0 MiB", "held 768.0 MiB", "168.0 MiB holes", "budget 1.0 GiB",
        "largest hole 8.0 MiB", "fragmentation 0.95", "textures 500.0 MiB, meshes 100.0 MiB\n",
    };
    for (size_t i = 0; i < sizeof said / sizeof *said; i++)
        if (strstr(whole, said[i]) == NULL) fail_msg("the report does not say \"%s\":\n%s", said[i], whole);
    for (size_t room = 0; room <= length + 1; room++) {
        char *part = malloc(room + 1);
        part[room] = 'x';
        assert_int_equal(acre_gpu_shortage_text(&s, part, room), length);
        assert_int_equal(part[room], 'x');
        if (room != 0) {
            assert_int_equal(strlen(part), room - 1 < length ? room - 1 : length);
            assert_memory_equal(part, whole, strlen(part));
        }
        free(part);
    }
    assert_int_equal(acre_gpu_shortage_text(&s, NULL, 0), length);
    assert_int_equal(acre_gpu_shortage_text(NULL, whole, sizeof whole), 0);
    acre_gpu_shortage nothing = {.status = ACRE_OK};
    assert_true(acre_gpu_shortage_text(&nothing, whole, sizeof whole) > 0);
}

enum { CHARGERS = 4, CHARGES = 20000, BUDGET = 1250 };
static atomic_bool overdrawn;

static void *charge_and_credit(void *context)
{
    uint64_t random = (uintptr_t)context;
    uint64_t mine = 0, waiting = 0;
    for (int i = 0; i < CHARGES; i++) {
        uint64_t r = probe_random(&random) >> 8, bytes = 1 + r % 900;
        if (mine == 0 && gpu_ledger_charge(&ledger, 0, 0, bytes, false)) mine = bytes;
        else if (mine != 0 && waiting == 0 && (r >> 20 & 1))
            gpu_ledger_pend(&ledger, 0, 0, mine), waiting = mine, mine = 0;
        else if (mine != 0) gpu_ledger_discharge(&ledger, 0, 0, mine), mine = 0;
        if (waiting != 0 && (r >> 21 & 1)) gpu_ledger_unpend(&ledger, 0, 0, waiting), waiting = 0;
        if (atomic_load(&ledger.categories[0].peak) > BUDGET) atomic_store(&overdrawn, true);
    }
    if (mine != 0) gpu_ledger_discharge(&ledger, 0, 0, mine);
    if (waiting != 0) gpu_ledger_unpend(&ledger, 0, 0, waiting);
    return NULL;
}

static void threads_never_pass_a_budget_and_lose_no_byte(void **state)
{
    (void)state;
    acre_gpu_category row = {.name = "one", .budget_bytes = BUDGET};
    assert_int_equal(init(&row, 1, 1), ACRE_OK);
    pthread_t threads[CHARGERS];
    for (uintptr_t i = 0; i < CHARGERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, charge_and_credit, (void *)(i + 1)), 0);
    for (int i = 0; i < CHARGERS; i++) pthread_join(threads[i], NULL);
    assert_false(atomic_load(&overdrawn));
    acre_gpu_category_stats stats = category_stats(0);
    assert_true(stats.live_bytes == 0 && stats.pending_bytes == 0 && stats.blocks == 0);
    assert_true(stats.peak_bytes > 0 && stats.peak_bytes <= BUDGET);
    acre_gpu_heap_stats heap = heap_stats(0);
    assert_true(heap.live_bytes == 0 && heap.pending_bytes == 0 && heap.blocks == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_rows_there_is_one_called_all),
        cmocka_unit_test(wrong_tables_are_refused),
        cmocka_unit_test(a_categorys_budget_holds_for_live_and_pending),
        cmocka_unit_test(held_is_live_pending_holes_and_empty),
        cmocka_unit_test(a_heaps_budget_bounds_what_is_held),
        cmocka_unit_test(a_shortage_says_who_asked_and_who_holds_most),
        cmocka_unit_test(the_text_of_a_shortage_fits_any_buffer),
        cmocka_unit_test(threads_never_pass_a_budget_and_lose_no_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
