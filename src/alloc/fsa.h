/* fsa: the fixed-size allocator, 8 B to 4 KiB, from 64 KiB pages whose free state is a bitmap beside them.
 *
 * Two kinds of page, by what is committed and given back at once. *Very small* blocks (<= 64 B) live in pages of
 * 4 KiB that come in groups of sixteen of one class; *small* blocks live in pages of 64 KiB. Either way 64 KiB of one
 * class have one record (page_record in page/space.h), called a page below, and one byte in the class table.
 *
 * Free state is one bit per block, 1 = free, never a link inside the block. A page belongs to no thread for longer than
 * it is a thread's *source*:
 *
 *              take_page                    exhausted                      a block comes back
 *     (pool) ───────────► ATTACHED ───────────────────────► UNLISTED ─────────────────────────► LISTED
 *        ▲                 ▲  │ only its holder takes            ▲                                 │ │
 *        │                 │  │ words (and with ~mask)          └── holder sees a late return ──  │ │
 *        │                 └──┼──────────────────────────────── attach, fullest or latest first ───┘ │
 *        └────────────────────┴───────────────── every block is free: retire ────────────────────────┘
 *
 *   take    one atomic `and` takes up to 64 blocks of a word; only the holder of an ATTACHED page does it. Blocks that
 *           were in use before are taken before those that never were (from page_record.virgin on).
 *   return  one atomic `or` gives back up to 64 blocks of a word; any thread, any time, no lock.
 *   list    the `or` comes first, then the state is read; the holder first stores UNLISTED, then reads the words. Both
 *           are sequentially consistent, so at least one of the two sees the other (Dekker): no free block is lost.
 *   retire  under the class's lock a LISTED page has no taker; when all of its bits are 1 nobody holds a block of it,
 *           so nobody can return one either: the page is quiet and goes back to the pool.
 *
 * tests/model/page_protocol.pml and tests/unit/test_page_protocol.c check this exhaustively in small.
 *
 * Lock order: fsa_class.lock, then the pool's. A return that changes no state takes no lock; in the worst case a call
 * does O(blocks given) work and looks at the words of one page (<= 128). */
#ifndef ACRE_ALLOC_FSA_H
#define ACRE_ALLOC_FSA_H

#include "alloc/account.h"
#include "alloc/size_class.h"
#include "page/page_pool.h"

typedef struct fsa_class {
    lock lock; /* LOCK_RANK_FSA_CLASS */
    /* guarded by lock: */
    page_list listed; /* LISTED pages, most recently listed first */
    uint32_t cursor; /* where fsa_age goes on, towards the head; 0 = the round is over */
    uint32_t round_ms; /* when it began */
    /* atomic: */
    _Atomic uint32_t pages; /* held by this class in whatever state */
} __attribute__((aligned(ACRE_CACHE_LINE))) fsa_class;

/* Counted where pages come and go, for reports; no equation depends on them. */
typedef struct fsa_kind {
    _Atomic uint32_t pages, pages_peak;
    _Atomic uint64_t holes_given_back; /* bytes of OS pages without a live block, ever */
} fsa_kind;

enum { FSA_VERY_SMALL, FSA_SMALL, FSA_KINDS };

typedef struct fsa {
    page_pool *pool;
    account *account;
    const size_classes *sizes;
    uint16_t heap;        /* goes into each page record */
    bool in_class_table;  /* this is the process heap: its classes show in space_page_class */
    fsa_class classes[CLASS_COUNT_MAX + 1];
    fsa_kind kinds[FSA_KINDS];
    _Atomic uint32_t age_class; /* which class fsa_age looks at next */
} fsa;

/* One thread's hold on pages of one class: one with blocks that came back, one with blocks never used yet. All zero =
 * none. Owned by one thread. */
typedef struct fsa_source {
    uint64_t pending; /* blocks of one word, taken and not yet handed out */
    char *word_base;  /* address of the block that bit 0 of pending stands for */
    uint32_t page;    /* ATTACHED page that was listed, 0 = none; pending is of this one, or of fresh */
    uint32_t fresh;   /* ATTACHED page, handed out from the bottom up as need be; 0 = none */
} fsa_source;

void fsa_init(fsa *f, uint16_t heap, bool in_class_table, const size_classes *sizes, page_pool *pool, account *acc);

/* Fills slots[0 … n) with free blocks of class c, n <= want, the lowest address last; returns n. 0: no memory. The
 * memory of the blocks is not touched. */
uint32_t fsa_refill(fsa *f, uint32_t c, fsa_source *source, void **slots, uint32_t want);
/* Gives blocks of class c back. A block that is free already, or none of this heap and class, is reported (os/misuse.h)
 * and skipped. */
void fsa_return(fsa *f, uint32_t c, void *const *blocks, uint32_t count);
/* The thread lets go of its page. */
void fsa_detach(fsa *f, uint32_t c, fsa_source *source);
/* Nobody seems to need class c any more: its last page goes, too, if it is empty. */
void fsa_idle(fsa *f, uint32_t c);
/* Retires listed pages without a live block. Returns how many. O(listed pages). */
uint32_t fsa_trim(fsa *f);
/* A few pages' worth of ageing: a listed page that nobody has taken since the round before gives back its OS pages
 * without a live block; they are faulted in again only when a refill reaches them. Rounds over a class begin at least
 * delay_ms / 2 after each other. Looks at `most` pages; false: there was nothing to look at. */
bool fsa_age(fsa *f, uint32_t now_ms, uint32_t delay_ms, uint32_t most);
/* Gives back OS pages without a live block inside of listed pages. Returns bytes. O(listed pages). */
size_t fsa_purge_holes(fsa *f);
/* All pages of this heap go back to the pool, whoever holds blocks. No concurrent use. */
void fsa_destroy(fsa *f);

/* Blocks that are not in the bitmaps (held by the user, by thread caches or pending), per class; pages per class.
 * O(pages of the heap); a snapshot that is exact only while nobody else allocates. */
typedef struct fsa_usage {
    uint64_t taken[CLASS_COUNT_MAX + 1];
    uint64_t pages[CLASS_COUNT_MAX + 1];
} fsa_usage;
void fsa_usage_read(fsa *f, fsa_usage *usage);
bool fsa_check(fsa *f);

static inline uint32_t fsa_kind_of(const size_classes *sc, uint32_t c)
{
    return sc->size[c] <= FSA_VERY_SMALL_MAX ? FSA_VERY_SMALL : FSA_SMALL;
}
static inline page_record *fsa_record(uint32_t page) { return &the_space.pages[page]; }
/* Is p the start of a block of a page with this record? */
static inline bool fsa_is_block(const size_classes *sc, uint32_t c, const void *p)
{
    uint32_t offset = (uint32_t)(space_offset(p) & (CHUNK_BYTES - 1)), index = size_class_index(sc, c, offset);
    return index * sc->size[c] == offset && index < sc->blocks[c];
}
/* Is the bit of this block set, that is: has the block come back? p: the start of a block of class c. */
bool fsa_is_free(const size_classes *sc, uint32_t c, const void *p);

#endif
