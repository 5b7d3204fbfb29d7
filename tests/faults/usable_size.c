/* usable_size: all bytes that malloc_usable_size promises may be written, and no neighbour changes. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

int main(void)
{
    enum { BLOCKS = 1000 };
    static struct { char *p; size_t size, usable; } block[BLOCKS];
    uint64_t random = 7;
    for (int i = 0; i < 60000; i++) {
        unsigned k = probe_random(&random) % BLOCKS;
        if (block[k].p) {
            CHECK(malloc_usable_size(block[k].p) == block[k].usable);
            CHECK(probe_all_bytes(block[k].p, (int)(k & 0xFF), block[k].usable));
        }
        size_t size = probe_random(&random) % ((size_t)1 << (1 + probe_random(&random) % (k % 100 ? 13 : 20)));
        switch (probe_random(&random) % 4) {
        case 0:
            if (size == 0) size = 1;
            block[k].p = realloc(block[k].p, size);
            break;
        case 1:
            free(block[k].p);
            block[k].p = aligned_alloc((size_t)1 << probe_random(&random) % 13, size);
            break;
        case 2:
            free(block[k].p);
            block[k].p = calloc(1, size);
            CHECK(probe_all_bytes(block[k].p, 0, size));
            break;
        default:
            free(block[k].p);
            block[k].p = malloc(size);
        }
        CHECK(block[k].p != NULL);
        block[k].size = size;
        block[k].usable = malloc_usable_size(block[k].p);
        CHECK(block[k].usable >= size);
        memset(block[k].p, (int)(k & 0xFF), block[k].usable);
    }
    for (unsigned k = 0; k < BLOCKS; k++) {
        CHECK(block[k].p == NULL || probe_all_bytes(block[k].p, (int)(k & 0xFF), block[k].usable));
        free(block[k].p);
    }
    CHECK(acre_heap_check(acre_heap_process()));
    return 0;
}
