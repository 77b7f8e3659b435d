"""Limits of one device: never more in any hour or day than the app allows, and as many as that."""

from __future__ import annotations

import random
from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.caps import DAY_S, HOUR_S, MAX_TIMES, DeviceCaps
from gateway.model.registration import App

START_MS = 1_800_000_000_000
HOUR_MS, DAY_MS = HOUR_S * 1000, DAY_S * 1000


def within(times: list[int], end_ms: int, period_ms: int) -> int:
    """How many of these are in the period that ends with this moment."""
    return bisect_right(times, end_ms) - bisect_right(times, end_ms - period_ms)


@pytest.mark.parametrize(
    ("app", "period_s", "step_s", "limit"),
    [(App(name="a", device_per_hour=10), HOUR_S, 1, 10), (App(name="a", device_per_day=5), DAY_S, 10, 5)],
    ids=["hour", "day"],
)
def test_whoever_pushes_all_the_time_gets_the_limit_through_once_a_period(
    app: App, period_s: int, step_s: int, limit: int
) -> None:
    caps = DeviceCaps()
    let = [s for s in range(0, 3 * period_s, step_s) if caps.admit(app, 1, START_MS + s * 1000)]
    assert let == [period * period_s + n * step_s for period in range(3) for n in range(limit)]


@given(
    limit=st.integers(1, MAX_TIMES) | st.integers(MAX_TIMES + 1, 200),
    seed=st.integers(0, 1 << 32),
    mean_ms=st.integers(1_000, 2 * HOUR_MS),
)
def test_no_hour_has_more_than_the_limit_and_none_is_refused_below_it(limit: int, seed: int, mean_ms: int) -> None:
    luck, caps, app = random.Random(seed), DeviceCaps(), App(name="a", device_per_hour=limit)
    numbers = [0, 7, 70_000]
    let: dict[int, list[int]] = {number: [] for number in numbers}
    now = START_MS
    # above MAX_TIMES a time stands for several pushes
    surely = limit if limit <= MAX_TIMES else limit - 2 * (-(-limit // MAX_TIMES))
    for _ in range(400):
        now += luck.choice([0, 1, int(luck.expovariate(1 / mean_ms)), int(luck.expovariate(limit / HOUR_MS))])
        number = luck.choice(numbers)
        before = within(let[number], now, HOUR_MS)
        if caps.admit(app, number, now):
            assert before < limit
            let[number].append(now)
        else:
            assert within(let[number], now, HOUR_MS + HOUR_MS // 8) >= surely


def test_both_limits_hold_and_what_one_refuses_the_other_does_not_count() -> None:
    caps, app = DeviceCaps(), App(name="a", device_per_hour=2, device_per_day=5)
    let = [m for m in range(48 * 60) if caps.admit(app, 3, START_MS + m * 60_000)]
    assert let == [0, 1, 60, 61, 120, 1440, 1441, 1500, 1501, 1560]


def test_a_high_limit_lets_all_of_it_through_at_once_and_no_more() -> None:
    caps, app = DeviceCaps(), App(name="a", device_per_hour=1_000)
    assert sum(caps.admit(app, 1, START_MS + i) for i in range(1_500)) == 1_000
    assert not caps.admit(app, 1, START_MS + HOUR_MS - 1)
    assert sum(caps.admit(app, 1, START_MS + HOUR_MS + 1_500 + i) for i in range(1_500)) == 1_000


def test_a_limit_that_is_lowered_or_raised_counts_what_was_let_through() -> None:
    caps = DeviceCaps()
    for i in range(5):
        assert caps.admit(App(name="a", device_per_hour=5), 1, START_MS + i)
    assert not caps.admit(App(name="a", device_per_hour=3), 1, START_MS + 10)
    assert caps.admit(App(name="a", device_per_hour=6), 1, START_MS + 10)
    assert not caps.admit(App(name="a", device_per_hour=6), 1, START_MS + 11)


def test_a_clock_that_was_ahead_and_is_back_shuts_nobody_out() -> None:
    caps, app = DeviceCaps(), App(name="a", device_per_hour=1)
    assert caps.admit(app, 1, START_MS + 400 * DAY_MS)
    assert caps.admit(app, 1, START_MS)
    assert not caps.admit(app, 1, START_MS - 60_000)  # a small step back is none


def test_rows_of_those_who_get_nothing_any_more_are_given_back() -> None:
    caps, app = DeviceCaps(), App(name="a", device_per_hour=4)
    for period in range(6):
        for number in range(100):
            for i in range(4):
                assert caps.admit(app, 1000 * period + number, START_MS + period * HOUR_MS + i)
    window = caps._hour
    assert len(window._now.words) + len(window._before.words) <= 2 * 100 * (2 + 2 + 2 + 4)
