"""One suite for the store's ports on each engine below it. Each story is told to one store and heard from the next:
after a good end, and by another node from the journal and as a standby."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from batch_rig import Links, ack, append, to, token_of
from store_engines import Alone, Engine, OverMemory, OverNats
from store_rig import APP, START_MS, notification, push, register, settle, with_app

from gateway.model.notification import Target
from gateway.model.outcome import State, Step
from gateway.store import Store

ENGINES = ["alone", "memory", "nats"]
WAYS = ["closed", "fresh", "standby"]


@pytest_asyncio.fixture(params=ENGINES)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    engine: Engine
    if request.param == "alone":
        engine = Alone(tmp_path)
    elif request.param == "memory":
        engine = OverMemory(tmp_path)
    else:
        settings: Callable[..., Any] = request.getfixturevalue("fleet_settings")
        engine = OverNats(tmp_path, settings)
    yield engine
    await engine.close()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def again(engine: Engine, way: str) -> Store:
    store: Store = await getattr(engine, way)()
    return store


async def test_journal(engine: Engine, way: str) -> None:
    store = await with_app(await engine.open())
    one, two, three = (register(store, name) for name in ("one", "two", "three"))
    kept, first = push(store, one, text="kept", collapse_key="k")
    over, second = push(store, one)
    fan, third = push(store, one, two, three, text="to all")
    nobody = store.journal.reserve(1)
    fourth = store.journal.append(notification(nobody, target=Target(tag="no one")), [])
    await asyncio.gather(first, second, third, fourth)
    store.journal.step(kept, Step(START_MS, "sent", "edge"))
    settle(store, over)
    settle(store, fan + 1, fan + 3)
    store.write_behind()
    await store.committer.flush()

    store = await again(engine, way)
    assert store.journal.pending_of(one) == [kept]
    assert store.journal.pending_of(two) == [fan + 2]
    assert store.journal.pending_of(three) == []
    assert store.journal.collapsed_by(one, "k") == [kept]
    there = store.journal.notification(kept)
    assert there is not None
    assert there.content.text == "kept"
    record = store.receipts.lookup(APP, kept)
    assert record is not None
    assert [step.what for step in record.deliveries[0].steps] == ["sent"]
    record = store.receipts.lookup(APP, fan)
    assert record is not None
    assert record.figures == {"targeted": 3, "pending": 1, "acked": 2}
    assert store.receipts.lookup(APP, nobody) is not None
    assert store.journal.get(over) is None
    assert store.journal.settled_for(over) == one
    settle(store, fan + 2)
    number = store.journal.reserve(1)
    assert number > nobody
    await store.committer.flush()
    assert store.journal.notification(fan) is None


async def test_batches(engine: Engine, way: str) -> None:
    store = await with_app(await engine.open())
    numbers = [register(store, f"device {n}") for n in range(4)]
    await store.committer.flush()
    links = Links(store)
    for number in numbers:
        links.connect(number)
    accepted = append(store, links, *(to(token_of(store, number), text=f"for {number}") for number in numbers))
    await accepted.done
    whole = append(store, links, *(to(token_of(store, number)) for number in numbers[:2]))
    await whole.done
    assert ack(store, accepted.first + 1, numbers[1])
    assert all(ack(store, whole.first + n, numbers[n]) for n in range(2))
    await store.committer.flush()
    links.close()

    store = await again(engine, way)
    pending = [store.journal.pending_of(number) for number in numbers]
    assert pending == [[accepted.first], [], [accepted.first + 2], [accepted.first + 3]]
    there = store.journal.notification(accepted.first + 2)
    assert there is not None
    assert there.content.text == f"for {numbers[2]}"
    fed = [receipt.outcome.seq for receipt in store.receipts.after(APP, 0, 10)]
    assert sorted(fed) == [accepted.first + 1, whole.first, whole.first + 1]
    settle(store, accepted.first)
    await store.committer.flush()
    assert store.receipts.after(APP, 0, 10)[-1].outcome.seq == accepted.first


async def test_directory(engine: Engine, way: str) -> None:
    store = await with_app(await engine.open())
    await with_app(store, "other")
    directory = store.directory
    one, _, written = directory.register("phone", APP, "1.0", "me", alias="anna", tags=["a", "b"])
    assert written is not None
    two, _, second = directory.register("phone", APP, "1.0", "you", alias="ben")
    assert second is not None
    gone, _, third = directory.register("tablet", APP, "2.0", "me", tags=["b"])
    assert third is not None
    await asyncio.gather(written, second, third)
    await asyncio.gather(
        directory.update(one.number, alias="anne", tags=["b"]),
        directory.sign_out(two.number),
        directory.revoke(gone.number),
    )
    back, _, fourth = directory.register("tablet", APP, "3.0", "me")
    assert fourth is not None
    await fourth

    store = await again(engine, way)
    directory = store.directory
    assert directory.app_names() == ["other", APP]
    assert directory.by_alias(APP, "anne") == [one.number]
    assert directory.by_alias(APP, "anna") == []
    assert list(directory.by_tag(APP, "b")) == [one.number]
    assert list(directory.by_tag(APP, "a")) == []
    assert directory.device_registrations("phone") == [one.number, two.number]
    assert directory.known("tablet", APP, "me") == (back.token, 1, back.number)
    assert directory.registry.find(gone.token) == -1
    assert directory.locate(gone.token).dead is not None
    assert directory.registry.signed_out(two.number)
    found = directory.registration(back.number)
    assert found is not None
    assert (found.version, found.generation) == ("3.0", 1)
    assert [death.token for death in store.deaths.after(APP, 0, 10)] == [gone.token]
    fresh, created, written = directory.register("new", APP, "1.0", "")
    assert created
    assert written is not None
    await written
    assert fresh.number > back.number


async def test_broadcasts(engine: Engine, way: str) -> None:
    store = await with_app(await engine.open())
    old, new = register(store, "old", version="1.0"), register(store, "new", version="2.0")

    told = []  # a fleet's stream

    async def broadcast(place: int, versions: str) -> int:
        seq = engine.broadcast_seq(store, place)
        target = Target(versions=versions, everyone=not versions)
        one = notification(seq, target=target, text=f"no {place}")
        if isinstance(engine, Alone):
            await store.journal.broadcast(one)
        else:
            told.append(one)
            assert store.broadcasts.take_in(one)
        return seq

    everyone, second, over = await broadcast(1, ""), await broadcast(2, ">=2"), await broadcast(3, "")
    store.broadcasts.acked(everyone, [old], START_MS)
    store.broadcasts.acked(second, [new], START_MS)  # out of their order
    store.broadcasts.count(everyone, "acked", [old])
    store.broadcasts.end(over, State.EXPIRED, START_MS)
    store.write_behind()
    await store.committer.flush()

    store = await again(engine, way)
    if not isinstance(engine, Alone):
        store.broadcasts.begin(told, set(), START_MS)
    assert store.broadcasts.live(APP) == [everyone, second]
    assert store.broadcasts.waiting(old) == []
    assert store.broadcasts.waiting(new) == [everyone]
    assert store.broadcasts.figures(everyone)["acked"] == 1
    there = store.journal.notification(second)
    assert there is not None
    assert there.content.text == "no 2"
    record = store.receipts.lookup(APP, over)
    assert record is not None
    assert record.state == State.EXPIRED
    if not isinstance(engine, Alone):
        assert store.journal.reserve(1) < everyone  # the fleet's numbers do not draw the partition's with them
    store.broadcasts.acked(everyone, [new], START_MS)
    assert store.broadcasts.waiting(new) == []


async def test_schedules(engine: Engine, way: str) -> None:
    store = await with_app(await engine.open())
    number = register(store, "one")
    due = START_MS + 60_000
    seqs = []
    for n in range(3):
        seq = store.journal.reserve(1)
        await store.schedules.add(notification(seq, text=f"no {n}"), due + n)
        seqs.append(seq)
    became = store.journal.reserve(1)
    kept = store.schedules.notification(seqs[0])
    assert kept is not None
    written = store.journal.append(msgspec.structs.replace(kept, seq=became, push=seqs[0]), [number])
    store.schedules.released(seqs[0], became)
    await written
    store.schedules.end(seqs[1], State.RECALLED, START_MS)
    await store.committer.flush()

    store = await again(engine, way)
    assert store.schedules.of_app(APP) == [(seqs[2], due + 2)]
    assert store.schedules.became(seqs[0]) == became
    assert store.schedules.known_as(became) == seqs[0]
    assert store.journal.pending_of(number) == [became]
    record = store.receipts.lookup(APP, seqs[1])
    assert record is not None
    assert record.state == State.RECALLED
    assert store.schedules.due(due + 10, 10) == [seqs[2]]
    settle(store, became)
    await store.committer.flush()
    # that was recalled before its time has one too
    assert [receipt.push for receipt in store.receipts.after(APP, 0, 10)] == [seqs[1], seqs[0]]


async def test_receipts(engine: Engine, way: str) -> None:
    store = await with_app(await engine.open())
    await with_app(store, "other")
    number, other = register(store, "one"), register(store, "one", app="other")
    pushes = [push(store, number) for _ in range(6)]
    foreign, written = push(store, other, app="other")
    await asyncio.gather(written, *(written for _, written in pushes))
    seqs = [seq for seq, _ in pushes]
    settle(store, seqs[2])
    settle(store, seqs[0], seqs[5])
    settle(store, foreign, app="other")
    await store.committer.flush()
    before = store.receipts.after(APP, 0, 10)
    await store.receipts.remember(APP, "key", b"h" * 32, seqs[1], START_MS // 1_000 + 60)
    store.receipts.save_cursor("hook", before[1].cursor)
    store.receipts.watermark()
    await store.committer.flush()
    told = store.receipts.watermark()
    assert told >= before[-1].cursor

    store = await again(engine, way)
    after = store.receipts.after(APP, 0, 10)
    assert [(receipt.cursor, receipt.outcome.seq) for receipt in after] == [
        (receipt.cursor, receipt.outcome.seq) for receipt in before
    ]
    assert [receipt.outcome.seq for receipt in after] == [seqs[2], seqs[0], seqs[5]]
    assert [receipt.outcome.seq for receipt in store.receipts.after("other", 0, 10)] == [foreign]
    assert store.receipts.saved_cursor("hook") == before[1].cursor
    assert store.receipts.recall_idempotent(APP, "key") == (seqs[1], b"h" * 32)
    settle(store, seqs[1])
    await store.committer.flush()
    last = store.receipts.after(APP, 0, 10)[-1]
    assert last.outcome.seq == seqs[1]
    assert last.cursor > told
