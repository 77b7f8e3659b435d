"""`heliograph apps`: tenants of a gateway and their API keys, over the provider API with the operator's key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.app_fields import build_fields, describe_limits
from gateway.cli.options import ConfigFile, Json, OperatorKey, StoreFolder, Url, open_as_operator
from gateway.cli.output import CommandFailed, print_fields, print_json, print_table, say, text_of, when
from gateway.model.errors import ConfigError

group = typer.Typer(no_args_is_help=True, add_completion=False)

Name = Annotated[str, typer.Argument(help="Name of the app, as its devices register it.")]
Settings = Annotated[
    str, typer.Argument(metavar="SETTINGS", help="JSON object, @FILE or - for stdin.", show_default=False)
]


def _parse_settings(text: str) -> dict[str, Any]:
    from gateway.cli.send import parse_json

    settings = parse_json("SETTINGS", text) if text else {}
    if not isinstance(settings, dict):
        raise ConfigError("SETTINGS is no JSON object")
    return settings


@group.callback()
def apps() -> None:
    """Apps (tenants) and their API keys.

    These commands use the operator's key. On the gateway's machine it is read from the store folder.
    """


@group.command()
def create(
    name: Name,
    settings: Settings = "",
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Create an app and print its first API key, once: only its hash is kept.

    [dim]export HELIOGRAPH_KEY=$(heliograph apps create demo)[/dim]
    [dim]heliograph apps create shop '{"fallback": ["apns"], "limits": {"per_s": 500}}'[/dim]
    """
    body = {"name": name, **_parse_settings(settings)}
    with open_as_operator(url, key, store, config) as provider:
        made = provider.post("apps", body=body)
    if as_json:
        print_json(made)
    else:
        say(f"app {name} is created; its API key, shown this once:")
        print(made["key"])


@group.command("change")
def change_app(
    name: Name,
    settings: Settings,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Change settings of an app; those left out stay as they are. docs/notifiers.md and docs/push.md have them.

    [dim]heliograph apps change shop '{"limits": {"per_s": 500}, "device_per_hour": 4}'[/dim]
    """
    body = _parse_settings(settings)
    with open_as_operator(url, key, store, config) as provider:
        changed = provider.patch("apps", name, body=body)
    if as_json:
        print_json(changed)
    else:
        say(f"app {name} is changed")


@group.command("list")
def list_apps(
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """All apps."""
    with open_as_operator(url, key, store, config) as provider:
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
    with open_as_operator(url, key, store, config) as provider:
        found = provider.get("apps", name)
        keys = provider.get("apps", name, "keys")["keys"]
    if as_json:
        print_json({**found, "keys": keys})
        return
    print_fields(build_fields(found))
    print()
    print_table(
        ("key", "label", "limits", "created (UTC)"),
        ([k["id"], k["label"], describe_limits(k.get("limits", {})), when(k["created_at"])] for k in keys),
    )


def _settings_of(pairs: list[str]) -> dict[str, str]:
    """KEY=VALUE and KEY=@FILE. Raises CommandFailed.

    The line end that an editor leaves behind the last line of a file is not part of a secret. A PEM or JSON needs none.
    """
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise CommandFailed("a setting reads KEY=VALUE, or KEY=@FILE for the text of a file")
        if value.startswith("@"):
            try:
                value = Path(value[1:]).read_text(encoding="utf-8")
            except (OSError, UnicodeError) as exc:
                raise CommandFailed(f"{key}: can not read {value[1:]!r} ({type(exc).__name__})") from None
            value = value.removesuffix("\n")  # read_text has made \r\n of one
        settings[key] = value
    return settings


@group.command("notifier")
def set_notifier(
    name: Name,
    notifier: Annotated[
        str,
        typer.Argument(help="apns, fcm, webpush, webhook or stub; or a pager: sms, wap, trigger, ip or service."),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings; KEY=@FILE takes a file's text without its last line end, KEY= takes the setting out.",
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the notifier's settings away.")] = False,
    fallback: Annotated[
        str | None, typer.Option("--fallback", help="The app's chain from now on, such as apns,webhook.")
    ] = None,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Set how an app reaches an outside push service, or a terminal through its operator's network; settings not named
    stay as they are. docs/notifiers.md has the settings of each; where a pager's network is stands in the gateway's own
    configuration (docs/paging.md).

    [dim]heliograph apps notifier shop apns topic=com.example.shop key_id=ABC123DEFG team_id=DEF123GHIJ
    key=@AuthKey.p8 --fallback apns[/dim]
    [dim]heliograph apps notifier shop sms mode=binary port=16002 --fallback apns,sms[/dim]
    """
    given = _settings_of(settings or [])
    if not given and not remove and fallback is None:
        raise ConfigError("nothing to set; docs/notifiers.md has the settings of each notifier")
    with open_as_operator(url, key, store, config) as provider:
        # Secrets come as ***, and go back so: that leaves them.
        view = provider.get("apps", name)
        found: dict[str, str] | None = view["notifiers"].get(notifier)
        if remove and found is None and fallback is None:
            say(f"app {name} has no settings of {notifier}; nothing is changed")
            if as_json:
                print_json(view)
            return
        merged = {key: value for key, value in {**(found or {}), **given}.items() if value}
        body: dict[str, object] = {"notifiers": {notifier: None if remove else merged}}
        if fallback is not None:
            body["fallback"] = [each for each in fallback.split(",") if each]
        changed = provider.patch("apps", name, body=body)
    if as_json:
        print_json(changed)
    else:
        what = "taken away" if remove else "set"
        say(f"app {name}: {notifier} is {what}; fallback: {text_of(changed['fallback'] or 'none')}")


@group.command("doors")
def set_doors(
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

    [dim]heliograph apps doors shop --apns-topic com.example.shop --apns-key ABC123:TEAM42:apns.pub.pem[/dim]
    """
    wanted = {"webpush": webpush, "apns_topic": apns_topic}
    body: dict[str, Any] = {field: value for field, value in wanted.items() if value is not None}
    if apns_key:
        body["apns_keys"] = [_apns_key(text) for text in apns_key]
    if apns_certificate:
        body["apns_certificates"] = [_fingerprint(path) for path in apns_certificate]
    if not body:
        raise CommandFailed("nothing to set; see `heliograph apps doors --help`")
    with open_as_operator(url, key, store, config) as provider:
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
    per_s: Annotated[int, typer.Option("--per-s", min=0, help="Pushes a second, on average; 0: no limit.")] = 0,
    burst: Annotated[int, typer.Option("--burst", min=0, help="Pushes at once; 0: as many as --per-s.")] = 0,
    per_day: Annotated[int, typer.Option("--per-day", min=0, help="Pushes a day (UTC); 0: no limit.")] = 0,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make an API key for an app and print it, once: only its hash is kept.

    Limits are of this key; those of the app hold beside them (`heliograph apps change`).

    [dim]export HELIOGRAPH_KEY=$(heliograph apps key demo)[/dim]
    [dim]heliograph apps key demo --label newsletter --per-s 50 --per-day 100000[/dim]
    """
    limits = {"per_s": per_s, "burst": burst, "per_day": per_day}
    body: dict[str, Any] = {"label": label} if label else {}
    if any(limits.values()):
        body["limits"] = limits
    with open_as_operator(url, key, store, config) as provider:
        made = provider.post("apps", name, "keys", body=body)
    if as_json:
        print_json(made)
    else:
        print(made["key"])


@group.command("limit")
def limit_key(
    name: Name,
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="Id of the key, see `heliograph apps show`.")],
    limits: Settings,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Change what may be sent with one key (per_s, burst, per_day; 0: no limit); the key itself stays.

    [dim]heliograph apps limit shop 3fmq8wzt '{"per_s": 50}'[/dim]
    """
    body = {"limits": _parse_settings(limits)}
    with open_as_operator(url, key, store, config) as provider:
        changed = provider.patch("apps", name, "keys", key_id, body=body)
    if as_json:
        print_json(changed)
    else:
        say(f"key {key_id} of app {name} is changed")


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
    with open_as_operator(url, key, store, config) as provider:
        provider.delete("apps", name, "keys", key_id)
    say(f"key {key_id} of app {name} is revoked")
