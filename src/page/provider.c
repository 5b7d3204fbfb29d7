/* provider: the flexible provider (the system's anonymous memory) and the check of anybody's. */
#include "page/provider.h"

#include <string.h>

#include "base/bits.h"
#include "os/os.h"

static acre_status flexible_commit(void *context, void *address, size_t bytes)
{
    (void)context;
    return os_commit(address, bytes) ? ACRE_OK : ACRE_NO_MEMORY;
}

static acre_status flexible_decommit(void *context, void *address, size_t bytes)
{
    (void)context;
    return os_decommit(address, bytes) ? ACRE_OK : ACRE_SYSTEM;
}

static const acre_provider flexible = {
    .name = "flexible",
    .page_bytes = 4096,
    .capabilities = ACRE_CAN_TOUCH | ACRE_COMES_ZEROED | ACRE_CAN_DECOMMIT,
    .commit = flexible_commit,
    .decommit = flexible_decommit,
};

const acre_provider *acre_provider_flexible(void) { return &flexible; }

void provider_drop(const acre_provider *p, void *address, size_t bytes)
{
    if (provider_decommit(p, address, bytes)) return;
    if (provider_can(p, ACRE_COMES_ZEROED) && provider_can(p, ACRE_CAN_TOUCH)) memset(address, 0, bytes);
}

acre_status provider_check(const acre_provider *p)
{
    if (!p->commit || (!p->decommit && provider_can(p, ACRE_CAN_DECOMMIT))) return ACRE_INVALID_ARGUMENT;
    if (p->page_bytes != 0 && !is_power_of_two(p->page_bytes)) return ACRE_INVALID_ARGUMENT;
    if (p->page_bytes > 2 * MIB) return ACRE_INVALID_ARGUMENT;
    return ACRE_OK;
}
