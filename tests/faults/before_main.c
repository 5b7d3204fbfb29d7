/* before_main: constructors of the first priority, which may run before acre's own, allocate, free, start a thread and
 * fork; what they made is whole in main and can be freed there. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

enum { BLOCKS = 60 };
static char *early[BLOCKS], *from_thread;
static int forked_status = -1;

static size_t size_of(int i) { return (size_t)i * i * i * 20; } /* to 4 MiB */

static void *allocates(void *unused)
{
    from_thread = malloc(5000);
    memset(from_thread, 4, 5000);
    free(malloc(100));
    return unused;
}

__attribute__((constructor(101))) static void first_of_all(void)
{
    free(NULL);
    void *p = calloc(10, 10);
    CHECK(p && probe_all_bytes(p, 0, 100));
    free(p);
    for (int i = 0; i < BLOCKS; i++) {
        CHECK((early[i] = malloc(size_of(i))) != NULL);
        probe_stamp(early[i], size_of(i), (unsigned)i);
    }
    p = NULL;
    CHECK(posix_memalign(&p, 4096, 100) == 0);
    free(p);
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < BLOCKS; i++) {
            CHECK(probe_stamped(early[i], size_of(i), size_of(i), (unsigned)i));
            free(early[i]);
        }
        CHECK((p = malloc(100000)) != NULL);
        free(p);
        _exit(7);
    }
    CHECK(waitpid(pid, &forked_status, 0) == pid);
    pthread_t t;
    CHECK(pthread_create(&t, NULL, allocates, NULL) == 0);
    CHECK(pthread_join(t, NULL) == 0);
}

int main(void)
{
    CHECK(WIFEXITED(forked_status) && WEXITSTATUS(forked_status) == 7);
    CHECK(acre_owner(from_thread) == acre_heap_process() && probe_all_bytes(from_thread, 4, 5000));
    free(from_thread);
    for (int i = 0; i < BLOCKS; i++) {
        CHECK(acre_owner(early[i]) == acre_heap_process());
        CHECK(probe_stamped(early[i], size_of(i), size_of(i), (unsigned)i));
        free(early[i]);
    }
    CHECK(acre_heap_check(acre_heap_process()));
    return 0;
}
