"""`heliograph apps`: tenants of a gateway and their API keys, over the provider API with the operator's key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import ConfigFile, Json, StoreFolder, Url, api_url
from gateway.cli.output import CommandFailed, print_fields, print_json, print_table, say, when

if TYPE_CHECKING:
    from gateway.cli.provider import Provider

group = typer.Typer(no_args_is_help=True, add_completion=False)

Name = Annotated[str, typer.Argument(help="Name of the app, as its devices register it.")]
OperatorKey = Annotated[
    str | None,
    typer.Option("--key", help="The operator's key; default: the key file in the local store.", show_default=False),
]


def _provider(url: str | None, key: str | None, store: Path | None, config: Path | None) -> Provider:
    from gateway.cli.provider import Provider, operator_key

    return Provider(api_url(url, config), operator_key(key, store, config))


@group.callback()
def apps() -> None:
    """Apps (tenants) and their API keys.

    These commands use the operator's key. On the gateway's machine it is read from the store folder.
    """


@group.command()
def create(
    name: Name,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Create an app and print its first API key, once: only its hash is kept.

    [dim]export HELIOGRAPH_KEY=$(heliograph apps create demo)[/dim]
    """
    with _provider(url, key, store, config) as provider:
        made = provider.post("apps", body={"name": name})
    if as_json:
        print_json(made)
    else:
        say(f"app {name} is created; its API key, shown this once:")
        print(made["key"])


@group.command("list")
def list_apps(
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """All apps."""
    with _provider(url, key, store, config) as provider:
        found = provider.get("apps")
    if as_json:
        print_json(found)
        return
    rows = found["apps"]
    if not rows:
        say("no apps yet; create one: heliograph apps create demo")
        return
    print_table(
        ("name", "keys", "fallback", "receipts", "created (UTC)"),
        ([a["name"], a["keys"], a["fallback"], a["receipts_url"], when(a["created_at"])] for a in rows),
    )


@group.command("show")
def show_app(
    name: Name,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """One app with its settings and its keys (their ids; the keys themselves are not kept)."""
    with _provider(url, key, store, config) as provider:
        found = provider.get("apps", name)
        keys = provider.get("apps", name, "keys")["keys"]
    if as_json:
        print_json({**found, "keys": keys})
        return
    print_fields((k, when(v) if k == "created_at" else v) for k, v in found.items() if k != "keys")
    print_table(("key", "label", "created (UTC)"), ([k["id"], k["label"], when(k["created_at"])] for k in keys))


@group.command("set")
def set_app(
    name: Name,
    webpush: Annotated[
        str | None, typer.Option("--webpush", help="The Web Push door: off, open or vapid.", show_default=False)
    ] = None,
    apns_topic: Annotated[
        str | None,
        typer.Option("--apns-topic", help="apns-topic at the APNs door; empty closes it.", show_default=False),
    ] = None,
    apns_key: Annotated[
        list[str] | None,
        typer.Option(
            "--apns-key", help="KEY_ID:TEAM_ID:PUBLIC_KEY.pem, all of them; repeat the option.", show_default=False
        ),
    ] = None,
    apns_certificate: Annotated[
        list[Path] | None,
        typer.Option("--apns-certificate", help="PEM client certificate, all of them; repeat it.", show_default=False),
    ] = None,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
) -> None:
    """Open or close the Web Push and APNs doors of an app; what is not named stays as it is.

    [dim]heliograph apps set shop --apns-topic com.example.shop --apns-key ABC123:TEAM42:apns.pub.pem[/dim]
    """
    wanted = {"webpush": webpush, "apns_topic": apns_topic}
    body: dict[str, Any] = {field: value for field, value in wanted.items() if value is not None}
    if apns_key:
        body["apns_keys"] = [_apns_key(text) for text in apns_key]
    if apns_certificate:
        body["apns_certificates"] = [_fingerprint(path) for path in apns_certificate]
    if not body:
        raise CommandFailed("nothing to set; see `heliograph apps set --help`")
    with _provider(url, key, store, config) as provider:
        provider.patch("apps", name, body=body)
    say(f"app {name} is changed: {', '.join(sorted(body))}")


def _apns_key(text: str) -> dict[str, str]:
    key_id, _, rest = text.partition(":")
    team_id, _, file = rest.partition(":")
    if not key_id or not team_id or not file:
        raise CommandFailed(f"{text!r} does not read KEY_ID:TEAM_ID:PUBLIC_KEY.pem")
    return {"key_id": key_id, "team_id": team_id, "public_key": _read(Path(file))}


def _fingerprint(path: Path) -> str:
    """SHA-256 of the certificate's DER, hex."""
    import hashlib
    import ssl

    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(_read(path).strip())).hexdigest()
    except ValueError:
        raise CommandFailed(f"{path} is no PEM certificate") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        raise CommandFailed(f"{path} can not be read") from None


@group.command("key")
def new_key(
    name: Name,
    label: Annotated[str, typer.Option("--label", help="A note to know the key by.")] = "",
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make an API key for an app and print it, once: only its hash is kept.

    [dim]export HELIOGRAPH_KEY=$(heliograph apps key demo)[/dim]
    """
    with _provider(url, key, store, config) as provider:
        made = provider.post("apps", name, "keys", body={"label": label} if label else {})
    if as_json:
        print_json(made)
    else:
        print(made["key"])


@group.command("revoke")
def revoke_key(
    name: Name,
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="Id of the key, see `heliograph apps show`.")],
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
) -> None:
    """Take an API key away; requests with it are refused from now on."""
    with _provider(url, key, store, config) as provider:
        provider.delete("apps", name, "keys", key_id)
    say(f"key {key_id} of app {name} is revoked")
