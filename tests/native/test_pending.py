"""Pending deliveries against plain dicts: chains ascend, timers fire on their tick and not before, none is lost."""

import random
from array import array
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway._native.pending import Pending
from gateway.model.cluster import SEQ_SHIFT

START = 1_700_000_000_000  # Unix ms
START_S = START // 1000
SPARE_CHUNK = 1024 * 64  # bytes: the slab keeps its last chunk
YEAR_S = 365 * 86_400
LARGEST_S = 0xFFFF_FFFF
HORIZON = (1 << 31) - 1  # ticks

seqs = st.one_of(st.integers(1, 40), st.sampled_from([0, 1 << 40, (1 << 64) - 1]))
registrations = st.sampled_from([0, 1, 2, (1 << 31) - 1])
collapses = st.sampled_from([0, 0, 7, 0xFFFF_FFFF])
small = st.integers(0, 255)
expiries = st.one_of(
    st.integers(START_S - 5, START_S + 100),
    st.integers(START_S, START_S + 8 * YEAR_S),
    st.sampled_from([0, LARGEST_S]),
)
spans_ms = st.one_of(st.integers(0, 1500), st.integers(0, 100_000), st.integers(0, 9 * YEAR_S * 1000))


class PendingAgainstDicts(RuleBasedStateMachine):
    @initialize(part=st.integers(0, 999))
    def begin(self, part: int) -> None:
        self.start = self.now = START + part
        self.pending = Pending(self.start)
        self.rows: dict[int, tuple[int, int, int, int, int]] = {}
        self.collapse: dict[int, int] = {}
        self.timers: dict[int, int] = {}  # sequence → tick from which due reports it
        self.tick = 0

    def tick_of(self, at_ms: int) -> int:
        return max(0, -(-(at_ms - self.start) // 100))

    def expiry_of(self, seq: int) -> int:
        return self.tick_of(self.rows[seq][4] * 1000)

    @rule(
        seq=seqs, reg=registrations, notification=seqs, expires_s=expiries, collapse=collapses, state=small, hop=small
    )
    def add(self, seq: int, reg: int, notification: int, expires_s: int, collapse: int, state: int, hop: int) -> None:
        if seq in self.rows:
            with pytest.raises(ValueError, match="pending already"):
                self.pending.add(seq, reg, notification, expires_s)
            return
        self.pending.add(seq, reg, notification, expires_s, collapse, state, hop)
        self.rows[seq] = (reg, notification, state, hop, expires_s)
        self.collapse[seq] = collapse
        self.timers[seq] = self.expiry_of(seq)

    @rule(first=st.integers(1, 60), regs=st.lists(registrations, max_size=20), expires_s=expiries, collapse=collapses)
    def add_many(self, first: int, regs: list[int], expires_s: int, collapse: int) -> None:
        new = range(first, first + len(regs))
        if any(seq in self.rows for seq in new):
            with pytest.raises(ValueError, match="pending already"):
                self.pending.add_many(first, array("I", regs), 5, expires_s, collapse)
            return
        self.pending.add_many(first, array("I", regs), 5, expires_s, collapse)
        for seq, reg in zip(new, regs, strict=True):
            self.rows[seq] = (reg, 5, 0, 0, expires_s)
            self.collapse[seq] = collapse
            self.timers[seq] = self.expiry_of(seq)

    @rule(seq=seqs)
    def remove(self, seq: int) -> None:
        assert self.pending.remove(seq) == self.rows.pop(seq, None)
        self.collapse.pop(seq, None)
        self.timers.pop(seq, None)

    @precondition(lambda self: self.rows)
    @rule(share=st.floats(0, 1), rng=st.randoms(use_true_random=False))
    def remove_many(self, share: float, rng: random.Random) -> None:
        for seq in rng.sample(sorted(self.rows), int(share * len(self.rows))):
            self.remove(seq)

    @rule(seq=seqs, state=small, hop=small)
    def set_state(self, seq: int, state: int, hop: int) -> None:
        assert self.pending.set_state(seq, state, hop) is (seq in self.rows)
        if seq in self.rows:
            reg, notification, _, _, expires_s = self.rows[seq]
            self.rows[seq] = (reg, notification, state, hop, expires_s)

    @rule(seq=seqs, ahead_ms=st.integers(-500, 100_000))
    def arm(self, seq: int, ahead_ms: int) -> None:
        at_ms = self.now + ahead_ms
        assert self.pending.arm(seq, at_ms) is (seq in self.rows)
        if seq in self.rows:
            self.timers[seq] = min(self.tick_of(at_ms), self.expiry_of(seq))

    @rule(by_ms=spans_ms, limit=st.sampled_from([0, 1, 3, 1000, 1 << 40]))
    def due(self, by_ms: int, limit: int) -> None:
        self.now += by_ms
        self.tick = max(self.tick, (self.now - self.start) // 100)
        fired = self.pending.due(self.now, limit)
        ready = {seq for seq, tick in self.timers.items() if tick <= self.tick}
        assert len(fired) == len(set(fired)) == min(limit, len(ready))
        assert set(fired) <= ready
        for seq in fired:
            expiry = self.expiry_of(seq)
            self.timers[seq] = expiry if expiry > self.tick else self.tick + 10

    @rule(back_ms=st.integers(1, 10_000))
    def a_clock_set_back_fires_nothing_new(self, back_ms: int) -> None:
        ready = {seq for seq, tick in self.timers.items() if tick <= self.tick}
        assert set(self.pending.due(self.now - back_ms, 1)) <= ready
        # What it reported is known from the rest that is still due.
        self.resynchronise(ready)

    def resynchronise(self, ready: set[int]) -> None:
        rest = set(self.pending.due(self.now, 1 << 40))
        assert rest <= ready
        assert len(ready) - len(rest) in (0, 1)
        for seq in ready:
            expiry = self.expiry_of(seq)
            self.timers[seq] = expiry if expiry > self.tick else self.tick + 10

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "rows"):
            return
        pending = self.pending
        assert len(pending) == len(self.rows)
        for seq, row in self.rows.items():
            assert pending.get(seq) == row
        for reg in (0, 1, 2, 3, (1 << 31) - 1):
            chain = sorted(seq for seq, row in self.rows.items() if row[0] == reg)
            assert pending.of(reg) == chain
            assert pending.of(reg, 2) == chain[:2]
            assert pending.count_of(reg) == len(chain)
            for collapse in (7, 0xFFFF_FFFF):
                same = [seq for seq in chain if self.collapse[seq] == collapse]
                assert pending.collapsed(reg, collapse) == same
            assert pending.collapsed(reg, 0) == []


TestPendingAgainstDicts = PendingAgainstDicts.TestCase
TestPendingAgainstDicts.settings = settings(max_examples=120, stateful_step_count=35)


def test_a_timer_fires_on_its_own_tick_and_then_the_expiry_does() -> None:
    pending = Pending(START)
    pending.add(1, 1, 1, START_S + 60)
    assert pending.arm(1, START + 3000)
    assert pending.due(START + 2999, 10) == []
    assert pending.due(START + 3000, 10) == [1]
    assert pending.due(START + 59_999, 10) == []
    assert pending.due(START + 60_000, 10) == [1]


def test_an_expired_row_is_reported_once_more_each_second() -> None:
    pending = Pending(START)
    pending.add(1, 1, 1, START_S + 1)
    assert pending.due(START + 1000, 10) == [1]
    assert pending.due(START + 1999, 10) == []
    assert pending.due(START + 2000, 10) == [1]
    pending.remove(1)
    assert pending.due(START + 9000, 10) == []


def test_nothing_fires_early_between_two_ticks() -> None:
    pending = Pending(START + 37)
    pending.add(1, 1, 1, START_S + 60)
    pending.arm(1, START + 1000)
    assert pending.due(START + 1036, 10) == []
    assert pending.due(START + 1037, 10) == [1]


def test_what_exceeds_the_limit_stays_due_and_may_be_removed_or_armed_anew_there() -> None:
    pending = Pending(START)
    for seq in range(10):
        pending.add(seq, seq, seq, START_S + 60)
        pending.arm(seq, START + 100)
    first = pending.due(START + 100, 4)
    rest = [seq for seq in range(10) if seq not in first]
    assert len(rest) == 6
    assert pending.remove(rest[0]) is not None
    assert pending.remove(rest[-1]) is not None
    assert pending.arm(rest[2], START + 5000)
    assert sorted(pending.due(START + 100, 100)) == sorted({rest[1], rest[3], rest[4]})
    assert pending.due(START + 5000, 100) == [rest[2]]


def test_an_expiry_beyond_the_horizon_fires_at_its_time_only() -> None:
    pending = Pending(START)
    pending.add(1, 1, 1, LARGEST_S)
    now = START
    while now + HORIZON * 100 < LARGEST_S * 1000:
        now += HORIZON * 100
        assert pending.due(now, 10) == []
    assert pending.due(LARGEST_S * 1000 - 1, 10) == []
    assert pending.due(LARGEST_S * 1000, 10) == [1]


def test_a_leap_of_the_clock_past_everything_fires_everything_at_once() -> None:
    pending = Pending(START)
    for seq in range(100):
        pending.add(seq, 1, seq, START_S + seq * YEAR_S // 4)
    assert sorted(pending.due(LARGEST_S * 1000, 1000)) == list(range(100))


@settings(max_examples=40)
@given(st.permutations(range(40)), st.randoms(use_true_random=False))
def test_a_chain_ascends_in_whatever_order_it_is_filled(order: list[int], rng: random.Random) -> None:
    pending = Pending(START)
    for seq in order:
        pending.add(seq, 9, seq, START_S + 60)
    assert pending.of(9) == list(range(40))
    gone = set(rng.sample(order, 20))
    for seq in gone:
        pending.remove(seq)
    assert pending.of(9) == [seq for seq in range(40) if seq not in gone]


def test_a_chain_is_asked_for_what_is_below_a_sequence_of_its_field() -> None:
    pending = Pending(START)
    fields = [field << SEQ_SHIFT for field in (0, 3, 4)]
    for field in fields:
        for count in range(5):
            pending.add(field + count, 9, field + count, START_S + 60)
    of = [[field + count for count in range(5)] for field in fields]
    assert pending.of(9, below=fields[1] + 2) == of[0] + of[1][:2] + of[2]
    assert pending.of(9, below=fields[2]) == of[0] + of[1]
    assert pending.of(9, below=7 << SEQ_SHIFT) == pending.of(9)
    assert pending.of(9, 6, below=fields[1] + 1) == of[0] + of[1][:1]


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_memory_follows_the_rows_and_comes_back(order: str) -> None:
    count = 30_000
    pending = Pending(START)
    empty = pending.memory_bytes
    for seq in range(count):
        pending.add(seq, seq // 2, seq, START_S + 60)
    # A row of 64 bytes, and its share of the two tables.
    assert (pending.memory_bytes - empty) / count <= 64 + 12 / 0.65 + 16 / 0.65 / 2 + 8
    seqs = list(range(count))
    if order == "descending":
        seqs.reverse()
    elif order == "shuffled":
        random.Random(1).shuffle(seqs)
    for seq in seqs:
        assert pending.remove(seq) == (seq // 2, seq, 0, 0, START_S + 60)
    assert len(pending) == 0
    assert pending.memory_bytes - empty <= SPARE_CHUNK + 4096


def test_rows_added_in_order_and_settled_in_order_need_no_more_than_what_is_pending() -> None:
    pending = Pending(START)
    empty = pending.memory_bytes
    for seq in range(50_000):
        pending.add(seq, seq % 100, seq, START_S + 60)
        if seq >= 2000:
            pending.remove(seq - 2000)
    assert pending.memory_bytes - empty <= 6 * SPARE_CHUNK


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_add_many_takes_any_packed_buffer(make: type) -> None:
    pending = Pending(START)
    pending.add_many(10, make(array("I", [4, 4, 5]).tobytes()), 9, START_S + 60, 3)
    assert pending.of(4) == [10, 11]
    assert pending.get(12) == (5, 9, 0, 0, START_S + 60)
    assert pending.collapsed(4, 3) == [10, 11]
    pending.add_many(13, make(b""), 9, START_S + 60)
    assert len(pending) == 3


def test_add_many_with_one_bad_row_adds_none() -> None:
    pending = Pending(START)
    pending.add(12, 1, 1, START_S + 60)
    calls: list[tuple[int, bytes, type[Exception]]] = [
        (10, array("I", [1, 2, 3, 4]).tobytes(), ValueError),  # 12 is there
        (20, array("I", [1, 1 << 31]).tobytes(), ValueError),
        (20, b"\0\0\0\0\0", ValueError),
        ((1 << 64) - 1, array("I", [1, 2]).tobytes(), OverflowError),
    ]
    for first, packed, error in calls:
        with pytest.raises(error):
            pending.add_many(first, packed, 1, START_S + 60)
    assert len(pending) == 1
    assert pending.of(1) == [12]
    assert pending.due(START + 60_000, 10) == [12]


def test_values_out_of_range_are_refused() -> None:
    pending = Pending(START)
    good = {"seq": 1, "registration": 1, "notification": 1, "expires_s": 1, "collapse": 1, "state": 1, "hop": 1}
    bits = {
        "seq": 64, "registration": 31, "notification": 64, "expires_s": 32, "collapse": 32, "state": 8, "hop": 8
    }  # fmt: skip
    for name, width in bits.items():
        for bad in (-1, 1 << width):
            with pytest.raises((ValueError, OverflowError)):
                pending.add(**{**good, name: bad})
    calls: list[Callable[[], object]] = [
        lambda: pending.set_state(1, 256, 0),
        lambda: pending.of(-1),
        lambda: pending.of(1, -1),
        lambda: pending.count_of(1 << 31),
        lambda: pending.collapsed(1, 1 << 32),
        lambda: pending.arm(1, -1),
        lambda: pending.due(START, -1),
        lambda: Pending(-1),
    ]
    for call in calls:
        with pytest.raises((ValueError, OverflowError)):
            call()
    assert len(pending) == 0


def test_unknown_sequences_are_told() -> None:
    pending = Pending(START)
    assert pending.get(1) is None
    assert pending.remove(1) is None
    assert pending.set_state(1, 0, 0) is False
    assert pending.arm(1, START) is False
    assert pending.of(1) == []
    assert pending.count_of(1) == 0
