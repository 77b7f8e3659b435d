"""Takes in batches of directed pushes: reading, look-up, routing and the journal's row in one loop; never touches the
store, and decides nothing that is not plain: such a push is handed back for the control plane to look at.

Plain is a push to a token with nothing but title, text, data, ttl and urgency, whose body fits inline; and of a plain
push, a first look that ends in a send on a link that takes it, or in waiting where there is neither a link nor a
notifier. Those two decisions are rows of the table in gateway/delivery/policy.py, held equal by a test.
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from gateway._native.batches cimport (
    GW_BATCH_KIND, GW_BATCH_MOST, GW_BATCH_VERSION, STATE_SENT, STATE_WAITING, Batches, batches_close, batches_open,
    gw_batch_head_t, gw_batch_item_t)
from gateway._native.far_records cimport GW_FAR_REACTOR, FarSink
from gateway._native.mailbox cimport gw_ring_publish, gw_ring_reserve
from gateway._native.outbox cimport gw_buffer_drop, gw_buffer_t
from gateway._native.pending cimport (
    PENDING_BATCHED, PENDING_OK, PENDING_PLAIN, Pending, pending_add, pending_count_of, pending_prefetch,
    pending_prefetch_last, pending_prefetch_of, pending_remove, pending_row_t, pending_t)
from gateway._native.plane cimport CMD_NOTIFY, command_t, reactor_t
from gateway._native.push_reader cimport gw_reader_t, push_t, read_push
from gateway._native.reactor cimport Reactor
from gateway._native.registry cimport Registry, registry_get, registry_group_app, registry_links, registry_t
from gateway._native.registry cimport REGISTRATION_PLAIN, REGISTRATION_QUIET, registration_t
from gateway._native.token_index cimport TOKEN_BYTES, token_index_find_many

cdef extern from "gw_msgpack.h" nogil:
    int64_t gw_read_array(gw_reader_t *r)
    int gw_skip(gw_reader_t *r)
    uint32_t gw_uint_bytes(uint64_t v)
    uint32_t gw_str_bytes(uint32_t n)
    uint8_t *gw_write_uint(uint8_t *p, uint64_t v)
    uint8_t *gw_write_str(uint8_t *p, const void *s, uint32_t n)
    void gw_build_token(const uint8_t *token, uint8_t *s)

cdef enum:
    REACTORS_MAX = 256
    REACTOR_SHIFT = 56
    TOKEN_CHARS = 22
    AHEAD = 8                       # pushes whose rows are fetched into the cache before their turn
    URGENCY_NORMAL = 2
    NOTIFY = 0x08                   # frame type

cdef enum:                          # place of a push that is not ready (model/ports.py)
    PLACE_UNKNOWN_TOKEN = -1
    PLACE_FULL = -2
    PLACE_APART = -3

# Writing

cdef gw_buffer_t *build_notify(const push_t *push, uint64_t seq, uint64_t at_s, uint64_t expires_s) noexcept nogil:
    """The NOTIFY frame of docs/frames.md, the same bytes as delivery/forms.py makes; NULL without memory."""
    cdef uint8_t token[TOKEN_CHARS]
    cdef uint32_t fields = 2, size
    cdef uint32_t header
    cdef gw_buffer_t *buffer
    cdef uint8_t *p
    gw_build_token(push.token, token)
    size = 1 + 3 + gw_uint_bytes(seq) + 6 + gw_str_bytes(TOKEN_CHARS)
    if push.title_bytes:
        fields += 1
        size += 6 + gw_str_bytes(push.title_bytes)
    if push.text_bytes:
        fields += 1
        size += 5 + gw_str_bytes(push.text_bytes)
    if push.data_bytes:
        fields += 1
        size += 5 + push.data_bytes
    if push.urgency != URGENCY_NORMAL:
        fields += 1
        size += 8 + 1
    if at_s:
        fields += 1
        size += 3 + gw_uint_bytes(at_s)
    if expires_s > at_s:
        fields += 1
        size += 8 + gw_uint_bytes(expires_s)
    header = 2 if size < 0x80 else 3 if size < 0x4000 else 4 if size < 0x200000 else 5
    buffer = buffer_of(header + size)
    if buffer == NULL:
        return NULL
    p = buffer.data
    p[0] = NOTIFY
    p += 1
    header = size
    while header > 0x7F:
        p[0] = <uint8_t>(header & 0x7F | 0x80)
        header >>= 7
        p += 1
    p[0] = <uint8_t>header
    p[1] = <uint8_t>(0x80 | fields)
    p = gw_write_str(p + 2, b"id", 2)
    p = gw_write_uint(p, seq)
    p = gw_write_str(p, b"token", 5)
    p = gw_write_str(p, token, TOKEN_CHARS)
    if push.title_bytes:
        p = gw_write_str(p, b"title", 5)
        p = gw_write_str(p, push.title, push.title_bytes)
    if push.text_bytes:
        p = gw_write_str(p, b"text", 4)
        p = gw_write_str(p, push.text, push.text_bytes)
    if push.data_bytes:
        p = gw_write_str(p, b"data", 4)
        memcpy(p, push.data, push.data_bytes)
        p += push.data_bytes
    if push.urgency != URGENCY_NORMAL:
        p = gw_write_str(p, b"urgency", 7)
        p = gw_write_uint(p, push.urgency)
    if at_s:
        p = gw_write_str(p, b"at", 2)
        p = gw_write_uint(p, at_s)
    if expires_s > at_s:
        p = gw_write_str(p, b"expires", 7)
        p = gw_write_uint(p, expires_s)
    return buffer


cdef inline gw_buffer_t *buffer_of(uint32_t size) noexcept nogil:
    cdef gw_buffer_t *buffer = <gw_buffer_t *>malloc(sizeof(gw_buffer_t) + size)
    if buffer != NULL:
        buffer.refs = 1
        buffer.size = size
    return buffer


@cython.final
cdef class Router:
    """The links of all reactors as batches use them. `held` and `floors` are the edge's own: links nothing new may be
    sent on, and links whose device wants nothing below an urgency."""
    cdef list reactors
    cdef set held
    cdef dict floors
    cdef FarSink far                # where links of other nodes are; None: there are none
    cdef reactor_t *of[REACTORS_MAX]
    cdef uint8_t touched[REACTORS_MAX]

    def __init__(self, list reactors not None, set held not None, dict floors not None, FarSink far=None):
        self.far = far
        self.reactors = reactors
        self.held = held
        self.floors = floors

    cdef int begin(self) except -1:
        """The reactors there are now."""
        cdef Reactor reactor
        memset(self.of, 0, sizeof(self.of))
        memset(self.touched, 0, sizeof(self.touched))
        for reactor in self.reactors:
            self.of[reactor.index & 0xFF] = reactor.r
        return 0

    cdef bint takes(self, uint64_t link, uint8_t urgency) except -1:
        if self.held and link in self.held:
            return False
        return not self.floors or urgency >= <int>self.floors.get(link, 0)

    cdef bint notify(self, uint64_t link, gw_buffer_t *frame, uint64_t seq, uint32_t registration, uint32_t ack_ms):
        """Takes the reference of the frame over; False where the mailbox is full, then the frame is gone too."""
        cdef reactor_t *r = self.of[link >> REACTOR_SHIFT]
        cdef command_t *c
        cdef bint sent
        if link >> REACTOR_SHIFT == GW_FAR_REACTOR and self.far is not None:
            sent = self.far.notify(link, seq, registration, ack_ms, frame.data, frame.size)
            gw_buffer_drop(frame)
            return sent
        c = NULL if r == NULL else <command_t *>gw_ring_reserve(&r.down, sizeof(command_t))
        if c == NULL:
            gw_buffer_drop(frame)
            return False
        memset(c, 0, sizeof(command_t))
        c.kind = CMD_NOTIFY
        c.link = link
        c.seq = seq
        c.registration = registration
        c.ms = ack_ms
        c.buffer = frame
        self.touched[link >> REACTOR_SHIFT] = 1
        return True

    cdef int publish(self, uint32_t ack_ms) except -1:
        cdef int i
        for i in range(REACTORS_MAX):
            if self.touched[i]:
                gw_ring_publish(&self.of[i].down)
        if self.far is not None:
            self.far.flush(ack_ms)
        return 0


cdef inline void begin_reading(gw_reader_t *r, const Py_buffer *array) noexcept nogil:
    r.p = <const uint8_t *>array.buf
    r.end = r.p + array.len


@cython.final
cdef class Batch:
    """Pushes that were read together; see intake.pyi."""
    cdef Registry registry
    cdef Pending pending
    cdef Batches batches
    cdef Py_buffer *arrays          # what the pointers point into
    cdef uint32_t held              # of them
    cdef push_t *items
    cdef readonly uint32_t count
    cdef readonly uint32_t ready
    cdef uint32_t app
    cdef uint64_t first             # sequence, once accepted

    def __cinit__(self, Registry registry not None, Pending pending not None, Batches batches not None,
                  list arrays not None, uint32_t app, *, uint32_t most, uint32_t push_bytes, uint32_t inline_bytes,
                  uint32_t pending_of_one, uint32_t ttl_s, uint32_t most_ttl_s):
        cdef gw_reader_t r
        cdef int64_t count
        cdef uint64_t total = 0
        cdef Py_ssize_t i
        self.registry = registry
        self.pending = pending
        self.batches = batches
        self.app = app
        self.arrays = <Py_buffer *>malloc(max(<size_t>1, <size_t>len(arrays)) * sizeof(Py_buffer))
        if self.arrays == NULL:
            raise MemoryError
        for i in range(len(arrays)):
            PyObject_GetBuffer(arrays[i], &self.arrays[i], PyBUF_SIMPLE)
            self.held += 1
            begin_reading(&r, &self.arrays[i])
            count = gw_read_array(&r)
            if count < 0:
                raise ValueError("pushes: an array of pushes is expected")
            total += <uint64_t>count
            if total > min(most, <uint32_t>GW_BATCH_MOST):
                raise OverflowError(f"pushes: at most {min(most, <uint32_t>GW_BATCH_MOST)} in a batch")
        self.items = <push_t *>malloc(max(<size_t>1, <size_t>total) * sizeof(push_t))
        if self.items == NULL:
            raise MemoryError
        for i in range(self.held):
            self.read(&self.arrays[i], total, push_bytes, inline_bytes, ttl_s, most_ttl_s)
        self.look_up(pending_of_one)

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.held):
            PyBuffer_Release(&self.arrays[i])
        free(self.arrays)
        free(self.items)

    cdef int read(self, const Py_buffer *array, uint64_t total, uint32_t push_bytes, uint32_t inline_bytes,
                  uint32_t ttl_s, uint32_t most_ttl_s) except -1:
        """Its pushes behind those that were read before."""
        cdef gw_reader_t r, ahead
        cdef push_t *push
        cdef bint is_plain
        cdef int64_t count, _
        begin_reading(&r, array)
        count = gw_read_array(&r)
        if count < 0 or self.count + <uint64_t>count > total:
            raise ValueError("pushes: the array changed while it was read")
        for _ in range(count):
            push = &self.items[self.count]
            memset(push, 0, sizeof(push_t))
            push.raw = r.p
            push.urgency = URGENCY_NORMAL
            push.ttl_s = ttl_s
            ahead = r
            is_plain = read_push(&ahead, push, most_ttl_s)
            if is_plain:            # it was read to its end
                r = ahead
            elif not gw_skip(&r):
                raise ValueError(f"pushes[{self.count}]: this is no msgpack, or it is cut")
            push.raw_bytes = <uint32_t>(r.p - push.raw)
            if not is_plain or ttl_s == 0 or push.data_bytes > inline_bytes or (
                    <uint64_t>push.title_bytes + push.text_bytes + push.data_bytes > push_bytes):
                push.place = PLACE_APART
            self.count += 1
        if r.p != r.end:
            raise ValueError("pushes: something follows the array")
        return 0

    cdef int look_up(self, uint32_t pending_of_one) except -1:
        """Registrations and links of the plain ones; their places among those that are ready."""
        cdef size_t n = max(<size_t>1, self.count)
        cdef uint8_t *tokens = <uint8_t *>malloc(n * TOKEN_BYTES)
        cdef int32_t *numbers = <int32_t *>malloc(n * sizeof(int32_t))
        cdef uint64_t *links = <uint64_t *>malloc(n * sizeof(uint64_t))
        cdef registry_t *registry = self.registry.r
        cdef registration_t *row
        cdef push_t *push
        cdef uint32_t i, before
        if tokens == NULL or numbers == NULL or links == NULL:
            free(tokens)
            free(numbers)
            free(links)
            raise MemoryError
        with nogil:
            for i in range(self.count):
                memcpy(tokens + i * TOKEN_BYTES, self.items[i].token, TOKEN_BYTES)
            token_index_find_many(&registry.tokens, tokens, self.count, numbers)
            # what is not found has the number 2^32-1, which has no link
            registry_links(registry, <const uint32_t *>numbers, self.count, links)
            for i in range(self.count):
                if i + AHEAD < self.count and numbers[i + AHEAD] >= 0:
                    pending_prefetch_of(self.pending.p, <uint32_t>numbers[i + AHEAD])
                push = &self.items[i]
                if push.place < 0:
                    continue
                push.number = numbers[i]
                push.link = links[i]
                row = NULL if numbers[i] < 0 else registry_get(registry, <uint32_t>numbers[i])
                if row == NULL or registry_group_app(registry, row.group) != self.app:
                    push.place = PLACE_UNKNOWN_TOKEN      # unknown, revoked and foreign are the same
                    continue
                before = pending_count_of(self.pending.p, <uint32_t>push.number)
                if before + self.ready >= pending_of_one and (
                        before + self.earlier(i) >= pending_of_one):
                    push.place = PLACE_FULL
                    continue
                push.place = <int32_t>self.ready
                self.ready += 1
        free(tokens)
        free(numbers)
        free(links)
        return 0

    cdef uint32_t earlier(self, uint32_t end) noexcept nogil:
        """Ready ones of this batch for the same registration."""
        cdef uint32_t i, n = 0
        for i in range(end):
            n += self.items[i].place >= 0 and self.items[i].number == self.items[end].number
        return n

    @property
    def places(self):
        cdef uint32_t i
        return [self.items[i].place for i in range(self.count)]

    def raw(self, uint32_t index):
        """The push as it came, packed."""
        if index >= self.count:
            raise IndexError("no push of this number")
        return (<const char *>self.items[index].raw)[:self.items[index].raw_bytes]

    @cython.critical_section
    def accept(self, uint64_t first, uint64_t now_ms, uint32_t ack_ms, uint32_t notifier_ack_ms, bint may_wait,
               Router router not None):
        """(journal row, slot, sequences to look at): pending rows for all that are ready, sent where their link takes
        them. `may_wait`: the app has no notifiers, so a plain registration without a link waits. MemoryError: nothing
        was accepted."""
        cdef pending_t *pending = self.pending.p
        cdef registry_t *registry = self.registry.r
        cdef pending_row_t like
        cdef pending_row_t *row
        cdef pending_row_t **rows       # of those that are ready
        cdef registration_t *registration
        cdef gw_buffer_t *frame
        cdef push_t *push
        cdef list odd = []
        cdef bytes stored
        cdef uint32_t i
        cdef uint64_t seq
        cdef long slot
        if self.first or self.ready == 0:
            raise ValueError("nothing is ready, or it was accepted already")
        stored = self.build_row(now_ms, ack_ms, notifier_ack_ms)
        router.begin()
        rows = <pending_row_t **>malloc(self.ready * sizeof(pending_row_t *))
        slot = -1 if rows == NULL else batches_open(&self.batches.b, first, self.ready, self.app)
        if slot < 0:
            free(rows)
            raise MemoryError
        memset(&like, 0, sizeof(like))
        like.collapse = <uint32_t>slot
        like.flags = PENDING_BATCHED | PENDING_PLAIN
        for i in range(min(self.ready, <uint32_t>AHEAD)):
            pending_prefetch(pending, first + i)
        for i in range(self.count):
            push = &self.items[i]
            if push.place < 0:
                continue
            pending_prefetch(pending, first + <uint32_t>push.place + AHEAD)
            if i + AHEAD < self.count and self.items[i + AHEAD].place >= 0:
                pending_prefetch_last(pending, <uint32_t>self.items[i + AHEAD].number)
            like.seq = like.notification = first + <uint32_t>push.place
            like.registration = <uint32_t>push.number
            like.expires_s = expires_of(push, now_ms)
            if pending_add(pending, &like, &rows[push.place]) != PENDING_OK:
                for seq in range(first, like.seq):
                    pending_remove(pending, seq)
                batches_close(&self.batches.b, <uint32_t>slot)
                free(rows)
                raise MemoryError
        self.first = first
        try:
            for i in range(self.count):
                push = &self.items[i]
                if push.place < 0:
                    continue
                seq = first + <uint32_t>push.place
                row = rows[push.place]
                registration = registry_get(registry, row.registration)
                if push.link and registration != NULL and not registration.flags & REGISTRATION_QUIET:
                    if router.takes(push.link, push.urgency):
                        frame = build_notify(push, seq, now_ms // 1000, row.expires_s)
                        if frame != NULL and router.notify(push.link, frame, seq, row.registration, max(ack_ms, 1u)):
                            row.state = STATE_SENT
                            continue
                elif may_wait and not push.link:
                    if (registration != NULL and registration.flags & REGISTRATION_PLAIN
                            and not registration.flags & REGISTRATION_QUIET):
                        row.state = STATE_WAITING
                        continue
                row.flags &= ~<uint8_t>PENDING_PLAIN
                odd.append(seq)
        finally:
            free(rows)
        router.publish(max(ack_ms, 1u))
        return stored, slot, odd

    cdef bytes build_row(self, uint64_t now_ms, uint32_t ack_ms, uint32_t notifier_ack_ms):
        cdef size_t heap = 0, head = sizeof(gw_batch_head_t) + self.ready * sizeof(gw_batch_item_t)
        cdef gw_batch_item_t *item
        cdef gw_batch_head_t *header
        cdef uint8_t *p
        cdef push_t *push
        cdef bytes stored
        cdef uint32_t i
        for i in range(self.count):
            push = &self.items[i]
            if push.place >= 0:
                heap += push.title_bytes + push.text_bytes + push.data_bytes
        stored = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(head + heap))
        header = <gw_batch_head_t *>PyBytes_AS_STRING(stored)
        memset(header, 0, head)
        header.kind = GW_BATCH_KIND
        header.version = GW_BATCH_VERSION
        header.app = self.app
        header.count = self.ready
        header.accepted_ms = now_ms
        header.ack_ms = ack_ms
        header.notifier_ack_ms = notifier_ack_ms
        header.bytes = <uint32_t>heap
        item = <gw_batch_item_t *>(header + 1)
        p = <uint8_t *>header + head
        heap = 0
        for i in range(self.count):
            push = &self.items[i]
            if push.place < 0:
                continue
            memcpy(item.token, push.token, TOKEN_BYTES)
            item.registration = <uint32_t>push.number
            item.expires_s = expires_of(push, now_ms)
            item.at = <uint32_t>heap
            item.title_bytes = push.title_bytes
            item.text_bytes = push.text_bytes
            item.data_bytes = push.data_bytes
            item.urgency = push.urgency
            heap += copy(p + heap, push.title, push.title_bytes)
            heap += copy(p + heap, push.text, push.text_bytes)
            heap += copy(p + heap, push.data, push.data_bytes)
            item += 1
        return stored


cdef inline uint32_t copy(uint8_t *to, const uint8_t *source, uint32_t size) noexcept nogil:
    if size:
        memcpy(to, source, size)
    return size


cdef inline uint32_t expires_of(const push_t *push, uint64_t now_ms) noexcept nogil:
    """Unix seconds, rounded up so that a short life is not cut."""
    return <uint32_t>((now_ms + <uint64_t>push.ttl_s * 1000 + 999) // 1000)


UNKNOWN_TOKEN = PLACE_UNKNOWN_TOKEN
FULL = PLACE_FULL
APART = PLACE_APART
