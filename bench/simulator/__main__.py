"""Runs the scenarios and says what came out: a table each, JSON and pictures where asked for.

    python -m bench.simulator                                    # all, as tables
    python -m bench.simulator growth region-loss --json -        # some of them, as JSON
    python -m bench.simulator --set logins_per_s=40000 --set nodes=60 --set lost_nodes=12
    python -m bench.simulator --parameters                       # what can be set, and where each number is from
    python -m bench.simulator --pictures docs/img                # scale-*.svg

Exit code 2: a parameter or scenario that is not there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.curves import draw
from bench.simulator import adoption, broadcasting, elections, growth, region_loss, rolling_restart
from bench.simulator.parameters import Parameters, parse_setting
from bench.simulator.result import Result

SCENARIOS: dict[str, Callable[[Parameters], Result]] = {
    "growth": growth.run,
    "region-loss": region_loss.run,
    "adoption": adoption.run,
    "broadcast": broadcasting.run,
    "rolling-restart": rolling_restart.run,
    "elections": elections.run,
}
WIDTH = 180


def build_number(cell: float | str) -> str:
    """Four figures are more than any of them is worth."""
    if isinstance(cell, str):
        return escape(cell)
    if cell == float("inf"):
        return "never"
    if abs(cell) >= 1e6:
        return f"{cell:.3g}"
    return f"{cell:,.0f}" if abs(cell) >= 1_000 or cell == int(cell) else f"{cell:.3g}"


def build_table(result: Result) -> Table:
    table = Table(title=result.title, title_justify="left")
    for column in result.columns:
        table.add_column(column, justify="right")
    for row in result.rows:
        table.add_row(*map(build_number, row))
    return table


def build_parameters(p: Parameters) -> Table:
    table = Table(title="Parameters", title_justify="left")
    for column in ("name", "value", "unit", "kind", "from"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for name, value, source in p:
        where = ": ".join(part for part in (source.place, source.words) if part)
        table.add_row(name, f"{value:g}", source.unit, source.kind, escape(where))
    return table


def run(names: Sequence[str], p: Parameters) -> list[Result]:
    return [SCENARIOS[name](p) for name in names or SCENARIOS]


def finite(number: float | str) -> float | str | None:
    """As JSON has it: no infinity there."""
    return None if number == float("inf") else number


def build_json(results: Sequence[Result], p: Parameters) -> str:
    records = {}
    for result in results:
        record = result.as_json()
        record["facts"] = {name: finite(number) for name, number in record["facts"].items()}
        record["rows"] = [{name: finite(cell) for name, cell in row.items()} for row in record["rows"]]
        records[result.name] = record
    parameters = {name: {"value": value, **source._asdict()} for name, value, source in p}
    return json.dumps({"parameters": parameters, "scenarios": records}, ensure_ascii=False, indent=1) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.simulator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "scenario", nargs="*", metavar="SCENARIO", help=f"which of {', '.join(SCENARIOS)}; default: all"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="a parameter of one's own")
    parser.add_argument("--parameters", action="store_true", help="only say what there is to set")
    parser.add_argument("--json", metavar="FILE|-", help="numbers there instead of tables")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="scale-SCENARIO.svg into this folder")
    options = parser.parse_args(words)
    unknown = [name for name in options.scenario if name not in SCENARIOS]
    if unknown:
        parser.error(f"there is no scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)}")
    try:
        p = Parameters().changed(**dict(map(parse_setting, options.set)))
    except ValueError as wrong:
        parser.error(str(wrong))
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    if options.parameters:
        console.print(build_parameters(p))
        return 0
    results = run(options.scenario, p)
    if options.json == "-":
        sys.stdout.write(build_json(results, p))
    elif options.json is not None:
        Path(options.json).write_text(build_json(results, p), encoding="utf-8")
    if options.json != "-":
        for result in results:
            console.print(build_table(result))
            for name, number in result.facts.items():
                console.print(f"  {escape(name)}: {build_number(number)}")
    if options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
        for result in results:
            (options.pictures / f"scale-{result.name}.svg").write_text(draw(result.chart), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
