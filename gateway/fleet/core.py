"""One partition on the node that owns it: its store, the push core over it, and what leads there from other nodes; must
never answer anybody before it has all apps and broadcasts, nor anything once it is given up.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from starlette.types import ASGIApp

from gateway.api.once import Once
from gateway.api.ports import Backend
from gateway.auth.service_keys import ServiceKeys
from gateway.cluster.far_door import FarDoor
from gateway.cluster.far_edge import FarEdge
from gateway.config.sections import Config
from gateway.delivery.batch_gathering import BatchGathering
from gateway.delivery.push_ids import PushIds
from gateway.delivery.reports import Reports
from gateway.fleet.broadcast_feed import BroadcastFeed
from gateway.fleet.core_metrics import CoreMetrics
from gateway.fleet.ports import AppRecords
from gateway.fleet.provider_side import ProviderSide
from gateway.fleet.spread import Spread
from gateway.fleet.wide_side import WideSide
from gateway.model.cluster import Bus
from gateway.model.ports import Notifier
from gateway.push_core import PushCore
from gateway.store import Store


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


class Surroundings(NamedTuple):
    """What the cores of a node share."""

    config: Config
    bus: Bus
    far_door: FarDoor
    feed: BroadcastFeed
    spread: Spread
    providers: ProviderSide
    notifiers: Mapping[str, Notifier]
    push_ids: PushIds
    service_keys: ServiceKeys
    admin_hash: bytes


class PartitionCore:
    """fleet.ports.Core, from `open` to `close`."""

    def __init__(
        self, partition: int, epoch: int, store: Store, metrics: CoreMetrics, surroundings: Surroundings
    ) -> None:
        near = self._near = surroundings
        config = near.config
        self.partition = partition
        self.epoch = epoch
        self.store = store
        self._metrics = metrics
        self._edge = FarEdge(
            near.bus,
            partition,
            epoch,
            directory=store.directory,
            journal=store.journal,
            broadcasts=store.broadcasts,
            config=config,
            metrics=metrics,
            clock=unix_ms,
        )
        self._wide = WideSide(partition, store, near.feed, near.spread, config, metrics, unix_ms)
        push = self._push = PushCore(
            config,
            store,
            metrics,
            self._edge,
            notifiers=near.notifiers,
            push_ids=near.push_ids,
            reports=Reports(store.journal),
            service_keys=near.service_keys,
            admin_hash=near.admin_hash,
            readiness=self._readiness,
            reach=self._wide.reach,
        )
        self._edge.attach(push.dispatcher)
        store.directory.watch(self._edge)
        push.backend.dispatcher = self._wide.attach(push.dispatcher, push.acceptor, push.scheduler)
        near.providers.join(self)
        self._asgi: ASGIApp = push.build_app(is_described=False)  # the node's door is
        self._is_open = False

    # --- fleet.ports.Core

    @property
    def asgi(self) -> ASGIApp:
        return self._asgi

    @property
    def backend(self) -> Backend:
        return self._push.backend

    @property
    def once(self) -> Once:
        return self._push.once

    @property
    def gathering(self) -> BatchGathering:
        return self._push.gathering

    @property
    def apps(self) -> AppRecords:
        return self.store.directory

    def receipts_watermark(self, seen: int) -> int:
        return self.store.receipts.watermark(seen)

    def deaths_watermark(self, seen: int) -> int:
        return self.store.deaths.watermark(seen)

    # --- life

    async def open(self) -> None:
        """Answers and sends from now on. GatewayError where the fleet can not be asked what it needs to know."""
        near, push = self._near, self._push
        await near.providers.adopted(self)
        await self._wide.ready()
        # In one turn: a broadcast that comes now is either in what it joins with, or heard.
        self._wide.join()
        push.dispatcher.start()
        near.far_door.open(self._edge, self.store.directory, self.store.batches.table)
        push.scheduler.start()
        push.start_calls()
        self._is_open = True

    async def drain(self, seconds: float) -> None:
        """Before it is handed over: its next owner would call again what is cut off."""
        await self._push.drain(seconds)

    async def close(self) -> None:
        """Nothing is sent or answered any more; what waits is committed where this node still may."""
        near, push = self._near, self._push
        self._is_open = False
        push.backend.stopping.set()
        self._wide.leave()
        try:
            await near.far_door.close(self.partition)
            await self._edge.close()
            await push.close_calls()
            await self._wide.close()
            await push.close_delivery()
        finally:
            # whatever failed above: a folder that stays open can not be opened again
            try:
                await self.store.close()
            finally:
                self._metrics.close()

    def _readiness(self) -> Sequence[str]:
        if not self._is_open:
            return ["this partition is being given up"]
        return [] if self.store.journal.writable else ["the fleet's journal can not be written"]
