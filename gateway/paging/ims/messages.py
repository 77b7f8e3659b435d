"""What a SIP server and the gateway tell each other, one JSON object a netstring; must never hold who calls, nor show
who is called by being printed.

docs/ims.md has the table. Fields that are not known are passed over, so that either side may be newer.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

#: the server's own name of a request: Kamailio's transaction, index:label
CallId = Annotated[str, Meta(pattern=r"^[0-9]{1,20}:[0-9]{1,20}$")]


class Page(msgspec.Struct, tag_field="event", tag="page", frozen=True):
    """A request is held: page who is called. The same id again: the server was asked what it holds."""

    id: CallId
    method: Annotated[str, Meta(min_length=1, max_length=16, pattern="^[A-Z]+$")]
    #: public identity that is called: sip:user@domain or tel:+number
    impu: Annotated[str, Meta(max_length=512)]
    #: URI parameters of the contact that may be asleep (RFC 8599); empty where there is no contact
    params: Annotated[str, Meta(max_length=2_048)] = ""
    #: how long it is held from now
    left_s: Annotated[int, Meta(ge=1, le=3_600)] = 1

    def __repr__(self) -> str:
        return f"Page({self.id}, {self.method})"


class End(msgspec.Struct, tag_field="event", tag="end", frozen=True):
    """A request is held no more."""

    id: CallId
    #: released: the terminal has registered; cancelled: the caller gave up; timeout; refused: as the gateway said
    why: Literal["released", "cancelled", "timeout", "refused"]


class Pong(msgspec.Struct, tag_field="event", tag="pong", frozen=True):
    """The answer to a ping."""


class Hello(msgspec.Struct, tag_field="event", tag="hello", frozen=True):
    """First on every connection: pages go to this gateway from now on, those for what is held already too."""


class Ping(msgspec.Struct, tag_field="event", tag="ping", frozen=True):
    """Still there? A server that has no gateway takes it for a hello."""


class Paged(msgspec.Struct, tag_field="event", tag="paged", frozen=True):
    """The page has gone out."""

    id: CallId


class Refused(msgspec.Struct, tag_field="event", tag="refused", frozen=True):
    """There will be no page: answer the caller."""

    id: CallId
    #: unpageable: never, whatever the reason (nobody, opted out, no number); failed: not now
    reason: Literal["unpageable", "failed"]


Told = Page | End | Pong
Said = Hello | Ping | Paged | Refused


class BadMessage(ValueError):
    """No message of this protocol. Its text names nothing of what came."""


_told: msgspec.json.Decoder[Told] = msgspec.json.Decoder(Told)
_said: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Said)
_encoder = msgspec.json.Encoder()


def parse_told(data: bytes) -> Told:
    """What a SIP server says. BadMessage."""
    try:
        return _told.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    # out of the handler, so that no context keeps what was given
    raise BadMessage("no message of a SIP server")


def parse_said(data: bytes) -> Said:
    """What a gateway says. BadMessage."""
    try:
        return _said.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    raise BadMessage("no message of a gateway")


def build(message: Told | Said) -> bytes:
    return _encoder.encode(message)
