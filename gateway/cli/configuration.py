"""`heliograph check-config` and `heliograph default-config`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import ConfigFile, Json, Overrides
from gateway.cli.output import print_json, say

check = typer.Typer(add_completion=False)
default = typer.Typer(add_completion=False)


@check.command()
def check_config(
    file: Annotated[Path | None, typer.Argument(help="TOML file; the same as --config.", show_default=False)] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    show: Annotated[bool, typer.Option("--show", help="Print the settings in force as TOML.")] = False,
    as_json: Json = False,
) -> None:
    """Check file, environment and flags without starting anything.

    Exit code 0: valid (advice may follow). 2: not valid; every problem is named with its place.

    [dim]heliograph check-config heliograph.toml --set edge.port=7400[/dim]
    """
    from gateway.config import InvalidConfig, load
    from gateway.config.check import advice
    from gateway.config.settings import build_toml, settings

    try:
        found = load(file or config, overrides=overrides or [])
    except InvalidConfig as exc:
        if as_json:
            print_json({"ok": False, "problems": [problem._asdict() for problem in exc.problems]})
        else:
            for problem in exc.problems:
                say(f"heliograph: {problem}")
        raise typer.Exit(2) from None
    hints = advice(found)
    if as_json:
        values = {s.path: getattr(getattr(found, s.section), s.name) for s in settings()}
        print_json({"ok": True, "advice": [{"field": f, "text": t} for f, t in hints], "settings": values})
        return
    if show:
        print(build_toml(found), end="")
    for field, text in hints:
        say(f"advice: {field}: {text}")
    say("the configuration is valid")


@default.command()
def default_config() -> None:
    """Print a commented configuration file with every setting at its default.

    [dim]heliograph default-config > heliograph.toml[/dim]
    """
    from gateway.config.settings import build_toml

    print(build_toml(), end="")
