"""How commands print: tables for people, JSON for programs, no colour where nobody looks; must never log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec


class CommandFailed(Exception):
    """A command did not do what it was asked for; the message is for the person who asked. Exit code 1."""


def print_json(value: Any) -> None:
    """One JSON document on stdout, indented, keys in order."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """A table on stdout; plain and wide where stdout is no terminal."""
    from rich.table import Table

    table = Table(*columns, title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    _console().print(table)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Name and value, one pair a line; empty values are left out."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        if value not in (None, "", [], {}):
            table.add_row(name, _cell(value))
    _console().print(table)


def say(text: str) -> None:
    """A line for people, on stderr, so that stdout stays what a program reads."""
    print(text, file=sys.stderr)


def when(seconds: float) -> str:
    """Unix seconds as a UTC time; empty for 0."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") if seconds else ""


def _cell(value: object) -> Any:
    from rich.text import Text

    return Text(text_of(value))


def text_of(value: object) -> str:
    """As people write it; what stands inside something else is in brackets."""
    match value:
        case list() | tuple():
            return ", ".join(map(_inner, value))
        case dict():
            return ", ".join(f"{key}={_inner(each)}" for key, each in value.items())
        case bool():
            return "yes" if value else "no"
    return str(value)


def _inner(value: object) -> str:
    is_several = isinstance(value, dict | list | tuple)
    return f"({text_of(value)})" if is_several else text_of(value)


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, soft_wrap=False, highlight=False)
