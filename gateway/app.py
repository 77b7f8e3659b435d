"""Builds the whole gateway from a Config, starts it, drains it, stops it: the only place where the floors meet."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from gateway.api.server import ApiServer
from gateway.api.stream import ProviderStreams
from gateway.auth.admin_key import FILE_NAME, load_or_create
from gateway.auth.device import DeviceVerifier
from gateway.auth.service_keys import PURPOSE, ServiceKeys
from gateway.card_side import build_card_side
from gateway.config.sections import Config
from gateway.delivery.accept import Acceptor
from gateway.delivery.push_ids import PushIds
from gateway.delivery.reports import Reports
from gateway.edge.login import DeviceLogin
from gateway.edge.server import EdgeServer
from gateway.greeting import greet, write_ready_file
from gateway.metrics import Metrics
from gateway.model.errors import ConfigError, GatewayError
from gateway.model.quiet import load_timezones
from gateway.model.registration import App
from gateway.notifiers import build_notifiers
from gateway.operator_side import OperatorSide
from gateway.push_core import PushCore
from gateway.store import Store
from gateway.store.environment import is_of_node

if TYPE_CHECKING:
    from gateway.fleet.node import FleetNode
    from gateway.im_side import ImSide

_log = structlog.get_logger(__name__)


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


class Gateway:
    """One running gateway: start, drain, stop."""

    #: nobody can take its place (see FleetNode)
    ousted: asyncio.Future[GatewayError] | None = None

    def __init__(self, config: Config, store: Store, metrics: Metrics) -> None:
        path = store.path
        self.config = config
        self.store = store
        self.metrics = metrics
        self.draining = False
        self.admin_key_file = path / FILE_NAME
        push_ids = PushIds(store.keys.push_id_key)
        directory = store.directory
        reports = Reports(store.journal)
        self.operator = OperatorSide(config, store, metrics, push_ids, reports)
        self.identity = self.operator.identity
        self.cards = build_card_side(config, store, metrics, self.operator.pagers)
        self.notifiers = {**build_notifiers(config, metrics, push_ids), **self.operator.pagers}
        login = DeviceLogin(config.edge, DeviceVerifier(config.auth, store.keys).verify, directory.device_key)
        service_keys = ServiceKeys(push_ids.derive(PURPOSE))
        self.edge = EdgeServer(
            config, login, directory, metrics, unix_ms, batches=store.batches.table, service_keys=service_keys
        )
        self.core = core = PushCore(
            config,
            store,
            metrics,
            self.edge,
            notifiers=self.notifiers,
            push_ids=push_ids,
            reports=reports,
            service_keys=service_keys,
            admin_hash=load_or_create(self.admin_key_file).hash,
            readiness=self.readiness,
        )
        self.dispatcher = core.dispatcher
        self.edge.attach(core.dispatcher)
        directory.watch(self.edge)
        self.operator.join(self.edge, core.dispatcher, core.acceptor)
        core.backend.identity = self.identity
        core.backend.opaque = self.operator.opaque
        self.im = self._build_im(core.acceptor)
        if self.im is not None:
            core.backend.im = self.im.rest
        self.api = ApiServer(core.build_app(), core.backend)
        self.streams = ProviderStreams(core.backend, core.once, self.edge, config.edge)
        self.edge.open_to_providers(self.streams)

    @classmethod
    async def start(cls, config: Config, apps: Sequence[str] = ()) -> Gateway:
        """Recovered, listening on both doors. Raises GatewayError with nothing left running."""
        if is_of_node(Path(config.store.path)):
            raise ConfigError(
                "is of a node of a fleet, and a gateway alone would begin empty there: give the configuration of that"
                " node (cluster.url), or another folder",
                field="store.path",
            )
        metrics = Metrics()
        load_timezones()
        store = await Store.open(config.store, metrics)
        try:
            self = cls(config, store, metrics)
        except BaseException:
            await store.close()
            raise
        try:
            for name in (*apps, *([config.im.app] if config.im.app else ())):
                await self._create_app(name)
            self.dispatcher.start()
            if self.cards is not None:
                self.core.backend.cards = self.cards.start()
            self.operator.start()
            self.core.scheduler.start()
            if self.cards is not None:
                await self.cards.resume()
            if self.im is not None:
                await self.im.start()
            await self.edge.start()
            self.core.start_calls()
            try:
                await self.api.start()
            except OSError as exc:
                raise ConfigError(
                    f"the provider door can not bind {config.api.host}:{config.api.port}: {exc.strerror or exc}",
                    field="api.port",
                ) from exc
        except BaseException:
            await self.stop()
            raise
        return self

    async def _create_app(self, name: str) -> None:
        if self.store.directory.app(name) is None:
            await self.store.directory.put_app(App(name=name, created_at=unix_ms() // 1000))

    def _build_im(self, acceptor: Acceptor) -> ImSide | None:
        """None where `im.app` is empty. Imported here alone: its libraries are an extra."""
        if not self.config.im.app:
            return None
        try:
            from gateway.im_side import build_im_side
        except ImportError as exc:
            raise ConfigError(f"IM needs the package {exc.name}: pip install 'heliograph[im]'", field="im.app") from exc
        return build_im_side(
            self.config, self.store, self.metrics, self.edge, acceptor, self.operator.pagers, self._link_base
        )

    def _link_base(self) -> str:
        """What signed links to media begin with."""
        api = self.config.api
        scheme, port = ("http", self.api.port) if self.api.port >= 0 else ("https", self.api.tls_port)
        host = f"[{api.host}]" if ":" in api.host else api.host
        return self.config.im.public_url or f"{scheme}://{host}:{port}"

    def app_names(self) -> list[str]:
        return self.store.directory.app_names()

    def readiness(self) -> list[str]:
        """Why no push can be taken now; empty = ready."""
        reasons = []
        if not self.store.journal.writable:
            reasons.append("the store can not be written")
        if self.cards is not None and not self.cards.links.is_served:
            reasons.append("the CAT_TP server is gone")
        if self.draining:
            reasons.append("draining")
        return reasons

    def reload_tls(self) -> None:
        """Certificates of both doors as their files are now (SIGHUP); a bad file is logged, and the old certificate
        stays."""
        self.edge.certificates.reload()
        self.api.reload_tls()

    async def drain(self) -> None:
        """Take no more pushes and connections, send the devices away in turn, let calls of notifiers end, commit."""
        self.draining = True
        await self.operator.stop_asking()
        await self.api.stop()
        if self.im is not None:
            await self.im.stop()
        drain_s = self.config.edge.drain_s
        cards = [] if self.cards is None else [self.cards.drain(drain_s)]
        await asyncio.gather(self.edge.drain(drain_s), self.core.drain(drain_s), *cards)

    async def stop(self) -> None:
        """End everything that runs; what is pending stays in the journal."""
        await self.api.stop(timeout_s=1.0)
        await self.operator.stop_asking()
        if self.im is not None:
            await self.im.stop()
        if self.cards is not None:
            await self.cards.close()
        await self.core.close_calls()
        await self.streams.close()
        await self.edge.stop()
        await self.core.close_delivery()
        for notifier in self.notifiers.values():
            await notifier.close()
        await self.operator.close()
        await self.store.close()


async def _start(config: Config, apps: Sequence[str]) -> Gateway | FleetNode:
    """This gateway alone, or as a node of a fleet where `cluster.url` is set."""
    if not config.cluster.url:
        return await Gateway.start(config, apps)
    try:
        from gateway.fleet.node import FleetNode  # its library is an extra
    except ImportError as exc:
        message = f"a fleet needs the package {exc.name}: pip install 'heliograph[cluster]'"
        raise ConfigError(message, field="cluster.url") from exc
    return await FleetNode.start(config, apps)


async def run(config: Config, *, ready_file: Path | None = None, apps: Sequence[str] = ()) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once. SIGHUP reads the certificates again.
    A node whose name another has taken ends too. Returns the exit code."""
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    # What recovery made stays: the collector need not look at it again. Rows of a busy journal are short-lived and
    # without cycles, so it may look at new objects less often than it is set to by default.
    gc.set_threshold(100_000, 50, 1000)
    try:
        gateway = await _start_until(config, apps, stop)
        if gateway is None:
            return 0
        gc.freeze()
    except GatewayError as exc:
        print(f"heliograph: {_told(exc)}", file=sys.stderr)
        return 2
    ousted = gateway.ousted
    error: GatewayError | None = None
    try:
        # One handler for both doors: a second would take the place of the first. There before anybody knows of us.
        loop.add_signal_handler(signal.SIGHUP, gateway.reload_tls)
        if ready_file is not None:
            write_ready_file(ready_file, gateway)
        greet(gateway)
        _log.info(
            "serving",
            device_port=gateway.edge.port,
            device_tls_port=gateway.edge.tls_port,
            api_port=gateway.api.port,
            ota_port=-1 if gateway.cards is None else gateway.cards.port,
            im_mail_port=-1 if gateway.im is None else gateway.im.mail_port,
            links=gateway.edge.plane.links(),
        )
        stopping = asyncio.create_task(stop.wait())
        ends: set[asyncio.Future[Any]] = {stopping} if ousted is None else {stopping, ousted}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if ousted is not None and ousted.done() and not stop.is_set():
            error = ousted.result()
            # it would neither own nor serve anything any more, and its devices are better off elsewhere
            _log.error("ousted", why=_told(error))
        _log.info("draining", seconds=config.edge.drain_s)
        draining = asyncio.create_task(gateway.drain())
        hurrying = asyncio.create_task(hurry.wait())
        await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, hurrying):
            task.cancel()
        await asyncio.gather(draining, hurrying, return_exceptions=True)
    finally:
        await gateway.stop()
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)  # noqa: ASYNC240 - nothing is served any more
    _log.info("stopped")
    if error is not None:
        print(f"heliograph: {_told(error)}", file=sys.stderr)
        return 2
    return 0


def _told(error: GatewayError) -> str:
    return f"{error.field}: {error.message}" if error.field else error.message


async def _start_until(config: Config, apps: Sequence[str], stop: asyncio.Event) -> Gateway | FleetNode | None:
    """None where it was told to stop first: a start may wait for NATS, or for a name, longer than whoever stops it."""
    starting = asyncio.create_task(_start(config, apps))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            _log.info("stopped_while_starting")
            starting.cancel()
        with suppress(asyncio.CancelledError):
            return await starting
        return None
    finally:
        stopping.cancel()
