"""Names of message resources and receipt subscriptions: opaque, a capability of whoever was told one (RFC 8030 §8.3).

Nothing is stored for a name: it holds what it stands for, enciphered, with 8 bytes that nobody else can compute.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from gateway.auth.es256 import parse_base64url

_BLOCK = struct.Struct(">IQI")  # app number, sequence or cursor, nonce
_TAG_BYTES = 8
NAME_CHARS = 32  # base64url of block and tag
_MESSAGE, _RECEIPTS = b"message", b"receipts"


class Message(NamedTuple):
    app_number: int
    seq: int


class Subscription(NamedTuple):
    """Receipts of messages that named it, after a cursor of the app's feed."""

    app_number: int
    cursor: int
    nonce: int

    @property
    def block(self) -> bytes:
        return _BLOCK.pack(*self)


class Names:
    """Builds and parses; `key` ≥ 16 bytes, secret."""

    def __init__(self, key: bytes) -> None:
        self._tag_key = hashlib.sha256(b"tag\0" + key).digest()
        # ECB is the bare permutation; blocks are unique
        cipher = Cipher(AES(hashlib.sha256(b"block\0" + key).digest()[:16]), ECB())  # noqa: S305
        self._encrypt = cipher.encryptor()
        self._decrypt = cipher.decryptor()

    def message(self, message: Message) -> str:
        return self._build(_MESSAGE, _BLOCK.pack(message.app_number, message.seq, 0))

    def parse_message(self, text: str) -> Message | None:
        block = self._parse(_MESSAGE, text)
        return None if block is None else Message(*_BLOCK.unpack(block)[:2])

    def subscription(self, subscription: Subscription) -> str:
        return self._build(_RECEIPTS, subscription.block)

    def parse_subscription(self, text: str) -> Subscription | None:
        block = self._parse(_RECEIPTS, text)
        return None if block is None else Subscription(*_BLOCK.unpack(block))

    def _tag(self, kind: bytes, sealed: bytes) -> bytes:
        return hmac.digest(self._tag_key, kind + b"\0" + sealed, "sha256")[:_TAG_BYTES]

    def _build(self, kind: bytes, block: bytes) -> str:
        sealed = self._encrypt.update(block)
        return base64.urlsafe_b64encode(sealed + self._tag(kind, sealed)).decode()

    def _parse(self, kind: bytes, text: str) -> bytes | None:
        raw = parse_base64url(text) if len(text) == NAME_CHARS else None
        if raw is None or not hmac.compare_digest(self._tag(kind, raw[:-_TAG_BYTES]), raw[-_TAG_BYTES:]):
            return None
        return self._decrypt.update(raw[:-_TAG_BYTES])
