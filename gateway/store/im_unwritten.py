"""What the rooms of IM have written and is not durable yet: reads see it before the disk has it; must never hold
anything else in RAM.

A write is one entry of a commit. Where its commit fails it is taken back, and what the disk says holds again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gateway.store.commit import Committer
from gateway.store.commit_entry import Call
from gateway.store.environment import Environment
from gateway.store.records import DELETE, PUT, Db, Row

Place = tuple[Db, bytes]
#: None: it is removed
Values = dict[Place, bytes | None]

#: databases that are read in ranges, and how many bytes of a key a range shares at least
_SHARED = {
    Db.IM_USER_KEYS: 0,
    Db.IM_OWNED: 16,
    Db.IM_FRIENDS: 16,
    Db.IM_LOG: 16,
    Db.IM_SEEN: 16,
    Db.IM_QUEUES: 0,
    Db.IM_OUTGOING: 8,
    Db.IM_TASKS: 1,
}


class Unwritten:
    """Control thread only."""

    def __init__(self, environment: Environment, committer: Committer) -> None:
        self._environment = environment
        self._committer = committer
        #: a list of one, so that each write's is another object
        self._fresh: dict[Place, list[bytes | None]] = {}
        self._ranges: dict[Place, set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._fresh)

    @property
    def writable(self) -> bool:
        return self._committer.writable

    # --- reading --------------------------------------------------------------------------------------------

    def get(self, db: Db, key: bytes) -> bytes | None:
        if self._fresh:
            fresh = self._fresh.get((db, key))
            if fresh is not None:
                return fresh[0]
        return self._environment.get(db, key)

    def is_there(self, db: Db, key: bytes) -> bool:
        return self.get(db, key) is not None

    def range(self, db: Db, prefix: bytes, start: bytes = b"", limit: int = 0) -> list[tuple[bytes, bytes]]:
        """Rows whose key begins with `prefix`, from `start` on, in their order; at most `limit` (0: all)."""
        start = max(start, prefix)
        fresh = self._fresh_in(db, prefix, start)
        found: list[tuple[bytes, bytes]] = []
        place = 0
        for key, raw in self._environment.scan(db, start):
            if not key.startswith(prefix):
                break
            while place < len(fresh) and fresh[place][0] < key:
                _take(found, *fresh[place])
                place += 1
            if place < len(fresh) and fresh[place][0] == key:
                _take(found, *fresh[place])
                place += 1
            else:
                found.append((key, raw))
            if limit and len(found) >= limit:
                return found[:limit]
        for key, value in fresh[place:]:
            _take(found, key, value)
        return found[:limit] if limit else found

    def _fresh_in(self, db: Db, prefix: bytes, start: bytes) -> list[tuple[bytes, bytes | None]]:
        if not self._ranges:
            return []
        keys = self._ranges.get((db, prefix[: _SHARED[db]]), ())
        return [(key, self._fresh[db, key][0]) for key in sorted(keys) if key >= start and key.startswith(prefix)]

    # --- writing --------------------------------------------------------------------------------------------

    def write(self, values: Values, *, undone: Call | None = None) -> asyncio.Future[None]:
        """A promise: StoreUnavailable or QueueFull at once, or StoreUnavailable in the future, after `undone`."""
        fresh = _listed(values)

        def undo() -> None:
            self._settle(fresh)
            if undone is not None:
                undone()

        written = self._committer.accept(_rows(values), undo=undo, done=lambda: self._settle(fresh))
        self._put(fresh)
        return written

    def sweep(self, values: Values, done: Call, failed: Call | None = None) -> None:
        """What can be found again: `done` is called where it is written, `failed` (or `done`) where it is not.

        While nothing can be written it is kept and goes first when something can: a full map has a reserve for what
        makes room. Nothing else is under way then, so that what was read for it holds.
        """
        fresh = _listed(values)

        def over(call: Call) -> None:
            self._settle(fresh)
            call()

        if self._committer.writable:
            self._committer.refresh(_rows(values), redo=lambda: over(failed or done), done=lambda: over(done))
        else:
            self._committer.keep(_rows(values), done=lambda: over(done))
        self._put(fresh)

    def keep(self, rows: list[Row]) -> None:
        """Rows that nobody reads before the next start."""
        self._committer.keep(rows)

    def _put(self, fresh: Mapping[Place, list[bytes | None]]) -> None:
        self._fresh.update(fresh)
        for db, key in fresh:
            if db in _SHARED:
                self._ranges.setdefault((db, key[: _SHARED[db]]), set()).add(key)

    def _settle(self, fresh: Mapping[Place, list[bytes | None]]) -> None:
        """Durable or taken back: what the disk says holds again, unless a later write is under way."""
        for place, value in fresh.items():
            if self._fresh.get(place) is not value:
                continue
            del self._fresh[place]
            db, key = place
            if db in _SHARED:
                shared = (db, key[: _SHARED[db]])
                keys = self._ranges[shared]
                keys.discard(key)
                if not keys:
                    del self._ranges[shared]


def _take(found: list[tuple[bytes, bytes]], key: bytes, value: bytes | None) -> None:
    if value is not None:
        found.append((key, value))


def _listed(values: Values) -> dict[Place, list[bytes | None]]:
    return {place: [value] for place, value in values.items()}


def _rows(values: Values) -> list[Row]:
    return [(DELETE, db, key, b"") if value is None else (PUT, db, key, value) for (db, key), value in values.items()]
