"""Small records that all nodes see and change by compare-and-set alone: the port, and one in the process for tests;
must never lose the order of changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from gateway.model.errors import NodeUnreachable


class Entry(NamedTuple):
    key: str
    value: bytes  # empty: it was deleted
    revision: int  # rises with each change of any key


class Changed(Exception):
    """The record is not at the revision that was expected: somebody else changed it."""


class InDoubt(NodeUnreachable):
    """No answer: it may have been carried out. Read to know."""


class BucketGone(InDoubt):
    """The servers say that they have no such bucket: nothing was carried out. Those that start say so for a moment."""


class BucketReplaced(Exception):
    """The bucket is not the one that was entered, but another of its name."""


Hear = Callable[[Entry], None]
End = Callable[[], Awaitable[None]]


class Leases(Protocol):
    """Every call may raise InDoubt (NodeUnreachable), or BucketGone, which is one. Of one loop."""

    async def made(self) -> str:
        """When the bucket was made, as the majority knows it: tells it from another of its name, made later."""
        ...

    async def get(self, key: str) -> Entry | None:
        """As the majority has it now."""
        ...

    async def all(self) -> list[Entry]:
        """Records that are there, as the majority has them at some moment during the call or before."""
        ...

    async def create(self, key: str, value: bytes) -> int:
        """Its revision. Changed: it is there."""
        ...

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Its new revision. Changed: it is at another one than given."""
        ...

    async def delete(self, key: str, revision: int) -> None:
        """Changed: it is at another one than given."""
        ...

    async def watch(self, hear: Hear) -> End:
        """`hear` gets each record as it stands, then each change, in the order of revisions; after trouble the state of
        each record again. What was replaced before it could be told is left out: the last state always comes. Await
        what is returned to end it."""
        ...

    async def watch_again(self) -> None:
        """The watch seems to be dead: make it anew."""
        ...


class Bucket:
    """The records of fleets in one process, as the engine would keep them. `is_gone`: somebody removed it."""

    def __init__(self, made: str = "") -> None:
        self.made = made
        self.is_gone = False
        self.entries: dict[str, Entry] = {}
        self.revision = 0
        self.watchers: list[LocalLeases] = []

    def put(self, key: str, value: bytes, expected: int) -> int:
        found = self.entries.get(key)
        # a deleted record may be created again
        now = 0 if found is None or (not found.value and expected == 0) else found.revision
        if now != expected:
            raise Changed
        self.revision += 1
        entry = self.entries[key] = Entry(key, value, self.revision)
        for watcher in self.watchers:
            watcher.arrive(entry)
        return self.revision


class LocalLeases:
    """One node's view of a bucket, with switches for tests: `is_cut` (nothing gets through), `loses_answers` (carried
    out, but nobody learns it), `latency_s`. `bucket` may be replaced by another."""

    def __init__(self, bucket: Bucket, *, latency_s: float = 0.0) -> None:
        self.bucket = bucket
        self.is_cut = False
        self.loses_answers = False
        self.latency_s = latency_s
        self._hear: Hear | None = None

    async def made(self) -> str:
        await self._travel()
        made = self.bucket.made
        await self._return()
        return made

    async def get(self, key: str) -> Entry | None:
        await self._travel()
        entry = self.bucket.entries.get(key)
        await self._return()
        return entry if entry is not None and entry.value else None

    async def all(self) -> list[Entry]:
        await self._travel()
        entries = [entry for entry in self.bucket.entries.values() if entry.value]
        await self._return()
        return entries

    async def create(self, key: str, value: bytes) -> int:
        return await self._put(key, value, 0)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        return await self._put(key, value, revision)

    async def delete(self, key: str, revision: int) -> None:
        await self._put(key, b"", revision)

    async def watch(self, hear: Hear) -> End:
        self._hear = hear
        self.bucket.watchers.append(self)
        await self.watch_again()

        async def end() -> None:
            self._hear = None
            if self in self.bucket.watchers:
                self.bucket.watchers.remove(self)

        return end

    async def watch_again(self) -> None:
        for entry in sorted(self.bucket.entries.values(), key=lambda entry: entry.revision):
            self.arrive(entry)

    def arrive(self, entry: Entry) -> None:
        if not self.is_cut:
            asyncio.get_running_loop().call_soon(self._told, entry)

    def _told(self, entry: Entry) -> None:
        if self._hear is not None and not self.is_cut:
            self._hear(entry)

    async def _put(self, key: str, value: bytes, expected: int) -> int:
        await self._travel()
        revision = self.bucket.put(key, value, expected)
        await self._return()
        return revision

    async def _travel(self) -> None:
        await asyncio.sleep(self.latency_s / 2)
        if self.is_cut:
            raise InDoubt
        if self.bucket.is_gone:
            raise BucketGone

    async def _return(self) -> None:
        await asyncio.sleep(self.latency_s / 2)
        if self.is_cut or self.loses_answers:
            raise InDoubt
