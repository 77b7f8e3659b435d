"""What RAM remembers of deliveries that did not go the ordinary way; must never grow past its bounds.

Nothing here is needed for a delivery to end: what is evicted (oldest first, counted) costs a shorter back-off, or one
more FETCH.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from gateway.metrics import Metric, Metrics

_V = TypeVar("_V")


class Remembered(Generic[_V]):
    """A dict that forgets its oldest entry when full. Consequence and kind are named by its owner."""

    def __init__(self, limit: int, metrics: Metrics, kind: str) -> None:
        self._items: dict[int, _V] = {}
        self._limit = limit
        self._metrics = metrics
        self._kind = kind

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, seq: int) -> bool:
        return seq in self._items

    def get(self, seq: int) -> _V | None:
        return self._items.get(seq)

    def put(self, seq: int, value: _V) -> None:
        if seq not in self._items and len(self._items) >= self._limit:
            del self._items[next(iter(self._items))]
            self._metrics.count(Metric.DELIVERY_MEMORY_EVICTED, label=self._kind)
        self._items[seq] = value

    def pop(self, seq: int) -> _V | None:
        return self._items.pop(seq, None)


class Trail:
    """How often a delivery was tried in vain."""

    __slots__ = ("retries", "timed_out", "tries")

    def __init__(self) -> None:
        self.retries = 0  # retry timers armed so far
        self.tries = 0  # failures for now of its notifiers
        self.timed_out = False  # a link took it and no ack came
