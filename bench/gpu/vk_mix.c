/* vk_mix: acre's Vulkan memory against other allocators, on the driver at hand: three mixes, on one and two threads.
 *
 *   build/bench/vk_mix [--rounds N] [--scale X] [--mix NAME] [--threads N] [--json FILE]
 *   ACRE_VK_PEER=name=/path/peer.so,… build/bench/vk_mix                  side by side (vk_subject.h)
 *
 *   buffers    24,000 live buffers: uniform of 256 B to 16 KiB, mapped, and vertex of 1 to 512 KiB, each doubling as
 *              likely as the next; 600,000 times one at random goes and another one comes. Phase change: nine in ten
 *              go, at random (what stays lies everywhere: only moving it would free memory).
 *   textures   up to 512 MiB of images with all their mips, sides of 32 to 2048. Each frame, eight come and old ones go
 *              to make room; what sizes come changes every 250 frames; sixteen small buffers live for one frame. 2,500
 *              frames. Phase change: the oldest go until a tenth of the bytes is left.
 *   levels     160 buffers and 8 images come for good (two threads wait for each other here); then six times 5,000
 *              buffers and 120 images come, all mixed, 3,000 buffers are replaced, and the whole level goes, in no
 *              order. Each level has a mix of sizes of its own. Phase change: the last level has gone.
 *
 * Two threads share the work, each with blocks of its own, in one allocator. Requirements are the driver's, asked for
 * before; nothing is bound, and no byte is touched but the first eight of mapped buffers, which are checked when they
 * go.
 *
 *   ns        time of one allocation and its free, added up, less what looking at the clock costs; median, 99.9th
 *             percentile and most of all pairs
 *   mean      of all pairs but the slowest thousandth (where other programs were in the way)
 *   calls     of vkAllocateMemory and vkFreeMemory up to the phase change; drv ms: spent in them
 *   objects   of driver memory at once at most
 *   peak      MiB held from the driver at most, with MiB of live blocks at most (as asked for; two threads added up)
 *   after     MiB held after the phase change, and
 *   idle      1.1 s and a frame every 16 ms later; with MiB of live blocks
 *
 * Subjects take turns in each round; figures are medians over the rounds. Before anything is timed, each subject's
 * blocks are checked against each other. */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "acre/vulkan.h"
#include "vk_counted.h"

enum {
    SUBJECTS_MAX = 8,
    ROUNDS_MAX = 32,
    THREADS_MAX = 2,
    MENU = 512,
    SIDES = 13,
    BLOCKS_MAX = 1 << 16,
    SAMPLES_MAX = 1 << 21,
};

static const char *const mix_names[] = {"buffers", "textures", "levels"};
enum { MIX_BUFFERS, MIX_TEXTURES, MIX_LEVELS, MIXES };

/* --- acre --------------------------------------------------------------------------------------------------------- */

static void *create_acre(const vk_subject_device *device, uint64_t page_bytes_min, uint64_t page_bytes_max)
{
    acre_vk_options options = {.instance = device->instance,
                               .physical_device = device->physical_device,
                               .device = device->device,
                               .get_instance_proc_addr = device->get_instance,
                               .get_device_proc_addr = device->get_device,
                               .api_version = device->api_version,
                               .page_bytes_min = page_bytes_min,
                               .page_bytes_max = page_bytes_max};
    acre_vk *vk;
    return acre_vk_create(&options, &vk) == ACRE_OK ? vk : NULL;
}

static void *acre_create(const vk_subject_device *device) { return create_acre(device, 0, 0); }
static void *acre_create_large(const vk_subject_device *device)
{
    return create_acre(device, (uint64_t)32 << 20, (uint64_t)128 << 20);
}

static void acre_destroy(void *self)
{
    uint64_t left = acre_vk_destroy(self);
    if (left != 0) printf("acre: %llu blocks were left\n", (unsigned long long)left);
}

static bool acre_alloc(void *self, vk_subject_kind kind, const VkMemoryRequirements *requirements,
                       vk_subject_block *block)
{
    static const acre_vk_request requests[] = {
        [VK_SUBJECT_UNIFORM] = {.usage = ACRE_VK_UPLOAD, .flags = ACRE_VK_MAPPED},
        [VK_SUBJECT_VERTEX] = {.usage = ACRE_VK_GPU},
        [VK_SUBJECT_IMAGE] = {.usage = ACRE_VK_GPU},
    };
    acre_vk_allocation a;
    if (acre_vk_alloc(self, requirements, &requests[kind], &a) != ACRE_OK) return false;
    *block = (vk_subject_block){a.memory, a.offset, a.mapped, a.handle};
    return true;
}

static void acre_free(void *self, uint64_t handle)
{
    if (acre_vk_free(self, handle) != ACRE_OK) abort();
}

static void acre_frame(void *self) { (void)acre_vk_collect(self); }

static const vk_subject acre_subject = {"acre", acre_create, acre_destroy, acre_alloc, acre_free, acre_frame};
static const vk_subject acre_large_subject = {"acre, pages of 32 to 128 MiB", acre_create_large, acre_destroy,
                                              acre_alloc, acre_free, acre_frame};

/* --- numbers ------------------------------------------------------------------------------------------------------ */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t ticks(void)
{
#if defined(__x86_64__)
    unsigned cpu;
    return __rdtscp(&cpu);
#else
    return now_ns();
#endif
}

static double ns_per_tick, pair_overhead_ns;

static int compare_samples(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void calibrate(void)
{
    uint64_t begin_ns = now_ns(), begin = ticks();
    while (now_ns() - begin_ns < 50000000) continue;
    ns_per_tick = (double)(now_ns() - begin_ns) / (double)(ticks() - begin);
    /* The counter may go in steps of 10 ns, so it is their mean that counts, without what was interrupted. */
    enum { LOOKS = 100000 };
    static uint32_t looks[LOOKS];
    for (int i = 0; i < LOOKS; i++) {
        uint64_t t = ticks();
        looks[i] = (uint32_t)(ticks() - t);
    }
    qsort(looks, LOOKS, sizeof *looks, compare_samples);
    uint64_t sum = 0;
    for (int i = 0; i < LOOKS / 100 * 99; i++) sum += looks[i];
    pair_overhead_ns = 2 * (double)sum / (LOOKS / 100 * 99) * ns_per_tick;
}

static uint32_t taken_since(uint64_t begin)
{
    uint64_t taken = ticks() - begin;
    return taken < UINT32_MAX / 2 ? (uint32_t)taken : UINT32_MAX / 2;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}
static uint32_t below(uint64_t *state, uint32_t limit) { return (uint32_t)((next_random(state) >> 32) * limit >> 32); }

/* --- what is asked for -------------------------------------------------------------------------------------------- */

static VkMemoryRequirements uniforms[MENU], vertices[MENU], images[SIDES];
static const uint32_t sides[SIDES] = {32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048};

static uint64_t log_uniform(uint64_t *state, uint64_t min, unsigned doublings)
{
    uint64_t base = min << below(state, doublings);
    return base + next_random(state) % base;
}

static void make_menu(void)
{
    uint64_t state = 12345678987654321u;
    for (int i = 0; i < MENU; i++) {
        uniforms[i] = counted_buffer_requirements(log_uniform(&state, 256, 6), VK_BUFFER_USAGE_UNIFORM_BUFFER_BIT);
        vertices[i] = counted_buffer_requirements(log_uniform(&state, 1024, 9), VK_BUFFER_USAGE_VERTEX_BUFFER_BIT);
    }
    for (int i = 0; i < SIDES; i++) images[i] = counted_image_requirements(sides[i]);
}

/* --- a worker ----------------------------------------------------------------------------------------------------- */

typedef struct held_block {
    uint64_t handle;
    uint64_t *mapped, bytes;
    uint32_t ticks; /* its allocation took */
    uint32_t born;  /* the how manyth of its thread; what is written to mapped memory */
} held_block;

typedef struct worker {
    const vk_subject *subject;
    void *self;
    int mix, threads, number;
    double scale;
    uint64_t random, live_bytes, live_peak, failures;
    uint32_t count, sample_count, stay, born;
    held_block *blocks;
    uint32_t *samples;
    pthread_barrier_t *barrier; /* of the workers and who measures */
    pthread_barrier_t *loaded;  /* of the workers */
} worker;

static void take(worker *w, vk_subject_kind kind, const VkMemoryRequirements *requirements)
{
    vk_subject_block block;
    uint64_t begin = ticks();
    bool ok = w->subject->alloc(w->self, kind, requirements, &block);
    uint32_t taken = taken_since(begin);
    if (!ok || w->count == BLOCKS_MAX) {
        w->failures++;
        return;
    }
    held_block *b = &w->blocks[w->count++];
    *b = (held_block){block.handle, kind == VK_SUBJECT_UNIFORM ? block.mapped : NULL, requirements->size, taken,
                      w->born++};
    if (b->mapped != NULL) *b->mapped = b->born;
    w->live_bytes += b->bytes;
    if (w->live_bytes > w->live_peak) w->live_peak = w->live_bytes;
}

static void give(worker *w, uint32_t i)
{
    held_block b = w->blocks[i];
    w->blocks[i] = w->blocks[--w->count];
    if (b.mapped != NULL && *b.mapped != b.born) {
        printf("%s: a mapped block has lost what was in it\n", w->subject->title);
        abort();
    }
    w->live_bytes -= b.bytes;
    uint64_t begin = ticks();
    w->subject->free_block(w->self, b.handle);
    uint32_t pair = taken_since(begin) + b.ticks;
    if (w->sample_count < SAMPLES_MAX) w->samples[w->sample_count++] = pair;
}

static void take_buffer(worker *w, uint32_t uniform_percent)
{
    uint64_t r = next_random(&w->random);
    if (r % 100 < uniform_percent)
        take(w, VK_SUBJECT_UNIFORM, &uniforms[r >> 40 & (MENU - 1)]);
    else
        take(w, VK_SUBJECT_VERTEX, &vertices[r >> 40 & (MENU - 1)]);
}

static void frame(worker *w)
{
    if (w->number == 0) w->subject->frame(w->self);
}

static uint32_t scaled(const worker *w, uint32_t count)
{
    double share = w->scale * count / w->threads;
    return share < 1 ? 1 : (uint32_t)share;
}

static void mix_buffers(worker *w)
{
    uint32_t live = scaled(w, 24000), replaced = scaled(w, 600000);
    while (w->count < live && w->failures == 0) take_buffer(w, 70);
    for (uint32_t i = 0; i < replaced && w->failures == 0; i++) {
        give(w, below(&w->random, w->count));
        take_buffer(w, 70);
        if (i % 500 == 0) frame(w);
    }
}

static void mix_textures(worker *w)
{
    enum { COME = 8, SMALL = 16, PHASE_FRAMES = 250 };
    uint64_t budget = (uint64_t)(w->scale * (double)((uint64_t)512 << 20)) / (unsigned)w->threads;
    uint32_t frames = scaled(w, 2500);
    for (uint32_t f = 0; f < frames && w->failures == 0; f++) {
        /* Sizes come from five neighbours of the list, which ones depends on the phase. */
        uint32_t first = (f / PHASE_FRAMES * 5 + 4) % (SIDES - 4);
        for (int i = 0; i < COME; i++) {
            const VkMemoryRequirements *r = &images[first + below(&w->random, 5)];
            /* Of four at random, the one that came first goes: nearly, but not quite, in turn. */
            while (w->count != 0 && w->live_bytes + r->size > budget) {
                uint32_t oldest = below(&w->random, w->count);
                for (int k = 0; k < 3; k++) {
                    uint32_t other = below(&w->random, w->count);
                    if (w->blocks[other].born < w->blocks[oldest].born) oldest = other;
                }
                give(w, oldest);
            }
            take(w, VK_SUBJECT_IMAGE, r);
        }
        uint32_t before = w->count;
        for (int i = 0; i < SMALL; i++) take_buffer(w, 100);
        while (w->count > before) give(w, w->count - 1);
        frame(w);
    }
}

/* The first `stay` blocks stay. The others go in no order. */
static void unload(worker *w, uint32_t stay)
{
    while (w->count > stay) give(w, stay + below(&w->random, w->count - stay));
}

static void mix_levels(worker *w)
{
    uint32_t buffers = scaled(w, 5000), pictures = scaled(w, 120), replaced = scaled(w, 3000);
    while (w->count < scaled(w, 160) && w->failures == 0) take_buffer(w, 60);
    for (uint32_t i = 0; i < scaled(w, 8); i++) take(w, VK_SUBJECT_IMAGE, &images[6 + below(&w->random, 4)]);
    uint32_t for_good = w->count;
    pthread_barrier_wait(w->loaded); /* both threads have theirs */
    for (uint32_t level = 0; level < 6; level++) {
        uint32_t uniform_percent = 40 + level * 10, first = level * 7 % (SIDES - 5);
        for (uint32_t i = 0; i < buffers && w->failures == 0; i++) {
            take_buffer(w, uniform_percent);
            if (i % (buffers / pictures + 1) == 0) take(w, VK_SUBJECT_IMAGE, &images[first + below(&w->random, 6)]);
            if (i % 100 == 0) frame(w);
        }
        for (uint32_t i = 0; i < replaced && w->failures == 0; i++) {
            give(w, for_good + below(&w->random, w->count - for_good));
            take_buffer(w, uniform_percent);
            if (i % 100 == 0) frame(w);
        }
        if (level < 5) unload(w, for_good);
        w->stay = for_good;
    }
}

static int youngest_first(const void *a, const void *b)
{
    uint32_t x = ((const held_block *)a)->born, y = ((const held_block *)b)->born;
    return (x < y) - (x > y);
}

static void change_phase(worker *w)
{
    if (w->mix == MIX_BUFFERS)
        for (uint32_t stay = w->count / 10; w->count > stay;) give(w, below(&w->random, w->count));
    if (w->mix == MIX_TEXTURES) {
        uint64_t stay = w->live_bytes / 10;
        qsort(w->blocks, w->count, sizeof *w->blocks, youngest_first);
        while (w->live_bytes > stay) give(w, w->count - 1);
    }
    if (w->mix == MIX_LEVELS) unload(w, w->stay);
}

static void *work(void *argument)
{
    worker *w = argument;
    pthread_barrier_wait(w->barrier);
    if (w->mix == MIX_BUFFERS) mix_buffers(w);
    if (w->mix == MIX_TEXTURES) mix_textures(w);
    if (w->mix == MIX_LEVELS) mix_levels(w);
    pthread_barrier_wait(w->barrier); /* here the calls so far are counted */
    pthread_barrier_wait(w->barrier);
    change_phase(w);
    return NULL;
}

/* --- one run ------------------------------------------------------------------------------------------------------ */

/* X(name): in the table's order. */
#define FIGURES(X)                                                                                      \
    X(median_ns) X(p999_ns) X(max_ns) X(mean_ns) X(calls) X(objects_peak) X(driver_ms) X(peak_mib)      \
    X(live_peak_mib) X(after_mib) X(idle_mib) X(live_idle_mib)

typedef struct figures {
#define X(name) double name;
    FIGURES(X)
#undef X
    uint64_t failures;
} figures;

static void sleep_ms(long ms)
{
    struct timespec t = {.tv_nsec = ms * 1000000};
    nanosleep(&t, NULL);
}

static bool measure(const vk_subject *subject, const vk_subject_device *device, int mix, int threads, double scale,
                    figures *out)
{
    static worker workers[THREADS_MAX];
    static uint32_t *all;
    if (all == NULL) all = malloc(sizeof *all * SAMPLES_MAX * THREADS_MAX);
    pthread_barrier_t barrier, loaded;
    pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&loaded, NULL, (unsigned)threads);
    counted_reset();
    void *self = subject->create(device);
    if (self == NULL) return false;
    pthread_t ids[THREADS_MAX];
    for (int t = 0; t < threads; t++) {
        worker *w = &workers[t];
        held_block *blocks = w->blocks != NULL ? w->blocks : malloc(sizeof *blocks * BLOCKS_MAX);
        uint32_t *samples = w->samples != NULL ? w->samples : malloc(sizeof *samples * SAMPLES_MAX);
        *w = (worker){.subject = subject, .self = self, .mix = mix, .threads = threads, .number = t, .scale = scale,
                      .random = 88172645463325252u + (uint64_t)t * 0x9E3779B97F4A7C15u, .blocks = blocks,
                      .samples = samples, .barrier = &barrier, .loaded = &loaded};
        if (blocks == NULL || samples == NULL || pthread_create(&ids[t], NULL, work, w) != 0) abort();
    }
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    vk_count before = counted_read();
    pthread_barrier_wait(&barrier);
    uint64_t live_peak = 0, live = 0, pairs = 0;
    *out = (figures){0};
    for (int t = 0; t < threads; t++) pthread_join(ids[t], NULL);
    pthread_barrier_destroy(&barrier);
    pthread_barrier_destroy(&loaded);
    vk_count after = counted_read();
    uint64_t begin = now_ns();
    while (now_ns() - begin < 1100000000u) {
        subject->frame(self);
        sleep_ms(16);
    }
    vk_count idle = counted_read();
    for (int t = 0; t < threads; t++) {
        worker *w = &workers[t];
        memcpy(all + pairs, w->samples, w->sample_count * sizeof *all);
        pairs += w->sample_count;
        live_peak += w->live_peak;
        live += w->live_bytes;
        out->failures += w->failures;
        while (w->count != 0) give(w, w->count - 1);
    }
    subject->destroy(self);
    if (counted_read().allocations != 0) printf("%s: driver memory was left\n", subject->title);
    qsort(all, pairs, sizeof *all, compare_samples);
    const double mib = 1 << 20;
    out->median_ns = all[pairs / 2] * ns_per_tick - pair_overhead_ns;
    out->p999_ns = all[pairs - 1 - pairs / 1000] * ns_per_tick - pair_overhead_ns;
    out->max_ns = all[pairs - 1] * ns_per_tick - pair_overhead_ns;
    uint64_t sum = 0, counted = pairs - pairs / 1000;
    for (uint64_t i = 0; i < counted; i++) sum += all[i];
    out->mean_ns = (double)sum * ns_per_tick / (double)counted - pair_overhead_ns;
    out->calls = (double)before.calls;
    out->objects_peak = (double)before.allocations_peak;
    out->driver_ms = (double)before.driver_ns / 1e6;
    out->peak_mib = (double)before.held_peak_bytes / mib;
    out->live_peak_mib = (double)live_peak / mib;
    out->after_mib = (double)after.held_bytes / mib;
    out->idle_mib = (double)idle.held_bytes / mib;
    out->live_idle_mib = (double)live / mib;
    return true;
}

/* --- does it hand out what is free? ------------------------------------------------------------------------------- */

static bool is_sound(const vk_subject *subject, const vk_subject_device *device)
{
    enum { LIVE = 600, STEPS = 40000 };
    static struct {
        vk_subject_block block;
        uint64_t bytes;
    } live[LIVE];
    uint64_t state = 42;
    uint32_t count = 0;
    void *self = subject->create(device);
    if (self == NULL) return false;
    bool sound = true;
    for (int i = 0; i < STEPS && sound; i++) {
        uint32_t kind = below(&state, 16), k = below(&state, MENU);
        const VkMemoryRequirements *r = kind == 0 ? &images[below(&state, 9)] : kind < 6 ? &vertices[k] : &uniforms[k];
        vk_subject_kind what = kind == 0 ? VK_SUBJECT_IMAGE : kind < 6 ? VK_SUBJECT_VERTEX : VK_SUBJECT_UNIFORM;
        vk_subject_block b;
        if (count == LIVE || (count != 0 && below(&state, 100) < 45)) {
            uint32_t which = below(&state, count);
            subject->free_block(self, live[which].block.handle);
            live[which] = live[--count];
        } else if (subject->alloc(self, what, r, &b)) {
            sound = b.offset % r->alignment == 0;
            for (uint32_t n = 0; n < count; n++)
                if (live[n].block.memory == b.memory && live[n].block.offset < b.offset + r->size &&
                    b.offset < live[n].block.offset + live[n].bytes)
                    sound = false;
            live[count].block = b;
            live[count++].bytes = r->size;
        }
        if (i % 100 == 0) subject->frame(self);
    }
    while (count != 0) subject->free_block(self, live[--count].block.handle);
    subject->destroy(self);
    return sound;
}

/* --- rounds and tables -------------------------------------------------------------------------------------------- */

typedef struct entry {
    const vk_subject *subject;
    char name[32];
} entry;

/* ACRE_VK_PEER: name=path,… */
static int load_peers(entry *entries, int count)
{
    const char *list = getenv("ACRE_VK_PEER");
    while (list != NULL && *list != 0 && count < SUBJECTS_MAX) {
        const char *equals = strchr(list, '='), *end = strchr(list, ',');
        if (end == NULL) end = list + strlen(list);
        char path[4096];
        if (equals == NULL || equals > end || equals - list >= 32 || end - equals > 4095) {
            fprintf(stderr, "ACRE_VK_PEER: not name=path: %s\n", list);
            exit(2);
        }
        entry *e = &entries[count++];
        snprintf(e->name, sizeof e->name, "%.*s", (int)(equals - list), list);
        snprintf(path, sizeof path, "%.*s", (int)(end - equals - 1), equals + 1);
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        e->subject = library != NULL ? dlsym(library, "bench_vk_subject") : NULL;
        if (e->subject == NULL) {
            fprintf(stderr, "%s: %s\n", e->name, dlerror());
            exit(2);
        }
        list = *end == ',' ? end + 1 : end;
    }
    return count;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static figures median_of(const figures *runs, int rounds)
{
    figures m = {.failures = runs[0].failures};
    double values[ROUNDS_MAX];
#define X(name)                                                        \
    for (int r = 0; r < rounds; r++) values[r] = runs[r].name;         \
    m.name = median(values, rounds);
    FIGURES(X)
#undef X
    return m;
}

static void print_json(FILE *json, bool first, int mix, int threads, const char *name, const figures *f)
{
    fprintf(json, "%s\n    {\"mix\": \"%s\", \"threads\": %d, \"subject\": \"%s\"", first ? "" : ",", mix_names[mix],
            threads, name);
#define X(field) fprintf(json, ", \"" #field "\": %.3f", f->field);
    FIGURES(X)
#undef X
    fprintf(json, "}");
}

int main(int argc, char **argv)
{
    int rounds = 5, only_mix = -1, only_threads = 0;
    double scale = 1;
    const char *json_path = NULL, *device_name;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--rounds") == 0) rounds = atoi(argv[i + 1]);
        if (strcmp(argv[i], "--scale") == 0) scale = atof(argv[i + 1]);
        if (strcmp(argv[i], "--threads") == 0) only_threads = atoi(argv[i + 1]);
        if (strcmp(argv[i], "--json") == 0) json_path = argv[i + 1];
        for (int m = 0; m < MIXES; m++)
            if (strcmp(argv[i], "--mix") == 0 && strcmp(argv[i + 1], mix_names[m]) == 0) only_mix = m;
    }
    if (rounds < 1 || rounds > ROUNDS_MAX || !(scale > 0 && scale <= 1)) {
        fprintf(stderr, "vk_mix: --rounds 1 to %d, --scale above 0 to 1\n", ROUNDS_MAX);
        return 2;
    }
    calibrate();
    vk_subject_device device = counted_open(&device_name);
    make_menu();
    entry entries[SUBJECTS_MAX] = {{&acre_subject, "acre"}, {&acre_large_subject, "acre-32"}};
    int count = load_peers(entries, 2);
    printf("%s, %d rounds, scale %g, two looks at the clock: %.1f ns\n", device_name, rounds, scale, pair_overhead_ns);
    for (int s = 0; s < count; s++) {
        bool sound = is_sound(entries[s].subject, &device);
        printf("%s: %s%s\n", entries[s].name, entries[s].subject->title, sound ? "" : ": HANDS OUT WHAT IS NOT FREE");
        if (!sound) return 1;
    }
    FILE *json = json_path != NULL ? fopen(json_path, "w") : NULL;
    if (json != NULL)
        fprintf(json, "{\"device\": \"%s\", \"rounds\": %d, \"scale\": %g, \"results\": [", device_name, rounds, scale);

    printf("%-9s %-2s %-8s %8s %8s %9s %8s %7s %7s %8s %8s %8s %8s %8s %8s\n", "mix", "th", "subject", "ns", "p99.9",
           "max", "mean", "calls", "objects", "drv ms", "peak", "(live)", "after", "idle", "(live)");
    bool first = true;
    for (int mix = 0; mix < MIXES; mix++) {
        for (int threads = 1; threads <= THREADS_MAX; threads++) {
            if ((only_mix >= 0 && mix != only_mix) || (only_threads != 0 && threads != only_threads)) continue;
            static figures runs[SUBJECTS_MAX][ROUNDS_MAX];
            for (int r = 0; r < rounds; r++) {
                for (int k = 0; k < count; k++) {
                    int s = (k + r) % count;
                    if (!measure(entries[s].subject, &device, mix, threads, scale, &runs[s][r])) return 1;
                }
            }
            for (int s = 0; s < count; s++) {
                figures f = median_of(runs[s], rounds);
                printf("%-9s %-2d %-8s %8.1f %8.0f %9.0f %8.1f %7.0f %7.0f %8.1f %8.1f %8.1f %8.1f %8.1f %8.1f%s\n",
                       mix_names[mix], threads, entries[s].name, f.median_ns, f.p999_ns, f.max_ns, f.mean_ns, f.calls,
                       f.objects_peak, f.driver_ms, f.peak_mib, f.live_peak_mib, f.after_mib, f.idle_mib,
                       f.live_idle_mib, f.failures != 0 ? " FAILED" : "");
                if (json != NULL) print_json(json, first, mix, threads, entries[s].name, &f);
                first = false;
            }
            fflush(stdout);
        }
    }
    if (json != NULL) {
        fprintf(json, "\n]}\n");
        fclose(json);
    }
    counted_close();
    return 0;
}
