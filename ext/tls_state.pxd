"""What a TLS connection is made of, and how its steps end. Declarations only.

A connection of TLS 1.3 has its SSL for the handshake alone; then it is light: two keys and two counters (records.pxd).
One of TLS 1.2 keeps its SSL, which is some 13 kB.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from gateway._native.records cimport ciphers_t, keys_t

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct SSL:
        pass

cdef enum:
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
    TLS_FAILED_BUSY = 14            # as many handshakes as may be were under way
    TLS_FAILED_COUNT = 15

cdef enum:                          # results of tls_shake, tls_read, tls_write; bytes are above 0
    TLS_END = 0                     # close_notify, or the end of the stream
    TLS_WANT_READ = -1
    TLS_WANT_WRITE = -2
    TLS_SOCKET = -3                 # the socket is broken
    TLS_BROKEN = -4                 # the peer broke the protocol; an alert was sent

cdef struct chunk_t:                # bytes of a record that is not whole yet, or not out yet
    uint32_t size
    uint32_t at                     # of them sent
    uint32_t capacity               # bytes it will have
    uint32_t plain                  # content of a record that is not out yet
    uint8_t data[1]

cdef struct tls_t:
    SSL *ssl                        # NULL until the first byte came: who only connects costs no SSL; and once light
    int fd                          # -1: this place is free
    uint32_t next                   # 1 + next free place
    uint32_t shake_bytes            # read for the handshake
    uint8_t failure                 # why, once TLS_BROKEN or TLS_SOCKET was returned
    uint8_t is_over                 # nothing may be written any more
    uint8_t wants_write             # reading waits until the socket takes bytes
    uint8_t moved                   # bytes went into the socket since the flag was cleared
    uint8_t ended                   # the stream from the peer is at its end
    uint8_t is_shaking              # counted in `shaking`
    uint8_t is_light
    uint8_t is_resumed
    uint8_t secrets                 # 1: `incoming` has its secret, 2: `outgoing` has
    uint8_t records_out             # begun since the last byte came: tickets, once the client is finished
    uint8_t head_at                 # bytes of a record's header that have passed
    uint16_t body_left              # bytes of its body that have not
    uint8_t owes_update             # KeyUpdate goes before the next record
    uint8_t notified                # close_notify was sealed
    keys_t incoming                 # of a light connection
    keys_t outgoing
    chunk_t *held                   # begins with a header; NULL where nothing is held
    chunk_t *unsent

cdef struct tls_links_t:            # connections of one reactor
    SSL_CTX *context                # of new handshakes; NULL: none
    tls_t **chunks
    uint32_t chunk_count
    uint32_t size                   # places ever handed out
    uint32_t free                   # 1 + first free place, 0: none
    uint32_t used
    uint32_t shaking                # handshakes under way, each with an SSL
    uint32_t shaking_max
    uint32_t shaking_peak           # since there was none
    ciphers_t ciphers
    uint8_t *wire                   # RECORD_WIRE_MAX bytes: the record that is opened or sealed just now
