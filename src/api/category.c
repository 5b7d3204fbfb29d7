/* category: a table of what a program allocates, checked and turned into heaps and suballocators. The rules stand in
 * acre/category.h, with their reasons. All rows and counters are one object in the arena; the read-only part of a row
 * and the part that threads count in lie on cache lines of their own. */
#include "acre/category.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "heap/heap.h"
#include "page/arena.h"

#define GRANULES_MAX (UINT32_MAX - (uint64_t)1)          /* of a suballocator */
#define COUNT_IS_MAX_MAX (((uint64_t)1 << 30) - 4)       /* of blocks whose bookkeeping it can set aside */
#define CAPACITY_MAX ((uint64_t)1 << 62)                 /* so that rounding up never overflows */
#define HEAP_ALIGN_MAX LARGE_SLOT_MIN                    /* what the slots of large blocks are aligned to at least */
#define FINE_CLASSES_BYTES_MIN (4 * MIB)                 /* some 57 classes, a page of 64 KiB in each */

typedef struct row {
    acre_category spec; /* as given, but for the name, which is the copy below */
    char name[ACRE_CATEGORY_NAME_MAX + 1];
    acre_categories *owner;
    uint32_t number;
    uint64_t granularity, align_max;
    acre_heap *heap;         /* or */
    acre_suballoc *suballoc;
    _Alignas(ACRE_CACHE_LINE) account ranges; /* of the suballocator; a heap has its own */
    _Atomic uint64_t failed;
} row;

struct acre_categories {
    uint32_t count;
    row rows[];
};

static size_t object_bytes(uint32_t count) { return sizeof(acre_categories) + count * sizeof(row); }

static row *row_at(const acre_categories *c, uint32_t number)
{
    return c && number < c->count ? (row *)&c->rows[number] : NULL;
}

static account *account_of(row *r) { return r->heap ? &r->heap->account : &r->ranges; }

/* --- from a row to options -------------------------------------------------------------------------------------- */

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t most(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint64_t between(uint64_t low, uint64_t x, uint64_t high) { return most(low, least(x, high)); }
static uint64_t times(uint64_t a, uint64_t b)
{
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

static uint64_t size_min_of(const acre_category *r) { return r->size_min ? r->size_min : 1; }

/* The geometric mean of the limits, as near as powers of two come. */
static uint64_t typical_size(const acre_category *r)
{
    uint64_t low = size_min_of(r), high = most(low, r->size_max);
    return low == high ? low : between(low, (uint64_t)1 << ((bits_highest(low) + bits_highest(high) + 1) / 2), high);
}

/* UINT64_MAX: unknown. */
static uint64_t expected_bytes(const acre_category *r)
{
    return r->count ? times(r->count, typical_size(r)) : UINT64_MAX;
}

static uint64_t budget_or_all(const acre_category *r) { return r->budget_bytes ? r->budget_bytes : UINT64_MAX; }

static uint64_t granularity_of(const acre_category *r)
{
    uint64_t g = r->alignment;
    if (g == 0) g = (uint64_t)1 << bits_highest(between(1, size_min_of(r) / 16, 256));
    while (r->capacity_bytes / g > GRANULES_MAX) g *= 2;
    return g;
}

static void derive_heap(const acre_category *r, acre_heap_options *o)
{
    uint64_t expected = expected_bytes(r), limit = least(expected / 8, budget_or_all(r) / 16);
    uint64_t align = most(1, r->alignment);
    o->name = r->name;
    o->provider = r->provider;
    o->budget_bytes = r->budget_bytes;
    o->single_thread = r->single_thread;
    o->fill = r->fill;

    uint64_t size_max = least(r->size_max, CLASS_SIZE_MAX_LIMIT + 1), small_max = FSA_SIZE_MAX_DEFAULT;
    if (align <= CLASS_SIZE_MAX_LIMIT && align_up(size_max, align) <= CLASS_SIZE_MAX_LIMIT)
        small_max = most(align_up(size_max, align), FSA_VERY_SMALL_MAX);
    o->small_size_max = (uint32_t)small_max;
    bool few = expected < FINE_CLASSES_BYTES_MIN && r->size_max / 2 > size_min_of(r);
    o->classes_per_doubling = few ? 4 : 8;
    if (r->size_max > small_max || align > small_max) {
        uint64_t named = r->alignment > 256 ? r->alignment : r->extra_alignment;
        if (named > 256 && named <= MIB) o->named_align = named;
    }

    uint64_t magazine = 64 * KIB;
    if (r->allocations_per_second)
        magazine = between(4 * KIB, times(r->allocations_per_second, typical_size(r)) / 100, 256 * KIB);
    uint64_t low = size_min_of(r), high = most(low, least(r->size_max, small_max));
    unsigned doublings = bits_highest(high) - bits_highest(low) + 1;
    o->magazine_bytes_max = most(4 * KIB, least(magazine, limit / doublings));
    o->thread_bytes_max = most(1, least(MIB, limit));
    o->cache_bytes_max = between(MEDIUM_PAGE_BYTES, least(expected, budget_or_all(r)) / 4, 64 * MIB);
    o->purge_delay_ms = 500;
    if (r->count && r->allocations_per_second)
        o->purge_delay_ms = (uint32_t)between(100, (uint64_t)r->count * 2000 / r->allocations_per_second, 10000);
}

void acre_category_derive(const acre_category *r, acre_heap_options *heap, acre_suballoc_options *suballoc)
{
    acre_heap_options h = {0};
    acre_suballoc_options s = {0};
    if (r && r->offsets_only) {
        s.size = r->capacity_bytes;
        s.granularity = granularity_of(r);
        s.alignments[0] = r->extra_alignment;
        s.size_min = r->size_min;
        s.count_max = r->count_is_max ? r->count : 0;
        s.thread_safe = !r->single_thread;
    } else if (r) {
        derive_heap(r, &h);
    }
    if (heap) *heap = h;
    if (suballoc) *suballoc = s;
}

/* What a heap of this row has to hold to hand out one block of this size. */
static uint64_t heap_charge(const acre_category *r, uint64_t size, uint64_t align)
{
    acre_heap_options o;
    acre_category_derive(r, &o, NULL);
    if (most(size, align) <= o.small_size_max) return CHUNK_BYTES;
    if (size <= MEDIUM_SIZE_MAX && align <= MIB) return medium_round(size);
    return align_up(size, most(CHUNK_BYTES, r->provider ? r->provider->page_bytes : 0));
}

/* --- checking --------------------------------------------------------------------------------------------------- */

typedef struct check {
    const acre_category *rows;
    uint32_t row;
    acre_category_error *error;
} check;

/* Writes row, field and what is wrong with it; returns the status. */
__attribute__((format(printf, 4, 5))) static acre_status refuse(const check *c, acre_status status, const char *field,
                                                                 const char *format, ...)
{
    acre_category_error *e = c->error;
    *e = (acre_category_error){.status = status, .row = c->row, .field = field};
    const char *name = c->row != ACRE_CATEGORY_NONE ? c->rows[c->row].name : NULL;
    size_t n = 0, all = sizeof e->text;
    if (name && *name) n += (size_t)snprintf(e->text, all, "row %u \"%.31s\": ", c->row, name);
    else if (c->row != ACRE_CATEGORY_NONE) n += (size_t)snprintf(e->text, all, "row %u: ", c->row);
    if (*field) n += (size_t)snprintf(e->text + n, all - n, "%s ", field);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(e->text + n, all - n, format, arguments);
    va_end(arguments);
    return status;
}

#define WRONG(check, field, ...)     refuse(check, ACRE_INVALID_ARGUMENT, field, __VA_ARGS__)
#define TOO_LARGE(check, field, ...) refuse(check, ACRE_TOO_LARGE, field, __VA_ARGS__)

typedef unsigned long long ull; /* for printf */

static acre_status check_name(const check *c)
{
    const char *name = c->rows[c->row].name;
    if (!name) return WRONG(c, "name", "is missing");
    if (!*name) return WRONG(c, "name", "is empty");
    if (strnlen(name, ACRE_CATEGORY_NAME_MAX + 1) > ACRE_CATEGORY_NAME_MAX)
        return WRONG(c, "name", "is longer than %d characters", ACRE_CATEGORY_NAME_MAX);
    for (uint32_t i = 0; i < c->row; i++)
        if (strcmp(name, c->rows[i].name) == 0) return WRONG(c, "name", "is that of row %u, too", i);
    return ACRE_OK;
}

/* What a row of offsets needs, and what it has no use for. */
static acre_status check_offsets(const check *c)
{
    const acre_category *r = &c->rows[c->row];
    if (r->provider) return WRONG(c, "provider", "would never be asked: offsets_only takes none");
    if (r->fill) return WRONG(c, "fill", "writes to memory, offsets_only never does");
    if (r->capacity_bytes == 0) return WRONG(c, "capacity_bytes", "is missing");
    if (r->capacity_bytes > CAPACITY_MAX) return TOO_LARGE(c, "capacity_bytes", "is above 2^62");
    if (r->count_is_max && r->count == 0) return WRONG(c, "count", "is missing for count_is_max");
    if (r->count_is_max && r->count > COUNT_IS_MAX_MAX)
        return TOO_LARGE(c, "count", "%u is too large for count_is_max", r->count);
    return ACRE_OK;
}

/* The same for a row that becomes a heap. */
static acre_status check_heap(const check *c)
{
    const acre_category *r = &c->rows[c->row];
    const acre_provider *p = r->provider;
    const char *name = p && p->name ? p->name : "?";
    if (p && provider_check(p) != ACRE_OK)
        return WRONG(c, "provider", "\"%.31s\" lacks a function or has an impossible page size", name);
    if (p && !provider_can(p, ACRE_CAN_TOUCH))
        return refuse(c, ACRE_NOT_SUPPORTED, "provider", "\"%.31s\" is not for the CPU: say offsets_only", name);
    if (r->capacity_bytes) return WRONG(c, "capacity_bytes", "is for offsets_only; a heap has budget_bytes");
    if (r->count_is_max) return WRONG(c, "count_is_max", "is for offsets_only");
    return ACRE_OK;
}

static acre_status check_sizes(const check *c)
{
    const acre_category *r = &c->rows[c->row];
    ull low = r->size_min, high = r->size_max, limit = r->capacity_bytes;
    if (high == 0) return WRONG(c, "size_max", "is missing");
    if (low > high) return WRONG(c, "size_min", "%llu is above size_max %llu", low, high);
    if (r->offsets_only && high > limit) return WRONG(c, "size_max", "%llu is above capacity_bytes %llu", high, limit);
    limit = !r->provider || r->provider == acre_provider_flexible() ? PTRDIFF_MAX : LARGE_SLOT_MAX;
    if (!r->offsets_only && high > limit)
        return TOO_LARGE(c, "size_max", "%llu is above %llu, the largest block of this memory", high, limit);
    return ACRE_OK;
}

static acre_status check_alignment(const check *c, const char *field, uint64_t alignment)
{
    const acre_category *r = &c->rows[c->row];
    ull a = alignment, limit = r->offsets_only ? r->capacity_bytes : HEAP_ALIGN_MAX;
    if (a == 0) return ACRE_OK;
    if (!is_power_of_two(alignment)) return WRONG(c, field, "%llu is no power of two", a);
    if (r->offsets_only && a > limit) return WRONG(c, field, "%llu is above capacity_bytes %llu", a, limit);
    /* A region is smaller where the machine gives little address space; flexible blocks then lie outside of it. */
    if (r->provider) limit = least(limit, region_bytes());
    if (!r->offsets_only && a > limit) return TOO_LARGE(c, field, "%llu is above %llu, a heap's most", a, limit);
    return ACRE_OK;
}

static acre_status check_alignments(const check *c)
{
    const acre_category *r = &c->rows[c->row];
    acre_status status = check_alignment(c, "alignment", r->alignment);
    if (status == ACRE_OK) status = check_alignment(c, "extra_alignment", r->extra_alignment);
    if (status == ACRE_OK && r->extra_alignment && r->extra_alignment <= r->alignment)
        return WRONG(c, "extra_alignment", "%llu is not above alignment %llu", (ull)r->extra_alignment,
                     (ull)r->alignment);
    return status;
}

/* Could this much ever be there: one block of size_max, and `count` of size_min? */
static acre_status check_amounts(const check *c)
{
    const acre_category *r = &c->rows[c->row];
    uint64_t smallest = size_min_of(r), unit = r->offsets_only ? granularity_of(r) : 1;
    ull low = smallest, high = r->size_max, capacity = r->capacity_bytes, budget = r->budget_bytes;
    if (r->offsets_only && unit > most(r->alignment, smallest))
        return TOO_LARGE(c, "capacity_bytes", "%llu is over 2^32 - 2 times size_min", capacity);
    if (r->offsets_only && align_up(high, unit) > align_down(capacity, unit))
        return WRONG(c, "capacity_bytes", "%llu is under size_max %llu in steps of %llu", capacity, high, (ull)unit);
    uint64_t all = times(r->count, align_up(low, unit));
    if (all > CAPACITY_MAX) return TOO_LARGE(c, "count", "%u of at least %llu bytes: nobody has that", r->count, low);
    if (r->offsets_only && all > capacity)
        return WRONG(c, "count", "%u of at least %llu bytes is above capacity_bytes %llu", r->count, low, capacity);
    if (budget == 0) return ACRE_OK;

    ull one = r->offsets_only ? align_up(high, unit)
                              : most(heap_charge(r, high, r->alignment), heap_charge(r, low, r->alignment));
    if (budget < high) return WRONG(c, "budget_bytes", "%llu is under size_max %llu", budget, high);
    if (budget < one)
        return WRONG(c, "budget_bytes", "%llu is under %llu, what one block of this row takes up", budget, one);
    if (budget < all)
        return WRONG(c, "budget_bytes", "%llu is under count %u of at least %llu bytes", budget, r->count, low);
    if (r->offsets_only && budget > capacity)
        return WRONG(c, "budget_bytes", "%llu is above capacity_bytes %llu", budget, capacity);
    return ACRE_OK;
}

static acre_status check_row(const check *c)
{
    acre_status status = check_name(c);
    if (status == ACRE_OK) status = c->rows[c->row].offsets_only ? check_offsets(c) : check_heap(c);
    if (status == ACRE_OK) status = check_sizes(c);
    if (status == ACRE_OK) status = check_alignments(c);
    if (status == ACRE_OK) status = check_amounts(c);
    return status;
}

static acre_status check_table(check *c, uint32_t count)
{
    if (!c->rows || count == 0) return WRONG(c, "", "there are no rows");
    if (count > ACRE_CATEGORIES_MAX) return TOO_LARGE(c, "", "%u rows are more than %d", count, ACRE_CATEGORIES_MAX);
    if (!heap_process()) return refuse(c, ACRE_NO_MEMORY, "", "%s", acre_status_text(ACRE_NO_MEMORY));
    acre_status status = ACRE_OK;
    for (c->row = 0; status == ACRE_OK && c->row < count; c->row++) status = check_row(c);
    return status;
}

/* --- making ----------------------------------------------------------------------------------------------------- */

/* The heap is over its budget. What this thread keeps of it comes first, then the application. */
static bool heap_over_budget(void *context, acre_heap *heap, size_t bytes)
{
    row *r = context;
    acre_heap_trim(heap, SIZE_MAX);
    if (account_has_room(&heap->account, heap_charge(&r->spec, bytes, r->spec.alignment))) return true;
    return r->spec.on_over_budget && r->spec.on_over_budget(r->spec.on_over_budget_context, r->owner, r->number, bytes);
}

static acre_status make_row(row *r)
{
    acre_heap_options heap;
    acre_suballoc_options suballoc;
    acre_category_derive(&r->spec, &heap, &suballoc);
    r->granularity = r->spec.offsets_only ? suballoc.granularity : _Alignof(max_align_t);
    r->align_max = most(most(r->spec.alignment, r->spec.extra_alignment), r->granularity);
    if (r->spec.offsets_only) {
        r->ranges.budget = r->spec.budget_bytes;
        return acre_suballoc_create(&suballoc, &r->suballoc);
    }
    heap.on_over_budget = heap_over_budget;
    heap.on_over_budget_context = r;
    return acre_heap_create(&heap, &r->heap);
}

acre_status acre_categories_create(const acre_category *rows, uint32_t count, acre_categories **categories,
                                   acre_category_error *error)
{
    acre_category_error unwanted;
    check c = {.rows = rows, .row = ACRE_CATEGORY_NONE, .error = error ? error : &unwanted};
    if (!categories) return WRONG(&c, "", "categories is NULL: nowhere to put them");
    *categories = NULL;
    acre_status status = check_table(&c, count);
    if (status != ACRE_OK) return status;

    acre_categories *made = arena_alloc(object_bytes(count));
    c.row = ACRE_CATEGORY_NONE;
    if (!made) return refuse(&c, ACRE_NO_MEMORY, "", "%s", acre_status_text(ACRE_NO_MEMORY));
    made->count = count;
    for (c.row = 0; c.row < count; c.row++) {
        row *r = &made->rows[c.row];
        r->spec = rows[c.row];
        memcpy(r->name, rows[c.row].name, strlen(rows[c.row].name) + 1);
        r->spec.name = r->name;
        r->owner = made;
        r->number = c.row;
        status = make_row(r);
        if (status == ACRE_OK) continue;
        acre_categories_destroy(made);
        return refuse(&c, status, "", "%s", acre_status_text(status));
    }
    *c.error = (acre_category_error){.status = ACRE_OK, .row = ACRE_CATEGORY_NONE, .field = ""};
    *categories = made;
    return ACRE_OK;
}

void acre_categories_destroy(acre_categories *c)
{
    if (!c) return;
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->rows[i].heap) acre_heap_destroy(c->rows[i].heap);
        acre_suballoc_destroy(c->rows[i].suballoc);
    }
    arena_free(c, object_bytes(c->count));
}

/* --- rows ------------------------------------------------------------------------------------------------------- */

uint32_t acre_categories_count(const acre_categories *c) { return c ? c->count : 0; }

uint32_t acre_category_find(const acre_categories *c, const char *name)
{
    for (uint32_t i = 0; c && name && i < c->count; i++)
        if (strcmp(c->rows[i].name, name) == 0) return i;
    return ACRE_CATEGORY_NONE;
}

acre_heap *acre_category_heap(acre_categories *c, uint32_t number)
{
    row *r = row_at(c, number);
    return r ? r->heap : NULL;
}

acre_suballoc *acre_category_suballoc(acre_categories *c, uint32_t number)
{
    row *r = row_at(c, number);
    return r ? r->suballoc : NULL;
}

acre_status acre_category_set_budget(acre_categories *c, uint32_t number, uint64_t budget_bytes)
{
    row *r = row_at(c, number);
    if (!r) return ACRE_INVALID_ARGUMENT;
    if (r->heap) acre_heap_set_budget(r->heap, budget_bytes);
    else r->ranges.budget = budget_bytes;
    return ACRE_OK;
}

/* --- allocating ------------------------------------------------------------------------------------------------- */

/* Is this what the row is for? Makes *align what the allocator is to be asked for. */
static acre_status check_request(const row *r, uint64_t size, uint64_t *align)
{
    if (size > r->spec.size_max) return ACRE_TOO_LARGE;
    if (size < size_min_of(&r->spec) || (*align & (*align - 1)) != 0) return ACRE_INVALID_ARGUMENT;
    if (*align <= r->spec.alignment) *align = r->spec.alignment;
    else if (*align > r->align_max) return ACRE_INVALID_ARGUMENT;
    return ACRE_OK;
}

static void count_failure(row *r)
{
    if (r) atomic_fetch_add_explicit(&r->failed, 1, memory_order_relaxed);
}

void *acre_category_alloc(acre_categories *c, uint32_t number, size_t size, size_t align, acre_status *why)
{
    row *r = row_at(c, number);
    uint64_t wanted = align;
    acre_status status = r && r->heap ? check_request(r, size, &wanted) : ACRE_INVALID_ARGUMENT;
    void *block = NULL;
    if (status == ACRE_OK) block = acre_heap_alloc(r->heap, size, wanted, &status);
    if (!block) {
        count_failure(r);
        errno = status == ACRE_INVALID_ARGUMENT ? EINVAL : ENOMEM;
    }
    if (why) *why = status;
    return block;
}

acre_status acre_category_free(acre_categories *c, uint32_t number, void *block)
{
    row *r = row_at(c, number);
    return r && r->heap ? acre_heap_free(r->heap, block) : ACRE_INVALID_ARGUMENT;
}

static acre_status take_range(row *r, uint64_t size, uint64_t align, acre_suballoc_block *block)
{
    uint64_t charge = align_up(size, r->granularity);
    if (!account_charge(&r->ranges, charge)) return ACRE_OVER_BUDGET;
    acre_status status = acre_suballoc_alloc(r->suballoc, size, align, block);
    if (status != ACRE_OK) account_credit(&r->ranges, charge);
    return status;
}

acre_status acre_category_alloc_range(acre_categories *c, uint32_t number, uint64_t size, uint64_t align,
                                      acre_suballoc_block *block)
{
    row *r = row_at(c, number);
    acre_status status = r && r->suballoc && block ? check_request(r, size, &align) : ACRE_INVALID_ARGUMENT;
    if (status == ACRE_OK) {
        const acre_category *spec = &r->spec;
        status = take_range(r, size, align, block);
        bool full = status == ACRE_OVER_BUDGET || status == ACRE_NO_MEMORY;
        if (full && spec->on_over_budget && spec->on_over_budget(spec->on_over_budget_context, c, number, size))
            status = take_range(r, size, align, block);
    }
    if (status != ACRE_OK) count_failure(r);
    return status;
}

acre_status acre_category_free_range(acre_categories *c, uint32_t number, uint64_t handle)
{
    row *r = row_at(c, number);
    acre_suballoc_info info;
    acre_status status = r && r->suballoc ? acre_suballoc_get_info(r->suballoc, handle, &info) : ACRE_INVALID_ARGUMENT;
    if (status == ACRE_OK) status = acre_suballoc_free(r->suballoc, handle); /* of two at once, one gets DOUBLE_FREE */
    if (status == ACRE_OK) account_credit(&r->ranges, info.size);
    return status;
}

/* --- looking ---------------------------------------------------------------------------------------------------- */

acre_status acre_category_usage_read(const acre_categories *c, uint32_t number, acre_category_usage *usage)
{
    row *r = row_at(c, number);
    if (!r || !usage) return ACRE_INVALID_ARGUMENT;
    account *a = account_of(r);
    *usage = (acre_category_usage){
        .name = r->name,
        .bytes_used = atomic_load_explicit(&a->bytes, memory_order_relaxed),
        .bytes_peak = atomic_load_explicit(&a->peak, memory_order_relaxed),
        .bytes_budget = a->budget,
        .failed = atomic_load_explicit(&r->failed, memory_order_relaxed),
        .offsets_only = r->suballoc != NULL,
    };
    return ACRE_OK;
}

typedef struct amount { char text[16]; } amount;

/* "1.5 MiB", rounded down. */
static amount amount_of(uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    amount a;
    unsigned unit = bytes < 1024 ? 0 : bits_highest(bytes) / 10;
    uint64_t whole = bytes >> (10 * unit), tenth = unit ? ((bytes >> (10 * (unit - 1))) & 1023) * 10 / 1024 : 0;
    if (unit) snprintf(a.text, sizeof a.text, "%u.%u %s", (unsigned)whole, (unsigned)tenth, units[unit]);
    else snprintf(a.text, sizeof a.text, "%u B", (unsigned)whole);
    return a;
}

size_t acre_categories_report(const acre_categories *c, char *buffer, size_t bytes)
{
    static const char line[] = "%-31s %-8s %11s %11s %11s %8s\n";
    size_t length = 0;
    for (uint32_t i = 0; c && i <= c->count; i++) {
        size_t room = length < bytes ? bytes - length : 0;
        char *at = room ? buffer + length : NULL;
        acre_category_usage u;
        if (i == 0) {
            length += (size_t)snprintf(at, room, line, "category", "kind", "used", "peak", "budget", "failed");
            continue;
        }
        acre_category_usage_read(c, i - 1, &u);
        char failed[24];
        snprintf(failed, sizeof failed, "%llu", (ull)u.failed);
        const char *kind = u.offsets_only ? "offsets" : "heap";
        amount used = amount_of(u.bytes_used), peak = amount_of(u.bytes_peak), budget = amount_of(u.bytes_budget);
        length += (size_t)snprintf(at, room, line, u.name, kind, used.text, peak.text,
                                   u.bytes_budget ? budget.text : "-", failed);
    }
    if (!c && bytes) *buffer = 0;
    return length;
}
