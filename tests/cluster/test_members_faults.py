"""What happens to members when processes stop and NATS servers die: real ones, of this file's own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from fleet_in_process import Tenantry, Watcher

from gateway.cluster.beats import ThreadHeart
from gateway.cluster.entrance import enter
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.members import FleetMembers
from gateway.cluster.nats_bus import NatsBus
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster_section import Cluster
from gateway.metrics import Metrics
from gateway.metrics.names import Metric
from gateway.model.errors import NodeUnreachable
from gateway.tour.nats_servers import NatsServers

pytestmark = pytest.mark.slow
PARTITIONS = 8


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[NatsServers]:
    servers = NatsServers(tmp_path / "nats")
    await servers.start()
    yield servers
    await servers.close()


def settings_of(servers: NatsServers, node: str) -> Cluster:
    return Cluster(url=servers.urls, node=node, partitions=PARTITIONS, lease_s=1.5, beat_s=0.25)


async def until(true: Callable[[], object], within_s: float = 60.0) -> float:
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.02)
    return time.monotonic() - began


class Node:
    """In this process."""

    def __init__(self, settings: Cluster, watcher: Watcher) -> None:
        self.settings = settings
        self.tenant = Tenantry(settings.node, watcher)
        self.metrics = Metrics(process=False)
        self.link = NatsLink(settings, purpose="bus", node=settings.node)
        self.members: FleetMembers
        self.bus: NatsBus

    async def start(self) -> None:
        settings = self.settings
        await self.link.connect()
        leases = KvLeases(self.link, settings)
        await leases.open()
        entrance = await enter(settings, leases)
        self.bus = NatsBus(self.link, settings.name, entrance.number, self.metrics, outbox_bytes=1_000_000, mark_s=0.1)
        self.members = FleetMembers(
            settings,
            entrance,
            leases,
            ThreadHeart(settings, settings.node),
            self.tenant,
            self.metrics,
            is_up=lambda: self.link.is_up,
        )

    async def open(self) -> None:
        await self.start()
        await self.bus.start()
        await self.members.start()

    async def close(self) -> None:
        await self.members.close()
        await self.bus.close()
        await self.link.close()


async def test_the_buckets_leader_dies_and_nobody_loses_anything(servers: NatsServers) -> None:
    watcher = Watcher()
    nodes = [Node(settings_of(servers, name), watcher) for name in "abc"]
    await asyncio.gather(*(node.open() for node in nodes))
    await until(lambda: len(watcher.has) == PARTITIONS)
    await asyncio.sleep(6)
    moves = watcher.moves
    info = await nodes[0].link.js.stream_info("KV_heliograph_FLEET")
    assert info.cluster is not None
    leader = next(server for server in servers.servers if server.name == info.cluster.leader)
    leader.kill()
    before = nodes[0].members._renewed_at
    await until(lambda: all(node.members._renewed_at > before + 3.0 for node in nodes))
    await asyncio.sleep(4)
    assert watcher.moves == moves
    assert len(watcher.has) == PARTITIONS
    assert all(node.metrics.value(Metric.LEASES_LAPSED) == 0 for node in nodes)
    # and with two servers a node that leaves is still replaced
    await nodes[1].close()
    await until(lambda: len(watcher.has) == PARTITIONS)
    await asyncio.gather(nodes[0].close(), nodes[2].close())
    assert watcher.violations == []


# nats-py drops a connection to a server that hangs without closing its writer
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in.*StreamWriter:pytest.PytestUnraisableExceptionWarning")
async def test_a_server_that_hangs_with_its_connections_open_costs_its_nodes_their_lease_at_most(
    servers: NatsServers,
) -> None:
    watcher = Watcher()
    nodes = [Node(settings_of(servers, name), watcher) for name in "abc"]
    for node in nodes:
        node.settings.lease_s, node.settings.beat_s = 3.0, 0.5
    await asyncio.gather(*(node.open() for node in nodes))
    await until(lambda: len(watcher.has) == PARTITIONS)
    info = await nodes[0].link.js.stream_info("KV_heliograph_FLEET")
    assert info.cluster is not None
    others = [server for server in servers.servers if server.name != info.cluster.leader]
    others[0].kill(signal.SIGSTOP)
    await asyncio.sleep(12)
    # who was connected to it is with another server by now, and all is owned, by one each
    await until(lambda: len(watcher.has) == PARTITIONS)
    others[0].kill(signal.SIGCONT)
    await until(lambda: all({member.name for member in node.members.all()} == {"a", "b", "c"} for node in nodes))
    await asyncio.gather(*(node.close() for node in nodes))
    assert watcher.violations == []


async def test_a_process_that_was_stopped_past_its_lease_owns_nothing_when_it_wakes(servers: NatsServers) -> None:
    watcher = Watcher()
    node = Node(settings_of(servers, "a"), watcher)
    await node.open()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("node_process.py")),
        json.dumps(asdict(settings_of(servers, "b"))),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    lines: list[tuple[str, int]] = []

    async def read() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if line.startswith(b"["):
                lines.append(tuple(json.loads(line)))

    reading = asyncio.create_task(read())

    def owned() -> set[int]:
        held: set[int] = set()
        for what, number in lines:
            if what == "adopt":
                held.add(number)
            elif what in ("release", "lost"):
                held.discard(number)
        return held

    await until(lambda: owned() and len(node.members.owned()) + len(owned()) == PARTITIONS)
    await asyncio.sleep(2)
    had = owned()
    os.kill(process.pid, signal.SIGSTOP)
    took = await until(lambda: len(node.members.owned()) == PARTITIONS)
    assert 1.0 < took < 8.0
    await asyncio.sleep(1)
    woke = len(lines)
    os.kill(process.pid, signal.SIGCONT)
    await until(lambda: {number for what, number in lines[woke:] if what == "lost"} == had)
    # it lives, so after some beats it gets its part again, under the same number
    await until(lambda: owned() == had and len(node.members.owned()) == PARTITIONS - len(had))
    assert sum(1 for what, _ in lines if what == "number") == 1
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()
    await reading
    await until(lambda: len(node.members.owned()) == PARTITIONS)
    await node.close()


async def test_a_connection_that_the_server_ends_for_good_is_replaced(servers: NatsServers) -> None:
    watcher = Watcher()
    one, other = (Node(settings_of(servers, name), watcher) for name in "ab")
    for node in (one, other):
        await node.start()
        node.bus.serve("echo", lambda _sender, body: body)
        await node.bus.start()
        await node.members.start()
    gaps: list[int] = []
    one.bus.on_gap(gaps.append)
    assert await one.bus.ask(other.bus.number, "echo", b"1", timeout_s=5) == b"1"
    client = other.link.nats
    await client._process_err("'Slow Consumer'")  # as if the server had said so
    await until(lambda: other.link.life == 2 and other.link.is_up)
    assert other.link.nats is not client
    await until(lambda: other.bus._life == 2)
    assert await one.bus.ask(other.bus.number, "echo", b"2", timeout_s=5) == b"2"
    assert await other.bus.ask(one.bus.number, "echo", b"3", timeout_s=5) == b"3"
    await asyncio.sleep(3)
    assert len(watcher.has) == PARTITIONS
    await asyncio.gather(one.close(), other.close())
    assert watcher.violations == []


async def test_the_server_of_one_node_dies_and_what_was_lost_is_seen(servers: NatsServers) -> None:
    watcher = Watcher()
    one, other = (Node(settings_of(servers, name), watcher) for name in "ab")
    heard: list[int] = []
    gaps: list[int] = []
    for node in (one, other):
        await node.start()
        node.bus.serve("told", lambda _sender, body: heard.append(int(body)) or b"")
        node.bus.on_gap(gaps.append)
        await node.bus.start()
        await node.members.start()
    url = one.link.nats.connected_url
    assert url is not None
    server = next(server for server in servers.servers if server.port == url.port)
    sent = 0

    async def talk() -> None:
        nonlocal sent
        while True:
            one.bus.tell(other.bus.number, "told", b"%d" % sent)
            sent += 1
            await asyncio.sleep(0.001)

    talking = asyncio.create_task(talk())
    await asyncio.sleep(0.3)
    server.kill()
    await until(lambda: one.link.is_up and one.link.nats.connected_url != url)
    await asyncio.sleep(1)
    talking.cancel()
    await until(lambda: heard and heard[-1] == sent - 1)
    assert heard == sorted(set(heard))  # in order, and nothing twice
    assert (len(heard) == sent) == (not gaps)
    await asyncio.gather(one.close(), other.close())
    assert watcher.violations == []


async def test_without_any_server_nobody_is_asked_and_all_comes_back(servers: NatsServers) -> None:
    watcher = Watcher()
    one, other = (Node(settings_of(servers, name), watcher) for name in "ab")
    for node in (one, other):
        await node.start()
        node.bus.serve("echo", lambda _sender, body: body)
        await node.bus.start()
        await node.members.start()
    await until(lambda: len(watcher.has) == PARTITIONS)
    for server in servers.servers:
        server.kill()
    await until(lambda: not one.bus.is_up and not other.bus.is_up)
    with pytest.raises(NodeUnreachable):
        await one.bus.ask(other.bus.number, "echo", b"1", timeout_s=5)
    await until(lambda: not watcher.has)  # the lease is over
    for server in servers.servers:
        server.start()
    await until(lambda: len(watcher.has) == PARTITIONS)
    assert await one.bus.ask(other.bus.number, "echo", b"2", timeout_s=5) == b"2"
    assert one.link.life == 1
    await asyncio.gather(one.close(), other.close())
    assert watcher.violations == []
