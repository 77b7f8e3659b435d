"""Somebody else on a Bluesky PDS, with the library atproto: posts, and reads what our account posts."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import httpx
from atproto_client import AsyncClient, models

from gateway.im.geo import build_geo, find_geo
from gateway.model.im import Conversation, ConversationKind, Geo

_AGAIN_S = 0.1


class Heard(NamedTuple):
    text: str
    remote_id: str
    file: bytes = b""
    geo: tuple[float, float] | None = None
    #: the post that it answers
    reply_to: str = ""


async def create_account(url: str, handle: str, password: str) -> str:
    """On a server where anybody may; its DID."""
    client = AsyncClient(url)
    try:
        data = models.ComAtprotoServerCreateAccount.Data(handle=handle, email=f"{handle}@mail.test", password=password)
        return str((await client.com.atproto.server.create_account(data)).did)
    finally:
        await client.request.close()


async def follow(url: str, handle: str, password: str, did: str) -> None:
    """One account follows another from now on."""
    client = AsyncClient(url)
    try:
        await client.login(handle, password, fetch_bsky_profile=False)
        record = models.AppBskyGraphFollow.Record(created_at=client.get_current_time_iso(), subject=did)
        await client.app.bsky.graph.follow.create(client._session.did, record)
    finally:
        await client.request.close()


class BlueskyPeer:
    """`ours`: the DID of our account."""

    conversation = Conversation(ConversationKind.FEED, "home")

    def __init__(self, url: str, handle: str, password: str, ours: str) -> None:
        self._client = AsyncClient(url)
        self._handle, self._password, self._ours = handle, password, ours
        self._after: str | None = None
        self._waiting: list[Any] = []

    @property
    def did(self) -> str:
        return str(self._client._session.did)

    async def connect(self) -> None:
        await self._client.login(self._handle, self._password, fetch_bsky_profile=False)

    async def close(self) -> None:
        await self._client.request.close()

    async def say(self, text: str) -> None:
        await self._client.send_post(text, profile_identify=self.did)

    async def answer(self, uri: str, text: str) -> None:
        """To a post."""
        post = await self._client.get_post(uri.rpartition("/")[2], uri.split("/")[2])
        reference = models.ComAtprotoRepoStrongRef.Main(uri=post.uri, cid=post.cid)
        reply = models.AppBskyFeedPost.ReplyRef(parent=reference, root=reference)
        await self._client.send_post(text, profile_identify=self.did, reply_to=reply)

    async def say_file(self, data: bytes, mime: str, name: str) -> None:
        answer = await self._client.invoke_procedure(
            "com.atproto.repo.uploadBlob", content=data, headers={"Content-Type": mime}
        )
        blob = models.ComAtprotoRepoUploadBlob.Response(**answer.content).blob
        image = models.AppBskyEmbedImages.Image(alt=name, image=blob)
        embed = models.AppBskyEmbedImages.Main(images=[image])
        await self._client.send_post("", profile_identify=self.did, embed=embed)

    async def say_place(self, latitude: float, longitude: float) -> None:
        await self.say(build_geo(Geo(latitude, longitude)))

    async def hear(self) -> Heard:
        while not self._waiting:
            params = models.ComAtprotoRepoListRecords.Params(
                repo=self._ours, collection="app.bsky.feed.post", reverse=True, cursor=self._after, limit=100
            )
            try:
                page = await self._client.com.atproto.repo.list_records(params)
            except httpx.HTTPError:
                await asyncio.sleep(_AGAIN_S)
                continue
            self._waiting = list(page.records)
            if not self._waiting:
                await asyncio.sleep(_AGAIN_S)
        record = self._waiting.pop(0)
        self._after = record.uri.rpartition("/")[2]
        post = record.value
        file = b""
        if post.embed is not None:
            blob = models.ComAtprotoSyncGetBlob.Params(did=self._ours, cid=post.embed.images[0].image.cid.encode())
            file = bytes(await self._client.com.atproto.sync.get_blob(blob))
        geo = find_geo(post.text)
        place = None if geo is None else (geo.latitude, geo.longitude)
        return Heard(post.text, record.uri, file, place, post.reply.parent.uri if post.reply else "")

    async def read_all(self) -> None:
        raise NotImplementedError("Bluesky has no read marks")

    async def hear_read(self) -> str:
        raise NotImplementedError("Bluesky has no read marks")
