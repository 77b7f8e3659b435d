"""Signed links that expire: whoever has one may fetch that file until then; must never tell who gave it away.

A token is the ref, the Unix second it ends, and an HMAC-SHA-256 of both under a key derived from the server's, cut to
16 bytes.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable

from gateway.model.im_media import REF_BYTES

PATH = "/m/"
_TAG_BYTES = 16
_END_BYTES = 5
TOKEN_BYTES = REF_BYTES + _END_BYTES + _TAG_BYTES
_TEXT = -(-TOKEN_BYTES * 4 // 3)
#: a link ends on a multiple of this part of its time, so that it is the same for a while and can be cached
_STEPS = 8


class Links:
    """`key`: a server key of at least 16 bytes. `base`: what comes before the path, without a slash."""

    def __init__(self, key: bytes, base: Callable[[], str], link_s: float, clock: Callable[[], int]) -> None:
        self._key = hmac.digest(key, b"heliograph media links", "sha256")
        self._base = base
        self._link_s = max(1, int(link_s))
        self._clock = clock

    def build(self, ref: bytes) -> str:
        step = max(1, self._link_s // _STEPS)
        end = (self._clock() // 1_000 + self._link_s) // step * step + step
        plain = ref + end.to_bytes(_END_BYTES, "big")
        return self._base() + PATH + base64.urlsafe_b64encode(plain + self._tag(plain)).rstrip(b"=").decode()

    def parse(self, token: str) -> tuple[bytes, int] | None:
        """(ref, seconds it is still good for); None where it is not ours, or over."""
        if len(token) != _TEXT or not token.isascii():
            return None
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-_TEXT % 4))
        except (binascii.Error, ValueError):
            return None
        plain, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        # only the one way to write it: what a look-alike letter or spare bits would do is refused
        if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != token or not hmac.compare_digest(
            tag, self._tag(plain)
        ):
            return None
        left = int.from_bytes(plain[REF_BYTES:], "big") - self._clock() // 1_000
        return (plain[:REF_BYTES], left) if left > 0 else None

    def _tag(self, plain: bytes) -> bytes:
        return hmac.digest(self._key, plain, "sha256")[:_TAG_BYTES]
