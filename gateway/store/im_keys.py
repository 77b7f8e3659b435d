"""Data keys of IM users: each user's own, random, wrapped by a key of keys.json; must never write one in the clear,
nor keep one in RAM for a user who is gone.

When a user is removed the wrapped key is, and with it everything that was sealed under it. After the server's key was
rotated (`heliograph keys rotate --of im`) the data keys are wrapped again, a slice at a time; they stay the same.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.model.errors import ConfigError, StoreUnavailable
from gateway.store.im_rows import seal, unseal
from gateway.store.im_unwritten import Unwritten, Values
from gateway.store.keys import KEY_BYTES, ServerKeys
from gateway.store.records import PUT, Db, pack_u32

#: in META: the key of keys.json that wraps new data keys
IM_KEY_IN_USE = b"im_key"
#: keys kept ready in RAM, the one used longest ago goes first
_READY = 4_096
#: data keys looked at in one call of `sweep`
_SLICE = 1_000
#: the number of a user's first data key
_FIRST = 1


def wrapping_key(raw: bytes) -> int:
    """Number of the key of keys.json that opens the row of a data key."""
    return raw[0]


class UserCipher(NamedTuple):
    #: number of the data key, from 1
    version: int
    aead: AESGCM

    def __repr__(self) -> str:
        return "UserCipher(hidden)"


class UserKeys:
    """Control thread only."""

    def __init__(self, unwritten: Unwritten, keys: ServerKeys) -> None:
        in_use = pack_u32(keys.im_key_id)
        if unwritten.get(Db.META, IM_KEY_IN_USE) != in_use:
            unwritten.keep([(PUT, Db.META, IM_KEY_IN_USE, in_use)])
        self._unwritten = unwritten
        self._keys = keys
        self._wrapping = {key_id: AESGCM(key) for key_id, key in keys.im_keys.items()}
        self._ready: OrderedDict[bytes, UserCipher] = OrderedDict()
        self._place: bytes | None = b""  # of the sweep; None: all are wrapped with the current key
        self._sweeping = False

    def check(self) -> None:
        """ConfigError where keys.json is not the one of this store."""
        for user, raw in self._unwritten.range(Db.IM_USER_KEYS, b"", limit=1):
            self._unwrap(user, raw)

    def cipher(self, user: bytes) -> UserCipher | None:
        """None: there is no such user."""
        ready = self._ready.get(user)
        if ready is not None:
            self._ready.move_to_end(user)
            return ready
        raw = self._unwritten.get(Db.IM_USER_KEYS, user)
        if raw is None:
            return None
        return self._keep_ready(user, UserCipher(raw[1], AESGCM(self._unwrap(user, raw))))

    def _keep_ready(self, user: bytes, cipher: UserCipher) -> UserCipher:
        self._ready[user] = cipher
        if len(self._ready) > _READY:
            self._ready.popitem(last=False)
        return cipher

    def is_there(self, user: bytes) -> bool:
        return user in self._ready or self._unwritten.is_there(Db.IM_USER_KEYS, user)

    def create(self, user: bytes) -> bytes:
        """The row of a new key. Call `forget` where it was not written."""
        if not self._keys.im_key_id:
            raise StoreUnavailable("keys.json has no IM key and could not be written at the start; no user was made")
        return self._wrap(user, _FIRST, secrets.token_bytes(KEY_BYTES))

    def forget(self, user: bytes) -> None:
        self._ready.pop(user, None)

    def _wrap(self, user: bytes, version: int, key: bytes) -> bytes:
        head = bytes([self._keys.im_key_id, version])
        return head + seal(self._wrapping[self._keys.im_key_id], key, bytes([Db.IM_USER_KEYS]) + user + head)

    def _unwrap(self, user: bytes, raw: bytes) -> bytes:
        head = raw[:2]
        wrapping = self._wrapping.get(head[0])
        if wrapping is None:
            raise ConfigError(
                f"keys.json lacks IM key {head[0]}, which this store still needs; put it back from the backup",
                field="store.path",
            )
        return unseal(wrapping, raw[2:], bytes([Db.IM_USER_KEYS]) + user + head)

    def sweep(self) -> bool:
        """Wrap a slice of the data keys again that are wrapped with an older key; True where there are more."""
        if self._place is None or not self._unwritten.writable:
            return False
        if self._sweeping:
            return True
        rows = self._unwritten.range(Db.IM_USER_KEYS, b"", self._place, _SLICE)
        values: Values = {
            (Db.IM_USER_KEYS, user): self._wrap(user, raw[1], self._unwrap(user, raw))
            for user, raw in rows
            if wrapping_key(raw) != self._keys.im_key_id
        }
        before, self._place = self._place, rows[-1][0] + b"\0" if len(rows) == _SLICE else None
        if values:
            self._sweeping = True
            self._unwritten.sweep(values, self._swept, failed=lambda: self._again(before))
        return self._place is not None

    def _swept(self) -> None:
        self._sweeping = False

    def _again(self, place: bytes) -> None:
        self._sweeping = False
        self._place = place
