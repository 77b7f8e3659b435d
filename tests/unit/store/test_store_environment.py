"""Opening, refusing, copying: what a folder may hold and what the gateway says about it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from store_rig import APP, START_MS, config, disk_of, open_store, push, push_until_refused, register, settle, with_app

from gateway.metrics import Metric, Metrics
from gateway.model.errors import ConfigError, StoreSchemaTooNew, StoreUnavailable
from gateway.model.registration import App
from gateway.store import Store, backup_folder
from gateway.store.environment import SCHEMA_KEY, Environment
from gateway.store.keys import KEY_FILE
from gateway.store.records import PUT, SCHEMA, Db, pack_u32

libc = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MS_REMOUNT, MNT_DETACH = 1, 32, 2


class SmallDisk:
    """A file system of 4 MiB of its own; without the privilege to mount one, limits and modes that do the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.mounted = libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, b"size=4m") == 0
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def resize(self, size: int) -> None:
        if self.mounted:
            self._remount(0, b"size=%d" % size)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, self._limits[1]))

    def protect(self, folder: Path, readonly: bool) -> None:
        if self.mounted:
            self._remount(MS_RDONLY if readonly else 0, b"size=4m")
            return
        for path in (folder, *folder.iterdir()):
            path.chmod((0o500 if readonly else 0o700) & (0o700 if path.is_dir() else 0o600))

    def _remount(self, flags: int, options: bytes) -> None:
        if libc.mount(b"tmpfs", bytes(self.folder), b"tmpfs", MS_REMOUNT | flags, options):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def close(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)
        if self.mounted:
            libc.umount2(bytes(self.folder), MNT_DETACH)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    disk.close()


async def test_a_newer_schema_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    environment = Environment.open(config(tmp_path))
    environment.apply([[(PUT, Db.META, SCHEMA_KEY, pack_u32(SCHEMA + 1))]])
    environment.close()
    for _ in range(2):
        with pytest.raises(StoreSchemaTooNew, match=f"schema {SCHEMA + 1}"):
            await open_store(tmp_path)


async def test_two_gateways_can_not_share_a_folder(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    with pytest.raises(ConfigError, match="in use"):
        await open_store(tmp_path)
    await store.close()
    await (await open_store(tmp_path)).close()


async def test_a_folder_that_can_not_be_made_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        await open_store(tmp_path / "file" / "store")
    assert caught.value.field == "store.path"


async def test_something_else_in_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"not a store" * 1_000)
    with pytest.raises(ConfigError, match="damaged"):
        await open_store(tmp_path)


async def test_a_failed_start_leaves_the_folder_free(tmp_path: Path) -> None:
    await (await open_store(tmp_path)).close()
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(ConfigError):
        await open_store(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o600)
    await (await open_store(tmp_path)).close()


async def test_a_backup_taken_under_load_is_a_whole_store(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path / "a", max_pending_per_registration=10**6))
    number = register(store, "phone", alias="me")
    token = store.directory.registration(number).token  # type: ignore[union-attr]
    kept = [push(store, number)[0] for _ in range(20)]
    settle(store, *kept[:5])
    backup = asyncio.ensure_future(store.backup(tmp_path / "b"))
    later = []
    while not backup.done():
        later.append(push(store, number)[0])
        await asyncio.sleep(0)
    await backup
    with pytest.raises(ConfigError, match="not empty"):
        await store.backup(tmp_path / "b")
    await store.close()

    copy = await open_store(tmp_path / "b")
    assert copy.directory.register("phone", APP, "1.0", "")[0].token == token
    assert copy.directory.by_alias(APP, "me") == [number]
    pending = copy.journal.pending_of(number)
    assert pending[:15] == kept[5:]
    assert pending[15:] == later[: len(pending) - 15]
    assert (tmp_path / "b" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    await copy.close()


async def test_a_backup_from_outside_the_process(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path / "a"))
    register(store, "phone")
    await store.close()
    backup_folder(config(tmp_path / "a"), tmp_path / "b")
    copy = await open_store(tmp_path / "b")
    assert len(copy.directory.registry) == 1
    await copy.close()
    with pytest.raises(ConfigError, match="no store"):
        backup_folder(config(tmp_path / "nothing"), tmp_path / "c")


async def test_the_map_is_not_moved_under_a_copy(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    environment = store._environment
    size = environment._env.info()["map_size"]
    environment.begin_copy()
    environment.grow()
    assert environment._env.info()["map_size"] == size
    environment.end_copy()
    environment.grow()
    assert environment._env.info()["map_size"] > size
    environment.shrink()
    assert environment._env.info()["map_size"] == size
    await store.close()


@pytest.mark.parametrize("what", ["data", "data and the table of readers"])
async def test_a_store_that_can_not_be_written_serves_known_devices(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "phone")
    seq, _ = push(store, number)
    await store.close()

    lmdb_open = lmdb.open

    def denied(*args: object, **kwargs: object) -> object:
        if not kwargs["readonly"] or (kwargs["lock"] and what != "data"):
            raise lmdb.ReadonlyError("mdb_env_open: Permission denied")
        return lmdb_open(*args, **kwargs)

    monkeypatch.setattr(lmdb, "open", denied)
    if what != "data":
        with pytest.raises(ConfigError):  # a stranger without the owner's lock needs the table
            Environment.open(config(tmp_path), readonly=True)
    store = await open_store(tmp_path)
    assert not store.journal.writable
    assert store.directory.register("phone", APP, "1.0", "")[::2][0].number == number
    assert store.journal.pending_of(number) == [seq]
    with pytest.raises(StoreUnavailable):
        register(store, "tablet")
    with pytest.raises(StoreUnavailable):
        await store.directory.put_app(App(name="new"))
    assert not await store.committer.probe()
    settle(store, seq)  # it is acked: kept until it can be written
    monkeypatch.undo()
    assert await store.committer.probe()
    await store.close()
    store = await open_store(tmp_path)
    assert store.journal.pending_of(number) == []
    await store.close()


async def test_a_folder_without_a_store_that_can_not_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lmdb_open = lmdb.open

    def denied(*args: object, **kwargs: object) -> object:
        if not kwargs["readonly"]:
            raise lmdb.Error("mdb_env_open: Read-only file system")
        return lmdb_open(*args, **kwargs)

    monkeypatch.setattr(lmdb, "open", denied)
    with pytest.raises(ConfigError, match="make it writable"):
        await open_store(tmp_path)


@pytest.mark.chaos
async def test_a_full_disk_refuses_then_takes_again_when_there_is_room(small_disk: SmallDisk) -> None:
    metrics = Metrics(process=False)
    folder = small_disk.folder / "store"
    store = await with_app(await open_store(folder, metrics=metrics, max_pending_per_registration=10**6))
    number = register(store, "phone")
    await store.committer.flush()
    small_disk.resize(4 << 20)
    accepted = await push_until_refused(store, number, 20_000)
    assert len(accepted) > 50
    assert metrics.value(Metric.STORE_COMMIT_FAILURES, "MapFullError") == 0, "it is the disk that is full"
    assert not store.journal.writable
    settle(store, *accepted[: len(accepted) // 2])
    small_disk.resize(8 << 20)
    assert await store.committer.probe()
    seq, commit = push(store, number, text="x" * 20_000)
    await commit
    left = [*accepted[len(accepted) // 2 :], seq]
    await store.close()
    store = await open_store(folder)
    assert store.journal.pending_of(number) == left
    await store.close()


@pytest.mark.chaos
async def test_a_read_only_folder_is_served_and_left_again(small_disk: SmallDisk) -> None:
    folder = small_disk.folder / "store"
    store = await with_app(await open_store(folder))
    number = register(store, "phone")
    await store.close()
    small_disk.protect(folder, True)
    store = await open_store(folder)
    assert not store.journal.writable
    assert store.directory.register("phone", APP, "1.0", "")[0].number == number
    assert not await store.committer.probe()
    small_disk.protect(folder, False)
    assert await store.committer.probe()
    seq, commit = push(store, number)
    await commit
    with pytest.raises(ConfigError, match="in use"):
        await open_store(folder)
    await store.close()
    store = await open_store(folder)
    assert store.journal.pending_of(number) == [seq]
    await store.close()


async def test_reads_never_leave_a_transaction_open(tmp_path: Path) -> None:
    """An old reader would keep every freed page from being used again."""
    store = await with_app(await open_store(tmp_path, max_bytes=1 << 22, max_pending_per_registration=10**6))
    number = register(store, "phone", alias="a", tags=["t"])
    everyone = store.directory.by_versions(APP, "")
    next(everyone)
    for _ in range(60):
        seqs = [push(store, number, text="x" * 3_000)[0] for _ in range(20)]
        await store.committer.flush()
        store.directory.by_alias(APP, "a")
        store.directory.by_tag(APP, "t")
        store.receipts.after(APP, 0, 1)
        settle(store, *seqs, at_ms=START_MS)
        await store.committer.flush()
    assert store.journal.writable, "4 MiB are enough where pages are used again"
    assert disk_of(store).error is None
    await store.close()


async def test_opening_blocks_on_nothing_but_the_store(tmp_path: Path) -> None:
    stores = [await open_store(tmp_path / str(i)) for i in range(5)]
    assert all(isinstance(store, Store) for store in stores)
    await asyncio.gather(*(store.close() for store in stores))
    await stores[0].close()  # twice is no error
