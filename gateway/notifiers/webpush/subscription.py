"""A browser's push subscription, as the device registered it; must never raise for what a device may send.

`addresses["webpush"]` is the JSON of `PushSubscription.toJSON()` (W3C Push API §8): {"endpoint", "keys": {"p256dh",
"auth"}}.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from gateway.notifiers.fields import is_host
from gateway.notifiers.webpush.settings import decode

MAX_ADDRESS_CHARS = 2_048
_POINT_BYTES = 65  # uncompressed, RFC 8291 §3.1
_AUTH_BYTES = 16  # RFC 8291 §3.2
HTTPS_PORT = 443


class _Keys(msgspec.Struct):
    p256dh: str
    auth: str


class _Json(msgspec.Struct):
    endpoint: str
    keys: _Keys


class Subscription(NamedTuple):
    host: str  # lower case, ASCII; without the brackets of an IPv6 literal
    port: int
    target: str  # path and query
    p256dh: bytes
    auth: bytes

    @property
    def authority(self) -> str:
        """As in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == HTTPS_PORT else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """RFC 6454 §6.2; the audience of a VAPID token (RFC 8292 §2)."""
        return f"https://{self.authority}"


def parse_subscription(address: str) -> Subscription | None:
    """None where it is no https subscription with both keys."""
    if not address or len(address) > MAX_ADDRESS_CHARS:
        return None
    try:
        found = msgspec.json.decode(address, type=_Json)
        p256dh, auth = decode(found.keys.p256dh), decode(found.keys.auth)
        parts = urlsplit(found.endpoint)
        host, port = parts.hostname, parts.port
    except (msgspec.DecodeError, ValueError):
        return None
    if parts.scheme != "https" or not host or port == 0 or "@" in parts.netloc or not is_host(host):
        return None
    if len(p256dh) != _POINT_BYTES or p256dh[0] != 4 or len(auth) != _AUTH_BYTES:
        return None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not found.endpoint.isascii() or any(c <= " " or c in '\\^`{|}<>"\x7f' for c in found.endpoint):
        return None
    return Subscription(host.lower(), port or HTTPS_PORT, target, p256dh, auth)
