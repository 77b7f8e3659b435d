"""Traffic of one link; every function runs in the reactor's thread, without the GIL and without waiting."""
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset
from gateway._native.farewell cimport farewell_next
from gateway._native.frame cimport (
    FRAME_ACK, FRAME_HELLO, FRAME_MALFORMED, FRAME_NEED_MORE, FRAME_PING, FRAME_SHOWN, FRAME_TOO_LARGE, FRAME_WHOLE,
    IDS_MAX, frame_parse, frame_t, ids_parse)
from gateway._native.link cimport (
    LINK_CLOSING, LINK_DIRTY, LINK_FREE, LINK_HELD, LINK_HELLO, LINK_LIVE, LINK_NEW, LINK_PAUSED, LINK_PROVIDER,
    LINK_SHAKING, LINK_SPILLED, LINK_STALLED, inflight_add, inflight_find, inflight_remove, inflight_t, link_id,
    link_leave_all, link_t, partial_t, slab_at, slab_give)
from gateway._native.mailbox cimport gw_ring_reserve, gw_ring_room
from gateway._native.outbox cimport gw_buffer_t, outbox_clear, outbox_flush, outbox_push
from gateway._native.plane cimport *
from gateway._native.secure cimport (
    SECURE_AGAIN, SECURE_BROKEN, secure_close, secure_flush, secure_read, socket_of, tls_of)
from gateway._native.tls cimport tls_finish
from gateway._native.wheel cimport wheel_arm, wheel_cancel

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *buf, size_t n, int flags)
    int shutdown(int fd, int how)
    enum: MSG_DONTWAIT, SHUT_WR

cdef extern from "<unistd.h>" nogil:
    int close(int fd)


# --- events up -------------------------------------------------------------------------------------------------------

cdef int has_room(reactor_t *r) noexcept nogil:
    if r.up.capacity - (r.up.tail_next - r.up.head_seen) >= r.up_reserve:
        return 1
    return gw_ring_room(&r.up) >= r.up_reserve


cdef int may_read(reactor_t *r) noexcept nogil:
    if r.up.capacity - (r.up.tail_next - r.up.head_seen) >= 2 * r.up_reserve:
        return 1
    return gw_ring_room(&r.up) >= 2 * r.up_reserve


cdef void say(reactor_t *r, uint16_t kind, uint8_t flag, uint64_t link, uint64_t seq, uint32_t registration,
              uint64_t sent_ms) noexcept nogil:
    cdef event_t *e = <event_t *>gw_ring_reserve(&r.up, sizeof(event_t))
    if e == NULL:
        return      # can not be: the room was there (step_bytes)
    memset(e, 0, sizeof(event_t))
    e.kind = kind
    e.flag = flag
    e.link = link
    e.seq = seq
    e.registration = registration
    e.sent_ms = sent_ms
    e.acked_ms = r.now_ms + r.unix_base_ms


cdef void say_frame(reactor_t *r, link_t *link, const frame_t *f) noexcept nogil:
    cdef event_t *e = <event_t *>gw_ring_reserve(&r.up, <uint32_t>sizeof(event_t) + f.size)
    if e == NULL:
        return
    memset(e, 0, sizeof(event_t))
    e.kind = EV_FRAME
    e.frame = f.kind
    e.link = link_id(&r.slab, link)
    e.seq = link.device
    memcpy(<uint8_t *>e + sizeof(event_t), f.body, f.size)


# --- the end, and bytes out -------------------------------------------------------------------------------------------

cdef void mark_dirty(reactor_t *r, link_t *link) noexcept nogil:
    if not link.flags & LINK_DIRTY:
        link.flags |= LINK_DIRTY
        link.next_dirty = r.dirty
        r.dirty = link.slot + 1


cdef void watch(reactor_t *r, link_t *link, uint32_t events, int op) noexcept nogil:
    cdef epoll_event e
    e.events = events
    e.data.u64 = <uint64_t>link.slot << 32 | link.generation
    epoll_ctl(r.epoll, op, socket_of(r, link), &e)


cdef void link_free(reactor_t *r, link_t *link) noexcept nogil:
    wheel_cancel(&r.wheel, &link.timer)
    outbox_clear(&link.outbox, &r.nodes)
    if link.fd >= 0:
        close(link.fd)
    else:
        secure_close(r, link)
    slab_give(&r.slab, link)
    gw_count(&r.counters[C_LINKS], <uint64_t>-1)


cdef void link_down(reactor_t *r, link_t *link, uint8_t reason, gw_buffer_t *words) noexcept nogil:
    """The link is over: what was unacked is reported lost, last words are sent, the socket lingers shortly so that
    they arrive (closing with unread bytes would reset the connection and could destroy them)."""
    cdef inflight_t *entry
    cdef uint64_t me = link_id(&r.slab, link)
    cdef int was = link.state
    if was == LINK_CLOSING or was == LINK_FREE:
        return
    gw_count(&r.ended[reason], 1)
    while link.inflight != NULL:
        entry = link.inflight
        say(r, EV_LOST, 0, me, entry.seq, entry.registration, 0)
        inflight_remove(&r.inflight, &r.wheel, link, entry)
        gw_count(&r.counters[C_INFLIGHT], <uint64_t>-1)
    if was > LINK_NEW:
        say(r, EV_DOWN, reason, me, link.device, 0, 0)
    link_leave_all(&r.slab, &r.groups, link)
    read_on(r, link)
    free(link.partial)
    link.partial = NULL
    link.state = LINK_CLOSING
    if reason == REASON_PEER or reason == REASON_SOCKET or reason == REASON_FULL:
        link_free(r, link)
        return
    if words == NULL and reason == REASON_OVERLOADED and r.elsewhere != NULL:
        words = farewell_next(r.elsewhere)
    if words == NULL:
        words = r.last_words[reason]
    if reason == REASON_TLS:
        outbox_clear(&link.outbox, &r.nodes)    # an alert was the last that it will read
    # Before the handshake is done there is nothing that words could be said in.
    if was >= LINK_NEW and words != NULL and outbox_push(&link.outbox, &r.nodes, words) == 0:
        gw_count(&r.counters[C_FRAMES_OUT], 1)
    wheel_arm(&r.wheel, &link.timer, r.now + r.set.linger_ticks)
    mark_dirty(r, link)


cdef void say_ready(reactor_t *r, link_t *link) noexcept nogil:
    """With what is in flight and to whom, which must not be sent once more: all sequences, then their registrations."""
    cdef event_t *e = <event_t *>gw_ring_reserve(&r.up, <uint32_t>sizeof(event_t) + link.inflight_count * 12u)
    cdef uint64_t *seqs
    cdef uint32_t *registrations
    cdef inflight_t *entry = link.inflight
    if e == NULL:
        return
    memset(e, 0, sizeof(event_t))
    e.kind = EV_READY
    e.link = link_id(&r.slab, link)
    e.seq = link.device
    e.registration = <uint32_t>(link.window - link.inflight_count)
    e.sent_ms = link.inflight_count
    seqs = <uint64_t *>(<uint8_t *>e + sizeof(event_t))
    registrations = <uint32_t *>(seqs + link.inflight_count)
    while entry != NULL:
        seqs[0] = entry.seq
        registrations[0] = entry.registration
        seqs += 1
        registrations += 1
        entry = entry.next


cdef void maybe_ready(reactor_t *r, link_t *link) noexcept nogil:
    """Only once the control thread holds back: what it sent before it knew has then come back as lost, so READY finds
    everything waiting in its order, and nothing overtakes it."""
    if (link.flags & LINK_HELD and link.state == LINK_LIVE and link.inflight_count * 2 <= link.window
            and link.outbox.bytes * 2 <= r.set.outbox_bytes):
        link.flags &= ~<uint8_t>(LINK_SPILLED | LINK_HELD)
        say_ready(r, link)


cdef void read_on(reactor_t *r, link_t *link) noexcept nogil:
    if link.flags & LINK_PAUSED:
        link.flags &= ~<uint8_t>LINK_PAUSED
        watch(r, link, EPOLLIN, EPOLL_CTL_MOD)


cdef void link_flush(reactor_t *r, link_t *link) noexcept nogil:
    cdef long sent
    if link.fd < 0 and tls_of(r, link).wants_write and link.state > LINK_SHAKING:
        tls_of(r, link).wants_write = 0
        watch(r, link, EPOLLIN | EPOLLOUT if link.flags & LINK_STALLED else EPOLLIN, EPOLL_CTL_MOD)
    if link.outbox.tail != NULL:
        sent = outbox_flush(&link.outbox, &r.nodes, link.fd) if link.fd >= 0 else secure_flush(r, link)
        if sent < 0:
            if link.state == LINK_CLOSING:
                link_free(r, link)
            else:
                link_down(r, link, REASON_SOCKET, NULL)
            return
        if sent > 0:
            gw_count(&r.counters[C_BYTES_OUT], <uint64_t>sent)
            link.stalled_at = r.now
    if link.outbox.tail != NULL:
        if not link.flags & LINK_STALLED:
            link.flags |= LINK_STALLED
            link.stalled_at = r.now
            gw_count(&r.counters[C_STALLED], 1)
            watch(r, link, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD)
            if link.state == LINK_LIVE and <int32_t>(link.timer.at - (r.now + r.set.slow_ticks)) > 0:
                wheel_arm(&r.wheel, &link.timer, r.now + r.set.slow_ticks)
        return
    if link.flags & LINK_STALLED:
        link.flags &= ~<uint8_t>LINK_STALLED
        watch(r, link, EPOLLIN, EPOLL_CTL_MOD)
    if link.state == LINK_CLOSING:
        if link.fd < 0 and not tls_finish(&r.tls, tls_of(r, link)):
            link.flags |= LINK_STALLED      # close_notify goes when the socket takes bytes
            watch(r, link, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD)
            return
        shutdown(socket_of(r, link), SHUT_WR)
    else:
        maybe_ready(r, link)


cdef void flush_dirty(reactor_t *r) noexcept nogil:
    cdef link_t *link
    while r.dirty and has_room(r):
        link = slab_at(&r.slab, r.dirty - 1)
        r.dirty = link.next_dirty
        link.flags &= ~<uint8_t>LINK_DIRTY
        if link.state != LINK_FREE:
            link_flush(r, link)


cdef int link_send(reactor_t *r, link_t *link, gw_buffer_t *buffer) noexcept nogil:
    """Queue one frame; 0, or -1 where there was no memory (the link is closed then)."""
    if outbox_push(&link.outbox, &r.nodes, buffer) != 0:
        link_down(r, link, REASON_MEMORY, NULL)
        return -1
    gw_count(&r.counters[C_FRAMES_OUT], 1)
    mark_dirty(r, link)
    return 0


cdef uint64_t sent_at(const reactor_t *r, const inflight_t *entry) noexcept nogil:
    """Unix ms. An entry keeps 32 bits of the clock, which turn over every 50 days; it is never that old."""
    return r.now_ms - <uint32_t>(<uint32_t>(r.now_ms - r.start_ms) - entry.sent_ms) + r.unix_base_ms


# --- bytes in ---------------------------------------------------------------------------------------------------------

cdef int may_login(reactor_t *r) noexcept nogil:
    """Token bucket of one second's size."""
    if r.refusing:
        return 0
    if r.set.logins_per_s == 0:
        return 1
    r.login_tokens += (r.now_ms - r.login_refill_ms) * (r.set.logins_per_s / 1000.0)
    r.login_refill_ms = r.now_ms
    if r.login_tokens > r.set.logins_per_s:
        r.login_tokens = r.set.logins_per_s
    if r.login_tokens < 1.0:
        return 0
    r.login_tokens -= 1.0
    return 1


cdef void handle_acks(reactor_t *r, link_t *link, const frame_t *f) noexcept nogil:
    cdef uint64_t ids[IDS_MAX]
    cdef inflight_t *entry
    cdef uint64_t me = link_id(&r.slab, link)
    cdef uint8_t flags = ACK_SHOWN if f.kind == FRAME_SHOWN else ACK_WHOLE if f.kind == FRAME_WHOLE else 0
    cdef int i, n = ids_parse(f.body, f.size, ids)
    if n < 0:
        link_down(r, link, REASON_MALFORMED, NULL)
        return
    for i in range(n):
        entry = inflight_find(link, ids[i], 0, 1)
        if entry == NULL:
            gw_count(&r.counters[C_LATE_ACKS], 1)
            say(r, EV_LATE, flags, me, ids[i], 0, link.device)
            continue
        gw_count(&r.counters[C_ACKS], 1)
        say(r, EV_ACK, flags, me, ids[i], entry.registration, sent_at(r, entry))
        inflight_remove(&r.inflight, &r.wheel, link, entry)
        gw_count(&r.counters[C_INFLIGHT], <uint64_t>-1)
    maybe_ready(r, link)


cdef void handle_frame(reactor_t *r, link_t *link, const frame_t *f) noexcept nogil:
    gw_count(&r.counters[C_FRAMES_IN], 1)
    if link.state == LINK_NEW:
        if f.kind != FRAME_HELLO:
            link_down(r, link, REASON_OUT_OF_ORDER, NULL)
        elif not may_login(r):
            link_down(r, link, REASON_OVERLOADED, NULL)
        else:
            link.state = LINK_HELLO
            say_frame(r, link, f)
    elif f.kind == FRAME_PING:
        gw_count(&r.counters[C_HEARTBEATS], 1)
        # One PONG answers every PING before it, so a peer that never reads can not grow its outbox by pinging.
        if link.outbox.tail == NULL or link.outbox.tail.buffer != r.pong:
            link_send(r, link, r.pong)
    elif f.kind == FRAME_ACK or f.kind == FRAME_SHOWN or f.kind == FRAME_WHOLE:
        if link.flags & LINK_PROVIDER:
            link_down(r, link, REASON_OUT_OF_ORDER, NULL)
        else:
            handle_acks(r, link, f)
    elif f.kind == FRAME_HELLO:
        link_down(r, link, REASON_OUT_OF_ORDER, NULL)
    else:
        say_frame(r, link, f)


cdef void handle_bytes(reactor_t *r, link_t *link, ssize_t got) noexcept nogil:
    cdef uint8_t *p = r.scratch
    cdef size_t n = <size_t>got, at = 0, need
    cdef partial_t *partial = link.partial
    cdef long used
    cdef frame_t f
    link.seen = r.now
    if partial != NULL:
        need = partial.size + n
        if need > partial.capacity:
            partial = <partial_t *>realloc(partial, sizeof(partial_t) + need * 2)
            if partial == NULL:
                link_down(r, link, REASON_MEMORY, NULL)
                return
            link.partial = partial
            partial.capacity = <uint32_t>(need * 2)
        memcpy(partial.data + partial.size, p, n)
        partial.size = <uint32_t>need
        p = partial.data
        n = need
    while True:
        used = frame_parse(
            p + at, n - at, r.set.login_frame_bytes if link.state != LINK_LIVE
            else r.set.provider_frame_bytes if link.flags & LINK_PROVIDER else r.set.max_frame_bytes, &f)
        if link.state == LINK_HELLO:
            # What follows HELLO waits here until the control thread has decided; the rest waits in the kernel.
            used = FRAME_NEED_MORE
            if n - at > r.set.login_frame_bytes:
                link.flags |= LINK_PAUSED
                watch(r, link, 0, EPOLL_CTL_MOD)
        if used <= 0:
            break
        at += <size_t>used
        handle_frame(r, link, &f)
        if link.state == LINK_CLOSING or link.state == LINK_FREE:
            return      # the partial buffer is gone too
    if used == FRAME_MALFORMED:
        link_down(r, link, REASON_MALFORMED, NULL)
    elif used == FRAME_TOO_LARGE:
        link_down(r, link, REASON_TOO_LARGE, NULL)
    elif at == n:
        free(partial)
        link.partial = NULL
    elif partial != NULL:
        if at:
            memmove(partial.data, partial.data + at, n - at)
            partial.size = <uint32_t>(n - at)
    else:
        partial = <partial_t *>malloc(sizeof(partial_t) + (n - at))
        if partial == NULL:
            link_down(r, link, REASON_MEMORY, NULL)
            return
        partial.size = partial.capacity = <uint32_t>(n - at)
        memcpy(partial.data, p + at, n - at)
        link.partial = partial


cdef void secure_waits(reactor_t *r, link_t *link) noexcept nogil:
    """TLS had nothing for us. Either it must write before it can read, and what can be read would wake us in vain until
    then; or a write waited for what it has read now."""
    if tls_of(r, link).wants_write:
        watch(r, link, EPOLLOUT, EPOLL_CTL_MOD)
    elif link.outbox.tail != NULL:
        mark_dirty(r, link)


cdef void link_readable(reactor_t *r, link_t *link) noexcept nogil:
    cdef ssize_t got
    if link.fd >= 0:
        got = recv(link.fd, r.scratch, SCRATCH_BYTES, MSG_DONTWAIT)
        if got < 0 and (errno == EAGAIN or errno == EINTR):
            return
    else:
        got = secure_read(r, link)
        if got == SECURE_AGAIN:
            secure_waits(r, link)
            return
    if got > 0:
        gw_count(&r.counters[C_BYTES_IN], <uint64_t>got)
        if link.state != LINK_CLOSING:
            handle_bytes(r, link, got)
            if link.fd < 0 and link.state > LINK_SHAKING and tls_of(r, link).ended:
                link_down(r, link, REASON_PEER, NULL)   # its end came with its last bytes; nothing may tell of it again
    elif link.state == LINK_CLOSING:
        link_free(r, link)
    else:
        link_down(
            r, link, REASON_PEER if got == 0 else REASON_TLS if got == SECURE_BROKEN else REASON_SOCKET, NULL)


# --- notifications out ------------------------------------------------------------------------------------------------

cdef int notify(reactor_t *r, link_t *link, gw_buffer_t *buffer, uint64_t seq, uint32_t registration, uint32_t ms,
                int again) noexcept nogil:
    """Queue a notification and arm its ack timer; what does not fit stays in the journal and is reported."""
    cdef inflight_t *entry = inflight_find(link, seq, registration, 0)
    cdef uint64_t me = link_id(&r.slab, link)
    if entry != NULL and not again:
        return 0    # on its way already
    if entry == NULL and (link.inflight_count >= link.window or link.flags & LINK_SPILLED):
        gw_count(&r.counters[C_SPILLED_WINDOW], 1)
        link.flags |= LINK_SPILLED
        say(r, EV_LOST, 1, me, seq, registration, 0)
        return 0
    # Where READY could be said it is taken, however large: else the two would chase each other.
    if link.outbox.bytes + buffer.size > r.set.outbox_bytes and link.outbox.bytes * 2 > r.set.outbox_bytes:
        gw_count(&r.counters[C_SPILLED_OUTBOX], 1)
        link.flags |= LINK_SPILLED
        if entry != NULL:
            inflight_remove(&r.inflight, &r.wheel, link, entry)
            gw_count(&r.counters[C_INFLIGHT], <uint64_t>-1)
        say(r, EV_LOST, 1, me, seq, registration, 0)
        return 0
    if entry == NULL:
        entry = inflight_add(&r.inflight, link, seq, registration)
        if entry == NULL:
            say(r, EV_LOST, 1, me, seq, registration, 0)
            link_down(r, link, REASON_MEMORY, NULL)
            return 0
        gw_count(&r.counters[C_INFLIGHT], 1)
        entry.timer.kind = TIMER_ACK
    entry.sent_ms = <uint32_t>(r.now_ms - r.start_ms)
    wheel_arm(&r.wheel, &entry.timer, r.now + (ms + TICK_MS - 1) // TICK_MS)
    gw_count(&r.counters[C_NOTIFIED], 1)
    return link_send(r, link, buffer) == 0
