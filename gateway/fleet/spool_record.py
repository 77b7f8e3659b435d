"""A push in the spool as bytes, what became of it as bytes, and their numbers; must hold no I/O and no clock."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from gateway.delivery.request import PushRequest
from gateway.model.errors import BadRequest

#: a number is Unix ms above these bits, then the spool's tag, then a count of this millisecond
_MS_SHIFT = 22
_TAG_SHIFT = 10
TAGS = 1 << (_MS_SHIFT - _TAG_SHIFT)
#: so long after the end of its life the fleet is asked whether it has a push, and its owner knows its key
DOUBT_S = 3_600
_COUNTS = 1 << _TAG_SHIFT


class Kept(msgspec.Struct, array_like=True, frozen=True):
    """A push that waits. `request` has no idempotency key: `key` has it."""

    app: str
    key_id: str
    accepted_ms: int
    #: it must not be sent after this, Unix ms
    deadline_ms: int
    #: by which the owner knows a repetition: the provider's own, else one of the spool's
    key: str
    #: gateway.api.once.hash_body of what the provider asked
    body_hash: bytes
    #: packed PushRequest
    request: bytes


class Fate(msgspec.Struct, array_like=True, frozen=True):
    app: str
    at_ms: int
    #: pushed, refused, expired, recalled; spooled, where another node is told that it waits
    what: str
    #: pushed: its sequence
    seq: int = 0
    #: refused: number and words of the error
    code: int = 0
    message: str = ""
    #: spooled: when it expires, Unix ms
    deadline_ms: int = 0


_kept = msgspec.msgpack.Decoder(Kept).decode
_fate = msgspec.msgpack.Decoder(Fate).decode
_request = msgspec.msgpack.Decoder(PushRequest).decode
_encode = msgspec.msgpack.Encoder().encode
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError, ValueError)


def build_kept(kept: Kept) -> bytes:
    return _encode(kept)


def build_fate(fate: Fate) -> bytes:
    return _encode(fate)


def pack_request(request: PushRequest) -> bytes:
    """BadRequest for data that has no such form."""
    try:
        return _encode(request)
    except (OverflowError, TypeError, ValueError, RecursionError) as error:
        raise BadRequest("data holds a value that can not be sent to a device", field="data") from error


def parse_kept(raw: bytes) -> Kept:
    """BadRequest."""
    try:
        return _kept(raw)
    except _DECODE_ERRORS as error:
        raise BadRequest("this is no push of a spool") from error


def parse_fate(raw: bytes) -> Fate:
    """BadRequest."""
    try:
        return _fate(raw)
    except _DECODE_ERRORS as error:
        raise BadRequest("this is no fate of a push") from error


def parse_request(raw: bytes) -> PushRequest:
    """BadRequest."""
    try:
        return _request(raw)
    except _DECODE_ERRORS as error:
        raise BadRequest("this is no push") from error


class Stamp(NamedTuple):
    """A number taken apart."""

    ms: int
    tag: int


def parse_number(number: int) -> Stamp:
    return Stamp(number >> _MS_SHIFT, number >> _TAG_SHIFT & (TAGS - 1))


def next_number(last: int, now_ms: int, tag: int) -> int:
    """Rising, whatever the clock does."""
    number = now_ms << _MS_SHIFT | tag << _TAG_SHIFT
    if number > last:
        return number
    ms, count = last >> _MS_SHIFT, (last & (_COUNTS - 1)) + 1
    if count == _COUNTS:
        ms, count = ms + 1, 0
    return ms << _MS_SHIFT | tag << _TAG_SHIFT | count


def first_of(ms: int) -> int:
    """No number of this moment or later is below it."""
    return ms << _MS_SHIFT
