"""What is asked of NATS servers at the start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.cluster.jetstream import JetStream
from gateway.cluster.journal_records import journal_stream
from gateway.cluster.journal_stream import journal_config
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.nats_checks import check_nats
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster_section import Cluster
from gateway.model.errors import ConfigError
from gateway.tour.nats_servers import NatsServers, free_ports


@pytest.fixture
async def link(fleet_settings: Callable[..., Cluster]) -> AsyncIterator[NatsLink]:
    link = NatsLink(fleet_settings(), purpose="test")
    await link.connect()
    yield link
    await link.close()


@pytest.fixture
async def lax_server(tmp_path: Path) -> AsyncIterator[NatsServers]:
    """One server that syncs when it likes."""
    servers = NatsServers(tmp_path, 1, sync="2m")
    await servers.start()
    yield servers
    await servers.close()


async def test_servers_that_sync_every_write_do(fleet_settings: Callable[..., Cluster], link: NatsLink) -> None:
    assert await check_nats(fleet_settings(), link) == []


async def test_a_server_that_is_down_is_waited_for_and_then_named(
    fleet_settings: Callable[..., Cluster], link: NatsLink
) -> None:
    (port,) = free_ports(1)
    gone = f"http://127.0.0.1:{port}"
    settings = fleet_settings(monitors=f"{fleet_settings().monitors},{gone}")
    assert await check_nats(settings, link, patience_s=0.1) == [gone]
    with pytest.raises(ConfigError, match="none of them answers") as caught:
        await check_nats(fleet_settings(monitors=gone), link, patience_s=0.1)
    assert caught.value.may_pass


async def test_a_server_that_does_not_sync_keeps_the_node_out_unless_told(
    lax_server: NatsServers, fleet_settings: Callable[..., Cluster], link: NatsLink
) -> None:
    settings = fleet_settings(monitors=lax_server.monitors, replicas=1)
    with pytest.raises(ConfigError, match="sync_interval: always") as caught:
        await check_nats(settings, link)
    assert caught.value.field == "cluster.monitors"
    assert lax_server.monitors in caught.value.message
    settings.allow_unsynced = True
    assert await check_nats(settings, link) == []


async def test_no_monitors_keep_the_node_out_unless_told(
    fleet_settings: Callable[..., Cluster], link: NatsLink
) -> None:
    with pytest.raises(ConfigError) as caught:
        await check_nats(fleet_settings(monitors=""), link)
    assert caught.value.field == "cluster.monitors"
    assert await check_nats(fleet_settings(monitors="", allow_unsynced=True), link) == []


async def test_too_few_servers_and_too_small_messages_are_named(
    lax_server: NatsServers, fleet_settings: Callable[..., Cluster], link: NatsLink
) -> None:
    with pytest.raises(ConfigError) as caught:
        await check_nats(fleet_settings(monitors=lax_server.monitors, allow_unsynced=True), link)
    assert caught.value.field == "cluster.replicas"
    with pytest.raises(ConfigError) as caught:
        await check_nats(fleet_settings(message_bytes=60_000_000), link)
    assert caught.value.field == "cluster.message_bytes"


async def test_more_copies_than_servers_can_not_be_kept(
    lax_server: NatsServers, fleet_settings: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cluster.kv_leases._SETTLE_S", 0.1)
    settings = fleet_settings(url=lax_server.urls)
    link = NatsLink(settings, purpose="test")
    await link.connect()
    with pytest.raises(ConfigError) as caught:
        await KvLeases(link, settings).open()
    assert caught.value.field == "cluster.replicas"
    await link.close()


async def test_something_else_at_the_monitors_address_is_no_answer(
    fleet_settings: Callable[..., Cluster], link: NatsLink
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConfigError, match="none of them answers"):
        await check_nats(fleet_settings(monitors=f"http://127.0.0.1:{port}"), link, patience_s=0.1)
    server.close()
    await server.wait_closed()


async def test_no_server_is_waited_for_and_then_named_without_its_password(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    settings = Cluster(url=f"nats://gw:hunter2@127.0.0.1:{port}")
    with pytest.raises(ConfigError) as caught:
        await NatsLink(settings, purpose="test").connect(patience_s=0.3)
    assert caught.value.field == "cluster.url"
    assert "hunter2" not in caught.value.message


async def test_journals_that_do_not_fit_keep_the_node_out_before_anything_is_made(
    fleet_settings: Callable[..., Cluster], link: NatsLink
) -> None:
    settings = fleet_settings(journal_bytes=1 << 40, partitions=16)
    with pytest.raises(ConfigError, match="16 journals") as caught:
        await check_nats(settings, link)
    assert caught.value.field == "cluster.journal_bytes"
    # those that are there have their room already
    settings.partitions = 1
    settings.journal_bytes = 1 << 30
    await JetStream(link).ensure(journal_config(settings, 0))
    settings.journal_bytes = 1 << 40
    assert await check_nats(settings, link) == []
    await JetStream(link).api(f"STREAM.DELETE.{journal_stream(settings.name, 0)}")
