/*
 * Mixed sizes from one generator: allocate, resize, free and check contents; prints one line of checksum, which does
 * not
 * depend on addresses. Used where a whole program would be too much: under valgrind and under small limits.
 *
 * usage: mix STEPS MAX_BYTES THREADS
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 512 };

static unsigned long steps, max_bytes;

struct slot {
    unsigned char *block;
    size_t size;
    unsigned char seed;
};

static uint32_t next(uint32_t *x)
{
    *x = *x * 1103515245u + 12345u;
    return *x >> 8;
}

static void fill(struct slot *s)
{
    for (size_t i = 0; i < s->size; i++)
        s->block[i] = (unsigned char)(s->seed + i * 7);
}

static void check(const struct slot *s, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (s->block[i] != (unsigned char)(s->seed + i * 7)) {
            printf("byte %zu of a block of %zu is wrong\n", i, s->size);
            exit(1);
        }
    }
}

static void need(int holds, const char *what)
{
    if (!holds) {
        printf("wrong: %s\n", what);
        exit(1);
    }
}

static void *work(void *argument)
{
    struct slot slots[SLOTS] = {0};
    uint32_t x = 1u + (uint32_t)(uintptr_t)argument;
    uintptr_t sum = 0;

    for (unsigned long step = 0; step < steps; step++) {
        struct slot *s = &slots[next(&x) % SLOTS];
        uint32_t kind = next(&x) % 8;
        size_t size = next(&x) % (kind == 0 ? max_bytes : kind < 3 ? 3000 : 200);
        unsigned char seed = (unsigned char)next(&x);

        if (s->block && kind == 4) { /* resize, contents kept */
            size_t kept = s->size < size ? s->size : size;
            unsigned char *moved = realloc(s->block, size + 1);
            need(moved != NULL, "realloc");
            s->block = moved;
            check(s, kept);
        } else {
            if (s->block)
                check(s, s->size);
            free(s->block);
            if (kind == 5) {
                s->block = calloc(size + 1, 1);
                need(s->block != NULL, "calloc");
                for (size_t i = 0; i <= size; i++)
                    need(s->block[i] == 0, "calloc's block is zero");
            } else if (kind == 6) {
                size_t align = (size_t)16 << next(&x) % 9;
                void *p = NULL;
                need(posix_memalign(&p, align, size + 1) == 0, "posix_memalign");
                need(((uintptr_t)p & (align - 1)) == 0, "alignment");
                s->block = p;
            } else {
                s->block = malloc(size + 1);
                need(s->block != NULL, "malloc");
                need(((uintptr_t)s->block & 15) == 0 || size + 1 < 16, "alignment of 16");
            }
        }
        s->size = size + 1;
        s->seed = seed;
        fill(s);
        sum = sum * 31 + size + s->block[size / 2];
    }
    for (int i = 0; i < SLOTS; i++) {
        if (slots[i].block)
            check(&slots[i], slots[i].size);
        free(slots[i].block);
    }
    return (void *)(sum & 0xffffffff);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    steps = strtoul(argv[1], NULL, 10);
    max_bytes = strtoul(argv[2], NULL, 10);
    long threads = strtol(argv[3], NULL, 10);
    pthread_t id[64];
    void *sum;

    if (threads < 1 || threads > 64)
        return 2;
    for (long i = 0; i < threads; i++)
        if (pthread_create(&id[i], NULL, work, (void *)i) != 0)
            return 3;
    for (long i = 0; i < threads; i++) {
        pthread_join(id[i], &sum);
        printf("thread %ld: %lx\n", i, (unsigned long)(uintptr_t)sum);
    }
    return 0;
}
