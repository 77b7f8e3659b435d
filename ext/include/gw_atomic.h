/* Relaxed single-writer counters and the few flags the planes share. */
#ifndef GW_ATOMIC_H
#define GW_ATOMIC_H
#include <stdint.h>

/* One thread writes, any thread reads: no locked instruction needed. */
static inline void gw_count(uint64_t *c, uint64_t n) {
    __atomic_store_n(c, __atomic_load_n(c, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}
static inline uint64_t gw_read(const uint64_t *c) { return __atomic_load_n(c, __ATOMIC_RELAXED); }
static inline int gw_flag_get(const int *f) { return __atomic_load_n(f, __ATOMIC_ACQUIRE); }
static inline void gw_flag_set(int *f, int v) { __atomic_store_n(f, v, __ATOMIC_RELEASE); }
#endif
