"""`heliograph backup`: a consistent copy of the store, while the gateway runs or not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import ConfigFile, Json, StoreFolder, read_config, store_of_one
from gateway.cli.output import print_json, say

command = typer.Typer(add_completion=False)
_IN_A_FLEET = (
    "what must not be lost is in NATS and on its copies; keep the file of cluster.secret_file, and back the streams up"
    " with `nats account backup`"
)


def _size_text(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


@command.command()
def backup(
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A folder that is new or empty.")],
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Copy the store and its keys as they are at one moment; the gateway may be running.

    To restore: stop the gateway, put the folder where store.path says, start. Keep the copy as safe as the store: it
    holds the keys.

    [dim]heliograph backup /backups/heliograph-$(date +%F)[/dim]
    """
    from gateway.store.environment import backup_folder

    settings = read_config(config).store
    settings.path = str(store_of_one(store, config, _IN_A_FLEET))
    backup_folder(settings, destination)
    size = sum(file.stat().st_size for file in destination.iterdir())
    if as_json:
        print_json({"path": str(destination), "bytes": size})
    else:
        say(f"backup of {settings.path} is in {destination} ({_size_text(size)})")
