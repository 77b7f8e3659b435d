"""What `heliograph cluster` says where something is wrong: the setting or option it is about, and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.cli import run
from gateway.cli.cluster import what_is_wrong
from gateway.cluster.fleet_records import FLEET, Fleet, build
from gateway.cluster.fleet_status import FleetStatus, PartitionStatus, StreamStatus
from gateway.cluster.journal_past import Past, past_key
from gateway.cluster.journal_past import build as build_past
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster_section import Cluster
from gateway.store.environment import DATA_FILE
from gateway.store.moved import mark_moved

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture
async def options(tmp_path: Path, fleet_settings: Callable[..., Cluster]) -> AsyncIterator[list[str]]:
    """Of a fleet without nodes, whose partition 0 has lost its journal."""
    cluster = fleet_settings()
    link = NatsLink(cluster, purpose="test")
    await link.connect()
    leases = KvLeases(link, cluster)
    await leases.open()
    await leases.create(FLEET, build(Fleet(1, 2, 3)))
    await leases.create(past_key(0), build_past(Past("2026-03-01T10:00:00Z", 700)))
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 40)
    secret.chmod(0o600)
    pairs = (
        f"cluster.url={cluster.url}",
        f"cluster.monitors={cluster.monitors}",
        f"cluster.name={cluster.name}",
        f"cluster.secret_file={secret}",
        "cluster.partitions=2",
        "cluster.lease_s=0.5",
        "cluster.beat_s=0.1",
        f"store.path={tmp_path / 'node'}",
    )
    yield [f"--set={each}" for each in pairs]
    await link.close()


@pytest.mark.parametrize(
    ("words", "code", "has"),
    [
        (["status"], 1, ["nobody serves partitions 0, 1: no node lives", "cluster recover 0"]),
        (["recover", "0"], 1, ["--from empty"]),
        (["recover", "7"], 2, ["PARTITION: there is no partition 7: the fleet has 2"]),
        (["recover", "0", "--from", "gw2"], 2, ["--from: 'gw2' is no copy", "furthest, snapshot"]),
        (["recover", "0", "--from", "snapshot"], 1, ["no snapshot", "(--from)"]),
        (["recover", "0", "--from", "stream"], 1, ["the stream is gone", "(--from)"]),
        (["recover", "0", "--from", "./nothing"], 1, ["./nothing is no folder", DATA_FILE, "partitions/0"]),
        (["recover", "0", "--set=cluster.replicas=5"], 2, ["cluster.replicas: 5", "has 3: set it so"]),
        (["import", "./nothing"], 2, ["STORE: there is no store"]),
    ],
)
async def test_an_error_names_what_it_is_about_and_what_to_do(
    options: list[str], words: list[str], code: int, has: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await asyncio.to_thread(run, ["cluster", *words, *options]) == code
    said = capsys.readouterr().err
    for each in has:
        assert each in said
    assert "--yes goes on like this" not in said  # where it would not


@pytest.mark.parametrize("words", [["status"], ["recover", "0"], ["import", "."]])
def test_without_a_fleet_in_the_configuration_it_is_asked_for(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["cluster", *words]) == 2
    said = capsys.readouterr().err
    assert "cluster.url: is empty" in said
    assert "--config" in said


@pytest.mark.parametrize("command", ["status", "recover", "import"])
def test_the_help_says_what_the_exit_codes_mean(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cluster", command, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for code in ("Exit codes: 0", "1 n", "2 wrong usage or configuration"):
        assert code.lower() in said.lower()


def test_a_folder_that_was_moved_says_how_it_is_imported_once_more(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from test_import_steps import make_store

    asyncio.run(make_store(tmp_path / "alone"))
    mark_moved(tmp_path / "alone", "another")
    assert run(["cluster", "import", str(tmp_path / "alone"), *options, "--set=cluster.name=third"]) == 2
    said = capsys.readouterr().err
    assert "STORE: this store was imported into the fleet 'another'" in said
    assert "remove moved-to-fleet" in said


def test_the_status_says_what_to_look_at() -> None:
    stream = StreamStatus("shop_S", 0, 0, 0, 3, 0, "")
    found = FleetStatus("shop", [], [PartitionStatus(0, "", 0, False)], [stream], 1, importing=True)
    said = what_is_wrong(found)
    assert "NATS servers run" in said
    assert "no node lives" not in said  # none may, before the import is done
