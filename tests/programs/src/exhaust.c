/*
 * Allocates until the limit of the process says no, frees everything, and does so again. Each time NULL has to come
 * with
 * ENOMEM, the part of the limit that was asked for has to have been handed out, and what was handed out has to be
 * there.
 * Without SIZE it goes from small over middle to large and mixed blocks in one process, each starting where the one
 * before
 * left the address space.
 *
 * usage: exhaust LIMIT_KIB LEAST_PERCENT [SIZE]  (under ulimit -v LIMIT_KIB)
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct link {
    struct link *next;
    size_t size;
};

static void fail(const char *what, size_t size)
{
    printf("%s, blocks of %zu\n", what, size);
    exit(1);
}

int main(int argc, char **argv)
{
    size_t sizes[] = {48, 900, 70000, 3000000, 40000000, 0}; /* 0: mixed from the first four */
    size_t kinds = sizeof sizes / sizeof *sizes, limit, least;

    if (argc != 3 && argc != 4)
        return 2;
    if (argc == 4) {
        sizes[0] = strtoul(argv[3], NULL, 10);
        kinds = 1;
        if (sizes[0] < sizeof(struct link))
            return 2;
    }
    limit = strtoul(argv[1], NULL, 10) * 1024;
    least = strtoul(argv[2], NULL, 10);
    setvbuf(stdout, NULL, _IONBF, 0); /* no buffer to allocate when nothing is left */

    for (int round = 0; round < 2; round++) {
        for (size_t k = 0; k < kinds; k++) {
            struct link *all = NULL;
            size_t total = 0, count = 0;

            for (;;) {
                size_t size = sizes[k] ? sizes[k] : sizes[count % 4];
                struct link *p;
                errno = 0;
                p = malloc(size);
                if (!p)
                    break;
                p->next = all;
                p->size = size;
                ((char *)p)[size - 1] = 77;
                all = p;
                total += size;
                count++;
                if (total > limit)
                    fail("more than the limit was handed out", size);
            }
            if (errno != ENOMEM)
                fail("NULL without ENOMEM", sizes[k]);
            errno = 0;
            if (calloc(1, limit) || errno != ENOMEM)
                fail("calloc beyond the limit", limit);
            errno = 0;
            if (all && (realloc(all, limit) || errno != ENOMEM || all->size == 0))
                fail("realloc beyond the limit", limit);
            for (struct link *p = all, *next; p; p = next) {
                next = p->next;
                if (((char *)p)[p->size - 1] != 77)
                    fail("contents lost", p->size);
                free(p);
            }
            fprintf(stderr, "blocks of %zu: %zu%% of the limit\n", sizes[k], total * 100 / limit);
            if (total / (limit / 100) < least)
                fail(round ? "too little was handed out in the second round" : "too little was handed out", sizes[k]);
        }
    }
    puts("exhausted and recovered");
    return 0;
}
