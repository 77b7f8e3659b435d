"""Settles acks of deliveries accepted in batches, and keeps what is to be written of it; never touches the store.

The common delivery is acked a moment after its send. Of a batch it costs a record of 16 bytes and a place in its app's
receipts here; the control plane turns all that changed into a few rows at each commit (gateway/store/batches.py).
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset
from gateway._native.pending cimport (
    PENDING_BATCHED, PENDING_OK, PENDING_PLAIN, Pending, pending_add, pending_get, pending_remove, pending_row_t)

cdef extern from *:
    """
    #define gw_big_endian(x) __builtin_bswap64(x)
    """
    uint64_t gw_big_endian(uint64_t x) nogil

cdef enum:
    FEED_SMALLEST = 1024            # sequences


# Slots

cdef bint grow_items(batches_t *b) noexcept nogil:
    cdef uint32_t capacity = b.capacity + b.capacity // 2 + 64
    cdef batch_t *items = <batch_t *>realloc(b.items, capacity * sizeof(batch_t))
    cdef uint32_t i
    if items == NULL:
        return False
    memset(items + b.capacity, 0, (capacity - b.capacity) * sizeof(batch_t))
    for i in range(b.capacity, capacity):
        items[i].next = b.free
        b.free = i + 1
    b.items = items
    b.capacity = capacity
    return True


cdef bint grow_feeds(batches_t *b, uint32_t app) noexcept nogil:
    cdef uint32_t capacity = app + app // 2 + 8
    cdef feed_t *feeds
    if app < b.feeds_capacity:
        return True
    feeds = <feed_t *>realloc(b.feeds, capacity * sizeof(feed_t))
    if feeds == NULL:
        return False
    memset(feeds + b.feeds_capacity, 0, (capacity - b.feeds_capacity) * sizeof(feed_t))
    b.feeds = feeds
    b.feeds_capacity = capacity
    return True


cdef long batches_open(batches_t *b, uint64_t first, uint32_t count, uint32_t app) noexcept nogil:
    cdef batch_t *batch
    cdef uint32_t slot
    if not grow_feeds(b, app) or (b.free == 0 and not grow_items(b)):
        return -1
    slot = b.free - 1
    batch = &b.items[slot]
    batch.records = <gw_settled_t *>calloc(count, sizeof(gw_settled_t))
    if batch.records == NULL:
        return -1
    b.free = batch.next
    b.bytes += count * sizeof(gw_settled_t)
    b.used += 1
    batch.first = first
    batch.count = count
    batch.outstanding = count
    batch.app = app
    batch.next = 0
    batch.parts = 0
    batch.flags = BATCH_USED
    return slot


cdef void drop_records(batches_t *b, batch_t *batch) noexcept nogil:
    if batch.records != NULL:
        free(batch.records)
        batch.records = NULL
        b.bytes -= batch.count * sizeof(gw_settled_t)


cdef void batches_close(batches_t *b, uint32_t slot) noexcept nogil:
    """It must not be among the changed ones."""
    cdef batch_t *batch = &b.items[slot]
    drop_records(b, batch)
    batch.flags = 0
    batch.next = b.free
    b.free = slot + 1
    b.used -= 1


# What became of a delivery

cdef bint record(batches_t *b, uint32_t slot, uint64_t seq, uint8_t state, uint8_t flags, uint64_t at_ms,
                 uint32_t took_ms) noexcept nogil:
    """False without memory: nothing has changed."""
    cdef batch_t *batch = &b.items[slot]
    cdef gw_settled_t *settled
    if batch.records == NULL:
        batch.records = <gw_settled_t *>calloc(batch.count, sizeof(gw_settled_t))
        if batch.records == NULL:
            return False
        b.bytes += batch.count * sizeof(gw_settled_t)
    settled = &batch.records[seq - batch.first]
    settled.at_ms = at_ms
    settled.took_ms = took_ms
    settled.state = state
    settled.flags = flags
    batch.parts |= <uint64_t>1 << (seq - batch.first) // GW_PART
    batch.outstanding -= 1
    if not batch.flags & BATCH_CHANGED:
        batch.flags |= BATCH_CHANGED
        batch.next = b.changed
        b.changed = slot + 1
    return True


cdef bint feed(batches_t *b, uint32_t app, uint64_t seq) noexcept nogil:
    cdef feed_t *f = &b.feeds[app]
    cdef uint32_t capacity
    cdef uint64_t *seqs
    if f.size == f.capacity:
        capacity = f.capacity * 2 if f.capacity else FEED_SMALLEST
        seqs = <uint64_t *>realloc(f.seqs, capacity * sizeof(uint64_t))
        if seqs == NULL:
            return False
        f.seqs = seqs
        f.capacity = capacity
    if f.size == 0:
        f.next = b.fed
        b.fed = app + 1
    f.seqs[f.size] = gw_big_endian(seq)
    f.size += 1
    return True


cdef bint batches_ack(batches_t *b, uint64_t seq, uint32_t registration, uint64_t sent_ms, uint64_t acked_ms,
                      bint shown) noexcept nogil:
    cdef pending_row_t *row = pending_get(b.pending, seq)
    cdef uint32_t slot, app
    if row == NULL or not row.flags & PENDING_BATCHED or not row.flags & PENDING_PLAIN:
        return False
    if row.state != STATE_SENT or row.registration != registration or sent_ms == 0 or acked_ms < sent_ms:
        return False
    slot = row.collapse
    app = b.items[slot].app
    if not feed(b, app, seq):
        return False
    if not record(b, slot, seq, STATE_ACKED, GW_SETTLED_SHOWN if shown else 0, acked_ms,
                  <uint32_t>(acked_ms - sent_ms)):
        b.feeds[app].size -= 1
        return False
    pending_remove(b.pending, seq)
    b.acked += 1
    return True


@cython.final
cdef class Batches:
    """See batches.pyi."""

    def __cinit__(self, Pending pending not None):
        memset(&self.b, 0, sizeof(batches_t))
        self.pending = pending      # kept alive: the struct is its
        self.b.pending = pending.p

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.b.capacity):
            free(self.b.items[i].records)
        for i in range(self.b.feeds_capacity):
            free(self.b.feeds[i].seqs)
        free(self.b.items)
        free(self.b.feeds)

    def __len__(self):
        return self.b.used

    cdef batch_t *at(self, uint32_t slot) except NULL:
        if slot >= self.b.capacity or not self.b.items[slot].flags & BATCH_USED:
            raise KeyError("no batch in this slot")
        return &self.b.items[slot]

    @cython.critical_section
    def ack(self, uint64_t seq, uint32_t registration, uint64_t sent_ms, uint64_t acked_ms, bint shown=False):
        return batches_ack(&self.b, seq, registration, sent_ms, acked_ms, shown)

    @cython.critical_section
    def note(self, uint64_t seq, uint8_t state, uint64_t at_ms, bint undone=False):
        cdef pending_row_t *row = pending_get(self.b.pending, seq)
        if row == NULL or not row.flags & PENDING_BATCHED:
            return False
        if not record(&self.b, row.collapse, seq, state, GW_SETTLED_UNDONE if undone else GW_SETTLED_APART, at_ms, 0):
            raise MemoryError
        return True

    @cython.critical_section
    def mark_odd(self, uint64_t seq):
        cdef pending_row_t *row = pending_get(self.b.pending, seq)
        if row != NULL:
            row.flags &= ~<uint8_t>PENDING_PLAIN

    @cython.critical_section
    def settled_of(self, uint32_t slot, uint64_t seq):
        cdef batch_t *batch = self.at(slot)
        cdef gw_settled_t *settled
        if batch.records == NULL or not batch.first <= seq < batch.first + batch.count:
            return None
        settled = &batch.records[seq - batch.first]
        if settled.state == 0:
            return None
        return settled.at_ms, settled.took_ms, settled.state, settled.flags

    @cython.critical_section
    def take_acked(self):
        cdef uint64_t acked = self.b.acked
        self.b.acked = 0
        return acked

    @property
    def is_changed(self):
        return self.b.changed != 0 or self.b.fed != 0

    @cython.critical_section
    def take_changed(self):
        """Nothing may be lost where memory is short: the list is made before a flag is touched."""
        cdef list out = []
        cdef uint32_t slot = self.b.changed
        cdef batch_t *batch
        while slot:
            batch = &self.b.items[slot - 1]
            out.append((slot - 1, batch.first, batch.outstanding == 0, batch.parts,
                        (<const char *>batch.records)[:batch.count * sizeof(gw_settled_t)]))
            slot = batch.next
        slot = self.b.changed
        while slot:
            batch = &self.b.items[slot - 1]
            batch.flags &= ~<uint32_t>BATCH_CHANGED
            batch.parts = 0
            slot = batch.next
        self.b.changed = 0
        return out

    @cython.critical_section
    def take_feeds(self):
        cdef list out = []
        cdef uint32_t app = self.b.fed
        cdef feed_t *f
        while app:
            f = &self.b.feeds[app - 1]
            out.append((app - 1, (<const char *>f.seqs)[:f.size * sizeof(uint64_t)]))
            app = f.next
        app = self.b.fed
        while app:
            f = &self.b.feeds[app - 1]
            f.size = 0
            app = f.next
        self.b.fed = 0
        return out

    @cython.critical_section
    def forget_records(self, uint32_t slot):
        cdef batch_t *batch = self.at(slot)
        if not batch.flags & BATCH_CHANGED:
            drop_records(&self.b, batch)

    @cython.critical_section
    def close(self, uint32_t slot):
        if self.at(slot).flags & BATCH_CHANGED or self.b.items[slot].outstanding:
            raise ValueError("the batch is not over")
        batches_close(&self.b, slot)

    @cython.critical_section
    def restore(self, uint64_t first, row, settled):
        cdef Py_buffer row_view, settled_view
        cdef const gw_batch_head_t *head
        cdef const gw_batch_item_t *items
        cdef const gw_settled_t *records = NULL
        cdef pending_row_t like
        cdef batch_t *batch
        cdef uint32_t i, there = 0
        cdef long slot = -1
        PyObject_GetBuffer(row, &row_view, PyBUF_SIMPLE)
        try:
            PyObject_GetBuffer(settled, &settled_view, PyBUF_SIMPLE)
        except BaseException:
            PyBuffer_Release(&row_view)
            raise
        try:
            head = <const gw_batch_head_t *>row_view.buf
            if row_view.len < <Py_ssize_t>sizeof(gw_batch_head_t) or head.kind != GW_BATCH_KIND:
                raise ValueError("this is no row of a batch")
            if head.version != GW_BATCH_VERSION:
                raise ValueError(f"rows of batches of version {head.version} are not known here")
            if <uint64_t>row_view.len != sizeof(gw_batch_head_t) + <uint64_t>head.count * sizeof(
                    gw_batch_item_t) + head.bytes or not 0 < head.count <= GW_BATCH_MOST:
                raise ValueError("the row of a batch is cut")
            if settled_view.len:
                if <uint64_t>settled_view.len != <uint64_t>head.count * sizeof(gw_settled_t):
                    raise ValueError("the row of a batch's settled deliveries is cut")
                records = <const gw_settled_t *>settled_view.buf
            items = <const gw_batch_item_t *>(<const uint8_t *>row_view.buf + sizeof(gw_batch_head_t))
            for i in range(head.count):
                there += records == NULL or records[i].state == 0
            if there == 0:
                return -1
            slot = batches_open(&self.b, first, head.count, head.app)
            if slot < 0:
                raise MemoryError
            batch = &self.b.items[slot]
            drop_records(&self.b, batch)
            batch.outstanding = there
            memset(&like, 0, sizeof(like))
            like.collapse = <uint32_t>slot
            like.flags = PENDING_BATCHED
            for i in range(head.count):
                if records != NULL and records[i].state:
                    continue
                like.seq = like.notification = first + i
                like.registration = items[i].registration
                like.expires_s = items[i].expires_s
                if pending_add(self.b.pending, &like, NULL) != PENDING_OK:
                    raise MemoryError
            return slot
        finally:
            PyBuffer_Release(&row_view)
            PyBuffer_Release(&settled_view)

    @property
    def memory_bytes(self):
        cdef uint64_t total = self.b.capacity * sizeof(batch_t) + self.b.feeds_capacity * sizeof(feed_t) + self.b.bytes
        cdef uint32_t i
        for i in range(self.b.feeds_capacity):
            total += self.b.feeds[i].capacity * sizeof(uint64_t)
        return total


PART = GW_PART
BATCH_MOST = GW_BATCH_MOST


def merge(base, over):
    """What became of a batch's deliveries: the records of `over` where it has them, else those of `base`."""
    cdef const uint8_t[::1] below = base
    cdef const uint8_t[::1] above = over
    cdef Py_ssize_t size = above.shape[0], i
    cdef bytes out
    cdef gw_settled_t *records
    if below.shape[0] != size or size == 0 or size % sizeof(gw_settled_t):
        raise ValueError("both are records of the same batch")
    out = (<const char *>&below[0])[:size]
    records = <gw_settled_t *><char *>out
    for i in range(size // <Py_ssize_t>sizeof(gw_settled_t)):
        if (<const gw_settled_t *>&above[0])[i].state:
            records[i] = (<const gw_settled_t *>&above[0])[i]
    return out
