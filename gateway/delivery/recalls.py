"""Takes pushes back: what waits for its time, a broadcast with what grew out of it, single deliveries; must never say
that one is taken back while a kill could still bring it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from gateway.delivery.backlog import SLICE, Backlog
from gateway.delivery.broadcast import BroadcastRouter
from gateway.delivery.executor import Executor
from gateway.model.errors import UnknownPush
from gateway.model.outcome import Event, State
from gateway.model.ports import Journal, Schedules


class Recalls:
    """Loop thread only."""

    def __init__(
        self,
        *,
        journal: Journal,
        schedules: Schedules,
        broadcast: BroadcastRouter,
        executor: Executor,
        backlog: Backlog,
        clock: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._schedules = schedules
        self._broadcast = broadcast
        self._executor = executor
        self._backlog = backlog
        self._clock = clock
        self._stopped: set[int] = set()

    def is_stopped(self, notification: int) -> bool:
        """Somebody recalls it while it is held: it is taken in and not sent."""
        return notification in self._stopped

    async def recall(self, app: str, seq: int) -> int:
        """Take a push back for good: durable when it returns how many deliveries were still pending. UnknownPush where
        nothing of it is live. StoreUnavailable: it holds as long as this process, and for good once the store can be
        written."""
        try:
            return await self._recall(app, seq)
        finally:
            # One recalled a moment ago must not be called over while a kill could still bring it back.
            await self._journal.committed()

    async def _recall(self, app: str, seq: int) -> int:
        # One whose commit is under way is not sent yet, and is kept again where that fails: the commit decides first.
        while (held := self._schedules.became(seq) or seq) in self._executor.held:
            self._stopped.add(held)
            try:
                await self._journal.committed()
            finally:
                self._stopped.discard(held)
        kept = self._schedules.notification(seq)
        if kept is not None:
            if kept.app != app:
                raise UnknownPush
            self._schedules.end(seq, State.RECALLED, self._clock())
            return 1
        seq = self._schedules.became(seq) or seq
        if seq in self._broadcast:
            if self._broadcast.notification(seq).app != app:
                raise UnknownPush
            recalled = 1
            for part in self._broadcast.recall(seq, self._clock()):
                recalled += await self._recall_many(part)
                await asyncio.sleep(0)
            return recalled
        notification = self._journal.notification(seq)
        if notification is None or notification.app != app:
            raise UnknownPush
        count = notification.count
        return await self._recall_many(range(seq + 1, seq + count + 1) if count else (seq,))

    def recall_broadcast(self, seq: int) -> None:
        """The fleet has taken it back: so do we, with what grew out of it."""
        if seq in self._broadcast:
            app = self._broadcast.notification(seq).app
            self._backlog.add(self._recall_in_slices(self._broadcast.recall(seq, self._clock())), app)

    def _recall_in_slices(self, parts: Iterator[Sequence[int]]) -> Iterator[None]:
        for part in parts:
            for seq in part:
                if self._journal.get(seq) is not None:
                    self._executor.apply(seq, Event.RECALL)
            yield

    async def _recall_many(self, sequences: Sequence[int]) -> int:
        recalled = 0
        for i, seq in enumerate(sequences, 1):
            if self._journal.get(seq) is not None:
                self._executor.apply(seq, Event.RECALL)
                recalled += 1
            if not i % SLICE:
                await asyncio.sleep(0)
        return recalled
