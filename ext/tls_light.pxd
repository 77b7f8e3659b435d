"""Connections of TLS 1.3 after their handshake: records over a non-blocking socket, without an SSL.

As in the kernel's TLS: OpenSSL has agreed on the keys and is gone. Nothing here waits, takes the GIL or raises; results
are those of tls_state.pxd.
"""
from libc.stdint cimport uint8_t
from gateway._native.tls_state cimport tls_links_t, tls_t

cdef long light_read(tls_links_t *links, tls_t *t, uint8_t *into) noexcept nogil
cdef long light_write(tls_links_t *links, tls_t *t, int n) noexcept nogil
cdef int light_finish(tls_links_t *links, tls_t *t) noexcept nogil
