"""The data plane's thread: accept, parse, heartbeat, ack, timers, fan-out, write; never takes the GIL while it runs."""
cimport cython
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EWOULDBLOCK, errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset
from gateway._native.frame cimport (
    FRAME_ACK, FRAME_HELLO, FRAME_MALFORMED, FRAME_PING, FRAME_SHOWN, FRAME_TOO_LARGE, IDS_MAX, frame_parse, frame_t,
    ids_parse)
from gateway._native.group cimport group_t, member_t
from gateway._native.link cimport (
    LINK_CLOSING, LINK_DIRTY, LINK_FREE, LINK_HELLO, LINK_LIVE, LINK_NEW, LINK_SPILLED, LINK_STALLED, groups_bytes,
    groups_free, inflight_add, inflight_find, inflight_pool_free, inflight_remove, inflight_t, link_id, link_join,
    link_leave, link_leave_all, link_t, membership_t, partial_t, slab_at, slab_find, slab_free, slab_give, slab_take)
from gateway._native.mailbox cimport (
    gw_ring_free, gw_ring_init, gw_ring_peek, gw_ring_pop, gw_ring_publish, gw_ring_reserve, gw_ring_room,
    gw_ring_sleep)
from gateway._native.outbox cimport (
    gw_buffer_drop, gw_buffer_new, gw_buffer_t, gw_buffer_take, outbox_clear, outbox_flush, outbox_pool_free,
    outbox_push)
from gateway._native.wheel cimport (
    wheel_advance, wheel_arm, wheel_cancel, wheel_init, wheel_next, wheel_node_t, wheel_pop)

cdef extern from "gw_atomic.h" nogil:
    void gw_count(uint64_t *c, uint64_t n)
    uint64_t gw_read(const uint64_t *c)

cdef extern from "gw_sys.h" nogil:
    int gw_own_descriptors(int keep_a, int keep_b)
    uint64_t gw_monotonic_ms()
    uint64_t gw_unix_ms()

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

cdef extern from "<sys/socket.h>" nogil:
    int accept4(int fd, void *address, void *length, int flags)
    ssize_t recv(int fd, void *buf, size_t n, int flags)
    int shutdown(int fd, int how)
    enum: SOCK_NONBLOCK, SOCK_CLOEXEC, MSG_DONTWAIT, SHUT_WR

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int usleep(unsigned int us)
    ssize_t read(int fd, void *buf, size_t n)

cdef enum:
    TICK_MS = 10
    TIMER_LINK = 1
    TIMER_ACK = 2
    TIMER_ACCEPT = 3
    SCRATCH_BYTES = 16384           # read at once from one link
    UP_RESERVE = 1048576            # room one event of any kind may need; see gw_ring.h
    ACCEPTS_A_TURN = 256
    EVENTS_A_TURN = 512
    COMMANDS_A_TURN = 4096
    FAN_LINKS_A_TURN = 2048
    TIMERS_A_TURN = 8192
    LATE = 0xFFFFFFFF               # registration of an ack nobody waits for
    KEY_LISTENER = 0xFFFFFFFF       # epoll keys beyond any slot
    KEY_MAILBOX = 0xFFFFFFFE

REASONS = (
    "peer", "socket", "login_timeout", "heartbeat_timeout", "slow_consumer", "overloaded", "malformed_frame",
    "frame_too_large", "out_of_order", "control", "draining", "full", "memory")
COUNTERS = (
    "accepted", "accept_errors", "links", "logins", "frames_in", "frames_out", "bytes_in", "bytes_out", "heartbeats",
    "notified", "acks", "late_acks", "ack_timeouts", "spilled_window", "spilled_outbox", "gone", "mailbox_full",
    "stalled", "inflight")


# --- events up -------------------------------------------------------------------------------------------------------

cdef inline int has_room(reactor_t *r) noexcept nogil:
    """Is there place for the events of one more step? Every step asks before it begins, so an event never fails."""
    if r.up.capacity - (r.up.tail_next - r.up.head_seen) >= UP_RESERVE:
        return 1
    return gw_ring_room(&r.up) >= UP_RESERVE


cdef void say(reactor_t *r, uint16_t kind, uint8_t flag, uint64_t link, uint64_t seq, uint32_t registration,
              uint64_t sent_ms) noexcept nogil:
    cdef event_t *e = <event_t *>gw_ring_reserve(&r.up, sizeof(event_t))
    if e == NULL:
        return      # can not be: UP_RESERVE was there
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
    memcpy(<uint8_t *>e + sizeof(event_t), f.body, f.size)


# --- links: end, flush, last words -----------------------------------------------------------------------------------

cdef inline void mark_dirty(reactor_t *r, link_t *link) noexcept nogil:
    if not link.flags & LINK_DIRTY:
        link.flags |= LINK_DIRTY
        link.next_dirty = r.dirty
        r.dirty = link.slot + 1


cdef void watch(reactor_t *r, link_t *link, uint32_t events, int op) noexcept nogil:
    cdef epoll_event e
    e.events = events
    e.data.u64 = <uint64_t>link.slot << 32 | link.generation
    epoll_ctl(r.epoll, op, link.fd, &e)


cdef void link_free(reactor_t *r, link_t *link) noexcept nogil:
    wheel_cancel(&r.wheel, &link.timer)
    outbox_clear(&link.outbox, &r.nodes)
    close(link.fd)
    slab_give(&r.slab, link)
    gw_count(&r.counters[C_LINKS], <uint64_t>-1)


cdef void link_down(reactor_t *r, link_t *link, uint8_t reason, gw_buffer_t *words) noexcept nogil:
    """The link is over: what was unacked is reported lost, last words are sent, the socket lingers shortly so that
    they arrive (closing with unread bytes would reset the connection and could destroy them)."""
    cdef inflight_t *entry
    cdef uint64_t me = link_id(&r.slab, link)
    if link.state == LINK_CLOSING or link.state == LINK_FREE:
        return
    gw_count(&r.ended[reason], 1)
    while link.inflight != NULL:
        entry = link.inflight
        say(r, EV_LOST, 0, me, entry.seq, entry.registration, 0)
        inflight_remove(&r.inflight, &r.wheel, link, entry)
        gw_count(&r.counters[C_INFLIGHT], <uint64_t>-1)
    if link.state != LINK_NEW:
        say(r, EV_DOWN, reason, me, link.device, 0, 0)
    link_leave_all(&r.slab, &r.groups, link)
    free(link.partial)
    link.partial = NULL
    link.state = LINK_CLOSING
    if reason == REASON_PEER or reason == REASON_SOCKET or reason == REASON_FULL:
        link_free(r, link)
        return
    if words == NULL:
        words = r.last_words[reason]
    if words != NULL and outbox_push(&link.outbox, &r.nodes, words) == 0:
        gw_count(&r.counters[C_FRAMES_OUT], 1)
    wheel_arm(&r.wheel, &link.timer, r.now + r.set.linger_ticks)
    mark_dirty(r, link)


cdef void maybe_ready(reactor_t *r, link_t *link) noexcept nogil:
    if (link.flags & LINK_SPILLED and link.state == LINK_LIVE and link.inflight_count * 2 <= link.window
            and link.outbox.bytes * 2 <= r.set.outbox_bytes):
        link.flags &= ~<uint8_t>LINK_SPILLED
        say(r, EV_READY, 0, link_id(&r.slab, link), link.device, 0, 0)


cdef void link_flush(reactor_t *r, link_t *link) noexcept nogil:
    cdef long sent
    if link.outbox.head != NULL:
        sent = outbox_flush(&link.outbox, &r.nodes, link.fd)
        if sent < 0:
            if link.state == LINK_CLOSING:
                link_free(r, link)
            else:
                link_down(r, link, REASON_SOCKET, NULL)
            return
        if sent > 0:
            gw_count(&r.counters[C_BYTES_OUT], <uint64_t>sent)
            link.stalled_at = r.now
    if link.outbox.head != NULL:
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
        shutdown(link.fd, SHUT_WR)
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


# --- bytes in --------------------------------------------------------------------------------------------------------

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
    cdef uint8_t shown = f.kind == FRAME_SHOWN
    cdef int i, n = ids_parse(f.body, f.size, ids)
    if n < 0:
        link_down(r, link, REASON_MALFORMED, NULL)
        return
    for i in range(n):
        entry = inflight_find(link, ids[i], 0, 1)
        if entry == NULL:
            # After its ack time, or SHOWN after ACK: the control thread knows whether it still means something.
            gw_count(&r.counters[C_LATE_ACKS], 1)
            say(r, EV_ACK, shown, me, ids[i], LATE, 0)
            continue
        gw_count(&r.counters[C_ACKS], 1)
        say(r, EV_ACK, shown, me, ids[i], entry.registration, r.start_ms + entry.sent_ms + r.unix_base_ms)
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
    elif f.kind == FRAME_ACK or f.kind == FRAME_SHOWN:
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
            p + at, n - at, r.set.max_frame_bytes if link.state == LINK_LIVE else r.set.login_frame_bytes, &f)
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


cdef void link_readable(reactor_t *r, link_t *link) noexcept nogil:
    cdef ssize_t got = recv(link.fd, r.scratch, SCRATCH_BYTES, MSG_DONTWAIT)
    if got > 0:
        gw_count(&r.counters[C_BYTES_IN], <uint64_t>got)
        if link.state != LINK_CLOSING:
            handle_bytes(r, link, got)
    elif got < 0 and (errno == EAGAIN or errno == EWOULDBLOCK or errno == EINTR):
        return
    elif link.state == LINK_CLOSING:
        link_free(r, link)
    else:
        link_down(r, link, REASON_PEER if got == 0 else REASON_SOCKET, NULL)


# --- accept ----------------------------------------------------------------------------------------------------------

cdef void listener_watch(reactor_t *r, int op) noexcept nogil:
    cdef epoll_event e
    e.events = EPOLLIN
    e.data.u64 = <uint64_t>KEY_LISTENER << 32
    if r.listener >= 0 and epoll_ctl(r.epoll, op, r.listener, &e) == 0:
        r.listening = op == EPOLL_CTL_ADD


cdef void listener_close(reactor_t *r) noexcept nogil:
    if r.listener >= 0:
        close(r.listener)
    r.listener = -1
    r.listening = 0
    wheel_cancel(&r.wheel, &r.accept_timer)


cdef void accept_links(reactor_t *r) noexcept nogil:
    cdef link_t *link
    cdef int fd, i
    for i in range(ACCEPTS_A_TURN):
        fd = accept4(r.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd < 0:
            if errno == EAGAIN or errno == EWOULDBLOCK:
                return
            if errno == EINTR or errno == ECONNABORTED:
                continue
            # Out of descriptors or memory: the backlog waits in the kernel; look again in 100 ms, don't spin.
            gw_count(&r.counters[C_ACCEPT_ERRORS], 1)
            listener_watch(r, EPOLL_CTL_DEL)
            wheel_arm(&r.wheel, &r.accept_timer, r.now + 10)
            return
        gw_count(&r.counters[C_ACCEPTED], 1)
        link = slab_take(&r.slab) if r.slab.used < r.set.max_links else NULL
        if link == NULL:
            gw_count(&r.ended[REASON_FULL], 1)
            close(fd)
            continue
        gw_count(&r.counters[C_LINKS], 1)
        link.fd = fd
        link.timer.kind = TIMER_LINK
        link.seen = r.now
        wheel_arm(&r.wheel, &link.timer, r.now + r.set.login_ticks)
        watch(r, link, EPOLLIN, EPOLL_CTL_ADD)


# --- notifications out -----------------------------------------------------------------------------------------------

cdef void notify(reactor_t *r, link_t *link, gw_buffer_t *buffer, uint64_t seq, uint32_t registration, uint32_t ms,
                 int again) noexcept nogil:
    """Queue a notification and arm its ack timer; what does not fit stays in the journal and is reported."""
    cdef inflight_t *entry = inflight_find(link, seq, registration, 0)
    cdef uint64_t me = link_id(&r.slab, link)
    if entry != NULL and not again:
        return      # on its way already
    if entry == NULL and link.inflight_count >= link.window:
        gw_count(&r.counters[C_SPILLED_WINDOW], 1)
        link.flags |= LINK_SPILLED
        say(r, EV_LOST, 1, me, seq, registration, 0)
        return
    if link.outbox.bytes + buffer.size > r.set.outbox_bytes and link.outbox.bytes:
        gw_count(&r.counters[C_SPILLED_OUTBOX], 1)
        link.flags |= LINK_SPILLED
        if entry != NULL:
            inflight_remove(&r.inflight, &r.wheel, link, entry)
            gw_count(&r.counters[C_INFLIGHT], <uint64_t>-1)
        say(r, EV_LOST, 1, me, seq, registration, 0)
        return
    if entry == NULL:
        entry = inflight_add(&r.inflight, link, seq, registration)
        if entry == NULL:
            say(r, EV_LOST, 1, me, seq, registration, 0)
            link_down(r, link, REASON_MEMORY, NULL)
            return
        gw_count(&r.counters[C_INFLIGHT], 1)
        entry.timer.kind = TIMER_ACK
    entry.sent_ms = <uint32_t>(r.now_ms - r.start_ms)
    wheel_arm(&r.wheel, &entry.timer, r.now + (ms + TICK_MS - 1) // TICK_MS)
    gw_count(&r.counters[C_NOTIFIED], 1)
    link_send(r, link, buffer)


cdef void fan_drop(fan_t *fan) noexcept nogil:
    cdef fan_item_t *item
    while fan.first != NULL:
        item = fan.first
        fan.first = item.next
        gw_buffer_drop(item.buffer)
        free(item)
    free(fan)


cdef int fan_same(const fan_t *fan, const uint32_t *groups, uint32_t count) noexcept nogil:
    cdef uint32_t i
    if fan.count != count:
        return 0
    for i in range(count):
        if fan.groups[i] != groups[i]:
            return 0
    return 1


cdef int fan_add(reactor_t *r, const command_t *c, const uint32_t *groups) noexcept nogil:
    """Queue a fan-out; one to the same groups as the last that has not begun joins it, so that a burst makes one pass
    over the links and leaves each in one write. Takes over the command's reference. -1: no memory."""
    cdef fan_t *fan = r.fan_tail
    cdef fan_item_t *item = <fan_item_t *>malloc(sizeof(fan_item_t))
    if item == NULL:
        return -1
    item.buffer = c.buffer
    item.seq = c.seq
    item.ms = c.ms
    item.next = NULL
    if fan != NULL and not fan.started and fan_same(fan, groups, c.count):
        fan.last.next = item
        fan.last = item
        return 0
    fan = <fan_t *>malloc(sizeof(fan_t) + c.count * sizeof(uint32_t))
    if fan == NULL:
        free(item)
        return -1
    memset(fan, 0, sizeof(fan_t))
    fan.first = fan.last = item
    fan.position = -1
    fan.count = c.count
    memcpy(fan.groups, groups, c.count * sizeof(uint32_t))
    if r.fan_tail == NULL:
        r.fan_head = fan
    else:
        r.fan_tail.next = fan
    r.fan_tail = fan
    return 0


cdef void fan_to(reactor_t *r, link_t *link, uint32_t registration, const fan_t *fan) noexcept nogil:
    cdef fan_item_t *item = fan.first
    cdef inflight_t *entry
    while item != NULL and link.state == LINK_LIVE:
        if item.ms:
            notify(r, link, item.buffer, item.seq, registration, item.ms, 0)
        else:
            entry = inflight_find(link, item.seq, registration, 0)
            if entry != NULL:
                inflight_remove(&r.inflight, &r.wheel, link, entry)
                gw_count(&r.counters[C_INFLIGHT], <uint64_t>-1)
            link_send(r, link, item.buffer)
        item = item.next


cdef void fan_step(reactor_t *r) noexcept nogil:
    """A slice of the oldest fan-out. Members are walked downwards: one that leaves meanwhile moves a member that was
    served already into its place (served twice at worst, and the in-flight check or the device drops that), never
    one that was not. One that joins meanwhile asks the store what waits for it."""
    cdef fan_t *fan = r.fan_head
    cdef group_t *group
    cdef member_t *member
    cdef link_t *link
    cdef int left = FAN_LINKS_A_TURN
    if fan == NULL:
        return
    fan.started = 1
    while left > 0 and has_room(r):
        if fan.position < 0:
            if fan.group_at == fan.count:
                r.fan_head = fan.next
                if r.fan_head == NULL:
                    r.fan_tail = NULL
                fan_drop(fan)
                return
            if fan.groups[fan.group_at] < r.groups.size:
                fan.position = <long>r.groups.items[fan.groups[fan.group_at]].size - 1
            fan.group_at += 1
            continue
        group = &r.groups.items[fan.groups[fan.group_at - 1]]
        if fan.position >= <long>group.size:
            fan.position = <long>group.size - 1
            continue
        member = &group.members[fan.position]
        fan.position -= 1
        left -= 1
        link = slab_at(&r.slab, member.slot)
        fan_to(r, link, member.registration, fan)


# --- commands --------------------------------------------------------------------------------------------------------

cdef void handle_command(reactor_t *r, const command_t *c) noexcept nogil:
    """Executes one command; its buffer reference is dropped here unless a fan-out keeps it."""
    cdef link_t *link = NULL
    cdef inflight_t *entry
    cdef const uint32_t *groups = <const uint32_t *>(<const uint8_t *>c + sizeof(command_t))
    if c.kind == CMD_FANOUT:
        if fan_add(r, c, groups) == 0:
            return
        gw_buffer_drop(c.buffer)    # no memory: the broadcast waits for each registration by its cursor
        return
    if c.kind == CMD_DRAIN:
        listener_close(r)
        r.draining = 1
        r.drain_buffer = c.buffer
        r.drain_end = r.now + c.ms // TICK_MS
        r.drain_at = 0
        return
    if c.kind == CMD_STOP:
        r.stopping = 1
        return
    if c.kind == CMD_REFUSE:
        r.refusing = c.flag
        return
    link = slab_find(&r.slab, c.link)
    if link == NULL or link.state == LINK_CLOSING or link.state == LINK_NEW:
        gw_count(&r.counters[C_GONE], 1)
        if c.kind == CMD_NOTIFY:
            say(r, EV_LOST, 0, c.link, c.seq, c.registration, 0)
    elif c.kind == CMD_SEND:
        if link.outbox.bytes > r.set.outbox_bytes * 2:
            link_down(r, link, REASON_SLOW, NULL)   # asks and asks, and never reads the answers
        else:
            link_send(r, link, c.buffer)
    elif c.kind == CMD_NOTIFY:
        notify(r, link, c.buffer, c.seq, c.registration, c.ms, c.flag)
    elif c.kind == CMD_WELCOME:
        link.state = LINK_LIVE
        link.device = c.seq
        link.window = <uint16_t>c.count
        link.silence = c.ms // TICK_MS
        gw_count(&r.counters[C_LOGINS], 1)
        wheel_arm(&r.wheel, &link.timer, link.seen + link.silence)
        link_send(r, link, c.buffer)
    elif c.kind == CMD_BIND:
        if link_join(&r.slab, &r.groups, link, c.count, c.registration) < 0:
            link_down(r, link, REASON_MEMORY, NULL)
    elif c.kind == CMD_UNBIND:
        link_leave(&r.slab, &r.groups, link, c.registration)
        entry = link.inflight
        while entry != NULL:
            if entry.registration == c.registration:
                say(r, EV_LOST, 0, c.link, entry.seq, entry.registration, 0)
                inflight_remove(&r.inflight, &r.wheel, link, entry)
                gw_count(&r.counters[C_INFLIGHT], <uint64_t>-1)
                entry = link.inflight
            else:
                entry = entry.next
    elif c.kind == CMD_CANCEL:
        entry = inflight_find(link, c.seq, c.registration, 0)
        if entry != NULL:
            inflight_remove(&r.inflight, &r.wheel, link, entry)
            gw_count(&r.counters[C_INFLIGHT], <uint64_t>-1)
        if c.buffer != NULL:
            link_send(r, link, c.buffer)
        maybe_ready(r, link)
    elif c.kind == CMD_CLOSE:
        link_down(r, link, REASON_CONTROL, c.buffer)
    elif c.kind == CMD_SILENCE:
        link.silence = c.ms // TICK_MS
        if link.state == LINK_LIVE:
            wheel_arm(&r.wheel, &link.timer, link.seen + link.silence)
    gw_buffer_drop(c.buffer)


cdef void handle_commands(reactor_t *r) noexcept nogil:
    cdef uint32_t size
    cdef command_t *c
    cdef int i
    for i in range(COMMANDS_A_TURN):
        if not has_room(r):
            return
        c = <command_t *>gw_ring_peek(&r.down, &size)
        if c == NULL:
            return
        handle_command(r, c)
        gw_ring_pop(&r.down, size)


# --- timers ----------------------------------------------------------------------------------------------------------

cdef void link_timer(reactor_t *r, link_t *link) noexcept nogil:
    cdef uint32_t at
    if link.state == LINK_CLOSING:
        link_free(r, link)
    elif link.state == LINK_NEW:
        link_down(r, link, REASON_LOGIN_TIMEOUT, NULL)
    elif link.state == LINK_HELLO:
        link_down(r, link, REASON_OVERLOADED, NULL)     # the control thread did not decide in time
    elif link.flags & LINK_STALLED and r.now - link.stalled_at >= r.set.slow_ticks:
        link_down(r, link, REASON_SLOW, NULL)
    elif r.now - link.seen >= link.silence:
        link_down(r, link, REASON_HEARTBEAT, NULL)
    else:
        # Heartbeats only touch `seen`; the deadline is worked out when the old one comes up.
        at = link.seen + link.silence
        if link.flags & LINK_STALLED and <int32_t>(at - (link.stalled_at + r.set.slow_ticks)) > 0:
            at = link.stalled_at + r.set.slow_ticks
        wheel_arm(&r.wheel, &link.timer, at)


cdef void ack_timer(reactor_t *r, inflight_t *entry) noexcept nogil:
    cdef link_t *link = slab_at(&r.slab, entry.slot)
    gw_count(&r.counters[C_ACK_TIMEOUTS], 1)
    gw_count(&r.counters[C_INFLIGHT], <uint64_t>-1)
    say(r, EV_TIMEOUT, 0, link_id(&r.slab, link), entry.seq, entry.registration,
        r.start_ms + entry.sent_ms + r.unix_base_ms)
    inflight_remove(&r.inflight, &r.wheel, link, entry)
    maybe_ready(r, link)


cdef void handle_timers(reactor_t *r) noexcept nogil:
    cdef wheel_node_t *node
    cdef int i
    wheel_advance(&r.wheel, r.now)
    for i in range(TIMERS_A_TURN):
        if not has_room(r):
            return
        node = wheel_pop(&r.wheel)
        if node == NULL:
            return
        if node.kind == TIMER_LINK:
            link_timer(r, <link_t *>node)
        elif node.kind == TIMER_ACK:
            ack_timer(r, <inflight_t *>node)
        else:
            listener_watch(r, EPOLL_CTL_ADD)


cdef void drain_step(reactor_t *r) noexcept nogil:
    """Send links away evenly over the drain time."""
    cdef uint32_t left = r.slab.size - r.drain_at
    cdef int32_t ticks = <int32_t>(r.drain_end - r.now)
    cdef uint32_t slice = left if ticks <= 0 else left // <uint32_t>ticks + 1
    cdef link_t *link
    while slice and r.drain_at < r.slab.size and has_room(r):
        link = slab_at(&r.slab, r.drain_at)
        r.drain_at += 1
        slice -= 1
        if link.state != LINK_FREE:
            link_down(r, link, REASON_DRAIN, r.drain_buffer)
    if r.drain_at == r.slab.size:
        r.draining = 0
        gw_buffer_drop(r.drain_buffer)
        r.drain_buffer = NULL
        say(r, EV_DRAINED, 0, 0, 0, 0, 0)


# --- the loop --------------------------------------------------------------------------------------------------------

cdef inline void read_clock(reactor_t *r) noexcept nogil:
    r.now_ms = gw_monotonic_ms()
    r.now = <uint32_t>((r.now_ms - r.start_ms) // TICK_MS)


cdef int sleep_ms(reactor_t *r) noexcept nogil:
    """How long epoll_wait may sleep."""
    cdef uint32_t ticks
    if r.dirty or r.fan_head != NULL or gw_ring_sleep(&r.down):
        return 0
    if r.draining:
        return TICK_MS
    ticks = wheel_next(&r.wheel)
    if ticks > 6000:
        return 60000
    return <int>(ticks * TICK_MS)


cdef void run(reactor_t *r) noexcept nogil:
    cdef epoll_event events[EVENTS_A_TURN]
    cdef link_t *link
    cdef uint64_t key, drop
    cdef int i, n
    while not r.stopping:
        if not has_room(r):
            # The control thread is behind: nothing is read or sent meanwhile, devices wait in the kernel's buffers.
            gw_count(&r.counters[C_MAILBOX_FULL], 1)
            gw_ring_publish(&r.up)
            usleep(500)
            read_clock(r)
            continue
        n = epoll_wait(r.epoll, events, EVENTS_A_TURN, sleep_ms(r))
        read_clock(r)
        for i in range(n):
            key = events[i].data.u64 >> 32
            if key == KEY_LISTENER:
                if r.listening:
                    accept_links(r)
                continue
            if key == KEY_MAILBOX:
                read(r.down.event_fd, &drop, 8)
                continue
            link = slab_at(&r.slab, <uint32_t>key)
            # Another event of this turn may have ended the link and its slot may live again.
            if link.state == LINK_FREE or link.generation != <uint32_t>events[i].data.u64:
                continue
            if not has_room(r):
                break       # level-triggered: it comes again
            if events[i].events & EPOLLOUT:
                mark_dirty(r, link)
            if events[i].events & ~<uint32_t>EPOLLOUT:
                link_readable(r, link)
        handle_commands(r)
        fan_step(r)
        handle_timers(r)
        if r.draining:
            drain_step(r)
        flush_dirty(r)
        gw_ring_publish(&r.up)


cdef void shut(reactor_t *r) noexcept nogil:
    """Close every socket and give back what links hold; runs in the reactor's thread, which owns the descriptors."""
    cdef uint32_t i
    cdef link_t *link
    listener_close(r)
    for i in range(r.slab.size):
        link = slab_at(&r.slab, i)
        if link.state != LINK_FREE:
            while link.inflight != NULL:
                inflight_remove(&r.inflight, &r.wheel, link, link.inflight)
            link_leave_all(&r.slab, &r.groups, link)
            free(link.partial)
            link.partial = NULL
            link_free(r, link)
    close(r.epoll)
    r.epoll = -1


cdef gw_buffer_t *as_buffer(bytes frame) except? NULL:
    cdef gw_buffer_t *buffer = NULL
    if frame is not None:
        buffer = gw_buffer_new(<const uint8_t *><const char *>frame, <uint32_t>len(frame))
        if buffer == NULL:
            raise MemoryError
    return buffer


@cython.final
cdef class Reactor:
    """One reactor. `open` and `run` belong to its own thread, everything else to the control thread."""
    cdef reactor_t *r
    cdef readonly int index
    cdef readonly int event_fd      # readable when `drain` has something
    cdef int down_fd

    def __cinit__(self, index: int, event_fd: int, command_fd: int, last_words: dict, *, mailbox_bytes: int,
                  max_links: int, login_ms: int, login_frame_bytes: int, max_frame_bytes: int, outbox_bytes: int,
                  slow_ms: int, linger_ms: int = 2000, logins_per_s: int = 0):
        """Two eventfds made by the control thread; `last_words`: reason name → frame sent before the close."""
        cdef uint64_t capacity = 4 * UP_RESERVE
        cdef reactor_t *r = <reactor_t *>malloc(sizeof(reactor_t))
        if r == NULL:
            raise MemoryError
        self.r = r
        memset(r, 0, sizeof(reactor_t))
        self.index = index
        self.event_fd = event_fd
        self.down_fd = command_fd
        while capacity < <uint64_t>mailbox_bytes:
            capacity *= 2
        r.epoll = r.listener = -1
        if gw_ring_init(&r.up, capacity, event_fd) != 0 or gw_ring_init(&r.down, capacity, command_fd) != 0:
            raise MemoryError
        r.scratch = <uint8_t *>malloc(SCRATCH_BYTES)
        if r.scratch == NULL:
            raise MemoryError
        r.pong = as_buffer(b"\x02\x00")
        for i, name in enumerate(REASONS):
            r.last_words[i] = as_buffer(last_words.get(name))
        r.slab.reactor = <uint8_t>index
        r.set.max_links = max_links
        r.set.login_ticks = max(1, login_ms // TICK_MS)
        r.set.login_frame_bytes = login_frame_bytes
        r.set.max_frame_bytes = max_frame_bytes
        r.set.outbox_bytes = outbox_bytes
        r.set.slow_ticks = max(1, slow_ms // TICK_MS)
        r.set.linger_ticks = max(1, linger_ms // TICK_MS)
        r.set.logins_per_s = logins_per_s
        r.login_tokens = logins_per_s
        r.accept_timer.kind = TIMER_ACCEPT
        wheel_init(&r.wheel, 0)
        r.start_ms = r.now_ms = r.login_refill_ms = gw_monotonic_ms()
        r.unix_base_ms = gw_unix_ms() - r.start_ms

    def __dealloc__(self):
        cdef reactor_t *r = self.r
        cdef uint32_t size
        cdef command_t *c
        cdef fan_t *fan
        cdef int i
        if r == NULL:
            return
        if r.down.buf != NULL:
            while True:
                c = <command_t *>gw_ring_peek(&r.down, &size)
                if c == NULL:
                    break
                gw_buffer_drop(c.buffer)
                gw_ring_pop(&r.down, size)
        while r.fan_head != NULL:
            fan = r.fan_head
            r.fan_head = fan.next
            fan_drop(fan)
        for i in range(REASONS_COUNT):
            gw_buffer_drop(r.last_words[i])
        gw_buffer_drop(r.pong)
        gw_buffer_drop(r.drain_buffer)
        gw_ring_free(&r.up)
        gw_ring_free(&r.down)
        inflight_pool_free(&r.inflight)
        outbox_pool_free(&r.nodes)
        groups_free(&r.groups)
        slab_free(&r.slab)
        free(r.scratch)
        free(r)

    # -- the reactor's own thread

    def open(self, listen) -> None:
        """Take a descriptor table of one's own, then `listen()` → a listening, non-blocking socket's descriptor."""
        cdef reactor_t *r = self.r
        cdef epoll_event e
        if gw_own_descriptors(self.event_fd, self.down_fd) != 0:
            raise OSError(errno, "the reactor could not get a descriptor table of its own")
        r.listener = listen()
        r.epoll = epoll_create1(EPOLL_CLOEXEC)
        if r.epoll < 0:
            raise OSError(errno, "epoll_create1")
        listener_watch(r, EPOLL_CTL_ADD)
        e.events = EPOLLIN
        e.data.u64 = <uint64_t>KEY_MAILBOX << 32
        if epoll_ctl(r.epoll, EPOLL_CTL_ADD, self.down_fd, &e) != 0:
            raise OSError(errno, "epoll_ctl")

    def run(self) -> None:
        """Serve until `stop`; without the GIL."""
        with nogil:
            run(self.r)
            shut(self.r)

    # -- the control thread: commands; False: the mailbox is full, nothing was queued

    cdef bint put(self, uint16_t kind, uint64_t link, uint64_t seq=0, uint32_t registration=0, uint32_t ms=0,
                  uint32_t count=0, uint8_t flag=0, bytes frame=None):
        cdef command_t *c
        cdef gw_buffer_t *buffer = as_buffer(frame)
        c = <command_t *>gw_ring_reserve(&self.r.down, sizeof(command_t))
        if c == NULL:
            gw_buffer_drop(buffer)
            return False
        memset(c, 0, sizeof(command_t))
        c.kind = kind
        c.flag = flag
        c.link = link
        c.seq = seq
        c.registration = registration
        c.ms = ms
        c.count = count
        c.buffer = buffer
        gw_ring_publish(&self.r.down)
        return True

    def send(self, link: int, frame: bytes) -> bool:
        return self.put(CMD_SEND, link, frame=frame)

    def welcome(self, link: int, device: int, silence_ms: int, window: int, frame: bytes) -> bool:
        """The login was accepted: the link is live, and `silence_ms` without a byte ends it."""
        return self.put(CMD_WELCOME, link, seq=device, ms=silence_ms, count=window, frame=frame)

    def notify(self, link: int, frame: bytes, seq: int, registration: int, ack_ms: int, again: bool = False) -> bool:
        return self.put(CMD_NOTIFY, link, seq=seq, registration=registration, ms=max(1, ack_ms), flag=again,
                        frame=frame)

    def fanout(self, groups: list, frame: bytes, seq: int, ack_ms: int) -> bool:
        """To every link in these groups; ack_ms 0: a recall, which cancels `seq` and sends the frame unacked."""
        cdef uint32_t n = <uint32_t>len(groups), i
        cdef command_t *c
        cdef uint32_t *ids
        cdef uint32_t ms = ack_ms
        cdef uint64_t number = seq
        cdef gw_buffer_t *buffer = as_buffer(frame)
        c = <command_t *>gw_ring_reserve(&self.r.down, <uint32_t>(sizeof(command_t) + n * 4))
        if c == NULL:
            gw_buffer_drop(buffer)
            return False
        memset(c, 0, sizeof(command_t))
        c.kind = CMD_FANOUT
        c.seq = number
        c.ms = ms
        c.count = n
        c.buffer = buffer
        ids = <uint32_t *>(<uint8_t *>c + sizeof(command_t))
        for i in range(n):
            ids[i] = <uint32_t>(groups[i] & 0xFFFFFFFF)
        gw_ring_publish(&self.r.down)
        return True

    def bind(self, link: int, group: int, registration: int) -> bool:
        return self.put(CMD_BIND, link, registration=registration, count=group)

    def unbind(self, link: int, registration: int) -> bool:
        """Leave its group; what is unacked for it comes back as lost."""
        return self.put(CMD_UNBIND, link, registration=registration)

    def cancel(self, link: int, seq: int, registration: int, frame: bytes | None = None) -> bool:
        """Forget an unacked notification (no event follows) and send `frame`."""
        return self.put(CMD_CANCEL, link, seq=seq, registration=registration, frame=frame)

    def close(self, link: int, frame: bytes | None = None) -> bool:
        return self.put(CMD_CLOSE, link, frame=frame)

    def set_silence(self, link: int, silence_ms: int) -> bool:
        return self.put(CMD_SILENCE, link, ms=silence_ms)

    def drain_links(self, frame: bytes, over_ms: int) -> bool:
        """Stop accepting; send every link away with `frame`, spread over the time; EV_DRAINED at the end."""
        return self.put(CMD_DRAIN, 0, ms=over_ms, frame=frame)

    def refuse_logins(self, refuse: bool) -> bool:
        return self.put(CMD_REFUSE, 0, flag=refuse)

    def stop(self) -> bool:
        return self.put(CMD_STOP, 0)

    # -- the control thread: events

    def drain(self, limit: int = 4096) -> tuple:
        """(acks, others, more): acks as (seq, registration or -1, sent_ms, acked_ms, shown, link); others as
        (kind, link, a, b, c): FRAME a=type b=body; TIMEOUT a=seq b=registration; LOST a=seq b=registration c=spilled;
        READY a=device; DOWN a=device b=reason. more: call again. When False, event_fd will tell."""
        cdef list acks = [], others = []
        cdef uint32_t size
        cdef event_t *e
        cdef uint64_t dropped
        cdef int i, count = limit
        read(self.event_fd, &dropped, 8)
        for i in range(count):
            e = <event_t *>gw_ring_peek(&self.r.up, &size)
            if e == NULL:
                return acks, others, gw_ring_sleep(&self.r.up) != 0
            if e.kind == EV_ACK:
                acks.append((e.seq, -1 if e.registration == LATE else <long>e.registration, e.sent_ms, e.acked_ms,
                             e.flag != 0, e.link))
            elif e.kind == EV_FRAME:
                others.append((EV_FRAME, e.link, e.frame,
                               (<const uint8_t *>e + sizeof(event_t))[:size - sizeof(event_t)], None))
            elif e.kind == EV_DOWN:
                others.append((EV_DOWN, e.link, e.seq, e.flag, None))
            else:
                others.append((e.kind, e.link, e.seq, e.registration, e.flag))
            gw_ring_pop(&self.r.up, size)
        return acks, others, True

    def counters(self) -> dict:
        """Counters by name, ended links as `ended:<reason>`."""
        cdef int i
        out = {COUNTERS[i]: gw_read(&self.r.counters[i]) for i in range(C_COUNT)}
        for i in range(REASONS_COUNT):
            out["ended:" + REASONS[i]] = gw_read(&self.r.ended[i])
        return out

    @property
    def memory_bytes(self) -> int:
        """Bytes taken for links, in-flight entries, outbox nodes and groups; exact only while the thread rests."""
        cdef reactor_t *r = self.r
        return (((r.slab.size + 4095) // 4096) * 4096 * sizeof(link_t) + r.inflight.entries * sizeof(inflight_t)
                + r.nodes.nodes * 16 + groups_bytes(&r.groups))


EVENT_FRAME = EV_FRAME
EVENT_TIMEOUT = EV_TIMEOUT
EVENT_LOST = EV_LOST
EVENT_READY = EV_READY
EVENT_DOWN = EV_DOWN
EVENT_DRAINED = EV_DRAINED
LINK_BYTES = sizeof(link_t)
