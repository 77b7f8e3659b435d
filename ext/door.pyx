"""The way in: accept, the PROXY header where one is expected, the TLS handshake; then traffic.pyx has the link.

What waits here is bounded: a link has the login deadline for all of it, a PROXY header PROXY_BYTES_MAX, a handshake
SHAKE_BYTES_MAX, no more than `handshakes` have an SSL at once, and a turn of the loop makes SHAKES_A_TURN steps of
handshakes, so that heartbeats of others never wait behind a storm of signatures.
"""
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from gateway._native.link cimport LINK_NEW, LINK_PROXY, LINK_SHAKING, link_t, partial_t, slab_give, slab_take
from gateway._native.plane cimport *
from gateway._native.proxy cimport (
    PROXY_BYTES_MAX, PROXY_CLOSED, PROXY_MEMORY, PROXY_TIMEOUT, PROXY_TOO_LARGE, PROXY_UNTRUSTED, is_in_networks,
    proxy_parse, proxy_t, proxy_wants)
from gateway._native.secure cimport secure_open, tls_of
from gateway._native.tls cimport tls_shake
from gateway._native.tls_state cimport (
    TLS_FAILED_MEMORY, TLS_FAILED_TIMEOUT, TLS_SOCKET, TLS_WANT_READ, TLS_WANT_WRITE, tls_t)
from gateway._native.traffic cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLIN, EPOLLOUT, epoll_ctl, epoll_event, gw_count, link_down,
    link_free, link_readable, watch)
from gateway._native.wheel cimport wheel_arm, wheel_cancel

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        uint16_t sa_family
    struct sockaddr_storage:
        pass
    int accept4(int fd, sockaddr *address, uint32_t *length, int flags)
    ssize_t recv(int fd, void *buf, size_t n, int flags)
    enum: SOCK_NONBLOCK, SOCK_CLOEXEC, MSG_DONTWAIT, AF_INET, AF_INET6

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        in_addr sin_addr
    struct sockaddr_in6:
        in6_addr sin6_addr

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef enum:
    ACCEPTS_A_TURN = 256
    SHAKES_A_TURN = 8               # steps with a signature in them, 0.1 to 2 ms each


# --- listeners -------------------------------------------------------------------------------------------------------

cdef void listener_watch(reactor_t *r, listener_t *listener, int op) noexcept nogil:
    cdef epoll_event e
    e.events = EPOLLIN
    e.data.u64 = (<uint64_t>KEY_LISTENER + listener.door) << 32
    if listener.fd >= 0 and epoll_ctl(r.epoll, op, listener.fd, &e) == 0:
        listener.listening = op == EPOLL_CTL_ADD


cdef void listeners_close(reactor_t *r) noexcept nogil:
    cdef listener_t *listener
    cdef int i
    for i in range(DOORS_COUNT):
        listener = &r.listeners[i]
        if listener.fd >= 0:
            close(listener.fd)
        listener.fd = -1
        listener.listening = 0
        wheel_cancel(&r.wheel, &listener.again)


cdef int may_speak(const reactor_t *r, const sockaddr_storage *peer) noexcept nogil:
    """Is the peer one of those that may send PROXY headers?"""
    cdef uint8_t address[16]
    memset(address, 0, 16)
    if (<const sockaddr *>peer).sa_family == AF_INET:
        address[10] = address[11] = 0xFF
        memcpy(&address[12], &(<const sockaddr_in *>peer).sin_addr, 4)
    elif (<const sockaddr *>peer).sa_family == AF_INET6:
        memcpy(address, &(<const sockaddr_in6 *>peer).sin6_addr, 16)
    else:
        return 0
    return is_in_networks(address, r.networks, r.network_count)


cdef int admit(reactor_t *r, const listener_t *listener, link_t *link, int fd) noexcept nogil:
    """The first state of a link; -1 without memory."""
    link.state = LINK_NEW
    link.fd = fd
    if listener.door == DOOR_TLS:
        if secure_open(r, link, fd) != 0:
            return -1
        link.state = LINK_SHAKING
    elif r.expects_proxy:
        link.state = LINK_PROXY
    return 0


cdef void accept_links(reactor_t *r, listener_t *listener) noexcept nogil:
    cdef link_t *link
    cdef sockaddr_storage peer
    cdef uint32_t length
    cdef int fd, _
    cdef int asks = r.expects_proxy and listener.door == DOOR_PLAIN
    for _ in range(ACCEPTS_A_TURN):
        length = sizeof(peer)
        fd = accept4(
            listener.fd, <sockaddr *>&peer if asks else NULL, &length if asks else NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd < 0:
            if errno == EAGAIN:
                return
            if errno == EINTR or errno == ECONNABORTED:
                continue
            # Out of descriptors or memory: the backlog waits in the kernel; look again in 100 ms, don't spin.
            gw_count(&r.counters[C_ACCEPT_ERRORS], 1)
            listener_watch(r, listener, EPOLL_CTL_DEL)
            wheel_arm(&r.wheel, &listener.again, r.now + 10)
            return
        gw_count(&r.counters[C_ACCEPTED], 1)
        if asks and not may_speak(r, &peer):
            gw_count(&r.ended[REASON_PROXY], 1)
            gw_count(&r.proxy_failed[PROXY_UNTRUSTED], 1)
            close(fd)
            continue
        link = slab_take(&r.slab) if r.slab.used < r.set.max_links else NULL
        if link == NULL:
            gw_count(&r.ended[REASON_FULL], 1)
            close(fd)
            continue
        if admit(r, listener, link, fd) != 0:
            gw_count(&r.ended[REASON_MEMORY], 1)
            gw_count(&r.tls_failed[TLS_FAILED_MEMORY], 1)
            slab_give(&r.slab, link)
            close(fd)
            continue
        gw_count(&r.counters[C_LINKS], 1)
        link.timer.kind = TIMER_LINK
        link.seen = r.now
        wheel_arm(&r.wheel, &link.timer, r.now + r.set.login_ticks)
        watch(r, link, EPOLLIN, EPOLL_CTL_ADD)


# --- before the first frame ------------------------------------------------------------------------------------------

cdef void refuse_proxy(reactor_t *r, link_t *link, long failure) noexcept nogil:
    gw_count(&r.proxy_failed[failure], 1)
    link_down(r, link, REASON_PROXY, NULL)


cdef void read_proxy(reactor_t *r, link_t *link) noexcept nogil:
    """Takes exactly the header from the socket, nothing of what is behind it.

    Who the client is, is counted by kind of address and then forgotten: no limit of ours goes by address, and what is
    not kept can not leak. A limit of that kind would stand here, where proxy_t has it.
    """
    cdef partial_t *partial = link.partial
    cdef proxy_t found
    cdef size_t wants
    cdef ssize_t got
    cdef long used
    if partial == NULL:
        partial = <partial_t *>malloc(sizeof(partial_t) + PROXY_BYTES_MAX)
        if partial == NULL:
            refuse_proxy(r, link, PROXY_MEMORY)
            return
        partial.size = 0
        partial.capacity = PROXY_BYTES_MAX
        link.partial = partial
    while True:
        wants = proxy_wants(partial.data, partial.size)
        if wants > partial.capacity - partial.size:
            refuse_proxy(r, link, PROXY_TOO_LARGE)      # can not be: the parser has refused it
            return
        if wants:
            got = recv(link.fd, partial.data + partial.size, wants, MSG_DONTWAIT)
            if got < 0 and (errno == EAGAIN or errno == EINTR):
                return
            if got <= 0:
                refuse_proxy(r, link, PROXY_CLOSED)
                link_free(r, link)
                return
            partial.size += <uint32_t>got
        used = proxy_parse(partial.data, partial.size, &found)
        if used < 0:
            refuse_proxy(r, link, -used)
            return
        if used > 0:
            break
    free(partial)
    link.partial = NULL
    gw_count(&r.proxied[found.kind], 1)
    link.state = LINK_NEW


cdef void refuse_tls(reactor_t *r, link_t *link, uint8_t failure) noexcept nogil:
    gw_count(&r.tls_failed[failure], 1)
    link_down(r, link, REASON_TLS, NULL)


cdef void shake(reactor_t *r, link_t *link) noexcept nogil:
    cdef tls_t *t = tls_of(r, link)
    cdef int done
    if r.shakes >= SHAKES_A_TURN:
        return      # level-triggered: it comes again
    r.shakes += 1
    done = tls_shake(&r.tls, t)
    if done == TLS_WANT_WRITE:
        if not t.wants_write:
            t.wants_write = 1
            watch(r, link, EPOLLOUT, EPOLL_CTL_MOD)
        return
    if t.wants_write:
        t.wants_write = 0
        watch(r, link, EPOLLIN, EPOLL_CTL_MOD)
    if done == TLS_WANT_READ:
        return
    if done != 1:
        refuse_tls(r, link, t.failure)
        if done == TLS_SOCKET:
            link_free(r, link)
        return
    gw_count(&r.counters[C_TLS_RESUMED if t.is_resumed else C_TLS_FULL], 1)
    link.state = LINK_NEW


cdef void greet(reactor_t *r, link_t *link) noexcept nogil:
    if link.state == LINK_PROXY:
        read_proxy(r, link)
    else:
        shake(r, link)
    if link.state == LINK_NEW:
        link_readable(r, link)      # HELLO came in the same segment, mostly


cdef void greet_timeout(reactor_t *r, link_t *link) noexcept nogil:
    if link.state == LINK_PROXY:
        refuse_proxy(r, link, PROXY_TIMEOUT)
    else:
        refuse_tls(r, link, TLS_FAILED_TIMEOUT)
