"""`heliograph downloads`: what is brought to cards, over the provider API with an app's key; must never show a byte of
what is brought.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.input_file import read_input
from gateway.cli.options import ConfigFile, Json, Key, Url, api_url
from gateway.cli.output import CommandFailed, print_fields, print_json, print_table, say, when
from gateway.model.errors import ConfigError

if TYPE_CHECKING:
    from gateway.cli.provider import Provider

group = typer.Typer(no_args_is_help=True, add_completion=False)

MAX_FILE_BYTES = 256 << 20
FINAL = ("done", "noticed", "failed", "stopped", "expired")

DownloadId = Annotated[str, typer.Argument(metavar="ID", help="What `downloads start` or the API answered.")]


class State(enum.StrEnum):
    """Of a download."""

    WAITING = "waiting"
    ACTIVE = "active"
    HELD = "held"
    DONE = "done"
    NOTICED = "noticed"
    FAILED = "failed"
    STOPPED = "stopped"
    EXPIRED = "expired"


@group.callback()
def downloads() -> None:
    """Commands brought to SIM cards over the air (docs/cards.md)."""


def read_commands(file: str) -> list[str]:
    """One command APDU a line in hex, spaces allowed; # begins a comment. ConfigError names the line and shows nothing
    of it."""
    raw = read_input(file, MAX_FILE_BYTES)
    commands: list[str] = []
    for place, line in enumerate(raw.splitlines(), 1):
        text = line.partition(b"#")[0].strip()
        if not text:
            continue
        try:
            command = bytes.fromhex(text.decode("ascii"))
        except ValueError:
            raise ConfigError(f"line {place} is no command in hex; one reads 00A40004023F00") from None
        commands.append(command.hex())
    if not commands:
        raise ConfigError(f"{file} has no command; write one a line in hex, as 00A40004023F00")
    return commands


@group.command()
def start(
    card: Annotated[str, typer.Argument(metavar="CARD", help="card_ and 32 hex digits.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="One command APDU a line in hex; - reads stdin.")],
    tar: Annotated[str, typer.Option("--tar", help="What it is sent to, six hex digits; else the card's own.")] = "",
    notice: Annotated[str, typer.Option("--notice", help="What the user is told where it can not be done.")] = "",
    ttl: Annotated[int | None, typer.Option("--ttl", help="Seconds it is kept trying.", show_default=False)] = None,
    at: Annotated[
        str, typer.Option("--at", help="Not before then: 2027-01-31T09:00+01:00, Unix seconds, or +SECONDS.")
    ] = "",
    idempotency_key: Annotated[str, typer.Option("--idempotency-key", help="The same key starts it once.")] = "",
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Follow it until it is over.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Longest wait, seconds.")] = 600.0,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Bring commands to a card: over a link where its terminal can, else by short messages, else its user is told.

    Exit code 1 with --wait: not over in time, or over without all commands executed.

    [dim]heliograph downloads start card_5d0c… update.apdu --wait[/dim]
    """
    from gateway.cli.provider import Provider, app_key
    from gateway.cli.send import parse_time

    optional: dict[str, Any] = {
        "tar": tar,
        "notice": notice,
        "ttl_s": ttl,
        "at": parse_time(at) if at else None,
        "idempotency_key": idempotency_key,
    }
    body = {"card": card, "commands": read_commands(file)}
    body |= {name: value for name, value in optional.items() if value not in (None, "")}
    with Provider(api_url(url, config), app_key(key)) as provider:
        accepted = provider.post("downloads", body=body)
        if not wait:
            if as_json:
                print_json(accepted)
            else:
                print(accepted["id"])
                say(f"accepted; follow it: heliograph downloads show {accepted['id']}")
            return
        found = _follow(provider, accepted["id"], timeout, quiet=as_json)
    if as_json:
        print_json(found)
    else:
        _print_download(found)
    if found["state"] not in FINAL:
        raise CommandFailed(f"not over after {timeout:g} s; look again: heliograph downloads show {accepted['id']}")
    if found["state"] != "done":
        raise typer.Exit(1)


def _follow(provider: Provider, download_id: str, timeout_s: float, *, quiet: bool) -> dict[str, Any]:
    """Ask again, ever less often, until it is over or the time is; says each new step on stderr."""
    import time

    from gateway.cli.provider import look_again

    end = time.monotonic() + timeout_s
    pause, last = 0.1, (-1, "", "")
    while True:
        found = look_again(lambda: provider.get("downloads", download_id), end)
        steps = [(step["at_ms"], step["what"], step["detail"]) for step in found["steps"]]
        fresh = steps[steps.index(last) + 1 :] if last in steps else steps
        for at_ms, what, detail in () if quiet else fresh:
            say(f"  +{at_ms - found['created_at_ms']:>6} ms  {what}" + (f" ({detail})" if detail else ""))
        last = steps[-1] if steps else last
        left = end - time.monotonic()
        if found["state"] in FINAL or left <= 0:
            return found
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 2.0)


def _print_download(found: dict[str, Any]) -> None:
    created = found["created_at_ms"]
    print_fields(
        [
            ("download", found["id"]),
            ("card", found["card"]),
            ("state", found["state"]),
            ("executed", f"{found['done']} of {found['commands']} commands"),
            ("way", found["way"]),
            ("calls", found["calls"]),
            ("last trouble", found["cause"]),
            ("campaign", found["campaign"]),
            ("created (UTC)", when(created / 1000)),
            ("expires (UTC)", when(found["expires_at_ms"] / 1000)),
            ("next try (UTC)", when(found["due_at_ms"] / 1000) if found["due_at_ms"] else ""),
        ]
    )
    if found["steps"]:
        print()
        rows = ([f"+{step['at_ms'] - created} ms", step["what"], step["detail"]] for step in found["steps"])
        print_table(("after", "step", "detail"), rows)


@group.command()
def show(
    download_id: DownloadId,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Where is my download?"""
    from gateway.cli.provider import Provider, app_key

    with Provider(api_url(url, config), app_key(key)) as provider:
        found = provider.get("downloads", download_id)
    if as_json:
        print_json(found)
    else:
        _print_download(found)


@group.command()
def stop(
    download_id: DownloadId,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """No more tries; what runs is cut off after the command under way."""
    from gateway.cli.provider import Provider, app_key

    with Provider(api_url(url, config), app_key(key)) as provider:
        found = provider.delete("downloads", download_id)
    if as_json:
        print_json(found)
    elif found["state"] == "stopped":
        say(f"stopped; {found['done']} of {found['commands']} commands were executed")
    else:
        say(f"it was over already: {found['state']}")


@group.command("list")
def list_downloads(
    state: Annotated[State | None, typer.Option("--state", help="Only those.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 100,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Downloads of the app, the newest first."""
    from gateway.cli.provider import Provider, app_key

    query = {"state": state.value} if state else {}
    found: list[dict[str, Any]] = []
    after: str | None = ""
    with Provider(api_url(url, config), app_key(key)) as provider:
        while after is not None and len(found) < limit:
            room = {"limit": str(min(limit - len(found), 1_000))}
            page = provider.get("downloads", **query, **room, **({"after": after} if after else {}))
            found += page["downloads"]
            after = page["after"]
    if as_json:
        print_json({"downloads": found, "after": after})
        return
    print_table(
        ("download", "card", "state", "executed", "way", "last trouble", "created (UTC)"),
        (
            [
                row["id"],
                row["card"],
                row["state"],
                f"{row['done']} of {row['commands']}",
                row["way"],
                row["cause"],
                when(row["created_at_ms"] / 1000),
            ]
            for row in found
        ),
    )
    if after is not None:
        say("there are more: --limit")
