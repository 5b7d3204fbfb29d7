/* large: blocks over 32 MiB, in slots of reserved address space; and blocks that no slot can hold.
 *
 *   slot class    0        1         2        …     8
 *   slot bytes   64 MiB   128 MiB   256 MiB   …   16 GiB
 *
 * A *table* is a run of regions cut into equal slots. A slot holds one block from its start on; 64 KiB pages are
 * committed up to the size that was asked for and no further, so a slot wastes addresses and no memory. A block grows
 * and shrinks in place up to the end of its slot. There is nothing to fragment: slots of a class are all alike.
 *
 * A freed slot stays committed for a while, like the pages of page_pool: hottest first, back to the system by age, by
 * budget or on trim. When the last slot of a table is free and given back its regions return to the space.
 *
 * What is larger than the largest slot, aligned beyond a region, or comes when the space is full is *unslotted*: mapped
 * straight from the system (flexible memory only), kept in a sorted array, found by binary search. Address space is
 * never lost that way, and every address that acre handed out is known to acre.
 *
 * Cost: O(1) under one lock for slots, plus system calls for memory that is new; unslotted O(log n) to find, O(n) to
 * add, with n the number of such blocks. Thread-safe (LOCK_RANK_LARGE). */
#ifndef ACRE_ALLOC_LARGE_H
#define ACRE_ALLOC_LARGE_H

#include "alloc/account.h"
#include "os/lock.h"
#include "page/page_pool.h"

#define LARGE_SLOT_MIN (64 * MIB)
#define LARGE_SLOT_MAX (16 * GIB)
enum { LARGE_SLOT_CLASSES = 9 };
_Static_assert(LARGE_SLOT_MIN << (LARGE_SLOT_CLASSES - 1) == LARGE_SLOT_MAX, "slot classes are doublings");

typedef struct large_slot {
    struct large_slot *next, *prev; /* free slots: in the dirty or the clean list of their class */
    struct large_table *table;
    size_t bytes;     /* asked for; 0 = the slot is free */
    size_t committed; /* memory behind [0, committed) */
    size_t touched;   /* may be other than zero below this; <= committed. COMES_ZEROED memory only */
    uint32_t freed_ms;
} large_slot;

typedef struct large_table {
    struct large *owner;
    char *base;
    struct large_table *next, *prev; /* all tables of the owner */
    uint32_t slot_class;
    uint32_t slot_count;
    uint32_t used;      /* slots that hold a block */
    uint32_t committed; /* slots with memory behind them */
    large_slot slots[];
} large_table;

typedef struct large_list { large_slot *head, *tail; } large_list;

typedef struct large {
    lock lock; /* LOCK_RANK_LARGE; guards all below, the slots and the unslotted blocks of this heap */
    const acre_provider *provider;
    account *account;
    void *heap; /* for owner queries */
    page_policy policy;
    large_table *tables;
    large_list dirty[LARGE_SLOT_CLASSES], clean[LARGE_SLOT_CLASSES];
    size_t cached;       /* committed bytes of free slots */
    size_t live;         /* bytes asked for */
    size_t live_blocks;
    size_t unslotted;    /* bytes of unslotted blocks */
    uint64_t given_back; /* bytes, ever */
    uint64_t checked_ms;
    /* for reports; unslotted blocks are in those above, too */
    size_t unslotted_blocks;
    size_t slotted_peak, unslotted_peak;  /* most bytes of live blocks at once */
    uint64_t unslotted_given_back;
    uint64_t allocs, unslotted_allocs;    /* calls; frees = allocs - blocks that live */
} large;

typedef struct large_usage {
    size_t live, live_blocks; /* bytes asked for */
    size_t committed;         /* live + rounding up to pages + cached */
    size_t cached;            /* behind free slots */
    size_t peak;
    uint64_t given_back;
    uint64_t allocs;
} large_usage;
/* O(slots). Unslotted blocks have no rounding that we know of and no cache: committed == live. */
void large_usage_read(large *l, large_usage *slotted, large_usage *unslotted);

void large_init(large *l, void *heap, const acre_provider *provider, account *acc, page_policy policy);
/* bytes > 0; align: a power of two. *zeroed tells whether the block reads zero. NULL: no memory or over budget. Any
 * size is served, also small ones; the heap sends what fits nowhere else. */
void *large_alloc(large *l, size_t bytes, size_t align, bool *zeroed);
/* Grows or shrinks where it lies. False: it does not fit, or there is no memory; nothing has changed. */
bool large_resize(large *l, void *p, size_t bytes);
/* ACRE_OK, FOREIGN_POINTER, DOUBLE_FREE. */
acre_status large_free(large *l, void *p);
/* What lies at p: the heap's large allocator and the usable bytes; NULL: no live large block starts there. p may be
 * any address at all. */
large *large_owner(const void *p, size_t *usable);
size_t large_trim(large *l, size_t keep_bytes);
/* Gives back the coldest slot if it has been free for delay_ms. Nothing while somebody else is at it. */
void large_tick(large *l, uint32_t delay_ms);
/* Everything goes back, whoever holds blocks. No concurrent use. */
void large_destroy(large *l);
bool large_check(large *l);
void large_visit(large *l, void (*visit)(void *context, void *block, size_t bytes), void *context);

/* Moves the pages of the live large block `from` (usable bytes of it) behind the live large block `to` without copying.
 * False: not possible for these two; nothing has changed. In slots or outside of them. */
bool large_move(large *l, void *from, void *to, size_t usable);
/* p, inside of a large region: the start of a slot without a block? Then a free of it is a double one. */
bool large_is_free_slot(const void *p);
/* For fork: guards the array of unslotted blocks of all heaps; comes after all large.lock. */
lock *large_outside_lock(void);

#endif
