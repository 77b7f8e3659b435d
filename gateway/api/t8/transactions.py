"""Transactions of the T8 door: what an application server asked for, and the push it is now; must never be found by
another app.

They stand where idempotency keys do, in the commit of their push. Each names the one its app made before it, so the
list of an app needs no index; all are kept equally long, so the list ends where they have lapsed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import msgspec

from gateway.api.ports import Backend
from gateway.api.t8.wire import DeliveryResult, DeviceTriggering
from gateway.model.outcome import Outcome, State

_ID_BYTES = 16
#: kept beyond the longest time to live, seconds: as long as history is kept by default
KEPT_S = 7 * 86_400

_RESULTS: dict[State, DeliveryResult] = {
    State.ACKED: "SUCCESS",
    State.EXPIRED: "EXPIRED",
    State.RECALLED: "TERMINATE",
    State.REPLACED: "REPLACED",
    State.REJECTED: "FAILURE",
    State.LIMITED: "FAILURE",
}


class Transaction(msgspec.Struct, array_like=True, frozen=True):
    """As it is kept."""

    id: str
    asked: DeviceTriggering
    #: URL of the door as its app server knows it, up to the scsAsId
    base: str
    #: id of the one before it; empty: the first
    before: str = ""
    is_removed: bool = False

    @property
    def url(self) -> str:
        return f"{self.base}/transactions/{self.id}"


class Kept(NamedTuple):
    transaction: Transaction
    seq: int  # of its push


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Transaction).decode


# No idempotency key of a provider is like these: those are printable.
def _key(transaction_id: str) -> str:
    return f"\0t8 {transaction_id}"


def _push_key(seq: int) -> str:
    return f"\0t8 push {seq}"


_NEWEST = "\0t8 newest"


class Transactions:
    """Loop thread only."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def draw(self) -> str:
        return secrets.token_urlsafe(_ID_BYTES)

    def newest(self, app: str) -> str:
        kept = self._backend.memory.recall_idempotent(app, _NEWEST)
        return "" if kept is None else kept[1].decode()

    def find(self, app: str, transaction_id: str) -> Kept | None:
        kept = self._backend.memory.recall_idempotent(app, _key(transaction_id))
        if kept is None:
            return None
        transaction = _decode(kept[1])
        return None if transaction.is_removed else Kept(transaction, kept[0])

    def of_push(self, app: str, seq: int) -> Kept | None:
        """The transaction whose push this is, or was before it was replaced."""
        named = self._backend.memory.recall_idempotent(app, _push_key(seq))
        kept = self._backend.memory.recall_idempotent(app, _key(named[1].decode())) if named is not None else None
        return None if kept is None else Kept(_decode(kept[1]), kept[0])

    def keep(self, app: str, transaction: Transaction, seq: int, *, is_new: bool) -> list[asyncio.Future[None]]:
        """Call it in the turn that accepts the push: all is one commit then. One that is removed stands alone, and may
        be refused (StoreUnavailable, QueueFull)."""
        expires_s = self._backend.now_ms() // 1000 + self._backend.max_ttl_s + KEPT_S
        remember = partial(self._backend.memory.remember, joined=not transaction.is_removed)
        name = transaction.id.encode()
        written = [remember(app, _key(transaction.id), _encode(transaction), seq, expires_s)]
        if not transaction.is_removed:
            written.append(remember(app, _push_key(seq), name, seq, expires_s))
        if is_new:
            written.append(remember(app, _NEWEST, name, seq, expires_s))
        for each in written:
            each.add_done_callback(_hear)
        return written

    def walk(self, app: str) -> Iterator[Kept | None]:
        """Newest first; None for one that was removed."""
        name = self.newest(app)
        while name:
            kept = self._backend.memory.recall_idempotent(app, _key(name))
            if kept is None:
                return
            transaction = _decode(kept[1])
            yield None if transaction.is_removed else Kept(transaction, kept[0])
            name = transaction.before

    def outcome(self, app: str, seq: int) -> Outcome | None:
        record = self._backend.receipts.lookup(app, seq, limit=1)
        return record.deliveries[0] if record is not None and record.deliveries else None


def result_of(outcome: Outcome | None) -> DeliveryResult:
    """Of TS 29.122 clause 5.7. A network's own report counts: the app server asked for the device, not for the app."""
    if outcome is None:
        return "UNKNOWN"
    steps = {step.what for step in outcome.steps}
    state = State(outcome.state)
    if state is State.ACKED or is_delivered(outcome):
        return "SUCCESS"
    if not state.is_final:
        return "TRIGGERED"
    if state is State.EXPIRED and "notified" in steps and not any(what.startswith("failed") for what in steps):
        return "UNCONFIRMED"  # a pager took it, and nothing was heard of it
    return _RESULTS.get(state, "UNKNOWN")


def is_delivered(outcome: Outcome) -> bool:
    """Does the network say that all parts of it came?"""
    parts = {step.what.removeprefix("delivered").strip() for step in outcome.steps if step.what.startswith("delivered")}
    if "" in parts:
        return True
    most = max((int(of) for _, _, of in (part.partition("/") for part in parts) if of.isdecimal()), default=0)
    return bool(most) and all(f"{part}/{most}" in parts for part in range(1, most + 1))


def _hear(written: asyncio.Future[None]) -> None:
    if not written.cancelled():
        written.exception()
