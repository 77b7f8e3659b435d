"""PROXY protocol, version 2: what a load balancer says of a connection before its first byte. Sans-IO.

Source: haproxy, doc/proxy-protocol.txt, section 2.2 and 2.3. Version 1 (text) is not spoken.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    PROXY_START_BYTES = 16          # signature, version and command, family, length
    PROXY_BYTES_MAX = 536           # of a whole header: what any TCP segment holds (section 2.2)

cdef enum:                          # kinds of headers; names in PROXY_KINDS
    PROXY_LOCAL = 0                 # the balancer speaks for itself: a health check
    PROXY_UNSPEC = 1                # it does not know for whom
    PROXY_IPV4 = 2
    PROXY_IPV6 = 3
    PROXY_UNIX = 4
    PROXY_KINDS_COUNT = 5

cdef enum:                          # why one was refused; names in PROXY_FAILURES. The parser returns them negative
    PROXY_NEED_MORE = 0
    PROXY_BAD_SIGNATURE = 1
    PROXY_BAD_VERSION = 2
    PROXY_BAD_COMMAND = 3
    PROXY_BAD_FAMILY = 4            # not a stream, or not known
    PROXY_TOO_SHORT = 5             # less than its family's addresses take
    PROXY_TOO_LARGE = 6
    PROXY_BAD_TLV = 7               # cut short, or its checksum is wrong
    PROXY_UNTRUSTED = 8             # the peer may not speak for others
    PROXY_TIMEOUT = 9
    PROXY_CLOSED = 10               # it left before its header was whole
    PROXY_MEMORY = 11
    PROXY_FAILURES_COUNT = 12

cdef struct proxy_t:
    uint8_t kind
    uint16_t port                   # of the client
    uint8_t address[16]             # of the client, IPv4 as ::ffff:a.b.c.d; zeros where it has none

cdef struct network_t:              # who may speak
    uint8_t address[16]             # IPv4 as ::ffff:a.b.c.d
    uint32_t bits                   # of it that count, 0 to 128

# Bytes of the whole header, PROXY_NEED_MORE, or -PROXY_BAD_… as soon as it is certain.
cdef long proxy_parse(const uint8_t *p, size_t n, proxy_t *out) noexcept nogil
# How many bytes to read next, so that none behind the header is taken; 0 where it is whole.
cdef size_t proxy_wants(const uint8_t *p, size_t n) noexcept nogil
cdef tuple proxy_failures()     # names of PROXY_BAD_* and on
cdef tuple proxy_kinds()
cdef int is_in_networks(const uint8_t *address, const network_t *networks, uint32_t count) noexcept nogil
