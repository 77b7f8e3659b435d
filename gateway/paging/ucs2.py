"""UCS-2 as short messages carry it, which is UTF-16 big-endian today; must never cut a surrogate pair.

Source: 3GPP TS 23.038 §6.2.3.
"""

from __future__ import annotations


def build_units(text: str) -> bytes:
    """Two bytes a unit. A lone surrogate, which is no character, becomes U+FFFD."""
    return text.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace").encode("utf-16-be")


def parse_units(units: bytes) -> str:
    """The text of any bytes; what is no character is U+FFFD."""
    return units.decode("utf-16-be", "replace")


def split_units(units: bytes, size_bytes: int) -> list[bytes]:
    """Pieces of at most `size_bytes`; a pair stays whole."""
    size_bytes -= size_bytes % 2
    if size_bytes < 4:
        raise ValueError("a piece has to hold two units at least")
    pieces: list[bytes] = []
    at = 0
    while at < len(units):
        end = min(at + size_bytes, len(units))
        # the last unit is the first half of a pair: D800 to DBFF
        if end < len(units) and units[end - 2] & 0xFC == 0xD8:
            end -= 2
        pieces.append(units[at:end])
        at = end
    return pieces
