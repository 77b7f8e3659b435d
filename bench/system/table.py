"""The table for people: one row a figure, with its target and the verdict."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDTH = 180


def build_number(number: Any) -> str:
    """Short enough for a column: 92,134 · 0.953 · — for what was not taken."""
    if number is None:
        return "—"
    if isinstance(number, float) and abs(number) < 1_000:
        return f"{number:.4g}"
    return f"{number:,.0f}"


def build_verdict(record: dict[str, Any]) -> str:
    return "[yellow]not taken" if record["ok"] is None else "[green]ok" if record["ok"] else "[bold red]MISSED"


def build_table(records: dict[str, dict[str, Any]], *, quick: bool) -> Table:
    table = Table(title="System figures" + (" (short runs)" if quick else ""), title_justify="left")
    for column in ("figure", "what", "value", "unit", "floor", "peer", "ratio", "target", "verdict", "N", "note"):
        right = column in ("value", "floor", "peer", "ratio", "N")
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "note" and column != "what")
    for name, record in records.items():
        targets = "\n".join([record["wants"], *(target["wants"] for target in record.get("further", []))])
        numbers = [build_number(record[key]) for key in ("floor", "peer", "ratio")]
        table.add_row(
            name,
            escape(record["what"]),
            build_number(record["value"]),
            escape(record["unit"]),
            *numbers,
            escape(targets),
            build_verdict(record),
            build_number(record["n"]),
            escape(record["note"]),
        )
    return table


def print_table(records: dict[str, dict[str, Any]], *, quick: bool) -> None:
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(build_table(records, quick=quick))


def print_list() -> None:
    """Which figures there are and what they must reach."""
    from bench.system.figures import FIGURES

    table = Table(title="System figures", title_justify="left")
    for column in ("figure", "what", "target"):
        table.add_column(column)
    for figure in FIGURES:
        table.add_row(figure.id, escape(figure.what), escape(", ".join(map(str, figure.targets))))
    Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False).print(table)
