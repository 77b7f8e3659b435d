"""The CAT_TP server's memory: links, expected identifications, what busy links hold. One owner thread."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from gateway._native.cattp_plane cimport busy_t, cattp_link_t, cattp_t, expected_t

# 0, or -1 without memory
cdef int memory_init(cattp_t *s) noexcept nogil
cdef void memory_free(cattp_t *s) noexcept nogil
# Bytes allocated for links and expected identifications, tables included; of what busy links hold nothing.
cdef uint64_t memory_bytes(const cattp_t *s) noexcept nogil

cdef cattp_link_t *link_at(const cattp_t *s, uint32_t slot) noexcept nogil
cdef uint64_t link_id(const cattp_link_t *link) noexcept nogil
# An open or half-open one, or one in CLOSE-WAIT; NULL: it is over.
cdef cattp_link_t *link_by_id(const cattp_t *s, uint64_t link) noexcept nogil
cdef cattp_link_t *link_find(
    const cattp_t *s, const uint8_t *address, uint16_t port, uint16_t remote_port) noexcept nogil
# A half-open one that is in the table; NULL: no room.
cdef cattp_link_t *link_take(cattp_t *s, const uint8_t *address, uint16_t port, uint16_t remote_port) noexcept nogil
# The caller has cancelled its timer, released its busy_t and let go of what it expects.
cdef void link_give(cattp_t *s, cattp_link_t *link) noexcept nogil

cdef expected_t *expected_at(const cattp_t *s, uint32_t slot) noexcept nogil
# 1 + slot, or 0: nobody expects it.
cdef uint32_t expected_find(const cattp_t *s, const uint8_t *identification, uint8_t size) noexcept nogil
# 0: no room. It must not be there yet.
cdef uint32_t expected_add(
    cattp_t *s, const uint8_t *identification, uint8_t size, uint64_t cookie) noexcept nogil
cdef void expected_forget(cattp_t *s, uint32_t handle) noexcept nogil
# Its time is over.
cdef void expected_lapse(cattp_t *s, expected_t *expected) noexcept nogil
# One link less holds it.
cdef void expected_drop(cattp_t *s, uint32_t handle) noexcept nogil

# The link's busy_t; NULL without memory.
cdef busy_t *busy_of(cattp_t *s, cattp_link_t *link) noexcept nogil
# Whether so many more bytes may be held on behalf of links; if so they are counted as this one's.
cdef int busy_claim(cattp_t *s, busy_t *busy, uint32_t size) noexcept nogil
cdef void busy_unclaim(cattp_t *s, busy_t *busy, uint32_t size) noexcept nogil
# Back into the pool, with all that is in it.
cdef void busy_release(cattp_t *s, cattp_link_t *link) noexcept nogil
