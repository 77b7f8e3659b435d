"""Cards, their numbers and what is known of their terminals (E5); must never hold more of them in RAM than is on its
way to the disk.

Nothing is read at start. A card is one sealed row; rows of keyed hashes lead to it from its numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.metrics import Metrics
from gateway.model.cards import Capability, CardRecord, NumberTaken
from gateway.store.card_counters import CardCounters
from gateway.store.card_rows import IMSI, MSISDN, CardRows
from gateway.store.commit import Committer
from gateway.store.commit_entry import Call
from gateway.store.environment import Environment
from gateway.store.records import DELETE, PUT, Db, Row

_UNKNOWN = Capability()

_Place = tuple[Db, bytes]
#: None inside: it is being removed
_Value = tuple[bytes | None]


class CardStore:
    """Control thread only; model.cards.CardRecords."""

    def __init__(
        self,
        environment: Environment,
        committer: Committer,
        rows: CardRows,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._environment = environment
        self._committer = committer
        self._rows = rows
        self._loop = loop
        self.counters = CardCounters(environment, committer, metrics, loop)
        self._fresh: dict[_Place, _Value] = {}  # not durable yet

    # --- look-up --------------------------------------------------------------------------------------------

    def _get(self, db: Db, key: bytes) -> bytes | None:
        fresh = self._fresh.get((db, key)) if self._fresh else None
        return self._environment.get(db, key) if fresh is None else fresh[0]

    def _get_many(self, db: Db, keys: Sequence[bytes]) -> list[bytes | None]:
        found = self._environment.get_many(db, keys)
        if not self._fresh:
            return found
        return [self._fresh.get((db, key), (raw,))[0] for key, raw in zip(keys, found, strict=True)]

    def handle(self, iccid: str) -> bytes:
        return self._rows.handle(iccid)

    def read(self, card: bytes) -> CardRecord | None:
        raw = self._get(Db.CARDS, card)
        return None if raw is None else self._rows.open_card(card, raw)

    def find(self, *, msisdn: str = "", imsi: str = "") -> bytes | None:
        """By the one that is given; of both, by the MSISDN first."""
        for kind, number in ((MSISDN, msisdn), (IMSI, imsi)):
            if number:
                key = self._rows.number_key(kind, number)
                raw = self._get(Db.CARD_NUMBERS, key)
                if raw is not None:
                    return self._rows.open_handle(key, raw)
        return None

    def count(self) -> int:
        """Those that are durable."""
        return self._environment.entries(Db.CARDS)

    def walk(self, after: bytes, limit: int) -> list[tuple[bytes, CardRecord]]:
        found: list[tuple[bytes, CardRecord]] = []
        if limit <= 0:
            return found
        for key, raw in self._environment.scan(Db.CARDS, after + b"\0"):
            value = self._fresh.get((Db.CARDS, key), (raw,))[0]
            if value is not None:
                found.append((key, self._rows.open_card(key, value)))
                if len(found) == limit:
                    break
        return found

    # --- writing --------------------------------------------------------------------------------------------

    def put(self, records: Sequence[CardRecord]) -> asyncio.Future[None]:
        values: dict[_Place, _Value] = {}
        last = {self._rows.handle(record.iccid): index for index, record in enumerate(records)}
        gained: list[tuple[int, str, bytes, bytes]] = []
        # what one loses another may get: what is lost comes first
        for (handle, index), raw in zip(last.items(), self._get_many(Db.CARDS, list(last)), strict=True):
            new = self._numbers(records[index])
            old = self._numbers(self._rows.open_card(handle, raw)) if raw is not None else {}
            for key in old.keys() - new.keys():
                values[Db.CARD_NUMBERS, key] = (None,)
            gained += [(index, field, key, handle) for key, field in new.items() if key not in old]
        owners = self._get_many(Db.CARD_NUMBERS, [each[2] for each in gained])
        for (index, field, key, handle), owner in zip(gained, owners, strict=True):
            place = (Db.CARD_NUMBERS, key)
            if (values[place][0] if place in values else owner) is not None:
                raise NumberTaken(index, field)
            values[place] = (self._rows.seal_handle(key, handle),)
        more: list[Row] = []
        done: list[Call] = []
        failed: list[Call] = []
        counted = sum(key_set.counter > 0 for index in last.values() for key_set in records[index].key_sets)
        self._committer.admit(len(values) + len(last) + counted)  # before a counter moves
        for handle, index in last.items():
            record = records[index]
            values[Db.CARDS, handle] = (self._rows.seal_card(handle, record),)
            for key_set in record.key_sets:
                past = self.counters.past(handle, key_set.number, key_set.counter) if key_set.counter else None
                if past is not None:
                    more.append(past[0])
                    done.append(past[1])
                    failed.append(past[2])
        return self._write(values, more, done, failed)

    def _numbers(self, record: CardRecord) -> dict[bytes, str]:
        """Key → name of the field."""
        pairs = ((MSISDN, record.msisdn, "msisdn"), (IMSI, record.imsi, "imsi"))
        return {self._rows.number_key(kind, number): field for kind, number, field in pairs if number}

    def remove(self, card: bytes) -> asyncio.Future[None]:
        record = self.read(card)
        values: dict[_Place, _Value] = {}
        if record is not None:
            values = {(Db.CARD_NUMBERS, key): (None,) for key in self._numbers(record)}
        values[Db.CARDS, card] = (None,)
        values[Db.CARD_CAPABILITY, card] = (None,)
        return self._write(values)

    def _write(
        self,
        values: dict[_Place, _Value],
        more: Sequence[Row] = (),
        done: Sequence[Call] = (),
        failed: Sequence[Call] = (),
    ) -> asyncio.Future[None]:
        rows: list[Row] = [
            (DELETE, db, key, b"") if value is None else (PUT, db, key, value) for (db, key), (value,) in values.items()
        ]
        rows.sort()  # keys are hashes: in their order fewer pages are touched at a time

        def settled(calls: Sequence[Call]) -> None:
            # durable or undone: what the disk says holds again, unless a later write is under way
            for place, value in values.items():
                if self._fresh.get(place) is value:
                    del self._fresh[place]
            for call in calls:
                call()

        written = self._committer.accept([*rows, *more], undo=lambda: settled(failed), done=lambda: settled(done))
        self._fresh.update(values)
        return written

    # --- counters and capability ----------------------------------------------------------------------------

    def take_counters(self, card: bytes, key_set: int, count: int) -> asyncio.Future[int]:
        return self.counters.take(card, key_set, count)

    def capability(self, card: bytes) -> Capability:
        raw = self._get(Db.CARD_CAPABILITY, card)
        return _UNKNOWN if raw is None else self._rows.open_capability(card, raw)

    def write_capability(self, card: bytes, capability: Capability) -> asyncio.Future[None]:
        """Nothing is written of a card that is gone."""
        if self._get(Db.CARDS, card) is None:
            gone: asyncio.Future[None] = self._loop.create_future()
            gone.set_result(None)
            return gone
        return self._write({(Db.CARD_CAPABILITY, card): (self._rows.seal_capability(card, capability),)})
