"""The journal against a simple model with restarts in between, and its bounds, histories and look-ups."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_rig import (
    APP,
    START_MS,
    Clock,
    disk_of,
    fail_commit,
    notification,
    open_store,
    push,
    register,
    settle,
    with_app,
)

from gateway.metrics import Metric, Metrics
from gateway.model.errors import QueueFull, StoreUnavailable
from gateway.model.notification import Target
from gateway.model.outcome import State, Step
from gateway.store import Store
from gateway.store.history import MAX_STEPS
from gateway.store.records import PUT, Db

NUMBERS = [1, 2, 3]
ENDS = [State.ACKED, State.EXPIRED, State.RECALLED, State.REPLACED, State.REJECTED]


class JournalMachine(RuleBasedStateMachine):
    """Pushes to one or several, settling in any order, collapse keys, steps, commits, failures and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.pending: dict[int, tuple[int, int, str]] = {}  # delivery → registration, notification, collapse key
        self.ended: dict[int, State] = {}
        self.of_push: dict[int, list[int]] = {}

    @initialize()
    def start(self) -> None:
        self.store = self.runner.run(self.open())
        self.runner.run(with_app(self.store))

    async def open(self) -> Store:
        store = await open_store(Path(self.folder.name), max_bytes=1 << 26, sync=False)
        self.disk = disk_of(store)
        return store

    @rule(
        to=st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=3, unique=True), key=st.sampled_from(["", "a", "b"])
    )
    def push(self, to: list[int], key: str) -> None:
        async def go() -> None:
            seq, commit = push(self.store, *to, collapse_key=key)
            self.of_push[seq] = [seq] if len(to) == 1 else [seq + 1 + i for i in range(len(to))]
            for delivery, number in zip(self.of_push[seq], to, strict=True):
                self.pending[delivery] = (number, seq, key)
            self.commit = commit

        self.runner.run(go())

    @rule(to=st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=3, unique=True))
    def push_that_fails(self, to: list[int]) -> None:
        async def go() -> None:
            await self.store.committer.flush()
            self.disk.error = OSError(28, "No space left on device")
            seq, commit = push(self.store, *to)
            with pytest.raises(StoreUnavailable):
                await commit
            assert self.store.journal.notification(seq) is None
            self.disk.error = None
            assert await self.store.committer.probe()

        self.runner.run(go())

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        seqs = data.draw(st.lists(st.sampled_from(sorted(self.pending)), min_size=1, max_size=3, unique=True))
        state = data.draw(st.sampled_from(ENDS))

        async def go() -> None:
            settle(self.store, *seqs, state=state)
            settle(self.store, seqs[0], state=State.EXPIRED)  # too late: it is over

        self.runner.run(go())
        for seq in seqs:
            del self.pending[seq]
            self.ended[seq] = state

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.pending)))

        async def go() -> None:
            self.store.journal.step(seq, Step(START_MS, "sent", "edge"))
            self.store.write_behind()

        self.runner.run(go())

    @rule()
    def commit_all(self) -> None:
        self.runner.run(self.store.committer.flush())

    @rule()
    def restart(self) -> None:
        async def go() -> Store:
            await self.store.close()
            return await self.open()

        self.store = self.runner.run(go())

    @invariant()
    def journal_is_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        journal = self.store.journal
        assert journal.pending_count() == len(self.pending)
        for number in NUMBERS:
            mine = sorted(seq for seq, (owner, _, _) in self.pending.items() if owner == number)
            assert journal.pending_of(number) == mine
            for key in ("a", "b"):
                assert journal.collapsed_by(number, key) == [seq for seq in mine if self.pending[seq][2] == key]
            assert journal.collapsed_by(number, "") == []
        for push_seq, deliveries in self.of_push.items():
            alive = any(seq in self.pending for seq in deliveries)
            assert (journal.notification(push_seq) is not None) == alive
            record = self.store.receipts.lookup(APP, push_seq)
            assert record is not None
            assert [outcome.seq for outcome in record.deliveries] == deliveries
            for outcome in record.deliveries:
                assert outcome.state == self.ended.get(outcome.seq, State.ACCEPTED)
            if len(deliveries) > 1:
                figures = record.figures
                assert figures["targeted"] == len(deliveries)
                assert figures["pending"] == sum(seq in self.pending for seq in deliveries)
                for state in ENDS:
                    wanted = sum(self.ended.get(seq) == state for seq in deliveries)
                    assert figures.get(state.name.lower(), 0) == wanted

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.runner.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()


JournalMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=30, suppress_health_check=list(HealthCheck)
)
TestJournalLikeAModel = JournalMachine.TestCase


async def test_a_push_is_one_row_and_one_small_row_a_target(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    disk = disk_of(store)
    _, one = push(store, 1, text="x" * 1_000)
    _, many = push(store, 1, 2, 3, text="x" * 1_000)
    await asyncio.gather(one, many)
    sizes = [len(value) for operation, db, _, value in disk.written if operation == PUT and db == Db.JOURNAL]
    assert len(sizes) == 1 + 1 + 3
    assert all(size < 16 for size in sizes[2:])
    await store.close()


async def test_a_notification_can_be_read_before_and_after_its_commit(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    seq, commit = push(store, 1, text="ünïcode", collapse_key="k")
    before = store.journal.notification(seq)
    await commit
    assert store.journal.notification(seq) == before
    await store.close()
    store = await open_store(tmp_path)
    assert store.journal.notification(seq) == before
    assert before is not None
    assert before.content.text == "ünïcode"
    await store.close()


async def test_a_small_cache_reads_again_what_it_let_go(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    store.journal._contents._max_bytes = 4_000
    seqs = [push(store, 1, text=str(i))[0] for i in range(20)]
    await store.committer.flush()
    assert len(store.journal._contents._cache) < 20
    for i, seq in enumerate(seqs):
        found = store.journal.notification(seq)
        assert found is not None
        assert found.content.text == str(i)
    assert store.journal._contents._bytes <= 4_000
    await store.close()


async def test_expiry_and_timers_are_reported_also_after_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock))
    short, _ = push(store, 1, ttl_s=5)
    fan, _ = push(store, 1, 2, ttl_s=50)
    store.journal.arm(fan + 1, START_MS + 2_000)
    assert store.journal.due(START_MS + 1_000, 10) == []
    assert store.journal.due(START_MS + 2_500, 10) == [fan + 1]
    await store.close()
    clock.now_ms += 6_000
    store = await open_store(tmp_path, clock)
    assert store.journal.due(clock.now_ms, 10) == [short]
    clock.now_ms += 50_000
    assert set(store.journal.due(clock.now_ms, 10)) == {short, fan + 1, fan + 2}
    await store.close()


async def test_state_is_forgotten_by_a_restart_but_notifiers_used_are_not(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    sent, _ = push(store, 1)
    notified, _ = push(store, 1)
    store.journal.set_state(sent, State.SENT, 0)
    store.journal.set_state(notified, State.NOTIFIED, 1)
    store.journal.step(notified, Step(START_MS, "notified", "webhook"))
    store.write_behind()
    await store.close()
    store = await open_store(tmp_path)
    found = [store.journal.get(seq) for seq in (sent, notified)]
    assert [(d.state, d.hop) for d in found if d is not None] == [(State.ACCEPTED, 0), (State.ACCEPTED, 1)]
    await store.close()


@pytest.mark.parametrize(
    ("history", "hop", "used"),
    [
        ([("notifier_failed", "apns"), ("sent", "edge")], 2, 0),  # "webhook" was under way
        ([("notifier_failed", "apns")], 1, 0),  # its queue was full, and the call waits in it by now
        ([("notified", "apns"), ("notifier_failed", "webhook")], 2, 1),
        ([("notified", "apns"), ("recheck", "edge"), ("notified", "webhook")], 2, 2),
    ],
)
async def test_after_a_restart_only_notifiers_that_took_it_are_used_up(
    tmp_path: Path, history: list[tuple[str, str]], hop: int, used: int
) -> None:
    store = await with_app(await open_store(tmp_path))
    seq, _ = push(store, 1)
    for what, channel in history:
        store.journal.step(seq, Step(START_MS, what, channel))
    store.journal.set_state(seq, State.NOTIFIED, hop)
    store.write_behind()
    await store.close()
    store = await open_store(tmp_path)
    delivery = store.journal.get(seq)
    assert delivery is not None
    assert (delivery.hop, [(s.what, s.channel) for s in store.journal.steps_of(seq)]) == (used, history)
    await store.close()


async def test_who_took_a_message_is_known_however_long_its_history_is(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock))
    seq, _ = push(store, 1)
    store.journal.set_state(seq, State.NOTIFIED, 1)
    for _ in range(40):  # a link that comes and goes
        store.journal.step(seq, Step(clock.now_ms, "lost", "edge"))
        store.write_behind()
        await store.journal.committed()
        clock.now_ms += 1_000
    for _ in range(70):
        store.journal.step(seq, Step(clock.now_ms, "lost", "edge"))
    store.journal.step(seq, Step(clock.now_ms, "notified", "apns"))
    store.write_behind()
    await store.journal.committed()
    steps = store.journal.steps_of(seq)
    assert (len(steps), steps[-1].what) == (33, "notified")
    await store.close()
    store = await open_store(tmp_path, clock)
    delivery = store.journal.get(seq)
    assert delivery is not None
    assert delivery.hop == 1
    await store.close()


async def test_history_is_whole_wherever_its_lines_are(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock))
    seq, _ = push(store, 1)
    for second, what in enumerate(["accepted", "sent", "ack_timeout", "notified"]):
        store.journal.step(seq, Step(second, what))
        clock.now_ms += 1_000
        if second % 2:
            store.write_behind()
            await store.committer.flush()
    store.journal.step(seq, Step(9, "recheck"))
    record = store.receipts.lookup(APP, seq)
    assert record is not None
    so_far = ["accepted", "sent", "ack_timeout", "notified", "recheck"]
    assert [step.what for step in record.deliveries[0].steps] == so_far
    settle(store, seq)
    store.journal.amend(seq, Step(10, "shown"), 2)  # another's registration
    assert [store.journal.settled_for(number) for number in (seq, seq + 1)] == [1, -1]
    store.journal.amend(seq, Step(10, "shown"), 1)
    store.journal.amend(seq, Step(11, "shown"), 1)  # said again: nothing new
    assert store._environment.entries(Db.STEPS) == 2
    for _ in range(2):
        record = store.receipts.lookup(APP, seq)
        assert record is not None
        assert [step.what for step in record.deliveries[0].steps] == [*so_far, "acked", "shown"]
        await store.close()
        store = await open_store(tmp_path, clock)
    assert store._environment.entries(Db.STEPS) == 0
    assert store._environment.entries(Db.JOURNAL) == 0
    await store.close()


async def test_lines_written_behind_come_back_when_their_commit_fails(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    seq, commit = push(store, 1)
    await commit
    disk = disk_of(store)
    store.journal.step(seq, Step(1, "sent"))
    store.write_behind()
    await fail_commit(store, disk)
    store.journal.step(seq, Step(2, "lost"))
    disk.error = None
    assert await store.committer.probe()
    assert [step.what for step in store.receipts.lookup(APP, seq).deliveries[0].steps] == ["sent", "lost"]  # type: ignore[union-attr]
    await store.close()
    store = await open_store(tmp_path)
    assert [step.what for step in store.receipts.lookup(APP, seq).deliveries[0].steps] == ["sent", "lost"]  # type: ignore[union-attr]
    await store.close()


async def test_a_history_is_bounded_and_what_is_left_out_counted(tmp_path: Path) -> None:
    clock, metrics = Clock(), Metrics(process=False)
    store = await with_app(await open_store(tmp_path, clock, metrics))
    seq, _ = push(store, 1)
    for number in range(MAX_STEPS + 7):
        store.journal.step(seq, Step(number, "lost"))
    assert metrics.value(Metric.STORE_HISTORY_DROPPED) == 7
    settle(store, seq)
    record = store.receipts.lookup(APP, seq)
    assert record is not None
    assert len(record.deliveries[0].steps) == MAX_STEPS + 1
    await store.close()


async def test_pending_is_bounded_in_all_and_for_one(tmp_path: Path) -> None:
    metrics = Metrics(process=False)
    store = await with_app(await open_store(tmp_path, metrics=metrics, max_pending=5, max_pending_per_registration=2))
    push(store, 1)
    push(store, 1)
    with pytest.raises(QueueFull):
        push(store, 1)
    push(store, 1, 2)  # one that never comes does not stop a push to many
    with pytest.raises(QueueFull):
        push(store, 2, 3)
    assert metrics.value(Metric.STORE_REFUSED, "pending_of_registration") == 1
    assert metrics.value(Metric.STORE_REFUSED, "pending") == 1
    await store.close()


async def test_a_push_that_finds_nobody_can_be_looked_up(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    seq = store.journal.reserve(1)
    await store.journal.append(notification(seq, target=Target(tag="nobody")), [])
    for _ in range(2):
        record = store.receipts.lookup(APP, seq)
        assert record is not None
        assert (record.deliveries, record.figures["targeted"]) == ([], 0)
        assert store.journal.notification(seq) is None
        await store.close()
        store = await open_store(tmp_path)
    await store.close()


async def test_count_must_be_the_number_of_targets(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    with pytest.raises(ValueError, match="count"):
        store.journal.append(notification(store.journal.reserve(3), count=3), [1, 2])
    with pytest.raises(ValueError, match="count"):
        store.journal.append(notification(store.journal.reserve(3)), [1, 2])
    await store.close()


async def test_a_settled_push_keeps_no_content(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    secret = "the-secret-text"
    one, _ = push(store, 1, text=secret)
    many, _ = push(store, 1, 2, text=secret)
    await store.committer.flush()
    settle(store, one, many + 1, many + 2)
    await store.committer.flush()
    for db in Db:
        for key, value in store._environment.scan(db):
            assert secret.encode() not in key + value
    for seq in (one, many):
        record = store.receipts.lookup(APP, seq)
        assert record is not None
        assert record.notification.content.text == ""
        assert record.notification.target.token == "x" * 22
    await store.close()


async def test_rows_without_their_owner_are_removed_at_the_next_start(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    many, commit = push(store, 1, 2)
    await commit
    store.journal.step(many + 1, Step(1, "sent"))
    store.write_behind()
    await store.committer.flush()
    # as after settled rows were given up: the notification's row is gone, a delivery's is not
    store._environment.apply([[(1, Db.JOURNAL, many.to_bytes(8, "big"), b"")]])
    await store.close()
    store = await open_store(tmp_path)
    assert store.journal.pending_count() == 0
    await store.committer.flush()
    assert store._environment.entries(Db.JOURNAL) == 0
    assert store._environment.entries(Db.STEPS) == 0
    await store.close()


async def test_counts_of_a_large_push_are_right_after_a_kill_in_the_middle(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path / "a"))
    numbers = [register(store, f"d{i}") for i in range(100)]
    many, _ = push(store, *numbers)
    settle(store, *range(many + 1, many + 31))
    settle(store, *range(many + 31, many + 41), state=State.EXPIRED)
    await store.committer.flush()
    # the counts follow the outcomes; a kill may come in between
    store._environment.apply([[(1, Db.FIGURES, many.to_bytes(8, "big"), b"")]])
    await store.backup(tmp_path / "b")
    await store.close()
    store = await open_store(tmp_path / "b")
    record = store.receipts.lookup(APP, many, offset=25, limit=10)
    assert record is not None
    assert record.figures == {"targeted": 100, "pending": 60, "acked": 30, "expired": 10}
    assert [outcome.seq for outcome in record.deliveries] == list(range(many + 26, many + 36))
    assert store.receipts.lookup("other", many) is None
    await store.close()
