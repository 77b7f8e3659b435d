"""Many pushes in one request, streamed both ways: items are read, accepted and answered while more are on their way.

Must never hold the whole batch: what is kept of an item that was read is its number and its future. Answers are queued
(at most one an item, so at most max_batch) while the peer still sends, so a peer that reads only after it has sent
everything is no deadlock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api.call import Call
from gateway.api.media import (
    JSON,
    MSGPACK,
    NDJSON,
    PIECE_S,
    build_error,
    content_kind,
    decode,
    describe,
    encode,
    wants_msgpack,
)
from gateway.api.once import Once, Push, as_push, refuse_header, settle
from gateway.api.pieces import Piece, build_cutter
from gateway.api.ports import Backend, Taken
from gateway.api.wire import BatchResult
from gateway.auth.api_keys import Provider
from gateway.delivery.quotas import is_refused
from gateway.delivery.request import PushRequest
from gateway.model.errors import AcceptTimeout, GatewayError, PayloadTooLarge, RequestTimeout

log = structlog.get_logger("gateway.api")

KINDS = frozenset({JSON, MSGPACK, NDJSON})
#: items accepted in one turn of the loop
GROUP = 500
#: answers written in one piece at most
WRITE_BYTES = 65_536


class _Batched(NamedTuple):
    """A push that was taken in together with others; its result is theirs to tell."""

    taken: Taken
    place: int


Result = Push | GatewayError | _Batched


class BatchRoutes:
    def __init__(self, backend: Backend, once: Once, *, piece_s: float = PIECE_S) -> None:
        self._backend = backend
        self._once = once
        self._piece_s = piece_s

    async def push(self, call: Call) -> Response:
        refuse_header(call.request.headers.get("idempotency-key"))
        kind = content_kind(call.request.headers.get("content-type"), allowed=KINDS)
        provider = call.provider
        assert provider is not None
        return BatchAnswer(self._backend, self._once, provider, kind, wants_msgpack(call.request), self._piece_s)


class BatchAnswer(Response):
    """Reads the batch itself, for it answers while it reads."""

    def __init__(
        self,
        backend: Backend,
        once: Once,
        provider: Provider,
        kind: str,
        as_msgpack: bool,
        piece_s: float = PIECE_S,
    ) -> None:
        super().__init__(media_type=MSGPACK if as_msgpack else NDJSON, headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._backend = backend
        self._once = once
        self._app = provider.app
        self._key_id = provider.key_id
        self._began_ms = backend.now_ms()  # what was counted on a day is given back to no later one
        self._kind = MSGPACK if kind == MSGPACK else JSON  # of one item
        self._cutter = build_cutter(kind, backend.config.max_body_bytes)
        self._packed = as_msgpack
        self._piece_s = piece_s
        self._taken = 0
        self._results: deque[tuple[Any, float]] = deque()  # Results, with the moment its answer is due
        self._changed = asyncio.Event()
        self._read = False  # the request is read to its end, or given up
        self._fatal: GatewayError | None = None  # why it was given up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        reader = asyncio.create_task(self._take_all(request))
        try:
            await self._answer_all(request, scope, receive, send)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    # --- reading ---

    async def _take_all(self, request: Request) -> None:
        try:
            stream = request.stream()
            while True:
                try:
                    async with asyncio.timeout(self._piece_s):
                        data = await anext(stream, None)
                except TimeoutError:
                    raise RequestTimeout("The next piece of the batch came too slowly.") from None
                if data is None:
                    break
                await self._take(self._cutter.feed(data))
            await self._take(self._cutter.end())
        except GatewayError as exc:
            self._fatal = exc
        except ClientDisconnect:
            pass  # what was read is accepted; nobody is there to be told
        except Exception as exc:
            # Said in the answer: a batch that ended early without a word would look done.
            log.error("batch failed", kind=type(exc).__name__)
            self._fatal = GatewayError()
        finally:
            self._read = True
            self._changed.set()

    async def _take(self, pieces: Sequence[Piece]) -> None:
        for at in range(0, len(pieces), GROUP):
            group = pieces[at : at + GROUP]
            self._app = self._backend.app_of_key(self._app.name, self._key_id)
            room = self._backend.config.max_batch - self._taken
            self._taken += min(len(group), room)
            await self._accept([self._parse(piece) for piece in group[:room]])
            self._changed.set()
            if room < len(group):
                raise PayloadTooLarge(f"A batch has at most {self._backend.config.max_batch} items.")
            await asyncio.sleep(0)  # others want the loop too

    def _parse(self, piece: Piece) -> PushRequest | GatewayError:
        if isinstance(piece, GatewayError):
            return piece
        try:
            return decode(piece, PushRequest, kind=self._kind)
        except GatewayError as exc:
            return exc

    async def _accept(self, group: list[PushRequest | GatewayError]) -> None:
        """Into the journal together, results in the order of the batch."""
        backend = self._backend
        asked = [item for item in group if not isinstance(item, GatewayError)]
        told: list[Result] = []
        while len(told) < len(asked):
            left = asked[len(told) :]
            room, refusal = backend.quotas.admit(self._app, self._key_id, len(left), backend.now_ms())
            started = self._begin(left[:room])
            told += started
            refused = sum(isinstance(result, GatewayError) for result in started)
            self._give_back(refused)
            if refusal is not None and not refused:
                told += [refusal] * (len(left) - room)
        results = iter(told)
        due = asyncio.get_running_loop().time() + backend.config.accept_timeout_s
        self._results.extend((item if isinstance(item, GatewayError) else next(results), due) for item in group)

    def _give_back(self, refused: int) -> None:
        """So many of those that were counted were not accepted after all."""
        if refused:
            self._backend.quotas.refund(self._app, self._key_id, refused, self._began_ms)

    def _begin(self, items: list[PushRequest]) -> list[Result]:
        results: list[Result | None] = []
        plain: list[PushRequest] = []
        for item in items:
            if item.idempotency_key:
                try:
                    results.append(self._once.start(self._app, item))
                except GatewayError as exc:
                    results.append(exc)
            else:
                plain.append(item)
                results.append(None)
        started = iter(self._start(plain, self._backend.now_ms()) if plain else ())
        return [next(started) if result is None else result for result in results]

    def _start(self, plain: list[PushRequest], now_ms: int) -> list[Result]:
        try:
            packed = msgspec.msgpack.encode(plain)
        except (OverflowError, TypeError, ValueError, RecursionError):
            return self._start_singly(plain, now_ms)  # one of them can not be sent to a device: each says for itself
        taken = self._backend.batches.accept(self._app, [packed], len(plain), now_ms)
        results: list[Result] = [_Batched(taken, index) for index in range(len(plain))]
        if not taken.first:  # some of them were refused at once
            known = map(taken.result, range(len(plain)))
            results = [was if isinstance(was, GatewayError) else r for r, was in zip(results, known, strict=True)]
        singles = self._start_singly([plain[index] for index in taken.apart], now_ms) if taken.apart else []
        for index, single in zip(taken.apart, singles, strict=True):
            results[index] = single
        return results

    def _start_singly(self, plain: list[PushRequest], now_ms: int) -> list[Result]:
        accepted = self._backend.acceptor.push_many(self._app, plain, now_ms)
        return [result if isinstance(result, GatewayError) else as_push(result) for result in accepted]

    # --- answering ---

    async def _answer_all(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        index = 0
        started = False
        while True:
            while not self._results and not self._read:
                self._changed.clear()
                await self._changed.wait()
            if not self._results:
                break
            out = bytearray()
            while self._results and len(out) < WRITE_BYTES:
                result, due = self._results[0]
                if out and self._is_open(result):
                    break  # what is known already need not wait for this one
                out += await self._line(index, result, due)
                self._results.popleft()
                index += 1
            if not started:
                started = True
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": bytes(out), "more_body": True})
        if self._fatal is not None and not started:
            await build_error(request, self._fatal)(scope, receive, send)
            return
        if not started:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        tail = b"" if self._fatal is None else self._encode(self._refused(index, self._fatal))
        await send({"type": "http.response.body", "body": tail, "more_body": False})

    def _is_open(self, result: Any) -> bool:
        """Its answer is not known yet."""
        if isinstance(result, _Batched):
            return not result.taken.done.done()
        return isinstance(result, Push) and result.future is not None and not result.future.done()

    async def _line(self, index: int, result: Any, due: float) -> bytes:
        is_counted = not isinstance(result, GatewayError)
        if isinstance(result, _Batched):
            result = await self._settled(result, due)
        if isinstance(result, Push):
            try:
                await settle(result, due - asyncio.get_running_loop().time())
            except GatewayError as exc:
                result = exc
        if isinstance(result, GatewayError):
            if is_counted and is_refused(result):
                self._give_back(1)
            return self._encode(self._refused(index, result))
        status = 200 if result.replayed else 201
        push_id = self._backend.push_ids.build(self._app.name, result.seq)
        return self._encode(BatchResult(index=index, status=status, id=push_id, targeted=result.targeted))

    async def _settled(self, batched: _Batched, due: float) -> Push | GatewayError:
        done = batched.taken.done
        if not done.done():
            await asyncio.wait((done,), timeout=max(due - asyncio.get_running_loop().time(), 0))
        result = batched.taken.result(batched.place)
        if isinstance(result, GatewayError):
            return result
        if not done.done():
            return AcceptTimeout()
        assert result is not None, "what is looked at alone has a result of its own"
        return Push(result, None, targeted=1)

    def _refused(self, index: int, error: GatewayError) -> BatchResult:
        return BatchResult(index=index, status=error.status, error=describe(error))

    def _encode(self, result: BatchResult) -> bytes:
        body = encode(result, as_msgpack=self._packed)
        return body if self._packed else body + b"\n"
