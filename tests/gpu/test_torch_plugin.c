/* test_torch_plugin: claims about the plug-in for PyTorch, on the fake driver. The plug-in reads its options once per
 * process and makes one heap per device, so each claim runs in a child of its own: it sets the environment, uses the
 * plug-in as PyTorch would, and what it wrote to stderr is looked at by the parent. The plug-in's sources are linked
 * here, sanitizers included; the last claims are about the library that users load. */
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "acre_torch.h"
#include "fake_cuda.h"

#define MIB ((ssize_t)1 << 20)

static char folder[4096]; /* of this program: build/tests */
static char driver_path[4200], library_path[4200];

/* --- children --------------------------------------------------------------------------------------------------- */

static char said[65536]; /* what the last child wrote to stderr */

/* Runs `claim` in a child with these variables ("NAME=value", NULL at the end); returns how it ended (waitpid). */
static int run_child(void (*claim)(void), const char *const *environment)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        setenv("ACRE_CUDA_DRIVER", driver_path, 1);
        for (; environment && *environment; environment++) putenv((char *)*environment);
        claim();
        fflush(NULL);
        _exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    ssize_t got;
    while (length < sizeof said - 1 && (got = read(ends[0], said + length, sizeof said - 1 - length)) > 0)
        length += (size_t)got;
    said[length] = 0;
    close(ends[0]);
    int how = 0;
    assert_int_equal(waitpid(child, &how, 0), child);
    return how;
}

static void passes(void (*claim)(void), const char *const *environment)
{
    int how = run_child(claim, environment);
    if (!WIFEXITED(how) || WEXITSTATUS(how) != 0) fail_msg("the child ended with 0x%x, and said: %s", how, said);
}

#define ENVIRONMENT(...) ((const char *const[]){__VA_ARGS__, NULL})

/* In a child: cmocka's asserts would jump into the parent's copy. */
#define CHECK(condition)                                                          \
    do {                                                                          \
        if (!(condition)) {                                                       \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            _exit(1);                                                             \
        }                                                                         \
    } while (0)

/* --- the fake driver, as the library that the plug-in loads ------------------------------------------------------ */

static void *fake(const char *name)
{
    void *library = dlopen(driver_path, RTLD_NOW);
    void *function = library ? dlsym(library, name) : NULL;
    if (!function) {
        fprintf(stderr, "%s: %s\n", name, dlerror());
        _exit(1);
    }
    return function;
}

static void fake_start(bool manual, bool backed)
{
    fake_cuda_options o = {.device_bytes = (uint64_t)1 << 30, .manual = manual, .backed = backed, .device_count = 2};
    ((void (*)(const fake_cuda_options *))fake("fake_cuda_start"))(&o);
}
static void *fake_stream(void) { return ((void *(*)(void))fake("fake_cuda_stream"))(); }
static void fake_use(void *stream, void *address, uint64_t bytes)
{
    ((void (*)(void *, const void *, uint64_t))fake("fake_cuda_use"))(stream, address, bytes);
}
static void fake_block(void *address, uint64_t bytes)
{
    ((void (*)(const void *, uint64_t))fake("fake_cuda_block"))(address, bytes);
}
static void fake_capture(void *stream, bool on)
{
    ((void (*)(void *, bool))fake("fake_cuda_capture"))(stream, on);
}
static void fake_run_all(void) { ((void (*)(void))fake("fake_cuda_run_all"))(); }
static void fake_fail(const char *name, uint64_t nth, int result)
{
    ((void (*)(const char *, uint64_t, int))fake("fake_cuda_fail"))(name, nth, result);
}
/* As a program waits for a stream, with a context of its own. */
static void fake_wait(void *stream)
{
    void *context;
    CHECK(((int (*)(void **, int))fake("cuDevicePrimaryCtxRetain"))(&context, 0) == 0);
    CHECK(((int (*)(void *))fake("cuCtxPushCurrent_v2"))(context) == 0);
    CHECK(((int (*)(void *))fake("cuStreamSynchronize"))(stream) == 0);
    CHECK(((int (*)(void **))fake("cuCtxPopCurrent_v2"))(&context) == 0);
    CHECK(((int (*)(int))fake("cuDevicePrimaryCtxRelease_v2"))(0) == 0);
}
static uint64_t fake_used(void) { return ((uint64_t(*)(void))fake("fake_cuda_used_bytes"))(); }
static void no_problem(void)
{
    const char *problem = ((const char *(*)(void))fake("fake_cuda_problem"))();
    if (problem) fprintf(stderr, "%s\n", problem);
    CHECK(!problem);
    const char *wrong = acre_torch_check();
    if (wrong) fprintf(stderr, "%s\n", wrong);
    CHECK(!wrong);
}

/* The number behind "key": in the statistics, first device. */
static uint64_t figure(const char *key)
{
    static char json[65536];
    size_t length = acre_torch_stats_json(json, sizeof json);
    CHECK(length > 0 && length < sizeof json && strlen(json) == length);
    char pattern[64];
    snprintf(pattern, sizeof pattern, "\"%s\":", key);
    char *at = strstr(json, pattern);
    if (!at) fprintf(stderr, "no %s in %s\n", key, json);
    CHECK(at != NULL);
    return strtoull(at + strlen(pattern), NULL, 10);
}

/* --- allocate and free ------------------------------------------------------------------------------------------ */

static void use_tensors(void)
{
    fake_start(false, false);
    acre_torch_init(2);
    CHECK(fake_used() == 0); /* nobody asked for memory yet */
    const ssize_t sizes[] = {1, 512, 513, 100000, MIB, MIB + 1, 3 * MIB, 70 * MIB};
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    void *blocks[COUNT];
    uint64_t sum = 0;
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = acre_torch_alloc(sizes[i], 0, NULL);
        CHECK(blocks[i] && (uintptr_t)blocks[i] % 512 == 0);
        fake_block(blocks[i], (uint64_t)sizes[i]);
        fake_use(NULL, blocks[i], (uint64_t)sizes[i]);
        sum += (uint64_t)sizes[i];
        for (int j = 0; j < i; j++) {
            const char *x = blocks[i], *y = blocks[j];
            CHECK(x + sizes[i] <= y || y + sizes[j] <= x);
        }
    }
    CHECK(figure("requested_bytes") == sum && figure("requested_peak_bytes") == sum);
    CHECK(figure("live_bytes") >= sum && figure("held_bytes") == fake_used());
    CHECK(figure("allocations") == COUNT && figure("frees") == 0);
    for (int i = 0; i < COUNT; i++) acre_torch_free(blocks[i], sizes[i], 0, NULL);
    CHECK(figure("requested_bytes") == 0 && figure("live_bytes") == 0 && figure("frees") == COUNT);
    CHECK(figure("requested_peak_bytes") == sum);
    CHECK(acre_torch_trim(0, true) > 0 && fake_used() == 0 && figure("held_bytes") == 0);
    no_problem();
}
static void tensors_get_memory_and_give_it_back(void **state)
{
    (void)state;
    passes(use_tensors, NULL);
    assert_string_equal(said, "");
}

static void ask_for_nothing(void)
{
    fake_start(false, false);
    CHECK(acre_torch_alloc(0, 0, NULL) == NULL);
    acre_torch_free(NULL, 0, 0, NULL);
    CHECK(acre_torch_try_alloc(-1, 0, NULL) == NULL);
    CHECK(acre_torch_try_alloc(512, -1, NULL) == NULL);
    CHECK(acre_torch_try_alloc(512, 7, NULL) == NULL); /* the fake driver has two */
    void *block = acre_torch_try_alloc(512, 1, NULL);
    CHECK(block != NULL);
    acre_torch_free((char *)block + 512, 512, 1, NULL);
    acre_torch_free(block, 512, 1, NULL);
    no_problem();
}
static void nothing_and_nonsense_are_told_apart(void **state)
{
    (void)state;
    passes(ask_for_nothing, NULL);
    assert_null(strstr(said, "device 0: 0 bytes"));
    assert_non_null(strstr(said, "no heap on CUDA device 7"));
    assert_non_null(strstr(said, "free of 0x"));
}

static void reuse_in_order(void)
{
    fake_start(true, false);
    void *stream = fake_stream(), *other = fake_stream();
    void *a = acre_torch_alloc(3 * MIB, 0, stream);
    fake_block(a, 3 * MIB);
    fake_use(stream, a, 3 * MIB);
    acre_torch_free(a, 3 * MIB, 0, stream);
    CHECK(acre_torch_alloc(3 * MIB, 0, stream) == a); /* the stream is a queue */
    fake_block(a, 3 * MIB);
    fake_use(stream, a, 3 * MIB);

    fake_wait(stream); /* what is given to the other stream from here on comes after */
    acre_torch_record_stream(a, other);
    fake_use(other, a, 3 * MIB);
    acre_torch_free(a, 3 * MIB, 0, stream);
    void *b = acre_torch_alloc(3 * MIB, 0, stream);
    CHECK(b && b != a); /* the other stream is not done */
    fake_block(b, 3 * MIB);
    fake_use(stream, b, 3 * MIB);
    fake_run_all();
    acre_torch_free(b, 3 * MIB, 0, stream);
    acre_torch_trim(0, true);
    CHECK(figure("held_bytes") == 0);
    no_problem();
}
static void memory_is_reused_in_the_order_of_streams(void **state)
{
    (void)state;
    passes(reuse_in_order, NULL);
}

static void find_bases(void)
{
    fake_start(false, false);
    char *a = acre_torch_alloc(5000, 0, NULL), *b = acre_torch_alloc(9 * MIB, 1, NULL);
    size_t size = 0;
    CHECK(acre_torch_base_alloc(a, &size) == a && size >= 5000 && size < 6000);
    CHECK(acre_torch_base_alloc(a + 4999, &size) == a && size >= 5000);
    CHECK(acre_torch_base_alloc(b + 8 * MIB, &size) == b && size >= (size_t)(9 * MIB));
    size = 42;
    CHECK(acre_torch_base_alloc(&size, &size) == &size && size == 42);
    acre_torch_free(a, 5000, 0, NULL);
    acre_torch_free(b, 9 * MIB, 1, NULL);
    no_problem();
}
static void the_block_of_a_view_is_found(void **state)
{
    (void)state;
    passes(find_bases, NULL);
}

/* --- limits ----------------------------------------------------------------------------------------------------- */

static void run_out(void)
{
    fake_start(false, false);
    void *weights = acre_torch_alloc(40 * MIB, 0, NULL);
    CHECK(weights != NULL);
    char text[4096];
    CHECK(acre_torch_last_shortage_text(-1, text, sizeof text) == 0 && text[0] == 0);
    CHECK(acre_torch_try_alloc(100 * MIB, 0, NULL) == NULL);
    size_t length = acre_torch_last_shortage_text(0, text, sizeof text);
    CHECK(length > 0 && length < sizeof text && strstr(text, "CUDA out of memory") && strstr(text, "104857600"));
    CHECK(acre_torch_last_shortage_text(1, text, sizeof text) == 0);
    char small[8];
    CHECK(acre_torch_last_shortage_text(-1, small, sizeof small) == length && strlen(small) == sizeof small - 1);
    CHECK(figure("failed") == 1 && figure("held_bytes") <= 64 * (uint64_t)MIB);
    void *more = acre_torch_alloc(20 * MIB, 0, NULL); /* what fits is still to be had */
    CHECK(more != NULL);
    acre_torch_free(more, 20 * MIB, 0, NULL);
    acre_torch_free(weights, 40 * MIB, 0, NULL);
    no_problem();
}
static void out_of_memory_is_reported(void **state)
{
    (void)state;
    passes(run_out, ENVIRONMENT("ACRE_TORCH_BUDGET=64M"));
    assert_non_null(strstr(said, "CUDA out of memory (acre, device 0): 104857600 bytes"));
    passes(run_out, ENVIRONMENT("ACRE_TORCH_BUDGET=64M", "ACRE_TORCH_QUIET=1"));
    assert_string_equal(said, "");
    passes(run_out, ENVIRONMENT("ACRE_TORCH_BUDGET=0.0625", "ACRE_TORCH_QUIET=1")); /* of 1 GiB */
}

static void run_out_with_cxx(void)
{
    if (!dlopen("libstdc++.so.6", RTLD_NOW | RTLD_GLOBAL)) _exit(77);
    fake_start(false, false);
    acre_torch_alloc(4 * MIB, 0, NULL); /* nobody catches: std::terminate names the exception */
}
static void out_of_memory_is_thrown_where_there_is_a_cxx_runtime(void **state)
{
    (void)state;
    int how = run_child(run_out_with_cxx, ENVIRONMENT("ACRE_TORCH_BUDGET=2M", "ACRE_TORCH_QUIET=1"));
    if (WIFEXITED(how) && WEXITSTATUS(how) == 77) skip();
    assert_false(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    assert_non_null(strstr(said, "std::runtime_error"));
    assert_non_null(strstr(said, "CUDA out of memory (acre, device 0): 4194304 bytes"));
}

static void limit_by_fraction(void)
{
    fake_start(false, false);
    acre_torch_memory_fraction(0.125, 0); /* 128 MiB */
    void *block = acre_torch_try_alloc(100 * MIB, 0, NULL);
    CHECK(block && !acre_torch_try_alloc(100 * MIB, 0, NULL));
    CHECK(figure("budget_bytes") == (uint64_t)128 << 20);
    acre_torch_memory_fraction(1, 0);
    void *more = acre_torch_try_alloc(100 * MIB, 0, NULL);
    CHECK(more != NULL);
    acre_torch_free(block, 100 * MIB, 0, NULL);
    acre_torch_free(more, 100 * MIB, 0, NULL);
    CHECK(figure("held_bytes") > 0);
    acre_torch_reset(); /* torch.cuda.empty_cache() */
    CHECK(figure("held_bytes") == 0 && fake_used() == 0);
    no_problem();
}
static void a_fraction_limits_and_an_empty_cache_is_empty(void **state)
{
    (void)state;
    passes(limit_by_fraction, ENVIRONMENT("ACRE_TORCH_QUIET=1"));
}

static void start_peaks_again(void)
{
    fake_start(false, false);
    void *block = acre_torch_alloc(100 * MIB, 0, NULL);
    acre_torch_free(block, 100 * MIB, 0, NULL);
    acre_torch_trim(0, true);
    acre_torch_reset_peaks();
    CHECK(figure("requested_peak_bytes") == 0 && figure("held_peak_bytes") == 0);
    CHECK(figure("held_peak_ever_bytes") >= 100 * (uint64_t)MIB);
    block = acre_torch_alloc(10 * MIB, 0, NULL);
    acre_torch_free(block, 10 * MIB, 0, NULL);
    acre_torch_trim(0, true);
    CHECK(figure("requested_peak_bytes") == 10 * (uint64_t)MIB);
    CHECK(figure("held_peak_bytes") >= 10 * (uint64_t)MIB && figure("held_peak_bytes") < 50 * (uint64_t)MIB);
    block = acre_torch_alloc(200 * MIB, 0, NULL);
    CHECK(figure("held_peak_bytes") == figure("held_peak_ever_bytes"));
    acre_torch_free(block, 200 * MIB, 0, NULL);
    no_problem();
}
static void peaks_can_start_again(void **state)
{
    (void)state;
    passes(start_peaks_again, NULL);
}

static uint64_t fail_nth;

static void use_what_there_is(void)
{
    fake_start(false, false);
    fake_fail(NULL, fail_nth, 2); /* CUDA_ERROR_OUT_OF_MEMORY, once */
    const ssize_t sizes[] = {700, 3 * MIB, 100000, 9 * MIB, MIB, 20 * MIB};
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    void *blocks[COUNT];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < COUNT; i++) {
            blocks[i] = acre_torch_try_alloc(sizes[i], 0, NULL);
            if (!blocks[i]) continue;
            fake_block(blocks[i], (uint64_t)sizes[i]);
            fake_use(NULL, blocks[i], (uint64_t)sizes[i]);
        }
        for (int i = 0; i < COUNT; i++) acre_torch_free(blocks[i], sizes[i], 0, NULL);
        acre_torch_trim(0, true);
    }
    bool failed = ((bool (*)(const char **))fake("fake_cuda_failed"))(NULL);
    fake_fail(NULL, 0, 0);
    void *block = acre_torch_try_alloc(5 * MIB, 0, NULL); /* the failure is over */
    CHECK(block != NULL);
    acre_torch_free(block, 5 * MIB, 0, NULL);
    acre_torch_trim(0, true);
    CHECK(figure("requested_bytes") == 0 && figure("live_bytes") == 0 && figure("held_bytes") == 0 && fake_used() == 0);
    no_problem();
    if (!failed) _exit(3);
}
static void each_driver_call_may_fail(void **state)
{
    (void)state;
    int how = 0;
    for (fail_nth = 1; fail_nth < 1000; fail_nth++) {
        how = run_child(use_what_there_is, ENVIRONMENT("ACRE_TORCH_QUIET=1"));
        if (!WIFEXITED(how) || WEXITSTATUS(how) != 0) break;
    }
    if (!WIFEXITED(how) || WEXITSTATUS(how) != 3) fail_msg("call %d: 0x%x: %s", (int)fail_nth, how, said);
    assert_true(fail_nth > 50); /* so many calls there were */
}

/* --- options and categories ------------------------------------------------------------------------------------- */

static void use_categories(void)
{
    fake_start(false, false);
    CHECK(acre_torch_find_category("weights") == 0 && acre_torch_find_category("cache") == 1);
    CHECK(acre_torch_find_category("nobody") == -1);
    CHECK(acre_torch_set_category(1) == 0);
    void *a = acre_torch_try_alloc(6 * MIB, 0, NULL);
    CHECK(a && !acre_torch_try_alloc(6 * MIB, 0, NULL)); /* 8 MiB is its budget */
    CHECK(acre_torch_set_category(99) == 1 && acre_torch_set_category(0) == 0);
    void *b = acre_torch_try_alloc(6 * MIB, 0, NULL);
    CHECK(b != NULL);
    char text[8192];
    CHECK(acre_torch_report_text(text, sizeof text) < sizeof text);
    CHECK(strstr(text, "category weights") && strstr(text, "category cache"));
    acre_torch_free(a, 6 * MIB, 0, NULL);
    acre_torch_free(b, 6 * MIB, 0, NULL);
    no_problem();
}
static void categories_have_names_and_budgets(void **state)
{
    (void)state;
    passes(use_categories, ENVIRONMENT("ACRE_TORCH_CATEGORIES=weights,cache:8M"));
    assert_non_null(strstr(said, "cache")); /* who ran out */
}

static void use_one_block(void)
{
    fake_start(false, false);
    void *block = acre_torch_alloc(512, 0, NULL);
    CHECK(block != NULL);
    acre_torch_free(block, 512, 0, NULL);
    CHECK(figure("budget_bytes") == 0);
    exit(0); /* so that what runs at exit runs */
}
static void wrong_options_are_named_and_passed_over(void **state)
{
    (void)state;
    passes(use_one_block, ENVIRONMENT("ACRE_TORCH_BUDGET=lots", "ACRE_TORCH_DELAY_MS=-1", "ACRE_TORCH_PAGE=2MB",
                                      "ACRE_TORCH_CATEGORIES=a,,b", "ACRE_TORCH_EMPTY=1G", "ACRE_TORCH_WAIT="));
    assert_non_null(strstr(said, "ACRE_TORCH_BUDGET=lots"));
    assert_non_null(strstr(said, "ACRE_TORCH_DELAY_MS=-1"));
    assert_non_null(strstr(said, "ACRE_TORCH_PAGE=2MB"));
    assert_non_null(strstr(said, "ACRE_TORCH_CATEGORIES=a,,b"));
    assert_null(strstr(said, "ACRE_TORCH_EMPTY"));
    assert_null(strstr(said, "ACRE_TORCH_WAIT"));
}

static void a_report_at_exit_if_asked(void **state)
{
    (void)state;
    passes(use_one_block, ENVIRONMENT("ACRE_TORCH_REPORT=1"));
    assert_non_null(strstr(said, "acre on CUDA device 0"));
    assert_non_null(strstr(said, "held peak"));
}

static void without_driver(void)
{
    CHECK(acre_torch_try_alloc(512, 0, NULL) == NULL);
    char json[256];
    size_t length = acre_torch_stats_json(json, sizeof json);
    CHECK(length == strlen(json) && strcmp(json, "{\"version\":1,\"devices\":[]}") == 0);
    CHECK(acre_torch_stats_json(NULL, 0) == length && acre_torch_trim(0, true) == 0);
    acre_torch_reset();
    acre_torch_record_stream(json, NULL);
}
static void no_driver_is_said_in_a_sentence(void **state)
{
    (void)state;
    passes(without_driver, ENVIRONMENT("ACRE_CUDA_DRIVER=/nonexistent/libcuda.so"));
    assert_non_null(strstr(said, "/nonexistent/libcuda.so"));
}

/* --- sleep and graphs ------------------------------------------------------------------------------------------- */

static void sleep_and_wake(void)
{
    fake_start(false, true);
    CHECK(acre_torch_sleep(1, true) == ACRE_INVALID_ARGUMENT && acre_torch_wake(1) == ACRE_INVALID_ARGUMENT);
    unsigned char *weights = acre_torch_alloc(3 * MIB, 0, NULL);
    acre_torch_set_category(1);
    unsigned char *rest = acre_torch_alloc(3 * MIB, 0, NULL);
    CHECK(weights && rest);
    for (ssize_t i = 0; i < 3 * MIB; i++) weights[i] = (unsigned char)(i * 7 >> 3);
    uint64_t awake = fake_used();
    CHECK(acre_torch_sleep(0, true) == ACRE_OK);
    CHECK(fake_used() + 3 * (uint64_t)MIB <= awake && figure("asleep_bytes") >= 3 * (uint64_t)MIB);
    CHECK(acre_torch_sleep(0, true) == ACRE_BUSY);
    CHECK(acre_torch_wake(0) == ACRE_OK && figure("asleep_bytes") == 0);
    for (ssize_t i = 0; i < 3 * MIB; i++) CHECK(weights[i] == (unsigned char)(i * 7 >> 3));
    CHECK(acre_torch_wake(0) == ACRE_OK); /* awake already */
    static const char *const calls[] = {"cuMemUnmap", "cuMemRelease", "cuMemCreate", "cuMemMap", "cuMemSetAccess"};
    for (size_t call = 0; call < sizeof calls / sizeof calls[0]; call++) {
        fake_fail(calls[call], 1, 2);
        int status = acre_torch_sleep(0, true); /* whatever it answers, nothing is lost */
        if (status == ACRE_OK && acre_torch_wake(0) != ACRE_OK) CHECK(acre_torch_wake(0) == ACRE_OK);
        fake_fail(NULL, 0, 0);
        CHECK(acre_torch_wake(0) == ACRE_OK && figure("asleep_bytes") == 0);
        for (ssize_t i = 0; i < 3 * MIB; i += 4096) CHECK(weights[i] == (unsigned char)(i * 7 >> 3));
    }
    CHECK(acre_torch_sleep(0, false) == ACRE_OK && acre_torch_wake(0) == ACRE_OK); /* contents are nobody's business */
    weights[0] = weights[3 * MIB - 1] = 1;
    acre_torch_free(weights, 3 * MIB, 0, NULL);
    acre_torch_free(rest, 3 * MIB, 0, NULL);
    no_problem();
}
static void what_sleeps_wakes_where_it_was(void **state)
{
    (void)state;
    passes(sleep_and_wake, ENVIRONMENT("ACRE_TORCH_CATEGORIES=weights!,rest"));
}

static bool apart(const void *a, const void *b, ssize_t bytes)
{
    return (const char *)a + bytes <= (const char *)b || (const char *)b + bytes <= (const char *)a;
}

static void capture_graphs(void)
{
    fake_start(false, false);
    void *stream = fake_stream(), *side = fake_stream();
    acre_torch_pool_id id = {1, 2};
    void *before = acre_torch_alloc(4 * MIB, 0, stream);
    acre_torch_begin_pool(0, id, NULL);
    void *not_captured = acre_torch_alloc(4 * MIB, 0, stream);
    fake_capture(stream, true);
    fake_capture(side, true);
    void *a = acre_torch_alloc(4 * MIB, 0, stream), *b = acre_torch_alloc(4 * MIB, 0, side);
    CHECK(before && not_captured && a && b);
    acre_torch_free(a, 4 * MIB, 0, stream);
    void *c = acre_torch_alloc(4 * MIB, 0, stream); /* within the capture memory is reused as ever */
    CHECK(c == a);
    acre_torch_free(c, 4 * MIB, 0, stream);
    acre_torch_free(b, 4 * MIB, 0, side);
    acre_torch_end_pool(0, id);
    fake_capture(stream, false);
    fake_capture(side, false);

    /* The graph may be launched at any time: nobody else gets its memory. */
    void *others[16];
    for (int i = 0; i < 16; i++) {
        others[i] = acre_torch_alloc(4 * MIB, 0, i % 2 ? stream : side);
        CHECK(others[i] && apart(others[i], a, 4 * MIB) && apart(others[i], b, 4 * MIB));
    }
    CHECK(acre_torch_trim(0, true) < 8 * (uint64_t)MIB || !"the graph's pages must stay");

    /* A second graph into the same pool uses what the first left. */
    acre_torch_begin_pool(0, id, NULL);
    fake_capture(side, true);
    uint64_t held = figure("held_bytes");
    void *again = acre_torch_alloc(4 * MIB, 0, side);
    CHECK(again && figure("held_bytes") == held);
    acre_torch_free(again, 4 * MIB, 0, side);
    acre_torch_end_pool(0, id);
    fake_capture(side, false);

    acre_torch_release_pool(0, id);
    acre_torch_trim(0, true);
    CHECK(figure("held_bytes") == held); /* one graph is left */
    acre_torch_release_pool(0, id);
    acre_torch_release_pool(0, id); /* once too often: nothing */
    acre_torch_trim(0, true);
    CHECK(figure("held_bytes") < held);
    for (int i = 0; i < 16; i++) acre_torch_free(others[i], 4 * MIB, 0, i % 2 ? stream : side);
    acre_torch_free(before, 4 * MIB, 0, stream);
    acre_torch_free(not_captured, 4 * MIB, 0, stream);
    acre_torch_trim(0, true);
    CHECK(figure("held_bytes") == 0);
    no_problem();
}
static void a_graph_keeps_its_memory_until_its_pool_is_released(void **state)
{
    (void)state;
    passes(capture_graphs, NULL);
}

/* --- threads ---------------------------------------------------------------------------------------------------- */

enum { THREADS = 4, SLOTS = 64, ROUNDS = 4000 };

static void *churn(void *argument)
{
    uint64_t seed = (uintptr_t)argument;
    void *stream = seed % 2 ? fake_stream() : NULL, *blocks[SLOTS] = {NULL};
    ssize_t sizes[SLOTS];
    for (int i = 0; i < ROUNDS; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        unsigned slot = (unsigned)(seed >> 33) % SLOTS;
        if (blocks[slot]) {
            if (seed >> 62 == 0) acre_torch_record_stream(blocks[slot], NULL);
            acre_torch_free(blocks[slot], sizes[slot], 0, stream);
            blocks[slot] = NULL;
            continue;
        }
        sizes[slot] = 1 + (ssize_t)(seed >> 40) % (1 << (8 + (seed >> 60) % 13));
        blocks[slot] = acre_torch_alloc(sizes[slot], 0, stream);
        CHECK(blocks[slot] != NULL);
        fake_block(blocks[slot], (uint64_t)sizes[slot]);
        fake_use(stream, blocks[slot], (uint64_t)sizes[slot]);
    }
    for (int i = 0; i < SLOTS; i++) acre_torch_free(blocks[i], sizes[i], 0, stream);
    return NULL;
}
static void use_threads(void)
{
    fake_start(false, false);
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)) == 0);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    CHECK(figure("requested_bytes") == 0 && figure("live_bytes") == 0);
    CHECK(figure("allocations") == figure("frees"));
    acre_torch_trim(0, true);
    CHECK(figure("held_bytes") == 0);
    no_problem();
}
static void threads_and_streams_do_not_meet(void **state)
{
    (void)state;
    passes(use_threads, NULL);
}

/* --- the library ------------------------------------------------------------------------------------------------ */

static const char *const exported[] = {
    "alloc", "try_alloc", "free", "init", "reset", "memory_fraction", "base_alloc", "record_stream", "begin_pool",
    "end_pool", "release_pool", "stats_json", "report_text", "last_shortage_text", "reset_peaks", "trim", "check",
    "set_category", "find_category", "sleep", "wake",
};

static void load_library(void)
{
    void *library = dlopen(library_path, RTLD_NOW | RTLD_LOCAL);
    if (!library) fprintf(stderr, "%s\n", dlerror());
    CHECK(library != NULL);
    for (size_t i = 0; i < sizeof exported / sizeof exported[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "acre_torch_%s", exported[i]);
        CHECK(dlsym(library, name) != NULL);
    }
    CHECK(!dlsym(library, "acre_cuda_create") && !dlsym(library, "acre_suballoc_create") && !dlsym(library, "_Znwm"));
    CHECK(dlsym(library, "malloc") == dlsym(RTLD_DEFAULT, "malloc")); /* not one of its own */
    fake_start(false, false);
    void *(*alloc)(ssize_t, int, void *);
    void (*release)(void *, ssize_t, int, void *);
    *(void **)&alloc = dlsym(library, "acre_torch_alloc");
    *(void **)&release = dlsym(library, "acre_torch_free");
    void *block = alloc(MIB, 0, NULL);
    CHECK(block != NULL);
    release(block, MIB, 0, NULL);
}
static void the_library_shows_its_own_names_only(void **state)
{
    (void)state;
    if (access(library_path, R_OK) != 0) skip(); /* sanitizer builds do without it */
    passes(load_library, NULL);
}

int main(void)
{
    ssize_t length = readlink("/proc/self/exe", folder, sizeof folder - 1);
    char *slash = length > 0 ? strrchr(folder, '/') : NULL;
    if (!slash) return 1;
    *slash = 0;
    snprintf(driver_path, sizeof driver_path, "%s/libfake_cuda.so", folder);
    snprintf(library_path, sizeof library_path, "%s/../libacre_torch.so", folder);
    if (access(driver_path, R_OK) != 0) {
        fprintf(stderr, "%s is not there\n", driver_path);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_get_memory_and_give_it_back),
        cmocka_unit_test(nothing_and_nonsense_are_told_apart),
        cmocka_unit_test(memory_is_reused_in_the_order_of_streams),
        cmocka_unit_test(the_block_of_a_view_is_found),
        cmocka_unit_test(out_of_memory_is_reported),
        cmocka_unit_test(out_of_memory_is_thrown_where_there_is_a_cxx_runtime),
        cmocka_unit_test(a_fraction_limits_and_an_empty_cache_is_empty),
        cmocka_unit_test(peaks_can_start_again),
        cmocka_unit_test(each_driver_call_may_fail),
        cmocka_unit_test(categories_have_names_and_budgets),
        cmocka_unit_test(wrong_options_are_named_and_passed_over),
        cmocka_unit_test(a_report_at_exit_if_asked),
        cmocka_unit_test(no_driver_is_said_in_a_sentence),
        cmocka_unit_test(what_sleeps_wakes_where_it_was),
        cmocka_unit_test(a_graph_keeps_its_memory_until_its_pool_is_released),
        cmocka_unit_test(threads_and_streams_do_not_meet),
        cmocka_unit_test(the_library_shows_its_own_names_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
