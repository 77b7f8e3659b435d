"""What the provider door asks of the floors below it; it must never reach past these into a store or an edge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from gateway.auth.api_keys import ApiKeys
from gateway.auth.service_keys import ServiceKeys
from gateway.config.sections import Api
from gateway.delivery.opaque_tokens import OpaqueIndex
from gateway.delivery.push_ids import PushIds
from gateway.delivery.quotas import Quotas, is_refused
from gateway.delivery.request import PushRequest
from gateway.identity import Identity
from gateway.metrics import Metrics
from gateway.model.cluster import Stranded
from gateway.model.errors import GatewayError, Unauthorized
from gateway.model.ports import Deaths, Directory, Notifier, Receipts, Schedules
from gateway.model.registration import App

if TYPE_CHECKING:
    from gateway.api.cards.ports import CardDoor
    from gateway.api.im.ports import ImRest


class Accepting(Protocol):
    """A push that was taken in (delivery.accept.Accepted)."""

    @property
    def seq(self) -> int: ...

    @property
    def done(self) -> asyncio.Future[None]:
        """Done after the commit or the device's ack, whichever is first; may raise StoreUnavailable."""
        ...

    @property
    def targeted(self) -> int | None: ...


class Accepts(Protocol):
    """The way in for pushes; delivery.accept.Acceptor. Idempotency keys are settled before (see `once`)."""

    def push(self, app: App, request: PushRequest, now_ms: int, *, durable_first: bool = False) -> Accepting:
        """Raises GatewayError where it is refused. `durable_first`: nothing is sent, and `done` is not done, before
        the commit."""
        ...

    def push_many(self, app: App, requests: Sequence[PushRequest], now_ms: int) -> Sequence[Accepting | GatewayError]:
        """One result a request, in order; all of them in one commit."""
        ...


class Taken(Protocol):
    """A batch that was taken in (delivery.batch_accept.TakenBatch)."""

    @property
    def count(self) -> int: ...

    @property
    def first(self) -> int:
        """Where all were accepted, one behind the other, the sequence of the first; else 0. Final when `done` is."""
        ...

    def result(self, index: int) -> int | GatewayError | None:
        """Sequence of an accepted push, the error of a refused one, None for one to be looked at alone; final when
        `done` is."""
        ...

    @property
    def apart(self) -> list[int]:
        """Indices of those to be looked at alone."""
        ...

    @property
    def done(self) -> asyncio.Future[None]:
        """Never fails: each push has its own result."""
        ...

    def raw(self, index: int) -> bytes: ...


class TakesBatches(Protocol):
    """The way in for many pushes at once; delivery.batch_accept.BatchAcceptor."""

    def accept(self, app: App, arrays: list[bytes | memoryview], most: int, now_ms: int) -> Taken:
        """`arrays`: packed arrays of push maps, one behind the other. BadRequest where one is none, or they have more
        than `most`."""
        ...


class Dispatches(Protocol):
    """What can be done to a push under way; delivery.dispatcher.Dispatcher."""

    @property
    def notifiers(self) -> Mapping[str, Notifier]:
        """What an app or registration may fall back to, by name."""
        ...

    async def recall(self, app: str, seq: int) -> int:
        """Durable when it returns how many deliveries were still pending; raises UnknownPush where nothing of it is
        live, StoreUnavailable where it can not be made durable now."""
        ...

    def look_again(self, registration: int) -> None:
        """Its quiet hours are others now."""
        ...

    def revoke(self, registration: int) -> None:
        """End what is pending for it."""
        ...


class Memory(Protocol):
    """Idempotency keys, kept by the store (store.receipts.Receipts)."""

    def recall_idempotent(self, app: str, key: str) -> tuple[int, bytes] | None:
        """(sequence, body hash)"""
        ...

    def remember(
        self, app: str, key: str, body_hash: bytes, seq: int, expires_s: int, *, joined: bool = False
    ) -> asyncio.Future[None]:
        """`joined`: called in the turn that accepts that push; durable with its commit, gone again where it fails. Else
        a GatewayError where there is no room for it."""
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


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True, kw_only=True)
class Backend:
    """Everything the provider door works with, handed in by the composition root."""

    config: Api
    keys: ApiKeys
    directory: Directory
    receipts: Receipts
    acceptor: Accepts
    batches: TakesBatches
    dispatcher: Dispatches
    memory: Memory
    quotas: Quotas
    schedules: Schedules
    deaths: Deaths
    push_ids: PushIds
    metrics: Metrics
    # is this registration's device connected now (B1)?
    is_connected: Callable[[int], bool]
    # why the gateway can not take pushes now; empty = ready
    readiness: Callable[[], Sequence[str]]
    # parts of a fleet that nobody serves: this door takes pushes for all others
    stranded: Callable[[], Sequence[Stranded]] = tuple
    # longest time to live a push may have, seconds
    max_ttl_s: int = 2_419_200
    # Unix milliseconds
    now_ms: Callable[[], int] = _unix_ms
    # opaque ids of subscribers; None: this door has no such routes
    identity: Identity | None = None
    # opaque ids in the place of tokens; None: there are none
    opaque: OpaqueIndex | None = None
    # an app has made a transaction at the T8 door
    on_transaction: Callable[[str], None] = lambda _: None
    # of service pages; None: there is no door for what they lead to
    service_keys: ServiceKeys | None = None
    # what is done for cards; None: nothing is
    cards: CardDoor | None = None
    # IM; None: this door has no such routes
    im: ImRest | None = None
    # has a certificate of the door this host name?
    bears: Callable[[str], bool] = lambda _: False
    # how often an app was changed: what was made from apps is made again
    app_changes: int = 0
    stopping: Stopping = field(default_factory=Stopping)
    #: the door closes soon, and others are open: each answer of HTTP/1.1 ends its connection, so that no request is on
    #: its way over one that is closed
    is_leaving: bool = False
    # counts one push of this app and key where its quotas are counted, in a fleet; None: here
    admit_elsewhere: Callable[[App, str], Awaitable[None]] | None = None
    # so many of those were refused after all
    refund_elsewhere: Callable[[App, str, int], None] = lambda _app, _key_id, _count: None

    def app_of_key(self, name: str, key_id: str) -> App:
        """The app as it is now: what a request asks for over minutes is looked at again. Unauthorized where its key was
        deleted meanwhile."""
        app = self.directory.app(name)
        if app is None or all(key.id != key_id for key in app.keys):
            raise Unauthorized("The API key is no longer valid.")
        return app

    @asynccontextmanager
    async def counted(self, app: App, key_id: str) -> AsyncIterator[None]:
        """Count one push, but for the day only where it is not refused inside. TooManyRequests where it may not be sent
        now."""
        if self.admit_elsewhere is None:
            with self.quotas.counted(app, key_id, self.now_ms()):
                yield
            return
        await self.admit_elsewhere(app, key_id)
        try:
            yield
        except GatewayError as error:
            if is_refused(error):
                self.refund_elsewhere(app, key_id, 1)
            raise
