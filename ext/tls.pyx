"""TLS of one connection, and the context its handshakes are made with; see tls.pxd.

Read without read-ahead: OpenSSL takes a record's five header bytes and then exactly its body from the socket. That is
one system call more a record than reading ahead, and in exchange nothing can lie in its buffers that epoll does not
know of.
"""
cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset, strchr

cdef extern from "<strings.h>" nogil:
    int strcasecmp(const char *a, const char *b)

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
    BIO *BIO_new_mem_buf(const void *data, int n)
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
    ctypedef struct CRYPTO_EX_DATA:
        pass
    enum: CRYPTO_EX_INDEX_SSL_CTX
    int CRYPTO_get_ex_new_index(
        int kind, long argl, void *argp, void *new, void *dup,
        void (*free)(void *, void *, CRYPTO_EX_DATA *, int, long, void *) noexcept nogil)

cdef extern from "<openssl/err.h>" nogil:
    void ERR_clear_error()
    unsigned long ERR_peek_last_error()
    void ERR_error_string_n(unsigned long number, char *into, size_t room)
    int ERR_GET_LIB(unsigned long number)
    int ERR_GET_REASON(unsigned long number)
    enum: ERR_LIB_SSL

cdef extern from "<openssl/pem.h>" nogil:
    ctypedef struct X509:
        pass
    ctypedef struct X509_STORE:
        pass
    ctypedef struct EVP_PKEY:
        pass
    ctypedef int (*pem_password_cb)(char *, int, int, void *) noexcept nogil
    X509 *PEM_read_bio_X509(BIO *b, X509 **x, pem_password_cb password, void *u)
    EVP_PKEY *PEM_read_bio_PrivateKey(BIO *b, EVP_PKEY **key, pem_password_cb password, void *u)
    void X509_free(X509 *x)
    void EVP_PKEY_free(EVP_PKEY *key)
    int X509_STORE_add_cert(X509_STORE *store, X509 *x)

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL_METHOD:
        pass
    const SSL_METHOD *TLS_server_method()
    SSL_CTX *SSL_CTX_new(const SSL_METHOD *method)
    int SSL_CTX_up_ref(SSL_CTX *context)
    void SSL_CTX_free(SSL_CTX *context)
    uint64_t SSL_CTX_set_options(SSL_CTX *context, uint64_t options)
    long SSL_CTX_set_mode(SSL_CTX *context, long mode)
    long SSL_CTX_clear_mode(SSL_CTX *context, long mode)
    int SSL_CTX_set_min_proto_version(SSL_CTX *context, int version)
    long SSL_CTX_set_session_cache_mode(SSL_CTX *context, long mode)
    int SSL_CTX_set_session_id_context(SSL_CTX *context, const unsigned char *name, unsigned int n)
    int SSL_CTX_set_num_tickets(SSL_CTX *context, size_t n)
    void SSL_CTX_set_max_cert_list(SSL_CTX *context, long n)
    int SSL_CTX_use_certificate(SSL_CTX *context, X509 *x)
    long SSL_CTX_add0_chain_cert(SSL_CTX *context, X509 *x)
    int SSL_CTX_use_PrivateKey(SSL_CTX *context, EVP_PKEY *key)
    int SSL_CTX_check_private_key(const SSL_CTX *context)
    void SSL_CTX_set_verify(SSL_CTX *context, int mode, void *callback)
    X509_STORE *SSL_CTX_get_cert_store(const SSL_CTX *context)
    int SSL_CTX_add_client_CA(SSL_CTX *context, X509 *x)
    int SSL_CTX_set_ex_data(SSL_CTX *context, int index, void *data)
    void *SSL_CTX_get_ex_data(const SSL_CTX *context, int index)
    void SSL_CTX_set_alpn_select_cb(
        SSL_CTX *context, int (*select)(SSL *, const unsigned char **, unsigned char *, const unsigned char *,
                                        unsigned int, void *) noexcept nogil, void *arg)
    void SSL_CTX_set_tlsext_servername_callback(SSL_CTX *context, int (*name)(SSL *, int *, void *) noexcept nogil)
    void SSL_CTX_set_tlsext_servername_arg(SSL_CTX *context, void *arg)
    SSL_CTX *SSL_set_SSL_CTX(SSL *ssl, SSL_CTX *context)
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
    const char *SSL_get_servername(const SSL *ssl, int kind)
    enum:
        SSL_OP_NO_RENEGOTIATION, SSL_OP_NO_COMPRESSION, SSL_OP_CIPHER_SERVER_PREFERENCE, SSL_OP_PRIORITIZE_CHACHA
        SSL_OP_IGNORE_UNEXPECTED_EOF
        SSL_MODE_RELEASE_BUFFERS, SSL_MODE_ENABLE_PARTIAL_WRITE, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
        SSL_MODE_AUTO_RETRY
        SSL_SESS_CACHE_OFF, TLS1_2_VERSION, TLS1_3_VERSION
        SSL_VERIFY_PEER, SSL_VERIFY_FAIL_IF_NO_PEER_CERT
        SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_ZERO_RETURN, SSL_ERROR_SYSCALL
        SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_NOACK, SSL_TLSEXT_ERR_ALERT_FATAL, TLSEXT_NAMETYPE_host_name
        SSL_AD_REASON_OFFSET
        SSL_R_HTTP_REQUEST, SSL_R_HTTPS_PROXY_REQUEST, SSL_R_WRONG_VERSION_NUMBER, SSL_R_UNSUPPORTED_PROTOCOL
        SSL_R_VERSION_TOO_LOW, SSL_R_NO_SHARED_CIPHER, SSL_R_NO_SUITABLE_KEY_SHARE, SSL_R_NO_APPLICATION_PROTOCOL
        SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM, SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, SSL_R_CERTIFICATE_VERIFY_FAILED
        SSL_R_UNEXPECTED_EOF_WHILE_READING, SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS, SSL_R_EXCESSIVE_MESSAGE_SIZE
        SSL_R_NO_SHARED_GROUPS, SSL_R_PACKET_LENGTH_TOO_LONG, SSL_R_BAD_PROTOCOL_VERSION_NUMBER
        SSL_R_RECORD_LENGTH_MISMATCH

TLS_FAILURES = (
    "timeout", "closed", "socket", "not_tls", "version", "cipher", "alpn", "no_certificate", "certificate", "refused",
    "too_large", "protocol", "record", "memory")
CLIENT_AUTH = ("none", "optional", "required")


cdef tuple tls_failures():
    return TLS_FAILURES


cdef enum:
    TLS_A_CHUNK = 1024
    CHUNKS_A_STEP = 64
    HOST_BYTES = 254            # of a name and its NUL (RFC 1035 section 2.3.4)

cdef struct named_t:            # the certificate of one further host name
    char host[HOST_BYTES]
    SSL_CTX *context

cdef struct names_t:
    uint32_t count
    named_t items[1]

cdef const unsigned char *PROTOCOL = b"heliograph/1"
cdef unsigned int PROTOCOL_BYTES = 12
cdef BIO_METHOD *socket_method = NULL
cdef int names_index = -1


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
    return <int>got


cdef int socket_write(BIO *b, const char *data, int n) noexcept nogil:
    cdef tls_t *t = <tls_t *>BIO_get_data(b)
    cdef ssize_t sent = send(t.fd, data, <size_t>n, MSG_NOSIGNAL | MSG_DONTWAIT)
    BIO_clear_retry_flags(b)
    if sent > 0:
        t.moved = 1
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


cdef void tls_give(tls_links_t *links, uint32_t place) noexcept nogil:
    cdef tls_t *t = tls_at(links, place)
    tls_finish(t)
    SSL_free(t.ssl)
    close(t.fd)
    memset(t, 0, sizeof(tls_t))
    t.fd = -1
    t.next = links.free
    links.free = place + 1
    links.used -= 1


cdef void tls_links_free(tls_links_t *links) noexcept nogil:
    cdef uint32_t i
    for i in range(links.size):
        SSL_free(tls_at(links, i).ssl)      # NULL where the place is free
    for i in range(links.chunk_count):
        free(links.chunks[i])
    free(links.chunks)
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


cdef int tls_shake(tls_links_t *links, tls_t *t) noexcept nogil:
    cdef int result
    if t.ssl == NULL and (links.context == NULL or begin(links, t) != 0):
        t.is_over = 1
        t.failure = TLS_FAILED_MEMORY
        return TLS_BROKEN
    ERR_clear_error()
    result = SSL_do_handshake(t.ssl)
    if result == 1:
        t.shake_bytes = 0
        return 1
    result = outcome(t, result)
    if result == TLS_END:
        t.is_over = 1
        t.failure = TLS_FAILED_CLOSED
        return TLS_SOCKET
    return result


cdef int tls_is_resumed(const tls_t *t) noexcept nogil:
    return SSL_session_reused(t.ssl)


cdef long tls_read(tls_t *t, uint8_t *into, int room) noexcept nogil:
    cdef int got
    cdef int result
    ERR_clear_error()
    got = SSL_read(t.ssl, into, room)
    if got > 0:
        return got
    result = outcome(t, got)
    if result == TLS_BROKEN and t.failure == TLS_FAILED_PROTOCOL:
        t.failure = TLS_FAILED_RECORD
    return result


cdef long tls_write(tls_t *t, const uint8_t *data, int n) noexcept nogil:
    cdef int sent
    if t.is_over:
        return TLS_SOCKET
    ERR_clear_error()
    sent = SSL_write(t.ssl, data, n)
    return sent if sent > 0 else outcome(t, sent)


cdef int tls_finish(tls_t *t) noexcept nogil:
    cdef int result
    if t.ssl == NULL or t.is_over or not SSL_is_init_finished(t.ssl):
        return 1
    ERR_clear_error()
    result = SSL_shutdown(t.ssl)
    if result < 0 and SSL_get_error(t.ssl, result) == SSL_ERROR_WANT_WRITE:
        return 0
    t.is_over = 1       # whether the peer answers with its own close_notify does not matter (RFC 8446 section 6.1)
    return 1


# --- the context of new handshakes -----------------------------------------------------------------------------------

cdef int no_password(char *into, int room, int writing, void *u) noexcept nogil:
    """Without it OpenSSL would ask for one at the terminal."""
    return -1


cdef int select_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_n, const unsigned char *offered,
                         unsigned int n, void *u) noexcept nogil:
    """Who offers protocols must offer ours (RFC 7301 section 3.2): keeps browsers and the like from being led here."""
    cdef unsigned int at = 0, size, i
    while at < n:
        size = offered[at]
        at += 1
        if size == PROTOCOL_BYTES and at + size <= n:
            i = 0
            while i < size and offered[at + i] == PROTOCOL[i]:
                i += 1
            if i == size:
                out[0] = offered + at
                out_n[0] = <unsigned char>size
                return SSL_TLSEXT_ERR_OK
        at += size
    return SSL_TLSEXT_ERR_ALERT_FATAL


cdef int choose_certificate(SSL *ssl, int *alert, void *arg) noexcept nogil:
    """SNI (RFC 6066 section 3): the certificate of that name, or of its wildcard; else the first one stays."""
    cdef names_t *names = <names_t *>arg
    cdef const char *host = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name)
    cdef const char *domain
    cdef uint32_t i
    if host == NULL:
        return SSL_TLSEXT_ERR_NOACK
    for i in range(names.count):
        if strcasecmp(names.items[i].host, host) == 0:
            SSL_set_SSL_CTX(ssl, names.items[i].context)
            return SSL_TLSEXT_ERR_OK
    domain = strchr(host, b'.')
    if domain != NULL:
        for i in range(names.count):
            if names.items[i].host[0] == b'*' and strcasecmp(names.items[i].host + 1, domain) == 0:
                SSL_set_SSL_CTX(ssl, names.items[i].context)
                return SSL_TLSEXT_ERR_OK
    return SSL_TLSEXT_ERR_NOACK


cdef void names_free(void *parent, void *names, CRYPTO_EX_DATA *ad, int index, long argl, void *argp) noexcept nogil:
    """The context they belong to is gone, and with it every handshake that could ask for them."""
    cdef names_t *all = <names_t *>names
    cdef uint32_t i
    if all != NULL:
        for i in range(all.count):
            SSL_CTX_free(all.items[i].context)
        free(all)


cdef str said(str what):
    """OpenSSL's own words behind ours."""
    cdef char text[256]
    cdef unsigned long number = ERR_peek_last_error()
    if number == 0:
        return what
    ERR_error_string_n(number, text, sizeof(text))
    ERR_clear_error()
    return what + ": " + (<bytes>text).decode("ascii", "replace").rpartition(":")[2]


cdef int load_pair(SSL_CTX *context, bytes chain, bytes key) except -1:
    """Certificate first, then those that lead to the root; PEM."""
    cdef BIO *b
    cdef X509 *x
    cdef EVP_PKEY *private
    cdef int count = 0, fine = 1
    if not chain or not key:
        raise ValueError("a certificate and its key are needed")
    b = BIO_new_mem_buf(<const char *>chain, <int>len(chain))
    if b == NULL:
        raise MemoryError
    while fine:
        x = PEM_read_bio_X509(b, NULL, no_password, NULL)
        if x == NULL:
            break
        if count == 0:
            fine = SSL_CTX_use_certificate(context, x) == 1
            X509_free(x)
        elif SSL_CTX_add0_chain_cert(context, x) != 1:
            X509_free(x)
            fine = 0
        count += 1
    BIO_free(b)
    if count == 0 or not fine:
        raise ValueError(said("the certificate can not be used"))
    ERR_clear_error()           # the end of the file is an error to it
    b = BIO_new_mem_buf(<const char *>key, <int>len(key))
    if b == NULL:
        raise MemoryError
    private = PEM_read_bio_PrivateKey(b, NULL, no_password, NULL)
    BIO_free(b)
    if private == NULL:
        raise ValueError(said("the key can not be read; it must be PEM and without a password"))
    fine = SSL_CTX_use_PrivateKey(context, private) == 1
    EVP_PKEY_free(private)
    if not fine or SSL_CTX_check_private_key(context) != 1:
        raise ValueError(said("the key does not belong to the certificate"))
    return 0


cdef int load_authorities(SSL_CTX *context, bytes authorities, int mode) except -1:
    cdef BIO *b = BIO_new_mem_buf(<const char *>authorities, <int>len(authorities))
    cdef X509 *x
    cdef int count = 0
    if b == NULL:
        raise MemoryError
    while True:
        x = PEM_read_bio_X509(b, NULL, no_password, NULL)
        if x == NULL:
            break
        if X509_STORE_add_cert(SSL_CTX_get_cert_store(context), x) == 1 and SSL_CTX_add_client_CA(context, x) == 1:
            count += 1
        X509_free(x)
    BIO_free(b)
    if count == 0:
        raise ValueError(said("no client CA certificate can be read"))
    ERR_clear_error()
    SSL_CTX_set_verify(context, mode, NULL)
    return 0


cdef SSL_CTX *build_context(bytes chain, bytes key, bytes authorities, int mode, int version) except NULL:
    cdef SSL_CTX *context
    ERR_clear_error()
    context = SSL_CTX_new(TLS_server_method())
    if context == NULL:
        raise MemoryError
    try:
        SSL_CTX_set_options(
            context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE
            | SSL_OP_PRIORITIZE_CHACHA      # devices without AES instructions say so by offering ChaCha20 first
            | SSL_OP_IGNORE_UNEXPECTED_EOF)     # frames say where they end: a cut stream can not be taken for a whole
        SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE
                         | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER)
        # A call reads one record: endless key updates must not keep the reactor inside of it.
        SSL_CTX_clear_mode(context, SSL_MODE_AUTO_RETRY)
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF)     # stateless tickets only
        SSL_CTX_set_num_tickets(context, 1)
        SSL_CTX_set_max_cert_list(context, SHAKE_BYTES_MAX)
        if SSL_CTX_set_min_proto_version(context, version) != 1:
            raise ValueError("this OpenSSL does not have that version of TLS")
        if SSL_CTX_set_session_id_context(context, PROTOCOL, PROTOCOL_BYTES) != 1:
            raise MemoryError
        SSL_CTX_set_alpn_select_cb(context, select_protocol, NULL)
        load_pair(context, chain, key)
        if mode:
            load_authorities(context, authorities, mode)
    except BaseException:
        SSL_CTX_free(context)
        raise
    return context


@cython.final
cdef class TlsContext:
    """What new handshakes are made with. Any number of reactors may share it: a ticket of one is taken by the
    others."""

    def __cinit__(self, chain: bytes, key: bytes, *, names: list | None = None, client_ca: bytes = b"",
                  client_auth: str = "none", min_version: str = "1.2"):
        """PEM bytes: `chain` is the certificate and those that lead to its root; `names` further (host, chain, key),
        a host may begin with `*.`. ValueError says what OpenSSL does not take."""
        cdef int mode = 0, version = TLS1_3_VERSION if min_version == "1.3" else TLS1_2_VERSION
        cdef names_t *table
        cdef bytes name
        if client_auth not in CLIENT_AUTH or min_version not in ("1.2", "1.3"):
            raise ValueError("client_auth is none, optional or required; min_version 1.2 or 1.3")
        if client_auth != "none":
            mode = SSL_VERIFY_PEER
            if client_auth == "required":
                mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT
        self.context = build_context(chain, key, client_ca, mode, version)
        if not names:
            return
        table = <names_t *>calloc(1, sizeof(names_t) + len(names) * sizeof(named_t))
        if table == NULL:
            raise MemoryError
        # The context owns the table from here, and frees it with itself.
        if SSL_CTX_set_ex_data(self.context, names_index, table) != 1:
            free(table)
            raise MemoryError
        for host, its_chain, its_key in names:
            name = host.encode("ascii")
            if not 0 < len(name) < HOST_BYTES:
                raise ValueError(f"{host!r} is no host name")
            table.items[table.count].context = build_context(its_chain, its_key, client_ca, mode, version)
            memcpy(table.items[table.count].host, <const char *>name, len(name) + 1)
            table.count += 1
        SSL_CTX_set_tlsext_servername_callback(self.context, choose_certificate)
        SSL_CTX_set_tlsext_servername_arg(self.context, table)

    def __dealloc__(self):
        SSL_CTX_free(self.context)

    cdef SSL_CTX *share(self) noexcept:
        """One more reference, for a reactor."""
        SSL_CTX_up_ref(self.context)
        return self.context


def _prepare():
    """Once a process: the socket under every SSL, and the place of the name table in a context."""
    global socket_method, names_index
    socket_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "heliograph socket")
    names_index = CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL_CTX, 0, NULL, NULL, NULL, names_free)
    if socket_method == NULL or names_index < 0:
        raise MemoryError
    BIO_meth_set_read(socket_method, socket_read)
    BIO_meth_set_write(socket_method, socket_write)
    BIO_meth_set_ctrl(socket_method, socket_ctrl)


_prepare()
