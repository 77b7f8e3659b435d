/* Immutable frame bytes, shared by every link that still has to send them; the last one to let go frees them. */
#ifndef GW_BUFFER_H
#define GW_BUFFER_H
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t refs; /* atomic: reactors share a fan-out's frame */
    uint32_t size; /* bytes */
    uint8_t data[];
} gw_buffer_t;

static inline gw_buffer_t *gw_buffer_new(const uint8_t *data, uint32_t size) {
    gw_buffer_t *b = (gw_buffer_t *)malloc(sizeof(gw_buffer_t) + size);
    if (!b) return NULL;
    b->refs = 1;
    b->size = size;
    memcpy(b->data, data, size);
    return b;
}
static inline void gw_buffer_take(gw_buffer_t *b) { __atomic_fetch_add(&b->refs, 1, __ATOMIC_RELAXED); }
static inline void gw_buffer_drop(gw_buffer_t *b) {
    if (b && __atomic_sub_fetch(&b->refs, 1, __ATOMIC_ACQ_REL) == 0) free(b);
}
#endif
