"""Traffic of one link: events up, bytes in, notifications out, flush, the end. One owner thread."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from gateway._native.link cimport inflight_t, link_t
from gateway._native.outbox cimport gw_buffer_t
from gateway._native.plane cimport reactor_t

cdef extern from "gw_atomic.h" nogil:
    void gw_count(uint64_t *c, uint64_t n)
    uint64_t gw_read(const uint64_t *c)

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)
    enum: EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC

# Is there place for the events of one more step? Every step asks before it begins, so that an event never fails.
cdef int has_room(reactor_t *r) noexcept nogil
# A read leaves the room of another step, so that devices that send and send never keep commands, timers and what goes
# out from their turn.
cdef int may_read(reactor_t *r) noexcept nogil
cdef void say(reactor_t *r, uint16_t kind, uint8_t flag, uint64_t link, uint64_t seq, uint32_t registration,
              uint64_t sent_ms) noexcept nogil
cdef void watch(reactor_t *r, link_t *link, uint32_t events, int op) noexcept nogil
cdef void mark_dirty(reactor_t *r, link_t *link) noexcept nogil
cdef void flush_dirty(reactor_t *r) noexcept nogil
cdef uint64_t sent_at(const reactor_t *r, const inflight_t *entry) noexcept nogil
cdef int link_send(reactor_t *r, link_t *link, gw_buffer_t *buffer) noexcept nogil
# `got` new bytes in the scratch buffer; 0: look again at what waited for the login
cdef void handle_bytes(reactor_t *r, link_t *link, ssize_t got) noexcept nogil
# WELCOME came, or the end
cdef void read_on(reactor_t *r, link_t *link) noexcept nogil
cdef void link_readable(reactor_t *r, link_t *link) noexcept nogil
cdef void link_down(reactor_t *r, link_t *link, uint8_t reason, gw_buffer_t *words) noexcept nogil
cdef void link_free(reactor_t *r, link_t *link) noexcept nogil
cdef void maybe_ready(reactor_t *r, link_t *link) noexcept nogil
# 1: queued; 0: it is on its way already, or was given back as lost
cdef int notify(reactor_t *r, link_t *link, gw_buffer_t *buffer, uint64_t seq, uint32_t registration, uint32_t ms,
                int again) noexcept nogil
