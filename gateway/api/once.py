"""Idempotency keys: the same key and body is one push, however often and however concurrently it is sent.

Must never accept a push for a key whose first push is still on its way: the second waits and shares its
fate.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from gateway.api.ports import Accepting, Backend
from gateway.delivery.request import PushRequest
from gateway.metrics import Metric
from gateway.model.errors import AcceptTimeout, BadRequest, Conflict, GatewayError
from gateway.model.registration import App

MAX_KEY_CHARS = 128
#: order of map keys must not make another body of it
_canonical = msgspec.msgpack.Encoder(order="deterministic")


class Push(NamedTuple):
    """A push on its way; `future` None: it is there already."""

    seq: int
    future: asyncio.Future[None] | None
    replayed: bool = False
    targeted: int | None = None


class _Flight(NamedTuple):
    body_hash: bytes
    push: Push


def hash_body(request: PushRequest) -> bytes:
    """SHA-256 of what is asked for, whatever the spelling (JSON or msgpack, order of fields); without the key."""
    return hashlib.sha256(_canonical.encode(msgspec.structs.replace(request, idempotency_key=""))).digest()


def with_header(request: PushRequest, header: str | None) -> PushRequest:
    """The request with the key of an Idempotency-Key header."""
    if header is None:
        return request
    if not 0 < len(header) <= MAX_KEY_CHARS or not header.isprintable():
        raise BadRequest(f"an idempotency key has 1 to {MAX_KEY_CHARS} printable characters", field="Idempotency-Key")
    if request.idempotency_key not in ("", header):
        raise BadRequest("header and field name different idempotency keys", field="idempotency_key")
    return msgspec.structs.replace(request, idempotency_key=header)


class Once:
    """Starts pushes, or finds the one that was started for the same key."""

    def __init__(self, backend: Backend, *, now_s: Callable[[], float] = time.time) -> None:
        self._backend = backend
        self._now_s = now_s
        self._flights: dict[tuple[str, str], _Flight] = {}  # bounded by the journal's own bound on uncommitted rows

    def start(self, app: App, request: PushRequest) -> Push:
        """Raises GatewayError where it is refused; Conflict where the key was used with another body."""
        key = request.idempotency_key
        if not key:
            return as_push(self._backend.pushing.push(app, request))
        body_hash = hash_body(request)
        flight = self._flights.get((app.name, key))
        if flight is not None:
            return self._again(flight.push, same=flight.body_hash == body_hash)
        kept = self._backend.memory.recall_idempotent(app.name, key)
        if kept is not None:
            return self._again(Push(kept.seq, None), same=kept.body_hash == body_hash)
        push = as_push(self._backend.pushing.push(app, request))
        expires_s = int(self._now_s()) + self._backend.config.idempotency_s
        # Before the commit, so that key and push are durable together.
        self._backend.memory.remember(app.name, key, body_hash, push.seq, expires_s)
        if push.future is not None and not push.future.done():
            self._flights[app.name, key] = _Flight(body_hash, push)
            push.future.add_done_callback(lambda _: self._flights.pop((app.name, key), None))
        return push

    def _again(self, push: Push, *, same: bool) -> Push:
        if not same:
            raise Conflict("This idempotency key was used with another body.", field="idempotency_key")
        self._backend.metrics.count(Metric.API_REPLAYS)
        return push._replace(replayed=True)


def as_push(accepted: Accepting) -> Push:
    targeted = getattr(accepted, "targeted", None)
    return Push(accepted.seq, accepted.future, False, targeted)


async def settle(push: Push, timeout_s: float) -> None:
    """Wait until it is accepted for good; never cancels it. Raises what made it fail, AcceptTimeout in the end."""
    future = push.future
    if future is None:
        return
    if not future.done():
        await asyncio.wait((future,), timeout=max(timeout_s, 0))
    if not future.done():
        future.add_done_callback(_retrieve)
        raise AcceptTimeout
    if future.cancelled():
        raise GatewayError
    error = future.exception()
    if error is not None:
        raise error


def _retrieve(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
