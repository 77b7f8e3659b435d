"""Where a push to many goes, and what a store that is one of several is asked for it; must hold no I/O.

On one machine it goes to that machine (delivery.one_machine). In a fleet it is *wide*: the app's home partition keeps
it, durable and known to its provider by its sequence there; then it goes to all partitions, as one message of the
fleet's stream where it is a broadcast, else to each owner until all have taken it over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from gateway.model.notification import Notification, Target


class Reach(Protocol):
    """Where a push to many goes."""

    def is_wide(self, target: Target) -> bool:
        """Is a push to this target kept first, and given out by `give_out`?"""
        ...

    def check(self, notification: Notification) -> None:
        """Before it is kept. QueueFull, PayloadTooLarge."""
        ...

    def was_kept(self, kept: asyncio.Future[None]) -> None:
        """Something that may go at once was kept, or could not be."""
        ...

    def give_out(self, kept: Notification) -> asyncio.Future[None]:
        """Its time has come. Resolves when it is not kept any more; fails where it must be tried again, which never
        makes two of it."""
        ...


class WideBroadcasts(Protocol):
    """What a store knows of the fleet's broadcasts (store.broadcasts.Broadcasts, beside model.ports.Broadcasts)."""

    def begin(self, told: Sequence[Notification], recalled: Collection[int], at_ms: int) -> None:
        """All that the fleet's stream holds, ascending, before anything else is asked of a store that was opened: what
        it has and the stream has no more is over, what it has not is live."""
        ...

    def take_in(self, notification: Notification) -> bool:
        """The next of the stream: live from now on. False: it was told of already, or is over here."""
        ...

    def known_to(self) -> int:
        """The highest sequence that this store, or its owner before, was told of, as far as it left a trace."""
        ...

    def live(self, app: str) -> list[int]: ...


class WideSchedules(Protocol):
    """What a store knows of pushes that all partitions take over (store.schedules.Schedules)."""

    def notification(self, seq: int) -> Notification | None:
        """Kept here."""
        ...

    def of_app(self, app: str) -> list[tuple[int, int]]: ...

    def count_of(self, app: str) -> int: ...

    def due_ms(self, seq: int) -> int: ...

    def became(self, seq: int) -> int: ...

    def released(self, seq: int, became: int) -> None: ...

    def tie(self, seq: int, became: int) -> None:
        """The broadcast `became` is known to its provider by `seq`."""
        ...

    def given_out(self, seq: int) -> asyncio.Future[None]:
        """All partitions have taken it over: it is not kept any more."""
        ...

    def refuse(self, notification: Notification, state: int, at_ms: int) -> None:
        """Recalled before it came here: it will not be taken over."""
        ...

    def end(self, seq: int, state: int, at_ms: int) -> None: ...


class BroadcastLog(Protocol):
    """The fleet's broadcasts in their one order, each a message. Durable on a majority of servers."""

    @property
    def most_bytes(self) -> int:
        """Of one message."""
        ...

    async def start(self, hear: Callable[[int, bytes], Any]) -> None:
        """`hear` gets (place, message), each once and in order: all that are there now before this returns, then those
        that come. Places begin with 1 and rise; one whose time is over leaves a gap."""
        ...

    async def append(self, message: bytes, *, once: str, ttl_s: int) -> int:
        """Its place, when it is durable. It goes after so many seconds. LogUnavailable: it may be there all the same;
        the same `once` again within minutes makes no second message."""
        ...

    async def catch_up(self) -> int:
        """The last place now, when everything up to it was heard. LogUnavailable."""
        ...

    async def close(self) -> None: ...
