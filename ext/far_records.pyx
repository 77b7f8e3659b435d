"""Collects what nodes of a fleet tell each other of devices: notifications of batches by node, acks by partition; must
never decide who is told.
"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

cdef enum:
    NODE_SHIFT = 40                 # of a far link (gateway/model/cluster.py)
    LOCALS_MORE = 1024
    PART_BYTES = 262144             # from here on another part begins
    KEPT_BYTES = 1048576            # a larger room is given back


cdef list take_piles(gw_piles_t *p):
    """(key, records) of each that has some, in parts of whole records; they are empty then, and keep some room."""
    cdef list out = []
    cdef const uint8_t *data
    cdef gw_far_record_t record
    cdef size_t at, begin, end
    cdef uint32_t i
    for i in range(p.count):
        data = p.items[i].data
        end = p.items[i].size
        at = begin = 0
        while at < end:
            memcpy(&record, data + at, sizeof(record))
            at += sizeof(record) + record.size
            if at - begin >= PART_BYTES or at == end:
                out.append((p.items[i].key, (<const char *>data + begin)[:at - begin]))
                begin = at
    for i in range(p.count):
        p.items[i].size = 0
        if p.items[i].capacity > KEPT_BYTES:
            free(p.items[i].data)
            p.items[i].data = NULL
            p.items[i].capacity = 0
    return out


@cython.final
cdef class FarSink:
    """See far_records.pyi."""

    def __init__(self, news not None):
        self.news = news

    def __dealloc__(self):
        gw_piles_free(&self.piles)
        free(self.locals)
        free(self.seqs)
        free(self.numbers)

    def set_local(self, uint32_t number, uint32_t local):
        cdef uint32_t capacity
        cdef uint32_t *locals_
        if number >= self.capacity:
            capacity = number + number // 2 + LOCALS_MORE
            locals_ = <uint32_t *>realloc(self.locals, capacity * sizeof(uint32_t))
            if locals_ == NULL:
                raise MemoryError
            memset(locals_ + self.capacity, 0, (capacity - self.capacity) * sizeof(uint32_t))
            self.locals = locals_
            self.capacity = capacity
        self.locals[number] = local

    def local(self, uint32_t number):
        return self.locals[number] if number < self.capacity else 0

    cdef bint notify(self, uint64_t link, uint64_t seq, uint32_t number, uint32_t ack_ms, const uint8_t *frame,
                     uint32_t size) noexcept nogil:
        """False without memory, or where it is not known at its node."""
        cdef gw_far_record_t record
        cdef uint64_t *seqs
        cdef uint32_t *numbers
        cdef uint32_t room
        if number >= self.capacity:
            return False
        if self.count == self.room:
            room = self.room * 2 + LOCALS_MORE
            seqs = <uint64_t *>realloc(self.seqs, room * sizeof(uint64_t))
            if seqs == NULL:
                return False
            self.seqs = seqs
            numbers = <uint32_t *>realloc(self.numbers, room * sizeof(uint32_t))
            if numbers == NULL:
                return False
            self.numbers = numbers
            self.room = room
        memset(&record, 0, sizeof(record))
        record.kind = GW_FAR_NOTIFY
        record.number = number
        record.local = self.locals[number]
        record.size = size
        record.attachment = link & ((<uint64_t>1 << NODE_SHIFT) - 1)
        record.seq = seq
        record.a = ack_ms
        if not gw_pile_add(&self.piles, <uint32_t>(link >> NODE_SHIFT & 0xFFFF), &record, frame):
            return False
        self.seqs[self.count] = seq
        self.numbers[self.count] = number
        self.count += 1
        return True

    def flush(self, uint32_t ack_ms):
        """Hand what was collected over, where there is some."""
        cdef bytes seqs, numbers
        cdef list piles
        if self.count:
            seqs = PyBytes_FromStringAndSize(<const char *>self.seqs, self.count * sizeof(uint64_t))
            numbers = PyBytes_FromStringAndSize(<const char *>self.numbers, self.count * sizeof(uint32_t))
            piles = take_piles(&self.piles)
            self.count = 0
            self.news(piles, seqs, numbers, ack_ms)


@cython.final
cdef class HomeTable:
    """See far_records.pyi."""

    def __dealloc__(self):
        gw_piles_free(&self.acks)
        free(self.partitions)
        free(self.numbers)

    def __len__(self):
        return self.count

    def grow(self):
        """One more local number; returns it."""
        cdef uint32_t capacity
        cdef uint16_t *partitions
        cdef uint32_t *numbers
        if self.count == self.capacity:
            capacity = self.capacity + self.capacity // 2 + LOCALS_MORE
            partitions = <uint16_t *>realloc(self.partitions, capacity * sizeof(uint16_t))
            if partitions == NULL:
                raise MemoryError
            self.partitions = partitions
            numbers = <uint32_t *>realloc(self.numbers, capacity * sizeof(uint32_t))
            if numbers == NULL:
                raise MemoryError
            self.numbers = numbers
            self.capacity = capacity
        self.partitions[self.count] = 0
        self.numbers[self.count] = 0
        self.count += 1
        return self.count - 1

    cdef int check(self, uint32_t local) except -1:
        if local >= self.count:
            raise IndexError("no such local number")
        return 0

    def set(self, uint32_t local, uint16_t partition, uint32_t number):
        self.check(local)
        self.partitions[local] = partition
        self.numbers[local] = number

    def partition(self, uint32_t local):
        self.check(local)
        return self.partitions[local]

    def number(self, uint32_t local):
        self.check(local)
        return self.numbers[local]

    def of_partition(self, uint16_t partition, uint32_t first, uint32_t end):
        """Local numbers of it from `first` on, below `end`."""
        cdef list out = []
        cdef uint32_t i
        for i in range(first, min(end, self.count)):
            if self.partitions[i] == partition:
                out.append(i)
        return out

    cdef bint put_ack(self, uint32_t local, uint64_t link, uint64_t seq, uint64_t sent_ms, uint64_t acked_ms,
                      uint8_t flags) noexcept nogil:
        """False without memory, or for no number of this table."""
        cdef gw_far_record_t record
        if local >= self.count:
            return False
        memset(&record, 0, sizeof(record))
        record.kind = GW_FAR_ACK
        record.flag = flags
        record.number = self.numbers[local]
        record.local = local
        record.attachment = gw_attachment(link)
        record.seq = seq
        record.a = sent_ms
        record.b = acked_ms
        if not gw_pile_add(&self.acks, self.partitions[local], &record, &record):
            return False
        self.waiting += 1
        return True

    cdef int say_news(self) except -1:
        cdef list piles
        if self.waiting:
            self.waiting = 0
            piles = take_piles(&self.acks)
            self.news(piles)
        return 0
