"""Fan-out group: dense array of members, swap-remove. One owner thread."""
from libc.stdint cimport uint32_t

cdef struct member_t:
    uint32_t slot           # link slot in its reactor's slab
    uint32_t registration

cdef struct group_t:
    member_t *members
    uint32_t size
    uint32_t capacity

cdef void group_init(group_t *g) noexcept nogil
cdef void group_free(group_t *g) noexcept nogil
# Position of the new member, or -1 without memory.
cdef long group_add(group_t *g, uint32_t slot, uint32_t registration) noexcept nogil
# Frees a position; 1: the last member moved into it (its owner must be told), 0: nothing moved.
# Shrinks when a quarter full.
cdef int group_remove(group_t *g, uint32_t position) noexcept nogil
