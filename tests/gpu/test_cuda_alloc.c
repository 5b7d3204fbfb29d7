/* Blocks of CUDA memory on the fake driver: where they come from, what they cost the driver, and what is left of
 * them. */
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "acre/cuda.h"
#include "base/bits.h"
#include "fake_cuda.h"
#include "os/os.h"

#define PAGE (2 * MIB)

static acre_cuda *heap;

static acre_cuda *create(const acre_cuda_options *options)
{
    acre_cuda_options o = options != NULL ? *options : (acre_cuda_options){0};
    acre_cuda_error why;
    o.symbol = fake_cuda_symbol;
    acre_cuda *made = NULL;
    acre_status status = acre_cuda_create(&o, &made, &why);
    if (status != ACRE_OK) print_message("%s: %s\n", acre_status_name(status), why.text);
    assert_int_equal(status, ACRE_OK);
    return made;
}

static int with_heap(void **state)
{
    (void)state;
    fake_cuda_start(NULL);
    heap = create(NULL);
    return 0;
}

/* Every test ends with a check, and with nothing left at the driver. */
static int without_heap(void **state)
{
    (void)state;
    const char *wrong = heap != NULL ? acre_cuda_check(heap) : NULL;
    if (wrong != NULL) print_message("%s\n", wrong);
    acre_cuda_destroy(heap);
    heap = NULL;
    uint64_t problems = fake_cuda_stop();
    return wrong != NULL || problems != 0;
}

static char *alloc(uint64_t bytes, void *stream)
{
    void *block = NULL;
    assert_int_equal(acre_cuda_alloc(heap, bytes, 0, 0, stream, &block), ACRE_OK);
    assert_int_equal(fake_cuda_accessible(block, bytes), bytes);
    return block;
}

static void release(void *block, void *stream) { assert_int_equal(acre_cuda_free(heap, block, stream), ACRE_OK); }

static acre_cuda_info info(void)
{
    acre_cuda_info i;
    assert_int_equal(acre_cuda_info_read(heap, &i), ACRE_OK);
    assert_int_equal(i.heap.held_bytes,
                     i.heap.live_bytes + i.heap.pending_bytes + i.heap.hole_bytes + i.heap.empty_bytes);
    return i;
}

/* --- creation ---------------------------------------------------------------------------------------------------- */

static void expect_unsupported(const acre_cuda_options *options, const char *part)
{
    acre_cuda *made = NULL;
    acre_cuda_error why;
    assert_int_equal(acre_cuda_create(options, &made, &why), ACRE_NOT_SUPPORTED);
    assert_null(made);
    assert_int_equal(why.status, ACRE_NOT_SUPPORTED);
    if (strstr(why.text, part) == NULL) print_message("\"%s\" lacks \"%s\"\n", why.text, part);
    assert_non_null(strstr(why.text, part));
}

static void what_is_missing_is_said(void **state)
{
    (void)state;
    expect_unsupported(&(acre_cuda_options){.library = "libno_such_driver.so"}, "libno_such_driver.so");
    char missing[] = "cuMemCreate";
    expect_unsupported(&(acre_cuda_options){.symbol = fake_cuda_symbol, .symbol_context = missing}, "cuMemCreate");
    fake_cuda_start(NULL);
    expect_unsupported(&(acre_cuda_options){.symbol = fake_cuda_symbol, .device = 1}, "no device 1");
    fake_cuda_start(&(fake_cuda_options){.no_virtual_memory = true});
    expect_unsupported(&(acre_cuda_options){.symbol = fake_cuda_symbol}, "virtual memory");
    fake_cuda_start(NULL);
    fake_cuda_fail("cuInit", 1, 100);
    expect_unsupported(&(acre_cuda_options){.symbol = fake_cuda_symbol}, "cuInit");
    assert_int_equal(fake_cuda_stop(), 0);
}

static void options_out_of_bounds_are_refused(void **state)
{
    (void)state;
    fake_cuda_start(NULL);
    static const acre_gpu_category twice[] = {{.name = "a"}, {.name = "a"}};
    const acre_cuda_options wrong[] = {
        {.page_bytes = 3 * MIB},
        {.page_bytes = 64 * KIB},
        {.peer_count = 2},
        {.categories = twice, .category_count = 2},
        {.own_lanes = 2},
        {.reserve_bytes = (uint64_t)1 << 62},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        acre_cuda_options o = wrong[i];
        acre_cuda *made = NULL;
        acre_cuda_error why;
        o.symbol = fake_cuda_symbol;
        assert_int_equal(acre_cuda_create(&o, &made, &why), ACRE_INVALID_ARGUMENT);
        assert_true(why.text[0] != 0);
    }
    assert_int_equal(acre_cuda_create(NULL, NULL, NULL), ACRE_INVALID_ARGUMENT);
    assert_int_equal(fake_cuda_stop(), 0);
}

static void a_loaded_library_serves(void **state)
{
    (void)state;
    char library[4096];
    ssize_t length = readlink("/proc/self/exe", library, sizeof library - 32);
    assert_true(length > 0);
    library[length] = 0;
    strcpy(strrchr(library, '/') + 1, "libfake_cuda.so");
    acre_cuda *made = NULL;
    acre_cuda_error why;
    void *block;
    setenv("ACRE_CUDA_DRIVER", library, 1);
    acre_status status = acre_cuda_create(NULL, &made, &why);
    if (status != ACRE_OK) print_message("%s\n", why.text);
    assert_int_equal(status, ACRE_OK);
    assert_int_equal(acre_cuda_alloc(made, MIB, 0, 0, NULL, &block), ACRE_OK);
    assert_int_equal(acre_cuda_free(made, block, NULL), ACRE_OK);
    acre_cuda_destroy(made);
    unsetenv("ACRE_CUDA_DRIVER");
    uint64_t (*stop)(void);
    void *handle = dlopen(library, RTLD_NOW), *symbol = handle != NULL ? dlsym(handle, "fake_cuda_stop") : NULL;
    assert_non_null(symbol);
    memcpy(&stop, &symbol, sizeof stop);
    assert_int_equal(stop(), 0);
    dlclose(handle);
}

static void peers_may_use_the_memory(void **state)
{
    (void)state;
    fake_cuda_start(&(fake_cuda_options){.device_count = 3});
    const int peers[] = {0, 2};
    heap = create(&(acre_cuda_options){.device = 1, .peers = peers, .peer_count = 2});
    void *block = alloc(5 * MIB, NULL);
    assert_int_equal(fake_cuda_devices(block), 3);
    release(block, NULL);
}

/* The second time nothing is created, mapped or waited for. */
static void growth_costs_what_the_driver_costs_once(void **state)
{
    (void)state;
    fake_cuda_start(&(fake_cuda_options){.latency = true});
    heap = create(NULL);
    uint64_t start = os_now_ns();
    release(alloc(64 * MIB, NULL), NULL);
    uint64_t grown = os_now_ns();
    assert_true(grown - start >= 32 * (193000 + 1500 + 36000));
    uint64_t creates = fake_cuda_calls("cuMemCreate"), maps = fake_cuda_calls("cuMemMap");
    release(alloc(64 * MIB, NULL), NULL);
    assert_int_equal(fake_cuda_calls("cuMemCreate"), creates);
    assert_int_equal(fake_cuda_calls("cuMemMap"), maps);
}

static void a_device_with_few_addresses_gives_what_it_has(void **state)
{
    (void)state;
    fake_cuda_start(&(fake_cuda_options){.address_bytes = 8 * GIB});
    heap = create(NULL);
    assert_true(info().reserved_bytes <= 8 * GIB);
    release(alloc(900 * MIB, NULL), NULL);
}

/* --- blocks ------------------------------------------------------------------------------------------------------ */

static void nothing_is_held_before_the_first_block(void **state)
{
    (void)state;
    assert_int_equal(fake_cuda_used_bytes(), 0);
    assert_int_equal(info().heap.held_bytes, 0);
}

static void a_hit_makes_no_driver_call(void **state)
{
    (void)state;
    void *a = alloc(100 * KIB, NULL), *b = alloc(10 * MIB, NULL);
    release(a, NULL);
    release(b, NULL);
    uint64_t calls = fake_cuda_calls(NULL);
    for (int i = 0; i < 100; i++) {
        void *c = NULL;
        assert_int_equal(acre_cuda_alloc(heap, 100 * KIB, 0, 0, NULL, &c), ACRE_OK);
        assert_ptr_equal(c, a);
        assert_int_equal(acre_cuda_free(heap, c, NULL), ACRE_OK);
    }
    assert_int_equal(fake_cuda_calls(NULL), calls);
}

static void sizes_round_to_512_bytes_and_blocks_are_aligned(void **state)
{
    (void)state;
    acre_cuda_block b;
    for (unsigned log2 = 0; log2 <= 21; log2++) {
        void *odd = alloc(1000, NULL), *block = NULL;
        assert_int_equal(acre_cuda_alloc(heap, 777, (uint64_t)1 << log2, 0, NULL, &block), ACRE_OK);
        assert_int_equal((uintptr_t)block % ((uintptr_t)1 << log2), 0);
        assert_int_equal(acre_cuda_block_read(heap, block, &b), ACRE_OK);
        assert_int_equal(b.bytes, 1024);
        release(odd, NULL);
        release(block, NULL);
    }
}

static void small_and_large_blocks_share_no_page(void **state)
{
    (void)state;
    char *small = alloc(MIB, NULL), *large = alloc(MIB + 1, NULL);
    assert_true((uintptr_t)small / PAGE != (uintptr_t)large / PAGE);
    assert_int_equal(info().heap.held_bytes, 2 * PAGE);
    release(small, NULL);
    release(large, NULL);
}

static void wrong_calls_are_refused_and_change_nothing(void **state)
{
    (void)state;
    void *block = NULL;
    assert_int_equal(acre_cuda_alloc(heap, 0, 0, 0, NULL, &block), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_cuda_alloc(heap, 1, 3, 0, NULL, &block), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_cuda_alloc(heap, 1, 2 * PAGE, 0, NULL, &block), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_cuda_alloc(heap, 1, 0, 1, NULL, &block), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_cuda_alloc(heap, 1, 0, 0, (void *)2, &block), ACRE_INVALID_ARGUMENT);
    assert_int_equal(acre_cuda_alloc(heap, (uint64_t)1 << 60, 0, 0, NULL, &block), ACRE_TOO_LARGE);
    assert_int_equal(acre_cuda_alloc(NULL, 1, 0, 0, NULL, &block), ACRE_INVALID_ARGUMENT);
    assert_null(block);
    char *a = alloc(4096, NULL);
    assert_int_equal(acre_cuda_free(heap, a + 512, NULL), ACRE_FOREIGN_POINTER);
    assert_int_equal(acre_cuda_free(heap, &block, NULL), ACRE_FOREIGN_POINTER);
    assert_int_equal(acre_cuda_free(heap, NULL, NULL), ACRE_OK);
    release(a, NULL);
    assert_int_equal(acre_cuda_free(heap, a, NULL), ACRE_FOREIGN_POINTER);
    assert_int_equal(acre_cuda_resize(heap, a, 512), ACRE_FOREIGN_POINTER);
}

static void pages_between_live_blocks_go_back(void **state)
{
    (void)state;
    void *blocks[9];
    for (int i = 0; i < 9; i++) blocks[i] = alloc(4 * MIB, NULL);
    assert_int_equal(fake_cuda_used_bytes(), 36 * MIB);
    for (int i = 1; i < 9; i += 2) release(blocks[i], NULL);
    uint64_t gone = 0;
    assert_int_equal(acre_cuda_trim(heap, 0, true, &gone), ACRE_OK);
    assert_int_equal(gone, 16 * MIB);
    assert_int_equal(fake_cuda_used_bytes(), 20 * MIB);
    for (int i = 0; i < 9; i += 2) {
        assert_int_equal(fake_cuda_accessible(blocks[i], 4 * MIB), 4 * MIB);
        release(blocks[i], NULL);
    }
}

/* No hole is large enough, and yet no memory is created: pages move. */
static void scattered_pages_serve_a_large_block(void **state)
{
    (void)state;
    void *blocks[16], *large = NULL;
    for (int i = 0; i < 16; i++) blocks[i] = alloc(40 * MIB, NULL);
    for (int i = 0; i < 16; i += 2) release(blocks[i], NULL);
    uint64_t creates = fake_cuda_calls("cuMemCreate");
    assert_int_equal(acre_cuda_trim(heap, UINT64_MAX, true, NULL), ACRE_OK);
    assert_int_equal(acre_cuda_alloc(heap, 320 * MIB, 0, 0, NULL, &large), ACRE_OK);
    assert_int_equal(fake_cuda_calls("cuMemCreate"), creates);
    assert_int_equal(fake_cuda_accessible(large, 320 * MIB), 320 * MIB);
    assert_true(info().pages_moved >= 160);
    release(large, NULL);
    for (int i = 1; i < 16; i += 2) release(blocks[i], NULL);
}

static void a_block_grows_and_shrinks_where_it_lies(void **state)
{
    (void)state;
    char *block = alloc(3 * MIB, NULL);
    assert_int_equal(acre_cuda_resize(heap, block, 101 * MIB), ACRE_OK);
    assert_int_equal(fake_cuda_accessible(block, 101 * MIB), 101 * MIB);
    char *next = alloc(3 * MIB, NULL);
    assert_true(next >= block + 101 * MIB);
    assert_int_equal(acre_cuda_resize(heap, block, 150 * MIB), ACRE_NO_MEMORY);
    assert_int_equal(acre_cuda_resize(heap, block, 50 * MIB), ACRE_OK);
    acre_cuda_block b;
    assert_int_equal(acre_cuda_block_read(heap, block, &b), ACRE_OK);
    assert_int_equal(b.bytes, 50 * MIB);
    assert_int_equal(info().heap.live_bytes, 53 * MIB);
    release(block, NULL);
    release(next, NULL);
}

/* --- own pages --------------------------------------------------------------------------------------------------- */

static void a_block_with_room_grows_to_it(void **state)
{
    (void)state;
    void *cache = NULL, *other = NULL;
    acre_cuda_request q = {.bytes = 3 * MIB, .room_bytes = 512 * MIB, .flags = ACRE_CUDA_OWN_PAGES};
    assert_int_equal(acre_cuda_alloc_request(heap, &q, &cache), ACRE_OK);
    assert_int_equal(acre_cuda_alloc_request(heap, &q, &other), ACRE_OK);
    assert_int_equal(fake_cuda_used_bytes(), 8 * MIB);
    for (uint64_t bytes = 4 * MIB; bytes <= 512 * MIB; bytes += 4 * MIB) {
        assert_int_equal(acre_cuda_resize(heap, cache, bytes), ACRE_OK);
        assert_int_equal(fake_cuda_accessible(cache, bytes), bytes);
    }
    acre_cuda_block b;
    assert_int_equal(acre_cuda_block_read(heap, cache, &b), ACRE_OK);
    assert_true(b.flags == ACRE_CUDA_OWN_PAGES && b.room_bytes >= 512 * MIB);
    assert_int_equal(acre_cuda_resize(heap, cache, 10 * MIB), ACRE_OK);
    assert_int_equal(acre_cuda_trim(heap, 0, true, NULL), ACRE_OK);
    assert_int_equal(fake_cuda_used_bytes(), 14 * MIB);
    release(cache, NULL);
    release(other, NULL);
}

static void pages_are_shared_and_go_with_the_last(void **state)
{
    (void)state;
    void *first = NULL, *view = NULL;
    acre_cuda_request q = {.bytes = 16 * MIB, .flags = ACRE_CUDA_OWN_PAGES};
    assert_int_equal(acre_cuda_alloc_request(heap, &q, &first), ACRE_OK);
    assert_int_equal(acre_cuda_share(heap, first, 4 * MIB, 8 * MIB, 0, NULL, &view), ACRE_OK);
    assert_true(fake_cuda_same((char *)first + 5 * MIB, (char *)view + MIB));
    assert_int_equal(info().shared_bytes, 8 * MIB);
    assert_int_equal(fake_cuda_used_bytes(), 16 * MIB);
    assert_int_equal(acre_cuda_resize(heap, view, 2 * MIB), ACRE_NOT_SUPPORTED);
    assert_int_equal(acre_cuda_share(heap, view, 0, 2 * MIB, 0, NULL, &first), ACRE_INVALID_ARGUMENT);
    release(first, NULL);
    assert_int_equal(acre_cuda_trim(heap, 0, true, NULL), ACRE_OK);
    assert_int_equal(fake_cuda_used_bytes(), 8 * MIB);
    assert_int_equal(fake_cuda_accessible(view, 8 * MIB), 8 * MIB);
    release(view, NULL);
    assert_int_equal(acre_cuda_trim(heap, 0, true, NULL), ACRE_OK);
    assert_int_equal(fake_cuda_used_bytes(), 0);
    assert_int_equal(info().shared_bytes, 0);
}

static void an_exported_block_is_imported(void **state)
{
    (void)state;
    void *block = NULL, *there = NULL;
    int fd = -1;
    acre_cuda_request q = {.bytes = 5 * MIB, .flags = ACRE_CUDA_EXPORTABLE};
    assert_int_equal(acre_cuda_alloc_request(heap, &q, &block), ACRE_OK);
    assert_int_equal(fake_cuda_accessible(block, 6 * MIB), 6 * MIB);
    assert_int_equal(acre_cuda_export(heap, block, &fd), ACRE_OK);
    assert_true(fd >= 0);
    assert_int_equal(acre_cuda_import(heap, fd, 5 * MIB, 0, &there), ACRE_OK);
    assert_int_equal(fake_cuda_accessible(there, 6 * MIB), 6 * MIB);
    close(fd);
    assert_int_equal(info().heap.held_bytes, 6 * MIB);
    assert_int_equal(acre_cuda_resize(heap, block, MIB), ACRE_NOT_SUPPORTED);
    assert_null(acre_cuda_check(heap));
    release(block, NULL);
    assert_int_equal(acre_cuda_free(heap, block, NULL), ACRE_FOREIGN_POINTER);
    release(there, NULL);
    assert_int_equal(acre_cuda_tick(heap), ACRE_OK);
    assert_int_equal(info().heap.held_bytes, 0);
    void *plain = alloc(5 * MIB, NULL);
    assert_int_equal(acre_cuda_export(heap, plain, &fd), ACRE_NOT_SUPPORTED);
    release(plain, NULL);
}

static void a_device_without_file_handles_exports_nothing(void **state)
{
    (void)state;
    fake_cuda_start(&(fake_cuda_options){.no_file_handles = true});
    heap = create(NULL);
    void *block = NULL;
    acre_cuda_request q = {.bytes = 5 * MIB, .flags = ACRE_CUDA_EXPORTABLE};
    assert_int_equal(acre_cuda_alloc_request(heap, &q, &block), ACRE_NOT_SUPPORTED);
    assert_int_equal(acre_cuda_import(heap, 0, MIB, 0, &block), ACRE_NOT_SUPPORTED);
}

/* --- budgets and shortage ---------------------------------------------------------------------------------------- */

static void a_full_device_says_who_holds_it(void **state)
{
    (void)state;
    fake_cuda_start(&(fake_cuda_options){.device_bytes = 64 * MIB});
    static const acre_gpu_category rows[] = {{.name = "weights"}, {.name = "cache"}};
    heap = create(&(acre_cuda_options){.categories = rows, .category_count = 2});
    void *weights = NULL, *cache = NULL, *more = NULL;
    assert_int_equal(acre_cuda_alloc(heap, 40 * MIB, 0, 0, NULL, &weights), ACRE_OK);
    assert_int_equal(acre_cuda_alloc(heap, 20 * MIB, 0, 1, NULL, &cache), ACRE_OK);
    assert_int_equal(acre_cuda_alloc(heap, 30 * MIB, 0, 1, NULL, &more), ACRE_NO_MEMORY);
    acre_gpu_shortage s;
    assert_int_equal(acre_cuda_shortage_read(heap, &s), ACRE_OK);
    assert_int_equal(s.status, ACRE_NO_MEMORY);
    assert_string_equal(s.driver_call, "cuMemCreate");
    assert_int_equal(s.driver_result, 2);
    assert_int_equal(s.bytes, 30 * MIB);
    assert_string_equal(s.category_name, "cache");
    assert_int_equal(s.top_count, 2);
    assert_string_equal(s.top[0].name, "weights");
    assert_int_equal(s.top[0].bytes, 40 * MIB);
    assert_int_equal(s.category_stats.failed, 1);
    char text[2000];
    assert_true(acre_gpu_shortage_text(&s, text, sizeof text) < sizeof text);
    assert_non_null(strstr(text, "weights"));
    /* What failed is no longer held: the device has its last 4 MiB. */
    void *rest = NULL;
    assert_int_equal(acre_cuda_alloc(heap, 4 * MIB, 0, 1, NULL, &rest), ACRE_OK);
    release(weights, NULL);
    release(cache, NULL);
    release(rest, NULL);
}

typedef struct savior {
    void *block;
    int asked;
    uint64_t largest;
} savior;

static bool give_one_up(void *context, const acre_gpu_shortage *shortage)
{
    savior *s = context;
    s->asked++;
    s->largest = shortage->largest_hole_bytes;
    if (s->block == NULL) return false;
    bool freed = acre_cuda_free(heap, s->block, NULL) == ACRE_OK;
    s->block = NULL;
    return freed;
}

static void the_program_is_asked_before_a_request_fails(void **state)
{
    (void)state;
    fake_cuda_start(NULL);
    savior s = {.block = NULL};
    static const acre_gpu_category rows[] = {
        {.name = "strict", .budget_bytes = 10 * MIB},
        {.name = "loose", .budget_bytes = 10 * MIB, .at_limit = ACRE_GPU_EXCEED}};
    heap = create(&(acre_cuda_options){
        .categories = rows, .category_count = 2, .on_limit = give_one_up, .on_limit_context = &s});
    void *a = NULL, *b = NULL, *c = NULL;
    assert_int_equal(acre_cuda_alloc(heap, 8 * MIB, 0, 0, NULL, &a), ACRE_OK);
    assert_int_equal(acre_cuda_alloc(heap, 8 * MIB, 0, 0, NULL, &b), ACRE_OVER_BUDGET);
    assert_int_equal(s.asked, 1);
    s.block = a;
    assert_int_equal(acre_cuda_alloc(heap, 8 * MIB, 0, 0, NULL, &b), ACRE_OK);
    assert_int_equal(s.asked, 2);
    assert_int_equal(acre_cuda_alloc(heap, 20 * MIB, 0, 1, NULL, &c), ACRE_OK);
    acre_gpu_category_stats stats;
    assert_int_equal(acre_cuda_category_read(heap, 1, &stats), ACRE_OK);
    assert_int_equal(stats.exceeded, 1);
    assert_int_equal(stats.live_bytes, 20 * MIB);
    assert_int_equal(acre_cuda_category_read(heap, 0, &stats), ACRE_OK);
    assert_int_equal(stats.failed, 1);
    release(b, NULL);
    release(c, NULL);
    assert_int_equal(acre_cuda_set_budget(heap, 8 * MIB), ACRE_OK);
    assert_int_equal(acre_cuda_tick(heap), ACRE_OK); /* asks the GPU, and does not wait for the answer */
    assert_int_equal(acre_cuda_tick(heap), ACRE_OK);
    assert_true(info().heap.held_bytes <= 8 * MIB);
    assert_int_equal(acre_cuda_alloc(heap, 10 * MIB, 0, 0, NULL, &b), ACRE_OVER_BUDGET);
}

/* --- sleep ------------------------------------------------------------------------------------------------------- */

typedef struct copies {
    int count, limit;
    uint64_t bytes;
} copies;

static bool copy(void *context, void *block, uint64_t bytes, void *stream)
{
    copies *c = context;
    (void)stream;
    assert_int_equal(fake_cuda_accessible(block, bytes), bytes);
    if (c->count == c->limit) return false;
    c->count++;
    c->bytes += bytes;
    return true;
}

static void a_category_sleeps_and_wakes_at_its_addresses(void **state)
{
    (void)state;
    fake_cuda_start(&(fake_cuda_options){.device_bytes = 100 * MIB});
    static const acre_gpu_category rows[] = {{.name = "awake"}, {.name = "sleeper"}};
    heap = create(&(acre_cuda_options){.categories = rows, .category_count = 2, .own_lanes = 2});
    void *blocks[20], *other = alloc(MIB, NULL), *late = NULL;
    for (int i = 0; i < 20; i++) {
        acre_cuda_request q = {.bytes = i % 2 ? 100 * KIB : 6 * MIB, .category = 1};
        if (i == 0) q.flags = ACRE_CUDA_OWN_PAGES;
        assert_int_equal(acre_cuda_alloc_request(heap, &q, &blocks[i]), ACRE_OK);
    }
    copies saved = {.limit = 100}, back = {.limit = 100};
    assert_int_equal(acre_cuda_sleep(heap, 1, copy, &saved), ACRE_OK);
    assert_int_equal(saved.count, 20);
    assert_int_equal(fake_cuda_used_bytes(), PAGE);
    assert_int_equal(info().asleep_bytes, saved.bytes);
    assert_int_equal(info().heap.live_bytes, MIB);
    assert_null(acre_cuda_check(heap));
    assert_int_equal(acre_cuda_sleep(heap, 1, NULL, NULL), ACRE_BUSY);
    assert_int_equal(acre_cuda_alloc(heap, 1, 0, 1, NULL, &late), ACRE_BUSY);
    assert_int_equal(acre_cuda_wake(heap, 0, NULL, NULL), ACRE_INVALID_ARGUMENT);
    release(blocks[3], NULL);
    /* Somebody else uses the memory meanwhile: nobody wakes. */
    void *big = alloc(60 * MIB, NULL);
    assert_int_equal(acre_cuda_wake(heap, 1, NULL, NULL), ACRE_NO_MEMORY);
    assert_int_equal(info().heap.live_bytes, 61 * MIB);
    assert_null(acre_cuda_check(heap));
    release(big, NULL);
    assert_int_equal(acre_cuda_wake(heap, 1, copy, &back), ACRE_OK);
    assert_int_equal(back.count, 19);
    assert_int_equal(info().asleep_bytes, 0);
    for (int i = 0; i < 20; i++)
        if (i != 3) {
            assert_true(fake_cuda_accessible(blocks[i], 100 * KIB) == 100 * KIB);
            release(blocks[i], NULL);
        }
    release(other, NULL);
}

/* --- upkeep ------------------------------------------------------------------------------------------------------ */

static void empties_go_by_age(void **state)
{
    (void)state;
    fake_cuda_start(NULL);
    heap = create(&(acre_cuda_options){.empty_delay_ms = 30});
    void *keep = alloc(4 * MIB, NULL);
    release(alloc(100 * MIB, NULL), NULL);
    assert_true(info().heap.empty_bytes >= 96 * MIB);
    usleep(60000);
    assert_int_equal(acre_cuda_tick(heap), ACRE_OK); /* records what was freed */
    assert_int_equal(acre_cuda_tick(heap), ACRE_OK);
    assert_int_equal(info().heap.empty_bytes, 0);
    release(keep, NULL);
}

static bool count_block(void *context, const acre_cuda_block *block)
{
    uint64_t *bytes = context;
    *bytes += block->bytes;
    return true;
}

static void blocks_are_walked_and_reported(void **state)
{
    (void)state;
    void *a = alloc(MIB, NULL), *b = alloc(7 * MIB, NULL), *c = NULL;
    acre_cuda_request q = {.bytes = 4 * MIB, .flags = ACRE_CUDA_OWN_PAGES};
    assert_int_equal(acre_cuda_alloc_request(heap, &q, &c), ACRE_OK);
    uint64_t bytes = 0;
    assert_int_equal(acre_cuda_walk(heap, count_block, &bytes), ACRE_OK);
    assert_int_equal(bytes, 12 * MIB);
    char text[8192], cut[40];
    size_t length = acre_cuda_report(heap, text, sizeof text);
    assert_true(length > 500 && length < sizeof text && strlen(text) == length);
    assert_non_null(strstr(text, "\"live_bytes\": 12582912"));
    assert_non_null(strstr(text, "\"name\": \"all\""));
    assert_int_equal(acre_cuda_report(heap, cut, sizeof cut), length);
    assert_int_equal(strlen(cut), sizeof cut - 1);
    assert_int_equal(acre_cuda_report(heap, NULL, 0), length);
    release(a, NULL);
    release(b, NULL);
    release(c, NULL);
}

int main(void)
{
#define WITH(test) cmocka_unit_test_setup_teardown(test, with_heap, without_heap)
#define ALONE(test) cmocka_unit_test_teardown(test, without_heap)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_missing_is_said),
        cmocka_unit_test(options_out_of_bounds_are_refused),
        cmocka_unit_test(a_loaded_library_serves),
        ALONE(peers_may_use_the_memory),
        ALONE(growth_costs_what_the_driver_costs_once),
        ALONE(a_device_with_few_addresses_gives_what_it_has),
        WITH(nothing_is_held_before_the_first_block),
        WITH(a_hit_makes_no_driver_call),
        WITH(sizes_round_to_512_bytes_and_blocks_are_aligned),
        WITH(small_and_large_blocks_share_no_page),
        WITH(wrong_calls_are_refused_and_change_nothing),
        WITH(pages_between_live_blocks_go_back),
        WITH(scattered_pages_serve_a_large_block),
        WITH(a_block_grows_and_shrinks_where_it_lies),
        WITH(a_block_with_room_grows_to_it),
        WITH(pages_are_shared_and_go_with_the_last),
        WITH(an_exported_block_is_imported),
        ALONE(a_device_without_file_handles_exports_nothing),
        ALONE(a_full_device_says_who_holds_it),
        ALONE(the_program_is_asked_before_a_request_fails),
        ALONE(a_category_sleeps_and_wakes_at_its_addresses),
        ALONE(empties_go_by_age),
        WITH(blocks_are_walked_and_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
