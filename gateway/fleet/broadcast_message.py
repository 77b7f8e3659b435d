"""Messages of the fleet's broadcast stream, bytes in and values out; must raise nothing but MalformedMessage."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.model.notification import Notification


class MalformedMessage(ValueError):
    """Not a message, or of a newer version."""


class Told(msgspec.Struct, array_like=True, tag="told", frozen=True):
    """A broadcast. Its sequence is 0: its place in the stream gives it. `push`: what its provider knows it by."""

    notification: Notification


class TakenBack(msgspec.Struct, array_like=True, tag="taken_back", frozen=True):
    """The broadcast that is known by `push` is not to be sent any more, wherever it stands in the stream."""

    push: int
    until_s: int  # it would be over then by itself


_encode = msgspec.msgpack.Encoder().encode
_decode: Any = msgspec.msgpack.Decoder(Told | TakenBack).decode


def build_message(message: Told | TakenBack) -> bytes:
    return _encode(message)


def parse_message(raw: bytes) -> Told | TakenBack:
    try:
        message: Told | TakenBack = _decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedMessage(str(error)) from error
    if isinstance(message, Told) and not (message.notification.push > 0 and message.notification.target.is_broadcast):
        raise MalformedMessage("no broadcast")
    return message
