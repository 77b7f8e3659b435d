"""What a channel of the bearer independent protocol is opened with, in a PUSH and in OPEN CHANNEL alike; must never
show a login, a password or an address.

Source: ETSI TS 102 223 §6.4.27, §8.52 to §8.59.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import IntEnum

from gateway.ota.malformed import Malformed
from gateway.ota.tlv import Tlv, find, need

# data objects (TS 102 223 §9.3)
TAG_TEXT, TAG_BEARER, TAG_CHANNEL_DATA, TAG_CHANNEL_LENGTH = 0x0D, 0x35, 0x36, 0x37
TAG_CHANNEL_STATUS, TAG_BUFFER, TAG_TRANSPORT, TAG_OTHER_ADDRESS, TAG_ACCESS_NAME = 0x38, 0x39, 0x3C, 0x3E, 0x47
_IPV4, _IPV6 = 0x21, 0x57
#: of a text: eight bits a character (TS 102 223 §8.15)
_TEXT_BYTES = 0x04
DEFAULT_BEARER = bytes((0x03,))


class TransportType(IntEnum):
    """UICC/terminal interface transport level (§8.59), as far as a card calls."""

    UDP = 0x01
    TCP = 0x02


@dataclass(frozen=True, slots=True)
class Channel:
    """ValueError where it makes no sense."""

    transport: TransportType
    port: int
    #: of the server
    address: ipaddress.IPv4Address | ipaddress.IPv6Address = field(repr=False)
    #: access point; empty: the terminal's own
    access_name: str = ""
    #: bytes that the terminal should hold
    buffer_bytes: int = 1_400
    #: its type and parameters; 03 is the terminal's default, which is right where a network is not known better
    bearer: bytes = DEFAULT_BEARER
    login: bytes | None = field(default=None, repr=False)
    password: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.port <= 0xFFFF or not 0 < self.buffer_bytes <= 0xFFFF or not self.bearer:
            raise ValueError("a port and a buffer have two bytes and are not 0, a bearer has a type")
        if (self.login is None) != (self.password is None):
            # TS 102 226 §9.2.1: a card answers 6A80
            raise ValueError("login and password come both, or neither")
        build_access_name(self.access_name)


def build_access_name(name: str) -> bytes:
    """Labels, each with its length in front (TS 23.003 §9.1). ValueError."""
    if not name:
        return b""
    labels = name.split(".")
    if len(name) > 99 or any(not 0 < len(label) < 64 or not label.isascii() for label in labels):
        raise ValueError("an access point name has labels of 1 to 63 characters, 99 in all")
    return b"".join(bytes((len(label),)) + label.encode() for label in labels)


def parse_access_name(value: bytes) -> str:
    """Malformed."""
    labels: list[str] = []
    at = 0
    while at < len(value):
        label = value[at + 1 : at + 1 + value[at]]
        if not label or len(label) != value[at] or len(label) > 63 or not label.isascii() or b"." in label:
            raise Malformed("an access point name is not as long as it says")
        labels.append(label.decode())
        at += 1 + len(label)
    name = ".".join(labels)
    if len(name) > 99:
        raise Malformed("an access point name is too long")
    return name


def build_channel(channel: Channel) -> list[Tlv]:
    kind = _IPV4 if channel.address.version == 4 else _IPV6
    tlvs = [Tlv(TAG_BEARER, channel.bearer), Tlv(TAG_BUFFER, channel.buffer_bytes.to_bytes(2, "big"))]
    if channel.access_name:
        tlvs.append(Tlv(TAG_ACCESS_NAME, build_access_name(channel.access_name)))
    for text in (channel.login, channel.password):
        if text is not None:
            tlvs.append(Tlv(TAG_TEXT, bytes((_TEXT_BYTES,)) + text))
    tlvs.append(Tlv(TAG_TRANSPORT, bytes((channel.transport,)) + channel.port.to_bytes(2, "big")))
    tlvs.append(Tlv(TAG_OTHER_ADDRESS, bytes((kind,)) + channel.address.packed))
    return tlvs


def parse_channel(tlvs: list[Tlv]) -> Channel:
    """Malformed. The address is the one behind the transport level: one before it is local, which a PUSH must not
    have."""
    transport = need(tlvs, TAG_TRANSPORT, 3)
    tags = [tlv.tag for tlv in tlvs]
    place = tags.index(TAG_TRANSPORT)
    if TAG_OTHER_ADDRESS in tags[:place]:
        raise Malformed("a local address")
    address = need(tlvs[place:], TAG_OTHER_ADDRESS, 5, 17)
    if (address[0], len(address)) not in ((_IPV4, 5), (_IPV6, 17)):
        raise Malformed("neither an IPv4 nor an IPv6 address")
    texts = [tlv.value for tlv in tlvs if tlv.tag == TAG_TEXT]
    if len(texts) not in (0, 2) or any(not text for text in texts):
        raise Malformed("login and password come both, or neither")
    login, password = (texts[0][1:], texts[1][1:]) if texts else (None, None)
    try:
        return Channel(
            TransportType(transport[0]),
            int.from_bytes(transport[1:], "big"),
            ipaddress.ip_address(address[1:]),
            parse_access_name(find(tlvs, TAG_ACCESS_NAME) or b""),
            int.from_bytes(need(tlvs, TAG_BUFFER, 2), "big"),
            need(tlvs, TAG_BEARER),
            login,
            password,
        )
    except Malformed:
        raise
    except ValueError as error:
        raise Malformed(str(error) if "bytes" in str(error) else "no transport of a card's channel") from None
