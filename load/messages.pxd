"""What a device of the swarm says at login."""
from libc.stdint cimport uint8_t, uint32_t
from gateway._load.fleet cimport device_t, fleet_t

# Sets the length of a frame whose body of up to 16,383 bytes was written from frame + 3 on; returns its end.
cdef uint8_t *frame_end(uint8_t *frame, uint8_t *p) noexcept nogil
# HELLO, and REGISTER behind it where the fleet registers; bytes written. `out` holds 512.
cdef uint32_t build_login(const fleet_t *f, const device_t *d, uint32_t number, uint8_t *out) noexcept nogil
# MQTT CONNECT and SUBSCRIBE.
cdef uint32_t build_connect(const fleet_t *f, uint32_t number, uint8_t *out) noexcept nogil
cdef uint32_t build_subscribe(uint32_t number, uint8_t *out) noexcept nogil
