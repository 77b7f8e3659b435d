"""The card's side of many CAT_TP links: opens them, holds them, asks and answers; never takes the GIL while it runs.

ETSI TS 102 127, read anew: nothing of the gateway's own CAT_TP is in here. Links share a few UDP sockets and are told
apart by their CAT_TP ports. Each has at most one PDU of its own on the way, and takes what comes in order; one that
comes early is not held, so its sender sends it again. Losses are drawn from a seed, in both directions.
"""
cimport cython
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from gateway._load.histogram cimport histogram_add, histogram_summary, histogram_t

cdef extern from "gw_cards.h" nogil:
    enum: GW_SYN, GW_ACK, GW_RST, GW_NUL, GW_SEG, GW_PDU_HEAD, GW_BATCH, GW_SLOT
    struct gw_mmsghdr:
        unsigned int size
    struct iovec:
        size_t iov_len
    ctypedef struct gw_batch_t:
        gw_mmsghdr *messages
        iovec *parts
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
    int gw_udp(uint32_t host, uint16_t port, int buffer_bytes)

cdef extern from "gw_swarm.h" nogil:
    uint64_t gw_now_ns()

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    enum: EPOLLIN, EPOLL_CTL_ADD, EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef enum:
    IDENTIFICATION_BYTES = 16
    MOST_SOCKETS = 256
    PORTS_A_SOCKET = 65000
    BUFFER_BYTES = 4194304
    MAX_PDU = 1400
    MAX_SDU = 4096
    WINDOW = 10
    TRIES = 8
    DATA_MOST = 1024
    NAP_MS = 5

cdef enum:
    CARD_AWAY = 0
    CARD_CALLING = 1                # its SYN is out
    CARD_OPEN = 2
    CARD_ENDED = 3

cdef struct card_t:
    uint8_t identification[16]
    uint64_t sent_ns                # of the PDU on its way
    uint16_t next                   # number of its next PDU, or of the one on its way
    uint16_t current                # the last number taken in order
    uint8_t state
    uint8_t waits                   # a PDU of its own is on its way
    uint8_t queued                  # stands among those whose PDU may have to go again
    uint8_t tries

cdef struct fleet_t:
    card_t *cards
    uint32_t count
    uint32_t *queue                 # ring of card numbers, oldest PDU first
    uint32_t queue_first
    uint32_t queue_count
    int *sockets
    gw_batch_t *out                 # one a socket
    gw_batch_t *incoming
    uint32_t socket_count
    int epoll
    uint16_t server_port
    uint64_t rto_ns
    uint64_t seed
    double loss
    # what is asked for: written by the control thread, read here
    int stopped
    uint32_t wanted                 # cards that are to be open
    uint32_t at_once                # PDUs of our own on their way, over all
    uint32_t ping_bytes             # of each SDU; 0: NULs
    uint32_t pinging                # the first so many cards ask
    # where the thread is
    uint32_t called                 # cards that were called so far
    uint32_t cursor                 # the next one to ask
    uint32_t under_way              # PDUs of our own without an acknowledgement
    uint32_t open
    # what happened
    uint64_t opened
    uint64_t ended                  # by a RST
    uint64_t given_up               # after the last try
    uint64_t pairs                  # a PDU of ours, and its acknowledgement
    uint64_t sdus                   # of the server, whole
    uint64_t sdu_bytes
    uint64_t resent
    uint64_t early                  # not the next number
    uint64_t malformed
    uint64_t foreign
    uint64_t received
    uint64_t sent
    uint64_t unsent
    uint64_t dropped                # on purpose
    uint64_t reasons[8]             # of RSTs; 7: any other
    histogram_t answer_us


cdef inline bint is_lost(fleet_t *f) noexcept nogil:
    if f.loss <= 0:
        return False
    f.seed ^= f.seed << 13
    f.seed ^= f.seed >> 7
    f.seed ^= f.seed << 17
    if (f.seed >> 11) * (1.0 / 9007199254740992.0) >= f.loss:
        return False
    f.dropped += 1
    return True


cdef inline void flush(fleet_t *f, uint32_t socket) noexcept nogil:
    cdef uint32_t count = f.out[socket].count
    cdef int went
    if count:
        went = gw_batch_send(&f.out[socket], f.sockets[socket])
        f.sent += went
        f.unsent += count - went


cdef void put(fleet_t *f, uint32_t number, uint8_t flags, uint16_t sequence, uint32_t data_bytes) noexcept nogil:
    cdef uint32_t socket = number % f.socket_count
    cdef card_t *card = &f.cards[number]
    cdef gw_batch_t *out = &f.out[socket]
    cdef gw_pdu_t pdu
    cdef uint8_t *slot
    cdef uint32_t more = 0
    if is_lost(f):
        return
    slot = &out.slots[out.count][0]
    if flags & GW_SYN:
        more = 5 + IDENTIFICATION_BYTES
        gw_put16(slot + GW_PDU_HEAD, MAX_PDU)
        gw_put16(slot + GW_PDU_HEAD + 2, MAX_SDU)
        slot[GW_PDU_HEAD + 4] = IDENTIFICATION_BYTES
        memcpy(slot + GW_PDU_HEAD + 5, card.identification, IDENTIFICATION_BYTES)
    elif flags & GW_RST:
        more = 1
        slot[GW_PDU_HEAD] = 0
    memset(slot + GW_PDU_HEAD + more, <int>(number & 0xFF), data_bytes)
    pdu.flags = flags
    pdu.source = <uint16_t>(1 + number // f.socket_count)
    pdu.destination = f.server_port
    pdu.sequence = sequence
    pdu.acknowledgement = card.current if flags & GW_ACK else 0
    pdu.window = WINDOW
    pdu.data_bytes = data_bytes
    out.parts[out.count].iov_len = gw_pdu_build(slot, &pdu, more)
    out.count += 1
    if out.count == GW_BATCH:
        flush(f, socket)


# --- PDUs of our own ------------------------------------------------------------------------------------------------

cdef void transmit(fleet_t *f, uint32_t number) noexcept nogil:
    """The PDU that is on its way, for the first time or again."""
    cdef card_t *card = &f.cards[number]
    card.sent_ns = gw_now_ns()
    if card.state == CARD_CALLING:
        put(f, number, GW_SYN, card.next, 0)
    elif f.ping_bytes:
        put(f, number, GW_ACK, card.next, f.ping_bytes)
    else:
        put(f, number, GW_ACK | GW_NUL, card.next, 0)


cdef void begin(fleet_t *f, uint32_t number) noexcept nogil:
    cdef card_t *card = &f.cards[number]
    card.waits, card.tries = 1, 0
    f.under_way += 1
    if not card.queued:
        card.queued = 1
        f.queue[(f.queue_first + f.queue_count) % f.count] = number
        f.queue_count += 1
    transmit(f, number)


cdef void settle(fleet_t *f, card_t *card) noexcept nogil:
    if card.waits:
        card.waits = 0
        f.under_way -= 1


cdef void resend_due(fleet_t *f) noexcept nogil:
    cdef uint64_t now = gw_now_ns()
    cdef uint32_t number, left = f.queue_count
    cdef card_t *card
    while left:
        left -= 1
        number = f.queue[f.queue_first]
        card = &f.cards[number]
        if card.waits and card.sent_ns + f.rto_ns > now:
            return
        f.queue_first = (f.queue_first + 1) % f.count
        f.queue_count -= 1
        card.queued = 0
        if not card.waits:
            continue
        card.tries += 1
        if card.tries > TRIES:
            settle(f, card)
            f.given_up += 1
            if card.state == CARD_OPEN:
                f.open -= 1
            card.state = CARD_ENDED
            continue
        f.resent += 1
        card.queued = 1
        f.queue[(f.queue_first + f.queue_count) % f.count] = number
        f.queue_count += 1
        transmit(f, number)


cdef void begin_more(fleet_t *f) noexcept nogil:
    """Calls that are wanted, then questions in turn, as far as so many may be on their way."""
    cdef uint32_t wanted = min(f.wanted, f.count)
    cdef uint32_t pinging = min(f.pinging, f.called)
    cdef uint32_t skipped = 0
    cdef card_t *card
    while f.called < wanted and f.under_way < f.at_once:
        card = &f.cards[f.called]
        card.state = CARD_CALLING
        begin(f, f.called)
        f.called += 1
    while pinging and f.under_way < f.at_once and skipped < pinging:
        if f.cursor >= pinging:
            f.cursor = 0
        card = &f.cards[f.cursor]
        if card.state == CARD_OPEN and not card.waits:
            begin(f, f.cursor)
            skipped = 0
        else:
            skipped += 1
        f.cursor += 1


# --- what the server says -------------------------------------------------------------------------------------------

cdef void on_acknowledgement(fleet_t *f, card_t *card, const gw_pdu_t *pdu) noexcept nogil:
    if not card.waits or pdu.acknowledgement != card.next:
        return
    if card.tries == 0:
        histogram_add(&f.answer_us, (gw_now_ns() - card.sent_ns) // 1000)
    settle(f, card)
    card.next += 1
    f.pairs += 1


cdef void on_rst(fleet_t *f, card_t *card, const gw_pdu_t *pdu) noexcept nogil:
    # its reason is the last byte of the header
    f.reasons[min(pdu.data[-1], <uint8_t>7)] += 1
    f.ended += 1
    settle(f, card)
    if card.state == CARD_OPEN:
        f.open -= 1
    card.state = CARD_ENDED


cdef void on_pdu(fleet_t *f, uint32_t socket, const gw_pdu_t *pdu) noexcept nogil:
    cdef uint32_t number = (<uint32_t>pdu.destination - 1) * f.socket_count + socket
    cdef card_t *card
    if pdu.source != f.server_port or pdu.destination == 0 or number >= f.called:
        f.foreign += 1
        return
    card = &f.cards[number]
    if pdu.flags & GW_RST:
        if card.state == CARD_OPEN or card.state == CARD_CALLING:
            on_rst(f, card, pdu)
        return
    if pdu.flags & GW_SYN:
        if not pdu.flags & GW_ACK or pdu.acknowledgement != card.next and card.state == CARD_CALLING:
            f.foreign += 1
        elif card.state == CARD_CALLING:
            settle(f, card)
            card.state = CARD_OPEN
            card.current = pdu.sequence
            card.next += 1
            f.open += 1
            f.opened += 1
            put(f, number, GW_ACK, card.next, 0)
        elif card.state == CARD_OPEN:
            put(f, number, GW_ACK, <uint16_t>(card.next + card.waits), 0)   # our acknowledgement was lost
        return
    if card.state != CARD_OPEN:
        return
    on_acknowledgement(f, card, pdu)
    if pdu.flags & GW_NUL or pdu.data_bytes:
        if pdu.sequence == <uint16_t>(card.current + 1):
            card.current = pdu.sequence
            f.sdu_bytes += pdu.data_bytes
            if pdu.data_bytes and not pdu.flags & GW_SEG:
                f.sdus += 1
        else:
            f.early += 1
        # number of the next: of one on its way it is the one behind
        put(f, number, GW_ACK, <uint16_t>(card.next + card.waits), 0)


cdef void receive(fleet_t *f, uint32_t socket) noexcept nogil:
    cdef gw_pdu_t pdu
    cdef int n, i
    # a few batches, so that the other sockets and those that wait get their turn
    for _ in range(4):
        n = gw_batch_receive(f.incoming, f.sockets[socket])
        if n <= 0:
            return
        for i in range(n):
            if is_lost(f):
                continue
            f.received += 1
            if gw_pdu_parse(&f.incoming.slots[i][0], f.incoming.messages[i].size, &pdu) != 0:
                f.malformed += 1
            else:
                on_pdu(f, socket, &pdu)
        if n < GW_BATCH:
            return


cdef void serve(fleet_t *f) noexcept nogil:
    cdef epoll_event events[MOST_SOCKETS]
    cdef int n, i
    cdef uint32_t socket
    while not f.stopped:
        begin_more(f)
        for socket in range(f.socket_count):
            flush(f, socket)
        n = epoll_wait(f.epoll, events, MOST_SOCKETS, NAP_MS)
        for i in range(n):
            receive(f, <uint32_t>events[i].data.fd)
        resend_due(f)


@cython.final
cdef class Cards:
    """`run` belongs to a thread of its own; the rest to one other thread."""
    cdef fleet_t fleet

    def __cinit__(
        self,
        host: int,
        port: int,
        identifications: bytes,
        *,
        cattp_port: int = 9000,
        sockets: int = 8,
        rto_ms: int = 1000,
        loss: float = 0.0,
        seed: int = 1,
        first: int = 0,
    ):
        cdef fleet_t *f = &self.fleet
        cdef epoll_event event
        cdef const uint8_t *packed = identifications
        cdef uint32_t i
        cdef int fd
        f.epoll = -1
        if not 1 <= sockets <= MOST_SOCKETS or len(identifications) % IDENTIFICATION_BYTES or not identifications:
            raise ValueError(f"1 to {MOST_SOCKETS} sockets, and 16 bytes a card")
        f.count = <uint32_t>(len(identifications) // IDENTIFICATION_BYTES)
        if f.count > sockets * PORTS_A_SOCKET:
            raise ValueError(f"a socket has room for {PORTS_A_SOCKET} cards")
        f.cards = <card_t *>calloc(f.count, sizeof(card_t))
        f.queue = <uint32_t *>calloc(f.count, sizeof(uint32_t))
        f.sockets = <int *>calloc(sockets, sizeof(int))
        f.out = <gw_batch_t *>calloc(sockets, sizeof(gw_batch_t))
        f.incoming = <gw_batch_t *>calloc(1, sizeof(gw_batch_t))
        f.epoll = epoll_create1(EPOLL_CLOEXEC)
        if f.cards == NULL or f.queue == NULL or f.sockets == NULL or f.out == NULL or f.incoming == NULL:
            raise MemoryError("no room for the cards")
        if f.epoll < 0:
            raise OSError(errno, "no epoll set for the cards")
        f.server_port, f.rto_ns, f.loss = cattp_port, <uint64_t>rto_ms * 1_000_000, loss
        f.seed = 0x9E3779B97F4A7C15ULL ^ <uint64_t>(seed + 1)
        f.at_once = 256
        for i in range(f.count):
            memcpy(f.cards[i].identification, packed + i * IDENTIFICATION_BYTES, IDENTIFICATION_BYTES)
            f.cards[i].next = <uint16_t>((<uint32_t>first + i) & 0xFFFF)
        gw_batch_init(f.incoming, 0)
        for i in range(<uint32_t>sockets):
            fd = gw_udp(host, port, BUFFER_BYTES)
            if fd < 0:
                raise OSError(-fd, "no socket for the cards")
            f.sockets[i] = fd
            f.socket_count += 1
            gw_batch_init(&f.out[i], 0)
            event.events = EPOLLIN
            event.data.fd = <int>i
            epoll_ctl(f.epoll, EPOLL_CTL_ADD, fd, &event)

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.fleet.socket_count):
            close(self.fleet.sockets[i])
        if self.fleet.epoll >= 0:
            close(self.fleet.epoll)
        free(self.fleet.cards)
        free(self.fleet.queue)
        free(self.fleet.sockets)
        free(self.fleet.out)
        free(self.fleet.incoming)

    def run(self):
        with nogil:
            serve(&self.fleet)

    def stop(self):
        self.fleet.stopped = 1

    def open(self, count: int, at_once: int):
        self.fleet.at_once = at_once
        self.fleet.wanted = min(count, self.fleet.count)

    def ping(self, count: int, at_once: int, size: int):
        if not 0 <= size <= DATA_MOST:
            raise ValueError(f"a question has 0 to {DATA_MOST} bytes")
        self.fleet.at_once, self.fleet.ping_bytes = at_once, size
        self.fleet.pinging = count

    @property
    def is_calm(self):
        f = &self.fleet
        return f.called >= f.wanted and f.under_way == 0

    def reset(self):
        memset(&self.fleet.answer_us, 0, sizeof(histogram_t))

    def answer_ms(self):
        return histogram_summary(&self.fleet.answer_us, 1000.0)

    def reasons(self):
        return {i: self.fleet.reasons[i] for i in range(8) if self.fleet.reasons[i]}

    def counts(self):
        f = &self.fleet
        return {
            "open": f.open, "opened": f.opened, "ended": f.ended, "given_up": f.given_up, "pairs": f.pairs,
            "sdus": f.sdus, "sdu_bytes": f.sdu_bytes, "resent": f.resent, "early": f.early, "malformed": f.malformed,
            "foreign": f.foreign, "received": f.received, "sent": f.sent, "unsent": f.unsent, "dropped": f.dropped,
            "under_way": f.under_way,
        }
