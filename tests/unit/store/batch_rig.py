"""Batches on a store whose devices are linked to a reactor that does not run: what is sent stays in its mailbox."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from store_rig import APP, START_MS

from gateway._native.intake import Router
from gateway._native.reactor import Reactor
from gateway.model.ports import BatchLimits
from gateway.model.registration import build_token
from gateway.store import Store
from gateway.store.batches import Accepted

LIMITS = BatchLimits(
    pushes=1_000,
    push_bytes=65_536,
    inline_bytes=2_048,
    ttl_s=86_400,
    most_ttl_s=28 * 86_400,
    ack_ms=3_000,
    notifier_ack_ms=30_000,
    has_no_notifiers=True,
)


class Links:
    """Links of one reactor, given out as devices are connected."""

    def __init__(self, store: Store, mailbox_bytes: int = 1 << 22) -> None:
        self._fds = os.eventfd(0), os.eventfd(0)
        self._registry = store.directory.registry
        self._next = 1
        self.held: set[int] = set()
        self.floors: dict[int, int] = {}
        self.reactor = Reactor(
            0,
            *self._fds,
            {},
            mailbox_bytes=mailbox_bytes,
            max_links=10,
            login_ms=1_000,
            login_frame_bytes=4_096,
            max_frame_bytes=4_096,
            outbox_bytes=65_536,
            slow_ms=1_000,
        )
        self.router = Router([self.reactor], self.held, self.floors)

    def connect(self, number: int) -> int:
        """The registration's device has a link from now on."""
        link = self._next << 32 | 1
        self._next += 1
        self._registry.login(1_000_000 + number, link)
        assert self._registry.bind(number, 1_000_000 + number)
        return link

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


def token_of(store: Store, number: int) -> str:
    registration = store.directory.registration(number)
    assert registration is not None
    return build_token(registration.token)


def pack(*pushes: Any) -> bytes:
    return msgspec.msgpack.encode(list(pushes))


def to(token: str, text: str = "hello", **options: Any) -> dict[str, Any]:
    return {"target": {"token": token}, "text": text, **options}


def append(
    store: Store, links: Links, *pushes: Any, app: str = APP, limits: BatchLimits = LIMITS, now_ms: int = START_MS
) -> Accepted:
    batch = store.journal.read_batch(app, [pack(*pushes)], limits)
    assert batch.ready == len(pushes), batch.places
    return store.journal.append_batch(batch, limits, links.router, now_ms)


def ack(store: Store, seq: int, number: int, *, took_ms: int = 5, shown: bool = False) -> bool:
    settled = store.batches.table.ack(seq, number, START_MS, START_MS + took_ms, shown)
    store.journal.acks_settled()
    return settled
