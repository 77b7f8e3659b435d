"""`heliograph cluster import`: the store of a gateway that was alone becomes a new fleet; must never write to a fleet
that has anything, nor to the store but the mark that it was moved.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import ConfigFile, Json, Overrides, read_config
from gateway.cli.output import print_fields, print_json, say

if TYPE_CHECKING:
    from gateway.fleet.store_import import Imported

#: what stays behind, in the words of the command
NOT_CARRIED = (
    "not carried: that a device was sent a broadcast and has not acked it (it may be shown once more); devices'"
    " connections (they come back by themselves)"
)


def import_store_of(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The folder of the gateway that was alone.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
    work: Annotated[
        Path | None,
        typer.Option("--work", help="Where to make the partitions: room for twice the store.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is in the way and what is there.")] = False,
    as_json: Json = False,
) -> None:
    """Bring all that a stopped gateway has into a new fleet: its nodes go on where it stopped.

    The configuration is that of a node (cluster.url). Stop the gateway first, start the nodes afterwards, each with an
    empty store.path. May be killed and repeated: no node starts before it is done.

    Exit codes: 0 it is done, or was, or (--dry-run) nothing is in the way; 1 NATS did not take it: repeat it; 2 wrong
    usage or configuration, or something is in the way, which is named.

    [dim]heliograph cluster import /var/lib/heliograph --config gw1.toml --dry-run[/dim]
    [dim]heliograph cluster import /var/lib/heliograph --config gw1.toml[/dim]
    """
    import asyncio

    from gateway.config.logging import setup_logging
    from gateway.config.sections import Log
    from gateway.fleet.store_import import import_store
    from gateway.model.errors import ConfigError

    settings = read_config(config, overrides)
    if not settings.cluster.url:
        raise ConfigError(
            "is empty: give the configuration of a node (--config), with the NATS servers of the new fleet",
            field="cluster.url",
        )
    # what is wrong is in the command's own answer, and stdout is for that alone
    setup_logging(Log(level="error", format="text"))
    _raise_file_limit()
    try:
        done = asyncio.run(import_store(settings, store, dry_run=dry_run, work=work, say=say))
    except ConfigError as exc:
        if exc.field == "store.path":  # of the gateway whose store it is, not of this configuration
            raise ConfigError(exc.message, field="STORE") from None
        raise
    if as_json:
        print_json(done)
    else:
        _print(done)


def _raise_file_limit() -> None:
    """Each partition's store is open at once."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _print(done: Imported) -> None:
    import msgspec

    if done.was_done:
        say(f"{done.store} is in the fleet {done.fleet} already; nothing was written")
        return
    carried = msgspec.to_builtins(done.carried)
    print_fields([("fleet", done.fleet), ("partitions", done.partitions)])
    print_fields([(name.replace("_", " "), count) for name, count in carried.items() if count])
    if done.is_dry_run:
        say("nothing is in the way; nothing was written, and deliveries were not counted")
    else:
        say(NOT_CARRIED)
        say("start the nodes now, each with an empty store.path")
