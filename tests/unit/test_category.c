/* test_category: claims about resource categories: what is refused and in which words, what a row becomes, limits,
 * budgets, and a table as a game would have it. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "acre/category.h"
#include "os/os.h"
#include "page/arena.h"

/* A row that is fine, and what the test changes about it. */
#pragma GCC diagnostic ignored "-Woverride-init"
#define KIB_(n) ((uint64_t)(n) << 10)
#define MIB_(n) ((uint64_t)(n) << 20)
#define GIB_(n) ((uint64_t)(n) << 30)
#define HEAP_ROW(...)    ((acre_category){.name = "things", .size_max = 1024, __VA_ARGS__})
#define OFFSETS_ROW(...) \
    ((acre_category){.name = "ranges", .offsets_only = true, .capacity_bytes = 1 << 20, .size_max = 4096, __VA_ARGS__})

static acre_categories *make(const acre_category *rows, uint32_t count)
{
    acre_categories *c = NULL;
    acre_category_error error;
    if (acre_categories_create(rows, count, &c, &error) != ACRE_OK) fail_msg("%s", error.text);
    assert_non_null(c);
    assert_int_equal(error.status, ACRE_OK);
    return c;
}

static acre_category_usage usage_of(acre_categories *c, uint32_t row)
{
    acre_category_usage usage;
    assert_int_equal(acre_category_usage_read(c, row, &usage), ACRE_OK);
    return usage;
}

/* --- what is refused -------------------------------------------------------------------------------------------- */

/* The row, second of two, is refused with this status, field and text (without its beginning, which names the row). */
static void refused(acre_category row, acre_status status, const char *field, const char *text)
{
    acre_category rows[2] = {{.name = "first", .size_max = 64}, row};
    acre_categories *c = (acre_categories *)rows;
    acre_category_error error;
    memset(&error, 'x', sizeof error);
    acre_status got = acre_categories_create(rows, 2, &c, &error);
    if (got != status) fail_msg("%s instead of %s: %s", acre_status_name(got), acre_status_name(status), error.text);
    assert_null(c);
    assert_int_equal(error.status, status);
    assert_int_equal(error.row, 1);
    assert_string_equal(error.field, field);
    char expected[400];
    if (row.name && *row.name) snprintf(expected, sizeof expected, "row 1 \"%.31s\": %s", row.name, text);
    else snprintf(expected, sizeof expected, "row 1: %s", text);
    assert_string_equal(error.text, expected);
    assert_int_equal(acre_categories_create(rows, 2, &c, NULL), status); /* the error is optional */
}

static void a_name_is_required_short_and_unique(void **state)
{
    (void)state;
    refused(HEAP_ROW(.name = NULL), ACRE_INVALID_ARGUMENT, "name", "name is missing");
    refused(HEAP_ROW(.name = ""), ACRE_INVALID_ARGUMENT, "name", "name is empty");
    refused(HEAP_ROW(.name = "a name of thirty-two characters!"), ACRE_INVALID_ARGUMENT, "name",
            "name is longer than 31 characters");
    refused(HEAP_ROW(.name = "first"), ACRE_INVALID_ARGUMENT, "name", "name is that of row 0, too");
}

static void sizes_that_contradict_each_other_are_refused(void **state)
{
    (void)state;
    refused(HEAP_ROW(.size_max = 0), ACRE_INVALID_ARGUMENT, "size_max", "size_max is missing");
    refused(HEAP_ROW(.size_min = 2048), ACRE_INVALID_ARGUMENT, "size_min", "size_min 2048 is above size_max 1024");
    refused(HEAP_ROW(.size_max = UINT64_MAX), ACRE_TOO_LARGE, "size_max",
            "size_max 18446744073709551615 is above 9223372036854775807, the largest block of this memory");
    refused(OFFSETS_ROW(.size_max = MIB_(2)), ACRE_INVALID_ARGUMENT, "size_max",
            "size_max 2097152 is above capacity_bytes 1048576");
}

static void alignments_that_nobody_can_serve_are_refused(void **state)
{
    (void)state;
    refused(HEAP_ROW(.alignment = 48), ACRE_INVALID_ARGUMENT, "alignment", "alignment 48 is no power of two");
    refused(HEAP_ROW(.alignment = MIB_(128)), ACRE_TOO_LARGE, "alignment",
            "alignment 134217728 is above 67108864, a heap's most");
    refused(OFFSETS_ROW(.alignment = MIB_(2)), ACRE_INVALID_ARGUMENT, "alignment",
            "alignment 2097152 is above capacity_bytes 1048576");
    refused(HEAP_ROW(.extra_alignment = 3), ACRE_INVALID_ARGUMENT, "extra_alignment",
            "extra_alignment 3 is no power of two");
    refused(HEAP_ROW(.alignment = 256, .extra_alignment = 256), ACRE_INVALID_ARGUMENT, "extra_alignment",
            "extra_alignment 256 is not above alignment 256");
}

static void budgets_in_which_nothing_fits_are_refused(void **state)
{
    (void)state;
    refused(HEAP_ROW(.budget_bytes = 1000), ACRE_INVALID_ARGUMENT, "budget_bytes",
            "budget_bytes 1000 is under size_max 1024");
    refused(HEAP_ROW(.budget_bytes = 4096), ACRE_INVALID_ARGUMENT, "budget_bytes",
            "budget_bytes 4096 is under 65536, what one block of this row takes up");
    refused(HEAP_ROW(.size_min = 100, .count = 1000, .budget_bytes = 65536), ACRE_INVALID_ARGUMENT, "budget_bytes",
            "budget_bytes 65536 is under count 1000 of at least 100 bytes");
    refused(OFFSETS_ROW(.alignment = 4096, .size_max = 5000, .budget_bytes = 6000), ACRE_INVALID_ARGUMENT,
            "budget_bytes", "budget_bytes 6000 is under 8192, what one block of this row takes up");
    refused(OFFSETS_ROW(.budget_bytes = MIB_(2)), ACRE_INVALID_ARGUMENT, "budget_bytes",
            "budget_bytes 2097152 is above capacity_bytes 1048576");
}

static void counts_beyond_what_can_be_there_are_refused(void **state)
{
    (void)state;
    refused(HEAP_ROW(.size_min = UINT64_MAX >> 2, .size_max = UINT64_MAX >> 2, .count = UINT32_MAX), ACRE_TOO_LARGE,
            "count", "count 4294967295 of at least 4611686018427387903 bytes: nobody has that");
    refused(OFFSETS_ROW(.size_min = 4096, .count = 257), ACRE_INVALID_ARGUMENT, "count",
            "count 257 of at least 4096 bytes is above capacity_bytes 1048576");
    refused(OFFSETS_ROW(.alignment = 4096, .count = 257), ACRE_INVALID_ARGUMENT, "count",
            "count 257 of at least 1 bytes is above capacity_bytes 1048576"); /* at 4096 each */
    refused(OFFSETS_ROW(.count_is_max = true), ACRE_INVALID_ARGUMENT, "count", "count is missing for count_is_max");
    refused(OFFSETS_ROW(.capacity_bytes = GIB_(4), .count = UINT32_MAX, .count_is_max = true), ACRE_TOO_LARGE, "count",
            "count 4294967295 is too large for count_is_max");
}

static void a_capacity_is_for_offsets_and_must_hold_something(void **state)
{
    (void)state;
    refused(OFFSETS_ROW(.capacity_bytes = 0), ACRE_INVALID_ARGUMENT, "capacity_bytes", "capacity_bytes is missing");
    refused(OFFSETS_ROW(.capacity_bytes = UINT64_MAX), ACRE_TOO_LARGE, "capacity_bytes",
            "capacity_bytes is above 2^62");
    refused(OFFSETS_ROW(.capacity_bytes = GIB_(64)), ACRE_TOO_LARGE, "capacity_bytes",
            "capacity_bytes 68719476736 is over 2^32 - 2 times size_min"); /* one granule per byte */
    refused(OFFSETS_ROW(.capacity_bytes = 6000, .size_max = 5000, .alignment = 4096), ACRE_INVALID_ARGUMENT,
            "capacity_bytes", "capacity_bytes 6000 is under size_max 5000 in steps of 4096");
    refused(HEAP_ROW(.capacity_bytes = MIB_(1)), ACRE_INVALID_ARGUMENT, "capacity_bytes",
            "capacity_bytes is for offsets_only; a heap has budget_bytes");
    refused(HEAP_ROW(.count = 3, .count_is_max = true), ACRE_INVALID_ARGUMENT, "count_is_max",
            "count_is_max is for offsets_only");
    refused(OFFSETS_ROW(.fill = true), ACRE_INVALID_ARGUMENT, "fill", "fill writes to memory, offsets_only never does");
}

static acre_status no_commit(void *context, void *address, size_t bytes)
{
    (void)context, (void)address, (void)bytes;
    return ACRE_NO_MEMORY;
}

static void a_provider_must_work_and_suit_the_row(void **state)
{
    (void)state;
    acre_provider lacking = {.name = "lacking", .capabilities = ACRE_CAN_TOUCH};
    acre_provider odd = {.name = "odd", .page_bytes = 5000, .capabilities = ACRE_CAN_TOUCH, .commit = no_commit};
    acre_provider gpu = {.name = "vram", .page_bytes = 65536, .commit = no_commit};
    refused(HEAP_ROW(.provider = &lacking), ACRE_INVALID_ARGUMENT, "provider",
            "provider \"lacking\" lacks a function or has an impossible page size");
    refused(HEAP_ROW(.provider = &odd), ACRE_INVALID_ARGUMENT, "provider",
            "provider \"odd\" lacks a function or has an impossible page size");
    refused(HEAP_ROW(.provider = &gpu), ACRE_NOT_SUPPORTED, "provider",
            "provider \"vram\" is not for the CPU: say offsets_only");
    refused(OFFSETS_ROW(.provider = &gpu), ACRE_INVALID_ARGUMENT, "provider",
            "provider would never be asked: offsets_only takes none");
}

static void a_table_without_rows_or_with_too_many_is_refused(void **state)
{
    (void)state;
    acre_category row = HEAP_ROW(.count = 1);
    acre_categories *c = NULL;
    acre_category_error error;
    assert_int_equal(acre_categories_create(NULL, 1, &c, &error), ACRE_INVALID_ARGUMENT);
    assert_string_equal(error.text, "there are no rows");
    assert_int_equal(error.row, ACRE_CATEGORY_NONE);
    assert_string_equal(error.field, "");
    assert_int_equal(acre_categories_create(&row, 0, &c, &error), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_categories_create(&row, ACRE_CATEGORIES_MAX + 1, &c, &error), ACRE_TOO_LARGE);
    assert_string_equal(error.text, "1025 rows are more than 1024");
    assert_int_equal(acre_categories_create(&row, 1, NULL, &error), ACRE_INVALID_ARGUMENT);
    assert_null(c);
}

static void the_longest_text_fits(void **state)
{
    (void)state;
    const uint64_t high = (uint64_t)1 << 62;
    const acre_category rows[] = {
        {.size_max = UINT64_MAX},
        {.size_min = high, .size_max = high, .count = UINT32_MAX},
        {.size_max = high, .budget_bytes = high - 1},
        {.size_min = 1 << 29, .size_max = 1 << 29, .count = UINT32_MAX, .budget_bytes = (uint64_t)1 << 60},
        {.size_max = high - 1, .offsets_only = true, .capacity_bytes = high, .alignment = high,
         .budget_bytes = high - 1},
        {.size_max = high, .offsets_only = true, .capacity_bytes = high - 1, .alignment = high},
        {.size_min = 1 << 29, .size_max = 1 << 29, .offsets_only = true, .capacity_bytes = (uint64_t)1 << 60,
         .count = UINT32_MAX},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        acre_category row = rows[i];
        row.name = "a name of thirty-one characters";
        acre_categories *c;
        acre_category_error error;
        assert_int_not_equal(acre_categories_create(&row, 1, &c, &error), ACRE_OK);
        assert_true(strlen(error.text) < sizeof error.text - 1);
    }
}

/* --- what a row becomes ----------------------------------------------------------------------------------------- */

static acre_heap_options heap_for(acre_category row)
{
    acre_heap_options heap;
    acre_category_derive(&row, &heap, NULL);
    return heap;
}

static acre_suballoc_options suballoc_for(acre_category row)
{
    acre_suballoc_options suballoc;
    acre_category_derive(&row, NULL, &suballoc);
    return suballoc;
}

static void small_blocks_of_a_row_all_come_from_the_fixed_size_allocator(void **state)
{
    (void)state;
    assert_int_equal(heap_for(HEAP_ROW(.size_max = 5000)).small_size_max, 5000);
    assert_int_equal(heap_for(HEAP_ROW(.size_max = 24)).small_size_max, 64);
    assert_int_equal(heap_for(HEAP_ROW(.size_max = 300, .alignment = 256)).small_size_max, 512);
    assert_int_equal(heap_for(HEAP_ROW(.size_max = 8193)).small_size_max, 4096);
    assert_int_equal(heap_for(HEAP_ROW(.size_max = MIB_(4))).small_size_max, 4096);
    assert_int_equal(heap_for(HEAP_ROW(.size_max = UINT64_MAX, .alignment = MIB_(1))).small_size_max, 4096);
}

static void classes_are_coarse_where_there_is_little_to_put_into_them(void **state)
{
    (void)state;
    assert_int_equal(heap_for(HEAP_ROW(.size_min = 16, .count = 1000)).classes_per_doubling, 4);
    assert_int_equal(heap_for(HEAP_ROW(.size_min = 16, .count = 1000000)).classes_per_doubling, 8);
    assert_int_equal(heap_for(HEAP_ROW(.size_min = 1024, .count = 10)).classes_per_doubling, 8); /* one class is used */
    assert_int_equal(heap_for(HEAP_ROW(.size_min = 16)).classes_per_doubling, 8);
}

static void the_alignment_is_named_where_the_coalescing_allocator_serves_it(void **state)
{
    (void)state;
    assert_int_equal(heap_for(HEAP_ROW(.size_max = MIB_(1), .alignment = 4096)).named_align, 4096);
    acre_category two = HEAP_ROW(.size_max = MIB_(1), .alignment = 64, .extra_alignment = 4096);
    assert_int_equal(heap_for(two).named_align, 4096);
    assert_int_equal(heap_for(HEAP_ROW(.size_max = MIB_(1), .alignment = 256)).named_align, 0);
    assert_int_equal(heap_for(HEAP_ROW(.size_max = 1024, .alignment = 512)).named_align, 0);
    assert_int_equal(heap_for(HEAP_ROW(.size_max = MIB_(8), .alignment = MIB_(2))).named_align, 0);
}

static void caches_follow_frequency_count_and_budget(void **state)
{
    (void)state;
    acre_heap_options o = heap_for(HEAP_ROW(.size_min = 256, .size_max = 256));
    assert_int_equal(o.magazine_bytes_max, KIB_(64));
    assert_int_equal(o.thread_bytes_max, MIB_(1));
    assert_int_equal(o.cache_bytes_max, MIB_(64));
    assert_int_equal(o.purge_delay_ms, 500);
    /* 100,000 a second: 1,000 in 10 ms, which is 250 KiB */
    o = heap_for(HEAP_ROW(.size_min = 256, .size_max = 256, .allocations_per_second = 100000));
    assert_int_equal(o.magazine_bytes_max, 256000);
    /* … but 10,000 live ones are 2.5 MB, of which a thread keeps an eighth at most, and of 1 MiB a sixteenth */
    o = heap_for(HEAP_ROW(.size_min = 256, .size_max = 256, .allocations_per_second = 100000, .count = 4096));
    assert_int_equal(o.magazine_bytes_max, KIB_(128));
    o = heap_for(HEAP_ROW(.size_min = 256, .size_max = 256, .allocations_per_second = 100000, .budget_bytes = MIB_(1)));
    assert_int_equal(o.magazine_bytes_max, KIB_(64));
    assert_int_equal(o.thread_bytes_max, KIB_(64));
    assert_int_equal(o.cache_bytes_max, MIB_(2));
    /* … which is shared by the magazines of all sizes: four doublings here */
    o = heap_for(HEAP_ROW(.size_min = 64, .size_max = 512, .budget_bytes = MIB_(1)));
    assert_int_equal(o.magazine_bytes_max, KIB_(16));
    o = heap_for(HEAP_ROW(.count = UINT32_MAX, .size_max = UINT64_MAX, .allocations_per_second = UINT32_MAX));
    assert_int_equal(o.magazine_bytes_max, KIB_(256));
    assert_int_equal(o.cache_bytes_max, MIB_(64));
}

static void free_memory_is_kept_for_two_mean_lifetimes(void **state)
{
    (void)state;
    assert_int_equal(heap_for(HEAP_ROW(.count = 6000, .allocations_per_second = 3000)).purge_delay_ms, 4000);
    assert_int_equal(heap_for(HEAP_ROW(.count = 10, .allocations_per_second = 3000)).purge_delay_ms, 100);
    assert_int_equal(heap_for(HEAP_ROW(.count = 100000, .allocations_per_second = 1)).purge_delay_ms, 10000);
}

static void the_granularity_of_offsets_is_the_alignment_or_fits_the_smallest(void **state)
{
    (void)state;
    assert_int_equal(suballoc_for(OFFSETS_ROW(.alignment = 256)).granularity, 256);
    assert_int_equal(suballoc_for(OFFSETS_ROW(.size_min = 1024)).granularity, 64);
    assert_int_equal(suballoc_for(OFFSETS_ROW(.size_min = 7)).granularity, 1);
    assert_int_equal(suballoc_for(OFFSETS_ROW(.size_min = MIB_(1))).granularity, 256);
    assert_int_equal(suballoc_for(OFFSETS_ROW(.size_min = MIB_(1), .capacity_bytes = GIB_(2048))).granularity, 1024);
    acre_suballoc_options o = suballoc_for(OFFSETS_ROW(.alignment = 4096, .extra_alignment = MIB_(4), .count = 100,
                                                       .size_min = 512));
    assert_int_equal(o.alignments[0], MIB_(4));
    assert_int_equal(o.size_min, 512);
    assert_int_equal(o.count_max, 0);
    assert_true(o.thread_safe);
    o = suballoc_for(OFFSETS_ROW(.count = 100, .count_is_max = true, .single_thread = true));
    assert_int_equal(o.count_max, 100);
    assert_false(o.thread_safe);
}

/* --- limits and budgets ----------------------------------------------------------------------------------------- */

static void a_row_hands_out_what_it_is_for_and_nothing_else(void **state)
{
    (void)state;
    acre_category rows[] = {{.name = "aligned", .size_min = 32, .size_max = 100, .alignment = 64,
                             .extra_alignment = 4096},
                            {.name = "plain", .size_max = 100},
                            {.name = "offsets", .offsets_only = true, .capacity_bytes = 65536, .size_max = 100}};
    acre_categories *c = make(rows, 3);
    acre_status why = ACRE_OK;
    for (size_t size = 32; size <= 100; size++) {
        void *p = acre_category_alloc(c, 0, size, 0, &why);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        memset(p, 1, size);
        assert_int_equal(acre_category_free(c, 1, p), ACRE_FOREIGN_POINTER);
        assert_int_equal(acre_category_free(c, 0, p), ACRE_OK);
    }
    void *p = acre_category_alloc(c, 0, 50, 4096, &why);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 4096, 0);
    assert_int_equal(acre_category_free(c, 0, p), ACRE_OK);
    assert_int_equal(acre_category_free(c, 0, NULL), ACRE_OK);

    assert_null(acre_category_alloc(c, 0, 101, 0, &why));
    assert_int_equal(why, ACRE_TOO_LARGE);
    assert_null(acre_category_alloc(c, 0, 31, 0, &why));
    assert_int_equal(why, ACRE_INVALID_ARGUMENT);
    assert_null(acre_category_alloc(c, 0, 64, 48, &why));
    assert_int_equal(why, ACRE_INVALID_ARGUMENT);
    assert_null(acre_category_alloc(c, 0, 64, 8192, &why));
    assert_int_equal(why, ACRE_INVALID_ARGUMENT);
    assert_null(acre_category_alloc(c, 1, 0, 0, NULL));
    assert_null(acre_category_alloc(c, 2, 64, 0, &why));
    assert_int_equal(why, ACRE_INVALID_ARGUMENT);
    assert_null(acre_category_alloc(c, 3, 64, 0, &why));
    assert_int_equal(why, ACRE_INVALID_ARGUMENT);
    assert_int_equal(usage_of(c, 0).failed, 4);

    acre_suballoc_block block = {0, 0, 0};
    assert_int_equal(acre_category_alloc_range(c, 0, 64, 0, &block), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_category_alloc_range(c, 2, 101, 0, &block), ACRE_TOO_LARGE);
    assert_int_equal(acre_category_alloc_range(c, 2, 0, 0, &block), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_category_alloc_range(c, 2, 10, 0, NULL), ACRE_INVALID_ARGUMENT);
    assert_int_equal(block.handle, 0);
    assert_int_equal(acre_category_alloc_range(c, 2, 10, 0, &block), ACRE_OK);
    assert_int_equal(acre_category_free(c, 2, NULL), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_category_free_range(c, 0, block.handle), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_category_free_range(c, 2, block.handle), ACRE_OK);
    assert_int_equal(acre_category_free_range(c, 2, block.handle), ACRE_DOUBLE_FREE);
    assert_int_equal(usage_of(c, 2).bytes_used, 0);
    acre_categories_destroy(c);
}

static void rows_are_found_by_name_and_number(void **state)
{
    (void)state;
    char name[] = "textures";
    acre_category rows[] = {OFFSETS_ROW(.name = name), HEAP_ROW(.name = "strings")};
    acre_categories *c = make(rows, 2);
    name[0] = 'x'; /* names are copied */
    assert_int_equal(acre_categories_count(c), 2);
    assert_int_equal(acre_category_find(c, "textures"), 0);
    assert_int_equal(acre_category_find(c, "strings"), 1);
    assert_int_equal(acre_category_find(c, "sounds"), ACRE_CATEGORY_NONE);
    assert_int_equal(acre_category_find(c, NULL), ACRE_CATEGORY_NONE);
    assert_non_null(acre_category_suballoc(c, 0));
    assert_null(acre_category_heap(c, 0));
    assert_non_null(acre_category_heap(c, 1));
    assert_null(acre_category_suballoc(c, 1));
    assert_null(acre_category_heap(c, ACRE_CATEGORY_NONE));
    assert_string_equal(acre_heap_name(acre_category_heap(c, 1)), "strings");
    acre_category_usage usage;
    assert_int_equal(acre_category_usage_read(c, 2, &usage), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_category_set_budget(c, 2, 0), ACRE_INVALID_ARGUMENT);
    acre_categories_destroy(c);
    acre_categories_destroy(NULL);
    assert_int_equal(acre_categories_count(NULL), 0);
}

typedef struct evictor {
    void *blocks[64];
    uint64_t handles[64];
    int count, calls;
    size_t bytes;
} evictor;

static bool evict(void *context, acre_categories *c, uint32_t row, size_t bytes)
{
    evictor *e = context;
    e->calls++;
    e->bytes = bytes;
    if (e->count == 0) return false;
    e->count--;
    acre_status status = acre_category_heap(c, row) ? acre_category_free(c, row, e->blocks[e->count])
                                                    : acre_category_free_range(c, row, e->handles[e->count]);
    assert_int_equal(status, ACRE_OK);
    return true;
}

static void a_heap_over_its_budget_asks_once_and_then_fails(void **state)
{
    (void)state;
    evictor e = {.count = 0};
    acre_category row = {.name = "models", .size_min = 100000, .size_max = 200000, .budget_bytes = MIB_(1),
                         .on_over_budget = evict, .on_over_budget_context = &e};
    acre_categories *c = make(&row, 1);
    acre_status why;
    void *p;
    while (e.calls == 0 && (p = acre_category_alloc(c, 0, 100000, 0, &why))) e.blocks[e.count++] = p;
    assert_int_equal(e.count, 10); /* the tenth pushed nobody out; the eleventh found nothing but its own evictor */
    assert_int_equal(e.bytes, 100000);
    assert_non_null(p);
    assert_true(usage_of(c, 0).bytes_used <= MIB_(1));
    assert_true(usage_of(c, 0).bytes_peak <= MIB_(1));
    e.count = 0;
    assert_null(acre_category_alloc(c, 0, 100000, 0, &why));
    assert_int_equal(why, ACRE_OVER_BUDGET);
    assert_int_equal(usage_of(c, 0).failed, 1);
    assert_int_equal(acre_category_set_budget(c, 0, MIB_(2)), ACRE_OK);
    assert_int_equal(usage_of(c, 0).bytes_budget, MIB_(2));
    assert_non_null(acre_category_alloc(c, 0, 100000, 0, &why));
    acre_categories_destroy(c);
}

static void blocks_in_the_threads_own_cache_do_not_make_a_budget_fail(void **state)
{
    (void)state;
    acre_category row = {.name = "mixed", .size_min = 5000, .size_max = 900000, .budget_bytes = MIB_(1)};
    acre_categories *c = make(&row, 1);
    acre_status why;
    for (int round = 0; round < 3; round++) {
        void *small[12], *big;
        for (int i = 0; i < 12; i++) assert_non_null(small[i] = acre_category_alloc(c, 0, 5000, 0, &why));
        for (int i = 0; i < 12; i++) assert_int_equal(acre_category_free(c, 0, small[i]), ACRE_OK);
        assert_true(usage_of(c, 0).bytes_used > 0); /* in the cache */
        assert_int_equal(acre_category_set_budget(c, 0, 925000), ACRE_OK);
        assert_non_null(big = acre_category_alloc(c, 0, 900000, 0, &why));
        assert_int_equal(acre_category_free(c, 0, big), ACRE_OK);
    }
    assert_int_equal(usage_of(c, 0).failed, 0);
    acre_categories_destroy(c);
}

static void offsets_over_their_budget_or_capacity_ask_once_and_then_fail(void **state)
{
    (void)state;
    evictor e = {.count = 0};
    acre_category row = OFFSETS_ROW(.alignment = 4096, .budget_bytes = 65536, .on_over_budget = evict,
                                    .on_over_budget_context = &e);
    acre_categories *c = make(&row, 1);
    acre_suballoc_block block;
    for (int i = 0; i < 16; i++) {
        assert_int_equal(acre_category_alloc_range(c, 0, 1000, 0, &block), ACRE_OK);
        assert_int_equal(block.size, 4096);
        e.handles[e.count++] = block.handle;
    }
    assert_int_equal(e.calls, 0);
    assert_int_equal(usage_of(c, 0).bytes_used, 65536);
    assert_int_equal(acre_category_alloc_range(c, 0, 1000, 0, &block), ACRE_OK);
    assert_int_equal(e.calls, 1);
    e.count = 0;
    assert_int_equal(acre_category_alloc_range(c, 0, 1000, 0, &block), ACRE_OVER_BUDGET);
    assert_int_equal(usage_of(c, 0).failed, 1);
    assert_int_equal(usage_of(c, 0).bytes_peak, 65536);
    assert_int_equal(acre_category_set_budget(c, 0, 0), ACRE_OK);
    for (int i = 0; i < 240; i++) {
        assert_int_equal(acre_category_alloc_range(c, 0, 4096, 0, &block), ACRE_OK);
        if (i < 2) e.handles[i] = block.handle;
    }
    assert_int_equal(e.calls, 2);
    assert_int_equal(acre_category_alloc_range(c, 0, 4096, 0, &block), ACRE_NO_MEMORY); /* the capacity is used */
    assert_int_equal(e.calls, 3);
    e.count = 2;
    assert_int_equal(acre_category_alloc_range(c, 0, 4096, 0, &block), ACRE_OK);
    assert_int_equal(usage_of(c, 0).bytes_used, 1 << 20);
    acre_categories_destroy(c);
}

static void a_promised_count_is_a_limit(void **state)
{
    (void)state;
    acre_category row = OFFSETS_ROW(.count = 3, .count_is_max = true);
    acre_categories *c = make(&row, 1);
    acre_suballoc_block block;
    for (int i = 0; i < 3; i++) assert_int_equal(acre_category_alloc_range(c, 0, 64, 0, &block), ACRE_OK);
    assert_int_equal(acre_category_alloc_range(c, 0, 64, 0, &block), ACRE_NO_MEMORY);
    acre_categories_destroy(c);
}

/* --- the table of a game ---------------------------------------------------------------------------------------- */

enum { COMPONENTS, STRINGS, AUDIO, UNIFORMS, SMALL_TEXTURES, RESOURCES, TARGETS, GAME_ROWS };

static acre_categories *make_game(const acre_provider *audio)
{
    const acre_category rows[GAME_ROWS] = {
        [COMPONENTS] = {.name = "components", .size_min = 32, .size_max = 512, .alignment = 16, .count = 200000,
                        .allocations_per_second = 60000, .budget_bytes = MIB_(64)},
        [STRINGS] = {.name = "strings", .size_max = 4096, .count = 20000, .allocations_per_second = 10000,
                     .budget_bytes = MIB_(16)},
        [AUDIO] = {.name = "audio streams", .provider = audio, .size_min = KIB_(64), .size_max = MIB_(1),
                   .alignment = 4096, .count = 16, .allocations_per_second = 4, .budget_bytes = MIB_(8)},
        [UNIFORMS] = {.name = "uniform buffers", .offsets_only = true, .capacity_bytes = MIB_(32), .size_min = 64,
                      .size_max = KIB_(64), .alignment = 256, .count = 20000, .count_is_max = true},
        [SMALL_TEXTURES] = {.name = "small textures", .offsets_only = true, .capacity_bytes = MIB_(64),
                            .size_min = 4096, .size_max = KIB_(64), .alignment = 4096, .count = 2000},
        [RESOURCES] = {.name = "buffers and textures", .offsets_only = true, .capacity_bytes = GIB_(4),
                       .size_min = KIB_(64), .size_max = MIB_(256), .alignment = KIB_(64), .extra_alignment = MIB_(4),
                       .count = 4000, .budget_bytes = GIB_(3)},
        [TARGETS] = {.name = "msaa targets", .offsets_only = true, .capacity_bytes = MIB_(512), .size_min = MIB_(4),
                     .size_max = MIB_(128), .alignment = MIB_(4), .count = 8},
    };
    return make(rows, GAME_ROWS);
}

static void the_table_of_a_game_works_row_by_row(void **state)
{
    (void)state;
    acre_direct *direct;
    assert_int_equal(acre_direct_create("audio ram", MIB_(16), &direct), ACRE_OK);
    acre_categories *c = make_game(acre_direct_provider(direct));
    acre_status why;
    enum { BLOCKS = 2000 };
    static unsigned char *components[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        size_t size = 32 + (size_t)(i * 37 % 481);
        assert_non_null(components[i] = acre_category_alloc(c, COMPONENTS, size, 0, &why));
        assert_int_equal((uintptr_t)components[i] % 16, 0);
        memset(components[i], i & 255, size);
    }
    char *string = acre_category_alloc(c, STRINGS, 6, 0, &why);
    assert_non_null(strcpy(string, "hello"));
    size_t all, unused;
    char *stream = acre_category_alloc(c, AUDIO, 200000, 0, &why);
    assert_non_null(stream);
    assert_int_equal((uintptr_t)stream % 4096, 0);
    memset(stream, 7, 200000);
    acre_direct_usage(direct, &all, &unused);
    assert_true(unused < all); /* the memory is the application's */
    for (int i = 0; i < BLOCKS; i++) {
        assert_int_equal(components[i][0], i & 255);
        assert_int_equal(acre_category_free(c, COMPONENTS, components[i]), ACRE_OK);
    }

    for (uint32_t row = UNIFORMS; row <= TARGETS; row++) {
        static const uint64_t alignment[] = {256, 4096, 65536, 4 << 20};
        acre_suballoc_block block[8];
        for (uint32_t i = 0; i < 8; i++) {
            uint64_t size = (row == TARGETS ? MIB_(4) : row == RESOURCES ? KIB_(64) : 4096) + i * 100;
            assert_int_equal(acre_category_alloc_range(c, row, size, 0, &block[i]), ACRE_OK);
            assert_int_equal(block[i].offset % alignment[row - UNIFORMS], 0);
        }
        if (row == RESOURCES) {
            acre_suballoc_block target;
            assert_int_equal(acre_category_alloc_range(c, row, MIB_(8), MIB_(4), &target), ACRE_OK);
            assert_int_equal(target.offset % MIB_(4), 0);
            assert_int_equal(acre_category_free_range(c, row, target.handle), ACRE_OK);
        }
        assert_true(usage_of(c, row).bytes_used > 0);
        for (int i = 0; i < 8; i++) assert_int_equal(acre_category_free_range(c, row, block[i].handle), ACRE_OK);
        assert_int_equal(usage_of(c, row).bytes_used, 0);
        assert_null(acre_suballoc_check(acre_category_suballoc(c, row)));
    }
    for (uint32_t row = COMPONENTS; row <= AUDIO; row++) assert_true(acre_heap_check(acre_category_heap(c, row)));
    acre_categories_destroy(c); /* with blocks in it */
    acre_direct_usage(direct, &all, &unused);
    assert_int_equal(all, unused);
    assert_int_equal(acre_direct_destroy(direct), ACRE_OK);
}

static void the_report_has_a_line_per_row_and_fits_any_buffer(void **state)
{
    (void)state;
    acre_categories *c = make_game(NULL);
    acre_suballoc_block block;
    assert_int_equal(acre_category_alloc_range(c, RESOURCES, MIB_(3) + KIB_(512), 0, &block), ACRE_OK);
    static char text[4096], part[4096];
    size_t length = acre_categories_report(c, text, sizeof text);
    assert_int_equal(length, strlen(text));
    assert_int_equal(acre_categories_report(c, NULL, 0), length);
    int lines = 0;
    for (char *p = text; (p = strchr(p, '\n')); p++) lines++;
    assert_int_equal(lines, 1 + GAME_ROWS);
    assert_non_null(strstr(text, "buffers and textures            offsets      3.5 MiB     3.5 MiB     3.0 GiB        "
                                 "0\n"));
    for (size_t bytes = 1; bytes <= length + 1; bytes++) {
        memset(part, 'x', sizeof part);
        assert_int_equal(acre_categories_report(c, part, bytes), length);
        assert_int_equal(strlen(part), bytes - 1);
        assert_memory_equal(part, text, bytes - 1);
        assert_int_equal(part[bytes], 'x');
    }
    acre_categories_destroy(c);
    assert_int_equal(acre_categories_report(NULL, text, sizeof text), 0);
    assert_string_equal(text, "");
}

/* --- a system without memory, and threads ----------------------------------------------------------------------- */

static int calls_until_failure;
static os_memory_calls os_real;
static void *failing_reserve(size_t bytes, size_t align)
{
    return --calls_until_failure == 0 ? NULL : os_real.reserve(bytes, align);
}
static bool failing_commit(void *address, size_t bytes)
{
    return --calls_until_failure != 0 && os_real.commit(address, bytes);
}

static void a_system_call_that_fails_leaves_nothing_behind(void **state)
{
    (void)state;
    acre_categories_destroy(make_game(NULL)); /* the process heap and the arena's chunks exist */
    size_t used_before, used, held;
    arena_usage(&used_before, &held);
    os_real = os_memory;
    os_memory.reserve = failing_reserve, os_memory.commit = failing_commit;
    bool failed = true;
    for (int fail_at = 1; failed && fail_at < 1000; fail_at++) {
        acre_category rows[] = {HEAP_ROW(.count = 1), OFFSETS_ROW(.alignment = 64), HEAP_ROW(.name = "others")};
        acre_categories *c = NULL;
        acre_category_error error;
        calls_until_failure = fail_at;
        if (acre_categories_create(rows, 3, &c, &error) == ACRE_OK) {
            acre_categories_destroy(c);
        } else {
            assert_int_equal(error.status, ACRE_NO_MEMORY);
            assert_string_equal(error.text + (error.row == ACRE_CATEGORY_NONE ? 0 : strlen("row 1 \"ranges\": ")),
                                acre_status_text(ACRE_NO_MEMORY));
            assert_null(c);
        }
        failed = calls_until_failure <= 0;
        arena_usage(&used, &held);
        assert_int_equal(used, used_before);
    }
    os_memory = os_real;
    assert_false(failed);
}

enum { THREADS = 4, THREAD_OPERATIONS = 30000 };

static void *churn(void *categories)
{
    acre_categories *c = categories;
    acre_suballoc_block ranges[16] = {{0, 0, 0}};
    void *blocks[16] = {0};
    uint64_t random = (uint64_t)(uintptr_t)ranges;
    for (int i = 0; i < THREAD_OPERATIONS; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint32_t slot = random >> 60;
        if (ranges[slot].handle) {
            if (acre_category_free_range(c, 1, ranges[slot].handle) != ACRE_OK) return "a range was lost";
            ranges[slot].handle = 0;
        } else if (acre_category_alloc_range(c, 1, 1 + (random >> 40) % 4096, 0, &ranges[slot]) != ACRE_OK) {
            ranges[slot].handle = 0;
        }
        if (blocks[slot]) {
            if (acre_category_free(c, 0, blocks[slot]) != ACRE_OK) return "a block was lost";
            blocks[slot] = NULL;
        } else {
            blocks[slot] = acre_category_alloc(c, 0, 1 + (random >> 40) % 1024, 0, NULL);
        }
    }
    for (int i = 0; i < 16; i++) {
        if (ranges[i].handle && acre_category_free_range(c, 1, ranges[i].handle) != ACRE_OK) return "a range was lost";
        if (acre_category_free(c, 0, blocks[i]) != ACRE_OK) return "a block was lost";
    }
    return NULL;
}

static void threads_share_categories_and_the_books_balance(void **state)
{
    (void)state;
    acre_category rows[] = {HEAP_ROW(.count = 64), OFFSETS_ROW(.alignment = 256, .budget_bytes = 20000)};
    acre_categories *c = make(rows, 2);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, churn, c), 0);
    for (int i = 0; i < THREADS; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        if (wrong) fail_msg("%s", (char *)wrong);
    }
    assert_int_equal(usage_of(c, 1).bytes_used, 0);
    assert_true(usage_of(c, 1).bytes_peak <= 20000);
    assert_true(usage_of(c, 1).failed > 0); /* the budget was tight */
    acre_suballoc_stats stats;
    assert_int_equal(acre_suballoc_get_stats(acre_category_suballoc(c, 1), &stats), ACRE_OK);
    assert_int_equal(stats.block_count, 0);
    acre_categories_destroy(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_is_required_short_and_unique),
        cmocka_unit_test(sizes_that_contradict_each_other_are_refused),
        cmocka_unit_test(alignments_that_nobody_can_serve_are_refused),
        cmocka_unit_test(budgets_in_which_nothing_fits_are_refused),
        cmocka_unit_test(counts_beyond_what_can_be_there_are_refused),
        cmocka_unit_test(a_capacity_is_for_offsets_and_must_hold_something),
        cmocka_unit_test(a_provider_must_work_and_suit_the_row),
        cmocka_unit_test(a_table_without_rows_or_with_too_many_is_refused),
        cmocka_unit_test(the_longest_text_fits),
        cmocka_unit_test(small_blocks_of_a_row_all_come_from_the_fixed_size_allocator),
        cmocka_unit_test(classes_are_coarse_where_there_is_little_to_put_into_them),
        cmocka_unit_test(the_alignment_is_named_where_the_coalescing_allocator_serves_it),
        cmocka_unit_test(caches_follow_frequency_count_and_budget),
        cmocka_unit_test(free_memory_is_kept_for_two_mean_lifetimes),
        cmocka_unit_test(the_granularity_of_offsets_is_the_alignment_or_fits_the_smallest),
        cmocka_unit_test(a_row_hands_out_what_it_is_for_and_nothing_else),
        cmocka_unit_test(rows_are_found_by_name_and_number),
        cmocka_unit_test(a_heap_over_its_budget_asks_once_and_then_fails),
        cmocka_unit_test(blocks_in_the_threads_own_cache_do_not_make_a_budget_fail),
        cmocka_unit_test(offsets_over_their_budget_or_capacity_ask_once_and_then_fail),
        cmocka_unit_test(a_promised_count_is_a_limit),
        cmocka_unit_test(the_table_of_a_game_works_row_by_row),
        cmocka_unit_test(the_report_has_a_line_per_row_and_fits_any_buffer),
        cmocka_unit_test(a_system_call_that_fails_leaves_nothing_behind),
        cmocka_unit_test(threads_share_categories_and_the_books_balance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
