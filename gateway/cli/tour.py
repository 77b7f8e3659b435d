"""`heliograph tour`: shows every clause on a gateway of its own and prints what came out; exits 1 if any failed."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from typer.core import TyperCommand

from gateway.model.errors import ConfigError

if TYPE_CHECKING:
    from gateway.tour import Row

command = typer.Typer(add_completion=False)


class WithRows(TyperCommand):
    """Its help names the rows there are, which nothing else needs to import."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from gateway.tour.walk import describe

        self.epilog = f"Rows: {describe()}."
        super().format_help(ctx, formatter)


@command.command(cls=WithRows)
def tour(
    clauses: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CLAUSE]…", help="Which: A to F, K, or single ones as B3; the rows are below. Default: all."
        ),
    ] = None,
    devices: Annotated[int, typer.Option("--devices", min=1, max=10_000, help="Simulated devices.")] = 1000,
    as_json: Annotated[
        bool, typer.Option("--json", help='Print {"A1": {"ok": true, "detail": "…"}, …} instead of the table.')
    ] = False,
) -> None:
    """Show every clause of the README on a live gateway, with real sockets on loopback.

    Starts a gateway with a temporary store, brings the devices up over TCP, and walks through the clauses.
    Exit code 1 if any clause failed.

    [dim]heliograph tour[/dim]
    [dim]heliograph tour A B3 --devices 100 --json[/dim]
    """
    import uvloop

    from gateway.tour import Walk, walk
    from gateway.tour.stage import Failed
    from gateway.tour.walk import SHOWN_BY, describe, select

    try:
        chosen = select(clauses or [])
    except KeyError as exc:
        raise ConfigError(f"there is no clause {exc.args[0]!r}; there are {describe()}") from None
    console = Console(stderr=True)
    for word in clauses or []:
        if row := SHOWN_BY.get(word.upper()):
            console.print(f"{word.upper()} is shown by {row}", highlight=False)
    progress = Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    # Without a terminal a line now and then is better than a bar that is never seen.
    plain = not console.is_terminal
    said = time.monotonic()

    with progress:
        bringing_up = progress.add_task("devices", total=devices)
        walking = progress.add_task("clauses", total=len(chosen))

        def on_devices(up: int, total: int) -> None:
            nonlocal said
            progress.update(bringing_up, completed=up)
            if plain and (up == total or time.monotonic() - said > 2):
                said = time.monotonic()
                console.print(f"{up} of {total} devices connected", highlight=False, soft_wrap=True)

        told = 0  # the signal by which it was told to end

        def on_clause(clause: str, tried: str) -> None:
            if told:
                raise asyncio.CancelledError  # what a row was waiting for may have taken the first for its own
            progress.update(walking, description=f"{clause} {tried}")

        def on_progress(what: str) -> None:
            console.print(f"  {escape(what)}", highlight=False, soft_wrap=True, style="dim")

        def on_row(row: Row) -> None:
            progress.advance(walking)
            mark = "skipped" if row.ok is None else "ok" if row.ok else "FAILED"
            if plain:
                console.print(
                    f"{row.clause} {mark:7} {row.seconds:5.1f} s  {escape(row.detail)}", highlight=False, soft_wrap=True
                )

        async def go() -> list[Row]:
            # told to end, it ends all that it started
            task = asyncio.current_task()
            assert task is not None

            def end(number: int) -> None:
                nonlocal told
                told = number
                task.cancel()

            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, end, number)
            return await walk(chosen, devices, Walk(on_devices, on_clause, on_row, on_progress))

        try:
            rows = uvloop.run(go())
        except asyncio.CancelledError:
            raise typer.Exit(128 + told) from None
        except Failed as exc:
            console.print(f"heliograph: {escape(str(exc))}", style="red")
            raise typer.Exit(1) from None
    if told:
        raise typer.Exit(128 + told)
    if as_json:
        print(json.dumps({row.clause: _as_json(row) for row in rows}, ensure_ascii=False, indent=2))
    else:
        out = Console(width=None if sys.stdout.isatty() else 160)
        out.print(_table(rows))
        for shown in rows:
            if shown.figures:
                out.print(_figures(shown))
    failed = [row.clause for row in rows if row.ok is False]
    if failed:
        console.print(f"failed: {', '.join(failed)}", style="red")
        raise typer.Exit(1)


#: of a part of the tour, what a table alone would leave open
_NOTES = {
    "E": "E: cards, terminals and, but for E3+, the SMSC are simulated by this project; Wireshark reads what is sent"
    " in E8.",
}


def _table(rows: list[Row]) -> Table:
    notes = [note for part, note in _NOTES.items() if any(row.clause.startswith(part) for row in rows)]
    table = Table(
        title="Heliograph, clause by clause",
        title_justify="left",
        caption="\n".join(notes) or None,
        caption_justify="left",
    )
    table.add_column("clause")
    table.add_column("tried", ratio=2)
    table.add_column("came out", ratio=4)
    table.add_column("")
    for row in rows:
        mark = "[yellow]skipped" if row.ok is None else "[green]ok" if row.ok else "[bold red]FAILED"
        table.add_row(row.clause, escape(row.tried), escape(row.detail), mark)
    return table


def _figures(row: Row) -> Table:
    table = Table(title=f"{row.clause}: {row.tried}", title_justify="left", show_header=False)
    for name, figure in row.figures.items():
        table.add_row(escape(name), escape(figure))
    return table


def _as_json(row: Row) -> dict[str, object]:
    said: dict[str, object] = {"ok": row.ok, "skipped" if row.ok is None else "detail": row.detail}
    return said | ({"figures": row.figures} if row.figures else {})
