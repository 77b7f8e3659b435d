"""A node's folder that another fleet left behind, or an earlier one of this name: people are told, and this fleet takes
nothing of it, waits for nothing of it and removes nothing of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from journal_rig import JournalFleet, JournalNode
from structlog.testing import capture_logs
from test_adoption import accept_some, check_some
from test_shared_keys import config_of

from gateway.cli.cluster import what_is_wrong
from gateway.cluster import fleet_status
from gateway.cluster import follower as follower_module
from gateway.cluster.entrance import enter
from gateway.cluster.fleet_identity import FLEET_FILE, FleetIdentity, fleet_identity, read_identity, write_identity
from gateway.cluster.fleet_records import FLEET, Beat, Fleet, Holding, build, parse_beat, parse_fleet, partition_key
from gateway.cluster.jetstream import JetStream
from gateway.cluster.journal_past import JournalLacking, Pasts
from gateway.cluster.leases import Bucket, Entry, LocalLeases
from gateway.cluster.partition_folder import PartitionFolder, applied_of
from gateway.cluster.shared_keys import share_keys
from gateway.config.cluster_section import Cluster
from gateway.config.sections import Store as StoreConfig
from gateway.store.keys import KEY_FILE, ServerKeys

P = 3
EVENT = "partition_folders_of_another_fleet"


@pytest_asyncio.fixture
async def fleet(
    tmp_path: Path, fleet_settings: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[JournalFleet]:
    monkeypatch.setattr(follower_module, "LOOK_S", 0.5)  # these servers know what they have
    fleet = JournalFleet(tmp_path, fleet_settings)
    yield fleet
    await fleet.close()


async def a_folder_of_before(fleet: JournalFleet) -> tuple[JournalNode, tuple[int, int, int]]:
    """Of a node that had the partition, and ended; nothing is left of its fleet in NATS."""
    node = await fleet.node("mine")
    await node.stores.tell_of_folders()
    assert node.stores.strangers == set()
    store = await node.adopt(P, 1)
    some = await accept_some(store)
    await store.close()
    js, name = JetStream(node.link), node.settings.name
    for stream in (f"{name}_J_{P}", f"{name}_S", f"KV_{name}_FLEET"):
        await js.api(f"STREAM.DELETE.{stream}")
    return node, some


@pytest.mark.parametrize("what", ["another name", "an earlier life of its name"])
async def test_a_folder_of_another_fleet_is_told_of_and_neither_used_nor_waited_for(
    fleet: JournalFleet, what: str
) -> None:
    before, some = await a_folder_of_before(fleet)
    if what == "another name":
        now = await fleet.node("mine", name=f"{before.settings.name}-b")
    else:
        (fleet.folder / "keys" / KEY_FILE).unlink()
        fleet.keys = ServerKeys.load(fleet.folder / "keys", may_create=True)
        now = await fleet.node("mine")
    with capture_logs() as logs:
        await now.stores.tell_of_folders()
    told = next(line for line in logs if line["event"] == EVENT)
    assert (told["partitions"], told["log_level"]) == ([P], "error")
    assert repr(before.settings.name) in told["fleet"]
    assert now.stores.strangers == {P}
    assert await Pasts(now.leases).known() == set()  # the fleet knows of nothing that is to come
    with capture_logs() as logs:
        store = await now.adopt(P, 2)
    assert store.journal.pending_of(some[0]) == []
    await store.close()
    kept = Path(next(line["kept"] for line in logs if line["event"] == "partition_folder_kept"))
    assert before.settings.name in kept.name
    assert applied_of(kept) > 0
    # and the fleet's own folder is one of its own from now on
    again = await fleet.node("mine", name=now.settings.name)
    await again.stores.tell_of_folders()
    assert again.stores.strangers == set()
    await (await again.adopt(P, 3)).close()
    assert list(kept.parent.glob("*.lost")) == []


async def test_a_folder_that_names_no_fleet_counts_as_before_and_names_it_once_it_is_used(fleet: JournalFleet) -> None:
    """An older program made it."""
    first = await fleet.node("mine")
    store = await first.adopt(P, 1)
    some = await accept_some(store)
    await store.close()
    (first.folder / "partitions" / str(P) / FLEET_FILE).unlink()
    second = await fleet.node("mine")
    await second.stores.tell_of_folders()
    assert second.stores.strangers == set()
    store = await second.adopt(P, 2)
    check_some(store, *some)
    await store.close()
    folder = first.folder / "partitions" / str(P)
    assert read_identity(folder) == fleet_identity(first.settings.name, fleet.keys.token_key)


@pytest.mark.parametrize("names_its_fleet", [True, False])
async def test_where_nats_lost_all_a_folder_of_this_fleet_is_still_waited_for(
    fleet: JournalFleet, names_its_fleet: bool
) -> None:
    before, _ = await a_folder_of_before(fleet)
    if not names_its_fleet:
        (before.folder / "partitions" / str(P) / FLEET_FILE).unlink()
    now, other = await fleet.node("mine"), await fleet.node()
    await now.stores.tell_of_folders()
    assert await Pasts(now.leases).known() == {P}
    with pytest.raises(JournalLacking, match=f"the folder of node '{now.settings.node}' had"):
        await other.adopt(P, 2)
    # so that people find it, where it is not of this fleet after all
    found = fleet_status.describe(now.settings, await now.leases.all(), set(), [])
    assert f"node '{now.settings.node}'" in found.partitions[P].problem


def test_a_second_folder_of_another_fleet_takes_no_place_of_the_first(tmp_path: Path) -> None:
    mine, other = FleetIdentity("mine", "1" * 16), FleetIdentity("other", "2" * 16)
    for place in (5, 7):
        strange = PartitionFolder(StoreConfig(path=str(tmp_path)), P, other)
        if strange.stranger() is not None:
            strange.path.rename(tmp_path / "aside")
        strange.create("made")
        strange.apply([], place)
        strange.close()
        folder = PartitionFolder(StoreConfig(path=str(tmp_path)), P, mine)
        assert folder.stranger() == other
        assert not folder.open("made", 1, 9)  # not even where the stream's name and moment would fit
        folder.create("made")
        folder.close()
    kept = sorted((tmp_path / "partitions").glob(f"{P}.of-other-*"))
    assert [applied_of(path) for path in kept] == [5, 7]


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"one", b"a b c"])
def test_garbage_names_no_fleet(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / FLEET_FILE).write_bytes(raw)
    assert read_identity(tmp_path) is None
    write_identity(tmp_path, FleetIdentity("a", "0f"))
    assert read_identity(tmp_path) == FleetIdentity("a", "0f")


def test_an_identity_says_nothing_of_the_key() -> None:
    key = bytes(range(32))
    one = fleet_identity("a", key)
    assert one == fleet_identity("a", key)
    assert one.ident not in (fleet_identity("b", key).ident, fleet_identity("a", bytes(32)).ident)
    assert one.ident not in key.hex()


async def test_keys_of_another_fleet_are_kept_where_its_partitions_are(tmp_path: Path) -> None:
    ours, theirs = Bucket(), Bucket()
    strange = config_of(tmp_path, "a")
    folder = Path(strange.store.path)
    await share_keys(strange, LocalLeases(theirs))
    before = (folder / KEY_FILE).read_bytes()
    await share_keys(config_of(tmp_path, "b"), LocalLeases(ours))  # the first node has keys of its own
    (folder / "partitions" / "0").mkdir(parents=True)
    with capture_logs() as logs:
        shared = await share_keys(strange, LocalLeases(ours))
    assert ServerKeys.load(folder, may_create=False).token_key == shared.server.token_key
    kept = next(Path(line["kept"]) for line in logs if line["event"] == "keys_of_another_fleet_kept")
    assert kept.read_bytes() == before
    assert kept.stat().st_mode & 0o077 == 0
    with capture_logs() as logs:
        await share_keys(strange, LocalLeases(ours))
    assert [line for line in logs if line["event"] == "keys_of_another_fleet_kept"] == []


async def test_a_record_of_an_older_program_is_given_the_fleets_identity() -> None:
    bucket = Bucket()
    bucket.put(FLEET, b"\x83\xa7version\x01\xaapartitions\x10\xa8replicas\x03", 0)
    settings = Cluster(url="nats://local", node="a", lease_s=0.5, beat_s=0.1)
    await enter(settings, LocalLeases(bucket), ident="0f0f")
    assert parse_fleet(bucket.entries[FLEET].value) == Fleet(1, 16, 3, "0f0f")


def test_the_status_tells_of_nodes_with_folders_of_another_fleet_and_finds_nothing_wrong_in_it() -> None:
    beat = Beat(1, "a", "", "", 1, keys=1).found_at(devices="a:1", api="", strangers=2)
    assert parse_beat(build(beat)).strangers == 2
    entries = [
        Entry(FLEET, build(Fleet(1, 1, 1, "0f0f")), 1),
        Entry("node.a", build(beat), 2),
        Entry(partition_key(0), build(Holding(1, 1, True)), 3),
    ]
    found = fleet_status.describe(Cluster(name="shop"), entries, {"node.a"}, [])
    assert (found.ident, found.members[0].strangers) == ("0f0f", 2)
    assert what_is_wrong(found) == ""
