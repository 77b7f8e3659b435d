/* The two tables of pending deliveries: sequence → row, registration → chain of rows. */
#ifndef GW_PENDING_H
#define GW_PENDING_H
#include <stdint.h>

typedef struct {
    uint32_t seq[2];
    uint32_t row; /* plus one; 0: unused */
} gw_seq_row_t;

typedef struct {
    uint32_t registration;
    uint32_t first; /* lowest sequence */
    uint32_t last;
    uint32_t count; /* 0: unused */
} gw_chain_row_t;

static inline uint64_t gw_seq_of(const gw_seq_row_t *row) {
    return (uint64_t)row->seq[1] << 32 | row->seq[0];
}

static inline void gw_set_seq(gw_seq_row_t *entry, uint64_t seq, uint32_t row) {
    entry->seq[0] = (uint32_t)seq;
    entry->seq[1] = (uint32_t)(seq >> 32);
    entry->row = row + 1;
}

/* Both keys are the gateway's own numbers: nobody outside chooses them, so the seed stays 0. */
#define GW_TABLE gw_seqs
#define GW_ROW gw_seq_row_t
#define GW_KEY uint64_t
#define GW_HASH(table, key) gw_mix64(key)
#define GW_KEY_OF(row) gw_seq_of(row)
#define GW_SAME(row, key) (gw_seq_of(row) == (key))
#define GW_USED(entry) ((entry)->row != 0)
#include "gw_table.h"

#define GW_TABLE gw_chains
#define GW_ROW gw_chain_row_t
#define GW_KEY uint32_t
#define GW_HASH(table, key) gw_mix64(key)
#define GW_KEY_OF(row) ((row)->registration)
#define GW_SAME(row, key) ((row)->registration == (key))
#define GW_USED(row) ((row)->count != 0)
#include "gw_table.h"
#endif
