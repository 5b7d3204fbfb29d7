/* acre/acre.h: all of acre's public interface, and its version.
 *
 * malloc and its kin need no header: link libacre or preload it. The rest is for programs that want to say more than
 * malloc lets them: heaps, memory of their own, offsets in memory that nobody touches, statistics. */
#ifndef ACRE_ACRE_H
#define ACRE_ACRE_H

#include "acre/category.h"
#include "acre/heap.h"
#include "acre/provider.h"
#include "acre/stats.h"
#include "acre/status.h"
#include "acre/suballoc.h"

#define ACRE_VERSION_MAJOR 0
#define ACRE_VERSION_MINOR 1
#define ACRE_VERSION_PATCH 0

#ifdef __cplusplus
extern "C" {
#endif

/* "0.1.0": of the library that runs, which may be newer than the header. */
ACRE_API const char *acre_version(void);

#ifdef __cplusplus
}
#endif
#endif
