"""CAT_TP PDUs as bytes, both directions; no state here, and must never pass on one whose checksum is wrong.

Source: ETSI TS 102 127 §5 (formats). Big-endian, a header of 18 bytes and what the flags put behind it:

| offset | field |
|---|---|
| 0 | flags; the two low bits are the version, 0 |
| 1-2 | reserved |
| 3 | length of the header |
| 4, 6 | source port, destination port |
| 8 | length of the data |
| 10, 12, 14 | sequence number, acknowledgement, window |
| 16 | checksum: ones' complement over header and data; no pseudo-header |
| 18 | SYN: largest PDU, largest SDU, length of the identification, identification |
| 18 | EACK: numbers of PDUs that came out of order, two bytes each |
| 18 | RST: the reason |
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from gateway.ota.malformed import Malformed

_HEAD = struct.Struct(">BHBHHHHHHH")
HEAD_BYTES = _HEAD.size
_SYN = struct.Struct(">HHB")
_CHECKSUM_AT = 16
#: what is left of a header's one length byte, in numbers of two bytes
MOST_EACKS = (255 - HEAD_BYTES) // 2
MOST_IDENTIFICATION_BYTES = 255 - HEAD_BYTES - _SYN.size
#: a UDP datagram over IPv4 holds no more
MOST_PDU_BYTES = 65_507

SYN, ACK, EACK, RST, NUL, SEG = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04
_VERSION = 0x03
FLAG_NAMES = {SYN: "SYN", ACK: "ACK", EACK: "EACK", RST: "RST", NUL: "NUL", SEG: "SEG"}


class Reason(IntEnum):
    """Of a RST (TS 102 127 §5.4)."""

    NORMAL = 0
    ILLEGAL_PARAMETERS = 1
    TEMPORARY = 2
    PORT = 3
    UNEXPECTED_PDU = 4
    RETRIES = 5
    VERSION = 6


@dataclass(frozen=True, slots=True)
class Opening:
    """What a SYN says of its sender."""

    #: the largest PDU, and the largest SDU, that it takes, bytes
    max_pdu: int
    max_sdu: int
    #: who it is: an ICCID, or what a PUSH asked it to say
    identification: bytes = b""

    def __repr__(self) -> str:
        return f"Opening(max_pdu={self.max_pdu}, max_sdu={self.max_sdu}, {len(self.identification)} bytes)"


@dataclass(frozen=True, slots=True)
class Pdu:
    flags: int
    source: int
    destination: int
    sequence: int
    acknowledgement: int = 0
    window: int = 0
    data: bytes = b""
    opening: Opening | None = None
    #: numbers that came out of order
    eacks: tuple[int, ...] = ()
    #: of a RST; a number that has no name is kept
    reason: int = 0
    version: int = 0

    def __repr__(self) -> str:
        """Neither data nor identification."""
        names = "|".join(name for bit, name in FLAG_NAMES.items() if self.flags & bit)
        return (
            f"Pdu({names or '0'}, {self.source}->{self.destination}, seq={self.sequence}, ack={self.acknowledgement}, "
            f"window={self.window}, {len(self.data)} bytes)"
        )

    @property
    def consumes(self) -> bool:
        """Whether it takes a sequence number: a SYN, data and a NUL do; an acknowledgement and a RST do not."""
        return not self.flags & RST and bool(self.flags & (SYN | NUL) or self.data)


def sum_words(data: bytes) -> int:
    """Ones' complement sum of 16-bit words; an odd byte is the high one of the last word."""
    if len(data) & 1:
        data += b"\0"
    # 2^16 is 1 modulo 65535, so the whole as one number says it; which of its two zeros is meant, bytes say
    total = int.from_bytes(data, "big")
    return total % 0xFFFF or (0xFFFF if total else 0)


def build_checksum(data: bytes) -> int:
    return ~sum_words(data) & 0xFFFF


def build_pdu(pdu: Pdu) -> bytes:
    """ValueError where a field does not fit."""
    variable = b""
    if pdu.flags & SYN:
        opening = pdu.opening
        if opening is None:
            raise ValueError("a SYN says how large PDUs and SDUs may be")
        if len(opening.identification) > MOST_IDENTIFICATION_BYTES:
            raise ValueError(f"an identification has at most {MOST_IDENTIFICATION_BYTES} bytes")
        variable = _SYN.pack(opening.max_pdu, opening.max_sdu, len(opening.identification)) + opening.identification
    elif pdu.flags & EACK:
        if len(pdu.eacks) > MOST_EACKS:
            raise ValueError(f"a PDU names at most {MOST_EACKS} others")
        variable = b"".join(number.to_bytes(2, "big") for number in pdu.eacks)
    elif pdu.flags & RST:
        variable = bytes((pdu.reason,))
    if HEAD_BYTES + len(variable) + len(pdu.data) > MOST_PDU_BYTES:
        raise ValueError(f"a PDU has at most {MOST_PDU_BYTES} bytes")
    try:
        head = _HEAD.pack(
            (pdu.flags & ~_VERSION) | pdu.version,
            0,
            HEAD_BYTES + len(variable),
            pdu.source,
            pdu.destination,
            len(pdu.data),
            pdu.sequence,
            pdu.acknowledgement,
            pdu.window,
            0,
        )
    except struct.error as error:
        raise ValueError("a field of the PDU is out of range") from error
    checksum = build_checksum(head + variable + pdu.data)
    return head[:_CHECKSUM_AT] + checksum.to_bytes(2, "big") + variable + pdu.data


def parse_pdu(data: bytes) -> Pdu:
    """Exactly one PDU. Malformed. A version that is not ours is in the PDU: who asked for it is told so (§5.4)."""
    if not HEAD_BYTES <= len(data) <= MOST_PDU_BYTES:
        raise Malformed(f"a PDU has {HEAD_BYTES} to {MOST_PDU_BYTES} bytes")
    flags, _, head_bytes, source, destination, data_bytes, sequence, acknowledgement, window, _ = _HEAD.unpack_from(
        data
    )
    if head_bytes < HEAD_BYTES or head_bytes + data_bytes != len(data):
        raise Malformed("header and data are not as long as the PDU")
    if sum_words(data) != 0xFFFF:
        raise Malformed("checksum")
    version, flags = flags & _VERSION, flags & ~_VERSION
    variable = data[HEAD_BYTES:head_bytes]
    opening: Opening | None = None
    eacks: tuple[int, ...] = ()
    reason = 0
    if version:
        # what is behind the fixed part of another version nobody knows
        return Pdu(flags, source, destination, sequence, acknowledgement, window, version=version)
    _check_flags(flags, data_bytes)
    if flags & SYN:
        opening = _parse_opening(variable)
    elif flags & EACK:
        if not variable or len(variable) & 1:
            raise Malformed("EACK: numbers have two bytes")
        eacks = struct.unpack(f">{len(variable) // 2}H", variable)
    elif flags & RST:
        if len(variable) != 1:
            raise Malformed("RST: the reason has one byte")
        reason = variable[0]
    elif variable:
        raise Malformed("a header of this kind has 18 bytes")
    return Pdu(flags, source, destination, sequence, acknowledgement, window, data[head_bytes:], opening, eacks, reason)


def _check_flags(flags: int, data_bytes: int) -> None:
    kinds = [name for bit, name in ((SYN, "SYN"), (EACK, "EACK"), (RST, "RST"), (NUL, "NUL")) if flags & bit]
    if len(kinds) > 1:
        raise Malformed(f"{' and '.join(kinds)} exclude each other")
    if data_bytes and kinds and kinds != ["EACK"]:
        raise Malformed(f"{kinds[0]} carries no data")
    if not flags & (SYN | RST) and not flags & ACK:
        raise Malformed("what is neither SYN nor RST acknowledges")
    if flags & SEG and not data_bytes:
        raise Malformed("SEG is of data")


def _parse_opening(variable: bytes) -> Opening:
    if len(variable) < _SYN.size:
        raise Malformed("SYN: sizes and identification are missing")
    max_pdu, max_sdu, length = _SYN.unpack_from(variable)
    if _SYN.size + length != len(variable):
        raise Malformed("SYN: the identification is not as long as it says")
    return Opening(max_pdu, max_sdu, variable[_SYN.size :])


def build_refusal(pdu: Pdu, reason: Reason) -> bytes | None:
    """What one that knows no link for this PDU answers; None: nothing, for to a RST nobody answers, so that two ends
    never answer each other for ever. Shorter than any SYN, so a forged source gains nothing by it."""
    if pdu.flags & RST:
        return None
    if pdu.flags & ACK:
        flags, sequence, acknowledgement = RST | ACK, (pdu.acknowledgement + 1) & 0xFFFF, pdu.sequence
    else:
        flags, sequence, acknowledgement = RST | ACK, 0, pdu.sequence
    return build_pdu(Pdu(flags, pdu.destination, pdu.source, sequence, acknowledgement, reason=reason))
