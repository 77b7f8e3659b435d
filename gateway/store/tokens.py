"""Tokens of registrations: an HMAC of the triple and of how many tokens of it were revoked; must never give a revoked
one again.
"""

from __future__ import annotations

import hmac
import struct

from gateway.model.registration import TOKEN_BYTES
from gateway.store.environment import Environment
from gateway.store.records import Db, unpack_u32


class Tokens:
    """Control thread only. `key`: the server's token key."""

    def __init__(self, environment: Environment, key: bytes) -> None:
        self._environment = environment
        self._key = key
        #: first token of a triple → how many were revoked, as far as it is not durable yet
        self.tombstones: dict[bytes, int] = {}

    def build(self, device: str, app: str, account: str, generation: int) -> bytes:
        parts = [part.encode() for part in (device, app, account)]
        message = b"".join(struct.pack(">H", len(part)) + part for part in parts) + struct.pack(">I", generation)
        return hmac.digest(self._key, message, "sha256")[:TOKEN_BYTES]

    def revoked(self, first: bytes) -> int:
        """How many tokens of the triple with this first token were revoked."""
        count = self.tombstones.get(first)
        if count is None:
            raw = self._environment.get(Db.TOMBSTONES, first)
            count = 0 if raw is None else unpack_u32(raw)
        return count
