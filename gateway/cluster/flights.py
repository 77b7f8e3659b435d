"""Notifications on links of other nodes, by the second by which something must have been heard of them; must cost
nothing when it was heard.

What an ack or a loss ends is not taken out here: when its second has come the journal is asked whether it is still
waited for.
"""

from __future__ import annotations

from array import array

from gateway.metrics import Metric, Metrics

#: watched at a time, by all that is sent through one core; past it they are sent unwatched and counted
MAX_FLIGHTS = 4_000_000
#: time beyond the ack time in which a node may tell of it, seconds
GRACE_S = 5


class Flights:
    """Of one core. 12 bytes each."""

    def __init__(self, metrics: Metrics, most: int = MAX_FLIGHTS) -> None:
        self._metrics = metrics
        self._most = most
        self._count = 0
        self._seconds: dict[int, tuple[array[int], array[int]]] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, seq: int, number: int, now_ms: int, ack_ms: int) -> None:
        if self._count >= self._most:
            self._metrics.count(Metric.FAR_LOST, label="unwatched")
            return
        bucket = self._bucket(now_ms + ack_ms)
        bucket[0].append(seq)
        bucket[1].append(number)
        self._count += 1

    def add_many(self, seqs: bytes, numbers: bytes, now_ms: int, ack_ms: int) -> None:
        """Packed native u64 and u32."""
        count = len(numbers) // 4
        if self._count + count > self._most:
            self._metrics.count(Metric.FAR_LOST, count, "unwatched")
            return
        bucket = self._bucket(now_ms + ack_ms)
        bucket[0].frombytes(seqs)
        bucket[1].frombytes(numbers)
        self._count += count

    def _bucket(self, until_ms: int) -> tuple[array[int], array[int]]:
        second = until_ms // 1000 + 1 + GRACE_S
        bucket = self._seconds.get(second)
        if bucket is None:
            bucket = self._seconds[second] = (array("Q"), array("I"))
        return bucket

    def due(self, now_ms: int) -> list[tuple[array[int], array[int]]]:
        """(sequences, registrations) whose second is over; each once."""
        now_s = now_ms // 1000
        over = sorted(second for second in self._seconds if second <= now_s)
        out = [self._seconds.pop(second) for second in over]
        self._count -= sum(len(seqs) for seqs, _ in out)
        return out
