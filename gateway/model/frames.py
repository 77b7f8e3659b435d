"""The device wire format: frame types, bodies and a sans-IO codec; `docs/frames.md` is its description.

A frame is a type byte, a varint body length (LEB128, at most 4 bytes) and a msgpack body. This Python codec serves
the SDK and the control plane; `ext/frame.pyx` is the data plane's own, and a property test holds the two equal.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, TypeVar

import msgspec

from gateway.model.errors import FrameTooLarge, InvalidField, MalformedFrame

PROTOCOL_VERSION = 1
#: what the gateway takes before login and after it, bytes of body
LOGIN_FRAME_BYTES = 4 * 1024
FRAME_BYTES = 64 * 1024
MAX_VARINT_BYTES = 4


class FrameType(IntEnum):
    PING = 0x01  # device → gateway, empty
    PONG = 0x02  # gateway → device, empty
    HELLO = 0x03  # device → gateway
    WELCOME = 0x04  # gateway → device
    REGISTER = 0x05  # device → gateway
    TOKEN = 0x06  # gateway → device, answers REGISTER
    UNREGISTER = 0x07  # device → gateway
    NOTIFY = 0x08  # gateway → device
    ACK = 0x09  # device → gateway, array of ids
    SHOWN = 0x0A  # device → gateway, array of ids; implies ACK
    FETCH = 0x0B  # device → gateway
    FETCHED = 0x0C  # gateway → device, answers FETCH after its NOTIFYs
    RECALL = 0x0D  # gateway → device, array of ids
    STATE = 0x0E  # device → gateway
    DONE = 0x0F  # gateway → device, answers UNREGISTER and STATE
    ERROR = 0x10  # gateway → device
    GOAWAY = 0x11  # gateway → device, then the gateway closes
    # Reserved for later capabilities: LOCATE 0x20, PAGE 0x21, UP 0x22, DOWN 0x23, provider stream 0x30-0x3F.


class Urgency(IntEnum):
    """RFC 8030 §5.3."""

    VERY_LOW = 0
    LOW = 1
    NORMAL = 2
    HIGH = 3


class _Body(msgspec.Struct, omit_defaults=True, gc=False):
    pass


class Hello(_Body, kw_only=True):
    v: int
    #: "device"; "provider" is reserved for the provider stream
    role: str = "device"
    #: issued by an earlier WELCOME; or a label of the device's own to be part of the issued one; or empty
    device: str = ""
    secret: bytes = b""
    jwt: str = ""
    #: wanted heartbeat interval, seconds; 0 = the gateway's choice
    heartbeat: int = 0
    #: most unacked NOTIFYs the device takes at once; 0 = the gateway's choice
    window: int = 0
    #: below this urgency notifications wait in the gateway (RFC 8030 §5.3)
    urgency: int = 0
    sdk: str = ""


class Welcome(_Body, kw_only=True):
    v: int
    #: the id to present from now on
    device: str
    #: present when one was issued or replaced by a newer key: store it beside the device id
    secret: bytes = b""
    #: agreed interval and the bounds inside which the device may ask for another, seconds
    heartbeat: int
    heartbeat_min: int
    heartbeat_max: int
    window: int
    max_frame: int
    #: gateway clock, Unix milliseconds
    now_ms: int


class Register(_Body, kw_only=True):
    req: int
    app: str
    version: str
    account: str = ""
    #: True: other accounts of this app stay bound on this device; False (default): this account replaces them
    keep: bool = False
    #: None: leave as it is
    alias: str | None = None
    tags: list[str] | None = None
    #: notifier channel → address of this device there (an APNs token, a URL), opaque to the core
    addresses: dict[str, str] | None = None
    #: notifier channels to fall back to, in order; None: the app's own
    fallback: list[str] | None = None


class Token(_Body, kw_only=True):
    req: int
    token: str
    #: False when this triple was known already
    created: bool = False


class Unregister(_Body, kw_only=True):
    req: int
    token: str
    #: True: revoke the token for good; False: only stop delivery to this device until it registers again
    forget: bool = False


class Notify(_Body, kw_only=True):
    #: delivery id, unique for this token: acknowledge it, and drop what was seen already
    id: int
    #: the registration it is for; empty for a broadcast, then `app` says whose it is
    token: str = ""
    app: str = ""
    title: str = ""
    text: str = ""
    #: message body, any msgpack value; absent in a light notification
    data: msgspec.Raw = msgspec.Raw()
    #: True: a light notification, the body is there for a FETCH (B2)
    more: bool = False
    urgency: int = 2
    #: Unix seconds: accepted, and the moment after which it must not be shown
    at: int = 0
    expires: int = 0
    collapse: str = ""


class Fetch(_Body, kw_only=True):
    req: int
    token: str
    #: only these ids; empty: everything that waits (A4)
    ids: list[int] = []


class Fetched(_Body, kw_only=True):
    req: int
    #: NOTIFYs sent in answer, before this frame
    count: int
    #: True: the in-flight window was full; ack and fetch again
    more: bool = False


class State(_Body, kw_only=True):
    req: int = 0
    #: asked-for heartbeat interval, seconds; 0 = unchanged
    heartbeat: int = 0
    #: urgency floor; -1 = unchanged
    urgency: int = -1
    foreground: bool | None = None


class Done(_Body, kw_only=True):
    req: int
    #: the heartbeat now agreed, seconds, where STATE asked for one
    heartbeat: int = 0


class Error(_Body, kw_only=True):
    code: int
    name: str
    message: str
    #: the request it answers; 0 where it answers none
    req: int = 0
    retry: bool = False
    after_ms: int = 0
    #: protocol versions spoken here, with unsupported_version
    versions: list[int] = []


class Goaway(_Body, kw_only=True):
    code: int
    name: str
    retry: bool = False
    #: reconnect after after_ms plus a random part of jitter_ms
    after_ms: int = 0
    jitter_ms: int = 0


_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder()
_ids_decoder = msgspec.msgpack.Decoder(list[int])
_decoders: dict[type, Any] = {}


def build_varint(n: int) -> bytes:
    """LEB128 of 0 ≤ n < 2**28."""
    if n < 0x80:
        return bytes((n,))
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    if len(out) > MAX_VARINT_BYTES:
        raise FrameTooLarge("a frame body must be smaller than 256 MiB")
    return bytes(out)


def build_frame(kind: int, body: Any = None) -> bytes:
    """One frame ready for the wire; `body` is a Struct of this module, a list of ids, or None for an empty body."""
    if body is None:
        return bytes((kind, 0))
    packed = _encoder.encode(body)
    return bytes((kind,)) + build_varint(len(packed)) + packed


def parse_body(body: bytes | memoryview, as_type: type[_T]) -> _T:
    """Decode and validate a frame body; raises InvalidField naming the field, MalformedFrame where it is no msgpack."""
    decoder = _decoders.get(as_type)
    if decoder is None:
        decoder = _decoders[as_type] = msgspec.msgpack.Decoder(as_type)
    try:
        return decoder.decode(body)  # type: ignore[no-any-return]
    except msgspec.ValidationError as exc:
        reason, _, path = str(exc).partition(" - at `")
        raise InvalidField(str(exc), field=path.rstrip("`").removeprefix("$.") if path else "") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as exc:
        raise MalformedFrame(f"the body is not valid msgpack: {exc}") from None


def parse_ids(body: bytes | memoryview) -> list[int]:
    """Body of ACK, SHOWN and RECALL."""
    try:
        return _ids_decoder.decode(body)
    except (msgspec.DecodeError, ValueError) as exc:
        raise MalformedFrame(f"expected an array of ids: {exc}") from None


class FrameReader:
    """Cuts a byte stream into frames; feed it any pieces, in order. Keeps at most one incomplete frame."""

    def __init__(self, max_body: int = FRAME_BYTES) -> None:
        self.max_body = max_body
        self._buf = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> list[tuple[int, bytes]]:
        """Return the complete frames as (type, body); raises MalformedFrame or FrameTooLarge, then must not be used on."""
        self._buf += data
        frames: list[tuple[int, bytes]] = []
        pos, end = 0, len(self._buf)
        while end - pos >= 2:
            size = shift = 0
            at = pos + 1
            complete = False
            while at < end and at - pos <= MAX_VARINT_BYTES:
                byte = self._buf[at]
                size |= (byte & 0x7F) << shift
                shift += 7
                at += 1
                if not byte & 0x80:
                    complete = True
                    break
            if not complete:
                if at - pos > MAX_VARINT_BYTES:
                    raise MalformedFrame("a frame length takes at most 4 bytes")
                break
            if size > self.max_body:
                raise FrameTooLarge(f"a frame body of {size} bytes is over the limit of {self.max_body}")
            if end - at < size:
                break
            frames.append((self._buf[pos], bytes(self._buf[at : at + size])))
            pos = at + size
        del self._buf[:pos]
        return frames
