"""Counters of secured packets, one sequence for each key set of each card; must never give one out twice, whatever
crashes: a card refuses what is not higher, and a second packet under the same counter could be exchanged for the first.

A mark in the store runs ahead of what is given out, a block at a time. A crash, or a card that had to leave RAM, skips
the rest of its block. Marks stay when their card goes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
from itertools import islice

from gateway.metrics import Metric, Metrics
from gateway.model.errors import StoreUnavailable
from gateway.store.card_rows import counter_key
from gateway.store.commit import Committer
from gateway.store.commit_entry import Call
from gateway.store.environment import Environment
from gateway.store.records import PUT, Db, Row, pack_u64, unpack_u64

#: the first counter of a card: it takes what is higher than its own, and that is 0
FIRST = 1
#: five bytes in a packet (ETSI TS 102 225 §5.1.1)
END = 1 << 40
#: counters a mark runs ahead
BLOCK = 32
#: sequences in RAM; past it the one used longest ago is left, and the rest of its block with it
KEPT = 16_384
#: of them looked at to find one that may go
_LOOKED_AT = 16


class _Sequence:
    __slots__ = ("asked", "durable", "next", "waiting")

    def __init__(self, mark: int) -> None:
        self.next = mark
        self.durable = mark  # what is below it may be given out
        self.asked = mark  # the mark on its way
        self.waiting: list[tuple[int, int, asyncio.Future[int]]] = []  # first, end


class CardCounters:
    """Control thread only."""

    def __init__(
        self,
        environment: Environment,
        committer: Committer,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        kept: int = KEPT,
    ) -> None:
        self._environment = environment
        self._committer = committer
        self._metrics = metrics
        self._loop = loop
        self._kept = kept
        self._sequences: OrderedDict[bytes, _Sequence] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sequences)

    def take(self, card: bytes, key_set: int, count: int) -> asyncio.Future[int]:
        """As CardRecords.take_counters."""
        if count < 1:
            raise ValueError("at least one counter is taken")
        key = counter_key(card, key_set)
        sequence = self._sequence(key)
        first, end = sequence.next, sequence.next + count
        if end > END:
            raise OverflowError("a key set of this card has no counters left; give the card new keys")
        if end > sequence.asked:
            self._extend(key, sequence, end)
        sequence.next = end
        future: asyncio.Future[int] = self._loop.create_future()
        if end <= sequence.durable:
            future.set_result(first)
        else:
            sequence.waiting.append((first, end, future))
        return future

    def past(self, card: bytes, key_set: int, counter: int) -> tuple[Row, Call, Call] | None:
        """A row after which nothing up to this counter is given out any more, for the card has seen it already; what
        to call when it is durable, and when its commit failed. None: none is needed."""
        key = counter_key(card, key_set)
        sequence = self._sequence(key)
        sequence.next = max(sequence.next, min(counter + 1, END))
        if counter < sequence.durable:
            return None  # a start goes on behind it
        sequence.asked = mark = max(sequence.next, sequence.asked)
        row = (PUT, Db.CARD_COUNTERS, key, pack_u64(mark))
        return row, partial(_landed, sequence, mark), partial(_failed, sequence)

    def _sequence(self, key: bytes) -> _Sequence:
        sequence = self._sequences.get(key)
        if sequence is not None:
            self._sequences.move_to_end(key)
            return sequence
        raw = self._environment.get(Db.CARD_COUNTERS, key)
        sequence = self._sequences[key] = _Sequence(FIRST if raw is None else unpack_u64(raw))
        if len(self._sequences) > self._kept:
            self._evict(key)
        return sequence

    def _evict(self, but: bytes) -> None:
        for key, sequence in list(islice(self._sequences.items(), _LOOKED_AT)):
            # one whose mark is on its way has to stay: the store does not tell yet how far it goes
            if sequence.asked == sequence.durable and key != but and len(self._sequences) > self._kept:
                del self._sequences[key]
                self._metrics.count(Metric.STORE_COUNTERS_SKIPPED, max(0, sequence.durable - sequence.next))

    def _extend(self, key: bytes, sequence: _Sequence, end: int) -> None:
        mark = min(end + BLOCK, END)
        row = (PUT, Db.CARD_COUNTERS, key, pack_u64(mark))
        self._committer.accept([row], undo=partial(_failed, sequence), done=partial(_landed, sequence, mark))
        sequence.asked = mark


def _landed(sequence: _Sequence, mark: int) -> None:
    sequence.durable = max(sequence.durable, mark)
    waiting, sequence.waiting = sequence.waiting, []
    for first, end, future in waiting:
        if end > sequence.durable:
            sequence.waiting.append((first, end, future))
        elif not future.done():
            future.set_result(first)


def _failed(sequence: _Sequence) -> None:
    # Perhaps it is on the disk all the same: what was asked for is skipped, not offered again.
    sequence.asked = sequence.durable
    waiting, sequence.waiting = sequence.waiting, []
    for _, _, future in waiting:
        if not future.done():
            future.set_exception(StoreUnavailable())
            future.exception()  # a caller that went away is no reason for a warning
