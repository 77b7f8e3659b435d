"""The device wire format: frame types, bodies and a sans-IO codec; `docs/frames.md` is its description.

A frame is a type byte, a varint body length (LEB128, at most 4 bytes) and a msgpack body. This Python codec serves
the SDK and the control plane; `ext/frame.pyx` is the data plane's own, and a property test holds the two equal.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from gateway.model.device_address import HOST_CHARS
from gateway.model.errors import FrameTooLarge, InvalidField, MalformedFrame

PROTOCOL_VERSION = 1
#: what the gateway takes after login, bytes of body
FRAME_BYTES = 64 * 1024
MAX_VARINT_BYTES = 4
#: ids in one ACK, WHOLE, SHOWN or FETCH
MAX_IDS = 1024

# Bounds of fields, checked when a body is parsed. String lengths count Unicode characters; the store checks what is
# tighter than that (bytes, character sets).
Id = Annotated[int, Meta(ge=0)]  # u64: msgpack has no larger integer
Req = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
Seconds = Annotated[int, Meta(ge=0, le=86_400)]
DeviceId = Annotated[str, Meta(max_length=128)]
Secret = Annotated[bytes, Meta(max_length=256)]
Jwt = Annotated[str, Meta(max_length=3_584)]
Window = Annotated[int, Meta(ge=0, le=65_535)]
Sdk = Annotated[str, Meta(max_length=64)]
ApiKey = Annotated[str, Meta(max_length=128)]
AppName = Annotated[str, Meta(min_length=1, max_length=64)]
#: no control characters: with one of them the parts of a cohort are told apart (cohort.py)
_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
Version = Annotated[str, Meta(min_length=1, max_length=64, pattern=_PRINTABLE)]
Account = Annotated[str, Meta(max_length=128)]
Alias = Annotated[str, Meta(max_length=128)]
Tag = Annotated[str, Meta(min_length=1, max_length=64)]
Tags = Annotated[list[Tag], Meta(max_length=100)]
Channel = Annotated[str, Meta(min_length=1, max_length=32)]
Address = Annotated[str, Meta(min_length=1, max_length=2_048)]
Addresses = Annotated[dict[Channel, Address], Meta(max_length=8)]
VapidKey = Annotated[str, Meta(max_length=128)]
Fallback = Annotated[list[Channel], Meta(max_length=8)]
Os = Annotated[str, Meta(max_length=32, pattern=_PRINTABLE)]
Locale = Annotated[str, Meta(max_length=35)]
Timezone = Annotated[str, Meta(max_length=64)]
Quiet = Annotated[str, Meta(max_length=11)]
TokenText = Annotated[str, Meta(max_length=64)]
PageKey = Annotated[bytes, Meta(max_length=32)]
#: room for later versions of a page: what is too long for this one is refused by its own parser
PageBytes = Annotated[bytes, Meta(max_length=1_024)]
Server = Annotated[str, Meta(max_length=256)]
Servers = Annotated[list[Server], Meta(max_length=8)]
Cursor = Annotated[int, Meta(ge=0)]
Op = Annotated[str, Meta(min_length=1, max_length=32, pattern="^[a-z_]+$")]
Ids = Annotated[list[Id], Meta(max_length=MAX_IDS)]
Host = Annotated[str, Meta(max_length=HOST_CHARS)]
Port = Annotated[int, Meta(ge=0, le=65_535)]


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
    WHOLE = 0x12  # device → gateway, array of ids that came light and are there whole; implies ACK
    PAGE = 0x21  # gateway → device
    UP = 0x22  # device → gateway, a request of IM
    DOWN = 0x23  # gateway → device, answers UP, or tells something that is not kept
    PAGED = 0x24  # device → gateway, answers PAGE
    PUSH = 0x30  # provider → gateway
    PUSHED = 0x31  # gateway → provider, answers PUSH
    RECEIPTS = 0x32  # provider → gateway
    RECEIPT = 0x33  # gateway → provider
    RECEIVED = 0x34  # provider → gateway
    # Reserved for later capabilities: LOCATE 0x20; 0x35-0x3F for the provider stream.


class Urgency(IntEnum):
    """RFC 8030 §5.3."""

    VERY_LOW = 0
    LOW = 1
    NORMAL = 2
    HIGH = 3


_NO_DATA = msgspec.Raw()


class _Body(msgspec.Struct, omit_defaults=True, gc=False):
    pass


class Hello(_Body, kw_only=True):
    v: int
    #: "device", or "provider" for a provider stream
    role: str = "device"
    #: issued by an earlier WELCOME; or a label of the device's own to be part of the issued one; or empty
    device: DeviceId = ""
    secret: Secret = b""
    jwt: Jwt = ""
    #: wanted heartbeat interval, seconds; 0 = the gateway's choice
    heartbeat: Seconds = 0
    #: most unacked NOTIFYs the device takes at once; 0 = the gateway's choice
    window: Window = 0
    #: below this urgency notifications wait in the gateway (RFC 8030 §5.3)
    urgency: Annotated[int, Meta(ge=0, le=3)] = 0
    sdk: Sdk = ""
    #: a provider's API key
    key: ApiKey = ""


class Welcome(_Body, kw_only=True):
    v: int
    #: the id to present from now on
    device: DeviceId
    #: present when one was issued or replaced by a newer key: store it beside the device id
    secret: Secret = b""
    #: agreed interval and the bounds inside which the device may ask for another, seconds
    heartbeat: int
    heartbeat_min: int
    heartbeat_max: int
    window: Window
    max_frame: int
    #: gateway clock, Unix milliseconds
    now_ms: int
    #: WHOLE is known here
    whole: bool = False


class Register(_Body, kw_only=True):
    req: Req
    app: AppName
    version: Version
    account: Account = ""
    #: True: other accounts of this app stay bound on this device; False (default): this account replaces them
    keep: bool = False
    #: None: leave as it is
    alias: Alias | None = None
    tags: Tags | None = None
    #: notifier channel → address of this device there (an APNs token, a URL), opaque to the core
    addresses: Addresses | None = None
    #: notifier channels to fall back to, in order; None: the app's own
    fallback: Fallback | None = None
    #: what the device is and where: chooses language and quiet hours, and conditions look at it. None: as it is
    os: Os | None = None
    locale: Locale | None = None
    timezone: Timezone | None = None
    quiet: Quiet | None = None
    #: Web Push: only who signs with this key may push (RFC 8292 §4), base64url; "" lifts it; None: leave as it is
    vapid_key: VapidKey | None = None
    #: True: TOKEN brings what service pages are checked with (C13)
    pages: bool = False


class Token(_Body, kw_only=True):
    req: int
    token: str
    #: False when this triple was known already
    created: bool = False
    #: with `pages`: what service pages to this token are signed with; and the servers they name by their place (C13)
    page_key: PageKey = b""
    servers: Servers = []


class Page(_Body, kw_only=True):
    """A service page over the link (C13)."""

    req: Req
    #: as gateway/model/service_page.py has it
    page: PageBytes


class Paged(_Body, kw_only=True):
    """The device has started what the page is for."""

    req: Req


class Up(_Body, kw_only=True):
    """What the user of a registration asks for (docs/im.md)."""

    req: Req
    token: TokenText = ""
    #: which operation
    op: Op
    #: a map, as the operation takes it; absent: an empty one
    body: msgspec.Raw = _NO_DATA


class Down(_Body, kw_only=True):
    #: the UP it answers; 0: nobody asked, and nothing of it is kept
    req: int = 0
    token: str = ""
    body: msgspec.Raw = _NO_DATA


class Unregister(_Body, kw_only=True):
    req: Req
    token: TokenText
    #: True: revoke the token for good; False: only stop delivery to this device until it registers again
    forget: bool = False


class Notify(_Body, kw_only=True):
    #: delivery id, unique for this token: acknowledge it, and drop what was seen already
    id: Id
    #: the registration it is for; empty for a broadcast, then `app` says whose it is
    token: TokenText = ""
    app: str = ""
    title: str = ""
    text: str = ""
    #: message body, any msgpack value; absent in a light notification
    data: msgspec.Raw = _NO_DATA
    #: True: a light notification, the body is there for a FETCH (B2)
    more: bool = False
    urgency: int = 2
    #: Unix seconds: accepted, and the moment after which it must not be shown
    at: int = 0
    expires: int = 0
    collapse: str = ""

    def __post_init__(self) -> None:
        # msgspec leaves a default out by identity: another empty Raw would be packed as a key without a value
        if not self.data:
            self.data = _NO_DATA


class Fetch(_Body, kw_only=True):
    req: Req
    token: TokenText
    #: only these ids; empty: everything that waits (A4)
    ids: Ids = []


class Fetched(_Body, kw_only=True):
    req: int
    #: NOTIFYs sent in answer, before this frame
    count: int
    #: True: the in-flight window was full; ack and fetch again
    more: bool = False


class State(_Body, kw_only=True):
    req: Req = 0
    #: asked-for heartbeat interval, seconds; 0 = unchanged
    heartbeat: Seconds = 0
    #: urgency floor; -1 = unchanged
    urgency: Annotated[int, Meta(ge=-1, le=3)] = -1
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
    #: another gateway that takes the device, its plain port and its port inside TLS; 0: it has none of that kind
    host: Host = ""
    port: Port = 0
    tls_port: Port = 0


class ProviderWelcome(_Body, kw_only=True):
    """WELCOME of a provider stream."""

    v: int
    app: str
    heartbeat: int
    heartbeat_min: int
    heartbeat_max: int
    #: most pushes without a result on this link; most in one PUSH
    window: int
    max_batch: int
    max_frame: int
    now_ms: int
    #: the last receipt of the app so far
    cursor: int = 0


class Push(_Body, kw_only=True):
    req: Req
    #: array of pushes, each a map like the body of POST /v1/push
    pushes: msgspec.Raw


class Pushed(_Body, kw_only=True):
    req: int
    #: array, one result a push, in order
    results: msgspec.Raw


class Receipts(_Body, kw_only=True):
    req: Req
    #: begin after this cursor; None: with what comes from now on
    after: Cursor | None = None
    #: most receipts on the way without RECEIVED; 0 = the gateway's choice, which is also the most
    window: Window = 0


class Receipt(_Body, kw_only=True):
    #: array of receipts
    receipts: msgspec.Raw
    #: of the last of them
    cursor: int


class Received(_Body, kw_only=True):
    cursor: Cursor


_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder()
_ids_decoder = msgspec.msgpack.Decoder(Ids)
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


#: of a PUSH as providers write it: a map of two, the first key; msgpack's unsigned integers up to `Req`; the second
_PUSH_BEGINS = b"\x82\xa3req"
_UINT_BYTES = {0xCC: 1, 0xCD: 2, 0xCE: 4}
_PUSHES_KEY = b"\xa6pushes"


def parse_body(body: bytes | memoryview, as_type: type[_T]) -> _T:
    """Decode and validate a frame body; raises InvalidField naming the field, MalformedFrame where it is no msgpack."""
    decoder = _decoders.get(as_type)
    if decoder is None:
        decoder = _decoders[as_type] = msgspec.msgpack.Decoder(as_type)
    try:
        return decoder.decode(body)  # type: ignore[no-any-return]
    except msgspec.ValidationError as exc:
        _reason, _, path = str(exc).partition(" - at `")
        raise InvalidField(str(exc), field=path.rstrip("`").removeprefix("$.") if path else "") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as exc:
        raise MalformedFrame(f"the body is not valid msgpack: {exc}") from None


def parse_push(body: bytes) -> tuple[int, bytes | memoryview]:
    """`req` and `pushes` of a PUSH. Its usual form (`req` first, then `pushes`) is only cut, for an array of thousands
    is not to be read twice: whoever reads it finds what is wrong, and `parse_body` says what that is to the sender."""
    if body.startswith(_PUSH_BEGINS) and len(body) > len(_PUSH_BEGINS):
        at = len(_PUSH_BEGINS) + 1
        tag = body[at - 1]
        width = _UINT_BYTES.get(tag, 0)
        if (tag < 0x80 or width) and body.startswith(_PUSHES_KEY, at + width):
            req = int.from_bytes(body[at : at + width], "big") if width else tag
            return req, memoryview(body)[at + width + len(_PUSHES_KEY) :]
    ask = parse_body(body, Push)
    return ask.req, bytes(ask.pushes)


def parse_ids(body: bytes | memoryview) -> list[int]:
    """Body of ACK, WHOLE, SHOWN and RECALL."""
    try:
        return _ids_decoder.decode(body)
    except (msgspec.DecodeError, ValueError) as exc:
        raise MalformedFrame(f"expected an array of at most {MAX_IDS} ids: {exc}") from None


class FrameReader:
    """Cuts a byte stream into frames; give it any pieces, in order. Keeps what was appended and not yet taken.

    Raises MalformedFrame or FrameTooLarge where the stream can not be cut on; it must not be used after that.
    """

    def __init__(self, max_body: int = FRAME_BYTES) -> None:
        self.max_body = max_body
        self._buf = bytearray()

    def __len__(self) -> int:
        """Bytes held."""
        return len(self._buf)

    def append(self, data: bytes | bytearray | memoryview) -> None:
        self._buf += data

    def take(self) -> tuple[int, bytes] | None:
        """The next complete frame as (type, body), None where there is none yet. Frames before a bad one come out."""
        buf = self._buf
        end = len(buf)
        size = shift = 0
        for at in range(1, min(end, 1 + MAX_VARINT_BYTES)):
            byte = buf[at]
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        else:
            if end > MAX_VARINT_BYTES:
                raise MalformedFrame("a frame length takes at most 4 bytes")
            return None
        if size > self.max_body:
            raise FrameTooLarge(f"a frame body of {size} bytes is over the limit of {self.max_body}")
        start = at + 1
        if end - start < size:
            return None
        frame = buf[0], bytes(memoryview(buf)[start : start + size])
        del buf[: start + size]
        return frame

    def feed(self, data: bytes | bytearray | memoryview) -> list[tuple[int, bytes]]:
        """append, then all that take gives. Where it raises, complete frames before the bad one are lost."""
        self.append(data)
        frames: list[tuple[int, bytes]] = []
        while (frame := self.take()) is not None:
            frames.append(frame)
        return frames
