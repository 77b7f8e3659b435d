"""What an app and each of its keys may send: a rate with a burst, and a number a day; must never let one app's use
count against another's.

Rates live in RAM and begin full after a restart. Days are UTC days; their counts are durable, a second behind. What was
counted and then refused is given back to its day, and not to its rate: to ask for what is wrong costs work too.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from gateway.model.errors import AcceptTimeout, GatewayError, NodeUnreachable, TooManyRequests
from gateway.model.registration import App, Limits

DAY_MS = 86_400_000
#: buckets kept; past it the one that was not used for longest is forgotten, and begins full again
MAX_BUCKETS = 100_000
#: key id of a push that came through a door without API keys: only its app's limits count
NO_KEY = ""


def is_refused(error: GatewayError) -> bool:
    """Is it certain that nothing was accepted?"""
    return not isinstance(error, AcceptTimeout | NodeUnreachable) and type(error) is not GatewayError


class DayCounts(Protocol):
    """Durable counts; store.quotas.QuotaCounts."""

    def used(self, app: int, key: str, day: int) -> int: ...

    def add(self, app: int, key: str, day: int, count: int) -> None:
        """Of a negative count there is as much as was used at most."""
        ...


class _Bucket:
    __slots__ = ("at_ms", "tokens")

    def __init__(self, tokens: float, at_ms: int) -> None:
        self.tokens = tokens
        self.at_ms = at_ms


class Room(NamedTuple):
    """How many may be sent now, and how long until one more may."""

    pushes: int
    after_ms: int
    what: str = ""


class Quotas:
    """Loop thread only."""

    def __init__(self, counts: DayCounts) -> None:
        self._counts = counts
        self._buckets: OrderedDict[tuple[int, str], _Bucket] = OrderedDict()

    def admit(self, app: App, key_id: str, count: int, now_ms: int) -> tuple[int, TooManyRequests | None]:
        """Count up to `count` pushes of this key: how many of them may be sent, and what to tell of the rest."""
        rooms = [self._room(app, name, limits, what, now_ms) for name, limits, what in self._limits(app, key_id)]
        least = min(rooms, key=lambda room: room.pushes, default=Room(count, 0))
        allowed = min(count, least.pushes)
        if allowed:
            for name, limits, _ in self._limits(app, key_id):
                self._take(app, name, limits, allowed, now_ms)
        if allowed == count:
            return count, None
        rooms = [self._room(app, name, limits, what, now_ms) for name, limits, what in self._limits(app, key_id)]
        least = max((room for room in rooms if not room.pushes), key=lambda room: room.after_ms)
        return allowed, TooManyRequests(f"{least.what} is used up; nothing of it was accepted", after_ms=least.after_ms)

    def require(self, app: App, key_id: str, now_ms: int) -> None:
        """Count one push; TooManyRequests where it may not be sent now."""
        _, error = self.admit(app, key_id, 1, now_ms)
        if error is not None:
            raise error

    def refund(self, app: App, key_id: str, count: int, counted_ms: int) -> None:
        """So many of what was admitted at that time were refused after all. A day that is over gets nothing back, nor
        does a later one in its place."""
        day = counted_ms // DAY_MS
        for name, limits, _ in self._limits(app, key_id):
            back = min(count, self._counts.used(app.number, name, day)) if limits.per_day else 0
            if back > 0:
                self._counts.add(app.number, name, day, -back)

    @contextmanager
    def counted(self, app: App, key_id: str, now_ms: int) -> Iterator[None]:
        """Count one push, but for the day only where it is not refused inside. TooManyRequests."""
        self.require(app, key_id, now_ms)
        try:
            yield
        except GatewayError as error:
            if is_refused(error):
                self.refund(app, key_id, 1, now_ms)
            raise

    def _limits(self, app: App, key_id: str) -> list[tuple[str, Limits, str]]:
        found = [("", app.limits, "the app's")] if app.limits != _NONE else []
        for key in app.keys:
            if key.id == key_id and key.limits != _NONE:
                found.append((key.id, key.limits, "the key's"))
        return found

    def _room(self, app: App, name: str, limits: Limits, whose: str, now_ms: int) -> Room:
        room = Room(1 << 62, 0)
        if limits.per_s:
            bucket = self._bucket(app, name, limits, now_ms)
            missing = 1 - bucket.tokens
            after_ms = max(1, math.ceil(missing * 1000 / limits.per_s))
            room = Room(int(bucket.tokens), after_ms, f"{whose} rate of {limits.per_s} a second")
        if limits.per_day:
            day = now_ms // DAY_MS
            left = max(0, limits.per_day - self._counts.used(app.number, name, day))
            if left < room.pushes:
                room = Room(left, (day + 1) * DAY_MS - now_ms, f"{whose} quota of {limits.per_day} a day")
        return room

    def _take(self, app: App, name: str, limits: Limits, count: int, now_ms: int) -> None:
        if limits.per_s:
            self._bucket(app, name, limits, now_ms).tokens -= count
        if limits.per_day:
            self._counts.add(app.number, name, now_ms // DAY_MS, count)

    def _bucket(self, app: App, name: str, limits: Limits, now_ms: int) -> _Bucket:
        size = limits.burst or limits.per_s
        bucket = self._buckets.get((app.number, name))
        if bucket is None:
            bucket = self._buckets[app.number, name] = _Bucket(size, now_ms)
            if len(self._buckets) > MAX_BUCKETS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end((app.number, name))
        passed_ms = max(0, now_ms - bucket.at_ms)
        bucket.tokens = min(float(size), bucket.tokens + passed_ms * limits.per_s / 1000)
        bucket.at_ms = now_ms
        return bucket


_NONE = Limits()
