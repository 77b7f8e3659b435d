"""What one account was told and the log does not have yet: while one commit is under way the next items collect, so a
catch-up is not one commit a message. Must never let a cursor overtake an item, nor skip what the store could not take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.model.errors import GatewayError, QueueFull, StoreUnavailable
from gateway.model.im_people import Item
from gateway.model.im_ports import Appended, Delivering

#: items that wait for a commit; past it the account reads no further
WINDOW = 64


class Inbox:
    """Of one session. `on_wait` is called each time the store could not take something."""

    __slots__ = (
        "_account",
        "_cursor",
        "_delivering",
        "_flying",
        "_items",
        "_on_wait",
        "_retry",
        "_retry_s",
        "_room",
        "_user",
    )

    def __init__(
        self, delivering: Delivering, user: bytes, account: int, retry_s: float, on_wait: Callable[[], None]
    ) -> None:
        self._delivering = delivering
        self._user = user
        self._account = account
        self._on_wait = on_wait
        #: the store is tried again after so long
        self._retry_s = retry_s
        #: not in the log, the flying ones first
        self._items: list[Item] = []
        #: behind the last of them; None: as before
        self._cursor: bytes | None = None
        #: how many items fly, and their commit
        self._flying: tuple[int, bytes | None, asyncio.Future[None]] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None

    async def put(self, item: Item | None, cursor: bytes | None) -> None:
        """Taken at once; returns when there is room for the next."""
        if item is not None:
            self._items.append(item)
        if cursor is not None:
            self._cursor = cursor
        self._fly()
        await self._wait_below(WINDOW)

    async def drain(self) -> None:
        """Until all is in the log."""
        await self._wait_below(1)

    def close(self) -> None:
        """What has not flown yet is let go: the cursor is before it."""
        self._items.clear()
        self._cursor = None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    @property
    def _is_idle(self) -> bool:
        return not self._items and self._cursor is None and self._flying is None

    async def _wait_below(self, most: int) -> None:
        while len(self._items) >= most or (most == 1 and not self._is_idle):
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

    def _fly(self) -> None:
        if self._flying is not None or self._retry is not None or (not self._items and self._cursor is None):
            return
        items, cursor = self._items[:WINDOW], self._cursor
        if len(self._items) > WINDOW:
            cursor = None  # it is behind items that do not fly yet
        try:
            appended: Appended = self._delivering.deliver(self._user, items, account=self._account, cursor=cursor)
        except (StoreUnavailable, QueueFull):
            self._again()
            return
        self._flying = len(items), cursor, appended.done
        appended.done.add_done_callback(self._on_landed)

    def _on_landed(self, done: asyncio.Future[None]) -> None:
        if self._flying is None:
            return
        count, cursor, _ = self._flying
        self._flying = None
        if done.cancelled() or done.exception() is not None:
            self._again()
            return
        del self._items[:count]
        if cursor is self._cursor:
            self._cursor = None
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None
        self._fly()

    def _again(self) -> None:
        self._on_wait()
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(self._retry_s, self._on_retry)

    def _on_retry(self) -> None:
        self._retry = None
        try:
            self._fly()
        except GatewayError:
            self._again()
