"""Short messages whose receipts are waited for, one row each (C8); written behind with the next commit, so that one
whose receipt comes before it costs no write at all.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator

import msgspec
import structlog

from gateway.model.short_messages import OpenPart
from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.records import DELETE, PUT, Db, Row

_log = structlog.get_logger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(OpenPart).decode


class ShortMessages:
    """Control thread only; model.short_messages.OpenParts."""

    def __init__(self, environment: Environment, committer: Committer, key: bytes) -> None:
        self.key = hmac.digest(key, b"heliograph short messages: destinations", "sha256")
        self._environment = environment
        self._committer = committer
        #: what changed since the last commit; None: it is over
        self._changed: dict[bytes, OpenPart | None] = {}
        committer.add_source(self._drain)

    def put(self, part: OpenPart) -> None:
        self._changed[_name(part.destination, part.reference)] = part
        self._committer.nudge()

    def remove(self, destination: bytes, reference: int) -> None:
        self._changed[_name(destination, reference)] = None
        self._committer.nudge()

    def all(self) -> Iterator[OpenPart]:
        for _, raw in self._environment.scan(Db.SHORT_MESSAGES):
            try:
                yield _decode(raw)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                _log.error("short_message_unreadable")  # one receipt less finds its push

    def _drain(self) -> None:
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        rows: list[Row] = [
            (DELETE, Db.SHORT_MESSAGES, name, b"") if part is None else (PUT, Db.SHORT_MESSAGES, name, _encode(part))
            for name, part in changed.items()
        ]

        def redo() -> None:
            # what changed meanwhile is newer
            self._changed = {**changed, **self._changed}

        self._committer.refresh(rows, redo=redo)


def _name(destination: bytes, reference: int) -> bytes:
    return destination + bytes((reference & 0xFF,))
