"""Quiet hours on days when the clock is set: they hold in each minute whose wall clock shows a time inside, and end
with the first that does not."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model.quiet import parse_span, quiet_until

#: (zone, the day before): forward and back, at night and at midnight, by half an hour, and a day that is left out
ODD_DAYS = [
    ("Europe/Berlin", "2026-03-28"),
    ("Europe/Berlin", "2026-10-24"),
    ("America/New_York", "2026-03-07"),
    ("America/New_York", "2026-10-31"),
    ("America/St_Johns", "2026-03-07"),
    ("America/Sao_Paulo", "2018-11-03"),
    ("America/Sao_Paulo", "2018-02-17"),
    ("America/Santiago", "2026-09-05"),
    ("America/Santiago", "2026-04-04"),
    ("Africa/Cairo", "2026-04-23"),
    ("Africa/Cairo", "2026-10-29"),
    ("Asia/Beirut", "2026-03-28"),
    ("Asia/Beirut", "2026-10-24"),
    ("Australia/Lord_Howe", "2026-04-04"),
    ("Australia/Lord_Howe", "2026-10-03"),
    ("Pacific/Apia", "2011-12-29"),
    ("Asia/Kathmandu", "2026-05-05"),
    ("", "2026-05-05"),
]


def minute_of(zone: str, day: str, clock: str = "00:00") -> int:
    return int(datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=ZoneInfo(zone or "UTC")).timestamp()) // 60


def minutes_inside(zone: str, span: str, first: int, count: int) -> list[bool]:
    parsed = parse_span(span)
    assert parsed is not None
    begin, end = parsed
    clocks = [datetime.fromtimestamp((first + i) * 60, ZoneInfo(zone or "UTC")).time() for i in range(count)]
    return [begin <= at < end if begin < end else at >= begin or at < end for at in clocks]


@pytest.mark.parametrize(("zone", "day"), ODD_DAYS)
@settings(max_examples=12)
@given(begin=st.integers(0, 95), length=st.integers(1, 95), odd=st.integers(0, 14))
def test_they_end_with_the_first_minute_outside(zone: str, day: str, begin: int, length: int, odd: int) -> None:
    begin_min = begin * 15 + odd
    end_min = (begin_min + length * 15) % 1440
    span = f"{begin_min // 60:02}:{begin_min % 60:02}-{end_min // 60:02}:{end_min % 60:02}"
    first = minute_of(zone, day, "12:00")
    inside = minutes_inside(zone, span, first, 3 * 1440)
    outside = len(inside)
    ends = [0] * len(inside)
    for i in reversed(range(len(inside))):
        outside = outside if inside[i] else i
        ends[i] = outside
    changes = [i for i, (one, next_) in enumerate(pairwise(inside)) if one != next_]
    for i in {*range(0, 2 * 1440, 29), *changes, *(i + 1 for i in changes)}:
        if i < 2 * 1440:
            until = quiet_until(zone, span, (first + i) * 60_000 + 30_500)
            assert until == ((first + ends[i]) * 60_000 if inside[i] else 0), (span, i)


@pytest.mark.parametrize(
    ("zone", "day", "span", "ends"),
    [
        ("Europe/Berlin", "2026-03-29", "22:00-02:30", "03:00"),
        ("America/New_York", "2026-03-08", "22:00-02:30", "03:00"),
        ("America/Sao_Paulo", "2018-11-04", "22:00-00:30", "01:00"),
        ("Africa/Cairo", "2026-04-24", "22:00-00:30", "01:00"),
        ("Australia/Lord_Howe", "2026-10-04", "22:00-02:15", "02:30"),
    ],
)
def test_where_the_clock_is_set_over_the_end_that_is_the_end(zone: str, day: str, span: str, ends: str) -> None:
    end = minute_of(zone, day, ends)
    assert quiet_until(zone, span, (end - 90) * 60_000) == end * 60_000
    assert quiet_until(zone, span, end * 60_000) == 0


def test_an_end_that_comes_twice_is_one_each_time() -> None:
    zone, day = "Europe/Berlin", "2026-10-25"
    first = minute_of(zone, day, "02:30")
    assert quiet_until(zone, "22:00-02:30", (first - 120) * 60_000) == first * 60_000
    assert quiet_until(zone, "22:00-02:30", (first + 10) * 60_000) == 0
    assert quiet_until(zone, "22:00-02:30", (first + 40) * 60_000) == (first + 60) * 60_000
