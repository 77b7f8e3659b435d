"""The sending half of a CAT_TP link: cutting SDUs, the peer's window, what is on its way, when to send again; must
never send past the window, but for the one PDU that asks a closed window whether it is open, and never let a peer that
has proved nothing be sent more than `amplification` times what came from it.

The rules are those of gateway/ota/cattp_sending.py (TS 102 127 §4), to the datagram: tests/native compares the two.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy
from gateway._native.cattp_links cimport busy_claim, busy_of, busy_unclaim
from gateway._native.cattp_plane cimport (
    CATTP_MEASURED, CATTP_SYN_RCVD, CATTP_WINDOW_CLOSED, CATTP_WINDOW_SEEN, CC_BYTES_OUT, CC_PROBES, CC_REFUSALS,
    CC_REFUSALS_WITHHELD, CC_SENT, CC_UNSENT, CC_WITHHELD, FLIGHT_ENDS, FLIGHT_NOW, FLIGHT_THERE, GW_PDU_ACK,
    GW_PDU_EACK, GW_PDU_HEAD_BYTES, GW_PDU_MOST_BYTES, GW_PDU_NUL, GW_PDU_RST, GW_PDU_SEG, GW_PDU_SYN, busy_t,
    cattp_link_t, cattp_t, flight_t, gw_get16, gw_pdu_build, gw_pdu_refuse, gw_pdu_t, gw_put16, gw_udp_flush,
    gw_udp_place, gw_udp_put)
from gateway._native.outbox cimport (
    gw_buffer_drop, gw_buffer_new, gw_buffer_t, gw_buffer_take, outbox_drop, outbox_push)

cdef extern from "gw_atomic.h" nogil:
    void gw_count(uint64_t *c, uint64_t n)

cdef enum:
    PASSED = 3                      # as often must a later PDU be reported before one counts as lost
    RST_BYTES = GW_PDU_HEAD_BYTES + 1
    CAPTURED_HEAD_BYTES = 22        # of a datagram that is captured: address, port, size


cdef uint16_t distance(uint16_t start, uint16_t end) noexcept nogil:
    """How many steps forward; numbers are never compared but by this, for after 65,535 comes 0."""
    return <uint16_t>(end - start)


# --- datagrams out ---------------------------------------------------------------------------------------------------

cdef void capture(cattp_t *s, const uint8_t *data, uint32_t size, const uint8_t *address,
                  uint16_t port) noexcept nogil:
    cdef uint64_t need = s.captured_bytes + CAPTURED_HEAD_BYTES + size
    cdef uint8_t *at
    if need > s.captured_room:
        at = <uint8_t *>realloc(s.captured, need * 2)
        if at == NULL:
            gw_count(&s.counters[CC_UNSENT], 1)
            return
        s.captured = at
        s.captured_room = need * 2
    at = s.captured + s.captured_bytes
    memcpy(at, address, 16)
    memcpy(at + 16, &port, 2)
    memcpy(at + 18, &size, 4)
    memcpy(at + CAPTURED_HEAD_BYTES, data, size)
    s.captured_bytes = need


cdef void flush(cattp_t *s) noexcept nogil:
    cdef uint32_t lost
    if s.leaving.count:
        lost = gw_udp_flush(s.fd, s.leaving)
        if lost:
            gw_count(&s.counters[CC_UNSENT], lost)


cdef inline uint8_t *place(cattp_t *s) noexcept nogil:
    cdef uint8_t *at = gw_udp_place(s.leaving)
    if at == NULL:
        flush(s)
        at = gw_udp_place(s.leaving)
    return at


cdef inline void put(cattp_t *s, const uint8_t *at, uint32_t size, const uint8_t *address,
                     uint16_t port) noexcept nogil:
    gw_count(&s.counters[CC_SENT], 1)
    gw_count(&s.counters[CC_BYTES_OUT], size)
    if s.fd < 0:
        capture(s, at, size, address, port)
    else:
        gw_udp_put(s.leaving, size, address, port)


cdef void transmit(cattp_t *s, cattp_link_t *link, uint8_t flags, uint16_t sequence, const uint8_t *variable,
                   uint8_t variable_bytes, const uint8_t *data, uint16_t data_bytes) noexcept nogil:
    cdef uint8_t *at
    cdef uint32_t size = <uint32_t>GW_PDU_HEAD_BYTES + variable_bytes + data_bytes
    if link.state == CATTP_SYN_RCVD:
        if size > link.heard_ms:
            gw_count(&s.counters[CC_WITHHELD], 1)
            return
        link.heard_ms -= size
    at = place(s)
    size = gw_pdu_build(at, flags, s.local_port, link.remote_port, sequence, link.current,
                        <uint16_t>s.limits.window, variable, variable_bytes, data, data_bytes)
    put(s, at, size, link.address, link.port)


cdef void acknowledge(cattp_t *s, cattp_link_t *link) noexcept nogil:
    cdef uint8_t numbers[236]
    cdef busy_t *busy = link.busy
    cdef uint32_t i, count = 0
    if busy != NULL:
        count = busy.held_count
        for i in range(count):
            gw_put16(numbers + 2 * i, busy.held[i].sequence)
    transmit(s, link, GW_PDU_ACK | GW_PDU_EACK if count else GW_PDU_ACK, link.next, numbers, <uint8_t>(2 * count),
             NULL, 0)


cdef void answer_opening(cattp_t *s, cattp_link_t *link) noexcept nogil:
    cdef uint8_t opening[5]
    gw_put16(opening, <uint16_t>s.limits.max_pdu)
    gw_put16(opening + 2, <uint16_t>s.limits.max_sdu)
    opening[4] = 0
    transmit(s, link, GW_PDU_SYN | GW_PDU_ACK, link.first, opening, 5, NULL, 0)


cdef void send_rst(cattp_t *s, cattp_link_t *link, uint8_t reason) noexcept nogil:
    transmit(s, link, GW_PDU_RST | GW_PDU_ACK, link.next, &reason, 1, NULL, 0)


cdef void refuse(cattp_t *s, const gw_pdu_t *pdu, uint32_t size, const uint8_t *address, uint16_t port,
                 uint8_t reason) noexcept nogil:
    cdef uint8_t *at
    cdef uint32_t passed = s.now - s.refusal_ms
    if pdu.flags & GW_PDU_RST:
        return
    s.refusal_ms = s.now
    s.refusal_tokens = min(
        <double>s.limits.refusals_per_s, s.refusal_tokens + <double>passed * s.limits.refusals_per_s / 1000.0)
    if size < RST_BYTES or s.refusal_tokens < 1.0:
        gw_count(&s.counters[CC_REFUSALS_WITHHELD], 1)
        return
    s.refusal_tokens -= 1.0
    gw_count(&s.counters[CC_REFUSALS], 1)
    at = place(s)
    put(s, at, gw_pdu_refuse(at, pdu, reason), address, port)


# --- the round trip --------------------------------------------------------------------------------------------------

cdef uint32_t wait_ms(const cattp_t *s, const cattp_link_t *link, uint32_t tries) noexcept nogil:
    cdef uint32_t doublings = min(tries - 1 if tries else 0, <uint32_t>16)
    return <uint32_t>min(<uint64_t>link.rto_ms << doublings, <uint64_t>s.limits.rto_most_ms)


cdef void sample(cattp_t *s, cattp_link_t *link, uint32_t round_trip_ms) noexcept nogil:
    if link.flags & CATTP_MEASURED:
        link.smoothed_ms = (7 * link.smoothed_ms + round_trip_ms) / 8
    else:
        link.smoothed_ms = round_trip_ms
        link.flags |= CATTP_MEASURED
    link.rto_ms = <uint32_t>min(
        max(1.3 * link.smoothed_ms, <double>s.limits.rto_least_ms), <double>s.limits.rto_most_ms)


cdef int sample_of(cattp_t *s, cattp_link_t *link, const flight_t *sent) noexcept nogil:
    # of one sent twice nobody knows which try was answered (Karn)
    if sent.tries != 1 or sent.flags & (FLIGHT_THERE | FLIGHT_NOW):
        return 0
    sample(s, link, s.now - sent.sent_ms)
    return 1


# --- what is on its way ----------------------------------------------------------------------------------------------

cdef flight_t *flight_at(const cattp_t *s, const busy_t *busy, uint32_t place) noexcept nogil:
    cdef uint32_t at = busy.flight_first + place
    if at >= s.limits.flight:
        at -= s.limits.flight
    return &busy.flight[at]


cdef int is_idle(const cattp_t *s, const cattp_link_t *link) noexcept nogil:
    cdef const busy_t *busy = link.busy
    cdef uint32_t i
    if busy == NULL:
        return 1
    if busy.queued:
        return 0
    for i in range(busy.flight_count):
        if flight_at(s, busy, i).buffer != NULL:
            return 0
    return 1


cdef uint32_t unsettled(const cattp_t *s, const cattp_link_t *link) noexcept nogil:
    cdef const busy_t *busy = link.busy
    cdef uint32_t i, count
    if busy == NULL:
        return 0
    count = busy.queued
    for i in range(busy.flight_count):
        if flight_at(s, busy, i).flags & FLIGHT_ENDS:
            count += 1
    return count


cdef int offer(cattp_t *s, cattp_link_t *link, const uint8_t *sdu, uint32_t size) noexcept nogil:
    cdef busy_t *busy = busy_of(s, link)
    cdef gw_buffer_t *buffer
    cdef int taken = 0
    if busy == NULL:
        return 0
    if busy_claim(s, busy, size):
        buffer = gw_buffer_new(sdu, size)
        if buffer != NULL:
            taken = outbox_push(&busy.queue, &s.nodes, buffer) == 0     # takes a reference of its own
            gw_buffer_drop(buffer)
        if not taken:
            busy_unclaim(s, busy, size)
    if not taken:
        return 0
    if link.window == 0 and is_idle(s, link):
        link.since_ms = s.now
        link.flags |= CATTP_WINDOW_CLOSED
    busy.queued += 1
    return 1


cdef flight_t *launch(cattp_t *s, cattp_link_t *link, uint8_t pdu_flags) noexcept nogil:
    """The caller made sure that there is a place: what is in flight lies inside the window, or is one NUL."""
    cdef busy_t *busy = link.busy
    cdef flight_t *sent = flight_at(s, busy, busy.flight_count)
    busy.flight_count += 1
    sent.buffer = NULL
    sent.offset = 0
    sent.sent_ms = 0
    sent.size = 0
    sent.sequence = link.next
    sent.unanswered = 0
    sent.pdu_flags = pdu_flags
    sent.flags = FLIGHT_NOW
    sent.tries = 0
    sent.passed = 0
    link.next += 1
    return sent


cdef void transmit_sent(cattp_t *s, cattp_link_t *link, flight_t *sent) noexcept nogil:
    sent.flags &= ~<uint8_t>FLIGHT_NOW
    sent.sent_ms = s.now
    if sent.tries < 255:
        sent.tries += 1
    sent.unanswered += 1
    transmit(s, link, GW_PDU_ACK | sent.pdu_flags, sent.sequence, NULL, 0,
             sent.buffer.data + sent.offset if sent.buffer != NULL else NULL, sent.size)


cdef int advance(cattp_t *s, cattp_link_t *link) noexcept nogil:
    cdef busy_t *busy = link.busy
    cdef uint16_t room = <uint16_t>min(<uint32_t>link.window, s.limits.flight)
    cdef gw_buffer_t *buffer
    cdef flight_t *sent
    cdef uint32_t left, most
    cdef int went = 0
    if busy == NULL:
        return 0
    while busy.queued and distance(link.acknowledged, link.next) <= room and busy.flight_count < s.limits.flight:
        # what the peer's PDUs hold; SEG is on all pieces but the last (§5)
        buffer = busy.queue.tail.next.buffer
        left = buffer.size - busy.queue.offset
        most = min(<uint32_t>link.max_pdu, <uint32_t>GW_PDU_MOST_BYTES) - GW_PDU_HEAD_BYTES
        sent = launch(s, link, GW_PDU_SEG if left > most else 0)
        gw_buffer_take(buffer)
        sent.buffer = buffer
        sent.offset = busy.queue.offset
        sent.size = <uint16_t>min(left, most)
        if left <= most:
            sent.flags |= FLIGHT_ENDS
            busy.queued -= 1
        outbox_drop(&busy.queue, &s.nodes, sent.size)
        transmit_sent(s, link, sent)
        went = 1
    return went


cdef int probe(cattp_t *s, cattp_link_t *link) noexcept nogil:
    """It takes a number, so the peer answers whatever its window is (§4: keep-alive)."""
    if busy_of(s, link) == NULL:
        return 0
    gw_count(&s.counters[CC_PROBES], 1)
    transmit_sent(s, link, launch(s, link, GW_PDU_NUL))
    return 1


cdef int is_possible(const cattp_link_t *link, uint16_t acknowledgement) noexcept nogil:
    """False for a number that was never sent."""
    cdef uint16_t ahead = distance(link.acknowledged, acknowledgement)
    return ahead >= 0x8000 or ahead < distance(link.acknowledged, link.next)


cdef uint32_t settle(cattp_t *s, cattp_link_t *link, const gw_pdu_t *pdu) noexcept nogil:
    cdef uint16_t ahead = distance(link.acknowledged, pdu.acknowledgement)
    cdef busy_t *busy = link.busy
    cdef flight_t *sent
    cdef uint32_t i, done = 0
    cdef int progress = 0, again = 0, measured = 0
    if ahead >= 0x8000:
        if link.window == 0 and busy != NULL:
            for i in range(busy.flight_count):
                flight_at(s, busy, i).unanswered = 0
        return 0
    if ahead:
        progress = 1
        while busy != NULL and busy.flight_count:
            sent = flight_at(s, busy, 0)
            if distance(sent.sequence, pdu.acknowledgement) >= 0x8000:
                break
            if sent.flags & FLIGHT_ENDS:
                done += 1
                busy_unclaim(s, busy, sent.buffer.size)
            if sent.tries > 1:
                again = 1
            if sent.sequence == pdu.acknowledgement:
                measured = sample_of(s, link, sent)
            gw_buffer_drop(sent.buffer)
            sent.buffer = NULL
            busy.flight_count -= 1
            busy.flight_first += 1
            if busy.flight_first == s.limits.flight:
                busy.flight_first = 0
        link.acknowledged = pdu.acknowledgement
        if again and not measured:
            # Only answers to PDUs sent more than once came: until one is measured, wait twice as long (Karn's second
            # half); else a round trip longer than the first guess would never be measured.
            link.rto_ms = wait_ms(s, link, 2)
    if pdu.eack_count and read_eacks(s, link, pdu):
        progress = 1
    read_window(s, link, pdu)
    if busy != NULL and (progress or link.window == 0):
        for i in range(busy.flight_count):
            flight_at(s, busy, i).unanswered = 0
    return done


cdef int is_named(const gw_pdu_t *pdu, uint16_t number) noexcept nogil:
    cdef uint32_t i
    for i in range(pdu.eack_count):
        if gw_get16(pdu.eacks + 2 * i) == number:
            return 1
    return 0


cdef int read_eacks(cattp_t *s, cattp_link_t *link, const gw_pdu_t *pdu) noexcept nogil:
    cdef busy_t *busy = link.busy
    cdef flight_t *sent
    cdef int i, newest = -1, progress = 0
    if busy == NULL:
        return 0
    for i in range(busy.flight_count):
        sent = flight_at(s, busy, <uint32_t>i)
        if is_named(pdu, sent.sequence):
            newest = i
            if not sent.flags & FLIGHT_THERE:
                sample_of(s, link, sent)
                sent.flags |= FLIGHT_THERE
                progress = 1
    for i in range(newest):
        sent = flight_at(s, busy, <uint32_t>i)
        if not sent.flags & FLIGHT_THERE and sent.passed < 255:
            sent.passed += 1
            if sent.passed == PASSED:
                sent.flags |= FLIGHT_NOW
    return progress


cdef void read_window(cattp_t *s, cattp_link_t *link, const gw_pdu_t *pdu) noexcept nogil:
    cdef busy_t *busy = link.busy
    cdef uint32_t i
    if link.flags & CATTP_WINDOW_SEEN:
        # an acknowledgement never goes back, a number does where a PDU is sent again
        if distance(link.from_acknowledgement, pdu.acknowledgement) >= 0x8000 or (
                link.from_acknowledgement == pdu.acknowledgement
                and distance(link.from_sequence, pdu.sequence) >= 0x8000):
            return
    link.flags |= CATTP_WINDOW_SEEN
    link.from_sequence = pdu.sequence
    link.from_acknowledgement = pdu.acknowledgement
    if link.window == 0 and pdu.window and busy != NULL:
        # what was refused in between goes out now, not when its time is up
        for i in range(busy.flight_count):
            flight_at(s, busy, i).flags |= FLIGHT_NOW
    link.window = pdu.window
    if pdu.window:
        link.flags &= ~<uint8_t>CATTP_WINDOW_CLOSED
    elif not link.flags & CATTP_WINDOW_CLOSED:
        link.flags |= CATTP_WINDOW_CLOSED
        link.since_ms = s.now


cdef int may_go(const cattp_link_t *link, const flight_t *sent) noexcept nogil:
    # the oldest goes even past a closed window, for its refusal says whether the window is open again, and even where
    # it was reported: a peer that has it acknowledges it, and who only says so would never be given up
    cdef uint16_t ahead = distance(link.acknowledged, sent.sequence)
    return ahead == 1 or (not sent.flags & FLIGHT_THERE and ahead <= link.window)


cdef uint32_t due_ms(const cattp_t *s, const cattp_link_t *link, const flight_t *sent) noexcept nogil:
    if sent.flags & FLIGHT_NOW:
        return s.now
    return sent.sent_ms + wait_ms(s, link, sent.tries)
