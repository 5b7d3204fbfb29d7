/* space: the one reservation of address space, cut into regions, and the two tables that tell what an address is.
 *
 *   address ──subtract base──► offset ──>> 16──► page_class[]   one byte per 64 KiB: which size class of the process
 *                                │                              heap's FSA, 0 = anything else
 *                                ├────>> 16──► page_record[]    64 bytes per 64 KiB of an FSA region
 *                                └─>> region_shift► region[]    which allocator owns the region
 *
 * A region (256 MiB, less in a small space) is the unit in which addresses are handed to an allocator, as runs of
 * neighbours. Runs for fixed-size and medium blocks are taken from the bottom, runs for large blocks from the middle,
 * ranges of the application from the last part (640 GB: 256 + 160 + 224); a part that is full spills into the others.
 *
 * Why one reservation: pointer → allocator stays one subtraction, one shift and one load, and the address space is
 * never fragmented by strangers. What it gives up: what is larger than the space, or comes when it is full, is mapped
 * outside of it and found by a search (alloc/large.c).
 *
 * Thread-safety: space_init once; the region calls take LOCK_RANK_SPACE. The tables are read without a lock: an entry
 * is written before the first pointer into its piece is handed out, and that hand-over orders the two. */
#ifndef ACRE_PAGE_SPACE_H
#define ACRE_PAGE_SPACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bits.h"
#include "os/lock.h"

#define CHUNK_SHIFT 16
#define CHUNK_BYTES ((size_t)1 << CHUNK_SHIFT) /* the 64 KiB that one entry of the tables stands for */

#define SPACE_BYTES_DEFAULT (640 * GIB)
#define SPACE_BYTES_MIN (8 * MIB)
#define REGION_BYTES_DEFAULT (256 * MIB)
#define REGION_BYTES_MIN (1 * MIB)

typedef enum region_kind {
    REGION_FREE,
    REGION_FSA,    /* owner: page_pool */
    REGION_MEDIUM, /* owner: medium_range */
    REGION_LARGE,  /* owner: large_table */
    REGION_RANGE,  /* owner: none; addresses that the application maps itself */
    REGION_KINDS
} region_kind;

typedef struct region {
    void *_Atomic owner; /* of a region that is given back while others look for theirs: any value or NULL */
    uint32_t first; /* number of the first region of the run that this one belongs to */
    uint32_t count; /* regions in that run; set in each of them */
    uint32_t used;  /* pages of it that are handed out; guarded by its page pool (REGION_FSA only) */
    _Atomic bool holed; /* memory in it went back since it was taken (REGION_FSA only) */
    _Atomic uint8_t kind;
} region;

typedef enum page_state {
    PAGE_NONE,     /* never handed out since its region was taken */
    PAGE_DIRTY,    /* free, in the page pool, memory still behind it */
    PAGE_CLEAN,    /* free, in the page pool, given back to the system */
    PAGE_ATTACHED, /* one thread's source: only its holder takes blocks; anybody may give blocks back */
    PAGE_UNLISTED, /* no free block when last looked at; whoever gives one back lists it */
    PAGE_LISTED,   /* in its class's list, free blocks likely; nobody takes from it while it is there */
} page_state;

enum { PAGE_INLINE_WORDS = 5 };

/* What is known of one 64 KiB page of an FSA region; exactly one cache line, so that giving a block back to a page of
 * up to 320 blocks costs one miss. next, prev, freed_ms, cold belong to whoever holds the list that the page is in,
 * virgin and purged to whoever holds the page.
 *   bits: 1 = free. Words beyond `words` are unused; a word's bits beyond the last block are always 0.
 *   words <= PAGE_INLINE_WORDS: the bits are inline; else `external` points to them (arena). */
typedef struct page_record {
    _Atomic uint32_t state; /* page_state */
    uint32_t next, prev;    /* page numbers; 0 = none (page 0 of the space is never handed out) */
    union {
        uint32_t freed_ms; /* in the pool: since when */
        struct {           /* in a class: */
            _Atomic uint16_t hint; /* words below it have no free bit, most likely; anybody lowers it */
            uint16_t purged;       /* OS pages (sixteenths) that were given back since a block last lay on them */
        };
    };
    union {
        struct {
            _Atomic uint16_t heap; /* number of the heap that holds it */
            _Atomic uint8_t class_;
            _Atomic uint8_t words;
        };
        _Atomic uint32_t identity; /* the three at once: whoever may be late must not see parts of two lives */
    };
    uint16_t blocks;
    uint16_t virgin : 14; /* blocks from here on were never handed out: their memory was not touched */
    uint16_t bare : 1;    /* there was no memory behind the page when it was taken */
    uint16_t cold : 1;    /* nobody took it from its list since fsa_age last came by */
    union {
        _Atomic uint64_t bits[PAGE_INLINE_WORDS];
        _Atomic uint64_t *external;
    };
} page_record;

_Static_assert(sizeof(page_record) == ACRE_CACHE_LINE, "a page record is one cache line");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "page_identity knows where the parts lie");

static inline uint32_t page_identity(uint32_t heap, uint32_t c, uint32_t words) { return heap | c << 16 | words << 24; }

typedef struct space {
    page_record *pages; /* space_chunk_count entries */
    size_t bytes;
    unsigned region_shift;
    uint32_t region_count;
    region *regions;
    size_t part_start[3]; /* region numbers where the parts begin: blocks, large, ranges */
    lock lock;            /* LOCK_RANK_SPACE; guards region runs */
} space;

extern ACRE_HIDDEN space the_space;
/* The three that free looks at stand alone, so that each is one load away. Written once, by space_init. */
extern ACRE_HIDDEN char *space_base;
extern ACRE_HIDDEN size_t space_chunk_count;  /* bytes >> CHUNK_SHIFT; 0 before space_init */
extern ACRE_HIDDEN uint8_t *space_page_class; /* space_chunk_count entries */

typedef enum space_part { SPACE_BLOCKS, SPACE_LARGE, SPACE_RANGES } space_part;

/* Reserves the space: bytes_wanted (0 = default), or a half, a quarter … of it until it fits into three quarters of the
 * address space that the process may still use. False: not even SPACE_BYTES_MIN could be had. The first call decides;
 * later ones only report. */
bool space_init(size_t bytes_wanted);

static inline size_t space_offset(const void *p) { return (size_t)((uintptr_t)p - (uintptr_t)space_base); }
static inline bool space_contains(const void *p) { return (space_offset(p) >> CHUNK_SHIFT) < space_chunk_count; }
static inline size_t region_bytes(void) { return (size_t)1 << the_space.region_shift; }
/* p inside of the space */
static inline region *region_of(const void *p) { return &the_space.regions[space_offset(p) >> the_space.region_shift]; }
static inline region_kind region_kind_of(const region *r)
{
    return (region_kind)atomic_load_explicit(&r->kind, memory_order_acquire);
}
static inline char *region_address(uint32_t number) { return space_base + ((size_t)number << the_space.region_shift); }
static inline char *page_address(uint32_t number) { return space_base + ((size_t)number << CHUNK_SHIFT); }
static inline uint32_t page_number(const void *p) { return (uint32_t)(space_offset(p) >> CHUNK_SHIFT); }
static inline _Atomic uint64_t *page_bits(page_record *r)
{
    return atomic_load_explicit(&r->words, memory_order_relaxed) <= PAGE_INLINE_WORDS ? r->bits : r->external;
}

/* Takes a run of neighbouring regions; returns its address, NULL: no such run is free. Kind and owner are visible to
 * readers before it returns. FSA regions have their tables committed. O(regions). */
char *space_take(space_part part, uint32_t count, region_kind kind, void *owner);
/* Gives back the run that starts here. Nothing may be committed in it. */
void space_give(char *address);
uint32_t space_regions_in_use(region_kind kind);

#endif
