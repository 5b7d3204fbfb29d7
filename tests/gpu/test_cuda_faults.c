/* Each driver call fails once. A program that uses everything runs once to count the calls; then again for every n,
 * with the n-th call failing: each status is one that the header names, the failed call's name can be read, the
 * tables hold, and at the end the driver has everything back. The same for the system's memory, which holds the
 * bookkeeping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "acre/cuda.h"
#include "base/bits.h"
#include "fake_cuda.h"
#include "fake_os.h"
#include "page/arena.h"

enum { UNKNOWN = 999, OUT_OF_MEMORY = 2 };

static acre_cuda *heap;
static unsigned failures; /* calls of acre that did not return OK */
static bool os_fails;     /* it is the system's memory that runs out, not the device's */
static bool seen;         /* the failure has happened, and the tables were checked after it */

/* Any answer will do that says what happened; the heap is whole after it. */
static bool fine(acre_status status)
{
    bool failed = fake_cuda_failed(NULL);
    if (failed != seen) { /* in this call */
        seen = failed;
        const char *wrong = heap != NULL ? acre_cuda_check(heap) : NULL;
        if (wrong != NULL) fail_msg("%s", wrong);
    }
    if (fake_cuda_problem() != NULL) fail_msg("%s", fake_cuda_problem());
    if (status == ACRE_OK) return true;
    failures++;
    assert_true(status == ACRE_NO_MEMORY || status == ACRE_SYSTEM || status == ACRE_BUSY);
    if (os_fails) return false;
    const char *name;
    acre_cuda_error error;
    assert_true(fake_cuda_failed(&name));
    if (heap == NULL || status == ACRE_BUSY) return false;
    assert_int_equal(acre_cuda_error_read(heap, &error), ACRE_OK);
    /* Or memory is short in earnest, since a block that should be free is not. */
    if (strcmp(error.driver_call, "cuMemCreate") != 0) assert_string_equal(error.driver_call, name);
    assert_non_null(strstr(error.text, error.driver_call));
    return false;
}

static void *alloc(uint64_t bytes, uint32_t flags, uint32_t category, void *stream)
{
    void *block = NULL;
    acre_cuda_request q = {.bytes = bytes, .flags = flags, .category = category, .stream = stream};
    if (!fine(acre_cuda_alloc_request(heap, &q, &block))) return NULL;
    assert_int_equal(fake_cuda_accessible(block, bytes), bytes);
    fake_cuda_block(block, bytes);
    fake_cuda_use(stream, block, bytes);
    return block;
}

/* May have to be said twice: a driver that does not answer keeps the block as it was. */
static void release(void *block, void *stream)
{
    if (block == NULL) return;
    if (!fine(acre_cuda_free(heap, block, stream))) assert_true(fine(acre_cuda_free(heap, block, stream)));
}

static bool keep(void *context, void *block, uint64_t bytes, void *stream)
{
    (void)context;
    (void)stream;
    return fake_cuda_accessible(block, bytes) == bytes;
}

static void nap(uint32_t category)
{
    acre_status status = acre_cuda_sleep(heap, category, keep, NULL);
    bool asleep = fine(status);
    if (!asleep) { /* it sleeps with memory that could not be given back, or it does not */
        void *probe = NULL;
        asleep = acre_cuda_alloc(heap, 1, 0, category, NULL, &probe) == ACRE_BUSY;
        if (probe != NULL) release(probe, NULL);
    }
    if (!asleep) return;
    for (int tries = 0; !fine(acre_cuda_wake(heap, category, keep, NULL)); tries++) assert_true(tries < 2);
}

static void use_own_pages(void *s)
{
    void *own = alloc(6 * MIB, ACRE_CUDA_OWN_PAGES, 0, s), *view = NULL;
    if (own != NULL && fine(acre_cuda_resize(heap, own, 20 * MIB))) fine(acre_cuda_resize(heap, own, 10 * MIB));
    if (own != NULL && !fine(acre_cuda_share(heap, own, 0, 4 * MIB, 0, s, &view))) view = NULL;
    release(own, s);
    release(view, s);
}

static void use_exports(void *s)
{
    void *block = alloc(3 * MIB, ACRE_CUDA_EXPORTABLE, 0, s), *there = NULL;
    int fd = -1;
    if (block != NULL && fine(acre_cuda_export(heap, block, &fd))) {
        if (!fine(acre_cuda_import(heap, fd, 3 * MIB, 0, &there))) there = NULL;
        close(fd);
    }
    release(there, s);
    release(block, s);
}

static void use_capture(void *s)
{
    uint64_t capture = 0;
    if (!fine(acre_cuda_capture_begin(heap, s, &capture))) return;
    fake_cuda_capture(s, true);
    void *block = NULL;
    if (fine(acre_cuda_alloc(heap, 9 * MIB, 0, 0, s, &block))) release(block, s);
    fake_cuda_capture(s, false);
    assert_int_equal(acre_cuda_capture_end(heap, capture), ACRE_OK);
    fake_cuda_synchronize();
    assert_int_equal(acre_cuda_capture_release(heap, capture), ACRE_OK);
}

static void use_everything(void)
{
    static const acre_gpu_category rows[] = {{.name = "shared"}, {.name = "sleeps"}};
    acre_cuda_options o = {.symbol = fake_cuda_symbol, .categories = rows, .category_count = 2, .own_lanes = 2};
    void *s = fake_cuda_stream(), *t = fake_cuda_stream();
    acre_cuda_error why;
    acre_status status = acre_cuda_create(&o, &heap, &why);
    if (status != ACRE_OK) {
        heap = NULL;
        failures++;
        if (os_fails) return;
        const char *name;
        assert_true(fake_cuda_failed(&name));
        assert_int_equal(why.status, status);
        assert_string_equal(why.driver_call, name);
        assert_non_null(strstr(why.text, name));
        return;
    }
    void *a = alloc(100 * KIB, 0, 0, s), *b = alloc(40 * MIB, 0, 0, s), *c = alloc(5 * MIB, 0, 1, s);
    void *d = alloc(300, 0, 1, t);
    if (b != NULL) fine(acre_cuda_resize(heap, b, 44 * MIB));
    if (b != NULL) fine(acre_cuda_record_use(heap, b, t));
    release(a, s);
    release(b, s);
    fine(acre_cuda_tick(heap));
    void *e = alloc(100 * MIB, 0, 0, t); /* all there is: pages move, and are waited for */
    nap(1);
    release(e, t);
    use_own_pages(s);
    use_exports(t);
    use_capture(s);
    release(c, s);
    release(d, s);
    fine(acre_cuda_trim(heap, 0, true, NULL));
    fine(acre_cuda_stream_done(heap, t));
}

static size_t bookkeeping_bytes(void)
{
    size_t used, held;
    arena_usage(&used, &held);
    return used;
}

static void run(uint64_t nth, int result, const char *only)
{
    size_t before = bookkeeping_bytes();
    fake_cuda_start(&(fake_cuda_options){.manual = true, .device_bytes = 128 * MIB});
    fake_cuda_fail(only, nth, result);
    failures = 0;
    seen = false;
    use_everything();
    const char *name = NULL;
    bool failed = fake_cuda_failed(&name);
    const char *wrong = heap != NULL ? acre_cuda_check(heap) : NULL;
    if (wrong != NULL) fail_msg("call %u, %s: %s", (unsigned)nth, name != NULL ? name : "none", wrong);
    acre_cuda_destroy(heap);
    heap = NULL;
    if (fake_cuda_stop() != 0) fail_msg("call %u, %s", (unsigned)nth, name != NULL ? name : "none");
    if (!failed && !os_fails) assert_int_equal(failures, 0);
    if (bookkeeping_bytes() != before) fail_msg("call %u, %s: bookkeeping leaks", (unsigned)nth, name);
}

static uint64_t count_calls(const char *only)
{
    run(0, 0, NULL);
    seen = false;
    fake_cuda_start(&(fake_cuda_options){.manual = true, .device_bytes = 128 * MIB});
    use_everything();
    acre_cuda_destroy(heap);
    heap = NULL;
    return fake_cuda_calls(only);
}

static void every_call_may_fail(void **state)
{
    (void)state;
    uint64_t calls = count_calls(NULL);
    print_message("%u driver calls\n", (unsigned)calls);
    assert_true(calls > 300);
    for (uint64_t n = 1; n <= calls + 5; n++) run(n, UNKNOWN, NULL);
}

static void every_call_may_say_that_memory_is_out(void **state)
{
    (void)state;
    uint64_t calls = count_calls(NULL);
    for (uint64_t n = 1; n <= calls + 5; n++) run(n, OUT_OF_MEMORY, NULL);
}

/* Which of them was it: each kind of call is met. */
static void every_kind_of_call_is_met(void **state)
{
    (void)state;
    static const char *const names[] = {
        "cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetAttribute", "cuDeviceTotalMem_v2",
        "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2", "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2",
        "cuMemGetAllocationGranularity", "cuMemAddressReserve", "cuMemAddressFree", "cuMemCreate", "cuMemRelease",
        "cuMemMap", "cuMemUnmap", "cuMemSetAccess", "cuMemExportToShareableHandle", "cuMemImportFromShareableHandle",
        "cuEventCreate", "cuEventRecord", "cuEventQuery", "cuEventSynchronize", "cuEventDestroy_v2",
        "cuStreamIsCapturing", "cuThreadExchangeStreamCaptureMode"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        uint64_t calls = count_calls(names[i]);
        if (calls == 0) fail_msg("%s is never called", names[i]);
        run(1, UNKNOWN, names[i]);
        run(calls, UNKNOWN, names[i]);
    }
}

static void the_system_may_have_no_memory(void **state)
{
    (void)state;
    fake_os_install();
    os_fails = true;
    run(0, 0, NULL);
    uint64_t calls = fake_os_count(FAKE_ANY);
    assert_true(calls > 50);
    size_t reserved = 0;
    for (uint64_t n = 1; n <= calls + 1; n++) {
        fake_os_fail(FAKE_ANY, n, false);
        run(0, 0, NULL);
        fake_os_heal();
        /* Chunks of the arena stay; ranges and tables do not. */
        if (n > 1 && fake_os_reserved_bytes() > reserved + 2 * MIB) fail_msg("call %u: addresses leak", (unsigned)n);
        reserved = fake_os_reserved_bytes();
    }
    assert_true(fake_os_failures() > 50);
    os_fails = false;
    fake_os_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_call_may_fail),
        cmocka_unit_test(every_call_may_say_that_memory_is_out),
        cmocka_unit_test(every_kind_of_call_is_met),
        cmocka_unit_test(the_system_may_have_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
