"""Devices of one thread, by the thousand: connect, log in, heartbeat, ack; never takes the GIL while it runs.

Speaks the device protocol (docs/frames.md) or, as a client of a broker, MQTT 3.1.1 (OASIS, sections 3.1 to 3.13), with
the same sockets, the same pace and the same clocks. A notification whose text begins with `t` and 16 hex digits carries
the moment it was sent (CLOCK_MONOTONIC, ns).
"""
cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset
from gateway._load.histogram cimport histogram_add, histogram_merge, histogram_summary, histogram_t
from gateway._load.messages cimport build_connect, build_login, build_subscribe, frame_end
from gateway._native.frame cimport frame_parse, frame_t

cdef extern from "gw_sys.h" nogil:
    int gw_own_descriptors(int keep_a, int keep_b)

cdef extern from "gw_swarm.h" nogil:
    uint64_t gw_now_ns()
    int gw_connect(uint32_t source, uint32_t host, uint16_t port)
    int gw_connected(int fd)
    void gw_abort(int fd)

cdef extern from "gw_msgpack.h" nogil:
    ctypedef struct gw_reader_t:
        const uint8_t *p
        const uint8_t *end
    int64_t gw_read_map(gw_reader_t *r)
    int64_t gw_read_str(gw_reader_t *r, const uint8_t **s)
    int64_t gw_read_uint(gw_reader_t *r)
    int64_t gw_size_after(gw_reader_t *r, int n)
    int gw_skip(gw_reader_t *r)
    uint32_t gw_uint_bytes(uint64_t v)
    uint8_t *gw_write_uint(uint8_t *p, uint64_t v)
    uint8_t *gw_write_str(uint8_t *p, const void *s, uint32_t n)
    int gw_parse_token(const uint8_t *s, uint8_t *token)

cdef extern from "<sys/epoll.h>" nogil:
    union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    enum: EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *buf, size_t n, int flags)
    ssize_t send(int fd, const void *buf, size_t n, int flags)
    enum: MSG_DONTWAIT, MSG_NOSIGNAL

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int usleep(unsigned int us)

cdef enum:
    EVENTS_A_TURN = 512
    CONNECTS_A_TURN = 256
    BUFFER_BYTES = 262144
    FRAME_MOST = 4194304
    ACKS_A_FRAME = 512
    LATE_MOST = 1 << 20             # acks that wait at once; past it they go at once
    HEARTBEAT_CHUNK = 2048          # PINGs in one turn
    CALM_MS = 10

cdef enum:                          # frames (docs/frames.md)
    PING = 0x01
    PONG = 0x02
    HELLO = 0x03
    WELCOME = 0x04
    REGISTER = 0x05
    TOKEN = 0x06
    NOTIFY = 0x08
    ACK = 0x09
    ERROR = 0x10
    GOAWAY = 0x11

cdef enum:                          # MQTT control packets, upper four bits
    MQTT_CONNACK = 2
    MQTT_PUBLISH = 3
    MQTT_SUBACK = 9
    MQTT_PINGRESP = 13

cdef struct acks_t:                 # ids of one read
    uint32_t count
    uint64_t ids[512]


cdef inline device_t *device_at(const fleet_t *f, uint32_t index) noexcept nogil:
    return &f.chunks[index // DEVICES_A_CHUNK][index % DEVICES_A_CHUNK]


cdef inline uint32_t number_of(const fleet_t *f, uint32_t index) noexcept nogil:
    return f.first + index * f.step


cdef inline double chance(fleet_t *f) noexcept nogil:
    f.seed ^= f.seed << 13
    f.seed ^= f.seed >> 7
    f.seed ^= f.seed << 17
    return (f.seed >> 11) * (1.0 / 9007199254740992.0)


cdef inline bint key_is(const uint8_t *key, int64_t n, const char *name, int64_t size) noexcept nogil:
    return n == size and memcmp(key, name, <size_t>size) == 0


# --- the end of a connection ----------------------------------------------------------------------------------------

cdef void device_close(fleet_t *f, device_t *d, uint8_t state) noexcept nogil:
    if d.state == DEVICE_LIVE:
        f.online -= 1
    elif d.state == DEVICE_CONNECTING or d.state == DEVICE_LOGIN:
        f.under_way -= 1
        f.failed += 1
    if d.fd >= 0:
        if f.drop_hard and state == DEVICE_AWAY:
            gw_abort(d.fd)
        else:
            close(d.fd)
    d.fd = -1
    free(d.partial)
    d.partial = NULL
    d.partial_size = 0
    d.ping_us = 0
    d.state = state
    if state == DEVICE_LOST:
        f.lost += 1
    else:
        f.away += 1


cdef void device_lost(fleet_t *f, device_t *d, uint32_t reason) noexcept nogil:
    f.reasons[min(reason, 63u)] += 1
    device_close(f, d, DEVICE_LOST)


cdef bint put(fleet_t *f, device_t *d, const uint8_t *data, size_t n) noexcept nogil:
    """A device's frames are small: what a fresh socket buffer does not take at once means that the peer is stuck."""
    cdef ssize_t sent = send(d.fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT)
    if sent == <ssize_t>n:
        return True
    f.last_errno = errno
    device_lost(f, d, 0)
    return False


# --- logging in -----------------------------------------------------------------------------------------------------

cdef void device_hello(fleet_t *f, device_t *d, uint32_t index) noexcept nogil:
    cdef uint8_t out[512]
    cdef uint32_t number = number_of(f, index)
    d.state = DEVICE_LOGIN
    put(f, d, out, build_connect(f, number, out) if f.is_mqtt else build_login(f, d, number, out))


cdef void watch(fleet_t *f, device_t *d, uint32_t index, uint32_t events, int op) noexcept nogil:
    cdef epoll_event e
    e.events = events
    e.data.u64 = <uint64_t>index << 32 | <uint32_t>d.fd
    epoll_ctl(f.epoll, op, d.fd, &e)


cdef void device_connect(fleet_t *f, device_t *d, uint32_t index) noexcept nogil:
    cdef uint32_t source = 0, place, node
    if f.devices_a_source:
        place = f.first_source + number_of(f, index) // f.devices_a_source
        source = 0x7F000001 | (1 + place // 254) << 16 | (1 + place % 254) << 8
    if d.state == DEVICE_LOST:
        f.lost -= 1
    else:
        f.away -= 1
    d.began_us = <uint32_t>f.now_us
    # each time all come back they take the next gateway, so those of one that is gone find another
    node = (number_of(f, index) + <uint32_t>f.reconnect) % f.nodes
    d.fd = gw_connect(source, f.node_hosts[node], f.node_ports[node])
    f.under_way += 1
    d.state = DEVICE_CONNECTING
    if d.fd < 0:
        f.last_errno = -d.fd
        d.fd = -1
        device_lost(f, d, 0)
        return
    watch(f, d, index, EPOLLIN | EPOLLOUT, EPOLL_CTL_ADD)


cdef void device_live(fleet_t *f, device_t *d) noexcept nogil:
    if d.state == DEVICE_LOGIN:
        f.under_way -= 1
        d.state = DEVICE_LIVE
        f.online += 1
        f.connected += 1
        histogram_add(&f.login, <uint32_t>(<uint32_t>f.now_us - d.began_us))


# --- frames of the gateway ------------------------------------------------------------------------------------------

cdef void on_welcome(fleet_t *f, device_t *d, const frame_t *frame) noexcept nogil:
    cdef gw_reader_t r
    cdef const uint8_t *key
    cdef const uint8_t *s
    cdef int64_t fields, n, size, _
    r.p = frame.body
    r.end = frame.body + frame.size
    fields = gw_read_map(&r)
    for _ in range(fields):
        n = gw_read_str(&r, &key)
        if key_is(key, n, b"device", 6):
            size = gw_read_str(&r, &s)
            if 0 < size <= ID_BYTES:
                memcpy(d.id, s, <size_t>size)
                d.id_bytes = <uint8_t>size
        elif key_is(key, n, b"secret", 6) and r.p < r.end and r.p[0] == 0xC4:
            size = gw_size_after(&r, 1)
            if 0 < size <= SECRET_BYTES and r.end - r.p >= size:
                memcpy(d.secret, r.p, <size_t>size)
                d.secret_bytes = <uint8_t>size
            r.p += size
        elif n < 0 or not gw_skip(&r):
            return
    if not f.registers:
        device_live(f, d)


cdef void on_token(fleet_t *f, device_t *d, const frame_t *frame) noexcept nogil:
    cdef gw_reader_t r
    cdef const uint8_t *key
    cdef const uint8_t *s
    cdef int64_t fields, n, _
    r.p = frame.body
    r.end = frame.body + frame.size
    fields = gw_read_map(&r)
    for _ in range(fields):
        n = gw_read_str(&r, &key)
        if key_is(key, n, b"token", 5):
            if gw_read_str(&r, &s) == 22:
                gw_parse_token(s, d.token)
        elif n < 0 or not gw_skip(&r):
            return
    device_live(f, d)


cdef void delivered(fleet_t *f, const uint8_t *text, int64_t n) noexcept nogil:
    cdef uint64_t sent = 0, now = gw_now_ns()
    cdef int i
    cdef uint8_t c
    f.notified += 1
    f.last_notified_ns = now
    if n < 17 or text[0] != 116:
        return
    for i in range(1, 17):
        c = text[i]
        sent = sent << 4 | (c - 48 if c <= 57 else c - 87)
    if sent <= now:
        histogram_add(&f.delivery, (now - sent) // 1000)


cdef void on_notify(fleet_t *f, device_t *d, const frame_t *frame, acks_t *acks) noexcept nogil:
    cdef gw_reader_t r
    cdef const uint8_t *key
    cdef const uint8_t *text = NULL
    cdef int64_t fields, n, size = 0, _
    cdef uint64_t id = 0
    r.p = frame.body
    r.end = frame.body + frame.size
    fields = gw_read_map(&r)
    for _ in range(fields):
        n = gw_read_str(&r, &key)
        if key_is(key, n, b"id", 2):
            id = <uint64_t>gw_read_uint(&r)
        elif key_is(key, n, b"text", 4):
            size = gw_read_str(&r, &text)
        elif n < 0 or not gw_skip(&r):
            break
    if id == d.last_id:
        f.duplicates += 1
    d.last_id = id
    delivered(f, text, size if text != NULL else 0)
    if f.ack_share < 1.0 and chance(f) >= f.ack_share:
        return
    acks.ids[acks.count] = id
    acks.count += 1


cdef void on_end(fleet_t *f, device_t *d, const frame_t *frame) noexcept nogil:
    """ERROR or GOAWAY: remember its number, the close follows."""
    cdef gw_reader_t r
    cdef const uint8_t *key
    cdef int64_t fields, n, _
    r.p = frame.body
    r.end = frame.body + frame.size
    fields = gw_read_map(&r)
    for _ in range(fields):
        n = gw_read_str(&r, &key)
        if key_is(key, n, b"code", 4):
            n = gw_read_uint(&r)
            device_lost(f, d, 63u if n < 0 else <uint32_t>n)
            return
        if n < 0 or not gw_skip(&r):
            break
    device_lost(f, d, 63)


cdef void send_acks(fleet_t *f, device_t *d, const acks_t *acks) noexcept nogil:
    cdef uint8_t out[9 * 512 + 16]
    cdef uint8_t *p = out + 3
    cdef uint32_t i
    out[0] = ACK
    p[0] = 0xDC
    p[1] = <uint8_t>(acks.count >> 8)
    p[2] = <uint8_t>acks.count
    p += 3
    for i in range(acks.count):
        p = gw_write_uint(p, acks.ids[i])
    p = frame_end(out, p)
    if put(f, d, out, <size_t>(p - out)):
        f.acked += acks.count


cdef void ack(fleet_t *f, device_t *d, uint32_t index, acks_t *acks) noexcept nogil:
    cdef late_t *late
    cdef uint32_t i
    if acks.count == 0 or d.state != DEVICE_LIVE:
        acks.count = 0
        return
    if f.ack_late_ms and f.late_tail - f.late_head + acks.count <= LATE_MOST:
        for i in range(acks.count):
            late = &f.late[f.late_tail % LATE_MOST]
            late.due_us = f.now_us + f.ack_late_ms * 1000u
            late.id = acks.ids[i]
            late.index = index
            late.fd = d.fd
            f.late_tail += 1
    else:
        send_acks(f, d, acks)
    acks.count = 0


cdef void ack_late(fleet_t *f) noexcept nogil:
    cdef acks_t one
    cdef late_t *late
    cdef device_t *d
    while f.late_head < f.late_tail:
        late = &f.late[f.late_head % LATE_MOST]
        if late.due_us > f.now_us:
            return
        f.late_head += 1
        d = device_at(f, late.index)
        if d.state == DEVICE_LIVE and d.fd == late.fd:
            one.count = 1
            one.ids[0] = late.id
            send_acks(f, d, &one)


cdef void on_pong(fleet_t *f, device_t *d) noexcept nogil:
    if d.ping_us:
        histogram_add(&f.pong, <uint32_t>(<uint32_t>f.now_us - d.ping_us))
        d.ping_us = 0
        f.heartbeats += 1


cdef void on_frame(fleet_t *f, device_t *d, const frame_t *frame, acks_t *acks) noexcept nogil:
    if frame.kind == NOTIFY:
        on_notify(f, d, frame, acks)
    elif frame.kind == PONG:
        on_pong(f, d)
    elif frame.kind == WELCOME:
        on_welcome(f, d, frame)
    elif frame.kind == TOKEN:
        on_token(f, d, frame)
    elif frame.kind == ERROR or frame.kind == GOAWAY:
        on_end(f, d, frame)


# --- packets of a broker --------------------------------------------------------------------------------------------

cdef long packet_parse(const uint8_t *p, size_t n, frame_t *out) noexcept nogil:
    """MQTT 3.1.1 section 2.2: the fixed header. As frame_parse, but that `kind` is the whole first byte."""
    return frame_parse(p, n, FRAME_MOST, out)


cdef void on_packet(fleet_t *f, device_t *d, uint32_t index, const frame_t *packet, acks_t *acks) noexcept nogil:
    cdef uint8_t out[64]
    cdef uint32_t at, kind = packet.kind >> 4
    if kind == MQTT_PUBLISH and packet.size >= 2:
        at = 2 + (<uint32_t>packet.body[0] << 8 | packet.body[1])
        if packet.kind & 0x06 and packet.size >= at + 2:
            # MQTT section 4.3.2: PUBACK with the packet's number
            memcpy(out, b"\x40\x02", 2)
            memcpy(out + 2, packet.body + at, 2)
            at += 2
            if f.ack_share >= 1.0 or chance(f) < f.ack_share:
                if not put(f, d, out, 4):
                    return
                f.acked += 1
        if packet.size >= at:
            delivered(f, packet.body + at, packet.size - at)
    elif kind == MQTT_PINGRESP:
        on_pong(f, d)
    elif kind == MQTT_CONNACK:
        if packet.size != 2 or packet.body[1] != 0:
            device_lost(f, d, 63 if packet.size != 2 else packet.body[1])
        else:
            put(f, d, out, build_subscribe(number_of(f, index), out))
    elif kind == MQTT_SUBACK:
        device_live(f, d)


# --- bytes in -------------------------------------------------------------------------------------------------------

cdef void device_readable(fleet_t *f, device_t *d, uint32_t index) noexcept nogil:
    cdef uint8_t *p = f.buffer
    cdef size_t kept = d.partial_size, n, at = 0
    cdef ssize_t got
    cdef long used
    cdef frame_t frame
    cdef acks_t acks
    if kept:
        memcpy(p, d.partial, kept)
    got = recv(d.fd, p + kept, BUFFER_BYTES - kept, MSG_DONTWAIT)
    if got <= 0:
        if got < 0 and (errno == EAGAIN or errno == EINTR):
            return
        f.last_errno = errno if got < 0 else 0
        device_lost(f, d, 0)
        return
    f.bytes_in += <uint64_t>got
    n = kept + <size_t>got
    acks.count = 0
    while True:
        used = packet_parse(p + at, n - at, &frame)
        if used <= 0:
            break
        at += <size_t>used
        if f.is_mqtt:
            on_packet(f, d, index, &frame, &acks)
        else:
            on_frame(f, d, &frame, &acks)
            if acks.count == ACKS_A_FRAME:
                ack(f, d, index, &acks)
        if d.fd < 0:
            return
    if used < 0 or (at == 0 and n == BUFFER_BYTES):
        device_lost(f, d, 10)
        return
    ack(f, d, index, &acks)
    if d.fd < 0:
        return
    if at < n:
        d.partial = <uint8_t *>realloc(d.partial, n - at)
        if d.partial == NULL:
            device_lost(f, d, 0)
            return
        memcpy(d.partial, p + at, n - at)
        d.partial_size = <uint32_t>(n - at)
    elif d.partial != NULL:
        free(d.partial)
        d.partial = NULL
        d.partial_size = 0


cdef void device_event(fleet_t *f, uint32_t index, int fd, uint32_t events) noexcept nogil:
    cdef device_t *d = device_at(f, index)
    if d.fd != fd:
        return      # it was closed in this turn, and its descriptor may live again
    if d.state == DEVICE_CONNECTING and events & ~<uint32_t>EPOLLIN:
        f.last_errno = gw_connected(d.fd)
        if f.last_errno:
            device_lost(f, d, 0)
            return
        watch(f, d, index, EPOLLIN, EPOLL_CTL_MOD)
        device_hello(f, d, index)
        return
    if events & ~<uint32_t>EPOLLOUT:
        device_readable(f, d, index)


# --- the loop -------------------------------------------------------------------------------------------------------

cdef bint make_device(fleet_t *f) noexcept nogil:
    cdef device_t *d
    if f.size % DEVICES_A_CHUNK == 0:
        if f.size // DEVICES_A_CHUNK == CHUNKS_MAX:
            return False
        f.chunks[f.size // DEVICES_A_CHUNK] = <device_t *>calloc(DEVICES_A_CHUNK, sizeof(device_t))
        if f.chunks[f.size // DEVICES_A_CHUNK] == NULL:
            return False
    d = device_at(f, f.size)
    d.fd = -1
    f.size += 1
    f.away += 1
    return True


cdef void connect_more(fleet_t *f) noexcept nogil:
    """New devices first, then those that shall come back; inside the rate and the bound on those under way."""
    cdef device_t *d
    cdef int n = 0
    if f.rate > 0:
        f.allowance = min(f.allowance + (f.now_us - f.allowance_us) * f.rate / 1e6, max(f.rate / 10, 1.0))
    f.allowance_us = f.now_us
    while n < CONNECTS_A_TURN and f.under_way < f.at_once and (f.rate <= 0 or f.allowance >= 1.0):
        if f.size < f.target:
            if not make_device(f):
                f.target = f.size
                return
            device_connect(f, device_at(f, f.size - 1), f.size - 1)
        elif f.reconnect_done < f.reconnect:
            if f.scanned >= f.size:
                f.reconnect_done = f.reconnect
                f.scanned = 0
                return
            d = device_at(f, f.scanned)
            f.scanned += 1
            if d.state != DEVICE_AWAY and d.state != DEVICE_LOST:
                continue
            device_connect(f, d, f.scanned - 1)
        else:
            return
        f.allowance -= 1.0
        n += 1


cdef void drop_some(fleet_t *f) noexcept nogil:
    cdef uint32_t i, n = 0
    cdef device_t *d
    for i in range(f.size):
        if f.to_drop == 0 or n == EVENTS_A_TURN * 8:
            return
        d = device_at(f, i)
        if d.state == DEVICE_LIVE:
            device_close(f, d, DEVICE_AWAY)
            f.to_drop -= 1
            f.dropped += 1
            n += 1
    f.to_drop = 0       # nobody is left


cdef void beat(fleet_t *f) noexcept nogil:
    """Device i has its turn once in each interval, so that PINGs are spread evenly whatever the size."""
    cdef uint64_t due
    cdef device_t *d
    cdef int n = 0
    if f.heartbeat_ms == 0 or f.size == 0:
        return
    due = <uint64_t>((f.now_us - f.start_us) / (f.heartbeat_ms * 1000.0) * f.size)
    if due > f.beat + f.size or due < f.beat:
        f.beat = due - f.size if due > f.size else 0
    while f.beat < due and n < HEARTBEAT_CHUNK:
        d = device_at(f, <uint32_t>(f.beat % f.size))
        f.beat += 1
        n += 1
        if d.state == DEVICE_LIVE:
            d.ping_us = <uint32_t>f.now_us | 1
            put(f, d, <const uint8_t *>(b"\xC0\x00" if f.is_mqtt else b"\x01\x00"), 2)


cdef void run(fleet_t *f) noexcept nogil:
    cdef epoll_event events[EVENTS_A_TURN]
    cdef uint32_t before, i
    cdef int n, k
    while not f.stop:
        f.now_us = gw_now_ns() // 1000
        if f.resets_done < f.reset:
            memset(&f.delivery, 0, sizeof(histogram_t))
            memset(&f.pong, 0, sizeof(histogram_t))
            memset(&f.login, 0, sizeof(histogram_t))
            f.resets_done = f.reset
        before = f.under_way
        connect_more(f)
        if f.to_drop:
            drop_some(f)
        beat(f)
        ack_late(f)
        if f.under_way != before or f.to_drop:
            k = 0
        elif f.late_head < f.late_tail or (
                f.rate > 0 and (f.size < f.target or f.reconnect_done < f.reconnect)):
            k = 1
        else:
            k = CALM_MS     # an answer wakes it; a hundred threads that look each millisecond would take a core
        n = epoll_wait(f.epoll, events, EVENTS_A_TURN, k)
        f.now_us = gw_now_ns() // 1000
        for k in range(n):
            device_event(f, <uint32_t>(events[k].data.u64 >> 32), <int>(events[k].data.u64 & 0x7FFFFFFF),
                         events[k].events)
    for i in range(f.size):
        if device_at(f, i).fd >= 0:
            close(device_at(f, i).fd)
            device_at(f, i).fd = -1
        free(device_at(f, i).partial)
        device_at(f, i).partial = NULL
    close(f.epoll)


@cython.final
cdef class Fleet:
    """See fleet.pyi. `run` belongs to its own thread, everything else to the control thread."""

    def __cinit__(self, index: int, step: int, nodes: list, *, app: bytes, versions: int, heartbeat_ms: int,
                  first_source: int, devices_a_source: int, mqtt: bool, ack_share: float, ack_late_ms: int):
        cdef fleet_t *f = <fleet_t *>calloc(1, sizeof(fleet_t))
        if f == NULL:
            raise MemoryError
        self.f = f
        self.index = index
        if not 0 < len(app) <= 64 or not 0 < versions <= 1000:
            raise ValueError("an app's name has 1 to 64 bytes; there are 1 to 1,000 versions")
        f.first = index
        f.step = step
        if not 0 < len(nodes) <= 64:
            raise ValueError("there are 1 to 64 gateways")
        for host, port in nodes:
            f.node_hosts[f.nodes] = host
            f.node_ports[f.nodes] = port
            f.nodes += 1
        f.app_bytes = <uint32_t>len(app)
        memcpy(f.app, <const char *>app, len(app))
        f.versions = versions
        f.heartbeat_ms = heartbeat_ms
        f.first_source = first_source
        f.devices_a_source = devices_a_source
        f.is_mqtt = mqtt
        f.registers = 1
        f.ack_share = ack_share
        f.ack_late_ms = ack_late_ms
        f.at_once = 2000
        f.seed = 0x9E3779B97F4A7C15ULL ^ <uint64_t>(index + 1) * 0xBF58476D1CE4E5B9ULL
        f.buffer = <uint8_t *>malloc(BUFFER_BYTES)
        f.late = <late_t *>malloc(LATE_MOST * sizeof(late_t)) if ack_late_ms else NULL
        f.epoll = -1
        if f.buffer == NULL or (ack_late_ms and f.late == NULL):
            raise MemoryError

    def __dealloc__(self):
        cdef uint32_t i
        if self.f == NULL:
            return
        for i in range(<uint32_t>CHUNKS_MAX):
            free(self.f.chunks[i])
        free(self.f.buffer)
        free(self.f.late)
        free(self.f)

    def run(self) -> None:
        """Until `stop`, without the GIL, in a descriptor table of its own."""
        cdef fleet_t *f = self.f
        if gw_own_descriptors(2, 2) != 0:
            raise OSError(errno, "the thread could not get a descriptor table of its own")
        f.epoll = epoll_create1(EPOLL_CLOEXEC)
        if f.epoll < 0:
            raise OSError(errno, "epoll_create1")
        f.now_us = f.start_us = f.allowance_us = gw_now_ns() // 1000
        with nogil:
            run(f)

    def stop(self) -> None:
        self.f.stop = 1

    def connect(self, count: int, rate: float, at_once: int, register: bool) -> None:
        """So many more devices."""
        self.f.rate = rate
        self.f.at_once = at_once
        self.f.registers = register
        self.f.target += <uint32_t>count

    def drop(self, count: int, hard: bool) -> None:
        """So many go away; `hard`: with a reset."""
        self.f.drop_hard = hard
        self.f.to_drop = count

    def reconnect(self, rate: float, at_once: int) -> None:
        """All that are away or lost come back."""
        self.f.rate = rate
        self.f.at_once = at_once
        self.f.reconnect += 1

    def reset(self) -> None:
        """Histograms begin anew."""
        self.f.reset += 1

    @property
    def is_calm(self) -> bool:
        """Nothing asked for is left to do."""
        cdef fleet_t *f = self.f
        return (f.size >= f.target and f.reconnect_done >= f.reconnect and f.under_way == 0 and f.to_drop == 0
                and f.resets_done >= f.reset)

    def counts(self) -> dict:
        cdef fleet_t *f = self.f
        return {"online": f.online, "away": f.away, "lost": f.lost, "connected": f.connected, "failed": f.failed,
                "dropped": f.dropped, "notified": f.notified, "acked": f.acked, "duplicates": f.duplicates,
                "heartbeats": f.heartbeats, "bytes_in": f.bytes_in, "devices": f.size, "under_way": f.under_way}

    @property
    def last_notified_ns(self) -> int:
        return self.f.last_notified_ns

    @property
    def last_errno(self) -> int:
        return self.f.last_errno

    def reasons(self) -> dict:
        """Ends by the number of their ERROR or GOAWAY; 0: without a word; 63: any other."""
        return {i: self.f.reasons[i] for i in range(64) if self.f.reasons[i]}

    def merge_into(self, kind: str, Summary summary not None) -> None:
        """Adds login, delivery or pong latencies, microseconds."""
        if kind == "login":
            summary.add(&self.f.login)
        elif kind == "delivery":
            summary.add(&self.f.delivery)
        else:
            summary.add(&self.f.pong)

    def numbers(self, online: bool, limit: int) -> bytes:
        """Indices here of devices that are connected (or not), packed uint32."""
        cdef fleet_t *f = self.f
        cdef uint32_t i, n = 0, most = <uint32_t>min(limit, f.size)
        cdef bint wanted = online
        cdef uint32_t *found = <uint32_t *>malloc(max(1u, most) * sizeof(uint32_t))
        if found == NULL:
            raise MemoryError
        for i in range(f.size):
            if n == most:
                break
            if (device_at(f, i).state == DEVICE_LIVE) == wanted:
                found[n] = i
                n += 1
        out = (<const char *>found)[:n * sizeof(uint32_t)]
        free(found)
        return out

    def token(self, index: int) -> bytes:
        return (<const char *>device_at(self.f, index).token)[:TOKEN_BYTES]

    def save(self, first: int, count: int) -> bytes:
        """Credentials and tokens of these devices: records of 68 bytes."""
        cdef fleet_t *f = self.f
        cdef uint32_t i, start = first, end = <uint32_t>min(first + count, f.size)
        cdef list out = []
        cdef device_t *d
        for i in range(start, end):
            d = device_at(f, i)
            out.append(bytes((d.id_bytes, d.secret_bytes)) + (<const char *>d.id)[:ID_BYTES]
                       + (<const char *>d.secret)[:SECRET_BYTES] + (<const char *>d.token)[:TOKEN_BYTES])
        return b"".join(out)

    def load(self, records: bytes) -> None:
        """Devices that are away, with these credentials; before any other device is made."""
        cdef fleet_t *f = self.f
        cdef const uint8_t *p = records
        cdef Py_ssize_t size = 2 + ID_BYTES + SECRET_BYTES + TOKEN_BYTES
        cdef device_t *d
        cdef Py_ssize_t _
        if len(records) % size or f.size:
            raise ValueError("records of 68 bytes, into an empty fleet")
        for _ in range(len(records) // size):
            if not make_device(f):
                raise MemoryError
            d = device_at(f, f.size - 1)
            d.id_bytes = min(p[0], <uint8_t>ID_BYTES)
            d.secret_bytes = min(p[1], <uint8_t>SECRET_BYTES)
            memcpy(d.id, p + 2, ID_BYTES)
            memcpy(d.secret, p + 2 + ID_BYTES, SECRET_BYTES)
            memcpy(d.token, p + 2 + ID_BYTES + SECRET_BYTES, TOKEN_BYTES)
            p += size
        f.target = f.size


@cython.final
cdef class Summary:
    """Latencies of several threads together, microseconds."""
    cdef histogram_t h

    def __cinit__(self):
        memset(&self.h, 0, sizeof(histogram_t))

    cdef void add(self, const histogram_t *h) noexcept:
        histogram_merge(&self.h, h)

    def as_ms(self) -> dict:
        return histogram_summary(&self.h, 1000.0)


DEVICE_BYTES = sizeof(device_t)
