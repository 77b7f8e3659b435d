/* Device key → link and first bound registration: 20-byte rows. */
#ifndef GW_SESSIONS_H
#define GW_SESSIONS_H
#include <stdint.h>
#include <string.h>

typedef struct {
    uint32_t device[2];
    uint32_t link[2]; /* a link id, never 0; 0: unused row */
    uint32_t first;   /* registration, or UINT32_MAX */
} gw_session_row_t;

static inline uint64_t gw_session_device(const gw_session_row_t *row) {
    return (uint64_t)row->device[1] << 32 | row->device[0];
}

static inline uint64_t gw_session_link(const gw_session_row_t *row) {
    return (uint64_t)row->link[1] << 32 | row->link[0];
}

static inline void gw_set_session(gw_session_row_t *row, uint64_t device, uint64_t link) {
    row->device[0] = (uint32_t)device;
    row->device[1] = (uint32_t)(device >> 32);
    row->link[0] = (uint32_t)link;
    row->link[1] = (uint32_t)(link >> 32);
}

/* Devices choose what their key is made from; the seed keeps them from choosing where it goes. */
#define GW_TABLE gw_sessions
#define GW_ROW gw_session_row_t
#define GW_KEY uint64_t
#define GW_HASH(table, key) gw_mix64((key) ^ (table)->seed)
#define GW_KEY_OF(row) gw_session_device(row)
#define GW_SAME(row, key) (gw_session_device(row) == (key))
#define GW_USED(row) (((row)->link[0] | (row)->link[1]) != 0)
#include "gw_table.h"

static inline void gw_sessions_prefetch(const gw_sessions_t *t, uint64_t device) {
    gw_sessions_prefetch_hashed(t, gw_mix64(device ^ t->seed));
}
#endif
