"""The way in: listeners, and links until their first frame may come. One owner thread."""
from libc.stdint cimport uint8_t, uint32_t
from gateway._native.link cimport link_t
from gateway._native.plane cimport listener_t, reactor_t

cdef enum:
    KEY_LISTENER = 0xFFFFFFF0       # epoll keys beyond any slot: this and the door's number

cdef void listener_watch(reactor_t *r, listener_t *listener, int op) noexcept nogil
cdef void listeners_close(reactor_t *r) noexcept nogil
cdef void accept_links(reactor_t *r, listener_t *listener) noexcept nogil
# One step of a link that is LINK_PROXY or LINK_SHAKING: its socket is ready.
cdef void greet(reactor_t *r, link_t *link) noexcept nogil
# The login deadline is over.
cdef void greet_timeout(reactor_t *r, link_t *link) noexcept nogil
