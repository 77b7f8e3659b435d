"""What new handshakes are made with: certificates, names, versions, who may come. Built by the control thread from PEM
bytes, used by reactors; OpenSSL counts who holds it."""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, strchr, strncmp
from gateway._native.records cimport keys_t
from gateway._native.tls_state cimport SHAKE_BYTES_MAX, SSL, SSL_CTX, tls_t

cdef extern from "<strings.h>" nogil:
    int strcasecmp(const char *a, const char *b)

cdef extern from "<openssl/bio.h>" nogil:
    ctypedef struct BIO:
        pass
    BIO *BIO_new_mem_buf(const void *data, int n)
    int BIO_free(BIO *b)
    void *BIO_get_data(BIO *b)

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
    BIO *SSL_get_rbio(const SSL *ssl)
    void SSL_CTX_set_keylog_callback(SSL_CTX *context, void (*line)(const SSL *, const char *) noexcept nogil)
    const char *SSL_get_servername(const SSL *ssl, int kind)
    enum:
        SSL_OP_NO_RENEGOTIATION, SSL_OP_NO_COMPRESSION, SSL_OP_CIPHER_SERVER_PREFERENCE, SSL_OP_PRIORITIZE_CHACHA
        SSL_OP_IGNORE_UNEXPECTED_EOF
        SSL_MODE_RELEASE_BUFFERS, SSL_MODE_ENABLE_PARTIAL_WRITE, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
        SSL_MODE_AUTO_RETRY
        SSL_SESS_CACHE_OFF, TLS1_2_VERSION, TLS1_3_VERSION
        SSL_VERIFY_PEER, SSL_VERIFY_FAIL_IF_NO_PEER_CERT
        SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_NOACK, SSL_TLSEXT_ERR_ALERT_FATAL, TLSEXT_NAMETYPE_host_name

CLIENT_AUTH = ("none", "optional", "required")

cdef enum:
    HOST_BYTES = 254            # of a name and its NUL (RFC 1035 section 2.3.4)

cdef struct named_t:            # the certificate of one further host name
    char host[HOST_BYTES]
    SSL_CTX *context

cdef struct names_t:
    uint32_t count
    named_t items[1]

cdef const unsigned char *PROTOCOL = b"heliograph/1"
cdef unsigned int PROTOCOL_BYTES = 12
cdef int names_index = -1


# --- callbacks of a handshake, in the reactor's thread ---------------------------------------------------------------

cdef inline int nibble(char c) noexcept nogil:
    return c - 48 if 48 <= c <= 57 else c - 87 if 97 <= c <= 102 else c - 55 if 65 <= c <= 70 else -1


cdef void keep_secret(const SSL *ssl, const char *line) noexcept nogil:
    """OpenSSL tells traffic secrets in the words of key log files: a label, the client's random, the secret, in hex. It
    is the one way it has to hand them to whoever goes on with the records."""
    cdef tls_t *t = <tls_t *>BIO_get_data(SSL_get_rbio(ssl))
    cdef keys_t *keys
    cdef int i, high, low
    cdef uint8_t mark
    if strncmp(line, b"CLIENT_TRAFFIC_SECRET_0 ", 24) == 0:
        keys, mark = &t.incoming, 1
    elif strncmp(line, b"SERVER_TRAFFIC_SECRET_0 ", 24) == 0:
        keys, mark = &t.outgoing, 2
    else:
        return
    line = strchr(line + 24, b' ')
    if line == NULL:
        return
    line += 1
    for i in range(48):
        high = nibble(line[2 * i]) if line[2 * i] else -1
        if high < 0:
            break
        low = nibble(line[2 * i + 1])
        if low < 0:
            return
        keys.secret[i] = <uint8_t>(high << 4 | low)
    else:
        i = 48
    keys.sequence = <uint64_t>i     # how long it is, until it is used
    t.secrets |= mark


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


# --- building one, in the control thread -----------------------------------------------------------------------------

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
        SSL_CTX_set_keylog_callback(context, keep_secret)
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
    """Once a process: the place of the name table in a context."""
    global names_index
    names_index = CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL_CTX, 0, NULL, NULL, NULL, names_free)
    if names_index < 0:
        raise MemoryError


_prepare()
