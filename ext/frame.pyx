"""Device frame codec of the data plane; gateway.model.frames is its Python twin, held equal by a property test."""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef long frame_parse(const uint8_t *buf, size_t n, uint32_t max_body, frame_t *out) noexcept nogil:
    cdef uint32_t size = 0
    cdef size_t i = 1
    cdef int shift = 0
    if n < 2:
        return FRAME_NEED_MORE
    while True:
        if i == 5:
            return FRAME_MALFORMED      # a length takes at most 4 bytes
        if i == n:
            return FRAME_NEED_MORE
        size |= <uint32_t>(buf[i] & 0x7F) << shift
        shift += 7
        i += 1
        if not buf[i - 1] & 0x80:
            break
    if size > max_body:
        return FRAME_TOO_LARGE
    if n - i < size:
        return FRAME_NEED_MORE
    out.kind = buf[0]
    out.size = size
    out.body = buf + i
    return <long>(i + size)


cdef inline uint64_t big_endian(const uint8_t *p, int n) noexcept nogil:
    cdef uint64_t v = 0
    cdef int i
    for i in range(n):
        v = v << 8 | p[i]
    return v


cdef int ids_parse(const uint8_t *body, uint32_t size, uint64_t *out) noexcept nogil:
    """msgpack array of non-negative integers; signed forms are taken where not negative (some encoders use them)."""
    cdef uint32_t count, at, i
    cdef uint8_t tag
    cdef int width
    cdef uint64_t v
    if size == 0:
        return FRAME_MALFORMED
    tag = body[0]
    at = 1
    if tag & 0xF0 == 0x90:
        count = tag & 0x0F
    elif tag == 0xDC and size >= 3:
        count = <uint32_t>big_endian(body + 1, 2)
        at = 3
    elif tag == 0xDD and size >= 5:
        count = <uint32_t>big_endian(body + 1, 4)
        at = 5
    else:
        return FRAME_MALFORMED
    if count > IDS_MAX:
        return FRAME_MALFORMED
    for i in range(count):
        if at >= size:
            return FRAME_MALFORMED
        tag = body[at]
        at += 1
        if tag < 0x80:
            out[i] = tag
            continue
        if 0xCC <= tag <= 0xCF:
            width = 1 << (tag - 0xCC)
        elif 0xD0 <= tag <= 0xD3:
            width = 1 << (tag - 0xD0)
        else:
            return FRAME_MALFORMED
        if size - at < <uint32_t>width:
            return FRAME_MALFORMED
        v = big_endian(body + at, width)
        if tag >= 0xD0 and body[at] & 0x80:
            return FRAME_MALFORMED      # negative
        out[i] = v
        at += width
    return <int>count if at == size else FRAME_MALFORMED


@cython.final
cdef class FrameScanner:
    """Cuts a byte stream into frames as a reactor does; for tests and benchmarks."""
    cdef bytes kept
    cdef readonly uint32_t max_body

    def __init__(self, max_body: int = 65536) -> None:
        self.kept = b""
        self.max_body = max_body

    def feed(self, data: bytes) -> list:
        """Complete frames as (type, body). ValueError: "malformed" or "too large"."""
        cdef bytes buf = self.kept + data
        cdef const uint8_t *p = <const uint8_t *><const char *>buf
        cdef size_t n = len(buf), at = 0
        cdef frame_t f
        cdef long used
        cdef list frames = []
        while True:
            used = frame_parse(p + at, n - at, self.max_body, &f)
            if used <= 0:
                break
            frames.append((f.kind, f.body[:f.size]))
            at += <size_t>used
        if used == FRAME_MALFORMED:
            raise ValueError("malformed")
        if used == FRAME_TOO_LARGE:
            raise ValueError("too large")
        self.kept = buf[at:]
        return frames


def parse_ids(body: bytes) -> list:
    """Ids of an ACK, WHOLE or SHOWN body; ValueError where it is malformed."""
    cdef uint64_t ids[IDS_MAX]
    cdef int i, n = ids_parse(<const uint8_t *><const char *>body, <uint32_t>len(body), ids)
    if n < 0:
        raise ValueError("malformed")
    return [ids[i] for i in range(n)]
