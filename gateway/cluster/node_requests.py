"""REGISTER, UNREGISTER and FETCH of devices whose registrations are kept by other nodes; must never tell a device what
an owner has not made durable.

A5 is the node's: it knows what else is in use on the device, wherever that is kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from gateway.auth.service_keys import ServiceKeys
from gateway.cluster.far_door import END, FETCH, REGISTER
from gateway.cluster.far_wire import (
    WIRE_VERSION,
    AskEnd,
    AskFetch,
    AskRegister,
    Fetched,
    Registered,
    build_body,
    parse_body,
)
from gateway.cluster.lateness import monotonic_ms
from gateway.cluster.node_events import NodeEvents
from gateway.cluster.node_homes import NodeHomes
from gateway.config.sections import Edge as EdgeConfig
from gateway.edge.link_requests import Enrolled, Fetching, LinkRequests, Work
from gateway.edge.login import Session
from gateway.edge.server import EdgeServer
from gateway.model import frames
from gateway.model.cluster import Bus, Members
from gateway.model.errors import NodeUnreachable, TooManyRequests, UnknownToken
from gateway.model.frames import Done, Fetch, FrameType, Register, State, Unregister, build_frame

_T = TypeVar("_T")


class NodeRequests(LinkRequests):
    """`home_of`: device, app, account → partition."""

    def __init__(
        self,
        edge: EdgeServer,
        homes: NodeHomes,
        events: NodeEvents,
        bus: Bus,
        members: Members,
        home_of: Callable[[str, str, str], int],
        config: EdgeConfig,
        clock: Callable[[], int],
        service_keys: ServiceKeys | None,
        timeout_s: float,
    ) -> None:
        super().__init__(edge, homes, config, clock, service_keys)
        self._homes = homes
        self._events = events
        self._bus = bus
        self._members = members
        self._home_of = home_of
        self._timeout_s = timeout_s
        #: links with a FETCH that has no answer yet → what came back meanwhile
        self._spilled: dict[int, set[int]] = {}

    async def _ask(self, node: int, kind: str, body: bytes, answer: type[_T]) -> _T:
        # What the device said before it asked is heard before: a FETCH ahead of the ack of a light form would make that
        # the ack of the body.
        self._events.flush()
        raw = await self._bus.ask(node, kind, body, timeout_s=self._timeout_s)
        try:
            return parse_body(raw, answer)
        except ValueError:
            raise NodeUnreachable("the owner answered in a way that is not known here") from None

    def _owner(self, partition: int) -> tuple[int, int]:
        owner = self._members.owner(partition)
        if not owner.node:
            raise NodeUnreachable("this token's part of the fleet has no owner at the moment")
        return owner.node, owner.epoch

    # --- REGISTER (A1, A5)

    def on_register(self, link: int, session: Session, body: bytes) -> Work:
        ask = frames.parse_body(body, Register)
        if self.changes.is_full(session.key, self._clock()):
            raise TooManyRequests("this device registered or changed too much in the last minute", after_ms=60_000)
        partition = self._home_of(session.device, ask.app, ask.account)
        node, epoch = self._owner(partition)
        question = AskRegister(
            version=WIRE_VERSION,
            partition=partition,
            epoch=epoch,
            device=session.device,
            app=ask.app,
            app_version=ask.version,
            account=ask.account,
            alias=ask.alias,
            tags=ask.tags,
            addresses=ask.addresses,
            fallback=ask.fallback,
            os=ask.os,
            locale=ask.locale,
            timezone=ask.timezone,
            quiet=ask.quiet,
            vapid_key=ask.vapid_key,
            pages=ask.pages,
            asked_ms=monotonic_ms(),
            wait_ms=int(self._timeout_s * 1000),
        )
        return self._register(link, session, ask, node, question)

    async def _register(self, link: int, session: Session, ask: Register, node: int, question: AskRegister) -> None:
        answer = await self._ask(node, REGISTER, build_body(question), Registered)
        if answer.changed:
            self.changes.admit(session.key, self._clock())
        if self._registry.device_link(session.key) != link:
            return  # gone or taken over meanwhile
        local = self._homes.take(
            question.partition, answer.number, answer.token, session.device, ask.app, answer.cohort
        )
        try:
            while not ask.keep and (others := self.others(session, ask, local)):
                await asyncio.gather(*[self._end(other, forget=False) for other in others])
                if self._registry.device_link(session.key) != link:
                    return
                for other in others:
                    if self._registry.link(other) == link:
                        self._edge.unbind(link, other)
            was_bound = self._registry.link(local) == link
            self.bind(link, session, ask, Enrolled(local, answer.token, answer.created, answer.servers))
            if was_bound:
                self._events.bound(local, again=True)  # its owner may not know
        finally:
            if not self._registry.link(local):
                self._homes.release(local)

    async def _end(self, local: int, *, forget: bool) -> None:
        partition = self._homes.table.partition(local)
        node, epoch = self._owner(partition)
        ask = AskEnd(
            WIRE_VERSION, partition, epoch, self._homes.table.number(local), self._homes.attachment(local), forget
        )
        await self._bus.ask(node, END, build_body(ask), timeout_s=self._timeout_s)

    # --- UNREGISTER

    def on_unregister(self, link: int, session: Session, body: bytes) -> Work:
        ask = frames.parse_body(body, Unregister)
        return self._unregister(link, session, ask, self.own(ask.token, link))

    async def _unregister(self, link: int, session: Session, ask: Unregister, local: int) -> None:
        await self._end(local, forget=ask.forget)
        if self._registry.link(local) == link:
            self._edge.unbind(link, local)
            if not self._registry.bound(session.key):
                self._edge.remember(link, session)
        self._edge.send(link, build_frame(FrameType.DONE, Done(req=ask.req)))

    # --- FETCH (A4, B2)

    def on_fetch(self, link: int, session: Session, body: bytes) -> Work:  # noqa: ARG002 - the shape of a handler
        ask = frames.parse_body(body, Fetch)
        return self._fetch(link, ask, self.own(ask.token, link))

    async def _fetch(self, link: int, ask: Fetch, local: int) -> None:
        partition = self._homes.table.partition(local)
        node, epoch = self._owner(partition)
        question = AskFetch(
            WIRE_VERSION, partition, epoch, self._homes.table.number(local), self._homes.attachment(local), ask.ids
        )
        # What comes back for want of room before the answer is here is its own, too.
        fetching = Fetching(ask.req, set(), more=False)
        spilled = self._spilled.setdefault(link, set())
        try:
            answer = await self._ask(node, FETCH, build_body(question), Fetched)
        finally:
            self._spilled.pop(link, None)
        if self._registry.link(local) != link:
            raise UnknownToken("no such token on this connection")
        fetching.sent = set(answer.sent) - spilled
        fetching.more = answer.more or len(fetching.sent) < len(answer.sent)
        self.fetches.setdefault(link, deque()).append(fetching)
        self._edge.plane.insist(self._edge.plane.of(link).echo, link)

    def on_spilled(self, link: int, seq: int) -> None:
        waiting = self._spilled.get(link)
        if waiting is not None:
            waiting.add(seq)
        super().on_spilled(link, seq)

    # --- STATE (A6)

    def on_state(self, link: int, session: Session, body: bytes) -> None:
        ask = frames.parse_body(body, State)
        if ask.urgency >= 0:
            self._events.floor(link, session.key, ask.urgency)
        super().on_state(link, session, body)
