"""The ring of a mailbox as a Python object, for tests and benchmarks; reactors use the C functions directly."""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


@cython.final
cdef class Mailbox:
    """Bounded single-producer single-consumer queue of byte records."""
    cdef gw_ring_t ring

    def __cinit__(self, capacity: int, event_fd: int = -1):
        if capacity < 64 or capacity & (capacity - 1):
            raise ValueError("capacity must be a power of two, at least 64")
        if gw_ring_init(&self.ring, capacity, event_fd) != 0:
            raise MemoryError

    def __dealloc__(self):
        gw_ring_free(&self.ring)

    def push(self, data: bytes) -> bool:
        """False: full, nothing was written. Not visible before publish."""
        cdef uint32_t n = <uint32_t>len(data)
        cdef const char *p = data
        cdef void *room
        with nogil:
            room = gw_ring_reserve(&self.ring, n)
            if room != NULL:
                memcpy(room, p, n)
        return room != NULL

    def publish(self) -> None:
        with nogil:
            gw_ring_publish(&self.ring)

    def drain(self, limit: int = 1024) -> list:
        cdef list out = []
        cdef uint32_t n
        cdef void *p
        while len(out) < limit:
            p = gw_ring_peek(&self.ring, &n)
            if p == NULL:
                break
            out.append((<const uint8_t *>p)[:n])
            gw_ring_pop(&self.ring, n)
        return out

    def sleep(self) -> bool:
        """True: stay awake, something is there."""
        return gw_ring_sleep(&self.ring) != 0

    @property
    def room(self) -> int:
        return gw_ring_room(&self.ring)


def pump(Mailbox source not None, Mailbox target not None, count: int) -> int:
    """Move `count` records from source to target without the GIL, waiting actively; returns the sum of their first
    8 bytes. Two threads running this in a ring of mailboxes are what the thread sanitizer looks at."""
    cdef uint64_t left = count, total = 0, value
    cdef uint32_t n
    cdef void *p
    cdef void *q
    with nogil:
        while left:
            p = gw_ring_peek(&source.ring, &n)
            if p == NULL:
                continue
            q = gw_ring_reserve(&target.ring, n)
            if q == NULL:
                continue
            memcpy(q, p, n)
            memcpy(&value, p, 8)
            total += value
            gw_ring_pop(&source.ring, n)
            gw_ring_publish(&target.ring)
            left -= 1
    return total
