/* Records that nodes of a fleet send each other about devices (gateway/cluster/far_wire.py), and piles of them. */
#ifndef GW_FAR_H
#define GW_FAR_H
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define GW_FAR_NOTIFY 1 /* Do.NOTIFY */
#define GW_FAR_ACK 1    /* Told.ACK */
#define GW_FAR_REACTOR 0xFF

typedef struct {
    uint8_t kind;
    uint8_t flag;
    uint16_t zero;
    uint32_t number;
    uint32_t local;
    uint32_t size; /* of the payload behind it */
    uint64_t attachment;
    uint64_t seq;
    uint64_t a;
    uint64_t b;
} gw_far_record_t;
_Static_assert(sizeof(gw_far_record_t) == 48, "a record has 48 bytes");

static inline uint64_t gw_attachment(uint64_t link) {
    return (link * UINT64_C(0x9E3779B97F4A7C15)) >> 24;
}

/* What is collected for one node, or for one partition. */
typedef struct {
    uint8_t *data;
    size_t size;
    size_t capacity;
    uint32_t key;
} gw_pile_t;

typedef struct {
    gw_pile_t *items;
    uint32_t count;
    uint32_t last; /* found last: what comes together goes to the same */
} gw_piles_t;

static inline gw_pile_t *gw_pile_of(gw_piles_t *p, uint32_t key) {
    gw_pile_t *items;
    uint32_t i;
    if (p->last < p->count && p->items[p->last].key == key) return &p->items[p->last];
    for (i = 0; i < p->count; i++)
        if (p->items[i].key == key) {
            p->last = i;
            return &p->items[i];
        }
    items = (gw_pile_t *)realloc(p->items, (p->count + 1) * sizeof(gw_pile_t));
    if (items == NULL) return NULL;
    p->items = items;
    memset(&items[p->count], 0, sizeof(gw_pile_t));
    items[p->count].key = key;
    p->last = p->count++;
    return &items[p->last];
}

/* 0: no memory, and nothing was added. */
static inline int gw_pile_add(gw_piles_t *p, uint32_t key, const gw_far_record_t *record, const void *payload) {
    gw_pile_t *pile = gw_pile_of(p, key);
    size_t need, capacity;
    uint8_t *data;
    if (pile == NULL) return 0;
    need = pile->size + sizeof(*record) + record->size;
    if (need > pile->capacity) {
        capacity = need + need / 2 + 1024;
        data = (uint8_t *)realloc(pile->data, capacity);
        if (data == NULL) return 0;
        pile->data = data;
        pile->capacity = capacity;
    }
    memcpy(pile->data + pile->size, record, sizeof(*record));
    if (record->size) memcpy(pile->data + pile->size + sizeof(*record), payload, record->size);
    pile->size = need;
    return 1;
}

static inline void gw_piles_free(gw_piles_t *p) {
    uint32_t i;
    for (i = 0; i < p->count; i++) free(p->items[i].data);
    free(p->items);
    memset(p, 0, sizeof(*p));
}
#endif
