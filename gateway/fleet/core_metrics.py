"""The figures of one core among those of its node: counts go straight there, gauges of all cores add up; must leave
nothing behind when its partition goes.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.metrics import Metric, Metrics
from gateway.metrics.sink import Source


class CoreMetrics(Metrics):
    """Control thread only, from the opening of a partition to `close`."""

    def __init__(self, node: Metrics) -> None:
        super().__init__(process=False)
        self._node = node
        self._removals: list[Callable[[], None]] = []

    def count(self, metric: Metric, n: float = 1, label: str = "") -> None:
        self._node.count(metric, n, label)

    def observe(self, metric: Metric, value: float, label: str = "") -> None:
        self._node.observe(metric, value, label)

    def set(self, metric: Metric, value: float, label: str = "") -> None:
        before = self.gauges.get((metric, label), 0.0)
        self.gauges[metric, label] = value
        self._node.set(metric, self._node.gauges.get((metric, label), 0.0) - before + value, label)

    def add_source(self, source: Source) -> Callable[[], None]:
        remove = self._node.add_source(source)
        self._removals.append(remove)
        return remove

    def close(self) -> None:
        for (metric, label), _ in list(self.gauges.items()):
            self.set(metric, 0.0, label)
        self.gauges.clear()
        for remove in self._removals:
            remove()
        self._removals.clear()
