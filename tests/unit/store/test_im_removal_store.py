"""Users and accounts of IM that are removed: nothing of theirs is answered from that moment, all of it goes in slices,
and what is another user's stays.
"""

from __future__ import annotations

from pathlib import Path

from im_rig import message, outgoing, put_account, put_users, result, user, user_id
from store_rig import START_MS, Clock, open_store

from gateway.config.im_section import Im
from gateway.metrics import Metric, Metrics
from gateway.model.errors import NotFound
from gateway.model.im_people import Friend, FriendState, Group
from gateway.store import Store
from gateway.store.im_users import REMOVED_AT_ONCE
from gateway.store.records import Db

A, B, C = user_id(1), user_id(2), user_id(3)
OURS = [db for db in Db if db.name.startswith("IM_")]


async def sweep_all(store: Store) -> int:
    slices = 1
    while store._im.sweep():
        slices += 1
        await store.committer.flush()
    await store.committer.flush()
    return slices


async def furnish(store: Store, whose: bytes, others: list[bytes]) -> int:
    account = await put_account(store, whose)
    await store.im_users.put_session(b"s" + whose, whose, START_MS + 1_000_000)
    await store.im_users.sign_in(whose, whose)
    friends = [Friend(whose, other, FriendState.FRIENDS, START_MS) for other in others]
    friends += [Friend(other, whose, FriendState.FRIENDS, START_MS) for other in others]
    await store.im_users.put_friends(friends)
    lines = [message(n, account.number) for n in range(5)]
    await store.im_log.append(whose, lines, account=account.number, cursor=b"here").done
    await store.im_log.put_outgoing([outgoing(store, account) for _ in range(3)])
    return account.number


async def test_nothing_of_a_removed_user_is_left(tmp_path: Path) -> None:
    metrics = Metrics(process=False)
    store = await open_store(tmp_path, metrics=metrics)
    await put_users(store, 2, 3)
    before = {db: store._environment.entries(db) for db in OURS}
    await put_users(store, 1)
    number = await furnish(store, A, [B, C])
    await store.im_users.put_group(Group(b"g" * 16, "garden", A, (A, B), START_MS))
    await store.im_users.put_group(Group(b"h" * 16, "house", A, (A,), START_MS))
    landed = store.im_users.remove_user(A)
    for _ in range(2):
        assert store.im_users.user(A) is None
        assert [store.im_users.find_user(address) for address in user(1).addresses] == [None, None]
        assert (store.im_users.session(b"s" + A), store.im_users.signed_in(A), store.im_users.devices(A)) == (
            None,
            None,
            [],
        )
        assert (store.im_users.friend(B, A), store.im_users.friend(A, B), store.im_users.groups(A)) == (None, None, [])
        assert (store.im_accounts.accounts(A), store.im_accounts.account(number)) == ([], None)
        assert (store.im_log.after(A, 0, 9), store.im_log.first(A), store.im_log.last(A)) == ([], 0, 0)
        assert (store.im_log.outgoing(number), store.im_log.waiting_accounts()) == ([], [])
        await landed
    (garden,) = store.im_users.groups(B)
    assert (garden.members, garden.owner) == ((B,), B)
    assert store.im_users.group(b"h" * 16) is None
    assert store.im_log.append(A, [message(9)], account=number, cursor=b"there").items == []
    assert metrics.value(Metric.IM_LINES_DROPPED, label="user_gone") == 1
    await store.im_users.put_group(Group(b"g" * 16, "garden", B, (), START_MS))
    await sweep_all(store)
    store._clock.now_ms += 40 * 86_400_000  # type: ignore[attr-defined]
    await sweep_all(store)
    assert {db: store._environment.entries(db) for db in OURS} == before
    await put_users(store, 1)  # the addresses are free
    assert store.im_log.append(A, [message(0)]).items[0].cursor == 1
    await store.close()


async def test_a_user_with_much_goes_in_slices_also_over_a_restart(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    store.configure_im(Im(outgoing_per_account=5_000))
    await put_users(store, 1, 2)
    number = await furnish(store, A, [B])
    await furnish(store, B, [])
    (account,) = store.im_accounts.accounts(A)
    for start in range(0, 3_000, 500):
        lines = [message(start + n, account.number, text="x") for n in range(500)]
        await store.im_log.append(A, lines).done
        await store.im_log.put_outgoing([outgoing(store, account) for _ in range(500)])
    written: list[int] = []
    apply = store._environment.apply

    def watch(groups: object) -> None:
        rows = [list(group) for group in groups]  # type: ignore[attr-defined]
        written.append(sum(len(group) for group in rows))
        apply(rows)

    store._environment.apply = watch  # type: ignore[assignment, method-assign]
    await store.im_users.remove_user(A)
    assert store._environment.entries(Db.IM_LOG) > 2_000
    await store.close()
    assert max(written) < REMOVED_AT_ONCE * 2
    store = await open_store(tmp_path)
    (of_the_other,) = store.im_accounts.accounts(B)
    assert (store.im_log.outgoing(number), store.im_log.waiting_accounts()) == ([], [of_the_other.number])
    assert store.im_log.after(A, 0, 9) == []
    assert await sweep_all(store) > 5
    assert len(store.im_log.after(B, 0, 9)) == 5
    assert len(store.im_log.outgoing(store.im_accounts.accounts(B)[0].number)) == 3
    entries = [store._environment.entries(db) for db in (Db.IM_LOG, Db.IM_SEEN, Db.IM_OUTGOING, Db.IM_QUEUES)]
    assert entries == [5, 5, 3, 1]
    await store.close()


async def test_a_removed_account_takes_its_queue_along_and_its_name_is_free(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    store.configure_im(Im(outgoing_per_account=5_000))
    await put_users(store, 1)
    number = await furnish(store, A, [])
    (account,) = store.im_accounts.accounts(A)
    for _ in range(5):
        await store.im_log.put_outgoing([outgoing(store, account) for _ in range(500)])
    one = store.im_log.outgoing(number)[7]
    landed = store.im_accounts.remove_account(number)
    await put_account(store, A)
    await landed
    assert (store.im_accounts.account(number), store.im_accounts.cursor(number)) == (None, None)
    assert (store.im_log.outgoing(number), store.im_log.waiting_accounts()) == ([], [])
    # whoever had it under way says how it ended, once
    assert len(store.im_log.settle(one, result(one, "failed")).items) == 1
    assert store.im_log.settle(one, result(one)).items == []
    # the network's last word comes too late: the line is kept, the cursor is not
    assert len(store.im_log.append(A, [message(77, number)], account=number, cursor=b"late").items) == 1
    assert await sweep_all(store) >= 2
    entries = [store._environment.entries(db) for db in (Db.IM_ACCOUNTS, Db.IM_OUTGOING, Db.IM_QUEUES, Db.IM_CURSORS)]
    assert entries == [1, 0, 0, 0]
    await store.close()


async def test_a_long_log_is_cut_soon(tmp_path: Path) -> None:
    metrics, clock = Metrics(process=False), Clock()
    store = await open_store(tmp_path, clock, metrics)
    store.configure_im(Im(history_items=100))
    await put_users(store, 1)
    store._sweep_at_s = 1e9
    await store.im_log.append(A, [message(n) for n in range(100)]).done
    assert store._sweep_at_s == 1e9
    await store.im_log.append(A, [message(n) for n in range(100, 2_600)]).done
    assert store._sweep_at_s == 0.0
    assert await sweep_all(store) > 2
    assert [item.cursor for item in store.im_log.after(A, 0, 1_000)] == list(range(2_501, 2_601))
    assert metrics.value(Metric.IM_LINES_SWEPT, label="too_many") == 2_500
    again = store.im_log.append(A, [message(n) for n in range(0, 2_600, 100)])
    assert len(again.items) == 25  # all but the one that is there
    assert metrics.value(Metric.IM_DUPLICATES) == 1
    await store.close()


async def test_nobody_is_made_of_what_is_gone(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await put_users(store, 1)
    (account,) = [await put_account(store, A)]
    await store.im_users.remove_user(A)
    for refused in (
        lambda: store.im_accounts.unseal(account),
        lambda: store.im_accounts.put_account(account),
        lambda: store.im_users.sign_in(b"t" * 16, A),
    ):
        try:
            refused()
        except NotFound:
            continue
        raise AssertionError("that should have been refused")
    await store.close()
