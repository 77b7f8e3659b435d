/* What the swarm needs of sockets beside the usual: connections from many source addresses, without a port search. */
#ifndef GW_SWARM_H
#define GW_SWARM_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

static inline uint64_t gw_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A non-blocking connection from `source` (0: any; host byte order) to host:port; descriptor, or -errno. */
static inline int gw_connect(uint32_t source, uint32_t host, uint16_t port) {
    int one = 1, e;
    struct sockaddr_in a = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (source) {
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        a.sin_addr.s_addr = htonl(source);
        if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0) goto failed;
    }
    a.sin_addr.s_addr = htonl(host);
    a.sin_port = htons(port);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0 || errno == EINPROGRESS) return fd;
failed:
    e = errno;
    close(fd);
    return -e;
}

/* How the connection attempt ended: 0 or an errno. */
static inline int gw_connected(int fd) {
    int e = 0;
    socklen_t n = sizeof e;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) != 0) return errno;
    return e;
}

/* Close with a reset, as a device that vanished and came back would. */
static inline void gw_abort(int fd) {
    struct linger l = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    close(fd);
}
#endif
