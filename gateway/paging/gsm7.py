"""The GSM 7-bit default alphabet: text ↔ septets ↔ packed bytes; must never lose a character silently.

Source: 3GPP TS 23.038 §6.1.2.1 (packing), §6.2.1 (default alphabet) and §6.2.1.1 (its extension). In SMPP a septet
travels as a byte of its own and the SMSC packs; `pack` and `unpack` are what is on the air.
"""

from __future__ import annotations

from gateway.model.gsm7 import ALPHABET, ESCAPE, EXTENSION

_CODES: dict[str, bytes] = {
    **{char: bytes((code,)) for code, char in enumerate(ALPHABET) if code != ESCAPE},
    **{char: bytes((ESCAPE, code)) for code, char in EXTENSION.items()},
}


def build_septets(text: str) -> bytes | None:
    """One byte a septet; None where a character is in neither table, so that the text has to go as UCS-2."""
    try:
        return b"".join([_CODES[char] for char in text])
    except KeyError:
        return None


def parse_septets(septets: bytes) -> str:
    """The text of any bytes, each taken as a septet (its high bit is ignored). An escape before a code that is not in
    the extension shows that code's own character, a second escape a space (§6.2.1.1, notes 1 and 3)."""
    out: list[str] = []
    escaped = False
    for byte in septets:
        code = byte & 0x7F
        if escaped:
            out.append(" " if code == ESCAPE else EXTENSION.get(code, ALPHABET[code]))
            escaped = False
        elif code == ESCAPE:
            escaped = True
        else:
            out.append(ALPHABET[code])
    return "".join(out)


def split_septets(septets: bytes, size: int) -> list[bytes]:
    """Pieces of at most `size` septets; an escape stays with the septet behind it (TS 23.040 §9.2.3.24.1)."""
    pieces: list[bytes] = []
    at = 0
    while at < len(septets):
        end = min(at + size, len(septets))
        # an escape is never the second of a pair here: `build_septets` makes none, so one look back is enough
        if end < len(septets) and septets[end - 1] == ESCAPE:
            end -= 1
        if end == at:
            raise ValueError("a piece has to hold two septets at least")
        pieces.append(septets[at:end])
        at = end
    return pieces


def pack(septets: bytes, header_bytes: int = 0) -> bytes:
    """Septets packed into bytes, the first in the low bits. Behind a header of so many bytes (its length byte included)
    fill bits bring the first septet to a septet boundary (TS 23.040 §9.2.3.24)."""
    fill = -header_bytes * 8 % 7
    bits = 0
    for place, septet in enumerate(septets):
        bits |= (septet & 0x7F) << (fill + 7 * place)
    return bits.to_bytes((fill + 7 * len(septets) + 7) // 8, "little")


def unpack(packed: bytes, count: int, header_bytes: int = 0) -> bytes:
    """`count` septets of what `pack` made; ValueError where there are fewer."""
    fill = -header_bytes * 8 % 7
    if count < 0 or fill + 7 * count > 8 * len(packed):
        raise ValueError("fewer septets than announced")
    bits = int.from_bytes(packed, "little") >> fill
    return bytes([bits >> (7 * place) & 0x7F for place in range(count)])
