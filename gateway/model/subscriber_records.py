"""The seam between the rules of opaque ids and where records of subscribers are kept; control thread only."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from gateway.model.subscriber import IssuedId, NetworkId, PastId, SubscriberRecord


class SubscriberChange(NamedTuple):
    """One record as it was and as it shall be; None: there is none."""

    handle: bytes
    before: SubscriberRecord | None
    after: SubscriberRecord | None
    why: str = ""  # of ids that are in `before` alone and had not lapsed: revoked, replaced, …


class News(NamedTuple):
    """A new id that an app is told of (C5)."""

    app: str
    issued: IssuedId
    #: canonical forms of ids the app may know, in whose place or beside which it is
    replaces: tuple[str, ...] = ()


class NewsLine(NamedTuple):
    """One line of an app's feed."""

    cursor: int  # rising; resume after it
    issued: IssuedId
    replaces: tuple[str, ...]


class SubscriberRecords(Protocol):
    """Where records of subscribers are kept (store.subscribers.SubscriberStore)."""

    def find(self, network_id: NetworkId) -> bytes | None:
        """Handle of the subscriber who has it."""
        ...

    def read(self, handle: bytes | None) -> SubscriberRecord | None:
        """None, after the same work, for None and for an unknown handle."""
        ...

    def by_local(self, local: str) -> tuple[bytes, SubscriberRecord] | None:
        """The subscriber one of whose opaque ids this is or was; None after the same work."""
        ...

    def write(self, changes: Sequence[SubscriberChange], news: Sequence[News] = ()) -> asyncio.Future[None]:
        """All in one commit: seen at once, undone where it fails. StoreUnavailable or QueueFull at once,
        StoreUnavailable through the future."""
        ...

    def ending(self, after: bytes, from_s: int, until_s: int, limit: int) -> list[tuple[bytes, bytes]]:
        """Ends of ids from one second to another, in order, behind a position: (position, handle of the subscriber,
        empty where the id is gone)."""
        ...

    def past(self, local: str, limit: int) -> list[PastId]:
        """What an opaque id stood for, oldest first."""
        ...

    def was_drawn(self, local: str) -> bool:
        """Is there anything that it stood for? The same work for either answer."""
        ...

    def news(self, app: str, after: int, limit: int) -> list[NewsLine]:
        """What an app is told, oldest first."""
        ...
