"""Timing wheel: arms, cancels and fires intrusive timers in O(1); never allocates, reads no clock, loses no timer.

A node lies at the level of the highest byte in which its tick differs from now. So every occupied slot of a level lies
ahead of the level's current slot, whatever fires on a lower level fires before anything on a higher one, and an
advance goes from one occupied slot to the next by the bitmaps, however many empty ticks lie between. Only the top
level is a ring, which is where ticks wrap. The current slot of level 0 holds what was armed at or before now.
"""
cimport cython
from cpython.ref cimport PyObject
from libc.stdint cimport UINT32_MAX, int32_t, uint16_t, uint32_t, uint64_t


cdef extern from "gw_bits.h" nogil:
    int gw_next_bit(const uint64_t *bits, unsigned int start)
    int gw_highest_byte(uint32_t difference)


cdef inline void list_init(wheel_node_t *head) noexcept nogil:
    head.next = head
    head.prev = head


cdef inline void list_append(wheel_node_t *head, wheel_node_t *node) noexcept nogil:
    node.prev = head.prev
    node.next = head
    head.prev.next = node
    head.prev = node


cdef inline void place(wheel_t *w, wheel_node_t *node) noexcept nogil:
    cdef int level = gw_highest_byte(node.at ^ w.now)
    cdef uint32_t slot = (node.at >> (8 * level)) & 255
    node.where = <uint16_t>(level << 8 | slot)
    list_append(&w.slots[level][slot], node)
    w.bits[level][slot >> 6] |= <uint64_t>1 << (slot & 63)


cdef inline void clear_bit(wheel_t *w, int level, uint32_t slot) noexcept nogil:
    w.bits[level][slot >> 6] &= ~(<uint64_t>1 << (slot & 63))


cdef inline void unlink(wheel_t *w, wheel_node_t *node) noexcept nogil:
    cdef wheel_node_t *next = node.next
    cdef wheel_node_t *prev = node.prev
    prev.next = next
    next.prev = prev
    node.next = NULL
    node.prev = NULL
    # Both neighbours the same one: it is the list's head, and the list is empty now.
    if next == prev and node.where != WHEEL_DUE:
        if next == &w.slots[node.where >> 8][node.where & 255]:
            clear_bit(w, node.where >> 8, node.where & 255)


cdef void expire(wheel_t *w) noexcept nogil:
    """Move the current slot of level 0 to the end of the due list."""
    cdef uint32_t slot = w.now & 255
    cdef wheel_node_t *head = &w.slots[0][slot]
    cdef wheel_node_t *node = head.next
    if node == head:
        return
    while node != head:
        node.where = WHEEL_DUE
        node = node.next
    head.next.prev = w.due.prev
    w.due.prev.next = head.next
    head.prev.next = &w.due
    w.due.prev = head.prev
    list_init(head)
    clear_bit(w, 0, slot)


cdef void cascade(wheel_t *w, int level, uint32_t slot) noexcept nogil:
    """Time has entered this slot: each of its nodes goes to a lower level."""
    cdef wheel_node_t *head = &w.slots[level][slot]
    cdef wheel_node_t *node = head.next
    cdef wheel_node_t *next
    list_init(head)
    clear_bit(w, level, slot)
    while node != head:
        next = node.next
        place(w, node)
        node = next


cdef inline int next_slot(const wheel_t *w, int *level, uint32_t *tick) noexcept nogil:
    """The first occupied slot ahead of now, its level and the tick it begins at; -1 where there is none."""
    cdef int i, slot
    for i in range(WHEEL_LEVELS - 1):
        slot = gw_next_bit(w.bits[i], ((w.now >> (8 * i)) & 255) + 1)
        if slot >= 0:
            level[0] = i
            tick[0] = (w.now & (UINT32_MAX << (8 * (i + 1)))) | (<uint32_t>slot << (8 * i))
            return slot
    slot = gw_next_bit(w.bits[WHEEL_LEVELS - 1], (w.now >> 24) + 1)
    if slot < 0:
        slot = gw_next_bit(w.bits[WHEEL_LEVELS - 1], 0)
    level[0] = WHEEL_LEVELS - 1
    tick[0] = <uint32_t>slot << 24
    return slot


cdef void wheel_init(wheel_t *w, uint32_t now) noexcept nogil:
    """Links point into the struct itself: it must not move afterwards."""
    cdef int level, slot
    for level in range(WHEEL_LEVELS):
        for slot in range(WHEEL_SLOTS):
            list_init(&w.slots[level][slot])
        for slot in range(4):
            w.bits[level][slot] = 0
    list_init(&w.due)
    w.now = now
    w.armed = 0


cdef void wheel_arm(wheel_t *w, wheel_node_t *node, uint32_t at) noexcept nogil:
    """Arm or re-arm. A tick at or before now counts as now: it fires at the next advance, before what is later."""
    if node.next != NULL:
        unlink(w, node)
    else:
        w.armed += 1
    node.at = w.now if <int32_t>(at - w.now) < 0 else at
    place(w, node)


cdef void wheel_cancel(wheel_t *w, wheel_node_t *node) noexcept nogil:
    """Harmless where the node is not armed."""
    if node.next != NULL:
        unlink(w, node)
        w.armed -= 1


cdef void wheel_advance(wheel_t *w, uint32_t now) noexcept nogil:
    """Move what fires up to and including `now` to the due list, in tick order. Time never goes back."""
    cdef int level = 0
    cdef int slot
    cdef uint32_t tick = 0
    expire(w)
    while <int32_t>(now - w.now) > 0:
        slot = next_slot(w, &level, &tick)
        if slot < 0 or tick - w.now > now - w.now:
            w.now = now
            return
        w.now = tick
        if level > 0:
            cascade(w, level, slot)
        expire(w)


cdef wheel_node_t *wheel_pop(wheel_t *w) noexcept nogil:
    cdef wheel_node_t *node = w.due.next
    if node == &w.due:
        return NULL
    unlink(w, node)
    w.armed -= 1
    return node


cdef uint32_t wheel_next(const wheel_t *w) noexcept nogil:
    cdef int level = 0
    cdef uint32_t tick = 0
    cdef uint32_t slot = w.now & 255
    if w.armed == 0:
        return UINT32_MAX
    if w.due.next != &w.due or (w.bits[0][slot >> 6] >> (slot & 63)) & 1:
        return 0
    next_slot(w, &level, &tick)
    return tick - w.now


cdef struct keyed_node_t:
    wheel_node_t node       # first: a node's address is its struct's
    PyObject *timer         # borrowed: Wheel.timers owns it


@cython.final
@cython.internal
cdef class _Timer:
    """Holds one key's node; its address is fixed for life."""
    cdef keyed_node_t keyed
    cdef object key


@cython.final
cdef class Wheel:
    """Timers by key, for tests and benchmarks."""
    cdef wheel_t wheel
    cdef dict timers        # key → _Timer, armed ones only

    def __cinit__(self, uint32_t now=0):
        wheel_init(&self.wheel, now)
        self.timers = {}

    def __len__(self):
        return self.wheel.armed

    @cython.critical_section
    def arm(self, key, uint32_t at):
        cdef _Timer timer = self.timers.get(key)
        if timer is None:
            timer = _Timer()
            timer.key = int(key)
            timer.keyed.timer = <PyObject *>timer
            self.timers[timer.key] = timer
        wheel_arm(&self.wheel, &timer.keyed.node, at)

    @cython.critical_section
    def cancel(self, key):
        cdef _Timer timer = self.timers.pop(key, None)
        if timer is None:
            return False
        wheel_cancel(&self.wheel, &timer.keyed.node)
        return True

    @cython.critical_section
    def advance(self, uint32_t now):
        cdef list fired = []
        cdef wheel_node_t *node
        cdef object key
        wheel_advance(&self.wheel, now)
        while True:
            node = wheel_pop(&self.wheel)
            if node == NULL:
                return fired
            key = (<_Timer>(<keyed_node_t *>node).timer).key
            fired.append(key)
            del self.timers[key]

    @cython.critical_section
    def next_in(self):
        return None if self.wheel.armed == 0 else wheel_next(&self.wheel)
