"""TLS of one connection: OpenSSL's SSL over a non-blocking socket of the reactor that owns it.

Knows sockets and bytes, no frames and no links. Nothing here waits, takes the GIL or raises; every SSL belongs to one
thread, the SSL_CTX they were made of is shared and counted (SSL_CTX_up_ref is atomic).
"""
from libc.stdint cimport uint8_t, uint32_t
from gateway._native.tls_state cimport SSL_CTX, tls_links_t, tls_t

# A place for an accepted socket, -1 without memory.
cdef long tls_take(tls_links_t *links, int fd) noexcept nogil
cdef tls_t *tls_at(const tls_links_t *links, uint32_t place) noexcept nogil
# close_notify where nothing keeps it from being sent, then SSL and socket are gone.
cdef void tls_give(tls_links_t *links, uint32_t place) noexcept nogil
cdef void tls_links_free(tls_links_t *links) noexcept nogil
# New handshakes take this one; the reference is the table's now.
cdef void tls_use(tls_links_t *links, SSL_CTX *context) noexcept nogil
cdef void tls_context_drop(SSL_CTX *context) noexcept nogil
# One step of the handshake: 1 it is done, or a result above.
cdef int tls_shake(tls_links_t *links, tls_t *t) noexcept nogil
# At most RECORD_BYTES a call, which `into` must have room for. Nothing whole that was received waits anywhere but in
# the socket then; so epoll, which is level-triggered, tells of all that waits.
cdef long tls_read(tls_links_t *links, tls_t *t, uint8_t *into) noexcept nogil
# One record; its content lies at links.wire + RECORD_HEAD_BYTES. Content bytes that are out, or a result above; after
# TLS_WANT_WRITE the next call must begin with the same bytes.
cdef long tls_write(tls_links_t *links, tls_t *t, int n) noexcept nogil
# Orderly end of what we send. 1: it is out, or can not be sent; 0: the socket is full, again when it takes bytes.
cdef int tls_finish(tls_links_t *links, tls_t *t) noexcept nogil

cdef tuple tls_failures()       # names of TLS_FAILED_*
