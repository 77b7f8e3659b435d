"""TLS of one connection; see tls.pxd.

Read without read-ahead: OpenSSL takes a record's five header bytes and then exactly its body from the socket. So
nothing can lie in its buffers that epoll does not know of, and when the handshake is done the next byte of the socket
is the first of a record: another may go on reading.
"""
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset
from gateway._native.records cimport (
    RECORD_BYTES, RECORD_HEAD_BYTES, RECORD_WIRE_MAX, ciphers_free, keys_init, secret_bytes, suite_of)
from gateway._native.tls_light cimport light_finish, light_read, light_write
from gateway._native.tls_state cimport *

cdef extern from "gw_sys.h" nogil:
    void gw_trim_heap()

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *buf, size_t n, int flags)
    ssize_t send(int fd, const void *data, size_t n, int flags)
    enum: MSG_NOSIGNAL, MSG_DONTWAIT

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef extern from "<openssl/bio.h>" nogil:
    ctypedef struct BIO:
        pass
    ctypedef struct BIO_METHOD:
        pass
    BIO *BIO_new(const BIO_METHOD *method)
    int BIO_free(BIO *b)
    int BIO_get_new_index()
    void *BIO_get_data(BIO *b)
    void BIO_set_data(BIO *b, void *data)
    void BIO_set_init(BIO *b, int init)
    void BIO_clear_retry_flags(BIO *b)
    void BIO_set_retry_read(BIO *b)
    void BIO_set_retry_write(BIO *b)
    BIO_METHOD *BIO_meth_new(int kind, const char *name)
    int BIO_meth_set_read(BIO_METHOD *method, int (*read)(BIO *, char *, int) noexcept nogil)
    int BIO_meth_set_write(BIO_METHOD *method, int (*write)(BIO *, const char *, int) noexcept nogil)
    int BIO_meth_set_ctrl(BIO_METHOD *method, long (*ctrl)(BIO *, int, long, void *) noexcept nogil)
    enum: BIO_TYPE_SOURCE_SINK, BIO_CTRL_FLUSH, BIO_CTRL_EOF

cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_cleanse(void *data, size_t n)
    unsigned long OpenSSL_version_num()
    unsigned long OPENSSL_VERSION_NUMBER

cdef extern from "<openssl/err.h>" nogil:
    void ERR_clear_error()
    unsigned long ERR_peek_last_error()
    int ERR_GET_LIB(unsigned long number)
    int ERR_GET_REASON(unsigned long number)
    enum: ERR_LIB_SSL

cdef extern from "<openssl/ssl.h>" nogil:
    void SSL_CTX_free(SSL_CTX *context)
    SSL *SSL_new(SSL_CTX *context)
    void SSL_free(SSL *ssl)
    void SSL_set_bio(SSL *ssl, BIO *rbio, BIO *wbio)
    void SSL_set_accept_state(SSL *ssl)
    int SSL_do_handshake(SSL *ssl)
    int SSL_is_init_finished(const SSL *ssl)
    int SSL_session_reused(const SSL *ssl)
    int SSL_read(SSL *ssl, void *into, int n)
    int SSL_write(SSL *ssl, const void *data, int n)
    int SSL_shutdown(SSL *ssl)
    int SSL_get_error(const SSL *ssl, int result)
    ctypedef struct SSL_CIPHER:
        pass
    const SSL_CIPHER *SSL_get_current_cipher(const SSL *ssl)
    uint16_t SSL_CIPHER_get_protocol_id(const SSL_CIPHER *cipher)
    int SSL_version(const SSL *ssl)
    int SSL_has_pending(const SSL *ssl)
    enum:
        TLS1_3_VERSION
        SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_ZERO_RETURN, SSL_ERROR_SYSCALL
        SSL_AD_REASON_OFFSET
        SSL_R_HTTP_REQUEST, SSL_R_HTTPS_PROXY_REQUEST, SSL_R_WRONG_VERSION_NUMBER, SSL_R_UNSUPPORTED_PROTOCOL
        SSL_R_VERSION_TOO_LOW, SSL_R_NO_SHARED_CIPHER, SSL_R_NO_SUITABLE_KEY_SHARE, SSL_R_NO_APPLICATION_PROTOCOL
        SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM, SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, SSL_R_CERTIFICATE_VERIFY_FAILED
        SSL_R_UNEXPECTED_EOF_WHILE_READING, SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS, SSL_R_EXCESSIVE_MESSAGE_SIZE
        SSL_R_NO_SHARED_GROUPS, SSL_R_PACKET_LENGTH_TOO_LONG, SSL_R_BAD_PROTOCOL_VERSION_NUMBER
        SSL_R_RECORD_LENGTH_MISMATCH

TLS_FAILURES = (
    "timeout", "closed", "socket", "not_tls", "version", "cipher", "alpn", "no_certificate", "certificate", "refused",
    "too_large", "protocol", "record", "memory", "busy")


cdef tuple tls_failures():
    return TLS_FAILURES


cdef enum:
    TLS_A_CHUNK = 1024
    CHUNKS_A_STEP = 64
    BURST = 256                 # handshakes at once, after which memory is given back

cdef BIO_METHOD *socket_method = NULL


# --- the socket under an SSL -----------------------------------------------------------------------------------------

cdef int socket_read(BIO *b, char *into, int n) noexcept nogil:
    cdef tls_t *t = <tls_t *>BIO_get_data(b)
    cdef ssize_t got
    BIO_clear_retry_flags(b)
    if t.shake_bytes > SHAKE_BYTES_MAX:
        t.failure = TLS_FAILED_TOO_LARGE
        return -1
    got = recv(t.fd, into, <size_t>n, MSG_DONTWAIT)
    if got < 0:
        if errno == EAGAIN or errno == EINTR:
            BIO_set_retry_read(b)
    elif got == 0:
        t.ended = 1
    elif t.shake_bytes:
        t.shake_bytes += <uint32_t>got      # stays 0 once the handshake is done, see tls_shake
        t.records_out = 0
    return <int>got


cdef void count_records(tls_t *t, const uint8_t *data, size_t n) noexcept nogil:
    """OpenSSL does not say how many records it has sealed under a key; what leaves does (RFC 8446 section 5.1)."""
    cdef size_t step
    while n:
        if t.body_left and t.head_at == 0:
            step = min(n, <size_t>t.body_left)
            t.body_left -= <uint16_t>step
        else:
            step = 1
            if t.head_at == 3:
                t.body_left = <uint16_t>(<uint16_t>data[0] << 8)
            elif t.head_at == 4:
                t.body_left |= data[0]
                t.records_out += t.records_out < 255
            t.head_at = <uint8_t>((t.head_at + 1) % 5)
        data += step
        n -= step


cdef int socket_write(BIO *b, const char *data, int n) noexcept nogil:
    cdef tls_t *t = <tls_t *>BIO_get_data(b)
    cdef ssize_t sent = send(t.fd, data, <size_t>n, MSG_NOSIGNAL | MSG_DONTWAIT)
    BIO_clear_retry_flags(b)
    if sent > 0:
        t.moved = 1
        if t.shake_bytes:
            count_records(t, <const uint8_t *>data, <size_t>sent)
    elif sent < 0 and (errno == EAGAIN or errno == EINTR):
        BIO_set_retry_write(b)
    return <int>sent


cdef long socket_ctrl(BIO *b, int what, long number, void *pointer) noexcept nogil:
    if what == BIO_CTRL_EOF:
        return (<tls_t *>BIO_get_data(b)).ended
    return what == BIO_CTRL_FLUSH       # nothing is held back here


# --- connections of a reactor ----------------------------------------------------------------------------------------

cdef tls_t *tls_at(const tls_links_t *links, uint32_t place) noexcept nogil:
    return &links.chunks[place // TLS_A_CHUNK][place % TLS_A_CHUNK]


cdef long tls_take(tls_links_t *links, int fd) noexcept nogil:
    cdef tls_t **chunks
    cdef tls_t *t
    cdef uint32_t place, at
    if links.wire == NULL:
        links.wire = <uint8_t *>malloc(RECORD_WIRE_MAX)
        if links.wire == NULL:
            return -1
    if links.free:
        place = links.free - 1
        t = tls_at(links, place)
        links.free = t.next
    else:
        place = links.size
        at = place // TLS_A_CHUNK
        if place % TLS_A_CHUNK == 0:
            if at % CHUNKS_A_STEP == 0:
                chunks = <tls_t **>realloc(links.chunks, (at + CHUNKS_A_STEP) * sizeof(tls_t *))
                if chunks == NULL:
                    return -1
                links.chunks = chunks
            links.chunks[at] = <tls_t *>malloc(TLS_A_CHUNK * sizeof(tls_t))
            if links.chunks[at] == NULL:
                return -1
            links.chunk_count = at + 1
        links.size += 1
        t = tls_at(links, place)
    memset(t, 0, sizeof(tls_t))
    t.fd = fd
    links.used += 1
    return place


cdef void forget(tls_t *t) noexcept nogil:
    """Keys do not stay in memory longer than their connection."""
    free(t.held)
    free(t.unsent)
    OPENSSL_cleanse(t, sizeof(tls_t))


cdef inline void stop_shaking(tls_links_t *links, tls_t *t) noexcept nogil:
    links.shaking -= t.is_shaking
    t.is_shaking = 0


cdef void trim(tls_links_t *links) noexcept nogil:
    """After a burst of handshakes: their SSLs lay between what stays, so the heap would keep 11 kB for each."""
    if links.shaking == 0:
        if links.shaking_peak >= BURST:
            gw_trim_heap()
        links.shaking_peak = 0


cdef void tls_give(tls_links_t *links, uint32_t place) noexcept nogil:
    cdef tls_t *t = tls_at(links, place)
    tls_finish(links, t)
    stop_shaking(links, t)
    SSL_free(t.ssl)
    close(t.fd)
    forget(t)
    t.fd = -1
    t.next = links.free
    links.free = place + 1
    links.used -= 1
    trim(links)


cdef void tls_links_free(tls_links_t *links) noexcept nogil:
    cdef uint32_t i
    for i in range(links.size):
        SSL_free(tls_at(links, i).ssl)      # NULL where the place is free
        forget(tls_at(links, i))
    for i in range(links.chunk_count):
        free(links.chunks[i])
    free(links.chunks)
    free(links.wire)
    ciphers_free(&links.ciphers)
    SSL_CTX_free(links.context)
    memset(links, 0, sizeof(tls_links_t))


cdef void tls_use(tls_links_t *links, SSL_CTX *context) noexcept nogil:
    SSL_CTX_free(links.context)     # handshakes under way have their own reference
    links.context = context


cdef void tls_context_drop(SSL_CTX *context) noexcept nogil:
    SSL_CTX_free(context)


cdef int begin(tls_links_t *links, tls_t *t) noexcept nogil:
    cdef BIO *b = BIO_new(socket_method)
    if b == NULL:
        return -1
    t.ssl = SSL_new(links.context)
    if t.ssl == NULL:
        BIO_free(b)
        return -1
    BIO_set_data(b, t)
    BIO_set_init(b, 1)
    SSL_set_bio(t.ssl, b, b)        # takes the one reference for both
    SSL_set_accept_state(t.ssl)
    t.shake_bytes = 1
    t.is_shaking = 1
    links.shaking += 1
    links.shaking_peak = max(links.shaking_peak, links.shaking)
    return 0


cdef uint8_t failure_of(const tls_t *t) noexcept nogil:
    """Which of TLS_FAILED_* the newest error of this thread's queue means; those before it are of the rooms below."""
    cdef unsigned long number = ERR_peek_last_error()
    cdef int reason = ERR_GET_REASON(number)
    if t.failure:
        return t.failure
    if number == 0 or reason == SSL_R_UNEXPECTED_EOF_WHILE_READING:
        return TLS_FAILED_CLOSED if t.ended else TLS_FAILED_SOCKET
    if ERR_GET_LIB(number) != ERR_LIB_SSL:
        return TLS_FAILED_PROTOCOL
    if reason > SSL_AD_REASON_OFFSET:
        return TLS_FAILED_REFUSED
    if reason == SSL_R_HTTP_REQUEST or reason == SSL_R_HTTPS_PROXY_REQUEST or reason == SSL_R_WRONG_VERSION_NUMBER:
        return TLS_FAILED_NOT_TLS
    if reason == SSL_R_PACKET_LENGTH_TOO_LONG or reason == SSL_R_RECORD_LENGTH_MISMATCH:
        return TLS_FAILED_NOT_TLS
    if reason == SSL_R_UNSUPPORTED_PROTOCOL or reason == SSL_R_VERSION_TOO_LOW:
        return TLS_FAILED_VERSION
    if reason == SSL_R_BAD_PROTOCOL_VERSION_NUMBER:
        return TLS_FAILED_VERSION
    if (reason == SSL_R_NO_SHARED_CIPHER or reason == SSL_R_NO_SUITABLE_KEY_SHARE or reason == SSL_R_NO_SHARED_GROUPS
            or reason == SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM or reason == SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS):
        return TLS_FAILED_CIPHER
    if reason == SSL_R_NO_APPLICATION_PROTOCOL:
        return TLS_FAILED_ALPN
    if reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        return TLS_FAILED_NO_CERTIFICATE
    if reason == SSL_R_CERTIFICATE_VERIFY_FAILED:
        return TLS_FAILED_CERTIFICATE
    if reason == SSL_R_EXCESSIVE_MESSAGE_SIZE:
        return TLS_FAILED_TOO_LARGE
    return TLS_FAILED_PROTOCOL


cdef int outcome(tls_t *t, int result) noexcept nogil:
    """What a call that did not succeed came to."""
    cdef int error = SSL_get_error(t.ssl, result)
    if error == SSL_ERROR_WANT_READ:
        return TLS_WANT_READ
    if error == SSL_ERROR_WANT_WRITE:
        return TLS_WANT_WRITE
    if error == SSL_ERROR_ZERO_RETURN:
        return TLS_END
    t.is_over = 1       # SSL_shutdown(3): not after a fatal error
    if error == SSL_ERROR_SYSCALL and not t.failure:
        t.failure = TLS_FAILED_CLOSED if t.ended else TLS_FAILED_SOCKET
        return TLS_SOCKET
    t.failure = failure_of(t)
    return TLS_BROKEN


cdef void lighten(tls_t *t) noexcept nogil:
    """The SSL is given back where its keys are known; else it stays. All its bytes are out: the handshake is only done
    when its last record, a ticket, has left; what it wrote since the client was finished counts under the new keys."""
    cdef int suite
    if SSL_version(t.ssl) != TLS1_3_VERSION or t.secrets != 3 or SSL_has_pending(t.ssl):
        return
    suite = suite_of(SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(t.ssl)))
    if suite < 0 or t.incoming.sequence != <uint64_t>secret_bytes(suite):
        return
    if t.records_out == 255 or t.head_at or t.body_left:
        return
    if t.outgoing.sequence != t.incoming.sequence:
        return
    if (keys_init(&t.incoming, suite, t.incoming.secret, 0) != 0
            or keys_init(&t.outgoing, suite, t.outgoing.secret, t.records_out) != 0):
        return
    SSL_free(t.ssl)
    t.ssl = NULL
    t.is_light = 1


cdef int tls_shake(tls_links_t *links, tls_t *t) noexcept nogil:
    cdef int result
    if t.ssl == NULL and links.shaking >= links.shaking_max:
        t.is_over = 1
        t.failure = TLS_FAILED_BUSY
        return TLS_BROKEN
    if t.ssl == NULL and (links.context == NULL or begin(links, t) != 0):
        t.is_over = 1
        t.failure = TLS_FAILED_MEMORY
        return TLS_BROKEN
    ERR_clear_error()
    result = SSL_do_handshake(t.ssl)
    if result == 1:
        t.shake_bytes = 0
        stop_shaking(links, t)
        t.is_resumed = SSL_session_reused(t.ssl) != 0
        lighten(t)
        trim(links)
        return 1
    result = outcome(t, result)
    if result == TLS_END:
        t.is_over = 1
        t.failure = TLS_FAILED_CLOSED
        return TLS_SOCKET
    return result


cdef long tls_read(tls_links_t *links, tls_t *t, uint8_t *into) noexcept nogil:
    cdef int got
    cdef int result
    if t.is_light:
        return light_read(links, t, into)
    ERR_clear_error()
    got = SSL_read(t.ssl, into, RECORD_BYTES)
    if got > 0:
        return got
    result = outcome(t, got)
    if result == TLS_BROKEN and t.failure == TLS_FAILED_PROTOCOL:
        t.failure = TLS_FAILED_RECORD
    return result


cdef long tls_write(tls_links_t *links, tls_t *t, int n) noexcept nogil:
    cdef int sent
    if t.is_over:
        return TLS_SOCKET
    if t.is_light:
        return light_write(links, t, n)
    ERR_clear_error()
    sent = SSL_write(t.ssl, links.wire + RECORD_HEAD_BYTES, n)
    return sent if sent > 0 else outcome(t, sent)


cdef int tls_finish(tls_links_t *links, tls_t *t) noexcept nogil:
    cdef int result
    if t.is_light:
        return light_finish(links, t)
    if t.ssl == NULL or t.is_over or not SSL_is_init_finished(t.ssl):
        return 1
    ERR_clear_error()
    result = SSL_shutdown(t.ssl)
    if result < 0 and SSL_get_error(t.ssl, result) == SSL_ERROR_WANT_WRITE:
        return 0
    t.is_over = 1       # whether the peer answers with its own close_notify does not matter (RFC 8446 section 6.1)
    return 1


def _prepare():
    """Once a process: the socket under every SSL."""
    global socket_method
    socket_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "heliograph socket")
    if socket_method == NULL:
        raise MemoryError
    if OpenSSL_version_num() >> 28 != OPENSSL_VERSION_NUMBER >> 28:
        # an interpreter that brings an OpenSSL of its own and shows it to everybody
        raise ImportError("built with another OpenSSL than the one that is loaded: build again with this interpreter")
    BIO_meth_set_read(socket_method, socket_read)
    BIO_meth_set_write(socket_method, socket_write)
    BIO_meth_set_ctrl(socket_method, socket_ctrl)


_prepare()
