"""Which heartbeat interval to ask for (A6): longer while idle links hold, shorter after a cut; never reads a clock.

Mobile NATs forget an idle connection after a time nobody tells; 270 s was seen. Each needless heartbeat wakes a radio,
so the interval is learned: ×1.25 after three idle intervals that held, half after a cut that looks idle-related. An
interval that failed is a ceiling, tried again only after many that held.
"""

from __future__ import annotations

import math

GOOD_INTERVALS = 3
GROWTH = 1.25
SHRINK = 0.5
#: a cut after this part of the interval in silence looks idle-related
IDLE_PART = 0.8
#: idle intervals below the ceiling after which it is forgotten: the device may be in another network by now
CEILING_INTERVALS = 48


class AdaptiveHeartbeat:
    """All values in whole seconds. `wanted` 0: no wish yet, the gateway chooses."""

    def __init__(self, wanted: int = 0, shortest: int = 1, longest: int = 86_400) -> None:
        if not 1 <= shortest <= longest:
            raise ValueError("heartbeat bounds must be 1 ≤ shortest ≤ longest")
        self._own = (shortest, longest)
        self.shortest, self.longest = shortest, longest
        self.wanted = wanted
        #: agreed with the gateway; 0 before the first login
        self.agreed = 0
        self._good = 0
        self._ceiling = 0  # an interval that failed, 0 = none known
        self._below_ceiling = 0

    def on_welcome(self, agreed: int, shortest: int, longest: int) -> int:
        """A login. The gateway's bounds win where they do not meet ours; returns the interval to ask for now, where
        the agreed one is outside ours, else 0."""
        self.shortest = min(max(self._own[0], shortest), longest)
        self.longest = max(min(self._own[1], longest), self.shortest)
        self.agreed = agreed
        self._good = 0
        ours = min(max(agreed, self.shortest), self.longest)
        return 0 if ours == agreed else ours

    def on_agreed(self, interval: int) -> None:
        self.agreed = self.wanted = interval
        self._good = 0

    def on_good_interval(self) -> int:
        """An idle interval held; returns the interval to ask for now, 0 = stay."""
        self._good += 1
        if self._ceiling:
            self._below_ceiling += 1
            if self._below_ceiling >= CEILING_INTERVALS:
                self._ceiling = 0
        if self._good < GOOD_INTERVALS:
            return 0
        self._good = 0
        longer = min(math.ceil(self.agreed * GROWTH), self.longest)
        if self._ceiling and longer >= self._ceiling:
            return 0
        return longer if longer > self.agreed else 0

    def on_cut(self, silent_s: float) -> bool:
        """The link went without a word after `silent_s` with no byte either way; True where the interval shrinks."""
        self._good = 0
        if self.agreed <= 0 or silent_s < self.agreed * IDLE_PART:
            return False
        self._ceiling = self.agreed
        self._below_ceiling = 0
        self.wanted = max(int(self.agreed * SHRINK), self.shortest)
        return True
