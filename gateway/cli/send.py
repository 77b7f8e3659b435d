"""`heliograph send`: one push through the provider API, and on request its way until it is settled."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.options import ConfigFile, Json, Key, Url, api_url
from gateway.cli.output import CommandFailed, print_fields, print_json, print_table, say

command = typer.Typer(add_completion=False)
MAX_DATA_BYTES = 16 << 20


class Urgency(enum.StrEnum):
    """RFC 8030 §5.3."""

    VERY_LOW = "very-low"
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class Body(enum.StrEnum):
    """When the data goes to the device (B2)."""

    AUTO = "auto"
    AT_ONCE = "at_once"
    ON_DEMAND = "on_demand"


@command.command()
def send(
    text: Annotated[str, typer.Argument(help="What the notification says.")] = "",
    token: Annotated[str, typer.Option("--token", "-t", help="To this token.", rich_help_panel="Target")] = "",
    alias: Annotated[str, typer.Option("--alias", "-a", help="To this alias.", rich_help_panel="Target")] = "",
    tag: Annotated[str, typer.Option("--tag", help="To everyone with this tag.", rich_help_panel="Target")] = "",
    versions: Annotated[
        str,
        typer.Option("--versions", help="To app versions in this range: '>=2.0,<3'.", rich_help_panel="Target"),
    ] = "",
    everyone: Annotated[
        bool, typer.Option("--everyone", help="To every registration of the app.", rich_help_panel="Target")
    ] = False,
    where: Annotated[
        str,
        typer.Option(
            "--where", help="To whom this condition fits: JSON, @FILE or -; see docs/push.md.", rich_help_panel="Target"
        ),
    ] = "",
    title: Annotated[str, typer.Option("--title", help="Title of the notification.")] = "",
    data: Annotated[
        str | None, typer.Option("--data", help="Message body: JSON, @FILE or - for stdin.", show_default=False)
    ] = None,
    silent: Annotated[
        bool, typer.Option("--silent", help="Without title, text and data; refused where it is not said.")
    ] = False,
    localized: Annotated[
        str, typer.Option("--localized", help='Words by language: JSON {"de": {"title": "…"}}, @FILE or -.')
    ] = "",
    at: Annotated[
        str, typer.Option("--at", help="Keep it until then: 2027-01-31T09:00+01:00, Unix seconds, or +SECONDS.")
    ] = "",
    over: Annotated[int | None, typer.Option("--over", help="Spread it over so many seconds.")] = None,
    body: Annotated[Body, typer.Option("--body", help="When the data goes to the device.")] = Body.AUTO,
    ttl: Annotated[int | None, typer.Option("--ttl", help="Seconds it is kept for a device that is away.")] = None,
    urgency: Annotated[Urgency, typer.Option("--urgency")] = Urgency.NORMAL,
    collapse_key: Annotated[str, typer.Option("--collapse-key", help="Replaces an older pending push with it.")] = "",
    ack_ms: Annotated[int | None, typer.Option("--ack-ms", help="Wait this long for the ack (B3).")] = None,
    fallback: Annotated[
        list[str] | None,
        typer.Option("--fallback", help="Chain of notifiers to fall back to, as ip,sms; or repeat it."),
    ] = None,
    no_fallback: Annotated[bool, typer.Option("--no-fallback", help="Never leave the gateway's channel.")] = False,
    service: Annotated[
        str | None,
        typer.Option("--service", help="What the pager service starts (AID); else the app's own.", show_default=False),
    ] = None,
    service_server: Annotated[int, typer.Option("--service-server", help="Place in its list of servers.")] = 0,
    service_params: Annotated[str, typer.Option("--service-params", help="What it is started with.")] = "",
    idempotency_key: Annotated[str, typer.Option("--idempotency-key", help="The same key pushes once.")] = "",
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Follow the push until it is settled.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Longest wait, seconds.")] = 60.0,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Push one notification; name exactly one target.

    Exit code 1 with --wait: not settled in time, or settled without an ack.

    [dim]heliograph send --token AbC…  "You have mail" --wait[/dim]
    [dim]heliograph send --versions '>=2,<3' --title Update "Version 3 is out" --urgency low[/dim]
    [dim]heliograph send --where '{"all": [{"tag": "vip"}, {"locale": "de"}]}' --at +3600 "Sale" --over 600[/dim]
    [dim]heliograph send --alias customer-17 --data '{"order": 4711}' --ttl 3600 --fallback webhook[/dim]
    """
    from gateway.cli.provider import Provider, app_key
    from gateway.model.errors import ConfigError

    condition = parse_json("--where", where) if where else None
    targets = {"token": token, "alias": alias, "tag": tag, "versions": versions, "everyone": everyone}
    target: dict[str, Any] = {name: value for name, value in targets.items() if value}
    if len(target) + (condition is not None and not target) != 1:
        raise ConfigError("name exactly one of --token, --alias, --tag, --versions, --everyone, --where")
    if condition is not None:
        target["where"] = condition
    chain = [name.strip() for given in fallback or () for name in given.split(",") if name.strip()]
    if fallback and not chain:
        raise ConfigError("--fallback names no notifier; one reads ip,sms, and --no-fallback is for none")
    if fallback and no_fallback:
        raise ConfigError("--fallback and --no-fallback exclude each other")
    invitation = _invitation(service, service_server, service_params)
    # To everyone it would be on every screen before anybody saw that the words are missing.
    says = bool(text or title or localized) or data is not None or invitation is not None
    if not says and not silent:
        raise ConfigError("the push says nothing: give TEXT, --title or --data, or --silent where it shall say nothing")
    if says and silent:
        raise ConfigError("--silent is a push without TEXT, --title, --data, --localized and --service")
    optional: dict[str, Any] = {
        "title": title,
        "text": text,
        "data": None if data is None else parse_json("--data", data),
        "ttl": ttl,
        "collapse_key": collapse_key,
        "ack_ms": ack_ms,
        "fallback": [] if no_fallback else chain or None,
        "idempotency_key": idempotency_key,
        "deliver_at": parse_time(at) if at else None,
        "over": over,
        "localized": parse_json("--localized", localized) if localized else None,
        "service": invitation,
    }
    request = {"target": target, "urgency": urgency.value, "body": body.value}
    request |= {name: value for name, value in optional.items() if value not in (None, "")}
    with Provider(api_url(url, config), app_key(key)) as provider:
        accepted = provider.post("push", body=request)
        if not wait:
            if as_json:
                print_json(accepted)
            else:
                print(accepted["id"])
                if accepted.get("targeted") is not None:
                    say(f"accepted for {accepted['targeted']}; follow it: heliograph inspect push {accepted['id']}")
            return
        found = follow(provider, accepted["id"], timeout, quiet=as_json)
    if as_json:
        print_json(found)
    else:
        show_push(found)
    if not is_settled(found):
        raise CommandFailed(f"not settled after {timeout:g} s; look again: heliograph inspect push {accepted['id']}")
    if not found["figures"].get("acked"):
        raise typer.Exit(1)


def _invitation(aid: str | None, server: int, params: str) -> dict[str, Any] | None:
    """C13; None where nothing is said of it."""
    said: dict[str, Any] = {} if aid is None else {"aid": aid}
    if server:
        said["server"] = server
    if params:
        said["params"] = params
    return said or None


def parse_time(text: str) -> int:
    """Unix seconds of a moment."""
    import time
    from datetime import datetime

    from gateway.model.errors import ConfigError

    try:
        if text.startswith("+"):
            return int(time.time()) + int(text[1:])
        return int(text) if text.isdecimal() else int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        raise ConfigError("--at is no moment: 2027-01-31T09:00+01:00, Unix seconds, or +SECONDS") from None


def parse_json(option: str, text: str) -> Any:
    import msgspec

    from gateway.model.errors import ConfigError

    try:
        if text == "-":
            raw = sys.stdin.buffer.read(MAX_DATA_BYTES)
        elif text.startswith("@"):
            raw = Path(text[1:]).read_bytes()
        else:
            raw = text.encode()
        return msgspec.json.decode(raw)
    except OSError as exc:
        raise ConfigError(f"{option}: cannot read {text[1:]}: {exc.strerror}") from None
    except msgspec.DecodeError as exc:
        hint = "; text needs quotes of its own: '\"hello\"'" if option == "--data" else ""
        raise ConfigError(f"{option} is not JSON: {exc}{hint}") from None


def is_settled(push: dict[str, Any]) -> bool:
    """Every delivery is final; a broadcast is settled when all that it was for have acked, or when it ended."""
    if push["state"] == "live":
        figures: dict[str, int] = push["figures"]
        return 0 < figures.get("targeted", 0) <= figures.get("acked", 0)
    return push["state"] not in ("pending", "scheduled")


def follow(provider: Any, push_id: str, timeout_s: float, *, quiet: bool) -> dict[str, Any]:
    """Ask again, ever less often, until it is settled or the time is over; says each new step on stderr."""
    import time

    end = time.monotonic() + timeout_s
    pause, said = 0.05, 0
    while True:
        push: dict[str, Any] = provider.get("push", push_id)
        steps = [step for delivery in push["deliveries"] for step in delivery["steps"]]
        if not quiet and len(push["deliveries"]) == 1:
            for step in steps[said:]:
                say(f"  +{step['at_ms'] - push['accepted_at_ms']:>6} ms  {_step_text(step)}")
            said = len(steps)
        left = end - time.monotonic()
        if is_settled(push) or left <= 0:
            return push
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 1.0)


def show_push(push: dict[str, Any]) -> None:
    """Where is my push? For people."""
    from gateway.cli.output import when

    print_fields(
        [
            ("push", push["id"]),
            ("target", _target_text(push["target"])),
            ("state", push["state"]),
            ("goes out (UTC)", when(push["deliver_at"]) if push.get("deliver_at") else ""),
            ("accepted (UTC)", when(push["accepted_at_ms"] / 1000)),
            ("expires (UTC)", when(push["expires_at"])),
            ("urgency", push["urgency"]),
            ("collapse key", push["collapse_key"]),
            ("figures", push["figures"]),
        ]
    )
    rows = [
        (
            delivery["token"] or "(gone)",
            delivery["state"],
            f"+{step['at_ms'] - push['accepted_at_ms']} ms",
            _step_text(step),
        )
        for delivery in push["deliveries"]
        for step in delivery["steps"] or [{"at_ms": delivery["at_ms"], "what": delivery["state"]}]
    ]
    if rows:
        print()
        print_table(("token", "state", "after", "step"), rows)
    if push["next_offset"] is not None:
        say("more deliveries: heliograph inspect push ID --offset " + str(push["next_offset"]))


def _target_text(target: dict[str, Any]) -> str:
    return ", ".join(kind if value is True else f"{kind} {value}" for kind, value in target.items())


def _step_text(step: dict[str, Any]) -> str:
    channel, detail = step.get("channel"), step.get("detail")
    return str(step["what"]) + (f" via {channel}" if channel else "") + (f" ({detail})" if detail else "")
