"""`heliograph bench`: takes the system figures P1–P14, O1–O3, K1–K4 and D1–D3 with their floors and peers; what takes
them is bench/ of a source checkout, which an installed package does not have.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.output import CommandFailed, say
from gateway.model.errors import ConfigError

command = typer.Typer(add_completion=False)


@command.command()
def bench(
    figures: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FIGURE]…", help="Which: P1 … P14, O1 … O3, K1 … K4, D1 … D3. Default: all."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short runs, below 40 s each, with fewer devices.")] = False,
    as_json: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE|-", help='Write {"P4": {"value": …, …}, …} there.', show_default=False),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Only say which figures there are, and their targets.")
    ] = False,
    no_fail: Annotated[bool, typer.Option("--no-fail", help="Exit 0 where a target is missed, too.")] = False,
) -> None:
    """Measure what Heliograph promises, each as a ratio to a floor and to a peer in the same run.

    Starts gateways on loopback with temporary stores, and a swarm of devices or cards. Exit code 1 where a target is
    missed.

    [dim]heliograph bench --list[/dim]
    [dim]heliograph bench P4 P5 --quick[/dim]
    [dim]heliograph bench --json - > figures.json[/dim]
    """
    system = _load()
    if listed:
        system("table").print_list()
        return
    kinds = system("figures")
    try:
        chosen = kinds.select(figures or [])
    except kinds.UnknownFigure as exc:
        raise ConfigError(str(exc)) from None
    from gateway.config.logging import setup_logging
    from gateway.config.sections import Log

    setup_logging(Log(level="error", format="text"))
    records: dict[str, dict[str, Any]] = system("take").take_all(chosen, quick=quick, say=say)
    if as_json != "-":
        system("table").print_table(records, quick=quick)
    if as_json is not None:
        _write(as_json, records)
    missed = [name for name, record in records.items() if record["ok"] is False]
    if missed:
        say(f"missed: {', '.join(missed)}")
        if not no_fail:
            raise typer.Exit(1)


def _load() -> Any:
    """Gives the modules of bench.system by name; CommandFailed where this is no source checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "bench" / "system").is_dir():
        raise CommandFailed(
            "the benchmarks belong to a source checkout (bench/ beside gateway/), which this installation is not"
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return lambda name: import_module(f"bench.system.{name}")


def _write(place: str, records: dict[str, dict[str, Any]]) -> None:
    text = json.dumps(records, ensure_ascii=False, indent=2) + "\n"
    if place == "-":
        sys.stdout.write(text)
    else:
        Path(place).write_text(text, encoding="utf-8")
