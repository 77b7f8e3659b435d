"""Broadcasts against a set model: each registration gets what is live for its app and version, each once (A3, A4)."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from packaging.specifiers import SpecifierSet
from store_rig import (
    APP,
    START_MS,
    Clock,
    broadcast,
    disk_of,
    fail_commit,
    notification,
    open_store,
    register,
    with_app,
)

from gateway.model.errors import InvalidField, QueueFull, StoreUnavailable
from gateway.model.outcome import State
from gateway.store import Store

VERSIONS = ["1.0", "1.5", "2.0", "2.1b1", "3.0"]
RANGES = ["", ">=2.0", "<2", "==1.5", ">=1.5,<3", "!=2.0"]
DEVICES = [f"device-{i}" for i in range(5)]


class BroadcastMachine(RuleBasedStateMachine):
    """Registrations come, change version and go; broadcasts come, are acked in any order, end; the store restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.versions: dict[int, str] = {}
        self.live: dict[int, str] = {}
        self.received: dict[int, set[int]] = {}

    @initialize()
    def start(self) -> None:
        self.store = self.runner.run(self.open())
        self.runner.run(with_app(self.store))

    async def open(self) -> Store:
        return await open_store(Path(self.folder.name), self.clock, max_bytes=1 << 26, sync=False)

    @rule(device=st.sampled_from(DEVICES), version=st.sampled_from(VERSIONS))
    def register(self, device: str, version: str) -> None:
        async def go() -> None:
            registration, created, written = self.store.directory.register(device, APP, version, "")
            assert created == (registration.number not in self.versions)
            if written is not None:
                await written
            self.versions[registration.number] = version
            self.received.setdefault(registration.number, set())

        self.runner.run(go())

    @rule(versions=st.sampled_from(RANGES))
    def broadcast(self, versions: str) -> None:
        async def go() -> None:
            seq, written = broadcast(self.store, versions)
            await written
            self.live[seq] = versions

        self.runner.run(go())

    @precondition(lambda self: self.live and self.versions)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.live)))
        able = [number for number in self.versions if self.matches(seq, number)]
        if not able:
            return
        numbers = data.draw(st.lists(st.sampled_from(able), unique=True, min_size=1))

        async def go() -> None:
            self.store.broadcasts.acked(seq, numbers, START_MS)
            await asyncio.sleep(0)

        self.runner.run(go())
        for number in numbers:
            self.received[number].add(seq)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.live)))

        async def go() -> None:
            self.store.broadcasts.end(seq, State.RECALLED, START_MS)

        self.runner.run(go())
        del self.live[seq]

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.versions)))

        async def go() -> None:
            await self.store.directory.revoke(number)

        self.runner.run(go())
        del self.versions[number], self.received[number]

    @rule()
    def restart(self) -> None:
        async def go() -> Store:
            await self.store.close()
            return await self.open()

        self.store = self.runner.run(go())

    def matches(self, seq: int, number: int) -> bool:
        return SpecifierSet(self.live[seq]).contains(self.versions[number], prereleases=True)

    @invariant()
    def waiting_is_what_was_not_received(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.store.broadcasts.live(APP) == sorted(self.live)
        for number in self.versions:
            wanted = sorted(s for s in self.live if self.matches(s, number) and s not in self.received[number])
            assert self.store.broadcasts.waiting(number) == wanted
            assert [s for s in sorted(self.live) if self.store.broadcasts.is_waiting(s, number)] == wanted

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.runner.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()


BroadcastMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, suppress_health_check=list(HealthCheck)
)
TestBroadcastsLikeSets = BroadcastMachine.TestCase


async def test_a_broadcast_is_one_row_whatever_the_audience(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    numbers = [register(store, f"d{i}") for i in range(200)]
    await store.committer.flush()
    disk = disk_of(store)
    seq, written = broadcast(store)
    await written
    assert len(disk.written) == 1
    store.broadcasts.acked(seq, numbers, START_MS)
    await store.committer.flush()
    # 200 acks: their cursors go 64 to a row
    assert len(disk.written) <= 1 + 1 + 200 // 64 + 1
    assert all(store.broadcasts.waiting(number) == [] for number in numbers)
    await store.close()


async def test_acks_survive_a_kill_once_committed(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path / "a"))
    number, other = register(store, "one"), register(store, "two")
    first, _ = broadcast(store)
    second, _ = broadcast(store)
    store.broadcasts.acked(second, [number], START_MS)  # out of order
    store.broadcasts.acked(first, [other], START_MS)
    await store.committer.flush()
    await store.backup(tmp_path / "b")  # what a process killed now would leave
    after = await open_store(tmp_path / "b")
    assert after.broadcasts.waiting(number) == [first]
    assert after.broadcasts.waiting(other) == [second]
    await after.close()
    await store.close()


async def test_a_failed_commit_takes_the_broadcast_back_and_keeps_acks_for_later(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "one")
    first, written = broadcast(store)
    await written
    disk = disk_of(store)
    store.broadcasts.acked(first, [number], START_MS)
    second, written = broadcast(store)
    assert store.broadcasts.waiting(number) == [second]
    await fail_commit(store, disk)
    with pytest.raises(StoreUnavailable):
        await written
    assert store.broadcasts.live(APP) == [first]
    assert store.broadcasts.waiting(number) == []
    disk.error = None
    assert await store.committer.probe()
    await store.close()
    store = await open_store(tmp_path)
    assert store.broadcasts.waiting(number) == []
    await store.close()


async def test_a_failed_version_change_is_taken_back(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "one", "1.0")
    old, _ = broadcast(store, "<2")
    new, _ = broadcast(store, ">=2")
    store.broadcasts.acked(old, [number], START_MS)
    await store.committer.flush()
    disk = disk_of(store)
    disk.error = OSError(28, "No space left on device")
    _, created, written = store.directory.register("one", APP, "2.0", "")
    assert not created
    assert store.broadcasts.waiting(number) == [new]
    assert written is not None
    with pytest.raises(StoreUnavailable):
        await written
    assert store.broadcasts.waiting(number) == []
    assert store.directory.registration(number).version == "1.0"  # type: ignore[union-attr]
    assert store.directory.groups(APP, "==1.0") == [store.directory.registry.group(number)]
    await store.close()


async def test_too_many_live_broadcasts_are_refused(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path, max_broadcasts_per_app=2))
    first, _ = broadcast(store)
    broadcast(store)
    with pytest.raises(QueueFull):
        broadcast(store)
    store.broadcasts.end(first, State.EXPIRED, START_MS)
    broadcast(store)
    await store.close()


async def test_an_expired_broadcast_waits_for_nobody(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock))
    number = register(store, "one")
    seq, _ = broadcast(store, ttl_s=10)
    assert store.broadcasts.waiting(number) == [seq]
    clock.now_ms += 11_000
    assert store.broadcasts.waiting(number) == []
    await store.close()


async def test_a_range_that_can_not_be_parsed_names_its_field(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    with pytest.raises(InvalidField) as caught:
        broadcast(store, "two or so")
    assert caught.value.field == "target.versions"
    assert store.broadcasts.live(APP) == []
    await store.close()


async def test_a_version_that_is_no_version_is_met_by_everyone_and_by_itself_only(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "one", "nightly-7f3a")
    everyone, _ = broadcast(store)
    broadcast(store, ">=0")
    itself, _ = broadcast(store, "===nightly-7f3a")
    assert store.broadcasts.waiting(number) == [everyone, itself]
    await store.close()


async def test_figures_and_state_are_there_after_the_end_and_a_restart(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    seq, written = broadcast(store)
    await written
    number = register(store, "d1")
    store.broadcasts.count(seq, "targeted", [number] * 3)
    store.broadcasts.count(seq, "acked", [number])
    record = store.receipts.lookup(APP, seq)
    assert record is not None
    figures = {"targeted": 3, "targeted@1.0": 3, "acked": 1, "acked@1.0": 1}
    assert (record.state, record.figures) == (State.ACCEPTED, figures)
    store.broadcasts.end(seq, State.RECALLED, START_MS)
    store.broadcasts.count(seq, "acked", [number])  # its ack was on the way
    figures |= {"acked": 2, "acked@1.0": 2}
    for _ in range(2):
        record = store.receipts.lookup(APP, seq)
        assert record is not None
        assert (record.state, record.figures) == (State.RECALLED, figures)
        assert record.notification.content.text == ""
        await store.close()
        store = await open_store(tmp_path)
    await store.close()


async def test_broadcasts_must_come_in_order(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    early = store.journal.reserve(1)
    broadcast(store)
    with pytest.raises(ValueError, match="order"):
        store.journal.broadcast(notification(early))
    await store.close()


async def test_an_ack_that_comes_after_an_update_holds_for_a_later_one(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "device", "1.0")
    seq, commit = broadcast(store, "!=2.0")
    await commit
    register(store, "device", "2.0")
    assert store.broadcasts.waiting(number) == []
    store.broadcasts.acked(seq, [number], START_MS)  # it was on its screen since before
    register(store, "device", "3.0")
    assert store.broadcasts.waiting(number) == []
    await store.close()
    store = await open_store(tmp_path)
    assert store.broadcasts.waiting(number) == []
    await store.close()
