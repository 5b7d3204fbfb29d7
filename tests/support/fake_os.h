/* fake_os: the operating system as a test wants it: calls that fail when told, calls that are counted, time that stands
 * still until it is moved. And a provider with a ledger, for the same at the level above.
 *
 * fake_os_install wraps the entries of os_memory (os/os.h); what does not fail goes on to the real ones. The knobs are
 * for one thread; the counters are atomic, so that other threads may allocate meanwhile. */
#ifndef ACRE_TESTS_FAKE_OS_H
#define ACRE_TESTS_FAKE_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "acre/provider.h"

typedef enum fake_call {
    FAKE_RESERVE,
    FAKE_COMMIT,
    FAKE_DECOMMIT,
    FAKE_RELEASE, /* cannot fail; only counted */
    FAKE_CALLS,
    FAKE_ANY = FAKE_CALLS, /* for fake_os_fail and fake_os_count: reserve, commit and decommit as one sequence */
} fake_call;

void fake_os_install(void);
/* The real calls and the real clock are back. */
void fake_os_remove(void);
/* The n-th such call from now on fails (n = 1: the next), and with `onwards` all after it. n = 0: none. One order per
 * kind; FAKE_ANY is a kind of its own. */
void fake_os_fail(fake_call call, uint64_t n, bool onwards);
/* No call fails any more. */
void fake_os_heal(void);
/* Calls since install, those that failed included. */
uint64_t fake_os_count(fake_call call);
/* How many failed by order since install. */
uint64_t fake_os_failures(void);
/* Bytes reserved and not released since install. */
size_t fake_os_reserved_bytes(void);
/* now_ms as seen by acre, from install on a fixed number. */
void fake_os_advance_ms(uint64_t ms);

/* --- a provider that keeps a ledger ------------------------------------------------------------------------------ */

/* On anonymous memory of acre's space, by 64 KiB. One at a time. */
typedef struct fake_provider {
    acre_provider provider;
    size_t committed_bytes;   /* as the ledger says */
    uint64_t commits, decommits;
    uint64_t wrong;           /* decommits of what was not committed in part */
    uint64_t calls;           /* commits and decommits since fail_at was set */
    uint64_t fail_at;         /* this call fails, 0 = none; */
    bool fail_onwards;        /* … and all after it */
    uint64_t failures;
    size_t largest_commit_bytes;
} fake_provider;

/* Zero page_bytes and capabilities are the provider's zero values. */
void fake_provider_init(fake_provider *p, uint64_t page_bytes, unsigned capabilities);
/* The n-th commit or decommit from now on is refused. */
void fake_provider_fail(fake_provider *p, uint64_t n, bool onwards);
void fake_provider_done(fake_provider *p);

#endif
