"""A journal of a partition in RAM: what several owners append to, and the only thing that outlives them. It refuses,
stalls and fences when told to, and by an epoch that came."""

from __future__ import annotations

import asyncio

from gateway.model.errors import LogFenced, LogUnavailable


class MemoryJournal:
    """The durable part: commits by their place, from 1."""

    def __init__(self) -> None:
        self.commits: list[bytes] = []
        self.epoch = 0


class MemoryLog:
    """CommitLog of one owner; a newer one on the same journal fences it."""

    def __init__(self, journal: MemoryJournal) -> None:
        self.journal = journal
        journal.epoch += 1
        self.epoch = journal.epoch
        self.stalled = False
        self.refusing = False
        self.held: list[tuple[bytes, asyncio.Future[int]]] | None = None  # a list: nothing is answered
        self.closed = False

    def append(self, rows: bytes) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self.held is not None:
            self.held.append((rows, future))
        else:
            self._answer(rows, future)
        return future

    def _answer(self, rows: bytes, future: asyncio.Future[int]) -> None:
        if future.done():
            return
        if self.epoch != self.journal.epoch:
            future.set_exception(LogFenced())
        elif self.refusing:
            future.set_exception(LogUnavailable())
        else:
            self.journal.commits.append(rows)
            future.set_result(len(self.journal.commits))

    def hold(self) -> None:
        self.held = []

    def go_on(self) -> None:
        held, self.held = self.held or [], None
        for rows, future in held:
            self._answer(rows, future)

    async def close(self) -> None:
        self.closed = True
        for _, future in self.held or []:
            future.cancel()
