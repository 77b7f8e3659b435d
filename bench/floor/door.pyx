"""The least that answers a device: accepts, answers what comes first with fixed bytes and every PING with PONG, and
sends one frame to all links; must never parse more than it needs for that, nor keep more than a descriptor a link.

One thread, one epoll set, the plain system calls: accept4, epoll_ctl, recv, send. It is the floor of logins, of the
fan-out and of heartbeats, and the same client drives it and the gateway. Only a provider's link is handed to Python,
with the bytes it began with.
"""
cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.unistd cimport close, read, write


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    # packed on some machines, so only C may lay it out
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    enum: EPOLLIN, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout_ms)

cdef extern from "<sys/socket.h>" nogil:
    enum: MSG_DONTWAIT, MSG_NOSIGNAL, SOCK_NONBLOCK, SOCK_CLOEXEC
    ssize_t recv(int fd, void *buffer, size_t size, int flags)
    ssize_t send(int fd, const void *buffer, size_t size, int flags)

cdef extern from * nogil:
    """
    /* declared here: the libc shows them only to who asks for its extensions before any header */
    #include <sys/socket.h>
    #include <string.h>
    int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags);
    void *memmem(const void *hay, size_t hay_size, const void *needle, size_t needle_size);
    int unshare(int flags);
    """
    int unshare(int flags)
    int accept4(int fd, void *address, void *length, int flags)
    void *memmem(const void *hay, size_t hay_size, const void *needle, size_t needle_size)


cdef enum:
    CLONE_FILES = 0x400
    EVENTS = 512
    ACCEPTS = 64            # in one turn, as the gateway does
    READ_BYTES = 65536
    HANDED_BYTES = 4000     # of a provider's first bytes; with its head below PIPE_BUF, so that it comes whole
    PING = 0x01
    PONG = 0x02

cdef struct door_t:
    int epoll
    int listener
    int wake                # eventfd: stop or send
    int handed              # pipe: provider links for Python
    int most                # descriptors below it are served
    int stopped
    int32_t *place          # descriptor → 1 + its place among the links; 0: no link
    int *links
    int count
    uint64_t accepted
    uint64_t answered       # first frames
    uint64_t heartbeats
    uint64_t sent
    uint64_t refused        # by a full socket buffer
    uint64_t ended
    const uint8_t *frame    # to be sent to all
    size_t frame_size


cdef void drop(door_t *d, int fd) noexcept nogil:
    cdef int place = d.place[fd] - 1
    if place >= 0:
        d.count -= 1
        d.links[place] = d.links[d.count]
        d.place[d.links[place]] = place + 1
        d.place[fd] = 0
        d.ended += 1
    close(fd)


cdef void accept_some(door_t *d) noexcept nogil:
    cdef epoll_event event
    cdef int fd
    for _ in range(ACCEPTS):
        fd = accept4(d.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd < 0:
            return
        if fd >= d.most:
            close(fd)
            continue
        d.accepted += 1
        event.events = EPOLLIN
        event.data.fd = fd
        epoll_ctl(d.epoll, EPOLL_CTL_ADD, fd, &event)


cdef void hand_over(door_t *d, int fd, const uint8_t *data, size_t size) noexcept nogil:
    cdef uint8_t record[4096]
    cdef int32_t head[2]
    if size > HANDED_BYTES:
        drop(d, fd)
        return
    head[0], head[1] = fd, <int32_t>size
    memcpy(record, head, sizeof(head))
    memcpy(record + sizeof(head), data, size)
    epoll_ctl(d.epoll, EPOLL_CTL_DEL, fd, NULL)
    if write(d.handed, record, sizeof(head) + size) < 0:
        close(fd)


cdef void answer(door_t *d, int fd, uint8_t *data, const uint8_t *first, size_t first_size) noexcept nogil:
    cdef ssize_t size = recv(fd, data, READ_BYTES, MSG_DONTWAIT)
    cdef ssize_t at = 0
    cdef uint8_t pong[2]
    if size <= 0:
        if size == 0 or (errno != EAGAIN and errno != EINTR):
            drop(d, fd)
        return
    if d.place[fd] == 0:
        if memmem(data, size, b"provider", 8) != NULL:
            hand_over(d, fd, data, size)
            return
        d.links[d.count] = fd
        d.count += 1
        d.place[fd] = d.count
        d.answered += 1
        send(fd, first, first_size, MSG_DONTWAIT | MSG_NOSIGNAL)
        return
    # A heartbeat comes alone, or behind another; whatever else comes is a confirmation, and dropped.
    while at + 1 < size and data[at] == PING and data[at + 1] == 0:
        at += 2
        d.heartbeats += 1
    if at:
        pong[0], pong[1] = PONG, 0
        send(fd, pong, 2, MSG_DONTWAIT | MSG_NOSIGNAL)


cdef void send_to_all(door_t *d) noexcept nogil:
    cdef int i
    for i in range(d.count):
        if send(d.links[i], d.frame, d.frame_size, MSG_DONTWAIT | MSG_NOSIGNAL) == <ssize_t>d.frame_size:
            d.sent += 1
        else:
            d.refused += 1


cdef void serve(door_t *d, uint8_t *data, const uint8_t *first, size_t first_size) noexcept nogil:
    cdef epoll_event events[EVENTS]
    cdef uint64_t woken
    cdef int n, i, fd
    while not d.stopped:
        n = epoll_wait(d.epoll, events, EVENTS, -1)
        for i in range(n):
            fd = events[i].data.fd
            if fd == d.listener:
                accept_some(d)
            elif fd == d.wake:
                read(fd, &woken, sizeof(woken))
                if d.frame != NULL:
                    send_to_all(d)
                    d.frame = NULL
            else:
                answer(d, fd, data, first, first_size)


def own_descriptors():
    """The calling thread, and those it starts, have a descriptor table of their own from now on, a copy of the one
    before: the limit of open files counts for each table by itself."""
    if unshare(CLONE_FILES) != 0:
        raise OSError(errno, "the thread got no descriptor table of its own")


@cython.final
cdef class Door:
    """`run` belongs to a thread of its own; the rest to one other thread."""
    cdef door_t door
    cdef bytes first
    cdef bytes frame
    cdef bytearray data

    def __cinit__(self, int listener, int wake, int handed, bytes first, int most):
        """A listening, non-blocking socket; an eventfd; a pipe's end for providers (descriptor, size, bytes); what is
        answered first; descriptors below `most` are served."""
        self.first = first
        self.data = bytearray(READ_BYTES)
        self.door.listener, self.door.wake, self.door.handed, self.door.most = listener, wake, handed, most
        self.door.place = <int32_t *>calloc(most, sizeof(int32_t))
        self.door.links = <int *>calloc(most, sizeof(int))
        self.door.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.door.place == NULL or self.door.links == NULL or self.door.epoll < 0:
            raise MemoryError("no room for the floor's descriptors")

    def __dealloc__(self):
        for i in range(self.door.count):
            close(self.door.links[i])
        free(self.door.place)
        free(self.door.links)
        if self.door.epoll >= 0:
            close(self.door.epoll)

    def run(self):
        """Serve until `stop`; without the GIL."""
        cdef epoll_event event
        cdef uint8_t *data = self.data
        cdef const uint8_t *first = self.first
        cdef size_t first_size = len(self.first)
        event.events = EPOLLIN
        for fd in (self.door.listener, self.door.wake):
            event.data.fd = fd
            epoll_ctl(self.door.epoll, EPOLL_CTL_ADD, fd, &event)
        with nogil:
            serve(&self.door, data, first, first_size)

    def broadcast(self, bytes frame):
        """The thread sends this frame to every link, in one pass; one at a time (see `counts`)."""
        self.frame = frame
        self.door.frame_size = len(frame)
        self.door.frame = <const uint8_t *>self.frame
        self.poke()

    def stop(self):
        self.door.stopped = 1
        self.poke()

    cdef poke(self):
        cdef uint64_t one = 1
        write(self.door.wake, &one, sizeof(one))

    @property
    def sending(self):
        """A broadcast has not gone to everyone yet."""
        return self.door.frame != NULL

    def counts(self):
        d = &self.door
        return {
            "links": d.count, "accepted": d.accepted, "answered": d.answered, "heartbeats": d.heartbeats,
            "sent": d.sent, "refused": d.refused, "ended": d.ended,
        }
