"""How a partition's commits stand in its stream: names, headers, and the parts of a large one put together again; must
never yield a commit that is not whole, nor one behind a gap.

A message is a part of a commit, or an epoch record: the first message of an owner, which has no body. Parts of a commit
stand behind each other; where anything else comes between, its owner gave it up or died, and it never was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

ID = "Nats-Msg-Id"
EXPECTED = "Nats-Expected-Last-Sequence"
EPOCH = "Heliograph-Epoch"
PART = "Heliograph-Part"
#: parts of one commit at most: more would be a fault
MOST_PARTS = 1 << 20
MOST_EPOCH = (1 << 63) - 1


class MalformedJournal(ValueError):
    """The stream holds what no node of this version wrote."""


class Record(NamedTuple):
    id: str  # of its commit, and new for each part
    epoch: int
    part: int  # from 1; 0: an epoch record
    parts: int

    @property
    def commit(self) -> str:
        return self.id.rpartition(".")[0]


def journal_stream(fleet: str, partition: int) -> str:
    return f"{fleet}_J_{partition}"


def journal_subject(fleet: str, partition: int) -> str:
    return f"{fleet}.journal.{partition}"


def build_headers(record: Record, expected: int) -> dict[str, str]:
    return {
        ID: record.id,
        EPOCH: str(record.epoch),
        PART: f"{record.part}/{record.parts}",
        EXPECTED: str(expected),
    }


def parse_record(headers: Mapping[str, str] | None) -> Record:
    """MalformedJournal where these are no headers of ours."""
    if headers is None:
        raise MalformedJournal("a message without headers")
    part, _, parts = headers.get(PART, "").partition("/")
    record = Record(headers.get(ID, ""), _number(headers.get(EPOCH, "")), _number(part), _number(parts))
    if (
        not record.commit
        or record.part > record.parts
        or record.parts > MOST_PARTS
        or (record.part == 0) != (record.parts == 0)
    ):
        raise MalformedJournal("headers that are not a journal's")
    return record


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 19) or int(text) > MOST_EPOCH:
        raise MalformedJournal("headers that are not a journal's")
    return int(text)


class Commit(NamedTuple):
    place: int  # sequence of its last part
    rows: bytes  # empty: an epoch record


class Assembler:
    """Messages in, whole commits out. `last`: the sequence before the first message."""

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self.epoch = 0
        self._commit = ""
        self._parts: list[bytes] = []
        self._count = 0

    def take(self, seq: int, headers: Mapping[str, str] | None, body: bytes) -> Commit | None:
        """MalformedJournal at a gap too: nothing that was written is ever missing in the middle of a stream."""
        if seq != self.last + 1:
            raise MalformedJournal(f"the journal has nothing between {self.last} and {seq}")
        record = parse_record(headers)
        if record.epoch < self.epoch:
            raise MalformedJournal("an owner wrote behind its successor")
        self.last, self.epoch = seq, record.epoch
        if record.part == 0:
            self._drop()
            return Commit(seq, b"")
        if record.part == 1:
            self._drop()
            self._commit, self._count = record.commit, record.parts
        elif record.commit != self._commit or record.part != len(self._parts) + 1 or record.parts != self._count:
            raise MalformedJournal("a part without those before it")
        self._parts.append(body)
        if record.part < record.parts:
            return None
        rows = b"".join(self._parts)
        self._drop()
        return Commit(seq, rows)

    def _drop(self) -> None:
        self._commit, self._parts, self._count = "", [], 0
