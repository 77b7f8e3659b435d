"""PUSH: asking a card to open a channel and a CAT_TP link, and what it answers (E2, E6); must never take an answer that
it cannot read for a success.

Source: ETSI TS 102 226 §9.2: `80 EC 01 P2 Lc`, data objects as in TS 102 223. The answer is in the data of the secured
packet's own answer: number of commands, status word, and with 6F00 the Result of the terminal, which comes sooner than
any timeout."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from gateway.ota.cattp_pdu import MOST_IDENTIFICATION_BYTES
from gateway.ota.channel import TAG_BUFFER, TAG_CHANNEL_DATA, TAG_TRANSPORT, Channel, build_channel, parse_channel
from gateway.ota.malformed import Malformed
from gateway.ota.result import TAG_RESULT, Result, parse_result
from gateway.ota.tlv import Tlv, build_tlvs, find, need, parse_tlvs

_HEAD = bytes((0x80, 0xEC, 0x01))
MOST_DATA_BYTES = 255


class Kind(IntEnum):
    """P2."""

    OPEN_CHANNEL = 0x01
    CATTP_LINK = 0x02


@dataclass(frozen=True, slots=True)
class OpenLink:
    """A CAT_TP link in a channel that is open."""

    #: CAT_TP port of the server
    port: int
    #: largest SDU that the card should take; None: the card's own
    max_sdu: int | None = None
    #: what the card's SYN says; None: its ICCID. Unguessable, it says that the SYN is the answer to this PUSH
    identification: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """ValueError."""
        if not 0 <= self.port <= 0xFFFF or not (self.max_sdu is None or 0 < self.max_sdu <= 0xFFFF):
            raise ValueError("a port and a size have two bytes")
        if self.identification is not None and not 0 < len(self.identification) <= MOST_IDENTIFICATION_BYTES:
            raise ValueError(f"an identification has 1 to {MOST_IDENTIFICATION_BYTES} bytes")


#: the transport level of a CAT_TP link has no protocol of its own
_NO_TRANSPORT = b"\0"


def build_push(what: Channel | OpenLink) -> bytes:
    """The APDU. ValueError past 255 bytes of data."""
    if isinstance(what, Channel):
        kind, tlvs = Kind.OPEN_CHANNEL, build_channel(what)
    else:
        kind, tlvs = Kind.CATTP_LINK, [Tlv(TAG_TRANSPORT, _NO_TRANSPORT + what.port.to_bytes(2, "big"))]
        if what.max_sdu is not None:
            tlvs.append(Tlv(TAG_BUFFER, what.max_sdu.to_bytes(2, "big")))
        if what.identification is not None:
            tlvs.append(Tlv(TAG_CHANNEL_DATA, what.identification))
    data = build_tlvs(tlvs)
    if len(data) > MOST_DATA_BYTES:
        raise ValueError(f"a PUSH has at most {MOST_DATA_BYTES} bytes of data")
    return _HEAD + bytes((kind, len(data))) + data


def parse_push(apdu: bytes) -> Channel | OpenLink:
    """The card's side. Malformed: the card says 6A80."""
    if len(apdu) < 5 or apdu[:3] != _HEAD or apdu[4] != len(apdu) - 5:
        raise Malformed("not a PUSH, or not as long as it says")
    tlvs = parse_tlvs(apdu[5:])
    if apdu[3] == Kind.OPEN_CHANNEL:
        return parse_channel(tlvs)
    if apdu[3] != Kind.CATTP_LINK:
        raise Malformed("no such PUSH")
    transport = need(tlvs, TAG_TRANSPORT, 3)
    max_sdu = None if find(tlvs, TAG_BUFFER) is None else int.from_bytes(need(tlvs, TAG_BUFFER, 2), "big")
    try:
        return OpenLink(int.from_bytes(transport[1:], "big"), max_sdu, find(tlvs, TAG_CHANNEL_DATA))
    except ValueError:
        raise Malformed("a size or an identification is out of range") from None


@dataclass(frozen=True, slots=True)
class PushAnswer:
    #: commands that were executed
    commands: int
    status_word: int
    #: why the terminal did not open; with 6F00
    result: Result | None = None

    @property
    def is_done(self) -> bool:
        return self.status_word == 0x9000


def build_push_answer(answer: PushAnswer) -> bytes:
    data = b"" if answer.result is None else build_tlvs((answer.result.build(),))
    return bytes((answer.commands,)) + answer.status_word.to_bytes(2, "big") + data


def parse_push_answer(data: bytes) -> PushAnswer:
    """The data of a secured packet's answer, compact (TS 102 226 §5.1.2). Malformed."""
    if len(data) < 3:
        raise Malformed("an answer has a count and a status word")
    status_word = int.from_bytes(data[1:3], "big")
    value = find(parse_tlvs(data[3:]), TAG_RESULT) if status_word == 0x6F00 else None
    return PushAnswer(data[0], status_word, None if value is None else parse_result(value))
