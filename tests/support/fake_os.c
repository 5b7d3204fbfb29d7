/* fake_os: see fake_os.h. */
#include "fake_os.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "os/os.h"
#include "page/space.h"

static os_memory_calls real;
static bool installed;
static _Atomic uint64_t counts[FAKE_CALLS + 1], fail_at[FAKE_CALLS + 1], failures;
static _Atomic bool onwards_from[FAKE_CALLS + 1];
static _Atomic size_t reserved;
static _Atomic uint64_t now;

static bool due(fake_call call)
{
    uint64_t count = atomic_fetch_add(&counts[call], 1) + 1, at = atomic_load(&fail_at[call]);
    return at != 0 && (count == at || (count > at && atomic_load(&onwards_from[call])));
}

static bool must_fail(fake_call call)
{
    bool own = due(call), any = due(FAKE_ANY);
    if (own || any) atomic_fetch_add(&failures, 1);
    return own || any;
}

static void *fake_reserve(size_t bytes, size_t align)
{
    if (must_fail(FAKE_RESERVE)) {
        errno = ENOMEM;
        return NULL;
    }
    void *p = real.reserve(bytes, align);
    if (p) atomic_fetch_add(&reserved, bytes);
    return p;
}

static void fake_release(void *address, size_t bytes)
{
    (void)due(FAKE_RELEASE);
    atomic_fetch_sub(&reserved, bytes);
    real.release(address, bytes);
}

static bool fake_commit(void *address, size_t bytes)
{
    if (must_fail(FAKE_COMMIT)) {
        errno = ENOMEM;
        return false;
    }
    return real.commit(address, bytes);
}

static bool fake_decommit(void *address, size_t bytes)
{
    return !must_fail(FAKE_DECOMMIT) && real.decommit(address, bytes);
}

static uint64_t fake_now_ms(void) { return atomic_load(&now); }

void fake_os_install(void)
{
    if (!installed) real = os_memory;
    installed = true;
    for (int i = 0; i <= FAKE_CALLS; i++) {
        atomic_store(&counts[i], 0);
        atomic_store(&fail_at[i], 0);
        atomic_store(&onwards_from[i], false);
    }
    atomic_store(&failures, 0);
    atomic_store(&reserved, 0);
    atomic_store(&now, real.now_ms());
    os_memory = (os_memory_calls){fake_reserve, fake_release, fake_commit, fake_decommit, fake_now_ms};
}

void fake_os_remove(void)
{
    if (installed) os_memory = real;
    installed = false;
}

void fake_os_fail(fake_call call, uint64_t n, bool onwards)
{
    atomic_store(&onwards_from[call], onwards);
    atomic_store(&fail_at[call], n ? atomic_load(&counts[call]) + n : 0);
}

void fake_os_heal(void)
{
    for (int i = 0; i <= FAKE_CALLS; i++) atomic_store(&fail_at[i], 0);
}

uint64_t fake_os_count(fake_call call) { return atomic_load(&counts[call]); }
uint64_t fake_os_failures(void) { return atomic_load(&failures); }
size_t fake_os_reserved_bytes(void) { return atomic_load(&reserved); }
void fake_os_advance_ms(uint64_t ms) { atomic_fetch_add(&now, ms); }

/* --- the provider ------------------------------------------------------------------------------------------------ */

static pthread_mutex_t ledger_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char *ledger; /* by 64 KiB of the space: committed */

static bool refuses(fake_provider *p)
{
    p->calls++;
    bool fails = p->fail_at && (p->calls == p->fail_at || (p->calls > p->fail_at && p->fail_onwards));
    p->failures += fails;
    return fails;
}

/* Files [address, address + bytes) as committed or not; the change in bytes. Part of a chunk is the chunk. */
static size_t file(void *address, size_t bytes, bool committed)
{
    size_t changed = 0;
    size_t first = space_offset(address) >> CHUNK_SHIFT;
    size_t end = align_up(space_offset(address) + bytes, CHUNK_BYTES) >> CHUNK_SHIFT;
    for (size_t i = first; i < end; i++) {
        changed += ledger[i] != committed ? CHUNK_BYTES : 0;
        ledger[i] = committed;
    }
    return changed;
}

static acre_status ledger_commit(void *context, void *address, size_t bytes)
{
    fake_provider *p = context;
    acre_status status = ACRE_NO_MEMORY;
    pthread_mutex_lock(&ledger_lock);
    if (!refuses(p)) {
        p->commits++;
        p->committed_bytes += file(address, bytes, true);
        if (bytes > p->largest_commit_bytes) p->largest_commit_bytes = bytes;
        status = os_commit(address, bytes) ? ACRE_OK : ACRE_NO_MEMORY;
    }
    pthread_mutex_unlock(&ledger_lock);
    return status;
}

static acre_status ledger_decommit(void *context, void *address, size_t bytes)
{
    fake_provider *p = context;
    acre_status status = ACRE_SYSTEM;
    pthread_mutex_lock(&ledger_lock);
    if (!refuses(p)) {
        p->decommits++;
        size_t changed = file(address, bytes, false);
        p->wrong += changed != align_up(bytes, CHUNK_BYTES);
        p->committed_bytes -= changed;
        status = os_decommit(address, bytes) ? ACRE_OK : ACRE_SYSTEM;
    }
    pthread_mutex_unlock(&ledger_lock);
    return status;
}

void fake_provider_init(fake_provider *p, uint64_t page_bytes, unsigned capabilities)
{
    memset(p, 0, sizeof *p);
    fake_provider_done(p); /* a new page */
    if (space_init(0)) ledger = calloc(space_chunk_count, 1);
    p->provider = (acre_provider){"ledger", p, page_bytes, capabilities, ledger_commit, ledger_decommit};
}

void fake_provider_fail(fake_provider *p, uint64_t n, bool onwards)
{
    p->calls = 0;
    p->fail_at = n;
    p->fail_onwards = onwards;
}

void fake_provider_done(fake_provider *p)
{
    (void)p;
    free(ledger);
    ledger = NULL;
}
