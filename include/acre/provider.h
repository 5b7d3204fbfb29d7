/* acre/provider.h: where the memory behind addresses comes from.
 *
 * acre reserves addresses; a provider puts memory behind them and takes it away again. *Flexible* memory is the
 * system's: anonymous pages that acre commits and gives back as it likes. *Direct* memory is yours: you own a fixed
 * amount of it and decide which of its pages lie behind which addresses, twice over if you like. A provider of your own
 * (a GPU's, a device's, huge pages from a pool) is the struct below with your functions in it.
 *
 * Thread-safety: a provider's functions may be called by any thread, never two at once for overlapping ranges, and
 * under an acre lock: they must not allocate from the heap that they serve. */
#ifndef ACRE_PROVIDER_H
#define ACRE_PROVIDER_H

#include <stddef.h>
#include <stdint.h>

#include "acre/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a provider can do; a bit set. */
typedef enum acre_capability {
    ACRE_CAN_TOUCH = 1 << 0,    /* the CPU may read and write it (clear values and acre_heap_calloc need this) */
    ACRE_COMES_ZEROED = 1 << 1, /* freshly committed memory reads as zero */
    ACRE_CAN_DECOMMIT = 1 << 2, /* decommit gives memory back; without it memory is kept until the heap is destroyed */
    ACRE_IS_DIRECT = 1 << 3     /* the application's memory; picks the direct pair of clear values */
} acre_capability;

typedef struct acre_provider {
    const char *name;      /* for reports; not copied */
    void *context;         /* handed to the functions */
    uint64_t page_bytes;   /* ranges are multiples of this; a power of two, 0 = 64 KiB, at most 2 MiB */
    unsigned capabilities; /* of acre_capability */
    /* Puts memory behind [address, address + bytes). ACRE_OK, or a status and nothing changed. */
    acre_status (*commit)(void *context, void *address, size_t bytes);
    /* Takes it away; parts of the range may have none already. Anything but ACRE_OK: the memory is still there. */
    acre_status (*decommit)(void *context, void *address, size_t bytes);
} acre_provider;

/* The system's anonymous memory; what every heap uses that names no other. */
ACRE_API const acre_provider *acre_provider_flexible(void);

/* --- direct memory ---------------------------------------------------------------------------------------------- */

/* A fixed amount of physical memory without an address (a memfd on Linux), in pages of 64 KiB. */
typedef struct acre_direct acre_direct;
/* A range of reserved addresses with nothing behind it, taken from acre's space. */
typedef struct acre_range {
    void *address;
    size_t bytes;
} acre_range;

/* bytes is rounded up to 64 KiB. INVALID_ARGUMENT, NO_MEMORY, SYSTEM. One to two system calls. */
ACRE_API acre_status acre_direct_create(const char *name, size_t bytes, acre_direct **direct);
/* BUSY while any of its pages is mapped or serves a heap. */
ACRE_API acre_status acre_direct_destroy(acre_direct *direct);
/* A provider that serves heaps from this memory, first free page first. Valid as long as direct is. */
ACRE_API const acre_provider *acre_direct_provider(acre_direct *direct);
/* Bytes in all, and how many of them no heap and no acre_direct_take holds. Either pointer may be NULL. */
ACRE_API void acre_direct_usage(acre_direct *direct, size_t *bytes, size_t *free_bytes);

/* Takes `bytes` of contiguous pages for the caller to map; *offset says where they lie. Nobody else gets them until
 * acre_direct_give. bytes: a multiple of 64 KiB. O(pages). */
ACRE_API acre_status acre_direct_take(acre_direct *direct, size_t bytes, size_t *offset);
ACRE_API acre_status acre_direct_give(acre_direct *direct, size_t offset, size_t bytes);

/* Reserves addresses (a multiple of 64 KiB, rounded up) and frees them again; what is mapped there is unmapped. */
ACRE_API acre_status acre_range_reserve(size_t bytes, acre_range *range);
ACRE_API acre_status acre_range_release(acre_range *range);
/* Puts the pages [offset, offset + bytes) of direct behind range.address + at. The same pages may lie behind several
 * addresses at once: a write through one is seen through all. All three are multiples of 64 KiB. */
ACRE_API acre_status acre_direct_map(acre_direct *direct, size_t offset, acre_range range, size_t at, size_t bytes);
/* Nothing behind these addresses any more (touching them faults or reads zeroes); the pages keep their contents. */
ACRE_API acre_status acre_direct_unmap(acre_direct *direct, acre_range range, size_t at, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
