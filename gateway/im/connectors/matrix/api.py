"""The requests of the client-server API that a session needs, one method each; every id in a path is quoted."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import msgspec

from gateway.im.connectors.matrix.content import MAX_ID_CHARACTERS, parse_mxc
from gateway.im.connectors.matrix.form import Login
from gateway.im.connectors.matrix.refusals import Refusal, classify_login
from gateway.im.connectors.matrix.wire import Wire
from gateway.model.im import AuthFailed, Media, Rejected, Transient

_V3 = "/_matrix/client/v3"
#: a typing mark goes by itself after so long
TYPING_MS = 30_000
#: events of one page of history
PAGE_EVENTS = 100
#: of what nobody said the type
ANY_MIME = "application/octet-stream"


def _q(text: str) -> str:
    if not text or len(text) > MAX_ID_CHARACTERS:
        raise Rejected("no id of the network")
    return quote(text, safe="")


class Api:
    """On a wire; `user` and `device` once it is logged in."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.user = ""

    # --- who ---

    async def log_in(self, login: Login) -> str:
        """By password; the new access token."""
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": login.user},
            "password": login.password,
            "device_id": login.device,
            "initial_device_display_name": "Heliograph",
        }
        try:
            answer = await self._wire.call("POST", f"{_V3}/login", body=body)
        except (AuthFailed, Transient, Refusal) as exc:
            raise classify_login(exc) from None
        token, user = answer.get("access_token"), answer.get("user_id")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not isinstance(user, str):
            raise Transient("the server's answer is not what was asked for")
        self.use(token, user)
        return token

    async def check_token(self, token: str) -> None:
        """AuthFailed where it is not valid."""
        self.use(token, "")
        user = (await self._wire.call("GET", f"{_V3}/account/whoami")).get("user_id")
        if not isinstance(user, str) or not user.startswith("@") or len(user) > MAX_ID_CHARACTERS:
            raise Transient("the server's answer is not what was asked for")
        self.use(token, user)

    def use(self, token: str, user: str) -> None:
        self._wire.token = token
        self.user = user

    # --- news ---

    async def sync(
        self, since: str, filtered: dict[str, Any], *, wait_s: float, is_present: bool = True
    ) -> dict[str, Any]:
        if not since:
            # servers answer the same question with the same answer for minutes: this one is asked for the first time
            filtered = {**filtered, "room": {**filtered["room"], "not_rooms": [f"!{secrets.token_hex(8)}:invalid"]}}
        query = {"filter": msgspec.json.encode(filtered).decode(), "timeout": str(int(wait_s * 1_000))}
        if since:
            query["since"] = since
        if not is_present:
            query["set_presence"] = "offline"  # "do not mark me as here", not "I am away"
        return await self._wire.call("GET", f"{_V3}/sync", query=query, more_s=wait_s)

    async def messages(self, room: str, since: str, until: str, filtered: object) -> dict[str, Any]:
        """A page forward."""
        query = {
            "dir": "f",
            "from": since,
            "limit": str(PAGE_EVENTS),
            "filter": msgspec.json.encode(filtered).decode(),
        }
        if until:
            query["to"] = until
        return await self._wire.call("GET", f"{_V3}/rooms/{_q(room)}/messages", query=query)

    # --- rooms ---

    async def send(self, room: str, kind: str, txn_id: str, content: object) -> str:
        answer = await self._wire.call("PUT", f"{_V3}/rooms/{_q(room)}/send/{_q(kind)}/{_q(txn_id)}", body=content)
        return _event_id(answer)

    async def redact(self, room: str, event: str, txn_id: str) -> str:
        answer = await self._wire.call("PUT", f"{_V3}/rooms/{_q(room)}/redact/{_q(event)}/{_q(txn_id)}", body={})
        return _event_id(answer)

    async def is_encrypted(self, room: str) -> bool:
        try:
            await self._wire.call("GET", f"{_V3}/rooms/{_q(room)}/state/m.room.encryption")
        except Refusal as exc:
            if exc.status == 404:
                return False
            raise
        return True

    async def is_member(self, room: str, user: str) -> bool:
        """There, or invited."""
        try:
            member = await self._wire.call("GET", f"{_V3}/rooms/{_q(room)}/state/m.room.member/{_q(user)}")
        except Refusal:
            return False
        return member.get("membership") in ("join", "invite")

    async def mark_read(self, room: str, event: str) -> None:
        body = {"m.read": event, "m.fully_read": event}
        await self._wire.call("POST", f"{_V3}/rooms/{_q(room)}/read_markers", body=body)

    async def set_typing(self, room: str, *, is_typing: bool) -> None:
        body = {"typing": True, "timeout": TYPING_MS} if is_typing else {"typing": False}
        await self._wire.call("PUT", f"{_V3}/rooms/{_q(room)}/typing/{_q(self.user)}", body=body)

    async def create_dm(self, user: str) -> str:
        body = {"invite": [user], "is_direct": True, "preset": "trusted_private_chat"}
        room = (await self._wire.call("POST", f"{_V3}/createRoom", body=body)).get("room_id")
        if not isinstance(room, str) or not 0 < len(room) <= MAX_ID_CHARACTERS:
            raise Transient("the server's answer is not what was asked for")
        return room

    async def join(self, room: str) -> None:
        await self._wire.call("POST", f"{_V3}/join/{_q(room)}", body={})

    async def leave(self, room: str) -> None:
        await self._wire.call("POST", f"{_V3}/rooms/{_q(room)}/leave", body={})

    # --- which rooms are with one person ---

    async def direct(self) -> dict[str, Any]:
        """The content of m.direct."""
        try:
            return await self._wire.call("GET", f"{_V3}/user/{_q(self.user)}/account_data/m.direct")
        except Refusal as exc:
            if exc.status == 404:
                return {}
            raise

    async def put_direct(self, content: object) -> None:
        await self._wire.call("PUT", f"{_V3}/user/{_q(self.user)}/account_data/m.direct", body=content)

    # --- media ---

    async def upload(self, chunks: AsyncIterator[bytes], media: Media, size: int) -> str:
        """Its mxc:// address."""
        mime = media.mime if media.mime.isascii() and media.mime.isprintable() and media.mime else ANY_MIME
        answer = await self._wire.upload("/_matrix/media/v3/upload", chunks, size, mime, media.name)
        address = answer.get("content_uri")
        if not isinstance(address, str) or parse_mxc(address) is None:
            raise Transient("the server's answer is not what was asked for")
        return address

    async def download(self, media: Media, most_bytes: int) -> AsyncGenerator[bytes, None]:
        found = parse_mxc(media.ref)
        if found is None:
            raise Rejected("no media of this network")
        place = f"{_q(found[0])}/{_q(found[1])}"
        try:
            async with aclosing(
                self._wire.download(f"/_matrix/client/v1/media/download/{place}", most_bytes)
            ) as pieces:
                async for piece in pieces:
                    yield piece
            return
        except Refusal as exc:
            if exc.code != "M_UNRECOGNIZED":
                raise
        # servers before 1.11
        async with aclosing(self._wire.download(f"/_matrix/media/v3/download/{place}", most_bytes)) as pieces:
            async for piece in pieces:
                yield piece


def _event_id(answer: dict[str, Any]) -> str:
    event = answer.get("event_id")
    if not isinstance(event, str) or not 0 < len(event) <= MAX_ID_CHARACTERS:
        raise Transient("the server's answer is not what was asked for", is_in_doubt=True)
    return event
