"""Nodes and cores of a small fleet in one process: real reactors, real stores, a bus that can lose messages."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from bare_device import BareDevice
from open_house import build_config, until

from gateway.auth.device import DeviceVerifier
from gateway.auth.service_keys import ServiceKeys
from gateway.cluster.far_door import FarDoor
from gateway.cluster.far_edge import FarEdge
from gateway.cluster.local_bus import LocalNetwork
from gateway.cluster.node_edge import NodeEdge
from gateway.delivery.accept import Acceptor
from gateway.delivery.batch_accept import BatchAcceptor
from gateway.delivery.dispatcher import Dispatcher
from gateway.delivery.request import PushRequest
from gateway.edge.login import DeviceLogin
from gateway.metrics import Metric, Metrics
from gateway.model.cluster import Member, Owner, first_seq, partition_of
from gateway.model.outcome import State
from gateway.model.ports import Delivery
from gateway.model.registration import App, parse_token
from gateway.store import Store
from gateway.store.tokens import Tokens

PARTITIONS = 4


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class View:
    """model.cluster.Members as one node sees it."""

    def __init__(self, number: int, owners: dict[int, Owner], members: dict[int, Member]) -> None:
        self.number = number
        self.owners = owners
        self.members = members

    @property
    def partitions(self) -> int:
        return PARTITIONS

    def me(self) -> Member:
        return self.members[self.number]

    def all(self) -> list[Member]:
        return list(self.members.values())

    def member(self, number: int) -> Member | None:
        return self.members.get(number)

    def owner(self, partition: int) -> Owner:
        return self.owners.get(partition, Owner(0, 0))

    def owned(self) -> list[int]:
        return [partition for partition, owner in self.owners.items() if owner.node == self.number]


class Core:
    """A partition on its owner: everything between the store and the far edge, as one machine has it."""

    def __init__(self, node: Node, partition: int, epoch: int, store: Store) -> None:
        self.node = node
        self.partition = partition
        self.store = store
        config, metrics = node.config, node.metrics
        sequences = store._sequences
        if sequences._next < first_seq(partition):
            sequences._next = sequences._asked = first_seq(partition)
            sequences._durable = first_seq(partition) + (1 << 24)
        self.edge = FarEdge(
            node.bus,
            partition,
            epoch,
            directory=store.directory,
            journal=store.journal,
            broadcasts=store.broadcasts,
            config=config,
            metrics=metrics,
            clock=now_ms,
        )
        self.dispatcher = Dispatcher(
            edge=self.edge,
            journal=store.journal,
            broadcasts=store.broadcasts,
            schedules=store.schedules,
            directory=store.directory,
            notifiers=node.fleet.notifiers,
            config=config,
            metrics=metrics,
            clock=now_ms,
        )
        self.edge.attach(self.dispatcher)
        store.directory.watch(self.edge)
        self.acceptor = Acceptor(
            directory=store.directory,
            journal=store.journal,
            schedules=store.schedules,
            dispatcher=self.dispatcher,
            config=config,
            metrics=metrics,
        )
        self.batches = BatchAcceptor(
            edge=self.edge, journal=store.journal, dispatcher=self.dispatcher, config=config, metrics=metrics
        )
        node.door.open(self.edge, store.directory, store.batches.table)
        self.dispatcher.start()

    async def push(self, target: str | dict[str, Any], title: str = "", **fields: Any) -> int:
        where = {"token": target} if isinstance(target, str) else target
        app = self.store.directory.app("shop")
        assert app is not None
        request = msgspec.convert({"target": where, "title": title, **fields}, PushRequest)
        accepted = self.acceptor.push(app, request, now_ms())
        await accepted.done
        return accepted.seq

    async def push_batch(self, pushes: list[dict[str, Any]]) -> list[Any]:
        app = self.store.directory.app("shop")
        assert app is not None
        taken = self.batches.accept(app, [msgspec.msgpack.encode(pushes)], 10_000, now_ms())
        await taken.done
        return [taken.result(index) for index in range(taken.count)]

    def state(self, seq: int) -> State:
        record = self.store.receipts.lookup("shop", seq)
        assert record is not None
        return State(record.deliveries[0].state)

    def steps(self, seq: int) -> list[str]:
        record = self.store.receipts.lookup("shop", seq)
        assert record is not None
        return [step.what for step in record.deliveries[0].steps]

    async def reaches(self, seq: int, state: State) -> None:
        try:
            await until(lambda: self.state(seq) == state)
        except AssertionError:
            raise AssertionError(f"not {state.name} but {self.state(seq).name}: {self.steps(seq)}") from None

    def pending(self, seq: int) -> Delivery | None:
        return self.store.journal.get(seq)

    async def close(self) -> None:
        await self.node.door.close(self.partition)
        await self.dispatcher.close()
        await self.store.close()


class Node:
    """A node's device door; cores live in `Fleet`."""

    def __init__(self, fleet: Fleet, number: int, settings: dict[str, Any]) -> None:
        self.fleet = fleet
        self.number = number
        self.config = build_config(fleet.path / f"node-{number}", settings)
        self.config.cluster.ask_timeout_s = 1.0
        self.metrics = Metrics(process=False)
        self.bus = fleet.network.bus(number, self.metrics)
        self.view = View(number, dict(fleet.owners), dict(fleet.members))
        keys = fleet.keys
        self.node = NodeEdge(
            self.config,
            DeviceLogin(self.config.edge, DeviceVerifier(self.config.auth, keys).verify, fleet.device_key),
            self.bus,
            self.view,
            self.metrics,
            now_ms,
            home_of=fleet.home_of,
            device_key=fleet.device_key,
            service_keys=ServiceKeys(b"service keys of a fleet"),
        )
        self.door = FarDoor(self.bus, self.view, self.metrics)
        self.node.serve()
        self.door.serve()

    async def start(self) -> None:
        await self.bus.start()
        await self.node.edge.start()

    @property
    def port(self) -> int:
        return self.node.edge.port

    def device(self) -> BareDevice:
        device = BareDevice(self.port)
        self.fleet.devices.append(device)
        return device

    def homes_of(self, token: str) -> int:
        """Its local number."""
        raw = parse_token(token)
        assert raw is not None
        return self.node.homes.registry.find(raw)

    def dropped(self, reason: str) -> float:
        return self.metrics.value(Metric.FAR_DROPPED, reason)

    async def close(self) -> None:
        await self.node.edge.stop()
        await self.node.close()
        await self.bus.close()


class Fleet:
    """`async with Fleet(path, nodes=3, owners={0: 2, …})`."""

    def __init__(
        self,
        path: Path,
        *,
        nodes: int = 2,
        owners: dict[int, int] | None = None,
        settings: dict[str, Any] | None = None,
        app: dict[str, Any] | None = None,
        notifiers: dict[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.network = LocalNetwork()
        self.settings = settings or {}
        self.app = app or {}
        self.notifiers = notifiers or {}
        wanted = owners or dict.fromkeys(range(PARTITIONS), nodes)
        self.members = {n: Member(n, f"node-{n}", "", "", 1, False) for n in range(1, nodes + 1)}
        self.owners = {partition: Owner(node, 1) for partition, node in wanted.items()}
        self.nodes: dict[int, Node] = {}
        self.cores: dict[int, Core] = {}
        self.devices: list[BareDevice] = []

    async def __aenter__(self) -> Fleet:
        first = await self._store(0)
        self.keys = first.keys
        self.device_key: Callable[[str], int] = first.directory.device_key
        tokens = Tokens(first._environment, first.keys.token_key)
        self.home_of = lambda device, app, account: partition_of(tokens.build(device, app, account, 0), PARTITIONS)
        await first.close()
        for number in self.members:
            self.nodes[number] = Node(self, number, self.settings)
        for partition, owner in self.owners.items():
            await self.adopt(partition, owner.node, owner.epoch)
        for node in self.nodes.values():
            await node.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for device in self.devices:
            if not device.closed:
                device.vanish()
        for node in self.nodes.values():
            await node.close()
        for core in self.cores.values():
            await core.close()

    async def _store(self, partition: int) -> Store:
        folder = self.path / f"partition-{partition}"
        if not folder.exists():
            folder.mkdir(mode=0o700)
            if partition:
                shutil.copy(self.path / "partition-0" / "keys.json", folder / "keys.json")
        config = build_config(folder, self.settings)
        config.store.sync = False  # as a partition's folder: what is durable is the log
        store = await Store.open(config.store, Metrics(process=False))
        if store.directory.app("shop") is None:
            await store.directory.put_app(App(name="shop", created_at=1, **self.app))
        return store

    async def adopt(self, partition: int, node: int, epoch: int) -> Core:
        core = Core(self.nodes[node], partition, epoch, await self._store(partition))
        self.cores[partition] = core
        return core

    async def move(self, partition: int, node: int) -> Core:
        """Another owner, whose core opens the same folder; every node hears of it."""
        await self.cores.pop(partition).close()
        epoch = self.owners[partition].epoch + 1
        return await self.own(partition, node, epoch)

    async def own(self, partition: int, node: int, epoch: int) -> Core:
        owner = self.owners[partition] = Owner(node, epoch)
        core = await self.adopt(partition, node, epoch)
        for one in self.nodes.values():
            one.view.owners[partition] = owner
            one.node.owner_changed(partition, owner)
        return core

    async def kill(self, number: int) -> None:
        """A node's device door ends without a word to anybody, and then all others know."""
        node = self.nodes.pop(number)
        node.node.events.is_closed = True
        node.bus.switch(up=False)
        await node.close()
        self.gone(number)

    def gone(self, number: int) -> None:
        self.members.pop(number, None)
        for one in self.nodes.values():
            one.view.members.pop(number, None)
            one.door.member_gone(number)

    def core_of(self, token: str) -> Core:
        raw = parse_token(token)
        assert raw is not None
        return self.cores[partition_of(raw, PARTITIONS)]

    async def connected(self, token: str, node: int = 0) -> None:
        """Its owner knows where it is."""
        core = self.core_of(token)
        number = core.store.directory.find(token, "shop")
        assert number >= 0

        def there() -> bool:
            link = core.edge.registry.link(number)
            return bool(link) and (not node or link >> 40 & 0xFFFF == node)

        await until(there)

    async def away(self, token: str) -> None:
        core = self.core_of(token)
        number = core.store.directory.find(token, "shop")
        await until(lambda: not core.edge.is_connected(number))


async def settle(turns: int = 20) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


Open = Callable[..., Awaitable[Fleet]]
