/* kv_cache: the key-value cache of a language model server, whose sequences grow where they stand.
 *
 * A server holds keys and values of every token that its running sequences have seen: 128 KiB a token for a model of
 * 32 layers with 8 heads of 128 in 16 bits. How long a sequence will get is known when it ends. The usual answers: set
 * aside the longest for each (most of it is never used), copy to a larger block when it is full (twice the memory while
 * it copies, and the copying), or cut the cache into pages and teach every kernel to read through a table of them. This
 * one keeps a sequence in one piece: addresses for the longest are set aside, which cost nothing, and pages of 2 MiB,
 * 16 tokens, are put behind them as tokens come (acre_cuda_resize). Kernels see a plain array.
 *
 *   prefixes    a handful of system prompts, replaced now and then. A sequence that begins with one has a view of its
 *               pages (acre_cuda_share) and grows behind it in a block of its own: kernels read two arrays. When a
 *               prefix is replaced it is freed at once; its pages go with the last view.
 *   sequences   come, grow a token a step, end or are evicted when the budget is full (and begin again later)
 *   chats       long conversations that grow while their user types and sleep while he does not: in the quiet hours
 *               they and the weights go to host memory, addresses stay, and all comes back (acre_cuda_sleep, _wake)
 *
 * Beside what acre holds, the program counts what the first two of the usual answers would hold for the same sequences
 * at the same step, without any fragmentation. It marks tokens in device memory and looks at them again when sequences
 * end, and after sleep: growing and sleeping must lose nothing.
 *
 *   kv_cache [--quick] [--steps N] [--budget-mib N] [--weights-mib N] [--csv FILE] [--seed N]
 *
 * The driver is libcuda.so.1, or what ACRE_CUDA_DRIVER names; the first line of output says which it was. Exits with 77
 * where there is none. */
#include <acre/cuda.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

enum {
    LAYERS = 32, KV_HEADS = 8, HEAD = 128,
    TOKEN_BYTES = LAYERS * 2 * KV_HEADS * HEAD * 2, /* a row: keys and values of all layers, 16 bits each */
    TOKENS_MAX = 8192,                              /* the longest sequence */
    SEQUENCES_MAX = 512, QUEUE_MAX = 1 << 14, PREFIXES = 4, PREFIXES_MAX = 16, CHATS = 2, WEIGHTS = 16,
    MARK_EVERY = 4, /* tokens; a stand-in for a GPU pays for each with a page of ordinary memory */
};

enum { CATEGORY_WEIGHTS, CATEGORY_PREFIXES, CATEGORY_SEQUENCES, CATEGORY_CHATS, CATEGORIES };

/* --- options and chance ----------------------------------------------------------------------------------------- */

static struct {
    uint32_t steps, seed;
    uint64_t budget, weight_bytes; /* of one of WEIGHTS */
    const char *csv;
} options = {.steps = 3000, .seed = 1, .budget = 16 * GIB, .weight_bytes = 16 * MIB};

static uint64_t dice_state;
static double dice(void) /* 0 <= x < 1 */
{
    dice_state = dice_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(dice_state >> 11) / 9007199254740992.0;
}

/* Lengths of texts are spread by factors: median × e^(spread × normal). */
static uint32_t length_of_text(double median, double spread, uint32_t least, uint32_t most)
{
    double normal = 0;
    for (int i = 0; i < 12; i++) normal += dice();
    double x = median * exp(spread * (normal - 6));
    return x < least ? least : x > most ? most : (uint32_t)x;
}

/* --- the GPU ---------------------------------------------------------------------------------------------------- */

typedef unsigned long long device_pointer;
enum { NOT_SUPPORTED = 801 }; /* CUDA_ERROR_NOT_SUPPORTED: a stand-in that only counts memory has no contents */

/* The few driver calls that this program makes itself. Optional: without them nothing is marked. */
static struct {
    int (*to_host)(void *host, device_pointer from, size_t bytes);
    int (*from_host)(device_pointer to, const void *host, size_t bytes);
    int (*init)(unsigned flags);
    int (*retain)(void **context, int device);
    int (*push)(void *context);
    const char *(*problem)(void); /* a stand-in's checker: the first thing that was wrong; NULL: a real driver */
} gpu;
static bool marks; /* device memory can be written and read */

static void *call(void *library, const char *name)
{
    void *function = dlsym(library, name);
    if (!function) marks = false;
    return function;
}

static bool open_driver(void)
{
    const char *name = getenv("ACRE_CUDA_DRIVER");
    bool real = !name || !*name;
    if (real) name = "libcuda.so.1";
    void *library = dlopen(name, RTLD_NOW);
    if (!library) {
        printf("kv_cache: skipped: no CUDA driver (%s)\n", dlerror());
        return false;
    }
    marks = true;
    *(void **)&gpu.to_host = call(library, "cuMemcpyDtoH_v2");
    *(void **)&gpu.from_host = call(library, "cuMemcpyHtoD_v2");
    *(void **)&gpu.init = call(library, "cuInit");
    *(void **)&gpu.retain = call(library, "cuDevicePrimaryCtxRetain");
    *(void **)&gpu.push = call(library, "cuCtxPushCurrent_v2");
    *(void **)&gpu.problem = dlsym(library, "fake_cuda_problem");
    void *context;
    marks = marks && gpu.init(0) == 0 && gpu.retain(&context, 0) == 0 && gpu.push(context) == 0;
    printf("driver: %s%s\n", name, real ? "" : " (from ACRE_CUDA_DRIVER: a stand-in for a driver, no GPU saw this)");
    return true;
}

static uint64_t errors;

static void complain(const char *what, unsigned long long a, unsigned long long b)
{
    if (errors++ < 10) fprintf(stderr, "kv_cache: %s (%llu, %llu)\n", what, a, b);
}

/* What a kernel would do, in miniature: the first word of a token's row says whose it is. */
static void mark(void *base, uint32_t token, uint32_t stamp)
{
    uint32_t word = stamp + token;
    if (!marks || token % MARK_EVERY != 0) return;
    int result = gpu.from_host((uintptr_t)base + (uint64_t)token * TOKEN_BYTES, &word, sizeof word);
    if (result == NOT_SUPPORTED) marks = false;
    else if (result != 0) complain("a token cannot be written", stamp, token);
}

static void verify(void *base, uint32_t token, uint32_t stamp)
{
    uint32_t word = 0;
    if (!marks || token % MARK_EVERY != 0) return;
    if (gpu.to_host(&word, (uintptr_t)base + (uint64_t)token * TOKEN_BYTES, sizeof word) != 0 || word != stamp + token)
        complain("a token is not what it was", word, stamp + token);
}

/* --- the cache -------------------------------------------------------------------------------------------------- */

typedef struct sequence {
    void *base; /* of its own tokens; NULL: not in memory */
    void *view; /* of the prefix's pages; NULL: none */
    uint32_t tokens, tokens_end;
    uint32_t shared; /* tokens at its start that are in the view; its own begin behind them */
    uint32_t stamp;
    uint32_t prompt; /* tokens before its own first one */
    uint32_t prefix; /* number in prefixes */
    uint64_t bytes;    /* with pages behind them */
    uint64_t capacity; /* what a block that is copied to grow would have, in tokens */
} sequence;

static acre_cuda *heap;
static uint64_t page_bytes;
typedef struct prefix {
    void *base; /* NULL: replaced */
    uint32_t tokens, stamp;
    uint32_t views;
} prefix;
static prefix prefixes[PREFIXES_MAX];
static uint32_t prefix_count; /* the last PREFIXES are current */
static sequence running[SEQUENCES_MAX], chats[CHATS];
static uint32_t running_count;
static sequence queue[QUEUE_MAX];
static uint32_t queue_head, queue_count;
static uint64_t copied_bytes, evicted, finished, grown, grow_ns, grow_ns_max;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t up(uint64_t n, uint64_t unit) { return (n + unit - 1) / unit * unit; }

static void must(acre_status status, const char *what)
{
    if (status == ACRE_OK) return;
    acre_cuda_error error = {.status = ACRE_OK};
    if (heap) acre_cuda_error_read(heap, &error);
    fprintf(stderr, "kv_cache: %s: %s %s\n", what, acre_status_text(status), error.text);
    exit(1);
}

/* Pages behind the first `tokens` tokens. False: the budget is full. */
static bool reach(sequence *s, uint32_t tokens)
{
    uint64_t bytes = up((uint64_t)(tokens - s->shared) * TOKEN_BYTES, page_bytes);
    if (bytes <= s->bytes) return true;
    uint64_t begin = now_ns();
    acre_status status = acre_cuda_resize(heap, s->base, bytes);
    uint64_t took = now_ns() - begin;
    if (status == ACRE_OVER_BUDGET || status == ACRE_NO_MEMORY) return false;
    must(status, "growing a sequence");
    grow_ns += took;
    if (took > grow_ns_max) grow_ns_max = took;
    grown++;
    s->bytes = bytes;
    return true;
}

static void mark_own(const sequence *s, uint32_t token) { mark(s->base, token - s->shared, s->stamp); }

/* What copying would have done to get this far. */
static void count_copies(sequence *s)
{
    while (s->capacity < s->tokens) {
        uint64_t wanted = s->capacity ? s->capacity * 2 : up(s->tokens, 256);
        if (s->capacity) copied_bytes += s->capacity * TOKEN_BYTES;
        s->capacity = wanted;
    }
}

static void stop(sequence *s)
{
    must(acre_cuda_free(heap, s->base, NULL), "freeing a sequence");
    if (s->view) {
        must(acre_cuda_free(heap, s->view, NULL), "freeing a view");
        prefixes[s->prefix].views--;
    }
    s->base = s->view = NULL;
}

/* Whole pages of the prefix are shared; what remains of it is computed again. */
static bool start(sequence *s, uint32_t category)
{
    s->base = s->view = NULL;
    s->shared = 0;
    if (category == CATEGORY_SEQUENCES) {
        prefix *p = &prefixes[s->prefix];
        if (!p->base) p = &prefixes[s->prefix = prefix_count - 1]; /* replaced while it waited */
        uint64_t shared = (uint64_t)p->tokens * TOKEN_BYTES / page_bytes * page_bytes;
        if (s->prompt < p->tokens + 1) s->prompt = p->tokens + 1;
        if (s->tokens_end <= s->prompt) s->tokens_end = s->prompt + 1;
        must(acre_cuda_share(heap, p->base, 0, shared, category, NULL, &s->view), "sharing a prefix");
        s->shared = (uint32_t)(shared / TOKEN_BYTES);
        p->views++;
    }
    acre_cuda_request request = {.bytes = page_bytes, .room_bytes = (uint64_t)TOKENS_MAX * TOKEN_BYTES,
                                 .category = category, .flags = ACRE_CUDA_OWN_PAGES};
    acre_status status = acre_cuda_alloc_request(heap, &request, &s->base);
    if (status != ACRE_OVER_BUDGET && status != ACRE_NO_MEMORY) must(status, "starting a sequence");
    s->bytes = page_bytes;
    if (status != ACRE_OK || !reach(s, s->prompt)) {
        stop(s); /* freeing NULL is fine */
        return false;
    }
    s->tokens = s->prompt;
    s->capacity = 0;
    count_copies(s);
    for (uint32_t token = s->shared; token < s->tokens; token++) mark_own(s, token);
    return true;
}

static void verify_sequence(const sequence *s)
{
    for (uint32_t token = 0; token < s->shared; token += MARK_EVERY * 7)
        verify(s->view, token, prefixes[s->prefix].stamp);
    for (uint32_t token = 0; token < s->tokens - s->shared; token += MARK_EVERY * 7) verify(s->base, token, s->stamp);
}

/* The one that came last goes back to the head of the queue: it loses least. */
static bool evict(uint32_t keep)
{
    if (running_count <= keep + 1) return false;
    sequence *s = &running[--running_count];
    stop(s);
    evicted++;
    queue_head = (queue_head + QUEUE_MAX - 1) % QUEUE_MAX;
    queue[queue_head] = *s;
    queue[queue_head].prompt = s->tokens; /* to be computed again, the tokens it made included */
    queue_count++;
    return true;
}

static void add_prefix(void)
{
    if (prefix_count == PREFIXES_MAX) return;
    if (prefix_count >= PREFIXES) { /* the oldest goes; who began with it has its pages as long as he needs them */
        prefix *old = &prefixes[prefix_count - PREFIXES];
        must(acre_cuda_free(heap, old->base, NULL), "freeing a prefix");
        old->base = NULL;
    }
    /* No multiples of a page's tokens, on purpose. */
    prefix *p = &prefixes[prefix_count];
    *p = (prefix){.tokens = 400 + 500 * (prefix_count % 4) + 7 * prefix_count, .stamp = 1000000 * (prefix_count + 1)};
    acre_cuda_request request = {.bytes = (uint64_t)p->tokens * TOKEN_BYTES, .category = CATEGORY_PREFIXES,
                                 .flags = ACRE_CUDA_OWN_PAGES};
    acre_status status;
    do status = acre_cuda_alloc_request(heap, &request, &p->base);
    while ((status == ACRE_OVER_BUDGET || status == ACRE_NO_MEMORY) && evict(0));
    must(status, "allocating a prefix");
    for (uint32_t token = 0; token < p->tokens; token++) mark(p->base, token, p->stamp);
    prefix_count++;
}

static void arrive(uint32_t number)
{
    if (queue_count == QUEUE_MAX) return;
    sequence s = {.stamp = 5000000 + number * TOKENS_MAX % 900000000};
    s.prefix = prefix_count - PREFIXES + (uint32_t)(dice() * PREFIXES);
    s.prompt = prefixes[s.prefix].tokens + length_of_text(220, 0.8, 8, 3000);
    s.tokens_end = s.prompt + length_of_text(260, 0.9, 4, TOKENS_MAX - s.prompt);
    queue[(queue_head + queue_count++) % QUEUE_MAX] = s;
}

/* A step of the model: each running sequence gets a token. */
static void decode(void)
{
    for (uint32_t i = 0; i < running_count; i++) {
        sequence *s = &running[i];
        bool there = reach(s, s->tokens + 1);
        while (!there && evict(i)) there = reach(s, s->tokens + 1);
        if (!there) {
            if (i > 0 && evict(i - 1)) break; /* it was the youngest itself */
            fprintf(stderr, "kv_cache: one sequence alone does not fit into the budget\n");
            exit(1);
        }
        mark_own(s, s->tokens);
        s->tokens++;
        count_copies(s);
    }
    for (uint32_t i = 0; i < running_count;) {
        sequence *s = &running[i];
        if (s->tokens < s->tokens_end) {
            i++;
            continue;
        }
        verify_sequence(s);
        stop(s);
        finished++;
        memmove(s, s + 1, (running_count - i - 1) * sizeof *s); /* order is age */
        running_count--;
    }
}

static void admit(void)
{
    /* Some pages are left for those that run; a queue that fills the cache to the brim only causes evictions. */
    acre_cuda_info info;
    while (queue_count && running_count < SEQUENCES_MAX) {
        must(acre_cuda_info_read(heap, &info), "reading figures");
        uint64_t used = info.heap.live_bytes + info.heap.pending_bytes;
        uint64_t wants = (uint64_t)(queue[queue_head].prompt + 64) * TOKEN_BYTES + running_count * page_bytes / 2;
        if (running_count && used + wants > options.budget) return;
        sequence s = queue[queue_head];
        if (!start(&s, CATEGORY_SEQUENCES)) return;
        running[running_count++] = s;
        queue_head = (queue_head + 1) % QUEUE_MAX;
        queue_count--;
    }
}

static void converse(void)
{
    for (uint32_t i = 0; i < CHATS; i++) {
        sequence *s = &chats[i];
        if (s->tokens >= s->tokens_end || dice() > 0.5) continue;
        while (!reach(s, s->tokens + 1))
            if (!evict(0)) return;
        mark_own(s, s->tokens);
        s->tokens++;
        count_copies(s);
    }
}

/* --- quiet hours ------------------------------------------------------------------------------------------------ */

typedef struct kept {
    void *block, *host;
    struct kept *next;
} kept;

static bool save(void *context, void *block, uint64_t bytes, void *stream)
{
    (void)stream;
    kept **list = context, *k = malloc(sizeof *k);
    if (!k) return false;
    *k = (kept){.block = block, .host = malloc(bytes), .next = *list};
    *list = k;
    return k->host && gpu.to_host(k->host, (uintptr_t)block, bytes) == 0;
}

static bool restore(void *context, void *block, uint64_t bytes, void *stream)
{
    (void)stream;
    for (kept *k = *(kept **)context; k; k = k->next)
        if (k->block == block) return gpu.from_host((uintptr_t)block, k->host, bytes) == 0;
    return false;
}

static void forget(kept *list)
{
    while (list) {
        kept *k = list;
        list = k->next;
        free(k->host);
        free(k);
    }
}

static void *weights[WEIGHTS];
static kept *away[CATEGORIES];

static void sleep_category(uint32_t category)
{
    must(acre_cuda_sleep(heap, category, marks ? save : NULL, &away[category]), "sleeping");
}

static void wake_category(uint32_t category)
{
    must(acre_cuda_wake(heap, category, marks ? restore : NULL, &away[category]), "waking");
    forget(away[category]);
    away[category] = NULL;
}

static void verify_rest(void)
{
    for (uint32_t i = 0; i < CHATS; i++)
        if (chats[i].base) verify_sequence(&chats[i]);
    for (uint32_t i = 0; i < WEIGHTS; i++) verify(weights[i], 0, 77 + i);
}

/* --- the day ---------------------------------------------------------------------------------------------------- */

typedef struct figures {
    uint64_t needed, held, empty, weights, prefixes, sequences, chats, shared, reserve_max, copy_grow, asleep, calls;
} figures;

static uint64_t category_live(uint32_t category)
{
    acre_gpu_category_stats stats;
    must(acre_cuda_category_read(heap, category, &stats), "reading figures");
    return stats.live_bytes + stats.pending_bytes;
}

/* needed, reserve_max and copy_grow are of the key-value cache, without weights; the prefixes once, in the last two
 * again in each sequence. */
static figures look(void)
{
    figures f = {0};
    acre_cuda_info info;
    must(acre_cuda_info_read(heap, &info), "reading figures");
    f.held = info.heap.held_bytes;
    f.empty = info.heap.empty_bytes;
    f.asleep = info.asleep_bytes;
    f.shared = info.shared_bytes;
    f.calls = info.heap.driver_calls;
    f.weights = category_live(CATEGORY_WEIGHTS);
    f.prefixes = category_live(CATEGORY_PREFIXES);
    f.sequences = category_live(CATEGORY_SEQUENCES);
    f.chats = category_live(CATEGORY_CHATS);
    for (uint32_t i = 0; i < prefix_count; i++)
        if (prefixes[i].base || prefixes[i].views) f.needed += (uint64_t)prefixes[i].tokens * TOKEN_BYTES;
    for (uint32_t i = 0; i < running_count + CHATS; i++) {
        const sequence *s = i < CHATS ? &chats[i] : &running[i - CHATS];
        f.needed += (uint64_t)(s->tokens - s->shared) * TOKEN_BYTES;
        f.reserve_max += (uint64_t)TOKENS_MAX * TOKEN_BYTES;
        f.copy_grow += s->capacity * TOKEN_BYTES;
    }
    return f;
}

static void setup(void)
{
    const acre_gpu_category rows[CATEGORIES] = {
        [CATEGORY_WEIGHTS] = {.name = "weights"},
        [CATEGORY_PREFIXES] = {.name = "prefixes"},
        [CATEGORY_SEQUENCES] = {.name = "sequences"},
        [CATEGORY_CHATS] = {.name = "chats"},
    };
    acre_cuda_options o = {
        .categories = rows,
        .category_count = CATEGORIES,
        .own_lanes = 1 << CATEGORY_WEIGHTS | 1 << CATEGORY_CHATS,
        .budget_bytes = options.budget,
        .room_bytes = (uint64_t)(SEQUENCES_MAX + 64) * TOKENS_MAX * TOKEN_BYTES,
        .empty_live_percent = 10, /* what the evening leaves behind, others may have */
        .empty_delay_ms = 2000,
    };
    acre_cuda_error why = {.status = ACRE_OK};
    acre_status status = acre_cuda_create(&o, &heap, &why);
    if (status == ACRE_NOT_SUPPORTED) {
        printf("kv_cache: skipped: %s\n", why.text);
        exit(77);
    }
    if (status != ACRE_OK) fprintf(stderr, "kv_cache: %s\n", why.text);
    must(status, "making the heap");
    acre_cuda_info info;
    must(acre_cuda_info_read(heap, &info), "reading figures");
    page_bytes = info.page_bytes;

    for (uint32_t i = 0; i < WEIGHTS; i++) {
        acre_cuda_request request = {.bytes = options.weight_bytes, .category = CATEGORY_WEIGHTS};
        must(acre_cuda_alloc_request(heap, &request, &weights[i]), "allocating weights");
        mark(weights[i], 0, 77 + i);
    }
    while (prefix_count < PREFIXES) add_prefix();
    for (uint32_t i = 0; i < CHATS; i++) {
        chats[i] = (sequence){.stamp = 2000000000u + i * TOKENS_MAX, .prompt = 300 + 200 * i, .tokens_end = 1200};
        if (!start(&chats[i], CATEGORY_CHATS)) must(ACRE_OVER_BUDGET, "starting a chat");
    }
}

static void parse(int count, char **arguments)
{
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i], *value = i + 1 < count ? arguments[i + 1] : NULL;
        if (strcmp(name, "--quick") == 0) {
            options.steps = 300;
            options.budget = 3 * GIB;
            options.weight_bytes = 4 * MIB;
            continue;
        }
        i++;
        if (value && strcmp(name, "--steps") == 0) options.steps = (uint32_t)strtoul(value, NULL, 10);
        else if (value && strcmp(name, "--budget-mib") == 0) options.budget = strtoull(value, NULL, 10) * MIB;
        else if (value && strcmp(name, "--weights-mib") == 0)
            options.weight_bytes = strtoull(value, NULL, 10) * MIB / WEIGHTS;
        else if (value && strcmp(name, "--seed") == 0) options.seed = (uint32_t)strtoul(value, NULL, 10);
        else if (value && strcmp(name, "--csv") == 0) options.csv = value;
        else {
            fprintf(stderr, "kv_cache: %s: see the head of kv_cache.c\n", name);
            exit(2);
        }
    }
}

/* How many requests come in a step: morning, rush, quiet, rush. */
static double arrivals(double day, double rate)
{
    if (day < 0.15) return rate * day / 0.15;
    if (day < 0.48) return rate * (1 + 0.6 * sin((day - 0.15) * 18));
    return day < 0.78 ? 0 : 1.2 * rate;
}

int main(int count, char **arguments)
{
    parse(count, arguments);
    dice_state = options.seed;
    if (!open_driver()) return 77;
    setup();
    FILE *csv = options.csv ? fopen(options.csv, "w") : NULL;
    if (options.csv && !csv) {
        perror(options.csv);
        return 1;
    }
    if (csv)
        fprintf(csv, "step,running,waiting,finished,evicted,needed,held,empty,weights,prefixes,sequences,chats,shared,"
                     "reserve_max,copy_grow,copied,asleep,driver_calls,budget\n");

    /* About as many requests as the budget can serve; at the rush too many. */
    double rate = (double)options.budget / (400.0 * TOKEN_BYTES) / 600.0, due = 0;
    uint64_t kv_peak = 0, max_peak = 0, copy_peak = 0, running_sum = 0, busy = 0;
    double held_sum = 0, needed_sum = 0, max_sum = 0, copy_sum = 0;
    uint32_t number = 0;
    bool asleep = false;
    for (uint32_t step = 0; step < options.steps; step++) {
        double day = (double)step / options.steps;
        bool night = day >= 0.70 && day < 0.78;
        if (night && !asleep) { /* nobody asks: the GPU is somebody else's */
            while (running_count) decode();
            verify_rest();
            sleep_category(CATEGORY_WEIGHTS);
            sleep_category(CATEGORY_CHATS);
            must(acre_cuda_trim(heap, 0, true, NULL), "trimming");
        } else if (!night && asleep) {
            wake_category(CATEGORY_WEIGHTS);
            wake_category(CATEGORY_CHATS);
            verify_rest();
        }
        asleep = night;
        if (!night) {
            if (step % (options.steps / 8 + 1) == options.steps / 8) add_prefix();
            for (due += arrivals(day, rate); due >= 1; due--) arrive(number++);
            admit();
            decode();
            converse();
        }
        must(acre_cuda_tick(heap), "tick");
        figures f = look();
        uint64_t kv = f.held - f.weights;
        if (f.held > options.budget) complain("more held than the budget allows", f.held, options.budget);
        if (!night && running_count) {
            busy++;
            running_sum += running_count;
            held_sum += (double)kv;
            needed_sum += (double)f.needed;
            max_sum += (double)f.reserve_max;
            copy_sum += (double)f.copy_grow;
        }
        if (kv > kv_peak) kv_peak = kv;
        if (f.reserve_max > max_peak) max_peak = f.reserve_max;
        if (f.copy_grow > copy_peak) copy_peak = f.copy_grow;
        if (csv)
            fprintf(csv, "%u,%u,%u,%llu,%llu,%llu,%llu,%llu,%llu,%llu,%llu,%llu,%llu,%llu,%llu,%llu,%llu,%llu,%llu\n",
                    step, running_count, queue_count, (unsigned long long)finished, (unsigned long long)evicted,
                    (unsigned long long)f.needed, (unsigned long long)f.held, (unsigned long long)f.empty,
                    (unsigned long long)f.weights, (unsigned long long)f.prefixes, (unsigned long long)f.sequences,
                    (unsigned long long)f.chats, (unsigned long long)f.shared, (unsigned long long)f.reserve_max,
                    (unsigned long long)f.copy_grow, (unsigned long long)copied_bytes, (unsigned long long)f.asleep,
                    (unsigned long long)f.calls, (unsigned long long)options.budget);
    }
    if (csv) fclose(csv);

    verify_rest();
    while (running_count) {
        verify_sequence(&running[running_count - 1]);
        stop(&running[--running_count]);
    }
    const char *wrong = acre_cuda_check(heap);
    if (wrong) fprintf(stderr, "kv_cache: %s\n", wrong);
    if (gpu.problem && gpu.problem()) complain(gpu.problem(), 0, 0);
    acre_cuda_info info;
    must(acre_cuda_info_read(heap, &info), "reading figures");
    double steps = busy ? (double)busy : 1;
    printf("%u steps, %llu sequences finished, %llu evicted for want of budget, %.0f at a time on average\n",
           options.steps, (unsigned long long)finished, (unsigned long long)evicted, (double)running_sum / steps);
    printf("                            mean MiB   peak MiB   of what is needed   (key-value cache, busy steps)\n");
    printf("  needed by tokens         %10.0f\n", needed_sum / steps / MIB);
    printf("  acre, grows in place     %10.0f %10.0f   %.2f\n", held_sum / steps / MIB, (double)kv_peak / MIB,
           held_sum / needed_sum);
    printf("  copy to grow (doubling)  %10.0f %10.0f   %.2f, and %.1f GiB copied\n", copy_sum / steps / MIB,
           (double)copy_peak / MIB, copy_sum / needed_sum, (double)copied_bytes / GIB);
    printf("  longest set aside        %10.0f %10.0f   %.2f\n", max_sum / steps / MIB, (double)max_peak / MIB,
           max_sum / needed_sum);
    printf("growing in place: %llu times, %.1f us on average, %.0f us at most%s; %llu driver calls in all\n",
           (unsigned long long)grown, grown ? (double)grow_ns / (double)grown / 1000 : 0.0, (double)grow_ns_max / 1000,
           getenv("ACRE_CUDA_DRIVER") ? " (of a stand-in driver)" : "", (unsigned long long)info.heap.driver_calls);
    printf("tokens looked at again after growing and sleeping: %s\n",
           !marks ? "none, this driver has no contents" : errors ? "WRONG" : "all as written");
    acre_cuda_destroy(heap);
    return errors || wrong ? 1 : 0;
}
