"""Nodes with cores of partitions in one process: real stores over journals in RAM, a bus in RAM, devices that only note
what they were sent. An owner that is killed leaves nothing but its journal."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from memory_log import MemoryJournal, MemoryLog
from store_rig import APP, Clock, config

from gateway.cluster.local_bus import LocalBus, LocalNetwork
from gateway.config.sections import Config
from gateway.delivery.accept import Acceptor
from gateway.delivery.dispatcher import Dispatcher
from gateway.delivery.request import PushRequest, TargetRequest
from gateway.delivery.scheduler import Scheduler
from gateway.fleet.broadcast_feed import BroadcastFeed
from gateway.fleet.patience import start_patiently
from gateway.fleet.spread import Spread
from gateway.fleet.wide_side import WideSide
from gateway.metrics import Metrics
from gateway.model.cluster import Owner
from gateway.model.frames import FrameReader, Notify, parse_body
from gateway.model.ports import Ack
from gateway.model.reach import BroadcastLog
from gateway.model.registration import App
from gateway.store import Store
from gateway.store.commit import APPLIED_KEY
from gateway.store.environment import Environment
from gateway.store.keys import ServerKeys
from gateway.store.partition import Partition
from gateway.store.records import PUT, Db, pack_u64
from gateway.store.row_codec import parse_rows

PARTITIONS = 3


class Desk:
    """An Edge whose devices note what came: (registration, what is written on it)."""

    def __init__(self, core: RigCore) -> None:
        self._core = core
        self.bound: set[int] = set()
        self.flights: dict[tuple[int, int], str] = {}

    is_certain = True

    def is_connected(self, registration: int) -> bool:
        return registration in self.bound

    def urgency_floor(self, registration: int) -> int:
        return 0

    def notify(self, registration: int, frame: bytes, seq: int, ack_ms: int, *, again: bool = False) -> bool:
        if registration not in self.bound:
            return False
        self._put(registration, frame, seq)
        return True

    def fanout(self, groups: Sequence[int], frame: bytes, seq: int, ack_ms: int, urgency: int) -> None:
        registry = self._core.store.directory.registry
        for registration in sorted(self.bound):
            if registry.group(registration) in groups:
                self._put(registration, frame, seq)

    def _put(self, registration: int, frame: bytes, seq: int) -> None:
        if (registration, seq) in self.flights:
            return
        [(_, body)] = FrameReader().feed(frame)
        text = parse_body(body, Notify).text
        self.flights[registration, seq] = text
        self._core.came[registration, text] += 1

    def room(self, registration: int) -> int:
        return 1_000 if registration in self.bound else 0

    def await_room(self, registration: int) -> None:
        flights = [(seq, number) for number, seq in self.flights if number == registration]
        asyncio.get_running_loop().call_soon(self._core.dispatcher.on_ready, [registration], flights)

    def recall(self, registration: int, seq: int) -> None:
        text = self.flights.pop((registration, seq), None)
        if text is not None:
            self._core.taken_away.add((registration, text))

    def recall_fanout(self, groups: Sequence[int], seq: int) -> None:
        for registration, flight in list(self.flights):
            if flight == seq:
                self.recall(registration, seq)

    @property
    def router(self) -> Any:
        raise AssertionError

    # --- the other side

    def connect(self, *registrations: int) -> None:
        self.bound.update(registrations)
        self._core.dispatcher.on_ready(list(registrations))

    def ack(self, registration: int, text: str) -> bool:
        """False: it is not on its screen."""
        for number, seq in list(self.flights):
            if number == registration and self.flights[number, seq] == text:
                del self.flights[number, seq]
                now = self._core.clock()
                self._core.dispatcher.on_acks([Ack(seq, registration, now, now, False, 0)])
                self._core.acked.add((registration, text))
                return True
        return False


class RigCore:
    """A partition as its owner has it. What devices saw is the world's, and outlives it."""

    def __init__(self, world: World, node: RigNode, partition: int, store: Store) -> None:
        self.world = world
        self.node = node
        self.partition = partition
        self.store = store
        self.clock = world.clock
        self.came = world.came[partition]
        self.acked = world.acked[partition]
        self.taken_away = world.taken_away[partition]
        settings, metrics = world.config, node.metrics
        self.edge = Desk(self)
        self.dispatcher = Dispatcher(
            edge=self.edge,
            journal=store.journal,
            broadcasts=store.broadcasts,
            schedules=store.schedules,
            directory=store.directory,
            notifiers={},
            config=settings,
            metrics=metrics,
            clock=self.clock,
        )
        self.wide = WideSide(partition, store, node.feed, node.spread, settings, metrics, self.clock)
        self.reach = self.wide.reach
        self.acceptor = Acceptor(
            directory=store.directory,
            journal=store.journal,
            schedules=store.schedules,
            dispatcher=self.dispatcher,
            config=settings,
            metrics=metrics,
            reach=self.reach,
        )
        self.scheduler = Scheduler(
            schedules=store.schedules,
            directory=store.directory,
            acceptor=self.acceptor,
            backlog=self.dispatcher.backlog,
            metrics=metrics,
            clock=self.clock,
            reach=self.reach,
        )
        self.dispatch = self.wide.attach(self.dispatcher, self.acceptor, self.scheduler)
        self.pushes = self.wide.pushes

    async def begin(self) -> None:
        await self.wide.ready()
        self.wide.join()
        self.dispatcher.start()

    async def end(self) -> None:
        await self.wide.close()
        await self.scheduler.close()
        await self.dispatcher.close()

    def register(self, device: str, version: str = "1.0", **labels: Any) -> int:
        return self.store.directory.register(device, APP, version, "", **labels)[0].number

    def push(self, text: str, **options: Any) -> tuple[int, asyncio.Future[None]]:
        """(what its provider knows it by, its future)"""
        target = TargetRequest(
            **{
                key: options.pop(key)
                for key in ("token", "alias", "tag", "versions", "everyone", "where")
                if key in options
            }
        )
        app = self.store.directory.app(APP)
        assert app is not None
        accepted = self.acceptor.push(app, PushRequest(target=target, title="t", text=text, **options), self.clock())
        return accepted.seq, accepted.done

    async def flush(self) -> None:
        await self.dispatcher.backlog.wait_idle()
        self.store.write_behind()
        await self.store.committer.flush()


class RigNode:
    def __init__(self, world: World, number: int, bus: LocalBus, log: BroadcastLog) -> None:
        self.number = number
        self.metrics = Metrics(process=False)
        self.bus = bus
        self.log = log
        self.feed = BroadcastFeed(log, self.metrics, world.clock)
        self.spread = Spread(bus, world, self.metrics, ask_timeout_s=5.0)


class World:
    """The fleet; its own `Owners`."""

    partitions = PARTITIONS

    def __init__(self, folder: Path, make_log: Callable[[], BroadcastLog], **store: Any) -> None:
        self.folder = folder
        self.clock = Clock()
        self.config = Config()
        for name, value in store.items():
            setattr(self.config.store, name, value)
        self._make_log = make_log
        self.network = LocalNetwork()
        self.nodes: dict[int, RigNode] = {}
        self.cores: dict[int, RigCore] = {}
        self.owners = [0] * PARTITIONS
        self.journals = [MemoryJournal() for _ in range(PARTITIONS)]
        self.logs: list[MemoryLog | None] = [None] * PARTITIONS
        self.came: list[Counter[tuple[int, str]]] = [Counter() for _ in range(PARTITIONS)]
        self.acked: list[set[tuple[int, str]]] = [set() for _ in range(PARTITIONS)]
        self.taken_away: list[set[tuple[int, str]]] = [set() for _ in range(PARTITIONS)]
        keys = folder / "keys"
        keys.mkdir()
        self._keys = ServerKeys.load(keys, may_create=True)
        self._lives = 0
        self._abandoned: list[Store] = []

    def owner(self, partition: int) -> Owner:
        return Owner(self.owners[partition], 1)

    async def add_node(self, number: int) -> RigNode:
        node = self.nodes[number] = RigNode(self, number, self.network.bus(number), self._make_log())
        await start_patiently(node.feed.start)
        return node

    async def adopt(self, partition: int, number: int, *, folder: Path | None = None) -> RigCore:
        """In a folder made from the journal alone, where none is given."""
        if folder is None:
            self._lives += 1
            folder = self.folder / f"p{partition}-{self._lives}"
            self._replay(self.journals[partition], folder)
        log = self.logs[partition] = MemoryLog(self.journals[partition])
        store = await Store.open(
            config(folder, max_bytes=1 << 26, max_broadcasts_per_app=self.config.store.max_broadcasts_per_app),
            self.nodes[number].metrics,
            clock=self.clock,
            probe_s=3_600.0,
            tick_s=3_600.0,
            partition=Partition(partition, log, self._keys),
        )
        if store.directory.app(APP) is None:
            await store.directory.put_app(App(name=APP))
        core = RigCore(self, self.nodes[number], partition, store)
        self.owners[partition] = number
        await core.begin()
        self.cores[partition] = core
        return core

    def _replay(self, journal: MemoryJournal, folder: Path) -> None:
        environment = Environment.open(config(folder, max_bytes=1 << 26))
        for place, raw in enumerate(journal.commits, 1):
            environment.apply([*parse_rows(raw), [(PUT, Db.META, APPLIED_KEY, pack_u64(place))]])
        environment.close()

    async def hand_over(self, partition: int) -> Path:
        """In good order; the folder that is left."""
        core = self.cores.pop(partition)
        self.owners[partition] = 0
        await core.end()
        await core.store.close()
        return core.store.path

    async def kill(self, partition: int) -> None:
        """Its owner is gone: nothing more of it reaches the journal."""
        core = self.cores.pop(partition)
        self.owners[partition] = 0
        MemoryLog(self.journals[partition])  # whoever is next has fenced it
        await core.end()
        self._abandoned.append(core.store)

    async def settle(self) -> None:
        for _ in range(3):
            for core in list(self.cores.values()):
                await core.flush()
            for _ in range(10):
                await asyncio.sleep(0)

    def numbers(self, partition: int) -> Collection[int]:
        return self.cores[partition].edge.bound

    async def close(self) -> None:
        for core in self.cores.values():
            await core.end()
            await core.store.close()
        for store in self._abandoned:
            await store.close()
        for node in self.nodes.values():
            await node.feed.close()
            await node.bus.close()


async def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.002)
