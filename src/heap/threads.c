/* threads: see threads.h. */
#include "heap/threads.h"

#include <pthread.h>
#include <string.h>

#include "page/arena.h"

/* All null: every hit misses. Nothing ever writes to it. */
static thread_cache empty_cache;
_Thread_local thread_cache *process_cache __attribute__((tls_model("initial-exec"))) = &empty_cache;
static _Thread_local thread *self __attribute__((tls_model("initial-exec")));
static _Thread_local bool past_end __attribute__((tls_model("initial-exec")));

static struct {
    lock lock; /* LOCK_RANK_REGISTRY */
    thread *threads;
    pthread_key_t key;
} registry;

void threads_lock(void) { lock_acquire(&registry.lock); }
void threads_unlock(void) { lock_release(&registry.lock); }

/* --- caches ----------------------------------------------------------------------------------------------------- */

/* Registry locked. */
static void link_cache(acre_heap *h, thread_cache *tc)
{
    tc->prev = NULL;
    tc->next = h->caches;
    if (h->caches) h->caches->prev = tc;
    h->caches = tc;
    atomic_fetch_add_explicit(&h->cache_count, 1, memory_order_relaxed);
}

/* Registry locked. The counters stay with the heap. */
static void unlink_cache(thread_cache *tc)
{
    acre_heap *h = tc->heap;
    if (tc->prev) tc->prev->next = tc->next;
    else h->caches = tc->next;
    atomic_fetch_sub_explicit(&h->cache_count, 1, memory_order_relaxed);
    if (tc->next) tc->next->prev = tc->prev;
    thread_counters_add(&h->gone, &tc->counters);
    int64_t untold = tc->counters.live_bytes - tc->counters.live_bytes_told;
    atomic_fetch_add_explicit(&h->live_told, untold, memory_order_relaxed);
}

static bool table_reaches(thread *t, uint32_t number)
{
    if (number < t->table_count) return true;
    uint32_t count = (uint32_t)power_of_two_at_least(number + 1u);
    if (count < 8) count = 8;
    thread_cache **table = arena_alloc(count * sizeof *table);
    if (!table) return false;
    if (t->table_count) memcpy(table, t->table, t->table_count * sizeof *table);
    arena_free(t->table, t->table_count * sizeof *t->table);
    t->table = table;
    t->table_count = count;
    return true;
}

static ACRE_NOINLINE thread_cache *make_cache(acre_heap *h)
{
    if (past_end) return NULL;
    bool first = self == NULL;
    if (first) {
        thread *t = arena_alloc(sizeof *t);
        if (!t) return NULL;
        threads_lock();
        t->next = registry.threads;
        if (registry.threads) registry.threads->prev = t;
        registry.threads = t;
        threads_unlock();
        self = t;
    }
    thread_cache *tc = NULL;
    threads_lock(); /* a heap that is destroyed looks into the tables of all threads */
    if (table_reaches(self, h->number) && (tc = arena_alloc(sizeof *tc)) != NULL) {
        thread_cache_init(tc, h, h->observed);
        tc->thread = self;
        link_cache(h, tc);
        self->table[h->number] = tc;
    }
    threads_unlock();
    if (tc && h->number == HEAP_PROCESS) process_cache = tc;
    /* Last, since it may allocate. Without it the end of the thread goes unnoticed and its caches stay as they are. */
    if (first) (void)pthread_setspecific(registry.key, self);
    return tc;
}

thread_cache *heap_thread_cache(acre_heap *h)
{
    if (h->number == HEAP_PROCESS && likely(process_cache != &empty_cache)) return process_cache;
    if (likely(self && h->number < self->table_count && self->table[h->number])) return self->table[h->number];
    return make_cache(h);
}

thread_cache *threads_cache_if_any(const acre_heap *h)
{
    return self && h->number < self->table_count ? self->table[h->number] : NULL;
}

void threads_flush_own(acre_heap *h)
{
    for (uint32_t i = 0; self && i < self->table_count; i++) {
        thread_cache *tc = self->table[i];
        if (!tc || (h && tc->heap != h)) continue;
        threads_enter(tc);
        thread_cache_flush(tc);
        threads_leave(tc);
    }
}

void threads_drop_caches(acre_heap *h)
{
    for (thread_cache *tc = h->caches, *next; tc; tc = next) {
        next = tc->next;
        tc->thread->table[h->number] = NULL;
        for (uint32_t c = 1; c <= h->sizes->count; c++)
            arena_free(tc->real->bottom[c], (size_t)(tc->real->end[c] - tc->real->bottom[c]) * sizeof(void *));
        arena_free(tc, sizeof *tc);
    }
    h->caches = NULL;
}

/* --- the end of a thread ---------------------------------------------------------------------------------------- */

/* Registry locked all the way: a fork in between would find blocks that are both in the cache and back in their pages,
 * and a heap that is being destroyed must find the cache, or not, but not half of it. */
static void retire_cache(thread *t, uint32_t number)
{
    thread_cache *tc = t->table[number];
    if (!tc) return;
    t->table[number] = NULL;
    thread_cache_flush(tc);
    unlink_cache(tc);
    arena_free(tc, sizeof *tc);
}

static void forget_thread(thread *t)
{
    threads_lock();
    if (t->prev) t->prev->next = t->next;
    else registry.threads = t->next;
    if (t->next) t->next->prev = t->prev;
    threads_unlock();
    arena_free(t->table, t->table_count * sizeof *t->table);
    arena_free(t, sizeof *t);
}

static void thread_ends(void *value)
{
    thread *t = value;
    process_cache = &empty_cache;
    past_end = true;
    for (uint32_t i = 0; i < t->table_count; i++) {
        threads_lock();
        retire_cache(t, i);
        threads_unlock();
    }
    self = NULL;
    forget_thread(t);
}

bool threads_init(void)
{
    /* Without a key threads leave their caches behind when they end; that is no reason not to start. */
    (void)pthread_key_create(&registry.key, thread_ends);
    return true;
}

/* --- fork ------------------------------------------------------------------------------------------------------- */

void threads_reset_in_child(void) { lock_reset(&registry.lock); }

void threads_adopt_in_child(void)
{
    for (thread *t = registry.threads, *next; t; t = next) {
        next = t->next;
        if (t == self) continue;
        bool whole = true;
        for (uint32_t i = 0; i < t->table_count; i++) {
            thread_cache *tc = t->table[i];
            if (!tc) continue;
            if (atomic_load_explicit(&tc->busy, memory_order_acquire)) {
                whole = false;
                continue;
            }
            medium_cache_adopt(&tc->medium); /* malloc and free use it without being busy */
            retire_cache(t, i);
        }
        if (whole) forget_thread(t);
    }
}
