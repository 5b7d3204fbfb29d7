/* double_free_small: a block of 100 bytes given back twice ends the program with a line that says so. A small block
 * waits in its thread's magazine, which nobody searches on the hit path: it is seen when it leaves, at the latest. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>

#include "acre/acre.h"
#include "probe.h"

static void *volatile block;

static void twice_in_a_row(void)
{
    block = malloc(100);
    free(block);
    free(block);
    acre_trim(0);
}

static void after_it_has_returned(void)
{
    block = malloc(100);
    free(block);
    acre_trim(0);
    free(block);
    acre_trim(0);
}

static void with_others_between(void)
{
    void *other = malloc(100);
    block = malloc(100);
    free(block);
    free(other);
    free(block);
    acre_trim(0);
}

static void without_any_trim(void)
{
    static void *others[10000];
    block = malloc(100);
    free(block);
    free(block);
    /* Frees alone must bring it up: the magazine is bounded. */
    for (int i = 0; i < 10000; i++) others[i] = malloc(112);
    for (int i = 0; i < 10000; i++) free(others[i]);
}

static void *frees(void *p)
{
    free(p);
    return NULL;
}

static void by_two_threads(void)
{
    pthread_t t;
    block = malloc(100);
    for (int i = 0; i < 2; i++) {
        pthread_create(&t, NULL, frees, block);
        pthread_join(t, NULL);
    }
}

int main(void)
{
    CHECK(acre_owner(block = malloc(100)) == acre_heap_process());
    const char said[] = "the block is free already";
    CHECK(probe_aborts(twice_in_a_row, said));
    CHECK(probe_aborts(after_it_has_returned, said));
    CHECK(probe_aborts(with_others_between, said));
    CHECK(probe_aborts(by_two_threads, said));
    /* The next owner of a block that lies in the magazine twice may have freed it: then it is seen as well. */
    CHECK(probe_aborts(without_any_trim, said));
    return 0;
}
