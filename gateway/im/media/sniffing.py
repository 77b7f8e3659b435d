"""What a file is by its first bytes; must never believe its name or what its sender says.

A file that is several things at once is what its first bytes say, and is served as that and nothing else.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable

#: so many bytes are enough
HEAD_BYTES = 4_096

TEXT = "text/plain"
PICTURES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})

_STARTS = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"fLaC", "audio/flac"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
)
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
_BRANDS = {
    b"qt  ": "video/quicktime",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heic",
    b"avif": "image/avif",
    b"avis": "image/avif",
}
#: other brands that are MP4 (ISO 14496-12 and -14, 3GPP)
_MP4 = (b"iso", b"mp4", b"avc", b"M4V", b"3gp", b"3g2", b"dash", b"msnv", b"cmf", b"f4v")
_OGG_SOUND = (b"OpusHead", b"\x01vorbis", b"\x7fFLAC", b"Speex   ")


def sniff(head: bytes) -> str:
    """The type of a file from its first HEAD_BYTES; empty where none of them is known: it may still be text."""
    for start, mime in _STARTS:
        if head.startswith(start):
            return mime
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12], "")
    if head.startswith(b"OggS"):
        return "audio/ogg" if any(mark in head[:128] for mark in _OGG_SOUND) else "video/ogg"
    if head[4:8] == b"ftyp":
        return _sniff_mp4(head)
    if head.startswith(b"\x1aE\xdf\xa3"):
        return _sniff_ebml(head)
    return _sniff_mpeg(head)


def _sniff_mp4(head: bytes) -> str:
    brand = head[8:12]
    if brand in _BRANDS:
        return _BRANDS[brand]
    return "video/mp4" if brand.startswith(_MP4) else ""


def _sniff_ebml(head: bytes) -> str:
    # DocType, ID 0x4282, size in one byte
    at = head.find(b"\x42\x82", 4, 64)
    if at < 0 or at + 2 >= len(head):
        return ""
    doctype = head[at + 3 : at + 3 + (head[at + 2] & 0x7F)].rstrip(b"\0")
    return {b"webm": "video/webm", b"matroska": "video/x-matroska"}.get(doctype, "")


#: bits a second in steps of 1,000 by version (1, or 2 and 2.5) and index, layer III
_BITRATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_RATES = (44_100, 48_000, 32_000)


def _sniff_mpeg(head: bytes) -> str:
    if head.startswith(b"ID3") and len(head) >= 10 and head[3] < 5 and not any(byte & 0x80 for byte in head[6:10]):
        return "audio/mpeg"
    if len(head) >= 7 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS
        return "audio/aac" if _adts_length(head) >= 7 else ""
    length = _frame_length(head)
    # two frames, one behind the other: two bytes alone are too easily something else
    return "audio/mpeg" if length and _frame_length(head[length:]) else ""


def _adts_length(head: bytes) -> int:
    return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5


def _frame_length(head: bytes) -> int:
    """Of the MPEG audio layer III frame that begins here; 0: there is none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, index, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or index in (0, 15) or rate == 3:
        return 0
    is_first = version == 3
    samples = 144 if is_first else 72
    hertz = _RATES[rate] // (1 if is_first else 2 if version == 2 else 4)
    return samples * _BITRATES[not is_first][index] * 1_000 // hertz + (head[2] >> 1 & 1)


_CONTROLS = frozenset(range(32)) - {9, 10, 12, 13} | {127}
_NOT_CONTROLS = bytes(byte for byte in range(256) if byte not in _CONTROLS)
_HIGH_CONTROLS = re.compile("[\x80-\x9f]")


def is_text(pieces: Iterable[bytes]) -> bool:
    """UTF-8 throughout, without controls but tab, line feed, form feed and carriage return; and not empty."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_empty = True
    try:
        for piece in pieces:
            is_empty = is_empty and not piece
            if piece.translate(None, _NOT_CONTROLS):
                return False
            if _HIGH_CONTROLS.search(decoder.decode(piece)):
                return False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return not is_empty
