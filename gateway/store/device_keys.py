"""The keys that device secrets are made with, and how they change; must never show one, nor let one be used that was
made in the same step.

One machine makes a key and uses it. A fleet makes it first (`next`), and uses it when all nodes have it.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from gateway.model.errors import ConfigError

KEY_BYTES = 32
#: a device secret names its key in one byte
KEY_IDS = 256
#: no key waits to be used
NO_KEY = -1
_FIELD = "device_key_id"


class DeviceKeyRing(NamedTuple):
    #: id → key; older ones stay until they are dropped
    keys: dict[int, bytes]
    #: new secrets are made with it
    current: int
    #: made already, and not used before everybody has it
    next: int = NO_KEY

    def __repr__(self) -> str:
        return f"DeviceKeyRing(ids={sorted(self.keys)}, current={self.current}, next={self.next})"

    def with_next(self) -> DeviceKeyRing:
        """A key more, which nothing is made with yet. ConfigError where all ids are in use."""
        free = ((self.current + step) % KEY_IDS for step in range(1, KEY_IDS))
        key_id = next((key_id for key_id in free if key_id not in self.keys), NO_KEY)
        if key_id == NO_KEY:
            raise ConfigError("all device key ids are in use; drop old ones first", field=_FIELD)
        return self._replace(keys={**self.keys, key_id: secrets.token_bytes(KEY_BYTES)}, next=key_id)

    def with_next_used(self) -> DeviceKeyRing:
        return self._replace(current=self.next, next=NO_KEY)

    def without(self, key_id: int) -> DeviceKeyRing:
        """ConfigError for the key in use or an unknown id."""
        if key_id == self.current:
            raise ConfigError("the current device key can not be dropped; rotate first", field=_FIELD)
        if key_id not in self.keys:
            raise ConfigError("there is no device key with this id", field=_FIELD)
        rest = {other: key for other, key in self.keys.items() if other != key_id}
        return self._replace(keys=rest, next=NO_KEY if key_id == self.next else self.next)
