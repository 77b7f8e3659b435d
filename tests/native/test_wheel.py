"""The timing wheel against a dict of ticks: nothing lost, nothing early, tick order, across the wrap of ticks."""

import random
import time
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway._native.wheel import Wheel

MASK = 0xFFFF_FFFF
HORIZON = (1 << 31) - 1

keys = st.integers(0, 30)
# Around each level's edge, and anywhere.
spans = st.one_of(
    st.integers(0, 600),
    st.builds(lambda power, off: max(0, (1 << power) + off), st.integers(7, 30), st.integers(-3, 3)),
    st.integers(0, HORIZON),
)


class WheelAgainstDict(RuleBasedStateMachine):
    @initialize(start=st.one_of(st.integers(0, MASK), st.integers(MASK - 70_000, MASK)))
    def begin(self, start: int) -> None:
        self.now = start  # unbounded; the wheel sees its low 32 bits
        self.wheel = Wheel(start)
        self.armed: dict[int, int] = {}

    @rule(key=keys, ahead=spans)
    def arm_ahead(self, key: int, ahead: int) -> None:
        self.wheel.arm(key, (self.now + ahead) & MASK)
        self.armed[key] = self.now + ahead

    @rule(key=keys, behind=spans)
    def arm_behind(self, key: int, behind: int) -> None:
        self.wheel.arm(key, (self.now - behind) & MASK)
        self.armed[key] = self.now

    @rule(key=keys)
    def cancel(self, key: int) -> None:
        assert self.wheel.cancel(key) is (self.armed.pop(key, None) is not None)

    def advance_to(self, now: int) -> None:
        fired = self.wheel.advance(now & MASK)
        ticks = [self.armed.pop(key) for key in fired]
        assert ticks == sorted(ticks)
        assert all(tick <= now for tick in ticks)
        assert all(tick > now for tick in self.armed.values())
        self.now = now

    @rule(by=spans)
    def advance(self, by: int) -> None:
        self.advance_to(self.now + by)

    @rule()
    def advance_by_what_it_allows_to_sleep(self) -> None:
        allowed = self.wheel.next_in()
        if allowed is not None:
            self.advance_to(self.now + allowed)

    @rule(by=st.integers(1, HORIZON))
    def time_never_goes_back(self, by: int) -> None:
        late = {key for key, tick in self.armed.items() if tick == self.now}
        assert set(self.wheel.advance((self.now - by) & MASK)) == late
        for key in late:
            del self.armed[key]

    @invariant()
    def sleeping_misses_nothing(self) -> None:
        if not hasattr(self, "wheel"):
            return
        assert len(self.wheel) == len(self.armed)
        allowed = self.wheel.next_in()
        if not self.armed:
            assert allowed is None
        else:
            first = min(self.armed.values()) - self.now
            assert allowed is not None
            assert allowed <= first
            assert (allowed == 0) == (first == 0)


TestWheelAgainstDict = WheelAgainstDict.TestCase
TestWheelAgainstDict.settings = settings(max_examples=150, stateful_step_count=40)


@pytest.mark.parametrize("start", [0, 255, 65_535, (1 << 31) - 5, MASK, MASK - 300, MASK - 70_000])
def test_every_timer_fires_at_its_own_tick_and_not_before(start: int) -> None:
    rng = random.Random(start)
    wheel = Wheel(start)
    at = {key: rng.choice([rng.randrange(1, 300), rng.randrange(1, 70_000)]) for key in range(2000)}
    for key, ahead in at.items():
        wheel.arm(key, (start + ahead) & MASK)
    for tick in sorted(set(at.values())):
        assert wheel.advance((start + tick - 1) & MASK) == []
        fired = wheel.advance((start + tick) & MASK)
        assert set(fired) == {key for key, ahead in at.items() if ahead == tick}
    assert len(wheel) == 0


def test_a_timer_at_the_horizon_fires_then_and_not_one_tick_before() -> None:
    wheel = Wheel(7)
    wheel.arm(1, (7 + HORIZON) & MASK)
    assert wheel.advance((7 + HORIZON - 1) & MASK) == []
    assert wheel.advance((7 + HORIZON) & MASK) == [1]


def test_past_and_present_ticks_fire_at_the_next_advance_even_to_the_same_tick() -> None:
    wheel = Wheel(1000)
    wheel.arm(1, 1000)
    wheel.arm(2, 3)
    wheel.arm(3, 1001)
    assert wheel.next_in() == 0
    assert sorted(wheel.advance(1000)) == [1, 2]
    assert wheel.advance(1000) == []
    assert wheel.advance(1001) == [3]


def test_late_timers_fire_before_later_ones_in_a_long_advance() -> None:
    wheel = Wheel(1000)
    wheel.arm(1, 1_000_000)
    wheel.arm(2, 1001)
    wheel.arm(3, 10)
    assert wheel.advance(2_000_000) == [3, 2, 1]


def test_rearming_moves_a_timer() -> None:
    wheel = Wheel()
    wheel.arm(1, 10)
    wheel.arm(1, 100_000)
    assert len(wheel) == 1
    assert wheel.advance(99_999) == []
    wheel.arm(1, 100_500)
    assert wheel.advance(100_499) == []
    assert wheel.advance(100_500) == [1]


def test_cancelled_timers_never_fire_and_leave_no_wake_up_behind() -> None:
    wheel = Wheel()
    for key in range(1000):
        wheel.arm(key, key * 997)
    assert all(wheel.cancel(key) for key in range(1000))
    assert wheel.cancel(0) is False
    assert wheel.next_in() is None
    assert wheel.advance(HORIZON) == []


@pytest.mark.parametrize("bad", [-1, 1 << 32])
def test_ticks_outside_32_bits_are_refused(bad: int) -> None:
    wheel = Wheel()
    calls: list[Callable[[], object]] = [
        lambda: wheel.arm(1, bad),
        lambda: wheel.advance(bad),
        lambda: Wheel(bad),
    ]
    for call in calls:
        with pytest.raises(OverflowError):
            call()
    assert len(wheel) == 0


def test_advancing_over_empty_stretches_does_not_count_ticks() -> None:
    wheel = Wheel()
    now = 0
    begin = time.perf_counter()
    for _ in range(1000):
        wheel.arm(1, (now + (1 << 24)) & MASK)
        assert wheel.advance((now + (1 << 24) - 1) & MASK) == []
        now = (now + (1 << 24)) & MASK
        assert wheel.advance(now) == [1]
    # 2^34 ticks in all: one at a time they would take minutes.
    assert time.perf_counter() - begin < 2
