/* free_after_realloc: the old pointer of a realloc that moved is dead, whatever the two sizes are. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

static size_t from, to;

static void frees_the_old_one(void)
{
    char *volatile old = malloc(from), *volatile wall = malloc(from);
    char *volatile moved = realloc(old, to);
    if (!moved || moved == old || !wall) _exit(77);
    free(old);
    acre_trim(0); /* a small one is seen when it leaves the magazine */
}

int main(void)
{
    void *p = malloc(1);
    CHECK(acre_owner(p) == acre_heap_process());
    const size_t sizes[][2] = {{16, 100},         {100, 5000},           {5000, 100},    {5000, 300000},
                               {300000, 5 << 20}, {60 << 20, 100 << 20}, {40 << 20, 100}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        from = sizes[i][0];
        to = sizes[i][1];
        CHECK(probe_aborts(frees_the_old_one, "acre: free(0x"));
    }
    return 0;
}
