/* bits: the few bit tricks that every layer shares.
 *
 * Plain inline functions, no state, nothing that allocates or calls the system. Names say the question that is asked;
 * each one states its precondition, because most of the builtins behind them are undefined at zero. */
#ifndef ACRE_BASE_BITS_H
#define ACRE_BASE_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ACRE_NOINLINE __attribute__((noinline))
#define ACRE_CACHE_LINE 64
/* On a declaration: the definition is in the same library, so no detour through its table of addresses. */
#define ACRE_HIDDEN __attribute__((visibility("hidden")))

/* x != 0 */
static inline unsigned bits_lowest(uint64_t x) { return (unsigned)__builtin_ctzll(x); }
/* x != 0 */
static inline unsigned bits_highest(uint64_t x) { return 63u - (unsigned)__builtin_clzll(x); }
/* Without an instruction for it the compiler would call its library; sums of 2, 4, 8 bits, then of all bytes. */
static inline unsigned bits_count(uint64_t x)
{
#ifdef __POPCNT__
    return (unsigned)__builtin_popcountll(x);
#else
    x -= x >> 1 & 0x5555555555555555;
    x = (x & 0x3333333333333333) + (x >> 2 & 0x3333333333333333);
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F;
    return (unsigned)(x * 0x0101010101010101 >> 56);
#endif
}
/* A word whose lowest n bits are set, 0 <= n <= 64. */
static inline uint64_t bits_mask(unsigned n) { return n >= 64 ? ~(uint64_t)0 : (((uint64_t)1 << n) - 1); }

static inline bool is_power_of_two(size_t x) { return x != 0 && (x & (x - 1)) == 0; }
/* align: a power of two. The caller rules out overflow. */
static inline uint64_t align_up(uint64_t x, uint64_t align) { return (x + align - 1) & ~(align - 1); }
static inline uint64_t align_down(uint64_t x, uint64_t align) { return x & ~(align - 1); }
/* ceil(log2(x)), x >= 1 */
static inline unsigned log2_ceil(uint64_t x) { return x <= 1 ? 0 : bits_highest(x - 1) + 1; }
/* x >= 1, x <= 2^63 */
static inline uint64_t power_of_two_at_least(uint64_t x) { return (uint64_t)1 << log2_ceil(x); }

#endif
