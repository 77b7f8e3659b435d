"""What a user does on the network: messages out, read marks, friends, rooms; must never do one of them twice
by itself."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import IO

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.matrix.answer import Invite, parse_answer
from gateway.im.connectors.matrix.api import Api
from gateway.im.connectors.matrix.content import MAX_ID_CHARACTERS, build_contents
from gateway.im.connectors.matrix.direct import with_room
from gateway.im.connectors.matrix.reader import Known, Reader
from gateway.im.connectors.matrix.wire import PIECE_BYTES, AnswerTooLarge
from gateway.model.im import (
    Act,
    Answer,
    Befriend,
    Envelope,
    JoinRoom,
    Kind,
    LeaveRoom,
    MarkRead,
    MediaFile,
    Rejected,
    Transient,
    Typing,
)

#: direct rooms with one person in which they are looked for
MAX_ROOMS_TRIED = 8
_NOTHING: dict[str, list[str]] = {"types": []}
#: all that an account is invited to, and as little else as there can be
INVITES_FILTER = {
    "presence": _NOTHING,
    "account_data": _NOTHING,
    "room": {"timeline": {"limit": 1, "types": []}, "state": _NOTHING, "ephemeral": _NOTHING, "account_data": _NOTHING},
}


class Deeds:
    def __init__(self, api: Api, reader: Reader, settings: ConnectorSettings) -> None:
        self._api = api
        self._reader = reader
        self._settings = settings
        #: open invitations by room, as far as they are known here
        self.invites = Known()
        #: m.direct is read, changed and written by one at a time
        self._direct_turn = asyncio.Lock()

    # --- messages ---

    async def send(self, envelope: Envelope, files: Sequence[MediaFile]) -> str:
        if envelope.media and len(files) != len(envelope.media):
            raise Rejected("media: each needs its file")
        txn_id = envelope.txn_id or secrets.token_hex(16)
        if len(txn_id) > MAX_ID_CHARACTERS - 8:
            raise Rejected("txn_id: too long")
        if envelope.kind is Kind.REDACTION and not envelope.replaces:
            raise Rejected("replaces: what is to be taken back")
        if not envelope.media and envelope.kind is not Kind.REDACTION:
            build_contents(envelope, [])  # what can not be sent makes no room
        is_out = False
        try:
            room = await self._room(envelope.conversation.remote_id, envelope.replaces or envelope.reply_to)
            if envelope.kind is Kind.REDACTION:
                is_out = True
                return await self._api.redact(room, envelope.replaces, txn_id)
            if await self._is_encrypted(room):
                raise Rejected("this room is encrypted, and encryption is not spoken here")
            addresses = [await self._upload(file) for file in files]
            remote_id = ""
            for number, content in enumerate(build_contents(envelope, addresses)):
                part_id = f"{txn_id}.{number}" if number else txn_id
                is_out = True
                remote_id = await self._api.send(room, "m.room.message", part_id, content)
        except Transient as exc:
            exc.is_in_doubt = exc.is_in_doubt and is_out
            raise
        return remote_id

    async def _is_encrypted(self, room: str) -> bool:
        if room not in self._reader.encrypted:
            self._reader.encrypted.put(room, await self._api.is_encrypted(room))
        return bool(self._reader.encrypted[room])

    async def _upload(self, file: MediaFile) -> str:
        try:
            opened = await asyncio.to_thread(open, file.path, "rb")
        except OSError:
            raise Rejected("media: the file is no longer there") from None
        try:
            size = os.fstat(opened.fileno()).st_size
            return await self._api.upload(_read_pieces(opened), file.media, size)
        finally:
            opened.close()

    # --- acts ---

    async def act(self, act: Act) -> None:
        match act:
            case MarkRead():
                room = await self._room(act.conversation.remote_id, act.remote_id)
                await self._api.mark_read(room, act.remote_id)
            case Typing():
                room = await self._room(act.conversation.remote_id)
                await self._api.set_typing(room, is_typing=act.is_typing)
            case Befriend():
                await self._befriend(act)
            case Answer():
                await self._answer(act)
            case JoinRoom():
                if act.remote_id[:1] not in ("!", "#"):
                    raise Rejected("remote_id: expected a room, !… or #…")
                await self._api.join(act.remote_id)
            case LeaveRoom():
                await self._api.leave(await self._room(act.remote_id))
            case _:
                raise Rejected("Matrix knows no such thing")

    async def _befriend(self, act: Befriend) -> None:
        self._check_user(act.remote_id)
        if await self._find_room(act.remote_id) or await self._meet(act.remote_id):
            return  # there is one already, or this is a second try, or they asked before
        room = await self._make_dm(act.remote_id)
        if act.text:
            await self._api.send(room, "m.room.message", secrets.token_hex(16), {"msgtype": "m.text", "body": act.text})

    async def _meet(self, user: str) -> str:
        """Accept their open invitation to a direct room; empty where there is none."""
        invites = await self._invites_of(user, directly=True)
        for invite in invites:
            await self._api.join(invite.room)
            await self._note_direct(user, invite.room)
            self.invites.pop(invite.room, None)
        return invites[-1].room if invites else ""

    async def _answer(self, act: Answer) -> None:
        """To all that this person invites us to, or to one room."""
        invites = await self._invites_of(act.remote_id)
        if not invites:
            raise Rejected("remote_id: there is no open request of this person")
        for invite in invites:
            if act.accept:
                await self._api.join(invite.room)
                if invite.is_direct:
                    await self._note_direct(invite.by, invite.room)
            else:
                await self._api.leave(invite.room)
            self.invites.pop(invite.room, None)

    async def _invites_of(self, who: str, *, directly: bool = False) -> list[Invite]:
        def find() -> list[Invite]:
            invites: list[Invite] = list(self.invites.values())
            return [each for each in invites if who in (each.by, each.room) and (each.is_direct or not directly)]

        found = find()
        if found:
            return found
        # an invitation is told once: what came in another session is asked for
        try:
            answer = await self._api.sync("", INVITES_FILTER, wait_s=0.0, is_present=False)
        except AnswerTooLarge:
            raise Rejected("the list of invitations is too large") from None
        news = parse_answer(answer, self._api.user)
        if news is None:
            raise Transient("the server's answer is not what was asked for")
        for invite in news.invites:
            self.invites.put(invite.room, invite)
        return find()

    # --- direct rooms ---

    async def _room(self, remote_id: str, event: str = "") -> str:
        """Of a conversation: a room, or the one with a person, made where there is none. `event`: that it is about."""
        if not remote_id.startswith("@"):
            return remote_id
        self._check_user(remote_id)
        room = self._reader.room_of(event)
        if room and self._reader.partner(room) == remote_id:
            return room
        # who writes to somebody that asks to be a friend has answered
        return await self._find_room(remote_id) or await self._meet(remote_id) or await self._make_dm(remote_id)

    async def _find_room(self, user: str) -> str:
        """One in which they still are, or are asked to come: what is said to nobody is lost."""
        room = str(self._reader.places.get(user, ""))
        if room:
            return room
        for room in self._reader.rooms_with(user)[:MAX_ROOMS_TRIED]:
            if await self._api.is_member(room, user):
                self._reader.places.put(user, room)
                return room
        return ""

    async def _make_dm(self, user: str) -> str:
        room = await self._api.create_dm(user)
        await self._note_direct(user, room)
        return room

    async def _note_direct(self, user: str, room: str) -> None:
        self._reader.expect_direct(room, user)
        self._reader.places.put(user, room)
        async with self._direct_turn:
            content = await self._api.direct()
            await self._api.put_direct(with_room(content, user, room))

    def _check_user(self, user: str) -> None:
        if not user.startswith("@") or ":" not in user or len(user) > MAX_ID_CHARACTERS:
            raise Rejected("remote_id: expected @name:server")
        if user == self._api.user:
            raise Rejected("remote_id: that is the account itself")


async def _read_pieces(opened: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(opened.read, PIECE_BYTES):
        yield piece
