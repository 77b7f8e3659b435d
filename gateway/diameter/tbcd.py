"""MSISDNs as Diameter carries them: two digits a byte, the first in the low half (TS 29.329 §6.3.2); must never repeat
a number in an error."""

from __future__ import annotations

from gateway.diameter.avps import Malformed

MOST_DIGITS = 15


def build_tbcd(digits: str) -> bytes:
    """Of 1 to 15 decimal digits; ValueError otherwise."""
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= MOST_DIGITS):
        raise ValueError("no number")
    padded = digits + "f" * (len(digits) % 2)
    return bytes(int(padded[at + 1] + padded[at], 16) for at in range(0, len(padded), 2))


def parse_tbcd(data: bytes) -> str:
    """Malformed where it is none."""
    swapped = "".join(f"{byte & 0xF:x}{byte >> 4:x}" for byte in data[: MOST_DIGITS // 2 + 2])
    digits = swapped.removesuffix("f")
    if not digits.isdecimal() or len(digits) > MOST_DIGITS:
        raise Malformed("a MSISDN is no number", 5004)
    return digits
