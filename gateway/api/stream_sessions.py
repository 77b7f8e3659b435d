"""Sessions of provider streams, whatever takes their pushes: login, frames, windows, answers, end; must never hold more
of a provider than its windows say.

A session is made at login and dropped with its link; what it has not heard by then it does not know (docs/frames.md
says what a provider does about that).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from gateway.api.ports import Backend
from gateway.config.sections import Edge as EdgeConfig
from gateway.metrics import Metric
from gateway.model import frames
from gateway.model.errors import Draining, GatewayError, InvalidField, QueueFull, Unauthorized, UnknownFrame
from gateway.model.frames import FrameType, build_frame, parse_body, parse_push
from gateway.model.ports import ProviderLinks
from gateway.model.registration import App

#: receipts read in one turn for one stream, and bytes of one RECEIPT about
RECEIPTS_A_TURN = 500
RECEIPT_BYTES = 65_536

_pack = msgspec.msgpack.Encoder().encode


class Session:
    """One provider's link."""

    def __init__(self, app: str, key_id: str) -> None:
        self.app = app
        self.key_id = key_id
        self.unanswered = 0
        self.tasks: set[asyncio.Task[None]] = set()
        #: receipts: how many may be on the way; (last cursor, count) of each frame unconfirmed
        self.window = 0
        self.unconfirmed = 0
        self.on_the_way: deque[tuple[int, int]] = deque()


class Asked(NamedTuple):
    """A batch that may be taken in."""

    req: int
    app: App
    pushes: bytes | memoryview  # packed array
    length: int  # as the array says; whether it is one was not looked at


def count_of(pushes: bytes | memoryview) -> int:
    """Length a packed array says it has; InvalidField where it is none."""
    tag = pushes[0] if pushes else 0
    if tag & 0xF0 == 0x90:
        return tag & 0x0F
    if tag in (0xDC, 0xDD):
        return int.from_bytes(pushes[1 : 3 if tag == 0xDC else 5], "big")
    raise InvalidField("an array of pushes is expected", field="pushes")


def describe(error: GatewayError) -> dict[str, Any]:
    """An error as the result of one push."""
    result: dict[str, Any] = {"code": error.code, "name": error.name, "message": error.message}
    if error.field:
        result["field"] = error.field
    if error.retryable:
        result |= {"retry": True, "after_ms": error.after_ms}
    return result


S = TypeVar("S", bound=Session)


class StreamSessions(ABC, Generic[S]):
    """model.ports.ProviderDoor, but for `last_cursor`."""

    def __init__(self, backend: Backend, links: ProviderLinks, config: EdgeConfig) -> None:
        self._backend = backend
        self._links = links
        self._config = config
        self._streams: dict[int, S] = {}
        self._handlers: dict[int, Callable[[int, S, bytes], None]] = {
            FrameType.PUSH: self._on_push,
            FrameType.RECEIPTS: self._on_receipts,
            FrameType.RECEIVED: self._on_received,
        }

    @abstractmethod
    def _build_session(self, app: str, key_id: str) -> S: ...

    @abstractmethod
    def _end_session(self, stream: S) -> None:
        """Its link is gone: nothing is read for it any more."""

    @abstractmethod
    def _on_push(self, link: int, stream: S, body: bytes) -> None: ...

    @abstractmethod
    def _on_receipts(self, link: int, stream: S, body: bytes) -> None: ...

    @abstractmethod
    def _pump_on(self, link: int, stream: S) -> None:
        """There may be room for receipts again."""

    # --- life

    def login(self, link: int, key: str) -> str:
        provider = self._backend.keys.provider(f"Bearer {key}" if key else None)
        self._streams[link] = self._build_session(provider.app.name, provider.key_id)
        self._show()
        return provider.app.name

    def on_down(self, link: int) -> None:
        stream = self._streams.pop(link, None)
        if stream is not None:
            self._show()
            self._end_session(stream)

    def on_frame(self, link: int, kind: int, body: bytes) -> None:
        stream = self._streams.get(link)
        if stream is None:
            return  # it was refused a moment ago
        handler = self._handlers.get(kind)
        if handler is None:
            raise UnknownFrame(f"frame type {kind:#04x} is nothing a provider sends in this version of the protocol")
        handler(link, stream, body)

    async def close(self) -> None:
        """Nothing is answered any more."""
        tasks = [task for stream in self._streams.values() for task in stream.tasks]
        for link in list(self._streams):
            self.on_down(link)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _show(self) -> None:
        self._backend.metrics.set(Metric.PROVIDER_STREAMS, len(self._streams))

    def _is_open(self, link: int, stream: S) -> bool:
        return self._streams.get(link) is stream

    # --- pushes

    def _look_at(self, link: int, stream: S, body: bytes) -> Asked | None:
        """A PUSH that may be taken in; None: it was answered. Unauthorized, InvalidField."""
        req, pushes = parse_push(body)
        count = count_of(pushes)
        if count > len(pushes):  # each has a byte at least: it is cut, or claims answers that it did not pay for
            parse_body(body, frames.Push)
            raise InvalidField("the array has fewer pushes than it says", field="pushes")
        app = self._backend.app_of_key(stream.app, stream.key_id)
        if count > self._config.provider_batch:
            raise InvalidField(f"at most {self._config.provider_batch} pushes in a batch", field="pushes")
        if self._backend.stopping.is_set:
            self._refuse(link, req, Draining(), count)
            return None
        if stream.unanswered + count > self._config.provider_window:
            self._backend.metrics.count(Metric.PUSHES_REFUSED, count, QueueFull.name)
            full = QueueFull(f"more than {self._config.provider_window} pushes without a result; nothing was accepted")
            self._refuse(link, req, full, count)
            return None
        return Asked(req, app, pushes, count)

    def _refuse(self, link: int, req: int, error: GatewayError, count: int) -> None:
        self._answer(link, req, _pack([describe(error)] * count))

    def _answer(self, link: int, req: int, results: bytes) -> None:
        """`results`: packed."""
        pushed = frames.Pushed(req=req, results=msgspec.Raw(results))
        self._links.send(link, build_frame(FrameType.PUSHED, pushed))

    def _follow(self, stream: S, task: asyncio.Task[None]) -> None:
        """It ends with the streams."""
        stream.tasks.add(task)
        task.add_done_callback(stream.tasks.discard)

    # --- receipts

    def _begin_receipts(self, link: int, stream: S, ask: frames.Receipts) -> None:
        most = self._config.provider_receipts_window
        stream.window = min(ask.window or most, most)
        stream.unconfirmed = 0
        stream.on_the_way.clear()
        self._links.send(link, build_frame(FrameType.DONE, frames.Done(req=ask.req)))

    def _on_received(self, link: int, stream: S, body: bytes) -> None:
        cursor = parse_body(body, frames.Received).cursor
        while stream.on_the_way and stream.on_the_way[0][0] <= cursor:
            stream.unconfirmed -= stream.on_the_way.popleft()[1]
        self._pump_on(link, stream)

    def _may_read(self, link: int, stream: S) -> bool:
        """Its link is closed where its key was deleted meanwhile."""
        try:
            self._backend.app_of_key(stream.app, stream.key_id)
        except Unauthorized as error:
            self._links.refuse(link, error)
            return False
        return True

    def _room(self, stream: S) -> int:
        """For so many receipts in this turn."""
        return min(stream.window - stream.unconfirmed, RECEIPTS_A_TURN)

    def _send_receipts(self, link: int, stream: S, packed: list[bytes], cursor: int) -> None:
        head = bytes((0xDD,)) + len(packed).to_bytes(4, "big")
        receipt = frames.Receipt(receipts=msgspec.Raw(head + b"".join(packed)), cursor=cursor)
        stream.on_the_way.append((cursor, len(packed)))
        stream.unconfirmed += len(packed)
        self._links.send(link, build_frame(FrameType.RECEIPT, receipt))
