/* acre: the command. `acre run` runs a program on acre and reports its memory, `acre info` says what acre makes of this
 * machine, `acre help report` explains the report. This file dispatches and helps. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "acre/stats.h"
#include "tool.h"

void complain(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("acre: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

const char *read_file(const char *path, char *text, size_t bytes)
{
    text[0] = 0;
    FILE *f = fopen(path, "re");
    if (!f) return text;
    size_t n = fread(text, 1, bytes - 1, f);
    while (n > 0 && text[n - 1] == '\n') n--;
    text[n] = 0;
    fclose(f);
    return text;
}

void put_json_string(FILE *f, const char *text)
{
    fputc('"', f);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 32 || c > 126 || c == '"' || c == '\\') fprintf(f, "\\u%04x", c); /* bytes need not be UTF-8 */
        else fputc(c, f);
    }
    fputc('"', f);
}

static const char help_text[] =
    "acre: runs programs on the acre allocator and tells what memory they use.\n"
    "\n"
    "  acre run [options] [--] PROGRAM [ARGUMENTS…]   run a program on acre; its memory report at the end\n"
    "  acre info [--json]                             the address map and limits of this machine\n"
    "  acre help report                               what each row and column of the report means\n"
    "  acre help run, acre help info                  the options\n"
    "  acre --help, acre --version\n"
    "\n"
    "Without the command: LD_PRELOAD=libacre.so PROGRAM. Environment variables: docs/tuning.md.\n";

static void explain(const char *title, const char *meaning) { printf("  %-19s %s\n", title, meaning); }

static int help_report(void)
{
    puts("The report of `acre run` and of ACRE_STATS=1 is a ledger. In each column and in the total:\n"
         "  committed = live + cached + waste\n"
         "\nColumns:");
#define X(name, key, title, meaning) explain(title, meaning);
    ACRE_ALLOCATOR_LIST(X)
#undef X
    puts("\nRows:");
#define X(name, unit, title, meaning) explain(title, meaning);
    ACRE_LEDGER_LIST(X)
#undef X
    puts("\nBelow the table:");
#define X(name, unit, title, meaning) explain(title, meaning);
    ACRE_HEAP_FIGURES(X)
    ACRE_PROCESS_FIGURES(X)
#undef X
    puts("\nMore in docs/stats.md.");
    return 0;
}

static int help(int argc, char **argv)
{
    char option[] = "--help";
    char *arguments[] = {argc > 1 ? argv[1] : NULL, option, NULL};
    if (argc > 1 && strcmp(argv[1], "run") == 0) return command_run(2, arguments);
    if (argc > 1 && strcmp(argv[1], "info") == 0) return command_info(2, arguments);
    if (argc > 1 && strcmp(argv[1], "report") == 0) return help_report();
    if (argc > 1) {
        complain("there is no help on '%s'; there is on run, info and report", argv[1]);
        return EXIT_USAGE;
    }
    fputs(help_text, stdout);
    return 0;
}

static bool in_path(const char *name)
{
    if (strchr(name, '/')) return access(name, X_OK) == 0;
    const char *path = getenv("PATH");
    char file[4096];
    while (path && *path) {
        size_t n = strcspn(path, ":");
        snprintf(file, sizeof file, "%.*s/%s", (int)n, path, name);
        if (access(file, X_OK) == 0) return true;
        path += n + (path[n] == ':');
    }
    return false;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fputs(help_text, stderr);
        return EXIT_USAGE;
    }
    const char *command = argv[1];
    if (strcmp(command, "run") == 0) return command_run(argc - 1, argv + 1);
    if (strcmp(command, "info") == 0) return command_info(argc - 1, argv + 1);
    if (strcmp(command, "help") == 0) return help(argc - 1, argv + 1);
    if (strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0) return help(0, NULL);
    if (strcmp(command, "--version") == 0 || strcmp(command, "-V") == 0 || strcmp(command, "version") == 0) {
        puts("acre " ACRE_VERSION);
        return 0;
    }
    if (command[0] == '-') complain("unknown option '%s'", command);
    else if (in_path(command)) complain("unknown command '%s'. To run that program: acre run -- %s", command, command);
    else complain("unknown command '%s'. Commands are: run, info, help", command);
    fputs("Try 'acre --help'.\n", stderr);
    return EXIT_USAGE;
}
