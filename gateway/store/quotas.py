"""Pushes of each app and key in the day under way; written behind, so a killed process forgets a second of them."""

from __future__ import annotations

import struct

from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.records import PUT, Db, Row, pack_u32

_COUNT = struct.Struct(">IQ")


class QuotaCounts:
    """Control thread only; delivery.quotas.DayCounts."""

    def __init__(self, environment: Environment, committer: Committer) -> None:
        self._environment = environment
        self._committer = committer
        self._counts: dict[bytes, tuple[int, int]] = {}  # app number + key id → (day, pushes)
        self._dirty: set[bytes] = set()

    def used(self, app: int, key: str, day: int) -> int:
        known, pushes = self._of(pack_u32(app) + key.encode())
        return pushes if known == day else 0

    def add(self, app: int, key: str, day: int, count: int) -> None:
        name = pack_u32(app) + key.encode()
        known, pushes = self._of(name)
        self._counts[name] = (day, pushes + count if known == day else count)
        self._dirty.add(name)

    def _of(self, name: bytes) -> tuple[int, int]:
        found = self._counts.get(name)
        if found is None:
            raw = self._environment.get(Db.QUOTAS, name)
            found = self._counts[name] = (0, 0) if raw is None else _COUNT.unpack(raw)
        return found

    def write(self) -> None:
        """What changed; a tick does it by itself."""
        if not self._dirty or not self._committer.writable:
            return
        names = list(self._dirty)
        self._dirty.clear()
        rows: list[Row] = [(PUT, Db.QUOTAS, name, _COUNT.pack(*self._counts[name])) for name in names]
        self._committer.refresh(rows, redo=lambda: self._dirty.update(names))
