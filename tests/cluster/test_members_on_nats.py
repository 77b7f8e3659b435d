"""Leases and members over three real NATS servers, beats in threads of their own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from fleet_in_process import Tenantry, Watcher

from gateway.cli import run
from gateway.cluster.assignment import rank
from gateway.cluster.beats import ThreadHeart
from gateway.cluster.entrance import enter
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.leases import Bucket, BucketGone, Changed, Entry, InDoubt, Leases, LocalLeases
from gateway.cluster.members import FleetMembers
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster_section import Cluster
from gateway.metrics import Metrics
from gateway.model.errors import ConfigError

MakeLeases = Callable[[], Awaitable[Leases]]


async def until(true: Callable[[], object], within_s: float = 60.0) -> float:
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.01)
    return time.monotonic() - began


@pytest.fixture(params=["local", "nats"])
async def make_leases(request: pytest.FixtureRequest) -> AsyncIterator[MakeLeases]:
    bucket = Bucket()
    links: list[NatsLink] = []
    settings: Cluster | None = None
    if request.param == "nats":
        settings = request.getfixturevalue("fleet_settings")()

    async def make() -> Leases:
        if settings is None:
            return LocalLeases(bucket)
        link = NatsLink(settings, purpose="test")
        links.append(link)
        await link.connect()
        leases = KvLeases(link, settings)
        await leases.open()
        return leases

    yield make
    for link in links:
        await link.close()


async def test_a_record_is_changed_only_by_who_knows_it(make_leases: MakeLeases) -> None:
    one, other = await make_leases(), await make_leases()
    assert await one.get("node.a") is None
    first = await one.create("node.a", b"1")
    with pytest.raises(Changed):
        await other.create("node.a", b"2")
    second = await other.update("node.a", b"2", first)
    assert second > first
    with pytest.raises(Changed):
        await one.update("node.a", b"3", first)
    assert await one.get("node.a") == Entry("node.a", b"2", second)


async def test_a_deleted_record_is_gone_and_can_be_made_again(make_leases: MakeLeases) -> None:
    leases = await make_leases()
    revision = await leases.create("node.a.b", b"1")
    await leases.create("part.7", b"x")
    with pytest.raises(Changed):
        await leases.delete("node.a.b", revision + 5)
    await leases.delete("node.a.b", revision)
    assert await leases.get("node.a.b") is None
    assert [entry.key for entry in await leases.all()] == ["part.7"]
    again = await leases.create("node.a.b", b"2")
    assert again > revision
    assert {entry.key: entry.value for entry in await leases.all()} == {"part.7": b"x", "node.a.b": b"2"}


async def test_a_bucket_is_told_from_another_of_its_name(fleet_settings: Callable[..., Cluster]) -> None:
    settings = fleet_settings()
    link = NatsLink(settings, purpose="test")
    await link.connect()
    one, other = KvLeases(link, settings), KvLeases(link, settings)
    await one.open()
    await other.open()
    made = await one.made()
    assert made
    await one.create("node.a", b"1")
    assert await other.made() == made
    await link.js.delete_stream(one._stream)
    for call in (one.made(), one.get("node.a")):
        with pytest.raises(BucketGone):
            await call
    with pytest.raises(InDoubt):
        await one.update("node.a", b"2", 1)
    await other.open()
    assert await one.made() not in ("", made)
    assert await one.get("node.a") is None
    await link.close()


async def test_an_empty_bucket_has_nothing(make_leases: MakeLeases) -> None:
    assert await (await make_leases()).all() == []


async def test_a_watch_tells_the_state_and_each_change_in_order(make_leases: MakeLeases) -> None:
    one, other = await make_leases(), await make_leases()
    revision = await one.create("part.1", b"1")
    heard: list[Entry] = []
    end = await other.watch(heard.append)
    await until(lambda: heard)
    for n in range(2, 30):
        revision = await one.update("part.1", b"%d" % n, revision)
        if n % 7 == 0:  # heard of before it is replaced; of those between, a bucket with a history of 1 owes none
            await until(lambda n=n: heard[-1].value == b"%d" % n)
    await one.delete("part.1", revision)
    await until(lambda: heard[-1].value == b"")
    told = [int(entry.value or b"30") for entry in heard]
    assert told == sorted(set(told))
    assert set(told) >= {1, 7, 14, 21, 28, 30}
    assert [entry.revision for entry in heard] == sorted(entry.revision for entry in heard)
    heard.clear()
    await one.create("part.2", b"2")
    await other.watch_again()
    await until(lambda: any(entry.value == b"2" for entry in heard))
    await end()
    count = len(heard)
    await one.create("part.3", b"3")
    await asyncio.sleep(0.05)
    assert len(heard) == count


class Node:
    def __init__(self, settings: Cluster, watcher: Watcher) -> None:
        self.settings = settings
        self.link = NatsLink(settings, purpose="bus", node=settings.node)
        self.tenant = Tenantry(settings.node, watcher)
        self.members: FleetMembers

    async def start(self) -> None:
        await self.link.connect()
        leases = KvLeases(self.link, self.settings)
        await leases.open()
        entrance = await enter(self.settings, leases)
        heart = ThreadHeart(self.settings, self.settings.node)
        self.members = FleetMembers(
            self.settings,
            entrance,
            leases,
            heart,
            self.tenant,
            Metrics(process=False),
            is_up=lambda: self.link.is_up,
        )
        await self.members.start()

    async def close(self) -> None:
        await self.members.close()
        await self.link.close()


async def test_three_nodes_share_the_partitions_and_one_that_leaves_is_replaced(
    fleet_settings: Callable[..., Cluster],
) -> None:
    watcher = Watcher()
    nodes = {name: Node(fleet_settings(node=name), watcher) for name in "abc"}
    await asyncio.gather(*(node.start() for node in nodes.values()))

    def shared(names: str) -> bool:
        return all(
            set(nodes[name].members.owned()) == {p for p in range(16) if rank(p, names)[0] == name} for name in names
        )

    await until(lambda: shared("abc"))
    with pytest.raises(ConfigError, match="already"):
        await enter(nodes["a"].settings, nodes["b"].members._leases)
    assert await nodes["b"].members.drain(20)
    await nodes["b"].close()
    await until(lambda: shared("ac"))
    await asyncio.gather(nodes["a"].close(), nodes["c"].close())
    assert watcher.violations == []


async def test_beats_go_on_while_the_control_thread_is_busy(fleet_settings: Callable[..., Cluster]) -> None:
    watcher = Watcher()
    nodes = [Node(fleet_settings(node=name), watcher) for name in "ab"]
    await asyncio.gather(*(node.start() for node in nodes))
    await until(lambda: len(watcher.has) == 16 and all(node.members.owned() for node in nodes))
    await asyncio.sleep(1.0)
    # both share this thread, so only what the engine has of them can tell
    leases = nodes[0].members._leases
    before = {entry.key: entry.revision for entry in await leases.all()}
    end = time.monotonic() + 2.0  # longer than the lease: a large partition is opened
    while time.monotonic() < end:
        pass
    after = {entry.key: entry.revision for entry in await leases.all()}
    assert after["node.a"] > before["node.a"] + 10
    await asyncio.sleep(1.5)
    assert all(what == "adopt" or what == "release" for node in nodes for what, _ in node.tenant.log)
    await asyncio.gather(*(node.close() for node in nodes))
    assert watcher.violations == []


async def test_the_status_of_a_fleet_is_read_from_nats_alone(
    fleet_settings: Callable[..., Cluster], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    secret = tmp_path / "fleet.secret"
    secret.write_bytes(b"s" * 40)
    secret.chmod(0o600)
    # the command is loaded in this process, and a busy machine may take longer for that than a lease of a second
    settings = fleet_settings(secret_file=str(secret), lease_s=10.0)
    names = ("url", "monitors", "name", "lease_s", "beat_s", "secret_file")
    options = [f"--set=cluster.{name}={getattr(settings, name)}" for name in names]
    command = ["cluster", "status", "--json", *options]
    assert await asyncio.to_thread(run, command) == 2  # there is no such fleet
    watcher = Watcher()
    nodes = [Node(fleet_settings(node=name, lease_s=10.0), watcher) for name in "ab"]
    await asyncio.gather(*(node.start() for node in nodes))
    await until(lambda: all(p in nodes["ab".index(rank(p, "ab")[0])].members.owned() for p in range(16)))
    await until(lambda: all(nodes[0].members.owner(p).node for p in range(16)))
    capsys.readouterr()
    assert await asyncio.to_thread(run, command) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(member["name"], member["is_live"]) for member in found["members"]] == [("a", True), ("b", True)]
    assert {each["partition"]: each["owner"] for each in found["partitions"]} == {
        p: tenant.name for p, tenant in watcher.has.items()
    }
    assert [(stream["name"], stream["in_sync"], stream["replicas"]) for stream in found["streams"]] == [
        (f"KV_{settings.name}_FLEET", 3, 3)
    ]
    assert await asyncio.to_thread(run, ["cluster", "status", *options]) == 0
    await asyncio.gather(*(node.close() for node in nodes))
    capsys.readouterr()
    assert await asyncio.to_thread(run, command) == 1
    assert "nobody serves" in capsys.readouterr().err
