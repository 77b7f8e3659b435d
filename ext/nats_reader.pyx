"""Reads what a NATS server sends (the client protocol's INFO, MSG, HMSG, PING, PONG, +OK, -ERR); must never read past
what came, nor copy a large payload: all but its beginning is received into the object that is handed out.
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy, memmove

cdef enum:
    BUFFER = 32768                  # lines, and the beginnings of payloads
    EVENT = 128                     # bytes of an event beside what it carries, about
    WORDS = 5                       # of a line's arguments

cdef struct words_t:
    const char *at[WORDS]
    Py_ssize_t size[WORDS]
    int count


cdef void split_words(words_t *words, const char *p, const char *end) noexcept nogil:
    """By blanks; `count` is -1 where there are more than a line has."""
    words.count = 0
    while True:
        while p < end and (p[0] == c" " or p[0] == c"\t"):
            p += 1
        if p == end:
            return
        if words.count == WORDS:
            words.count = -1
            return
        words.at[words.count] = p
        while p < end and p[0] != c" " and p[0] != c"\t":
            p += 1
        words.size[words.count] = p - words.at[words.count]
        words.count += 1


cdef int64_t number_of(const words_t *words, int place) noexcept nogil:
    """-1: it is none, or one that no size or subscription has."""
    cdef int64_t number = 0
    cdef Py_ssize_t i
    cdef char c
    if not 0 < words.size[place] <= 15:
        return -1
    for i in range(words.size[place]):
        c = words.at[place][i]
        if not c"0" <= c <= c"9":
            return -1
        number = number * 10 + (c - c"0")
    return number


cdef inline bytes word_of(const words_t *words, int place):
    return words.at[place][:words.size[place]]


@cython.final
cdef class NatsReader:
    """See nats_reader.pyi."""
    cdef char *buffer
    cdef Py_ssize_t filled          # of the buffer
    cdef Py_ssize_t most            # bytes that a message may have
    cdef bint has_begun
    cdef bint is_tailed             # a message's line end is to come
    # the message that is being read
    cdef bytes header
    cdef bytes payload
    cdef bytes into                 # one of the two; None: lines are read
    cdef Py_ssize_t got             # bytes of it
    cdef int64_t sid
    cdef bytes subject
    cdef bytes reply
    cdef list events
    cdef readonly Py_ssize_t waiting_bytes

    def __cinit__(self, Py_ssize_t most):
        self.buffer = <char *>malloc(BUFFER)
        if self.buffer == NULL:
            raise MemoryError
        self.most = most
        self.events = []

    def __dealloc__(self):
        free(self.buffer)

    def __getbuffer__(self, Py_buffer *view, int flags):
        """Where the next bytes go."""
        if self.into is None:
            PyBuffer_FillInfo(view, self, self.buffer + self.filled, BUFFER - self.filled, 0, flags)
        else:
            PyBuffer_FillInfo(view, self, PyBytes_AS_STRING(self.into) + self.got, len(self.into) - self.got, 0, flags)

    def __releasebuffer__(self, Py_buffer *view):
        pass

    def received(self, Py_ssize_t count):
        if count < 0 or count > (BUFFER - self.filled if self.into is None else len(self.into) - self.got):
            raise ValueError("more than there was room for")
        if self.into is None:
            self.filled += count
        else:
            self.got += count
        if self.has_begun:
            self._read()

    @property
    def is_full(self):
        return self.into is None and self.filled == BUFFER

    def take_line(self):
        if self.has_begun:
            raise ValueError("lines are read before messages are")
        cdef const char *end = <const char *>memchr(self.buffer, b"\n", <size_t>self.filled)
        if end == NULL:
            if self.filled == BUFFER:
                raise ValueError("a line without an end")
            return None
        cdef bytes line = self.buffer[:end + 1 - self.buffer]
        self._drop(len(line))
        return line

    def begin(self):
        if not self.has_begun:
            self.has_begun = True
            self._read()

    def take(self):
        cdef list events = self.events
        self.events = []
        self.waiting_bytes = 0
        return events

    cdef void _drop(self, Py_ssize_t count) noexcept:
        """From the buffer's beginning."""
        self.filled -= count
        if self.filled and count:
            memmove(self.buffer, self.buffer + count, <size_t>self.filled)

    cdef int _read(self) except -1:
        """All that is whole becomes events; what is left is a line's beginning, or a payload is received."""
        cdef Py_ssize_t at = 0, room, size
        cdef const char *end
        while True:
            if self.into is not None:
                room = min(len(self.into) - self.got, self.filled - at)
                if room:
                    memcpy(PyBytes_AS_STRING(self.into) + self.got, self.buffer + at, <size_t>room)
                    self.got += room
                    at += room
                if self.got < len(self.into):
                    self.filled = 0         # all of it was taken
                    return 0
                self._next_part()
                continue
            if self.is_tailed:
                if self.filled - at < 2:
                    break
                if memcmp(self.buffer + at, b"\r\n", 2):
                    raise ValueError("a message is longer than it said")
                self.is_tailed = False
                at += 2
            end = <const char *>memchr(self.buffer + at, b"\n", <size_t>(self.filled - at))
            if end == NULL:
                if self.filled - at == BUFFER:
                    raise ValueError("a line without an end")
                break
            size = end - (self.buffer + at)
            if size and end[-1] == c"\r":
                size -= 1
            self._read_line(self.buffer + at, size)
            at = end + 1 - self.buffer
        self._drop(at)
        return 0

    cdef int _read_line(self, const char *line, Py_ssize_t size) except -1:
        cdef words_t words
        cdef bytes name
        if size >= 4 and not memcmp(line, b"MSG ", 4):
            split_words(&words, line + 4, line + size)
            return self._begin_message(&words, False)
        if size >= 5 and not memcmp(line, b"HMSG ", 5):
            split_words(&words, line + 5, line + size)
            return self._begin_message(&words, True)
        self.waiting_bytes += EVENT
        for name in (b"PING", b"PONG", b"+OK"):
            if line[:size].rstrip() == name:
                self.events.append((name,))
                return 0
        for name in (b"INFO", b"-ERR"):
            if size > 5 and line[:5] == name + b" ":
                self.events.append((name, line[5:size].strip()))
                self.waiting_bytes += size
                return 0
        raise ValueError("a line of an unknown kind")

    cdef int _begin_message(self, const words_t *words, bint has_header) except -1:
        cdef int last = words.count - 1, sizes = 2 if has_header else 1
        cdef int64_t header = 0, total
        if words.count not in (2 + sizes, 3 + sizes):
            raise ValueError("a message's line has other words")
        self.sid = number_of(words, 1)
        total = number_of(words, last)
        if has_header:
            header = number_of(words, last - 1)
        if self.sid < 0 or header < 0 or total < header:
            raise ValueError("a message's line has no number where one belongs")
        if total > self.most:
            raise ValueError("a message is larger than it may be")
        self.subject = word_of(words, 0)
        self.reply = word_of(words, 2) if words.count == 3 + sizes else b""
        self.header = PyBytes_FromStringAndSize(NULL, header) if header else None
        self.payload = PyBytes_FromStringAndSize(NULL, total - header)
        self.into = self.payload if self.header is None else self.header
        self.got = 0
        return 0

    cdef void _next_part(self) noexcept:
        """What was received into is whole."""
        self.got = 0
        if self.into is self.header:
            self.into = self.payload
            return
        self.events.append((b"MSG", self.sid, self.subject, self.reply, self.payload, self.header))
        self.waiting_bytes += EVENT + len(self.payload) + (len(self.header) if self.header is not None else 0)
        self.into = self.payload = self.header = None
        self.is_tailed = True
