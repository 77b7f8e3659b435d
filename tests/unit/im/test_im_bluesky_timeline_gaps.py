"""A timeline of Bluesky that others fill while it is read: late items, long absences, what is too far back."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gateway.im.connectors.bluesky.client import PdsClient
from gateway.im.connectors.bluesky.cursor import Shown, parse_cursor
from gateway.im.connectors.bluesky.timeline import Timeline
from gateway.model.im import CursorForgotten, Message, Transient

DID = "did:plc:you"


class Feed:
    """A client that has a timeline and nothing else; times in seconds."""

    did = "did:plc:me"

    def __init__(self) -> None:
        self.items: list[tuple[int, int]] = []  # sorted by the first, taken in at the second

    def add(self, at: int, taken_in: int | None = None) -> None:
        self.items.append((at, at if taken_in is None else taken_in))

    async def get_timeline(self, cursor: str, limit: int) -> tuple[list[Any], str]:
        at = int(cursor or 0)
        rows = [
            {
                "post": {
                    "uri": f"at://{DID}/app.bsky.feed.post/x{created}",
                    "author": {"did": DID},
                    "record": {"text": str(created), "createdAt": _time(created)},
                    "indexedAt": _time(taken_in),
                }
            }
            for created, taken_in in sorted(self.items, reverse=True)
        ]
        return rows[at : at + limit], str(at + limit) if at + limit < len(rows) else ""


def _time(seconds: int) -> str:
    return f"2026-01-{1 + seconds // 86_400:02}T{seconds // 3_600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"


def timeline(feed: Feed, shown: Shown | None = None) -> Timeline:
    return Timeline(cast(PdsClient, feed), shown, text_bytes=99)


async def read(line: Timeline) -> tuple[list[int], bytes | None]:
    texts, cursor = [], None
    async for event in line.round():
        cursor = cast(Message, event).cursor or cursor
        if isinstance(event, Message):
            texts.append(int(event.envelope.text))
    return texts, cursor


def at(cursor: bytes | None) -> Shown:
    shown = parse_cursor(cursor or b"")
    assert isinstance(shown, Shown)
    return shown


async def begun(feed: Feed, *, before: int = 1) -> tuple[Timeline, Shown]:
    for second in range(before):
        feed.add(1_000 + second)
    line = timeline(feed)
    await line.begin()
    feed.add(100_000)
    texts, cursor = await read(line)
    assert texts == [100_000]
    return line, at(cursor)


async def test_what_is_taken_in_late_is_new_though_it_is_old() -> None:
    feed = Feed()
    line, _ = await begun(feed, before=10)
    feed.add(99_000, 100_030)
    feed.add(100_010)
    assert (await read(line))[0] == [100_010, 99_000]
    assert (await read(line))[0] == []


async def test_an_absence_of_a_thousand_items_has_no_gap() -> None:
    feed = Feed()
    _, shown = await begun(feed, before=100)
    for second in range(900):
        feed.add(100_100 + second)
    line = timeline(feed, shown)
    await line.begin()
    texts, cursor = await read(line)
    assert texts == [100_100 + second for second in range(900)]
    again = timeline(feed, at(cursor))
    await again.begin()
    assert (await read(again))[0] == []
    assert len(cursor or b"") < 5_000


async def test_an_absence_that_is_longer_than_is_read_back_is_said() -> None:
    feed = Feed()
    line, shown = await begun(feed)
    for second in range(1_200):
        feed.add(100_100 + second)
    with pytest.raises(CursorForgotten):
        await timeline(feed, shown).begin()
    with pytest.raises(Transient):
        await read(line)
