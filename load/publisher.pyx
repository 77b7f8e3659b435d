"""A publisher's thread: offers pushes at a pace, over a provider stream or to an MQTT broker; without the GIL.

It never waits for one push before the next: up to a window are on their way, as many as are due leave in one frame (a
broker: in one write), and the moment of each travels in its text, so that a device can tell how long it took.
"""
cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memmove, memset
from gateway._load.fleet cimport Fleet
from gateway._load.histogram cimport histogram_add, histogram_summary, histogram_t
from gateway._native.frame cimport frame_parse, frame_t

cdef extern from "gw_swarm.h" nogil:
    uint64_t gw_now_ns()
    int gw_connect(uint32_t source, uint32_t host, uint16_t port)
    int gw_connected(int fd)

cdef extern from "gw_msgpack.h" nogil:
    ctypedef struct gw_reader_t:
        const uint8_t *p
        const uint8_t *end
    int64_t gw_read_array(gw_reader_t *r)
    int64_t gw_read_map(gw_reader_t *r)
    int64_t gw_read_str(gw_reader_t *r, const uint8_t **s)
    int64_t gw_read_uint(gw_reader_t *r)
    int gw_skip(gw_reader_t *r)
    uint8_t *gw_write_uint(uint8_t *p, uint64_t v)
    uint8_t *gw_write_str(uint8_t *p, const void *s, uint32_t n)
    void gw_build_token(const uint8_t *token, uint8_t *s)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    enum: POLLIN, POLLOUT
    int poll(pollfd *fds, unsigned long n, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *buf, size_t n, int flags)
    ssize_t send(int fd, const void *buf, size_t n, int flags)
    enum: MSG_DONTWAIT, MSG_NOSIGNAL

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef enum:
    OUT_BYTES = 1 << 20             # of one write
    IN_BYTES = 1 << 20
    TEXT_MOST = 2048
    BATCHES = 65536                 # requests under way, or packets of a broker (numbers of 16 bit)
    FRAME_MOST = 1 << 24
    PING_EVERY_NS = 20000000000

cdef enum:                          # frames (docs/frames.md)
    PING = 0x01
    HELLO = 0x03
    WELCOME = 0x04
    ERROR = 0x10
    GOAWAY = 0x11
    PUSH = 0x30
    PUSHED = 0x31

cdef struct batch_t:
    uint64_t sent_ns                # 0: not under way
    uint32_t count

cdef struct publisher_t:
    # set by the control thread
    uint32_t host
    uint16_t port
    int is_mqtt
    uint8_t key[128]
    uint32_t key_bytes
    double rate                     # pushes a second; 0: as fast as the window lets
    uint64_t most                   # pushes in all; 0: until the time is over
    double seconds
    uint32_t batch                  # most pushes in one frame
    uint32_t text_bytes
    uint32_t window
    int everyone                    # broadcasts instead of directed pushes
    int qos
    int stop
    # targets: tokens of 16 bytes, or numbers of devices
    const uint8_t *tokens
    const uint32_t *numbers
    uint32_t targets
    # read by the control thread
    uint64_t offered, accepted, refused
    uint64_t began_ns, ended_ns, last_result_ns
    uint32_t error                  # 0; a number of ERROR or GOAWAY; 1000 + errno
    int is_done
    # its own
    int fd
    uint64_t seed
    uint32_t frame_most
    uint32_t batch_most
    uint32_t next_req
    uint32_t window_most
    uint64_t unanswered
    batch_t *batches
    uint8_t *out
    size_t out_size, out_sent
    uint8_t *into
    size_t in_size
    histogram_t accept


cdef inline uint64_t random_of(publisher_t *p) noexcept nogil:
    p.seed ^= p.seed << 13
    p.seed ^= p.seed >> 7
    p.seed ^= p.seed << 17
    return p.seed


cdef void write_stamp(uint8_t *text, uint64_t now) noexcept nogil:
    """`t` and the moment, CLOCK_MONOTONIC in ns, 16 hex digits."""
    cdef int i
    cdef uint8_t digit
    text[0] = 116
    for i in range(16):
        digit = <uint8_t>(now >> (60 - 4 * i)) & 15
        text[1 + i] = digit + (48 if digit < 10 else 87)


cdef inline uint8_t *frame_end(uint8_t *frame, uint8_t *p) noexcept nogil:
    """A body of up to 2^28 - 1 bytes was written from frame + 5 on; longer forms of a length are valid."""
    cdef uint32_t size = <uint32_t>(p - frame - 5)
    frame[1] = <uint8_t>(size & 0x7F | 0x80)
    frame[2] = <uint8_t>(size >> 7 & 0x7F | 0x80)
    frame[3] = <uint8_t>(size >> 14 & 0x7F | 0x80)
    frame[4] = <uint8_t>(size >> 21)
    return p


# --- what goes out --------------------------------------------------------------------------------------------------

cdef uint32_t room_for(const publisher_t *p) noexcept nogil:
    """Pushes the window has room for."""
    return 0 if p.unanswered >= p.window_most else <uint32_t>(p.window_most - p.unanswered)


cdef void offer_frame(publisher_t *p, uint32_t count, uint8_t *text) noexcept nogil:
    """One PUSH frame with so many pushes, behind what waits in `out`."""
    cdef uint8_t *frame = p.out + p.out_size
    cdef uint8_t *to = frame + 5
    cdef uint8_t token[22]
    cdef uint64_t now = gw_now_ns()
    cdef uint32_t _
    cdef batch_t *batch
    p.next_req = p.next_req % 0x7FFFFFFF + 1
    frame[0] = PUSH
    to[0] = 0x82
    to = gw_write_str(to + 1, b"req", 3)
    to = gw_write_uint(to, p.next_req)
    to = gw_write_str(to, b"pushes", 6)
    to[0] = 0xDC
    to[1] = <uint8_t>(count >> 8)
    to[2] = <uint8_t>count
    to += 3
    write_stamp(text, now)
    for _ in range(count):
        to[0] = 0x82
        to = gw_write_str(to + 1, b"target", 6)
        to[0] = 0x81
        if p.everyone:
            to = gw_write_str(to + 1, b"everyone", 8)
            to[0] = 0xC3
            to += 1
        else:
            gw_build_token(p.tokens + <size_t>(random_of(p) % p.targets) * 16, token)
            to = gw_write_str(to + 1, b"token", 5)
            to = gw_write_str(to, token, 22)
        to = gw_write_str(to, b"text", 4)
        to = gw_write_str(to, text, p.text_bytes)
    p.out_size = <size_t>(frame_end(frame, to) - p.out)
    batch = &p.batches[p.next_req % BATCHES]
    batch.sent_ns = now
    batch.count = count
    p.unanswered += count
    p.offered += count


cdef void offer_packet(publisher_t *p, uint8_t *text) noexcept nogil:
    """One PUBLISH (MQTT section 3.3), behind what waits in `out`."""
    cdef uint8_t *to = p.out + p.out_size
    cdef uint8_t *packet = to
    cdef uint64_t now = gw_now_ns()
    cdef uint32_t number, n = 0, size
    cdef uint8_t digits[10]
    write_stamp(text, now)
    p.next_req = p.next_req % 65535 + 1
    to[0] = <uint8_t>(0x30 | p.qos << 1)
    to += 5
    if p.everyone:
        memcpy(to, b"\x00\x03all", 5)
        to += 5
    else:
        number = p.numbers[random_of(p) % p.targets]
        while True:
            digits[n] = <uint8_t>(48 + number % 10)
            number //= 10
            n += 1
            if number == 0:
                break
        to[0] = 0
        to[1] = <uint8_t>(2 + n)
        to[2] = 100
        to[3] = 47
        to += 4
        while n:
            n -= 1
            to[0] = digits[n]
            to += 1
    if p.qos:
        to[0] = <uint8_t>(p.next_req >> 8)
        to[1] = <uint8_t>p.next_req
        to += 2
    memcpy(to, text, p.text_bytes)
    to += p.text_bytes
    # the remaining length in its longest form is malformed in MQTT: write it short and close the gap
    size = <uint32_t>(to - packet - 5)
    n = 1
    packet[1] = <uint8_t>(size & 0x7F)
    if size >= 0x80:
        packet[1] |= 0x80
        packet[2] = <uint8_t>(size >> 7)
        n = 2
    memmove(packet + 1 + n, packet + 5, size)
    p.out_size += 1 + n + size
    p.offered += 1
    if p.qos:
        p.batches[p.next_req].sent_ns = now
        p.batches[p.next_req].count = 1
        p.unanswered += 1
    else:
        p.accepted += 1


cdef void offer(publisher_t *p, uint64_t due, uint8_t *text) noexcept nogil:
    """As many as are due, fit into the window and into one write."""
    cdef uint32_t each = p.text_bytes + 64, count
    while due and p.out_size + 64 + each < OUT_BYTES:
        count = <uint32_t>min(due, <uint64_t>room_for(p))
        if not p.is_mqtt:
            count = min(count, min(p.batch, min(p.batch_most, (p.frame_most - 64) // each)))
            count = min(count, <uint32_t>((OUT_BYTES - p.out_size - 64) // each))
        if count == 0:
            return
        if p.is_mqtt:
            count = 1
            offer_packet(p, text)
        else:
            offer_frame(p, count, text)
        due -= count


# --- what comes back ------------------------------------------------------------------------------------------------

cdef void answered(publisher_t *p, batch_t *batch, uint32_t accepted, uint64_t now) noexcept nogil:
    cdef uint32_t _
    if batch.sent_ns == 0:
        return
    for _ in range(batch.count):
        histogram_add(&p.accept, (now - batch.sent_ns) // 1000)
    batch.sent_ns = 0
    p.unanswered -= batch.count
    p.accepted += accepted
    p.refused += batch.count - accepted
    p.last_result_ns = now


cdef void on_pushed(publisher_t *p, const frame_t *frame) noexcept nogil:
    cdef gw_reader_t r
    cdef const uint8_t *key
    cdef int64_t fields, n, req = -1, results = -1, _, __
    cdef uint32_t accepted = 0
    cdef uint8_t tag
    r.p = frame.body
    r.end = frame.body + frame.size
    fields = gw_read_map(&r)
    for _ in range(fields):
        n = gw_read_str(&r, &key)
        if n == 3 and memcmp(key, b"req", 3) == 0:
            req = gw_read_uint(&r)
        elif n == 7 and memcmp(key, b"results", 7) == 0:
            results = gw_read_array(&r)
            for __ in range(results):
                tag = r.p[0] if r.p < r.end else 0
                # an id, or a map that begins with one (a broadcast's)
                if 0xA0 <= tag < 0xC0 or (
                        0x80 <= tag < 0x90 and r.end - r.p > 3 and memcmp(r.p + 1, b"\xa2id", 3) == 0):
                    accepted += 1
                if not gw_skip(&r):
                    return
        elif n < 0 or not gw_skip(&r):
            return
    if req > 0:
        answered(p, &p.batches[req % BATCHES], accepted, gw_now_ns())


cdef int number_in(const frame_t *frame, const char *name, int64_t size) noexcept nogil:
    """A number of a map; -1 where it is not there."""
    cdef gw_reader_t r
    cdef const uint8_t *key
    cdef int64_t fields, n, _
    r.p = frame.body
    r.end = frame.body + frame.size
    fields = gw_read_map(&r)
    for _ in range(fields):
        n = gw_read_str(&r, &key)
        if n == size and memcmp(key, name, <size_t>size) == 0:
            return <int>gw_read_uint(&r)
        if n < 0 or not gw_skip(&r):
            return -1
    return -1


cdef bint on_input(publisher_t *p, int *welcomed) noexcept nogil:
    """False: the connection is over."""
    cdef ssize_t got = recv(p.fd, p.into + p.in_size, IN_BYTES - p.in_size, MSG_DONTWAIT)
    cdef size_t at = 0
    cdef long used
    cdef frame_t frame
    cdef uint64_t now
    if got <= 0:
        if got < 0 and (errno == EAGAIN or errno == EINTR):
            return True
        p.error = 1000 + (<uint32_t>errno if got < 0 else 0u)
        return False
    p.in_size += <size_t>got
    now = gw_now_ns()
    while True:
        used = frame_parse(p.into + at, p.in_size - at, FRAME_MOST, &frame)
        if used <= 0:
            break
        at += <size_t>used
        if p.is_mqtt:
            if frame.kind >> 4 == 2:
                if frame.size != 2 or frame.body[1] != 0:
                    p.error = 63
                    return False
                welcomed[0] = 1
            elif frame.kind >> 4 == 4 and frame.size == 2:
                answered(p, &p.batches[<uint32_t>frame.body[0] << 8 | frame.body[1]], 1, now)
        elif frame.kind == PUSHED:
            on_pushed(p, &frame)
        elif frame.kind == WELCOME:
            p.frame_most = <uint32_t>max(1024, number_in(&frame, b"max_frame", 9))
            p.batch_most = <uint32_t>max(1, number_in(&frame, b"max_batch", 9))
            p.window_most = min(p.window, <uint32_t>max(1, number_in(&frame, b"window", 6)))
            welcomed[0] = 1
        elif frame.kind == ERROR or frame.kind == GOAWAY:
            p.error = <uint32_t>max(1, number_in(&frame, b"code", 4))
            return False
    if used < 0:
        p.error = 10
        return False
    memmove(p.into, p.into + at, p.in_size - at)
    p.in_size -= at
    return True


# --- the loop -------------------------------------------------------------------------------------------------------

cdef void greet(publisher_t *p) noexcept nogil:
    cdef uint8_t *to = p.out
    if p.is_mqtt:
        memcpy(to, b"\x10\x15\x00\x04MQTT\x04\x02\x00\x00\x00\x09publisher", 23)
        p.out_size = 23
        return
    to[0] = HELLO
    to[5] = 0x83
    to = gw_write_str(to + 6, b"v", 1)
    to = gw_write_uint(to, 1)
    to = gw_write_str(to, b"role", 4)
    to = gw_write_str(to, b"provider", 8)
    to = gw_write_str(to, b"key", 3)
    to = gw_write_str(to, p.key, p.key_bytes)
    p.out_size = <size_t>(frame_end(p.out, to) - p.out)


cdef bint flush(publisher_t *p) noexcept nogil:
    cdef ssize_t sent
    while p.out_sent < p.out_size:
        sent = send(p.fd, p.out + p.out_sent, p.out_size - p.out_sent, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent < 0:
            if errno == EAGAIN or errno == EINTR:
                return True
            p.error = 1000 + <uint32_t>errno
            return False
        p.out_sent += <size_t>sent
    p.out_sent = p.out_size = 0
    return True


cdef void run(publisher_t *p) noexcept nogil:
    cdef uint8_t text[TEXT_MOST]
    cdef pollfd fds[1]
    cdef int welcomed = 0, failed
    cdef uint64_t now, due, began = gw_now_ns(), pinged
    memset(text, 120, TEXT_MOST)
    p.fd = gw_connect(0, p.host, p.port)
    if p.fd < 0:
        p.error = 1000 + <uint32_t>(-p.fd)
        return
    fds[0].fd = p.fd
    fds[0].events = POLLOUT
    poll(fds, 1, 10000)
    failed = gw_connected(p.fd)     # reading it clears it
    if failed:
        p.error = 1000 + <uint32_t>failed
        return
    p.window_most = p.window
    p.frame_most = 65536
    p.batch_most = 1024
    greet(p)
    if not flush(p):
        return
    fds[0].events = POLLIN
    while not welcomed:
        if gw_now_ns() - began > <uint64_t>10000000000:
            p.error = 20
            return
        poll(fds, 1, 100)
        if not on_input(p, &welcomed):
            return
    p.began_ns = pinged = gw_now_ns()
    while not p.stop:
        now = gw_now_ns()
        due = 0
        if p.ended_ns == 0 and (now - p.began_ns) / 1e9 < p.seconds and (p.most == 0 or p.offered < p.most):
            due = <uint64_t>((now - p.began_ns) / 1e9 * p.rate) + 1 if p.rate > 0 else <uint64_t>1 << 30
            due = due - p.offered if due > p.offered else 0
            if p.most:
                due = min(due, p.most - p.offered)
        elif p.ended_ns == 0:
            p.ended_ns = now
        if p.ended_ns and (p.unanswered == 0 or (now - p.ended_ns) / 1e9 > max(10.0, p.seconds)) and p.out_size == 0:
            return
        if p.out_size == 0 and due:
            offer(p, due, text)
        if now - pinged > <uint64_t>PING_EVERY_NS and p.out_size == 0:
            pinged = now
            memcpy(p.out, b"\xC0\x00" if p.is_mqtt else b"\x01\x00", 2)
            p.out_size = 2
        if p.out_size and not flush(p):
            return
        fds[0].events = POLLIN | (POLLOUT if p.out_size else 0)
        # 1 ms is the pace: what became due meanwhile leaves together
        if poll(fds, 1, 1) > 0 and not on_input(p, &welcomed):
            return


@cython.final
cdef class Publisher:
    """See publisher.pyi. `run` belongs to its own thread, everything else to the control thread."""
    cdef publisher_t *p
    cdef bytes targets              # what the pointers point into

    def __cinit__(self, host: int, port: int, *, mqtt: bool, key: bytes, rate: float, seconds: float, most: int,
                  batch: int, text_bytes: int, window: int, everyone: bool, qos: int, seed: int, targets: bytes):
        cdef publisher_t *p = <publisher_t *>calloc(1, sizeof(publisher_t))
        if p == NULL:
            raise MemoryError
        self.p = p
        self.targets = targets
        if not 17 <= text_bytes <= TEXT_MOST:
            raise ValueError(f"a push carries its time: 17 to {TEXT_MOST} bytes")
        if not everyone and not targets:
            raise ValueError("there is nobody to push to")
        if len(key) > 128:
            raise ValueError("an API key has at most 128 bytes")
        p.fd = -1
        p.host = host
        p.port = port
        p.is_mqtt = mqtt
        p.key_bytes = <uint32_t>len(key)
        memcpy(p.key, <const char *>key, len(key))
        p.rate = rate
        p.seconds = seconds
        p.most = most
        p.batch = batch
        p.text_bytes = text_bytes
        p.window = min(window, 60000)
        p.everyone = everyone
        p.qos = qos
        p.seed = <uint64_t>0x9E3779B97F4A7C15 ^ <uint64_t>(seed + 1) * <uint64_t>0xBF58476D1CE4E5B9
        p.tokens = <const uint8_t *><const char *>targets
        p.numbers = <const uint32_t *><const char *>targets
        p.targets = <uint32_t>(len(targets) // (4 if mqtt else 16))
        p.batches = <batch_t *>calloc(BATCHES, sizeof(batch_t))
        p.out = <uint8_t *>malloc(OUT_BYTES + 4096)
        p.into = <uint8_t *>malloc(IN_BYTES)
        if p.batches == NULL or p.out == NULL or p.into == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.p == NULL:
            return
        free(self.p.batches)
        free(self.p.out)
        free(self.p.into)
        free(self.p)

    def run(self) -> None:
        cdef publisher_t *p = self.p
        with nogil:
            run(p)
            if p.fd >= 0:
                close(p.fd)
            if p.ended_ns == 0:
                p.ended_ns = gw_now_ns()
            p.is_done = 1

    def stop(self) -> None:
        self.p.stop = 1

    def counts(self) -> dict:
        cdef publisher_t *p = self.p
        return {"offered": p.offered, "accepted": p.accepted, "refused": p.refused, "error": p.error,
                "done": p.is_done != 0}

    @property
    def began_ns(self) -> int:
        return self.p.began_ns

    @property
    def seconds(self) -> float:
        """From the first push to the last offered."""
        return max(0.0, (<double>self.p.ended_ns - <double>self.p.began_ns) / 1e9)

    @property
    def answered_seconds(self) -> float:
        """From the first push to the last result."""
        return max(0.0, (<double>self.p.last_result_ns - <double>self.p.began_ns) / 1e9)

    def accept_ms(self) -> dict:
        return histogram_summary(&self.p.accept, 1000.0)


def pack_targets(fleets: list, online: bool, mqtt: bool, limit: int) -> bytes:
    """Tokens, or numbers for a broker, of devices that are connected (or not)."""
    cdef Fleet fleet
    cdef list out = []
    cdef uint32_t i
    for fleet in fleets:
        packed = fleet.numbers(online, limit)
        for i in range(len(packed) // 4):
            index = int.from_bytes(packed[4 * i:4 * i + 4], "little")
            if mqtt:
                out.append((fleet.f.first + index * fleet.f.step).to_bytes(4, "little"))
            else:
                out.append(fleet.token(index))
    return b"".join(out)
