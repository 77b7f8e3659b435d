"""How much of something each may use in an hour or a day; windows begin at full hours and days (UTC).

Counts live in RAM and begin anew after a restart. Must never keep an address: keys are hashed by whoever counts.
"""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict

from gateway.metrics.names import Metric
from gateway.metrics.sink import Metrics
from gateway.model.im_people import User

HOUR_MS = 3_600_000
DAY_MS = 86_400_000
#: counts kept of one window (about 150 bytes each); past it the one that was used least recently begins anew
#: (counted)
MAX_KEYS = 200_000


class Rate:
    """Loop thread only."""

    def __init__(self, what: str, most: int, window_ms: int, metrics: Metrics, *, max_keys: int = MAX_KEYS) -> None:
        self._what = what
        self._metrics = metrics
        self._most = most
        self._window_ms = window_ms
        self._max_keys = max_keys
        self._window = -1
        self._used: OrderedDict[bytes, int] = OrderedDict()

    def room(self, key: bytes, now_ms: int) -> int:
        self._turn(now_ms)
        return max(0, self._most - self._used.get(key, 0))

    def take(self, key: bytes, now_ms: int, count: int = 1) -> int:
        """0: counted. Else nothing is, and this is how many ms it takes until the next window."""
        if self.room(key, now_ms) < count:
            return self.after_ms(now_ms)
        self._used[key] = self._used.get(key, 0) + count
        self._used.move_to_end(key)
        if len(self._used) > self._max_keys:
            self._used.popitem(last=False)
            self._metrics.count(Metric.IM_RATES_FORGOTTEN, label=self._what)
        return 0

    def after_ms(self, now_ms: int) -> int:
        return max(1, (self._window + 1) * self._window_ms - now_ms)

    def _turn(self, now_ms: int) -> None:
        window = now_ms // self._window_ms
        if window > self._window:
            self._window = window
            self._used.clear()
        elif window < self._window - 1:  # a clock that ran far ahead: nobody waits until that time has come
            self._window = window
        # one that was set back a little does not give anybody a second window


class PersonRate:
    """By user and by each of their addresses: who is removed and comes again goes on where they were. Loop thread
    only."""

    def __init__(self, what: str, most: int, metrics: Metrics) -> None:
        self._rate = Rate(what, most, DAY_MS, metrics)
        self._key = secrets.token_bytes(32)

    def take(self, user: User, now_ms: int, count: int = 1) -> int:
        """0: counted. Else nothing is, and this is how many ms it takes until tomorrow."""
        keys = [user.user, *(hmac.digest(self._key, address.encode(), "sha256") for address in user.addresses)]
        if min(self._rate.room(key, now_ms) for key in keys) < count:
            return self._rate.after_ms(now_ms)
        for key in keys:
            self._rate.take(key, now_ms, count)
        return 0
