"""Timing wheel: hierarchical, intrusive nodes, O(1) arm and cancel, no allocation. One owner thread."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    WHEEL_LEVELS = 4
    WHEEL_SLOTS = 256
    WHEEL_DUE = 0xFFFF

cdef struct wheel_node_t:
    wheel_node_t *next      # NULL while not armed
    wheel_node_t *prev
    uint32_t at             # tick it fires at
    uint16_t kind           # the owner's mark: which struct holds this node
    uint16_t where          # level << 8 | slot while armed, WHEEL_DUE in the due list

cdef struct wheel_t:
    wheel_node_t slots[4][256]      # list heads
    uint64_t bits[4][4]             # which slots are not empty
    wheel_node_t due                # expired, not popped yet
    uint32_t now                    # last tick advanced to
    uint64_t armed

cdef void wheel_init(wheel_t *w, uint32_t now) noexcept nogil
cdef void wheel_arm(wheel_t *w, wheel_node_t *node, uint32_t at) noexcept nogil
cdef void wheel_cancel(wheel_t *w, wheel_node_t *node) noexcept nogil
cdef void wheel_advance(wheel_t *w, uint32_t now) noexcept nogil
# Next expired node, no longer armed, or NULL; the owner may arm or cancel any node between two pops.
cdef wheel_node_t *wheel_pop(wheel_t *w) noexcept nogil
# Ticks one may sleep without missing an expiry, at least 1; 0 when something is due; UINT32_MAX when nothing is armed.
cdef uint32_t wheel_next(const wheel_t *w) noexcept nogil
