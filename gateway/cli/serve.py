"""`heliograph serve`: runs the gateway in this process until SIGTERM or SIGINT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import ConfigFile, Overrides, read_config

command = typer.Typer(add_completion=False)


@command.command()
def serve(
    config: ConfigFile = None,
    overrides: Overrides = None,
    apps: Annotated[
        list[str] | None, typer.Option("--app", metavar="NAME", help="Create this app if it is not there; repeatable.")
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            "--ready-file",
            help='Written when ready: {"pid", "device_port", "api_port", …}; for scripts that ask for port 0.',
            show_default=False,
        ),
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="Device port (edge.port).", show_default=False)] = None,
    api_port: Annotated[
        int | None, typer.Option("--api-port", help="Provider port (api.port).", show_default=False)
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="Store folder (store.path).", show_default=False)
    ] = None,
    reactors: Annotated[
        int | None, typer.Option("--reactors", help="Reactor threads (edge.reactors).", show_default=False)
    ] = None,
    log_level: Annotated[
        str | None, typer.Option("--log-level", help="debug, info, warning, error (log.level).", show_default=False)
    ] = None,
) -> None:
    """Run a gateway in the foreground, with or without a configuration file.

    SIGTERM or Ctrl-C drains it: no new connections, devices sent away in turn, everything committed, exit 0.
    A second signal ends it at once; nothing accepted is lost. SIGHUP reads the TLS certificates again.

    [dim]heliograph serve --app demo[/dim]
    [dim]heliograph serve --config /etc/heliograph.toml --set edge.host=0.0.0.0[/dim]
    [dim]heliograph serve --port 0 --api-port 0 --store /tmp/h --ready-file /tmp/h.json[/dim]
    """
    own = {
        "edge.port": port,
        "api.port": api_port,
        "store.path": store,
        "edge.reactors": reactors,
        "log.level": log_level,
    }
    settings = read_config(config, [*(overrides or []), *(f"{k}={v}" for k, v in own.items() if v is not None)])

    import uvloop

    from gateway.app import run
    from gateway.config.logging import setup_logging

    setup_logging(settings.log)
    code = uvloop.run(run(settings, ready_file=ready_file, apps=apps or []))
    raise typer.Exit(code)
