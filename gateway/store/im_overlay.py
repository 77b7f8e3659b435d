"""Rows of media that are on their way to disk, so that what was put is seen by the next read; must never answer what a
failed commit took back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.records import PUT, Db, Row

_Key = tuple[int, bytes]


class Overlay:
    """Control thread only. All rows of a database that is read through it are written through it."""

    def __init__(self, environment: Environment, committer: Committer) -> None:
        self._environment = environment
        self._committer = committer
        self._rows: dict[_Key, tuple[int, bytes | None]] = {}  # entry that put it last, value; None: removed
        self._under_way: set[int] = set()
        self._last = 0

    def get(self, db: Db, key: bytes) -> bytes | None:
        waiting = self._rows.get((db, key))
        return self._environment.get(db, key) if waiting is None else waiting[1]

    def is_removed(self, db: Db, key: bytes) -> bool:
        """Of a row that is on disk: its end is on its way."""
        waiting = self._rows.get((db, key))
        return waiting is not None and waiting[1] is None

    def write(
        self,
        rows: Sequence[Row],
        *,
        done: Callable[[], None] | None = None,
        undo: Callable[[], None] | None = None,
    ) -> asyncio.Future[None]:
        """StoreUnavailable and QueueFull at once where nothing can be taken. `undo`: it was not written after all."""
        self._last += 1
        entry = self._last
        before: list[tuple[_Key, tuple[int, bytes | None] | None]] = []

        def landed() -> None:
            self._under_way.discard(entry)
            for _, db, key, _ in rows:
                waiting = self._rows.get((db, key))
                if waiting is not None and waiting[0] == entry:
                    del self._rows[db, key]
            if done is not None:
                done()

        def failed() -> None:
            # what came later was taken back before this
            self._under_way.discard(entry)
            for place, earlier in reversed(before):
                if earlier is not None and earlier[0] in self._under_way:
                    self._rows[place] = earlier
                else:
                    self._rows.pop(place, None)
            if undo is not None:
                undo()

        future = self._committer.accept(rows, undo=failed, done=landed)
        self._under_way.add(entry)
        for operation, db, key, value in rows:
            before.append(((db, key), self._rows.get((db, key))))
            self._rows[db, key] = (entry, value if operation == PUT else None)
        return future
