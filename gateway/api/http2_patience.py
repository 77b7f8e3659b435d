"""How long a peer may take nothing of what it asked for; must never be renewed by opening a window byte by byte.

A stream whose own window is shut has a patience of its own. Where the connection's window is shut all streams wait, and
what any of them sends is the peer's reading: they share one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

#: a peer that takes this much a second is waited for
_LEAST_BYTES_PER_S = 1_024


class Patience:
    """`most_s` in all, spent while somebody waits; each byte the peer takes gives some back."""

    def __init__(self, most_s: float, clock: Callable[[], float]) -> None:
        self._most_s = most_s
        self._clock = clock
        self._left_s = most_s
        self._waiting = 0
        self._counted_s = 0.0  # up to here, while somebody waits

    @property
    def left_s(self) -> float:
        self._count()
        return max(self._left_s, 0.0)

    def gain(self, size: int) -> None:
        self._count()
        self._left_s = min(self._most_s, self._left_s + size / _LEAST_BYTES_PER_S)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        self._count()
        self._waiting += 1
        try:
            yield
        finally:
            self._count()
            self._waiting -= 1

    def _count(self) -> None:
        now_s = self._clock()
        if self._waiting:
            self._left_s -= now_s - self._counted_s
        self._counted_s = now_s
