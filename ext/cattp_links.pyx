"""Links, expected identifications and their tables, and what busy links hold; never touches a socket, sends nothing.

An idle link is a cattp_link_t, the expected_t it came with, and a row in each of two tables: `memory_bytes` divided by
the links is what one takes. Tables have their size from the start, so no look-up ever waits for one to grow; their
pages take no memory before the first row in them. Keys are mixed with a seed that no peer knows.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from gateway._native.cattp_plane cimport (
    CATTP_FREE, CATTP_ID_MOST, CATTP_SYN_RCVD, CATTP_TIMER_EXPECTED, CATTP_TIMER_LINK, CC_BUSY, CC_BUSY_BYTES,
    CC_EXPECTED, CC_LINKS, EXPECTED_FORGOTTEN, EXPECTED_LAPSED, busy_t, cattp_link_t, cattp_slots_t, cattp_t,
    expected_t, flight_t, held_t)
from gateway._native.outbox cimport gw_buffer_drop, outbox_clear, outbox_pool_free
from gateway._native.wheel cimport wheel_cancel

cdef extern from "gw_atomic.h" nogil:
    void gw_count(uint64_t *c, uint64_t n)

cdef extern from "gw_hash.h" nogil:
    uint64_t gw_mix64(uint64_t x)
    uint32_t gw_home(uint64_t hash, uint32_t capacity)

cdef enum:
    CHUNK = 1024                    # links, or expected identifications, allocated at a time
    SPARE_MOST = 4096               # busy_t kept in the pool

ctypedef uint64_t (*hash_of_t)(const cattp_t *s, uint32_t slot) noexcept nogil


# --- tables ----------------------------------------------------------------------------------------------------------

cdef inline uint64_t word_at(const uint8_t *bytes) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, bytes, 8)
    return word


cdef uint64_t hash_16(uint64_t seed, const uint8_t *bytes, uint64_t more) noexcept nogil:
    cdef uint64_t h = gw_mix64(seed ^ more)
    h = gw_mix64(h ^ word_at(bytes))
    return gw_mix64(h + word_at(bytes + 8))


cdef uint64_t hash_of_link(const cattp_t *s, uint32_t slot) noexcept nogil:
    cdef const cattp_link_t *link = link_at(s, slot)
    return hash_16(s.seed, link.address, <uint64_t>link.port << 16 | link.remote_port)


cdef uint64_t hash_of_expected(const cattp_t *s, uint32_t slot) noexcept nogil:
    cdef const expected_t *expected = expected_at(s, slot)
    return hash_16(s.seed, expected.identification, expected.bytes)


cdef int table_init(cattp_slots_t *table, uint32_t most) noexcept nogil:
    """A fifth stays free, so that probes are short and always end."""
    table.capacity = most + most // 4 + 8
    table.rows = <uint32_t *>calloc(table.capacity, sizeof(uint32_t))
    return 0 if table.rows != NULL else -1


cdef void table_add(cattp_slots_t *table, uint64_t hash, uint32_t slot) noexcept nogil:
    cdef uint32_t i = gw_home(hash, table.capacity)
    while table.rows[i]:
        i += 1
        if i == table.capacity:
            i = 0
    table.rows[i] = slot + 1
    table.count += 1


cdef void table_remove(const cattp_t *s, cattp_slots_t *table, hash_of_t hash_of, uint32_t slot) noexcept nogil:
    """Rows behind it move up: there are no tombstones."""
    cdef uint32_t hole = gw_home(hash_of(s, slot), table.capacity)
    cdef uint32_t i, home
    while table.rows[hole] != slot + 1:
        hole += 1
        if hole == table.capacity:
            hole = 0
    i = hole
    while True:
        i += 1
        if i == table.capacity:
            i = 0
        if table.rows[i] == 0:
            break
        home = gw_home(hash_of(s, table.rows[i] - 1), table.capacity)
        # one whose home lies after the hole, up to itself, is where it belongs
        if hole <= i:
            if hole < home <= i:
                continue
        elif hole < home or home <= i:
            continue
        table.rows[hole] = table.rows[i]
        hole = i
    table.rows[hole] = 0
    table.count -= 1


# --- links -----------------------------------------------------------------------------------------------------------

cdef cattp_link_t *link_at(const cattp_t *s, uint32_t slot) noexcept nogil:
    return &s.link_chunks[slot // CHUNK][slot % CHUNK]


cdef uint64_t link_id(const cattp_link_t *link) noexcept nogil:
    return <uint64_t>link.generation << 32 | link.slot


cdef cattp_link_t *link_by_id(const cattp_t *s, uint64_t link) noexcept nogil:
    cdef uint32_t slot = <uint32_t>link
    cdef cattp_link_t *found
    if slot >= s.links_made:
        return NULL
    found = link_at(s, slot)
    if found.generation != <uint32_t>(link >> 32) or found.state == CATTP_FREE:
        return NULL
    return found


cdef cattp_link_t *link_find(
        const cattp_t *s, const uint8_t *address, uint16_t port, uint16_t remote_port) noexcept nogil:
    cdef const cattp_slots_t *table = &s.link_table
    cdef uint64_t hash = hash_16(s.seed, address, <uint64_t>port << 16 | remote_port)
    cdef uint32_t i = gw_home(hash, table.capacity)
    cdef cattp_link_t *link
    while table.rows[i]:
        link = link_at(s, table.rows[i] - 1)
        if link.port == port and link.remote_port == remote_port and memcmp(link.address, address, 16) == 0:
            return link
        i += 1
        if i == table.capacity:
            i = 0
    return NULL


cdef cattp_link_t *link_take(cattp_t *s, const uint8_t *address, uint16_t port, uint16_t remote_port) noexcept nogil:
    cdef cattp_link_t *link
    cdef cattp_link_t *chunk
    cdef uint32_t slot, generation
    if s.link_table.count >= s.limits.max_links:
        return NULL
    if s.link_free:
        slot = s.link_free - 1
        link = link_at(s, slot)
        s.link_free = link.expected
    else:
        slot = s.links_made
        if slot % CHUNK == 0:
            chunk = <cattp_link_t *>calloc(CHUNK, sizeof(cattp_link_t))
            if chunk == NULL:
                return NULL
            s.link_chunks[slot // CHUNK] = chunk
        s.links_made += 1
        link = link_at(s, slot)
    generation = link.generation + 1
    memset(link, 0, sizeof(cattp_link_t))
    link.generation = generation if generation else 1
    link.slot = slot
    link.timer.kind = CATTP_TIMER_LINK
    link.state = CATTP_SYN_RCVD
    memcpy(link.address, address, 16)
    link.port = port
    link.remote_port = remote_port
    table_add(&s.link_table, hash_of_link(s, slot), slot)
    gw_count(&s.counters[CC_LINKS], 1)
    return link


cdef void link_give(cattp_t *s, cattp_link_t *link) noexcept nogil:
    table_remove(s, &s.link_table, hash_of_link, link.slot)
    link.state = CATTP_FREE
    link.expected = s.link_free
    s.link_free = link.slot + 1
    gw_count(&s.counters[CC_LINKS], <uint64_t>-1)


# --- whom one expects ------------------------------------------------------------------------------------------------

cdef expected_t *expected_at(const cattp_t *s, uint32_t slot) noexcept nogil:
    return &s.expected_chunks[slot // CHUNK][slot % CHUNK]


cdef uint32_t expected_find(const cattp_t *s, const uint8_t *identification, uint8_t size) noexcept nogil:
    cdef const cattp_slots_t *table = &s.expected_table
    cdef uint8_t padded[CATTP_ID_MOST]
    cdef expected_t *expected
    cdef uint32_t i
    if size == 0 or size > CATTP_ID_MOST:
        return 0
    memset(padded, 0, CATTP_ID_MOST)
    memcpy(padded, identification, size)
    i = gw_home(hash_16(s.seed, padded, size), table.capacity)
    while table.rows[i]:
        expected = expected_at(s, table.rows[i] - 1)
        if expected.bytes == size and memcmp(expected.identification, padded, CATTP_ID_MOST) == 0:
            return table.rows[i]
        i += 1
        if i == table.capacity:
            i = 0
    return 0


cdef uint32_t expected_add(
        cattp_t *s, const uint8_t *identification, uint8_t size, uint64_t cookie) noexcept nogil:
    cdef expected_t *expected
    cdef expected_t *chunk
    cdef uint32_t slot
    if s.expected_free:
        slot = s.expected_free - 1
        expected = expected_at(s, slot)
        s.expected_free = expected.open
    else:
        slot = s.expected_made
        # those that were forgotten, and live on for their links, are in no table: they take a slot all the same
        if slot >= s.limits.max_expected:
            return 0
        if slot % CHUNK == 0:
            chunk = <expected_t *>calloc(CHUNK, sizeof(expected_t))
            if chunk == NULL:
                return 0
            s.expected_chunks[slot // CHUNK] = chunk
        s.expected_made += 1
        expected = expected_at(s, slot)
    memset(expected, 0, sizeof(expected_t))
    expected.timer.kind = CATTP_TIMER_EXPECTED
    memcpy(expected.identification, identification, size)
    expected.bytes = size
    expected.cookie = cookie
    table_add(&s.expected_table, hash_of_expected(s, slot), slot)
    gw_count(&s.counters[CC_EXPECTED], 1)
    return slot + 1


cdef void expected_give(cattp_t *s, uint32_t handle) noexcept nogil:
    cdef expected_t *expected = expected_at(s, handle - 1)
    wheel_cancel(&s.wheel, &expected.timer)
    expected.open = s.expected_free
    s.expected_free = handle


cdef void leave_table(cattp_t *s, uint32_t handle) noexcept nogil:
    table_remove(s, &s.expected_table, hash_of_expected, handle - 1)
    gw_count(&s.counters[CC_EXPECTED], <uint64_t>-1)


cdef void expected_forget(cattp_t *s, uint32_t handle) noexcept nogil:
    cdef expected_t *expected = expected_at(s, handle - 1)
    leave_table(s, handle)
    expected.flags |= EXPECTED_FORGOTTEN
    wheel_cancel(&s.wheel, &expected.timer)
    if expected.refs == 0:
        expected_give(s, handle)


cdef void expected_lapse(cattp_t *s, expected_t *expected) noexcept nogil:
    cdef uint32_t handle
    expected.flags |= EXPECTED_LAPSED
    if expected.refs == 0:
        handle = expected_find(s, expected.identification, expected.bytes)
        leave_table(s, handle)
        expected_give(s, handle)


cdef void expected_drop(cattp_t *s, uint32_t handle) noexcept nogil:
    cdef expected_t *expected = expected_at(s, handle - 1)
    expected.refs -= 1
    if expected.refs:
        return
    if expected.flags & EXPECTED_FORGOTTEN:
        expected_give(s, handle)
    elif expected.flags & EXPECTED_LAPSED:
        leave_table(s, handle)
        expected_give(s, handle)


# --- what busy links hold --------------------------------------------------------------------------------------------

cdef busy_t *busy_of(cattp_t *s, cattp_link_t *link) noexcept nogil:
    cdef busy_t *busy = link.busy
    cdef flight_t *flight
    cdef held_t *held
    if busy != NULL:
        return busy
    busy = s.busy_pool
    if busy != NULL:
        s.busy_pool = busy.next
        s.busy_spare -= 1
    else:
        busy = <busy_t *>malloc(
            sizeof(busy_t) + s.limits.flight * sizeof(flight_t) + s.limits.window * sizeof(held_t))
        if busy == NULL:
            return NULL
    flight = <flight_t *>(<uint8_t *>busy + sizeof(busy_t))
    held = <held_t *>(flight + s.limits.flight)
    memset(busy, 0, sizeof(busy_t))
    busy.flight = flight
    busy.held = held
    link.busy = busy
    gw_count(&s.counters[CC_BUSY], 1)
    return busy


cdef int busy_claim(cattp_t *s, busy_t *busy, uint32_t size) noexcept nogil:
    if s.counters[CC_BUSY_BYTES] + size > s.limits.busy_bytes:
        return 0
    busy.bytes += size
    gw_count(&s.counters[CC_BUSY_BYTES], size)
    return 1


cdef void busy_unclaim(cattp_t *s, busy_t *busy, uint32_t size) noexcept nogil:
    busy.bytes -= size
    gw_count(&s.counters[CC_BUSY_BYTES], <uint64_t>0 - size)


cdef void busy_release(cattp_t *s, cattp_link_t *link) noexcept nogil:
    cdef busy_t *busy = link.busy
    cdef uint32_t i
    if busy == NULL:
        return
    link.busy = NULL
    outbox_clear(&busy.queue, &s.nodes)
    for i in range(busy.flight_count):
        gw_buffer_drop(busy.flight[(busy.flight_first + i) % s.limits.flight].buffer)
    for i in range(busy.held_count):
        gw_buffer_drop(busy.held[i].buffer)
    free(busy.partial)
    busy_unclaim(s, busy, busy.bytes)
    gw_count(&s.counters[CC_BUSY], <uint64_t>-1)
    if s.busy_spare >= SPARE_MOST:
        free(busy)
        return
    busy.next = s.busy_pool
    s.busy_pool = busy
    s.busy_spare += 1


# --- all of it -------------------------------------------------------------------------------------------------------

cdef int memory_init(cattp_t *s) noexcept nogil:
    s.link_chunks = <cattp_link_t **>calloc(s.limits.max_links // CHUNK + 1, sizeof(cattp_link_t *))
    s.expected_chunks = <expected_t **>calloc(s.limits.max_expected // CHUNK + 1, sizeof(expected_t *))
    if s.link_chunks == NULL or s.expected_chunks == NULL:
        return -1
    if table_init(&s.link_table, s.limits.max_links) != 0:
        return -1
    return table_init(&s.expected_table, s.limits.max_expected)


cdef void memory_free(cattp_t *s) noexcept nogil:
    cdef busy_t *busy
    cdef uint32_t i
    for i in range(s.links_made):
        busy_release(s, link_at(s, i))
    while s.busy_pool != NULL:
        busy = s.busy_pool
        s.busy_pool = busy.next
        free(busy)
    outbox_pool_free(&s.nodes)
    if s.link_chunks != NULL:
        for i in range(s.limits.max_links // CHUNK + 1):
            free(s.link_chunks[i])
    if s.expected_chunks != NULL:
        for i in range(s.limits.max_expected // CHUNK + 1):
            free(s.expected_chunks[i])
    free(s.link_chunks)
    free(s.expected_chunks)
    free(s.link_table.rows)
    free(s.expected_table.rows)


cdef uint64_t memory_bytes(const cattp_t *s) noexcept nogil:
    cdef uint64_t total = (<uint64_t>s.link_table.capacity + s.expected_table.capacity) * sizeof(uint32_t)
    total += <uint64_t>((s.links_made + CHUNK - 1) // CHUNK) * CHUNK * sizeof(cattp_link_t)
    total += <uint64_t>((s.expected_made + CHUNK - 1) // CHUNK) * CHUNK * sizeof(expected_t)
    total += (<uint64_t>(s.limits.max_links // CHUNK) + s.limits.max_expected // CHUNK + 2) * sizeof(void *)
    return total
