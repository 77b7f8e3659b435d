/* CAT_TP PDUs as bytes (ETSI TS 102 127 §5), both directions; one whose checksum is wrong is never passed on.
 * The formats are written out in gateway/ota/cattp_pdu.py, and the answers are the same to any bytes. */
#ifndef GW_CATTP_H
#define GW_CATTP_H
#include <stdint.h>
#include <string.h>

#define GW_PDU_SYN 0x80
#define GW_PDU_ACK 0x40
#define GW_PDU_EACK 0x20
#define GW_PDU_RST 0x10
#define GW_PDU_NUL 0x08
#define GW_PDU_SEG 0x04
#define GW_PDU_VERSION 0x03
#define GW_PDU_HEAD_BYTES 18
#define GW_PDU_MOST_BYTES 65507 /* a UDP datagram over IPv4 holds no more */
#define GW_PDU_MOST_EACKS 118

typedef struct {
    uint8_t flags; /* without the version */
    uint8_t version;
    uint8_t reason;   /* of a RST */
    uint8_t id_bytes; /* of a SYN's identification */
    uint16_t source, destination, sequence, acknowledgement, window;
    uint16_t max_pdu, max_sdu; /* of a SYN */
    uint16_t data_bytes;
    uint16_t eack_count;
    const uint8_t *identification;
    const uint8_t *eacks; /* big-endian pairs, not aligned */
    const uint8_t *data;
} gw_pdu_t;

static inline uint16_t gw_get16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }
static inline void gw_put16(uint8_t *at, uint16_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* Ones' complement sum of big-endian 16-bit words, an odd byte being the high one of the last; 0xFFFF where a right
 * checksum is in it. The sum does not care for the order of bytes (RFC 1071 §2), so eight are read at a time. */
static inline uint16_t gw_sum_words(const uint8_t *data, uint32_t size) {
    uint64_t sum = 0, word;
    uint32_t part;
    while (size >= 8) {
        memcpy(&word, data, 8);
        sum += word;
        sum += sum < word;
        data += 8;
        size -= 8;
    }
    if (size) {
        word = 0;
        memcpy(&word, data, size);
        sum += word;
        sum += sum < word;
    }
    sum = (sum & 0xFFFFFFFFu) + (sum >> 32);
    sum = (sum & 0xFFFFFFFFu) + (sum >> 32);
    part = (uint32_t)sum;
    part = (part & 0xFFFF) + (part >> 16);
    part = (part & 0xFFFF) + (part >> 16);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    part = (part >> 8 | part << 8) & 0xFFFF;
#endif
    return (uint16_t)part;
}

/* Exactly one PDU; -1: these bytes are none. Of another version only the fixed part is read. Pointers go into `data`. */
static inline int gw_pdu_parse(gw_pdu_t *p, const uint8_t *data, uint32_t size) {
    const uint8_t *variable = data + GW_PDU_HEAD_BYTES;
    uint32_t head, rest, kinds;
    if (size < GW_PDU_HEAD_BYTES || size > GW_PDU_MOST_BYTES) return -1;
    head = data[3];
    memset(p, 0, sizeof *p);
    p->data_bytes = gw_get16(data + 8);
    if (head < GW_PDU_HEAD_BYTES || head + p->data_bytes != size || gw_sum_words(data, size) != 0xFFFF) return -1;
    p->flags = data[0] & (uint8_t)~GW_PDU_VERSION;
    p->version = data[0] & GW_PDU_VERSION;
    p->source = gw_get16(data + 4);
    p->destination = gw_get16(data + 6);
    p->sequence = gw_get16(data + 10);
    p->acknowledgement = gw_get16(data + 12);
    p->window = gw_get16(data + 14);
    if (p->version) {
        p->data_bytes = 0;
        return 0;
    }
    p->data = data + head;
    kinds = p->flags & (GW_PDU_SYN | GW_PDU_EACK | GW_PDU_RST | GW_PDU_NUL);
    if (kinds & (kinds - 1)) return -1; /* they exclude each other */
    if (p->data_bytes && kinds & ~(uint32_t)GW_PDU_EACK) return -1;
    if (!(kinds & (GW_PDU_SYN | GW_PDU_RST)) && !(p->flags & GW_PDU_ACK)) return -1;
    if (p->flags & GW_PDU_SEG && !p->data_bytes) return -1;
    rest = head - GW_PDU_HEAD_BYTES;
    if (kinds == GW_PDU_SYN) {
        if (rest < 5 || rest != 5u + variable[4]) return -1;
        p->max_pdu = gw_get16(variable);
        p->max_sdu = gw_get16(variable + 2);
        p->id_bytes = variable[4];
        p->identification = variable + 5;
    } else if (kinds == GW_PDU_EACK) {
        if (!rest || rest & 1) return -1;
        p->eacks = variable;
        p->eack_count = (uint16_t)(rest / 2);
    } else if (kinds == GW_PDU_RST) {
        if (rest != 1) return -1;
        p->reason = variable[0];
    } else if (rest) {
        return -1;
    }
    return 0;
}

/* Whether it takes a sequence number. */
static inline int gw_pdu_consumes(const gw_pdu_t *p) {
    return !(p->flags & GW_PDU_RST) && (p->flags & (GW_PDU_SYN | GW_PDU_NUL) || p->data_bytes);
}

/* Writes a PDU and returns its size. `data` may already lie behind the header, or be elsewhere. */
static inline uint32_t gw_pdu_build(uint8_t *out, uint8_t flags, uint16_t source, uint16_t destination,
                                    uint16_t sequence, uint16_t acknowledgement, uint16_t window,
                                    const uint8_t *variable, uint8_t variable_bytes, const uint8_t *data,
                                    uint16_t data_bytes) {
    uint32_t head = GW_PDU_HEAD_BYTES + variable_bytes, size = head + data_bytes;
    out[0] = flags;
    out[1] = out[2] = 0;
    out[3] = (uint8_t)head;
    gw_put16(out + 4, source);
    gw_put16(out + 6, destination);
    gw_put16(out + 8, data_bytes);
    gw_put16(out + 10, sequence);
    gw_put16(out + 12, acknowledgement);
    gw_put16(out + 14, window);
    out[16] = out[17] = 0;
    if (variable_bytes) memcpy(out + GW_PDU_HEAD_BYTES, variable, variable_bytes);
    if (data_bytes) memmove(out + head, data, data_bytes);
    gw_put16(out + 16, (uint16_t)~gw_sum_words(out, size));
    return size;
}

/* What one that knows no link for this PDU answers (a RST): its size, or 0: nothing, for to a RST nobody answers. */
static inline uint32_t gw_pdu_refuse(uint8_t *out, const gw_pdu_t *p, uint8_t reason) {
    uint16_t sequence = p->flags & GW_PDU_ACK ? (uint16_t)(p->acknowledgement + 1) : 0;
    if (p->flags & GW_PDU_RST) return 0;
    return gw_pdu_build(out, GW_PDU_RST | GW_PDU_ACK, p->destination, p->source, sequence, p->sequence, 0, &reason, 1,
                        NULL, 0);
}
#endif
