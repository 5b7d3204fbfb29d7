/*
 * Forks while threads allocate without pause, so that a fork falls into every state the allocator can be in. A child
 * checks
 * what its parent had, allocates, resizes and frees at once, starts a thread of its own, and then ends by _exit, by
 * exit or by exec
 * of this program; vfork, posix_spawn and popen have their turn. A child that hangs is ended by its alarm.
 *
 * usage: fork_exec CHILDREN
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static atomic_int stop;
static atomic_ulong allocations;
static char *inherited[500];

static int churn(unsigned x, int steps, size_t largest)
{
    char *p[100] = {0};
    size_t size[100] = {0};

    for (int step = 0; step < steps; step++) {
        x = x * 1103515245u + 12345u;
        size_t i = (x >> 8) % 100, n = 1 + (x >> 12) % ((x & 0xf00) == 0 ? largest : 600);
        if (p[i] && (p[i][0] != (char)i || p[i][size[i] - 1] != (char)i))
            return 1;
        if (x & 0x40000000) {
            p[i] = realloc(p[i], n);
        } else {
            free(p[i]);
            p[i] = malloc(n);
        }
        if (!p[i])
            return 2;
        memset(p[i], (int)i, n);
        size[i] = n;
    }
    for (size_t i = 0; i < 100; i++)
        free(p[i]);
    return 0;
}

static void *busy(void *argument)
{
    unsigned seed = (unsigned)(size_t)argument;

    while (!stop) {
        if (churn(seed++, 2000, 300000) != 0)
            abort();
        allocations += 2000;
    }
    return NULL;
}

static void *thread_of_child(void *argument)
{
    (void)argument;
    return (void *)(size_t)churn(5, 300, 100000);
}

static void child(int n, char *self)
{
    pthread_t id;
    void *result = NULL;

    alarm(30);
    for (size_t i = 0; i < 500; i++) {
        if (inherited[i][i * 11] != (char)i)
            _exit(20);
        if ((i + (size_t)n) % 3 == 0)
            free(inherited[i]);
    }
    if (churn((unsigned)n, 500, 1000000) != 0)
        _exit(21);
    if (n % 4 == 0) {
        if (pthread_create(&id, NULL, thread_of_child, NULL) != 0 || pthread_join(id, &result) != 0 || result)
            _exit(22);
    }
    if (n % 8 == 1) { /* a grandchild */
        pid_t pid = fork();
        int status = 0;
        if (pid == 0)
            _exit(churn(9, 300, 100000));
        if (waitpid(pid, &status, 0) != pid || status != 0)
            _exit(23);
    }
    switch (n % 3) {
    case 0:
        _exit(0);
    case 1:
        exit(0);
    default:
        execl(self, self, "child", (char *)NULL);
        _exit(24);
    }
}

static void reap(pid_t pid, const char *what, int n)
{
    int status = 0;

    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
        printf("%s %d: status %x\n", what, n, (unsigned)status);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    pthread_t id[4];
    char self[4096] = {0};

    if (argc != 2)
        return 2;
    if (strcmp(argv[1], "child") == 0)
        return churn(7, 1000, 1000000);
    if (readlink("/proc/self/exe", self, sizeof self - 1) <= 0)
        return 2;
    for (size_t i = 0; i < 500; i++) {
        inherited[i] = malloc(i * 11 + 1);
        memset(inherited[i], (int)i, i * 11 + 1);
    }
    for (size_t i = 0; i < 4; i++)
        pthread_create(&id[i], NULL, busy, (void *)(i + 100));

    int children = atoi(argv[1]);
    for (int n = 0; n < children; n += 2) { /* two at a time, while the threads go on */
        pid_t pid[2];
        for (int k = 0; k < 2; k++) {
            fflush(stdout);
            pid[k] = fork();
            if (pid[k] == 0)
                child(n + k, self);
        }
        for (int k = 0; k < 2; k++)
            reap(pid[k], "child", n + k);
    }
    for (int n = 0; n < 20; n++) {
        char *arguments[] = {self, "child", NULL};
        pid_t pid = vfork();
        if (pid == 0) {
            execv(self, arguments);
            _exit(25);
        }
        reap(pid, "vfork", n);
        if (posix_spawn(&pid, self, NULL, NULL, arguments, environ) != 0)
            return 1;
        reap(pid, "posix_spawn", n);
        char text[100] = "";
        FILE *f = popen("echo from a pipe", "r");
        if (!f || !fgets(text, sizeof text, f) || strcmp(text, "from a pipe\n") != 0 || pclose(f) != 0) {
            printf("popen %d\n", n);
            return 1;
        }
    }
    stop = 1;
    for (int i = 0; i < 4; i++)
        pthread_join(id[i], NULL);
    if (allocations == 0)
        return 1;
    printf("%d children, all well\n", children);
    return 0;
}
