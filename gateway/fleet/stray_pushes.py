"""Pushes of a batch to tokens that lie elsewhere than their first bits say: put into the parts where they belong; must
never change the order of pushes to one token.

Only a fleet that was imported has such tokens. There each push of a batch is looked at once more; elsewhere this costs
a look at an empty table.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import msgspec

from gateway.model.cluster import has_strays, partition_of
from gateway.model.registration import TOKEN_CHARS, parse_token

#: partition, how many, packed array, their places in the batch, are they plain: as the native split makes it
Parted = tuple[int, int, bytes, bytes, bool]


class _Target(msgspec.Struct):
    token: str = ""


class _Peek(msgspec.Struct):
    target: _Target


_peek_all = msgspec.msgpack.Decoder(list[_Peek]).decode
_peek = msgspec.msgpack.Decoder(_Peek).decode
_split = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError)


def place_strays(parts: Sequence[Parted], partitions: int) -> Sequence[Parted]:
    """The same pushes, in more parts where some are strays."""
    if not has_strays():
        return parts
    return [piece for part in parts for piece in _take_apart(part, partitions)]


def _take_apart(part: Parted, partitions: int) -> list[Parted]:
    here, _, packed, places, is_plain = part
    wanted = [_partition(token, here, partitions) for token in _tokens(packed)]
    if all(partition == here for partition in wanted):
        return [part]
    raws, old = _split(packed), memoryview(places).cast("I")
    pieces: dict[int, tuple[list[msgspec.Raw], array[int]]] = {}
    for partition, raw, place in zip(wanted, raws, old, strict=True):
        theirs, where = pieces.setdefault(partition, ([], array("I")))
        theirs.append(raw)
        where.append(place)
    return [
        (partition, len(where), b"\xdd" + len(where).to_bytes(4, "big") + b"".join(theirs), where.tobytes(), is_plain)
        for partition, (theirs, where) in pieces.items()
    ]


def _tokens(packed: bytes) -> list[str]:
    """Of each push; empty where it is no push: its owner says what is wrong with it."""
    try:
        return [peek.target.token for peek in _peek_all(packed)]
    except _UNREADABLE:
        return [_token(raw) for raw in _split(packed)]


def _token(raw: msgspec.Raw) -> str:
    try:
        return _peek(raw).target.token
    except _UNREADABLE:
        return ""


def _partition(text: str, here: int, partitions: int) -> int:
    token = parse_token(text) if len(text) == TOKEN_CHARS else None
    return here if token is None else partition_of(token, partitions)
