"""Answers what a logged-in device asks: REGISTER, UNREGISTER, FETCH, STATE; one answer for each `req`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from gateway.config.sections import Edge as EdgeConfig
from gateway.edge.login import Session, agree_heartbeat, silence_ms
from gateway.model.errors import GatewayError, InvalidField, Overloaded, UnknownFrame, UnknownToken
from gateway.model.frames import (
    Done,
    Fetch,
    Fetched,
    FrameType,
    Register,
    State,
    Token,
    Unregister,
    build_frame,
    parse_body,
)
from gateway.model.registration import Registration, build_token, parse_token
from gateway.store.directory import Directory

if TYPE_CHECKING:
    from gateway.edge.server import EdgeServer

_log = structlog.get_logger(__name__)
#: registrations one device may have bound at once
MAX_BOUND = 256


class _Req(msgspec.Struct):
    req: int = 0


def _req_of(body: bytes) -> int:
    """The request number of a body whose other fields may be wrong."""
    try:
        return parse_body(body, _Req).req & 0xFFFFFFFF
    except GatewayError:
        return 0


class DeviceRequests:
    def __init__(self, edge: EdgeServer, directory: Directory, config: EdgeConfig) -> None:
        self._edge = edge
        self._directory = directory
        self._registry = directory.registry
        self._config = config
        #: requests that wait for a commit
        self._waiting: set[asyncio.Task[None]] = set()
        self._handlers: dict[int, Callable[[int, Session, bytes], None]] = {
            FrameType.REGISTER: self._on_register,
            FrameType.UNREGISTER: self._on_unregister,
            FrameType.FETCH: self._on_fetch,
            FrameType.STATE: self._on_state,
        }

    def handle(self, link: int, device: int, kind: int, body: bytes) -> None:
        session = self._edge.session(link, device)
        if session is None:
            return  # the link was refused, taken over or ended; the reactor knows or will soon
        handler = self._handlers.get(kind)
        try:
            if handler is None:
                raise UnknownFrame(f"frame type {kind:#04x} is not known to this version of the protocol")
            handler(link, session, body)
        except GatewayError as exc:
            self._edge.refuse(link, exc, _req_of(body))

    async def close(self) -> None:
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)

    def _later(self, link: int, req: int, work: Any) -> None:
        """Answer after a commit; a failure becomes an ERROR."""

        async def answer() -> None:
            try:
                await work
            except GatewayError as exc:
                self._edge.refuse(link, exc, req)
            except Exception:
                _log.exception("device_request_failed")
                self._edge.refuse(link, GatewayError(), req)

        task = asyncio.get_running_loop().create_task(answer())
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    # --- REGISTER (A1, A5)

    def _on_register(self, link: int, session: Session, body: bytes) -> None:
        ask = parse_body(body, Register)
        registration, created, committed = self._directory.register(
            session.device,
            ask.app,
            ask.version,
            ask.account,
            alias=ask.alias,
            tags=ask.tags,
            addresses=ask.addresses,
            fallback=ask.fallback,
        )
        if committed is None:
            self._bind(link, session, ask, registration, created)
            return

        async def when_durable() -> None:
            await committed
            self._bind(link, session, ask, registration, created)

        self._later(link, ask.req, when_durable())

    def _bind(self, link: int, session: Session, ask: Register, registration: Registration, created: bool) -> None:
        if self._registry.device_link(session.key) != link:
            return  # gone or taken over while the commit was under way
        number = registration.number
        bound = self._registry.bound(session.key)
        if not ask.keep:
            # A5: this account takes the place of the app's other accounts on this device.
            for other in bound:
                if other != number and self._directory.group_app(self._registry.group(other)) == ask.app:
                    self._directory.sign_out(other)
                    self._edge.unbind(link, other)
        elif number not in bound and len(bound) >= MAX_BOUND:
            raise InvalidField(f"at most {MAX_BOUND} registrations on one connection", field="keep")
        answer = Token(req=ask.req, token=build_token(registration.token), created=created)
        reactor = self._edge.plane.of(link)
        # TOKEN first, so that the device knows the token before anything comes for it.
        if not self._edge.send(link, build_frame(FrameType.TOKEN, answer)):
            return
        if not self._edge.plane.sent(reactor.bind(link, self._registry.group(number), number)):
            raise Overloaded
        self._registry.bind(number, session.key)
        self._edge.forget(link)
        self._edge.events.on_ready([number])

    # --- UNREGISTER

    def _own(self, token: str, link: int) -> int:
        """Number of a token bound on this link; any other is unknown here."""
        raw = parse_token(token)
        number = self._registry.find(raw) if raw else -1
        if number < 0 or self._registry.link(number) != link:
            raise UnknownToken("no such token on this connection")
        return number

    def _on_unregister(self, link: int, session: Session, body: bytes) -> None:
        ask = parse_body(body, Unregister)
        number = self._own(ask.token, link)
        self._edge.unbind(link, number)
        if not self._registry.bound(session.key):
            self._edge.remember(link, session)

        async def work() -> None:
            if ask.forget:
                await self._directory.revoke(number)
            else:
                await self._directory.sign_out(number)
            self._edge.send(link, build_frame(FrameType.DONE, Done(req=ask.req)))

        self._later(link, ask.req, work())

    # --- FETCH (A4, B2)

    def _on_fetch(self, link: int, _session: Session, body: bytes) -> None:
        ask = parse_body(body, Fetch)
        number = self._own(ask.token, link)
        count, more = self._edge.events.on_fetch(number, ask.ids)
        self._edge.send(link, build_frame(FrameType.FETCHED, Fetched(req=ask.req, count=count, more=more)))

    # --- STATE (A6)

    def _on_state(self, link: int, session: Session, body: bytes) -> None:
        ask = parse_body(body, State)
        done = Done(req=ask.req)
        if ask.heartbeat:
            done.heartbeat = agree_heartbeat(ask.heartbeat, self._config)
            reactor = self._edge.plane.of(link)
            self._edge.plane.sent(reactor.set_silence(link, silence_ms(done.heartbeat)))
        self._edge.send(link, build_frame(FrameType.DONE, done))
        if ask.urgency >= 0:
            self._edge.set_floor(link, ask.urgency)
            # What was below the old floor may go now.
            self._edge.events.on_ready(self._registry.bound(session.key))
