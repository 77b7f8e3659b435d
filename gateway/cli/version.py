"""`heliograph version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import typer

from gateway.cli.options import Json
from gateway.cli.output import print_json

command = typer.Typer(add_completion=False)


def show(*, as_json: bool) -> None:
    try:
        number = installed("heliograph")
    except PackageNotFoundError:
        number = "unknown (not installed)"
    from gateway.model.frames import PROTOCOL_VERSION

    facts = {"heliograph": number, "protocol": PROTOCOL_VERSION, "python": platform.python_version()}
    if as_json:
        print_json(facts)
    else:
        print(f"heliograph {number}, device protocol {PROTOCOL_VERSION}, Python {facts['python']}")


@command.command()
def version(as_json: Json = False) -> None:
    """Versions of the gateway, of the device protocol and of Python."""
    show(as_json=as_json)
