"""Frames waiting for one socket; every frame of a link that is ready leaves in one system call."""
cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    ssize_t sendmsg(int fd, const msghdr *msg, int flags)
    ssize_t send(int fd, const void *data, size_t n, int flags)
    int MSG_NOSIGNAL
    int MSG_DONTWAIT

cdef enum:
    NODES_A_CHUNK = 1023
    IOV_MAX_USED = 64       # buffers in one sendmsg

cdef struct chunk_t:
    void *next
    outbox_node_t nodes[NODES_A_CHUNK]


cdef outbox_node_t *node_take(outbox_pool_t *pool) noexcept nogil:
    cdef chunk_t *chunk
    cdef outbox_node_t *node
    cdef int i
    if pool.free == NULL:
        chunk = <chunk_t *>malloc(sizeof(chunk_t))
        if chunk == NULL:
            return NULL
        chunk.next = pool.chunks
        pool.chunks = chunk
        pool.nodes += NODES_A_CHUNK
        for i in range(NODES_A_CHUNK):
            chunk.nodes[i].next = pool.free
            pool.free = &chunk.nodes[i]
    node = pool.free
    pool.free = node.next
    return node


cdef void node_give(outbox_pool_t *pool, outbox_node_t *node) noexcept nogil:
    gw_buffer_drop(node.buffer)
    node.next = pool.free
    pool.free = node


cdef void drop_head(outbox_t *box, outbox_pool_t *pool) noexcept nogil:
    cdef outbox_node_t *node = box.tail.next
    box.offset = 0
    if node == box.tail:
        box.tail = NULL
    else:
        box.tail.next = node.next
    node_give(pool, node)


cdef void outbox_pool_free(outbox_pool_t *pool) noexcept nogil:
    cdef chunk_t *chunk = <chunk_t *>pool.chunks
    cdef chunk_t *after
    while chunk != NULL:
        after = <chunk_t *>chunk.next
        free(chunk)
        chunk = after
    memset(pool, 0, sizeof(outbox_pool_t))


cdef int outbox_push(outbox_t *box, outbox_pool_t *pool, gw_buffer_t *buffer) noexcept nogil:
    cdef outbox_node_t *node = node_take(pool)
    if node == NULL:
        return -1
    gw_buffer_take(buffer)
    node.buffer = buffer
    if box.tail == NULL:
        node.next = node
        box.offset = 0
    else:
        node.next = box.tail.next
        box.tail.next = node
    box.tail = node
    box.bytes += buffer.size
    return 0


cdef uint32_t outbox_gather(const outbox_t *box, unsigned char *into, uint32_t room) noexcept nogil:
    cdef const outbox_node_t *node = box.tail
    cdef uint32_t skip = box.offset, at = 0, part
    while node != NULL:
        node = node.next
        part = min(node.buffer.size - skip, room - at)
        memcpy(into + at, node.buffer.data + skip, part)
        at += part
        skip = 0
        if at == room or node == box.tail:
            break
    return at


cdef void outbox_drop(outbox_t *box, outbox_pool_t *pool, uint32_t sent) noexcept nogil:
    cdef uint32_t left
    box.bytes -= sent
    while sent > 0:
        left = box.tail.next.buffer.size - box.offset
        if sent < left:
            box.offset += sent
            return
        sent -= left
        drop_head(box, pool)


cdef long outbox_flush(outbox_t *box, outbox_pool_t *pool, int fd) noexcept nogil:
    cdef iovec iov[IOV_MAX_USED]
    cdef msghdr msg
    cdef outbox_node_t *node
    cdef size_t skip
    cdef ssize_t sent
    cdef long total = 0
    cdef int n
    while box.tail != NULL:
        n = 0
        skip = box.offset
        node = box.tail
        while n < IOV_MAX_USED:
            node = node.next
            iov[n].iov_base = node.buffer.data + skip
            iov[n].iov_len = node.buffer.size - skip
            skip = 0
            n += 1
            if node == box.tail:
                break
        if n == 1:
            # the common case, and cheaper: the kernel copies no message header and no vector
            sent = send(fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL | MSG_DONTWAIT)
        else:
            memset(&msg, 0, sizeof(msg))
            msg.msg_iov = iov
            msg.msg_iovlen = <size_t>n
            sent = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent < 0:
            if errno == EINTR:
                continue
            if errno == EAGAIN:
                break
            return -1
        total += sent
        outbox_drop(box, pool, <uint32_t>sent)
    return total


cdef void outbox_clear(outbox_t *box, outbox_pool_t *pool) noexcept nogil:
    while box.tail != NULL:
        drop_head(box, pool)
    memset(box, 0, sizeof(outbox_t))


@cython.final
cdef class Outbox:
    """One outbox with a pool of its own; for tests and benchmarks."""
    cdef outbox_t box
    cdef outbox_pool_t pool

    def __dealloc__(self):
        outbox_clear(&self.box, &self.pool)
        outbox_pool_free(&self.pool)

    def push(self, const unsigned char[::1] frame not None) -> None:
        if frame.shape[0] == 0:
            raise ValueError("a frame has at least its two header bytes")
        cdef gw_buffer_t *buffer = gw_buffer_new(&frame[0], <uint32_t>frame.shape[0])
        cdef int failed = buffer == NULL or outbox_push(&self.box, &self.pool, buffer) != 0
        gw_buffer_drop(buffer)
        if failed:
            raise MemoryError

    def flush(self, fd: int) -> int:
        """Bytes written; 0 when the socket takes no more; OSError when it is broken."""
        cdef int number = fd
        cdef long n
        with nogil:
            n = outbox_flush(&self.box, &self.pool, number)
        if n < 0:
            raise OSError(errno, "send failed")
        return n

    def clear(self) -> None:
        outbox_clear(&self.box, &self.pool)

    @property
    def pending_bytes(self) -> int:
        return self.box.bytes
