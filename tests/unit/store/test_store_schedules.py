"""Pushes that wait for their time survive a restart, become one notification, and are found by their first number."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from store_rig import APP, START_MS, broadcast, disk_of, notification, open_store, push, register, settle, with_app

from gateway.model.errors import QueueFull, StoreUnavailable
from gateway.model.notification import Target
from gateway.model.outcome import CLOSING, State
from gateway.model.registration import build_token
from gateway.store import Store
from gateway.store.records import Db

DUE_MS = START_MS + 60_000


async def keep(store: Store, due_ms: int = DUE_MS) -> int:
    seq = store.journal.reserve(1)
    await store.schedules.add(notification(seq), due_ms)
    return seq


async def release(store: Store, seq: int, number: int) -> int:
    became = store.journal.reserve(1)
    kept = store.schedules.notification(seq)
    assert kept is not None
    commit = store.journal.append(msgspec.structs.replace(kept, seq=became, push=seq), [number])
    store.schedules.released(seq, became)
    await commit
    return became


async def test_it_is_given_out_once_when_its_time_has_come_also_after_a_restart(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    seqs = [await keep(store, DUE_MS + n) for n in (2, 0, 1)]
    assert store.schedules.due(DUE_MS - 1, 10) == []
    assert store.schedules.due(DUE_MS, 10) == [seqs[1]]
    assert store.schedules.due(DUE_MS, 10) == []
    await store.close()
    store = await open_store(tmp_path)
    assert store.schedules.due(DUE_MS + 9, 2) == [seqs[1], seqs[2]]
    assert store.schedules.due(DUE_MS + 9, 2) == [seqs[0]]
    record = store.receipts.lookup(APP, seqs[0])
    assert record is not None
    assert (record.due_ms, record.notification.content.text) == (DUE_MS + 2, "hello")
    assert store.receipts.lookup("other", seqs[0]) is None
    assert [seq for seq, _ in store.schedules.of_app(APP)] == seqs
    await store.close()


async def test_one_app_with_thousands_due_leaves_turns_to_the_others(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    for number in range(3):
        await with_app(store, f"other{number}")
    many = [await keep(store) for _ in range(40)]
    late = []
    for number in range(3):
        seq = store.journal.reserve(1)
        await store.schedules.add(msgspec.structs.replace(notification(seq), app=f"other{number}"), DUE_MS + 5)
        late.append(seq)
    first = store.schedules.due(DUE_MS + 10, 10)
    assert set(late) < set(first)
    assert len(first) == 10
    rest = [seq for _ in range(10) for seq in store.schedules.due(DUE_MS + 11, 10)]
    assert sorted(first + rest) == sorted(many + late)
    # With more apps than places each has its turn.
    for seq in (*many, *late):
        store.schedules.again(seq, DUE_MS + 20)
    seen: set[int] = set()
    for _ in range(8):
        seen.update(store.schedules.due(DUE_MS + 21, 1))
    assert set(late) < seen
    await store.close()


async def test_a_release_is_one_commit_and_both_numbers_find_it(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "d1")
    seq = await keep(store)
    became = await release(store, seq, number)
    for _ in range(2):
        assert (store.schedules.became(seq), store.schedules.known_as(became)) == (became, seq)
        assert (store.schedules.became(became), store.schedules.known_as(seq)) == (0, seq)
        assert store.schedules.notification(seq) is None
        record = store.receipts.lookup(APP, seq)
        assert record is not None
        assert [delivery.seq for delivery in record.deliveries] == [became]
        await store.close()
        store = await open_store(tmp_path)
    settle(store, became)
    await store.committer.flush()
    (receipt,) = store.receipts.after(APP, 0, 10)
    assert (receipt.push, receipt.outcome.seq) == (seq, became)
    await store.close()


async def test_where_the_release_can_not_be_written_it_is_kept(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "d1")
    seq = await keep(store)
    assert store.schedules.due(DUE_MS, 10) == [seq]
    disk = disk_of(store)
    disk.error = OSError(28, "full")
    with pytest.raises(StoreUnavailable):
        await release(store, seq, number)
    assert store.schedules.notification(seq) is not None
    assert store.schedules.became(seq) == 0
    assert store.journal.pending_count() == 0
    disk.error = None
    await store.committer.probe()
    assert store.schedules.due(DUE_MS, 10) == [seq]
    became = await release(store, seq, number)
    await store.close()
    store = await open_store(tmp_path)
    assert store.journal.pending_of(number) == [became]
    assert store.schedules.due(DUE_MS, 10) == []
    await store.close()


async def test_one_that_was_never_durable_is_not_kept(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    disk = disk_of(store)
    disk.error = OSError(28, "full")
    seq = store.journal.reserve(1)
    with pytest.raises(StoreUnavailable):
        await store.schedules.add(notification(seq), DUE_MS)
    assert store.schedules.notification(seq) is None
    assert store.schedules.due(DUE_MS, 10) == []
    disk.error = None
    await store.committer.probe()
    await store.close()


@pytest.mark.parametrize("state", [State.RECALLED, State.EXPIRED, State.REJECTED])
async def test_one_to_a_token_that_ends_before_its_time_has_a_receipt(tmp_path: Path, state: State) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "d1")
    await store.committer.flush()
    token = build_token(store.directory.registration(number).token)  # type: ignore[union-attr]
    if state is State.REJECTED:
        await store.directory.revoke(number)
    wakes: list[None] = []
    store.receipts.subscribe(lambda: wakes.append(None))
    seq, to_all = store.journal.reserve(2), 0
    to_all = seq + 1
    for one, target in ((seq, Target(token=token)), (to_all, Target(tag="all"))):
        await store.schedules.add(notification(one, target=target), DUE_MS)
        store.schedules.end(one, state, START_MS + 5)
    await store.committer.flush()
    assert wakes
    for _ in range(2):
        (receipt,) = store.receipts.after(APP, 0, 10)
        outcome = receipt.outcome
        assert (receipt.push, outcome.seq, outcome.state, outcome.at_ms) == (seq, seq, state, START_MS + 5)
        assert outcome.registration == (0 if state is State.REJECTED else number)
        assert [step.what for step in outcome.steps] == [CLOSING[state]]
        record = store.receipts.lookup(APP, seq)
        assert record is not None
        assert (record.state, record.figures, len(record.deliveries)) == (state, {state.name.lower(): 1}, 1)
        other = store.receipts.lookup(APP, to_all)
        assert other is not None
        assert (other.state, other.deliveries) == (state, [])
        await store.close()
        store = await open_store(tmp_path)
    await store.close()


async def test_a_recalled_one_can_be_looked_up_and_is_swept_with_the_history(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    seq = await keep(store)
    store.schedules.end(seq, State.RECALLED, START_MS)
    for _ in range(2):
        record = store.receipts.lookup(APP, seq)
        assert record is not None
        assert record.state == State.RECALLED
        assert store.schedules.due(DUE_MS, 10) == []
        await store.close()
        store = await open_store(tmp_path)
    await store.close()


async def test_old_names_go_with_what_they_name(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path, history_days=1 / 86_400))
    number = register(store, "d1")
    became = await release(store, await keep(store), number)
    settle(store, became)
    await store.committer.flush()
    environment = store._environment
    assert environment.entries(Db.RELEASED) == 2
    store._clock.now_ms += 10_000  # type: ignore[attr-defined]
    store.sweep()
    await store.committer.flush()
    assert environment.entries(Db.RELEASED) == 0
    await store.close()


async def test_an_app_has_a_bound_of_its_own(tmp_path: Path) -> None:
    store = await with_app(await with_app(await open_store(tmp_path, max_scheduled_per_app=2)), "other")
    first = await keep(store)
    await keep(store)
    with pytest.raises(QueueFull):
        await keep(store)
    other = store.journal.reserve(1)
    await store.schedules.add(notification(other, app="other"), DUE_MS)
    store.schedules.end(first, State.RECALLED, START_MS)
    await keep(store)
    await store.close()


async def test_numbers_given_to_kept_pushes_are_not_given_again_after_a_crash(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    seq = await keep(store)
    number = register(store, "d1")
    newer, written = push(store, number)
    await written
    assert newer > seq
    later, written = broadcast(store)
    await written
    await store.close()
    store = await open_store(tmp_path)
    assert store.journal.reserve(1) > later
    assert Target(token="x" * 22) == store.schedules.notification(seq).target  # type: ignore[union-attr]
    await store.close()
