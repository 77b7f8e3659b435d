"""Records of TLS 1.3 once its handshake is done: opened and sealed with the keys OpenSSL agreed on. Sans-IO.

An SSL of OpenSSL 3 takes 14 kB for an idle connection; what a record takes are two keys and two counters. So OpenSSL
makes the handshake, everything of it, and hands over its traffic secrets, as it does to kernels that have TLS; from
there on this is what stands for the kernel. Ciphers are OpenSSL's (EVP). Source: RFC 8446, sections named below.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_MD:
        pass

cdef enum:
    RECORD_BYTES = 16384            # most content of one record (section 5.1)
    RECORD_HEAD_BYTES = 5
    RECORD_TAIL_BYTES = 17          # content type and tag
    RECORD_WIRE_MAX = 16645         # header, content, and 256 bytes for type, padding and tag (section 5.2)
    SECRET_BYTES_MAX = 48
    SUITES_COUNT = 3

cdef enum:                          # content types (section 5.1)
    RECORD_ALERT = 21
    RECORD_HANDSHAKE = 22
    RECORD_DATA = 23

cdef enum:                          # alerts (section 6); functions return them negative
    ALERT_CLOSE_NOTIFY = 0
    ALERT_UNEXPECTED = 10
    ALERT_BAD_RECORD = 20
    ALERT_OVERFLOW = 22
    ALERT_DECODE = 50
    ALERT_INTERNAL = 80

cdef struct keys_t:                 # of one direction
    uint8_t secret[SECRET_BYTES_MAX]    # application_traffic_secret_N
    uint8_t key[32]
    uint8_t iv[12]
    uint8_t suite                   # place in the table of suites
    uint64_t sequence               # of the next record

cdef struct ciphers_t:              # of one thread: set up anew for each record, so that no link keeps one
    EVP_CIPHER_CTX *seal[SUITES_COUNT]
    EVP_CIPHER_CTX *open[SUITES_COUNT]

cdef void ciphers_free(ciphers_t *ciphers) noexcept nogil
# Place of a cipher suite (its two bytes in TLS), -1: not one of ours.
cdef int suite_of(uint16_t number) noexcept nogil
cdef int secret_bytes(int suite) noexcept nogil
# Keys from a traffic secret of secret_bytes(suite); 0, or -1.
cdef int keys_init(keys_t *keys, int suite, const uint8_t *secret, uint64_t sequence) noexcept nogil
# The keys that follow (section 7.2); 0, or -1.
cdef int keys_update(keys_t *keys) noexcept nogil
cdef int keys_are_worn(const keys_t *keys) noexcept nogil
# Bytes of the record that begins here, header included; 0: the header is not whole; or a negative alert.
cdef long record_size(const uint8_t *wire, size_t n) noexcept nogil
# One whole record: bytes of content, put to `out` (it may be where the record is), and its type; or a negative alert.
cdef long record_open(ciphers_t *ciphers, keys_t *keys, const uint8_t *wire, size_t size, uint8_t *out,
                      uint8_t *kind) noexcept nogil
# The content lies at wire + RECORD_HEAD_BYTES; bytes of the whole record, or -ALERT_INTERNAL.
cdef long record_seal(ciphers_t *ciphers, keys_t *keys, uint8_t kind, uint8_t *wire, size_t content) noexcept nogil
