"""What a split has to remember of every registration and delivery, on disk; must never grow in RAM with the store."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from gateway.store.records import pack_u32, pack_u64

#: room of its map; only what is used is on the disk
MAP_BYTES = 1 << 40
#: entries written at once
SLICE = 20_000
_NUMBER = struct.Struct(">HI")
_PLACE = struct.Struct(">HQ")


class Seat(NamedTuple):
    """A registration's partition, and its number there."""

    partition: int
    number: int


class Spot(NamedTuple):
    """A delivery's partition, and its sequence there."""

    partition: int
    seq: int


class SplitScratch:
    """Two tables. What was put is found at once. One thread."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True)
        self._env: Any = lmdb.open(
            str(folder), map_size=MAP_BYTES, max_dbs=2, sync=False, metasync=False, lock=False, mode=0o600
        )
        self._dbs = {name: self._env.open_db(name) for name in (b"seats", b"spots")}
        self._fresh: dict[bytes, dict[bytes, bytes]] = {b"seats": {}, b"spots": {}}

    def put_seat(self, number: int, seat: Seat) -> None:
        self._put(b"seats", pack_u32(number), _NUMBER.pack(*seat))

    def seat(self, number: int) -> Seat | None:
        raw = self._get(b"seats", pack_u32(number))
        return None if raw is None else Seat(*_NUMBER.unpack(raw))

    def put_spot(self, seq: int, spot: Spot) -> None:
        self._put(b"spots", pack_u64(seq), _PLACE.pack(*spot))

    def spot(self, seq: int) -> Spot | None:
        raw = self._get(b"spots", pack_u64(seq))
        return None if raw is None else Spot(*_PLACE.unpack(raw))

    def _put(self, table: bytes, key: bytes, value: bytes) -> None:
        fresh = self._fresh[table]
        fresh[key] = value
        if len(fresh) >= SLICE:
            with self._env.begin(write=True, db=self._dbs[table]) as txn:
                for item in sorted(fresh.items()):
                    txn.put(*item)
            fresh.clear()

    def _get(self, table: bytes, key: bytes) -> bytes | None:
        found = self._fresh[table].get(key)
        if found is not None:
            return found
        with self._env.begin(db=self._dbs[table]) as txn:
            stored: bytes | None = txn.get(key)
        return stored

    def close(self) -> None:
        self._env.close()
