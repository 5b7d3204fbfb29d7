/* direct (internal): what fork must know of direct memory. The public side is acre/provider.h. */
#ifndef ACRE_PAGE_DIRECT_H
#define ACRE_PAGE_DIRECT_H

#include "os/lock.h"

/* Applies action to the lock of the list of objects, then to each object's (LOCK_RANK_DIRECT). */
void direct_for_locks(void (*action)(lock *));

#endif
