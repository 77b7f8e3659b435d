"""What a terminal says that it can do (TERMINAL PROFILE), and the APDUs between it and its card; must never stand for a
proof: a terminal may say more than it does, so capability is a link that opened (E4).

Source: ETSI TS 102 223 §5.2 (bits), ETSI TS 102 221 §11.2 (APDUs).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from gateway.ota.malformed import Malformed

_CLASS = 0x80
_BYTES = 17


class Instruction(IntEnum):
    TERMINAL_PROFILE = 0x10
    FETCH = 0x12
    TERMINAL_RESPONSE = 0x14
    ENVELOPE = 0xC2


@dataclass(frozen=True, slots=True)
class TerminalProfile:
    sms_pp: bool = False
    send_short_message: bool = False
    local_information: bool = False
    event_list: bool = False
    data_available: bool = False
    channel_status_event: bool = False
    #: OPEN CHANNEL, CLOSE CHANNEL, RECEIVE DATA, SEND DATA, GET CHANNEL STATUS: all or nothing here
    channel_commands: bool = False
    gprs: bool = False
    #: 0 to 7
    channels: int = 0
    tcp: bool = False
    udp: bool = False
    eutran: bool = False

    @property
    def says_udp(self) -> bool:
        """It says that a card can open a channel over UDP and hear what comes in."""
        return self.channel_commands and self.data_available and self.udp and self.channels > 0


#: (byte, bit), both counted from 1 as the specification does
_BITS = {
    "sms_pp": (1, 2),
    "send_short_message": (4, 2),
    "local_information": (4, 7),
    "event_list": (5, 1),
    "data_available": (6, 3),
    "channel_status_event": (6, 4),
    "gprs": (13, 2),
    "tcp": (17, 1),
    "udp": (17, 2),
    "eutran": (17, 7),
}
_COMMANDS_BYTE, _COMMANDS = 12, 0x1F
_CHANNELS_BYTE = 13


def build_profile(profile: TerminalProfile) -> bytes:
    """ValueError."""
    if not 0 <= profile.channels <= 7:
        raise ValueError("a terminal has 0 to 7 channels")
    out = bytearray(_BYTES)
    for name, (byte, bit) in _BITS.items():
        out[byte - 1] |= getattr(profile, name) << (bit - 1)
    if profile.channel_commands:
        out[_COMMANDS_BYTE - 1] |= _COMMANDS
    out[_CHANNELS_BYTE - 1] |= profile.channels << 5
    return bytes(out)


def parse_profile(data: bytes) -> TerminalProfile:
    """A byte that is not there is 0 (§5.2): any bytes are a profile."""
    whole = data[:_BYTES].ljust(_BYTES, b"\0")
    bits = {name: bool(whole[byte - 1] >> (bit - 1) & 1) for name, (byte, bit) in _BITS.items()}
    return TerminalProfile(
        channel_commands=whole[_COMMANDS_BYTE - 1] & _COMMANDS == _COMMANDS,
        channels=whole[_CHANNELS_BYTE - 1] >> 5,
        **bits,
    )


def build_apdu(instruction: Instruction, data: bytes = b"") -> bytes:
    """To the card. FETCH has no data, and the length that is wanted, 0 for 256, in its place. ValueError past 255
    bytes."""
    if len(data) > 0xFF:
        raise ValueError("an APDU has at most 255 bytes of data")
    return bytes((_CLASS, instruction, 0, 0, len(data))) + data


def parse_apdu(apdu: bytes) -> tuple[Instruction, bytes]:
    """The card's side. Malformed."""
    if len(apdu) < 5 or apdu[0] != _CLASS or apdu[1] not in list(Instruction) or apdu[2:4] != b"\0\0":
        raise Malformed("not an APDU of the card application toolkit")
    instruction = Instruction(apdu[1])
    if len(apdu) - 5 != (0 if instruction is Instruction.FETCH else apdu[4]):
        raise Malformed("the APDU is not as long as it says")
    return instruction, apdu[5:]
