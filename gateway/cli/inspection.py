"""`heliograph inspect`: a push and a token through the API, a device in the local store; must change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import ConfigFile, Json, Key, StoreFolder, Url, api_url, read_config, store_of_one
from gateway.cli.output import CommandFailed, print_fields, print_json, print_table, say, when

#: of the last part of a Web Push message's Location; a push id has 22
_MESSAGE_CHARS = 32

group = typer.Typer(no_args_is_help=True, add_completion=False)


@group.callback()
def inspect() -> None:
    """Look at a push, a token or a device."""


@group.command()
def push(
    push_id: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="What `send` or the API answered, or Location of a Web Push message. One that begins with a dash goes"
            " behind `--`.",
        ),
    ],
    offset: Annotated[int, typer.Option("--offset", min=0, help="First delivery to show.")] = 0,
    url: Url = None,
    key: Key = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Where is my push? Its deliveries with every step they took.

    Which push a Web Push message is, is read with the keys of the gateway's store, so on its machine.

    [dim]heliograph inspect push AAAAAAAAAAcx…[/dim]
    [dim]heliograph inspect push https://push.example.com/push/message/l_j1Zz-Gk…[/dim]
    """
    from gateway.cli.provider import Provider, app_key
    from gateway.cli.send import show_push

    push_id = push_id.rstrip("/").rpartition("/")[2]
    if len(push_id) == _MESSAGE_CHARS:
        push_id = _push_of_message(push_id, store, config)
    with Provider(api_url(url, config), app_key(key)) as provider:
        found = provider.get("push", push_id, **({"offset": str(offset)} if offset else {}))
    if as_json:
        print_json(found)
    else:
        show_push(found)


def _push_of_message(name: str, store: Path | None, config: Path | None) -> str:
    """Id of the push that a Web Push message is. Raises ConfigError, CommandFailed."""
    from gateway.api.webpush.resources import Names
    from gateway.delivery.push_ids import PushIds
    from gateway.store.inspection import app_name, load_keys

    folder = store_of_one(store, config, "its keys are not in a store; GET the message's Location, which has its state")
    settings = read_config(config).store
    settings.path = str(folder)
    push_ids = PushIds(load_keys(settings).push_id_key)
    message = Names(push_ids.derive(b"webpush")).parse_message(name)
    app = None if message is None else app_name(settings, message.app_number)
    if message is None or app is None:
        raise CommandFailed(f"no message of the Web Push door of the gateway with the store {folder}")
    push_id = push_ids.build(app, message.seq)
    say(f"push {push_id} of app {app}")
    return push_id


@group.command()
def token(
    text: Annotated[str, typer.Argument(metavar="TOKEN")],
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """What the gateway knows of a token of your app, and whether its device is connected (B1).

    An unknown token, a revoked one and one of another app get the same answer.
    """
    from gateway.cli.provider import Provider, app_key

    with Provider(api_url(url, config), app_key(key)) as provider:
        found = provider.get("registrations", text)
    if as_json:
        print_json(found)
    else:
        created = ("created (UTC)", when(found["created_at"]))
        print_fields([*((k, v) for k, v in found.items() if k != "created_at"), created])


@group.command()
def device(
    device_id: Annotated[str, typer.Argument(metavar="ID", help="The device id its WELCOME named.")],
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Registrations of a device in the local store; works beside a running gateway, as its user.

    Shows what is committed. Whether the device is connected is known to the running gateway: `inspect token`.
    """
    from gateway.store.inspection import registrations_of

    folder: Path = store_of_one(store, config, "its registrations are on all nodes; use `heliograph inspect token`")
    settings = read_config(config).store
    settings.path = str(folder)
    found = registrations_of(settings, device_id)
    if as_json:
        print_json(found)
        return
    if not found:
        raise CommandFailed("the store has no registration of this device")
    print_table(
        ("token", "app", "version", "account", "alias", "tags", "notifiers", "created (UTC)", "revoked (UTC)"),
        (
            [
                row["token"],
                row["app"],
                row["version"],
                row["account"],
                row["alias"],
                row["tags"],
                row["notifiers"],
                when(row["created_at"]),
                when(row["revoked_at"]),
            ]
            for row in found
        ),
    )
    say(f"{len(found)} registration{'s' if len(found) != 1 else ''}")
