"""Quiet hours: a daily span of local time in which only urgent notifications go out; pure arithmetic on a given clock.

The span is in the registration's own time zone, so it moves with daylight saving: it begins and ends by the wall clock.
"""

from __future__ import annotations

import re
from datetime import datetime, time
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
DAY_S = 86_400
#: times that a clock is set in a day, at most
_MOST_CHANGES = 4
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}")


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    # `localtime` is whatever this machine's is, and in Factory nobody is.
    return frozenset(available_timezones() - {"localtime", "Factory"})


@lru_cache(maxsize=1)
def _old_names() -> dict[str, str]:
    """Other names of zones → the zone: links (zic(8)) that are no place of zone.tab. A place is a link too where its
    clock is like another's (Europe/Stockholm, Europe/Berlin), and stays what it is; so does a name for one of several
    such places, which a link does not tell apart (Iceland leads to Africa/Abidjan)."""
    try:
        folder = files("tzdata") / "zoneinfo"
        places = {line.split("\t")[2].strip() for line in _lines(folder / "zone.tab") if line.count("\t") >= 2}
        links = dict(line.split()[2:0:-1] for line in _lines(folder / "tzdata.zi") if line.startswith("L "))
    except (OSError, ModuleNotFoundError, ValueError):
        return {}
    shared = {links[place] for place in places & links.keys()}
    return {name: zone for name, zone in links.items() if name not in places and zone not in shared | links.keys()}


def _lines(file: Traversable) -> list[str]:
    return [line for line in file.read_text().splitlines() if not line.startswith("#")]


def zone_of(name: str) -> str:
    """A zone by whatever name it has: Asia/Kolkata for Asia/Calcutta, Etc/UTC for UTC."""
    return _old_names().get(name, name)


def load_timezones() -> None:
    """Read their names now: it takes a tenth of a second, which the first REGISTER shall not wait for."""
    _zones()
    _old_names()


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


def _offset_s(zone: ZoneInfo, minute: int) -> int:
    offset = datetime.fromtimestamp(minute * 60, zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


def _first_changed(zone: ZoneInfo, before: int, after: int) -> int:
    """The minute at which the offset of `before` ends, where `after` has another."""
    offset = _offset_s(zone, before)
    while after - before > 1:
        middle = (before + after) // 2
        if _offset_s(zone, middle) == offset:
            before = middle
        else:
            after = middle
    return after


@lru_cache(maxsize=65_536)
def _spell(timezone: str, span: str, minute: int) -> int:
    """Unix ms of the end of the quiet hours that hold in this minute (Unix time / 60), 0 where none do: of the first
    minute whose wall clock shows a time outside."""
    parsed = parse_span(span)
    if parsed is None:
        return 0
    begin_s, end_s = (at.hour * 3_600 + at.minute * 60 for at in parsed)
    try:
        zone = ZoneInfo(timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        zone = ZoneInfo("UTC")
    at = minute
    for _ in range(_MOST_CHANGES):
        offset_s = _offset_s(zone, at)
        clock_s = (at * 60 + offset_s) % DAY_S
        if not (begin_s <= clock_s < end_s if begin_s < end_s else clock_s >= begin_s or clock_s < end_s):
            break
        end = at - -((end_s - clock_s) % DAY_S) // 60
        if _offset_s(zone, end) == offset_s:
            at = end
            break
        # The clock is set before that: over the end, or back from it.
        at = _first_changed(zone, at, end)
    return at * 60_000 if at > minute else 0


def quiet_until(timezone: str, span: str, now_ms: int) -> int:
    """Unix ms at which the quiet hours end that hold now, 0 where none do."""
    return _spell(timezone, span, now_ms // 60_000) if span else 0
