"""What the CAT_TP server is made of: its structs, and the records it exchanges with the control thread. Declarations
only."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from gateway._native.mailbox cimport gw_ring_t
from gateway._native.outbox cimport gw_buffer_t, outbox_pool_t, outbox_t
from gateway._native.wheel cimport wheel_node_t, wheel_t

cdef extern from "gw_cattp.h" nogil:
    enum:
        GW_PDU_SYN
        GW_PDU_ACK
        GW_PDU_EACK
        GW_PDU_RST
        GW_PDU_NUL
        GW_PDU_SEG
        GW_PDU_HEAD_BYTES
        GW_PDU_MOST_BYTES
        GW_PDU_MOST_EACKS
    ctypedef struct gw_pdu_t:
        uint8_t flags
        uint8_t version
        uint8_t reason
        uint8_t id_bytes
        uint16_t source
        uint16_t destination
        uint16_t sequence
        uint16_t acknowledgement
        uint16_t window
        uint16_t max_pdu
        uint16_t max_sdu
        uint16_t data_bytes
        uint16_t eack_count
        const uint8_t *identification
        const uint8_t *eacks
        const uint8_t *data
    uint16_t gw_get16(const uint8_t *at)
    void gw_put16(uint8_t *at, uint16_t value)
    int gw_pdu_parse(gw_pdu_t *p, const uint8_t *data, uint32_t size)
    int gw_pdu_consumes(const gw_pdu_t *p)
    uint32_t gw_pdu_build(uint8_t *out, uint8_t flags, uint16_t source, uint16_t destination, uint16_t sequence,
                          uint16_t acknowledgement, uint16_t window, const uint8_t *variable, uint8_t variable_bytes,
                          const uint8_t *data, uint16_t data_bytes)
    uint32_t gw_pdu_refuse(uint8_t *out, const gw_pdu_t *p, uint8_t reason)

cdef extern from "gw_udp.h" nogil:
    enum:
        GW_UDP_BATCH
    ctypedef struct gw_udp_in_t:
        pass
    ctypedef struct gw_udp_out_t:
        uint8_t *arena
        uint32_t used
        uint32_t count
    int gw_udp_family(int fd)
    gw_udp_in_t *gw_udp_in_new()
    void gw_udp_in_free(gw_udp_in_t *arriving)
    int gw_udp_receive(int fd, gw_udp_in_t *arriving, int most)
    const uint8_t *gw_udp_data(const gw_udp_in_t *arriving, int i, uint32_t *size)
    void gw_udp_from(const gw_udp_in_t *arriving, int i, uint8_t *address, uint16_t *port)
    gw_udp_out_t *gw_udp_out_new(int family)
    void gw_udp_out_free(gw_udp_out_t *out)
    uint8_t *gw_udp_place(gw_udp_out_t *out)
    void gw_udp_put(gw_udp_out_t *out, uint32_t size, const uint8_t *address, uint16_t port)
    uint32_t gw_udp_flush(int fd, gw_udp_out_t *out)

cdef enum:
    CATTP_ID_MOST = 16              # bytes of an identification that can be expected
    CATTP_HALVES_MOST = 8           # links at a time that one identification may have, half-open ones included

cdef enum:                          # kind of a timer node
    CATTP_TIMER_LINK = 1
    CATTP_TIMER_EXPECTED = 2

cdef enum:                          # state of a link (TS 102 127 §4); LISTEN is the server as a whole
    CATTP_FREE = 0
    CATTP_SYN_RCVD = 1
    CATTP_OPEN = 2
    CATTP_CLOSE_WAIT = 3

cdef enum:                          # flags of a link
    CATTP_CLOSING = 1               # ends when all that was sent is there; `cause` says why
    CATTP_MEASURED = 2              # a round trip was measured
    CATTP_WINDOW_SEEN = 4           # `from_sequence`, `from_acknowledgement` say which PDU the window is from
    CATTP_WINDOW_CLOSED = 8         # `since_ms` says since when
    CATTP_FAREWELL = 16             # CLOSE-WAIT answers what is late with a RST

cdef enum:                          # flags of an expected identification
    EXPECTED_FORGOTTEN = 1          # no SYN finds it any more
    EXPECTED_LAPSED = 2             # a SYN is only taken while a link of it is open

cdef enum:                          # flags of what is on its way
    FLIGHT_ENDS = 1                 # an SDU ends with it
    FLIGHT_THERE = 2                # the peer has it, out of order
    FLIGHT_NOW = 4                  # to be sent at once, whenever it was sent last

cdef enum:                          # events, server → control
    CATTP_EV_OPENED = 1
    CATTP_EV_RECEIVED = 2
    CATTP_EV_DELIVERED = 3
    CATTP_EV_CLOSED = 4
    CATTP_EV_REFUSED = 5            # an SDU was not taken; cause is why
    CATTP_EV_UNEXPECTED = 6         # an identification could not be expected: there are too many

cdef enum:                          # commands, control → server
    CATTP_CMD_EXPECT = 1
    CATTP_CMD_FORGET = 2
    CATTP_CMD_SEND = 3
    CATTP_CMD_CLOSE = 4
    CATTP_CMD_ABORT = 5
    CATTP_CMD_STOP = 6

cdef enum:                          # why a link is closed; names in CAUSES
    CATTP_ASKED = 0
    CATTP_PEER = 1
    CATTP_RETRIES = 2
    CATTP_IDLE = 3
    CATTP_ZERO_WINDOW = 4
    CATTP_ILLEGAL = 5
    CATTP_REPLACED = 6
    CATTP_STOPPED = 7
    CATTP_CAUSES_COUNT = 8

cdef enum:                          # why an SDU is refused; names in REFUSALS
    CATTP_REFUSED_GONE = 0          # no such link, or it is closing
    CATTP_REFUSED_SIZE = 1          # larger than the peer takes, or empty
    CATTP_REFUSED_QUEUE = 2         # too much waits for the peer's window
    CATTP_REFUSED_MEMORY = 3        # too much waits on all links together
    CATTP_REFUSED_COUNT = 4

cdef enum:                          # reasons of a RST (TS 102 127 §5.4)
    RST_NORMAL = 0
    RST_ILLEGAL_PARAMETERS = 1
    RST_TEMPORARY = 2
    RST_PORT = 3
    RST_UNEXPECTED_PDU = 4
    RST_RETRIES = 5
    RST_VERSION = 6

cdef enum:                          # counters; names in COUNTERS
    # every datagram is counted as one of these nine
    CC_LINKED = 0                   # for a link
    CC_MALFORMED = 1
    CC_FOREIGN = 2                  # for another CAT_TP port
    CC_VERSION = 3
    CC_STRAY = 4                    # for no link, and no SYN
    CC_NOT_ADMITTED = 5             # a SYN of whom nobody expects
    CC_ILLEGAL = 6                  # a SYN whose sizes make no sense
    CC_HALF_OPEN_FULL = 7           # a SYN past max_half_open
    CC_FULL = 8                     # a SYN past max_links, or without memory
    # of those for a link
    CC_DUPLICATE = 9
    CC_OUTSIDE = 10
    CC_IMPOSSIBLE = 11
    CC_HELD = 12
    CC_NO_ROOM = 13                 # not taken, for busy_bytes is reached; the peer sends it again
    CC_LATE = 14                    # in CLOSE-WAIT
    # what goes out
    CC_SENT = 15                    # datagrams
    CC_RESENT = 16
    CC_PROBES = 17
    CC_REFUSALS = 18                # RST to what has no link
    CC_REFUSALS_WITHHELD = 19       # past refusals_per_s, or to a datagram that is shorter
    CC_WITHHELD = 20                # to a half-open link that has not sent enough
    CC_UNSENT = 21                  # the kernel did not take it
    CC_BYTES_IN = 22
    CC_BYTES_OUT = 23
    # links and SDUs
    CC_OPENED = 24
    CC_UNPROVED = 25                # half-open links that ended so
    CC_SDUS_IN = 26
    CC_SDUS_OUT = 27                # taken from the control thread
    CC_DELIVERED = 28
    CC_UNEXPECTED = 29              # identifications past max_expected
    CC_MAILBOX_FULL = 30
    # gauges
    CC_LINKS = 31                   # all states
    CC_HALF_OPEN = 32
    CC_OPEN = 33
    CC_EXPECTED = 34
    CC_BUSY = 35                    # links that hold a busy_t
    CC_BUSY_BYTES = 36
    CC_COUNT = 37

cdef struct cattp_limits_t:
    # as in gateway.ota.cattp.Limits
    uint32_t max_pdu
    uint32_t max_sdu
    uint32_t window
    uint32_t flight
    uint32_t queued_bytes
    uint32_t rto_first_ms
    uint32_t rto_least_ms
    uint32_t rto_most_ms
    uint32_t retries
    uint32_t opening_retries
    uint32_t keep_alive_ms
    uint32_t idle_ms
    uint32_t zero_window_ms
    uint32_t close_wait_ms
    # of the server
    uint32_t max_links
    uint32_t max_half_open
    uint32_t max_expected
    uint32_t refusals_per_s
    uint32_t amplification
    uint64_t busy_bytes

cdef struct expected_t:             # an identification whose SYN is taken
    wheel_node_t timer              # first: when its time is over; not armed once it is
    uint8_t identification[16]      # zeros behind it
    uint64_t cookie                 # the control thread's name for it
    uint32_t open                   # 1 + slot of its open link; the next free one while free
    uint16_t refs                   # links that hold it
    uint8_t bytes
    uint8_t flags

cdef struct flight_t:               # a PDU that is not acknowledged
    gw_buffer_t *buffer             # its SDU; NULL: a NUL
    uint32_t offset
    uint32_t sent_ms                # of the last try
    uint16_t size
    uint16_t sequence
    uint16_t unanswered             # tries since the peer last made progress: these are what is bounded
    uint8_t pdu_flags
    uint8_t flags
    uint8_t tries                   # 255: or more
    uint8_t passed                  # how often a later one was reported while it was not; 255: or more

cdef struct held_t:                 # a PDU that came before one that is missing
    gw_buffer_t *buffer             # NULL: a NUL
    uint16_t sequence
    uint8_t pdu_flags

cdef struct busy_t:                 # what a link holds only while something is under way
    busy_t *next                    # in the pool
    outbox_t queue                  # SDUs, and how much of the first is sent
    uint32_t queued                 # SDUs in it
    uint32_t bytes                  # its share of busy_bytes
    uint8_t *partial                # an SDU of which parts are there: NULL, or max_sdu bytes
    uint32_t partial_bytes
    uint16_t flight_first           # a ring
    uint16_t flight_count
    uint16_t held_count             # nearest first
    flight_t *flight                # `limits.flight` of them
    held_t *held                    # `limits.window` of them

cdef struct cattp_link_t:
    wheel_node_t timer              # first; at the time of the next thing to do, or before it
    uint8_t address[16]             # of the peer, IPv4 as ::ffff:a.b.c.d
    busy_t *busy                    # NULL: nothing is under way
    double smoothed_ms              # round trip
    uint32_t slot
    uint32_t generation
    uint32_t expected               # 1 + slot; the next free link while free
    uint32_t rto_ms
    uint32_t heard_ms               # the peer's last sign of life; SYN-RCVD: bytes that it may still be sent
    uint32_t active_ms              # last SDU either way
    uint32_t since_ms               # window closed; SYN-RCVD: SYN/ACK sent; CLOSE-WAIT: its end
    uint16_t port                   # of the peer, UDP
    uint16_t remote_port            # of the peer, CAT_TP
    uint16_t first                  # our first number
    uint16_t acknowledged           # SND_UNA
    uint16_t next                   # SND_NXT
    uint16_t window                 # SND_WIN
    uint16_t from_sequence          # of the PDU that the window is from
    uint16_t from_acknowledgement
    uint16_t current                # RCV_CUR
    uint16_t max_pdu                # the peer's
    uint16_t max_sdu
    uint8_t state
    uint8_t flags
    uint8_t cause                   # with CATTP_CLOSING
    uint8_t farewell                # reason, with CATTP_FAREWELL
    uint8_t opening_tries           # 255: or more

cdef struct cattp_slots_t:          # open addressing: 1 + slot, or 0
    uint32_t *rows
    uint32_t capacity
    uint32_t count

cdef struct cattp_event_t:
    uint16_t kind
    uint8_t cause
    uint8_t reason
    uint32_t count                  # delivered, undelivered; largest PDU << 16 | largest SDU
    uint64_t link
    uint64_t cookie
    # the SDU follows

cdef struct cattp_command_t:
    uint16_t kind
    uint8_t bytes                   # of the identification
    uint8_t reason
    uint32_t ms
    uint64_t link
    uint64_t cookie
    uint8_t identification[16]
    # the SDU follows

cdef struct cattp_t:
    # shared with the control thread
    gw_ring_t up                    # events
    gw_ring_t down                  # commands
    uint64_t step_bytes             # room in `up` that the events of any one step fit in
    uint64_t counters[CC_COUNT]     # written here, read anywhere (relaxed)
    uint64_t closed[CATTP_CAUSES_COUNT]
    # this thread's own
    cattp_limits_t limits
    uint16_t local_port             # CAT_TP
    int fd                          # -1: what goes out is captured
    int epoll
    int behind                      # datagrams were left in the kernel in this turn, for there was no room in `up`
    int stopping
    uint32_t now                    # ms, wraps
    uint64_t start_ms               # monotonic time at which `now` was 0
    wheel_t wheel
    uint64_t seed                   # of the tables
    uint64_t random                 # of first numbers
    int32_t fixed_first             # -1, or every link's first number
    double refusal_tokens
    uint32_t refusal_ms
    gw_udp_in_t *arriving
    gw_udp_out_t *leaving
    cattp_link_t **link_chunks
    uint32_t links_made             # slots ever used
    uint32_t link_free              # 1 + slot
    cattp_slots_t link_table
    expected_t **expected_chunks
    uint32_t expected_made
    uint32_t expected_free          # 1 + slot
    cattp_slots_t expected_table
    outbox_pool_t nodes
    busy_t *busy_pool
    uint32_t busy_spare             # in the pool
    uint8_t *captured               # while fd is -1: records of what goes out
    uint64_t captured_bytes
    uint64_t captured_room
