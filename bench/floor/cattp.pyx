"""The least that answers CAT_TP: datagrams in by recvmmsg, checksum checked, the link looked up in a table, its reply
with a checksum out by sendmmsg, 64 at a time; must never keep more than two numbers a link, nor any timer.

One thread, one socket, as the gateway's server has: it is the floor of PDUs a second, and the same cards drive both.
Whoever sends a SYN gets a link; nothing is sent again, and what an SDU holds is not looked at.
"""
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

cdef extern from "gw_cards.h" nogil:
    enum: GW_SYN, GW_ACK, GW_RST, GW_NUL, GW_PDU_HEAD, GW_BATCH
    struct gw_mmsghdr:
        unsigned int size
    struct iovec:
        size_t iov_len
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr
    ctypedef struct gw_batch_t:
        gw_mmsghdr *messages
        iovec *parts
        sockaddr_in *names
        uint8_t (*slots)[2048]
        uint32_t count
    ctypedef struct gw_pdu_t:
        uint8_t flags
        uint16_t source
        uint16_t destination
        uint16_t sequence
        uint16_t acknowledgement
        uint16_t window
        const uint8_t *data
        uint32_t data_bytes
    void gw_put16(uint8_t *p, uint32_t v)
    int gw_pdu_parse(const uint8_t *p, uint32_t n, gw_pdu_t *pdu)
    uint32_t gw_pdu_build(uint8_t *p, const gw_pdu_t *pdu, uint32_t more)
    void gw_batch_init(gw_batch_t *b, int named)
    int gw_batch_receive(gw_batch_t *b, int fd)
    int gw_batch_send(gw_batch_t *b, int fd)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
    enum: POLLIN
    int poll(pollfd *fds, unsigned long n, int timeout_ms)


cdef enum:
    NAP_MS = 20
    WINDOW = 10
    FIRST = 1                       # number of our SYN, on every link

cdef struct place_t:
    uint64_t key                    # address, port and CAT_TP port of the peer; 0: free
    uint16_t current                # the last number taken in order
    uint16_t next

cdef struct floor_t:
    place_t *table
    uint32_t mask
    uint32_t count
    uint32_t most
    int fd
    int stopped
    gw_batch_t *incoming
    gw_batch_t *out
    uint64_t received
    uint64_t sent
    uint64_t malformed
    uint64_t foreign


cdef inline uint64_t mixed(uint64_t x) noexcept nogil:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL
    return x ^ (x >> 31)


cdef inline place_t *find(floor_t *f, uint64_t key) noexcept nogil:
    """Its place, or the free one where it belongs."""
    cdef uint32_t at = <uint32_t>mixed(key) & f.mask
    while f.table[at].key != key and f.table[at].key != 0:
        at = (at + 1) & f.mask
    return &f.table[at]


cdef inline void reply(floor_t *f, int to, const gw_pdu_t *pdu, const place_t *place) noexcept nogil:
    cdef gw_batch_t *out = f.out
    cdef uint32_t at = out.count
    cdef uint8_t *slot = &out.slots[at][0]
    cdef gw_pdu_t said
    cdef uint32_t more = 0
    said.flags, said.sequence = GW_ACK, place.next
    if pdu.flags & GW_SYN:
        said.flags, said.sequence, more = GW_SYN | GW_ACK, FIRST, 5
        gw_put16(slot + GW_PDU_HEAD, 1400)
        gw_put16(slot + GW_PDU_HEAD + 2, 4096)
        slot[GW_PDU_HEAD + 4] = 0
    said.source, said.destination = pdu.destination, pdu.source
    said.acknowledgement, said.window, said.data_bytes = place.current, WINDOW, 0
    out.parts[at].iov_len = gw_pdu_build(slot, &said, more)
    out.names[at] = f.incoming.names[to]
    out.count = at + 1


cdef inline void answer(floor_t *f, int number) noexcept nogil:
    cdef gw_pdu_t pdu
    cdef place_t *place
    cdef const sockaddr_in *peer = &f.incoming.names[number]
    cdef uint64_t key
    if gw_pdu_parse(&f.incoming.slots[number][0], f.incoming.messages[number].size, &pdu) != 0:
        f.malformed += 1
        return
    key = <uint64_t>peer.sin_addr.s_addr << 32 | <uint64_t>peer.sin_port << 16 | pdu.source
    place = find(f, key)
    if place.key == 0:
        if not pdu.flags & GW_SYN or f.count >= f.most:
            f.foreign += 1
            return
        f.count += 1
        place.key, place.current, place.next = key, pdu.sequence, FIRST + 1
        reply(f, number, &pdu, place)
    elif pdu.flags & GW_SYN:
        reply(f, number, &pdu, place)
    elif pdu.flags & GW_NUL or pdu.data_bytes:
        if pdu.sequence == <uint16_t>(place.current + 1):
            place.current = pdu.sequence
        reply(f, number, &pdu, place)


cdef void serve(floor_t *f) noexcept nogil:
    cdef pollfd waits
    cdef int n, i
    waits.fd, waits.events = f.fd, POLLIN
    while not f.stopped:
        n = gw_batch_receive(f.incoming, f.fd)
        if n <= 0:
            poll(&waits, 1, NAP_MS)
            continue
        f.received += n
        for i in range(n):
            answer(f, i)
        f.sent += gw_batch_send(f.out, f.fd)


@cython.final
cdef class CattpFloor:
    """`run` belongs to a thread of its own; the rest to one other thread."""
    cdef floor_t floor

    def __cinit__(self, int fd, uint32_t most):
        """A bound, non-blocking UDP socket of IPv4; links."""
        cdef uint32_t size = 1024
        while size < 2 * most:
            size *= 2
        self.floor.fd, self.floor.most, self.floor.mask = fd, most, size - 1
        self.floor.table = <place_t *>calloc(size, sizeof(place_t))
        self.floor.incoming = <gw_batch_t *>calloc(1, sizeof(gw_batch_t))
        self.floor.out = <gw_batch_t *>calloc(1, sizeof(gw_batch_t))
        if self.floor.table == NULL or self.floor.incoming == NULL or self.floor.out == NULL:
            raise MemoryError("no room for the floor's links")
        gw_batch_init(self.floor.incoming, 1)
        gw_batch_init(self.floor.out, 1)

    def __dealloc__(self):
        free(self.floor.table)
        free(self.floor.incoming)
        free(self.floor.out)

    def run(self):
        """Serve until `stop`; without the GIL."""
        with nogil:
            serve(&self.floor)

    def stop(self):
        self.floor.stopped = 1

    def counts(self):
        f = &self.floor
        return {
            "links": f.count, "received": f.received, "sent": f.sent, "malformed": f.malformed, "foreign": f.foreign,
        }
