"""Engines below one store, for one suite of its ports: LMDB alone, LMDB over a journal in RAM, LMDB over the journal of
real NATS servers; and the ways in which a store comes again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from journal_rig import JournalFleet, JournalNode, until
from memory_log import MemoryJournal, MemoryLog
from store_rig import Clock, config, open_store

from gateway.config.cluster_section import Cluster
from gateway.metrics import Metrics
from gateway.model.cluster import broadcast_seq
from gateway.store import Store
from gateway.store.commit import APPLIED_KEY
from gateway.store.environment import Environment
from gateway.store.keys import ServerKeys
from gateway.store.partition import Partition
from gateway.store.records import PUT, Db, pack_u64
from gateway.store.row_codec import parse_rows

PARTITION = 6


class Engine(Protocol):
    async def open(self) -> Store:
        """The first life."""
        ...

    async def closed(self) -> Store:
        """After a good end, on the same folder."""
        ...

    async def fresh(self) -> Store:
        """The one before never ended, and its folder is gone."""
        ...

    async def standby(self) -> Store:
        """The one before never ended; somebody followed it."""
        ...

    def broadcast_seq(self, store: Store, place: int) -> int: ...

    async def close(self) -> None: ...


class Lives:
    """What all engines have: stores that were opened, to be closed in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stores: list[Store] = []

    @property
    def store(self) -> Store:
        return self.stores[-1]

    def born(self, store: Store) -> Store:
        self.stores.append(store)
        return store

    async def close(self) -> None:
        for store in reversed(self.stores):
            await store.close()


class Alone(Lives):
    """One machine: there is no other, so a copy of the folder stands for it."""

    async def open(self) -> Store:
        return self.born(await open_store(self.folder / "a"))

    async def closed(self) -> Store:
        await self.store.close()
        return self.born(await open_store(self.folder / "a"))

    async def fresh(self) -> Store:
        await self.store.copy(self.folder / "b")
        return self.born(await open_store(self.folder / "b"))

    async def standby(self) -> Store:
        self.store._environment.sync()
        (self.folder / "c").mkdir()
        for name in ("data.mdb", "keys.json"):
            shutil.copy(self.folder / "a" / name, self.folder / "c" / name)
        return self.born(await open_store(self.folder / "c"))

    def broadcast_seq(self, store: Store, place: int) -> int:
        return store.journal.reserve(1)


class OverMemory(Lives):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.journal = MemoryJournal()
        self.log: MemoryLog | None = None
        (folder / "keys").mkdir()
        self.keys = ServerKeys.load(folder / "keys", may_create=True)
        self._followed = 0

    async def _open(self, name: str) -> Store:
        self.log = MemoryLog(self.journal)
        store = await Store.open(
            config(self.folder / name),
            Metrics(process=False),
            clock=Clock(),
            probe_s=3_600,
            tick_s=3_600,
            partition=Partition(PARTITION, self.log, self.keys),
        )
        return self.born(store)

    async def open(self) -> Store:
        store = await self._open("a")
        self.follow()
        return store

    async def closed(self) -> Store:
        await self.store.close()
        return await self._open("a")

    def replay(self, name: str, after: int) -> None:
        environment = Environment.open(config(self.folder / name))
        for place, raw in enumerate(self.journal.commits[after:], after + 1):
            environment.apply([*parse_rows(raw), [(PUT, Db.META, APPLIED_KEY, pack_u64(place))]])
        environment.close()

    def follow(self) -> None:
        self.replay("standby", self._followed)
        self._followed = len(self.journal.commits)

    async def fresh(self) -> Store:
        self.replay("fresh", 0)
        return await self._open("fresh")

    async def standby(self) -> Store:
        self.follow()
        return await self._open("standby")

    def broadcast_seq(self, store: Store, place: int) -> int:
        return broadcast_seq(place)


class OverNats(Lives):
    def __init__(self, folder: Path, settings: Callable[..., Cluster]) -> None:
        super().__init__(folder)
        self.fleet = JournalFleet(folder, settings)
        self._nodes: list[JournalNode] = []
        self._epoch = 0

    async def _adopt(self, node: JournalNode) -> Store:
        self._epoch += 1
        return self.born(await node.adopt(PARTITION, self._epoch))

    async def open(self) -> Store:
        self._nodes = [await self.fleet.node(), await self.fleet.node()]
        self._nodes[1].stores.follow(PARTITION)
        return await self._adopt(self._nodes[0])

    async def closed(self) -> Store:
        await self.store.close()
        return await self._adopt(self._nodes[0])

    async def fresh(self) -> Store:
        return await self._adopt(await self.fleet.node())

    async def standby(self) -> Store:
        place = (await self.fleet.commits(PARTITION))[-1].place
        await until(lambda: self._nodes[1].stores.applied(PARTITION) >= place)
        return await self._adopt(self._nodes[1])

    def broadcast_seq(self, store: Store, place: int) -> int:
        return broadcast_seq(place)

    async def close(self) -> None:
        await super().close()
        await self.fleet.close()
