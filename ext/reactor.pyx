"""The data plane's thread: accept, commands, timers, the loop; never takes the GIL while it runs."""
cimport cython
from libc.errno cimport errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from gateway._native.batches cimport Batches, batches_ack
from gateway._native.door cimport (
    KEY_LISTENER, accept_links, greet, greet_timeout, listener_watch, listeners_close)
from gateway._native.far_records cimport HomeTable
from gateway._native.fanout cimport fan_add, fan_drop, fan_step
from gateway._native.farewell cimport farewell_free, farewell_new, farewell_next, farewell_t
from gateway._native.frame cimport IDS_MAX
from gateway._native.link cimport (
    LINK_CLOSING, LINK_FLOOR_SHIFT, LINK_FREE, LINK_HELD, LINK_HELLO, LINK_LIVE, LINK_NEW, LINK_PROVIDER, LINK_SHAKING,
    LINK_SPILLED, LINK_STALLED, groups_bytes, groups_free, inflight_find, inflight_pool_free, inflight_remove,
    inflight_t, link_id, link_join, link_leave, link_leave_all, link_t, slab_at, slab_find, slab_free)
from gateway._native.mailbox cimport (
    gw_ring_free, gw_ring_init, gw_ring_peek, gw_ring_pop, gw_ring_publish, gw_ring_reserve, gw_ring_sleep)
from gateway._native.outbox cimport gw_buffer_drop, gw_buffer_new, gw_buffer_t, outbox_pool_free
from gateway._native.pending cimport pending_get
from gateway._native.plane cimport *
from gateway._native.proxy cimport proxy_failures, proxy_kinds
from gateway._native.tls cimport tls_context_drop, tls_failures, tls_links_free, tls_use
from gateway._native.tls_context cimport TlsContext
from gateway._native.tls_state cimport SSL_CTX, tls_t
from gateway._native.traffic cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, EPOLLOUT, epoll_create1, epoll_ctl, epoll_event,
    epoll_wait, flush_dirty, gw_count, gw_read, handle_bytes, has_room, link_down, link_free, link_readable,
    link_send, mark_dirty, may_read, maybe_ready, notify, read_on, say, sent_at)
from gateway._native.wheel cimport (
    wheel_advance, wheel_arm, wheel_init, wheel_next, wheel_node_t, wheel_pop)

cdef extern from "gw_sys.h" nogil:
    int gw_own_descriptors(int keep_a, int keep_b)
    uint64_t gw_monotonic_ms()
    uint64_t gw_unix_ms()

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int usleep(unsigned int us)
    ssize_t read(int fd, void *buf, size_t n)

cdef enum:
    EVENTS_A_TURN = 512
    COMMANDS_A_TURN = 4096
    COSTLY_A_BATCH = 256            # frames and late acks for the control thread at once: each takes it some ten µs
    TIMERS_A_TURN = 8192
    KEY_MAILBOX = 0xFFFFFFE0        # epoll key beyond any slot
    RING_HEAD_BYTES = 8             # of each record in a mailbox
    WINDOW_MAX = 4096

REASONS = (
    "peer", "socket", "login_timeout", "heartbeat_timeout", "slow_consumer", "overloaded", "malformed_frame",
    "frame_too_large", "out_of_order", "control", "draining", "full", "memory", "tls", "proxy")
COUNTERS = (
    "accepted", "accept_errors", "links", "logins", "frames_in", "frames_out", "bytes_in", "bytes_out", "heartbeats",
    "notified", "acks", "late_acks", "ack_timeouts", "spilled_window", "spilled_outbox", "gone", "mailbox_full",
    "stalled", "inflight", "tls_links", "tls_full", "tls_resumed")


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
        listeners_close(r)
        farewell_free(r.drain_words)
        r.draining = 1
        r.drain_words = <farewell_t *>c.seq
        r.drain_begin = r.now
        r.drain_ticks = c.ms // TICK_MS
        r.drain_links = r.slab.used
        r.drained = 0
        r.drain_at = 0
        return
    if c.kind == CMD_STOP:
        r.stopping = 1
        return
    if c.kind == CMD_REFUSE:
        r.refusing = c.flag
        return
    if c.kind == CMD_TLS:
        tls_use(&r.tls, <SSL_CTX *>c.seq)
        return
    if c.kind == CMD_ELSEWHERE:
        farewell_free(r.elsewhere)
        r.elsewhere = <farewell_t *>c.seq
        return
    link = slab_find(&r.slab, c.link)
    if link == NULL or link.state == LINK_CLOSING or link.state <= LINK_NEW:
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
        link.window = <uint16_t>min(c.count, r.set.window)
        link.silence = c.ms // TICK_MS
        if c.flag:
            link.flags |= LINK_PROVIDER
        gw_count(&r.counters[C_LOGINS], 1)
        wheel_arm(&r.wheel, &link.timer, link.seen + link.silence)
        read_on(r, link)
        if link_send(r, link, c.buffer) == 0 and link.partial != NULL:
            handle_bytes(r, link, 0)
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
    elif c.kind == CMD_HOLD:
        link.flags |= LINK_SPILLED | LINK_HELD
        maybe_ready(r, link)
    elif c.kind == CMD_ECHO:
        say(r, EV_ECHO, 0, c.link, 0, 0, 0)
    elif c.kind == CMD_FLOOR:
        link.flags = <uint8_t>(link.flags & 0x3F | c.flag << LINK_FLOOR_SHIFT)
    elif c.kind == CMD_SILENCE:
        link.silence = c.ms // TICK_MS
        if link.state == LINK_LIVE:
            wheel_arm(&r.wheel, &link.timer, link.seen + link.silence)
    gw_buffer_drop(c.buffer)


cdef void handle_commands(reactor_t *r) noexcept nogil:
    cdef uint32_t size
    cdef command_t *c
    cdef int _
    for _ in range(COMMANDS_A_TURN):
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
    elif r.behind and link.state != LINK_HELLO and not link.flags & LINK_STALLED:
        wheel_arm(&r.wheel, &link.timer, r.now + 10)    # what it sent may not be read yet
    elif link.state < LINK_NEW:
        greet_timeout(r, link)
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
    say(r, EV_TIMEOUT, 0, link_id(&r.slab, link), entry.seq, entry.registration, sent_at(r, entry))
    inflight_remove(&r.inflight, &r.wheel, link, entry)
    maybe_ready(r, link)


cdef void handle_timers(reactor_t *r) noexcept nogil:
    cdef wheel_node_t *node
    cdef int _
    wheel_advance(&r.wheel, r.now)
    for _ in range(TIMERS_A_TURN):
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
            listener_watch(r, <listener_t *>node, EPOLL_CTL_ADD)


cdef void drain_step(reactor_t *r) noexcept nogil:
    """Send links away evenly over the drain time, however often this is called meanwhile; done when none is left."""
    cdef uint32_t passed = r.now - r.drain_begin
    cdef uint32_t until = r.slab.size
    cdef link_t *link
    if passed < r.drain_ticks:
        until = <uint32_t>(<uint64_t>r.drain_links * passed // r.drain_ticks) + 1
    while r.drain_at < r.slab.size and has_room(r):
        link = slab_at(&r.slab, r.drain_at)
        if link.state != LINK_FREE and link.state != LINK_CLOSING:
            if r.drained == until:
                return
            link_down(r, link, REASON_DRAIN, farewell_next(r.drain_words))
            r.drained += 1
        r.drain_at += 1
    if r.drain_at == r.slab.size:
        r.draining = 0
        farewell_free(r.drain_words)
        r.drain_words = NULL
        say(r, EV_DRAINED, 0, 0, 0, 0, 0)


# --- room for what is said -------------------------------------------------------------------------------------------

cdef uint64_t step_bytes(const settings_t *s) noexcept nogil:
    """The most that one step can say. Steps are: one read with what waited before it, WELCOME with what waited for it,
    one command, one timer, one link of a drain, one link of a fan-out.

    An id in an ACK takes a byte at least, and makes an event; so does each frame. Beside those bytes one frame may
    have been waiting for its end, which costs its own size twice where the ring's end comes in between; an ACK's
    waiting ids are fewer than IDS_MAX. Then the link may end, with everything in flight lost, or have room again.
    """
    cdef uint64_t event = RING_HEAD_BYTES + sizeof(event_t)
    cdef uint64_t end = event * (s.window + 2u) + 12 * s.window
    cdef uint64_t frame = max(s.max_frame_bytes, s.provider_frame_bytes)
    cdef uint64_t live = event * (SCRATCH_BYTES + IDS_MAX) + 2 * (event + frame + 8u) + end
    cdef uint64_t welcome = event * (SCRATCH_BYTES + s.login_frame_bytes) + 2 * (event + s.login_frame_bytes + 8u) + end
    cdef uint64_t fan = event * FAN_ITEMS_MAX + end
    return max(live, max(welcome, fan))


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
    cdef uint32_t reads
    cdef int i, at, n
    while not r.stopping:
        if not has_room(r):
            # The control thread is far behind: nothing is done meanwhile.
            gw_count(&r.counters[C_MAILBOX_FULL], 1)
            gw_ring_publish(&r.up)
            usleep(500)
            read_clock(r)
            continue
        n = epoll_wait(r.epoll, events, EVENTS_A_TURN, sleep_ms(r))
        read_clock(r)
        reads = 0
        r.shakes = 0
        r.behind = 0
        for i in range(n):
            at = <int>((<uint32_t>i + r.first) % <uint32_t>n)
            key = events[at].data.u64 >> 32
            if key >= KEY_LISTENER:
                if r.listeners[key - KEY_LISTENER].listening:
                    accept_links(r, &r.listeners[key - KEY_LISTENER])
                continue
            if key == KEY_MAILBOX:
                read(r.down.event_fd, &drop, 8)
                continue
            link = slab_at(&r.slab, <uint32_t>key)
            # Another event of this turn may have ended the link and its slot may live again.
            if link.state == LINK_FREE or link.generation != <uint32_t>events[at].data.u64:
                continue
            if link.state <= LINK_SHAKING:
                if may_read(r):
                    greet(r, link)
                else:
                    r.behind = 1
                continue
            if events[at].events & EPOLLOUT:
                mark_dirty(r, link)
            if not events[at].events & ~<uint32_t>EPOLLOUT:
                continue
            if may_read(r):
                link_readable(r, link)
                reads += 1
            else:
                r.behind = 1    # level-triggered: it comes again
        handle_commands(r)
        fan_step(r)
        handle_timers(r)
        if r.draining:
            drain_step(r)
        flush_dirty(r)
        gw_ring_publish(&r.up)
        if r.behind:
            # The control thread is behind: devices wait in the kernel's buffers, and those that waited now come first
            # in the next turn.
            gw_count(&r.counters[C_MAILBOX_FULL], 1)
            r.first += reads
            usleep(500)
        else:
            r.first = 0


cdef void shut(reactor_t *r) noexcept nogil:
    """Close every socket and give back what links hold; runs in the reactor's thread, which owns the descriptors."""
    cdef uint32_t i
    cdef link_t *link
    listeners_close(r)
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

    def __cinit__(self, index: int, event_fd: int, command_fd: int, last_words: dict, *, mailbox_bytes: int,
                  max_links: int, login_ms: int, login_frame_bytes: int, max_frame_bytes: int, outbox_bytes: int,
                  slow_ms: int, provider_frame_bytes: int = 0, linger_ms: int = 2000, logins_per_s: int = 0,
                  window: int = WINDOW_MAX, uptime_ms: int = 0,
                  TlsContext tls=None, proxies: list | None = None,
                  handshakes: int = 10_000):
        """Two eventfds made by the control thread; `last_words`: reason name → frame sent before the close;
        `uptime_ms`: as if it ran for so long already. `tls`: what handshakes on the TLS port begin with, so
        many (`handshakes`) at once. `proxies`: on
        the plain port a PROXY header comes first, from peers in these networks alone, (16 bytes, bits), IPv4 as
        ::ffff:a.b.c.d. The mailbox up is at least as large as its largest step needs."""
        cdef uint64_t capacity = 4 * UP_RESERVE, down = 65536
        cdef uint64_t aged_ms = uptime_ms
        cdef reactor_t *r = <reactor_t *>malloc(sizeof(reactor_t))
        if r == NULL:
            raise MemoryError
        self.r = r
        memset(r, 0, sizeof(reactor_t))
        self.index = index
        self.event_fd = event_fd
        self.down_fd = command_fd
        if not 0 < window <= WINDOW_MAX:
            raise ValueError(f"a window has 1 to {WINDOW_MAX} notifications")
        r.set.window = window
        r.set.login_frame_bytes = login_frame_bytes
        r.set.max_frame_bytes = max_frame_bytes
        r.set.provider_frame_bytes = provider_frame_bytes
        r.up_reserve = max(<uint64_t>UP_RESERVE, step_bytes(&r.set))
        while down < <uint64_t>mailbox_bytes:
            down *= 2
        r.epoll = -1
        for i in range(DOORS_COUNT):
            r.listeners[i].fd = -1
            r.listeners[i].door = <uint8_t>i
            r.listeners[i].again.kind = TIMER_ACCEPT
        if gw_ring_init(&r.down, down, command_fd) != 0:
            raise MemoryError
        while capacity < <uint64_t>mailbox_bytes or capacity < 4 * r.up_reserve:
            capacity *= 2
        if gw_ring_init(&r.up, capacity, event_fd) != 0:
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
        r.set.outbox_bytes = outbox_bytes
        r.set.slow_ticks = max(1, slow_ms // TICK_MS)
        r.set.linger_ticks = max(1, linger_ms // TICK_MS)
        r.set.logins_per_s = logins_per_s
        r.login_tokens = logins_per_s
        r.tls.shaking_max = handshakes
        if tls is not None:
            tls_use(&r.tls, tls.share())
        if proxies is not None:
            self.trust(proxies)
        r.now_ms = r.login_refill_ms = gw_monotonic_ms()
        r.start_ms = r.now_ms - aged_ms
        r.unix_base_ms = gw_unix_ms() - r.now_ms
        read_clock(r)
        wheel_init(&r.wheel, r.now)

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
                if c.kind == CMD_TLS:
                    tls_context_drop(<SSL_CTX *>c.seq)
                elif c.kind == CMD_DRAIN or c.kind == CMD_ELSEWHERE:
                    farewell_free(<farewell_t *>c.seq)
                gw_buffer_drop(c.buffer)
                gw_ring_pop(&r.down, size)
        while r.fan_head != NULL:
            fan = r.fan_head
            r.fan_head = fan.next
            fan_drop(fan)
        for i in range(REASONS_COUNT):
            gw_buffer_drop(r.last_words[i])
        gw_buffer_drop(r.pong)
        farewell_free(r.drain_words)
        farewell_free(r.elsewhere)
        gw_ring_free(&r.up)
        gw_ring_free(&r.down)
        inflight_pool_free(&r.inflight)
        outbox_pool_free(&r.nodes)
        groups_free(&r.groups)
        slab_free(&r.slab)
        tls_links_free(&r.tls)
        free(r.scratch)
        free(r)

    # -- the reactor's own thread

    def open(self, listen, listen_tls=None) -> None:
        """Take a descriptor table of one's own, then `listen()` and `listen_tls()` → listening, non-blocking sockets'
        descriptors; None: that door stays shut."""
        cdef reactor_t *r = self.r
        cdef epoll_event e
        cdef int i
        if gw_own_descriptors(self.event_fd, self.down_fd) != 0:
            raise OSError(errno, "the reactor could not get a descriptor table of its own")
        if listen is not None:
            r.listeners[DOOR_PLAIN].fd = listen()
        if listen_tls is not None:
            r.listeners[DOOR_TLS].fd = listen_tls()
        r.epoll = epoll_create1(EPOLL_CLOEXEC)
        if r.epoll < 0:
            raise OSError(errno, "epoll_create1")
        for i in range(DOORS_COUNT):
            listener_watch(r, &r.listeners[i], EPOLL_CTL_ADD)
        e.events = EPOLLIN
        e.data.u64 = <uint64_t>KEY_MAILBOX << 32
        if epoll_ctl(r.epoll, EPOLL_CTL_ADD, self.down_fd, &e) != 0:
            raise OSError(errno, "epoll_ctl")

    cdef int trust(self, list proxies) except -1:
        cdef network_t *network
        cdef bytes address
        if len(proxies) > NETWORKS_MAX:
            raise ValueError(f"at most {NETWORKS_MAX} networks may send PROXY headers")
        for address, bits in proxies:
            if len(address) != 16 or not 0 <= bits <= 128:
                raise ValueError("a network is 16 bytes and 0 to 128 bits of them")
            network = &self.r.networks[self.r.network_count]
            memcpy(network.address, <const char *>address, 16)
            network.bits = bits
            self.r.network_count += 1
        self.r.expects_proxy = 1
        return 0

    def run(self) -> None:
        """Serve until `stop`; without the GIL."""
        with nogil:
            run(self.r)
            shut(self.r)

    # -- the control thread: commands; False: the mailbox is full, nothing was queued

    cdef bint put(self, uint16_t kind, uint64_t link, uint64_t seq, uint32_t registration, uint32_t ms, uint32_t count,
                  uint8_t flag, bytes frame):
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
        return self.put(CMD_SEND, link, 0, 0, 0, 0, 0, frame)

    def welcome(self, link: int, device: int, silence_ms: int, window: int, frame: bytes,
                is_provider: bool = False) -> bool:
        """The login was accepted: the link is live, and `silence_ms` without a byte ends it. A provider's may send
        frames of `provider_frame_bytes`, and no acks."""
        return self.put(CMD_WELCOME, link, device, 0, silence_ms, window, is_provider, frame)

    def notify(self, link: int, frame: bytes, seq: int, registration: int, ack_ms: int, again: bool = False) -> bool:
        return self.put(CMD_NOTIFY, link, seq, registration, max(1, ack_ms), 0, again, frame)

    def fanout(self, groups: list, frame: bytes, seq: int, ack_ms: int, urgency: int = 3) -> bool:
        """To every link in these groups whose floor is not above the urgency; ack_ms 0: a recall, which cancels `seq`
        and sends the frame unacked."""
        cdef uint32_t n = <uint32_t>len(groups), i
        cdef command_t *c
        cdef uint32_t *ids
        cdef uint32_t ms = ack_ms
        cdef uint8_t level = urgency
        cdef uint64_t number = seq
        cdef gw_buffer_t *buffer = as_buffer(frame)
        c = <command_t *>gw_ring_reserve(&self.r.down, <uint32_t>(sizeof(command_t) + n * 4))
        if c == NULL:
            gw_buffer_drop(buffer)
            return False
        memset(c, 0, sizeof(command_t))
        c.kind = CMD_FANOUT
        c.urgency = level
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
        return self.put(CMD_BIND, link, 0, registration, 0, group, 0, None)

    def unbind(self, link: int, registration: int) -> bool:
        """Leave its group; what is unacked for it comes back as lost."""
        return self.put(CMD_UNBIND, link, 0, registration, 0, 0, 0, None)

    def cancel(self, link: int, seq: int, registration: int, frame: bytes | None = None) -> bool:
        """Forget an unacked notification (no event follows) and send `frame`."""
        return self.put(CMD_CANCEL, link, seq, registration, 0, 0, 0, frame)

    def hold(self, link: int) -> bool:
        """More waits for this link, and nothing but what is in flight is sent to it until EV_READY says there is
        room."""
        return self.put(CMD_HOLD, link, 0, 0, 0, 0, 0, None)

    def echo(self, link: int) -> bool:
        """EV_ECHO comes when all commands before this one were carried out, after all that came of them."""
        return self.put(CMD_ECHO, link, 0, 0, 0, 0, 0, None)

    def close(self, link: int, frame: bytes | None = None) -> bool:
        return self.put(CMD_CLOSE, link, 0, 0, 0, 0, 0, frame)

    def set_silence(self, link: int, silence_ms: int) -> bool:
        return self.put(CMD_SILENCE, link, 0, 0, silence_ms, 0, 0, None)

    def set_floor(self, link: int, urgency: int) -> bool:
        """Broadcasts below this urgency (0..3) are not sent on this link."""
        return self.put(CMD_FLOOR, link, 0, 0, 0, 0, urgency & 3, None)

    def drain_links(self, frames: list, over_ms: int, turns: bytes = b"\0") -> bool:
        """Stop accepting; send every link away, spread over the time; EV_DRAINED at the end. The frames take turns as
        `turns` says, places in `frames`, over and over."""
        cdef farewell_t *farewell = farewell_new(frames, turns)
        if self.put(CMD_DRAIN, 0, <uint64_t>farewell, 0, over_ms, 0, 0, None):
            return True
        farewell_free(farewell)
        return False

    def send_elsewhere(self, frames: list, turns: bytes = b"\0") -> bool:
        """What logins are told that are too many (`logins_per_s`, `refuse_logins`), in turn; no frames: the last words
        of `overloaded`."""
        cdef farewell_t *farewell = farewell_new(frames, turns) if frames else NULL
        if self.put(CMD_ELSEWHERE, 0, <uint64_t>farewell, 0, 0, 0, 0, None):
            return True
        farewell_free(farewell)
        return False

    def refuse_logins(self, refuse: bool) -> bool:
        return self.put(CMD_REFUSE, 0, 0, 0, 0, 0, refuse, None)

    def use_tls(self, TlsContext context not None) -> bool:
        """Handshakes from now on are made with this; links that are there keep what they have."""
        cdef SSL_CTX *shared = context.share()
        if self.put(CMD_TLS, 0, <uint64_t>shared, 0, 0, 0, 0, None):
            return True
        tls_context_drop(shared)
        return False

    def stop(self) -> bool:
        return self.put(CMD_STOP, 0, 0, 0, 0, 0, 0, None)

    # -- the control thread: events

    def drain(self, limit: int = 4096, Batches batches=None, list runs=None, HomeTable homes=None) -> tuple:
        """(acks, others, more): acks that `batches` could not settle as (seq, registration, sent_ms, acked_ms, flags,
        link); others as (kind, link, a, b, c): FRAME a=type b=body c=device (0 with HELLO); TIMEOUT a=seq
        b=registration; LOST a=seq b=registration c=spilled; LATE a=seq b=device c=flags; READY a=device b=room
        c=[(seq in flight, its registration)]; FANNED link=group a=seq b=links; DOWN a=device b=reason.
        more: call again; when False, event_fd will tell.
        `runs` gets acks in time of what is no pending delivery, a broadcast's: (seq, packed registrations, acked_ms)
        for those of one seq that follow each other. `homes` takes all acks, and is told before this returns."""
        cdef list acks = [], others = []
        cdef uint32_t run[4096]
        cdef uint32_t in_run = 0
        cdef uint64_t run_seq = 0, run_ms = 0
        cdef uint32_t size
        cdef event_t *e
        cdef const uint64_t *seqs
        cdef const uint32_t *registrations
        cdef uint64_t dropped
        cdef uint32_t i
        cdef int _, count = limit, costly = 0
        cdef bint more = True
        read(self.event_fd, &dropped, 8)
        for _ in range(count):
            e = <event_t *>gw_ring_peek(&self.r.up, &size)
            if e == NULL:
                more = gw_ring_sleep(&self.r.up) != 0
                break
            if e.kind == EV_ACK:
                if homes is not None and homes.put_ack(
                        e.registration, e.link, e.seq, e.sent_ms, e.acked_ms, e.flag):
                    pass
                elif runs is not None and batches is not None and e.flag == 0 and (
                        pending_get(batches.b.pending, e.seq) == NULL):
                    if in_run == 4096 or (in_run and run_seq != e.seq):
                        runs.append((run_seq, (<const char *>run)[:in_run * 4], run_ms))
                        in_run = 0
                    run[in_run] = e.registration
                    in_run += 1
                    run_seq = e.seq
                    run_ms = e.acked_ms
                elif batches is None or not batches_ack(
                        &batches.b, e.seq, e.registration, e.sent_ms, e.acked_ms, e.flag & ACK_SHOWN):
                    acks.append((e.seq, e.registration, e.sent_ms, e.acked_ms, e.flag, e.link))
            elif e.kind == EV_FRAME:
                others.append((EV_FRAME, e.link, e.frame,
                               (<const uint8_t *>e + sizeof(event_t))[:size - sizeof(event_t)], e.seq))
                costly += 1
            elif e.kind == EV_READY:
                seqs = <const uint64_t *>(<const uint8_t *>e + sizeof(event_t))
                registrations = <const uint32_t *>(seqs + e.sent_ms)
                others.append((EV_READY, e.link, e.seq, e.registration,
                               [(seqs[i], registrations[i]) for i in range(<uint32_t>e.sent_ms)]))
            elif e.kind == EV_LATE:
                others.append((EV_LATE, e.link, e.seq, e.sent_ms, e.flag))
                costly += 1
            elif e.kind == EV_DOWN:
                others.append((EV_DOWN, e.link, e.seq, e.flag, None))
            else:
                others.append((e.kind, e.link, e.seq, e.registration, e.flag))
            gw_ring_pop(&self.r.up, size)
            if costly == COSTLY_A_BATCH:
                break
        if in_run:
            runs.append((run_seq, (<const char *>run)[:in_run * 4], run_ms))
        if homes is not None:
            homes.say_news()
        return acks, others, more

    def counters(self) -> dict:
        """Counters by name, ended links as `ended:<reason>`, what failed before the first frame as `tls:<failure>` and
        `proxy:<failure>`, PROXY headers taken as `proxied:<kind>`."""
        cdef int i
        out = {COUNTERS[i]: gw_read(&self.r.counters[i]) for i in range(C_COUNT)}
        for i in range(REASONS_COUNT):
            out["ended:" + REASONS[i]] = gw_read(&self.r.ended[i])
        for i in range(TLS_FAILED_COUNT):
            out["tls:" + tls_failures()[i]] = gw_read(&self.r.tls_failed[i])
        for i in range(PROXY_FAILURES_COUNT):
            out["proxy:" + proxy_failures()[i]] = gw_read(&self.r.proxy_failed[i])
        for i in range(PROXY_KINDS_COUNT):
            out["proxied:" + proxy_kinds()[i]] = gw_read(&self.r.proxied[i])
        return out

    @property
    def mailbox_bytes(self) -> int:
        """Size of the mailbox up."""
        return self.r.up.capacity

    @property
    def step_bytes(self) -> int:
        """Room in it without which no step is begun."""
        return self.r.up_reserve

    @property
    def memory_bytes(self) -> int:
        """Bytes taken for links, in-flight entries, outbox nodes and groups; exact only while the thread rests."""
        cdef reactor_t *r = self.r
        return (((r.slab.size + 4095) // 4096) * 4096 * sizeof(link_t) + r.inflight.entries * sizeof(inflight_t)
                + ((r.tls.size + 1023) // 1024) * 1024 * sizeof(tls_t) + r.nodes.nodes * 16 + groups_bytes(&r.groups))


EVENT_FRAME = EV_FRAME
EVENT_TIMEOUT = EV_TIMEOUT
EVENT_LOST = EV_LOST
EVENT_READY = EV_READY
EVENT_DOWN = EV_DOWN
EVENT_DRAINED = EV_DRAINED
EVENT_LATE = EV_LATE
EVENT_FANNED = EV_FANNED
EVENT_ECHO = EV_ECHO
LINK_BYTES = sizeof(link_t)
