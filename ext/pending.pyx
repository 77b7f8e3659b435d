"""Pending deliveries: which wait, for whom, and until when; never reads a clock and never decides what becomes of one.

A row is one cache line in a slab. Its timer is a node of one wheel with ticks of 100 ms, rounded up, so that nothing
fires early. A row always has a timer: what fired is armed again before it is reported, so nothing can be forgotten.
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport INT32_MAX, UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
from gateway._native.wheel cimport (
    wheel_advance, wheel_arm, wheel_cancel, wheel_init, wheel_pop,
)


cdef extern from *:
    """
    #define gw_prefetch(address) __builtin_prefetch(address)
    """
    void gw_prefetch(const void *address) nogil

cdef extern from "gw_pending.h" nogil:
    ctypedef struct gw_seq_row_t:
        uint32_t row
    ctypedef struct gw_chain_row_t:
        uint32_t registration
        uint32_t first
        uint32_t last
        uint32_t count
    void gw_set_seq(gw_seq_row_t *entry, uint64_t seq, uint32_t row)
    void gw_seqs_init(gw_seqs_t *t, uint64_t seed)
    void gw_seqs_free(gw_seqs_t *t)
    uint64_t gw_mix64(uint64_t v)
    void gw_seqs_prefetch_hashed(const gw_seqs_t *t, uint64_t hash)
    void gw_chains_prefetch_hashed(const gw_chains_t *t, uint64_t hash)
    gw_seq_row_t *gw_seqs_find(const gw_seqs_t *t, uint64_t seq)
    int gw_seqs_reserve(gw_seqs_t *t, uint64_t seq)
    void gw_seqs_unreserve(gw_seqs_t *t, uint64_t seq)
    gw_seq_row_t *gw_seqs_insert(gw_seqs_t *t, uint64_t seq)
    int gw_seqs_remove(gw_seqs_t *t, uint64_t seq)
    void gw_chains_init(gw_chains_t *t, uint64_t seed)
    void gw_chains_free(gw_chains_t *t)
    gw_chain_row_t *gw_chains_find(const gw_chains_t *t, uint32_t registration)
    int gw_chains_reserve(gw_chains_t *t, uint32_t registration)
    gw_chain_row_t *gw_chains_insert(gw_chains_t *t, uint32_t registration)
    int gw_chains_remove(gw_chains_t *t, uint32_t registration)

cdef enum:
    HORIZON = 0x7FFFFFFF        # ticks ahead that the wheel can tell from the past: 6.8 years
    AGAIN = 10                  # ticks until an expired row is reported once more: 1 s
    SEQ_SHIFT = 42              # of a sequence's field; model/cluster.py
    MOST_PLACES = 0x3FFFFF      # so that every row number is below PENDING_NONE


# Slab

cdef inline pending_row_t *row_at(const pending_t *p, uint32_t row) noexcept nogil:
    return &p.chunks[row // PENDING_CHUNK].rows[row % PENDING_CHUNK]


cdef void ring_append(pending_t *p, uint32_t place) noexcept nogil:
    """Behind the others: rows are taken from the front, so that chunks at the back can drain and be given back."""
    cdef pending_chunk_t *chunk = &p.chunks[place]
    if p.roomy == PENDING_NONE:
        p.roomy = place
        chunk.prev = place
    else:
        chunk.prev = p.chunks[p.roomy].prev
        p.chunks[chunk.prev].next = place
        p.chunks[p.roomy].prev = place
    chunk.next = p.roomy


cdef void ring_remove(pending_t *p, uint32_t place) noexcept nogil:
    cdef pending_chunk_t *chunk = &p.chunks[place]
    p.chunks[chunk.prev].next = chunk.next
    p.chunks[chunk.next].prev = chunk.prev
    if p.roomy == place:
        p.roomy = <uint32_t>PENDING_NONE if chunk.next == place else chunk.next


cdef bint make_places(pending_t *p) noexcept nogil:
    cdef uint32_t places = min(<uint32_t>MOST_PLACES, p.places + (p.places >> 1) + 8)
    cdef pending_chunk_t *chunks
    cdef uint32_t i
    if places == p.places:
        return False
    chunks = <pending_chunk_t *>realloc(p.chunks, places * sizeof(pending_chunk_t))
    if chunks == NULL:
        return False
    p.chunks = chunks
    for i in range(p.places, places):
        chunks[i].rows = NULL
        chunks[i].used = 0
        chunks[i].next = i + 1 if i + 1 < places else <uint32_t>PENDING_NONE
    p.vacant = p.places
    p.bytes += (places - p.places) * sizeof(pending_chunk_t)
    p.places = places
    return True


cdef bint make_chunk(pending_t *p) noexcept nogil:
    cdef pending_row_t *rows
    cdef pending_chunk_t *chunk
    cdef uint32_t place, i
    if p.vacant == PENDING_NONE and not make_places(p):
        return False
    rows = <pending_row_t *>malloc(PENDING_CHUNK * sizeof(pending_row_t))
    if rows == NULL:
        return False
    for i in range(<uint32_t>PENDING_CHUNK):
        rows[i].next = i + 1 if i + 1 < PENDING_CHUNK else <uint32_t>PENDING_NONE
    place = p.vacant
    chunk = &p.chunks[place]
    p.vacant = chunk.next
    p.bytes += PENDING_CHUNK * sizeof(pending_row_t)
    chunk.rows = rows
    chunk.free = 0
    ring_append(p, place)
    return True


cdef uint32_t take_row(pending_t *p) noexcept nogil:
    """Number of a zeroed row, or PENDING_NONE without memory."""
    cdef pending_chunk_t *chunk
    cdef uint32_t place, i
    if p.roomy == PENDING_NONE and not make_chunk(p):
        return PENDING_NONE
    place = p.roomy
    chunk = &p.chunks[place]
    i = chunk.free
    chunk.free = chunk.rows[i].next
    chunk.used += 1
    if chunk.used == PENDING_CHUNK:
        ring_remove(p, place)
    memset(&chunk.rows[i], 0, sizeof(pending_row_t))
    return place * PENDING_CHUNK + i


cdef void give_row(pending_t *p, uint32_t row) noexcept nogil:
    cdef uint32_t place = row // PENDING_CHUNK
    cdef pending_chunk_t *chunk = &p.chunks[place]
    cdef uint32_t i = row % PENDING_CHUNK
    if chunk.used == PENDING_CHUNK:
        ring_append(p, place)
        chunk.free = PENDING_NONE
    chunk.rows[i].next = chunk.free
    chunk.free = i
    chunk.used -= 1
    # The last chunk with room stays: a row that comes and goes must not cost a chunk each time.
    if chunk.used == 0 and chunk.next != place:
        ring_remove(p, place)
        free(chunk.rows)
        chunk.rows = NULL
        chunk.next = p.vacant
        p.vacant = place
        p.bytes -= PENDING_CHUNK * sizeof(pending_row_t)


# Time

cdef inline uint64_t tick_of(const pending_t *p, uint64_t at_ms) noexcept nogil:
    """First tick that begins at or after this time."""
    cdef uint64_t ahead = at_ms - p.start_ms
    if at_ms <= p.start_ms:
        return 0
    return ahead // PENDING_TICK_MS + (1 if ahead % PENDING_TICK_MS else 0)


cdef inline uint64_t expiry_tick(const pending_t *p, const pending_row_t *row) noexcept nogil:
    return tick_of(p, <uint64_t>row.expires_s * 1000)


cdef void arm_tick(pending_t *p, pending_row_t *row, uint64_t tick, bint is_expiry) noexcept nogil:
    row.far = 0
    if tick < p.tick:
        tick = p.tick
    elif tick - p.tick > HORIZON:
        tick = p.tick + HORIZON
        row.far = is_expiry
    wheel_arm(&p.wheel, &row.node, <uint32_t>tick)


cdef void pending_arm(pending_t *p, pending_row_t *row, uint64_t at_ms) noexcept nogil:
    """A time beyond the horizon that is not the expiry fires at the horizon: early, but never lost."""
    if at_ms < <uint64_t>row.expires_s * 1000:
        arm_tick(p, row, tick_of(p, at_ms), False)
    else:
        arm_tick(p, row, expiry_tick(p, row), True)


cdef void pending_advance(pending_t *p, uint64_t now_ms) noexcept nogil:
    """A clock that was set back stands still until it has caught up."""
    cdef uint64_t tick = 0 if now_ms < p.start_ms else (now_ms - p.start_ms) // PENDING_TICK_MS
    while True:
        if tick > p.tick:
            p.tick += min(tick - p.tick, <uint64_t>HORIZON)
        wheel_advance(&p.wheel, <uint32_t>p.tick)
        if tick <= p.tick:
            return


cdef pending_row_t *pending_pop(pending_t *p) noexcept nogil:
    cdef pending_row_t *row
    cdef bint far
    while True:
        row = <pending_row_t *>wheel_pop(&p.wheel)
        if row == NULL:
            return NULL
        if expiry_tick(p, row) <= p.tick:
            arm_tick(p, row, p.tick + AGAIN, False)
            return row
        far = row.far
        arm_tick(p, row, expiry_tick(p, row), True)
        if not far:
            return row


# Rows

cdef void pending_init(pending_t *p, uint64_t now_ms) noexcept nogil:
    """The wheel's links point into the struct: it must not move afterwards."""
    wheel_init(&p.wheel, 0)
    gw_seqs_init(&p.seqs, 0)
    gw_chains_init(&p.chains, 0)
    p.chunks = NULL
    p.places = 0
    p.roomy = PENDING_NONE
    p.vacant = PENDING_NONE
    p.start_ms = now_ms
    p.tick = 0
    p.bytes = 0


cdef void pending_free(pending_t *p) noexcept nogil:
    cdef uint32_t i
    for i in range(p.places):
        free(p.chunks[i].rows)
    free(p.chunks)
    gw_seqs_free(&p.seqs)
    gw_chains_free(&p.chains)
    pending_init(p, p.start_ms)


cdef pending_row_t *pending_get(const pending_t *p, uint64_t seq) noexcept nogil:
    cdef const gw_seq_row_t *entry = gw_seqs_find(&p.seqs, seq)
    return NULL if entry == NULL else row_at(p, entry.row - 1)


cdef void chain_insert(pending_t *p, gw_chain_row_t *chain, pending_row_t *row, uint32_t number) noexcept nogil:
    """Keep the chain ascending; what comes in order, as nearly everything does, goes to its end at once."""
    cdef uint32_t before = chain.last
    cdef uint32_t after = PENDING_NONE
    while before != PENDING_NONE and row_at(p, before).seq > row.seq:
        after = before
        before = row_at(p, before).prev
    row.prev = before
    row.next = after
    if before == PENDING_NONE:
        chain.first = number
    else:
        row_at(p, before).next = number
    if after == PENDING_NONE:
        chain.last = number
    else:
        row_at(p, after).prev = number
    chain.count += 1


cdef void pending_prefetch(const pending_t *p, uint64_t seq) noexcept nogil:
    """Soon there will be one with this sequence, or it is looked up."""
    gw_seqs_prefetch_hashed(&p.seqs, gw_mix64(seq))


cdef void pending_prefetch_of(const pending_t *p, uint32_t registration) noexcept nogil:
    gw_chains_prefetch_hashed(&p.chains, gw_mix64(registration))


cdef void pending_prefetch_last(const pending_t *p, uint32_t registration) noexcept nogil:
    """Behind this one the next row of the registration is put in."""
    cdef const gw_chain_row_t *chain = gw_chains_find(&p.chains, registration)
    if chain != NULL:
        gw_prefetch(row_at(p, chain.last))


cdef int pending_add(pending_t *p, const pending_row_t *like, pending_row_t **added) noexcept nogil:
    """Takes seq, notification, registration, expires_s, collapse, state, hop and flags; arms the expiry."""
    cdef gw_chain_row_t *chain
    cdef pending_row_t *row
    cdef uint32_t number
    if gw_seqs_find(&p.seqs, like.seq) != NULL:
        return PENDING_TAKEN
    number = take_row(p)
    if number == PENDING_NONE:
        return PENDING_NO_MEMORY
    chain = gw_chains_find(&p.chains, like.registration)
    if not gw_seqs_reserve(&p.seqs, like.seq):
        give_row(p, number)
        return PENDING_NO_MEMORY
    if chain == NULL:
        if not gw_chains_reserve(&p.chains, like.registration):
            gw_seqs_unreserve(&p.seqs, like.seq)
            give_row(p, number)
            return PENDING_NO_MEMORY
        chain = gw_chains_insert(&p.chains, like.registration)
        chain.registration = like.registration
        chain.first = PENDING_NONE
        chain.last = PENDING_NONE
    gw_set_seq(gw_seqs_insert(&p.seqs, like.seq), like.seq, number)
    row = row_at(p, number)
    row.seq = like.seq
    row.notification = like.notification
    row.registration = like.registration
    row.expires_s = like.expires_s
    row.collapse = like.collapse
    row.state = like.state
    row.hop = like.hop
    row.flags = like.flags
    chain_insert(p, chain, row, number)
    arm_tick(p, row, expiry_tick(p, row), True)
    if added != NULL:
        added[0] = row
    return PENDING_OK


cdef bint pending_remove(pending_t *p, uint64_t seq) noexcept nogil:
    cdef const gw_seq_row_t *entry = gw_seqs_find(&p.seqs, seq)
    cdef gw_chain_row_t *chain
    cdef pending_row_t *row
    cdef uint32_t number
    if entry == NULL:
        return False
    number = entry.row - 1
    row = row_at(p, number)
    chain = gw_chains_find(&p.chains, row.registration)
    if row.prev == PENDING_NONE:
        chain.first = row.next
    else:
        row_at(p, row.prev).next = row.next
    if row.next == PENDING_NONE:
        chain.last = row.prev
    else:
        row_at(p, row.next).prev = row.prev
    if chain.count > 1:
        chain.count -= 1
    else:
        gw_chains_remove(&p.chains, row.registration)
    wheel_cancel(&p.wheel, &row.node)
    gw_seqs_remove(&p.seqs, seq)
    give_row(p, number)
    return True


cdef uint32_t pending_count_of(const pending_t *p, uint32_t registration) noexcept nogil:
    cdef const gw_chain_row_t *chain = gw_chains_find(&p.chains, registration)
    return 0 if chain == NULL else chain.count


cdef pending_row_t *pending_first(const pending_t *p, uint32_t registration) noexcept nogil:
    cdef const gw_chain_row_t *chain = gw_chains_find(&p.chains, registration)
    return NULL if chain == NULL else row_at(p, chain.first)


cdef pending_row_t *pending_after(const pending_t *p, const pending_row_t *row) noexcept nogil:
    return NULL if row.next == PENDING_NONE else row_at(p, row.next)


cdef uint64_t pending_bytes(const pending_t *p) noexcept nogil:
    return sizeof(pending_t) + p.seqs.bytes + p.chains.bytes + p.bytes


cdef inline int check_number(uint32_t registration) except -1:
    if registration > <uint32_t>INT32_MAX:
        raise ValueError("a registration number has 31 bits")
    return 0


cdef inline uint64_t big_endian(const uint8_t *p, int n) noexcept nogil:
    cdef uint64_t v = 0
    cdef int i
    for i in range(n):
        v = v << 8 | p[i]
    return v


cdef inline tuple tuple_of(const pending_row_t *row):
    return row.registration, row.notification, row.state, row.hop, row.expires_s


cdef int raise_for(int result) except -1:
    if result == PENDING_NO_MEMORY:
        raise MemoryError
    if result == PENDING_TAKEN:
        raise ValueError("the sequence is pending already")
    return 0


@cython.final
cdef class Pending:
    """See pending.pyi; the struct's functions with Python's types and errors."""

    def __cinit__(self, uint64_t now_ms):
        self.p = <pending_t *>malloc(sizeof(pending_t))
        if self.p == NULL:
            raise MemoryError
        pending_init(self.p, now_ms)

    def __dealloc__(self):
        if self.p != NULL:
            pending_free(self.p)
            free(self.p)

    def __len__(self):
        return self.p.seqs.count

    @cython.critical_section
    def add(self, uint64_t seq, uint32_t registration, uint64_t notification, uint32_t expires_s,
            uint32_t collapse=0, uint8_t state=0, uint8_t hop=0):
        cdef pending_row_t like
        check_number(registration)
        memset(&like, 0, sizeof(like))
        like.seq = seq
        like.registration = registration
        like.notification = notification
        like.expires_s = expires_s
        like.collapse = collapse
        like.state = state
        like.hop = hop
        raise_for(pending_add(self.p, &like, NULL))

    @cython.critical_section
    def load(self, list rows, Py_ssize_t start):
        cdef pending_row_t like
        cdef const uint8_t *p
        cdef const uint8_t *k
        cdef tuple row
        cdef bytes key, value
        cdef Py_ssize_t place
        memset(&like, 0, sizeof(like))
        for place in range(start, len(rows)):
            row = <tuple?>rows[place]
            key = <bytes?>row[0]
            value = <bytes?>row[1]
            p = value
            k = key
            # kind, registration, expires_s, collapse, count, size of the metadata: store/records.py
            if len(key) != 8 or len(value) < 21 or p[0] != 1 or big_endian(p + 13, 4):
                return place
            like.seq = like.notification = big_endian(k, 8)
            like.registration = <uint32_t>big_endian(p + 1, 4)
            like.expires_s = <uint32_t>big_endian(p + 5, 4)
            like.collapse = <uint32_t>big_endian(p + 9, 4)
            check_number(like.registration)
            raise_for(pending_add(self.p, &like, NULL))
        return len(rows)

    @cython.critical_section
    def add_many(self, uint64_t first_seq, registrations, uint64_t notification, uint32_t expires_s,
                 uint32_t collapse=0):
        cdef Py_buffer view
        cdef pending_row_t like
        cdef size_t n, i, added
        cdef int result
        memset(&like, 0, sizeof(like))
        like.notification = notification
        like.expires_s = expires_s
        like.collapse = collapse
        PyObject_GetBuffer(registrations, &view, PyBUF_SIMPLE)
        try:
            n = view.len // sizeof(uint32_t)
            if n * sizeof(uint32_t) != <size_t>view.len:
                raise ValueError("packed registrations are 4 bytes each")
            if n > UINT64_MAX - first_seq:
                raise OverflowError("sequences have 64 bits")
            for i in range(n):
                memcpy(&like.registration, <const uint8_t *>view.buf + i * sizeof(uint32_t), sizeof(uint32_t))
                check_number(like.registration)
            for i in range(n):
                memcpy(&like.registration, <const uint8_t *>view.buf + i * sizeof(uint32_t), sizeof(uint32_t))
                like.seq = first_seq + i
                result = pending_add(self.p, &like, NULL)
                if result != PENDING_OK:
                    for added in range(i):      # all of them or none
                        pending_remove(self.p, first_seq + added)
                    raise_for(result)
        finally:
            PyBuffer_Release(&view)

    @cython.critical_section
    def get(self, uint64_t seq):
        cdef const pending_row_t *row = pending_get(self.p, seq)
        return None if row == NULL else tuple_of(row)

    @cython.critical_section
    def set_state(self, uint64_t seq, uint8_t state, uint8_t hop):
        cdef pending_row_t *row = pending_get(self.p, seq)
        if row == NULL:
            return False
        row.state = state
        row.hop = hop
        row.flags &= ~<uint8_t>PENDING_PLAIN
        return True

    @cython.critical_section
    def remove(self, uint64_t seq):
        cdef const pending_row_t *row = pending_get(self.p, seq)
        cdef tuple removed
        if row == NULL:
            return None
        removed = tuple_of(row)
        pending_remove(self.p, seq)
        return removed

    @cython.critical_section
    def of(self, uint32_t registration, uint32_t limit=0, uint64_t below=0):
        cdef list seqs = []
        cdef const pending_row_t *row
        check_number(registration)
        row = pending_first(self.p, registration)
        while row != NULL:
            if below and row.seq >= below and row.seq >> SEQ_SHIFT == below >> SEQ_SHIFT:
                row = pending_after(self.p, row)
                continue
            seqs.append(row.seq)
            limit -= 1      # 0 wraps: as good as no limit
            if limit == 0:
                break
            row = pending_after(self.p, row)
        return seqs

    @cython.critical_section
    def count_of(self, uint32_t registration):
        check_number(registration)
        return pending_count_of(self.p, registration)

    @cython.critical_section
    def collapsed(self, uint32_t registration, uint32_t collapse):
        cdef list seqs = []
        cdef const pending_row_t *row
        check_number(registration)
        row = NULL if collapse == 0 else pending_first(self.p, registration)
        while row != NULL:
            if row.collapse == collapse and not row.flags & PENDING_BATCHED:
                seqs.append(row.seq)
            row = pending_after(self.p, row)
        return seqs

    @cython.critical_section
    def arm(self, uint64_t seq, uint64_t at_ms):
        cdef pending_row_t *row = pending_get(self.p, seq)
        if row == NULL:
            return False
        pending_arm(self.p, row, at_ms)
        return True

    @cython.critical_section
    def due(self, uint64_t now_ms, uint64_t limit):
        cdef uint64_t most = min(limit, self.p.wheel.armed)
        cdef uint64_t *fired = <uint64_t *>malloc(max(<uint64_t>1, most) * sizeof(uint64_t))
        cdef uint64_t n = 0
        cdef uint64_t i
        cdef pending_row_t *row
        if fired == NULL:
            raise MemoryError
        try:
            pending_advance(self.p, now_ms)
            while n < most:
                row = pending_pop(self.p)
                if row == NULL:
                    break
                fired[n] = row.seq
                n += 1
            return [fired[i] for i in range(n)]
        except MemoryError:
            for i in range(n):      # not reported: they fire again at the next call
                pending_arm(self.p, pending_get(self.p, fired[i]), 0)
            raise
        finally:
            free(fired)

    @property
    def memory_bytes(self):
        return pending_bytes(self.p)
