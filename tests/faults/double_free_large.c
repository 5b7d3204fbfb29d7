/* double_free_large: a block over 32 MiB given back twice is seen at once; so is one that no slot can hold. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

static void *volatile block;

static void twice_in_a_row(void)
{
    block = malloc(40 << 20);
    free(block);
    free(block);
}

static void after_a_trim(void)
{
    void *other = malloc(40 << 20);
    block = malloc(40 << 20);
    free(block);
    acre_trim(0);
    free(block);
    free(other);
}

static void beyond_the_slots(void)
{
    block = malloc((size_t)17 << 30);
    free(block);
    free(block);
}

static void moved_by_realloc(void)
{
    block = malloc(60 << 20);
    void *moved = realloc(block, 100 << 20);
    free(block);
    free(moved);
}

int main(void)
{
    CHECK(acre_owner(block = malloc(40 << 20)) == acre_heap_process());
    free(block);
    CHECK(probe_aborts(twice_in_a_row, "the block is free already"));
    CHECK(probe_aborts(after_a_trim, "the block is free already"));
    CHECK(probe_aborts(moved_by_realloc, "the block is free already"));
    /* Its addresses are gone: all that acre knows is that it is none of its own. */
    CHECK(probe_aborts(beyond_the_slots, "acre: free(0x"));
    return 0;
}
