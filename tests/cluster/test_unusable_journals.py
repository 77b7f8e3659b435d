"""A partition whose journal is the right one, and whose beginning nobody has any more: the status of the fleet says for
each partition why no node takes it over, until one can.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from journal_rig import JournalFleet, JournalNode
from structlog.testing import capture_logs
from test_adoption import accept_some, check_some
from test_lost_journals import P, recover, snapshot_of, stream_of

from gateway.cli.cluster import what_is_wrong
from gateway.cluster import fleet_status, recovery_survey
from gateway.cluster.fleet_records import FLEET, Beat, Fleet, Holding, build, partition_key
from gateway.cluster.fleet_status import FleetStatus, StreamStatus
from gateway.cluster.jetstream import JetStream
from gateway.cluster.journal_past import JournalLacking, JournalUnusable, Lack, lack_key
from gateway.cluster.journal_past import build as build_lack
from gateway.cluster.leases import Entry
from gateway.config.cluster_section import Cluster


@pytest_asyncio.fixture
async def fleet(
    tmp_path: Path, fleet_settings: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[JournalFleet]:
    monkeypatch.setattr(recovery_survey, "HOLD_S", 0.3)
    fleet = JournalFleet(tmp_path, fleet_settings)
    node = await fleet.node()
    await node.leases.create(FLEET, build(Fleet(1, 16, 3)))
    yield fleet
    await fleet.close()


async def status(node: JournalNode) -> FleetStatus:
    state = await JetStream(node.link).state(stream_of(node))
    assert state is not None
    stream = StreamStatus(stream_of(node), state.messages, state.bytes, state.last, 3, 3, "n1")
    return fleet_status.describe(node.settings, await node.leases.all(), set(), [stream])


async def problem(node: JournalNode, has: str) -> str:
    """Once a node has written it down."""
    async with asyncio.timeout(60):
        while True:
            found = (await status(node)).partitions[P]
            if has in found.refusals:
                return found.refusals[has]
            await asyncio.sleep(0.02)


async def test_why_nobody_takes_a_partition_over_stands_in_the_status(fleet: JournalFleet) -> None:
    first, second = await fleet.node("with a folder"), await fleet.node()
    store = await first.adopt(P, 1)
    some = await accept_some(store)
    await store.close()
    await JetStream(first.link).purge(stream_of(first), below=4)
    with capture_logs() as logs:
        for epoch in (2, 3):
            with pytest.raises(JournalUnusable, match="no whole snapshot") as caught:
                await second.adopt(P, epoch)
    assert not isinstance(caught.value, JournalLacking)
    said = [line for line in logs if line["event"] == "partition_refused"]
    assert [line["partition"] for line in said] == [P]
    assert "begins at 4, and no whole snapshot reaches it" in await problem(first, second.settings.node)
    found = await status(first)
    assert "begins at 4" in found.partitions[P].problem
    assert f"heliograph cluster recover {P}" in what_is_wrong(found)
    # who has what the other lacks goes on
    store = await first.adopt(P, 5)
    check_some(store, *some)
    await store.close()


async def test_a_node_whose_folder_is_behind_brings_it_to_safety_and_the_partition_goes_on_from_it(
    fleet: JournalFleet,
) -> None:
    first, second = await fleet.node(), await fleet.node()
    store = await first.adopt(P, 1)
    some = await accept_some(store)
    await store.close()
    end = (await fleet.commits(P))[-1].place
    store = await second.adopt(P, 2)
    await store.committer.flush()
    await store.close()
    last = (await fleet.commits(P))[-1].place
    await (await second.adopt(P, 3)).close()
    js = JetStream(first.link)
    await js.purge(stream_of(first), below=last + 1)
    with pytest.raises(JournalUnusable):
        await first.adopt(P, 4)
    await snapshot_of(first, end)
    assert (await recover(fleet, first, "snapshot")).place == end
    store = await second.adopt(P, 6)
    check_some(store, *some)
    await store.close()


def entries(*lacks: tuple[str, str], ready: bool = False) -> list[Entry]:
    return [
        Entry(FLEET, build(Fleet(1, 1, 1)), 1),
        Entry("node.a", build(Beat(1, "a", "", "", 1, keys=1)), 2),
        Entry(partition_key(0), build(Holding(1, 1, ready)), 3),
        *(Entry(lack_key(0, node), build_lack(Lack(reason)), 4) for node, reason in lacks),
    ]


def test_nodes_that_lack_different_things_are_each_heard() -> None:
    def told(*lacks: tuple[str, str], ready: bool = False) -> fleet_status.PartitionStatus:
        return fleet_status.describe(Cluster(name="shop"), entries(*lacks, ready=ready), {"node.a"}, []).partitions[0]

    assert told(("b", "gone"), ("a", "gone")).problem == "gone"
    both = told(("b", "gone"), ("a", "begins at 4"))
    assert both.problem == "a: begins at 4; b: gone"
    assert both.refusals == {"a": "begins at 4", "b": "gone"}
    served = told(("b", "gone"), ready=True)
    assert (served.problem, served.refusals) == ("", {})
