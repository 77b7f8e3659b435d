"""Which push a PPG was given last for a collapse key, so that it can be asked to drop what it still holds (WAP-247
§9.2.1, replace-push-id); must never grow past its bound.

In RAM: after a restart the PPG delivers both, and the terminal shows the later one in place of the other by its si-id.
"""

from __future__ import annotations

from collections import OrderedDict

from gateway.metrics import Metric, Metrics


class LastPushes:
    """By (registration, si-id), the one that was used longest ago first. `most` 0: nothing is remembered."""

    def __init__(self, most: int, metrics: Metrics) -> None:
        self._most = most
        self._metrics = metrics
        self._last: OrderedDict[tuple[int, str], str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._last)

    def before(self, registration: int, si_id: str, push_id: str) -> str:
        """The push that this one takes the place of; empty: none is known, or it is the same one, tried again."""
        last = self._last.get((registration, si_id), "")
        return last if last != push_id else ""

    def took(self, registration: int, si_id: str, push_id: str) -> None:
        """The PPG has this one now."""
        if not self._most:
            return
        self._last[registration, si_id] = push_id
        self._last.move_to_end((registration, si_id))
        if len(self._last) > self._most:
            self._last.popitem(last=False)
            self._metrics.count(Metric.NOTIFIER_BOUNDS, label="wap replaces")
