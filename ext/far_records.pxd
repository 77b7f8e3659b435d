"""Records between nodes of a fleet, collected natively. Control thread only."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "gw_far.h" nogil:
    enum:
        GW_FAR_NOTIFY
        GW_FAR_ACK
        GW_FAR_REACTOR
    ctypedef struct gw_far_record_t:
        uint8_t kind
        uint8_t flag
        uint32_t number
        uint32_t local
        uint32_t size
        uint64_t attachment
        uint64_t seq
        uint64_t a
        uint64_t b
    ctypedef struct gw_pile_t:
        uint8_t *data
        size_t size
        size_t capacity
        uint32_t key
    ctypedef struct gw_piles_t:
        gw_pile_t *items
        uint32_t count
        uint32_t last
    uint64_t gw_attachment(uint64_t link)
    int gw_pile_add(gw_piles_t *p, uint32_t key, const gw_far_record_t *record, const void *payload)
    void gw_piles_free(gw_piles_t *p)

cdef class FarSink:
    cdef gw_piles_t piles           # by node
    cdef uint32_t *locals           # by registration: its number at its node
    cdef uint32_t capacity
    cdef uint64_t *seqs             # of what was added since the last take
    cdef uint32_t *numbers
    cdef uint32_t count
    cdef uint32_t room
    cdef object news
    cdef bint notify(self, uint64_t link, uint64_t seq, uint32_t number, uint32_t ack_ms, const uint8_t *frame,
                     uint32_t size) noexcept nogil

cdef class HomeTable:
    cdef uint16_t *partitions       # by local number
    cdef uint32_t *numbers
    cdef readonly uint32_t count
    cdef uint32_t capacity
    cdef gw_piles_t acks            # by partition
    cdef uint32_t waiting           # acks in them
    cdef public object news
    cdef int check(self, uint32_t local) except -1
    cdef bint put_ack(self, uint32_t local, uint64_t link, uint64_t seq, uint64_t sent_ms, uint64_t acked_ms,
                      uint8_t flags) noexcept nogil
    cdef int say_news(self) except -1
