"""`heliograph keys`: the server keys that device secrets are made with; must never show one."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.options import ConfigFile, Json, StoreFolder, store_folder
from gateway.cli.output import print_json, print_table, say

group = typer.Typer(no_args_is_help=True, add_completion=False)


@group.callback()
def keys() -> None:
    """The server keys device secrets are made with: list, rotate, drop.

    After `rotate`, new secrets are made with the new key; a device that logs in with an older one gets a new secret.
    After `drop`, devices that did not come by since must begin anew, so leave months between the two.
    A running gateway reads the keys at its next start.
    """


@group.command("list")
def list_keys(store: StoreFolder = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Numbers of the device keys, and which one is in use."""
    from gateway.store.keys import ServerKeys

    found = ServerKeys.load(store_folder(store, config), may_create=False)
    rows = [{"id": key_id, "current": key_id == found.device_key_id} for key_id in sorted(found.device_keys)]
    if as_json:
        print_json(rows)
    else:
        print_table(("id", "current"), ([row["id"], row["current"]] for row in rows))


@group.command()
def rotate(store: StoreFolder = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Make a new device key; older ones stay good until dropped."""
    from gateway.store.keys import ServerKeys

    key_id = ServerKeys.load(store_folder(store, config), may_create=False).rotate_device_key()
    if as_json:
        print_json({"id": key_id, "current": True})
    else:
        say(f"device key {key_id} is made; restart the gateway to use it")


@group.command()
def drop(
    key_id: Annotated[int, typer.Argument(metavar="ID", help="Number of the key, see `heliograph keys list`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    store: StoreFolder = None,
    config: ConfigFile = None,
) -> None:
    """Drop an older device key: secrets made with it are good no longer."""
    from gateway.store.keys import ServerKeys

    found = ServerKeys.load(store_folder(store, config), may_create=False)
    if not yes and key_id in found.device_keys and key_id != found.device_key_id:  # else there is nothing to ask about
        typer.confirm(f"Devices whose secret was made with key {key_id} must begin anew. Drop it?", abort=True)
    found.drop_device_key(key_id)
    say(f"device key {key_id} is dropped; restart the gateway to make it so")
