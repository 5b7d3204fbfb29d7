/* fill: the clear values. They make a corruption readable in a hex dump: the byte says whose memory one looks at and
 * what state it should be in. Which is written where: heap/observed.h. Values: the seed document. */
#ifndef ACRE_PAGE_FILL_H
#define ACRE_PAGE_FILL_H

enum fill_value {
    FILL_FLEXIBLE_ALLOCATED = 0xFA,
    FILL_FLEXIBLE_FREE = 0xFF,
    FILL_DIRECT_ALLOCATED = 0xDA,
    FILL_DIRECT_FREE = 0xDF,
    FILL_MEMORY_ALLOCATED = 0xA1,
    FILL_MEMORY_DEALLOCATED = 0xDE,
};

#endif
