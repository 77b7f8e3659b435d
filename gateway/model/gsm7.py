"""The GSM 7-bit default alphabet and its extension, as tables; the codec is gateway.paging.gsm7. Must hold no text.

Source: 3GPP TS 23.038 §6.2.1 (default alphabet) and §6.2.1.1 (its extension).
"""

from __future__ import annotations

ESCAPE = 0x1B
#: §6.2.1; the place of a character is its code. The escape itself stands for no character
ALPHABET = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
#: §6.2.1.1; each takes two septets, the escape and this one
EXTENSION = {
    0x0A: "\f",
    0x14: "^",
    0x28: "{",
    0x29: "}",
    0x2F: "\\",
    0x3C: "[",
    0x3D: "~",
    0x3E: "]",
    0x40: "|",
    0x65: "€",
}


def count_septets(text: str) -> int | None:
    """Septets of a text; None where a character is in neither table."""
    found = 0
    for char in text:
        if char in _TWO:
            found += 2
        elif char in _ONE:
            found += 1
        else:
            return None
    return found


_ONE = frozenset(ALPHABET) - {chr(ESCAPE)}
_TWO = frozenset(EXTENSION.values())
