"""Secured packets in short messages to a card and from it: cut, put together, TPDUs, the SMS-PP download envelope; must
never show a number, nor put parts of two messages together.

Source: 3GPP TS 31.115 §4 (user data headers 70 and 71), TS 23.040 §9.2 (TPDUs, concatenation), ETSI TS 102 223 §7.1.
A card's message has protocol identifier 7F ((U)SIM data download) and coding F6 (class 2, eight bits). A single one
holds 137 bytes of a packet, the first of several 132, each later one 134: only the first says what they carry.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.ota.malformed import Malformed
from gateway.ota.tlv import Tlv, build_ber, build_tlvs, need, parse_ber, parse_tlvs

USER_DATA_BYTES = 140
COMMAND_PACKET, ANSWER_PACKET = 0x70, 0x71
PID_DOWNLOAD, DCS_CLASS2 = 0x7F, 0xF6
SINGLE_BYTES, FIRST_BYTES, LATER_BYTES = 137, 132, 134
MOST_PARTS = 255
_IE_CONCAT_8, _IE_CONCAT_16 = 0x00, 0x08
_DIGITS = "0123456789*#abc"
MOST_ADDRESS_DIGITS = 20
#: messages of one sender of which parts are missing; a card answers one packet at a time
MOST_OF_ONE = 8

_ENVELOPE_SMS_PP = 0xD1
_TAG_DEVICES, _TAG_ADDRESS, _TAG_TPDU = 0x02, 0x06, 0x0B
_NETWORK_TO_CARD = bytes((0x83, 0x81))


class Part(NamedTuple):
    """Which of how many, the first is 1."""

    reference: int
    parts: int
    part: int


class UserData(NamedTuple):
    """What one short message carries."""

    #: COMMAND_PACKET, ANSWER_PACKET; None in a later part, and in what is no packet
    kind: int | None
    part: Part | None
    body: bytes

    def __repr__(self) -> str:
        return f"UserData({self.kind}, {self.part}, {len(self.body)} bytes)"


def segment(packet: bytes, reference: int, kind: int = COMMAND_PACKET) -> list[bytes]:
    """User data, header and all, of the short messages that carry it. ValueError past 255 of them."""
    if len(packet) <= SINGLE_BYTES:
        return [bytes((2, kind, 0)) + packet]
    parts = 1 + -(-(len(packet) - FIRST_BYTES) // LATER_BYTES)
    if parts > MOST_PARTS:
        raise ValueError(f"takes {parts} short messages, at most {MOST_PARTS} are possible")
    whole = [bytes((7, _IE_CONCAT_8, 3, reference & 0xFF, parts, 1, kind, 0)) + packet[:FIRST_BYTES]]
    for part in range(2, parts + 1):
        at = FIRST_BYTES + (part - 2) * LATER_BYTES
        whole.append(bytes((5, _IE_CONCAT_8, 3, reference & 0xFF, parts, part)) + packet[at : at + LATER_BYTES])
    return whole


def parse_user_data(data: bytes) -> UserData:
    """With the header that it begins with. Malformed."""
    if not data or 1 + data[0] > len(data) or len(data) > USER_DATA_BYTES:
        raise Malformed("the user data header is longer than the message")
    end = 1 + data[0]
    kind: int | None = None
    part: Part | None = None
    at = 1
    while at < end:
        if at + 2 > end or at + 2 + data[at + 1] > end:
            raise Malformed("an element is longer than the header")
        name, body = data[at], data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + len(body)
        if name in (COMMAND_PACKET, ANSWER_PACKET) and not body:
            kind = name
        elif (name, len(body)) in ((_IE_CONCAT_8, 3), (_IE_CONCAT_16, 4)):
            part = Part(int.from_bytes(body[:-2], "big"), body[-2], body[-1])
            if not 1 <= part.part <= part.parts:
                raise Malformed("a part that is none of its message")
    return UserData(kind, part, data[end:])


class Packet(NamedTuple):
    kind: int
    packet: bytes

    def __repr__(self) -> str:
        return f"Packet({self.kind:#04x}, {len(self.packet)} bytes)"


#: sender, reference, parts
_Key = tuple[bytes, int, int]


@dataclass(slots=True, repr=False)
class _Open:
    since_ms: int
    parts: dict[int, UserData] = field(default_factory=dict)


class Assembly:
    """Parts until they are whole. At most `most` messages wait, MOST_OF_ONE of one sender, each for `patience_ms`; past
    any of these the oldest is dropped, and counted: of a sender who says too much his own."""

    def __init__(self, most: int, patience_ms: int) -> None:
        self.counts: Counter[str] = Counter()
        self._most, self._patience_ms = most, patience_ms
        self._open: OrderedDict[_Key, _Open] = OrderedDict()
        #: keys of each sender, the oldest first
        self._senders: dict[bytes, dict[_Key, None]] = {}

    def add(self, sender: bytes, data: UserData, now_ms: int) -> Packet | None:
        """`sender`: whatever tells two of them apart. The packet, where this part completes it. Malformed where its
        parts do not say what they carry."""
        while self._open and next(iter(self._open.values())).since_ms + self._patience_ms <= now_ms:
            self._drop(next(iter(self._open)))
            self.counts["too_late"] += 1
        if data.part is None:
            if data.kind is None:
                raise Malformed("a message that does not say what it carries")
            return Packet(data.kind, data.body)
        key = (sender, data.part.reference, data.part.parts)
        open_ = self._open.get(key)
        if open_ is None:
            own = self._senders.get(sender, {})
            if len(own) >= MOST_OF_ONE:
                self._drop(next(iter(own)))
                self.counts["too_many_of_one"] += 1
            elif len(self._open) >= self._most:
                self._drop(next(iter(self._open)))
                self.counts["too_many"] += 1
            open_ = self._begin(key, now_ms)
        if data.part.part in open_.parts and open_.parts[data.part.part] != data:
            # the reference came round: what is there is of an older message
            self.counts["restarted"] += 1
            self._drop(key)
            open_ = self._begin(key, now_ms)
        open_.parts[data.part.part] = data
        if len(open_.parts) < data.part.parts:
            return None
        self._drop(key)
        kind = open_.parts[1].kind
        if kind is None:
            raise Malformed("a first part that does not say what it carries")
        return Packet(kind, b"".join(open_.parts[number].body for number in range(1, data.part.parts + 1)))

    def _begin(self, key: _Key, now_ms: int) -> _Open:
        open_ = self._open[key] = _Open(now_ms)
        self._senders.setdefault(key[0], {})[key] = None
        return open_

    def _drop(self, key: _Key) -> None:
        del self._open[key]
        own = self._senders[key[0]]
        del own[key]
        if not own:
            del self._senders[key[0]]


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """Of a subscriber or a centre: type of number and plan in one byte, then digits, two a byte."""

    kind: int
    packed: bytes
    #: semi-octets in use
    count: int

    @property
    def digits(self) -> str:
        """As they are dialled. Malformed for letters (type 5), and for a filler in the middle."""
        nibbles = [nibble for byte in self.packed for nibble in (byte & 15, byte >> 4)][: self.count]
        if self.kind >> 4 & 7 == 5 or 15 in nibbles:
            raise Malformed("not a number of digits")
        return "".join(_DIGITS[nibble] for nibble in nibbles)


def build_address(digits: str, kind: int = 0x91) -> Address:
    """ValueError."""
    if not digits or len(digits) > MOST_ADDRESS_DIGITS or any(digit not in _DIGITS for digit in digits):
        raise ValueError(f"an address has 1 to {MOST_ADDRESS_DIGITS} digits")
    nibbles = [_DIGITS.index(digit) for digit in digits] + [15] * (len(digits) % 2)
    packed = bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
    return Address(kind, packed, len(digits))


def build_tp_address(address: Address) -> bytes:
    return bytes((address.count, address.kind)) + address.packed


def parse_tp_address(data: bytes, at: int) -> tuple[Address, int]:
    """(address, what is behind it). Malformed."""
    if at + 2 > len(data):
        raise Malformed("an address ends early")
    count, kind = data[at], data[at + 1]
    end = at + 2 + (count + 1) // 2
    if count > MOST_ADDRESS_DIGITS or end > len(data):
        raise Malformed("an address is longer than it may be")
    return Address(kind, data[at + 2 : end], count), end


def build_address_value(address: Address) -> bytes:
    """As a data object holds it: without a count."""
    return bytes((address.kind,)) + address.packed


def parse_address_value(value: bytes) -> Address:
    """Malformed."""
    if not 1 <= len(value) <= 1 + MOST_ADDRESS_DIGITS // 2:
        raise Malformed("an address has a type and at most 20 digits")
    packed = value[1:]
    count = 2 * len(packed) - bool(packed and packed[-1] >> 4 == 15)
    return Address(value[0], packed, count)


class Deliver(NamedTuple):
    """SMS-DELIVER (TS 23.040 §9.2.2.1): from the centre to the card."""

    originator: Address
    user_data: bytes
    has_header: bool = True
    pid: int = PID_DOWNLOAD
    dcs: int = DCS_CLASS2
    #: seven bytes, semi-octets
    timestamp: bytes = bytes(7)

    def __repr__(self) -> str:
        return f"Deliver({len(self.user_data)} bytes)"


class Submit(NamedTuple):
    """SMS-SUBMIT (§9.2.2.2): from the card to the centre."""

    destination: Address
    user_data: bytes
    has_header: bool = True
    reference: int = 0
    pid: int = PID_DOWNLOAD
    dcs: int = DCS_CLASS2

    def __repr__(self) -> str:
        return f"Submit({len(self.user_data)} bytes)"


_UDHI = 0x40
#: bits 5 and 4 of a SUBMIT: none, enhanced, relative, absolute
_VALIDITY_BYTES = (0, 7, 1, 7)


def build_deliver(message: Deliver) -> bytes:
    """ValueError."""
    if len(message.user_data) > USER_DATA_BYTES or len(message.timestamp) != 7:
        raise ValueError(f"a short message has at most {USER_DATA_BYTES} bytes, a timestamp 7")
    return (
        bytes((_UDHI if message.has_header else 0,))
        + build_tp_address(message.originator)
        + bytes((message.pid, message.dcs))
        + message.timestamp
        + bytes((len(message.user_data),))
        + message.user_data
    )


def parse_deliver(data: bytes) -> Deliver:
    """Of eight bits. Malformed."""
    if not data or data[0] & 0x03 != 0x00:
        raise Malformed("not a SMS-DELIVER")
    originator, at = parse_tp_address(data, 1)
    if at + 10 > len(data):
        raise Malformed("the message ends early")
    pid, dcs, timestamp = data[at], data[at + 1], data[at + 2 : at + 9]
    return Deliver(originator, _user_data(data, at + 9, dcs), bool(data[0] & _UDHI), pid, dcs, timestamp)


def build_submit(message: Submit) -> bytes:
    """Without a validity: the centre's own. ValueError."""
    if len(message.user_data) > USER_DATA_BYTES:
        raise ValueError(f"a short message has at most {USER_DATA_BYTES} bytes")
    return (
        bytes((0x01 | (_UDHI if message.has_header else 0), message.reference))
        + build_tp_address(message.destination)
        + bytes((message.pid, message.dcs, len(message.user_data)))
        + message.user_data
    )


def parse_submit(data: bytes) -> Submit:
    """Of eight bits. Malformed."""
    if len(data) < 2 or data[0] & 0x03 != 0x01:
        raise Malformed("not a SMS-SUBMIT")
    destination, at = parse_tp_address(data, 2)
    body = at + 2 + _VALIDITY_BYTES[data[0] >> 3 & 3]
    if body >= len(data):
        raise Malformed("the message ends early")
    pid, dcs = data[at], data[at + 1]
    return Submit(destination, _user_data(data, body, dcs), bool(data[0] & _UDHI), data[1], pid, dcs)


def _user_data(data: bytes, at: int, dcs: int) -> bytes:
    # TS 23.038 §4: groups 00xx and 01xx say it in bits 3 and 2, group 1111 in bit 2; all others are not of bytes
    is_bytes = dcs >> 2 & 3 == 1 if dcs < 0x80 else dcs >> 4 == 0xF and bool(dcs & 4)
    if not is_bytes:
        raise Malformed("not a message of bytes")
    user_data = data[at + 1 :]
    if data[at] != len(user_data) or len(user_data) > USER_DATA_BYTES:
        raise Malformed("the user data is not as long as it says")
    return user_data


def build_download(centre: Address, tpdu: bytes) -> bytes:
    """The SMS-PP download envelope with which a terminal gives a card a message (TS 102 223 §7.1.1)."""
    return build_ber(
        _ENVELOPE_SMS_PP,
        build_tlvs(
            (
                Tlv(_TAG_DEVICES, _NETWORK_TO_CARD, required=True),
                Tlv(_TAG_ADDRESS, build_address_value(centre)),
                Tlv(_TAG_TPDU, tpdu, required=True),
            )
        ),
    )


def parse_download(envelope: bytes) -> bytes:
    """The TPDU in it. Malformed."""
    tag, value, _ = parse_ber(envelope)
    if tag != _ENVELOPE_SMS_PP:
        raise Malformed("not a SMS-PP download")
    tlvs = parse_tlvs(value)
    if need(tlvs, _TAG_DEVICES, 2) != _NETWORK_TO_CARD:
        raise Malformed("not from the network to the card")
    return need(tlvs, _TAG_TPDU)
