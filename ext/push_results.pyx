"""The results of a batch as a provider gets them: sequences as blocks to be enciphered, and the enciphered blocks as
push ids in one packed array; knows no key."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset

cdef extern from "gw_msgpack.h" nogil:
    uint8_t *gw_write_str(uint8_t *p, const void *s, uint32_t n)
    void gw_build_token(const uint8_t *token, uint8_t *s)

cdef enum:
    BLOCK_BYTES = 16
    TEXT_CHARS = 22                 # base64url of a block without padding
    TEXT_BYTES = 23                 # and as packed text
    HEAD_BYTES = 5                  # most of an array


def build_blocks(const uint64_t[::1] seqs not None):
    """See push_results.pyi."""
    cdef Py_ssize_t i, n = seqs.shape[0]
    cdef bytes made = PyBytes_FromStringAndSize(NULL, n * BLOCK_BYTES)
    cdef uint8_t *p = <uint8_t *>PyBytes_AS_STRING(made)
    cdef uint64_t seq
    cdef int k
    memset(p, 0, <size_t>(n * BLOCK_BYTES))
    for i in range(n):
        seq = seqs[i]
        for k in range(8):
            p[k] = <uint8_t>(seq >> (56 - 8 * k))
        p += BLOCK_BYTES
    return made


def pack_results(const uint64_t[::1] seqs not None, bytes blocks not None, list others not None):
    """See push_results.pyi."""
    cdef Py_ssize_t i, n = seqs.shape[0], size = HEAD_BYTES, at = 0
    cdef uint8_t text[TEXT_CHARS]
    cdef const uint8_t *block = <const uint8_t *>PyBytes_AS_STRING(blocks)
    cdef uint8_t *p
    cdef uint8_t *start
    cdef bytes other, made
    if len(blocks) != n * BLOCK_BYTES or n > <int64_t>0xFFFFFFFF:
        raise ValueError("a block for each sequence is expected")
    for i in range(n):
        if seqs[i]:
            size += TEXT_BYTES
            continue
        if at >= len(others):
            raise ValueError("what has no sequence has a result of its own")
        other = others[at]
        size += len(other)
        at += 1
    if at != len(others):
        raise ValueError("more results than pushes without a sequence")
    made = PyBytes_FromStringAndSize(NULL, size)
    start = p = <uint8_t *>PyBytes_AS_STRING(made)
    if n < 16:
        p[0] = <uint8_t>(0x90 | n)
        p += 1
    elif n < 0x10000:
        p[0], p[1], p[2] = 0xDC, <uint8_t>(n >> 8), <uint8_t>n
        p += 3
    else:
        p[0] = 0xDD
        for i in range(4):
            p[1 + i] = <uint8_t>(n >> (24 - 8 * i))
        p += 5
    at = 0
    for i in range(n):
        if seqs[i]:
            gw_build_token(block, text)
            p = gw_write_str(p, text, TEXT_CHARS)
        else:
            other = others[at]
            memcpy(p, PyBytes_AS_STRING(other), <size_t>len(other))
            p += len(other)
            at += 1
        block += BLOCK_BYTES
    return made[:p - start]
