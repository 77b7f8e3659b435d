"""A command for a fleet that NATS does not keep, as of a misspelt name: it says so at once, and which there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.cli import fleet_keys
from gateway.cluster import entrance, fleet_status, recovery
from gateway.cluster.fleet_lookup import require_fleet
from gateway.cluster.jetstream import JetStream
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster_section import Cluster
from gateway.config.sections import Config
from gateway.model.errors import ConfigError


@pytest.fixture
async def link(fleet_settings: Callable[..., Cluster]) -> AsyncIterator[NatsLink]:
    link = NatsLink(fleet_settings(), purpose="test")
    await link.connect()
    await KvLeases(link, fleet_settings()).open()
    yield link
    await link.close()


def misspelt(tmp_path: Path, settings: Cluster) -> Config:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 40)
    secret.chmod(0o600)
    config = Config()
    config.cluster = settings
    config.cluster.name, config.cluster.secret_file = f"{settings.name}x", str(secret)
    return config


@pytest.mark.parametrize("command", ["recover --yes", "recover", "status", "keys list", "keys rotate", "keys drop"])
async def test_a_misspelt_name_is_told_at_once_with_the_names_there_are(
    link: NatsLink,
    tmp_path: Path,
    fleet_settings: Callable[..., Cluster],
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def waits(*_: object) -> None:
        raise AssertionError("it waits for records of a fleet that nobody has")

    for module in (entrance, fleet_status):
        monkeypatch.setattr(module, "patiently", waits)
    monkeypatch.setattr(KvLeases, "all", waits)
    monkeypatch.setattr(KvLeases, "get", waits)
    config = misspelt(tmp_path, fleet_settings())
    cluster = config.cluster
    commands: dict[str, Callable[[], Awaitable[object]]] = {
        "recover --yes": lambda: recovery.recover(config, 0, recovery.FURTHEST, tmp_path),
        "recover": lambda: recovery.look(config, 0, tmp_path),
        "status": lambda: fleet_status.look(cluster),
        "keys list": lambda: asyncio.to_thread(fleet_keys.read_ring, cluster),
        "keys rotate": lambda: asyncio.to_thread(fleet_keys.rotate, cluster, finish=False),
        "keys drop": lambda: asyncio.to_thread(fleet_keys.drop, cluster, 1),
    }
    with pytest.raises(ConfigError, match=f"keeps no fleet '{cluster.name}'") as caught:
        await commands[command]()
    assert caught.value.field == "cluster.name"
    # of the many that these servers may keep the likeliest is first
    assert f"it keeps {fleet_settings().name!r}" in caught.value.message
    # and nothing was made by asking
    assert await JetStream(link).state(f"KV_{cluster.name}_FLEET") is None


async def test_servers_that_do_not_say_what_they_keep_are_no_answer(
    link: NatsLink, fleet_settings: Callable[..., Cluster]
) -> None:
    await require_fleet(link, fleet_settings().name)
    await link.close()
    await require_fleet(link, "hleiograph")
