"""Pushes to many as one core takes them: its part of those that go to every partition, and the fleet's broadcasts; must
never take the same push twice, whoever asks how often and whatever died in between.

A push is known in all partitions by the sequence it was kept with at the app's home. Each ties that to what it became
there, in the same commit, for as long as its history is kept.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

from gateway.delivery.audience import Audience, choose, find_audience, kind_of
from gateway.delivery.dispatcher import Dispatcher
from gateway.model.cluster import partition_of_seq
from gateway.model.errors import NodeUnreachable, QueueFull, UnknownPush
from gateway.model.notification import Notification
from gateway.model.outcome import State
from gateway.model.ports import Directory, Journal
from gateway.model.reach import WideBroadcasts, WideSchedules
from gateway.model.shares import Shares

#: pushes whose audience is looked for at once, shared by the apps; past it QueueFull, and who asked comes again
MOST_TAKES = 1_000


class TakesOver(Protocol):
    """The part of delivery.accept.Acceptor needed here."""

    def take_over(self, kept: Notification, audience: Audience, now_ms: int) -> asyncio.Future[None]: ...


class CorePushes:
    """Loop thread only."""

    def __init__(
        self,
        partition: int,
        *,
        directory: Directory,
        journal: Journal,
        broadcasts: WideBroadcasts,
        schedules: WideSchedules,
        has_ended: Callable[[int], bool],
        dispatcher: Dispatcher,
        acceptor: TakesOver,
        clock: Callable[[], int],
    ) -> None:
        self.partition = partition
        self._directory = directory
        self._journal = journal
        self._broadcasts = broadcasts
        self._schedules = schedules
        self._has_ended = has_ended
        self._dispatcher = dispatcher
        self._acceptor = acceptor
        self._clock = clock
        self._takes: dict[int, asyncio.Task[int]] = {}  # under way: whoever asks again waits for the same
        self._shares = Shares(MOST_TAKES)

    async def close(self) -> None:
        takes = list(self._takes.values())
        for take in takes:
            take.cancel()
        await asyncio.gather(*takes, return_exceptions=True)

    # --- a push that every partition takes over

    async def take(self, kept: Notification) -> int:
        """Durable here when it returns for how many; taken over once however often it is asked. A GatewayError: ask
        again."""
        take = self._takes.get(kept.seq)
        if take is None:
            if not self._shares.has_room(kept.app):
                raise QueueFull("too many large audiences of this app are being sent to; try again soon")
            self._shares.take(kept.app)
            take = self._takes[kept.seq] = asyncio.get_running_loop().create_task(self._take(kept))
            take.add_done_callback(lambda _: self._taken(kept))
        try:
            return await asyncio.shield(take)
        except asyncio.CancelledError:
            if take.cancelled():  # the core is another node's
                raise NodeUnreachable from None
            raise

    def _taken(self, kept: Notification) -> None:
        del self._takes[kept.seq]
        self._shares.give(kept.app)

    async def _take(self, kept: Notification) -> int:
        if self._is_settled(kept):
            return 0
        audience = find_audience(self._directory, kept.app, kind_of(kept.target), kept.target)
        if audience.is_open:
            chosen = array("I")
            found: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._dispatcher.backlog.add(self._look_for(kept, chosen, found), kept.app)
            await found
            audience = audience._replace(registrations=chosen)
        if self._is_settled(kept):  # recalled meanwhile
            return 0
        # Where nobody is, nothing is written; but its home can tell of it in any case. What was kept by a gateway that
        # was alone does not say its home.
        if audience.registrations or partition_of_seq(kept.seq) in (self.partition, -1):
            await self._acceptor.take_over(kept, audience, self._clock())
        return len(audience.registrations)

    def _look_for(self, kept: Notification, chosen: array[int], found: asyncio.Future[None]) -> Iterator[None]:
        try:
            for _ in choose(self._directory, kept.app, kept.target, chosen):
                if found.done():  # given up meanwhile
                    return
                yield
        except Exception as error:
            if not found.done():
                found.set_exception(error)
            return
        if not found.done():
            found.set_result(None)

    def _is_settled(self, kept: Notification) -> bool:
        return bool(self._schedules.became(kept.seq)) or self._has_ended(kept.seq)

    async def recall(self, kept: Notification) -> int:
        """Durable when it returns how many deliveries were still pending. Where it did not come here yet it never
        will."""
        # What was imported may be its own only delivery.
        if self._schedules.became(kept.seq) or self._journal.notification(kept.seq) is not None:
            try:
                return await self._dispatcher.recall(kept.app, kept.seq)
            except UnknownPush:
                return 0  # all of it is settled
        if not self._has_ended(kept.seq):
            self._schedules.refuse(kept, State.RECALLED, self._clock())
        await self._journal.committed()
        return 0

    # --- the fleet's broadcasts

    def known_to(self) -> int:
        return self._broadcasts.known_to()

    def begin(self, told: Sequence[Notification], recalled: Collection[int]) -> None:
        now = self._clock()
        self._broadcasts.begin(told, recalled, now)
        for notification in told:
            self._name(notification, is_recalled=notification.seq in recalled)

    def take_in(self, notification: Notification) -> None:
        before = self._schedules.became(notification.push)
        if before and before != notification.seq:
            return  # told once more, long after the stream forgot the first
        is_new = self._broadcasts.take_in(notification)
        self._name(notification, is_recalled=False)
        if not is_new:
            return
        router = self._dispatcher.broadcast
        if notification.expires_s < self._clock() // 1_000:  # heard late: it is counted out at the next tick
            router.keep(notification)
        else:
            router.send(notification)
            router.committed(notification)

    def recall_broadcast(self, notification: Notification) -> None:
        self._dispatcher.recall_broadcast(notification.seq)
        if self._schedules.notification(notification.push) is not None:
            self._schedules.end(notification.push, State.RECALLED, self._clock())

    def _name(self, notification: Notification, *, is_recalled: bool) -> None:
        """The sequence its provider knows it by; at its home it is kept no longer."""
        push, seq = notification.push, notification.seq
        if self._schedules.notification(push) is None:
            if self._journal.notification(seq) is not None or self._has_ended(seq):
                self._schedules.tie(push, seq)
        elif is_recalled:
            self._schedules.end(push, State.RECALLED, self._clock())
        else:
            self._schedules.released(push, seq)
