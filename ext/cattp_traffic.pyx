"""One CAT_TP link in the role of LISTEN: order, gaps, SDUs, states, time; every function runs in the server's thread,
without the GIL and without waiting, and must never answer whom nobody expects, nor say OPENED before the final ACK.

The rules are those of gateway/ota/cattp.py (TS 102 127 §4), to the datagram: tests/native compares the two. What a
server adds: who is expected (by identification, for a time), how many may be half-open, what one that proved nothing
may be sent, that a newer link of the same identification takes the place of an older one, and what has no link is told
so.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset
from gateway._native.cattp_links cimport (
    busy_claim, busy_of, busy_release, busy_unclaim, expected_add, expected_at, expected_drop, expected_find,
    expected_forget, link_at, link_by_id, link_find, link_give, link_id, link_take)
from gateway._native.cattp_plane cimport *
from gateway._native.cattp_sending cimport (
    acknowledge, advance, answer_opening, distance, due_ms, flight_at, is_idle, is_possible, may_go, offer, probe,
    refuse, sample, send_rst, settle, transmit_sent, unsettled, wait_ms)
from gateway._native.mailbox cimport gw_ring_reserve, gw_ring_room
from gateway._native.outbox cimport gw_buffer_drop, gw_buffer_new, gw_buffer_t
from gateway._native.wheel cimport wheel_arm, wheel_cancel

cdef extern from "gw_atomic.h" nogil:
    void gw_count(uint64_t *c, uint64_t n)

cdef extern from "gw_hash.h" nogil:
    uint64_t gw_mix64(uint64_t x)

cdef enum:                          # what becomes of a PDU that takes a number
    TAKEN = 0
    HELD = 1                        # it waits for one that is missing
    DUPLICATE = 2
    OUTSIDE = 3
    NO_ROOM = 4
    TOO_LARGE = 5
    AGAIN_MS = 10                   # what cannot be done now is looked at again after this
    ALLOWANCE_MOST = 1 << 20


# --- events up -------------------------------------------------------------------------------------------------------

cdef int steps_with_room(cattp_t *s, int most) noexcept nogil:
    cdef uint64_t room = s.up.capacity - (s.up.tail_next - s.up.head_seen)
    if room < s.step_bytes * <uint64_t>(most + 1):
        room = gw_ring_room(&s.up)
    # one step's bytes stay free: a record that does not fit before the ring's end leaves a gap
    return <int>min(<uint64_t>most, room // s.step_bytes - 1 if room >= s.step_bytes else 0)


cdef int has_room(cattp_t *s) noexcept nogil:
    return steps_with_room(s, 1)


cdef cattp_event_t *say(cattp_t *s, uint16_t kind, uint64_t link, uint64_t cookie, uint32_t size) noexcept nogil:
    """The event, with place for so many bytes behind it."""
    cdef cattp_event_t *e = <cattp_event_t *>gw_ring_reserve(&s.up, <uint32_t>sizeof(cattp_event_t) + size)
    if e == NULL:
        return NULL     # can not be: the room was there (step_bytes)
    memset(e, 0, sizeof(cattp_event_t))
    e.kind = kind
    e.link = link
    e.cookie = cookie
    return e


cdef uint64_t cookie_of(const cattp_t *s, const cattp_link_t *link) noexcept nogil:
    return expected_at(s, link.expected - 1).cookie


cdef void say_received(cattp_t *s, cattp_link_t *link, const uint8_t *head, uint32_t head_bytes, const uint8_t *tail,
                       uint32_t tail_bytes) noexcept nogil:
    cdef cattp_event_t *e = say(s, CATTP_EV_RECEIVED, link_id(link), cookie_of(s, link), head_bytes + tail_bytes)
    cdef uint8_t *sdu
    gw_count(&s.counters[CC_SDUS_IN], 1)
    link.active_ms = s.now
    if e != NULL:
        sdu = <uint8_t *>e + sizeof(cattp_event_t)
        if head_bytes:
            memcpy(sdu, head, head_bytes)
        if tail_bytes:
            memcpy(sdu + head_bytes, tail, tail_bytes)


# --- the end ---------------------------------------------------------------------------------------------------------

cdef void release(cattp_t *s, cattp_link_t *link) noexcept nogil:
    """The slot is free again."""
    wheel_cancel(&s.wheel, &link.timer)
    busy_release(s, link)
    link_give(s, link)


cdef void finish(cattp_t *s, cattp_link_t *link, uint8_t cause, uint8_t reason) noexcept nogil:
    """The last event of an open link; a half-open one, of which nobody was told, goes without a word."""
    cdef expected_t *expected = expected_at(s, link.expected - 1)
    cdef uint32_t handle = link.expected
    cdef cattp_event_t *e
    if link.state == CATTP_SYN_RCVD:
        gw_count(&s.counters[CC_HALF_OPEN], <uint64_t>-1)
        gw_count(&s.counters[CC_UNPROVED], 1)
        expected_drop(s, handle)
        release(s, link)
        return
    e = say(s, CATTP_EV_CLOSED, link_id(link), expected.cookie, 0)
    if e != NULL:
        e.cause = cause
        e.reason = reason
        e.count = unsettled(s, link)
    gw_count(&s.counters[CC_OPEN], <uint64_t>-1)
    gw_count(&s.closed[cause], 1)
    busy_release(s, link)
    if expected.open == link.slot + 1:
        expected.open = 0
    expected_drop(s, handle)
    link.expected = 0
    link.state = CATTP_CLOSE_WAIT
    link.since_ms = s.now + s.limits.close_wait_ms
    wheel_arm(&s.wheel, &link.timer, link.since_ms)


cdef void end(cattp_t *s, cattp_link_t *link, uint8_t cause, uint8_t reason) noexcept nogil:
    """A RST is not acknowledged (§4): CLOSE-WAIT answers all that still comes with it, so that a lost one is said
    again."""
    link.flags |= CATTP_FAREWELL
    link.farewell = reason
    send_rst(s, link, reason)
    finish(s, link, cause, reason)


cdef void close_if_done(cattp_t *s, cattp_link_t *link) noexcept nogil:
    if link.flags & CATTP_CLOSING and link.state == CATTP_OPEN and is_idle(s, link):
        end(s, link, link.cause, RST_NORMAL)


cdef void close_when_done(cattp_t *s, cattp_link_t *link, uint8_t cause) noexcept nogil:
    if not link.flags & CATTP_CLOSING:
        link.flags |= CATTP_CLOSING
        link.cause = cause
    close_if_done(s, link)


cdef void link_stop(cattp_t *s, cattp_link_t *link) noexcept nogil:
    if link.state == CATTP_OPEN:
        end(s, link, CATTP_STOPPED, RST_TEMPORARY)
    elif link.state == CATTP_SYN_RCVD:
        finish(s, link, CATTP_STOPPED, RST_TEMPORARY)


# --- time ------------------------------------------------------------------------------------------------------------

cdef inline uint32_t sooner(const cattp_t *s, uint32_t one, uint32_t other) noexcept nogil:
    return one if <int32_t>(one - s.now) <= <int32_t>(other - s.now) else other


cdef inline int is_due(const cattp_t *s, uint32_t at) noexcept nogil:
    return <int32_t>(s.now - at) >= 0


cdef int waits_for_window(const cattp_link_t *link) noexcept nogil:
    """There is something to send, the window is closed, and nothing is on its way that would be answered."""
    return link.window == 0 and link.busy != NULL and link.busy.queued and not link.busy.flight_count


cdef inline int is_silent(const cattp_link_t *link) noexcept nogil:
    return link.busy == NULL or not link.busy.flight_count


cdef uint32_t probe_ms(const cattp_link_t *link) noexcept nogil:
    return (link.since_ms if link.flags & CATTP_WINDOW_CLOSED else 0) + link.rto_ms


cdef void arm(cattp_t *s, cattp_link_t *link) noexcept nogil:
    """One timer a link, at the first thing to do. It is only ever moved forward in time: what became later is found out
    when it fires."""
    cdef const busy_t *busy = link.busy
    cdef const flight_t *sent
    cdef uint32_t at = s.now + 0x7FFFFFFF
    cdef uint32_t i
    if link.state == CATTP_SYN_RCVD:
        at = link.since_ms + wait_ms(s, link, link.opening_tries)
    elif link.state == CATTP_CLOSE_WAIT:
        at = link.since_ms
    elif link.state == CATTP_OPEN:
        if busy != NULL:
            for i in range(busy.flight_count):
                sent = flight_at(s, busy, i)
                if may_go(link, sent):
                    at = sooner(s, at, due_ms(s, link, sent))
            if waits_for_window(link):
                at = sooner(s, at, probe_ms(link))
            if link.flags & CATTP_WINDOW_CLOSED and not is_idle(s, link):
                at = sooner(s, at, link.since_ms + s.limits.zero_window_ms)
        if s.limits.keep_alive_ms and is_silent(link):
            at = sooner(s, at, link.heard_ms + s.limits.keep_alive_ms)
        if s.limits.idle_ms and not link.flags & CATTP_CLOSING:
            at = sooner(s, at, link.active_ms + s.limits.idle_ms)
        if at == s.now + 0x7FFFFFFF:
            return
    else:
        return
    if link.timer.next == NULL or <int32_t>(at - link.timer.at) < 0:
        wheel_arm(&s.wheel, &link.timer, at)


cdef void settle_down(cattp_t *s, cattp_link_t *link) noexcept nogil:
    """After anything that happened: an idle link holds nothing, and the next thing to do has its time."""
    cdef busy_t *busy = link.busy
    if busy != NULL and not (busy.queued or busy.flight_count or busy.held_count or busy.partial_bytes):
        busy_release(s, link)
    arm(s, link)


cdef int resend(cattp_t *s, cattp_link_t *link) noexcept nogil:
    """Send again what is due. 0: there were too many tries, the link is closed."""
    cdef busy_t *busy = link.busy
    cdef flight_t *sent
    cdef uint32_t i
    if busy == NULL:
        return 1
    for i in range(busy.flight_count):
        sent = flight_at(s, busy, i)
        if not may_go(link, sent) or not is_due(s, due_ms(s, link, sent)):
            continue
        if sent.unanswered > s.limits.retries:
            if s.behind:
                continue            # its answer may not be read yet
            end(s, link, CATTP_RETRIES, RST_RETRIES)
            return 0
        gw_count(&s.counters[CC_RESENT], 1)
        transmit_sent(s, link, sent)
    return 1


cdef void tick_open(cattp_t *s, cattp_link_t *link) noexcept nogil:
    cdef int waits = waits_for_window(link)
    cdef uint32_t probe_at = probe_ms(link)
    if not s.behind and link.flags & CATTP_WINDOW_CLOSED and not is_idle(s, link) and is_due(
            s, link.since_ms + s.limits.zero_window_ms):
        end(s, link, CATTP_ZERO_WINDOW, RST_TEMPORARY)
        return
    if not s.behind and s.limits.idle_ms and not link.flags & CATTP_CLOSING and is_due(
            s, link.active_ms + s.limits.idle_ms):
        close_when_done(s, link, CATTP_IDLE)
        if link.state != CATTP_OPEN:
            return
    if not resend(s, link):
        return
    if (waits and is_due(s, probe_at)) or (
            s.limits.keep_alive_ms and is_due(s, link.heard_ms + s.limits.keep_alive_ms) and is_silent(link)):
        probe(s, link)


cdef void link_timer(cattp_t *s, cattp_link_t *link) noexcept nogil:
    if link.state == CATTP_CLOSE_WAIT:
        if is_due(s, link.since_ms):
            release(s, link)
        else:
            arm(s, link)
        return
    if link.state == CATTP_SYN_RCVD:
        if is_due(s, link.since_ms + wait_ms(s, link, link.opening_tries)):
            if link.opening_tries > s.limits.opening_retries and s.behind:
                wheel_arm(&s.wheel, &link.timer, s.now + AGAIN_MS)      # its answer may not be read yet
                return
            if link.opening_tries > s.limits.opening_retries:
                end(s, link, CATTP_RETRIES, RST_RETRIES)
                return
            gw_count(&s.counters[CC_RESENT], 1)
            send_opening(s, link)
        arm(s, link)
        return
    if link.state != CATTP_OPEN:
        return
    tick_open(s, link)
    if link.state == CATTP_OPEN:
        settle_down(s, link)
        # what could not be done now (no memory, not read yet) is due still: not before a moment has passed
        if link.timer.next != NULL and is_due(s, link.timer.at):
            wheel_arm(&s.wheel, &link.timer, s.now + AGAIN_MS)


# --- opening ---------------------------------------------------------------------------------------------------------

cdef void send_opening(cattp_t *s, cattp_link_t *link) noexcept nogil:
    link.since_ms = s.now
    if link.opening_tries < 255:
        link.opening_tries += 1
    answer_opening(s, link)


cdef uint16_t first_number(cattp_t *s) noexcept nogil:
    if s.fixed_first >= 0:
        return <uint16_t>s.fixed_first
    s.random += <uint64_t>0x9E3779B97F4A7C15
    return <uint16_t>(gw_mix64(s.random) >> 32)


cdef int is_over(const cattp_t *s, const expected_t *expected) noexcept nogil:
    """Its time, whether its timer was looked at already or not."""
    return expected.flags & EXPECTED_LAPSED or (
        expected.timer.next != NULL and <int32_t>(s.now - expected.timer.at) >= 0)


cdef uint32_t admitted(cattp_t *s, const gw_pdu_t *pdu) noexcept nogil:
    """The expected_t whose SYN this is, as 1 + slot; 0: nobody expects it now. One whose time is over still may come
    back while a link of it is open."""
    cdef uint32_t handle = expected_find(s, pdu.identification, pdu.id_bytes)
    cdef expected_t *expected
    if handle:
        expected = expected_at(s, handle - 1)
        if not expected.open and is_over(s, expected):
            return 0
    return handle


cdef void note_opening(cattp_t *s, cattp_link_t *link, const gw_pdu_t *pdu) noexcept nogil:
    link.current = pdu.sequence
    link.max_pdu = pdu.max_pdu
    link.max_sdu = pdu.max_sdu


cdef inline int makes_sense(const gw_pdu_t *pdu) noexcept nogil:
    return pdu.max_pdu > GW_PDU_HEAD_BYTES and pdu.max_sdu > 0


cdef void allow(cattp_t *s, cattp_link_t *link, uint32_t size) noexcept nogil:
    """What came from a half-open link says how much may be sent there."""
    link.heard_ms = min(link.heard_ms + size * s.limits.amplification, <uint32_t>ALLOWANCE_MOST)


cdef void handle_stray(cattp_t *s, const gw_pdu_t *pdu, uint32_t size, const uint8_t *address,
                       uint16_t port) noexcept nogil:
    """LISTEN: a SYN of whom one expects makes a half-open link."""
    cdef cattp_link_t *link
    cdef expected_t *expected
    cdef uint32_t handle
    if not pdu.flags & GW_PDU_SYN or pdu.flags & GW_PDU_ACK:
        gw_count(&s.counters[CC_STRAY], 1)
        refuse(s, pdu, size, address, port, RST_UNEXPECTED_PDU)
        return
    handle = admitted(s, pdu)
    if not handle:
        gw_count(&s.counters[CC_NOT_ADMITTED], 1)
        return
    if not makes_sense(pdu):
        gw_count(&s.counters[CC_ILLEGAL], 1)
        refuse(s, pdu, size, address, port, RST_ILLEGAL_PARAMETERS)
        return
    expected = expected_at(s, handle - 1)
    if s.counters[CC_HALF_OPEN] >= s.limits.max_half_open or expected.refs >= CATTP_HALVES_MOST:
        gw_count(&s.counters[CC_HALF_OPEN_FULL], 1)
        return
    link = link_take(s, address, port, pdu.source)
    if link == NULL:
        gw_count(&s.counters[CC_FULL], 1)
        return
    gw_count(&s.counters[CC_LINKED], 1)
    gw_count(&s.counters[CC_HALF_OPEN], 1)
    expected.refs += 1
    link.expected = handle
    link.first = first_number(s)
    link.acknowledged = link.first
    link.next = link.first + 1
    link.rto_ms = min(max(s.limits.rto_first_ms, s.limits.rto_least_ms), s.limits.rto_most_ms)
    note_opening(s, link, pdu)
    allow(s, link, size)
    send_opening(s, link)
    arm(s, link)


cdef void on_rst(cattp_t *s, cattp_link_t *link, const gw_pdu_t *pdu) noexcept nogil:
    # A forged one would have to guess the number (§4: it is checked as that of any other). Past the window there may be
    # a NUL, and the RST is the next.
    if distance(link.current, pdu.sequence) > s.limits.window + 2:
        gw_count(&s.counters[CC_OUTSIDE], 1)
    else:
        finish(s, link, CATTP_PEER, pdu.reason)


cdef int open_link(cattp_t *s, cattp_link_t *link, const gw_pdu_t *pdu) noexcept nogil:
    """The final ACK: only now is the address the peer's. 0: it came too late, the link is over."""
    cdef expected_t *expected = expected_at(s, link.expected - 1)
    cdef cattp_event_t *e
    if expected.flags & EXPECTED_FORGOTTEN or (not expected.open and is_over(s, expected)):
        end(s, link, CATTP_ASKED, RST_TEMPORARY)
        return 0
    if expected.open:
        # a card that came back, or whose address changed: the older link would wait for nobody
        end(s, link_at(s, expected.open - 1), CATTP_REPLACED, RST_NORMAL)
    expected.open = link.slot + 1
    link.state = CATTP_OPEN
    gw_count(&s.counters[CC_HALF_OPEN], <uint64_t>-1)
    gw_count(&s.counters[CC_OPEN], 1)
    gw_count(&s.counters[CC_OPENED], 1)
    if link.opening_tries == 1:
        sample(s, link, s.now - link.since_ms)
    link.heard_ms = s.now
    link.active_ms = s.now
    settle(s, link, pdu)
    e = say(s, CATTP_EV_OPENED, link_id(link), expected.cookie, 0)
    if e != NULL:
        e.count = <uint32_t>link.max_pdu << 16 | link.max_sdu
    return 1


cdef void on_syn_rcvd(cattp_t *s, cattp_link_t *link, const gw_pdu_t *pdu, uint32_t size) noexcept nogil:
    cdef uint32_t handle
    if pdu.flags & GW_PDU_RST:
        on_rst(s, link, pdu)
    elif pdu.flags & GW_PDU_SYN and not pdu.flags & GW_PDU_ACK:
        gw_count(&s.counters[CC_DUPLICATE], 1)
        # the same again: our answer was lost. Another number: the peer started again
        if pdu.sequence != link.current:
            handle = admitted(s, pdu)
            if not handle:
                return
            if not makes_sense(pdu):
                end(s, link, CATTP_ILLEGAL, RST_ILLEGAL_PARAMETERS)
                return
            if handle != link.expected:
                if expected_at(s, handle - 1).refs >= CATTP_HALVES_MOST:
                    return
                expected_at(s, handle - 1).refs += 1
                expected_drop(s, link.expected)
                link.expected = handle
            note_opening(s, link, pdu)
        allow(s, link, size)
        answer_opening(s, link)
    elif pdu.acknowledgement != link.first:
        refuse(s, pdu, size, link.address, link.port, RST_UNEXPECTED_PDU)
    elif not pdu.flags & GW_PDU_SYN or pdu.sequence == link.current:
        if open_link(s, link, pdu):
            on_open(s, link, pdu)


# --- receiving -------------------------------------------------------------------------------------------------------

cdef int has_partial(cattp_t *s, busy_t *busy) noexcept nogil:
    """Place for an SDU that comes in parts; 0: there is none."""
    if busy.partial != NULL:
        return 1
    if not busy_claim(s, busy, s.limits.max_sdu):
        return 0
    busy.partial = <uint8_t *>malloc(s.limits.max_sdu)
    if busy.partial == NULL:
        busy_unclaim(s, busy, s.limits.max_sdu)
        return 0
    return 1


cdef int append(cattp_t *s, cattp_link_t *link, uint16_t sequence, uint8_t flags, const uint8_t *data,
                uint32_t size) noexcept nogil:
    """The next in order. What has SEG found its place already: `take` and `hold` saw to it."""
    cdef busy_t *busy = link.busy
    cdef uint32_t there = busy.partial_bytes if busy != NULL else 0
    link.current = sequence
    if flags & GW_PDU_NUL:
        return TAKEN
    if there + size > s.limits.max_sdu:
        return TOO_LARGE
    if flags & GW_PDU_SEG:
        memcpy(busy.partial + there, data, size)
        busy.partial_bytes = there + size
        return TAKEN
    say_received(s, link, busy.partial if there else NULL, there, data, size)
    if there:
        busy.partial_bytes = 0
    return TAKEN


cdef int hold(cattp_t *s, cattp_link_t *link, const gw_pdu_t *pdu, uint16_t ahead) noexcept nogil:
    cdef busy_t *busy = busy_of(s, link)
    cdef gw_buffer_t *buffer = NULL
    cdef uint32_t at, i
    if busy == NULL or (pdu.flags & GW_PDU_SEG and not has_partial(s, busy)):
        return NO_ROOM
    if not pdu.flags & GW_PDU_NUL:
        if not busy_claim(s, busy, pdu.data_bytes):
            return NO_ROOM
        buffer = gw_buffer_new(pdu.data, pdu.data_bytes)
        if buffer == NULL:
            busy_unclaim(s, busy, pdu.data_bytes)
            return NO_ROOM
    at = busy.held_count
    while at and distance(link.current, busy.held[at - 1].sequence) > ahead:
        at -= 1
    for i in range(busy.held_count, at, -1):
        busy.held[i] = busy.held[i - 1]
    busy.held[at].buffer = buffer
    busy.held[at].sequence = pdu.sequence
    busy.held[at].pdu_flags = pdu.flags
    busy.held_count += 1
    return HELD


cdef int take(cattp_t *s, cattp_link_t *link, const gw_pdu_t *pdu) noexcept nogil:
    cdef uint16_t ahead = distance(link.current, pdu.sequence)
    cdef busy_t *busy = link.busy
    cdef held_t *held
    cdef uint32_t i, drained = 0
    cdef int verdict
    if ahead == 0 or ahead >= 0x8000:
        return DUPLICATE
    if busy != NULL:
        for i in range(busy.held_count):
            if busy.held[i].sequence == pdu.sequence:
                return DUPLICATE
    if ahead > s.limits.window:
        return OUTSIDE
    if pdu.data_bytes > s.limits.max_pdu - <uint32_t>GW_PDU_HEAD_BYTES:
        return TOO_LARGE
    if ahead > 1:
        return hold(s, link, pdu, ahead)
    if pdu.flags & GW_PDU_SEG:
        busy = busy_of(s, link)
        if busy == NULL or not has_partial(s, busy):
            return NO_ROOM
    verdict = append(s, link, pdu.sequence, pdu.flags, pdu.data, pdu.data_bytes)
    if busy == NULL or not busy.held_count:
        return verdict
    while verdict == TAKEN and drained < busy.held_count:
        held = &busy.held[drained]
        if distance(link.current, held.sequence) != 1:
            break
        if held.buffer == NULL:
            link.current = held.sequence
        else:
            verdict = append(s, link, held.sequence, held.pdu_flags, held.buffer.data, held.buffer.size)
            busy_unclaim(s, busy, held.buffer.size)
            gw_buffer_drop(held.buffer)
        drained += 1
    for i in range(drained, busy.held_count):
        busy.held[i - drained] = busy.held[i]
    busy.held_count -= <uint16_t>drained
    return verdict


cdef void on_open(cattp_t *s, cattp_link_t *link, const gw_pdu_t *pdu) noexcept nogil:
    cdef cattp_event_t *e
    cdef uint32_t done
    cdef int verdict, owes = 0
    if pdu.flags & GW_PDU_RST:
        on_rst(s, link, pdu)
        return
    if pdu.flags & GW_PDU_SYN:
        # a late copy, or our ACK was lost, or a forged one, or the peer started again: an acknowledgement is right for
        # all, for who started again answers it with a RST (as RFC 5961 §4 does for TCP)
        gw_count(&s.counters[CC_DUPLICATE], 1)
        acknowledge(s, link)
        return
    if not is_possible(link, pdu.acknowledgement):
        gw_count(&s.counters[CC_IMPOSSIBLE], 1)
        acknowledge(s, link)
        return
    link.heard_ms = s.now
    done = settle(s, link, pdu)
    if done:
        link.active_ms = s.now
        gw_count(&s.counters[CC_DELIVERED], done)
        e = say(s, CATTP_EV_DELIVERED, link_id(link), cookie_of(s, link), 0)
        if e != NULL:
            e.count = done
    if gw_pdu_consumes(pdu):
        owes = 1
        verdict = take(s, link, pdu)
        if verdict == TOO_LARGE:
            end(s, link, CATTP_ILLEGAL, RST_ILLEGAL_PARAMETERS)
            return
        if verdict == DUPLICATE:
            gw_count(&s.counters[CC_DUPLICATE], 1)
        elif verdict == OUTSIDE:
            gw_count(&s.counters[CC_OUTSIDE], 1)
        elif verdict == HELD:
            gw_count(&s.counters[CC_HELD], 1)
        elif verdict == NO_ROOM:
            gw_count(&s.counters[CC_NO_ROOM], 1)
    if not resend(s, link):
        return
    if advance(s, link) and (link.busy == NULL or not link.busy.held_count):
        owes = 0                    # data said it along the way
    if owes:
        acknowledge(s, link)
    close_if_done(s, link)


cdef void handle_linked(cattp_t *s, cattp_link_t *link, const gw_pdu_t *pdu, uint32_t size) noexcept nogil:
    gw_count(&s.counters[CC_LINKED], 1)
    if link.state == CATTP_SYN_RCVD:
        on_syn_rcvd(s, link, pdu, size)
    elif link.state == CATTP_OPEN:
        on_open(s, link, pdu)
    elif pdu.flags & GW_PDU_RST:
        release(s, link)            # both know
        return
    elif link.flags & CATTP_FAREWELL:
        gw_count(&s.counters[CC_LATE], 1)
        send_rst(s, link, link.farewell)
    if link.state != CATTP_FREE:
        settle_down(s, link)


cdef void handle_datagram(
        cattp_t *s, const uint8_t *data, uint32_t size, const uint8_t *address, uint16_t port) noexcept nogil:
    cdef gw_pdu_t pdu
    cdef cattp_link_t *link
    gw_count(&s.counters[CC_BYTES_IN], size)
    if gw_pdu_parse(&pdu, data, size) != 0:
        gw_count(&s.counters[CC_MALFORMED], 1)
        return
    if pdu.destination != s.local_port:
        gw_count(&s.counters[CC_FOREIGN], 1)
        refuse(s, &pdu, size, address, port, RST_PORT)
        return
    link = link_find(s, address, port, pdu.source)
    if pdu.version:
        gw_count(&s.counters[CC_VERSION], 1)
        if link == NULL:
            refuse(s, &pdu, size, address, port, RST_VERSION)
        return
    if link != NULL and link.state == CATTP_CLOSE_WAIT and pdu.flags & GW_PDU_SYN and not pdu.flags & GW_PDU_ACK:
        # the card calls again from where it was: nobody waits for the old link any more
        if admitted(s, &pdu):
            release(s, link)
            link = NULL
    if link == NULL:
        handle_stray(s, &pdu, size, address, port)
    else:
        handle_linked(s, link, &pdu, size)


# --- commands --------------------------------------------------------------------------------------------------------

cdef void handle_expect(cattp_t *s, const cattp_command_t *c) noexcept nogil:
    cdef uint32_t handle = expected_find(s, c.identification, c.bytes)
    cdef expected_t *expected
    if handle and expected_at(s, handle - 1).cookie != c.cookie:
        expected_forget(s, handle)  # its links keep the name they had
        handle = 0
    if not handle:
        handle = expected_add(s, c.identification, c.bytes, c.cookie)
        if not handle:
            gw_count(&s.counters[CC_UNEXPECTED], 1)
            say(s, CATTP_EV_UNEXPECTED, 0, c.cookie, 0)
            return
    expected = expected_at(s, handle - 1)
    expected.flags &= ~<uint8_t>EXPECTED_LAPSED
    wheel_arm(&s.wheel, &expected.timer, s.now + c.ms)


cdef void handle_send(cattp_t *s, const cattp_command_t *c, cattp_link_t *link, const uint8_t *sdu,
                      uint32_t size) noexcept nogil:
    """Refused is said, in its place among the link's events, and nothing of it was sent."""
    cdef cattp_event_t *e
    cdef uint8_t why
    if link == NULL or link.state != CATTP_OPEN or link.flags & CATTP_CLOSING:
        why = CATTP_REFUSED_GONE
    elif size == 0 or size > link.max_sdu:
        why = CATTP_REFUSED_SIZE
    elif size + (link.busy.queue.bytes if link.busy != NULL else 0) > s.limits.queued_bytes:
        why = CATTP_REFUSED_QUEUE
    elif offer(s, link, sdu, size):
        gw_count(&s.counters[CC_SDUS_OUT], 1)
        link.active_ms = s.now
        advance(s, link)
        settle_down(s, link)
        return
    else:
        why = CATTP_REFUSED_MEMORY
        settle_down(s, link)
    e = say(s, CATTP_EV_REFUSED, c.link, c.cookie, 0)
    if e != NULL:
        e.cause = why


cdef void handle_command(cattp_t *s, const cattp_command_t *c, const uint8_t *sdu, uint32_t size) noexcept nogil:
    cdef cattp_link_t *link = NULL
    cdef uint32_t handle
    if c.kind == CATTP_CMD_EXPECT:
        handle_expect(s, c)
    elif c.kind == CATTP_CMD_FORGET:
        handle = expected_find(s, c.identification, c.bytes)
        if handle:
            expected_forget(s, handle)
    elif c.kind == CATTP_CMD_STOP:
        s.stopping = 1
    else:
        link = link_by_id(s, c.link)
        if c.kind == CATTP_CMD_SEND:
            handle_send(s, c, link, sdu, size)
        elif link == NULL or link.state != CATTP_OPEN:
            return                  # it is over: whoever asks was told, or will be
        elif c.kind == CATTP_CMD_CLOSE:
            close_when_done(s, link, CATTP_ASKED)
            settle_down(s, link)
        elif c.kind == CATTP_CMD_ABORT:
            end(s, link, CATTP_ASKED, c.reason)
