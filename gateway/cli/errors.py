"""`heliograph errors`: the table of error numbers, and `docs/errors.md` from it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli.options import Json
from gateway.cli.output import print_fields, print_json, print_table
from gateway.model.errors import ERRORS, ConfigError

command = typer.Typer(add_completion=False)


@command.command()
def errors(
    which: Annotated[str | None, typer.Argument(help="A number or a name; all where left out.")] = None,
    as_json: Json = False,
) -> None:
    """What each error number means, and whether to retry.

    [dim]heliograph errors 32[/dim]   [dim]heliograph errors unknown_token[/dim]
    """
    rows = [row for row in describe() if which is None or which in (str(row["code"]), row["name"])]
    if not rows:
        raise ConfigError(f"there is no error {which!r}; `heliograph errors` lists all")
    if as_json:
        print_json(rows if which is None else rows[0])
    elif which is None:
        columns = ("code", "name", "status", "retry", "meaning")
        print_table(columns, ([row[c] for c in columns] for row in rows))
    else:
        print_fields(rows[0].items())


def describe() -> list[dict[str, Any]]:
    """One row an error, by number."""
    return [
        {
            "code": code,
            "name": cls.name,
            "status": cls.status,
            "retry": cls.retryable,
            "after_ms": cls.after_ms,
            "fatal": cls.fatal,
            "meaning": cls.summary,
        }
        for code, cls in sorted(ERRORS.items())
    ]


def build_page() -> str:
    """`docs/errors.md`."""
    out = [
        "# Errors",
        "",
        "<!-- Generated from gateway/model/errors.py: edit that file, then run `make docs`. -->",
        "",
        'A device gets an error as an `ERROR` or `GOAWAY` frame, a provider as `{"error": {"code", "name", "message",',
        '"field"}}` with the HTTP status below. Numbers and names are stable for ever. *Retry* says whether the same',
        "request may succeed later, and after how long where the error itself does not say; *closes* says whether the",
        "gateway closes the device's link after it.",
        "",
        "| code | name | HTTP | retry | closes | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for row in describe():
        retry = f"after {row['after_ms'] / 1000:g} s" if row["after_ms"] else "at once"
        out.append(
            f"| {row['code']} | `{row['name']}` | {row['status']} | {retry if row['retry'] else 'no'} "
            f"| {'yes' if row['fatal'] else ''} | {row['meaning']} |"
        )
    return "\n".join(out) + "\n"
