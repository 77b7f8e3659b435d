"""`heliograph keys`: the server keys that device secrets are made with, and those that wrap the keys of IM users; must
never show one.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import ConfigFile, Json, Overrides, StoreFolder, read_config, store_folder, store_of_one
from gateway.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from gateway.config.cluster_section import Cluster
    from gateway.store.device_keys import DeviceKeyRing

group = typer.Typer(no_args_is_help=True, add_completion=False)


class Of(StrEnum):
    DEVICES = "devices"
    IM = "im"


_NAMES = {Of.DEVICES: "device key", Of.IM: "IM key"}
_IN_A_FLEET = (
    "its keys are the fleet's, sealed in NATS, and this file is a copy; give the node's configuration (--config), not"
    " its folder"
)
WhichKeys = Annotated[Of, typer.Option("--of", help="Which keys: of device secrets, or of IM users.")]


@group.callback()
def keys() -> None:
    """The server keys device secrets are made with, and those of IM (--of im): list, rotate, drop.

    After `rotate`, new secrets are made with the new key; a device that logs in with an older one gets a new secret.
    After `drop`, devices that did not come by since must begin anew, so leave months between the two.

    A key of IM wraps the keys of users, whose credentials and messages are sealed under those. After `rotate` and a
    restart the gateway wraps them all again; `drop` refuses while one is left.

    A gateway alone reads the keys at its next start. In a fleet (cluster.url in the configuration) the keys are in
    NATS, and its nodes have the new ones when the command returns, without a restart. --store names the folder of a
    gateway alone, and goes with no configuration of a fleet.
    """


def _fleet(store: Path | None, config: Path | None, overrides: list[str] | None, of: Of) -> Cluster | None:
    """Settings of the fleet whose keys are meant; None: those in a folder are. ConfigError."""
    from gateway.model.errors import ConfigError

    if store is not None:
        _refuse_two_stores(config, overrides or [])
        return None
    settings = read_config(config, overrides).cluster
    if not settings.url:
        return None
    if of is Of.IM:
        raise ConfigError("a fleet has no IM (im.app), so nothing is sealed under an IM key", field="cluster.url")
    return settings


def _refuse_two_stores(config: Path | None, overrides: list[str]) -> None:
    """--store names a folder, so nothing else that was asked for may name other keys: one of them would be left as it
    is without a word. $HELIOGRAPH_CONFIG is no question, a flag is meant to go before it."""
    from gateway.model.errors import ConfigError

    if any(each.startswith("store.path=") for each in overrides):
        raise ConfigError("and --set store.path each name a folder: give one of them", field="--store")
    is_asked = config is not None or any(each.startswith("cluster.") for each in overrides)
    if is_asked and read_config(config, overrides).cluster.url:
        raise ConfigError(
            "is the folder of a gateway alone, and the configuration (--config, --set) that of a fleet, whose keys are"
            " in NATS: give one of them",
            field="--store",
        )


def _say_silent(silent: list[str]) -> None:
    if silent:
        say(f"silent now, and not told before they come back: {', '.join(silent)}")


@group.command("list")
def list_keys(
    of: WhichKeys = Of.DEVICES,
    store: StoreFolder = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Numbers of the keys, and which one is in use.

    In a fleet also which one is `next`: all nodes are to have it before it is used.
    """
    from gateway.store.environment import is_of_node
    from gateway.store.keys import ServerKeys

    if (settings := _fleet(store, config, overrides, of)) is not None:
        from gateway.cli.fleet_keys import read_ring

        _list_ring(read_ring(settings), as_json=as_json)
        return
    folder = store_folder(store, config, overrides)
    if is_of_node(folder):
        say(f"{folder} is of a node of a fleet: {_IN_A_FLEET}")
    found = ServerKeys.load(folder, may_create=False)
    numbers, current = (found.im_keys, found.im_key_id) if of is Of.IM else (found.device_keys, found.device_key_id)
    rows = [{"id": key_id, "current": key_id == current} for key_id in sorted(numbers)]
    if as_json:
        print_json(rows)
    else:
        print_table(("id", "current"), ([row["id"], row["current"]] for row in rows))


def _list_ring(ring: DeviceKeyRing, *, as_json: bool) -> None:
    rows = [{"id": key, "current": key == ring.current, "next": key == ring.next} for key in sorted(ring.keys)]
    if as_json:
        print_json(rows)
    else:
        print_table(("id", "current", "next"), ([row["id"], row["current"], row["next"]] for row in rows))


@group.command()
def rotate(
    of: WhichKeys = Of.DEVICES,
    finish: Annotated[
        bool, typer.Option("--finish", help="In a fleet: take a rotation that was interrupted to its end.")
    ] = False,
    store: StoreFolder = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Make a new key; older ones stay good until dropped.

    In a fleet it is made first, and used when each node that lives has it: two leases at least. Stopped in between, all
    goes on with the key before, and `--finish` does the rest.

    [dim]heliograph keys rotate --config /etc/heliograph.toml[/dim]
    """
    from gateway.model.errors import ConfigError
    from gateway.store.keys import ServerKeys

    if (settings := _fleet(store, config, overrides, of)) is not None:
        from gateway.cli import fleet_keys

        told = fleet_keys.rotate(settings, finish=finish)
        if as_json:
            print_json({"id": told.key_id, "current": True, "silent": told.silent})
        else:
            say(f"device key {told.key_id} is in use on each node that lives")
            _say_silent(told.silent)
        return
    if finish:
        raise ConfigError(
            "is for a fleet (cluster.url): a gateway alone makes a key and uses it in one step; leave it out",
            field="--finish",
        )
    found = ServerKeys.load(store_of_one(store, config, _IN_A_FLEET, overrides), may_create=False)
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
    overrides: Overrides = None,
) -> None:
    """Drop an older key: device secrets made with it are good no longer; of IM, where nothing needs it any more.

    In a fleet also the one that is `next`, which nothing was made with: that ends the rotation.
    """
    from gateway.store.keys import ServerKeys

    if (settings := _fleet(store, config, overrides, of)) is not None:
        _drop_of_fleet(settings, key_id, yes=yes)
        return
    folder = store_of_one(store, config, _IN_A_FLEET, overrides)
    found = ServerKeys.load(folder, may_create=False)
    if of is Of.IM:
        _check_unused(folder, key_id)
        found.drop_im_key(key_id)
    else:
        _ask(found.ring, key_id, yes=yes)
        found.drop_device_key(key_id)
    say(f"{_NAMES[of]} {key_id} is dropped; restart the gateway to make it so")


def _drop_of_fleet(settings: Cluster, key_id: int, *, yes: bool) -> None:
    from gateway.cli import fleet_keys

    _ask(fleet_keys.read_ring(settings), key_id, yes=yes)
    told = fleet_keys.drop(settings, key_id)
    say(f"device key {key_id} is dropped")
    _say_silent(told.silent)


def _ask(ring: DeviceKeyRing, key_id: int, *, yes: bool) -> None:
    if yes or key_id not in ring.keys or key_id in (ring.current, ring.next):  # nothing to ask about
        return
    typer.confirm(f"Devices whose secret was made with key {key_id} must begin anew. Drop it?", abort=True)


def _check_unused(folder: Path, key_id: int) -> None:
    """ConfigError where a user's key is still wrapped with it, or may yet be."""
    from gateway.model.errors import ConfigError
    from gateway.store.inspection import needs_im_key

    if needs_im_key(folder, key_id):
        raise ConfigError(
            f"keys of IM users are wrapped with IM key {key_id}; let the gateway run with the current one for a while",
            field="im_key_id",
        )
