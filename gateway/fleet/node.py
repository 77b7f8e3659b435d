"""A gateway as a node of a fleet: device door, provider door, bus, and the cores of the partitions it owns; must never
serve a partition that it was not given, nor keep one it has lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from gateway.api.server import ApiServer
from gateway.auth.device import DeviceVerifier
from gateway.auth.service_keys import PURPOSE, ServiceKeys
from gateway.cluster.adoption import PartitionStores
from gateway.cluster.beats import ThreadHeart
from gateway.cluster.broadcast_stream import BroadcastStream
from gateway.cluster.entrance import Entrance, enter, patiently
from gateway.cluster.far_door import FarDoor
from gateway.cluster.fleet_identity import FleetIdentity
from gateway.cluster.import_record import finished_import
from gateway.cluster.key_watch import KeyWatch
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.leases import Entry
from gateway.cluster.members import FleetMembers
from gateway.cluster.nats_bus import NatsBus
from gateway.cluster.nats_checks import check_nats
from gateway.cluster.nats_link import NatsLink
from gateway.cluster.node_edge import NodeEdge
from gateway.cluster.oustings import bucket_lost
from gateway.cluster.remembered_pasts import RememberedPasts
from gateway.cluster.shared_keys import FleetKeys, share_keys
from gateway.cluster.stray_tokens import StrayTokens
from gateway.config.cluster import node_name
from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.edge.login import DeviceLogin
from gateway.edge.server import EdgeServer
from gateway.fleet.broadcast_feed import BroadcastFeed
from gateway.fleet.core import PartitionCore, Surroundings
from gateway.fleet.core_metrics import CoreMetrics
from gateway.fleet.elsewhere import elsewhere_of
from gateway.fleet.patience import start_patiently
from gateway.fleet.ports import Core
from gateway.fleet.provider_side import ProviderSide
from gateway.fleet.spool import Spool
from gateway.fleet.spread import Spread
from gateway.metrics import Metric, Metrics
from gateway.model.cluster import Member, Owner, learn_strays, partition_of
from gateway.model.device_address import DeviceAddress, parse_device_address
from gateway.model.errors import ConfigError, GatewayError
from gateway.model.quiet import load_timezones
from gateway.notifiers import build_notifiers
from gateway.store.store import Store
from gateway.store.tokens import device_key, token_of_triple

_log = structlog.get_logger(__name__)

#: calls of notifiers under way have so long to end before their partition is handed over
_CALLS_S = 2.0


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


class FleetNode:
    """One node: start, drain, stop. A model.cluster.Tenant."""

    #: what a gateway alone may have besides, and a node does not (gateway.config.cluster refuses it)
    cards = None
    im = None

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        link: NatsLink,
        leases: KvLeases,
        keys: FleetKeys,
        entrance: Entrance,
        heart: ThreadHeart,
        spool: Spool | None = None,
    ) -> None:
        settings = config.cluster
        self.config = config
        self.metrics = metrics
        self.draining = False
        self.admin_key_file = keys.admin_key_file
        self._link = link
        self.ousted: asyncio.Future[GatewayError] | None = asyncio.get_running_loop().create_future()
        self._closings: dict[int, asyncio.Task[None]] = {}
        self._quiet: dict[int, asyncio.Event] = {}  # of partitions: it writes nothing any more
        self._tasks: set[asyncio.Task[Any]] = set()
        self.cores: dict[int, PartitionCore] = {}
        self._bus = NatsBus(link, settings.name, entrance.number, metrics, outbox_bytes=settings.outbox_bytes)
        self.members = FleetMembers(
            settings,
            entrance,
            leases,
            heart,
            self,
            metrics,
            links=lambda: self.edge.plane.links(),
            is_up=lambda: link.is_up,
            on_ousted=self._on_ousted,
            hear=self._on_record,
        )
        self._key_watch = KeyWatch(keys, entrance, settings.lease_s, self.members.announce_keys)
        server_keys = keys.server
        fleet = FleetIdentity(settings.name, keys.ident)
        self._remembered = RememberedPasts(Path(config.store.path), fleet, entrance.bucket)
        push_ids = PushIds(server_keys.push_id_key)
        service_keys = ServiceKeys(push_ids.derive(PURPOSE))
        self._stores = PartitionStores(link, settings, config.store, server_keys, leases, metrics)
        self._feed = BroadcastFeed(BroadcastStream(link, settings, begins=lambda: unix_ms() // 1_000), metrics, unix_ms)
        cores: dict[int, Core] = self.cores  # type: ignore[assignment]
        self._providers = ProviderSide(
            config,
            metrics,
            self._bus,
            self.members,
            cores,
            push_ids=push_ids,
            admin_hash=keys.admin_hash,
            readiness=self.readiness,
            stranded=self.members.stranded,
            spool=spool,
        )
        self._spool = spool
        self._notifiers = build_notifiers(config, metrics, push_ids)
        self._far_door = FarDoor(self._bus, self.members, metrics)

        def key_of(device: str) -> int:
            return device_key(server_keys.hash_key, device)

        def home_of(device: str, app: str, account: str) -> int:
            return partition_of(token_of_triple(server_keys.token_key, device, app, account), settings.partitions)

        verifier = DeviceVerifier(config.auth, server_keys, is_current=self._key_watch.is_current)
        self._devices = NodeEdge(
            config,
            DeviceLogin(config.edge, verifier.verify, key_of),
            self._bus,
            self.members,
            metrics,
            unix_ms,
            home_of=home_of,
            device_key=key_of,
            service_keys=service_keys,
        )
        self.edge: EdgeServer = self._devices.edge
        self.edge.elsewhere = elsewhere_of(self.members, self.edge.plane.links)
        self._surroundings = Surroundings(
            config=config,
            bus=self._bus,
            far_door=self._far_door,
            feed=self._feed,
            spread=Spread(self._bus, self.members, metrics, ask_timeout_s=settings.ask_timeout_s),
            providers=self._providers,
            notifiers=self._notifiers,
            push_ids=push_ids,
            service_keys=service_keys,
            admin_hash=keys.admin_hash,
        )
        self.api = ApiServer(self._providers.app, self._providers.backend)
        self.streams = self._providers.build_streams(self.edge, config.edge)
        self.edge.open_to_providers(self.streams)
        self._devices.serve()
        self._far_door.serve()

    @classmethod
    async def start(cls, config: Config, apps: Sequence[str] = ()) -> FleetNode:
        """In the fleet, listening on both doors; partitions come as the others see it. Raises GatewayError with nothing
        left running."""
        settings = config.cluster
        metrics = Metrics()
        load_timezones()
        link = NatsLink(settings, purpose="node", node=node_name(settings))
        await link.connect()
        try:
            await check_nats(settings, link)
            leases = KvLeases(link, settings)
            await leases.open()
            bucket = await patiently(leases.made)
            keys = await share_keys(config, leases)
            await _learn_strays(config, link, leases)
            entrance = await enter(
                settings,
                leases,
                devices=_advertised(config),
                api=_api_url(config),
                keys=keys.revision,
                ident=keys.ident,
            )
            if entrance.bucket != bucket:  # the keys are of the one before
                raise bucket_lost(settings.name, is_gone=False).error
            fleet = FleetIdentity(settings.name, keys.ident)
            spool = Spool.open(config, metrics, unix_ms, fleet) if settings.spool else None
            self = cls(config, metrics, link, leases, keys, entrance, ThreadHeart(settings, node_name(settings)), spool)
        except BaseException:
            await link.close()
            raise
        try:
            await self._begin(apps)
        except BaseException:
            await self.stop()
            raise
        return self

    async def _begin(self, apps: Sequence[str]) -> None:
        await self._bus.start()
        await start_patiently(self._feed.start)
        # what is remembered was told with the keys: a folder may be one that was left behind when its journal was
        # recovered
        await start_patiently(self._stores.tell_of_folders)
        await self.edge.start()
        api = self.config.api
        try:
            await self.api.start()
        except OSError as exc:
            raise ConfigError(
                f"the provider door can not bind {api.host}:{api.port}: {exc.strerror or exc}", field="api.port"
            ) from exc
        self.members.announce(
            devices=_advertised(self.config, self.edge.port, self.edge.tls_port),
            api=_api_url(self.config, self.api.port),
            strangers=len(self._stores.strangers),
        )
        await self.members.start()
        self._providers.start()
        for name in apps:
            self._spawn(self._providers.make_app(name))

    def app_names(self) -> list[str]:
        return self._providers.book.app_names()

    def readiness(self) -> list[str]:
        """Why no push can be taken now; empty = ready."""
        reasons = []
        if not self._link.is_up:
            reasons.append("NATS can not be reached")
        elif trouble := self.members.trouble():
            reasons.append(trouble)
        elif not self._providers.copies.is_filled.is_set():
            reasons.append("the fleet's apps are not known yet")
        if self.draining:
            reasons.append("draining")
        return reasons

    # --- model.cluster.Tenant

    async def adopt(self, partition: int, epoch: int) -> None:
        await self._closed(partition)
        metrics = CoreMetrics(self.metrics)
        ended = False
        quiet = self._quiet[partition] = asyncio.Event()

        def on_end() -> None:
            nonlocal ended
            ended = True
            self.members.end_partition(partition, epoch)

        store: Store | None = None
        core: PartitionCore | None = None
        try:
            store = await self._stores.open_partition(
                partition, epoch, metrics=metrics, on_fenced=on_end, on_behind=on_end, on_quiet=quiet.set
            )
            core = PartitionCore(partition, epoch, store, metrics, self._surroundings)
            await core.open()
            if ended:
                raise GatewayError("the partition was lost while it was being opened")
        except BaseException:
            if core is not None:
                await core.close()
            elif store is not None:
                await store.close()
            metrics.close()
            raise
        self.cores[partition] = core

    def steps(self, partition: int) -> int:
        return self._stores.steps(partition)

    async def release(self, partition: int) -> None:
        if partition in self.cores:
            await self.cores[partition].drain(min(self.config.edge.drain_s, _CALLS_S))
        core = self.cores.pop(partition, None)
        if core is None:
            await self._closed(partition)
            return
        self._close_core(core)
        # the next owner need not wait until this folder has synced
        closing, quiet = self._closings[partition], asyncio.ensure_future(self._quiet[partition].wait())
        await asyncio.wait((closing, quiet), return_when=asyncio.FIRST_COMPLETED)
        quiet.cancel()

    def lost(self, partition: int) -> None:
        core = self.cores.pop(partition, None)
        if core is not None:
            self._close_core(core)

    def _close_core(self, core: PartitionCore) -> None:
        self._closings[core.partition] = asyncio.get_running_loop().create_task(
            self._end_core(core), name=f"end of partition {core.partition}"
        )

    async def _end_core(self, core: PartitionCore) -> None:
        try:
            await core.close()
        except Exception:
            _log.exception("partition_not_closed", partition=core.partition)

    async def _closed(self, partition: int) -> None:
        """Nothing of it is left from the last time."""
        closing = self._closings.get(partition)
        if closing is not None:
            await asyncio.shield(closing)
            if self._closings.get(partition) is closing:
                del self._closings[partition]

    def owner_changed(self, partition: int, owner: Owner) -> None:
        self._devices.owner_changed(partition, owner)
        self._providers.owners.owner_changed(partition)

    def member_came(self, member: Member) -> None:
        self._far_door.member_came(member)

    def member_gone(self, number: int) -> None:
        self._far_door.member_gone(number)
        self._bus.forget(number)

    def standby(self, partition: int, *, wanted: bool) -> None:
        if wanted:
            self._spawn(self._follow(partition))
        else:
            self._spawn(self._stores.unfollow(partition))

    async def _follow(self, partition: int) -> None:
        await self._closed(partition)
        if partition not in self.cores:
            self._stores.follow(partition)

    def _on_record(self, entry: Entry) -> None:
        self._key_watch.hear(entry)
        self._remembered.hear(entry)

    def _on_ousted(self, error: GatewayError) -> None:
        if self.ousted is not None and not self.ousted.done():
            self.ousted.set_result(error)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)

        def over(done: asyncio.Task[Any]) -> None:
            self._tasks.discard(done)
            if not done.cancelled() and (error := done.exception()) is not None:
                _log.error("fleet_work_failed", exc_info=error)

        task.add_done_callback(over)

    # --- ends

    def reload_tls(self) -> None:
        """Certificates of both doors as their files are now (SIGHUP)."""
        self.edge.certificates.reload()
        self.api.reload_tls()

    async def drain(self) -> None:
        """Hand the partitions over, take no more pushes and connections, send the devices to other nodes."""
        self.draining = True
        self._providers.backend.is_leaving = True
        drain_s = self.config.edge.drain_s
        for core in self.cores.values():  # all at once: they are handed over a few at a time
            self._spawn(core.drain(drain_s))
        with suppress(GatewayError):
            await self.members.drain(max(drain_s, self.config.cluster.lease_s))
        await self.api.stop()
        await asyncio.gather(self.edge.drain(drain_s), *(core.drain(drain_s) for core in self.cores.values()))

    async def stop(self) -> None:
        """End everything that runs; what is pending stays in the journals."""
        await self.api.stop(timeout_s=1.0)
        await self._providers.close()
        if self._spool is not None:
            await self._spool.close()
        await self.streams.close()
        await self.edge.stop()
        await self.members.close()
        await self._key_watch.close()
        await self._remembered.close()
        for core in list(self.cores.values()):
            self.lost(core.partition)
        await asyncio.gather(*self._closings.values(), return_exceptions=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._devices.close()
        await self._stores.close()
        await self._feed.close()
        for notifier in self._notifiers.values():
            await notifier.close()
        await self._bus.close()
        await self._link.close()
        self.metrics.set(Metric.CLUSTER_UP, 0.0)


async def _learn_strays(config: Config, link: NatsLink, leases: KvLeases) -> None:
    """Which tokens lie elsewhere, where the fleet was imported. ConfigError while it is not whole: looked at behind the
    keys, for an import that begins later finds those."""
    imported = await patiently(partial(finished_import, leases))
    if imported is not None and imported.stray_chunks:
        learn_strays(await StrayTokens(link, config.cluster).read(imported.stray_chunks))


def _advertised(config: Config, port: int = 0, tls_port: int = 0) -> str:
    """Where devices find this node; empty where that is not known."""
    if config.cluster.advertise:
        try:
            return str(parse_device_address(config.cluster.advertise))
        except ValueError as exc:
            raise ConfigError(str(exc), field="cluster.advertise") from None
    edge = config.edge
    port, tls_port = max(port or edge.port, 0), max(tls_port or edge.tls_port, 0)
    if edge.host in ("0.0.0.0", "::", "") or not (port or tls_port):  # noqa: S104
        return ""
    return str(DeviceAddress(edge.host, port, tls_port))


def _api_url(config: Config, port: int = 0) -> str:
    api = config.api
    port = port or api.port
    host = f"[{api.host}]" if ":" in api.host else api.host
    return f"http://{host}:{port}" if port > 0 else ""
