/* background: see background.h. */
#include "heap/background.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "heap/heap.h"

enum { EFFORT = 32, PAUSE_MS_MIN = 5, PAUSE_MS_MAX = 100, STACK_BYTES = 64 * 1024 };

static _Atomic bool running;

static void tick(acre_heap *heap, void *context)
{
    (void)context;
    heap_tick(heap, heap->policy.delay_ms, EFFORT);
}

static void *run(void *context)
{
    (void)context;
    uint32_t pause_ms = the_options.purge_delay_ms / 25;
    if (pause_ms < PAUSE_MS_MIN) pause_ms = PAUSE_MS_MIN;
    if (pause_ms > PAUSE_MS_MAX) pause_ms = PAUSE_MS_MAX;
    const struct timespec pause = {pause_ms / 1000, (long)(pause_ms % 1000) * 1000000};
    for (;;) {
        nanosleep(&pause, NULL);
        heap_for_each(tick, NULL);
    }
    return NULL;
}

void background_start(void)
{
    if (!the_options.background || atomic_exchange_explicit(&running, true, memory_order_relaxed)) return;
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    bool ok = pthread_attr_init(&attributes) == 0;
    if (!ok) return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    /* A thread that cannot be had is not tried again: memory then ages in the slow paths, as without the option. */
    (void)pthread_create(&thread, &attributes, run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

void background_reset_in_child(void) { atomic_store_explicit(&running, false, memory_order_relaxed); }
