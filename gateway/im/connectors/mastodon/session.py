"""One Mastodon account that is connected: its home timeline and its mentions, asked for again and again; posts and
direct messages out. Must never put a post or a name into a log or an error."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
from mastodon import Mastodon

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.hosts import resolve
from gateway.im.connectors.mastodon.client import MastodonClient, check_list, check_object
from gateway.im.connectors.mastodon.form import parse_login
from gateway.im.connectors.mastodon.statuses import (
    MEDIA_TYPES,
    MOST_MEDIA,
    build_draft,
    is_acct,
    parse_acct,
    parse_id,
    parse_status,
)
from gateway.im.connectors.pinned import PinnedTransport, fetch_file
from gateway.model.im import (
    Act,
    Answer,
    AuthFailed,
    Befriend,
    Contact,
    Credentials,
    CursorForgotten,
    Envelope,
    Event,
    FriendRequest,
    Media,
    MediaFile,
    Message,
    Moved,
    Person,
    Rejected,
    Transient,
)

_PAGE = 40
_PAGES_A_ROUND = 10
_MOST_CONTACT_PAGES = 250
_MOST_OWN = 1_000
#: a server works on a clip before it can be posted; it is asked so often
_PROCESSING_S = 1.0
_NOTES = ["mention", "follow_request"]


class Cursor(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Newest ids that were seen; "0": there was none."""

    home: str
    notes: str


def parse_cursor(cursor: bytes) -> Cursor:
    """CursorForgotten where it is none of ours."""
    try:
        parsed = msgspec.json.decode(cursor, type=Cursor)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise CursorForgotten("the posts that were seen are not known any more") from None
    if not (parse_id(parsed.home) and parse_id(parsed.notes)):
        raise CursorForgotten("the posts that were seen are not known any more")
    return parsed


class MastodonSession:
    def __init__(self, client: MastodonClient, files: httpx.AsyncClient, settings: ConnectorSettings) -> None:
        self._client, self._files, self._settings = client, files, settings
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(settings.events)
        self._own: OrderedDict[str, None] = OrderedDict()
        self._failure: AuthFailed | Transient | None = None
        self._task: asyncio.Task[None] | None = None
        self._cursor = Cursor("0", "0")
        self._me_id = ""
        self.me = Person("", is_self=True)

    async def start(self, cursor: Cursor | None) -> None:
        account = await self._ask(lambda api: api.account_verify_credentials())
        self._me_id, acct = parse_id(account.get("id")), parse_acct(account)
        if not self._me_id or not acct:
            raise Transient("the server does not answer as it should")
        self.me = Person(acct, str(account.get("display_name") or acct)[:256], is_self=True)
        newest = await self._home(limit=1)
        if cursor is None:
            notes = await self._notes(limit=1)
            self._cursor = Cursor(_newest(newest), _newest(notes))
            # who goes away before anything came comes back to here
            self._events.put_nowait(Moved(self._at()))
        else:
            self._cursor = cursor
            # a server keeps some hundred posts: where it goes back no longer to ours, some are lost
            is_behind = newest and cursor.home.isdigit() and cursor.home not in ("0", _newest(newest))
            if is_behind and not await self._home(max_id=str(int(cursor.home) + 1), limit=1):
                raise CursorForgotten("the server does not keep posts for so long")
        self._task = asyncio.create_task(self._ask_again())

    async def close(self) -> None:
        if self._task is not None:
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
        try:
            while True:
                await self._round()
                await asyncio.sleep(self._settings.poll_s)
        except (AuthFailed, Transient) as exc:
            self._failure = exc
        except Exception:  # an answer that nobody thought of ends the session, and is not quoted
            self._failure = Transient("the connection could not go on")
        await self._events.put(None)

    async def _round(self) -> None:
        for _ in range(_PAGES_A_ROUND):
            page = await self._home(min_id=self._cursor.home, limit=_PAGE)
            for status in reversed(page):
                self._cursor.home = parse_id(status.get("id")) or self._cursor.home
                await self._tell(status)
            if len(page) < _PAGE:
                break
        for _ in range(_PAGES_A_ROUND):
            page = await self._notes(min_id=self._cursor.notes, limit=_PAGE)
            for note in reversed(page):
                self._cursor.notes = parse_id(note.get("id")) or self._cursor.notes
                if note.get("type") == "mention":
                    await self._tell(note.get("status"))
                elif note.get("type") == "follow_request" and (acct := parse_acct(note.get("account"))):
                    await self._events.put(FriendRequest(Person(acct, acct), cursor=self._at()))
            if len(page) < _PAGE:
                break

    async def _tell(self, status: object) -> None:
        now_ms = time.time_ns() // 1_000_000
        envelope = parse_status(status, me=self._me_id, text_bytes=self._settings.text_bytes, now_ms=now_ms)
        if envelope is None:
            return
        if envelope.remote_id in self._own:
            await self._events.put(Moved(self._at()))  # we have just posted this: it is not news
            return
        await self._events.put(Message(envelope, self._at()))

    def _at(self) -> bytes:
        return msgspec.json.encode(self._cursor)

    async def _home(self, **where: Any) -> list[Mapping[str, Any]]:
        return check_list(await self._client.run(lambda api: api.timeline_home(**where)))

    async def _notes(self, **where: Any) -> list[Mapping[str, Any]]:
        return check_list(await self._client.run(lambda api: api.notifications(types=_NOTES, **where)))

    async def _ask(self, request: Callable[[Mastodon], object]) -> Mapping[str, Any]:
        return check_object(await self._client.run(request))

    async def contacts(self) -> AsyncIterator[Contact]:
        page = await self._client.run(lambda api: api.account_following(self._me_id, limit=80))
        for _ in range(_MOST_CONTACT_PAGES):
            for account in check_list(page):
                if acct := parse_acct(account):
                    yield Contact(acct, str(account.get("display_name") or acct)[:256], is_mutual=False)
            page = await self._client.run(lambda api, last=page: api.fetch_next(last))  # type: ignore[misc]
            if not page:
                return

    async def fetch(self, media: Media) -> AsyncIterator[bytes]:
        async for piece in fetch_file(self._files, media.ref, request_s=self._settings.request_s):
            yield piece

    # --- what the user wants

    async def send(self, envelope: Envelope, files: Sequence[MediaFile] = ()) -> str:
        shown = [file for file in files if file.media.mime.startswith(MEDIA_TYPES)][:MOST_MEDIA]
        draft = build_draft(envelope, [file for file in files if file not in shown], bool(shown))
        media = [await self._upload(file) for file in shown]
        status = await self._ask(
            lambda api: api.status_post(
                draft.text,
                in_reply_to_id=draft.reply_to,
                media_ids=media or None,
                visibility=draft.visibility,
                spoiler_text=draft.spoiler,
                idempotency_key=envelope.txn_id or None,
            )
        )
        remote_id = parse_id(status.get("id"))
        if not remote_id:
            raise Transient("the server does not answer as it should")
        self._own[remote_id] = None
        if len(self._own) > _MOST_OWN:
            self._own.popitem(last=False)
        return remote_id

    async def _upload(self, file: MediaFile) -> str:
        def upload(api: Mastodon) -> object:
            try:
                opened = open(file.path, "rb")  # noqa: SIM115 - an error of it is not one of the network
            except OSError:
                raise Rejected("the file is not there any more") from None
            with opened:
                return api.media_post(opened, mime_type=file.media.mime)

        media = await self._ask(upload)
        remote_id = parse_id(media.get("id"))
        try:
            async with asyncio.timeout(self._settings.request_s):
                while not media.get("url"):
                    await asyncio.sleep(_PROCESSING_S)
                    media = await self._ask(lambda api: api.media(remote_id))
        except TimeoutError:
            raise Transient("the server is not ready with the file") from None
        return remote_id

    async def act(self, act: Act) -> None:
        if not isinstance(act, Befriend | Answer):
            raise Rejected("Mastodon has no read marks, no typing and no rooms")
        acct = act.remote_id.removeprefix("@")
        if not is_acct(acct):
            raise Rejected("remote_id: user, or user@server")
        account = await self._ask(lambda api: api.account_lookup(acct))
        number = parse_id(account.get("id"))
        if not number:
            raise Transient("the server does not answer as it should")
        if isinstance(act, Befriend):
            await self._client.run(lambda api: api.account_follow(number))
        elif act.accept:
            await self._client.run(lambda api: api.follow_request_authorize(number))
        else:
            await self._client.run(lambda api: api.follow_request_reject(number))


def _newest(page: Sequence[Mapping[str, Any]]) -> str:
    return (parse_id(page[0].get("id")) if page else "") or "0"


@asynccontextmanager
async def open_session(
    credentials: Credentials,
    cursor: bytes | None,
    settings: ConnectorSettings,
    tls: ssl.SSLContext,
    threads: ThreadPoolExecutor,
) -> AsyncIterator[MastodonSession]:
    login = parse_login(credentials)
    at = parse_cursor(cursor) if cursor else None
    host, _, port = login.server.partition(":")
    addresses = await resolve(host, int(port or 443), allows_private=settings.private_hosts)
    transport = PinnedTransport(
        tls=tls, has_tls=login.has_tls, allows_private=settings.private_hosts, most_bytes=settings.media_bytes
    )
    async with httpx.AsyncClient(transport=transport, timeout=settings.request_s, trust_env=False) as files:
        client = MastodonClient(login, addresses, threads, settings.request_s)
        session = MastodonSession(client, files, settings)
        try:
            await session.start(at)
            yield session
        finally:
            await session.close()
            client.close()
