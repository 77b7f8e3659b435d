"""The data plane's thread as a Python object; see reactor.pyx."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from gateway._native.plane cimport reactor_t

cdef class Reactor:
    cdef reactor_t *r
    cdef readonly int index
    cdef readonly int event_fd      # readable when `drain` has something
    cdef int down_fd
    cdef int trust(self, list proxies) except -1
    cdef bint put(self, uint16_t kind, uint64_t link, uint64_t seq, uint32_t registration, uint32_t ms, uint32_t count,
                  uint8_t flag, bytes frame)
