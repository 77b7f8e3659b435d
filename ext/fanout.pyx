"""Fan-out to groups; a million links are served in slices, so that nothing else waits for them."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from gateway._native.group cimport group_t, member_t
from gateway._native.link cimport (
    LINK_FLOOR_SHIFT, LINK_LIVE, inflight_find, inflight_remove, inflight_t, link_t, slab_at)
from gateway._native.outbox cimport gw_buffer_drop
from gateway._native.plane cimport *
from gateway._native.traffic cimport gw_count, has_room, link_send, notify, say

cdef extern from *:
    """
    /* a link takes two cache lines */
    #define gw_prefetch_two(p) (__builtin_prefetch(p), __builtin_prefetch((const char *)(p) + 64))
    """
    void gw_prefetch_two(const void *p) nogil

cdef enum:
    FAN_LINKS_A_TURN = 2048
    AHEAD = 8                       # links asked for before they are needed


cdef void fan_drop(fan_t *fan) noexcept nogil:
    cdef fan_item_t *item
    while fan.first != NULL:
        item = fan.first
        fan.first = item.next
        gw_buffer_drop(item.buffer)
        free(item)
    free(fan)


cdef int fan_same(const fan_t *fan, const uint32_t *groups, uint32_t count) noexcept nogil:
    cdef uint32_t i
    if fan.count != count:
        return 0
    for i in range(count):
        if fan.groups[i] != groups[i]:
            return 0
    return 1


cdef int fan_add(reactor_t *r, const command_t *c, const uint32_t *groups) noexcept nogil:
    """Queue a fan-out; one to the same groups as the last that has not begun joins it, so that a burst makes one pass
    over the links and leaves each in one write. Takes over the command's reference. -1: no memory."""
    cdef fan_t *fan = r.fan_tail
    cdef fan_item_t *item = <fan_item_t *>malloc(sizeof(fan_item_t))
    if item == NULL:
        return -1
    item.buffer = c.buffer
    item.seq = c.seq
    item.ms = c.ms
    item.sent = 0
    item.urgency = c.urgency
    item.next = NULL
    if fan != NULL and not fan.started and fan.items < FAN_ITEMS_MAX and fan_same(fan, groups, c.count):
        fan.last.next = item
        fan.last = item
        fan.items += 1
        return 0
    fan = <fan_t *>malloc(sizeof(fan_t) + c.count * sizeof(uint32_t))
    if fan == NULL:
        free(item)
        return -1
    memset(fan, 0, sizeof(fan_t))
    fan.first = fan.last = item
    fan.items = 1
    fan.position = -1
    fan.count = c.count
    memcpy(fan.groups, groups, c.count * sizeof(uint32_t))
    if r.fan_tail == NULL:
        r.fan_head = fan
    else:
        r.fan_tail.next = fan
    r.fan_tail = fan
    return 0


cdef void fan_to(reactor_t *r, link_t *link, uint32_t registration, const fan_t *fan) noexcept nogil:
    cdef fan_item_t *item = fan.first
    cdef inflight_t *entry
    while item != NULL and link.state == LINK_LIVE:
        if item.ms and item.urgency < link.flags >> LINK_FLOOR_SHIFT:
            pass        # the device wants nothing so low now; it waits by its cursor
        elif item.ms:
            item.sent += <uint32_t>notify(r, link, item.buffer, item.seq, registration, item.ms, 0)
        else:
            entry = inflight_find(link, item.seq, registration, 0)
            if entry != NULL:
                inflight_remove(&r.inflight, &r.wheel, link, entry)
                gw_count(&r.counters[C_INFLIGHT], <uint64_t>-1)
            link_send(r, link, item.buffer)
        item = item.next


cdef void say_fanned(reactor_t *r, fan_t *fan) noexcept nogil:
    """A group is done: how many of its links got each frame; of the last group also where none did."""
    cdef fan_item_t *item = fan.first
    cdef uint64_t group = fan.groups[fan.group_at - 1] if fan.group_at else 0
    while item != NULL:
        if item.ms and (item.sent or fan.group_at == fan.count):
            say(r, EV_FANNED, 0, group, item.seq, item.sent, 0)
            item.sent = 0
        item = item.next


cdef void fan_step(reactor_t *r) noexcept nogil:
    """A slice of the oldest fan-out. Members are walked downwards: one that leaves meanwhile moves a member that was
    served already into its place (served twice at worst, and the in-flight check or the device drops that), never
    one that was not. One that joins meanwhile asks the store what waits for it."""
    cdef fan_t *fan = r.fan_head
    cdef group_t *group
    cdef member_t *member
    cdef link_t *link
    cdef int left = FAN_LINKS_A_TURN
    if fan == NULL:
        return
    fan.started = 1
    while left > 0 and has_room(r):
        if fan.position < 0:
            say_fanned(r, fan)
            if fan.group_at == fan.count:
                r.fan_head = fan.next
                if r.fan_head == NULL:
                    r.fan_tail = NULL
                fan_drop(fan)
                return
            if fan.groups[fan.group_at] < r.groups.size:
                fan.position = <long>r.groups.items[fan.groups[fan.group_at]].size - 1
            fan.group_at += 1
            continue
        group = &r.groups.items[fan.groups[fan.group_at - 1]]
        if fan.position >= <long>group.size:
            fan.position = <long>group.size - 1
            continue
        member = &group.members[fan.position]
        if fan.position >= AHEAD:
            gw_prefetch_two(slab_at(&r.slab, group.members[fan.position - AHEAD].slot))
        fan.position -= 1
        left -= 1
        link = slab_at(&r.slab, member.slot)
        fan_to(r, link, member.registration, fan)
