/* os.h: all that acre asks of an operating system, on one page.
 *
 * Layer 2. Above this header nobody names a system call or tests for a platform; the build selects os_linux.c (or
 * another file with the same functions), and tests may swap the table of memory calls to inject failures and time.
 *
 * Units are bytes. Addresses and sizes are multiples of os_page_bytes() unless said otherwise. Memory is private to
 * the process and copied by fork, except where a file stands behind it. A function that can fail returns false or
 * NULL and leaves the reason in errno; none of them allocates from acre.
 *
 *   reserve  address space, nothing behind it. Costs no memory. On systems that charge nothing for it the range is
 *            readable and writable at once (os_commit is then a bookkeeping call), so that giving memory back never
 *            splits a mapping: VMAs are few.
 *   commit   memory may be touched. Fresh memory reads as zero.
 *   decommit contents are lost, the next touch after a commit reads zero, the system has its memory back.
 *   release  the addresses are gone, too.
 */
#ifndef ACRE_OS_OS_H
#define ACRE_OS_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#define OS_HAS_SINGLE_THREADED_FLAG 1
#else
#define OS_HAS_SINGLE_THREADED_FLAG 0
#endif

typedef struct os_memory_calls {
    /* A range of `bytes` at an address that is a multiple of `align` (a power of two >= the OS page); NULL: no room. */
    void *(*reserve)(size_t bytes, size_t align);
    /* Undoes part or all of reserve. */
    void (*release)(void *address, size_t bytes);
    /* May be touched from now on; true if already so. Zero where never touched since reserve or decommit. */
    bool (*commit)(void *address, size_t bytes);
    /* False: the memory is still there, with its contents or zeroed: nothing else is promised. */
    bool (*decommit)(void *address, size_t bytes);
    /* Milliseconds of a clock that never goes back; cheap (about 5 ns), coarse (about 4 ms). */
    uint64_t (*now_ms)(void);
} os_memory_calls;

/* The calls in use. Tests replace single entries before the first allocation or between operations on one thread. */
extern os_memory_calls os_memory;

/* Once per process, before anything else here; cheap and idempotent. Reads the page size and the overcommit policy. */
void os_init(void);
/* 4 KiB on x86-64. */
size_t os_page_bytes(void);
/* True where the system charges for writable address space (overcommit = 2, Windows): commit and decommit are real
 * system calls there that may split mappings, so callers commit in large pieces. */
bool os_commit_is_charged(void);
/* Address space that this process may still reserve, in bytes; SIZE_MAX where nothing limits it. Looks at the
 * process's limits (RLIMIT_AS, RLIMIT_DATA) at each call. */
size_t os_address_space_left(void);
/* Physical memory that this process may use: the smaller of the machine's and the control group's. */
size_t os_memory_bytes(void);

static inline void *os_reserve(size_t bytes, size_t align) { return os_memory.reserve(bytes, align); }
static inline void os_release(void *address, size_t bytes) { os_memory.release(address, bytes); }
static inline bool os_commit(void *address, size_t bytes) { return os_memory.commit(address, bytes); }
static inline bool os_decommit(void *address, size_t bytes) { return os_memory.decommit(address, bytes); }
static inline uint64_t os_now_ms(void) { return os_memory.now_ms(); }

/* Nanoseconds, precise, dearer than os_now_ms; for reports. */
uint64_t os_now_ns(void);
/* Advice only: huge pages are welcome (or not) in this range. False where the system has none. */
bool os_advise_huge(void *address, size_t bytes, bool wanted);
/* The memory behind a committed range is there afterwards, as if it had been written to, at a fraction of the page
 * faults' cost. Contents stay. False: some or none of it is, which does no harm. */
bool os_populate(void *address, size_t bytes);
/* Moves the pages behind [from, from + bytes) to [to, to + bytes), both reserved and committed; `from` reads zero
 * afterwards. False: nothing moved (not supported here, or no VMAs left): the caller copies. */
bool os_move_pages(void *from, void *to, size_t bytes);

/* --- memory objects: pages that the caller maps where it likes ("direct" memory) ------------------------------- */

/* A handle, or -1. Not inherited by exec. */
int os_object_create(const char *name, size_t bytes);
bool os_object_resize(int object, size_t bytes);
void os_object_close(int object);
/* Replaces what lies behind [address, address + bytes) of a reserved range with the object's pages from offset on. */
bool os_object_map(int object, size_t offset, void *address, size_t bytes);
/* The range is reserved and empty again. */
bool os_object_unmap(void *address, size_t bytes);
/* Gives the object's pages back to the system; they read zero afterwards, in every mapping. */
bool os_object_discard(int object, size_t offset, size_t bytes);

/* --- threads --------------------------------------------------------------------------------------------------- */

/* True while the process has only ever had one thread, so that plain stores may stand in for atomic ones. */
static inline bool os_single_threaded(void)
{
#if OS_HAS_SINGLE_THREADED_FLAG
    return __libc_single_threaded != 0;
#else
    return false;
#endif
}
/* How many threads can run at once: the CPUs that the process was allowed at the first call; at least 1. */
uint32_t os_cpu_count(void);
/* A number for the calling thread that no other living thread has; never 0. A few instructions. */
uintptr_t os_thread_id(void);
/* Sleeps until *word != expected or somebody wakes the word; may return early. */
void os_wait(const uint32_t *word, uint32_t expected);
void os_wake_one(const uint32_t *word);
void os_wake_all(const uint32_t *word);
void os_yield(void);

/* --- reports --------------------------------------------------------------------------------------------------- */

/* Writes all of it to a file descriptor; used for error messages and reports, allocates nothing. */
void os_write(int fd, const char *text, size_t bytes);
/* Opens (creates, truncates) a file for a report; -1 and errno on failure. */
int os_open_report(const char *path);
void os_close(int fd);
/* Standard error, for what is written when the program may have closed it already (or opened something else by that
 * number): call _keep early; _kept is where standard error led then, or -1. */
void os_stderr_keep(void);
int os_stderr_kept(void);
int os_process_id(void);
/* The program has more rights than whoever started it: do not let its environment name files to write. */
bool os_is_privileged(void);
/* Ends the process at once (abort). */
_Noreturn void os_abort(void);
/* Resident memory of this process in bytes, 0 where unknown. */
size_t os_resident_bytes(void);

#endif
