"""New posts of those an account follows, repository by repository (D12): each has its own place to go on from, so
nothing is missed and nothing comes twice. For servers without a timeline, and no more than `most` repositories."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator

from gateway.im.connectors.bluesky.client import PAGE, PdsClient
from gateway.im.connectors.bluesky.cursor import build_cursor
from gateway.im.connectors.bluesky.posts import FOLLOW, POST, Uri, parse_post, parse_uri
from gateway.model.im import Contact, ContactChanged, Envelope, Event, Message, Moved, Rejected

#: follows that are listed; past it the oldest stay unknown here
_MOST_PAGES = 100
#: pages of one repository in one round; the rest comes in the next
_PAGES_A_ROUND = 5
#: posts of our own that are still to come back to us
_MOST_OWN = 1_000


class Following:
    """`seen`: of the cursor; None: begin now, without what is there already."""

    def __init__(self, client: PdsClient, seen: dict[str, str] | None, *, most: int, text_bytes: int) -> None:
        self._client, self._most, self._text_bytes = client, most, text_bytes
        self._seen = {} if seen is None else dict(seen)
        self._names: dict[str, str] = {}
        self._follows: list[str] | None = None
        self._own: OrderedDict[str, None] = OrderedDict()

    def forget_own(self, uri: str) -> None:
        """We have just posted this: it is not news."""
        self._own[uri] = None
        if len(self._own) > _MOST_OWN:
            self._own.popitem(last=False)

    async def begin(self) -> None:
        self._follows = await self._list_follows()
        await self._note_new(self._follows)

    def cursor(self) -> bytes:
        return build_cursor(self._seen)

    async def contacts(self) -> AsyncIterator[Contact]:
        for did in await self._list_follows():
            yield Contact(did, await self._name(did), is_mutual=False)

    async def round(self) -> AsyncIterator[Event]:
        """What is new; the cursor is in the last of it."""
        before = build_cursor(self._seen)
        follows = await self._list_follows()
        known = set(self._follows or ())
        held: Message | None = None
        for did in follows:
            if did not in known:
                yield ContactChanged(did, Contact(did, await self._name(did), is_mutual=False))
        for did in known - set(follows):
            yield ContactChanged(did, None)
        self._follows = follows
        await self._note_new(follows)
        for did in self._read(follows):
            async for envelope in self._new_posts(did):
                if held is not None:
                    yield held
                held = Message(envelope)
        cursor = build_cursor(self._seen)
        if held is not None:
            yield held._replace(cursor=cursor)
        elif cursor != before:
            yield Moved(cursor)

    def _read(self, follows: list[str]) -> list[str]:
        return [self._client.did, *follows[: self._most]]

    async def _note_new(self, follows: list[str]) -> None:
        """Who is followed from now on begins with what comes next; who is not any more is forgotten."""
        read = self._read(follows)
        self._seen = {did: key for did, key in self._seen.items() if did in read}
        for did in read:
            if did in self._seen:
                continue
            try:
                newest = await self._client.list_records(did, POST, newest=True)
            except Rejected:
                continue  # it is not on this server, or was taken down: looked for again in the next round
            uris = [uri for record in newest if (uri := _parse_record_uri(record)) is not None]
            self._seen[did] = uris[0].rkey if uris else ""

    async def _new_posts(self, did: str) -> AsyncIterator[Envelope]:
        for _ in range(_PAGES_A_ROUND):
            if did not in self._seen:
                return
            try:
                records = await self._client.list_records(did, POST, after=self._seen[did])
            except Rejected:
                return
            for record in records:
                uri = _parse_record_uri(record)
                if uri is None or uri.rkey <= self._seen[did]:
                    continue  # none of this repository's, or not in order
                self._seen[did] = uri.rkey
                if str(uri) in self._own:
                    del self._own[str(uri)]
                    continue
                await self._name(uri.did)
                envelope = parse_post(
                    record,
                    me=self._client.did,
                    names=self._names,
                    text_bytes=self._text_bytes,
                    now_ms=time.time_ns() // 1_000_000,
                )
                if envelope is not None and uri.did == did:
                    yield envelope
            if len(records) < PAGE:
                return

    async def _list_follows(self) -> list[str]:
        """The newest first."""
        follows: OrderedDict[str, None] = OrderedDict()
        after = ""
        for _ in range(_MOST_PAGES):
            records = await self._client.list_records(self._client.did, FOLLOW, after=after)
            for record in records:
                uri = _parse_record_uri(record)
                value = record.get("value") if isinstance(record, dict) else None
                subject = parse_uri(f"at://{value.get('subject')}/x/x") if isinstance(value, dict) else None
                after = after if uri is None else max(after, uri.rkey)
                if subject is not None and subject.did != self._client.did:
                    follows[subject.did] = None
            if len(records) < PAGE:
                break
        return list(reversed(follows))

    async def _name(self, did: str) -> str:
        if did == self._client.did:
            return self._names.setdefault(did, self._client.handle)
        if did not in self._names:
            self._names[did] = await self._client.describe(did)
        return self._names[did]


def _parse_record_uri(record: object) -> Uri | None:
    return parse_uri(record.get("uri")) if isinstance(record, dict) else None
