"""Links: a slab of 112-byte structs with generation ids, their in-flight notifications and group memberships.

A link id is 64 bits: reactor (8), slot (24), generation (32). A stale id finds nothing. Owner: the reactor's thread.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from gateway._native.group cimport group_t
from gateway._native.outbox cimport outbox_t
from gateway._native.wheel cimport wheel_node_t, wheel_t

cdef enum:
    LINKS_A_CHUNK = 4096
    CHUNKS_MAX = 4096
    MEMBERSHIPS_MAX = 1024          # registrations on one link

cdef enum:      # state
    LINK_FREE = 0
    LINK_PROXY = 1                  # accepted, a PROXY header comes first
    LINK_SHAKING = 2                # accepted, in the TLS handshake
    LINK_NEW = 3                    # no HELLO yet; up to here the control thread does not know it
    LINK_HELLO = 4                  # HELLO is with the control thread
    LINK_LIVE = 5
    LINK_CLOSING = 6                # last words are leaving; nothing else happens any more

cdef enum:      # flags
    LINK_DIRTY = 1                  # in the list of links to flush
    LINK_STALLED = 2                # socket full, waiting for EPOLLOUT
    LINK_SPILLED = 4                # something waits for room: nothing new may pass it
    LINK_HELD = 8                   # the control thread knows, and sends nothing more: READY when there is room
    LINK_PAUSED = 16                # enough waits for WELCOME; not read from until then
    LINK_PROVIDER = 32              # a provider's stream: larger frames, nothing to ack
    LINK_FLOOR_SHIFT = 6            # upper two bits: below this urgency broadcasts wait (RFC 8030 section 5.3)

cdef struct partial_t:              # bytes of an incomplete frame
    uint32_t size
    uint32_t capacity
    uint8_t data[1]

cdef struct membership_t:
    uint32_t group
    uint32_t position               # in the group
    uint32_t registration

cdef struct inflight_t:             # one unacked notification
    wheel_node_t timer              # first: a timer that fires is cast back
    inflight_t *next
    uint64_t seq
    uint32_t registration
    uint32_t slot
    uint32_t sent_ms                # reactor clock

cdef struct link_t:
    wheel_node_t timer              # login, heartbeat, slow or linger deadline; first, see above
    uint64_t device                 # keyed hash of the device id; next free slot while LINK_FREE
    outbox_t outbox
    inflight_t *inflight            # newest first
    partial_t *partial
    membership_t first              # the only one; the address of all of them where there are more (see membership_at)
    int fd                          # the socket; below -1 a place in the table of TLS links, see secure.pxd
    uint32_t slot
    uint32_t generation
    uint32_t seen                   # tick of the last byte from the device
    uint32_t stalled_at             # tick of the last progress of a stalled outbox
    uint32_t silence                # ticks without a byte after which the device counts as gone
    uint16_t window
    uint16_t inflight_count
    uint16_t memberships
    uint8_t state
    uint8_t flags
    uint32_t next_dirty

cdef struct slab_t:
    link_t *chunks[CHUNKS_MAX]
    uint32_t size                   # slots ever handed out
    uint32_t used
    uint32_t free                   # 1 + first free slot, 0: none
    uint8_t reactor

cdef struct inflight_pool_t:
    inflight_t *free
    void *chunks
    uint64_t entries
    uint64_t used

cdef struct groups_t:
    group_t *items
    uint32_t size

cdef link_t *slab_take(slab_t *s) noexcept nogil
cdef void slab_give(slab_t *s, link_t *link) noexcept nogil
cdef link_t *slab_at(const slab_t *s, uint32_t slot) noexcept nogil
cdef link_t *slab_find(const slab_t *s, uint64_t link_id) noexcept nogil
cdef uint64_t link_id(const slab_t *s, const link_t *link) noexcept nogil
cdef void slab_free(slab_t *s) noexcept nogil

cdef inflight_t *inflight_add(inflight_pool_t *pool, link_t *link, uint64_t seq, uint32_t registration) noexcept nogil
cdef inflight_t *inflight_find(link_t *link, uint64_t seq, uint32_t registration, int any_registration) noexcept nogil
# Unlinks it, cancels its timer and gives it back.
cdef void inflight_remove(inflight_pool_t *pool, wheel_t *wheel, link_t *link, inflight_t *entry) noexcept nogil
cdef void inflight_pool_free(inflight_pool_t *pool) noexcept nogil

cdef membership_t *membership_at(link_t *link, uint32_t i) noexcept nogil
# 0; 1: it was a member already; -1: no memory or too many
cdef int link_join(slab_t *s, groups_t *groups, link_t *link, uint32_t group, uint32_t registration) noexcept nogil
# 1: left; 0: was no member
cdef int link_leave(slab_t *s, groups_t *groups, link_t *link, uint32_t registration) noexcept nogil
cdef void link_leave_all(slab_t *s, groups_t *groups, link_t *link) noexcept nogil
cdef void groups_free(groups_t *groups) noexcept nogil
cdef uint64_t groups_bytes(const groups_t *groups) noexcept nogil
