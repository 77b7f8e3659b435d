"""How many messages each user may send in a minute, or other things that others are told; must never grow with the
number of users there are."""

from __future__ import annotations

from collections import OrderedDict

#: users whose pace is remembered (about 150 bytes each); past it the one who sent longest ago begins anew
MOST = 100_000
_MINUTE_MS = 60_000


class Pace:
    """A bucket for each: as much at once as in a minute, and it fills evenly."""

    def __init__(self, per_minute: int, most: int = MOST) -> None:
        self._per_minute = per_minute
        self._most = most
        #: user → when the bucket will be full, Unix ms
        self._full_at: OrderedDict[bytes, float] = OrderedDict()
        self._newest_ms = 0

    def take(self, user: bytes, now_ms: int, count: int) -> int:
        """0: counted. Else nothing is, and this is how many ms it takes until there is room."""
        if now_ms < self._newest_ms - _MINUTE_MS:
            self._full_at.clear()  # the clock was set back: buckets of a time to come would not fill until then
        self._newest_ms = now_ms
        full_at = max(self._full_at.get(user, 0.0), float(now_ms))
        after = full_at + count * _MINUTE_MS / self._per_minute
        # more at once than a minute has passes where the bucket is full: it is for im.recipients to forbid it
        late_ms = after - now_ms - _MINUTE_MS
        if late_ms > 0 and full_at > now_ms:
            return max(1, int(min(late_ms, full_at - now_ms)))
        self._full_at[user] = after
        self._full_at.move_to_end(user)
        if len(self._full_at) > self._most:
            self._full_at.popitem(last=False)
        return 0
