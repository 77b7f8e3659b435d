"""How many pushes one registration gets in an hour and in a day, where its app limits them; urgent ones do not count.
Must never let more through than the limit in any hour or day, wherever it begins.

Of each registration the times of its last pushes are kept: four bytes for each that the limit allows, above 32 one time
for several, so that up to a sixteenth of the limit may be free late. Only those that had a push in the last two periods
have such a row, the others four bytes, and none where no app has such a limit. In RAM only: a restart begins anew.
"""

from __future__ import annotations

from array import array

from gateway.model.registration import App

HOUR_S = 3_600
DAY_S = 86_400
#: times kept of one registration and period; of a higher limit each stands for several pushes, and is their last one's
MAX_TIMES = 32
_GROW = 65_536
_MASK = 0xFFFF_FFFF
#: words of a row before its times: pushes a time stands for and how many the newest does; room and number of times
_HEAD = 2
_FIRST_ROOM = 2


class _Rows:
    """Rows of the registrations that had a push in one period; forgotten all at once."""

    __slots__ = ("at", "words")

    def __init__(self) -> None:
        self.words = array("I")
        #: by registration: where its row begins, plus 1; 0: it has none
        self.at = array("I")

    def find(self, number: int) -> int:
        """-1: none."""
        return self.at[number] - 1 if number < len(self.at) else -1

    def add(self, number: int, row: array[int]) -> int:
        if number >= len(self.at):
            self.at.frombytes(bytes(4 * (number + _GROW - len(self.at))))
        place = len(self.words)
        self.words.extend(row)
        self.at[number] = place + 1
        return place


class _Window:
    """Times are Unix milliseconds, 32 bits of them: none is ever looked at that is older than three periods."""

    __slots__ = ("_before", "_now", "_period_ms", "_turned_ms")

    def __init__(self, period_s: int) -> None:
        self._period_ms = period_s * 1_000
        self._turned_ms = 0
        self._now = _Rows()
        #: of the period before; a row that is used again moves to the others, and what is left then is over
        self._before = _Rows()

    def has_room(self, number: int, limit: int, now_ms: int) -> bool:
        if not limit:
            return True
        self._turn(now_ms)
        place = self._find(number)
        if place < 0:
            return True
        words, group = self._now.words, _group(limit)
        if words[place] >> 16 != group:
            words[place] = group << 16  # the limit is another: it begins anew
            words[place + 1] &= ~0xFF
        times = words[place + 1] & 0xFF
        first, end = place + _HEAD, place + _HEAD + times
        live = next((i for i in range(first, end) if self._is_live(words[i], now_ms)), end)
        if live > first:
            words[first : end - (live - first)] = words[live:end]
            times = end - live
            words[place + 1] = words[place + 1] & ~0xFF | times
        return not times or (times - 1) * group + (words[place] & 0xFFFF) < limit

    def take(self, number: int, limit: int, now_ms: int) -> None:
        """Behind has_room."""
        if not limit:
            return
        group, time = _group(limit), now_ms & _MASK
        place = self._find(number)
        if place < 0:
            self._now.add(number, array("I", [group << 16 | 1, _FIRST_ROOM << 8 | 1, time, *[0] * (_FIRST_ROOM - 1)]))
            return
        words = self._now.words
        room, times = words[place + 1] >> 8, words[place + 1] & 0xFF
        if times and words[place] & 0xFFFF < group:
            words[place] += 1
            words[place + _HEAD + times - 1] = time
            return
        if times == room:
            row = words[place : place + _HEAD + room] + array("I", [0] * room)
            place = self._now.add(number, row)
            room *= 2
        words[place] = group << 16 | 1
        words[place + 1] = room << 8 | times + 1
        words[place + _HEAD + times] = time

    def _is_live(self, time: int, now_ms: int) -> bool:
        """Also where the clock was set back behind it, by less than a period."""
        return (now_ms - time + self._period_ms) & _MASK < 2 * self._period_ms

    def _turn(self, now_ms: int) -> None:
        age_ms = now_ms - self._turned_ms
        if -self._period_ms <= age_ms < self._period_ms:
            return
        # What was used last before the turn before is older than a period by now.
        self._before = self._now if 0 <= age_ms < 2 * self._period_ms else _Rows()
        self._now = _Rows()
        self._turned_ms = now_ms

    def _find(self, number: int) -> int:
        """Where its row begins; -1: it has none."""
        place = self._now.find(number)
        before = self._before.find(number) if place < 0 else -1
        if before < 0:
            return place
        words = self._before.words
        return self._now.add(number, words[before : before + _HEAD + (words[before + 1] >> 8)])


def _group(limit: int) -> int:
    """Pushes that one time stands for."""
    return -(-limit // MAX_TIMES)


class DeviceCaps:
    """Loop thread only."""

    def __init__(self) -> None:
        self._hour = _Window(HOUR_S)
        self._day = _Window(DAY_S)

    def admit(self, app: App, number: int, now_ms: int) -> bool:
        """Count one push; False where it is one too many."""
        if not (
            self._hour.has_room(number, app.device_per_hour, now_ms)
            and self._day.has_room(number, app.device_per_day, now_ms)
        ):
            return False
        self._hour.take(number, app.device_per_hour, now_ms)
        self._day.take(number, app.device_per_day, now_ms)
        return True
