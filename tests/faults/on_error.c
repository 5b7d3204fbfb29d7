/* on_error: ACRE_ON_ERROR=report goes on after the line, =ignore goes on silently, a word that makes no sense is named
 * and means abort. The bad free is not carried out in any of them, and the heap stays in order. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

static int misuses(void)
{
    char *p = malloc(10000), *q = malloc(10000), *small = malloc(100);
    memset(q, 5, 10000);
    free(p);
    free(p);
    free(&p);
    free(q + 512);
    free(small);
    free(small);
    acre_trim(0);
    CHECK(probe_all_bytes(q, 5, 10000));
    CHECK(acre_heap_check(acre_heap_process()));
    char *r = malloc(10000), *s = malloc(10000);
    CHECK(r != s && r != q && s != q);
    return 0;
}

/* Runs this program again with the policy; says what it wrote to standard error and how it ended. */
static int with_policy(const char *policy, char *said, size_t bytes)
{
    int ends[2], status = -1;
    CHECK(pipe(ends) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        setenv("ACRE_ON_ERROR", policy, 1);
        dup2(ends[1], 2);
        close(ends[0]);
        execl("/proc/self/exe", "on_error", "misuse", NULL);
        _exit(126);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; n < bytes - 1 && (got = read(ends[0], said + n, bytes - 1 - n)) > 0;) n += (size_t)got;
    said[n] = 0;
    close(ends[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    return status;
}

static int lines(const char *text)
{
    int n = 0;
    for (; (text = strstr(text, "acre: free(0x")) != NULL; text++) n++;
    return n;
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1) return misuses();
    char said[4096];
    int status = with_policy("report", said, sizeof said);
    if (status != 0 || lines(said) != 4) dprintf(2, "report: status %#x, said:\n%s", status, said);
    CHECK(status == 0 && lines(said) == 4);
    status = with_policy("ignore", said, sizeof said);
    CHECK(status == 0 && said[0] == 0);
    status = with_policy("abort", said, sizeof said);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && lines(said) == 1);
    status = with_policy("perhaps", said, sizeof said);
    CHECK(WIFSIGNALED(status) && strstr(said, "acre: ACRE_ON_ERROR: ") != NULL && lines(said) == 1);
    return 0;
}
