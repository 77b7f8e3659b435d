"""Provider streams at any node: batches of pushes told apart by partition, results and receipts put together; must
never hold more of a provider than its windows say.

The same frames and bounds as gateway.api.stream, which is for one gateway alone.
"""

from __future__ import annotations

import asyncio
from array import array
from typing import Any

import msgspec
import structlog

from gateway.api.ports import Backend
from gateway.api.stream_sessions import RECEIPT_BYTES, Asked, Session, StreamSessions, describe
from gateway.api.wire import ReceiptView
from gateway.config.sections import Edge as EdgeConfig
from gateway.delivery.quotas import is_refused
from gateway.fleet.feeds import Feeds, Reading
from gateway.fleet.pushes import Answer, ManyPushes, Part, Result, place_seqs
from gateway.fleet.quota_home import QuotaHome
from gateway.metrics import Metric
from gateway.model import frames
from gateway.model.errors import BadRequest, GatewayError
from gateway.model.frames import parse_body
from gateway.model.ports import ProviderLinks

_log = structlog.get_logger(__name__)
_pack = msgspec.msgpack.Encoder().encode


class _Stream(Session):
    def __init__(self, app: str, key_id: str) -> None:
        super().__init__(app, key_id)
        #: batches go to the owners in the order they came, though one may wait for its quota
        self.order = asyncio.Lock()
        #: receipts are read here; `room`: there may be some for more of them
        self.reading: asyncio.Task[None] | None = None
        self.room = asyncio.Event()


class _Answers:
    """To a batch of so many pushes, put together as the parts are told of."""

    def __init__(self, count: int) -> None:
        self.seqs = array("Q", bytes(8 * count))
        #: what is not just accepted, by place
        self.others: dict[int, Result] = {}
        #: and what was refused before
        self.told: dict[int, Any] = {}
        self.left = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hear(self, part: Part, answer: Answer) -> None:
        self.others.update(place_seqs(self.seqs, part, answer))
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)


class FleetStreams(StreamSessions[_Stream]):
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
        super().__init__(backend, links, config)
        self._pushes = pushes
        self._quotas = quotas
        self._feeds = feeds

    def _build_session(self, app: str, key_id: str) -> _Stream:
        return _Stream(app, key_id)

    def _end_session(self, stream: _Stream) -> None:
        if stream.reading is not None:
            stream.reading.cancel()

    def last_cursor(self, app: str) -> int:  # noqa: ARG002 - cursors are of the clock, for all apps
        return self._feeds.about_now()

    # --- pushes

    def _on_push(self, link: int, stream: _Stream, body: bytes) -> None:
        ask = self._look_at(link, stream, body)
        if ask is None:
            return
        try:
            parts = self._pushes.split(stream.app, ask.pushes)
        except BadRequest:
            parse_body(body, frames.Push)  # MalformedFrame where it is no msgpack
            raise
        self._backend.metrics.count(Metric.PROVIDER_BATCHES)
        stream.unanswered += ask.length
        work = self._carry(link, stream, ask, parts)
        self._follow(stream, asyncio.get_running_loop().create_task(work))

    async def _carry(self, link: int, stream: _Stream, ask: Asked, parts: list[Part]) -> None:
        count = sum(part.length for part in parts)
        answers = _Answers(count)
        told = answers.told
        try:
            async with stream.order:
                try:
                    room, refusal = await self._quotas.admit(ask.app, stream.key_id, count)
                except GatewayError as error:
                    room, refusal = 0, error
                if refusal is not None:
                    self._backend.metrics.count(Metric.PUSHES_REFUSED, count - room, refusal.name)
                    told.update(dict.fromkeys(range(room, count), describe(refusal)))
                    parts = self._pushes.split(stream.app, ask.pushes, room)
                answers.left = len(parts)
                self._pushes.send(stream.app, parts, answers.hear)
            if parts:
                await answers.done
            refused = sum(isinstance(result, GatewayError) and is_refused(result) for result in answers.others.values())
            self._quotas.refund(ask.app, stream.key_id, refused)
        finally:
            stream.unanswered -= count
        if self._is_open(link, stream):
            for place, result in answers.others.items():
                told[place] = self._told(stream.app, result)
            self._answer(link, ask.req, self._backend.push_ids.pack_results(stream.app, answers.seqs, told))

    def _told(self, app: str, result: Result) -> Any:
        if isinstance(result, GatewayError):
            return describe(result)
        return {"id": self._backend.push_ids.build(app, result.seq), "targeted": result.targeted}

    # --- receipts

    def _on_receipts(self, link: int, stream: _Stream, body: bytes) -> None:
        ask = parse_body(body, frames.Receipts)
        if stream.reading is not None:
            stream.reading.cancel()
        self._begin_receipts(link, stream, ask)
        stream.room.set()
        reading = self._feeds.read(stream.app, self._feeds.about_now() if ask.after is None else ask.after)
        stream.reading = asyncio.get_running_loop().create_task(self._pump(link, stream, reading))
        self._follow(stream, stream.reading)

    def _pump_on(self, link: int, stream: _Stream) -> None:  # noqa: ARG002
        stream.room.set()

    async def _pump(self, link: int, stream: _Stream, reading: Reading) -> None:
        try:
            while self._is_open(link, stream):
                room = self._room(stream)
                if room <= 0:
                    stream.room.clear()
                    await stream.room.wait()
                    continue
                found = await reading.next(room)
                if not self._may_read(link, stream):
                    return
                for rows in _pieces(found):
                    self._send_receipts(link, stream, [raw for _, raw in rows], rows[-1][0].cursor)
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            # said to the provider by a close: it comes back with its cursor
            _log.error("receipts of a stream failed", kind=type(exc).__name__)
            self._links.refuse(link, GatewayError())


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
