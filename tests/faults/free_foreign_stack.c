/* free_foreign_stack: what acre never handed out is refused at once: the stack, static data, a mapping, small numbers,
 * addresses of acre's space where nothing is. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

static char data[64];
static void *volatile pointer;

static void frees_it(void) { free(pointer); }
static void reallocs_it(void) { pointer = realloc(pointer, 100); }
static void frees_the_stack(void)
{
    char local[64];
    pointer = local;
    free(pointer);
}

static void refuses(void *p)
{
    pointer = p;
    CHECK(malloc_usable_size(p) == 0);
    CHECK(probe_aborts(frees_it, "acre: free(0x"));
    CHECK(probe_aborts(reallocs_it, "acre: realloc(0x"));
}

int main(void)
{
    char *p = malloc(100);
    CHECK(acre_owner(p) == acre_heap_process());
    CHECK(probe_aborts(frees_the_stack, "was not handed out by this allocator"));
    refuses(data + 16);
    refuses((void *)0x1000);
    refuses((void *)(uintptr_t)-16);
    refuses(mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    refuses(p + ((size_t)8 << 30));   /* in the space, in no region */
    refuses(p + ((size_t)300 << 30)); /* where the large blocks would be */
    return 0;
}
