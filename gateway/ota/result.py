"""What a terminal says of a proactive command (tag 03), and what follows from it for a card's capability (E4, E6); must
never call a terminal incapable for what may pass.

Source: ETSI TS 102 223 §8.12.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from gateway.ota.malformed import Malformed
from gateway.ota.tlv import Tlv

TAG_RESULT = 0x03


class General(IntEnum):
    """General results that have a meaning of their own here."""

    PERFORMED = 0x00
    PARTIAL = 0x01
    MISSING_INFORMATION = 0x02
    MODIFIED = 0x07
    TERMINATED_BY_USER = 0x10
    NO_RESPONSE = 0x12
    TERMINAL_BUSY = 0x20
    NETWORK_BUSY = 0x21
    USER_REFUSED = 0x22
    BEYOND_CAPABILITIES = 0x30
    TYPE_NOT_UNDERSTOOD = 0x31
    DATA_NOT_UNDERSTOOD = 0x32
    NUMBER_NOT_KNOWN = 0x33
    SMS_RP_ERROR = 0x35
    VALUES_MISSING = 0x36
    BEARER = 0x3A


class Bearer(IntEnum):
    """What is behind a 3A (§8.12.11)."""

    NO_CAUSE = 0x00
    NO_CHANNEL = 0x01
    CHANNEL_CLOSED = 0x02
    CHANNEL_INVALID = 0x03
    BUFFER_TOO_SMALL = 0x04
    SECURITY = 0x05
    TRANSPORT_LEVEL = 0x06
    UNREACHABLE = 0x07
    SERVICE_ERROR = 0x08
    SERVICE_UNKNOWN = 0x09
    PORT = 0x10
    LAUNCH_PARAMETERS = 0x11
    LAUNCH_FAILED = 0x12


class Meaning(Enum):
    DONE = "done"
    #: 1X, 2X, and a bearer that may be there another time
    RETRY = "retry"
    #: the terminal does not know the command, or cannot do it
    NOT_CAPABLE = "not_capable"
    #: what was asked for is wrong for this terminal: bearer, address, transport
    PARAMETERS = "parameters"


_NOT_CAPABLE = (General.BEYOND_CAPABILITIES, General.TYPE_NOT_UNDERSTOOD, General.DATA_NOT_UNDERSTOOD)
_WRONG = (Bearer.SECURITY, Bearer.TRANSPORT_LEVEL, Bearer.LAUNCH_PARAMETERS, Bearer.CHANNEL_INVALID)


@dataclass(frozen=True, slots=True)
class Result:
    #: a General; a number without a name is kept
    general: int
    additional: bytes = b""

    @property
    def meaning(self) -> Meaning:
        if self.general < 0x10:
            return Meaning.DONE
        if self.general in _NOT_CAPABLE:
            return Meaning.NOT_CAPABLE
        if self.general < 0x30:
            return Meaning.RETRY
        if self.general == General.BEARER:
            return Meaning.PARAMETERS if self.additional[:1] and self.additional[0] in _WRONG else Meaning.RETRY
        return Meaning.PARAMETERS

    def build(self) -> Tlv:
        return Tlv(TAG_RESULT, bytes((self.general,)) + self.additional, required=True)


def parse_result(value: bytes) -> Result:
    """Malformed."""
    if not value:
        raise Malformed("a result has at least one byte")
    return Result(value[0], value[1:])
