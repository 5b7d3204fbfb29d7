/* observed: what happens beside an allocation while a heap is watched: exact counts and clear values.
 *
 * A heap made with `fill`, or the process heap under ACRE_STATS or ACRE_FILL, keeps its threads off the hit path (see
 * thread_cache.h), so that every call comes by here; other heaps never do.
 *
 *             flexible   direct
 * allocated     0xFA      0xDA    a block that was handed out
 * free          0xFF      0xDF    a block that came back
 *               0xA1 memory allocated: a page that an allocator got and no block has used yet
 *               0xDE memory deallocated: a page that came back and is cached (page_pool, medium, large) */
#ifndef ACRE_HEAP_OBSERVED_H
#define ACRE_HEAP_OBSERVED_H

#include "heap/heap.h"

void observed_alloc(acre_heap *heap, thread_cache *tc, void *block, size_t usable, bool zeroed);
/* False: this block is free already (only seen with clear values on, where it costs a look through the magazine). */
bool observed_free(acre_heap *heap, thread_cache *tc, void *block, size_t usable);
void observed_resize(acre_heap *heap, thread_cache *tc, size_t before, size_t after);

#endif
