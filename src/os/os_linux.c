/* os_linux: the contract of os.h on Linux.
 *
 * Two ways to hold address space, chosen once by os_init:
 *   free      one readable, writable MAP_NORESERVE mapping. Commit does nothing, decommit is MADV_DONTNEED. A mapping
 *             is never split, so the 65,530 VMAs that a process may have are never an issue.
 *   charged   overcommit = 2 or a limit on data (RLIMIT_DATA) counts writable private mappings whether touched or not.
 *             There the range is reserved PROT_NONE, commit is mprotect, decommit maps fresh PROT_NONE memory over it
 *             (mprotect alone would leave the charge). Callers commit in large pieces to keep the VMAs few.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "os/lock.h"

static size_t page_bytes = 4096;
static bool charged;

/* Reads a small file of /proc or /sys into text; "" when there is none. */
static void read_small_file(const char *path, char *text, size_t text_bytes)
{
    int saved = errno;
    text[0] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t n = read(fd, text, text_bytes - 1);
        text[n > 0 ? n : 0] = 0;
        close(fd);
    }
    errno = saved;
}

static bool limit_of(__rlimit_resource_t resource, size_t *limit)
{
    struct rlimit r;
    if (getrlimit(resource, &r) != 0 || r.rlim_cur == RLIM_INFINITY) return false;
    *limit = (size_t)r.rlim_cur;
    return true;
}

void os_init(void)
{
    static _Atomic bool done;
    if (atomic_load_explicit(&done, memory_order_acquire)) return;
    long page = sysconf(_SC_PAGESIZE);
    if (page > 0) page_bytes = (size_t)page;
    char text[16];
    size_t unused;
    read_small_file("/proc/sys/vm/overcommit_memory", text, sizeof text);
    charged = text[0] == '2' || limit_of(RLIMIT_DATA, &unused);
    atomic_store_explicit(&done, true, memory_order_release);
}

size_t os_page_bytes(void) { return page_bytes; }
bool os_commit_is_charged(void) { return charged; }

size_t os_address_space_left(void)
{
    size_t limit;
    if (!limit_of(RLIMIT_AS, &limit)) return SIZE_MAX;
    char text[64];
    read_small_file("/proc/self/statm", text, sizeof text);
    size_t used = (size_t)strtoull(text, NULL, 10) * page_bytes;
    return used < limit ? limit - used : 0;
}

size_t os_memory_bytes(void)
{
    struct sysinfo info;
    size_t machine = sysinfo(&info) == 0 ? (size_t)info.totalram * info.mem_unit : SIZE_MAX;
    char text[32];
    read_small_file("/sys/fs/cgroup/memory.max", text, sizeof text);
    if (text[0] >= '0' && text[0] <= '9') {
        size_t group = (size_t)strtoull(text, NULL, 10);
        if (group < machine) return group;
    }
    return machine;
}

/* --- memory ---------------------------------------------------------------------------------------------------- */

static int reserve_protection(void) { return charged ? PROT_NONE : PROT_READ | PROT_WRITE; }

static void *linux_reserve(size_t bytes, size_t align)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (align < page_bytes) align = page_bytes;
    if (bytes == 0 || bytes > SIZE_MAX / 2 || align > SIZE_MAX / 4) {
        errno = ENOMEM;
        return NULL;
    }
    char *p = mmap(NULL, bytes, reserve_protection(), flags, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (((uintptr_t)p & (align - 1)) == 0) return p;
    munmap(p, bytes);
    /* Ask for more and cut off what is not aligned. */
    p = mmap(NULL, bytes + align, reserve_protection(), flags, -1, 0);
    if (p == MAP_FAILED) return NULL;
    char *aligned = (char *)align_up((uintptr_t)p, align);
    if (aligned > p) munmap(p, (size_t)(aligned - p));
    size_t tail = (size_t)(p + bytes + align - (aligned + bytes));
    if (tail) munmap(aligned + bytes, tail);
    return aligned;
}

static void linux_release(void *address, size_t bytes)
{
    int saved = errno;
    munmap(address, bytes);
    errno = saved;
}

static bool linux_commit(void *address, size_t bytes)
{
    if (!charged) return true;
    return mprotect(address, bytes, PROT_READ | PROT_WRITE) == 0;
}

static bool linux_decommit(void *address, size_t bytes)
{
    int saved = errno;
    bool ok;
    if (charged) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
        ok = mmap(address, bytes, PROT_NONE, flags, -1, 0) != MAP_FAILED;
        if (ok) goto out;
        /* No VMA left for a split: give back the memory and keep the charge. */
    }
    ok = madvise(address, bytes, MADV_DONTNEED) == 0; /* fails on locked memory */
out:
    errno = saved;
    return ok;
}

static uint64_t linux_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

os_memory_calls os_memory = {linux_reserve, linux_release, linux_commit, linux_decommit, linux_now_ms};

uint64_t os_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

bool os_advise_huge(void *address, size_t bytes, bool wanted)
{
    int saved = errno;
    bool ok = madvise(address, bytes, wanted ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) == 0;
    errno = saved;
    return ok;
}

bool os_populate(void *address, size_t bytes)
{
#ifdef MADV_POPULATE_WRITE
    static _Atomic bool unknown; /* to this kernel: it came with 5.14 */
    if (atomic_load_explicit(&unknown, memory_order_relaxed)) return false;
    int saved = errno;
    bool ok = madvise(address, bytes, MADV_POPULATE_WRITE) == 0;
    if (!ok && errno == EINVAL) atomic_store_explicit(&unknown, true, memory_order_relaxed);
    errno = saved;
    return ok;
#else
    (void)address, (void)bytes;
    return false;
#endif
}

bool os_move_pages(void *from, void *to, size_t bytes)
{
#ifdef MREMAP_DONTUNMAP
    int saved = errno;
    if (mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) == to) return true;
    /* The kernel may have dropped `to` before it failed: put the reservation back. */
    int fd_flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    (void)mmap(to, bytes, PROT_READ | PROT_WRITE, fd_flags, -1, 0);
    errno = saved;
#else
    (void)from, (void)to, (void)bytes;
#endif
    return false;
}

/* --- memory objects -------------------------------------------------------------------------------------------- */

int os_object_create(const char *name, size_t bytes)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0) return -1;
    if (ftruncate(fd, (off_t)bytes) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

bool os_object_resize(int object, size_t bytes) { return ftruncate(object, (off_t)bytes) == 0; }
void os_object_close(int object) { close(object); }

bool os_object_map(int object, size_t offset, void *address, size_t bytes)
{
    return mmap(address, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, object, (off_t)offset) != MAP_FAILED;
}

bool os_object_unmap(void *address, size_t bytes)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    return mmap(address, bytes, reserve_protection(), flags, -1, 0) != MAP_FAILED;
}

bool os_object_discard(int object, size_t offset, size_t bytes)
{
    return fallocate(object, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes) == 0;
}

/* --- threads --------------------------------------------------------------------------------------------------- */

uintptr_t os_thread_id(void)
{
    static _Thread_local char anchor;
    return (uintptr_t)&anchor;
}

uint32_t os_cpu_count(void)
{
    static _Atomic uint32_t known;
    uint32_t count = atomic_load_explicit(&known, memory_order_relaxed);
    if (count) return count;
    int saved = errno;
    uint64_t mask[128] = {0}; /* 8,192 CPUs: as many as the kernel can be built for */
    long bytes = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask); /* glibc's would allocate for that many */
    for (long i = 0; i < bytes / 8; i++) count += bits_count(mask[i]);
    if (count == 0) count = 1;
    atomic_store_explicit(&known, count, memory_order_relaxed);
    errno = saved;
    return count;
}

static void futex(const uint32_t *word, int operation, uint32_t value)
{
    int saved = errno;
    syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
    errno = saved;
}

void os_wait(const uint32_t *word, uint32_t expected) { futex(word, FUTEX_WAIT, expected); }
void os_wake_one(const uint32_t *word) { futex(word, FUTEX_WAKE, 1); }
void os_wake_all(const uint32_t *word) { futex(word, FUTEX_WAKE, INT32_MAX); }
void os_yield(void) { sched_yield(); }

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

void lock_acquire_slow(lock *l)
{
    for (int spin = 0; spin < 100; spin++) {
        if (atomic_load_explicit(&l->word, memory_order_relaxed) == 0 && lock_try(l)) return;
        cpu_relax();
    }
    while (atomic_exchange_explicit(&l->word, 2, memory_order_acquire) != 0)
        os_wait((const uint32_t *)(const void *)&l->word, 2);
}

/* --- reports --------------------------------------------------------------------------------------------------- */

void os_write(int fd, const char *text, size_t bytes)
{
    int saved = errno;
    while (bytes > 0) {
        ssize_t n = write(fd, text, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        text += n;
        bytes -= (size_t)n;
    }
    errno = saved;
}

int os_open_report(const char *path) { return open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666); }
void os_close(int fd) { close(fd); }
static struct {
    int copy; /* out of the way of the program's own numbers */
    struct stat first;
} kept_stderr = {.copy = -1};

void os_stderr_keep(void)
{
    int saved = errno;
    if (kept_stderr.copy == -1 && fstat(2, &kept_stderr.first) == 0) kept_stderr.copy = fcntl(2, F_DUPFD_CLOEXEC, 100);
    errno = saved;
}

static bool leads_where_stderr_led(int fd)
{
    struct stat now;
    return fd >= 0 && fstat(fd, &now) == 0 && now.st_dev == kept_stderr.first.st_dev &&
           now.st_ino == kept_stderr.first.st_ino;
}

int os_stderr_kept(void)
{
    int saved = errno;
    int fd = leads_where_stderr_led(2) ? 2 : leads_where_stderr_led(kept_stderr.copy) ? kept_stderr.copy : -1;
    errno = saved;
    return fd;
}

bool os_is_privileged(void) { return getauxval(AT_SECURE) != 0; }
int os_process_id(void) { return (int)getpid(); }
void os_abort(void) { abort(); }

size_t os_resident_bytes(void)
{
    char text[64];
    read_small_file("/proc/self/statm", text, sizeof text);
    char *second = strchr(text, ' ');
    return second ? (size_t)strtoull(second, NULL, 10) * page_bytes : 0;
}
