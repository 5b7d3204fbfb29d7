/* fork_in_threads: 200 forks while 8 threads allocate. The child can allocate and free at once, blocks of the parent's
 * threads included, trim, start threads, and fork again; it must be done before its watchdog barks. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

enum { THREADS = 8, FORKS = 200, SHARED = 64 };

static _Atomic bool stop;
static char *_Atomic shared[SHARED]; /* blocks that anybody may take out and free */

static size_t size_of(uint64_t *random)
{
    unsigned r = (unsigned)(probe_random(random) % 100);
    return r < 80 ? probe_random(random) % 1000 : r < 98 ? probe_random(random) % 100000 : (33 << 20);
}

static void *works(void *seed)
{
    uint64_t random = (uintptr_t)seed;
    enum { LIVE = 40 };
    char *live[LIVE] = {NULL};
    while (!atomic_load(&stop)) {
        unsigned k = probe_random(&random) % LIVE;
        free(live[k]);
        size_t size = size_of(&random) + 1;
        CHECK((live[k] = malloc(size)) != NULL);
        live[k][0] = live[k][size - 1] = 1;
        char *p = malloc(500);
        memset(p, 0x3C, 500);
        free(atomic_exchange(&shared[k % SHARED], p));
        if (k == 0) malloc_trim(0);
    }
    for (int k = 0; k < LIVE; k++) free(live[k]);
    return NULL;
}

static void *allocates(void *unused)
{
    char *p[100];
    for (int i = 0; i < 100; i++) CHECK((p[i] = calloc(1, (size_t)i * 97)) != NULL);
    for (int i = 0; i < 100; i++) free(p[i]);
    return unused;
}

static void child(unsigned seed)
{
    alarm(20);
    uint64_t random = seed + 1;
    for (int i = 0; i < SHARED; i++) {
        char *p = atomic_exchange(&shared[i], NULL);
        if (p) CHECK(probe_all_bytes(p, 0x3C, 500));
        free(p);
    }
    char *p[200];
    for (int i = 0; i < 200; i++) {
        size_t size = size_of(&random) + 1;
        CHECK((p[i] = malloc(size)) != NULL);
        p[i][0] = p[i][size - 1] = 2;
    }
    for (int i = 0; i < 200; i++) free(p[i]);
    malloc_trim(0);
    pthread_t t;
    CHECK(pthread_create(&t, NULL, allocates, NULL) == 0);
    CHECK(pthread_join(t, NULL) == 0);
    if (seed % 10 == 0) {
        pid_t pid = fork();
        if (pid == 0) {
            allocates(NULL);
            _exit(0);
        }
        int status = -1;
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    }
    _exit(0);
}

int main(void)
{
    alarm(55);
    void *first = malloc(1);
    CHECK(acre_owner(first) == acre_heap_process());
    pthread_t t[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&t[i], NULL, works, (void *)(i + 1)) == 0);
    for (unsigned i = 0; i < FORKS; i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) child(i);
        int status = -1;
        CHECK(waitpid(pid, &status, 0) == pid);
        if (status != 0) dprintf(2, "child %u: wait status %#x\n", i, status);
        CHECK(status == 0);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    for (int i = 0; i < SHARED; i++) free(shared[i]);
    CHECK(acre_heap_check(acre_heap_process()));
    return 0;
}
