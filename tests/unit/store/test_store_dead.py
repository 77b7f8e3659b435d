"""Revoked tokens are remembered with time and reason, for as long as is set, and cost no RAM."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_rig import START_MS, Clock, config, open_store, with_app
from web_push_keys import POINT

from gateway.model.errors import InvalidField, StoreUnavailable
from gateway.model.registration import DeadToken, Loss, Whereabouts
from gateway.store import Store
from gateway.store.checks import check_vapid_key
from gateway.store.environment import Environment
from gateway.store.records import (
    SCHEMA,
    Db,
    build_dead,
    dead_key,
    dead_order_key,
    pack_u32,
    parse_dead,
    parse_dead_order_key,
)

NOBODY = b"n" * 16


async def add(store: Store, device: str, **fields: str) -> tuple[int, bytes]:
    registration, _, written = store.directory.register(device, "shop", "1.0", "", **fields)
    if written is not None:
        await written
    return registration.number, registration.token


async def test_live_revoked_and_never_there(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number, token = await add(store, "d")
    _, other = await add(store, "e")
    assert store.directory.locate(token) == Whereabouts(number, None)
    assert store.directory.locate(NOBODY) == Whereabouts(-1, None)
    gone = store.directory.revoke(number, Loss.FORGOTTEN)
    wanted = Whereabouts(-1, DeadToken("shop", START_MS, Loss.FORGOTTEN))
    assert store.directory.locate(token) == wanted  # at once
    await gone
    assert store.directory.locate(token) == wanted
    assert not store.directory.dead._fresh
    again, new = await add(store, "d")
    assert new != token
    assert store.directory.locate(token) == wanted
    assert store.directory.locate(new).number == again
    await store.close()
    store = await open_store(tmp_path)
    assert store.directory.locate(token) == wanted
    assert store.directory.locate(other).number > 0
    await store.close()


async def test_a_look_up_reads_the_same_whatever_comes_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await with_app(await open_store(tmp_path))
    _, live = await add(store, "d")
    number, dead = await add(store, "e")
    await store.directory.revoke(number)
    asked: list[int] = []
    get = store._environment.get
    monkeypatch.setattr(store._environment, "get", lambda db, key: (asked.append(db), get(db, key))[1])
    for token in (live, dead, NOBODY):
        store.directory.locate(token)
    assert asked == [Db.DEAD] * 3
    monkeypatch.undo()
    await store.close()


async def test_a_revocation_that_can_not_be_written_leaves_it_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await with_app(await open_store(tmp_path))
    number, token = await add(store, "d")

    def full(*_: object) -> None:
        raise lmdb.MapFullError("full")

    with monkeypatch.context() as patch:
        patch.setattr(store._environment, "apply", full)
        with pytest.raises(StoreUnavailable):
            await store.directory.revoke(number)
    assert store.directory.locate(token) == Whereabouts(number, None)
    assert not store.directory.dead._fresh
    with pytest.raises(StoreUnavailable):
        store.directory.revoke(number)  # not writable: refused at once
    assert not store.directory.dead._fresh
    await store.close()


async def test_they_are_forgotten_after_their_time(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock, dead_tokens_days=1))
    early, token = await add(store, "d")
    await store.directory.revoke(early)
    clock.now_ms += 43_200_000
    late, other = await add(store, "e")
    await store.directory.revoke(late)
    assert not store.directory.dead.sweep(clock.now_ms)
    clock.now_ms += 50_000_000
    assert store.directory.locate(token) == Whereabouts()  # past its time, though its row is there
    assert not store.directory.dead.sweep(clock.now_ms)
    await store.committer.flush()
    assert store._environment.entries(Db.DEAD) == 2
    dead = store.directory.locate(other).dead
    assert dead is not None
    assert dead.reason is Loss.REVOKED
    await store.close()


async def test_a_store_from_before_is_taken_over_and_can_be_read_before_that(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number, token = await add(store, "d")
    await store.close()
    environment = lmdb.open(str(tmp_path), max_dbs=len(Db) + 1)
    with environment.begin(write=True) as txn:
        txn.drop(environment.open_db(b"dead", txn=txn))
        txn.put(b"schema", pack_u32(2), db=environment.open_db(b"meta", txn=txn))
    environment.close()
    older = Environment.open(config(tmp_path), readonly=True)
    assert older.get(Db.DEAD, dead_key(token)) is None
    older.close()
    store = await open_store(tmp_path)
    assert store._environment.get(Db.META, b"schema") == pack_u32(SCHEMA)
    assert store.directory.locate(NOBODY) == Whereabouts()
    await store.directory.revoke(number)
    assert store.directory.locate(token).dead is not None
    await store.close()


async def test_a_registration_is_locked_to_a_key_and_unlocked(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))

    def lock_of(number: int) -> str:
        registration = store.directory.registration(number)
        assert registration is not None
        return registration.vapid_key

    number, _ = await add(store, "d", vapid_key=POINT)
    assert lock_of(number) == POINT
    assert (await add(store, "d"))[0] == number  # None leaves it
    await store.directory.update(number, alias="x")
    assert lock_of(number) == POINT
    await store.close()
    store = await open_store(tmp_path)
    assert lock_of(number) == POINT
    await add(store, "d", vapid_key="")
    assert lock_of(number) == ""
    with pytest.raises(InvalidField) as caught:
        store.directory.register("d", "shop", "1.0", "", vapid_key="nonsense")
    assert caught.value.field == "vapid_key"
    await store.close()


@given(st.text(max_size=90))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    try:
        check_vapid_key(text)
    except InvalidField:
        return
    assert text == "" or len(text) == 87


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**62), st.sampled_from(Loss), st.binary(min_size=16, max_size=16))
def test_rows_are_read_back(app: int, at_ms: int, reason: Loss, token: bytes) -> None:
    assert parse_dead(build_dead(app, at_ms, reason)) == (app, at_ms, reason)
    assert parse_dead_order_key(dead_order_key(at_ms % 2**32, token)) == (at_ms % 2**32, token)
    assert parse_dead_order_key(dead_key(token)) is None
    assert dead_order_key(2**32 - 1, token) < dead_key(token)
