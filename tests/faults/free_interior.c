/* free_interior: a pointer into a block is no block. Over 4 KiB it is refused at once; a small one goes into the
 * thread's magazine like any other and is refused when it leaves it, at the latest when the thread ends or trims. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

static size_t size, offset;
static char *volatile block;

static void frees_inside(void)
{
    block = malloc(size);
    free(block + offset);
    if (size <= 4096) acre_trim(0);
}

static void reallocs_inside(void)
{
    block = malloc(size);
    block = realloc(block + offset, size * 2);
}

int main(void)
{
    CHECK(acre_owner(block = malloc(1)) == acre_heap_process());
    const size_t sizes[] = {24, 100, 4096, 4097, 100000, 5 << 20, 40 << 20};
    const size_t offsets[] = {1, 8, 16, 20};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t o = 0; o < sizeof offsets / sizeof *offsets; o++) {
            size = sizes[s];
            offset = offsets[o];
            CHECK(probe_aborts(frees_inside, "was not handed out by this allocator"));
            CHECK(probe_aborts(reallocs_inside, "acre: realloc(0x"));
        }
    offset = 4096;
    for (size_t s = 4; s < sizeof sizes / sizeof *sizes; s++) {
        size = sizes[s];
        CHECK(probe_aborts(frees_inside, "was not handed out by this allocator"));
    }
    return 0;
}
