"""Answers what a logged-in device asks: REGISTER, UNREGISTER, FETCH, STATE; one answer for each `req`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from gateway.auth.service_keys import ServiceKeys
from gateway.config.sections import Edge as EdgeConfig
from gateway.edge.flapping import FlappingGuard
from gateway.edge.login import Session, agree_heartbeat, silence_ms
from gateway.model.errors import GatewayError, InvalidField, Overloaded, TooManyRequests, UnknownFrame, UnknownToken
from gateway.model.frames import (
    Done,
    Fetch,
    Fetched,
    FrameType,
    Paged,
    Register,
    State,
    Token,
    Unregister,
    Up,
    build_frame,
    parse_body,
)
from gateway.model.registration import CLAIM, Loss, Profile, Registration, build_token, parse_token
from gateway.model.service_page import parse_servers
from gateway.store.directory import Directory

if TYPE_CHECKING:
    from gateway.edge.server import EdgeServer

_log = structlog.get_logger(__name__)
#: registrations one device may have bound at once
MAX_BOUND = 256
#: requests of one link behind one that waits for a commit; past it the link is closed (overloaded)
MAX_BEHIND = 1024
_Work = Coroutine[Any, Any, None]


class _Req(msgspec.Struct):
    req: int = 0


class _Fetching:
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


class DeviceRequests:
    def __init__(
        self,
        edge: EdgeServer,
        directory: Directory,
        config: EdgeConfig,
        clock: Callable[[], int],
        service_keys: ServiceKeys | None = None,
    ) -> None:
        self._edge = edge
        self._service_keys = service_keys
        self._directory = directory
        self._registry = directory.registry
        self._config = config
        self._clock = clock
        self._changes = FlappingGuard(config.device_changes_per_minute)
        #: requests that wait for a commit
        self._waiting: set[asyncio.Task[None]] = set()
        #: link with such a request → what came behind it: a device's requests are carried out in its order (A5)
        self._behind: dict[int, deque[tuple[int, int, bytes]]] = {}
        #: link → its FETCHes, in order, until the reactor has carried them out
        self._fetches: dict[int, deque[_Fetching]] = {}
        self._handlers: dict[int, Callable[[int, Session, bytes], _Work | None]] = {
            FrameType.REGISTER: self._on_register,
            FrameType.UNREGISTER: self._on_unregister,
            FrameType.FETCH: self._on_fetch,
            FrameType.STATE: self._on_state,
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

    async def _finish(self, link: int, req: int, work: _Work) -> None:
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

    # --- REGISTER (A1, A5)

    def _on_register(self, link: int, session: Session, body: bytes) -> _Work | None:
        ask = parse_body(body, Register)
        if self._changes.is_full(session.key, self._clock()):
            raise TooManyRequests("this device registered or changed too much in the last minute", after_ms=60_000)
        registration, created, committed = self._directory.register(
            session.device,
            ask.app,
            ask.version,
            ask.account,
            alias=ask.alias,
            tags=ask.tags,
            addresses=ask.addresses,
            fallback=ask.fallback,
            profile=Profile(ask.os, ask.locale, ask.timezone, ask.quiet),
            vapid_key=ask.vapid_key,
        )
        claimed = CLAIM in (ask.addresses or ()) and self._directory.opaque.claim(registration)
        if committed is not None or claimed:
            self._changes.admit(session.key, self._clock())
        if committed is None and (ask.keep or not self._others(session, ask, registration)):
            self._bind(link, session, ask, registration, created)
            return None

        async def when_durable() -> None:
            if committed is not None:
                await committed
            while not ask.keep and (others := self._others(session, ask, registration)):
                if self._registry.device_link(session.key) != link:
                    return
                # A5: this account takes their place. In force at once, and durable before the device is told.
                signed_out = [self._directory.sign_out(other) for other in others]
                for other in others:
                    self._edge.unbind(link, other)
                await asyncio.gather(*signed_out)
            self._bind(link, session, ask, registration, created)

        return when_durable()

    def _others(self, session: Session, ask: Register, registration: Registration) -> list[int]:
        """Other accounts of the app that are in use on this device."""
        return [
            number
            for number in self._registry.bound(session.key)
            if number != registration.number and self._directory.group_app(self._registry.group(number)) == ask.app
        ]

    def _bind(self, link: int, session: Session, ask: Register, registration: Registration, created: bool) -> None:
        number = registration.number
        if self._registry.device_link(session.key) != link:
            return  # gone or taken over while the commit was under way
        if not self._registry.has(number):
            raise Overloaded("the token was revoked while it was being registered; connect and register again")
        bound = self._registry.bound(session.key)
        if number not in bound and len(bound) >= MAX_BOUND:
            raise InvalidField(f"at most {MAX_BOUND} registrations on one connection", field="app")
        # TOKEN first, so that the device knows the token before anything comes for it.
        answer = Token(req=ask.req, token=build_token(registration.token), created=created)
        if ask.pages and self._service_keys is not None:
            answer.page_key = self._service_keys.page_key(registration.token)
            app = self._directory.app(ask.app)
            answer.servers = parse_servers(app.notifiers.get("service", {}).get("servers", "")) if app else []
        self._edge.pages.take(number, wanted=ask.pages)
        self._edge.send(link, build_frame(FrameType.TOKEN, answer))
        self._edge.bind(link, number, session.key)

    # --- UNREGISTER

    def _own(self, token: str, link: int) -> int:
        """Number of a token bound on this link; any other is unknown here."""
        raw = parse_token(token)
        number = self._registry.find(raw) if raw else -1
        if number < 0 or self._registry.link(number) != link:
            raise UnknownToken("no such token on this connection")
        return number

    def _on_unregister(self, link: int, session: Session, body: bytes) -> _Work:
        ask = parse_body(body, Unregister)
        number = self._own(ask.token, link)
        ended = self._directory.revoke(number, Loss.FORGOTTEN) if ask.forget else self._directory.sign_out(number)
        if not ask.forget:  # a token revoked has left its link already
            self._edge.unbind(link, number)
            if not self._registry.bound(session.key):
                self._edge.remember(link, session)

        async def work() -> None:
            await ended
            if ask.forget:
                self._edge.events.revoke(number)
            self._edge.send(link, build_frame(FrameType.DONE, Done(req=ask.req)))

        return work()

    # --- FETCH (A4, B2)

    def _on_fetch(self, link: int, _session: Session, body: bytes) -> None:
        ask = parse_body(body, Fetch)
        number = self._own(ask.token, link)
        sent: set[int] = set()
        self._edge.tally = sent
        try:
            _, more = self._edge.events.on_fetch(number, ask.ids)
        finally:
            self._edge.tally = None
        # What the reactor has no room for comes back before the echo: only then it is known what was sent.
        self._fetches.setdefault(link, deque()).append(_Fetching(ask.req, sent, more))
        self._edge.plane.insist(self._edge.plane.of(link).echo, link)

    def on_spilled(self, link: int, seq: int) -> None:
        fetches = self._fetches.get(link)
        if fetches and seq in fetches[0].sent:
            fetches[0].sent.remove(seq)
            fetches[0].more = True

    def on_echo(self, link: int) -> None:
        fetches = self._fetches.get(link)
        if not fetches:
            return
        done = fetches.popleft()
        if not fetches:
            del self._fetches[link]
        answer = Fetched(req=done.req, count=len(done.sent), more=done.more)
        self._edge.send(link, build_frame(FrameType.FETCHED, answer))

    def on_down(self, link: int) -> None:
        self._behind.pop(link, None)
        self._fetches.pop(link, None)

    # --- STATE (A6)

    def _on_state(self, link: int, _session: Session, body: bytes) -> None:
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
        number = self._own(ask.token, link)
        token = parse_token(ask.token)
        assert token is not None
        self._edge.asks.take(link, ask, token, self._directory.group_app(self._registry.group(number)))

    # --- PAGED (C13)

    def _on_paged(self, link: int, _session: Session, body: bytes) -> None:
        self._edge.pages.on_paged(link, parse_body(body, Paged).req)
