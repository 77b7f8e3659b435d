"""A store whose commits go to a log first: what it does where the log refuses, stalls, is another's or is ahead."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from batch_rig import Links, append, to, token_of
from memory_log import MemoryJournal, MemoryLog
from store_rig import (
    APP,
    START_MS,
    Clock,
    broadcast,
    config,
    disk_of,
    full_disk,
    push,
    register,
    settle,
    with_app,
)

from gateway.metrics import Metric, Metrics
from gateway.model.cluster import CURSOR_SHIFT, SLOTS, broadcast_seq, first_seq, partition_of
from gateway.model.errors import AcceptTimeout, LogFenced, LogUnavailable, StoreUnavailable
from gateway.model.notification import Target
from gateway.model.outcome import State
from gateway.store import Store
from gateway.store.commit import APPLIED_KEY
from gateway.store.keys import ServerKeys
from gateway.store.partition import Partition
from gateway.store.records import PUT, Db, pack_u64, unpack_u64
from gateway.store.recovery import RECEIPTS_TOLD_KEY
from gateway.store.row_codec import parse_rows
from gateway.store.tokens import in_slot_of, token_of_triple

NUMBER = 13
ROW = (PUT, Db.POSITIONS, b"name", pack_u64(7))


def shared_keys(folder: Path) -> ServerKeys:
    folder.mkdir(exist_ok=True)
    return ServerKeys.load(folder, may_create=True)


class Ends:
    """What a store said of its end."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.is_told_of_closing = False

    def quiet(self) -> None:
        if self.is_told_of_closing:
            self.said.append("quiet")

    def closed(self) -> None:
        if self.is_told_of_closing:
            self.said.append("closed")


async def open_partition(
    folder: Path,
    log: MemoryLog,
    ends: Ends | None = None,
    *,
    clock: Clock | None = None,
    metrics: Metrics | None = None,
    number: int = NUMBER,
    probe_s: float = 3_600.0,
    **settings: Any,
) -> Store:
    ends = ends or Ends()
    partition = Partition(
        number,
        log,
        shared_keys(folder.parent / "keys"),
        lambda: ends.said.append("fenced"),
        lambda: ends.said.append("behind"),
        ends.quiet,
        ends.closed,
    )
    return await Store.open(
        config(folder, **settings),
        metrics or Metrics(process=False),
        clock=clock or Clock(),
        probe_s=probe_s,
        tick_s=3_600.0,
        partition=partition,
    )


def applied(store: Store) -> int:
    return unpack_u64(store._environment.get(Db.META, APPLIED_KEY) or bytes(8))


def replay(journal: MemoryJournal, folder: Path) -> None:
    """What a follower makes of the journal."""
    from gateway.store.environment import Environment

    environment = Environment.open(config(folder))
    for place, raw in enumerate(journal.commits, 1):
        environment.apply([*parse_rows(raw), [(PUT, Db.META, APPLIED_KEY, pack_u64(place))]])
    environment.close()


async def test_a_store_that_closes_is_quiet_before_its_folder_has_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, syncing, may_sync = Ends(), threading.Event(), threading.Event()
    ends.is_told_of_closing = True
    store = await open_partition(tmp_path / "a", MemoryLog(MemoryJournal()), ends)

    def sync() -> None:
        syncing.set()
        may_sync.wait(20)
        ends.said.append("synced")

    monkeypatch.setattr(store._environment, "sync", sync)
    closing = asyncio.create_task(store.close())
    async with asyncio.timeout(60):
        while not syncing.is_set():  # the loop goes on meanwhile
            await asyncio.sleep(0)
    assert ends.said == ["quiet"]
    may_sync.set()
    await closing
    assert ends.said == ["quiet", "synced", "closed"]


async def test_a_commit_is_in_the_log_before_it_is_in_the_folder_and_before_its_promise(tmp_path: Path) -> None:
    journal = MemoryJournal()
    log = MemoryLog(journal)
    store = await open_partition(tmp_path / "a", log)
    log.hold()
    written = store.committer.accept([ROW])
    while not log.held:
        await asyncio.sleep(0)
    assert [row for block in parse_rows(log.held[0][0]) for row in block] == [ROW]
    assert not written.done()
    assert store._environment.get(Db.POSITIONS, b"name") is None
    before = applied(store)
    log.go_on()
    await written
    assert store._environment.get(Db.POSITIONS, b"name") == pack_u64(7)
    assert applied(store) == before + 1 == len(journal.commits)
    await store.close()
    assert log.closed


async def test_a_second_node_has_all_that_was_accepted_and_nothing_that_was_settled(tmp_path: Path) -> None:
    journal = MemoryJournal()
    store = await with_app(await open_partition(tmp_path / "a", MemoryLog(journal)))
    one, two = register(store, "one"), register(store, "two")
    kept, first = push(store, one)
    over, second = push(store, two)
    fan, third = push(store, one, two)
    links = Links(store)
    await asyncio.gather(first, second, third)
    accepted = append(store, links, to(token_of(store, one)), to(token_of(store, two)))
    await accepted.done
    settle(store, over, fan + 1)
    await store.committer.flush()
    assert kept == first_seq(NUMBER)
    # no close: the node is gone
    replay(journal, tmp_path / "b")
    other = await open_partition(tmp_path / "b", MemoryLog(journal))
    assert other.journal.pending_of(one) == [kept, accepted.first]
    assert other.journal.pending_of(two) == [fan + 2, accepted.first + 1]
    record = other.receipts.lookup(APP, over)
    assert record is not None
    assert record.deliveries[0].state == State.ACKED
    seq, written = push(other, one)
    await written
    assert seq > accepted.first + 1
    # and the first one may say nothing any more
    late = push(store, one)[1]
    with pytest.raises(LogFenced):
        await late
    links.close()
    await store.close()
    await other.close()


async def test_a_log_that_refuses_is_a_commit_that_failed(tmp_path: Path) -> None:
    log = MemoryLog(MemoryJournal())
    ends = Ends()
    store = await with_app(await open_partition(tmp_path / "a", log, ends))
    number = register(store, "one")
    settled, written = push(store, number)
    await written
    log.refusing = True
    settle(store, settled)
    refused, written = push(store, number)
    with pytest.raises(StoreUnavailable):
        await written
    assert not store.journal.writable
    assert store.journal.pending_of(number) == []
    assert store.receipts.lookup(APP, refused) is None
    assert not await store.committer.probe()
    log.refusing = False
    assert await store.committer.probe()
    record = store.receipts.lookup(APP, settled)
    assert record is not None
    assert record.deliveries[0].state == State.ACKED
    assert store._environment.get(Db.META, b"probe00") is None
    await push(store, number)[1]
    assert ends.said == []
    await store.close()


async def test_a_fenced_store_fails_its_promises_and_writes_nothing_any_more(tmp_path: Path) -> None:
    journal = MemoryJournal()
    metrics = Metrics(process=False)
    ends = Ends()
    store = await with_app(await open_partition(tmp_path / "a", MemoryLog(journal), ends, metrics=metrics))
    number = register(store, "one")
    kept, written = push(store, number)
    await written
    before, place = len(journal.commits), applied(store)
    MemoryLog(journal)  # the new owner
    disk = disk_of(store)
    settle(store, kept)
    first, second = push(store, number)[1], store.directory.put_app(store.directory._apps[APP])
    for each in (first, second):
        with pytest.raises(LogFenced):
            await each
    assert ends.said == ["fenced"]
    with pytest.raises(LogFenced):
        push(store, number)
    with pytest.raises(LogFenced):
        register(store, "two")
    dropped = metrics.value(Metric.STORE_ROWS_DROPPED)
    assert dropped > 0
    store.journal.settle([])
    store.receipts.save_cursor("hook", 3)
    assert metrics.value(Metric.STORE_ROWS_DROPPED) == dropped + 1
    assert not store.journal.writable
    await store.close()
    assert disk.written == []
    assert len(journal.commits) == before
    assert place == before
    assert ends.said == ["fenced"]


@pytest.mark.parametrize("end", ["landed", "refused", "fenced", "closed"])
async def test_what_waits_for_the_end_of_a_commit_is_called_once_however_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr("gateway.store.commit.CLOSE_S", 0.05)
    journal = MemoryJournal()
    log = MemoryLog(journal)
    store = await with_app(await open_partition(tmp_path / "a", log))
    number = register(store, "one")
    await store.committer.flush()
    assert not store.journal.is_committing
    log.hold()
    written = push(store, number)[1]
    while not log.held:
        await asyncio.sleep(0)
    assert store.journal.is_committing
    calls: list[asyncio.Future[None]] = []
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def call() -> None:
        ended.set_result(None)
        if end == "landed":
            calls.append(push(store, number)[1])

    store.journal.at_commit_end(call)
    log.refusing = end == "refused"
    if end == "fenced":
        MemoryLog(journal)
    if end != "closed":
        log.go_on()
    else:
        await asyncio.wait_for(store.close(), 20)
    await asyncio.wait_for(ended, 20)
    if end == "landed":
        await written
        await calls[0]
    else:
        with pytest.raises((LogUnavailable, LogFenced, AcceptTimeout)):
            await written
    await store.close()


async def test_nothing_is_accepted_while_the_log_is_stalled_and_what_is_under_way_is_not_given_up(
    tmp_path: Path,
) -> None:
    log = MemoryLog(MemoryJournal())
    store = await with_app(await open_partition(tmp_path / "a", log, max_uncommitted=10))
    number = register(store, "one")
    await store.committer.flush()
    log.hold()
    seq, under_way = push(store, number)
    while not log.held:
        await asyncio.sleep(0)
    later = push(store, number)[1]  # it waits for its turn
    log.stalled = True
    assert not store.journal.writable
    with pytest.raises(StoreUnavailable):
        push(store, number)
    with pytest.raises(StoreUnavailable):  # although something waits that it could go with
        store.receipts.remember("shop", "no push's", b"h", 7, 2**31)
    for n in range(100):  # what is settled meanwhile has a bound
        store.receipts.save_cursor("hook", n)
    assert store.committer.waiting_rows <= 10 * 4 + 1
    assert not under_way.done()
    log.stalled = False
    log.go_on()
    await under_way
    await later
    assert store.journal.pending_of(number)[0] == seq
    await store.close()


async def test_a_stalled_log_does_not_keep_a_store_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.commit.CLOSE_S", 0.05)
    journal = MemoryJournal()
    log = MemoryLog(journal)
    ends = Ends()
    store = await with_app(await open_partition(tmp_path / "a", log, ends))
    number = register(store, "one")
    await store.committer.flush()
    count = len(journal.commits)
    log.hold()
    written = push(store, number)[1]
    while not log.held:
        await asyncio.sleep(0)
    await asyncio.wait_for(store.close(), 20)
    with pytest.raises(AcceptTimeout):  # perhaps it arrives
        await written
    assert len(journal.commits) == count
    assert ends.said == []


async def test_a_log_that_answers_after_the_end_keeps_its_promise_and_what_waited_behind_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.commit.CLOSE_S", 0.05)
    log = MemoryLog(MemoryJournal())
    store = await with_app(await open_partition(tmp_path / "a", log))
    number = register(store, "one")
    await store.committer.flush()
    log.hold()
    written = push(store, number)[1]
    while not log.held:
        await asyncio.sleep(0)
    behind = push(store, number)[1]
    await asyncio.wait_for(store.committer.close(), 20)
    with pytest.raises(LogUnavailable):
        await asyncio.wait_for(behind, 20)
    assert not written.done()
    log.go_on()
    await asyncio.wait_for(written, 20)
    await store.close()


async def test_a_log_that_breaks_while_a_store_closes_does_not_keep_it_from_its_end(tmp_path: Path) -> None:
    log = MemoryLog(MemoryJournal())
    ends = Ends()
    store = await with_app(await open_partition(tmp_path / "a", log, ends))
    await store.committer.flush()
    log.hold()
    closing = asyncio.create_task(store.close())
    while not log.held:
        await asyncio.sleep(0)
    log.held[0][1].set_exception(RuntimeError("a fault of ours"))
    await asyncio.wait_for(closing, 20)
    assert not store.committer._thread.is_alive()


async def test_a_folder_that_can_not_follow_the_log_ends_the_store_and_keeps_the_promise(tmp_path: Path) -> None:
    journal = MemoryJournal()
    ends = Ends()
    store = await with_app(await open_partition(tmp_path / "a", MemoryLog(journal), ends))
    number = register(store, "one")
    await store.committer.flush()
    place = applied(store)
    disk = disk_of(store)
    disk.error = full_disk()
    seq, written = push(store, number)
    await written  # the log has it
    assert ends.said == ["behind"]
    with pytest.raises(StoreUnavailable):
        push(store, number)
    await store.close()
    assert place < len(journal.commits)
    replay(journal, tmp_path / "b")
    again = await open_partition(tmp_path / "b", MemoryLog(journal))
    assert again.journal.pending_of(number) == [seq]
    await again.close()


async def test_a_commit_of_which_nobody_knows_ends_the_store(tmp_path: Path) -> None:
    log = MemoryLog(MemoryJournal())
    ends = Ends()
    store = await open_partition(tmp_path / "a", log, ends)
    log.hold()
    written = store.committer.accept([ROW])
    while not log.held:
        await asyncio.sleep(0)
    behind = store.committer.accept([ROW])
    log.held[0][1].set_exception(RuntimeError("a fault of ours"))
    with pytest.raises(AcceptTimeout):
        await written
    with pytest.raises(StoreUnavailable):  # of this it is known
        await behind
    assert ends.said == ["behind"]
    await store.close()


async def test_local_rows_are_in_the_folder_and_not_in_the_log(tmp_path: Path) -> None:
    journal = MemoryJournal()
    store = await open_partition(tmp_path / "a", MemoryLog(journal))
    before = len(journal.commits)
    done: list[int] = []
    store.committer.local([ROW], done=lambda: done.append(1))
    await store.committer.flush()
    assert (store._environment.get(Db.POSITIONS, b"name"), done) == (pack_u64(7), [1])
    assert len(journal.commits) == before
    store.committer.local([(PUT, Db.POSITIONS, b"here", bytes(8))])
    await store.committer.accept([(PUT, Db.POSITIONS, b"everywhere", bytes(8))])
    assert [row[2] for block in parse_rows(journal.commits[-1]) for row in block] == [b"everywhere"]
    assert store._environment.get(Db.POSITIONS, b"here") == bytes(8)
    await store.close()


async def test_numbers_of_a_partition_begin_in_its_field_and_go_on_behind_broadcasts_of_the_fleet(
    tmp_path: Path,
) -> None:
    for number in (0, NUMBER, 1_023):
        log = MemoryLog(MemoryJournal())
        store = await with_app(await open_partition(tmp_path / str(number), log, number=number))
        one = register(store, "one")
        seq, written = push(store, one, collapse_key="k")
        assert seq == first_seq(number)
        # of the fleet: above all partitions
        everyone = broadcast_seq(5)
        from store_rig import notification

        stored = store.journal.broadcast(notification(everyone, target=Target(everyone=True)))
        await asyncio.gather(written, stored)
        assert store.broadcasts.waiting(one) == [everyone]
        assert store.journal.collapsed_by(one, "k") == [seq]
        links = Links(store)
        batch = append(store, links, to(token_of(store, one)))
        await batch.done
        store.broadcasts.acked(everyone, [one], START_MS)
        store.broadcasts.end(everyone, State.EXPIRED, START_MS)
        settle(store, seq)
        await store.close()
        links.close()
        store = await open_partition(tmp_path / str(number), log, number=number)
        assert store.journal.pending_of(one) == [batch.first]
        assert store.directory.registry.cursor(one) == everyone
        assert store.journal.reserve(1) == batch.first + 1
        assert [receipt.outcome.seq for receipt in store.receipts.after(APP, 0, 10)] == [seq]
        await store.close()


async def test_a_triple_stays_in_its_slot_however_often_it_is_revoked(tmp_path: Path) -> None:
    store = await with_app(await open_partition(tmp_path / "a", MemoryLog(MemoryJournal())))
    first = token_of_triple(store.keys.token_key, "one", APP, "me")
    seen = set()
    for generation in range(5):
        registration, created, written = store.directory.register("one", APP, "1.0", "me")
        assert written is not None
        await written
        assert created
        assert registration.generation == generation
        seen.add(registration.token)
        assert partition_of(registration.token, SLOTS) == partition_of(first, SLOTS)
        assert store.directory.known("one", APP, "me") == (registration.token, generation, registration.number)
        await store.directory.revoke(registration.number)
    assert first in seen
    assert len(seen) == 5
    await store.close()


def test_the_slot_is_the_only_thing_that_is_taken_from_the_first_token() -> None:
    token = in_slot_of(b"\xff" * 16, bytes(16))
    assert token == b"\xff\xc0" + bytes(14)
    assert in_slot_of(bytes(16), b"\xff" * 16) == b"\x00\x3f" + b"\xff" * 14


async def test_receipts_are_numbered_by_the_clock_and_never_below_a_watermark_that_was_told(tmp_path: Path) -> None:
    journal = MemoryJournal()
    log = MemoryLog(journal)
    clock = Clock()
    store = await with_app(await open_partition(tmp_path / "a", log, clock=clock))
    number = register(store, "one")
    seqs = []
    for _ in range(3):
        seq, written = push(store, number)
        await written
        seqs.append(seq)
    assert store.receipts.watermark() == 0  # none is told before its mark is durable
    await store.committer.flush()
    told = store.receipts.watermark()
    assert told == (START_MS << CURSOR_SHIFT) - 1
    settle(store, seqs[0])
    await store.committer.flush()
    first = store.receipts.after(APP, told, 10)[0].cursor
    assert first == START_MS << CURSOR_SHIFT
    assert store.receipts.watermark() == first
    # one is numbered and not durable: the watermark waits below it
    log.hold()
    clock.now_ms += 1_000
    settle(store, seqs[1])
    assert store.receipts.watermark() == (clock.now_ms << CURSOR_SHIFT) - 1
    clock.now_ms += 500
    assert store.receipts.watermark() == ((START_MS + 1_000) << CURSOR_SHIFT) - 1
    log.go_on()
    await store.committer.flush()
    clock.now_ms += 1
    told = store.receipts.watermark()
    assert told == (clock.now_ms << CURSOR_SHIFT) - 1
    # the clock goes back, and the node with it
    clock.now_ms = START_MS - 60_000
    assert store.receipts.watermark() == told
    await store.committer.flush()
    replay(journal, tmp_path / "b")
    other = await open_partition(tmp_path / "b", MemoryLog(journal), clock=clock)
    settle(other, seqs[2])
    await other.committer.flush()
    assert other.receipts.after(APP, 0, 10)[-1].outcome.seq == seqs[2]
    assert other.receipts.after(APP, 0, 10)[-1].cursor > told
    await store.close()
    await other.close()


async def test_a_watermark_is_told_no_further_than_its_durable_mark(tmp_path: Path) -> None:
    log = MemoryLog(MemoryJournal())
    clock = Clock()
    store = await with_app(await open_partition(tmp_path / "a", log, clock=clock))
    store.receipts.watermark()
    await store.committer.flush()
    log.hold()
    clock.now_ms += 60_000
    told = store.receipts.watermark()
    assert told == (START_MS + 3_000) << CURSOR_SHIFT
    log.go_on()
    await store.committer.flush()
    assert store.receipts.watermark() == (clock.now_ms << CURSOR_SHIFT) - 1
    await store.close()
    # a good end leaves no gap: numbers go on where they were
    again = await open_partition(tmp_path / "a", log, clock=clock)
    number = register(again, "one")
    seq, written = push(again, number)
    await written
    settle(again, seq)
    await again.committer.flush()
    assert again.receipts.after(APP, 0, 10)[0].cursor == clock.now_ms << CURSOR_SHIFT
    await again.close()


async def test_dead_tokens_have_a_watermark_too(tmp_path: Path) -> None:
    log = MemoryLog(MemoryJournal())
    clock = Clock()
    store = await with_app(await open_partition(tmp_path / "a", log, clock=clock))
    one, two = register(store, "one"), register(store, "two")
    store.deaths.watermark()
    await store.committer.flush()
    log.hold()
    revoked = store.directory.revoke(one)
    cursor = clock.now_ms << CURSOR_SHIFT
    clock.now_ms += 10
    assert store.deaths.watermark() == cursor - 1
    log.go_on()
    await revoked
    await asyncio.sleep(0)
    assert [death.cursor for death in store.deaths.after(APP, 0, 10)] == [cursor]
    assert store.deaths.watermark() == (clock.now_ms << CURSOR_SHIFT) - 1
    # a revocation that is refused keeps nothing open
    log.refusing = True
    with pytest.raises(StoreUnavailable):
        await store.directory.revoke(two)
    with pytest.raises(StoreUnavailable):
        store.directory.revoke(two)
    clock.now_ms += 10
    assert store.deaths.watermark() == (clock.now_ms << CURSOR_SHIFT) - 1
    await store.close()


async def test_a_feed_that_was_lost_with_its_commit_keeps_no_watermark_back(tmp_path: Path) -> None:
    log = MemoryLog(MemoryJournal())
    clock = Clock()
    store = await with_app(await open_partition(tmp_path / "a", log, clock=clock))
    number = register(store, "one")
    seq, written = push(store, number)
    await written
    store.receipts.watermark()
    await store.committer.flush()
    log.refusing = True
    settle(store, seq)
    with pytest.raises(StoreUnavailable):
        await store.committer.flush()
    log.refusing = False
    assert await store.committer.probe()
    clock.now_ms += 10
    assert store.receipts.watermark() == (clock.now_ms << CURSOR_SHIFT) - 1
    await store.close()


async def test_one_machine_alone_has_no_marks(tmp_path: Path) -> None:
    from store_rig import open_store

    store = await with_app(await open_store(tmp_path))
    number = register(store, "one")
    seq, written = push(store, number)
    await written
    settle(store, seq)
    await store.committer.flush()
    assert store.receipts.after(APP, 0, 10)[0].cursor == store.receipts.watermark()
    assert store._environment.get(Db.META, RECEIPTS_TOLD_KEY) is None
    assert broadcast(store)[0] == seq + 1
    await store.close()


async def test_a_partition_larger_than_it_may_be_accepts_nothing_and_still_follows_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.folder_size._COMMITS", 1)
    journal = MemoryJournal()
    ends = Ends()
    metrics = Metrics(process=False)
    store = await with_app(
        await open_partition(tmp_path / "a", MemoryLog(journal), ends, metrics=metrics, max_bytes=1_048_576)
    )
    number = register(store, "one")
    accepted: list[int] = []
    with pytest.raises(StoreUnavailable):  # noqa: PT012
        while True:
            seq, written = push(store, number, text="x" * 50_000)
            await written
            accepted.append(seq)
    assert len(accepted) > 10
    assert metrics.value(Metric.STORE_REFUSED, "full") == 1
    store.receipts.save_cursor("hook", 1)
    with pytest.raises(StoreUnavailable):  # although something waits that it could go with
        store.receipts.remember("shop", "no push's", b"h", 7, 2**31)
    settle(store, *accepted)  # what makes room is taken
    await store.committer.flush()
    await push(store, number)[1]
    assert ends.said == []
    await store.close()
