"""SMPP 3.4 PDUs as bytes, both directions; no input or output here, and must never show an address or a text.

Source: "Short Message Peer to Peer Protocol Specification v3.4", issue 1.2. A body that ends early, a text without its
NUL and a TLV past the end are `Malformed`; TLVs that are not known are kept and ignored (§3.3: forward compatibility).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

_HEAD = struct.Struct(">IIII")
HEAD_BYTES = _HEAD.size
#: message_payload holds 64 kB at most (§5.3.2.32); longer is no PDU
MOST_BYTES = 66_560
INTERFACE_VERSION = 0x34
RESPONSE = 0x80000000
#: sequence numbers go from 1 to here (§5.1.4)
MOST_SEQUENCE = 0x7FFFFFFF


class Command(IntEnum):
    """§5.1.2.1"""

    GENERIC_NACK = 0x80000000
    BIND_RECEIVER = 0x00000001
    BIND_TRANSMITTER = 0x00000002
    SUBMIT_SM = 0x00000004
    DELIVER_SM = 0x00000005
    UNBIND = 0x00000006
    BIND_TRANSCEIVER = 0x00000009
    OUTBIND = 0x0000000B
    ENQUIRE_LINK = 0x00000015
    ALERT_NOTIFICATION = 0x00000102
    DATA_SM = 0x00000103


class Status(IntEnum):
    """§5.1.3: those with a meaning of their own here."""

    OK = 0x00000000
    RINVMSGLEN = 0x00000001
    RINVCMDLEN = 0x00000002
    RINVCMDID = 0x00000003
    RINVBNDSTS = 0x00000004
    RALYBND = 0x00000005
    RSYSERR = 0x00000008
    RINVSRCADR = 0x0000000A
    RINVDSTADR = 0x0000000B
    RBINDFAIL = 0x0000000D
    RINVPASWD = 0x0000000E
    RINVSYSID = 0x0000000F
    RMSGQFUL = 0x00000014
    RSUBMITFAIL = 0x00000045
    RTHROTTLED = 0x00000058


class Tag(IntEnum):
    """§5.3.2"""

    RECEIPTED_MESSAGE_ID = 0x001E
    USER_MESSAGE_REFERENCE = 0x0204
    MS_AVAILABILITY_STATUS = 0x0422
    NETWORK_ERROR_CODE = 0x0423
    MESSAGE_PAYLOAD = 0x0424
    MESSAGE_STATE = 0x0427


# numbering plans (§5.2.6); 6 is "Land Mobile (E.212)", which is what an IMSI is
NPI_E164, NPI_E212 = 1, 6
TON_UNKNOWN, TON_INTERNATIONAL, TON_ALPHANUMERIC = 0, 1, 5

#: esm_class (§5.2.12)
ESM_UDHI = 0x40
ESM_RECEIPT = 0x04
ESM_INTERMEDIATE = 0x20
_ESM_TYPE = 0x3C


class Malformed(ValueError):
    """The bytes are no PDU. `status` is what the peer is told, `sequence` that of the PDU where there is one."""

    def __init__(self, message: str, status: Status = Status.RINVCMDLEN) -> None:
        super().__init__(message)
        self.status = status


class Pdu(NamedTuple):
    command: int
    status: int
    sequence: int
    body: bytes = b""

    def __repr__(self) -> str:
        return f"Pdu({self.command:#x}, status {self.status:#x}, {self.sequence}, {len(self.body)} bytes)"


class Address(NamedTuple):
    """Type of number, numbering plan, digits or name."""

    ton: int
    npi: int
    digits: str

    def __repr__(self) -> str:
        return "Address(…)"


@dataclass(slots=True, frozen=True, repr=False)
class ShortMessage:
    """Body of submit_sm (§4.4.1) and of deliver_sm (§4.6.1), which have the same fields."""

    source: Address
    destination: Address
    message: bytes
    esm_class: int = 0
    protocol_id: int = 0
    priority: int = 0
    validity: str = ""
    registered_delivery: int = 0
    data_coding: int = 0
    service_type: str = ""
    schedule: str = ""
    replace: int = 0
    default_message: int = 0
    tlvs: dict[int, bytes] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"ShortMessage({len(self.message)} bytes)"

    @property
    def is_receipt(self) -> bool:
        """Of a final or an intermediate state (§5.2.12: bits 5 to 2)."""
        return self.esm_class & _ESM_TYPE in (ESM_RECEIPT, ESM_INTERMEDIATE)


@dataclass(slots=True, frozen=True, repr=False)
class Bind:
    """Body of the three bind PDUs (§4.1.1)."""

    system_id: str
    password: str
    system_type: str = ""
    interface_version: int = INTERFACE_VERSION

    def __repr__(self) -> str:
        return "Bind(…)"


# --- frames


def build_pdu(command: int, sequence: int, body: bytes = b"", status: int = 0) -> bytes:
    return _HEAD.pack(HEAD_BYTES + len(body), command, status, sequence) + body


class Frames:
    """Cuts a stream into PDUs; any cut of the same bytes gives the same PDUs."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Pdu]:
        """PDUs that are whole now. Malformed where a length can not be: nothing behind it can be read any more."""
        self._held += data
        found: list[Pdu] = []
        at = 0
        while len(self._held) - at >= 4:
            length = int.from_bytes(self._held[at : at + 4], "big")
            if not HEAD_BYTES <= length <= MOST_BYTES:
                raise Malformed("command_length can not be")
            if len(self._held) - at < length:
                break
            _, command, status, sequence = _HEAD.unpack_from(self._held, at)
            found.append(Pdu(command, status, sequence, bytes(self._held[at + HEAD_BYTES : at + length])))
            at += length
        del self._held[:at]
        return found


# --- fields


class _Body:
    """Reads a body field by field."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        return self.octets(1)[0]

    def octets(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise Malformed("the body ends early")
        self._at += count
        return self._data[self._at - count : self._at]

    def text(self, most: int) -> str:
        """A C-octet string of at most so many bytes, its NUL among them (§3.1)."""
        end = self._data.find(b"\0", self._at, self._at + most)
        if end < 0:
            raise Malformed("a text has no end, or is too long")
        raw = self._data[self._at : end]
        self._at = end + 1
        return raw.decode("latin-1")

    def address(self, most: int = 21) -> Address:
        return Address(self.byte(), self.byte(), self.text(most))

    def tlvs(self) -> dict[int, bytes]:
        """What is left; of a tag that is repeated the first counts."""
        found: dict[int, bytes] = {}
        while self._at < len(self._data):
            tag, length = struct.unpack(">HH", self.octets(4))
            found.setdefault(tag, self.octets(length))
        return found

    @property
    def is_over(self) -> bool:
        return self._at >= len(self._data)


def _text(value: str, most: int) -> bytes:
    raw = value.encode("latin-1", "replace")
    if len(raw) >= most or b"\0" in raw:
        raise ValueError(f"a field of at most {most - 1} characters is too long, or holds a NUL")
    return raw + b"\0"


def _address(address: Address, most: int = 21) -> bytes:
    return bytes((address.ton, address.npi)) + _text(address.digits, most)


def build_tlv(tag: int, value: bytes) -> bytes:
    return struct.pack(">HH", tag, len(value)) + value


def build_bind(bind: Bind) -> bytes:
    return (
        _text(bind.system_id, 16)
        + _text(bind.password, 9)
        + _text(bind.system_type, 13)
        + bytes((bind.interface_version, 0, 0))
        + _text("", 41)
    )


def parse_bind(body: bytes) -> Bind:
    read = _Body(body)
    bind = Bind(read.text(16), read.text(9), read.text(13), read.byte())
    read.octets(2)
    read.text(41)
    return bind


def build_message(sm: ShortMessage) -> bytes:
    """submit_sm or deliver_sm. ValueError where a field is longer than the protocol allows."""
    if len(sm.message) > 254:
        raise ValueError("short_message holds at most 254 bytes")
    return b"".join(
        (
            _text(sm.service_type, 6),
            _address(sm.source),
            _address(sm.destination),
            bytes((sm.esm_class, sm.protocol_id, sm.priority)),
            _text(sm.schedule, 17),
            _text(sm.validity, 17),
            bytes((sm.registered_delivery, sm.replace, sm.data_coding, sm.default_message, len(sm.message))),
            sm.message,
            *(build_tlv(tag, value) for tag, value in sm.tlvs.items()),
        )
    )


def parse_message(body: bytes) -> ShortMessage:
    """Malformed. A message that came as message_payload is taken from there (§5.3.2.32)."""
    read = _Body(body)
    service_type = read.text(6)
    source, destination = read.address(), read.address()
    esm_class, protocol_id, priority = read.octets(3)
    schedule, validity = read.text(17), read.text(17)
    registered_delivery, replace, data_coding, default_message, length = read.octets(5)
    message = read.octets(length)
    tlvs = read.tlvs()
    return ShortMessage(
        source=source,
        destination=destination,
        message=message or tlvs.get(Tag.MESSAGE_PAYLOAD, b""),
        esm_class=esm_class,
        protocol_id=protocol_id,
        priority=priority,
        validity=validity,
        registered_delivery=registered_delivery,
        data_coding=data_coding,
        service_type=service_type,
        schedule=schedule,
        replace=replace,
        default_message=default_message,
        tlvs=tlvs,
    )


def build_text(value: str, most: int) -> bytes:
    """A body that is one text: of bind_resp (16), submit_sm_resp (65), deliver_sm_resp (1)."""
    return _text(value, most)


def parse_message_id(body: bytes) -> str:
    """Of submit_sm_resp (§4.4.2): a refusal may come without a body, and so does an id of nothing. Malformed."""
    return _Body(body).text(65) if body else ""


def build_alert(source: Address, esme: Address, available: int | None) -> bytes:
    """alert_notification (§4.12.1)."""
    tlv = b"" if available is None else build_tlv(Tag.MS_AVAILABILITY_STATUS, bytes((available,)))
    return _address(source, 65) + _address(esme, 65) + tlv


def parse_alert(body: bytes) -> tuple[Address, bool]:
    """(who, is it available): a status that is not given means that it is (§5.3.2.30). Malformed."""
    read = _Body(body)
    source = read.address(65)
    read.address(65)
    status = read.tlvs().get(Tag.MS_AVAILABILITY_STATUS, b"\0")
    return source, status[:1] == b"\0"


def build_validity(left_s: int) -> str:
    """A relative time (§7.1.1.2), `YYMMDDhhmmss000R`. What is longer than 30 days is 30 days, for a relative month has
    no length of its own; most SMSCs end sooner."""
    left_s = min(max(left_s, 1), 30 * 86_400)
    days, rest = divmod(left_s, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, seconds = divmod(rest, 60)
    return f"0000{days:02}{hours:02}{minutes:02}{seconds:02}000R"
