/* Lets a server that wants SCTP have TCP, for machines whose kernel has no SCTP: osmo-msc's SGs interface in tests.
 * TCP knows no messages, so each has its length before it, two bytes, both ways. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#define SCTP_LEVEL 132 /* IPPROTO_SCTP */
#define SCTP_STATUS 14

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

static socklen_t size_of(const struct sockaddr *address)
{
    return address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

int socket(int domain, int type, int protocol)
{
    int (*real)(int, int, int) = next("socket");
    if (protocol != SCTP_LEVEL)
        return real(domain, type, protocol);
    return real(domain, (type & ~0xf) | SOCK_STREAM, IPPROTO_TCP);
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t length)
{
    int (*real)(int, int, int, const void *, socklen_t) = next("setsockopt");
    return level == SCTP_LEVEL ? 0 : real(fd, level, option, value, length);
}

int getsockopt(int fd, int level, int option, void *value, socklen_t *length)
{
    int (*real)(int, int, int, void *, socklen_t *) = next("getsockopt");
    if (level != SCTP_LEVEL)
        return real(fd, level, option, value, length);
    memset(value, 0, *length);
    if (option == 11) /* SCTP_EVENTS: the kernel's own struct has this many fields */
        *length = SCTP_STATUS;
    return 0;
}

int sctp_bindx(int fd, struct sockaddr *addresses, int count, int flags)
{
    (void)count, (void)flags;
    return bind(fd, addresses, size_of(addresses));
}

int sctp_connectx(int fd, struct sockaddr *addresses, int count, void *id)
{
    (void)count, (void)id;
    return connect(fd, addresses, size_of(addresses));
}

static int send_message(int fd, const void *data, size_t size)
{
    uint8_t head[2] = {size >> 8 & 0xff, size & 0xff};
    struct iovec parts[2] = {{head, sizeof head}, {(void *)data, size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    return sendmsg(fd, &message, MSG_NOSIGNAL) < 0 ? -1 : (int)size;
}

int sctp_recvmsg(int fd, void *data, size_t size, struct sockaddr *from, socklen_t *from_length, void *info, int *flags)
{
    (void)from, (void)from_length;
    if (info)
        memset(info, 0, 32);
    if (flags)
        *flags = 0;
    uint8_t head[2];
    int waiting = 0;
    ssize_t got = recv(fd, head, sizeof head, MSG_PEEK);
    if (got <= 0)
        return got;
    size_t length = (size_t)head[0] << 8 | head[1];
    if (ioctl(fd, FIONREAD, &waiting) < 0)
        return -1;
    if (got < (ssize_t)sizeof head || (size_t)waiting < sizeof head + length) {
        errno = EAGAIN; /* the rest is on its way */
        return -1;
    }
    recv(fd, head, sizeof head, 0);
    return recv(fd, data, length < size ? length : size, 0);
}

int sctp_send(int fd, const void *data, size_t size, const void *info, int flags)
{
    (void)info, (void)flags;
    return send_message(fd, data, size);
}

int sctp_sendmsg(int fd, const void *data, size_t size, struct sockaddr *to, socklen_t to_length, uint32_t ppid,
                 uint32_t flags, uint16_t stream, uint32_t life, uint32_t context)
{
    (void)to, (void)to_length, (void)ppid, (void)flags, (void)stream, (void)life, (void)context;
    return send_message(fd, data, size);
}
