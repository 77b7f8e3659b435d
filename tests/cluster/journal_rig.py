"""Nodes that own, follow and adopt partitions on real NATS servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.js import JetStreamContext
from store_rig import Clock, config

from gateway.cluster.adoption import PartitionStores
from gateway.cluster.jetstream import JetStream
from gateway.cluster.journal_reader import JournalReader, StreamPurged
from gateway.cluster.journal_records import Assembler, Commit, journal_stream
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.nats_transport import read_natively
from gateway.config.cluster_section import Cluster
from gateway.metrics import Metrics
from gateway.store import Store
from gateway.store.keys import ServerKeys


class PlainLink:
    """A connection that is kept, and holds nothing back while it is down."""

    def __init__(self) -> None:
        self.nats = Client()

    @property
    def is_up(self) -> bool:
        return self.nats.is_connected

    @property
    def js(self) -> JetStreamContext:
        return self.nats.jetstream()

    async def connect(self, urls: str, *, natively: bool = False) -> PlainLink:
        """`natively`: as a gateway reads it."""
        if natively:
            assert read_natively(self.nats) is not None

        async def ignore(_: Exception) -> None:
            pass

        await self.nats.connect(
            urls.split(","),
            error_cb=ignore,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,
            connect_timeout=1,
            pending_size=-1,
        )
        return self

    async def close(self) -> None:
        await self.nats.close()


class Ends:
    """What a store said of its end."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def fenced(self) -> None:
        self.said.append("fenced")

    def behind(self) -> None:
        self.said.append("behind")


class JournalNode:
    """A node with a folder and a connection of its own."""

    def __init__(self, link: PlainLink, settings: Cluster, folder: Path, keys: ServerKeys, clock: Clock) -> None:
        self.link = link
        self.settings = settings
        self.folder = folder
        self.ends = Ends()
        self.clock = clock
        self.leases = KvLeases(link, settings)  # type: ignore[arg-type]
        self.stores = PartitionStores(link, settings, config(folder), keys, self.leases, Metrics(process=False), clock)

    async def adopt(self, partition: int, epoch: int) -> Store:
        return await self.stores.open_partition(
            partition, epoch, on_fenced=self.ends.fenced, on_behind=self.ends.behind
        )

    async def close(self) -> None:
        await self.stores.close()
        await self.link.close()


class JournalFleet:
    def __init__(self, folder: Path, settings: Callable[..., Cluster]) -> None:
        self.folder = folder
        self.settings = settings
        (folder / "keys").mkdir(exist_ok=True)
        self.keys = ServerKeys.load(folder / "keys", may_create=True)
        self.clock = Clock()
        self._closing: list[Callable[[], Awaitable[Any]]] = []
        self._nodes = 0

    async def node(self, name: str = "", /, **settings: Any) -> JournalNode:
        """A fresh one, or with the folder of that name."""
        self._nodes += 1
        # the servers reserve a journal's bytes
        cluster = self.settings(**{"journal_bytes": 1 << 26, "node": f"n{self._nodes}", **settings})
        link = await PlainLink().connect(cluster.url)
        folder = self.folder / (name or f"node{self._nodes}")
        node = JournalNode(link, cluster, folder, self.keys, self.clock)
        await node.leases.open()
        self._closing.append(node.close)
        return node

    async def commits(self, partition: int) -> list[Commit]:
        """What the journal holds, epoch records too."""
        cluster = self.settings()
        link = await PlainLink().connect(cluster.url)
        try:
            while True:
                try:
                    return await read_all(JetStream(link), journal_stream(cluster.name, partition))
                except StreamPurged:  # a snapshot was taken meanwhile
                    continue
        finally:
            await link.close()

    async def close(self) -> None:
        for close in reversed(self._closing):
            await close()


async def read_all(js: JetStream, stream: str) -> list[Commit]:
    state = await js.state(stream)
    assert state is not None
    assembler = Assembler(state.first - 1)
    commits = []
    async with aclosing(JournalReader(js, stream).read(state.first, state.last)) as batches:
        async for batch in batches:
            for message in batch:
                commit = assembler.take(message.seq, message.headers, message.body)
                if commit is not None:
                    commits.append(commit)
    return commits


async def until(true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.01)
