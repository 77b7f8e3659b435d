"""Snapshots on real NATS servers: a torn or foreign one is never used, the last whole one is always there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from journal_rig import JournalFleet, PlainLink, until
from store_rig import APP, push, register, settle, with_app

from gateway.cluster.jetstream import JetStream, NoAnswer
from gateway.cluster.snapshots import CHUNK_BYTES, MalformedSnapshot, Snapshots
from gateway.config.cluster_section import Cluster
from gateway.model.errors import ConfigError

P = 2


class Upload:
    """Snapshots of a fleet over a connection of its own."""

    def __init__(self, link: PlainLink, settings: Cluster, folder: Path) -> None:
        self.link = link
        self.snapshots = Snapshots(link, settings)
        self.js = JetStream(link)
        self.stream = f"{settings.name}_S"
        self.folder = folder

    def file(self, name: str, size: int) -> Path:
        folder = self.folder / name
        folder.mkdir()
        (folder / "data.mdb").write_bytes(os.urandom(size))
        return folder

    async def idents(self) -> set[str]:
        state = await self.js.state(self.stream, ">")
        assert state is not None
        return {subject.split(".")[-2] for subject in state.subjects if ".chunk." in subject}


@pytest_asyncio.fixture
async def upload(tmp_path: Path, fleet_settings: Callable[..., Cluster]) -> AsyncIterator[Upload]:
    settings = fleet_settings()
    link = await PlainLink().connect(settings.url)
    upload = Upload(link, settings, tmp_path)
    await upload.snapshots.prepare()
    yield upload
    await link.close()


async def test_a_snapshot_comes_back_whole(upload: Upload) -> None:
    for place, size in ((10, 0), (20, 1), (30, CHUNK_BYTES), (40, 11 * CHUNK_BYTES + 7)):
        folder = upload.file(f"f{place}", size)
        made = await upload.snapshots.store(P, 1, "c", place, folder)
        assert made is not None
        found = await upload.snapshots.find(P)
        assert found == made
        assert (found.place, found.size) == (place, size)
        await upload.snapshots.fetch(found, upload.folder / "fetched")
        assert (upload.folder / "fetched" / "data.mdb").read_bytes() == (folder / "data.mdb").read_bytes()
    assert await upload.snapshots.find(P + 1) is None


async def test_an_older_place_does_not_replace_a_newer_one(upload: Upload) -> None:
    made = await upload.snapshots.store(P, 1, "c", 10, upload.file("a", 100))
    assert await upload.snapshots.store(P, 2, "c", 10, upload.file("b", 100)) is None
    assert await upload.snapshots.find(P) == made


async def test_a_torn_upload_is_not_seen_and_its_chunks_go_with_the_next(
    upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await upload.snapshots.store(P, 1, "c", 10, upload.file("a", 100))
    assert before is not None
    with monkeypatch.context() as torn:

        async def fail(*_: object) -> bool:
            raise NoAnswer("the node died here")

        torn.setattr(upload.snapshots, "_put_manifest", fail)
        with pytest.raises(NoAnswer):
            await upload.snapshots.store(P, 2, "c", 20, upload.file("b", 3 * CHUNK_BYTES))
    assert await upload.snapshots.find(P) == before
    assert len(await upload.idents()) == 2
    after = await upload.snapshots.store(P, 3, "c", 30, upload.file("c", 100))
    assert after is not None
    assert await upload.idents() == {after.ident}


async def test_an_upload_that_another_overtook_leaves_the_other(
    upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Snapshots(upload.link, upload.snapshots._settings)
    put, reached, go_on = slow._put_manifest, asyncio.Event(), asyncio.Event()

    async def wait(*args: object) -> bool:
        reached.set()
        await go_on.wait()
        return await put(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(slow, "_put_manifest", wait)
    task = asyncio.create_task(slow.store(P, 1, "c", 10, upload.file("a", 100)))
    await reached.wait()
    # the next owner's is under way when an old one ends, and the other way round
    newer = await upload.snapshots.store(P, 2, "c", 20, upload.file("b", 100))
    assert newer is not None
    go_on.set()
    assert await task is None
    assert await upload.snapshots.find(P) == newer
    await upload.snapshots.fetch(newer, upload.folder / "fetched")
    assert await upload.idents() == {newer.ident}


async def test_chunks_of_a_newer_owner_under_way_are_not_removed(upload: Upload) -> None:
    await upload.js.publish(upload.snapshots._chunk_subject(P, "9-ab-1", 0), b"under way", {})
    made = await upload.snapshots.store(P, 3, "c", 10, upload.file("a", 100))
    assert made is not None
    assert await upload.idents() == {"9-ab-1", made.ident}


async def test_damaged_chunks_are_not_used(upload: Upload) -> None:
    made = await upload.snapshots.store(P, 1, "c", 10, upload.file("a", 2 * CHUNK_BYTES))
    assert made is not None
    await upload.js.publish(upload.snapshots._chunk_subject(P, made.ident, 1), b"something else", {})
    with pytest.raises(MalformedSnapshot):
        await upload.snapshots.fetch(made, upload.folder / "fetched")
    await upload.js.purge(upload.stream, subject=upload.snapshots._chunk_subject(P, made.ident, 0))
    with pytest.raises(MalformedSnapshot):
        await upload.snapshots.fetch(made, upload.folder / "fetched")


@pytest_asyncio.fixture
async def fleet(tmp_path: Path, fleet_settings: Callable[..., Cluster]) -> AsyncIterator[JournalFleet]:
    fleet = JournalFleet(tmp_path, fleet_settings)
    yield fleet
    await fleet.close()


async def test_a_standby_that_slept_goes_on_with_a_snapshot(fleet: JournalFleet) -> None:
    first, second = await fleet.node(snapshot_bytes=65_536), await fleet.node()
    second.stores.follow(P)
    store = await with_app(await first.adopt(P, 1))
    number = register(store, "one")
    await store.committer.flush()
    await until(lambda: second.stores.applied(P) > 0)
    slept = second.stores.applied(P)
    await second.stores.unfollow(P)
    for _ in range(60):
        seq, written = push(store, number, text="x" * 4_000)
        await written
        settle(store, seq)
    async with asyncio.timeout(60):
        while (begins := (await fleet.commits(P))[0].place) < 10:
            await asyncio.sleep(0.05)
    assert 0 < slept < begins
    kept, written = push(store, number)
    await written
    second.stores.follow(P)
    place = (await fleet.commits(P))[-1].place
    await until(lambda: second.stores.applied(P) >= place)
    await store.close()
    other = await second.adopt(P, 2)
    assert other.journal.pending_of(number) == [kept]
    assert len(other.receipts.after(APP, 0, 100)) == 60
    await other.close()


async def test_a_snapshot_that_somebody_removed_is_taken_again_though_nothing_comes(
    fleet: JournalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its stream, too. Without it no other node could have what went before the journal."""
    monkeypatch.setattr("gateway.cluster.snapshot_keeper.CHECK_S", 0.05)
    monkeypatch.setattr("gateway.cluster.snapshot_keeper.PAUSE_S", 0.1)
    monkeypatch.setattr("gateway.cluster.snapshot_keeper.NOTE_S", 0.2)
    first = await fleet.node(snapshot_bytes=65_536)
    store = await with_app(await first.adopt(P, 1))
    number = register(store, "one")
    for _ in range(60):
        seq, written = push(store, number, text="x" * 4_000)
        await written
        settle(store, seq)
    async with asyncio.timeout(60):
        while (await fleet.commits(P))[0].place < 10:
            await asyncio.sleep(0.05)
    kept, written = push(store, number)
    await written
    await JetStream(first.link).api(f"STREAM.DELETE.{first.settings.name}_S")
    async with asyncio.timeout(60):
        while await first.stores._snapshots.find(P) is None:
            await asyncio.sleep(0.05)
    other = await (await fleet.node()).adopt(P, 2)
    assert other.journal.pending_of(number) == [kept]
    await store.close()
    await other.close()


async def test_a_journal_without_what_a_snapshot_should_have_is_not_opened(fleet: JournalFleet) -> None:
    node = await fleet.node()
    store = await with_app(await node.adopt(P, 1))
    register(store, "one")
    await store.close()
    name = node.settings.name
    js = JetStream(node.link)
    await js.purge(f"{name}_J_{P}", below=3)
    with pytest.raises(ConfigError, match="no whole snapshot"):
        await (await fleet.node()).adopt(P, 2)
    # who has a folder that reaches it can go on
    again = await node.adopt(P, 3)
    assert again.directory.app(APP) is not None
    await again.close()


async def test_a_snapshot_of_a_journal_that_was_lost_is_not_mixed_with_the_new_one(fleet: JournalFleet) -> None:
    node = await fleet.node(snapshot_bytes=65_536)
    store = await with_app(await node.adopt(P, 1))
    number = register(store, "one")
    for _ in range(30):
        await push(store, number, text="x" * 4_000)[1]
    async with asyncio.timeout(60):
        while (await fleet.commits(P))[0].place < 5:
            await asyncio.sleep(0.05)
    await store.close()
    await JetStream(node.link).api(f"STREAM.DELETE.{node.settings.name}_J_{P}")
    with pytest.raises(ConfigError, match="its journal is gone"):
        await (await fleet.node()).adopt(P, 2)
