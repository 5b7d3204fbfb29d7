/* overflow: sizes that cannot be are refused with null and ENOMEM, alignments that cannot be with EINVAL; the block
 * of a realloc that failed is as it was. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

#define REFUSED(call, why)           \
    do {                             \
        errno = 0;                   \
        CHECK((call) == NULL);       \
        CHECK(errno == (why));       \
    } while (0)

int main(void)
{
    const size_t too_much[] = {(size_t)PTRDIFF_MAX + 1, SIZE_MAX, SIZE_MAX - 7, SIZE_MAX - 4095, SIZE_MAX / 2 + 2};
    char *p = malloc(1000), *large = malloc(40 << 20);
    CHECK(acre_owner(p) == acre_heap_process());
    memset(p, 7, 1000);
    large[0] = large[(40 << 20) - 1] = 9;
    for (size_t i = 0; i < sizeof too_much / sizeof *too_much; i++) {
        size_t n = too_much[i];
        REFUSED(malloc(n), ENOMEM);
        REFUSED(calloc(1, n), ENOMEM);
        REFUSED(calloc(n, 1), ENOMEM);
        REFUSED(calloc(n, n), ENOMEM);
        REFUSED(realloc(p, n), ENOMEM);
        REFUSED(realloc(large, n), ENOMEM);
        REFUSED(realloc(NULL, n), ENOMEM);
        REFUSED(reallocarray(p, n, 2), ENOMEM);
        REFUSED(reallocarray(p, 2, n), ENOMEM);
        REFUSED(aligned_alloc(64, n), ENOMEM);
        REFUSED(aligned_alloc(1 << 21, n), ENOMEM);
        REFUSED(memalign(64, n), ENOMEM);
        REFUSED(valloc(n), ENOMEM);
        REFUSED(pvalloc(n), ENOMEM);
        void *untouched = p;
        errno = 4711;
        CHECK(posix_memalign(&untouched, 64, n) == ENOMEM);
        CHECK(untouched == p && errno == 4711);
    }
    REFUSED(calloc((size_t)1 << 33, (size_t)1 << 33), ENOMEM); /* the product is 4 GiB when it wraps */
    REFUSED(calloc(SIZE_MAX / 16 + 2, 16), ENOMEM);            /* … 16 bytes */
    REFUSED(reallocarray(p, SIZE_MAX / 16 + 2, 16), ENOMEM);
    REFUSED(malloc((size_t)1 << 47), ENOMEM); /* possible as a number, but not here */
    REFUSED(malloc(PTRDIFF_MAX), ENOMEM);
    const volatile size_t odd[] = {0, 3, 48, 4097, SIZE_MAX}; /* not for the compiler's eyes */
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) REFUSED(aligned_alloc(odd[i], 96), EINVAL);
    REFUSED(memalign(odd[4], 1), EINVAL);
    void *untouched = p;
    const size_t wrong[] = {0, 1, 2, 4, 3, 12, 24, 100, SIZE_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) CHECK(posix_memalign(&untouched, wrong[i], 8) == EINVAL);
    CHECK(untouched == p);
    CHECK(probe_all_bytes(p, 7, 1000) && large[0] == 9 && large[(40 << 20) - 1] == 9);
    free(p);
    free(large);
    CHECK(acre_heap_check(acre_heap_process()));
    return 0;
}
