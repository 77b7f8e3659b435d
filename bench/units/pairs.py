"""A pair: one unit and its alternative, doing the same work in the same run; only the ratio of the two is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

UNIT, PEER = "unit", "peer"


def take(benchmark: Any, pair: str, side: str, work: Callable[..., Any], *, rounds: int = 15) -> None:
    """Time `work`; the fastest of many short rounds is what noise can not improve."""
    benchmark.group = pair
    benchmark.extra_info["side"] = side
    benchmark.pedantic(work, rounds=rounds, warmup_rounds=1)
