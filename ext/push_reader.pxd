"""A directed push as it is packed, read where it lies. No thread's in particular."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "gw_msgpack.h" nogil:
    ctypedef struct gw_reader_t:
        const uint8_t *p
        const uint8_t *end

cdef struct push_t:
    const uint8_t *raw              # where it begins in the batch
    const uint8_t *title
    const uint8_t *text
    const uint8_t *data
    uint64_t link
    uint32_t raw_bytes
    uint32_t title_bytes
    uint32_t text_bytes
    uint32_t data_bytes
    uint32_t ttl_s
    int32_t number                  # registration
    int32_t place                   # ≥ 0: in the order of those ready; else see above
    uint8_t urgency
    uint8_t token[16]

# True where the push is plain: a token, and nothing but title, text, data, ttl and urgency within their bounds; the
# reader stands anywhere after False. Whether its body fits inline is the caller's to see.
cdef bint read_push(gw_reader_t *r, push_t *push, int64_t most_ttl) noexcept nogil
