"""What goes out on a CAT_TP link, and what is on its way (see cattp_sending.pyx)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from gateway._native.cattp_plane cimport busy_t, cattp_link_t, cattp_t, flight_t, gw_pdu_t

cdef uint16_t distance(uint16_t start, uint16_t end) noexcept nogil
# After so many tries.
cdef uint32_t wait_ms(const cattp_t *s, const cattp_link_t *link, uint32_t tries) noexcept nogil
# All that was given is there. A NUL that a closed window does not take is nothing that was given.
cdef int is_idle(const cattp_t *s, const cattp_link_t *link) noexcept nogil
# SDUs given that are not known to be there.
cdef uint32_t unsettled(const cattp_t *s, const cattp_link_t *link) noexcept nogil
cdef int is_possible(const cattp_link_t *link, uint16_t acknowledgement) noexcept nogil
cdef flight_t *flight_at(const cattp_t *s, const busy_t *busy, uint32_t place) noexcept nogil
# 0: without memory nothing was taken.
cdef int offer(cattp_t *s, cattp_link_t *link, const uint8_t *sdu, uint32_t size) noexcept nogil
# Sends what the window lets out; whether something went.
cdef int advance(cattp_t *s, cattp_link_t *link) noexcept nogil
# A NUL; 0 without memory.
cdef int probe(cattp_t *s, cattp_link_t *link) noexcept nogil
# Reads acknowledgement, EACK and window; how many SDUs are now known to be there.
cdef uint32_t settle(cattp_t *s, cattp_link_t *link, const gw_pdu_t *pdu) noexcept nogil
cdef void sample(cattp_t *s, cattp_link_t *link, uint32_t round_trip_ms) noexcept nogil
# Whether it may be sent (again), and when.
cdef int may_go(const cattp_link_t *link, const flight_t *sent) noexcept nogil
cdef uint32_t due_ms(const cattp_t *s, const cattp_link_t *link, const flight_t *sent) noexcept nogil
cdef void transmit_sent(cattp_t *s, cattp_link_t *link, flight_t *sent) noexcept nogil
cdef void acknowledge(cattp_t *s, cattp_link_t *link) noexcept nogil
cdef void answer_opening(cattp_t *s, cattp_link_t *link) noexcept nogil
cdef void send_rst(cattp_t *s, cattp_link_t *link, uint8_t reason) noexcept nogil
# What has no link for this PDU says so: never often, never with more than was sent.
cdef void refuse(cattp_t *s, const gw_pdu_t *pdu, uint32_t size, const uint8_t *address, uint16_t port,
                 uint8_t reason) noexcept nogil
cdef void flush(cattp_t *s) noexcept nogil
