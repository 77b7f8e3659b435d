"""Values that change often and of which only the newest counts: it goes with the next commit and is seen before that;
must never write an older one over a newer.

A value whose commit failed stays here and is written as soon as something can be written again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from gateway.model.errors import StoreUnavailable
from gateway.store.commit import Committer
from gateway.store.records import Row

#: values in one entry of a commit
_AT_ONCE = 1_000

V = TypeVar("V")


#: told whether the rows landed
Landed = Callable[[bool], None]


class Newest(Generic[V]):
    """Control thread only. `rows_of` builds the rows of some values just before their commit, and says what to do when
    they are durable."""

    def __init__(
        self,
        committer: Committer,
        loop: asyncio.AbstractEventLoop,
        rows_of: Callable[[Sequence[tuple[int, V]]], tuple[list[Row], Landed | None]],
    ) -> None:
        self._committer = committer
        self._loop = loop
        self._rows_of = rows_of
        self._values: dict[int, V] = {}  # not durable yet
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}  # changed since the last commit was cut
        committer.add_source(self._drain)

    def __len__(self) -> int:
        """Changes that are not durable."""
        return len(self._values)

    def get(self, number: int) -> V | None:
        return self._values.get(number)

    def items(self) -> Iterator[tuple[int, V]]:
        return iter(self._values.items())

    def put(self, number: int, value: V) -> asyncio.Future[None]:
        """Never refused. The future fails with StoreUnavailable where the next commit does."""
        self._values[number] = value
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.setdefault(number, []).append(future)
        self._committer.nudge()
        return future

    def drop(self, number: int) -> None:
        """It never was: what it belongs to could not be written."""
        self._values.pop(number, None)
        _fail(self._waiting.pop(number, []))

    def _drain(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = list(self._waiting.items()), {}
        for start in range(0, len(waiting), _AT_ONCE):
            self._write(waiting[start : start + _AT_ONCE])

    def _write(self, part: list[tuple[int, list[asyncio.Future[None]]]]) -> None:
        values = [(number, self._values[number]) for number, _ in part]
        futures = [future for _, each in part for future in each]
        rows, landed = self._rows_of(values)

        def done() -> None:
            for number, value in values:
                if number not in self._waiting and self._values.get(number) is value:
                    del self._values[number]
            if landed is not None:
                landed(True)
            for future in futures:
                if not future.done():
                    future.set_result(None)

        def redo() -> None:
            for number, value in values:
                if self._values.get(number) is value:
                    self._waiting.setdefault(number, [])
            if landed is not None:
                landed(False)
            _fail(futures)

        self._committer.refresh(rows, redo=redo, done=done)


def _fail(futures: Sequence[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(StoreUnavailable())
            future.exception()  # a caller that went away is no reason for a warning
