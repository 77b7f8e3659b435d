"""Logs of IM users in the store, cursors of networks, and what waits to be sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from im_rig import message, outgoing, put_account, put_users, result, user_id
from msgspec.structs import replace
from store_rig import START_MS, Clock, open_store

from gateway.config.im_section import Im
from gateway.model.errors import NotFound, QueueFull
from gateway.model.im_people import Item, ItemKind
from gateway.store.im_rows import parse_log_head
from gateway.store.records import Db

A, B = user_id(1), user_id(2)


async def test_lines_come_back_in_their_order_and_only_once(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await put_users(store, 1, 2)
    account = await put_account(store, A)
    number = account.number
    first = store.im_log.append(A, [message(1, number), message(2, number)], account=number, cursor=b"c1")
    assert [item.cursor for item in first.items] == [1, 2]
    assert store.im_log.after(A, 0, 10) == first.items
    await first.done
    again = store.im_log.append(A, [message(2, number), message(3, number)], account=number, cursor=b"c2")
    assert [item.cursor for item in again.items] == [3]
    none = store.im_log.append(A, [message(3, number)], account=number, cursor=b"c3")
    assert none.items == []
    assert store.im_accounts.cursor(number) == b"c3"
    await none.done
    other = store.im_log.append(B, [message(1), message(1, part=1), message(1, number)])
    assert [item.cursor for item in other.items] == [1, 2, 3]
    assert [item.cursor for item in store.im_log.after(A, 1, 1)] == [2]
    await other.done
    await store.close()
    store = await open_store(tmp_path)
    assert store.im_log.after(A, 0, 10) == first.items + again.items
    assert (store.im_log.first(A), store.im_log.last(A)) == (1, 3)
    assert store.im_accounts.cursor(number) == b"c3"
    assert store.im_log.append(A, [message(1, number)], account=number).items == []
    assert [item.cursor for item in store.im_log.append(A, [Item(ItemKind.GAP, START_MS)]).items] == [4]
    assert (store.im_log.first(user_id(7)), store.im_log.last(user_id(7)), store.im_log.after(user_id(7), 0, 9)) == (
        0,
        0,
        [],
    )
    await store.close()


async def test_what_waits_is_over_with_its_result(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await put_users(store, 1)
    account = await put_account(store, A)
    waiting = [outgoing(store, account) for _ in range(3)]
    await store.im_log.put_outgoing(waiting)
    doubt = replace(waiting[0], tries=1, is_in_doubt=True)
    store.im_log.put_outgoing([doubt])
    assert store.im_log.outgoing(account.number) == [doubt, *waiting[1:]]
    assert store.im_log.waiting_accounts() == [account.number]
    settled = store.im_log.settle(waiting[1], result(waiting[1]))
    assert [item.outgoing for item in settled.items] == [waiting[1].number]
    await settled.done
    assert store.im_log.settle(waiting[1], result(waiting[1], "failed")).items == []
    await store.im_log.put_outgoing([replace(waiting[1], tries=2)])
    await store.close()
    store = await open_store(tmp_path)
    assert store.im_log.outgoing(account.number) == [doubt, waiting[2]]
    for each in (waiting[0], waiting[2]):
        await store.im_log.settle(each, result(each)).done
    assert (store.im_log.outgoing(account.number), store.im_log.waiting_accounts()) == ([], [])
    assert [item.state for item in store.im_log.after(A, 0, 9)] == ["sent"] * 3
    assert store._environment.entries(Db.IM_QUEUES) == 0
    await store.close()


async def test_too_many_that_wait_are_refused_together(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    store.configure_im(Im(outgoing_per_account=3))
    await put_users(store, 1)
    account = await put_account(store, A)
    kept = [outgoing(store, account) for _ in range(2)]
    await store.im_log.put_outgoing(kept)
    with pytest.raises(QueueFull):
        store.im_log.put_outgoing([outgoing(store, account) for _ in range(2)])
    assert store.im_log.outgoing(account.number) == kept
    kept.append(outgoing(store, account))
    await store.im_log.put_outgoing([*kept])
    assert store.im_log.outgoing(account.number) == kept
    await store.im_accounts.remove_account(account.number)
    assert store.im_log.outgoing(account.number) == []
    await store.im_log.put_outgoing([replace(kept[0], tries=1)])
    with pytest.raises(NotFound):
        store.im_log.put_outgoing([outgoing(store, account)])
    assert store.im_log.settle(kept[0], result(kept[0], "failed")).items
    assert [store._environment.entries(db) for db in (Db.IM_OUTGOING, Db.IM_QUEUES, Db.IM_CURSORS)] == [0, 0, 0]
    await store.close()


async def test_a_log_has_a_most_in_bytes_too_whoever_fills_it(tmp_path: Path) -> None:
    clock = Clock()
    store = await open_store(tmp_path, clock)
    store.configure_im(Im(history_bytes=65_536))
    await put_users(store, 1)
    for number in range(40):
        await store.im_log.append(A, [message(number, text="x" * 10_000)]).done
    while store.sweep():
        await store.committer.flush()
    await store.committer.flush()
    kept = store.im_log.after(A, 0, 100)
    assert [item.cursor for item in kept] == [35, 36, 37, 38, 39, 40]
    rows = list(store._environment.scan(Db.IM_LOG))
    assert sum(len(key) + len(line) for key, line in rows) == parse_log_head(store._environment.get(Db.IM_LOGS, A)).size
    assert store._environment.entries(Db.IM_SEEN) == 6
    await store.close()


async def test_the_oldest_lines_go_and_cursors_go_on(tmp_path: Path) -> None:
    clock = Clock()
    store = await open_store(tmp_path, clock)
    store.configure_im(Im(history_days=1, history_items=100))
    await put_users(store, 1)
    for start in range(0, 250, 50):
        await store.im_log.append(A, [message(n) for n in range(start, start + 50)]).done
        clock.now_ms += 60_000
    while store.sweep():
        await store.committer.flush()
    await store.committer.flush()
    assert (store.im_log.first(A), store.im_log.last(A)) == (151, 250)
    assert store.im_log.append(A, [message(200)]).items == []  # it is there
    assert [item.cursor for item in store.im_log.append(A, [message(0)]).items] == [251]  # long gone
    clock.now_ms += 3 * 86_400_000
    while store.sweep():
        await store.committer.flush()
    await store.committer.flush()
    assert (store.im_log.first(A), store.im_log.last(A)) == (0, 251)
    assert [store._environment.entries(db) for db in (Db.IM_LOG, Db.IM_SEEN, Db.IM_TASKS)] == [0, 0, 0]
    await store.close()
    store = await open_store(tmp_path, clock)
    assert [item.cursor for item in store.im_log.append(A, [message(0)]).items] == [252]
    await store.close()
