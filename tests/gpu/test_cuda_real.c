/* The same on a real driver, where there is one: blocks are written by the GPU's copy engine and read back, grow,
 * share, sleep and wake with their contents. Exit status 77 and a reason where there is no driver or no device. */
#include <dlfcn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "acre/cuda.h"
#include "base/bits.h"
#include "gpu/cuda_driver.h"

enum { SKIPPED = 77 };

static struct {
    CUresult (*stream_create)(CUstream *stream, unsigned flags);
    CUresult (*stream_destroy)(CUstream stream);
    CUresult (*stream_wait)(CUstream stream);
    CUresult (*fill)(CUdeviceptr address, unsigned value, size_t words, CUstream stream);
    CUresult (*copy_out)(void *to, CUdeviceptr from, size_t bytes);
    CUresult (*copy_in)(CUdeviceptr to, const void *from, size_t bytes);
    CUresult (*context_retain)(CUcontext *context, CUdevice device);
    CUresult (*context_push)(CUcontext context);
} cuda;

static acre_cuda *heap;
static unsigned checks;

#define CHECK(condition) check(condition, #condition, __LINE__)
static void check(bool yes, const char *what, int line)
{
    checks++;
    if (yes) return;
    acre_cuda_error error = {0};
    if (heap != NULL) acre_cuda_error_read(heap, &error);
    fprintf(stderr, "line %d: %s (driver: %s)\n", line, what, error.text);
    exit(1);
}

static void find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    if (symbol == NULL) {
        fprintf(stderr, "skipped: the driver has no %s\n", name);
        exit(SKIPPED);
    }
    memcpy(function, &symbol, sizeof symbol);
}

static CUdeviceptr address_of(const void *block) { return (CUdeviceptr)(uintptr_t)block; }

static void *alloc(uint64_t bytes, uint32_t flags, uint64_t room, CUstream stream)
{
    void *block = NULL;
    acre_cuda_request q = {.bytes = bytes, .flags = flags, .room_bytes = room, .stream = stream};
    CHECK(acre_cuda_alloc_request(heap, &q, &block) == ACRE_OK);
    return block;
}

static void fill(void *block, uint64_t offset, uint64_t bytes, unsigned value, CUstream stream)
{
    CHECK(cuda.fill(address_of(block) + offset, value, bytes / 4, stream) == CUDA_SUCCESS);
}

static void expect(const void *block, uint64_t offset, unsigned value, CUstream stream)
{
    unsigned word = ~value;
    CHECK(cuda.stream_wait(stream) == CUDA_SUCCESS);
    CHECK(cuda.copy_out(&word, address_of(block) + offset, sizeof word) == CUDA_SUCCESS);
    CHECK(word == value);
}

static void blocks_hold_what_is_written(CUstream s, CUstream t)
{
    enum { COUNT = 200 };
    void *blocks[COUNT];
    for (int round = 0; round < 20; round++) {
        for (unsigned i = 0; i < COUNT; i++) {
            uint64_t bytes = i % 10 == 0 ? 5 * MIB : 4096 + 512 * i;
            blocks[i] = alloc(bytes, 0, 0, i % 3 ? s : t);
            fill(blocks[i], 0, bytes, i, i % 3 ? s : t);
        }
        for (unsigned i = 0; i < COUNT; i += 7) expect(blocks[i], 4096, i, i % 3 ? s : t);
        for (unsigned i = 0; i < COUNT; i++) {
            if (i % 5 == 0) CHECK(acre_cuda_record_use(heap, blocks[i], s) == ACRE_OK);
            CHECK(acre_cuda_free(heap, blocks[i], i % 3 ? s : t) == ACRE_OK);
        }
        CHECK(acre_cuda_tick(heap) == ACRE_OK);
    }
}

static void a_block_grows_with_its_contents(CUstream s)
{
    char *block = alloc(3 * MIB, ACRE_CUDA_OWN_PAGES, 256 * MIB, s);
    fill(block, 0, 2 * MIB, 11, s);
    CHECK(acre_cuda_resize(heap, block, 200 * MIB) == ACRE_OK);
    fill(block, 150 * MIB, MIB, 22, s);
    expect(block, 0, 11, s);
    expect(block, 150 * MIB, 22, s);
    CHECK(acre_cuda_resize(heap, block, 4 * MIB) == ACRE_OK);
    expect(block, MIB, 11, s);
    CHECK(acre_cuda_free(heap, block, s) == ACRE_OK);
}

static void two_addresses_lead_to_one_page(CUstream s)
{
    acre_cuda_info info;
    CHECK(acre_cuda_info_read(heap, &info) == ACRE_OK);
    char *first = alloc(4 * info.page_bytes, ACRE_CUDA_OWN_PAGES, 0, s);
    void *view = NULL;
    fill(first, 0, 4 * info.page_bytes, 33, s);
    CHECK(acre_cuda_share(heap, first, info.page_bytes, info.page_bytes, 0, s, &view) == ACRE_OK);
    fill(view, 0, 4096, 44, s);
    expect(first, info.page_bytes, 44, s);
    CHECK(acre_cuda_free(heap, first, s) == ACRE_OK);
    expect(view, 0, 44, s);
    CHECK(acre_cuda_free(heap, view, s) == ACRE_OK);
}

static void an_exported_block_is_imported(CUstream s)
{
    void *block = NULL, *there = NULL;
    acre_cuda_request q = {.bytes = 3 * MIB, .flags = ACRE_CUDA_EXPORTABLE, .stream = s};
    acre_status status = acre_cuda_alloc_request(heap, &q, &block);
    if (status == ACRE_NOT_SUPPORTED) return;
    CHECK(status == ACRE_OK);
    int fd = -1;
    CHECK(acre_cuda_export(heap, block, &fd) == ACRE_OK);
    CHECK(acre_cuda_import(heap, fd, 3 * MIB, 0, &there) == ACRE_OK);
    close(fd);
    fill(there, 0, 4096, 55, s);
    expect(block, 0, 55, s);
    CHECK(acre_cuda_free(heap, there, s) == ACRE_OK);
    CHECK(acre_cuda_free(heap, block, s) == ACRE_OK);
}

static unsigned saved[64];

static bool save(void *context, void *block, uint64_t bytes, void *stream)
{
    unsigned *count = context;
    (void)bytes;
    (void)stream;
    return *count < 64 && cuda.copy_out(&saved[(*count)++], address_of(block), 4) == CUDA_SUCCESS;
}

static bool restore(void *context, void *block, uint64_t bytes, void *stream)
{
    unsigned *count = context;
    (void)bytes;
    (void)stream;
    return cuda.copy_in(address_of(block), &saved[(*count)++], 4) == CUDA_SUCCESS;
}

static void a_category_sleeps_and_wakes(CUstream s)
{
    void *blocks[10];
    for (unsigned i = 0; i < 10; i++) {
        blocks[i] = alloc((i + 1) * MIB, 0, 0, s);
        fill(blocks[i], 0, MIB, 100 + i, s);
    }
    unsigned out = 0, in = 0;
    acre_cuda_info info;
    CHECK(acre_cuda_sleep(heap, 0, save, &out) == ACRE_OK);
    CHECK(acre_cuda_trim(heap, 0, true, NULL) == ACRE_OK);
    CHECK(acre_cuda_info_read(heap, &info) == ACRE_OK);
    CHECK(info.heap.held_bytes == 0);
    CHECK(acre_cuda_wake(heap, 0, restore, &in) == ACRE_OK);
    CHECK(out == 10 && in == 10);
    for (unsigned i = 0; i < 10; i++) {
        expect(blocks[i], 0, 100 + i, s);
        CHECK(acre_cuda_free(heap, blocks[i], s) == ACRE_OK);
    }
}

static void memory_runs_out_with_a_report(CUstream s)
{
    acre_cuda_info info;
    CHECK(acre_cuda_info_read(heap, &info) == ACRE_OK);
    void *block = NULL;
    CHECK(acre_cuda_alloc(heap, info.device_bytes + 16 * MIB, 0, 0, s, &block) == ACRE_NO_MEMORY);
    acre_gpu_shortage shortage;
    CHECK(acre_cuda_shortage_read(heap, &shortage) == ACRE_OK);
    CHECK(shortage.status == ACRE_NO_MEMORY && shortage.driver_result == CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(acre_cuda_alloc(heap, MIB, 0, 0, s, &block) == ACRE_OK);
    CHECK(acre_cuda_free(heap, block, s) == ACRE_OK);
}

int main(void)
{
    acre_cuda_error why;
    const char *name = getenv("ACRE_TEST_CUDA"); /* or the fake one, which shows that the test itself is right */
    if (name == NULL) name = "libcuda.so.1";
    acre_status status = acre_cuda_create(&(acre_cuda_options){.library = name}, &heap, &why);
    if (status != ACRE_OK) {
        printf("skipped: %s\n", why.text);
        return status == ACRE_NOT_SUPPORTED ? SKIPPED : 1;
    }
    void *library = dlopen(name, RTLD_NOW);
    find(library, "cuStreamCreate", &cuda.stream_create);
    find(library, "cuStreamDestroy_v2", &cuda.stream_destroy);
    find(library, "cuStreamSynchronize", &cuda.stream_wait);
    find(library, "cuMemsetD32Async", &cuda.fill);
    find(library, "cuMemcpyDtoH_v2", &cuda.copy_out);
    find(library, "cuMemcpyHtoD_v2", &cuda.copy_in);
    find(library, "cuDevicePrimaryCtxRetain", &cuda.context_retain);
    find(library, "cuCtxPushCurrent_v2", &cuda.context_push);
    CUcontext context;
    CUstream s, t;
    CHECK(cuda.context_retain(&context, 0) == CUDA_SUCCESS);
    CHECK(cuda.context_push(context) == CUDA_SUCCESS);
    CHECK(cuda.stream_create(&s, 1) == CUDA_SUCCESS); /* 1: not ordered with the default stream */
    CHECK(cuda.stream_create(&t, 1) == CUDA_SUCCESS);
    blocks_hold_what_is_written(s, t);
    a_block_grows_with_its_contents(s);
    two_addresses_lead_to_one_page(s);
    an_exported_block_is_imported(s);
    a_category_sleeps_and_wakes(s);
    memory_runs_out_with_a_report(s);
    const char *wrong = acre_cuda_check(heap);
    if (wrong != NULL) fprintf(stderr, "%s\n", wrong);
    CHECK(wrong == NULL);
    CHECK(acre_cuda_stream_done(heap, t) == ACRE_OK);
    CHECK(cuda.stream_destroy(t) == CUDA_SUCCESS);
    acre_cuda_destroy(heap);
    heap = NULL;
    printf("%u checks on %s\n", checks, name);
    return 0;
}
