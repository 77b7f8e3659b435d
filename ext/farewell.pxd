"""Farewells: what links that are sent away are told, several frames in turn. One owner thread."""
from libc.stdint cimport uint8_t, uint32_t
from gateway._native.outbox cimport gw_buffer_t

cdef enum:
    FAREWELL_FRAMES_MAX = 64        # different frames: nodes that devices are sent to
    FAREWELL_TURNS_MAX = 1024       # length of the order in which they are given

cdef struct farewell_t:
    uint32_t frames
    uint32_t turns
    uint32_t at                     # whose turn it is; counted on over links
    gw_buffer_t *frame[FAREWELL_FRAMES_MAX]
    uint8_t turn[FAREWELL_TURNS_MAX]    # places in `frame`

# NULL with an exception set: no memory, or an order that names no frame of these. Needs the GIL.
cdef farewell_t *farewell_new(list frames, bytes turns) except NULL
# The next frame; it stays the farewell's.
cdef gw_buffer_t *farewell_next(farewell_t *farewell) noexcept nogil
cdef void farewell_free(farewell_t *farewell) noexcept nogil
