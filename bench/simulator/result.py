"""What a scenario gives: a table, numbers by name, and a picture; must calculate nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.curves import Chart


@dataclass(frozen=True, slots=True)
class Result:
    """`facts` are the numbers that pages and tests speak of; a row of the table has as many cells as there are
    columns."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[float | str]]
    facts: dict[str, float | str]
    chart: Chart
    notes: Sequence[str] = field(default=())

    def as_json(self) -> dict[str, Any]:
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows, "facts": self.facts, "notes": list(self.notes)}


def quantile(ordered: Sequence[float], part: float) -> float:
    """Of ascending numbers, the one that this part of them does not exceed."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
