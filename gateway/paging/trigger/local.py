"""An exposure function of our own for tests and trials: strict about what it is sent, and able to misbehave in every
way that is known of real ones; must never be reachable from anywhere but this machine.

What breaks 3GPP TS 29.122 is a line in `faults`, which a test expects to be empty, and is answered 400.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import h11
import httpx

from gateway.paging.trigger.local_schema import check_monitoring, check_triggering

TRIGGERS, WATCHES = "/3gpp-device-triggering/v1/", "/3gpp-monitoring-event/v1/"


@dataclass(slots=True, frozen=True)
class Behaviour:
    """Of one request and the reports that follow it."""

    #: refuse with this status; 0: take it
    status: int = 0
    cause: str = ""
    #: whole body of a refusal, instead of ProblemDetails; bytes that need not be JSON
    body: bytes | None = None
    #: `param` of its invalidParams
    invalid: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    #: take it, and never answer
    hangs: bool = False
    #: take it, and close the connection instead of an answer
    resets: bool = False
    #: bytes instead of an HTTP answer
    raw: bytes = b""
    #: Location of the 201, where it is not as it should be; {url} is the right one
    location: str = "{url}"
    #: reports, one after the other
    results: tuple[str, ...] = ("SUCCESS",)
    report_delay_s: float = 0.0
    #: the first report goes out before the answer
    report_first: bool = False
    #: the transaction in a report, where it is not the right one
    transaction: str = ""


class Trigger(NamedTuple):
    """A trigger as it was taken."""

    body: dict[str, Any]
    url: str
    method: str

    def __repr__(self) -> str:
        return f"Trigger({self.method})"


@dataclass(slots=True, eq=False)
class _Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter = field(repr=False)


class _Reply(NamedTuple):
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class LocalScef:
    """Listens on loopback from `start` to `close`. `next` holds the behaviour of the next calls, `behaviour` that of
    those behind them. With `client_secret` every call needs a token of its own token endpoint."""

    def __init__(
        self,
        *,
        scs_as_id: str = "pushgw",
        tls: ssl.SSLContext | None = None,
        client_secret: str = "",
        bearer: str = "",
        trusts: ssl.SSLContext | None = None,
    ) -> None:
        self.scs_as_id, self.client_secret, self.bearer = scs_as_id, client_secret, bearer
        self.behaviour = Behaviour()
        self.next: deque[Behaviour] = deque()
        self.token_next: deque[_Reply] = deque()
        self.token_seconds = 3_600
        self.tokens: list[str] = []
        self.faults: list[str] = []
        #: called after each request that was read
        self.on_request: Callable[[], None] | None = None
        self.triggers: list[Trigger] = []
        self.watches: list[Trigger] = []
        self.live: dict[str, dict[str, Any]] = {}
        self.monitored: dict[str, dict[str, Any]] = {}
        #: every status that a report was answered with
        self.answered: list[int] = []
        #: a test notification goes out where one is asked for
        self.tests = True
        self._tls = tls
        self._trusts = trusts
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ids = 0
        self._client: httpx.AsyncClient | None = None
        self._port = 0

    @property
    def root(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def token_url(self) -> str:
        return f"{self.root}/token"

    async def start(self, port: int = 0) -> str:
        """Returns the root URL."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port or self._port, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]
        if self._client is None:
            self._client = httpx.AsyncClient(verify=self._trusts or False, timeout=5.0, trust_env=False)
        return self.root

    async def close(self) -> None:
        """Go down: no listener, no connection, no report under way."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    # --- what a network says of its own accord

    async def post(self, url: str, body: Any, **options: Any) -> int:
        """Any JSON (or bytes) to any path of the gateway's listener; the status it is answered with."""
        assert self._client is not None
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = options.pop("headers", {"content-type": "application/json"})
        answer = await self._client.request(
            options.pop("method", "POST"), url, content=content, headers=headers, **options
        )
        self.answered.append(answer.status_code)
        return answer.status_code

    async def report(self, trigger: Trigger, result: str, transaction: str = "") -> int:
        url = trigger.body["notificationDestination"]
        return await self.post(url, {"transaction": transaction or trigger.url, "result": result})

    async def reachable(self, watch: Trigger) -> int:
        """The watched device is back."""
        report = {"monitoringType": "UE_REACHABILITY", "reachabilityType": watch.body["reachabilityType"]}
        body = {"subscription": watch.url, "monitoringEventReports": [report]}
        return await self.post(watch.body["notificationDestination"], body)

    # --- connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        http = h11.Connection(h11.SERVER)
        try:
            while (request := await self._read(http, reader, writer)) is not None:
                reply = await self._handle(request)
                if reply is None:
                    return
                headers = [*reply.headers, ("content-length", str(len(reply.body)))]
                if reply.body and not any(name == "content-type" for name, _ in headers):
                    headers.append(("content-type", "application/json"))
                writer.write(http.send(h11.Response(status_code=reply.status, headers=headers)))
                if reply.body:
                    writer.write(http.send(h11.Data(data=reply.body)))
                writer.write(http.send(h11.EndOfMessage()))
                await writer.drain()
                http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            self._fault(f"HTTP: {error}")
        except (ConnectionError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _read(
        self, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> _Request | None:
        head: h11.Request | None = None
        body = b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(65_536)
                if not data and http.their_state is h11.IDLE:
                    return None
                http.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                headers = {name.decode(): value.decode() for name, value in head.headers}
                return _Request(head.method.decode(), head.target.decode(), headers, body, writer)
            else:
                return None

    # --- requests

    async def _handle(self, request: _Request) -> _Reply | None:
        """None: the connection ends without an answer."""
        if request.path == "/token":
            return self._give_token(request)
        if not self._is_authorized(request):
            return self._refuse(401)
        behaviour = self.next.popleft() if self.next else self.behaviour
        if behaviour.delay_s:
            await asyncio.sleep(behaviour.delay_s)
        if behaviour.raw:
            request.writer.write(behaviour.raw)
            with contextlib.suppress(ConnectionError):
                await request.writer.drain()
            return None
        if behaviour.status:
            return self._refuse(behaviour.status, behaviour)
        try:
            body = json.loads(request.body)
        except ValueError:
            self._fault("no JSON")
            return self._refuse(400)
        if request.headers.get("content-type") != "application/json":
            self._fault("content-type is not application/json")
            return self._refuse(415)
        reply, trigger = self._take(request, body, behaviour)
        if self.on_request is not None:
            self.on_request()
        if trigger is not None and behaviour.report_first:
            await self._report(trigger, behaviour)
        elif trigger is not None:
            self._run(self._report(trigger, behaviour))
        if behaviour.hangs:
            await asyncio.sleep(3_600)
        if behaviour.resets:
            request.writer.transport.abort()
            return None
        return reply

    def _take(self, request: _Request, body: Any, behaviour: Behaviour) -> tuple[_Reply, Trigger | None]:
        """The answer, and the trigger that is to be reported on."""
        for prefix, name, check in (
            (TRIGGERS, "transactions", check_triggering),
            (WATCHES, "subscriptions", check_monitoring),
        ):
            collection = f"{prefix}{self.scs_as_id}/{name}"
            if request.path == collection and request.method == "POST":
                faults = check(body)
                self.faults += faults
                if faults:
                    return self._refuse(400), None
                self._ids += 1
                path = f"{collection}/t{self._ids}"
                return self._create(path, body, behaviour, is_watch=prefix == WATCHES)
            if request.path.startswith(f"{collection}/") and prefix == TRIGGERS:
                return self._change(request, body)
        self._fault(f"{request.method} to a path that is not there")
        return _Reply(404, (("content-type", "text/html"),), b"<html>404</html>"), None

    def _create(
        self, path: str, body: dict[str, Any], behaviour: Behaviour, *, is_watch: bool
    ) -> tuple[_Reply, Trigger | None]:
        url = self.root + path
        trigger = Trigger(body, url, "POST")
        (self.watches if is_watch else self.triggers).append(trigger)
        (self.monitored if is_watch else self.live)[path] = body
        answer = json.dumps({**body, "self": url}).encode() if behaviour.body is None else behaviour.body
        reply = _Reply(201, (("location", behaviour.location.format(url=url)), *behaviour.headers), answer)
        return reply, None if is_watch else trigger

    def _change(self, request: _Request, body: Any) -> tuple[_Reply, Trigger | None]:
        if request.path not in self.live:
            return self._refuse(404, Behaviour(status=404)), None
        if request.method != "PUT":
            self._fault(f"{request.method} on a transaction")
            return self._refuse(405), None
        faults = check_triggering(body)
        self.faults += faults
        if faults:
            return self._refuse(400), None
        trigger = Trigger(body, self.root + request.path, "PUT")
        self.triggers.append(trigger)
        self.live[request.path] = body
        answer = {**body, "self": trigger.url, "deliveryResult": "REPLACED"}
        return _Reply(200, (), json.dumps(answer).encode()), trigger

    def _refuse(self, status: int, behaviour: Behaviour | None = None) -> _Reply:
        behaviour = behaviour or Behaviour()
        problem: dict[str, Any] = {"title": "refused", "status": status, "detail": "about +491511234567"}
        if behaviour.cause:
            problem["cause"] = behaviour.cause
        if behaviour.invalid:
            problem["invalidParams"] = [{"param": behaviour.invalid, "reason": "wrong"}]
        body = json.dumps(problem).encode() if behaviour.body is None else behaviour.body
        kind = () if behaviour.body is not None else (("content-type", "application/problem+json"),)
        return _Reply(status, (*kind, *behaviour.headers), body)

    # --- who asks

    def _give_token(self, request: _Request) -> _Reply:
        if self.token_next:
            return self.token_next.popleft()
        form = {key: values[0] for key, values in parse_qs(request.body.decode()).items()}
        if request.method != "POST" or form.get("grant_type") != "client_credentials" or not form.get("client_id"):
            self._fault("token request is not that of RFC 6749 §4.4")
            return _Reply(400, (), b'{"error":"invalid_request"}')
        if form.get("client_secret") != self.client_secret:
            return _Reply(401, (), b'{"error":"invalid_client"}')
        self.tokens.append(f"token-{len(self.tokens) + 1}")
        answer = {"access_token": self.tokens[-1], "token_type": "Bearer", "expires_in": self.token_seconds}
        return _Reply(200, (), json.dumps(answer).encode())

    def _is_authorized(self, request: _Request) -> bool:
        given = request.headers.get("authorization", "")
        if self.client_secret:
            return bool(self.tokens) and given == f"Bearer {self.tokens[-1]}"
        return given == (f"Bearer {self.bearer}" if self.bearer else "")

    # --- reports

    async def _report(self, trigger: Trigger, behaviour: Behaviour) -> None:
        with contextlib.suppress(httpx.HTTPError):
            if trigger.body.get("requestTestNotification") and self.tests:
                await self.post(trigger.body["notificationDestination"], {"subscription": trigger.url})
            for result in behaviour.results:
                if behaviour.report_delay_s:
                    await asyncio.sleep(behaviour.report_delay_s)
                await self.report(trigger, result, behaviour.transaction)

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fault(self, words: str) -> None:
        self.faults.append(words)
