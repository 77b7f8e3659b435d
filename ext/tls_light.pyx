"""Connections of TLS 1.3 after their handshake; see tls_light.pxd. Sections are those of RFC 8446."""
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from gateway._native.records cimport (
    ALERT_DECODE, ALERT_INTERNAL, ALERT_UNEXPECTED, RECORD_ALERT, RECORD_BYTES, RECORD_DATA, RECORD_HANDSHAKE,
    RECORD_HEAD_BYTES, RECORD_TAIL_BYTES, keys_are_worn, keys_update, record_open, record_seal, record_size)
from gateway._native.tls_state cimport (
    TLS_BROKEN, TLS_END, TLS_FAILED_MEMORY, TLS_FAILED_RECORD, TLS_SOCKET, TLS_WANT_READ, TLS_WANT_WRITE, chunk_t,
    tls_links_t, tls_t)

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *buf, size_t n, int flags)
    ssize_t send(int fd, const void *data, size_t n, int flags)
    enum: MSG_NOSIGNAL, MSG_DONTWAIT

cdef enum:
    UPDATES_A_READ = 32     # each derives new keys: more in a row is no device, but somebody who wants to cost time


cdef int push(tls_t *t) noexcept nogil:
    """What is unsent goes on; 1: all of it is out."""
    cdef chunk_t *chunk = t.unsent
    cdef ssize_t sent = send(t.fd, chunk.data + chunk.at, chunk.size - chunk.at, MSG_NOSIGNAL | MSG_DONTWAIT)
    if sent < 0:
        return TLS_WANT_WRITE if errno == EAGAIN or errno == EINTR else TLS_SOCKET
    t.moved = 1
    chunk.at += <uint32_t>sent
    return 1 if chunk.at == chunk.size else TLS_WANT_WRITE


cdef long put(tls_t *t, const uint8_t *wire, long size, uint32_t plain) noexcept nogil:
    """Send a sealed record; a rest is kept, for it can not be sealed a second time. Content bytes once it is out."""
    cdef chunk_t *chunk
    cdef ssize_t sent
    if size < 0:
        t.is_over = 1
        t.failure = TLS_FAILED_MEMORY
        return TLS_BROKEN
    sent = send(t.fd, wire, <size_t>size, MSG_NOSIGNAL | MSG_DONTWAIT)
    if sent == size:
        t.moved = 1
        return plain
    if sent < 0:
        if errno != EAGAIN and errno != EINTR:
            t.is_over = 1
            return TLS_SOCKET
        sent = 0
    else:
        t.moved = 1
    chunk = <chunk_t *>malloc(sizeof(chunk_t) + <size_t>(size - sent))
    if chunk == NULL:
        t.is_over = 1
        t.failure = TLS_FAILED_MEMORY
        return TLS_BROKEN
    chunk.size = chunk.capacity = <uint32_t>(size - sent)
    chunk.at = 0
    chunk.plain = plain
    memcpy(chunk.data, wire + sent, <size_t>(size - sent))
    t.unsent = chunk
    return TLS_WANT_WRITE


cdef long put_message(tls_links_t *links, tls_t *t, uint8_t kind, const uint8_t *message, size_t n) noexcept nogil:
    """A short record of the protocol itself; 0 once it is out."""
    cdef uint8_t wire[RECORD_HEAD_BYTES + 5 + RECORD_TAIL_BYTES]
    memcpy(&wire[RECORD_HEAD_BYTES], message, n)
    return put(t, wire, record_seal(&links.ciphers, &t.outgoing, kind, wire, n), 0)


cdef long light_write(tls_links_t *links, tls_t *t, int n) noexcept nogil:
    cdef const uint8_t *update = b"\x18\x00\x00\x01\x00"    # KeyUpdate, update_not_requested
    cdef uint32_t plain
    cdef long result
    if t.unsent != NULL:
        result = push(t)
        if result != 1:
            return result
        plain = t.unsent.plain
        free(t.unsent)
        t.unsent = NULL
        if plain:
            return plain
    if t.owes_update:
        # Section 4.6.3: it is the last record under the old keys, and comes before the next that we send.
        t.owes_update = 0
        result = put_message(links, t, RECORD_HANDSHAKE, update, 5)
        if keys_update(&t.outgoing) != 0:
            t.is_over = 1
            t.failure = TLS_FAILED_MEMORY
            return TLS_BROKEN
        if result != 0:
            return result
    result = record_seal(&links.ciphers, &t.outgoing, RECORD_DATA, links.wire, <size_t>n)
    if keys_are_worn(&t.outgoing):
        t.owes_update = 1
    return put(t, links.wire, result, <uint32_t>n)


cdef int light_finish(tls_links_t *links, tls_t *t) noexcept nogil:
    cdef const uint8_t *notify = b"\x01\x00"      # warning, close_notify (section 6.1)
    cdef long result
    if t.is_over:
        return 1
    if t.unsent != NULL:
        result = push(t)
        if result == TLS_WANT_WRITE:
            return 0
        if result == 1:
            free(t.unsent)
            t.unsent = NULL
        t.is_over = result != 1 or t.notified
        if t.is_over:
            return 1
    t.notified = 1
    result = put_message(links, t, RECORD_ALERT, notify, 2)
    if result == TLS_WANT_WRITE:
        return 0
    t.is_over = 1
    return 1


cdef long broken(tls_links_t *links, tls_t *t, long alert) noexcept nogil:
    """The peer hears why, where there is room for it."""
    cdef uint8_t words[2]
    words[0] = 2        # fatal
    words[1] = <uint8_t>alert
    if not t.is_over and t.unsent == NULL:
        put_message(links, t, RECORD_ALERT, words, 2)
    t.is_over = 1
    t.failure = TLS_FAILED_MEMORY if alert == ALERT_INTERNAL else TLS_FAILED_RECORD
    return TLS_BROKEN


cdef long hold(tls_links_t *links, tls_t *t, const uint8_t *wire, size_t n, long size) noexcept nogil:
    """The beginning of a record waits for its end, or that of a header for its own."""
    cdef size_t capacity = <size_t>size if size else RECORD_HEAD_BYTES
    t.held = <chunk_t *>malloc(sizeof(chunk_t) + capacity)
    if t.held == NULL:
        return broken(links, t, ALERT_INTERNAL)
    t.held.size = <uint32_t>n
    t.held.capacity = <uint32_t>capacity
    memcpy(t.held.data, wire, n)
    return TLS_WANT_READ


cdef long receive(tls_t *t, uint8_t *into, size_t room) noexcept nogil:
    """Bytes, or a result."""
    cdef ssize_t got = recv(t.fd, into, room, MSG_DONTWAIT)
    if got < 0:
        return TLS_WANT_READ if errno == EAGAIN or errno == EINTR else TLS_SOCKET
    if got == 0:
        t.ended = 1
        return TLS_END
    return got


cdef long fill_held(tls_links_t *links, tls_t *t) noexcept nogil:
    """Read what is missing of a record, and no more. Its bytes, in links.wire, once it is whole; or a result."""
    cdef chunk_t *held = t.held
    cdef long got = receive(t, held.data + held.size, held.capacity - held.size)
    cdef long size
    if got <= 0:
        return got
    held.size += <uint32_t>got
    if held.size < held.capacity:
        return TLS_WANT_READ
    size = held.size
    memcpy(links.wire, held.data, held.size)
    free(held)
    t.held = NULL
    if size > RECORD_HEAD_BYTES:
        return size
    size = record_size(links.wire, RECORD_HEAD_BYTES)
    if size < 0:
        return broken(links, t, -size)
    return hold(links, t, links.wire, RECORD_HEAD_BYTES, size)


cdef long message_of(tls_links_t *links, tls_t *t, uint8_t kind, const uint8_t *data, long n) noexcept nogil:
    """An alert or a message after the handshake: 1 go on, TLS_END, TLS_BROKEN."""
    if kind == RECORD_ALERT:
        if n != 2:
            return broken(links, t, ALERT_DECODE)
        if data[1] == 90:       # user_canceled: close_notify follows
            return 1
        t.ended = 1
        if data[1] != 0:
            t.is_over = 1       # section 6.2: nothing more is sent
        return TLS_END
    # KeyUpdate is all that a client may say here: we ask for no certificate after the handshake, and resume by tickets.
    if kind != RECORD_HANDSHAKE or n != 5 or data[0] != 24 or data[1] or data[2] or data[3] != 1 or data[4] > 1:
        return broken(links, t, ALERT_UNEXPECTED)
    if keys_update(&t.incoming) != 0:
        return broken(links, t, ALERT_INTERNAL)
    if data[4]:
        t.owes_update = 1       # many that ask are answered by one (section 4.6.3)
    return 1


cdef long light_read(tls_links_t *links, tls_t *t, uint8_t *into) noexcept nogil:
    """As many whole records as came with one call, their content one behind the other. All their wire bytes together
    are at most those of one full record, so the content is at most RECORD_BYTES."""
    cdef uint8_t *wire = links.wire
    cdef size_t n, at = 0, total = 0
    cdef int updates = 0
    cdef uint8_t kind = 0
    cdef long size, got
    if t.ended:
        return TLS_END
    if t.held != NULL:
        got = fill_held(links, t)
    else:
        got = receive(t, wire, RECORD_HEAD_BYTES + RECORD_BYTES + RECORD_TAIL_BYTES)
    if got <= 0:
        return got
    n = <size_t>got
    while True:
        size = record_size(wire + at, n - at)
        if size < 0:
            return broken(links, t, -size)
        if size == 0 or <size_t>size > n - at:
            break
        got = record_open(
            &links.ciphers, &t.incoming, wire + at, <size_t>size, wire + at + RECORD_HEAD_BYTES, &kind)
        if got < 0:
            return broken(links, t, -got)
        if kind == RECORD_DATA:
            memcpy(into + total, wire + at + RECORD_HEAD_BYTES, <size_t>got)
            total += <size_t>got
        else:
            updates += 1
            if updates > UPDATES_A_READ:
                return broken(links, t, ALERT_UNEXPECTED)
            got = message_of(links, t, kind, wire + at + RECORD_HEAD_BYTES, got)
            if got == TLS_END:
                return <long>total      # TLS_END where there is none; else the next call says it
            if got != 1:
                return got
        at += <size_t>size
    if at < n:
        got = hold(links, t, wire + at, n - at, size)
        if got != TLS_WANT_READ:
            return got
    return <long>total if total else TLS_WANT_READ
