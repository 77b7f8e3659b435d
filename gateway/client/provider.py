"""The provider SDK: `Provider`, a persistent stream of pushes and receipts; imports only the model.

One connection carries any number of pushes at once: calls that come together leave as one batch. What the gateway has
not answered when the connection is cut may or may not have been accepted: such a call raises PushUncertain, unless the
push carries an idempotency key; then it is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import msgspec

from gateway.client.backoff import GOOD_LINK_S, Backoff
from gateway.client.errors import LinkLost, PushUncertain, build_error
from gateway.client.link import Complaints, build_tls
from gateway.model import frames
from gateway.model.errors import GatewayError, LoginTimeout, PayloadTooLarge
from gateway.model.frames import PROTOCOL_VERSION, FrameReader, FrameType, build_frame, parse_body

LOGIN_S = 15.0
#: a PING that has no answer for this long: the link is dead
PONG_S = 10.0
#: bytes of a frame that are not pushes
_SPARE_BYTES = 64

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.decode


class PushResult(NamedTuple):
    """What the gateway said to one push."""

    id: str
    targeted: int | None = 1  # deliveries; None for a broadcast


class _SentAway(Exception):
    """GOAWAY came."""

    def __init__(self, error: GatewayError, goaway: frames.Goaway) -> None:
        super().__init__(error.message)
        self.error = error
        self.goaway = goaway


class _Waiting(NamedTuple):
    packed: bytes
    has_key: bool
    answer: asyncio.Future[PushResult]


class Provider:
    """`async with Provider(host, port, key=…) as provider:`; connects at once, reconnects by itself.

    tls and server_name as for a Device.

    `push` and `push_many` may be called from many tasks; results come as soon as they are durable. Raises what the
    gateway refused the login with.
    """

    def __init__(
        self,
        host: str,
        port: int = 7400,
        *,
        key: str,
        tls: bool | ssl.SSLContext = False,
        server_name: str = "",
        sdk: str = "heliograph-python/1",
    ) -> None:
        self._host = host
        self._port = port
        self._key = key
        self._tls = build_tls(tls)
        self._server_name = (server_name or host) if self._tls else None
        self._sdk = sdk
        self._complaints = Complaints()
        self.app = ""
        self._welcome: frames.ProviderWelcome | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: deque[_Waiting] = deque()
        self._asked: dict[int, list[_Waiting]] = {}
        self._unanswered = 0
        self._next_req = 1
        self._flushing: asyncio.Handle | None = None
        self._receipts: asyncio.Queue[tuple[list[dict[str, Any]], int]] = asyncio.Queue()
        self._following: int | None = None  # cursor of the last receipt handed out, once `receipts` was asked for
        self._task: asyncio.Task[None] | None = None
        self._online: asyncio.Future[None] | None = None
        self._failed: Exception | None = None
        self._pinged = False

    async def __aenter__(self) -> Self:
        self._online = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._stay_connected(), name="provider-stream")
        try:
            await self._online
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """What has no answer yet raises PushUncertain."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._fail(LinkLost("The provider stream was closed."))

    # --- pushes ---------------------------------------------------------------------------------------------------

    async def push(self, **push: Any) -> PushResult:
        """One push, with the fields of POST /v1/push: `target={"token": …}`, title, text, data, ttl, urgency, …

        Raises the gateway's error where it was refused, PushUncertain where the link was cut before the answer.
        """
        return await self._offer(push)

    async def push_many(self, pushes: Sequence[Mapping[str, Any]]) -> list[PushResult | GatewayError]:
        """One result each, in order; a refused one does not stop the others."""
        answers = await asyncio.gather(*(self._offer(push) for push in pushes), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, GatewayError):
                raise answer
        return [answer for answer in answers if isinstance(answer, PushResult | GatewayError)]

    def _offer(self, push: Mapping[str, Any]) -> asyncio.Future[PushResult]:
        if self._failed is not None:
            raise self._failed
        if self._task is None:
            raise LinkLost("The provider stream is not open: use `async with`.")
        packed = _pack(push)
        if self._welcome is not None and len(packed) > self._welcome.max_frame - _SPARE_BYTES:
            raise PayloadTooLarge(f"a push takes less than {self._welcome.max_frame} bytes here")
        answer: asyncio.Future[PushResult] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(packed, bool(push.get("idempotency_key")), answer))
        if self._flushing is None:
            # not at once: what one turn of the loop pushes belongs into one batch
            self._flushing = asyncio.get_running_loop().call_soon(self._flush)
        return answer

    def _flush(self) -> None:
        self._flushing = None
        welcome, writer = self._welcome, self._writer
        while welcome is not None and writer is not None and self._waiting:
            room = min(welcome.max_batch, welcome.window - self._unanswered)
            batch: list[_Waiting] = []
            size = _SPARE_BYTES
            while self._waiting and len(batch) < room:
                size += len(self._waiting[0].packed)
                if batch and size > welcome.max_frame:
                    break
                batch.append(self._waiting.popleft())
            if not batch:
                return  # an answer makes room
            req, self._next_req = self._next_req, self._next_req % 0xFFFFFFFF + 1
            self._asked[req] = batch
            self._unanswered += len(batch)
            head = bytes((0xDD,)) + len(batch).to_bytes(4, "big")
            pushes = msgspec.Raw(head + b"".join(waiting.packed for waiting in batch))
            writer.write(build_frame(FrameType.PUSH, frames.Push(req=req, pushes=pushes)))

    def _on_pushed(self, body: bytes) -> None:
        pushed = parse_body(body, frames.Pushed)
        batch = self._asked.pop(pushed.req, [])
        self._unanswered -= len(batch)
        for waiting, result in zip(batch, _unpack(pushed.results), strict=True):
            if waiting.answer.done():
                continue
            if isinstance(result, str):
                waiting.answer.set_result(PushResult(result))
            elif "id" in result:
                waiting.answer.set_result(PushResult(result["id"], result.get("targeted")))
            else:
                waiting.answer.set_exception(_error_of(result))
        self._flush()

    # --- receipts -------------------------------------------------------------------------------------------------

    async def receipts(self, after: int | None = None) -> AsyncIterator[dict[str, Any]]:
        """Receipts from this cursor on (None: from now), for ever; each with its `cursor`, to go on from the next time.

        A receipt counts as taken when the next one is asked for. Only one such stream on a connection.
        """
        if self._welcome is None or self._writer is None:
            raise LinkLost("The provider stream is not connected.")
        self._following = self._welcome.cursor if after is None else after
        self._receipts = asyncio.Queue()
        self._ask_receipts()
        while True:
            receipts, cursor = await self._receipts.get()
            for receipt in receipts:
                if receipt["cursor"] > self._following:
                    yield receipt
                    self._following = receipt["cursor"]
            if self._writer is not None:
                self._writer.write(build_frame(FrameType.RECEIVED, frames.Received(cursor=cursor)))

    def _ask_receipts(self) -> None:
        if self._following is not None and self._writer is not None:
            ask = frames.Receipts(req=0, after=self._following)
            self._writer.write(build_frame(FrameType.RECEIPTS, ask))

    # --- the link -------------------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(random.random)
        while True:
            began, wait = loop.time(), (0, 0)
            try:
                await self._serve_link()
            except _SentAway as away:
                wait = (away.goaway.after_ms, away.goaway.jitter_ms)
                if not away.goaway.retry:
                    self._give_up(away.error)
                    return
            except GatewayError as error:
                wait = (error.after_ms, 0)
                if not error.retryable:
                    self._give_up(error)
                    return
            except (OSError, TimeoutError) as error:
                self._complaints.note(error)
            except asyncio.IncompleteReadError:
                pass
            finally:
                self._cut()
            if loop.time() - began > GOOD_LINK_S:
                backoff.reset()
            await asyncio.sleep(backoff.next_delay(*wait))

    async def _serve_link(self) -> None:
        async with asyncio.timeout(LOGIN_S):
            reader, writer = await asyncio.open_connection(
                self._host, self._port, ssl=self._tls, server_hostname=self._server_name
            )
        frames_in = FrameReader(1 << 24)
        try:
            hello = frames.Hello(v=PROTOCOL_VERSION, role="provider", key=self._key, sdk=self._sdk)
            writer.write(build_frame(FrameType.HELLO, hello))
            timeout_s = LOGIN_S
            while True:
                try:
                    async with asyncio.timeout(timeout_s):
                        data = await reader.read(1 << 18)
                except TimeoutError:
                    if self._welcome is None:
                        raise LoginTimeout from None
                    if self._pinged:
                        raise
                    self._pinged, timeout_s = True, PONG_S
                    writer.write(build_frame(FrameType.PING))
                    continue
                if not data:
                    return
                for kind, body in frames_in.feed(data):
                    self._on_frame(kind, body, writer)
                self._pinged = False
                timeout_s = LOGIN_S if self._welcome is None else float(self._welcome.heartbeat)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _on_frame(self, kind: int, body: bytes, writer: asyncio.StreamWriter) -> None:
        if kind == FrameType.PUSHED:
            self._on_pushed(body)
        elif kind == FrameType.RECEIPT:
            receipt = parse_body(body, frames.Receipt)
            self._receipts.put_nowait((_unpack(receipt.receipts), receipt.cursor))
        elif kind == FrameType.WELCOME:
            self._welcome = parse_body(body, frames.ProviderWelcome)
            self._writer = writer
            self.app = self._welcome.app
            if self._online is not None and not self._online.done():
                self._online.set_result(None)
            self._ask_receipts()
            self._flush()
        elif kind == FrameType.ERROR:
            told = parse_body(body, frames.Error)
            error = _error_of(msgspec.structs.asdict(told))
            batch = self._asked.pop(told.req, None)
            if batch is not None:
                self._unanswered -= len(batch)
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)
            elif error.fatal or self._welcome is None:
                raise error
        elif kind == FrameType.GOAWAY:
            away = parse_body(body, frames.Goaway)
            raise _SentAway(_error_of(msgspec.structs.asdict(away)), away)

    def _cut(self) -> None:
        """The link is gone: what was asked is asked again where that is safe."""
        self._writer = self._welcome = None
        self._pinged = False
        asked, self._asked, self._unanswered = self._asked, {}, 0
        again: list[_Waiting] = []
        for batch in asked.values():
            for waiting in batch:
                if waiting.has_key:
                    again.append(waiting)
                elif not waiting.answer.done():
                    waiting.answer.set_exception(PushUncertain("The link was cut before the answer."))
        self._waiting.extendleft(reversed(again))

    def _give_up(self, error: GatewayError) -> None:
        self._failed = error
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._cut()
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.answer.done():
                waiting.answer.set_exception(error)
        if self._online is not None and not self._online.done():
            self._online.set_exception(error)


def _error_of(told: Mapping[str, Any]) -> GatewayError:
    """The exception for an error result, an ERROR or a GOAWAY."""
    error = build_error(
        told["code"],
        told["name"],
        told.get("message", ""),
        retry=told.get("retry", False),
        after_ms=told.get("after_ms", 0),
    )
    error.field = told.get("field", "")
    return error
