"""One Bluesky account that is connected: new posts of those it follows, posts of its own. Asks again and again, as the
network tells nothing by itself; must never put a post or a name into a log or an error."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.bluesky.client import PdsClient
from gateway.im.connectors.bluesky.cursor import Shown, parse_cursor
from gateway.im.connectors.bluesky.failures import classify
from gateway.im.connectors.bluesky.following import Following
from gateway.im.connectors.bluesky.form import parse_login
from gateway.im.connectors.bluesky.posts import (
    FOLLOW,
    IMAGE_BYTES,
    IMAGE_TYPES,
    MOST_IMAGES,
    POST,
    build_post,
    build_text,
    parse_ref,
    parse_uri,
)
from gateway.im.connectors.bluesky.tid import choose_tid, parse_tid
from gateway.im.connectors.bluesky.timeline import Timeline
from gateway.im.connectors.bluesky.tokens import Tokens
from gateway.model.im import (
    Act,
    AuthFailed,
    Befriend,
    Contact,
    Credentials,
    CursorForgotten,
    Envelope,
    Event,
    Media,
    MediaFile,
    Moved,
    Person,
    Rejected,
    Transient,
)

#: transactions whose key is remembered
_MOST_KEYS = 1_000


class BlueskySession:
    def __init__(self, client: PdsClient, following: Following | Timeline, settings: ConnectorSettings) -> None:
        self._client, self._following, self._settings = client, following, settings
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(settings.events)
        self._keys: OrderedDict[str, str] = OrderedDict()
        self._failure: AuthFailed | Transient | Rejected | None = None
        self._task = asyncio.create_task(self._ask_again())
        self.me = Person(client.did, client.handle, is_self=True)

    def tell(self, event: Event) -> None:
        """Before anything else."""
        self._events.put_nowait(event)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # --- what comes

    def events(self) -> AsyncIterator[Event]:
        return self._each_event()

    async def _each_event(self) -> AsyncIterator[Event]:
        while (event := await self._events.get()) is not None:
            yield event
        assert self._failure is not None
        raise self._failure

    async def _ask_again(self) -> None:
        """Until something fails. Where nobody reads the events nobody asks for more."""
        try:
            while True:
                async for event in self._following.round():
                    await self._events.put(event)
                await asyncio.sleep(self._settings.poll_s)
        except (AuthFailed, Transient) as exc:
            self._failure = exc
        except Exception as exc:  # a server's answer that nobody thought of ends the session, and is not quoted
            self._failure = Transient("the connection could not go on") if isinstance(exc, Rejected) else classify(exc)
        await self._events.put(None)

    async def contacts(self) -> AsyncIterator[Contact]:
        async for contact in self._following.contacts():
            yield contact

    async def fetch(self, media: Media) -> AsyncIterator[bytes]:
        if media.ref.startswith(("https://", "http://")):
            async for piece in self._client.fetch_url(media.ref):
                yield piece
            return
        ref = parse_ref(media.ref)
        if ref is None:
            raise Rejected("this is no file of the network")
        if media.size > self._settings.media_bytes:
            raise Rejected("the file is too large")
        async for piece in self._client.fetch_blob(*ref):
            yield piece

    # --- what the user wants

    async def send(self, envelope: Envelope, files: Sequence[MediaFile] = ()) -> str:
        images = [file for file in files if file.media.mime in IMAGE_TYPES and 0 <= file.media.size <= IMAGE_BYTES]
        images = images[:MOST_IMAGES]
        text = build_text(envelope, [file for file in files if file not in images])
        if not text and not images:
            raise Rejected("text: there is nothing to post")
        rkey = self._choose_key(envelope)
        blobs = [(await self._upload(file), file.media) for file in images]
        reply = await self._reply(envelope.reply_to) if envelope.reply_to else None
        record = build_post(text, parse_tid(rkey) or 0, images=blobs, reply=reply)
        # before it is there: it may be read in a round before we hear that it was taken
        self._following.forget_own(f"at://{self._client.did}/{POST}/{rkey}")
        return await self._client.put_record(POST, rkey, record)

    def _choose_key(self, envelope: Envelope) -> str:
        """The same on each try: of a transaction that has a time, in another session too."""
        if envelope.txn_id in self._keys:
            return self._keys[envelope.txn_id]
        at_ms = envelope.at_ms or time.time_ns() // 1_000_000
        rkey = choose_tid(at_ms, envelope.txn_id or f"{time.time_ns()}")
        if envelope.txn_id:
            self._keys[envelope.txn_id] = rkey
            if len(self._keys) > _MOST_KEYS:
                self._keys.popitem(last=False)
        return rkey

    async def _upload(self, file: MediaFile) -> dict[str, Any]:
        try:
            data = await asyncio.to_thread(Path(file.path).read_bytes)
        except OSError:
            raise Rejected("the file is not there any more") from None
        return await self._client.upload(data, file.media.mime)

    async def _reply(self, reply_to: str) -> dict[str, Any]:
        uri = parse_uri(reply_to)
        if uri is None or uri.collection != POST:
            raise Rejected("reply_to: a post of this network")
        parent = await self._client.get_reference(uri)
        root = parent.pop("root")
        return {"root": root or parent, "parent": parent}

    async def act(self, act: Act) -> None:
        if not isinstance(act, Befriend):
            raise Rejected("Bluesky has no read marks, no typing, no rooms, and nobody answers a follower")
        handle = act.remote_id.removeprefix("@")
        uri = parse_uri(f"at://{handle}/x/x")
        did = uri.did if uri is not None else await self._client.resolve_handle(handle)
        if did == self._client.did:
            raise Rejected("remote_id: nobody follows themselves")
        now_ms = time.time_ns() // 1_000_000
        rkey = choose_tid(now_ms, did)
        record = build_post("", now_ms * 1_000)
        await self._client.put_record(FOLLOW, rkey, {"$type": FOLLOW, "subject": did, "createdAt": record["createdAt"]})


async def _begin(
    client: PdsClient, at: dict[str, str] | Shown | None, settings: ConnectorSettings
) -> Following | Timeline:
    """By the timeline where the server has one, else repository by repository; a cursor is of one of the two."""
    following: Following | Timeline
    if await client.has_timeline():
        if isinstance(at, dict):
            raise CursorForgotten("the server has a timeline now: it is read from here on")
        following = Timeline(client, at, text_bytes=settings.text_bytes)
    else:
        if isinstance(at, Shown):
            raise Transient("the timeline is not to be had now")
        following = Following(client, at, most=settings.follows, text_bytes=settings.text_bytes)
    await following.begin()
    return following


@asynccontextmanager
async def open_session(
    credentials: Credentials, cursor: bytes | None, settings: ConnectorSettings, tls: ssl.SSLContext, tokens: Tokens
) -> AsyncIterator[BlueskySession]:
    login = parse_login(credentials)
    at = parse_cursor(cursor) if cursor else None
    client = PdsClient(login, settings, tls, tokens)
    try:
        await client.log_in()
        following = await _begin(client, at, settings)
        session = BlueskySession(client, following, settings)
        if at is None:
            # who goes away before anything came comes back to here
            session.tell(Moved(following.cursor()))
        try:
            yield session
        finally:
            await session.close()
    finally:
        await client.close()
