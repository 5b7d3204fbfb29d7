/* fake_cuda: a CUDA driver without a GPU, that watches how it is used.
 *
 * The functions of fake_cuda.c have the names that libcuda exports. A test links them and hands them to acre with
 * fake_cuda_symbol; build/tests/libfake_cuda.so is the same as a library, for programs that load one
 * (ACRE_CUDA_DRIVER).
 *
 * Memory is counted, and mapped into nothing (or, with `backed`, at real addresses that a program may touch). Streams
 * are queues. fake_cuda_use says "a kernel on this stream uses these bytes"; it is executed when the test moves the
 * stream (manual), or at once. A clock per stream knows what is ordered after what: recorded events, waits, and what
 * the host has seen done.
 *
 * The checker counts problems and keeps the first as a sentence:
 *   mapping what is mapped, outside of reserved addresses, or beyond a handle; unmapping a part of a mapping, or what
 *   a kernel uses that the host has not seen done; a kernel on bytes that are not mapped with access; releasing
 *   twice; freeing addresses with mappings; calls without a current context; an event recorded on a stream that is
 *   being captured, or an unsafe call during a capture; a new block (fake_cuda_block) used by a kernel that is not
 *   ordered after a kernel that used the old block there. fake_cuda_stop adds what was not given back. */
#ifndef ACRE_TEST_FAKE_CUDA_H
#define ACRE_TEST_FAKE_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fake_cuda_options {
    uint64_t device_bytes; /* 0 = 1 GiB */
    uint64_t granularity;  /* 0 = 2 MiB */
    uint64_t address_bytes; /* that can be reserved; 0 = 256 TiB (backed: 16 TiB) */
    int device_count;      /* 0 = 1 */
    bool manual;           /* streams move by fake_cuda_run and by waiting; else kernels are done when launched */
    bool backed;           /* addresses are real, memory is memfd: contents can be looked at */
    bool latency;          /* of an A100, as measured per 2 MiB: create 193 us, map 1.5, set access 36, unmap 26 */
    bool quiet;            /* problems are expected: stop says nothing of them */
    bool no_virtual_memory, no_file_handles; /* what the device says of itself */
} fake_cuda_options;

/* Forgets everything, then starts anew. NULL: defaults. */
void fake_cuda_start(const fake_cuda_options *options);
/* Adds leaks to the problems, and returns how many there were. */
uint64_t fake_cuda_stop(void);
/* The first problem; NULL: none. */
const char *fake_cuda_problem(void);
uint64_t fake_cuda_problems(void);

/* acre_cuda_options.symbol; context: NULL, or the name of a function to leave out. */
void *fake_cuda_symbol(void *context, const char *name);

void *fake_cuda_stream(void);
void fake_cuda_stream_destroy(void *stream);
/* A new block begins here: what used the bytes before was of an older one. */
void fake_cuda_block(const void *address, uint64_t bytes);
/* A kernel. Any stream but NULL has to be one of fake_cuda_stream. */
void fake_cuda_use(void *stream, const void *address, uint64_t bytes);
/* Executes up to `count` operations of the stream (UINT64_MAX: all, waiting for others where it has to). */
void fake_cuda_run(void *stream, uint64_t count);
void fake_cuda_run_all(void);
/* Runs all, and the host has seen it. */
void fake_cuda_synchronize(void);
/* What `then` is given from now on comes after what `first` was given, as with an event and a wait. */
void fake_cuda_order(void *first, void *then);
void fake_cuda_capture(void *stream, bool on);

/* The n-th call (1 = next) of this function (NULL: of any that can fail) answers `result`, once. 0: none. */
void fake_cuda_fail(const char *name, uint64_t nth, int result);
/* Calls so far; NULL: of all that can fail. */
uint64_t fake_cuda_calls(const char *name);
/* True if the failure that was asked for has happened; *name: of which function (may be NULL). */
bool fake_cuda_failed(const char **name);

uint64_t fake_cuda_used_bytes(void);
uint64_t fake_cuda_mapped_bytes(void);
/* Bytes of the range that are mapped with access. */
uint64_t fake_cuda_accessible(const void *address, uint64_t bytes);
/* Devices that may use the byte. */
unsigned fake_cuda_devices(const void *address);
/* Two addresses lead to the same byte. */
bool fake_cuda_same(const void *a, const void *b);

#endif
