"""How long to wait before the next try; touches no clock, the random source is handed in.

1 s, growing by 1.8 up to 300 s, each ± 30 %; what the gateway asks for (after_ms + a random part of jitter_ms) wins.
"""

from __future__ import annotations

from collections.abc import Callable

FIRST_S = 1.0
LONGEST_S = 300.0
FACTOR = 1.8
JITTER = 0.3
#: a gateway can not send a device away for longer than this at once
LONGEST_ASKED_S = 3_600.0
#: a link that was logged in for this long ends the row of failures
GOOD_LINK_S = 30.0


class Backoff:
    def __init__(self, random: Callable[[], float]) -> None:
        """`random` gives floats in [0, 1)."""
        self._random = random
        self._next_s = FIRST_S

    def reset(self) -> None:
        self._next_s = FIRST_S

    def next_delay(self, after_ms: int = 0, jitter_ms: int = 0, *, elsewhere: bool = False) -> float:
        """Seconds to wait now. Every call counts as one more failure, but where another gateway is tried next: then the
        wait is the shortest there is."""
        own_s = FIRST_S if elsewhere else self._next_s
        if not elsewhere:
            self._next_s = min(own_s * FACTOR, LONGEST_S)
        if after_ms > 0 or jitter_ms > 0:
            if jitter_ms <= 0:  # an ERROR names no jitter of its own; still all devices must not come at once
                jitter_ms = int(after_ms * JITTER)
            return min((after_ms + self._random() * jitter_ms) / 1000, LONGEST_ASKED_S)
        return own_s * (1 - JITTER + 2 * JITTER * self._random())
