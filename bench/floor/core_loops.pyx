"""The core's timing wheel and token index, driven in a native loop as the reactor drives them; no part of a gateway.

Both are timed from outside: each call does all its work without the GIL and returns what shows that it was done.
"""
cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from gateway._native.token_index cimport (
    TOKEN_BYTES, token_index_bytes, token_index_find, token_index_find_many, token_index_free, token_index_init,
    token_index_put, token_index_t)
from gateway._native.wheel cimport wheel_arm, wheel_cancel, wheel_init, wheel_node_t, wheel_t


cdef inline uint64_t mixed(uint64_t x) noexcept nogil:
    """A number's well-spread image (the finalizer of SplitMix64): random enough for keys and ticks, and repeatable."""
    x += 0x9E3779B97F4A7C15ULL
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL
    return x ^ (x >> 31)


cdef inline void token_of(uint64_t number, uint8_t *token) noexcept nogil:
    (<uint64_t *>token)[0] = mixed(number)
    (<uint64_t *>token)[1] = mixed(~number)


@cython.final
cdef class Timers:
    """A wheel with `armed` timers spread over the next `span` ticks."""
    cdef wheel_t wheel
    cdef wheel_node_t *nodes
    cdef uint32_t span

    def __cinit__(self, size_t armed, uint32_t span):
        cdef size_t i
        wheel_init(&self.wheel, 0)
        self.span = span
        self.nodes = <wheel_node_t *>calloc(armed + 1, sizeof(wheel_node_t))
        if self.nodes == NULL:
            raise MemoryError("no room for the timers")
        for i in range(armed):
            wheel_arm(&self.wheel, &self.nodes[i + 1], 1 + mixed(i) % span)

    def __dealloc__(self):
        free(self.nodes)

    def __len__(self):
        return self.wheel.armed

    def arm_and_cancel(self, size_t times):
        """One more timer, armed and cancelled so often at random ticks; returns how many are armed after it."""
        cdef size_t i
        cdef wheel_node_t *node = self.nodes
        with nogil:
            for i in range(times):
                wheel_arm(&self.wheel, node, 1 + mixed(i) % self.span)
                wheel_cancel(&self.wheel, node)
        return self.wheel.armed

    def rearm_each(self, size_t armed, size_t times):
        """Random ones of the `armed` are armed anew, as a reactor does with a heartbeat that came; returns how many
        are armed after it."""
        cdef size_t i
        with nogil:
            for i in range(times):
                wheel_arm(&self.wheel, &self.nodes[1 + mixed(i) % armed], 1 + mixed(~i) % self.span)
        return self.wheel.armed


@cython.final
cdef class Tokens:
    """The index with `count` random tokens."""
    cdef token_index_t index
    cdef uint64_t count

    def __cinit__(self, uint64_t count):
        cdef uint64_t i
        cdef uint8_t token[TOKEN_BYTES]
        token_index_init(&self.index)
        self.count = count
        for i in range(count):
            token_of(i, token)
            if token_index_put(&self.index, token, <uint32_t>i) < 0:
                raise MemoryError("no room for the tokens")

    def __dealloc__(self):
        token_index_free(&self.index)

    def __len__(self):
        return self.index.count

    @property
    def memory_bytes(self):
        return token_index_bytes(&self.index)

    def token(self, uint64_t number):
        cdef uint8_t token[TOKEN_BYTES]
        token_of(number, token)
        return token[:TOKEN_BYTES]

    def random_tokens(self, uint64_t count, uint64_t seed):
        """So many of its tokens, packed."""
        packed = bytearray(count * TOKEN_BYTES)
        cdef uint8_t *at = packed
        cdef uint64_t i
        for i in range(count):
            token_of(mixed(seed + i) % self.count, at + i * TOKEN_BYTES)
        return bytes(packed)

    def find_batched(self, bytes tokens, size_t batch):
        """Look all of them up, so many in one call; returns how many were found."""
        cdef const uint8_t *packed = tokens
        cdef size_t n = len(tokens) // TOKEN_BYTES
        cdef size_t done = 0, part, i, found = 0
        cdef int32_t *numbers = <int32_t *>calloc(batch, sizeof(int32_t))
        if numbers == NULL:
            raise MemoryError("no room for the results")
        with nogil:
            while done < n:
                part = min(batch, n - done)
                token_index_find_many(&self.index, packed + done * TOKEN_BYTES, part, numbers)
                for i in range(part):
                    found += numbers[i] >= 0
                done += part
        free(numbers)
        return found

    def find_each(self, bytes tokens):
        """The same one by one."""
        cdef const uint8_t *packed = tokens
        cdef size_t n = len(tokens) // TOKEN_BYTES
        cdef size_t i, found = 0
        with nogil:
            for i in range(n):
                found += token_index_find(&self.index, packed + i * TOKEN_BYTES) >= 0
        return found
