"""Group commit: order, bounds, durability over a kill, and trouble with the disk."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest
from store_rig import (
    APP,
    Clock,
    broadcast,
    config,
    disk_of,
    fail_commit,
    full_disk,
    open_store,
    push,
    push_until_refused,
    register,
    settle,
    with_app,
)

from gateway.metrics import Metric, Metrics
from gateway.model.errors import QueueFull, StoreUnavailable
from gateway.model.outcome import State
from gateway.store import Store
from gateway.store.environment import Environment
from gateway.store.records import PUT, Db, pack_u64, unpack_u64

ROOT = Path(__file__).parents[3]


async def test_rows_of_one_callback_are_one_commit_in_their_order(tmp_path: Path) -> None:
    metrics = Metrics(process=False)
    store = await open_store(tmp_path, metrics=metrics)
    disk = disk_of(store)
    before = metrics.value(Metric.STORE_COMMITS)
    written = [store.committer.accept([(PUT, Db.POSITIONS, b"name", pack_u64(n))]) for n in range(50)]
    await asyncio.gather(*written)
    assert metrics.value(Metric.STORE_COMMITS) == before + 1
    assert [unpack_u64(row[3]) for row in disk.written] == list(range(50))
    assert unpack_u64(store._environment.get(Db.POSITIONS, b"name") or b"") == 49
    await store.close()


async def test_a_full_batch_is_cut_before_the_time_is_over(tmp_path: Path) -> None:
    store = await open_store(tmp_path, commit_ms=3_600_000, commit_rows=10, max_uncommitted=100)
    written = [store.committer.accept([(PUT, Db.POSITIONS, b"n", b"x" * 8)]) for _ in range(10)]
    await asyncio.wait_for(asyncio.gather(*written), 20)
    lone = store.committer.accept([(PUT, Db.POSITIONS, b"n", b"x" * 8)])
    await asyncio.wait_for(store.committer.flush(), 20)  # who waits for everything does not wait for the time either
    assert lone.done()
    await store.close()


async def test_rows_past_the_bound_are_refused_and_counted(tmp_path: Path) -> None:
    metrics = Metrics(process=False)
    store = await open_store(tmp_path, metrics=metrics, max_uncommitted=5)
    row = (PUT, Db.POSITIONS, b"n", b"x" * 8)
    written = [store.committer.accept([row]) for _ in range(5)]
    with pytest.raises(QueueFull):
        store.committer.accept([row])
    assert metrics.value(Metric.STORE_REFUSED, "uncommitted") == 1
    await asyncio.gather(*written)
    # one entry larger than the bound is taken while nothing waits, else it never could be
    await store.committer.accept([row] * 20)
    await store.close()


async def test_a_failed_commit_fails_what_was_accepted_and_keeps_what_was_settled(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "one")
    settled, written = push(store, number)
    await written
    disk = disk_of(store)
    settle(store, settled)
    refused, refused_commit = push(store, number)
    later: list[asyncio.Future[None]] = []
    # this one comes while the commit that will fail is under way
    asyncio.get_running_loop().call_soon(lambda: later.append(push(store, number)[1]))
    await fail_commit(store, disk)
    for commit in [refused_commit, *later]:
        with pytest.raises(StoreUnavailable):
            await commit
    assert len(later) == 1
    assert store.journal.pending_of(number) == []
    assert store.journal.notification(refused) is None
    assert not store.journal.writable
    with pytest.raises(StoreUnavailable):
        push(store, number)
    with pytest.raises(StoreUnavailable):
        broadcast(store)
    with pytest.raises(StoreUnavailable):
        register(store, "two")
    # a returning device is let in: nothing has to be written
    assert store.directory.register("one", APP, "1.0", "")[2] is None

    assert not await store.committer.probe()
    disk.error = None
    assert await store.committer.probe()
    assert store.journal.writable
    accepted, commit = push(store, number)
    await commit
    await store.close()
    store = await open_store(tmp_path)
    assert store.journal.pending_of(number) == [accepted]
    record = store.receipts.lookup(APP, settled)
    assert record is not None
    assert record.deliveries[0].state == State.ACKED
    assert store.receipts.lookup(APP, refused) is None
    await store.close()


async def test_settled_rows_are_written_before_newer_ones_after_trouble(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "one")
    seqs = [push(store, number)[0] for _ in range(4)]
    await store.committer.flush()
    disk = disk_of(store)
    settle(store, seqs[0])
    await fail_commit(store, disk)
    settle(store, seqs[1])
    await store.committer.probe()
    settle(store, seqs[2])
    disk.error = None
    await store.committer.probe()
    settle(store, seqs[3])
    await store.committer.flush()
    removed = [unpack_u64(row[2]) for row in disk.written if row[0] != PUT and row[1] == Db.JOURNAL]
    assert removed == seqs
    await store.close()


async def test_settled_rows_past_their_bound_are_dropped_and_counted(tmp_path: Path) -> None:
    metrics = Metrics(process=False)
    store = await with_app(
        await open_store(tmp_path, metrics=metrics, max_uncommitted=10, max_pending_per_registration=99)
    )
    number = register(store, "one")
    seqs = []
    for _ in range(30):
        seq, commit = push(store, number)
        await commit
        seqs.append(seq)
    disk = disk_of(store)
    await fail_commit(store, disk)
    for seq in seqs:
        settle(store, seq)
    assert store.journal.pending_of(number) == []
    dropped = metrics.value(Metric.STORE_ROWS_DROPPED)
    assert dropped > 0
    assert store.committer.waiting_rows <= 40
    disk.error = None
    assert await store.committer.probe()
    await store.close()
    store = await open_store(tmp_path)
    # the stated consequence: they are pending again after a restart; the oldest were written
    again = store.journal.pending_of(number)
    assert again
    assert again == seqs[-len(again) :]
    await store.close()


async def test_a_panicked_environment_is_opened_again(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "one")
    await store.committer.flush()
    disk = disk_of(store)
    disk.error = lmdb.PanicError("mdb_txn_commit: MDB_PANIC")
    _, commit = push(store, number)
    with pytest.raises(StoreUnavailable):
        await commit
    disk.error = None
    assert await store.committer.probe()
    seq, commit = push(store, number)
    await commit
    assert store.journal.pending_of(number) == [seq]
    await store.close()


async def test_a_full_map_refuses_then_takes_again_when_there_is_room(tmp_path: Path) -> None:
    metrics = Metrics(process=False)
    store = await with_app(
        await open_store(tmp_path, metrics=metrics, max_bytes=1 << 20, max_pending_per_registration=10**6)
    )
    number = register(store, "one")
    accepted = await push_until_refused(store, number, 2_000)
    assert metrics.value(Metric.STORE_COMMIT_FAILURES, "MapFullError") == 1
    assert not store.journal.writable
    assert store.journal.pending_of(number) == accepted
    assert not await store.committer.probe(), "there is no room yet"
    # what makes room can be written although the map is full
    settle(store, *accepted[: len(accepted) // 2])
    for _ in range(5):  # freed pages can be used two commits later
        if await store.committer.probe():
            break
    assert store.journal.writable
    seq, commit = push(store, number, text="x" * 2_000)
    await commit
    left = [*accepted[len(accepted) // 2 :], seq]
    await store.close()
    store = await open_store(tmp_path, max_bytes=1 << 20)
    assert store.journal.pending_of(number) == left
    await store.close()


async def test_closing_while_nothing_can_be_written_ends_and_says_what_is_lost(tmp_path: Path) -> None:
    metrics = Metrics(process=False)
    store = await with_app(await open_store(tmp_path, metrics=metrics))
    number = register(store, "one")
    seq, commit = push(store, number)
    await commit
    disk = disk_of(store)
    await fail_commit(store, disk)
    settle(store, seq)
    await store.close()
    assert metrics.value(Metric.STORE_ROWS_DROPPED) > 0
    store = await open_store(tmp_path)
    assert store.journal.pending_of(number) == [seq]
    await store.close()


async def test_the_store_probes_by_itself(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    store.committer._probe_s = 0.01
    disk = disk_of(store)
    await fail_commit(store, disk)
    disk.error = None
    async with asyncio.timeout(60):
        while not store.journal.writable:
            await asyncio.sleep(0.005)
    await store.close()


async def test_a_failure_that_lmdb_does_not_know_fails_the_batch_too(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    disk = disk_of(store)
    disk.error = RuntimeError("a bug of ours")
    commit = store.committer.accept([(PUT, Db.POSITIONS, b"n", b"x" * 8)])
    with pytest.raises(StoreUnavailable):
        await commit
    disk.error = None
    assert await store.committer.probe()
    await store.close()


def test_an_aborted_transaction_leaves_nothing(tmp_path: Path) -> None:
    environment = Environment.open(config(tmp_path))
    rows = [(PUT, Db.JOURNAL, pack_u64(7), b"x"), (PUT, Db.POSITIONS, b"", b"an empty key is not allowed")]
    with pytest.raises(lmdb.Error):
        environment.apply([rows])
    assert environment.get(Db.JOURNAL, pack_u64(7)) is None
    environment.apply([rows[:1]])
    environment.apply([[(PUT, Db.JOURNAL, pack_u64(5), b"late")]])  # below the highest: no append mode
    assert environment.get(Db.JOURNAL, pack_u64(5)) == b"late"
    environment.close()


CHILD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from store_rig import open_store, push, register, settle, with_app

async def main():
    store = await with_app(await open_store(Path(sys.argv[1]), max_pending_per_registration=10**9))
    number = register(store, "one")
    await store.committer.flush()
    while True:
        pushed = [push(store, number) for _ in range(20)]
        await asyncio.gather(*(commit for _, commit in pushed))
        for seq, _ in pushed:
            print("accepted", seq)
        settle(store, *(seq for seq, _ in pushed[::2]))
        await store.committer.flush()
        for seq, _ in pushed[::2]:
            print("settled", seq)
        sys.stdout.flush()

asyncio.run(main())
"""


@pytest.mark.chaos
@pytest.mark.parametrize("lines", [1, 150, 700])
async def test_what_was_reported_durable_is_there_after_a_kill(tmp_path: Path, lines: int) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        str(tmp_path),
        str(Path(__file__).parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    assert child.stdout is not None
    reported: list[bytes] = []
    while sum(line.startswith((b"accepted", b"settled")) for line in reported) < lines:
        reported.append(await child.stdout.readline())
    child.kill()
    reported += (await child.stdout.read()).splitlines(keepends=True)
    await child.wait()
    said = [line.split() for line in reported if line.startswith((b"accepted", b"settled")) and line.endswith(b"\n")]
    accepted = {int(seq) for what, seq in said if what == b"accepted"}
    settled = {int(seq) for what, seq in said if what == b"settled"}

    store = await open_store(tmp_path, Clock())
    number = store.directory.register("one", APP, "1.0", "")[0].number
    pending = set(store.journal.pending_of(number))
    assert settled.isdisjoint(pending), "a settled delivery came back"
    outcomes = {seq for seq in accepted - pending if store.receipts.lookup(APP, seq) is not None}
    assert accepted <= pending | outcomes, "an accepted notification was lost"
    # numbers given out before the kill, committed or not, are not given out again
    assert store.journal.reserve(1) > max(accepted | pending, default=0) + 1_000_000
    await store.close()


async def test_a_clean_stop_leaves_no_gap_in_the_numbers(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    last = store.journal.reserve(10) + 9
    await store.close()
    with pytest.raises(StoreUnavailable):
        store.journal.reserve(1)
    store = await open_store(tmp_path)
    assert store.journal.reserve(1) == last + 1
    await store.close()


def reserve_millions(store: Store) -> None:
    for _ in range(100):
        store.journal.reserve(1_000_000)


async def test_no_numbers_are_given_out_that_a_crash_could_repeat(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    disk = disk_of(store)
    disk.error = full_disk()
    first = store.journal.reserve(1)
    with pytest.raises(StoreUnavailable):
        reserve_millions(store)
    assert store.journal.reserve(1) > first, "what is left of the block can still be used"
    await store.close()


async def test_a_key_is_taken_with_its_push_though_that_filled_the_room(tmp_path: Path) -> None:
    """Else the provider hears that nothing was accepted, repeats it, and it is two pushes."""
    store = await with_app(await open_store(tmp_path, max_uncommitted=10))
    row = (PUT, Db.POSITIONS, b"n", b"x" * 8)
    store.committer.accept([row] * 9)
    pushed = store.committer.accept([row])
    kept = store.receipts.remember(APP, "k", b"h", 7, 2**31, joined=True)
    with pytest.raises(QueueFull):
        store.committer.accept([row])
    with pytest.raises(QueueFull):
        store.receipts.remember(APP, "no push's", b"h", 7, 2**31)
    assert store.receipts.recall_idempotent(APP, "no push's") is None
    await asyncio.wait_for(store.committer.flush(), 20)
    assert pushed.done()
    assert kept.done()
    assert store.receipts.recall_idempotent(APP, "k") == (7, b"h")
    await store.close()


async def test_more_than_may_wait_is_written_at_the_end(tmp_path: Path) -> None:
    metrics = Metrics(process=False)
    store = await open_store(tmp_path, metrics=metrics, commit_ms=3_600_000, max_uncommitted=5)
    for n in range(60):
        store.committer.keep([(PUT, Db.POSITIONS, b"n%d" % n, pack_u64(n))])
    await asyncio.wait_for(store.close(), 20)
    assert metrics.value(Metric.STORE_ROWS_DROPPED) == 0
    store = await open_store(tmp_path)
    assert unpack_u64(store._environment.get(Db.POSITIONS, b"n59") or b"") == 59
    await store.close()
