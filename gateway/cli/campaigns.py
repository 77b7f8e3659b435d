"""`heliograph campaigns`: the same commands for many cards, over the provider API with an app's key; must never show a
byte of what is brought.
"""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.downloads import read_commands
from gateway.cli.input_file import read_input
from gateway.cli.local_cards import parse_share
from gateway.cli.options import ConfigFile, Json, Key, Url, api_url
from gateway.cli.output import CommandFailed, print_fields, print_json, print_table, say, when
from gateway.model.errors import ConfigError

if TYPE_CHECKING:
    from gateway.cli.provider import Provider

group = typer.Typer(no_args_is_help=True, add_completion=False)

MAX_LIST_BYTES = 1 << 30
FINAL = ("done", "stopped")
GOOD = ("done", "noticed")

CampaignId = Annotated[str, typer.Argument(metavar="ID", help="What `campaigns create` or the API answered.")]
FailOver = Annotated[
    str, typer.Option("--fail-over", help="Share of the cards that may end other than done or noticed: 5% or 0.05.")
]


class State(enum.StrEnum):
    """Of a participant."""

    HELD = "held"
    WAITING = "waiting"
    ACTIVE = "active"
    DONE = "done"
    NOTICED = "noticed"
    FAILED = "failed"
    STOPPED = "stopped"
    EXPIRED = "expired"


@group.callback()
def campaigns() -> None:
    """The same commands for many SIM cards, under a rate, canaries first (docs/campaigns.md)."""


def _open(url: str | None, key: str | None, config: Path | None) -> Provider:
    from gateway.cli.provider import Provider, app_key

    return Provider(api_url(url, config), app_key(key))


def _say_list(taken: dict[str, Any]) -> None:
    for line in taken["lines"]:
        say(f"line {line['line']}: {line['error']}")
    if taken["refused"] > len(taken["lines"]):
        say(f"and {taken['refused'] - len(taken['lines'])} more")
    say(f"{taken['participants']} cards take part; {taken['duplicates']} named again, {taken['refused']} refused")


@group.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="For people; need not be the only one.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="One command APDU a line in hex; - reads stdin.")],
    query: Annotated[
        str | None,
        typer.Option("--query", "-q", help="Who takes part: 'tag:batch-7 and not capable'.", show_default=False),
    ] = None,
    cards: Annotated[
        str | None, typer.Option("--cards", help="File of card ids, one a line; - reads stdin.", show_default=False)
    ] = None,
    per_s: Annotated[float, typer.Option("--per-s", min=0, help="Releases a second; 0: as fast as they go.")] = 0.0,
    at_once: Annotated[int, typer.Option("--at-once", min=0, help="Most under way at once; 0: as ota.at_once.")] = 0,
    canary: Annotated[
        str | None, typer.Option("--canary", help="Share that goes first: 1% or 0.01.", show_default=False)
    ] = None,
    canary_success: Annotated[
        str, typer.Option("--canary-success", help="Share of the canaries that has to end done or noticed.")
    ] = "95%",
    tar: Annotated[str, typer.Option("--tar", help="What it is sent to, six hex digits; else each card's own.")] = "",
    notice: Annotated[str, typer.Option("--notice", help="What a user is told where it can not be done.")] = "",
    ttl: Annotated[int | None, typer.Option("--ttl", help="Seconds until it is over.", show_default=False)] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Begin at `campaigns resume`.")] = False,
    idempotency_key: Annotated[str, typer.Option("--idempotency-key", help="The same key makes it once.")] = "",
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Bring the commands of a file to many cards.

    Exit code 1 where a line of --cards was refused; the others take part.

    [dim]heliograph campaigns create "list 12" list.apdu --query 'tag:batch-7' --per-s 200 --canary 1%[/dim]
    [dim]heliograph campaigns create "list 12" list.apdu --cards cards.txt --paused[/dim]
    """
    if (query is None) == (cards is None):
        raise ConfigError("name who takes part: either --query or --cards")
    if cards == "-" and file == "-":
        raise ConfigError("the commands and the cards can not both come from stdin")
    body: dict[str, Any] = {"name": name, "commands": read_commands(file), "per_s": per_s, "at_once": at_once}
    body["start"] = not paused
    if canary is not None:
        success = parse_share(canary_success, "--canary-success")
        body["canary"] = {"share": parse_share(canary, "--canary"), "success": success}
    optional = {"query": query, "tar": tar, "notice": notice, "ttl_s": ttl, "idempotency_key": idempotency_key}
    body |= {field: value for field, value in optional.items() if value not in (None, "")}
    listed = None if cards is None else read_input(cards, MAX_LIST_BYTES)
    with _open(url, key, config) as provider:
        made = provider.post("campaigns", body=body)
        # made once already, with its list: the same idempotency key
        if listed is not None and made["state"] == "gathering":
            made["taken"] = _upload(provider, made["id"], listed)
    if as_json:
        print_json(made)
    else:
        print(made["id"])
        if made["taken"] is not None:
            _say_list(made["taken"])
        say(f"follow it: heliograph campaigns watch {made['id']}")
    if made["taken"] is not None and made["taken"]["refused"]:
        raise typer.Exit(1)


def _upload(provider: Provider, campaign_id: str, listed: bytes) -> dict[str, Any]:
    try:
        taken: dict[str, Any] = provider.post_lines("campaigns", campaign_id, "cards", content=listed)
    except CommandFailed as exc:
        raise CommandFailed(
            f"{exc}; the campaign is there and waits for its cards: heliograph campaigns add {campaign_id} FILE"
        ) from None
    return taken


@group.command()
def add(
    campaign_id: CampaignId,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Card ids, one a line; - reads stdin.")],
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """The cards of a campaign that was made without any; once.

    Exit code 1 where a line was refused; the others take part.
    """
    listed = read_input(file, MAX_LIST_BYTES)
    with _open(url, key, config) as provider:
        taken = provider.post_lines("campaigns", campaign_id, "cards", content=listed)
    if as_json:
        print_json(taken)
    else:
        _say_list(taken)
    if taken["refused"]:
        raise typer.Exit(1)


def _print_campaign(found: dict[str, Any]) -> None:
    canary = found["canary"]
    done = found["over"] / found["participants"] if found["participants"] else 1.0
    print_fields(
        [
            ("campaign", found["id"]),
            ("name", found["name"]),
            ("state", found["state"] + (f" ({found['why']})" if found["why"] else "")),
            ("cards", found["query"] or "a list"),
            ("over", f"{found['over']:,} of {found['participants']:,} ({done:.1%})"),
            ("under way", f"{found['under_way']:,}, and {found['out'] - found['under_way']:,} wait for another try"),
            ("not released", f"{found['held']:,}"),
            ("results", found["results"]),
            ("causes", found["causes"]),
            ("canaries", _canary_text(canary) if canary else ""),
            ("releases a second", f"{found['per_s']:g}" if found["per_s"] else ""),
            ("at once", found["at_once"] or ""),
            ("over a second", f"{found['rate']:g}" if found["rate"] else ""),
            ("time left", _time_text(found["left_s"]) if found["left_s"] else ""),
            ("created (UTC)", when(found["created_at_ms"] / 1000)),
            ("expires (UTC)", when(found["expires_at_ms"] / 1000)),
            ("ended (UTC)", when((found["ended_at_ms"] or 0) / 1000)),
        ]
    )


def _canary_text(canary: dict[str, Any]) -> str:
    return (
        f"{canary['good']} good of {canary['over']} over of {canary['cards']}; {canary['success']:.0%} have to be good"
    )


def _time_text(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


@group.command()
def show(
    campaign_id: CampaignId,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """How far is my campaign?"""
    with _open(url, key, config) as provider:
        found = provider.get("campaigns", campaign_id)
    if as_json:
        print_json(found)
    else:
        _print_campaign(found)


@group.command("list")
def list_campaigns(
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 100,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Campaigns of the app, the newest first."""
    found: list[dict[str, Any]] = []
    after: str | None = ""
    with _open(url, key, config) as provider:
        while after is not None and len(found) < limit:
            room = {"limit": str(min(limit - len(found), 1_000))}
            page = provider.get("campaigns", **room, **({"after": after} if after else {}))
            found += page["campaigns"]
            after = page["after"]
    if as_json:
        print_json({"campaigns": found, "after": after})
        return
    print_table(
        ("campaign", "name", "state", "over", "results", "created (UTC)"),
        (
            [
                row["id"],
                row["name"],
                row["state"],
                f"{row['over']:,} of {row['participants']:,}",
                row["results"],
                when(row["created_at_ms"] / 1000),
            ]
            for row in found
        ),
    )
    if after is not None:
        say("there are more: --limit")


@group.command()
def cards(
    campaign_id: CampaignId,
    state: Annotated[State | None, typer.Option("--state", help="Only those.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many; 0: all.")] = 100,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """What became of each card; with --json a line each."""
    import msgspec

    query = {"state": state.value} if state else {}
    rows: list[list[object]] = []
    shown = 0
    after: int | None = 0
    with _open(url, key, config) as provider:
        while after is not None and (not limit or shown < limit):
            room = str(min(limit - shown, 1_000) if limit else 1_000)
            page = provider.get("campaigns", campaign_id, "cards", **query, limit=room, after=str(after))
            after = page["after"]
            shown += len(page["cards"])
            for card in page["cards"]:
                if as_json:
                    sys.stdout.write(msgspec.json.encode(card).decode() + "\n")
                else:
                    rows.append([card[name] for name in ("card", "state", "done", "way", "calls", "cause", "download")])
    if not as_json:
        print_table(("card", "state", "executed", "way", "calls", "last trouble", "download"), rows)
        if after is not None:
            say("there are more: --limit")


def _word(word: str, campaign_id: str, provider: Provider, *, as_json: bool) -> None:
    found = provider.post("campaigns", campaign_id, word)
    if as_json:
        print_json(found)
    else:
        say(f"{found['state']}; {found['over']:,} of {found['participants']:,} cards are over")


@group.command()
def pause(
    campaign_id: CampaignId, url: Url = None, key: Key = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """Release nothing further; what runs ends."""
    with _open(url, key, config) as provider:
        _word("pause", campaign_id, provider, as_json=as_json)


@group.command()
def resume(
    campaign_id: CampaignId, url: Url = None, key: Key = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """Go on, also in spite of canaries that failed."""
    with _open(url, key, config) as provider:
        _word("resume", campaign_id, provider, as_json=as_json)


@group.command()
def stop(
    campaign_id: CampaignId, url: Url = None, key: Key = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """Stop it for good; what runs is cut off after the command under way."""
    with _open(url, key, config) as provider:
        _word("stop", campaign_id, provider, as_json=as_json)


@group.command()
def watch(
    campaign_id: CampaignId,
    fail_over: FailOver = "0",
    every: Annotated[float, typer.Option("--every", min=0.05, max=3_600, help="Seconds between two looks.")] = 1.0,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Longest wait, seconds.", show_default=False)
    ] = None,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Follow it to its end, with a bar where somebody looks; with --json a line for each look.

    A gateway that is started anew meanwhile is waited for, up to five minutes.
    Exit code 1: it was stopped, waits for a word after its canaries, was not over in time, no card took part, or more
    cards than --fail-over ended other than done or noticed.
    """
    most = parse_share(fail_over, "--fail-over")
    with _open(url, key, config) as provider, _Shown(as_json) as shown:
        found = _follow(provider, campaign_id, every, timeout, shown)
    if not as_json:
        _print_campaign(found)
    if found["state"] == "canary_failed":
        raise CommandFailed(f"{found['why']}; go on in spite of it: heliograph campaigns resume {campaign_id}")
    if found["state"] not in FINAL:
        raise CommandFailed(f"not over after {timeout:g} s; look again: heliograph campaigns watch {campaign_id}")
    if not found["participants"]:
        raise CommandFailed("no card took part; what is asked for is in its query")
    bad = sum(count for state, count in found["results"].items() if state not in GOOD)
    if found["state"] == "stopped" or bad > most * found["participants"] + 1e-9:
        raise typer.Exit(1)


def _follow(
    provider: Provider, campaign_id: str, every_s: float, timeout_s: float | None, shown: _Shown
) -> dict[str, Any]:
    import time

    from gateway.cli.provider import look_again

    end = None if timeout_s is None else time.monotonic() + timeout_s
    found: dict[str, Any] = provider.get("campaigns", campaign_id)
    while True:
        shown(found)
        if found["state"] in (*FINAL, "canary_failed"):
            return found
        left = every_s if end is None else end - time.monotonic()
        if left <= 0:
            return found
        time.sleep(min(every_s, left))
        found = look_again(lambda: provider.get("campaigns", campaign_id), end)


class _Shown:
    """A bar on stderr where somebody looks, JSON lines on stdout, or a line where the state is another one."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._progress: Any = None
        self._task: Any = None
        self._state = ""

    def __enter__(self) -> _Shown:
        if not self._as_json and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[more]}"),
                console=Console(stderr=True),
            )
            self._progress.start()
            self._task = self._progress.add_task("", total=None, more="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, found: dict[str, Any]) -> None:
        if self._as_json:
            import msgspec

            sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
            sys.stdout.flush()
        elif self._progress is not None:
            self._progress.update(
                self._task,
                description=found["state"],
                completed=found["over"],
                total=found["participants"] or None,
                more=_more_text(found),
            )
        elif found["state"] != self._state:
            self._state = found["state"]
            say(f"{found['state']}: {found['over']:,} of {found['participants']:,} over{_more_text(found)}")


def _more_text(found: dict[str, Any]) -> str:
    parts = [f"{count:,} {state}" for state, count in found["results"].items() if state != "done"]
    if found["under_way"]:
        parts.append(f"{found['under_way']:,} under way")
    if found["rate"]:
        parts.append(f"{found['rate']:,.4g}/s")
    if found["left_s"]:
        parts.append(f"{_time_text(found['left_s'])} left")
    return "  " + ", ".join(parts) if parts else ""
