"""Counts what a gateway does for an answer: keyed hashes, reads of the store, rows opened, look-ups of tokens."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.store.directory import Directory
from gateway.store.environment import Environment
from gateway.store.records import Db
from gateway.store.subscriber_rows import SubscriberRows
from gateway.store.tokens import Tokens

Work = Counter[str]


class Meter:
    """`work` is what was done since `start`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.work: Work = Counter()
        digest, get, scan, begin = hmac.digest, Environment.get, Environment.scan, Environment.begin
        open_row, blake2b = SubscriberRows._open, hashlib.blake2b

        def counted_digest(*given: Any) -> bytes:
            self.work["keyed hash"] += 1
            return digest(*given)

        def counted_blake2b(*given: Any, **more: Any) -> Any:
            self.work["blake2b"] += 1
            return blake2b(*given, **more)

        def counted_get(environment: Environment, db: Db, key: bytes) -> bytes | None:
            self.work[f"read {db.name}"] += 1
            return get(environment, db, key)

        def counted_scan(environment: Environment, db: Db, *given: Any, **more: Any) -> Iterator[Any]:
            self.work[f"scan {db.name}"] += 1
            for row in scan(environment, db, *given, **more):
                self.work[f"row {db.name}"] += 1
                yield row

        def counted_begin(environment: Environment, **more: Any) -> Any:
            self.work["begin"] += 1
            return begin(environment, **more)

        def counted_open(rows: SubscriberRows, db: Db, key: bytes, raw: bytes) -> bytes:
            self.work[f"open {len(raw)} bytes"] += 1
            return open_row(rows, db, key, raw)

        patch.setattr(hmac, "digest", counted_digest)
        patch.setattr(hashlib, "blake2b", counted_blake2b)
        patch.setattr(Environment, "get", counted_get)
        patch.setattr(Environment, "scan", counted_scan)
        patch.setattr(Environment, "begin", counted_begin)
        patch.setattr(SubscriberRows, "_open", counted_open)
        for kind, names in ((Directory, ("known", "registration", "locate", "app")), (Tokens, ("build", "revoked"))):
            for name in names:
                patch.setattr(kind, name, self._counted(name, getattr(kind, name)))

    def _counted(self, name: str, inner: Any) -> Any:
        def counted(*given: Any, **more: Any) -> Any:
            self.work[name] += 1
            return inner(*given, **more)

        return counted

    def start(self) -> None:
        self.work.clear()
