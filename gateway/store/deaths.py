"""The feed of tokens and addresses that are dead for good, for their providers; must never show one app another's.

One row an event, written in the commit of what made it so. Swept with the rest of the history. Cursors come from
`FeedNumbers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from gateway.model.ports import Death
from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.feed_numbers import FeedNumbers
from gateway.store.records import DELETE, PUT, Db, Row, receipts_key, unpack_u32, unpack_u64

#: rows looked at in one call of `sweep`
SWEEP_ROWS = 1_000


class _Row(NamedTuple):
    token: bytes
    at_ms: int
    why: str
    channel: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Row).decode


def token_of_death(raw: bytes) -> bytes:
    """Whose row this is."""
    return _decode(raw).token


class Deaths:
    """Control thread only; model.ports.Deaths."""

    def __init__(
        self, environment: Environment, committer: Committer, clock: Callable[[], int], numbers: FeedNumbers
    ) -> None:
        self._environment = environment
        self._clock = clock
        self._numbers = numbers
        self._followed: list[int] = []  # cursors given out in this turn
        self.app_number: Callable[[str], int] = lambda _: 0
        self._wakes: list[Callable[[], None]] = []
        self._changed = False
        committer.add_hook(self._after_commit)

    def load(self, app_numbers: list[int]) -> None:
        """Where the cursors go on."""
        for number in app_numbers:
            with self._environment.begin() as txn, txn.cursor(self._environment.db(Db.DEATHS)) as cursor:
                there = cursor.prev() if cursor.set_range(receipts_key(number + 1, 0)) else cursor.last()
                if there and unpack_u32(bytes(cursor.key())) == number:
                    self._numbers.restore(unpack_u64(bytes(cursor.key())[4:]))

    def row(self, app_number: int, token: bytes, why: str, channel: str = "") -> Row:
        """The row of one event, to be written with its cause."""
        cursor = self._numbers.take({app_number: 1})[app_number]
        self._followed.append(cursor)
        self._changed = True
        return (PUT, Db.DEATHS, receipts_key(app_number, cursor), _encode(_Row(token, self._clock(), why, channel)))

    def follow(self, written: asyncio.Future[None]) -> None:
        """The commit of the rows that were made since the last call, in the same turn."""
        cursors, self._followed = self._followed, []

        def landed(_: asyncio.Future[None]) -> None:
            for cursor in cursors:
                self._numbers.landed(cursor)

        if cursors:
            written.add_done_callback(landed)

    def watermark(self, seen: int = 0) -> int:
        """No event with a cursor at or below it will ever appear any more."""
        for cursor in self._followed:  # what was refused: its rows were never given to the committer
            self._numbers.landed(cursor)
        self._followed = []
        return self._numbers.watermark(seen)

    def after(self, app: str, cursor: int, limit: int) -> list[Death]:
        number = self.app_number(app)
        return self._after(number, cursor, limit) if number and limit > 0 else []

    def _after(self, app_number: int, cursor: int, limit: int) -> list[Death]:
        found: list[Death] = []
        for key, raw in self._environment.scan(Db.DEATHS, receipts_key(app_number, cursor + 1), limit=limit):
            if unpack_u32(key) != app_number:
                break
            row = _decode(raw)
            found.append(Death(unpack_u64(key[4:]), row.token, row.at_ms, row.why, row.channel))
        return found

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        self._wakes.append(wake)
        return lambda: self._wakes.remove(wake) if wake in self._wakes else None

    def _after_commit(self) -> None:
        if self._changed:
            self._changed = False
            for wake in list(self._wakes):
                wake()

    def sweep(self, app_numbers: list[int], before_ms: int) -> tuple[list[Row], bool]:
        """Rows to remove, the oldest of each app first, and whether there may be more. The last one of an app stays: it
        says where the cursors go on."""
        rows: list[Row] = []
        for number in app_numbers:
            keys: list[bytes] = []
            for key, raw in self._environment.scan(Db.DEATHS, receipts_key(number, 0), limit=SWEEP_ROWS):
                if unpack_u32(key) != number or _decode(raw).at_ms >= before_ms:
                    break
                keys.append(key)
            newer = self._after(number, unpack_u64(keys[-1][4:]), 1) if keys else []
            rows += [(DELETE, Db.DEATHS, key, b"") for key in (keys if newer else keys[:-1])]
        return rows, len(rows) >= SWEEP_ROWS
