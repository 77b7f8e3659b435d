"""Tokens of registrations: an HMAC of the triple and of how many tokens of it were revoked; must never give a revoked
one again.

In a fleet all tokens of a triple lie in the slot of the first (model.cluster), so that one partition has them all.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable

from gateway.model.registration import TOKEN_BYTES
from gateway.store.environment import Environment
from gateway.store.records import Db, unpack_u32

#: bits of a token that say its slot
_SLOT_BITS = 10
_REST_BITS = 8 * TOKEN_BYTES - _SLOT_BITS


def token_of_triple(key: bytes, device: str, app: str, account: str, generation: int = 0) -> bytes:
    """Of generation 0 the first token of a triple, which any node of a fleet can tell. `key`: the token key."""
    parts = [part.encode() for part in (device, app, account)]
    message = b"".join(struct.pack(">H", len(part)) + part for part in parts) + struct.pack(">I", generation)
    return hmac.digest(key, message, "sha256")[:TOKEN_BYTES]


def in_slot_of(first: bytes, token: bytes) -> bytes:
    """This token with the slot of that one; the bits that are left are as good as all of them."""
    rest = int.from_bytes(token, "big") & (1 << _REST_BITS) - 1
    slot = int.from_bytes(first, "big") >> _REST_BITS
    return (slot << _REST_BITS | rest).to_bytes(TOKEN_BYTES, "big")


def device_hash(key: bytes, device: str) -> bytes:
    """What the store knows a device by. `key`: the hash key."""
    return hashlib.blake2b(device.encode(), digest_size=8, key=key).digest()


def device_key(key: bytes, device: str) -> int:
    """The same as a number of 64 bits, never 0."""
    return int.from_bytes(device_hash(key, device), "big") or 1


class Tokens:
    """Control thread only. `key`: the server's token key; `in_fleet`: all of a triple lie in one slot."""

    def __init__(self, environment: Environment, key: bytes, *, in_fleet: bool = False) -> None:
        self._environment = environment
        self._key = key
        self._in_fleet = in_fleet
        #: first token of a triple → how many were revoked, as far as it is not durable yet
        self.tombstones: dict[bytes, int] = {}

    def build(self, device: str, app: str, account: str, generation: int) -> bytes:
        token = token_of_triple(self._key, device, app, account, generation)
        if generation and self._in_fleet:
            return in_slot_of(token_of_triple(self._key, device, app, account), token)
        return token

    def current(
        self, device: str, app: str, account: str, generation: int, find: Callable[[bytes], int]
    ) -> tuple[bytes, int]:
        """The token of a triple of which so many were revoked, and the number of its registration as `find` has it."""
        token = self.build(device, app, account, generation)
        number = find(token)
        if number < 0 and self._in_fleet:
            # a gateway that was alone may have given it out, and was imported: it lies in whichever slot
            alone = token_of_triple(self._key, device, app, account, generation)
            if (known := find(alone)) >= 0:
                return alone, known
        return token, number

    def revoked(self, first: bytes) -> int:
        """How many tokens of the triple with this first token were revoked."""
        count = self.tombstones.get(first)
        if count is None:
            raw = self._environment.get(Db.TOMBSTONES, first)
            count = 0 if raw is None else unpack_u32(raw)
        return count
