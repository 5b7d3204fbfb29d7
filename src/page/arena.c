/* arena: see arena.h. Chunks are reserved, then committed from the bottom in steps, so that a system which charges for
 * committed memory is asked for little. */
#include "page/arena.h"

#include <string.h>

#include "base/bits.h"
#include "os/lock.h"
#include "os/os.h"

enum { SMALLEST_LOG2 = 6, LARGEST_LOG2 = 20, LISTS = LARGEST_LOG2 - SMALLEST_LOG2 + 1 };
#define COMMIT_STEP (256 * KIB)

/* The link of a free piece lies in the piece itself: it is acre's memory, not the user's. */
typedef struct free_piece { struct free_piece *next; } free_piece;

static struct {
    lock lock;
    /* guarded by lock: */
    char *bottom;    /* next byte to hand out of the current chunk */
    char *committed; /* bottom <= committed <= top */
    char *top;
    size_t chunk_bytes;
    size_t used, held;
    free_piece *lists[LISTS];
} arena;

void arena_init(size_t chunk_bytes) { arena.chunk_bytes = align_up(chunk_bytes, COMMIT_STEP); }

/* Caller holds the lock. */
static void *cut(size_t bytes)
{
    if (arena.bottom == NULL || (size_t)(arena.top - arena.bottom) < bytes) {
        size_t chunk = arena.chunk_bytes ? arena.chunk_bytes : MIB;
        if (chunk < bytes) chunk = align_up(bytes, COMMIT_STEP);
        char *p = os_reserve(chunk, os_page_bytes());
        while (p == NULL && chunk / 2 >= bytes && chunk / 2 >= COMMIT_STEP) {
            chunk = align_up(chunk / 2, COMMIT_STEP);
            p = os_reserve(chunk, os_page_bytes());
        }
        if (p == NULL) return NULL;
        arena.bottom = arena.committed = p;
        arena.top = p + chunk;
    }
    char *end = arena.bottom + bytes;
    if (end > arena.committed) {
        size_t step = align_up((size_t)(end - arena.committed), COMMIT_STEP);
        if (step > (size_t)(arena.top - arena.committed)) step = (size_t)(arena.top - arena.committed);
        if (!os_commit(arena.committed, step)) return NULL;
        arena.committed += step;
    }
    void *piece = arena.bottom;
    arena.bottom = end;
    arena.held += bytes;
    return piece;
}

/* The size that a request takes up: a power of two up to 1 MiB, OS pages above. */
static size_t piece_bytes(size_t bytes)
{
    if (bytes <= (1u << SMALLEST_LOG2)) return 1u << SMALLEST_LOG2;
    if (bytes <= (1u << LARGEST_LOG2)) return power_of_two_at_least(bytes);
    return align_up(bytes, os_page_bytes());
}

static void count_large(size_t bytes, bool more)
{
    lock_acquire(&arena.lock);
    arena.used = more ? arena.used + bytes : arena.used - bytes;
    arena.held = more ? arena.held + bytes : arena.held - bytes;
    lock_release(&arena.lock);
}

void *arena_alloc(size_t bytes)
{
    size_t size = piece_bytes(bytes);
    if (size > (1u << LARGEST_LOG2)) {
        void *p = arena_reserve(size);
        if (p && !arena_commit(p, size)) {
            arena_release(p, size);
            return NULL;
        }
        if (p) count_large(size, true);
        return p;
    }
    unsigned list = log2_ceil(size) - SMALLEST_LOG2;
    lock_acquire(&arena.lock);
    void *piece = arena.lists[list];
    bool dirty = piece != NULL;
    if (piece)
        arena.lists[list] = arena.lists[list]->next;
    else
        piece = cut(size);
    if (piece) arena.used += size;
    lock_release(&arena.lock);
    if (dirty) memset(piece, 0, size);
    return piece;
}

void arena_free(void *piece, size_t bytes)
{
    if (piece == NULL) return;
    size_t size = piece_bytes(bytes);
    if (size > (1u << LARGEST_LOG2)) {
        arena_release(piece, size);
        count_large(size, false);
        return;
    }
    unsigned list = log2_ceil(size) - SMALLEST_LOG2;
    lock_acquire(&arena.lock);
    free_piece *f = piece;
    f->next = arena.lists[list];
    arena.lists[list] = f;
    arena.used -= size;
    lock_release(&arena.lock);
}

void *arena_reserve(size_t bytes) { return os_reserve(align_up(bytes, os_page_bytes()), os_page_bytes()); }

bool arena_commit(void *address, size_t bytes)
{
    uintptr_t first = align_down((uintptr_t)address, os_page_bytes());
    uintptr_t end = align_up((uintptr_t)address + bytes, os_page_bytes());
    return os_commit((char *)address - ((uintptr_t)address - first), end - first);
}

void arena_release(void *address, size_t bytes) { os_release(address, align_up(bytes, os_page_bytes())); }

void arena_usage(size_t *used, size_t *held)
{
    lock_acquire(&arena.lock);
    *used = arena.used;
    *held = arena.held;
    lock_release(&arena.lock);
}

lock *arena_lock(void) { return &arena.lock; }
