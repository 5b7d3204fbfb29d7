/* arena: memory for acre's own bookkeeping.
 *
 * Metadata lives here and nowhere else: never in user memory, never from malloc. Pieces are powers of two from 64 B to
 * 1 MiB, cut from the bottom of reserved chunks and kept on one free list per size; a larger piece is cut to OS pages
 * and its memory goes back to the system when it is freed. Gives up: a piece never changes its size class, so the arena
 * does not coalesce; metadata is small and repeats its sizes.
 *
 * Addresses stay valid (readable) for ever, which lock-free readers of stale records rely on. Thread-safe: one lock,
 * LOCK_RANK_ARENA, held for tens of instructions. Everything returned is zeroed and 64-byte aligned. */
#ifndef ACRE_PAGE_ARENA_H
#define ACRE_PAGE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

#include "os/lock.h"

/* Before the first allocation: how much address space one chunk of metadata reserves. */
void arena_init(size_t chunk_bytes);
/* NULL when the system has no memory for it. */
void *arena_alloc(size_t bytes);
/* bytes as at arena_alloc. NULL is ignored. */
void arena_free(void *piece, size_t bytes);
/* A range of its own that is reserved now and committed piece by piece with arena_commit; for tables that are indexed
 * by address. Never freed in part. NULL: no address space. */
void *arena_reserve(size_t bytes);
bool arena_commit(void *address, size_t bytes);
void arena_release(void *address, size_t bytes);

/* Bytes handed out and bytes cut from chunks so far (both without arena_reserve's ranges). */
void arena_usage(size_t *used, size_t *held);

/* For fork. */
lock *arena_lock(void);

#endif
