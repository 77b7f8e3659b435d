"""Quotas of an app are counted in one place, its home partition, however many nodes its pushes come to; must never ask
anybody for an app that has none."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec

from gateway.fleet.error_rows import build_error_row, parse_error_row
from gateway.fleet.owners import Owners
from gateway.fleet.ports import Core
from gateway.model.cluster import home_of
from gateway.model.errors import BadRequest, GatewayError, NodeUnreachable, UnknownApp
from gateway.model.registration import App, Limits

KIND, BACK = "quota", "quota.back"
#: refunds on their way at once; past it a push that was refused counts
MOST_REFUNDS = 1_000
_NONE = Limits()
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, str, int]).decode
_decode_answer = msgspec.msgpack.Decoder(tuple[int, list[Any] | None]).decode


def has_limits(app: App, key_id: str) -> bool:
    return app.limits != _NONE or any(key.id == key_id and key.limits != _NONE for key in app.keys)


def _has_days(app: App, key_id: str) -> bool:
    return bool(app.limits.per_day) or any(key.id == key_id and key.limits.per_day for key in app.keys)


def parse_wanted(body: bytes) -> tuple[str, str, int]:
    """(app, key id, pushes). BadRequest."""
    try:
        name, key_id, count = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise BadRequest("this is no question about a quota") from error
    if count < 0:
        raise BadRequest("a number of pushes is not negative")
    return name, key_id, count


class QuotaHome:
    """Control thread only."""

    def __init__(self, owners: Owners) -> None:
        self._owners = owners
        self._refunds: set[asyncio.Task[None]] = set()
        owners.serve(KIND, self._on_wanted)
        owners.serve(BACK, self._on_back)

    async def admit(self, app: App, key_id: str, count: int) -> tuple[int, GatewayError | None]:
        """As delivery.quotas.Quotas.admit. NodeUnreachable where the home can not be asked."""
        if not count or not has_limits(app, key_id):
            return count, None
        home = home_of(app.name, self._owners.partitions)
        raw = await self._owners.ask(home, KIND, _encode((app.name, key_id, count)))
        try:
            allowed, row = _decode_answer(raw)
        except (msgspec.DecodeError, ValueError) as error:
            raise NodeUnreachable("a node answered with something that is no answer") from error
        return min(allowed, count), None if row is None else parse_error_row(row)

    async def require(self, app: App, key_id: str) -> None:
        """Count one push, or raise: Backend.admit_elsewhere of every core."""
        _, error = await self.admit(app, key_id, 1)
        if error is not None:
            raise error

    def refund(self, app: App, key_id: str, count: int) -> None:
        """So many of those that were admitted were refused after all. Where the home can not be asked, they count."""
        if count and _has_days(app, key_id) and len(self._refunds) < MOST_REFUNDS:
            task = asyncio.get_running_loop().create_task(self._refund(app.name, key_id, count))
            self._refunds.add(task)
            task.add_done_callback(self._refunds.discard)

    async def _refund(self, app: str, key_id: str, count: int) -> None:
        with contextlib.suppress(GatewayError):
            await self._owners.ask(home_of(app, self._owners.partitions), BACK, _encode((app, key_id, count)))

    def _on_back(self, core: Core, body: bytes) -> bytes:
        name, key_id, count = parse_wanted(body)
        app = core.backend.directory.app(name)
        if app is not None:
            core.backend.quotas.refund(app, key_id, count, core.backend.now_ms())
        return b""

    def _on_wanted(self, core: Core, body: bytes) -> bytes:
        name, key_id, count = parse_wanted(body)
        app = core.backend.directory.app(name)
        if app is None:
            raise UnknownApp
        allowed, error = core.backend.quotas.admit(app, key_id, count, core.backend.now_ms())
        return _encode((allowed, None if error is None else build_error_row(error)))
