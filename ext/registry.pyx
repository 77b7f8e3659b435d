"""Registry: which registration a token names, where its device is linked, how far its broadcasts have come; never
reads the store and never decides who may bind what.

Registrations lie in chunks by number and never move. A session lists its registrations as a chain through their rows,
so a device off line costs nothing but its registrations.
"""
cimport cython
from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT32_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset
from gateway._native.token_index cimport (
    TOKEN_BYTES, token_index_bytes, token_index_expect, token_index_find, token_index_free, token_index_hash,
    token_index_init, token_index_insert, token_index_list, token_index_of, token_index_prefetch, token_index_remove,
    token_index_t, token_view,
)

import os


cdef extern from "gw_sessions.h" nogil:
    uint64_t gw_session_link(const gw_session_row_t *row)
    void gw_set_session(gw_session_row_t *row, uint64_t device, uint64_t link)
    void gw_sessions_init(gw_sessions_t *t, uint64_t seed)
    void gw_sessions_free(gw_sessions_t *t)
    gw_session_row_t *gw_sessions_find(const gw_sessions_t *t, uint64_t device)
    void gw_sessions_prefetch(const gw_sessions_t *t, uint64_t device)
    int gw_sessions_reserve(gw_sessions_t *t, uint64_t device)
    gw_session_row_t *gw_sessions_insert(gw_sessions_t *t, uint64_t device)
    int gw_sessions_remove(gw_sessions_t *t, uint64_t device)

cdef extern from *:
    """
    #define gw_prefetch(address) __builtin_prefetch(address)
    """
    void gw_prefetch(const void *address) nogil

cdef enum:
    LIVE = 1            # the row is in use
    BOUND = 2           # to the session of its device
    SIGNED_OUT = 4      # its account is not in use on the device (A5)
    PLACES = 16         # smallest table of chunks
    BATCH = 32          # look-ups whose cache misses overlap
    LOAD_AHEAD = 12     # rows whose places are asked for before they are needed
    VERSIONS_KNOWN = 512    # places for versions met while loading
    VERSION_BYTES = 96      # of a cohort's text
    SEEN_MASK = 0xFFFFF


cdef void registry_init(registry_t *r, uint64_t seed) noexcept nogil:
    token_index_init(&r.tokens)
    gw_sessions_init(&r.sessions, seed)
    r.populations = NULL
    r.groups = 0
    r.group_apps = NULL
    r.group_apps_capacity = 0
    r.hour = 0
    r.chunks = NULL
    r.capacity = 0
    r.top = 0
    r.count = 0
    r.bytes = 0


cdef void registry_free(registry_t *r) noexcept nogil:
    cdef uint32_t i
    token_index_free(&r.tokens)
    gw_sessions_free(&r.sessions)
    for i in range(r.top):
        free(r.chunks[i])
    free(r.chunks)
    free(r.populations)
    free(r.group_apps)
    r.group_apps = NULL
    r.group_apps_capacity = 0
    r.populations = NULL
    r.groups = 0
    r.chunks = NULL
    r.capacity = 0
    r.top = 0
    r.count = 0
    r.bytes = 0


cdef inline registration_t *row_at(const registry_t *r, uint32_t number) noexcept nogil:
    """Row of a number known to be there."""
    return &r.chunks[number // REGISTRY_CHUNK].rows[number % REGISTRY_CHUNK]


cdef registration_t *registry_get(const registry_t *r, uint32_t number) noexcept nogil:
    cdef uint32_t place = number // REGISTRY_CHUNK
    cdef registration_t *row
    if place >= r.top or r.chunks[place] == NULL:
        return NULL
    row = row_at(r, number)
    return row if row.flags & LIVE else NULL


cdef bint resize_places(registry_t *r, uint32_t capacity) noexcept nogil:
    cdef registry_chunk_t **chunks = <registry_chunk_t **>realloc(r.chunks, capacity * sizeof(registry_chunk_t *))
    if chunks == NULL:
        return False
    r.chunks = chunks
    r.bytes += (<uint64_t>capacity - r.capacity) * sizeof(registry_chunk_t *)
    r.capacity = capacity
    return True


cdef registry_chunk_t *make_chunk(registry_t *r, uint32_t place) noexcept nogil:
    """The chunk at this place, allocated where there was none; NULL without memory."""
    cdef registry_chunk_t *chunk
    if place >= r.capacity:
        if not resize_places(r, max(place + 1, r.capacity + (r.capacity >> 1), <uint32_t>PLACES)):
            return NULL
    if place < r.top and r.chunks[place] != NULL:
        return r.chunks[place]
    chunk = <registry_chunk_t *>calloc(1, sizeof(registry_chunk_t))
    if chunk == NULL:
        return NULL
    r.bytes += sizeof(registry_chunk_t)
    while r.top <= place:
        r.chunks[r.top] = NULL
        r.top += 1
    r.chunks[place] = chunk
    return chunk


cdef void drop_chunk(registry_t *r, uint32_t place) noexcept nogil:
    """Give an unused chunk back, and places past the last one."""
    free(r.chunks[place])
    r.bytes -= sizeof(registry_chunk_t)
    r.chunks[place] = NULL
    while r.top > 0 and r.chunks[r.top - 1] == NULL:
        r.top -= 1
    if r.top == 0:
        free(r.chunks)
        r.chunks = NULL
        r.bytes -= r.capacity * sizeof(registry_chunk_t *)
        r.capacity = 0
    elif r.capacity > PLACES and r.top <= r.capacity >> 2:
        resize_places(r, max(<uint32_t>PLACES, r.top << 1))


cdef bint population_grow(registry_t *r, uint32_t group) noexcept nogil:
    """One more registration in the group; False without memory."""
    cdef uint32_t groups
    cdef uint32_t *populations
    if group >= r.groups:
        groups = group + group // 2 + PLACES
        populations = <uint32_t *>realloc(r.populations, groups * sizeof(uint32_t))
        if populations == NULL:
            return False
        memset(populations + r.groups, 0, (groups - r.groups) * sizeof(uint32_t))
        r.bytes += (groups - r.groups) * sizeof(uint32_t)
        r.populations = populations
        r.groups = groups
    r.populations[group] += 1
    return True


cdef int registry_add(registry_t *r, uint32_t number, const uint8_t *token, uint32_t group,
                      uint64_t cursor) noexcept nogil:
    cdef registry_chunk_t *chunk
    cdef registration_t *row
    if registry_get(r, number) != NULL:
        return REGISTRY_NUMBER_TAKEN
    if token_index_find(&r.tokens, token) >= 0:
        return REGISTRY_TOKEN_TAKEN
    chunk = make_chunk(r, number // REGISTRY_CHUNK)
    if chunk == NULL:
        return REGISTRY_NO_MEMORY
    if not token_index_insert(&r.tokens, token, number):
        if chunk.used == 0:
            drop_chunk(r, number // REGISTRY_CHUNK)
        return REGISTRY_NO_MEMORY
    if not population_grow(r, group):
        token_index_remove(&r.tokens, token)
        if chunk.used == 0:
            drop_chunk(r, number // REGISTRY_CHUNK)
        return REGISTRY_NO_MEMORY
    chunk.used += 1
    r.count += 1
    row = &chunk.rows[number % REGISTRY_CHUNK]
    row.group = group
    row.cursor = cursor
    row.flags = LIVE
    return REGISTRY_OK


cdef bint registry_remove(registry_t *r, uint32_t number, const uint8_t *token) noexcept nogil:
    cdef uint32_t place = number // REGISTRY_CHUNK
    cdef registration_t *row = registry_get(r, number)
    if row == NULL or token_index_find(&r.tokens, token) != <int32_t>number:
        return False
    registry_unbind(r, number)
    token_index_remove(&r.tokens, token)
    r.populations[row.group] -= 1
    memset(row, 0, sizeof(registration_t))
    r.count -= 1
    if r.count == 0:
        free(r.populations)
        r.populations = NULL
        r.bytes -= r.groups * sizeof(uint32_t)
        r.groups = 0
    r.chunks[place].used -= 1
    if r.chunks[place].used == 0:
        drop_chunk(r, place)
    return True


cdef inline void note_seen(registry_t *r, uint32_t number, registration_t *row) noexcept nogil:
    cdef uint32_t seen = (r.hour & SEEN_MASK) << REGISTRATION_SEEN_SHIFT
    if r.hour and row.flags & ~<uint32_t>((1 << REGISTRATION_SEEN_SHIFT) - 1) != seen:
        row.flags = row.flags & ((1 << REGISTRATION_SEEN_SHIFT) - 1) | seen
        r.chunks[number // REGISTRY_CHUNK].seen_changed = 1


cdef void unbind_all(registry_t *r, gw_session_row_t *session) noexcept nogil:
    cdef uint32_t number = session.first
    cdef registration_t *row
    while number != REGISTRY_NONE:
        row = row_at(r, number)
        row.flags &= ~<uint32_t>BOUND
        note_seen(r, number, row)
        number = row.next
    session.first = REGISTRY_NONE


cdef int registry_login(registry_t *r, uint64_t device, uint64_t link, uint64_t *previous) noexcept nogil:
    cdef gw_session_row_t *session = gw_sessions_find(&r.sessions, device)
    previous[0] = 0
    if session == NULL:
        if not gw_sessions_reserve(&r.sessions, device):
            return REGISTRY_NO_MEMORY
        session = gw_sessions_insert(&r.sessions, device)
        session.first = REGISTRY_NONE
    elif gw_session_link(session) == link:
        return REGISTRY_OK
    else:
        previous[0] = gw_session_link(session)
        unbind_all(r, session)
    gw_set_session(session, device, link)
    return REGISTRY_OK


cdef void registry_logout(registry_t *r, uint64_t device) noexcept nogil:
    cdef gw_session_row_t *session = gw_sessions_find(&r.sessions, device)
    if session != NULL:
        unbind_all(r, session)
        gw_sessions_remove(&r.sessions, device)


cdef bint registry_bind(registry_t *r, uint32_t number, uint64_t device) noexcept nogil:
    cdef gw_session_row_t *session = gw_sessions_find(&r.sessions, device)
    cdef registration_t *row = registry_get(r, number)
    cdef registration_t *first
    if session == NULL or row == NULL:
        return False
    if row.flags & BOUND and row.device == device:
        return True
    registry_unbind(r, number)
    row.device = device
    row.flags |= BOUND
    note_seen(r, number, row)
    row.next = REGISTRY_NONE
    if session.first == REGISTRY_NONE:
        session.first = number
        row.prev = number
    else:
        first = row_at(r, session.first)
        row.prev = first.prev
        row_at(r, first.prev).next = number
        first.prev = number
    return True


cdef bint registry_unbind(registry_t *r, uint32_t number) noexcept nogil:
    cdef registration_t *row = registry_get(r, number)
    cdef gw_session_row_t *session
    if row == NULL or not row.flags & BOUND:
        return False
    session = gw_sessions_find(&r.sessions, row.device)
    if number == session.first:
        session.first = row.next
    else:
        row_at(r, row.prev).next = row.next
    if row.next != REGISTRY_NONE:
        row_at(r, row.next).prev = row.prev
    elif session.first != REGISTRY_NONE:
        row_at(r, session.first).prev = row.prev
    row.flags &= ~<uint32_t>BOUND
    note_seen(r, number, row)
    return True


cdef const gw_session_row_t *registry_session(const registry_t *r, uint64_t device) noexcept nogil:
    return gw_sessions_find(&r.sessions, device)


cdef void registry_links(const registry_t *r, const uint32_t *numbers, size_t n, uint64_t *links) noexcept nogil:
    cdef registration_t *rows[BATCH]
    cdef size_t done = 0
    cdef size_t batch, i
    cdef uint32_t place
    while done < n:
        batch = min(<size_t>BATCH, n - done)
        for i in range(batch):
            place = numbers[done + i] // REGISTRY_CHUNK
            if place < r.top and r.chunks[place] != NULL:
                gw_prefetch(row_at(r, numbers[done + i]))
        for i in range(batch):
            rows[i] = registry_get(r, numbers[done + i])
            if rows[i] != NULL and rows[i].flags & BOUND:
                gw_sessions_prefetch(&r.sessions, rows[i].device)
            else:
                rows[i] = NULL
        for i in range(batch):
            links[done + i] = 0 if rows[i] == NULL else gw_session_link(gw_sessions_find(&r.sessions, rows[i].device))
        done += batch


cdef uint32_t registry_group_app(const registry_t *r, uint32_t group) noexcept nogil:
    return r.group_apps[group] if group < r.group_apps_capacity else 0


cdef uint64_t registry_bytes(const registry_t *r) noexcept nogil:
    return sizeof(registry_t) - sizeof(token_index_t) + token_index_bytes(&r.tokens) + r.sessions.bytes + r.bytes


cdef inline int check_group(uint32_t group) except -1:
    if group >= <uint32_t>REGISTRY_GROUPS:
        raise ValueError("a group number has 26 bits")
    return 0


cdef inline int check_number(uint32_t number) except -1:
    if number > <uint32_t>INT32_MAX:
        raise ValueError("a registration number has 31 bits")
    return 0


cdef uint32_t *numbers_of(object sequence, Py_ssize_t *n) except NULL:
    """Copy of a sequence of registration numbers; the caller frees it."""
    cdef list items = list(sequence)
    cdef uint32_t *numbers = <uint32_t *>malloc(max(<Py_ssize_t>1, len(items)) * sizeof(uint32_t))
    cdef Py_ssize_t i
    if numbers == NULL:
        raise MemoryError
    try:
        for i in range(len(items)):
            numbers[i] = items[i]
            check_number(numbers[i])
    except BaseException:
        free(numbers)
        raise
    n[0] = len(items)
    return numbers


cdef struct version_t:          # an (app, version) met while loading
    uint32_t app
    uint32_t size               # bytes of the text plus one; 0: the place is free
    long group
    uint8_t text[64]


cdef inline version_t *place_of(version_t *known, const uint8_t *value) noexcept nogil:
    """Where the app and version of this row are remembered, whether they are or others."""
    cdef uint32_t hashed = big_endian(value + 16)
    cdef uint32_t i
    for i in range(22, 22 + <uint32_t>value[21]):
        hashed = hashed * 31 + value[i]
    return &known[(hashed ^ hashed >> 9) % VERSIONS_KNOWN]


cdef inline uint32_t big_endian(const uint8_t *p) noexcept nogil:
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]


cdef const uint8_t *value_of(list rows, Py_ssize_t place, uint32_t *number) except NULL:
    """A row of the store: its number from the key, and the value, whose header is whole (store/records.py)."""
    cdef tuple row = <tuple?>rows[place]
    cdef bytes key = <bytes?>row[0]
    cdef bytes value = <bytes?>row[1]
    cdef const uint8_t *p = value
    if len(key) != 4 or len(value) < 22 or len(value) < 22 + p[21]:
        raise ValueError("the row of a registration is cut")
    if number != NULL:
        number[0] = big_endian(key)
    return p


cdef int load_rows(registry_t *r, list rows, group_of, version_t *known) except -1:
    """Registry.load: what it remembers of versions is the caller's."""
    cdef Py_ssize_t n = len(rows)
    cdef Py_ssize_t place
    cdef const uint8_t *value
    cdef version_t *version
    cdef registration_t *row
    cdef bytes held
    cdef uint32_t number
    cdef int result
    cdef long group
    for place in range(n):
        if place + LOAD_AHEAD < n:
            token_index_prefetch(&r.tokens, value_of(rows, place + LOAD_AHEAD, NULL))
        value = value_of(rows, place, &number)
        version = place_of(known, value)
        if version.app == big_endian(value + 16) and version.size == <uint32_t>(value[21] + 1) and (
                memcmp(version.text, value + 22, value[21]) == 0):
            group = version.group
        else:
            held = <bytes>rows[place][1]
            group = group_of(big_endian(value + 16), held[22:22 + value[21]])
            if group >= 0:
                check_group(<uint32_t>group)
            if value[21] <= VERSION_BYTES:
                version.app = big_endian(value + 16)
                version.size = value[21] + 1
                version.group = group
                memcpy(version.text, value + 22, value[21])
        if group < 0:
            continue
        check_number(number)
        result = registry_add(r, number, value, <uint32_t>group, 0)
        if result == REGISTRY_NO_MEMORY:
            raise MemoryError
        if result != REGISTRY_OK:
            raise ValueError("the number is taken" if result == REGISTRY_NUMBER_TAKEN else "the token is taken")
        row = row_at(r, number)
        if value[20] & 1:
            row.flags |= SIGNED_OUT
        if value[20] & 2:
            row.flags |= REGISTRATION_PLAIN
        if value[20] & 4:
            row.flags |= REGISTRATION_QUIET
    return 0


@cython.final
cdef class Registry:
    """See registry.pyi; the struct's functions with Python's types and errors."""

    def __cinit__(self):
        self.r = <registry_t *>malloc(sizeof(registry_t))
        if self.r == NULL:
            raise MemoryError
        registry_init(self.r, int.from_bytes(os.urandom(8), "little"))

    def __dealloc__(self):
        if self.r != NULL:
            registry_free(self.r)
            free(self.r)

    def __len__(self):
        return self.r.count

    cdef registration_t *known(self, uint32_t number) except NULL:
        cdef registration_t *row
        check_number(number)
        row = registry_get(self.r, number)
        if row == NULL:
            raise KeyError("no registration of this number")
        return row

    @cython.critical_section
    def add(self, uint32_t number, token, uint32_t group, uint64_t cursor=0):
        cdef Py_buffer view
        cdef int result
        check_number(number)
        check_group(group)
        token_view(token, &view)
        result = registry_add(self.r, number, <const uint8_t *>view.buf, group, cursor)
        PyBuffer_Release(&view)
        if result == REGISTRY_NO_MEMORY:
            raise MemoryError
        if result != REGISTRY_OK:
            raise ValueError("the number is taken" if result == REGISTRY_NUMBER_TAKEN else "the token is taken")

    @cython.critical_section
    def expect(self, uint64_t registrations):
        if self.r.count == 0:
            token_index_expect(&self.r.tokens, registrations)

    @cython.critical_section
    def load(self, list rows, group_of):
        cdef version_t *known = <version_t *>calloc(VERSIONS_KNOWN, sizeof(version_t))
        if known == NULL:
            raise MemoryError
        try:
            load_rows(self.r, rows, group_of, known)
        finally:
            free(known)

    @cython.critical_section
    def remove(self, uint32_t number, token):
        cdef Py_buffer view
        cdef bint there
        check_number(number)
        token_view(token, &view)
        there = registry_remove(self.r, number, <const uint8_t *>view.buf)
        PyBuffer_Release(&view)
        return there

    @cython.critical_section
    def keep_hash(self, uint32_t number, token):
        cdef Py_buffer view
        check_number(number)
        token_view(token, &view)
        try:
            self.known(number).cursor = token_index_hash(<const uint8_t *>view.buf)
        finally:
            PyBuffer_Release(&view)

    @cython.critical_section
    def token(self, uint32_t number):
        cdef const uint8_t *found = token_index_of(&self.r.tokens, self.known(number).cursor, number)
        if found == NULL:
            raise KeyError(number)
        return PyBytes_FromStringAndSize(<const char *>found, TOKEN_BYTES)

    @cython.critical_section
    def has(self, uint32_t number):
        check_number(number)
        return registry_get(self.r, number) != NULL

    @cython.critical_section
    def find(self, token):
        cdef Py_buffer view
        cdef int32_t number
        token_view(token, &view)
        number = token_index_find(&self.r.tokens, <const uint8_t *>view.buf)
        PyBuffer_Release(&view)
        return number

    @cython.critical_section
    def find_many(self, tokens):
        return token_index_list(&self.r.tokens, tokens)

    @cython.critical_section
    def group(self, uint32_t number):
        return self.known(number).group

    @cython.critical_section
    def set_group(self, uint32_t number, uint32_t group):
        cdef registration_t *row = self.known(number)
        check_group(group)
        if not population_grow(self.r, group):
            raise MemoryError
        self.r.populations[row.group] -= 1
        row.group = group

    @cython.critical_section
    def population(self, uint32_t group):
        return self.r.populations[group] if group < self.r.groups else 0

    @cython.critical_section
    def signed_out(self, uint32_t number):
        return self.known(number).flags & SIGNED_OUT != 0

    @cython.critical_section
    def set_signed_out(self, uint32_t number, bint signed_out):
        cdef registration_t *row = self.known(number)
        row.flags = row.flags | SIGNED_OUT if signed_out else row.flags & ~<uint32_t>SIGNED_OUT

    @cython.critical_section
    def set_plain(self, uint32_t number, bint plain):
        cdef registration_t *row = self.known(number)
        row.flags = row.flags | REGISTRATION_PLAIN if plain else row.flags & ~<uint32_t>REGISTRATION_PLAIN

    @cython.critical_section
    def set_quiet(self, uint32_t number, bint quiet):
        cdef registration_t *row = self.known(number)
        row.flags = row.flags | REGISTRATION_QUIET if quiet else row.flags & ~<uint32_t>REGISTRATION_QUIET

    @cython.critical_section
    def set_hour(self, uint32_t hour):
        self.r.hour = hour

    @cython.critical_section
    def seen_hour(self, uint32_t number):
        cdef registration_t *row = self.known(number)
        return self.r.hour if row.flags & BOUND else row.flags >> REGISTRATION_SEEN_SHIFT

    @property
    def seen_pages(self):
        return self.r.top

    @cython.critical_section
    def seen_page(self, uint32_t place):
        cdef registry_chunk_t *chunk = self.r.chunks[place] if place < self.r.top else NULL
        cdef uint8_t *p
        cdef bytes page
        cdef uint32_t i, hour
        if chunk == NULL or not chunk.seen_changed:
            return None
        page = PyBytes_FromStringAndSize(NULL, 4 * REGISTRY_CHUNK)
        p = <uint8_t *>PyBytes_AS_STRING(page)
        for i in range(<uint32_t>REGISTRY_CHUNK):
            hour = chunk.rows[i].flags >> REGISTRATION_SEEN_SHIFT
            p[4 * i] = <uint8_t>(hour >> 24)
            p[4 * i + 1] = <uint8_t>(hour >> 16)
            p[4 * i + 2] = <uint8_t>(hour >> 8)
            p[4 * i + 3] = <uint8_t>hour
        chunk.seen_changed = 0
        return page

    @cython.critical_section
    def seen_again(self, uint32_t place):
        if place < self.r.top and self.r.chunks[place] != NULL:
            self.r.chunks[place].seen_changed = 1

    @cython.critical_section
    def load_seen(self, uint32_t place, bytes page not None):
        cdef const uint8_t *p = page
        cdef registration_t *row
        cdef uint32_t i, hour
        for i in range(min(<uint32_t>(len(page) // 4), <uint32_t>REGISTRY_CHUNK)):
            hour = big_endian(p + 4 * i) & SEEN_MASK
            row = registry_get(self.r, place * REGISTRY_CHUNK + i) if hour else NULL
            if row != NULL:
                row.flags = row.flags & ((1 << REGISTRATION_SEEN_SHIFT) - 1) | hour << REGISTRATION_SEEN_SHIFT

    @cython.critical_section
    def group_runs(self, numbers):
        cdef Py_ssize_t n, i
        cdef uint32_t *asked = numbers_of(numbers, &n)
        cdef registration_t *row
        cdef uint32_t group = 0, run = 0
        cdef list runs = []
        try:
            for i in range(n):
                row = registry_get(self.r, asked[i])
                if row == NULL:
                    continue
                if run and row.group == group:
                    run += 1
                    continue
                if run:
                    runs.append((group, run))
                group = row.group
                run = 1
            if run:
                runs.append((group, run))
        finally:
            free(asked)
        return runs

    @cython.critical_section
    def set_group_app(self, uint32_t group, uint32_t app):
        cdef uint32_t capacity = group + group // 2 + PLACES
        cdef uint32_t *apps
        check_group(group)
        if group >= self.r.group_apps_capacity:
            apps = <uint32_t *>realloc(self.r.group_apps, capacity * sizeof(uint32_t))
            if apps == NULL:
                raise MemoryError
            memset(apps + self.r.group_apps_capacity, 0, (capacity - self.r.group_apps_capacity) * sizeof(uint32_t))
            self.r.bytes += (capacity - self.r.group_apps_capacity) * sizeof(uint32_t)
            self.r.group_apps = apps
            self.r.group_apps_capacity = capacity
        self.r.group_apps[group] = app

    @cython.critical_section
    def cursor(self, uint32_t number):
        return self.known(number).cursor

    @cython.critical_section
    def set_cursor(self, uint32_t number, uint64_t cursor):
        self.known(number).cursor = cursor

    @cython.critical_section
    def load_cursors(self, uint32_t first, bytes page not None):
        cdef const uint8_t *p = page
        cdef registration_t *row
        cdef uint64_t cursor
        cdef uint32_t i
        for i in range(<uint32_t>(len(page) // 8)):
            cursor = <uint64_t>big_endian(p + 8 * i) << 32 | big_endian(p + 8 * i + 4)
            row = registry_get(self.r, first + i) if cursor else NULL
            if row != NULL:
                row.cursor = cursor

    @cython.critical_section
    def advance_many(self, numbers, uint64_t seq, uint64_t floor):
        cdef Py_ssize_t n, i
        cdef uint32_t *asked = numbers_of(numbers, &n)
        cdef registration_t *row
        cdef list below = []
        try:
            for i in range(n):
                row = registry_get(self.r, asked[i])
                if row == NULL:
                    continue
                if row.cursor < floor:
                    below.append(asked[i])
                elif row.cursor < seq:
                    row.cursor = seq
        finally:
            free(asked)
        return below

    @cython.critical_section
    def login(self, uint64_t device, uint64_t link):
        cdef uint64_t previous = 0
        if link == 0:
            raise ValueError("0 is no link")
        if registry_login(self.r, device, link, &previous) != REGISTRY_OK:
            raise MemoryError
        return previous

    @cython.critical_section
    def logout(self, uint64_t device, uint64_t link):
        cdef const gw_session_row_t *session = registry_session(self.r, device)
        cdef list bound
        if session == NULL or gw_session_link(session) != link:
            return []
        bound = self.bound_to(device)
        registry_logout(self.r, device)
        return bound

    @cython.critical_section
    def device_link(self, uint64_t device):
        cdef const gw_session_row_t *session = registry_session(self.r, device)
        return 0 if session == NULL else gw_session_link(session)

    @cython.critical_section
    def device(self, uint32_t number):
        cdef registration_t *row
        check_number(number)
        row = registry_get(self.r, number)
        return row.device if row != NULL and row.flags & BOUND else 0

    @cython.critical_section
    def bind(self, uint32_t number, uint64_t device):
        check_number(number)
        return registry_bind(self.r, number, device)

    @cython.critical_section
    def unbind(self, uint32_t number):
        check_number(number)
        return registry_unbind(self.r, number)

    cdef list bound_to(self, uint64_t device):
        cdef list numbers = []      # first: making it may run the garbage collector
        cdef const gw_session_row_t *session = registry_session(self.r, device)
        cdef uint32_t number = <uint32_t>REGISTRY_NONE if session == NULL else session.first
        while number != REGISTRY_NONE:
            numbers.append(number)
            number = row_at(self.r, number).next
        return numbers

    @cython.critical_section
    def bound(self, uint64_t device):
        return self.bound_to(device)

    @cython.critical_section
    def link(self, uint32_t number):
        cdef uint64_t link = 0
        check_number(number)
        registry_links(self.r, &number, 1, &link)
        return link

    @cython.critical_section
    def links(self, numbers):
        cdef Py_ssize_t n, i
        cdef uint32_t *asked = numbers_of(numbers, &n)
        cdef uint64_t *links = <uint64_t *>malloc(max(<Py_ssize_t>1, n) * sizeof(uint64_t))
        try:
            if links == NULL:
                raise MemoryError
            registry_links(self.r, asked, n, links)
            return [links[i] for i in range(n)]
        finally:
            free(asked)
            free(links)

    @property
    def sessions(self):
        return self.r.sessions.count

    @property
    def memory_bytes(self):
        return registry_bytes(self.r)
