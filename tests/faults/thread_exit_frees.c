/* thread_exit_frees: destructors of thread-local data allocate and free before acre's own has run and after it, in
 * every round that POSIX grants; and thousands of threads that end leave nothing behind. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

enum { KEYS = 40, THREADS = 1500 };

static pthread_key_t key[KEYS];
static _Atomic unsigned destructor_calls;

typedef struct note { unsigned key, rounds; char text[200]; } note;

static void ends(void *value)
{
    note *n = value;
    atomic_fetch_add(&destructor_calls, 1);
    CHECK(probe_all_bytes(n->text, (int)n->key, sizeof n->text));
    char *medium = malloc(20000), *small = calloc(1, 77);
    CHECK(medium && small && probe_all_bytes(small, 0, 77));
    memset(medium, 1, 20000);
    small = realloc(small, 3000);
    medium = realloc(medium, 100); /* without a cache of the thread as with one, it does not stay as large as it was */
    CHECK(medium && malloc_usable_size(medium) < 4096 && probe_all_bytes(medium, 1, 100));
    if (n->rounds > 0) { /* comes again in the next round: acre's destructor runs in the first */
        note *next = malloc(sizeof *next);
        *next = *n;
        next->rounds--;
        CHECK(pthread_setspecific(key[n->key], next) == 0);
    }
    free(small);
    free(medium);
    free(n);
}

static void *lives_shortly(void *seed)
{
    for (unsigned k = 0; k < KEYS; k += 1 + (unsigned)(uintptr_t)seed % 5) {
        note *n = malloc(sizeof *n);
        n->key = k;
        n->rounds = k % 3;
        memset(n->text, (int)k, sizeof n->text);
        CHECK(pthread_setspecific(key[k], n) == 0);
    }
    void *p[50];
    for (int i = 0; i < 50; i++) p[i] = malloc((size_t)i * i * 10);
    for (int i = 0; i < 50; i++) free(p[i]);
    if ((uintptr_t)seed % 2) pthread_exit(NULL);
    return NULL;
}

static size_t resident_kib(void)
{
    char text[128] = {0};
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fgets(text, sizeof text, f));
    fclose(f);
    return (size_t)strtoull(strchr(text, ' '), NULL, 10) * 4;
}

int main(void)
{
    void *first = malloc(1);
    CHECK(acre_owner(first) == acre_heap_process());
    for (int k = 0; k < KEYS; k++) CHECK(pthread_key_create(&key[k], ends) == 0);
    size_t after_some = 0;
    for (uintptr_t i = 0; i < THREADS; i++) {
        pthread_t t[2];
        for (uintptr_t k = 0; k < 2; k++) CHECK(pthread_create(&t[k], NULL, lives_shortly, (void *)(i + k)) == 0);
        for (int k = 0; k < 2; k++) CHECK(pthread_join(t[k], NULL) == 0);
        if (i == THREADS / 3) {
            malloc_trim(0);
            after_some = resident_kib();
        }
    }
    malloc_trim(0);
    size_t at_the_end = resident_kib();
    if (at_the_end > after_some + 2048) dprintf(2, "%zu KiB after a third, %zu at the end\n", after_some, at_the_end);
    CHECK(at_the_end <= after_some + 2048);
    CHECK(destructor_calls > THREADS * 8);
    CHECK(acre_heap_check(acre_heap_process()));
    return 0;
}
