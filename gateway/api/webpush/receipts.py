"""Delivery receipts of Web Push (RFC 8030 §5.1): waited for, or streamed as server-sent events; must never show a
subscription a message that did not name it.

RFC 8030 §6.3 delivers receipts by HTTP/2 server push, which clients have dropped. So a GET of the subscription waits
for the next receipt and answers with its status (204 acknowledged, 410 never), or, where it accepts text/event-stream,
stays open with an event for each.

Which subscription a message named stands in the store beside the push, in the same commit, where idempotency keys are.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api.media import EVENTS
from gateway.api.ports import Backend
from gateway.api.receipts import ReceiptRoutes
from gateway.api.webpush.problem import CORS
from gateway.api.webpush.resources import Subscription
from gateway.model.outcome import State
from gateway.model.ports import Receipt
from gateway.model.registration import App

#: receipts of the app looked at in one turn of the loop
PAGE = 100
#: and by one request in all: then its answer says where to go on
MAX_PAGES = 1_000
MAX_WAIT_S = 30
#: how long a receipt can be told from others after its message's end, seconds: as long as history is kept by default
KEPT_S = 7 * 86_400


class ReceiptEvent(msgspec.Struct, kw_only=True):
    """`data` of an event: the message resource and what became of it, 204 acknowledged or 410 not."""

    message: str
    status: int
    state: str
    at_ms: int


def _key(seq: int) -> str:
    # No idempotency key of a provider is like it: those are printable.
    return f"\0webpush receipt {seq}"


def status_of(state: int) -> int:
    """RFC 8030 §6.3"""
    return 204 if state == State.ACKED else 410


def names_subscription(backend: Backend, app: str, seq: int, block: bytes) -> bool:
    """Did this message name that subscription?"""
    noted = backend.memory.recall_idempotent(app, _key(seq))
    return noted is not None and noted[1] == block


class ReceiptBook:
    """Which message named which subscription."""

    def __init__(self, backend: Backend, routes: ReceiptRoutes, heartbeat_s: float) -> None:
        self.backend = backend
        self._routes = routes
        self.heartbeat_s = heartbeat_s
        self._turn = asyncio.Lock()

    def admit(self, app: str) -> None:
        """TooManyRequests where no more may wait: whoever knows a subscription shares what they may take with the
        app's others, not with the app's keys."""
        self._routes.admit(f"{app} webpush")

    def watch(self, app: str) -> contextlib.AbstractContextManager[asyncio.Event]:
        return self._routes.watch(f"{app} webpush")

    def open(self, app: App) -> Subscription:
        return Subscription(app.number, self.backend.receipts.last_cursor(app.name), secrets.randbits(32))

    def note(self, app: str, seq: int, subscription: Subscription, expires_s: int) -> None:
        """Call it in the turn that accepts the push: both are one commit then."""
        until_s = expires_s + KEPT_S
        noted = self.backend.memory.remember(app, _key(seq), subscription.block, seq, until_s, joined=True)
        noted.add_done_callback(_hear)

    def next(self, app: str, subscription: Subscription, cursor: int, limit: int) -> tuple[list[Receipt], int, bool]:
        """(receipts of the subscription, cursor behind the last one looked at, there may be more) of a slice."""
        rows = self.backend.receipts.after(app, cursor, limit)
        block = subscription.block
        found = [row for row in rows if names_subscription(self.backend, app, row.outcome.notification, block)]
        return found, rows[-1].cursor if rows else cursor, len(rows) == limit

    async def look(
        self, app: str, subscription: Subscription, cursor: int, limit: int = PAGE
    ) -> tuple[list[Receipt], int, bool]:
        """`next`, when it is one's turn: however many look, the loop does a slice at a time."""
        async with self._turn:
            found = self.next(app, subscription, cursor, limit)
            await asyncio.sleep(0)
        return found

    async def wait(
        self, app: str, subscription: Subscription, cursor: int, wait_s: float
    ) -> tuple[Receipt | None, int]:
        """The first receipt after the cursor, None where none came in time; and the cursor behind what was looked at.
        What is there is found however short the wait. Raises TooManyRequests."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        pages = 0
        with self.watch(app) as wake:
            while pages < MAX_PAGES:
                wake.clear()
                found, cursor, more = await self.look(app, subscription, cursor)
                if found:
                    return found[0], found[0].cursor
                pages += 1
                if more:
                    continue
                if self.backend.stopping.is_set or loop.time() >= end:
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(end - loop.time()):
                        await wake.wait()
        return None, cursor


class ReceiptStream(Response):
    """text/event-stream: `id` is the cursor to come back with in Last-Event-ID."""

    media_type = EVENTS

    def __init__(
        self, book: ReceiptBook, app: str, subscription: Subscription, cursor: int, url_of: Callable[[int], str]
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no", **CORS})
        del self.headers["content-length"]
        self._book = book
        self._app = app
        self._subscription = subscription
        self._cursor = cursor
        self._url_of = url_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        stopping = self._book.backend.stopping
        with self._book.watch(self._app) as wake:
            gone = asyncio.create_task(_until_gone(receive, wake))
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await self._send(send, f"retry: 2000\nid: {self._cursor}\n\n".encode())
                while not gone.done() and not stopping.is_set:
                    wake.clear()
                    found, self._cursor, more = await self._book.look(self._app, self._subscription, self._cursor)
                    if found:
                        await self._send(send, b"".join(map(self._build_event, found)))
                    if more:
                        continue
                    try:
                        async with asyncio.timeout(self._book.heartbeat_s):
                            await wake.wait()
                    except TimeoutError:
                        # with the cursor behind what was of others: who comes back begins there
                        await self._send(send, b": still here\nid: %d\n\n" % self._cursor)
                if not gone.done():
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                gone.cancel()

    def _build_event(self, row: Receipt) -> bytes:
        outcome = row.outcome
        event = ReceiptEvent(
            message=self._url_of(outcome.notification),
            status=status_of(outcome.state),
            state=State(outcome.state).name.lower(),
            at_ms=outcome.at_ms,
        )
        return b"id: %d\nevent: receipt\ndata: %s\n\n" % (row.cursor, msgspec.json.encode(event))

    async def _send(self, send: Send, body: bytes) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _until_gone(receive: Receive, wake: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    wake.set()


def _hear(noted: asyncio.Future[None]) -> None:
    if not noted.cancelled():
        noted.exception()
