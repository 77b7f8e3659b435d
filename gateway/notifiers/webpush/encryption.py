"""Encrypts a message for one subscription (RFC 8291, content coding aes128gcm of RFC 8188); must never reuse a key."""

from __future__ import annotations

import http_ece
from cryptography.hazmat.primitives.asymmetric import ec

#: a push service need not take more (RFC 8291 §4, RFC 8030 §7.2)
MAX_BODY_BYTES = 4_096
#: salt 16, record size 4, key length 1, key 65 before it; delimiter 1 and tag 16 behind
OVERHEAD_BYTES = 103
MAX_PLAIN_BYTES = MAX_BODY_BYTES - OVERHEAD_BYTES


def encrypt(
    plain: bytes,
    p256dh: bytes,
    auth: bytes,
    *,
    salt: bytes | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> bytes:
    """One record: header and ciphertext. `salt` and `key` are fresh, but in tests. Raises ValueError where p256dh is no
    point of the curve."""
    record = http_ece.encrypt(
        plain,
        salt=salt,
        private_key=key or ec.generate_private_key(ec.SECP256R1()),
        dh=p256dh,
        auth_secret=auth,
        version="aes128gcm",
        rs=MAX_BODY_BYTES,
    )
    return bytes(record)
