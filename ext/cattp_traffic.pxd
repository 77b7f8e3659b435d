"""What happens on one CAT_TP link: datagrams, commands, time (see cattp_traffic.pyx)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from gateway._native.cattp_plane cimport cattp_command_t, cattp_link_t, cattp_t

cdef int has_room(cattp_t *s) noexcept nogil
# How many steps' events have room, at most `most`.
cdef int steps_with_room(cattp_t *s, int most) noexcept nogil
cdef void handle_datagram(
    cattp_t *s, const uint8_t *data, uint32_t size, const uint8_t *address, uint16_t port) noexcept nogil
# `sdu` is what follows the command in the mailbox.
cdef void handle_command(cattp_t *s, const cattp_command_t *c, const uint8_t *sdu, uint32_t size) noexcept nogil
cdef void link_timer(cattp_t *s, cattp_link_t *link) noexcept nogil
# The server ends: the peer is told, and so is the control thread.
cdef void link_stop(cattp_t *s, cattp_link_t *link) noexcept nogil
