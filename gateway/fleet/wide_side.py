"""What a core has for pushes to many, put together: where they go, and how they come; must hold no policy.

Order: made before the core's acceptor and scheduler, which are given `reach`; then `attach`; `ready`, once the core's
journal is taken over; `join` in the turn in which its dispatcher starts, just before that; in the end `close`.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.config.sections import Config
from gateway.delivery.dispatcher import Dispatcher
from gateway.delivery.scheduler import Scheduler
from gateway.fleet.broadcast_feed import BroadcastFeed
from gateway.fleet.core_pushes import CorePushes, TakesOver
from gateway.fleet.spread import Spread
from gateway.fleet.wide_reach import WideDispatch, WideReach
from gateway.metrics import Metrics
from gateway.store import Store


class WideSide:
    """Of one core. `feed` and `spread` are its node's."""

    def __init__(
        self,
        partition: int,
        store: Store,
        feed: BroadcastFeed,
        spread: Spread,
        config: Config,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._partition = partition
        self._store = store
        self._feed = feed
        self._spread = spread
        self._clock = clock
        self.reach = WideReach(
            feed=feed,
            spread=spread,
            broadcasts=store.broadcasts,
            schedules=store.schedules,
            journal=store.journal,
            max_broadcasts_per_app=config.store.max_broadcasts_per_app,
            metrics=metrics,
            clock=clock,
        )

    def attach(self, dispatcher: Dispatcher, acceptor: TakesOver, scheduler: Scheduler) -> WideDispatch:
        """Returns what takes the dispatcher's place in the provider door's backend."""
        store = self._store
        self.pushes = CorePushes(
            self._partition,
            directory=store.directory,
            journal=store.journal,
            broadcasts=store.broadcasts,
            schedules=store.schedules,
            has_ended=store.receipts.has_ended,
            dispatcher=dispatcher,
            acceptor=acceptor,
            clock=self._clock,
        )
        self.reach.on_kept = scheduler.tick
        return WideDispatch(dispatcher, self.reach, store.receipts)

    async def ready(self) -> None:
        """LogUnavailable, NodeUnreachable: it can not be adopted now."""
        await self._feed.catch_up(self.pushes)

    def join(self) -> None:
        self._feed.join(self.pushes)
        self._spread.join(self.pushes)

    def leave(self) -> None:
        """It hears of nothing any more; also where it never joined."""
        self._feed.leave(self._partition)
        self._spread.leave(self._partition)

    async def close(self) -> None:
        """Before its scheduler and dispatcher."""
        self.leave()
        await self.reach.close()
        await self.pushes.close()
