"""New items of an account's home timeline, where its server has one (D12): the network's AppView sorts them, some come
late between older ones; what was shown is remembered, so that nothing is missed and nothing comes twice."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator

from gateway.im.connectors.bluesky.client import PdsClient
from gateway.im.connectors.bluesky.cursor import Shown, build_shown
from gateway.im.connectors.bluesky.posts import FeedItem, parse_feed_item, parse_profile
from gateway.model.im import Contact, CursorForgotten, Event, Message, Moved, Transient

#: items whose names are remembered: 16 hex digits each, in the cursor
_MOST_SHOWN = 200
_PAGE = 50
#: pages of one round; an account that was away for more is told that there is a gap
_MOST_PAGES = 20
_MOST_CONTACT_PAGES = 100
#: the network may take in an item so long after a newer one
_SLACK_MS = 60_000


class Timeline:
    """`shown`: of the cursor; None: begin now, without what is there already."""

    def __init__(self, client: PdsClient, shown: Shown | None, *, text_bytes: int) -> None:
        self._client, self._text_bytes = client, text_bytes
        self._is_new = shown is None
        self._since_ms = 0 if shown is None else shown.since_ms
        self._shown = OrderedDict.fromkeys([] if shown is None else shown.items[-_MOST_SHOWN:])
        self._waiting: list[FeedItem] = []

    def forget_own(self, uri: str) -> None:
        """We are about to post this: it is not news."""
        self._show(uri)

    async def begin(self) -> None:
        """CursorForgotten where the timeline has gone on too far."""
        if self._is_new:
            rows, _ = await self._client.get_timeline("", _PAGE)
            items = [item for row in rows if (item := self._parse(row)) is not None]
            self._note(items)
            self._since_ms = max(self._since_ms, 0 if items else _now_ms() - _SLACK_MS)
            return
        waiting = await self._find_new()
        if waiting is None:
            raise CursorForgotten("more has come since than the timeline is read back for")
        self._waiting = waiting

    def cursor(self) -> bytes:
        return self._at()

    async def contacts(self) -> AsyncIterator[Contact]:
        after = ""
        for _ in range(_MOST_CONTACT_PAGES):
            profiles, after = await self._client.get_follows(after)
            for profile in profiles:
                person = parse_profile(profile)
                if person is not None:
                    yield Contact(*person, is_mutual=False)
            if not after:
                return

    async def round(self) -> AsyncIterator[Event]:
        """What is new, the oldest first; the cursor is in the last of it."""
        waiting: list[FeedItem] | None
        waiting, self._waiting = self._waiting, []
        before = self._at()
        if not waiting:
            waiting = await self._find_new()
            if waiting is None:
                raise Transient("more has come at once than the timeline is read back for")
        self._note(waiting)
        cursor = self._at()
        for item in waiting[:-1]:
            yield Message(item.envelope)
        if waiting:
            yield Message(waiting[-1].envelope, cursor)
        elif cursor != before:
            yield Moved(cursor)

    async def _find_new(self) -> list[FeedItem] | None:
        """The oldest first; None where there is more behind the last page that is read."""
        found: dict[str, FeedItem] = {}
        after = ""
        for _ in range(_MOST_PAGES):
            rows, after = await self._client.get_timeline(after, _PAGE)
            is_met = False
            for item in map(self._parse, rows):
                if item is None:
                    continue
                if _hash(item.envelope.remote_id) in self._shown or item.at_ms <= self._since_ms:
                    is_met = True
                else:
                    found.setdefault(item.envelope.remote_id, item)
            if is_met or not after:
                return sorted(found.values(), key=lambda item: item.at_ms)
        return None

    def _parse(self, row: object) -> FeedItem | None:
        return parse_feed_item(row, me=self._client.did, text_bytes=self._text_bytes, now_ms=_now_ms())

    def _note(self, items: list[FeedItem]) -> None:
        for item in items:
            self._show(item.envelope.remote_id)
            self._since_ms = max(self._since_ms, item.at_ms - _SLACK_MS)

    def _show(self, remote_id: str) -> None:
        self._shown[_hash(remote_id)] = None
        if len(self._shown) > _MOST_SHOWN:
            self._shown.popitem(last=False)

    def _at(self) -> bytes:
        return build_shown(self._since_ms, list(self._shown))


def _hash(remote_id: str) -> str:
    return hashlib.blake2b(remote_id.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
