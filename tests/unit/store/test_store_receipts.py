"""The receipts feed, idempotency keys, positions and the sweep of old history."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_rig import (
    APP,
    START_MS,
    Clock,
    broadcast,
    disk_of,
    fail_commit,
    open_store,
    push,
    settle,
    with_app,
)

from gateway.model.cluster import CURSOR_SHIFT
from gateway.model.errors import StoreUnavailable
from gateway.model.outcome import State
from gateway.store.records import PUT, Db, build_receipts, parse_receipts, receipts_key

DAY_MS = 86_400_000


async def test_the_feed_is_each_apps_own_in_commit_order_and_resumes_anywhere(tmp_path: Path) -> None:
    store = await with_app(await with_app(await open_store(tmp_path)), "other")
    mine = [push(store, 1)[0] for _ in range(10)]
    others = [push(store, 2, app="other")[0] for _ in range(4)]
    order = [mine[3], mine[0], mine[7], *mine[1:3], *mine[4:7], *mine[8:]]
    settle(store, *order[:3])
    settle(store, *others[:2], app="other")
    settle(store, *order[3:])
    settle(store, *others[2:], app="other")
    assert store.receipts.after(APP, 0, 100) == [], "only what is durable is told"
    await store.committer.flush()
    for _ in range(2):
        feed = store.receipts.after(APP, 0, 100)
        assert [receipt.outcome.seq for receipt in feed] == order
        assert [receipt.cursor for receipt in feed] == sorted({receipt.cursor for receipt in feed})
        for start in range(len(order)):
            for limit in (1, 3, 100):
                part = store.receipts.after(APP, feed[start].cursor, limit)
                assert part == feed[start + 1 : start + 1 + limit]
        assert [receipt.outcome.seq for receipt in store.receipts.after("other", 0, 100)] == others
        assert store.receipts.after("nobody", 0, 100) == []
        assert [store.receipts.last_cursor(app) for app in (APP, "nobody")] == [feed[-1].cursor, 0]
        assert store.receipts.after(APP, store.receipts.last_cursor(APP), 100) == []
        await store.close()
        store = await open_store(tmp_path)
    await store.close()


async def test_watchers_are_woken_once_a_commit_that_settled_something(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    woken: list[int] = []
    unsubscribe = store.receipts.subscribe(lambda: woken.append(len(store.receipts.after(APP, 0, 10))))
    seqs = [push(store, 1)[0] for _ in range(4)]
    await store.committer.flush()
    assert woken == []
    settle(store, seqs[0])
    settle(store, seqs[1], seqs[2])
    await store.committer.flush()
    assert woken == [3]
    unsubscribe()
    unsubscribe()
    settle(store, seqs[3])
    await store.committer.flush()
    assert woken == [3]
    await store.close()


async def test_receipts_wait_out_trouble_in_order(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    seqs = [push(store, 1)[0] for _ in range(3)]
    await store.committer.flush()
    disk = disk_of(store)
    settle(store, seqs[2])
    await fail_commit(store, disk)
    settle(store, seqs[0])
    assert store.receipts.after(APP, 0, 10) == []
    record = store.receipts.lookup(APP, seqs[2])
    assert record is not None
    assert record.deliveries[0].state == State.ACKED, "look-up tells what is settled at once"
    disk.error = None
    await store.committer.probe()
    settle(store, seqs[1])
    await store.committer.flush()
    assert [receipt.outcome.seq for receipt in store.receipts.after(APP, 0, 10)] == [seqs[2], seqs[0], seqs[1]]
    await store.close()


async def test_positions_are_kept(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    assert store.receipts.saved_cursor("webhook/shop") == 0
    store.receipts.save_cursor("webhook/shop", 7)
    store.receipts.save_cursor("webhook/shop", 12)
    assert store.receipts.saved_cursor("webhook/shop") == 12
    await store.close()
    store = await open_store(tmp_path)
    assert store.receipts.saved_cursor("webhook/shop") == 12
    await store.close()


async def test_an_idempotency_key_is_known_at_once_and_until_it_lapses(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await with_app(await open_store(tmp_path, clock)), "other")
    seq, _ = push(store, 1)
    written = store.receipts.remember(APP, "key", b"hash", seq, START_MS // 1_000 + 60)
    assert store.receipts.recall_idempotent(APP, "key") == (seq, b"hash")
    await written
    await store.close()
    store = await open_store(tmp_path, clock)
    assert store.receipts.recall_idempotent(APP, "key") == (seq, b"hash")
    assert store.receipts.recall_idempotent("other", "key") is None
    assert store.receipts.recall_idempotent(APP, "Key") is None
    clock.now_ms += 60_000
    assert store.receipts.recall_idempotent(APP, "key") is None
    # used again before the old one was swept: the sweep of the old one leaves the new one alone
    await store.receipts.remember(APP, "key", b"other", seq + 1, clock.now_ms // 1_000 + 60)
    clock.now_ms += 1_000
    store.sweep()
    await store.committer.flush()
    assert store.receipts.recall_idempotent(APP, "key") == (seq + 1, b"other")
    assert store._environment.entries(Db.LAPSES) == 1
    clock.now_ms += 100_000
    store.sweep()
    await store.committer.flush()
    assert store._environment.entries(Db.LAPSES) == store._environment.entries(Db.IDEMPOTENCY) == 0
    await store.close()


async def test_a_key_is_forgotten_with_its_push_when_the_commit_fails(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    await store.committer.flush()
    disk = disk_of(store)
    disk.error = OSError(28, "No space left on device")
    seq, commit = push(store, 1)
    written = store.receipts.remember(APP, "key", b"hash", seq, START_MS // 1_000 + 60)
    with pytest.raises(StoreUnavailable):
        await commit
    with pytest.raises(StoreUnavailable):
        await written
    assert store.receipts.recall_idempotent(APP, "key") is None
    await store.close()


async def test_history_past_retention_is_swept_and_nothing_else(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock, history_days=2.0))
    old, _ = push(store, 1)
    old_fan, _ = push(store, 1, 2)
    old_broadcast, _ = broadcast(store)
    waiting, _ = push(store, 1, ttl_s=30 * 86_400)
    settle(store, old, old_fan + 1, old_fan + 2)
    store.broadcasts.end(old_broadcast, State.EXPIRED, clock.now_ms)
    await store.committer.flush()
    clock.now_ms += DAY_MS
    recent, _ = push(store, 1)
    settle(store, recent)
    await store.committer.flush()
    cursor = store.receipts.last_cursor(APP)

    clock.now_ms += DAY_MS + 1_000
    store.sweep()
    await store.committer.flush()
    for seq in (old, old_fan, old_broadcast):
        assert store.receipts.lookup(APP, seq) is None
    assert store.receipts.lookup(APP, recent) is not None
    assert store.receipts.lookup(APP, waiting) is not None
    assert [receipt.outcome.seq for receipt in store.receipts.after(APP, 0, 10)] == [recent]

    clock.now_ms += 2 * DAY_MS
    store.sweep()
    await store.committer.flush()
    for db in (Db.OUTCOMES, Db.RECEIPTS, Db.PUSHES, Db.FIGURES):
        assert store._environment.entries(db) == 0
    await store.close()
    clock.now_ms -= 5 * DAY_MS
    store = await open_store(tmp_path, clock)
    settle(store, push(store, 1)[0])
    await store.committer.flush()
    assert len(store.receipts.after(APP, cursor, 10)) == 1, "an empty feed does not start anew, wherever the clock is"
    await store.close()


@pytest.mark.parametrize("others", [0, 3_000])
async def test_cursors_of_an_app_do_not_tell_how_much_others_have(tmp_path: Path, others: int) -> None:
    clock = Clock()
    store = await with_app(await with_app(await open_store(tmp_path, clock)), "other")
    begin, last = clock.now_ms << CURSOR_SHIFT, store.receipts.last_cursor(APP)
    for _ in range(2):
        mine = [push(store, 1)[0] for _ in range(3)]
        settle(store, mine[0])
        if others:
            store.receipts.feed_packed(store.directory.app_number("other"), bytes(8 * others))
        settle(store, *mine[1:])
    clock.now_ms += 1
    settle(store, push(store, 1)[0])
    await store.committer.flush()
    cursors = [receipt.cursor - begin for receipt in store.receipts.after(APP, 0, 100)]
    assert (last, cursors) == (0, [*range(6), 1 << CURSOR_SHIFT])
    assert store.receipts.last_cursor("other") == 0
    await store.close()


async def test_cursors_go_on_behind_those_that_were_counted_before(tmp_path: Path) -> None:
    """An older version numbered all apps in one row from 1; and a clock may have been ahead."""
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock))
    for before in (4_711, (clock.now_ms + DAY_MS) << CURSOR_SHIFT):
        row = (PUT, Db.RECEIPTS, receipts_key(1, before), build_receipts(clock.now_ms // 1_000, [1]))
        await store.committer.accept([row])
        await store.close()
        store = await open_store(tmp_path, clock)
        assert store.receipts.last_cursor(APP) == before
        seq, _ = push(store, 1)
        settle(store, seq)
        await store.committer.flush()
        assert [receipt.outcome.seq for receipt in store.receipts.after(APP, before, 10)] == [seq]
    await store.close()


async def test_the_sweep_goes_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.receipts.SWEEP_ROWS", 3)
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock, history_days=1.0))
    fans = [push(store, 1, 2)[0] for _ in range(7)]
    for fan in fans:
        settle(store, fan + 1, fan + 2)
    await store.committer.flush()
    clock.now_ms += 2 * DAY_MS
    calls = 0
    while store.sweep():
        await store.committer.flush()
        calls += 1
        assert calls < 100
    await store.committer.flush()
    assert calls >= 2
    assert store._environment.entries(Db.OUTCOMES) == store._environment.entries(Db.PUSHES) == 0
    await store.close()


async def test_ticks_write_behind_and_sweep_by_themselves(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock, tick_s=0.01, history_days=1.0))
    seq, commit = push(store, 1)
    await commit
    settle(store, seq)
    await store.committer.flush()
    store._sweep_at_s = 0.0
    clock.now_ms += 2 * DAY_MS
    async with asyncio.timeout(60):
        while store.receipts.lookup(APP, seq) is not None:
            await asyncio.sleep(0.005)
    await store.close()


@settings(max_examples=200)
@given(st.lists(st.integers(0, 2**64 - 1)), st.integers(0, 2**32 - 1))
def test_receipt_rows_read_as_written(seqs: list[int], at_s: int) -> None:
    assert parse_receipts(build_receipts(at_s, seqs)) == (at_s, tuple(seqs))
