/* bench.h: what the workloads of this folder share. A workload is a plain program on malloc and free; LD_PRELOAD
 * decides whose they are. So nothing here may prefer an allocator, and nothing here may cost enough to hide one:
 *   - numbers are pseudo-random from a fixed seed, sizes come from a table of 16 KiB drawn before the clock starts;
 *   - what the workload itself needs (tables of pointers) is mapped by bench_map, not allocated: the heap holds the
 *     workload's blocks and nothing else;
 *   - bench_fill, bench_touch and bench_read stand for what programs do to memory: write a new object once, write a
 *     word to each OS page, look at an object before it goes.
 * A workload prints one line: `ops N seconds S ns_per_op X`, then pairs of a key and a number, all on that line. The
 * first argument of every workload is its scale, 1 by default; more arguments are said in its essay. */
#ifndef ACRE_BENCH_H
#define ACRE_BENCH_H

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#define BENCH_KIB ((size_t)1 << 10)
#define BENCH_MIB ((size_t)1 << 20)

enum { BENCH_SIZES = 1 << 12, BENCH_OS_PAGE = 4096, BENCH_LINE = 64 };

static inline _Noreturn void bench_fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "failed");
    exit(1);
}

/* --- arguments -------------------------------------------------------------------------------------------------- */

static inline double bench_scale(int argc, char **argv)
{
    double scale = argc > 1 ? atof(argv[1]) : 1;
    if (!(scale > 0)) bench_fail("the scale (first argument) is not above 0");
    return scale;
}

static inline size_t bench_count(int argc, char **argv, int index, size_t otherwise)
{
    return argc > index ? strtoull(argv[index], NULL, 0) : otherwise;
}

/* At least one, so that a small scale still does something. */
static inline size_t bench_scaled(double scale, size_t count)
{
    double scaled = scale * (double)count;
    return scaled < 1 ? 1 : (size_t)scaled;
}

/* --- time ------------------------------------------------------------------------------------------------------- */

static inline uint64_t bench_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void bench_sleep_ms(unsigned ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) continue;
}

/* A counter that is cheap to read: cycles of the time stamp counter where there is one, nanoseconds elsewhere. The
 * fence keeps what is measured from leaking over the edge. */
static inline uint64_t bench_ticks(void)
{
#if defined(__x86_64__)
    _mm_lfence();
    uint64_t ticks = __rdtsc();
    _mm_lfence();
    return ticks;
#else
    return bench_now_ns();
#endif
}

static inline double bench_ns_per_tick(void)
{
    uint64_t begin_ns = bench_now_ns(), begin = bench_ticks();
    while (bench_now_ns() - begin_ns < 50000000) continue;
    return (double)(bench_now_ns() - begin_ns) / (double)(bench_ticks() - begin);
}

/* --- numbers and sizes ------------------------------------------------------------------------------------------ */

typedef struct bench_random {
    uint64_t state;
} bench_random;

/* Streams of neighbouring seeds have nothing in common. */
static inline bench_random bench_seed(uint64_t seed)
{
    uint64_t x = seed * 0x9E3779B97F4A7C15u + 0x2545F4914F6CDD1Du;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return (bench_random){(x ^ x >> 31) | 1};
}

static inline uint64_t bench_next(bench_random *random)
{
    uint64_t x = random->state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    random->state = x;
    return x;
}

/* Below limit, which is below 2^32. */
static inline uint32_t bench_below(bench_random *random, uint32_t limit)
{
    return (uint32_t)((bench_next(random) >> 32) * limit >> 32);
}

/* min to max; each doubling is as likely as the next. */
static inline size_t bench_log_uniform(bench_random *random, size_t min, size_t max)
{
    double unit = (double)(bench_next(random) >> 11) * 0x1p-53;
    double size = (double)min * exp2(unit * log2((double)max / (double)min));
    return size > (double)max ? max : (size_t)size;
}

typedef struct bench_sizes {
    uint32_t size[BENCH_SIZES];
} bench_sizes;

static inline void bench_sizes_log_uniform(bench_sizes *sizes, uint64_t seed, size_t min, size_t max)
{
    bench_random random = bench_seed(seed);
    for (int i = 0; i < BENCH_SIZES; i++) sizes->size[i] = (uint32_t)bench_log_uniform(&random, min, max);
}

static inline size_t bench_size(const bench_sizes *sizes, bench_random *random)
{
    return sizes->size[bench_next(random) >> 52 & (BENCH_SIZES - 1)];
}

static inline void bench_shuffle(void **array, size_t count, bench_random *random)
{
    for (size_t i = count; i > 1; i--) {
        size_t k = bench_below(random, (uint32_t)i);
        void *other = array[k];
        array[k] = array[i - 1];
        array[i - 1] = other;
    }
}

/* --- memory ----------------------------------------------------------------------------------------------------- */

static inline void *bench_map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) bench_fail("mmap");
    return p;
}

static inline void *bench_malloc(size_t size)
{
    void *p = malloc(size);
    if (p == NULL) bench_fail("malloc");
    return p;
}

/* The compiler takes it that p is looked at. */
static inline void bench_keep(void *p) { __asm__ volatile("" : : "r"(p) : "memory"); }

/* What a constructor or a read from a file does. */
static inline void bench_fill(void *p, size_t size, int byte)
{
    memset(p, byte, size);
    bench_keep(p);
}

/* One byte in each OS page: what makes memory resident and little else. */
static inline void bench_touch(void *p, size_t size)
{
    volatile char *byte = p;
    for (size_t i = 0; i < size; i += BENCH_OS_PAGE) byte[i] = (char)i;
}

/* A destructor reads what it tears down: the first and the last byte. */
static inline unsigned bench_read(const void *p, size_t size)
{
    const volatile unsigned char *byte = p;
    return byte[0] + (unsigned)byte[size - 1];
}

/* Resident bytes of this process by /proc/self/statm; no stdio, which would allocate. */
static inline size_t bench_resident(void)
{
    char text[128];
    int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (file < 0) bench_fail("/proc/self/statm");
    ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    if (got <= 0) bench_fail("/proc/self/statm");
    text[got] = 0;
    char *resident = strchr(text, ' ');
    if (resident == NULL) bench_fail("/proc/self/statm");
    return strtoull(resident, NULL, 10) * (size_t)sysconf(_SC_PAGESIZE);
}

/* --- threads ---------------------------------------------------------------------------------------------------- */

static inline pthread_t bench_start(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    errno = pthread_create(&thread, NULL, run, argument);
    if (errno != 0) bench_fail("pthread_create");
    return thread;
}

/* --- the line --------------------------------------------------------------------------------------------------- */

static inline void bench_print(uint64_t ops, uint64_t elapsed_ns)
{
    printf("ops %llu seconds %.6f ns_per_op %.3f", (unsigned long long)ops, (double)elapsed_ns / 1e9,
           (double)elapsed_ns / (double)ops);
}

__attribute__((format(printf, 2, 3))) static inline void bench_pair(double value, const char *key, ...)
{
    va_list arguments;
    va_start(arguments, key);
    putchar(' ');
    vprintf(key, arguments);
    va_end(arguments);
    printf(" %.6g", value);
}

static inline void bench_end(void) { putchar('\n'); }

#endif
