/* provider (internal): calls through a provider, and what follows from its capabilities. */
#ifndef ACRE_PAGE_PROVIDER_H
#define ACRE_PAGE_PROVIDER_H

#include <stdbool.h>

#include "acre/provider.h"

static inline bool provider_commit(const acre_provider *p, void *address, size_t bytes)
{
    return p->commit(p->context, address, bytes) == ACRE_OK;
}
static inline bool provider_decommit(const acre_provider *p, void *address, size_t bytes)
{
    return (p->capabilities & ACRE_CAN_DECOMMIT) && p->decommit(p->context, address, bytes) == ACRE_OK;
}
/* The memory goes back, or, if it cannot (it is locked, say), at least reads as fresh memory of this provider would. */
void provider_drop(const acre_provider *p, void *address, size_t bytes);
static inline bool provider_can(const acre_provider *p, acre_capability c) { return (p->capabilities & c) != 0; }
static inline size_t provider_page_bytes(const acre_provider *p)
{
    return p->page_bytes ? (size_t)p->page_bytes : 65536;
}

/* ACRE_OK, or INVALID_ARGUMENT for a provider that lacks a function or has an impossible page size. */
acre_status provider_check(const acre_provider *p);

#endif
