"""TLS of one connection: OpenSSL's SSL over a non-blocking socket of the reactor that owns it.

Knows sockets and bytes, no frames and no links. Nothing here waits, takes the GIL or raises; every SSL belongs to one
thread, the SSL_CTX they were made of is shared and counted (SSL_CTX_up_ref is atomic).
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct SSL:
        pass

cdef enum:
    RECORD_BYTES = 16384            # most plaintext in one record (RFC 8446 section 5.1)
    SHAKE_BYTES_MAX = 32768         # most that is read for one handshake: certificates of a client are what is large

cdef enum:                          # why a handshake or a connection failed; names in TLS_FAILURES
    TLS_FAILED_TIMEOUT = 0          # not done inside the login deadline
    TLS_FAILED_CLOSED = 1           # the peer left in the middle of it
    TLS_FAILED_SOCKET = 2
    TLS_FAILED_NOT_TLS = 3          # what came is no TLS record
    TLS_FAILED_VERSION = 4          # no version both speak
    TLS_FAILED_CIPHER = 5           # no cipher, group or signature both know
    TLS_FAILED_ALPN = 6             # offers protocols, and ours is not among them
    TLS_FAILED_NO_CERTIFICATE = 7   # a certificate is required and none came
    TLS_FAILED_CERTIFICATE = 8      # its certificate is not signed by the client CA, or is out of date
    TLS_FAILED_REFUSED = 9          # the peer sent an alert: it did not like our certificate, mostly
    TLS_FAILED_TOO_LARGE = 10       # more than SHAKE_BYTES_MAX
    TLS_FAILED_PROTOCOL = 11        # anything else in the handshake
    TLS_FAILED_RECORD = 12          # after it: a record that can not be opened, renegotiation
    TLS_FAILED_MEMORY = 13
    TLS_FAILED_COUNT = 14

cdef enum:                          # results of tls_shake, tls_read, tls_write; bytes are above 0
    TLS_END = 0                     # close_notify, or the end of the stream
    TLS_WANT_READ = -1
    TLS_WANT_WRITE = -2
    TLS_SOCKET = -3                 # the socket is broken
    TLS_BROKEN = -4                 # the peer broke the protocol; an alert was sent

cdef struct tls_t:
    SSL *ssl                        # NULL until the first byte came: who only connects costs no SSL
    int fd                          # -1: this place is free
    uint32_t next                   # 1 + next free place
    uint32_t shake_bytes            # read for the handshake
    uint8_t failure                 # why, once TLS_BROKEN or TLS_SOCKET was returned
    uint8_t is_over                 # nothing may be written any more
    uint8_t wants_write             # reading waits until the socket takes bytes
    uint8_t moved                   # bytes went into the socket since the flag was cleared
    uint8_t ended                   # the stream from the peer is at its end

cdef struct tls_links_t:            # connections of one reactor
    SSL_CTX *context                # of new handshakes; NULL: none
    tls_t **chunks
    uint32_t chunk_count
    uint32_t size                   # places ever handed out
    uint32_t free                   # 1 + first free place, 0: none
    uint32_t used

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
cdef int tls_is_resumed(const tls_t *t) noexcept nogil
# At most one record (RECORD_BYTES) a call. Nothing that was received is left inside of SSL then, for it reads record by
# record; so epoll, which is level-triggered, tells of all that waits.
cdef long tls_read(tls_t *t, uint8_t *into, int room) noexcept nogil
# One record of up to RECORD_BYTES. After TLS_WANT_WRITE the next call must begin with the same bytes.
cdef long tls_write(tls_t *t, const uint8_t *data, int n) noexcept nogil
# Orderly end of what we send. 1: it is out, or can not be sent; 0: the socket is full, again when it takes bytes.
cdef int tls_finish(tls_t *t) noexcept nogil

cdef tuple tls_failures()       # names of TLS_FAILED_*

cdef class TlsContext:
    cdef SSL_CTX *context
    # one more reference, for a reactor
    cdef SSL_CTX *share(self) noexcept
