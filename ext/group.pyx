"""Fan-out group: a dense array of members, so that a fan-out is one linear walk; never keeps an order."""
cimport cython
from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

cdef enum:
    GROUP_SMALLEST = 8      # members


cdef bint resize(group_t *g, uint64_t capacity) noexcept nogil:
    cdef member_t *members
    if capacity > UINT32_MAX:
        capacity = UINT32_MAX
    members = <member_t *>realloc(g.members, capacity * sizeof(member_t))
    if members == NULL:
        return False
    g.members = members
    g.capacity = <uint32_t>capacity
    return True


cdef void group_init(group_t *g) noexcept nogil:
    g.members = NULL
    g.size = 0
    g.capacity = 0


cdef void group_free(group_t *g) noexcept nogil:
    free(g.members)
    group_init(g)


cdef long group_add(group_t *g, uint32_t slot, uint32_t registration) noexcept nogil:
    cdef uint64_t capacity = g.capacity
    cdef member_t *member
    if g.size == g.capacity:
        if g.size == UINT32_MAX:
            return -1
        capacity = GROUP_SMALLEST if capacity == 0 else capacity + (capacity >> 1)
        if not resize(g, capacity):
            return -1
    member = &g.members[g.size]
    member.slot = slot
    member.registration = registration
    g.size += 1
    return <long>g.size - 1


cdef int group_remove(group_t *g, uint32_t position) noexcept nogil:
    cdef int moved = 0
    if position >= g.size:
        return 0
    g.size -= 1
    if position != g.size:
        g.members[position] = g.members[g.size]
        moved = 1
    if g.size == 0:
        group_free(g)
    elif g.capacity > GROUP_SMALLEST and g.size <= g.capacity >> 2:
        resize(g, max(<uint32_t>GROUP_SMALLEST, g.size << 1))  # no memory for the smaller one: the larger stays
    return moved


@cython.final
cdef class Group:
    """One group, for tests."""
    cdef group_t group

    def __cinit__(self):
        group_init(&self.group)

    def __dealloc__(self):
        group_free(&self.group)

    def __len__(self):
        return self.group.size

    @cython.critical_section
    def add(self, uint32_t slot, uint32_t registration):
        cdef long position = group_add(&self.group, slot, registration)
        if position < 0:
            raise MemoryError
        return position

    @cython.critical_section
    def remove(self, uint32_t position):
        if position >= self.group.size:
            raise ValueError("no member at this position")
        if group_remove(&self.group, position):
            return self.group.members[position].slot, self.group.members[position].registration
        return None

    @cython.critical_section
    def members(self):
        cdef uint32_t i
        return [(self.group.members[i].slot, self.group.members[i].registration) for i in range(self.group.size)]

    @property
    def memory_bytes(self):
        return sizeof(group_t) + self.group.capacity * sizeof(member_t)
