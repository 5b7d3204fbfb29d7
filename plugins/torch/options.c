/* options: the environment, read once. A value that cannot be understood is named on stderr, with the name of its
 * variable, and the default stands: an allocator that ends the program for a typing error helps nobody. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

enum { EMPTY_PERCENT_DEFAULT = 1000000, DELAY_MS_DEFAULT = 30000 };

static plugin_options options;
static pthread_once_t options_once = PTHREAD_ONCE_INIT;

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static void complain(const char *name, const char *value)
{
    fprintf(stderr, "acre: %s=%s is not understood; the default is used\n", name, value);
}

/* "64", "512K", "1.5G". *end is left behind the number. False: no number, or too large. */
static bool parse_bytes(const char *from, const char **end, uint64_t *bytes)
{
    char *after;
    errno = 0;
    double number = strtod(from, &after);
    if (after == from || errno != 0 || !(number >= 0)) return false;
    double unit = 1;
    switch (*after) {
    case 'k': case 'K': unit = 1024; break;
    case 'm': case 'M': unit = 1048576; break;
    case 'g': case 'G': unit = 1073741824; break;
    case 't': case 'T': unit = 1099511627776; break;
    default: break;
    }
    if (unit > 1) after++;
    if (number * unit >= 9e18) return false;
    *bytes = (uint64_t)(number * unit);
    *end = after;
    return true;
}

static void read_bytes(const char *name, uint64_t *bytes)
{
    const char *value = variable(name), *end;
    uint64_t number;
    if (!value) return;
    if (parse_bytes(value, &end, &number) && *end == 0) *bytes = number;
    else complain(name, value);
}

static void read_number(const char *name, uint32_t *number)
{
    uint64_t wide = *number;
    read_bytes(name, &wide);
    if (wide <= UINT32_MAX) *number = (uint32_t)wide;
    else complain(name, variable(name));
}

static void read_flag(const char *name, bool *flag)
{
    uint32_t number = *flag;
    read_number(name, &number);
    *flag = number != 0;
}

static void read_budget(void)
{
    const char *value = variable("ACRE_TORCH_BUDGET"), *end;
    if (!value) return;
    uint64_t bytes;
    char *after;
    double fraction = strtod(value, &after);
    if (strchr(value, '.') && *after == 0 && fraction > 0 && fraction <= 1) options.budget_fraction = fraction;
    else if (parse_bytes(value, &end, &bytes) && *end == 0) options.budget_bytes = bytes;
    else complain("ACRE_TORCH_BUDGET", value);
}

/* name[!][:budget],… */
static void read_categories(void)
{
    const char *value = variable("ACRE_TORCH_CATEGORIES"), *from = value;
    uint32_t count = 0;
    while (from && *from && count < ACRE_GPU_CATEGORIES_MAX) {
        size_t length = strcspn(from, ",:!");
        const char *next = from + length;
        acre_gpu_category *row = &options.categories[count];
        memset(row, 0, sizeof *row);
        bool good = length > 0 && length <= ACRE_GPU_NAME_MAX, sleeps = *next == '!';
        if (sleeps) next++;
        if (good && *next == ':') good = parse_bytes(next + 1, &next, &row->budget_bytes);
        if (!good || (*next != ',' && *next != 0)) {
            complain("ACRE_TORCH_CATEGORIES", value);
            count = 0;
            break;
        }
        memcpy(options.names[count], from, length);
        options.names[count][length] = 0;
        row->name = options.names[count];
        if (sleeps) options.sleepers |= (uint64_t)1 << count;
        count++;
        from = *next == ',' ? next + 1 : next;
    }
    if (count == 0) {
        options.sleepers = 0;
        strcpy(options.names[0], "all");
        options.categories[0] = (acre_gpu_category){.name = options.names[0]};
        count = 1;
    }
    options.category_count = count;
}

static void read_all(void)
{
    options.empty_percent = EMPTY_PERCENT_DEFAULT;
    options.delay_ms = DELAY_MS_DEFAULT;
    read_budget();
    read_bytes("ACRE_TORCH_EMPTY", &options.empty_bytes);
    read_bytes("ACRE_TORCH_PAGE", &options.page_bytes);
    read_bytes("ACRE_TORCH_ADDRESSES", &options.address_bytes);
    read_number("ACRE_TORCH_EMPTY_PERCENT", &options.empty_percent);
    read_number("ACRE_TORCH_DELAY_MS", &options.delay_ms);
    read_flag("ACRE_TORCH_WAIT", &options.wait);
    read_flag("ACRE_TORCH_REPORT", &options.report);
    read_flag("ACRE_TORCH_QUIET", &options.quiet);
    read_categories();
    if (options.report) atexit(report_at_exit);
}

const plugin_options *options_get(void)
{
    pthread_once(&options_once, read_all);
    return &options;
}
