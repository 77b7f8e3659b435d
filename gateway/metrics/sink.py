"""Where the floors count; the API reads it for /metrics."""

from __future__ import annotations

from gateway.metrics.names import Metric


class Metrics:
    """Counters, gauges and histograms by (metric, label value). Control thread only."""

    def __init__(self) -> None:
        self.counters: dict[tuple[Metric, str], float] = {}

    def count(self, metric: Metric, n: float = 1, label: str = "") -> None:
        key = (metric, label)
        self.counters[key] = self.counters.get(key, 0) + n
