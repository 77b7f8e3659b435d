"""Deliveries not settled yet: by sequence, by registration, and by time. One owner thread."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from gateway._native.wheel cimport wheel_node_t, wheel_t

cdef enum:
    PENDING_CHUNK = 1024            # rows
    PENDING_NONE = 0xFFFFFFFF       # ends a chain or a list
    PENDING_TICK_MS = 100

cdef enum:
    PENDING_OK = 0
    PENDING_NO_MEMORY = -1
    PENDING_TAKEN = -2              # the sequence is there already

cdef enum:                          # flags
    PENDING_BATCHED = 1             # accepted in a batch: ext/batches.pyx has the rest
    PENDING_PLAIN = 2               # nothing happened to it but its first send, so its ack needs no history

cdef extern from "gw_pending.h" nogil:
    ctypedef struct gw_seqs_t:
        uint64_t count
        uint64_t bytes
    ctypedef struct gw_chains_t:
        uint64_t count
        uint64_t bytes

cdef struct pending_row_t:
    wheel_node_t node           # first: a node's address is its row's
    uint64_t seq
    uint64_t notification       # its notification's sequence
    uint32_t registration
    uint32_t expires_s          # Unix seconds
    uint32_t collapse           # hash of the collapse key, 0: none; of a row of a batch the batch's slot
    uint32_t next               # same registration, higher sequence; in a free row: the next free one of the chunk
    uint32_t prev               # same registration, lower sequence
    uint8_t state
    uint8_t hop
    uint8_t far                 # the timer stands for an expiry beyond the wheel's horizon
    uint8_t flags

cdef struct pending_chunk_t:
    pending_row_t *rows         # NULL: this place is vacant
    uint32_t used
    uint32_t free               # first free row
    uint32_t next               # in the ring of chunks with a free row; next vacant place
    uint32_t prev

cdef struct pending_t:
    wheel_t wheel
    gw_seqs_t seqs
    gw_chains_t chains
    pending_chunk_t *chunks
    uint32_t places             # of chunks, used or vacant
    uint32_t roomy              # chunk to take rows from; the list is a ring
    uint32_t vacant             # first vacant place
    uint64_t start_ms           # tick 0, Unix ms
    uint64_t tick               # last tick advanced to; the wheel has its low 32 bits
    uint64_t bytes              # requested from malloc for chunks and their places

cdef void pending_init(pending_t *p, uint64_t now_ms) noexcept nogil
cdef void pending_free(pending_t *p) noexcept nogil
cdef void pending_prefetch(const pending_t *p, uint64_t seq) noexcept nogil
cdef void pending_prefetch_of(const pending_t *p, uint32_t registration) noexcept nogil
cdef void pending_prefetch_last(const pending_t *p, uint32_t registration) noexcept nogil
# `added` (or NULL) gets the row, which stays where it is until it is removed.
cdef int pending_add(pending_t *p, const pending_row_t *like, pending_row_t **added) noexcept nogil
# NULL where there is none; good until the row is removed.
cdef pending_row_t *pending_get(const pending_t *p, uint64_t seq) noexcept nogil
cdef bint pending_remove(pending_t *p, uint64_t seq) noexcept nogil
cdef uint32_t pending_count_of(const pending_t *p, uint32_t registration) noexcept nogil
# First row of a registration's chain, and the one after a row; NULL at the end.
cdef pending_row_t *pending_first(const pending_t *p, uint32_t registration) noexcept nogil
cdef pending_row_t *pending_after(const pending_t *p, const pending_row_t *row) noexcept nogil
cdef void pending_arm(pending_t *p, pending_row_t *row, uint64_t at_ms) noexcept nogil
cdef void pending_advance(pending_t *p, uint64_t now_ms) noexcept nogil
# Next row whose timer fired, its timer armed again already; NULL when no more are due.
cdef pending_row_t *pending_pop(pending_t *p) noexcept nogil
cdef uint64_t pending_bytes(const pending_t *p) noexcept nogil

cdef class Pending:
    cdef pending_t *p
