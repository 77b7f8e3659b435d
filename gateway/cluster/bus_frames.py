"""Bytes between nodes: frames in bundles, bundles in numbered messages; must hold no I/O and no clock.

A **frame** is one thing told, asked or answered. What a node has for another in one turn of its loop is a **bundle** of
frames. A bundle goes out as one **message**, or as several where it is larger than a message may be. Messages from one
node to another are numbered from 1 without holes, so that the receiver sees what was lost; a message without a part of
a bundle is a **mark**: it names the last number again, for losses with nothing after them.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import NamedTuple

import msgspec

from gateway.model.cluster import Body
from gateway.model.errors import ERRORS, GatewayError

#: of this layout; a message of another one is not read
LAYOUT = 1
TELL, ASK, ANSWER, ERROR = 1, 2, 3, 4
_TYPES = frozenset((TELL, ASK, ANSWER, ERROR))
_BEGINS, _ENDS = 1, 2
#: layout, sender, number of the message, flags
_MESSAGE = struct.Struct(">BHQB")
HEADER_BYTES = _MESSAGE.size
#: type, length of the kind, request, length of the body
_FRAME = struct.Struct(">BBQI")
_FRAME_BYTES, _unpack_frame = _FRAME.size, _FRAME.unpack_from
#: of a kind's name
MAX_KIND_BYTES = 255
#: a bundle is closed when it has so much; a larger frame is a bundle of its own
BUNDLE_BYTES = 262_144
MAX_BODY_BYTES = (1 << 32) - 1
_MAX_TEXT = 1_000


class BadMessage(Exception):
    """Not what a node of this layout sends."""


class Frame(NamedTuple):
    type: int
    kind: str  # of a question or what is told; empty otherwise
    request: int  # joins question and answer; 0: told
    body: bytes


class _Packed(NamedTuple):
    """A frame that waits: head and body, which may be large, and is copied only into its message."""

    size: int
    pieces: tuple[bytes | memoryview, ...]


def pack_frame(frame: Frame, body: Body | None = None) -> _Packed:
    """`body`: another one than the frame's."""
    kind = frame.kind.encode()
    if body is None:
        body = frame.body
    pieces = (body,) if isinstance(body, bytes) else body
    size = len(body) if isinstance(body, bytes) else sum(map(len, pieces))
    if size > MAX_BODY_BYTES:
        raise ValueError("larger than a frame can be")
    head = _FRAME.pack(frame.type, len(kind), frame.request, size) + kind
    return _Packed(len(head) + size, (head, *pieces))


def parse_frames(bundle: bytes | memoryview) -> list[Frame]:
    """All of them, or BadMessage: nothing of a broken bundle is carried out."""
    frames, at, end = [], 0, len(bundle)
    bundle = memoryview(bundle)
    kind, kind_raw = "", b""
    while at < end:
        if end - at < _FRAME_BYTES:
            raise BadMessage("a frame's head is cut off")
        type_, kind_bytes, request, body_bytes = _unpack_frame(bundle, at)
        at += _FRAME_BYTES
        if type_ not in _TYPES:
            raise BadMessage("a frame of an unknown type")
        if end - at < kind_bytes + body_bytes:
            raise BadMessage("a frame's body is cut off")
        ends = at + kind_bytes
        if bundle[at:ends] != kind_raw:  # mostly it is that of the frame before
            kind_raw = bytes(bundle[at:ends])
            try:
                kind = kind_raw.decode()
            except UnicodeDecodeError:
                raise BadMessage("a kind is no UTF-8") from None
        at = ends + body_bytes
        frames.append(Frame(type_, kind, request, bytes(bundle[ends:at])))
    return frames


class _Refusal(msgspec.Struct, array_like=True):
    code: int
    name: str
    message: str
    field: str
    after_ms: int


_refusals = msgspec.msgpack.Decoder(_Refusal)


def build_refusal(error: GatewayError) -> bytes:
    """The body of an ERROR frame."""
    return msgspec.msgpack.encode(
        _Refusal(error.code, error.name, error.message[:_MAX_TEXT], error.field[:_MAX_TEXT], error.after_ms)
    )


def parse_refusal(body: bytes) -> GatewayError:
    """The error that another node raised; GatewayError itself where its number is not known here. BadMessage."""
    try:
        told = _refusals.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadMessage("an error that can not be read") from None
    kind = ERRORS.get(told.code)
    if kind is None:
        return GatewayError(f"{told.name}: {told.message}", field=told.field, after_ms=told.after_ms)
    return kind(told.message, field=told.field, after_ms=told.after_ms)


class Message(NamedTuple):
    sender: int
    number: int
    begins: bool
    ends: bool
    part: bytes | memoryview

    @property
    def is_mark(self) -> bool:
        return not self.begins and not self.ends and not self.part


def build_message(message: Message) -> bytes:
    return _build_head(message.sender, message.number, message.begins, message.ends) + message.part


def _build_head(sender: int, number: int, begins: bool, ends: bool) -> bytes:
    return _MESSAGE.pack(LAYOUT, sender, number, (_BEGINS if begins else 0) | (_ENDS if ends else 0))


def parse_message(raw: bytes) -> Message:
    """BadMessage."""
    if len(raw) < HEADER_BYTES:
        raise BadMessage("a message's head is cut off")
    layout, sender, number, flags = _MESSAGE.unpack_from(raw)
    if layout != LAYOUT:
        raise BadMessage("a message of another layout")
    if flags & ~(_BEGINS | _ENDS) or sender == 0:
        raise BadMessage("a message's head makes no sense")
    return Message(sender, number, bool(flags & _BEGINS), bool(flags & _ENDS), memoryview(raw)[HEADER_BYTES:])


class Outbox:
    """What waits for one other node, in order. Bounded: what does not fit is dropped, and where it was the numbers of
    messages leave one out."""

    def __init__(self, sender: int, limit_bytes: int) -> None:
        self._sender = sender
        self._limit_bytes = limit_bytes
        self._frames: deque[_Packed | None] = deque()  # None: something was dropped here
        self.waiting_bytes = 0
        self.number = 0  # of the last message

    def __bool__(self) -> bool:
        return bool(self._frames)

    def put(self, frame: Frame, body: Body | None = None) -> bool:
        """False: it did not fit. `body`: another one than the frame's, in pieces."""
        packed = pack_frame(frame, body)
        if self.waiting_bytes + packed.size > self._limit_bytes:
            self._leave_gap()
            return False
        self._frames.append(packed)
        self.waiting_bytes += packed.size
        return True

    def clear(self) -> int:
        """Drops everything; returns how many frames."""
        count = sum(1 for frame in self._frames if frame is not None)
        self._frames.clear()
        self.waiting_bytes = 0
        if count:
            self._leave_gap()
        return count

    def _leave_gap(self) -> None:
        if not self._frames or self._frames[-1] is not None:
            self._frames.append(None)

    def take(self, message_bytes: int) -> list[bytes]:
        """The next bundle, as messages of at most so many bytes; empty when nothing waits."""
        bundle: list[bytes | memoryview] = []
        size = 0
        while self._frames:
            frame = self._frames[0]
            if frame is None:
                if bundle:
                    break
                self.number += 1  # nobody sends a message with this number
            elif bundle and size + frame.size > BUNDLE_BYTES:
                break
            else:
                bundle += frame.pieces
                size += frame.size
            self._frames.popleft()
        self.waiting_bytes -= size
        if not bundle:
            return []
        most = message_bytes - HEADER_BYTES
        if size <= most:
            self.number += 1
            return [b"".join((_build_head(self._sender, self.number, True, True), *bundle))]
        whole = memoryview(b"".join(bundle))
        messages = []
        for at in range(0, size, most):
            self.number += 1
            part = whole[at : at + most]
            messages.append(build_message(Message(self._sender, self.number, at == 0, at + most >= size, part)))
        return messages

    def mark(self) -> bytes:
        return build_message(Message(self._sender, self.number, begins=False, ends=False, part=b""))


class Inbox:
    """What one other node sends: puts bundles together again and sees losses."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._last = 0
        self._parts: list[bytes | memoryview] | None = None
        self._size = 0

    def take(self, message: Message) -> tuple[bytes | memoryview, bool]:
        """(a bundle that is whole now, or nothing; was something lost before it?)."""
        if message.number <= self._last:  # a mark with nothing lost, or the same message again
            return b"", False
        lost = message.is_mark or message.number > self._last + 1
        self._last = message.number
        if lost or message.begins:
            self._parts, self._size = None, 0
        if message.begins:
            self._parts = []
        if self._parts is None:
            return b"", True
        self._parts.append(message.part)
        self._size += len(message.part)
        if self._size > self._limit_bytes:
            self._parts = None
            return b"", True
        if not message.ends:
            return b"", lost
        whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = None
        return whole, lost
