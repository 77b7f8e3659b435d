"""A streamed batch of pushes (POST /v1/push/batch) at any node: read, told apart by partition, answered in order; must
never hold more of it than so many pushes that have no answer yet.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, NamedTuple

import msgspec
from starlette.responses import Response

from gateway.api.batch import KINDS, BatchAnswer
from gateway.api.call import Call
from gateway.api.media import PIECE_S, content_kind, wants_msgpack
from gateway.api.once import Push, refuse_header
from gateway.api.ports import Backend
from gateway.api.wire import BatchResult
from gateway.auth.api_keys import Provider
from gateway.delivery.batch_gathering import pack_array
from gateway.delivery.quotas import DAY_MS, is_refused
from gateway.delivery.request import PushRequest
from gateway.fleet.pushes import Answer, ManyPushes, Part
from gateway.fleet.quota_home import QuotaHome
from gateway.fleet.spool_side import SpoolSide
from gateway.model.errors import AcceptTimeout, BadRequest, GatewayError, LogUnavailable

#: messages to owners without an answer, of one batch; past it nothing more of it is read
WINDOW = 64


class _Sent(NamedTuple):
    """A push that went out in a part; its result is the part's to tell."""

    answer: asyncio.Future[Answer]
    place: int  # in its part
    #: where there is a spool that may keep it
    request: PushRequest | None


class _Refused(NamedTuple):
    """What the spool may keep yet."""

    error: GatewayError
    request: PushRequest


#: this push's line of the answer, without its number; None: the spool does not keep it
_Kept = asyncio.Task[BatchResult | None]


class FleetBatches:
    def __init__(self, backend: Backend, pushes: ManyPushes, quotas: QuotaHome, spool: SpoolSide) -> None:
        self.backend = backend
        self.pushes = pushes
        self.quotas = quotas
        self.spool = spool

    async def push(self, call: Call) -> Response:
        refuse_header(call.request.headers.get("idempotency-key"))
        kind = content_kind(call.request.headers.get("content-type"), allowed=KINDS)
        provider = call.provider
        assert provider is not None
        return FleetBatchAnswer(self, provider, kind, wants_msgpack(call.request))


class FleetBatchAnswer(BatchAnswer):
    """As one gateway's, but what is read goes to the owners."""

    def __init__(self, batches: FleetBatches, provider: Provider, kind: str, as_msgpack: bool) -> None:
        once: Any = None  # keys are settled by the owners
        super().__init__(batches.backend, once, provider, kind, as_msgpack, PIECE_S)
        self._batches = batches
        self._waiting: set[asyncio.Future[Answer]] = set()

    async def _accept(self, group: list[PushRequest | GatewayError]) -> None:
        wanted = sum(not isinstance(item, GatewayError) for item in group)
        try:
            room, refusal = await self._batches.quotas.admit(self._app, self._key_id, wanted)
        except GatewayError as error:
            room, refusal = 0, error
        results: list[GatewayError | _Sent | _Kept | _Refused | None] = []
        packed: list[bytes] = []
        asked: list[PushRequest | None] = []
        spool = self._batches.spool
        for item in group:
            raw = item if isinstance(item, GatewayError) else _pack(item)
            if not isinstance(item, GatewayError) and refusal is not None and room == 0:
                results.append(_Refused(refusal, item))
                continue
            room -= not isinstance(item, GatewayError)
            if isinstance(raw, GatewayError) or isinstance(item, GatewayError):
                if not isinstance(item, GatewayError):
                    self._give_back(1)
                results.append(raw if isinstance(raw, GatewayError) else None)
                continue
            if spool.must_keep(self._app, item):
                results.append(asyncio.create_task(spool.keep_item(0, self._app, self._key_id, item, LogUnavailable())))
                continue
            results.append(None)
            asked.append(item if spool.is_there else None)
            packed.append(raw)
        sent: list[_Sent | None] = [None] * len(packed)
        pushes = self._batches.pushes
        parts = pushes.split(self._app.name, pack_array(packed, len(packed)))
        loop = asyncio.get_running_loop()
        for part in parts:
            waiting: asyncio.Future[Answer] = loop.create_future()
            for at, place in enumerate(part.each_place()):
                sent[place] = _Sent(waiting, at, asked[place])
            self._waiting.add(waiting)
            waiting.add_done_callback(self._waiting.discard)
            pushes.send(self._app.name, [part], partial(_hear, waiting))
        due = asyncio.get_running_loop().time() + self._backend.config.accept_timeout_s
        started = iter(sent)
        self._results.extend((next(started) if result is None else result, due) for result in results)
        while len(self._waiting) >= WINDOW:
            self._changed.set()
            await asyncio.wait(self._waiting, return_when=asyncio.FIRST_COMPLETED)

    def _is_open(self, result: Any) -> bool:
        if isinstance(result, asyncio.Task):
            return not result.done()
        return isinstance(result, _Refused) or (isinstance(result, _Sent) and not result.answer.done())

    async def _line(self, index: int, result: Any, due: float) -> bytes:
        if isinstance(result, asyncio.Task):
            kept = await result
            return self._kept(index, kept) if kept is not None else await super()._line(index, LogUnavailable(), due)
        if isinstance(result, _Refused):
            return await self._refusal(index, result.error, result.request, due)
        if not isinstance(result, _Sent):
            return await super()._line(index, result, due)
        if not result.answer.done():
            await asyncio.wait((result.answer,), timeout=max(due - asyncio.get_running_loop().time(), 0))
        if not result.answer.done():
            return await super()._line(index, AcceptTimeout(), due)
        answer = result.answer.result().at(result.place)
        if not isinstance(answer, GatewayError):
            return await super()._line(index, Push(answer.seq, None, answer.replayed, answer.targeted), due)
        return await self._refusal(index, answer, result.request, due, is_counted=True)

    async def _refusal(
        self, index: int, error: GatewayError, request: PushRequest | None, due: float, *, is_counted: bool = False
    ) -> bytes:
        kept = None
        if request is not None:
            kept = await self._batches.spool.keep_item(index, self._app, self._key_id, request, error)
        if kept is not None:
            return self._kept(index, kept)
        if is_counted and is_refused(error):
            self._give_back(1)
        return await super()._line(index, error, due)

    def _give_back(self, refused: int) -> None:
        # The home gives it back to its day of today.
        if self._began_ms // DAY_MS == self._backend.now_ms() // DAY_MS:
            self._batches.quotas.refund(self._app, self._key_id, refused)

    def _kept(self, index: int, kept: BatchResult) -> bytes:
        return self._encode(msgspec.structs.replace(kept, index=index))


def _hear(waiting: asyncio.Future[Answer], _: Part, answer: Answer) -> None:
    if not waiting.done():
        waiting.set_result(answer)


def _pack(item: PushRequest) -> bytes | GatewayError:
    try:
        return msgspec.msgpack.encode(item)
    except (OverflowError, TypeError, ValueError, RecursionError):
        return BadRequest("data holds a value that can not be sent to a device", field="data")
