"""Outbox: frames one link still has to send, in order; leaves in one writev. One owner thread."""
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "gw_buffer.h" nogil:
    ctypedef struct gw_buffer_t:
        uint32_t refs
        uint32_t size
        unsigned char data[1]
    gw_buffer_t *gw_buffer_new(const unsigned char *data, uint32_t size)
    void gw_buffer_take(gw_buffer_t *b)
    void gw_buffer_drop(gw_buffer_t *b)

cdef struct outbox_node_t:
    gw_buffer_t *buffer
    outbox_node_t *next

# Nodes not in use, shared by all outboxes of a reactor.
cdef struct outbox_pool_t:
    outbox_node_t *free
    void *chunks            # every chunk ever taken, linked, for freeing at the end
    uint64_t nodes

cdef struct outbox_t:
    outbox_node_t *tail     # its next is the head: a ring, so that an idle link pays for one pointer
    uint32_t bytes          # not sent yet
    uint32_t offset         # sent already of the head's buffer

cdef void outbox_pool_free(outbox_pool_t *pool) noexcept nogil
# 0, or -1 without memory. Takes its own reference of the buffer.
cdef int outbox_push(outbox_t *box, outbox_pool_t *pool, gw_buffer_t *buffer) noexcept nogil
# Bytes written now (the box may be empty after), 0 when the socket is full, -1 when it is broken.
cdef long outbox_flush(outbox_t *box, outbox_pool_t *pool, int fd) noexcept nogil
# Copies what comes next, at most `room` bytes, and leaves it there; bytes copied.
cdef uint32_t outbox_gather(const outbox_t *box, unsigned char *into, uint32_t room) noexcept nogil
# The first `sent` bytes are out.
cdef void outbox_drop(outbox_t *box, outbox_pool_t *pool, uint32_t sent) noexcept nogil
cdef void outbox_clear(outbox_t *box, outbox_pool_t *pool) noexcept nogil
