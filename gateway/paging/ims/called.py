"""Whom a request is for (C14): from a public identity to the subscriber, in the records here, else at the HSS; must
never take another way for who opted out than for who is unknown.

A pager looks up whom it pages by an opaque id. Who is called may have none, so for as long as a call takes there is a
name that only this process knows, drawn from the system's generator, and `resolve` knows it as it knows ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator

from gateway.identity.classes import Classes
from gateway.identity.network_ids import parse_network_id
from gateway.identity.resolver import is_out
from gateway.model.errors import BadRequest
from gateway.model.ports import ImsHome, Subscribers
from gateway.model.subscriber import NetworkId, NetworkIdKind, OpaqueKind, Subscriber, SubscriberRecord
from gateway.model.subscriber_records import SubscriberRecords

#: no opaque id begins so (gateway/identity/opaque_ids.py)
PREFIX = "called:"
_NAME_BYTES = 20


class Called:
    """model.ports.Subscribers, for ids and for who is called now. One for a gateway."""

    def __init__(
        self,
        app: str,
        records: SubscriberRecords,
        classes: Classes,
        inner: Subscribers,
        home: ImsHome | None = None,
        home_timeout_s: float = 2.0,
    ) -> None:
        self._app = app
        self._records = records
        self._classes = classes.of_app(app)
        self._inner = inner
        self._home = home
        self._home_timeout_s = home_timeout_s
        self._names: dict[str, Subscriber] = {}
        self._key = os.urandom(32)

    async def resolve(self, opaque: str, app: str) -> Subscriber | None:
        if opaque.startswith(PREFIX):
            return self._names.get(opaque) if app == self._app else None
        return await self._inner.resolve(opaque, app)

    def ask_at(self, home: ImsHome) -> None:
        """The HSS that is asked for who is not in the records, or has no number there."""
        self._home = home

    @contextlib.contextmanager
    def named(self, subscriber: Subscriber) -> Iterator[str]:
        """The name to page by, good inside."""
        name = PREFIX + secrets.token_urlsafe(_NAME_BYTES)
        self._names[name] = subscriber
        try:
            yield name
        finally:
            del self._names[name]

    async def find(self, impu: str) -> Subscriber | None:
        """None where it is nobody, nobody who may be paged, or no IMPU. TimeoutError, OSError, ValueError or
        ConfigError where it can not be looked up now."""
        try:
            identity = parse_network_id(NetworkIdKind.IMPU, impu)
        except BadRequest:
            return None
        names = [identity]
        if identity.value.startswith("tel:"):
            names.append(NetworkId(NetworkIdKind.MSISDN, identity.value.removeprefix("tel:")))
        found = self._look_up(names)
        if found is not None and self._is_pageable(found[1]):
            return self._build(found[0], found[1].network_ids(), found[1])
        # who opted out is asked for like who is unknown
        numbers = await self._ask_home(identity.value)
        if numbers is None:
            return None
        by_number = self._look_up(numbers)
        if found is not None and is_out(found[1], self._app, self._classes):
            return None  # whatever record the HSS's number is in
        known = by_number or found
        if known is not None:
            own = known[1].network_ids()
            return self._build(known[0], [*numbers, *own], known[1])
        # the same subscriber has the same handle, so that limits across calls hold; it says nothing outside
        first = numbers[0]
        handle = hashlib.blake2b(f"{first.kind}:{first.value}".encode(), key=self._key, digest_size=16).digest()
        return self._build(handle, numbers, None)

    def _look_up(self, names: list[NetworkId]) -> tuple[bytes, SubscriberRecord] | None:
        found = None
        for name in names:
            handle = self._records.find(name)
            record = self._records.read(handle)
            if found is None and handle is not None and record is not None:
                found = handle, record
        return found

    def _is_pageable(self, record: SubscriberRecord) -> bool:
        has_number = record.has_any((NetworkIdKind.MSISDN, NetworkIdKind.IMSI))
        return has_number and not is_out(record, self._app, self._classes)

    def _build(
        self, handle: bytes, network: list[NetworkId] | tuple[NetworkId, ...], record: SubscriberRecord | None
    ) -> Subscriber | None:
        if record is not None and is_out(record, self._app, self._classes):
            return None
        return Subscriber(handle, network, OpaqueKind.O_TMSN, self._app)

    async def _ask_home(self, impu: str) -> list[NetworkId] | None:
        """None where the HSS knows nobody, or no number of whom it knows, or there is none to ask."""
        if self._home is None:
            return None
        async with asyncio.timeout(self._home_timeout_s):
            told = await self._home.find(impu)
        found = []
        for kind, value in (
            (NetworkIdKind.MSISDN, told.msisdn if told is not None else ""),
            (NetworkIdKind.IMSI, told.imsi if told is not None else ""),
        ):
            if value:
                try:
                    found.append(parse_network_id(kind, value))
                except BadRequest:
                    raise ValueError("the HSS answers with what is no number") from None
        return found or None
