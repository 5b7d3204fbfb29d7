/* errno_rules: free and every success leave errno alone, also on the slow paths; a failure sets it. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

enum { MARK = 4711 };

static void *keeps_errno(void *unused)
{
    const size_t sizes[] = {1, 100, 4096, 4097, 100000, 3 << 20, 40 << 20, (size_t)17 << 30};
    for (int round = 0; round < 3; round++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            enum { MOST = 2000 };
            static _Thread_local void *p[MOST];
            int n = sizes[s] <= 4096 ? MOST : sizes[s] <= 100000 ? 100 : 2;
            errno = MARK;
            for (int i = 0; i < n; i++) CHECK((p[i] = malloc(sizes[s])) != NULL && errno == MARK);
            for (int i = 0; i < n && sizes[s] < (size_t)1 << 30; i++)
                CHECK((p[i] = realloc(p[i], sizes[s] + sizes[s] / 3)) != NULL && errno == MARK);
            for (int i = 0; i < n; i++) {
                free(p[i]);
                CHECK(errno == MARK);
            }
            if (sizes[s] < (size_t)1 << 30) {
                CHECK((p[0] = calloc(1, sizes[s])) != NULL && errno == MARK);
                CHECK((p[1] = aligned_alloc(8192, sizes[s])) != NULL && errno == MARK);
                free(p[0]);
                free(p[1]);
            }
            free(NULL);
            malloc_trim(0);
            CHECK(errno == MARK);
        }
    return unused;
}

int main(void)
{
    void *p = malloc(1);
    CHECK(acre_owner(p) == acre_heap_process());
    free(p);
    keeps_errno(NULL);
    pthread_t t; /* a new thread begins with misses */
    CHECK(pthread_create(&t, NULL, keeps_errno, NULL) == 0);
    pthread_join(t, NULL);
    errno = MARK;
    CHECK(malloc(SIZE_MAX) == NULL && errno == ENOMEM);
    CHECK((p = malloc(10)) != NULL && errno == ENOMEM); /* a success does not clear it */
    errno = MARK;
    CHECK(realloc(p, SIZE_MAX) == NULL && errno == ENOMEM);
    errno = MARK;
    CHECK(malloc((size_t)1 << 47) == NULL && errno == ENOMEM); /* refused by the system, after a trim of everything */
    errno = MARK;
    void *q = NULL;
    CHECK(posix_memalign(&q, 64, (size_t)1 << 47) == ENOMEM && errno == MARK);
    free(p);
    return 0;
}
