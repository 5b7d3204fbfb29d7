/* tool: what the parts of the `acre` command share. */
#ifndef ACRE_TOOLS_TOOL_H
#define ACRE_TOOLS_TOOL_H

#include <stdbool.h>
#include <stddef.h>

#ifndef ACRE_VERSION
#define ACRE_VERSION "unknown"
#endif

/* Exit codes of `acre` itself; `acre run` otherwise exits as the program did. */
enum { EXIT_USAGE = 2, EXIT_TROUBLE = 125, EXIT_CANNOT_RUN = 126, EXIT_NOT_FOUND = 127 };

/* Each takes its own name as argv[0] and returns the exit code. */
int command_run(int argc, char **argv);
int command_info(int argc, char **argv);

/* "acre: " and a line on standard error. */
__attribute__((format(printf, 1, 2))) void complain(const char *format, ...);
/* A file of /proc or /sys without the newline at its end; "" when there is none. Returns text. */
const char *read_file(const char *path, char *text, size_t bytes);
/* A string for JSON or a shell-like listing, with its quotes, to standard output's buffer or any other stream. */
struct _IO_FILE;
void put_json_string(struct _IO_FILE *f, const char *text);

#endif
