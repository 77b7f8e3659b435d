"""Long work in slices between which the loop breathes; must never hold the loop for more than one slice."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import NamedTuple

import structlog

from gateway.model.shares import Shares

#: deliveries handled in one slice
SLICE = 500
#: pieces of work under way at once; an app has its share of them, and past it the giver must refuse or wait (see
#: Backlog.has_room)
MAX_WORKS = 1_000

_log = structlog.get_logger(__name__)


class _Work(NamedTuple):
    steps: Iterator[None]
    has_place: bool  # of MAX_WORKS


class Backlog:
    """Runs iterators, one `next()` a turn: the apps one after the other, the works of an app round robin. Each step of
    an iterator is one slice of its work. An app that gives much waits for itself alone."""

    def __init__(self) -> None:
        #: of the apps that have any, in the order of their turns
        self._works: OrderedDict[str, deque[_Work]] = OrderedDict()
        self._shares = Shares(MAX_WORKS)
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return sum(map(len, self._works.values()))

    def has_room(self, app: str) -> bool:
        return self._shares.has_room(app)

    def add(self, work: Iterator[None], app: str = "") -> None:
        """Queue the work of this app, or the gateway's own; it starts with the loop's next turn. Loop thread only."""
        self._put(app, work)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._drain(), name="delivery-backlog")

    def _put(self, app: str, work: Iterator[None]) -> None:
        # What was given without a look at the room, and is bounded elsewhere, takes no place that is another's.
        has_place = self._shares.has_room(app)
        if has_place:
            self._shares.take(app)
        self._works.setdefault(app, deque()).append(_Work(work, has_place))

    async def _drain(self) -> None:
        while self._works:
            await asyncio.sleep(0)
            app, works = next(iter(self._works.items()))
            work, has_place = works.popleft()
            if has_place:
                self._shares.give(app)
            if self._step(work):
                self._put(app, work)
            if works:
                self._works.move_to_end(app)
            else:
                del self._works[app]

    def _step(self, work: Iterator[None]) -> bool:
        """Is there more of it?"""
        try:
            next(work)
        except StopIteration:
            return False
        except Exception:
            # One audience must not stop the others; its deliveries stay pending and are looked at again.
            _log.exception("backlog_work_failed")
            return False
        return True

    async def wait_idle(self) -> None:
        """Until all queued work is done."""
        while self._task is not None and not self._task.done():
            await asyncio.shield(self._task)

    async def close(self) -> None:
        """Stop; what was not done is pending in the journal."""
        self._works.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
