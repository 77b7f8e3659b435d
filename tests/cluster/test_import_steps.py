"""An import that breaks off at any step leaves a fleet that no node enters, and the next one makes it whole."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.cluster.fleet_records import KEYS
from gateway.cluster.import_record import IMPORT, finished_import
from gateway.cluster.jetstream import JetStream, NoAnswer
from gateway.cluster.journal_records import journal_stream
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.nats_link import NatsLink
from gateway.cluster.snapshots import Manifest, Snapshots
from gateway.config.cluster_section import Cluster
from gateway.config.sections import Config
from gateway.config.sections import Store as StoreConfig
from gateway.fleet import store_import
from gateway.fleet.store_import import Imported, import_store
from gateway.metrics import Metrics
from gateway.model.errors import ConfigError, GatewayError
from gateway.model.notification import Content, Notification, Target
from gateway.model.registration import App
from gateway.store import Store
from gateway.store.moved import moved_to
from gateway.store.store import now_ms

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

APP = "shop"
PARTITIONS = 4


async def make_store(folder: Path, devices: int = 10) -> None:
    store = await Store.open(StoreConfig(path=str(folder), max_bytes=1 << 26), Metrics(process=False))
    await store.directory.put_app(App(name=APP))
    for at in range(devices):
        number = store.directory.register(f"phone-{at}", APP, "1.0", "")[0].number
        seq = store.journal.reserve(1)
        await store.journal.append(message(seq, Target(token="x" * 22)), [number])
    await store.journal.broadcast(message(store.journal.reserve(1), Target(everyone=True)))
    await store.close()


def message(seq: int, target: Target) -> Notification:
    now = now_ms()
    return Notification(
        seq=seq,
        app=APP,
        target=target,
        content=Content(title="title"),
        accepted_ms=now,
        expires_s=now // 1_000 + 3_600,
        ack_ms=3_000,
        notifier_ack_ms=3_000,
    )


class Scene:
    def __init__(self, tmp_path: Path, cluster: Cluster) -> None:
        self.path = tmp_path
        self.store = tmp_path / "alone"
        secret = tmp_path / "secret"
        secret.write_bytes(b"s" * 40)
        secret.chmod(0o600)
        self.config = Config()
        self.config.cluster = dataclasses.replace(cluster, partitions=PARTITIONS, secret_file=str(secret))
        self.config.store.max_bytes = 1 << 26
        self.said: list[str] = []

    async def run(self, store: Path | None = None, *, dry_run: bool = False) -> Imported:
        work = self.path / "work"
        return await import_store(self.config, store or self.store, dry_run=dry_run, work=work, say=self.said.append)

    @asynccontextmanager
    async def link(self) -> AsyncIterator[NatsLink]:
        link = NatsLink(self.config.cluster, purpose="test")
        await link.connect()
        try:
            yield link
        finally:
            await link.close()

    async def streams(self) -> list[int]:
        """Messages in the journals that are there."""
        async with self.link() as link:
            js, name = JetStream(link), self.config.cluster.name
            found = [await js.state(journal_stream(name, partition)) for partition in range(PARTITIONS)]
            return [state.messages for state in found if state is not None]

    async def is_open(self) -> bool:
        """May nodes enter? ConfigError where an import keeps them out."""
        async with self.link() as link:
            leases = KvLeases(link, self.config.cluster)
            await leases.open()
            return await finished_import(leases) is not None


@pytest.fixture
async def scene(tmp_path: Path, fleet_settings: Callable[..., Cluster]) -> Scene:
    scene = Scene(tmp_path, fleet_settings())
    await make_store(scene.store)
    return scene


class Broken(Exception):
    pass


@pytest.mark.parametrize("step", ["_read", "_partition", "_broadcasts", "_records", "mark", "after mark"])
async def test_it_may_break_off_at_any_step(scene: Scene, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    importer = store_import._Importer
    before = getattr(importer, step, None) or importer.mark

    def broken(self: Any, *args: Any) -> Any:
        if step == "mark":
            raise Broken
        if step == "after mark":
            before(self)
            raise Broken

        async def breaks() -> Any:
            await before(self, *args)  # it was carried out, and nobody heard of it
            raise Broken

        return breaks()

    with monkeypatch.context() as patch:
        patch.setattr(importer, "mark" if step == "after mark" else step, broken)
        with pytest.raises(Broken):
            await scene.run()
    with pytest.raises(ConfigError, match="not finished"):
        await scene.is_open()
    assert bool(moved_to(scene.store)) is (step == "after mark")
    done = await scene.run()
    assert not done.was_done
    assert (done.carried.registrations, done.carried.pending, done.carried.broadcasts) == (10, 10, 1)
    assert await scene.is_open()
    assert await scene.streams() == [1] * PARTITIONS
    assert moved_to(scene.store) == scene.config.cluster.name
    assert (await scene.run()).was_done
    assert not list((scene.path / "work").iterdir())


@pytest.mark.parametrize("is_carried_out", [True, False])
async def test_a_snapshot_whose_storing_went_unanswered_is_stored_again(
    scene: Scene, is_carried_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, unanswered = Snapshots.store, []

    async def lost_once(self: Snapshots, partition: int, *args: Any) -> Manifest | None:
        if partition in unanswered:
            return await store(self, partition, *args)
        unanswered.append(partition)
        if is_carried_out:
            await store(self, partition, *args)
        raise NoAnswer("TimeoutError")

    monkeypatch.setattr(Snapshots, "store", lost_once)
    done = await scene.run()
    assert done.carried.pending == 10
    assert sorted(unanswered) == list(range(PARTITIONS))
    assert await scene.is_open()


async def test_a_dry_run_writes_nothing(scene: Scene) -> None:
    found = await scene.run(dry_run=True)
    assert found.is_dry_run
    assert found.carried.registrations == 10
    assert await scene.streams() == []
    assert not moved_to(scene.store)
    async with scene.link() as link:
        assert await JetStream(link).state(f"KV_{scene.config.cluster.name}_FLEET") is None


async def test_another_store_is_refused_before_and_after_it_is_done(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = scene.path / "other"
    await make_store(other, 1)

    async def breaks(*_: Any) -> None:
        raise Broken

    with monkeypatch.context() as patch:
        patch.setattr(store_import._Importer, "_broadcasts", breaks)
        with pytest.raises(Broken):
            await scene.run()
    for _ in range(2):
        with pytest.raises(ConfigError, match="another store"):
            await scene.run(other)
        await scene.run()


async def test_a_node_that_is_faster_keeps_its_fleet(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has made its keys when the import has looked and not written."""
    look = store_import._Importer.look

    async def look_then_lose(self: Any) -> bool:
        was_done = await look(self)
        leases = KvLeases(self._link, self._settings)
        await leases.open()
        await leases.create(KEYS, b"a node's")
        return was_done

    monkeypatch.setattr(store_import._Importer, "look", look_then_lose)
    with pytest.raises(ConfigError, match="is not new"):
        await scene.run()
    async with scene.link() as link:
        leases = KvLeases(link, scene.config.cluster)
        await leases.open()
        assert await leases.get(IMPORT) is None
        entry = await leases.get(KEYS)
        assert entry is not None
        assert entry.value == b"a node's"
    assert await scene.streams() == []


async def test_of_two_imports_the_first_gives_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have copies of one store, each its own lock."""
    import shutil

    copy = scene.path / "copy"
    shutil.copytree(scene.store, copy)
    may_go_on, is_there = asyncio.Event(), asyncio.Event()
    read = store_import._Importer._read

    async def waits(self: Any, work: Path) -> Any:
        found = await read(self, work)
        if self._split.folder == scene.store:
            is_there.set()
            await may_go_on.wait()
        return found

    monkeypatch.setattr(store_import._Importer, "_read", waits)
    first = asyncio.create_task(scene.run())
    await is_there.wait()
    scene.path = scene.path / "second"
    done = await scene.run(copy)
    assert not done.was_done
    may_go_on.set()
    with pytest.raises(GatewayError):
        await first
    assert moved_to(scene.store) == ""
