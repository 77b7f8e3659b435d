/* A batch of pushes as one row of the journal, and what became of its deliveries: little-endian, as on every machine
 * this runs on. gateway/store/batch_rows.py reads the same bytes in Python.
 *
 * Row: head, `count` items, then titles, texts and data one behind the other. Delivery i has the sequence first + i.
 */
#ifndef GW_BATCH_H
#define GW_BATCH_H
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "rows of batches are stored little-endian"
#endif

#define GW_BATCH_KIND 3
#define GW_BATCH_VERSION 1

typedef struct __attribute__((packed)) {
    uint8_t kind;
    uint8_t version;
    uint16_t spare;
    uint32_t app;   /* number */
    uint32_t count; /* items */
    uint64_t accepted_ms;
    uint32_t ack_ms;
    uint32_t notifier_ack_ms;
    uint32_t bytes; /* of titles, texts and data */
} gw_batch_head_t;

typedef struct __attribute__((packed)) {
    uint8_t token[16];
    uint32_t registration;
    uint32_t expires_s;
    uint32_t at; /* of the title, behind the items; text and data follow it */
    uint32_t title_bytes;
    uint32_t text_bytes;
    uint32_t data_bytes;
    uint8_t urgency;
    uint8_t spare[3];
} gw_batch_item_t;

/* What became of one delivery. */
typedef struct __attribute__((packed)) {
    uint64_t at_ms;   /* Unix ms of its end */
    uint32_t took_ms; /* from the send to the ack */
    uint8_t state;    /* model.outcome.State; 0: still pending */
    uint8_t flags;
    uint16_t spare;
} gw_settled_t;

/* Records are stored in parts, so that a batch whose acks trickle in is not written whole again and again. */
#define GW_PART 64
#define GW_BATCH_MOST (64 * GW_PART)

#define GW_SETTLED_SHOWN 1   /* the device said SHOWN at once */
#define GW_SETTLED_APART 2   /* its history stands in a row of its own */
#define GW_SETTLED_UNDONE 4  /* it was never accepted: the commit failed */
#endif
