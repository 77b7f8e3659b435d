"""A whole node on real NATS servers whose bucket is removed or made anew: while it runs, and while it starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from gateway.cluster.entrance import Entrance, enter
from gateway.cluster.jetstream import JetStream
from gateway.cluster.kv_leases import KvLeases, bucket_of
from gateway.cluster.members import HOLD_S
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster_section import Cluster
from gateway.config.sections import Config
from gateway.fleet import node as node_module
from gateway.fleet.node import FleetNode
from gateway.model.errors import ConfigError

PATIENCE_S = 60.0


class Servers:
    """The bucket, by hand."""

    def __init__(self, settings: Cluster) -> None:
        self._settings = settings
        self.link = NatsLink(settings, purpose="test")

    async def remove_bucket(self) -> None:
        await JetStream(self.link).api(f"STREAM.DELETE.KV_{bucket_of(self._settings.name)}")

    async def make_bucket_anew(self) -> None:
        await self.remove_bucket()
        await KvLeases(self.link, self._settings).open()


@pytest.fixture
def config(tmp_path: Path, fleet_settings: Callable[..., Cluster]) -> Config:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 48)
    secret.chmod(0o600)
    config = Config()
    config.cluster = fleet_settings(partitions=2, secret_file=str(secret), journal_bytes=1 << 24)
    config.store.path = str(tmp_path / "a")
    config.edge.port = config.api.port = 0
    config.edge.drain_s = 0.1
    return config


@pytest_asyncio.fixture
async def servers(config: Config) -> AsyncIterator[Servers]:
    servers = Servers(config.cluster)
    await servers.link.connect()
    yield servers
    await servers.link.close()


async def until_owned(node: FleetNode) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(node.cores) < 2:
            await asyncio.sleep(0.02)


async def reasons(node: FleetNode) -> tuple[int, list[str]]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{node.api.port}") as http:
        answer = await http.get("/readyz")
    return answer.status_code, answer.json()["reasons"]


async def test_a_node_whose_records_are_others_has_nothing_left_says_why_and_asks_to_be_ended(
    config: Config, servers: Servers
) -> None:
    node = await FleetNode.start(config)
    try:
        await until_owned(node)
        assert node.ousted is not None
        await servers.make_bucket_anew()
        async with asyncio.timeout(PATIENCE_S):
            error = await asyncio.shield(node.ousted)
        assert isinstance(error, ConfigError)
        assert error.field == "cluster.url"
        assert "made anew" in error.message
        assert node.cores == {}
        status, said = await reasons(node)
        assert status == 503
        assert "the fleet's records were made anew" in said[0]
        leases = KvLeases(servers.link, config.cluster)
        assert await leases.all() == []  # it left nothing in the new one
    finally:
        await node.stop()
    assert await leases.all() == []


async def test_a_node_that_misses_its_bucket_says_so_before_it_gives_it_up(config: Config, servers: Servers) -> None:
    node = await FleetNode.start(config)
    try:
        await until_owned(node)
        assert node.ousted is not None
        await servers.remove_bucket()
        async with asyncio.timeout(PATIENCE_S):
            while "the NATS servers do not have the fleet's records" not in node.readiness():
                await asyncio.sleep(0.02)
        assert (await reasons(node))[0] == 503
        assert not node.ousted.done()
    finally:
        async with asyncio.timeout(HOLD_S / 2):  # there is nobody to hand anything to, nor to wait for
            await node.stop()


async def test_a_start_that_meets_two_buckets_ends_and_the_next_one_is_well(
    config: Config, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys would be of one, its number of another."""

    async def late(*words: object, **named: object) -> Entrance:
        await servers.make_bucket_anew()
        return await enter(*words, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(node_module, "enter", late)
    with pytest.raises(ConfigError, match="made anew"):
        await FleetNode.start(config)
    monkeypatch.setattr(node_module, "enter", enter)
    node = await FleetNode.start(config)
    try:
        await until_owned(node)
    finally:
        await node.stop()
