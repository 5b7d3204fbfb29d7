/* probe: small tools that tests share: look at memory without touching it, run something in a child, fail loudly.
 *
 * Everything is static inline, so that unit tests and the programs of faults/ can use it without a library. CHECK is
 * for places where cmocka's assertions do not work: children, threads, plain programs. */
#ifndef ACRE_TESTS_PROBE_H
#define ACRE_TESTS_PROBE_H

#ifndef _GNU_SOURCE
#error "define _GNU_SOURCE before the first include"
#endif
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PROBE_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PROBE_SANITIZED 1
#endif
#endif
#ifndef PROBE_SANITIZED
#define PROBE_SANITIZED 0
#endif
#if defined(__SANITIZE_THREAD__)
#define PROBE_TSAN 1
#else
#define PROBE_TSAN 0
#endif

enum { PROBE_SKIPPED = 77 };

/* Ends the process with status 1 when the condition does not hold. Allocates nothing. */
#define CHECK(condition) probe_check(condition, #condition, __FILE__, __LINE__)
static inline void probe_check(bool holds, const char *text, const char *file, int line)
{
    if (holds) return;
    dprintf(2, "%s:%d: does not hold: %s (errno %d)\n", file, line, text, errno);
    _exit(1);
}

/* xorshift64*; *state != 0 */
static inline uint64_t probe_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545F4914F6CDD1Du;
}

/* Bytes of [address, address + bytes) that have memory behind them, by mincore. address: a multiple of 4 KiB. Memory
 * that is not mapped counts as none. */
static inline size_t probe_resident(const void *address, size_t bytes)
{
    enum { OS_PAGE = 4096, AT_ONCE = 4096 };
    static _Thread_local unsigned char present[AT_ONCE];
    size_t resident = 0;
    for (size_t at = 0; at < bytes;) {
        size_t piece = bytes - at < (size_t)AT_ONCE * OS_PAGE ? bytes - at : (size_t)AT_ONCE * OS_PAGE;
        if (mincore((char *)(uintptr_t)address + at, piece, present) == 0)
            for (size_t i = 0; i < (piece + OS_PAGE - 1) / OS_PAGE; i++) resident += present[i] & 1 ? OS_PAGE : 0;
        at += piece;
    }
    return resident;
}

/* Memory may lie behind several addresses: the compiler must not think that it knows what is there. */
static inline bool probe_all_bytes(const void *p, int value, size_t bytes)
{
    const unsigned char *b = p;
    __asm__ volatile("" ::: "memory");
    return bytes == 0 || (b[0] == (unsigned char)value && memcmp(b, b + 1, bytes - 1) == 0);
}

/* A pattern that depends on `seed` and the position; sparse, so that big blocks are quick. */
static inline void probe_stamp(void *p, size_t bytes, uint64_t seed)
{
    unsigned char *b = p;
    size_t step = bytes <= 4096 ? 1 : 1 + bytes / 512;
    for (size_t i = 0; i < bytes; i += step) b[i] = (unsigned char)(seed * 131 + i * 7 + (i >> 8));
    if (bytes) b[bytes - 1] = (unsigned char)(seed * 17 + 3);
}
/* Of a block that was stamped with `stamped` bytes: are the first `bytes` as they should be? */
static inline bool probe_stamped(const void *p, size_t stamped, size_t bytes, uint64_t seed)
{
    const unsigned char *b = p;
    size_t step = stamped <= 4096 ? 1 : 1 + stamped / 512;
    for (size_t i = 0; i < bytes && i + 1 < stamped; i += step)
        if (b[i] != (unsigned char)(seed * 131 + i * 7 + (i >> 8))) return false;
    return bytes < stamped || stamped == 0 || b[stamped - 1] == (unsigned char)(seed * 17 + 3);
}

/* cmocka catches signals, and goes on in the next test: not in a child. */
static inline void probe_default_signals(void)
{
    const int caught[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGSYS};
    for (size_t i = 0; i < sizeof caught / sizeof *caught; i++) signal(caught[i], SIG_DFL);
}

/* Runs body in a child of its own and returns what waitpid says; 0: it came to its end. */
static inline int probe_in_child(void (*body)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        probe_default_signals();
        body();
        _exit(0);
    }
    int status = -1;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    return status;
}

/* Runs body in a child: does it die of SIGABRT, having said `text` on standard error? */
static inline bool probe_aborts(void (*body)(void), const char *text)
{
    int ends[2];
    if (pipe(ends) != 0) return false;
    pid_t pid = fork();
    if (pid == 0) {
        probe_default_signals();
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        body();
        _exit(0);
    }
    close(ends[1]);
    char said[1024];
    size_t n = 0;
    const size_t room = sizeof said - 1;
    for (ssize_t got; n < room && (got = read(ends[0], said + n, room - n)) > 0;) n += (size_t)got;
    said[n] = 0;
    close(ends[0]);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    bool aborted = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strstr(said, text) != NULL;
    if (!aborted) dprintf(2, "expected SIGABRT and \"%s\", got wait status %#x and \"%s\"\n", text, status, said);
    return aborted;
}

#endif
