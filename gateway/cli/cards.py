"""`heliograph cards`: SIM cards and what is known of their terminals, over the provider API with the operator's key;
must never show a number or a key, nor repeat one in an error.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import ConfigFile, Json, OperatorKey, StoreFolder, Url, open_as_operator
from gateway.cli.output import CommandFailed, print_fields, print_json, print_table, say, when
from gateway.model.errors import ConfigError

if TYPE_CHECKING:
    from gateway.cli.provider import Provider

group = typer.Typer(no_args_is_help=True, add_completion=False)

#: cards in one request
CHUNK = 500
KINDS = ("iccid", "imsi", "msisdn")
#: refusals that are told one by one; of the rest there is a count
MOST_TOLD = 20

CardId = Annotated[str, typer.Argument(metavar="CARD", help="card_ and 32 hex digits.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


class Ability(enum.StrEnum):
    """What is known of a card's terminal (E4, E5)."""

    UNKNOWN = "unknown"
    CAPABLE = "capable"
    NOT_CAPABLE = "not_capable"


@group.callback()
def cards() -> None:
    """SIM cards and what is known of their terminals (docs/cards.md).

    These commands use the operator's key. A number given as an argument shows in `ps` and in the shell's history: give
    - and write it to stdin where others are on the machine.
    """


def _read_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(line of the file, one card); blank lines and lines that begin with # say nothing."""
    with nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb") as stream:
        for place, line in enumerate(stream, 1):
            text = line.strip()
            if text and not text.startswith(b"#"):
                yield place, text


def _count_lines(file: Path) -> int | None:
    return None if str(file) == "-" else sum(1 for _ in _read_lines(file))


class _Tally:
    """What became of an import."""

    def __init__(self, *, ids: bool) -> None:
        self.imported = 0
        self.refused = 0
        self.errors: list[dict[str, Any]] = []
        self._ids = ids

    def add(self, places: list[int], answer: dict[str, Any]) -> None:
        self.imported += answer["imported"]
        self.refused += answer["refused"]
        for place, result in zip(places, answer["cards"], strict=True):
            error = result.get("error")
            if error is None:
                if self._ids:
                    print(result["card"])
            elif len(self.errors) < MOST_TOLD:
                self.errors.append({"line": place, "field": error.get("field"), "message": error["message"]})


def _import_all(provider: Provider, lines: Iterable[tuple[int, bytes]], tally: _Tally) -> Iterator[int]:
    """Cards of each request."""
    rest = iter(lines)
    while chunk := list(islice(rest, CHUNK)):
        answer = provider.post_lines("cards", content=b"\n".join(text for _, text in chunk))
        tally.add([place for place, _ in chunk], answer)
        yield len(chunk)


@group.command("import")
def import_cards(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, one card a line; - reads stdin.")],
    ids: Annotated[bool, typer.Option("--ids", help="Print the id of each card that was taken, one a line.")] = False,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Bring cards in: who they are, their key sets, what they are sent to. A known card is replaced.

    Exit code 1 where a card was refused; the others are in.

    [dim]heliograph cards import cards.jsonl[/dim]
    """
    from gateway.cli.provider import name_field

    if str(file) != "-" and not file.is_file():
        raise ConfigError(f"there is no file {file}")
    tally = _Tally(ids=ids and not as_json)
    with open_as_operator(url, key, store, config) as provider, _Bar(_count_lines(file)) as advance:
        for count in _import_all(provider, _read_lines(file), tally):
            advance(count)
    if not tally.imported + tally.refused:
        raise ConfigError(f"{'stdin' if str(file) == '-' else file} has no card; docs/cards.md says how a line reads")
    if as_json:
        print_json({"imported": tally.imported, "refused": tally.refused, "errors": tally.errors})
    else:
        for error in tally.errors:
            say(f"line {error['line']}: {name_field(error['field'], error['message'])}")
        if tally.refused > len(tally.errors):
            say(f"and {tally.refused - len(tally.errors)} more")
        say(f"{tally.imported} imported, {tally.refused} refused")
    if tally.refused:
        raise typer.Exit(1)


class _Bar:
    """A progress bar on stderr, where somebody looks."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._progress: Any = None

    def __enter__(self) -> Any:
        if not sys.stderr.isatty():
            return lambda _count: None
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("cards"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)
        )
        self._progress.start()
        task = self._progress.add_task("cards", total=self._total)
        return lambda count: self._progress.advance(task, count)

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


@group.command()
def find(
    number: Annotated[
        str, typer.Argument(metavar="KIND:VALUE", help="KIND is iccid, imsi or msisdn; - reads it from stdin.")
    ],
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """The id of a card, from its ICCID, IMSI or MSISDN."""
    text = sys.stdin.readline().strip() if number == "-" else number
    kind, colon, value = text.partition(":")
    if not colon or not value or kind.lower() not in KINDS:
        raise ConfigError(f"it does not read KIND:VALUE; kinds are {', '.join(KINDS)}")
    with open_as_operator(url, key, store, config) as provider:
        answer = provider.post("cards", "find", body={kind.lower(): value})
    if as_json:
        print_json(answer)
    else:
        print(answer["card"])


@group.command()
def show(
    card: CardId,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """One card: its tags, the numbers of its key sets, what is known of its terminal."""
    with open_as_operator(url, key, store, config) as provider:
        found = provider.get("cards", card)
    if as_json:
        print_json(found)
        return
    known = found["capability"]
    print_fields(
        [
            ("card", found["id"]),
            ("tags", found["tags"]),
            ("key sets", found["key_sets"]),
            ("of them for messages", found["push_keys"]),
            ("of them for links", found["data_keys"]),
            ("TAR", found["tar"]),
            ("TAR of PUSH", found["push_tar"]),
            ("terminal", known["state"]),
            ("since (UTC)", _when(known["since_ms"])),
            ("until (UTC)", _when(known["until_ms"])),
        ]
    )


def _when(at_ms: int | None) -> str:
    return when((at_ms or 0) / 1000)


@group.command("list")
def list_cards(
    tag: Annotated[str, typer.Option("--tag", help="With this tag.")] = "",
    capability: Annotated[
        Ability | None, typer.Option("--capability", help="With such a terminal.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many; 0: all.")] = 100,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Ids of cards, one a line."""
    query = {"tag": tag, "capability": capability.value if capability else ""}
    found: list[str] = []
    shown = count = 0
    more = False
    with open_as_operator(url, key, store, config) as provider:
        for page in _pages(provider, {name: value for name, value in query.items() if value}):
            count = page["count"]
            rows = page["cards"][: limit - shown] if limit else page["cards"]
            shown += len(rows)
            more = len(rows) < len(page["cards"]) or page["after"] is not None
            if as_json:
                found += rows
            else:
                sys.stdout.writelines(f"{row}\n" for row in rows)
            if limit and shown >= limit:
                break
    if as_json:
        print_json({"count": count, "cards": found, "more": more})
    else:
        say(f"{shown} shown of {count} cards in all" + ("; there are more: --limit" if more else ""))


def _pages(provider: Provider, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    after: str | None = ""
    while after is not None:
        page = provider.get("cards", **query, limit="1000", **({"after": after} if after else {}))
        yield page
        after = page["after"]


@group.command()
def remove(
    card: CardId,
    yes: Yes = False,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
) -> None:
    """Take a card away. Its counters stay: brought in again, it goes on behind them."""
    if not yes:
        typer.confirm("This card and its keys are removed. Go on?", abort=True, err=True)
    with open_as_operator(url, key, store, config) as provider:
        provider.delete("cards", card)
    say("the card is removed")


@group.command()
def capability(
    card: CardId,
    changed: Annotated[
        bool, typer.Option("--changed", help="Its terminal is another one: what was known counts no more (E5).")
    ] = False,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """What is known of a card's terminal, and why."""
    with open_as_operator(url, key, store, config) as provider:
        found = (
            provider.post("cards", card, "terminal-changed") if changed else provider.get("cards", card, "capability")
        )
    _print_capability(found, as_json=as_json)


def _print_capability(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    fields = [("terminal", found["state"]), ("since (UTC)", _when(found["since_ms"]))]
    print_fields([*fields, ("until (UTC)", _when(found["until_ms"]))])
    if found["evidence"]:
        print()
        rows = ([_when(e["at_ms"]), e["what"], e["state"], e["detail"]] for e in found["evidence"])
        print_table(("seen (UTC)", "what", "concluded", "detail"), rows)


@group.command()
def check(
    card: CardId,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Until something is concluded.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Longest wait, seconds.")] = 330.0,
    url: Url = None,
    key: OperatorKey = None,
    store: StoreFolder = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Call the card, so that its terminal shows whether it can (E2 to E4).

    Exit code 1 with --wait: nothing was concluded in time, or the terminal can not.
    """
    with open_as_operator(url, key, store, config) as provider:
        before = provider.get("cards", card, "capability")
        answer = provider.post("cards", card, "check")
        if not wait:
            if as_json:
                print_json(answer)
            else:
                say(f"it is being called; look: heliograph cards capability {card}")
            return
        found, what = _follow(provider, card, len(before["evidence"]), before["evidence"][-1:], timeout)
    _print_capability(found, as_json=as_json)
    if found["state"] == "unknown":
        raise CommandFailed(f"nothing was concluded in {timeout:g} s")
    if what not in _CONCLUSIONS:
        raise CommandFailed(f"nothing was concluded ({what or 'no answer'}): {found['state']} is what was known before")
    if found["state"] != "capable":
        raise typer.Exit(1)


#: what a check concludes from; a channel without a link only at the last of its calls
_CONCLUSIONS = ("link_opened", "terminal_result", "validity_over", "no_link")


def _follow(
    provider: Provider, card: str, count: int, last: list[dict[str, Any]], timeout_s: float
) -> tuple[dict[str, Any], str]:
    """Ask again, ever less often, until there is new evidence and the card is not unknown with it: the check ends then,
    also where that says no more than was known. And what was seen last."""
    import time

    end = time.monotonic() + timeout_s
    pause = 0.1
    while True:
        found: dict[str, Any] = provider.get("cards", card, "capability")
        evidence = found["evidence"]
        fresh = evidence[count:] if evidence[count - 1 : count] == last else evidence
        left = end - time.monotonic()
        known = [line["what"] for line in fresh if line["state"] != "unknown"]
        if known or left <= 0:
            return found, known[-1] if known else ""
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 2.0)
