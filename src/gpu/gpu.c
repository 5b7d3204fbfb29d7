/* gpu: the report that is made when GPU memory runs out, as text (acre/gpu.h).
 *
 *     acre: no GPU memory for 64.0 MiB (67108864 bytes, alignment 65536) of category "textures": ACRE_OVER_BUDGET, …
 *       category: 480.0 MiB live + 12.0 MiB pending, budget 512.0 MiB, peak 500.0 MiB, 300 blocks
 *       heap 0: held 1.0 GiB = 800.0 MiB live + 12.0 MiB pending + 100.0 MiB holes + 112.0 MiB empty, budget …
 *       largest hole 8.0 MiB, fragmentation 0.96
 *       most is held by: textures 492.0 MiB, meshes 200.0 MiB
 *
 * Written piece by piece into what is left of the buffer, so that the length is right even where there is none. */
#include <stdarg.h>
#include <stdio.h>

#include "acre/gpu.h"
#include "base/bits.h"

typedef struct text {
    char *buffer;
    size_t bytes, length; /* length: of all that was said, whether it had room or not */
} text;

__attribute__((format(printf, 2, 3))) static void say(text *t, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t room = t->length < t->bytes ? t->bytes - t->length : 0;
    int said = vsnprintf(room != 0 ? t->buffer + t->length : NULL, room, format, arguments);
    va_end(arguments);
    if (said > 0) t->length += (size_t)said;
}

/* "1.5 MiB", rounded down. */
static void say_bytes(text *t, uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = bytes < 1024 ? 0 : bits_highest(bytes) / 10;
    if (unit == 0) {
        say(t, "%u B", (unsigned)bytes);
        return;
    }
    uint64_t tenth = ((bytes >> (10 * (unit - 1))) & 1023) * 10 / 1024;
    say(t, "%u.%u %s", (unsigned)(bytes >> (10 * unit)), (unsigned)tenth, units[unit]);
}

static void say_amount(text *t, const char *before, uint64_t bytes, const char *after)
{
    say(t, "%s", before);
    say_bytes(t, bytes);
    say(t, "%s", after);
}

static void say_budget(text *t, uint64_t budget)
{
    if (budget == 0) say(t, ", no budget");
    else say_amount(t, ", budget ", budget, "");
}

static void say_request(text *t, const acre_gpu_shortage *s)
{
    say_amount(t, "acre: no GPU memory for ", s->bytes, "");
    say(t, " (%llu bytes, alignment %llu) of category \"%s\": %s, %s\n", (unsigned long long)s->bytes,
        (unsigned long long)s->alignment, s->category_name != NULL ? s->category_name : "?",
        acre_status_name(s->status), acre_status_text(s->status));
    if (s->driver_call != NULL)
        say(t, "  the driver answered %ld to %s\n", (long)s->driver_result, s->driver_call);
}

static void say_category(text *t, const acre_gpu_category_stats *c)
{
    say_amount(t, "  category: ", c->live_bytes, " live + ");
    say_amount(t, "", c->pending_bytes, " pending");
    say_budget(t, c->budget_bytes);
    say_amount(t, ", peak ", c->peak_bytes, "");
    say(t, ", %llu blocks, %llu requests failed so far\n", (unsigned long long)c->blocks,
        (unsigned long long)c->failed);
}

static void say_heap(text *t, uint32_t heap, const acre_gpu_heap_stats *h)
{
    say(t, "  heap %u:", (unsigned)heap);
    say_amount(t, " held ", h->held_bytes, "");
    say_amount(t, " = ", h->live_bytes, " live");
    say_amount(t, " + ", h->pending_bytes, " pending");
    say_amount(t, " + ", h->hole_bytes, " holes");
    say_amount(t, " + ", h->empty_bytes, " empty");
    say_budget(t, h->budget_bytes);
    if (h->other_bytes != 0) say_amount(t, ", others use ", h->other_bytes, "");
    say(t, ", %llu driver allocations\n", (unsigned long long)h->driver_allocations);
}

size_t acre_gpu_shortage_text(const acre_gpu_shortage *shortage, char *buffer, size_t bytes)
{
    text t = {buffer, buffer != NULL ? bytes : 0, 0};
    if (t.bytes != 0) buffer[0] = 0;
    if (shortage == NULL) return 0;
    say_request(&t, shortage);
    say_category(&t, &shortage->category_stats);
    say_heap(&t, shortage->heap, &shortage->heap_stats);
    say_amount(&t, "  largest hole ", shortage->largest_hole_bytes, "");
    say(&t, ", fragmentation %.2f\n", shortage->fragmentation);
    if (shortage->top_count != 0) say(&t, "  most is held by:");
    for (uint32_t i = 0; i < shortage->top_count && i < ACRE_GPU_TOP_COUNT; i++) {
        say(&t, "%s %s ", i == 0 ? "" : ",", shortage->top[i].name);
        say_bytes(&t, shortage->top[i].bytes);
    }
    if (shortage->top_count != 0) say(&t, "\n");
    return t.length;
}
