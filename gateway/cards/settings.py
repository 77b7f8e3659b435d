"""Where cards are told to call, as configured; must hold no other logic."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from gateway.config.ota_section import Ota
from gateway.model.cards import CardRecord
from gateway.model.errors import ConfigError
from gateway.ota.channel import Channel, TransportType

_TAG_BEARER = (0x35, 0xB5)


def parse_bearer(data: bytes) -> bytes:
    """Type and parameters: of the whole data object (`35 01 03`, as mostly written), or as they are. No bearer has a
    type that could be mistaken for the tag."""
    if len(data) > 2 and data[0] in _TAG_BEARER and data[1] == len(data) - 2:
        return data[2:]
    return data


@dataclass(frozen=True, slots=True)
class Reach:
    address: ipaddress.IPv4Address | ipaddress.IPv6Address = field(repr=False)
    port: int
    cattp_port: int
    bearer: bytes
    apn: str
    buffer_bytes: int

    def channel(self, record: CardRecord) -> Channel:
        """For this card: what it says of bearer and access point goes first. ValueError where that makes no sense."""
        return Channel(
            TransportType.UDP,
            self.port,
            self.address,
            record.apn or self.apn,
            self.buffer_bytes,
            parse_bearer(record.bearer) or self.bearer,
        )


def read_reach(ota: Ota, bound_port: int) -> Reach:
    """`bound_port`: the UDP port that the server has. ConfigError."""
    try:
        address = ipaddress.ip_address(ota.public_address or ota.host)
    except ValueError:
        raise ConfigError(
            "must be an IP address: a PUSH carries the 4 or 16 bytes of one", field="ota.public_address"
        ) from None
    try:
        bearer = parse_bearer(bytes.fromhex(ota.bearer))
    except ValueError:
        raise ConfigError("must be hex digits, as 350103", field="ota.bearer") from None
    reach = Reach(address, ota.public_port or bound_port, ota.cattp_port, bearer, ota.apn, ota.channel_buffer_bytes)
    try:
        Channel(TransportType.UDP, reach.port, address, reach.apn, reach.buffer_bytes, bearer)
    except ValueError as error:
        raise ConfigError(f"no channel can be opened with this: {error}", field="ota") from None
    return reach
