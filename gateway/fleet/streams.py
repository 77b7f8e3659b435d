"""Provider streams at any node: batches of pushes told apart by partition, results and receipts put together; must
never hold more of a provider than its windows say.

The same frames and bounds as gateway.api.stream, which is for one gateway alone.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from gateway.api.ports import Backend
from gateway.api.stream import RECEIPT_BYTES, RECEIPTS_A_TURN, count_of, describe
from gateway.api.wire import ReceiptView
from gateway.config.sections import Edge as EdgeConfig
from gateway.fleet.feeds import Feeds, Reading
from gateway.fleet.pushes import ManyPushes, Part, Result, place_seqs
from gateway.fleet.quota_home import QuotaHome
from gateway.metrics import Metric
from gateway.model import frames
from gateway.model.errors import Draining, GatewayError, InvalidField, QueueFull, Unauthorized, UnknownFrame
from gateway.model.frames import FrameType, build_frame, parse_body
from gateway.model.ports import ProviderLinks
from gateway.model.registration import App

_log = structlog.get_logger(__name__)
_pack = msgspec.msgpack.Encoder().encode


class _Stream:
    """One provider's link."""

    def __init__(self, app: str, key_id: str) -> None:
        self.app = app
        self.key_id = key_id
        self.unanswered = 0
        self.tasks: set[asyncio.Task[None]] = set()
        #: batches go to the owners in the order they came, though one may wait for its quota
        self.order = asyncio.Lock()
        #: receipts: where it reads; how many may be on the way; (last cursor, count) of each frame unconfirmed
        self.reading: asyncio.Task[None] | None = None
        self.window = 0
        self.unconfirmed = 0
        self.on_the_way: deque[tuple[int, int]] = deque()
        self.room = asyncio.Event()


class FleetStreams:
    """model.ports.ProviderDoor."""

    def __init__(
        self,
        backend: Backend,
        pushes: ManyPushes,
        quotas: QuotaHome,
        feeds: Feeds,
        links: ProviderLinks,
        config: EdgeConfig,
    ) -> None:
        self._backend = backend
        self._pushes = pushes
        self._quotas = quotas
        self._feeds = feeds
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
        self._show()
        return provider.app.name

    def last_cursor(self, app: str) -> int:  # noqa: ARG002 - cursors are of the clock, for all apps
        return self._feeds.about_now()

    def on_down(self, link: int) -> None:
        stream = self._streams.pop(link, None)
        if stream is None:
            return
        self._show()
        if stream.reading is not None:
            stream.reading.cancel()

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
        tasks += [stream.reading for stream in self._streams.values() if stream.reading is not None]
        for link in list(self._streams):
            self.on_down(link)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _show(self) -> None:
        self._backend.metrics.set(Metric.PROVIDER_STREAMS, len(self._streams))

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
        parts = self._pushes.split(stream.app, pushes)
        if self._backend.stopping.is_set:
            self._answer(link, ask.req, [describe(Draining())] * count)
            return
        if stream.unanswered + count > self._config.provider_window:
            self._backend.metrics.count(Metric.PUSHES_REFUSED, count, QueueFull.name)
            full = QueueFull(f"more than {self._config.provider_window} pushes without a result; nothing was accepted")
            self._answer(link, ask.req, [describe(full)] * count)
            return
        self._backend.metrics.count(Metric.PROVIDER_BATCHES)
        stream.unanswered += count
        work = self._carry(link, stream, app, ask.req, pushes, parts)
        task = asyncio.get_running_loop().create_task(work)
        stream.tasks.add(task)
        task.add_done_callback(stream.tasks.discard)

    async def _carry(self, link: int, stream: _Stream, app: App, req: int, pushes: bytes, parts: list[Part]) -> None:
        count = sum(part.length for part in parts)
        told: dict[int, Any] = {}
        seqs = array("Q", bytes(8 * count))
        try:
            async with stream.order:
                try:
                    room, refusal = await self._quotas.admit(app, stream.key_id, count)
                except GatewayError as error:
                    room, refusal = 0, error
                if refusal is not None:
                    self._backend.metrics.count(Metric.PUSHES_REFUSED, count - room, refusal.name)
                    told.update(dict.fromkeys(range(room, count), describe(refusal)))
                    parts = self._pushes.split(stream.app, pushes, room)
                sent = self._pushes.send(stream.app, parts)
            for part, answer in sent:
                for place, result in place_seqs(seqs, part, await answer).items():
                    told[place] = self._told(stream.app, result)
        finally:
            stream.unanswered -= count
        if self._streams.get(link) is stream:
            self._answer_packed(link, req, self._backend.push_ids.pack_results(stream.app, seqs, told))

    def _told(self, app: str, result: Result) -> Any:
        if isinstance(result, GatewayError):
            return describe(result)
        return {"id": self._backend.push_ids.build(app, result.seq), "targeted": result.targeted}

    def _answer(self, link: int, req: int, results: list[Any]) -> None:
        self._answer_packed(link, req, _pack(results))

    def _answer_packed(self, link: int, req: int, results: bytes) -> None:
        pushed = frames.Pushed(req=req, results=msgspec.Raw(results))
        self._links.send(link, build_frame(FrameType.PUSHED, pushed))

    # --- receipts

    def _on_receipts(self, link: int, stream: _Stream, body: bytes) -> None:
        ask = parse_body(body, frames.Receipts)
        most = self._config.provider_receipts_window
        stream.window = min(ask.window or most, most)
        stream.unconfirmed = 0
        stream.on_the_way.clear()
        stream.room.set()
        if stream.reading is not None:
            stream.reading.cancel()
        self._links.send(link, build_frame(FrameType.DONE, frames.Done(req=ask.req)))
        reading = self._feeds.read(stream.app, self._feeds.about_now() if ask.after is None else ask.after)
        stream.reading = asyncio.get_running_loop().create_task(self._pump(link, stream, reading))

    def _on_received(self, link: int, stream: _Stream, body: bytes) -> None:  # noqa: ARG002
        cursor = parse_body(body, frames.Received).cursor
        while stream.on_the_way and stream.on_the_way[0][0] <= cursor:
            stream.unconfirmed -= stream.on_the_way.popleft()[1]
        stream.room.set()

    async def _pump(self, link: int, stream: _Stream, reading: Reading) -> None:
        try:
            while self._streams.get(link) is stream:
                room = min(stream.window - stream.unconfirmed, RECEIPTS_A_TURN)
                if room <= 0:
                    stream.room.clear()
                    await stream.room.wait()
                    continue
                for rows in _pieces(await reading.next(room)):
                    self._send_receipts(link, stream, rows)
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            # said to the provider by a close: it comes back with its cursor
            _log.error("receipts of a stream failed", kind=type(exc).__name__)
            self._links.refuse(link, GatewayError())

    def _send_receipts(self, link: int, stream: _Stream, rows: list[tuple[ReceiptView, bytes]]) -> None:
        head = bytes((0xDD,)) + len(rows).to_bytes(4, "big")
        cursor = rows[-1][0].cursor
        receipt = frames.Receipt(receipts=msgspec.Raw(head + b"".join(raw for _, raw in rows)), cursor=cursor)
        stream.on_the_way.append((cursor, len(rows)))
        stream.unconfirmed += len(rows)
        self._links.send(link, build_frame(FrameType.RECEIPT, receipt))


def _pieces(rows: list[ReceiptView]) -> list[list[tuple[ReceiptView, bytes]]]:
    """Of a size that a frame takes; those with one cursor stay together."""
    pieces: list[list[tuple[ReceiptView, bytes]]] = []
    size = RECEIPT_BYTES
    for row in rows:
        raw = _pack(row)
        if size >= RECEIPT_BYTES and not (pieces and pieces[-1][-1][0].cursor == row.cursor):
            pieces.append([])
            size = 0
        pieces[-1].append((row, raw))
        size += len(raw)
    return pieces
