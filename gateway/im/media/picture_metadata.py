"""Pictures without what they tell of their maker: place, camera, texts and whatever lies behind the picture's end;
bytes in, bytes out, pixels are never decoded and never change.

What is kept is listed, the rest goes. Of Exif only the orientation stays, written anew. Whatever is not well-formed is
refused: nothing is mended.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

Pieces = list[memoryview | bytes]


class Malformed(Exception):
    """It is not a whole picture of its kind; the text says what is wrong, without a byte of it."""


class Stripped(NamedTuple):
    pieces: Pieces
    #: as stored: before the orientation
    width: int
    height: int
    frames: int
    #: of its largest frame, and of all of them together
    frame_pixels: int
    pixels: int
    #: 1 to 8, as in Exif
    orientation: int = 1

    @property
    def shown(self) -> tuple[int, int]:
        """(width, height) as a person sees it."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def strip(mime: str, raw: memoryview) -> Stripped:
    """Malformed."""
    try:
        stripped = _FORMATS[mime](raw)
    except (struct.error, IndexError):
        raise Malformed("it ends too early") from None
    if stripped.width <= 0 or stripped.height <= 0:
        raise Malformed("it has no size")
    return stripped


def _take(raw: memoryview, at: int, size: int) -> memoryview:
    if size < 0 or at + size > len(raw):
        raise Malformed("it ends too early")
    return raw[at : at + size]


# --- Exif --------------------------------------------------------------------------------------------------------

_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_SHORT = 3


def parse_orientation(tiff: bytes) -> int:
    """Of the first image file directory; 1 where it is not said or not readable."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(tiff[:2]))
    if order is None or len(tiff) < 8:
        return 1
    (at,) = struct.unpack_from(order + "I", tiff, 4)
    if at + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(order + "H", tiff, at)
    for index in range(min(count, (len(tiff) - at - 2) // 12)):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, at + 2 + 12 * index)
        if tag == _ORIENTATION:
            return value if kind == _SHORT and 1 <= value <= 8 else 1
    return 1


def build_orientation(orientation: int) -> bytes:
    """A TIFF structure that says this and nothing else."""
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, _ORIENTATION, _SHORT, 1, orientation, 0, 0)


# --- JPEG --------------------------------------------------------------------------------------------------------

_SOI, _EOI, _SOS, _TEM, _COM = 0xD8, 0xD9, 0xDA, 0x01, 0xFE
_APP0, _APP1, _APP2, _APP14, _APP15 = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF
_STARTS_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: of JFIF's segment where it has no small picture in it: that could show what was cut away
_JFIF_BYTES = 14
#: a marker in coded data: neither a stuffed byte nor a restart
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


def _strip_jpeg(raw: memoryview) -> Stripped:
    out: Pieces = [_take(raw, 0, 2)]
    at, orientation, width, height, is_ended, has_scan = 2, 1, 0, 0, False, False
    while not is_ended:
        while raw[at + 1] == 0xFF:  # fill bytes
            at += 1
        if raw[at] != 0xFF:
            raise Malformed("a marker is missing")
        marker = raw[at + 1]
        if marker in (_EOI, _TEM, _SOI) or 0xD0 <= marker <= 0xD7:
            if marker == _SOI:
                raise Malformed("it begins twice")
            out.append(raw[at : at + 2])
            at += 2
            is_ended = marker == _EOI
            continue
        (size,) = struct.unpack_from(">H", raw, at + 2)
        segment = _take(raw, at, 2 + max(2, size))
        body = segment[4:]
        if marker in _STARTS_OF_FRAME:
            if width:
                raise Malformed("it has two frames")
            height, width = struct.unpack_from(">HH", body, 1)
        if marker == _APP1 and bytes(body[:6]) == _EXIF:
            orientation = parse_orientation(bytes(body[6:]))
        if _is_kept(marker, body):
            out.append(segment)
        at += len(segment)
        if marker == _SOS:
            has_scan = True
            found = _MARKER.search(raw, at)
            if found is None:
                raise Malformed("it ends too early")
            out.append(raw[at : found.start()])
            at = found.start()
    if not has_scan:
        raise Malformed("there is no picture in it")
    if orientation != 1:
        exif = _EXIF + build_orientation(orientation)
        # behind JFIF's own segment, which comes first where there is one
        is_first = len(out) > 1 and len(out[1]) > 1 and out[1][1] == _APP0
        out.insert(1 + is_first, bytes((0xFF, _APP1)) + struct.pack(">H", 2 + len(exif)) + exif)
    return Stripped(out, width, height, 1, width * height, width * height, orientation)


def _is_kept(marker: int, body: memoryview) -> bool:
    if marker == _COM:
        return False
    if _APP0 <= marker <= _APP15:
        start = bytes(body[:12])
        return (
            (marker == _APP0 and start.startswith(b"JFIF\0") and len(body) == _JFIF_BYTES)
            or (marker == _APP2 and start == b"ICC_PROFILE\0")
            or (marker == _APP14 and start.startswith(b"Adobe"))
        )
    return True


# --- PNG ---------------------------------------------------------------------------------------------------------

#: APNG's among them
_PNG_KEPT = frozenset(
    name.encode()
    for name in (
        *("IHDR", "PLTE", "IDAT", "IEND", "tRNS", "cHRM", "gAMA", "iCCP", "sBIT", "sRGB", "bKGD", "pHYs", "hIST"),
        *("cICP", "acTL", "fcTL", "fdAT"),
    )
)
_PNG_START = 8


def _strip_png(raw: memoryview) -> Stripped:
    out: Pieces = [_take(raw, 0, _PNG_START)]
    at, orientation, width, height, frames, pixels, largest = _PNG_START, 1, 0, 0, 0, 0, 0
    has_data = False
    while True:
        (size,) = struct.unpack_from(">I", raw, at)
        chunk = _take(raw, at, 12 + size)
        kind, body = bytes(chunk[4:8]), chunk[8:-4]
        if not width and kind != b"IHDR":
            raise Malformed("its header is missing")
        if kind == b"IHDR":
            if width or size != 13:
                raise Malformed("its header is wrong")
            width, height = struct.unpack_from(">II", body)
            if not width:
                raise Malformed("it has no size")
        elif kind == b"eXIf":
            orientation = parse_orientation(bytes(body))
        elif kind == b"fcTL":
            frame_width, frame_height = struct.unpack_from(">II", body, 4)
            frames += 1
            pixels += frame_width * frame_height
            largest = max(largest, frame_width * frame_height)
        elif kind not in _PNG_KEPT and not kind[0] & 0x20:
            raise Malformed("a part of it is not known")
        has_data = has_data or kind == b"IDAT"
        if kind == b"IEND":
            break
        if kind in _PNG_KEPT:
            out.append(chunk)
        at += len(chunk)
    if not has_data:
        raise Malformed("there is no picture in it")
    if orientation != 1:
        exif = build_orientation(orientation)
        out.append(struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif)))
    out.append(chunk)
    whole = width * height
    return Stripped(out, width, height, max(1, frames), max(whole, largest), max(whole, pixels), orientation)


# --- GIF ---------------------------------------------------------------------------------------------------------

_GIF_IMAGE, _GIF_EXTENSION, _GIF_END = 0x2C, 0x21, 0x3B
_GIF_CONTROL, _GIF_APPLICATION = 0xF9, 0xFF
#: how often it is shown; others carry texts
_GIF_LOOPS = frozenset({b"NETSCAPE2.0", b"ANIMEXTS1.0"})


def _strip_gif(raw: memoryview) -> Stripped:
    width, height = struct.unpack_from("<HH", raw, 6)
    at = 13 + _table_size(raw[10])
    out: Pieces = [_take(raw, 0, at)]
    frames = pixels = largest = 0
    while raw[at] != _GIF_END:
        start = at
        if raw[at] == _GIF_IMAGE:
            frame_width, frame_height = struct.unpack_from("<HH", raw, at + 5)
            frames += 1
            pixels += frame_width * frame_height
            largest = max(largest, frame_width * frame_height)
            at = _skip_blocks(raw, at + 10 + _table_size(raw[at + 9]) + 1)
            out.append(raw[start:at])
        elif raw[at] == _GIF_EXTENSION:
            label = raw[at + 1]
            is_loop = label == _GIF_APPLICATION and bytes(raw[at + 3 : at + 14]) in _GIF_LOOPS
            at = _skip_blocks(raw, at + 2)
            if label == _GIF_CONTROL or is_loop:
                out.append(raw[start:at])
        else:
            raise Malformed("a block of it is not known")
    if not frames:
        raise Malformed("there is no picture in it")
    out.append(raw[at : at + 1])
    whole = width * height
    return Stripped(out, width, height, frames, max(whole, largest), max(whole, pixels))


def _table_size(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip_blocks(raw: memoryview, at: int) -> int:
    while size := raw[at]:
        at += 1 + size
    return at + 1


# --- WebP --------------------------------------------------------------------------------------------------------

_WEBP_KEPT = frozenset({b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP"})
_WEBP_FRAME_KEPT = frozenset({b"VP8 ", b"VP8L", b"ALPH"})
_HAS_EXIF, _HAS_XMP = 0x08, 0x04
_FRAME_HEAD = 16


def _strip_webp(raw: memoryview) -> Stripped:
    (declared,) = struct.unpack_from("<I", raw, 4)
    body = _take(raw, 12, declared - 4)
    out: Pieces = []
    orientation, width, height, frames, pixels, largest = 1, 0, 0, 0, 0, 0
    extended = -1
    for kind, data in _chunks(body):
        if kind == b"VP8X":
            if out:
                raise Malformed("its header is not first")
            extended = 0
            width, height = _u24(data, 4) + 1, _u24(data, 7) + 1
            data = memoryview(bytes((data[0] & ~(_HAS_EXIF | _HAS_XMP),)) + bytes(data[1:]))
        elif kind == b"EXIF":
            tiff = bytes(data)
            orientation = parse_orientation(tiff.removeprefix(_EXIF))
        elif kind == b"ANMF":
            frame = (_u24(data, 6) + 1) * (_u24(data, 9) + 1)
            frames, pixels, largest = frames + 1, pixels + frame, max(largest, frame)
            inside = _join(
                [(part, content) for part, content in _chunks(data[_FRAME_HEAD:]) if part in _WEBP_FRAME_KEPT]
            )
            for part, content in _chunks(data[_FRAME_HEAD:]):
                if part in (b"VP8 ", b"VP8L"):
                    own_width, own_height = _webp_size(part, content)
                    largest = max(largest, own_width * own_height)
            data = memoryview(b"".join([data[:_FRAME_HEAD], *inside]))
        elif kind in (b"VP8 ", b"VP8L"):
            own_width, own_height = _webp_size(kind, data)
            width, height = width or own_width, height or own_height
            largest = max(largest, own_width * own_height)
            frames, pixels = frames + 1, pixels + own_width * own_height
        if kind in _WEBP_KEPT:
            out.extend(_join([(kind, data)]))
    if not frames:
        raise Malformed("there is no picture in it")
    if orientation != 1 and extended == 0:
        head = bytearray(out[1])
        head[0] |= _HAS_EXIF
        out[1] = bytes(head)
        out.extend(_join([(b"EXIF", memoryview(build_orientation(orientation)))]))
    else:
        orientation = 1
    size = 4 + sum(len(piece) for piece in out)
    out[:0] = [b"RIFF" + struct.pack("<I", size) + b"WEBP"]
    whole = width * height
    return Stripped(out, width, height, frames, max(whole, largest), max(whole, pixels), orientation)


def _chunks(body: memoryview) -> list[tuple[bytes, memoryview]]:
    found, at = [], 0
    while at < len(body):
        (size,) = struct.unpack_from("<I", body, at + 4)
        found.append((bytes(body[at : at + 4]), _take(body, at + 8, size)))
        at += 8 + size + (size & 1)
    return found


def _join(chunks: list[tuple[bytes, memoryview]]) -> Pieces:
    out: Pieces = []
    for kind, data in chunks:
        out += [kind + struct.pack("<I", len(data)), data]
        if len(data) & 1:
            out.append(b"\0")
    return out


def _u24(data: memoryview, at: int) -> int:
    return data[at] | data[at + 1] << 8 | data[at + 2] << 16


def _webp_size(kind: bytes, data: memoryview) -> tuple[int, int]:
    if kind == b"VP8L":
        if data[0] != 0x2F:
            raise Malformed("its header is wrong")
        (bits,) = struct.unpack_from("<I", data, 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if bytes(data[3:6]) != b"\x9d\x01\x2a":
        raise Malformed("its header is wrong")
    width, height = struct.unpack_from("<HH", data, 6)
    return width & 0x3FFF, height & 0x3FFF


_FORMATS: dict[str, Callable[[memoryview], Stripped]] = {
    "image/jpeg": _strip_jpeg,
    "image/png": _strip_png,
    "image/gif": _strip_gif,
    "image/webp": _strip_webp,
}
