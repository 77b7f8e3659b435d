"""A pair: one unit and its alternative, doing the same work in the same run; only the ratio of the two is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

UNIT, PEER = "unit", "peer"


def take(
    benchmark: Any, pair: str, side: str, work: Callable[..., Any], *, setup: Any = None, rounds: int = 15
) -> None:
    """Time `work`; the fastest of many short rounds is what noise can not improve."""
    benchmark.group = pair
    benchmark.extra_info["side"] = side
    benchmark.pedantic(work, setup=setup, rounds=rounds, warmup_rounds=0 if setup else 1)
