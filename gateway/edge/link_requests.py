"""Requests of logged-in devices in their order, one answer for each `req`; must never hold up another link's.

Here is what is answered in the same way wherever a device's registrations are kept: STATE, UP, PAGED, what came of a
FETCH, and TOKEN.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog

from gateway.auth.service_keys import ServiceKeys
from gateway.config.sections import Edge as EdgeConfig
from gateway.edge.flapping import FlappingGuard
from gateway.edge.login import Session, agree_heartbeat, silence_ms
from gateway.edge.ports import Home
from gateway.model.errors import GatewayError, InvalidField, Overloaded, UnknownFrame, UnknownToken
from gateway.model.frames import (
    Done,
    Fetched,
    FrameType,
    Paged,
    Register,
    State,
    Token,
    Up,
    build_frame,
    parse_body,
)
from gateway.model.registration import build_token, parse_token

if TYPE_CHECKING:
    from gateway.edge.server import EdgeServer

_log = structlog.get_logger(__name__)
#: registrations one device may have bound at once
MAX_BOUND = 256
#: requests of one link behind one that waits for a commit; past it the link is closed (overloaded)
MAX_BEHIND = 1024
Work = Coroutine[Any, Any, None]


class Enrolled(NamedTuple):
    """A registration that REGISTER is answered with."""

    number: int
    token: bytes
    created: bool
    servers: Sequence[str] = ()  # of service pages, where they were asked for


class _Req(msgspec.Struct):
    req: int = 0


class Fetching:
    """A FETCH whose notifications are on their way to the reactor."""

    __slots__ = ("more", "req", "sent")

    def __init__(self, req: int, sent: set[int], more: bool) -> None:
        self.req = req
        self.sent = sent
        self.more = more


def req_of(body: bytes) -> int:
    """The request number of a body whose other fields may be wrong."""
    try:
        return parse_body(body, _Req).req & 0xFFFFFFFF
    except GatewayError:
        return 0


class LinkRequests(ABC):
    """What is answered in the same way wherever a device's registrations are kept."""

    def __init__(
        self,
        edge: EdgeServer,
        home: Home,
        config: EdgeConfig,
        clock: Callable[[], int],
        service_keys: ServiceKeys | None = None,
    ) -> None:
        self._edge = edge
        self._service_keys = service_keys
        self._home = home
        self._registry = home.registry
        self._config = config
        self._clock = clock
        self.changes = FlappingGuard(config.device_changes_per_minute)
        #: requests that wait for a commit
        self._waiting: set[asyncio.Task[None]] = set()
        #: link with such a request → what came behind it: a device's requests are carried out in its order (A5)
        self._behind: dict[int, deque[tuple[int, int, bytes]]] = {}
        #: link → its FETCHes, in order, until the reactor has carried them out
        self.fetches: dict[int, deque[Fetching]] = {}
        self._handlers: dict[int, Callable[[int, Session, bytes], Work | None]] = {
            FrameType.REGISTER: self.on_register,
            FrameType.UNREGISTER: self.on_unregister,
            FrameType.FETCH: self.on_fetch,
            FrameType.STATE: self.on_state,
            FrameType.PAGED: self._on_paged,
            FrameType.UP: self._on_up,
        }

    def handle(self, link: int, device: int, kind: int, body: bytes) -> None:
        behind = self._behind.get(link)
        if behind is None:
            self._serve(link, device, kind, body)
        elif len(behind) < MAX_BEHIND:
            behind.append((device, kind, body))
        else:
            self._edge.refuse(link, Overloaded("too many requests wait on this connection"), req_of(body))

    def _serve(self, link: int, device: int, kind: int, body: bytes) -> None:
        session = self._edge.session(link, device)
        if session is None:
            return  # the link was refused, taken over or ended; the reactor knows or will soon
        handler = self._handlers.get(kind)
        try:
            if handler is None:
                raise UnknownFrame(f"frame type {kind:#04x} is not known to this version of the protocol")
            work = handler(link, session, body)
        except GatewayError as exc:
            self._edge.refuse(link, exc, req_of(body))
            return
        if work is not None:
            self._behind[link] = deque()
            task = asyncio.get_running_loop().create_task(self._finish(link, req_of(body), work))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _finish(self, link: int, req: int, work: Work) -> None:
        """Answer after a commit, a failure becomes an ERROR; then what came behind it."""
        try:
            await work
        except GatewayError as exc:
            self._edge.refuse(link, exc, req)
        except Exception:
            _log.exception("device_request_failed")
            self._edge.refuse(link, GatewayError(), req)
        behind = self._behind.pop(link, None)
        while behind:
            self._serve(link, *behind.popleft())
            if link in self._behind:
                self._behind[link] = behind
                return

    async def close(self) -> None:
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)

    @abstractmethod
    def on_register(self, link: int, session: Session, body: bytes) -> Work | None: ...

    @abstractmethod
    def on_unregister(self, link: int, session: Session, body: bytes) -> Work | None: ...

    @abstractmethod
    def on_fetch(self, link: int, session: Session, body: bytes) -> Work | None: ...

    # --- registrations of the link

    def others(self, session: Session, ask: Register, number: int) -> list[int]:
        """Other accounts of the app that are in use on this device."""
        return [
            other
            for other in self._registry.bound(session.key)
            if other != number and self._home.group_app(self._registry.group(other)) == ask.app
        ]

    def bind(self, link: int, session: Session, ask: Register, enrolled: Enrolled) -> None:
        number = enrolled.number
        if self._registry.device_link(session.key) != link:
            return  # gone or taken over while the commit was under way
        if not self._registry.has(number):
            raise Overloaded("the token was revoked while it was being registered; connect and register again")
        bound = self._registry.bound(session.key)
        if number not in bound and len(bound) >= MAX_BOUND:
            raise InvalidField(f"at most {MAX_BOUND} registrations on one connection", field="app")
        # TOKEN first, so that the device knows the token before anything comes for it.
        answer = Token(req=ask.req, token=build_token(enrolled.token), created=enrolled.created)
        if ask.pages and self._service_keys is not None:
            answer.page_key = self._service_keys.page_key(enrolled.token)
            answer.servers = list(enrolled.servers)
        self._edge.pages.take(number, wanted=ask.pages)
        self._edge.send(link, build_frame(FrameType.TOKEN, answer))
        self._edge.bind(link, number, session.key)

    def own(self, token: str, link: int) -> int:
        """Number of a token bound on this link; any other is unknown here."""
        raw = parse_token(token)
        number = self._registry.find(raw) if raw else -1
        if number < 0 or self._registry.link(number) != link:
            raise UnknownToken("no such token on this connection")
        return number

    # --- FETCH (A4, B2)

    def on_spilled(self, link: int, seq: int) -> None:
        fetches = self.fetches.get(link)
        if fetches and seq in fetches[0].sent:
            fetches[0].sent.remove(seq)
            fetches[0].more = True

    def on_echo(self, link: int) -> None:
        fetches = self.fetches.get(link)
        if not fetches:
            return
        done = fetches.popleft()
        if not fetches:
            del self.fetches[link]
        answer = Fetched(req=done.req, count=len(done.sent), more=done.more)
        self._edge.send(link, build_frame(FrameType.FETCHED, answer))

    def on_down(self, link: int) -> None:
        self._behind.pop(link, None)
        self.fetches.pop(link, None)

    # --- STATE (A6)

    def on_state(self, link: int, session: Session, body: bytes) -> None:  # noqa: ARG002 - the shape of a handler
        ask = parse_body(body, State)
        done = Done(req=ask.req)
        if ask.heartbeat:
            done.heartbeat = agree_heartbeat(ask.heartbeat, self._config)
            reactor = self._edge.plane.of(link)
            self._edge.plane.insist(reactor.set_silence, link, silence_ms(done.heartbeat))
        self._edge.send(link, build_frame(FrameType.DONE, done))
        if ask.urgency >= 0:
            self._edge.set_floor(link, ask.urgency)
            # What was below the old floor may go now.
            self._edge.hold(link)

    # --- UP (D)

    def _on_up(self, link: int, _session: Session, body: bytes) -> None:
        ask = parse_body(body, Up)
        number = self.own(ask.token, link)
        token = parse_token(ask.token)
        assert token is not None
        self._edge.asks.take(link, ask, token, self._home.group_app(self._registry.group(number)))

    # --- PAGED (C13)

    def _on_paged(self, link: int, _session: Session, body: bytes) -> None:
        self._edge.pages.on_paged(link, parse_body(body, Paged).req)
