"""Another person on Matrix, with mautrix as their client: what they say and hear in one direct room with us."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple, Self

import aiohttp
from mautrix.client import Client, InternalEventType
from mautrix.types import (
    EncryptionAlgorithm,
    EventID,
    EventType,
    ImageInfo,
    LocationMessageEventContent,
    MediaMessageEventContent,
    Membership,
    MemberStateEventContent,
    MessageEvent,
    MessageType,
    PresenceState,
    ReceiptEvent,
    ReceiptType,
    RedactionEvent,
    RoomCreatePreset,
    RoomEncryptionStateEventContent,
    RoomID,
    StateEvent,
    TextMessageEventContent,
    TypingEvent,
    UserID,
)
from mautrix.util.logging import TraceLogger

from gateway.model.im import Conversation, ConversationKind

PATIENCE_S = 30.0


class Heard(NamedTuple):
    text: str
    file: bytes
    geo: tuple[float, float] | None
    remote_id: str
    room: str


class MatrixPeer:
    """As a context manager: logged in and in step with the server. `meet` before anything is said."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.user = user
        self._url = url
        self._password = password
        #: as our account has it: named by the person
        self.conversation = Conversation(ConversationKind.DM, user)
        self.room = ""
        self._other = ""
        self._messages: asyncio.Queue[MessageEvent] = asyncio.Queue()
        self._reads: asyncio.Queue[str] = asyncio.Queue()
        self._taken_back: asyncio.Queue[str] = asyncio.Queue()
        self._typing: asyncio.Queue[list[str]] = asyncio.Queue()
        self._invites: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._last = ""
        self._is_synced = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession()
        log = logging.getLogger("mautrix")
        log.setLevel(logging.CRITICAL)  # a server that is ended is no news
        self.client = Client(
            mxid=UserID(self.user), base_url=self._url, client_session=self._http, log=TraceLogger("mautrix.peer")
        )
        self.client.log.setLevel(logging.CRITICAL)
        self.client.api.log.setLevel(logging.CRITICAL)
        await self.client.login(identifier=UserID(self.user), password=self._password, device_name="peer")
        self.client.ignore_initial_sync = True
        self.client.add_event_handler(EventType.ROOM_MESSAGE, self._on_message, wait_sync=True)
        self.client.add_event_handler(EventType.RECEIPT, self._on_receipt, wait_sync=True)
        self.client.add_event_handler(EventType.ROOM_REDACTION, self._on_redaction, wait_sync=True)
        self.client.add_event_handler(EventType.TYPING, self._on_typing, wait_sync=True)
        self.client.add_event_handler(EventType.ROOM_MEMBER, self._on_member, wait_sync=True)
        self.client.add_event_handler(InternalEventType.SYNC_SUCCESSFUL, self._on_sync)
        self._syncing = self.client.start(None)
        await asyncio.wait_for(self._is_synced.wait(), PATIENCE_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.stop()
        self._syncing.cancel()
        await asyncio.gather(self._syncing, return_exceptions=True)
        await self._http.close()
        await asyncio.sleep(0)  # the transports close in the next turn

    async def meet(self, other: str) -> str:
        """Make the direct room and invite the other; its id."""
        self._other = other
        room = await self.client.create_room(invitees=[UserID(other)], is_direct=True)
        self.room = str(room)
        return self.room

    async def _on_sync(self, _data: object) -> None:
        self._is_synced.set()

    async def _on_message(self, event: MessageEvent) -> None:
        if event.sender == self._other:
            self._last = str(event.event_id)
            self._messages.put_nowait(event)

    async def _on_receipt(self, event: ReceiptEvent) -> None:
        for event_id, kinds in event.content.items():
            if self._other in (kinds.get(ReceiptType("m.read")) or ()):
                self._reads.put_nowait(str(event_id))

    async def _on_redaction(self, event: RedactionEvent) -> None:
        if event.sender == self._other:
            self._taken_back.put_nowait(str(event.redacts))

    async def _on_typing(self, event: TypingEvent) -> None:
        self._typing.put_nowait([str(user) for user in event.content.user_ids])

    async def _on_member(self, event: StateEvent) -> None:
        content = event.content
        if not isinstance(content, MemberStateEventContent) or event.state_key != self.user:
            return
        if content.membership is Membership.INVITE:
            self._invites.put_nowait((str(event.room_id), str(event.sender)))

    # --- says ---

    @property
    def _room(self) -> RoomID:
        return RoomID(self.room)

    async def say(self, text: str) -> None:
        await self.client.send_text(self._room, text)

    async def say_file(self, data: bytes, mime: str, name: str) -> None:
        address = await self.client.upload_media(data, mime_type=mime, filename=name)
        info = ImageInfo(mimetype=mime, size=len(data), width=1, height=1)
        kind = MessageType.IMAGE if mime.startswith("image/") else MessageType.FILE
        await self.client.send_file(self._room, address, info=info, file_name=name, file_type=kind)

    async def say_place(self, latitude: float, longitude: float) -> None:
        content = LocationMessageEventContent(
            msgtype=MessageType.LOCATION, body="here", geo_uri=f"geo:{latitude},{longitude}"
        )
        await self.client.send_message(self._room, content)

    async def edit(self, remote_id: str, text: str) -> None:
        content = TextMessageEventContent(msgtype=MessageType.TEXT, body=text)
        content.set_edit(EventID(remote_id))
        await self.client.send_message(self._room, content)

    async def take_back(self, remote_id: str) -> None:
        await self.client.redact(self._room, EventID(remote_id))

    async def type(self) -> None:
        await self.client.set_typing(self._room, 20_000)

    async def go_away(self, status: str) -> None:
        self.client.presence = PresenceState.UNAVAILABLE  # or its next request for news takes it back
        await self.client.set_presence(PresenceState.UNAVAILABLE, status)

    async def encrypt(self) -> None:
        """The direct room, from now on."""
        content = RoomEncryptionStateEventContent(algorithm=EncryptionAlgorithm.MEGOLM_V1)
        await self.client.send_state_event(self._room, EventType.ROOM_ENCRYPTION, content)

    async def accept(self) -> str:
        """The next invitation; its room is the one where this person talks from now on."""
        room, other = await asyncio.wait_for(self._invites.get(), PATIENCE_S)
        await self.client.join_room_by_id(RoomID(room))
        self._other = other
        self.room = room
        return room

    async def leave(self) -> None:
        await self.client.leave_room(self._room)

    async def open_room(self, alias: str) -> str:
        """A public room that is called #alias here; its id."""
        room = await self.client.create_room(alias_localpart=alias, preset=RoomCreatePreset.PUBLIC)
        return str(room)

    async def say_in(self, room: str, text: str) -> None:
        await self.client.send_text(RoomID(room), text)

    # --- hears ---

    async def hear(self) -> Heard:
        event = await self._messages.get()
        content, data, geo = event.content, b"", None
        if isinstance(content, MediaMessageEventContent) and content.url:
            data = await self.client.download_media(content.url)
        if isinstance(content, LocationMessageEventContent):
            latitude, longitude = content.geo_uri.removeprefix("geo:").partition(";")[0].split(",")[:2]
            geo = (float(latitude), float(longitude))
        return Heard(content.body, data, geo, str(event.event_id), str(event.room_id))

    async def read_all(self) -> None:
        await self.client.send_receipt(self._room, EventID(self._last))

    async def hear_read(self) -> str:
        return await self._reads.get()

    async def hear_taken_back(self) -> str:
        return await self._taken_back.get()

    async def hear_typing(self) -> list[str]:
        while True:
            users = await self._typing.get()
            if self._other in users:
                return users
