"""What is said of a metric; must know none."""

from __future__ import annotations

from typing import NamedTuple


class Spec(NamedTuple):
    name: str
    kind: str  # counter, gauge, histogram
    help: str
    label: str = ""  # name of the one label, or none
    buckets: tuple[float, ...] = ()  # upper ends of a histogram's buckets, ascending, without +Inf


#: seconds, for everything between a memory copy and a slow network
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
