"""Provider streams: batches of pushes in, results and receipts out, over a link of the edge; must never hold more of a
provider than its windows say.

A session is made at login and dropped with its link; what it has not heard by then it does not know (docs/frames.md
says what a provider does about that).
"""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from gateway.api.media import MSGPACK, decode
from gateway.api.once import Once, Push, settle
from gateway.api.ports import Backend, Taken
from gateway.api.views import view_receipt
from gateway.config.sections import Edge as EdgeConfig
from gateway.delivery.request import PushRequest
from gateway.metrics import Metric
from gateway.model import frames
from gateway.model.errors import Draining, GatewayError, InvalidField, QueueFull, Unauthorized, UnknownFrame
from gateway.model.frames import FrameType, build_frame, parse_body
from gateway.model.ports import ProviderLinks

_log = structlog.get_logger(__name__)

#: pushes of one batch that are looked at alone in one turn of the loop
SLICE = 200
#: receipts read in one turn for one stream, and bytes of one RECEIPT about
RECEIPTS_A_TURN = 500
RECEIPT_BYTES = 65_536

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


class _Stream:
    """One provider's link."""

    def __init__(self, app: str, key_id: str) -> None:
        self.app = app
        self.key_id = key_id
        self.unanswered = 0
        self.tasks: set[asyncio.Task[None]] = set()
        #: receipts: last cursor sent; how many may be on the way; (last cursor, count) of each frame unconfirmed
        self.cursor = 0
        self.window = 0
        self.unconfirmed = 0
        self.on_the_way: deque[tuple[int, int]] = deque()
        self.unsubscribe: Callable[[], None] | None = None
        self.pumping: asyncio.Handle | None = None


def count_of(pushes: bytes) -> int:
    """Length a packed array says it has; InvalidField where it is none."""
    tag = pushes[0] if pushes else 0
    if tag & 0xF0 == 0x90:
        return tag & 0x0F
    if tag in (0xDC, 0xDD):
        return int.from_bytes(pushes[1 : 3 if tag == 0xDC else 5], "big")
    raise InvalidField("an array of pushes is expected", field="pushes")


def first_of(pushes: bytes, count: int) -> bytes:
    """The first of a packed array, packed; InvalidField where it is none."""
    try:
        return bytes(_pack(_unpack(pushes)[:count]))
    except msgspec.DecodeError as error:
        raise InvalidField("an array of pushes is expected", field="pushes") from error


def describe(error: GatewayError) -> dict[str, Any]:
    """An error as the result of one push."""
    result: dict[str, Any] = {"code": error.code, "name": error.name, "message": error.message}
    if error.field:
        result["field"] = error.field
    if error.retryable:
        result |= {"retry": True, "after_ms": error.after_ms}
    return result


class ProviderStreams:
    """model.ports.ProviderDoor."""

    def __init__(self, backend: Backend, once: Once, links: ProviderLinks, config: EdgeConfig) -> None:
        self._backend = backend
        self._once = once
        self._links = links
        self._config = config
        self._streams: dict[int, _Stream] = {}
        self._handlers: dict[int, Callable[[int, _Stream, bytes], None]] = {
            FrameType.PUSH: self._on_push,
            FrameType.RECEIPTS: self._on_receipts,
            FrameType.RECEIVED: self._on_received,
        }

    # --- life

    def login(self, link: int, key: str) -> str:
        provider = self._backend.keys.provider(f"Bearer {key}" if key else None)
        self._streams[link] = _Stream(provider.app.name, provider.key_id)
        self._backend.metrics.set(Metric.PROVIDER_STREAMS, len(self._streams))
        return provider.app.name

    def last_cursor(self, app: str) -> int:  # noqa: ARG002 - one row of cursors serves all apps
        return self._backend.receipts.last_cursor()

    def on_down(self, link: int) -> None:
        stream = self._streams.pop(link, None)
        if stream is None:
            return
        self._backend.metrics.set(Metric.PROVIDER_STREAMS, len(self._streams))
        if stream.unsubscribe is not None:
            stream.unsubscribe()
        if stream.pumping is not None:
            stream.pumping.cancel()

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

    # --- pushes

    def _on_push(self, link: int, stream: _Stream, body: bytes) -> None:
        ask = parse_body(body, frames.Push)
        pushes = bytes(ask.pushes)
        count = count_of(pushes)
        app = self._backend.directory.app(stream.app)
        if app is None or all(key.id != stream.key_id for key in app.keys):
            raise Unauthorized("The API key is no longer valid.")
        if count > self._config.provider_batch:
            raise InvalidField(f"at most {self._config.provider_batch} pushes in a batch", field="pushes")
        if self._backend.stopping.is_set:
            self._answer(link, ask.req, [describe(Draining())] * count)
            return
        if stream.unanswered + count > self._config.provider_window:
            self._backend.metrics.count(Metric.PUSHES_REFUSED, count, QueueFull.name)
            full = QueueFull(f"more than {self._config.provider_window} pushes without a result; nothing was accepted")
            self._answer(link, ask.req, [describe(full)] * count)
            return
        room, refusal = self._backend.quotas.admit(app, stream.key_id, count, self._backend.now_ms())
        if refusal is not None and room == 0:
            self._backend.metrics.count(Metric.PUSHES_REFUSED, count, refusal.name)
            self._answer(link, ask.req, [describe(refusal)] * count)
            return
        if refusal is not None:
            pushes = first_of(pushes, room)
        taken = self._backend.batches.accept(app, pushes, self._config.provider_batch, self._backend.now_ms())
        self._backend.metrics.count(Metric.PROVIDER_BATCHES)
        stream.unanswered += count

        def finish(singles: dict[int, Any]) -> None:
            stream.unanswered -= count
            if self._streams.get(link) is stream:
                results = self._results(stream.app, count, taken, singles, refusal)
                self._answer_packed(link, ask.req, results)

        if not taken.apart:
            taken.done.add_done_callback(lambda _: finish({}))
            return

        async def one_by_one() -> None:
            singles: dict[int, Any] = {}
            started: list[tuple[int, Push]] = []
            for place, index in enumerate(taken.apart, 1):
                try:
                    request = decode(taken.raw(index), PushRequest, kind=MSGPACK)
                    started.append((index, self._once.start(app, request)))
                except GatewayError as error:
                    singles[index] = describe(error)
                if not place % SLICE:
                    await asyncio.sleep(0)
            for index, push in started:
                try:
                    await settle(push, self._backend.config.accept_timeout_s)
                    singles[index] = self._result(stream.app, push)
                except GatewayError as error:
                    singles[index] = describe(error)
            await asyncio.wait((taken.done,))
            finish(singles)

        task = asyncio.get_running_loop().create_task(one_by_one())
        stream.tasks.add(task)
        task.add_done_callback(stream.tasks.discard)

    def _result(self, app: str, push: Push) -> Any:
        push_id = self._backend.push_ids.build(app, push.seq)
        return push_id if push.targeted == 1 else {"id": push_id, "targeted": push.targeted}

    def _results(
        self, app: str, count: int, taken: Taken, singles: Mapping[int, Any], refusal: GatewayError | None
    ) -> bytes:
        """Packed. Those behind what was taken have the refusal."""
        seqs = array("Q", bytes(8 * count))
        told = dict(singles)
        room = taken.count
        if taken.first:
            seqs[:room] = array("Q", range(taken.first, taken.first + room))
        else:
            for index in range(room):
                result = taken.result(index)
                if isinstance(result, int):
                    seqs[index] = result
                elif result is not None:
                    told[index] = describe(result)
        if refusal is not None:
            told.update(dict.fromkeys(range(room, count), describe(refusal)))
        return self._backend.push_ids.pack_results(app, seqs, told)

    def _answer(self, link: int, req: int, results: list[Any]) -> None:
        self._answer_packed(link, req, _pack(results))

    def _answer_packed(self, link: int, req: int, results: bytes) -> None:
        pushed = frames.Pushed(req=req, results=msgspec.Raw(results))
        self._links.send(link, build_frame(FrameType.PUSHED, pushed))

    # --- receipts

    def _on_receipts(self, link: int, stream: _Stream, body: bytes) -> None:
        ask = parse_body(body, frames.Receipts)
        most = self._config.provider_receipts_window
        stream.cursor = self._backend.receipts.last_cursor() if ask.after is None else ask.after
        stream.window = min(ask.window or most, most)
        stream.unconfirmed = 0
        stream.on_the_way.clear()
        if stream.unsubscribe is None:
            stream.unsubscribe = self._backend.receipts.subscribe(lambda: self._pump_soon(link, stream))
        self._links.send(link, build_frame(FrameType.DONE, frames.Done(req=ask.req)))
        self._pump_soon(link, stream)

    def _on_received(self, link: int, stream: _Stream, body: bytes) -> None:
        cursor = parse_body(body, frames.Received).cursor
        while stream.on_the_way and stream.on_the_way[0][0] <= cursor:
            stream.unconfirmed -= stream.on_the_way.popleft()[1]
        self._pump_soon(link, stream)

    def _pump_soon(self, link: int, stream: _Stream) -> None:
        if stream.pumping is None and self._streams.get(link) is stream and stream.window:
            stream.pumping = asyncio.get_running_loop().call_soon(self._pump, link, stream)

    def _pump(self, link: int, stream: _Stream) -> None:
        stream.pumping = None
        room = min(stream.window - stream.unconfirmed, RECEIPTS_A_TURN)
        if room <= 0:
            return  # RECEIVED pumps on
        found = self._backend.receipts.after(stream.app, stream.cursor, room)
        packed: list[bytes] = []
        size = 0
        for receipt in found:
            view = _pack(view_receipt(stream.app, receipt, self._backend.push_ids, self._backend.directory))
            packed.append(view)
            size += len(view)
            stream.cursor = receipt.cursor
            if size >= RECEIPT_BYTES or receipt is found[-1]:
                self._send_receipts(link, stream, packed)
                packed, size = [], 0
        if len(found) == room:
            self._pump_soon(link, stream)

    def _send_receipts(self, link: int, stream: _Stream, packed: list[bytes]) -> None:
        head = bytes((0xDD,)) + len(packed).to_bytes(4, "big")
        receipt = frames.Receipt(receipts=msgspec.Raw(head + b"".join(packed)), cursor=stream.cursor)
        stream.on_the_way.append((stream.cursor, len(packed)))
        stream.unconfirmed += len(packed)
        self._links.send(link, build_frame(FrameType.RECEIPT, receipt))
