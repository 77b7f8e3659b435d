"""The mailboxes of the service's own domain as a network (D15): an account comes with a user's mailbox.

What is sent through it goes the way of every message, with its queue, its tries and its result. Nobody binds one; what
comes in comes by the mail listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar, NoReturn

from gateway.im.messaging.own_mailbox import OwnMailbox
from gateway.model.im import (
    Act,
    Caps,
    Contact,
    Credentials,
    Envelope,
    Event,
    LoginField,
    Media,
    MediaFile,
    Person,
    Rejected,
    Session,
)

#: of its accounts: also the user's name for it
NETWORK = "mailbox"
#: of the credentials
FIELD = "local_part"


class _MailboxSession:
    def __init__(self, mailbox: OwnMailbox, local_part: str) -> None:
        self._mailbox = mailbox
        self._local_part = local_part
        self.me = Person(mailbox.address(local_part), is_self=True)

    async def events(self) -> AsyncIterator[Event]:
        await asyncio.Event().wait()
        yield _refuse()

    async def send(self, envelope: Envelope, files: Sequence[MediaFile] = ()) -> str:
        return await self._mailbox.send(self._local_part, envelope, files)

    async def contacts(self) -> AsyncIterator[Contact]:
        yield _refuse()

    async def act(self, act: Act) -> None:  # noqa: ARG002
        _refuse()

    async def fetch(self, media: Media) -> AsyncIterator[bytes]:  # noqa: ARG002
        yield _refuse()


def _refuse() -> NoReturn:
    raise Rejected("a mailbox here can send mail, and no more")


class MailboxNetwork:
    """A Connector."""

    name: ClassVar[str] = NETWORK
    caps: ClassVar[Caps] = Caps(media=True, location=True, replies=True)
    form: ClassVar[tuple[LoginField, ...]] = ()

    def __init__(self, mailbox: OwnMailbox) -> None:
        self._mailbox = mailbox

    def host(self, credentials: Credentials) -> str:  # noqa: ARG002
        return NETWORK

    @asynccontextmanager
    async def open(self, credentials: Credentials, cursor: bytes | None) -> AsyncIterator[Session]:  # noqa: ARG002
        yield _MailboxSession(self._mailbox, credentials.values[FIELD])
