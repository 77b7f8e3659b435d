/* CAT_TP PDUs and batches of datagrams, as a card's side and the floor need them; a second reading of ETSI TS 102 127 §5,
   apart from the gateway's own, so that neither can hide a fault of the other. */
#ifndef GW_CARDS_H
#define GW_CARDS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { GW_SYN = 0x80, GW_ACK = 0x40, GW_EACK = 0x20, GW_RST = 0x10, GW_NUL = 0x08, GW_SEG = 0x04 };
enum { GW_PDU_HEAD = 18, GW_BATCH = 64, GW_SLOT = 2048 };

/* The libc declares it only to who asked for its extensions before any header. */
struct gw_mmsghdr {
    struct msghdr head;
    unsigned int size;
};

/* Up to 64 datagrams, one buffer and one address each. */
typedef struct {
    struct gw_mmsghdr messages[GW_BATCH];
    struct iovec parts[GW_BATCH];
    struct sockaddr_in names[GW_BATCH];
    uint8_t slots[GW_BATCH][GW_SLOT];
    uint32_t count;
} gw_batch_t;

typedef struct {
    uint8_t flags;
    uint16_t source, destination, sequence, acknowledgement, window;
    const uint8_t *data;
    uint32_t data_bytes;
} gw_pdu_t;

static inline uint16_t gw_get16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline void gw_put16(uint8_t *p, uint32_t v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; }

/* Ones' complement sum; the order of bytes does not matter to it (RFC 1071 §2), so words are read as they lie. */
static inline uint16_t gw_words(const uint8_t *p, uint32_t n) {
    uint64_t sum = 0;
    uint32_t four = 0;
    uint16_t two = 0;
    for (; n >= 4; p += 4, n -= 4) {
        memcpy(&four, p, 4);
        sum += four;
    }
    if (n >= 2) {
        memcpy(&two, p, 2);
        sum += two;
        p += 2, n -= 2;
    }
    if (n) {
        two = 0;
        memcpy(&two, p, 1);
        sum += two;
    }
    sum = (sum & 0xFFFFFFFFu) + (sum >> 32);
    sum = (sum & 0xFFFFFFFFu) + (sum >> 32);
    sum = (sum & 0xFFFFu) + (sum >> 16);
    sum = (sum & 0xFFFFu) + (sum >> 16);
    return (uint16_t)sum;
}

/* 0: a PDU with a good checksum whose lengths are right. */
static inline int gw_pdu_parse(const uint8_t *p, uint32_t n, gw_pdu_t *pdu) {
    if (n < GW_PDU_HEAD || p[3] < GW_PDU_HEAD || (uint32_t)p[3] + gw_get16(p + 8) != n || (p[0] & 3)) return -1;
    if (gw_words(p, n) != 0xFFFF) return -1;
    pdu->flags = p[0];
    pdu->source = gw_get16(p + 4);
    pdu->destination = gw_get16(p + 6);
    pdu->sequence = gw_get16(p + 10);
    pdu->acknowledgement = gw_get16(p + 12);
    pdu->window = gw_get16(p + 14);
    pdu->data = p + p[3];
    pdu->data_bytes = n - p[3];
    return 0;
}

/* The header and its checksum, over what lies behind it already: `more` bytes of header, `data_bytes` of data. */
static inline uint32_t gw_pdu_build(uint8_t *p, const gw_pdu_t *pdu, uint32_t more) {
    uint32_t n = GW_PDU_HEAD + more + pdu->data_bytes;
    uint16_t sum;
    p[0] = pdu->flags;
    p[1] = p[2] = 0;
    p[3] = (uint8_t)(GW_PDU_HEAD + more);
    gw_put16(p + 4, pdu->source);
    gw_put16(p + 6, pdu->destination);
    gw_put16(p + 8, pdu->data_bytes);
    gw_put16(p + 10, pdu->sequence);
    gw_put16(p + 12, pdu->acknowledgement);
    gw_put16(p + 14, pdu->window);
    p[16] = p[17] = 0;
    sum = (uint16_t)~gw_words(p, n);
    memcpy(p + 16, &sum, 2);
    return n;
}

static inline void gw_batch_init(gw_batch_t *b, int named) {
    memset(b, 0, sizeof *b);
    for (int i = 0; i < GW_BATCH; i++) {
        b->parts[i].iov_base = b->slots[i];
        b->parts[i].iov_len = GW_SLOT;
        b->messages[i].head.msg_iov = &b->parts[i];
        b->messages[i].head.msg_iovlen = 1;
        if (named) {
            b->messages[i].head.msg_name = &b->names[i];
            b->messages[i].head.msg_namelen = sizeof b->names[i];
        }
    }
}

/* How many came; 0: none waits; -errno. */
static inline int gw_batch_receive(gw_batch_t *b, int fd) {
    long n = syscall(SYS_recvmmsg, fd, b->messages, GW_BATCH, MSG_DONTWAIT, NULL);
    if (n >= 0) return (int)n;
    return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

/* Sends those that are there and empties the batch; how many went. What the kernel has no room for is lost, as any
   datagram may be. */
static inline int gw_batch_send(gw_batch_t *b, int fd) {
    uint32_t sent = 0, count = b->count;
    int went = 0;
    b->count = 0;
    while (sent < count) {
        long n = syscall(SYS_sendmmsg, fd, b->messages + sent, count - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            went += (int)n;
            sent += (uint32_t)n;
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else {
            sent += 1; /* this one was refused; those behind it may go */
        }
    }
    return went;
}

/* A non-blocking UDP socket on 127.0.0.1, connected where `port` is not 0; descriptor, or -errno. */
static inline int gw_udp(uint32_t host, uint16_t port, int buffer_bytes) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), e;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (fd < 0) return -errno;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes);
    a.sin_addr.s_addr = htonl(host);
    if (port == 0 || connect(fd, (struct sockaddr *)&a, sizeof a) == 0) return fd;
    e = errno;
    close(fd);
    return -e;
}
#endif
