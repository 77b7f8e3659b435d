"""Tokens that were revoked, with when and why; must never hold one in RAM once its row is durable.

They let a provider hear *gone* instead of *never was* (410, not 404). A look-up costs one read of the store whether the
token is there or not, so its time tells nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gateway.model.registration import DeadToken, Loss
from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.records import (
    DELETE,
    PUT,
    Db,
    Row,
    build_dead,
    dead_key,
    dead_order_key,
    parse_dead,
    parse_dead_order_key,
)

#: rows looked at in one call of `sweep`
SWEEP_ROWS = 1_000


class Burial(NamedTuple):
    """One token that is being revoked."""

    token: bytes
    app_number: int
    at_ms: int
    reason: Loss


class DeadTokens:
    """Control thread only. `name_of` gives the app of a number."""

    def __init__(
        self,
        environment: Environment,
        committer: Committer,
        clock: Callable[[], int],
        name_of: Callable[[int], str | None],
        retention_s: int,
    ) -> None:
        self._environment = environment
        self._committer = committer
        self._clock = clock
        self._name_of = name_of
        self._retention_s = retention_s
        self._fresh: dict[bytes, Burial] = {}  # not durable yet
        self._sweeping = False

    def bury(self, token: bytes, app_number: int, reason: Loss) -> tuple[Burial, list[Row]]:
        """Known at once. The rows go with the commit that revokes it; then call `settled`, also where it failed."""
        burial = Burial(token, app_number, self._clock(), reason)
        self._fresh[token] = burial
        return burial, [
            (PUT, Db.DEAD, dead_key(token), build_dead(app_number, burial.at_ms, reason)),
            (PUT, Db.DEAD, dead_order_key(burial.at_ms // 1_000, token), b""),
        ]

    def settled(self, burial: Burial) -> None:
        if self._fresh.get(burial.token) is burial:
            del self._fresh[burial.token]

    def find(self, token: bytes) -> DeadToken | None:
        """None for one that is live, was never there, or was revoked longer ago than is remembered."""
        raw = self._environment.get(Db.DEAD, dead_key(token))
        fresh = self._fresh.get(token)
        if fresh is not None:
            number, at_ms, reason = fresh.app_number, fresh.at_ms, int(fresh.reason)
        elif raw is not None:
            number, at_ms, reason = parse_dead(raw)
        else:
            return None
        app = self._name_of(number)
        if app is None or at_ms < self._clock() - self._retention_s * 1_000:
            return None
        return DeadToken(app=app, at_ms=at_ms, reason=Loss(reason))

    def sweep(self, now_ms: int) -> bool:
        """Remove a slice of what is past retention; True where there is more."""
        if not self._committer.writable:
            return False
        if self._sweeping:
            return True
        before_s = now_ms // 1_000 - self._retention_s
        rows: list[Row] = []
        seen = 0
        for key, _ in self._environment.scan(Db.DEAD, limit=SWEEP_ROWS):
            place = parse_dead_order_key(bytes(key))
            if place is None or place[0] >= before_s:
                break
            seen += 1
            rows += [(DELETE, Db.DEAD, bytes(key), b""), (DELETE, Db.DEAD, dead_key(place[1]), b"")]
        if rows:
            self._sweeping = True
            self._committer.refresh(rows, redo=self._swept, done=self._swept)
        return seen == SWEEP_ROWS

    def _swept(self) -> None:
        self._sweeping = False
