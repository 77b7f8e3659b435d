/* Token → registration number: 20-byte rows. */
#ifndef GW_TOKENS_H
#define GW_TOKENS_H
#include <stdint.h>
#include <string.h>

#define GW_TOKEN_BYTES 16

typedef struct {
    uint8_t token[GW_TOKEN_BYTES];
    uint32_t number; /* plus one; 0: unused */
} gw_token_row_t;

/* Tokens are MAC outputs; the mixing only keeps hand-made ones (counters, in tests and tools) from clustering. */
static inline uint64_t gw_token_hash(const uint8_t *token);

#define GW_TABLE gw_tokens
#define GW_ROW gw_token_row_t
#define GW_KEY const uint8_t *
#define GW_HASH(table, key) gw_token_hash(key)
#define GW_KEY_OF(row) ((row)->token)
#define GW_SAME(row, key) (memcmp((row)->token, key, GW_TOKEN_BYTES) == 0)
#define GW_USED(row) ((row)->number != 0)
#include "gw_table.h"

static inline uint64_t gw_token_hash(const uint8_t *token) {
    uint64_t a, b;
    memcpy(&a, token, 8);
    memcpy(&b, token + 8, 8);
    return gw_mix64(a ^ (b << 32 | b >> 32));
}

static inline void gw_fill_token_row(gw_token_row_t *row, const uint8_t *token, uint32_t number) {
    memcpy(row->token, token, GW_TOKEN_BYTES);
    row->number = number + 1;
}

/* The token of a number, by the hash that the caller kept of it; NULL where that is another's. */
static inline const uint8_t *gw_tokens_of(const gw_tokens_t *t, uint64_t hash, uint32_t number) {
    const gw_tokens_segment_t *s = &t->segments[hash >> 56];
    uint32_t i;
    if (!s->size)
        return NULL;
    for (i = gw_home(hash, s->capacity); s->rows[i].number;) {
        if (s->rows[i].number == number + 1)
            return s->rows[i].token;
        if (++i == s->capacity)
            i = 0;
    }
    return NULL;
}

static inline void gw_tokens_prefetch(const gw_tokens_t *t, const uint8_t *token) {
    gw_tokens_prefetch_hashed(t, gw_token_hash(token));
}

/* Numbers of n packed tokens, -1 for an unknown one. First all homes are asked for, then looked at: the cache misses of
 * a batch overlap. */
static inline void gw_tokens_find_many(const gw_tokens_t *t, const uint8_t *tokens, size_t n, int32_t *numbers) {
    enum { BATCH = 32 };
    uint64_t hashes[BATCH];
    size_t done, i, batch;
    for (done = 0; done < n; done += batch) {
        batch = n - done < BATCH ? n - done : BATCH;
        for (i = 0; i < batch; i++) {
            hashes[i] = gw_token_hash(tokens + (done + i) * GW_TOKEN_BYTES);
            gw_tokens_prefetch_hashed(t, hashes[i]);
        }
        for (i = 0; i < batch; i++) {
            const gw_token_row_t *row = gw_tokens_find_hashed(t, tokens + (done + i) * GW_TOKEN_BYTES, hashes[i]);
            numbers[done + i] = row ? (int32_t)(row->number - 1) : -1;
        }
    }
}
#endif
