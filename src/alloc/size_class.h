/* size_class: which block sizes the fixed-size allocator offers.
 *
 * Sizes are 8, then multiples of 16 up to 128, then `steps` (8 by default) per doubling up to the largest. So every
 * block but the 8-byte one is aligned to 16, which C and C++ ask of malloc, and a request wastes at most 1/8 of its
 * size, 3% on average. A class number is one byte: 0 = not a class, classes are 1 … count. The map from a request to
 * its class is a table by eighths, (bytes + 7) / 8, so that the lookup has no branch.
 *
 * A block of class c lies at page + i * size with the page 64 KiB aligned: it is aligned to the largest power of two
 * that divides size. The map `aligned` uses this: the smallest class that holds `bytes` and is divisible by `align`. */
#ifndef ACRE_ALLOC_SIZE_CLASS_H
#define ACRE_ALLOC_SIZE_CLASS_H

#include <stddef.h>
#include <stdint.h>

#include "base/bits.h"
#include "page/space.h"

enum {
    CLASS_NONE = 0,
    CLASS_COUNT_MAX = 63,      /* classes are 1 … CLASS_COUNT_MAX */
    CLASS_SIZE_MAX_LIMIT = 8192,
    FSA_SIZE_MAX_DEFAULT = 4096,
    FSA_VERY_SMALL_MAX = 64,   /* above: "small"; the difference is in the commit unit, see fsa.h */
    CLASS_TABLE_ENTRIES = CLASS_SIZE_MAX_LIMIT / 8 + 1,
};

typedef struct size_classes {
    uint32_t count;
    uint32_t size_max;
    uint32_t size[CLASS_COUNT_MAX + 1];    /* bytes of a block */
    uint32_t inverse[CLASS_COUNT_MAX + 1]; /* ceil(2^32 / size): offset in the page -> index, exact below 64 KiB */
    uint16_t blocks[CLASS_COUNT_MAX + 1];  /* in a page: floor(CHUNK_BYTES / size) */
    uint8_t words[CLASS_COUNT_MAX + 1];    /* 64-bit words of free bits: ceil(blocks / 64) */
    uint8_t of_eighths[CLASS_TABLE_ENTRIES];
} size_classes;

/* steps: classes per doubling, 4 or 8 (0 = 8); size_max: 64 … 8192 (0 = 4096), rounded up to a class. More classes
 * than CLASS_COUNT_MAX cannot come of that: 9 + 6 doublings * 8 = 57. */
void size_classes_init(size_classes *sc, uint32_t size_max, uint32_t steps);

/* bytes <= size_max */
static inline uint32_t size_class_of(const size_classes *sc, size_t bytes) { return sc->of_eighths[(bytes + 7) >> 3]; }

/* align: a power of two. CLASS_NONE when no class fits. At most a few steps. */
static inline uint32_t size_class_aligned(const size_classes *sc, size_t bytes, size_t align)
{
    if (bytes < align) bytes = align;
    if (bytes > sc->size_max) return CLASS_NONE;
    for (uint32_t c = size_class_of(sc, bytes); c <= sc->count; c++)
        if ((sc->size[c] & (align - 1)) == 0) return c;
    return CLASS_NONE;
}

/* offset: of a block in its page, below CHUNK_BYTES. Rounds down. */
static inline uint32_t size_class_index(const size_classes *sc, uint32_t c, uint32_t offset)
{
    return (uint32_t)(((uint64_t)offset * sc->inverse[c]) >> 32);
}

#endif
