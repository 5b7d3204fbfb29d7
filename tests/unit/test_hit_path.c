/* test_hit_path: the hit path of malloc and free is as short as api/malloc.c says, counted in the library that was
 * built.
 *
 * objdump disassembles libacre.so; counted are the instructions from the entry of a function to its first ret, which
 * is the straight line that a hit takes. Only for optimised builds on x86-64; others skip. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "probe.h"

static char library[4096];

/* Beside the folder of this program: build/tests/x -> build/libacre.so */
static bool find_library(void)
{
    ssize_t n = readlink("/proc/self/exe", library, sizeof library - 32);
    if (n < 0) return false;
    library[n] = 0;
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(library, '/');
        if (!slash) return false;
        *slash = 0;
    }
    strcat(library, "/libacre.so");
    return access(library, R_OK) == 0;
}

/* Instructions up to and with the first ret; 0: there is no such function, or no objdump. */
static int count_to_ret(const char *function, bool print)
{
    char command[8192], line[512], head[128];
    snprintf(command, sizeof command, "objdump -d --no-show-raw-insn '--disassemble=%s' '%s' 2>&1", function, library);
    snprintf(head, sizeof head, "<%s>:", function);
    FILE *f = popen(command, "r");
    if (!f) return 0;
    int count = 0;
    bool inside = false, ended = false;
    while (fgets(line, sizeof line, f)) {
        if (strstr(line, head)) {
            inside = true;
            continue;
        }
        char *colon = strchr(line, ':');
        if (!inside || ended || !colon || line[0] != ' ') continue;
        const char *op = colon + 1 + strspn(colon + 1, " \t");
        if (strncmp(op, "endbr64", 7) == 0) continue;
        count++;
        if (print) fputs(line, stdout);
        ended = strncmp(op, "ret", 3) == 0 || strncmp(op, "repz ret", 8) == 0;
    }
    pclose(f);
    return ended ? count : 0;
}

static void takes_at_most(const char *function, int most)
{
    int count = count_to_ret(function, false);
    if (count > most) count_to_ret(function, true);
    if (count == 0 || count > most)
        fail_msg("%s: %d instructions from its entry to its first ret, not %d", function, count, most);
}

static void a_hit_in_malloc_takes_14_instructions(void **state)
{
    (void)state;
    takes_at_most("malloc", 14);
}

static void a_hit_in_free_takes_16_instructions(void **state)
{
    (void)state;
    takes_at_most("free", 16);
}

int main(void)
{
#if !defined(__x86_64__) || !defined(__OPTIMIZE__) || defined(ACRE_NO_OVERRIDE)
    return PROBE_SKIPPED;
#endif
    if (!find_library() || system("objdump --version >/dev/null 2>&1") != 0) return PROBE_SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hit_in_malloc_takes_14_instructions),
        cmocka_unit_test(a_hit_in_free_takes_16_instructions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
