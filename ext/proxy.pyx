"""PROXY protocol, version 2: parser of the header; see proxy.pxd."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

PROXY_KINDS = ("local", "unspec", "ipv4", "ipv6", "unix")
PROXY_FAILURES = (
    "need_more", "signature", "version", "command", "family", "too_short", "too_large", "tlv", "untrusted", "timeout",
    "closed", "memory")
HEADER_BYTES_MAX = PROXY_BYTES_MAX


cdef tuple proxy_failures():
    return PROXY_FAILURES


cdef tuple proxy_kinds():
    return PROXY_KINDS


cdef enum:
    SIGNATURE_BYTES = 12
    TLV_HEAD_BYTES = 3
    TLV_CRC32C = 3              # PP2_TYPE_CRC32C

cdef const unsigned char *SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
cdef const unsigned char *V4_IN_V6 = b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"


cdef inline size_t length_of(const uint8_t *p) noexcept nogil:
    return <size_t>p[14] << 8 | p[15]


cdef size_t proxy_wants(const uint8_t *p, size_t n) noexcept nogil:
    cdef size_t whole = PROXY_START_BYTES
    if n >= PROXY_START_BYTES:
        whole += length_of(p)
    return whole - n if n < whole else 0


cdef uint32_t crc32c(const uint8_t *p, size_t n, size_t zeros_at) noexcept nogil:
    """Castagnoli's, bit by bit: a header is short and comes once. The four bytes at `zeros_at` count as zeros."""
    cdef uint32_t crc = 0xFFFFFFFF
    cdef size_t i
    cdef int _
    for i in range(n):
        if not zeros_at <= i < zeros_at + 4:
            crc ^= p[i]
        for _ in range(8):
            crc = crc >> 1 ^ <uint32_t>0x82F63B78 * (crc & 1)
    return ~crc


cdef int check_tlvs(const uint8_t *p, size_t at, size_t whole) noexcept nogil:
    """0, or -1 where one is cut short or the checksum is not that of the header (section 2.2.3)."""
    cdef size_t size
    cdef uint32_t sum
    while at < whole:
        if whole - at < TLV_HEAD_BYTES:
            return -1
        size = <size_t>p[at + 1] << 8 | p[at + 2]
        if size > whole - at - TLV_HEAD_BYTES:
            return -1
        if p[at] == TLV_CRC32C:
            if size != 4:
                return -1
            sum = <uint32_t>p[at + 3] << 24 | <uint32_t>p[at + 4] << 16 | <uint32_t>p[at + 5] << 8 | p[at + 6]
            if sum != crc32c(p, whole, at + TLV_HEAD_BYTES):
                return -1
        at += TLV_HEAD_BYTES + size
    return 0


cdef long proxy_parse(const uint8_t *p, size_t n, proxy_t *out) noexcept nogil:
    cdef size_t whole, addresses
    cdef uint8_t family
    # What is wrong is said as soon as it can not become right, however few bytes came.
    if memcmp(p, SIGNATURE, min(n, <size_t>SIGNATURE_BYTES)) != 0:
        return -PROXY_BAD_SIGNATURE
    if n > 12:
        if p[12] >> 4 != 2:
            return -PROXY_BAD_VERSION
        if p[12] & 0xF > 1:
            return -PROXY_BAD_COMMAND
    if n < PROXY_START_BYTES:
        return PROXY_NEED_MORE
    whole = PROXY_START_BYTES + length_of(p)
    if whole > PROXY_BYTES_MAX:
        return -PROXY_TOO_LARGE
    family = p[13]
    if p[12] & 0xF == 0 or family == 0:     # LOCAL: whatever family it names is to be ignored
        addresses = 0
    elif family == 0x11:        # TCP over IPv4
        addresses = 12
    elif family == 0x21:        # TCP over IPv6
        addresses = 36
    elif family == 0x31:        # stream over a Unix socket
        addresses = 216
    else:
        return -PROXY_BAD_FAMILY
    if whole < PROXY_START_BYTES + addresses:
        return -PROXY_TOO_SHORT
    if n < whole:
        return PROXY_NEED_MORE
    memset(out, 0, sizeof(proxy_t))
    if p[12] & 0xF == 0:
        out.kind = PROXY_LOCAL
        return <long>whole
    if family == 0x11:
        out.kind = PROXY_IPV4
        memcpy(out.address, V4_IN_V6, 12)
        memcpy(out.address + 12, p + 16, 4)
        out.port = <uint16_t>(<uint16_t>p[24] << 8 | p[25])
    elif family == 0x21:
        out.kind = PROXY_IPV6
        memcpy(out.address, p + 16, 16)
        out.port = <uint16_t>(<uint16_t>p[48] << 8 | p[49])
    else:
        out.kind = PROXY_UNIX if family == 0x31 else PROXY_UNSPEC
    if out.kind != PROXY_UNSPEC and check_tlvs(p, PROXY_START_BYTES + addresses, whole) != 0:
        return -PROXY_BAD_TLV       # UNSPEC: what follows is to be skipped, whatever it is
    return <long>whole


cdef int is_in_networks(const uint8_t *address, const network_t *networks, uint32_t count) noexcept nogil:
    cdef uint32_t i, bytes, rest
    for i in range(count):
        bytes = networks[i].bits // 8
        rest = networks[i].bits % 8
        if memcmp(address, networks[i].address, bytes) != 0:
            continue
        if rest == 0 or (address[bytes] ^ networks[i].address[bytes]) >> (8 - rest) == 0:
            return 1
    return 0


def parse(const unsigned char[::1] data not None) -> tuple:
    """(bytes of the header, kind, client address, client port), or (0, "", b"", 0) where more must come; the address
    has 16 bytes. ValueError names one of PROXY_FAILURES. For tests: reactors use the C function."""
    cdef proxy_t found
    cdef uint8_t none = 0
    cdef long used = proxy_parse(&data[0] if data.shape[0] else &none, <size_t>data.shape[0], &found)
    if used < 0:
        raise ValueError(PROXY_FAILURES[-used])
    if used == 0:
        return 0, "", b"", 0
    return used, PROXY_KINDS[found.kind], (<const unsigned char *>found.address)[:16], found.port


def is_trusted(address: bytes, networks: list) -> bool:
    """Is the address (16 bytes) in one of these (16 bytes, bits)? For tests."""
    cdef network_t one
    cdef bytes base
    if len(address) != 16:
        raise ValueError("an address has 16 bytes")
    for base, bits in networks:
        memcpy(one.address, <const char *>base, 16)
        one.bits = bits
        if is_in_networks(<const uint8_t *><const char *>address, &one, 1):
            return True
    return False
