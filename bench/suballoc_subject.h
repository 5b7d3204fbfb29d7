/* suballoc_subject.h: what bench/suballoc.c measures: something that hands out [offset, offset + size) of a range.
 *
 * acre's is built in. A peer is a shared object that defines this symbol; its code lives outside of this repository:
 *
 *   const suballoc_subject bench_suballoc_subject = {"name version", create, destroy, alloc, free_block};
 *   ACRE_SUBALLOC_PEERS=name=/path/peer.so,other=/path/other.so build/bench/suballoc
 *
 * All sizes are bytes. The subject is told at creation which alignments will be asked for, so one that has none of its
 * own may choose a unit, or pad. */
#ifndef ACRE_BENCH_SUBALLOC_SUBJECT_H
#define ACRE_BENCH_SUBALLOC_SUBJECT_H

#include <stdbool.h>
#include <stdint.h>

enum { SUBJECT_ALIGNMENTS = 4 };

typedef struct subject_range {
    uint64_t bytes;
    uint64_t granularity;                  /* every alignment is a multiple of it */
    uint64_t alignments[SUBJECT_ALIGNMENTS]; /* that will be asked for, powers of two; 0 ends the list */
    bool named;                            /* acre: name those above the granularity; others: pay no heed */
    uint32_t blocks_max;                   /* more than will ever live at once */
} subject_range;

typedef struct subject_block {
    uint64_t offset;
    uint64_t handle; /* whatever free_block wants */
} subject_block;

typedef struct suballoc_subject {
    const char *title;
    /* NULL: cannot. */
    void *(*create)(const subject_range *range);
    void (*destroy)(void *self);
    /* False: no room. */
    bool (*alloc)(void *self, uint64_t bytes, uint64_t alignment, subject_block *block);
    void (*free_block)(void *self, uint64_t handle);
} suballoc_subject;

#endif
