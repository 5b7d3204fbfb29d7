/* report: see report.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "debug/report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "acre/acre.h"
#include "os/os.h"

/* --- figures ------------------------------------------------------------------------------------------------------ */

/* value / 2^shift with as many decimals as give three digits. */
static void put_scaled(char *out, uint64_t value, unsigned shift, const char *unit)
{
    uint64_t whole = value >> shift;
    unsigned hundredths = (unsigned)(((value & bits_mask(shift)) >> (shift - 10)) * 100 >> 10);
    if (whole >= 100) snprintf(out, REPORT_FIGURE_BYTES, "%llu %s", (unsigned long long)whole, unit);
    else if (whole >= 10) snprintf(out, REPORT_FIGURE_BYTES, "%u.%u %s", (unsigned)whole, hundredths / 10, unit);
    else snprintf(out, REPORT_FIGURE_BYTES, "%u.%02u %s", (unsigned)whole, hundredths, unit);
}

const char *report_bytes(char *out, uint64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) {
        snprintf(out, REPORT_FIGURE_BYTES, "%u B", (unsigned)bytes);
        return out;
    }
    unsigned unit = bits_highest(bytes) / 10;
    put_scaled(out, bytes, unit * 10, units[unit - 1]);
    return out;
}

const char *report_count(char *out, uint64_t count)
{
    if (count >= 100000000) {
        unsigned char_of = count >= 1000000000000u ? 2 : count >= 10000000000u ? 1 : 0;
        static const uint64_t scales[] = {1000000, 1000000000, 1000000000000};
        snprintf(out, REPORT_FIGURE_BYTES, "%llu %c", (unsigned long long)(count / scales[char_of]), "MGT"[char_of]);
        return out;
    }
    unsigned millions = (unsigned)(count / 1000000), thousands = (unsigned)(count / 1000 % 1000);
    unsigned ones = (unsigned)(count % 1000);
    if (millions) snprintf(out, REPORT_FIGURE_BYTES, "%u,%03u,%03u", millions, thousands, ones);
    else if (thousands) snprintf(out, REPORT_FIGURE_BYTES, "%u,%03u", thousands, ones);
    else snprintf(out, REPORT_FIGURE_BYTES, "%u", ones);
    return out;
}

static const char *figure(char *out, uint64_t value, stats_unit unit)
{
    return unit == UNIT_BYTES ? report_bytes(out, value) : report_count(out, value);
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

/* Collects what is written, so that a report costs few system calls. */
typedef struct output {
    int fd;
    size_t used;
    char text[2048];
} output;

static void flush(output *o)
{
    os_write(o->fd, o->text, o->used);
    o->used = 0;
}

static void put(output *o, const char *text)
{
    for (size_t n = strlen(text); n > 0;) {
        if (o->used == sizeof o->text) flush(o);
        size_t room = sizeof o->text - o->used, part = n < room ? n : room;
        memcpy(o->text + o->used, text, part);
        o->used += part;
        text += part;
        n -= part;
    }
}

__attribute__((format(printf, 2, 3))) static void putf(output *o, const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    put(o, line);
}

/* --- taking ------------------------------------------------------------------------------------------------------- */

static struct {
    bool wanted, json;
    char program[64];
    char file[4096]; /* "" = standard error */
} at_end;

static void copy_text(char *to, size_t bytes, const char *from)
{
    size_t n = strlen(from);
    if (n >= bytes) n = bytes - 1;
    memcpy(to, from, n);
    to[n] = 0;
}

static void take_heap(acre_heap *heap, void *context)
{
    report *r = context;
    if (r->heap_count == REPORT_HEAPS_MAX) return;
    acre_stats s;
    report_heap *line = &r->heaps[r->heap_count++];
    stats_read_heap(heap, &s);
    copy_text(line->name, sizeof line->name, heap->name);
    line->live_bytes = s.total.live_bytes;
    line->cached_bytes = s.total.cached_bytes;
    line->waste_bytes = s.total.waste_bytes;
    line->committed_bytes = s.total.committed_bytes;
    line->peak_bytes = s.total.peak_bytes;
    line->budget_bytes = s.budget_bytes;
}

bool report_take(report *r)
{
    memset(r, 0, sizeof *r);
    if (acre_stats_read(&r->stats) != ACRE_OK) return false;
    r->process_id = os_process_id();
    copy_text(r->program, sizeof r->program, at_end.program[0] ? at_end.program : program_invocation_short_name);
    if (r->stats.heaps > 1) heap_for_each(take_heap, r);
    return true;
}

/* --- text --------------------------------------------------------------------------------------------------------- */

static void put_cell(output *o, uint64_t value, stats_unit unit)
{
    char text[REPORT_FIGURE_BYTES];
    putf(o, "%11s", value ? figure(text, value, unit) : "-");
}

/* The figure that lies `at` so many bytes of each column. */
static void put_row(output *o, const acre_stats *s, size_t at, stats_unit unit, const char *title)
{
    putf(o, "%-19s", title);
    for (int a = 0; a <= ACRE_ALLOCATOR_COUNT; a++) {
        const acre_ledger *column = a < ACRE_ALLOCATOR_COUNT ? &s->allocator[a] : &s->total;
        uint64_t value;
        memcpy(&value, (const char *)column + at, sizeof value);
        put_cell(o, value, unit);
    }
    put(o, "\n");
}

static void put_table(output *o, const acre_stats *s)
{
    static const char *const titles[] = {
#define X(name, key, title, meaning) title,
        ACRE_ALLOCATOR_LIST(X)
#undef X
        "total"};
    putf(o, "%-19s", "");
    for (int a = 0; a <= ACRE_ALLOCATOR_COUNT; a++) putf(o, "%11s", titles[a]);
    put(o, "\n");
#define X(name, unit, title, meaning) put_row(o, s, offsetof(acre_ledger, name), UNIT_##unit, title);
    ACRE_LEDGER_LIST(X)
#undef X
}

static void put_figure(output *o, const char *title, stats_unit unit, uint64_t value, const char *meaning)
{
    putf(o, "%-19s", title);
    put_cell(o, value, unit);
    putf(o, "  %s\n", meaning);
}

static void put_heaps(output *o, const report *r)
{
    putf(o, "\n%-31s", "heap");
#define X(name, unit, title) putf(o, "%11s", title);
    REPORT_HEAP_LIST(X)
#undef X
    put(o, "\n");
    for (uint32_t i = 0; i < r->heap_count; i++) {
        putf(o, "%-31s", r->heaps[i].name);
#define X(name, unit, title) put_cell(o, r->heaps[i].name, UNIT_##unit);
        REPORT_HEAP_LIST(X)
#undef X
        put(o, "\n");
    }
    if (r->stats.heaps > r->heap_count) putf(o, "and %llu more\n", (unsigned long long)r->stats.heaps - r->heap_count);
}

void report_write_text(int fd, const report *r)
{
    output o = {.fd = fd};
    const acre_process_stats *s = &r->stats;
    putf(&o, "acre %s: memory of %s, process %d\n", acre_version(), r->program, r->process_id);
    put_table(&o, &s->all);
    if (s->all.observed < s->heaps)
        putf(&o, "(allocations and frees of %llu of %llu heaps: only calls that missed the thread caches)\n",
             (unsigned long long)(s->heaps - s->all.observed), (unsigned long long)s->heaps);
    put(&o, "\n");
#define X(name, unit, title, meaning) put_figure(&o, title, UNIT_##unit, s->all.name, meaning);
    ACRE_HEAP_FIGURES(X)
#undef X
#define X(name, unit, title, meaning) put_figure(&o, title, UNIT_##unit, s->name, meaning);
    ACRE_PROCESS_FIGURES(X)
#undef X
    if (r->heap_count) put_heaps(&o, r);
    flush(&o);
}

/* --- JSON --------------------------------------------------------------------------------------------------------- */

static void put_string(output *o, const char *text)
{
    put(o, "\"");
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        /* What is not ASCII may not be UTF-8: a program's name is bytes. */
        if (c < 32 || c > 126 || c == '"' || c == '\\') putf(o, "\\u%04x", c);
        else putf(o, "%c", c);
    }
    put(o, "\"");
}

static void new_line(output *o, unsigned indent) { putf(o, "\n%*s", (int)indent, ""); }

static void put_member(output *o, const char *separator, const char *key, uint64_t value)
{
    putf(o, "%s\"%s\": %llu", separator, key, (unsigned long long)value);
}

static void put_ledger(output *o, unsigned indent, const char *key, const acre_ledger *l, const char *end)
{
    const char *separator = "";
    new_line(o, indent);
    putf(o, "\"%s\": {", key);
#define X(name, unit, title, meaning) put_member(o, separator, #name, l->name), separator = ", ";
    ACRE_LEDGER_LIST(X)
#undef X
    putf(o, "}%s", end);
}

static void put_allocators(output *o, unsigned indent, const acre_stats *s)
{
    new_line(o, indent);
    put(o, "\"allocators\": {");
#define X(name, key, title, meaning) put_ledger(o, indent + 2, #key, &s->allocator[ACRE_ALLOCATOR_##name], ",");
    ACRE_ALLOCATOR_LIST(X)
#undef X
    put_ledger(o, indent + 2, "total", &s->total, "");
    new_line(o, indent);
    put(o, "},");
}

void report_write_json(int fd, const report *r, unsigned indent)
{
    output o = {.fd = fd};
    const acre_process_stats *s = &r->stats;
    const char *separator = "";
    put(&o, "{");
    new_line(&o, indent + 2);
    putf(&o, "\"acre\": \"%s\",", acre_version());
    new_line(&o, indent + 2);
    put(&o, "\"program\": ");
    put_string(&o, r->program);
    put(&o, ",");
    new_line(&o, indent + 2);
    putf(&o, "\"process_id\": %d,", r->process_id);
    put_allocators(&o, indent + 2, &s->all);
    new_line(&o, indent + 2);
    put(&o, "\"all_heaps\": {");
#define X(name, unit, title, meaning) put_member(&o, separator, #name, s->all.name), separator = ", ";
    ACRE_HEAP_FIGURES(X)
#undef X
    put(&o, "},");
    new_line(&o, indent + 2);
    put(&o, "\"process\": {");
    separator = "";
#define X(name, unit, title, meaning) put_member(&o, separator, #name, s->name), separator = ", ";
    ACRE_PROCESS_FIGURES(X)
#undef X
    put(&o, "},");
    new_line(&o, indent + 2);
    put(&o, "\"heaps\": [");
    for (uint32_t i = 0; i < r->heap_count; i++) {
        const report_heap *h = &r->heaps[i];
        if (i) put(&o, ",");
        new_line(&o, indent + 4);
        put(&o, "{\"name\": ");
        put_string(&o, h->name);
#define X(name, unit, title) put_member(&o, ", ", #name, h->name);
        REPORT_HEAP_LIST(X)
#undef X
        put(&o, "}");
    }
    if (r->heap_count) new_line(&o, indent + 2);
    put(&o, "]");
    new_line(&o, indent);
    put(&o, "}");
    flush(&o);
}

/* --- reading JSON back -------------------------------------------------------------------------------------------- */

static const char *skip_space(const char *at)
{
    while (*at == ' ' || *at == '\n') at++;
    return at;
}

/* at: the opening quote. The one that closes it, or the end of the text. */
static const char *string_end(const char *at)
{
    do at++;
    while (*at && *at != '"');
    return at;
}

/* What follows the value that starts here; NULL: it does not end. */
static const char *value_end(const char *at)
{
    int depth = 0;
    for (; *at; at++) {
        if (*at == '"') {
            at = string_end(at);
            if (!*at) return NULL;
        }
        if (*at == '{' || *at == '[') depth++;
        if ((*at == ',' || *at == '}' || *at == ']') && depth == 0) return at;
        if (*at == '}' || *at == ']') depth--;
    }
    return NULL;
}

/* The value of a key of the object that starts here; NULL: it has none. */
static const char *member(const char *object, const char *key)
{
    if (!object || *object != '{') return NULL;
    for (const char *at = skip_space(object + 1); *at == '"'; at = skip_space(at + 1)) {
        const char *end = string_end(at);
        if (!*end) return NULL;
        bool found = (size_t)(end - at - 1) == strlen(key) && memcmp(at + 1, key, strlen(key)) == 0;
        at = skip_space(end + 1);
        if (*at != ':') return NULL;
        at = skip_space(at + 1);
        if (found) return at;
        at = value_end(at);
        if (!at || *at != ',') return NULL;
    }
    return NULL;
}

static bool read_number(const char *object, const char *key, uint64_t *value)
{
    const char *at = member(object, key);
    if (!at || *at < '0' || *at > '9') return false;
    *value = strtoull(at, NULL, 10);
    return true;
}

static bool read_string(const char *object, const char *key, char *out, size_t bytes)
{
    const char *at = member(object, key);
    if (!at || *at != '"') return false;
    size_t n = 0;
    for (at++; *at && *at != '"' && n + 1 < bytes; at++) {
        char c = *at;
        if (c == '\\' && at[1] == 'u' && strlen(at) >= 6) {
            char code[5] = {at[2], at[3], at[4], at[5], 0};
            c = (char)strtoul(code, NULL, 16);
            at += 5;
        }
        out[n++] = c;
    }
    out[n] = 0;
    return true;
}

static bool read_ledger(const char *object, const char *key, acre_ledger *l)
{
    const char *from = member(object, key);
    bool ok = from != NULL;
#define X(name, unit, title, meaning) ok = ok && read_number(from, #name, &l->name);
    ACRE_LEDGER_LIST(X)
#undef X
    return ok;
}

static bool read_heaps(const char *list, report *r)
{
    if (!list || *list != '[') return false;
    const char *at = skip_space(list + 1);
    for (; *at == '{' && r->heap_count < REPORT_HEAPS_MAX; r->heap_count++) {
        report_heap *h = &r->heaps[r->heap_count];
        bool ok = read_string(at, "name", h->name, sizeof h->name);
#define X(name, unit, title) ok = ok && read_number(at, #name, &h->name);
        REPORT_HEAP_LIST(X)
#undef X
        at = ok ? value_end(at) : NULL;
        if (!at) return false;
        at = skip_space(*at == ',' ? at + 1 : at);
    }
    return *at == ']';
}

bool report_parse(report *r, const char *json)
{
    memset(r, 0, sizeof *r);
    json = skip_space(json);
    uint64_t id = 0;
    bool ok = read_number(json, "process_id", &id) && read_string(json, "program", r->program, sizeof r->program);
    r->process_id = (int)id;
    const char *from = member(json, "allocators");
#define X(name, key, title, meaning) ok = ok && read_ledger(from, #key, &r->stats.all.allocator[ACRE_ALLOCATOR_##name]);
    ACRE_ALLOCATOR_LIST(X)
#undef X
    ok = ok && read_ledger(from, "total", &r->stats.all.total);
    from = member(json, "all_heaps");
#define X(name, unit, title, meaning) ok = ok && read_number(from, #name, &r->stats.all.name);
    ACRE_HEAP_FIGURES(X)
#undef X
    from = member(json, "process");
#define X(name, unit, title, meaning) ok = ok && read_number(from, #name, &r->stats.name);
    ACRE_PROCESS_FIGURES(X)
#undef X
    return ok && read_heaps(member(json, "heaps"), r);
}

/* --- at the end of the process ------------------------------------------------------------------------------------ */

void report_prepare(void)
{
    /* The options are read when the process heap is made; without a wish for a report that may wait. */
    if (!getenv("ACRE_STATS") || !heap_process() || !the_options.stats) return;
    at_end.wanted = true;
    at_end.json = the_options.stats_json;
    copy_text(at_end.program, sizeof at_end.program, program_invocation_short_name);
    if (the_options.stats_file && *the_options.stats_file && !os_is_privileged())
        copy_text(at_end.file, sizeof at_end.file, the_options.stats_file);
    if (!at_end.file[0]) os_stderr_keep();
}

/* Replaces %p by the process id and %% by %. False: too long. */
static bool expand_file(char *path, size_t bytes)
{
    size_t n = 0;
    for (const char *at = at_end.file; *at; at++) {
        char part[16] = {*at, 0};
        if (at[0] == '%' && at[1] == 'p') snprintf(part, sizeof part, "%d", os_process_id());
        if (at[0] == '%' && (at[1] == 'p' || at[1] == '%')) at++;
        size_t length = strlen(part);
        if (n + length >= bytes) return false;
        memcpy(path + n, part, length);
        n += length;
    }
    path[n] = 0;
    return true;
}

void report_at_end(void)
{
    if (!at_end.wanted) return;
    report r;
    char path[4096 + 16];
    int saved = errno;
    int fd = !at_end.file[0] ? os_stderr_kept() : expand_file(path, sizeof path) ? os_open_report(path) : -1;
    if (fd >= 0 && report_take(&r)) {
        if (at_end.json) {
            report_write_json(fd, &r, 0);
            os_write(fd, "\n", 1);
        } else {
            report_write_text(fd, &r);
        }
    }
    if (fd >= 0 && at_end.file[0]) os_close(fd);
    errno = saved;
}
