"""Idempotency keys: the same key and body is one push, however often and however concurrently it is sent.

Must never accept a push for a key whose first push is still on its way: the second waits and shares its
fate.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from gateway.api.ports import Accepting, Backend
from gateway.api.views import count_targeted
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
    """SHA-256 of what is asked for, whatever the spelling (JSON or msgpack, order of fields).

    Raises BadRequest for data that has no such form, as a number past 64 bits.
    """
    try:
        return hashlib.sha256(_canonical.encode(request)).digest()
    except (OverflowError, TypeError, ValueError, RecursionError) as error:
        raise BadRequest("data holds a value that can not be sent to a device", field="data") from error


def with_header(request: PushRequest, header: str | None) -> PushRequest:
    """The request with the key of an Idempotency-Key header."""
    key = choose_key(header, request.idempotency_key)
    return request if key == request.idempotency_key else msgspec.structs.replace(request, idempotency_key=key)


def choose_key(header: str | None, field: str) -> str:
    """The idempotency key of a request; empty: it has none. BadRequest."""
    if header is None:
        return field
    if not 0 < len(header) <= MAX_KEY_CHARS or not header.isprintable():
        raise BadRequest(f"an idempotency key has 1 to {MAX_KEY_CHARS} printable characters", field="Idempotency-Key")
    if field not in ("", header):
        raise BadRequest("header and field name different idempotency keys", field="idempotency_key")
    return header


class Once:
    """Starts pushes, or finds the one that was started for the same key."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._flights: dict[tuple[str, str], _Flight] = {}  # bounded by the journal's own bound on uncommitted rows
        self._spare_s: int | None = None
        self._ttl_s = 0

    def outlive(self, ttl_s: int, spare_s: int) -> None:
        """From now on a push's key is kept `spare_s` longer than the push lives, too: a spool may ask for it so long.
        `ttl_s`: of a push that names none, nor its app."""
        self._ttl_s = ttl_s
        self._spare_s = spare_s

    def start(self, app: App, request: PushRequest) -> Push:
        """Raises GatewayError where it is refused; Conflict where the key was used with another body."""
        acceptor, now_ms = self._backend.acceptor, self._backend.now_ms()
        key = request.idempotency_key
        if not key:
            return as_push(acceptor.push(app, request, now_ms))
        request = msgspec.structs.replace(request, idempotency_key="")  # settled here, and durably
        return self.start_keyed(
            app,
            key,
            hash_body(request),
            # Were it sent before its key is durable, a crash between the two would make the repetition a second push.
            begin=lambda: as_push(acceptor.push(app, request, now_ms, durable_first=True)),
            find=lambda seq: Push(seq, None, targeted=self._targeted(app, seq)),
            until_s=self._until_s(app, request, now_ms),
        )

    def _until_s(self, app: App, request: PushRequest, now_ms: int) -> int:
        # From its time on, where that is later: a repetition as it comes up must find it, or makes a second push.
        due_s = max(request.deliver_at or 0, now_ms // 1000)
        longest_s = self._backend.config.idempotency_s
        if self._spare_s is not None:
            ttl_s = request.ttl if request.ttl is not None else app.ttl_s or self._ttl_s
            longest_s = max(longest_s, ttl_s + self._spare_s)
        return due_s + longest_s

    def start_keyed(
        self,
        app: App,
        key: str,
        body_hash: bytes,
        *,
        begin: Callable[[], Push],
        find: Callable[[int], Push],
        until_s: int = 0,
    ) -> Push:
        """`begin` starts what is durable before anything of it goes out; `find` describes one that is there. The key is
        kept as long as the configuration says, and until `until_s` (Unix) at least."""
        backend, now_ms = self._backend, self._backend.now_ms()
        flight = self._flights.get((app.name, key))
        if flight is not None:
            return self._again(flight.push, same=flight.body_hash == body_hash)
        kept = backend.memory.recall_idempotent(app.name, key)
        if kept is not None:
            seq, kept_hash = kept
            return self._again(find(seq), same=kept_hash == body_hash)
        push = begin()
        # In the same turn, so that key and push are one commit: neither is ever there without the other.
        until_s = max(until_s, now_ms // 1000 + backend.config.idempotency_s)
        kept_future = backend.memory.remember(app.name, key, body_hash, push.seq, until_s, joined=True)
        kept_future.add_done_callback(_retrieve)  # the push's own future tells of a failure
        if push.future is not None and not push.future.done():
            self._flights[app.name, key] = _Flight(body_hash, push)
            push.future.add_done_callback(lambda _: self._flights.pop((app.name, key), None))
        return push

    def known(self, app: App, key: str, body_hash: bytes) -> Push | None:
        """The push that was started with this key and body, to be settled before it is told of; None: none was, or the
        key is over. With another body it is another push."""
        flight = self._flights.get((app.name, key))
        if flight is not None:
            return flight.push if flight.body_hash == body_hash else None
        kept = self._backend.memory.recall_idempotent(app.name, key)
        return None if kept is None or kept[1] != body_hash else Push(kept[0], None)

    def _again(self, push: Push, *, same: bool) -> Push:
        if not same:
            raise Conflict("This idempotency key was used with another body.", field="idempotency_key")
        self._backend.metrics.count(Metric.API_REPLAYS)
        return push._replace(replayed=True)

    def _targeted(self, app: App, seq: int) -> int | None:
        record = self._backend.receipts.lookup(app.name, seq, limit=0)
        return None if record is None else count_targeted(record)


def as_push(accepted: Accepting) -> Push:
    return Push(accepted.seq, accepted.done, targeted=accepted.targeted)


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
