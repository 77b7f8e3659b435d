"""What a reactor is made of: its struct, and the records it exchanges with the control thread. Declarations only."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from gateway._native.farewell cimport farewell_t
from gateway._native.link cimport groups_t, inflight_pool_t, slab_t
from gateway._native.mailbox cimport gw_ring_t
from gateway._native.outbox cimport gw_buffer_t, outbox_pool_t
from gateway._native.proxy cimport PROXY_FAILURES_COUNT, PROXY_KINDS_COUNT, network_t
from gateway._native.tls_state cimport TLS_FAILED_COUNT, tls_links_t
from gateway._native.wheel cimport wheel_node_t, wheel_t

cdef enum:
    TICK_MS = 10
    SCRATCH_BYTES = 16384       # read at once from one link
    UP_RESERVE = 1048576        # least room in the mailbox to begin a step with (see step_bytes)
    FAN_ITEMS_MAX = 4096        # frames of one pass of a fan-out

cdef enum:                      # kind of a timer node
    TIMER_LINK = 1
    TIMER_ACK = 2
    TIMER_ACCEPT = 3

cdef enum:                      # kinds of listeners
    DOOR_PLAIN = 0
    DOOR_TLS = 1
    DOORS_COUNT = 2
    NETWORKS_MAX = 64           # that may send PROXY headers

cdef enum:                      # events, reactor → control
    EV_FRAME = 1                # a frame only the control thread can answer
    EV_ACK = 2                  # flag: see ACK_SHOWN
    EV_TIMEOUT = 3              # ack time over
    EV_LOST = 4                 # notification not delivered: link gone (flag 0) or spilled (flag 1)
    EV_READY = 5                # room again after CMD_HOLD; registration is how many fit, and what is in flight follows
    EV_DOWN = 6                 # the link is over; flag is the reason
    EV_DRAINED = 7
    EV_ECHO = 10                # every command before CMD_ECHO was carried out
    EV_FANNED = 9               # a fan-out is done with the group in link; registration is how many it was queued for
    EV_LATE = 8                 # an ack for what is no longer in flight: after its ack time, or SHOWN after ACK

cdef enum:                      # flag of EV_ACK and EV_LATE, as in model/ports.py
    ACK_SHOWN = 1
    ACK_WHOLE = 2               # it came light, and is there with its body

cdef enum:                      # commands, control → reactor
    CMD_SEND = 1
    CMD_WELCOME = 2
    CMD_NOTIFY = 3
    CMD_FANOUT = 4
    CMD_BIND = 5
    CMD_UNBIND = 6
    CMD_CANCEL = 7
    CMD_CLOSE = 8
    CMD_SILENCE = 9
    CMD_DRAIN = 10
    CMD_REFUSE = 11
    CMD_STOP = 12
    CMD_FLOOR = 13
    CMD_HOLD = 14
    CMD_ECHO = 15
    CMD_TLS = 16                # new handshakes take the context whose address is in `seq`
    CMD_ELSEWHERE = 17          # logins that are refused get the farewell whose address is in `seq`; 0: the usual words

cdef enum:                      # why a link ended; names in REASONS
    REASON_PEER = 0
    REASON_SOCKET = 1
    REASON_LOGIN_TIMEOUT = 2
    REASON_HEARTBEAT = 3
    REASON_SLOW = 4
    REASON_OVERLOADED = 5
    REASON_MALFORMED = 6
    REASON_TOO_LARGE = 7
    REASON_OUT_OF_ORDER = 8
    REASON_CONTROL = 9
    REASON_DRAIN = 10
    REASON_FULL = 11
    REASON_MEMORY = 12
    REASON_TLS = 13             # handshake or record; which of them is in `tls_failed`
    REASON_PROXY = 14           # its PROXY header; which fault is in `proxy_failed`
    REASONS_COUNT = 15

cdef enum:                      # counters; names in COUNTERS
    C_ACCEPTED = 0
    C_ACCEPT_ERRORS = 1
    C_LINKS = 2                 # gauge
    C_LOGINS = 3
    C_FRAMES_IN = 4
    C_FRAMES_OUT = 5
    C_BYTES_IN = 6
    C_BYTES_OUT = 7
    C_HEARTBEATS = 8
    C_NOTIFIED = 9
    C_ACKS = 10
    C_LATE_ACKS = 11
    C_ACK_TIMEOUTS = 12
    C_SPILLED_WINDOW = 13
    C_SPILLED_OUTBOX = 14
    C_GONE = 15                 # a command met a link that was over
    C_MAILBOX_FULL = 16
    C_STALLED = 17
    C_INFLIGHT = 18             # gauge
    C_TLS_LINKS = 19            # gauge, handshakes under way included
    C_TLS_FULL = 20             # handshakes done
    C_TLS_RESUMED = 21          # of them with a ticket
    C_COUNT = 22

cdef struct event_t:
    uint16_t kind
    uint8_t frame               # frame type
    uint8_t flag
    uint32_t registration
    uint64_t link
    uint64_t seq                # sequence; device with EV_FRAME, EV_DOWN and EV_READY
    uint64_t sent_ms            # Unix ms; device with EV_LATE; with EV_READY how many are in flight
    uint64_t acked_ms

cdef struct command_t:
    uint16_t kind
    uint8_t flag                # again, floor, refuse; is it a provider with CMD_WELCOME
    uint8_t urgency             # of a fan-out
    uint32_t registration
    uint64_t link
    uint64_t seq                # sequence, or device with CMD_WELCOME
    uint32_t ms
    uint32_t count              # groups that follow, group, or window
    gw_buffer_t *buffer         # one reference travels with the command

cdef struct fan_item_t:
    gw_buffer_t *buffer
    uint64_t seq
    uint32_t ms                 # ack time; 0: a recall, cancels instead of arming
    uint32_t sent               # links of the group under way it was queued for
    uint8_t urgency
    fan_item_t *next

cdef struct fan_t:              # one pass over some groups, for one or more frames
    fan_t *next
    fan_item_t *first
    fan_item_t *last
    uint32_t items
    uint32_t group_at
    long position               # next member, downwards; -1: take the next group
    int started
    uint32_t count
    uint32_t groups[1]

cdef struct settings_t:
    uint32_t max_links
    uint32_t window             # most notifications in flight on a link
    uint32_t login_ticks
    uint32_t login_frame_bytes
    uint32_t max_frame_bytes
    uint32_t provider_frame_bytes
    uint32_t outbox_bytes
    uint32_t slow_ticks
    uint32_t linger_ticks
    uint32_t logins_per_s       # 0: no limit

cdef struct listener_t:
    wheel_node_t again          # first: a timer that fires is cast back; tries to accept again
    int fd                      # -1: closed
    int listening               # in the epoll set
    uint8_t door

cdef struct reactor_t:
    # shared with the control thread
    gw_ring_t up                # events
    gw_ring_t down              # commands
    uint64_t up_reserve         # room in `up` that the events of any one step fit in
    uint32_t first              # of a turn's links, to read from
    int behind                  # some links were not read in this turn, for there was no room
    uint64_t counters[C_COUNT]  # written here, read anywhere (relaxed)
    uint64_t ended[REASONS_COUNT]
    uint64_t tls_failed[TLS_FAILED_COUNT]
    uint64_t proxy_failed[PROXY_FAILURES_COUNT]
    uint64_t proxied[PROXY_KINDS_COUNT]     # headers taken
    # this thread's own
    settings_t set
    int epoll
    listener_t listeners[DOORS_COUNT]
    int expects_proxy           # on the plain port
    network_t networks[NETWORKS_MAX]    # who may connect there then
    uint32_t network_count
    tls_links_t tls
    uint32_t shakes             # steps of handshakes in this turn
    uint64_t start_ms           # monotonic
    uint64_t unix_base_ms       # add to monotonic ms
    uint64_t now_ms             # monotonic, once a turn
    uint32_t now                # tick
    wheel_t wheel
    slab_t slab
    groups_t groups
    inflight_pool_t inflight
    outbox_pool_t nodes
    uint32_t dirty              # 1 + first link to flush
    fan_t *fan_head
    fan_t *fan_tail
    gw_buffer_t *pong
    gw_buffer_t *last_words[REASONS_COUNT]
    uint8_t *scratch            # receive buffer of all links
    double login_tokens
    uint64_t login_refill_ms
    int refusing
    int stopping
    farewell_t *drain_words     # what those that are sent away are told
    farewell_t *elsewhere       # what those that are refused for too many logins are told; NULL: last_words
    uint32_t drain_begin        # tick
    uint32_t drain_ticks        # how long it takes
    uint32_t drain_links        # links at its beginning
    uint32_t drained            # of them sent away
    uint32_t drain_at           # next slot
    int draining
