"""`heliograph subscribers`: opaque ids of an operator's subscribers, over the provider API with the operator's key;
must never show a network id that was not asked for and confirmed.
"""

from __future__ import annotations

import enum
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import ConfigFile, Json, OperatorKey, StoreFolder, Url, open_as_operator
from gateway.cli.output import CommandFailed, print_fields, print_json, print_table, say, when
from gateway.model.errors import ConfigError

if TYPE_CHECKING:
    from gateway.cli.provider import Provider

group = typer.Typer(no_args_is_help=True, add_completion=False)

KINDS = ("imsi", "imei", "impi", "msisdn", "impu", "nai", "ip", "mac")

#: by which a subscriber is found, and for which no id stands alone
ONLY_BESIDE = ("imei", "mac")


class Told(enum.StrEnum):
    """What a network tells, or somebody asks (C4)."""

    ATTACH = "attach"
    LOCATION_UPDATE = "location_update"
    SESSION = "session"
    SERVICE = "service"
    TERMINAL = "terminal"
    APP_SERVER = "app_server"
    SOURCE_IP = "source_ip"


class OpaqueKind(enum.StrEnum):
    """Kinds of opaque id (C1)."""

    O_TMSI = "o-tmsi"
    O_TMSN = "o-tmsn"
    APP_UID = "app-uid"


_KINDS = f"KIND is {', '.join(KINDS[:-1])} or {KINDS[-1]}"
NetworkIds = Annotated[
    list[str], typer.Argument(metavar="KIND:VALUE", help=f"{_KINDS}; - reads them from stdin, one a line.")
]
OneNetworkId = Annotated[str, typer.Argument(metavar="KIND:VALUE", help=f"{_KINDS}; - reads it from stdin.")]
OpaqueId = Annotated[str, typer.Argument(metavar="ID", help="local@host, or its URL.")]
OfApp = Annotated[str | None, typer.Option("--app", help="Of this app.", show_default=False)]
OfClass = Annotated[
    str | None, typer.Option("--class", help="Of this class of apps, such as apn:internet.", show_default=False)
]
Kinds = Annotated[
    list[OpaqueKind] | None,
    typer.Option("--kind", help="Draw this kind; repeat it; default: all that can be.", show_default=False),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def _network_ids(given: list[str]) -> list[dict[str, str]]:
    """An error names the place, never the value."""
    lines = [line.strip() for line in sys.stdin] if given == ["-"] else given
    found: list[dict[str, str]] = []
    for place, text in enumerate((line for line in lines if line), 1):
        kind, colon, value = text.partition(":")
        if not colon or not value or kind.lower() not in KINDS:
            raise ConfigError(f"network id {place} does not read KIND:VALUE; kinds are {', '.join(KINDS)}")
        found.append({"kind": kind.lower(), "value": value})
    if not found:
        raise ConfigError("name at least one network id, as in imsi:001010123456789")
    return found


def _one(given: str) -> dict[str, str]:
    found = _network_ids([given])
    if len(found) > 1:
        raise ConfigError("name one network id")
    return found[0]


def _scope(app: str | None, class_name: str | None) -> dict[str, str]:
    return {name: value for name, value in (("app", app), ("class", class_name)) if value is not None}


def _print_ids(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    rows = answer["ids"]
    if not rows:
        say("no live ids")
        return
    print_table(
        ("id", "kinds", "of", "until (UTC)"),
        ([r["id"], r["kinds"], r["app"] or r["class"] or "terminal", _until(r["until_ms"])] for r in rows),
    )


def _tell(provider: Provider, body: dict[str, Any]) -> dict[str, Any]:
    """A trigger's answer. CommandFailed says so where no id could stand for what was told."""
    told = {each["kind"] for each in body["network_ids"]}
    names = " or ".join(kind.upper() for kind in ONLY_BESIDE if kind in told)
    try:
        answer: dict[str, Any] = provider.post("subscribers", body=body)
    except CommandFailed as exc:
        if told <= set(ONLY_BESIDE) and getattr(exc, "name", "") == "unknown_subscriber":
            words = f"nobody is known by this {names}, and no id stands for one alone"
            raise CommandFailed(f"{words}: tell an imsi, msisdn, impi, impu, nai or ip beside it") from None
        raise
    if not answer["ids"] and told <= set(ONLY_BESIDE):
        say(f"no id stands for an {names} alone: tell an imsi, msisdn, impi, impu, nai or ip beside it")
    return answer


def _until(until_ms: int | None) -> str:
    return "permanent" if until_ms is None else when(until_ms / 1000)


@group.callback()
def subscribers() -> None:
    """Opaque ids that stand for subscribers of an operator's network (docs/identity.md).

    These commands use the operator's key. A network id given as an argument shows in `ps` and in the shell's history:
    give - and write it to stdin where others are on the machine.
    """


@group.command()
def create(
    network_ids: NetworkIds,
    app: OfApp = None,
    class_name: OfClass = None,
    kinds: Kinds = None,
    together: Annotated[bool, typer.Option("--together", help="One id for the IMSI and the MSISDN.")] = False,
    further: Annotated[bool, typer.Option("--further", help="One more beside those there are.")] = False,
    permanent: Annotated[bool, typer.Option("--permanent", help="Ids that never lapse.")] = False,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make a subscriber known, or add network ids to it, and print its ids.

    [dim]heliograph subscribers create imsi:001010123456789 msisdn:+491511234567 --app demo[/dim]
    """
    body: dict[str, Any] = {"network_ids": _network_ids(network_ids), "trigger": "service", **_scope(app, class_name)}
    body |= {"kinds": [kind.value for kind in kinds or ()], "together": together, "further": further}
    if permanent:
        body["validity_s"] = 0
    with open_as_operator(url, key, store, config) as provider:
        answer = _tell(provider, body)
    _print_ids(answer, as_json=as_json)


@group.command()
def trigger(
    what: Annotated[
        Told,
        typer.Argument(
            metavar="TRIGGER", help="attach, location_update, session, service, terminal, app_server or source_ip."
        ),
    ],
    network_ids: NetworkIds,
    app: OfApp = None,
    class_name: OfClass = None,
    kinds: Kinds = None,
    replace: Annotated[
        bool | None,
        typer.Option("--replace/--keep", help="Fresh ids, the old end at once; or keep the old.", show_default=False),
    ] = None,
    move: Annotated[bool, typer.Option("--move", help="Network ids of another subscriber are this one's now.")] = False,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """What the network would tell (C4): the ids that are good afterwards.

    [dim]heliograph subscribers trigger attach imsi:001010123456789 ip:10.0.0.7[/dim]
    """
    body: dict[str, Any] = {"network_ids": _network_ids(network_ids), "trigger": what.value, **_scope(app, class_name)}
    body |= {"kinds": [kind.value for kind in kinds or ()], "replace": replace, "move": move}
    with open_as_operator(url, key, store, config) as provider:
        answer = _tell(provider, body)
    _print_ids(answer, as_json=as_json)
    if not as_json:
        say(f"{answer['drawn']} drawn; older ones {'ended' if answer['replaced'] else 'kept'}")


@group.command("ids")
def list_ids(
    network_id: OneNetworkId,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Live ids of a subscriber."""
    with open_as_operator(url, key, store, config) as provider:
        answer = provider.post("subscribers", "ids", body={"network_id": _one(network_id)})
    _print_ids(answer, as_json=as_json)


@group.command()
def revoke(
    opaque: OpaqueId,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
) -> None:
    """Take one id away for good."""
    with open_as_operator(url, key, store, config) as provider:
        provider.post("subscribers", "revoke", body={"id": opaque})
    say("the id is revoked")


@group.command("opt-out")
def opt_out(
    network_id: OneNetworkId,
    app: OfApp = None,
    class_name: OfClass = None,
    back: Annotated[bool, typer.Option("--back", help="Take part again.")] = False,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """A subscriber opts out of an app, a class, or (with neither) everything."""
    body = {"network_id": _one(network_id), "out": not back, **_scope(app, class_name)}
    with open_as_operator(url, key, store, config) as provider:
        answer = provider.post("subscribers", "opt-out", body=body)
    if as_json:
        print_json(answer)
    else:
        say(f"out of: {', '.join(answer['out']) or 'nothing'}")


@group.command()
def resolve(
    opaque: OpaqueId,
    app: Annotated[str, typer.Option("--app", help="As which app it is looked up.")],
    yes: Yes = False,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Whom an id stands for. Shows network ids of a person, so it asks first."""
    if not yes:
        typer.confirm("This shows who the subscriber is in the network. Go on?", abort=True, err=True)
    with open_as_operator(url, key, store, config) as provider:
        answer = provider.post("subscribers", "resolve", body={"id": opaque, "app": app})
    if as_json:
        print_json(answer)
    elif answer["elsewhere"]:
        say(f"an id of another gateway: {answer['elsewhere']}")
    else:
        print_fields([("kinds", answer["kinds"]), *((each["kind"], each["value"]) for each in answer["network_ids"])])


@group.command()
def history(
    opaque: OpaqueId,
    yes: Yes = False,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """What an id stood for, from when until when, also after its end. Shows network ids, so it asks first."""
    if not yes:
        typer.confirm("This shows who the subscriber was in the network. Go on?", abort=True, err=True)
    with open_as_operator(url, key, store, config) as provider:
        answer = provider.post("subscribers", "history", body={"id": opaque})
    if as_json:
        print_json(answer)
        return
    if not answer["history"]:
        say("no history, or it is past identity.history_days")
        return
    print_table(
        ("from (UTC)", "until (UTC)", "why", "network ids"),
        (
            [
                when(line["from_ms"] / 1000),
                _until(line["until_ms"]),
                line["why"] or "-",
                ", ".join(f"{each['kind']}:{each['value']}" for each in line["network_ids"]),
            ]
            for line in answer["history"]
        ),
    )


@group.command()
def forget(
    network_id: OneNetworkId,
    yes: Yes = False,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """End all ids of a subscriber and remove its record, opt-outs included; the history of its ids stays its time."""
    if network_id == "-" and not yes:
        raise ConfigError("give --yes where the network id comes from stdin")
    if not yes:
        typer.confirm("All ids of this subscriber end, and its opt-outs are forgotten. Go on?", abort=True, err=True)
    with open_as_operator(url, key, store, config) as provider:
        answer = provider.post("subscribers", "revoke", body={"network_id": _one(network_id), "forget": True})
    if as_json:
        print_json(answer)
    else:
        ended = answer["revoked"]
        say(f"forgotten; {ended} {'id was' if ended == 1 else 'ids were'} live")
