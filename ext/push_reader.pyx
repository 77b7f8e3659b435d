"""Reads a directed push without copying anything of it; must never go past its end, and takes for plain only what
`delivery/request.py` would take as the same push."""
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp

cdef extern from "gw_msgpack.h" nogil:
    int64_t gw_read_map(gw_reader_t *r)
    int64_t gw_read_str(gw_reader_t *r, const uint8_t **s)
    int64_t gw_read_uint(gw_reader_t *r)
    int64_t gw_utf8_chars(const uint8_t *s, int64_t n)
    int gw_skip_json(gw_reader_t *r, int depth)
    int gw_parse_token(const uint8_t *s, uint8_t *token)

cdef enum:
    TOKEN_CHARS = 22
    TITLE_CHARS = 4096              # the bounds of delivery/request.py
    TEXT_CHARS = 16384
    DATA_DEPTH = 64                 # model/notification.py


cdef inline bint is_key(const uint8_t *key, int64_t n, const char *name, int64_t size) noexcept nogil:
    return n == size and memcmp(key, name, <size_t>size) == 0


cdef int urgency_of(const uint8_t *s, int64_t n) noexcept nogil:
    """RFC 8030 §5.3; -1: none of them."""
    if is_key(s, n, b"normal", 6):
        return 2
    if is_key(s, n, b"high", 4):
        return 3
    if is_key(s, n, b"low", 3):
        return 1
    if is_key(s, n, b"very-low", 8):
        return 0
    return -1


cdef bint read_text(gw_reader_t *r, const uint8_t **s, uint32_t *size, int64_t most) noexcept nogil:
    cdef int64_t n = gw_read_str(r, s)
    cdef int64_t chars = -1 if n < 0 else gw_utf8_chars(s[0], n)
    size[0] = <uint32_t>max(n, 0)
    return 0 <= chars <= most


cdef bint read_push(gw_reader_t *r, push_t *push, int64_t most_ttl) noexcept nogil:
    cdef int64_t fields = gw_read_map(r)
    cdef int64_t n, _
    cdef const uint8_t *key
    cdef const uint8_t *s
    cdef uint32_t met = 0, field
    for _ in range(fields):
        n = gw_read_str(r, &key)
        if is_key(key, n, b"target", 6):
            field = 1
            if gw_read_map(r) != 1:
                return False
            n = gw_read_str(r, &key)
            if not is_key(key, n, b"token", 5):
                return False
            if gw_read_str(r, &s) != TOKEN_CHARS or not gw_parse_token(s, push.token):
                return False
        elif is_key(key, n, b"title", 5):
            field = 2
            if not read_text(r, &push.title, &push.title_bytes, TITLE_CHARS):
                return False
        elif is_key(key, n, b"text", 4):
            field = 4
            if not read_text(r, &push.text, &push.text_bytes, TEXT_CHARS):
                return False
        elif is_key(key, n, b"data", 4):
            field = 8
            push.data = r.p
            if not gw_skip_json(r, DATA_DEPTH):
                return False
            push.data_bytes = <uint32_t>(r.p - push.data)
            if push.data_bytes == 1 and push.data[0] == 0xC0:
                push.data_bytes = 0     # nil is no data
        elif is_key(key, n, b"ttl", 3):
            field = 16
            n = gw_read_uint(r)
            if not 0 < n <= most_ttl:
                return False
            push.ttl_s = <uint32_t>n
        elif is_key(key, n, b"urgency", 7):
            field = 32
            n = gw_read_str(r, &s)
            n = urgency_of(s, n)
            if n < 0:
                return False
            push.urgency = <uint8_t>n
        else:
            return False
        if met & field:
            return False
        met |= field
    return met & 1 != 0
