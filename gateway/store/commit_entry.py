"""What waits for a commit, and hears once what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from gateway.model.errors import GatewayError
from gateway.store.records import Row

Call = Callable[[], None]


class Entry:
    """`undo` where it is not written, `done` where it is; `local`: not for the log."""

    __slots__ = ("done", "future", "joined", "kept", "local", "rows", "size", "undo")

    def __init__(
        self,
        rows: Collection[Row],
        future: asyncio.Future[None] | None,
        kept: bool,
        done: Call | None,
        undo: Call | None,
        local: bool = False,
    ) -> None:
        self.rows = rows
        self.size = len(rows)
        self.future = future
        self.kept = kept
        self.local = local  # not for the log
        self.done = done
        self.undo = undo
        self.joined = False  # in one transaction with the entry before it, however large that is


def fail(entry: Entry, error: GatewayError) -> None:
    """Whoever waits for it hears that; not a second time."""
    if entry.future is not None and not entry.future.done():
        entry.future.set_exception(error)
        entry.future.exception()  # a caller that went away is no reason for a warning


def undo_all(entries: list[Entry], error: GatewayError) -> None:
    """None of them is written; kept ones stay as they are."""
    # last first, so that each undo finds the state its entry left
    for entry in reversed(entries):
        if not entry.kept and entry.undo is not None:
            entry.undo()
    for entry in entries:
        fail(entry, error)
