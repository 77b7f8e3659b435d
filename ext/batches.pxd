"""Live batches: what became of the deliveries that were accepted together. One owner thread."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from gateway._native.pending cimport pending_t

cdef extern from "gw_batch.h" nogil:
    enum: GW_BATCH_KIND, GW_BATCH_VERSION, GW_SETTLED_SHOWN, GW_SETTLED_APART, GW_SETTLED_UNDONE
    enum: GW_PART, GW_BATCH_MOST
    ctypedef struct gw_batch_head_t:
        uint8_t kind
        uint8_t version
        uint32_t app
        uint32_t count
        uint64_t accepted_ms
        uint32_t ack_ms
        uint32_t notifier_ack_ms
        uint32_t bytes
    ctypedef struct gw_batch_item_t:
        uint8_t token[16]
        uint32_t registration
        uint32_t expires_s
        uint32_t at
        uint32_t title_bytes
        uint32_t text_bytes
        uint32_t data_bytes
        uint8_t urgency
    ctypedef struct gw_settled_t:
        uint64_t at_ms
        uint32_t took_ms
        uint8_t state
        uint8_t flags

cdef enum:                          # flags
    BATCH_USED = 1
    BATCH_CHANGED = 2               # in the list of changed ones

cdef enum:
    STATE_SENT = 1                  # model.outcome.State
    STATE_WAITING = 3
    STATE_ACKED = 16

cdef struct batch_t:
    uint64_t first                  # sequence of its first delivery
    uint64_t parts                  # with news: bit i stands for the records from i * GW_PART on
    gw_settled_t *records           # settled and not durable yet; NULL: none
    uint32_t count
    uint32_t outstanding            # deliveries not settled
    uint32_t app
    uint32_t next                   # changed or free one: slot + 1
    uint32_t flags

cdef struct feed_t:                 # settled deliveries of one app, in order, for its receipts
    uint64_t *seqs                  # big-endian
    uint32_t size
    uint32_t capacity
    uint32_t next                   # app with some: number + 1

cdef struct batches_t:
    pending_t *pending
    batch_t *items
    uint32_t capacity
    uint32_t used
    uint32_t free                   # slot + 1
    uint32_t changed                # slot + 1
    feed_t *feeds                   # by app number
    uint32_t feeds_capacity
    uint32_t fed                    # app number + 1
    uint64_t acked                  # settled here since last asked
    uint64_t bytes                  # of records

# Slot, or -1 without memory. At most GW_BATCH_MOST deliveries.
cdef long batches_open(batches_t *b, uint64_t first, uint32_t count, uint32_t app) noexcept nogil
cdef void batches_close(batches_t *b, uint32_t slot) noexcept nogil
# An ack of a delivery to which nothing happened but its first send: settled here. 0: the control plane has to look.
cdef bint batches_ack(batches_t *b, uint64_t seq, uint32_t registration, uint64_t sent_ms, uint64_t acked_ms,
                      bint shown) noexcept nogil

cdef class Batches:
    cdef batches_t b
    cdef object pending
    cdef batch_t *at(self, uint32_t slot) except NULL
