"""Reading archives until all of them is read, without gap or duplicate beside what comes at the same time.

While an archive is being read, a new message that it keeps too is not told: it is read there, in its place. An archive
is live once a page was its last and nothing came since that page was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count

from gateway.im.connectors.xmpp import words
from gateway.im.connectors.xmpp.archive import PAGE, Archive, build_cursor, build_query, parse_end
from gateway.im.connectors.xmpp.errors import StanzaError
from gateway.im.connectors.xmpp.incoming import OWN_ID, Reader, is_own, parse_message, parse_stamp
from gateway.im.connectors.xmpp.stream import Stream
from gateway.im.connectors.xmpp.words import CLIENT, Element, split_jid
from gateway.model.im import CursorForgotten, Event, Message, Moved, ReadUpTo, Transient

#: what one page may bring at most, whatever was asked for
PAGE_MOST = 4 * PAGE
#: pages of a conversation that are looked through for what we said in it
PAGES_BACK = 40

_Collect = Callable[[str, Element, str], None]


class Catchup:
    def __init__(self, stream: Stream, reader: Reader, put: Callable[[Event], None]) -> None:
        self._stream, self._reader, self._put = stream, reader, put
        self._numbers = count(1)
        #: query → whose archive was asked, and what is done with each of its messages: id, message, stamp
        self._asked: dict[str, tuple[str, _Collect]] = {}
        self.own = Archive()
        #: of rooms that are joined
        self.rooms: dict[str, Archive] = {}
        #: rooms that are not joined now and will be again → last message
        self.waiting_rooms: dict[str, str] = {}

    def cursor(self) -> bytes:
        rooms = {room: one.last for room, one in self.rooms.items() if one.last or not one.is_held}
        return build_cursor(self.own.last, self.waiting_rooms | rooms)

    async def start(self, last: str | None) -> None:
        """Of the own archive, the first page. `last`: where to go on; None: with what comes from now on.
        CursorForgotten."""
        self.own.last = last or ""
        if last is None:
            await self.begin_at_end(self.own)
        else:
            await self.read_page(self.own)

    async def begin_at_end(self, archive: Archive) -> None:
        """Go on after what is there now."""
        try:
            answer = await self._query(archive.jid, lambda *_: None, is_last=True, most=1)
        except StanzaError:
            archive.is_kept, archive.is_live = False, True
            return
        archive.last = parse_end(answer)[1]
        self._settle(archive, is_all=True)

    def unread(self) -> Archive | None:
        """One that is not live."""
        if not self.own.is_live:
            return self.own
        rooms = self.rooms.values()
        return next((archive for archive in rooms if not (archive.is_live or archive.is_held)), None)

    async def read_page(self, archive: Archive) -> None:
        """Its messages are put while they come. CursorForgotten for the own archive."""
        archive.has_more = False
        before = archive.last

        def collect(archive_id: str, message: Element, stamp: str) -> None:
            archive.last = archive_id
            if is_own(message, self._reader):
                return
            now_ms = time.time_ns() // 1_000_000
            for event in parse_message(
                message, self._reader, now_ms=now_ms, archive_id=archive_id, stamp=stamp, is_past=True
            ):
                self.put(event)

        try:
            answer = await self._query(archive.jid, collect, after=archive.last)
        except StanzaError as exc:
            if exc.condition == "item-not-found" and before:
                if not archive.jid:
                    raise CursorForgotten("the archive does not go back so far") from None
                # what is left of a room's is all newer than what it forgot
                archive.last = ""
                return
            if exc.is_passing:
                raise exc.as_failure() from None
            archive.is_kept, archive.is_live = False, True
            return
        is_all, _ = parse_end(answer)
        self._settle(archive, is_all=is_all or archive.last == before)
        if archive.last != before:
            self._put(Moved(self.cursor()))

    def _settle(self, archive: Archive, *, is_all: bool) -> None:
        if is_all and not archive.has_more:
            archive.is_live = True

    async def sent_since(
        self, archive_jid: str, with_jid: str, since_ms: int, patience_s: float
    ) -> list[tuple[str, str]]:
        """Of what we said in a conversation the ids, our own and the archive's, the oldest first; back to this time,
        but PAGES_BACK pages at most, and none is asked for past the patience; none where there is no archive."""
        found: list[list[tuple[str, str]]] = []
        before = ""
        until = time.monotonic() + patience_s
        for _ in range(PAGES_BACK):
            ours: list[tuple[str, str]] = []
            try:
                first, first_ms = await self._said_before(before, archive_jid, with_jid, ours)
            except StanzaError:
                break
            found.append(ours)
            if first in ("", before) or first_ms < since_ms or time.monotonic() > until:
                break
            before = first
        return [one for page in reversed(found) for one in page]

    async def _said_before(
        self, before: str, archive_jid: str, with_jid: str, ours: list[tuple[str, str]]
    ) -> tuple[str, int]:
        """A page; the archive's id of its first message and when that was said. Empty: there is no more."""
        first: tuple[str, int] | None = None

        def collect(archive_id: str, message: Element, stamp: str) -> None:
            nonlocal first
            first = first or (archive_id, parse_stamp(stamp))
            name = message.get("id", "")
            if name.startswith(OWN_ID) and len(name) <= 128 and is_own(message, self._reader):
                ours.append((name, archive_id))

        answer = await self._query(archive_jid, collect, is_last=True, before=before, with_jid=with_jid)
        return first if first is not None and not parse_end(answer)[0] else ("", 0)

    async def _query(
        self,
        jid: str,
        collect: _Collect,
        *,
        after: str = "",
        before: str = "",
        is_last: bool = False,
        with_jid: str = "",
        most: int = PAGE,
    ) -> Element:
        name = f"m{next(self._numbers)}"
        left = PAGE_MOST

        def bounded(archive_id: str, message: Element, stamp: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                self._stream.fail(Transient("the archive sent more than was asked for"))
            else:
                collect(archive_id, message, stamp)

        self._asked[name] = (jid, bounded)
        try:
            query = build_query(name, after=after, before=before, is_last=is_last, with_jid=with_jid, most=most)
            return await self._stream.ask(query, kind="set", to=jid)
        finally:
            del self._asked[name]

    def take_result(self, message: Element, result: Element) -> None:
        """A message out of an archive, as it comes; only one that was asked for."""
        jid, collect = self._asked.get(result.get("queryid", ""), ("", None))
        sender, _ = split_jid(message.get("from", "") or self._reader.me)
        archive_id = result.get("id", "")
        if collect is None or sender != (jid or self._reader.me) or not archive_id or len(archive_id) > 512:
            return
        forwarded = result.find(f"{words.FORWARD}forwarded")
        inner = None if forwarded is None else forwarded.find(f"{CLIENT}message")
        if forwarded is None or inner is None:
            return
        delay = forwarded.find(f"{words.DELAY}delay")
        collect(archive_id, inner, "" if delay is None else delay.get("stamp", ""))

    def take_live(self, archive_id: str, room: str) -> bool:
        """Whether a new message is to be told now; else its archive tells it."""
        archive = self.rooms.get(room) if room else self.own
        if archive is None or not archive_id:
            return True
        if not archive.is_live:
            archive.has_more = True
            return False
        archive.last = archive_id
        return True

    def put(self, event: Event) -> None:
        """With the cursor behind it."""
        if isinstance(event, Message | ReadUpTo):
            event = event._replace(cursor=self.cursor())
        self._put(event)
