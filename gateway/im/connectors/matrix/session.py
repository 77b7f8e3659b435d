"""One account that is logged in: news by /sync, one answer at a time and nothing read ahead, so that a slow reader
slows the network down; never retries, stores or logs.

The cursor is the token of /sync, and stands at the last event of an answer: who stops in the middle gets the whole
answer again, and loses nothing. A timeline that the server cut short is filled page by page, forward from the cursor.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import Any

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.matrix.answer import News, RoomNews, get_token, is_membership, parse_answer
from gateway.im.connectors.matrix.api import Api
from gateway.im.connectors.matrix.content import MESSAGE_TYPES, get_id, get_object, get_objects
from gateway.im.connectors.matrix.deeds import Deeds
from gateway.im.connectors.matrix.reader import Known, Reader
from gateway.im.connectors.matrix.refusals import Refusal
from gateway.im.connectors.matrix.wire import AnswerTooLarge
from gateway.model.im import (
    Act,
    Contact,
    ContactChanged,
    CursorForgotten,
    Envelope,
    Event,
    Media,
    MediaFile,
    Moved,
    Person,
    PresenceChanged,
    Rejected,
    Transient,
    TypingChanged,
)

#: events of one room in one answer; the rest is fetched by pages
TIMELINE_EVENTS = 50
#: a cursor that moved without an event is told this often at most
MOVED_S = 60.0
#: direct rooms that are looked at in one request
ROOMS_AT_ONCE = 50
_NOTHING: dict[str, Any] = {"types": []}
_TIMELINE_TYPES = [*MESSAGE_TYPES, "m.room.member", "m.room.encryption"]
_PAGE_FILTER = {"types": _TIMELINE_TYPES, "lazy_load_members": True}


def build_filter(events: int) -> dict[str, Any]:
    return {
        "presence": {"types": ["m.presence"]},
        "account_data": {"types": ["m.direct"]},
        "room": {
            "timeline": {"limit": events, "types": _TIMELINE_TYPES},
            # of who says something, not of everybody in a huge room
            "state": {"types": ["m.room.member"], "lazy_load_members": True},
            "ephemeral": {"types": ["m.receipt", "m.typing"]},
            "account_data": _NOTHING,
        },
    }


def build_members_filter(rooms: list[str]) -> dict[str, Any]:
    return {
        "presence": _NOTHING,
        "account_data": _NOTHING,
        "room": {
            "rooms": rooms,
            "timeline": {"limit": 1, "types": []},
            "state": {"types": ["m.room.member"]},
            "ephemeral": _NOTHING,
            "account_data": _NOTHING,
        },
    }


class MatrixSession:
    def __init__(self, api: Api, settings: ConnectorSettings) -> None:
        self.me = Person(api.user, is_self=True)
        self._api = api
        self._settings = settings
        self._reader = Reader(api.user, settings.text_bytes)
        self._deeds = Deeds(api, self._reader, settings)
        self._since = ""
        #: the first answer, which opening asked for
        self._first: News | None = None
        #: new contacts that were told of
        self._told = Known()
        self._timeline_events = TIMELINE_EVENTS
        #: loop's time; a first Moved goes out at once
        self._told_s = float("-inf")

    async def start(self, cursor: bytes | None) -> None:
        """CursorForgotten where the server does not know it. Without one, what was before is left where it is."""
        self._reader.take_direct(await self._api.direct())
        if cursor is None:
            news = await self._sync("", wait_s=0.0, events=1)
            self._first = news._replace(rooms=[], presence=[], direct=None)
            return
        since = get_token({"cursor": cursor.decode("ascii", "replace")}, "cursor")
        if not since or "\ufffd" in since:
            raise CursorForgotten("this is no cursor of Matrix")
        try:
            self._first = await self._sync(since, wait_s=0.0)
        except Refusal as exc:
            if exc.status in (400, 404):
                raise CursorForgotten("the server does not know the cursor any more") from None
            raise
        self._since = since

    # --- news ---

    async def events(self) -> AsyncIterator[Event]:
        while True:
            try:
                news = self._first or await self._sync(self._since, wait_s=self._settings.request_s)
                held: Event | None = None
                async for event in self._unfold(news):
                    if isinstance(event, PresenceChanged | TypingChanged):
                        yield event
                        continue
                    if held is not None:
                        yield held
                    held = event
            except Rejected:
                raise Transient("the server does not say what is new") from None
            cursor = news.next_batch.encode()
            now_s = asyncio.get_running_loop().time()
            if held is not None and not isinstance(held, PresenceChanged | TypingChanged):
                self._told_s = now_s
                yield held._replace(cursor=cursor)
            elif news.next_batch != self._since and now_s - self._told_s >= MOVED_S:
                self._told_s = now_s
                yield Moved(cursor)
            self._first, self._since = None, news.next_batch

    async def _sync(self, since: str, *, wait_s: float, events: int = 0) -> News:
        """Where an answer is too large, with fewer events of each room: pages bring the rest."""
        while True:
            limit = events or self._timeline_events
            try:
                answer = await self._api.sync(since, build_filter(limit), wait_s=wait_s)
            except AnswerTooLarge:
                if limit == 1:
                    raise Transient("the server's answer is too large") from None
                self._timeline_events = max(1, limit // 4)
                continue
            self._timeline_events = TIMELINE_EVENTS
            news = parse_answer(answer, self.me.remote_id)
            if news is None:
                raise Transient("the server's answer is not what was asked for")
            return news

    async def _unfold(self, news: News) -> AsyncIterator[Event]:
        if news.direct is not None:
            new, gone = self._reader.take_direct(news.direct)
            async for changed in self._tell_contacts(new):
                yield changed
            for user in gone:
                self._told.pop(user, None)
                yield ContactChanged(user, None)
        for invite in news.invites:
            self._deeds.invites.put(invite.room, invite)
            yield self._reader.read_invite(invite)
        for room in news.rooms:
            self._deeds.invites.pop(room.room, None)
            async for event in self._unfold_room(room):
                yield event
        for raw in news.presence:
            presence = self._reader.read_presence(raw)
            if presence is not None:
                yield presence

    async def _unfold_room(self, news: RoomNews) -> AsyncIterator[Event]:
        for raw in news.state:
            self._reader.note_member(raw)
        partner = self._reader.partner(news.room)
        if partner and any(is_membership(raw, self.me.remote_id, "join") for raw in news.timeline):
            async for changed in self._tell_contacts([(partner, news.room)]):
                yield changed
        timeline = _since_we_came(news.timeline, self.me.remote_id)
        # where our own coming is in it, what is before is not ours
        if news.is_limited and len(timeline) == len(news.timeline) and self._since:
            async for raw in self._missing(news):
                for event in self._read(news.room, raw):
                    yield event
        for raw in timeline:
            for event in self._read(news.room, raw):
                yield event
        for raw in news.ephemeral:
            for event in self._reader.read_ephemeral(news.room, raw):
                yield event

    async def _tell_contacts(self, pairs: list[tuple[str, str]]) -> AsyncIterator[Event]:
        """Each once, whether the room or the list of direct rooms tells of it first."""
        async for contact in self._describe([(user, room) for user, room in pairs if user not in self._told]):
            self._told.put(contact.remote_id, True)
            yield ContactChanged(contact.remote_id, contact)

    def _read(self, room: str, raw: dict[str, Any]) -> list[Event]:
        message = self._reader.read_timeline(room, raw)
        if message is not None:
            return [message]
        moved = self._reader.partner_moved(room, raw)
        if moved is None:
            return []
        user, has_come = moved
        return [ContactChanged(user, Contact(user, self._reader.person(user).display, has_come))]

    async def _missing(self, news: RoomNews) -> AsyncIterator[dict[str, Any]]:
        """Events between the cursor and a timeline that was cut short, a page at a time."""
        known = {get_id(raw, "event_id") for raw in news.timeline}
        at = self._since
        while at:
            try:
                page = await self._api.messages(news.room, at, news.prev_batch, _PAGE_FILTER)
            except Rejected:
                return  # the server shows this account no more of it
            for raw in get_objects(page, "state"):
                self._reader.note_member(raw)
            chunk = get_objects(page, "chunk")
            for raw in chunk:
                if get_id(raw, "event_id") in known:
                    return
                yield raw
            end = get_token(page, "end")
            at = "" if end == at or not chunk else end

    # --- the rest of a session ---

    async def send(self, envelope: Envelope, files: Sequence[MediaFile] = ()) -> str:
        return await self._deeds.send(envelope, files)

    async def act(self, act: Act) -> None:
        await self._deeds.act(act)

    async def fetch(self, media: Media) -> AsyncIterator[bytes]:
        async with aclosing(self._api.download(media, self._settings.media_bytes)) as pieces:
            async for piece in pieces:
                yield piece

    async def contacts(self) -> AsyncIterator[Contact]:
        self._reader.take_direct(await self._api.direct())
        pairs = [(user, rooms[0]) for user in self._reader.direct if (rooms := self._reader.rooms_with(user))]
        async for contact in self._describe(pairs):
            yield contact

    async def _describe(self, pairs: list[tuple[str, str]]) -> AsyncIterator[Contact]:
        """Of (user, direct room): the name there, and whether they are there."""
        for at in range(0, len(pairs), ROOMS_AT_ONCE):
            some = pairs[at : at + ROOMS_AT_ONCE]
            news = None
            with suppress(AnswerTooLarge):  # somebody calls a huge room direct: names it has none then
                filtered = build_members_filter([room for _, room in some])
                answer = await self._api.sync("", filtered, wait_s=0.0, is_present=False)
                news = parse_answer(answer, self.me.remote_id)
            rooms = {} if news is None else {room.room: [*room.state, *room.timeline] for room in news.rooms}
            for user, room in some:
                is_there = False
                for raw in rooms.get(room, ()):
                    if get_id(raw, "state_key") == user and raw.get("type") == "m.room.member":
                        self._reader.note_member(raw)
                        is_there = get_object(raw, "content").get("membership") == "join"
                yield Contact(user, self._reader.person(user).display, is_there)


def _since_we_came(timeline: list[dict[str, Any]], me: str) -> list[dict[str, Any]]:
    """What is after the last invitation of ours, or our coming where there was none: a room that one enters shows its
    history, which is not new."""
    places = {
        membership: max((at for at, raw in enumerate(timeline) if is_membership(raw, me, membership)), default=-1)
        for membership in ("invite", "join")
    }
    return timeline[places["invite"] + 1 :] if places["invite"] >= 0 else timeline[places["join"] + 1 :]
