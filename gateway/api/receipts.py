"""The receipts feed: pages, long-poll and a server-sent stream. Bounded: a reader that is too slow is cut off and
comes back with its cursor; nothing is kept for it, so nothing is lost for it either."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api.call import Call
from gateway.api.media import EVENTS
from gateway.api.ports import Backend
from gateway.api.views import view_receipt
from gateway.api.wire import ReceiptPage, ReceiptView
from gateway.metrics import Metric
from gateway.model.errors import BadRequest, TooManyRequests, Unauthorized
from gateway.model.registration import App
from gateway.model.shares import Shares

PAGE = 100
MAX_PAGE = 1_000
MAX_WAIT_S = 30
HEARTBEAT_S = 15.0
MAX_CURSOR = (1 << 63) - 1


class ReceiptRoutes:
    def __init__(self, backend: Backend, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._backend = backend
        self._heartbeat_s = heartbeat_s
        self._watchers = Shares(backend.config.max_watchers)

    async def page(self, call: Call) -> Response:
        after = call.query("after", 0, 0, MAX_CURSOR)
        limit = call.query("limit", PAGE, 1, MAX_PAGE)
        wait_s = call.query("wait", 0, 0, MAX_WAIT_S)
        provider = call.provider
        assert provider is not None
        rows = self.after(call.app.name, after, limit)
        if not rows and wait_s:
            with self.watch(call.app.name) as wake, contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    while not rows and not self._backend.stopping.is_set:
                        await wake.wait()
                        wake.clear()
                        self._backend.app_of_key(call.app.name, provider.key_id)
                        rows = self.after(call.app.name, after, limit)
        return call.answer(ReceiptPage(receipts=rows, cursor=rows[-1].cursor if rows else after))

    async def stream(self, call: Call) -> Response:
        resume = call.request.headers.get("last-event-id") or call.request.query_params.get("after")
        if resume is None:
            cursor = self._backend.receipts.last_cursor(call.app.name)
        elif (after := parse_cursor(resume)) is not None:
            cursor = after
        else:
            raise BadRequest("expected the cursor of a receipt", field="Last-Event-ID")
        provider = call.provider
        assert provider is not None
        self.admit(provider.app.name)  # refused with a plain answer, before the stream begins
        return EventStream(self, self._backend, provider.app, provider.key_id, cursor, self._heartbeat_s)

    def after(self, app: str, cursor: int, limit: int) -> list[ReceiptView]:
        backend = self._backend
        rows = backend.receipts.after(app, cursor, limit)
        return [view_receipt(app, row, backend.push_ids, backend.directory) for row in rows]

    def admit(self, holder: str) -> None:
        """TooManyRequests where no more may wait. `holder`: the app, or those of it who read without its key."""
        if not self._watchers.has_room(holder):
            raise TooManyRequests("Too many receipt streams and waiting requests are open.", after_ms=5_000)

    @contextlib.contextmanager
    def watch(self, holder: str) -> Iterator[asyncio.Event]:
        """An event that is set after each commit with receipts and when the gateway drains."""
        self.admit(holder)
        wake = asyncio.Event()
        unsubscribe = (self._backend.receipts.subscribe(wake.set), self._backend.stopping.subscribe(wake.set))
        self._watchers.take(holder)
        self._show()
        try:
            yield wake
        finally:
            self._watchers.give(holder)
            self._show()
            for leave in unsubscribe:
                leave()

    def _show(self) -> None:
        self._backend.metrics.set(Metric.API_WATCHERS, self._watchers.taken)


class EventStream(Response):
    """text/event-stream: `id` is the cursor, `data` a receipt. Written one page at a time: the next is read from the
    store when the connection took the last, and a peer that takes nothing is cut by the connection's own bound."""

    media_type = EVENTS

    def __init__(
        self, routes: ReceiptRoutes, backend: Backend, app: App, key_id: str, cursor: int, heartbeat_s: float
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._routes = routes
        self._backend = backend
        self._app = app.name
        self._key_id = key_id
        self._cursor = cursor
        self._heartbeat_s = heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        with self._routes.watch(self._app) as wake:
            gone = asyncio.create_task(_until_gone(receive, wake))
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                # An id without data moves the client's cursor and fires no event: a reader cut off before its first
                # receipt resumes from here, not from a later *now*.
                await self._send(send, f"retry: 2000\nid: {self._cursor}\n\n".encode())
                while not gone.done() and not self._backend.stopping.is_set and self._may_read():
                    rows = self._routes.after(self._app, self._cursor, PAGE)
                    if rows:
                        self._cursor = rows[-1].cursor
                        await self._send(send, b"".join(map(build_event, rows)))
                        continue
                    try:
                        async with asyncio.timeout(self._heartbeat_s):
                            await wake.wait()
                        wake.clear()
                    except TimeoutError:
                        await self._send(send, b": still here\n\n")
                if not gone.done():
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                gone.cancel()

    def _may_read(self) -> bool:
        """The key may have been deleted while the stream was open."""
        try:
            self._backend.app_of_key(self._app, self._key_id)
        except Unauthorized:
            return False
        return True

    async def _send(self, send: Send, body: bytes) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _until_gone(receive: Receive, wake: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    wake.set()


def parse_cursor(text: str | None) -> int | None:
    """None where it is no cursor."""
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 19 or int(text) > MAX_CURSOR:
        return None
    return int(text)


def build_event(receipt: ReceiptView) -> bytes:
    return b"id: %d\nevent: receipt\ndata: %s\n\n" % (receipt.cursor, msgspec.json.encode(receipt))
