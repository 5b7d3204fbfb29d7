/* alignment: every size is aligned for what fits into it, and every power of two that is asked for is given. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

static void keep(void *p, size_t size, size_t align)
{
    /* A few stay, so that the next ones come from other places. */
    static struct { char *p; size_t size; } kept[257];
    static unsigned at;
    CHECK(p != NULL && (uintptr_t)p % align == 0);
    CHECK(malloc_usable_size(p) >= size);
    if (kept[at].p) {
        CHECK(probe_stamped(kept[at].p, kept[at].size, kept[at].size, at));
        free(kept[at].p);
    }
    kept[at].p = p;
    kept[at].size = size;
    probe_stamp(p, size, at);
    at = (at + 1) % 257;
}

int main(void)
{
    void *first = malloc(1);
    CHECK(acre_owner(first) == acre_heap_process());
    for (size_t size = 0; size <= 70000; size += size < 5000 ? 1 : 97) {
        size_t align = size > 8 ? 16 : 8;
        keep(malloc(size), size, align);
        keep(calloc(1, size), size, align);
        keep(realloc(malloc(3), size ? size : 1), size, align);
    }
    for (size_t align = 1; align <= 8 << 20; align *= 2)
        for (size_t size = 0; size <= 200000; size = size * 2 + align / 8 + 1) {
            keep(aligned_alloc(align, size), size, align);
            keep(memalign(align, size), size, align);
            void *p = NULL;
            if (align >= sizeof(void *)) {
                CHECK(posix_memalign(&p, align, size) == 0);
                keep(p, size, align);
            }
        }
    volatile size_t odd = 48, none = 0; /* not for the compiler's eyes */
    keep(memalign(odd, 100), 100, 64); /* rounded up to a power of two, as glibc does */
    keep(memalign(none, 100), 100, 1);
    keep(valloc(100), 100, 4096);
    keep(pvalloc(100), 4096, 4096);
    keep(pvalloc(0), 1, 4096);
    for (size_t align = 4096; align <= (size_t)1 << 30; align *= 2) {
        void *p[4];
        for (int i = 0; i < 4; i++) {
            p[i] = aligned_alloc(align, 33 << 20);
            CHECK(p[i] != NULL && (uintptr_t)p[i] % align == 0);
        }
        for (int i = 0; i < 4; i++) free(p[i]);
    }
    return 0;
}
