"""What a device of the swarm says at login, to a gateway (docs/frames.md) or a broker (MQTT 3.1.1); bytes only."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy
from gateway._load.fleet cimport device_t, fleet_t

cdef extern from "gw_msgpack.h" nogil:
    uint8_t *gw_write_uint(uint8_t *p, unsigned long v)
    uint8_t *gw_write_str(uint8_t *p, const void *s, uint32_t n)

cdef enum:                          # frames (docs/frames.md)
    HELLO = 0x03
    REGISTER = 0x05


cdef uint8_t *frame_end(uint8_t *frame, uint8_t *p) noexcept nogil:
    """A body of up to 16,383 bytes was written from frame + 3 on."""
    cdef uint32_t size = <uint32_t>(p - frame - 3)
    frame[1] = <uint8_t>(size & 0x7F | 0x80)
    frame[2] = <uint8_t>(size >> 7)
    return p


cdef uint32_t build_login(const fleet_t *f, const device_t *d, uint32_t number, uint8_t *out) noexcept nogil:
    """HELLO, and REGISTER behind it."""
    cdef uint8_t *p = out
    cdef uint8_t *frame = out
    cdef uint8_t version[16]
    cdef uint32_t v = number % f.versions, n = 2
    frame[0] = HELLO
    p[3] = <uint8_t>(0x82 + 2 * (d.id_bytes != 0))
    p = gw_write_str(p + 4, b"v", 1)
    p = gw_write_uint(p, 1)
    if d.id_bytes:
        p = gw_write_str(p, b"device", 6)
        p = gw_write_str(p, d.id, d.id_bytes)
        p = gw_write_str(p, b"secret", 6)
        p[0] = 0xC4
        p[1] = d.secret_bytes
        memcpy(p + 2, d.secret, d.secret_bytes)
        p += 2 + d.secret_bytes
    p = gw_write_str(p, b"heartbeat", 9)
    p = gw_write_uint(p, (f.heartbeat_ms + 999) // 1000)
    p = frame_end(frame, p)
    if not f.registers:
        return <uint32_t>(p - out)
    frame = p
    frame[0] = REGISTER
    frame[3] = 0x83
    p = gw_write_str(frame + 4, b"req", 3)
    p = gw_write_uint(p, 1)
    p = gw_write_str(p, b"app", 3)
    p = gw_write_str(p, f.app, f.app_bytes)
    p = gw_write_str(p, b"version", 7)
    version[0] = 49     # "1."
    version[1] = 46
    if v >= 100:
        version[n] = <uint8_t>(48 + v // 100)
        n += 1
    if v >= 10:
        version[n] = <uint8_t>(48 + v // 10 % 10)
        n += 1
    version[n] = <uint8_t>(48 + v % 10)
    p = gw_write_str(p, version, n + 1)
    return <uint32_t>(frame_end(frame, p) - out)


cdef uint32_t digits_of(uint32_t number, uint8_t *out) noexcept nogil:
    cdef uint8_t backwards[10]
    cdef uint32_t n = 0, i
    while True:
        backwards[n] = <uint8_t>(48 + number % 10)
        number //= 10
        n += 1
        if number == 0:
            break
    for i in range(n):
        out[i] = backwards[n - 1 - i]
    return n


cdef uint32_t build_connect(const fleet_t *f, uint32_t number, uint8_t *out) noexcept nogil:
    """MQTT 3.1.1 CONNECT, section 3.1; a clean session named after the device."""
    cdef uint8_t name[12]
    cdef uint32_t n, keep = f.heartbeat_ms // 1000 + 1
    name[0] = 100
    n = 1 + digits_of(number, name + 1)
    out[0] = 0x10
    out[1] = <uint8_t>(10 + 2 + n)
    memcpy(out + 2, b"\x00\x04MQTT\x04\x02", 8)
    out[10] = <uint8_t>(keep >> 8)
    out[11] = <uint8_t>keep
    out[12] = 0
    out[13] = <uint8_t>n
    memcpy(out + 14, name, n)
    return 14 + n


cdef uint32_t build_subscribe(uint32_t number, uint8_t *out) noexcept nogil:
    """MQTT SUBSCRIBE, section 3.8: to d/<number> and to all, QoS 1."""
    cdef uint8_t topic[16]
    cdef uint32_t n
    memcpy(topic, b"d/", 2)
    n = 2 + digits_of(number, topic + 2)
    out[0] = 0x82
    out[1] = <uint8_t>(2 + 2 + n + 1 + 2 + 3 + 1)
    out[2] = 0
    out[3] = 1
    out[4] = 0
    out[5] = <uint8_t>n
    memcpy(out + 6, topic, n)
    out[6 + n] = 1
    memcpy(out + 7 + n, b"\x00\x03all\x01", 6)
    return 13 + n
