"""Token → registration number. One owner thread."""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef enum:
    TOKEN_BYTES = 16

cdef extern from "gw_tokens.h" nogil:
    ctypedef struct token_index_t "gw_tokens_t":
        uint64_t count
        uint64_t bytes

cdef void token_index_init(token_index_t *t) noexcept nogil
cdef void token_index_free(token_index_t *t) noexcept nogil
# 1: new, 0: replaced, -1: no memory (nothing has changed). Numbers below 2^31.
cdef int token_index_put(token_index_t *t, const uint8_t *token, uint32_t number) noexcept nogil
# The token must not be there; False without memory.
cdef bint token_index_insert(token_index_t *t, const uint8_t *token, uint32_t number) noexcept nogil
# -1 where there is none.
cdef int32_t token_index_find(const token_index_t *t, const uint8_t *token) noexcept nogil
# What finds a number's token again: 16 bytes need not be kept a second time. NULL where it is not there.
cdef uint64_t token_index_hash(const uint8_t *token) noexcept nogil
cdef const uint8_t *token_index_of(const token_index_t *t, uint64_t hash, uint32_t number) noexcept nogil
cdef void token_index_find_many(const token_index_t *t, const uint8_t *tokens, size_t n,
                                int32_t *numbers) noexcept nogil
cdef void token_index_prefetch(const token_index_t *t, const uint8_t *token) noexcept nogil
# Before the first token: room for so many.
cdef void token_index_expect(token_index_t *t, uint64_t tokens) noexcept nogil
cdef bint token_index_remove(token_index_t *t, const uint8_t *token) noexcept nogil
cdef uint64_t token_index_bytes(const token_index_t *t) noexcept nogil

# What Python passes as one token, or as packed ones: release with PyBuffer_Release. ValueError for another length.
cdef int token_view(object token, Py_buffer *view) except -1
cdef int tokens_view(object tokens, Py_buffer *view) except -1
cdef list token_index_list(const token_index_t *t, object tokens)
