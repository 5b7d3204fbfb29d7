/* test_page_protocol: the real alloc/fsa.c under what tests/model/page_protocol.pml has in small.
 *
 * A few threads take and give back blocks of three classes in two heaps on one pool. A page holds 16 to 32 blocks, so
 * pages are exhausted, listed, retired and made into pages of other classes all the time; blocks go from thread to
 * thread; some threads trim. Every block carries a mark in a table beside the memory: who is handed one that is marked
 * already has found a block with two owners. At the end of each round all threads let go of their pages: then what the
 * bitmaps say is out must be what is held, an unlisted page must be without a free block, and after all blocks came
 * back and a trim no class may have a page left. Threads yield at random places, from a seed; the machine adds its
 * own. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/fsa.h"
#include "os/misuse.h"
#include "os/os.h"

enum {
    THREADS = 4,
    HEAPS = 2,
    CLASSES = 3,
    HELD = 96,      /* blocks that a thread holds of one class at most */
    LETTERS = 64,
    OPS = 400,      /* of each thread in a round */
    MARK_SHIFT = 11 /* no two blocks of these classes start in the same 2 KiB */
};
static const uint32_t sizes_used[CLASSES] = {4096, 3584, 2048};

static size_classes sizes;
static page_pool pool;
static account accounts[HEAPS];
static fsa heaps[HEAPS];
static _Atomic uint8_t *marks;
static size_t mark_count;

typedef struct hand { /* blocks of one class of one heap */
    fsa_source source;
    void *held[HELD];
    uint32_t count;
} hand;

typedef struct mailbox {
    pthread_mutex_t lock;
    void *letters[LETTERS];
    uint32_t count;
} mailbox;

static hand hands[THREADS][HEAPS][CLASSES];
static mailbox mail[HEAPS][CLASSES];
static pthread_barrier_t barrier;
static _Atomic bool over;
static _Atomic uint64_t twice, unmarked, taken_in_all;

static uint32_t chance(uint64_t *state, uint32_t n)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((x >> 32) % n);
}

static _Atomic uint8_t *mark_of(const void *p) { return &marks[space_offset(p) >> MARK_SHIFT]; }

static void take(uint64_t *state, fsa *f, uint32_t c, hand *h)
{
    uint32_t want = 1 + chance(state, 24);
    if (want > HELD - h->count) want = HELD - h->count;
    if (want == 0) return;
    uint32_t n = fsa_refill(f, c, &h->source, h->held + h->count, want);
    for (uint32_t i = 0; i < n; i++)
        if (atomic_exchange(mark_of(h->held[h->count + i]), 1) != 0) atomic_fetch_add(&twice, 1);
    h->count += n;
    atomic_fetch_add_explicit(&taken_in_all, n, memory_order_relaxed);
}

static void give(fsa *f, uint32_t c, void **blocks, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (atomic_exchange(mark_of(blocks[i]), 0) != 1) atomic_fetch_add(&unmarked, 1);
    fsa_return(f, c, blocks, n);
}

static void give_some(uint64_t *state, fsa *f, uint32_t c, hand *h)
{
    uint32_t n = 1 + chance(state, chance(state, 4) ? 8 : HELD);
    if (n > h->count) n = h->count;
    /* From a random place, so that pages are freed in no order. */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = chance(state, h->count - i), last = h->count - 1 - i;
        void *block = h->held[j];
        h->held[j] = h->held[last];
        h->held[last] = block;
    }
    if (n) give(f, c, h->held + h->count - n, n);
    h->count -= n;
}

static void post_or_fetch(uint64_t *state, mailbox *m, fsa *f, uint32_t c, hand *h)
{
    void *fetched[LETTERS];
    uint32_t n = 0;
    pthread_mutex_lock(&m->lock);
    if (chance(state, 2)) {
        while (h->count && m->count < LETTERS) m->letters[m->count++] = h->held[--h->count];
    } else {
        n = m->count;
        memcpy(fetched, m->letters, n * sizeof *fetched);
        m->count = 0;
    }
    pthread_mutex_unlock(&m->lock);
    if (n) give(f, c, fetched, n);
}

static void *worker(void *argument)
{
    uintptr_t number = (uintptr_t)argument;
    uint64_t state = 12345 + number * 7919;
    for (;;) {
        pthread_barrier_wait(&barrier);
        if (atomic_load(&over)) return NULL;
        for (int i = 0; i < OPS; i++) {
            uint32_t which = chance(&state, HEAPS), k = chance(&state, CLASSES);
            uint32_t c = size_class_of(&sizes, sizes_used[k]);
            fsa *f = &heaps[which];
            hand *h = &hands[number][which][k];
            uint32_t dice = chance(&state, 100);
            if (dice < 42) take(&state, f, c, h);
            else if (dice < 80) give_some(&state, f, c, h);
            else if (dice < 90) post_or_fetch(&state, &mail[which][k], f, c, h);
            else if (dice < 96) fsa_detach(f, c, &h->source);
            else if (dice < 98) fsa_trim(f);
            else if (dice < 99) fsa_idle(f, c);
            else if (chance(&state, 4) == 0) page_pool_trim(&pool, 0);
            else if (chance(&state, 4) == 0) fsa_purge_holes(f);
            if (chance(&state, 8) == 0) sched_yield();
        }
        for (int which = 0; which < HEAPS; which++)
            for (int k = 0; k < CLASSES; k++)
                fsa_detach(&heaps[which], size_class_of(&sizes, sizes_used[k]), &hands[number][which][k].source);
        pthread_barrier_wait(&barrier);
    }
}

static uint64_t held_of(int which, int k)
{
    uint64_t n = mail[which][k].count;
    for (int t = 0; t < THREADS; t++) n += hands[t][which][k].count;
    return n;
}

static void check_round(void)
{
    static fsa_usage usage;
    uint64_t out = 0, marked = 0;
    assert_int_equal(twice, 0);
    assert_int_equal(unmarked, 0);
    assert_int_equal(misuse_count(), 0);
    assert_true(page_pool_check(&pool));
    for (int which = 0; which < HEAPS; which++) {
        assert_true(fsa_check(&heaps[which]));
        fsa_usage_read(&heaps[which], &usage);
        for (int k = 0; k < CLASSES; k++) {
            uint32_t c = size_class_of(&sizes, sizes_used[k]);
            assert_int_equal(usage.taken[c], held_of(which, k));
            assert_int_equal(usage.pages[c], heaps[which].classes[c].pages);
            out += usage.taken[c];
        }
    }
    for (size_t i = 0; i < mark_count; i++) marked += atomic_load_explicit(&marks[i], memory_order_relaxed);
    assert_int_equal(marked, out);
}

static void give_all_back(void)
{
    for (int which = 0; which < HEAPS; which++)
        for (int k = 0; k < CLASSES; k++) {
            uint32_t c = size_class_of(&sizes, sizes_used[k]);
            mailbox *m = &mail[which][k];
            give(&heaps[which], c, m->letters, m->count);
            m->count = 0;
            for (int t = 0; t < THREADS; t++) {
                give(&heaps[which], c, hands[t][which][k].held, hands[t][which][k].count);
                hands[t][which][k].count = 0;
            }
        }
}

static int set_up(void **state)
{
    (void)state;
    misuse_set_policy(MISUSE_REPORT);
    if (!space_init(64 * MIB)) return -1;
    size_classes_init(&sizes, 0, 0);
    page_policy policy = {.delay_ms = 5, .cache_bytes_max = 1 * MIB};
    page_pool_init(&pool, acre_provider_flexible(), policy);
    for (int i = 0; i < HEAPS; i++) fsa_init(&heaps[i], (uint16_t)(7 + i), false, &sizes, &pool, &accounts[i]);
    mark_count = (space_chunk_count << CHUNK_SHIFT) >> MARK_SHIFT;
    marks = calloc(mark_count, sizeof *marks);
    for (int i = 0; i < HEAPS; i++)
        for (int k = 0; k < CLASSES; k++) pthread_mutex_init(&mail[i][k].lock, NULL);
    return marks ? 0 : -1;
}

static void no_block_has_two_owners_and_none_is_lost(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    for (uintptr_t i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, worker, (void *)i), 0);
    const uint64_t end_ns = os_now_ns() + 6000000000u;
    unsigned rounds = 0;
    do {
        pthread_barrier_wait(&barrier); /* they work */
        pthread_barrier_wait(&barrier); /* all is quiet */
        check_round();
        if (++rounds % 4 == 0) {
            give_all_back();
            check_round();
            for (int i = 0; i < HEAPS; i++) fsa_trim(&heaps[i]);
            for (int i = 0; i < HEAPS; i++)
                for (int k = 0; k < CLASSES; k++)
                    assert_int_equal(heaps[i].classes[size_class_of(&sizes, sizes_used[k])].pages, 0);
            assert_int_equal(accounts[0].bytes + accounts[1].bytes, 0);
        }
    } while (os_now_ns() < end_ns);
    atomic_store(&over, true);
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    give_all_back();
    check_round();
    print_message("%u rounds, %llu blocks handed out\n", rounds, (unsigned long long)atomic_load(&taken_in_all));
    assert_true(rounds > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_block_has_two_owners_and_none_is_lost)};
    return cmocka_run_group_tests(tests, set_up, NULL);
}
