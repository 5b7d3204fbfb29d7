/* defrag: which pages are worth emptying, and in which order their blocks should go.
 *
 * Layer 8. Plain arithmetic on two tables that the owner fills, so it knows no driver and a test needs none. A page is
 * a *source* when the holes of the pages that stay can take its blocks: sources are chosen from the emptiest on, as
 * moving few bytes wins a whole page there. The blocks of one source go together and largest first: the hardest to
 * place decides early whether the page can be emptied at all, before anything was copied for it.
 *
 *     group of pages, by share of use      [5%] [20%] [45%] | [60%] [80%] [95%]   [fixed]
 *                                           sources ->          -> their holes
 *
 *     sum(used of sources) <= 15/16 * sum(holes of the others)      1/16: holes that are too small for anything
 *
 * Pages without blocks are neither: they are empty already, and nobody moves into them. O(n log n). */
#ifndef ACRE_GPU_DEFRAG_H
#define ACRE_GPU_DEFRAG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct defrag_page {
    uint64_t key;        /* the owner's name for it: what defrag_block.page says */
    uint64_t group;      /* blocks move within a group */
    uint64_t bytes;
    uint64_t used_bytes; /* of blocks and what else lies there */
    bool fixed;          /* something in it cannot move */
    bool source;         /* out */
} defrag_page;

typedef struct defrag_block {
    uint64_t key;  /* the owner's */
    uint64_t page; /* key of its page */
    uint64_t bytes;
    uint32_t rank; /* out: place of its page in the order of sources */
} defrag_block;

typedef struct defrag_limits {
    uint32_t fill_percent_max; /* pages fuller than this are no sources */
    uint64_t bytes_max;        /* moved in all; UINT64_MAX: any */
} defrag_limits;

/* Sorts pages by key; afterwards defrag_find works. Returns the number of sources. */
uint32_t defrag_choose(defrag_page *pages, uint32_t page_count, const defrag_limits *limits);
/* The page of this key, or NULL. */
defrag_page *defrag_find(defrag_page *pages, uint32_t page_count, uint64_t key);
/* Brings the blocks that shall move to the front, in the order in which they should; returns how many there are. */
uint32_t defrag_order(defrag_block *blocks, uint32_t block_count, defrag_page *pages, uint32_t page_count);

#endif
