"""A start rebuilds what was in RAM, and what the rows say one by one: after changes, failed commits and kills."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest
from store_rig import APP, broadcast, config, disk_of, fail_commit, open_store, push, register, with_app

from gateway._native.batches import Batches
from gateway._native.intake import Batch, Router
from gateway._native.pending import Pending
from gateway.model.errors import ConfigError, StoreUnavailable
from gateway.model.registration import build_token
from gateway.store import Store
from gateway.store.environment import Environment
from gateway.store.records import PUT, Db, pack_u32, parse_journal_head, parse_registration, unpack_u32, unpack_u64

OTHER = "other"
#: more than the loader remembers, and the longest there may be
VERSIONS = [*(f"1.{minor}" for minor in range(700)), "2.0+" + "x" * 60]


class Facts(msgspec.Struct):
    """All that RAM holds of one registration."""

    token: bytes
    app: str
    version: str
    signed_out: bool
    plain: bool
    cursor: int


def takes_the_lane(store: Store, token: bytes, app: str) -> bool:
    """Whether the native lane lets a push to it wait while its device is away: only where it is plain."""
    pending = Pending(0)
    packed = msgspec.msgpack.encode([{"target": {"token": build_token(token)}, "title": "t"}])
    bounds = {"most": 1, "push_bytes": 4_096, "inline_bytes": 4_096, "pending_of_one": 9, "ttl_s": 60}
    number = store.directory.app_number(app)
    registry = store.directory.registry
    batch = Batch(registry, pending, Batches(pending), [packed], number, **bounds, most_ttl_s=600)
    _, _, odd = batch.accept(1, 0, 3_000, 30_000, True, Router([], set(), {}))
    return odd == []


def held(store: Store) -> dict[int, Facts]:
    """From RAM."""
    registry, found = store.directory.registry, {}
    for part in store.directory.everybody():
        for number in part:
            registration = store.directory.registration(number)
            assert registration is not None
            group = registry.group(number)
            assert registry.find(registration.token) == number
            out = registry.signed_out(number)
            found[number] = Facts(
                registration.token,
                store.directory.group_app(group),
                store.directory.group_cohort(group).version,
                out,
                not out and takes_the_lane(store, registration.token, registration.app),
                registry.cursor(number),
            )
    return found


def written(folder: Path) -> dict[int, Facts]:
    """From the rows, one by one; cursors are left at 0."""
    environment = Environment.open(config(folder), readonly=True)
    try:
        rows = {unpack_u32(key): parse_registration(raw) for key, raw in environment.scan(Db.REGISTRATIONS)}
    finally:
        environment.close()
    return {
        number: Facts(r.token, r.app, r.version, r.signed_out, r.fallback is None and not r.signed_out, 0)
        for number, r in rows.items()
    }


def journaled(folder: Path) -> dict[int, tuple[int, int]]:
    """Deliveries that are their own notification: sequence → (registration, expiry), from the rows one by one."""
    environment = Environment.open(config(folder), readonly=True)
    try:
        heads = {unpack_u64(key): parse_journal_head(raw) for key, raw in environment.scan(Db.JOURNAL)}
    finally:
        environment.close()
    return {seq: (head.registration, head.expires_s) for seq, head in heads.items()}


async def change_at_random(store: Store, rng: random.Random, numbers: list[int]) -> None:
    what = rng.random()
    if what < 0.45 or not numbers:
        labels: dict[str, Any] = rng.choice([{}, {}, {"fallback": []}, {"tags": ["red"]}, {"alias": "a"}])
        app, device = rng.choice([APP, OTHER]), f"d{rng.randrange(400)}"
        number = register(store, device, rng.choice(VERSIONS), app=app, **labels)
        if number not in numbers:
            numbers.append(number)
        return
    number = rng.choice(numbers)
    if what < 0.6:
        store.directory.sign_out(number)
    elif what < 0.7:
        store.directory.update(number, fallback=[])
    elif what < 0.8:
        store.directory.revoke(number)
        numbers.remove(number)
    elif what < 0.95:
        push(store, number)
    else:
        seq, _ = broadcast(store)
        store.broadcasts.acked(seq, rng.sample(numbers, min(3, len(numbers))), 0)


@pytest.mark.parametrize("seed", range(4))
async def test_a_start_after_a_kill_holds_what_ram_held_and_what_the_rows_say(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    store = await with_app(await with_app(await open_store(tmp_path / "0", sync=False)), OTHER)
    disk = disk_of(store)
    numbers: list[int] = []
    for kill in range(1, 4):
        for _ in range(8):
            for _ in range(rng.randrange(60)):
                await change_at_random(store, rng, numbers)
            if rng.random() < 0.3:
                await fail_commit(store, disk)
                disk.error = None
                assert await store.committer.probe()
                numbers = [number for number in numbers if store.directory.registry.has(number)]
                numbers += sorted(set(held(store)) - set(numbers))
        await store.committer.flush()
        folder = tmp_path / str(kill)
        await store.backup(folder)  # what a process killed now would leave
        before = held(store)
        rows = written(folder)
        singles = journaled(folder)
        pending = {seq: store._pending.get(seq) for seq in singles}
        await store.close()

        store = await open_store(folder, sync=False)
        disk = disk_of(store)
        after = held(store)
        assert after == before
        assert {number: msgspec.structs.replace(facts, cursor=0) for number, facts in after.items()} == rows
        assert len(store._pending) == len(singles)
        assert {seq: store._pending.get(seq) for seq in singles} == pending
        for seq, (registration, expires_s) in singles.items():
            assert store._pending.get(seq) == (registration, seq, 0, 0, expires_s)
    await store.close()


async def test_a_commit_cut_off_by_a_kill_leaves_nothing_of_itself(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path / "a"))
    kept = register(store, "kept", fallback=[])
    await store.committer.flush()
    disk = disk_of(store)
    disk.error = lmdb.Error("mdb_txn_commit: Input/output error")
    _, _, lost = store.directory.register("lost", APP, "9.9", "")
    changed = store.directory.update(kept, fallback=None, tags=["red"])
    assert lost is not None
    for answer in (lost, changed):
        with pytest.raises(StoreUnavailable):
            await answer
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # what a process killed now would leave
    after = await open_store(tmp_path / "b")
    assert list(held(after)) == [kept]
    assert not held(after)[kept].plain
    await after.close()
    await store.close()


@pytest.mark.parametrize("damage", ["a cut row", "a token twice"])
async def test_rows_that_contradict_each_other_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "one")
    await store.committer.flush()
    raw = store._environment.get(Db.REGISTRATIONS, pack_u32(number))
    assert raw is not None
    row = (PUT, Db.REGISTRATIONS, pack_u32(number + 1), raw[:21] if damage == "a cut row" else raw)
    await store.committer.accept([row])
    await store.close()
    with pytest.raises(ConfigError, match="damaged") as refused:
        await open_store(tmp_path)
    assert refused.value.field == "store.path"
    # the folder is free again, and nothing was repaired behind the operator's back
    environment = Environment.open(config(tmp_path), readonly=True)
    assert environment.entries(Db.REGISTRATIONS) == 2
    environment.close()
