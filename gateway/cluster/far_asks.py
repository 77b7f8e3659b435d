"""Answers what nodes ask a partition's core for their devices: REGISTER, UNREGISTER, FETCH; must never answer before
what it says is durable.
"""

from __future__ import annotations

import asyncio

from gateway.cluster.far_edge import FarEdge
from gateway.cluster.far_wire import AskEnd, AskFetch, AskRegister, Fetched, Registered, build_body
from gateway.edge.requests import servers_of
from gateway.model.cluster import far_link
from gateway.model.cohort import build_cohort
from gateway.model.errors import NodeUnreachable, Overloaded, UnknownToken
from gateway.model.registration import CLAIM, Loss, Profile
from gateway.store.directory import Directory


class FarAsks:
    """Of one core."""

    def __init__(self, edge: FarEdge, directory: Directory) -> None:
        self._edge = edge
        self._directory = directory
        self._registry = directory.registry

    async def register(self, ask: AskRegister) -> bytes:
        """The node binds it and says so; until then it is connected nowhere."""
        registration, created, committed = self._directory.register(
            ask.device,
            ask.app,
            ask.app_version,
            ask.account,
            alias=ask.alias,
            tags=ask.tags,
            addresses=ask.addresses,
            fallback=ask.fallback,
            profile=Profile(ask.os, ask.locale, ask.timezone, ask.quiet),
            vapid_key=ask.vapid_key,
        )
        claimed = CLAIM in (ask.addresses or ()) and self._directory.opaque.claim(registration)
        if committed is not None:
            await committed
        if not self._registry.has(registration.number):
            raise Overloaded("the token was revoked while it was being registered; connect and register again")
        return build_body(
            Registered(
                number=registration.number,
                token=registration.token,
                created=created,
                changed=committed is not None or bool(claimed),
                cohort=build_cohort(self._directory.cohort(registration.number)),
                servers=servers_of(self._directory.app(ask.app)) if ask.pages else [],
            )
        )

    async def end(self, node: int, ask: AskEnd) -> bytes:
        number = ask.number
        if not self._registry.has(number):
            raise UnknownToken("no such token on this connection")
        if ask.forget:
            await self._directory.revoke(number, Loss.FORGOTTEN)
            self._edge.events.revoke(number)
            return b""
        written: asyncio.Future[None] = self._directory.sign_out(number)
        link = far_link(node, ask.attachment)
        if self._registry.link(number) == link:
            self._edge.unbind(number, link)
        await written
        return b""

    def fetch(self, node: int, ask: AskFetch) -> bytes:
        """What is sent leaves before the answer."""
        if ask.number >= 1 << 31 or self._registry.link(ask.number) != far_link(node, ask.attachment):
            raise NodeUnreachable("the owner of this token does not know of this connection yet")
        sent: set[int] = set()
        self._edge.tally = sent
        try:
            _, more = self._edge.events.on_fetch(ask.number, ask.ids)
        finally:
            self._edge.tally = None
        self._edge.flush()
        return build_body(Fetched(sorted(sent), more))
