"""Who could not open which partition lately; must hold no clock of its own."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.cluster.fleet_records import Holding

#: such a node is not given the partition again for so long, then longer each time
PAUSE_MIN_S, PAUSE_MAX_S = 2.0, 600.0


class Failures:
    """As the records tell it, so that all nodes see the same."""

    def __init__(self, lease_s: float) -> None:
        self._least_s = max(lease_s, PAUSE_MIN_S)
        #: by partition and number of the node: (until, how long)
        self._pauses: dict[tuple[int, int], tuple[float, float]] = {}

    def note(self, partition: int, before: Holding | None, holding: Holding, now: float) -> None:
        """A record changed. Who gives up a partition that was not ready could not open it."""
        if holding.ready:
            self._pauses.pop((partition, holding.node), None)
        elif before is not None and holding.node == 0 and before.node and not before.ready:
            key = partition, before.node
            pause = min(max(2 * self._pauses.get(key, (0.0, 0.0))[1], self._least_s), PAUSE_MAX_S)
            self._pauses[key] = now + pause, pause

    def forget(self, partition: int) -> None:
        """What kept them from it is over."""
        for key in [key for key in self._pauses if key[0] == partition]:
            del self._pauses[key]

    def avoided(self, now: float, live: Mapping[int, str]) -> dict[int, list[str]]:
        """Names by partition; what is known of the dead is forgotten."""
        found: dict[int, list[str]] = {}
        for (partition, number), (until, _) in list(self._pauses.items()):
            if number not in live:
                del self._pauses[partition, number]
            elif now < until:
                found.setdefault(partition, []).append(live[number])
        return found
