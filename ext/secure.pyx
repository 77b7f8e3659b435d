"""Links whose bytes go through TLS: their frames are gathered into records, and what OpenSSL answers becomes what the
system calls of a plain link would; see secure.pxd."""
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t
from gateway._native.link cimport LINK_CLOSING, link_t
from gateway._native.outbox cimport outbox_drop, outbox_gather
from gateway._native.plane cimport *
from gateway._native.records cimport RECORD_BYTES, RECORD_HEAD_BYTES
from gateway._native.tls cimport tls_at, tls_give, tls_read, tls_take, tls_write
from gateway._native.tls_state cimport TLS_SOCKET, TLS_WANT_READ, TLS_WANT_WRITE, tls_t

cdef extern from "gw_atomic.h" nogil:
    void gw_count(uint64_t *c, uint64_t n)

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *buf, size_t n, int flags)
    enum: MSG_DONTWAIT


cdef inline uint32_t place_of(const link_t *link) noexcept nogil:
    return <uint32_t>(-2 - link.fd)     # -1 is no socket at all


cdef tls_t *tls_of(const reactor_t *r, const link_t *link) noexcept nogil:
    return tls_at(&r.tls, place_of(link))


cdef int socket_of(const reactor_t *r, const link_t *link) noexcept nogil:
    return link.fd if link.fd >= 0 else tls_of(r, link).fd


cdef int secure_open(reactor_t *r, link_t *link, int fd) noexcept nogil:
    cdef long place = tls_take(&r.tls, fd)
    if place < 0:
        return -1
    link.fd = <int>(-2 - place)
    gw_count(&r.counters[C_TLS_LINKS], 1)
    return 0


cdef void secure_close(reactor_t *r, link_t *link) noexcept nogil:
    tls_give(&r.tls, place_of(link))
    gw_count(&r.counters[C_TLS_LINKS], <uint64_t>-1)


cdef ssize_t secure_read(reactor_t *r, link_t *link) noexcept nogil:
    cdef tls_t *t = tls_of(r, link)
    cdef long got
    if link.state == LINK_CLOSING:
        # Only read so that closing does not reset the connection; what it says does not matter any more.
        got = recv(t.fd, r.scratch, SCRATCH_BYTES, MSG_DONTWAIT)
        return SECURE_AGAIN if got < 0 and (errno == EAGAIN or errno == EINTR) else got
    got = tls_read(&r.tls, t, r.scratch)
    if got >= 0:
        return got
    if got == TLS_WANT_READ:
        return SECURE_AGAIN
    if got == TLS_WANT_WRITE:
        t.wants_write = 1       # the caller sees to it that it is not asked again before that
        return SECURE_AGAIN
    if got == TLS_SOCKET:
        return SECURE_SOCKET
    gw_count(&r.tls_failed[t.failure], 1)
    return SECURE_BROKEN


cdef long secure_flush(reactor_t *r, link_t *link) noexcept nogil:
    """Frames that wait leave in records of up to RECORD_BYTES. A record that the socket did not take whole waits
    sealed, and its frames stay in the outbox until it is out: so the outbox alone says whether something waits."""
    cdef tls_t *t = tls_of(r, link)
    cdef uint32_t n
    cdef long sent, total = 0
    t.moved = 0
    while link.outbox.tail != NULL:
        n = outbox_gather(&link.outbox, r.tls.wire + RECORD_HEAD_BYTES, RECORD_BYTES)
        sent = tls_write(&r.tls, t, <int>n)
        if sent == TLS_WANT_WRITE or sent == TLS_WANT_READ:
            break       # TLS_WANT_READ: the next read writes on
        if sent <= 0:
            return -1
        outbox_drop(&link.outbox, &r.nodes, <uint32_t>sent)
        total += sent
    if t.moved:
        link.stalled_at = r.now     # a part of a record is progress too
    return total
