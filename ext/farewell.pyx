"""Which frame a link is sent away with, where there are several: each names another node, and they take turns, so that
no node gets more than its share of any stretch of links."""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from gateway._native.outbox cimport gw_buffer_drop, gw_buffer_new


cdef farewell_t *farewell_new(list frames, bytes turns) except NULL:
    cdef farewell_t *farewell
    cdef bytes frame
    if not 0 < len(frames) <= FAREWELL_FRAMES_MAX or not 0 < len(turns) <= FAREWELL_TURNS_MAX:
        raise ValueError(
            f"a farewell has 1 to {FAREWELL_FRAMES_MAX} frames, and an order of at most {FAREWELL_TURNS_MAX} of them")
    if max(turns) >= len(frames):
        raise ValueError("the order of a farewell names a frame that is not there")
    farewell = <farewell_t *>calloc(1, sizeof(farewell_t))
    if farewell == NULL:
        raise MemoryError
    try:
        for frame in frames:
            farewell.frame[farewell.frames] = gw_buffer_new(
                <const uint8_t *><const char *>frame, <uint32_t>len(frame))
            if farewell.frame[farewell.frames] == NULL:
                raise MemoryError
            farewell.frames += 1
    except BaseException:
        farewell_free(farewell)
        raise
    farewell.turns = <uint32_t>len(turns)
    memcpy(farewell.turn, <const char *>turns, farewell.turns)
    return farewell


cdef gw_buffer_t *farewell_next(farewell_t *farewell) noexcept nogil:
    cdef gw_buffer_t *frame = farewell.frame[farewell.turn[farewell.at]]
    farewell.at += 1
    if farewell.at == farewell.turns:
        farewell.at = 0
    return frame


cdef void farewell_free(farewell_t *farewell) noexcept nogil:
    cdef uint32_t i
    if farewell == NULL:
        return
    for i in range(farewell.frames):
        gw_buffer_drop(farewell.frame[i])
    free(farewell)
