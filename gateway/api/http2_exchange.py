"""One request and its answer on a stream of an HTTP/2 connection: the ASGI side. Must never hold more of a body than
the stream's window, nor wait for the peer without a deadline."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Protocol

from gateway.api.http2_patience import Patience
from gateway.api.http2_scope import CONNECTION_FIELDS, UNEQUAL
from gateway.model.errors import BadRequest, RequestTimeout


class Carrier(Protocol):
    """What an exchange asks of its connection."""

    def took(self, stream: int, size: int) -> None:
        """So many body bytes were taken: the peer may send as many more."""
        ...

    def room(self, stream: int) -> int:
        """Bytes of DATA that may be sent in one frame now."""
        ...

    def send_head(self, stream: int, headers: Iterable[tuple[bytes, bytes]], *, end: bool) -> None: ...

    def send_data(self, stream: int, data: bytes, *, end: bool) -> None: ...

    def is_shut(self, stream: int) -> bool:
        """Is it the stream's own window that is used up, and not the connection's alone?"""
        ...

    async def writable(self) -> None:
        """The socket takes more."""
        ...

    def slow_body(self, stream: int) -> None:
        """The request stopped coming. Where the answer has begun it is cut; else the handler gives one."""
        ...

    def slow_reader(self, stream: int) -> None: ...

    def complete(self, stream: int, *, body_ended: bool) -> None:
        """The answer is out."""
        ...


class Exchange:
    """ASGI `receive` and `send` of one stream. `length`: bytes the body is to have, where the request says so;
    `patience`: for its own window, and for the connection's, which all of its streams share."""

    def __init__(
        self,
        carrier: Carrier,
        stream: int,
        scope: dict[str, Any],
        length: int | None,
        idle_s: float,
        patience: tuple[Patience, Patience],
    ) -> None:
        self.scope = scope
        self._missing = length  # of the body, as far as it is known
        self._carrier = carrier
        self._stream = stream
        self._idle_s = idle_s
        self._own_patience, self._shared_patience = patience
        self._parts: list[bytes] = []
        self._size = 0  # flow-controlled bytes in parts, padding included
        self._ended = False  # the peer sent all of the request
        self._told = False  # and the handler knows
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        #: the peer left, or was cut: whatever is sent goes nowhere
        self.gone = False
        #: the first field of the answer is out; all of it is
        self.started = False
        self.answered = False
        self._came = asyncio.Event()
        self._opened = asyncio.Event()

    # --- from the connection ---

    @property
    def waiting(self) -> bool:
        """More of the body is expected."""
        return not self._ended

    def on_data(self, data: bytes, size: int) -> None:
        """BadRequest where that is more than content-length said."""
        if self.answered or self.gone:
            self._carrier.took(self._stream, size)
            return
        self._size += size
        if self._missing is not None:
            self._missing -= len(data)
            if self._missing < 0:
                raise BadRequest(UNEQUAL)
        self._parts.append(data)
        self._came.set()

    def on_end(self) -> None:
        """BadRequest where that is less."""
        if self._missing:
            raise BadRequest(UNEQUAL)
        self._ended = True
        self._came.set()

    def on_window(self) -> None:
        self._opened.set()

    def on_gone(self) -> None:
        self.gone = True
        self._drop()
        self._came.set()
        self._opened.set()

    def _drop(self) -> None:
        """What nobody will read is given back, or the connection's window would shrink with every stream given up."""
        self._parts.clear()
        size, self._size = self._size, 0
        if size:
            self._carrier.took(self._stream, size)

    # --- from the handler ---

    async def receive(self) -> dict[str, Any]:
        """RequestTimeout where the body stopped: so the door answers in the words of its route."""
        while True:
            if self.gone or self.answered:
                return {"type": "http.disconnect"}
            if self._parts:
                body = b"".join(self._parts)
                self._parts.clear()
                size, self._size = self._size, 0
                self._carrier.took(self._stream, size)
                self._told = self._ended
                return {"type": "http.request", "body": body, "more_body": not self._ended}
            if self._ended and not self._told:
                self._told = True
                return {"type": "http.request", "body": b"", "more_body": False}
            self._came.clear()
            try:
                async with asyncio.timeout(None if self._ended else self._idle_s):
                    await self._came.wait()
            except TimeoutError:
                self._carrier.slow_body(self._stream)
                if not self.started:
                    raise RequestTimeout from None
                self.on_gone()

    async def send(self, message: dict[str, Any]) -> None:
        if self.gone or self.answered:
            return
        if message["type"] == "http.response.start":
            self._head = message["status"], list(message.get("headers", ()))
            return
        body, more = bytes(message.get("body", b"")), bool(message.get("more_body", False))
        if self.scope["method"] == "HEAD":
            body = b""
        if not self.started:
            assert self._head is not None, "a body before the head of the answer"
            status, fields = self._head
            self.started = True
            headers = [(b":status", b"%d" % status)]
            headers += [(n.lower(), v) for n, v in fields if n.lower() not in CONNECTION_FIELDS]
            self._carrier.send_head(self._stream, headers, end=not more and not body)
            if not more and not body:
                self._finish()
                return
        await self._send_body(body, more=more)

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        at = 0
        while at < len(body):
            room = self._carrier.room(self._stream)
            if self.gone:
                return
            if room <= 0:
                await self._wait_for_window()
            else:
                piece = body[at : at + room]
                at += len(piece)
                for patience in (self._own_patience, self._shared_patience):
                    patience.gain(len(piece))
                self._carrier.send_data(self._stream, piece, end=not more and at == len(body))
                await self._carrier.writable()
                if at < len(body):
                    await asyncio.sleep(0)  # the connection's window is for other streams too
            if self.gone:
                return
        if not body and not more:
            self._carrier.send_data(self._stream, b"", end=True)
        if not more:
            self._finish()

    async def _wait_for_window(self) -> None:
        patience = self._own_patience if self._carrier.is_shut(self._stream) else self._shared_patience
        self._opened.clear()
        with patience.waiting(), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience.left_s):
                await self._opened.wait()
        if not self.gone and not patience.left_s:
            self._carrier.slow_reader(self._stream)
            self.on_gone()

    def _finish(self) -> None:
        self.answered = True
        self._drop()
        self._came.set()
        self._carrier.complete(self._stream, body_ended=self._ended)
