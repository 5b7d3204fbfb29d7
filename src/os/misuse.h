/* misuse: what happens when a program hands acre a pointer that it must not.
 *
 * The same conditions are errors in debug and in release builds. The default is a line on standard error and abort();
 * `report` goes on after the line, `ignore` goes on silently. In all three the heap stays consistent: the bad free is
 * not carried out. Thread-safe; allocates nothing. */
#ifndef ACRE_OS_MISUSE_H
#define ACRE_OS_MISUSE_H

#include <stdint.h>

#include "acre/status.h"

typedef enum misuse_policy { MISUSE_ABORT, MISUSE_REPORT, MISUSE_IGNORE } misuse_policy;

void misuse_set_policy(misuse_policy policy);
/* what: FOREIGN_POINTER, DOUBLE_FREE, …; call: the function that saw it ("free"); returns what. */
acre_status misuse(acre_status what, const char *call, const void *pointer);
/* How many were seen. */
uint64_t misuse_count(void);

#endif
