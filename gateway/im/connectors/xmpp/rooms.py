"""Rooms (XEP-0045): entering, leaving, being put out, and bookmarks (XEP-0402) by which they come back; must know
nothing of what is said there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.im.connectors.xmpp import words
from gateway.im.connectors.xmpp.archive import ROOMS, Archive
from gateway.im.connectors.xmpp.catchup import Catchup
from gateway.im.connectors.xmpp.errors import StanzaError, parse_stanza_error
from gateway.im.connectors.xmpp.outgoing import build_presence, check_jid
from gateway.im.connectors.xmpp.stream import Stream
from gateway.im.connectors.xmpp.words import Element, element, split_jid
from gateway.model.im import ContactChanged, Event, Moved, Rejected, Transient

#: how often another nick is tried
NICKS = 3


class Rooms:
    """`nicks`: of the rooms that are joined; others read it."""

    def __init__(
        self, stream: Stream, catchup: Catchup, nicks: dict[str, str], put: Callable[[Event], None], request_s: float
    ) -> None:
        self._stream, self._catchup, self._put, self._request_s = stream, catchup, put, request_s
        self.nicks = nicks
        #: room → its answer, our nick, and the archive it will have
        self._entering: dict[str, tuple[asyncio.Future[str], Archive]] = {}

    async def enter_again(self, rooms: dict[str, str]) -> None:
        """Those of the cursor, one after the other: who is not let in is told so, who does not answer waits."""
        self._catchup.waiting_rooms.update(rooms)
        for room, last in rooms.items():
            try:
                await self.enter(room, last)
            except Rejected:
                self._forget(room)
            except Transient:
                if self._stream.failure is not None:
                    return

    async def join(self, address: str) -> None:
        """And it comes back in later sessions."""
        room = check_jid(address, "remote_id")
        if room in self.nicks:
            return
        if len(self.nicks) + len(self._catchup.waiting_rooms) >= ROOMS:
            raise Rejected(f"remote_id: an account is in {ROOMS} rooms at most")
        await self.enter(room, None)
        self._put(Moved(self._catchup.cursor()))
        await self._bookmark(room)

    async def leave(self, address: str) -> None:
        room = check_jid(address, "remote_id")
        nick = self.nicks.pop(room, "")
        self._catchup.waiting_rooms.pop(room, None)
        self._catchup.rooms.pop(room, None)
        if nick:
            self._stream.write(build_presence("unavailable", f"{room}/{nick}"))
        self._put(Moved(self._catchup.cursor()))
        await self._bookmark(room, is_kept=False)

    async def enter(self, room: str, last: str | None) -> None:
        """`last`: the message after which to go on; None: with what is said from now on. Transient, Rejected."""
        nick = split_jid(self._stream.requested_jid.bare)[0].partition("@")[0]
        archive = Archive(room, last or "", is_held=True)
        for attempt in range(NICKS):
            try:
                await self._enter(room, nick + "_" * attempt, archive)
                break
            except StanzaError as exc:
                if exc.condition != "conflict" or attempt == NICKS - 1:
                    raise exc.as_failure() from None
        self._catchup.waiting_rooms.pop(room, None)
        if last is None:
            try:
                await self._catchup.begin_at_end(archive)
            except Transient as exc:
                self._stream.fail(exc)  # nobody would know where to go on
                raise
        archive.is_held = False

    async def _enter(self, room: str, nick: str, archive: Archive) -> str:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if room in self._entering:
            raise Transient("this room is being entered")
        self._entering[room] = (answer, archive)
        presence = build_presence(to=f"{room}/{nick}")
        presence.append(element(f"{words.MUC}x", "", element(f"{words.MUC}history", maxstanzas="0")))
        try:
            self._stream.write(presence)
            async with asyncio.timeout(self._request_s):
                return await answer
        except TimeoutError:
            raise Transient("the room did not answer in time") from None
        finally:
            del self._entering[room]

    def take_presence(self, presence: Element, room: str, nick: str) -> bool:
        """Whether it is about a room of ours."""
        answer, archive = self._entering.get(room, (None, None))
        if answer is None and room not in self.nicks:
            return False
        kind = presence.get("type", "")
        if kind == "error":
            if answer is not None and not answer.done():
                answer.set_exception(parse_stanza_error(presence))
            return True
        codes = {status.get("code") for status in presence.iterfind(f"{words.MUC_USER}x/{words.MUC_USER}status")}
        if "110" not in codes:
            return True
        if kind == "unavailable":
            if "332" in codes:  # the service goes down, and comes back
                self._stream.fail(Transient("the rooms' service is shut down"))
            elif "303" not in codes and room in self.nicks:
                self._forget(room)
        elif answer is not None and archive is not None and not answer.done():
            self.nicks[room] = nick
            self._catchup.rooms[room] = archive
            answer.set_result(nick)
        else:
            self.nicks[room] = nick
        return True

    def fail(self, failure: Exception) -> None:
        for answer, _ in self._entering.values():
            if not answer.done():
                answer.set_exception(failure)

    def _forget(self, room: str) -> None:
        """We are not in it any more, and nobody asked us."""
        self.nicks.pop(room, None)
        self._catchup.rooms.pop(room, None)
        self._catchup.waiting_rooms.pop(room, None)
        self._put(ContactChanged(room, None, self._catchup.cursor()))

    # --- bookmarks: where there is no cursor, rooms come back by these

    async def bookmarked(self) -> list[str]:
        items = element(f"{words.PUBSUB}items", node=words.BOOKMARKS[1:-1])
        try:
            answer = await self._stream.ask(element(f"{words.PUBSUB}pubsub", "", items))
        except StanzaError:
            return []
        rooms = []
        for item in answer.iterfind(f"{words.PUBSUB}pubsub/{words.PUBSUB}items/{words.PUBSUB}item"):
            mark = item.find(f"{words.BOOKMARKS}conference")
            if mark is not None and mark.get("autojoin") in ("true", "1"):
                try:
                    rooms.append(check_jid(item.get("id", ""), "remote_id"))
                except Rejected:
                    continue
        return rooms[:ROOMS]

    async def _bookmark(self, room: str, *, is_kept: bool = True) -> None:
        """Where the server keeps none, the cursor does."""
        node = words.BOOKMARKS[1:-1]
        if is_kept:
            mark = element(f"{words.BOOKMARKS}conference", autojoin="true")
            change = element(f"{words.PUBSUB}publish", "", element(f"{words.PUBSUB}item", "", mark, id=room), node=node)
            options = {
                "FORM_TYPE": "http://jabber.org/protocol/pubsub#publish-options",
                "pubsub#persist_items": "true",
                "pubsub#max_items": "max",
                "pubsub#access_model": "whitelist",
            }
            fields = [
                element(f"{words.FORM}field", "", element(f"{words.FORM}value", value), var=var)
                for var, value in options.items()
            ]
            fields[0].set("type", "hidden")
            form = element(f"{words.FORM}x", "", *fields, type="submit")
            asked = [change, element(f"{words.PUBSUB}publish-options", "", form)]
        else:
            item = element(f"{words.PUBSUB}item", id=room)
            asked = [element(f"{words.PUBSUB}retract", "", item, node=node, notify="true")]
        try:
            await self._stream.ask(element(f"{words.PUBSUB}pubsub", "", *asked), kind="set")
        except StanzaError:
            return
