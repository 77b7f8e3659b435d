"""Where a push to many goes in a fleet (model.reach.Reach), for the core of an app's home partition; must never end
what it keeps before all partitions have it.

Everything that can be lost on the way is tried again: the push is kept until it is confirmed, and to ask twice is
harmless (core_pushes).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import structlog

from gateway.delivery.dispatcher import Dispatcher
from gateway.fleet.broadcast_feed import BroadcastFeed
from gateway.fleet.spread import RECALL, TAKE, Spread
from gateway.metrics import Metric, Metrics
from gateway.model.errors import GatewayError, LogUnavailable, QueueFull, UnknownPush
from gateway.model.notification import Notification, Target
from gateway.model.outcome import State
from gateway.model.ports import Journal, Notifier, Receipts
from gateway.model.reach import WideBroadcasts, WideSchedules

_log = structlog.get_logger(__name__)

#: recalls that are still told to partitions which could not be reached; past it only their provider tries again
MOST_RECALLS = 1_000
#: between two tries to tell them
_AGAIN_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class WideReach:
    """Loop thread only. `on_kept` is set by the composition: the scheduler looks for what is due."""

    def __init__(
        self,
        *,
        feed: BroadcastFeed,
        spread: Spread,
        broadcasts: WideBroadcasts,
        schedules: WideSchedules,
        journal: Journal,
        max_broadcasts_per_app: int,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._feed = feed
        self._spread = spread
        self._broadcasts = broadcasts
        self._schedules = schedules
        self._journal = journal
        self._max_of_app = max_broadcasts_per_app
        self._metrics = metrics
        self._clock = clock
        self._order = asyncio.Lock()  # broadcasts go in the order in which they were kept
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._confirmed: dict[int, set[int]] = {}  # kept push → partitions that have it
        self._tried: set[int] = set()  # kept broadcasts that may be in the stream
        self._recalls: set[asyncio.Task[None]] = set()
        self.on_kept: Callable[[], None] = lambda: None

    async def close(self) -> None:
        """What is kept is given out by the partition's next owner."""
        tasks: list[asyncio.Task[None]] = [*self._under_way.values(), *self._recalls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- model.reach.Reach

    def is_wide(self, target: Target) -> bool:
        return not target.token

    def check(self, notification: Notification) -> None:
        if not notification.target.is_broadcast:
            return
        self._feed.check(notification)
        app = notification.app
        live = len(self._broadcasts.live(app))
        if live + self._schedules.count_of(app) < self._max_of_app:
            return
        now = self._clock()
        if live + sum(due_ms <= now for _, due_ms in self._schedules.of_app(app)) >= self._max_of_app:
            self._refuse()

    def _refuse(self) -> None:
        self._metrics.count(Metric.STORE_REFUSED, label="broadcasts_of_app")
        raise QueueFull("too many broadcasts of this app are live; nothing was accepted")

    def was_kept(self, kept: asyncio.Future[None]) -> None:
        if not kept.cancelled() and kept.exception() is None:
            self.on_kept()

    def give_out(self, kept: Notification) -> asyncio.Future[None]:
        task = self._under_way[kept.seq] = asyncio.get_running_loop().create_task(
            self._tell(kept) if kept.target.is_broadcast else self._give_out(kept)
        )
        task.add_done_callback(lambda _: self._under_way.pop(kept.seq, None))
        return task

    # --- broadcasts

    async def _tell(self, kept: Notification) -> None:
        async with self._order:
            if self._schedules.notification(kept.seq) is None:
                return  # recalled, or heard of from a try before
            if kept.seq in self._tried:
                await self._feed.catch_up()  # that try may have come through
            if not self._feed.seq_of(kept.seq) and not self._feed.is_taken_back(kept.seq):
                if len(self._broadcasts.live(kept.app)) >= self._max_of_app:
                    self._refuse()
                self._tried.add(kept.seq)
                told = msgspec.structs.replace(kept, accepted_ms=self._clock(), push=kept.seq)
                await self._feed.tell(told)
            # Heard by now: this core has released it (core_pushes).
            if self._schedules.notification(kept.seq) is not None:
                raise LogUnavailable("the broadcast was not heard yet")
            self._tried.discard(kept.seq)

    # --- to every partition

    async def _give_out(self, kept: Notification) -> None:
        confirmed = self._confirmed.setdefault(kept.seq, set())
        missing = set(range(self._spread.partitions)) - confirmed
        results = await self._spread.ask(TAKE, kept, missing)
        errors = [result for result in results.values() if isinstance(result, GatewayError)]
        confirmed |= {partition for partition, result in results.items() if not isinstance(result, GatewayError)}
        if self._schedules.notification(kept.seq) is None:  # it is over: its time has passed
            self._confirmed.pop(kept.seq, None)
            return
        if errors:
            raise errors[0]
        await self._schedules.given_out(kept.seq)
        self._confirmed.pop(kept.seq, None)

    # --- recall

    async def recall(self, seq: int, found: Notification) -> int:
        """Of a push to many that is known by this sequence and was `found` here: durable in all partitions when it
        returns how many deliveries were still pending. UnknownPush where nothing of it is live; NodeUnreachable,
        LogUnavailable: not everywhere yet."""
        task = self._under_way.get(seq)
        if task is not None:  # what is being given out is certain in a moment
            await asyncio.wait((task,))
        kept = self._schedules.notification(seq)
        if kept is not None and self._is_early(seq):
            self._schedules.end(seq, State.RECALLED, self._clock())
            await self._journal.committed()
            return 1
        original = msgspec.structs.replace(kept or found, seq=seq, push=0, count=0)
        if original.target.is_broadcast:
            return await self._recall_broadcast(original)
        return await self._recall_spread(original)

    def _is_early(self, seq: int) -> bool:
        """Its time has not come: nobody else knows of it."""
        return self._schedules.due_ms(seq) > self._clock()

    async def _recall_broadcast(self, original: Notification) -> int:
        kept = self._schedules.notification(original.seq) is not None
        seq = self._feed.seq_of(original.seq)
        if not kept and seq not in self._broadcasts.live(original.app):
            await self._journal.committed()
            raise UnknownPush
        await self._feed.take_back(original.seq, original.expires_s)
        if self._schedules.notification(original.seq) is not None:
            self._schedules.end(original.seq, State.RECALLED, self._clock())
        self._tried.discard(original.seq)
        await self._journal.committed()
        return 1

    async def _recall_spread(self, original: Notification) -> int:
        seq = original.seq
        if self._schedules.notification(seq) is not None:
            if self._schedules.became(seq):
                await self._schedules.given_out(seq)
            else:
                self._schedules.end(seq, State.RECALLED, self._clock())
                await self._journal.committed()
        self._confirmed.pop(seq, None)
        recalled, missing, error = await self._ask_recall(original, set(range(self._spread.partitions)))
        if error is None:
            return recalled
        if len(self._recalls) < MOST_RECALLS:
            again = asyncio.get_running_loop().create_task(self._recall_later(original, missing))
            self._recalls.add(again)
            again.add_done_callback(self._recalls.discard)
        raise error

    async def _ask_recall(
        self, original: Notification, partitions: set[int]
    ) -> tuple[int, set[int], GatewayError | None]:
        results = await self._spread.ask(RECALL, original, partitions)
        missing = {partition for partition, result in results.items() if isinstance(result, GatewayError)}
        error = next((result for result in results.values() if isinstance(result, GatewayError)), None)
        return sum(result for result in results.values() if isinstance(result, int)), missing, error

    async def _recall_later(self, original: Notification, missing: set[int]) -> None:
        tries = 0
        while missing and original.expires_s > self._clock() // 1_000:
            await asyncio.sleep(_AGAIN_S[min(tries, len(_AGAIN_S) - 1)])
            tries += 1
            _, missing, _ = await self._ask_recall(original, missing)


class WideDispatch:
    """What can be done to pushes of a core (api.ports.Dispatches): to those to many, in all partitions."""

    def __init__(self, dispatcher: Dispatcher, reach: WideReach, receipts: Receipts) -> None:
        self._dispatcher = dispatcher
        self._reach = reach
        self._receipts = receipts

    @property
    def notifiers(self) -> Mapping[str, Notifier]:
        return self._dispatcher.notifiers

    async def recall(self, app: str, seq: int) -> int:
        record = self._receipts.lookup(app, seq, limit=0)
        if record is None or not self._reach.is_wide(record.notification.target):
            return await self._dispatcher.recall(app, seq)
        return await self._reach.recall(record.notification.push or seq, record.notification)

    def look_again(self, registration: int) -> None:
        self._dispatcher.look_again(registration)

    def revoke(self, registration: int) -> None:
        self._dispatcher.revoke(registration)
