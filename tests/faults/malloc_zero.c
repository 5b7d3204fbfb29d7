/* malloc_zero: a request for nothing is a block of its own that can be freed; free(NULL) is nothing; realloc to 0
 * frees. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

int main(void)
{
    char *seen[6 * 100];
    for (int i = 0; i < 100; i++) {
        char **p = seen + 6 * i;
        p[0] = malloc(0);
        p[1] = calloc(0, 10);
        p[2] = calloc(10, 0);
        p[3] = realloc(NULL, 0);
        p[4] = aligned_alloc(64, 0);
        p[5] = NULL;
        CHECK(posix_memalign((void **)&p[5], 4096, 0) == 0);
        CHECK((uintptr_t)p[4] % 64 == 0 && (uintptr_t)p[5] % 4096 == 0);
    }
    for (int i = 0; i < 600; i++) {
        CHECK(acre_owner(seen[i]) == acre_heap_process());
        for (int j = 0; j < i; j++) CHECK(seen[i] != seen[j]);
    }
    for (int i = 0; i < 600; i++) free(seen[i]);
    free(NULL);
    CHECK(malloc_usable_size(NULL) == 0);
    for (int i = 0; i < 100000; i++) { /* if it did not free, this would hold 4 GB */
        char *p = malloc(40000);
        p[0] = 1;
        CHECK(realloc(p, 0) == NULL);
    }
    return 0;
}
