"""Fan-out: one pass over the members of some groups for one or more frames, a slice a turn. One owner thread."""
from libc.stdint cimport uint32_t
from gateway._native.plane cimport command_t, fan_t, reactor_t

cdef int fan_add(reactor_t *r, const command_t *c, const uint32_t *groups) noexcept nogil
cdef void fan_step(reactor_t *r) noexcept nogil
cdef void fan_drop(fan_t *fan) noexcept nogil
