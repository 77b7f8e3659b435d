"""Slab of links, pool of in-flight notifications, memberships in groups; never touches a socket."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from gateway._native.group cimport group_add, group_free, group_init, group_remove, group_t, member_t
from gateway._native.wheel cimport wheel_cancel, wheel_t

cdef enum:
    ENTRIES_A_CHUNK = 1023

cdef struct inflight_chunk_t:
    void *next
    inflight_t entries[ENTRIES_A_CHUNK]


cdef link_t *slab_at(const slab_t *s, uint32_t slot) noexcept nogil:
    return &s.chunks[slot // LINKS_A_CHUNK][slot % LINKS_A_CHUNK]


cdef uint64_t link_id(const slab_t *s, const link_t *link) noexcept nogil:
    return <uint64_t>s.reactor << 56 | <uint64_t>link.slot << 32 | link.generation


cdef link_t *slab_find(const slab_t *s, uint64_t link_id) noexcept nogil:
    cdef uint32_t slot = <uint32_t>(link_id >> 32) & 0xFFFFFF
    cdef link_t *link
    if link_id >> 56 != s.reactor or slot >= s.size:
        return NULL
    link = slab_at(s, slot)
    if link.generation != <uint32_t>link_id or link.state == LINK_FREE:
        return NULL
    return link


cdef link_t *slab_take(slab_t *s) noexcept nogil:
    cdef link_t *link
    cdef uint32_t slot
    if s.free:
        link = slab_at(s, s.free - 1)
        s.free = <uint32_t>link.device
    else:
        slot = s.size
        if slot >= <uint32_t>LINKS_A_CHUNK * <uint32_t>CHUNKS_MAX:
            return NULL
        if slot % LINKS_A_CHUNK == 0:
            s.chunks[slot // LINKS_A_CHUNK] = <link_t *>calloc(LINKS_A_CHUNK, sizeof(link_t))
            if s.chunks[slot // LINKS_A_CHUNK] == NULL:
                return NULL
        s.size += 1
        link = slab_at(s, slot)
        link.slot = slot
    link.generation += 1
    if link.generation == 0:
        link.generation = 1
    link.state = LINK_NEW
    link.flags &= LINK_DIRTY        # it may still stand in the list of links to flush
    link.device = 0
    s.used += 1
    return link


cdef void slab_give(slab_t *s, link_t *link) noexcept nogil:
    """The caller has emptied outbox, partial, in-flight list and memberships, and cancelled the timer."""
    link.state = LINK_FREE
    link.fd = -1
    link.device = s.free
    s.free = link.slot + 1
    s.used -= 1


cdef void slab_free(slab_t *s) noexcept nogil:
    cdef uint32_t i
    for i in range(<uint32_t>CHUNKS_MAX):
        free(s.chunks[i])
    memset(s, 0, sizeof(slab_t))


cdef inflight_t *inflight_add(inflight_pool_t *pool, link_t *link, uint64_t seq, uint32_t registration) noexcept nogil:
    cdef inflight_chunk_t *chunk
    cdef inflight_t *entry
    cdef int i
    if pool.free == NULL:
        chunk = <inflight_chunk_t *>malloc(sizeof(inflight_chunk_t))
        if chunk == NULL:
            return NULL
        chunk.next = pool.chunks
        pool.chunks = chunk
        pool.entries += ENTRIES_A_CHUNK
        for i in range(ENTRIES_A_CHUNK):
            chunk.entries[i].next = pool.free
            pool.free = &chunk.entries[i]
    entry = pool.free
    pool.free = entry.next
    pool.used += 1
    memset(entry, 0, sizeof(inflight_t))
    entry.seq = seq
    entry.registration = registration
    entry.slot = link.slot
    entry.next = link.inflight
    link.inflight = entry
    link.inflight_count += 1
    return entry


cdef inflight_t *inflight_find(link_t *link, uint64_t seq, uint32_t registration, int any_registration) noexcept nogil:
    cdef inflight_t *entry = link.inflight
    while entry != NULL:
        if entry.seq == seq and (any_registration or entry.registration == registration):
            return entry
        entry = entry.next
    return NULL


cdef void inflight_remove(inflight_pool_t *pool, wheel_t *wheel, link_t *link, inflight_t *entry) noexcept nogil:
    cdef inflight_t **place = &link.inflight
    while place[0] != entry:
        place = &place[0].next
    place[0] = entry.next
    link.inflight_count -= 1
    wheel_cancel(wheel, &entry.timer)
    entry.next = pool.free
    pool.free = entry
    pool.used -= 1


cdef void inflight_pool_free(inflight_pool_t *pool) noexcept nogil:
    cdef inflight_chunk_t *chunk = <inflight_chunk_t *>pool.chunks
    cdef inflight_chunk_t *after
    while chunk != NULL:
        after = <inflight_chunk_t *>chunk.next
        free(chunk)
        chunk = after
    memset(pool, 0, sizeof(inflight_pool_t))


cdef membership_t *membership_at(link_t *link, uint32_t i) noexcept nogil:
    return &link.first if link.memberships <= 1 else &many(link)[i]


cdef inline membership_t *many(link_t *link) noexcept nogil:
    """Memberships of a link with more than one: their address lies where the only one would."""
    cdef membership_t *members
    memcpy(&members, &link.first, sizeof(members))
    return members


cdef int resize(link_t *link, uint32_t size) noexcept nogil:
    """Place for `size` memberships, those there are kept; -1 without memory (only where it grows)."""
    cdef membership_t *members
    cdef membership_t *before = many(link) if link.memberships > 1 else NULL
    if size <= 1:
        if before != NULL:
            link.first = before[0]
            free(before)
        return 0
    members = <membership_t *>realloc(before, size * sizeof(membership_t))
    if members == NULL:
        return -1
    if before == NULL:
        members[0] = link.first
    memcpy(&link.first, &members, sizeof(members))
    return 0


cdef int link_join(slab_t *s, groups_t *groups, link_t *link, uint32_t group, uint32_t registration) noexcept nogil:
    cdef membership_t *m
    cdef group_t *items
    cdef uint32_t i, size
    cdef long position
    for i in range(link.memberships):
        m = membership_at(link, i)
        if m.registration == registration:
            if m.group == group:
                return 1
            link_leave(s, groups, link, registration)   # its app version changed
            break
    if link.memberships >= MEMBERSHIPS_MAX:
        return -1
    if group >= groups.size:
        size = group + 1 + group // 2
        items = <group_t *>realloc(groups.items, size * sizeof(group_t))
        if items == NULL:
            return -1
        groups.items = items
        for i in range(groups.size, size):
            group_init(&items[i])
        groups.size = size
    position = group_add(&groups.items[group], link.slot, registration)
    if position < 0:
        return -1
    if resize(link, link.memberships + 1u) != 0:
        group_remove(&groups.items[group], <uint32_t>position)     # the last one: nobody moves
        return -1
    link.memberships += 1
    m = membership_at(link, link.memberships - 1u)
    m.group = group
    m.position = <uint32_t>position
    m.registration = registration
    return 0


cdef void membership_drop(slab_t *s, groups_t *groups, link_t *link, uint32_t i) noexcept nogil:
    """Leave the group of membership i; the member that moved into its place is told."""
    cdef membership_t *m = membership_at(link, i)
    cdef membership_t *other
    cdef group_t *group = &groups.items[m.group]
    cdef member_t moved
    cdef link_t *owner
    cdef uint32_t j
    if group_remove(group, m.position):
        moved = group.members[m.position]
        owner = slab_at(s, moved.slot)
        for j in range(owner.memberships):
            other = membership_at(owner, j)
            if other.group == m.group and other.registration == moved.registration:
                other.position = m.position
                break


cdef int link_leave(slab_t *s, groups_t *groups, link_t *link, uint32_t registration) noexcept nogil:
    cdef uint32_t i
    for i in range(link.memberships):
        if membership_at(link, i).registration == registration:
            membership_drop(s, groups, link, i)
            membership_at(link, i)[0] = membership_at(link, link.memberships - 1u)[0]
            resize(link, link.memberships - 1u)
            link.memberships -= 1
            return 1
    return 0


cdef void link_leave_all(slab_t *s, groups_t *groups, link_t *link) noexcept nogil:
    while link.memberships:
        link_leave(s, groups, link, membership_at(link, link.memberships - 1u).registration)


cdef void groups_free(groups_t *groups) noexcept nogil:
    cdef uint32_t i
    for i in range(groups.size):
        group_free(&groups.items[i])
    free(groups.items)
    memset(groups, 0, sizeof(groups_t))


cdef uint64_t groups_bytes(const groups_t *groups) noexcept nogil:
    cdef uint64_t total = groups.size * sizeof(group_t)
    cdef uint32_t i
    for i in range(groups.size):
        total += groups.items[i].capacity * sizeof(member_t)
    return total
