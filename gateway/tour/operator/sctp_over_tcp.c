/* Lets a server that wants SCTP have TCP, for machines whose kernel has no SCTP: osmo-msc's SGs interface in tests.
 * Message boundaries are lost, so whoever is at the other end reads what a message says of its own length. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>

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

int sctp_recvmsg(int fd, void *data, size_t size, struct sockaddr *from, socklen_t *from_length, void *info, int *flags)
{
    (void)from, (void)from_length;
    if (info)
        memset(info, 0, 32);
    if (flags)
        *flags = 0;
    return recv(fd, data, size, 0);
}

int sctp_send(int fd, const void *data, size_t size, const void *info, int flags)
{
    (void)info, (void)flags;
    return send(fd, data, size, MSG_NOSIGNAL);
}

int sctp_sendmsg(int fd, const void *data, size_t size, struct sockaddr *to, socklen_t to_length, uint32_t ppid,
                 uint32_t flags, uint16_t stream, uint32_t life, uint32_t context)
{
    (void)to, (void)to_length, (void)ppid, (void)flags, (void)stream, (void)life, (void)context;
    return send(fd, data, size, MSG_NOSIGNAL);
}
