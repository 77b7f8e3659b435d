"""Subscribers on the disk: sealed, there again after a restart, undone where a commit failed, swept in time (C7)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from store_rig import Clock, disk_of, open_store, with_app

from gateway.model.errors import ConfigError, StoreUnavailable
from gateway.model.subscriber import IssuedId, NetworkId, NetworkIdKind, SubscriberRecord
from gateway.model.subscriber_records import News, SubscriberChange
from gateway.store import Store
from gateway.store.records import PUT, Db
from gateway.store.subscribers import SubscriberStore

IMSI = NetworkId(NetworkIdKind.IMSI, "001010123456789")
MSISDN = NetworkId(NetworkIdKind.MSISDN, "+491511234567")
IP = NetworkId(NetworkIdKind.IP, "10.11.12.13")
HOST = "push.example.com"
DBS = (Db.SUBSCRIBERS, Db.NETWORK_IDS, Db.OPAQUE_IDS, Db.OPAQUE_HISTORY, Db.OPAQUE_ENDS)


def issued(store: Store, letter: str, until_ms: int = 0, kinds: int = 1) -> IssuedId:
    return IssuedId(letter * 26, HOST, kinds, 1, "", store._clock(), until_ms)


def record(*network: NetworkId, ids: tuple[IssuedId, ...] = ()) -> SubscriberRecord:
    return SubscriberRecord(tuple(each.pair for each in network), ids)


async def put(
    store: Store,
    after: SubscriberRecord | None,
    before: SubscriberRecord | None = None,
    handle: bytes = b"",
    why: str = "",
) -> bytes:
    handle = handle or secrets.token_bytes(16)
    await store.subscribers.write([SubscriberChange(handle, before, after, why)])
    return handle


def rows_of(store: Store) -> list[int]:
    return [store._environment.entries(db) for db in DBS]


async def test_it_is_there_after_a_restart_and_nothing_of_it_is_readable(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    kept = record(IMSI, MSISDN, IP, ids=(issued(store, "a"), issued(store, "b", kinds=2)))
    handle = await put(store, kept)
    await store.close()
    raw = (tmp_path / "data.mdb").read_bytes()
    for shown in (IMSI.value, MSISDN.value, MSISDN.value[1:], IP.value, "a" * 26, "b" * 26, HOST):
        assert shown.encode() not in raw
    store = await open_store(tmp_path)
    links = [row for db in DBS[1:] for row in store._environment.scan(db)]
    assert not [row for row in links if handle in row[0] + row[1]]  # which ids belong together is not readable either
    subscribers = store.subscribers
    assert {subscribers.find(each) for each in (IMSI, MSISDN, IP)} == {handle}
    assert subscribers.by_local("a" * 26) == subscribers.by_local("b" * 26) == (handle, kept)
    assert subscribers.by_local("c" * 26) is None
    assert subscribers.find(NetworkId(NetworkIdKind.IMPI, IMSI.value)) is None  # of another kind
    await store.close()


async def test_nothing_is_read_at_start_and_nothing_stays_in_ram(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(tmp_path)
    for n in range(50):
        network = NetworkId(NetworkIdKind.IMSI, f"00101{n:010d}")
        await put(store, record(network, ids=(IssuedId(f"{n:026d}", HOST, 1, 1, "", 0, 0),)))
    assert store.subscribers._fresh == {}
    await store.close()
    asked: list[Db] = []

    def scan(self: Any, db: Db, *args: Any, **options: Any) -> Iterator[tuple[bytes, bytes]]:
        asked.append(db)
        return plain(self, db, *args, **options)

    plain = type(store._environment).scan
    monkeypatch.setattr(type(store._environment), "scan", scan)
    opened: list[bytes] = []
    monkeypatch.setattr("gateway.store.subscriber_rows.SubscriberRows.open_record", lambda *a: opened.append(a[1]))
    store = await open_store(tmp_path)
    assert not set(asked) & set(DBS)
    assert opened == []
    await store.close()


async def test_a_failed_commit_is_undone_and_the_ones_behind_it(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    first = record(IMSI, ids=(issued(store, "a"),))
    handle = await put(store, first)
    disk = disk_of(store)
    disk.error = OSError(28, "full")
    second = replace(first, network=(*first.network, MSISDN.pair), ids=(issued(store, "b"),))
    third = replace(second, ids=())
    one = store.subscribers.write([SubscriberChange(handle, first, second, "replaced")])
    assert store.subscribers.by_local("b" * 26) == (handle, second)  # seen at once
    assert store.subscribers.by_local("a" * 26) is None
    two = store.subscribers.write([SubscriberChange(handle, second, third, "revoked")])
    for written in (one, two):
        with pytest.raises(StoreUnavailable):
            await written
    assert store.subscribers._fresh == {}
    assert store.subscribers.read(handle) == first
    assert store.subscribers.by_local("a" * 26) == (handle, first)
    assert store.subscribers.by_local("b" * 26) is None
    assert store.subscribers.find(MSISDN) is None
    with pytest.raises(StoreUnavailable):
        store.subscribers.write([SubscriberChange(handle, first, third)])
    disk.error = None
    await store.committer.probe()
    await put(store, second, first, handle, "replaced")
    assert store.subscribers.find(MSISDN) == handle
    assert [line.why for line in store.subscribers.past("a" * 26, 10)] == ["replaced"]
    await store.close()


async def test_a_later_write_is_seen_while_an_earlier_one_lands(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    first = record(IMSI)
    handle = secrets.token_bytes(16)
    one = store.subscribers.write([SubscriberChange(handle, None, first)])
    await one
    second, third = replace(first, out=("*",)), replace(first, out=("app:a",))
    two = store.subscribers.write([SubscriberChange(handle, first, second)])
    await store.committer.flush()
    three = store.subscribers.write([SubscriberChange(handle, second, third)])
    await two
    assert store.subscribers.read(handle) == third
    await three
    assert store.subscribers.read(handle) == third
    await store.close()


async def test_what_one_loses_another_has_in_the_same_commit(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    loser, winner = record(IMSI, MSISDN), record(IP)
    a, b = await put(store, loser), await put(store, winner)
    after_a, after_b = record(IMSI), record(IP, MSISDN)
    for order in (1, -1):
        changes = [SubscriberChange(a, loser, after_a), SubscriberChange(b, winner, after_b)][::order]
        await store.subscribers.write(changes)
        assert (store.subscribers.find(IMSI), store.subscribers.find(MSISDN)) == (a, b)
        await store.subscribers.write([SubscriberChange(b, after_b, winner), SubscriberChange(a, after_a, loser)])
        assert store.subscribers.find(MSISDN) == a
    await store.close()


async def test_history_says_what_an_id_stood_for_and_when(tmp_path: Path) -> None:
    clock = Clock()
    store = await open_store(tmp_path, clock)
    start = clock.now_ms
    first = record(IMSI, MSISDN, ids=(issued(store, "a", until_ms=start + 90_000),))
    handle = await put(store, first)
    clock.now_ms += 1_000
    impi = NetworkId(NetworkIdKind.IMPI, "user@ims.example.com")
    second = replace(first, network=(*first.network, impi.pair))
    await put(store, second, first, handle)
    third = replace(second, network=(*second.network, IP.pair))  # an O-TMSI does not stand for it
    await put(store, third, second, handle)
    clock.now_ms += 1_000
    await put(store, replace(third, ids=()), third, handle, "revoked")
    for _ in range(2):
        lines = store.subscribers.past("a" * 26, 10)
        assert [(line.network, line.from_ms - start, line.until_ms - start, line.why) for line in lines] == [
            ((IMSI,), 0, 1_000, "changed"),
            ((IMSI, impi), 1_000, 2_000, "revoked"),
        ]
        await store.close()
        store = await open_store(tmp_path, clock)
    assert store.subscribers.past("b" * 26, 10) == []
    await store.close()


async def test_lines_of_the_same_millisecond_are_all_kept(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    before = record(IMSI, ids=(issued(store, "a"),))
    handle = await put(store, before)
    for n in range(5):
        after = replace(before, network=(*before.network, (int(NetworkIdKind.IMPI), f"u{n}@example.com")))
        await put(store, after, before, handle)
        before = after
    assert len(store.subscribers.past("a" * 26, 10)) == 6
    assert len(store.subscribers.past("a" * 26, 3)) == 3
    await store.close()


async def test_lapsed_ids_go_first_and_history_past_its_retention(tmp_path: Path) -> None:
    clock = Clock()
    store = await open_store(tmp_path, clock)
    store.subscribers.history_s = 1_000
    kept = record(IMSI, ids=(issued(store, "a", until_ms=clock.now_ms + 10_000), issued(store, "b")))
    handle = await put(store, kept)
    assert rows_of(store) == [1, 1, 2, 2, 2]
    clock.now_ms += 12_000
    store.sweep()
    await store.committer.flush()
    assert rows_of(store) == [1, 1, 1, 2, 1]
    assert store.subscribers.by_local("a" * 26) is None
    clock.now_ms += 1_001_000
    store.sweep()
    await store.committer.flush()
    assert rows_of(store) == [1, 1, 1, 1, 0]
    assert store.subscribers.past("a" * 26, 10) == []
    assert [line.until_ms for line in store.subscribers.past("b" * 26, 10)] == [0]  # permanent: it has not ended
    await put(store, replace(kept, ids=()), kept, handle, "revoked")
    clock.now_ms += 1_002_000
    while store.sweep():
        await store.committer.flush()
    await store.committer.flush()
    assert rows_of(store) == [1, 1, 0, 0, 0]
    await store.close()


async def test_an_end_that_was_brought_forward(tmp_path: Path) -> None:
    clock = Clock()
    store = await open_store(tmp_path, clock)
    store.subscribers.history_s = 1_000
    long = record(IMSI, ids=(issued(store, "a", until_ms=clock.now_ms + 900_000),))
    handle = await put(store, long)
    short = replace(long, ids=(replace(long.ids[0], until_ms=clock.now_ms + 10_000),))
    await put(store, short, long, handle)
    clock.now_ms += 1_100_000
    for _ in range(3):
        store.sweep()
        await store.committer.flush()
    assert store._environment.entries(Db.OPAQUE_HISTORY) == 0
    clock.now_ms += 2_000_000
    store.sweep()
    await store.committer.flush()
    assert rows_of(store) == [1, 1, 0, 0, 0]
    await store.close()


async def test_the_feed_is_each_apps_own_rises_over_restarts_and_is_swept(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await with_app(await open_store(tmp_path, clock)), "other")
    store.subscribers.news_s = 100
    one, two = issued(store, "a"), issued(store, "b")
    news = [News("shop", one), News("other", one), News("shop", two, ("x",)), News("nobody", one)]
    before = record(IMSI, ids=(one, two))
    handle = secrets.token_bytes(16)
    await store.subscribers.write([SubscriberChange(handle, None, before)], news)
    assert [line.issued for line in store.subscribers.news("other", 0, 10)] == [one]
    assert store.subscribers.news("nobody", 0, 10) == []
    (first,) = store.subscribers.news("shop", 0, 1)
    (second,) = store.subscribers.news("shop", first.cursor, 10)
    assert (second.issued, second.replaces) == (two, ("x",))
    await store.close()
    assert b"b" * 26 not in (tmp_path / "data.mdb").read_bytes()
    clock.now_ms -= 50_000  # a clock that went back
    store = await open_store(tmp_path, clock)
    after = replace(before, out=("*",))
    await store.subscribers.write([SubscriberChange(handle, before, after)], [News("shop", one)])
    (third,) = store.subscribers.news("shop", second.cursor, 10)
    assert third.cursor == second.cursor + 1
    disk = disk_of(store)
    disk.error = OSError(28, "full")
    with pytest.raises(StoreUnavailable):
        await store.subscribers.write([SubscriberChange(handle, after, before)], [News("shop", two)])
    disk.error = None
    await store.committer.probe()
    assert store.subscribers.news("shop", third.cursor, 10) == []
    clock.now_ms += 200_000
    store.subscribers.news_s = 100
    store.sweep()
    await store.committer.flush()
    assert store._environment.entries(Db.OPAQUE_NEWS) == 0
    await store.close()


async def test_forgetting_leaves_history_alone(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    kept = record(IMSI, MSISDN, ids=(issued(store, "a"),))
    handle = await put(store, kept)
    await put(store, None, kept, handle, "revoked")
    assert rows_of(store)[:4] == [0, 0, 0, 2]
    assert [line.why for line in store.subscribers.past("a" * 26, 10)] == ["revoked"]
    await store.close()


async def test_a_row_in_anothers_place_and_a_wrong_key_open_nothing(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    a, b = await put(store, record(IMSI)), await put(store, record(MSISDN))
    raw = store._environment.get(Db.SUBSCRIBERS, a)
    assert raw is not None
    await store.committer.accept([(PUT, Db.SUBSCRIBERS, b, raw)])
    assert store.subscribers.read(a) == record(IMSI)
    with pytest.raises(ConfigError, match=r"keys\.json"):
        store.subscribers.read(b)
    stranger = SubscriberStore(store._environment, store.committer, b"k" * 32, store._clock)
    assert stranger.find(IMSI) is None  # another key has other hashes
    with pytest.raises(ConfigError) as refused:
        stranger.read(a)
    assert IMSI.value not in refused.value.message
    await store.close()


async def test_keys_are_not_made_anew_beside_subscribers(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await put(store, record(IMSI))
    await store.close()
    (tmp_path / "keys.json").unlink()
    with pytest.raises(ConfigError, match=r"keys\.json is missing"):
        await open_store(tmp_path)


async def test_each_look_up_does_the_same_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_store(tmp_path)
    kept = record(IMSI, MSISDN, ids=(issued(store, "a"),))
    await put(store, kept)
    work: list[object] = []
    rows, environment = store.subscribers._rows, store._environment
    get, opened = environment.get, rows._open
    monkeypatch.setattr(environment, "get", lambda db, key: (work.append(db), get(db, key))[1])
    monkeypatch.setattr(rows, "_open", lambda db, key, raw: (work.append((db, len(raw))), opened(db, key, raw))[1])

    def work_of(look: Any, *args: Any) -> list[object]:
        work.clear()
        look(*args)
        return list(work)

    found, missing = (work_of(store.subscribers.by_local, letter * 26) for letter in "ab")
    assert found == missing
    assert len(found) == 4
    subscribers = store.subscribers
    known, unknown = (work_of(lambda each: subscribers.read(subscribers.find(each)), each) for each in (IMSI, IP))
    assert len(known) == len(unknown) == 4
    await store.close()


async def test_an_older_store_has_none_and_takes_some(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.close()
    import lmdb

    environment = lmdb.open(str(tmp_path), max_dbs=len(Db) + 1)
    for db in (*DBS, Db.OPAQUE_NEWS):
        handle = environment.open_db(db.name.lower().encode())
        with environment.begin(write=True) as txn:
            txn.drop(handle)
    environment.close()
    store = await open_store(tmp_path)
    assert store.subscribers.find(IMSI) is None
    await put(store, record(IMSI))
    await store.close()


async def test_ends_are_told_in_order_and_in_pages(tmp_path: Path) -> None:
    clock = Clock()
    store = await open_store(tmp_path, clock)
    now_s = clock.now_ms // 1_000
    handles = []
    for n in range(5):
        network = NetworkId(NetworkIdKind.IMSI, f"00101{n:010d}")
        # three of one second, and one that never ends
        until_ms = 0 if n == 4 else clock.now_ms + (60_000 if n < 3 else 90_000)
        handles.append(await put(store, record(network, ids=(issued(store, "abcde"[n], until_ms),))))
    ending = store.subscribers.ending
    found = ending(b"", now_s, now_s + 61, 100)
    assert {handle for _, handle in found} == set(handles[:3])
    assert [position for position, _ in found] == sorted(position for position, _ in found)
    paged, position = [], b""
    while page := ending(position, now_s, now_s + 1_000, 2):
        assert len(page) <= 2
        paged += [handle for _, handle in page]
        position = page[-1][0]
    assert paged[:3] == [handle for _, handle in found]
    assert paged[3:] == handles[3:4]
    before = store.subscribers.read(handles[3])
    await put(store, replace(before, ids=()), before, handles[3], "revoked")  # type: ignore[type-var]
    assert [handle for _, handle in ending(b"", now_s + 62, now_s + 1_000, 9)] == [b""]
    assert ending(b"", now_s + 1_000, now_s + 2_000, 9) == []
    await store.close()
