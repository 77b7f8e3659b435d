"""`heliograph keys`: the server keys that device secrets are made with, and those that wrap the keys of IM users; must
never show one.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import ConfigFile, Json, StoreFolder, store_folder, store_of_one
from gateway.cli.output import print_json, print_table, say

group = typer.Typer(no_args_is_help=True, add_completion=False)


class Of(StrEnum):
    DEVICES = "devices"
    IM = "im"


_NAMES = {Of.DEVICES: "device key", Of.IM: "IM key"}
_IN_A_FLEET = (
    "its keys are the fleet's, sealed in NATS, and each start writes this file anew; a fleet can not change them yet"
)
WhichKeys = Annotated[Of, typer.Option("--of", help="Which keys: of device secrets, or of IM users.")]


@group.callback()
def keys() -> None:
    """The server keys device secrets are made with, and those of IM (--of im): list, rotate, drop.

    After `rotate`, new secrets are made with the new key; a device that logs in with an older one gets a new secret.
    After `drop`, devices that did not come by since must begin anew, so leave months between the two.

    A key of IM wraps the keys of users, whose credentials and messages are sealed under those. After `rotate` and a
    restart the gateway wraps them all again; `drop` refuses while one is left.

    A running gateway reads the keys at its next start. A fleet (cluster.url) keeps the keys it began with.
    """


@group.command("list")
def list_keys(
    of: WhichKeys = Of.DEVICES, store: StoreFolder = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """Numbers of the keys, and which one is in use."""
    from gateway.store.keys import ServerKeys

    found = ServerKeys.load(store_folder(store, config), may_create=False)
    numbers, current = (found.im_keys, found.im_key_id) if of is Of.IM else (found.device_keys, found.device_key_id)
    rows = [{"id": key_id, "current": key_id == current} for key_id in sorted(numbers)]
    if as_json:
        print_json(rows)
    else:
        print_table(("id", "current"), ([row["id"], row["current"]] for row in rows))


@group.command()
def rotate(
    of: WhichKeys = Of.DEVICES, store: StoreFolder = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """Make a new key; older ones stay good until dropped."""
    from gateway.store.keys import ServerKeys

    found = ServerKeys.load(store_of_one(store, config, _IN_A_FLEET), may_create=False)
    key_id = found.rotate_im_key() if of is Of.IM else found.rotate_device_key()
    if as_json:
        print_json({"id": key_id, "current": True})
    else:
        say(f"{_NAMES[of]} {key_id} is made; restart the gateway to use it")


@group.command()
def drop(
    key_id: Annotated[int, typer.Argument(metavar="ID", help="Number of the key, see `heliograph keys list`.")],
    of: WhichKeys = Of.DEVICES,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    store: StoreFolder = None,
    config: ConfigFile = None,
) -> None:
    """Drop an older key: device secrets made with it are good no longer; of IM, where nothing needs it any more."""
    from gateway.store.keys import ServerKeys

    folder = store_of_one(store, config, _IN_A_FLEET)
    found = ServerKeys.load(folder, may_create=False)
    if of is Of.IM:
        _check_unused(folder, key_id)
        found.drop_im_key(key_id)
    else:
        if not yes and key_id in found.device_keys and key_id != found.device_key_id:  # else nothing to ask about
            typer.confirm(f"Devices whose secret was made with key {key_id} must begin anew. Drop it?", abort=True)
        found.drop_device_key(key_id)
    say(f"{_NAMES[of]} {key_id} is dropped; restart the gateway to make it so")


def _check_unused(folder: Path, key_id: int) -> None:
    """ConfigError where a user's key is still wrapped with it, or may yet be."""
    from gateway.model.errors import ConfigError
    from gateway.store.inspection import needs_im_key

    if needs_im_key(folder, key_id):
        raise ConfigError(
            f"keys of IM users are wrapped with IM key {key_id}; let the gateway run with the current one for a while",
            field="im_key_id",
        )
