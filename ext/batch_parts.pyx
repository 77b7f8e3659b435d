"""A batch of pushes between nodes: told apart by the partitions of its tokens, and the sequences they got put together
again; never changes the order of those of one partition."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from gateway._native.push_reader cimport gw_reader_t, push_t, read_push

cdef extern from "gw_msgpack.h" nogil:
    int64_t gw_read_array(gw_reader_t *r)
    int64_t gw_read_map(gw_reader_t *r)
    int64_t gw_read_str(gw_reader_t *r, const uint8_t **s)
    int gw_skip(gw_reader_t *r)
    int gw_char64(uint8_t c)

cdef enum:
    SLOTS = 1024                    # model/cluster.py
    ARRAY32 = 0xDD
    ARRAY32_BYTES = 5

cdef struct piece_t:
    const uint8_t *raw
    uint32_t bytes
    uint16_t partition

cdef struct part_t:
    uint64_t bytes
    uint32_t count
    bint is_plain


cdef enum:
    NONE = -1                       # no token is named
    BROKEN = -2


cdef int slot_of_target(gw_reader_t *r) noexcept nogil:
    """Of the token in a target, by its first two characters; the reader stands behind it."""
    cdef int64_t fields = gw_read_map(r), n, _
    cdef const uint8_t *s
    cdef int slot = NONE, high, low
    for _ in range(fields):
        n = gw_read_str(r, &s)
        if n < 0:
            return BROKEN
        if n != 5 or memcmp(s, b"token", 5):
            if not gw_skip(r):
                return BROKEN
            continue
        n = gw_read_str(r, &s)
        if n < 0:
            return BROKEN
        slot = NONE
        if n >= 2:
            high, low = gw_char64(s[0]), gw_char64(s[1])
            if high >= 0 and low >= 0:
                slot = (high << 6 | low) >> 2
    return slot if fields >= 0 else BROKEN


cdef int slot_of(gw_reader_t r) noexcept nogil:
    """Of the token a push names; negative: it names none, or is no push. Where a name stands more than once the last
    counts, as for whoever decodes it."""
    cdef int64_t fields = gw_read_map(&r), n, _
    cdef const uint8_t *s
    cdef int slot = NONE
    for _ in range(fields):
        n = gw_read_str(&r, &s)
        if n < 0:
            return BROKEN
        if n == 6 and not memcmp(s, b"target", 6):
            slot = slot_of_target(&r)
            if slot == BROKEN:
                return BROKEN
        elif not gw_skip(&r):
            return BROKEN
    return slot


def split(const uint8_t[::1] pushes not None, const uint16_t[::1] partition_of_slot not None, uint32_t otherwise,
          uint32_t most, *, uint32_t push_bytes, uint32_t inline_bytes, uint32_t most_ttl_s):
    """See batch_parts.pyi."""
    cdef gw_reader_t r, ahead
    cdef push_t push
    cdef bint is_plain = False, was_read = False
    cdef const uint8_t *base = &pushes[0] if pushes.shape[0] else NULL
    cdef int64_t count
    cdef uint32_t i, taken
    cdef int slot
    cdef piece_t *pieces
    cdef part_t parts[SLOTS]
    cdef uint16_t order[SLOTS]
    cdef uint32_t partitions = 0, k
    cdef list made
    if partition_of_slot.shape[0] != SLOTS or otherwise >= SLOTS:
        raise ValueError(f"{SLOTS} slots are expected")
    r.p = base
    r.end = base + pushes.shape[0]
    count = gw_read_array(&r)
    if count < 0 or count > r.end - r.p:
        raise ValueError("an array of pushes is expected")
    taken = <uint32_t>min(count, <int64_t>most)
    pieces = <piece_t *>malloc(max(<size_t>1, <size_t>taken) * sizeof(piece_t))
    if pieces == NULL:
        raise MemoryError
    try:
        memset(parts, 0, sizeof(parts))
        for i in range(<uint32_t>count):
            if i < taken:
                ahead = r
                memset(&push, 0, sizeof(push))
                was_read = read_push(&ahead, &push, most_ttl_s)
                is_plain = was_read and push.data_bytes <= inline_bytes and (
                    <uint64_t>push.title_bytes + push.text_bytes + push.data_bytes <= push_bytes)
                slot = (push.token[0] << 2) | (push.token[1] >> 6) if is_plain else slot_of(r)
                pieces[i].partition = <uint16_t>otherwise if slot < 0 else partition_of_slot[slot]
                pieces[i].raw = r.p
                if pieces[i].partition >= SLOTS:
                    raise ValueError("a slot of no partition")
            if was_read:            # to its end
                r = ahead
                was_read = False
            elif not gw_skip(&r):
                raise ValueError(f"pushes[{i}]: this is no msgpack, or it is cut")
            if i < taken:
                k = pieces[i].partition
                pieces[i].bytes = <uint32_t>(r.p - pieces[i].raw)
                if not parts[k].count:
                    order[partitions] = <uint16_t>k
                    partitions += 1
                    parts[k].is_plain = True
                parts[k].count += 1
                parts[k].bytes += pieces[i].bytes
                parts[k].is_plain &= is_plain
        if r.p != r.end:
            raise ValueError("something follows the array")
        made = build_parts(pieces, taken, parts, order, partitions)
    finally:
        free(pieces)
    return made


cdef list build_parts(const piece_t *pieces, uint32_t taken, part_t *parts, const uint16_t *order, uint32_t partitions):
    cdef uint8_t *ends[SLOTS]
    cdef uint32_t *next_place[SLOTS]
    cdef list made = []
    cdef bytes packed, places
    cdef uint8_t *p
    cdef uint32_t i, k, count
    for i in range(partitions):
        k = order[i]
        count = parts[k].count
        packed = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(ARRAY32_BYTES + parts[k].bytes))
        places = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(count * sizeof(uint32_t)))
        p = <uint8_t *>PyBytes_AS_STRING(packed)
        p[0] = ARRAY32
        p[1] = <uint8_t>(count >> 24)
        p[2] = <uint8_t>(count >> 16)
        p[3] = <uint8_t>(count >> 8)
        p[4] = <uint8_t>count
        ends[k] = p + ARRAY32_BYTES
        next_place[k] = <uint32_t *>PyBytes_AS_STRING(places)
        made.append((k, count, packed, places, parts[k].is_plain != 0))
    for i in range(taken):
        k = pieces[i].partition
        memcpy(ends[k], pieces[i].raw, pieces[i].bytes)
        ends[k] += pieces[i].bytes
        next_place[k][0] = i
        next_place[k] += 1
    return made


def scatter(uint64_t[::1] seqs not None, bytes places not None, uint64_t first):
    """See batch_parts.pyi."""
    cdef const uint32_t *place = <const uint32_t *>PyBytes_AS_STRING(places)
    cdef Py_ssize_t i, n = len(places) // <Py_ssize_t>sizeof(uint32_t)
    for i in range(n):
        if place[i] >= <size_t>seqs.shape[0]:
            raise IndexError("a place behind the end of the batch")
    for i in range(n):
        seqs[place[i]] = first + <uint64_t>i
