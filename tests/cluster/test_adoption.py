"""Partitions change hands over three real NATS servers: nothing accepted is lost, nothing settled comes back, and an
owner before can not write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from journal_rig import JournalFleet, JournalNode, until
from store_rig import APP, push, register, settle, with_app

from gateway.cluster.jetstream import JetStream
from gateway.cluster.partition_folder import BOOT_FILE, applied_of
from gateway.config.cluster_section import Cluster
from gateway.model.errors import LogFenced, LogUnavailable, StoreUnavailable
from gateway.model.outcome import State
from gateway.store import Store
from gateway.store.row_codec import parse_rows

P = 3


@pytest_asyncio.fixture
async def fleet(tmp_path: Path, fleet_settings: Callable[..., Cluster]) -> AsyncIterator[JournalFleet]:
    fleet = JournalFleet(tmp_path, fleet_settings)
    yield fleet
    await fleet.close()


async def accept_some(store: Store) -> tuple[int, int, int]:
    """(registration, a pending push, a settled one)"""
    await with_app(store)
    number = register(store, "one")
    kept, first = push(store, number)
    over, second = push(store, number)
    await asyncio.gather(first, second)
    settle(store, over)
    await store.committer.flush()
    return number, kept, over


def check_some(store: Store, number: int, kept: int, over: int) -> None:
    assert store.journal.pending_of(number) == [kept]
    record = store.receipts.lookup(APP, over)
    assert record is not None
    assert record.deliveries[0].state == State.ACKED


async def test_a_fresh_node_adopts_what_a_dead_one_accepted(fleet: JournalFleet) -> None:
    first, second = await fleet.node(), await fleet.node()
    store = await first.adopt(P, 1)
    some = await accept_some(store)
    other = await second.adopt(P, 2)  # the first one never closed
    check_some(other, *some)
    refused = push(store, some[0])[1]
    with pytest.raises(LogFenced):
        await refused
    assert first.ends.said == ["fenced"]
    seq, written = push(other, some[0])
    await written
    assert other.journal.pending_of(some[0]) == [some[1], seq]
    # nothing of the first is behind the epoch record of the second
    commits = await fleet.commits(P)
    epochs = [index for index, commit in enumerate(commits) if not commit.rows]
    assert len(epochs) == 2
    await store.close()
    await other.close()


async def test_an_older_epoch_can_not_take_over(fleet: JournalFleet) -> None:
    first, second = await fleet.node(), await fleet.node()
    store = await first.adopt(P, 7)
    await accept_some(store)
    with pytest.raises(LogFenced) as fenced:
        await second.adopt(P, 6)
    assert fenced.value.epoch == 7  # whose records know less goes on from there
    await store.committer.flush()
    assert first.ends.said == []
    await store.close()


async def test_a_standby_is_level_and_adopts_from_its_own_folder(fleet: JournalFleet) -> None:
    first, second = await fleet.node(), await fleet.node()
    second.stores.follow(P)
    store = await first.adopt(P, 1)
    some = await accept_some(store)
    place = (await fleet.commits(P))[-1].place
    await until(lambda: second.stores.applied(P) == place)
    await store.close()
    other = await second.adopt(P, 2)
    check_some(other, *some)
    await other.close()
    # and the first one, with its own folder
    again = await (await fleet.node("node1")).adopt(P, 3)
    check_some(again, *some)
    await again.close()


async def test_who_is_level_takes_over_without_reading(fleet: JournalFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = await fleet.node(), await fleet.node()
    read: list[str] = []
    consume = JetStream.consume

    async def noted(self: JetStream, stream: str, *words: object, **named: object) -> str:
        read.append(stream)
        return await consume(self, stream, *words, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(JetStream, "consume", noted)
    store = await first.adopt(P, 1)
    assert read == []  # a journal that it made itself
    second.stores.follow(P)
    some = await accept_some(store)
    await store.close()
    place = (await fleet.commits(P))[-1].place
    await until(lambda: second.stores.applied(P) == place)
    read.clear()
    other = await second.adopt(P, 2)
    assert read == []
    check_some(other, *some)
    await other.close()


async def test_snapshots_let_the_journal_go_and_carry_all_that_was_in_it(fleet: JournalFleet) -> None:
    first = await fleet.node(snapshot_bytes=65_536)
    store = await first.adopt(P, 1)
    some = await accept_some(store)
    for _ in range(40):
        seq, written = push(store, some[0], text="x" * 4_000)
        await written
        settle(store, seq)
    await store.committer.flush()

    async def begins() -> int:
        return (await fleet.commits(P))[0].place

    async with asyncio.timeout(60):
        while await begins() < 10:
            await asyncio.sleep(0.05)
    after, written = push(store, some[0])
    await written
    other = await (await fleet.node()).adopt(P, 2)
    assert other.journal.pending_of(some[0]) == [some[1], after]
    # a standby that slept meanwhile begins anew with the snapshot
    await store.close()
    await other.close()


async def test_a_large_commit_goes_in_parts(fleet: JournalFleet) -> None:
    first = await fleet.node(message_bytes=65_536)
    store = await with_app(await first.adopt(P, 1))
    number = register(store, "one")
    pushes = [push(store, number, text="x" * 3_000) for _ in range(100)]
    await asyncio.gather(*(written for _, written in pushes))
    commits = await fleet.commits(P)
    assert max(len(commit.rows) for commit in commits) > 4 * 65_536
    other = await (await fleet.node()).adopt(P, 2)
    assert other.journal.pending_of(number) == [seq for seq, _ in pushes]
    await store.close()
    await other.close()


async def test_a_full_journal_refuses_and_loses_nothing(fleet: JournalFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cluster.snapshot_keeper.SnapshotKeeper.due", property(lambda _: False))
    node = await fleet.node(journal_bytes=1_048_576, message_bytes=65_536)
    store = await with_app(await node.adopt(P, 1))
    number = register(store, "one")
    accepted: list[int] = []
    with pytest.raises(StoreUnavailable):  # noqa: PT012
        while True:
            seq, written = push(store, number, text="x" * 40_000)
            await written
            accepted.append(seq)
    assert len(accepted) > 10
    # one of several parts of which only the first have room
    other = await (await fleet.node()).adopt(P, 2)
    assert other.journal.pending_of(number) == accepted
    assert node.ends.said == []
    await store.close()
    await other.close()


async def test_a_folder_of_another_boot_is_made_again_from_the_journal(fleet: JournalFleet) -> None:
    first = await fleet.node()
    store = await first.adopt(P, 1)
    some = await accept_some(store)
    folder = first.folder / "partitions" / str(P)
    assert (folder / BOOT_FILE).read_text() != "clean"
    await store.close()
    assert (folder / BOOT_FILE).read_text() == "clean"
    (folder / BOOT_FILE).write_text("another boot")
    (folder / "data.mdb").write_bytes(b"half a page")
    again = await (await fleet.node("node1")).adopt(P, 2)
    check_some(again, *some)
    await again.close()


async def test_a_folder_beside_the_journal_is_dropped(fleet: JournalFleet, tmp_path: Path) -> None:
    node = await fleet.node()
    store = await node.adopt(P, 1)
    await accept_some(store)
    await store.close()
    # the folder of another partition's stream in the place of this one
    other = await node.adopt(P + 1, 1)
    number = register(await with_app(other), "two")
    seq, written = push(other, number)
    await written
    await other.close()
    partitions = node.folder / "partitions"
    (partitions / str(P + 1)).rename(partitions / "kept")
    (partitions / str(P)).rename(partitions / str(P + 1))
    again = await node.adopt(P + 1, 2)
    assert again.journal.pending_of(number) == [seq]
    await again.close()


async def test_rows_wait_in_the_journal_for_a_reader_that_was_never_there(fleet: JournalFleet) -> None:
    node = await fleet.node()
    store = await node.adopt(P, 1)
    _, kept, _ = await accept_some(store)
    rows = [row for commit in await fleet.commits(P) for block in parse_rows(commit.rows or b"\x01") for row in block]
    assert any(row[2] == kept.to_bytes(8, "big") for row in rows)
    await store.close()
    place = (await fleet.commits(P))[-1].place
    assert applied_of(node.folder / "partitions" / str(P)) == place


async def test_nothing_is_opened_without_nats(fleet: JournalFleet) -> None:
    node: JournalNode = await fleet.node()
    await node.link.close()
    with pytest.raises(LogUnavailable):
        await node.adopt(P, 1)
