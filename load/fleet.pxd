"""A thread's devices and what they count; the publisher reads tokens and numbers from it."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from gateway._load.histogram cimport histogram_t

cdef enum:
    ID_BYTES = 24
    SECRET_BYTES = 26
    TOKEN_BYTES = 16
    DEVICES_A_CHUNK = 16384
    CHUNKS_MAX = 1024

cdef enum:                          # state of a device
    DEVICE_AWAY = 0                 # not connected, on purpose
    DEVICE_CONNECTING = 1
    DEVICE_LOGIN = 2
    DEVICE_LIVE = 3
    DEVICE_LOST = 4                 # the server ended it, or refused it

cdef struct device_t:
    int fd
    uint8_t state
    uint8_t id_bytes
    uint8_t secret_bytes
    uint32_t began_us               # of the login, low 32 bits
    uint32_t ping_us                # of the PING under way, 0: none
    uint32_t partial_size
    uint8_t *partial                # bytes of an incomplete frame
    uint64_t last_id                # of the last notification
    uint8_t id[24]
    uint8_t secret[26]
    uint8_t token[16]

cdef struct late_t:                 # an ack that waits
    uint64_t due_us
    uint64_t id
    uint32_t index
    int fd

cdef struct fleet_t:
    # set by the control thread, read here
    uint32_t target                 # devices that shall exist
    uint64_t reconnect              # rises: all that are away or lost come back
    uint32_t to_drop
    int drop_hard
    double rate                     # logins a second; 0: as fast as it goes
    uint32_t at_once
    int stop
    uint64_t reset                  # rises: delivery and heartbeat histograms begin anew
    # read by the control thread
    uint64_t online, away, lost, connected, failed, dropped
    uint64_t notified, acked, duplicates, heartbeats, bytes_in
    uint64_t last_notified_ns
    uint64_t reasons[64]            # ends, by the number of ERROR or GOAWAY; 0: without a word
    int32_t last_errno
    uint64_t resets_done
    # its own
    device_t *chunks[1024]
    uint32_t size                   # devices made
    uint32_t under_way
    uint64_t reconnect_done
    uint32_t scanned                # devices looked at in this round of reconnections
    double allowance
    uint64_t allowance_us
    uint64_t beat                   # devices whose heartbeat was due so far
    uint64_t start_us
    uint64_t now_us
    uint64_t seed
    int epoll
    uint8_t *buffer
    late_t *late
    uint64_t late_head, late_tail
    histogram_t login
    histogram_t delivery
    histogram_t pong
    # fixed
    uint32_t first                  # number of its first device, and the step between two
    uint32_t step
    uint32_t node_hosts[64]         # gateways, taken in turn
    uint16_t node_ports[64]
    uint32_t nodes
    uint32_t first_source
    uint32_t devices_a_source
    uint32_t heartbeat_ms
    uint32_t versions
    uint8_t app[64]
    uint32_t app_bytes
    int is_mqtt
    int registers
    double ack_share                # 0 … 1
    uint32_t ack_late_ms

cdef class Fleet:
    cdef fleet_t *f
    cdef readonly int index
