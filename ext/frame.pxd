"""Device frames: type byte, LEB128 length, msgpack body (docs/frames.md). Touches no socket and no clock."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    FRAME_NEED_MORE = 0
    FRAME_MALFORMED = -1
    FRAME_TOO_LARGE = -2

cdef enum:
    FRAME_PING = 0x01
    FRAME_PONG = 0x02
    FRAME_HELLO = 0x03
    FRAME_ACK = 0x09
    FRAME_SHOWN = 0x0A
    FRAME_WHOLE = 0x12

cdef enum:
    IDS_MAX = 1024      # ids in one ACK, WHOLE or SHOWN

cdef struct frame_t:
    uint8_t kind
    uint32_t size           # of the body, bytes
    const uint8_t *body     # inside the caller's buffer

# Bytes consumed (> 0), FRAME_NEED_MORE, FRAME_MALFORMED or FRAME_TOO_LARGE (said as soon as the length is known).
cdef long frame_parse(const uint8_t *buf, size_t n, uint32_t max_body, frame_t *out) noexcept nogil
# Ids of an ACK, WHOLE or SHOWN body: how many, or FRAME_MALFORMED. `out` holds IDS_MAX.
cdef int ids_parse(const uint8_t *body, uint32_t size, uint64_t *out) noexcept nogil
