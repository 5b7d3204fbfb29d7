/* test_thread_cache: what threads keep is bounded in bytes, is used again, and comes back when a thread dies, at
 * whatever moment. */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "acre/acre.h"
#include "heap/heap.h"
#include "page/arena.h"
#include "probe.h"

static acre_heap *heap;

static acre_heap *make(acre_heap_options options)
{
    assert_int_equal(acre_heap_create(&options, &heap), ACRE_OK);
    return heap;
}

static void destroy(void)
{
    assert_true(acre_heap_check(heap));
    assert_int_equal(acre_heap_destroy(heap), ACRE_OK);
}

static void in_thread(void *(*body)(void *), void *context)
{
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, body, context), 0);
    pthread_join(t, NULL);
}

static uint64_t blocks_in_use(void)
{
    static fsa_usage usage;
    uint64_t n = 0;
    fsa_usage_read(&heap->fsa, &usage);
    for (int c = 1; c <= CLASS_COUNT_MAX; c++) n += usage.taken[c];
    return n;
}

static size_t medium_in_use(void)
{
    medium_usage usage;
    medium_usage_read(&heap->medium, &usage);
    return usage.used;
}

static size_t caches(void)
{
    size_t n = 0;
    for (thread_cache *tc = heap->caches; tc; tc = tc->next) n++;
    return n;
}

/* --- death -------------------------------------------------------------------------------------------------------- */

static void *uses_every_size(void *unused)
{
    (void)unused;
    void *p[300];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 300; i++) {
            p[i] = acre_heap_alloc(heap, (size_t)i * i * (round == 2 ? 4 : 1), 0, NULL);
            CHECK(p[i] != NULL);
        }
        for (int i = 0; i < 300; i++) CHECK(acre_heap_free(heap, p[i]) == ACRE_OK);
    }
    return NULL;
}

static void a_thread_that_ends_returns_everything(void **state)
{
    (void)state;
    make((acre_heap_options){0});
    size_t used, held, used_later;
    in_thread(uses_every_size, NULL);
    arena_usage(&used, &held);
    for (int i = 0; i < 20; i++) in_thread(uses_every_size, NULL);
    assert_int_equal(caches(), 0);
    assert_int_equal(blocks_in_use(), 0);
    assert_int_equal(medium_in_use(), 0);
    arena_usage(&used_later, &held);
    assert_true(used_later <= used + 4096); /* bitmaps of the last page of a class may differ */
    acre_heap_trim(heap, 0);
    assert_int_equal(heap->account.bytes, 0);
    destroy();
}

static void *leaves_a_block(void *block)
{
    *(void **)block = acre_heap_alloc(heap, 1000, 0, NULL);
    pthread_exit(NULL);
}

static void blocks_outlive_the_thread_that_made_them(void **state)
{
    (void)state;
    make((acre_heap_options){0});
    char *p[50];
    for (int i = 0; i < 50; i++) {
        in_thread(leaves_a_block, &p[i]);
        probe_stamp(p[i], 1000, (unsigned)i);
    }
    assert_int_equal(blocks_in_use(), 50);
    for (int i = 0; i < 50; i++) {
        assert_true(probe_stamped(p[i], 1000, 1000, (unsigned)i));
        assert_int_equal(acre_heap_free(heap, p[i]), ACRE_OK);
    }
    acre_heap_trim(heap, 0);
    assert_int_equal(blocks_in_use(), 0);
    assert_int_equal(heap->account.bytes, 0);
    destroy();
}

static pthread_key_t late_key;
static void allocates_late(void *block)
{
    /* Runs among the destructors of a thread: before and after acre's own, by how often it asks to come again. */
    uintptr_t round = *(uintptr_t *)block;
    CHECK(acre_heap_free(heap, block) == ACRE_OK);
    uintptr_t *more = acre_heap_alloc(heap, 64, 0, NULL), *medium = acre_heap_alloc(heap, 30000, 0, NULL);
    CHECK(more && medium && acre_heap_free(heap, medium) == ACRE_OK);
    if (round == 0) {
        CHECK(acre_heap_free(heap, more) == ACRE_OK);
        return;
    }
    *more = round - 1;
    pthread_setspecific(late_key, more);
}

static void *has_a_late_destructor(void *unused)
{
    (void)unused;
    uintptr_t *p = acre_heap_alloc(heap, 64, 0, NULL);
    *p = 2;
    pthread_setspecific(late_key, p);
    return NULL;
}

static void destructors_may_allocate_and_free_after_the_cache_is_gone(void **state)
{
    (void)state;
    make((acre_heap_options){0});
    assert_int_equal(pthread_key_create(&late_key, allocates_late), 0);
    for (int i = 0; i < 20; i++) in_thread(has_a_late_destructor, NULL);
    assert_int_equal(blocks_in_use(), 0);
    assert_int_equal(medium_in_use(), 0);
    assert_int_equal(caches(), 0);
    pthread_key_delete(late_key);
    destroy();
}

static sem_t done;
static void *uses_and_says_so(void *unused)
{
    (void)unused;
    void *p = acre_heap_alloc(heap, 100, 0, NULL), *q = acre_heap_alloc(heap, 10000, 0, NULL);
    CHECK(p && q && acre_heap_free(heap, p) == ACRE_OK && acre_heap_free(heap, q) == ACRE_OK);
    sem_post(&done);
    return NULL; /* and ends, while the heap is destroyed */
}

static void a_heap_may_be_destroyed_while_a_thread_that_used_it_ends(void **state)
{
    (void)state;
    sem_init(&done, 0, 0);
    for (int i = 0; i < (PROBE_TSAN ? 200 : 2000); i++) {
        make((acre_heap_options){0});
        pthread_t t;
        assert_int_equal(pthread_create(&t, NULL, uses_and_says_so, NULL), 0);
        while (sem_wait(&done) != 0) {}
        assert_int_equal(acre_heap_destroy(heap), ACRE_OK); /* nobody uses it any more */
        pthread_join(t, NULL);
    }
    assert_true(acre_heap_check(acre_heap_process()));
    sem_destroy(&done);
}

/* --- bounds ------------------------------------------------------------------------------------------------------- */

static void kept(uint64_t *blocks, size_t *medium_bytes)
{
    memset(blocks, 0, (CLASS_COUNT_MAX + 1) * sizeof *blocks);
    *medium_bytes = 0;
    for (thread_cache *tc = heap->caches; tc; tc = tc->next) thread_cache_count(tc, blocks, medium_bytes);
}

static void a_thread_keeps_few_bytes_of_each_size(void **state)
{
    (void)state;
    const size_t bounds[] = {0, 4096, 16384, 1 << 20};
    enum { BLOCKS = 6000 };
    void **p = malloc(BLOCKS * sizeof *p);
    for (size_t b = 0; b < sizeof bounds / sizeof *bounds; b++) {
        size_t most = bounds[b] ? bounds[b] : 65536;
        make((acre_heap_options){.magazine_bytes_max = bounds[b]});
        for (size_t size = 8; size <= 4096; size = size * 3 / 2 + 8) {
            for (int i = 0; i < BLOCKS; i++) p[i] = acre_heap_alloc(heap, size, 0, NULL);
            for (int i = 0; i < BLOCKS; i++) assert_int_equal(acre_heap_free(heap, p[i]), ACRE_OK);
            uint64_t blocks[CLASS_COUNT_MAX + 1];
            size_t medium_bytes;
            kept(blocks, &medium_bytes);
            uint32_t c = size_class_of(heap->sizes, size);
            /* Eight blocks are always allowed; blocks of a word that was taken count, too. */
            assert_true(blocks[c] <= most / heap->sizes->size[c] + 8 + 64);
        }
        destroy();
    }
    free(p);
}

static void a_thread_keeps_few_bytes_of_larger_blocks(void **state)
{
    (void)state;
    const size_t bounds[] = {0, 100000, 4 << 20, 1};
    const size_t sizes[] = {5000, 20000, 90000, 400000, 2 << 20, 20 << 20};
    for (size_t b = 0; b < sizeof bounds / sizeof *bounds; b++) {
        make((acre_heap_options){.thread_bytes_max = bounds[b]});
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            void *p[100];
            int n = sizes[s] > 1 << 20 ? 10 : 100;
            for (int i = 0; i < n; i++) p[i] = acre_heap_alloc(heap, sizes[s], 0, NULL);
            for (int i = 0; i < n; i++) assert_int_equal(acre_heap_free(heap, p[i]), ACRE_OK);
            uint64_t blocks[CLASS_COUNT_MAX + 1];
            size_t medium_bytes;
            kept(blocks, &medium_bytes);
            /* One block that is big beside the bound may stay, unless nothing may. */
            size_t bound = bounds[b] ? bounds[b] : 1 << 20, most = 2 * bound;
            if (medium_bytes > most)
                fail_msg("%zu bytes are kept of blocks of %zu, the bound is %zu", medium_bytes, sizes[s], most);
        }
        destroy();
    }
}

static void what_a_thread_freed_it_gets_again_at_once(void **state)
{
    (void)state;
    make((acre_heap_options){0});
    const size_t sizes[] = {8, 100, 4096, 5000, 100000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        void *p = acre_heap_alloc(heap, sizes[s], 0, NULL);
        assert_int_equal(acre_heap_free(heap, p), ACRE_OK);
        assert_ptr_equal(acre_heap_alloc(heap, sizes[s], 0, NULL), p);
        assert_int_equal(acre_heap_free(heap, p), ACRE_OK);
    }
    destroy();
}

/* Sizes of a larger block are as fine as a 64th; what a thread keeps may serve a request that is a little smaller. */
static void a_block_that_is_a_little_larger_will_do(void **state)
{
    (void)state;
    make((acre_heap_options){0});
    const size_t size = 40 * KIB;
    void *a = acre_heap_alloc(heap, size, 0, NULL), *b = acre_heap_alloc(heap, size, 0, NULL);
    for (int behind = 0; behind < 2; behind++) { /* in front of the bins, then in them */
        assert_int_equal(acre_heap_free(heap, a), ACRE_OK);
        if (behind) assert_int_equal(acre_heap_free(heap, b), ACRE_OK);
        void *larger = acre_heap_alloc(heap, size + 512, 0, NULL),
             *much_smaller = acre_heap_alloc(heap, 36 * KIB - 512, 0, NULL);
        assert_true(larger != a && much_smaller != a);
        void *smaller = acre_heap_alloc(heap, 36 * KIB, 0, NULL);
        assert_true(smaller == a || smaller == b);
        assert_int_equal(acre_usable_size(smaller), size);
        assert_true(acre_heap_check(heap));
        assert_int_equal(acre_heap_free(heap, larger), ACRE_OK);
        assert_int_equal(acre_heap_free(heap, much_smaller), ACRE_OK);
        if (!behind) a = smaller;
        else assert_int_equal(acre_heap_free(heap, smaller), ACRE_OK);
    }
    destroy();
}

static void a_size_that_is_no_longer_used_is_not_kept(void **state)
{
    (void)state;
    make((acre_heap_options){0});
    enum { BLOCKS = 1000 };
    static void *p[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) p[i] = acre_heap_alloc(heap, 64, 0, NULL);
    for (int i = 0; i < BLOCKS; i++) acre_heap_free(heap, p[i]);
    uint64_t blocks[CLASS_COUNT_MAX + 1];
    size_t medium_bytes;
    uint32_t c = size_class_of(heap->sizes, 64);
    kept(blocks, &medium_bytes);
    uint64_t before = blocks[c];
    assert_true(before > 100);
    static void *q[20000];
    for (int round = 0; round < 8; round++) { /* others miss; that of 64 ages */
        for (int i = 0; i < 20000; i++) q[i] = acre_heap_alloc(heap, 512, 0, NULL);
        for (int i = 0; i < 20000; i++) acre_heap_free(heap, q[i]);
    }
    kept(blocks, &medium_bytes);
    assert_true(blocks[c] < before / 4);
    destroy();
}

/* --- passing on --------------------------------------------------------------------------------------------------- */

static void *box[64];
static _Atomic unsigned long filled, emptied;
enum { PASSED = PROBE_TSAN ? 20000 : 400000 };

static void *produces(void *unused)
{
    (void)unused;
    for (unsigned long i = 0; i < PASSED; i++) {
        while (i - atomic_load(&emptied) >= 64) sched_yield();
        uint64_t *p = acre_heap_alloc(heap, 16 + i % 200, 0, NULL);
        CHECK(p != NULL);
        *p = i;
        box[i % 64] = p;
        atomic_store(&filled, i + 1);
    }
    return NULL;
}

static void *consumes(void *unused)
{
    (void)unused;
    for (unsigned long i = 0; i < PASSED; i++) {
        while (atomic_load(&filled) <= i) sched_yield();
        uint64_t *p = box[i % 64];
        CHECK(*p == i);
        *p = ~(uint64_t)0;
        CHECK(acre_heap_free(heap, p) == ACRE_OK);
        atomic_store(&emptied, i + 1);
    }
    return NULL;
}

static void memory_passed_from_one_thread_to_another_does_not_pile_up(void **state)
{
    (void)state;
    make((acre_heap_options){0});
    filled = emptied = 0;
    pthread_t a, b;
    assert_int_equal(pthread_create(&a, NULL, produces, NULL), 0);
    assert_int_equal(pthread_create(&b, NULL, consumes, NULL), 0);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    assert_int_equal(blocks_in_use(), 0);
    assert_true(heap->account.peak <= 8 << 20); /* two threads' magazines of a dozen sizes */
    destroy();
}

/* What a fork finds when it comes between two stores of a free. */
static void a_block_on_its_way_from_the_front_is_adopted_once(void **state)
{
    (void)state;
    make((acre_heap_options){0});
    assert_int_equal(acre_heap_free(heap, acre_heap_alloc(heap, 20000, 0, NULL)), ACRE_OK);
    thread_cache *tc = heap_thread_cache(heap);
    assert_non_null(tc->medium.front.block);
    medium_cache_file(&tc->medium, &tc->medium.front); /* and the front still has it */
    medium_cache_adopt(&tc->medium);
    medium_usage usage;
    medium_usage_read(&heap->medium, &usage);
    assert_int_equal(usage.used, 0);
    assert_int_equal(usage.resting, medium_round(20000));
    assert_true(medium_check(&heap->medium));
    destroy();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_block_on_its_way_from_the_front_is_adopted_once),
        cmocka_unit_test(a_thread_that_ends_returns_everything),
        cmocka_unit_test(blocks_outlive_the_thread_that_made_them),
        cmocka_unit_test(destructors_may_allocate_and_free_after_the_cache_is_gone),
        cmocka_unit_test(a_thread_keeps_few_bytes_of_each_size),
        cmocka_unit_test(a_thread_keeps_few_bytes_of_larger_blocks),
        cmocka_unit_test(a_block_that_is_a_little_larger_will_do),
        cmocka_unit_test(what_a_thread_freed_it_gets_again_at_once),
        cmocka_unit_test(a_size_that_is_no_longer_used_is_not_kept),
        cmocka_unit_test(memory_passed_from_one_thread_to_another_does_not_pile_up),
        cmocka_unit_test(a_heap_may_be_destroyed_while_a_thread_that_used_it_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
