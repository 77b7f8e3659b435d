"""IM in the store over backups, older stores, wrong keys, full disks and a real kill: nothing is half there, nothing is
there twice, and nothing can be read without its keys.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest
from im_rig import message, outgoing, put_account, put_users, result, user, user_id
from store_rig import (
    START_MS,
    Clock,
    config,
    disk_of,
    fail_commit,
    open_store,
    push,
    register,
    with_app,
)

from gateway.config.im_section import Im
from gateway.metrics import Metric, Metrics
from gateway.model.errors import ConfigError, StoreUnavailable
from gateway.model.im_people import Friend, FriendState, Group
from gateway.store import Store, backup_folder
from gateway.store.environment import Environment
from gateway.store.keys import KEY_FILE, ServerKeys
from gateway.store.records import SCHEMA, Db, pack_u32

A, B = user_id(1), user_id(2)
OURS = [db for db in Db if db.name.startswith("IM_")]


async def furnish(store: Store) -> int:
    """Something in each room; the number of the account."""
    await put_users(store, 1, 2)
    account = await put_account(store, A, name="nightshade")
    await store.im_users.put_session(b"k" * 32, A, START_MS + 1_000_000)
    await store.im_users.sign_in(b"t" * 16, A)
    await store.im_users.put_friends([Friend(A, B, FriendState.FRIENDS, START_MS)])
    await store.im_users.put_group(Group(b"g" * 16, "greenhouse", A, (A, B), START_MS))
    lines = [message(1, account.number, "the tulips are late"), message(2, account.number)]
    await store.im_log.append(A, lines, account=account.number, cursor=b"since-71").done
    await store.im_log.put_outgoing([outgoing(store, account)])
    return account.number


def check(store: Store, number: int) -> None:
    assert store.im_users.user(A) == user(1)
    assert store.im_users.find_user(user(1).addresses[1]) == A
    assert (store.im_users.session(b"k" * 32), store.im_users.signed_in(b"t" * 16)) == (A, A)
    assert [friend.other for friend in store.im_users.friends(A)] == [B]
    assert [group.name for group in store.im_users.groups(B)] == ["greenhouse"]
    (account,) = store.im_accounts.accounts(A)
    assert (account.number, account.name, store.im_accounts.count()) == (number, "nightshade", 1)
    assert store.im_accounts.unseal(account) == {"password": "open sesame"}
    assert store.im_accounts.cursor(number) == b"since-71"
    assert [item.envelope.remote_id for item in store.im_log.after(A, 0, 9) if item.envelope] == ["m1", "m2"]
    assert len(store.im_log.outgoing(number)) == 1


async def test_a_copy_has_everything(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "store")
    number = await furnish(store)
    await store.backup(tmp_path / "copy")
    await store.close()
    backup_folder(config(tmp_path / "store"), tmp_path / "from outside")
    for folder in ("copy", "from outside"):
        copy = await open_store(tmp_path / folder)
        check(copy, number)
        assert copy.im_accounts.reserve() > number
        await copy.close()


async def test_an_operator_sees_how_much_is_kept(tmp_path: Path) -> None:
    metrics = Metrics(process=False)
    store = await open_store(tmp_path, metrics=metrics)
    await furnish(store)
    store._on_tick()
    kept = {what: metrics.value(Metric.IM_KEPT, label=what) for what in ("users", "accounts", "lines", "outgoing")}
    assert kept == {"users": 2, "accounts": 1, "lines": 2, "outgoing": 1}
    await store.close()


async def test_nothing_of_it_is_readable_on_the_disk(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await furnish(store)
    await store.close()
    raw = (tmp_path / "data.mdb").read_bytes()
    shown = ["Marigold", "+4917", "mail.example", "greenhouse", "nightshade", "sesame", "xmpp", "tulips"]
    shown += ["garden@rooms", "basil", "Basil", "since-71", "on my way"]
    for text in shown:
        assert text.encode() not in raw, text


async def test_a_store_from_before_is_taken_over_and_can_be_read_before_that(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    register(store, "phone")
    await store.close()
    environment = lmdb.open(str(tmp_path), max_dbs=len(Db) + 1)
    with environment.begin(write=True) as txn:
        for db in OURS:
            txn.drop(environment.open_db(db.name.lower().encode(), txn=txn))
        meta = environment.open_db(b"meta", txn=txn)
        txn.put(b"schema", pack_u32(4), db=meta)
        txn.delete(b"im_epoch", db=meta)
    environment.close()
    older = Environment.open(config(tmp_path), readonly=True)
    assert older.get(Db.IM_USERS, A) is None
    assert list(older.scan(Db.IM_LOG)) == []
    older.close()
    store = await open_store(tmp_path)
    assert store._environment.get(Db.META, b"schema") == pack_u32(SCHEMA)
    check(store, await furnish(store))
    await store.close()


async def test_keys_of_another_store_are_refused_at_the_start(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "store")
    number = await furnish(store)
    await store.close()
    await (await open_store(tmp_path / "other")).close()
    kept = (tmp_path / "store" / KEY_FILE).read_bytes()
    (tmp_path / "store" / KEY_FILE).write_bytes((tmp_path / "other" / KEY_FILE).read_bytes())
    with pytest.raises(ConfigError, match=r"keys\.json"):
        await open_store(tmp_path / "store")
    (tmp_path / "store" / KEY_FILE).unlink()
    with pytest.raises(ConfigError, match="missing"):
        await open_store(tmp_path / "store")
    (tmp_path / "store" / KEY_FILE).touch(0o600)
    (tmp_path / "store" / KEY_FILE).write_bytes(kept)
    store = await open_store(tmp_path / "store")
    check(store, number)
    await store.close()


async def test_user_keys_are_wrapped_again_and_the_older_key_may_go(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    number = await furnish(store)
    await store.close()
    keys = ServerKeys.load(tmp_path, may_create=False)
    assert keys.rotate_im_key() == 2
    store = await open_store(tmp_path)
    check(store, number)
    while store.sweep():
        await store.committer.flush()
    await store.committer.flush()
    assert {raw[0] for _, raw in store._environment.scan(Db.IM_USER_KEYS)} == {2}
    check(store, number)
    await store.close()
    keys.drop_im_key(1)
    store = await open_store(tmp_path)
    check(store, number)
    await store.close()


async def test_rows_of_one_user_mean_nothing_in_anothers_place(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await put_users(store, 1, 2)
    account = await put_account(store, A)
    await store.im_log.append(A, [message(1)]).done
    line = store._environment.get(Db.IM_LOG, A + (1).to_bytes(8, "big"))
    assert line is not None
    environment = store._environment
    environment.apply([[(0, Db.IM_LOG, B + (1).to_bytes(8, "big"), line)]])
    with pytest.raises(ConfigError):
        store.im_log.after(B, 0, 9)
    other = await put_account(store, B)
    moved = type(account)(other.number, B, "xmpp", "sina", account.sealed, START_MS)
    with pytest.raises(ConfigError):
        store.im_accounts.unseal(moved)
    await store.close()


# --- the disk ----------------------------------------------------------------------------------------------------


async def test_what_a_full_disk_did_not_take_never_was(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    number = await furnish(store)
    disk = disk_of(store)
    (waiting,) = store.im_log.outgoing(number)
    promised = [
        store.im_users.put_user(user(3)),
        store.im_users.remove_session(b"k" * 32),
        store.im_users.sign_in(b"t" * 16, B),
        store.im_users.remove_friends([(A, B)]),
        store.im_log.append(A, [message(3, number)], account=number, cursor=b"since-99").done,
        store.im_log.settle(waiting, result(waiting)).done,
        store.im_users.remove_user(A),
    ]
    assert store.im_users.user(A) is None
    assert store.im_log.after(A, 0, 9) == []
    await fail_commit(store, disk)
    for future in promised:
        with pytest.raises(StoreUnavailable):
            await future
    check(store, number)
    assert store.im_users.user(user_id(3)) is None
    for refused in (
        lambda: store.im_users.put_user(user(3)),
        lambda: store.im_log.append(A, [message(3, number)], account=number, cursor=b"since-99"),
        lambda: store.im_log.settle(waiting, result(waiting)),
        lambda: store.im_users.remove_user(A),
    ):
        with pytest.raises(StoreUnavailable):
            refused()
    assert not store._im.sweep()
    assert len(store._im._unwritten) == 0
    disk.error = None
    assert await store.committer.probe()
    await put_users(store, 3)
    appended = store.im_log.append(A, [message(3, number)], account=number, cursor=b"since-99")
    # its place was given once and may have been seen: it is not given again
    assert appended.items[0].cursor > 4
    await appended.done
    await store.close()
    store = await open_store(tmp_path)
    assert store.im_accounts.cursor(number) == b"since-99"
    assert store.im_log.last(A) == appended.items[0].cursor
    await store.close()


async def test_a_full_map_refuses_lines_and_answers_until_old_ones_make_room(tmp_path: Path) -> None:
    clock = Clock()
    store = await open_store(tmp_path, clock, max_bytes=4 << 20, sync=False)
    number = await furnish(store)
    (waiting,) = store.im_log.outgoing(number)
    kept = 10
    with suppress(StoreUnavailable):
        while kept < 10_000:
            await store.im_log.append(A, [message(kept + 1, text="x" * 4_000)]).done
            kept += 1
    assert 100 < kept < 2_000
    assert not store.journal.writable
    lines = store.im_log.after(A, 0, 10_000)
    assert lines[-1].envelope is not None
    assert lines[-1].envelope.remote_id == f"m{kept}"
    clock.now_ms += 40 * 86_400_000
    for _ in range(10):  # a slice that finds the map full fails; the next goes into the reserve
        store.sweep()
        if await store.committer.probe():
            with suppress(StoreUnavailable):
                await store.committer.flush()
    assert store.journal.writable
    assert store.im_log.after(A, 0, 10_000) == []
    await store.im_log.append(A, [message(n, text="x" * 4_000) for n in range(100)]).done
    await store.im_log.settle(waiting, result(waiting)).done
    await store.close()


async def test_after_a_kill_no_cursor_that_was_shown_is_given_again(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await put_users(store, 1)
    shown = store.im_log.append(A, [message(1), message(2)])
    # as the disk was before that commit: a copy of what is on it now
    store._environment.begin_copy()
    store._environment.copy_to(tmp_path / "killed")
    store._environment.end_copy()
    await shown.done
    await store.close()
    killed = await open_store(tmp_path / "killed")
    assert killed.im_log.last(A) == 0
    appended = killed.im_log.append(A, [message(3)])
    assert appended.items[0].cursor > shown.items[-1].cursor
    await appended.done
    await killed.close()
    clean = await open_store(tmp_path)
    assert clean.im_log.append(A, [message(3)]).items[0].cursor == shown.items[-1].cursor + 1
    await clean.close()


async def test_a_push_of_the_same_turn_is_in_the_same_commit(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    phone = register(store, "phone")
    await put_users(store, 1)
    commits: list[set[int]] = []
    apply = store._environment.apply

    def watch(groups: object) -> None:
        rows = [list(group) for group in groups]  # type: ignore[attr-defined]
        commits.append({row[1] for group in rows for row in group})
        apply(rows)

    store._environment.apply = watch  # type: ignore[assignment, method-assign]
    for n in range(20):
        appended = store.im_log.append(A, [message(n)])
        _, pushed = push(store, phone)
        await appended.done
        assert pushed.done()
    assert [{Db.IM_LOG, Db.JOURNAL} <= dbs for dbs in commits if Db.IM_LOG in dbs] == [True] * 20
    await store.close()


# --- a real kill -------------------------------------------------------------------------------------------------

_WORKER = """
import asyncio, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from im_rig import message, outgoing, put_account, put_users, result, user_id
from msgspec.structs import replace
from store_rig import open_store

async def receive(store, account):
    number = account.number
    said = int(store.im_accounts.cursor(number) or b"0")
    n = max(0, said - 5)  # a network says some of it again
    while True:
        items = [message(n + each, number) for each in range(1, 2 + n % 3)]
        appended = store.im_log.append(account.user, items, account=number, cursor=b"%d" % (n + len(items)))
        for item in appended.items:
            print("shown", number, item.cursor, item.envelope.remote_id, flush=True)
        await appended.done
        n += len(items)
        print("kept", number, n, 0, flush=True)

async def send(store, account):
    for each in store.im_log.outgoing(account.number):
        await store.im_log.settle(each, result(each)).done
        print("over", account.number, each.number, 0, flush=True)
    while True:
        some = [outgoing(store, account) for _ in range(3)]
        await store.im_log.put_outgoing(some)
        await store.im_log.put_outgoing([replace(some[0], tries=1, is_in_doubt=True)])
        for each in some[:2]:
            print("put", account.number, each.number, 0, flush=True)
            settled = store.im_log.settle(each, result(each))
            store.im_log.settle(each, result(each, "failed"))
            await settled.done
            print("over", account.number, each.number, 0, flush=True)

async def main():
    store = await open_store(Path(sys.argv[1]))
    for n in range(1, 5):
        if store.im_users.user(user_id(n)) is None:
            await put_users(store, n)
        if not store.im_accounts.accounts(user_id(n)):
            await put_account(store, user_id(n))
    accounts = [store.im_accounts.accounts(user_id(n))[0] for n in range(1, 5)]
    tasks = [receive(store, account) for account in accounts] + [send(store, account) for account in accounts]
    await asyncio.gather(*tasks)

asyncio.run(main())
"""


async def test_after_a_kill_nothing_is_half_there_and_nothing_is_there_twice(tmp_path: Path) -> None:
    shown: dict[tuple[int, int], str] = {}
    kept: dict[int, int] = {}
    over: set[tuple[int, int]] = set()
    for life in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(tmp_path), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(400 + 131 * life)]
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        for line in lines + rest.splitlines(keepends=True):
            words = line.split()
            if not line.endswith("\n") or len(words) != 4:
                continue
            account, value = int(words[1]), int(words[2])
            if words[0] == "shown":
                # a cursor that was shown stands for the same line for ever
                assert shown.setdefault((account, value), words[3]) == words[3]
            elif words[0] == "kept":
                kept[account] = max(kept.get(account, 0), value)
            elif words[0] == "over":
                over.add((account, value))
    assert len(kept) == 4
    assert len(over) > 50
    store = await open_store(tmp_path)
    store.configure_im(Im())
    for n in range(1, 5):
        (account,) = store.im_accounts.accounts(user_id(n))
        log = store.im_log.after(user_id(n), 0, 1_000_000)
        cursors = [item.cursor for item in log]
        assert cursors == sorted(set(cursors))
        messages = [item.envelope.remote_id for item in log if item.envelope is not None]
        at = int(store.im_accounts.cursor(account.number) or b"0")
        # the cursor is where the lines are, and what was said to be durable is there
        assert at >= kept[account.number]
        assert messages == [f"m{each}" for each in range(1, at + 1)]
        results = [item.outgoing for item in log if item.outgoing]
        assert len(set(results)) == len(results)
        waiting = {each.number for each in store.im_log.outgoing(account.number)}
        assert not waiting & set(results)
        assert {number for whose, number in over if whose == account.number} <= set(results)
        for item in log:
            if item.envelope is not None and (account.number, item.cursor) in shown:
                assert shown[account.number, item.cursor] == item.envelope.remote_id
    for key, count in list(store._environment.scan(Db.IM_QUEUES)):
        rows = [each for each, _ in store._environment.scan(Db.IM_OUTGOING, key) if each.startswith(key)]
        assert int.from_bytes(count, "big") == len(rows)
    assert store.im_log.reserve_outgoing() > max(number for _, number in over)
    await store.close()
