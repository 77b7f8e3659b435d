"""Answers REGISTER, UNREGISTER and FETCH from the directory of this machine; must never answer before what it says is
durable."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.auth.service_keys import ServiceKeys
from gateway.config.sections import Edge as EdgeConfig
from gateway.edge.link_requests import Enrolled, Fetching, LinkRequests, Work
from gateway.edge.login import Session
from gateway.model.errors import TooManyRequests
from gateway.model.frames import Done, Fetch, FrameType, Register, Unregister, build_frame, parse_body
from gateway.model.registration import CLAIM, App, Loss, Profile, Registration
from gateway.model.service_page import parse_servers
from gateway.store.directory import Directory

if TYPE_CHECKING:
    from gateway.edge.server import EdgeServer


def servers_of(app: App | None) -> list[str]:
    """Which service pages to registrations of the app may name by their place (C13)."""
    return parse_servers(app.notifiers.get("service", {}).get("servers", "")) if app else []


class DeviceRequests(LinkRequests):
    def __init__(
        self,
        edge: EdgeServer,
        directory: Directory,
        config: EdgeConfig,
        clock: Callable[[], int],
        service_keys: ServiceKeys | None = None,
    ) -> None:
        super().__init__(edge, directory, config, clock, service_keys)
        self._directory = directory

    # --- REGISTER (A1, A5)

    def on_register(self, link: int, session: Session, body: bytes) -> Work | None:
        ask = parse_body(body, Register)
        if self.changes.is_full(session.key, self._clock()):
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
            self.changes.admit(session.key, self._clock())
        if committed is None and (ask.keep or not self.others(session, ask, registration.number)):
            self.bind(link, session, ask, self._enrol(ask, registration, created))
            return None

        async def when_durable() -> None:
            if committed is not None:
                await committed
            while not ask.keep and (others := self.others(session, ask, registration.number)):
                if self._registry.device_link(session.key) != link:
                    return
                # A5: this account takes their place. In force at once, and durable before the device is told.
                signed_out = [self._directory.sign_out(other) for other in others]
                for other in others:
                    self._edge.unbind(link, other)
                await asyncio.gather(*signed_out)
            self.bind(link, session, ask, self._enrol(ask, registration, created))

        return when_durable()

    def _enrol(self, ask: Register, registration: Registration, created: bool) -> Enrolled:
        if not ask.pages:
            return Enrolled(registration.number, registration.token, created)
        return Enrolled(registration.number, registration.token, created, servers_of(self._directory.app(ask.app)))

    # --- UNREGISTER

    def on_unregister(self, link: int, session: Session, body: bytes) -> Work:
        ask = parse_body(body, Unregister)
        number = self.own(ask.token, link)
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

    def on_fetch(self, link: int, _session: Session, body: bytes) -> None:
        ask = parse_body(body, Fetch)
        number = self.own(ask.token, link)
        sent: set[int] = set()
        self._edge.tally = sent
        try:
            _, more = self._edge.events.on_fetch(number, ask.ids)
        finally:
            self._edge.tally = None
        # What the reactor has no room for comes back before the echo: only then it is known what was sent.
        self.fetches.setdefault(link, deque()).append(Fetching(ask.req, sent, more))
        self._edge.plane.insist(self._edge.plane.of(link).echo, link)
