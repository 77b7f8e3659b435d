"""What the provider door asks of the floors below it; it must never reach past these into a store or an edge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from gateway.auth.api_keys import ApiKeys
from gateway.config.sections import Api
from gateway.delivery.push_ids import PushIds
from gateway.delivery.request import PushRequest
from gateway.metrics import Metrics
from gateway.model.errors import GatewayError
from gateway.model.ports import Directory, Receipts
from gateway.model.registration import App


class Accepting(Protocol):
    """A push on its way into the journal; `future` is done after the commit or the device's ack, whichever is first."""

    @property
    def seq(self) -> int: ...

    @property
    def future(self) -> asyncio.Future[None]: ...


class Pushing(Protocol):
    """delivery's front. All of it returns at once."""

    def push(self, app: App, request: PushRequest) -> Accepting:
        """Raises GatewayError where it is refused."""
        ...

    def push_many(self, app: App, requests: Sequence[PushRequest]) -> Sequence[Accepting | GatewayError]:
        """One result a request, in order; all of them share commits."""
        ...

    def recall(self, app: App, seq: int) -> tuple[int, int]:
        """(deliveries recalled, deliveries it was too late for); raises UnknownPush."""
        ...


class Remembered(NamedTuple):
    """What the store kept for an idempotency key."""

    seq: int
    body_hash: bytes


class Memory(Protocol):
    """Idempotency keys, kept by the store."""

    def recall_idempotent(self, app: str, key: str) -> Remembered | None: ...

    def remember(self, app: str, key: str, body_hash: bytes, seq: int, expires_s: int) -> None:
        """Durable with the commit of that push; gone again where that commit fails."""
        ...


class Stopping:
    """The gateway drains: long answers end soon. Set once, never unset."""

    def __init__(self) -> None:
        self.is_set = False
        self._wakes: set[Callable[[], None]] = set()

    def set(self) -> None:
        self.is_set = True
        for wake in list(self._wakes):
            wake()

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """`wake` is called when it is set; returns the unsubscribe."""
        self._wakes.add(wake)
        return lambda: self._wakes.discard(wake)


@dataclass(slots=True, kw_only=True)
class Backend:
    """Everything the provider door works with, handed in by the composition root."""

    config: Api
    keys: ApiKeys
    directory: Directory
    receipts: Receipts
    pushing: Pushing
    memory: Memory
    push_ids: PushIds
    metrics: Metrics
    # takes a registration away for good, pending deliveries too (Event.REVOKE)
    revoke: Callable[[int], asyncio.Future[None]]
    # is this registration's device connected now (B1)?
    is_connected: Callable[[int], bool]
    # why the gateway can not take pushes now; empty = ready
    readiness: Callable[[], Sequence[str]]
    # notifiers an app may name; empty = not checked
    notifiers: Sequence[str] = ()
    stopping: Stopping = field(default_factory=Stopping)
