/* options: see options.h. */
#include "heap/options.h"

#include <stdlib.h>
#include <string.h>

#include "os/os.h"

process_options the_options;

bool options_parse_bytes(const char *text, size_t *bytes)
{
    size_t value = 0;
    const char *at = text;
    if (*at < '0' || *at > '9') return false;
    for (; *at >= '0' && *at <= '9'; at++)
        if (__builtin_mul_overflow(value, (size_t)10, &value) ||
            __builtin_add_overflow(value, (size_t)(*at - '0'), &value))
            return false;
    static const char units[] = "KMGT";
    unsigned shift = 0;
    if (*at) {
        const char *unit = strchr(units, *at & ~0x20);
        if (unit && *unit) {
            shift = 10 * (unsigned)(unit - units + 1);
            at++;
            if (*at == 'i') at++;
        }
        if (*at == 'B' || *at == 'b') at++;
        if (*at) return false;
    }
    if (value > SIZE_MAX >> shift) return false;
    *bytes = value << shift;
    return true;
}

static void complain(const char *name, const char *value)
{
    static const char middle[] = ": this value makes no sense and is ignored: ";
    os_write(2, "acre: ", 6);
    os_write(2, name, strlen(name));
    os_write(2, middle, sizeof middle - 1);
    os_write(2, value, strlen(value));
    os_write(2, "\n", 1);
}

static void read_bytes(const char *name, size_t *bytes)
{
    const char *text = getenv(name);
    if (text && *text && !options_parse_bytes(text, bytes)) complain(name, text);
}

static void read_milliseconds(const char *name, uint32_t *ms)
{
    const char *text = getenv(name);
    size_t value = 0;
    if (!text || !*text) return;
    if (strcmp(text, "never") == 0) *ms = UINT32_MAX;
    else if (options_parse_bytes(text, &value) && value < UINT32_MAX) *ms = (uint32_t)value;
    else complain(name, text);
}

static bool read_flag(const char *name, bool *flag)
{
    const char *text = getenv(name);
    if (!text || !*text) return true;
    if (strcmp(text, "1") == 0 || strcmp(text, "on") == 0 || strcmp(text, "yes") == 0) *flag = true;
    else if (strcmp(text, "0") == 0 || strcmp(text, "off") == 0 || strcmp(text, "no") == 0) *flag = false;
    else return false;
    return true;
}

void options_read(void)
{
    process_options *o = &the_options;
    memset(o, 0, sizeof *o);
    o->purge_delay_ms = 500;
    o->populate_bytes = 32 * 1024;
    read_bytes("ACRE_RESERVE", &o->reserve_bytes);
    read_bytes("ACRE_CACHE_BYTES", &o->cache_bytes_max);
    read_bytes("ACRE_MAGAZINE_BYTES", &o->magazine_bytes_max);
    read_bytes("ACRE_THREAD_BYTES", &o->thread_bytes_max);
    read_bytes("ACRE_BUDGET", &o->budget_bytes);
    read_bytes("ACRE_POPULATE_BYTES", &o->populate_bytes);
    if (!read_flag("ACRE_HUGE_PAGES", &o->huge_pages)) complain("ACRE_HUGE_PAGES", getenv("ACRE_HUGE_PAGES"));
    read_milliseconds("ACRE_PURGE_DELAY_MS", &o->purge_delay_ms);
    if (!read_flag("ACRE_FILL", &o->fill)) complain("ACRE_FILL", getenv("ACRE_FILL"));
    if (!read_flag("ACRE_BACKGROUND", &o->background)) complain("ACRE_BACKGROUND", getenv("ACRE_BACKGROUND"));
    const char *stats = getenv("ACRE_STATS");
    if (stats && strcmp(stats, "json") == 0) o->stats = o->stats_json = true;
    else if (!read_flag("ACRE_STATS", &o->stats)) complain("ACRE_STATS", stats);
    o->stats_file = getenv("ACRE_STATS_FILE");
    const char *on_error = getenv("ACRE_ON_ERROR");
    if (!on_error || !*on_error || strcmp(on_error, "abort") == 0) o->on_error = MISUSE_ABORT;
    else if (strcmp(on_error, "report") == 0) o->on_error = MISUSE_REPORT;
    else if (strcmp(on_error, "ignore") == 0) o->on_error = MISUSE_IGNORE;
    else complain("ACRE_ON_ERROR", on_error);
}
