"""What new handshakes are made with: certificates, names, versions, who may come; see tls_context.pyx."""
from gateway._native.tls_state cimport SSL, SSL_CTX

cdef class TlsContext:
    cdef SSL_CTX *context
    # one more reference, for a reactor
    cdef SSL_CTX *share(self) noexcept
