/* misuse: see misuse.h. */
#include "os/misuse.h"

#include <stdatomic.h>
#include <stddef.h>

#include "os/os.h"

static _Atomic int policy_in_force = MISUSE_ABORT;
static _Atomic uint64_t seen;

void misuse_set_policy(misuse_policy policy) { atomic_store_explicit(&policy_in_force, policy, memory_order_relaxed); }
uint64_t misuse_count(void) { return atomic_load_explicit(&seen, memory_order_relaxed); }

static char *append(char *at, const char *end, const char *text)
{
    while (*text && at < end) *at++ = *text++;
    return at;
}

static char *append_hex(char *at, const char *end, uintptr_t value)
{
    at = append(at, end, "0x");
    int shift = 60;
    while (shift > 0 && (value >> shift) == 0) shift -= 4;
    for (; shift >= 0 && at < end; shift -= 4) *at++ = "0123456789abcdef"[(value >> shift) & 15];
    return at;
}

acre_status misuse(acre_status what, const char *call, const void *pointer)
{
    atomic_fetch_add_explicit(&seen, 1, memory_order_relaxed);
    int policy = atomic_load_explicit(&policy_in_force, memory_order_relaxed);
    if (policy == MISUSE_IGNORE) return what;
    char line[256];
    char *at = line;
    const char *end = line + sizeof line - 1;
    at = append(at, end, "acre: ");
    at = append(at, end, call);
    at = append(at, end, "(");
    at = append_hex(at, end, (uintptr_t)pointer);
    at = append(at, end, "): ");
    at = append(at, end, acre_status_text(what));
    at = append(at, end, "\n");
    os_write(2, line, (size_t)(at - line));
    if (policy == MISUSE_ABORT) os_abort();
    return what;
}
