"""What providers see while nodes of a fleet are restarted in turn, and what an adoption does not wait for."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from test_fleet_providers import PARTITIONS, Real, fleet, until

from gateway.api import server
from gateway.tour.fleet_home import FleetHome
from gateway.tour.fleet_load import FleetLoad
from gateway.tour.plain_providers import PlainProvider

__all__ = ["fleet"]

PHONES = 12
DRAIN_S = 60.0
SETTINGS = ("cluster.lease_s=3", "cluster.beat_s=0.5", "cluster.ask_timeout_s=5", "delivery.ack_ms=5000")


@pytest.mark.slow
async def test_a_provider_that_repeats_loses_nothing_and_one_that_does_not_is_told_when_to_come_again(
    tmp_path: Path,
) -> None:
    home = FleetHome(tmp_path, partitions=8, settings=SETTINGS)
    load = FleetLoad(home)
    try:
        await home.start()
        await load.open(PHONES)
        patient = PlainProvider(load, retries=True, name="patient", pause_s=0.05)
        other = PlainProvider(load, retries=False, name="once", pause_s=0.05)
        patient.start()
        other.start()
        for number, node in enumerate(home.nodes):
            assert await node.terminate(DRAIN_S) == 0
            await home.restart(number)
            await home.until_ready()
        await patient.stop()
        await other.stop()
        for seen in (patient.seen, other.seen):
            assert not seen.faults
            assert not seen.timeless
            assert set(seen.answers) <= {200, 201, 503, 0}
            assert seen.accepted + seen.failed == len(seen.waits)
        assert patient.seen.failed == 0
        assert patient.seen.closed >= 1  # it did ask nodes that were away
        # an owner's change is waited for, not refused
        assert other.seen.failed <= len(other.seen.waits) // 20
        await load.all_shown(60.0)
        assert load.ledger.twice() == 0
        assert load.ledger.astray() == 0
    finally:
        await load.close()
        await home.close()


@pytest.mark.slow
async def test_a_partition_is_adopted_without_what_its_node_has_once(
    fleet: Real, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each took a hundredth to a tenth of a second of the node's loop, for each partition, while nobody owned it."""

    def never(*_: object, **__: object) -> NoReturn:
        raise AssertionError("for each partition again")

    monkeypatch.setattr(server, "build_document", never)
    monkeypatch.setattr(httpx, "create_ssl_context", never)
    gone = fleet.nodes.pop()
    theirs = set(gone.cores)
    await gone.stop()
    await until(lambda: theirs <= set(fleet.nodes[0].cores) | set(fleet.nodes[1].cores))
    owners = fleet.nodes[0].members.owner
    await until(lambda: all(owners(partition).node for partition in range(PARTITIONS)))
