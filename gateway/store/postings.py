"""Name → registration numbers (aliases, tags, devices) over an LMDB dupsort database; must never answer with what a
failed commit undid.

Changes not durable yet are laid over what is stored, so that a change is seen at once.
"""

from __future__ import annotations

import struct

from gateway.store.environment import Environment
from gateway.store.records import DELETE_DUP, PUT, Db, Row, pack_u32


class Change:
    """One number added to or removed from one name; `row` is its row."""

    __slots__ = ("added", "key", "number", "postings", "row")

    def __init__(self, postings: Postings, db: Db, key: bytes, number: int, added: bool) -> None:
        self.postings = postings
        self.key = key
        self.number = number
        self.added = added
        self.row: Row = (PUT if added else DELETE_DUP, db, key, pack_u32(number))


class Postings:
    """Control thread only."""

    def __init__(self, environment: Environment, db: Db) -> None:
        self._environment = environment
        self._db = db
        self._fresh: dict[bytes, dict[int, Change]] = {}

    def change(self, key: bytes, number: int, *, added: bool) -> Change:
        """Visible at once; call `settled` when its row is durable or its commit failed."""
        change = Change(self, self._db, key, number, added)
        self._fresh.setdefault(key, {})[number] = change
        return change

    def settled(self, change: Change) -> None:
        changes = self._fresh.get(change.key)
        if changes is not None and changes.get(change.number) is change:
            del changes[change.number]
            if not changes:
                del self._fresh[change.key]

    def of(self, key: bytes) -> list[int]:
        """Numbers of a name, ascending."""
        with self._environment.begin() as txn, txn.cursor(self._environment.db(self._db)) as cursor:
            raw = cursor.getmulti([key], dupdata=True, dupfixed_bytes=4, keyfixed=True)
            numbers = [n for (n,) in struct.iter_unpack(f">{len(key)}xI", raw)] if len(raw) else []
        changes = self._fresh.get(key)
        if not changes:
            return numbers
        merged = set(numbers)
        for number, change in changes.items():
            if change.added:
                merged.add(number)
            else:
                merged.discard(number)
        return sorted(merged)
