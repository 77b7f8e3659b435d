"""HTTP over the merged feeds: pages, waiting, server-sent events; must never keep more of a feed than one page for a
reader.

A feed that is held back because a partition can not be asked says so in the header Heliograph-Feed: held.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api.call import Call
from gateway.api.media import EVENTS
from gateway.api.ports import Backend
from gateway.api.receipts import HEARTBEAT_S, MAX_CURSOR, MAX_PAGE, MAX_WAIT_S, PAGE, build_event, parse_cursor
from gateway.api.webpush.headers import parse_prefer
from gateway.api.webpush.problem import CORS
from gateway.api.webpush.receipts import ReceiptEvent, status_of
from gateway.api.webpush.resources import Message, Names
from gateway.api.wire import DeadToken, DeadTokenPage, ReceiptPage, ReceiptView
from gateway.fleet.feeds import SKEW_MS, Feeds, Kind, MessageReceipt, Reading, Row, parse_receipt
from gateway.metrics import Metric
from gateway.model.cluster import CURSOR_SHIFT
from gateway.model.errors import BadRequest, NotFound, TooManyRequests, Unauthorized
from gateway.model.outcome import State
from gateway.model.registration import App
from gateway.model.shares import Shares

#: a page that finds something held back waits so long for it, though it was not asked to wait
SETTLE_S = 0.5
HELD = {"heliograph-feed": "held"}
_HOST = re.compile(r"[A-Za-z0-9._\[\]:-]{1,255}")
#: of a receipt of a Web Push message: its cursor, and how many with this cursor were told
_RESUME = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,4}))?")
_ANSWER = {"cache-control": "no-store", **CORS}
_decode_death = msgspec.msgpack.Decoder(DeadToken).decode
_decode_message = msgspec.msgpack.Decoder(MessageReceipt).decode


class FeedRoutes:
    def __init__(self, backend: Backend, feeds: Feeds, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._backend = backend
        self._feeds = feeds
        self._heartbeat_s = heartbeat_s
        self._watchers = Shares(backend.config.max_watchers)
        self._names = Names(backend.push_ids.derive(b"webpush"))
        self._urls = [url.rstrip("/") for url in backend.config.public_urls]

    async def page(self, call: Call) -> Response:
        after = call.query("after", 0, 0, MAX_CURSOR)
        limit = call.query("limit", PAGE, 1, MAX_PAGE)
        wait_s = call.query("wait", 0, 0, MAX_WAIT_S)
        reading = self._feeds.read(call.app.name, after)
        rows = [parse_receipt(row) for row in await self._take(reading, call.app.name, limit, wait_s)]
        provider = call.provider
        assert provider is not None
        self._backend.app_of_key(provider.app.name, provider.key_id)
        page = ReceiptPage(receipts=rows, cursor=rows[-1].cursor if rows else after)
        return call.answer(page, headers=HELD if reading.is_held and not rows else None)

    async def deaths(self, call: Call) -> Response:
        after = call.query("after", 0, 0, MAX_CURSOR)
        limit = call.query("limit", PAGE, 1, MAX_PAGE)
        reading = self._feeds.read(call.app.name, after, Kind.DEATHS)
        rows = [_decode_death(row.raw) for row in await self._take(reading, call.app.name, limit, 0)]
        page = DeadTokenPage(dead_tokens=rows, cursor=rows[-1].cursor if rows else after)
        return call.answer(page, headers=HELD if reading.is_held and not rows else None)

    async def _take(self, reading: Reading, holder: str, limit: int, wait_s: float) -> list[Row]:
        rows = await reading.take(limit, 0)
        if not rows and (wait_s or reading.is_held):
            with self.watch(holder):
                return await reading.take(limit, max(wait_s, SETTLE_S if reading.is_held else 0))
        return rows

    async def stream(self, call: Call) -> Response:
        resume = call.request.headers.get("last-event-id") or call.request.query_params.get("after")
        if resume is None:
            cursor = self._feeds.about_now()
        elif (after := parse_cursor(resume)) is not None:
            cursor = after
        else:
            raise BadRequest("expected the cursor of a receipt", field="Last-Event-ID")
        provider = call.provider
        assert provider is not None
        self.admit(provider.app.name)
        reading = self._feeds.read(provider.app.name, cursor)

        def may_read() -> bool:
            """The key may have been deleted while the stream was open."""
            try:
                self._backend.app_of_key(provider.app.name, provider.key_id)
            except Unauthorized:
                return False
            return True

        def build(rows: list[Row]) -> bytes:
            return b"".join(_events([parse_receipt(row) for row in rows]))

        return FeedStream(self, reading, provider.app.name, build, may_read, self._heartbeat_s)

    # --- receipts of Web Push messages

    async def messages(self, call: Call) -> Response:
        subscription = self._names.parse_subscription(call.path("id"))
        name = self._backend.directory.app_name(subscription.app_number) if subscription is not None else None
        app = self._backend.directory.app(name) if name else None
        if subscription is None or app is None:
            raise NotFound("There is no such receipt subscription.")
        request = call.request
        resume = request.headers.get("last-event-id") or request.query_params.get("after")
        found = None if resume is None else _RESUME.fullmatch(resume)
        after = None if found is None else parse_cursor(found[1])
        if resume is not None and (found is None or after is None):
            raise BadRequest("expected the id of a receipt", field="Last-Event-ID")
        told = int(found[2] or 0) if found is not None else 0
        # the subscription was made by another node's clock
        first = max(0, subscription.cursor - (SKEW_MS << CURSOR_SHIFT))
        cursor = first if after is None else after - bool(told)
        base = self._base(request)
        reading = self._feeds.read(app.name, cursor, Kind.MESSAGES, subscription.block)
        holder = f"{app.name} webpush"
        if EVENTS in request.headers.get("accept", ""):
            self.admit(holder)

            def build(rows: list[Row]) -> bytes:
                return b"".join(self._build_event(base, app, row, _is_last(rows, at)) for at, row in enumerate(rows))

            return FeedStream(self, reading, holder, build, lambda: True, self._heartbeat_s, CORS)
        asked_s = parse_prefer(request.headers.get("prefer")).wait_s
        wait_s = MAX_WAIT_S if asked_s is None else min(asked_s, MAX_WAIT_S)
        return await self._next_message(reading, app, base, holder, wait_s, (after or 0, told))

    async def _next_message(
        self, reading: Reading, app: App, base: str, holder: str, wait_s: float, told: tuple[int, int]
    ) -> Response:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        with self.watch(holder):
            while True:
                rows = await reading.take(PAGE, max(0, until_s - loop.time()))
                same = [row for row in rows if row.cursor == told[0]]
                rows = [*same[told[1] :], *(row for row in rows if row.cursor != told[0])]
                if rows:
                    break
                if not same:
                    headers = {**_ANSWER, "retry-after": "1", "last-event-id": str(reading.cursor)}
                    return Response(status_code=202, headers=headers)
        row, receipt = rows[0], _decode_message(rows[0].raw)
        ties = sum(other.cursor == row.cursor for other in rows)
        before = told[1] if row.cursor == told[0] else 0
        resume = f"{row.cursor}.{before + 1}" if ties > 1 else str(row.cursor)
        link = f'<{self._message_url(base, app, receipt.seq)}>; rel="item"'
        return Response(
            status_code=status_of(receipt.state), headers={**_ANSWER, "link": link, "last-event-id": resume}
        )

    def _build_event(self, base: str, app: App, row: Row, is_last: bool) -> bytes:
        receipt = _decode_message(row.raw)
        event = ReceiptEvent(
            message=self._message_url(base, app, receipt.seq),
            status=status_of(receipt.state),
            state=State(receipt.state).name.lower(),
            at_ms=receipt.at_ms,
        )
        number = b"id: %d\n" % row.cursor if is_last else b""
        return b"%sevent: receipt\ndata: %s\n\n" % (number, msgspec.json.encode(event))

    def _base(self, request: Request) -> str:
        """As gateway.api.webpush.door has it."""
        if self._urls:
            return self._urls[0]
        host = request.headers.get("host", "")
        return f"{request.url.scheme}://{host}" if _HOST.fullmatch(host) else ""

    def _message_url(self, base: str, app: App, seq: int) -> str:
        return f"{base}/push/message/{quote(self._names.message(Message(app.number, seq)))}"

    # --- who waits

    def admit(self, holder: str) -> None:
        """TooManyRequests where no more may wait."""
        if not self._watchers.has_room(holder):
            raise TooManyRequests("Too many receipt streams and waiting requests are open.", after_ms=5_000)

    @contextlib.contextmanager
    def watch(self, holder: str) -> Iterator[None]:
        self.admit(holder)
        self._watchers.take(holder)
        self._show()
        try:
            yield
        finally:
            self._watchers.give(holder)
            self._show()

    def _show(self) -> None:
        self._backend.metrics.set(Metric.API_WATCHERS, self._watchers.taken)

    @property
    def stopping(self) -> bool:
        return self._backend.stopping.is_set


def _is_last(rows: list[Row], at: int) -> bool:
    """Is it the last one with its cursor? A reader that was cut off before it gets those again."""
    return at + 1 == len(rows) or rows[at + 1].cursor != rows[at].cursor


def _events(receipts: list[ReceiptView]) -> Iterator[bytes]:
    for at, receipt in enumerate(receipts):
        event = build_event(receipt)
        tied = at + 1 < len(receipts) and receipts[at + 1].cursor == receipt.cursor
        yield event.partition(b"\n")[2] if tied else event


class FeedStream(Response):
    """text/event-stream of a feed, one page at a time: the next is asked for when the connection took the last."""

    media_type = EVENTS

    def __init__(
        self,
        routes: FeedRoutes,
        reading: Reading,
        holder: str,
        build: Callable[[list[Row]], bytes],
        may_read: Callable[[], bool],
        heartbeat_s: float,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._routes = routes
        self._reading = reading
        self._holder = holder
        self._build = build
        self._may_read = may_read
        self._heartbeat_s = heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        with self._routes.watch(self._holder):
            writing = asyncio.create_task(self._write(send))
            leaving = asyncio.create_task(_until_gone(receive))
            try:
                await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if writing.done():
                    writing.result()
            finally:
                for task in (writing, leaving):
                    task.cancel()
                await asyncio.gather(writing, leaving, return_exceptions=True)

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        # An id without data moves the client's cursor and fires no event: a reader cut off before its first receipt
        # resumes from here, not from a later *now*.
        await self._send(send, f"retry: 2000\nid: {self._reading.cursor}\n\n".encode())
        while not self._routes.stopping and self._may_read():
            rows = await self._reading.take(PAGE, self._heartbeat_s)
            if rows:
                await self._send(send, self._build(rows))
            elif not self._routes.stopping:
                held = b": held, a part of the fleet can not be asked\n\n"
                await self._send(send, held if self._reading.is_held else b": still here\n\n")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, body: bytes) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
