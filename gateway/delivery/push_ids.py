"""Push ids as a provider sees them: a sequence number under a key of its app; must never be accepted for another app.

One block of AES: number and eight zero bytes, enciphered. Without the key an id tells nothing, not even how many pushes
there are, and a guess has the chance of one in 2^64 to decipher to zeros. A batch is enciphered in one call.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from array import array
from collections.abc import Mapping
from functools import cached_property
from struct import Struct
from typing import Any

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from gateway._native.push_results import build_blocks, pack_results

_pack = msgspec.msgpack.Encoder().encode
_BLOCK_BYTES = 16
TEXT_CHARS = 22  # base64url of a block without padding
_BLOCK = Struct(">Q8x")
#: apps whose keys are kept ready
_MOST_APPS = 10_000


class PushIds:
    """Builds and parses push ids with a server key (≥ 16 bytes)."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise ValueError("the key of push ids takes at least 16 bytes")
        self._key = hashlib.sha256(b"heliograph push id\0" + key).digest()
        self._ciphers: dict[str, tuple[CipherContext, CipherContext]] = {}

    def derive(self, purpose: bytes) -> bytes:
        """32 bytes for another kind of id: the same on every start, unrelated to those of pushes."""
        return hmac.digest(self._key, b"derive\0" + purpose, "sha256")

    @cached_property
    def downloads(self) -> PushIds:
        """Ids of what is brought to cards: their numbers are of the same sequence, and no push id is one of these."""
        return PushIds(self.derive(b"downloads"))

    @cached_property
    def campaigns(self) -> PushIds:
        """The same for campaigns over cards."""
        return PushIds(self.derive(b"campaigns"))

    def _of(self, app: str) -> tuple[CipherContext, CipherContext]:
        ciphers = self._ciphers.get(app)
        if ciphers is None:
            if len(self._ciphers) >= _MOST_APPS:
                self._ciphers.clear()
            key = hmac.digest(self._key, app.encode(), "sha256")[:16]
            # ECB is the bare permutation, which is what is wanted: each block is enciphered once and is unique
            cipher = Cipher(AES(key), ECB())  # noqa: S305
            ciphers = self._ciphers[app] = (cipher.encryptor(), cipher.decryptor())
        return ciphers

    def build(self, app: str, seq: int) -> str:
        """22 characters of base64url."""
        block = self._of(app)[0].update(_BLOCK.pack(seq))
        return base64.urlsafe_b64encode(block)[:TEXT_CHARS].decode()

    def pack_results(self, app: str, seqs: array[int], others: Mapping[int, Any]) -> bytes:
        """Results of a batch as a packed array: the push id of each sequence (array of "Q"); where that is 0, what
        `others` has for its place."""
        blocks = self._of(app)[0].update(build_blocks(seqs))
        return pack_results(seqs, blocks, [_pack(others[place]) for place in sorted(others)])

    def parse(self, text: str, app: str) -> int | None:
        """The sequence, or None where the text is no push id of this app."""
        if len(text) != TEXT_CHARS:
            return None
        try:
            raw = base64.b64decode(text.encode("ascii") + b"==", altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        if len(raw) != _BLOCK_BYTES or base64.urlsafe_b64encode(raw)[:TEXT_CHARS].decode() != text:
            return None
        block = self._of(app)[1].update(raw)
        return None if any(block[8:]) else int.from_bytes(block[:8], "big")
