"""Turns at a rate: who gets one when, and who is sent away for how long."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.paging.sms.turns import LONGEST_AWAY_S, TooLong, Turns


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_one_after_the_other() -> None:
    turns = Turns(10.0, 60.0, Clock())
    assert [turns.take(1)[0] for _ in range(3)] == pytest.approx([100.0, 100.1, 100.2])
    assert turns.take(3) == pytest.approx([100.3, 100.4, 100.5])


def test_time_that_nobody_used_is_no_reserve() -> None:
    clock = Clock()
    turns = Turns(10.0, 60.0, clock)
    turns.take(1)
    clock.now_s = 200.0
    assert [turns.take(1)[0] for _ in range(2)] == pytest.approx([200.0, 200.1])


def test_no_rate_is_no_wait() -> None:
    turns = Turns(0.0, 0.001, Clock())
    assert [turns.take(2) for _ in range(3)] == [[100.0, 100.0]] * 3


def test_who_is_sent_away_comes_back_when_there_is_room() -> None:
    clock = Clock()
    turns = Turns(10.0, 1.0, clock)
    turns.take(11)
    away = [_away(turns) for _ in range(2)]
    assert away == pytest.approx([1.2, 1.3])
    clock.now_s += away[0]
    assert turns.take(1) == [clock.now_s]


def _away(turns: Turns) -> float:
    with pytest.raises(TooLong) as error:
        turns.take(1)
    return error.value.for_s


def test_nobody_is_sent_away_for_ever() -> None:
    turns = Turns(0.001, 1.0, Clock())
    turns.take(100)
    assert _away(turns) == LONGEST_AWAY_S


def _take(turns: Turns, count: int) -> list[float]:
    """Empty: sent away."""
    try:
        return turns.take(count)
    except TooLong:
        return []


@given(
    st.floats(0.5, 1_000.0),
    st.lists(st.tuples(st.integers(1, 5), st.floats(0.0, 2.0)), max_size=60),
)
def test_never_faster_than_the_rate_nor_later_than_promised(rate: float, asked: list[tuple[int, float]]) -> None:
    clock = Clock()
    turns = Turns(rate, 3.0, clock)
    given_s: list[float] = []
    for count, later_s in asked:
        clock.now_s += later_s
        taken = _take(turns, count)
        if not taken:
            continue
        assert taken[0] <= clock.now_s + 3.0
        given_s += taken
    for before, after in itertools.pairwise(given_s):
        assert after - before >= 1 / rate - 1e-6
