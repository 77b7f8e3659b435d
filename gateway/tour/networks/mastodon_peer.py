"""Somebody else on a Mastodon server, with the library Mastodon.py in threads."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import Any, NamedTuple

from mastodon import Mastodon

from gateway.im.connectors.mastodon.text import parse_html, strip_mentions
from gateway.im.geo import build_geo, find_geo
from gateway.model.im import Conversation, ConversationKind, Geo

_AGAIN_S = 0.1


class Heard(NamedTuple):
    text: str
    remote_id: str
    file: bytes = b""
    geo: tuple[float, float] | None = None
    reply_to: str = ""


class MastodonPeer:
    """Writes direct messages to `ours`, and hears those to itself."""

    def __init__(self, url: str, name: str, token: str, ours: str) -> None:
        self._api = Mastodon(
            api_base_url=url, access_token=token, mastodon_version="4.3.0", version_check_mode="created"
        )
        self._ours = ours
        self._after = "0"
        self._waiting: list[Any] = []
        self.conversation = Conversation(ConversationKind.DM, name)

    async def close(self) -> None:
        self._api.session.close()

    async def say(self, text: str) -> None:
        await asyncio.to_thread(self._api.status_post, f"@{self._ours} {text}", visibility="direct")

    async def post(self, text: str) -> None:
        """To everybody."""
        await asyncio.to_thread(self._api.status_post, text)

    async def say_file(self, data: bytes, mime: str, name: str) -> None:  # noqa: ARG002 - the peers' signature
        def say() -> None:
            media = self._api.media_post(data, mime_type=mime)
            self._api.media(media)
            self._api.status_post(f"@{self._ours}", media_ids=[media], visibility="direct")

        await asyncio.to_thread(say)

    async def say_place(self, latitude: float, longitude: float) -> None:
        await self.say(build_geo(Geo(latitude, longitude)))

    async def hear(self) -> Heard:
        while not self._waiting:
            page = await asyncio.to_thread(self._api.notifications, min_id=self._after, types=["mention"])
            self._waiting = list(reversed(page))
            if not self._waiting:
                await asyncio.sleep(_AGAIN_S)
        note = self._waiting.pop(0)
        self._after = str(note.id)
        status = note.status
        text = strip_mentions(parse_html(status.content))
        file = b""
        if status.media_attachments:
            file = await asyncio.to_thread(_download, str(status.media_attachments[0].url))
        geo = find_geo(text)
        place = None if geo is None else (geo.latitude, geo.longitude)
        return Heard(text, str(status.id), file, place, str(status.in_reply_to_id or ""))

    async def read_all(self) -> None:
        raise NotImplementedError("Mastodon has no read marks")

    async def hear_read(self) -> str:
        raise NotImplementedError("Mastodon has no read marks")


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url) as response:  # noqa: S310 - of the server on loopback
        return bytes(response.read())
