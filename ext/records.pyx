"""Records of TLS 1.3, opened and sealed; see records.pxd."""
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memmove, memset

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct ENGINE:
        pass
    const EVP_CIPHER *EVP_aes_128_gcm()
    const EVP_CIPHER *EVP_aes_256_gcm()
    const EVP_CIPHER *EVP_chacha20_poly1305()
    const EVP_MD *EVP_sha256()
    const EVP_MD *EVP_sha384()
    EVP_CIPHER_CTX *EVP_CIPHER_CTX_new()
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *c)
    int EVP_CipherInit_ex(EVP_CIPHER_CTX *c, const EVP_CIPHER *cipher, ENGINE *engine, const uint8_t *key,
                          const uint8_t *iv, int seal)
    int EVP_CipherUpdate(EVP_CIPHER_CTX *c, uint8_t *out, int *out_n, const uint8_t *data, int n)
    int EVP_CipherFinal_ex(EVP_CIPHER_CTX *c, uint8_t *out, int *out_n)
    int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *c, int what, int n, void *data)
    enum: EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_TAG

cdef extern from "<openssl/hmac.h>" nogil:
    uint8_t *HMAC(const EVP_MD *md, const void *key, int key_n, const uint8_t *data, size_t n, uint8_t *out,
                  unsigned int *out_n)

cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_cleanse(void *data, size_t n)

cdef enum:
    TAG_BYTES = 16
    # A key seals no more records than this, far below the limit of AES-GCM for full ones, 2^24.5 (section 5.5)
    WORN_AFTER = 1 << 23

SUITES = (0x1301, 0x1302, 0x1303)       # AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305 (appendix B.4)


cdef int suite_of(uint16_t number) noexcept nogil:
    return number - 0x1301 if 0x1301 <= number <= 0x1303 else -1


cdef int secret_bytes(int suite) noexcept nogil:
    return 48 if suite == 1 else 32


cdef inline int key_bytes(int suite) noexcept nogil:
    return 16 if suite == 0 else 32


cdef const EVP_CIPHER *cipher_of(int suite) noexcept nogil:
    if suite == 0:
        return EVP_aes_128_gcm()
    return EVP_aes_256_gcm() if suite == 1 else EVP_chacha20_poly1305()


cdef EVP_CIPHER_CTX *prepared(EVP_CIPHER_CTX **place, int suite, int seal) noexcept nogil:
    """Made at the first use; NULL without memory."""
    if place[suite] == NULL:
        place[suite] = EVP_CIPHER_CTX_new()
        if place[suite] != NULL and EVP_CipherInit_ex(place[suite], cipher_of(suite), NULL, NULL, NULL, seal) != 1:
            EVP_CIPHER_CTX_free(place[suite])
            place[suite] = NULL
    return place[suite]


cdef void ciphers_free(ciphers_t *ciphers) noexcept nogil:
    cdef int i
    for i in range(SUITES_COUNT):
        EVP_CIPHER_CTX_free(ciphers.seal[i])
        EVP_CIPHER_CTX_free(ciphers.open[i])
    memset(ciphers, 0, sizeof(ciphers_t))


cdef int expand(int suite, const uint8_t *secret, const char *label, int label_n, uint8_t *out, int n) noexcept nogil:
    """HKDF-Expand-Label (section 7.1) without a context; all we need is no longer than one block of the hash."""
    cdef uint8_t info[32]
    cdef uint8_t block[64]
    cdef unsigned int size = 0
    info[0] = 0
    info[1] = <uint8_t>n
    info[2] = <uint8_t>(6 + label_n)
    memcpy(&info[3], b"tls13 ", 6)
    memcpy(&info[9], label, <size_t>label_n)
    info[9 + label_n] = 0
    info[10 + label_n] = 1
    if HMAC(EVP_sha384() if suite == 1 else EVP_sha256(), secret, secret_bytes(suite), info, <size_t>(11 + label_n),
            block, &size) == NULL or <unsigned int>n > size:
        return -1
    memcpy(out, block, <size_t>n)
    OPENSSL_cleanse(block, sizeof(block))
    return 0


cdef int keys_init(keys_t *keys, int suite, const uint8_t *secret, uint64_t sequence) noexcept nogil:
    keys.suite = <uint8_t>suite
    keys.sequence = sequence
    memmove(keys.secret, secret, <size_t>secret_bytes(suite))
    if expand(suite, keys.secret, b"key", 3, keys.key, key_bytes(suite)) != 0:
        return -1
    return expand(suite, keys.secret, b"iv", 2, keys.iv, 12)


cdef int keys_update(keys_t *keys) noexcept nogil:
    cdef uint8_t next[SECRET_BYTES_MAX]
    cdef int failed = expand(keys.suite, keys.secret, b"traffic upd", 11, next, secret_bytes(keys.suite))
    if not failed:
        failed = keys_init(keys, keys.suite, next, 0)
    OPENSSL_cleanse(next, sizeof(next))
    return failed


cdef int keys_are_worn(const keys_t *keys) noexcept nogil:
    return keys.sequence >= WORN_AFTER


cdef inline void nonce_of(const keys_t *keys, uint8_t *nonce) noexcept nogil:
    """Section 5.3: the sequence, big-endian and padded to the left, xor the IV."""
    cdef int i
    memcpy(nonce, keys.iv, 12)
    for i in range(8):
        nonce[4 + i] ^= <uint8_t>(keys.sequence >> (56 - 8 * i))


cdef long record_size(const uint8_t *wire, size_t n) noexcept nogil:
    cdef size_t size
    if n >= 1 and wire[0] != RECORD_DATA:
        return -ALERT_UNEXPECTED        # all is encrypted now, and says that it is data (section 5.2)
    if n < RECORD_HEAD_BYTES:
        return 0
    size = RECORD_HEAD_BYTES + (<size_t>wire[3] << 8 | wire[4])
    if size > RECORD_WIRE_MAX:
        return -ALERT_OVERFLOW
    if size < RECORD_HEAD_BYTES + RECORD_TAIL_BYTES:
        return -ALERT_BAD_RECORD
    return <long>size


cdef long record_open(ciphers_t *ciphers, keys_t *keys, const uint8_t *wire, size_t size, uint8_t *out,
                      uint8_t *kind) noexcept nogil:
    cdef EVP_CIPHER_CTX *c = prepared(ciphers.open, keys.suite, 0)
    cdef uint8_t nonce[12]
    cdef uint8_t tag[TAG_BYTES]
    cdef int n = <int>(size - RECORD_HEAD_BYTES - TAG_BYTES), got = 0, rest = 0
    if c == NULL:
        return -ALERT_INTERNAL
    nonce_of(keys, nonce)
    memcpy(tag, wire + size - TAG_BYTES, TAG_BYTES)
    if (EVP_CipherInit_ex(c, NULL, NULL, keys.key, nonce, 0) != 1
            or EVP_CipherUpdate(c, NULL, &rest, wire, RECORD_HEAD_BYTES) != 1
            or EVP_CipherUpdate(c, out, &got, wire + RECORD_HEAD_BYTES, n) != 1
            or EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, tag) != 1
            or EVP_CipherFinal_ex(c, out + got, &rest) != 1):
        return -ALERT_BAD_RECORD
    keys.sequence += 1
    # Padding behind the type are zeros, and count as content does (section 5.4).
    if got > RECORD_BYTES + 1:
        return -ALERT_OVERFLOW
    n = got
    while n > 0 and out[n - 1] == 0:
        n -= 1
    if n == 0:
        return -ALERT_UNEXPECTED
    n -= 1
    kind[0] = out[n]
    return n


cdef long record_seal(ciphers_t *ciphers, keys_t *keys, uint8_t kind, uint8_t *wire, size_t content) noexcept nogil:
    cdef EVP_CIPHER_CTX *c = prepared(ciphers.seal, keys.suite, 1)
    cdef uint8_t nonce[12]
    cdef size_t inner = content + 1
    cdef int made = 0, rest = 0
    if c == NULL:
        return -ALERT_INTERNAL
    nonce_of(keys, nonce)
    wire[0] = RECORD_DATA
    wire[1] = wire[2] = 3               # legacy_record_version
    wire[3] = <uint8_t>((inner + TAG_BYTES) >> 8)
    wire[4] = <uint8_t>((inner + TAG_BYTES) & 0xFF)
    wire[RECORD_HEAD_BYTES + content] = kind
    if (EVP_CipherInit_ex(c, NULL, NULL, keys.key, nonce, 1) != 1
            or EVP_CipherUpdate(c, NULL, &rest, wire, RECORD_HEAD_BYTES) != 1
            or EVP_CipherUpdate(c, wire + RECORD_HEAD_BYTES, &made, wire + RECORD_HEAD_BYTES, <int>inner) != 1
            or EVP_CipherFinal_ex(c, wire + RECORD_HEAD_BYTES + made, &rest) != 1
            or EVP_CIPHER_CTX_ctrl(
                c, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, wire + RECORD_HEAD_BYTES + inner) != 1):
        return -ALERT_INTERNAL
    keys.sequence += 1
    return <long>(RECORD_HEAD_BYTES + inner + TAG_BYTES)


@cython.final
cdef class Records:
    """One direction of one connection; for tests and benchmarks."""
    cdef keys_t keys
    cdef ciphers_t ciphers

    def __cinit__(self, suite: int, secret: bytes, sequence: int = 0):
        cdef int place = suite_of(suite)
        cdef uint64_t number = sequence
        if place < 0 or len(secret) != secret_bytes(place):
            raise ValueError("no suite of TLS 1.3, or not its size of a secret")
        if keys_init(&self.keys, place, <const uint8_t *><const char *>secret, number) != 0:
            raise MemoryError

    def __dealloc__(self):
        ciphers_free(&self.ciphers)
        OPENSSL_cleanse(&self.keys, sizeof(keys_t))

    def seal(self, kind: int, content: bytes) -> bytes:
        """A record of this content type; the content has at most RECORD_BYTES."""
        cdef bytearray wire = bytearray(len(content) + RECORD_HEAD_BYTES + RECORD_TAIL_BYTES)
        cdef long size
        cdef uint8_t type_ = kind
        if len(content) > RECORD_BYTES:
            raise ValueError("too much for a record")
        wire[5:5 + len(content)] = content
        size = record_seal(&self.ciphers, &self.keys, type_, <uint8_t *><char *>wire, len(content))
        if size < 0:
            raise MemoryError
        return bytes(wire[:size])

    def open(self, wire: bytes) -> tuple:
        """(content type, content) of one whole record; ValueError has the number of the alert."""
        cdef bytearray out = bytearray(len(wire) + 1)
        cdef const uint8_t *data = <const uint8_t *><const char *>wire
        cdef uint8_t kind = 0
        cdef long size = record_size(data, len(wire))
        if size > 0 and size != len(wire):
            raise ValueError("not one whole record")
        if size > 0:
            size = record_open(&self.ciphers, &self.keys, data, <size_t>size, <uint8_t *><char *>out, &kind)
        elif size == 0:
            raise ValueError("not one whole record")
        if size < 0:
            raise ValueError(-size)
        return kind, bytes(out[:size])

    def update(self) -> None:
        """The keys that follow."""
        if keys_update(&self.keys) != 0:
            raise MemoryError

    @property
    def key(self) -> bytes:
        return (<const char *>self.keys.key)[:key_bytes(self.keys.suite)]

    @property
    def iv(self) -> bytes:
        return (<const char *>self.keys.iv)[:12]
