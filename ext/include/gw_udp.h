/* Many datagrams with one system call, in and out. Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d, whatever the socket's
 * family. Linux only. */
#ifndef GW_UDP_H
#define GW_UDP_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define GW_UDP_BATCH 64
#define GW_UDP_MOST_BYTES 65536
/* between two buffers: no power of two, so that the first bytes of all do not meet in the same cache sets */
#define GW_UDP_STRIDE (GW_UDP_MOST_BYTES + 320)
#define GW_UDP_ARENA_BYTES 262144

typedef struct {
    struct mmsghdr messages[GW_UDP_BATCH];
    struct iovec parts[GW_UDP_BATCH];
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } from[GW_UDP_BATCH];
    uint8_t *buffers; /* pages that no datagram reached take no memory */
} gw_udp_in_t;

typedef struct {
    struct mmsghdr messages[GW_UDP_BATCH];
    struct iovec parts[GW_UDP_BATCH];
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } to[GW_UDP_BATCH];
    uint8_t *arena;
    uint32_t used;
    uint32_t count;
    int family;
} gw_udp_out_t;

static inline int gw_udp_family(int fd) {
    struct sockaddr_storage own;
    socklen_t size = sizeof own;
    return getsockname(fd, (struct sockaddr *)&own, &size) == 0 ? own.ss_family : -1;
}

static inline gw_udp_in_t *gw_udp_in_new(void) {
    gw_udp_in_t *in = (gw_udp_in_t *)calloc(1, sizeof *in);
    int i;
    if (!in) return NULL;
    in->buffers = (uint8_t *)malloc((size_t)GW_UDP_BATCH * GW_UDP_STRIDE);
    if (!in->buffers) {
        free(in);
        return NULL;
    }
    for (i = 0; i < GW_UDP_BATCH; i++) {
        in->parts[i].iov_base = in->buffers + (size_t)i * GW_UDP_STRIDE;
        in->parts[i].iov_len = GW_UDP_MOST_BYTES;
        in->messages[i].msg_hdr.msg_iov = &in->parts[i];
        in->messages[i].msg_hdr.msg_iovlen = 1;
        in->messages[i].msg_hdr.msg_name = &in->from[i];
    }
    return in;
}
static inline void gw_udp_in_free(gw_udp_in_t *in) {
    if (in) free(in->buffers);
    free(in);
}
/* How many came, at most `most`; 0: none, or an error that the next call may not have. */
static inline int gw_udp_receive(int fd, gw_udp_in_t *in, int most) {
    int i, n;
    for (i = 0; i < most; i++) in->messages[i].msg_hdr.msg_namelen = sizeof in->from[i];
    do n = recvmmsg(fd, in->messages, (unsigned)most, MSG_DONTWAIT, NULL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? 0 : n;
}
static inline const uint8_t *gw_udp_data(const gw_udp_in_t *in, int i, uint32_t *size) {
    *size = in->messages[i].msg_len;
    return (const uint8_t *)in->parts[i].iov_base;
}
static inline void gw_udp_from(const gw_udp_in_t *in, int i, uint8_t address[16], uint16_t *port) {
    if (in->from[i].any.sa_family == AF_INET6) {
        memcpy(address, &in->from[i].v6.sin6_addr, 16);
        *port = ntohs(in->from[i].v6.sin6_port);
    } else {
        memset(address, 0, 10);
        address[10] = address[11] = 0xFF;
        memcpy(address + 12, &in->from[i].v4.sin_addr, 4);
        *port = ntohs(in->from[i].v4.sin_port);
    }
}

static inline gw_udp_out_t *gw_udp_out_new(int family) {
    gw_udp_out_t *out = (gw_udp_out_t *)calloc(1, sizeof *out);
    int i;
    if (!out) return NULL;
    out->arena = (uint8_t *)malloc(GW_UDP_ARENA_BYTES);
    if (!out->arena) {
        free(out);
        return NULL;
    }
    out->family = family;
    for (i = 0; i < GW_UDP_BATCH; i++) {
        out->messages[i].msg_hdr.msg_iov = &out->parts[i];
        out->messages[i].msg_hdr.msg_iovlen = 1;
        out->messages[i].msg_hdr.msg_name = &out->to[i];
        out->messages[i].msg_hdr.msg_namelen = family == AF_INET ? sizeof out->to[i].v4 : sizeof out->to[i].v6;
    }
    return out;
}
static inline void gw_udp_out_free(gw_udp_out_t *out) {
    if (out) free(out->arena);
    free(out);
}
/* Where the next datagram of at most GW_UDP_MOST_BYTES is written; NULL: flush first. */
static inline uint8_t *gw_udp_place(gw_udp_out_t *out) {
    if (out->count == GW_UDP_BATCH || out->used + GW_UDP_MOST_BYTES > GW_UDP_ARENA_BYTES) return NULL;
    return out->arena + out->used;
}
/* It is written, so many bytes of it. */
static inline void gw_udp_put(gw_udp_out_t *out, uint32_t size, const uint8_t address[16], uint16_t port) {
    uint32_t i = out->count++;
    out->parts[i].iov_base = out->arena + out->used;
    out->parts[i].iov_len = size;
    out->used += (size + 63) & ~63u;
    memset(&out->to[i], 0, sizeof out->to[i]);
    if (out->family == AF_INET) {
        out->to[i].v4.sin_family = AF_INET;
        memcpy(&out->to[i].v4.sin_addr, address + 12, 4);
        out->to[i].v4.sin_port = htons(port);
    } else {
        out->to[i].v6.sin6_family = AF_INET6;
        memcpy(&out->to[i].v6.sin6_addr, address, 16);
        out->to[i].v6.sin6_port = htons(port);
    }
}
/* Sends all that was put; returns how many the kernel did not take. Those are lost, as any datagram may be. */
static inline uint32_t gw_udp_flush(int fd, gw_udp_out_t *out) {
    uint32_t at = 0, lost = 0;
    while (at < out->count) {
        int n = sendmmsg(fd, out->messages + at, out->count - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            at += (uint32_t)n;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) {
            lost += out->count - at;
            break;
        } else if (errno != EINTR) {
            at++; /* an address that nothing can be sent to */
            lost++;
        }
    }
    out->count = out->used = 0;
    return lost;
}
#endif
