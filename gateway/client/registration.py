"""One app and account on a Device as the app sees it: its token, its items, its foreground; never shares items (A5).

Items come through callbacks or, where none is given, by iterating the registration. At most `limit` wait here; past it
the Device stops reading. While somebody waits for an answer of the gateway the Device must read on, so a few more may
come: those are not confirmed before they are inside the limit, and so the in-flight window bounds them.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.client.content import Item, Notification, Recall, Tip
from gateway.client.errors import RegistrationEnded
from gateway.client.events import Binding, Fetched

if TYPE_CHECKING:
    from gateway.client.device import Device

_log = logging.getLogger("gateway.client")
#: more items than this past the limit: reading stops whoever waits
OVERFULL = 1024


@dataclass(slots=True)
class Handlers:
    """Callbacks of one registration, plain or async; one at a time, in order."""

    on_message: Callable[[Notification], Awaitable[None] | None]
    on_tip: Callable[[Tip], Awaitable[None] | None] | None = None
    on_recall: Callable[[Recall], Awaitable[None] | None] | None = None

    def of(self, item: Item) -> Callable[[Any], Awaitable[None] | None] | None:
        if isinstance(item, Notification):
            return self.on_message
        return self.on_tip if isinstance(item, Tip) else self.on_recall


def build_handlers(
    on_message: Callable[[Notification], Awaitable[None] | None] | None,
    on_tip: Callable[[Tip], Awaitable[None] | None] | None,
    on_recall: Callable[[Recall], Awaitable[None] | None] | None,
) -> Handlers | None:
    """None where there are none: then items wait to be iterated. TypeError where messages would have nowhere to go."""
    if on_message is not None:
        return Handlers(on_message, on_tip, on_recall)
    if on_tip is not None or on_recall is not None:
        raise TypeError("on_tip and on_recall need on_message: else messages would have nowhere to go")
    return None


class Registration:
    """Made by Device.register only."""

    def __init__(self, device: Device, binding: Binding, limit: int, handlers: Handlers | None) -> None:
        self._device = device
        self._binding = binding
        self._limit = limit
        self._handlers = handlers
        self._queue: deque[Item] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._reader: asyncio.Future[None] | None = None  # somebody iterates and waits
        self._closed = False
        self._on_token: Callable[[str], None] | None = None
        self._on_told: Callable[[bytes], None] | None = None
        self._token_before = ""

    def __repr__(self) -> str:
        return f"<Registration app={self.app!r} {self._binding.state.value}>"

    @property
    def app(self) -> str:
        return self._binding.app

    @property
    def version(self) -> str:
        return self._binding.version

    @property
    def account(self) -> str:
        return self._binding.account

    @property
    def token(self) -> str:
        """The address a provider pushes to. It may change when the gateway revoked the last one: see on_token."""
        return self._binding.token

    @property
    def active(self) -> bool:
        """False once unregistered, refused or replaced by another account of the app."""
        return not self._binding.is_over

    @property
    def foreground(self) -> bool:
        return self._binding.foreground

    @property
    def queued(self) -> int:
        """Items waiting for the app."""
        return len(self._queue)

    def drop(self) -> None:
        """What came and was not read is not handed out, now or later: it was for somebody else."""
        gone, self._queue = list(self._queue), deque()
        self._device.counters.discarded += sum(not isinstance(item, Recall) for item in gone)
        for item in gone[self._limit :]:
            self._confirm(item)  # those before are
        self._device._session.drop(self._binding)
        self._device._room(self)

    def set_foreground(self, foreground: bool) -> None:
        """B6: background → tips; foreground → messages, first those that came meanwhile."""
        self._device._set_foreground(self._binding, foreground)

    async def fetch(self) -> Fetched:
        """A4: have everything sent that waits for this token and for its app and version."""
        return await self._device.fetch(self)

    async def unregister(self, *, forget: bool = False) -> None:
        """Nothing is delivered here any more, at once. Without a link the gateway hears of it on the next one of this
        Device, and other channels go on until then. forget: the token is revoked for good; waits for the gateway. A
        refusal is raised; one that says to retry is retried by itself."""
        await self._device._unregister(self, forget=forget)

    async def ask(self, op: str, body: bytes = b"") -> bytes:
        """An operation of IM by its name, ask and answer packed as msgpack (docs/im.md); client.im.Im has them by
        name. Asked again where the link is lost before the answer. GatewayError, as the gateway says it."""
        self._device._check_running()
        if not self.active:
            raise ended(self)
        answer = await self._device._answer(self._device._session.ask(self._binding, op, body))
        assert isinstance(answer, bytes)
        return answer

    def on_told(self, callback: Callable[[bytes], None] | None) -> None:
        """Called with what the gateway tells and nobody keeps, packed: who is there, who types."""
        self._on_told = callback

    def __aiter__(self) -> Registration:
        return self

    async def __anext__(self) -> Item:
        if self._handlers is not None:
            raise TypeError("this registration has callbacks; register without them to iterate")
        while not self._queue or self._binding.suspended:
            if self._closed or not self.active:
                raise StopAsyncIteration
            if self._reader is not None:
                raise RuntimeError("only one task can iterate a registration")
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._pop()

    # --- for the Device ---------------------------------------------------------------------------------------------

    @property
    def _is_full(self) -> bool:
        return len(self._queue) >= self._limit

    @property
    def _is_overfull(self) -> bool:
        return len(self._queue) >= self._limit + OVERFULL

    def _put(self, item: Item) -> None:
        if isinstance(item, Recall):
            # Not yet shown: the app never sees it. It may have seen a tip, so it hears of the recall anyway.
            kept = [i for i in self._queue if i.id != item.id]
            self._queue.clear()
            self._queue.extend(kept)
            for inside in kept[: self._limit]:
                self._confirm(inside)  # those that moved up
        self._queue.append(item)
        if len(self._queue) <= self._limit:
            self._confirm(item)
        self._wake()

    def _pop(self) -> Item:
        item = self._queue.popleft()
        if self._is_full:
            self._confirm(self._queue[self._limit - 1])
        self._device._room(self)
        return item

    def _confirm(self, item: Item) -> None:
        if not isinstance(item, Recall):
            self._device._confirm(self._binding, item)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        if self._handlers is not None and self._worker is None and self._queue and not self._binding.suspended:
            self._worker = asyncio.create_task(self._drain())
            self._device._workers.add(self._worker)
            self._worker.add_done_callback(self._device._workers.discard)

    async def _drain(self) -> None:
        """Lives only while there is something to hand out: an idle registration has no task."""
        assert self._handlers is not None
        try:
            while self._queue and not self._binding.suspended:
                item = self._pop()
                handler = self._handlers.of(item)
                if handler is None:
                    continue
                try:
                    result = handler(item)
                    if inspect.isawaitable(result):
                        await result
                except (Exception, asyncio.CancelledError):
                    if _is_cancelled():
                        raise
                    # also where it awaited what somebody else cancelled
                    self._device.counters.callback_errors += 1
                    _log.exception("a callback of app %s failed", self.app)
        finally:
            self._worker = None

    def _discard(self) -> int:
        """A5: nothing more of this account is handed out."""
        gone, self._queue = self._queue, deque()
        self._wake()
        return sum(self._device._session.forget(item) for item in gone)

    def _told(self, body: bytes) -> None:
        if self._on_told is not None:
            self._device._tell(self._on_told, body)

    def _close(self) -> None:
        """The Device stopped: what is queued was confirmed, so it is still handed out."""
        self._closed = True
        self._wake()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def ended(registration: Registration) -> RegistrationEnded:
    return RegistrationEnded(f"The registration of app {registration.app} has ended.")
