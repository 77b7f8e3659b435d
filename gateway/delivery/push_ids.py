"""Push ids as a provider sees them: a sequence number with a keyed check; must never be accepted for another app."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

_SEQ_BYTES = 8
_TAG_BYTES = 10
_TEXT_CHARS = (_SEQ_BYTES + _TAG_BYTES) * 4 // 3


class PushIds:
    """Builds and parses push ids with a server key (≥ 16 bytes).

    The check keeps the ids of other apps from being guessed.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise ValueError("the key of push ids takes at least 16 bytes")
        self._key = hashlib.sha256(b"heliograph push id\0" + key).digest()

    def _tag(self, app: str, seq: bytes) -> bytes:
        return hmac.digest(self._key, app.encode() + b"\0" + seq, "sha256")[:_TAG_BYTES]

    def build(self, app: str, seq: int) -> str:
        """24 characters of base64url."""
        packed = seq.to_bytes(_SEQ_BYTES, "big")
        return base64.urlsafe_b64encode(packed + self._tag(app, packed)).decode()

    def parse(self, text: str, app: str) -> int | None:
        """The sequence, or None where the text is no push id of this app."""
        if len(text) != _TEXT_CHARS:
            return None
        try:
            raw = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        packed = raw[:_SEQ_BYTES]
        if len(raw) != _SEQ_BYTES + _TAG_BYTES or not hmac.compare_digest(raw[_SEQ_BYTES:], self._tag(app, packed)):
            return None
        return int.from_bytes(packed, "big")
