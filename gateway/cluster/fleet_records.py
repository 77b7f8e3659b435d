"""The fleet's records as bytes: members, owners, what the fleet is; must never fail on a newer program's record with
anything but BadRecord.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import msgspec

from gateway.model.cluster import Member

NODE, PARTITION = "node.", "part."
FLEET, NUMBERS, KEYS = "fleet", "numbers", "keys"

_T = TypeVar("_T")


class BadRecord(Exception):
    """No record of this kind."""


class Fleet(msgspec.Struct, frozen=True):
    """What all nodes have to agree on; written by the first."""

    version: int
    partitions: int
    replicas: int
    ident: str = ""  # tells it from another fleet (fleet_identity); empty: only programs of before were there


class Beat(msgspec.Struct, array_like=True, frozen=True):
    """A node says that it lives. Fields are added at the end only."""

    number: int
    name: str
    devices: str
    api: str
    version: int
    draining: bool = False
    links: int = 0
    at_ms: int = 0  # the sender's own clock, of use to it alone
    keys: int = 0  # revision of the fleet's keys that it has; 0: it reads them at its start alone (an older program)
    lease_s: float = 0.0  # as it is set there
    strangers: int = 0  # partition folders of another fleet in its store.path, when it started

    def changed(self, *, draining: bool, links: int) -> Beat:
        return msgspec.structs.replace(self, draining=draining, links=links)

    def found_at(self, *, devices: str, api: str, strangers: int) -> Beat:
        return msgspec.structs.replace(self, devices=devices, api=api, strangers=strangers)

    def knowing(self, keys: int) -> Beat:
        return msgspec.structs.replace(self, keys=keys)

    def member(self) -> Member:
        return Member(self.number, self.name, self.devices, self.api, self.version, self.draining, self.links)


class Holding(NamedTuple):
    """Whose a partition is, as its record says."""

    node: int  # 0: nobody's
    epoch: int
    ready: bool = False  # adopted to the end: it serves


class _Holding(msgspec.Struct, array_like=True):
    node: int
    epoch: int
    ready: bool = False


_fleet = msgspec.msgpack.Decoder(Fleet)
_beat = msgspec.msgpack.Decoder(Beat)
_holding = msgspec.msgpack.Decoder(_Holding)
_number = msgspec.msgpack.Decoder(int)


def build(record: Fleet | Beat | Holding | int) -> bytes:
    return msgspec.msgpack.encode(tuple(record) if isinstance(record, Holding) else record)


def parse_fleet(raw: bytes) -> Fleet:
    return _decode(_fleet, raw)


def parse_beat(raw: bytes) -> Beat:
    beat = _decode(_beat, raw)
    if not 0 < beat.number < 65_536:
        raise BadRecord
    return beat


def parse_holding(raw: bytes) -> Holding:
    found = _decode(_holding, raw)
    if not 0 <= found.node < 65_536 or found.epoch < 0:
        raise BadRecord
    return Holding(found.node, found.epoch, found.ready)


def parse_number(raw: bytes) -> int:
    return _decode(_number, raw)


def partition_key(partition: int) -> str:
    return f"{PARTITION}{partition}"


def parse_partition_key(key: str) -> int:
    """-1: it is none."""
    digits = key.removeprefix(PARTITION)
    return (
        int(digits) if key.startswith(PARTITION) and digits.isascii() and digits.isdigit() and len(digits) < 6 else -1
    )


def _decode(decoder: msgspec.msgpack.Decoder[_T], raw: bytes) -> _T:
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRecord from None
