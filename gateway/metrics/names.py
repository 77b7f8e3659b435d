"""Every metric the gateway exports; `docs/metrics.md` is generated from it."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Spec(NamedTuple):
    name: str
    kind: str  # counter, gauge, histogram
    help: str
    label: str = ""  # name of the one label, or none


class Metric(Enum):
    # --- edge: links and frames (read from the reactors when scraped)
    # --- delivery
    PUSHES = Spec("heliograph_pushes_total", "counter", "Pushes accepted, by kind of target", "target")
    PUSHES_REFUSED = Spec("heliograph_pushes_refused_total", "counter", "Pushes refused, by error name", "error")
    DELIVERIES = Spec("heliograph_deliveries_total", "counter", "Deliveries settled, by final state", "state")
    # --- store
    # --- api
    # --- notifiers

    @property
    def spec(self) -> Spec:
        return self.value
