/* size_class: see size_class.h. */
#include "alloc/size_class.h"

#include <string.h>

_Static_assert(9 + 6 * 8 <= CLASS_COUNT_MAX, "every table of sizes that can be asked for fits");
/* floor(offset * ceil(2^32 / size) / 2^32) is exact while offset * size < 2^32 (Granlund and Montgomery, PLDI 1994). */
_Static_assert((uint64_t)CHUNK_BYTES * CLASS_SIZE_MAX_LIMIT < ((uint64_t)1 << 32), "index by multiplication is exact");
_Static_assert(CHUNK_BYTES / 8 / 64 <= UINT8_MAX, "words of the smallest class fit in a byte");

void size_classes_init(size_classes *sc, uint32_t size_max, uint32_t steps)
{
    memset(sc, 0, sizeof *sc);
    if (size_max == 0) size_max = FSA_SIZE_MAX_DEFAULT;
    if (size_max < FSA_VERY_SMALL_MAX) size_max = FSA_VERY_SMALL_MAX;
    if (size_max > CLASS_SIZE_MAX_LIMIT) size_max = CLASS_SIZE_MAX_LIMIT;
    if (steps != 4) steps = 8;
    uint32_t c = 0, size = 8, eighth = 0;
    for (;;) {
        c++;
        sc->size[c] = size;
        sc->inverse[c] = (uint32_t)((((uint64_t)1 << 32) + size - 1) / size);
        sc->blocks[c] = (uint16_t)(CHUNK_BYTES / size);
        sc->words[c] = (uint8_t)((sc->blocks[c] + 63u) / 64u);
        for (; eighth <= size / 8; eighth++) sc->of_eighths[eighth] = (uint8_t)c;
        if (size >= size_max) break;
        if (size < 128)
            size = size == 8 ? 16 : size + 16;
        else
            size += (1u << bits_highest(size)) / steps;
    }
    sc->count = c;
    sc->size_max = size;
}
