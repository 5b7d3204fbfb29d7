/* run: `acre run`, a program on acre and its memory report.
 *
 * The library goes into LD_PRELOAD and each process of the program writes its report as JSON into a private folder when
 * it ends (ACRE_STATS_FILE with %p). When the main process has ended the reports are read back: its own is shown in
 * full, one line for each other process. What is still running then (a daemon) is not waited for.
 *
 * The program is a child, so that its resource usage is known; signals that somebody sends to `acre run` are passed on,
 * those from the terminal reach the child anyway. The exit status is the program's, 128 + n if signal n ended it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <glob.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "debug/report.h"
#include "heap/options.h"
#include "os/os.h"
#include "tool.h"

enum { OTHERS_MAX = 4096, OTHERS_SHOWN = 40, REPORT_FILE_BYTES = 65536, LIBRARY_BYTES = 4096, FOLDER_BYTES = 64 };

static const char help_text[] =
    "acre run [options] [--] PROGRAM [ARGUMENTS…]\n"
    "\n"
    "Runs PROGRAM on acre. When it has ended, says on standard error what memory it used, by allocator. Exits with\n"
    "the program's exit status; 128 + N: signal N ended it; 127: not found; 126: cannot be run; 125: acre failed.\n"
    "\n"
    "  -j, --json             the report as JSON\n"
    "  -o, --report FILE      the report to FILE instead of standard error\n"
    "  -q, --quiet            no report on standard error; what went wrong is still said\n"
    "      --fill             clear values: 0xFA in new blocks, 0xFF in freed ones (ACRE_FILL=1)\n"
    "      --on-error WHAT    at a double or foreign free: abort (the default), report, or ignore\n"
    "      --budget SIZE      the program may hold no more than this: malloc fails beyond it\n"
    "      --cache SIZE       free memory kept at most, per allocator; default 64M\n"
    "      --purge-delay MS   free memory older than this goes back; default 500; 'never'\n"
    "      --reserve SIZE     address space to reserve; default 640G\n"
    "  -h, --help\n"
    "\n"
    "SIZE is digits and K, M, G or T. The library is libacre.so beside this program, in ../lib, or $ACRE_LIB.\n"
    "'acre help report' explains the report. Calls are counted, which costs some speed: for timing, preload instead.\n";

typedef struct settings {
    bool json, quiet;
    const char *report_file;
    char library[LIBRARY_BYTES]; /* what goes into LD_PRELOAD */
    char folder[FOLDER_BYTES];   /* of the reports */
    char **command;
} settings;

/* --- options ------------------------------------------------------------------------------------------------------ */

static bool set_bytes(const char *option, const char *variable, const char *value)
{
    size_t bytes;
    if (options_parse_bytes(value, &bytes)) return setenv(variable, value, 1) == 0;
    complain("--%s '%s': not a size; write digits and K, M, G or T", option, value);
    return false;
}

static bool set_delay(const char *value)
{
    size_t ms;
    if (strcmp(value, "never") == 0 || (options_parse_bytes(value, &ms) && ms < UINT32_MAX))
        return setenv("ACRE_PURGE_DELAY_MS", value, 1) == 0;
    complain("--purge-delay '%s': write milliseconds, or never", value);
    return false;
}

static bool set_on_error(const char *value)
{
    if (strcmp(value, "abort") == 0 || strcmp(value, "report") == 0 || strcmp(value, "ignore") == 0)
        return setenv("ACRE_ON_ERROR", value, 1) == 0;
    complain("--on-error '%s': write abort, report or ignore", value);
    return false;
}

/* 0: go on; otherwise what to exit with, or -1 after --help. */
static int read_options(settings *s, int argc, char **argv)
{
    enum { FILL = 256, RESERVE, PURGE_DELAY, CACHE, BUDGET, ON_ERROR };
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'},
        {"report", required_argument, NULL, 'o'},
        {"quiet", no_argument, NULL, 'q'},
        {"help", no_argument, NULL, 'h'},
        {"fill", no_argument, NULL, FILL},
        {"reserve", required_argument, NULL, RESERVE},
        {"purge-delay", required_argument, NULL, PURGE_DELAY},
        {"cache", required_argument, NULL, CACHE},
        {"budget", required_argument, NULL, BUDGET},
        {"on-error", required_argument, NULL, ON_ERROR},
        {NULL, 0, NULL, 0},
    };
    char name[] = "acre run"; /* getopt's messages begin with it */
    argv[0] = name;
    bool ok = true;
    for (int c; ok && (c = getopt_long(argc, argv, "+jo:qh", options, NULL)) != -1;) {
        switch (c) {
        case 'j': s->json = true; break;
        case 'o': s->report_file = optarg; break;
        case 'q': s->quiet = true; break;
        case 'h': fputs(help_text, stdout); return -1;
        case FILL: ok = setenv("ACRE_FILL", "1", 1) == 0; break;
        case RESERVE: ok = set_bytes("reserve", "ACRE_RESERVE", optarg); break;
        case CACHE: ok = set_bytes("cache", "ACRE_CACHE_BYTES", optarg); break;
        case BUDGET: ok = set_bytes("budget", "ACRE_BUDGET", optarg); break;
        case PURGE_DELAY: ok = set_delay(optarg); break;
        case ON_ERROR: ok = set_on_error(optarg); break;
        default: ok = false; break;
        }
    }
    if (ok && optind == argc) {
        complain("run: which program?");
        ok = false;
    }
    if (!ok) fputs("Try 'acre run --help'.\n", stderr);
    s->command = argv + optind;
    return ok ? 0 : EXIT_USAGE;
}

/* --- the library -------------------------------------------------------------------------------------------------- */

static bool is_readable_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode) && access(path, R_OK) == 0;
}

static bool find_library(char *library)
{
    const char *named = getenv("ACRE_LIB");
    if (named && *named) {
        if (realpath(named, library) && is_readable_file(library)) return true;
        complain("ACRE_LIB names '%s', which is no file that can be read", named);
        return false;
    }
    char here[LIBRARY_BYTES];
    ssize_t n = readlink("/proc/self/exe", here, sizeof here - 1);
    here[n > 0 ? n : 0] = 0;
    char *slash = strrchr(here, '/');
    if (slash) *slash = 0;
    /* Beside the tool as built; where an installation puts it: lib, lib64, or Debian's lib/<machine>. */
    static const char *const places[] = {"%s/libacre.so", "%s/../lib/libacre.so", "%s/../lib64/libacre.so",
                                         "%s/../lib/*-linux-gnu/libacre.so"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char pattern[LIBRARY_BYTES + 64];
        glob_t found;
        snprintf(pattern, sizeof pattern, places[i], here);
        bool ok = i == 3 ? glob(pattern, 0, NULL, &found) == 0 : false;
        const char *path = ok ? found.gl_pathv[0] : pattern;
        bool usable = is_readable_file(path) && realpath(path, library) != NULL;
        if (ok) globfree(&found);
        if (usable) return true;
    }
    complain("there is no libacre.so in %s, ../lib or ../lib64; name one by ACRE_LIB", here);
    return false;
}

/* The dynamic linker splits LD_PRELOAD at spaces and colons: a link in the folder stands in for such a path. */
static bool make_preloadable(settings *s)
{
    if (!strpbrk(s->library, " \t\n:")) return true;
    char link[FOLDER_BYTES + 32];
    snprintf(link, sizeof link, "%s/libacre.so", s->folder);
    if (symlink(s->library, link) != 0) return false;
    strcpy(s->library, link);
    return true;
}

static bool set_environment(const settings *s)
{
    char file[FOLDER_BYTES + 32];
    const char *other = getenv("LD_PRELOAD");
    char *preload;
    snprintf(file, sizeof file, "%s/%%p.json", s->folder);
    if (asprintf(&preload, "%s%s%s", s->library, other && *other ? ":" : "", other ? other : "") < 0) return false;
    bool ok = setenv("LD_PRELOAD", preload, 1) == 0 && setenv("ACRE_STATS", "json", 1) == 0 &&
              setenv("ACRE_STATS_FILE", file, 1) == 0;
    free(preload);
    return ok;
}

static bool make_folder(char *folder)
{
    const char *parent = getenv("TMPDIR");
    if (!parent || parent[0] != '/' || strlen(parent) > 32 || strpbrk(parent, " :%")) parent = "/tmp";
    snprintf(folder, FOLDER_BYTES, "%s/acre-run.XXXXXX", parent);
    return mkdtemp(folder) != NULL;
}

/* The folder and the files in it; they are all ours. */
static void remove_folder(const char *folder)
{
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.') unlinkat(dirfd(d), e->d_name, 0);
    if (d) closedir(d);
    rmdir(folder);
}

/* --- the program -------------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t child_id;
static const int relayed[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
enum { RELAYED = sizeof relayed / sizeof *relayed };

static void relay(int signal, siginfo_t *info, void *context)
{
    (void)context;
    int saved = errno;
    /* From the kernel: the terminal sent it to the whole group, so the child has it already. */
    if (info->si_code <= 0 && child_id > 0) kill((pid_t)child_id, signal);
    errno = saved;
}

/* In the child. Does not return; a failure is written to the pipe. */
static _Noreturn void become(char **command, const sigset_t *mask, int pipe_fd)
{
    for (int i = 0; i < RELAYED; i++) signal(relayed[i], SIG_DFL);
    sigprocmask(SIG_SETMASK, mask, NULL);
    execvp(command[0], command);
    int why = errno;
    (void)!write(pipe_fd, &why, sizeof why);
    _exit(EXIT_TROUBLE);
}

typedef struct outcome {
    pid_t id;
    int status;
    struct rusage usage;
    double seconds;
} outcome;

static int exit_code(const outcome *o)
{
    return WIFSIGNALED(o->status) ? 128 + WTERMSIG(o->status) : WEXITSTATUS(o->status);
}

static double now_seconds(void) { return (double)os_now_ns() / 1e9; }

/* Runs the command and waits for it. 0, or why it did not come to that. */
static int run_program(char **command, outcome *o)
{
    int ends[2];
    sigset_t block, before;
    if (pipe2(ends, O_CLOEXEC) != 0) return errno;
    sigemptyset(&block);
    for (int i = 0; i < RELAYED; i++) sigaddset(&block, relayed[i]);
    sigprocmask(SIG_BLOCK, &block, &before);
    double start = now_seconds();
    pid_t id = fork();
    if (id == 0) become(command, &before, ends[1]);
    int why = id < 0 ? errno : 0;
    close(ends[1]);
    if (id > 0) {
        child_id = id;
        struct sigaction action = {.sa_sigaction = relay, .sa_flags = SA_SIGINFO | SA_RESTART};
        for (int i = 0; i < RELAYED; i++) sigaction(relayed[i], &action, NULL);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (id > 0) {
        ssize_t n;
        while ((n = read(ends[0], &why, sizeof why)) < 0 && errno == EINTR) {}
        if (n != (ssize_t)sizeof why) why = 0;
        while (wait4(id, &o->status, 0, &o->usage) < 0 && errno == EINTR) {}
        child_id = 0;
        o->id = id;
        o->seconds = now_seconds() - start;
    }
    close(ends[0]);
    return why;
}

/* --- the reports -------------------------------------------------------------------------------------------------- */

typedef enum found { FOUND_NONE, FOUND_BROKEN, FOUND } found;

static found read_report(const char *folder, const char *name, report *r)
{
    char path[FOLDER_BYTES + 272], *text = malloc(REPORT_FILE_BYTES);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    found result = FOUND_NONE;
    if (fd >= 0 && text) {
        size_t used = 0;
        for (ssize_t n; used < REPORT_FILE_BYTES - 1; used += (size_t)n)
            if ((n = read(fd, text + used, REPORT_FILE_BYTES - 1 - used)) <= 0) break;
        text[used] = 0;
        result = report_parse(r, text) ? FOUND : FOUND_BROKEN;
    }
    if (fd >= 0) close(fd);
    free(text);
    return result;
}

typedef struct other {
    int id;
    uint64_t peak;
} other;

typedef struct others {
    size_t count, broken;
    other *list; /* largest peak first */
} others;

static int by_peak(const void *a, const void *b)
{
    const other *x = a, *y = b;
    if (x->peak != y->peak) return x->peak < y->peak ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void find_others(const settings *s, pid_t main_id, others *o)
{
    DIR *d = opendir(s->folder);
    report *r = malloc(sizeof *r);
    o->list = calloc(OTHERS_MAX, sizeof *o->list);
    for (struct dirent *e; d && r && o->list && (e = readdir(d)) != NULL;) {
        int id = atoi(e->d_name);
        if (id <= 0 || id == main_id || o->count == OTHERS_MAX) continue;
        found what = read_report(s->folder, e->d_name, r);
        if (what == FOUND) o->list[o->count++] = (other){id, r->stats.all.total.peak_bytes};
        else o->broken += what == FOUND_BROKEN;
    }
    if (d) closedir(d);
    free(r);
    if (o->list) qsort(o->list, o->count, sizeof *o->list, by_peak);
}

static const char *describe_end(const outcome *o, char *text, size_t bytes)
{
    if (WIFSIGNALED(o->status)) {
        const char *name = sigabbrev_np(WTERMSIG(o->status));
        snprintf(text, bytes, "ended by signal %d (SIG%s)", WTERMSIG(o->status), name ? name : "?");
    } else {
        snprintf(text, bytes, "exit status %d", WEXITSTATUS(o->status));
    }
    return text;
}

static void say_missing(const settings *s, const outcome *o, found what, size_t others_found)
{
    char end[64];
    const char *program = s->command[0];
    if (what == FOUND_BROKEN) {
        complain("the report of %s is cut off: it was killed while it wrote it, or the disk is full", program);
    } else if (WIFSIGNALED(o->status)) {
        complain("%s left no report: %s before it could write one", program, describe_end(o, end, sizeof end));
    } else {
        complain("%s left no report: it ended by _exit or a system call of its own, or acre was not in it (a static "
                 "or 32-bit program, one with setuid, or one that clears its environment)%s",
                 program, others_found ? "; other processes did" : "");
    }
}

static void write_text(const settings *s, const outcome *o, const report *r, const others *rest, int fd)
{
    char peak[REPORT_FIGURE_BYTES], minor[REPORT_FIGURE_BYTES], major[REPORT_FIGURE_BYTES], end[64];
    if (r) {
        report_write_text(fd, r);
        dprintf(fd, "\n");
    }
    dprintf(fd, "%-19s%11s  most at once, of the largest process waited for\n", "peak resident",
            report_bytes(peak, (uint64_t)o->usage.ru_maxrss * 1024));
    dprintf(fd, "%-19s%11s  and %s that read from disk\n", "page faults",
            report_count(minor, (uint64_t)o->usage.ru_minflt), report_count(major, (uint64_t)o->usage.ru_majflt));
    dprintf(fd, "%-19s%8.2f s  of which %.2f s user, %.2f s system\n", "time", o->seconds,
            (double)o->usage.ru_utime.tv_sec + (double)o->usage.ru_utime.tv_usec / 1e6,
            (double)o->usage.ru_stime.tv_sec + (double)o->usage.ru_stime.tv_usec / 1e6);
    dprintf(fd, "%-19s  %s\n", s->command[0], describe_end(o, end, sizeof end));
    report *each = malloc(sizeof *each);
    for (size_t i = 0; each && i < rest->count && i < OTHERS_SHOWN; i++) {
        char name[32];
        snprintf(name, sizeof name, "%d.json", rest->list[i].id);
        if (read_report(s->folder, name, each) != FOUND) continue;
        const acre_ledger *total = &each->stats.all.total;
        char figures[4][REPORT_FIGURE_BYTES];
        if (i == 0)
            dprintf(fd, "\n%-8s %-22s%12s%12s%12s%14s\n", "process", "program", "peak", "live", "committed",
                    "allocations");
        dprintf(fd, "%-8d %-22.21s%12s%12s%12s%14s\n", each->process_id, each->program,
                report_bytes(figures[0], total->peak_bytes), report_bytes(figures[1], total->live_bytes),
                report_bytes(figures[2], total->committed_bytes), report_count(figures[3], total->allocs));
    }
    free(each);
    if (rest->count > OTHERS_SHOWN) dprintf(fd, "and %zu more with lower peaks\n", rest->count - OTHERS_SHOWN);
    if (rest->broken) dprintf(fd, "and %zu processes whose reports are cut off\n", rest->broken);
}

static void write_json(const settings *s, const outcome *o, const report *r, const others *rest, int fd)
{
    FILE *f = fdopen(dup(fd), "w");
    if (!f) return;
    fputs("{\n  \"command\": [", f);
    for (char **a = s->command; *a; a++) {
        if (a != s->command) fputs(", ", f);
        put_json_string(f, *a);
    }
    fprintf(f, "],\n  \"exit_status\": %d,\n", exit_code(o));
    fprintf(f, "  \"signal\": %d,\n", WIFSIGNALED(o->status) ? WTERMSIG(o->status) : 0);
    fprintf(f, "  \"seconds\": %.3f,\n  \"peak_resident_bytes\": %" PRIu64 ",\n", o->seconds,
            (uint64_t)o->usage.ru_maxrss * 1024);
    fprintf(f, "  \"page_faults\": %ld,\n  \"page_faults_from_disk\": %ld,\n", o->usage.ru_minflt, o->usage.ru_majflt);
    fputs("  \"report\": ", f);
    fflush(f);
    if (r) report_write_json(fd, r, 2);
    else fputs("null", f);
    fputs(",\n  \"other_processes\": [", f);
    report *each = malloc(sizeof *each);
    const char *separator = "\n    ";
    for (size_t i = 0; each && i < rest->count; i++) {
        char name[32];
        snprintf(name, sizeof name, "%d.json", rest->list[i].id);
        if (read_report(s->folder, name, each) != FOUND) continue;
        fputs(separator, f);
        fflush(f);
        report_write_json(fd, each, 4);
        separator = ",\n    ";
    }
    free(each);
    fputs("]\n}\n", f);
    fclose(f);
}

/* Returns false when the file of --report cannot be written. */
static bool write_reports(const settings *s, const outcome *o)
{
    report *r = malloc(sizeof *r);
    char name[32];
    others rest = {0};
    snprintf(name, sizeof name, "%d.json", (int)o->id);
    found what = r ? read_report(s->folder, name, r) : FOUND_NONE;
    find_others(s, o->id, &rest);
    if (what != FOUND) say_missing(s, o, what, rest.count);
    int fd = 2;
    if (s->report_file) fd = open(s->report_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) complain("cannot write the report to '%s': %s", s->report_file, strerror(errno));
    else if (s->json && !(s->quiet && fd == 2)) write_json(s, o, what == FOUND ? r : NULL, &rest, fd);
    else if (!(s->quiet && fd == 2)) write_text(s, o, what == FOUND ? r : NULL, &rest, fd);
    bool ok = fd >= 0 && (fd == 2 || close(fd) == 0);
    free(rest.list);
    free(r);
    return ok;
}

static int explain_failure(const char *program, int why)
{
    if (why == ENOENT && !strchr(program, '/')) complain("there is no program '%s' in PATH", program);
    else complain("cannot run '%s': %s", program, strerror(why));
    return why == ENOENT || why == ENOTDIR ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN;
}

int command_run(int argc, char **argv)
{
    settings s = {0};
    int code = read_options(&s, argc, argv);
    if (code != 0) return code < 0 ? 0 : code;
    if (!find_library(s.library)) return EXIT_TROUBLE;
    if (!make_folder(s.folder)) {
        complain("cannot make a folder for the reports: %s", strerror(errno));
        return EXIT_TROUBLE;
    }
    outcome o = {0};
    if (!make_preloadable(&s) || !set_environment(&s)) {
        complain("cannot set up the environment: %s", strerror(errno));
        code = EXIT_TROUBLE;
        goto remove_folder;
    }
    int why = run_program(s.command, &o);
    if (why != 0) {
        code = o.id ? explain_failure(s.command[0], why) : EXIT_TROUBLE;
        if (!o.id) complain("cannot start a process: %s", strerror(why));
        goto remove_folder;
    }
    code = exit_code(&o);
    if (!write_reports(&s, &o) && code == 0) code = EXIT_TROUBLE;
remove_folder:
    remove_folder(s.folder);
    return code;
}
