"""Signs what the gateway posts to a provider, so that it can tell the gateway's requests; must never log a secret.

Header `Heliograph-Signature: t=<Unix seconds>,v1=<hex HMAC-SHA256 of "t.body" with the shared secret>`. A receiver
computes the same, compares in constant time, and refuses a `t` too far from its own clock.
"""

from __future__ import annotations

import hmac

HEADER = "Heliograph-Signature"


def build_signature(secret: str, body: bytes, at_s: int) -> str:
    """The header's value."""
    return f"t={at_s},v1={hmac.new(secret.encode(), b'%d.' % at_s + body, 'sha256').hexdigest()}"


def verify_signature(secret: str, body: bytes, header: str, now_s: int, tolerance_s: int = 300) -> bool:
    """True where the header was built with this secret for this body, not long ago."""
    parts = dict(part.split("=", 1) for part in header.split(",") if "=" in part)
    at = parts.get("t", "")
    if not (at.isascii() and at.isdigit()) or abs(now_s - int(at)) > tolerance_s:
        return False
    return hmac.compare_digest(build_signature(secret, body, int(at)).encode(), header.encode())
