/* measure: runs a program under an allocator and says what it took. Not a workload: the driver's stop watch.
 *
 *   measure REPORT LIBRARY PROGRAM [arguments…]   LIBRARY is preloaded into PROGRAM and what it starts; "" is none
 *   measure                                      prints the file that malloc comes from, here and now
 *
 * REPORT gets one line: wall user system (seconds) peak (KiB) minor major (page faults) status (exit status, or 128 +
 * the signal). Why not from the driver itself: the kernel lets a program begin with the peak of whoever became it, so
 * everything that is started from a Python process of 30 MB seems to need 30 MB. This process has one.
 *
 * SIGTERM is handed on to the program: a server is ended that way. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile pid_t child;

static void hand_on(int signal)
{
    if (child > 0) kill(child, signal);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double seconds(struct timeval t) { return (double)t.tv_sec + (double)t.tv_usec / 1e6; }

int main(int argc, char **argv)
{
    if (argc == 1) {
        Dl_info where;
        void *function = dlsym(RTLD_DEFAULT, "malloc");
        puts(function != NULL && dladdr(function, &where) != 0 ? where.dli_fname : "?");
        return 0;
    }
    if (argc < 4) {
        fprintf(stderr, "measure REPORT LIBRARY PROGRAM [arguments...]\n");
        return 2;
    }
    signal(SIGTERM, hand_on);
    signal(SIGINT, hand_on);
    double begin = now();
    child = fork();
    if (child == 0) {
        signal(SIGTERM, SIG_DFL);
        signal(SIGINT, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (argv[2][0] != 0) setenv("LD_PRELOAD", argv[2], 1);
        execvp(argv[3], argv + 3);
        fprintf(stderr, "measure: %s: %s\n", argv[3], strerror(errno));
        _exit(127);
    }
    int status;
    struct rusage usage;
    pid_t got;
    while ((got = wait4(child, &status, 0, &usage)) < 0 && errno == EINTR) continue;
    double wall = now() - begin;
    if (got != child) {
        perror("measure");
        return 1;
    }
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    FILE *report = fopen(argv[1], "w");
    if (report == NULL) {
        perror(argv[1]);
        return 1;
    }
    fprintf(report, "%.6f %.6f %.6f %ld %ld %ld %d\n", wall, seconds(usage.ru_utime), seconds(usage.ru_stime),
            usage.ru_maxrss, usage.ru_minflt, usage.ru_majflt, code);
    return fclose(report) == 0 && code == 0 ? 0 : 1;
}
