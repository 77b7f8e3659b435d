"""Provider streams at one gateway alone: batches of pushes in, results and receipts out, over a link of the edge; must
never hold more of a provider than its windows say.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gateway.api.media import MSGPACK, decode
from gateway.api.once import Once, Push, settle
from gateway.api.ports import Backend, Taken
from gateway.api.stream_sessions import RECEIPT_BYTES, Session, StreamSessions, describe
from gateway.api.views import view_receipt
from gateway.config.sections import Edge as EdgeConfig
from gateway.delivery.quotas import is_refused
from gateway.delivery.request import PushRequest
from gateway.metrics import Metric
from gateway.model import frames
from gateway.model.errors import BadRequest, GatewayError, InvalidField
from gateway.model.frames import parse_body
from gateway.model.ports import ProviderLinks

#: pushes of one batch that are looked at alone in one turn of the loop
SLICE = 200

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


class _Stream(Session):
    def __init__(self, app: str, key_id: str) -> None:
        super().__init__(app, key_id)
        self.cursor = 0  # of the last receipt sent
        self.unsubscribe: Callable[[], None] | None = None
        self.pumping: asyncio.Handle | None = None


def first_of(pushes: bytes | memoryview, count: int) -> bytes:
    """The first of a packed array, packed; InvalidField where it is none."""
    try:
        return bytes(_pack(_unpack(pushes)[:count]))
    except (ValueError, RecursionError) as error:
        raise InvalidField("an array of pushes is expected", field="pushes") from error


class ProviderStreams(StreamSessions[_Stream]):
    """model.ports.ProviderDoor."""

    def __init__(self, backend: Backend, once: Once, links: ProviderLinks, config: EdgeConfig) -> None:
        super().__init__(backend, links, config)
        self._once = once

    def _build_session(self, app: str, key_id: str) -> _Stream:
        return _Stream(app, key_id)

    def _end_session(self, stream: _Stream) -> None:
        if stream.unsubscribe is not None:
            stream.unsubscribe()
        if stream.pumping is not None:
            stream.pumping.cancel()

    def last_cursor(self, app: str) -> int:
        return self._backend.receipts.last_cursor(app)

    # --- pushes

    def _on_push(self, link: int, stream: _Stream, body: bytes) -> None:
        ask = self._look_at(link, stream, body)
        if ask is None:
            return
        app, pushes, count = ask.app, ask.pushes, ask.length
        counted_ms = self._backend.now_ms()
        room, refusal = self._backend.quotas.admit(app, stream.key_id, count, counted_ms)
        if refusal is not None and room == 0:
            self._backend.metrics.count(Metric.PUSHES_REFUSED, count, refusal.name)
            self._refuse(link, ask.req, refusal, count)
            return

        def give_back(refused: int) -> None:
            self._backend.quotas.refund(app, stream.key_id, refused, counted_ms)

        if refusal is not None:
            pushes = first_of(pushes, room)
        try:
            taken = self._backend.batches.accept(app, [pushes], self._config.provider_batch, self._backend.now_ms())
        except BadRequest:
            give_back(room)
            parse_body(body, frames.Push)  # MalformedFrame where it is no msgpack
            raise
        self._backend.metrics.count(Metric.PROVIDER_BATCHES)
        stream.unanswered += count

        def finish(singles: dict[int, Any]) -> None:
            stream.unanswered -= count
            if not taken.first:
                give_back(sum(isinstance(taken.result(index), GatewayError) for index in range(taken.count)))
            if self._is_open(link, stream):
                results = self._results(stream.app, count, taken, singles, refusal)
                self._answer(link, ask.req, results)

        if not taken.apart:
            taken.done.add_done_callback(lambda _: finish({}))
            return

        singles: dict[int, Any] = {}
        started: list[tuple[int, Push]] = []

        def start(indices: list[int]) -> None:
            for index in indices:
                try:
                    request = decode(taken.raw(index), PushRequest, kind=MSGPACK)
                    started.append((index, self._once.start(app, request)))
                except GatewayError as error:
                    give_back(1)
                    singles[index] = describe(error)

        start(taken.apart[:SLICE])  # now: the next batch may be there already, and is behind them

        async def one_by_one() -> None:
            for place in range(SLICE, len(taken.apart), SLICE):
                await asyncio.sleep(0)
                start(taken.apart[place : place + SLICE])
            for index, push in started:
                try:
                    await settle(push, self._backend.config.accept_timeout_s)
                    singles[index] = self._result(stream.app, push)
                except GatewayError as error:
                    if is_refused(error):
                        give_back(1)
                    singles[index] = describe(error)
            await asyncio.wait((taken.done,))
            finish(singles)

        self._follow(stream, asyncio.get_running_loop().create_task(one_by_one()))

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

    # --- receipts

    def _on_receipts(self, link: int, stream: _Stream, body: bytes) -> None:
        ask = parse_body(body, frames.Receipts)
        stream.cursor = self.last_cursor(stream.app) if ask.after is None else ask.after
        if stream.unsubscribe is None:
            stream.unsubscribe = self._backend.receipts.subscribe(lambda: self._pump_on(link, stream))
        self._begin_receipts(link, stream, ask)
        self._pump_on(link, stream)

    def _pump_on(self, link: int, stream: _Stream) -> None:
        if stream.pumping is None and self._is_open(link, stream) and stream.window:
            stream.pumping = asyncio.get_running_loop().call_soon(self._pump, link, stream)

    def _pump(self, link: int, stream: _Stream) -> None:
        stream.pumping = None
        room = self._room(stream)
        if room <= 0 or not self._may_read(link, stream):
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
                self._send_receipts(link, stream, packed, stream.cursor)
                packed, size = [], 0
        if len(found) == room:
            self._pump_on(link, stream)
