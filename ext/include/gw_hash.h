/* How a key becomes a place in a table. */
#ifndef GW_HASH_H
#define GW_HASH_H
#include <stdint.h>

/* Bijective; every input bit moves every output bit (MurmurHash3's finalizer, public domain). */
static inline uint64_t gw_mix64(uint64_t x) {
    x ^= x >> 33;
    x *= UINT64_C(0xff51afd7ed558ccd);
    x ^= x >> 33;
    x *= UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ (x >> 33);
}

/* Below the segment's byte, 32 bits of the hash scaled to the capacity. */
static inline uint32_t gw_home(uint64_t hash, uint32_t capacity) {
    return (uint32_t)(((hash >> 24 & UINT32_MAX) * capacity) >> 32);
}
#endif
