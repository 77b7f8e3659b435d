/* Bit search in the 256-bit map of a wheel level. */
#ifndef GW_BITS_H
#define GW_BITS_H
#include <stdint.h>

/* First set bit at or after `from` (0..256), or -1. */
static inline int gw_next_bit(const uint64_t bits[4], unsigned from) {
    unsigned word = from >> 6;
    uint64_t rest;
    if (from > 255)
        return -1;
    rest = bits[word] & (~UINT64_C(0) << (from & 63));
    while (!rest) {
        if (++word == 4)
            return -1;
        rest = bits[word];
    }
    return (int)(word << 6) + __builtin_ctzll(rest);
}

/* Index of the highest byte in which two ticks differ; 0 where they are the same. */
static inline int gw_highest_byte(uint32_t difference) {
    return difference ? (31 - __builtin_clz(difference)) >> 3 : 0;
}
#endif
