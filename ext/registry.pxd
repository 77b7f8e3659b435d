"""Registrations by number, tokens and device sessions. One owner thread."""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from gateway._native.token_index cimport token_index_t

cdef enum:
    REGISTRY_CHUNK = 1024           # registrations
    REGISTRY_NONE = 0xFFFFFFFF      # ends a chain
    REGISTRY_GROUPS = 0x4000000     # group numbers are dense, and below this

cdef enum:
    REGISTRY_OK = 0
    REGISTRY_NO_MEMORY = -1
    REGISTRY_NUMBER_TAKEN = -2
    REGISTRY_TOKEN_TAKEN = -3

cdef enum:                          # flags of a registration
    REGISTRATION_PLAIN = 8          # it has no fallback chain of its own
    REGISTRATION_QUIET = 16         # it has quiet hours: what comes for it is looked at one by one
    REGISTRATION_SEEN_SHIFT = 12    # upper 20 bits: hour (Unix time / 3600) in which its device was connected last

cdef extern from "gw_sessions.h" nogil:
    ctypedef struct gw_session_row_t:
        uint32_t first
    ctypedef struct gw_sessions_t:
        uint64_t count
        uint64_t bytes

cdef struct registration_t:
    uint64_t device         # key of the session it is bound to
    uint64_t cursor         # last broadcast sequence it has
    uint32_t group
    uint32_t next           # bound to the same session, in order of binding; the last has none
    uint32_t prev           # the first one's is the last
    uint32_t flags

cdef struct registry_chunk_t:
    uint32_t used
    uint32_t seen_changed           # some hour in it was not handed out by seen_page yet
    registration_t rows[1024]

cdef struct registry_t:
    token_index_t tokens
    gw_sessions_t sessions
    registry_chunk_t **chunks       # by number / 1024; NULL where none of them is used
    uint32_t capacity               # places in chunks
    uint32_t top                    # places up to the last chunk
    uint64_t count
    uint64_t bytes                  # requested from malloc for chunks, their places and populations
    uint32_t *populations           # registrations of each group
    uint32_t groups                 # places in populations
    uint32_t *group_apps            # app number of each group, 0: unknown
    uint32_t group_apps_capacity
    uint32_t hour                   # now, Unix time / 3600; 0: not told yet, nothing is noted

cdef void registry_init(registry_t *r, uint64_t seed) noexcept nogil
cdef void registry_free(registry_t *r) noexcept nogil
cdef int registry_add(registry_t *r, uint32_t number, const uint8_t *token, uint32_t group,
                      uint64_t cursor) noexcept nogil
cdef bint registry_remove(registry_t *r, uint32_t number, const uint8_t *token) noexcept nogil
# NULL for an unknown number; good until the number is removed.
cdef registration_t *registry_get(const registry_t *r, uint32_t number) noexcept nogil
# Previous link in *previous, 0 where there was none or it is this one.
cdef int registry_login(registry_t *r, uint64_t device, uint64_t link, uint64_t *previous) noexcept nogil
cdef void registry_logout(registry_t *r, uint64_t device) noexcept nogil
cdef bint registry_bind(registry_t *r, uint32_t number, uint64_t device) noexcept nogil
cdef bint registry_unbind(registry_t *r, uint32_t number) noexcept nogil
# NULL without a session; good until the next login or logout.
cdef const gw_session_row_t *registry_session(const registry_t *r, uint64_t device) noexcept nogil
# Link of each number, 0 where it is unknown or not bound.
cdef void registry_links(const registry_t *r, const uint32_t *numbers, size_t n, uint64_t *links) noexcept nogil
cdef uint64_t registry_bytes(const registry_t *r) noexcept nogil
# Number of the app a group belongs to; 0 where it is unknown.
cdef uint32_t registry_group_app(const registry_t *r, uint32_t group) noexcept nogil

cdef class Registry:
    cdef registry_t *r
    cdef registration_t *known(self, uint32_t number) except NULL
    cdef list bound_to(self, uint64_t device)
