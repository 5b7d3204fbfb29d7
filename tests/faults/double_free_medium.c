/* double_free_medium: a block over 4 KiB given back twice is seen at once, whether it lies in the thread's cache, went
 * back to the heap, or has become part of a larger hole. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

static void *volatile block;
static size_t size;

static void twice_in_a_row(void)
{
    block = malloc(size);
    free(block);
    free(block);
}

static void after_it_has_returned(void)
{
    block = malloc(size);
    free(block);
    acre_trim(0);
    free(block);
}

static void inside_of_a_hole(void)
{
    void *a = malloc(size), *c;
    block = malloc(size);
    c = malloc(size);
    free(a);
    free(block);
    free(c);
    acre_heap_trim(acre_heap_process(), SIZE_MAX); /* out of the cache, merged */
    free(block);
}

static void by_realloc(void)
{
    block = malloc(size);
    free(block);
    block = realloc(block, size * 2);
}

int main(void)
{
    CHECK(acre_owner(block = malloc(10000)) == acre_heap_process());
    const char said[] = "acre: free(0x";
    const size_t sizes[] = {4097, 10000, 200000, 1 << 20, 3 << 20, 32 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size = sizes[i];
        CHECK(probe_aborts(twice_in_a_row, "the block is free already"));
        CHECK(probe_aborts(after_it_has_returned, said));
        CHECK(probe_aborts(inside_of_a_hole, said));
        CHECK(probe_aborts(by_realloc, "acre: realloc(0x"));
    }
    return 0;
}
