"""Doubles of what the mail listener asks: users, media and delivery in memory, with the troubles a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from gateway.model.errors import GatewayError
from gateway.model.im import Media
from gateway.model.im_people import Item
from gateway.model.im_ports import Appended, MediaRefused

ALICE, BOB = b"a" * 16, b"b" * 16


class People:
    def __init__(self) -> None:
        self.mailboxes = {"alice": ALICE, "bob": BOB}
        self.trouble: GatewayError | None = None

    def find_mailbox(self, local_part: str) -> bytes | None:
        if self.trouble is not None:
            raise self.trouble
        return self.mailboxes.get(local_part)


class Shelf:
    """Takes files but those of a type it does not know."""

    def __init__(self) -> None:
        self.files: list[tuple[bytes, Media, bytes]] = []

    async def take(self, chunks: AsyncIterator[bytes], *, user: bytes, media: Media) -> Media:
        data = b"".join([chunk async for chunk in chunks])
        if media.mime == "application/x-msdownload":
            raise MediaRefused("this type is not taken")
        self.files.append((user, media, data))
        return Media(f"m{len(self.files)}", media.mime, len(data), media.name)


class Log:
    """What was delivered, by user; a key that is there already is left out."""

    def __init__(self) -> None:
        self.items: list[tuple[bytes, Item]] = []
        self.keys: set[object] = set()
        self.trouble: Exception | None = None
        #: for certain users only
        self.trouble_of: bytes | None = None
        self.is_slow: asyncio.Event | None = None

    def deliver(self, user: bytes, items: Sequence[Item], *, account: int = 0, cursor: bytes | None = None) -> Appended:
        assert (account, cursor) == (0, None)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.trouble is not None and self.trouble_of in (None, user):
            done.set_exception(self.trouble)
            return Appended([], done)
        new = [item for item in items if (user, item.envelope and item.envelope.key) not in self.keys]
        self.keys |= {(user, item.envelope and item.envelope.key) for item in new}
        self.items += [(user, item) for item in new]
        if self.is_slow is None:
            done.set_result(None)
        else:
            asyncio.get_running_loop().create_task(self._later(done, self.is_slow))
        return Appended(new, done)

    async def _later(self, done: asyncio.Future[None], event: asyncio.Event) -> None:
        await event.wait()
        done.set_result(None)

    def tell(self, user: bytes, item: Item) -> None:
        raise AssertionError
