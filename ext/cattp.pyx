"""The CAT_TP server's thread: one UDP socket, commands, timers, the loop; never takes the GIL while it runs.

One thread serves all cards: datagrams come and go 64 with a system call. Without room in the mailbox up for all that
the next datagram could say nothing more is read, and cards wait in the kernel's buffer, which drops what does not fit.
"""
cimport cython
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from gateway._native.cattp_links cimport expected_lapse, link_at, memory_bytes, memory_free, memory_init
from gateway._native.cattp_plane cimport *
from gateway._native.cattp_sending cimport flush
from gateway._native.cattp_traffic cimport (
    handle_command, handle_datagram, has_room, link_stop, link_timer, steps_with_room)
from gateway._native.mailbox cimport (
    gw_ring_free, gw_ring_init, gw_ring_peek, gw_ring_pop, gw_ring_publish, gw_ring_reserve, gw_ring_sleep)
from gateway._native.wheel cimport wheel_advance, wheel_init, wheel_next, wheel_node_t, wheel_pop

cdef extern from "gw_atomic.h" nogil:
    void gw_count(uint64_t *c, uint64_t n)
    uint64_t gw_read(const uint64_t *c)

cdef extern from "gw_sys.h" nogil:
    uint64_t gw_monotonic_ms()

cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD
    union epoll_data:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    enum: AF_INET, AF_INET6

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int usleep(unsigned int us)
    ssize_t read(int fd, void *buf, size_t n)

cdef enum:
    BATCHES_A_TURN = 8              # of datagrams, before commands and timers have their turn
    COMMANDS_A_TURN = 4096
    TIMERS_A_TURN = 8192
    RING_HEAD_BYTES = 8             # of each record in a mailbox
    LONGEST_SLEEP_MS = 60000
    STOP_ROUNDS = 10000             # of half a millisecond, without room for what is said at the end
    MOST_MS = 0x3FFFFFFF            # of any deadline: times are compared modulo 2^32

CAUSES = ("asked", "peer", "retries", "idle", "zero_window", "illegal", "replaced", "stopped")
REFUSALS = ("gone", "size", "queue", "memory")
COUNTERS = (
    "linked", "malformed", "foreign", "version", "stray", "not_admitted", "illegal", "half_open_full", "full",
    "duplicate", "outside", "impossible", "held", "no_room", "late",
    "sent", "resent", "probes", "refusals", "refusals_withheld", "withheld", "unsent", "bytes_in", "bytes_out",
    "opened", "unproved", "sdus_in", "sdus_out", "delivered", "unexpected", "mailbox_full",
    "links", "half_open", "open", "expected", "busy", "busy_bytes")


cdef uint64_t most_of_a_step(const cattp_limits_t *l) noexcept nogil:
    """The most that one datagram, command or timer can say: the SDUs that a PDU completes, with those that waited for
    it behind, then the ends of two links, OPENED and DELIVERED."""
    cdef uint64_t head = RING_HEAD_BYTES + sizeof(cattp_event_t) + 8
    return (l.window + 1) * (head + l.max_pdu) + l.max_sdu + 6 * head


cdef void handle_commands(cattp_t *s) noexcept nogil:
    cdef uint32_t size
    cdef cattp_command_t *c
    cdef int _
    for _ in range(COMMANDS_A_TURN):
        if not has_room(s):
            return
        c = <cattp_command_t *>gw_ring_peek(&s.down, &size)
        if c == NULL:
            return
        handle_command(s, c, <const uint8_t *>c + sizeof(cattp_command_t), size - <uint32_t>sizeof(cattp_command_t))
        gw_ring_pop(&s.down, size)


cdef void handle_timers(cattp_t *s) noexcept nogil:
    cdef wheel_node_t *node
    cdef int _
    wheel_advance(&s.wheel, s.now)
    for _ in range(TIMERS_A_TURN):
        if not has_room(s):
            return
        node = wheel_pop(&s.wheel)
        if node == NULL:
            return
        if node.kind == CATTP_TIMER_LINK:
            link_timer(s, <cattp_link_t *>node)
        else:
            expected_lapse(s, <expected_t *>node)


cdef void receive(cattp_t *s) noexcept nogil:
    cdef uint8_t address[16]
    cdef const uint8_t *data
    cdef uint32_t size
    cdef uint16_t port
    cdef int i, n, room, _
    for _ in range(BATCHES_A_TURN):
        room = steps_with_room(s, GW_UDP_BATCH)
        if room == 0:
            s.behind = 1            # level-triggered: it comes again
            return
        n = gw_udp_receive(s.fd, s.arriving, room)
        for i in range(n):
            data = gw_udp_data(s.arriving, i, &size)
            port = 0
            gw_udp_from(s.arriving, i, address, &port)
            handle_datagram(s, data, size, address, port)
        flush(s)
        if n < room:
            return


cdef inline void read_clock(cattp_t *s) noexcept nogil:
    s.now = <uint32_t>(gw_monotonic_ms() - s.start_ms)


cdef int sleep_ms(cattp_t *s) noexcept nogil:
    cdef uint32_t ticks
    if gw_ring_sleep(&s.down):
        return 0
    ticks = wheel_next(&s.wheel)
    return <int>min(ticks, <uint32_t>LONGEST_SLEEP_MS)


cdef void run(cattp_t *s) noexcept nogil:
    cdef epoll_event events[2]
    cdef uint64_t drop
    cdef int i, n, readable
    while not s.stopping:
        if not has_room(s):
            # The control thread is far behind: nothing is done meanwhile.
            gw_count(&s.counters[CC_MAILBOX_FULL], 1)
            gw_ring_publish(&s.up)
            usleep(500)
            continue
        n = epoll_wait(s.epoll, events, 2, sleep_ms(s))
        read_clock(s)
        readable = 0
        s.behind = 0
        for i in range(n):
            if events[i].data.u64 == 0:
                readable = 1
            else:
                read(s.down.event_fd, &drop, 8)
        # commands first: who was expected before a card was called is known when the card's SYN is read
        handle_commands(s)
        if readable:
            receive(s)
        handle_timers(s)
        flush(s)
        gw_ring_publish(&s.up)
        if s.behind:
            gw_count(&s.counters[CC_MAILBOX_FULL], 1)
            usleep(500)


cdef void shut(cattp_t *s) noexcept nogil:
    """Every open link ends, its peer and the control thread are told; a control thread that takes nothing for long is
    not waited for."""
    cdef uint32_t i
    cdef int rounds = 0
    for i in range(s.links_made):
        while not has_room(s) and rounds < STOP_ROUNDS:
            gw_ring_publish(&s.up)
            usleep(500)
            rounds += 1
        link_stop(s, link_at(s, i))
    flush(s)
    gw_ring_publish(&s.up)
    close(s.epoll)
    s.epoll = -1


@cython.final
cdef class CattpServer:
    """One server. `run` belongs to its own thread, everything else to the control thread."""
    cdef cattp_t *s
    cdef readonly int event_fd

    def __cinit__(self, fd: int, event_fd: int, command_fd: int, *, local_port: int, max_links: int,
                  max_half_open: int, max_pdu: int = 1400, max_sdu: int = 4096, window: int = 10, flight: int = 10,
                  queued_bytes: int = 262_144, rto_first_ms: int = 3000, rto_least_ms: int = 2000,
                  rto_most_ms: int = 60_000, retries: int = 10, opening_retries: int = 5,
                  keep_alive_ms: int = 1_200_000, idle_ms: int = 120_000, zero_window_ms: int = 120_000,
                  close_wait_ms: int = 10_000, max_expected: int = 0, busy_bytes: int = 1 << 28,
                  refusals_per_s: int = 1000, amplification: int = 3, mailbox_bytes: int = 1 << 22,
                  seed: int = 0, first: int = -1, uptime_ms: int = 0):
        cdef cattp_t *s = <cattp_t *>malloc(sizeof(cattp_t))
        cdef cattp_limits_t *l
        cdef uint64_t capacity = 65536, down = 262144, entropy = seed
        if s == NULL:
            raise MemoryError
        self.s = s
        memset(s, 0, sizeof(cattp_t))
        self.event_fd = event_fd
        s.epoll = -1
        s.fd = fd
        for name, value, least, most in (
                ("local_port", local_port, 0, 0xFFFF), ("max_links", max_links, 1, 1 << 24),
                ("max_half_open", max_half_open, 1, 1 << 24), ("max_expected", max_expected, 0, 1 << 25),
                ("max_pdu", max_pdu, GW_PDU_HEAD_BYTES + 1, GW_PDU_MOST_BYTES), ("max_sdu", max_sdu, 1, 0xFFFF),
                ("window", window, 1, GW_PDU_MOST_EACKS), ("flight", flight, 1, GW_PDU_MOST_EACKS),
                ("queued_bytes", queued_bytes, 1, 1 << 30), ("rto_least_ms", rto_least_ms, 1, rto_most_ms),
                ("rto_first_ms", rto_first_ms, 1, rto_most_ms), ("rto_most_ms", rto_most_ms, 1, MOST_MS),
                ("retries", retries, 1, 255), ("opening_retries", opening_retries, 1, 254),
                ("keep_alive_ms", keep_alive_ms, 0, MOST_MS), ("idle_ms", idle_ms, 0, MOST_MS),
                ("zero_window_ms", zero_window_ms, 1, MOST_MS), ("close_wait_ms", close_wait_ms, 0, MOST_MS),
                ("busy_bytes", busy_bytes, 1, 1 << 40), ("refusals_per_s", refusals_per_s, 0, 1 << 24),
                ("amplification", amplification, 1, 16), ("mailbox_bytes", mailbox_bytes, 1, 1 << 32),
                ("first", first, -1, 0xFFFF)):
            if not least <= value <= most:
                raise ValueError(f"{name} must be {least} to {most}")
        l = &s.limits
        l.max_pdu, l.max_sdu, l.window, l.flight = max_pdu, max_sdu, window, flight
        l.queued_bytes, l.busy_bytes = queued_bytes, busy_bytes
        l.rto_first_ms, l.rto_least_ms, l.rto_most_ms = rto_first_ms, rto_least_ms, rto_most_ms
        l.retries, l.opening_retries = retries, opening_retries
        l.keep_alive_ms, l.idle_ms, l.zero_window_ms = keep_alive_ms, idle_ms, zero_window_ms
        l.close_wait_ms = close_wait_ms
        l.max_links, l.max_half_open, l.max_expected = max_links, max_half_open, max_expected or max_links
        l.refusals_per_s, l.amplification = refusals_per_s, amplification
        s.local_port = local_port
        s.fixed_first = first
        s.seed = entropy
        s.random = entropy ^ <uint64_t>0xA5A5A5A5A5A5A5A5
        s.refusal_tokens = refusals_per_s
        s.start_ms = gw_monotonic_ms() - <uint64_t>uptime_ms
        if fd >= 0:
            read_clock(s)
        else:
            s.now = <uint32_t>(uptime_ms & 0xFFFFFFFF)
            s.start_ms = uptime_ms
        s.refusal_ms = s.now
        wheel_init(&s.wheel, s.now)
        s.step_bytes = most_of_a_step(l)
        # it began with room for the largest SDU, wherever the ring ends
        while down < <uint64_t>mailbox_bytes:
            down *= 2
        while capacity < <uint64_t>mailbox_bytes or capacity < 8 * s.step_bytes:
            capacity *= 2
        s.arriving = gw_udp_in_new()
        s.leaving = gw_udp_out_new(gw_udp_family(fd) if fd >= 0 else AF_INET6)
        if (gw_ring_init(&s.down, down, command_fd) != 0 or gw_ring_init(&s.up, capacity, event_fd) != 0
                or s.arriving == NULL or s.leaving == NULL or memory_init(s) != 0):
            raise MemoryError

    def __dealloc__(self):
        cdef cattp_t *s = self.s
        if s == NULL:
            return
        memory_free(s)
        gw_ring_free(&s.up)
        gw_ring_free(&s.down)
        gw_udp_in_free(s.arriving)
        gw_udp_out_free(s.leaving)
        free(s.captured)
        free(s)

    # -- the server's own thread

    def run(self) -> None:
        """Serve until `stop`; without the GIL."""
        cdef cattp_t *s = self.s
        cdef epoll_event e
        if s.fd < 0:
            raise ValueError("a server without a socket is driven by step")
        s.epoll = epoll_create1(EPOLL_CLOEXEC)
        if s.epoll < 0:
            raise OSError(errno, "epoll_create1")
        e.events = EPOLLIN
        e.data.u64 = 0
        if epoll_ctl(s.epoll, EPOLL_CTL_ADD, s.fd, &e) != 0:
            raise OSError(errno, "epoll_ctl")
        e.data.u64 = 1
        if epoll_ctl(s.epoll, EPOLL_CTL_ADD, s.down.event_fd, &e) != 0:
            raise OSError(errno, "epoll_ctl")
        with nogil:
            run(s)
            shut(s)

    def step(self, list datagrams, now_ms: int) -> list:
        """Without socket and thread (fd -1): commands, datagrams (bytes, 16 bytes of address, port), then what is due
        by now. What goes out, in the same form."""
        cdef cattp_t *s = self.s
        cdef bytes data, address
        cdef list out = []
        cdef uint64_t at = 0
        cdef uint16_t port
        cdef uint32_t size
        if s.fd >= 0:
            raise ValueError("a server with a socket has a thread")
        s.now = <uint32_t>((<uint64_t>now_ms + s.start_ms) & 0xFFFFFFFF)
        s.captured_bytes = 0
        handle_commands(s)
        for data, address, port in datagrams:
            if len(address) != 16:
                raise ValueError("an address has 16 bytes")
            if not has_room(s):
                break
            handle_datagram(s, <const uint8_t *><const char *>data, <uint32_t>len(data),
                            <const uint8_t *><const char *>address, port)
        handle_timers(s)
        gw_ring_publish(&s.up)
        while at < s.captured_bytes:
            memcpy(&port, s.captured + at + 16, 2)
            memcpy(&size, s.captured + at + 18, 4)
            out.append(((<const char *>s.captured)[at + 22:at + 22 + size],
                        (<const char *>s.captured)[at:at + 16], port))
            at += 22 + size
        if s.stopping:
            shut(s)
        return out

    # -- the control thread: commands; False: the mailbox is full, nothing was queued

    cdef bint put(self, uint16_t kind, uint64_t link, uint64_t cookie, uint32_t ms, uint8_t reason,
                  bytes identification, bytes sdu):
        cdef cattp_command_t *c
        cdef uint32_t size = <uint32_t>len(sdu) if sdu is not None else 0
        c = <cattp_command_t *>gw_ring_reserve(&self.s.down, <uint32_t>sizeof(cattp_command_t) + size)
        if c == NULL:
            return False
        memset(c, 0, sizeof(cattp_command_t))
        c.kind = kind
        c.reason = reason
        c.ms = ms
        c.link = link
        c.cookie = cookie
        if identification is not None:
            c.bytes = <uint8_t>len(identification)
            memcpy(c.identification, <const char *>identification, len(identification))
        if size:
            memcpy(<uint8_t *>c + sizeof(cattp_command_t), <const char *>sdu, size)
        gw_ring_publish(&self.s.down)
        return True

    def expect(self, identification: bytes, cookie: int, valid_ms: int) -> bool:
        check_identification(identification)
        if not 0 < valid_ms <= MOST_MS:
            raise ValueError(f"valid_ms must be 1 to {MOST_MS}")
        return self.put(CATTP_CMD_EXPECT, 0, cookie, valid_ms, 0, identification, None)

    def forget(self, identification: bytes) -> bool:
        check_identification(identification)
        return self.put(CATTP_CMD_FORGET, 0, 0, 0, 0, identification, None)

    def send(self, link: int, sdu: bytes, cookie: int = 0) -> bool:
        if len(sdu) > 0xFFFF:
            raise ValueError("an SDU has at most 65535 bytes")
        return self.put(CATTP_CMD_SEND, link, cookie, 0, 0, None, sdu)

    def close(self, link: int) -> bool:
        return self.put(CATTP_CMD_CLOSE, link, 0, 0, 0, None, None)

    def abort(self, link: int, reason: int) -> bool:
        return self.put(CATTP_CMD_ABORT, link, 0, 0, reason, None, None)

    def stop(self) -> bool:
        return self.put(CATTP_CMD_STOP, 0, 0, 0, 0, None, None)

    # -- the control thread: events

    def drain(self, limit: int = 4096) -> tuple:
        cdef list events = []
        cdef uint32_t size
        cdef uint64_t dropped
        cdef cattp_event_t *e
        cdef int _, count = limit
        cdef bint more = True
        read(self.event_fd, &dropped, 8)
        for _ in range(count):
            e = <cattp_event_t *>gw_ring_peek(&self.s.up, &size)
            if e == NULL:
                more = gw_ring_sleep(&self.s.up) != 0
                break
            if e.kind == CATTP_EV_RECEIVED:
                events.append((EVENT_RECEIVED, e.link, e.cookie, (<const char *>e)[sizeof(cattp_event_t):size], 0, 0))
            elif e.kind == CATTP_EV_OPENED:
                events.append((EVENT_OPENED, e.link, e.cookie, e.count >> 16, e.count & 0xFFFF, 0))
            elif e.kind == CATTP_EV_CLOSED:
                events.append((EVENT_CLOSED, e.link, e.cookie, CAUSES[e.cause], e.reason, e.count))
            elif e.kind == CATTP_EV_REFUSED:
                events.append((EVENT_REFUSED, e.link, e.cookie, REFUSALS[e.cause], 0, 0))
            else:
                events.append((e.kind, e.link, e.cookie, e.count, 0, 0))
            gw_ring_pop(&self.s.up, size)
        return events, more

    def counters(self) -> dict:
        cdef int i
        out = {COUNTERS[i]: gw_read(&self.s.counters[i]) for i in range(CC_COUNT)}
        for i in range(CATTP_CAUSES_COUNT):
            out["closed:" + CAUSES[i]] = gw_read(&self.s.closed[i])
        return out

    @property
    def link_bytes(self) -> int:
        return memory_bytes(self.s)

    @property
    def mailbox_bytes(self) -> int:
        return self.s.up.capacity

    @property
    def step_bytes(self) -> int:
        return self.s.step_bytes


cdef int check_identification(bytes identification) except -1:
    if not 0 < len(identification) <= CATTP_ID_MOST:
        raise ValueError(f"an identification has 1 to {CATTP_ID_MOST} bytes")
    return 0


EVENT_OPENED = CATTP_EV_OPENED
EVENT_RECEIVED = CATTP_EV_RECEIVED
EVENT_DELIVERED = CATTP_EV_DELIVERED
EVENT_CLOSED = CATTP_EV_CLOSED
EVENT_REFUSED = CATTP_EV_REFUSED
EVENT_UNEXPECTED = CATTP_EV_UNEXPECTED
LINK_BYTES = sizeof(cattp_link_t)
EXPECTED_BYTES = sizeof(expected_t)
