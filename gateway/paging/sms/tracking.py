"""Short messages that wait for their receipts; must never grow past its bound, nor hold a number.

In RAM, and written behind to the store, so that a receipt which comes after a restart finds its push. A receipt finds
its part by the SMSC's message id, else by (destination, low byte of user_message_reference), which is all that some
SMSCs give (osmo-msc answers every message with one and the same id, and its receipts echo no more than that byte).
Destinations are hashed under a key of the store's.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import NamedTuple, TypeVar

from gateway.metrics import Metric, Metrics
from gateway.model.short_messages import OpenPart, OpenParts
from gateway.paging.sms.receipt import ReceiptOf, spellings

_K = TypeVar("_K")
_V = TypeVar("_V")

#: receipts that came before the answer to their submit_sm, and parts that are over, to know a second receipt by
MOST_EARLY, MOST_OVER = 256, 4_096
#: parts given up in one go
SLICE = 100


class Part(NamedTuple):
    """One short message of a delivery; `part` counts from 1."""

    seq: int
    registration: int
    part: int
    parts: int
    #: the pager it was sent for
    channel: str = "sms"
    #: who is told once, instead of a history: was it delivered. Such a part is kept in RAM alone
    listener: Callable[[bool], None] | None = None


class Entry:
    """One part under way."""

    __slots__ = ("by_imsi", "destination", "key", "part", "reference", "until_ms")

    def __init__(self, part: Part, destination: bytes, reference: int, until_ms: int, *, by_imsi: bool = False) -> None:
        self.part = part
        self.destination = destination
        self.reference = reference  # 16 bits, TLV 0x0204
        self.until_ms = until_ms
        self.by_imsi = by_imsi
        self.key: tuple[str, str] | None = None  # (SMSC, message id), once it is known

    @property
    def is_heard(self) -> bool:
        return self.part.listener is not None


class Tracking:
    """Parts under way, oldest first. `clock`: Unix ms. `most` of them, and `most_heard` with a listener beside those:
    neither kind takes the other's room."""

    def __init__(
        self,
        most: int,
        metrics: Metrics,
        clock: Callable[[], int],
        on_lost: Callable[[Part], None] = lambda _part: None,
        kept: OpenParts | None = None,
        most_heard: int = 0,
    ) -> None:
        self._most = {False: most, True: most_heard}
        #: by whether they have a listener, oldest first
        self._order: dict[bool, dict[Entry, None]] = {False: {}, True: {}}
        self._metrics = metrics
        self._clock = clock
        self._on_lost = on_lost
        self._kept = kept
        self._secret = secrets.token_bytes(16) if kept is None else kept.key
        self._entries: dict[tuple[bytes, int], Entry] = {}
        self._by_id: dict[tuple[str, str], Entry] = {}
        #: parts sent to an IMSI: their receipts come from the MSISDN, which may not be known here
        self._by_imsi: dict[int, dict[Entry, None]] = {}
        #: ids that were given twice: they tell nothing
        self._vague: dict[tuple[str, str], None] = {}
        self._early: dict[tuple[str, str], ReceiptOf] = {}
        self._over: dict[tuple[str, str], None] = {}
        #: (SMSC, message id) of final receipts that were told → from where, and the reference's low byte
        self._told: dict[tuple[str, str], tuple[bytes, int]] = {}
        self._next = secrets.randbelow(0x10000)
        #: (until, number, part), the next to end first; those that are over stay until there are as many as others
        self._ends: list[tuple[int, int, Entry]] = []
        self._numbers = count()
        if kept is not None:
            # oldest first, as they were; a store has them in another order
            rows = sorted(kept.all(), key=lambda row: row.until_ms)
            for row in rows[:-most]:
                kept.remove(row.destination, row.reference)
                metrics.count(Metric.DELIVERY_MEMORY_EVICTED, label="sms_part")
            for row in rows[-most:]:
                self._take_up(row)

    def _take_up(self, row: OpenPart) -> None:
        """One that was open when the gateway ended."""
        part = Part(row.seq, row.registration, row.part, row.parts, row.channel)
        entry = Entry(part, row.destination, row.reference, row.until_ms, by_imsi=row.by_imsi)
        self._enter(entry)
        key = (row.smsc, row.message_id)
        if row.message_id and key not in self._by_id:
            entry.key = key
            self._by_id[key] = entry

    def _keep(self, entry: Entry) -> None:
        if self._kept is not None and not entry.is_heard:
            part, (smsc, message_id) = entry.part, entry.key or ("", "")
            self._kept.put(
                OpenPart(
                    entry.destination,
                    entry.reference,
                    entry.until_ms,
                    part.seq,
                    part.registration,
                    part.part,
                    part.parts,
                    part.channel,
                    entry.by_imsi,
                    smsc,
                    message_id,
                )
            )

    def __len__(self) -> int:
        return len(self._entries)

    def _hash(self, destination: str) -> bytes:
        return hashlib.blake2s(destination.encode(), key=self._secret, digest_size=8).digest()

    def open(self, part: Part, destination: str, until_ms: int, *, by_imsi: bool = False) -> Entry:
        """Before it is submitted, so that not even the fastest receipt is missed. The low byte of its reference is of
        no other part to the same destination, as long as there are fewer than 256."""
        self.sweep()
        hashed = self._hash(destination)
        for _ in range(256):
            self._next = self._next + 1 & 0xFFFF
            if (hashed, self._next & 0xFF) not in self._entries:
                break
        else:
            self._give_up(self._entries[hashed, self._next & 0xFF])
        is_heard = part.listener is not None
        if len(self._order[is_heard]) >= self._most[is_heard]:
            oldest = next(iter(self._order[is_heard]), None)
            if oldest is not None:
                self._give_up(oldest)
            self._metrics.count(Metric.DELIVERY_MEMORY_EVICTED, label="card_part" if is_heard else "sms_part")
        entry = Entry(part, hashed, self._next, until_ms, by_imsi=by_imsi)
        self._enter(entry)
        self._keep(entry)
        return entry

    def _give_up(self, entry: Entry) -> None:
        """For want of room. A listener is told, for it waits; a history says nothing."""
        self._drop(entry)
        if entry.part.listener is not None:
            entry.part.listener(False)

    def _enter(self, entry: Entry) -> None:
        self._entries[entry.destination, entry.reference & 0xFF] = entry
        self._order[entry.is_heard][entry] = None
        heappush(self._ends, (entry.until_ms, next(self._numbers), entry))
        if len(self._ends) > 2 * len(self._entries) + SLICE:
            self._ends = [end for end in self._ends if self._is_open(end[2])]
            heapify(self._ends)
        if entry.by_imsi:
            self._by_imsi.setdefault(entry.reference & 0xFF, {})[entry] = None
        self._show()

    def taken(self, entry: Entry, smsc: str, message_id: str) -> ReceiptOf | None:
        """The SMSC took it under this id. Returns a receipt that came before; the entry is over then."""
        if not message_id or entry.key is not None or not self._is_open(entry):
            return None  # no id, or its receipt came by the reference already
        key = (smsc, message_id)
        for spelling in spellings(message_id):
            self._told.pop((smsc, spelling), None)  # it is given to all: a receipt with it may be this one's
        other = self._by_id.pop(key, None)
        if other is not None or key in self._vague:
            if other is not None:
                other.key = None
            self._remember(self._vague, key, None, MOST_OVER)
            return None
        for spelling in spellings(message_id):
            early = self._early.pop((smsc, spelling), None)
            if early is not None:
                entry.key = key
                self._finish(entry)
                return early
        entry.key = key
        self._by_id[key] = entry
        self._keep(entry)
        return None

    def refused(self, entry: Entry) -> None:
        """It was not taken, so there will be no receipt."""
        self._drop(entry)

    def find(self, smsc: str, receipt: ReceiptOf, destination: str) -> Part | None:
        """Whose receipt it is. A final one ends the part; None: of no part that is known, or told already."""
        keys = [(smsc, spelling) for spelling in spellings(receipt.message_id)] if receipt.message_id else []
        entry = next((self._by_id[key] for key in keys if key in self._by_id), None)
        if entry is not None and receipt.reference >= 0 and (entry.reference ^ receipt.reference) & 0xFF:
            entry = None  # the id is one that this SMSC gives to all
        if entry is None and receipt.reference >= 0:
            entry = self._entries.get((self._hash(destination), receipt.reference & 0xFF))
            among = self._by_imsi.get(receipt.reference & 0xFF, {})
            was_told = self._told.get((smsc, receipt.message_id)) == (self._hash(destination), receipt.reference & 0xFF)
            # more than one: nobody can tell whose it is; a receipt that comes again is of one that is over
            if entry is None and len(among) == 1 and not was_told:
                entry = next(iter(among))
        if entry is None:
            repeated = any(key in self._over for key in keys)
            if not repeated and receipt.is_final and keys and keys[0] not in self._vague:
                self._remember(self._early, keys[0], receipt, MOST_EARLY)
            self._count("repeated" if repeated else "unmatched")
            return None
        if not receipt.is_final:
            self._count("under_way")
            return None
        self._finish(entry)
        if receipt.message_id:
            place = (self._hash(destination), receipt.reference & 0xFF)
            self._remember(self._told, (smsc, receipt.message_id), place, MOST_OVER)
        return entry.part

    def sweep(self) -> bool:
        """Give up those whose receipt is overdue, at most a slice of them. True: there may be more."""
        now_ms = self._clock()
        for _ in range(SLICE):
            if not self._ends or self._ends[0][0] > now_ms:
                return False
            _, _, entry = heappop(self._ends)
            if self._is_open(entry):
                self._drop(entry)
                self._count("missing")
                self._on_lost(entry.part)
        return True

    def _is_open(self, entry: Entry) -> bool:
        return self._entries.get((entry.destination, entry.reference & 0xFF)) is entry

    def _finish(self, entry: Entry) -> None:
        if entry.key is not None:
            self._remember(self._over, entry.key, None, MOST_OVER)
        self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        place = (entry.destination, entry.reference & 0xFF)
        if self._entries.get(place) is entry:
            del self._entries[place]
            if self._kept is not None and not entry.is_heard:
                self._kept.remove(*place)
        if entry.key is not None and self._by_id.get(entry.key) is entry:
            del self._by_id[entry.key]
        self._order[entry.is_heard].pop(entry, None)
        among = self._by_imsi.get(place[1], {})
        if among.pop(entry, 0) is None and not among:
            del self._by_imsi[place[1]]
        self._show()

    @staticmethod
    def _remember(memory: dict[_K, _V], key: _K, value: _V, most: int) -> None:
        if len(memory) >= most:
            del memory[next(iter(memory))]
        memory[key] = value

    def _count(self, result: str) -> None:
        self._metrics.count(Metric.SMS_RECEIPTS, label=result)

    def _show(self) -> None:
        self._metrics.set(Metric.SMS_PENDING, len(self._entries))
