"""Idempotency keys seen lately; must never let one key stand for two different pushes.

Kept in RAM: after a restart a repeated push is a new one. Bounded; past the bound the oldest key is forgotten early.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import NamedTuple

import msgspec

from gateway.delivery.request import PushRequest
from gateway.metrics import Metric, Metrics
from gateway.model.errors import Conflict

MAX_KEYS = 500_000


class Known(NamedTuple):
    """The first push with a key."""

    digest: bytes
    seq: int
    targeted: int
    done: asyncio.Future[None]
    until_ms: int


class RecentKeys:
    """(app, key) → the push it was used for, for `keep_s` seconds."""

    def __init__(self, keep_s: int, metrics: Metrics, limit: int = MAX_KEYS) -> None:
        self._keep_ms = keep_s * 1000
        self._metrics = metrics
        self._limit = limit
        self._known: dict[tuple[str, str], Known] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._known)

    def find(self, app: str, request: PushRequest, now_ms: int) -> Known | None:
        """The earlier push with this key; raises Conflict where it was another one."""
        self._drop_old(now_ms)
        known = self._known.get((app, request.idempotency_key))
        if known is not None and known.digest != _digest(request):
            raise Conflict("this idempotency key was used with another body", field="idempotency_key")
        return known

    def remember(
        self, app: str, request: PushRequest, seq: int, targeted: int, done: asyncio.Future[None], now_ms: int
    ) -> None:
        """From now on the key answers with this push."""
        if len(self._known) >= self._limit:
            del self._known[next(iter(self._known))]
            self._metrics.count(Metric.IDEMPOTENCY_EVICTED)
        self._known[app, request.idempotency_key] = Known(_digest(request), seq, targeted, done, now_ms + self._keep_ms)

    def forget(self, app: str, key: str, seq: int) -> None:
        """The push failed: the key may be used again."""
        known = self._known.get((app, key))
        if known is not None and known.seq == seq:
            del self._known[app, key]

    def _drop_old(self, now_ms: int) -> None:
        # Insertion order is time order; a few an ask are enough to keep up.
        for _ in range(4):
            key = next(iter(self._known), None)
            if key is None or self._known[key].until_ms > now_ms:
                return
            del self._known[key]


def _digest(request: PushRequest) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(request)).digest()
