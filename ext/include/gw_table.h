/* Hash table of small rows with the key inside, written out once for each row type that includes it.
 *
 * 256 segments, chosen by the top byte of the hash; each is an open-addressing table with linear probing. A segment
 * grows by a quarter at 7/8 full and shrinks below 13/20, so at most a third of the memory is slack and no insertion
 * ever moves more than one 256th of the rows. The hash is mapped to a place by multiplication, which keeps the order:
 * a rebuild writes from front to back. Deletion shifts rows back; there are no tombstones.
 *
 * Define before including: GW_TABLE (prefix), GW_ROW, GW_KEY (types), and the macros or functions GW_HASH(table, key),
 * GW_KEY_OF(row), GW_SAME(row, key) and GW_USED(row). A zeroed row must be an unused one. A row pointer is good until
 * the next insert or remove.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "gw_hash.h"

#ifndef GW_TABLE_H
#define GW_TABLE_H
#define GW_SEGMENTS 256
#define GW_SMALLEST 8 /* rows; 7/8 of it leaves an unused one, where every probe ends */
#define GW_PASTE_(a, b) a##_##b
#define GW_PASTE(a, b) GW_PASTE_(a, b)
#endif

#define GW_FN(name) GW_PASTE(GW_TABLE, name)
#define GW_SEGMENT_T GW_FN(segment_t)
#define GW_TABLE_T GW_FN(t)

typedef struct {
    GW_ROW *rows;
    uint32_t size;
    uint32_t capacity;
} GW_SEGMENT_T;

typedef struct {
    GW_SEGMENT_T segments[GW_SEGMENTS];
    uint64_t count;
    uint64_t bytes; /* requested from malloc for rows */
    uint64_t seed;
} GW_TABLE_T;

static inline void GW_FN(init)(GW_TABLE_T *t, uint64_t seed) {
    memset(t, 0, sizeof *t);
    t->seed = seed;
}

static inline void GW_FN(free)(GW_TABLE_T *t) {
    int i;
    for (i = 0; i < GW_SEGMENTS; i++)
        free(t->segments[i].rows);
    GW_FN(init)(t, t->seed);
}

static inline GW_ROW *GW_FN(find_hashed)(const GW_TABLE_T *t, GW_KEY key, uint64_t hash) {
    const GW_SEGMENT_T *s = &t->segments[hash >> 56];
    uint32_t i;
    if (!s->size)
        return NULL;
    for (i = gw_home(hash, s->capacity); GW_USED(&s->rows[i]);) {
        if (GW_SAME(&s->rows[i], key))
            return &s->rows[i];
        if (++i == s->capacity)
            i = 0;
    }
    return NULL;
}

static inline GW_ROW *GW_FN(find)(const GW_TABLE_T *t, GW_KEY key) {
    return GW_FN(find_hashed)(t, key, GW_HASH(t, key));
}

static inline void GW_FN(prefetch_hashed)(const GW_TABLE_T *t, uint64_t hash) {
    const GW_SEGMENT_T *s = &t->segments[hash >> 56];
    if (s->size) {
        __builtin_prefetch(&s->rows[gw_home(hash, s->capacity)]);
        __asm__ volatile(""); /* GCC takes a function that only prefetches for one without effect, and drops the call */
    }
}

/* 0 without memory: nothing has changed. */
static int GW_FN(resize)(GW_TABLE_T *t, GW_SEGMENT_T *s, uint64_t capacity) {
    GW_ROW *rows = NULL;
    uint32_t i, to;
    if (capacity > UINT32_MAX)
        return 0;
    if (capacity) {
        rows = calloc(capacity, sizeof *rows);
        if (!rows)
            return 0;
        for (i = 0; i < s->capacity; i++) {
            if (!GW_USED(&s->rows[i]))
                continue;
            to = gw_home(GW_HASH(t, GW_KEY_OF(&s->rows[i])), (uint32_t)capacity);
            while (GW_USED(&rows[to]))
                if (++to == capacity)
                    to = 0;
            rows[to] = s->rows[i];
        }
    }
    free(s->rows);
    t->bytes += capacity * sizeof *rows - s->capacity * sizeof *rows;
    s->rows = rows;
    s->capacity = (uint32_t)capacity;
    return 1;
}

/* Before the first row: room for so many, spread evenly; 0 without memory (then it grows as it goes). */
static inline int GW_FN(expect)(GW_TABLE_T *t, uint64_t rows) {
    /* A segment's share varies by its square root; three times that is room for nearly all of them. A fifth stays free:
     * probes are short, and the segments do not all grow with the next few rows. */
    uint64_t share = rows / GW_SEGMENTS, spread = 0;
    int i;
    if (!share) return 1;
    while ((spread + 1) * (spread + 1) <= share) spread++;
    share = (share + 3 * spread) * 5 / 4 + GW_SMALLEST;
    for (i = 0; i < GW_SEGMENTS; i++)
        if (!t->segments[i].capacity && !GW_FN(resize)(t, &t->segments[i], share)) return 0;
    return 1;
}

/* Make room for one more row where this key would go; 0 without memory. After it, one insert of the key cannot fail. */
static inline int GW_FN(reserve)(GW_TABLE_T *t, GW_KEY key) {
    GW_SEGMENT_T *s = &t->segments[GW_HASH(t, key) >> 56];
    uint64_t capacity = s->capacity;
    if (s->size < capacity - capacity / 8)
        return 1;
    return GW_FN(resize)(t, s, capacity ? capacity + capacity / 4 + 1 : GW_SMALLEST);
}

/* Unused row for a key that is not there and for which room was reserved; the caller fills it at once. */
static inline GW_ROW *GW_FN(insert)(GW_TABLE_T *t, GW_KEY key) {
    uint64_t hash = GW_HASH(t, key);
    GW_SEGMENT_T *s = &t->segments[hash >> 56];
    uint32_t i = gw_home(hash, s->capacity);
    while (GW_USED(&s->rows[i]))
        if (++i == s->capacity)
            i = 0;
    s->size++;
    t->count++;
    return &s->rows[i];
}

/* Give back what a reserve without its insert, or a remove, has left over; without memory the larger one stays. */
static inline void GW_FN(shrink)(GW_TABLE_T *t, GW_SEGMENT_T *s) {
    uint64_t capacity = s->size + (uint64_t)s->size / 4 + 1;
    if (!s->size)
        GW_FN(resize)(t, s, 0);
    else if (s->capacity > GW_SMALLEST && (uint64_t)s->size * 20 < (uint64_t)s->capacity * 13)
        GW_FN(resize)(t, s, capacity < GW_SMALLEST ? GW_SMALLEST : capacity);
}

static inline void GW_FN(unreserve)(GW_TABLE_T *t, GW_KEY key) {
    GW_FN(shrink)(t, &t->segments[GW_HASH(t, key) >> 56]);
}

static int GW_FN(remove)(GW_TABLE_T *t, GW_KEY key) {
    uint64_t hash = GW_HASH(t, key);
    GW_SEGMENT_T *s = &t->segments[hash >> 56];
    GW_ROW *row = GW_FN(find_hashed)(t, key, hash);
    uint32_t hole, i, home;
    if (!row)
        return 0;
    hole = i = (uint32_t)(row - s->rows);
    for (;;) {
        if (++i == s->capacity)
            i = 0;
        if (!GW_USED(&s->rows[i]))
            break;
        home = gw_home(GW_HASH(t, GW_KEY_OF(&s->rows[i])), s->capacity);
        /* A row whose home lies after the hole, up to itself, is where it belongs. */
        if (hole <= i ? hole < home && home <= i : hole < home || home <= i)
            continue;
        s->rows[hole] = s->rows[i];
        hole = i;
    }
    memset(&s->rows[hole], 0, sizeof *row);
    s->size--;
    t->count--;
    GW_FN(shrink)(t, s);
    return 1;
}

#undef GW_FN
#undef GW_SEGMENT_T
#undef GW_TABLE_T
#undef GW_TABLE
#undef GW_ROW
#undef GW_KEY
#undef GW_HASH
#undef GW_KEY_OF
#undef GW_SAME
#undef GW_USED
