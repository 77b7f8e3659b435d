"""Providers at a node, put together: routing, apps, quotas, batches, feeds, streams; must know no engine but the bus.

The composition makes one, gives its `app` and `backend` to an ApiServer, its `streams` to the edge, joins each core it
builds (`join`) and calls `adopted` before a partition answers anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from starlette.applications import Starlette

from gateway.auth.service_keys import PURPOSE, ServiceKeys
from gateway.config.sections import Config, Edge
from gateway.delivery.push_ids import PushIds
from gateway.fleet import spool_intake
from gateway.fleet.app_book import AppBook
from gateway.fleet.app_copies import AppCopies
from gateway.fleet.batches import FleetBatches
from gateway.fleet.calls import Calls
from gateway.fleet.door_backend import build_door_backend
from gateway.fleet.feed_routes import FeedRoutes
from gateway.fleet.feeds import Feeds
from gateway.fleet.owners import Owners
from gateway.fleet.places import Place
from gateway.fleet.ports import Core, Cores
from gateway.fleet.provider_door import Handler, ProviderDoor
from gateway.fleet.pushes import ManyPushes, PlainBounds
from gateway.fleet.quota_home import QuotaHome
from gateway.fleet.spool import Spool, fates_s
from gateway.fleet.spool_record import DOUBT_S
from gateway.fleet.spool_side import SpoolSide
from gateway.fleet.streams import FleetStreams
from gateway.metrics import Metrics
from gateway.model.cluster import Bus, Members, Stranded
from gateway.model.ports import ProviderLinks

#: a push that may have been accepted lives longer in a spool, by the time until its door gave up (ask_timeout_s and
#: accept_timeout_s at their most) and by what the clocks of two nodes are apart
WAY_S = 1_800


class ProviderSide:
    """Built before the bus starts. `cores`: those of this node, by partition, as they are at any time."""

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        bus: Bus,
        members: Members,
        cores: Cores,
        *,
        push_ids: PushIds,
        admin_hash: bytes,
        readiness: Callable[[], Sequence[str]],
        stranded: Callable[[], Sequence[Stranded]] = tuple,
        spool: Spool | None = None,
    ) -> None:
        self._ttl_s = config.delivery.ttl_s
        self.book = AppBook()
        owners = self.owners = Owners(bus, members, cores, metrics, timeout_s=config.cluster.ask_timeout_s)
        self.quotas = QuotaHome(owners)
        self.copies = AppCopies(owners, self.book, metrics)
        self.calls = Calls(owners, self.copies.hear)
        self.backend = build_door_backend(
            config,
            metrics,
            self.book,
            push_ids,
            admin_hash,
            readiness,
            stranded,
            ServiceKeys(push_ids.derive(PURPOSE)),
            self.copies.is_fresh,
        )
        # at once: its index looks for an unknown key only now and then
        self.book.hear = self.backend.keys.update
        bounds = PlainBounds(config.api.max_push_bytes, config.delivery.inline_bytes, config.delivery.max_ttl_s)
        self.pushes = ManyPushes(owners, config.api.accept_timeout_s, bounds)
        self.feeds = Feeds(owners, self.backend)
        routes = FeedRoutes(self.backend, self.feeds)
        self.spool = SpoolSide(
            spool,
            bus,
            members,
            push_ids,
            self.backend.now_ms,
            fates_s=fates_s(config),
            timeout_s=config.cluster.ask_timeout_s,
        )
        owners.serve(spool_intake.TAKE, spool_intake.answer_take)
        owners.serve(spool_intake.KNOWN, spool_intake.answer_known)
        chooser = spool_intake.partition_chooser(members.partitions)
        self._intake = spool_intake.Intake(owners.ask, chooser, time.monotonic)
        self._spool, self._bus = spool, bus
        others: dict[Place, Handler] = {
            Place.BATCH: FleetBatches(self.backend, self.pushes, self.quotas, self.spool).push,
            Place.RECEIPTS: routes.page,
            Place.STREAM: routes.stream,
            Place.DEATHS: routes.deaths,
            Place.MESSAGE_RECEIPTS: routes.messages,
        }
        around = {
            Place.TARGET: self.spool.push,
            Place.VIEW: self.spool.shown,
            Place.PUSH: self.spool.shown,
        }
        door = ProviderDoor(self.backend, self.calls, members.partitions, others, around)
        self.app: Starlette = door.build_app()

    def join(self, core: Core) -> None:
        """A core that was built, and is no one's yet."""
        core.backend.admit_elsewhere = self.quotas.require
        core.backend.refund_elsewhere = self.quotas.refund
        core.once.outlive(self._ttl_s, DOUBT_S + WAY_S)  # any node may have a spool
        self.feeds.join(core)

    def build_streams(self, links: ProviderLinks, config: Edge) -> FleetStreams:
        """For the edge of this node; `close` it."""
        return FleetStreams(self.backend, self.pushes, self.quotas, self.feeds, links, config)

    async def make_app(self, name: str) -> None:
        """Have it made where it is not there, as soon as the fleet can."""
        await self.copies.make(name)

    async def adopted(self, core: Core) -> None:
        """It is this node's from now on; it has all apps when this returns."""
        await self.copies.welcome(core)

    def start(self) -> None:
        self.copies.start()
        if self._spool is not None:
            self._spool.start(self._intake.take, lambda: self._bus.is_up, known=self._intake.known)

    async def close(self) -> None:
        """The spool is closed by who opened it, after this."""
        if self._spool is not None:
            await self._spool.stop()
        self.feeds.close()
        await self.pushes.close()
        await self.copies.close()
