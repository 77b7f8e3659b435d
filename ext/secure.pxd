"""Links whose bytes go through TLS, seen as sockets: read, flush, close. One owner thread.

A link of the plain port has its socket in `fd`. One of the TLS port has its place in the reactor's table there, negated
(see `place_of`), so that a plain link does not grow by what only the others need.
"""
from libc.stdint cimport uint32_t
from gateway._native.link cimport link_t
from gateway._native.plane cimport reactor_t
from gateway._native.tls_state cimport tls_t

cdef enum:
    SECURE_SOCKET = -1              # the socket is broken
    SECURE_BROKEN = -2              # the peer broke the protocol
    SECURE_AGAIN = -3               # nothing for now

cdef tls_t *tls_of(const reactor_t *r, const link_t *link) noexcept nogil
cdef int socket_of(const reactor_t *r, const link_t *link) noexcept nogil
# A place for the socket; -1 without memory.
cdef int secure_open(reactor_t *r, link_t *link, int fd) noexcept nogil
cdef void secure_close(reactor_t *r, link_t *link) noexcept nogil
# Bytes read into the scratch buffer, 0 at the end of the stream, or one of the above.
cdef ssize_t secure_read(reactor_t *r, link_t *link) noexcept nogil
# As outbox_flush.
cdef long secure_flush(reactor_t *r, link_t *link) noexcept nogil
