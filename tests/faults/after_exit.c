/* after_exit: handlers of atexit, destructors of the program and threads that are still there allocate and free after
 * main has returned, acre's own destructors or not. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

static int report = -1; /* each that ran leaves a letter */
static char *from_main;

static void works(char letter)
{
    char *p[60];
    for (int i = 0; i < 60; i++) {
        CHECK((p[i] = malloc((size_t)i * i * 30 + 1)) != NULL);
        p[i][(size_t)i * i * 30] = letter;
    }
    for (int i = 0; i < 60; i++) CHECK((p[i] = realloc(p[i], (size_t)i * 100 + 1)) != NULL);
    for (int i = 0; i < 60; i++) free(p[i]);
    CHECK(write(report, &letter, 1) == 1);
}

static void handler_a(void) { works('a'); }
static void handler_b(void)
{
    free(from_main);
    works('b');
    if (atexit(handler_a) != 0) _exit(1); /* while it runs */
}
__attribute__((destructor(101))) static void destructor_last(void)
{
    if (report >= 0) works('z');
}
__attribute__((destructor)) static void destructor_first(void)
{
    if (report >= 0) works('d');
}

static void *never_ends(void *unused)
{
    for (;;) {
        void *p = malloc(100), *q = malloc(10000);
        CHECK(p && q);
        free(p);
        free(q);
    }
    return unused;
}

int main(void)
{
    int ends[2], status = -1;
    CHECK(pipe(ends) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        report = ends[1];
        from_main = malloc(12345);
        CHECK(acre_owner(from_main) == acre_heap_process());
        CHECK(atexit(handler_b) == 0);
        pthread_t t[2];
        for (int i = 0; i < 2; i++) CHECK(pthread_create(&t[i], NULL, never_ends, NULL) == 0);
        exit(3);
    }
    close(ends[1]);
    char letters[16] = {0};
    for (size_t n = 0; n < sizeof letters - 1 && read(ends[0], letters + n, 1) == 1; n++) {}
    CHECK(waitpid(pid, &status, 0) == pid);
    if (strcmp(letters, "badz") != 0) dprintf(2, "ran: \"%s\", wait status %#x\n", letters, status);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    CHECK(strcmp(letters, "badz") == 0);
    return 0;
}
