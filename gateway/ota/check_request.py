"""A card's word that it is in another terminal: its check request (E1), the user data of a short message; must never
be believed before its check was looked at, nor show whose it is.

The format is this project's own, for none is standard: an applet sends it, so an issuer writes it into the card.

    48 47 01 | ICCID, 10 bytes | CC, 8 bytes

- `48 47` says what it is, `01` which version.
- The ICCID is the user id of E1, as EF_ICCID holds it (ETSI TS 102 221 §13.2): two digits a byte, the first one in the
  low half, F behind the last. `8944…01` is 98 44 … 10.
- The CC is the cryptographic checksum of ETSI TS 102 225 §5.1.3 (AES CMAC or the MAC of 3DES, 8 bytes) over the 13
  bytes before it, with the KID of the key set that protects the card's messages. No secured packet is mistaken for one:
  what its CC covers begins with a length, and none is as long as 48 47 would say in so few bytes.

It has no counter, for a card that lost its terminal may have nothing but this. Who heard one may send it again, and
gets the card asked again: `ota.checks_per_hour` bounds that, and nothing is concluded from a request alone.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.ota.malformed import Malformed
from gateway.ota.packet_security import CC_BYTES, Check, Keys

MAGIC = b"\x48\x47"
VERSION = 1
ICCID_BYTES = 10
#: an ICCID is 18 to 20 digits long (ITU-T E.118: 19 at most; some networks leave the last one out, some add one)
LEAST_DIGITS, MOST_DIGITS = 18, 20
_CHECKED_BYTES = len(MAGIC) + 1 + ICCID_BYTES
REQUEST_BYTES = _CHECKED_BYTES + CC_BYTES
_FILLER = 0xF


class CheckRequest(NamedTuple):
    """`iccid` is what it claims; `is_genuine` says whether to believe it."""

    iccid: str
    check: bytes

    def __repr__(self) -> str:
        return "CheckRequest(hidden)"

    def is_genuine(self, keys: Keys) -> bool:
        """Whether who sent it has this key."""
        return keys.is_check(Check.CC, _build_checked(self.iccid), self.check)


def build_iccid(digits: str) -> bytes:
    """As EF_ICCID holds it. ValueError where it is none."""
    if not LEAST_DIGITS <= len(digits) <= MOST_DIGITS or not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"an ICCID has {LEAST_DIGITS} to {MOST_DIGITS} digits")
    nibbles = [int(digit) for digit in digits] + [_FILLER] * (2 * ICCID_BYTES - len(digits))
    return bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))


def parse_iccid(data: bytes) -> str:
    """Its digits. Malformed: a half that is no digit, or digits behind a filler."""
    if len(data) != ICCID_BYTES:
        raise Malformed(f"an ICCID has {ICCID_BYTES} bytes")
    nibbles = [nibble for byte in data for nibble in (byte & 0xF, byte >> 4)]
    while nibbles and nibbles[-1] == _FILLER:
        nibbles.pop()
    if len(nibbles) < LEAST_DIGITS or any(nibble > 9 for nibble in nibbles):
        raise Malformed("an ICCID has 18 to 20 digits, then fillers")
    return "".join(map(str, nibbles))


def _build_checked(iccid: str) -> bytes:
    return MAGIC + bytes((VERSION,)) + build_iccid(iccid)


def build_check_request(iccid: str, keys: Keys) -> bytes:
    """As the card sends it. ValueError where `iccid` is none."""
    checked = _build_checked(iccid)
    return checked + keys.build_check(Check.CC, checked)


def parse_check_request(user_data: bytes) -> CheckRequest:
    """Not yet believed. Malformed."""
    if len(user_data) != REQUEST_BYTES or not user_data.startswith(MAGIC):
        raise Malformed("not a check request")
    if user_data[len(MAGIC)] != VERSION:
        raise Malformed("a check request of another version")
    iccid = parse_iccid(user_data[len(MAGIC) + 1 : _CHECKED_BYTES])
    return CheckRequest(iccid, user_data[_CHECKED_BYTES:])
