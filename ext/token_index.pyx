"""Token index: 16-byte token → registration number in at most 32 bytes an entry; never tells a foreign token apart from
an unknown one, for it knows no owners.
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport INT32_MAX, int32_t, uint8_t, uint32_t, uint64_t


cdef extern from "gw_tokens.h" nogil:
    ctypedef struct gw_token_row_t:
        uint32_t number
    void gw_tokens_init(token_index_t *t, uint64_t seed)
    void gw_tokens_free(token_index_t *t)
    gw_token_row_t *gw_tokens_find(const token_index_t *t, const uint8_t *token)
    void gw_tokens_find_many(const token_index_t *t, const uint8_t *tokens, size_t n, int32_t *numbers)
    void gw_tokens_prefetch(const token_index_t *t, const uint8_t *token)
    int gw_tokens_expect(token_index_t *t, uint64_t rows)
    int gw_tokens_reserve(token_index_t *t, const uint8_t *token)
    gw_token_row_t *gw_tokens_insert(token_index_t *t, const uint8_t *token)
    int gw_tokens_remove(token_index_t *t, const uint8_t *token)
    uint64_t gw_token_hash(const uint8_t *token)
    const uint8_t *gw_tokens_of(const token_index_t *t, uint64_t hash, uint32_t number)
    void gw_fill_token_row(gw_token_row_t *row, const uint8_t *token, uint32_t number)


cdef enum:
    LOOKUPS = 512       # results held on the stack between native look-up and list


cdef void token_index_init(token_index_t *t) noexcept nogil:
    gw_tokens_init(t, 0)


cdef void token_index_free(token_index_t *t) noexcept nogil:
    gw_tokens_free(t)


cdef bint token_index_insert(token_index_t *t, const uint8_t *token, uint32_t number) noexcept nogil:
    if not gw_tokens_reserve(t, token):
        return False
    gw_fill_token_row(gw_tokens_insert(t, token), token, number)
    return True


cdef int token_index_put(token_index_t *t, const uint8_t *token, uint32_t number) noexcept nogil:
    cdef gw_token_row_t *row = gw_tokens_find(t, token)
    if row != NULL:
        row.number = number + 1
        return 0
    return 1 if token_index_insert(t, token, number) else -1


cdef int32_t token_index_find(const token_index_t *t, const uint8_t *token) noexcept nogil:
    cdef const gw_token_row_t *row = gw_tokens_find(t, token)
    return -1 if row == NULL else <int32_t>(row.number - 1)


cdef uint64_t token_index_hash(const uint8_t *token) noexcept nogil:
    return gw_token_hash(token)


cdef const uint8_t *token_index_of(const token_index_t *t, uint64_t hash, uint32_t number) noexcept nogil:
    return gw_tokens_of(t, hash, number)


cdef void token_index_find_many(const token_index_t *t, const uint8_t *tokens, size_t n,
                                int32_t *numbers) noexcept nogil:
    gw_tokens_find_many(t, tokens, n, numbers)


cdef void token_index_prefetch(const token_index_t *t, const uint8_t *token) noexcept nogil:
    gw_tokens_prefetch(t, token)


cdef void token_index_expect(token_index_t *t, uint64_t tokens) noexcept nogil:
    gw_tokens_expect(t, tokens)


cdef bint token_index_remove(token_index_t *t, const uint8_t *token) noexcept nogil:
    return gw_tokens_remove(t, token)


cdef uint64_t token_index_bytes(const token_index_t *t) noexcept nogil:
    return sizeof(token_index_t) + t.bytes


cdef int token_view(object token, Py_buffer *view) except -1:
    PyObject_GetBuffer(token, view, PyBUF_SIMPLE)
    if view.len != TOKEN_BYTES:
        PyBuffer_Release(view)
        raise ValueError("a token is 16 bytes")
    return 0


cdef int tokens_view(object tokens, Py_buffer *view) except -1:
    PyObject_GetBuffer(tokens, view, PyBUF_SIMPLE)
    if view.len & (TOKEN_BYTES - 1):
        PyBuffer_Release(view)
        raise ValueError("packed tokens are 16 bytes each")
    return 0


cdef list token_index_list(const token_index_t *t, object tokens):
    cdef Py_buffer view
    cdef int32_t numbers[LOOKUPS]
    cdef Py_ssize_t n, batch, i
    cdef Py_ssize_t done = 0
    cdef list found = []
    tokens_view(tokens, &view)
    try:
        n = view.len // TOKEN_BYTES
        while done < n:
            batch = min(<Py_ssize_t>LOOKUPS, n - done)
            token_index_find_many(t, <const uint8_t *>view.buf + done * TOKEN_BYTES, batch, numbers)
            for i in range(batch):
                found.append(numbers[i])
            done += batch
    finally:
        PyBuffer_Release(&view)
    return found


@cython.final
cdef class TokenIndex:
    """The index by itself, for tests and benchmarks; Registry holds one inside."""
    cdef token_index_t index

    def __cinit__(self):
        token_index_init(&self.index)

    def __dealloc__(self):
        token_index_free(&self.index)

    def __len__(self):
        return self.index.count

    @cython.critical_section
    def put(self, token, uint32_t number):
        cdef Py_buffer view
        cdef int fresh
        if number > <uint32_t>INT32_MAX:
            raise ValueError("a registration number has 31 bits")
        token_view(token, &view)
        fresh = token_index_put(&self.index, <const uint8_t *>view.buf, number)
        PyBuffer_Release(&view)
        if fresh < 0:
            raise MemoryError
        return fresh == 1

    @cython.critical_section
    def find(self, token):
        cdef Py_buffer view
        cdef int32_t number
        token_view(token, &view)
        number = token_index_find(&self.index, <const uint8_t *>view.buf)
        PyBuffer_Release(&view)
        return number

    @cython.critical_section
    def find_many(self, tokens):
        return token_index_list(&self.index, tokens)

    @cython.critical_section
    def remove(self, token):
        cdef Py_buffer view
        cdef bint there
        token_view(token, &view)
        there = token_index_remove(&self.index, <const uint8_t *>view.buf)
        PyBuffer_Release(&view)
        return there

    @property
    def memory_bytes(self):
        return token_index_bytes(&self.index)
