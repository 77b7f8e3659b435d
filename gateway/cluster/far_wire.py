"""What nodes and the cores of partitions say to each other about devices: packed records and small questions; must
raise nothing but ValueError for what another node sent, and holds no table.

A message is a head and records one after the other, little-endian, of one partition and one epoch. Cores tell nodes
what to do (Do), nodes tell cores what happened (Told). A record has 48 bytes, and a payload of `size` bytes behind it:

```
0      kind
1      flag           again, spilled, flags of an ack, urgency, floor
2-3    zero
4-7    number         of the registration at its owner; group in FANNED
8-11   local          its number at the node
12-15  size
16-23  attachment     of the device's link at the node
24-31  seq            sequence; key of the device in BOUND and TAKEOVER
32-39  a              ms to ack; Unix ms sent; room; links; Unix ms bound; round
40-47  b              Unix ms acked; how many numbers come first in the payload
```
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import msgspec

from gateway._native.far_traffic import count_records

#: of everything in this file; a message of another is dropped
WIRE_VERSION = 1
#: with a count, among registrations: they are below it
_IN_FLIGHT = 1 << 31
_HEAD = struct.Struct("<BBHIQ")
_RECORD = struct.Struct("<BBHIIIQQQQ")
HEAD_BYTES = _HEAD.size
RECORD_BYTES = _RECORD.size
_MULTIPLIER = 0x9E3779B97F4A7C15
_64 = (1 << 64) - 1


def attachment_of(link: int) -> int:
    """40 bits that stand for a link of a node. Two links of one device have the same once in 2**40."""
    return (link * _MULTIPLIER & _64) >> 24


class Do(IntEnum):
    """From a core to a node."""

    NOTIFY = 1  # payload: the frame; flag: again; a: ms to ack
    CANCEL = 2  # seq
    HOLD = 3
    UNBIND = 4
    MOVE = 5  # payload: Cohort of its new group
    TAKEOVER = 6  # seq: key of the device, attachment: its older link; flag: it may come back
    FANOUT = 7  # payload: Fan; seq, a: ms to ack; 0: take it back
    AGAIN = 8  # say BOUND again of all that is bound there; a: number of the round
    RETURN = 9  # payload: Returned; seq: key of the device


class Told(IntEnum):
    """From a node to a core."""

    ACK = 1  # seq, a: Unix ms sent, b: acked; flag: of the ack
    TIMEOUT = 2  # seq
    LOST = 3  # seq; flag: spilled
    LATE = 4  # seq, b: Unix ms acked; flag: of the ack; payload: numbers
    READY = 5  # a: room; payload: pack_flights, b: how many numbers there
    FANNED = 6  # seq, number: group; a: links
    BOUND = 7  # seq: key of the device; a: Unix ms; flag: floor, with 128: it was bound before
    LEFT = 8
    FLOOR = 9  # flag
    SYNCED = 10  # all are told of; a: number of the round that is over, 0: it was not asked for


class Record(NamedTuple):
    kind: int
    flag: int = 0
    number: int = 0
    local: int = 0
    attachment: int = 0
    seq: int = 0
    a: int = 0
    b: int = 0
    payload: bytes = b""


def build_record(
    kind: int,
    flag: int = 0,
    number: int = 0,
    local: int = 0,
    attachment: int = 0,
    seq: int = 0,
    a: int = 0,
    b: int = 0,
    payload: bytes = b"",
) -> bytes:
    return _RECORD.pack(kind, flag, 0, number, local, len(payload), attachment, seq, a, b) + payload


def build_head(partition: int, epoch: int) -> bytes:
    return _HEAD.pack(WIRE_VERSION, 0, partition, 0, epoch)


def parse_head(body: bytes) -> tuple[int, int]:
    """(partition, epoch)"""
    if len(body) < HEAD_BYTES:
        raise ValueError("a message without a head")
    version, _, partition, _, epoch = _HEAD.unpack_from(body)
    if version != WIRE_VERSION:
        raise ValueError("a message of a version that is not known here")
    return partition, epoch


def parse_record(body: bytes, at: int) -> tuple[Record, int]:
    """The record at this place of a message that is whole, and the place behind it."""
    kind, flag, _, number, local, size, attachment, seq, a, b = _RECORD.unpack_from(body, at)
    at += RECORD_BYTES
    return Record(kind, flag, number, local, attachment, seq, a, b, body[at : at + size]), at + size


def parse_message(body: bytes) -> tuple[int, int, int]:
    """(partition, epoch, number of records). ValueError where it is not whole: half a message is nobody's word."""
    partition, epoch = parse_head(body)
    count = count_records(body, HEAD_BYTES)
    if count < 0:
        raise ValueError("a record is cut")
    return partition, epoch, count


def parse_records(body: bytes) -> list[Record]:
    """All of a message, or ValueError."""
    *_, count = parse_message(body)
    out: list[Record] = []
    at = HEAD_BYTES
    for _ in range(count):
        record, at = parse_record(body, at)
        out.append(record)
    return out


def pack_numbers(numbers: Iterable[int], seqs: Iterable[int] = ()) -> bytes:
    first = tuple(numbers)
    then = tuple(seqs)
    return struct.pack(f"<{len(first)}I{len(then)}Q", *first, *then)


def parse_numbers(payload: bytes, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(so many numbers, then sequences)"""
    rest = len(payload) - 4 * count
    if rest < 0 or rest % 8:
        raise ValueError("numbers and sequences of another length")
    return (
        struct.unpack_from(f"<{count}I", payload),
        struct.unpack_from(f"<{rest // 8}Q", payload, 4 * count),
    )


def pack_flights(flights: Mapping[int, Sequence[int]]) -> tuple[bytes, int]:
    """Registrations with what is in flight to each, and how many numbers that begins with: behind one that has some is
    how many, marked. For owners of the version before that is a registration that there is not."""
    numbers: list[int] = []
    for number, seqs in flights.items():
        numbers += (number, _IN_FLIGHT | len(seqs)) if seqs else (number,)
    return pack_numbers(numbers, chain.from_iterable(flights.values())), len(numbers)


def parse_flights(payload: bytes, count: int) -> tuple[list[int], list[tuple[int, int]]]:
    """(registrations, (sequence, registration) in flight). Nodes of the version before do not say to whom: to each."""
    numbers, seqs = parse_numbers(payload, count)
    registrations: list[int] = []
    in_flight: list[tuple[int, int]] = []
    at = 0
    for number in numbers:
        if number < _IN_FLIGHT:
            registrations.append(number)
            continue
        end = at + (number & ~_IN_FLIGHT)
        if not registrations or end > len(seqs):
            raise ValueError("more in flight than there is")
        in_flight += [(seq, registrations[-1]) for seq in seqs[at:end]]
        at = end
    if at == 0:
        in_flight = [(seq, number) for number in registrations for seq in seqs]
    elif at != len(seqs):
        raise ValueError("sequences in flight to nobody")
    return registrations, in_flight


class _Body(msgspec.Struct, array_like=True, gc=False):
    pass


class Cohort(_Body):
    """What a group of registrations has in common."""

    app: str
    cohort: str  # text form


class Fan(_Body):
    """One frame for many."""

    app: str
    frame: bytes
    urgency: int
    groups: list[tuple[int, str]]  # number at the owner, cohort in its text form


class Returned(_Body):
    """A registration that was to end, and did not."""

    token: bytes
    app: str
    cohort: str


class AskRegister(_Body):
    version: int
    partition: int
    epoch: int
    device: str
    app: str
    app_version: str
    account: str
    alias: str | None
    tags: list[str] | None
    addresses: dict[str, str] | None
    fallback: list[str] | None
    os: str | None
    locale: str | None
    timezone: str | None
    quiet: str | None
    vapid_key: str | None
    pages: bool
    #: by the asking node's monotonic clock, and how long it waits; 0: a node of the version before, which does not say
    asked_ms: int = 0
    wait_ms: int = 0


class Registered(_Body):
    number: int
    token: bytes
    created: bool
    changed: bool
    cohort: str
    servers: list[str]


class AskEnd(_Body):
    """Sign it out, or end its token for good."""

    version: int
    partition: int
    epoch: int
    number: int
    attachment: int
    forget: bool


class AskFetch(_Body):
    version: int
    partition: int
    epoch: int
    number: int
    attachment: int
    ids: list[int]


class Fetched(_Body):
    sent: list[int]
    more: bool


_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type, msgspec.msgpack.Decoder[Any]] = {}


def build_body(body: _Body) -> bytes:
    return _encoder.encode(body)


def parse_body(raw: bytes, kind: type[_T]) -> _T:
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        body: _T = decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ValueError("no such body") from exc
    if getattr(body, "version", WIRE_VERSION) != WIRE_VERSION:
        raise ValueError("a question of a version that is not known here")
    return body


class Tellings:
    """What is to be told, by where it goes, until the end of the turn."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[int, int, int], bytearray] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, node: int, partition: int, epoch: int, record: bytes) -> int:
        """`record`: one or several. Returns how many bytes wait there now."""
        key = (node, partition, epoch)
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = bytearray(build_head(partition, epoch))
        waiting += record
        return len(waiting)

    def take(self) -> Iterator[tuple[int, bytes]]:
        """(node, message) in the order in which they began."""
        waiting, self._waiting = self._waiting, {}
        for (node, _, _), message in waiting.items():
            yield node, bytes(message)
