"""Two nodes and three partitions in one process: real stores, real edges, real doors; a bus that carries bytes and can
be cut."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from gateway.api.once import Once
from gateway.api.ports import Backend
from gateway.auth.api_keys import OPERATOR_ID, build_key_text, hash_secret, parse_key
from gateway.auth.device import DeviceVerifier
from gateway.auth.service_keys import PURPOSE, ServiceKeys
from gateway.cluster.local_bus import LocalNetwork
from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.delivery.reports import Reports
from gateway.edge.login import DeviceLogin
from gateway.edge.server import EdgeServer
from gateway.fleet.ports import AppRecords
from gateway.fleet.provider_side import ProviderSide
from gateway.fleet.spool import Spool
from gateway.metrics import Metrics
from gateway.model.cluster import (
    Body,
    Handler,
    Member,
    Owner,
    Reply,
    ReplyHandler,
    partition_of,
    tell_future,
    whole_of,
)
from gateway.model.errors import GatewayError, NodeUnreachable
from gateway.model.registration import build_token
from gateway.push_core import PushCore, unix_ms
from gateway.store import Store
from gateway.store.keys import ServerKeys
from gateway.store.partition import Partition
from gateway.store.tokens import token_of_triple

PARTITIONS = 3
#: who owns what at the start
OWNERS = {0: 1, 1: 1, 2: 2}
PATIENCE_S = 60.0


class MemoryLog:
    """model.cluster.CommitLog, in RAM: `rows` are all commits. `refusal`: of what comes; `held`: what comes is not
    answered."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []
        self.stalled = False
        self.refusal: GatewayError | None = None
        self.held: list[asyncio.Future[int]] | None = None

    def append(self, rows: bytes) -> asyncio.Future[int]:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self.held is not None:
            self.held.append(done)
        elif self.refusal is not None:
            done.set_exception(self.refusal)
        else:
            self.rows.append(rows)
            done.set_result(len(self.rows))
        return done

    async def close(self) -> None:
        pass


class Wire:
    """Joins the buses; `cut` holds the nodes that hear nothing, `asked` what was carried."""

    def __init__(self) -> None:
        self.buses: dict[int, WireBus] = {}
        self.cut: set[int] = set()
        self.asked: list[tuple[int, int, str]] = []
        self.lose_answers = False
        #: nothing gets through to other nodes before it is set
        self.open = asyncio.Event()
        self.open.set()
        #: other nodes begin with nothing before it is set
        self.handling = asyncio.Event()
        self.handling.set()
        self.work: set[asyncio.Future[bytes]] = set()


class WireBus:
    """model.cluster.Bus."""

    def __init__(self, wire: Wire, number: int) -> None:
        self._wire = wire
        self._number = number
        self.handlers: dict[str, Handler] = {}
        wire.buses[number] = self

    @property
    def number(self) -> int:
        return self._number

    @property
    def is_up(self) -> bool:
        return self._number not in self._wire.cut

    def serve(self, kind: str, handler: Handler) -> None:
        assert kind not in self.handlers
        self.handlers[kind] = handler

    def serve_replies(self, kind: str, handler: ReplyHandler) -> None:
        def handle(sender: int, body: bytes) -> asyncio.Future[bytes]:
            future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            handler(sender, body, partial(tell_future, future))
            return future

        self.serve(kind, handle)

    async def ask(self, node: int, kind: str, body: Body, *, timeout_s: float) -> bytes:
        self._check(node, kind)
        if node != self._number:
            await self._wire.open.wait()
        return await self._answer(node, self._carry(node, kind, body), timeout_s)

    def ask_soon(self, node: int, kind: str, body: Body, reply: Reply, *, timeout_s: float) -> None:
        if not self._wire.open.is_set():
            work = asyncio.ensure_future(self.ask(node, kind, body, timeout_s=timeout_s))
        else:
            self._check(node, kind)
            # on its way before this returns
            work = asyncio.ensure_future(self._answer(node, self._carry(node, kind, body), timeout_s))

        def done(work: asyncio.Future[bytes]) -> None:
            self._wire.work.discard(work)
            if not work.cancelled():
                error = work.exception()
                assert error is None or isinstance(error, GatewayError)
                reply(work.result() if error is None else error)

        self._wire.work.add(work)
        work.add_done_callback(done)

    def _check(self, node: int, kind: str) -> None:
        wire = self._wire
        wire.asked.append((self._number, node, kind))
        if node != self._number and not wire.cut.isdisjoint((node, self._number)):
            raise NodeUnreachable

    def _carry(self, node: int, kind: str, body: Body) -> asyncio.Future[Any]:
        wire = self._wire
        handle = wire.buses[node].handlers[kind]
        arrived: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def arrive() -> None:
            try:
                answer = handle(self._number, whole_of(body))
            except GatewayError as error:
                if not arrived.done():
                    arrived.set_exception(error)
                return
            if inspect.isawaitable(answer):  # it goes on, whether anybody waits or not
                work = asyncio.ensure_future(answer)
                wire.work.add(work)
                work.add_done_callback(done)
            elif not arrived.done():
                arrived.set_result(answer)

        def done(work: asyncio.Future[bytes]) -> None:
            wire.work.discard(work)
            error = work.exception()
            if arrived.done():
                return
            if error is not None:
                arrived.set_exception(error)
            else:
                arrived.set_result(work.result())

        asyncio.get_running_loop().call_soon(arrive)
        return arrived

    async def _answer(self, node: int, arrived: asyncio.Future[Any], timeout_s: float) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                if node != self._number:
                    await self._wire.handling.wait()
                answer = await arrived
        except TimeoutError:
            raise NodeUnreachable from None
        if self._wire.lose_answers and node != self._number:
            raise NodeUnreachable
        return bytes(answer)

    def tell(self, node: int, kind: str, body: bytes) -> None:
        if node != self._number and not self._wire.cut.isdisjoint((node, self._number)):
            return
        handle = self._wire.buses[node].handlers.get(kind)
        if handle is not None:
            asyncio.get_running_loop().call_soon(handle, self._number, bytes(body))

    def on_gap(self, hear: Callable[[int], None]) -> None:
        pass


class FleetMembers:
    """model.cluster.Members of one node; `owners` is shared by all."""

    def __init__(self, number: int, owners: dict[int, int], numbers: Sequence[int]) -> None:
        self._number = number
        self.owners = owners
        self._numbers = numbers

    @property
    def partitions(self) -> int:
        return PARTITIONS

    def me(self) -> Member:
        return Member(self._number, f"node-{self._number}", "", "", 1)

    def all(self) -> Sequence[Member]:
        return [Member(number, f"node-{number}", "", "", 1) for number in self._numbers]

    def member(self, number: int) -> Member | None:
        return next((member for member in self.all() if member.number == number), None)

    def owner(self, partition: int) -> Owner:
        return Owner(self.owners[partition], 1)

    def owned(self) -> Collection[int]:
        return [partition for partition, node in self.owners.items() if node == self._number]


class RigCore:
    """gateway.fleet.ports.Core over a store of its own, with a device door of its own."""

    def __init__(self, partition: int, store: Store, edge: EdgeServer, core: PushCore) -> None:
        self.partition = partition
        self.store = store
        self.edge = edge
        self.core = core
        self.asgi: ASGIApp = core.build_app()
        self.backend: Backend = core.backend
        self.once: Once = core.once
        self.gathering = core.gathering
        self.apps: AppRecords = store.directory

    def receipts_watermark(self, seen: int) -> int:
        return self.store.receipts.watermark(seen)

    def deaths_watermark(self, seen: int) -> int:
        return self.store.deaths.watermark(seen)

    async def close(self) -> None:
        await self.core.close_calls()
        await self.edge.stop()
        await self.core.close_delivery()
        await self.store.close()


class Node:
    def __init__(self, number: int) -> None:
        self.number = number
        self.metrics = Metrics(process=False)
        self.cores: dict[int, RigCore] = {}
        self.reasons: list[str] = []


class Fleet:
    """`async with Fleet(tmp_path) as fleet`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.config = Config()
        self.config.edge.port = 0
        self.config.api.port = 0
        self.config.cluster.ask_timeout_s = 2.0
        for name, value in settings.items():
            section, _, field = name.partition("__")
            assert hasattr(getattr(self.config, section), field), name
            setattr(getattr(self.config, section), field, value)
        self.wire = Wire()
        self.owners = dict(OWNERS)
        numbers = sorted(set(OWNERS.values()))
        self.nodes = {number: Node(number) for number in numbers}
        self.operator_key = build_key_text(OPERATOR_ID)
        parsed = parse_key(self.operator_key)
        assert parsed is not None
        self.admin_hash = hash_secret(parsed.secret)
        folder.mkdir(parents=True, exist_ok=True)
        self.keys = ServerKeys.load(folder, may_create=True)
        self.push_ids = PushIds(self.keys.push_id_key)
        self._opened: list[RigCore] = []
        #: by node, opened and closed by the test
        self.spools: dict[int, Spool] = {}

    async def __aenter__(self) -> Fleet:
        for number, node in self.nodes.items():
            members = FleetMembers(number, self.owners, sorted(self.nodes))
            node.members = members
            node.bus = self.build_bus(number)
            node.side = ProviderSide(
                self.config,
                node.metrics,
                node.bus,
                members,
                node.cores,
                push_ids=self.push_ids,
                admin_hash=self.admin_hash,
                readiness=lambda node=node: node.reasons,
                spool=self.spools.get(number),
            )
        for partition, number in OWNERS.items():
            await self.adopt(partition, number)
        for node in self.nodes.values():
            await node.side.copies.pull()
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes.values():
            await node.side.close()
        for core in self._opened:
            await core.close()

    def build_bus(self, number: int) -> Any:
        return WireBus(self.wire, number)

    async def adopt(self, partition: int, number: int) -> RigCore:
        """A new, empty core there: nobody else may have it."""
        node = self.nodes[number]
        config = self.config
        config.store.path = str(self.folder / f"{partition}-{len(self._opened)}")
        store = await Store.open(
            config.store, node.metrics, tick_s=0.05, partition=Partition(partition, MemoryLog(), self.keys)
        )
        directory = store.directory
        login = DeviceLogin(config.edge, DeviceVerifier(config.auth, self.keys).verify, directory.device_key)
        service_keys = ServiceKeys(self.push_ids.derive(PURPOSE))
        edge = EdgeServer(config, login, directory, node.metrics, unix_ms, batches=store.batches.table)
        core = PushCore(
            config,
            store,
            node.metrics,
            edge,
            notifiers={},
            push_ids=self.push_ids,
            reports=Reports(store.journal),
            service_keys=service_keys,
            admin_hash=self.admin_hash,
            readiness=list,
        )
        edge.attach(core.dispatcher)
        directory.watch(edge)
        made = RigCore(partition, store, edge, core)
        node.side.join(made)
        core.dispatcher.start()
        core.scheduler.start()
        await edge.start()
        await node.side.adopted(made)
        self.owners[partition] = number
        node.cores[partition] = made
        self._opened.append(made)
        return made

    def core(self, partition: int) -> RigCore:
        return self.nodes[self.owners[partition]].cores[partition]

    def log(self, partition: int) -> MemoryLog:
        log = self.core(partition).store.committer._log
        assert isinstance(log, MemoryLog)
        return log

    def client(self, node: int, key: str = "", **options: Any) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.nodes[node].side.app, raise_app_exceptions=False),
            base_url="http://fleet",
            headers=headers | options.pop("headers", {}),
            **options,
        )

    async def create_app(self, name: str, node: int = 1, **fields: Any) -> str:
        """Its key."""
        async with self.client(node, self.operator_key) as operator:
            made = await operator.post("/v1/apps", json={"name": name, **fields})
        assert made.status_code == 201, made.text
        return str(made.json()["key"])

    async def register(self, app: str, partition: int, **fields: Any) -> str:
        """A token of that partition."""
        number = 0
        while True:
            device = f"device-{number}"
            token = token_of_triple(self.keys.token_key, device, app, "")
            directory = self.core(partition).store.directory
            if partition_of(token, PARTITIONS) == partition and directory.find(build_token(token), app) < 0:
                break
            number += 1
        made = directory.register(device, app, "1.0", "", **fields)
        if made[2] is not None:
            await made[2]
        assert made[0].token == token
        return build_token(token)


class LocalFleet(Fleet):
    """Over the bus that packs frames as the one over NATS does."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, cluster__ask_timeout_s=0.5, **settings)
        self.network = LocalNetwork()

    def build_bus(self, number: int) -> Any:
        return self.network.bus(number, self.nodes[number].metrics)

    async def __aenter__(self) -> LocalFleet:
        await super().__aenter__()
        for node in self.nodes.values():
            start = getattr(node.bus, "start", None)
            if start is not None:
                made = start()
                if inspect.isawaitable(made):
                    await made
        return self

    async def __aexit__(self, *exc: object) -> None:
        await super().__aexit__(*exc)
        for node in self.nodes.values():
            await node.bus.close()


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Wait for it, as long as patience lasts."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            said = condition()
            if inspect.isawaitable(said):
                said = await said
            if said:
                return
            await asyncio.sleep(0.005)
