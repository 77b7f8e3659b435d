"""Proactive commands of a card, a terminal's answers and events, as far as a card reaches a server with them; must
never take a command for another that it does not know.

Source: ETSI TS 102 223 §6.6 (commands), §6.8 (TERMINAL RESPONSE), §7.5 (events), §8 (data objects), §9.4 (types).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from gateway.ota.channel import (
    TAG_BUFFER,
    TAG_CHANNEL_DATA,
    TAG_CHANNEL_LENGTH,
    TAG_CHANNEL_STATUS,
    Channel,
    build_channel,
    parse_channel,
)
from gateway.ota.malformed import Malformed
from gateway.ota.result import TAG_RESULT, Result, parse_result
from gateway.ota.sms_pp import Address, build_address_value, parse_address_value
from gateway.ota.tlv import Tlv, build_ber, build_tlvs, find, need, parse_ber, parse_tlvs

_PROACTIVE, _EVENT = 0xD0, 0xD6
TAG_COMMAND, TAG_DEVICES, TAG_ADDRESS, TAG_TPDU, TAG_IMEI, TAG_EVENTS = 0x01, 0x02, 0x06, 0x0B, 0x14, 0x19
_CARD, _TERMINAL, _NETWORK, _CHANNEL = 0x81, 0x82, 0x83, 0x20
MOST_CHANNEL = 7
#: what a RECEIVE DATA asks for at most: its length has one byte
MOST_RECEIVE_BYTES = 0xFF
IMEI_BYTES = 8
#: in a channel status, second byte: the link was dropped (§8.56)
LINK_DROPPED = 0x05
#: a length that does not fit into its one byte
_MORE = 0xFF


class Type(IntEnum):
    """§9.4"""

    MORE_TIME = 0x02
    SET_UP_EVENT_LIST = 0x05
    SEND_SHORT_MESSAGE = 0x13
    PROVIDE_LOCAL_INFORMATION = 0x26
    OPEN_CHANNEL = 0x40
    CLOSE_CHANNEL = 0x41
    RECEIVE_DATA = 0x42
    SEND_DATA = 0x43
    GET_CHANNEL_STATUS = 0x44


class Event(IntEnum):
    """§8.25"""

    DATA_AVAILABLE = 0x09
    CHANNEL_STATUS = 0x0A


@dataclass(frozen=True, slots=True)
class OpenChannel:
    channel: Channel
    #: at once, not with the first data
    immediate: bool = True


@dataclass(frozen=True, slots=True)
class CloseChannel:
    channel: int


@dataclass(frozen=True, slots=True)
class ReceiveData:
    channel: int
    #: bytes
    length: int


@dataclass(frozen=True, slots=True)
class SendData:
    channel: int
    data: bytes = field(repr=False)
    #: send now what is in the buffer
    immediate: bool = True


@dataclass(frozen=True, slots=True)
class GetChannelStatus:
    pass


@dataclass(frozen=True, slots=True)
class ProvideImei:
    """PROVIDE LOCAL INFORMATION, qualifier 01 (E1)."""


@dataclass(frozen=True, slots=True, repr=False)
class SendShortMessage:
    #: of the centre; None: the card's own
    centre: Address | None
    tpdu: bytes


@dataclass(frozen=True, slots=True)
class SetUpEventList:
    events: bytes


@dataclass(frozen=True, slots=True)
class Unknown:
    """A command that is none of these: a terminal answers 31, or 30."""

    kind: int
    qualifier: int


Command = (
    OpenChannel
    | CloseChannel
    | ReceiveData
    | SendData
    | GetChannelStatus
    | ProvideImei
    | SendShortMessage
    | SetUpEventList
    | Unknown
)


def _channel_device(channel: int) -> int:
    if not 1 <= channel <= MOST_CHANNEL:
        raise ValueError(f"a channel is 1 to {MOST_CHANNEL}")
    return _CHANNEL + channel


def describe(command: Command) -> tuple[int, int]:
    """(type, qualifier) as they are in the command details."""
    match command:
        case OpenChannel(immediate=immediate):
            return Type.OPEN_CHANNEL, int(immediate)
        case CloseChannel():
            return Type.CLOSE_CHANNEL, 0
        case ReceiveData():
            return Type.RECEIVE_DATA, 0
        case SendData(immediate=immediate):
            return Type.SEND_DATA, int(immediate)
        case GetChannelStatus():
            return Type.GET_CHANNEL_STATUS, 0
        case ProvideImei():
            return Type.PROVIDE_LOCAL_INFORMATION, 1
        case SendShortMessage():
            return Type.SEND_SHORT_MESSAGE, 0
        case SetUpEventList():
            return Type.SET_UP_EVENT_LIST, 0
        case Unknown(kind, qualifier):
            return kind, qualifier


def build_proactive(number: int, command: Command) -> bytes:
    """What a FETCH gets. `number`: 1 to 254. ValueError."""
    if not 1 <= number <= 0xFE:
        raise ValueError("the number of a command is 1 to 254")
    to, rest = _TERMINAL, []
    match command:
        case OpenChannel(channel):
            rest = build_channel(channel)
        case CloseChannel(channel):
            to = _channel_device(channel)
        case ReceiveData(channel, length):
            if not 0 < length <= MOST_RECEIVE_BYTES:
                raise ValueError(f"a RECEIVE DATA asks for 1 to {MOST_RECEIVE_BYTES} bytes")
            to, rest = _channel_device(channel), [Tlv(TAG_CHANNEL_LENGTH, bytes((length,)))]
        case SendData(channel, data):
            to, rest = _channel_device(channel), [Tlv(TAG_CHANNEL_DATA, data)]
        case SendShortMessage(centre, tpdu):
            address = [] if centre is None else [Tlv(TAG_ADDRESS, build_address_value(centre), required=True)]
            to, rest = _NETWORK, [*address, Tlv(TAG_TPDU, tpdu, required=True)]
        case SetUpEventList(events):
            rest = [Tlv(TAG_EVENTS, events, required=True)]
    details = Tlv(TAG_COMMAND, bytes((number, *describe(command))), required=True)
    devices = Tlv(TAG_DEVICES, bytes((_CARD, to)), required=True)
    return build_ber(_PROACTIVE, build_tlvs((details, devices, *rest)))


def parse_proactive(data: bytes) -> tuple[int, Command]:
    """The terminal's side: (number, command). Malformed."""
    tag, value, _ = parse_ber(data)
    if tag != _PROACTIVE:
        raise Malformed("not a proactive command")
    tlvs = parse_tlvs(value)
    number, kind, qualifier = need(tlvs, TAG_COMMAND, 3)
    source, to = need(tlvs, TAG_DEVICES, 2)
    if source != _CARD or not 1 <= number <= 0xFE:
        raise Malformed("not from a card, or without a number")
    return number, _parse_command(kind, qualifier, to, tlvs)


def _parse_command(kind: int, qualifier: int, to: int, tlvs: list[Tlv]) -> Command:
    if kind in (Type.CLOSE_CHANNEL, Type.RECEIVE_DATA, Type.SEND_DATA):
        channel = to - _CHANNEL
        if not 1 <= channel <= MOST_CHANNEL:
            raise Malformed("not to a channel")
        if kind == Type.CLOSE_CHANNEL:
            return CloseChannel(channel)
        if kind == Type.SEND_DATA:
            return SendData(channel, need(tlvs, TAG_CHANNEL_DATA), bool(qualifier & 1))
        length = need(tlvs, TAG_CHANNEL_LENGTH, 1)[0]
        if not length:
            raise Malformed("a RECEIVE DATA for nothing")
        return ReceiveData(channel, length)
    if kind == Type.OPEN_CHANNEL:
        return OpenChannel(parse_channel(tlvs), bool(qualifier & 1))
    if kind == Type.GET_CHANNEL_STATUS:
        return GetChannelStatus()
    if kind == Type.PROVIDE_LOCAL_INFORMATION and qualifier == 1:
        return ProvideImei()
    if kind == Type.SEND_SHORT_MESSAGE:
        address = find(tlvs, TAG_ADDRESS)
        return SendShortMessage(None if address is None else parse_address_value(address), need(tlvs, TAG_TPDU))
    if kind == Type.SET_UP_EVENT_LIST:
        return SetUpEventList(need(tlvs, TAG_EVENTS))
    return Unknown(kind, qualifier)


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """§8.56"""

    #: 0: there is none
    channel: int
    is_open: bool
    #: 00, or LINK_DROPPED
    further: int = 0

    def build(self) -> Tlv:
        return Tlv(TAG_CHANNEL_STATUS, bytes((self.channel | (0x80 if self.is_open else 0), self.further)))


def parse_channel_status(value: bytes) -> ChannelStatus:
    """Malformed."""
    if len(value) != 2:
        raise Malformed("a channel status has two bytes")
    return ChannelStatus(value[0] & 0x07, bool(value[0] & 0x80), value[1])


@dataclass(frozen=True, slots=True)
class TerminalResponse:
    number: int
    kind: int
    qualifier: int
    result: Result
    #: what else it says, in order
    rest: tuple[Tlv, ...] = ()

    @property
    def status(self) -> ChannelStatus | None:
        """Malformed."""
        value = find(self.rest, TAG_CHANNEL_STATUS)
        return None if value is None else parse_channel_status(value)

    @property
    def data(self) -> bytes:
        """Of a RECEIVE DATA."""
        return find(self.rest, TAG_CHANNEL_DATA) or b""

    @property
    def length(self) -> int:
        """What is left to receive, or how much room there is to send; 255: that or more. Malformed."""
        return need(self.rest, TAG_CHANNEL_LENGTH, 1)[0]

    @property
    def buffer_bytes(self) -> int:
        """Malformed."""
        return int.from_bytes(need(self.rest, TAG_BUFFER, 2), "big")

    @property
    def imei(self) -> bytes:
        """As the terminal codes it: a card compares it and never reads it (E1). Malformed."""
        return need(self.rest, TAG_IMEI, IMEI_BYTES)


def build_response(response: TerminalResponse) -> bytes:
    return build_tlvs(
        (
            Tlv(TAG_COMMAND, bytes((response.number, response.kind, response.qualifier)), required=True),
            Tlv(TAG_DEVICES, bytes((_TERMINAL, _CARD)), required=True),
            response.result.build(),
            *response.rest,
        )
    )


def parse_response(data: bytes) -> TerminalResponse:
    """The card's side. Malformed."""
    tlvs = parse_tlvs(data)
    number, kind, qualifier = need(tlvs, TAG_COMMAND, 3)
    if need(tlvs, TAG_DEVICES, 2) != bytes((_TERMINAL, _CARD)):
        raise Malformed("not from the terminal to the card")
    rest = tuple(tlv for tlv in tlvs if tlv.tag not in (TAG_COMMAND, TAG_DEVICES, TAG_RESULT))
    return TerminalResponse(number, kind, qualifier, parse_result(need(tlvs, TAG_RESULT)), rest)


def build_length_object(length: int) -> Tlv:
    """Past 254: 255."""
    return Tlv(TAG_CHANNEL_LENGTH, bytes((min(length, _MORE),)))


@dataclass(frozen=True, slots=True)
class EventDownload:
    event: int
    status: ChannelStatus
    #: of DATA_AVAILABLE: bytes that can be received; 255: that or more
    length: int | None = None


def build_event(event: EventDownload) -> bytes:
    """The ENVELOPE (§7.5.10, §7.5.11)."""
    tlvs = [
        Tlv(TAG_EVENTS, bytes((event.event,))),
        Tlv(TAG_DEVICES, bytes((_TERMINAL, _CARD)), required=True),
        event.status.build(),
    ]
    if event.length is not None:
        tlvs.append(build_length_object(event.length))
    return build_ber(_EVENT, build_tlvs(tlvs))


def parse_event(envelope: bytes) -> EventDownload:
    """Malformed: also for an event that is none of a channel."""
    tag, value, _ = parse_ber(envelope)
    if tag != _EVENT:
        raise Malformed("not an event")
    tlvs = parse_tlvs(value)
    event = need(tlvs, TAG_EVENTS, 1)[0]
    if event not in (Event.DATA_AVAILABLE, Event.CHANNEL_STATUS):
        raise Malformed("not an event of a channel")
    length = need(tlvs, TAG_CHANNEL_LENGTH, 1)[0] if event == Event.DATA_AVAILABLE else None
    return EventDownload(event, parse_channel_status(need(tlvs, TAG_CHANNEL_STATUS, 2)), length)
