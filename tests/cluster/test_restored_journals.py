"""A partition's journal that an operator restored from a backup, on real NATS servers: it is gone on with where a copy
says what came before it, and refused with the reason where none does.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio
from journal_rig import JournalFleet, JournalNode
from nats_backup import Backup, back_up, restore
from store_rig import push, settle
from test_adoption import accept_some, check_some
from test_lost_journals import P, look, recover, settings_of, stream_of, work_in

from gateway.cluster import follower as follower_module
from gateway.cluster import recovery, recovery_survey
from gateway.cluster.fleet_identity import FleetIdentity, fleet_identity, write_identity
from gateway.cluster.fleet_records import FLEET, Fleet, build
from gateway.cluster.jetstream import JetStream, StoredMessage, StreamState
from gateway.cluster.journal_past import JournalLacking, Mark, Pasts
from gateway.cluster.journal_records import Record, build_headers
from gateway.cluster.partition_folder import BOOT_FILE
from gateway.cluster.recovery import NotRecovered
from gateway.cluster.restored_journal import gap, is_restored
from gateway.config.cluster_section import Cluster
from gateway.store import Store

_X, _Y = "2026-03-01T10:00:00.9Z", "2026-03-03T00:00:00Z"


@pytest_asyncio.fixture
async def fleet(
    tmp_path: Path, fleet_settings: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[JournalFleet]:
    monkeypatch.setattr(follower_module, "LOOK_S", 0.3)  # these servers know what they have
    monkeypatch.setattr(recovery_survey, "HOLD_S", 0.3)
    fleet = JournalFleet(tmp_path, fleet_settings)
    node = await fleet.node()
    ident = fleet_identity(node.settings.name, fleet.keys.token_key).ident
    await node.leases.create(FLEET, build(Fleet(1, 16, 3, ident)))
    yield fleet
    await fleet.close()


class Lost(NamedTuple):
    """A partition that had a snapshot and more behind it, whose journal was restored."""

    owner: JournalNode
    backup: Backup
    snapshot: int  # where it ends
    end: int  # of the backup
    some: tuple[int, int, int]
    after: int  # a push behind the snapshot

    def check(self, store: Store) -> None:
        number, kept, over = self.some
        assert store.journal.pending_of(number) == [kept, self.after]
        check_some_receipt(store, over)


def check_some_receipt(store: Store, over: int) -> None:
    assert store.receipts.lookup("shop", over) is not None


async def a_restored_journal(fleet: JournalFleet) -> Lost:
    owner = await fleet.node("owner", snapshot_bytes=65_536)
    store = await owner.adopt(P, 1)
    some = await accept_some(store)
    for _ in range(20):
        seq, written = push(store, some[0], text="x" * 5_000)
        await written
        settle(store, seq)
    await store.committer.flush()
    js = JetStream(owner.link)
    async with asyncio.timeout(60):
        while (state := await js.state(stream_of(owner))) is None or state.first == 1:
            await asyncio.sleep(0.02)
    after, written = push(store, some[0])
    await written
    await store.close()
    manifest = await owner.stores._snapshots.find(P)
    backup = await back_up(owner.link, stream_of(owner))
    await js.api(f"STREAM.DELETE.{stream_of(owner)}")
    await restore(owner.link, backup)
    assert manifest is not None
    assert backup.state["first_seq"] > 1
    assert manifest.place < backup.state["last_seq"]
    return Lost(owner, backup, manifest.place, backup.state["last_seq"], some, after)


async def no_snapshots(node: JournalNode) -> None:
    await JetStream(node.link).purge(f"{node.settings.name}_S")


@pytest.mark.parametrize("source", [recovery_survey.STREAM, recovery.FURTHEST])
async def test_a_restored_journal_goes_on_from_the_snapshot_before_it(fleet: JournalFleet, source: str) -> None:
    lost = await a_restored_journal(fleet)
    shutil.rmtree(lost.owner.folder)  # the backup and the snapshot are all there is
    other = await fleet.node()
    with pytest.raises(JournalLacking, match="made anew"):
        await other.adopt(P, 2)
    survey = await look(fleet, other)
    assert [(copy.where, copy.place, copy.is_other) for copy in survey.copies] == [
        ("stream", lost.end, False),
        ("snapshot", lost.snapshot, False),
    ]
    done = await recover(fleet, other, source)
    assert (done.source, done.place) == ("stream", lost.end)
    store = await other.adopt(P, 4)
    lost.check(store)
    await store.close()


async def test_a_recovery_of_a_restored_journal_that_ends_in_the_middle_is_begun_again(
    fleet: JournalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = await a_restored_journal(fleet)
    shutil.rmtree(lost.owner.folder)
    other = await fleet.node()

    async def breaks(*_: object) -> str:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        # the copy is the snapshot by now, and the stream is as it was
        patch.setattr(recovery._Recovery, "_make_stream", breaks)
        with pytest.raises(NotRecovered):
            await recover(fleet, other, "stream")
    assert (await recover(fleet, other)).place == lost.end
    store = await other.adopt(P, 4)
    lost.check(store)
    await store.close()


async def test_without_the_snapshot_it_goes_on_from_a_nodes_folder_and_on_other_machines_it_says_so(
    fleet: JournalFleet,
) -> None:
    lost = await a_restored_journal(fleet)
    await no_snapshots(lost.owner)
    other = await fleet.node()
    before = await Pasts(other.leases).get(P)
    with pytest.raises(NotRecovered, match=r"no snapshot of what came before; nothing was changed.*_S") as caught:
        await recover(fleet, other, "stream")
    assert f"partitions/{P}" in caught.value.message
    folder = lost.owner.folder / "partitions" / str(P)
    write_identity(folder, FleetIdentity("another", "0f" * 8))
    with pytest.raises(NotRecovered, match="nothing was changed"):
        await recover(fleet, lost.owner, "stream")
    write_identity(folder, fleet_identity(other.settings.name, fleet.keys.token_key))
    (folder / BOOT_FILE).write_text("of another boot")
    with pytest.raises(NotRecovered, match="nothing was changed"):
        await recover(fleet, lost.owner, "stream")
    assert await Pasts(other.leases).get(P) == before
    (folder / BOOT_FILE).write_text("clean")
    assert (await recover(fleet, lost.owner, "stream")).place == lost.end
    store = await other.adopt(P, 4)
    lost.check(store)
    await store.close()


async def test_a_folder_of_another_fleet_is_not_recovered_from(fleet: JournalFleet) -> None:
    lost = await a_restored_journal(fleet)
    folder = lost.owner.folder / "partitions" / str(P)
    write_identity(folder, FleetIdentity("another", "0f" * 8))
    before = await Pasts(lost.owner.leases).get(P)
    with pytest.raises(NotRecovered, match="another fleet, 'another'"):
        await recovery.recover(settings_of(lost.owner), P, str(folder), work_in(fleet))
    assert await Pasts(lost.owner.leases).get(P) == before


async def test_a_restored_journal_that_never_had_a_snapshot_is_the_furthest_copy(fleet: JournalFleet) -> None:
    first, other = await fleet.node(), await fleet.node()
    store = await first.adopt(P, 1)
    some = await accept_some(store)
    await store.close()
    backup = await back_up(first.link, stream_of(first))
    await JetStream(first.link).api(f"STREAM.DELETE.{stream_of(first)}")
    await restore(first.link, backup)
    assert (await recover(fleet, other)).source == "stream"
    store = await other.adopt(P, 4)
    check_some(store, *some)
    await store.close()


# --- the rules, each alone ------------------------------------------------------------------------------------


def stream(first: int, last: int, first_at: str, last_at: str, created: str = _Y) -> StreamState:
    return StreamState(created, first, last, 0, last - first + 1, {}, {}, first_at, last_at)


_BACK = stream(300, 600, "2026-03-01T10:00:00.95Z", "2026-03-02T23:59:59.999999999Z")


class OneMessage:
    """A stream that has this epoch's record everywhere; -1: no record of ours."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    async def message(self, _: str, *, seq: int) -> StoredMessage:
        headers = build_headers(Record("c.1", self.epoch, 1, 1), seq - 1) if self.epoch >= 0 else {}
        return StoredMessage(seq, headers, b"")


@pytest.mark.parametrize(
    ("state", "copy", "epoch_there", "why"),
    [
        # goes on: the copy's last commit is the one that stands there, or the one before the first
        (_BACK, Mark(_X, 300), 5, ""),
        (_BACK, Mark(_X, 600), 5, ""),
        (_BACK, Mark(_X, 299), 99, ""),
        (stream(1, 600, "", ""), None, 5, ""),
        (_BACK, Mark(_Y, 300), 99, ""),
        # something is missing
        (_BACK, None, 5, "no snapshot"),
        (_BACK, Mark(_X, 298), 5, "ends at 298"),
        (_BACK, Mark(_Y, 298), 5, "ends at 298"),
        # the copy has more
        (_BACK, Mark(_X, 601), 5, "that one is further"),
        (stream(601, 600, "", ""), Mark(_X, 600), 5, "empty"),
        # another journal
        (_BACK, Mark("2026-02-01T10:00:00Z", 300), 5, "another journal"),
        (_BACK, Mark(_X, 300), 6, "not written before"),
        (_BACK, Mark(_X, 300), -1, "not written before"),
        # not restored: written after it was made, before the other was, or somebody wrote to it since
        (stream(300, 600, "2026-03-03T00:00:00.1Z", "2026-03-03T01:00:00Z"), Mark(_X, 300), 5, "not of that time"),
        (stream(300, 600, "2026-03-01T10:00:00.899Z", "2026-03-02T01:00:00Z"), Mark(_X, 300), 5, "not of that time"),
        (stream(300, 600, "2026-03-01T11:00:00Z", "2026-03-03T00:00:00.1Z"), Mark(_X, 300), 5, "not of that time"),
        (stream(300, 600, "", "x"), Mark(_X, 300), 5, "not of that time"),
    ],
)
async def test_two_journals_are_never_put_together(
    state: StreamState, copy: Mark | None, epoch_there: int, why: str
) -> None:
    said = await gap(OneMessage(epoch_there), "s", state, _X, copy, 5)  # type: ignore[arg-type]
    assert why in said
    assert bool(said) == bool(why)


def test_nothing_is_a_restored_stream_whose_times_can_not_be_read() -> None:
    assert is_restored(_BACK, _X)
    for made in ("", "made", "2026-03-01T10:00:00"):
        assert not is_restored(_BACK, made)
