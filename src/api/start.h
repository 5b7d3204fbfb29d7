/* start (internal): makes the linker take start.c into a program that is linked with libacre.a, where only those files
 * are taken that something refers to. malloc.c does, so that whoever has its malloc has the fork handlers as well. */
#ifndef ACRE_API_START_H
#define ACRE_API_START_H

#include "base/bits.h"

extern ACRE_HIDDEN const char start_anchor;

#endif
