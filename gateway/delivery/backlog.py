"""Long work in slices between which the loop breathes; must never hold the loop for more than one slice."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

import structlog

#: deliveries handled in one slice
SLICE = 500
#: pieces of work under way at once; past it the giver must refuse or wait (see Backlog.has_room)
MAX_WORKS = 1_000

_log = structlog.get_logger(__name__)


class Backlog:
    """Runs iterators round robin, one `next()` a turn; each step of an iterator is one slice of its work."""

    def __init__(self) -> None:
        self._works: deque[Iterator[None]] = deque()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._works)

    @property
    def has_room(self) -> bool:
        return len(self._works) < MAX_WORKS

    def add(self, work: Iterator[None]) -> None:
        """Queue the work; it starts with the loop's next turn. Loop thread only."""
        self._works.append(work)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._drain(), name="delivery-backlog")

    async def _drain(self) -> None:
        while self._works:
            await asyncio.sleep(0)
            work = self._works.popleft()
            try:
                next(work)
            except StopIteration:
                continue
            except Exception:
                # One audience must not stop the others; its deliveries stay pending and are looked at again.
                _log.exception("backlog_work_failed")
                continue
            self._works.append(work)

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
