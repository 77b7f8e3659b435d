"""Mailbox: one direction between a reactor and the control thread (include/gw_ring.h)."""
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "gw_ring.h" nogil:
    ctypedef struct gw_ring_t:
        void *buf
        uint64_t head_seen
        uint64_t tail_next
        uint64_t capacity
        int event_fd
    int gw_ring_init(gw_ring_t *r, uint64_t capacity, int event_fd)
    void gw_ring_free(gw_ring_t *r)
    uint64_t gw_ring_room(gw_ring_t *r)
    void *gw_ring_reserve(gw_ring_t *r, uint32_t size)
    void gw_ring_publish(gw_ring_t *r)
    void *gw_ring_peek(gw_ring_t *r, uint32_t *size)
    void gw_ring_pop(gw_ring_t *r, uint32_t size)
    int gw_ring_sleep(gw_ring_t *r)
