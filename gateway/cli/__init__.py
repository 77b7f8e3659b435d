"""The `heliograph` command: one module a command, imported when it is used; must never do the gateway's work itself.

Exit codes: 0 done, 1 failed (the message says why), 2 wrong usage or configuration.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gateway.cli.output import CommandFailed
from gateway.model.errors import ConfigError, GatewayError

OK, FAILED, USAGE = 0, 1, 2

#: command → the module of this package that has it, and the name of its Typer object there; in the order of --help
COMMANDS = {
    "serve": "serve:command",
    "tour": "tour:command",
    "swarm": "swarm:command",
    "bench": "bench:command",
    "apps": "apps:group",
    "subscribers": "subscribers:group",
    "send": "send:command",
    "cards": "cards:group",
    "downloads": "downloads:group",
    "campaigns": "campaigns:group",
    "local": "local:group",
    "inspect": "inspection:group",
    "check-config": "configuration:check",
    "default-config": "configuration:default",
    "keys": "keys:group",
    "cluster": "cluster:group",
    "backup": "backup:command",
    "errors": "errors:command",
    "docs": "pages:command",
    "version": "version:command",
}


class LazyGroup(TyperGroup):
    """Imports a command's module only when it is asked for (or listed)."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = dict.fromkeys(COMMANDS)  # names only, for "did you mean"

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command = typer.main.get_command(getattr(import_module(f"gateway.cli.{module}"), name))
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local variables would show keys and tokens
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from gateway.cli.version import show

        show(as_json=False)
        raise typer.Exit(OK)


@app.callback(epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.")
def heliograph(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """A push gateway: one connection a device, opaque tokens, acks, fallback to notifiers.

    Begin with [bold]heliograph serve --app demo[/bold]; it says what to try next.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """One command line to its exit code; errors meant for people go to stderr in one line."""
    try:
        try:
            app(args=None if arguments is None else list(arguments), prog_name="heliograph")
        finally:
            sys.stdout.flush()  # here, where a full disk or a closed pipe is still an answer
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else (OK if exc.code is None else FAILED)
    except ConfigError as exc:
        field = "" if not exc.field or exc.field in exc.message else f"{exc.field}: "
        print(f"heliograph: {field}{exc.message}", file=sys.stderr)
        return FAILED if exc.may_pass else USAGE
    except CommandFailed as exc:
        print(f"heliograph: {exc}", file=sys.stderr)
        return FAILED
    except GatewayError as exc:
        print(f"heliograph: {exc.message} ({exc.name}, {exc.code})", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # the reader went away (`heliograph errors | head`); keep the interpreter from complaining at exit
        _drop_stdout()
        return FAILED
    except OSError as exc:
        print(f"heliograph: {exc.strerror or exc}" + (f": {exc.filename}" if exc.filename else ""), file=sys.stderr)
        _drop_stdout()
        return FAILED
    return OK


def _drop_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Entry point of the `heliograph` command."""
    sys.exit(run())
