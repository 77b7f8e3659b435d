"""Quiet hours: a daily span of local time in which only urgent notifications go out; pure arithmetic on a given clock.

The span is in the registration's own time zone, so it moves with daylight saving: it begins and ends by the wall clock.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}")


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    # `localtime` is whatever this machine's is, and in Factory nobody is.
    return frozenset(available_timezones() - {"localtime", "Factory"})


def load_timezones() -> None:
    """Read their names now: it takes a tenth of a second, which the first REGISTER shall not wait for."""
    _zones()


def is_timezone(name: str) -> bool:
    """Is it an IANA zone that is known here?"""
    return bool(_ZONE.fullmatch(name)) and name in _zones()


def parse_span(text: str) -> tuple[time, time] | None:
    """(from, to) of "22:00-07:00"; None where it is no such text or the span is empty."""
    match = _SPAN.fullmatch(text)
    if match is None:
        return None
    hours = [int(part) for part in match.groups()]
    begin, end = time(hours[0], hours[1]), time(hours[2], hours[3])
    return None if begin == end else (begin, end)


@lru_cache(maxsize=65_536)
def _spell(timezone: str, span: str, minute: int) -> int:
    """Unix ms of the end of the quiet hours that hold in this minute (Unix time / 60), 0 where none do."""
    parsed = parse_span(span)
    if parsed is None:
        return 0
    begin, end = parsed
    try:
        zone = ZoneInfo(timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        zone = ZoneInfo("UTC")
    local = datetime.fromtimestamp(minute * 60, zone)
    clock = local.time()
    inside = begin <= clock < end if begin < end else clock >= begin or clock < end
    if not inside:
        return 0
    day = local.date() if clock < end else local.date() + timedelta(days=1)
    until = datetime.combine(day, end, zone).astimezone(UTC)
    # Where the clock was set forward over the end, the end as written lies before now: the next minute decides again.
    return max(int(until.timestamp()), (minute + 1) * 60) * 1_000


def quiet_until(timezone: str, span: str, now_ms: int) -> int:
    """Unix ms at which the quiet hours end that hold now, 0 where none do."""
    return _spell(timezone, span, now_ms // 60_000) if span else 0
