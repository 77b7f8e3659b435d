"""Batches of pushes: one journal row, acks settled natively, restarts, failed commits, histories, receipts."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from batch_rig import LIMITS, Links, ack, append, pack, to, token_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_rig import APP, START_MS, Clock, config, disk_of, fail_commit, open_store, register, settle, with_app

from gateway.model.errors import QueueFull, StoreUnavailable
from gateway.model.outcome import State, Step
from gateway.model.ports import APART, FULL, UNKNOWN_TOKEN
from gateway.store import Store
from gateway.store.environment import Environment
from gateway.store.records import NEWER, SCHEMA, Db, pack_u64


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await with_app(await open_store(tmp_path))
    yield store
    await store.close()


@pytest.fixture
def links(store: Store) -> Iterator[Links]:
    links = Links(store)
    yield links
    links.close()


async def devices(store: Store, count: int) -> list[int]:
    numbers = [register(store, f"device-{n}") for n in range(count)]
    await store.committer.flush()
    return numbers


def rows(store: Store, db: Db) -> int:
    return store._environment.entries(db)


async def test_a_batch_is_one_row_and_each_of_its_pushes_a_delivery_of_its_own(store: Store, links: Links) -> None:
    numbers = await devices(store, 3)
    accepted = append(store, links, *(to(token_of(store, n), f"to {n}", data={"n": n}) for n in numbers))
    await accepted.done
    assert rows(store, Db.JOURNAL) == 1
    for place, number in enumerate(numbers):
        seq = accepted.first + place
        delivery = store.journal.get(seq)
        assert delivery is not None
        assert (delivery.registration, delivery.notification, delivery.state) == (number, seq, State.WAITING)
        notification = store.journal.notification(seq)
        assert notification is not None
        assert notification.content.text == f"to {number}"
        assert notification.target.token == token_of(store, number)
        assert notification.expires_s == START_MS // 1000 + LIMITS.ttl_s
        assert (notification.ack_ms, notification.notifier_ack_ms) == (3_000, 30_000)


async def test_a_connected_device_is_sent_to_at_once_and_its_ack_needs_no_python_object(
    store: Store, links: Links
) -> None:
    (number,) = await devices(store, 1)
    links.connect(number)
    accepted = append(store, links, to(token_of(store, number)))
    delivery = store.journal.get(accepted.first)
    assert delivery is not None
    assert delivery.state == State.SENT
    await accepted.done
    assert ack(store, accepted.first, number, shown=True)
    assert store.journal.get(accepted.first) is None
    await store.committer.flush()
    assert (rows(store, Db.JOURNAL), rows(store, Db.SETTLED), rows(store, Db.OUTCOMES)) == (0, 0, 0)
    record = store.receipts.lookup(APP, accepted.first)
    assert record is not None
    (outcome,) = record.deliveries
    assert outcome.state == State.ACKED
    assert [step.what for step in outcome.steps] == ["sent", "acked", "shown"]
    assert [receipt.outcome.seq for receipt in store.receipts.after(APP, 0, 10)] == [accepted.first]


async def test_a_batch_that_is_over_before_its_commit_leaves_no_journal_row(store: Store, links: Links) -> None:
    (number,) = await devices(store, 1)
    links.connect(number)
    disk = disk_of(store)
    accepted = append(store, links, to(token_of(store, number)))
    assert ack(store, accepted.first, number)
    await accepted.done
    await store.committer.flush()
    assert [row for row in disk.written if row[1] == Db.JOURNAL] == []
    assert store.receipts.lookup(APP, accepted.first) is not None


async def test_a_restart_brings_back_what_was_not_settled_and_only_that(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    links = Links(store)
    numbers = await devices(store, 4)
    for number in numbers:
        links.connect(number)
    accepted = append(store, links, *(to(token_of(store, n)) for n in numbers))
    await accepted.done
    first = accepted.first
    ack(store, first, numbers[0])
    await store.committer.flush()
    ack(store, first + 1, numbers[1])
    settle(store, first + 2, state=State.EXPIRED)
    await store.close()
    links.close()

    store = await open_store(tmp_path)
    assert [seq for n in numbers for seq in store.journal.pending_of(n)] == [first + 3]
    delivery = store.journal.get(first + 3)
    assert delivery is not None
    assert delivery.state == State.ACCEPTED
    states = [
        store.receipts.lookup(APP, first + i).deliveries[0].state  # type: ignore[union-attr]
        for i in range(4)
    ]
    assert states == [State.ACKED, State.ACKED, State.EXPIRED, State.ACCEPTED]
    settle(store, first + 3)
    await store.committer.flush()
    assert (rows(store, Db.JOURNAL), rows(store, Db.SETTLED), rows(store, Db.BATCHES)) == (0, 0, 1)
    await store.close()


async def test_a_failed_commit_takes_back_what_no_device_has_acked(store: Store, links: Links) -> None:
    numbers = await devices(store, 3)
    for number in numbers:
        links.connect(number)
    disk = disk_of(store)
    accepted = append(store, links, *(to(token_of(store, n)) for n in numbers))
    assert ack(store, accepted.first + 1, numbers[1])
    await fail_commit(store, disk)
    with pytest.raises(StoreUnavailable):
        await accepted.done
    assert accepted.withdrawn == [(accepted.first, numbers[0]), (accepted.first + 2, numbers[2])]
    assert store.journal.pending_count() == 0
    disk.error = None
    assert await store.committer.probe()
    await store.committer.flush()
    assert [receipt.outcome.seq for receipt in store.receipts.after(APP, 0, 10)] == [accepted.first + 1]
    assert store.receipts.lookup(APP, accepted.first) is None
    assert store.receipts.lookup(APP, accepted.first + 1) is not None
    assert (rows(store, Db.JOURNAL), len(store.batches)) == (0, 0)


async def test_a_batch_of_which_nothing_was_accepted_leaves_nothing(store: Store, links: Links) -> None:
    numbers = await devices(store, 2)
    disk = disk_of(store)
    accepted = append(store, links, *(to(token_of(store, n)) for n in numbers))
    await fail_commit(store, disk)
    disk.error = None
    assert await store.committer.probe()
    await store.committer.flush()
    assert len(accepted.withdrawn) == 2
    assert (rows(store, Db.JOURNAL), rows(store, Db.BATCHES), rows(store, Db.SETTLED), len(store.batches)) == (0,) * 4


async def test_an_ack_is_not_plain_once_something_happened_to_the_delivery(store: Store, links: Links) -> None:
    numbers = await devices(store, 2)
    for number in numbers:
        links.connect(number)
    accepted = append(store, links, *(to(token_of(store, n)) for n in numbers))
    first = accepted.first
    store.journal.step(first, Step(START_MS, "lost", "edge"))
    store.journal.set_state(first + 1, State.WAITING, 0)
    assert not ack(store, first, numbers[0])
    assert not ack(store, first + 1, numbers[1])
    settle(store, first, first + 1)
    await store.committer.flush()
    record = store.receipts.lookup(APP, first)
    assert record is not None
    assert [step.what for step in record.deliveries[0].steps] == ["lost", "acked"]
    assert rows(store, Db.JOURNAL) == 0


async def test_an_ack_of_another_registration_settles_nothing(store: Store, links: Links) -> None:
    mine, other = await devices(store, 2)
    links.connect(mine)
    accepted = append(store, links, to(token_of(store, mine)))
    assert not ack(store, accepted.first, other)
    assert not ack(store, accepted.first + 1, mine)
    assert store.journal.get(accepted.first) is not None


async def test_shown_after_ack_is_added_to_the_history(store: Store, links: Links) -> None:
    (number,) = await devices(store, 1)
    links.connect(number)
    accepted = append(store, links, to(token_of(store, number)))
    await accepted.done
    ack(store, accepted.first, number)
    await store.committer.flush()
    store.journal.amend(accepted.first, Step(START_MS + 9, "shown", "edge"), number)
    assert store.journal.settled_for(accepted.first) == number
    await store.committer.flush()
    record = store.receipts.lookup(APP, accepted.first)
    assert record is not None
    assert [step.what for step in record.deliveries[0].steps] == ["sent", "acked", "shown"]


async def test_places_say_why_a_push_is_not_ready(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path, max_pending_per_registration=2))
    await with_app(store, "other")
    (number,) = await devices(store, 1)
    foreign = register(store, "device-0", app="other")
    await store.committer.flush()
    token = token_of(store, number)
    pushes = [
        to(token),
        to("A" * 22),
        to(token_of(store, foreign)),
        to(token, collapse_key="k"),
        to(token),
        to(token),
        {"target": {"alias": "ann"}},
        "no map",
    ]
    batch = store.journal.read_batch(APP, [pack(*pushes)], LIMITS)
    assert batch.places == [0, UNKNOWN_TOKEN, UNKNOWN_TOKEN, APART, 1, FULL, APART, APART]
    assert (batch.count, batch.ready) == (8, 2)
    assert batch.raw(7) == b"\xa6no map"
    await store.close()


async def test_what_is_no_array_of_pushes_or_too_long_is_refused(store: Store) -> None:
    for wrong in (b"", b"\x80", b"\x91", b"\x91\x81", b"\x90\x00", b"\x92\x80", b"\xdd\xff\xff\xff\xff", b"\xc1"):
        with pytest.raises((ValueError, OverflowError)):
            store.journal.read_batch(APP, [wrong], LIMITS)
    with pytest.raises(OverflowError, match="at most 1000"):
        store.journal.read_batch(APP, [pack(*[{}] * 1_001)], LIMITS)


async def test_a_link_that_takes_nothing_new_leaves_the_first_look_to_the_control_plane(
    store: Store, links: Links
) -> None:
    held, calm, busy = await devices(store, 3)
    links.held.add(links.connect(held))
    links.floors[links.connect(calm)] = 3
    links.connect(busy)
    accepted = append(store, links, *(to(token_of(store, n)) for n in (held, calm, busy)))
    assert accepted.odd == [accepted.first, accepted.first + 1]
    assert [store.journal.get(accepted.first + i).state for i in range(3)] == [  # type: ignore[union-attr]
        State.ACCEPTED,
        State.ACCEPTED,
        State.SENT,
    ]


async def test_a_full_mailbox_leaves_the_first_look_to_the_control_plane(store: Store) -> None:
    links = Links(store, mailbox_bytes=65_536)
    (number,) = await devices(store, 1)
    links.connect(number)
    token = token_of(store, number)
    odd: list[int] = []
    while not odd:
        accepted = append(store, links, *[to(token)] * 1_000)
        odd = accepted.odd
        settle(store, *range(accepted.first, accepted.first + 1_000))
        await accepted.done
    assert odd[-1] == accepted.first + 999
    await store.committer.flush()
    links.close()


async def test_without_a_link_a_push_waits_only_where_there_is_no_notifier(store: Store, links: Links) -> None:
    plain = register(store, "plain")
    chained = register(store, "chained", fallback=["webhook"])
    await store.committer.flush()
    pushes = [to(token_of(store, plain)), to(token_of(store, chained))]
    accepted = append(store, links, *pushes)
    assert accepted.odd == [accepted.first + 1]
    accepted = append(store, links, *pushes, limits=LIMITS._replace(has_no_notifiers=False))
    assert accepted.odd == [accepted.first, accepted.first + 1]


async def test_the_bound_on_pending_deliveries_refuses_the_whole_batch(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path, max_pending=3))
    links = Links(store)
    (number,) = await devices(store, 1)
    append(store, links, *[to(token_of(store, number))] * 2)
    with pytest.raises(QueueFull):
        append(store, links, *[to(token_of(store, number))] * 2)
    assert store.journal.pending_count() == 2
    await store.close()
    links.close()


async def test_batches_past_retention_are_swept(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock, history_days=1))
    links = Links(store)
    (number,) = await devices(store, 1)
    links.connect(number)
    accepted = append(store, links, to(token_of(store, number)))
    await accepted.done
    ack(store, accepted.first, number)
    await store.committer.flush()
    assert rows(store, Db.BATCHES) == 1
    clock.now_ms += 2 * 86_400_000
    while store.sweep():
        await store.committer.flush()
    await store.committer.flush()
    assert (rows(store, Db.BATCHES), rows(store, Db.RECEIPTS)) == (0, 0)
    assert store.receipts.lookup(APP, accepted.first) is None
    await store.close()
    links.close()


async def test_a_damaged_row_is_an_error_not_a_crash(store: Store, links: Links) -> None:
    numbers = await devices(store, 2)
    accepted = append(store, links, *(to(token_of(store, n)) for n in numbers))
    await accepted.done
    settle(store, accepted.first, accepted.first + 1, state=State.EXPIRED)
    raw = store._environment.get(Db.JOURNAL, pack_u64(accepted.first))
    assert raw is not None
    for size in range(len(raw)):
        with pytest.raises(ValueError, match="batch"):
            store.batches.table.restore(900_000, raw[:size], b"")
    with pytest.raises(ValueError, match="version"):
        store.batches.table.restore(900_000, raw[:1] + b"\x09" + raw[2:], b"")
    with pytest.raises(ValueError, match="settled"):
        store.batches.table.restore(900_000, raw, b"\x00" * 31)


async def test_a_store_from_before_batches_is_taken_over_and_can_be_read_before_that(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    (number,) = await devices(store, 1)
    token = token_of(store, number)
    await store.close()
    environment = lmdb.open(str(tmp_path), max_dbs=len(Db) + 1)
    with environment.begin(write=True) as txn:
        for db in NEWER:
            txn.drop(environment.open_db(db.name.lower().encode(), txn=txn))
        txn.put(b"schema", (1).to_bytes(4, "big"), db=environment.open_db(b"meta", txn=txn))
    environment.close()

    older = Environment.open(config(tmp_path), readonly=True)
    assert older.get(Db.BATCHES, pack_u64(1)) is None
    assert list(older.scan(Db.SETTLED)) == []
    older.close()

    store = await open_store(tmp_path)
    assert store._environment.get(Db.META, b"schema") == SCHEMA.to_bytes(4, "big")
    links = Links(store)
    await append(store, links, to(token)).done
    assert rows(store, Db.JOURNAL) == 1
    await store.close()
    links.close()


async def test_a_look_is_not_confused_by_a_commit_that_ends_the_batch_meanwhile(
    store: Store, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = await devices(store, 2)
    for number in numbers:
        links.connect(number)
    accepted = append(store, links, *(to(token_of(store, number)) for number in numbers))
    await accepted.done
    assert ack(store, accepted.first, numbers[0])
    await store.committer.flush()
    environment = store._environment
    apply, get = environment.apply, environment.get
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def apply_slowly(*args: Any) -> None:
        begun.set()
        assert may_end.wait(60)
        apply(*args)
        ended.set()

    def get_slowly(db: Db, key: bytes) -> bytes | None:
        if db is Db.SETTLED:  # the head was read before
            may_end.set()
            assert ended.wait(60)
        return get(db, key)

    monkeypatch.setattr(environment, "apply", apply_slowly)
    assert ack(store, accepted.first + 1, numbers[1])
    while not begun.is_set():
        await asyncio.sleep(0)
    monkeypatch.setattr(environment, "get", get_slowly)
    outcome = store.batches.outcome(accepted.first)
    assert ended.is_set()
    assert outcome is not None
    assert outcome.state == State.ACKED


class BatchMachine(RuleBasedStateMachine):
    """Batches, acks in any order, odd ends, commits that fail, restarts: against a simple model."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.pending: dict[int, int] = {}  # delivery → registration
        self.plain: set[int] = set()
        self.ended: dict[int, State] = {}

    @initialize()
    def start(self) -> None:
        self.runner.run(self.open())
        self.runner.run(with_app(self.store))
        self.numbers = self.runner.run(devices(self.store, 3))
        self.connect()

    async def open(self) -> None:
        self.store = await open_store(Path(self.folder.name), max_bytes=1 << 26, sync=False)
        self.disk = disk_of(self.store)

    def connect(self) -> None:
        self.links = Links(self.store)
        for number in self.numbers:
            self.links.connect(number)

    @rule(to_whom=st.lists(st.integers(0, 2), min_size=1, max_size=5), early=st.integers(0, 5), fails=st.booleans())
    def push(self, to_whom: list[int], early: int, fails: bool) -> None:
        self.runner.run(self._push([self.numbers[i] for i in to_whom], early, fails))

    async def _push(self, numbers: list[int], early: int, fails: bool) -> None:
        accepted = append(self.store, self.links, *(to(token_of(self.store, n)) for n in numbers))
        deliveries = {accepted.first + i: number for i, number in enumerate(numbers)}
        acked = list(deliveries)[:early]
        for seq in acked:
            assert ack(self.store, seq, deliveries.pop(seq))
            self.ended[seq] = State.ACKED
        if fails:
            await fail_commit(self.store, self.disk)
            if deliveries:
                assert dict(accepted.withdrawn) == deliveries
            self.disk.error = None
            assert await self.store.committer.probe()
        else:
            await accepted.done
            self.pending |= deliveries
            self.plain |= set(deliveries)
        await self.store.committer.flush()

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), flush=st.booleans())
    def end_one(self, data: st.DataObject, flush: bool) -> None:
        seq = data.draw(st.sampled_from(sorted(self.pending)))
        odd = data.draw(st.booleans())
        number = self.pending.pop(seq)
        if odd or seq not in self.plain:
            assert odd or not ack(self.store, seq, number)
            self.runner.run(self._settle(seq))
            self.ended[seq] = State.EXPIRED
        else:
            assert self.runner.run(self._ack(seq, number))
            self.ended[seq] = State.ACKED
        self.plain.discard(seq)
        if flush:
            self.runner.run(self.store.committer.flush())

    async def _settle(self, seq: int) -> None:
        settle(self.store, seq, state=State.EXPIRED)

    async def _ack(self, seq: int, number: int) -> bool:
        return ack(self.store, seq, number)

    @rule()
    def restart(self) -> None:
        self.runner.run(self.store.close())
        self.links.close()
        self.runner.run(self.open())
        self.connect()
        self.plain.clear()

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        if not hasattr(self, "numbers"):
            return
        there = {seq: n for n in self.numbers for seq in self.store.journal.pending_of(n)}
        assert there == self.pending
        for seq, number in self.pending.items():
            notification = self.store.journal.notification(seq)
            assert notification is not None
            assert notification.target.token == token_of(self.store, number)
        for seq, state in self.ended.items():
            record = self.store.receipts.lookup(APP, seq)
            assert record is not None
            assert [outcome.state for outcome in record.deliveries] == [state]

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.runner.run(self.store.committer.flush())
            fed = [receipt.outcome.seq for receipt in self.store.receipts.after(APP, 0, 10_000)]
            assert sorted(fed) == sorted(self.ended)
            if not self.pending:
                assert self.store._environment.entries(Db.JOURNAL) == 0
                assert self.store._environment.entries(Db.SETTLED) == 0
            self.runner.run(self.store.close())
            self.links.close()
        self.runner.close()
        self.folder.cleanup()


BatchMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow]
)
TestBatches = BatchMachine.TestCase
