"""One partition's store while a gateway's store is split: rows collected and written in slices; must never hold more
rows in RAM than a slice, nor give a number out twice.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from gateway.config.sections import Store as StoreConfig
from gateway.model.cluster import first_seq
from gateway.store.directory import NUMBERS_KEY
from gateway.store.environment import VIEW_ROOM, Environment
from gateway.store.records import PUT, Db, Row, pack_u64
from gateway.store.sequences import MARK_KEY

#: rows of all partitions together that wait to be written, at most in bytes; a slice has at least SLICE_ROWS
BUFFER_BYTES = 32 << 20
SLICE_BYTES = 16 << 10
SLICE_ROWS = 1_000
#: what must not be lost: no row of these is written twice
COUNTED = (Db.REGISTRATIONS, Db.JOURNAL, Db.SCHEDULED, Db.OUTCOMES)


class SplitTarget:
    """Open from the start. One thread."""

    def __init__(self, config: StoreConfig, folder: Path, partition: int, partitions: int) -> None:
        self.partition = partition
        self.folder = folder
        # what is made here is sent to NATS whole, and made anew where that does not come about
        mine = dataclasses.replace(config, path=str(folder), sync=False)
        self.environment = Environment.open(mine, room=VIEW_ROOM)
        self._slice_bytes = max(SLICE_BYTES, BUFFER_BYTES // partitions)
        self._rows: list[Row] = []
        self._bytes = 0
        self._next_number = 1
        self._nobody = 0
        self._counts = dict.fromkeys(COUNTED, 0)

    def put(self, db: Db, key: bytes, value: bytes) -> None:
        self._rows.append((PUT, db, key, value))
        self._bytes += len(key) + len(value)
        if db in self._counts:
            self._counts[db] += 1
        if self._bytes >= self._slice_bytes or len(self._rows) >= SLICE_ROWS:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            self.environment.apply([self._rows])
        self._rows, self._bytes = [], 0

    def take_number(self) -> int:
        """Of a registration."""
        self._next_number += 1
        return self._next_number - 1

    def nobody(self) -> int:
        """A number that no registration has nor will have: what is pending for one that is gone is told of so."""
        if not self._nobody:
            self._nobody = self.take_number()
        return self._nobody

    def finish(self) -> None:
        """Everything is written, and numbering goes on behind it. ValueError where a row took another's place."""
        self.put(Db.META, MARK_KEY, pack_u64(first_seq(self.partition)))
        self.put(Db.META, NUMBERS_KEY, pack_u64(self._next_number))
        self.flush()
        for db, count in self._counts.items():
            if self.environment.entries(db) != count:
                raise ValueError(f"two rows of {db.name.lower()} with one key")

    def close(self) -> None:
        self._rows = []
        self.environment.close()
